"""Levels that rest on the book: the ledger is that of levels that are sent when they are reached, and no coin is sold twice."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from test_live import LIMITS, SOL, Desk, at, buy, opened

import smartorders_lab as so
from smartorders_lab.brokers import resting, venues
from smartorders_lab.brokers.live import LiveBroker
from smartorders_lab.brokers.venues import FACTS
from smartorders_lab.trading import live
from smartorders_lab.verify import verify

TP1 = {"target": 155, "size": 50, "kind": "limit"}
TP2 = {"target": 165, "size": 50, "kind": "limit"}


class Book(Desk):
    """A desk whose levels rest."""

    levels = "resting"

    def start(self, **how: Any) -> so.Session:
        return super().start(**{"levels": self.levels, "streams": True, **how})

    def asks(self) -> list[tuple[Decimal, Decimal]]:
        """(price, amount that is left) of what is for sale at the exchange."""
        found: list[Any] = self.exchange.do(
            lambda: sorted(
                (order.price, order.amount - order.filled)
                for order in self.ledger.orders.values()
                if order.open and order.side == "sell"
            )
        )
        return found

    def rest(self, *asks: tuple[Any, Any]) -> None:
        want = [(Decimal(price), Decimal(amount)) for price, amount in asks]
        self.until(lambda: self.asks() == want, f"{want} rest")

    def sales(self) -> list[tuple[Decimal, Decimal]]:
        found: list[Any] = self.exchange.do(
            lambda: [(fill.price, fill.amount) for fill in self.ledger.fills if fill.order.side == "sell"]
        )
        return found

    def orders(self) -> int:
        return int(self.exchange.do(lambda: len(self.ledger.orders)))

    def bought(self, quantity: str, **fields: Any) -> int:
        oid = self.session.place(buy(quantity, **fields))
        self.move(150)
        self.holds(oid, quantity)
        return oid

    def meets(self, fault: str = "", *kinds: str) -> None:
        """From now on each request of these kinds meets that fault."""

        def set_() -> None:
            self.server.chaos, self.server.chaotic = (random.Random(1), 1, [fault]) if fault else None, kinds

        self.exchange.do(set_)

    def sell_first(self) -> None:
        """What is for sale cheapest is bought, and no tick says so."""
        first = min((order for order in self.ledger.listed(open=True) if order.side == "sell"), key=lambda o: o.price)
        self.ledger.book(first, first.remaining)

    def refuses_to_go(self) -> None:
        """What rests is being taken back, and `meets` that."""
        self.until(lambda: any(ask.fault for ask in [*self.server.asked]), "it is being taken back")

    def sold(self) -> Decimal:
        return sum((amount for _, amount in self.sales()), Decimal(0))

    def lived_through_again(self) -> None:
        """The journal gives the same bytes once more, without an exchange."""
        self.session.close()
        found = verify(self.store, self.session.id)
        assert found.ok, found


def desk(venue: str, folder: Path, levels: str = "resting") -> contextlib.AbstractContextManager[Book]:
    made = Book(venue, folder)
    made.levels = levels
    made.ledger.maker = made.ledger.taker = Decimal(0)
    return opened(made)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resting, "TURN_S", 0.02)
    monkeypatch.setattr(resting, "AGAIN_S", 0.2)
    monkeypatch.setattr(resting, "ASK_S", 0.1)
    monkeypatch.setattr(resting, "GIVE_UP_S", 60.0)  # on a machine that stands still


def lived(one: Book) -> list[tuple[Any, ...]]:
    """A whole life; returns the ledger of it."""
    rests = one.levels == "resting"
    oid = one.session.place(
        buy(entry=at(149), take_profits=[TP1, TP2], stop_loss=140, trailing_stop="3%", break_even=True)
    )
    one.move(150, 149)
    one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "it rests at the exchange")
    one.move(148.9, size=1)
    one.holds(oid, "1")
    if rests:
        one.rest((155, "0.5"), (165, "0.5"))
    one.move(148.9)
    one.holds(oid, "4")
    one.session.add_funds(oid, quantity=1)
    one.holds(oid, "5")
    if rests:
        one.rest((155, "2.5"), (165, "2.5"))
    one.session.edit(oid, take_profits=[{**TP1, "target": 154}, TP2])
    if rests:
        one.rest((154, "2.5"), (165, "2.5"))
    one.move(154.5)
    one.is_(oid, "PARTIALLY_CLOSED")
    one.holds(oid, "2.5")
    assert float(one.session.order(oid)["stop"]) >= 149, "break-even"
    one.session.reduce_funds(oid, quantity="0.5")
    one.holds(oid, "2")
    if rests:
        one.rest((165, "2"))
    one.move(160, 164, 158)
    one.is_(oid, "STOPPED")
    assert one.session.order(oid)["exit_reason"] == "trailing_stop"
    one.true()
    events = one.session.events(oid)
    return events.select("kind", "role", "level", "quantity", "status", "reason").rows()


@pytest.mark.parametrize("venue", FACTS)
def test_the_ledger_is_that_of_levels_on_trigger(venue: str, tmp_path: Path) -> None:
    with desk(venue, tmp_path) as one:
        rested = lived(one)
        one.lived_through_again()
    if venue == "binance":
        (tmp_path / "again").mkdir()
        with desk(venue, tmp_path / "again", "on_trigger") as other:
            sent = lived(other)
        assert rested == sent


@pytest.mark.parametrize("venue", FACTS)
def test_a_level_is_filled_while_nobody_is_there(venue: str, tmp_path: Path) -> None:
    """The price was there and left again, so no tick says so to the session: the exchange does."""
    with desk(venue, tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2], break_even=True)
        one.rest((155, 2), (165, 2))
        one.session.close()
        assert len(one.asks()) == 2, "they stay"
        one.exchange.do(lambda: [one.server.move(SOL, price) for price in (155.5, 152)])
        session = one.start()
        one.is_(oid, "PARTIALLY_CLOSED")
        one.holds(oid, "2")
        assert not session.broker.guard.halted, "nothing is missing from the account"
        assert float(session.order(oid)["stop"]) >= 150, "break-even"
        assert session.order(oid)["levels"][0]["status"] == "FILLED"
        one.rest((165, 2))
        one.move(149)
        one.is_(oid, "STOPPED")
        one.true()
        one.lived_through_again()


@pytest.mark.parametrize("venue", ["binance", "coinbase", "gate"])
def test_a_level_that_is_reached_is_the_order_that_is_there(venue: str, tmp_path: Path) -> None:
    """Its place in the queue is kept; a stop takes back what is left of it, and sells that."""
    with desk(venue, tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1])
        one.rest((155, 2))
        before = one.orders()
        one.move(155.5, size=0.75)
        one.holds(oid, "3.25")
        assert one.session.order(oid)["levels"][0]["status"] == "TRIGGERED"
        one.move(154)
        assert (one.orders(), one.asks()) == (before, [(155, Decimal("1.25"))])
        one.move(155.5, size=0.5)
        one.holds(oid, "2.75")
        assert one.orders() == before
        one.move(150, 145, 139)
        one.is_(oid, "STOPPED")
        one.true()
        assert one.sold() == 4
        assert one.orders() == before + 2, "what was free at once, and what came back"
        one.lived_through_again()


@pytest.mark.parametrize("venue", ["binance", "bybit"])
def test_a_level_that_is_reached_goes_on_after_a_start(
    venue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = dataclasses.replace(venues.FACTS[venue], expiry_s=0.4, lag_s=0.2)
    monkeypatch.setitem(venues.FACTS, venue, facts)
    monkeypatch.setattr(LiveBroker, "patience_s", 10.0)
    with desk(venue, tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        before = one.orders()
        one.move(155.5, size=0.75)
        one.holds(oid, "3.25")
        one.session.close()
        session = one.start()  # nothing has happened, and nothing is in doubt
        assert not [job for job in session.book.jobs.values() if job.open and job.doubted]
        session.close()
        one.exchange.do(lambda: [one.server.move(SOL, price, 0.25) for price in (154, 155.5, 154)])
        session = one.start()
        one.holds(oid, "3")
        one.move(155.5, size=0.5)
        one.holds(oid, "2.5")
        assert (one.orders(), one.asks()) == (before, [(155, Decimal("0.5")), (165, 2)])
        assert session.order(oid)["levels"][0]["status"] == "TRIGGERED"
        one.move(156)
        one.holds(oid, "2")
        session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()
        one.lived_through_again()


def test_a_level_that_was_sold_in_part_is_sent_for_what_is_left_after_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it sold was told before, and it is gone when the next start looks: the coins of another order are not sold for it."""
    facts = dataclasses.replace(venues.FACTS["bybit"], expiry_s=0.4, lag_s=0.2)
    monkeypatch.setitem(venues.FACTS, "bybit", facts)
    with desk("bybit", tmp_path) as one:
        other = one.bought("3", stop_loss=130)
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.move(155.5, size=0.75)
        one.holds(oid, "3.25")
        one.move(154)
        one.session.close()
        one.exchange.do(
            lambda: one.ledger.cancel(next(order for order in one.ledger.listed(open=True) if order.price == 155))
        )
        session = one.start()
        one.rest((155, Decimal("1.25")), (165, 2))
        one.move(156)
        one.holds(oid, "2")
        session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.holds(other, "3")
        one.true()
        assert one.sold() == 4
        one.lived_through_again()


def test_a_level_that_sells_more_than_it_is_asked_for_sells_no_coin_of_another_order(tmp_path: Path) -> None:
    """It sells before it is known that a reduction leaves less for it: the others rest for what is left."""
    with desk("binance", tmp_path) as one:
        other = one.bought("3", stop_loss=130)
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.session.reduce_funds(oid, quantity=1, price=153)
        one.rest((153, 1), (155, 2), (165, 1))
        one.session.close()
        one.exchange.do(lambda: one.server.move(SOL, 156))  # while nobody is there
        one.start()
        one.rest((165, 1))
        one.holds(oid, "1")
        one.move(155, 160, 166)
        one.is_(oid, "CLOSED")
        one.holds(other, "3")
        assert one.sold() == 4
        one.lived_through_again()


@pytest.mark.parametrize("quantity", [3, "3.999"])
def test_a_reduction_does_not_sell_what_a_level_has_sold_meanwhile(quantity: Any, tmp_path: Path) -> None:
    with desk("kraken", tmp_path) as one:
        other = one.bought("3", stop_loss=130)
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.meets("reset before", "cancel")
        one.session.reduce_funds(oid, quantity=quantity)
        one.refuses_to_go()
        one.exchange.do(one.sell_first)
        one.meets()
        one.is_(oid, "CLOSED")
        assert one.asks() == []
        one.holds(other, "3")
        assert one.sold() == 4
        one.lived_through_again()


def test_a_level_that_sells_while_an_edit_has_it_taken_back_sells_once(tmp_path: Path) -> None:
    """The tick is there before the look: its child waits for the trades, and what they are too many is a reduction."""
    with desk("kraken", tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.meets("reset before", "cancel")
        one.session.edit(oid, take_profits=[{**TP1, "size": 49}, {**TP2, "size": 51}])
        one.refuses_to_go()
        one.meets("reset before", "cancel", "order", "open", "closed", "trades")
        one.move(155.5)
        one.until(lambda: one.session.order(oid)["levels"][0]["status"] == "TRIGGERED", "triggered")
        one.meets()
        one.rest((165, 2))
        one.holds(oid, "2")
        assert one.sold() == 2
        one.lived_through_again()


@pytest.mark.parametrize("kind", ["limit", "market"])
def test_an_edited_level_is_reached_before_the_old_one_is_taken_back(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with desk("binance", tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[{**TP1, "target": 165, "size": 100}])
        one.rest((165, 4))

        async def busy(*_: Any) -> None:
            """With another order."""

        monkeypatch.setattr(resting.Rests, "_tend", busy)
        one.session._call(one.session.broker.rests.fresh())  # what was under way is done
        one.session.edit(oid, take_profits=[{"target": 151, "size": 100, "kind": kind}])
        one.move(152)
        one.is_(oid, "CLOSED")
        assert [amount for _, amount in one.sales()] == [4]
        one.true()


def test_a_level_that_comes_to_nothing_after_it_has_sold(tmp_path: Path) -> None:
    with desk("kraken", tmp_path) as one:
        oid = one.bought("10", stop_loss=140, take_profits=[{**TP1, "size": 10}, {**TP2, "size": 40}])
        one.rest((155, 1), (165, 4))
        one.meets("reset before", "cancel")
        one.session.edit(oid, take_profits=[{**TP1, "size": 0.001}, TP2])
        one.refuses_to_go()
        one.exchange.do(one.sell_first)
        one.meets()
        one.holds(oid, "9")
        one.rest((165, "4.5"))
        assert one.sold() == 1
        one.lived_through_again()


def test_a_level_that_is_edited_to_market_is_not_sold_because_the_old_one_has_sold_a_little(tmp_path: Path) -> None:
    with desk("kraken", tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[{**TP1, "size": 100}])
        one.rest((155, 4))
        one.meets("reset before", "cancel")
        one.session.edit(oid, take_profits=[{"target": 170, "size": 100, "kind": "market"}])
        one.refuses_to_go()
        one.exchange.do(lambda: one.ledger.book(one.ledger.listed(open=True)[0], Decimal("0.5")))
        one.meets()
        one.holds(oid, "3.5")
        one.session.reduce_funds(oid, quantity="0.5")
        one.holds(oid, "3")
        assert one.sold() == 1
        one.true()


def test_a_level_that_sells_while_its_order_is_cancelled_is_booked(tmp_path: Path) -> None:
    with desk("kraken", tmp_path) as one, ThreadPoolExecutor() as pool:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.meets("reset before", "cancel")
        cancelled = pool.submit(one.session.cancel, oid)
        one.refuses_to_go()
        one.exchange.do(one.sell_first)
        one.meets()
        cancelled.result()
        one.is_(oid, "CANCELLED")
        assert one.session.order(oid)["held"] == "2"
        one.true()
        one.lived_through_again()


def test_a_level_that_sells_too_much_while_its_order_is_cancelled_is_booked(tmp_path: Path) -> None:
    with desk("kraken", tmp_path) as one, ThreadPoolExecutor() as pool:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.meets("reset before", "cancel")
        one.session.edit(oid, take_profits=[{**TP1, "size": 25}, TP2])
        one.refuses_to_go()
        cancelled = pool.submit(one.session.cancel, oid)
        one.exchange.do(one.sell_first)
        one.meets()
        cancelled.result()
        one.is_(oid, "CANCELLED")
        assert one.session.order(oid)["held"] == "2"
        assert one.sold() == 2
        one.lived_through_again()


def test_an_order_that_is_cancelled_twice_while_its_level_sells_sells_once(tmp_path: Path) -> None:
    with desk("kraken", tmp_path) as one, ThreadPoolExecutor() as pool:
        oid = one.bought("4", stop_loss=140, take_profits=[{**TP1, "size": 50}])
        one.rest((155, 2))
        one.meets("reset before", "cancel")
        one.session.edit(oid, take_profits=[{"target": 170, "size": 50, "kind": "market"}])
        one.refuses_to_go()
        cancelled = pool.submit(one.session.cancel, oid)
        one.until(lambda: one.session.broker.rests._clearing, "it is being cancelled")
        with pytest.raises(so.ActionError, match="what rests of it is being taken back already; wait for that"):
            one.session.cancel(oid)
        one.exchange.do(lambda: one.ledger.book(one.ledger.listed(open=True)[0], Decimal(1)))
        one.meets()
        cancelled.result()
        one.is_(oid, "CANCELLED")
        assert one.session.order(oid)["held"] == "3"
        assert one.sold() == 1
        one.true()


def test_an_order_that_cannot_be_looked_up_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, gone = venues.Venue.find, venues.Venue.cancel
    stuck = set[str]()

    def unless_stuck(ask: Any) -> Any:
        async def asked(venue: Any, symbol: str, client_id: str, *more: Any) -> Any:
            if client_id in stuck:
                raise venues.Failed(venues.Fate.UNSURE, "no answer")
            return await ask(venue, symbol, client_id, *more)

        return asked

    monkeypatch.setattr(venues.Venue, "find", unless_stuck(found))
    monkeypatch.setattr(venues.Venue, "cancel", unless_stuck(gone))
    with desk("kraken", tmp_path) as one:
        oid = one.bought("2", stop_loss=140, take_profits=[{**TP1, "size": 100}])
        other = one.bought("4", stop_loss=130, take_profits=[{**TP2, "size": 50}])
        one.rest((155, 2), (165, 2))
        stuck |= {order.cid for order in one.ledger.listed(open=True) if order.price == 155}
        one.session.close_at_market(oid)
        one.session.edit(other, take_profits=[{**TP2, "target": 170, "size": 50}])
        one.rest((155, 2), (170, 2))
        one.session.cancel(oid)
        stuck.clear()
        one.rest((170, 2))
        one.until(lambda: one.session.order(oid)["exit_ts"], "it is over")
        one.session.cancel(other)
        one.is_(other, "CANCELLED")
        one.true()


def test_an_order_is_not_over_before_it_is_known_what_its_levels_have_sold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resting, "GIVE_UP_S", 0.5)
    with desk("kraken", tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.meets("reset before", "cancel")
        with pytest.raises(
            so.ActionError, match="order 0: kraken does not say whether what rests there has sold; try again"
        ):
            one.session.cancel(oid)
        one.is_(oid, "ACTIVE")
        one.meets()
        one.session.cancel(oid)
        one.is_(oid, "CANCELLED")
        one.true()


def test_a_new_level_with_the_number_of_one_that_is_out(tmp_path: Path) -> None:
    """It does not rest, and is sent on trigger; the other one stays."""
    with desk("binance", tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.session.take_profit(oid, level=2)
        one.session.edit(oid, take_profits=[{**TP1, "target": 158, "size": 50}])
        one.rest((165, 2))
        one.move(154, 159)
        one.holds(oid, "2")
        one.rest((165, 2))
        one.move(162, 166)
        one.is_(oid, "CLOSED")
        one.true()


def test_somebody_takes_back_what_rests(tmp_path: Path) -> None:
    """It is sent again; and once its level is reached, for what is left."""
    with desk("okx", tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))

        def cancel(price: int) -> None:
            one.ledger.cancel(next(order for order in one.ledger.listed(open=True) if order.price == price))

        one.exchange.do(lambda: cancel(165))
        one.rest((155, 2), (165, 2))
        one.move(155.5, size=0.5)
        one.holds(oid, "3.5")
        one.exchange.do(lambda: cancel(155))
        one.move(156)
        one.holds(oid, "2")
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()


@pytest.mark.parametrize("fault", ["reset before", "reset after", "empty after", "429 before"])
@pytest.mark.parametrize("venue", ["kraken", "bybit"])
def test_what_became_of_one_is_not_known(
    venue: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = dataclasses.replace(venues.FACTS[venue], expiry_s=0.4, lag_s=0.2)
    monkeypatch.setitem(venues.FACTS, venue, facts)
    with desk(venue, tmp_path) as one:
        one.exchange.do(lambda: one.server.fault(fault, "create", 2))  # the first is the entry
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.exchange.do(lambda: one.server.fault(fault, "cancel", 1))
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        assert one.asks() == []
        one.true()


def test_what_the_exchange_does_not_take_is_sent_on_trigger(tmp_path: Path) -> None:
    with desk("binance", tmp_path) as one:
        one.exchange.do(lambda: one.server.fault("refused before", "create", 2))
        oid = one.bought(
            "4",
            stop_loss=140,
            take_profits=[{**TP1, "kind": "market"}, {**TP2, "target": 160, "size": 0.001}, {**TP2, "size": 49}],
        )
        one.move(151)
        one.until(
            lambda: [price for price, _ in one.asks()] == [165], "a level at market does not rest, nor does a tiny one"
        )
        one.move(155.5)
        one.holds(oid, "2")
        one.session.cancel(oid)
        one.until(lambda: not one.asks(), "what is not managed does not rest")


def test_while_halted_what_rests_stays(tmp_path: Path) -> None:
    with desk("binance", tmp_path) as one:
        oid = one.bought("4", stop_loss=140, take_profits=[TP1, TP2])
        one.rest((155, 2), (165, 2))
        one.session.halt()
        one.move(155.5)
        one.until(lambda: len(one.sales()) == 1, "the exchange sells all the same")
        one.is_(oid, "PARTIALLY_CLOSED")
        one.holds(oid, "2")
        before = one.orders()
        one.session.close_at_market(oid)
        assert one.asks() == [(165, 2)]
        one.move(155.6)
        assert one.orders() == before, "nothing is sent"
        one.session.release()
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"levels": "on the book"}, "take one of on_trigger, resting"),
        ({"levels": "resting", "protective_stop": "2%"}, "reserve the coins"),
        ({"levels": "resting", "dry_run": True}, "not shown by a dry run"),
    ],
)
def test_what_cannot_be(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(so.SpecError) as caught:
        live("binance", store=tmp_path / "x.duckdb", confirm="live", limits=LIMITS, **given)
    assert says in str(caught.value)
    assert not (tmp_path / "x.duckdb").exists()
