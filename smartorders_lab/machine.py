"""The engine with what it needs around it: tables of orders moved over the ticks, on several threads, events collected in order."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from .errors import DataError
from .fills import FillModel
from .index import Index
from .instrument import Instrument
from .lower import Table
from .rows import EVENT, NOW, ORDER, table
from .ticks import TickView

_BLOCK = 256
"""Orders per engine call: small enough for a progress bar and for Ctrl-C."""
EMPTY_TREE = (np.empty((0, 2), np.int64), np.empty((0, 2), np.float32), np.zeros(2, np.int64))


def chunk(
    view: TickView,
    instrument: Instrument,
    fills: FillModel,
    index: Index | None,
    base: int = 0,
    believed: np.ndarray | None = None,
) -> tuple[Any, ...]:
    """The engine's view of the ticks from number `base` on; `believed` is a mask of those to be seen."""
    size = np.empty(0, dtype=np.int64)
    if fills.participation is not None:
        if len(view.size) == 0:
            raise DataError("participation: these ticks have no sizes; leave participation out")
        scaled = view.size * float(fills.participation) / float(instrument.quantity_increment)
        size = np.floor(scaled + 1e-6).astype(np.int64)
    arrays: list[np.ndarray] = [view.ts, view.price, view.buy, view.sell, size, view.flags]
    if believed is not None:
        arrays = [a[believed] if len(a) else a for a in arrays]
        if index is not None:
            index = Index(arrays[1])
    same = (view.buy is view.price) + 2 * (view.sell is view.price)
    tree = EMPTY_TREE if index is None else index.arrays()
    return (base, *[read_only(a) for a in arrays], same, *[read_only(a) for a in tree])


def read_only(array: np.ndarray) -> np.ndarray:
    """A read-only view: numba compiles the engine anew for a mix of read-only and writable arrays."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


class Machine:
    """A table of orders, its fill model, and the scratch space of one thread."""

    def __init__(self, book: Table, model: np.recarray):
        self.book, self.model = book, model
        self._out, self._now, self._backup = table(EVENT, 1 << 14), table(NOW, 1), table(ORDER, 1)
        self._all = np.arange(len(book.orders))

    def advance(
        self, ticks: tuple[Any, ...], first: int, last: int, keep: bool = True, who: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Move orders `first`..`last`, or `who[first:last]`, over a chunk; returns what happened, unless told not to keep it."""
        from .engine import advance

        book, kept = self.book, []
        who = self._all if who is None else who
        while first < last:
            first = advance(
                book.orders,
                book.legs,
                book.commands,
                book.ends,
                book.edits,
                book.edit_legs,
                self._backup,
                self.model,
                self._now,
                self._out,
                ticks,
                who,
                first,
                last,
                ticks[0] + len(ticks[1]),
            )
            if first < last and self._now[0].n == 0:
                self._out = table(EVENT, 2 * len(self._out))
            elif keep:
                kept.append(np.array(self._out[: self._now[0].n]))
            self._now[0].n = 0
        return kept


def run(
    book: Table,
    model: np.recarray,
    groups: Sequence[tuple[tuple[Any, ...], int, int]],
    workers: int | None = None,
    done: Callable[[int], None] = lambda count: None,
) -> np.ndarray:
    """Move every order of `groups`, (chunk, first, last), to the end of its chunk; returns all events, by order and sequence.

    `workers`: threads, None for one per core. `done` is told how many orders are finished.
    """
    blocks = [(ticks, a, min(a + _BLOCK, last)) for ticks, first, last in groups for a in range(first, last, _BLOCK)]
    own = threading.local()

    def work(block: tuple[tuple[Any, ...], int, int]) -> list[np.ndarray]:
        if not hasattr(own, "machine"):
            own.machine = Machine(book, model)
        events: list[np.ndarray] = own.machine.advance(*block)
        return events

    kept: list[np.ndarray] = []
    for block, events in zip(blocks, in_order(work, blocks, workers), strict=True):
        kept += events
        done(block[2])
    return np.concatenate(kept) if kept else table(EVENT, 0)


def in_order(work: Callable[[Any], Any], jobs: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """The result of each job, in order, made by `workers` threads that run only a little ahead of the reader."""
    threads = min(workers or cores(), len(jobs))
    if threads <= 1:
        yield from map(work, jobs)
        return
    with ThreadPoolExecutor(threads) as pool:
        ahead: list[Future[Any]] = []
        try:
            for job in jobs:
                ahead.append(pool.submit(work, job))
                if len(ahead) > 2 * threads:
                    yield ahead.pop(0).result()
            while ahead:
                yield ahead.pop(0).result()
        finally:
            for future in ahead:
                future.cancel()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
