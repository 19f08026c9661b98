"""Tapes: the ticks of one symbol, cut by time into partitions, each read where it is needed and held to what the client read.

The window of a partition is its ticks and a few before them. Of a Parquet file whose rows are ticks only the window is read; of any other
file all of it, once for each process.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from threading import RLock
from typing import Any

import numpy as np
import polars as pl

from .errors import DataError, short
from .instrument import Instrument
from .ticks import Origin, Ticks

PARTITION_TICKS = 1 << 22
"""Ticks of a partition: about 100 MB. An index is built for each partition."""
_LEAD = 4
"""Ticks before a partition that belong to its window: an order sees the price before its first tick. One bar."""
_KEPT = 4
"""Windows and files that a worker keeps in memory."""


@dataclass(frozen=True)
class Tape:
    """The ticks of one symbol, as a worker has to know them. `cuts`: where the partitions begin, and the end; `digests` of their windows.

    `low`, `high`: the prices of the whole tape, which limits of size are taken from; `bar`: length in ns, 0 for ticks.
    """

    origin: Origin | None
    instrument: Instrument
    low: int
    high: int
    bar: int
    cuts: tuple[int, ...]
    digests: tuple[str, ...]

    @classmethod
    def of(cls, ticks: Ticks, poll_ns: int) -> Tape:
        """The tape of some ticks."""
        cuts = _cuts(ticks, poll_ns)
        bar = 0 if ticks.bars is None else ticks.bars.bar_ns
        tape = cls(ticks._origin, ticks.instrument, *ticks.price_range(), bar, tuple(cuts), ())
        digests = [_digest(ticks.slice(*tape.rows(k))) for k in range(len(cuts) - 1)]
        return replace(tape, digests=tuple(digests))

    def begin(self, k: int) -> int:
        """The first tick of the window of partition `k`."""
        return max(self.cuts[k] - _LEAD, 0)

    def rows(self, k: int) -> tuple[int, int]:
        """The rows of ticks, or bars, that the window of partition `k` is made of."""
        points = 4 if self.bar else 1
        return self.begin(k) // points, self.cuts[k + 1] // points

    def window(self, k: int, sent: Ticks | None) -> Ticks:
        """The ticks of partition `k` and a few before them. Raises DataError if the file here is not the one that the client read."""
        key = f"{self.digests[k]} {self.low} {self.high} {self.instrument.model_dump_json()}"
        return _cached(key, lambda: self._pinned(self._read(k, sent)))

    def _pinned(self, ticks: Ticks) -> Ticks:
        ticks = replace(ticks, instrument=self.instrument)
        ticks._range = (self.low, self.high)
        return ticks

    def _read(self, k: int, sent: Ticks | None) -> Ticks:
        a, b = self.rows(k)
        if sent is not None:
            return sent.slice(a, b)
        assert self.origin is not None, "ticks that were not read from files are sent"
        source, how = self.origin
        if isinstance(source, str) and source.endswith(".parquet"):
            # where each row of the file is a tick, the window is read alone; the digest says whether that was so
            own = {**how, "instrument": self.instrument, "symbol": None, "bar": self.bar or None}
            try:
                found = Ticks.read(pl.scan_parquet(source, glob=False).slice(a, b - a).collect(), **own)
                if _digest(found) == self.digests[k]:
                    return found
            except (DataError, OSError, pl.exceptions.PolarsError):
                pass
        whole = _cached(f"{self.origin} {self.digests}", lambda: Ticks.read(source, **how))
        try:
            digest = _digest(window := whole.slice(a, b))
        except DataError:
            digest = f"none, it ends after {len(whole):,} ticks"
        if digest != self.digests[k]:
            raise DataError(
                f"{short(source, 200)}: rows {a:,} to {b:,} are not those that the client read (hash here {digest}, there "
                f"{self.digests[k]}); put the same file there, or pass ticks made in memory, which are sent to the workers"
            )
        return window


_cache: OrderedDict[str, Ticks] = OrderedDict()
_lock = RLock()


def _cached(key: str, read: Callable[[], Ticks]) -> Ticks:
    """The ticks under a key, read if this process has not got them; those used least recently are given up."""
    with _lock:
        if key not in _cache:
            _cache[key] = read()
        _cache.move_to_end(key)
        found = _cache[key]
        while len(_cache) > _KEPT:
            _cache.popitem(last=False)
    return found


def _cuts(ticks: Ticks, poll_ns: int) -> list[int]:
    """Where the partitions begin, and the end of the tape: between bars, and between two intervals of polling.

    An order looks at the last tick of each interval, and the end of a window would pass for one.
    """
    points, ts, found = 1 if ticks.bars is None else 4, ticks.ts, [0]
    while (at := found[-1] + max(PARTITION_TICKS, 4)) < len(ts):
        at += -at % points
        while poll_ns and at < len(ts) and ts[at] // poll_ns == ts[at - 1] // poll_ns:
            at = int(np.searchsorted(ts, (ts[at - 1] // poll_ns + 1) * poll_ns))
            at += -at % points
        if at < len(ts):
            found.append(at)
        else:
            break
    return [*found, len(ts)]


def _digest(ticks: Ticks) -> str:
    """16 hex digits of all that an order can see of some ticks."""
    digest = blake2b(f"{ticks.path} {ticks.instrument.price_increment.normalize():f}".encode(), digest_size=8)
    column: Any
    for name in ("ts", "price", "size", "bid", "ask", "mark"):
        column = getattr(ticks, name)
        if column is not None:
            digest.update(f"|{name}:{len(column)}|".encode())
            digest.update(column)
    if ticks.bars is not None:
        for column in (ticks.bars.low, ticks.bars.high):
            digest.update(column)
    return digest.hexdigest()
