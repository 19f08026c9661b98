"""Downloads through the real ccxt clients from a server of ours, and every way in which one could lose a row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from exchange_server import DAY, HOUR, MINUTE, MS, NOW, PRECISION_NS, ExchangeServer, Tape, Trade, make_tape

from smartorders_lab.errors import DataError, ExchangeError
from smartorders_lab.feeds import fetch
from smartorders_lab.feeds.fetch import VENUES, fetch_bars, fetch_trades

pytest.importorskip("ccxt")
TAPE = make_tape()
START = NOW - 10 * HOUR
SMALL = make_tape(hours=9, trades=300, minutes=0)
FIRST = TAPE.trades[0].ms
HISTORY = [venue for venue in VENUES if VENUES[venue].walk != "recent"]
MARKETS = [(venue, symbol) for venue in VENUES for symbol in ("SOL/USDT", "SOL/USDT:USDT")]
MARKETS.remove(("kraken", "SOL/USDT:USDT"))  # its class is spot only


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "PAUSE_S", 0.001)


@pytest.fixture
def server() -> Any:
    with ExchangeServer(TAPE) as running:
        yield running


@pytest.fixture
def small() -> Any:
    with ExchangeServer(SMALL) as running:
        yield running


def trades(venue: str, start: int, end: int, tape: Tape = TAPE, swap: bool = False) -> pl.DataFrame:
    """The tape's trades in `[start, end)` ms as `venue` publishes them."""
    unit = MS if swap and venue == "gate" else PRECISION_NS.get(venue, MS)
    rows = [
        (t.ts_ns // unit * unit, float(t.price), float(t.size), t.side, str(t.id))
        for t in tape.trades
        if start * MS <= t.ts_ns < end * MS
    ]
    schema = {"ts_ns": pl.Int64, "price": pl.Float64, "size": pl.Float64, "side": pl.String, "trade_id": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def bars(start: int, end: int, tape: Tape = TAPE) -> pl.DataFrame:
    rows = [(b[0] * MS, *map(float, b[1:])) for b in tape.bars if start <= b[0] < end and b[0] + MINUTE <= NOW]
    schema = {"ts_ns": pl.Int64} | dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64)
    return pl.DataFrame(rows, schema=schema, orient="row")


def tape_of(times: list[int], first_id: int = 1000) -> Tape:
    """A tape with one trade at each of these ns."""
    return Tape([Trade(first_id + i, ts, f"{150 + i % 7}.25", "0.5", "buy") for i, ts in enumerate(times)], [])


def same(path: Path, expected: pl.DataFrame) -> None:
    got = pl.read_parquet(path)
    assert got.schema == expected.schema
    assert got.equals(expected), f"{got.height} rows, {expected.height} expected"


# ------------------------------------------------------------------------------------------- every row, once, in order


@pytest.mark.parametrize(("venue", "symbol"), [market for market in MARKETS if market[0] in HISTORY])
def test_trades_equal_the_tape(venue: str, symbol: str, server: ExchangeServer, tmp_path: Path) -> None:
    start, end = FIRST + 90_001, NOW - 40_003  # both inside the tape, neither on a second
    result = fetch_trades(venue, symbol, start, end, tmp_path / "t.parquet", client=server.client(venue, symbol))
    expected = trades(venue, start, end, swap=":" in symbol)
    same(result.path, expected)
    assert (result.rows, result.first_ns, result.last_ns) == (expected.height, *expected["ts_ns"][[0, -1]])
    assert (result.resumed, result.complete, result.requests) == (False, False, len(server.log))
    assert not (tmp_path / "t.parquet.parts").exists()


@pytest.mark.parametrize(("venue", "most"), [("bybit", 60), ("bybit", 1000), ("kucoin", 100)])
def test_recent_trades_are_given_or_refused(venue: str, most: int, server: ExchangeServer, tmp_path: Path) -> None:
    symbol = "SOL/USDT:USDT" if most == 1000 else "SOL/USDT"
    out, known = tmp_path / "t.parquet", TAPE.trades[-most + 5].ms
    fetch_trades(venue, symbol, known, NOW, out, client=server.client(venue, symbol))
    same(out, trades(venue, known, NOW))
    early = TAPE.trades[-most - 1].ms
    with pytest.raises(ExchangeError, match=rf"{venue} SOL/USDT.*start = 2025.*last {most} trades.*history from"):
        fetch_trades(venue, symbol, early, NOW, tmp_path / "u.parquet", client=server.client(venue, symbol))
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize(("venue", "symbol"), MARKETS)
def test_bars_equal_the_tape_without_the_unfinished_one(
    venue: str, symbol: str, server: ExchangeServer, tmp_path: Path
) -> None:
    start = NOW - (718 if venue == "kraken" else 2480) * MINUTE
    result = fetch_bars(venue, symbol, "1m", start, NOW, tmp_path / "b.parquet", client=server.client(venue, symbol))
    expected = bars(start, NOW)
    same(result.path, expected)
    assert expected["ts_ns"][-1] == (NOW // MINUTE - 1) * MINUTE * MS
    # Pages as large as the venue gives, and at most two requests more for each of the three holes.
    page = VENUES[venue].swap_bars if ":" in symbol and venue == "kucoin" else VENUES[venue].bars
    assert result.requests <= 2480 / page + 7


# --------------------------------------------------------------------------------------------------- traps of one venue


def test_binance_empty_hours_are_not_the_end(server: ExchangeServer, tmp_path: Path) -> None:
    start = FIRST - 5 * HOUR
    result = fetch_trades("binance", "SOL/USDT", start, NOW, tmp_path / "t.parquet", client=server.client("binance"))
    same(result.path, trades("binance", start, NOW))


def test_binance_times_that_step_back_between_pages(tmp_path: Path) -> None:
    times = [NOW * MS - (3000 - k) * MS for k in range(1500)]
    times[1000:1003] = [times[990]] * 3  # ids count on, the clock of another machine does not
    with ExchangeServer(tape_of(times)) as server:
        out = tmp_path / "t.parquet"
        fetch_trades("binance", "SOL/USDT", NOW - HOUR, NOW, out, client=server.client("binance"))
        same(out, trades("binance", 0, NOW, server.tape).sort("ts_ns", "trade_id"))


def test_okx_a_sweep_longer_than_a_page_in_one_ms(tmp_path: Path) -> None:
    times = [NOW * MS - 60 * 10**9] * 3 + [NOW * MS - 30 * 10**9] * 320 + [NOW * MS - 10**9] * 2
    with ExchangeServer(tape_of(times, first_id=9_900)) as server:  # id 10000 comes after 9999
        out = tmp_path / "t.parquet"
        fetch_trades("okx", "SOL/USDT", NOW - HOUR, NOW, out, client=server.client("okx"))
        same(out, trades("okx", 0, NOW, server.tape))


def test_gate_a_crowded_window_is_halved(
    server: ExchangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(VENUES, "gate", replace(VENUES["gate"], trades=100, max_pages=3))
    start, end, out = NOW - 2 * HOUR, NOW - MINUTE, tmp_path / "t.parquet"
    fetch_trades("gate", "SOL/USDT", start, end, out, client=server.client("gate"))
    same(out, trades("gate", start, end))
    full = tape_of([NOW // 1000 * 10**9 - 5 * 10**9] * 400)  # no window is small enough
    with ExchangeServer(full) as other, pytest.raises(ExchangeError, match="over 3 pages in the second of 2025-01-05"):
        fetch_trades("gate", "SOL/USDT", NOW - HOUR, NOW, tmp_path / "u.parquet", client=other.client("gate"))


def test_coinbase_says_so_when_a_second_holds_more_than_a_page(tmp_path: Path) -> None:
    second = (NOW // 1000 - 30) * 10**9
    for many, lost in ((990, False), (1010, True)):
        times = [second - 10**9 * k for k in range(20, 0, -1)] + [second + k * 1000 for k in range(many)]
        with ExchangeServer(tape_of(times)) as server:
            out = tmp_path / f"{many}.parquet"
            args = ("coinbase", "SOL/USDT", NOW - HOUR, NOW, out)
            if lost:
                with pytest.raises(ExchangeError, match="1000 or more trades in the second of 2025-01-05T12:34:26Z"):
                    fetch_trades(*args, client=server.client("coinbase"))
            else:
                fetch_trades(*args, client=server.client("coinbase"))
                same(out, trades("coinbase", 0, NOW, server.tape))


def test_kraken_trades_of_one_ns_across_a_page(tmp_path: Path) -> None:
    times = sorted([NOW * MS - (2000 - k) * MS for k in range(995)] + [NOW * MS - 900 * MS] * 12)
    with ExchangeServer(tape_of(times)) as server:
        out = tmp_path / "t.parquet"
        fetch_trades("kraken", "SOL/USDT", NOW - HOUR, NOW, out, client=server.client("kraken"))
        same(out, trades("kraken", 0, NOW, server.tape))
        assert all(len(query["since"]) == 19 for _, _, query in server.log), "since in ns: seconds would re-read"


def test_bitget_shifts_the_start_of_a_page_and_the_head_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_tape(end=NOW - 40 * DAY)  # older than 30 days comes from the endpoint that looks at the end alone
    start, end = NOW - 40 * DAY - 1490 * MINUTE, NOW - 40 * DAY
    with ExchangeServer(old) as server:
        page = server.client("bitget").fetch_ohlcv("SOL/USDT", "1m", start // MINUTE * MINUTE, 1000)
        assert page[0][0] == (start // MINUTE + 800) * MINUTE, "the trap is there: 800 candles skipped without a word"
        for size, name in ((200, "a.parquet"), (1000, "b.parquet")):
            monkeypatch.setitem(VENUES, "bitget", replace(VENUES["bitget"], bars=size))
            client = server.client("bitget")
            fetch_bars("bitget", "SOL/USDT", "1m", start, end, tmp_path / name, client=client)
            same(tmp_path / name, bars(start, end, old))


def test_bitget_pages_of_swap_candles_span_90_days() -> None:
    for timeframe, expected in (("1m", 200), ("12h", 180), ("1d", 90)):
        job = fetch._job("bars", "bitget", "SOL/USDT:USDT", timeframe, "2024-01-01", "2024-06-01")
        assert fetch.Line(job, type("Client", (), {})()).page_bars == expected


@pytest.mark.parametrize(("venue", "kept"), [("kraken", 720), ("gate", 10_000)])
def test_bars_further_back_than_kept_are_refused(venue: str, kept: int, server: ExchangeServer, tmp_path: Path) -> None:
    start, client = NOW - (kept + 1) * MINUTE, server.client(venue)
    with pytest.raises(ExchangeError, match=rf"{venue} SOL/USDT: start = .* only the last {kept} bars of 1m.*longer"):
        fetch_bars(venue, "SOL/USDT", "1m", start, NOW, tmp_path / "b.parquet", client=client)
    assert not server.log
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("venue", ["okx", "bitget"])
def test_trades_further_back_than_kept_are_refused(venue: str, server: ExchangeServer, tmp_path: Path) -> None:
    with pytest.raises(ExchangeError, match=rf"{venue} SOL/USDT: start = .*kept for 90 days"):
        fetch_trades(venue, "SOL/USDT", NOW - 91 * DAY, NOW, tmp_path / "t.parquet", client=server.client(venue))
    assert not server.log


def test_a_candle_that_ended_a_moment_ago_is_not_taken(tmp_path: Path) -> None:
    for late, expected in ((4_999, 8), (5_000, 9)):
        with ExchangeServer(TAPE, now=NOW // MINUTE * MINUTE + late) as server:
            out = tmp_path / f"{late}.parquet"
            result = fetch_bars("okx", "SOL/USDT", "1m", NOW - 10 * MINUTE, NOW, out, client=server.client("okx"))
            assert result.rows == expected


# ----------------------------------------------------------------------------------------------------------- continuing


def interrupted(client: Any, method: str, after: int, error: BaseException) -> Any:
    """`client` with a method that raises `error` after so many calls."""
    original, calls = getattr(client, method), []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) > after:
            raise error
        return original(*args, **kwargs)

    setattr(client, method, call)
    return client


@pytest.mark.parametrize(
    ("venue", "error"), [*((venue, KeyboardInterrupt()) for venue in HISTORY), ("okx", RuntimeError("a bug"))]
)
def test_interrupted_trades_go_on(venue: str, error: BaseException, small: ExchangeServer, tmp_path: Path) -> None:
    out, whole = tmp_path / "t.parquet", tmp_path / "whole.parquet"
    requests = fetch_trades(venue, "SOL/USDT", START, NOW, whole, client=small.client(venue)).requests
    client = interrupted(small.client(venue), "fetch_trades", requests - 2, error)
    with pytest.raises(type(error)):
        fetch_trades(venue, "SOL/USDT", START, NOW, out, client=client)
    assert not out.exists()
    assert (tmp_path / "t.parquet.parts" / "checkpoint.json").exists()
    result = fetch_trades(venue, "SOL/USDT", START, NOW, out, client=small.client(venue))
    assert result.resumed
    assert result.requests < requests, "what was there is not fetched again"
    same(out, pl.read_parquet(whole))
    same(out, trades(venue, START, NOW, SMALL))
    assert not (tmp_path / "t.parquet.parts").exists()


def test_interrupted_bars_go_on_and_a_relative_start_means_what_it_meant(
    server: ExchangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch.time, "time_ns", lambda: NOW * MS)
    out = tmp_path / "b.parquet"
    client = interrupted(server.client("bitget"), "fetch_ohlcv", 4, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch_bars("bitget", "SOL/USDT", "1m", "40h", None, out, client=client)
    monkeypatch.setattr(fetch.time, "time_ns", lambda: (NOW + HOUR) * MS)
    result = fetch_bars("bitget", "SOL/USDT", "1m", "40h", None, out, client=server.client("bitget"))
    same(out, bars(NOW - 40 * HOUR, NOW))
    assert result.resumed
    again = fetch_bars("bitget", "SOL/USDT", "1m", "40h", None, out, client=None)
    assert (again.complete, again.rows, again.requests) == (True, result.rows, 0)


CHILD = """
import sys
from exchange_server import make_client
from smartorders_lab.feeds import fetch
fetch.FLUSH_S = 0
url, first, now, out = sys.argv[1:]
fetch.fetch_trades("okx", "SOL/USDT", int(first), int(now), out, client=make_client("okx", "SOL/USDT", url))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_and_continued_gives_the_same_file(server: ExchangeServer, tmp_path: Path) -> None:
    out, tests = tmp_path / "t.parquet", Path(__file__).parent
    server.hold_from = 25
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)])}
    with subprocess.Popen([sys.executable, "-c", CHILD, server.url, str(FIRST), str(NOW), str(out)], env=env) as child:
        assert server.held.wait(60), "the child did not come to its 25th request"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    server.hold_from = None
    server.release()
    kept = json.loads((tmp_path / "t.parquet.parts" / "checkpoint.json").read_text())
    assert kept["rows"] > 500
    result = fetch_trades("okx", "SOL/USDT", FIRST, NOW, out, client=server.client("okx"))
    assert result.resumed
    same(out, trades("okx", FIRST, NOW))


def test_an_interrupted_replacement_goes_on_without_force(server: ExchangeServer, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    fetch_trades("gate", "SOL/USDT", NOW - HOUR, NOW, out, client=server.client("gate"))
    before = out.read_bytes()
    client = interrupted(server.client("kraken"), "fetch_trades", 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch_trades("kraken", "SOL/USDT", FIRST, NOW, out, client=client, force=True)
    assert out.read_bytes() == before, "the old file stays until the new one is whole"
    result = fetch_trades("kraken", "SOL/USDT", FIRST, NOW, out, client=server.client("kraken"))
    assert result.resumed
    same(out, trades("kraken", FIRST, NOW))


def test_parts_that_overlap_merge_to_every_row_once(server: ExchangeServer, tmp_path: Path) -> None:
    out, folder = tmp_path / "t.parquet", tmp_path / "t.parquet.parts"
    client = interrupted(server.client("kraken"), "fetch_trades", 3, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch_trades("kraken", "SOL/USDT", FIRST, NOW, out, client=client)
    state = json.loads((folder / "checkpoint.json").read_text())
    state["cursor"]["since"] -= 30 * 10**9  # the last half minute is read again
    (folder / "checkpoint.json").write_text(json.dumps(state))
    (folder / "000099-1.parquet").write_bytes(b"cut off by a power cut, and in no checkpoint")
    fetch_trades("kraken", "SOL/USDT", FIRST, NOW, out, client=server.client("kraken"))
    same(out, trades("kraken", FIRST, NOW))
    assert not folder.exists()


def test_a_finished_download_is_left_alone_and_another_request_refused(server: ExchangeServer, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    first = fetch_trades("gate", "SOL/USDT", NOW - HOUR, NOW, out, client=server.client("gate"))
    asked, before = len(server.log), out.read_bytes()
    again = fetch_trades("gateio", "SOL/USDT", NOW - HOUR, NOW, out)
    assert (again.complete, again.requests, len(server.log), out.read_bytes()) == (True, 0, asked, before)
    assert "complete already" in str(again)
    assert f"{first.rows:,} trades of SOL/USDT on gate, 2025-01-05T11:3" in str(first)
    for change in ({"start": NOW - 2 * HOUR}, {"symbol": "BTC/USDT"}, {"exchange": "okx"}):
        asked_for = {"exchange": "gate", "symbol": "SOL/USDT", "start": NOW - HOUR, "end": NOW, "out": out} | change
        with pytest.raises(DataError, match=r"holds trades of SOL/USDT on gate, 2025.*force"):
            fetch_trades(**asked_for)
    longer = {"start": NOW - 2 * HOUR, "end": NOW, "force": True, "client": server.client("gate")}
    assert fetch_trades("gate", "SOL/USDT", out=out, **longer).rows > first.rows
    assert fetch._finished(out).start == NOW - 2 * HOUR
    assert pq.read_metadata(out).num_rows == pl.read_parquet(out).height


def test_foreign_files_and_other_peoples_parts_are_not_touched(server: ExchangeServer, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1]}).write_parquet(out)
    with pytest.raises(DataError, match="was not downloaded here"):
        fetch_trades("gate", "SOL/USDT", NOW - HOUR, NOW, out, client=server.client("gate"))
    foreign = out.read_bytes()
    out.unlink()
    client = interrupted(server.client("kraken"), "fetch_trades", 2, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        fetch_trades("kraken", "SOL/USDT", FIRST, NOW, out, client=client)
    out.write_bytes(foreign)  # put there while the download lay idle
    with pytest.raises(DataError, match="was not downloaded here"):
        fetch_trades("kraken", "SOL/USDT", FIRST, NOW, out, client=server.client("kraken"))
    assert out.read_bytes() == foreign
    with pytest.raises(DataError, match="interrupted download of trades of SOL/USDT on kraken"):
        fetch_trades("gate", "SOL/USDT", FIRST, NOW, out, client=server.client("gate"))
    folder = tmp_path / "t.parquet.parts"
    (folder / "notes.txt").write_text("mine")
    fetch_trades("gate", "SOL/USDT", FIRST, NOW, out, client=server.client("gate"), force=True)
    same(out, trades("gate", FIRST, NOW))
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "checkpoint.json").write_text('{"job": 1}')
    with pytest.raises(DataError, match=r"checkpoint.json: is no checkpoint of ours"):
        fetch_trades("gate", "SOL/USDT", FIRST, NOW, out, client=server.client("gate"))


# --------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("venue", "fault"),
    [(venue, fault) for venue in HISTORY for fault in ("drop", "429", "500", "truncated")]
    + [(venue, fault) for venue in ("okx", "coinbase") for fault in ("html", "empty", "{}")],
)
def test_a_fault_costs_a_request_and_no_row(venue: str, fault: str, small: ExchangeServer, tmp_path: Path) -> None:
    small.faults = {1: fault, 3: fault, 4: fault}
    result = fetch_trades(venue, "SOL/USDT", START, NOW, tmp_path / "t.parquet", client=small.client(venue))
    same(result.path, trades(venue, START, NOW, SMALL))
    assert result.requests == len(small.log)
    assert len(small.log) >= 4


@pytest.mark.parametrize("fault", ["truncated", "empty", "{}", "slow"])
@pytest.mark.parametrize("venue", ["okx", "kucoin", "coinbase"])
def test_a_bad_page_of_bars_is_asked_again(venue: str, fault: str, server: ExchangeServer, tmp_path: Path) -> None:
    server.faults = {1: fault}
    client = server.client(venue)
    client.timeout = 400 if fault == "slow" else client.timeout
    start = NOW - 320 * MINUTE
    fetch_bars(venue, "SOL/USDT", "1m", start, NOW, tmp_path / "b.parquet", client=client)
    same(tmp_path / "b.parquet", bars(start, NOW))
    assert len(server.log) >= 2


def test_repeats_are_bounded_and_what_was_there_is_kept(
    server: ExchangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetch.time, "sleep", pauses.append)
    monkeypatch.setattr(fetch, "PAUSE_S", 1.0)
    server.faults = dict.fromkeys(range(3, 100), "500")
    out = tmp_path / "t.parquet"
    with pytest.raises(ExchangeError, match=r"kraken SOL/USDT: .*7 times over; check the connection.*go on") as caught:
        fetch_trades("kraken", "SOL/USDT", FIRST, NOW, out, client=server.client("kraken"))
    assert "\n" not in str(caught.value)
    assert (len(server.log), pauses) == (2 + 7, [1, 2, 4, 8, 16, 32])
    server.faults = {}
    assert fetch_trades("kraken", "SOL/USDT", FIRST, NOW, out, client=server.client("kraken")).resumed
    same(out, trades("kraken", FIRST, NOW))


def test_retry_after_is_kept(server: ExchangeServer) -> None:
    line = fetch.Line(fetch._job("trades", "okx", "SOL/USDT", "", FIRST, NOW), server.client("okx"))
    for header, expected in (("17", 17), ("9999", fetch.LONGEST_PAUSE_S), ("soon", 0)):
        line.client.last_response_headers = {"Retry-After": header}
        assert line._retry_after() == expected


def test_what_is_no_network_error_surfaces_at_once(server: ExchangeServer, tmp_path: Path) -> None:
    out = tmp_path / "t.parquet"
    server.faults = {1: '{"retCode": 10001, "retMsg": "params error", "result": {}}'}
    with pytest.raises(ExchangeError, match=r"bybit SOL/USDT: BadRequest.*params error.*check symbol and range"):
        fetch_bars("bybit", "SOL/USDT", "1m", NOW - HOUR, NOW, out, client=server.client("bybit"))
    assert len(server.log) == 1
    server.faults = {2: '{"code": "0", "data": [{"px": "1"}]}'}
    with pytest.raises(ExchangeError, match="okx SOL/USDT: "):
        fetch_trades("okx", "SOL/USDT", NOW - HOUR, NOW, out, client=server.client("okx"))
    with pytest.raises(ExchangeError, match=r"okx SOL/USD: no such market; try SOL/USDT"):
        fetch_trades("okx", "SOL/USD", NOW - HOUR, NOW, out, client=server.client("okx"))
    start = FIRST + 4 * HOUR + 2 * MINUTE
    with pytest.raises(ExchangeError, match=r"okx SOL/USDT: nothing traded from 2025-01-05T04"):
        fetch_trades("okx", "SOL/USDT", start, start + HOUR, out, client=server.client("okx"))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exchange": "binnance"}, "exchange = 'binnance': must be one of binance, .*did you mean binance"),
        ({"exchange": "gatio"}, "did you mean gate"),
        ({"exchange": "nyse!"}, "must be one of"),
        ({"symbol": "BTCUSDT"}, "symbol = 'BTCUSDT': must be BASE/QUOTE; write BTC/USDT"),
        ({"symbol": "BTC/USDT:USDT", "exchange": "kraken"}, "kraken is spot only; write BTC/USDT"),
        ({"start": "yesterday"}, "start = 'yesterday': is not a time; write 2024-01-01"),
        ({"start": 1735689600}, r"start = 1735689600: is not between 2009 and 2100 \(numbers are epoch ms\)"),
        ({"start": True}, "start = True: is not a time"),
        ({"start": 1.5}, "start = 1.5: is not a time"),
        ({"start": None}, "start = None: is not a time"),
        ({"end": "2024-12-01"}, "is not before the end, 2024-12-01T00:00:00Z; swap them"),
        ({"end": datetime.now(UTC) + timedelta(days=1)}, "lies in the future; leave it out"),
        ({"out": "t.csv"}, "out = 't.csv': must be a Parquet file; write t.parquet"),
    ],
)
def test_bad_arguments_name_the_way_out(change: dict[str, Any], message: str) -> None:
    asked = {
        "exchange": "binance",
        "symbol": "BTC/USDT",
        "start": "2025-01-01",
        "end": "2025-01-02",
        "out": "t.parquet",
    }
    with pytest.raises(DataError, match=message) as caught:
        fetch_trades(**asked | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("timeframe", ["7m", "1w", "1M", "2d", "50m", "", "m", None, "0m"])
def test_timeframes_must_divide_a_day(timeframe: Any) -> None:
    with pytest.raises(DataError, match=r"timeframe = .*must divide a day"):
        fetch_bars("binance", "BTC/USDT", timeframe, "2025-01-01", "2025-01-02", "t.parquet")


def test_arguments_that_only_the_exchange_can_judge(server: ExchangeServer, tmp_path: Path) -> None:
    out = tmp_path / "b.parquet"
    with pytest.raises(DataError, match=r"timeframe = '8h': okx has no such candles; use one of 1m, 3m, .*12h, 1d$"):
        fetch_bars("okx", "SOL/USDT", "8h", NOW - DAY, NOW, out, client=server.client("okx"))
    with pytest.raises(DataError, match="no finished 1m candle opens between"):
        fetch_bars("okx", "SOL/USDT", "1m", NOW - 30_000, NOW, out, client=server.client("okx"))
    with pytest.raises(DataError, match="client = kraken: is not okx"):
        fetch_bars("okx", "SOL/USDT", "1m", NOW - DAY, NOW, out, client=server.client("kraken"))


@pytest.mark.parametrize(
    "start",
    [
        "2025-01-01",
        "2025-01-01T00:00Z",
        "2025-01-01T02:00+02:00",
        "20250101",
        date(2025, 1, 1),
        datetime(2025, 1, 1),
        datetime(2025, 1, 1, tzinfo=UTC),
        1_735_689_600_000,
        "1735689600000",
        "1d",
        "24h",
        timedelta(days=1),
    ],
)
def test_ways_to_write_a_start(start: object) -> None:
    job = fetch._job("trades", "okx", "SOL/USDT", "", start, "2025-01-02")
    assert (job.start_ns, job.end_ns) == (1_735_689_600 * 10**9, 1_735_776_000 * 10**9)


@pytest.mark.parametrize(
    ("given", "venue"),
    [("gateio", "gate"), ("coinbaseadvanced", "coinbase"), ("okex", "okx"), (" Binance", "binance"), ("OKX", "okx")],
)
def test_aliases(given: str, venue: str) -> None:
    assert fetch._venue(given) == venue


@pytest.mark.parametrize(("venue", "symbol"), MARKETS)
def test_a_client_of_our_own_keeps_the_rate_limit_and_knows_the_market_type(venue: str, symbol: str) -> None:
    client = fetch._client(fetch._job("trades", venue, symbol, "", FIRST, NOW))
    assert client.enableRateLimit
    assert client.options["defaultType"] == ("swap" if ":" in symbol else "spot")
    assert client.options.get("maxRetriesOnFailure", 0) == 0
    types = (client.options["fetchMarkets"] or {}).get("types") if venue not in ("kraken", "coinbase") else None
    if types is not None:
        assert "option" not in types
        assert ("spot" in types) == (":" not in symbol)


def test_the_bar_shows_when_asked_and_not_in_a_pipe(
    server: ExchangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch_trades("gate", "SOL/USDT", NOW - HOUR, NOW, tmp_path / "a.parquet", client=server.client("gate"))
    assert capsys.readouterr().err == ""
    asked = {"client": server.client("gate"), "progress": True}
    fetch_trades("gate", "SOL/USDT", NOW - HOUR, NOW, tmp_path / "b.parquet", **asked)
    shown = capsys.readouterr().err
    assert "gate SOL/USDT" in shown
    assert "100%" in shown


def test_ccxt_is_imported_when_a_download_begins() -> None:
    code = "import sys, smartorders_lab.feeds.fetch; assert not {'ccxt', 'tqdm', 'requests'} & set(sys.modules)"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
