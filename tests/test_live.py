"""Live sessions at the local exchange, through real ccxt clients: whole lives at all eight, faults on the way, guard rails, keys."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import ccxt
import pytest
from session_process import Exchange, Local, parting
from trading_exchange import TradingExchange, trader

import smartorders_lab as so
from smartorders_lab.brokers import live as live_module
from smartorders_lab.brokers import venues
from smartorders_lab.brokers.guard import FAILURES, REST_S, Guard, Limits
from smartorders_lab.brokers.venues import FACTS, Failed, Fate, fate
from smartorders_lab.errors import ActionError, ExchangeError, SpecError
from smartorders_lab.execution import client_id
from smartorders_lab.instrument import Instrument
from smartorders_lab.keys import Keys, Scrubber, Secret, scrub
from smartorders_lab.messages import Submit
from smartorders_lab.trading import live

SOL = "SOL/USDT"
LIMITS = {
    "symbols": [SOL],
    "max_order": 2000,
    "max_symbol": 5000,
    "max_day": 20_000,
    "max_orders": 5,
    "max_distance": "20%",
}


class Desk:
    """A live session at one venue of an exchange in this process."""

    def __init__(self, venue: str, folder: Path):
        self.venue, self.store = venue, folder / "live.duckdb"
        self.exchange = Exchange()
        self.exchange.server = TradingExchange([venue])
        self.session: so.Session

    @property
    def server(self) -> Any:
        return self.exchange.server

    @property
    def ledger(self) -> Any:
        return self.server.ledger(self.venue)

    def start(self, **how: Any) -> so.Session:
        """Without private streams unless they are asked for: then it is known what is asked of the exchange, and when."""
        how.setdefault("streams", False)
        feed = Local(self.venue, self.server.port)
        self.session = live(
            self.venue, store=self.store, confirm="live", limits=LIMITS, feed=feed, client=self.connect, **how
        )
        return self.session

    def connect(self) -> Any:
        return parting(trader(self.venue, self.server))

    def move(self, *prices: float, size: float | None = None) -> None:
        """The market trades there, and the session has seen it."""
        for price in prices:
            before = self.session.state()["symbols"].get(SOL, {}).get("ticks", 0)
            self.exchange.do(lambda price=price: self.server.move(SOL, price, size))
            if SOL in self.session.state()["symbols"]:
                self.until(lambda before=before: self.session.state()["symbols"][SOL]["ticks"] > before, "it is seen")

    def until(self, condition: Callable[[], Any], why: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.session.error is None, self.session.error
            if time.monotonic() > end:
                pytest.fail(f"not {why} in {seconds} s: {json.dumps(self.session.state(), default=str)}")
            time.sleep(0.01)

    def is_(self, oid: int, *states: str) -> None:
        self.until(lambda: self.session.order(oid)["status"] in states, f"order {oid} is {states}")

    def holds(self, oid: int, held: str) -> None:
        self.until(lambda: Decimal(self.session.order(oid)["held"]) == Decimal(held), f"order {oid} holds {held}")

    def true(self) -> None:
        """What the session says is what the exchange says: fills, and one execution for each client id; nothing is left open."""
        found = self.exchange.do(
            lambda: (copy.deepcopy(self.ledger.fills), self.server.executions, self.ledger.listed(open=True))
        )
        fills, executions, left = found
        assert left == []
        assert set(executions.values()) <= {1}
        events = self.session.events()
        ours = events.filter(events["kind"] == "filled")
        assert sorted(zip(ours["price"], ours["quantity"], strict=True)) == sorted(
            (float(fill.price), float(fill.amount)) for fill in fills
        )


D = TypeVar("D", bound=Desk)


def desk(venue: str, folder: Path, **how: Any) -> contextlib.AbstractContextManager[Desk]:
    return opened(Desk(venue, folder), **how)


@contextlib.contextmanager
def opened(made: D, **how: Any) -> Iterator[D]:
    """A desk of any kind, with its exchange and its session."""
    with made.exchange:
        made.start(**how)
        try:
            yield made
        finally:
            made.session.close()


def buy(quantity: Any = 4, **fields: Any) -> so.SmartOrder:
    return so.SmartOrder(symbol=SOL, side="buy", quantity=quantity, **{"stop_loss": 100, **fields})


def at(price: Any) -> so.Entry:
    return so.Entry(kind="limit", price=price)


# ---------------------------------------------------------------------------------------------------- whole lives


def test_an_order_that_nobody_follows_stops_the_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk("binance", tmp_path) as one:

        async def cut(*_: Any) -> None:
            raise asyncio.CancelledError

        monkeypatch.setattr(one.session.broker.venue, "find", cut)
        one.session.place(buy())
        one.exchange.do(lambda: one.server.move(SOL, 150))
        with pytest.raises(ExchangeError, match=r"binance: work on an order was broken off; .* start again"):
            one.session.wait(60)
        monkeypatch.undo()
        one.start()
        one.is_(0, "ACTIVE")


@pytest.mark.parametrize("venue", FACTS)
def test_whole_lives(venue: str, tmp_path: Path) -> None:
    with desk(venue, tmp_path, streams=True) as one:
        session = one.session
        first = session.place(
            buy(
                entry=at(149),
                take_profits=[(155, 50), (165, 50)],
                stop_loss=140,
                trailing_stop="3%",
                break_even=True,
            )
        )
        one.move(150, 149)
        one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "it rests at the exchange")
        one.move(148.9, size=1)  # some of it
        one.until(lambda: session.order(first)["status"] == "ACTIVE", "it is filled in part")
        one.move(148.9)
        one.until(lambda: float(session.order(first)["held"]) > 3.9, "all of it is filled")
        session.add_funds(first, quantity=1)
        one.until(lambda: float(session.order(first)["held"]) > 4.9, "funds are added")
        one.move(155.5)
        one.is_(first, "PARTIALLY_CLOSED")
        assert float(session.order(first)["stop"]) >= 149, "break-even"
        one.move(160, 164, 158)
        one.is_(first, "STOPPED")
        assert session.order(first)["exit_reason"] == "trailing_stop"

        second = session.place(buy(2))
        one.move(157)
        one.until(lambda: float(session.order(second)["held"]) > 1.9, "bought at market")
        session.reduce_funds(second, quantity="0.5")
        one.until(lambda: float(session.order(second)["held"]) < 1.6, "reduced")
        session.close_at_market(second)
        one.is_(second, "CLOSED")

        third = session.place(buy(entry=at(150)))
        one.move(150)
        one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "the third rests")
        session.cancel(third)
        one.is_(third, "CANCELLED")
        one.until(lambda: not one.exchange.do(lambda: one.ledger.listed(open=True)), "and is taken back")
        one.true()


@pytest.mark.parametrize(
    ("fees", "held"),
    [
        ({"taker": Decimal("0.003")}, "3.992"),
        ({"taker": Decimal("0.0002")}, "4.004"),
        ({"coin": ("BNB", Decimal(600))}, "4.005"),
    ],
)
def test_what_can_be_sold_is_what_has_arrived(fees: dict[str, Any], held: str, tmp_path: Path) -> None:
    """Whatever rate was reckoned with: fees are what the exchange has taken, in the coin in which it has."""
    with desk("binance", tmp_path) as one:
        for name, value in fees.items():
            setattr(one.ledger, name, value)
        one.ledger.total["BNB"] = Decimal(1)
        oid = one.session.place(buy("4.005", take_profits=[(155, 30), (165, 70)]))
        one.move(150)
        one.holds(oid, held)
        one.move(155.5)
        one.is_(oid, "PARTIALLY_CLOSED")
        one.session.close()
        session = one.start()  # it stands in the journal
        one.move(150)
        session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()
        assert Decimal(0) <= one.ledger.total["SOL"] < Decimal("0.001")
        assert session.order(oid)["held"] == "0"


def test_what_was_filled_meanwhile_is_found_at_the_start(tmp_path: Path) -> None:
    with desk("binance", tmp_path) as one:
        oid = one.session.place(buy(entry=at(149), take_profits=[(155, 50), (165, 50)]))
        one.move(150, 149)
        one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "it rests")
        one.session.close()
        one.exchange.do(lambda: one.server.move(SOL, 148))  # filled while nobody is there
        session = one.start()
        assert session.order(oid)["status"] == "ACTIVE", "known before anything else happens"
        session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()


def test_coins_that_are_gone_stop_everything(tmp_path: Path, quick: None) -> None:
    with desk("binance", tmp_path) as one:
        oid = one.session.place(buy(4, take_profits=[(155, 50), (165, 50)]))
        one.move(150)
        one.until(lambda: float(one.session.order(oid)["held"]) > 3.9, "bought")
        assert one.session.account()["differences"] == []
        assert one.session.refresh() == 0
        assert one.session.state()["halted"] == ""
        one.exchange.do(lambda: one.ledger.total.update(SOL=Decimal("1.5")))  # sold by hand
        one.session.refresh()
        halted = one.session.state()["halted"]
        assert halted.startswith("halted: SOL: orders hold 3.996, and the account has 1.5: the rest was sold or moved")
        assert "release()" in halted
        one.session.close()
        session = one.start()
        assert "SOL: orders hold 3.996" in session.state()["halted"], "and again at the start"
        before = len(one.ledger.orders)
        one.move(156)
        one.until(lambda: session.order(oid)["attention"], "its level is refused")
        assert len(one.ledger.orders) == before
        one.exchange.do(lambda: one.ledger.total.update(SOL=Decimal("3.996")))
        session.refresh()
        assert session.state()["halted"], "a switch stays as it is until it is set"
        session.release()
        session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()


def test_an_entry_that_a_hand_at_the_exchange_takes_back_is_over(tmp_path: Path) -> None:
    with desk("kucoin", tmp_path) as one:
        oid = one.session.place(buy(2, entry=at(149)))
        one.move(150, 149)
        one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "it rests")
        one.exchange.do(lambda: one.ledger.cancel(one.ledger.listed(open=True)[0]))
        one.is_(oid, "CANCELLED")
        assert one.session.order(oid)["exit_reason"] == "rejected"


def test_what_is_not_free_is_not_sold(tmp_path: Path) -> None:
    """Of coins that somebody else has locked or sold the rest is sold all the same, and the order asks for its user."""
    with desk("okx", tmp_path) as one:
        oid = one.session.place(buy(4))
        one.move(150)
        one.until(lambda: float(one.session.order(oid)["held"]) > 3.9, "bought")
        one.exchange.do(lambda: one.ledger.create(SOL, "sell", "limit", "1.5", 190))
        one.session.close_at_market(oid)
        one.until(lambda: float(one.session.order(oid)["held"]) < 1.6, "what is free is sold")
        assert one.session.order(oid)["held"] == "1.5"
        assert one.exchange.do(lambda: one.ledger.free("SOL")) < Decimal("0.001")
        one.until(lambda: one.session.order(oid)["attention"], "the user is asked")


def test_orders_of_ours_that_nobody_owns(tmp_path: Path) -> None:
    with desk("bybit", tmp_path) as one:
        session = one.session
        oid = session.place(buy(2, entry=at(144)))
        one.move(150, 144)
        one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "it rests")
        assert session.orphans() == []
        ours, other = client_id(session.id, oid, 1, 2), "so0123456789abcdef"
        for cid in (ours, other, "byhand"):
            one.exchange.do(lambda cid=cid: one.ledger.create(SOL, "buy", "limit", 1, 130, cid=cid))
        assert {(orphan["client_id"], orphan["ours"]) for orphan in session.orphans()} == {(ours, True), (other, False)}
        session.refresh()
        notices = [json.loads(body) for _, kind, body in session.journal.entries() if kind == "notice"]
        assert {notice[2].split()[2] for notice in notices if notice[1] == "orphan"} == {ours, other}
        assert session.state()["halted"] == ""
        cancelled = {orphan["client_id"]: orphan.get("cancelled") for orphan in session.orphans(cancel=True)}
        assert cancelled == {ours: True, other: None}
        left = one.exchange.do(lambda: {order.cid for order in one.ledger.listed(open=True)})
        assert left == {other, "byhand", client_id(session.id, oid, 1, 1)}
        session.cancel(oid)
        one.is_(oid, "CANCELLED")
    with so.paper(feed=so.recorded(so.Ticks.from_arrays([1, 2], [10.0, 10.5], unit="ns", symbol=SOL))) as paper:
        for ask in (paper.orphans, paper.account):
            with pytest.raises(ActionError, match="this session has none at an exchange"):
                ask()


def test_the_shadow_of_a_life(tmp_path: Path) -> None:
    """Beside each leg of it stands what paper would have made of it: the same prices here, other fees, and no delay."""
    with desk("binance", tmp_path) as one:
        one.ledger.coin, one.ledger.total["BNB"] = ("BNB", Decimal(600)), Decimal(1)
        session = one.session
        oid = session.place(buy(4, take_profits=[(155, 50), (165, 50)]))
        one.move(150)
        one.until(lambda: float(session.order(oid)["held"]) == 4, "bought")
        session.add_funds(oid, quantity=1)
        one.holds(oid, "5")
        one.move(150, 156)  # on paper what is sent between two ticks meets the second
        one.is_(oid, "PARTIALLY_CLOSED")
        session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.move(156)
        table = session.shadow(oid)
        assert table.select("role", "level", "quantity", "price", "paper_price").rows() == [
            ("entry", 0, 4.0, 150.01, 150.0),
            ("add_funds", 0, 1.0, 150.01, 150.0),
            ("take_profit", 0, 2.5, 156.0, 156.0),
            ("close_at_market", -1, 2.5, 156.0, 156.0),
        ]
        assert table["quantity"].to_list() == pytest.approx(table["paper_quantity"].to_list(), rel=2e-3), "in coins"
        assert table["worse"].to_list() == pytest.approx([0.01 / 150, 0.01 / 150, 0, 0], abs=1e-9)
        assert all(abs(delay) < 10**11 for delay in table["delay_ns"])
        assert json.loads(table["fees"][0]) == {"BNB": "0.00100007"}
        assert table["paper_fee"][0] == pytest.approx(0.6)
        assert session.shadow().equals(table)
        one.true()


# ---------------------------------------------------------------------------------------------------- faults


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs of absence that take less than a second, where the exchange on this machine answers in milliseconds."""
    for name, facts in FACTS.items():
        monkeypatch.setitem(venues.FACTS, name, dataclasses.replace(facts, expiry_s=0.4, lag_s=0.2))
    monkeypatch.setattr(live_module, "GIVE_UP_S", 5.0)
    monkeypatch.setattr("smartorders_lab.execution.FIRST_LOOK_NS", 50_000_000)


SOME = ("empty after", "429 before", "unknown0 before", "unknown0 after")


@pytest.mark.parametrize(
    ("venue", "fault"),
    [(venue, fault) for n, venue in enumerate(FACTS) for fault in ("reset before", "reset after", SOME[n % 4])],
)
def test_an_order_of_unknown_outcome_is_executed_once(venue: str, fault: str, tmp_path: Path, quick: None) -> None:
    with desk(venue, tmp_path) as one:
        one.exchange.do(lambda: one.server.fault(fault, "create"))
        oid = one.session.place(buy(2))
        one.move(150)
        one.until(lambda: float(one.session.order(oid)["held"]) > 1.9, "bought once it is known")
        one.exchange.do(lambda: one.server.fault(fault, "create"))
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()


def test_a_switch_stops_everything_at_once(tmp_path: Path) -> None:
    with desk("binance", tmp_path) as one:
        session = one.session
        oid = session.place(buy(2))
        one.move(150)
        one.until(lambda: float(session.order(oid)["held"]) > 1.9, "bought")
        assert [order["order"] for order in session.halt("enough")] == [oid]
        before = len(one.server.asked)
        session.close_at_market(oid)
        one.until(
            lambda: "enough" in str(session.events(oid)["reason"].to_list()) or session.order(oid)["attention"],
            "it is said",
        )
        assert [ask for ask in one.server.asked[before:] if "create" in str(ask)] == []
        session.release()

        def closed_by_now() -> bool:  # what was refused is tried again, with the ticks that come
            one.move(151)
            return session.order(oid)["status"] == "CLOSED"

        one.until(closed_by_now, "closed")
        one.true()


# ---------------------------------------------------------------------------------------------------- guard rails

SHEET = Instrument(symbol=SOL, price_increment="0.01", quantity_increment="0.001")


def child(quantity: str = "1", limit: str | None = None, opens: bool = True, name: str = "a") -> Submit:
    price = None if limit is None else SHEET.price_units(limit)
    return Submit(name, SOL, 1, 0, 1 if opens else -1, 1, SHEET.quantity_units(quantity), price, opens, False, 0, False)


TIGHT = Limits([SOL], 200, 300, 500, 2, "5%")


@pytest.mark.parametrize(
    ("before", "asked", "last", "why"),
    [
        ([], child("1"), "100", ""),
        ([], child("2"), "100", ""),
        ([], child("2.001"), "100", "limits.max_order: 200.1"),
        ([child("2", name="b")], child("1.001"), "100", "limits.max_symbol: 300.1"),
        ([child("1", name="b"), child("1", name="c")], child("0.1"), "100", "limits.max_orders: 2"),
        ([], child("1", "105"), "100", ""),
        ([], child("1", "105.01"), "100", "limits.max_distance: 105.01 is 5.01% from the last price 100"),
        ([], child("1", "94.99"), "100", "limits.max_distance"),
        ([], child("1"), None, "no price is known"),
        ([child("2", name="b")], child("99", opens=False), "100", ""),
        ([], child("99", opens=False), None, ""),
    ],
)
def test_limits(before: list[Submit], asked: Submit, last: str | None, why: str) -> None:
    guard = Guard(TIGHT)
    for one in before:
        assert guard.refusal(one, SHEET, Decimal(100)) == ""
    said = guard.refusal(asked, SHEET, None if last is None else Decimal(last))
    assert said.startswith(why)
    assert bool(said) == bool(why)


def test_limits_of_the_day_and_of_what_is_held() -> None:
    now = [1_700_000_000.0]
    guard = Guard(TIGHT, clock=lambda: now[0])
    for n in range(2):
        one = child("2", name=f"o{n}")
        assert guard.refusal(one, SHEET, Decimal(100)) == ""
        guard.filled(one, SHEET, 10_000, 2000)
        guard.over(one)
        out = child("2", opens=False, name=f"x{n}")
        guard.filled(out, SHEET, 10_000, 2000)
    assert guard.refusal(child("1.001"), SHEET, Decimal(100)).startswith("limits.max_day: 500.1")
    undone = child("1", name="undone")
    assert guard.refusal(undone, SHEET, Decimal(100)) == ""
    guard.over(undone)  # cancelled unfilled: it does not count
    assert guard.refusal(child("1"), SHEET, Decimal(100)) == ""
    now[0] += 86_400
    assert guard.refusal(child("2", name="z"), SHEET, Decimal(100)) == ""
    other = Guard(TIGHT, clock=lambda: now[0])
    other.begin({SOL: Decimal(250)}, Decimal(450))
    assert other.refusal(child("0.6"), SHEET, Decimal(100)).startswith("limits.max_symbol: 310")
    assert other.refusal(child("0.501"), SHEET, Decimal(100)).startswith("limits.max_symbol: 300.1")
    assert other.refusal(child("0.5"), SHEET, Decimal(100)) == ""
    assert Guard(TIGHT).refusal(
        child()._replace(symbol="X/Y"), SHEET.model_copy(update={"symbol": "X/Y"}), Decimal(1)
    ) == ("limits.symbols: 'X/Y' is not among them")


def test_switches_and_the_breaker(tmp_path: Path) -> None:
    now = [0.0]
    guard = Guard(TIGHT, tmp_path / "STOP", clock=lambda: now[0])
    (tmp_path / "STOP").touch()
    for opens in (True, False):
        assert "remove it" in guard.refusal(child(opens=opens), SHEET, Decimal(100))
    (tmp_path / "STOP").unlink()
    guard.halt("for lunch")
    assert guard.refusal(child(opens=False), SHEET, Decimal(100)) == "for lunch"
    guard.release()
    for _ in range(FAILURES - 1):
        guard.failed(Failed(Fate.UNSURE, ""))
    guard.failed(Failed(Fate.REFUSED, ""))
    assert guard.refusal(child(), SHEET, Decimal(100)) == ""
    guard.failed(Failed(Fate.NOT_SENT, ""))
    assert guard.refusal(child(name="b"), SHEET, Decimal(100)).startswith("the breaker is open")
    assert guard.refusal(child(opens=False), SHEET, Decimal(100)) == ""
    now[0] += REST_S
    assert guard.refusal(child(name="b"), SHEET, Decimal(100)) == ""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"symbols": []}, "limits.symbols"),
        ({"symbols": ["SOLUSDT"]}, "limits.symbols"),
        ({"max_order": 0}, "limits.max_order = 0: must be more than 0"),
        ({"max_symbol": "x"}, "limits.max_symbol = 'x': not a number"),
        ({"max_day": True}, "limits.max_day = True"),
        ({"max_orders": 0}, "limits.max_orders"),
        ({"max_distance": 5}, "limits.max_distance"),
        ({"max_ordr": 5}, "limits.max_ordr = 5: is not a limit"),
    ],
)
def test_wrong_limits(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        live("binance", store=tmp_path / "x.duckdb", confirm="live", limits=LIMITS | change)
    assert says in str(caught.value)
    assert not (tmp_path / "x.duckdb").exists()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"confirm": ""}, "live trading has to be confirmed"),
        ({"confirm": "yes"}, "live trading has to be confirmed"),
        ({"store": None}, "has to outlive its process"),
        ({"limits": {k: v for k, v in LIMITS.items() if k != "max_day"}}, "limits.max_day"),
        ({"slippage_cap": "200%"}, "slippage_cap"),
        ({"fills": {"latency": "1s"}}, "latency and participation are the exchange's own"),
        ({}, "set SMARTORDERS_BINANCE_KEY"),
    ],
)
def test_nothing_is_live_by_default(
    given: dict[str, Any], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SMARTORDERS_BINANCE_KEY", raising=False)
    monkeypatch.setattr("smartorders_lab.keys._from_keyring", lambda *_: {})
    with pytest.raises(so.SmartOrdersError) as caught:
        live("binance", **{"store": tmp_path / "x.duckdb", "confirm": "live", "limits": LIMITS, **given})
    assert says in str(caught.value)
    assert not (tmp_path / "x.duckdb").exists()


# ---------------------------------------------------------------------------------------------------- what an error means


@pytest.mark.parametrize(
    ("venue", "error", "sent", "expected"),
    [
        ("binance", ccxt.InvalidOrder("binance amount"), False, Fate.REFUSED),
        ("binance", ccxt.NetworkError("no route"), False, Fate.NOT_SENT),
        (
            "binance",
            ccxt.InsufficientFunds('binance {"code":-2010,"msg":"Account has insufficient balance"}'),
            True,
            Fate.REFUSED,
        ),
        ("binance", ccxt.InvalidOrder('binance {"code":-2010,"msg":"Duplicate order sent."}'), True, Fate.EXISTS),
        ("binance", ccxt.OperationFailed('binance {"code":-1007,"msg":"Timeout"}'), True, Fate.UNSURE),
        ("binance", ccxt.InvalidNonce('binance {"code":-1021,"msg":"Timestamp"}'), True, Fate.NOT_SENT),
        ("binance", ccxt.DDoSProtection('binance {"code":-2015,"msg":"Invalid API-key"}'), True, Fate.REFUSED),
        ("binance", ccxt.RequestTimeout("binance POST"), True, Fate.UNSURE),
        ("binance", ccxt.ExchangeError("binance Response payload is not completed"), True, Fate.UNSURE),
        ("binance", KeyError("id"), True, Fate.UNSURE),
        ("bybit", ccxt.InvalidOrder('bybit {"retCode":170146,"retMsg":"Order creation timeout"}'), True, Fate.UNSURE),
        ("bybit", ccxt.InvalidOrder('bybit {"retCode":170141,"retMsg":"Duplicate clientOrderId"}'), True, Fate.EXISTS),
        ("bybit", ccxt.ExchangeError('bybit {"retCode":10016,"retMsg":"Server error"}'), True, Fate.UNSURE),
        (
            "okx",
            ccxt.InvalidOrder('okx {"data":[{"sCode":"51016","sMsg":"clOrdId already exists"}]}'),
            True,
            Fate.EXISTS,
        ),
        ("okx", ccxt.ExchangeNotAvailable('okx {"code":"50001"}'), True, Fate.UNSURE),
        ("okx", ccxt.ExchangeError('okx {"code":"50120","msg":"no permission"}'), True, Fate.REFUSED),
        ("gate", ccxt.InvalidOrder('gate {"label":"REPEATED_CREATION"}'), True, Fate.EXISTS),
        ("gate", ccxt.AuthenticationError('gate {"label":"REQUEST_EXPIRED"}'), True, Fate.NOT_SENT),
        ("gate", ccxt.ExchangeError('gate {"label":"SERVER_ERROR"}'), True, Fate.UNSURE),
        ("bitget", ccxt.ExchangeError('bitget {"code":"40786","msg":"Duplicate clientOid"}'), True, Fate.EXISTS),
        ("bitget", ccxt.AuthenticationError('bitget {"code":"40010","msg":"Request timed out"}'), True, Fate.UNSURE),
        ("kucoin", ccxt.BadRequest('kucoin {"code":"408000","msg":"Network timeout"}'), True, Fate.UNSURE),
        (
            "kucoin",
            ccxt.InvalidOrder('kucoin {"code":"400100","msg":"validation.createOrder.clientOidDuplicated"}'),
            True,
            Fate.EXISTS,
        ),
        ("kucoin", ccxt.BadRequest('kucoin {"code":"400100","msg":"price"}'), True, Fate.REFUSED),
        ("kraken", ccxt.ExchangeError('kraken {"error":["EOrder:cl_ord_id already in use"]}'), True, Fate.EXISTS),
        ("kraken", ccxt.ExchangeError('kraken {"error":["EService:Timeout"]}'), True, Fate.UNSURE),
        ("kraken", ccxt.ExchangeError('kraken {"error":["EService:Deadline elapsed"]}'), True, Fate.REFUSED),
        (
            "kraken",
            ccxt.ExchangeError('kraken {"error":["EGeneral:Invalid arguments:volume minimum not met"]}'),
            True,
            Fate.REFUSED,
        ),
        ("coinbase", ccxt.ExchangeError('coinbase {"success": false, "error_response": {}}'), True, Fate.REFUSED),
        ("coinbase", ccxt.ExchangeError('coinbase {"error":"internal_server_error"}'), True, Fate.UNSURE),
    ],
    ids=str,
)
def test_what_an_error_says_of_its_request(venue: str, error: Exception, sent: bool, expected: Fate) -> None:
    assert fate(venue, error, sent).fate is expected


# ---------------------------------------------------------------------------------------------------- keys

CANARY = "canary-4f8a1c/with+letters="


def test_secrets_stay_where_they_are() -> None:
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    for shown in (
        repr(secret),
        str(secret),
        f"{secret:>40}",
        repr(Keys("binance", "key-of-mine", CANARY)),
        f"{[secret]}",
    ):
        assert CANARY not in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy, json.dumps):
        with pytest.raises(TypeError):
            leak(secret)  # type: ignore[operator]


def test_logs_are_scrubbed(caplog: pytest.LogCaptureFixture) -> None:
    Secret(CANARY)
    record = logging.LogRecord(
        "x", logging.ERROR, "", 0, "failed: %s", (f"https://x/?a=1&signature=abcdef123456&k={CANARY}",), None
    )
    assert Scrubber().filter(record)
    assert record.getMessage() == "failed: https://x/?a=1&signature=***&k=***"
    assert scrub('{"OK-ACCESS-SIGN": "abcdefgh", "n": 1}') == '{"OK-ACCESS-SIGN": "***", "n": 1}'
    try:
        raise ValueError(CANARY)
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "oh", (), (type(error), error, error.__traceback__))
    Scrubber().filter(record)
    assert CANARY not in logging.Formatter().format(record)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            ("binance", "", "x"),
            "the API key from the caller is missing; set SMARTORDERS_BINANCE_KEY, SMARTORDERS_BINANCE_SECRET, or",
        ),
        (("binance", "x", ""), "the API secret"),
        (("okx", "x", "y"), "the API password from the caller is missing"),
        (("binance", " hushhush", "y"), "spaces, line ends or quotes"),
        (("binance", "'hushhush'", "y"), "spaces, line ends or quotes"),
        (("binance", "hush\u00a0hush", "y"), "letters that no key has"),
    ],
)
def test_keys_that_cannot_be(given: tuple[str, ...], says: str) -> None:
    with pytest.raises(ExchangeError) as caught:
        Keys(*given)
    assert says in str(caught.value)
    assert "hush" not in str(caught.value)


def test_keys_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartorders_lab.keys._from_keyring", lambda *_: {})
    for name, value in (("KEY", "k"), ("SECRET", "s"), ("PASSWORD", "p")):
        monkeypatch.setenv(f"SMARTORDERS_OKX_TEST_{name}", value)
    assert Keys.find("okx", "test").for_ccxt() == {"apiKey": "k", "secret": "s", "password": "p"}
    with pytest.raises(ExchangeError, match="SMARTORDERS_OKX_KEY"):
        Keys.find("okx")
