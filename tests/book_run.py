"""A session without its surroundings: a book, a journal in memory and a paper broker, driven through a plan, killed where one likes.

    plan = Plan(tapes, steps, FillModel())
    driven = drive(plan)                 # or drive(plan, kills=[12, 40]): as if the process had been killed at the 12th call, then …
    same_as_replay(plan, driven)

A plan says in one order what happens: ticks of a market up to a position, placements, actions, snapshots. A crash leaves the journal and
the broker as they are; the next start goes on from the token of the last ticks in the journal, as a feed would.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import strategies
from hypothesis import assume
from hypothesis import strategies as st

import smartorders_lab as so
from smartorders_lab.actions import Action
from smartorders_lab.book import Book
from smartorders_lab.brokers.paper import PaperBroker
from smartorders_lab.errors import ActionError, SpecError
from smartorders_lab.journal import CHANGE, MemoryJournal
from smartorders_lab.messages import Block
from smartorders_lab.outliers import Guard
from smartorders_lab.rows import EVENT
from smartorders_lab.run import _events_frame, order_columns

SERIES = ("price", "bid", "ask", "mark")
TRIGGERS = ("last", "bid", "ask", "mark")


@dataclass(frozen=True)
class Tape:
    """All ticks of one market, prices in increments."""

    instrument: so.Instrument
    ts: np.ndarray
    columns: dict[str, np.ndarray]
    size: np.ndarray | None = None

    def block(self, first: int, last: int, late: bool = False) -> Block:
        """Ticks `first` to `last - 1`; their token is the position after them."""
        size = None if self.size is None else self.size[first:last]
        given = {name: self.columns[name][first:last] if name in self.columns else None for name in SERIES}
        return Block(self.instrument.symbol, self.ts[first:last], size=size, token=str(last), late=late, **given)  # type: ignore[arg-type]

    def ticks(self) -> so.Ticks:
        """The same for replay."""
        given: dict[str, Any] = {name: self.instrument.prices(column) for name, column in self.columns.items()}
        given = {"price": None, "size": self.size} | given
        return so.Ticks.from_arrays(self.ts, instrument=self.instrument, unit="ns", **given)


Step = tuple[Any, ...]
"""("feed", symbol, position), ("late", symbol, position), ("place", order), ("act", number, kind, details), or a method of Book and its
arguments: ("snapshot",), ("compact",), ("timer",), ("flush",), ("refresh",)."""


@dataclass(frozen=True)
class Plan:
    """What happens to a session."""

    tapes: dict[str, Tape]
    steps: Sequence[Step]
    fills: so.FillModel = field(default_factory=so.FillModel)
    poll_ns: int = 0
    outlier: str | None = None
    balances: dict[str, Any] | None = None

    @property
    def meta(self) -> dict[str, Any]:
        """What the journal is begun with."""
        outlier = None if self.outlier is None else str(self.outlier)
        return {"format": 1, "fills": self.fills.to_dict(), "poll_ns": self.poll_ns, "outlier": outlier}


class Crash(BaseException):
    """As if the process were killed."""


class Kill:
    """Counts the calls of the journal and the broker, and crashes at the chosen ones, each counted from the one before."""

    def __init__(self, at: Iterable[int] = ()):
        self.calls, self.left, self.sites = 0, list(at), list[str]()

    def __call__(self, site: str) -> None:
        self.calls += 1
        if self.left and self.calls >= self.left[0]:
            self.left.pop(0)
            self.calls = 0
            self.sites.append(site)
            raise Crash(site)


class Killing:
    """A broker that is killed before or after it does something."""

    request_expiry_ns = visibility_lag_ns = 0

    def __init__(self, broker: Any, kill: Kill):
        self._broker, self._kill = broker, kill

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._broker, name)
        if name not in ("submit", "match", "cancel", "query"):
            return call

        def shaky(*args: Any) -> Any:
            self._kill(f"before {name}")
            result = call(*args)
            self._kill(f"after {name}")
            return result

        return shaky


class Journal(MemoryJournal):
    """Remembers how many actions it ever took."""

    actions = 0

    def append(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None = None) -> int:
        before = self.last
        try:
            return super().append(entries, events)
        finally:
            if self.last > before:
                self.actions += sum(kind == "action" for kind, _ in entries)


@dataclass
class Driven:
    """What came of it."""

    journal: Journal
    broker: PaperBroker
    book: Book
    kill: Kill
    refused: list[str]
    clock: list[int]
    at: dict[str, int] = field(default_factory=dict)
    """The positions up to which the living session has been fed."""

    @property
    def events(self) -> np.ndarray:
        """All events as they were recorded, in the order in which they came."""
        return self.journal.events()

    def rows(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The rows of all orders, up to date."""
        self.book.catch_up()
        return [self.book.rows(number) for number in self.book.specs]


def drive(
    plan: Plan,
    kills: Iterable[int] = (),
    broker: Callable[[PaperBroker, Kill], Any] = Killing,
    market_clock: Callable[[], int] | None = None,
    told: Callable[[int, np.ndarray], None] = lambda number, events: None,
) -> Driven:
    """Do what a plan says, starting anew after each crash."""
    kill = Kill(kills)
    journal = Journal(plan.meta, hook=lambda moment: kill(f"{moment} of journal"))
    paper = PaperBroker(None, plan.fills, plan.balances)
    begin = min(int(tape.ts[0]) for tape in plan.tapes.values())
    done = Driven(journal, paper, None, kill, [], [begin])  # type: ignore[arg-type]
    now = market_clock or (lambda: done.clock[0])

    def started() -> Book:
        book = Book(journal, broker(paper, kill), lambda: done.clock[0], now, told)
        book.resume()
        for tape in plan.tapes.values():
            book.open_market(tape.instrument)
        return book

    book: Book | None = None
    reached: dict[str, int] = {}
    for n, step in enumerate([*plan.steps, ("end",)]):
        acted = journal.actions
        while True:
            try:
                if book is None:
                    book = started()
                    for symbol, position in reached.items():  # what was lost comes again, before anything else
                        _feed(plan, book, symbol, position, False, done)
                if step[0] == "act" and journal.actions > acted:
                    break  # it was in the journal when the session died
                _do(plan, book, step, f"{n}", done)
                if step[0] in ("feed", "late"):
                    reached[step[1]] = step[2]
                break
            except Crash:
                book = None
                done.at.clear()
    assert book is not None
    done.book = book
    return done


def _feed(plan: Plan, book: Book, symbol: str, upto: int, late: bool, done: Driven) -> None:
    begin = done.at.get(symbol, int(book.markets[symbol].token or 0))
    if upto > begin:
        done.at[symbol] = upto
        book.feed(plan.tapes[symbol].block(begin, upto, late))


def _do(plan: Plan, book: Book, step: Step, key: str, done: Driven) -> None:
    kind, *args = step
    if kind in ("feed", "late"):
        _feed(plan, book, *args, kind == "late", done)
    elif kind == "place":
        book.place(args[0], key=key)
    elif kind == "act":
        number, what, details = args
        try:
            book.act(number, what, **details)
        except (ActionError, SpecError) as error:
            done.refused.append(f"{type(error).__name__} {getattr(error, 'reason', '')}")
    elif kind == "clock":
        done.clock[0] = args[0]
    elif kind == "end":
        book.settle()  # not by the clock: what is sent again after a crash would rightly be later then
    else:
        getattr(book, kind)(*args)


# ---------------------------------------------------------------------------------------------------- as replay does


def recorded(driven: Driven) -> tuple[list[tuple[int, int, so.SmartOrder]], list[tuple[int, int, Action]]]:
    """What was placed, (number, time, spec), and done, (number, tick, action), by the journal."""
    placed, done = [], []
    for _, kind, body in driven.journal.entries():
        if kind == "place":
            number, created, text, _ = json.loads(body)
            placed.append((number, created, so.SmartOrder.from_json(text)))
        elif kind == "action":
            number, tick, data, _ = json.loads(body)
            done.append((number, tick, Action(**data)))
    return placed, done


def replayed(plan: Plan, driven: Driven) -> dict[str, tuple[list[int], so.Run]]:
    """The same orders and actions through so.replay, market by market: the orders' numbers, and the run."""
    placed, done = recorded(driven)
    runs = {}
    for symbol, tape in plan.tapes.items():
        own = [(number, created, order) for number, created, order in placed if order.symbol == symbol]
        if not own:
            continue
        numbers = [number for number, _, _ in own]
        actions = [
            action.model_copy(update={"order": numbers.index(number)})
            for number, _, action in done
            if number in numbers
        ]
        run = so.replay(
            [order for _, _, order in own],
            tape.ticks(),
            [created for _, created, _ in own],
            plan.fills,
            actions,
            plan.poll_ns or None,
            progress=False,
            outlier=plan.outlier,
            workers=1,
        )
        runs[symbol] = numbers, run
    return runs


def bare(events: np.ndarray) -> np.ndarray:
    """Rows of CHANGE as rows of EVENT, by order and sequence."""
    rows = np.zeros(len(events), EVENT)
    for name in EVENT.names or ():
        rows[name] = events[name]
    return rows[np.lexsort((rows["seq"], rows["order"]))]


def same_as_replay(plan: Plan, driven: Driven) -> int:
    """Every event, and what became of every order, is what so.replay makes of it; returns how many events."""
    driven.book.catch_up()
    events, count = bare(driven.events), 0
    for symbol, (numbers, run) in replayed(plan, driven).items():
        tape = plan.tapes[symbol]
        ours = np.concatenate([events[events["order"] == number] for number in numbers])
        ours["order"] = np.searchsorted(numbers, ours["order"])
        seen = np.arange(len(tape.ts))
        if plan.outlier is not None:
            seen = np.flatnonzero(Guard(plan.outlier).believe(tape.columns["price"]))
        after = ours["tick"] >= len(seen)  # what came after the last tick, replay does not do
        late = set(ours["order"][after].tolist())
        ours = ours[~after]
        ours["tick"] = seen[ours["tick"]]
        mine = _events_frame(ours, tape.instrument)
        if not mine.equals(run.events):
            raise AssertionError(difference(mine, run.events, numbers, driven.book.specs))
        count += mine.height
        kept = [k for k in range(len(numbers)) if k not in late]
        rows = np.concatenate([driven.book.rows(number)[0] for number in numbers]).view(np.recarray)[kept]
        for name, column in order_columns(rows, tape.instrument, plan.fills).items():
            theirs = run.orders[name][kept]
            assert pl.Series(name, column).cast(theirs.dtype).equals(theirs, null_equal=True), (symbol, name)
    return count


def difference(mine: Any, theirs: Any, numbers: Sequence[int], specs: dict[int, so.SmartOrder]) -> str:
    """The lives of the first order whose events differ, side by side."""
    columns = [
        "seq",
        "tick",
        "ts",
        "kind",
        "role",
        "level",
        "price",
        "quantity",
        "liquidity",
        "status",
        "stop",
        "water_mark",
        "reason",
    ]
    for k, number in enumerate(numbers):
        a, b = (frame.filter(frame["order"] == k).select(columns) for frame in (mine, theirs))
        if not a.equals(b):
            lines = [f"order {number}: {specs[number].to_json()}"]
            for name, frame in (("session", a), ("replay", b)):
                lines += [name, *(str(row) for row in frame.with_columns(frame["ts"].dt.epoch("ns")).iter_rows())]
            return "\n".join(lines)
    return "the events are equal order by order"


def assert_same(one: Driven, other: Driven) -> None:
    """Two sessions have lived the same life, to the byte and in the same order; so have their rows."""
    a, b = one.events, other.events
    assert a.dtype == CHANGE
    for x, y in zip(a, b, strict=False):
        assert x.tobytes() == y.tobytes(), f"{x}\n{y}\n{other.kill.sites}"
    assert len(a) == len(b), other.kill.sites
    for number, (x, y) in enumerate(zip(one.rows(), other.rows(), strict=True)):
        for mine, theirs in zip(x, y, strict=True):
            names = [name for name in mine.dtype.names or () if name not in ("leg", "end")]  # where legs lie
            wrong = {n: (mine[n], theirs[n]) for n in names if not np.array_equal(mine[n], theirs[n])}
            assert not wrong, f"order {number}: {wrong} {other.kill.sites}"


# ---------------------------------------------------------------------------------------------------- random plans


@st.composite
def tapes(draw: Any, order: so.SmartOrder, instrument: so.Instrument, every: bool, rough: bool) -> Tape:
    """A market's ticks, trades alone or with quotes and a mark price; `rough`: also several at one time."""
    ticks = draw(strategies.tapes(order))
    steps = np.diff([tick.ts for tick in ticks], prepend=ticks[0].ts)
    # odd: a session never decides anything at the time of a tick to come, where replay adds to a child that it has not sent yet
    ts = strategies.BEGIN + 1 + np.cumsum(2 * (steps if rough else np.maximum(steps, 1)))
    price = np.array([instrument.price_units(tick.price) for tick in ticks], np.int64)
    columns = {"price": price}
    if every:
        one = instrument.price_units(1)
        spread, away = (
            np.array(draw(st.lists(st.integers(*reach), min_size=len(ts), max_size=len(ts))), np.int64)
            for reach in ((0, 2), (-1, 1))
        )
        columns |= {"bid": price - spread * one, "ask": price + one, "mark": price + away * one}
    return Tape(instrument, ts, columns, np.array([float(tick.size or 0) for tick in ticks]))


@st.composite
def plans(draw: Any, guard: bool = True, keeps: bool = False, rough: bool = False) -> Plan:
    """One to four orders on one or two markets, placed and acted on at any tick, the tapes cut anywhere.

    `keeps`: with snapshots, compaction, timers and look-ups; `rough`: what replay cannot be told of, ties in time, ticks that come late
    and a clock that moves by itself.
    """
    orders = draw(st.lists(strategies.orders(), min_size=1, max_size=4))
    every = strategies.rarely(draw, 3)
    made: dict[str, Tape] = {}
    for symbol in sorted({order.symbol for order in orders}):
        first = next(order for order in orders if order.symbol == symbol)
        instrument = draw(strategies.instruments).model_copy(update={"symbol": symbol})
        made[symbol] = draw(tapes(first, instrument, every, rough))
    if every:
        orders = [order.replace(trigger=draw(st.sampled_from(TRIGGERS))) for order in orders]
    for order in orders:
        assume(not any(problem.level == "error" for problem in order.check(made[order.symbol].instrument)))
    timed: list[tuple[int, Step | None]] = []
    for order in orders:
        last = len(made[order.symbol].ts) - 1
        timed.append((draw(st.integers(0, min(4, last)) | st.integers(0, last)), ("place", order)))
    timed.sort(key=lambda pair: pair[0])
    for number, (begin, step) in enumerate([*timed]):
        assert step is not None
        last = len(made[step[1].symbol].ts) - 1
        for action in draw(strategies.actions(step[1], max(begin, 1), max(last, 1))):
            details = action.model_dump(exclude={"kind", "order", "at"}, exclude_defaults=True)
            if action.at <= last:
                timed.append((action.at, ("act", number, action.kind, details)))
    for tape in made.values():
        timed += [(cut, None) for cut in draw(st.lists(st.integers(1, len(tape.ts)), max_size=8))]
    if keeps:
        kinds = st.sampled_from(["snapshot", "compact", "refresh", "timer", "flush"])
        timed += [(draw(st.integers(0, 40)), (kind,)) for kind in draw(st.lists(kinds, max_size=4))]
    if rough:
        for tape in made.values():
            for at in draw(st.lists(st.integers(0, len(tape.ts) - 1), max_size=4)):
                timed += [(at, ("clock", int(tape.ts[at]) + draw(st.integers(-3, 12)))), (at, ("timer",))]
    timed.sort(key=lambda pair: pair[0])
    steps: list[Step] = []
    fed = dict.fromkeys(made, 0)
    for position, step in [*timed, (10**6, None)]:
        for symbol, tape in made.items():
            upto = min(position, len(tape.ts))
            if upto > fed[symbol]:
                steps.append(("late" if rough and strategies.rarely(draw, 8) else "feed", symbol, upto))
                fed[symbol] = upto
        if step is not None:
            steps.append(step)
    poll = draw(st.sampled_from([0, 0, 0, 4, 10]))
    outlier = draw(st.sampled_from([None, None, None, "5%"])) if guard else None
    return Plan(made, steps, draw(strategies.fill_models), poll, outlier)
