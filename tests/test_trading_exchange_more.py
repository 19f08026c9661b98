"""Bitget, KuCoin, Kraken and Coinbase as the local exchange trades them, through their real ccxt.pro clients.

What a venue does differently is a row of a table. A trap is a test as well: the wrong way has to fail here as it does
there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from local_exchange import closed, session
from trading_exchange import AFTER, BEFORE, BODIES, DIALECTS, Order, TradingExchange, trader

from smartorders_lab.brokers.venues import Venue

ccxt = pytest.importorskip("ccxt")
VENUES = ("bitget", "kucoin", "kraken", "coinbase")
SOL = "SOL/USDT"
PATIENT, BRIEF = 20_000, 300
"""How many ms a client waits, and where it is to wait in vain."""
every = pytest.mark.parametrize("venue", VENUES)


def run(job: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    asyncio.run(job(*args))


@contextlib.asynccontextmanager
async def trading(venue: str, **config: Any) -> AsyncIterator[tuple[TradingExchange, Any]]:
    """A server of one venue and a client of its account."""
    async with TradingExchange([venue]) as server:
        client = trader(venue, server, **{"timeout": PATIENT} | config)
        client.open()  # without it KuCoin's first stream fails, unless it asked for something by REST before
        try:
            yield server, client
        finally:
            await closed(client)


def named(venue: str, cid: str, **more: Any) -> dict[str, Any]:
    """The parameter that carries our id. ccxt drops the one of Coinbase without a word."""
    return {"client_order_id" if venue == "coinbase" else "clientOrderId": cid, **more}


async def limit(client: Any, cid: str, price: float = 140, amount: float = 1, side: str = "buy", **more: Any) -> Any:
    return await client.create_order(SOL, "limit", side, amount, price, named(client.id, cid, **more))


async def failure(job: Awaitable[Any]) -> str:
    """The name of what it raises, or nothing if the answer has no id, or its id."""
    try:
        answer = await job
    except Exception as error:
        return type(error).__name__
    return answer.get("id") or ""


async def outcome(job: Awaitable[Any]) -> Any:
    """The answer without what the venue adds to it, or the error."""
    try:
        answer = await job
    except ccxt.BaseError as error:
        return error
    return [one | {"info": None} for one in answer] if isinstance(answer, list) else answer | {"info": None}


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def order(server: TradingExchange, cid: str) -> Order:
    return next(order for order in server.ledger().orders.values() if order.cid == cid)


def holds(server: TradingExchange) -> dict[str, tuple[float, float]]:
    """(total, used) of each currency, as the venue has it."""
    return {name: (float(total), float(used)) for name, (total, used) in server.ledger().balances().items()}


async def told(client: Any) -> dict[str, tuple[float, float]]:
    """The same as the client is told."""
    balance = await client.fetch_balance({"v3": True} if client.id == "coinbase" else {})
    return {
        name: (balance["total"][name], balance["used"][name]) for name in balance["total"] if balance["total"][name]
    }


# ----------------------------------------------------------------------------------------------------- orders and fills


@every
def test_markets_and_balance(venue: str) -> None:
    async def job() -> None:
        async with trading(venue, load=True) as (server, client):
            await client.load_markets()
            assert set(client.markets) == {SOL, "ETH/USDT"}
            market, least = client.market(SOL), server.venues[venue]
            assert market["precision"] == {"amount": 0.001, "price": 0.01}
            assert market["limits"]["cost"]["min"] == float(least.least_cost)  # type: ignore[attr-defined]
            await limit(client, "so1")
            assert await told(client) == holds(server)
            assert holds(server)["USDT"][1] >= 140

    run(job)


MARKET_BUYS = [
    # venue, amount, price, params, what is filled, what arrives
    ("bitget", 1, 150.01, {}, 1, 0.999),
    ("bitget", 1, 150.01, {"cost": 300}, 1.999, 1.997001),
    ("kucoin", 1, None, {}, 1, 1),
    ("kucoin", 1, 999, {}, 1, 1),
    ("kucoin", 1, None, {"cost": 300}, 1.999, 1.999),
    ("kraken", 1, None, {}, 1, 1),
    ("kraken", 1, 999, {}, 1, 1),
    ("kraken", 1, None, {"cost": 300}, 1.999, 1.999),
    ("kraken", 1, None, {"oflags": "fcib"}, 1, 0.999),
    ("coinbase", 1, 150.01, {}, 0.999, 0.999),  # what is spent includes the fee
    ("coinbase", 1, 150.01, {"cost": 300}, 1.997, 1.997),
]


@pytest.mark.parametrize(("venue", "amount", "price", "params", "filled", "received"), MARKET_BUYS)
def test_a_market_buy(
    venue: str, amount: float, price: Any, params: dict[str, Any], filled: float, received: float
) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            reply = await client.create_order(SOL, "market", "buy", amount, price, named(venue, "so1", **params))
            assert reply["id"]
            assert (reply["status"], reply["filled"]) == (None, None), "it says that it has the order, no more"
            found = await client.fetch_order(reply["id"], SOL)
            assert (found["status"], found["filled"], found["average"]) == ("closed", filled, 150.01)
            assert holds(server)["SOL"] == (received, 0)
            assert await told(client) == holds(server)
            (trade,) = await client.fetch_my_trades(SOL)
            assert (trade["order"], trade["amount"], trade["takerOrMaker"]) == (reply["id"], filled, "taker")
            spent = 10_000 - holds(server)["USDT"][0]
            fees = {"USDT": trade["fee"]["cost"]} if trade["fee"]["currency"] == "USDT" else {}
            if "fcib" not in params.values():  # there it is told in a currency in which it was not paid
                assert spent == pytest.approx(trade["cost"] + fees.get("USDT", 0))
                assert received == pytest.approx(filled - (0 if fees else trade["fee"]["cost"]))

    run(job)


@pytest.mark.parametrize("venue", ["bitget", "coinbase"])
def test_a_market_buy_without_a_price_is_never_sent(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            assert await failure(client.create_order(SOL, "market", "buy", 1)) == "InvalidOrder"
            assert not server.counts["create"]

    run(job)


@every
def test_the_life_of_a_limit_order(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            id = (await limit(client, "so1"))["id"]
            (listed,) = await client.fetch_open_orders(SOL)
            assert (listed["id"], listed["clientOrderId"], listed["status"]) == (id, "so1", "open")
            assert await client.fetch_my_trades(SOL) == await client.fetch_closed_orders(SOL) == []
            server.move(SOL, "139.5", "0.4")
            found = await client.fetch_order(id, SOL)
            assert (found["status"], found["filled"], found["remaining"], found["price"]) == ("open", 0.4, 0.6, 140)
            assert await told(client) == holds(server)
            server.move(SOL, "139.5")
            found = await client.fetch_order(id, SOL)
            assert (found["status"], found["filled"], found["average"]) == ("closed", 1, 140)
            assert await client.fetch_open_orders(SOL) == []
            assert [one["id"] for one in await client.fetch_closed_orders(SOL)] == [id]
            trades = await client.fetch_my_trades(SOL)
            assert [(t["order"], t["amount"], t["price"], t["takerOrMaker"]) for t in trades] == [
                (id, 0.4, 140, "maker"), (id, 0.6, 140, "maker")
            ]  # fmt: skip
            assert len({trade["id"] for trade in trades}) == 2
            # The fee of a buy: in what was bought at Bitget, in what was paid elsewhere.
            currency = "SOL" if venue == "bitget" else "USDT"
            assert {trade["fee"]["currency"] for trade in trades} == {currency}
            paid = sum(trade["fee"]["cost"] for trade in trades)
            assert paid == pytest.approx(0.0008 * (1 if currency == "SOL" else 140))
            assert found["fee"]["currency"] == currency
            assert float(found["fee"]["cost"]) == pytest.approx(paid)
            assert await told(client) == holds(server)

    run(job)


@every
def test_ioc_takes_what_there_is_and_ends(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            server.offer(SOL, "0.4", "0.5")
            id = (await limit(client, "so1", 150.01, timeInForce="IOC"))["id"]
            found = await client.fetch_order(id, SOL)
            assert (found["status"], found["filled"]) == ("canceled", 0.4)
            assert holds(server)["USDT"][1] == 0
            server.offer(SOL)
            id = (await limit(client, "so2", 150.01, timeInForce="IOC"))["id"]
            assert (await client.fetch_order(id, SOL))["status"] == "closed"

    run(job)


POST_ONLY = {"bitget": "canceled", "kucoin": "canceled", "kraken": "canceled", "coinbase": "ExchangeError"}


@every
def test_post_only(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            told = await failure(limit(client, "so1", 150.01, postOnly=True))
            if not POST_ONLY[venue].endswith("Error"):  # accepted first
                found = await client.fetch_order(told, SOL)
                told, filled = found["status"], found["filled"]
                assert filled == 0
            assert told == POST_ONLY[venue]
            id = (await limit(client, "so2", 150, postOnly=True))["id"]
            assert (await client.fetch_order(id, SOL))["status"] == "open"
            server.move(SOL, 149)
            (trade,) = await client.fetch_my_trades(SOL)
            assert (trade["takerOrMaker"], trade["price"]) == ("maker", 150)

    run(job)


CANCELS = [
    # venue, how, whether it works
    ("bitget", "id", True), ("bitget", "clientOrderId", True),
    ("kucoin", "id", True), ("kucoin", "clientOrderId", True),
    ("kraken", "id", True), ("kraken", "clientOrderId", True),
    ("coinbase", "id", True), ("coinbase", "clientOrderId", False), ("coinbase", "client_order_id", False),
]  # fmt: skip
TOO_LATE = {"bitget": "OrderNotFound", "kucoin": "OrderNotFound", "kraken": "OrderNotFound", "coinbase": "BadRequest"}


@pytest.mark.parametrize(("venue", "how", "works"), CANCELS)
def test_cancel(venue: str, how: str, works: bool) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            id = (await limit(client, "so1"))["id"]
            await limit(client, "so2")
            server.ledger().book(order(server, "so1"), "0.4")

            async def cancel() -> Any:
                return await client.cancel_order(id if how == "id" else "", SOL, {} if how == "id" else {how: "so1"})

            if not works:
                assert await failure(cancel()) == TOO_LATE[venue]
                assert order(server, "so1").open
                return
            await cancel()
            found = await client.fetch_order(id, SOL)
            assert (found["status"], found["filled"]) == ("canceled", 0.4)
            assert order(server, "so2").open, "no other order is touched"
            assert holds(server)["USDT"][1] == pytest.approx(140, rel=0.002)
            assert await failure(cancel()) == TOO_LATE[venue]

    run(job)


@every
def test_a_cancel_that_loses_the_race(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            id = (await limit(client, "so1"))["id"]
            server.move(SOL, 139)
            assert await failure(client.cancel_order(id, SOL)) == TOO_LATE[venue]
            found = await client.fetch_order(id, SOL)
            assert (found["status"], found["filled"]) == ("closed", 1)

    run(job)


FOUND = {
    # venue: state: the ways that find an order by its client id; every other way has to fail
    "bitget": {"open": {"order", "open"}, "filled": {"order", "closed"}, "cancelled": {"order", "canceled"}},
    "kucoin": {"open": {"order", "open"}, "filled": {"order", "closed"}, "cancelled": {"order", "closed"}},
    "kraken": {"open": {"open"}, "filled": {"closed"}, "cancelled": {"closed"}},
    "coinbase": {"open": {"open", "all"}, "filled": {"closed", "all"}, "cancelled": {"canceled", "all"}},
}


@every
def test_lookups_by_client_id(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            cid = {"clientOrderId": "so1"}
            ways = {
                "order": lambda: client.fetch_order("", SOL, cid),
                "open": lambda: client.fetch_open_orders(SOL, None, None, cid if venue == "kraken" else {}),
                "closed": lambda: client.fetch_closed_orders(SOL, None, None, cid if venue == "kraken" else {}),
                "canceled": lambda: client.fetch_canceled_orders(SOL),
                "all": lambda: client.fetch_orders(SOL),
            }
            for state in FOUND[venue]:
                server.ledger().orders.clear()
                await limit(client, "other")
                id = (await limit(client, "so1"))["id"]
                if state == "filled":
                    server.ledger().book(order(server, "so1"), 1)
                elif state == "cancelled":
                    server.ledger().cancel(order(server, "so1"))
                assert (await client.fetch_order(id, SOL))["clientOrderId"] == "so1"
                found = set()
                for way, ask in ways.items():
                    try:
                        answer = await ask()
                    except ccxt.BaseError:
                        continue
                    if "so1" in {one["clientOrderId"] for one in ([answer] if way == "order" else answer)}:
                        found.add(way)
                assert found == FOUND[venue][state], state

    run(job)


def test_kraken_lists_by_client_id_hold_no_other_order() -> None:
    async def job() -> None:
        async with trading("kraken") as (server, client):
            for cid in ("so1", "so2"):
                await limit(client, cid)
            listed = await client.fetch_open_orders(SOL, None, None, {"clientOrderId": "so2"})
            assert [one["clientOrderId"] for one in listed] == ["so2"]
            await client.cancel_order("", SOL, {"clientOrderId": "so2"})
            listed = await client.fetch_closed_orders(SOL, None, None, {"clientOrderId": "so2"})
            assert [one["status"] for one in listed] == ["canceled"]
            assert order(server, "so1").open

    run(job)


def test_coinbase_drops_the_unified_client_id() -> None:
    async def job() -> None:
        async with trading("coinbase") as (server, client):
            reply = await client.create_order(SOL, "limit", "buy", 1, 140, {"clientOrderId": "so1"})
            assert reply["clientOrderId"].startswith("ccxt-")
            assert server.executions["so1"] == 0

    run(job)


def test_coinbase_balance_hides_what_is_held_unless_asked_otherwise() -> None:
    async def job() -> None:
        async with trading("coinbase") as (_, client):
            await limit(client, "so1")
            assert (await client.fetch_balance())["free"]["USDT"] == 10_000
            assert (await client.fetch_balance({"v3": True}))["free"]["USDT"] == 9859.86

    run(job)


DUPLICATES = {
    # venue: while the first is open, after it was filled
    "bitget": ("ExchangeError", "executed"),
    "kucoin": ("BadRequest", "executed"),
    "kraken": ("ExchangeError", "executed"),
    "coinbase": ("same", "same"),
}


@every
def test_the_same_client_id_again(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            first = (await limit(client, "so1"))["id"]
            for expected in DUPLICATES[venue]:
                before = server.executions["so1"]
                told = await failure(limit(client, "so1"))
                executed = server.executions["so1"] - before
                assert ("same" if told == first else "executed" if executed else told) == expected
                assert executed == (expected == "executed")
                server.move(SOL, 139)

    run(job)


PAGES = {
    # venue: of 60, what a plain call brings; with these parameters
    "bitget": ((60, 60), {}, (60, 60)),
    "kucoin": ((20, 20), {"limit": 100}, (60, 60)),
    "kraken": ((50, 50), {"ofs": 50}, (10, 10)),
    "coinbase": ((60, 60), {"limit": 7}, (7, 7)),
}


@every
def test_pages(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            for n in range(60):
                server.ledger().create(SOL, "buy", "market", "0.01", cid=f"so{n}")
            plain, params, paged = PAGES[venue]
            for given, expected in (({}, plain), (params, paged)):
                trades = await client.fetch_my_trades(SOL, None, None, given)
                orders = await client.fetch_closed_orders(SOL, None, None, given)
                assert (len(trades), len(orders)) == expected
                assert len({trade["id"] for trade in trades}) == len(trades)
            since = server.ledger().fills[30].ms + 1000
            assert await client.fetch_my_trades(SOL, since) == await client.fetch_closed_orders(SOL, since) == []

    run(job)


def test_kucoin_page_size_of_ccxt_means_nothing() -> None:
    async def job() -> None:
        async with trading("kucoin") as (server, client):
            for n in range(60):
                server.ledger().create(SOL, "buy", "market", "0.01", cid=f"so{n}")
            assert len(await client.fetch_closed_orders(SOL, None, 100)) == 20

    run(job)


@every
def test_an_order_of_more_fills_than_a_page_holds_is_read_whole(venue: str) -> None:
    async def play() -> None:
        async with trading(venue) as (server, client):
            made = Venue(venue, lambda: client)
            await made.open()
            order = server.ledger().create(SOL, "buy", "limit", "23", "140", cid="so1")
            for _ in range(230):
                server.ledger().book(order, "0.1")
            found = await made.find(SOL, "so1", order.id, made.now_ms() - 30_000)
            assert found is not None
            assert (found.filled, len(found.fills), found.open) == (23, 230, False)

    run(play)


def test_kucoin_goes_on_after_the_last_fill_of_a_page() -> None:
    async def play() -> None:
        async with trading("kucoin") as (server, client):
            order = server.ledger().create(SOL, "buy", "limit", "1", "140", cid="so1")
            numbers = [server.ledger().book(order, "0.1").number for _ in range(10)]
            asked = {"orderId": order.id, "symbol": "SOL-USDT", "limit": 4}
            rows: list[int] = []
            last: dict[str, Any] = {}
            for size in (4, 4, 2, 0):
                page = (await client.private_get_hf_fills(asked | last))["data"]
                assert len(page["items"]) == size
                rows += [int(row["id"]) for row in page["items"]]
                last = {"lastId": page["lastId"]}
            assert rows == numbers[::-1], "each once, the newest first"

    run(play)


def test_kraken_looks_nothing_up_without_an_id() -> None:
    async def play() -> None:
        async with trading("kraken") as (server, client):
            order = server.ledger().create(SOL, "buy", "limit", "1", "151", cid="so1")
            for ask in (client.private_post_queryorders, client.private_post_querytrades):
                for wrong in ("", f"{order.id},", ",".join([order.id] * 51)):
                    with pytest.raises(ccxt.ExchangeError, match="EGeneral:Invalid arguments:txid"):
                        await ask({"txid": wrong})
            with pytest.raises(ccxt.ExchangeError, match="EGeneral:Invalid arguments:txid"):
                await client.fetch_order("", SOL)
            assert (await client.fetch_order(order.id, SOL))["status"] == "closed"

    run(play)


@every
def test_lookups_lag_behind(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            server.lag = 2
            id = (await limit(client, "so1"))["id"]
            outcomes = [await failure(client.fetch_order(id, SOL)) for _ in range(3)]
            assert outcomes == [UNKNOWN_ORDER[venue], UNKNOWN_ORDER[venue], id]
            assert [ask.status for ask in server.asked[1:]] == [404 if venue == "coinbase" else 200] * 2 + [200]
            await limit(client, "so2")
            assert [len(await client.fetch_open_orders(SOL)) for _ in range(3)] == [1, 1, 2]

    run(job)


UNKNOWN_ORDER = {
    "bitget": "OrderNotFound",
    "kucoin": "OrderNotFound",
    "kraken": "InvalidOrder",
    "coinbase": "ExchangeError",
}


@every
def test_an_order_that_is_accepted_and_then_rejected(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            server.late_rejects = 1
            id = (await limit(client, "so1"))["id"]
            found = await client.fetch_order(id, SOL)
            assert (found["status"], found["filled"]) == ("canceled", 0)
            assert holds(server) == {"USDT": (10_000, 0)}

    run(job)


KRAKEN_SALES = [
    # flags, the currency that pays the fee, what the list of trades says
    ("fciq", "USDT", "USDT"), ("fcib", "SOL", "USDT"), ("", "SOL", "USDT"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "paid", "said"), KRAKEN_SALES)
def test_the_fee_of_a_kraken_sale_is_where_the_flags_put_it(flags: str, paid: str, said: str) -> None:
    async def job() -> None:
        async with trading("kraken") as (server, client):
            server.ledger().total["SOL"] = Decimal(2)
            given: dict[str, Any] = {"oflags": flags} if flags else {}
            id = (await limit(client, "so1", 150, side="sell", timeInForce="IOC", **given))["id"]
            assert order(server, "so1").fills[0].fee_currency == paid
            assert (await client.fetch_my_trades(SOL))[0]["fee"]["currency"] == said
            found = await client.fetch_order(id, SOL)
            assert found["fee"]["currency"] == paid
            assert holds(server)["SOL"][0] == (0.999 if paid == "SOL" else 1)

    run(job)


def test_a_third_coin_pays_the_fees() -> None:
    async def job() -> None:
        async with trading("bitget") as (server, client):
            server.ledger().total["BGB"], server.ledger().coin = Decimal(5), ("BGB", Decimal(3))
            await limit(client, "so1", 150.01, timeInForce="IOC")
            (trade,) = await client.fetch_my_trades(SOL)
            assert (trade["fee"]["currency"], trade["fee"]["cost"]) == ("BGB", 0.05000333)
            assert await told(client) == holds(server)
            assert holds(server)["SOL"] == (1, 0)

    run(job)


STOPS = [
    # venue, kind, limit, whether the client can send it, what a stop that is reached already becomes
    ("kraken", "market", None, True, "ExchangeError"),
    ("kraken", "limit", 129, True, "ExchangeError"),
    ("coinbase", "market", None, False, ""),
    ("coinbase", "limit", 129, True, "InvalidOrder"),
]


@pytest.mark.parametrize(("venue", "kind", "price", "sent", "reached"), STOPS)
def test_a_stop_that_rests_at_the_exchange(venue: str, kind: str, price: Any, sent: bool, reached: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            server.ledger().total["SOL"] = Decimal(3)

            def stop(cid: str, at: float) -> Any:
                return client.create_order(SOL, kind, "sell", 1, price, named(venue, cid, stopLossPrice=at))

            if not sent:
                assert await failure(stop("so1", 130)) == "NotSupported"
                return
            assert await failure(stop("so1", 155)) == reached
            id = (await stop("so1", 130))["id"]
            gone = (await stop("so2", 130))["id"]
            assert {one["id"] for one in await client.fetch_open_orders(SOL)} == {id, gone}
            await client.cancel_order(gone, SOL)
            assert holds(server)["SOL"] == (3, 1)
            for market, expected in ((130.01, ("open", 0)), (129.5, ("closed", 1)), (125, ("closed", 1))):
                server.move(SOL, market)
                found = await client.fetch_order(id, SOL)
                assert (found["status"], found["filled"]) == expected
                assert found["triggerPrice"] == 130
            assert found["average"] == 129.5

    run(job)


# ------------------------------------------------------------------------------------------------------------- refusals


REFUSALS = [
    # what, and what it becomes: bitget, kucoin, kraken, coinbase
    ("key", "AuthenticationError", "AuthenticationError", "AuthenticationError", "AuthenticationError"),
    ("secret", "AuthenticationError", "AuthenticationError", "ExchangeError", "AuthenticationError"),
    ("password", "AuthenticationError", "AuthenticationError", None, None),
    ("ip", "PermissionDenied", "AuthenticationError", "AuthenticationError", "AuthenticationError"),
    ("permission", "PermissionDenied", "AuthenticationError", "PermissionDenied", "PermissionDenied"),
    ("clock ahead", "InvalidNonce", "InvalidNonce", None, "AuthenticationError"),
    ("clock behind", "InvalidNonce", "InvalidNonce", None, "AuthenticationError"),
    ("funds", "InsufficientFunds", "InsufficientFunds", "InsufficientFunds", "InsufficientFunds"),
    ("cost", "InvalidOrder", "InsufficientFunds", "ExchangeError", "ExchangeError"),
    ("amount", "InvalidOrder", "InvalidOrder", "InvalidOrder", "ExchangeError"),
    ("step", "InvalidOrder", "InvalidOrder", "InvalidOrder", "ExchangeError"),
    ("tick", "InvalidOrder", "BadRequest", "ExchangeError", "ExchangeError"),
    ("symbol", "ExchangeError", "ExchangeError", "ExchangeError", "ExchangeError"),
    ("client id", "BadRequest", "BadRequest", "ExchangeError", None),
    ("far deadline", None, None, "ExchangeError", None),
]


@pytest.mark.parametrize(
    ("venue", "what", "expected"),
    [(venue, row[0], row[1 + n]) for row in REFUSALS for n, venue in enumerate(VENUES) if row[1 + n]],
)
def test_refusals(venue: str, what: str, expected: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            dialect: Any = server.venues[venue]
            market, amount, price, cid = client.market(SOL), 1.0, 140.0, "so1"
            more: dict[str, Any] = {}
            if what == "key":
                client.apiKey += "x"
            elif what == "secret":
                client.secret = other_secret(venue)
            elif what == "password":
                client.password += "x"
            elif what in ("ip", "permission"):
                dialect.denied = what
            elif what.startswith("clock"):
                await client.fetch_balance()
                ours = 600_000 if what == "clock ahead" else -600_000
                ms, seconds = client.milliseconds, client.seconds
                client.milliseconds = lambda: ms() + ours
                client.seconds = lambda: seconds() + ours // 1000
            elif what == "funds":
                amount = 1000
            elif what == "cost":
                amount, price = 0.01, 9
            elif what == "amount":
                dialect.least_amount, amount = Decimal("0.05"), 0.02
            elif what == "step":
                market["precision"]["amount"], amount = 1e-8, 1.00001
            elif what == "tick":
                market["precision"]["price"], price = 1e-8, 140.001
            elif what == "symbol":
                market["id"] = market["id"].replace("SOL", "XYZ")
            elif what == "client id":
                cid = "so#1" * 20
            elif what == "far deadline":
                more["deadline"] = (datetime.now(UTC) + timedelta(seconds=70)).isoformat()
            assert await failure(limit(client, cid, price, amount, **more)) == expected
            assert not server.ledger().orders
            assert server.asked[-1].kind == "create"
            assert not server.asked[-1].executed

    run(job)


@every
def test_what_was_changed_after_it_was_signed(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            await limit(client, "so1")
            honest = client.sign

            def sign(*args: Any) -> Any:
                made = honest(*args)
                if made["body"]:
                    made["body"] = made["body"].replace("so2", "so3")
                made["url"] = made["url"].replace("historical/fills", "historical/batch")
                return made

            client.sign = sign
            if venue == "coinbase":  # what it signs is the address, and not what is sent there
                assert await failure(client.fetch_my_trades(SOL)) == "AuthenticationError"
            else:
                expected = "ExchangeError" if venue == "kraken" else "AuthenticationError"
                assert await failure(limit(client, "so2")) == expected
                assert server.executions == {"so1": 1}

    run(job)


def other_secret(venue: str) -> str:
    """Another secret of the same form."""
    if venue == "kraken":
        return "b3RoZXIgc2VjcmV0"
    if venue != "coinbase":
        return "other"
    from cryptography.hazmat.primitives import serialization as how
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.derive_private_key(7, ec.SECP256R1())
    form = how.Encoding.PEM, how.PrivateFormat.TraditionalOpenSSL, how.NoEncryption()
    return key.private_bytes(*form).decode()


def test_kraken_wants_numbers_that_grow() -> None:
    async def job() -> None:
        async with trading("kraken") as (server, client):
            other = trader("kraken", server, options={"timeDifference": 5000})  # the same key, used a second time
            try:
                await client.fetch_balance()
                assert await failure(other.fetch_balance()) == "InvalidNonce"
                assert await failure(client.fetch_balance()) == ""
            finally:
                await closed(other)

    run(job)


@every
def test_permissions_are_told(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            dialect: Any = server.venues[venue]
            ask: Any = {
                "bitget": lambda: client.privateSpotGetV2SpotAccountInfo(),
                "kucoin": lambda: client.privateGetUserApiKey(),
                "kraken": lambda: client.privatePostGetApiKeyInfo(),
                "coinbase": lambda: client.v3PrivateGetBrokerageKeyPermissions(),
            }[venue]
            word = {"bitget": "withdraw", "kucoin": "Withdrawal", "kraken": "withdraw-funds",
                    "coinbase": "'can_transfer': True"}[venue]  # fmt: skip
            assert word not in str(await ask())
            dialect.withdraw = True
            assert word in str(await ask())

    run(job)


# --------------------------------------------------------------------------------------------------------------- faults


PLAIN_FAULTS = {
    "refused": "ExchangeNotAvailable", "reset": "ExchangeNotAvailable", "closed": "ExchangeNotAvailable",
    "lost": "RequestTimeout", "late": "RequestTimeout", "timeout": "RequestTimeout", "truncated": "ExchangeError",
    "empty": "", "html": "", "418": "DDoSProtection", "429": "RateLimitExceeded", "500": "ExchangeNotAvailable",
    "502": "ExchangeNotAvailable", "503": "ExchangeNotAvailable", "504": "RequestTimeout", "524": "", "broken": "",
    "braces": "",
}  # fmt: skip
"""What a fault looks like; nothing: an answer without an id, as if all were well."""
OWN_FAULTS: dict[str, dict[str, str]] = {
    "bitget": {"busy": "DDoSProtection", "nonce": "InvalidNonce", "unknown0": "ExchangeError",
               "unknown1": "ExchangeError",
               "unknown2": "ExchangeError", "unknown3": "AuthenticationError"},
    "kucoin": {"busy": "RateLimitExceeded", "nonce": "InvalidNonce", "unknown0": "BadRequest",
               "unknown1": "ExchangeNotAvailable", "braces": "ExchangeError"},
    "kraken": {"busy": "DDoSProtection", "nonce": "InvalidNonce", "unknown0": "ExchangeError",
               "unknown1": "ExchangeNotAvailable", "unknown2": "ExchangeNotAvailable",
               "unknown3": "ExchangeNotAvailable"},
    "coinbase": {"busy": "RateLimitExceeded", "nonce": "AuthenticationError", "unknown0": "ExchangeError",
                 "unknown1": "ExchangeError"},
}  # fmt: skip


SENT_AGAIN = ("reset before", "reset after", "closed after")
"""aiohttp itself sends GET and DELETE a second time when the connection is cut: the client gets the second answer."""


def faults(venue: str) -> list[tuple[str, str]]:
    """(fault, what it looks like) of every fault of a venue."""
    own = [name for name in OWN_FAULTS[venue] if name.startswith("unknown")]
    assert len(own) == len(DIALECTS[venue].unknown)
    looks = PLAIN_FAULTS | OWN_FAULTS[venue]
    before = [(f"{name} before", looks[name]) for name in (*BEFORE, *own)]
    return [*before, *((f"{name} after", looks[name]) for name in (*AFTER, *BODIES, *own))]


@every
def test_every_fault_of_a_new_order(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            late = []
            for n, (fault, expected) in enumerate(faults(venue)):
                server.fault(fault)
                client.timeout = BRIEF if expected == "RequestTimeout" and fault[0].isalpha() else PATIENT
                assert (fault, await failure(limit(client, f"so{n}", 100, 0.1))) == (fault, expected)
                executed = 1 if fault.endswith("after") else 0
                assert (fault, server.executions[f"so{n}"]) == (fault, executed)
                late += [f"so{n}"] if fault == "late before" else []
            server.arrive()
            assert [server.executions[cid] for cid in late] == [1]
            assert not server.faults
            client.timeout = PATIENT
            assert await failure(limit(client, "last", 100, 0.1)) == order(server, "last").id

    run(job)


@every
def test_every_fault_of_a_cancel(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            for n, (fault, expected) in enumerate(faults(venue)):
                client.timeout = PATIENT
                id = (await limit(client, f"so{n}", 100, 0.1))["id"]
                server.fault(fault, "cancel")
                client.timeout = BRIEF if expected == "RequestTimeout" and fault[0].isalpha() else PATIENT
                asked, alive = 1, fault.endswith("before")
                if venue == "kucoin" and fault in SENT_AGAIN:  # the only one that cancels by DELETE
                    asked, alive, expected = 2, False, id if alive else TOO_LATE[venue]
                before = server.counts["cancel"]
                assert (fault, await failure(client.cancel_order(id, SOL))) == (fault, expected)
                assert (fault, server.counts["cancel"] - before) == (fault, asked)
                assert (fault, order(server, f"so{n}").open) == (fault, alive)
            server.arrive()
            assert not order(server, f"so{[name for name, _ in faults(venue)].index('late before')}").open

    run(job)


LOOKUPS: list[tuple[str, Callable[[Any, str], Any]]] = [
    ("order", lambda client, id: client.fetch_order(id, SOL)),
    ("open", lambda client, id: client.fetch_open_orders(SOL)),
    ("closed", lambda client, id: client.fetch_closed_orders(SOL)),
    ("trades", lambda client, id: client.fetch_my_trades(SOL)),
    ("balance", lambda client, id: client.fetch_balance()),
]


@every
def test_faults_of_lookups_change_nothing(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            id = (await limit(client, "so1"))["id"]
            for kind, ask in LOOKUPS:
                answer = await outcome(ask(client, id))
                for fault in ("reset before", "429 before", "503 before", "truncated after", "closed after"):
                    server.fault(fault, kind)
                    expected = PLAIN_FAULTS[fault.split()[0]]
                    told = await outcome(ask(client, id))
                    if fault in SENT_AGAIN and venue != "kraken":  # where all is POST
                        assert (kind, fault, told) == (kind, fault, answer)
                    else:
                        assert (kind, fault, type(told).__name__) == (kind, fault, expected)
                assert (kind, await outcome(ask(client, id))) == (kind, answer)
            assert not server.faults
            assert server.executions == {"so1": 1}

    run(job)


TOO_OLD = [
    # venue, parameters, how many ms late, whether it is executed
    ("bitget", {}, 20_000, True), ("bitget", {}, 31_000, False),
    ("kucoin", {}, 3000, True), ("kucoin", {}, 6000, False),
    ("kraken", {}, 600_000, True), ("kraken", {"deadline": 9}, 0, True), ("kraken", {"deadline": 9}, 10_000, False),
    ("coinbase", {}, 60_000, True), ("coinbase", {}, 121_000, False),
]  # fmt: skip


@pytest.mark.parametrize(("venue", "params", "late_ms", "executed"), TOO_OLD)
def test_what_arrives_late(venue: str, params: dict[str, Any], late_ms: int, executed: bool) -> None:
    """A request that is still on its way may be executed long after the client has given it up."""

    async def job() -> None:
        async with trading(venue) as (server, client):
            server.fault("late before")
            given: dict[str, Any] = {}
            if params:
                given["deadline"] = (datetime.now(UTC) + timedelta(seconds=params["deadline"])).isoformat()
            client.timeout = BRIEF
            assert await failure(limit(client, "so1", **given)) == "RequestTimeout"
            client.timeout = PATIENT
            await client.fetch_open_orders(SOL)
            assert server.executions["so1"] == 0
            server.skew_ms = late_ms
            server.arrive()
            assert server.executions["so1"] == executed

    run(job)


# -------------------------------------------------------------------------------------------------------------- streams


class Watcher:
    """Keeps what a stream tells, in the order in which it does; ends with the first error."""

    def __init__(self, call: Callable[..., Any], *args: Any):
        self.seen: list[Any] = []
        self.error: BaseException | None = None
        self._task = asyncio.create_task(self._watch(call, *args))

    async def _watch(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            while True:
                told = await call(*args)
                self.seen += [dict(told)] if isinstance(told, dict) else [dict(one) for one in told]
        except Exception as error:
            self.error = error

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


TOPICS = {
    # venue: the topics of orders, fills and balances
    "bitget": ("orders:SOLUSDT", "fill:default", "account:default"),
    "kucoin": ("/spotMarket/tradeOrders", "/spotMarket/tradeOrders", "/account/balance"),
    "kraken": ("executions", "executions", "balances"),
    "coinbase": ("user:SOL-USDT", "", ""),
}


@contextlib.asynccontextmanager
async def watching(server: TradingExchange, client: Any, symbol: str | None = SOL) -> AsyncIterator[list[Watcher]]:
    """Watchers of orders, fills and balances, where the venue has those, subscribed."""
    topics = TOPICS[client.id]
    calls = [(client.watch_orders, symbol), (client.watch_my_trades, symbol), (client.watch_balance,)]
    watchers = []
    for topic, (call, *args) in zip(topics, calls, strict=True):
        if topic:
            watchers.append(Watcher(call, *args))
            await server.listening(topic)
    try:
        yield watchers
    finally:
        for watcher in watchers:
            await watcher.stop()


STORY: dict[str, list[tuple[str, float | None] | None]] = {
    # venue: (status, filled) in the stream of a new order, after 0.4 of 1, after the rest; and of a cancelled one
    "bitget": [("open", 0), ("open", 0.4), ("closed", 0.6), ("canceled", 0)],  # only what was filled last
    "kucoin": [("open", 0), ("open", 0.4), ("closed", 1), ("canceled", 0)],
    "kraken": [("open", None), None, ("closed", 1), ("canceled", None)],  # no word of a part
    "coinbase": [("open", 0), ("open", 0.4), ("closed", 1), ("canceled", 0)],
}


@every
def test_the_stream_of_orders(venue: str) -> None:
    async def job() -> None:
        async with (
            trading(venue) as (server, client),
            watching(server, client, None if venue == "kraken" else SOL) as watchers,
        ):
            orders = watchers[0].seen

            def last_is(id: str, expected: tuple[str, float | None]) -> bool:
                return [(o["status"], o["filled"]) for o in orders if o["id"] == id][-1:] == [expected]

            id = (await limit(client, "so1"))["id"]
            gone = ""
            for n, expected in enumerate(STORY[venue]):
                if n in (1, 2):
                    server.ledger().book(order(server, "so1"), ("0.4", "0.6")[n - 1])
                elif n == 3:
                    gone = (await limit(client, "so2"))["id"]
                    await client.cancel_order(gone, SOL)
                if expected is None:
                    continue
                await until(partial(last_is, gone or id, expected))
            ours = {"bitget": "so1", "kucoin": "so1", "kraken": "0", "coinbase": "so1"}
            assert {o["clientOrderId"] for o in orders if o["id"] == id} == {ours[venue]}
            if venue == "kraken":
                assert {o["info"]["cl_ord_id"] for o in orders if o["id"] == id} == {"so1"}
            if venue == "bitget":
                assert [o["info"]["accBaseVolume"] for o in orders if o["id"] == id][-1] == "1"

    run(job)


def test_the_stream_of_kraken_does_not_say_of_which_market_a_cancelled_order_was() -> None:
    async def job() -> None:
        async with trading("kraken") as (server, client), watching(server, client) as (orders, *_):
            id = (await limit(client, "so1"))["id"]
            await until(lambda: id in {one["id"] for one in orders.seen})
            await client.cancel_order(id, SOL)
            later = (await limit(client, "so2"))["id"]
            await until(lambda: later in {one["id"] for one in orders.seen})
            assert {one["status"] for one in orders.seen if one["id"] == id} == {"open"}

    run(job)


@pytest.mark.parametrize("venue", ["bitget", "kucoin", "kraken"])
def test_the_streams_of_fills_and_balances(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client), watching(server, client) as (_, fills, balances):
            id = (await limit(client, "so1"))["id"]
            for n, amount in enumerate(("0.4", "0.6")):
                server.ledger().book(order(server, "so1"), amount)
                await until(lambda n=n: len(fills.seen) == n + 1)  # type: ignore[misc]
            assert [(t["order"], t["amount"], t["price"], t["takerOrMaker"]) for t in fills.seen] == [
                (id, 0.4, 140, "maker"), (id, 0.6, 140, "maker")
            ]  # fmt: skip
            listed = await client.fetch_my_trades(SOL)
            assert [t["id"] for t in listed] == [t["id"] for t in fills.seen], "the same ids by REST and stream"
            costs = [None] * 2 if venue == "kucoin" else [t["fee"]["cost"] for t in listed]
            assert [t["fee"]["cost"] for t in fills.seen] == costs, "KuCoin's stream knows no fees"
            total = holds(server)["SOL"][0]
            await until(lambda: balances.seen and balances.seen[-1].get("SOL", {}).get("total") == total)

    run(job)


DOUBLED = {"bitget": 2, "kucoin": 1, "kraken": 2}
SWAPPED = {"bitget": "open", "kucoin": "closed", "kraken": "open", "coinbase": "open"}


@pytest.mark.parametrize("venue", DOUBLED)
def test_fills_that_are_told_twice(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client), watching(server, client) as (_, fills, *_rest):
            server.stream = "doubled"
            for cid in ("so1", "so2"):
                await limit(client, cid, 150.01, timeInForce="IOC")
            last = order(server, "so2").fills[0].id
            await until(lambda: [t["id"] for t in fills.seen].count(last) >= DOUBLED[venue])
            first = order(server, "so1").fills[0].id
            assert [t["id"] for t in fills.seen].count(first) == DOUBLED[venue]

    run(job)


@every
def test_events_in_the_wrong_order(venue: str) -> None:
    """The news of an order after those of its fill: an order that is done is open again, if its status is believed."""

    async def job() -> None:
        async with trading(venue) as (server, client), watching(server, client) as (orders, *_):
            server.stream = "swapped"
            id = (await limit(client, "so1", 150.01))["id"]
            await until(lambda: [o["status"] for o in orders.seen if o["id"] == id])
            server.stream = ""
            mark = (await limit(client, "so2", 140))["id"]
            await until(lambda: mark in {o["id"] for o in orders.seen})
            assert [o["status"] for o in orders.seen if o["id"] == id][-1] == SWAPPED[venue]
            assert (await client.fetch_order(id, SOL))["status"] == "closed"

    run(job)


@every
def test_streams_that_are_muted_or_cut(venue: str) -> None:
    async def job() -> None:
        async with trading(venue) as (server, client):
            async with watching(server, client) as watchers:
                server.stream = "muted"
                unheard = (await limit(client, "so1"))["id"]
                server.stream = ""
                heard = (await limit(client, "so2"))["id"]
                await until(lambda: heard in {o["id"] for o in watchers[0].seen})
                assert unheard not in {o["id"] for o in watchers[0].seen}
                server.drop()
                await until(lambda: all(watcher.error for watcher in watchers))
                assert all(isinstance(watcher.error, ccxt.NetworkError) for watcher in watchers)
            async with watching(server, client) as watchers:
                again = (await limit(client, "so3"))["id"]
                await until(lambda: again in {o["id"] for o in watchers[0].seen})

    run(job)


BAD_LOGINS: list[tuple[str, str, list[dict[str, Any]], str]] = [
    ("bitget", "wss://ws.bitget.com/v2/ws/private",
     [{"op": "login", "args": [{"apiKey": "bitget-key", "passphrase": "bitget-password", "timestamp": "1",
                                "sign": "x"}]}],
     "30014"),
    ("bitget", "wss://ws.bitget.com/v2/ws/private",
     [{"op": "subscribe", "args": [{"instType": "SPOT", "channel": "orders", "instId": "SOLUSDT"}]}], "30004"),
    ("kucoin", "wss://ws-api-spot.kucoin.com/?token=public",
     [{"id": "1", "type": "subscribe", "topic": "/spotMarket/tradeOrders", "privateChannel": True}], "403"),
    ("kraken", "wss://ws-auth.kraken.com/v2",
     [{"method": "subscribe", "params": {"channel": "executions", "token": "x"}, "req_id": 1}],
     "ESession:Invalid session"),
    ("coinbase", "wss://advanced-trade-ws.coinbase.com",
     [{"type": "subscribe", "channel": "user", "product_ids": [], "jwt": "a.b.c"}], "authentication failure"),
]  # fmt: skip


@pytest.mark.parametrize(("venue", "url", "messages", "expected"), BAD_LOGINS)
def test_streams_are_not_for_everybody(venue: str, url: str, messages: list[dict[str, Any]], expected: str) -> None:
    async def job() -> None:
        async with TradingExchange([venue]) as server, session(server) as door:
            if venue == "kucoin":
                server.venues[venue].tokens.add("public")  # type: ignore[attr-defined]
            async with door.ws_connect(url) as stream:
                for message in messages:
                    await stream.send_json(message)
                answer = (await stream.receive()).data
                while "welcome" in answer:
                    answer = (await stream.receive()).data
                assert expected in answer
                assert not [topic for connection in server.sockets for topic in connection.topics]

    run(job)
