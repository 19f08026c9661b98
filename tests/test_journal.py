"""The journal: what was acknowledged is there, in order, once, whatever happened to the process, the disk or the file."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from smartorders_lab import journal as journal_module
from smartorders_lab.errors import StoreError
from smartorders_lab.journal import CHANGE, Journal, MemoryJournal, sessions
from smartorders_lab.rows import EVENT, NONE, Kind, Liquidity, Reason, Role, Status
from smartorders_lab.store import TABLES, Store

pytestmark = pytest.mark.unverified  # these are journals of no session
KILLS = int(os.environ.get("SMARTORDERS_KILLS", "30"))
"""How often the writer of the kill test is killed."""
SESSION_TABLES = [name for name in TABLES if name.startswith("session")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.duckdb"


@pytest.fixture
def store(path):
    with Store(path) as store:
        yield store


def events(seqs: list[int], order: int = 0, **columns: Any) -> np.ndarray:
    """Events of one order, each with these numbers."""
    rows = np.zeros(len(seqs), EVENT)
    rows["order"], rows["seq"], rows["ts"] = order, seqs, 1_723_161_255_342_123_457
    for name, value in columns.items():
        rows[name] = value
    return rows


def filled(journal: Journal | MemoryJournal) -> None:
    """Five entries, three events, two snapshots and two orders that are over."""
    journal.append([("ticks", b"1"), ("place", b"2")], events([0, 1]))
    journal.snapshot(b"state of 2", [(7, b"seven")])
    journal.append([("ticks", b"3")])
    journal.snapshot(b"state of 3", [(5, b"five")])
    journal.append([("ticks", b"4"), ("ticks", b"")], events([0], order=1))


def by_hand(path: Path, *statements: str) -> None:
    with duckdb.connect(str(path)) as connection:
        for statement in statements:
            connection.execute(statement)


# ---------------------------------------------------------------------------------------------------- in and out


def test_what_goes_in_comes_out(path):
    with Store(path) as store:
        journal = Journal.create(store, {"symbols": ["SOL/USDT"], "fee": "0.1"}, "grid")
        assert (journal.last, journal.changes, journal.load()) == (0, 0, (0, None, []))
        filled(journal)
        assert (journal.last, journal.changes, journal.notes) == (5, 3, [])
        assert repr(journal) == f"Journal({journal.id}, 5 entries, 3 events)"
    with Store(path) as store:
        for name in (journal.id, journal.id[:7], "grid"):
            again = Journal.open(store, name)
            assert (again.id, again.name, again.meta) == (journal.id, "grid", {"symbols": ["SOL/USDT"], "fee": "0.1"})
            assert (again.last, again.changes) == (5, 3)
        assert list(again.entries(after=3)) == [(4, "ticks", b"4"), (5, "ticks", b"")]
        assert again.load() == (3, b"state of 3", [(4, "ticks", b"4"), (5, "ticks", b"")])
        assert list(again.finished()) == [(5, b"five"), (7, b"seven")]
        assert list(again.finished(until=2)) == [(7, b"seven")]
        assert again.append([("stop", b"6")]) == 6
        row = store.sessions().row(0, named=True)
        assert (row["session"], row["name"], row["entries"], row["events"]) == (journal.id, "grid", 6, 3)
        assert sessions(store).equals(store.sessions())
        assert {name: rows for name, rows in store.verify().items() if name in SESSION_TABLES} == {
            "sessions": 1,
            "session_entries": 6,
            "session_events": 3,
            "session_snapshots": 2,
            "session_orders": 2,
        }


def test_every_value_of_an_event_comes_back_and_reads_as_words(store):
    journal = Journal.create(store, {})
    codes = [list(enum) for enum in (Kind, Role, Liquidity, Status, Reason)]
    rows = events(list(range(max(map(len, codes)))), level=-1, price=2**62, stop=NONE, mark=NONE, quantity=-1)
    for name, members in zip(("kind", "role", "liquidity", "status", "reason"), codes, strict=True):
        rows[name] = np.resize(members, len(rows))
    rows["ts"] += np.arange(len(rows))
    journal.append([("ticks", b"")], rows.view(np.recarray))
    back = journal.events()
    assert back.dtype == CHANGE
    assert_array_equal(back["n"], np.arange(1, len(rows) + 1))
    for name in EVENT.names:
        assert_array_equal(back[name], rows[name])
    words = store.sql("SELECT ts, kind, role, liquidity, status, stop, water_mark FROM session_events WHERE n = 4")
    assert words.rows()[0][1:] == ("triggered", "trailing_take_profit", None, "CLOSED", None, None)
    assert words["ts"].to_physical()[0] == 1_723_161_255_342_123_460


def test_events_by_number_and_order(store):
    journal = Journal.create(store, {})
    for order in (3, 1, 3, 1):
        journal.append([("ticks", b"")], events([journal.changes, journal.changes + 1], order=order))
    assert journal.events(since=5)["n"].tolist() == [6, 7, 8]
    assert journal.events(order=3)["n"].tolist() == [1, 2, 5, 6]
    assert journal.events(since=1, order=3, limit=2)["n"].tolist() == [2, 5]
    assert journal.events(since=8).tolist() == []


actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"),
            st.lists(st.tuples(st.sampled_from(["ticks", "place", "ü s"]), st.binary(max_size=40)), max_size=4),
            st.lists(
                st.tuples(
                    st.integers(0, 3),
                    st.sampled_from([NONE, -1, 0, 2**62]),
                    st.sampled_from(list(Kind)),
                    st.sampled_from(list(Reason)),
                    st.integers(0, 2**62),
                ),
                max_size=4,
            ),
        ),
        st.tuples(
            st.just("snapshot"),
            st.binary(max_size=40),
            st.lists(st.tuples(st.integers(0, 6), st.sampled_from([b"", b"\0a", b"\xff"])), max_size=3),
        ),
        st.tuples(st.just("compact"), st.integers(-1, 12)),
        st.tuples(st.just("end")),
        st.tuples(st.just("open")),
    ),
    max_size=14,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("journals") / "all.duckdb") as store:
        yield store


def done(journal: Journal | MemoryJournal, action: tuple[Any, ...]) -> Any:
    """What an action returns, or what it says against it."""
    what, *rest = action
    if what == "append" and rest[1]:
        rows = np.zeros(len(rest[1]), EVENT)
        for name, column in zip(("order", "price", "kind", "reason", "ts"), zip(*rest[1], strict=True), strict=True):
            rows[name] = column
        rows["seq"] = np.arange(len(rows)) + journal.changes
        rest[1] = rows
    elif what == "append":
        rest[1] = None
    try:
        return getattr(journal, what)(*rest)
    except StoreError as error:
        return str(error)


def seen(journal: Journal | MemoryJournal) -> Any:
    """All that can be read from a journal."""
    half = journal.last // 2
    return (
        (journal.last, journal.changes),
        journal.load(),
        (list(journal.entries()), list(journal.entries(half))),
        (list(journal.finished()), list(journal.finished(half))),
        (journal.events().tolist(), journal.events(2, order=1).tolist(), journal.events(1, limit=2).tolist()),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions)
def test_a_journal_in_memory_does_what_one_in_a_store_does(shared, actions):
    kept, memory = Journal.create(shared, {"n": 1}), MemoryJournal({"n": 1})
    for action in actions:
        if action[0] == "open":
            kept.close()
            kept = Journal.open(shared, kept.id)
        else:
            assert done(kept, action) == done(memory, action)
    assert seen(kept) == seen(memory)
    kept.close()


def test_compacting_keeps_what_a_fallback_needs(store):
    journal = Journal.create(store, {})
    filled(journal)
    with pytest.raises(StoreError, match=r"keep = 3: the entries after 2 are in no older snapshot that stays"):
        journal.compact(3)
    journal.snapshot(b"state of 5")
    journal.compact(3)
    assert [seq for seq, _, _ in journal.entries()] == [4, 5]
    assert store.verify()["session_snapshots"] == 2
    assert journal.load() == (5, b"state of 5", [])
    assert len(journal.events()) == 3
    assert [order for order, _ in journal.finished()] == [5, 7]
    journal.snapshot(b"once more")
    journal.compact(5)
    again = Journal.open(store, journal.id)
    assert (again.last, again.load(), list(again.entries())) == (5, (5, b"once more", []), [])
    assert again.append([("ticks", b"6")]) == 6
    assert again.load() == (5, b"once more", [(6, "ticks", b"6")])


@pytest.mark.skipif(duckdb.__version__ < "2", reason="DuckDB before 2 does not shrink a table that has a key")
def test_compacting_gives_the_room_back(path):
    with Store(path) as store:
        journal = Journal.create(store, {})
        sizes = []
        for _ in range(6):
            for _ in range(20):
                journal.append([("ticks", os.urandom(10_000))] * 5)
            journal.snapshot(b"")
            journal.snapshot(b"")
            journal.compact(journal.last)
            sizes.append(path.stat().st_size)
    assert sizes[-1] <= 2 * sizes[0]  # a million bytes each time


@pytest.mark.parametrize(
    ("at", "last", "states"),
    [("before append", 0, 0), ("after append", 1, 0), ("before snapshot", 1, 0), ("after snapshot", 1, 1)],
)
def test_a_crash_in_a_simulation_is_before_or_after(at, last, states):
    def crash(moment: str) -> None:
        moments.append(moment)
        if moment == at:
            raise KeyboardInterrupt

    def work() -> None:
        journal.append([("ticks", b"1")])
        journal.snapshot(b"state", [(1, b"")])
        journal.compact(0)

    moments: list[str] = []
    journal = MemoryJournal({}, hook=crash)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert (journal.last, journal.load()[0], len(list(journal.finished()))) == (last, states, states)
    assert moments[-1] == at
    journal.hook = moments.append
    work()
    assert moments[-6:] == [
        f"{when} {what}" for what in ("append", "snapshot", "compact") for when in ("before", "after")
    ]


# ---------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda j: j.append([("", b"")]), r"entries\[0\]: kind = '': must be text of 1 to 40 printable characters"),
        (lambda j: j.append([("a", b""), ("a\n", b"")]), r"entries\[1\]: kind = 'a\\n'"),
        (lambda j: j.append([("a", "text")]), r"entries\[0\]: body is of type str: must be bytes; encode it"),
        (lambda j: j.append([], events([1])), "1 events without an entry"),
        (lambda j: j.append([("a", b"")], np.zeros(1)), "must be rows of EVENT; take those of the engine"),
        (lambda j: j.append([("a", b"")], events([1, 2], kind=[0, 77])), r"events\[1\].kind = 77: is no Kind"),
        (lambda j: j.append([("a", b"")], events([1], status=-1)), r"events\[0\].status = -1: is no Status"),
        (lambda j: j.snapshot("text"), "body is of type str: a snapshot must be bytes"),
        (lambda j: j.snapshot(b"", [(1, "text")]), "order 1: its rows are of type str: must be bytes"),
        (lambda j: j.snapshot(b"", [(1, b""), (1, b"")]), "order 1: is finished twice; an order is over once"),
        (lambda j: j.snapshot(b"", [(7, b"other")]), "order 7: is over and kept already, with other rows"),
        (lambda j: j.compact(-1), "keep = -1: must be the number of an entry, or 0; the last is 5"),
        (lambda j: j.compact(6), "keep = 6: must be the number of an entry, or 0; the last is 5"),
    ],
)
def test_wrong_input_is_named_and_changes_nothing(store, call, message):
    for journal in (Journal.create(store, {}), MemoryJournal({})):
        filled(journal)
        before = seen(journal)
        with pytest.raises(StoreError, match=message):
            call(journal)
        assert seen(journal) == before
        assert journal.append([("ticks", b"goes on")]) == 6


def test_sessions_that_are_not_there_or_not_alone(store):
    a, _ = Journal.create(store, {}, "twice"), Journal.create(store, {}, "twice")
    for name in ("", "none", "twic"):
        with pytest.raises(StoreError, match=rf"session '{name}': no such session; store.sessions\(\) lists"):
            Journal.open(store, name)
    with pytest.raises(StoreError, match=f"session 'twice': 2 sessions have this name; take one of {a.id}, "):
        Journal.open(store, "twice")
    c = Journal.create(store, {}, a.id[:3])
    assert Journal.open(store, a.id[:3]).id == c.id
    many = [Journal.create(store, {}) for _ in range(17)]
    first = [journal.id[0] for journal in [a, *many]]
    letter = next(x for x in first if first.count(x) > 1)
    with pytest.raises(StoreError, match=r"sessions begin like this; take one of"):
        Journal.open(store, letter)


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": {1, 2}}, {1: "x"}, {"x": (1,)}])
def test_a_meta_that_would_not_come_back_is_refused(store, meta):
    with pytest.raises(StoreError, match=r"meta (cannot be kept|does not survive JSON)"):
        Journal.create(store, meta)
    assert store.sessions().is_empty()


def test_little_room_is_noted(store, monkeypatch):
    monkeypatch.setattr(journal_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=12_345_678))
    journal = Journal.create(store, {})
    assert journal.notes == [
        f"{store.path}: 12 MB are free on this disk, a session should have 200 MB; make room",
    ]


# ---------------------------------------------------------------------------------------------------- damage

DAMAGE = [
    ("UPDATE session_entries SET body = 'x' WHERE seq = 4", r"entry 4 \(ticks\) is damaged; restore a copy"),
    ("UPDATE session_entries SET body = 'x' WHERE seq = 1", r"entry 1 \(ticks\) is damaged"),
    ("DELETE FROM session_entries WHERE seq = 4", "entry 4 is missing, 5 is there"),
    ("DELETE FROM session_entries WHERE seq BETWEEN 1 AND 4", "entries 4 to 4 are missing"),
    ("DELETE FROM session_entries WHERE seq >= 3; DELETE FROM session_events WHERE n = 3", "entries 3 to 3 are missing"),
    ("DELETE FROM session_events WHERE n = 1", "3 events were kept, 2 are there, up to number 3"),
    ("DELETE FROM session_events WHERE n = 3", "3 events were kept, 2 are there, up to number 2"),
    ("DELETE FROM session_snapshots WHERE number = 2", "1 orders that are over were kept, 2 are there"),
    ("UPDATE session_orders SET body = 'x' WHERE \"order\" = 7", "order 7, which is over, is damaged"),
    ("DELETE FROM session_orders WHERE \"order\" = 5", "2 orders that are over were kept, 1 are there"),
]  # fmt: skip


@pytest.mark.parametrize(("statements", "message"), DAMAGE)
def test_damage_is_found_and_named(path, statements, message):
    with Store(path) as store:
        journal = Journal.create(store, {})
        filled(journal)
    by_hand(path, *statements.split("; "))
    with Store(path) as store, pytest.raises(StoreError, match=f"session {journal.id}: {message}"):
        Journal.open(store, journal.id).load()


def test_a_damaged_snapshot_is_passed_over(path):
    with Store(path) as store:
        id = Journal.create(store, {}).id
        filled(Journal.open(store, id))
    by_hand(path, "UPDATE session_snapshots SET body = 'x' WHERE number = 2")
    with Store(path) as store:
        journal = Journal.open(store, id)
        seq, state, entries = journal.load()
        assert (seq, state, [seq for seq, _, _ in entries]) == (2, b"state of 2", [3, 4, 5])
        assert journal.notes == [f"{path}: session {id}: snapshot 2, of entry 3, is damaged and was passed over"]
        assert [order for order, _ in journal.finished(seq)] == [7]
        with pytest.raises(StoreError, match="keep = 3: the entries after 2 are in no older snapshot that stays"):
            journal.compact(3)
        journal.compact(2)
        journal.snapshot(b"again", [(5, b"five")])  # the order that the damaged one brought
        assert [order for order, _ in journal.finished()] == [5, 7]
        journal.compact(2)
        assert store.verify()["session_snapshots"] == 3
        journal.snapshot(b"and again")
        journal.compact(5)
        assert store.verify()["session_snapshots"] == 2
        assert journal.load() == (5, b"and again", [])
    by_hand(path, "UPDATE session_snapshots SET body = 'x'")
    with Store(path) as store, pytest.raises(StoreError, match=r"entries 1 to 5 are missing"):
        Journal.open(store, id).load()


# ---------------------------------------------------------------------------------------------------- one writer


def test_a_second_writer_is_refused_and_writes_no_more(store):
    first = Journal.create(store, {})
    filled(first)
    second = Journal.open(store, first.id)
    first.append([("ticks", b"same")])
    before = store.verify()
    with pytest.raises(StoreError, match="entry 6 could not be written: another writer was here; let only one"):
        second.append([("ticks", b"same")])  # though it is the same, it is not its own
    assert store.verify() == before
    for call in (lambda: second.append([("ticks", b"")]), lambda: second.snapshot(b""), lambda: second.end()):
        with pytest.raises(
            StoreError, match=r"cannot go on after an error before \(entry 6 could not be written\); open the store ag"
        ):
            call()
    assert second.load() == first.load()  # reading goes on
    assert first.append([("ticks", b"7")]) == 7
    third = Journal.open(store, first.id)
    first.snapshot(b"1")
    with pytest.raises(StoreError, match="snapshot 3 could not be written: another writer was here"):
        third.snapshot(b"2")
    assert first.load()[:2] == (7, b"1")


def test_writers_at_the_same_time_never_share_a_number(store):
    """Two threads with a journal of their own each: of all that was acknowledged, everything is there once."""
    id = Journal.create(store, {}).id
    acknowledged: list[tuple[int, bytes]] = []
    refused: list[str] = []

    def work(name: bytes) -> None:
        for n in range(60):
            body = b"%s %d" % (name, n)
            try:
                acknowledged.append((Journal.open(store, id).append([("ticks", body)]), body))
            except StoreError as error:
                refused.append(str(error))

    threads = [threading.Thread(target=work, args=(name,)) for name in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(acknowledged) == [(seq, body) for seq, _, body in Journal.open(store, id).entries()]
    assert len(acknowledged) >= 60
    assert all("another writer was here" in message for message in refused)


def test_an_event_that_is_there_already_is_refused(store):
    journal = Journal.create(store, {})
    filled(journal)
    with pytest.raises(StoreError, match="an event of this number of its order is there already"):
        journal.append([("ticks", b"")], events([1]))
    assert Journal.open(store, journal.id).load()[2][-1] == (5, "ticks", b"")
    memory = MemoryJournal({})
    filled(memory)
    with pytest.raises(StoreError, match="an event is there already"):
        memory.append([("ticks", b"")], events([1]))
    assert memory.last == 5


def test_a_long_question_holds_up_no_commit(store):
    journal = Journal.create(store, {})
    asking, answers = threading.Event(), []

    def ask() -> None:
        asking.set()
        try:
            answers.append(store.sql("SELECT count(*) FROM range(10000000) a, range(10000000) b WHERE a.range % 7 = 3"))
        except StoreError as error:
            answers.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        asking.wait()
        while store._turn.acquire(blocking=False):  # until the question has the store
            store._turn.release()
            time.sleep(0.001)
        for n in range(50):
            assert journal.append([("ticks", b"x")], events([n])) == n + 1
        journal.snapshot(b"")
        journal.snapshot(b"")
        journal.compact(journal.last)
        assert len(Journal.create(store, {}).load()[2]) == 0
        assert len(journal.events()) == 50
        assert thread.is_alive()
        assert answers == []
    finally:
        while thread.is_alive():
            store._open().interrupt()
            thread.join(0.05)
    assert "interrupt" in answers[0].lower()
    assert journal.load() == (50, b"", [])


def test_closing_the_store_closes_its_journals(path):
    with Store(path) as store:
        journal = Journal.create(store, {})
        journal.append([("ticks", b"")])
    for call in (lambda: journal.append([("ticks", b"")]), lambda: journal.load(), lambda: journal.events()):
        with pytest.raises(StoreError, match=r"this journal is closed; open it again with Journal.open\(store, "):
            call()
    journal.close()
    Store(path).close()  # nobody holds it any longer


# ---------------------------------------------------------------------------------------------------- the file


def test_a_commit_is_no_checkpoint_and_a_new_name_is_made_durable(path, monkeypatch):
    synced = []
    monkeypatch.setattr(journal_module, "_sync_folder", synced.append)
    with Store(path) as store:
        journal = Journal.create(store, {})
        assert synced == [path.parent]
        before, wal = path.stat(), path.with_name(path.name + ".wal")
        journal.append([("ticks", b"")])
        synced.clear()
        for _ in range(100):
            journal.append([("ticks", bytes(10_000))])
        assert wal.stat().st_size > 1_000_000
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert synced == []
        assert journal.backlog == wal.stat().st_size
        journal.end()
        assert journal.backlog == 0
        assert not wal.exists()
        assert synced == [path.parent]
        journal.append([("ticks", b"")])
        assert wal.exists()
        assert synced == [path.parent] * 2


def older(path: Path) -> None:
    """Make a store one of schema 2."""
    by_hand(path, *(f"DROP TABLE {name}" for name in SESSION_TABLES), "UPDATE store SET schema_version = 2")


def test_a_store_of_schema_2_gets_the_tables_when_it_is_written_to(path):
    Store(path).close()
    older(path)
    with Store(path, read_only=True) as store:
        assert store.sessions().is_empty()
        assert store.sessions().columns == ["session", "name", "started_at", "library", "entries", "events"]
        assert not set(SESSION_TABLES) & set(store.verify())
        with pytest.raises(StoreError, match="no such session"):
            Journal.open(store, "x")
    with Store(path) as store:
        empty = store.sessions()
        filled(Journal.create(store, {}))
        assert empty.schema == store.sessions().schema
        assert store.sql("SELECT schema_version FROM store").item() == 3


def test_reading_only(path):
    with Store(path) as store:
        journal = Journal.create(store, {}, "a")
        filled(journal)
        state = seen(journal)
    with Store(path, read_only=True) as store, Store(path, read_only=True) as other:
        for one in (store, other):
            journal = Journal.open(one, "a")
            assert seen(journal) == state
            for call in (lambda j=journal: j.append([("ticks", b"")]), lambda o=one: Journal.create(o, {})):
                with pytest.raises(StoreError, match="is open for reading only"):
                    call()


class Failing:
    """A connection of which a COMMIT fails, before it is made or afterwards."""

    def __init__(self, real: Any, goes_in: bool, error: BaseException):
        self.real, self.goes_in, self.error = real, goes_in, error

    def execute(self, statement: Any, *given: Any) -> Any:
        if getattr(statement, "query", statement) == "COMMIT":
            if self.goes_in:
                self.real.execute("COMMIT")
            raise self.error
        return self.real.execute(statement, *given)


@pytest.mark.parametrize("goes_in", [True, False])
def test_a_commit_that_failed_counts_only_if_it_went_in(store, goes_in):
    journal = Journal.create(store, {})
    filled(journal)
    real = journal._inserts._connection
    journal._inserts._connection = Failing(real, goes_in, duckdb.IOException("IO Error: Input/output error"))
    if goes_in:
        assert journal.append([("ticks", b"6")], events([1], order=1)) == 6
        journal.snapshot(b"state of 6")
        journal._inserts._connection = real
        assert journal.append([("ticks", b"7")], events([2], order=1)) == 7
        assert journal.load() == (6, b"state of 6", [(7, "ticks", b"7")])
    else:
        with pytest.raises(StoreError, match=r"entry 6 could not be written: Input/output error; open the store again"):
            journal.append([("ticks", b"6")])
        journal._inserts._connection = real
        with pytest.raises(StoreError, match=r"cannot go on .* what was kept \(up to entry 5\) is there"):
            journal.append([("ticks", b"6")])
        assert Journal.open(store, journal.id).append([("ticks", b"6")]) == 6


@pytest.mark.parametrize("goes_in", [True, False])
def test_an_interrupt_in_a_commit_ends_the_journal(store, goes_in):
    journal = Journal.create(store, {})
    filled(journal)
    real = journal._inserts._connection
    journal._inserts._connection = Failing(real, goes_in, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        journal.append([("ticks", b"6")])
    journal._inserts._connection = real
    with pytest.raises(StoreError, match="cannot go on after an error before"):
        journal.append([("ticks", b"6")])
    assert Journal.open(store, journal.id).last == 5 + goes_in


FULL = textwrap.dedent("""
    import os, resource, sys
    from smartorders_lab.errors import StoreError
    from smartorders_lab.journal import Journal
    from smartorders_lab.store import Store

    folder, how = sys.argv[1:]
    path, ballast, acknowledged = f"{folder}/x.duckdb", f"{folder}/ballast", 0
    with Store(path) as store:
        journal = Journal.create(store, {}, "full")
        if how == "tmpfs":
            with open(ballast, "wb") as file:
                file.write(bytes(9_000_000))
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))
        try:
            while True:
                acknowledged = journal.append([("ticks", os.urandom(20_000))] * 3)
        except StoreError as error:
            print(error)
        try:
            journal.append([("ticks", b"")])
        except StoreError as error:
            print(error)
    if how == "tmpfs":
        os.unlink(ballast)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with Store(path) as store:
        journal = Journal.open(store, "full")
        journal.load()
        print(acknowledged, journal.last, journal.append([("ticks", b"goes on")]))
""")


@pytest.mark.parametrize("how", ["tmpfs", "limit"])
def test_a_full_disk_is_named_and_loses_nothing(tmp_path, how):
    command = [sys.executable, "-c", FULL, str(tmp_path), how]
    if how == "tmpfs":
        mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=12m none "$0" && exec "$@"', str(tmp_path)]
        try:
            subprocess.run([*mount, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no file system of its own can be mounted here")
        command = [*mount, *command]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.strip().split("\n")
    acknowledged, there, next_ = map(int, last.split())
    assert acknowledged >= 30
    assert there in (acknowledged, acknowledged + 3)  # the last may have gone in without being acknowledged
    assert next_ == there + 1
    assert f"entries {acknowledged + 1} to {acknowledged + 3} could not be written: " in first
    assert ("the disk is full: make room and open the store again" if how == "tmpfs" else "File too large") in first
    assert f"what was kept (up to entry {acknowledged}) is there" in first
    assert "cannot go on after an error before" in second


# ---------------------------------------------------------------------------------------------------- kills

WRITERS = textwrap.dedent("""
    # Forks a writer for each line; a fork has all imports done, and its threads are its own since none were started before.
    import os
    import sys
    import numpy as np
    from smartorders_lab.journal import Journal
    from smartorders_lab.rows import EVENT
    from smartorders_lab.store import Store

    def body(seq):
        return b"%d " % seq * (seq % 97)

    def say(line):
        os.write(1, line.encode() + b"\\n")  # at once, unlike print()

    def write():
        say("opening -")
        with Store(path) as store:
            journal = Journal.open(store, "killed") if store.sessions().height else Journal.create(store, {}, "killed")
            seq, state, entries = journal.load()
            assert state in (None, b"state of %d" % seq)
            assert [b for _, _, b in entries] == [body(n) for n in range(seq + 1, journal.last + 1)]
            say(f"loaded {journal.last}")
            while True:
                count = journal.last % 5 + 1
                rows = np.zeros(journal.last % 4, EVENT)
                rows["order"], rows["seq"] = journal.last % 3, np.arange(len(rows)) + journal.changes
                entries = [("ticks", body(journal.last + n)) for n in range(1, count + 1)]
                say(f"kept {journal.append(entries, rows)}")
                if journal.last % 20 < 5:
                    journal.snapshot(b"state of %d" % journal.last, [(journal.last, b"over")])
                    say(f"over {journal.last}")
                if journal.last % 100 < 5:
                    journal.snapshot(b"state of %d" % journal.last)
                    journal.compact(journal.last)

    path = sys.argv[1]
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            write()
        say(f"pid {child}")
        os.waitpid(child, 0)
        say("gone -")
""")


def test_a_kill_loses_nothing_that_was_acknowledged(path):
    """Writers, one after another, each killed (SIGKILL) at some moment; SMARTORDERS_KILLS says how many."""
    dice = random.Random(11)
    kept, over, extra = 0, set(), 0
    with subprocess.Popen(
        [sys.executable, "-c", WRITERS, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writers:
        for number in range(KILLS):
            writers.stdin.write("go\n")
            writers.stdin.flush()
            awaited = ("opening", 1) if number % 5 == 4 else ("kept", dice.randint(1, 15))
            said: list[tuple[str, str]] = []
            while [word for word, _ in said].count(awaited[0]) < awaited[1] or "pid" not in dict(said):
                said.append(tuple(writers.stdout.readline().split()))
                assert len(said[-1]) == 2, said
            time.sleep(dice.random() * (0.05 if awaited[0] == "opening" else 0.01))
            os.kill(int(dict(said)["pid"]), signal.SIGKILL)
            while said[-1][0] != "gone":
                said.append(tuple(writers.stdout.readline().split()))
            loaded = [int(value) for word, value in said if word == "loaded"]
            for word, value in said:
                if word == "kept":
                    kept = int(value)
                elif word == "over":
                    over.add(int(value))
            if not path.exists():
                assert not loaded
                continue
            with Store(path) as store:
                if store.sessions().is_empty():
                    assert kept == 0
                    continue
                journal = Journal.open(store, "killed")
                seq, _, entries = journal.load()
                assert [n for n, _, _ in entries] == list(range(seq + 1, journal.last + 1))
                assert kept <= journal.last <= kept + 5  # at most one append that could not be acknowledged
                assert over <= {order for order, _ in journal.finished()}
                extra += journal.last > kept
                kept = journal.last
                assert_array_equal(journal.events()["n"], np.arange(1, journal.changes + 1))
        writers.stdin.close()
    assert kept > 10 * KILLS
    print(f"{KILLS} kills, {kept} entries, {extra} not acknowledged but there")
