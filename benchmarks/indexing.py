"""The tick index: building it, extending it, its size."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from . import ours
from .loops import threads
from .scale import Scale
from .table import Row, Timed, costs, count, race, span, within
from .tape import tape, ticks_of

MORE = 1_000


def rows(scale: Scale) -> Iterator[Row]:
    """Build and extend the index of a big tape, next to passes of np.max over the same prices."""
    n = scale.index
    ticks = tape(n)
    price = ticks.price
    build, passes = race(scale.rounds, lambda: ours.fresh(ticks).index(), lambda: np.max(price))
    at_most = 4 if n >= 10_000_000 else None
    size = f"{count(n)} ticks, {threads()} threads"
    yield costs("index: build", size, build.seconds, passes.seconds, "np.max, 1 thread", at_most)
    part = ticks.index().nbytes / price.nbytes
    yield within("index: memory", size, f"{part:.2%} of the prices", part, 0.08, "≤ 8 %")
    extension = extend(price, scale.rounds)
    within_ms = f"of {count(n)} ticks by {MORE:,}"
    yield within("index: extend", within_ms, span(extension.seconds), extension.seconds, 1e-3, "≤ 1 ms")
    seconds = append(ticks, scale.rounds)
    yield within("index: Ticks.append", within_ms, span(seconds), seconds, 1e-3, "≤ 1 ms")


def append(ticks: Any, rounds: int) -> float:
    """The best time of an append, each to what the one before made; the first copies everything to where there is room."""
    last, best = int(ticks.ts[-1]), float("inf")
    for k in range(max(rounds, 2)):
        more = replace(ticks_of(ticks.price[-MORE:].copy()), ts=last + np.arange(k * MORE, (k + 1) * MORE))
        before = time.perf_counter()
        ticks = ticks.append(more)
        ticks.index()
        if k:
            best = min(best, time.perf_counter() - before)
    return best


def extend(price: np.ndarray, rounds: int) -> Timed:
    """The best time to extend an index by the last ticks, each time by the next ones; checked against one built whole."""
    from smartorders_lab.index import Index
    from smartorders_lab.rows import LEAF

    rounds = max(rounds, 2)  # the first compiles
    index, best = Index(price[: len(price) - rounds * MORE]), float("inf")
    for k in range(rounds - 1, -1, -1):
        before = time.perf_counter()
        index.extend(price[: len(price) - k * MORE])
        best = min(best, time.perf_counter() - before)
    leaves = -(-len(price) // LEAF)
    if not np.array_equal(index.bounds[:leaves], Index(price).bounds[:leaves]):
        raise AssertionError("an extended index differs from one built whole")
    return Timed(best, index)
