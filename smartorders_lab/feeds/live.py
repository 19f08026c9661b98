"""Live market data of one exchange through ccxt.pro: each published trade once, in blocks that an engine takes as they are.

    feed = LiveFeed("binance")
    await feed.open()
    await feed.start("SOL/USDT", frozenset({"last"}), token)
    while (message := await feed.next()) is not None: ...

**Exactly once.** A trade is known by its id, wherever it comes from: the socket, a snapshot that the venue replays, or a
page fetched by REST. After whatever may have cost a trade (a lost connection, a frame that could not be read, a hole in ids
that count up, too many trades at once) the feed fetches what it has missed, back to the last trade that it was sure of; the
same happens every `stale_after` without a reason, so that a subscription which died without a word is found too. What the
venue no longer serves is a `gap` notice with its span.

**Order.** While something is missing, new trades wait for it, half of `late_after` at the longest, then they go out and what was
missing follows. So trades come in the order of the venue but for two cases: that one, and a venue that sends out of order.
Such a trade is delivered all the same; its time is raised to that of the row before it, and counted.

**Rows.** One for each trade; with the triggers `bid`, `ask` or `mark` one more for each change of those, with the last
trade's price and size 0. The columns of a block hold what was known last. Nothing goes out before every watched column is known.

**Limits.** Trades are those of the venue's public stream: aggregates on Binance and OKX, without block trades on Bybit. A
feed that starts without a token starts now: trades before that are not delivered. Sizes are in base currency.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextvars import ContextVar
from decimal import ROUND_HALF_EVEN
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, ExchangeError, short
from ..instrument import MAX_UNITS, Instrument, decimal
from ..messages import Block, Notice
from ..times import duration_ns, instant_text
from .fetch import MS, VENUES, _venue, no_ccxt, no_market, trade_ns

TRIGGERS = ("last", "bid", "ask", "mark")
WINDOW_MS = 1_000
"""How far behind the newest trade one may still come in: backfills overlap by this much."""
KEPT_IDS = 20_000
"""Trade ids of one symbol that are remembered; what is older than all of them counts as known."""
TOKEN_IDS = 64
"""Ids in a token, beside those of its last ms."""
CACHE = 2_000
"""Trades that ccxt keeps for a symbol until they are taken; as many at once may have been more."""
AHEAD_MS = 60_000
"""A trade so far in the future is a broken clock: it would hold up all that follow."""
SYNC_S = 600.0
"""How often the exchange's clock is asked for."""
LONGEST_PAUSE_S, REFUSED_PAUSE_S = 5.0, 60.0
"""The longest pause before a connection is tried anew, and before what the exchange refused is."""
LOOK = 200
"""Trades of a look without a doubt: it mostly finds what is known."""
PAGES = 500
"""Pages of one backfill."""

LATEST = {"okx": 500}
"""Trades in the page of the latest ones where it is not the page of history."""
WATCH: dict[str, dict[str, Any]] = {"binance": {"name": "aggTrade"}}
"""What makes the ids of the stream those of REST: Binance streams single trades by default and serves aggregates."""
COUNTED = frozenset({"binance", "okx", "kraken", "coinbase"})
"""Venues whose ids count up by one for each symbol, so that a hole is seen at once."""
TICKER_MARKS = frozenset({"bybit", "gate", "bitget"})
"""Venues whose ticker of a swap carries the mark price; others stream it alone, or have none."""


class Trade(NamedTuple):
    """One trade: ns, a tie-break among trades of one time, id, units, base currency, ids that it stands for beside its own."""

    ts: int
    tie: int
    id: str
    price: int
    size: float
    stands_for: tuple[str, ...] = ()

    @property
    def ms(self) -> int:
        """Its time in ms."""
        return self.ts // MS


class _Tick(NamedTuple):
    """One row on its way out; `trade` None for a change of a quote."""

    line: _Line
    ts: int
    price: int
    size: float
    bid: int | None
    ask: int | None
    mark: int | None
    late: bool
    trade: Trade | None


class _Stream:
    """One subscription: the connection that it is on, and when that was last heard (monotonic s)."""

    def __init__(self, line: _Line, what: str):
        self.line, self.what = line, what
        self.heard = self.fed = line.began
        self.socket: _Socket | None = None
        self.first = False  # no trade has come since it was connected


class _Socket:
    """One ccxt connection and the streams on it."""

    def __init__(self, client: Any):
        self.client = client
        self.streams: set[_Stream] = set()
        self.made = self.heard = time.monotonic()
        self.greeted = False


_STREAM: ContextVar[_Stream | None] = ContextVar("stream", default=None)
"""The stream whose task is asking ccxt for a connection."""


class _Line:
    """What is known of one symbol: pure bookkeeping, no waiting."""

    def __init__(self, feed: LiveFeed, symbol: str, triggers: frozenset[str], quotes: bool):
        self.feed, self.symbol, self.triggers = feed, symbol, triggers
        self.instrument = feed.instrument(symbol)
        self.market = feed.client.markets[symbol]
        self.quotes = quotes or bool(triggers & {"bid", "ask"})
        self.marks = "mark" in triggers
        self.streams: dict[str, _Stream] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self.counts: Counter[str] = Counter()
        # What has been delivered: ids with their ms, and the ms before which everything counts as delivered.
        self.seen: dict[str, int] = {}
        self.bad: dict[str, None] = {}
        self.floor = 0
        self.newest = -1
        self.clock = 0
        self.highest = -1
        self.counted = feed.name in COUNTED
        self.unfilled = 0
        # What may be missing: every doubt is answered by a backfill that began after it was raised.
        self.doubts = self.answered = 0
        self.mark_ms, self.target_ms = -1, -1
        self.wake = asyncio.Event()
        self.hold = True
        self.pending: list[Trade] = []
        self.pending_since = 0.0
        self.down = True
        self.began = self.rest_heard = time.monotonic()
        self.audit_at = math.inf
        # Trades that a look has found and the stream has not brought yet.
        self.unheard: set[str] = set()
        self.live: bool | None = None
        self.failures: dict[str, Counter[bool]] = {}
        self.off_grid = False
        # What goes out.
        self.last: int | None = None
        self.now: dict[str, int | None] = {"bid": None, "ask": None, "mark": None}
        self.waiting: list[Trade] = []
        self.queued: deque[int] = deque()
        self.handed: dict[str, int] = {}
        self.handed_floor = 0
        self.handed_newest = -1
        self.handed_ts = 0
        self.handed_last: int | None = None

    # ------------------------------------------------------------------------------------------------- reading trades

    def read(self, raw: Any) -> Trade | None:
        """One of ccxt's trades; None if it is not fit to be traded on, in which case it is counted once."""
        info = raw.get("info") if isinstance(raw, dict) else None
        named = info if isinstance(info, dict) else {}
        # KuCoin names a trade in its stream otherwise than in its history; its number is the same in both.
        identity = raw.get("id") if isinstance(raw, dict) else None
        if self.feed.name == "kucoin":
            identity = named.get("sequence", identity)
        key = "" if identity is None else str(identity)
        if named.get("BT") is True or str(named.get("isBlockTrade")).lower() == "true":
            self.counts["block trades"] += key not in self.bad
            self._remember_bad(key)
            return None
        try:
            price, amount = raw["price"], raw["amount"]
            if not key or isinstance(price, str) or isinstance(amount, str):
                raise ValueError
            size = float(amount) * self._contract(float(price))
            if not (price > 0 and 0 <= size < math.inf):
                raise ValueError
            units = self._units(price)
            try:
                ts = trade_ns(VENUES[self.feed.name], raw)
            except (LookupError, ArithmeticError):
                ts = int(raw["timestamp"]) * MS
            if not (0 < units <= MAX_UNITS and 0 < ts < self.feed.latest_ms() * MS):
                raise ValueError
            tie = int(key) if key.isdigit() else int(named.get("seq") or 0)
            count = int(named.get("count") or 1) if self.feed.name == "okx" and key.isdigit() else 1
        except (TypeError, ValueError, LookupError, ArithmeticError):
            if key not in self.bad:
                self.feed.say(self, "dropped", f"trade = {short(info if info is not None else raw)}: is not usable", 1)
            self._remember_bad(key)
            return None
        return Trade(ts, tie, key, units, size, tuple(str(tie - n) for n in range(1, min(count, KEPT_IDS))))

    def _remember_bad(self, key: str) -> None:
        if key:
            self.bad[key] = None
        if len(self.bad) > KEPT_IDS:
            del self.bad[next(iter(self.bad))]

    def _contract(self, price: float) -> float:
        """What one of the venue's units of size is in base currency."""
        size = self.market.get("contractSize") if self.market.get("contract") else None
        if not size:
            return 1.0
        return float(size) / price if self.market.get("inverse") else float(size)

    def _units(self, price: object) -> int:
        """A price in increments. One off the grid is rounded, which is said once: the venue has changed its increment."""
        exact = decimal(price) / self.instrument.price_increment
        units = exact.to_integral_value(ROUND_HALF_EVEN)
        if units != exact and not self.off_grid:
            self.off_grid = True
            text = f"price = {price}: is no multiple of {self.instrument.price_increment}, rounded; open the feed again"
            self.feed.say(self, "error", text)
        return int(units)

    def known(self, trade: Trade) -> bool:
        """Whether it was delivered or is about to be."""
        return trade.id in self.seen or trade.ms < self.floor

    def take(self, trades: Iterable[Trade]) -> int:
        """Put what is new among `trades` in line to go out; returns how many."""
        found = 0
        for trade in trades:
            if self.known(trade):
                self.counts["repeated"] += 1
                continue
            for name in (trade.id, *trade.stands_for):
                self.seen[name] = trade.ms
            if not self.pending:
                self.pending_since = time.monotonic()
            self.pending.append(trade)
            self.newest = max(self.newest, trade.ms)
            found += 1
        return found

    def _forget(self) -> None:
        """Keep the memory bounded; never behind a hole that is still open."""
        while len(self.seen) > KEPT_IDS:
            oldest = next(iter(self.seen))
            if self.open and self.seen[oldest] >= self.target_ms:
                break
            self.floor = max(self.floor, self.seen.pop(oldest) + 1)

    # --------------------------------------------------------------------------------------------------------- doubts

    @property
    def open(self) -> bool:
        """Whether something may be missing."""
        return self.doubts != self.answered

    def doubt(self, anew: bool = False) -> None:
        """Something may be missing. `anew`: on a new connection, so that trades may wait for the backfill again."""
        if not self.open:
            self.mark_ms, self.target_ms, self.hold = self.newest, self.newest - WINDOW_MS, True
        self.hold = self.hold or anew
        self.doubts += 1
        self.wake.set()

    def arrived(self, raw: list[Any]) -> None:
        """Trades of the stream."""
        stream = self.streams["trades"]
        stream.fed = time.monotonic()
        trades = sorted(trade for item in raw if (trade := self.read(item)) is not None)
        for trade in trades if self.unheard else ():
            self.unheard -= {trade.id, *trade.stands_for}
        fresh = [trade for trade in trades if not self.known(trade)]
        if fresh and stream.first:
            # The first of a subscription says nothing of those between the last backfill and it.
            stream.first = False
            self.doubt(anew=True)
        if len(raw) >= CACHE or self._hole(fresh):
            self.doubt()
        self.take(trades)
        if not (self.open and self.hold):
            self.release()

    def _hole(self, fresh: list[Trade]) -> bool:
        if not self.counted or self.highest < 0:
            return False
        expected = self.highest + 1
        for trade in fresh:
            if trade.tie - len(trade.stands_for) > expected:
                return True
            expected = max(expected, trade.tie + 1)
        return False

    def settle(self, trades: list[Trade], doubts: int, gap: str) -> int:
        """The answer of a backfill that began when there were `doubts`; returns how many trades it found."""
        hole = self.counted and self._hole(sorted(self.pending))
        found = self.take(trades)
        self.counts["backfilled"] += found
        self.rest_heard = time.monotonic()
        if gap:
            self.feed.say(self, "gap", gap)
        if doubts == self.doubts:
            self.answered = doubts
            self.release()
            # Venues whose ids do not count by one after all would have us ask again with every trade.
            self.unfilled = self.unfilled + 1 if hole and not found and not gap else 0
            self.counted = self.counted and self.unfilled < 3
        elif trades:
            self.release(up_to=max(trades))
        return found

    def lapse(self) -> None:
        """Let go of what has waited long enough for what is missing before it."""
        if self.pending and time.monotonic() - self.pending_since >= self.feed.late_s / 2:
            self.hold = False
            self.release()

    # ------------------------------------------------------------------------------------------------------- going out

    def release(self, up_to: Trade | None = None) -> None:
        """Send out what is pending, in order."""
        self.pending.sort()
        going = [trade for trade in self.pending if up_to is None or trade <= up_to]
        self.pending = self.pending[len(going) :]
        for trade in going:
            if trade.tie > self.highest and trade.id.isdigit():
                self.highest = trade.tie
            self.last = trade.price
            self.queued.append(trade.ms)
            self.waiting.append(trade)
        self._forget()
        self.flush()

    def flush(self) -> None:
        """Rows of what has waited for a column, if all are known by now."""
        if self.last is None or any(
            self.now[name] is None
            for name in (("bid", "ask") if self.quotes else ()) + (("mark",) if self.marks else ())
        ):
            return
        now_ms = self.feed.now_ms()
        for trade in self.waiting:
            self.counts["clamped"] += trade.ts < self.clock
            late = now_ms - trade.ms > self.feed.late_s * 1000
            self._out(max(trade.ts, self.clock), trade.price, trade.size, late, trade)
        self.waiting.clear()

    def _out(self, ts: int, price: int, size: float, late: bool, trade: Trade | None) -> None:
        self.clock = ts
        self.feed.put(_Tick(self, ts, price, size, self.now["bid"], self.now["ask"], self.now["mark"], late, trade))

    def quote(self, ticker: Any, names: tuple[str, ...]) -> None:
        """A change of bid and ask, or of mark. One without a time of its own takes that of the row before it."""
        changed = False
        if not isinstance(ticker, dict):
            raise TypeError(f"quote = {short(ticker)}: is no ticker")
        for name in names:
            try:
                value = ticker.get(name) if name != "mark" else _mark(ticker)
                if value is None:
                    continue
                units = self._units(value)
                if isinstance(value, str) or not 0 < units <= MAX_UNITS:
                    raise ValueError
            except (TypeError, ValueError, ArithmeticError):
                self.counts["bad quotes"] += 1
                continue
            changed = changed or (self.now[name] != units and name in self.triggers)
            self.now[name] = units
        waited = bool(self.waiting)
        self.flush()
        # A trade that waited for this has just told it.
        if not changed or self.last is None or waited or (self.open and self.hold and self.pending):
            return
        if any(self.now[name] is None for name in names):
            return
        stamp = ticker.get("timestamp")
        ts = int(stamp) * MS if stamp and stamp < self.feed.latest_ms() else 0
        self._out(max(ts, self.clock), self.last, 0.0, False, None)

    def hand(self, tick: _Tick) -> None:
        """A row that has left: the token is about these."""
        self.handed_ts, self.handed_last = tick.ts, tick.price
        if tick.trade is not None:
            self.queued.popleft()
            for name in (tick.trade.id, *tick.trade.stands_for):
                self.handed[name] = tick.trade.ms
            self.handed_newest = max(self.handed_newest, tick.trade.ms)

    def token(self) -> str:
        """Where to go on after what has left: ids from a floor up, everything below it being done."""
        edge = min(self.queued, default=self.handed_newest)
        edge = min(edge, self.handed_newest, self.mark_ms if self.open else self.handed_newest)
        floor = edge - WINDOW_MS
        kept = sorted(self.handed.items(), key=lambda pair: -pair[1])
        for place, (name, ms) in enumerate(kept):
            if ms < floor or (place >= TOKEN_IDS and ms < edge):
                self.handed_floor = max(self.handed_floor, ms + 1)
                del self.handed[name]
        self.handed_floor = max(self.handed_floor, floor)
        state = {
            "of": f"{self.feed.name} {self.symbol}",
            "ts": self.handed_ts,
            "last": self.handed_last,
            "from": self.handed_floor,
            "edge": edge,
            "to": self.handed_newest,
            "ids": _packed(self.handed),
        }
        return json.dumps(state, separators=(",", ":"))

    def resume(self, token: str) -> None:
        """Take up where `token` ends. Raises DataError."""
        try:
            state = json.loads(token)
            if state["of"] != f"{self.feed.name} {self.symbol}":
                raise ValueError(f"it is of {state['of']}")
            self.clock = self.handed_ts = int(state["ts"])
            self.last = self.handed_last = state["last"]
            self.floor = self.handed_floor = int(state["from"])
            self.newest = self.handed_newest = int(state["to"])
            self.handed = dict.fromkeys(_unpacked(state["ids"]), self.newest)
            edge = int(state["edge"])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"token = {short(token)}: is not one of {self.feed.name} {self.symbol} ({error}); "
                f"pass the token of its last block, or none to start now"
            ) from None
        self.seen = dict(self.handed)
        self.highest = max((int(name) for name in self.seen if name.isdigit()), default=-1)
        self.doubt()
        self.mark_ms, self.target_ms = edge, self.floor

    def begin(self, trades: list[Trade]) -> None:
        """Start after `trades`, the latest ones there are."""
        for trade in trades:
            for name in (trade.id, *trade.stands_for):
                self.seen[name] = self.handed[name] = trade.ms
        newest = max(trades)
        self.floor = self.handed_floor = trades[0].ms
        self.newest = self.handed_newest = newest.ms
        self.last = self.handed_last = newest.price
        self.highest = max((trade.tie for trade in trades if trade.id.isdigit()), default=-1)

    def heard(self) -> float:
        """When the quietest of its streams was last heard; while the socket is down REST counts in its place."""
        rest = self.rest_heard if self.feed.polling or self.down else 0.0
        return min(max(s.heard, rest if s.what in ("trades", "polling") else 0.0) for s in self.streams.values())


class LiveFeed:
    """The live market data of one exchange (see the module's text for what it promises).

    `poll_interval`: pause between two looks where there is no stream (or with `polling=True`), stretched by ccxt to what the
    exchange allows. `stale_after`: silence, pongs included, after which a symbol is stale. `late_after`: age from which trades
    are marked `late`; new ones wait half of it for missed ones, so that they are not. `client`: a ccxt.pro client to use; it stays open.
    `quotes`: bid and ask stand beside every trade, watched or not. `pause`: before the first new attempt to connect; doubled
    each time. All of it runs in the loop that calls it.
    """

    def __init__(
        self,
        exchange: str,
        *,
        poll_interval: Any = "500ms",
        stale_after: Any = "30s",
        late_after: Any = "5s",
        client: Any = None,
        quotes: bool = False,
        polling: bool = False,
        pause: Any = "250ms",
    ):
        self.name = _venue(exchange)
        self.poll_s = _seconds("poll_interval", poll_interval)
        self.stale_s = _seconds("stale_after", stale_after)
        self.late_s = _seconds("late_after", late_after)
        self._pause = _seconds("pause", pause)
        if client is not None and client.id != self.name:
            raise DataError(f"client = {client.id}: is not {self.name}; pass a client of the exchange that is asked")
        self._owned = client is None
        self.client: Any = _new_client(self.name) if client is None else client
        self.polling = polling or self.client.has.get("watchTrades") is not True
        self._quotes = quotes
        # A dead peer has to show well before the feed counts as stale: ccxt's own 180 s on Binance mean ten minutes.
        self._keepalive_s = min(10.0, self.stale_s / 3)
        self._grace_s = min(2.0, self.stale_s / 4)
        self.client.newUpdates = True
        self.client.options["tradesLimit"] = CACHE
        self.client.options["ws"] = (self.client.options.get("ws") or {}) | {
            "keepAlive": round(self._keepalive_s * 1000)
        }
        self._lines: dict[str, _Line] = {}
        self._sockets: dict[str, _Socket] = {}
        self._out: deque[_Tick | Notice] = deque()
        self._ready = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._offset_ms = self._clock_read = 0.0
        self._sync = asyncio.Event()
        self._closed = False

    # ---------------------------------------------------------------------------------------------------- the outside

    async def open(self) -> None:
        """Load the markets and read the exchange's clock. Raises ExchangeError."""
        import ccxt

        try:
            self.client.open()
            await self.client.load_markets()
        except ccxt.BaseError as error:
            if self._owned:
                await self.client.close()
            raise ExchangeError(
                f"{self.name}: {short(repr(error), 300)}; check the connection, then open again"
            ) from error
        self._make_socket = self.client.client
        self.client.client = self._socket
        with contextlib.suppress(Exception):
            await self._read_clock()
        self._tasks = [
            asyncio.create_task(self._guarded(None, "clock", self._keep_clock)),
            asyncio.create_task(self._guarded(None, "watch", self._keep_watch)),
        ]

    def instrument(self, symbol: str) -> Instrument:
        """The increments and limits of `symbol`. Raises ExchangeError naming the closest symbols if there is no such market."""
        if symbol not in (self.client.markets or {}):
            raise no_market(self.name, symbol, self.client.markets or {})
        return Instrument.from_ccxt(self.client.markets[symbol])

    def triggers(self, symbol: str) -> tuple[str, ...]:
        """The triggers that the exchange has for `symbol`."""
        self.instrument(symbol)
        has, market = self.client.has, self.client.markets[symbol]
        mark = market.get("swap") and (has.get("watchMarkPrice") is True or self.name in TICKER_MARKS)
        quotes = has.get("watchBidsAsks") is True or has.get("watchTicker") is True
        return TRIGGERS[: 1 + 2 * bool(quotes)] + (("mark",) if mark else ())

    def counts(self, symbol: str) -> dict[str, int]:
        """How many trades were `repeated`, `clamped`, `backfilled` or `block trades`; `bad quotes`, `reconnects`."""
        return dict(self._lines[symbol].counts)

    async def start(self, symbol: str, triggers: frozenset[str] = frozenset({"last"}), token: str = "") -> None:
        """Begin with `symbol`: after the block of `token`, or with the next trade.

        Raises DataError on a trigger that the exchange does not have, a token of something else, or a symbol that is
        running; ExchangeError on one that does not exist.
        """
        has = self.triggers(symbol)
        if missing := [name for name in triggers if name not in has]:
            raise DataError(f"trigger = {missing[0]!r}: {self.name} has none for {symbol}; use one of {', '.join(has)}")
        if symbol in self._lines:
            raise DataError(f"symbol = {symbol!r}: is running already; stop it first")
        if not self._tasks:
            raise DataError(f"feed = {self.name}: is not open; await its open() first")
        line = _Line(self, symbol, frozenset(triggers), self._quotes and "bid" in has)
        jobs = {} if self.polling else {"trades": self._watch_trades}
        if line.quotes:
            jobs["quotes"] = self._poll_quotes if self.polling else self._watch_quotes
        if line.marks:
            jobs["mark"] = self._poll_quotes if self.polling else self._watch_mark
        line.streams = {what: _Stream(line, what) for what in (["polling"] if self.polling else []) + list(jobs)}
        if token:
            line.resume(token)
        self._lines[symbol] = line
        if not token:
            try:
                trades, _ = await self._history(line)
                if trades:
                    line.begin(trades)
            except asyncio.CancelledError:
                del self._lines[symbol]
                raise
            except Exception as error:
                # What the venue replays on the subscription must not pass for news, so its clock draws the line.
                self._failed(line, "backfill", error)
                line.floor = int(self.now_ms())
        line.tasks.append(asyncio.create_task(self._guarded(line, "backfill", partial(self._mend, line))))
        for what, job in jobs.items():
            stream = line.streams[what]
            line.tasks.append(asyncio.create_task(self._guarded(line, what, partial(job, stream), stream)))

    async def stop(self, symbol: str) -> None:
        """End with `symbol`; what has arrived is still delivered, then a notice `stopped`."""
        line = self._lines.pop(symbol, None)
        if line is None:
            raise DataError(f"symbol = {symbol!r}: is not running; start it first")
        await _ended(line.tasks)
        self.say(line, "stopped", "nothing more comes")
        for socket in self._sockets.values():
            socket.streams -= set(line.streams.values())
            if not socket.streams:
                self._hang_up(socket)

    async def next(self) -> Block | Notice | None:
        """The next block or notice, waited for; None once the feed is closed."""
        while not self._out and not self._closed:
            self._ready.clear()
            await self._ready.wait()
        if self._closed:
            return None
        if isinstance(self._out[0], Notice):
            return self._out.popleft()  # type: ignore[return-value]
        first = self._out[0]
        ticks: list[_Tick] = []
        while (
            self._out
            and isinstance(tick := self._out[0], _Tick)
            and tick.line is first.line
            and tick.late == first.late
        ):
            ticks.append(tick)
            self._out.popleft()
            tick.line.hand(tick)
            if len(ticks) >= 65_536:
                break
        return _block(first.line, ticks)

    async def close(self) -> None:
        """End everything. A client that was handed in is left open."""
        self._closed = True
        self._ready.set()
        await _ended([task for line in self._lines.values() for task in line.tasks] + self._tasks)
        if "client" in vars(self.client):
            del self.client.client
        if self._owned:
            await self.client.close()

    # --------------------------------------------------------------------------------------------- what the lines need

    def now_ms(self) -> float:
        """The exchange's clock."""
        return time.time() * 1000 + self._offset_ms

    def latest_ms(self) -> float:
        """No time of the exchange lies behind this one; unknown until its clock was read, since ours may be wrong."""
        return self.now_ms() + AHEAD_MS if self._clock_read else math.inf

    def put(self, item: _Tick | Notice) -> None:
        """Something to deliver."""
        self._out.append(item)
        self._ready.set()

    def say(self, line: _Line, what: str, text: str, count: int = 0) -> None:
        """A notice about one symbol."""
        if what == "dropped":
            line.counts["dropped"] += count
        self.put(Notice(line.symbol, what, f"{self.name} {line.symbol}: {text}", count))

    def _failed(self, line: _Line, what: str, error: BaseException) -> None:
        """Networks fail, that is said when it goes on; anything else at once."""
        import ccxt

        passing = isinstance(error, ccxt.OperationFailed)
        count = line.failures.setdefault(what, Counter())
        count[passing] += 1
        if count[passing] == (3 if passing else 1):
            self.say(line, "error", f"{what} failed, {short(repr(error), 200)}; it is tried again")

    # ---------------------------------------------------------------------------------------------------- connections

    def _socket(self, url: str) -> Any:
        """ccxt's connection for `url`, with an ear on every frame. It replaces `exchange.client`."""
        client = self._make_socket(url)
        socket = self._sockets.get(url)
        if socket is None or socket.client is not client:
            socket = self._sockets[url] = _Socket(client)
            # ccxt lets a frame that it cannot read end its receive loop, and nobody hears of it for minutes.
            client.handle_message = partial(self._frame, socket, client.handle_message)
            for other in [key for key, it in self._sockets.items() if not it.streams and it is not socket]:
                del self._sockets[other]
        stream = _STREAM.get()
        if stream is not None and stream.socket is not socket:
            if stream.socket is not None:
                stream.socket.streams.discard(stream)
                stream.line.counts["reconnects"] += 1
            stream.socket, stream.first = socket, True
            socket.streams.add(stream)
        return client

    def _frame(self, socket: _Socket, handle: Callable[[Any], None], message: Any) -> None:
        if message.type in (1, 2, 9, 10):  # text, binary, ping, pong; not what aiohttp says of its own end
            socket.heard = time.monotonic()
            for stream in socket.streams:
                stream.heard = socket.heard
        # Streams as they were: handling may end in a new connection.
        streams = list(socket.streams)
        try:
            handle(message)
        except Exception as error:
            for stream in streams:
                if stream.what == "trades":
                    self.say(stream.line, "dropped", f"a frame that cannot be read, {short(repr(error), 200)}", 1)
                    stream.line.doubt()
        for stream in streams:
            if stream.what == "trades" and stream.line.down and message.type in (1, 2):
                stream.line.down = False
                stream.line.doubt(anew=True)
                stream.line.audit_at = time.monotonic() + self._grace_s
        # After the doubts: requests are made in the order in which they are asked for.
        if not socket.greeted:
            socket.greeted = True
            self._sync.set()

    def _hang_up(self, socket: _Socket, reason: str = "the feed has hung up") -> None:
        """Give a connection up; ccxt makes a new one for the next who asks."""
        import ccxt

        if socket.client in (self.client.clients or {}).values():
            socket.client.on_error(ccxt.NetworkError(f"{self.name} {reason}"))

    def _lost(self, stream: _Stream) -> None:
        """The stream has ended: nothing of its connection is to be trusted."""
        if stream.socket is not None:
            self._hang_up(stream.socket)
        # KuCoin's address comes with a token that ccxt never asks for again.
        addresses = self.client.options.get("urls")
        if self.name == "kucoin" and isinstance(addresses, dict):
            for name in [name for name, future in addresses.items() if future is None or future.done()]:
                del addresses[name]
        if stream.what == "trades" and not stream.line.down:
            stream.line.down = True
            stream.line.doubt()

    async def _guarded(
        self, line: _Line | None, what: str, job: Callable[[], Awaitable[None]], stream: _Stream | None = None
    ) -> None:
        """Run a job that never ends, and run it again whatever happens to it."""
        import ccxt

        pause = self._pause
        task = asyncio.current_task()
        assert task is not None
        _STREAM.set(stream)
        while True:
            began = time.monotonic()
            try:
                await job()
                error: BaseException = RuntimeError("it ended")
            except asyncio.CancelledError as cancelled:
                # ccxt cancels its own futures when it closes a connection: nobody has cancelled us.
                if task.cancelling() or self._closed:
                    raise
                error = ccxt.NetworkError(f"{self.name}: {cancelled!r}")
            except Exception as caught:
                error = caught
            if line is not None:
                fed = stream.fed if stream is not None else line.rest_heard
                if fed > began or time.monotonic() - began > LONGEST_PAUSE_S:
                    pause = self._pause
                    line.failures.pop(what, None)
            for each in [line] if line is not None else self._lines.values():
                self._failed(each, what, error)
            if stream is not None:
                self._lost(stream)
            passing = stream is None or isinstance(error, ccxt.OperationFailed)
            longest = LONGEST_PAUSE_S if passing else REFUSED_PAUSE_S
            await asyncio.sleep(min(pause, longest))
            pause = min(pause * 2, longest)

    # --------------------------------------------------------------------------------------------------------- streams

    async def _watch_trades(self, stream: _Stream) -> None:
        line, params = stream.line, WATCH.get(self.name, {})
        while True:
            # No other await in this loop: a trade that comes while nobody waits is only handed out with the next one.
            line.arrived(await self.client.watch_trades(line.symbol, None, None, dict(params)))

    async def _watch_quotes(self, stream: _Stream) -> None:
        line = stream.line
        many = self.client.has.get("watchBidsAsks") is True
        while True:
            if many:
                answer = await self.client.watch_bids_asks([line.symbol], {})
            else:
                answer = await self.client.watch_ticker(line.symbol, {})
            stream.fed = time.monotonic()
            line.quote(answer.get(line.symbol, answer), ("bid", "ask"))

    async def _watch_mark(self, stream: _Stream) -> None:
        line = stream.line
        watch = self.client.watch_mark_price if self.name not in TICKER_MARKS else self.client.watch_ticker
        while True:
            line.quote(await watch(line.symbol, {}), ("mark",))
            stream.fed = time.monotonic()

    async def _poll_quotes(self, stream: _Stream) -> None:
        line = stream.line
        names: tuple[str, ...] = ("bid", "ask") if stream.what == "quotes" else ("mark",)
        alone = stream.what == "mark" and self.client.has.get("fetchMarkPrice") is True
        fetch = self.client.fetch_mark_price if alone else self.client.fetch_ticker
        while True:
            line.quote(await fetch(line.symbol), names)
            stream.heard = stream.fed = time.monotonic()
            await asyncio.sleep(self.poll_s)

    # ----------------------------------------------------------------------------------------------- what was missed

    async def _mend(self, line: _Line) -> None:
        """Fetch what may be missing, whenever something may be; without a stream, all the time."""
        began = 0.0
        while True:
            polls = self.polling or line.down
            wait = max(0.0, began + self.poll_s - time.monotonic()) if polls else None
            if not line.open:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await line.wake.wait()
            line.wake.clear()
            began = time.monotonic()
            doubts, old = line.doubts, line.open
            trades, gap = await self._history(line)
            unheard = {trade.id for trade in trades if not line.known(trade)}
            line.settle(trades, doubts, gap)
            line.audit_at = min(line.audit_at, time.monotonic() + (self._grace_s if old else self.stale_s))
            stream = line.streams.get("trades")
            if stream is not None and stream.socket is not None and began - stream.socket.made > self._grace_s:
                # It has been subscribed for long enough: from here on, what it sends is all there is.
                stream.first = False
            if old or polls or line.down:
                line.unheard.clear()
            elif line.unheard:
                self.say(
                    line, "error", f"{len(line.unheard)} trades did not come over the socket; it is connected anew"
                )
                line.unheard.clear()
                if stream is not None and stream.socket is not None:
                    self._hang_up(stream.socket, "left out trades")
            elif unheard:
                # Without a doubt the stream should have brought them, unless they are on their way.
                line.unheard = unheard
                line.audit_at = time.monotonic() + self._grace_s

    async def _history(self, line: _Line) -> tuple[list[Trade], str]:
        """The latest trades, oldest first, back to the last one before the doubt; and the gap that remains, in words."""
        doubtful = line.open
        mark, target = (line.mark_ms, line.target_ms) if doubtful else (line.newest, line.newest - WINDOW_MS)
        spot_bybit = self.name == "bybit" and not line.market.get("contract")
        limit = 60 if spot_bybit else LATEST.get(self.name, VENUES[self.name].trades)
        if self.name in OLDER and not doubtful and mark >= 0:
            limit = min(limit, LOOK)

        async def ask(since: int | None, limit: int | None, params: dict[str, Any]) -> list[Any]:
            answer = await self.client.fetch_trades(line.symbol, since, limit, params)
            if not isinstance(answer, list):
                raise TypeError(f"trades = {short(answer)}: are no list")
            return answer

        raw = await ask(None, limit if self.name != "kucoin" else None, {})
        if not raw and line.newest >= 0:
            raise ExchangeError(f"{self.name} {line.symbol}: an empty answer, where trades are known to be")
        found = {trade.id: trade for item in raw if (trade := line.read(item)) is not None}
        if not found:
            return [], ""
        oldest = min(found.values())
        if mark < 0:
            return sorted(found.values()), ""
        if oldest.ms >= target and self.name in OLDER:
            pages = repeats = 0
            async for page in OLDER[self.name](ask, line.market, raw, target):
                trades = [trade for item in page if (trade := line.read(item)) is not None]
                new = {trade.id: trade for trade in trades if trade.id not in found}
                found |= new
                # Pages may overlap; two that tell nothing are the end, or as far as the exchange lets us look.
                pages, repeats = pages + 1, 0 if new else repeats + 1
                oldest = min(oldest, *new.values()) if new else oldest
                if not page or repeats > 1 or oldest.ms < target or pages >= PAGES:
                    break
        gap = ""
        # Without a doubt, what the stream has brought meanwhile is whole.
        if (oldest.ms > mark and doubtful) or (oldest.ms >= mark and oldest.id not in line.seen):
            gap = (
                f"trades from {instant_text(mark * MS)} to {instant_text(oldest.ts)} are missing, the exchange no longer "
                f"serves them; look at what happened in between"
            )
        return sorted(found.values()), gap

    # --------------------------------------------------------------------------------------------------------- keepers

    async def _keep_clock(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SYNC_S):
                    await self._sync.wait()
            self._sync.clear()
            if time.time() - self._clock_read > SYNC_S / 20:
                with contextlib.suppress(Exception):
                    await self._read_clock()

    async def _read_clock(self) -> None:
        before = time.time() * 1000
        server = await self.client.fetch_time()
        if isinstance(server, (int, float)) and server > 0:
            self._clock_read = time.time()
            self._offset_ms = server - (before + time.time() * 1000) / 2

    async def _keep_watch(self) -> None:
        """Silence, staleness, trades that have waited too long, and the regular look by REST."""
        tick = min(self.stale_s, self.late_s, 0.8) / 8
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            for socket in list(self._sockets.values()):
                client = socket.client
                silent = max(self.stale_s * 2 / 3, 1.5 * client.keepAlive / 1000)
                # A connection that is being made has ccxt's pauses of up to 30 s before it.
                if now - socket.heard > silent + (0 if client.isConnected else 45):
                    self._hang_up(socket, "is silent")
            for line in list(self._lines.values()):
                line.lapse()
                silence = now - line.heard()
                if silence > self.stale_s and line.live is not False:
                    line.live = False
                    self.say(line, "stale", f"nothing heard for {silence:.1f} s")
                elif (
                    silence <= self.stale_s
                    and line.heard() > line.began
                    and not line.live
                    and not (line.open and line.hold)
                ):
                    line.live = True
                    self.say(line, "live", "connected, nothing is missing" if not line.open else "connected")
                if now >= line.audit_at:
                    line.audit_at = now + self.stale_s
                    line.wake.set()


# ------------------------------------------------------------------------------------------- pages before the latest

Ask = Callable[..., Awaitable[list[Any]]]


async def _older_binance(ask: Ask, market: Any, page: list[Any], target: int) -> AsyncIterator[list[Any]]:
    """Aggregates are numbered without holes."""
    first = min(int(trade["id"]) for trade in page)
    while first > 0:
        first = max(first - 1000, 0)
        yield await ask(None, 1000, {"fromId": first})


async def _older_okx(ask: Ask, market: Any, page: list[Any], target: int) -> AsyncIterator[list[Any]]:
    while page:
        first = min(int(trade["id"]) for trade in page)
        page = await ask(None, 100, {"method": "publicGetMarketHistoryTrades", "type": "1", "after": str(first)})
        yield page


async def _older_bitget(ask: Ask, market: Any, page: list[Any], target: int) -> AsyncIterator[list[Any]]:
    while page:
        first = min(int(trade["id"]) for trade in page)
        page = await ask(None, 1000, {"idLessThan": str(first)})
        yield page


async def _older_gate(ask: Ask, market: Any, page: list[Any], target: int) -> AsyncIterator[list[Any]]:
    """Pages of a range of whole seconds that no new trade can shift."""
    bounds = {"from": target // 1000, "to": page[0]["timestamp"] // 1000}
    for number in range(PAGES):
        place = {"offset": number * 1000} if market.get("contract") else {"page": number + 1}
        yield await ask(None, 1000, bounds | place)


async def _older_kraken(ask: Ask, market: Any, page: list[Any], target: int) -> AsyncIterator[list[Any]]:
    """Kraken only goes forward, so all pages from the target on are one."""
    since, stop = target * MS, page[0]["timestamp"]
    everything: list[Any] = []
    for _ in range(PAGES):
        page = await ask(None, None, {"since": str(since), "count": 1000})
        everything += page
        # ccxt appends the answer's `last`, the exact ns of the last trade, to that trade; ask again from just before it.
        marks = [int(trade["info"][-1]) for trade in page if len(trade["info"]) > 7]
        following = max(marks, default=since) - 1
        if not page or page[-1]["timestamp"] > stop or following <= since:
            break
        since = following
    yield everything


async def _older_coinbase(ask: Ask, market: Any, page: list[Any], target: int) -> AsyncIterator[list[Any]]:
    """Bounds are whole seconds, so the second of the oldest trade is asked for again."""
    while page:
        until = (page[0]["timestamp"] // 1000 + 1) * 1000
        page = await ask(min(target, until) // 1000 * 1000, 1000, {"until": until})
        yield page


OLDER: dict[str, Callable[[Ask, Any, list[Any], int], AsyncIterator[list[Any]]]] = {
    "binance": _older_binance,
    "okx": _older_okx,
    "gate": _older_gate,
    "bitget": _older_bitget,
    "kraken": _older_kraken,
    "coinbase": _older_coinbase,
}
"""Bybit and KuCoin serve the latest trades and nothing before."""


# --------------------------------------------------------------------------------------------------------- small help


def _block(line: _Line, ticks: list[_Tick]) -> Block:
    def column(name: str, there: bool) -> np.ndarray | None:
        return np.array([getattr(tick, name) for tick in ticks], np.int64) if there else None

    return Block(
        line.symbol,
        np.array([tick.ts for tick in ticks], np.int64),
        np.array([tick.price for tick in ticks], np.int64),
        np.array([tick.size for tick in ticks], np.float64),
        column("bid", line.quotes),
        column("ask", line.quotes),
        column("mark", line.marks),
        line.token(),
        ticks[0].late,
    )


def _mark(ticker: dict[str, Any]) -> Any:
    """The mark price, which ccxt leaves as the venue wrote it where it streams tickers."""
    info = ticker.get("info")
    named = info if isinstance(info, dict) else {}
    value = next(
        (v for v in (ticker.get("markPrice"), named.get("markPrice"), named.get("mark_price")) if v is not None), None
    )
    return float(value) if value is not None else None


def _packed(ids: Iterable[str]) -> list[str]:
    """Ids as text, runs of numbers as `first:last`."""
    names = list(ids)
    if not all(name.isdigit() and name == str(int(name)) for name in names):
        return names
    runs: list[list[int]] = []
    for number in sorted(map(int, names)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return [f"{first}" if first == last else f"{first}:{last}" for first, last in runs]


def _unpacked(runs: list[str]) -> list[str]:
    ids: list[str] = []
    for run in runs:
        first, colon, last = run.partition(":")
        ids += map(str, range(int(first), int(last) + 1)) if colon else [run]
    return ids


def _seconds(name: str, value: object) -> float:
    try:
        seconds = duration_ns(value) / 1e9
    except ValueError as error:
        raise DataError(f"{name} = {short(value)}: {error}") from None
    if not seconds:
        raise DataError(f"{name} = {short(value)}: must be above 0; write 500ms or 30s")
    return seconds


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _new_client(name: str) -> Any:
    try:
        import ccxt.pro
    except ImportError:
        raise no_ccxt(name) from None
    return getattr(ccxt.pro, name)({"enableRateLimit": True})
