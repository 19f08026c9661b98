"""Sweeps: a grid of stops × targets × rates from many entries, against the loop that shares passages; and a big one with ladders,
with its peak memory (`python -m benchmarks.sweeps '{...}'`, a process of its own)."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import ours
from .loops import Shape, linear, shared
from .scale import Scale
from .table import Row, count, faster, race, span
from .tape import new_tape, starts, tape

STOPS = ("0.004", "0.008", "0.012", "0.016", "0.02")
TARGETS = ("0.005", "0.01", "0.015", "0.02", "0.03")
RATES = ("0.005", "0.01", "0.015", "0.02")
_AT_LEAST = {1_000_000: 1, 100_000_000: 20}


def rows(scale: Scale) -> Iterator[Row]:
    """100 combinations from each entry."""
    for entries, n, step in scale.sweeps:
        yield from grid(scale, entries, n, step)
    yield from ladders(scale)


def grid(scale: Scale, entries: int, n: int, step: float) -> Iterator[Row]:
    """Equal output, order by order, of sweep, replay and loop; then times in turns."""
    ticks, begin, shapes = tape(n, step), starts(entries, n), grid_shapes()
    levels = [[(ours.percent(t, "+"), 100)] for t in TARGETS]
    few = begin[:: max(entries // scale.checked, 1)]
    run = ours.replay(shapes * len(few), ticks, np.repeat(few, len(shapes)))
    ours.same(ours.outcome(run.orders), shared(ticks.price, few, STOPS, TARGETS, RATES))
    expected = [column.reshape(entries, -1) for column in shared(ticks.price, begin, STOPS, TARGETS, RATES)]
    swept = ours.sweep(STOPS, levels, RATES, ticks, begin, False, by=None)  # combination by combination
    ours.same(ours.outcome(swept.orders), [column.T.ravel() for column in expected])

    evaluate = ours.evaluator(shapes, ticks, begin)
    closed = expected[0].T.ravel() >= 0
    if not np.array_equal(ours.profit(evaluate())[closed], expected[2].T.ravel()[closed]):
        raise AssertionError("the evaluator's profits differ from those of the loop")
    sweep, alone, loop = race(
        scale.rounds,
        lambda: ours.sweep(STOPS, levels, RATES, ticks, begin, False),
        evaluate,
        lambda: shared(ticks.price, begin, STOPS, TARGETS, RATES),
    )
    if not np.array_equal(ours.profits(sweep.value), expected[2].sum(axis=0)):
        raise AssertionError("a sweep's profits differ from those of the loop")
    life = (np.where(expected[0] < 0, n, expected[0]) - begin[:, None]).mean()
    work, size = (
        f"{entries:,} entries × {len(shapes)} combinations",
        f"{count(n)} ticks, step {step:g}, mean life {life:,.0f} ticks",
    )
    yield faster(
        work, f"{size}: sweep, aggregates", sweep.seconds, loop.seconds, "passage-sharing loop", _AT_LEAST.get(n)
    )
    yield faster(
        work, f"{size}: evaluator alone", alone.seconds, loop.seconds, "passage-sharing loop", _AT_LEAST.get(n)
    )


def grid_shapes() -> list[Shape]:
    """The 100 combinations."""
    return ours.grid_shapes(STOPS, TARGETS, RATES)


def axes(values: int) -> tuple[list[str], list[Shape], list[str]]:
    """Stops, ladders and rates of the big grid, `values` of each."""
    steps = range(1, values + 1)
    stops = [f"{0.002 * k:.4f}" for k in steps]
    ladder = [tuple(f"{0.002 * k * m:.4f}" for m in (1, 2, 4)) for k in steps]
    return stops, [Shape(targets=t) for t in ladder], [f"{0.003 * k:.4f}" for k in steps]


def ladders(scale: Scale) -> Iterator[Row]:
    """The big one, end to end, in a process of its own."""
    entries, n, values = scale.ladders
    work, size = f"{entries:,} entries × {values**3:,} combinations", f"{count(n)} ticks, 3 levels, break-even"
    arguments = {"entries": entries, "n": n, "values": values, "checked": min(scale.checked, entries)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.sweeps", json.dumps(arguments)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    rate = entries * values**3 / found["seconds"]
    memory = f"{found['peak'] / 2**20:,.0f} MiB beyond the ticks"
    yield Row(work, size, f"{span(found['seconds'])}, {rate / 1e6:.3g} M orders/s, {memory}")


def big(entries: int, n: int, values: int, checked: int) -> dict[str, Any]:
    """Run the big sweep once, index and all; seconds, and the most memory beyond the ticks. The first of its profits are compared
    with those of the tight loop."""
    ticks, begin = new_tape(n), starts(entries, n)
    stops, shapes, rates = axes(values)
    levels = [[(ours.percent(t, "+"), s) for t, s in zip(one.targets, one.sizes, strict=True)] for one in shapes]
    tiny = new_tape(5_000)
    ours.sweep(stops, levels, rates, tiny, starts(5, 5_000), True)  # compiled, and all modules loaded
    with Peak() as peak:
        before = time.perf_counter()
        swept = ours.sweep(stops, levels, rates, ticks, begin, True)
        seconds = time.perf_counter() - before
    totals = ours.profits(swept)
    chosen = np.linspace(0, values**3 - 1, checked).astype(int)
    combinations = list(itertools.product(stops, shapes, rates))
    for c in chosen:
        stop, ladder, rate = combinations[c]
        one = linear(ticks.price, begin, Shape(stop, ladder.targets, rate=rate))
        if one[2].sum() != totals[c]:
            raise AssertionError(f"combination {c}: profit {totals[c]} here, {one[2].sum()} by the loop")
    return {"seconds": seconds, "peak": peak.bytes}


class Peak:
    """The most memory that this process held inside the `with`, beyond what it held before. Sampled: the system's own maximum
    would be that of making the tape."""

    def __enter__(self) -> Peak:
        self.bytes, self._over = 0, threading.Event()
        self._before = self._now()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.bytes = max(self.bytes, self._now() - self._before)

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            self.bytes = max(self.bytes, self._now() - self._before)

    @staticmethod
    def _now() -> int:
        import psutil

        return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    print(json.dumps(big(**json.loads(sys.argv[1]))))
