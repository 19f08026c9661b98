"""Desk: the living orders of one market that watch one price, on a tape that grows.

A tick costs a look at the few orders that it concerns; the others catch up by the tick index when their turn comes. What the engine
needs to know of the broker it asks: `turn`, `tell` and `hear` are generators that yield a `Question` and are sent the broker's answers,
so whoever drives them decides what is made durable before a question is put, and can put recorded answers instead.

Numbers of ticks count from the first tick of the market in the session, so they are the same however the tape was cut.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from .actions import Action
from .errors import LimitError
from .fills import FillModel
from .index import Index
from .instrument import MAX_UNITS, Instrument
from .lower import MAX_EXITS, Layout, Table, lower_fills
from .machine import EMPTY_TREE, read_only
from .rows import (
    ANSWERS,
    COMMAND,
    EVENT,
    LATE,
    LEG,
    NOD,
    NONE,
    NOW,
    ORDER,
    Ask,
    LegStatus,
    News,
    Role,
    Status,
    table,
)
from .spec import MAX_LEVELS, SmartOrder

Said = tuple[int, int, int, int, int]
"""What a broker says to a question: a code of rows.Answer, price, quantity, liquidity or reason, and what a fill has lost as in Report."""
HEADROOM = 16
"""A price so many times the highest that is known must not overflow."""
KEPT = 1 << 17
"""Ticks after which every order is brought up to date and the tape begins anew."""


class Question(NamedTuple):
    """What the engine has to know of the broker: about child `child` (at leg `leg` of order `order`), asked at tick `tick`.

    `limit` is a real price in increments or None; `instant`: it arrives on that tick, and is not on its way.
    """

    ask: Ask
    order: int
    leg: int
    child: int
    role: int
    limit: int | None
    quantity: int
    ts: int
    tick: int
    instant: bool


Dialogue = Generator[Question, Said, np.ndarray]
"""Yields questions, is sent what the broker says, returns rows of EVENT."""


class Desk:
    """Orders of one market that watch one price. `quotes`: buys and sells trade at prices of their own."""

    def __init__(self, instrument: Instrument, fills: FillModel, poll_ns: int, quotes: bool):
        self.instrument, self.fills, self.poll_ns, self.quotes = instrument, fills, poll_ns, quotes
        self.highest = 0
        self.expect(1)
        self.specs: dict[int, SmartOrder] = {}
        self.slots: dict[int, int] = {}
        self.rows, self.legs = _blank_orders(8), table(LEG, 128)
        self.numbers = np.zeros(8, np.int64)
        self.count = self.used = 0
        self._commands, self._ends = table(COMMAND, 1), np.zeros(8, np.int64)
        self._no_edits = (table(ORDER, 1), table(LEG, 1))
        self._out, self._now, self._backup = table(EVENT, 1 << 12), table(NOW, 1), table(ORDER, 1)
        self._columns = [np.zeros(1 << 10, np.int64) for _ in range(4 if quotes else 2)]
        self._late = False
        self.at = self._base = self._ticks = self._last = 0
        """`at`: the number of the next tick to be seen, of those on the tape or to come."""
        self._index: Index | None = None
        self._chunk: tuple[Any, ...] | None = None
        self._watched = self._nods = np.zeros((0, 7), np.int64)
        self._woken = np.zeros(0, np.int64)
        self._busy: bool | None = None
        self._lay_out_watch()

    # ------------------------------------------------------------------------------------------------ the tape

    @property
    def last_price(self) -> int:
        """The price of the last tick that was seen; 0 before the first."""
        return int(self._columns[1][self.at - self._base - 1]) if self.at > self._base else self._last

    def expect(self, price: int) -> None:
        """Be ready for prices up to `price`: sizes that would overflow at far higher ones are refused."""
        if price > self.highest:
            self.highest = min(HEADROOM * price, MAX_UNITS)
            self.model = lower_fills(self.fills, self.instrument, self.poll_ns, self.highest, broker=True)

    def begin(self, tick: int, price: int) -> None:
        """A new tape: `tick` ticks have been, the last of them at `price` (0: none), and no living order has to see them."""
        self.at = self._base = tick
        self._ticks, self._index, self._last = 0, None, price
        self._late, self._chunk = False, None
        self._columns[1][0] = price

    @property
    def busy(self) -> bool:
        """Whether any order is not over."""
        if self._busy is None:
            self._busy = bool((self.rows.status[: self.count] < Status.CLOSED).any())
        return self._busy

    def pieces(self, ticks: int) -> Iterable[tuple[int, int]]:
        """So many ticks in parts that fit on the tape."""
        return [(a, min(a + KEPT // 2, ticks)) for a in range(0, ticks, KEPT // 2)]

    def extend(self, columns: Sequence[np.ndarray], late: bool) -> None:
        """More ticks on the tape, (ts, price[, buy, sell]). They are seen by `turn` and `pass_by`."""
        n, more = self._ticks, len(columns[0])
        if late != self._late or n + more > KEPT:
            self.catch_up()
            self._forget(late)
            n = self._ticks
        if n + more > len(self._columns[0]):
            room = max(2 * len(self._columns[0]), n + more)
            self._columns = [np.concatenate([c, np.zeros(room - len(c), np.int64)]) for c in self._columns]
        for column, new in zip(self._columns, columns, strict=True):
            column[n : n + more] = new
        self._ticks = n + more
        self._chunk = None

    def _forget(self, late: bool) -> None:
        """The tape begins anew. It keeps its last tick, which is the price that a command sees."""
        if self._ticks > 1:
            for column in self._columns:
                column[0] = column[self._ticks - 1]
            self._base, self._ticks = self._base + self._ticks - 1, 1
        self._index, self._late, self._chunk = None, late, None

    def catch_up(self) -> None:
        """Bring every row up to date, for whoever reads or stores them. Nothing happens to the orders, or they would have been woken."""
        rows: Any = self.rows[: self.count]
        self._sleep(np.flatnonzero((rows.status < Status.CLOSED) & (rows.cursor < self.at)))

    def _arrive(self, slot: int) -> None:
        """Bring one row up to date."""
        if self.rows[slot].cursor < self.at and self.rows[slot].status < Status.CLOSED:
            self._sleep(np.array([slot]))

    def _sleep(self, slots: np.ndarray) -> None:
        """Bring rows up to date to which nothing happened."""
        if not len(slots):
            return
        happened = self._advance(slots, self.at - self._base)
        if len(happened) or self._now[0].asked:
            asked = bool(self._now[0].asked)
            number = self.numbers[self._now[0].order] if asked else happened[0]["order"]
            what = "a question to the broker" if asked else f"{len(happened)} events"
            raise RuntimeError(f"order {number} slept through {what}; this is a mistake in the program")

    # ------------------------------------------------------------------------------------------------ orders

    def add(self, number: int, order: SmartOrder, created: int) -> None:
        """A new order; it comes into being with `tell`."""
        book = Table([order], self.instrument, [[]], self.fills)
        row = book.orders[0]
        layout = Layout(int(row.rungs), int(row.level_slots), MAX_EXITS, 0)
        self.adopt(number, order, np.array(book.orders[:1]), np.array(book.legs[: int(row.end)]), layout)
        row = self.rows[self.slots[number]]
        row.created, row.cursor = created, self.at
        if self.last_price:
            row.seen = row.side * self.last_price

    def adopt(
        self, number: int, order: SmartOrder, row: np.ndarray, legs: np.ndarray, layout: Layout | None = None
    ) -> None:
        """An order with its rows as they are, from a snapshot or fresh."""
        slot = self.count
        if slot == len(self.rows):
            self._grow_orders()
        self.count += 1
        self.rows[slot] = row[0]
        self.numbers[slot] = number
        self.slots[number], self.specs[number] = slot, order
        self._busy = None
        self._house(slot, legs, layout)
        self._lay_out_watch()

    def _grow_orders(self) -> None:
        self.catch_up()  # the watch of a row that lags behind would forget the prices that it slept through
        more = len(self.rows)
        self.rows = np.concatenate([self.rows, _blank_orders(more)]).view(np.recarray)
        self.numbers = np.concatenate([self.numbers, np.zeros(more, np.int64)])
        self._ends = np.zeros(2 * more, np.int64)

    def _house(self, slot: int, legs: np.ndarray, layout: Layout | None) -> None:
        """Give an order its legs, in a new place; with a layout, room as it says."""
        row = self.rows[slot]
        if layout is not None:
            parts, begin = [], 0
            old = Layout(
                int(row.rungs),
                int(row.level_slots),
                int(row.exits),
                len(legs) - int(row.rungs + row.level_slots + row.exits),
            )
            for had, wanted in zip(old, layout, strict=True):
                assert wanted >= had
                parts += [legs[begin : begin + had], _blank_legs(wanted - had)]
                begin += had
            legs = np.concatenate(parts)
            row.rungs, row.level_slots, row.exits = layout.rungs, layout.levels, layout.exits
        if self.used + len(legs) > len(self.legs):
            self.legs = np.concatenate([self.legs, table(LEG, max(len(self.legs), len(legs)))]).view(np.recarray)
        row.leg, row.end = self.used, self.used + len(legs)
        self.legs[self.used : self.used + len(legs)] = legs
        self.used += len(legs)

    def _make_room(self, slot: int, action: Action, layout: Layout) -> None:
        """Room for what an action adds: a leg for an add or reduce, rungs and levels for an edit."""
        row = self.rows[slot]
        own = np.array(self.legs[row.leg : row.end])
        extras = own[int(row.rungs + row.level_slots + row.exits) :]
        have = Layout(int(row.rungs), int(row.level_slots), int(row.exits), len(extras))
        sized = action.kind in ("add_funds", "reduce_funds") and not (extras["sent"] == 0).any()
        edits = action.kind == "edit"
        want = Layout(
            max(have.rungs, layout.rungs) if edits else have.rungs,
            min(MAX_LEVELS, have.levels + layout.levels) if edits and "take_profits" in action.changes else have.levels,
            have.exits,
            have.extras + sized,
        )
        if want != have:
            self._house(slot, own, Layout(*map(max, have, want)))

    def remove(self, numbers: Iterable[int]) -> None:
        """Orders that are over leave, and the tables close up."""
        self.catch_up()
        gone = set(numbers)
        kept = [(n, self.specs[n], *self.state(n)) for n in self.slots if n not in gone]
        self.slots, self.specs = {}, {}
        self._busy = None
        self.count = self.used = 0
        self.rows, self.legs, self.numbers = _blank_orders(8), table(LEG, 128), np.zeros(8, np.int64)
        self._ends = np.zeros(8, np.int64)
        for number, spec, row, legs in kept:
            self.adopt(number, spec, row, legs)

    def state(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of one order: one of ORDER, and its LEGs."""
        slot = self.slots[number]
        row = self.rows[slot]
        return np.array(self.rows[slot : slot + 1]), np.array(self.legs[row.leg : row.end])

    def row(self, number: int) -> Any:
        """The row of one order, in place."""
        return self.rows[self.slots[number]]

    def leg(self, number: int, child: int) -> int | None:
        """Which of its legs a child that is out stands at."""
        row = self.row(number)
        legs: Any = self.legs[row.leg : row.end]
        found = np.flatnonzero((legs.sent > 0) & (legs.child == child))
        return int(found[0]) if len(found) else None

    def living(self, number: int) -> bool:
        """Whether an order is not over."""
        return bool(self.rows[self.slots[number]].status < Status.CLOSED)

    # ------------------------------------------------------------------------------------------------ what happens

    def first_wake(self, first: int, last: int) -> tuple[int, list[int]]:
        """The first of the ticks numbered `first` to `last - 1` that concerns any order, and the orders; `last` if none does.

        Each tick may be asked about once, in order: the watch follows the price.
        """
        from .watching import first_wake

        ts, price = self._columns[0], self._columns[1]
        a, b = first - self._base, last - self._base
        tick, count = first_wake(price, ts, a, b, self._watched, self._nods, self._woken)
        return int(tick) + self._base, [int(self.numbers[s]) for s in self._woken[:count]]

    def turn(self, tick: int, orders: Iterable[int], due: Sequence[tuple[int, int, bool]] = ()) -> dict[int, Dialogue]:
        """Tick number `tick`, which concerns `orders`; of `due`, (order, leg, whether a cancel), the broker has something to say.

        Returns a dialogue for each order: they may be led in any order, also side by side. Then the tick has to `pass_by`.
        """
        told: dict[int, list[tuple[int, bool]]] = {}
        for order, leg, cancel in due:
            told.setdefault(order, []).append((leg, cancel))
        self.at = tick
        concerned = [n for n in sorted({*orders, *told}) if n in self.slots and self.living(n)]
        return {number: self._meet(number, tick, told.get(number, ())) for number in concerned}

    def _meet(self, number: int, tick: int, told: Sequence[tuple[int, bool]]) -> Dialogue:
        """One order and a tick at which the broker has something to say of the legs `told`."""
        slot = self.slots[number]
        if told:
            self._arrive(slot)
        begin = self.rows[slot].leg
        for leg, cancel in told:
            self.legs[begin + leg].news = News.CANCEL if cancel else News.REPORT
        events = yield from self._live(slot, tick)
        for leg, _ in told:
            self.legs[begin + leg].news = 0
        return events

    def pass_by(self, tick: int | None = None) -> None:
        """All ticks before `tick`, or all that are on the tape, have been seen."""
        self.at = self._base + self._ticks if tick is None else tick

    def tell(self, number: int, ts: int, action: Action | None = None, after: SmartOrder | None = None) -> Dialogue:
        """An order comes into being, or is told an action (`after`: the spec after an edit), between the last tick and the next."""
        slot = self.slots[number]
        edits = self._no_edits
        if action is not None:
            book = Table([self.specs[number]], self.instrument, [[(action, after)]], self.fills)
            if after is not None:
                edits = (book.edits, book.edit_legs)
                bare = book.edits[0]
                self._make_room(slot, action, Layout(int(bare.rungs), int(bare.levels), 0, 0))
            else:
                self._make_room(slot, action, Layout(0, 0, 0, 0))
            self._commands[0] = book.commands[0]
            self._commands[0].ts = ts
            self.rows[slot].command, self._ends[slot] = 0, 1
        events = yield from self._between(slot, ts, edits)
        self.rows[slot].command = self._ends[slot] = 0
        taken = (events["kind"] != _REFUSED).all()
        if after is not None and taken:
            self.specs[number] = after
        return events

    def hear(self, number: int, leg: int, ts: int, said: Said) -> Dialogue:
        """An order hears of one of its children between two ticks."""
        slot = self.slots[number]
        self._arrive(slot)  # or a row that lags behind would hear it on a tick that was before it
        self.legs[self.rows[slot].leg + leg].news = News.REPORT
        return (yield from self._between(slot, ts, self._no_edits, [said]))

    def outbox(self, numbers: Iterable[int]) -> list[Question]:
        """Children and cancels that these orders have decided on and the broker has not been told; from now on it counts as told."""
        found = []
        for number in sorted(set(numbers)):
            slot = self.slots.get(number)
            if slot is None:
                continue
            row = self.rows[slot]
            legs: Any = self.legs[row.leg : row.end]
            for j in np.flatnonzero(
                legs.sent & ((legs.submitted == 0) | ((legs.cancel_due != NONE) & (legs.recalled == 0)))
            ):
                leg = legs[j]
                limit = int(row.side * leg.price) if leg.limit else None
                about = (number, int(j), int(leg.child), int(leg.role), limit, int(leg.quantity))
                if not leg.submitted:
                    leg.submitted = 1
                    found.append(Question(Ask.SUBMIT, *about, int(leg.triggered_ts), self.at, False))
                if leg.cancel_due != NONE and not leg.recalled:
                    leg.recalled = 1
                    found.append(Question(Ask.CANCEL, *about, int(leg.cancel_due) - self.fills.latency, self.at, False))
        return found

    # ------------------------------------------------------------------------------------------------ the engine

    def _live(self, slot: int, tick: int) -> Dialogue:
        """One order through one tick, again and again until every question that it raises is answered."""
        before = self._keep(slot)
        said: list[Said] = []
        while True:
            events = self._advance(np.array([slot]), tick - self._base + 1, said)
            if not self._now[0].asked:
                break
            question = self._question(slot, tick, instant=True)
            self._put_back(slot, before)
            said.append((yield question))
        self._watch(slot)
        return events

    def _between(
        self, slot: int, ts: int, edits: tuple[np.recarray, np.recarray], said: Sequence[Said] = ()
    ) -> Dialogue:
        from .engine import between

        row = self.rows[slot]
        self._arrive(slot)
        before = self._keep(slot)
        known = list(said)
        now = self._now[0]
        room = 8 * int(row.end - row.leg) + 64
        while len(self._out) < room:
            self._out = table(EVENT, 2 * len(self._out))
        while True:
            self._tell_answers(known)
            between(
                self.rows,
                self.legs,
                self._commands,
                self._ends,
                *edits,
                self._backup,
                self.model,
                self._now,
                self._out,
                slot,
                ts,
                self.at,
                self.last_price,
            )
            if not now.asked:
                break
            question = self._question(slot, self.at, instant=True)
            self._put_back(slot, before)
            known.append((yield question))
        self._watch(slot)
        return self._taken()

    def _advance(self, slots: np.ndarray, upto: int, said: Sequence[Said] = ()) -> np.ndarray:
        """Move orders over the tape up to its tick `upto`, or to a question."""
        from .engine import advance

        ticks = self._tape()
        kept = []
        self._tell_answers(said)
        while len(slots) > advance(
            self.rows,
            self.legs,
            self._commands,
            self._ends,
            *self._no_edits,
            self._backup,
            self.model,
            self._now,
            self._out,
            ticks,
            slots,
            0,
            len(slots),
            self._base + upto,
        ):
            if self._now[0].asked:
                break
            if self._now[0].n == 0:
                self._out = table(EVENT, 2 * len(self._out))
            kept.append(self._taken())
        kept.append(self._taken())
        return _joined(kept)

    def _tape(self) -> tuple[Any, ...]:
        """The tape as the engine takes it, with its index."""
        if self._chunk is None:
            ts, price, *quotes = (read_only(column[: self._ticks]) for column in self._columns)
            buy, sell = quotes or (price, price)
            flags, tree = _NO_FLAGS, EMPTY_TREE
            if self._late:
                flags = read_only(np.full(len(ts), LATE, np.uint8))
            else:
                if self._index is None:
                    self._index = Index(price, workers=1)
                self._index.extend(price, workers=1)
                tree = self._index.arrays()
            same = 0 if self.quotes else 3
            self._chunk = (self._base, ts, price, buy, sell, _NO_SIZE, flags, same, *[read_only(part) for part in tree])
        return self._chunk

    def _tell_answers(self, said: Sequence[Said]) -> None:
        now = self._now[0]
        if len(said) > ANSWERS:
            raise LimitError(f"{len(said)} answers of a broker at one moment: more than ANSWERS = {ANSWERS}")
        now.n = now.asked = now.heard = 0
        now.known = len(said)
        if said:
            now.answers[: len(said)] = said

    def _taken(self) -> np.ndarray:
        """The events that were written, with the numbers of their orders."""
        events = np.array(self._out[: self._now[0].n])
        self._now[0].n = 0
        events["order"] = self.numbers[events["order"]]
        return events

    def _question(self, slot: int, tick: int, instant: bool) -> Question:
        now, row = self._now[0], self.rows[slot]
        leg, ts = self.legs[now.ask_leg], now.ts
        if (
            now.asked != Ask.MATCH
        ):  # with polling `now.ts` may have gone on to the end of the interval since it was asked
            ts = leg.triggered_ts if now.asked == Ask.SUBMIT else leg.cancel_due - self.fills.latency
        return Question(
            Ask(int(now.asked)),
            int(self.numbers[slot]),
            int(now.ask_leg - row.leg),
            int(now.ask_child),
            int(now.ask_role),
            int(row.side * now.ask_price) if now.ask_limit else None,
            int(now.ask_quantity),
            int(ts),
            tick,
            instant,
        )

    def _keep(self, slot: int) -> tuple[np.ndarray, np.ndarray]:
        row = self.rows[slot]
        return np.array(self.rows[slot : slot + 1]), np.array(self.legs[row.leg : row.end])

    def _put_back(self, slot: int, before: tuple[np.ndarray, np.ndarray]) -> None:
        self.rows[slot] = before[0][0]
        row = self.rows[slot]
        self.legs[row.leg : row.end] = before[1]

    # ------------------------------------------------------------------------------------------------ the watch

    def _lay_out_watch(self) -> None:
        n = len(self.rows)
        if len(self._watched) != n:
            self._watched, self._woken = np.zeros((n, 7), np.int64), np.zeros(n, np.int64)
            self._nods = np.zeros((-(-n // NOD) + 1, 7), np.int64)
            self._see(np.arange(n))
        elif self.count:
            self._watch(self.count - 1)

    def _watch(self, slot: int) -> None:
        self._busy = None
        self._see(np.array([slot]))

    def _see(self, who: np.ndarray) -> None:
        from .watching import watch

        same = 0 if self.quotes else 3
        args = (self.rows, self.legs, self._commands, self._ends, self.model, same, False)
        watch(*args, who, len(who), self._watched, self._nods)


_REFUSED = 11
_NO_SIZE, _NO_FLAGS = read_only(np.empty(0, np.int64)), read_only(np.empty(0, np.uint8))


def _blank_orders(count: int) -> np.recarray:
    """Rows for orders to come, which nothing concerns."""
    rows = table(ORDER, count)
    rows.status = Status.CANCELLED
    return rows


def _blank_legs(count: int) -> np.recarray:
    legs = table(LEG, count)
    legs.cancel_due = legs.met = legs.mark = NONE
    legs.looked = legs.number = -1
    legs.role, legs.status = Role.TAKE_PROFIT, LegStatus.CANCELLED
    return legs


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, EVENT)
