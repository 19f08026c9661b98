"""The local exchange that trades: Binance, Bybit, OKX and Gate through their real ccxt.pro clients, rule by rule and fault by
fault; and the matching engine behind them by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ccxt")

from local_exchange import closed
from trading_exchange import FAULTS, KINDS, Dialect, Ledger, Order, Refusal, TradingExchange, trader

SOL, ETH = "SOL/USDT", "ETH/USDT"
VENUES = ("binance", "bybit", "okx", "gate")
TOPICS = {
    "binance": ("user",),
    "bybit": ("order", "execution"),
    "okx": ("orders",),
    "gate": ("spot.orders", "spot.usertrades"),
}
each = pytest.mark.parametrize("venue", VENUES)


class Bench:
    """One venue, its server and one client of it, with the calls as each venue wants them."""

    def __init__(self, venue: str, server: TradingExchange, exchange: Any):
        self.venue, self.server, self.x = venue, server, exchange
        self.ledger = server.ledger()

    async def buy(self, amount: float, price: float | None = None, cid: str = "", **how: Any) -> Any:
        return await self.order("buy", amount, price, cid, **how)

    async def sell(self, amount: float, price: float | None = None, cid: str = "", **how: Any) -> Any:
        return await self.order("sell", amount, price, cid, **how)

    async def order(self, side: str, amount: float, price: float | None, cid: str, **how: Any) -> Any:
        kind = "market" if price is None else "limit"
        if self.venue == "gate" and kind == "market" and side == "buy":
            price = float(self.server.best(SOL, side))  # what it may spend, there
        params = {"clientOrderId": cid} | how if cid else how
        return await self.x.create_order(how.pop("symbol", SOL), kind, side, amount, price, params)

    async def look(self, id: str) -> Any:
        return await self.x.fetch_order(id, SOL, {"acknowledged": True} if self.venue == "bybit" else {})

    async def by_cid(self, cid: str) -> Any:
        if self.venue == "bybit":
            return await self.x.fetch_order("", SOL, {"orderLinkId": cid, "acknowledged": True})
        return await self.x.fetch_order("", SOL, {"clientOrderId": cid})

    def newest(self) -> Order:
        return list(self.ledger.orders.values())[-1]


@contextlib.asynccontextmanager
async def bench(venue: str, **config: Any) -> AsyncIterator[Bench]:
    async with TradingExchange([venue]) as server:
        exchange = trader(venue, server, **config)
        try:
            yield Bench(venue, server, exchange)
        finally:
            await closed(exchange)


def run(job: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    asyncio.run(job(*args))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def outcome(call: Awaitable[Any]) -> tuple[str, str]:
    """(class of the exception or nothing, its text or the id of what came back)."""
    try:
        told = await call
    except Exception as error:
        return type(error).__name__, str(error)
    return "", str(told["id"]) if isinstance(told, dict) and told.get("id") else ""


class Listener:
    """Collects what one watch_* call brings, event by event."""

    def __init__(self, watch: Callable[[], Awaitable[Any]], show: Callable[[Any], Any]):
        self.seen: list[Any] = []
        self.error: Exception | None = None
        self._watch, self._show = watch, show
        self._task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while True:
            try:
                self.seen += [self._show(item) for item in await self._watch()]
            except Exception as error:
                self.error = error
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@contextlib.asynccontextmanager
async def listening(made: Bench) -> AsyncIterator[tuple[Listener, Listener]]:
    """Orders as (cid, status, filled) and trades as (amount, price) of a client of its own."""
    orders = Listener(
        lambda: made.x.watch_orders(SOL),
        lambda o: (o["clientOrderId"].removeprefix("t-"), o["status"], o["filled"] or 0.0),
    )
    trades = Listener(
        lambda: made.x.watch_my_trades(SOL), lambda t: (t["side"], t["amount"], t["price"], t["takerOrMaker"])
    )
    try:
        for topic in TOPICS[made.venue]:
            await made.server.listening(topic)
        yield orders, trades
    finally:
        await orders.close()
        await trades.close()


# ------------------------------------------------------------------------------------------------------------ one life


@each
def test_a_life_of_orders(venue: str) -> None:
    """Markets over REST, a market buy, a resting order filled in parts, an IOC, a sale: what the client computes from the
    answers is what the account holds, and nothing is taken that is not there."""

    async def job() -> None:
        async with bench(venue) as b:
            b.x.set_markets([])
            b.x.markets = None
            b.x.has["fetchCurrencies"] = venue == "binance"
            b.x.options["fetchMarkets"] = (b.x.options.get("fetchMarkets") or {}) | {"types": ["spot"]}
            assert SOL in await b.x.load_markets()
            assert (await b.x.fetch_balance())["USDT"]["free"] == 10_000
            async with listening(b) as (orders, trades):
                await b.buy(1, None, "so1")
                await b.buy(1, 140, "so2")
                assert (await b.x.fetch_balance())["USDT"]["used"] == 140
                resting = b.newest()
                b.server.move(SOL, "139", "0.4")
                b.server.move(SOL, "139.5", "0.25")
                assert (await b.look(resting.id))["filled"] == 0.65
                parts = await b.x.fetch_order_trades(resting.id, SOL)
                assert [(t["amount"], t["takerOrMaker"]) for t in parts] == [(0.4, "maker"), (0.25, "maker")]
                assert [o["id"] for o in await b.x.fetch_open_orders(SOL)] == [resting.id]
                await b.x.cancel_order(resting.id, SOL)
                assert (await b.look(resting.id))["filled"] == 0.65
                assert await b.x.fetch_open_orders(SOL) == []
                b.server.offer(SOL, "0.3", "0.2")
                await b.buy(1, 139.6, "so3", timeInForce="IOC")
                b.server.offer(SOL)
                await b.sell(2, None, "so4")
                await until(lambda: len(trades.seen) >= 6 and any(o[0] == "so4" and o[2] == 2 for o in orders.seen))
            assert trades.seen == [
                ("buy", 1, 150.01, "taker"), ("buy", 0.4, 140, "maker"), ("buy", 0.25, 140, "maker"),
                ("buy", 0.3, 139.51, "taker"), ("buy", 0.2, 139.52, "taker"), ("sell", 2, 139.5, "taker"),
            ]  # fmt: skip
            ended = {cid: (status, filled) for cid, status, filled in orders.seen}
            partly = "closed" if venue == "bybit" else "canceled"
            assert ended == {
                "so1": ("closed", 1), "so2": (partly, 0.65), "so4": ("closed", 2),
                "so3": ("expired" if venue == "binance" else partly, 0.5),
            }  # fmt: skip

            told = await b.x.fetch_my_trades(SOL)
            assert len(told) == 6
            base = sum(Decimal(str(t["amount"])) * (1 if t["side"] == "buy" else -1) for t in told)
            fees: dict[str, Decimal] = {}
            for trade in told:
                for fee in trade["fees"] or [trade["fee"]]:
                    fees[fee["currency"]] = fees.get(fee["currency"], Decimal(0)) + Decimal(str(fee["cost"]))
            assert fees["SOL"] == Decimal("0.00202"), "1 and 0.5 as taker, 0.65 as maker"
            assert fees["USDT"] == Decimal("0.279"), "0.1 % of 279"
            assert b.ledger.total["SOL"] == base - fees["SOL"]
            cost = sum(Decimal(str(t["cost"])) * (-1 if t["side"] == "buy" else 1) for t in told)
            assert b.ledger.total["USDT"] == 10_000 + cost - fees["USDT"]
            balance = await b.x.fetch_balance()
            assert {name: balance[name]["free"] for name in ("SOL", "USDT")} == {
                name: float(b.ledger.free(name)) for name in ("SOL", "USDT")
            }
            assert b.server.executions == {(f"t-so{n}" if venue == "gate" else f"so{n}"): 1 for n in (1, 2, 3, 4)}

    run(job)


@each
def test_closed_orders(venue: str) -> None:
    """Which call lists which ended order, as the page of facts has it."""

    async def job() -> None:
        async with bench(venue) as b:
            await b.buy(1, None, "filled")
            await b.buy(1, 140, "cancelled")
            await b.x.cancel_order(b.newest().id, SOL)
            await b.buy(1, 140, "partly")
            b.server.move(SOL, "140", "0.5")
            await b.x.cancel_order(b.newest().id, SOL)
            await b.buy(1, 130, "resting")

            async def names(call: str) -> set[str]:
                return {o["clientOrderId"].removeprefix("t-") for o in await getattr(b.x, call)(SOL)}

            rows: dict[str, dict[str, set[str]]] = {
                "binance": {"fetch_orders": {"filled", "cancelled", "partly", "resting"},
                            "fetch_closed_orders": {"filled"}, "fetch_canceled_orders": {"cancelled", "partly"}},
                "bybit": {"fetch_closed_orders": {"filled"}, "fetch_canceled_orders": {"cancelled"},
                          "fetch_canceled_and_closed_orders": {"filled", "cancelled", "partly"}},
                "okx": {"fetch_closed_orders": {"filled"}, "fetch_canceled_orders": {"cancelled", "partly"}},
                "gate": {"fetch_closed_orders": {"filled", "cancelled", "partly"}},
            }  # fmt: skip
            assert {call: await names(call) for call in rows[venue]} == rows[venue]
            assert await names("fetch_open_orders") == {"resting"}

    run(job)


@pytest.mark.parametrize(("venue", "size"), [("binance", 120), ("bybit", 20), ("okx", 100), ("gate", 120)])
def test_pages(venue: str, size: int) -> None:
    """How many open orders one call brings when nobody asks for more, the newest among them."""

    async def job() -> None:
        async with bench(venue) as b:
            for n in range(120):
                b.ledger.create(SOL, "buy", "limit", "0.1", "60", cid=f"so{n}")
            assert len(await b.x.fetch_open_orders(SOL)) == size
            if venue == "bybit":
                page = await b.x.fetch_open_orders(SOL, None, 50)
                assert len(page) == 50
                cursor = next(o["info"]["nextPageCursor"] for o in page if "nextPageCursor" in o["info"])
                other = await b.x.fetch_open_orders(SOL, None, 50, {"cursor": cursor})
                assert len({o["id"] for o in page + other}) == 100

    run(job)


@each
def test_a_market_buy_with_a_price(venue: str) -> None:
    """The same call buys 1.9 SOL or spends 1.9 times 75 USDT, by the venue."""

    async def job() -> None:
        async with bench(venue) as b:
            await b.x.create_order(SOL, "market", "buy", 1.9, 75)
            assert b.newest().filled == (Decimal("1.9") if venue == "okx" else Decimal("0.949"))
            b.server.offer(SOL, "0.1")
            await b.x.create_market_buy_order_with_cost(SOL, 142.5)
            assert b.newest().filled == Decimal("0.1"), "the book had no more"
            assert b.newest().status == "expired"

    run(job)


def test_binance_stops() -> None:
    """A stop locks what it sells, waits, and sells at what the market pays then; its limit may be left behind by a gap."""

    async def job() -> None:
        async with bench("binance") as b:
            await b.buy(2)
            told = await b.x.create_order(
                SOL, "market", "sell", 1, None, {"stopLossPrice": 145, "clientOrderId": "stop"}
            )
            assert (told["status"], told["triggerPrice"], told["info"]["clientOrderId"]) == ("open", 145, "stop")
            await b.x.create_order(SOL, "limit", "sell", 0.5, 144, {"stopLossPrice": 145})
            limit = b.newest()
            assert b.ledger.used["SOL"] == Decimal("1.5")
            b.server.move(SOL, "145.01")
            assert not b.ledger.fills[1:]
            assert [o["info"]["isWorking"] for o in await b.x.fetch_open_orders(SOL)] == [False, False]
            b.server.move(SOL, "143.5")
            assert [(f.order.cid, f.price, f.maker) for f in b.ledger.fills[1:]] == [("stop", Decimal("143.5"), False)]
            told = await b.look(limit.id)
            assert (told["status"], told["filled"], told["info"]["isWorking"]) == ("open", 0, True)
            b.server.move(SOL, "144")
            assert limit.status == "closed"
            error, text = await outcome(b.x.create_order(SOL, "market", "sell", 0.1, None, {"stopLossPrice": 145}))
            assert (error, "trigger immediately" in text) == ("OrderImmediatelyFillable", True)
            await b.x.create_order(SOL, "market", "sell", 0.1, None, {"stopLossPrice": 140})
            await b.x.cancel_order(b.newest().id, SOL)
            b.server.move(SOL, "130")
            assert b.newest().filled == b.ledger.used["SOL"] == 0

    run(job)


# ---------------------------------------------------------------------------------------------------------- refusals


# At Binance a key that worked once and does not any more looks like a rate limit to ccxt.
REFUSALS: dict[str, dict[str, tuple[str, str]]] = {
    "binance": {
        "secret": ("AuthenticationError", "-1022"), "key": ("DDoSProtection", "-2015"), "ahead": ("InvalidNonce", "-1021"),
        "behind": ("InvalidNonce", "-1021"),
        "permission": ("DDoSProtection", "-2015"), "ip": ("DDoSProtection", "-2015"),
        "funds": ("InsufficientFunds", "insufficient balance"),
        "cost": ("BadRequest", "NOTIONAL"), "step": ("InvalidOrder", "LOT_SIZE"), "tick": ("InvalidOrder", "PRICE_FILTER"),
        "cid": ("BadRequest", "-1100"), "post_only": ("OrderImmediatelyFillable", "immediately match"), "busy": ("DDoSProtection", "-1003"),
        "unknown": ("OrderNotFound", "-2013"), "cancel": ("OrderNotFound", "-2011"), "twice": ("OrderNotFound", "-2011"),
        "filled": ("OrderNotFound", "-2011"), "sell": ("InsufficientFunds", "insufficient balance"), "None": ("BadRequest", "-1100"),
    },
    "bybit": {
        "secret": ("AuthenticationError", "10004"), "key": ("AuthenticationError", "10003"), "ahead": ("InvalidNonce", "10002"),
        "behind": ("InvalidNonce", "10002"),
        "permission": ("PermissionDenied", "10005"), "ip": ("PermissionDenied", "10010"), "funds": ("InsufficientFunds", "170131"),
        "cost": ("InvalidOrder", "170140"), "step": ("InvalidOrder", "170137"), "tick": ("InvalidOrder", "170134"),
        "cid": ("BadRequest", "170130"), "busy": ("RateLimitExceeded", "10006"),
        "unknown": ("OrderNotFound", "not found"), "cancel": ("OrderNotFound", "170213"), "twice": ("InvalidOrder", "170142"),
        "filled": ("InvalidOrder", "170139"), "sell": ("InsufficientFunds", "170131"), "None": ("OrderNotFound", "not found"),
    },
    "okx": {
        "secret": ("AuthenticationError", "50113"), "key": ("AuthenticationError", "50111"), "ahead": ("InvalidNonce", "50102"),
        "behind": ("InvalidNonce", "50102"),
        "permission": ("ExchangeError", "50120"), "ip": ("PermissionDenied", "50110"), "funds": ("InsufficientFunds", "51008"),
        "step": ("InvalidOrder", "51121"), "tick": ("BadRequest", "51000"), "password": ("AuthenticationError", "50105"),
        "cid": ("BadRequest", "51000"), "busy": ("RateLimitExceeded", "50011"), "unknown": ("OrderNotFound", "51603"),
        "cancel": ("OrderNotFound", "51400"), "twice": ("OrderNotFound", "51401"), "filled": ("OrderNotFound", "51402"),
        "sell": ("InsufficientFunds", "51008"), "None": ("BadRequest", "51000"),
    },
    "gate": {
        "secret": ("AuthenticationError", "INVALID_SIGNATURE"), "key": ("AuthenticationError", "INVALID_KEY"),
        "ahead": ("AuthenticationError", "REQUEST_EXPIRED"), "behind": ("AuthenticationError", "REQUEST_EXPIRED"),
        "permission": ("PermissionDenied", "READ_ONLY"),
        "ip": ("AuthenticationError", "IP_FORBIDDEN"), "funds": ("InsufficientFunds", "BALANCE_NOT_ENOUGH"),
        "cost": ("BadRequest", "INVALID_PARAM_VALUE"), "step": ("InvalidOrder", "INVALID_PRECISION"),
        "tick": ("InvalidOrder", "INVALID_PRECISION"), "cid": ("BadRequest", "INVALID_PARAM_VALUE"),
        "post_only": ("OrderImmediatelyFillable", "POC_FILL_IMMEDIATELY"), "busy": ("RateLimitExceeded", "TOO_MANY_REQUESTS"),
        "unknown": ("OrderNotFound", "ORDER_NOT_FOUND"), "cancel": ("OrderNotFound", "ORDER_NOT_FOUND"),
        "twice": ("InvalidOrder", "ORDER_CANCELLED"), "filled": ("InvalidOrder", "ORDER_CLOSED"),
        "sell": ("InsufficientFunds", "BALANCE_NOT_ENOUGH"), "None": ("OrderNotFound", "ORDER_NOT_FOUND"),
    },
}  # fmt: skip


@each
def test_refusals(venue: str) -> None:
    """Every one in the venue's own code and of ccxt's class for it; none leaves an order behind."""

    async def job() -> None:
        async with bench(venue) as b:
            dialect = b.server.venues[venue]
            assert isinstance(dialect, Dialect)
            await b.buy(1, 140)
            cancelled = b.newest().id
            await b.x.cancel_order(cancelled, SOL)
            await b.buy(1)
            filled = b.newest().id
            held = b.ledger.balances()
            found: dict[str, tuple[str, str]] = {}

            async def meets(name: str, call: Awaitable[Any]) -> None:
                error, text = await outcome(call)
                expected = REFUSALS[venue].get(name, ("", ""))
                found[name] = (error, expected[1] if expected[1] in text else text)

            keys = dialect.keys
            for name, field, value in (("secret", "secret", keys.secret), ("key", "apiKey", keys.key),
                                       ("password", "password", keys.password)):  # fmt: skip
                if name in REFUSALS[venue]:
                    setattr(b.x, field, "wrong")
                    await meets(name, b.buy(1, 140))
                    setattr(b.x, field, value)
            for name, skew in (("ahead", -120_000), ("behind", 120_000)):
                b.server.skew_ms = skew
                await meets(name, b.buy(1, 140))
            b.server.skew_ms = 0
            dialect.denied = "ip"
            await meets("ip", b.buy(1, 140))
            assert (await outcome(b.x.fetch_balance()))[0] == found["ip"][0]
            dialect.denied = "permission"
            await meets("permission", b.buy(1, 140))
            await b.x.fetch_balance()
            dialect.denied = ""
            b.server.fault("busy before")
            await meets("busy", b.buy(1, 140))
            await meets("funds", b.buy(100, 140))
            await meets("sell", b.sell(1, 150))  # the fee of the buy is missing
            if "cost" in REFUSALS[venue]:
                await meets("cost", b.buy(0.001, 140))
            if "post_only" in REFUSALS[venue]:
                await meets("post_only", b.buy(1, 150.01, postOnly=True))
            await meets("cid", b.buy(1, 140, "sö1"))
            b.x.markets[SOL]["precision"] = {"price": 1e-8, "amount": 1e-8}
            await meets("step", b.buy(0.0101234, 140))
            await meets("tick", b.buy(1, 140.005))
            await meets("unknown", b.look("999"))
            await meets("None", b.look(None))  # type: ignore[arg-type]
            await meets("cancel", b.x.cancel_order("999", SOL))
            await meets("twice", b.x.cancel_order(cancelled, SOL))
            await meets("filled", b.x.cancel_order(filled, SOL))
            assert found == REFUSALS[venue]
            assert len(b.ledger.orders) == 2
            assert b.ledger.balances() == held
            assert [ask.status for ask in b.server.asked if ask.executed] == [200] * sum(
                a.executed for a in b.server.asked
            )

    run(job)


@each
def test_a_small_skew_is_none(venue: str) -> None:
    """Within the venue's window the clocks may differ, and the difference can be measured."""

    async def job() -> None:
        async with bench(venue) as b:
            b.server.skew_ms = 3000
            await b.buy(1, 140)
            assert b.newest().open
            b.server.skew_ms = 90_000
            difference = await b.x.load_time_difference()
            assert -90_000 - 3000 < difference <= -90_000 + 3000
            b.x.options["adjustForTimeDifference"] = True
            await b.buy(1, 140)
            assert len(b.ledger.orders) == 2

    run(job)


@pytest.mark.parametrize("venue", ["bybit", "okx"])
def test_accepted_and_then_not(venue: str) -> None:
    """A post-only order that would take, and an order that the engine does not want, look like successes at first."""

    async def job() -> None:
        async with bench(venue) as b:
            async with listening(b) as (orders, _):
                told = await b.buy(1, 150.01, "po1", postOnly=True)
                assert told["id"]
                assert told["status"] is None
                b.server.late_rejects = 1
                assert (await b.buy(1, 140, "late"))["id"]
                await until(lambda: any(o[0] == "late" for o in orders.seen))
            assert orders.seen[-2:] == [
                ("po1", "canceled", 0), ("late", "rejected" if venue == "bybit" else "canceled", 0)
            ]  # fmt: skip
            assert b.ledger.balances() == {"USDT": (10_000, 0)}

    run(job)


# --------------------------------------------------------------------------------------------------------- client ids


@each
def test_duplicate_client_ids(venue: str) -> None:
    """While the first is open, after it was filled, after it was cancelled: refused or executed a second time."""

    async def job() -> None:
        async with bench(venue) as b:
            refused = {"binance": ("InvalidOrder", "Duplicate order sent."), "bybit": ("InvalidOrder", "170141"),
                       "okx": ("InvalidOrder", "51016"), "gate": ("", "")}[venue]  # fmt: skip
            found = {}
            for name in ("open", "filled", "cancelled"):
                await b.buy(0.1, 140, name)
                first = b.newest()
                if name == "filled":
                    b.server.move(SOL, "139")
                    b.server.move(SOL, "150")
                elif name == "cancelled":
                    await b.x.cancel_order(first.id, SOL)
                error, text = await outcome(b.buy(0.1, 140, name))
                found[name] = error
                assert (b.newest() is first) == bool(error)
                assert not error or refused[1] in text
            ended = refused[0] if venue == "bybit" else ""
            assert found == {"open": refused[0], "filled": ended, "cancelled": ended}

    run(job)


@each
def test_lookups_by_client_id(venue: str) -> None:
    """The way that works does, open or ended, and finds the newest; it cannot see what the venue has forgotten."""

    async def job() -> None:
        async with bench(venue) as b:
            await b.buy(0.1, 140, "other")
            await b.buy(0.1, 140, "so1")
            mine = b.newest()
            assert (await b.by_cid("so1"))["id"] == mine.id
            await b.x.cancel_order(mine.id, SOL)
            error, id = await outcome(b.by_cid("so1"))
            if venue == "gate":  # by its client id only while it is pending: then the lists
                assert error == "OrderNotFound"
                ended = await b.x.fetch_closed_orders(SOL)
                assert [o["id"] for o in ended if o["clientOrderId"] == "t-so1"] == [mine.id]
                return
            assert (error, id) == ("", mine.id)
            if venue != "bybit":
                await b.buy(0.2, 140, "so1")
                assert (await b.by_cid("so1"))["amount"] == 0.2
                await b.x.cancel_order("", SOL, {"clientOrderId": "so1"})
                assert not b.newest().open
            hours = {"binance": 91 * 24, "bybit": 25, "okx": 3}[venue]
            for order in b.ledger.orders.values():
                order.updated_ns -= hours * 3600 * 10**9
            if venue == "bybit":
                assert (await b.by_cid("so1"))["id"] == mine.id, "still among the last 500"
                found = await b.x.fetch_canceled_and_closed_orders(SOL, None, 50, {"orderLinkId": "so1"})
                assert found == []
                mine.filled = Decimal("0.05")
                found = await b.x.fetch_canceled_and_closed_orders(SOL, None, 50, {"orderLinkId": "so1"})
                assert [o["id"] for o in found] == [mine.id], "a fill is remembered for longer"
            else:
                error, text = await outcome(b.by_cid("so1"))
                assert error == {"binance": "InvalidOrder", "okx": "OrderNotFound"}[venue]
                assert venue == "okx" or "-2026" in text

    run(job)


def test_bybit_lookup_by_the_unified_id_finds_another_order() -> None:
    """The field is not known there, so the answer is all open orders, of which ccxt takes the first."""

    async def job() -> None:
        async with bench("bybit") as b:
            await b.buy(0.1, 140, "so1")
            await b.buy(0.1, 140, "other")
            wrong = await b.x.fetch_order("", SOL, {"clientOrderId": "so1", "acknowledged": True})
            assert wrong["clientOrderId"] == "other"
            assert (await outcome(b.x.cancel_order("", SOL, {"clientOrderId": "so1"})))[0] == "BadRequest"
            await b.x.cancel_order(None, SOL, {"orderLinkId": "so1"})
            assert [order.status for order in b.ledger.orders.values()] == ["cancelled", "open"]

    run(job)


def test_gate_cancel_by_the_unified_id_cancels_every_order() -> None:
    """It asks for the deletion of `orders/` of the pair; with the prefix in place of the id all is well."""

    async def job() -> None:
        async with bench("gate") as b:
            for cid in ("so1", "so2", "so3"):
                await b.buy(0.1, 140, cid)
            await b.x.cancel_order("t-so1", SOL)
            assert [order.open for order in b.ledger.orders.values()] == [False, True, True]
            await b.x.cancel_order("", SOL, {"clientOrderId": "so2"})
            assert not any(order.open for order in b.ledger.orders.values())
            assert b.server.asked[-1].path.endswith("/orders/")

    run(job)


# -------------------------------------------------------------------------------------------------------------- races


@each
def test_a_cancel_that_comes_too_late(venue: str) -> None:
    async def job() -> None:
        async with bench(venue) as b:
            await b.buy(1, 140, "so1")
            order = b.newest()
            b.server.move(SOL, "139.99")
            error, _ = await outcome(b.x.cancel_order(order.id, SOL))
            assert error in ("OrderNotFound", "InvalidOrder")
            told = await b.look(order.id)
            assert (told["status"], told["filled"]) == ("closed", 1)
            assert b.ledger.used["USDT"] == 0

    run(job)


@each
def test_a_new_order_is_not_seen_at_once(venue: str) -> None:
    """For so many lookups, by whatever way; the orders from before are seen all along."""

    async def job() -> None:
        async with bench(venue) as b:
            await b.buy(1, 130, "old")
            b.server.lag = 3
            await b.buy(1, None, "new")
            assert (await outcome(b.by_cid("new")))[0] == "OrderNotFound"
            assert (await b.by_cid("old"))["status"] == "open"
            assert (await outcome(b.look(b.newest().id)))[0] == "OrderNotFound"
            if not b.newest().unseen:  # lists of that venue's lookups count as well
                b.newest().unseen = 1
            assert await b.x.fetch_my_trades(SOL) == []
            assert len(await b.x.fetch_my_trades(SOL)) == 1
            assert (await b.look(b.newest().id))["status"] == "closed"

    run(job)


# -------------------------------------------------------------------------------------------------------------- faults


SLOW = ("lost before", "late before", "timeout after")
UNKNOWN = {
    "binance": ["OperationFailed", "RequestTimeout", "OperationFailed", "OperationFailed"],
    "bybit": ["ExchangeError", "ExchangeError", "RequestTimeout", "InvalidOrder"],
    "okx": ["RequestTimeout", "OnMaintenance", "ExchangeNotAvailable", "ExchangeNotAvailable"],
    "gate": ["ExchangeNotAvailable", "ExchangeNotAvailable", "ExchangeNotAvailable"],
}


@each
def test_every_fault_of_a_create(venue: str) -> None:
    """Not one answer tells whether the order was executed; the account knows, and so does a lookup."""

    async def job() -> None:
        async with bench(venue) as b:
            dialect = b.server.venues[venue]
            assert isinstance(dialect, Dialect)
            names = [*FAULTS]
            names += [f"unknown{n} {when}" for n in range(len(dialect.unknown)) for when in ("before", "after")]
            found = {}
            for n, name in enumerate(name for name in names if name not in SLOW):
                b.server.fault(name)
                error, text = await outcome(b.buy(0.1, 140, f"so{n}"))
                found[name] = error
                assert not text or error, (name, text)
                seen, _ = await outcome(b.by_cid(f"so{n}"))
                assert seen == ("" if "after" in name else "OrderNotFound"), name
            assert not b.server.faults
            for n, error in enumerate(UNKNOWN[venue]):
                assert found[f"unknown{n} before"] == found[f"unknown{n} after"] == error
            assert found["refused before"] == found["reset before"] == found["reset after"] == "ExchangeNotAvailable"
            assert found["closed after"] == "ExchangeNotAvailable"
            assert found["truncated after"] == "ExchangeError"
            # Nothing is raised for these: the order that comes back has no id.
            quiet = ["524 before", "empty after", "html after", "524 after", "broken after"]
            quiet += ["braces after"] if venue in ("binance", "gate") else []  # the others miss their code
            assert [name for name, error in found.items() if not error] == quiet
            assert b.server.executions.total() == len(b.ledger.orders) == sum("after" in name for name in found)

    run(job)


@each
def test_requests_that_are_never_answered(venue: str) -> None:
    """One is lost, one is executed, one is executed when it arrives, unless that is too late."""

    async def job() -> None:
        async with bench(venue, timeout=1000) as b:
            for nth, name in enumerate(SLOW, 1):
                b.server.fault(name, nth=nth)
            calls = [outcome(b.buy(0.1, 140, f"so{n}")) for n in range(3)]
            assert [error for error, _ in await asyncio.gather(*calls)] == ["RequestTimeout"] * 3
            assert len(b.ledger.orders) == len(b.server.held) == 1
            held = b.server.held[:]
            b.server.skew_ms = 61_000
            b.server.arrive()
            assert len(b.ledger.orders) == 1, "its time is over"
            b.server.skew_ms, b.server.held = 0, held
            b.server.arrive()
            assert len(b.ledger.orders) == 2
            assert max(b.server.executions.values()) == 1

    run(job)


@each
def test_a_fault_of_each_kind_of_request(venue: str) -> None:
    """Also lookups, lists, trades, balances and cancels fail, once, where a test says so."""

    async def job() -> None:
        async with bench(venue) as b:
            await b.buy(1, None, "so1")
            await b.buy(1, 140, "so2")
            order = b.newest()
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "order": lambda: b.look(order.id), "open": lambda: b.x.fetch_open_orders(SOL),
                "closed": lambda: b.x.fetch_closed_orders(SOL), "trades": lambda: b.x.fetch_my_trades(SOL),
                "balance": b.x.fetch_balance, "cancel": lambda: b.x.cancel_order(order.id, SOL),
            }  # fmt: skip
            assert set(calls) | {"create", "account", "token"} == set(KINDS)
            for kind, call in calls.items():
                if kind != "cancel":
                    await call()
                for name in ("refused before", "502 before", "truncated after"):
                    b.server.fault(name, kind)
                    assert (await outcome(call()))[0] in ("ExchangeNotAvailable", "ExchangeError"), (kind, name)
                    assert not b.server.faults
                    assert order.open == (kind != "cancel" or name != "truncated after")
            b.server.fault("500 before", "*", 2)
            await b.buy(1, 140)
            assert (await outcome(b.x.fetch_balance()))[0] == "ExchangeNotAvailable"

    run(job)


@each
def test_chaos_follows_its_seed(venue: str) -> None:
    async def job() -> list[tuple[str, int]]:
        async with bench(venue) as b:
            names = ["reset before", "502 after", "empty after", "truncated after", "refused before"]
            b.server.chaos = random.Random(7), 0.5, names
            met = []
            for n in range(12):
                await outcome(b.buy(0.1, 140, f"so{n}"))
                met.append((b.server.asked[-1].fault, len(b.ledger.orders)))
            assert {fault for fault, _ in met} & set(names)
            assert "" in {fault for fault, _ in met}
            return met

    assert asyncio.run(job()) == asyncio.run(job())


# ------------------------------------------------------------------------------------------------------------- streams


@each
def test_streams_that_misbehave(venue: str) -> None:
    """Events come twice, in pairs the wrong way round, or not at all; and after a cut the client listens again."""

    async def job() -> None:
        async with bench(venue) as b, listening(b) as (orders, trades):
            b.server.stream = "doubled"
            b.ledger.create(SOL, "buy", "limit", "1", "140", cid="t-so1")
            await until(lambda: len(orders.seen) >= 1)
            b.server.stream = "swapped"
            b.server.move(SOL, "139", "0.1")
            b.server.move(SOL, "139", "0.2")
            await until(lambda: len(trades.seen) >= 2)
            assert [trade[1] for trade in trades.seen] == [0.2, 0.1]
            b.server.move(SOL, "139", "0.14")
            b.server.stream = "muted"
            b.server.move(SOL, "139", "0.16")
            b.server.stream = ""
            b.server.move(SOL, "139", "0.05")
            await until(lambda: len(trades.seen) >= 4)
            assert [trade[1] for trade in trades.seen] == [0.2, 0.1, 0.14, 0.05], "only what was muted is lost"
            b.server.cut()
            assert not b.server.sockets
            await until(lambda: orders.error and trades.error)
            for topic in TOPICS[venue]:
                await b.server.listening(topic)
            b.server.move(SOL, "139", "0.35")
            await until(lambda: len(trades.seen) >= 5)
            assert trades.seen[-1][1] == 0.35
            await until(lambda: orders.seen[-1] == ("so1", "closed", 1))

    run(job)


@each
def test_balances_are_streamed(venue: str) -> None:
    """After the last event the client's picture is the account, of both currencies."""

    async def job() -> None:
        async with bench(venue) as b:

            async def watch() -> list[Any]:
                return [await b.x.watch_balance()]

            def show(balance: Any) -> Any:
                return {c: tuple(balance.get(c, {}).get(k) for k in ("free", "used")) for c in ("SOL", "USDT")}

            balances = Listener(watch, show)
            topic = {"bybit": "wallet", "okx": "account", "gate": "spot.balances"}.get(venue, "user")
            await b.server.listening(topic)
            b.ledger.create(SOL, "buy", "market", "1", cid="a")
            b.ledger.create(SOL, "buy", "limit", "2", "100", cid="b")
            expected = {"SOL": (0.999, 0), "USDT": (9649.99, 200)}
            await until(lambda: balances.seen and balances.seen[-1] == expected)
            await balances.close()
            assert expected == {c: (float(b.ledger.free(c)), float(b.ledger.used[c])) for c in expected}

    run(job)


@each
@pytest.mark.parametrize("may", [False, True])
def test_what_the_key_may(venue: str, may: bool) -> None:
    """Whether it may withdraw, where the venue says so; Gate does not."""

    async def job() -> None:
        async with bench(venue) as b:
            dialect = b.server.venues[venue]
            assert isinstance(dialect, Dialect)
            dialect.withdraw = may
            if venue == "binance":
                assert (await b.x.sapiGetAccountApiRestrictions())["enableWithdrawals"] is may
            elif venue == "bybit":
                allowed = (await b.x.privateGetV5UserQueryApi())["result"]["permissions"]["Wallet"]
                assert ("Withdraw" in allowed) == may
            elif venue == "okx":
                allowed = (await b.x.privateGetAccountConfig())["data"][0]["perm"].split(",")
                assert ("withdraw" in allowed) == may
            else:
                assert (await b.x.privateAccountGetDetail())["key"]["mode"] in (1, "1")

    run(job)


@pytest.mark.parametrize("doubled", [False, True])
def test_doubled_events_are_two_frames(doubled: bool) -> None:
    """Counted on the wire, since the caches of ccxt take the second for an update of the first."""

    async def job() -> None:
        async with bench("bybit") as b, listening(b) as (orders, _):
            client = next(iter(b.x.clients.values()))
            frames: list[Any] = []
            handle = client.on_message_callback

            def note(client: Any, message: Any) -> None:
                frames.append(message.get("topic"))
                handle(client, message)

            client.on_message_callback = note
            b.server.stream = "doubled" if doubled else ""
            b.ledger.create(SOL, "buy", "limit", "1", "140", cid="so1")
            b.server.stream = ""
            b.ledger.create(SOL, "buy", "limit", "1", "140", cid="so2")
            await until(lambda: orders.seen and orders.seen[-1][0] == "so2")
            assert frames.count("order") == 2 + doubled

    run(job)


@each
@pytest.mark.parametrize("wrong", ["key", "secret", "clock", "denied"])
def test_a_stream_wants_the_right_login(venue: str, wrong: str) -> None:
    async def job() -> None:
        async with bench(venue) as b:
            dialect = b.server.venues[venue]
            assert isinstance(dialect, Dialect)
            if wrong == "clock":
                b.server.skew_ms = 120_000
            elif wrong == "denied":
                dialect.denied = "ip"
            else:
                setattr(b.x, "apiKey" if wrong == "key" else "secret", "wrong")
            if venue == "bybit":  # it would ask REST first, which is refused as well
                b.x.options |= {"enableUnifiedMargin": False, "enableUnifiedAccount": True}
            orders = Listener(lambda: b.x.watch_orders(SOL), lambda o: o)
            await until(lambda: orders.error)
            await orders.close()
            # Binance: the client stumbles over its own cleaning up after the refusal.
            expected = {"binance": "KeyError", "bybit": "ExchangeError"}.get(venue, "AuthenticationError")
            if venue == "okx" and wrong == "clock":
                expected = "InvalidNonce"
            assert type(orders.error).__name__ == expected
            topics = {topic for connection in b.server.sockets for topic in connection.topics}
            assert not any(what == "private" for what, _ in topics)

    run(job)


# ------------------------------------------------------------------------------------------------- the engine by itself


def test_fees_in_a_third_coin() -> None:
    async def job() -> None:
        async with bench("binance") as b:
            b.ledger.total["BNB"] = Decimal(1)
            b.ledger.coin = ("BNB", Decimal(600))
            told = await b.buy(1)
            assert told["fees"] == [{"currency": "BNB", "cost": 0.00025002}]
            assert b.ledger.total["SOL"] == 1
            assert b.ledger.total["BNB"] == Decimal("0.99974998")

    run(job)


def test_levels_are_taken_from_the_best_on() -> None:
    """What is offered is taken, by one order after the other; a limit stops where it says."""
    server = TradingExchange(["binance"])
    ledger = server.ledger()
    server.offer(SOL, "0.5", "0.5", "0.5")
    first = ledger.create(SOL, "buy", "limit", "0.7", "150.02", cid="a")
    second = ledger.create(SOL, "buy", "limit", "1", "150.02", cid="b")
    third = ledger.create(SOL, "buy", "market", "1", cid="c")
    assert [[(str(f.price), str(f.amount)) for f in order.fills] for order in (first, second, third)] == [
        [("150.01", "0.5"), ("150.02", "0.2")], [("150.02", "0.3")], [("150.03", "0.5")]
    ]  # fmt: skip
    assert [order.status for order in (first, second, third)] == ["closed", "open", "expired"]
    server.move(SOL, "150.03")
    assert second.remaining == Decimal("0.7")
    server.move(SOL, "150.02")
    assert second.status == "closed"


def test_resting_orders_are_filled_by_price_then_age() -> None:
    server = TradingExchange(["binance"])
    ledger = server.ledger()
    for cid, price in (("low", "139"), ("first", "140"), ("second", "140")):
        ledger.create(SOL, "buy", "limit", "1", price, cid=cid)
    server.move(SOL, "138", "2.5")
    assert [(f.order.cid, str(f.price), str(f.amount)) for f in ledger.fills] == [
        ("first", "140", "1"), ("second", "140", "1"), ("low", "139", "0.5")
    ]  # fmt: skip


def test_a_stop_to_buy_that_cannot_be_paid_any_more() -> None:
    """The market jumped over it; what was locked for it is free again, nothing is bought."""
    server = TradingExchange(["binance"])
    ledger = server.ledger()
    order = ledger.create(SOL, "buy", "market", "62", cid="a", trigger="160", above=True)
    assert ledger.used["USDT"] == 62 * 160
    server.move(SOL, "159.99")
    assert order.waiting
    server.move(SOL, "170")
    assert (order.status, order.why, order.filled) == ("expired", "funds", 0)
    assert ledger.balances() == {"USDT": (10_000, 0)}
    with pytest.raises(Refusal, match="trigger"):
        ledger.create(SOL, "buy", "market", "1", cid="b", trigger="160", above=True)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("venue", VENUES)
def test_nothing_is_lost_and_nothing_is_lent(venue: str, seed: int) -> None:
    """Random orders, cancels and moves: balances are what the fills make them, exact; locked is what rests; free is never
    below nothing."""
    server = TradingExchange([venue])
    ledger: Ledger = server.ledger()
    dice = random.Random(seed)
    refused = 0
    for step in range(300):
        if dice.random() < 0.3:
            server.move(SOL, f"{dice.randint(14000, 16000) / 100:.2f}", dice.choice([None, "0.5", "2"]))
        elif dice.random() < 0.1:
            server.offer(SOL, *dice.choice([(), ("1",), ("0.3", "0.4")]))
        elif dice.random() < 0.2:
            pending = [order for order in ledger.orders.values() if order.open]
            if pending:
                ledger.cancel(dice.choice(pending))
        else:
            funds = dice.random() < 0.1
            side = "buy" if funds else dice.choice(["buy", "sell"])
            kind = "market" if funds else dice.choice(["market", "limit"])
            try:
                ledger.create(
                    SOL, side, kind, None if funds else f"{dice.randint(1, 20_000) / 1000:.3f}",
                    f"{dice.randint(14000, 16000) / 100:.2f}", cid=f"so{step}", tif=dice.choice(["GTC", "IOC", "PO"]),
                    funds=f"{dice.randint(500, 50000) / 100:.2f}" if funds else None,
                )  # fmt: skip
            except Refusal:
                refused += 1
        made = {"USDT": Decimal(10_000), "SOL": Decimal(0)}
        for fill in ledger.fills:
            sign = 1 if fill.order.side == "buy" else -1
            made["SOL"] += sign * fill.amount
            made["USDT"] -= sign * fill.cost
            made[fill.fee_currency] -= fill.fee
        assert made == {name: ledger.total[name] for name in made}
        pending = [order for order in ledger.orders.values() if order.open]
        assert ledger.used["USDT"] == sum(o.remaining * o.price for o in pending if o.side == "buy" and o.price)
        assert ledger.used["SOL"] == sum(o.remaining for o in pending if o.side == "sell")
        assert all(ledger.free(name) >= 0 for name in made)
        for order in ledger.orders.values():
            assert order.filled == sum((f.amount for f in order.fills), Decimal(0)) <= order.amount
            assert order.open or order.status != "closed" or order.filled == order.amount
    assert len(ledger.fills) > 20
    assert refused


def test_a_client_in_another_process() -> None:
    """It needs the port and the authority, nothing else."""
    code = (
        "import asyncio, sys\n"
        "from local_exchange import closed\n"
        "from trading_exchange import Far, trader\n"
        "async def job():\n"
        "    made = trader('okx', Far(int(sys.argv[1]), sys.argv[2]))\n"
        "    try:\n"
        "        await made.create_order('SOL/USDT', 'limit', 'buy', 1, 140, {'clientOrderId': 'so1'})\n"
        "    finally:\n"
        "        await closed(made)\n"
        "asyncio.run(job())\n"
    )

    async def job() -> None:
        async with TradingExchange(["okx"]) as server:
            port, authority = server.whereabouts()
            here = Path(__file__).parent
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(port), authority, cwd=here)
            assert await child.wait() == 0
            assert [order.cid for order in server.ledger().orders.values()] == ["so1"]

    run(job)
