"""Any source of past ticks or bars as one checked table under canonical column names.

A source is a file (Parquet, CSV, zipped CSV: paths, globs, lists of them), a frame (polars, pandas, pyarrow, a
DuckDB relation), a DuckDB query, or rows as ccxt returns them. What comes out is a `Table` whose frame holds

    ts         Int64    nanoseconds since 1970, UTC
    price      Float64  last price, quote currency; likewise bid and ask, mark; or open, high, low, close
    size       Float64  base currency, 0 or above (`volume` beside open, high, low, close)
    side       Int8     +1 buyer is the aggressor, -1 seller, 0 unknown
    trade_id   any      as the source has it

Every row has been looked at: what cannot be a tick is a DataError with its row, counted from 0 without the header.
"""

from __future__ import annotations

import csv
import glob
import gzip
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..errors import DataError, short

UNITS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
"""Nanoseconds in one step of each epoch unit."""

PRICES = ("price", "bid", "ask", "mark")
OHLC = ("open", "high", "low", "close")

_SECONDS_1990, _SECONDS_2100 = 631_152_000, 4_102_444_800

# Understood names, best first, in lower case without underscores; `_ns`, `_us`, `_ms`, `_s` may follow a time.
_AMOUNTS = ("size", "amount", "qty", "quantity", "volume", "vol", "q", "v")
_TICK_NAMES: dict[str, tuple[str, ...]] = {
    "ts": ("ts", "timestamp", "time", "datetime", "date", "opentime", "transacttime", "tradetime", "t"),
    "price": ("price", "p", "last", "lastprice", "tradeprice"),
    "size": _AMOUNTS,
    "side": ("side", "takerside", "aggressor"),
    "is_buyer_maker": ("isbuyermaker", "buyermaker", "m"),
    "trade_id": ("tradeid", "id", "aggtradeid", "aggid", "tid"),
    "bid": ("bid", "bidprice", "bestbid", "bestbidprice"),
    "ask": ("ask", "askprice", "bestask", "bestaskprice"),
    "mark": ("mark", "markprice"),
    "symbol": ("symbol",),
}
_BAR_NAMES: dict[str, tuple[str, ...]] = {
    "ts": _TICK_NAMES["ts"],
    "open": ("open", "o", "openprice"),
    "high": ("high", "h", "highprice"),
    "low": ("low", "l", "lowprice"),
    "close": ("close", "c", "closeprice"),
    "volume": ("volume", "vol", "v", "basevolume", "size", "amount", "qty", "quantity"),
    "symbol": ("symbol",),
}
_NUMBERS = (*PRICES, *OHLC, "size", "volume")

# Binance Vision files without a header row, by (number of numeric columns, number of True/False columns after them).
_VISION = {
    (5, 2): ("trades", "trade_id price size quote_qty ts is_buyer_maker is_best_match"),
    (6, 2): ("aggTrades", "trade_id price size first_id last_id ts is_buyer_maker is_best_match"),
    (5, 1): ("futures trades", "trade_id price size quote_qty ts is_buyer_maker"),
    (6, 1): ("futures aggTrades", "trade_id price size first_id last_id ts is_buyer_maker"),
    (12, 0): ("klines", "ts open high low close volume close_time quote_volume count buy_base buy_quote ignore"),
}
_SIDES = {"buy": 1, "b": 1, "1": 1, "+1": 1, "sell": -1, "s": -1, "-1": -1, "0": 0, "": 0, "unknown": 0, "none": 0}
_UNREADABLE = (TypeError, ValueError, OverflowError, NotImplementedError)  # of arrays, from polars and pyarrow
_ROW_FIX = "drop or repair the row"


@dataclass(frozen=True)
class Table:
    """One source under canonical names, every row checked. Times may still go backwards and ids repeat.

    `source` is a short text, `notes` what was detected, `parts` the name and row count of each file behind the frame,
    `vision` whether it came from Binance Vision trade files, which are sometimes out of order and are sorted by id.
    """

    frame: pl.DataFrame
    source: str
    notes: list[str]
    parts: list[tuple[str, int]]
    vision: bool = False
    symbol: str = ""

    @property
    def is_bars(self) -> bool:
        """Whether the rows are OHLC bars."""
        return "open" in self.frame.columns

    def where(self, row: int) -> str:
        """The name of a row of the frame in the file that it came from: `row 3` or `b.csv row 3`."""
        if len(self.parts) > 1:
            for name, rows in self.parts:
                if row < rows:
                    return f"{name} row {row}"
                row -= rows
        return f"row {row}"


@dataclass
class _Part:
    """One file or frame before its columns are understood.

    `text` says that strings may hold numbers, as in a CSV; `prefix` names the file in errors, if there are several.
    """

    name: str
    frame: pl.LazyFrame
    text: bool = False
    prefix: str = ""
    notes: list[str] = field(default_factory=list)

    def where(self, row: int) -> str:
        return f"{self.prefix}row {row}"


# ---------------------------------------------------------------------------------------------------- the whole way


def load(
    source: Any, columns: Mapping[str, str] | None = None, unit: str | None = None, tz: str | None = None
) -> Table:
    """`source` as a checked Table.

    `columns` names source columns whose names are not understood (`{"price": "px"}`), `unit` the epoch unit of
    numeric times (`s`, `ms`, `us`, `ns`; else it is detected), `tz` the zone of datetimes that have none.
    Raises DataError.
    """
    parts = list(_parts(source, columns))
    for part in parts:
        part.prefix = f"{part.name} " if len(parts) > 1 else ""
    return _joined([_understood(part, columns, unit, tz) for part in parts])


def from_columns(columns: Mapping[str, Any], unit: str | None = None, tz: str | None = None) -> Table:
    """Arrays, lists or Series of one length under canonical names as a checked Table. Raises DataError."""
    given = {name: _series(name, values) for name, values in columns.items() if values is not None}
    first, *others = given
    for name in others:
        if len(given[name]) != len(given[first]):
            raise DataError(
                f"{name}: {len(given[name])} values beside {len(given[first])} of {first}; give arrays of one length"
            )
    part = _Part("arrays", pl.DataFrame(list(given.values())).lazy())
    return _joined([_understood(part, None, unit, tz)])


def _joined(tables: list[Table]) -> Table:
    first = tables[0]
    if len(tables) == 1:
        return first
    for table in tables:
        if table.frame.columns != first.frame.columns:
            raise DataError(
                f"{table.source}: holds {', '.join(table.frame.columns)}, but {first.source} holds "
                f"{', '.join(first.frame.columns)}; read files of one kind together"
            )
    symbols = sorted({table.symbol for table in tables if table.symbol})
    if len(symbols) > 1:
        raise _several_symbols(symbols)
    alike = all(table.notes == first.notes for table in tables)
    try:
        frame = pl.concat([table.frame for table in tables], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{first.source} and others: {_first_line(error)}; read files of one kind together") from None
    return Table(
        frame=frame,
        source=f"{len(tables)} files, {first.source} to {tables[-1].source}",
        notes=first.notes if alike else [f"{table.source}: {note}" for table in tables for note in table.notes],
        parts=[(table.source, table.frame.height) for table in tables],
        vision=any(table.vision for table in tables),
        symbol=symbols[0] if symbols else "",
    )


def _understood(part: _Part, columns: Mapping[str, str] | None, unit: str | None, tz: str | None) -> Table:
    """The columns of one part under canonical names, typed, and every row checked."""
    names = _schema(part)
    mapping, named_unit, notes = _resolve(names, columns, part.prefix)
    try:
        raw = part.frame.select(pl.col(name).alias(ours) for ours, name in mapping.items()).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{part.name}: {_first_line(error)}; check the file") from None
    if raw.height == 0:
        raise DataError(f"{part.name}: holds no rows; give at least one tick")

    ts, unit_notes = times(raw["ts"], part.where, unit, named_unit, tz)
    done: dict[str, pl.Series] = {"ts": pl.Series("ts", ts)}
    for name in raw.columns:
        if name in _NUMBERS:
            done[name] = _number(raw[name], part)
    if "is_buyer_maker" in raw.columns:
        done["side"] = _side_of_maker(raw["is_buyer_maker"], part.where)
    elif "side" in raw.columns:
        done["side"] = _side(raw["side"], part.where)
    if "trade_id" in raw.columns:
        done["trade_id"] = _ids(raw["trade_id"], part.text)
    if "open" in done:
        _check_bars(done, part.where)
    return Table(
        frame=pl.DataFrame(list(done.values())),
        source=part.name,
        notes=part.notes + unit_notes + notes,
        parts=[(part.name, raw.height)],
        vision=part.text and {"is_buyer_maker", "trade_id"} <= set(raw.columns),
        symbol=_symbol(raw),
    )


def _schema(part: _Part) -> list[str]:
    try:
        return part.frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{part.name}: {_first_line(error)}; check the file, or the frame") from None


def _symbol(raw: pl.DataFrame) -> str:
    if "symbol" not in raw.columns:
        return ""
    if raw["symbol"].dtype not in (pl.String, pl.Categorical, pl.Enum, pl.Null):
        raise DataError(f"symbol: dtype {raw['symbol'].dtype}: must be text; convert the column, or leave it out")
    symbols = [str(symbol) for symbol in raw["symbol"].unique(maintain_order=True) if symbol is not None]
    if len(symbols) > 1:
        raise _several_symbols(symbols)
    return symbols[0] if symbols else ""


def _several_symbols(symbols: list[str]) -> DataError:
    return DataError(
        f"symbol: {len(symbols)} in one source ({', '.join(symbols[:3])}), and ticks are of one; filter first, "
        f"or read with a query: SELECT * FROM 'file' WHERE symbol = '{symbols[0]}'"
    )


# ---------------------------------------------------------------------------------------------------- names


def _resolve(
    names: Sequence[str], columns: Mapping[str, str] | None, prefix: str = ""
) -> tuple[dict[str, str], str | None, list[str]]:
    """Canonical name -> source column, the unit that the time column's name states, and notes."""
    given = _given_columns(names, columns)
    bars = _pick(names, given, _BAR_NAMES)[0]
    is_bars = all(name in bars for name in OHLC) and "price" not in given
    mapping, notes = _pick(names, given, _BAR_NAMES if is_bars else _TICK_NAMES)
    if ("bid" in mapping) != ("ask" in mapping):
        raise DataError(f"{prefix}{'ask' if 'bid' in mapping else 'bid'}: missing; quotes need both bid and ask")
    has_values = is_bars or "price" in mapping or {"bid", "ask"} <= mapping.keys() or "mark" in mapping
    if "ts" not in mapping or not has_values:
        raise _not_understood(names, "a time" if "ts" not in mapping else "a price", prefix)
    return mapping, _key(mapping["ts"])[1], notes


def _given_columns(names: Sequence[str], columns: Mapping[str, str] | None) -> dict[str, str]:
    ours = list(dict.fromkeys([*_TICK_NAMES, *_BAR_NAMES]))
    for name, source in (columns or {}).items():
        if name not in ours:
            raise DataError(f"columns = {{{name!r}: {source!r}}}: {name!r} is not one of {', '.join(ours)}")
        if source not in names:
            raise DataError(f"columns = {{{name!r}: {source!r}}}: no such column; found: {', '.join(names)}")
    return dict(columns or {})


def _pick(
    names: Sequence[str], given: Mapping[str, str], understood: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, str], list[str]]:
    mapping, notes = {name: source for name, source in given.items() if name in understood}, []
    for ours, aliases in understood.items():
        found = sorted(
            (name for name in names if _alias(name, ours) in aliases and name not in given.values()),
            key=lambda name: aliases.index(_alias(name, ours)),
        )
        if ours in mapping or not found:
            continue
        mapping[ours] = found[0]
        if len(found) > 1:
            notes.append(f"{ours}: column {found[0]} used, not {', '.join(found[1:])}")
    return mapping, notes


def _alias(name: str, ours: str) -> str:
    return _key(name)[0] if ours == "ts" else _plain(name)


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).lower()


def _key(name: str) -> tuple[str, str | None]:
    """A time column's plain name and the unit after it: `openTime_ms` -> (`opentime`, `ms`)."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip()).lower()
    match = re.fullmatch(r"(.+)_(ns|us|ms|s)", snake)
    return (_plain(match[1]), match[2]) if match else (_plain(name), None)


def _not_understood(names: Sequence[str], missing: str, prefix: str) -> DataError:
    return DataError(
        f"{prefix}columns: {missing} is missing; found: {', '.join(names) or 'none'}; understood: "
        "ts or time or timestamp or date, price or last, size or amount or qty, side, trade_id or id, bid and ask, "
        'mark; or open, high, low, close, volume; name them with columns={"price": "px"}'
    )


# ---------------------------------------------------------------------------------------------------- times


def times(
    series: pl.Series,
    where: Callable[[int], str],
    unit: str | None = None,
    named_unit: str | None = None,
    tz: str | None = None,
) -> tuple[np.ndarray, list[str]]:
    """A time column as int64 nanoseconds since 1970 UTC, and notes on what was detected.

    Epochs in s, ms, us or ns by their magnitude (all of 1990 to 2100), datetimes with a zone (or `tz`), ISO 8601 text.
    `where` names a row, `named_unit` is what the column's name says. Raises DataError.
    """
    if unit is not None and unit not in UNITS:
        raise DataError(f"unit = {short(unit)}: must be one of {', '.join(UNITS)}")
    if series.null_count():
        raise _refusal(series.is_null().to_numpy(), series, "ts", "must be a time", _ROW_FIX, where)
    if series.dtype == pl.String:
        series = _parsed_times(series, where)
    if series.dtype in (pl.Date, pl.Datetime):
        return _datetimes(series, where, tz)
    if series.dtype.is_integer():
        return _epochs(_int64(series, where), where, unit, named_unit)
    if series.dtype.is_float():
        return _float_epochs(series, where, unit, named_unit)
    raise DataError(f"ts: dtype {series.dtype}: must be epochs, datetimes or ISO 8601 text; convert the column first")


def _parsed_times(series: pl.Series, where: Callable[[int], str]) -> pl.Series:
    """Text as Int64 or Float64 epochs or as datetimes, whichever reads every row."""
    for dtype in (pl.Int64, pl.Float64):
        numbers = series.cast(dtype, strict=False)
        if not numbers.null_count():
            return numbers
    text = series.str.replace("T", " ").str.replace("(Z|z| UTC)$", "+00:00")
    tries = [
        text.str.to_datetime(form, time_unit="ns", strict=False)
        for form in ("%Y-%m-%d %H:%M:%S%.f%z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    ]
    best = min(tries, key=lambda parsed: parsed.null_count())
    if best.null_count():
        fix = 'give epochs or ISO 8601 with a zone: "2024-08-08T23:54:15.342Z"'
        raise _refusal(best.is_null().to_numpy(), series, "ts", "not a time, or not like the other rows", fix, where)
    return best


def _datetimes(series: pl.Series, where: Callable[[int], str], tz: str | None) -> tuple[np.ndarray, list[str]]:
    series, notes = series if series.dtype == pl.Datetime else series.cast(pl.Datetime("us")), []
    if series.dtype.time_zone is None:  # type: ignore[attr-defined]
        if tz is None:
            raise DataError(f'ts: datetimes without a zone, first {series[0]}; say which: tz="UTC"')
        try:
            series = series.dt.replace_time_zone(tz).dt.convert_time_zone("UTC")
        except pl.exceptions.PolarsError as error:
            raise DataError(f"tz = {tz!r}: {_first_line(error)}; give an IANA name, or the times in UTC") from None
        notes = [f"ts: datetimes read as {tz}"]
    unit: str = series.dtype.time_unit  # type: ignore[attr-defined]
    return _nanoseconds(series.to_physical().to_numpy(), unit, where), notes


def _float_epochs(
    series: pl.Series, where: Callable[[int], str], unit: str | None, named_unit: str | None
) -> tuple[np.ndarray, list[str]]:
    values = series.cast(pl.Float64).to_numpy()
    bad = ~np.isfinite(values)
    if bad.any():
        raise _refusal(bad, series, "ts", "must be a time", _ROW_FIX, where)
    if np.abs(values).max() > 2**53:
        raise DataError(f"ts: float64 epochs up to {values.max():.0f}: not exact above 2**53; give them as int64")
    whole = np.floor(values).astype(np.int64)
    if (whole == values).all():
        return _epochs(whole, where, unit, named_unit)
    unit = unit or named_unit or _detected(whole, where)
    if unit == "ns":
        raise DataError("ts: fractions of a nanosecond: must be whole; round them, or name the unit they are in")
    _nanoseconds(whole, unit, where)  # their range
    # a float64 of seconds since 1970 is good to a quarter of a microsecond, so that is what it is read to
    micros = np.rint(values * (UNITS[unit] / 1000)).astype(np.int64)
    return _nanoseconds(micros, "us", where), [f"ts: fractions of {unit}, read to the microsecond"]


def _epochs(
    values: np.ndarray, where: Callable[[int], str], unit: str | None, named_unit: str | None
) -> tuple[np.ndarray, list[str]]:
    if values.min() < 0:
        raise _refusal(values < 0, pl.Series(values), "ts", "must not be negative", _ROW_FIX, where)
    if unit is not None:
        return _nanoseconds(values, unit, where), []
    if named_unit is not None:
        looks = {_unit_of(int(value)) for value in (values.min(), values.max())}
        if None not in looks and looks != {named_unit}:
            raise DataError(
                f"ts: the column's name says {named_unit}, but {where(0)} = {values[0]} looks like "
                f'{_unit_of(int(values[0]))}; rename the column, or say unit="{named_unit}"'
            )
        return _nanoseconds(values, named_unit, where), []
    unit = _detected(values, where)
    return _nanoseconds(values, unit, where), [f"ts: unit {unit} detected"]


def _detected(values: np.ndarray, where: Callable[[int], str]) -> str:
    """The one unit in which all epochs lie between 1990 and 2100. Raises DataError at the first that does not fit."""
    unit = _unit_of(int(values[0]))
    low, high = _plausible(unit) if unit else (1, 0)
    odd = (values < low) | (values >= high)
    if not odd.any() and unit:
        return unit
    row = int(np.argmax(odd))
    other = _unit_of(int(values[row]))
    if other:
        raise DataError(
            f"{where(row)}: ts = {values[row]:.0f}: in {other}, and the rows before are in {unit}; "
            "bring the column to one unit, or read the files apart"
        )
    raise DataError(
        f"{where(row)}: ts = {values[row]:.0f}: not between 1990 and 2100 in s, ms, us or ns; "
        'if that is meant, name the unit: unit="ns"'
    )


def _unit_of(value: int) -> str | None:
    return next((unit for unit in UNITS if _plausible(unit)[0] <= value < _plausible(unit)[1]), None)


def _plausible(unit: str) -> tuple[int, int]:
    steps = 10**9 // UNITS[unit]
    return _SECONDS_1990 * steps, _SECONDS_2100 * steps


def _nanoseconds(values: np.ndarray, unit: str, where: Callable[[int], str]) -> np.ndarray:
    limit = (2**63 - 1) // UNITS[unit]
    bad = (values > limit) | (values < 0)
    if bad.any():
        rule = f"must lie between 1970 and 2262 as {unit}"
        raise _refusal(bad, pl.Series(values), "ts", rule, "check the unit, or drop the row", where)
    return values * UNITS[unit]


def _int64(series: pl.Series, where: Callable[[int], str]) -> np.ndarray:
    cast = series.cast(pl.Int64, strict=False)
    if cast.null_count():
        raise _refusal(cast.is_null().to_numpy(), series, "ts", "does not fit 64 bits", _ROW_FIX, where)
    return cast.to_numpy()


# ---------------------------------------------------------------------------------------------------- values


def _number(series: pl.Series, part: _Part) -> pl.Series:
    """A price or size column as Float64, every value allowed in a tick. Raises DataError."""
    name = series.name
    floats = _as_floats(series, part)
    values = floats.to_numpy()
    if name in ("size", "volume"):
        good, rule = values >= 0, "must be a finite number, 0 or above"
    else:
        good, rule = values > 0, "must be a finite number above 0"
    bad = ~(good & (values < np.inf))
    if bad.any():
        raise _refusal(bad, series, name, rule, _ROW_FIX, part.where)
    return floats


def _as_floats(series: pl.Series, part: _Part) -> pl.Series:
    dtype = series.dtype
    if dtype == pl.String:
        return _parsed_numbers(series, part)
    if isinstance(dtype, pl.Decimal):
        return _exact_floats(series)
    if dtype in (pl.Float32, pl.Float16):
        # 0.1 of a float32 means one tenth, not the 0.10000000149 that a plain cast makes of it
        return series.cast(pl.String).cast(pl.Float64)
    if dtype.is_numeric() or dtype == pl.Null:
        return series.cast(pl.Float64)
    raise DataError(
        f"{series.name}: dtype {dtype}, first {short(series[0])}: must be numbers; convert the column to float64 first"
    )


def _parsed_numbers(series: pl.Series, part: _Part) -> pl.Series:
    comma = series.str.contains(r"^\s*[+-]?\d+,\d+\s*$").fill_null(False)
    if comma.any():
        fix = f'write a decimal point: pl.col("{series.name}").str.replace(",", ".").cast(pl.Float64)'
        raise _refusal(comma.to_numpy(), series, series.name, "a decimal comma, not a number", fix, part.where)
    if not part.text:
        raise DataError(
            f"{series.name}: strings, first {short(series[0])}: must be numbers; "
            f'convert first: pl.col("{series.name}").cast(pl.Float64)'
        )
    floats = series.str.strip_chars().cast(pl.Float64, strict=False)
    bad = floats.is_null() & series.is_not_null()
    if bad.any():
        raise _refusal(bad.to_numpy(), series, series.name, "not a number", _ROW_FIX, part.where)
    return floats


def _exact_floats(series: pl.Series) -> pl.Series:
    """Decimals as the floats that stand for them: scale trimmed to the digits in use, at most 15 digits in all."""
    scale: int = series.dtype.scale  # type: ignore[attr-defined]
    digits = next(digits for digits in range(scale + 1) if (series.round(digits) == series).fill_null(True).all())
    largest = series.abs().max()
    if largest is not None and float(largest) * 10**digits >= 10**15:  # type: ignore[arg-type]
        raise DataError(
            f"{series.name}: decimals of more than 15 digits, up to {largest!s} with {digits} after the point: "
            "float64 cannot hold them; round them first"
        )
    return series.cast(pl.Decimal(38, digits)).cast(pl.Float64)


def _side(series: pl.Series, where: Callable[[int], str]) -> pl.Series:
    """buy/sell, b/s or 1/-1 as Int8, nulls as 0."""
    if series.dtype == pl.Boolean:
        raise DataError(
            'side: dtype Boolean: could be either; say columns={"is_buyer_maker": "side"} if True means that the '
            "seller is the aggressor, else convert it to 1 and -1"
        )
    side = _mapped(series, _SIDES)
    if side.null_count():
        fix = "map it first, or leave the column out"
        raise _refusal(side.is_null().to_numpy(), series, "side", "must be buy, sell, 1, -1 or empty", fix, where)
    return side.rename("side")


def _side_of_maker(series: pl.Series, where: Callable[[int], str]) -> pl.Series:
    """Binance's `is_buyer_maker` as the aggressor's side: a buyer who is the maker was hit by a seller, -1."""
    side = _mapped(series, {"true": -1, "1": -1, "false": 1, "0": 1})
    if side.null_count():
        bad = side.is_null().to_numpy()
        raise _refusal(bad, series, "is_buyer_maker", "must be true or false", _ROW_FIX, where)
    return side.rename("side")


def _mapped(series: pl.Series, meaning: Mapping[str, int]) -> pl.Series:
    """Each value by its meaning, as Int8; null where there is none. Case and blanks do not count, 1.0 is 1."""
    if series.dtype == pl.Categorical or series.dtype == pl.Enum:
        series = series.cast(pl.String)
    if series.dtype.is_nested() or series.dtype == pl.Object:
        raise DataError(f"{series.name}: dtype {series.dtype}: must be text or numbers; convert the column first")
    values = series.unique()
    means = [meaning.get("" if value is None else str(value).strip().lower().removesuffix(".0")) for value in values]
    return series.replace_strict(values, pl.Series(means, dtype=pl.Int8), return_dtype=pl.Int8)


def _ids(series: pl.Series, text: bool) -> pl.Series:
    """Trade ids as integers or text; integers where a text file holds nothing else."""
    if not (series.dtype.is_numeric() or series.dtype in (pl.String, pl.Categorical, pl.Null)):
        raise DataError(f"trade_id: dtype {series.dtype}: must be integers or text; convert it, or leave it out")
    if text and series.dtype == pl.String:
        numbers = series.cast(pl.Int64, strict=False)
        return series if numbers.null_count() > series.null_count() else numbers
    return series


def _check_bars(columns: Mapping[str, pl.Series], where: Callable[[int], str]) -> None:
    high, low = columns["high"].to_numpy(), columns["low"].to_numpy()
    if (high < low).any():
        row = int(np.argmax(high < low))
        raise DataError(f"{where(row)}: high = {high[row]}: below the low {low[row]}; {_ROW_FIX}")
    for name in ("open", "close"):
        values = columns[name].to_numpy()
        outside = (values < low) | (values > high)
        if outside.any():
            rule = "must lie between low and high of its bar"
            raise _refusal(outside, columns[name], name, rule, _ROW_FIX, where)


def _refusal(
    bad: np.ndarray, series: pl.Series, name: str, rule: str, fix: str, where: Callable[[int], str]
) -> DataError:
    """The error for the first bad row, with how many more there are."""
    rows = np.flatnonzero(bad)
    value = series[int(rows[0])]
    shown = "null" if value is None else short(value)
    more = f" ({len(rows) - 1} more such rows)" if len(rows) > 1 else ""
    return DataError(f"{where(int(rows[0]))}: {name} = {shown}: {rule}{more}; {fix}")


# ---------------------------------------------------------------------------------------------------- sources


def _parts(source: Any, columns: Mapping[str, str] | None) -> Iterator[_Part]:
    """The files or the one frame that a source stands for."""
    module = type(source).__module__.partition(".")[0]
    if isinstance(source, str) and _is_query(source):
        yield _Part("query", _run_query(source).lazy())
    elif isinstance(source, str | os.PathLike):
        yield from _files(source, columns)
    elif isinstance(source, pl.LazyFrame | pl.DataFrame):
        yield _Part("polars frame", source.lazy())
    elif module == "pandas":
        yield _Part("pandas frame", _from_pandas(source, columns).lazy())
    elif module == "pyarrow":
        yield _Part("arrow table", _from_arrow(source).lazy())
    elif module in ("duckdb", "_duckdb") and hasattr(source, "pl"):
        yield _Part("duckdb relation", _from_relation(source).lazy())
    elif isinstance(source, list | tuple):
        yield from _listed(source, columns)
    else:
        raise _foreign(source)


def _foreign(source: Any) -> DataError:
    return DataError(
        f"source of type {type(source).__name__}: not understood; give a path, a glob, a DuckDB query, a polars, "
        "pandas or pyarrow frame, rows as ccxt returns them, or use Ticks.from_arrays"
    )


def _listed(source: Sequence[Any], columns: Mapping[str, str] | None) -> Iterator[_Part]:
    if not source:
        raise DataError("source: an empty list; give at least one row or file")
    if all(isinstance(item, str | os.PathLike) for item in source):
        for path in source:
            yield from _files(path, columns)
    elif all(isinstance(item, Mapping) for item in source):
        yield _Part("trades", _from_trades(source, columns).lazy())
    elif all(isinstance(item, list | tuple) for item in source):
        yield _Part("ohlcv rows", _from_ohlcv(source).lazy())
    else:
        raise DataError(
            f"source: a list that starts with {type(source[0]).__name__}: not understood; give paths, trades as "
            "of ccxt's fetch_trades, or [ms, open, high, low, close, volume] as of fetch_ohlcv"
        )


def _from_trades(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None) -> pl.DataFrame:
    """Trades as ccxt returns them: the understood keys of each dict."""
    mapping = _resolve([str(key) for key in rows[0]], columns)[0]
    return pl.DataFrame([_series(name, [row.get(name) for row in rows]) for name in mapping.values()])


def _from_ohlcv(rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Candles as ccxt returns them: [time in ms, open, high, low, close, volume]."""
    names = ("ts", *OHLC, "volume")
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise DataError(
                f"row {number}: {len(row)} values: must be 6: ms, open, high, low, close, volume; {_ROW_FIX}"
            )
    return pl.DataFrame(
        [_series(name, list(values)) for name, values in zip(names, zip(*rows, strict=True), strict=True)]
    )


def _series(name: str, values: Any) -> pl.Series:
    """Any one-dimensional column as a polars Series. Raises DataError."""
    module = type(values).__module__.partition(".")[0]
    try:
        if isinstance(values, pl.Series):
            series = values.rename(name)
        elif module == "pandas":
            series = pl.Series(name, pl.from_pandas(values, nan_to_null=False))
        else:
            series = pl.Series(name, values)
    except (*_UNREADABLE, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        series = _mixed_series(name, values)
    if series.dtype.is_nested():
        raise DataError(f"{name}: {series.dtype}: must be one-dimensional; give one value per tick")
    return series


def _mixed_series(name: str, values: Any) -> pl.Series:
    """A list of int, float and None, which polars refuses to mix by itself."""
    if not isinstance(values, list | tuple):
        raise DataError(f"{name}: {type(values).__name__}: not an array; give a one-dimensional array or list")
    for row, value in enumerate(values):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise DataError(
                f"row {row}: {name} = {short(value)}: {type(value).__name__} among other types; bring the column to one"
            )
    return pl.Series(name, values, dtype=pl.Float64, strict=False)


def _from_pandas(frame: Any, columns: Mapping[str, str] | None) -> pl.DataFrame:
    """The understood columns of a pandas frame; a DatetimeIndex is the time if no column is."""
    if not hasattr(frame, "columns"):
        raise _foreign(frame)
    has_time = "ts" in (columns or {}) or any(_key(str(name))[0] in _TICK_NAMES["ts"] for name in frame.columns)
    if not has_time and type(frame.index).__name__ == "DatetimeIndex":
        frame = frame.rename_axis(index="ts").reset_index()
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    mapping = _resolve(list(frame.columns), columns)[0]
    return pl.DataFrame([_series(name, frame[name]) for name in mapping.values()])


def _from_arrow(table: Any) -> pl.DataFrame:
    try:
        frame = pl.from_arrow(table)
    except (*_UNREADABLE, pl.exceptions.PolarsError) as error:
        raise DataError(f"arrow table: {_first_line(error)}; convert its columns first") from None
    if not isinstance(frame, pl.DataFrame):
        raise _foreign(table)
    return frame


def _from_relation(relation: Any) -> pl.DataFrame:
    import duckdb

    try:
        return relation.pl()
    except duckdb.Error as error:
        raise DataError(f"duckdb relation: {_first_line(error)}; check it in DuckDB") from None


def _is_query(source: str) -> bool:
    return re.match(r"\s*(select|with|from)\s", source, re.IGNORECASE) is not None


def _run_query(query: str) -> pl.DataFrame:
    """The rows of a query over files, run in an in-memory DuckDB that loads no extension from the network."""
    import duckdb

    config: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    with duckdb.connect(config=config) as connection:
        try:
            connection.execute(
                "SET python_enable_replacements = false"
            )  # names in the query are files, not our variables
            return connection.sql(query).pl()
        except duckdb.Error as error:
            raise DataError(f"query = {short(query)}: {_first_line(error)}; check it in DuckDB") from None


# ---------------------------------------------------------------------------------------------------- files


def _files(source: str | os.PathLike[str], columns: Mapping[str, str] | None) -> Iterator[_Part]:
    """Every table in a path or in the files that a glob matches, in name order."""
    text = os.path.expanduser(os.fspath(source))
    if not os.path.exists(text) and glob.has_magic(text):
        paths = sorted(glob.glob(text, recursive=True))
        if not paths:
            raise DataError(f"{text}: no file matches; check the pattern (working folder: {os.getcwd()})")
        for path in paths:
            yield from _file(Path(path), columns)
    else:
        yield from _file(Path(text), columns)


def _file(path: Path, columns: Mapping[str, str] | None) -> Iterator[_Part]:
    if path.is_dir():
        raise DataError(f'{path}: is a directory; name its files: "{path}/*.parquet"')
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path (working folder: {os.getcwd()})")
    name = path.name.lower()
    try:
        if name.endswith((".parquet", ".pq")):
            yield _Part(path.name, pl.scan_parquet(path, glob=False))
        elif name.endswith(".csv"):
            yield _csv(path.name, path, columns)
        elif name.endswith(".csv.gz"):
            yield _csv(path.name, gzip.decompress(path.read_bytes()), columns)
        elif name.endswith(".zip"):
            yield from _zipped(path, columns)
        else:
            raise DataError(
                f"{path}: not one of .parquet, .csv, .csv.gz, .zip; convert it, or read it with polars or pandas and "
                "pass the frame"
            )
    except (OSError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read: {_first_line(error)}; check the file and its permissions") from None


def _zipped(path: Path, columns: Mapping[str, str] | None) -> Iterator[_Part]:
    with zipfile.ZipFile(path) as archive:
        members = sorted(name for name in archive.namelist() if name.lower().endswith(".csv"))
        if not members:
            raise DataError(f"{path}: holds no .csv file; found: {short(', '.join(archive.namelist()) or 'nothing')}")
        for member in members:
            label = path.name if len(members) == 1 else f"{path.name}/{member}"
            yield _csv(label, archive.read(member), columns)


def _csv(name: str, data: Path | bytes, columns: Mapping[str, str] | None) -> _Part:
    """One CSV: comma separated, UTF-8 with or without BOM; a header row, or the shape of a Binance Vision file."""
    lines = _first_lines(name, data)
    separator = next((sign for sign in (";", "\t") if sign in lines[0]), ",")
    if separator != ",":
        commas = any(re.search(r"\d,\d", line) for line in lines)
        also, option = (" and decimal commas", ", decimal_comma=True") if commas else ("", "")
        raise DataError(
            f"{name}: separated by {separator!r}{also}, not by ','; "
            f"read it with pl.read_csv(path, separator={separator!r}{option}) and pass the frame"
        )
    fields = next(csv.reader(lines[:1]))
    if _is_header(fields):
        part = _Part(name, _read_csv(name, data, fields, columns, header=True).lazy(), text=True)
    else:
        kind, names = _vision_shape(name, fields)
        part = _Part(name, _read_csv(name, data, names, columns, header=False).lazy(), text=True)
        part.notes.append(f"Binance Vision {kind}, no header row")
    return part


def _first_lines(name: str, data: Path | bytes) -> list[str]:
    head = data[:65536] if isinstance(data, bytes) else _head(data)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{name}: UTF-16 text; save it as UTF-8")
    lines = head.decode("utf-8-sig", errors="replace").replace("\r", "").split("\n")[:2]
    if not lines[0].strip():
        raise DataError(f"{name}: holds no rows; give at least one tick")
    return lines


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(65536)


def _is_header(fields: Sequence[str]) -> bool:
    return not any(re.match(r"\s*[+-]?\.?\d", text) for text in fields)


def _vision_shape(name: str, fields: Sequence[str]) -> tuple[str, list[str]]:
    flags = sum(text.strip().lower() in ("true", "false") for text in fields)
    try:
        kind, names = _VISION[len(fields) - flags, flags]
    except KeyError:
        raise DataError(
            f"{name}: no header row, and {len(fields)} columns with {flags} True/False are not a Binance Vision file; "
            "add a header: ts,price,size"
        ) from None
    return kind, names.split()


def _read_csv(
    name: str, data: Path | bytes, names: list[str], columns: Mapping[str, str] | None, *, header: bool
) -> pl.DataFrame:
    """The understood columns: numbers as Float64; all as text if one does not parse, so that its row can be named."""
    mapping = _resolve(names, columns, f"{name} ")[0]
    types: dict[str, Any] = {source: pl.Float64 for ours, source in mapping.items() if ours in _NUMBERS}
    types |= {mapping[ours]: pl.String for ours in ("side", "is_buyer_maker", "symbol") if ours in mapping}
    options: dict[str, Any] = {"glob": False, "has_header": header, "new_columns": None if header else names}
    try:
        try:
            frame = pl.read_csv(data, schema_overrides=types, infer_schema_length=10_000, **options)
        except pl.exceptions.ComputeError:
            frame = pl.read_csv(data, infer_schema=False, **options)
        return frame.select(mapping.values())
    except pl.exceptions.NoDataError:
        raise DataError(f"{name}: holds no rows; give at least one tick") from None
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{name}: not a table: {_first_line(error)}; check its rows") from None


def _first_line(error: BaseException) -> str:
    line = str(error).strip().split("\n")[0] or type(error).__name__
    return line if len(line) <= 120 else line[:119] + "…"
