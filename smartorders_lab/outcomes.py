"""What becomes of many orders from many entries, without their events: the evaluator under sweeps and live odds.

Each combination (a spec) is created at each entry. The result of a block of both is rows of OUTCOME, combination by combination, equal to
what replay() finds for the same orders.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .fills import FillModel
from .lower import Table, lower_fills, suit
from .machine import Machine, chunk, cores, in_order
from .rows import FOUND, LEG, NOW, ORDER, OUTCOME, STEP, EntryKind, LegStatus, SizeKind, Target, table
from .spec import SmartOrder
from .ticks import Ticks

_BLOCK = 1 << 12
"""Orders of one engine call."""
_SHARED = sorted(set(OUTCOME.names or ()) & set(ORDER.names or ()))


class Block(NamedTuple):
    """Outcomes of combinations `first`..`last` at entries `begin`..`end`: row (c - first) * (end - begin) + (e - begin)."""

    first: int
    last: int
    begin: int
    end: int
    rows: np.recarray


class Evaluator:
    """Combinations at entries over the ticks of one symbol. `created` and `cursors`: time and first tick of each entry."""

    def __init__(
        self,
        combinations: Sequence[SmartOrder],
        ticks: Ticks,
        created: np.ndarray,
        cursors: np.ndarray,
        fills: FillModel,
        use_index: bool = True,
        poll_ns: int = 0,
    ):
        low, high = ticks.price_range()
        self.combinations, self.ticks, self.fills = list(combinations), ticks, fills
        self.created, self.cursors, self.poll_ns = created, cursors, poll_ns
        self.instrument = suit(ticks.instrument, self.combinations, (), low, high)
        self.model = lower_fills(fills, self.instrument, poll_ns, high)
        self._table = Table(self.combinations, self.instrument, [()] * len(self.combinations), fills)
        keys = [(order.trigger, order.direction) for order in self.combinations]
        chunks = {
            key: chunk(ticks.view(*key), self.instrument, fills, ticks.index(*key) if use_index else None)
            for key in dict.fromkeys(keys)
        }
        self._chunks = [chunks[key] for key in keys]
        self._shared: dict[tuple[int, int], tuple[list[_Grid], list[int]]] = {}

    def blocks(
        self, size: int, workers: int | None = None, done: Callable[[int], None] = lambda count: None
    ) -> Iterator[Block]:
        """All outcomes, in blocks of about `size` orders: of all entries of some combinations, or, where there are more entries than
        that, of some entries of one. `done` is told how many orders are finished."""
        entries, finished = len(self.created), 0
        step = max(1, size // max(entries, 1))
        for first in range(0, len(self.combinations), step):
            last = min(first + step, len(self.combinations))
            for begin in range(0, entries, max(size, 1)):
                end = min(begin + size, entries) if step == 1 else entries
                yield Block(first, last, begin, end, self._evaluate(first, last, begin, end, workers))
                finished += (last - first) * (end - begin)
                done(finished)
                if end == entries:
                    break

    def _evaluate(self, first: int, last: int, begin: int, end: int, workers: int | None) -> np.recarray:
        rows = table(OUTCOME, (last - first) * (end - begin))
        if (first, last) not in self._shared:
            self._shared = {(first, last): self._grids(first, last)}
        grids, others = self._shared[first, last]
        jobs: list[Callable[[], None]] = []
        share = -(
            -(end - begin) // (4 * (workers or cores()))
        )  # parts small enough that no thread waits long for another
        for grid in grids:
            size = max(64, min(share, _BLOCK * 8 // len(grid.cells)))
            jobs += [
                partial(self._grid, grid, rows, begin, end, a, min(a + size, end)) for a in range(begin, end, size)
            ]
        for c in others:
            at = (c - first) * (end - begin) - begin
            jobs += [partial(self._one, rows, c, a, min(a + _BLOCK, end), at + a) for a in range(begin, end, _BLOCK)]
        for _ in in_order(lambda job: job(), jobs, workers):
            pass
        return rows

    # ------------------------------------------------------------------------------------------------ grids

    def _plain(self, c: int, o: Any, legs: list[Any]) -> bool:
        """Whether the parts of a combination act on one another only through the earliest of them; see grids.py."""
        ticks, fills = self._chunks[c], self.fills
        own_entry = ticks[7] & (1 if o.side > 0 else 2)
        return bool(
            len(ticks[8])
            and not len(ticks[6])
            and fills.latency == self.poll_ns == 0
            and fills.participation is None
            and o.rungs == 1
            and o.ttp_rate == o.timeout == o.stop_limit_kind == 0
            and not any(leg.limit for leg in legs[1 : 1 + o.levels])
            and (
                o.entry_kind == EntryKind.MARKET
                or (o.entry_kind == EntryKind.LIMIT and own_entry)
                or (o.entry_kind == EntryKind.STOP and not legs[0].limit)
            )
        )

    def _grids(self, first: int, last: int) -> tuple[list[_Grid], list[int]]:
        """The plain combinations among `first`..`last`, by entry, with what they share; and the others."""
        grids: dict[Any, _Grid] = {}
        others: list[int] = []
        order_of, leg_of = _fields(ORDER), _fields(LEG)
        orders = self._table.orders[first:last]
        for c, values in enumerate(orders.tolist(), first):
            o = order_of(*values)
            legs = [leg_of(*leg) for leg in self._table.legs[o.leg : o.end].tolist()]
            if not self._plain(c, o, legs):
                others.append(c)
                continue
            size = (o.size_kind, o.amount, o.planned)
            risk = (o.stop_kind, o.stop_value) if o.size_kind == SizeKind.RISK else ()
            ladder = tuple((leg.target_kind, leg.target_value, leg.weight) for leg in legs[1 : 1 + o.levels])
            body = (size, risk, o.by_remaining, o.runner, ladder, o.even, o.even_after, o.even_offset)
            stop = (o.stop_kind, o.stop_value)
            trail = (o.trail_rate, o.activation_kind, o.activation_value)
            entry = (id(self._chunks[c]), o.side, o.entry_kind, o.entry_x, legs[0].x, o.entry_expiry)
            grids.setdefault(entry, _Grid()).add(c, c - first, body, stop, trail, o.max_hold)
        for grid in grids.values():
            grid.close(self._table)
        return list(grids.values()), others

    def _grid(self, grid: _Grid, rows: np.recarray, begin: int, end: int, a: int, b: int) -> None:
        """The outcomes of a grid at the entries `a`..`b`."""
        from .grids import evaluate

        found = len(grid.bodies) + len(grid.stops) + len(grid.trails) + len(grid.holds)
        evaluate(
            self._table.orders,
            grid.rows.copy(),
            grid.legs.copy(),
            self.model,
            table(NOW, 1),
            self.created[a:b],
            self.cursors[a:b],
            grid.stops,
            grid.trails,
            grid.holds,
            grid.cells,
            table(FOUND, found),
            table(STEP, len(grid.legs)),
            self._chunks[grid.bodies[0]],
            rows,
            a - begin,
            end - begin,
        )

    # ------------------------------------------------------------------------------------------------ the engine

    def _one(self, rows: np.recarray, combination: int, begin: int, end: int, at: int) -> None:
        """The outcomes of one combination at some entries, into `rows` from `at` on."""
        count = end - begin
        book = self._copies(combination, begin, end)
        Machine(book, self.model).advance(self._chunks[combination], 0, count, keep=False)
        read_outcomes(book, rows[at : at + count])

    def _copies(self, combination: int, begin: int, end: int) -> Table:
        """The rows of one combination, once for each entry."""
        source, count = self._table.orders[combination], end - begin
        legs = self._table.legs[source.leg : source.end]
        book = Table.__new__(Table)
        book.orders = np.repeat(self._table.orders[combination : combination + 1], count).view(np.recarray)
        book.legs = np.tile(legs, count).view(np.recarray)
        book.orders.leg = np.arange(count) * len(legs)
        book.orders.end = book.orders.leg + len(legs)
        book.orders.created, book.orders.cursor = self.created[begin:end], self.cursors[begin:end]
        book.commands, book.ends = self._table.commands, np.zeros(count, np.int64)
        book.orders.command = 0
        book.edits, book.edit_legs = self._table.edits, self._table.edit_legs
        return book


def _fields(dtype: np.dtype) -> Any:
    """A named tuple: reading fields of records is slow."""
    return namedtuple("row", list(dtype.names or ()))


def read_outcomes(book: Table, out: Any) -> None:
    """Fill rows of OUTCOME from a table of copies of one order."""
    for name in _SHARED:
        out[name] = book.orders[name]
    one = book.orders[0]
    levels = book.legs.reshape(len(out), -1)[:, one.rungs : one.rungs + one.levels]
    hit = levels["status"] == LegStatus.FILLED
    out["hits"] = (hit << np.arange(hit.shape[1])).sum(axis=1)


class _Grid:
    """Combinations with one entry: for each different body, stop, trail and hold one that has it, and what each cell is made of."""

    def __init__(self) -> None:
        self._keys: tuple[dict[Any, int], ...] = ({}, {}, {}, {})
        self._cells: list[tuple[int, ...]] = []
        self._samples: tuple[list[int], ...] = ([], [], [], [])

    def add(self, combination: int, at: int, *parts: Any) -> None:
        """One more combination, whose outcomes are the `at`-th of the block."""
        cell = []
        for key, keys, samples in zip(parts, self._keys, self._samples, strict=True):
            if key not in keys:
                keys[key] = len(keys)
                samples.append(combination)
            cell.append(keys[key])
        self._cells.append((*cell, at))

    def close(self, book: Table) -> None:
        """Sort stops and trails from near to far, so that each is searched from where the one before was found; copy the bodies."""
        orders: Any = book.orders
        self.cells = np.array(self._cells, np.int64)
        bodies, stops, trails, holds = (np.array(samples, np.int64) for samples in self._samples)
        o = orders[stops]
        near = np.where(o.stop_kind == Target.DISTANCE, o.side, 1) * o.stop_value
        stops = self._sorted(1, stops, np.lexsort((-near, -o.stop_kind)))
        o = orders[trails]
        trails = self._sorted(2, trails, np.lexsort((o.trail_rate, o.activation_kind)))
        self.bodies, self.stops, self.trails, self.holds = bodies, stops, trails, holds
        self.rows: Any = orders[bodies].view(np.recarray)
        self.legs = np.concatenate([book.legs[o.leg : o.end] for o in self.rows]).view(np.recarray)
        sizes = self.rows.end - self.rows.leg
        self.rows.end = np.cumsum(sizes)
        self.rows.leg = self.rows.end - sizes

    def _sorted(self, part: int, samples: np.ndarray, order: np.ndarray) -> np.ndarray:
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        self.cells[:, part] = rank[self.cells[:, part]]
        return samples[order]
