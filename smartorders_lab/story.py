"""Story: what the journal of a session still has of the ticks of a market, and of what users did to its orders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .actions import Action
from .errors import DataError, short
from .instrument import Instrument
from .messages import Block
from .ticks import Ticks

if TYPE_CHECKING:
    from .session import Session


class Moment(NamedTuple):
    """How far a session is with a market: its instrument, its ticks so far, and the last entry of the journal that belongs to them."""

    instrument: Instrument
    ticks: int
    entry: int


class Story:
    """The ticks of `symbol` that a session has seen, and the `actions` on its order `oid`, None: on all of its orders.

    `until`: how far, by default as far as the session is. `placed`: at which tick and when (ns) the order was made, None if the journal
    does not know any more. `first`: the number of the first tick that the journal still has.
    """

    def __init__(self, session: Session, symbol: str, oid: int | None = None, until: Moment | None = None):
        self.session, self.symbol = session, symbol
        self.placed: tuple[int, int] | None = None
        self.actions: list[Action] = []
        self._blocks: list[Block] = []
        upto: Moment = until or session._do(lambda: moment(session, symbol))
        self.instrument, self.count, last = upto
        self._read(takewhile(lambda entry: entry[0] <= last, session.journal.entries()), oid)
        self.first = self.count - sum(len(block.ts) for block in self._blocks)
        if self.placed is not None:
            self.placed = self.placed[0] + self.first, self.placed[1]

    def _read(self, entries: Iterable[tuple[int, str, bytes]], oid: int | None) -> None:
        from .book import unpack_ticks

        at = 0
        for _, kind, body in entries:
            if kind == "ticks":
                block = unpack_ticks(body)
                if block.symbol == self.symbol:
                    self._blocks.append(block)
                    at += len(block.ts)
            elif kind in ("place", "action"):
                number, about, data, *_ = json.loads(body)
                if number == oid and kind == "place":
                    self.placed = at, int(about)
                elif kind == "action" and oid in (None, number):
                    self.actions.append(Action(**{**data, "order": number}))

    def ticks(self) -> tuple[int, Ticks]:
        """The ticks that it has seen, and the number of the first of them. Raises DataError if there are none."""
        recorder, feed = self.session.recorder, self.session.feed
        if self.first and recorder is not None:
            self.session._do(recorder.flush)
            files = sorted(recorder._place(self.symbol).glob("*.parquet"))
            if files:
                paths: list[Any] = [str(path) for path in files]
                first = int(files[0].stem.partition("-")[0])
                return first, Ticks.read(paths, self.instrument)
        known = getattr(feed, "ticks", None)
        if self.first and isinstance(known, Mapping) and self.session.book.outlier is None:
            return 0, known[self.symbol].slice(0, self.count)
        if not self._blocks:
            raise DataError(
                f"ticks: the session has seen none of {short(self.symbol)} yet; wait for the first, or give them: ticks=Ticks.read(...)"
            )
        return self.first, joined(self._blocks, self.instrument)


def moment(session: Session, symbol: str) -> Moment:
    """On the session's thread: how far it is. Everything up to there is in the journal then."""
    session.book.flush()
    market = session.book.markets[symbol]
    return Moment(market.instrument, market.ticks, session.journal.last)


def joined(blocks: list[Block], instrument: Instrument) -> Ticks:
    """Blocks of one symbol as Ticks."""
    columns: dict[str, Any] = {}
    for name in ("ts", "price", "size", "bid", "ask", "mark"):
        parts = [getattr(block, name) for block in blocks]
        if all(part is not None for part in parts):
            whole = np.concatenate(parts)
            whole.flags.writeable = False
            columns[name] = whole
    return Ticks(instrument, source="session", **columns)
