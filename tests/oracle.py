"""The slow truth: docs/rules.md once more, in plain Python and exact numbers, for one order at a time.

It shares nothing with the engine but the classes that describe an order, so that a difference between the two is a
mistake in one of them (or in the page). Written to be read next to the page: a step of a tick is a method, in the
order of the page. Sides are told apart in a few small methods (`against`, `in_favour`, `nearest`, `best`, `on_loss_side`,
`on_profit_side`, `moved_against`); nothing else knows whether an order is a long or a short.

    result = replay_one(order, instrument, ticks, fills)
    result.events

Where the page leaves a choice, this is what was chosen:

- a trailing stop without activation is armed by the first fill, not by the next tick;
- what step 2 fills is looked at in steps 5 to 7 of the same tick;
- with polling and no latency a child is filled at the price that the poll saw; the last tick of a tape is looked at;
- a level, add or reduce never asks for more than is free; a trailing take-profit that runs shares in an assignment;
- a size of nothing or below the minimum is rejected when the entry triggers, not before; while nothing is bought,
  add, reduce and edits of entry or size are refused once something of the entry is at the venue;
- an edit is refused for what it changes, not for what would trigger anyway;
- once the user has cancelled, the order ends CANCELLED, whatever still fills.

Known limits: one order, no index, about 10,000 ticks a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

from smartorders_lab.actions import Action
from smartorders_lab.fields import Distance
from smartorders_lab.fills import FillModel
from smartorders_lab.instrument import Instrument
from smartorders_lab.spec import SmartOrder

ZERO = Decimal(0)
FINAL = ("CLOSED", "STOPPED", "CANCELLED")
STOPS = ("stop_loss", "break_even", "trailing_stop")
EDITABLE = {
    "stop_loss",
    "trailing_stop",
    "break_even",
    "take_profits",
    "trailing_take_profit",
    "max_hold",
    "entry_expiry",
}
MOST_LEVELS = 20
MOST_EXITS = 4


class Tick(NamedTuple):
    """A price at a time. `buy` and `sell`: where a market buy and sell trades, if not at `price`."""

    ts: int
    price: Decimal
    size: Decimal | None = None
    continuous: bool = False
    bar: bool = False
    buy: Decimal | None = None
    sell: Decimal | None = None


class Event(NamedTuple):
    seq: int
    ts: int
    tick: int
    kind: str
    role: str | None
    level: int
    price: Decimal | None
    quantity: Decimal | None
    liquidity: str | None
    status: str
    stop: Decimal | None
    water_mark: Decimal | None
    reason: str | None


class LevelResult(NamedTuple):
    price: Decimal | None
    size: Decimal
    status: str
    quantity: Decimal
    filled: Decimal


class Result(NamedTuple):
    events: list[Event]
    status: str
    exit_reason: str | None
    bought: Decimal
    entered: Decimal
    held: Decimal
    average: Fraction | None
    realized_pnl: Fraction
    fees: Fraction
    mae: Fraction | None
    mfe: Fraction | None
    ambiguous_bars: int
    levels: list[LevelResult]


@dataclass(eq=False)
class Child:
    """A child order at the venue or on its way. `owner` is the rung or level it serves, if any."""

    leg: str  # entry, level, exit, add, reduce
    role: str
    number: int
    buys: bool
    quantity: Decimal
    limit: Decimal | None
    owner: Any = None
    arrives: int = 0
    arrived: bool = False
    moment: int = 0
    cancel_arrives: int | None = None
    filled: Decimal = ZERO
    cancelled: bool = False

    @property
    def rest(self) -> Decimal:
        return ZERO if self.cancelled else self.quantity - self.filled


@dataclass(eq=False)
class Rung:
    """One entry: all entries but a ladder have one."""

    kind: str  # market, limit, stop, trailing
    price: Decimal | None
    limit: Decimal | None
    share: Decimal
    number: int
    status: str = "waiting"  # waiting, sent, cancelled, rejected


@dataclass(eq=False)
class Level:
    target: Decimal | Distance
    size: Decimal
    limit: bool
    number: int
    status: str = "PENDING"
    quantity: Decimal = ZERO
    filled: Decimal = ZERO
    price: Decimal | None = None  # fixed once triggered
    mark: Decimal | None = None  # of a trailing take-profit that is running


def replay_one(
    order: SmartOrder,
    instrument: Instrument,
    ticks: Iterable[Tick],
    fills: FillModel | None = None,
    actions: Sequence[Action] = (),
    start: int | None = None,
    poll_interval: int = 0,
) -> Result:
    """Replay one order over all ticks. `start` is its creation time (ns), the first tick's if not given."""
    return Replay(order, instrument, list(ticks), fills or FillModel(), actions, start, poll_interval).run()


def floor_to(value: Fraction | Decimal, increment: Decimal) -> Decimal:
    return math.floor(Fraction(value) / Fraction(increment)) * increment


def ceil_to(value: Fraction | Decimal, increment: Decimal) -> Decimal:
    return math.ceil(Fraction(value) / Fraction(increment)) * increment


@dataclass(eq=False)
class Replay:
    order: SmartOrder
    instrument: Instrument
    ticks: list[Tick]
    fills: FillModel
    actions: Sequence[Action]
    start: int | None
    poll_interval: int

    events: list[Event] = field(default_factory=list)
    status: str = "PENDING"
    reason: str | None = None
    # the clock, and the tick at work
    now: int = 0
    moment: int = 0  # counts commands and ticks: what an exit sends within one goes as one child
    index: int = -1
    tick: Tick | None = None
    before: Decimal | None = None  # the previous point of a continuous segment
    last: Decimal | None = None  # the previous tick's price
    room: Decimal | None = None  # what participation leaves of this tick
    commanding: bool = False
    # entry
    rungs: list[Rung] = field(default_factory=list)
    extra: Decimal = ZERO  # added to (or taken from) the planned size while PENDING
    sent_plan: Decimal | None = None  # the size, if an edit came when it had been sent
    opening: bool = False  # open now waits for the cancel of what rests at the venue
    entry_failed: str = "rejected"
    entry_armed: bool = False
    entry_mark: Decimal | None = None
    # ledger
    children: list[Child] = field(default_factory=list)
    bought: Decimal = ZERO
    spent: Fraction = Fraction(0)  # Σ price·quantity of the entry fills
    spent_with_fees: Fraction = Fraction(0)
    arrived: Fraction = Fraction(0)  # Σ quantity·(1 − fee rate), where fees are taken in coins
    exited: Decimal = ZERO
    proceeds: Fraction = Fraction(0)
    fees: Fraction = Fraction(0)
    first_fill: int | None = None
    changes_sent: int = 0  # adds and reduces
    # protection
    levels: list[Level] = field(default_factory=list)
    water_mark: Decimal | None = None
    trailing_armed: bool = False
    even_fired: bool = False
    clock: int | None = None
    # the end
    closing: str | None = None  # reason of a decided exit; "cancelled" if the user stopped it
    exit_role: str | None = None
    exit_limit: Decimal | None = None
    # report
    seen: list[Decimal] = field(default_factory=list)
    exits_on_tick: int = 0
    ambiguous: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.long = self.order.direction > 0
        self.basic = self.order.size_basis == "initial"
        self.start = self.ticks[0].ts if self.start is None and self.ticks else self.start
        self.queue = sorted(self.actions, key=lambda action: action.at)

    # ------------------------------------------------------------------------------------------ long and short

    def against(self, price: Decimal, line: Decimal | None) -> bool:
        """Whether the price has gone against the order as far as the line: a stop, a limit entry."""
        if line is None:
            return False
        return price <= line if self.long else price >= line

    def in_favour(self, price: Decimal, line: Decimal | None) -> bool:
        """Whether the price has gone the order's way as far as the line: a level, a stop entry."""
        if line is None:
            return False
        return price >= line if self.long else price <= line

    def nearest(self, prices: list[Decimal]) -> Decimal:
        """Of several stops the tightest."""
        return max(prices) if self.long else min(prices)

    def best(self, a: Decimal, b: Decimal) -> Decimal:
        return max(a, b) if self.long else min(a, b)

    def on_loss_side(self, price: Fraction | Decimal) -> Decimal:
        """Rounded away from the market, for what lies on the loss side."""
        return (floor_to if self.long else ceil_to)(price, self.instrument.price_increment)

    def on_profit_side(self, price: Fraction | Decimal) -> Decimal:
        return (ceil_to if self.long else floor_to)(price, self.instrument.price_increment)

    def moved_against(self, price: Decimal | Fraction, fraction: Decimal) -> Fraction:
        step = Fraction(fraction) if self.long else -Fraction(fraction)
        return Fraction(price) * (1 - step)

    # ------------------------------------------------------------------------------------------ what is derived

    @property
    def final(self) -> bool:
        return self.status in FINAL

    @property
    def entered(self) -> Decimal:
        if self.fills.fee_currency == "base" and self.long:
            return floor_to(self.arrived, self.instrument.quantity_increment)
        return self.bought

    @property
    def held(self) -> Decimal:
        return self.entered - self.exited

    @property
    def average(self) -> Fraction | None:
        return self.spent / Fraction(self.bought) if self.bought else None

    def open_children(self, *legs: str) -> list[Child]:
        return [child for child in self.children if child.rest > 0 and (not legs or child.leg in legs)]

    def in_flight(self, market_only: bool = False) -> Decimal:
        exits = self.open_children("level", "exit", "reduce")
        return sum((child.rest for child in exits if not (market_only and child.limit is not None)), ZERO)

    @property
    def free(self) -> Decimal:
        return self.held - self.in_flight()

    def sellable(self) -> Decimal:
        """What an exit can still sell: held less what is in flight in market orders."""
        return max(ZERO, self.held - self.in_flight(market_only=True))

    def price_of(self, target: Decimal | Distance | None, profit: bool) -> Decimal | None:
        """A target as a price: distances from the average entry, rounded away; None while there is no average."""
        if not isinstance(target, Distance):
            return target
        return None if self.average is None else self.distance(self.average, target, profit)

    def distance(self, base: Fraction | Decimal, target: Distance, profit: bool) -> Decimal:
        price = Fraction(base) * (1 + Fraction(target.fraction))
        return self.on_profit_side(price) if profit else self.on_loss_side(price)

    def level_price(self, level: Level) -> Decimal | None:
        return level.price if level.price is not None else self.price_of(level.target, profit=True)

    def static_stop(self) -> Decimal | None:
        return self.price_of(self.order.stop_loss.target, profit=False) if self.order.stop_loss else None

    def emergency(self) -> Decimal | None:
        return self.price_of(self.order.stop_loss.emergency, profit=False) if self.order.stop_loss else None

    def even_price(self) -> Decimal | None:
        even = self.order.break_even
        if even is None or self.average is None:
            return None
        if even.offset != "fees":
            return self.on_loss_side(self.moved_against(self.average, -even.offset))
        taker = Fraction(self.fills.fee_taker)
        if not self.long:
            return self.on_loss_side(self.spent_with_fees / (Fraction(self.bought) * (1 + taker)))
        if self.fills.fee_currency == "base":
            if not self.entered:
                return None
            return self.on_loss_side(self.spent / (Fraction(self.entered) * (1 - taker)))
        return self.on_loss_side(self.spent_with_fees / (Fraction(self.bought) * (1 - taker)))

    def trailing_price(self) -> Decimal | None:
        if self.order.trailing_stop is None or not self.trailing_armed or self.water_mark is None:
            return None
        return self.on_loss_side(self.moved_against(self.water_mark, self.order.trailing_stop.callback_rate))

    def stop_parts(self) -> list[tuple[Decimal, str]]:
        """Every part of the stop that there is, in the order in which ties are decided."""
        parts = [
            (self.static_stop(), "stop_loss"),
            (self.even_price() if self.even_fired else None, "break_even"),
            (self.trailing_price(), "trailing_stop"),
        ]
        return [(price, role) for price, role in parts if price is not None]

    def tightest(self, parts: list[tuple[Decimal, str]]) -> tuple[Decimal | None, str]:
        if not parts:
            return None, ""
        line = self.nearest([price for price, _ in parts])
        return line, next(role for price, role in parts if price == line)

    def effective_stop(self) -> Decimal | None:
        """The tightest part; none before the first fill, when there is nothing to protect."""
        return self.tightest(self.stop_parts())[0] if self.bought else None

    # ------------------------------------------------------------------------------------------ events

    def note(
        self,
        kind: str,
        role: str | None = None,
        level: int = -1,
        price: Decimal | None = None,
        quantity: Decimal | None = None,
        liquidity: str | None = None,
        reason: str | None = None,
    ) -> None:
        stop = self.effective_stop()
        seq = len(self.events)
        self.events.append(
            Event(
                seq, self.now, self.index, kind, role, level, price, quantity, liquidity, self.status, stop,
                self.water_mark, reason,
            )
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------ the tape

    def run(self) -> Result:
        bar: list[int] = []
        for index, tick in enumerate(self.ticks):
            self.index, self.tick = index, tick
            if tick.bar and not tick.continuous:
                bar = self.bar_at(index)
            if tick.ts >= self.start and not self.final:
                self.one_tick()
                self.count_ambiguous(bar)
            self.last = tick.price
        return self.result()

    def one_tick(self) -> None:
        tick = self.tick
        self.before, self.exits_on_tick = None, 0
        share = self.fills.participation
        self.room = None if share is None else floor_to(share * tick.size, self.instrument.quantity_increment)
        if not self.events:
            self.now = self.start
            self.create()
        self.commands()
        self.now = tick.ts
        self.moment += 1
        if not self.final:
            self.venue()
        if not self.final and self.looked_at():
            if self.poll_interval:
                self.now = (tick.ts // self.poll_interval + 1) * self.poll_interval
            self.time_limits()
            self.before = self.last if tick.continuous else None
            while not self.final and self.look():
                pass
        if (self.held > 0 and not self.final) or (self.exits_on_tick and not tick.continuous):
            self.seen.append(tick.price)

    def looked_at(self) -> bool:
        """With polling, the last tick of each interval."""
        if not self.poll_interval or self.index + 1 == len(self.ticks):
            return True
        after = self.ticks[self.index + 1].ts
        return after // self.poll_interval != self.tick.ts // self.poll_interval

    def create(self) -> None:
        self.levels = self.fresh_levels()
        planned = self.planned()
        self.note("created", quantity=planned or ZERO)
        if self.order.entry.kind != "held":
            self.start_entry()
        elif planned <= 0:
            self.note("rejected", "entry", 0, self.order.entry.price, planned, reason="no_size")
            self.finish()
        else:
            self.book_entry(self.order.entry.price, planned, rate=ZERO)
            self.note("held", "entry", -1, self.order.entry.price, planned)

    # ------------------------------------------------------------------------------------------ size

    def known_price(self) -> Decimal | Fraction | None:
        """The entry price, where it is known before the entry triggers."""
        entry = self.order.entry
        if entry.kind in ("limit", "held"):
            return entry.price
        if entry.kind == "stop":
            return entry.limit_price
        if entry.kind == "ladder":
            weight = sum(Fraction(rung.size) for rung in entry.rungs)
            return sum(Fraction(rung.price) * Fraction(rung.size) for rung in entry.rungs) / weight
        return None

    def size_at(self, price: Decimal | Fraction) -> Decimal:
        """The size that the order asks for at an entry price, without what was added while PENDING."""
        order, increment = self.order, self.instrument.quantity_increment
        if order.quantity is not None:
            return floor_to(order.quantity, increment)
        if order.cost is not None:
            return max(ZERO, floor_to(Fraction(order.cost) / Fraction(price), increment))
        target = order.stop_loss.target
        stop = self.distance(price, target, profit=False) if isinstance(target, Distance) else target
        loss = Fraction(price) - Fraction(stop) if self.long else Fraction(stop) - Fraction(price)
        return floor_to(Fraction(order.risk) / loss, increment) if loss > 0 else ZERO

    def base_plan(self) -> Decimal | None:
        if self.sent_plan is not None:
            return self.sent_plan
        if self.order.quantity is not None:
            return self.size_at(ZERO)
        price = self.known_price()
        return None if price is None else self.size_at(price)

    def planned(self) -> Decimal | None:
        """The planned quantity, None if it is decided at the price that triggers."""
        base = self.base_plan()
        return None if base is None else base + self.extra

    def total_at(self, price: Decimal) -> Decimal:
        planned = self.planned()
        return max(ZERO, self.size_at(price) + self.extra) if planned is None else planned

    def rung_quantity(self, rung: Rung, total: Decimal) -> Decimal:
        """The rung's share: what its cumulative share adds; the last takes the rest."""

        def upto(count: int) -> Decimal:
            if count == len(self.rungs):
                return total
            share = sum(Fraction(r.share) for r in self.rungs[:count]) / 100
            return floor_to(Fraction(total) * share, self.instrument.quantity_increment)

        return upto(rung.number + 1) - upto(rung.number)

    def waiting_rungs(self) -> list[Rung]:
        return [rung for rung in self.rungs if rung.status == "waiting"]

    def too_small(self, quantity: Decimal, price: Decimal) -> bool:
        return quantity < self.instrument.min_quantity or quantity * price < self.instrument.min_notional

    def fresh_levels(self, merge: bool = True) -> list[Level]:
        """The ladder before the start, levels below the market's minimum merged into the next."""
        levels = [Level(tp.target, tp.size, tp.kind == "limit", 0) for tp in self.order.take_profits]
        planned, entry = self.planned(), self.known_price()
        if merge and self.basic and planned is not None and entry is not None:
            levels = self.merged(levels, planned, entry)
        for number, level in enumerate(levels):
            level.number = number
        return levels

    def merged(self, levels: list[Level], planned: Decimal, entry: Decimal | Fraction) -> list[Level]:
        """Levels that are too small merge into the next one, the last into the one before."""
        kept: list[Level] = []
        taken = carried = ZERO  # sizes of the levels kept so far, and of the small ones before this one
        for level in levels:
            level.size += carried
            carried = ZERO
            quantity, price = self.expected(level, planned, entry, taken)
            if quantity <= 0 or self.too_small(quantity, price):
                carried = level.size
                continue
            kept.append(level)
            taken += level.size
        if carried and kept:
            kept[-1].size += carried
        return kept or levels[-1:]

    def expected(
        self, level: Level, planned: Decimal, entry: Decimal | Fraction, taken: Decimal
    ) -> tuple[Decimal, Decimal]:
        """Quantity and price at which a level would sell, before anything has happened."""
        increment, target = self.instrument.quantity_increment, level.target
        upto = [floor_to(Fraction(planned) * Fraction(part) / 100, increment) for part in (taken, taken + level.size)]
        return upto[1] - upto[0], self.distance(entry, target, True) if isinstance(target, Distance) else target

    # ------------------------------------------------------------------------------------------ step 1: commands

    def commands(self) -> None:
        self.commanding = True
        while self.queue and self.queue[0].at <= self.tick.ts and not self.final:
            action = self.queue.pop(0)
            self.now = action.at
            self.moment += 1
            refusal = self.refusal(action)
            if refusal:
                number = -1 if action.level is None else action.level - 1
                self.note("action_refused", action.kind, number, action.price, self.asked(action), reason=refusal)
            else:
                getattr(self, "do_" + action.kind)(action)
        self.commanding = False

    def asked(self, action: Action) -> Decimal | None:
        """The quantity that an add or reduce asks for."""
        increment = self.instrument.quantity_increment
        if action.quantity is not None:
            return floor_to(action.quantity, increment)
        if action.cost is not None:
            return floor_to(Fraction(action.cost) / Fraction(action.price or self.last or self.tick.price), increment)
        return None

    def refusal(self, action: Action) -> str | None:
        pending = self.status == "PENDING"
        if action.version is not None and action.version != len(self.events):
            return "stale_version"
        if self.closing == "cancelled":
            return "closing"
        if action.kind == "stop_out" and self.effective_stop() is None:
            return "wrong_status"
        if self.closing:
            return None if action.kind in ("stop_out", "close_at_market", "cancel") else "closing"
        if pending and self.sent_already(action):
            return "wrong_status"
        if action.kind == "open_now" and (not pending or self.opening):
            return "wrong_status"
        if action.kind == "close_at_market" and pending:
            return "wrong_status"
        if action.kind == "take_profit":
            level = self.level_that_waits(action)
            if pending or level is None:
                return "wrong_status"
            return None if self.level_quantity(level) > 0 else "no_size"
        if action.kind == "reduce_funds" and self.too_large(self.asked(action)):
            return "too_large"
        if action.kind == "edit" and not pending:
            return self.edit_refusal(action)
        return None

    def sent_already(self, action: Action) -> bool:
        """Whether the action would change an entry of which something is at the venue, or on its way."""
        sent = self.open_children("entry")
        if action.kind == "open_now":
            return any(child.limit is None for child in sent)  # a market child cannot be called back
        resizes = action.kind in ("add_funds", "reduce_funds")
        return bool(sent) and (resizes or bool({"entry", "quantity", "cost", "risk"} & set(action.changes)))

    def too_large(self, quantity: Decimal) -> bool:
        """Of a reduce. A size that is still to be decided can be lowered by anything."""
        if self.status != "PENDING":
            return quantity > self.free
        planned = self.planned()
        return planned is not None and quantity >= planned

    def do_open_now(self, action: Action) -> None:
        self.note("action", "open_now")
        self.cancel_entry()
        self.opening = True
        self.open_rest()

    def open_rest(self) -> None:
        """Buy the rest at market, once nothing of the old entry rests at the venue."""
        if not self.opening or self.open_children("entry") or self.closing:
            return
        self.opening = False
        price = self.last if self.last is not None else self.tick.price
        quantity = self.total_at(price) - self.bought
        if quantity <= 0 and self.bought:
            return
        if quantity <= 0 or self.too_small(quantity, price):
            self.entry_failed = "rejected"
            reason = "no_size" if quantity <= 0 else "too_small"
            self.note("rejected", "entry", 0, price, quantity, reason=reason)
            self.finish()
            return
        self.note("triggered", "entry", 0, price, quantity)
        self.send(Child("entry", "entry", 0, self.long, quantity, None))

    def do_add_funds(self, action: Action) -> None:
        quantity = self.asked(action)
        if self.status == "PENDING":
            self.extra += quantity
        self.note("action", "add_funds", -1, action.price, quantity)
        if self.status == "PENDING":
            return
        price = action.price or self.last or self.tick.price
        if quantity <= 0 or self.too_small(quantity, price):
            reason = "no_size" if quantity <= 0 else "too_small"
            self.note("rejected", "add_funds", self.changes_sent, price, quantity, reason=reason)
            return
        self.send(Child("add", "add_funds", self.changes_sent, self.long, quantity, action.price))
        self.changes_sent += 1

    def do_reduce_funds(self, action: Action) -> None:
        quantity = self.asked(action)
        if self.status == "PENDING":
            self.extra -= quantity
        self.note("action", "reduce_funds", -1, action.price, quantity)
        if self.status != "PENDING" and quantity > 0:
            self.send(Child("reduce", "reduce_funds", self.changes_sent, not self.long, quantity, action.price))
            self.changes_sent += 1

    def level_that_waits(self, action: Action) -> Level | None:
        """The level that is to be taken, if it has sent nothing yet."""
        assert action.level is not None
        waits = [level for level in self.levels if level.status == "PENDING" or level.mark is not None]
        return next((level for level in waits if level.number == action.level - 1), None)

    def do_take_profit(self, action: Action) -> None:
        level = self.level_that_waits(action)
        assert level is not None
        quantity, trails = self.level_quantity(level), level.mark is not None
        role = "trailing_take_profit" if trails else "take_profit"
        self.note("action", "take_profit", level.number)
        self.note("triggered", role, level.number, self.last or self.tick.price, quantity)
        market = not level.limit or bool(self.order.trailing_take_profit and level is self.levels[-1])
        limit = None if market else self.level_price(level)
        if not trails:
            level.status, level.price = "TRIGGERED", self.level_price(level)
        level.quantity, level.mark = quantity, None
        self.send(Child("level", role, level.number, not self.long, quantity, limit, level))

    def do_close_at_market(self, action: Action) -> None:
        self.note("action", "close_at_market")
        if not self.closing or self.exit_limit is not None:
            self.decide_exit("close_at_market", self.last or self.tick.price, None)

    def do_stop_out(self, action: Action) -> None:
        self.note("action", "stop_out")
        if not self.closing or self.exit_limit is not None:
            self.decide_exit(self.tightest(self.stop_parts())[1], self.last or self.tick.price, None)

    def do_cancel(self, action: Action) -> None:
        self.note("action", "cancel")
        self.closing = "cancelled"
        self.cancel_open()
        for child in self.open_children("exit"):
            self.cancel_child(child)
        self.finish()

    def edit_refusal(self, action: Action) -> str | None:
        """Of an edit while something is held."""
        if not set(action.changes) <= EDITABLE | {"tag", "note"}:
            return "wrong_status"
        order = action.apply(self.order)
        if "take_profits" in action.changes:
            staying = [level for level in self.levels if level.status != "PENDING"]
            if len(staying) + len(order.take_profits) > MOST_LEVELS:
                return "too_many"
        if action.force:
            return None
        old = (self.order, self.levels, self.trailing_armed, self.even_fired, self.clock)
        self.land(order, set(action.changes))
        triggers = self.would_trigger(set(action.changes))
        self.order, self.levels, self.trailing_armed, self.even_fired, self.clock = old
        return "would_trigger" if triggers else None

    def would_trigger(self, changed: set[str]) -> bool:
        lines = []
        if "stop_loss" in changed:
            lines.append(self.static_stop())
        if "trailing_stop" in changed:
            lines.append(self.trailing_price())
        if "break_even" in changed and (self.even_fired or self.even_is_due()):
            lines.append(self.even_price())
        if "trailing_take_profit" in changed:
            lines += [self.level_stop(level) for level in self.levels if level.mark is not None]
        last = self.last if self.last is not None else self.tick.price
        if any(self.against(last, line) for line in lines):
            return True
        pending = [level for level in self.levels if level.status == "PENDING"]
        return "take_profits" in changed and any(self.in_favour(last, self.level_price(lv)) for lv in pending)

    def do_edit(self, action: Action) -> None:
        order, changed = action.apply(self.order), set(action.changes)
        if self.status == "PENDING":
            if self.open_children("entry") or self.opening:
                self.sent_plan = self.base_plan()
            if changed & {"quantity", "cost", "risk"}:
                self.extra = ZERO
            self.order, self.basic = order, order.size_basis == "initial"
            if changed & {"take_profits", "size_basis"}:
                self.levels = self.fresh_levels(merge=False)
            self.note("action", "edit")
            if "entry" in changed:
                self.start_entry()
            return
        self.land(order, changed)
        self.note("action", "edit")
        self.fire_break_even()

    def land(self, order: SmartOrder, changed: set[str]) -> None:
        """The edit of an order that holds something."""
        old, self.order = self.order, order
        if "stop_loss" in changed:
            self.clock = None
        if "trailing_stop" in changed:
            new = order.trailing_stop
            same = new is not None and old.trailing_stop is not None and new.activation == old.trailing_stop.activation
            self.trailing_armed = new is not None and (new.activation is None or (same and self.trailing_armed))
        if "break_even" in changed:
            self.even_fired = self.even_fired and self.even_is_due()
        if "trailing_take_profit" in changed and order.trailing_take_profit is None:
            self.levels = [self.not_running(level) for level in self.levels]
        if "take_profits" in changed:
            staying = [level for level in self.levels if level.status != "PENDING"]
            added = [Level(tp.target, tp.size, tp.kind == "limit", 0) for tp in order.take_profits]
            self.levels = staying + added
            for number, level in enumerate(self.levels):
                level.number = number
            self.assign()

    @staticmethod
    def not_running(level: Level) -> Level:
        """A level whose trailing was switched off before it sold: it waits for its price again."""
        if level.mark is None:
            return level
        return Level(level.target, level.size, level.limit, level.number, quantity=level.quantity)

    # ------------------------------------------------------------------------------------------ step 2: the venue

    def in_leg_order(self) -> list[Child]:
        legs = {"entry": 0, "level": 1, "exit": 2, "add": 3, "reduce": 3}
        return sorted(self.open_children(), key=lambda child: (legs[child.leg], child.number))

    def venue(self) -> None:
        for child in self.in_leg_order():
            if child.cancel_arrives is not None and child.cancel_arrives <= self.now:
                self.cancel_done(child)
                if self.closing and self.closing != "cancelled":
                    self.sell_free()
                self.finish()
        self.open_rest()
        for child in self.in_leg_order():
            if not self.final and child.arrives <= self.now and child.rest > 0:
                self.match(child)

    def send(self, child: Child, at: Decimal | None = None) -> None:
        """Send a child now. `at`: the price that it sees, inside a bar, if it arrives at once."""
        child.arrives, child.moment = self.now + self.fills.latency, self.moment
        self.children.append(child)
        if self.fills.latency == 0 and not self.commanding:
            self.match(child, at)
            if at is not None and child.limit is not None and child.rest > 0 and not self.final:
                self.match(child)

    def match(self, child: Child, at: Decimal | None = None) -> None:
        tick = self.tick
        quoted = tick.buy if child.buys else tick.sell
        price = at if at is not None else quoted if quoted is not None else tick.price
        quantity = child.rest if self.room is None else min(child.rest, self.room)
        arriving, child.arrived = not child.arrived, True
        if child.limit is None:
            if quantity > 0:
                self.fill(child, quantity, self.slipped(price, child.buys), "taker", price)
            return
        through = price < child.limit if child.buys else price > child.limit
        if quantity <= 0:
            return
        if arriving and (through or (price == child.limit and child.leg == "entry")):
            self.fill(child, quantity, price, "taker", price)
        elif through or (price == child.limit and self.fills.touch):
            self.fill(child, quantity, child.limit, "maker", child.limit)

    def slipped(self, price: Decimal, buys: bool) -> Decimal:
        slippage, increment = Fraction(self.fills.slippage), self.instrument.price_increment
        if buys:
            return ceil_to(Fraction(price) * (1 + slippage), increment)
        return floor_to(Fraction(price) * (1 - slippage), increment)

    def fill(self, child: Child, quantity: Decimal, price: Decimal, liquidity: str, met: Decimal) -> None:
        child.filled += quantity
        if self.room is not None:
            self.room -= quantity
        rate = self.fills.fee_maker if liquidity == "maker" else self.fills.fee_taker
        self.fees += Fraction(price) * Fraction(quantity) * Fraction(rate)
        if self.tick.continuous:
            self.seen.append(met)
        enters = child.leg in ("entry", "add")
        if enters:
            self.book_entry(price, quantity, rate)
        else:
            self.exited += quantity
            self.proceeds += Fraction(price) * Fraction(quantity)
            self.exits_on_tick += 1
        if child.leg == "level":
            child.owner.filled += quantity
            if child.rest == 0:
                child.owner.status = "FILLED"
                self.status = "PARTIALLY_CLOSED"
        if child.leg == "reduce":
            self.assign()
        self.note("filled", child.role, child.number, price, quantity, liquidity)
        if child.leg == "level":
            self.fire_break_even()
        if not enters and self.held == 0 and not self.closing:
            self.closing = "reduced" if child.leg == "reduce" else child.role
            self.exit_role = child.role
            self.cancel_open()
        if enters:
            self.open_rest()
        if self.closing and self.closing != "cancelled":
            self.sell_free()
        self.finish()

    def book_entry(self, price: Decimal, quantity: Decimal, rate: Decimal) -> None:
        notional = Fraction(price) * Fraction(quantity)
        self.bought += quantity
        self.spent += notional
        self.spent_with_fees += notional * (1 + Fraction(rate) if self.long else 1 - Fraction(rate))
        self.arrived += Fraction(quantity) * (1 - Fraction(rate))
        if self.first_fill is None:
            self.first_fill = self.now
            self.status = "ACTIVE"
            self.water_mark = self.on_loss_side(self.average)
            trailing = self.order.trailing_stop
            self.trailing_armed = trailing is not None and trailing.activation is None
        self.assign()

    def assign(self) -> None:
        """Split what is free over the levels that have sent nothing yet, pro rata to their sizes."""
        if not self.basic or self.closing:
            return
        waiting = [level for level in self.levels if level.status == "PENDING" or level.mark is not None]
        runner = max(Fraction(0), 100 - sum(Fraction(level.size) for level in self.levels))
        weight = sum(Fraction(level.size) for level in waiting) + runner
        given, sizes = ZERO, Fraction(0)
        for level in waiting:
            sizes += Fraction(level.size)
            upto = floor_to(Fraction(self.free) * sizes / weight, self.instrument.quantity_increment)
            level.quantity, given = upto - given, upto

    def even_is_due(self) -> bool:
        even = self.order.break_even
        return even is not None and sum(level.status == "FILLED" for level in self.levels) >= even.after

    def fire_break_even(self) -> None:
        if self.even_is_due() and not self.even_fired and self.held > 0:
            self.even_fired = True
            self.note("break_even", "break_even", -1, self.even_price())

    # ------------------------------------------------------------------------------------------ cancelling, ending

    def cancel_child(self, child: Child) -> None:
        """Send a cancel; a market child cannot be called back."""
        if child.limit is None or child.cancel_arrives is not None:
            return
        child.cancel_arrives = self.now + self.fills.latency
        if self.fills.latency == 0:
            self.cancel_done(child)

    def cancel_done(self, child: Child) -> None:
        rest, child.cancelled = child.rest, True
        if child.leg == "level":
            child.owner.status = "CANCELLED"
        self.note("cancelled", child.role, child.number, quantity=rest)

    def cancel_entry(self) -> None:
        for rung in self.rungs:
            if rung.status == "waiting":
                rung.status = "cancelled"
                planned = self.planned()
                quantity = ZERO if planned is None else self.rung_quantity(rung, planned)
                self.note("cancelled", "entry", rung.number, quantity=quantity)
            for child in self.open_children("entry"):
                if child.owner is rung:
                    self.cancel_child(child)
        self.opening = False

    def cancel_open(self) -> None:
        """Everything but the exit: rungs, levels, then adds and reduces."""
        self.cancel_entry()
        for level in self.levels:
            if level.status == "PENDING" or level.mark is not None:
                level.status, level.mark = "CANCELLED", None
                self.note("cancelled", "take_profit", level.number, quantity=level.quantity)
            for child in self.open_children("level"):
                if child.owner is level:
                    self.cancel_child(child)
        for child in self.open_children("add", "reduce"):
            self.cancel_child(child)

    def decide_exit(self, role: str, price: Decimal | None, at: Decimal | None, limit: Decimal | None = None) -> None:
        """Everything goes, now and as it comes back. Also replaces an exit that rests with a limit."""
        self.closing, self.exit_role, self.exit_limit = role, role, limit
        self.note("triggered", role, -1, price, self.sellable())
        self.cancel_open()
        for child in self.open_children("exit"):
            self.cancel_child(child)
        self.sell_free(at)
        self.finish()

    def sell_free(self, at: Decimal | None = None) -> None:
        """Sell what is free. It joins a child of the exit that was sent at the same moment and has not been seen at the venue."""
        quantity = self.free
        if quantity <= 0 or self.final:
            return
        for child in self.open_children("exit"):
            same = child.limit == self.exit_limit and child.cancel_arrives is None and not child.arrived
            if same and child.moment == self.moment and child.arrives == self.now + self.fills.latency:
                child.quantity += quantity
                return
        if len(self.open_children("exit")) < MOST_EXITS:
            self.send(Child("exit", self.exit_role, -1, not self.long, quantity, self.exit_limit), at)

    def finish(self) -> None:
        """End the order if nothing is left to do."""
        if self.final or self.open_children():
            return
        if self.closing == "cancelled":
            self.end("CANCELLED", "cancelled")
        elif self.closing and self.held == 0:
            self.end("STOPPED" if self.closing in STOPS else "CLOSED", self.closing)
        elif self.bought and not self.entered and not self.waiting_rungs():
            self.end("CANCELLED", "rejected")  # the fee in coins took all that was bought
        elif not (self.closing or self.bought or self.opening or self.waiting_rungs()):
            self.end("CANCELLED", self.entry_failed)

    def end(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason
        self.note("ended", quantity=self.held or None, reason=reason)

    # ------------------------------------------------------------------------------------------ step 4: time limits

    def time_limits(self) -> None:
        expiry, longest = self.order.entry_expiry, self.order.max_hold
        resting = [c for c in self.open_children("entry") if c.limit is not None and c.cancel_arrives is None]
        still_open = not self.closing and (self.waiting_rungs() or resting)
        if expiry and still_open and self.now >= self.start + expiry:
            self.entry_failed = "entry_expired"
            self.cancel_entry()
            self.finish()
        if self.final or not longest or not self.sellable() or self.now < self.first_fill + longest:
            return
        if not self.closing or (self.exit_limit is not None and self.closing != "cancelled"):
            self.decide_exit("max_hold", self.tick.price, None)

    # ------------------------------------------------------------------------------------------ steps 5 to 8

    def look(self) -> bool:
        """Steps 5 to 8 once. True if an entry filled on the way and the rest of the segment is to be looked at."""
        if self.before is not None and self.held > 0 and not self.closing:
            for rung in self.rungs:
                if self.comes_before_the_stop(rung) and self.take(rung):
                    return True
        self.look_at_stop()
        self.raise_water_mark()
        self.look_at_levels()
        return self.look_at_entry()

    def crossed(self, line: Decimal, reached: Any) -> bool:
        """Whether the line was reached inside this segment: by this point, not by the one before."""
        return self.before is not None and not reached(self.before, line)

    def met(self, line: Decimal, reached: Any) -> tuple[Decimal, Decimal | None]:
        """The price at which a line was met, and the price that a child order sees inside a bar."""
        if self.crossed(line, reached):
            return line, line
        return self.tick.price, None

    def comes_before_the_stop(self, rung: Rung) -> bool:
        if rung.status != "waiting" or rung.kind != "limit" or not self.against(self.tick.price, rung.price):
            return False
        stop = self.effective_stop()
        return self.crossed(rung.price, self.against) and stop is not None and not self.against(rung.price, stop)

    def look_at_stop(self) -> None:
        if self.final or self.closing == "cancelled":
            return
        if not self.sellable():
            return
        if self.closing:
            if self.exit_limit is not None:
                self.look_at_emergency()
            return
        stop, price = self.order.stop_loss, self.tick.price
        waits = stop is not None and stop.timeout is not None
        parts = self.stop_parts()
        if waits:
            emergency = [(self.emergency(), "stop_loss")] if self.emergency() is not None else []
            parts = emergency + [(line, role) for line, role in parts if role != "stop_loss"]
        line, role = self.tightest(parts)
        if self.against(price, line):
            self.stop_out(role, line, as_limit=not waits)
        elif waits:
            self.look_at_clock()

    def stop_out(self, role: str, line: Decimal, as_limit: bool) -> None:
        stop, emergency = self.order.stop_loss, self.emergency()
        if role != "stop_loss" or stop.limit is None or not as_limit:
            self.decide_exit(role, *self.met(line, self.against))
            return
        if self.against(self.tick.price, emergency) and not self.crossed(line, self.against):
            self.decide_exit(role, *self.met(emergency, self.against))  # a jump past both
            return
        self.decide_exit(role, *self.met(line, self.against), limit=self.price_of(stop.limit, profit=False))
        if not self.final:
            self.look_at_emergency()

    def look_at_emergency(self) -> None:
        """The emergency price of a stop that rests with a limit."""
        emergency = self.emergency()
        if self.sellable() and self.against(self.tick.price, emergency):
            self.decide_exit("stop_loss", *self.met(emergency, self.against))

    def look_at_clock(self) -> None:
        stop, line, price = self.order.stop_loss, self.static_stop(), self.tick.price
        if self.clock is None:
            if self.against(price, line):
                self.clock = self.now + stop.timeout
                self.note("timer_started", "stop_loss", -1, self.met(line, self.against)[0])
        elif self.now >= self.clock:
            if self.against(price, line):
                self.decide_exit("stop_loss", price, None, limit=self.price_of(stop.limit, profit=False))
            else:
                self.clock = None
                self.note("timer_cleared", "stop_loss", -1, price)

    def raise_water_mark(self) -> None:
        trailing, price = self.order.trailing_stop, self.tick.price
        if self.final or self.closing or self.held <= 0 or trailing is None:
            return
        activation = self.price_of(trailing.activation, profit=True)
        armed_now = not self.trailing_armed and self.in_favour(price, activation)
        self.trailing_armed = self.trailing_armed or armed_now
        if self.trailing_armed:
            self.water_mark = self.best(self.water_mark, price)
        if armed_now:
            self.note("armed", "trailing_stop", -1, self.met(activation, self.in_favour)[0])

    def level_stop(self, level: Level) -> Decimal | None:
        """Where a running trailing take-profit sells."""
        trailing = self.order.trailing_take_profit
        return self.on_loss_side(self.moved_against(level.mark, trailing.callback_rate)) if trailing else None

    def look_at_levels(self) -> None:
        if self.final or self.closing or self.held <= 0:
            return
        price = self.tick.price
        for level in self.levels:
            if level.mark is not None and not self.closing:
                self.trail(level)
        for level in self.levels:
            line = self.level_price(level)
            if self.closing or level.status != "PENDING" or not self.in_favour(price, line):
                continue
            quantity = self.level_quantity(level)
            if quantity <= 0:
                continue
            level.status, level.quantity, level.price = "TRIGGERED", quantity, line
            met, at = self.met(line, self.in_favour)
            if self.order.trailing_take_profit and level is self.levels[-1]:
                level.mark = price
                self.note("armed", "trailing_take_profit", level.number, met, quantity)
                continue
            self.note("triggered", "take_profit", level.number, met, quantity)
            limit = line if level.limit else None
            self.send(Child("level", "take_profit", level.number, not self.long, quantity, limit, level), at)

    def level_quantity(self, level: Level) -> Decimal:
        """What a level sells if it triggers now."""
        if self.basic or level.mark is not None:
            return min(level.quantity, self.free)
        return floor_to(Fraction(self.free) * Fraction(level.size) / 100, self.instrument.quantity_increment)

    def trail(self, level: Level) -> None:
        line, quantity = self.level_stop(level), min(level.quantity, self.free)
        if quantity > 0 and self.against(self.tick.price, line):
            level.mark, level.quantity = None, quantity
            met, at = self.met(line, self.against)
            self.note("triggered", "trailing_take_profit", level.number, met, quantity)
            self.send(Child("level", "trailing_take_profit", level.number, not self.long, quantity, None, level), at)
        else:
            level.mark = self.best(level.mark, self.tick.price)

    def start_entry(self) -> None:
        entry = self.order.entry
        self.entry_armed, self.entry_mark = entry.kind == "trailing" and entry.activation is None, None
        if entry.kind == "ladder":
            self.rungs = [Rung("limit", r.price, r.price, r.size, n) for n, r in enumerate(entry.rungs)]
        else:
            limit = {"limit": entry.price, "stop": entry.limit_price}.get(entry.kind)
            self.rungs = [Rung(entry.kind, entry.price, limit, Decimal(100), 0)]

    def look_at_entry(self) -> bool:
        if self.closing:
            return False
        return any(self.take(rung) for rung in self.waiting_rungs() if not self.final)

    def take(self, rung: Rung) -> bool:
        """Send the rung if its price is there. True if it filled inside a segment, which is then split there."""
        price, reached = self.tick.price, self.in_favour
        if rung.kind == "market":
            met, at = price, None
        elif rung.kind == "trailing":
            line = self.trailing_entry_line()
            if line is None or not reached(price, line):
                if line is not None:
                    self.entry_mark = min(self.entry_mark, price) if self.long else max(self.entry_mark, price)
                return False
            met, at = self.met(line, reached)
        else:
            reached = self.against if rung.kind == "limit" else self.in_favour
            if not reached(price, rung.price):
                return False
            met, at = self.met(rung.price, reached)
        quantity = self.rung_quantity(rung, self.total_at(met))
        if quantity <= 0 or self.too_small(quantity, rung.limit if rung.limit is not None else met):
            rung.status, self.entry_failed = "rejected", "rejected"
            reason = "no_size" if quantity <= 0 else "too_small"
            self.note("rejected", "entry", rung.number, met, quantity, reason=reason)
            self.finish()
            return False
        rung.status = "sent"
        self.note("triggered", "entry", rung.number, met, quantity)
        child = Child("entry", "entry", rung.number, self.long, quantity, rung.limit, rung)
        self.send(child, at)
        if at is None or at == price or not child.filled or self.final:
            return False
        self.before = at
        return True

    def trailing_entry_line(self) -> Decimal | None:
        """Where a trailing entry triggers now; None on the ticks before its low is set, and on the one that sets it."""
        entry, price = self.order.entry, self.tick.price
        if not self.entry_armed:
            if self.against(price, entry.activation):
                self.entry_armed, self.entry_mark = True, price
                self.note("armed", "entry", 0, self.met(entry.activation, self.against)[0])
            return None
        if self.entry_mark is None:
            self.entry_mark = price
            return None
        return self.on_profit_side(self.moved_against(self.entry_mark, -entry.callback_rate))

    # ------------------------------------------------------------------------------------------ report

    def bar_at(self, first: int) -> list[int]:
        """The points of the bar that opens at a tick: that tick and the continuous ones after it."""
        points = [first]
        while points[-1] + 1 < len(self.ticks) and self.ticks[points[-1] + 1].continuous:
            points.append(points[-1] + 1)
        return points

    def count_ambiguous(self, bar: list[int]) -> None:
        if not bar or self.index not in bar or self.final or self.held <= 0:
            return
        pending = [self.level_price(level) for level in self.levels if level.status == "PENDING"]
        stop, prices = self.effective_stop(), [self.ticks[point].price for point in bar]
        low, high = (min(prices), max(prices)) if self.long else (max(prices), min(prices))
        if pending and self.against(low, stop) and self.in_favour(high, pending[0]):
            self.ambiguous.add(bar[0])

    def result(self) -> Result:
        sign = 1 if self.long else -1
        average = self.average
        gain = (self.proceeds - average * Fraction(self.exited)) * sign if average is not None else Fraction(0)
        moves = [(Fraction(price) - average) / average * sign for price in self.seen] if average else []
        return Result(
            events=self.events,
            status=self.status,
            exit_reason=self.reason,
            bought=self.bought,
            entered=self.entered,
            held=self.held,
            average=average,
            realized_pnl=gain - self.fees,
            fees=self.fees,
            mae=min([*moves, Fraction(0)]) if moves else None,
            mfe=max([*moves, Fraction(0)]) if moves else None,
            ambiguous_bars=len(self.ambiguous),
            levels=[LevelResult(self.level_price(x), x.size, x.status, x.quantity, x.filled) for x in self.levels],
        )
