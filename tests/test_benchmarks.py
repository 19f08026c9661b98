"""The benchmarks run, and what they compare is equal; how long anything takes is not looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from benchmarks import indexing, live, orders, others, ours, sweeps
from benchmarks.loops import Shape, blocked, linear, shared, watch
from benchmarks.scale import TOY
from benchmarks.tape import starts, tape, ticks_of, walk

LEVELS = ("0.002", "0.004", "0.008")
SHAPES = [
    Shape("0.004", LEVELS, rate="0.005"),
    Shape("0.006", LEVELS, rate="0.003"),  # the trailing stop is always the tighter one
    Shape("0.005", LEVELS, (33, 33, 34), "0.005", break_even=False),  # a tie of stop loss and trailing stop
    Shape("0.003", ("0.003",), (100,), "0.01", break_even=False),
]


@pytest.mark.parametrize("side", [1, -1])
@pytest.mark.parametrize("number", range(len(SHAPES)))
@pytest.mark.parametrize("coarse", [1, 2_000])
def test_both_loops_agree_with_replay(number: int, side: int, coarse: int) -> None:
    """Also on a coarse grid of prices, where levels are hit exactly, touched twice, and jumped over."""
    shape = Shape(**{**vars(SHAPES[number]), "side": side})
    ticks = ticks_of(np.rint(walk(15_000, seed=side + 2) / coarse).astype(np.int64) * coarse)
    begin = np.append(starts(150, len(ticks)), [len(ticks) - 2, len(ticks) - 1])
    expected = ours.outcome(ours.replay(shape, ticks, begin).orders)
    ours.same(ours.outcome(ours.replay(shape, ticks, begin, use_index=False).orders), expected)
    for loop in (linear, blocked):
        ours.same(loop(ticks.price, begin, shape), expected)
    assert len(np.unique(expected[1])) >= 3, "the tape is to end orders in several ways"


@pytest.mark.parametrize("side", [1, -1])
def test_the_loop_that_shares_passages_agrees_with_replay(side: int) -> None:
    axes: Sequence[tuple[str, ...]] = (("0.002", "0.005", "0.01"), ("0.003", "0.006"), ("0.003", "0.005", "0.008"))
    ticks = tape(TOY.index)
    begin = np.append(starts(30, len(ticks)), len(ticks) - 1)
    shapes = [Shape(s, (t,), (100,), r, False, side) for s, t, r in product(*axes)]
    run = ours.replay(shapes * len(begin), ticks, np.repeat(begin, len(shapes)))
    ours.same(shared(ticks.price, begin, *axes, side), ours.outcome(run.orders))


def test_what_differs_is_noticed() -> None:
    result = np.array([3]), np.array([4]), np.array([-5])
    with pytest.raises(AssertionError, match="profit of order 0: -5 here, -6 there"):
        ours.same(result, (*result[:2], np.array([-6])))


def test_watch_counts_what_a_tick_reaches() -> None:
    rng = np.random.default_rng(5)
    low, high, prices = rng.integers(0, 50, 300), rng.integers(50, 100, 300), rng.integers(0, 100, 20)
    assert watch(prices, low, high) == sum(int(((x <= low) | (x >= high)).sum()) for x in prices)


def test_a_shorter_walk_is_the_beginning_of_a_longer_one() -> None:
    assert np.array_equal(walk(1_000), walk(5_000)[:1_000])


@pytest.mark.parametrize("part", [orders.rows, orders.growth, indexing.rows, sweeps.rows, live.rows])
def test_every_part_gives_rows(part) -> None:
    rows = list(part(TOY))
    assert rows
    assert all(row.work for row in rows)


def test_figures_of_others_are_merged(tmp_path, monkeypatch) -> None:
    number, n, _, _ = TOY.orders[0]
    one = {"name": "vectorbt rust", "rate": 50.0, "note": "stop loss dropped"}
    found = {"number": number, "n": n, "entries": 10, "orders": [one], "combinations": [one], "ladder": []}
    monkeypatch.setattr(others, "RESULTS", tmp_path / "results.json")
    assert "not measured" in next(others.rows(TOY)).reference
    others.RESULTS.write_text(json.dumps(found))
    first, second = others.rows(TOY)
    assert first.ratio > 0
    assert first.target == "≥ 1,000 ×"
    assert "vectorbt rust: 50 orders/s" in second.reference
