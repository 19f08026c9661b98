"""What becomes of many orders from many entries, without their events: the evaluator under sweeps and live odds.

Each combination (a spec) is created at each entry. The result of a block of both is rows of OUTCOME, combination by combination, equal to
what replay() finds for the same orders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .fills import FillModel
from .lower import Table, lower_fills, suit
from .machine import Machine, chunk, in_order
from .rows import ORDER, OUTCOME, LegStatus, table
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
        self.created, self.cursors = created, cursors
        self.instrument = suit(ticks.instrument, self.combinations, (), low, high)
        self.model = lower_fills(fills, self.instrument, poll_ns, high)
        self._table = Table(self.combinations, self.instrument, [()] * len(self.combinations), fills)
        keys = [(order.trigger, order.direction) for order in self.combinations]
        chunks = {
            key: chunk(ticks.view(*key), self.instrument, fills, ticks.index(*key) if use_index else None)
            for key in dict.fromkeys(keys)
        }
        self._chunks = [chunks[key] for key in keys]

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
        jobs = [
            (c, a, min(a + _BLOCK, end), (c - first) * (end - begin) + a - begin)
            for c in range(first, last)
            for a in range(begin, end, _BLOCK)
        ]
        for _ in in_order(lambda job: self._one(rows, *job), jobs, workers):
            pass
        return rows

    def _one(self, rows: np.recarray, combination: int, begin: int, end: int, at: int) -> None:
        """The outcomes of one combination at some entries, into `rows` from `at` on."""
        count = end - begin
        book = self._copies(combination, begin, end)
        Machine(book, self.model).advance(self._chunks[combination], 0, count, keep=False)
        out = rows[at : at + count]
        for name in _SHARED:
            out[name] = book.orders[name]
        levels = book.legs.reshape(count, -1)[:, book.orders[0].rungs :][:, : book.orders[0].levels]
        hit = levels["status"] == LegStatus.FILLED
        out["hits"] = (hit << np.arange(hit.shape[1])).sum(axis=1)

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
