"""What must hold whatever happens. Each is asserted by `Checks.hold(what, …)`; the names are those of the table in `WHAT`.

The checks know the exchange and the journal from outside: what was executed is counted at the exchange's ledger, what is durable is read
from what the journal was given, and the rules that they recompute are written here once more, in plain Python.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from smartorders_lab.book import Book
from smartorders_lab.messages import Cancel, Submit
from smartorders_lab.packing import unpack_ticks
from smartorders_lab.rows import EVENT, LEG, NONE, ORDER, SCALE, Ask, EntryKind, Kind, LegStatus, Role, Status
from smartorders_lab.spec import SmartOrder

if TYPE_CHECKING:
    from .world import World

WHAT = {
    "I1": "an order never sells more than it bought",
    "I2": "an order never buys more than was asked for",
    "I3": "what an order holds is what its fills come to, and not less than nothing",
    "I4": "an order ends once, and nothing happens to it after that",
    "I5": "a stop never loosens but by an edit, or by an entry that moves the average",
    "I6": "a water mark never falls, and never stands above any real price",
    "I7": "nothing is out for an order that is over",
    "I8": "all attempts at a child together never fill more than the child",
    "I9": "in the end the book knows what the exchange knows",
    "I10": "the journal leads to the same state and the same events again",
    "I11": "no client id is sent twice",
    "I12": "versions have no gaps, a child has one intent",
    "I13": "nothing is sent whose intent, and the ticks before it, are not durable",
    "I14": "no more is on its way out than is held",
    "I15": "break-even fires once, after its levels",
    "I17": "what is sent is a quantity that the market takes",
    "I19": "what follows from ticks that come late is not sent into the past",
    "R2": "after a restart what was executed is known before the missed ticks are lived through",
    "I18": "what was taken back is not sent again",
    "L1": "an order whose stop fired ends STOPPED",
    "L2": "no order lives on beyond its stop",
    "L3": "every child is over in the end",
    "L4": "no tick is lost and none is seen twice",
    "L5": "what is crossed is acted on, with one child each",
    "told": "events are told in order, once durable",
    "keys": "an order that is placed again under its key is the same order",
    "stale": "an action that was decided on another version is refused",
    "T1": "every fill at an exchange is told once, as it was",
    "T2": "an order is told as over when nothing more can happen to it, and all its fills have been told",
    "T3": "an order is told as absent when it is not there and cannot arrive any more",
    "E1": "a request of unknown outcome is repeated only where the exchange does not carry it out twice",
    "E2": "nothing is sent while the switch is off",
    "E3": "nothing is sold that is not there",
    "C1": "what is taken back is taken back again as long as it works",
    "O1": "at the exchange nothing works that is over, or that no book knows",
    "B1": "balances at the exchange are what the fills in the journal come to",
    "G1": "the guard counts what works, and nothing else",
    "G2": "no more is opened than the limits allow",
    "L6": "a start finds out what became of everything",
    "error": "nothing raises what it must not",
}
F = {name: n for n, name in enumerate(ORDER.names or ())}
G = {name: n for n, name in enumerate(LEG.names or ())}
E = {name: n for n, name in enumerate(EVENT.names or ())}
_STOPS = (int(Role.STOP_LOSS), int(Role.BREAK_EVEN), int(Role.TRAILING_STOP))
_BUYS = (int(Role.ENTRY), int(Role.ADD_FUNDS))
CLOSED = int(Status.CLOSED)


class Violation(BaseException):
    """Something that must hold does not. No `except Exception` of what is tested may swallow it."""

    def __init__(self, what: str, text: str):
        super().__init__(f"{what} ({WHAT[what]}): {text}")
        self.what = what


@dataclass
class Track:
    """What was seen of one order, from outside. Prices mirrored."""

    spec: SmartOrder
    number: int
    owned: int
    wanted: int | None
    side: int = 1
    seq: int = 0
    stop: int = NONE
    mark: int | None = None
    first: int = 0
    ended: bool = False
    status: int = 0
    bought: int = 0
    """At the exchange."""
    sold: int = 0
    evens: int = 0
    levels: int = 0
    leaving: int = 0
    """The role of the last exit that was decided."""
    user_ends: bool = False
    added: int = 0


@dataclass
class Sleep:
    """A row that nothing has happened to, and the trailing parts as plain Python has them."""

    seq: int
    cursor: int
    upto: int
    mark: int
    armed: bool
    entry_mark: int
    entry_armed: bool
    known: list[Any] = field(default_factory=list)


class Checks:
    """All of them, for one world."""

    def __init__(self, world: World):
        self.world = world
        self.tracks: dict[int, Track] = {}
        self.intents: dict[str, tuple[int, int]] = {}
        self.attempts: dict[str, list[Any]] = {}
        self.cancels: set[tuple[int, int]] = set()
        self.recalled: set[tuple[int, int]] = set()
        """Children whose cancel was put to the exchange."""
        self.seen_intents: set[tuple[int, int, int]] = set()
        self.sent: set[str] = set()
        self.before: set[str] = set()
        """What was sent by processes that are dead."""
        self.executed: dict[tuple[int, int], int] = {}
        self.quantity: dict[tuple[int, int], int] = {}
        self.durable: dict[str, int] = {}
        """Ticks of each symbol in the journal."""
        self.order_of: dict[str, Submit] = {}
        self.sleeps: dict[int, Sleep] = {}
        self.told = 0
        self.asserted = self.actions = 0

    def hold(self, holds: object, what: str, text: str, *more: object) -> None:
        self.asserted += 1
        if not holds:
            raise Violation(what, text + "".join(f" {thing}" for thing in more))

    # ------------------------------------------------------------------------------------------------ the exchange

    def changed(self, change: Sequence[Any]) -> None:
        """The ledger of the exchange changes."""
        what = change[0]
        if what == "submit":
            submit = Submit(*change[1])
            self.order_of[submit.client_id] = submit
        elif what == "fill":
            self.filled(self.order_of[change[1]], change[5])

    def filled(self, submit: Submit, quantity: int) -> None:
        """The exchange has executed some of a child."""
        key, track = self.intents[submit.client_id], self.tracks[submit.order]
        self.executed[key] = done = self.executed.get(key, 0) + quantity
        self.hold(done <= self.quantity[key], "I8", f"order {key[0]}, child {key[1]}: {done} of {self.quantity[key]}")
        if submit.opens:
            track.bought += quantity
            most = None if track.wanted is None else track.wanted + track.added
            self.hold(most is None or track.bought <= most, "I2", f"order {submit.order}: {track.bought} of {most}")
        else:
            track.sold += quantity
        self.hold(
            track.sold <= track.bought + track.owned,
            "I1",
            f"order {submit.order}: {track.sold} sold, {track.bought} + {track.owned} bought",
        )
        self.hold(not track.ended, "I4", f"order {submit.order}: a fill after its end")

    def sending(self, submit: Submit) -> None:
        """A book sends a child."""
        name = submit.client_id
        self.hold(name not in self.sent, "I11", f"{name} of order {submit.order}")
        self.sent.add(name)
        self.hold(name in self.intents, "I13", f"{name} of order {submit.order} has no intent")
        key = self.intents[name]
        self.hold([*submit] == self.attempts[name], "I13", f"{[*submit]} is not the intent {self.attempts[name]}")
        self.hold(key not in self.recalled, "I18", f"order {key[0]}, child {key[1]}")
        symbol = submit.symbol.partition("@")[0]
        book = self.world.book
        assert book is not None
        ticks = book.markets[symbol].ticks
        self.hold(
            self.durable.get(symbol, 0) >= ticks, "I13", f"{self.durable.get(symbol, 0)} of {ticks} ticks are durable"
        )
        least = self.world.least[symbol] if submit.opens else 1
        self.hold(
            type(submit.quantity) is int and submit.quantity >= least,
            "I17",
            f"{submit.quantity} of order {submit.order}",
        )

        late = self.world.believed[symbol][-1:]
        if late and late[0][1] and not self.world.resuming and not self.world.plan.poll:
            last = book.markets[symbol].last_ts
            self.hold(
                submit.sent > last, "I19", f"order {submit.order}: sent at {submit.sent}, the last tick was at {last}"
            )

    def reconciled(self, book: Book) -> None:
        """A book has been resumed, and has seen none of the ticks that it missed."""
        for key, job in book.jobs.items():
            name = job.submit.client_id
            if job.open and name in self.before and name not in self.world.exchange.unanswered:
                done = self.executed.get(key, 0)
                self.hold(
                    job.filled == done,
                    "R2",
                    f"order {key[0]}, child {key[1]}: {job.filled} of {done} executed are known",
                )

    def cancelling(self, cancel: Cancel) -> None:
        """A book takes a child back."""
        key = self.intents.get(cancel.client_id)
        self.hold(key is not None and key in self.cancels, "I13", f"{cancel.client_id}: a cancel without an intent")
        assert key is not None
        self.recalled.add(key)

    # ------------------------------------------------------------------------------------------------ the journal

    def committed(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None) -> None:
        """These are durable now."""
        for kind, body in entries:
            if kind == "ticks":
                symbol, count, *_ = json.loads(body.partition(b"\n")[0])
                self.durable[symbol] = self.durable.get(symbol, 0) + count
            elif kind == "place":
                number, _, text, _ = json.loads(body)
                self._placed(number, SmartOrder.from_json(text))
            elif kind == "intent":
                order, child, ask, _, request, _ = json.loads(body)
                fresh = (order, child, ask) not in self.seen_intents
                self.hold(fresh or ask != Ask.SUBMIT, "I12", f"order {order}, child {child}: two intents")
                self.seen_intents.add((order, child, ask))
                if ask == Ask.SUBMIT:
                    self.intents[request[0]], self.attempts[request[0]] = (order, child), request
                    self.quantity[order, child] = request[6]
                else:
                    self.cancels.add((order, child))
            elif kind == "again":
                order, child, _, name, sent, instant, _ = json.loads(body)
                self.world.count("branch: sent again")
                first = next(request for key, request in self.attempts.items() if self.intents[key] == (order, child))
                self.hold(name not in self.intents, "I12", f"{name} of order {order} is not new")
                self.intents[name] = (order, child)
                self.attempts[name] = [name, *first[1:10], sent, instant]
            elif kind == "action":
                self.actions += 1
                order, _, action, after = json.loads(body)
                track = self.tracks[order]
                if after is not None and {"quantity", "cost", "risk"} & action["changes"].keys():
                    track.wanted = None
        if events is not None:
            for event in events.tolist():
                self._happened(event)

    def _placed(self, number: int, spec: SmartOrder) -> None:
        instrument = self.world.instruments[spec.symbol]
        size = None if spec.quantity is None else int(spec.quantity / instrument.quantity_increment)
        owned = (size or 0) if spec.entry.kind == "held" else 0
        self.tracks[number] = Track(spec, number, owned, 0 if owned else size, spec.direction)
        self.world.count(f"entry: {spec.entry.kind}")

    def _happened(self, event: tuple[Any, ...]) -> None:
        number, kind, role = event[E["order"]], event[E["kind"]], event[E["role"]]
        track, side = self.tracks[number], self.tracks[number].side
        about = f"order {number}, event {event[E['seq']]} {Kind(kind).name.lower()} {Role(role).name.lower()}"
        self.hold(event[E["seq"]] == track.seq, "I12", f"{about}: comes after {track.seq} events")
        track.seq += 1
        self.hold(not track.ended or kind == Kind.ACTION_REFUSED, "I4", f"{about}: after the end")
        stop = NONE if event[E["stop"]] == NONE else side * event[E["stop"]]
        edits = kind == Kind.ACTION and role == Role.EDIT
        moves = edits or (kind in (Kind.FILLED, Kind.HELD) and role in _BUYS)
        self.hold(moves or stop >= track.stop, "I5", f"{about}: {track.stop} → {stop} (mirrored)")
        track.stop = stop
        lowest, highest = self.world.extremes(track.spec.symbol)
        if event[E["mark"]] != NONE:
            mark = side * event[E["mark"]]
            if track.mark is None:
                track.first = mark
            else:
                self.hold(mark >= track.mark, "I6", f"{about}: mark {track.mark} → {mark}")
            track.mark = mark
            best = highest if side > 0 else -lowest
            self.hold(mark <= max(best, track.first), "I6", f"{about}: mark {mark}, the best real price is {best}")
        if kind in (Kind.TRIGGERED, Kind.ARMED) and role != Role.OPEN_NOW:
            price = event[E["price"]]
            self.hold(
                price == NONE or lowest <= price <= highest,
                "I6",
                f"{about}: at {price}, real ones are {lowest} to {highest}",
            )
        if kind == Kind.BREAK_EVEN:
            self.hold(track.evens == 0, "I15", f"{about}: again")
            self.hold(track.levels > 0, "I15", f"{about}: before any level was filled")
            track.evens += 1
        if edits:
            track.evens = 0
        if kind == Kind.ACTION and role == Role.ADD_FUNDS:
            track.added += event[E["quantity"]]
        if kind == Kind.ACTION and role in (Role.CANCEL, Role.STOP_OUT, Role.CLOSE_AT_MARKET):
            track.user_ends = True
        if kind == Kind.FILLED and role in (Role.TAKE_PROFIT, Role.TRAILING_TAKE_PROFIT):
            track.levels += 1
        if kind == Kind.TRIGGERED and role in (*_STOPS, Role.MAX_HOLD, Role.CLOSE_AT_MARKET):
            track.leaving = role
        if kind == Kind.ALERT:
            self.world.count("branch: exit refused")
        if kind == Kind.ENDED:
            self._ended(track, event, about)

    def _ended(self, track: Track, event: tuple[Any, ...], about: str) -> None:
        world, number, status = self.world, track.number, event[E["status"]]
        track.ended, track.status = True, status
        world.count(f"end: {Status(status).name.lower()}/{event[E['reason']]}")
        stopped = status == Status.STOPPED
        self.hold((track.leaving in _STOPS) <= (stopped or track.user_ends), "L1", f"{about}: {Status(status).name}")
        out = world.exchange.working(track.spec.symbol, number)
        self.hold(not out, "I7", f"{about}: {out} still work at the exchange")
        if status in (Status.CLOSED, Status.STOPPED):
            left = track.owned + track.bought - track.sold
            self.hold(event[E["quantity"]] == 0, "I4", f"{about}: it holds {event[E['quantity']]}")
            self.hold(
                left == 0 or world.plan.fills.fee_currency == "base", "I4", f"{about}: {left} are left at the exchange"
            )

    # ------------------------------------------------------------------------------------------------ the book, after each step

    def restarted(self) -> None:
        """A new book: what was told is told from where it is durable."""
        self.told = 0
        self.before = set(self.sent)
        self.sleeps.clear()

    def tell(self, number: int, events: np.ndarray) -> None:
        """A book tells events."""
        self.hold(self.told in (0, number), "told", f"event {number} after {self.told - 1}")
        self.told = number + len(events)
        self.hold(self.told - 1 <= self.world.journal.changes, "told", f"event {self.told - 1} is not durable")

    def step(self, book: Book) -> None:
        """Between two things that happen."""
        out: dict[int, int] = {}
        children: dict[int, int] = {}
        for (order, child), job in book.jobs.items():
            children[order] = max(children.get(order, 0), child)
            if job.open:
                self.hold(0 <= job.filled < job.submit.quantity, "I3", f"order {order}, child {child}: {job.filled}")
                if not job.submit.opens:
                    out[order] = out.get(order, 0) + job.submit.quantity - job.filled
            self.hold(
                job.filled <= self.executed.get((order, child), 0), "I3", f"order {order}, child {child}: {job.filled}"
            )
        for number, (symbol, trigger) in book.homes.items():
            desk = book.markets[symbol].desks[trigger]
            slot = desk.slots[number]
            row = desk.rows[slot].item()
            track = self.tracks[number]
            held = row[F["entered"]] - row[F["exited"]]
            self.hold(held >= 0, "I3", f"order {number} holds {held}")
            self.hold(
                row[F["bought"]] <= track.bought + track.owned, "I3", f"order {number}: bought {row[F['bought']]}"
            )
            self.hold(row[F["exited"]] <= track.sold, "I3", f"order {number}: sold {row[F['exited']]} of {track.sold}")
            self.hold(
                out.get(number, 0) <= held, "I14", f"order {number}: {out.get(number)} of {held} on their way out"
            )
            self.hold(
                row[F["children"]] == children.get(number, row[F["children"]]),
                "L5",
                f"order {number}: a child was not sent",
            )
            self.hold(
                track.seq == row[F["seq"]], "I12", f"order {number}: {row[F['seq']]} events, {track.seq} are durable"
            )
            if row[F["status"]] >= CLOSED:
                self.hold(number not in out, "I7", f"order {number} is over, a child is not")
            else:
                self._slept(book, desk, symbol, number, row)

    # ------------------------------------------------------------------------------------------------ what was crossed

    def _slept(self, book: Book, desk: Any, symbol: str, number: int, row: tuple[Any, ...]) -> None:
        """An order to which nothing happened: no price may have crossed anything of it since it was looked at."""
        world, market = self.world, book.markets[symbol]
        known = self.sleeps.get(number)
        tape = world.believed[symbol]
        if known is None or known.seq != row[F["seq"]] or known.cursor != row[F["cursor"]]:
            mark, entry_mark = row[F["mark"]], row[F["entry_mark"]]
            at = row[F["cursor"]]
            known = Sleep(row[F["seq"]], at, at, mark, bool(row[F["armed"]]), entry_mark, bool(row[F["entry_armed"]]))
            self.sleeps[number] = known
            known.known = self._armed(desk, row)
        levels, rungs, market_out = known.known
        side, held = row[F["side"]], row[F["entered"]] - row[F["exited"]]
        if world.plan.poll or row[F["closing"]] or row[F["cancelling"]]:
            return
        about = f"order {number}"
        watched = held > market_out
        static = max(row[F["even_x"]], NONE if row[F["timeout"]] else row[F["stop_x"]])
        callback, activation = row[F["trail_rate"]], row[F["activation_x"]]
        kind = row[F["entry_kind"]]
        for price, late in tape[known.upto : market.ticks]:
            x = side * price
            if held:
                trail = (known.mark * (SCALE - side * callback)) // SCALE if known.armed else NONE
                if watched:
                    self.hold(
                        x > max(static, trail),
                        "L5",
                        f"{about}: slept through {x}, its stop is {max(static, trail)} (mirrored)",
                    )
                if callback:
                    self.hold(
                        known.armed or x < activation,
                        "L5",
                        f"{about}: slept through its activation {activation} at {x}",
                    )
                    if known.armed:
                        known.mark = max(known.mark, x)
                if not late and not row[F["retry"]]:
                    self.hold(x < levels, "L5", f"{about}: slept through its level {levels} at {x} (mirrored)")
            if rungs is not None and not late and not (held and row[F["opening"]]):
                if kind == EntryKind.LIMIT:
                    self.hold(x > rungs, "L5", f"{about}: slept through its entry {rungs} at {x}")
                elif kind == EntryKind.STOP:
                    self.hold(
                        x < row[F["entry_x"]], "L5", f"{about}: slept through its entry {row[F['entry_x']]} at {x}"
                    )
                elif kind == EntryKind.TRAILING:
                    self._trailing_entry(known, row, side, x, about)
                elif kind == EntryKind.MARKET:
                    self.hold(False, "L5", f"{about}: slept through its market entry at {x}")
        known.upto = market.ticks

    def _trailing_entry(self, known: Sleep, row: tuple[Any, ...], side: int, x: int, about: str) -> None:
        if not known.entry_armed:
            activation = row[F["entry_activation"]]
            self.hold(
                activation != NONE, "L5", f"{about}: not armed at {x}"
            ) if x <= activation or activation == NONE else None
            return
        turn = -((-known.entry_mark * (SCALE + side * row[F["entry_rate"]])) // SCALE)
        self.hold(x < turn, "L5", f"{about}: slept through its trailing entry {turn} at {x}")
        known.entry_mark = min(known.entry_mark, x)

    def _armed(self, desk: Any, row: tuple[Any, ...]) -> list[Any]:
        """The nearest level that waits, the nearest rung (mirrored), and what is out in market orders."""
        legs = desk.legs[row[F["leg"]] : row[F["end"]]].tolist()
        begin = row[F["rungs"]]
        out = [0, 0]
        for leg in legs[begin:]:
            if leg[G["sent"]] and leg[G["role"]] != Role.ADD_FUNDS:
                out[leg[G["limit"]]] += leg[G["quantity"]] - leg[G["filled"]]
        free = row[F["entered"]] - row[F["exited"]] - sum(out)
        level = 2**62
        for leg in legs[begin : begin + row[F["levels"]]]:
            quantity = (
                free * leg[G["weight"]] // (100 * SCALE) if row[F["by_remaining"]] else min(leg[G["quantity"]], free)
            )
            if leg[G["status"]] == LegStatus.PENDING and quantity > 0:
                level = min(level, leg[G["x"]])
        waiting = [leg[G["x"]] for leg in legs[:begin] if leg[G["status"]] == LegStatus.PENDING]
        return [level, max(waiting) if waiting else None, out[0]]

    # ------------------------------------------------------------------------------------------------ the end

    def whole_tape(self) -> None:
        """The ticks in the journal are those that there were, each once."""
        found: dict[str, list[tuple[int, int]]] = {}
        for kind, body in self.world.journal.all_entries:
            if kind == "ticks":
                block = unpack_ticks(body)
                found.setdefault(block.symbol, []).extend(zip(block.ts.tolist(), block.price.tolist(), strict=True))
        for symbol, ticks in found.items():
            real = self.world.real_ticks(symbol)[: len(ticks)]
            for n, (a, b) in enumerate(zip(ticks, real, strict=True)):
                self.hold(a == b, "L4", f"{symbol}: tick {n} is {a} in the journal, it was {b}")

    def same_as_exchange(self, book: Book) -> None:
        """Book and exchange agree, order by order and child by child."""
        for number, track in self.tracks.items():
            row = book.rows(number)[0][0]
            bought, exited = int(row["bought"]), int(row["exited"])
            self.hold(
                bought == track.bought + track.owned, "I9", f"order {number}: bought {bought}, {track.bought} executed"
            )
            self.hold(exited == track.sold, "I9", f"order {number}: sold {exited}, {track.sold} executed")
        for key, job in book.jobs.items():
            self.hold(job.filled == self.executed.get(key, 0), "I9", f"order {key[0]}, child {key[1]}: {job.filled}")
