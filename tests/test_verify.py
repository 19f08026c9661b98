"""verify: what a journal says happened is what its ticks and actions lead to, and what replay fills; what is not, is named."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import book_run
import numpy as np
import pytest
from book_run import Driven, Plan, Tape, drive
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import smartorders_lab as so
from smartorders_lab.book import Book
from smartorders_lab.brokers.paper import PaperBroker
from smartorders_lab.errors import StoreError
from smartorders_lab.journal import Journal, MemoryJournal
from smartorders_lab.messages import Report, Submit, What
from smartorders_lab.packing import pack_state, pack_ticks, unpack_state, unpack_ticks
from smartorders_lab.rows import Kind
from smartorders_lab.store import Store
from smartorders_lab.verify import Verdict, verify

EXAMPLES = int(os.environ.get("SMARTORDERS_EXAMPLES", "20" if os.environ.get("NUMBA_DISABLE_JIT") == "1" else "100"))
SYMBOL = "SOL/USDT"
ONE = so.Instrument(symbol=SYMBOL, price_increment=1, quantity_increment=1)
PRICES = [100, 100, 102, 105, 111, 108, 104, 112, 121, 119, 115, 110, 99, 95, 89, 90, 91]


def looking(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize="CI" in os.environ,
        database=None,
    )


@looking(EXAMPLES)
@given(book_run.plans(guard=False, keeps=True, rough=True), st.lists(st.integers(1, 30), max_size=12))
def test_whatever_happens_a_session_is_true_to_itself(plan: Plan, kills: list[int]) -> None:
    """Also where several ticks come at one time, or late, or the clock runs ahead, and killed anywhere."""
    driven = drive(plan, kills)
    verdict = verify(driven.journal)
    assert verdict.ok, verdict
    compacted = any("compacted" in note for note in verdict.notes)
    assert verdict.compared == len(driven.book.specs) or compacted
    late = any(step[0] == "late" for step in plan.steps)
    assert late or kills or not verdict.explained, verdict  # a new attempt is sent at another time


@looking(EXAMPLES // 4)
@given(book_run.plans(), st.data())
def test_no_byte_can_be_changed_unseen(plan: Plan, data: Any) -> None:
    """One number of one event, or one event taken out: the verdict says where."""
    driven = drive(plan)
    journal = driven.journal
    [rows] = journal._events = [np.concatenate(journal._events)]
    n = data.draw(st.integers(0, len(rows) - 1))
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(["ts", "tick", "price", "quantity", "stop", "mark", "seq", "order"]))
        rows[name][n] += 1
    else:
        journal._events = [np.delete(rows, n)]
    verdict = verify(journal)
    assert not verdict.ok
    assert "\n" not in verdict.difference
    assert "DIFFERS" in str(verdict)


def session(
    steps: list[Any] | None = None, broker: Callable[[Any, Any], Any] = book_run.Killing, **options: Any
) -> Driven:
    """A short life with two orders, one of them edited."""
    ts = np.arange(len(PRICES)) * 10**9 + 1_700_000_000 * 10**9
    tape = Tape(ONE, ts, {"price": np.array(PRICES, np.int64)}, np.ones(len(PRICES)))
    order = so.SmartOrder(
        symbol=SYMBOL, side="buy", quantity=4, stop_loss=90, take_profits=[(110, 50), (120, 25)], break_even=True
    )
    limit = order.replace(entry=so.Entry.limit(105), take_profits=[(115, 50, "limit")])
    given_steps = steps or [
        ("feed", SYMBOL, 2), ("place", order), ("feed", SYMBOL, 4), ("place", limit),
        ("act", 0, "edit", {"changes": {"stop_loss": 92}}), ("feed", SYMBOL, len(PRICES)),
    ]  # fmt: skip
    return drive(Plan({SYMBOL: tape}, given_steps, **options), broker=broker)


def test_a_verdict_reads_well() -> None:
    verdict = verify(session().journal)
    assert str(verdict).splitlines()[1:] == [
        "  lived through again: 21 entries, 17 ticks, 2 orders: 7 requests and 21 events, the same to the byte",
        "  replayed: 2 orders, 21 events, the same",
    ], verdict
    assert verdict.ok
    assert str(Verdict("x")).splitlines()[0] == "session x: ok"


def rewritten(journal: MemoryJournal, kind: str, change: Callable[[Any], Any]) -> None:
    """The first entry of a kind from which something follows, with another body."""
    k = [k for k, entry in enumerate(journal._entries) if entry[1] == kind][1 if kind == "ticks" else 0]
    seq, _, body = journal._entries[k]
    journal._entries[k] = seq, kind, change(body)


def edited(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def work(body: bytes) -> bytes:
        data = json.loads(body)
        change(data)
        return json.dumps(data, separators=(",", ":")).encode()

    return work


def moved(body: bytes) -> bytes:
    """A tick that was at another price."""
    block = unpack_ticks(body)
    return pack_ticks(block._replace(price=block.price + 10))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("ticks", moved, "recorded is"),
        ("place", edited(lambda data: data.__setitem__(1, data[1] + 1)), "event 1, in entry 3 (place of order 0): recorded is"),
        ("intent", edited(lambda data: data[4].__setitem__(6, 5)), "now sends"),
        ("intent", edited(lambda data: data.__setitem__(3, 3)), "at tick 3; lived through again it is"),
        ("said", edited(lambda data: data[4][1].__setitem__(3, 99)), "filled entry 0 4 at 102"),
        ("said", edited(lambda data: data[4].clear()), "recorded is"),
        ("said", edited(lambda data: data.__setitem__(3, 7)), "in its journal it is"),
        ("action", edited(lambda data: data[2].__setitem__("version", 1)), "action_refused edit"),
    ],
)  # fmt: skip
def test_what_was_tampered_with_is_named(kind: str, change: Callable[[Any], Any], message: str) -> None:
    driven = session()
    rewritten(driven.journal, kind, change)
    verdict = verify(driven.journal)
    assert not verdict.ok
    assert message in verdict.difference, verdict


def test_a_request_that_never_was() -> None:
    driven = session()
    _, _, body = next(entry for entry in driven.journal._entries if entry[1] == "intent")
    data = json.loads(body)
    data[1] = 9
    driven.journal._entries.append((driven.journal.last + 1, "intent", json.dumps(data).encode()))
    driven.journal.last += 1
    assert "SUBMIT of child 9 is recorded and does not come about" in verify(driven.journal).difference


def test_an_event_too_few() -> None:
    driven = session()
    driven.journal._events = [np.concatenate(driven.journal._events)[:-1]]
    assert "comes about and is not recorded" in verify(driven.journal).difference


def test_a_snapshot_that_does_not_follow() -> None:
    """The state of a snapshot is compared with what the entries before it lead to."""
    driven = session()
    driven.book.snapshot()
    assert verify(driven.journal).ok
    other = session([("feed", SYMBOL, 3), ("place", driven.book.specs[0]), ("feed", SYMBOL, 4), ("snapshot",)])
    seq, state = other.journal._snapshots[0]
    head, arrays = unpack_state(state)
    arrays["rows0last"]["mark"] += 1
    other.journal._snapshots[0] = seq, pack_state(head, **arrays)
    assert "order 0: mark is" in verify(other.journal).difference


# ---------------------------------------------------------------------------------------------------- what a broker did


class Broker:
    """A paper broker that does something to what is sent."""

    def __init__(self, broker: PaperBroker, kill: Any):
        self._broker, self.hidden = broker, set[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)


class Cheating(Broker):
    """Fills a little better than the market."""

    def submit(self, submit: Submit) -> list[Report]:
        return [r._replace(price=r.price - 1) if r.what == What.FILLED else r for r in self._broker.submit(submit)]


class Silent(Broker):
    """Does what it is told and answers nothing; only looking it up tells."""

    def submit(self, submit: Submit) -> list[Report]:
        self._broker.submit(submit)
        return [Report(submit.client_id, What.UNKNOWN)]


class Deaf(Broker):
    """Never gets the first attempt at anything."""

    def submit(self, submit: Submit) -> list[Report]:
        name = f"{submit.order} {submit.leg}"
        if name in self.hidden:
            return self._broker.submit(submit)
        self.hidden.add(name)
        return [Report(submit.client_id, What.UNKNOWN)]


def test_a_fill_that_nothing_explains_is_an_error() -> None:
    verdict = verify(session(broker=Cheating).journal)
    assert not verdict.ok
    assert verdict.compared == 2
    assert "order 0, event 2 at tick 2: the session has [filled entry 0 4 at 101" in verdict.difference
    assert "replay [filled entry 0 4 at 102" in verdict.difference
    assert verdict.difference.endswith("nothing in the journal explains it")


@pytest.mark.parametrize(
    ("broker", "reason"), [(Silent, "the broker reported by itself"), (Deaf, "sent again, attempt 2")]
)
def test_what_the_journal_explains_is_no_error(broker: type[Broker], reason: str) -> None:
    order = so.SmartOrder(symbol=SYMBOL, side="buy", quantity=4, stop_loss=90)
    steps: list[Any] = [("place", order)]
    for n in range(2, len(PRICES) + 1):
        steps += [("feed", SYMBOL, n), ("refresh",)]
    verdict = verify(session(steps, broker=broker).journal)
    assert verdict.ok, verdict
    assert len(verdict.explained) == 1
    assert "order 0, event " in verdict.explained[0]
    assert reason in str(verdict) or "nobody knew whether it had arrived" in str(verdict)


def test_funds_and_late_ticks_explain_as_well() -> None:
    order = so.SmartOrder(symbol=SYMBOL, side="buy", quantity=4, stop_loss=99)
    steps: list[Any] = [("feed", SYMBOL, 1), ("place", order), ("place", order.replace(quantity=60))]
    steps += [("feed", SYMBOL, 3), ("late", SYMBOL, 15), ("feed", SYMBOL, len(PRICES))]
    verdict = verify(session(steps, balances={"USDT": 5000}).journal)
    assert verdict.ok, verdict
    assert len(verdict.explained) == 2
    assert "from tick 3 on ticks came late" in verdict.explained[0]
    assert "rejected (insufficient funds" in verdict.explained[1]


def test_a_session_that_was_killed_in_the_middle() -> None:
    """What the journal leaves open is said, and not held against it."""
    driven = session()
    for left in range(2, driven.journal.last):
        journal = MemoryJournal(driven.journal.meta)
        journal.id = driven.journal.id
        journal._entries, journal.last = driven.journal._entries[:left], left
        if journal._entries[-1][1] != "intent":
            continue
        said = sum(kind == "said" for _, kind, _ in journal._entries)
        rows = driven.journal.events()
        before = [int(json.loads(body)[3]) for _, kind, body in journal._entries if kind == "intent"][-1]
        fills = rows["n"][(rows["kind"] == Kind.FILLED) & (rows["tick"] >= before)]
        journal._events = [rows[: int(fills[0]) - 2]]  # the intent is made durable with what came before it
        verdict = verify(journal)
        assert verdict.ok, (left, said, verdict)
        assert "the session stopped in the middle of something: entry" in str(verdict)
        return
    raise AssertionError("no request was found")


# ---------------------------------------------------------------------------------------------------- in a store


def test_a_store(tmp_path: Path) -> None:
    """By path, by store and by journal; nothing is written; compacted, what is left is compared."""
    path = tmp_path / "lab.duckdb"
    plan_of = session()
    with Store(path) as store:
        journal = Journal.create(store, plan_of.journal.meta, name="mine")
        broker = PaperBroker(None, so.FillModel())
        book = Book(journal, broker, lambda: 0, lambda: 1_700_000_000 * 10**9)
        book.resume()
        book.open_market(ONE)
        tape = Tape(ONE, np.arange(17) * 10**9 + 1_700_000_000 * 10**9, {"price": np.array(PRICES)}, np.ones(17))
        for k, at in enumerate((2, 4, 8, 9, 17)):
            book.feed(tape.block((0, 2, 4, 8, 9)[k], at))
            if k < 2:
                book.place(plan_of.book.specs[k])
        whole = verify(store, "mine")
        assert whole.ok, whole
        assert (whole.events, whole.compared) == (journal.changes, 2)
        for _ in range(2):
            book.place(plan_of.book.specs[0])
            book.compact()
        last = journal.last
    compacted = verify(path, "mine")
    assert compacted.ok, compacted
    assert "compacted away" in str(compacted)
    assert compacted.session == journal.id
    with Store(path, read_only=True) as store:
        assert Journal.open(store, "mine").last == last
        with pytest.raises(StoreError, match="no such session"):
            verify(store, "yours")
