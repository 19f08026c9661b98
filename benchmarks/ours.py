"""Our side of the work: the public calls, and the evaluator alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

import smartorders_lab as so
from smartorders_lab.outcomes import Evaluator

from .loops import REASONS, Shape, threads
from .tape import tick_of

UNIT = 0.01 * 0.001  # of profit: price increment times quantity increment


def replay(shapes: Shape | Sequence[Shape], ticks: so.Ticks, starts: np.ndarray, use_index: bool = True) -> so.Run:
    """One shape for all starts, or one each; equal shapes are one spec, as a user would write it."""
    specs: dict[Shape, so.SmartOrder] = {}
    many = [shapes] * len(starts) if isinstance(shapes, Shape) else shapes
    orders = [specs.get(shape) or specs.setdefault(shape, shape.spec()) for shape in many]
    return so.replay(orders, ticks, starts=starts, progress=False, use_index=use_index, workers=threads())


def sweep_one(shape: Shape, ticks: so.Ticks, starts: np.ndarray) -> Any:
    """One combination at all starts: what became of each order, as the loops give it, without its events."""
    return so.sweep(shape.spec(), ticks, entries=starts, workers=threads(), progress=False)


def evaluator(shapes: Sequence[Shape], ticks: so.Ticks, starts: np.ndarray) -> Any:
    """What sweep() and the panel's odds are made of, with every spec read and lowered: a function that gives rows of OUTCOME."""
    made = Evaluator([shape.spec() for shape in shapes], ticks, ticks.ts[starts], starts, so.FillModel())
    return lambda: next(made.blocks(len(shapes) * len(starts), threads())).rows


def profit(rows: Any) -> np.ndarray:
    """Profit in units of rows of OUTCOME, where no order is open."""
    return np.asarray(rows.side * (rows.proceeds - rows.cost))


def outcome(orders: pl.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Exit tick (−1: none), reason and profit in units of each row of `run.orders`, as the loops give them."""
    ts = orders["exit_ts"].dt.epoch("ns")
    exits = np.where(ts.is_null(), -1, tick_of(ts.fill_null(0).to_numpy()))
    reasons = np.array([REASONS[reason] for reason in orders["exit_reason"]])
    return exits, reasons, np.rint(orders["realized_pnl"].to_numpy() / UNIT).astype(np.int64)


def same(ours: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> None:
    """Exit tick, reason and profit are equal, order by order."""
    for name, a, b in zip(("exit tick", "reason", "profit"), ours, reference, strict=True):
        wrong = np.flatnonzero(a != b)
        if len(wrong):
            raise AssertionError(
                f"{name} of order {wrong[0]}: {a[wrong[0]]} here, {b[wrong[0]]} there ({len(wrong)} differ)"
            )


def fresh(ticks: so.Ticks) -> so.Ticks:
    """The same ticks, remembering nothing: no view, no hash, no index."""
    return replace(ticks)


def grid_shapes(stops: Sequence[str], targets: Sequence[str], rates: Sequence[str]) -> list[Shape]:
    """The combinations of a grid with one target, in the order of `loops.shared`."""
    return [Shape(s, (t,), (100,), r, False) for s, t, r in itertools.product(stops, targets, rates)]


def percent(fraction: str, sign: str = "") -> str:
    """0.02 as +2%."""
    return f"{sign}{float(fraction) * 100:g}%"


def sweep(
    stops: Sequence[str],
    ladders: Sequence[Any],
    rates: Sequence[str],
    ticks: so.Ticks,
    entries: np.ndarray,
    break_even: bool,
    by: str | None = "combination",
) -> Any:
    """The grid as a sweep. `ladders`: take-profits as SmartOrder takes them."""
    order = so.SmartOrder(
        symbol="BTC/USDT",
        side="buy",
        quantity=1,
        take_profits=ladders[0],
        stop_loss=percent(stops[0], "-"),
        trailing_stop=percent(rates[0]),
        break_even=break_even or None,
    )
    grid = {
        "stop_loss": [percent(s, "-") for s in stops],
        "take_profits": list(ladders),
        "trailing_stop.callback_rate": [percent(r) for r in rates],
    }
    return so.sweep(order, ticks, entries=entries, grid=grid, by=by, workers=threads(), progress=False)


def profits(swept: Any) -> np.ndarray:
    """Total profit in units of each combination, in the order of the grid's product."""
    return np.rint(swept.combinations["total_pnl"].to_numpy() / UNIT).astype(np.int64)
