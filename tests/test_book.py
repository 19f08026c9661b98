"""A book is a replay that happens one tick after another: the same events to the byte, however the tape is cut, whenever it is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import book_run
import numpy as np
import pytest
from book_run import Plan, Step, Tape, assert_same, bare, drive, same_as_replay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_real_data import FILES, FILLS, templates

import smartorders_lab as so
from smartorders_lab.book import Book
from smartorders_lab.brokers.paper import PaperBroker
from smartorders_lab.errors import (
    ActionError,
    ActionRefused,
    DataError,
    LimitError,
    SpecError,
    StaleVersion,
    StoreError,
)
from smartorders_lab.journal import MemoryJournal
from smartorders_lab.messages import Block, Report, Submit, What
from smartorders_lab.rows import REFUSALS, RETRY, Kind, Reason, Role, Status

EXAMPLES = int(os.environ.get("SMARTORDERS_EXAMPLES", "20" if os.environ.get("NUMBA_DISABLE_JIT") == "1" else "100"))
KILLS = st.lists(st.integers(1, 30), min_size=1, max_size=20)


def looking(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize="CI" in os.environ,
        database=None,
    )


# ---------------------------------------------------------------------------------------------------- as replay does


@looking(EXAMPLES)
@given(book_run.plans())
def test_a_session_is_a_replay(plan: Plan) -> None:
    """Cut anywhere, with actions and placements at any tick, on any series of prices, with polling and the guard."""
    same_as_replay(plan, drive(plan))


@looking(EXAMPLES)
@given(book_run.plans(guard=False, keeps=True), KILLS)
def test_killed_anywhere_it_lives_the_same_life(plan: Plan, kills: list[int]) -> None:
    """Killed before or after any call of journal and broker, with snapshots and compaction: events and rows are the same."""
    assert_same(drive(plan), drive(plan, kills))


@looking(EXAMPLES // 4)
@given(book_run.plans(guard=False, keeps=True, rough=True), KILLS)
def test_nothing_is_told_twice(plan: Plan, kills: list[int]) -> None:
    """With ties in time, late ticks, a clock that moves: what is told is each event once, in order, and only what is durable."""
    heard: list[tuple[int, int]] = []

    def told(number: int, events: np.ndarray) -> None:
        heard.extend((number + k, int(event["order"]) << 32 | int(event["seq"])) for k, event in enumerate(events))

    driven = drive(plan, kills, told=told)
    kept = {int(e["n"]): int(e["order"]) << 32 | int(e["seq"]) for e in driven.events}
    assert all(kept[number] == name for number, name in heard)
    assert len({number for number, _ in heard}) == len(heard)


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("bars")])
def test_real_ticks(name: str, market_data: Path) -> None:
    """A hundred orders and more over each file: the session is the replay; then killed ten times, with snapshots under way."""
    ticks = so.Ticks.read(market_data / f"{name}.parquet", symbol="X/Y:Y", sort="bitstamp" in name)
    instrument = ticks.instrument.model_copy(update={"derived": False, "quantity_increment": Decimal("0.0001")})
    columns = {n: np.array(getattr(ticks, n)) for n in book_run.SERIES if getattr(ticks, n) is not None}
    tape = Tape(instrument, np.array(ticks.ts), columns, None if ticks.size is None else np.array(ticks.size))
    shapes, rng = templates("X/Y:Y", FILES[name], ticks.triggers[0]), np.random.default_rng(7)
    first = np.flatnonzero(np.diff(tape.ts) > 0) + 1  # of those at one time, replay can begin with the first only
    steps: list[Step] = []
    for k, at in enumerate(np.sort(rng.choice(first[first < len(ticks) - 10], 120))):
        steps += [("feed", "X/Y:Y", int(at)), ("place", shapes[k % len(shapes)])]
        if k % 30 == 29:
            steps.append(("compact",))
    steps.append(("feed", "X/Y:Y", len(ticks)))
    tapes = {"X/Y:Y": tape}
    whole = drive(Plan(tapes, [step for step in steps if step != ("compact",)], FILLS))
    assert same_as_replay(Plan(tapes, steps, FILLS), whole) > 800
    again = drive(Plan(tapes, steps, FILLS), rng.integers(1, whole.kill.calls // 5, 10).tolist())
    assert len(again.kill.sites) > 4
    assert_same(whole, again)


# ---------------------------------------------------------------------------------------------------- by hand

SYMBOL = "SOL/USDT"
ONE = so.Instrument(symbol=SYMBOL, price_increment=1, quantity_increment=1, min_quantity=1)
SECOND = 10**9
BEGIN = 1_700_000_000 * SECOND


class Hand:
    """A book on one market, fed by hand: a tick each second."""

    def __init__(
        self,
        broker: Callable[[PaperBroker], Any] = lambda paper: paper,
        balances: dict[str, Any] | None = None,
        instrument: so.Instrument = ONE,
        **fills: Any,
    ):
        model = so.FillModel(**fills)
        self.journal = MemoryJournal({"format": 1, "fills": model.to_dict(), "poll_ns": 0, "outlier": None})
        self.paper = PaperBroker(None, model, balances)
        self.broker, self.instrument, self.now = broker(self.paper), instrument, BEGIN
        self.book = self.start()

    def start(self) -> Book:
        book = Book(self.journal, self.broker, lambda: self.now, lambda: BEGIN)
        book.resume()
        book.open_market(self.instrument)
        return book

    def feed(self, *prices: int) -> Hand:
        ts = self.now + SECOND * np.arange(1, len(prices) + 1)
        self.now = int(ts[-1])
        self.book.feed(Block(self.instrument.symbol, ts, np.array(prices, np.int64), np.ones(len(prices))))
        return self

    def order(self, **fields: Any) -> so.SmartOrder:
        return so.SmartOrder(
            **{"symbol": self.instrument.symbol, "side": "buy", "quantity": 4, "stop_loss": 90} | fields
        )

    def place(self, **fields: Any) -> int:
        return self.book.place(self.order(**fields))

    def told(self, *kinds: Kind) -> list[tuple[str, str, str]]:
        """Kind, role and reason of the events, or of those of some kinds."""
        rows = bare(self.journal.events())
        return [
            (
                Kind(int(e["kind"])).name.lower(),
                Role(int(e["role"])).name.lower(),
                Reason(int(e["reason"])).name.lower(),
            )
            for e in rows
            if not kinds or e["kind"] in kinds
        ]

    def row(self, number: int = 0) -> Any:
        self.book.catch_up()
        return self.book.rows(number)[0].view(np.recarray)[0]


LEVELS: dict[str, Any] = {"take_profits": [(110, 50), (120, 50)]}
REFUSED: dict[str, Any] = {
    "open_now of what is open": ({}, ("open_now", {}), "wrong_status"),
    "entry of what is open": (LEVELS, ("edit", {"changes": {"entry": so.Entry.limit(95)}}), "wrong_status"),
    "reduce by more than is held": (LEVELS, ("reduce_funds", {"quantity": 5}), "too_large"),
    "a stop above the price": (LEVELS, ("edit", {"changes": {"stop_loss": 101}}), "would_trigger"),
    "a level below the price": (LEVELS, ("edit", {"changes": {"take_profits": [(99, 100)]}}), "would_trigger"),
    "too many levels": (
        {"take_profits": [(110 + k, 8) for k in range(12)], "quantity": 200},
        ("edit", {"changes": {"take_profits": [(130 + k, 8) for k in range(9)]}}),
        "too_many",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_order_does_not_take(case: str) -> None:
    """The error says why, the event too, and the version has moved on by that event alone."""
    fields, (kind, details), reason = REFUSED[case]
    hand = Hand().feed(100)
    number = hand.place(**fields)
    hand.feed(100, 122 if reason == "too_many" else 100)
    before = hand.book.version(number)
    with pytest.raises(ActionRefused, match=f"^order {number}: {kind}: ") as error:
        hand.book.act(number, kind, **details)
    assert error.value.reason == reason
    assert hand.told()[-1][0] == "action_refused"
    assert hand.told()[-1][2] == reason
    assert hand.book.version(number) == before + 1


def test_a_version_that_is_stale() -> None:
    hand = Hand().feed(100)
    number = hand.place(**LEVELS)
    seen = hand.book.version(number)
    hand.feed(100)
    now = hand.book.version(number)
    with pytest.raises(StaleVersion, match=f"version = {seen}: the order has moved on to version {now}") as error:
        hand.book.act(number, "cancel", version=seen)
    assert error.value.reason == "stale_version"
    assert hand.book.act(number, "cancel", version=hand.book.version(number)) > now
    with pytest.raises(ActionRefused, match="is over"):
        hand.book.act(number, "cancel")


def test_closing_takes_nothing_else() -> None:
    hand = Hand(latency="10s").feed(100)
    number = hand.place(**LEVELS)
    hand.feed(*[100] * 12)
    hand.book.act(number, "close_at_market")
    with pytest.raises(ActionRefused, match="being closed") as error:
        hand.book.act(number, "add_funds", quantity=1)
    assert error.value.reason == "closing"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda hand: hand.book.act(7, "cancel"), ActionError, "order 7: no such order; this session has 0"),
        (lambda hand: hand.place(symbol="BTC/USDT"), DataError, "does not know that market; open it first"),
        (lambda hand: hand.place(stop_loss="90.5"), SpecError, "off the price increment 1"),
        (lambda hand: hand.place(quantity="0.5"), SpecError, "not a multiple of 1"),
        (lambda hand: hand.place(trigger="mark"), SpecError, "is not in this feed, which has last"),
        (lambda hand: hand.place(quantity=10**17), LimitError, "make the order smaller"),
        (lambda hand: hand.book.act(hand.place(), "edit", changes={"stop_loss": "80.5"}), SpecError, "use 80 or 81"),
        (lambda hand: hand.book.act(hand.place(), "add_funds", quantity="1.5"), SpecError, "not a multiple of 1"),
        (lambda hand: hand.book.act(hand.place(), "add_funds"), SpecError, "exactly one of quantity and cost"),
        (lambda hand: hand.book.act(hand.place(), "edit", changes={"side": "sell"}), SpecError, "cannot be edited"),
        (
            lambda hand: hand.book.open_market(ONE.model_copy(update={"price_increment": Decimal("0.1")})),
            DataError,
            "are not those that this session began with",
        ),
    ],
)
def test_what_a_book_does_not_take(call: Callable[[Hand], Any], error: type[Exception], message: str) -> None:
    """Nothing of it is in the journal, and the book goes on."""
    hand = Hand().feed(100)
    hand.book.flush()
    with pytest.raises(error, match=message):
        call(hand)
    assert [kind for _, kind, _ in hand.journal.entries()][:2] == ["market", "ticks"]
    assert "action" not in [kind for _, kind, _ in hand.journal.entries()]
    hand.place()


def test_an_action_needs_a_price() -> None:
    hand = Hand()
    number = hand.place()
    with pytest.raises(ActionError, match=f"no price of {SYMBOL} has come yet"):
        hand.book.act(number, "open_now")
    hand.book.act(number, "cancel")
    assert hand.row(number).status == Status.CANCELLED


def test_a_key_names_one_order() -> None:
    hand = Hand().feed(100)
    order = hand.order()
    assert hand.book.place(order, key="mine") == hand.book.place(order, key="mine") == 0
    assert hand.place() == 1
    with pytest.raises(SpecError, match="is that of order 0, which is another one"):
        hand.book.place(hand.order(quantity=5), key="mine")
    hand.book = hand.start()
    assert hand.book.place(order, key="mine") == 0
    assert len(hand.book.specs) == 2


def test_an_edit_back_to_a_default() -> None:
    """What is at its default is left out of a spec's own text; in the journal an edit says it all the same."""
    hand = Hand().feed(100)
    number = hand.place(entry=so.Entry.limit(95), **LEVELS)
    hand.book.act(number, "edit", changes={"entry": so.Entry.market(), "break_even": None, "size_basis": "initial"})
    hand.feed(101)
    assert hand.row(number).bought == 4
    hand.book = hand.start()
    assert hand.book.spec(number).entry == so.Entry.market()


def test_ticks_that_go_back_are_dropped() -> None:
    hand = Hand().feed(100, 101)
    hand.now -= 5 * SECOND
    hand.feed(1, 2, 3)
    assert hand.book.markets[SYMBOL].ticks == 2
    assert hand.book.markets[SYMBOL].backward == 3


@pytest.mark.parametrize(("trigger", "series"), [("bid", ["bid", "ask"]), ("ask", ["bid", "ask"]), ("mark", ["mark"])])
def test_a_feed_without_trades(trigger: str, series: list[str]) -> None:
    """Quotes alone, or a mark price alone, at which orders trade then: as in replay; resumed too."""
    price = np.array([100, 100, 101, 105, 112, 108, 89], np.int64)
    tape = Tape(ONE, BEGIN + SECOND * np.arange(7), {name: price + (name == "ask") for name in series})
    order = so.SmartOrder.from_dict(
        {"symbol": SYMBOL, "side": "buy", "quantity": 4, "stop_loss": 90, "trigger": trigger, **LEVELS}
    )
    plan = Plan({SYMBOL: tape}, [("place", order), ("feed", SYMBOL, 3), ("feed", SYMBOL, 7)])
    assert same_as_replay(plan, drive(plan)) > 5
    assert_same(drive(plan), drive(plan, [7, 3]))


# ---------------------------------------------------------------------------------------------------- what a broker refuses


@pytest.mark.parametrize("trigger", ["last", "bid"])
def test_no_funds(trigger: str) -> None:
    """An entry that cannot be paid ends the order; one that can does not, whatever price it watches."""
    price = np.array([100, 100, 101], np.int64)
    tape = Tape(ONE, BEGIN + SECOND * np.arange(3), {"price": price, "bid": price, "ask": price})
    orders = [
        so.SmartOrder(symbol=SYMBOL, side="buy", quantity=quantity, stop_loss=90, trigger=trigger)
        for quantity in (4, 7)
    ]
    steps = [("place", orders[0]), ("place", orders[1]), ("feed", SYMBOL, 3)]
    driven = drive(Plan({SYMBOL: tape}, steps, balances={"USDT": 1000}))
    rows = [row.view(np.recarray)[0] for row, _ in driven.rows()]
    assert [Status(int(row.status)) for row in rows] == [Status.ACTIVE, Status.CANCELLED]
    assert rows[1].reason == Reason.REJECTED
    told = bare(driven.events)
    assert Reason.NO_FUNDS in told["reason"][(told["order"] == 1) & (told["kind"] == Kind.REJECTED)]
    assert driven.broker.balances()["USDT"][0] == 600


class Refusing:
    """Refuses so many children that leave a position."""

    def __init__(self, broker: PaperBroker, times: int):
        self._broker, self.left, self.sent = broker, times, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def submit(self, submit: Submit) -> list[Report]:
        if submit.opens or not self.left:
            return self._broker.submit(submit)
        self.left -= 1
        self.sent.append(submit.sent)
        return [
            Report(submit.client_id, What.REJECTED, submit.sent, reason="insufficient position: none of your business")
        ]

    def query(self, client_id: str) -> list[Report]:
        return [r for r in self._broker.query(client_id) if r.what != What.ABSENT] or [
            Report(client_id, What.REJECTED, reason="insufficient position")
        ]


def test_an_exit_that_is_refused_is_tried_again() -> None:
    """Each refusal is an alert; the next try comes later each time, and the position is not forgotten."""
    hand = Hand(lambda paper: Refusing(paper, 3)).feed(100)
    number = hand.place()
    hand.feed(100, 85, *[86] * 20)
    assert [(kind, role) for kind, role, _ in hand.told(Kind.ALERT)] == [("alert", "stop_loss")] * 3
    waits = np.diff(hand.broker.sent)
    assert waits.tolist() == [RETRY, 2 * RETRY]
    assert hand.row(number).status == Status.STOPPED


def test_an_exit_that_is_always_refused_waits_for_the_user() -> None:
    hand = Hand(lambda paper: Refusing(paper, 10**6)).feed(100)
    number = hand.place()
    hand.feed(100, 85, *[86] * 600)
    assert len(hand.told(Kind.ALERT)) == REFUSALS
    assert hand.row(number).status == Status.ACTIVE
    hand.broker.left = 0
    hand.book.act(number, "close_at_market")
    hand.feed(86)
    assert hand.row(number).status == Status.STOPPED
    hand.book = hand.start()
    assert len(hand.told(Kind.ALERT)) == REFUSALS


def test_a_level_that_is_refused_waits_again() -> None:
    hand = Hand(lambda paper: Refusing(paper, 1)).feed(100)
    number = hand.place(**LEVELS)
    hand.feed(100, 111, 111, 111)
    assert hand.told(Kind.ALERT) == [("alert", "take_profit", "refused")]
    assert hand.row(number).filled_levels == 1
    assert hand.row(number).status == Status.PARTIALLY_CLOSED


class Overfilling:
    """Reports more than was ordered."""

    def __init__(self, broker: PaperBroker):
        self._broker = broker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def submit(self, submit: Submit) -> list[Report]:
        return [
            r._replace(quantity=r.quantity + 1) if r.what == What.FILLED else r for r in self._broker.submit(submit)
        ]


def test_a_fill_beyond_the_order_stops_everything() -> None:
    hand = Hand(Overfilling).feed(100)
    hand.place()
    with pytest.raises(StoreError, match="reports a fill of 5 after 0 of 4; stop here"):
        hand.feed(100)


class Silent:
    """Says nothing to what opens a position after the first; what became of it comes by itself."""

    def __init__(self, broker: PaperBroker):
        self._broker, self.sent = broker, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    def submit(self, submit: Submit) -> list[Report]:
        self.sent.append(submit.client_id)
        return self._broker.submit(submit) if len(self.sent) == 1 else []

    def query(self, client_id: str) -> list[Report]:
        return [Report(client_id, What.UNKNOWN)] if client_id in self.sent[1:] else self._broker.query(client_id)


def test_ticks_are_durable_before_what_came_of_them_also_when_a_report_waits() -> None:
    """A report without an event waits for the next commit; ticks may then bring an event before anything else is written."""
    hand = Hand(Silent).feed(100)
    hand.place(stop_loss=so.StopLoss(target=90, timeout="1h"))
    hand.feed(100)
    hand.place(stop_loss=50)
    hand.feed(100)
    assert len(hand.broker.sent) == 2
    hand.book.hear([Report(hand.broker.sent[1], What.ACCEPTED)])
    written = hand.journal.last
    hand.feed(85)
    assert ("timer_started", "stop_loss", "none") in hand.told(), "an event, and nobody was asked"
    assert [kind for at, kind, _ in hand.journal.entries() if at > written] == ["report", "ticks"]
    before = hand.journal.events().tobytes()
    hand.book = hand.start()
    assert hand.journal.events().tobytes() == before


def test_a_journal_of_another_format() -> None:
    journal = MemoryJournal({"format": 99, "fills": {}, "poll_ns": 0, "outlier": None})
    with pytest.raises(StoreError, match="has format 99, this version writes 1"):
        Book(journal, PaperBroker(None, so.FillModel()), lambda: 0)
