"""verify(): does a session's journal lead to what it says came of it, and did the session fill what replay fills?

    verdict = verify("lab.duckdb", "ladders")
    print(verdict)

First everything is lived through again from the journal alone, without a broker: every request and every event has to come out
as it is recorded, byte for byte. Then, for a paper session, each order is replayed once more on the same ticks through replay's
own venue, with its placement and its actions at the ticks at which they came: the events have to be the same. Where the broker
refused, kept silent, answered late or had to be asked twice, or ticks came late, replay knows nothing of it: from there on an
order may go another way, and the verdict says so. Any other difference is an error.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np

from .actions import Action
from .book import Book
from .desk import Desk, Question
from .errors import StoreError, short
from .execution import Job
from .fills import FillModel
from .index import Index
from .instrument import Instrument
from .journal import Entry, Journal, MemoryJournal
from .lower import absolute_prices, lower_fills
from .machine import EMPTY_TREE, read_only
from .messages import Block, Report, What
from .packing import unpack_ticks
from .rows import EVENT, LATE, NONE, ORDER, OUTCOME, Ask, Kind, Reason, Role, Status, table
from .spec import SmartOrder, living_order
from .store import Store

_PLACES = ("leg", "end")
"""Columns of ORDER that say where the legs lie, which depends on who else is there."""
_ROW = tuple(name for name in OUTCOME.names or () if name in (ORDER.names or ()))
_EXPECTS = (What.ACCEPTED, What.FILLED, What.CANCELLED)


@dataclass(repr=False)
class Verdict:
    """What `verify` found. `ok`: all that was compared is equal, or the journal says why not.

    `difference`: the first one that nothing explains. `explained`: one line for each order that went another way than replay, and
    why. `compared`: orders that were replayed; `replayed`: their events. `notes`: what could not be compared.
    """

    session: str
    entries: int = 0
    ticks: int = 0
    orders: int = 0
    requests: int = 0
    events: int = 0
    compared: int = 0
    replayed: int = 0
    difference: str = ""
    explained: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing differs without a reason."""
        return not self.difference

    def __str__(self) -> str:
        lived = (
            f"{_many(self.entries, 'entry', 'entries')}, {_many(self.ticks, 'tick')}, {_many(self.orders, 'order')}: "
            f"{_many(self.requests, 'request')} and {_many(self.events, 'event')}"
        )
        if not self.ok:
            lines = [f"session {self.session}: DIFFERS", f"  {self.difference}", f"  lived through: {lived}"]
        else:
            lines = [f"session {self.session}: ok", f"  lived through again: {lived}, the same to the byte"]
        if self.compared:
            went = f", {len(self.explained)} went another way for a reason" if self.explained else ""
            lines.append(
                f"  replayed: {_many(self.compared, 'order')}, {_many(self.replayed, 'event')}"
                + (f"{went}" if self.explained else ", the same" if self.ok else "")
            )
        lines += [f"    {line}" for line in self.explained]
        lines += [f"  note: {line}" for line in self.notes]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Verdict({self.session}: {'ok' if self.ok else 'DIFFERS'}, {_many(self.orders, 'order')}, {_many(self.events, 'event')})"

    def _repr_html_(self) -> str:
        return f"<pre style='white-space:pre-wrap'>{escape(str(self))}</pre>"


def verify(source: Store | Journal | MemoryJournal | str | os.PathLike[str], id: str = "") -> Verdict:
    """Live through a session again and compare. `source`: a store, its path, or a journal; `id`: the session, its name or the beginning of
    its id, where `source` is a store. Nothing is written. Raises StoreError where there is no such session or its journal is damaged.
    """
    if isinstance(source, Journal | MemoryJournal):
        return _verify(source)
    if isinstance(source, Store):
        journal = Journal.open(source, id)
        try:
            return _verify(journal)
        finally:
            journal.close()
    with Store(source, read_only=True) as store:
        return verify(store, id)


def _verify(journal: Journal | MemoryJournal) -> Verdict:
    tape = _Kept(journal)
    verdict = Verdict(journal.id, len(tape.entries))
    verdict.notes += journal.notes
    verdict.events = tape.changes - tape.begun
    book = _Reliving(tape)
    story = _Story(tape.entries, dict.fromkeys(book.markets, 0))
    try:
        book.live()
    except _Unlike as found:
        verdict.difference = str(found)
    except StoreError as error:
        verdict.difference = f"{book.where}: {str(error).removeprefix(f'session {journal.id}: ')}"
    verdict.requests, verdict.orders = book.requests, len(book.specs)
    verdict.ticks = sum(market.ticks for market in book.markets.values())
    if book.open_end:
        verdict.notes.append(f"the session stopped in the middle of something: {book.open_end}")
    if journal.meta.get("mode", "paper") != "paper":
        verdict.notes.append("not a paper session: what the exchange filled cannot be replayed")
    elif verdict.ok:
        _replay(verdict, book, tape, story)
    return verdict


# ---------------------------------------------------------------------------------------------------- the journal again


class _Unlike(Exception):
    """Something comes out otherwise than it is recorded."""


class _End(BaseException):
    """The journal ends here: what would come now has not happened."""


class _Kept:
    """A journal as a book reads it: from its beginning, or where that was compacted, from the oldest snapshot. Nothing can be written."""

    def __init__(self, journal: Journal | MemoryJournal):
        self.id, self.meta, self.last, self.changes = journal.id, journal.meta, journal.last, journal.changes
        self._journal = journal
        newest = journal.load()  # which checks that all is there
        self.entries: list[Entry] = [*journal.entries()]
        self.snapshots = dict(journal.snapshots())
        self.start: tuple[int, bytes | None] = (0, None)
        if newest[1] is not None and (not self.entries or self.entries[0][0] > 1):
            seq = min(self.snapshots)
            self.start = seq, self.snapshots[seq]
            self.entries = [entry for entry in self.entries if entry[0] > seq]
        self.begun = 0

    def load(self) -> tuple[int, bytes | None, list[Entry]]:
        return (*self.start, self.entries)

    def events(self, since: int = 0, order: int | None = None, limit: int | None = None) -> np.ndarray:
        self.begun = since
        return self._journal.events(since, order, limit)

    def finished(self, until: int | None = None) -> Iterator[tuple[int, bytes]]:
        return self._journal.finished(until)

    def append(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None = None) -> int:
        raise _End

    def snapshot(self, body: bytes, finished: Sequence[tuple[int, bytes]] = ()) -> None:
        raise _End

    def compact(self, keep: int) -> None:
        raise _End


class _Nobody:
    """A broker that is not there: what the journal does not answer ends the story."""

    request_expiry_ns = visibility_lag_ns = 0
    tells_all = True
    together = staticmethod(nullcontext)

    def list(self, instrument: Instrument) -> None:
        pass

    def tick(self, *_: object) -> None:
        pass

    def due(self, symbol: str, ts: np.ndarray, *_: object) -> tuple[int, Sequence[Any]]:
        return len(ts), []

    def submit(self, *_: object) -> Any:
        raise _End

    match = cancel = query = know = submit


class _Reliving(Book):
    """A book that lives through a journal, and says where it goes another way."""

    def __init__(self, journal: _Kept):
        super().__init__(journal, _Nobody(), lambda: 0)
        self.kept = journal
        self.requests = 0
        self.where = "before the first entry"
        self.open_end = ""
        self._asked: set[tuple[int, ...]] = set()
        self._kept_past: Any = None

    def live(self) -> None:
        """Live through all of it. Raises _Unlike or StoreError."""
        try:
            self.relive()
        except _End:
            self.open_end = f"{self.where}; what it asked last has no answer"
            return
        past = self._kept_past
        if past is None:
            return
        missing = [data for key, data in past.intents.items() if key not in self._asked]
        if missing:
            number, child, ask, tick = missing[0][:4]
            raise _Unlike(
                f"order {number}, tick {tick}: {Ask(ask).name} of child {child} is recorded and does not come about"
            )
        if left := [data for dues in past.due.values() for data in dues]:
            raise _Unlike(f"{left[0][0]}, tick {left[0][1]}: the broker was to be asked for {left[0][2]}, and is not")
        if self._events:
            extra = self._events[0][0]
            raise _Unlike(f"{_line(extra)} comes about and is not recorded")

    def _relive(self, seq: int, kind: str, body: bytes) -> None:
        self._kept_past = self._past or self._kept_past
        self.where = f"entry {seq} ({kind}{_about(kind, body)})"
        if self._past is None and kind in ("place", "action", "report", "due", "said"):
            raise _Unlike(f"{self.where}: comes after a request that has no answer")
        super()._relive(seq, kind, body)
        if seq in self.kept.snapshots and self._past is not None:
            self._like_snapshot(seq)

    def _book(self, events: np.ndarray) -> None:
        past = self._past
        if past is not None:
            known = past.events[past.at : past.at + len(events)]
            for k, (was, now) in enumerate(zip(known, events, strict=False)):
                if was.tobytes() != now.tobytes():
                    before = past.events[: past.at + k]
                    before = before[before["order"] == was["order"]]
                    raise _Unlike(
                        f"event {self.kept.begun + past.at + k + 1}, in {self.where}: recorded is {_line(was)}; lived through again it is "
                        f"{_line(now)}" + (f"; before it came {_line(before[-1])}" if len(before) else "")
                    )
        super()._book(events)

    def _same_intent(self, question: Question | None, job: Job, intent: list[Any] | None) -> None:
        super()._same_intent(question, job, intent)
        if question is None or question.ask == Ask.MATCH:
            return
        self.requests += 1
        self._asked.add((question.order, question.child, int(question.ask)))
        ours: list[Any] = [*job.submit]
        if question.ask == Ask.CANCEL:
            ours = [job.submit.client_id, job.submit.symbol, question.ts, question.instant]
        if intent is not None and (intent[4] != ours or intent[3] != question.tick):
            raise _Unlike(
                f"order {question.order}, in {self.where}: recorded is {question.ask.name} {intent[4]} at tick {intent[3]}; lived through "
                f"again it is {ours} at tick {question.tick}"
            )

    def _like_snapshot(self, seq: int) -> None:
        """The state of a snapshot is the one that the entries before it lead to."""
        other = _Reliving(self.kept)
        other._thaw(self.kept.snapshots[seq])
        self.catch_up()
        for number in other.homes:
            if number not in self.specs:
                raise _Unlike(f"snapshot of entry {seq}: order {number} is in it, and was not placed before")
            for was, now in zip(other.rows(number), self.rows(number), strict=True):
                names = [name for name in was.dtype.names or () if name not in _PLACES]
                wrong = [name for name in names if not np.array_equal(was[name], now[name])]
                if wrong:
                    a, b = (short(rows[wrong[0]].tolist()) for rows in (was, now))
                    raise _Unlike(
                        f"snapshot of entry {seq}: order {number}: {wrong[0]} is {a}; lived through again it is {b}"
                    )


# ---------------------------------------------------------------------------------------------------- what is in it


class _Placed(NamedTuple):
    """An order as it came into being: at which tick, when, as what; and its actions, each with its tick and the spec after an edit."""

    tick: int
    created: int
    order: SmartOrder
    actions: list[tuple[int, Action, SmartOrder | None]]


class _Story:
    """A journal read through: ticks, orders, and what went wrong."""

    def __init__(self, entries: Sequence[Entry], begun: dict[str, int]):
        self.blocks: dict[str, list[Block]] = {}
        self.placed: dict[int, _Placed] = {}
        self.faults: dict[int, list[tuple[int, str]]] = {}
        """By order: from which tick on, and what."""
        self.late: dict[str, list[int]] = {}
        """By symbol: the first tick of each block that came late."""
        self._sent: dict[tuple[int, int], int] = {}
        """By order and child: the tick at which it was sent, from which on replay's venue may do otherwise."""
        ticks = dict(begun)
        for seq, kind, body in entries:
            if kind == "ticks":
                block = unpack_ticks(body)
                at = ticks.get(block.symbol, 0)
                if block.late:
                    self.late.setdefault(block.symbol, []).append(at)
                ticks[block.symbol] = at + len(block.ts)
                self.blocks.setdefault(block.symbol, []).append(block)
            elif kind in ("place", "action", "intent", "said", "report", "again"):
                self._take(seq, kind, json.loads(body), ticks)

    def _take(self, seq: int, kind: str, data: list[Any], ticks: dict[str, int]) -> None:
        if kind == "place":
            order = SmartOrder.from_json(data[2])
            self.placed[data[0]] = _Placed(ticks.get(order.symbol, 0), data[1], order, [])
            return
        placed = self.placed.get(data[0])
        if placed is None:
            return
        sent = self._sent.get((data[0], data[1]), 0)
        if kind == "intent":
            self._sent.setdefault((data[0], data[1]), data[3])
        elif kind == "action":
            with living_order():
                after = None if data[3] is None else SmartOrder.from_json(data[3])
            placed.actions.append((data[1], Action(**data[2]), after))
        elif kind == "said":
            for what in _wrong(data[2], data[4]):
                self._fault(data[0], data[3], f"entry {seq}: child {data[1]}: {what}")
        elif kind == "report":
            told = ", ".join(str(report[1]) for report in data[2])
            self._fault(data[0], sent, f"entry {seq}: child {data[1]}: the broker reported by itself ({told})")
        else:
            self._fault(data[0], sent, f"entry {seq}: child {data[1]}: sent again, attempt {data[2]}")

    def _fault(self, order: int, tick: int, text: str) -> None:
        self.faults.setdefault(order, []).append((tick, text))

    def reason(self, number: int, tick: int) -> str:
        """What the journal knows that may have led order `number` another way by `tick`; empty if nothing."""
        placed = self.placed[number]
        found = [*self.faults.get(number, [])]
        found += [
            (first, f"from tick {first} on ticks came late")
            for first in self.late.get(placed.order.symbol, [])
            if first >= placed.tick
        ]
        found = [fault for fault in found if fault[0] <= tick]
        return max(found, key=lambda fault: fault[0])[1] if found else ""


def _wrong(ask: int, reports: list[list[Any]]) -> list[str]:
    """What an answer holds that replay's venue would not say."""
    texts = []
    for report in (Report(*each) for each in reports):
        what, reason = report.what, report.reason
        if what not in _EXPECTS:
            texts.append(
                {"unknown": "nobody knew whether it had arrived", "absent": "it had not arrived"}.get(what, what)
            )
            texts[-1] += f" ({reason})" if reason else ""
        elif reason:
            texts.append(f"{what}: {reason}")
    if ask == Ask.SUBMIT and not reports:
        texts.append("the broker did not answer")
    return texts


# ---------------------------------------------------------------------------------------------------- replay's venue


class _Venue(Desk):
    """Orders on a whole tape, filled by the venue that replay has instead of by a broker."""

    def __init__(self, instrument: Instrument, fills: FillModel, poll_ns: int, tape: _Tape):
        self.tape = tape
        super().__init__(instrument, fills, poll_ns, quotes=tape.same == 0)

    @property
    def last_price(self) -> int:
        return int(self.tape.price[self.at - 1]) if self.at else 0

    def expect(self, price: int) -> None:
        super().expect(price)
        self.model = lower_fills(self.fills, self.instrument, self.poll_ns, self.highest)

    def live(self, number: int, placed: _Placed) -> np.ndarray:
        """All that happens to an order."""
        happened = []
        self.at = placed.tick
        self.expect(
            max([self.tape.highest, *(self.instrument.price_units(p) for _, p in absolute_prices(placed.order))])
        )
        self.add(number, placed.order, placed.created)
        happened.append(self._told(number, placed.created))
        for tick, action, after in placed.actions:
            happened.append(self.upto(number, tick))
            if after is not None:
                prices = (self.instrument.price_units(price) for _, price in absolute_prices(after))
                self.expect(max(prices, default=0))
            happened.append(self._told(number, int(action.at), action, after))
        happened.append(self.upto(number, len(self.tape.ts)))
        return np.concatenate(happened)

    def upto(self, number: int, tick: int) -> np.ndarray:
        """Live through the ticks before number `tick`."""
        from .engine import advance

        slot, kept = self.slots[number], [np.zeros(0, EVENT)]
        who, row = np.array([slot]), self.rows[slot]
        for chunk in self.tape.chunks:
            end = min(tick, chunk[0] + len(chunk[1]))
            if row.cursor >= end or row.cursor < chunk[0]:
                continue
            arrays = (
                self.rows,
                self.legs,
                self._commands,
                self._ends,
                *self._no_edits,
                self._backup,
                self.model,
                self._now,
            )
            while not advance(*arrays, self._out, chunk, who, 0, 1, end):
                if self._now[0].n == 0:
                    self._out = table(EVENT, 2 * len(self._out))
                kept.append(self._taken())
            kept.append(self._taken())
        self.at = tick
        return np.concatenate(kept)

    def _told(self, number: int, ts: int, action: Action | None = None, after: SmartOrder | None = None) -> np.ndarray:
        row = self.row(number)
        if row.status >= Status.CLOSED:
            return np.zeros(0, EVENT)
        row.cursor = max(row.cursor, self.at)
        dialogue = self.tell(number, ts, action, after)
        try:
            next(dialogue)
        except StopIteration as stop:
            events: np.ndarray = stop.value
            return events
        raise RuntimeError(f"order {number}: replay's venue was asked for something")

    def _lay_out_watch(self) -> None:
        """Nobody is watched: each order walks by itself."""

    def _watch(self, slot: int) -> None:
        """Nobody is watched."""


class _Tape:
    """All ticks of a market as orders of one trigger see them, in chunks for the engine: a chunk ends where ticks begin or cease to be
    late, and with polling where an interval was looked at before it was over."""

    def __init__(self, blocks: Sequence[Block], trigger: str, instrument: Instrument, fills: FillModel, poll_ns: int):
        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(block, name) for block in blocks])

        self.ts = column("ts")
        self.price = buy = sell = column({"last": "price"}.get(trigger, trigger))
        if trigger in ("bid", "ask") and blocks[0].bid is not None and blocks[0].ask is not None:
            buy, sell = column("ask"), column("bid")
        elif trigger == "mark" and blocks[0].price is not None:
            buy = sell = column("price")
        self.highest = int(max(self.price.max(), buy.max(), sell.max()))
        self.same = 3 if trigger == "last" else 0
        size = np.empty(0, np.int64)
        if fills.participation is not None:
            scaled = column("size") * float(fills.participation) / float(instrument.quantity_increment)
            size = np.floor(scaled + 1e-6).astype(np.int64)
        self.chunks: list[tuple[Any, ...]] = []
        for first, last, late in self._parts(blocks, poll_ns):
            parts = [a[first:last] for a in (self.ts, self.price, buy, sell)]
            if trigger == "last":
                parts[2] = parts[3] = parts[1]
            arrays = [read_only(part) for part in (*parts, size[first:last])]
            flags = read_only(np.full(last - first if late else 0, LATE, np.uint8))
            tree = EMPTY_TREE if late else Index(arrays[1], workers=1).arrays()
            self.chunks.append((first, *arrays, flags, self.same, *[read_only(part) for part in tree]))

    def _parts(self, blocks: Sequence[Block], poll_ns: int) -> list[tuple[int, int, bool]]:
        found: list[tuple[int, int, bool]] = []
        begin = at = 0
        for block, after in zip(blocks, [*blocks[1:], None], strict=True):
            at += len(block.ts)
            looked = after is not None and poll_ns and int(block.ts[-1]) // poll_ns == int(after.ts[0]) // poll_ns
            if after is None or after.late != block.late or looked:
                found.append((begin, at, block.late))
                begin = at
        return found


def _replay(verdict: Verdict, book: _Reliving, kept: _Kept, story: _Story) -> None:
    """Each order once more through replay's own venue."""
    if kept.start[1] is not None:
        verdict.notes.append(
            f"the ticks before entry {kept.start[0] + 1} are compacted away: orders placed before that are not replayed"
        )
        return
    book.catch_up()
    recorded = kept.events()
    end = {symbol: market.ticks for symbol, market in book.markets.items()}
    venues: dict[tuple[str, str], _Venue | None] = {}
    for number, placed in story.placed.items():
        key = placed.order.symbol, placed.order.trigger
        if key not in venues:
            venues[key] = _venue(book, story, *key)
        venue = venues[key]
        if venue is None:
            continue
        theirs = venue.live(number, placed)
        ours = np.zeros(int((recorded["order"] == number).sum()), EVENT)
        for name in EVENT.names or ():
            ours[name] = recorded[name][recorded["order"] == number]
        ours = ours[np.argsort(ours["seq"], kind="stable")]
        verdict.compared += 1
        verdict.replayed += len(theirs)
        text, tick = _compare(number, ours, theirs, placed)
        if not text and not book.open_end:
            text, tick = _compare_rows(number, book, venue), end[placed.order.symbol]
        if not text or (book.open_end and len(ours) < len(theirs) and ours.tobytes() == theirs[: len(ours)].tobytes()):
            continue
        reason = story.reason(number, tick)
        if reason:
            verdict.explained.append(f"{text}; {reason}")
        elif not verdict.difference:
            verdict.difference = f"{text}; nothing in the journal explains it"


def _venue(book: _Reliving, story: _Story, symbol: str, trigger: str) -> _Venue | None:
    blocks = story.blocks.get(symbol)
    if not blocks:
        return None
    instrument = book.markets[symbol].instrument
    return _Venue(instrument, book.fills, book.poll_ns, _Tape(blocks, trigger, instrument, book.fills, book.poll_ns))


def _compare(number: int, ours: np.ndarray, theirs: np.ndarray, placed: _Placed) -> tuple[str, int]:
    """The first event that differs, in words, and its tick; empty if none does."""
    for k in range(max(len(ours), len(theirs))):
        mine = ours[k] if k < len(ours) else None
        other = theirs[k] if k < len(theirs) else None
        if mine is not None and other is not None and mine.tobytes() == other.tobytes():
            continue
        tick = min(int(event["tick"]) for event in (mine, other) if event is not None)
        session = "nothing more" if mine is None else _line(mine, False)
        replay = "nothing more" if other is None else _line(other, False)
        before = f"; before it came {_line(ours[k - 1], False)}" if k else ""
        return f"order {number}, event {k} at tick {tick}: the session has {session}, replay {replay}{before}", tick
    return "", 0


def _compare_rows(number: int, book: _Reliving, venue: _Venue) -> str:
    mine, other = book.rows(number)[0], venue.state(number)[0]
    for name in _ROW:
        if mine[name][0] != other[name][0]:
            return f"order {number}: its events are equal, {name} is {mine[name][0]} in the session and {other[name][0]} in replay"
    return ""


# ---------------------------------------------------------------------------------------------------- words


def _many(count: int, what: str, more: str = "") -> str:
    return f"{count:,} {what if count == 1 else more or what + 's'}"


def _line(event: np.void, whole: bool = True) -> str:
    """An event in words, prices and quantities in increments."""
    kind, role = Kind(int(event["kind"])).name.lower(), Role(int(event["role"]))
    text = f"{kind} {role.name.lower()}" if role else kind
    if event["level"] >= 0:
        text += f" {int(event['level'])}"
    if event["quantity"]:
        text += f" {int(event['quantity'])}"
    if event["price"] != NONE:
        text += f" at {int(event['price'])}"
    if event["reason"]:
        text += f" ({Reason(int(event['reason'])).name.lower()})"
    text += f", {int(event['ts'])} ns, stop {_price(event['stop'])}, mark {_price(event['mark'])}, {Status(int(event['status'])).name}"
    if whole:
        text = f"event {int(event['seq'])} of order {int(event['order'])} at tick {int(event['tick'])} ({text})"
    return f"[{text}]" if not whole else text


def _price(value: int) -> str:
    return "none" if value == NONE else str(int(value))


def _about(kind: str, body: bytes) -> str:
    if kind == "ticks":
        symbol, n, *_ = json.loads(body.partition(b"\n")[0])
        return f" of {symbol}, {_many(n, 'tick')}"
    data = json.loads(body)
    return f" of order {data[0]}" if kind in ("place", "action", "report", "again") else ""
