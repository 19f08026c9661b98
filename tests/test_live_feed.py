"""The live feed against real ccxt.pro clients of eight exchanges, on a server that breaks in every way it can."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from exchange_server import MS, Trade
from local_exchange import SYMBOLS, VENUES, LocalExchange, Socket, client, closed
from session_process import QUICK

from smartorders_lab.errors import DataError, ExchangeError
from smartorders_lab.feeds import live
from smartorders_lab.feeds.live import LiveFeed
from smartorders_lab.messages import Block, Notice

pytest.importorskip("ccxt")
SOL, ETH, SWAP = SYMBOLS


def run(job: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    asyncio.run(job(*args))


class Reader:
    """Takes everything out of a feed; a trade is recognised by its size, which the server makes from its id."""

    def __init__(self, feed: LiveFeed):
        self.feed, self.blocks, self.notices = feed, [], []
        self.task = asyncio.create_task(self._read())
        self.blocks: list[Block]
        self.notices: list[Notice]

    async def _read(self) -> None:
        while (message := await self.feed.next()) is not None:
            (self.notices if isinstance(message, Notice) else self.blocks).append(message)  # type: ignore[arg-type]

    def rows(self, symbol: str = SOL) -> list[tuple[int, int, int]]:
        """(id, ts, price units) of every trade that came out."""
        found = []
        for block in self.blocks:
            assert block.size is not None
            if block.symbol == symbol:
                found += [
                    (round(size * 1000), ts, price)
                    for ts, price, size in zip(
                        block.ts.tolist(), block.price.tolist(), block.size.tolist(), strict=True
                    )
                    if size
                ]
        return found

    def ids(self, symbol: str = SOL) -> list[int]:
        return [row[0] for row in self.rows(symbol)]

    def said(self, what: str) -> list[str]:
        return [notice.text for notice in self.notices if notice.what == what]

    async def has(self, trades: list[Trade], symbol: str = SOL) -> None:
        """Wait for as many trades as these."""
        await until(lambda: len(self.ids(symbol)) >= len(trades))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def serving(venue: str) -> AsyncIterator[LocalExchange]:
    async with LocalExchange([venue]) as server:
        if venue == "kucoin":
            server.venues[venue].ping_ms = 200  # type: ignore[attr-defined]
        yield server


@contextlib.asynccontextmanager
async def feeding(server: LocalExchange, **how: Any) -> AsyncIterator[tuple[LiveFeed, Reader]]:
    """A feed of the server's exchange, not started yet; `config` goes to the client."""
    (venue,) = server.venues
    made = client(venue, server, **how.pop("config", {}))
    feed = LiveFeed(venue, client=made, **QUICK | how)
    reader = None
    try:
        await feed.open()
        reader = Reader(feed)
        yield feed, reader
    finally:
        await feed.close()
        await closed(made)
        if reader is not None:
            await reader.task


async def connected(server: LocalExchange, reader: Reader, symbol: str = SOL) -> list[Trade]:
    """Subscribed, and past the looks of the beginning."""
    await server.subscribed(symbol=symbol)
    trades: list[Trade] = []
    line = reader.feed._lines[symbol]
    while line.streams["trades"].first or len(trades) < 2:
        trades += server.publish(1, symbol)
        await reader.has(trades, symbol)
        await until(lambda: not line.open and line.live)
    return trades


def exact(reader: Reader, trades: list[Trade], unit: int) -> None:
    """The same trades in the same order, to the ns that the venue publishes and to the increment."""
    expected = [(t.id, t.ts_ns // unit * unit, int(Decimal(t.price) * 100)) for t in trades]
    assert reader.rows() == expected


# ---------------------------------------------------------------------------------------------------------- the storm


@pytest.mark.parametrize("venue", VENUES)
def test_every_trade_once_and_in_order_through_a_storm(venue: str) -> None:
    async def storm() -> None:
        async with serving(venue) as server:
            server.publish(5)  # before the feed: history
            async with feeding(server, stale_after="900ms") as (feed, reader):
                await feed.start(SOL)
                trades = server.publish(2)  # before the subscription
                await server.subscribed()
                trades += server.publish(3)
                for again in trades[-2:]:
                    server.send([again])
                await reader.has(trades)
                server.drop()
                trades += server.publish(4)
                await server.subscribed()
                trades += server.publish(2)
                await server.hang_up()
                trades += server.publish(3)
                await server.subscribed()
                server.say('{"half a frame')
                server.say('{"e": [], "topic": 7, "arg": 1, "channel": {}, "events": 3, "data": 5, "type": []}')
                server.send([trades[0]])
                trades += server.publish(2)
                await reader.has(trades)
                before = server.connected[venue]
                server.silent = True
                trades += server.publish(3)
                await until(lambda: server.connected[venue] > before)  # the silence was noticed
                server.silent = False
                trades += server.publish(1)
                await reader.has(trades)
                await server.down()
                late = [server.trade() for _ in range(3)]
                server.add(late)
                trades += late
                await server.up()
                await server.subscribed()
                trades += server.publish(3)
                await reader.has(trades)
                exact(reader, trades, server.venues[venue].unit)
                assert feed.counts(SOL)["repeated"] > 0

    run(storm)


@pytest.mark.parametrize("venue", VENUES)
def test_polling_takes_every_trade_too(venue: str) -> None:
    async def poll() -> None:
        async with serving(venue) as server:
            server.publish(5)
            async with feeding(server, polling=True) as (feed, reader):
                await feed.start(SOL)
                trades = server.publish(3)
                await reader.has(trades)
                server.refuse = 503
                trades += server.publish(2)
                asked = len(server.log)
                await until(lambda: len(server.log) > asked + 3)
                server.refuse = 0
                trades += server.publish(20)
                await reader.has(trades)
                exact(reader, trades, server.venues[venue].unit)
                assert not server.connected

    run(poll)


@pytest.mark.parametrize("venue", VENUES)
def test_a_new_process_goes_on_from_every_block(venue: str) -> None:
    async def resume() -> None:
        async with serving(venue) as server:
            server.publish(5)
            async with feeding(server) as (feed, reader):
                await feed.start(SOL)
                trades = await connected(server, reader)
                for _ in range(2):
                    trades += server.publish(3)
                    await reader.has(trades)
                server.drop()
                trades += server.publish(2)
                await reader.has(trades)
            blocks = reader.blocks
            trades += server.publish(4)  # while nobody is there
            for n in {1, len(blocks) // 2, len(blocks)}:
                done = [round(size * 1000) for block in blocks[:n] for size in block.size.tolist()]  # type: ignore[union-attr]
                async with feeding(server) as (feed, reader):
                    await feed.start(SOL, token=blocks[n - 1].token)
                    await reader.has(trades[len(done) :])
                    await server.subscribed()
                    trades += server.publish(1)
                    await reader.has(trades[len(done) :])
                assert done + reader.ids() == [trade.id for trade in trades]
                assert reader.blocks[0].ts[0] >= blocks[n - 1].ts[-1]

    run(resume)


# --------------------------------------------------------------------------------------------------- one test per trap


def test_a_trade_is_not_kept_back_until_the_next_one() -> None:
    """ccxt hands a trade that came while nobody waited out with the next one: the feed waits all the time."""

    async def burst() -> None:
        async with serving("kraken") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            feed._lines[SOL].counted, feed._lines[SOL].audit_at = False, 1e18
            before = feed.counts(SOL)["backfilled"]
            for _ in range(20):
                trades += server.publish(1)
                async with asyncio.timeout(30):
                    while len(reader.ids()) < len(trades):
                        await asyncio.sleep(0)  # the next one comes right behind it
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert feed.counts(SOL)["backfilled"] == before

    run(burst)


def test_more_trades_at_once_than_ccxt_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "CACHE", 10)

    async def flood() -> None:
        async with serving("bybit") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            feed._lines[SOL].audit_at = 1e18
            many = [server.trade() for _ in range(31)]
            server.add(many)
            server.send(many)
            await reader.has(trades + many)
            assert reader.ids() == [trade.id for trade in trades + many]

    run(flood)


def test_doubled_and_reordered_trades() -> None:
    """Bybit's ids say nothing of what is missing: what comes late is delivered late, once, at the time of the row before."""

    async def shuffle() -> None:
        async with serving("bybit") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            await connected(server, reader)
            feed._lines[SOL].audit_at = 1e18
            a = server.trade()
            b, c = (_later(server.trade(), a, ms) for ms in (5, 9))
            server.add([a, b, c])
            for sent in ([c], [a, c], [b, a]):
                for trade in sent:
                    server.send([trade])
                await until(lambda sent=sent: sent[0].id in reader.ids())  # type: ignore[misc]
            assert reader.ids()[-3:] == [c.id, a.id, b.id]
            assert [row[1] // MS for row in reader.rows()][-3:] == [c.ms] * 3
            assert feed.counts(SOL)["clamped"] == 2
            assert feed.counts(SOL)["repeated"] >= 2

    run(shuffle)


def _later(trade: Trade, other: Trade, ms: int) -> Trade:
    return Trade(trade.id, other.ts_ns + ms * MS, trade.price, trade.size, trade.side)


def test_a_hole_in_ids_is_filled_before_what_follows_it() -> None:
    async def hole() -> None:
        async with serving("coinbase") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            feed._lines[SOL].audit_at = 1e18
            lost = [server.trade() for _ in range(3)]
            server.add(lost)
            trades += lost + server.publish(1)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert feed._lines[SOL].counted

    run(hole)


def test_ids_that_do_not_count_up_are_not_asked_after_for_ever() -> None:
    async def jumps() -> None:
        async with serving("kraken") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            for _ in range(5):
                server.trade()  # a number that no trade gets
                trades += server.publish(1)
                await reader.has(trades)
                await until(lambda: not feed._lines[SOL].open)
            assert not feed._lines[SOL].counted
            assert reader.ids() == [trade.id for trade in trades]

    run(jumps)


@pytest.mark.parametrize("venue", ["bitget", "coinbase"])
def test_a_replayed_snapshot_is_no_news(venue: str) -> None:
    async def replay() -> None:
        async with serving(venue) as server:
            server.add([server.trade(ago_ms=600_000) for _ in range(3)])
            server.snapshots = 50
            async with feeding(server) as (feed, reader):
                await feed.start(SOL)
                trades = await connected(server, reader)
                before = feed.counts(SOL)["repeated"]
                server.drop()
                await server.subscribed()
                trades += server.publish(1)
                await reader.has(trades)
                assert reader.ids() == [trade.id for trade in trades]
                assert feed.counts(SOL)["repeated"] > before
                token = reader.blocks[-1].token
            async with feeding(server) as (feed, reader):  # a new process does not remember them
                await feed.start(SOL, token=token)
                await server.subscribed()
                trades = server.publish(1)
                await reader.has(trades)
                assert reader.ids() == [trade.id for trade in trades]

    run(replay)


def test_a_snapshot_is_no_news_without_rest_either() -> None:
    async def replay() -> None:
        async with serving("bitget") as server:
            server.add([server.trade(ago_ms=600_000) for _ in range(3)])
            async with feeding(server, late_after="50ms") as (feed, reader):
                server.refuse = 503
                await feed.start(SOL)
                await server.subscribed()
                trades = server.publish(2)
                await reader.has(trades)
                assert reader.ids() == [trade.id for trade in trades]

    run(replay)


@pytest.mark.parametrize("pinging", [True, False])
def test_a_silent_peer_is_given_up(pinging: bool) -> None:
    """Binance's client would wait for minutes, and for ever once its pings have ended, as they do after some errors."""

    async def silence() -> None:
        async with serving("binance") as server, feeding(server, stale_after="600ms") as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            for made in feed.client.clients.values():
                assert made.keepAlive == 200
                if not pinging:
                    made.ping_looper.cancel()
            server.silent = True
            await until(lambda: server.connected["binance"] > 1)
            server.silent = False
            trades += server.publish(2)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]

    run(silence)


def test_a_quiet_market_is_not_stale() -> None:
    async def quiet() -> None:
        async with serving("gate") as server, feeding(server, stale_after="4s") as (feed, reader):
            await feed.start(SOL)
            await connected(server, reader)
            looks = len(server.log)
            await asyncio.sleep(5)
            assert len(server.log) > looks
            assert not reader.said("stale")
            assert server.connected["gate"] == 1

    run(quiet)


@pytest.mark.parametrize("text", ['{"half', '{"arg": {"channel": "trades"}, "data": [{"px": {}}]}', "[1]", '"x"', ""])
def test_a_frame_that_cannot_be_read_costs_nothing(text: str) -> None:
    async def poison() -> None:
        async with serving("okx") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            server.say(text)
            trades += server.publish(3)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert server.connected["okx"] == 1
            if text.startswith("{"):
                assert any("cannot be read" in said for said in reader.said("dropped"))

    run(poison)


def test_a_subscription_that_died_is_found_and_made_anew() -> None:
    """The socket answers pings, the venue has forgotten what it was asked for."""

    async def forgotten() -> None:
        async with serving("bybit") as server, feeding(server, stale_after="6s") as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            for connection in server.sockets:
                connection.topics.clear()
            trades += server.publish(2)
            await until(lambda: server.connected["bybit"] > 1)
            await server.subscribed()
            trades += server.publish(2)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert any("did not come over the socket" in said for said in reader.said("error"))

    run(forgotten)


def test_futures_that_ccxt_cancels_do_not_end_the_feed() -> None:
    async def cancelled() -> None:
        async with serving("gate") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            for made in list(feed.client.clients.values()):
                await made.close()
            await until(lambda: server.connected["gate"] > 1)
            await server.subscribed()
            trades += server.publish(2)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]

    run(cancelled)


def test_an_address_that_has_expired_is_asked_for_anew() -> None:
    async def expired() -> None:
        async with serving("kucoin") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            server.venues["kucoin"].tokens.clear()  # type: ignore[attr-defined]
            server.drop()
            await server.subscribed()
            trades += server.publish(2)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]

    run(expired)


def test_binance_streams_what_its_rest_serves() -> None:
    async def topics() -> None:
        async with serving("binance") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            server.drop()
            trades += server.publish(2)
            await server.subscribed()
            assert all("single" not in {what for what, _ in socket.topics} for socket in server.sockets)
            assert reader.ids() == [trade.id for trade in trades][: len(reader.ids())]

    run(topics)


def test_aggregates_of_okx_stand_for_the_trades_that_rest_serves() -> None:
    async def aggregates() -> None:
        async with serving("okx") as server:
            async with feeding(server) as (feed, reader):
                await feed.start(SOL)
                await connected(server, reader)
                parts = [server.trade() for _ in range(3)]
                server.add(parts)
                whole = Trade(parts[-1].id, parts[-1].ts_ns, parts[-1].price, "9.000", "buy")
                for connection in server.sockets:
                    connection.send(server.venues["okx"].trades(SOL, [whole], [3]), ("trades", SOL))  # type: ignore[call-arg]
                await until(lambda: 9000 in reader.ids())
                server.drop()
                await server.subscribed()
                await reader.has([*parts, *server.publish(1)])
                assert not {part.id for part in parts} & set(reader.ids())
                token = reader.blocks[-1].token
            async with feeding(server) as (feed, reader):
                await feed.start(SOL, token=token)
                await reader.has(server.publish(1))
                assert not {part.id for part in parts} & set(reader.ids())

    run(aggregates)


def test_block_trades_of_bybit_are_none() -> None:
    async def blocks() -> None:
        async with serving("bybit") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            block = server.trade(price=1.0)
            for connection in server.sockets:
                connection.send(server.venues["bybit"].trades(SOL, [block], True), ("trades", SOL))  # type: ignore[call-arg]
            trades += server.publish(1)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert feed.counts(SOL)["block trades"] == 1

    run(blocks)


def test_rest_is_asked_no_faster_than_the_exchange_allows() -> None:
    async def slow() -> None:
        config = {"enableRateLimit": True, "rateLimit": 50}  # 60 ms for trades of Kraken
        async with (
            serving("kraken") as server,
            feeding(server, polling=True, poll_interval="1ms", config=config) as (feed, _),
        ):
            began = time.monotonic()
            await feed.start(SOL)
            asked = len(server.log)
            await until(lambda: len(server.log) >= asked + 5)
            assert len(server.log) - asked <= (time.monotonic() - began) / 0.06 + 2

    run(slow)


# ------------------------------------------------------------------------------------------------- what is never clean


def test_bad_ticks_are_dropped_and_counted() -> None:
    async def bad() -> None:
        async with serving("okx") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            good = server.trade()
            for price, size in (
                ("0", "1"),
                ("-1", "1"),
                ("NaN", "1"),
                ("inf", "1"),
                ("x", "1"),
                ("150", "-1"),
                ("150", "x"),
            ):
                server.send([Trade(good.id + 10_000 + len(server.log), good.ts_ns, price, size, "buy")])
                server.send([Trade(next(server._ids) + 20_000, good.ts_ns, price, size, "buy")])
            ahead = Trade(9, good.ts_ns + 3_600_000 * MS, "150", "0.009", "buy")  # it would hold the clock for an hour
            server.send([ahead])
            for _ in range(2):
                trades += server.publish(1)
                await reader.has(trades)
                await until(lambda: not feed._lines[SOL].open)
            assert reader.ids() == [trade.id for trade in trades]
            assert feed.counts(SOL)["dropped"] >= 8
            assert (
                sum(notice.count for notice in reader.notices if notice.what == "dropped")
                == feed.counts(SOL)["dropped"]
            )

    run(bad)


@pytest.mark.parametrize("price", [None, float("nan"), float("inf"), 0.0, -1.0, "150", 1e30])
def test_no_bad_price_is_ever_a_trade(price: Any) -> None:
    async def read() -> None:
        async with serving("gate") as server, feeding(server) as (feed, _):
            await feed.start(SOL)
            raw = {"id": "1", "price": price, "amount": 1.0, "timestamp": time.time_ns() // MS, "info": {}}
            line = feed._lines[SOL]
            assert line.read(raw) is None
            assert line.read(raw | {"price": 150.0}) is not None
            for amount in (None, float("nan"), float("inf"), -1.0, "1"):
                assert line.read(raw | {"price": 150.0, "amount": amount}) is None
            for key in ("id", "timestamp"):
                assert line.read(raw | {"price": 150.0, key: None}) is None
            assert line.read(None) is None

    run(read)


def test_prices_are_exact_and_a_new_increment_is_said() -> None:
    async def units() -> None:
        async with serving("gate") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            prices = [0.29, 0.57, 1.15, 4.35, 8.2, 1_000_000.07]
            trades += server.publish([server.trade(price=price) for price in prices])
            off = server.trade()
            trades += server.publish([Trade(off.id, off.ts_ns, "150.004", off.size, "buy")])
            await reader.has(trades)
            assert [row[2] for row in reader.rows()][-7:] == [29, 57, 115, 435, 820, 100_000_007, 15_000]
            assert [said for said in reader.said("error") if "150.004" in said]

    run(units)


@pytest.mark.parametrize("venue", ["kucoin", "bybit"])
def test_what_the_exchange_no_longer_serves_is_said(venue: str) -> None:
    async def gap() -> None:
        async with serving(venue) as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            await server.down()
            missed = [server.trade() for _ in range(150)]
            server.add(missed)
            await server.up()
            await server.subscribed()
            served = 100 if venue == "kucoin" else 60
            last = server.publish(1)
            await until(lambda: last[0].id in reader.ids())
            assert reader.said("gap")
            assert all("are missing" in said for said in reader.said("gap"))
            got = reader.ids()[len(trades) :]
            assert got == sorted(got)
            assert got[-served + 2 :] == [trade.id for trade in missed + last][-served + 2 :]

    run(gap)


def test_a_burst_while_rest_answers_is_no_gap() -> None:
    async def burst() -> None:
        async with serving("bybit") as server, feeding(server, stale_after="400ms") as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            fetch = feed.client.fetch_trades
            asked: list[int] = []

            async def slow(*args: Any) -> Any:
                if not asked:
                    asked.append(1)
                    trades.extend(server.publish(70))  # more than it serves
                    await until(lambda: len(reader.ids()) >= len(trades))
                return await fetch(*args)

            feed.client.fetch_trades = slow
            await until(lambda: asked)
            looks = len(server.log)
            await until(lambda: len(server.log) > looks + 1)
            assert not reader.said("gap")
            assert reader.ids() == [trade.id for trade in trades]

    run(burst)


@pytest.mark.parametrize("venue", [venue for venue in VENUES if venue not in ("kucoin", "bybit")])
def test_a_long_outage_is_fetched_page_by_page(venue: str) -> None:
    async def long() -> None:
        async with serving(venue) as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            await server.down()
            apart = 5 if venue == "coinbase" else 0  # it serves no more than a page of one second
            missed = [server.trade(ago_ms=-apart * n) for n in range(2300)]
            server.add(missed)
            await server.up()
            trades += missed
            await reader.has(trades)
            await server.subscribed()
            trades += server.publish(1)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert not reader.said("gap")

    run(long)


def test_trades_do_not_wait_for_ever_for_those_before_them() -> None:
    """REST is down for longer than `late_after`: what is new goes out, what was missed follows when it can."""

    async def lapse() -> None:
        async with serving("bybit") as server, feeding(server, late_after="200ms") as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            server.refuse = '{"retCode": 10016, "retMsg": "Internal error"}'
            server.drop()
            lost = [server.trade() for _ in range(2)]
            server.add(lost)
            await server.subscribed()
            fresh = server.publish(2)
            await until(lambda: fresh[-1].id in reader.ids())
            assert not {trade.id for trade in lost} & set(reader.ids())
            token = reader.blocks[-1].token
            server.refuse = 0
            await reader.has(trades + lost + fresh)
            assert sorted(reader.ids()) == sorted(trade.id for trade in trades + lost + fresh)
            assert feed.counts(SOL)["clamped"] == 2
            stamps = np.concatenate([block.ts for block in reader.blocks])
            assert (np.diff(stamps) >= 0).all()
            # A process that ended while they were missing fetches them, and only them.
            async with feeding(server) as (again, second):
                await again.start(SOL, token=token)
                await second.has(lost)
                more = server.publish(1)
                await second.has(lost + more)
                assert second.ids() == [trade.id for trade in lost + more]

    run(lapse)


def test_a_token_does_not_pass_what_is_still_to_be_read() -> None:
    """What was missed lies behind newer trades in the queue: who goes on from the newer ones has to get it."""

    async def behind() -> None:
        async with serving("bybit") as server, feeding(server, late_after="200ms") as (feed, reader):
            await feed.start(SOL)
            await connected(server, reader)
            line = feed._lines[SOL]
            reader.task.cancel()
            await asyncio.gather(reader.task, return_exceptions=True)
            reader.task = asyncio.create_task(asyncio.sleep(0))
            server.refuse = '{"retCode": 10016, "retMsg": "Internal error"}'
            server.drop()
            lost = [server.trade() for _ in range(2)]
            server.add(lost)
            await server.subscribed()
            fresh = server.publish([server.trade(ago_ms=-5_000) for _ in range(2)])  # far enough behind to matter
            await until(lambda: len(line.queued) == 2)
            feed.put(Notice(SOL, "dropped", "between two blocks"))
            server.refuse = 0
            await until(lambda: len(line.queued) == 4 and not line.open)
            messages = [await feed.next() for _ in range(len(feed._out)) if feed._out]
            blocks = [message for message in messages if isinstance(message, Block)]
            assert [block.size.tolist() for block in blocks] == [[t.id / 1000 for t in some] for some in (fresh, lost)]  # type: ignore[union-attr]
            after: list[Trade] = []
            for block, missing in zip(blocks, (lost, []), strict=True):
                async with feeding(server) as (again, second):
                    await again.start(SOL, token=block.token)
                    await server.subscribed(2)
                    more = server.publish(1)
                    expected = missing + after + more
                    await second.has(expected)
                    assert second.ids() == [trade.id for trade in expected]
                after += more

    run(behind)


def test_old_trades_are_late_and_new_ones_are_not() -> None:
    async def late() -> None:
        async with serving("bybit") as server:
            server.add([server.trade(ago_ms=60_000)])
            async with feeding(server) as (feed, reader):
                await feed.start(SOL)
                await server.subscribed()
                trades = server.publish([server.trade(ago_ms=40_000 - n) for n in range(3)]) + server.publish(2)
                await reader.has(trades)
                assert reader.ids() == [trade.id for trade in trades]
                assert [block.late for block in reader.blocks for _ in block.ts] == [True] * 3 + [False] * 2

    run(late)


@pytest.mark.parametrize("quiet", [False, True])
def test_trades_between_connection_and_subscription(quiet: bool) -> None:
    """The venue confirms before it streams: what happens in between comes before the first trade, or soon without one."""

    async def between() -> None:
        async with (
            serving("bybit") as server,
            feeding(server, stale_after="800ms" if quiet else "60s") as (feed, reader),
        ):
            await feed.start(SOL)
            trades = await connected(server, reader)
            subscribe, waiting = Socket.subscribe, []
            Socket.subscribe = lambda *args: waiting.append(args)  # type: ignore[method-assign]
            try:
                server.drop()
                await until(lambda: waiting and not feed._lines[SOL].down and not feed._lines[SOL].open)
            finally:
                Socket.subscribe = subscribe  # type: ignore[method-assign]
            trades += server.publish(2)
            subscribe(*waiting[-1])
            if not quiet:
                trades += server.publish(1)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert not feed.counts(SOL)["clamped"]

    run(between)


def test_stale_and_live_again() -> None:
    async def stale() -> None:
        async with serving("kraken") as server, feeding(server, stale_after="1s") as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            assert [notice.what for notice in reader.notices] == ["live"]
            await server.down()
            await until(lambda: reader.said("stale"))
            await server.up()
            await until(lambda: len(reader.said("live")) == 2)
            assert [n.what for n in reader.notices if n.what in ("live", "stale")] == ["live", "stale", "live"]
            await server.subscribed()
            trades += server.publish(1)
            await reader.has(trades)

    run(stale)


@pytest.mark.parametrize("stale_after", ["2500ms", "60s"])
def test_rest_stands_in_while_there_is_no_stream(stale_after: str) -> None:
    async def alone() -> None:
        async with serving("kraken") as server, feeding(server, stale_after=stale_after) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)

            async def refused(*_: Any) -> None:
                raise ConnectionError("no stream today")

            watch, feed.client.watch_trades = feed.client.watch_trades, refused
            server.drop()
            for _ in range(3):
                trades += server.publish(2)
                await reader.has(trades)
                await asyncio.sleep(1)
            feed.client.watch_trades = watch
            await server.subscribed()
            trades += server.publish(2)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert not reader.said("stale")

    run(alone)


def test_nothing_dies_without_a_word() -> None:
    """Every task of the feed meets an exception that nobody foresaw."""

    async def bugs() -> None:
        async with serving("binance") as server, feeding(server, stale_after="400ms") as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            originals = {name: getattr(feed.client, name) for name in ("watch_trades", "fetch_trades")}
            raised: list[str] = []

            def broken(name: str) -> Callable[..., Awaitable[Any]]:
                async def call(*args: Any) -> Any:
                    if raised.count(name) < 2:
                        raised.append(name)
                        raise KeyError(f"a bug in {name}")
                    return await originals[name](*args)

                return call

            for name in originals:
                setattr(feed.client, name, broken(name))
            server.drop()
            trades += server.publish(2)
            await until(lambda: raised.count("watch_trades") == raised.count("fetch_trades") == 2)
            feed._lines[SOL].lapse = lambda: {}["a bug in lapse"]  # type: ignore[assignment, misc]
            await until(lambda: any("a bug in lapse" in said for said in reader.said("error")))
            del feed._lines[SOL].lapse
            await server.subscribed()
            trades += server.publish(2)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert len([said for said in reader.said("error") if "a bug in" in said]) == 3

    run(bugs)


# ------------------------------------------------------------------------------------------------------ quotes and mark


@pytest.mark.parametrize("venue", VENUES)
def test_bid_and_ask_stand_beside_each_trade(venue: str) -> None:
    async def quotes() -> None:
        async with serving(venue) as server, feeding(server) as (feed, reader):
            await feed.start(SOL, frozenset({"bid", "ask"}))
            await server.subscribed()
            await server.subscribed(what="quotes")
            trades = server.publish([server.trade(price=149.5), server.trade(price=150.0)])
            await until(lambda: len(feed._lines[SOL].waiting) == 2)
            assert not reader.blocks  # not before both are known
            server.quote("149.99", "150.01")
            await reader.has(trades)
            server.quote("149.98", "150.01")
            await until(lambda: sum(len(block.ts) for block in reader.blocks) >= 3)
            trades += server.publish([server.trade(price=150.5)])
            await reader.has(trades)
            rows = [row for block in reader.blocks for row in _columns(block)]
            first, second, third = (trade.id for trade in trades)
            assert rows[:2] == [(14950, 14999, 15001, first), (15000, 14999, 15001, second)]
            assert (15000, 14998, 15001, 0) in rows
            assert rows[-1] == (15050, 14998, 15001, third)
            assert all((np.diff(np.concatenate([block.ts for block in reader.blocks])) >= 0).tolist())
            assert all(block.mark is None for block in reader.blocks)

    run(quotes)


def _columns(block: Block) -> list[tuple[int, ...]]:
    assert block.bid is not None
    assert block.ask is not None
    assert block.size is not None
    sizes = np.rint(block.size * 1000).astype(int)
    return list(zip(block.price.tolist(), block.bid.tolist(), block.ask.tolist(), sizes.tolist(), strict=True))


@pytest.mark.parametrize("venue", ["binance", "bybit", "okx", "gate", "bitget"])
def test_the_mark_price_of_a_swap(venue: str) -> None:
    async def mark() -> None:
        async with serving(venue) as server, feeding(server) as (feed, reader):
            await feed.start(SWAP, frozenset({"mark"}))
            await server.subscribed(symbol=SWAP)
            await server.subscribed(what="mark", symbol=SWAP)
            trades = server.publish(1, SWAP)
            server.quote("", "", SWAP, mark="149.50")
            await until(lambda: reader.blocks)
            server.quote("", "", SWAP, mark="149.25")
            await until(lambda: sum(len(block.ts) for block in reader.blocks) >= 2)
            marks = [value for block in reader.blocks for value in block.mark.tolist()]  # type: ignore[union-attr]
            assert marks == [14950, 14925]
            size = reader.blocks[0].size
            assert size is not None
            contract = feed.client.markets[SWAP]["contractSize"]
            assert size[0] == pytest.approx(trades[0].id / 1000 * contract)  # contracts are told in base currency

    run(mark)


@pytest.mark.parametrize("venue", ["binance", "bybit"])
@pytest.mark.parametrize("trigger", ["bid", "mark"])
def test_quotes_and_mark_are_polled_too(venue: str, trigger: str) -> None:
    async def polled() -> None:
        symbol = SWAP if trigger == "mark" else SOL
        async with serving(venue) as server, feeding(server, polling=True) as (feed, reader):
            server.quote("149.99", "150.01", symbol)
            server.quote("", "", symbol, mark="149.50")
            server.publish(1, symbol)
            await feed.start(symbol, frozenset({trigger}))
            await until(lambda: reader.blocks)  # the last trade's price is known from before
            server.quote("149.98", "150.02", symbol)
            server.quote("", "", symbol, mark="149.25")
            await until(lambda: sum(len(block.ts) for block in reader.blocks) >= 2)
            column = [value for block in reader.blocks for value in getattr(block, trigger).tolist()]
            assert column == ([14950, 14925] if trigger == "mark" else [14999, 14998])
            assert not server.connected

    run(polled)


def test_quotes_beside_trades_without_a_row_of_their_own() -> None:
    async def quotes() -> None:
        async with serving("okx") as server, feeding(server, quotes=True) as (feed, reader):
            await feed.start(SOL)
            await server.subscribed()
            await server.subscribed(what="quotes")
            server.quote("149.99", "150.01")
            await until(lambda: feed._lines[SOL].now["ask"])
            server.quote("149.90", "")  # one side is empty: the last is kept
            await until(lambda: feed._lines[SOL].now["bid"] == 14990)
            trades = server.publish(1)
            await reader.has(trades)
            assert [row for block in reader.blocks for row in _columns(block)] == [(15000, 14990, 15001, trades[0].id)]

    run(quotes)


def test_a_trigger_that_the_exchange_does_not_have() -> None:
    async def triggers() -> None:
        async with serving("kraken") as server, feeding(server) as (feed, _):
            with pytest.raises(
                DataError, match=r"trigger = 'mark': kraken has none for SOL/USDT; use one of last, bid, ask"
            ):
                await feed.start(SOL, frozenset({"last", "mark"}))
            assert feed.triggers(SOL) == ("last", "bid", "ask")

    run(triggers)


# ------------------------------------------------------------------------------------------------------------ the rest


def test_two_symbols_and_the_end_of_one() -> None:
    async def two() -> None:
        async with serving("okx") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            await feed.start(ETH)
            sol, eth = await connected(server, reader), await connected(server, reader, ETH)
            for _ in range(3):
                sol, eth = sol + server.publish(2), eth + server.publish(1, ETH)
            await reader.has(sol)
            await reader.has(eth, ETH)
            await feed.stop(ETH)
            server.publish(1, ETH)
            server.drop()
            sol += server.publish(2)
            await reader.has(sol)
            assert reader.ids() == [trade.id for trade in sol]
            assert reader.ids(ETH) == [trade.id for trade in eth]
            with pytest.raises(DataError, match="is not running"):
                await feed.stop(ETH)
            with pytest.raises(DataError, match="is running already"):
                await feed.start(SOL)

    run(two)


def test_refusals() -> None:
    async def refuse() -> None:
        async with serving("gate") as server, feeding(server) as (feed, reader):
            with pytest.raises(ExchangeError, match=r"gate SOL/USTD: no such market; try SOL/USDT"):
                await feed.start("SOL/USTD")
            await feed.start(SOL)
            await connected(server, reader)
            token = json.loads(reader.blocks[-1].token)
            await feed.stop(SOL)
            for wrong in ("x", "{}", "[]", json.dumps(token | {"of": "gate ETH/USDT"}), json.dumps(token | {"ids": 7})):
                with pytest.raises(DataError, match=r"token = .*is not one of gate SOL/USDT"):
                    await feed.start(SOL, token=wrong)
            assert str(feed.instrument(SOL).price_increment) == "0.01"
            with pytest.raises(DataError, match="client = gate: is not okx"):
                LiveFeed("okx", client=feed.client)
            with pytest.raises(DataError, match=r"feed = gate: is not open; await its open\(\) first"):
                await LiveFeed("gate", client=feed.client).start(SOL)
        assert await feed.next() is None

    run(refuse)
    with pytest.raises(DataError, match="did you mean binance"):
        LiveFeed("binanse")
    with pytest.raises(DataError, match=r"stale_after = 'soon': is not a duration"):
        LiveFeed("binance", stale_after="soon")


def test_memory_and_tokens_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEPT_IDS", 300)

    async def many() -> None:
        async with serving("bybit") as server, feeding(server) as (feed, reader):
            await feed.start(SOL)
            trades = await connected(server, reader)
            for _ in range(20):
                some = [server.trade() for _ in range(50)]
                server.add(some)
                server.send(some)
                trades += some
                await reader.has(trades)
            server.send(trades[-100:])
            server.send(trades[:100])
            trades += server.publish(1)
            await reader.has(trades)
            assert reader.ids() == [trade.id for trade in trades]
            assert len(feed._lines[SOL].seen) <= 300
            assert all(len(block.token) < 4000 for block in reader.blocks)

    run(many)


@pytest.mark.parametrize("venue", VENUES)
def test_markets_are_loaded_when_it_opens(venue: str) -> None:
    async def load() -> None:
        async with serving(venue) as server:
            made = client(venue, server, load=True)
            feed = LiveFeed(venue, client=made, **QUICK)
            server.refuse = 500
            with pytest.raises(ExchangeError, match=f"{venue}: .*; check the connection, then open again"):
                await feed.open()
            server.refuse = 0
            await feed.open()
            instrument = feed.instrument(SOL)
            assert (str(instrument.price_increment), str(instrument.quantity_increment)) == ("0.01", "0.001")
            await feed.start(SOL)
            await feed.close()
            await closed(made)

    run(load)
