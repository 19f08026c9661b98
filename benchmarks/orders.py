"""Orders × ticks against the loops; and what one order costs when the ticks, or its life, grow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from . import ours
from .loops import Shape, blocked, linear
from .scale import Scale
from .table import Row, costs, count, faster, race
from .tape import STEP, new_tape, starts, tape

SHAPES = {
    "0.005": Shape("0.004", ("0.002", "0.004", "0.008"), rate="0.005"),
    "0.02": Shape("0.015", ("0.01", "0.02", "0.04"), rate="0.02"),
    "0.05": Shape("0.04", ("0.025", "0.05", "0.1"), rate="0.05"),
}
"""One stop, three levels, break-even and a trailing stop, by its callback rate: each part is the first to end some orders."""
_BIG = 50_000_000
_TARGETS = {
    ("tight", 1_000_000, "0.02"): 20,
    ("blocked", 1_000_000, "0.02"): 3,
    ("tight", 200_000_000, "0.02"): 300,
    ("tight", 200_000_000, "0.05"): 5_000,
    ("blocked", 200_000_000, "0.05"): 500,
}


def rows(scale: Scale) -> Iterator[Row]:
    """All orders of each size, both loops; where those would take minutes they get a sample, and their time is scaled."""
    for number, n, step, rate in scale.orders:
        yield from against_loops(scale, number, n, step, rate)


def against_loops(scale: Scale, number: int, n: int, step: float, rate: str) -> Iterator[Row]:
    """One size: equal output, then times in turns."""
    ticks, shape, begin = tape(n, step), SHAPES[rate], starts(number, n)
    sampled = n > _BIG
    sample = np.linspace(0, number - 1, min(scale.sample, number)).astype(int) if sampled else np.arange(number)
    part = begin[sample]
    run = ours.replay(shape, ticks, begin)  # builds the index and hashes the ticks, which is done once for a tape
    result = ours.outcome(run.orders)
    ours.same(ours.outcome(ours.sweep_one(shape, ticks, begin).orders), result)
    for loop in (linear, blocked):
        ours.same([column[sample] for column in result], loop(ticks.price, part, shape))
    evaluate = ours.evaluator([shape], ticks, begin)
    closed = result[0] >= 0
    if not np.array_equal(ours.profit(evaluate())[closed], result[2][closed]):
        raise AssertionError("the evaluator's profits differ from those of the replay")
    times = race(
        scale.rounds if not sampled else 3,
        lambda: ours.replay(shape, ticks, begin),
        lambda: ours.sweep_one(shape, ticks, begin),
        evaluate,
        lambda: linear(ticks.price, part, shape),
        lambda: blocked(ticks.price, part, shape),
    )
    replayed, swept, evaluated, *loops = (one.seconds for one in times)
    life = (np.where(result[0] < 0, n, result[0]) - begin).mean()
    work = f"{number:,} orders × {count(n)} ticks"
    size = f"callback {ours.percent(rate)}, step {step:g}, mean life {life:,.0f} ticks"
    scaled = f" (from {len(part)} orders)" if sampled else ""
    for loop, seconds in zip(("tight", "blocked"), loops, strict=True):
        reference, target = seconds * number / len(part), _TARGETS.get((loop, n, rate))
        yield faster(work, f"{size}: replay, all events", replayed, reference, f"{loop} loop{scaled}", target)
        yield faster(work, f"{size}: sweep, outcomes", swept, reference, f"{loop} loop{scaled}", target)
        yield faster(work, f"{size}: evaluator alone", evaluated, reference, f"{loop} loop{scaled}", target)


def growth(scale: Scale) -> Iterator[Row]:
    """The cost of an order, out of a batch of equal ones, on more ticks with the same life, and with longer lives."""
    number, n = scale.growth
    shape, begin = SHAPES["0.005"], starts(number, n // 2)
    tapes = [new_tape(n * factor) for factor in (1, *scale.factors)]
    results = [ours.outcome(ours.replay(shape, ticks, begin).orders) for ticks in tapes]
    for result in results[1:]:
        ours.same(result, results[0])
    timed = race(3 * scale.rounds, *[lambda t=t: ours.replay(shape, t, begin) for t in tapes])
    life = (results[0][0] - begin).mean()
    for factor, one in zip(scale.factors, timed[1:], strict=True):
        size = f"{count(n)} → {count(n * factor)} ticks, life {life:,.0f} ticks"
        name = f"on {count(n)}"
        yield costs("one order, ticks grow", size, one.seconds / number, timed[0].seconds / number, name, 1.3)

    ticks = tapes[-1]
    lives, timed = [], []
    near, far = bracket("0.002"), bracket("0.02")  # ten times as far is a hundred times as long
    for one in (near, far):
        lives.append((ours.outcome(ours.replay(one, ticks, begin).orders)[0] - begin).mean())
    timed = race(3 * scale.rounds, *[lambda s=s: ours.replay(s, ticks, begin) for s in (near, far)])
    size = f"life {lives[0]:,.0f} → {lives[1]:,.0f} ticks, {count(len(ticks))} ticks"
    short = f"lives {lives[0]:,.0f}"
    yield costs("one order, life grows", size, timed[1].seconds / number, timed[0].seconds / number, short, 3)


def bracket(distance: str) -> Shape:
    """Stop, target and callback all at one distance, and a level half-way."""
    half = str(float(distance) / 2)
    return Shape(distance, (half, distance), (50, 50), distance, True)


def plain(scale: Scale) -> tuple[int, int, float]:
    """What the competitors are given: 10,000 orders × 1 M ticks with a stop, one target and a trailing stop; our seconds."""
    number, n, _, _ = scale.orders[0]
    ticks, begin = tape(n, STEP), starts(number, n)
    ours.same(ours.outcome(ours.replay(PLAIN, ticks, begin).orders), linear(ticks.price, begin, PLAIN))
    (one,) = race(scale.rounds, lambda: ours.replay(PLAIN, ticks, begin))
    return number, n, one.seconds


PLAIN = Shape("0.015", ("0.03",), (100,), "0.02", False)
