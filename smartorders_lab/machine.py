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
from .rows import EVENT, NOD, NOW, ORDER, table
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


class Watch:
    """Living orders on a tape that grows tick by tick; a tick costs a look at the few orders that it concerns.

    `push` takes prices in increments and returns what happened. All orders of `machine` watch the same price from the first
    tick on that is pushed after their creation. `quotes`: each tick brings the prices at which a market order buys and sells.
    """

    def __init__(self, machine: Machine, quotes: bool = False, kept: int = 1 << 20):
        """`kept`: ticks of the tape after which every order is brought up to date and the tape begins anew."""
        self.machine, self._quotes, self._kept = machine, quotes, kept
        self._columns = [np.zeros(kept, np.int64) for _ in range(4 if quotes else 2)]
        orders = len(machine.book.orders)
        self._watched, self._nods = np.zeros((orders, 7), np.int64), np.zeros((-(-orders // NOD) + 1, 7), np.int64)
        self._woken = np.zeros(orders, np.int64)
        self._base = self._ticks = 0
        self._index: Index | None = None
        self._everybody = np.arange(orders)
        self._watch(self._everybody, orders)

    def push(self, ts: int, price: int, buy: int = 0, sell: int = 0) -> list[np.ndarray]:
        """One more tick: its events, by order."""
        from .watching import wake

        n = self._ticks
        self._columns[0][n], self._columns[1][n] = ts, price
        if self._quotes:
            self._columns[2][n], self._columns[3][n] = buy, sell
        self._ticks = n + 1
        count = wake(price, ts, self._watched, self._nods, self._woken)
        if self._ticks == self._kept:
            return self.catch_up()
        return self._advance(self._woken, count) if count else []

    def catch_up(self) -> list[np.ndarray]:
        """Bring every row up to date, for whoever wants to read or store them, and forget the tape."""
        events = self._advance(self._everybody, len(self._everybody))
        self._base, self._ticks, self._index = self._base + self._ticks, 0, None
        return events

    def _advance(self, who: np.ndarray, count: int) -> list[np.ndarray]:
        ts, price, *quotes = (read_only(column[: self._ticks]) for column in self._columns)
        if self._index is None:
            self._index = Index(price, workers=1)
        else:
            self._index.extend(price, workers=1)
        buy, sell = quotes or (price, price)
        none = (read_only(np.empty(0, np.int64)), read_only(np.empty(0, np.uint8)))
        tree = map(read_only, self._index.arrays())
        ticks = (self._base, ts, price, buy, sell, *none, self._same, *tree)
        events = self.machine.advance(ticks, 0, count, who=who)
        self._watch(who, count)
        return events

    @property
    def _same(self) -> int:
        return 0 if self._quotes else 3

    def _watch(self, who: np.ndarray, count: int) -> None:
        from .watching import watch

        book = self.machine.book
        args = (book.orders, book.legs, book.commands, book.ends, self.machine.model, self._same, False)
        watch(*args, who, count, self._watched, self._nods)


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
