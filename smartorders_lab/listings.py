"""Orders and changes of a session, which it gives as plain data, as frames."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import polars as pl

from .times import instant_ns

_TIMES = frozenset({"ts", "created_ts", "entry_ts", "exit_ts", "triggered_ts", "filled_ts"})
_WHOLE = frozenset({"seq", "order", "version", "level", "filled_levels", "held_ns", "tick"})
_NUMBERS = frozenset(
    (
        *(
            "price",
            "size",
            "quantity",
            "stop",
            "water_mark",
            "entry_price",
            "exit_price",
            "fill_price",
            "bought",
            "held",
        ),
        *(
            "dust",
            "realized_pnl",
            "unrealized_pnl",
            "return_",
            "fees",
            "fee",
            "mae",
            "mfe",
            "last",
            "bid",
            "ask",
            "mark",
        ),
    )
)
ORDERS = (
    *("order", "symbol", "side", "tag", "status", "version", "entry_price", "held", "stop", "water_mark"),
    *("realized_pnl", "exit_reason"),
)
"""Columns of a table of orders that are always there."""
EVENTS = (
    *("seq", "ts", "order", "kind", "role", "level", "price", "quantity", "status", "stop", "water_mark", "reason"),
)
"""Columns of a table of changes that are always there."""
SHOWN = 20
"""Orders in the picture of a session."""


def table(rows: Iterable[dict[str, Any]], columns: Iterable[str] = ()) -> pl.DataFrame:
    """Orders or changes, as the protocol has them, as a frame: text of numbers as float64, of times as UTC to the nanosecond.

    `columns` come first and are there also without rows.
    """
    rows = list(rows)
    names = dict.fromkeys([*columns, *(name for row in rows for name in row)])
    data = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name in _TIMES:
            ns = [None if value is None else instant_ns(value) for value in values]
            data[name] = pl.Series(name, ns, pl.Int64).cast(pl.Datetime("ns", "UTC"))
        elif name in _WHOLE:
            data[name] = pl.Series(name, values, pl.Int64)
        elif name in _NUMBERS:
            data[name] = pl.Series(name, [None if value is None else float(value) for value in values], pl.Float64)
        elif name == "levels" and any(isinstance(value, list) for value in values):
            data[name] = pl.Series(name, [_levels(value) for value in values])
        else:
            nested = any(isinstance(value, (dict, list)) for value in values)
            data[name] = pl.Series(name, values) if nested else pl.Series(name, values, pl.String, strict=False)
    return pl.DataFrame(data)


def picture(head: str, orders: Iterable[dict[str, Any]]) -> str:
    """Orders of a session as a small table in HTML: what lives before what is over, the newest before older ones."""
    from .looks import table as drawn

    over = {"CLOSED", "STOPPED", "CANCELLED"}
    rows = sorted(orders, key=lambda order: (order["status"] in over, -order["order"]))
    titles = ("#", "symbol", "side", "status", "entry", "stop", "levels", "held", "P&L realised", "tag")
    lines = [
        (
            *(order[name] for name in ("order", "symbol", "side")),
            order["status"].lower().replace("_", " ")
            + (f" · {order['exit_reason']}" if order["exit_reason"] else "").replace("_", " "),
            *(order[name] or "" for name in ("entry_price", "stop")),
            f"{order['filled_levels']}/{len(order['levels'])}" if order["levels"] else "",
            order["held"],
            f"{float(order['realized_pnl']):+,.6g}" if order["entry_price"] else "",
            order["tag"],
        )
        for order in rows[:SHOWN]
    ]
    notes = [f"{len(rows) - SHOWN:,} more: orders()"] if len(rows) > SHOWN else []
    return drawn(head, lines, titles if lines else (), notes if lines else ["no orders yet"])


def _levels(levels: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Levels of an order with their numbers as floats."""
    if levels is None:
        return None
    return [
        {name: float(value) if name in _NUMBERS and value is not None else value for name, value in level.items()}
        for level in levels
    ]
