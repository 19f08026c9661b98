"""Past trades and bars of eight exchanges into one Parquet file, through ccxt; an interrupted download continues.

    fetch_trades("binance", "BTC/USDT", "2024-01-01", "2024-01-08", "btc.parquet")
    fetch_bars("okx", "SOL/USDT:USDT", "1m", "7d", None, "sol_1m.parquet")

Times are UTC, the range is `[start, end)`, and the file holds every row of it once, in order:

    trades   ts_ns Int64, price Float64, size Float64, side "buy" | "sell" | "" (aggressor), trade_id String
    bars     ts_ns Int64 (open time), open, high, low, close, volume Float64

While it runs, rows lie in `<out>.parts/` as numbered Parquet files beside a checkpoint that names them and the place
to go on from. Both are written whole or not at all, so Ctrl-C, a crash or a power cut loses a few seconds of work and
no row; calling again with the same arguments goes on, and calling again after the end downloads nothing.

Known limits. A venue that keeps less than is asked for is refused, not cut short (see `VENUES`). Binance trades are
aggregate trades: fills of one taker order at one price and millisecond are one row. Times are as fine as the venue
publishes them: ns on KuCoin, about 0.1 µs on Kraken, µs on Gate and Coinbase, ms elsewhere. Sizes are in the unit of
the market: base currency on spot, contracts on some swaps.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from ..errors import DataError, ExchangeError, short
from ..times import duration_ns, duration_of, instant_text

SECOND, HOUR, DAY = 1_000, 3_600_000, 86_400_000
"""In ms, the unit that the exchanges' requests count in."""
MS = 1_000_000
"""Nanoseconds in one ms."""


@dataclass(frozen=True)
class Venue:
    """What one exchange gives in one request and how its past is walked.

    bars, swap_bars   candles per request; swap_days: a page of candles of a swap spans no more
    until             whether ccxt hands the end of a page of candles on
    from_start        a page begins at the first candle at or after its start, however late that is
    kept_bars         only so many of the latest candles exist
    walk, trades      how trades are walked (`WALKS`), trades per request; max_pages: pages of one range
    kept_days         only so many days of trades exist
    fine              the raw field of a trade's time where it is finer than ms, and the decimals of its unit down to ns
    archive           where longer history is
    """

    bars: int
    trades: int
    walk: str
    swap_bars: int = 0
    until: bool = True
    from_start: bool = False
    kept_bars: int = 0
    swap_days: int = 0
    kept_days: int = 0
    max_pages: int = sys.maxsize
    fine: tuple[str | int, int] | None = None
    archive: str = "another exchange"


VENUES = {
    "binance": Venue(1000, 1000, "by_id", from_start=True, archive="https://data.binance.vision"),
    "bybit": Venue(1000, 1000, "recent", archive="https://public.bybit.com"),
    "okx": Venue(300, 100, "windows", kept_days=90, archive="OKX's historical data downloads"),
    # Gate serves the first 100,000 trades of a range.
    "gate": Venue(
        1000, 1000, "windows", max_pages=100, kept_bars=10_000, fine=("create_time_ms", 6), archive="Gate's files"
    ),
    # Above 200 candles ccxt moves the start of a page forward and the beginning is skipped without a word; on swaps a
    # page spans at most 90 days.
    "bitget": Venue(200, 1000, "windows", swap_days=90, kept_days=90, archive="Bitget's history downloads"),
    "kucoin": Venue(1500, 100, "recent", swap_bars=200, until=False, fine=("time", 0), archive="KuCoin's files"),
    "kraken": Venue(720, 1000, "by_time", until=False, kept_bars=720, fine=(2, 9), archive="fetch_trades instead"),
    "coinbase": Venue(300, 1000, "windows", fine=("time", 9)),
}
ALIASES = {"gateio": "gate", "coinbaseadvanced": "coinbase", "coinbase-advanced": "coinbase", "okex": "okx"}

RETRIES = 6
"""Repeats of one request after a network error, a rate limit or an unreadable answer: with the pauses below 63 s."""
PAUSE_S, LONGEST_PAUSE_S = 1.0, 120.0
"""The first pause, doubled each time; a `Retry-After` of the exchange counts if it is longer, up to the longest."""
FLUSH_ROWS, FLUSH_S = 50_000, 5.0
"""Rows or seconds after which a part is written: what a kill can lose."""
SETTLED_MS = 5_000
"""A candle counts as finished, and "now" as past, after 5 s: exchanges publish late, and our clock may be ahead."""
HELD_NS = 60 * 10**9
"""Neighbouring parts may overlap by this much and still merge in order."""

_TRADES = {"ts_ns": pl.Int64, "price": pl.Float64, "size": pl.Float64, "side": pl.String, "trade_id": pl.String}
_BARS = {"ts_ns": pl.Int64} | dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64)
_KEY = b"smartorders_lab.fetch"
_CHECKPOINT = "checkpoint.json"
_EXTRA = "pip install 'smartorders_lab[exchange]'"

Row = tuple[Any, ...]
Cursor = dict[str, int]


@dataclass(frozen=True)
class Fetched:
    """What a download left behind: `rows` in `path`, from `first_ns` to `last_ns`.

    `resumed`: it went on from an interrupted one. `complete`: the file was there already and nothing was downloaded.
    `requests`: how many were sent, repeats included.
    """

    path: Path
    what: str
    rows: int
    first_ns: int
    last_ns: int
    resumed: bool = False
    complete: bool = False
    requests: int = 0

    def __str__(self) -> str:
        how = "complete already, nothing downloaded" if self.complete else f"{self.requests:,} requests"
        return (
            f"{self.path}: {self.rows:,} {self.what}, {_span(self.first_ns, self.last_ns)} "
            f"({how}{', resumed' if self.resumed else ''})"
        )


def fetch_trades(
    exchange: str,
    symbol: str,
    start: object,
    end: object,
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: bool | None = None,
    client: Any = None,
) -> Fetched:
    """Download the public trades of `symbol` in `[start, end)` into the Parquet file `out`.

    `start` and `end` are ISO texts, dates or datetimes (UTC where no zone is written), epoch ms, or a duration
    (`"7d"`, a timedelta) back from `end`, or for `end` back from now; `end=None` is now. A duration is resolved once:
    the same call later finds the file complete. `force` starts anew and replaces `out` at the end. `progress` shows
    a bar; None shows it on a terminal outside CI. `client` is a sync ccxt client to use instead of a new one.
    Raises DataError on bad arguments, or if `out` holds something else; ExchangeError if the exchange does.
    """
    venue = _venue(exchange)
    job = _job("trades", venue, symbol, "", start, end)
    return _download(job, Path(out), force, progress, client)


def fetch_bars(
    exchange: str,
    symbol: str,
    timeframe: str,
    start: object,
    end: object,
    out: str | os.PathLike[str],
    *,
    force: bool = False,
    progress: bool | None = None,
    client: Any = None,
) -> Fetched:
    """Download the finished candles that open in `[start, end)`; `timeframe` as in `"1m"`, up to `"1d"`.

    Candles in which nothing traded are missing wherever the venue leaves them out. All else as in `fetch_trades`.
    """
    venue = _venue(exchange)
    job = _job("bars", venue, symbol, timeframe, start, end)
    return _download(job, Path(out), force, progress, client)


# ------------------------------------------------------------------------------------------------------- the request


@dataclass(frozen=True)
class Job:
    """What is asked for, as it stands in the checkpoint and in the file; `asked` is how start and end were written."""

    kind: str
    exchange: str
    symbol: str
    timeframe: str
    start_ns: int
    end_ns: int
    asked: tuple[str, str]

    @property
    def start(self) -> int:
        """In ms, down."""
        return self.start_ns // MS

    @property
    def end(self) -> int:
        """In ms, up."""
        return -(-self.end_ns // MS)

    @property
    def step(self) -> int:
        """The length of one candle in ms."""
        return duration_ns(self.timeframe) // MS

    @property
    def schema(self) -> dict[str, Any]:
        """The columns of the file."""
        return _TRADES if self.kind == "trades" else _BARS

    @property
    def swap(self) -> bool:
        """Whether the symbol is a derivative (`BTC/USDT:USDT`)."""
        return ":" in self.symbol

    def same(self, other: Job) -> bool:
        """Whether both want the same rows, or were written the same: `"7d"` means what it meant the first time."""
        what = (self.kind, self.exchange, self.symbol, self.timeframe)
        return what == (other.kind, other.exchange, other.symbol, other.timeframe) and (
            (self.start_ns, self.end_ns) == (other.start_ns, other.end_ns) or self.asked == other.asked
        )

    def __str__(self) -> str:
        kind = f"{self.timeframe} bars" if self.timeframe else self.kind
        return f"{kind} of {self.symbol} on {self.exchange}, {_span(self.start_ns, self.end_ns)}"


def _span(first_ns: int, last_ns: int) -> str:
    return f"{instant_text(first_ns)} to {instant_text(last_ns)}"


def _venue(exchange: str) -> str:
    """The name of the exchange as ccxt writes it. Raises DataError on one that is not in `VENUES`."""
    name = str(exchange).strip().lower()
    name = ALIASES.get(name, name)
    if name not in VENUES:
        close = get_close_matches(name, [*VENUES, *ALIASES], 1)
        hint = f"did you mean {ALIASES.get(close[0], close[0])}?" if close else "use one of them"
        raise DataError(f"exchange = {short(exchange)}: must be one of {', '.join(VENUES)}; {hint}")
    return name


def _job(kind: str, exchange: str, symbol: str, timeframe: str, start: object, end: object) -> Job:
    if not re.fullmatch(r"[^\s/:]+/[^\s/:]+(:[^\s/:]+)?", symbol):
        raise DataError(f"symbol = {short(symbol)}: must be BASE/QUOTE; write BTC/USDT, or BTC/USDT:USDT for the swap")
    if exchange == "kraken" and ":" in symbol:
        raise DataError(f"symbol = {short(symbol)}: kraken is spot only; write {symbol.partition(':')[0]}")
    if kind == "bars":
        _check_timeframe(timeframe)
    now = time.time_ns()
    end_ns = (now // MS - SETTLED_MS) * MS if end is None else _instant("end", end, now)
    if end_ns > now:
        raise DataError(f"end = {short(end)}: lies in the future; leave it out to go up to now")
    start_ns = _instant("start", start, end_ns)
    if start_ns >= end_ns:
        raise DataError(
            f"start = {short(start)}: {instant_text(start_ns)} is not before the end, {instant_text(end_ns)}; swap them"
        )
    return Job(kind, exchange, symbol, timeframe, start_ns, end_ns, (str(start), str(end)))


def _instant(name: str, value: object, reference_ns: int) -> int:
    """`value` as ns since 1970; durations count back from `reference_ns`."""
    way_out = "write 2024-01-01, 2024-01-01T12:00Z, epoch ms, or 7d for a week back"
    text = value.strip() if isinstance(value, str) else value
    if isinstance(text, str) and re.fullmatch(r"\d{9,}", text):
        text = int(text)
    result: int | None = None
    if isinstance(text, int) and not isinstance(text, bool):
        result = text * MS
    elif isinstance(text, datetime):
        result = _epoch_ns(text)
    elif isinstance(text, date):
        result = _epoch_ns(datetime(text.year, text.month, text.day))
    elif isinstance(text, str):
        with contextlib.suppress(ValueError):
            result = _epoch_ns(datetime.fromisoformat(text))
    if result is None and isinstance(text, (str, timedelta)):
        with contextlib.suppress(ValueError):
            result = reference_ns - duration_ns(text)
    if result is None:
        raise DataError(f"{name} = {short(value)}: is not a time; {way_out}")
    # 2009 is Bitcoin's first year: whatever lies before was counted in another unit.
    if not 1_230_768_000 * 10**9 <= result < 4_102_444_800 * 10**9:
        raise DataError(f"{name} = {short(value)}: is not between 2009 and 2100 (numbers are epoch ms); {way_out}")
    return result


def _epoch_ns(moment: datetime) -> int:
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return duration_of(moment - datetime(1970, 1, 1, tzinfo=UTC))


def _check_timeframe(timeframe: str) -> None:
    """Only what divides a day: weeks and months begin where each venue likes, and no first candle could be checked."""
    seconds = 0
    if isinstance(timeframe, str) and re.fullmatch(r"[1-9]\d*[smhd]", timeframe):
        seconds = duration_ns(timeframe) // 10**9
    if not seconds or 86_400 % seconds:
        raise DataError(f"timeframe = {short(timeframe)}: must divide a day, as 1m, 1h or 1d do; group 1d for longer")


# ------------------------------------------------------------------------------------------------------- the exchange


class Line:
    """A ccxt client for one job: every request repeated within bounds, counted, and answered in rows of ours."""

    def __init__(self, job: Job, client: Any):
        self.job, self.client, self.requests = job, client, 0
        self.venue = VENUES[job.exchange]
        # Without it, a body cut short reads as an empty page, and an empty page as "nothing traded".
        client.enableLastJsonResponse = True

    def open(self) -> None:
        """Load the markets and make sure that the symbol and the timeframe exist."""
        job, client = self.job, self.client
        if not client.markets:
            self.ask("load_markets", check=False)
        if job.symbol not in client.markets:
            raise no_market(job.exchange, job.symbol, client.markets)
        if job.timeframe and job.timeframe not in client.timeframes:
            known = ", ".join(name for name in client.timeframes if re.fullmatch(r"\d+[smhd]", name))
            raise DataError(f"timeframe = {job.timeframe!r}: {job.exchange} has no such candles; use one of {known}")

    def now(self) -> int:
        """This moment in ms."""
        return int(self.client.milliseconds())

    def ask(self, method: str, *args: Any, check: bool = True) -> Any:
        """One read-only call. Network errors, rate limits and unreadable answers are tried again, all else is final."""
        import ccxt

        for attempt in range(RETRIES + 1):
            self.requests += 1
            self.client.last_json_response = None
            try:
                answer = getattr(self.client, method)(*args)
                if check and self.client.last_json_response in (None, {}):
                    raise ccxt.BadResponse(f"{self.job.exchange} {method}: the answer is cut short or not JSON")
                return answer
            except ccxt.BaseError as error:
                if not (isinstance(error, ccxt.OperationFailed) or self._passing(error)):
                    raise self.failed(repr(error), "check symbol and range") from error
                if attempt == RETRIES:
                    raise self.failed(f"{error!r} {RETRIES + 1} times over", "check the connection") from error
                time.sleep(max(min(PAUSE_S * 2**attempt, LONGEST_PAUSE_S), self._retry_after()))
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
                raise self.failed(f"an answer that ccxt cannot read, {error!r}", "update ccxt") from error
        raise AssertionError("unreachable")

    def _passing(self, error: Exception) -> bool:
        """Whether an error that ccxt has no name for came with HTTP 429 or 5xx, or from `{}`: gateways answer so."""
        status = getattr(getattr(error.__context__, "response", None), "status_code", 200)
        return status == 429 or status >= 500 or self.client.last_json_response == {}

    def failed(self, what: str, way_out: str) -> ExchangeError:
        """The error of a request that cannot be answered."""
        where = f"{self.job.exchange} {self.job.symbol}"
        return ExchangeError(
            f"{where}: {short(what, 300) if len(what) > 300 else what}; {way_out}, then call again to go on"
        )

    def _retry_after(self) -> float:
        headers = getattr(self.client, "last_response_headers", None) or {}
        text = str(headers.get("Retry-After", ""))
        return min(float(text), LONGEST_PAUSE_S) if text.isdigit() else 0.0

    def bars(self, since: int, stop: int) -> list[Row]:
        """One page: the candles that open in `[since, stop)` (ms), as far as the venue gives them."""
        limit = min(-(-(stop - since) // self.job.step), self.page_bars)
        params = {"until": stop - 1} if self.venue.until else {}
        raw = self.ask("fetch_ohlcv", self.job.symbol, self.job.timeframe, since, limit, params)
        rows = sorted(self._bar(candle) for candle in raw)
        return [row for row in rows if since * MS <= row[0] < stop * MS]

    @property
    def page_bars(self) -> int:
        """Candles per request."""
        if not self.job.swap:
            return self.venue.bars
        limit = self.venue.swap_bars or self.venue.bars
        return min(limit, self.venue.swap_days * DAY // self.job.step) if self.venue.swap_days else limit

    def _bar(self, candle: list[Any]) -> Row:
        try:
            ts, *values = candle
            row = (int(ts) * MS, *map(float, values[:5]))
        except (TypeError, ValueError):
            raise self.failed(f"candle = {candle}: is not six numbers", "report it") from None
        if ts % self.job.step:
            raise self.failed(f"candle = {candle}: does not begin on the {self.job.timeframe} grid", "report it")
        return row

    def trades(self, since: int | None = None, limit: int | None = None, **params: Any) -> list[Row]:
        """One page, oldest first."""
        return self.rows(self.ask("fetch_trades", self.job.symbol, since, limit, params))

    def rows(self, raw: list[dict[str, Any]]) -> list[Row]:
        """ccxt's trades as rows, oldest first."""
        return sorted(map(self._trade, raw), key=_order)

    def _trade(self, trade: dict[str, Any]) -> Row:
        info = trade["info"]
        # KuCoin's spot trades carry their number as `sequence` alone.
        identity = trade["id"] or (info.get("sequence") if isinstance(info, dict) else None)
        try:
            if identity is None:
                raise TypeError
            price, size = float(trade["price"]), float(trade["amount"])
            return trade_ns(self.venue, trade), price, size, trade["side"] or "", str(identity)
        except (TypeError, ValueError, ArithmeticError):
            raise self.failed(f"trade = {info}: lacks an id, time, price or size", "report it") from None


def trade_ns(venue: Venue, trade: dict[str, Any]) -> int:
    """The time of one of ccxt's trades in ns, from the raw field where that is finer than ccxt's ms."""
    coarse, info = int(trade["timestamp"]) * MS, trade["info"]
    if venue.fine is None:
        return coarse
    key, decimals = venue.fine
    # What is streamed is named otherwise than what is fetched: Kraken's rows are lists there and have names here.
    if isinstance(key, int) and isinstance(info, dict):
        key = "timestamp"
    text = str(info["ts"] if key == "time" and "ts" in info else info[key])
    if "T" in text:  # ISO: the seconds are known, what counts is the fraction
        digits = re.search(r"\.(\d{1,9})", text)
        fine = coarse // 10**9 * 10**9 + (int(digits[1].ljust(9, "0")) if digits else 0)
    else:
        fine = int(Decimal(text).scaleb(decimals))
    return fine if abs(fine - coarse) < 2 * MS else coarse


def no_market(exchange: str, symbol: str, markets: Iterable[str]) -> ExchangeError:
    """The error of a symbol that the exchange does not have, with the closest that it has."""
    close = get_close_matches(symbol, list(markets), 3, 0.5)
    hint = f"try {', '.join(close)}" if close else "look its name up there"
    return ExchangeError(f"{exchange} {symbol}: no such market; {hint}")


def _order(row: Row) -> tuple[int, int, str]:
    """Time, then id; ids of digits count as numbers."""
    return row[0], len(row[4]), row[4]


def no_ccxt(exchange: str) -> DataError:
    """The error of an installation without ccxt."""
    return DataError(f"exchange = {exchange!r}: ccxt is not installed; {_EXTRA}")


def _client(job: Job) -> Any:
    try:
        import ccxt
    except ImportError:
        raise no_ccxt(job.exchange) from None
    client = getattr(ccxt, job.exchange)({"enableRateLimit": True})
    client.options["defaultType"] = "swap" if job.swap else "spot"
    # bybit would ask twelve times for markets of every type; those of ours are enough.
    types = (client.safe_value(client.options, "fetchMarkets") or {}) if job.exchange != "coinbase" else {}
    if types.get("types"):
        types["types"] = [name for name in types["types"] if (name == "spot") != job.swap and name != "option"]
    return client


# ------------------------------------------------------------------------------------------------- walking the past


@dataclass(frozen=True)
class Page:
    """The rows of one step, the place to go on from (None at the end), and the ns up to which all is known."""

    rows: list[Row]
    cursor: Cursor | None
    reached: int


def _bars_step(line: Line, cursor: Cursor) -> Page:
    """One page of candles from `since`; where it starts late, the missing head is asked for again."""
    job, since = line.job, cursor["since"]
    _check_kept_bars(line, since)
    stop = job.end if line.venue.from_start else min(since + line.page_bars * job.step, job.end)
    rows = line.bars(since, stop)
    # A late first candle is a gap in trading only if a request for the gap alone comes back empty: bitget, asked for
    # 1000, answers with the last 200 of them.
    while rows and rows[0][0] > since * MS:
        _check_kept_bars(line, since)
        head = line.bars(since, rows[0][0] // MS)
        if not head:
            break
        rows = head + rows
    after = rows[-1][0] // MS + job.step if rows else stop
    return Page(rows, {"since": after} if after < job.end else None, after * MS)


def _check_kept_bars(line: Line, since: int) -> None:
    job, kept = line.job, line.venue.kept_bars
    if not kept:
        return
    earliest = (line.now() // job.step - kept + 1) * job.step
    if since < earliest:
        raise ExchangeError(
            f"{job.exchange} {job.symbol}: start = {instant_text(since * MS)}, but only the last {kept} bars of "
            f"{job.timeframe} are kept, from {instant_text(earliest * MS)}; start there, take a longer timeframe, "
            f"or {line.venue.archive}"
        )


def _by_id(line: Line, cursor: Cursor) -> Page:
    """Binance: an hour at a time until one holds a trade (an empty hour is not the end), then on by its id."""
    job, size = line.job, line.venue.trades
    if "id" not in cursor:
        since = cursor["since"]
        # endTime is inclusive and must lie less than an hour after startTime.
        until = min(since + HOUR, job.end) - 1
        rows = line.trades(since, size, until=until)
        if not rows:
            return Page([], {"since": until + 1} if until + 1 < job.end else None, (until + 1) * MS)
    else:
        rows = line.trades(None, size, fromId=cursor["id"])
    # Ids ascend, times may step back by ms: a second beyond the end nothing of the range can follow.
    if not rows or rows[-1][0] >= job.end_ns + 10**9:
        return Page(rows, None, job.end_ns)
    return Page(rows, {"id": max(int(row[4]) for row in rows) + 1}, rows[-1][0])


def _by_time(line: Line, cursor: Cursor) -> Page:
    """Kraken: 1000 after a time in ns. It is asked from one ns earlier, since trades of one ns may straddle a page."""
    job, since = line.job, cursor["since"]
    raw = line.ask("fetch_trades", job.symbol, None, None, {"since": str(since), "count": line.venue.trades})
    # ccxt appends the answer's `last`, the exact ns of the last trade, to that trade; its time is a rounded float.
    marks = [int(trade["info"][-1]) for trade in raw if len(trade["info"]) > 7]
    rows = line.rows(raw)
    if not rows or rows[-1][0] >= job.end_ns:
        return Page(rows, None, job.end_ns)
    following = (marks[-1] if marks else rows[-1][0]) - 1
    if following <= since:
        if len(rows) < line.venue.trades:
            return Page(rows, None, job.end_ns)
        following = since + 1
    return Page(rows, {"since": following}, rows[-1][0])


def _windows(line: Line, cursor: Cursor) -> Page:
    """A slice of time at once, from its end back to its start, over as many pages as it takes.

    The slice is widened when it was nearly empty and halved when it took long, so that a step stays at some 20 pages.
    """
    job, older = line.job, OLDER[line.job.exchange]
    start, width = cursor["since"], cursor["width"]
    stop = min(start + width, -(-job.end // SECOND) * SECOND)
    found: dict[str, Row] = {}
    oldest: Row | None = None
    half = max(width // 2 // SECOND, 1) * SECOND
    for number in count(1):
        if number > line.venue.max_pages:
            if width <= SECOND:
                raise line.failed(f"over {number - 1} pages in the second of {instant_text(start * MS)}", "fetch bars")
            return Page([], {"since": start, "width": half}, start * MS)
        page = [row for row in older(line, start, stop, number, oldest) if row[4] not in found]
        if not page:
            break
        found |= {row[4]: row for row in page}
        oldest = page[0] if oldest is None else min(page[0], oldest, key=_order)
        if oldest[0] < start * MS:
            break
    rows = sorted((row for row in found.values() if start * MS <= row[0] < stop * MS), key=_order)
    width = min(width * 2, DAY) if number <= 2 else half if number > 20 else width
    return Page(rows, {"since": stop, "width": width} if stop < job.end else None, stop * MS)


def _older_okx(line: Line, start: int, stop: int, number: int, oldest: Row | None) -> list[Row]:
    """By time first, then by id: by time alone, 100 trades of one ms would end the walk."""
    place = {"type": "2", "after": str(stop)} if oldest is None else {"type": "1", "after": oldest[4]}
    return line.trades(None, line.venue.trades, method="publicGetMarketHistoryTrades", **place)


def _older_bitget(line: Line, start: int, stop: int, number: int, oldest: Row | None) -> list[Row]:
    """A window may span 7 days; ours are a day at most."""
    place = {} if oldest is None else {"idLessThan": oldest[4]}
    return line.trades(start, line.venue.trades, until=stop, **place)


def _older_coinbase(line: Line, start: int, stop: int, number: int, oldest: Row | None) -> list[Row]:
    """Times count in whole seconds, so the second of the oldest trade is asked for again."""
    until = stop if oldest is None else (oldest[0] // 10**9 + 1) * SECOND
    rows = line.trades(start, line.venue.trades, until=until)
    if len(rows) >= line.venue.trades and rows[0][0] // 10**9 * SECOND >= until - SECOND:
        second = instant_text(rows[0][0] // 10**9 * 10**9)
        raise line.failed(
            f"{line.venue.trades} or more trades in the second of {second}, and no way to those before",
            "fetch bars, or the trades of another exchange",
        )
    return rows


def _older_gate(line: Line, start: int, stop: int, number: int, oldest: Row | None) -> list[Row]:
    """ccxt does not send `since` on spot: the native bounds (in s) and the page do the walking."""
    place = {"offset": (number - 1) * line.venue.trades} if line.job.swap else {"page": number}
    return line.trades(None, line.venue.trades, **{"from": start // SECOND, "to": stop // SECOND}, **place)


OLDER: dict[str, Callable[[Line, int, int, int, Row | None], list[Row]]] = {
    "okx": _older_okx,
    "bitget": _older_bitget,
    "coinbase": _older_coinbase,
    "gate": _older_gate,
}


def _recent(line: Line, cursor: Cursor) -> Page:
    """Bybit and KuCoin give the latest trades and nothing before: enough, or refused."""
    job, venue = line.job, line.venue
    size = 60 if (job.exchange, job.swap) == ("bybit", False) else venue.trades
    rows = line.trades(None, size if job.exchange == "bybit" else None)
    if not rows or rows[0][0] >= job.start_ns:
        since = f" (since {instant_text(rows[0][0])})" if rows else ""
        raise ExchangeError(
            f"{job.exchange} {job.symbol}: start = {instant_text(job.start_ns)}, but only the last {size} trades are "
            f"served{since}; take the history from {venue.archive}, or fetch_bars"
        )
    return Page(rows, None, job.end_ns)


WALKS: dict[str, Callable[[Line, Cursor], Page]] = {
    "bars": _bars_step,
    "by_id": _by_id,
    "by_time": _by_time,
    "windows": _windows,
    "recent": _recent,
}


def _beginning(job: Job, now: int) -> Cursor:
    """The cursor of a new download, or an ExchangeError if the venue no longer has its start."""
    venue = VENUES[job.exchange]
    if job.kind == "bars":
        return {"since": job.start}
    if venue.kept_days and job.start < now - venue.kept_days * DAY:
        raise ExchangeError(
            f"{job.exchange} {job.symbol}: start = {instant_text(job.start_ns)}, but trades are kept for "
            f"{venue.kept_days} days; start later, take the history from {venue.archive}, or fetch_bars"
        )
    if venue.walk == "by_time":
        return {"since": job.start_ns - 1}
    if venue.walk == "windows":
        return {"since": job.start // SECOND * SECOND, "width": HOUR}
    return {"since": job.start}


# --------------------------------------------------------------------------------------------- parts, file, resuming


@dataclass
class Parts:
    """The folder of an unfinished download. What the checkpoint names counts, nothing else.

    Parts are named by process too: two downloads into one file leave two sets of parts and one checkpoint, which
    names one of them whole.
    """

    folder: Path
    job: Job
    state: Page  # the rows not written yet and the place after them, in one attribute: Ctrl-C finds both or neither
    names: list[str] = field(default_factory=list)
    rows: int = 0
    replaces: bool = False  # whether it was begun with force=True, and may replace what is there
    since_flush: float = field(default_factory=time.monotonic)
    writing: bool = False

    @classmethod
    def read(cls, folder: Path) -> Parts | None:
        """The state on disk, None if there is none. Raises DataError if it cannot be read."""
        path = folder / _CHECKPOINT
        if not path.exists():
            return None
        try:
            state = json.loads(path.read_text("utf-8"))
            page = Page([], state["cursor"], state["reached"])
            return cls(folder, _job_of(state["job"]), page, state["names"], state["rows"], state["replaces"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is no checkpoint of ours ({error}); remove the folder or force it") from None

    def add(self, page: Page) -> None:
        """Take in one page; write when it is time to."""
        rows = [row for row in page.rows if self.job.start_ns <= row[0] < self.job.end_ns]
        self.state = Page(self.state.rows + rows, page.cursor, page.reached)
        full = len(self.state.rows) >= FLUSH_ROWS or time.monotonic() - self.since_flush >= FLUSH_S
        if full or page.cursor is None:
            self.flush()

    def flush(self) -> None:
        """Write the buffer as one more part, then the checkpoint that names it. Each appears whole or not at all."""
        self.writing = True
        page = self.state
        names, rows = list(self.names), self.rows + len(page.rows)
        self.folder.mkdir(parents=True, exist_ok=True)
        if page.rows:
            names.append(f"{len(names):06d}-{os.getpid()}.parquet")
            frame = pl.DataFrame(page.rows, schema=self.job.schema, orient="row")
            with _whole(self.folder / names[-1]) as path:
                frame.write_parquet(path)
        state: dict[str, Any] = {"job": asdict(self.job), "cursor": page.cursor, "reached": page.reached}
        state |= {"names": names, "rows": rows, "replaces": self.replaces}
        with _whole(self.folder / _CHECKPOINT) as path:
            path.write_text(json.dumps(state), "utf-8")
        self.names, self.rows, self.since_flush = names, rows, time.monotonic()
        self.state = Page([], page.cursor, page.reached)
        self.writing = False

    def merge(self, out: Path) -> int:
        """All parts as one file, in order and every row once, in the memory of one part. Returns the rows."""
        key = "trade_id" if self.job.kind == "trades" else "ts_ns"
        order = [pl.col("ts_ns"), pl.col(key).cast(pl.String).str.len_bytes(), pl.col(key)]
        empty = pl.DataFrame(schema=self.job.schema)
        schema = empty.to_arrow(compat_level=pl.CompatLevel.oldest()).schema
        schema = schema.with_metadata({_KEY: json.dumps(asdict(self.job)).encode()})
        held, rows, written_ns = empty, 0, -1
        with (
            _whole(self.folder / "merged.parquet") as path,
            pq.ParquetWriter(path, schema, compression="zstd") as writer,
        ):
            for name in [*self.names, None]:
                if name is not None:
                    held = pl.concat([held, pl.read_parquet(self.folder / name)])
                held = held.unique(key, keep="first", maintain_order=True).sort(order)
                ready = held if name is None else held.filter(pl.col("ts_ns") < pl.col("ts_ns").last() - HELD_NS)
                if not ready.height:
                    continue
                if ready["ts_ns"][0] < written_ns:
                    raise ExchangeError(
                        f"{self.job}: rows out of order by more than {HELD_NS // 10**9} s at "
                        f"{instant_text(ready['ts_ns'][0])}; pass force=True to start anew"
                    )
                written_ns, rows = ready["ts_ns"][-1], rows + ready.height
                held = held[ready.height :]
                writer.write_table(ready.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema))
        if rows:
            out.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.folder / "merged.parquet", out)
        return rows


def _remove(folder: Path) -> None:
    """Delete what is ours in the folder, and the folder if nothing else is in it."""
    for path in [*folder.glob("*.parquet"), *folder.glob("*.tmp"), folder / _CHECKPOINT]:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` only when all of it is on the disk."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    yield draft
    with open(draft, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(draft, path)


def _job_of(state: dict[str, Any]) -> Job:
    return Job(**state | {"asked": tuple(state["asked"])})


def _finished(out: Path) -> Job | None:
    """The job that made `out`; None if something else did."""
    try:
        metadata = pq.read_schema(out).metadata or {}
        return _job_of(json.loads(metadata[_KEY]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _result(job: Job, out: Path, **how: Any) -> Fetched:
    first, last, rows = (
        pl.scan_parquet(out)
        .select(pl.col("ts_ns").first().alias("first"), pl.col("ts_ns").last().alias("last"), pl.len().alias("rows"))
        .collect()
        .row(0)
    )
    kind = f"{job.timeframe} bars" if job.timeframe else job.kind
    return Fetched(out, f"{kind} of {job.symbol} on {job.exchange}", rows, first, last, **how)


def _download(job: Job, out: Path, force: bool, progress: bool | None, client: Any) -> Fetched:
    if out.suffix.lower() not in (".parquet", ".pq"):
        raise DataError(f"out = {short(str(out))}: must be a Parquet file; write {out.with_suffix('.parquet').name}")
    folder = out.with_name(out.name + ".parts")
    if force:
        _remove(folder)
    before = Parts.read(folder)
    if before is not None and not before.job.same(job):
        raise DataError(
            f"out = {short(str(out))}: an interrupted download of {before.job} lies beside it; finish that, take "
            f"another name, or pass force=True to drop it"
        )
    if out.exists() and not (force or (before and before.replaces)):
        made = _finished(out)
        if made is None or not made.same(job):
            holds = "something that was not downloaded here" if made is None else str(made)
            raise DataError(f"out = {short(str(out))}: holds {holds}; take another name, or replace it with force=True")
        if before is None:
            return _result(made, out, complete=True)
    if client is not None and client.id != job.exchange:
        raise DataError(f"client = {client.id}: is not {job.exchange}; pass a client of the exchange that is asked")
    line = Line(job if before is None else before.job, client if client is not None else _client(job))
    try:
        if before is None or before.state.cursor is not None:
            line.open()
        if before is None:
            line.job = _on_grid(line)
            beginning = Page([], _beginning(line.job, line.now()), line.job.start_ns)
            parts = Parts(folder, line.job, beginning, replaces=force)
        else:
            parts = before
        _walk(line, parts, out, progress)
        return _result(line.job, out, resumed=before is not None, requests=line.requests)
    finally:
        if client is None:
            line.client.session.close()


def _walk(line: Line, parts: Parts, out: Path, progress: bool | None) -> None:
    """Step by step to the end, then all parts into `out`."""
    job, beginning = parts.job, parts.state
    step = WALKS["bars" if job.kind == "bars" else line.venue.walk]
    try:
        with _bar(job, progress) as show:
            while parts.state.cursor is not None:
                show(parts.state.reached, parts.rows + len(parts.state.rows))
                parts.add(step(line, parts.state.cursor))
            show(parts.state.reached, parts.rows)
    except BaseException:
        # Also on Ctrl-C: what is in memory is worth its requests. Not if it came in a write, which may have happened.
        if not parts.writing and parts.state is not beginning:
            parts.flush()
        raise
    rows = parts.merge(out)
    _remove(parts.folder)
    if not rows:
        raise ExchangeError(
            f"{job.exchange} {job.symbol}: nothing traded from {_span(job.start_ns, job.end_ns)}, so nothing was "
            f"written; choose another range"
        )


def _on_grid(line: Line) -> Job:
    """The job with its range on the grid of its candles, and none that is not finished."""
    job = line.job
    if job.kind == "trades":
        return job
    start = -(-job.start_ns // (job.step * MS)) * job.step
    end = min(-(-job.end_ns // (job.step * MS)), (line.now() - SETTLED_MS) // job.step) * job.step
    if start >= end:
        raise DataError(
            f"start = {instant_text(job.start_ns)}: no finished {job.timeframe} candle opens between it and "
            f"{instant_text(job.end_ns)}; widen the range"
        )
    return Job(job.kind, job.exchange, job.symbol, job.timeframe, start * MS, end * MS, job.asked)


@contextlib.contextmanager
def _bar(job: Job, progress: bool | None) -> Iterator[Callable[[int, int], None]]:
    """A progress bar over the span of time."""
    from tqdm.auto import tqdm

    disable: bool | None = not progress
    if progress is None:  # None leaves it to tqdm, which shows one in a notebook and on a terminal
        disable = True if os.environ.get("CI") else None
    form = "{desc} {percentage:3.0f}%|{bar}|{postfix} [{elapsed}<{remaining}]"
    span = job.end_ns - job.start_ns
    with tqdm(total=span, desc=f"{job.exchange} {job.symbol}", disable=disable, bar_format=form) as bar:

        def show(reached: int, rows: int) -> None:
            bar.set_postfix_str(f" {rows:,} rows", refresh=False)
            bar.update(max(min(reached - job.start_ns, span) - bar.n, 0))

        yield show
