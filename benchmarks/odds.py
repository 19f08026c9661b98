"""Odds: how long a user who drags a line waits for the record of the order that it makes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import numpy as np

import smartorders_lab as so
from smartorders_lab.odds import Record
from smartorders_lab.run import money

from . import ours
from .loops import threads
from .scale import Scale
from .table import Row, count, span, within
from .tape import STEP, tape

ENTRIES = 2_000
LIMIT_S = 0.1
_UP = (1.01, 1.02, 1.04)
_LADDER = {"take_profits": [("1%", 40), ("2%", 35), ("4%", 25)], "stop_loss": "2%"}
_FEES = so.FillModel(fee_maker="0.02%", fee_taker="0.05%")


def rows(scale: Scale) -> Iterator[Row]:
    """The first answer, which builds the index; then each shape dragged: every call another order, from its fields to the figures."""
    n = scale.index
    ticks = ours.fresh(tape(n, STEP))
    record = Record(ticks, min(ENTRIES, n // 10), _FEES, workers=threads())
    size = f"{len(record):,} entries × {count(n)} ticks, {threads()} threads"
    calls = 10 * scale.rounds
    first = drag(record, _LADDER, ticks, 0)
    yield Row("odds: first answer", size, span(first), "index and engine included")
    for name, parts in shapes(ticks).items():
        compare(record, spec(parts, ticks, 0), scale.checked)
        times = [drag(record, parts, ticks, k) for k in range(1, calls + 1)]
        middle = median(times)
        said = f"median {span(middle)}, worst of {calls} {span(max(times))}"
        yield within(f"odds: {name}", size, said, middle, LIMIT_S, "≤ 100 ms")


def drag(record: Record, parts: dict[str, Any], ticks: so.Ticks, k: int) -> float:
    """Seconds from what a field says to the figures."""
    before = time.perf_counter()
    odds = record.of(spec(parts, ticks, k))
    seconds = time.perf_counter() - before
    if not odds.entered:
        raise AssertionError("the orders are to enter")
    return seconds


def shapes(ticks: so.Ticks) -> dict[str, dict[str, Any]]:
    """What is asked for, by name; prices stand around the last one."""
    last = ticks.instrument.prices(ticks.price[-1:])[0]
    priced = {"take_profits": [(round(last * up, 2), s) for up, s in zip(_UP, (40, 35, 25), strict=True)]}
    limit = {"entry": so.Entry.limit(round(last * 0.99, 2))}
    return {
        "3 levels + stop": _LADDER,
        "with trailing stop": {**_LADDER, "trailing_stop": "1.5%"},
        "with break-even": {**_LADDER, "break_even": True},
        "trailing take profit": {**_LADDER, "trailing_take_profit": "0.5%"},
        "at prices": {**priced, "stop_loss": round(last * 0.98, 2)},
        "limit entry": {**_LADDER, **limit},
        "limit entry, all at prices": {**priced, **limit, "stop_loss": round(last * 0.97, 2), "break_even": True},
        "limit levels, timeout": {
            "take_profits": [(target, size, "limit") for target, size in _LADDER["take_profits"]],
            "stop_loss": {"target": "2%", "timeout": "10s"},
        },
    }


def spec(parts: dict[str, Any], ticks: so.Ticks, k: int) -> so.SmartOrder:
    """The order after its last level was dragged by `k` steps."""
    *levels, (target, *rest) = parts["take_profits"]
    moved = f"{float(target[:-1]) + k / 100:g}%" if isinstance(target, str) else round(target + k, 2)
    fields = {**parts, "take_profits": [*levels, (moved, *rest)]}
    return so.SmartOrder(symbol=ticks.symbol, side="buy", cost=1000, **fields)


def compare(record: Record, order: so.SmartOrder, checked: int) -> None:
    """Profits of some entries equal those of replay(), of the orders as a user would have written them there."""
    outcomes, instrument = record.outcomes(order)
    some = np.linspace(0, len(record) - 1, min(checked, len(record))).astype(int)
    begin, price = record.entries.cursors[some], record.ticks.price
    orders = [moved(order, int(price[t]), int(price[-1])) for t in begin]
    run = so.replay(orders, record.ticks, begin, _FEES, progress=False)
    if not np.array_equal(money(outcomes, instrument, _FEES)["pnl"][some], run.orders["realized_pnl"].to_numpy()):
        raise AssertionError(f"{order}: the profits differ from those of replay")


def moved(order: so.SmartOrder, here: int, now: int) -> so.SmartOrder:
    """A long at another price (in units): its prices by the same ratio, limits and stop rounded down, levels up, to 0.01."""

    def at(price: Any, up: bool = False) -> Any:
        if isinstance(price, so.Distance):
            return price
        units = round(float(price) * 100) * here
        return f"{(-(-units // now) if up else units // now) / 100:.2f}"

    limit, stop = order.entry.price, order.stop_loss
    return order.replace(
        entry=order.entry if limit is None else so.Entry.limit(at(limit)),
        take_profits=[(at(level.target, up=True), level.size, level.kind) for level in order.take_profits],
        stop_loss=so.StopLoss(target=at(stop.target), timeout=stop.timeout),
    )
