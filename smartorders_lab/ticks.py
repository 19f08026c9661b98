"""Ticks: one symbol's history in columns, prices as integers, ready for the engine.

    ticks = Ticks.read("BTCUSDT-trades-2024-08.zip")
    ticks = Ticks.read("SELECT * FROM 'trades.parquet' WHERE symbol = 'BTCUSDT'")
    ticks = Ticks.from_arrays(ts, price, size)
    ticks = Ticks.read(frame_with_open_high_low_close, path="pessimistic")

Nothing is repaired in silence: what cannot be a tick is refused with its row, and what was detected, dropped, sorted or
rounded is written in `notes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from hashlib import blake2b
from html import escape
from math import ceil, floor, log10
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from .errors import DataError, short
from .feeds import history
from .feeds.history import OHLC, PRICES, Table
from .index import Index
from .instrument import MAX_UNITS, Instrument
from .rows import BAR, CONTINUOUS
from .times import duration_ns, duration_text, instant_ns, instant_text

PATHS = ("pessimistic", "optimistic", "open-high-low-close", "open-low-high-close", "nearest-first")
"""The ways in which a bar can be walked; the first two depend on the direction of the order."""
TRIGGERS = ("last", "bid", "ask", "mark")

_FLOAT_DIGITS = 10**15  # every decimal of up to 15 digits survives the way into a float64 and back


class TickView(NamedTuple):
    """What an order watches and where it would trade; arrays of one length, prices int64 in price increments.

    `price` is watched, `buy` and `sell` are where a market buy or sell trades (for plain trades all three are one
    array). `size` is float64 in base currency, empty if unknown. `flags` is uint8, empty if every tick is a print.
    """

    ts: np.ndarray
    price: np.ndarray
    buy: np.ndarray
    sell: np.ndarray
    size: np.ndarray
    flags: np.ndarray


@dataclass(frozen=True, eq=False)
class Bars:
    """OHLC bars. `ts` is the open time in ns, prices are int64 units, `volume` float64 or None, `bar_ns` the length."""

    ts: np.ndarray
    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray | None
    bar_ns: int

    def __len__(self) -> int:
        return len(self.ts)

    def points(self, path: str, direction: int) -> tuple[np.ndarray, np.ndarray]:
        """Times and prices of the four points of each bar under `path`, for a long (+1) or a short (-1)."""
        low_first = self._low_first(path, direction)
        second, third = np.where(low_first, self.low, self.high), np.where(low_first, self.high, self.low)
        steps = np.array([0, self.bar_ns // 3, 2 * self.bar_ns // 3, self.bar_ns - 1])
        ts = (self.ts[:, None] + steps).ravel()
        return _frozen(ts), _frozen(np.stack([self.open, second, third, self.close], axis=1).ravel())

    def _low_first(self, path: str, direction: int) -> np.ndarray:
        stop_first = np.full(len(self), direction > 0)
        if path == "nearest-first":
            to_low, to_high = self.open - self.low, self.high - self.open
            return np.where(to_low == to_high, stop_first, to_low < to_high)
        return {
            "pessimistic": stop_first,
            "optimistic": ~stop_first,
            "open-high-low-close": np.zeros(len(self), bool),
            "open-low-high-close": np.ones(len(self), bool),
        }[path]

    def flags(self) -> np.ndarray:
        """The open of each bar is a print, the other three points are reached continuously."""
        return _frozen(np.tile(np.array([BAR, *[BAR | CONTINUOUS] * 3], np.uint8), len(self)))


class Origin(NamedTuple):
    """How ticks were read from files: `Ticks.read(source, **how)` reads them again, here or on another machine with the same files."""

    source: str | list[str]
    how: dict[str, Any]

    @classmethod
    def of(cls, source: Any, **how: Any) -> Origin | None:
        """The origin of what is read from paths or globs, from then on absolute ones; None of any other source."""
        several = source if isinstance(source, list | tuple) else [source]
        if not all(
            isinstance(one, PathLike) or (isinstance(one, str) and not history._is_query(one)) for one in several
        ):
            return None
        paths = [str(Path(one).absolute()) for one in several]
        return cls(paths if isinstance(source, list | tuple) else paths[0], how)


@dataclass(eq=False, repr=False)
class Ticks:
    """One symbol's ticks. Made by `read`, `from_arrays` or `from_bars`; arrays are read-only and must stay as they are.

    `ts` is int64 ns UTC, not decreasing. `price`, `bid`, `ask`, `mark` are int64 units of `instrument.price_increment`
    or None where the feed has none. `size` is float64 in base currency or None, `side` int8 (+1 buyer is the aggressor,
    -1 seller, 0 unknown) or None. With `bars`, `ts` and `price` are the points of each bar for a long under `path`.
    `source` is a short text, `notes` what was detected or changed, `dropped` counts dropped rows by reason.
    """

    instrument: Instrument
    ts: np.ndarray
    price: np.ndarray | None = None
    size: np.ndarray | None = None
    side: np.ndarray | None = None
    bid: np.ndarray | None = None
    ask: np.ndarray | None = None
    mark: np.ndarray | None = None
    bars: Bars | None = None
    path: str | None = None
    source: str = "arrays"
    notes: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    _views: dict[tuple[str, int], TickView] = field(default_factory=dict, init=False)
    _hash: str = field(default="", init=False)
    _range: tuple[int, int] | tuple[()] = field(default=(), init=False)
    _indexes: dict[tuple[str, int], Index] = field(default_factory=dict, init=False)
    _room: _Room | None = field(default=None, init=False)
    _origin: Origin | None = field(default=None, init=False)

    # ------------------------------------------------------------------------------------------------ constructors

    @classmethod
    def read(
        cls,
        source: Any,
        instrument: Instrument | None = None,
        *,
        symbol: str | None = None,
        sort: bool = False,
        columns: Mapping[str, str] | None = None,
        unit: str | None = None,
        tz: str | None = None,
        path: str = "pessimistic",
        bar: str | timedelta | int | None = None,
        index: bool = False,
    ) -> Ticks:
        """Ticks from a file, glob, list of files, frame, DuckDB query or relation, or rows as ccxt returns them.

        Columns with open, high, low and close are read as bars (see `from_bars`). `instrument` gives the increments;
        without it they are read off the data. `sort=True` allows time to go backwards. `columns` names columns that are
        not understood (`{"price": "px"}`), `unit` the unit of epochs (`s`, `ms`, `us`, `ns`), `tz` the zone of
        datetimes that have none. `index` keeps the tick index in a file beside `source`, to be used next time. Raises DataError.
        """
        _check_path(path)
        if index and not (isinstance(source, (str, PathLike)) and Path(source).is_file()):
            raise DataError(
                f"index = True: {short(source)} is not one file; leave it out, the index is built on first use"
            )
        table = history.load(source, columns, unit, tz)
        if table.is_bars:
            ticks = cls._of_bars(table, instrument, symbol, path, bar, sort)
        else:
            ticks = cls._of_ticks(table, instrument, symbol, sort)
        if index:
            ticks._keep_indexes(source)
        ticks._origin = Origin.of(
            source,
            instrument=instrument,
            symbol=symbol,
            sort=sort,
            columns=columns,
            unit=unit,
            tz=tz,
            path=path,
            bar=bar,
        )
        return ticks

    @classmethod
    def from_arrays(
        cls,
        ts: Any,
        price: Any,
        size: Any = None,
        side: Any = None,
        *,
        trade_id: Any = None,
        bid: Any = None,
        ask: Any = None,
        mark: Any = None,
        instrument: Instrument | None = None,
        symbol: str = "",
        sort: bool = False,
        unit: str | None = None,
        tz: str | None = None,
    ) -> Ticks:
        """Ticks from arrays, lists or Series of one length; `price` may be None if there are quotes or a mark price.

        `ts` as epochs or datetimes, `side` as 1 and -1 or buy and sell. Raises DataError.
        """
        given = {"ts": ts, "price": price, "size": size, "side": side, "trade_id": trade_id}
        table = history.from_columns({**given, "bid": bid, "ask": ask, "mark": mark}, unit, tz)
        return cls._of_ticks(table, instrument, symbol, sort)

    @classmethod
    def from_bars(
        cls,
        source: Any,
        path: str = "pessimistic",
        instrument: Instrument | None = None,
        symbol: str | None = None,
        bar: str | timedelta | int | None = None,
        *,
        sort: bool = False,
        columns: Mapping[str, str] | None = None,
        unit: str | None = None,
        tz: str | None = None,
    ) -> Ticks:
        """OHLC bars, each walked as four points of a stated `path`; the time of a bar is that of its open.

        `bar` is the length of one bar (`"1m"`, a timedelta, or nanoseconds); without it, the smallest step between two
        opens. Sources and other arguments as in `read`. Raises DataError.
        """
        _check_path(path)
        table = history.load(source, columns, unit, tz)
        if not table.is_bars:
            found = ", ".join(table.frame.columns)
            raise DataError(f"columns: open, high, low, close are missing; understood: {found}; ticks go to Ticks.read")
        return cls._of_bars(table, instrument, symbol, path, bar, sort)

    @classmethod
    def _of_ticks(cls, table: Table, instrument: Instrument | None, symbol: str | None, sort: bool) -> Ticks:
        instrument, symbol = _named(instrument, symbol, table)
        notes, dropped = list(table.notes), dict[str, int]()
        frame = table.frame.with_row_index("row")
        if "trade_id" in frame.columns:
            frame = _without_duplicates(frame, table, notes, dropped)
        frame = _in_order(frame, table, sort, notes)
        names = [name for name in PRICES if name in frame.columns]
        instrument, units = _priced(frame, names, instrument, symbol, table, notes)
        if "bid" in units and (crossed := int((units["bid"] > units["ask"]).sum())):
            notes.append(f"{_count(crossed, 'crossed quote')}: bid above ask; kept")
        return cls(
            instrument=instrument,
            ts=_frozen(frame["ts"].to_numpy()),
            size=_own(frame, "size"),
            side=_known_side(frame, notes),
            source=table.source,
            notes=notes,
            dropped=dropped,
            **units,
        )

    @classmethod
    def _of_bars(
        cls,
        table: Table,
        instrument: Instrument | None,
        symbol: str | None,
        path: str,
        bar: str | timedelta | int | None,
        sort: bool,
    ) -> Ticks:
        instrument, symbol = _named(instrument, symbol, table)
        notes, dropped = list(table.notes), dict[str, int]()
        frame = _distinct_bars(table.frame.with_row_index("row"), notes, dropped)
        frame = _in_order(frame, table, sort, notes)
        bar_ns = _bar_length(frame, table, bar, notes)
        instrument, units = _priced(frame, list(OHLC), instrument, symbol, table, notes)
        bars = Bars(_frozen(frame["ts"].to_numpy()), volume=_own(frame, "volume"), bar_ns=bar_ns, **units)
        return cls._walked(bars, path, instrument, table.source, notes, dropped)

    @classmethod
    def _walked(
        cls, bars: Bars, path: str, instrument: Instrument, source: str, notes: list[str], dropped: dict[str, int]
    ) -> Ticks:
        ts, price = bars.points(path, +1)
        return cls(instrument, ts, price, bars=bars, path=path, source=source, notes=notes, dropped=dropped)

    # ------------------------------------------------------------------------------------------------ use

    @property
    def symbol(self) -> str:
        """The symbol, empty if neither the source nor the caller named one."""
        return self.instrument.symbol

    def __len__(self) -> int:
        return len(self.ts)

    def view(self, trigger: str = "last", direction: int = +1) -> TickView:
        """The arrays that an order watching `trigger` (last, bid, ask, mark) is replayed on; cached.

        `direction` is +1 for a long, -1 for a short: the path inside a bar depends on it. Raises DataError if the feed
        does not have that price.
        """
        if direction not in (1, -1):
            raise DataError(f"direction = {short(direction)}: must be +1 (long) or -1 (short)")
        key = (trigger, direction if self.bars is not None else 1)
        if key not in self._views:
            self._views[key] = self._view(*key)
        return self._views[key]

    def index(self, trigger: str = "last", direction: int = +1, workers: int | None = None) -> Index:
        """The tick index of the price that `trigger` watches, built on first use; replay() and sweep() ask for it."""
        view = self.view(trigger, direction)
        key = (trigger, direction if self.bars is not None else 1)
        if key not in self._indexes:
            self._indexes[key] = Index(view.price, workers)
        return self._indexes[key]

    def _keep_indexes(self, source: str | PathLike[str]) -> None:
        """Take each index from its file beside `source`; one that is missing, stale or damaged is built and written."""
        for trigger in self.triggers:
            for direction in (1, -1) if self.bars is not None else (1,):
                file = f"{fspath(source)}.{trigger}{'' if direction > 0 else '-short'}.index"
                data = f"{self.data_hash} {self.path}"
                found = Index.load(file, self.view(trigger, direction).price, data)
                if found is None:
                    self.index(trigger, direction).save(file, data)
                else:
                    self._indexes[trigger, direction] = found

    def append(self, more: Ticks) -> Ticks:
        """These ticks and then `more`, of the same market and with the same columns, not before the last one here.

        Only what is new is copied, as a rule, and indexes are extended: ticks can come in all day. Bars are joined as bars.
        Raises DataError if the two do not fit.
        """
        if not isinstance(more, Ticks):
            raise DataError(
                f"more = {short(more)}: is not Ticks; read them with Ticks.read(...) or Ticks.from_arrays(...)"
            )
        ours, theirs = (_tick_columns(ticks) for ticks in (self, more))
        for name, a, b in (
            ("symbol", self.symbol, more.symbol),
            ("price_increment", self.instrument.price_increment, more.instrument.price_increment),
            ("columns", ", ".join(ours), ", ".join(theirs)),
            ("bars", self.bars and (self.bars.bar_ns, self.path), more.bars and (more.bars.bar_ns, more.path)),
        ):
            if a != b:
                raise DataError(
                    f"more.{name} = {b}: these ticks have {a}; read both in the same way, with the same instrument"
                )
        if more.ts[0] < self.ts[-1]:
            raise DataError(
                f"more.ts[0] = {instant_text(int(more.ts[0]))}: before the last tick, {instant_text(int(self.ts[-1]))}; cut the overlap "
                "off with more.slice(...)"
            )
        notes = [*self.notes, *(note for note in more.notes if note not in self.notes)]
        dropped = {k: self.dropped.get(k, 0) + more.dropped.get(k, 0) for k in {**self.dropped, **more.dropped}}
        if self.bars is not None and more.bars is not None:
            both = [
                {n: getattr(b, n) for n in _BAR_COLUMNS if getattr(b, n) is not None} for b in (self.bars, more.bars)
            ]
            whole: dict[str, Any] = {n: _frozen(np.concatenate([both[0][n], both[1][n]])) for n in both[0]}
            bars = replace(self.bars, **whole)
            return self._walked(bars, str(self.path), self.instrument, self.source, notes, dropped)
        first, last = len(self), len(self) + len(more)
        if self._room is None or self._room.used != first or self._room.capacity < last:
            self._room = _Room(ours, last + last // 4)
        columns: dict[str, Any] = {name: _frozen(column) for name, column in self._room.append(theirs).items()}
        joined = replace(self, **columns, notes=notes, dropped=dropped)
        joined._room = self._room
        for key, index in self._indexes.items():
            if index.ticks == first:  # not one that was extended along another branch
                index.extend(joined.view(*key).price)
                joined._indexes[key] = index
        return joined

    def _view(self, trigger: str, direction: int) -> TickView:
        watched = self._watched(trigger)
        size = _frozen(np.empty(0)) if self.size is None else self.size
        flags = _frozen(np.empty(0, np.uint8))
        if self.bars is not None:
            ts, price = (self.ts, watched) if direction > 0 else self.bars.points(str(self.path), direction)
            return TickView(ts, price, price, price, size, self.bars.flags())
        buy = sell = watched
        if trigger in ("bid", "ask") and self.bid is not None and self.ask is not None:
            buy, sell = self.ask, self.bid
        elif trigger == "mark" and self.price is not None:
            buy = sell = self.price
        return TickView(self.ts, watched, buy, sell, size, flags)

    def _watched(self, trigger: str) -> np.ndarray:
        if trigger not in TRIGGERS:
            raise DataError(f"trigger = {short(trigger)}: must be one of {', '.join(TRIGGERS)}")
        watched: np.ndarray | None = getattr(self, "price" if trigger == "last" else trigger)
        if watched is None:
            has = self.triggers
            feed = {("last",): "trades", ("bid", "ask"): "quotes", ("mark",): "mark prices"}.get(has, " and ".join(has))
            feed = feed if self.bars is None else "bars of the last price"
            raise DataError(f'trigger = {trigger!r}: this feed has {feed} only; use trigger="{has[0]}" in the order')
        return watched

    @property
    def triggers(self) -> tuple[str, ...]:
        """The triggers that this feed can serve."""
        series = {"last": self.price, "bid": self.bid, "ask": self.ask, "mark": self.mark}
        return tuple(trigger for trigger in TRIGGERS if series[trigger] is not None)

    def price_range(self) -> tuple[int, int]:
        """The lowest and the highest price of any series, in increments."""
        if not self._range:
            series = [getattr(self, name) for name in PRICES]
            if self.bars is not None:
                series = [self.bars.low, self.bars.high]
            known = [s for s in series if s is not None]
            self._range = min(int(s.min()) for s in known), max(int(s.max()) for s in known)
        return self._range

    def with_path(self, path: str) -> Ticks:
        """The same bars under another path. Raises DataError for plain ticks."""
        _check_path(path)
        if self.bars is None:
            raise DataError(f"path = {path!r}: these are ticks, not bars; ticks are replayed as they came")
        return self._walked(self.bars, path, self.instrument, self.source, list(self.notes), dict(self.dropped))

    def slice(self, start: int | datetime | str | None = None, stop: int | datetime | str | None = None) -> Ticks:
        """Ticks from `start` up to, not including, `stop`: both positions, or both times.

        Positions are those of a Python slice; times are datetimes with a zone or ISO 8601 text. Bars are taken whole:
        positions count bars, and a bar belongs to the time of its open. Raises DataError if nothing is left.
        """
        ts = self.ts if self.bars is None else self.bars.ts
        first, last, _ = slice(_position(ts, start), _position(ts, stop)).indices(len(ts))
        if first >= last:
            span = f"{instant_text(ts[0])} to {instant_text(ts[-1])}"
            raise DataError(f"slice({start!r}, {stop!r}): holds none of the {len(ts):,} rows; they run from {span}")
        source = f"{self.source} [{first}:{last}]"
        if self.bars is not None:
            bars = replace(self.bars, **_cut(self.bars, _BAR_COLUMNS, first, last))
            return self._walked(bars, str(self.path), self.instrument, source, list(self.notes), dict(self.dropped))
        cut = _cut(self, _TICK_COLUMNS, first, last)
        return replace(self, **cut, source=source, notes=list(self.notes), dropped=dict(self.dropped))

    @property
    def data_hash(self) -> str:
        """32 hex digits that change whenever a column, the increment or the bar length does; not the path."""
        if not self._hash:
            digest = blake2b(f"{self.instrument.price_increment.normalize():f}".encode(), digest_size=16)
            holder, names = (self, _TICK_COLUMNS) if self.bars is None else (self.bars, _BAR_COLUMNS)
            digest.update(b"" if self.bars is None else str(self.bars.bar_ns).encode())
            for name in names:
                column = getattr(holder, name)
                if column is not None:
                    digest.update(f"|{name}:{len(column)}|".encode())
                    digest.update(column)
            self._hash = digest.hexdigest()
        return self._hash

    # ------------------------------------------------------------------------------------------------ display

    def _summary(self) -> dict[str, str]:
        what = f"{len(self):,} ticks"
        if self.bars is not None:
            what = f"{len(self.bars):,} bars of {duration_text(self.bars.bar_ns)}, {self.path} ({len(self):,} ticks)"
        watched = self._watched(self.triggers[0])
        low, high = (f"{self.instrument.price(units):f}" for units in (watched.min(), watched.max()))
        kind = "derived" if self.instrument.derived else "given"
        return {
            "symbol": self.symbol or "(no symbol)",
            "ticks": what,
            "from": instant_text(self.ts[0]),
            "to": instant_text(self.ts[-1]),
            self.triggers[0]: f"{low} to {high}",
            "increment": f"{self.instrument.price_increment.normalize():f} ({kind})",
            "prices": ", ".join(self.triggers),
            "source": self.source,
        }

    def __repr__(self) -> str:
        shown = self._summary()
        span = f"{shown['from'][:19]} to {shown['to'][:19]}"
        return f"<Ticks {shown['symbol']}: {shown['ticks']}, {span}, {self.triggers[0]} {shown[self.triggers[0]]}>"

    def _repr_html_(self) -> str:
        rows = [*self._summary().items(), *(("note", note) for note in self.notes)]
        cell = 'style="text-align:left;padding:2px 12px 2px 0;border:none"'
        body = "".join(
            f"<tr><th {cell}>{escape(name)}</th><td {cell}>{escape(value)}</td></tr>" for name, value in rows
        )
        return f'<table style="border-collapse:collapse;background:transparent">{body}</table>'


class _Room:
    """Columns with room at the end; `used` rows of them are taken."""

    def __init__(self, columns: Mapping[str, np.ndarray], capacity: int):
        self.capacity, self.used = capacity, 0
        self.columns = {name: np.empty(capacity, column.dtype) for name, column in columns.items()}
        self.append(columns)

    def append(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Add rows; returns all that are taken now."""
        first, self.used = self.used, self.used + len(columns["ts"])
        for name, column in self.columns.items():
            column[first : self.used] = columns[name]
        return {name: column[: self.used] for name, column in self.columns.items()}


_TICK_COLUMNS = ("ts", "price", "size", "side", "bid", "ask", "mark")
_BAR_COLUMNS = ("ts", *OHLC, "volume")


# ---------------------------------------------------------------------------------------------------- rows


def _without_duplicates(frame: pl.DataFrame, table: Table, notes: list[str], dropped: dict[str, int]) -> pl.DataFrame:
    """The first row of each trade id; rows without an id all stay."""
    ids = frame["trade_id"]
    if ids.dtype.is_integer() and not ids.null_count() and (ids[1:] > ids[:-1]).all():
        return frame
    again = ~(ids.is_first_distinct() | ids.is_null())
    count = int(again.sum())
    if not count:
        return frame
    dropped["duplicate trade ids"] = count
    note = f"{_count(count, 'duplicate trade id')} dropped, first at {table.where(int(np.argmax(again.to_numpy())))}"
    facts = [name for name in ("trade_id", "ts", "price") if name in frame.columns]
    if differing := frame.filter(ids.is_not_null()).select(facts).unique().height - ids.drop_nulls().n_unique():
        note += f"; {differing} with another time or price than the row kept"
    notes.append(note)
    return frame.filter(~again)


def _distinct_bars(frame: pl.DataFrame, notes: list[str], dropped: dict[str, int]) -> pl.DataFrame:
    """Each bar once: pages of candles overlap, and an equal bar at the same time is the same bar."""
    columns = [name for name in _BAR_COLUMNS if name in frame.columns]
    once = frame.unique(subset=columns, keep="first", maintain_order=True)
    if count := frame.height - once.height:
        dropped["repeated bars"] = count
        notes.append(f"{_count(count, 'repeated bar')} dropped")
    return once


def _in_order(frame: pl.DataFrame, table: Table, sort: bool, notes: list[str]) -> pl.DataFrame:
    """The rows with time not going backwards. Raises DataError at the first that does, unless `sort`."""
    if table.vision and frame["trade_id"].dtype.is_integer() and not frame["trade_id"].is_sorted():
        frame = frame.sort("trade_id", maintain_order=True)
        notes.append("rows sorted by trade id: the source was not in order")
    ts = frame["ts"].to_numpy()
    back = np.flatnonzero(ts[1:] < ts[:-1]) + 1
    if not len(back):
        return frame
    row = int(back[0])
    where = table.where(frame["row"][row])
    if not sort:
        more = f" ({len(back) - 1} more such rows)" if len(back) > 1 else ""
        raise DataError(
            f"{where}: ts = {instant_text(ts[row])}: earlier than {instant_text(ts[row - 1])} before it{more}; "
            "pass sort=True to sort by time"
        )
    notes.append(f"sorted by time: it went backwards {_count(len(back), 'time')}, first at {where}")
    return frame.sort("ts", maintain_order=True)


def _known_side(frame: pl.DataFrame, notes: list[str]) -> np.ndarray | None:
    if "side" not in frame.columns:
        return None
    side = frame["side"].to_numpy()
    if not side.any():
        notes.append("side: unknown in every row")
        return None
    return _frozen(side)


# ---------------------------------------------------------------------------------------------------- prices


def _named(instrument: Instrument | None, symbol: str | None, table: Table) -> tuple[Instrument | None, str]:
    """The instrument and the symbol: as the caller says, else the instrument's, else the source's."""
    own = instrument.symbol if instrument else ""
    if symbol and own and symbol != own:
        raise DataError(f"symbol = {symbol!r}: the instrument is {own!r}; leave one of them out")
    symbol = symbol or own or table.symbol
    return (instrument.model_copy(update={"symbol": symbol}) if instrument else None), symbol


def _priced(
    frame: pl.DataFrame, names: list[str], instrument: Instrument | None, symbol: str, table: Table, notes: list[str]
) -> tuple[Instrument, dict[str, Any]]:
    """The price columns as int64 units, and the instrument whose increment they count."""
    prices = {name: frame[name].to_numpy() for name in names}

    def where(row: int) -> str:
        return table.where(frame["row"][row])

    if instrument is None:
        digits = _digits(prices, notes)
        instrument = Instrument(symbol=symbol, price_increment=Decimal(1).scaleb(-digits), derived=True)
        units = {name: np.rint(values * 10.0**digits) for name, values in prices.items()}
    else:
        units = {name: _on_grid(name, values, instrument, where, notes) for name, values in prices.items()}
    for name, counts in units.items():
        if counts.min() < 1 or counts.max() > MAX_UNITS:
            row = int(np.argmax((counts < 1) | (counts > MAX_UNITS)))
            raise DataError(
                f"{where(row)}: {name} = {prices[name][row]}: must be 1 to 2**53 steps of "
                f"{instrument.price_increment}; scale the prices, or drop the row"
            )
    return instrument, {name: _frozen(counts.astype(np.int64)) for name, counts in units.items()}


def _digits(prices: Mapping[str, np.ndarray], notes: list[str]) -> int:
    """Digits after the point that hold every price exactly and are at least as fine as 1e-4 of the lowest.

    A tape of whole prices around 100 says nothing about its market's increment; in steps of 1 a stop at 107.80 would be
    107, and a slippage of a basis point 1 %. Prices that no power of ten holds are rounded to 1e-9 of the lowest, which is noted.
    """
    low = min(float(values.min()) for values in prices.values())
    high = max(float(values.max()) for values in prices.values())
    fine = ceil(4 - log10(low))
    for digits in range(13):
        if all(_exact(values[:1000], digits) and _exact(values, digits) for values in prices.values()):
            return max(digits, min(fine, floor(log10(_FLOAT_DIGITS) - log10(high)) - 1))
    fine, room = ceil(9 - log10(low)), floor(log10(MAX_UNITS) - log10(high))
    digits = max(0, min(fine, room, 22))
    notes.append(f"prices rounded to 1e-{digits}: no coarser power of ten holds them exactly")
    return digits


def _exact(values: np.ndarray, digits: int) -> bool:
    scale = 10.0**digits
    return bool(values.max() < _FLOAT_DIGITS / scale and (np.rint(values * scale) / scale == values).all())


def _on_grid(
    name: str, values: np.ndarray, instrument: Instrument, where: Callable[[int], str], notes: list[str]
) -> np.ndarray:
    """float64 counts of the increment. Raises DataError at the first price in between; a mark price is rounded."""
    with np.errstate(over="ignore"):
        units = np.rint(values / float(instrument.price_increment))
    off = np.flatnonzero(instrument.prices(units) != values)
    if not len(off):
        return units
    if name == "mark":  # exchanges publish it finer than anything trades
        notes.append(f"mark: {_count(len(off), 'price')} rounded to the increment {instrument.price_increment}")
        return units
    row = int(off[0])
    below, above = instrument.neighbours(float(values[row]))
    more = f" ({len(off) - 1} more such rows)" if len(off) > 1 else ""
    raise DataError(
        f"{where(row)}: {name} = {values[row]}: not a multiple of the increment {instrument.price_increment}, between "
        f"{below} and {above}{more}; leave instrument out to read the increment off the data"
    )


# ---------------------------------------------------------------------------------------------------- bars and times


def _check_path(path: str) -> None:
    if path not in PATHS:
        raise DataError(f"path = {short(path)}: must be one of {', '.join(PATHS)}")


def _bar_length(frame: pl.DataFrame, table: Table, bar: str | timedelta | int | None, notes: list[str]) -> int:
    """Nanoseconds of one bar: as given, else the smallest step between two opens. Raises DataError if bars overlap."""
    ts = frame["ts"].to_numpy()
    steps = np.diff(ts)
    shortest = int(steps.min()) if len(steps) else 0
    row = int(np.argmin(steps)) + 1 if len(steps) else 0
    if len(steps) and shortest == 0:
        where = table.where(frame["row"][row])
        raise DataError(
            f"{where}: ts = {instant_text(ts[row])}: a second, different bar opens at this time; drop one of them"
        )
    if bar is None:
        if not len(steps):
            raise DataError('bar: one bar alone does not tell its length; pass bar="1m"')
        notes.append(f"bars: {duration_text(shortest)} each, the smallest step between two opens")
        return _long_enough(shortest)
    length = _long_enough(_bar_ns(bar))
    if len(steps) and shortest < length:
        where = table.where(frame["row"][row])
        raise DataError(
            f"{where}: opens {duration_text(shortest)} after the bar before: bar = {short(bar)} is longer; pass less"
        )
    return length


def _bar_ns(bar: str | timedelta | int) -> int:
    try:
        return duration_ns(bar)
    except ValueError as error:
        raise DataError(f"bar = {short(bar)}: {error}") from None


def _long_enough(bar_ns: int) -> int:
    if bar_ns < 4:
        raise DataError(f"bar = {bar_ns} ns: must be 4 ns or more, a nanosecond for each of its points")
    return bar_ns


def _position(ts: np.ndarray, when: int | datetime | str | None) -> int | None:
    """A position as it is; a time as the position of the first row at or after it."""
    if when is None or isinstance(when, int | np.integer):
        return when
    try:
        return int(np.searchsorted(ts, instant_ns(when)))
    except ValueError as error:
        raise DataError(f"slice: {short(when)}: {error}") from None


# ---------------------------------------------------------------------------------------------------- arrays


def _frozen(array: np.ndarray) -> np.ndarray:
    """`array`, contiguous and read-only, without touching the flags of the caller's own."""
    array = np.ascontiguousarray(array).view()
    array.flags.writeable = False
    return array


def _own(frame: pl.DataFrame, name: str) -> np.ndarray | None:
    """A column of our own: polars shares the memory of the arrays that a frame was made of."""
    return _frozen(frame[name].to_numpy().copy()) if name in frame.columns else None


def _tick_columns(ticks: Ticks) -> dict[str, np.ndarray]:
    columns = {name: getattr(ticks, name) for name in _TICK_COLUMNS}
    return {name: column for name, column in columns.items() if column is not None}


def _cut(holder: object, names: tuple[str, ...], first: int, last: int) -> dict[str, Any]:
    columns = {name: getattr(holder, name) for name in names}
    return {name: column[first:last] for name, column in columns.items() if column is not None}


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
