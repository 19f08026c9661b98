"""Eight exchanges on 127.0.0.1 as their production clients know them: TLS, their host names, REST and streams.

    async with LocalExchange() as server:
        exchange = client("binance", server)
        server.publish(3)

The real ccxt.pro clients connect to `wss://stream.binance.com:9443` and the like: a resolver sends every name of `HOSTS`
here and knows no other, and the certificate is good for all of them. A venue is a class with a few methods, its REST
answers are those of exchange_server. One tape per symbol; what is on the tape and what is streamed are two steps (`add`,
`send`), so that a test loses, doubles, delays and reorders trades by leaving out, repeating or swapping calls.
"""

from __future__ import annotations

import asyncio
import atexit
import datetime
import ipaddress
import itertools
import json
import shutil
import socket
import ssl
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import exchange_server
from aiohttp import WSMsgType, web
from exchange_server import MS, Refused, Tape, Trade

SYMBOLS = ("SOL/USDT", "ETH/USDT", "SOL/USDT:USDT")


class LocalExchange:
    """All eight venues on one port, in the loop that entered it.

    `tape`: the trades of each symbol. `silent`: the streams neither speak nor answer, pings included. `refuse`: HTTP status
    for every REST request, or a body to answer with. `mute`: nothing that is published is streamed. `snapshots`: how many
    old trades Bitget and Coinbase send on a subscription. `log`: (venue, path, query) of every REST request.
    """

    def __init__(self, venues: Sequence[str] = tuple(exchange_server.ANSWERS)):
        self.venues = {name: VENUES[name](self) for name in venues}
        self.tape: dict[str, list[Trade]] = {symbol: [] for symbol in SYMBOLS}
        self.port = 0
        self.silent = self.mute = False
        self.refuse: int | str = 0
        self.snapshots = 3
        self.latest = 0  # how many of the newest trades REST does not serve yet
        self.kept: int | None = None  # how many trades REST still has
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.sockets: list[Socket] = []
        self.connected: Counter[str] = Counter()
        self.book: dict[str, dict[str, str]] = {symbol: {} for symbol in SYMBOLS}
        self._newest = 0
        self._ids = itertools.count(1000)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> LocalExchange:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def up(self) -> None:
        """Listen, on the port of before if there was one."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.01)
        await self._runner.setup()
        self._listening = socket.create_server(("127.0.0.1", self.port))
        await web.SockSite(self._runner, self._listening, ssl_context=_server_side()).start()
        self.port = self._listening.getsockname()[1]

    async def down(self) -> None:
        """Stop listening; every connection is cut."""
        self.drop()
        if self._runner is not None:
            # Who is accepted in the turn in which a server closes is forgotten unclosed by asyncio, so nobody is.
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listening.fileno())
            await asyncio.sleep(0)
            # aiohttp cannot close all: some are in the middle of their handshake, or have heard the end while they did not read.
            for transport in list(getattr(loop, "_transports", {}).values()):
                if (transport.get_extra_info("sockname") or ("", 0))[1] == self.port:
                    transport.abort()
            await self._runner.cleanup()
            self._runner = None

    async def restart(self) -> None:
        await self.down()
        await self.up()

    # --------------------------------------------------------------------------------------------- what tests play with

    def trade(self, price: float = 150.0, ago_ms: int = 0) -> Trade:
        """A new trade with the next id, later than the last one unless told how long ago; its size is a 1000th of its id."""
        number = next(self._ids)
        ts = (time.time_ns() // 1000 - ago_ms * 1000) * 1000
        if ago_ms <= 0:
            ts = self._newest = max(self._newest + 1000, ts)
        return Trade(number, ts, f"{price:.2f}", f"{number / 1000:.3f}", "buy" if number % 2 else "sell")

    def publish(self, trades: int | Sequence[Trade] = 1, symbol: str = "SOL/USDT", **how: Any) -> list[Trade]:
        """Trades that happen: on the tape, and streamed in one frame each."""
        made = [self.trade(150 + n / 100, **how) for n in range(trades)] if isinstance(trades, int) else list(trades)
        self.add(made, symbol)
        if not self.mute:
            for trade in made:
                self.send([trade], symbol)
        return made

    def add(self, trades: Sequence[Trade], symbol: str = "SOL/USDT") -> None:
        """On the tape only."""
        self.tape[symbol] += trades

    def send(self, trades: Sequence[Trade], symbol: str = "SOL/USDT") -> None:
        """Streamed only, all in one frame."""
        for connection in self.sockets:
            connection.send(connection.venue.trades(symbol, list(trades)), ("trades", symbol))
            connection.send(connection.venue.single(symbol, list(trades)), ("single", symbol))

    def quote(self, bid: str, ask: str, symbol: str = "SOL/USDT", mark: str = "") -> None:
        """A change of the best bid and ask, or with `mark` of the mark price."""
        self.book[symbol] |= {"mark": mark} if mark else {"bid": bid, "ask": ask}
        for connection in self.sockets:
            if mark:
                connection.send(connection.venue.mark(symbol, mark), ("mark", symbol))
            else:
                connection.send(connection.venue.quote(symbol, bid, ask), ("quotes", symbol))

    def say(self, text: str) -> None:
        """Any text, on every stream."""
        for connection in self.sockets:
            connection.send(text)

    def drop(self) -> None:
        """Cut every stream without a word."""
        for connection in self.sockets[:]:
            connection.cut()

    async def hang_up(self, code: int = 1001) -> None:
        """End every stream with a close frame."""
        for connection in self.sockets[:]:
            await connection.close(code)

    async def subscribed(self, count: int = 1, what: str = "trades", symbol: str = "SOL/USDT") -> None:
        """Wait until so many streams are subscribed."""
        async with asyncio.timeout(20):
            while sum((what, symbol) in connection.topics for connection in self.sockets) < count:
                await asyncio.sleep(0.005)

    # ------------------------------------------------------------------------------------------------------ the inside

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        venue = next((venue for venue in self.venues.values() if request.url.host in venue.hosts), None)
        if venue is None:
            return web.Response(status=404)
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await Socket(self, venue, request).run()
        return await self._rest(venue, request)

    async def _rest(self, venue: Venue, request: web.Request) -> web.Response:
        query = dict(request.query)
        self.log.append((venue.name, request.path, query))
        if isinstance(self.refuse, str):
            return web.Response(text=self.refuse, content_type="application/json")
        if self.refuse:
            return web.Response(status=self.refuse, text="{}", content_type="application/json")
        try:
            answer, status = venue.answer(request.path.lstrip("/"), query, await request.text()), 200
        except Refused as refused:
            answer, status = refused.args[0], 400
        return web.json_response(answer, status=status)

    def part(self, symbol: str) -> exchange_server.ExchangeServer:
        """The tape of one symbol as the REST answers read it."""
        trades = sorted(self.tape[symbol], key=lambda trade: trade.id)
        trades = trades[: len(trades) - self.latest][-self.kept if self.kept else 0 :]
        now = max([time.time_ns() // MS, *(trade.ms for trade in trades[-1:])])
        return exchange_server.ExchangeServer(Tape(trades, []), now=now + 1000)


class Socket:
    """One stream: what it is subscribed to."""

    def __init__(self, server: LocalExchange, venue: Venue, request: web.Request):
        self.server, self.venue, self.request = server, venue, request
        self.path = request.path
        self.topics: set[tuple[str, str]] = set()
        self.ws = web.WebSocketResponse(autoping=False, heartbeat=None)
        self._outgoing: asyncio.Queue[str | int] = asyncio.Queue()

    async def run(self) -> web.WebSocketResponse:
        await self.ws.prepare(self.request)
        self.server.sockets.append(self)
        self.server.connected[self.venue.name] += 1
        writer = asyncio.create_task(self._write())
        try:
            for text in self.venue.welcome(self):
                self.send(text)
            async for message in self.ws:
                if self.server.silent:
                    continue
                if message.type == WSMsgType.PING:
                    await self.ws.pong(message.data)
                elif message.type == WSMsgType.TEXT:
                    for text in self.venue.hear(self, message.data):
                        self.send(text)
        except (ConnectionError, RuntimeError):
            pass
        finally:
            self.gone()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
        return self.ws

    async def _write(self) -> None:
        while True:
            item = await self._outgoing.get()
            if isinstance(item, int):
                await self.ws.close(code=item)
                return
            await self.ws.send_str(item)

    def send(self, text: str | dict[str, Any] | list[Any] | None, topic: tuple[str, str] | None = None) -> None:
        if text is not None and not self.server.silent and (topic is None or topic in self.topics):
            self._outgoing.put_nowait(text if isinstance(text, str) else json.dumps(text))

    def subscribe(self, what: str, symbol: str) -> None:
        self.topics.add((what, symbol))

    async def close(self, code: int) -> None:
        self._outgoing.put_nowait(code)
        self.gone()
        await asyncio.sleep(0)

    def cut(self) -> None:
        self.gone()
        if self.request.transport is not None:
            self.request.transport.abort()

    def gone(self) -> None:
        if self in self.server.sockets:
            self.server.sockets.remove(self)


# ------------------------------------------------------------------------------------------------- one class per venue


def _iso(ns: int) -> str:
    seconds = datetime.datetime.fromtimestamp(ns // 10**9, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{seconds}.{ns % 10**9 // 1000:06d}Z"


class Venue:
    """One dialect. `hosts`: the names that it goes by; the methods say what it writes, and hear what it is told."""

    name = ""
    hosts: tuple[str, ...] = ()
    dash = ""
    unit = MS
    """What the time of a trade is published in, in ns."""
    swap = "-SWAP"

    def __init__(self, server: LocalExchange):
        self.server = server

    def id(self, symbol: str) -> str:
        base, _, settle = symbol.partition(":")
        return base.replace("/", self.dash) + (self.swap if settle else "")

    def symbol(self, market: str, swap: bool = False) -> str:
        for symbol in SYMBOLS:
            if self.id(symbol).lower() == market.lower() and (":" in symbol) == (
                swap or (":" in symbol and bool(self.swap))
            ):
                return symbol
        raise KeyError(market)

    def welcome(self, connection: Socket) -> list[Any]:
        return []

    def hear(self, connection: Socket, text: str) -> list[Any]:
        raise NotImplementedError

    def trades(self, symbol: str, trades: list[Trade]) -> Any:
        raise NotImplementedError

    def single(self, symbol: str, trades: list[Trade]) -> Any:
        """Trades in a stream whose ids are not those of REST."""
        return None

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        raise NotImplementedError

    def mark(self, symbol: str, mark: str) -> Any:
        return None

    def snapshot(self, connection: Socket, symbol: str) -> list[Any]:
        old = self.server.tape[symbol][-self.server.snapshots :] if self.server.snapshots else []
        return [self.trades(symbol, old)] if old else []

    def time(self, path: str) -> Any:
        """The answer if `path` asks for the time."""
        return None

    def markets(self, path: str, query: dict[str, str]) -> Any:
        """The answer if `path` asks for the spot markets."""
        return None

    def ticker(self, path: str, symbol: str, book: dict[str, str]) -> Any:
        """The answer if `path` asks for a ticker; only where a test polls them."""
        return None

    def spot(self) -> list[tuple[str, str, str]]:
        """(id, base, quote) of the spot markets."""
        return [(self.id(symbol), *symbol.split("/")) for symbol in SYMBOLS if ":" not in symbol]  # type: ignore[misc]

    def of(self, path: str, query: dict[str, str]) -> Any:
        """The market id that a REST request is about."""
        raise NotImplementedError

    def answer(self, path: str, query: dict[str, str], body: str) -> Any:
        told = self.time(path)
        if told is None:
            told = self.markets(path, query)
        if told is not None:
            return told
        symbol = self.symbol(*self.of(path, query))
        told = self.ticker(path, symbol, self.server.book[symbol])
        if told is not None:
            return told
        return exchange_server.ANSWERS[self.name](self.server.part(symbol), path, query)

    @property
    def ms(self) -> int:
        return time.time_ns() // MS


class Binance(Venue):
    name = "binance"
    hosts = ("api.binance.com", "fapi.binance.com", "stream.binance.com", "fstream.binance.com")
    swap = ""

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        kinds = {"aggTrade": "trades", "trade": "single", "bookTicker": "quotes", "markPrice": "mark"}
        for name in message["params"]:
            market, kind, *_ = name.split("@")
            symbol = self.symbol(market, connection.request.url.host == "fstream.binance.com")
            connection.subscribe(kinds[kind], symbol)
        return [{"result": None, "id": message["id"]}]

    def trades(self, symbol: str, trades: list[Trade]) -> Any:
        # One trade is one frame there; a list would be an array that its clients do not read.
        t = trades[0]
        return {"e": "aggTrade", "E": self.ms, "s": self.id(symbol), "a": t.id, "p": t.price, "q": t.size, "f": t.id,
                "l": t.id, "T": t.ms, "m": t.side == "sell", "M": True}  # fmt: skip

    def single(self, symbol: str, trades: list[Trade]) -> Any:
        t = trades[0]
        return {"e": "trade", "E": self.ms, "s": self.id(symbol), "t": 10**6 + t.id, "p": t.price, "q": t.size, "T": t.ms,
                "m": t.side == "sell", "M": True}  # fmt: skip

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        return {"u": 1, "s": self.id(symbol), "b": bid, "B": "1", "a": ask, "A": "1"}

    def mark(self, symbol: str, mark: str) -> Any:
        return {
            "e": "markPriceUpdate",
            "E": self.ms,
            "s": self.id(symbol),
            "p": mark,
            "i": mark,
            "P": mark,
            "r": "0",
            "T": 0,
        }

    def markets(self, path: str, query: dict[str, str]) -> Any:
        if not path.endswith("/exchangeInfo"):
            return None
        filters = [{"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "100000", "tickSize": "0.01"},
                   {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "9000", "stepSize": "0.001"}]  # fmt: skip
        rows = [{"symbol": id, "status": "TRADING", "baseAsset": base, "quoteAsset": quote, "baseAssetPrecision": 8,
                 "quotePrecision": 8, "orderTypes": ["LIMIT", "MARKET"], "isSpotTradingAllowed": True, "filters": filters,
                 "permissions": [], "permissionSets": [["SPOT"]]} for id, base, quote in self.spot()]  # fmt: skip
        return {"timezone": "UTC", "serverTime": self.ms, "symbols": rows}

    def ticker(self, path: str, symbol: str, book: dict[str, str]) -> Any:
        if path.endswith("/premiumIndex"):
            return {"symbol": self.id(symbol), "markPrice": book.get("mark"), "time": self.ms}
        if not path.endswith("/ticker/24hr"):
            return None
        return {
            "symbol": self.id(symbol),
            "bidPrice": book.get("bid"),
            "askPrice": book.get("ask"),
            "closeTime": self.ms,
        }

    def time(self, path: str) -> Any:
        return {"serverTime": self.ms} if path.endswith("/time") else None

    def of(self, path: str, query: dict[str, str]) -> Any:
        return query["symbol"], path.startswith("fapi")


class Bybit(Venue):
    name = "bybit"
    hosts = ("api.bybit.com", "stream.bybit.com")
    swap = ""

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        if message["op"] == "ping":
            return [{"success": True, "ret_msg": "pong", "op": "ping", "req_id": message.get("req_id")}]
        kinds = {"publicTrade": "trades", "orderbook": "quotes", "tickers": "mark"}
        for topic in message["args"]:
            parts = topic.split(".")
            connection.subscribe(kinds[parts[0]], self.symbol(parts[-1], "linear" in connection.path))
        return [{"success": True, "ret_msg": "", "op": "subscribe", "conn_id": "1", "req_id": message.get("req_id")}]

    def trades(self, symbol: str, trades: list[Trade], block: bool = False) -> Any:
        rows = [{"i": str(t.id), "T": t.ms, "p": t.price, "v": t.size, "S": t.side.title(), "s": self.id(symbol),
                 "BT": block, "seq": t.id} for t in trades]  # fmt: skip
        return {"topic": f"publicTrade.{self.id(symbol)}", "type": "snapshot", "ts": self.ms, "data": rows}

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        data = {"s": self.id(symbol), "b": [[bid, "1"]], "a": [[ask, "1"]], "u": 1, "seq": 1}
        return {"topic": f"orderbook.1.{self.id(symbol)}", "type": "snapshot", "ts": self.ms, "data": data}

    def mark(self, symbol: str, mark: str) -> Any:
        data = {
            "symbol": self.id(symbol),
            "markPrice": mark,
            "lastPrice": mark,
            "indexPrice": mark,
            "openInterestValue": "1",
        }
        return {"topic": f"tickers.{self.id(symbol)}", "type": "snapshot", "ts": self.ms, "data": data}

    def markets(self, path: str, query: dict[str, str]) -> Any:
        if not path.endswith("instruments-info"):
            return None
        rows = [{"symbol": id, "baseCoin": base, "quoteCoin": quote, "status": "Trading", "marginTrading": "none",
                 "lotSizeFilter": {"basePrecision": "0.001", "quotePrecision": "0.00001", "minOrderQty": "0.001",
                                   "maxOrderQty": "9000", "minOrderAmt": "1", "maxOrderAmt": "100000"},
                 "priceFilter": {"tickSize": "0.01"}} for id, base, quote in self.spot()]  # fmt: skip
        return {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "list": rows}, "time": self.ms}

    def ticker(self, path: str, symbol: str, book: dict[str, str]) -> Any:
        if not path.endswith("market/tickers"):
            return None
        row = {"symbol": self.id(symbol), "bid1Price": book.get("bid", ""), "ask1Price": book.get("ask", "")}
        row |= {"markPrice": book["mark"], "openInterestValue": "1"} if "mark" in book else {}
        return {"retCode": 0, "retMsg": "OK", "result": {"category": "", "list": [row]}, "time": self.ms}

    def time(self, path: str) -> Any:
        return {"retCode": 0, "retMsg": "OK", "result": {}, "time": self.ms} if path.endswith("market/time") else None

    def of(self, path: str, query: dict[str, str]) -> Any:
        return query["symbol"], query["category"] == "linear"


class Okx(Venue):
    name = "okx"
    hosts = ("www.okx.com", "ws.okx.com")
    dash = "-"

    def hear(self, connection: Socket, text: str) -> list[Any]:
        if text == "ping":
            return ["pong"]
        message = json.loads(text)
        kinds = {"trades": "trades", "bbo-tbt": "quotes", "mark-price": "mark"}
        for arg in message["args"]:
            connection.subscribe(kinds[arg["channel"]], self.symbol(arg["instId"]))
        return [{"event": "subscribe", "arg": arg, "connId": "1"} for arg in message["args"]]

    def trades(self, symbol: str, trades: list[Trade], counts: Sequence[int] = ()) -> Any:
        counts = counts or [1] * len(trades)
        rows = [{"instId": self.id(symbol), "tradeId": str(t.id), "px": t.price, "sz": t.size, "side": t.side,
                 "ts": str(t.ms), "count": str(count)} for t, count in zip(trades, counts, strict=True)]  # fmt: skip
        return {"arg": {"channel": "trades", "instId": self.id(symbol)}, "data": rows}

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        data = {"asks": [[ask, "1", "0", "1"]], "bids": [[bid, "1", "0", "1"]], "ts": str(self.ms), "seqId": 1}
        return {"arg": {"channel": "bbo-tbt", "instId": self.id(symbol)}, "data": [data]}

    def mark(self, symbol: str, mark: str) -> Any:
        row = {"instType": "SWAP", "instId": self.id(symbol), "markPx": mark, "ts": str(self.ms)}
        return {"arg": {"channel": "mark-price", "instId": self.id(symbol)}, "data": [row]}

    def markets(self, path: str, query: dict[str, str]) -> Any:
        if not path.endswith("public/instruments"):
            return None
        rows = [{"instId": id, "instType": "SPOT", "baseCcy": base, "quoteCcy": quote, "tickSz": "0.01", "lotSz": "0.001",
                 "minSz": "0.001", "state": "live", "settleCcy": "", "uly": ""} for id, base, quote in self.spot()]  # fmt: skip
        return {"code": "0", "msg": "", "data": rows}

    def time(self, path: str) -> Any:
        return {"code": "0", "msg": "", "data": [{"ts": str(self.ms)}]} if path.endswith("public/time") else None

    def of(self, path: str, query: dict[str, str]) -> Any:
        return (query["instId"],)


class Gate(Venue):
    name = "gate"
    hosts = ("api.gateio.ws", "fx-ws.gateio.ws")
    dash, unit, swap = "_", 100, ""

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        kind, _, channel = message["channel"].partition(".")
        if channel == "ping":
            return [{"time": self.ms // 1000, "channel": f"{kind}.pong", "event": "", "result": None}]
        for market in message["payload"]:
            symbol = self.symbol(market, kind == "futures")
            connection.subscribe({"trades": "trades", "book_ticker": "quotes", "tickers": "mark"}[channel], symbol)
        return [self._frame(message["channel"], "subscribe", {"status": "success"}) | {"id": message["id"]}]

    def _frame(self, channel: str, event: str, result: Any) -> dict[str, Any]:
        return {"time": self.ms // 1000, "time_ms": self.ms, "channel": channel, "event": event, "result": result}

    def trades(self, symbol: str, trades: list[Trade]) -> Any:
        t = trades[0]
        if ":" in symbol:
            row = {"id": t.id, "create_time": t.ms // 1000, "create_time_ms": t.ms, "contract": self.id(symbol),
                   "size": t.size if t.side == "buy" else f"-{t.size}", "price": t.price}  # fmt: skip
            return self._frame("futures.trades", "update", [row])
        row = {"id": t.id, "create_time": t.ms // 1000, "create_time_ms": f"{t.ms}.{t.ts_ns % MS:06d}", "side": t.side,
               "currency_pair": self.id(symbol), "amount": t.size, "price": t.price}  # fmt: skip
        return self._frame("spot.trades", "update", row)

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        row = {"t": self.ms, "u": 1, "s": self.id(symbol), "b": bid, "B": "1", "a": ask, "A": "1"}
        return self._frame("spot.book_ticker", "update", row)

    def mark(self, symbol: str, mark: str) -> Any:
        return self._frame(
            "futures.tickers", "update", [{"s": self.id(symbol), "contract": self.id(symbol), "mark_price": mark}]
        )

    def markets(self, path: str, query: dict[str, str]) -> Any:
        if not path.endswith("/currency_pairs"):
            return None
        rows = [{"id": id, "base": base, "quote": quote, "fee": "0.2", "min_base_amount": "0.001", "amount_precision": 3,
                 "precision": 2, "trade_status": "tradable", "sell_start": 0, "buy_start": 0}
                for id, base, quote in self.spot()]  # fmt: skip
        return rows if "/spot/" in path else []

    def time(self, path: str) -> Any:
        return {"server_time": self.ms} if path.endswith("spot/time") else None

    def of(self, path: str, query: dict[str, str]) -> Any:
        return query.get("currency_pair") or query["contract"], "/futures/" in path


class Bitget(Venue):
    name = "bitget"
    hosts = ("api.bitget.com", "ws.bitget.com")
    swap = ""

    def hear(self, connection: Socket, text: str) -> list[Any]:
        if text == "ping":
            return ["pong"]
        frames: list[Any] = []
        for arg in json.loads(text)["args"]:
            swap = arg["instType"] != "SPOT"
            symbol = self.symbol(arg["instId"], swap)
            if arg["channel"] == "ticker":
                connection.subscribe("mark" if swap else "quotes", symbol)
            else:
                connection.subscribe("trades", symbol)
            frames.append({"event": "subscribe", "arg": arg})
            frames += self.snapshot(connection, symbol) if arg["channel"] == "trade" else []
        return frames

    def _arg(self, symbol: str, channel: str) -> dict[str, str]:
        return {"instType": "USDT-FUTURES" if ":" in symbol else "SPOT", "channel": channel, "instId": self.id(symbol)}

    def trades(self, symbol: str, trades: list[Trade]) -> Any:
        rows = [
            {"ts": str(t.ms), "price": t.price, "size": t.size, "side": t.side, "tradeId": str(t.id)} for t in trades
        ]
        return {"action": "update", "arg": self._arg(symbol, "trade"), "data": rows[::-1], "ts": self.ms}

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        row = {"instId": self.id(symbol), "bidPr": bid, "askPr": ask, "bidSz": "1", "askSz": "1", "ts": str(self.ms)}
        return {"action": "snapshot", "arg": self._arg(symbol, "ticker"), "data": [row], "ts": self.ms}

    def mark(self, symbol: str, mark: str) -> Any:
        row = {"instId": self.id(symbol), "markPrice": mark, "lastPr": mark, "ts": str(self.ms)}
        return {"action": "snapshot", "arg": self._arg(symbol, "ticker"), "data": [row], "ts": self.ms}

    def markets(self, path: str, query: dict[str, str]) -> Any:
        if not path.endswith("public/symbols"):
            return {"code": "00000", "data": []} if path.endswith("margin/currencies") else None
        rows = [{"symbol": id, "baseCoin": base, "quoteCoin": quote, "pricePrecision": "2", "quantityPrecision": "3",
                 "status": "online", "minTradeUSDT": "1", "minTradeAmount": "0.001", "maxTradeAmount": "9000"}
                for id, base, quote in self.spot()]  # fmt: skip
        return {"code": "00000", "msg": "success", "data": rows}

    def time(self, path: str) -> Any:
        if not path.endswith("public/time"):
            return None
        return {"code": "00000", "msg": "success", "data": {"serverTime": str(self.ms)}}

    def of(self, path: str, query: dict[str, str]) -> Any:
        return query["symbol"], "/mix/" in path


class Kucoin(Venue):
    """Its streams have an address of their own that REST hands out, with a token; `tokens` are those that still hold."""

    name = "kucoin"
    hosts = ("api.kucoin.com", "api-futures.kucoin.com", "ws-api-spot.kucoin.com")
    dash, unit, swap = "-", 1, "M"

    def __init__(self, server: LocalExchange):
        super().__init__(server)
        self.tokens: set[str] = set()
        self._numbers = itertools.count(1)
        self.ping_ms = 18_000

    def welcome(self, connection: Socket) -> list[Any]:
        if connection.request.query.get("token") not in self.tokens:
            asyncio.get_running_loop().call_soon(connection.cut)
            return []
        return [{"id": "1", "type": "welcome", "pingInterval": self.ping_ms, "pingTimeout": 10_000}]

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        if message["type"] == "ping":
            return [{"id": message["id"], "type": "pong"}]
        channel, _, markets = message["topic"].partition(":")
        kinds = {"/market/match": "trades", "/spotMarket/level1": "quotes", "/contractMarket/execution": "trades",
                 "/contractMarket/tickerV2": "quotes"}  # fmt: skip
        for market in markets.split(","):
            connection.subscribe(kinds[channel], self.symbol(market))
        return [{"id": message["id"], "type": "ack"}]

    def trades(self, symbol: str, trades: list[Trade]) -> Any:
        t = trades[0]
        data = {"sequence": str(t.id), "symbol": self.id(symbol), "side": t.side, "size": t.size, "price": t.price,
                "tradeId": f"{t.id:024x}", "time": str(t.ts_ns), "type": "match"}  # fmt: skip
        return {
            "type": "message",
            "topic": f"/market/match:{self.id(symbol)}",
            "subject": "trade.l3match",
            "data": data,
        }

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        data = {"asks": [ask, "1"], "bids": [bid, "1"], "timestamp": self.ms}
        return {"type": "message", "topic": f"/spotMarket/level1:{self.id(symbol)}", "subject": "level1", "data": data}

    def markets(self, path: str, query: dict[str, str]) -> Any:
        rows: Any = {"ticker": []} if path.endswith("allTickers") else [] if path.endswith("contracts/active") else None
        if path.endswith("v2/symbols"):
            rows = [{"symbol": id, "baseCurrency": base, "quoteCurrency": quote, "market": quote, "baseMinSize": "0.001",
                     "quoteMinSize": "0.1", "baseMaxSize": "9000", "quoteMaxSize": "100000", "baseIncrement": "0.001",
                     "quoteIncrement": "0.01", "priceIncrement": "0.01", "enableTrading": True, "isMarginEnabled": False}
                    for id, base, quote in self.spot()]  # fmt: skip
        return None if rows is None else {"code": "200000", "data": rows}

    def time(self, path: str) -> Any:
        return {"code": "200000", "data": self.ms} if path.endswith("timestamp") else None

    def answer(self, path: str, query: dict[str, str], body: str) -> Any:
        if path.endswith("bullet-public"):
            token = f"token{next(self._numbers)}"
            self.tokens.add(token)
            address = {"endpoint": "wss://ws-api-spot.kucoin.com/", "protocol": "websocket", "encrypt": True,
                       "pingInterval": self.ping_ms, "pingTimeout": 10_000}  # fmt: skip
            return {"code": "200000", "data": {"token": token, "instanceServers": [address]}}
        return super().answer(path, query, body)

    def of(self, path: str, query: dict[str, str]) -> Any:
        return (query["symbol"],)


class Kraken(Venue):
    name = "kraken"
    hosts = ("api.kraken.com", "ws.kraken.com")
    unit = 1000

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        if message["method"] == "ping":
            return [{"method": "pong", "req_id": message.get("req_id")}]
        asked = message["params"]
        for symbol in asked["symbol"]:
            connection.subscribe({"trade": "trades", "ticker": "quotes"}[asked["channel"]], symbol)
        return [
            {"method": "subscribe", "success": True, "req_id": message["req_id"], "result": {**asked, "symbol": symbol}}
            for symbol in asked["symbol"]
        ]

    def trades(self, symbol: str, trades: list[Trade]) -> Any:
        rows = [{"symbol": symbol, "side": t.side, "price": float(t.price), "qty": float(t.size), "ord_type": "market",
                 "trade_id": t.id, "timestamp": _iso(t.ts_ns)} for t in trades]  # fmt: skip
        return {"channel": "trade", "type": "update", "data": rows}

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        row = {
            "symbol": symbol,
            "bid": float(bid),
            "bid_qty": 1.0,
            "ask": float(ask),
            "ask_qty": 1.0,
            "last": float(bid),
        }
        return {"channel": "ticker", "type": "update", "data": [row]}

    def markets(self, path: str, query: dict[str, str]) -> Any:
        if not path.endswith("/AssetPairs"):
            return None
        rows = {id: {"altname": id, "wsname": f"{base}/{quote}", "base": base, "quote": quote, "pair_decimals": 2,
                     "lot_decimals": 3, "ordermin": "0.001", "costmin": "0.5", "tick_size": "0.01", "status": "online",
                     "leverage_buy": [], "fees": [[0, 0.4]], "fees_maker": [[0, 0.25]]}
                for id, base, quote in self.spot()}  # fmt: skip
        return {"error": [], "result": rows}

    def time(self, path: str) -> Any:
        return {"error": [], "result": {"unixtime": self.ms // 1000}} if path.endswith("/Time") else None

    def of(self, path: str, query: dict[str, str]) -> Any:
        return (query["pair"],)


class Coinbase(Venue):
    name = "coinbase"
    hosts = ("api.coinbase.com", "advanced-trade-ws.coinbase.com")
    dash, unit = "-", 1000

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        channel = message["channel"]
        frames: list[Any] = []
        for market in message["product_ids"]:
            symbol = self.symbol(market)
            connection.subscribe({"market_trades": "trades", "ticker": "quotes"}[channel], symbol)
            if channel == "market_trades":
                frames += self.snapshot(connection, symbol)
        return [self._frame("subscriptions", [{"subscriptions": {channel: message["product_ids"]}}]), *frames]

    def _frame(self, channel: str, events: list[Any]) -> dict[str, Any]:
        stamp = _iso(time.time_ns())
        return {"channel": channel, "client_id": "", "timestamp": stamp, "sequence_num": 0, "events": events}

    def trades(self, symbol: str, trades: list[Trade]) -> Any:
        rows = [{"trade_id": str(t.id), "product_id": self.id(symbol), "price": t.price, "size": t.size,
                 "side": t.side.upper(), "time": _iso(t.ts_ns)} for t in trades]  # fmt: skip
        return self._frame("market_trades", [{"type": "update", "trades": rows[::-1]}])

    def quote(self, symbol: str, bid: str, ask: str) -> Any:
        row = {"type": "ticker", "product_id": self.id(symbol), "price": bid, "best_bid": bid, "best_ask": ask,
               "best_bid_quantity": "1", "best_ask_quantity": "1"}  # fmt: skip
        return self._frame("ticker", [{"type": "update", "tickers": [row]}])

    def markets(self, path: str, query: dict[str, str]) -> Any:
        if not path.endswith("market/products"):
            return None
        rows = [{"product_id": id, "base_currency_id": base, "quote_currency_id": quote, "product_type": "SPOT",
                 "base_increment": "0.001", "quote_increment": "0.01", "price_increment": "0.01", "base_min_size": "0.001",
                 "base_max_size": "9000", "quote_min_size": "1", "quote_max_size": "100000", "trading_disabled": False}
                for id, base, quote in self.spot()]  # fmt: skip
        return {"products": [] if query.get("product_type") == "FUTURE" else rows}

    def time(self, path: str) -> Any:
        if not path.endswith("v2/time"):
            return None
        return {"data": {"iso": _iso(time.time_ns()), "epoch": self.ms // 1000}}

    def of(self, path: str, query: dict[str, str]) -> Any:
        return (path.split("/products/")[1].split("/")[0],)


VENUES: dict[str, type[Venue]] = {
    venue.name: venue for venue in (Binance, Bybit, Okx, Gate, Bitget, Kucoin, Kraken, Coinbase)
}
HOSTS = tuple(host for venue in VENUES.values() for host in venue.hosts)


# ----------------------------------------------------------------------------------------------------- TLS and clients


@cache
def _certificates() -> tuple[Path, Path, Path]:
    """Files of a throw-away authority, a certificate of all `HOSTS` and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = datetime.datetime.now(datetime.UTC)

    def certificate(name: str, key: Any, issuer: Any, issuer_key: Any, *extensions: Any) -> Any:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer or subject)
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(
            now + datetime.timedelta(days=2)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(issuer_key, hashes.SHA256())

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    names = [x509.DNSName(host) for host in HOSTS] + [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    own_id = x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key())
    authority = certificate(
        "tests", authority_key, None, authority_key, x509.BasicConstraints(True, None), usage, own_id
    )
    leaf = certificate(
        "local exchange", key, authority.subject, authority_key, x509.SubjectAlternativeName(names),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
    )  # fmt: skip
    folder = Path(tempfile.mkdtemp(prefix="local-exchange-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    pem = serialization.Encoding.PEM
    paths = folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(authority.public_bytes(pem))
    paths[1].write_bytes(leaf.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths[2].write_bytes(key.private_bytes(pem, *plain))
    return paths


@cache
def _server_side() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _, certificate, key = _certificates()
    context.load_cert_chain(certificate, key)
    return context


def session(server: LocalExchange) -> Any:
    """An aiohttp session for which every name of `HOSTS` is `server`, and no other name exists."""
    import aiohttp
    from aiohttp.abc import AbstractResolver

    class Resolver(AbstractResolver):
        async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[Any]:
            if host not in HOSTS:
                raise OSError(f"{host} is not an exchange of the tests")
            return [{"hostname": host, "host": "127.0.0.1", "port": server.port, "family": socket.AF_INET, "proto": 0,
                     "flags": socket.AI_NUMERICHOST}]  # fmt: skip

        async def close(self) -> None:
            pass

    context = ssl.create_default_context(cafile=str(_certificates()[0]))
    connector = aiohttp.TCPConnector(resolver=Resolver(), ssl=context, use_dns_cache=False, force_close=True)
    return aiohttp.ClientSession(connector=connector)


def client(exchange: str, server: LocalExchange, *, load: bool = False, **config: Any) -> Any:
    """The real ccxt.pro client of `exchange`, talking to `server`. Close it with `closed`.

    It has the markets of `SYMBOLS`; with `load` it asks the server for them, spot only.
    """
    import ccxt.pro

    made = getattr(ccxt.pro, exchange)(
        {"session": session(server), "enableRateLimit": False, "timeout": 3000, **config}
    )
    made.timeout_on_exit = 0
    made.session_of_tests = made.session
    venue = VENUES[exchange]
    if load:
        made.has["fetchCurrencies"] = False
        if exchange != "coinbase":
            made.options["fetchMarkets"] = (made.options.get("fetchMarkets") or {}) | {"types": ["spot"]}
        return made
    made.set_markets([market(venue, symbol) for symbol in SYMBOLS if not (exchange == "kraken" and ":" in symbol)])
    return made


async def closed(made: Any) -> None:
    """Close a client and its session."""
    await made.close()
    await made.session_of_tests.close()


def market(venue: type[Venue], symbol: str) -> dict[str, Any]:
    """One entry of ccxt's markets."""
    base, quote = symbol.partition(":")[0].split("/")
    swap = ":" in symbol
    name = venue.id(venue(None), symbol)  # type: ignore[arg-type]
    return {
        "id": name, "lowercaseId": name.lower(), "symbol": symbol, "base": base, "quote": quote, "baseId": base,
        "quoteId": quote, "type": "swap" if swap else "spot", "spot": not swap, "swap": swap, "contract": swap,
        "linear": swap or None, "inverse": False if swap else None, "margin": False, "future": False, "option": False,
        "settle": quote if swap else None, "settleId": quote.lower() if swap else None,
        "contractSize": 0.1 if swap and venue.name in ("okx", "gate", "kucoin") else 1.0 if swap else None, "active": True,
        "precision": {"price": 0.01, "amount": 0.001}, "limits": {}, "info": {},
    }  # fmt: skip
