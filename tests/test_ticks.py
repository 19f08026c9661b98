"""Ticks: real files, every shape of source, exact prices, units of time, and the paths of bars."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartorders_lab.errors import DataError
from smartorders_lab.instrument import Instrument
from smartorders_lab.ticks import BAR, CONTINUOUS, PATHS, Ticks

MS = 1_723_161_255_342
NS = MS * 10**6
PRINT, INSIDE = BAR, BAR | CONTINUOUS


def prices(ticks: Ticks, name: str = "price") -> list[float]:
    return ticks.instrument.prices(getattr(ticks, name)).tolist()


# ---------------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize(
    ("name", "rows", "increment", "dated"),
    [
        ("trades_binance_spot_BTCUSDT_20240808", 19_904, "0.01", "2024-08-08"),
        ("trades_binance_usdm_ETHUSDT_20240808", 14_076, "0.01", "2024-08-08"),
        ("trades_binance_spot_XRPETH_20191011", 12_477, "0.00000001", "2019-10-11"),
        ("trades_bitstamp_BTCUSD_2011", 9_999, "0.0001", "2011-09-13"),
    ],
)
def test_real_trades(market_data, name, rows, increment, dated):
    path = market_data / f"{name}.parquet"
    source, ticks = pl.read_parquet(path), Ticks.read(path)
    assert len(ticks) == rows == source.height
    assert ticks.instrument.price_increment == Decimal(increment)
    assert ticks.instrument.derived
    assert prices(ticks) == source["price"].to_list()
    assert ticks.ts.tolist() == source["ts_ns"].to_list()
    assert str(np.datetime64(int(ticks.ts[0]), "ns")).startswith(dated)
    assert ticks.size.tolist() == source["size"].to_list()
    assert ticks.dropped == {}
    signs = {"buy": 1, "sell": -1}
    known = None if source["side"].null_count() else [signs[side] for side in source["side"]]
    assert (ticks.side if ticks.side is None else ticks.side.tolist()) == known


def test_equal_rows_without_ids_are_real_trades(market_data):
    ticks = Ticks.read(market_data / "trades_bitstamp_BTCUSD_2011.parquet")
    rows = pl.DataFrame({"ts": ticks.ts, "price": ticks.price, "size": ticks.size})
    assert rows.height - rows.unique().height == 1_695
    assert ticks.notes == ["side: unknown in every row"]


def test_real_quotes(market_data):
    path = market_data / "quotes_binance_spot_BTCUSDT_20240808.parquet"
    source, ticks = pl.read_parquet(path), Ticks.read(path)
    assert len(ticks) == source.height == 73_174
    assert prices(ticks, "bid") == source["bid"].to_list()
    assert prices(ticks, "ask") == source["ask"].to_list()
    assert ticks.price is None
    assert ticks.triggers == ("bid", "ask")


@pytest.mark.parametrize(
    ("name", "rows", "increment", "bar_ns"),
    [
        ("bars_ftx_BTCPERP_1m_202201", 45_031, "0.001", 60 * 10**9),
        ("bars_coinbase_ETHUSD_1m_20170903", 2_880, "0.01", 60 * 10**9),
        ("bars_coinbase_BTCUSD_1s_20161007", 11_520, "0.01", 10**9),
    ],
)
def test_real_bars(market_data, name, rows, increment, bar_ns):
    path = market_data / f"{name}.parquet"
    source, ticks = pl.read_parquet(path), Ticks.read(path)
    assert len(ticks) == 4 * rows == 4 * source.height
    assert ticks.bars.bar_ns == bar_ns
    assert ticks.instrument.price_increment == Decimal(increment)
    for column in ("open", "high", "low", "close"):
        assert ticks.instrument.prices(getattr(ticks.bars, column)).tolist() == source[column].to_list()
    assert (np.diff(ticks.ts) >= 0).all()


# ---------------------------------------------------------------------------------------------------- Binance Vision

SPOT_TRADES = f"10,61837.63,0.02,1236.75,{MS},True,True\n11,61837.64,0.5,30918.82,{MS + 1},False,True\n"
SPOT_AGG = f"10,61837.63,0.02,1,2,{MS},True,True\n11,61837.64,0.5,3,3,{MS + 1},False,True\n"
FUTURES_TRADES = f"10,61837.63,0.02,1236.75,{MS},true\n11,61837.64,0.5,30918.82,{MS + 1},false\n"
FUTURES_AGG = f"10,61837.63,0.02,1,2,{MS},true\n11,61837.64,0.5,3,3,{MS + 1},false\n"
AGG_HEADER = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n"
VISION = {
    "spot trades": (SPOT_TRADES, "Binance Vision trades, no header row"),
    "spot trades in µs": (SPOT_TRADES.replace(str(MS), f"{MS}000").replace(str(MS + 1), f"{MS + 1}000"), "unit us"),
    "spot aggTrades": (SPOT_AGG, "Binance Vision aggTrades, no header row"),
    "futures trades": (FUTURES_TRADES, "Binance Vision futures trades, no header row"),
    "futures aggTrades": (FUTURES_AGG, "Binance Vision futures aggTrades, no header row"),
    "futures trades with header": ("id,price,qty,quote_qty,time,is_buyer_maker\n" + FUTURES_TRADES, "unit ms"),
    "futures aggTrades with header": (AGG_HEADER + FUTURES_AGG, "unit ms"),
}


def zipped(path: Path, **members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(f"{name}.csv", text)
    return path


@pytest.mark.parametrize("shape", VISION)
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "zip"])
def test_vision_trades(tmp_path, shape, kind):
    text, note = VISION[shape]
    path = tmp_path / f"BTCUSDT-trades.{kind}"
    if kind == "zip":
        zipped(path, trades=text)
    else:
        path.write_bytes(gzip.compress(text.encode()) if kind == "csv.gz" else text.encode())
    ticks = Ticks.read(path, symbol="BTC/USDT")
    assert prices(ticks) == [61837.63, 61837.64]
    assert ticks.ts.tolist() == [NS, NS + 10**6]
    assert ticks.size.tolist() == [0.02, 0.5]
    assert ticks.side.tolist() == [-1, 1]  # the buyer was the maker, so the seller came to him
    assert any(note in line for line in ticks.notes)
    assert ticks.symbol == "BTC/USDT"


@pytest.mark.parametrize("header", [True, False])
def test_vision_klines(tmp_path, header):
    rows = "".join(f"{MS + 60_000 * i},10,12,9,11.5,5,{MS + 60_000 * i + 59_999},55,7,2,22,0\n" for i in range(3))
    names = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume"
    path = zipped(tmp_path / "BTCUSDT-1m.zip", klines=(f"{names},ignore\n" if header else "") + rows)
    ticks = Ticks.read(path)
    assert len(ticks) == 12
    assert ticks.bars.ts.tolist() == [NS + 60 * 10**9 * i for i in range(3)]
    assert ticks.bars.volume.tolist() == [5.0] * 3
    assert prices(ticks)[:4] == [10.0, 9.0, 12.0, 11.5]


def test_vision_files_out_of_order_are_sorted_by_id(tmp_path):
    path = tmp_path / "month.csv"
    path.write_text(SPOT_TRADES.splitlines()[1] + "\n" + SPOT_TRADES.splitlines()[0] + "\n")
    ticks = Ticks.read(path)
    assert ticks.ts.tolist() == [NS, NS + 10**6]
    assert "rows sorted by trade id: the source was not in order" in ticks.notes


def test_months_in_ms_and_us_each_have_their_unit(tmp_path):
    zipped(tmp_path / "2024-12.zip", trades=SPOT_TRADES)
    later = SPOT_TRADES.replace(str(MS), f"{MS + 5}000").replace(str(MS + 1), f"{MS + 6}000")
    zipped(tmp_path / "2025-01.zip", trades=later.replace("10,", "12,", 1).replace("\n11,", "\n13,"))
    ticks = Ticks.read(str(tmp_path / "*.zip"))
    assert ((ticks.ts - NS) // 10**6).tolist() == [0, 1, 5, 6]
    assert "2024-12.zip: ts: unit ms detected" in ticks.notes
    assert "2025-01.zip: ts: unit us detected" in ticks.notes
    assert ticks.source == "2 files, 2024-12.zip to 2025-01.zip"


def test_zip_of_several_files(tmp_path):
    lines = SPOT_TRADES.splitlines(keepends=True)
    assert len(Ticks.read(zipped(tmp_path / "both.zip", b=lines[1], a=lines[0]))) == 2


# ---------------------------------------------------------------------------------------------------- other sources

COLUMNS = {"ts": [NS, NS + 5], "price": [1.25, 1.5], "size": [2.0, 0.0], "side": ["buy", None], "trade_id": [7, 8]}


def sources() -> dict[str, object]:
    frame = pl.DataFrame(COLUMNS)
    values = f"({NS}, 1.25, 2, 'buy'), ({NS + 5}, 1.5, 0, NULL)"
    utc = pl.from_epoch("ts", "ns").dt.replace_time_zone("UTC")
    return {
        "polars": frame,
        "lazy": frame.lazy(),
        "pandas": frame.to_pandas(),
        "arrow": frame.to_arrow(),
        "duckdb relation": duckdb.sql(f"SELECT * FROM (VALUES {values}) t(ts, price, size, side)"),
        "capitals": frame.rename({"ts": "Timestamp", "price": "Last", "size": "Qty", "side": "Taker_Side"}),
        "datetimes": frame.with_columns(utc.dt.convert_time_zone("Asia/Tokyo")),
        "decimals": frame.with_columns(pl.col("price").cast(pl.Decimal(38, 18))),
        "float32": frame.with_columns(pl.col("price").cast(pl.Float32)),
    }


@pytest.mark.parametrize("kind", sources())
def test_frames(kind):
    ticks = Ticks.read(sources()[kind])
    assert prices(ticks) == [1.25, 1.5]
    assert ticks.ts.tolist() == [NS, NS + 5]
    assert ticks.size.tolist() == [2.0, 0.0]
    assert ticks.side.tolist() == [1, 0]
    assert ticks.data_hash == Ticks.from_arrays(**COLUMNS).data_hash


def test_query_over_a_file(tmp_path):
    pl.DataFrame(COLUMNS).with_columns(symbol=pl.Series(["A", "B"])).write_parquet(tmp_path / "t.parquet")
    ticks = Ticks.read(f"from '{tmp_path}/t.parquet' where symbol = 'B'")
    assert prices(ticks) == [1.5]
    assert ticks.symbol == "B"


def test_ccxt_trades():
    row = {
        "info": {},
        "symbol": "BTC/USDT",
        "order": None,
        "type": None,
        "fee": None,
        "cost": 1.0,
        "takerOrMaker": None,
    }
    trade = {**row, "timestamp": MS, "datetime": "2024-08-08T23:54:15.342Z"}
    trades = [
        {**trade, "id": "7", "side": "buy", "price": 61837, "amount": 1},
        {**trade, "id": "8", "side": "sell", "price": 61837.63, "amount": 0.5},
        {**trade, "id": "8", "side": "sell", "price": 61837.63, "amount": 0.5},
    ]
    ticks = Ticks.read(trades)
    assert prices(ticks) == [61837.0, 61837.63]
    assert ticks.side.tolist() == [1, -1]
    assert ticks.symbol == "BTC/USDT"
    assert ticks.dropped == {"duplicate trade ids": 1}
    assert "1 duplicate trade id dropped, first at row 2" in ticks.notes


def test_ccxt_candles_of_overlapping_pages():
    candles = [[MS + 60_000 * i, 10, 12.5, 9, 11, 5] for i in range(3)]
    ticks = Ticks.read([*candles, candles[-1]])
    assert len(ticks.bars) == 3
    assert ticks.dropped == {"repeated bars": 1}


def test_pandas_index_is_the_time():
    frame = pd.DataFrame({"price": [1.0, 2.0]}, index=pd.to_datetime([MS, MS + 1], unit="ms", utc=True))
    assert Ticks.read(frame).ts.tolist() == [NS, NS + 10**6]


def test_csv_with_bom_iso_times_and_blanks(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(
        "\ufefftime, price\r\n2024-08-08T23:54:15.342Z, 1.5\r\n2024-08-09T08:54:15.343+09:00, 2\r\n", "utf-8"
    )
    ticks = Ticks.read(path)
    assert ticks.ts.tolist() == [NS, NS + 10**6]
    assert prices(ticks) == [1.5, 2.0]


def test_csv_that_turns_to_floats_late(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("ts,price\n" + "".join(f"{MS + i},1\n" for i in range(20_000)) + f"{MS + 20_000},1.5\n")
    assert prices(Ticks.read(path))[-2:] == [1.0, 1.5]


def test_files_are_read_in_name_order(tmp_path):
    for name, shift in (("b", 10), ("a", 0)):
        pl.DataFrame({"ts": [NS + shift], "price": [1.0 + shift]}).write_parquet(tmp_path / f"{name}.parquet")
    assert prices(Ticks.read(str(tmp_path / "*.parquet"))) == [1.0, 11.0]


def test_columns_are_named_by_hand():
    frame = pl.DataFrame({"when": [MS, MS + 1], "px": [1.0, 2.0], "price": [7.0, 8.0]})
    assert prices(Ticks.read(frame, columns={"ts": "when", "price": "px"})) == [1.0, 2.0]


def test_price_of_a_frame_of_bars_can_be_asked_for():
    frame = pl.DataFrame({"ts": [MS], "open": [1.0], "high": [2.0], "low": [1.0], "close": [1.5]})
    assert prices(Ticks.read(frame, columns={"price": "close"})) == [1.5]


def test_other_names_for_the_time_are_noted():
    frame = pl.DataFrame({"timestamp": [MS], "date": ["2024-08-08"], "price": [1.0]})
    assert "ts: column timestamp used, not date" in Ticks.read(frame).notes


# ---------------------------------------------------------------------------------------------------- rows


def test_nothing_of_the_caller_is_shared_or_frozen():
    given = {"ts": np.array([NS, NS + 1]), "price": np.array([1.0, 2.0]), "size": np.array([1.0, 1.0])}
    given["side"] = np.array([1, -1], np.int8)
    for ticks in (
        Ticks.from_arrays(**given),
        Ticks.read(pl.DataFrame(given)),
        Ticks.read(pd.DataFrame(given, copy=False)),
    ):
        before = (ticks.ts[0], ticks.price[0], ticks.size[0], ticks.side[0])
        for array in given.values():
            array[0] += 3
        assert (ticks.ts[0], ticks.price[0], ticks.size[0], ticks.side[0]) == before
        for array in given.values():
            array[0] -= 3


def test_arrays_are_contiguous_and_read_only():
    ticks = Ticks.from_arrays(**COLUMNS, bid=[1.0, 1.0], ask=[2.0, 2.0], mark=[1.1, 1.2])
    for view in (ticks.view(), ticks.view("bid"), ticks.view("mark"), bars().view(direction=-1)):
        for array in view:
            assert array.flags.c_contiguous
            assert not array.flags.writeable
        assert [array.dtype for array in view] == [np.int64] * 4 + [np.float64, np.uint8]


def test_time_going_backwards_can_be_sorted_and_ties_keep_their_order():
    ticks = Ticks.from_arrays([NS + 1, NS, NS + 1, NS], [1.0, 2.0, 3.0, 4.0], sort=True)
    assert prices(ticks) == [2.0, 4.0, 1.0, 3.0]
    assert ticks.notes[-1] == "sorted by time: it went backwards 2 times, first at row 1"


def test_duplicate_ids_are_dropped_and_unknown_ids_are_not():
    ticks = Ticks.from_arrays([NS] * 5, [1.0, 2.0, 1.0, 3.0, 3.0], trade_id=["a", "b", "a", None, None])
    assert prices(ticks) == [1.0, 2.0, 3.0, 3.0]
    assert ticks.notes[-1] == "1 duplicate trade id dropped, first at row 2"


def test_a_repeated_id_with_another_price_is_noted():
    ticks = Ticks.from_arrays([NS] * 2, [1.0, 2.0], trade_id=[7, 7])
    assert ticks.notes[-1].endswith("; 1 with another time or price than the row kept")


def test_crossed_quotes_are_kept_and_noted():
    ticks = Ticks.from_arrays([NS, NS], None, bid=[1.0, 3.0], ask=[2.0, 2.0])
    assert len(ticks) == 2
    assert ticks.notes[-1] == "1 crossed quote: bid above ask; kept"


@pytest.mark.parametrize(("unit", "steps"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
def test_unit_of_epochs_is_detected(unit, steps):
    seconds = 1_723_161_255
    given = [seconds * steps, (seconds + 1) * steps]
    for ts in (given, [float(value) for value in given]) if unit != "ns" else (given,):
        ticks = Ticks.from_arrays(ts, [1.0, 1.0])
        assert ticks.ts.tolist() == [seconds * 10**9, (seconds + 1) * 10**9]
        assert ticks.notes == [f"ts: unit {unit} detected"]


def test_unit_can_be_given():
    assert Ticks.from_arrays([0, 1], [1.0, 1.0], unit="ms").ts.tolist() == [0, 10**6]


def test_float_seconds_are_read_to_the_microsecond():
    ticks = Ticks.from_arrays([1723161255.342, 1723161255.342001], [1.0, 1.0])
    assert ticks.ts.tolist() == [NS, NS + 1000]


def test_naive_datetimes_with_a_zone():
    ticks = Ticks.from_arrays([datetime(2024, 8, 9, 1, 54, 15, 342_000)], [1.0], tz="Europe/Berlin")
    assert ticks.ts.tolist() == [NS]
    assert ticks.notes == ["ts: datetimes read as Europe/Berlin"]


# ---------------------------------------------------------------------------------------------------- prices


@settings(deadline=None, max_examples=200)
@given(
    digits=st.integers(0, 12),
    units=st.lists(st.integers(1, 10**15 - 1), min_size=1, max_size=30),
)
def test_prices_on_a_power_of_ten_grid_round_trip(digits, units):
    values = [float(Decimal(unit).scaleb(-digits)) for unit in units]
    ticks = Ticks.from_arrays(range(NS, NS + len(values)), values)
    exact = [int(unit) * ticks.instrument.price_increment for unit in ticks.price]
    assert exact == [Decimal(unit).scaleb(-digits) for unit in units]
    assert prices(ticks) == values
    coarser = ticks.instrument.price_increment * 10
    fine_enough = coarser <= min(exact) * Decimal("1e-4")
    assert coarser > 1 or not fine_enough or any(value % coarser for value in exact)


def test_whole_prices_do_not_make_whole_steps():
    ticks = Ticks.from_arrays(range(NS, NS + 2), [100.0, 110.0])
    assert ticks.instrument.price_increment == Decimal("0.01")
    assert ticks.price.tolist() == [10_000, 11_000]


def test_increment_is_common_to_all_prices():
    ticks = Ticks.from_arrays([NS], [100.5], bid=[100.25], ask=[100.5], mark=[100.123])
    assert ticks.instrument.price_increment == Decimal("0.001")
    assert (ticks.price[0], ticks.bid[0], ticks.mark[0]) == (100_500, 100_250, 100_123)


def test_prices_of_no_grid_are_rounded_and_noted():
    values = 100 + np.random.default_rng(1).random(1000)
    ticks = Ticks.from_arrays(np.arange(NS, NS + 1000), values)
    assert np.abs(ticks.instrument.prices(ticks.price) / values - 1).max() < 1e-9
    assert ticks.notes[-1] == "prices rounded to 1e-7: no coarser power of ten holds them exactly"


def test_a_given_instrument_sets_the_units():
    quarter = Instrument(symbol="ES", price_increment="0.25")
    ticks = Ticks.from_arrays([NS, NS], [100.25, 100.5], mark=[100.3, 100.5], instrument=quarter)
    assert ticks.price.tolist() == [401, 402]
    assert ticks.mark.tolist() == [401, 402]
    assert ticks.notes[-1] == "mark: 1 price rounded to the increment 0.25"
    assert ticks.instrument is not None
    assert not ticks.instrument.derived


# ---------------------------------------------------------------------------------------------------- views


def test_view_of_trades_is_one_array():
    ticks = Ticks.from_arrays(**COLUMNS)
    view = ticks.view()
    assert view.price is view.buy is view.sell is ticks.price
    assert view.size is ticks.size
    assert view.flags.size == 0
    assert ticks.view("last", -1) is view


def test_view_of_quotes_trades_at_the_other_side():
    ticks = Ticks.from_arrays([NS], None, bid=[1.0], ask=[1.5])
    for trigger in ("bid", "ask"):
        view = ticks.view(trigger)
        assert view.price is getattr(ticks, trigger)
        assert view.buy is ticks.ask
        assert view.sell is ticks.bid
        assert view.size.size == 0


def test_view_of_mark_trades_at_the_last_price_if_there_is_one():
    both = Ticks.from_arrays([NS], [1.5], mark=[1.0])
    alone = Ticks.from_arrays([NS], None, mark=[1.0])
    assert both.view("mark").buy is both.price
    assert alone.view("mark").buy is alone.mark


# ---------------------------------------------------------------------------------------------------- bars

# a bar nearer to its low, one nearer to its high, one in the middle; the second opens with a gap
ROWS = [[MS, 10, 16, 8, 12, 1], [MS + 60_000, 20, 21, 16, 18, 1], [MS + 120_000, 18, 19, 17, 18, 1]]
LOW_FIRST = [[10, 8, 16, 12], [20, 16, 21, 18], [18, 17, 19, 18]]
HIGH_FIRST = [[10, 16, 8, 12], [20, 21, 16, 18], [18, 19, 17, 18]]
EXPECTED = {
    ("pessimistic", 1): LOW_FIRST,
    ("pessimistic", -1): HIGH_FIRST,
    ("optimistic", 1): HIGH_FIRST,
    ("optimistic", -1): LOW_FIRST,
    ("open-high-low-close", 1): HIGH_FIRST,
    ("open-high-low-close", -1): HIGH_FIRST,
    ("open-low-high-close", 1): LOW_FIRST,
    ("open-low-high-close", -1): LOW_FIRST,
    ("nearest-first", 1): [LOW_FIRST[0], HIGH_FIRST[1], LOW_FIRST[2]],
    ("nearest-first", -1): [LOW_FIRST[0], HIGH_FIRST[1], HIGH_FIRST[2]],
}


def bars(path: str = "pessimistic") -> Ticks:
    return Ticks.from_bars(ROWS, path, instrument=Instrument(price_increment=1))


@pytest.mark.parametrize(("path", "direction"), EXPECTED)
def test_bars_walk_their_path(path, direction):
    view = bars(path).view(direction=direction)
    assert view.price.reshape(3, 4).tolist() == EXPECTED[path, direction]
    assert view.flags.tolist() == [PRINT, INSIDE, INSIDE, INSIDE] * 3
    assert view.price is view.buy is view.sell
    minute = 60 * 10**9
    steps = [0, minute // 3, 2 * minute // 3, minute - 1]
    assert (view.ts - NS).tolist() == [k * minute + step for k in range(3) for step in steps]


def test_every_path_is_tested():
    assert {path for path, _ in EXPECTED} == set(PATHS)


def test_bars_under_another_path_are_the_same_data():
    ticks = bars()
    other = ticks.with_path("optimistic")
    assert other.price.reshape(3, 4).tolist() == HIGH_FIRST
    assert other.bars is ticks.bars
    assert other.data_hash == ticks.data_hash
    assert other.path == "optimistic"


@pytest.mark.parametrize("bar", ["1m", timedelta(minutes=1), 60 * 10**9, None])
def test_length_of_a_bar(bar):
    assert Ticks.from_bars(ROWS, bar=bar).bars.bar_ns == 60 * 10**9


def test_length_of_a_bar_is_the_smallest_step():
    ticks = Ticks.from_bars([ROWS[0], ROWS[2], [MS + 150_000, 18, 19, 17, 18, 1]])
    assert ticks.bars.bar_ns == 30 * 10**9
    assert "bars: 30s each, the smallest step between two opens" in ticks.notes


# ---------------------------------------------------------------------------------------------------- slices, display


def test_slice_by_position_and_by_time():
    ticks = Ticks.from_arrays([MS, MS + 1000, MS + 2000], [1.0, 2.0, 3.0], [1.0, 1.0, 2.0])
    after = datetime(2024, 8, 8, 23, 54, 16, tzinfo=UTC)
    assert (
        prices(ticks.slice(1))
        == prices(ticks.slice(after))
        == prices(ticks.slice("2024-08-08T23:54:16Z"))
        == [2.0, 3.0]
    )
    assert prices(ticks.slice(None, -1)) == [1.0, 2.0]
    assert ticks.slice(1).size.tolist() == [1.0, 2.0]
    assert ticks.slice(0, 3).data_hash == ticks.data_hash != ticks.slice(1).data_hash


def test_slice_of_bars_takes_whole_bars():
    assert bars().slice(1).price.reshape(2, 4).tolist() == LOW_FIRST[1:]
    assert len(bars().slice("2024-08-08T23:54:16Z", "2024-08-08T23:55:16Z")) == 4


def test_hash_sees_every_column():
    base = {**COLUMNS, "bid": [1.0, 1.0], "ask": [2.0, 2.0]}
    changed = [
        {"ts": [NS, NS + 6]}, {"price": [1.25, 1.75]}, {"size": [2.0, 1.0]}, {"side": ["buy", "sell"]},
        {"bid": [1.0, 1.5]}, {"ask": [2.0, 2.5]}, {"mark": [1.0, 1.0]}, {"size": None}, {"price": [1.25, 1.501]},
    ]  # fmt: skip
    hashes = [Ticks.from_arrays(**{**base, **change}).data_hash for change in [{}, *changed]]
    assert len(set(hashes)) == len(hashes)
    assert all(len(digest) == 32 for digest in hashes)


def test_repr_is_one_line_and_html_has_no_colours():
    for ticks in (
        Ticks.from_arrays(**COLUMNS, symbol="<b>"),
        bars(),
        Ticks.from_arrays([NS], None, bid=[1.0], ask=[2.0]),
    ):
        assert "\n" not in repr(ticks)
        html = ticks._repr_html_()
        assert html.startswith("<table")
        assert "color" not in html
        assert "<b>" not in html
    assert repr(bars()) == (
        "<Ticks (no symbol): 3 bars of 1m, pessimistic (12 ticks), "
        "2024-08-08T23:54:15 to 2024-08-08T23:57:15, last 8 to 21>"
    )


def test_symbol_of_instrument_or_argument():
    assert Ticks.from_arrays(**COLUMNS, symbol="A/B").symbol == "A/B"
    assert Ticks.from_arrays(**COLUMNS, instrument=Instrument(symbol="A/B")).symbol == "A/B"
    assert Ticks.from_arrays(**COLUMNS, instrument=Instrument(), symbol="A/B").symbol == "A/B"


def test_import_is_light():
    code = "import sys, smartorders_lab.ticks; print(*{'pandas', 'pyarrow', 'duckdb', 'ccxt'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_bytes_are_not_a_source():
    with pytest.raises(DataError, match="source of type BytesIO: not understood"):
        Ticks.read(io.BytesIO())
