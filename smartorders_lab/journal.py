"""Journal: what went into one session and what came out of it, in one total order; in a store, or in memory.

    journal = Journal.create(store, {"symbols": ["SOL/USDT"]}, name="grid")
    journal.append([("ticks", body), ("action", other)], events)      # one transaction, durable when it returns
    journal.snapshot(state, finished)                                 # the state as of the last entry
    seq, state, entries = Journal.open(store, journal.id).load()      # after a kill: go on from here

Entries are numbered from 1 without gaps, events too, each by a count of its own. Bodies are bytes that the journal does not look
into; it keeps a checksum beside each. Everything is inserted and nothing is changed; only `compact` removes, what a
snapshot has made superfluous.

A journal has one writer: the primary keys refuse a second one. After an error of the store it writes no more (crash-only),
unless reading back proves that the entries went in: open the store again, and go on from what is there. A journal has
connections of its own, so it never waits for a question that somebody asks the store.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

import numpy as np

from . import __version__
from .errors import StoreError, short
from .rows import EVENT, NONE, Kind, Liquidity, Reason, Role, Status
from .run import _words
from .store import TABLES, Inserts, Store, _checkpoint, _insert, _line, _rows, _sync_folder, _transaction, _translated
from .times import instant_ns

if TYPE_CHECKING:
    import polars as pl

CHANGE = np.dtype([("n", "i8"), *EVENT.descr])
"""An event with its running number in the session, from 1."""

SNAPSHOTS = 2
"""Snapshots that `compact` leaves: the newest, and one to fall back on."""
MIN_FREE = 200_000_000
"""Bytes that should be free where the store is; below, a journal says so in its `notes`."""
MAX_KIND = 40
"""Characters of the kind of an entry."""

_ENUMS: dict[str, type[IntEnum]] = {
    "kind": Kind,
    "role": Role,
    "liquidity": Liquidity,
    "status": Status,
    "reason": Reason,
}
"""Columns of EVENT that are kept as words, as in the table `events`."""
_WORDS = {name: {int(code): _words(enum)[code] for code in enum} for name, enum in _ENUMS.items()}
_PRICES = ("price", "stop", "mark")
"""Columns of EVENT in which NONE is kept as NULL."""
_CHUNK = 2_000
"""Entries that are read at once."""

Entry = tuple[int, str, bytes]
"""Number, kind and body."""


class Journal:
    """The journal of one session in a store. Made by `create` or `open`; threads may share it.

    `id`; `name`; `meta`, as given to `create`; `last`: number of the last entry; `changes`: number of the last event;
    `notes`: what is not as it should be but did not stop anything.
    """

    id: str
    name: str
    meta: dict[str, Any]
    last: int
    changes: int

    def __init__(self, store: Store, id: str):
        self.store, self.id, self.notes = store, id, list[str]()
        self._writer = uuid4().hex[:12]
        self._writing, self._reading = threading.RLock(), threading.RLock()
        self._dead = ""
        self._file: tuple[int, int, int] = (0, 0, 0)
        with _translated(store.path):
            self._connection: Any = store._cursor(self)
            self._reader: Any = store._cursor(self)
            self._inserts = Inserts(self._connection, _LISTS)
            [(self.name, meta)] = self._ask("SELECT name, meta FROM sessions WHERE session = ?")
            [(entry,)] = self._ask("SELECT max(seq) FROM session_entries WHERE session = ?")
            [(number, seq)] = self._ask("SELECT max(number), max(seq) FROM session_snapshots WHERE session = ?")
            [(changes,)] = self._ask("SELECT max(n) FROM session_events WHERE session = ?")
            [(finished,)] = self._ask("SELECT count(*) FROM session_orders WHERE session = ?")
        self.meta = json.loads(meta)
        self.last, self.changes = max(entry or 0, seq or 0), changes or 0
        self._snapshots, self._finished = number or 0, finished
        free = shutil.disk_usage(store.path.parent).free
        if free < MIN_FREE and not store.read_only:
            self.notes.append(
                f"{store.path}: {free // 10**6} MB are free on this disk, a session should have {MIN_FREE // 10**6} MB; "
                f"make room"
            )

    @classmethod
    def create(cls, store: Store, meta: dict[str, Any], name: str = "") -> Journal:
        """The journal of a new session. `meta` is what JSON can hold. Raises StoreError."""
        if not isinstance(name, str):
            raise StoreError(f"name = {short(name)}: must be text")
        id = uuid4().hex[:12]
        row = {
            "session": id,
            "name": name,
            "started_at": instant_ns(datetime.now(UTC).replace(microsecond=0)),
            "library": f"smartorders_lab {__version__}",
            "meta": _meta_text(meta),
        }
        store._check_writable()
        with _translated(store.path):
            connection = store._open().cursor()
            try:
                with _transaction(connection):
                    _insert(connection, "sessions", _rows("sessions", row))
            finally:
                connection.close()
        _sync_folder(store.path.parent)
        return cls(store, id)

    @classmethod
    def open(cls, store: Store, id: str) -> Journal:
        """The journal of a session, by its id, the beginning of it, or its name. Raises StoreError if that is none, or several."""
        found: list[tuple[str, str]] = []
        if "sessions" in store._tables:
            with _translated(store.path):
                connection = store._open().cursor()
                try:
                    query = "SELECT session, name FROM sessions WHERE starts_with(session, $1) OR name = $1"
                    found = connection.execute(query, [str(id)]).fetchall() if id else []
                finally:
                    connection.close()
        for exact in (0, 1):  # a whole id goes before a name, a name before the beginning of an id
            found = [row for row in found if row[exact] == id] or found
        if not found:
            raise StoreError(
                f"{store.path}: session {short(id)}: no such session; store.sessions() lists those there are"
            )
        if len(found) > 1:
            shown = ", ".join(session for session, _ in found[:5]) + (" …" if len(found) > 5 else "")
            what = "have this name" if found[0][1] == id else "begin like this"
            raise StoreError(f"{store.path}: session {short(id)}: {len(found)} sessions {what}; take one of {shown}")
        return cls(store, found[0][0])

    # ------------------------------------------------------------------------------------------------ in

    def append(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None = None) -> int:
        """Keep entries, each a kind and a body, and the events that came of them, whole or not at all; returns `last`.

        `events` are rows of EVENT; they get the numbers that follow `changes`. What is kept is durable on return. Raises
        StoreError; if it was the store's error, no append will work from then on.
        """
        _check_entries(entries, events)
        with self._writing:
            self._check_alive()
            if not entries:
                return self.last
            count = 0 if events is None else len(events)
            last, changes = self.last + len(entries), self.changes + count
            numbers = list(range(self.last + 1, last + 1))
            kinds, bodies = [kind for kind, _ in entries], [body for _, body in entries]
            row = [self.id, numbers, self._writer, changes, kinds, [zlib.crc32(body) for body in bodies], bodies]
            work: list[tuple[str, list[Any]]] = [("session_entries", row)]
            if events is not None and count:
                columns = [_column(events, name) for name in EVENT.names or ()]
                work.append(("session_events", [self.id, list(range(self.changes + 1, changes + 1)), *columns]))
            self._write(
                work,
                f"entry {last}" if len(entries) == 1 else f"entries {numbers[0]} to {last}",
                "SELECT count(*) FROM session_entries WHERE session = ? AND seq > ? AND writer = ?",
                [self.last, self._writer],
                len(entries),
            )
            self.last, self.changes = last, changes
            return last

    def snapshot(self, body: bytes, finished: Sequence[tuple[int, bytes]] = ()) -> None:
        """Keep the state as of `last`, whole or not at all, and the rows of orders that are over since, for good.

        An order that is there already, with the same rows, is passed over: so it is after falling back on an older snapshot.
        """
        _check_bodies(body, finished)
        with self._writing:
            self._check_alive()
            known = self._known([int(order) for order, _ in finished])
            fresh = [(order, rows) for order, rows in finished if not _same(order, rows, known)]
            number, total = self._snapshots + 1, self._finished + len(fresh)
            row = [self.id, number, self.last, self._writer, self.changes, total, zlib.crc32(body), body]
            work: list[tuple[str, list[Any]]] = [("session_snapshots", row)]
            if fresh:
                orders, bodies = [int(order) for order, _ in fresh], [rows for _, rows in fresh]
                crcs = [zlib.crc32(rows) for rows in bodies]
                work.append(("session_orders", [self.id, orders, self.last, crcs, bodies]))
            self._write(
                work,
                f"snapshot {number}",
                "SELECT count(*) FROM session_snapshots WHERE session = ? AND number = ? AND writer = ?",
                [number, self._writer],
                1,
            )
            self._snapshots, self._finished = number, total

    def compact(self, keep: int) -> None:
        """Remove the entries up to and including number `keep`, and all snapshots before the last two that are intact.

        Events and orders that are over stay. The file uses the room again (with DuckDB 2 or later). Raises StoreError unless
        both of these snapshots are of entry `keep` or later.
        """
        with self._writing:
            self._check_alive()
            rows = self._ask(
                "SELECT number, seq, crc, body FROM session_snapshots WHERE session = ? ORDER BY number DESC"
            )
            stay = [(number, seq) for number, seq, crc, body in rows if zlib.crc32(body) == crc][:SNAPSHOTS]
            _check_keep(keep, self.last, [seq for _, seq in stay])
            oldest = stay[-1][0] if stay else 0
            try:
                with _translated(self.store.path):
                    with _transaction(self._connection):
                        self._connection.execute(
                            "DELETE FROM session_entries WHERE session = ? AND seq <= ?", [self.id, keep]
                        )
                        self._connection.execute(
                            "DELETE FROM session_snapshots WHERE session = ? AND number < ?", [self.id, oldest]
                        )
                    _checkpoint(self._connection)
                self._sync()
            except BaseException as error:
                self._die("the journal could not be compacted", error)

    def end(self) -> None:
        """A clean stop: all that was kept moves from the store's journal file into the store itself. Appending may go on."""
        with self._writing:
            self._check_alive()
            try:
                with _translated(self.store.path):
                    _checkpoint(self._connection)
                self._sync()
            except BaseException as error:
                self._die("the store could not be brought up to date", error)

    @property
    def backlog(self) -> int:
        """Bytes in the store's journal file (.wal) after the last commit. At 16 MB a commit is a checkpoint too, which takes long:
        compact, or end, before that."""
        return self._file[2]

    def close(self) -> None:
        """Let go of the store; nothing works afterwards. Closing the store does this too."""
        with self._writing, self._reading:
            for connection in (self._connection, self._reader):
                connection.close()
            self._dead = self._dead or "closed"

    def __repr__(self) -> str:
        return f"Journal({self.id}, {self.last} entries, {self.changes} events)"

    # ------------------------------------------------------------------------------------------------ out

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """The entries after number `after` that were not compacted: number, kind and body.

        Raises StoreError where one is damaged or missing.
        """
        [(first, last)] = self._ask("SELECT min(seq), max(seq) FROM session_entries WHERE session = ?")
        expected = max(after + 1, first or 1)
        query = """
            SELECT seq, kind, crc, body FROM session_entries WHERE session = ? AND seq BETWEEN ? AND ? ORDER BY seq
        """
        while expected <= (last or 0):
            end = min(expected + _CHUNK - 1, last)
            for seq, kind, crc, body in self._ask(query, expected, end):
                if seq != expected:
                    break
                if zlib.crc32(body) != crc:
                    raise StoreError(f"{self._where}: entry {seq} ({kind}) is damaged; {_RESTORE}")
                yield seq, kind, body
                expected += 1
            if expected <= end:
                [(first,)] = self._ask("SELECT min(seq) FROM session_entries WHERE session = ?")
                if (first or last + 1) > expected:  # removed meanwhile
                    expected = first or last + 1
                    continue
                raise StoreError(f"{self._where}: entry {expected} is missing, {last} is there; {_RESTORE}")

    def events(self, since: int = 0, order: int | None = None, limit: int | None = None) -> np.ndarray:
        """Rows of CHANGE: the events after number `since`, of one order or all; the first `limit` of them."""
        where = "" if order is None else 'AND "order" = ?'
        params = [since] if order is None else [since, order]
        query = f"SELECT {_EVENT_COLUMNS} FROM session_events WHERE session = ? AND n > ? {where} ORDER BY n"
        if limit is not None:
            query, params = f"{query} LIMIT ?", [*params, limit]
        with self._reading, _translated(self.store.path):
            self._check_open()
            columns = self._reader.execute(query, [self.id, *params]).fetchnumpy()
        rows = np.zeros(len(columns["n"]), CHANGE)
        for name in CHANGE.names or ():
            rows[name] = columns[name]
        return rows

    def finished(self, until: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Orders that are over and their rows, by number; with `until`, those that snapshots up to that entry brought."""
        query = """
            SELECT "order", crc, body FROM session_orders WHERE session = ? AND "order" > ? AND seq <= ?
            ORDER BY "order" LIMIT ?
        """
        after, last = -(2**63), 2**63 - 1 if until is None else until
        while rows := self._ask(query, after, last, _CHUNK):
            for order, crc, body in rows:
                if zlib.crc32(body) != crc:
                    raise StoreError(f"{self._where}: order {order}, which is over, is damaged; {_RESTORE}")
                yield order, body
            after = rows[-1][0]

    def snapshots(self) -> Iterator[tuple[int, bytes]]:
        """The snapshots that are kept and intact, oldest first: the entry that each is of, and the state."""
        for seq, crc, body in self._ask(
            "SELECT seq, crc, body FROM session_snapshots WHERE session = ? ORDER BY number"
        ):
            if zlib.crc32(body) == crc:
                yield seq, body

    def load(self) -> tuple[int, bytes | None, list[Entry]]:
        """What to go on from: the newest intact snapshot, as (entry it is of, body) or (0, None), and the entries after it.

        Checks numbers, counts and checksums of all that is there; raises StoreError if they do not hold. A snapshot that
        is damaged is passed over, and `notes` says so: `finished(seq)` then leaves out what later ones brought.
        """
        snapshots = self._ask("""
            SELECT number, seq, changes, finished, crc, body FROM session_snapshots WHERE session = ? ORDER BY number
        """)
        numbers = [number for number, *_ in snapshots]
        if numbers and numbers != list(range(numbers[0], numbers[-1] + 1)):
            raise StoreError(f"{self._where}: a snapshot between {numbers[0]} and {numbers[-1]} is missing; {_RESTORE}")
        seq, body = 0, None
        for number, at, *_, crc, state in reversed(snapshots):
            if zlib.crc32(state) == crc:
                seq, body = at, state
                break
            self.notes.append(f"{self._where}: snapshot {number}, of entry {at}, is damaged and was passed over")

        first, last, entries = 0, 0, []
        for entry in self.entries():
            first, last = first or entry[0], entry[0]
            if last > seq:
                entries.append(entry)
        seqs = [at for _, at, *_ in snapshots]
        there, top = last if first else min(seqs, default=0), max(seqs, default=0)
        for low, high in ((seq + 1, first - 1), (there + 1, top), (seq + 1, top if not first else 0)):
            if low <= high:
                raise StoreError(f"{self._where}: entries {low} to {high} are missing; {_RESTORE}")

        [(count, number)] = self._ask("SELECT count(*), coalesce(max(n), 0) FROM session_events WHERE session = ?")
        said = self._ask("SELECT max(changes) FROM session_entries WHERE session = ?")[0][0]
        said = max(said or 0, *(changes for _, _, changes, *_ in snapshots), 0)
        if not count == number == said:
            raise StoreError(
                f"{self._where}: {said} events were kept, {count} are there, up to number {number}; {_RESTORE}"
            )
        orders, wanted = sum(1 for _ in self.finished()), snapshots[-1][3] if snapshots else 0
        if orders != wanted:
            raise StoreError(f"{self._where}: {wanted} orders that are over were kept, {orders} are there; {_RESTORE}")
        return seq, body, entries

    # ------------------------------------------------------------------------------------------------ inside

    @property
    def _where(self) -> str:
        return f"{self.store.path}: session {self.id}"

    def _ask(self, query: str, *params: Any) -> list[tuple[Any, ...]]:
        """All rows of an answer, from a connection that no commit waits for. The first parameter is the session."""
        with self._reading, _translated(self.store.path):
            self._check_open()
            rows: list[tuple[Any, ...]] = self._reader.execute(query, [self.id, *params]).fetchall()
            return rows

    def _known(self, orders: list[int]) -> dict[int, bytes]:
        """Those of some orders that are kept as over."""
        if not orders:
            return {}
        query = 'SELECT "order", body FROM session_orders WHERE session = ? AND "order" IN (SELECT unnest(?::BIGINT[]))'
        return dict(self._ask(query, orders))

    def _write(self, work: list[tuple[str, list[Any]]], what: str, proof: str, params: list[Any], count: int) -> None:
        """Insert rows of some tables in one transaction. `proof` asks for `count` rows that are there only if it went in."""
        try:
            self._inserts.write(work)
        except BaseException as error:
            with suppress(Exception):  # a COMMIT that failed may have gone in all the same
                if self._ask(proof, *params) == [(count,)]:  # asked elsewhere, where only what was committed is seen
                    if not isinstance(error, Exception):
                        self._dead = f"{what} went in, but was interrupted"
                        raise
                    self._sync()
                    return
            self._die(f"{what} could not be written", error)
        try:
            self._sync()
        except OSError as error:
            self._die(f"{what} may not be durable", error)

    def _sync(self) -> None:
        """The name of a new journal file (.wal) made durable; DuckDB makes one after each checkpoint."""
        wal = self.store.path.with_name(self.store.path.name + ".wal")
        with suppress(FileNotFoundError):
            there, main = os.stat(wal), os.stat(self.store.path)
            file = (there.st_ino, main.st_mtime_ns, there.st_size)
            if file[:2] != self._file[:2] or file[2] < self._file[2]:
                _sync_folder(self.store.path.parent)
            self._file = file
            return
        self._file = (0, 0, 0)
        _sync_folder(self.store.path.parent)

    def _check_open(self) -> None:
        if self._dead == "closed":
            raise StoreError(
                f"{self._where}: this journal is closed; open it again with Journal.open(store, {self.id!r})"
            )

    def _check_alive(self) -> None:
        self.store._check_writable()
        self._check_open()
        if self._dead:
            raise StoreError(
                f"{self._where}: cannot go on after an error before ({self._dead}); open the store again, "
                f"what was kept (up to entry {self.last}) is there"
            )

    def _die(self, what: str, error: BaseException) -> NoReturn:
        """Refuse all further writing, and say why."""
        self._dead = what
        with suppress(Exception):
            self._connection.execute("ROLLBACK")
        if not isinstance(error, Exception):
            raise error
        text, kept = str(error), f"what was kept (up to entry {self.last}) is there"
        if "order: " in text and "constraint" in text:
            way = "an event of this number of its order is there already; number them as the engine does"
        elif "constraint" in text:
            way = "another writer was here; let only one session write it, and open the store again"
        elif "No space left" in text or "disk is full" in text:
            way = f"the disk is full: make room and open the store again, {kept}"
        else:
            way = f"{_line(error).removeprefix(f'{self.store.path}: ')}; open the store again, {kept}"
        raise StoreError(f"{self._where}: {what}: {way}") from error


class MemoryJournal:
    """A journal in memory, for a session without a store, and for simulations; everything as in Journal.

    `hook` is called with `before append`, `after append`, `before snapshot` … and may raise, to crash a session there: before,
    nothing is kept; after, it is. The journal itself stays as it is, as a file would.
    """

    def __init__(self, meta: dict[str, Any], name: str = "", hook: Callable[[str], None] | None = None):
        self.id, self.name, self.meta = uuid4().hex[:12], name, json.loads(_meta_text(meta))
        self.last = self.changes = self.backlog = 0
        self.notes: list[str] = []
        self.hook = hook
        self._entries: list[Entry] = []
        self._events: list[np.ndarray] = [np.zeros(0, CHANGE)]
        self._joining = threading.Lock()
        self._keys: set[tuple[int, int]] = set()
        self._snapshots: list[tuple[int, bytes]] = []
        self._finished: dict[int, tuple[int, bytes]] = {}

    def append(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None = None) -> int:
        """As Journal.append."""
        _check_entries(entries, events)
        if not entries:
            return self.last
        self._call("before append")
        if events is not None and len(events):
            rows = np.zeros(len(events), CHANGE)
            rows["n"] = np.arange(self.changes + 1, self.changes + 1 + len(events))
            for name in EVENT.names or ():
                rows[name] = events[name]
            keys = list(zip(rows["order"].tolist(), rows["seq"].tolist(), strict=True))
            if len(set(keys)) < len(keys) or not self._keys.isdisjoint(keys):
                raise StoreError(f"session {self.id}: an event is there already; number the events of an order")
            self._keys.update(keys)
            with self._joining:
                self._events.append(rows)
                self.changes += len(rows)
        self._entries += [(self.last + n, kind, body) for n, (kind, body) in enumerate(entries, 1)]
        self.last += len(entries)
        self._call("after append")
        return self.last

    def snapshot(self, body: bytes, finished: Sequence[tuple[int, bytes]] = ()) -> None:
        """As Journal.snapshot."""
        _check_bodies(body, finished)
        known = {order: rows for order, (_, rows) in self._finished.items()}
        fresh = {order: (self.last, rows) for order, rows in finished if not _same(order, rows, known)}
        self._call("before snapshot")
        self._snapshots.append((self.last, body))
        self._finished |= fresh
        self._call("after snapshot")

    def compact(self, keep: int) -> None:
        """As Journal.compact."""
        stay = self._snapshots[-SNAPSHOTS:]
        _check_keep(keep, self.last, [seq for seq, _ in stay])
        self._call("before compact")
        self._snapshots = stay
        self._entries = [entry for entry in self._entries if entry[0] > keep]
        self._call("after compact")

    def end(self) -> None:
        """Nothing: there is no file to bring up to date."""

    def close(self) -> None:
        """Nothing: there is no file to let go of."""

    def entries(self, after: int = 0) -> Iterator[Entry]:
        """As Journal.entries."""
        first = self._entries[0][0] if self._entries else 1
        yield from self._entries[max(0, after + 1 - first) :]

    def events(self, since: int = 0, order: int | None = None, limit: int | None = None) -> np.ndarray:
        """As Journal.events."""
        with self._joining:
            if len(self._events) > 1:
                self._events = [np.concatenate(self._events)]
            rows = self._events[0][max(0, since) :]
        if order is not None:
            rows = rows[rows["order"] == order]
        return rows[:limit].copy()

    def finished(self, until: int | None = None) -> Iterator[tuple[int, bytes]]:
        """As Journal.finished."""
        for order, (seq, body) in sorted(self._finished.items()):
            if until is None or seq <= until:
                yield order, body

    def snapshots(self) -> Iterator[tuple[int, bytes]]:
        """As Journal.snapshots."""
        yield from self._snapshots

    def load(self) -> tuple[int, bytes | None, list[Entry]]:
        """As Journal.load."""
        seq, body = self._snapshots[-1] if self._snapshots else (0, None)
        return seq, body, list(self.entries(seq))

    def __repr__(self) -> str:
        return f"MemoryJournal({self.id}, {self.last} entries, {self.changes} events)"

    def _call(self, moment: str) -> None:
        if self.hook is not None:
            self.hook(moment)


def sessions(store: Store) -> pl.DataFrame:
    """One row for each session of a store; see Store.sessions."""
    return store.sessions()


_RESTORE = "restore a copy of the store, or begin a new session"


_LISTS = {
    "session_entries": ("seq", "kind", "crc", "body"),
    "session_events": tuple(name for name in TABLES["session_events"] if name != "session"),
    "session_snapshots": (),
    "session_orders": ("order", "crc", "body"),
}
"""Columns that differ from row to row of what is inserted at once."""


def _read(name: str) -> str:
    """A column of CHANGE, as the number that it was."""
    if name == "ts":
        return "epoch_ns(ts) AS ts"
    if name in _PRICES:
        column = {"mark": "water_mark"}.get(name, name)
        return f"coalesce({column}, {NONE}) AS {name}"
    if name in _WORDS:
        none = next((code for code, word in _WORDS[name].items() if word is None), -1)
        pairs = " ".join(f"WHEN '{word}' THEN {code}" for code, word in _WORDS[name].items() if word is not None)
        return f"CASE {name} {pairs} ELSE {none} END AS {name}"
    return f'"{name}"'


_EVENT_COLUMNS = ", ".join(map(_read, CHANGE.names or ()))


def _column(events: np.ndarray, name: str) -> list[Any]:
    """A column of EVENT, as it is kept."""
    values: list[Any] = events[name].tolist()
    if name in _WORDS:
        words = _WORDS[name]
        return [words[code] for code in values]
    return [None if value == NONE else value for value in values] if name in _PRICES else values


def _same(order: int, rows: bytes, known: dict[int, bytes]) -> bool:
    """Whether an order that is over is kept as such. Raises StoreError if it is, but differently."""
    if order in known and known[order] != rows:
        raise StoreError(f"order {order}: is over and kept already, with other rows; what is over cannot change")
    return order in known


def _check_entries(entries: Sequence[tuple[str, bytes]], events: np.ndarray | None) -> None:
    for n, (kind, body) in enumerate(entries):
        if not (isinstance(kind, str) and 0 < len(kind) <= MAX_KIND and kind.isprintable()):
            raise StoreError(
                f"entries[{n}]: kind = {short(kind)}: must be text of 1 to {MAX_KIND} printable characters"
            )
        if not isinstance(body, bytes):
            raise StoreError(f"entries[{n}]: body is of type {type(body).__name__}: must be bytes; encode it")
    if events is None or not len(events):
        return
    if not entries:
        raise StoreError(f"events: {len(events)} events without an entry: what they came of must be kept with them")
    if events.dtype.names != EVENT.names:
        raise StoreError(f"events: dtype {short(events.dtype)}: must be rows of EVENT; take those of the engine")
    for name, words in _WORDS.items():
        for n, code in enumerate(events[name].tolist()):
            if code not in words:
                raise StoreError(f"events[{n}].{name} = {code}: is no {_ENUMS[name].__name__}; see rows.py")


def _check_bodies(body: bytes, finished: Sequence[tuple[int, bytes]]) -> None:
    if not isinstance(body, bytes):
        raise StoreError(f"body is of type {type(body).__name__}: a snapshot must be bytes; encode it")
    for order, rows in finished:
        if not isinstance(rows, bytes):
            raise StoreError(f"order {order}: its rows are of type {type(rows).__name__}: must be bytes; encode them")
    orders = [order for order, _ in finished]
    if len(set(orders)) < len(orders):
        twice = next(order for order in orders if orders.count(order) > 1)
        raise StoreError(f"order {twice}: is finished twice; an order is over once")


def _check_keep(keep: int, last: int, seqs: Sequence[int]) -> None:
    if keep < 0 or keep > last:
        raise StoreError(f"keep = {keep}: must be the number of an entry, or 0; the last is {last}")
    covered = min(seqs, default=0)
    if keep > covered:
        raise StoreError(
            f"keep = {keep}: the entries after {covered} are in no older snapshot that stays; "
            f"take {SNAPSHOTS} snapshots first, or keep more"
        )


def _meta_text(meta: dict[str, Any]) -> str:
    try:
        text = json.dumps(meta, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(f"meta cannot be kept: {error}; keep text, numbers, lists and dicts in it") from None
    if json.loads(text) != meta:
        raise StoreError("meta does not survive JSON; keep text, numbers, lists and dicts with text keys in it")
    return text
