"""Entries: the moments at which a sweep creates its orders, from whatever says so: numbers, times, masks, signals, chance.

    entries=[0, 500, 1000]                      # tick numbers
    entries="every 1h"
    entries=so.random_entries(10_000, seed=1)
    entries=frame["ema_cross"]                  # True, or +1 and -1 for long and short
    entries=(frame, "ema_cross")                # rows with a time of their own

A signal on bars is known at the close of its bar, so that is where its orders are created.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import blake2b
from typing import Any

import numpy as np
import polars as pl

from .errors import DataError, short
from .feeds.history import times
from .ticks import Ticks
from .times import duration_ns, instant_ns, instant_text

_YEAR_NS = 366 * 86400 * 10**9
"""An int that is no tick number and lies longer than this before the first tick is another unit, not a time."""
_TIME_NAMES = ("ts", "ts_ns", "time", "timestamp", "datetime", "date", "open_time")
_WAYS = (
    'write tick numbers, times, a mask, "every 1h", so.random_entries(1000), or a signal with one value for each tick'
)


@dataclass(frozen=True)
class Entries:
    """`created` (ns) and `cursors` (first tick at or after it), int64, one for each entry, in the order given.

    `sides` is None, or int8 with +1 where the entry is long and -1 where it is short. `text` says where they came from.
    """

    created: np.ndarray
    cursors: np.ndarray
    sides: np.ndarray | None
    text: str

    def __len__(self) -> int:
        return len(self.created)

    @property
    def hash(self) -> str:
        """16 hex digits that change whenever an entry does."""
        digest = blake2b(digest_size=8)
        for array in (self.created, self.cursors, self.sides):
            digest.update(b"|" if array is None else array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class RandomEntries:
    """`n` entries at random; made by `random_entries`."""

    n: int
    seed: int


def random_entries(n: int, seed: int = 0) -> RandomEntries:
    """`n` different ticks at random (of bars: opens), in order of time; the same seed gives the same ones.

    Raises DataError if `n` is not a whole number above 0; whether there are that many ticks, the sweep says.
    """
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise DataError(f"{name} = {short(value)}: must be a whole number of at least {least}; write 1000")
    return RandomEntries(int(n), int(seed))


def find_entries(entries: Any, ticks: Ticks) -> Entries:
    """The entries that were asked for, on these ticks. Raises DataError, which names the first that is wrong."""
    if entries is None:
        raise DataError(f"entries: is required; {_WAYS}")
    if isinstance(entries, Entries):
        return entries
    ts = _points(ticks)
    if isinstance(entries, RandomEntries):
        step = 1 if ticks.bars is None else 4
        places = len(ts) // step
        if entries.n > places:
            raise DataError(f"entries: random_entries({entries.n}) of {places} ticks; ask for fewer")
        drawn = np.random.default_rng(entries.seed).choice(places, entries.n, replace=False, shuffle=False)
        return _at(np.sort(drawn) * step, ts, f"{entries.n} at random, seed {entries.seed}")
    if isinstance(entries, str) and entries.strip().startswith("every"):
        return _every(entries, ts)
    if isinstance(entries, (str, datetime, int, np.integer, np.datetime64)) and not isinstance(entries, bool):
        entries = [entries]
    if isinstance(entries, date) or not isinstance(entries, Iterable):
        raise DataError(f"entries = {short(entries)}: are no entries; {_WAYS}")
    return _of_values(entries, ticks, ts)


def _points(ticks: Ticks) -> np.ndarray:
    return ticks.ts if ticks.bars is None else ticks.view().ts


def _at(numbers: np.ndarray, ts: np.ndarray, text: str, sides: np.ndarray | None = None) -> Entries:
    numbers = np.ascontiguousarray(numbers, dtype=np.int64)
    if not len(numbers):
        raise DataError(f"entries: there are none ({text}); {_WAYS}")
    return Entries(np.ascontiguousarray(ts[numbers]), numbers, sides, text)


def _every(text: str, ts: np.ndarray) -> Entries:
    try:
        step = duration_ns(text.strip().removeprefix("every").strip())
    except ValueError as error:
        raise DataError(f"entries = {short(text)}: {error}") from None
    if step == 0:
        raise DataError(f'entries = {short(text)}: must be longer than 0; write "every 1h"')
    begin, end = int(ts[0]), int(ts[-1])
    if (end - begin) // step >= 10 * len(ts) + 1000:
        raise DataError(f"entries = {short(text)}: makes more than ten entries for each tick; make it longer")
    created = np.arange(begin, end + 1, step, dtype=np.int64)
    return Entries(created, np.searchsorted(ts, created).astype(np.int64), None, text.strip())


def _of_values(entries: Any, ticks: Ticks, ts: np.ndarray) -> Entries:
    if isinstance(entries, tuple) and len(entries) == 2 and hasattr(entries[0], "columns"):
        return _of_frame(*entries, ticks, ts)
    if hasattr(entries, "columns"):
        raise DataError(
            'entries: is a frame; say which column is the signal, entries=(frame, "signal"), or give frame["signal"]'
        )
    values = _array(entries)
    if values.dtype.kind == "M":
        return _at_times(values.astype("datetime64[ns]").astype(np.int64), ts)
    places = len(ts) if ticks.bars is None else len(ticks.bars)
    if values.dtype.kind in "bf" or (
        values.dtype.kind in "iu" and len(values) in (places, len(ts)) and _is_signal(values)
    ):
        return _of_signal(values, ticks, ts)
    if values.dtype.kind not in "iu":
        raise DataError(f"entries = {short(entries)}: are no entries; {_WAYS}")
    return _at_numbers(values.astype(np.int64), ts)


def _array(entries: Any) -> np.ndarray:
    """What was given as one array: bool, int, float (null is NaN) or datetime64."""
    if not isinstance(entries, (pl.Series, np.ndarray)) and hasattr(entries, "to_numpy"):
        entries = entries.to_numpy()
    if isinstance(entries, pl.Series):
        if isinstance(entries.dtype, pl.Datetime):
            if entries.dtype.time_zone is None:
                raise DataError(f"entries[0] = {entries[0]}: has no time zone; add one: .dt.replace_time_zone('UTC')")
            return entries.dt.epoch("ns").to_numpy().astype("datetime64[ns]")
        if entries.dtype == pl.Boolean:
            return entries.fill_null(False).to_numpy()
        entries = entries.to_numpy()
    values = entries if isinstance(entries, np.ndarray) else list(entries)
    if isinstance(values, list) and values and all(type(value) is bool for value in values):
        return np.array(values)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biufM":
        return np.array([_instant(i, value) for i, value in enumerate(values)], dtype=np.int64)
    return values


def _instant(i: int, value: Any) -> int:
    try:
        return instant_ns(value)
    except (ValueError, OverflowError) as error:
        raise DataError(f"entries[{i}] = {short(value)}: {error}") from None


def _is_signal(values: np.ndarray) -> bool:
    return bool(np.isin(values, (-1, 0, 1)).all())


def _at_numbers(values: np.ndarray, ts: np.ndarray) -> Entries:
    """Ints below the number of ticks are tick numbers, the others times, as in replay()."""
    number = (values >= 0) & (values < len(ts))
    created = np.where(number, ts[np.where(number, values, 0)], values)
    cursors = np.where(number, values, np.searchsorted(ts, values)).astype(np.int64)
    outside = ~number & ((values < int(ts[0]) - _YEAR_NS) | (cursors >= len(ts)))
    if outside.any():
        i = int(np.argmax(outside))
        raise DataError(
            f"entries[{i}] = {values[i]}: lies outside the ticks; use a tick number below {len(ts)} "
            f"or a time (ns) up to {instant_text(int(ts[-1]))}"
        )
    if not len(values):
        raise DataError(f"entries: there are none; {_WAYS}")
    return Entries(created, cursors, None, f"{len(values)} given")


def _at_times(values: np.ndarray, ts: np.ndarray, sides: np.ndarray | None = None) -> Entries:
    late = values > ts[-1]
    if late.any():
        i = int(late.argmax())
        raise DataError(
            f"entries[{i}] = {instant_text(int(values[i]))}: lies behind the last tick at {instant_text(int(ts[-1]))}; leave it out"
        )
    if not len(values):
        raise DataError(f"entries: there are none; {_WAYS}")
    return Entries(values, np.searchsorted(ts, values).astype(np.int64), sides, f"{len(values)} times")


def _of_signal(values: np.ndarray, ticks: Ticks, ts: np.ndarray) -> Entries:
    """One value for each tick, or for each bar; of a bar it is known at the close."""
    places = np.arange(len(ts))
    if ticks.bars is not None and len(values) == len(ticks.bars):
        places = places[3::4]
    if len(values) != len(places):
        of = f"{len(ts)} ticks" if ticks.bars is None else f"{len(ticks.bars)} bars"
        raise DataError(f"entries: has {len(values)} values for {of}; a mask or a signal has one for each")
    chosen, sides = _signs(values)
    return _at(places[chosen], ts, f"signal, {len(chosen)} of {len(values)}", sides)


def _signs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows that enter, and which way if any of them says -1."""
    values = np.nan_to_num(values) if values.dtype.kind == "f" else values
    chosen = np.flatnonzero(values)
    if values.dtype.kind == "b" or not (values[chosen] < 0).any():
        return chosen, None
    return chosen, np.sign(values[chosen]).astype(np.int8)


def _of_frame(frame: Any, name: str, ticks: Ticks, ts: np.ndarray) -> Entries:
    """The rows of a frame whose column `name` is not zero, at the frame's own times."""
    if not isinstance(frame, pl.DataFrame):
        frame = pl.from_pandas(frame.reset_index() if frame.index.name in _TIME_NAMES else frame)
    if name not in frame.columns:
        raise DataError(f"entries: the frame has no column {name!r}; it has {', '.join(frame.columns)}")
    stamp = next((c for c in _TIME_NAMES if c in frame.columns and c != name), None)
    stamp = stamp or next((c for c, kind in frame.schema.items() if isinstance(kind, pl.Datetime) and c != name), None)
    if stamp is None:
        return _of_signal(_array(frame[name]), ticks, ts)
    when, _ = times(frame[stamp], lambda row: f"entries, row {row}")
    values = _array(frame[name])
    if values.dtype.kind not in "biuf":
        raise DataError(f"entries: column {name!r} is {frame[name].dtype}; a signal is True and False, or 1, 0 and -1")
    chosen, sides = _signs(values)
    known = when[chosen]
    if ticks.bars is not None and np.isin(known, ticks.bars.ts).all():
        known = known + ticks.bars.bar_ns - 1
    return _at_times(known, ts, sides)
