"""Book: all orders of one session, and what happens to them, one thing after another.

It has no clock, no thread and no loop of its own. What can happen is `feed`, `place`, `act`, `hear` and `timer`; each is one turn:

    what came in is noted → the engine decides → before the broker is asked anything, all that was noted is made durable
    → the broker's answer is noted → … → what happened is made durable, and told

The journal is all there is. What the engine was given stands in it in order, so to resume is to live through it again from the last
snapshot: the same questions come up, and are answered from the journal. The first one that has no answer there is where the session
died; what became of it is looked up at the broker. What came out (events, requests) is there too, and has to come out again the same.

    market    an instrument                                        intent    a request that is about to be made
    place     an order: number, time, spec, key                    said      the broker's answer to a question
    ticks     columns of ticks as the engine saw them              due       children that a tick means something for at the broker
    action    an action on an order, and the tick it came before   again     a request is about to be made once more, as a new attempt
    report    what the broker reported by itself                   notice    a feed that fell silent, came back, lost something; a restart
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby, pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from .actions import Action
from .desk import HEADROOM, KEPT, Desk, Dialogue, Question, Said
from .errors import (
    ActionError,
    ActionRefused,
    DataError,
    LimitError,
    Problem,
    SpecError,
    StaleVersion,
    StoreError,
    short,
)
from .execution import Job, State, client_id, first
from .fields import plain
from .fills import FillModel
from .instrument import Instrument
from .lower import absolute_prices, check, off_grid, suit
from .messages import Block, Cancel, Notice, Report, Submit, What
from .outliers import Guard
from .packing import COLUMNS, pack_state, pack_ticks, unpack_state, unpack_ticks
from .rows import EVENT, LEG, ORDER, Answer, Ask, Kind, Reason, Role
from .spec import SmartOrder, living_order

FORMAT = 1
"""Version of what stands in the journal."""
_OPENS = (Role.ENTRY, Role.ADD_FUNDS)
_SERIES = {"last": "price", "bid": "bid", "ask": "ask", "mark": "mark"}
_WHY = {
    "wrong_status": "its status does not allow that",
    "too_large": "more than is free to be sold, or than was planned",
    "would_trigger": "it would trigger at once on the last price; use force=True to have that",
    "closing": "the order is being closed; only close_at_market and cancel are taken",
    "too_many": "more levels than an order can have",
    "no_size": "it comes to less than one increment",
}


class Keeper(Protocol):
    """What a book asks of a journal; see journal.py."""

    id: str
    meta: dict[str, Any]
    last: int
    changes: int

    def append(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None = None) -> int:
        """Keep, durably."""

    def load(self) -> tuple[int, bytes | None, list[tuple[int, str, bytes]]]:
        """The last snapshot and what came after it."""

    def snapshot(self, body: bytes, finished: Sequence[tuple[int, bytes]] = ()) -> None:
        """Keep the state."""

    def finished(self, until: int | None = None) -> Iterable[tuple[int, bytes]]:
        """Orders that are over."""

    def events(self, since: int = 0, order: int | None = None, limit: int | None = None) -> np.ndarray:
        """What happened."""

    def compact(self, keep: int) -> None:
        """Forget what a snapshot covers."""


class Broker(Protocol):
    """Who carries child orders out. What it does not answer at once it reports later, to `Book.hear`."""

    request_expiry_ns: int
    visibility_lag_ns: int
    tells_all: bool
    """Whether what it reports later is all that there is to be told of a child up to then."""

    def tick(self, symbol: str, number: int, ts: int, price: int, buy: int, sell: int, size: float | None) -> None:
        """Where the market is."""

    def due(
        self, symbol: str, ts: np.ndarray, price: np.ndarray, buy: np.ndarray, sell: np.ndarray, size: np.ndarray | None
    ) -> tuple[int, Sequence[tuple[str, int, int, bool]]]:
        """The first of these ticks that means something for children, and which."""

    def together(self) -> AbstractContextManager[None]:
        """Questions that are put within it may be answered before they are durable; they are when it ends."""

    def submit(self, submit: Submit) -> list[Report]:
        """Send a child."""

    def match(self, client_id: str) -> list[Report]:
        """What the tick did to it."""

    def cancel(self, cancel: Cancel) -> list[Report]:
        """Take it back."""

    def query(self, client_id: str) -> list[Report]:
        """Look it up."""

    def list(self, instrument: Instrument) -> None:
        """A market will be traded."""

    def know(self, submit: Submit, venue_id: str, fills: Iterable[str]) -> None:
        """A child of an earlier start that is not over, how the venue calls it, and which fills of it have been heard of."""


class Over(NamedTuple):
    """An order that is over."""

    spec: SmartOrder
    row: np.ndarray
    legs: np.ndarray


class Market:
    """One symbol: its instrument, where its tape is, and a desk for each price that orders watch."""

    def __init__(self, instrument: Instrument, outlier: Any):
        self.instrument = instrument
        self.guard = Guard(outlier) if outlier is not None else None
        self.desks: dict[str, Desk] = {}
        self.ticks = self.last_ts = 0
        self.last: dict[str, int] = {}
        """The last price of each series."""
        self.token = ""
        self.held_back = self.backward = 0
        self.doubts: dict[str, tuple[int, int, int]] = {}
        """The guard's state after each token that is not in the journal yet."""
        self.doubt: tuple[int, int, int] | None = None
        """Its state after the last one that is."""
        self.waiting: list[Block] = []
        """With polling: ticks of an interval that is not over yet."""
        self.pending: list[Block] = []
        """Ticks that were seen and are not in the journal yet: nothing came of them."""
        self.late_until = 0
        self.state = "live"


class _Past:
    """What stands in the journal and has not been lived through again yet."""

    def __init__(self, entries: Sequence[tuple[int, str, bytes]], events: np.ndarray):
        self.intents: dict[tuple[int, int, int], list[Any]] = {}
        self.said: deque[list[Any]] = deque()
        self.due: dict[str, deque[list[Any]]] = {}
        self.attempts: dict[tuple[int, int], list[list[Any]]] = {}
        self.events = events
        self.at = 0
        self.last_ticks = 0
        for seq, kind, body in entries:
            if kind == "ticks":
                self.last_ticks = seq
            elif kind in ("intent", "said", "due", "again"):
                data = json.loads(body)
                if kind == "intent":
                    self.intents[tuple(data[:3])] = data
                elif kind == "said":
                    self.said.append(data)
                elif kind == "due":
                    self.due.setdefault(data[0], deque()).append(data)
                else:
                    self.attempts.setdefault(tuple(data[:2]), []).append(data)


class Book:
    """The orders of a session. Made by `Book(...)`, then `resume()`, then used.

    `clock`: this machine's time in ns. `market_clock`: an estimate of the exchange's, 0 if there is none but the ticks. `told` is called
    with (number of the first, events) once they are durable, `seen` with ticks and the number of the first, also when they are lived
    through again.
    """

    def __init__(
        self,
        journal: Keeper,
        broker: Broker,
        clock: Callable[[], int],
        market_clock: Callable[[], int] = lambda: 0,
        told: Callable[[int, np.ndarray], None] = lambda number, events: None,
        seen: Callable[[Instrument, int, Block], None] = lambda instrument, first, block: None,
    ):
        meta = journal.meta
        if meta.get("format") != FORMAT:
            raise StoreError(
                f"session {journal.id}: its journal has format {meta.get('format')!r}, this version writes {FORMAT}; "
                "go on with the version that began it"
            )
        self.journal, self.broker, self.clock, self.market_clock = journal, broker, clock, market_clock
        self.told, self.seen = told, seen
        self.fills = FillModel(**meta["fills"])
        self.poll_ns, self.outlier = int(meta["poll_ns"]), meta["outlier"]
        self.proof_ns = broker.request_expiry_ns + broker.visibility_lag_ns
        self.markets: dict[str, Market] = {}
        self.homes: dict[int, tuple[str, str]] = {}
        """Symbol and trigger of each order that is not put away."""
        self.over: dict[int, Over] = {}
        self.keys: dict[str, int] = {}
        self.specs: dict[int, SmartOrder] = {}
        """What every order asked for when it was placed."""
        self.jobs: dict[tuple[int, int], Job] = {}
        self.by_client: dict[str, tuple[int, int]] = {}
        self.covered = 0
        """The entry that the last snapshot is of."""
        self._entries: list[tuple[str, bytes]] = []
        self._events: list[np.ndarray] = []
        self._more: deque[tuple[Job, Said]] = deque()
        self._touched: dict[tuple[str, str], set[int]] = {}
        self._intended: set[tuple[int, int, Ask]] = set()
        self._past: _Past | None = None
        self._died: dict[tuple[int, int, int], list[Any]] = {}
        """Requests that a session which died was about to make: whether it did, only the broker knows."""
        self._attempts: dict[tuple[int, int], list[list[Any]]] = {}
        self._here = 0
        self._current: Market | None = None

    # ------------------------------------------------------------------------------------------------ what happens

    def open_market(self, instrument: Instrument) -> Market:
        """A market, known from now on. Raises DataError if it is known with other increments."""
        symbol = instrument.symbol
        known = self.markets.get(symbol)
        if known is None:
            self._open_market(instrument)
            self._note("market", instrument.model_dump(mode="json"))
        elif (known.instrument.price_increment, known.instrument.quantity_increment) != (
            instrument.price_increment,
            instrument.quantity_increment,
        ):
            raise DataError(
                f"{symbol}: increments {plain(instrument.price_increment)} and {plain(instrument.quantity_increment)} are not those "
                f"that this session began with, {plain(known.instrument.price_increment)} and "
                f"{plain(known.instrument.quantity_increment)}; begin another session for them"
            )
        return self.markets[symbol]

    def place(self, order: SmartOrder, key: str = "") -> int:
        """A new order; returns its number. Under a key that is known it is the same order. Raises SpecError, LimitError, DataError."""
        if key and key in self.keys:
            number = self.keys[key]
            if self.specs[number] == order:
                return number
            raise SpecError.one(
                "key", key, f"is that of order {number}, which is another one", "edit that order, or take another key"
            )
        market = self._market(order.symbol)
        self._check(order, market)
        number, created = len(self.specs), self._stamp(market)
        self._note("place", [number, created, order.to_json(), key])
        self._turn(lambda: self._place(number, created, order, key))
        return number

    def act(self, number: int, kind: str, version: int | None = None, force: bool = False, **details: Any) -> int:
        """An action on a living order; returns its version after it.

        Raises ActionError for what makes no sense, ActionRefused for what the order does not take, StaleVersion among them.
        """
        market, desk = self._home(number)
        if not desk.living(number):
            raise ActionRefused(f"order {number}: is over; place another one", "wrong_status")
        if not market.ticks and kind != "cancel":
            raise ActionError(
                f"order {number}: no price of {market.instrument.symbol} has come yet; wait for one, or cancel"
            )
        action = Action(kind=kind, at=self._stamp(market), version=version, force=force, **details)  # type: ignore[arg-type]
        after = action.apply(desk.specs[number]) if kind == "edit" else None
        wrong = off_grid(market.instrument, [("price", action.price)], [("quantity", action.quantity)])
        text = None
        if after is not None:
            wrong = off_grid(market.instrument, absolute_prices(after), [("quantity", after.quantity)])
            text, given = after.to_json(), after.model_dump(mode="json")  # with what is at its default
            action = action.model_copy(update={"changes": {name: given[name] for name in action.changes}})
        if wrong:
            raise SpecError(wrong)
        self._note("action", [number, market.ticks, action.to_dict(), text])
        events = self._turn(lambda: self._act(number, action, after))
        refused = events[(events["order"] == number) & (events["kind"] == Kind.ACTION_REFUSED)]
        if len(refused):
            reason, now = Reason(int(refused[0]["reason"])).name.lower(), int(refused[0]["seq"])
            if reason == "stale_version":
                raise StaleVersion(
                    f"order {number}: version = {version}: the order has moved on to version {now}; look at it again, and decide anew "
                    f"(this refusal made it version {now + 1})",
                    reason,
                )
            raise ActionRefused(f"order {number}: {kind}: {_WHY.get(reason, reason)}", reason)
        return self.version(number)

    def feed(self, block: Block) -> None:
        """More ticks of one symbol, in order. Ticks that go back in time are dropped and counted. Raises DataError for a missing series."""
        market = self._market(block.symbol)
        believed = self._believed(market, block)
        if market.guard is not None:
            market.doubts[block.token] = market.guard.state
        for part in self._sampled(market, believed):
            self._turn(lambda part=part: self._ticks(market, part))  # type: ignore[misc]

    def notice(self, notice: Notice) -> None:
        """What a feed has to say beside ticks."""
        if notice.what in ("live", "stale"):
            for market in [self.markets[notice.symbol]] if notice.symbol in self.markets else self.markets.values():
                market.state = notice.what
        self._note("notice", [*notice])
        self.flush()

    def hear(self, reports: Iterable[Report]) -> None:
        """What the broker reports by itself, or of a question that it was asked before."""
        for name, told in groupby(reports, key=lambda report: report.client_id):
            key = self.by_client.get(name)
            if key is not None:
                heard = [*told]
                if self.broker.tells_all:
                    self.jobs[key].answered(heard)
                self._hear(self.jobs[key], heard)

    def timer(self) -> None:
        """To be called often: look at what polling waited for, after requests of unknown outcome, and make the ticks so far durable."""
        now = self.clock()
        for market in self.markets.values():
            if market.waiting and self.market_clock() >= self._interval_end(int(market.waiting[-1].ts[-1])):
                part, market.waiting = _joined(market.waiting), []
                self._turn(lambda part=part, market=market: self._ticks(market, part))  # type: ignore[misc]
        for job in [job for job in self.jobs.values() if job.open and job.look_ns <= now]:
            if job.recalled or job.doubted or job.state is not State.WORKING:
                self.look_up(job)
        self.flush()

    def look_up(self, job: Job) -> None:
        """Ask the broker what became of a child; send it again if it is proven absent, take it back again if that was lost."""
        job.looked(self.clock())
        reports = self._put(self.broker.query, job.submit.client_id)
        job.answered(reports)
        self._hear(job, reports)
        if job.open and job.state is State.UNKNOWN and self.proof_ns == 0 and not job.absent:
            self._hear(
                job, self._put(self.broker.query, job.submit.client_id)
            )  # whoever answers without delay can be asked twice at once
        if job.absent and job.recalled:  # it never was, and is not wanted any more
            self._hear(job, [Report(job.submit.client_id, What.CANCELLED)])
        elif job.absent:
            market = self.markets[_symbol(job.submit.symbol)]
            self._again(job, max(self._stamp(market), market.late_until + 1), False)
            reports = self._put(self.broker.submit, job.submit)
            job.answered(reports)
            self._hear(job, reports)
        elif job.open and job.recalled and job.state is State.WORKING:
            cancel = Cancel(
                job.submit.client_id, job.submit.symbol, self.markets[_symbol(job.submit.symbol)].last_ts, False
            )
            self._hear(job, self._put(self.broker.cancel, cancel))

    def refresh(self, number: int | None = None) -> int:
        """Look every child up that is not over (of one order, or of all); returns how many."""
        jobs = [job for job in self.jobs.values() if job.open and number in (None, job.order)]
        for job in jobs:
            self.look_up(job)
        self.flush()
        return len(jobs)

    def settle(self) -> None:
        """The feed has nothing more for now: look at what polling waited for, and make everything durable."""
        for market in self.markets.values():
            if market.waiting:
                part, market.waiting = _joined(market.waiting), []
                self._turn(lambda part=part, market=market: self._ticks(market, part))  # type: ignore[misc]
        self.flush()

    def flush(self) -> None:
        """Make what was noted, and the ticks so far, durable."""
        for market in self.markets.values():
            self._note_ticks(market)
        self._commit()

    # ------------------------------------------------------------------------------------------------ looking

    def version(self, number: int) -> int:
        """How many events an order has; an action names it."""
        return int(self.rows(number)[0]["seq"][0])

    def rows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of an order: one of ORDER, and its LEGs. Raises ActionError if there is none."""
        if number in self.over:
            return self.over[number].row, self.over[number].legs
        return self._home(number)[1].state(number)

    def spec(self, number: int) -> SmartOrder:
        """What an order asks for now, after its edits."""
        return self.over[number].spec if number in self.over else self._home(number)[1].specs[number]

    def catch_up(self) -> None:
        """Bring every row up to date with the ticks."""
        for market in self.markets.values():
            for desk in market.desks.values():
                desk.catch_up()

    def _market(self, symbol: str) -> Market:
        if symbol not in self.markets:
            raise DataError(f"symbol = {short(symbol)}: this session does not know that market; open it first")
        return self.markets[symbol]

    def _home(self, number: int) -> tuple[Market, Desk]:
        if number in self.over:
            raise ActionRefused(f"order {number}: is over; place another one", "wrong_status")
        if number not in self.homes:
            raise ActionError(
                f"order {short(number)}: no such order; this session has {len(self.specs)}, counted from 0"
            )
        symbol, trigger = self.homes[number]
        return self.markets[symbol], self.markets[symbol].desks[trigger]

    # ------------------------------------------------------------------------------------------------ what comes in

    def _open_market(self, instrument: Instrument) -> Market:
        self.broker.list(instrument)
        market = self.markets[instrument.symbol] = Market(instrument, self.outlier)
        return market

    def _check(self, order: SmartOrder, market: Market) -> None:
        problems = [p for p in check(order, market.instrument) if p.level == "error"]
        if market.ticks and _SERIES[order.trigger] not in market.last:
            has = ", ".join(trigger for trigger, series in _SERIES.items() if series in market.last)
            problems.append(
                Problem("trigger", order.trigger, f"is not in this feed, which has {has}", "take one of these")
            )
        if problems:
            raise SpecError(problems)
        prices = [market.instrument.price_units(price) for _, price in absolute_prices(order)] + [*market.last.values()]
        if prices and suit(market.instrument, [order], [], min(prices), max(prices)) != market.instrument:
            raise LimitError(
                f"order of {order.symbol}: it may come to more than the engine can hold with quantities in steps of "
                f"{plain(market.instrument.quantity_increment)}; make it smaller"
            )

    def _place(self, number: int, created: int, order: SmartOrder, key: str) -> None:
        market = self.markets[order.symbol]
        self.specs[number] = order
        if key:
            self.keys[key] = number
        self.homes[number] = (order.symbol, order.trigger)
        desk = market.desks.get(order.trigger) or self._open_desk(market, order.trigger)
        known = [market.instrument.price_units(price) for _, price in absolute_prices(order)]
        desk.expect(max([*known, *market.last.values(), 0]))
        desk.add(number, order, created)
        self._drive({number: desk.tell(number, created)}, market, order.trigger)

    def _open_desk(self, market: Market, trigger: str) -> Desk:
        quotes = trigger != "last"
        desk = market.desks[trigger] = Desk(market.instrument, self.fills, self.poll_ns, quotes)
        desk.begin(market.ticks, market.last.get(_SERIES[trigger], 0))
        if quotes:
            self.broker.list(market.instrument.model_copy(update={"symbol": _key(market.instrument.symbol, trigger)}))
        return desk

    def _act(self, number: int, action: Action, after: SmartOrder | None) -> None:
        market, desk = self._home(number)
        if after is not None:
            desk.expect(max([market.instrument.price_units(price) for _, price in absolute_prices(after)], default=0))
        self._drive({number: desk.tell(number, int(action.at), action, after)}, market, self.homes[number][1])

    def _hear(self, job: Job, reports: Sequence[Report]) -> None:
        """Take in reports outside a question; if they change anything, they are an entry."""
        before = (job.state, len(job.fills))
        said = job.hear(reports, self.clock(), self.proof_ns)
        if said or (job.state, len(job.fills)) != before:
            self._note("report", [job.order, job.child, [report.brief() for report in reports]])
        if said:
            self._more += [(job, one) for one in said]
            self._turn(lambda: None)

    def _again(self, job: Job, sent: int, instant: bool) -> None:
        """A new attempt at a child that is proven absent."""
        attempt = job.attempt + 1
        name = client_id(self.journal.id, job.order, job.child, attempt)
        self._note("again", [job.order, job.child, attempt, name, sent, instant, self.clock()])
        self._commit()
        self._attempt(job, attempt, name, sent, instant, self.clock())

    def _attempt(self, job: Job, attempt: int, name: str, sent: int, instant: bool, now: int) -> None:
        job.attempt, job.submit = attempt, job.submit._replace(client_id=name, sent=sent, instant=instant)
        self.by_client[name] = (job.order, job.child)
        job.sent(now)

    # ------------------------------------------------------------------------------------------------ ticks

    def _believed(self, market: Market, block: Block) -> Block:
        """The ticks that time and the guard let through."""
        if market.token == block.token != "" and len(block.ts) == 0:
            return block
        keep = block.ts > market.last_ts if self.poll_ns else block.ts >= market.last_ts
        if market.waiting:
            keep &= block.ts >= market.waiting[-1].ts[-1]
        market.backward += int((~keep).sum())
        if market.guard is not None:
            believed = np.zeros(len(keep), bool)
            believed[keep] = market.guard.believe(block.price[keep])
            market.held_back += int((keep & ~believed).sum())
            keep = believed
        if keep.all():
            return block
        return _part(block, keep)

    def _interval_end(self, ts: int) -> int:
        return (ts // self.poll_ns + 1) * self.poll_ns

    def _sampled(self, market: Market, block: Block) -> list[Block]:
        """What can be looked at now: everything, or with polling the intervals that are over, each by itself."""
        if len(block.ts) == 0:
            return []
        if not self.poll_ns:
            return [block]
        done: list[Block] = []
        interval = block.ts // self.poll_ns
        cuts = [0, *(np.flatnonzero(np.diff(interval)) + 1).tolist(), len(interval)]
        for a, b in pairwise(cuts):
            if market.waiting and int(market.waiting[-1].ts[-1]) // self.poll_ns != interval[a]:
                done.append(_joined(market.waiting))
                market.waiting = []
            token = block.token if b == len(interval) else ""  # what still waits has to come again after a restart
            market.waiting.append(_part(block, slice(a, b))._replace(token=token))
        return done

    def _ticks(self, market: Market, block: Block, entry: int = 0) -> None:
        """The engine and the broker see ticks: nothing is left out, but only what concerns anyone costs anything."""
        self._current = market
        begin, n = market.ticks, len(block.ts)
        self.seen(market.instrument, begin, block)
        if not entry:
            market.pending.append(block)
        market.ticks, market.last_ts = begin + n, int(block.ts[-1])
        market.late_until = market.last_ts if block.late else 0
        for series in _SERIES.values():
            column = getattr(block, series)
            if column is not None:
                market.last[series] = int(column[-1])
        market.token = block.token or market.token
        for trigger, desk in market.desks.items():
            if not desk.busy:
                desk.begin(market.ticks, market.last.get(_SERIES[trigger], 0))
                continue
            if getattr(block, _SERIES[trigger]) is None:
                raise DataError(
                    f"{market.instrument.symbol}: ticks without {trigger}, which orders watch; the feed has to bring it"
                )
            self._desk_ticks(market, trigger, desk, block, begin, entry)

    def _desk_ticks(self, market: Market, trigger: str, desk: Desk, block: Block, begin: int, entry: int) -> None:
        watched = getattr(block, _SERIES[trigger])
        buy = sell = watched
        if trigger in ("bid", "ask") and block.bid is not None and block.ask is not None:
            buy, sell = block.ask, block.bid
        elif trigger == "mark" and block.price is not None:
            buy = sell = block.price
        desk.expect(int(max(watched.max(), buy.max(), sell.max())))
        for a, b in desk.pieces(len(block.ts)):
            columns = [column[a:b] for column in (block.ts, watched, buy, sell)]
            desk.extend(columns if desk.quotes else columns[:2], block.late)
            sizes = None if block.size is None else block.size[a:b]
            self._live_through(market, trigger, desk, columns, sizes, begin + a, entry)

    def _live_through(
        self,
        market: Market,
        trigger: str,
        desk: Desk,
        columns: Sequence[np.ndarray],
        sizes: np.ndarray | None,
        begin: int,
        entry: int,
    ) -> None:
        ts, watched, buy, sell = columns
        symbol, at, end = _key(market.instrument.symbol, trigger), begin, begin + len(ts)
        while at < end:
            due, children = self._next_due(symbol, columns, sizes, begin, at, entry)
            tick, orders = desk.first_wake(at, min(due + 1, end))
            at = min(tick, due)
            if at >= end:
                break
            k = at - begin
            size = None if sizes is None else float(sizes[k])
            self.broker.tick(symbol, at, int(ts[k]), int(watched[k]), int(buy[k]), int(sell[k]), size)
            told: list[tuple[int, int, bool]] = []
            if due == at:
                told = self._due(symbol, at, children)
            concerned = {*(orders if tick == at else ()), *(order for order, _, _ in told)}
            self._drive(desk.turn(at, concerned, told), market, trigger)
            desk.pass_by(at + 1)
            self._carry_out()
            at += 1
        desk.pass_by()
        k = len(ts) - 1
        self.broker.tick(
            symbol,
            end - 1,
            int(ts[k]),
            int(watched[k]),
            int(buy[k]),
            int(sell[k]),
            None if sizes is None else float(sizes[k]),
        )

    def _next_due(
        self, symbol: str, columns: Sequence[np.ndarray], sizes: np.ndarray | None, begin: int, at: int, entry: int
    ) -> tuple[int, list[tuple[int, int]]]:
        """The next tick from `at` on that means something at the broker, and for whom: (order, child), a cancel negative."""
        end = begin + len(columns[0])
        if self._past is not None:
            recorded = self._past.due.get(symbol)
            if recorded:
                return (recorded[0][1], recorded[0][2]) if recorded[0][1] < end else (end, [])
            if entry < self._past.last_ticks:
                return end, []
        k = at - begin
        n, found = self.broker.due(symbol, *(column[k:] for column in columns), None if sizes is None else sizes[k:])  # type: ignore[call-arg]
        children = []
        for name, order, _, cancels in found:
            key = self.by_client.get(name)
            if key is not None and self.jobs[key].open and self.jobs[key].since <= at + n:
                children.append((order, -key[1] if cancels else key[1]))
        if found and not children:  # what a killed session had sent later than this, at the same time
            return self._next_due(symbol, columns, sizes, begin, at + n + 1, entry) if at + n + 1 < end else (end, [])
        return at + n, children

    def _due(self, symbol: str, tick: int, children: list[tuple[int, int]]) -> list[tuple[int, int, bool]]:
        """Note whom a tick means something for at the broker, before anything is done about it; returns (order, leg, whether a cancel)."""
        if self._past is not None and self._past.due.get(symbol):
            self._past.due[symbol].popleft()
        else:
            self._wake_up()
            self._note("due", [symbol, tick, children])
            self._commit()
        told = []
        for order, child in children:
            leg = self._leg(order, abs(child))
            if leg is not None:
                told.append((order, leg, child < 0))
        return told

    def _leg(self, order: int, child: int) -> int | None:
        """Where a child that is out stands among the legs of its order."""
        if order not in self.homes:
            return None
        _, desk = self._home(order)
        return desk.leg(order, child)

    # ------------------------------------------------------------------------------------------------ one turn

    def _turn(self, work: Callable[[], None]) -> np.ndarray:
        """Something happens, and what follows from it is carried out; then it is durable, and told. Returns what happened."""
        self._happened: list[np.ndarray] = []
        before = len(self._entries)
        work()
        self._carry_out()
        if self._events or len(self._entries) > before or self._entries:
            self._commit()
        return _stacked(self._happened)

    def _carry_out(self) -> None:
        """Tell the broker what it has not been told, and the engine what was said beside an answer, until nothing is left."""
        while self._touched or self._more:
            touched, self._touched = self._touched, {}
            for (symbol, trigger), orders in touched.items():
                desk = self.markets[symbol].desks[trigger]
                questions = desk.outbox(orders)
                for question, answers in zip(questions, self._ask_all(questions, symbol, trigger), strict=True):
                    self._more += [(self.jobs[question.order, question.child], said) for said in answers]
            while self._more:
                job, said = self._more.popleft()
                leg = self._leg(job.order, job.child)
                if leg is None:
                    continue
                market, desk = self._home(job.order)
                ts = max(market.last_ts, job.submit.sent)
                self._drive({job.order: desk.hear(job.order, leg, ts, said)}, market, self.homes[job.order][1])

    def _drive(self, dialogues: Mapping[int, Dialogue], market: Market, trigger: str) -> None:
        """Let the engine ask until it is done, all orders side by side: what they ask at the same time is made durable together."""
        happened: dict[int, np.ndarray] = {}
        said: dict[int, Said | None] = dict.fromkeys(sorted(dialogues))
        while said:
            questions: list[Question] = []
            for number, answer in said.items():
                try:
                    questions.append(dialogues[number].send(answer))  # type: ignore[arg-type]
                except StopIteration as stop:
                    happened[number] = stop.value
            said = {}
            for question, answers in zip(
                questions, self._ask_all(questions, market.instrument.symbol, trigger), strict=True
            ):
                passed_by = question.ask == Ask.CANCEL and answers and answers[0][0] != Answer.CANCELLED
                # a fill that nobody had heard of is no answer to a cancel: it is news
                said[question.order] = first([] if passed_by else answers)
                self._more += [(self.jobs[question.order, question.child], more) for more in answers]
        self._book(_stacked([happened[number] for number in sorted(happened)]))
        self._touched.setdefault((market.instrument.symbol, trigger), set()).update(dialogues)

    def _ask_all(self, questions: Sequence[Question], symbol: str, trigger: str) -> list[list[Said]]:
        """What the broker says to each; what is new is made durable at once before the first is put."""
        if self._past is None and len(questions) > 1:
            now = self.clock()
            for question in questions:
                job = self.jobs.get((question.order, question.child)) or self._new_job(question, symbol, trigger)
                self._intend(question, job, now)
            self._commit()
        with self.broker.together():
            answers = [self._ask(question, symbol, trigger) for question in questions]
        self._intended.clear()
        return answers

    def _ask(self, question: Question, symbol: str, trigger: str) -> list[Said]:
        """What the broker says: by the journal if that is known there, otherwise by asking once the question is durable."""
        key = (question.order, question.child)
        job = self.jobs.get(key)
        if job is None:
            job = self._new_job(question, symbol, trigger)
        elif question.ask == Ask.CANCEL:
            job.recalled = True
        past = self._past
        if past is not None and past.said:
            data = past.said.popleft()
            if data[:4] != [question.order, question.child, int(question.ask), question.tick]:
                raise StoreError(
                    f"session {self.journal.id}: at tick {question.tick} order {question.order} now asks for {question.ask.name} of child "
                    f"{question.child}; in its journal it is {data[:4]}; go on with the version that wrote it"
                )
            self._same_intent(question, job, past.intents.pop((*key, int(question.ask)), None))
            if question.ask == Ask.SUBMIT:
                job.sent(data[5])
                answered = {report[0] for report in data[4]}
                for attempt in past.attempts.get(key, ()):  # made when an earlier start looked for the answer
                    if attempt[3] in answered:
                        self._attempt(job, *attempt[2:7])
            return job.hear([Report(*report) for report in data[4]], data[5], self.proof_ns)
        self._wake_up()
        died, attempts = self._died.pop((*key, int(question.ask)), None), self._attempts.get(key, [])
        now = self.clock()
        lost = died is not None and question.ask == Ask.SUBMIT
        reports = self._find(job, died or [], attempts) if lost else self._request(question, job, now)
        if question.ask == Ask.SUBMIT:
            job.answered(reports)
        said = job.hear(reports, self.clock(), self.proof_ns)
        self._note("said", [*key, int(question.ask), question.tick, [report.brief() for report in reports], now])
        return said

    def _new_job(self, question: Question, symbol: str, trigger: str) -> Job:
        market = self.markets[symbol]
        row = market.desks[trigger].row(question.order)
        opens = question.role in _OPENS
        submit = Submit(
            client_id(self.journal.id, question.order, question.child, 1),
            _key(symbol, trigger),
            question.order,
            question.leg,
            int(row.side) * (1 if opens else -1),
            int(row.side),
            question.quantity,
            question.limit,
            opens,
            question.role == Role.ENTRY,
            max(question.ts, market.late_until + 1 if market.late_until else 0),
            question.instant,
        )
        job = self.jobs[question.order, question.child] = Job(submit, question.child, question.tick + question.instant)
        self.by_client[submit.client_id] = (question.order, question.child)
        return job

    def _request(self, question: Question, job: Job, now: int) -> list[Report]:
        """Make a question durable, then put it to the broker."""
        if question.ask == Ask.MATCH:
            return self.broker.match(job.submit.client_id)
        if (question.order, question.child, question.ask) not in self._intended:
            self._intend(question, job, now)
            self._commit()
        if question.ask == Ask.SUBMIT:
            job.sent(now)
            return self._put(self.broker.submit, job.submit)
        return self._put(self.broker.cancel, self._cancel(question, job))

    def _intend(self, question: Question, job: Job, now: int) -> None:
        """Note what is about to be asked of the broker."""
        if question.ask == Ask.MATCH:
            return
        request = job.submit if question.ask == Ask.SUBMIT else self._cancel(question, job)
        self._note("intent", [question.order, question.child, int(question.ask), question.tick, [*request], now])
        self._intended.add((question.order, question.child, question.ask))

    def _cancel(self, question: Question, job: Job) -> Cancel:
        return Cancel(job.submit.client_id, job.submit.symbol, question.ts, question.instant)

    def _put(self, ask: Callable[[Any], list[Report]], request: Any) -> list[Report]:
        """Put a request to the broker. Where it raises instead of answering, nobody knows what became of it."""
        try:
            return ask(request)
        except StoreError:
            raise
        except Exception as error:
            self._note("notice", ["", "error", f"the broker: {type(error).__name__}: {short(str(error))}", 0])
            return []

    def _find(self, job: Job, died: list[Any], attempts: list[list[Any]]) -> list[Report]:
        """What became of a child whose intent is in the journal and whose answer is not: looked up, and sent again if it never was."""
        self._same_intent(None, job, died)
        for attempt in attempts:
            self._attempt(job, *attempt[2:7])
        job.sent(self.clock())  # from now: the clock may have been set while nobody was here
        reports = self._put(self.broker.query, job.submit.client_id)
        for _ in range(1 if self.proof_ns else 2):
            if not any(report.what == What.ABSENT for report in reports):
                return reports
            job.hear(reports, self.clock(), self.proof_ns)
            if not job.absent:
                reports = self._put(self.broker.query, job.submit.client_id)
        if not job.absent:
            return [Report(job.submit.client_id, What.UNKNOWN)]
        passed = self.market_clock() > job.submit.sent  # where only ticks tell the time, it stood still
        self._again(job, max(job.submit.sent, self.market_clock()), job.submit.instant and not passed)
        return self._put(self.broker.submit, job.submit)

    def _same_intent(self, question: Question | None, job: Job, intent: list[Any] | None) -> None:
        if (
            intent is not None
            and intent[2] == Ask.SUBMIT
            and (question is None or question.ask == Ask.SUBMIT)
            and [*job.submit] != intent[4]
        ):
            raise StoreError(
                f"session {self.journal.id}: order {job.order} now sends {[*job.submit]}; in its journal it is {intent[4]}; "
                "go on with the version that wrote it"
            )

    # ------------------------------------------------------------------------------------------------ the journal

    def _note(self, kind: str, data: Any) -> None:
        """Write something down; it is durable with the next commit."""
        if self._past is not None:
            return
        for market in sorted(self.markets.values(), key=lambda one: one is self._current):  # the one in progress last
            self._note_ticks(market)
        self._entries.append((kind, json.dumps(data, separators=(",", ":")).encode()))

    def _note_ticks(self, market: Market) -> None:
        if market.pending:
            for block in market.pending if self.poll_ns else _merged(market.pending):
                while block.token in market.doubts:  # what the guard held against the prints up to here
                    market.doubt = market.doubts.pop(next(iter(market.doubts)))
                self._entries.append(("ticks", pack_ticks(block, market.doubt)))
            market.pending = []

    def _book(self, events: np.ndarray) -> None:
        """Events that happened; those in the journal must be the same."""
        if not len(events):
            return
        past = self._past
        if past is not None:
            known = past.events[past.at : past.at + len(events)]
            past.at += len(known)
            if known.tobytes() != events[: len(known)].tobytes():
                raise StoreError(f"session {self.journal.id}: {_difference(known, events[: len(known)])}")
            events = events[len(known) :]
        if len(events):
            self._events.append(events)
            self._happened.append(events)

    def _commit(self) -> None:
        if self._past is not None:
            return
        if self._events:  # never before the ticks that they came with, also where a report has waited for this
            for market in self.markets.values():
                self._note_ticks(market)
        if not self._entries and not self._events:
            return
        entries, events = self._entries, _stacked(self._events)
        self._entries, self._events = [], []
        self.journal.append(entries or [("notice", b'["","turn","",0]')], events if len(events) else None)
        if len(events):
            self.told(self.journal.changes - len(events) + 1, events)

    # ------------------------------------------------------------------------------------------------ resuming

    def resume(self) -> None:
        """Come to where the session stopped, whatever stopped it: every session begins so, also a new one.

        Raises StoreError where the journal does not lead to what it says came of it.
        """
        if self.relive():
            self._note("notice", ["", "resumed", f"after entry {self.journal.last}", 0])
        now = self.clock()
        for (
            job
        ) in self.jobs.values():  # the clock may have been set while nobody was here: what was waited does not count
            if job.open:
                job.sent_ns, job.look_ns, job.misses = now, now, 0
                self.broker.know(job.submit, job.venue_id, job.fills)
        for market in self.markets.values():
            if (
                market.guard is not None and self.poll_ns and market.ticks
            ):  # ticks beyond the last token are here already
                market.guard.state = (market.last["price"], 0, 0)
        self._carry_out()
        self.flush()
        self.refresh()

    def relive(self) -> bool:
        """Live through what the journal holds, from the snapshot that it gives; returns whether it holds anything. The broker is asked only
        what the journal's end leaves open. Raises StoreError as `resume` does."""
        seq, body, entries = self.journal.load()
        changes = 0
        if body is not None:
            changes = self._thaw(body)
            for number, over in self.journal.finished(seq):
                self._put_away(number, *unpack_state(over))
        self.covered = seq
        events = self.journal.events(changes)
        bare = np.zeros(len(events), EVENT)
        for name in EVENT.names or ():
            bare[name] = events[name]
        self._past, self._happened = _Past(entries, bare), []
        for number, kind, data in entries:
            self._relive(number, kind, data)
        past, self._past = self._past, None
        if past is not None and (past.said or past.at < len(past.events)):
            raise StoreError(
                f"session {self.journal.id}: its journal holds {len(past.said)} answers and {len(past.events) - past.at} events that "
                "do not come about when it is lived through again; go on with the version that wrote it"
            )
        return bool(entries) or body is not None

    def _wake_up(self) -> None:
        """Here the session died: from now on things happen for the first time."""
        past = self._past
        if past is None:
            return
        if past.said or any(past.due.values()) or past.at < len(past.events):
            raise StoreError(
                f"session {self.journal.id}: its journal goes on after a question that it does not answer; "
                "go on with the version that wrote it"
            )
        self._past, self._died, self._attempts = None, past.intents, past.attempts

    def _relive(self, seq: int, kind: str, body: bytes) -> None:
        """One entry of the journal, once more."""
        self._here = seq
        if kind == "ticks":
            block = unpack_ticks(body)
            market = self.markets[block.symbol]
            doubt = json.loads(body.partition(b"\n")[0])[5]
            if market.guard is not None and doubt is not None:
                market.guard.state = market.doubt = tuple(doubt)
            self._again_turn(lambda: self._ticks(market, block, seq))
            return
        data = json.loads(body)
        if kind == "market":
            self._open_market(Instrument(**data))
        elif kind == "place":
            self._again_turn(lambda: self._place(data[0], data[1], SmartOrder.from_json(data[2]), data[3]))
        elif kind == "action":
            with living_order():
                after = None if data[3] is None else SmartOrder.from_json(data[3])
            self._again_turn(lambda: self._act(data[0], Action(**data[2]), after))
        elif kind == "report":
            job = self.jobs[data[0], data[1]]
            said = job.hear([Report(*report) for report in data[2]], self.clock(), self.proof_ns)
            self._more += [(job, one) for one in said]
            self._again_turn(lambda: None)
        elif kind == "again":
            job = self.jobs[data[0], data[1]]
            if job.attempt < data[2]:
                self._attempt(job, *data[2:7])
        elif kind == "notice" and data[1] in ("live", "stale"):
            for market in [self.markets[data[0]]] if data[0] in self.markets else self.markets.values():
                market.state = data[1]

    def _again_turn(self, work: Callable[[], None]) -> None:
        work()
        self._carry_out()

    # ------------------------------------------------------------------------------------------------ snapshots

    def snapshot(self) -> None:
        """Keep the state, so that the next start need not live through what was before; orders that are over are put away."""
        self.flush()
        self.catch_up()
        done = []
        for number, (symbol, trigger) in [*self.homes.items()]:
            desk = self.markets[symbol].desks[trigger]
            if not desk.living(number):
                row, legs = desk.state(number)
                done.append((number, pack_state({"spec": desk.specs[number].to_json()}, row=row, legs=legs)))
                self._put_away(number, {"spec": desk.specs[number].to_json()}, {"row": row, "legs": legs})
        for market in self.markets.values():
            for desk in market.desks.values():
                desk.remove(number for number, _ in done if number in desk.slots)
        self.jobs = {key: job for key, job in self.jobs.items() if job.open or key[0] in self.homes}
        self.by_client = {name: key for name, key in self.by_client.items() if key in self.jobs}
        self.journal.snapshot(self._freeze(), done)
        self.covered, before = self.journal.last, self.covered
        self._before = before

    def compact(self) -> None:
        """Snapshot, and let go of the journal that the snapshot before it covers."""
        before = self.covered
        self.snapshot()
        if before:
            self.journal.compact(before)

    def _put_away(self, number: int, head: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        with living_order():
            spec = SmartOrder.from_json(head["spec"])
        self.over[number] = Over(spec, arrays["row"], arrays["legs"])
        self.homes.pop(number, None)

    def _freeze(self) -> bytes:
        head: dict[str, Any] = {
            "changes": self.journal.changes,
            "specs": {number: order.to_json() for number, order in self.specs.items()},
            "keys": self.keys,
            "jobs": [job.to_json() for job in self.jobs.values()],
            "markets": [],
        }
        arrays: dict[str, np.ndarray] = {}
        for m, market in enumerate(self.markets.values()):
            desks = []
            for trigger, desk in market.desks.items():
                orders = list(desk.slots)
                rows = [desk.state(number) for number in orders]
                arrays[f"rows{m}{trigger}"] = np.concatenate([row for row, _ in rows]) if rows else np.zeros(0, ORDER)
                arrays[f"legs{m}{trigger}"] = np.concatenate([legs for _, legs in rows]) if rows else np.zeros(0, LEG)
                counts = [len(legs) for _, legs in rows]
                specs = [desk.specs[number].to_json() for number in orders]
                desks.append([trigger, orders, counts, specs, desk.highest, desk.last_price])
            head["markets"].append(
                {
                    "instrument": market.instrument.model_dump(mode="json"),
                    "desks": desks,
                    **{name: getattr(market, name) for name in _MARKET},
                    "guard": market.doubt,
                }
            )
        return pack_state(head, **arrays)

    def _thaw(self, body: bytes) -> int:
        """Take over the state of a snapshot; returns the number of the last event before it."""
        head, arrays = unpack_state(body)
        self.specs = {int(number): SmartOrder.from_json(text) for number, text in head["specs"].items()}
        self.keys = head["keys"]
        for m, data in enumerate(head["markets"]):
            market = self._open_market(Instrument(**data["instrument"]))
            for name in _MARKET:
                setattr(market, name, data[name])
            if market.guard is not None and data["guard"] is not None:
                market.guard.state = market.doubt = tuple(data["guard"])
            for trigger, orders, counts, specs, highest, last in data["desks"]:
                desk = self._open_desk(market, trigger)
                desk.highest = 0
                desk.expect(-(-highest // HEADROOM))
                desk.begin(market.ticks, last)
                rows, legs, begin = arrays[f"rows{m}{trigger}"], arrays[f"legs{m}{trigger}"], 0
                for k, (number, count, text) in enumerate(zip(orders, counts, specs, strict=True)):
                    with living_order():
                        spec = SmartOrder.from_json(text)
                    desk.adopt(number, spec, rows[k : k + 1], legs[begin : begin + count])
                    self.homes[number] = (market.instrument.symbol, trigger)
                    begin += count
        for data in head["jobs"]:
            job = Job.from_json(data)
            self.jobs[job.order, job.child] = job
            self.by_client[job.submit.client_id] = (job.order, job.child)
        return int(head["changes"])

    def _stamp(self, market: Market) -> int:
        """The time of something that happens between the last tick and the next."""
        return max(market.last_ts + 1, self.market_clock())


_MARKET = ("ticks", "last_ts", "last", "token", "held_back", "backward", "late_until", "state")
"""What is kept of a market as it is."""


# ---------------------------------------------------------------------------------------------------- names and blocks


def _key(symbol: str, trigger: str) -> str:
    """A market as the broker knows it: where what is watched is not what is traded, it is one of its own."""
    return symbol if trigger == "last" else f"{symbol}@{trigger}"


def _symbol(key: str) -> str:
    return key.partition("@")[0]


def _part(block: Block, which: Any) -> Block:
    """Some of the ticks of a block."""
    columns: dict[str, Any] = {n: getattr(block, n)[which] for n in COLUMNS if getattr(block, n) is not None}
    return block._replace(ts=block.ts[which], **columns)


def _joined(blocks: Sequence[Block]) -> Block:
    """Blocks with the same columns as one."""
    if len(blocks) == 1:
        return blocks[0]
    columns: dict[str, Any] = {
        n: np.concatenate([getattr(b, n) for b in blocks])
        for n in ("ts", *COLUMNS)
        if getattr(blocks[0], n) is not None
    }
    return blocks[-1]._replace(**columns)


def _merged(blocks: Sequence[Block]) -> list[Block]:
    """Neighbours of the same kind joined, so that the journal has few entries."""
    runs: list[list[Block]] = []
    before, ticks = None, 0
    for block in blocks:
        kind = [block.late, *(getattr(block, name) is None for name in COLUMNS)]
        ticks += len(block.ts)
        if kind == before and ticks <= KEPT // 2:
            runs[-1].append(block)
        else:
            runs.append([block])
            before, ticks = kind, len(block.ts)
    return [_joined(run) for run in runs]


def _stacked(events: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(events) if events else np.zeros(0, EVENT)


def _difference(known: np.ndarray, now: np.ndarray) -> str:
    """The first event that does not come out as it is recorded."""
    for a, b in zip(known, now, strict=False):
        if a.tobytes() != b.tobytes():
            names = [name for name in EVENT.names or () if a[name] != b[name]]
            was, became = ({name: int(x[name]) for name in names} for x in (a, b))
            return (
                f"event {int(a['seq'])} of order {int(a['order'])} at tick {int(a['tick'])} is recorded with {was}, "
                f"lived through again it has {became}; go on with the version that wrote it"
            )
    return f"{len(known)} events are recorded where {len(now)} come about"
