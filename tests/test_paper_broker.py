"""The paper exchange: it fills what replay fills, keeps what it has answered, says the same twice, and never loses or makes money."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import resource
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kernel_run
import numpy as np
import oracle
import pytest
import strategies
from bad_cli import unprivileged
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

import smartorders_lab as so
from smartorders_lab.brokers import paper
from smartorders_lab.brokers.paper import Due, PaperBroker
from smartorders_lab.errors import DataError, StoreError
from smartorders_lab.fills import FillModel
from smartorders_lab.instrument import Instrument
from smartorders_lab.messages import Cancel, Report, Submit, What

EXAMPLES = int(os.environ.get("SMARTORDERS_EXAMPLES", "60" if os.environ.get("NUMBA_DISABLE_JIT") == "1" else "300"))


def looking(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize="CI" in os.environ,
        database=None,
    )


SPOT, SWAP = "BTC/USDT", "BTC/USDT:USDT"
ONE = Instrument(symbol=SPOT, price_increment=1, quantity_increment=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "paper.ledger"


def child(client_id: str = "a", **fields: Any) -> Submit:
    """A market buy of one unit that opens a long, at tick time 0, unless told otherwise."""
    given: dict[str, Any] = {"symbol": SPOT, "order": 0, "leg": 0, "direction": 1, "quantity": 1, "limit": None}
    given |= {"opens": True, "at_limit": False, "sent": 0, "instant": True} | fields
    side = given["direction"] if given["opens"] else -given["direction"]
    return Submit(client_id, **({"side": side} | given))


def at(broker: PaperBroker, number: int, price: int, ts: int | None = None, size: float | None = None, **quotes: int):
    """Put the market at a tick; its time is its number."""
    both = {"buy": price, "sell": price} | quotes
    broker.tick(SPOT, number, number if ts is None else ts, price, both["buy"], both["sell"], size)


def market(price: int | None = 100, instrument: Instrument = ONE, balances: Any = None, **fills: Any) -> PaperBroker:
    broker = PaperBroker(None, FillModel(**fills), balances)
    broker.list(instrument)
    if price is not None:
        broker.tick(instrument.symbol, 0, 0, price, price, price, None)
    return broker


def said(reports: list[Report]) -> list[tuple[Any, ...]]:
    return [(r.what, r.price, r.quantity, r.liquidity) if r.what == What.FILLED else (r.what,) for r in reports]


ACCEPTED, CANCELLED, ABSENT = (What.ACCEPTED,), (What.CANCELLED,), (What.ABSENT,)


def maker(price: int, quantity: int = 1) -> tuple[Any, ...]:
    return What.FILLED, price, quantity, 1


def taker(price: int, quantity: int = 1) -> tuple[Any, ...]:
    return What.FILLED, price, quantity, 2


# ---------------------------------------------------------------------------------------------------- as replay fills


class Brokered(oracle.Replay):
    """The oracle's order, whose children go to a paper broker; its own venue fills nothing.

    `restart` opens the broker anew from its ledger, at every tick at which it says so.
    """

    broker: PaperBroker
    restart: Callable[[PaperBroker, int], PaperBroker]
    ids: Iterator[int]

    def units(self, price: Decimal | None) -> int | None:
        return None if price is None else self.instrument.price_units(price)

    def venue(self) -> None:
        tick, symbol = self.tick, self.instrument.symbol
        price = self.units(tick.price)
        buy, sell = (price if quote is None else self.units(quote) for quote in (tick.buy, tick.sell))
        size = None if tick.size is None else float(tick.size)
        arrays = [np.array([value]) for value in (tick.ts, price, buy, sell)]
        listed = self.broker.due(symbol, *arrays, None if size is None else np.array([size]))
        assert listed[0] == (0 if listed[1] else 1)
        self.broker = self.restart(self.broker, self.index)
        self.broker.tick(symbol, self.index, tick.ts, price, buy, sell, size)
        before = {part for child in self.open_children() for part in self.parts(child)}
        super().venue()
        named = {due.client_id for due in listed[1]}
        for part in before - named:  # what is not listed is not touched by this tick
            assert self.broker.match(part) == [] or not self.matched(part)

    def matched(self, part: str) -> bool:
        """Whether the tick itself did something: not a cancel that a rule has sent at it."""
        return any(report.what == What.FILLED for report in self.broker.match(part))

    @staticmethod
    def parts(child: oracle.Child) -> list[str]:
        return child.__dict__.setdefault("parts", [])

    def send(self, child: oracle.Child, at: Decimal | None = None) -> None:
        child.arrives, child.moment = self.now + self.fills.latency, self.moment
        self.children.append(child)
        child.arrived = self.fills.latency == 0 and not self.commanding
        self.book(child, self.submit(child, child.quantity))

    def submit(self, child: oracle.Child, quantity: Decimal) -> list[Report]:
        places = {"entry": 0, "level": 100, "exit": 200, "add": 300, "reduce": 300}
        opens, long = child.leg in ("entry", "add"), 1 if self.long else -1
        submit = Submit(
            f"c{next(self.ids)}",
            self.instrument.symbol,
            7,
            places[child.leg] + child.number,
            1 if child.buys else -1,
            long,
            self.instrument.quantity_units(quantity),
            self.units(child.limit),
            opens,
            child.leg == "entry",
            self.now,
            not self.commanding,
        )
        self.parts(child).append(submit.client_id)
        reports = self.broker.submit(submit)
        assert reports[0].what == What.ACCEPTED
        assert self.broker.submit(submit) == reports == self.broker.query(submit.client_id)
        return reports

    def match(self, child: oracle.Child, at: Decimal | None = None) -> None:
        child.arrived = True
        reports = [report for part in self.parts(child) for report in self.broker.match(part)]
        assert reports == [report for part in self.parts(child) for report in self.broker.match(part)]
        joining = child.__dict__.pop("joining", None)
        self.book(child, reports + (self.submit(child, joining) if joining else []))

    def book(self, child: oracle.Child, reports: list[Report]) -> None:
        """Book what is new; what one tick fills of the parts of a child is one fill of it."""
        known = child.__dict__.setdefault("known", set())
        fills = [r for r in reports if r.what == What.FILLED and r.fill_id not in known]
        if not fills:
            return
        known.update(fill.fill_id for fill in fills)
        assert len({(fill.price, fill.liquidity) for fill in fills}) == 1
        assert {fill.ts for fill in fills} == {self.now}
        quantity = self.instrument.quantity(sum(fill.quantity for fill in fills))
        price = self.instrument.price(fills[0].price)
        event(f"{'entry' if child.leg in ('entry', 'add') else 'exit'} as {('maker', 'taker')[fills[0].liquidity - 1]}")
        self.fill(child, quantity, price, ("maker", "taker")[fills[0].liquidity - 1], price)

    def cancel_child(self, child: oracle.Child) -> None:
        if child.limit is None or child.cancel_arrives is not None:
            return
        child.cancel_arrives = self.now + self.fills.latency
        for part in self.parts(child):
            reports = self.broker.cancel(Cancel(part, self.instrument.symbol, self.now, not self.commanding))
            assert reports == self.broker.cancel(Cancel(part, self.instrument.symbol, self.now, not self.commanding))
            over = reports != [] and reports[-1].what == What.CANCELLED
            assert over == (self.fills.latency == 0)
        if self.fills.latency == 0:
            self.cancel_done(child)

    def cancel_done(self, child: oracle.Child) -> None:
        event("cancelled at the venue")
        for part in self.parts(child):
            last = self.broker.match(part) if self.fills.latency else self.broker.query(part)
            assert last[-1].what == What.CANCELLED
            assert last[-1].ts == self.now
        assert sum(self.broker.query(p)[-1].quantity for p in self.parts(child)) == self.instrument.quantity_units(
            child.rest
        )
        super().cancel_done(child)

    def sell_free(self, at: Decimal | None = None) -> None:
        """What joins a child of the exit that is on its way is a child of its own to the broker."""
        children = {child: child.quantity for child in self.open_children("exit")}
        super().sell_free(at)
        for child, before in children.items():
            if child.quantity > before:
                event("joins a child")
                if self.fills.latency == 0 and not self.commanding:
                    child.__dict__["joining"] = (
                        child.quantity - before
                    )  # it arrives now, and is matched in the child's turn
                else:
                    assert said(self.submit(child, child.quantity - before)) == [ACCEPTED]


def brokered(case: strategies.Case, path: Path | None, restarts: set[int]) -> list[oracle.Event]:
    replay = Brokered(
        case.order, case.instrument, [*case.ticks], case.fills, case.actions, case.start, case.poll_interval
    )

    def opened() -> PaperBroker:
        broker = PaperBroker(path, case.fills)
        broker.list(case.instrument)
        return broker

    def restart(broker: PaperBroker, index: int) -> PaperBroker:
        if index not in restarts:
            return broker
        broker.close()
        broker = opened()
        if index % 2 and broker._ledger is not None:
            broker._ledger.rewrite([*broker._state()])
            broker.close()
            broker = opened()
        return broker

    replay.broker, replay.restart, replay.ids = opened(), restart, itertools.count()
    try:
        return replay.run().events
    finally:
        replay.broker.close()


def lived(case: strategies.Case) -> list[oracle.Event]:
    """The events of the compiled engine. Where the oracle says otherwise test_kernel.py has a finding, and this is no place for it."""
    events, _ = kernel_run.replay(case)
    taken = case.order, case.instrument, case.ticks, case.fills, case.actions, case.start, case.poll_interval
    assume(not events or oracle.replay_one(*taken).events == events)
    return events


@looking(EXAMPLES)
@given(strategies.cases(bars=False))
def test_it_fills_what_replay_fills(case: strategies.Case) -> None:
    """An order whose children go through the broker lives the life that the compiled engine gives it."""
    assert brokered(case, None, set()) == lived(case)


@looking(EXAMPLES // 4)
@given(strategies.cases(bars=False), st.sets(st.integers(0, 60), min_size=1))
def test_it_fills_the_same_when_it_is_opened_anew_on_the_way(case: strategies.Case, restarts: set[int]) -> None:
    with TemporaryDirectory() as folder:
        found = brokered(case, Path(folder) / "paper.ledger", restarts)
    assert found == lived(case)


def test_fine_increments_are_matched_in_the_same_integers() -> None:
    """Small increments, with slippage, latency and participation, against replay."""
    fine = Instrument(symbol=SPOT, price_increment="0.001", quantity_increment="1e-8")
    fills = FillModel(slippage="0.123%", participation="33.3%", latency=3)
    prices, sizes = [64_000.123, 64_001.5, 64_003.25, 63_999.999, 64_010.0], [0.5, 0.25, 0.7, 1.1, 3.0]
    ticks = so.Ticks.from_arrays([0, 3, 6, 9, 12], prices, size=sizes, instrument=fine, unit="ns")
    order = so.SmartOrder(symbol=SPOT, side="buy", quantity="0.6", stop_loss="-50%")
    run = so.replay([order], ticks, fills=fills, progress=False)
    with PaperBroker(None, fills) as broker:
        broker.list(fine)
        found = []
        for n in range(5):
            price = int(ticks.price[n])
            broker.tick(SPOT, n, 3 * n, price, price, price, sizes[n])
            if n == 0:
                assert said(broker.submit(child(quantity=fine.quantity_units("0.6")))) == [ACCEPTED]
            found += broker.match("a")
        got = [(r.ts, float(fine.price(r.price)), float(fine.quantity(r.quantity))) for r in found]
    frame = run.fills.with_columns(ts=run.fills["ts"].dt.epoch("ns")).select("ts", "price", "quantity")
    assert got == frame.rows()
    assert len(got) == 3


# ---------------------------------------------------------------------------------------------------- rules by example


@pytest.mark.parametrize(
    ("fields", "fills", "before", "prices", "expected"),
    [
        ({}, {}, 100, [], [taker(100)]),
        ({"opens": False}, {"slippage": "2%"}, 101, [], [taker(98)]),
        ({"direction": -1}, {"slippage": "2%"}, 101, [], [taker(98)]),
        ({}, {"slippage": "2%"}, 101, [], [taker(104)]),
        ({"instant": False}, {}, 100, [105], [taker(105)]),
        ({}, {"latency": 2}, 100, [101, 102, 103], [taker(102)]),
        ({"limit": 100}, {}, 99, [], [taker(99)]),
        ({"limit": 100}, {}, 100, [100], []),
        ({"limit": 100, "at_limit": True}, {}, 100, [], [taker(100)]),
        ({"limit": 100, "at_limit": True}, {"latency": 1}, 90, [100], [taker(100)]),
        ({"limit": 100}, {"touch": True}, 100, [], [maker(100)]),
        ({"limit": 100}, {}, 101, [100, 99], [maker(100)]),
        ({"limit": 100}, {"touch": True}, 101, [100], [maker(100)]),
        ({"limit": 100}, {"latency": 1}, 90, [101, 90], [maker(100)]),
        ({"limit": 100, "opens": False}, {}, 99, [100, 101], [maker(100)]),
        ({"limit": 100, "opens": False}, {}, 103, [], [taker(103)]),
        ({"limit": 100, "direction": -1}, {}, 99, [98, 101], [maker(100)]),
    ],
)
def test_the_rule_of_fills(fields: Any, fills: Any, before: int, prices: list[int], expected: Any) -> None:
    broker = market(before, **fills)
    reports = broker.submit(child(**fields))
    for number, price in enumerate(prices, 1):
        at(broker, number, price)
        reports = reports + broker.match("a")
    assert said(reports) == [ACCEPTED, *expected]


def test_what_is_sent_between_two_ticks_meets_the_next_one() -> None:
    broker = market(100)
    assert said(broker.submit(child(instant=False))) == [ACCEPTED]
    assert broker.match("a") == []
    at(broker, 1, 105, ts=0)
    assert said(broker.match("a")) == [taker(105)]
    before_any = market(None)
    assert said(before_any.submit(child())) == [ACCEPTED]
    at(before_any, 0, 105)
    assert said(before_any.match("a")) == [taker(105)]


def test_quotes_are_where_market_orders_trade() -> None:
    broker = market(None)
    at(broker, 0, 100, buy=103, sell=98)
    assert said(broker.submit(child("a"))) == [ACCEPTED, taker(103)]
    assert said(broker.submit(child("b", opens=False))) == [ACCEPTED, taker(98)]
    assert said(broker.submit(child("c", direction=-1))) == [ACCEPTED, taker(98)]
    assert said(broker.submit(child("d", direction=-1, opens=False, limit=102))) == [ACCEPTED]
    at(broker, 1, 90, buy=101, sell=89)
    assert said(broker.match("d")) == [maker(102)]


def test_children_of_one_order_share_what_a_tick_offers() -> None:
    broker = PaperBroker(None, FillModel(participation="50%"))
    broker.list(ONE)
    at(broker, 0, 100, size=7.0)
    assert said(broker.submit(child("a", quantity=2))) == [ACCEPTED, taker(100, 2)]
    assert said(broker.submit(child("b", leg=1, quantity=4))) == [ACCEPTED, taker(100, 1)]
    assert said(broker.submit(child("c", leg=2, quantity=2))) == [ACCEPTED]
    assert said(broker.submit(child("other", order=1, quantity=3))) == [ACCEPTED, taker(100, 3)]
    at(broker, 1, 101, size=9.0)
    assert said(broker.match("b") + broker.match("c")) == [taker(101, 3), taker(101, 1)]
    assert broker.match("b")[0].fill_id == "b-2"
    at(broker, 2, 102, size=9.0)
    assert said(broker.match("b") + broker.match("c")) == [taker(102, 1)]
    with pytest.raises(DataError, match="these ticks have no sizes; leave participation out"):
        at(broker, 3, 100)


# ---------------------------------------------------------------------------------------------------- the same again


def test_what_was_asked_is_done_once() -> None:
    broker = market()
    first = broker.submit(child(limit=99))
    assert first == broker.submit(child(limit=99)) == broker.submit(child(limit=500, quantity=3)) == broker.query("a")
    at(broker, 1, 98)
    filled = broker.match("a")
    assert said(filled) == [maker(99)]
    assert broker.match("a") == filled  # asked again at the same tick
    assert broker.query("a") == first + filled == broker.submit(child(limit=99))
    at(broker, 2, 97)
    assert broker.match("a") == []
    assert broker.cancel(Cancel("a", SPOT, 2, True)) == filled
    assert broker.open_orders() == []


def test_unknown_children_are_absent() -> None:
    broker = market()
    for reports in (broker.query("x"), broker.match("x"), broker.cancel(Cancel("x", SPOT, 0, True))):
        assert said(reports) == [ABSENT]


def test_a_cancel_without_latency_is_done_at_once() -> None:
    broker = market(participation=1, price=None)
    at(broker, 0, 100, size=1.0)
    broker.submit(child(limit=100, at_limit=True, quantity=3))
    assert broker.open_orders() == [child(limit=100, at_limit=True, quantity=3)]
    done = broker.cancel(Cancel("a", SPOT, 5, False))
    assert said(done) == [taker(100), CANCELLED]
    assert (done[1].quantity, done[1].ts) == (2, 5)
    assert broker.cancel(Cancel("a", SPOT, 9, True)) == done
    at(broker, 1, 90, size=9.0)
    assert broker.match("a") == []
    assert said(broker.query("a")) == [ACCEPTED, taker(100), CANCELLED]


def test_a_cancel_arrives_as_an_order_does() -> None:
    broker = market(latency=2)
    broker.submit(child(limit=100))
    assert broker.cancel(Cancel("a", SPOT, 1, True)) == []
    assert broker.cancel(Cancel("a", SPOT, 2, True)) == []  # the first one is on its way
    coming = np.array([1, 2, 3, 4])
    assert broker.due(SPOT, coming, *[np.array([101, 101, 90, 90])] * 3, None) == (1, [Due("a", 0, 0, False)])
    at(broker, 2, 101)
    assert broker.match("a") == []
    assert broker.due(SPOT, coming[2:], *[np.array([90, 90])] * 3, None) == (0, [Due("a", 0, 0, True)])
    at(broker, 3, 90)  # its cancel comes before the fill
    assert said(broker.match("a")) == [CANCELLED]
    assert said(broker.match("a")) == [CANCELLED]


def test_a_market_child_cannot_be_called_back() -> None:
    broker = market(latency=5)
    broker.submit(child())
    assert said(broker.cancel(Cancel("a", SPOT, 1, True))) == [ACCEPTED]
    at(broker, 5, 104)
    assert said(broker.match("a")) == [taker(104)]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"symbol": "ETH/USDT"}, "unknown market: ETH/USDT"),
        ({"quantity": 0}, "bad quantity: 0 units"),
        ({"quantity": 2**60}, f"bad quantity: {2**60} units"),
        ({"quantity": 1}, "bad quantity: 1 is less than 2"),
        ({"quantity": 9}, "bad quantity: 9 is more than 8"),
        ({"quantity": 5, "limit": 0}, "bad limit: 0 units"),
        ({"quantity": 5, "limit": 10**30}, f"bad limit: {10**30} units"),
        ({"quantity": 5, "side": -1}, "bad side: -1 for direction 1"),
        ({"quantity": 5, "direction": 0}, "bad side: 0 for direction 0"),
    ],
)
def test_what_makes_no_sense_is_refused(fields: Any, reason: str) -> None:
    broker = market(instrument=ONE.model_copy(update={"min_quantity": Decimal(2), "max_quantity": Decimal(8)}))
    refused = broker.submit(child(**fields))
    assert [(r.what, r.reason) for r in refused] == [(What.REJECTED, reason)]
    assert broker.query("a") == refused == broker.submit(child(quantity=4)) == broker.cancel(Cancel("a", SPOT, 0, True))
    assert broker.open_orders() == []
    assert said(broker.submit(child("exit", quantity=1, opens=False))) == [ACCEPTED, taker(100)]  # whatever its size


# ---------------------------------------------------------------------------------------------------- due


@st.composite
def books(draw: Any) -> tuple[dict[str, Any], list[Submit], list[tuple[int, ...]], set[int]]:
    """A fill model, children, ticks (ts, buy, sell, size), and children that are asked back."""
    fills = {
        "latency": draw(st.sampled_from([0, 0, 1, 3])),
        "touch": draw(st.booleans()),
        "slippage": draw(st.sampled_from([0, "1%"])),
        "participation": draw(st.sampled_from([None, "20%"])),
    }
    children = []
    for n in range(draw(st.integers(1, 6))):
        limit = draw(st.none() | st.integers(95, 105))
        children.append(
            child(
                f"c{n}",
                order=draw(st.integers(0, 2)),
                leg=n,
                direction=draw(st.sampled_from([1, -1])),
                opens=draw(st.booleans()),
                quantity=draw(st.integers(1, 5)),
                limit=limit,
                at_limit=draw(st.booleans()),
                instant=draw(st.booleans()),
                sent=draw(st.integers(0, 4)),
            )
        )
    ticks, ts = [], 0
    for _ in range(draw(st.integers(1, 25))):
        ts += draw(st.integers(0, 2))
        price = draw(st.integers(94, 106))
        ticks.append((ts, price + draw(st.integers(0, 1)), price, draw(st.integers(0, 12))))
    return fills, children, ticks, draw(st.sets(st.integers(0, 5)))


@looking(EXAMPLES)
@given(books())
def test_due_names_the_tick_at_which_something_happens(book: Any) -> None:
    """Against a second broker that is asked at every tick; and looking changes nothing."""
    fills, children, ticks, taken_back = book
    model = FillModel(**fills)
    leaping, walking = PaperBroker(None, model), PaperBroker(None, model)
    for broker in (leaping, walking):
        broker.list(ONE)
        broker.tick(SPOT, 0, 0, 100, 101, 100, 3.0)
        for submit in children:
            broker.submit(submit)
        for n in taken_back & {*range(len(children))}:
            broker.cancel(Cancel(f"c{n}", SPOT, 2, True))
    ts, buy, sell, size = np.array(ticks).T
    columns = [ts, sell, buy, sell, size.astype(float)]

    def move(broker: PaperBroker, t: int) -> None:
        broker.tick(SPOT, t + 1, *(int(column[t]) for column in columns[:4]), float(size[t]))

    def walk(t: int) -> set[str]:
        """Move one tick, ask for everything; whose state has changed, cancels first."""
        move(walking, t)
        ids = [submit.client_id for submit in children]
        before = {i: (walking.query(i), walking._children[i].rested) for i in ids}
        for i in ids:
            walking.match(i)
        return {i for i in ids if (walking.query(i), walking._children[i].rested) != before[i]}

    t = 0
    while t < len(ticks):
        known = {submit.client_id: leaping.query(submit.client_id) for submit in children}
        ahead, listed = leaping.due(SPOT, *[column[t:] for column in columns])
        assert (ahead, listed) == leaping.due(SPOT, *[column[t:] for column in columns])
        assert known == {submit.client_id: leaping.query(submit.client_id) for submit in children}
        for _ in range(ahead):
            assert walk(t) == set()
            t += 1
        assert (t == len(ticks)) == (not listed)
        if t == len(ticks):
            break
        event("cancels" if any(due.cancels for due in listed) else "fills or arrives")
        assert listed == sorted(listed, key=lambda due: (due.order, not due.cancels, due.leg))
        changed = walk(t)
        assert changed
        assert changed <= {due.client_id for due in listed}
        move(leaping, t)
        for due in listed:
            cancelled = said(leaping.match(due.client_id)) == [CANCELLED]
            assert cancelled == due.cancels
        t += 1
        assert all(leaping.query(s.client_id) == walking.query(s.client_id) for s in children)


def test_due_knows_its_symbols() -> None:
    broker = market()
    broker.submit(child(limit=90))
    broker.list(ONE.model_copy(update={"symbol": "ETH/USDT"}))
    arrays = [np.array([1, 2])] + [np.array([80, 80])] * 3
    assert broker.due("ETH/USDT", *arrays, None) == (2, [])
    assert broker.due("nothing rests here", *arrays, None) == (2, [])
    assert broker.due(SPOT, *[a[:0] for a in arrays], None) == (0, [])
    assert broker.due(SPOT, *arrays, None)[0] == 0
    with pytest.raises(DataError, match=r"symbol = 'X/Y': is not traded here; list\(\) its instrument first"):
        broker.tick("X/Y", 0, 0, 1, 1, 1, None)


# ---------------------------------------------------------------------------------------------------- money


def funds(broker: PaperBroker) -> dict[str, tuple[str, str]]:
    return {currency: (f"{total:f}", f"{held:f}") for currency, (total, held) in broker.balances().items()}


def money(broker: PaperBroker, currency: str) -> tuple[Decimal, Decimal]:
    return broker.balances().get(currency, (Decimal(0), Decimal(0)))


LOTS = {kind: Instrument(symbol=kind, price_increment="0.5", quantity_increment="0.1") for kind in (SPOT, SWAP)}


@pytest.mark.parametrize(
    ("symbol", "balances", "fields", "fills", "outcome"),
    [
        # spot buys reserve quote: the limit, or where the market is, with fees
        (SPOT, {"USDT": 100}, {"quantity": 10, "limit": 199}, {}, ({"USDT": ("100", "99.5")}, "")),
        (SPOT, {"USDT": 100}, {"quantity": 10, "limit": 201}, {}, "needs 100.5 USDT, free 100 USDT"),
        (SPOT, {"USDT": 100}, {"quantity": 10, "limit": 199}, {"fee_taker": "1%"}, "needs 100.495 USDT, free 100 USDT"),
        (SPOT, {"USDT": 100}, {"quantity": 10, "limit": 199}, {"fee_maker": "1%"}, "needs 100.495 USDT, free 100 USDT"),
        (SPOT, {"USDT": 100}, {"quantity": 10}, {"latency": 1}, ({"USDT": ("100", "100")}, "")),
        (SPOT, {"USDT": 100}, {"quantity": 10}, {"slippage": "0.5%"}, "needs 100.5 USDT, free 100 USDT"),
        (SPOT, {"USDT": 101}, {"quantity": 10}, {"slippage": "0.5%", "fee_taker": "1%"}, "needs 101.505 USDT, free 101 USDT"),
        (SPOT, {"USDT": 100}, {"quantity": 10}, {"fee_taker": "1%", "fee_currency": "base"},
         ({"USDT": ("0", "0"), "BTC": ("0.99", "0")}, "")),
        (SPOT, {}, {"quantity": 10}, {}, "needs 100 USDT, free 0 USDT"),
        (SPOT, {"USDT": 100}, {"quantity": 10}, {"fee_taker": "0.1%"}, "needs 100.1 USDT, free 100 USDT"),
        (SPOT, {"USDT": "100.1"}, {"quantity": 10}, {"fee_taker": "0.1%"}, ({"USDT": ("0", "0"), "BTC": ("1", "0")}, "")),
        (SPOT, {"USDT": 100}, {"quantity": 10}, {"fee_taker": "-0.1%"}, ({"USDT": ("0.1", "0"), "BTC": ("1", "0")}, "")),
        # spot sells reserve base, whether they close a long or open a short
        (SPOT, {"BTC": "0.5"}, {"quantity": 5, "opens": False}, {"fee_taker": "1%"}, ({"BTC": ("0", "0"), "USDT": ("49.5", "0")}, "")),
        (SPOT, {"BTC": "0.5"}, {"quantity": 5, "opens": False, "limit": 300}, {}, ({"BTC": ("0.5", "0.5")}, "")),
        (SPOT, {"BTC": "0.5"}, {"quantity": 6, "opens": False}, {}, "needs 0.6 BTC, free 0.5 BTC"),
        (SPOT, {"USDT": 1000}, {"quantity": 6, "direction": -1}, {}, "needs 0.6 BTC, free 0 BTC"),
        # derivatives: the whole notional is margin
        (SWAP, {"USDT": 100}, {"quantity": 10}, {}, ({"USDT": ("100", "100")}, "")),
        (SWAP, {"USDT": 101}, {"quantity": 10}, {"fee_taker": "1%"}, ({"USDT": ("100", "100")}, "")),
        (SWAP, {"USDT": 100}, {"quantity": 10}, {"fee_taker": "1%"}, "needs 101 USDT, free 100 USDT"),
        (SWAP, {"USDT": 100}, {"quantity": 10, "direction": -1}, {}, ({"USDT": ("100", "100")}, "")),
        (SWAP, {"USDT": 100}, {"quantity": 10, "direction": -1, "limit": 150}, {}, ({"USDT": ("100", "100")}, "")),
        (SWAP, {"USDT": 80}, {"quantity": 10, "direction": -1, "limit": 150}, {}, "needs 100 USDT, free 80 USDT"),
        (SWAP, {"USDT": 100}, {"quantity": 10, "direction": -1, "limit": 201}, {}, "needs 100.5 USDT, free 100 USDT"),
        (SWAP, {"USDT": 100}, {"quantity": 5, "opens": False}, {}, "needs 0.5 BTC/USDT:USDT, free 0 BTC/USDT:USDT"),
    ],
)  # fmt: skip
def test_what_the_account_bears(symbol: str, balances: Any, fields: Any, fills: Any, outcome: Any) -> None:
    """The market is at 200 increments of 0.5; a unit is 0.1 BTC."""
    broker = market(200, LOTS[symbol], balances, **fills)
    reports = broker.submit(child(symbol=symbol, **fields))
    if isinstance(outcome, str):
        assert [r.what for r in reports] == [What.REJECTED]
        word = "position" if "BTC/USDT:USDT" in outcome else "funds"
        assert reports[0].reason == f"insufficient {word}: {outcome}"
        assert funds(broker) == {c: (str(amount), "0") for c, amount in balances.items()}
    else:
        assert reports[0].what == What.ACCEPTED
        found = {c: (Decimal(t), Decimal(h)) for c, (t, h) in broker.balances().items()}
        assert found == {c: (Decimal(t), Decimal(h)) for c, (t, h) in outcome[0].items()}


def test_a_market_order_needs_a_price_where_there_is_an_account() -> None:
    broker = market(None, balances={"USDT": 100})
    assert broker.submit(child())[0].reason == "no price yet"
    assert said(broker.submit(child("b", limit=100))) == [ACCEPTED]
    assert said(market(None).submit(child())) == [ACCEPTED]


def test_what_is_taken_back_is_free_again() -> None:
    broker = market(balances={"USDT": 150})
    broker.submit(child("a", limit=90))
    assert broker.submit(child("b"))[0].reason == "insufficient funds: needs 100 USDT, free 60 USDT"
    broker.cancel(Cancel("a", SPOT, 0, True))
    assert said(broker.submit(child("c"))) == [ACCEPTED, taker(100)]
    assert funds(broker) == {"USDT": ("50", "0"), "BTC": ("1", "0")}
    broker.deposit("USDT", "50.5")
    assert funds(broker)["USDT"] == ("100.5", "0")


def test_a_market_order_that_has_become_too_dear_is_cancelled() -> None:
    broker = market(balances={"USDT": 110}, latency=1)
    assert said(broker.submit(child())) == [ACCEPTED]
    at(broker, 1, 111)
    reports = broker.match("a")
    assert said(reports) == [CANCELLED]
    assert reports[0].reason == "insufficient funds: needs 111 USDT, free 110 USDT"
    assert reports == broker.match("a") == broker.query("a")[1:]
    assert funds(broker) == {"USDT": ("110", "0")}


def test_what_is_left_of_a_child_stays_reserved() -> None:
    broker = PaperBroker(None, FillModel(participation=1), {"USDT": 250})
    broker.list(ONE)
    at(broker, 0, 100, size=0.0)
    broker.submit(child(quantity=2))
    assert funds(broker) == {"USDT": ("250", "200")}
    at(broker, 1, 140, size=1.0)
    assert said(broker.match("a")) == [taker(140)]
    assert funds(broker) == {"USDT": ("110", "100"), "BTC": ("1", "0")}
    at(broker, 2, 120, size=1.0)
    assert broker.match("a")[0].reason == "insufficient funds: needs 120 USDT, free 110 USDT"
    broker = PaperBroker(None, FillModel(participation=1), {"USDT": 250})
    broker.list(ONE)
    at(broker, 0, 100, size=0.0)
    broker.submit(child(quantity=2))
    at(broker, 1, 160, size=1.0)  # 100 of the 250 are for the other unit
    assert broker.match("a")[0].reason == "insufficient funds: needs 160 USDT, free 150 USDT"


def test_two_exits_never_close_the_same_position() -> None:
    broker = market(100, LOTS[SWAP], {"USDT": 1000})
    broker.submit(child("in", symbol=SWAP, quantity=10))
    assert said(broker.submit(child("a", symbol=SWAP, quantity=6, opens=False, limit=300))) == [ACCEPTED]
    assert broker.submit(child("b", symbol=SWAP, quantity=5, opens=False))[0].reason == (
        "insufficient position: needs 0.5 BTC/USDT:USDT, free 0.4 BTC/USDT:USDT"
    )
    assert said(broker.submit(child("c", symbol=SWAP, quantity=4, opens=False))) == [ACCEPTED, taker(100, 4)]
    assert said(broker.submit(child("d", symbol=SWAP, quantity=1, direction=-1, opens=False)))[0][0] == What.REJECTED


def test_gains_of_a_derivative_are_booked_on_closing() -> None:
    broker = market(100, LOTS[SWAP], {"USDT": 1000}, fee_taker="1%")
    step = itertools.count(1)

    def trade(price: int, **fields: Any) -> dict[str, tuple[Decimal, Decimal]]:
        number = next(step)
        broker.tick(SWAP, number, number, price, price, price, None)
        assert said(broker.submit(child(f"t{number}", symbol=SWAP, **fields)))[0] == ACCEPTED
        return broker.balances()

    long, short = {"direction": 1}, {"direction": -1}
    assert trade(100, quantity=20, **long) == {"USDT": (Decimal("999"), Decimal("100"))}
    assert trade(200, quantity=10, **short) == {"USDT": (Decimal("998"), Decimal("200"))}  # both sides may be held
    assert trade(220, quantity=5, opens=False, **long) == {"USDT": (Decimal("1027.45"), Decimal("175"))}
    assert trade(240, quantity=10, opens=False, **short) == {"USDT": (Decimal("1006.25"), Decimal("75"))}
    refused = broker.submit(child("more", symbol=SWAP, quantity=16, opens=False))
    assert refused[0].reason == "insufficient position: needs 1.6 BTC/USDT:USDT, free 1.5 BTC/USDT:USDT"
    assert trade(80, quantity=15, opens=False, **long) == {"USDT": (Decimal("990.65"), Decimal(0))}


def test_a_loss_beyond_what_is_free_is_written_off() -> None:
    broker = market(100, LOTS[SWAP], {"USDT": 60})
    broker.submit(child("a", symbol=SWAP, quantity=10, direction=-1))
    broker.submit(child("b", symbol=SWAP, quantity=1, limit=80))
    broker.tick(SWAP, 1, 1, 400, 400, 400, None)
    reports = broker.submit(child("c", symbol=SWAP, quantity=10, direction=-1, opens=False))
    assert reports[1].reason == "written off: 94 USDT"
    assert broker.balances() == {"USDT": (Decimal(4), Decimal(4))}


def test_coins_that_were_owned_before_are_in_the_balances() -> None:
    """Entry.held: nothing was bought here, and the ladder sells what the account began with."""
    broker = market(balances={"BTC": 2, "USDT": 0})
    assert said(broker.submit(child("a", opens=False, quantity=2))) == [ACCEPTED, taker(100, 2)]
    assert funds(broker) == {"BTC": ("0", "0"), "USDT": ("200", "0")}


@st.composite
def trades(draw: Any) -> tuple[str, dict[str, Any], list[Any]]:
    symbol = draw(st.sampled_from([SPOT, SWAP]))
    fills = {
        "fee_maker": draw(st.sampled_from([0, "0.1%", "-0.03%"])),
        "fee_taker": draw(st.sampled_from([0, "0.07%", "1%"])),
        "slippage": draw(st.sampled_from([0, "0.3%"])),
        "latency": draw(st.sampled_from([0, 0, 2])),
        "fee_currency": draw(st.sampled_from(["quote", "base"])) if symbol == SPOT else "quote",
        "participation": draw(st.sampled_from([None, "30%"])),
    }
    price, steps = 200, []
    for _ in range(draw(st.integers(1, 25))):
        price = min(max(price + draw(st.integers(-60, 60)), 2), 900)
        sent = None
        if draw(st.booleans()):
            limit = draw(st.none() | st.integers(max(price - 30, 1), price + 30))
            sent = (draw(st.sampled_from([1, 1, -1])), draw(st.booleans()), draw(st.integers(1, 40)), limit)
        steps.append((price, draw(st.integers(0, 20)), sent, draw(st.integers(0, 9)) == 0))
    return symbol, fills, steps


@looking(EXAMPLES)
@given(trades(), st.booleans())
def test_no_money_is_lost_or_made(case: Any, reopened: bool) -> None:
    """Totals are what was begun with and what the fills say; nothing is ever negative, and no more reserved than is there."""
    symbol, fields, steps = case
    fills, lot = FillModel(**fields), LOTS[symbol]
    with contextlib.ExitStack() as stack:
        path = Path(stack.enter_context(TemporaryDirectory())) / "paper.ledger" if reopened else None
        broker = PaperBroker(path, fills, {"USDT": 500, "BTC": 2})
        broker.list(lot)
        sent: dict[str, Submit] = {}
        for number, (price, size, order, back) in enumerate(steps):
            broker.tick(symbol, number, number, price, price + 1, price, size / 3)
            for name in sent:
                broker.match(name)
            if back and sent:
                broker.cancel(Cancel([*sent][-1], symbol, number, True))
            if order is not None:
                direction, opens, quantity, limit = order
                submit = child(
                    f"c{number}",
                    symbol=symbol,
                    direction=direction,
                    opens=opens,
                    quantity=quantity,
                    limit=limit,
                    sent=number,
                )
                event(f"{symbol} {broker.submit(submit)[0].what}")
                sent[submit.client_id] = submit
            if reopened and number % 5 == 2:
                broker.close()
                broker = PaperBroker(path, fills, {"USDT": 500, "BTC": 2})
                broker.list(lot)
            check_money(broker, sent, lot, fills)
        broker.close()


def check_money(broker: PaperBroker, sent: dict[str, Submit], lot: Instrument, fills: FillModel) -> None:
    for total, reserved in broker.balances().values():
        assert 0 <= reserved <= total
    expected, written_off = {"USDT": Fraction(500), "BTC": Fraction(2)}, Fraction(0)
    open_value, held = Fraction(0), {1: Fraction(0), -1: Fraction(0)}
    for name, submit in sent.items():
        for report in broker.query(name):
            if report.what != What.FILLED:
                continue
            coins = Fraction(lot.quantity(report.quantity))
            notional = coins * Fraction(lot.price(report.price))
            rate = Fraction(fills.fee_maker if report.liquidity == 1 else fills.fee_taker)
            if fills.fee_currency == "base" and submit.opens and submit.direction > 0:
                expected["BTC"] -= coins * rate
            else:
                expected["USDT"] -= notional * rate
            if lot.is_spot:
                expected["BTC"] += submit.side * coins
            else:
                held[submit.direction] += coins if submit.opens else -coins
            expected["USDT"] -= submit.side * notional
            if report.reason:
                event("written off")
                written_off += Fraction(report.reason.split()[2])
    for (symbol, direction), (units, cost) in broker._positions.items():  # what is held is worth what was paid for it
        assert held.pop(direction) == Fraction(lot.quantity(units))
        open_value += direction * cost * Fraction(broker._step(symbol))
    assert set(held.values()) <= {0}
    assert money(broker, "BTC")[0] == expected["BTC"]
    assert money(broker, "USDT")[0] == expected["USDT"] + open_value + written_off


@pytest.mark.parametrize(
    ("instrument", "fills", "balances", "message"),
    [
        ({"symbol": "BTC/USD:BTC"}, {}, {}, "is settled in BTC, not in USD; a paper account keeps linear markets only"),
        ({"symbol": "BTCUSDT"}, {}, {}, "names no currencies; write BTC/USDT or BTC/USDT:USDT"),
        ({"symbol": SWAP}, {"fee_currency": "base"}, {}, "write fee_currency='quote'"),
        ({}, {}, {"USDT": -1}, r"balances\['USDT'\] = -1: must be 0 or above"),
        ({}, {}, {"USDT": "much"}, r"balances\['USDT'\] = 'much': not a number; write a number such as 1000"),
    ],
)
def test_accounts_that_cannot_be_kept(instrument: Any, fills: Any, balances: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        PaperBroker(None, FillModel(**fills), balances).list(ONE.model_copy(update=instrument))


def test_no_account_has_no_money() -> None:
    broker = market()
    assert broker.balances() == {}
    with pytest.raises(DataError, match="this broker keeps no account"):
        broker.deposit("USDT", 1)


def test_increments_stay_while_something_is_open() -> None:
    broker = market(balances={"USDT": 1000})
    finer = ONE.model_copy(update={"price_increment": Decimal("0.5")})
    broker.submit(child(limit=50))
    with pytest.raises(DataError, match=r"its increments were 1 and 1, now they are 0\.5 and 1, and something is open"):
        broker.list(finer)
    broker.list(ONE)
    broker.cancel(Cancel("a", SPOT, 0, True))
    broker.list(finer)
    broker.tick(SPOT, 1, 1, 100, 100, 100, None)
    broker.submit(child("b", quantity=4))
    assert funds(broker) == {"USDT": ("800.0", "0"), "BTC": ("4", "0")} or funds(broker)["USDT"][0] == "800"


# ---------------------------------------------------------------------------------------------------- the ledger


def opened(path: Path, balances: Any = None, **fills: Any) -> PaperBroker:
    broker = PaperBroker(path, FillModel(**fills), balances)
    broker.list(ONE)
    return broker


def busy(path: Path, count: int = 6) -> dict[str, list[Report]]:
    """A ledger in which each kind of thing has happened; what is known of each child."""
    with opened(path, {"USDT": 10_000, "BTC": 3}, latency=2, fee_taker="0.1%") as broker:
        for n in range(count):
            at(broker, 10 * n, 100, size=None)
            broker.submit(child(f"buy{n}", sent=10 * n))
            broker.submit(child(f"rest{n}", limit=90, sent=10 * n))
            broker.submit(child(f"gone{n}", limit=80, sent=10 * n))
            broker.submit(child(f"refused{n}", quantity=10_000, sent=10 * n))
            broker.cancel(Cancel(f"gone{n}", SPOT, 10 * n, True))
            at(broker, 10 * n + 2, 101)
            for name in ("buy", "rest", "gone"):
                broker.match(f"{name}{n}")
        broker.deposit("USDT", "0.5")
        return {name: broker.query(name) for name in broker._children}


def test_what_was_answered_is_there_again(path: Path) -> None:
    known = busy(path)
    with opened(path, {"USDT": 10_000, "BTC": 3}, latency=2) as broker:
        assert {name: broker.query(name) for name in known} == known
        assert said(known["buy0"]) == [ACCEPTED, taker(101)]
        assert said(known["gone0"]) == [ACCEPTED, CANCELLED]
        assert [s.client_id for s in broker.open_orders()] == [f"rest{n}" for n in range(6)]
        assert broker.balances() == {
            "USDT": (Decimal("10000.5") - 6 * Decimal("101.101"), 6 * Decimal("90.09")),
            "BTC": (Decimal(9), Decimal(0)),
        }
        before = path.stat().st_size
        at(broker, 52, 101)
        assert broker.match("buy5") == known["buy5"][1:]  # a tick that was matched before it was closed
        assert broker.submit(child("buy5", quantity=99)) == known["buy5"]
        assert path.stat().st_size == before
        at(broker, 53, 89)
        assert said(broker.match("rest3")) == [maker(90)]  # it rested before it was closed


def test_one_line_and_one_sync_for_a_call(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (real(file), syncs.append(file)))
    with opened(path, {"USDT": 1000}) as broker:
        at(broker, 0, 100)
        lines, syncs[:] = path.read_bytes().count(b"\n"), []
        assert said(broker.submit(child())) == [ACCEPTED, taker(100)]
        assert (path.read_bytes().count(b"\n") - lines, len(syncs)) == (1, 1)
        for quiet in (lambda: broker.match("a"), lambda: broker.query("a"), broker.open_orders, broker.balances):
            quiet()
        broker.submit(child())
        assert len(syncs) == 1


def test_a_torn_last_line_is_cut_off(path: Path) -> None:
    busy(path, 2)
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    with opened(path) as broker:
        known = {name: broker.query(name) for name in broker._children}
        total, _ = broker.balances()["USDT"]
    tails = [whole[last:end] for end in (last, last + 1, last + 8, last + 9, len(whole) - 1)]
    tails += [b"\0" * 100, whole[last : last + 12] + b"\0" * 30 + b"\n", b"\n"]
    for tail in tails:
        path.write_bytes(whole[:last] + tail)
        with opened(path) as broker:
            assert {name: broker.query(name) for name in known} == known
            assert broker.balances()["USDT"][0] == total - Decimal("0.5")  # the deposit was the last line
            assert path.read_bytes() == whole[:last]
            broker.deposit("USDT", 1)
        with opened(path) as broker:
            assert broker.balances()["USDT"][0] == total + Decimal("0.5")


def test_damage_in_the_middle_is_refused(path: Path) -> None:
    busy(path, 2)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    dice = random.Random(3)
    for n in range(1, len(lines) - 1):
        where = dice.randrange(len(lines[n]) - 1)
        damaged = bytearray(lines[n])
        damaged[where] ^= 1 << dice.randrange(7)
        flipped = b"".join([*lines[:n], bytes(damaged), *lines[n + 1 :]])
        lost = b"".join([*lines[:n], *lines[n + 1 :]])
        twice = b"".join([*lines[: n + 1], *lines[n:]])
        for text, line in ((flipped, n + 1), (lost, n + 1), (twice, n + 2)):
            if text.count(b"\n") <= line:
                continue  # it is the last line then
            path.write_bytes(text)
            with pytest.raises(
                StoreError, match=rf"line {line} of \d+ is damaged .*; put back a copy .* head -n {line - 1}"
            ):
                opened(path)
            assert path.read_bytes() == text
    path.write_bytes(b"".join(lines[:4]))  # the way out that the message names
    opened(path).close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not the ledger of a paper broker, or its first line is damaged; give another path"),
        (b"hello\n", "is not the ledger of a paper broker"),
        (b'12345678 [["paper",1,null]]\n', "is not the ledger of a paper broker"),
        (
            b'%08x [["paper",2,null]]\n',
            "has format 2, this library knows 1; update smartorders_lab, or give another path",
        ),
    ],
)
def test_files_that_are_no_ledger(path: Path, content: bytes, message: str) -> None:
    text = content % zlib.crc32(content[5:-1]) if b"%" in content else content
    path.write_bytes(text)
    with pytest.raises(StoreError, match=message):
        opened(path)
    assert path.read_bytes() == text


def test_a_ledger_keeps_its_account(path: Path, tmp_path: Path) -> None:
    opened(path, {"USDT": 100}).close()
    with opened(path) as broker:
        assert funds(broker) == {"USDT": ("100", "0")}
    with pytest.raises(
        StoreError, match=r"was begun with 100 USDT, not with 200 USDT; leave balances out, deposit\(\)"
    ):
        opened(path, {"USDT": 200})
    opened(path, {"USDT": 100.0}).close()
    bare = tmp_path / "bare.ledger"
    opened(bare).close()
    with pytest.raises(StoreError, match="was begun without an account, not with 100 USDT"):
        opened(bare, {"USDT": 100})


def test_a_ledger_has_one_owner(path: Path) -> None:
    with opened(path):
        with pytest.raises(StoreError, match=rf"is in use by pid {os.getpid()} since 2.*; wait for it to end"):
            opened(path)
        code = f"from smartorders_lab.brokers.paper import *\nPaperBroker({str(path)!r}, FillModel())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert f"is in use by pid {os.getpid()}" in done.stderr
    opened(path).close()


def test_a_closed_ledger_takes_nothing(path: Path) -> None:
    broker = opened(path)
    broker.close()
    broker.close()
    with pytest.raises(StoreError, match="is closed; open it again"):
        broker.submit(child())
    assert said(broker.query("a")) == [ABSENT]


def test_places_where_no_ledger_can_be(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder; give the path of a file in it"):
        opened(tmp_path)
    with pytest.raises(StoreError, match=r"the folder .* does not exist; create it first"):
        opened(tmp_path / "no" / "paper.ledger")
    with unprivileged() as folder, pytest.raises(StoreError, match="cannot be written: Permission denied"):
        opened(folder / "paper.ledger")


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process may grow beyond `room` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_what_could_not_be_written_was_not_done(path: Path) -> None:
    """A line that fits in part only: the call fails, and so does every later one until the ledger is opened again."""
    broker = opened(path, {"USDT": 1000})
    at(broker, 0, 100)
    broker.submit(child("a"))
    with full_disk(path.stat().st_size + 20), pytest.raises(StoreError, match="File too large; make room, then open"):
        broker.submit(child("b"))
    assert said(broker.query("b")) == [ABSENT]
    assert funds(broker) == {"USDT": ("900", "0"), "BTC": ("1", "0")}
    with pytest.raises(StoreError, match="make room, then open it again"):
        broker.submit(child("c"))
    broker.close()
    with opened(path) as broker:
        assert said(broker.query("a") + broker.query("b")) == [ACCEPTED, taker(100), ABSENT]
        at(broker, 0, 100)
        assert said(broker.submit(child("b"))) == [ACCEPTED, taker(100)]


def test_a_ledger_that_cannot_be_begun_leaves_nothing(path: Path) -> None:
    with full_disk(10), pytest.raises(StoreError, match="cannot be written: File too large; make room"):
        opened(path, {"USDT": 1000})
    assert [p.name for p in path.parent.iterdir()] == ["paper.ledger.lock"]
    opened(path).close()


def test_a_ledger_that_has_grown_is_rewritten(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What works, money and the last week stay; the rest goes, and so does what it took."""
    monkeypatch.setattr(paper, "_ROOM", 3000)
    day = 86400 * 10**9
    with opened(path, {"USDT": 100_000}) as broker:
        at(broker, 0, 100)
        broker.submit(child("old works", limit=1))
        for n in range(200):
            at(broker, n, 100, ts=n * day)
            broker.submit(child(f"n{n}", sent=n * day, order=n))
        broker.submit(child("part", limit=99, sent=200 * day))
        names = [*broker._children]
        known = {name: broker.query(name) for name in names}
        total = broker.balances()
    grown = path.stat().st_size
    with opened(path) as broker:
        kept = {name for name in names if broker.query(name) == known[name]}
        assert kept == {"old works", "part", *(f"n{n}" for n in range(193, 200))}
        assert all(said(broker.query(name)) == [ABSENT] for name in set(names) - kept)
        assert broker.balances() == total
    assert path.stat().st_size < grown / 4
    assert sorted(p.name for p in path.parent.iterdir()) == ["paper.ledger", "paper.ledger.lock"]
    small = path.read_bytes()
    with opened(path) as broker:
        assert path.read_bytes() == small
        assert broker.balances() == total
        at(broker, 200, 98, ts=201 * day)
        assert said(broker.match("part")) == [maker(99)]


def test_rewriting_changes_nothing_that_can_be_seen(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = busy(path, 4)
    monkeypatch.setattr(paper, "_ROOM", 0)
    with opened(path, latency=2) as broker:
        broker.cancel(Cancel("rest0", SPOT, 40, True))
        before = broker.balances(), broker.open_orders()
        state = [*broker._state()]
        broker._ledger.rewrite(state)
    with opened(path, latency=2) as broker:
        assert {name: broker.query(name) for name in known} == known
        assert (broker.balances(), broker.open_orders()) == before
        assert [*broker._state()] == state
        at(broker, 42, 80)
        assert said(broker.match("rest0") + broker.match("rest1")) == [CANCELLED, maker(90)]


TRADERS = textwrap.dedent("""
    # Forks a trader for each line; a fork has all imports done.
    import os
    import sys
    from smartorders_lab.brokers import paper
    from smartorders_lab.fills import FillModel
    from smartorders_lab.instrument import Instrument
    from smartorders_lab.messages import Cancel, Submit

    def say(*words):
        os.write(1, (" ".join(map(str, words)) + "\\n").encode())

    def trade(prefix):
        paper._ROOM = 2000
        say("opening", "-")
        with paper.PaperBroker(sys.argv[1], FillModel(fee_taker="0.1%"), {"USDT": 10**9}) as broker:
            broker.list(Instrument(symbol="BTC/USDT", price_increment=1, quantity_increment=1))
            for n in range(100_000):
                broker.tick("BTC/USDT", n, n, 100 + n % 7, 100 + n % 7, 100 + n % 7, None)
                id, limit = f"{prefix}x{n}", (None, 90)[n % 2]
                submit = Submit(id, "BTC/USDT", n, 0, 1, 1, 1 + n % 5, limit, True, False, n, True)
                say("asking", id)
                say("told", id, len(broker.submit(submit)))
                if n % 4 == 3:
                    say("cancelling", id)
                    say("cancelled", id, len(broker.cancel(Cancel(id, "BTC/USDT", n, True))))

    with paper.PaperBroker(None, FillModel()) as broker:  # the rules are compiled once, before the first fork
        broker.list(Instrument(symbol="BTC/USDT", price_increment=1, quantity_increment=1))
        broker.tick("BTC/USDT", 0, 0, 100, 100, 100, None)
        broker.submit(Submit("warm", "BTC/USDT", 0, 0, 1, 1, 1, None, True, False, 0, True))
    for prefix in iter(lambda: sys.stdin.readline().strip(), ""):
        child = os.fork()
        if not child:
            trade(prefix)
        say("pid", child)
        os.waitpid(child, 0)
        say("gone", "-")
""")


def test_a_kill_loses_nothing_that_was_answered(path: Path) -> None:
    """20 traders, one after another, each killed (SIGKILL) at some moment of opening the ledger or of trading."""
    dice, told_before, between = random.Random(11), {}, 0
    with subprocess.Popen(
        [sys.executable, "-c", TRADERS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as traders:
        assert traders.stdin
        assert traders.stdout
        for kill in range(20):
            traders.stdin.write(f"k{kill}\n")
            traders.stdin.flush()
            awaited = "opening" if kill % 4 == 0 else "asking"
            heard: list[list[str]] = []
            while not {"pid", awaited} <= {words[0] for words in heard}:
                heard.append(traders.stdout.readline().split())
            time.sleep(dice.random() * 0.05)
            os.kill(next(int(words[1]) for words in heard if words[0] == "pid"), signal.SIGKILL)
            while heard[-1][0] != "gone":
                heard.append(traders.stdout.readline().split())
            told = {words[1]: int(words[2]) for words in heard if words[0] == "told"}
            asked = {words[1] for words in heard if words[0] == "asking"}
            cancelled = {words[1] for words in heard if words[0] == "cancelled"}
            between += len(asked) - len(told)
            if not path.exists():
                assert not asked
                continue
            with PaperBroker(path, FillModel(fee_taker="0.1%")) as broker:
                known = {name: broker.query(name) for name in [*asked, *told_before]}
                for name in told:
                    assert len(known[name]) == told[name] + (known[name][-1].what == What.CANCELLED)
                assert all(known[name][-1].what == What.CANCELLED for name in cancelled)
                assert all(known[name] == reports for name, reports in told_before.items())
                fills = [r for name in broker._children for r in broker.query(name) if r.what == What.FILLED]
                assert len({r.fill_id for r in fills}) == len(fills)
                paid = sum(r.price * r.quantity * Decimal("1.001") for r in fills)
                assert broker.balances()["USDT"][0] == 10**9 - paid
                assert {s.client_id for s in broker.open_orders()} <= set(broker._children)
                told_before |= {name: known[name] for name in told}
        traders.stdin.close()
    assert between >= 3  # some were killed between question and answer
    assert len(told_before) > 20
