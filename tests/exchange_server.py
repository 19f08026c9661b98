"""The public market data of eight exchanges on 127.0.0.1, as the real ccxt clients ask for it.

One seeded tape, eight tongues: each venue's answers come from it with that venue's page sizes, bounds (inclusive or
not), order, clock unit and habits, above all the ones that lose rows without a word. Faults are injected by the number
of the request. Standard library and numpy only; ccxt is imported where a client is made.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np

NOW = 1_736_080_496_789  # 2025-01-05T12:34:56.789Z, in ms
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
MS = 1_000_000
PRECISION_NS = {"gate": 1_000, "kucoin": 1, "kraken": 1_000, "coinbase": 1_000}
"""What a spot trade's time is published in; ms elsewhere. The tape's times are whole µs, which Kraken's floats hold."""


@dataclass(frozen=True)
class Trade:
    id: int
    ts_ns: int
    price: str
    size: str
    side: str

    @property
    def ms(self) -> int:
        return self.ts_ns // MS


@dataclass(frozen=True)
class Tape:
    """Trades, oldest first, and candles `(open ms, o, h, l, c, v)` of `MINUTE`, of which the last is unfinished."""

    trades: list[Trade]
    bars: list[tuple[int, str, str, str, str, str]]


def make_tape(seed: int = 7, end: int = NOW, hours: float = 12, trades: int = 2500, minutes: int = 2500) -> Tape:
    """Trades over `hours` with an outage of three hours, 250 trades in one ms and 600 in one second; and candles with
    holes of 1, 70 and 450 minutes."""
    rng = np.random.default_rng(seed)
    start = int((end - hours * HOUR) * 1000)  # in µs
    gap = start + 4 * HOUR * 1000
    times = start + rng.integers(0, int(hours * HOUR * 1000), trades)
    times = times[(times < gap) | (times >= gap + 3 * HOUR * 1000)]
    sweep = times[len(times) // 2] // 1000 * 1000
    second = times[len(times) // 4] // 10**6 * 10**6
    times = np.sort(np.concatenate([times, sweep + rng.integers(0, 3, 250), second + rng.integers(0, 10**6, 600)]))
    steps = np.cumsum(rng.integers(-2, 3, len(times)))
    tape = [
        Trade(1000 + i, int(t) * 1000, f"{150 + s / 100:.2f}", f"{q / 1000:.3f}", side)
        for i, (t, s, q, side) in enumerate(
            zip(times, steps, rng.integers(1, 5000, len(times)), rng.choice(["buy", "sell"], len(times)), strict=True)
        )
    ]
    last = end // MINUTE
    missing = {last - minutes + 301, *range(last - 900, last - 830), *range(last - 2000, last - 1550)}
    bars = []
    for minute in range(last - minutes, last + 1) if minutes else ():
        o, h, low, c = rng.integers(14000, 16000, 4) / 100
        row = (f"{o:.2f}", f"{max(o, h, low, c):.2f}", f"{min(o, h, low, c):.2f}", f"{c:.2f}")
        if minute not in missing:
            bars.append((minute * MINUTE, *row, f"{rng.integers(1, 10**6) / 1000:.3f}"))
    return Tape(tape, bars)


@dataclass
class ExchangeServer:
    """All eight venues at `http://127.0.0.1:<port>/<venue>/…`; use it as a context manager.

    `now`: its clock, in ms. `faults`: what happens to the n-th request (from 1): `drop`, `429`, `500`, `truncated`,
    `html`, `empty`, `slow` (0.6 s), or any JSON text as the answer. `hold_from`: requests from this number on are
    left waiting until `release()`. `log`: (venue, path, query) of every request.
    """

    tape: Tape
    now: int = NOW
    faults: dict[int, str] = field(default_factory=dict)
    hold_from: int | None = None
    log: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.held, self._go, self._lock = threading.Event(), threading.Event(), threading.Lock()

    def __enter__(self) -> ExchangeServer:
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                owner._serve(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def client(self, venue: str, symbol: str = "SOL/USDT") -> Any:
        """A real ccxt client that talks to this server and shares its clock."""
        return make_client(venue, symbol, self.url, self.now)

    def release(self) -> None:
        self._go.set()

    def _serve(self, http: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(http.path)
        venue, path = parts.path.lstrip("/").split("/", 1)
        query = dict(parse_qsl(parts.query))
        with self._lock:
            self.log.append((venue, path, query))
            number = len(self.log)
        if self.hold_from is not None and number >= self.hold_from:
            self.held.set()
            self._go.wait()
        fault = self.faults.get(number, "")
        if fault == "drop":
            http.close_connection = True
            http.connection.close()
            return
        if fault == "slow":
            time.sleep(0.6)
        try:
            status, answer = 200, ANSWERS[venue](self, path, query)
        except Refused as refused:
            status, answer = 400, refused.args[0]
        body = json.dumps(answer).encode()
        if fault.isdigit():
            status, body = int(fault), b'{"message": "try later"}'
        elif fault == "truncated":
            body = body[: len(body) // 2]
        elif fault == "html":
            body = b"<html>maintenance</html>"
        elif fault == "empty":
            body = b""
        elif fault.startswith("{"):
            body = fault.encode()
        try:
            http.send_response(status)
            http.send_header("Content-Type", "application/json")
            http.send_header("Content-Length", str(len(body)))
            http.send_header("Connection", "close")
            http.end_headers()
            http.wfile.write(body)
        except OSError:  # the other side was killed
            pass
        http.close_connection = True

    def trades(self, after: float = -1, before: float = float("inf")) -> list[Trade]:
        """With `after <= ms <= before`, and none from the future."""
        return [t for t in self.tape.trades if after <= t.ms <= before and t.ms <= self.now]

    def bars(self, query: dict[str, str], step: int) -> list[tuple[Any, ...]]:
        """The candles of one length up to the unfinished one."""
        if step != MINUTE:
            raise Refused({"message": "the tape holds 1m candles"})
        return [bar for bar in self.tape.bars if bar[0] <= self.now]


class Refused(Exception):
    """Answered with HTTP 400 and this JSON."""


def _iso(ns: int) -> str:
    seconds = datetime.fromtimestamp(ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{ns % 10**9 // 1000:06d}Z"


def _within(bars: list[tuple[Any, ...]], first: float, last: float) -> list[tuple[Any, ...]]:
    return [bar for bar in bars if first <= bar[0] <= last]


def _number(query: dict[str, str], name: str, default: float) -> float:
    return float(query.get(name, default))


# ------------------------------------------------------------------------------------------- one function for a venue


def _binance(server: ExchangeServer, path: str, query: dict[str, str]) -> Any:
    first, last = _number(query, "startTime", -1), _number(query, "endTime", np.inf)
    limit = int(min(_number(query, "limit", 500), 1000))
    if path.endswith("/klines"):
        bars = _within(server.bars(query, MINUTE), first, last)
        bars = bars[:limit] if "startTime" in query else bars[-limit:]
        return [[b[0], *b[1:6], b[0] + MINUTE - 1, "0", 1, "0", "0", "0"] for b in bars]
    if "fromId" in query:
        trades = [t for t in server.trades() if t.id >= int(query["fromId"])][:limit]
    elif "startTime" in query:
        if last - first >= HOUR:
            raise Refused({"code": -1127, "msg": "More than 1 hour between startTime and endTime."})
        trades = server.trades(first, last)[:limit]
    else:
        trades = server.trades()[-limit:]
    return [
        {"a": t.id, "p": t.price, "q": t.size, "f": t.id, "l": t.id, "T": t.ms, "m": t.side == "sell", "M": True}
        for t in trades
    ]


def _bybit(server: ExchangeServer, path: str, query: dict[str, str]) -> Any:
    limit = int(min(_number(query, "limit", 500), 1000))
    if path.endswith("/kline"):
        bars = _within(server.bars(query, MINUTE), _number(query, "start", -1), _number(query, "end", np.inf))
        rows: list[Any] = [[str(b[0]), *b[1:6], "0"] for b in bars[-limit:][::-1]]
    else:
        most = 60 if query["category"] == "spot" else 1000
        rows = [
            {
                "execId": str(t.id),
                "symbol": "SOLUSDT",
                "price": t.price,
                "size": t.size,
                "side": t.side.title(),
                "time": str(t.ms),
            }
            for t in server.trades()[-min(limit, most) :][::-1]
        ]
    return {"retCode": 0, "retMsg": "OK", "result": {"category": query["category"], "list": rows}, "time": server.now}


def _okx(server: ExchangeServer, path: str, query: dict[str, str]) -> Any:
    after, before = query.get("after"), query.get("before")
    if path.endswith("candles"):
        bars = server.bars(query, MINUTE)
        if not path.endswith("history-candles"):
            bars = [b for b in bars if b[0] > server.now - 1440 * MINUTE]
        bars = _within(bars, float(before or -2) + 1, float(after or np.inf) - 1)
        limit = int(min(_number(query, "limit", 100), 300))
        swap = query["instId"].endswith("-SWAP")  # a swap counts contracts first, then base currency
        return {
            "code": "0",
            "msg": "",
            "data": [
                [str(b[0]), *b[1:5], "7" if swap else b[5], b[5] if swap else "7", "0", "1"]
                for b in bars[-limit:][::-1]
            ],
        }
    trades = server.trades()
    if path.endswith("history-trades"):
        if query.get("type", "1") == "2":
            trades = server.trades(server.now - 90 * DAY, float(after or np.inf) - 1)
        elif after:
            trades = [t for t in trades if t.id < int(after)]
        limit = int(min(_number(query, "limit", 100), 100))
    else:
        limit = int(min(_number(query, "limit", 100), 500))
    return {
        "code": "0",
        "msg": "",
        "data": [
            {
                "instId": query["instId"],
                "side": t.side,
                "sz": t.size,
                "px": t.price,
                "tradeId": str(t.id),
                "ts": str(t.ms),
            }
            for t in trades[-limit:][::-1]
        ],
    }


def _gate(server: ExchangeServer, path: str, query: dict[str, str]) -> Any:
    first, last = _number(query, "from", 0) * 1000, _number(query, "to", server.now // 1000) * 1000
    if path.endswith("/candlesticks"):
        if (last - first) // MINUTE + 1 > 1000:
            raise Refused({"label": "INVALID_PARAM_VALUE", "message": "Candlestick range too broad. Maximum 1000"})
        if first < server.now - 10_000 * MINUTE:
            raise Refused({"label": "INVALID_PARAM_VALUE", "message": "Candlestick too long ago. Maximum 10000 points"})
        bars = _within(server.bars(query, MINUTE), first, last)
        if "/futures/" in path:
            return [{"t": b[0] // 1000, "o": b[1], "h": b[2], "l": b[3], "c": b[4], "v": b[5]} for b in bars]
        return [[str(b[0] // 1000), "0", b[4], b[2], b[3], b[1], b[5], "true"] for b in bars]
    limit = int(min(_number(query, "limit", 100), 1000))
    trades = server.trades(first if "from" in query else server.now - 30 * DAY, last + 999 if "to" in query else np.inf)
    if "/futures/" in path:
        offset = int(query.get("offset", 0))
        return [
            {"id": t.id, "create_time": t.ms // 1000, "create_time_ms": t.ms / 1000, "contract": "SOL_USDT",
             "size": f"{'-' if t.side == 'sell' else ''}{t.size}", "price": t.price}
            for t in trades[::-1][offset : offset + limit]
        ]  # fmt: skip
    offset = (int(query.get("page", 1)) - 1) * limit
    if offset > 100_000:
        raise Refused({"label": "INVALID_PARAM_VALUE", "message": "limit * (page - 1) must not exceed 100000"})
    return [
        {"id": str(t.id), "create_time": str(t.ms // 1000), "create_time_ms": f"{t.ms}.{t.ts_ns % MS:06d}",
         "side": t.side, "currency_pair": "SOL_USDT", "amount": t.size, "price": t.price, "role": "taker"}
        for t in trades[::-1][offset : offset + limit]
    ]  # fmt: skip


def _bitget(server: ExchangeServer, path: str, query: dict[str, str]) -> Any:
    first, last = _number(query, "startTime", -1), _number(query, "endTime", server.now)
    if path.endswith("candles"):
        history = path.endswith("history-candles")
        limit = int(min(_number(query, "limit", 100), 200 if history else 1000))
        # The history endpoint aligns from its end and does not look at its start.
        bars = _within(server.bars(query, MINUTE), -1 if history else first, last - 1)[-limit:]
        rows: list[Any] = [[str(b[0]), *b[1:6], "0", "0"] for b in bars]
    else:
        if last - first > 7 * DAY and "startTime" in query:
            raise Refused({"code": "40017", "msg": "startTime and endTime must be within 7 days"})
        limit = int(min(_number(query, "limit", 500), 1000))
        trades = server.trades(max(first, server.now - 90 * DAY), last)
        trades = [t for t in trades if t.id < int(query.get("idLessThan", 10**18))]
        rows = [
            {
                "symbol": "SOLUSDT",
                "tradeId": str(t.id),
                "side": t.side.title(),
                "price": t.price,
                "size": t.size,
                "ts": str(t.ms),
            }
            for t in trades[-limit:][::-1]
        ]
    return {"code": "00000", "msg": "success", "requestTime": server.now, "data": rows}


def _kucoin(server: ExchangeServer, path: str, query: dict[str, str]) -> Any:
    if path.endswith("/market/candles"):
        first, last = _number(query, "startAt", 0) * 1000, _number(query, "endAt", server.now // 1000) * 1000
        bars = _within(server.bars(query, MINUTE), first, last - 1)[-1500:]
        rows: list[Any] = [[str(b[0] // 1000), b[1], b[4], b[2], b[3], b[5], "0"] for b in bars[::-1]]
    elif path.endswith("/kline/query"):
        bars = _within(server.bars(query, MINUTE), _number(query, "from", 0), _number(query, "to", server.now) - 1)
        rows = [[b[0], *map(float, b[1:6])] for b in bars[-200:]]
    elif path.endswith("/market/histories"):
        rows = [
            {"sequence": str(t.id), "side": t.side, "size": t.size, "price": t.price, "time": t.ts_ns}
            for t in server.trades()[-100:]
        ]
    else:
        rows = [
            {
                "sequence": t.id,
                "side": t.side,
                "size": float(t.size),
                "price": t.price,
                "tradeId": str(t.id),
                "ts": t.ts_ns,
            }
            for t in server.trades()[-100:][::-1]
        ]
    return {"code": "200000", "data": rows}


def _kraken(server: ExchangeServer, path: str, query: dict[str, str]) -> Any:
    pair = query["pair"]
    if path.endswith("/OHLC"):
        bars = server.bars(query, MINUTE)[-720:]
        since = _number(query, "since", 0)
        rows: list[Any] = [[b[0] // 1000, *b[1:5], b[4], b[5], 3] for b in bars if b[0] // 1000 > since]
        return {"error": [], "result": {pair: rows, "last": rows[-1][0] if rows else 0}}
    given = query.get("since", "")
    since_ns = int(given) if len(given) > 15 else int(float(given or 0) * 10**9)
    size = int(min(_number(query, "count", 1000), 1000))
    trades = [t for t in server.trades() if t.ts_ns > since_ns][:size] if given else server.trades()[-size:]
    rows = [[t.price, t.size, t.ts_ns / 10**9, t.side[0], "l", "", t.id] for t in trades]
    return {"error": [], "result": {pair: rows, "last": str(trades[-1].ts_ns if trades else since_ns)}}


def _coinbase(server: ExchangeServer, path: str, query: dict[str, str]) -> Any:
    first, last = _number(query, "start", 0) * 1000, _number(query, "end", server.now // 1000) * 1000
    if path.endswith("/candles"):
        if (last - first) // MINUTE > 350:
            raise Refused(
                {"error": "INVALID_ARGUMENT", "message": "number of candles requested should be less than 350"}
            )
        bars = _within(server.bars(query, MINUTE), first, last)[::-1]
        names = ("open", "high", "low", "close", "volume")
        return {"candles": [{"start": str(b[0] // 1000)} | dict(zip(names, b[1:], strict=True)) for b in bars]}
    limit = int(min(_number(query, "limit", 100), 1000))
    return {
        "trades": [
            {"trade_id": str(t.id), "product_id": "SOL-USDT", "price": t.price, "size": t.size, "side": t.side.upper(),
             "time": _iso(t.ts_ns)}
            for t in server.trades(first, last)[-limit:][::-1]
        ],
        "best_bid": "150.00",
        "best_ask": "150.01",
    }  # fmt: skip


ANSWERS: dict[str, Callable[[ExchangeServer, str, dict[str, str]], Any]] = {
    "binance": _binance,
    "bybit": _bybit,
    "okx": _okx,
    "gate": _gate,
    "bitget": _bitget,
    "kucoin": _kucoin,
    "kraken": _kraken,
    "coinbase": _coinbase,
}
_IDS = {"okx": "SOL-USDT", "gate": "SOL_USDT", "kucoin": "SOL-USDT", "coinbase": "SOL-USDT"}


def make_client(venue: str, symbol: str, url: str, now: int = NOW) -> Any:
    """The real ccxt client of `venue` whose URLs all lead to `url`: one market, no throttle, the clock `now`."""
    import ccxt

    client = getattr(ccxt, venue)({"enableRateLimit": False, "timeout": 5000})
    client.urls["api"] = _moved(client.urls["api"], f"{url}/{venue}")
    client.milliseconds = lambda: now
    client.seconds = lambda: now // 1000
    base, quote = symbol.partition(":")[0].split("/")
    swap = ":" in symbol
    market = _IDS.get(venue, "SOLUSDT") + ("-SWAP" if swap and venue == "okx" else "")
    client.set_markets(
        [
            {
                "id": market, "symbol": symbol, "base": base, "quote": quote,
                "baseId": base, "quoteId": quote, "type": "swap" if swap else "spot", "spot": not swap, "swap": swap,
                "contract": swap, "linear": swap or None, "inverse": False if swap else None, "margin": False,
                "future": False, "option": False, "settle": quote if swap else None,
                "settleId": quote.lower() if swap else None, "contractSize": 1.0 if swap else None, "active": True,
                "precision": {"price": 0.01, "amount": 0.001}, "limits": {}, "info": {},
            }
        ]
    )  # fmt: skip
    return client


def _moved(urls: Any, base: str) -> Any:
    if isinstance(urls, dict):
        return {name: _moved(url, base) for name, url in urls.items()}
    return base + urlsplit(urls.replace("{", "").replace("}", "")).path
