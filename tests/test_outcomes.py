"""Outcomes without events are those of the engine: grids that share their passages, and everything that cannot."""

from __future__ import annotations

from typing import Any

import kernel_run
import numpy as np
import polars as pl
import strategies
from hypothesis import assume, given
from hypothesis import strategies as st
from test_kernel import random_cases, runs, stretched

import smartorders_lab as so
from smartorders_lab.fills import FillModel
from smartorders_lab.outcomes import Evaluator
from smartorders_lab.run import order_columns


@st.composite
def plain(draw: Any, side: strategies.Side) -> so.SmartOrder:
    """An order whose parts do not act on one another, so that a grid may share their passages."""
    order = draw(strategies.orders(side))
    assume(order.entry.kind in ("market", "limit", "stop"))
    stop, entry = order.stop_loss, order.entry
    try:
        return order.replace(
            symbol=strategies.PERPETUAL,
            take_profits=[so.TakeProfit(target=level.target, size=level.size) for level in order.take_profits],
            stop_loss=stop and so.StopLoss(target=stop.target, emergency=stop.emergency),
            entry=so.Entry.stop(entry.price) if entry.kind == "stop" else entry,
            trailing_take_profit=None,
        )
    except so.SpecError:
        assume(False)
        raise


@st.composite
def grids(draw: Any, kind: Any) -> tuple[list[so.SmartOrder], so.Ticks, np.ndarray, FillModel]:
    """Orders that mix the parts of two, a tape with a constant stretch, entries, and a fill model."""
    side = strategies.Side(draw(st.booleans()))
    one, other = draw(kind(side)), draw(kind(side))
    parts = ("stop_loss", "trailing_stop", "max_hold", "take_profits", "break_even", "quantity")
    found = [one, other]
    for name in parts:
        try:
            found.append(one.replace(**{name: getattr(other, name)}))
        except so.SpecError:
            continue
    flip = strategies.Side(not side.long)
    found += [draw(kind(flip))]
    tape = stretched(draw(strategies.tapes(one)), draw(runs))
    instrument = draw(strategies.instruments)
    ticks = kernel_run.tape_of(tape, instrument)
    orders = [order for order in found if not any(p.level == "error" for p in order.check(ticks.instrument))]
    assume(orders)
    entries = np.unique(draw(st.lists(st.integers(0, len(ticks) - 1), min_size=1, max_size=5)))
    return orders, ticks, entries, draw(strategies.fill_models)


def both(case: tuple[list[so.SmartOrder], so.Ticks, np.ndarray, FillModel]) -> tuple[Evaluator, Any, Any]:
    orders, ticks, entries, fills = case
    made = [Evaluator(orders, ticks, ticks.ts[entries], entries, fills, use_index=use) for use in (True, False)]
    rows = [np.concatenate([block.rows for block in e.blocks(1000, workers=1)]) for e in made]
    return made[0], *rows


@random_cases
@given(grids(plain))
def test_shared_passages_are_the_engine(case: Any) -> None:
    """A grid gives each order the outcome, to the byte, that the engine gives it without an index."""
    orders, ticks, entries, fills = case
    case = (orders, ticks, entries, fills.model_copy(update={"latency": 0, "participation": None}))
    evaluator, shared, alone = both(case)
    assert evaluator._grids(0, len(orders))[1] == [], "all of them share passages"
    for name in alone.dtype.names:
        assert shared[name].tolist() == alone[name].tolist(), name


@random_cases
@given(grids(strategies.orders))
def test_outcomes_are_those_of_a_replay(case: Any) -> None:
    """Whatever the order and the fill model: every column equals that of replay()."""
    orders, ticks, entries, fills = case
    evaluator, rows, _ = both(case)
    columns = order_columns(rows.view(np.recarray), evaluator.instrument, fills)
    run = so.replay([o for o in orders for _ in entries], ticks, starts=list(entries) * len(orders), fills=fills)
    for name, column in columns.items():
        assert pl.Series(name, column).to_list() == run.orders[name].to_list(), name


def test_blocks_cover_everything_once() -> None:
    """Blocks of any size are the same outcomes in the same order."""
    rng = np.random.default_rng(3)
    price = (100 + np.cumsum(rng.choice([-0.1, 0.0, 0.1], 4000))).round(1)
    ticks = so.Ticks.from_arrays(np.arange(4000) * 10**9, price, unit="ns", symbol="A/B:B")
    orders = [
        so.SmartOrder(
            symbol="A/B:B", side=side, quantity=2, stop_loss=stop, take_profits=[("1%", 50), ("2%", 50)], break_even=True
        )
        for side in ("buy", "sell")
        for stop in ("1%", "2%", "3%")
    ]  # fmt: skip
    entries = np.arange(0, 4000, 40)
    evaluator = Evaluator(orders, ticks, ticks.ts[entries], entries, FillModel())
    whole = np.concatenate([b.rows for b in evaluator.blocks(10**6)])
    for size in (1, 7, 100, 250):
        seen: list[int] = []
        parts = []
        for block in evaluator.blocks(size, workers=2, done=seen.append):
            shape = (block.last - block.first, block.end - block.begin)
            parts.append(block.rows.reshape(shape))
            at = np.s_[block.first : block.last, block.begin : block.end]
            assert (whole.reshape(len(orders), len(entries))[at] == parts[-1]).all()
        assert sum(part.size for part in parts) == seen[-1] == whole.size
