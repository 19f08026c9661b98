"""Shadow: each order of a live session beside itself on paper, leg by leg: what the exchange made of it, and what replay would have.

On paper the order lives over the ticks that the session has seen, with what the user did to it, filled at once at the price that is
there and with the fees of the session's fill model. Nothing of it has to run beside: paper and replay are the same to the byte.
"""

from __future__ import annotations

import json
from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from .errors import DataError
from .fields import plain
from .life import life_of
from .messages import Report, What
from .rows import Kind, Role

if TYPE_CHECKING:
    from .session import Session

_KEY = ["role", "level"]


def shadow(session: Session, oid: int | None = None) -> pl.DataFrame:
    """One row for each leg that was filled, in the session or on paper: `order`, `role`, `level`; `quantity`, `price` (average) and `ts` of
    its last fill, and `paper_…` the same on paper; `worse` (a fraction: how much worse than on paper the price was; negative: better),
    `delay_ns` (how much later), `fees` as the exchange took them (JSON: currency and amount; null where it has not said), and `paper_fee`
    in quote currency. Of an order whose ticks the session has let go of paper is null. Raises ActionError for an order that is not there.
    """
    heard = _heard(session)
    frames = []
    for number in [*session.book.specs] if oid is None else [oid]:
        side = 1 if session.order(number)["side"] == "buy" else -1
        real = _filled(session, number, heard.get(number, []))
        try:
            life = life_of(session, number)
            made = life.again(life.order, keep=True).fills
        except DataError:
            made = pl.DataFrame(schema=PAPER)
        paper = (
            made.group_by(_KEY, maintain_order=True)
            .agg(
                paper_quantity=pl.col("quantity").sum(),
                paper_price=(pl.col("price") * pl.col("quantity")).sum() / pl.col("quantity").sum(),
                paper_ts=pl.col("ts").max(),
                paper_fee=pl.col("fee").sum(),
            )
            .with_columns(pl.col("level").cast(pl.Int64))
        )
        both = real.join(paper, on=_KEY, how="full", coalesce=True).with_columns(order=pl.lit(number, pl.Int64))
        sold = ~pl.col("role").is_in(_OPENS)
        sign = pl.when(sold).then(-side).otherwise(side)
        frames.append(
            both.with_columns(
                worse=sign * (pl.col("price") / pl.col("paper_price") - 1),
                delay_ns=(pl.col("ts") - pl.col("paper_ts")).dt.total_nanoseconds(),
            ).select(COLUMNS)
        )
    return pl.concat(frames) if frames else pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.Null()))


_OPENS = [Role.ENTRY.name.lower(), Role.ADD_FUNDS.name.lower()]
COLUMNS = (
    *("order", "role", "level", "quantity", "paper_quantity", "price", "paper_price", "worse"),
    *("ts", "paper_ts", "delay_ns", "fees", "paper_fee"),
)
_TS = pl.Datetime("ns", "UTC")
PAPER: dict[str, Any] = {
    "role": pl.String,
    "level": pl.Int32,
    "quantity": pl.Float64,
    "price": pl.Float64,
    "ts": _TS,
    "fee": pl.Float64,
}
_REAL: dict[str, Any] = {
    "role": pl.String,
    "level": pl.Int64,
    "quantity": pl.Float64,
    "price": pl.Float64,
    "ts": _TS,
    "fees": pl.String,
}


def _heard(session: Session) -> dict[int, list[Report]]:
    """Every fill that the broker has reported of each order, as far as the journal still has it."""
    found: dict[int, dict[tuple[int, str], Report]] = defaultdict(dict)
    for _, kind, body in session.journal.entries():
        if kind in ("said", "report"):
            data = json.loads(body)
            order, child, reports = data[0], data[1], data[4] if kind == "said" else data[2]
            for report in (Report(*each) for each in reports):
                if report.what == What.FILLED:
                    found[order].setdefault((child, report.fill_id), report)
    return {order: [*reports.values()] for order, reports in found.items()}


def _filled(session: Session, number: int, heard: list[Report]) -> pl.DataFrame:
    """The legs of one order as they were filled."""
    instrument = session.book.markets[session.book.specs[number].symbol].instrument
    events = session.journal.events(order=number)
    legs: dict[tuple[int, int], list[Any]] = defaultdict(lambda: [0, 0, 0, {}])
    for event in events[events["kind"] == Kind.FILLED]:
        price, quantity = int(event["price"]), int(event["quantity"])
        leg = legs[int(event["role"]), int(event["level"])]
        leg[:3] = leg[0] + quantity, leg[1] + price * quantity, max(leg[2], int(event["ts"]))
        report = next((report for report in heard if (report.price, report.quantity) == (price, quantity)), None)
        if report is not None:
            heard.remove(report)
        if report is None or not report.fees:
            leg[3] = None
        elif leg[3] is not None:
            for coin, amount in report.fees:
                leg[3][coin] = leg[3].get(coin, Decimal(0)) + Decimal(amount)
    rows = [
        {
            "role": Role(role).name.lower(),
            "level": level,
            "quantity": float(instrument.quantity(quantity)),
            "price": float(instrument.prices(np.array([cost / quantity]))[0]),
            "ts": ts,
            "fees": None if fees is None else json.dumps({coin: plain(amount) for coin, amount in fees.items()}),
        }
        for (role, level), (quantity, cost, ts, fees) in legs.items()
    ]
    return pl.DataFrame(rows, schema=_REAL | {"ts": pl.Int64}).with_columns(pl.col("ts").cast(_TS))
