"""Protective stops that rest at the exchange: they follow the effective stop, never sell beside it, and what they sold is in the books."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from local_exchange import closed
from test_live import SOL, Desk, buy, opened
from trading_exchange import TradingExchange, trader

import smartorders_lab as so
from smartorders_lab.brokers import resting, stops
from smartorders_lab.brokers.venues import FACTS, Failed, Fate, Truth, Venue, Wanted
from smartorders_lab.trading import live

AT = [name for name, facts in FACTS.items() if facts.stop]


class Safe(Desk):
    """A desk whose orders are protected 2 % beyond their stops."""

    def start(self, **how: Any) -> so.Session:
        return super().start(**{"protective_stop": "2%", "streams": True, **how})

    def stops(self) -> list[tuple[Decimal, Decimal]]:
        """(amount, trigger) of what waits at the exchange."""
        found: list[Any] = self.exchange.do(
            lambda: [
                (order.amount, order.trigger) for order in self.ledger.orders.values() if order.open and order.waiting
            ]
        )
        return found

    def protected(self, amount: str, trigger: str) -> None:
        want = [(Decimal(amount), Decimal(trigger))]
        self.until(lambda: self.stops() == want, f"{want} is protected, not {self.stops()}")

    def bought(self, quantity: str, **fields: Any) -> int:
        oid = self.session.place(buy(quantity, **fields))
        self.move(150)
        self.until(lambda: Decimal(self.session.order(oid)["held"]) > 0, "bought")
        return oid


def desk(venue: str, folder: Path) -> contextlib.AbstractContextManager[Safe]:
    made = Safe(venue, folder)
    made.ledger.maker = made.ledger.taker = Decimal(0)
    return opened(made)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is looked at again is soon, and what is to be proven absent is as well: KuCoin forgets a stop that was cancelled."""
    for name, facts in FACTS.items():
        soon = dataclasses.replace(facts, expiry_s=0.4, lag_s=0.2, stop_expiry_s=min(facts.stop_expiry_s, 1.0))
        monkeypatch.setitem(FACTS, name, soon)
    monkeypatch.setattr(resting, "TURN_S", 0.02)
    monkeypatch.setattr(resting, "AGAIN_S", 0.2)
    monkeypatch.setattr(resting, "ASK_S", 0.1)


@pytest.mark.parametrize("venue", AT)
def test_it_follows_the_stop_and_makes_way_for_exits(venue: str, tmp_path: Path) -> None:
    with desk(venue, tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[(155, 50), (165, 50)], break_even=True)
        one.protected("4", "137.2")
        one.session.edit(oid, stop_loss=140.2)  # less than a quarter of the distance
        one.session.edit(oid, stop_loss=142)
        one.protected("4", "139.16")
        one.move(155.5)
        one.is_(oid, "PARTIALLY_CLOSED")
        one.protected("2", "147")  # at break-even
        one.session.reduce_funds(oid, quantity="0.5")
        one.protected("1.5", "147")
        one.session.add_funds(oid, quantity="1")
        one.until(lambda: [amount for amount, _ in one.stops()] == [Decimal("2.5")], "what was added as well")
        one.move(148)  # its own stop comes first
        one.is_(oid, "STOPPED")
        one.until(lambda: not one.stops(), "nothing is left to protect")
        one.true()


@pytest.mark.parametrize("venue", AT)
def test_it_sells_while_nobody_is_there(venue: str, tmp_path: Path) -> None:
    with desk(venue, tmp_path) as one:
        oid = one.bought("4", stop_loss=146, take_profits=[(155, 50), (165, 50)])
        other = one.bought("1", stop_loss=100)
        one.until(lambda: sorted(one.stops()) == [(1, 98), (4, Decimal("143.08"))], "both are protected")
        one.session.close()
        assert len(one.stops()) == 2, "they stay"
        one.exchange.do(lambda: one.server.move(SOL, 143))
        assert one.stops() == [(1, 98)], "it has sold"
        session = one.start()
        one.is_(oid, "STOPPED")
        assert not one.session.broker.guard.halted, "nothing is missing from the account"
        assert session.order(oid)["exit_price"] == "143"
        assert session.order(oid)["exit_reason"] == "stop_loss"
        one.protected("1", "98")
        one.move(144)
        assert len(one.exchange.do(lambda: one.ledger.fills)) == 3, "and nothing else was"
        session.close_at_market(other)
        one.is_(other, "CLOSED")
        one.true()
        session.close()
        session = one.start()  # it stands in the journal
        assert session.order(oid)["exit_price"] == "143"
        one.true()


@pytest.mark.parametrize("venue", AT)
def test_it_fires_before_the_session_can(venue: str, tmp_path: Path) -> None:
    with desk(venue, tmp_path) as one:
        oid = one.bought("4", stop_loss=146)
        one.protected("4", "143.08")
        one.move(143)  # beyond both: the exchange is there first
        one.is_(oid, "STOPPED")
        one.true()
        assert len(one.exchange.do(lambda: one.ledger.fills)) == 2, "bought once, sold once"


def test_it_fires_while_the_session_sees_no_price(tmp_path: Path) -> None:
    with desk("binance", tmp_path) as one:
        oid = one.bought("4", stop_loss=146)
        one.protected("4", "143.08")
        one.server.mute = True
        one.exchange.do(lambda: one.server.move(SOL, 143))
        one.is_(oid, "STOPPED")
        assert one.session.order(oid)["exit_reason"] == "stop_loss"
        one.true()


def test_it_is_told_as_the_stop_that_it_stood_in_for(tmp_path: Path) -> None:
    with desk("kraken", tmp_path) as one:
        even = one.bought("4", stop_loss=140, take_profits=[(155, 50), (200, 50)], break_even=True)
        one.move(155.5)
        one.protected("2", "147")
        one.session.close()
        one.exchange.do(lambda: one.server.move(SOL, 146))
        one.start()
        one.is_(even, "STOPPED")
        assert one.session.order(even)["exit_reason"] == "break_even"
        one.true()


def test_it_fires_although_an_edit_has_taken_the_stop_away(tmp_path: Path) -> None:
    with desk("binance", tmp_path) as one:
        oid = one.bought("4", stop_loss=146, take_profits=[(200, 100)])
        one.protected("4", "143.08")
        one.server.mute = True
        one.session.halt()  # what rests stays
        one.session.edit(oid, stop_loss=None)
        one.exchange.do(lambda: one.server.move(SOL, 143))
        one.session.release()
        one.is_(oid, "CLOSED")
        assert one.session.order(oid)["exit_reason"] == "close_at_market"
        one.true()


def test_what_it_sold_in_part_and_what_it_did_not(tmp_path: Path) -> None:
    """A stop at a limit that the market has passed by: the rest is taken back and sold."""
    with desk("coinbase", tmp_path) as one:
        oid = one.bought("4", stop_loss=146)
        one.protected("4", "143.08")

        def gap() -> None:
            one.server.offer(SOL, "1.5")
            one.server.move(SOL, 143)
            one.server.offer(SOL)

        one.exchange.do(gap)

        def over() -> bool:  # what is left is sold with the ticks that come
            one.move(143.1)
            return one.session.order(oid)["status"] == "STOPPED"

        one.until(over, "the position is over")
        one.true()
        sold = one.exchange.do(lambda: [f.amount for f in one.ledger.fills if f.order.side == "sell"])
        assert sorted(sold) == [Decimal("1.5"), Decimal("2.5")]


@pytest.mark.parametrize(
    ("venue", "fault"),
    [
        *[("kraken", fault) for fault in ("reset before", "reset after", "empty after", "429 before")],
        *[(venue, "reset after") for venue in ("bybit", "okx", "gate", "bitget", "kucoin")],
        ("gate", "reset before"),
    ],
)
def test_one_of_unknown_outcome_is_looked_up(venue: str, fault: str, tmp_path: Path) -> None:
    with desk(venue, tmp_path) as one:
        one.exchange.do(lambda: one.server.fault(fault, "create", 2))
        oid = one.bought("4", stop_loss=146)
        one.protected("4", "143.08")
        one.exchange.do(lambda: one.server.fault(fault, "cancel", 1))
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        assert not one.stops()
        one.true()


def test_it_is_taken_back_when_managing_ends(tmp_path: Path) -> None:
    with desk("binance", tmp_path) as one:
        oid = one.bought("4", stop_loss=140)
        one.protected("4", "137.2")
        one.session.cancel(oid)
        one.until(lambda: not one.stops(), "what is not managed is not protected")
        one.true()


@pytest.mark.parametrize(
    ("venue", "given", "says"),
    [
        ("bybit", "2%", "is not supported at bybit yet, only at binance, okx, gate, bitget, kucoin, kraken, coinbase"),
        ("binance", "0%", "must be between 0 and 100 %"),
        ("binance", "near", "protective_stop"),
    ],
)
def test_what_cannot_be(venue: str, given: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from test_live import LIMITS

    monkeypatch.setitem(FACTS, "bybit", dataclasses.replace(FACTS["bybit"], stop=""))
    with pytest.raises(so.SpecError) as caught:
        live(venue, store=tmp_path / "x.duckdb", confirm="live", limits=LIMITS, protective_stop=given)
    assert says in str(caught.value)
    assert not (tmp_path / "x.duckdb").exists()


# ---------------------------------------------------------------------------------------------------- what a venue makes of it


class Account:
    """A venue, what it says of stops to sell, and the exchange behind it."""

    def __init__(self, name: str, server: TradingExchange):
        self.server, self.ledger = server, server.ledger(name)
        self.venue = Venue(name, lambda: trader(name, server))
        self.number = 0

    async def rest(self, amount: str = "2", trigger: str = "140") -> tuple[str, str]:
        """(client id, id) of a new stop."""
        self.number += 1
        name, at = f"sp{self.number:016d}", Decimal(trigger)
        price = None if self.venue.facts.stop == "market" else at - 1
        wanted = Wanted(name, SOL, "sell", Decimal(amount), price, self.venue.now_ms(), trigger=at)
        return name, await self.venue.create(wanted)

    async def find(self, client_id: str, id: str = "", ago_ms: int = 30_000) -> Truth | None:
        return await self.venue.find(SOL, client_id, id, self.venue.now_ms() - ago_ms, True)

    async def both(self, client_id: str, id: str) -> Truth | None:
        """What is found by client id, which is what is found by id."""
        found = await self.find(client_id)
        assert found == await self.find(client_id, id)
        assert found is None or found.id == id
        return found

    async def cancel(self, client_id: str, id: str = "") -> None:
        await self.venue.cancel(SOL, client_id, id, True)


@contextlib.asynccontextmanager
async def account(name: str) -> AsyncIterator[Account]:
    async with TradingExchange([name]) as server:
        made = Account(name, server)
        made.ledger.total["SOL"] = Decimal(10)
        await made.venue.open()
        try:
            yield made
        finally:
            await closed(made.venue.client)


def played(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test in a loop of its own."""

    @functools.wraps(test)
    def plays(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return plays


RESERVE = ("binance", "bybit", "okx", "kraken", "coinbase")
"""Where a stop that waits has its coins locked."""


@pytest.mark.parametrize("name", AT)
@played
async def test_a_stop_is_known_by_both_its_ids_whatever_becomes_of_it(name: str) -> None:
    async with account(name) as one:
        first, second = await one.rest(), await one.rest("3", "139")
        assert one.ledger.used["SOL"] == (5 if name in RESERVE else 0)
        assert await one.both(*first) == Truth(first[1], True, Decimal(0), ())
        assert await one.both(*second) == Truth(second[1], True, Decimal(0), ())
        listed = [("" if name == "gate" else cid, id) for cid, id in (first, second)]
        assert sorted(await one.venue.open_orders(SOL)) == sorted(listed)
        assert await one.find("sp9999999999999999", ago_ms=60_000) is None

        await one.cancel(*second)
        over = await one.both(*second)
        assert over == (None if name == "kucoin" else Truth(second[1], False, Decimal(0), ()))
        one.server.move(SOL, "139.9")
        sold = await one.both(*first)
        assert sold is not None
        assert (sold.open, sold.filled, [fill.amount for fill in sold.fills]) == (False, 2, [2])
        assert [fill.price for fill in sold.fills] == [Decimal("139.9")]
        assert {fill.id for fill in sold.fills} == {fill.id for fill in one.ledger.fills}
        assert await one.venue.open_orders(SOL) == []
        with pytest.raises(Failed) as failed:
            await one.cancel(*first)
        assert failed.value.fate == Fate.REFUSED
        assert await one.both(*first) == sold


@pytest.mark.parametrize("name", [name for name in AT if name != "coinbase"])
@played
async def test_a_stop_is_taken_back_by_its_client_id(name: str) -> None:
    async with account(name) as one:
        other = await one.rest("1", "139")
        stop = await one.rest()
        await one.cancel(stop[0])
        assert [id for _, id in await one.venue.open_orders(SOL)] == [other[1]]
        assert not one.ledger.orders[stop[1]].open


@pytest.mark.parametrize("name", AT)
@played
async def test_a_stop_that_fires_while_it_is_taken_back(name: str) -> None:
    """The request is on its way when the price is there: it is refused then, and what was sold is told."""
    async with account(name) as one:
        one.server.fault("late before", "cancel")
        stop = await one.rest()
        usual, one.venue.client.timeout = one.venue.client.timeout, 300
        with pytest.raises(Failed):
            await one.cancel(*stop)
        one.venue.client.timeout = usual
        one.server.move(SOL, "139.9")
        one.server.arrive()
        found = await one.both(*stop)
        assert found is not None
        assert (found.open, found.filled) == (False, 2)


@pytest.mark.parametrize("name", AT)
@played
async def test_a_stop_without_the_coins_is_refused_at_once_or_when_it_fires(name: str) -> None:
    async with account(name) as one:
        if name in RESERVE:
            with pytest.raises(Failed) as failed:
                await one.rest("11")
            assert (failed.value.fate, failed.value.poor) == (Fate.REFUSED, True)
        stop = await one.rest("10" if name in RESERVE else "11")
        one.ledger.total["SOL"] = Decimal(9)  # what is locked may be gone all the same
        one.server.move(SOL, "139.9")
        found = await one.both(*stop)
        assert one.ledger.fills == []
        if name == "kucoin":
            assert found is None, "it is forgotten"
        else:
            assert found is not None
            assert (found.open, found.filled) == (False, 0)
            assert bool(found.rejected) == (name in ("bybit", *stops.APART)), "others say that it has expired"


@pytest.mark.parametrize("name", stops.APART)
@played
async def test_what_follows_is_waited_for(name: str) -> None:
    """Until it is found nobody knows what it has sold, and whether it still does."""
    async with account(name) as one:
        stop = await one.rest()
        one.server.lag = 2
        one.server.move(SOL, "139.9")
        misses, found = 0, None
        while found is None and misses < 20:
            try:
                found = await one.find(*stop)
            except Failed as failed:
                misses += failed.fate == Fate.UNSURE
        assert 0 < misses < 20
        assert found is not None
        assert found.filled == 2


@pytest.mark.parametrize("name", ["gate", "coinbase"])
@played
async def test_what_a_stop_at_a_limit_has_become_is_taken_back(name: str) -> None:
    async with account(name) as one:
        stop = await one.rest()
        one.server.offer(SOL, "0.5")
        one.server.move(SOL, "139.9")
        found = await one.both(*stop)
        assert found is not None
        assert (found.open, found.filled) == (True, Decimal("0.5"))
        await one.cancel(*stop)
        found = await one.both(*stop)
        assert found is not None
        assert (found.open, found.filled) == (False, Decimal("0.5"))
        assert one.ledger.used["SOL"] == 0


@pytest.mark.parametrize("name", AT)
@played
async def test_what_became_of_a_request_for_a_stop_is_found_out(name: str) -> None:
    async with account(name) as one:
        for fault in ("reset after", "empty after", "502 after", "reset before"):
            one.server.fault(fault, "create")
            with pytest.raises(Failed) as failed:
                await one.rest("1")
            assert failed.value.fate == Fate.UNSURE
            found = await one.find(f"sp{one.number:016d}", ago_ms=60_000)
            assert (found is not None) == fault.endswith("after"), fault
            assert found is None or one.ledger.orders[found.id].open


@played
async def test_a_request_that_may_still_arrive_is_not_absent() -> None:
    """OKX carries out a request for a stop as long as it is younger than half a minute."""
    async with account("okx") as one:
        one.venue.facts = dataclasses.replace(one.venue.facts, stop_expiry_s=30)
        with pytest.raises(Failed, match="may still arrive"):
            await one.find("sp9999999999999999", ago_ms=29_000)
        assert await one.find("sp9999999999999999", ago_ms=31_000) is None
        assert await one.find("sp9999999999999999", "30009999", ago_ms=0) is None, "it is not asked for by client id"


@played
async def test_okx_is_given_our_client_id_alone() -> None:
    async with account("okx") as one:
        name, _ = await one.rest()
        (ask,) = [ask for ask in one.server.asked if ask.kind == "create"]
        assert ask.params["algoClOrdId"] == name
        assert {"clOrdId", "tag"}.isdisjoint(ask.params)


@played
async def test_the_order_that_follows_at_okx_goes_by_its_own_id() -> None:
    """ccxt gives it the id of the stop."""
    async with account("okx") as one:
        _, id = await one.rest()
        one.server.move(SOL, "139.9")
        child = one.ledger.orders[id].child
        assert child is not None
        found = await one.venue.find(SOL, "", child.id, one.venue.now_ms() - 30_000)
        assert found is not None
        assert (found.id, found.filled) == (child.id, 2)


@pytest.mark.parametrize("same", [False, True])
@played
async def test_what_follows_at_kucoin_is_found_with_a_new_id_and_without(same: bool) -> None:
    async with account("kucoin") as one:
        cast("Any", one.ledger.dialect).same_id = same
        stop = await one.rest()
        one.server.move(SOL, "139.9")
        found = await one.both(*stop)
        assert found is not None
        assert (found.open, found.filled) == (False, 2)


@played
async def test_a_stop_at_gate_is_known_by_how_long_it_waits_and_ends_then() -> None:
    async with account("gate") as one:
        names = [await one.rest("0.5") for _ in range(12)]
        one.ledger.create(SOL, "sell", "limit", "0.5", "139", trigger="140", given={"tif": "gtc", "expiration": 80_000})
        for name, id in names:
            found = await one.find(name)
            assert found is not None
            assert found.id == id
        marks = [stops.mark(name) for name, _ in names]
        assert len({*marks}) == len(marks)
        assert all(stops.DAY_S - stops.MARKS < mark <= stops.DAY_S for mark in marks)
        one.ledger.orders[names[0][1]].given["until_ns"] = 0
        assert await one.both(*names[0]) == Truth(names[0][1], False, Decimal(0), ())
        one.server.move(SOL, "139.9")
        assert one.ledger.orders[names[0][1]].child is None


@pytest.mark.parametrize("name", ["bybit", *stops.APART])
@played
async def test_every_stop_that_waits_is_listed(name: str) -> None:
    async with account(name) as one:
        one.ledger.total["SOL"] = Decimal(1000)
        given = {"tif": "gtc", "expiration": 80_000, "ordType": "market", "filter": "tpslOrder"}
        for number in range(230):
            one.ledger.create(SOL, "sell", "limit", "0.5", "139", cid=f"x{number}", trigger="140", given=given)
        found = await one.venue.open_orders(SOL)
        assert {id for _, id in found} == {*one.ledger.orders}
        assert len(found) == 230
