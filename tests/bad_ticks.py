"""Ticks, bars and files that must be refused: `(name, callable of tmp_path, error class, part of its message)`."""

from __future__ import annotations

import gzip
import math
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from smartorders_lab.errors import DataError
from smartorders_lab.instrument import Instrument
from smartorders_lab.ticks import Ticks

MS = 1_723_161_255_342
TS = [MS, MS + 1, MS + 2]
PRICES = [100.0, 100.5, 101.0]
CENTS = Instrument(symbol="BTC/USDT", price_increment="0.01")


def arrays(ts: Any = TS, price: Any = PRICES, **more: Any) -> Callable[[Path], Ticks]:
    return lambda _: Ticks.from_arrays(ts, price, **more)


def read(source: Any, **more: Any) -> Callable[[Path], Ticks]:
    return lambda _: Ticks.read(source, **more)


def frame(**columns: Any) -> Callable[[Path], Ticks]:
    return lambda _: Ticks.read(pl.DataFrame(columns))


def file(name: str, content: str | bytes, **more: Any) -> Callable[[Path], Ticks]:
    def call(folder: Path) -> Ticks:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return Ticks.read(path, **more)

    return call


def bars(rows: Any, **more: Any) -> Callable[[Path], Ticks]:
    return lambda _: Ticks.from_bars(rows, **more)


def two_files(folder: Path) -> Ticks:
    (folder / "a.csv").write_text(f"ts,price\n{MS},1\n{MS + 1},2\n")
    (folder / "b.csv").write_text(f"ts,price\n{MS + 2},3\n{MS + 3},-4\n")
    return Ticks.read(str(folder / "*.csv"))


def two_kinds(folder: Path) -> Ticks:
    (folder / "a.csv").write_text(f"ts,price\n{MS},1\n")
    (folder / "b.csv").write_text(f"ts,price,size\n{MS},1,1\n")
    return Ticks.read([folder / "a.csv", folder / "b.csv"])


def backwards_in_second_file(folder: Path) -> Ticks:
    (folder / "a.csv").write_text(f"ts,price\n{MS},1\n{MS + 5},2\n")
    (folder / "b.csv").write_text(f"ts,price\n{MS + 6},3\n{MS + 2},4\n")
    return Ticks.read(str(folder / "*.csv"))


def empty_zip(folder: Path) -> Ticks:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing here")
    return Ticks.read(folder / "x.zip")


def quotes_by_last(_: Path) -> Any:
    return Ticks.from_arrays(TS, None, bid=PRICES, ask=PRICES).view("last")


def bars_by_mark(_: Path) -> Any:
    return Ticks.from_bars(CANDLES).view("mark")


MINUTE = 60_000
CANDLES = [[MS + MINUTE * i, 10.0, 12.0, 9.0, 11.0, 5.0] for i in range(3)]
TRADE = {"timestamp": MS, "price": 100.0, "amount": 1.0, "side": "buy", "id": "1"}
EARLIER = "2024-08-08T23:54:15.342Z: earlier than 2024-08-08T23:54:15.344Z before it; pass sort=True to sort by time"

CASES: list[tuple[str, Callable[[Path], Any], type[Exception], str]] = [
    # values
    (
        "price nan",
        arrays(price=[100.0, math.nan, 101.0]),
        DataError,
        "row 1: price = nan: must be a finite number above 0; drop or repair the row",
    ),
    (
        "price inf",
        arrays(price=[100.0, 100.5, math.inf]),
        DataError,
        "row 2: price = inf: must be a finite number above 0",
    ),
    (
        "price -inf",
        arrays(price=[-math.inf, 1.0, 2.0]),
        DataError,
        "row 0: price = -inf: must be a finite number above 0",
    ),
    ("price zero", arrays(price=[100.0, 0.0, 101.0]), DataError, "row 1: price = 0.0: must be a finite number above 0"),
    (
        "prices negative",
        arrays(price=[100.0, -1.0, -2.0]),
        DataError,
        "row 1: price = -1.0: must be a finite number above 0 (1 more such rows); drop or repair the row",
    ),
    (
        "price null",
        arrays(price=[100.0, None, 101.0]),
        DataError,
        "row 1: price = null: must be a finite number above 0",
    ),
    ("prices all null", arrays(price=[None, None, None]), DataError, "row 0: price = null: must be a finite number"),
    ("price none among int and float", arrays(price=[100, None, 100.5]), DataError, "row 1: price = null: must be"),
    (
        "size negative",
        arrays(size=[1.0, -0.5, 1.0]),
        DataError,
        "row 1: size = -0.5: must be a finite number, 0 or above",
    ),
    (
        "size nan",
        arrays(size=[1.0, 1.0, math.nan]),
        DataError,
        "row 2: size = nan: must be a finite number, 0 or above",
    ),
    (
        "size inf",
        arrays(size=[math.inf, 1.0, 1.0]),
        DataError,
        "row 0: size = inf: must be a finite number, 0 or above",
    ),
    (
        "price as strings",
        arrays(price=["100.0", "100.5", "101"]),
        DataError,
        "price: strings, first '100.0': must be numbers; convert first: pl.col(\"price\").cast(pl.Float64)",
    ),
    (
        "decimal comma in a frame",
        frame(ts=TS, price=["100,5", "1,5", "2"]),
        DataError,
        "row 0: price = '100,5': a decimal comma, not a number (1 more such rows); write a decimal point: ",
    ),
    ("price bool", arrays(price=[True, True, True]), DataError, "price: dtype Boolean, first True: must be numbers"),
    ("a string among prices", arrays(price=[100.0, "x", 1.0]), DataError, "row 1: price = 'x': str among other types"),
    (
        "price as objects",
        arrays(price=np.array([1.0, object(), 2.0], dtype=object)),
        DataError,
        "price: dtype Object, first 1.0: must be numbers; convert the column to float64 first",
    ),
    (
        "price two-dimensional",
        arrays(price=np.ones((3, 2))),
        DataError,
        "must be one-dimensional; give one value per tick",
    ),
    (
        "price a scalar",
        arrays(price=100.0),
        DataError,
        "price: float: not an array; give a one-dimensional array or list",
    ),
    (
        "decimals too long",
        frame(ts=[MS], price=pl.Series(["1234567.1234567891"]).cast(pl.Decimal(38, 18))),
        DataError,
        "price: decimals of more than 15 digits, up to 1234567.123456789100000000 with 10 after the point",
    ),
    (
        "price off the grid",
        arrays(price=[100.0, 100.005, 100.015], instrument=CENTS),
        DataError,
        "row 1: price = 100.005: not a multiple of the increment 0.01, between 100.00 and 100.01 (1 more such rows); "
        "leave instrument out to read the increment off the data",
    ),
    (
        "price above 2**53 units",
        arrays(price=[1.0, 1e16, 1.0], instrument=Instrument(price_increment="1")),
        DataError,
        "row 1: price = 1e+16: must be 1 to 2**53 steps of 1; scale the prices, or drop the row",
    ),
    (
        "price range too wide",
        arrays(price=[1e-300, 1.0, 1e300]),
        DataError,
        "row 0: price = 1e-300: must be 1 to 2**53 steps",
    ),
    (
        "bid nan",
        arrays(bid=[1.0, math.nan, 1.0], ask=PRICES),
        DataError,
        "row 1: bid = nan: must be a finite number above 0",
    ),
    ("ask missing", arrays(bid=PRICES), DataError, "ask: missing; quotes need both bid and ask"),
    ("mark zero", arrays(mark=[0.0, 1.0, 1.0]), DataError, "row 0: mark = 0.0: must be a finite number above 0"),
    (
        "side unknown word",
        arrays(side=["buy", "long", "sell"]),
        DataError,
        "row 1: side = 'long': must be buy, sell, 1, -1 or empty; map it first, or leave the column out",
    ),
    ("side 2", arrays(side=[1, 2, -1]), DataError, "row 1: side = 2: must be buy, sell, 1, -1 or empty"),
    (
        "side bool",
        arrays(side=[True, False, True]),
        DataError,
        'side: dtype Boolean: could be either; say columns={"is_buyer',
    ),
    # times
    ("ts null", arrays(ts=[MS, None, MS]), DataError, "row 1: ts = null: must be a time; drop or repair the row"),
    (
        "ts NaT",
        arrays(ts=np.array(["2024-01-01", "NaT", "2024-01-02"], "M8[ns]")),
        DataError,
        "row 1: ts = null: must be",
    ),
    (
        "ts nan",
        arrays(ts=[1.7e9, math.nan, 1.7e9]),
        DataError,
        "row 1: ts = nan: must be a time; drop or repair the row",
    ),
    ("ts negative", arrays(ts=[MS, -1, MS]), DataError, "row 1: ts = -1: must not be negative; drop or repair the row"),
    (
        "ts of mixed units",
        arrays(ts=[MS, MS + 1, MS * 1000]),
        DataError,
        f"row 2: ts = {MS * 1000}: in us, and the rows before are in ms; bring the column to one unit",
    ),
    (
        "ts of no plausible unit",
        arrays(ts=[0, 1, 2]),
        DataError,
        'row 0: ts = 0: not between 1990 and 2100 in s, ms, us or ns; if that is meant, name the unit: unit="ns"',
    ),
    (
        "ts too large",
        arrays(ts=[2**62] * 3, unit="s"),
        DataError,
        "must lie between 1970 and 2262 as s (2 more such rows)",
    ),
    ("ts beyond 64 bits", arrays(ts=np.array([2**64 - 1] * 3, np.uint64)), DataError, "does not fit 64 bits"),
    (
        "ts name and value disagree",
        frame(ts_ns=TS, price=PRICES),
        DataError,
        f"says ns, but row 0 = {MS} looks like ms;",
    ),
    (
        "ts float nanoseconds",
        arrays(ts=np.array(TS) * 1e6),
        DataError,
        "ts: float64 epochs up to 1723161255344000000: not exact above 2**53; give them as int64",
    ),
    (
        "ts fractions of ns",
        arrays(ts=[1.5, 2.0, 3.0], unit="ns"),
        DataError,
        "ts: fractions of a nanosecond: must be whole",
    ),
    ("ts beyond 2262", arrays(ts=[1e10 + 0.5] * 3, unit="s"), DataError, "must lie between 1970 and 2262 as s"),
    (
        "ts naive datetimes",
        arrays(ts=[datetime(2024, 8, 8, 23, 54)] * 3),
        DataError,
        'ts: datetimes without a zone, first 2024-08-08 23:54:00; say which: tz="UTC"',
    ),
    ("ts dates", arrays(ts=np.array(["2024-01-01"] * 3, "M8[D]")), DataError, "ts: datetimes without a zone"),
    (
        "naive pandas index",
        read(pd.DataFrame({"price": PRICES}, index=pd.to_datetime(TS, unit="ms"))),
        DataError,
        "ts: datetimes without a zone",
    ),
    ("tz unknown", arrays(ts=[datetime(2024, 8, 8)] * 3, tz="Mars/Olympus"), DataError, "tz = 'Mars/Olympus': "),
    (
        "tz with an hour that is not",
        arrays(ts=[datetime(2024, 3, 31, 2, 30)] * 3, tz="Europe/Berlin"),
        DataError,
        "tz = ",
    ),
    (
        "ts text",
        arrays(ts=["yesterday"] * 3),
        DataError,
        "row 0: ts = 'yesterday': not a time, or not like the other rows",
    ),
    ("ts bool", arrays(ts=[True] * 3), DataError, "ts: dtype Boolean: must be epochs, datetimes or ISO 8601 text"),
    ("unit unknown", arrays(unit="minutes"), DataError, "unit = 'minutes': must be one of s, ms, us, ns"),
    ("time backwards", arrays(ts=[MS, MS + 2, MS]), DataError, f"row 2: ts = {EARLIER}"),
    # shapes
    ("no rows", arrays(ts=[], price=[]), DataError, "arrays: holds no rows; give at least one tick"),
    ("empty list", read([]), DataError, "source: an empty list; give at least one row or file"),
    (
        "lengths differ",
        arrays(price=[1.0, 2.0]),
        DataError,
        "price: 2 values beside 3 of ts; give arrays of one length",
    ),
    ("source a number", read(42), DataError, "source of type int: not understood; give a path, a glob, a DuckDB query"),
    ("list of numbers", read([1, 2]), DataError, "source: a list that starts with int: not understood; give paths"),
    (
        "columns misnamed",
        frame(ts=TS, px=PRICES),
        DataError,
        "columns: a price is missing; found: ts, px; understood: ts or",
    ),
    ("no time column", frame(when=TS, price=PRICES), DataError, "columns: a time is missing; found: when, price;"),
    (
        "columns= an unknown field",
        read(pl.DataFrame({"ts": TS, "px": PRICES}), columns={"prices": "px"}),
        DataError,
        "columns = {'prices': 'px'}: 'prices' is not one of ts, price, size",
    ),
    (
        "columns= an absent column",
        read(pl.DataFrame({"ts": TS, "px": PRICES}), columns={"price": "pxx"}),
        DataError,
        "columns = {'price': 'pxx'}: no such column; found: ts, px",
    ),
    (
        "two symbols",
        frame(ts=TS, price=PRICES, symbol=["BTCUSDT", "ETHUSDT", "BTCUSDT"]),
        DataError,
        "symbol: 2 in one source (BTCUSDT, ETHUSDT), and ticks are of one; filter first",
    ),
    (
        "symbol and instrument disagree",
        arrays(instrument=CENTS, symbol="ETH/USDT"),
        DataError,
        "symbol = 'ETH/USDT': the instrument is 'BTC/USDT'; leave one of them out",
    ),
    (
        "trade without price",
        read([TRADE, {**TRADE, "price": None}]),
        DataError,
        "row 1: price = null: must be a finite",
    ),
    (
        "list of prices as ids",
        arrays(trade_id=[[1], [2], [3]]),
        DataError,
        "trade_id: List(Int64): must be one-dimensional",
    ),
    # bars
    (
        "high below low",
        bars([*CANDLES[:2], [MS + 2 * MINUTE, 10.0, 8.0, 9.0, 9.5, 1.0]]),
        DataError,
        "row 2: high = 8.0: below the low 9.0; drop or repair the row",
    ),
    (
        "open outside",
        bars([[MS, 13.0, 12.0, 9.0, 11.0, 1.0]], bar="1m"),
        DataError,
        "row 0: open = 13.0: must lie between low and high of its bar; drop or repair the row",
    ),
    (
        "close outside",
        bars([[MS, 10.0, 12.0, 9.0, 8.0, 1.0]], bar="1m"),
        DataError,
        "row 0: close = 8.0: must lie between",
    ),
    (
        "volume negative",
        bars([[MS, 10.0, 12.0, 9.0, 11.0, -1.0]], bar="1m"),
        DataError,
        "row 0: volume = -1.0: must be",
    ),
    (
        "candle too short",
        bars([CANDLES[0], CANDLES[1][:5]]),
        DataError,
        "row 1: 5 values: must be 6: ms, open, high, low",
    ),
    ("one bar", bars(CANDLES[:1]), DataError, 'bar: one bar alone does not tell its length; pass bar="1m"'),
    ("bars overlap", bars(CANDLES, bar="5m"), DataError, "row 1: opens 1m after the bar before: bar = '5m' is longer"),
    ("bar unreadable", bars(CANDLES, bar="one"), DataError, "bar = 'one': is not a duration; write 50ms, 1.5s, 2h"),
    ("bar zero", bars(CANDLES, bar=0), DataError, "bar = 0 ns: must be 4 ns or more"),
    (
        "two bars at one time",
        bars([*CANDLES, [MS + 2 * MINUTE, 10.0, 12.0, 9.0, 10.0, 5.0]]),
        DataError,
        "row 3: ts = 2024-08-08T23:56:15.342Z: a second, different bar opens at this time; drop one of them",
    ),
    ("path unknown", bars(CANDLES, path="worst"), DataError, "path = 'worst': must be one of pessimistic, optimistic"),
    ("bars of trades", bars([TRADE]), DataError, "columns: open, high, low, close are missing; understood: ts, price"),
    # files
    ("no such file", read("nowhere/ticks.parquet"), DataError, "nowhere/ticks.parquet: no such file; check the path"),
    ("directory", lambda folder: Ticks.read(folder), DataError, ": is a directory; name its files: "),
    (
        "glob without match",
        lambda folder: Ticks.read(str(folder / "*.csv")),
        DataError,
        "*.csv: no file matches; check the",
    ),
    (
        "wrong extension",
        file("ticks.xlsx", b"PK"),
        DataError,
        "ticks.xlsx: not one of .parquet, .csv, .csv.gz, .zip; convert",
    ),
    (
        "not a parquet",
        file("t.parquet", b"ts,price\n1,2\n"),
        DataError,
        "t.parquet: parquet: File out of specification",
    ),
    ("empty parquet", file("t.parquet", b""), DataError, "t.parquet: "),
    ("not a zip", file("t.zip", b"ts,price\n1,2\n"), DataError, "t.zip: cannot be read: File is not a zip file"),
    ("zip without csv", empty_zip, DataError, "x.zip: holds no .csv file; found: 'readme.txt'"),
    ("not gzip", file("t.csv.gz", b"ts,price\n1,2\n"), DataError, "t.csv.gz: cannot be read: Not a gzipped file"),
    (
        "gzip cut short",
        file("t.csv.gz", gzip.compress(b"ts,price\n" * 99)[:-9]),
        DataError,
        "t.csv.gz: cannot be read: ",
    ),
    ("empty csv", file("t.csv", ""), DataError, "t.csv: holds no rows; give at least one tick"),
    ("only a header", file("t.csv", "ts,price\n"), DataError, "t.csv: holds no rows; give at least one tick"),
    (
        "semicolons and decimal commas",
        file("t.csv", f"ts;price\n{MS};1,5\n"),
        DataError,
        "t.csv: separated by ';' and decimal commas, not by ','; read it with pl.read_csv(path, separator=';', "
        "decimal_comma=True) and pass the frame",
    ),
    (
        "semicolons",
        file("t.csv", f"ts;price\n{MS};1.5\n"),
        DataError,
        "t.csv: separated by ';', not by ','; read it with",
    ),
    ("tabs", file("t.csv", f"ts\tprice\n{MS}\t1.5\n"), DataError, "t.csv: separated by '\\t', not by ','"),
    (
        "quoted decimal comma",
        file("t.csv", f'ts,price\n{MS},"1,5"\n'),
        DataError,
        "row 0: price = '1,5': a decimal comma",
    ),
    (
        "UTF-16",
        file("t.csv", f"ts,price\n{MS},1\n".encode("utf-16")),
        DataError,
        "t.csv: UTF-16 text; save it as UTF-8",
    ),
    (
        "word in a number",
        file("t.csv", f"ts,price\n{MS},1\n{MS},n/a\n"),
        DataError,
        "row 1: price = 'n/a': not a number",
    ),
    (
        "empty field",
        file("t.csv", f"ts,price\n{MS},1\n{MS},\n"),
        DataError,
        "row 1: price = null: must be a finite number",
    ),
    (
        "row too long",
        file("t.csv", f"ts,price\n{MS},1\n{MS},1,2\n"),
        DataError,
        "t.csv: not a table: found more fields",
    ),
    (
        "row too short",
        file("t.csv", f"ts,price\n{MS},1\n{MS}\n"),
        DataError,
        "row 1: price = null: must be a finite number",
    ),
    (
        "no header",
        file("t.csv", f"{MS},1,2\n"),
        DataError,
        "t.csv: no header row, and 3 columns with 0 True/False are not",
    ),
    ("csv misnamed", file("t.csv", f"ts,px\n{MS},1\n"), DataError, "t.csv columns: a price is missing; found: ts, px"),
    (
        "not true or false",
        file("t.csv", f"id,price,qty,time,is_buyer_maker\n1,1,1,{MS},maybe\n"),
        DataError,
        "row 0: is_buyer_maker = 'maybe': must be true or false",
    ),
    ("bad row in the second file", two_files, DataError, "b.csv row 1: price = -4.0: must be a finite number above 0"),
    (
        "backwards in the second file",
        backwards_in_second_file,
        DataError,
        "b.csv row 1: ts = 2024-08-08T23:54:15.344Z: earl",
    ),
    (
        "files of two kinds",
        two_kinds,
        DataError,
        "b.csv: holds ts, price, size, but a.csv holds ts, price; read files of",
    ),
    (
        "bad query",
        read("SELECT price FROM nowhere"),
        DataError,
        "query = 'SELECT price FROM nowhere': Catalog Error: Table",
    ),
    (
        "query over the network",
        read("SELECT * FROM 'https://x.invalid/t.parquet'"),
        DataError,
        "requires the extension",
    ),
    # use
    ("last of quotes", quotes_by_last, DataError, "trigger = 'last': this feed has quotes only; use trigger=\"bid\""),
    ("bid of trades", lambda _: arrays()(_).view("bid"), DataError, "trigger = 'bid': this feed has trades only; use"),
    ("mark of bars", bars_by_mark, DataError, "trigger = 'mark': this feed has bars of the last price only; use"),
    (
        "trigger unknown",
        lambda _: arrays()(_).view("mid"),
        DataError,
        "trigger = 'mid': must be one of last, bid, ask, mark",
    ),
    (
        "direction 0",
        lambda _: arrays()(_).view(direction=0),
        DataError,
        "direction = 0: must be +1 (long) or -1 (short)",
    ),
    ("path of ticks", lambda _: arrays()(_).with_path("optimistic"), DataError, "these are ticks, not bars; ticks are"),
    (
        "empty slice",
        lambda _: arrays()(_).slice(5),
        DataError,
        "slice(5, None): holds none of the 3 rows; they run from 2024",
    ),
    (
        "slice at a naive time",
        lambda _: arrays()(_).slice("2024-08-08"),
        DataError,
        "slice: '2024-08-08': has no time zone",
    ),
]
