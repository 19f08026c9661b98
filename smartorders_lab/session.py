"""Session: smart orders on ticks that come in now, managed while they live, each change durable.

    with so.paper("binance", store="lab.duckdb") as session:
        oid = session.place(order)
        session.edit(oid, stop_loss=96)
        session.orders()

A session has a thread and an event loop of its own, in which everything happens one thing after another (`book`); the calls here wait
for it. A cell that sleeps or computes delays no stop for longer than Python takes to switch threads. Listeners are called on another
thread, so one that is slow delays nothing either.

To start is to resume: what the journal says is lived through, what was under way is looked up at the broker, what was missed is fetched
by the feed, and only then do orders trade again. A session that is killed at any moment goes on with the same call, under the same name.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import json
import logging
import os
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, cast, runtime_checkable

import numpy as np

from .book import FORMAT, Book
from .errors import ActionError, DataError, ExchangeError, SmartOrdersError, SpecError, StoreError, short
from .execution import State
from .fields import plain
from .fills import FillModel
from .instrument import Instrument
from .messages import Block, Notice, Report
from .outliers import Guard
from .recorder import Recorder
from .rows import EVENT, Status
from .spec import SmartOrder
from .times import duration_ns, duration_text, instant_text

if TYPE_CHECKING:
    import polars as pl

    from .brokers.accounts import Account, Orphan
    from .run import Run
    from .story import Moment

TIMER_S = 0.25
"""How often ticks are made durable and requests of unknown outcome looked after."""
SNAPSHOT_ENTRIES = 20_000
"""Entries of the journal after which a snapshot is taken and older ones are let go."""
ACCOUNT_S = 30.0
"""How long the account is asked for again where the exchange does not answer."""
RECENT = 50_000
"""Ticks of each symbol that a session remembers for whoever draws them; the recorder keeps all."""
_SWITCH_S = 0.001
"""While a session runs, how long Python lets a busy thread run before another has its turn; 5 ms otherwise."""
LOOKS, LOOK_S = 3, 0.5
"""Times that coins have to be missing before they count as gone, and the shortest time between two of these looks."""
MODES = {"paper": "paper", "live": "LIVE, real money", "dry": "dry run, nothing is sent"}
"""How a mode is written."""
_FAREWELL_S = 5.0
"""How long a session that is closed waits for its listeners."""

log = logging.getLogger(__name__)


class Feed(Protocol):
    """Where ticks come from; see feeds/live.py and feeds/recorded.py.

    Networks are its own business: whatever it raises in `next` is taken for a mistake in a program, and stops the session.
    """

    name: str

    async def open(self) -> None:
        """Get ready."""

    def instrument(self, symbol: str) -> Instrument:
        """The market of a symbol."""

    async def start(self, symbol: str, triggers: frozenset[str] = ..., token: str = "") -> None:
        """Begin with a symbol, after what `token` names; without a token with what comes next."""

    async def stop(self, symbol: str) -> None:
        """End with a symbol; the last that comes of it is a Notice `stopped`."""

    async def next(self) -> Block | Notice | None:
        """What comes next; None once it is closed."""

    async def close(self) -> None:
        """The end."""


@runtime_checkable
class Remotely(Protocol):
    """A broker whose exchange is elsewhere, and that works beside the session; see brokers/live.py."""

    guard: Any
    patience_s: float

    async def open(self) -> None:
        """Get ready."""

    def begin(self, spawn: Callable[[Coroutine[Any, Any, None]], Any], hear: Callable[[list[Report]], None]) -> None:
        """Where its work runs, and who hears of it."""

    def resumes(self, book: Book) -> None:
        """A book is about to resume."""

    def settled(self, book: Book) -> None:
        """It is known what became of everything."""

    async def end(self) -> None:
        """The end."""


def paper(
    exchange: str | None = None,
    *,
    feed: Feed | None = None,
    store: Any = None,
    name: str = "",
    fills: FillModel | Mapping[str, Any] | None = None,
    balances: Mapping[str, Any] | None = None,
    poll_interval: Any = None,
    outlier: Any = "unset",
    keep_ticks: Any = None,
    **options: Any,
) -> Session:
    """A session on paper: live ticks of an `exchange`, or those of a `feed`, filled by the simulated venue of replay.

    `store`: the DuckDB file in which it is kept, None: nowhere. `name`: the session of that name is resumed if it is there. `fills`: what
    is assumed of the venue; `balances`: an account that orders are paid from (`{"USDT": 1000}`), None: no limit. `poll_interval`: look
    only at the last price of each interval. `outlier`: the guard against outlier prints, None: believe everything (5 % on a live feed, None
    on a recorded one unless given). `keep_ticks`: a folder for the ticks that it sees (see recorder.py). `options` go to the live feed
    (see LiveFeed). Raises SmartOrdersError.
    """
    from .brokers.paper import PaperBroker

    if (exchange is None) == (feed is None):
        raise SpecError.one(
            "exchange", exchange, "give either an exchange or a feed", 'paper("binance") or paper(feed=recorded(ticks))'
        )
    if feed is None:
        from .feeds.live import LiveFeed

        feed = LiveFeed(str(exchange), **options)
    elif options:
        raise SpecError.one(
            next(iter(options)), options, "is an option of a live feed", "leave it out, or set it on the feed"
        )
    live = getattr(feed, "real_time", True)
    outlier_is_open = isinstance(outlier, str) and outlier == "unset"
    if outlier_is_open:
        outlier = "5%" if live else None
    model = None if fills is None else fills if isinstance(fills, FillModel) else FillModel(**fills)
    try:
        poll = 0 if poll_interval in (None, 0) else duration_ns(poll_interval)
    except ValueError as error:
        raise SpecError.one("poll_interval", poll_interval, str(error), "write 500ms") from None
    meta = {
        "format": FORMAT,
        "mode": "paper",
        "exchange": feed.name,
        "fills": (model or FillModel()).to_dict(),
        "poll_ns": poll,
        "outlier": None if outlier is None else Guard(outlier).text,
        "balances": None if balances is None else {str(k): str(v) for k, v in balances.items()},
    }
    if hasattr(feed, "describe"):
        meta["ticks"] = feed.describe()
    given = {"fills": model, "poll_ns": poll_interval, "balances": balances, "outlier": None if outlier_is_open else ""}
    asked = {"exchange", "ticks"} | {key for key, value in given.items() if value is not None}
    name = name or f"paper {feed.name}"
    journal, opened = _journal(store, name, meta, asked)
    try:
        meta = journal.meta
        ledger = None if opened is None else Path(f"{opened.path}.{journal.id}.paper")
        broker = PaperBroker(ledger, FillModel(**meta["fills"]), meta["balances"])
    except BaseException:
        if opened is not None:
            opened.close()
        raise
    return Session(journal, broker, feed, opened, None if keep_ticks is None else Recorder(keep_ticks))


def _journal(store: Any, name: str, meta: dict[str, Any], asked: set[str]) -> tuple[Any, Any]:
    """The journal of the session of this name, begun if it is not there, and the store that it is in."""
    from .journal import Journal, MemoryJournal

    if store is None:
        return MemoryJournal(meta, name), None
    from .store import Store

    if isinstance(store, Store):
        raise SpecError.one("store", store.path, "a session owns its store", "give the path, and close the Store first")
    _make_way(Path(store))
    opened = Store(store)
    try:
        names = opened.sessions()
        if name not in names["name"].to_list():
            return Journal.create(opened, meta, name), opened
        journal = Journal.open(opened, name)
        for key in sorted(asked & meta.keys()):
            was, now = journal.meta.get(key), json.loads(json.dumps(meta[key]))
            if key == "ticks" and was is not None:  # other symbols may come and go
                was, now = ({s: x for s, x in one.items() if s in was.keys() & now.keys()} for one in (was, now))
            if was != now:
                word, shown = _SETTINGS.get(key, (key, short))
                raise StoreError(
                    f"{opened.path}: session {name!r} was begun with {word} = {shown(was)}, not {shown(now)}; "
                    "give what it was begun with to go on, or take another name"
                )
        return journal, opened
    except BaseException:
        opened.close()
        raise


def _make_way(path: Path) -> None:
    """Close a session of this process on that store that has stopped by itself. Raises StoreError if one is running."""
    for session in [*_OPEN]:
        if session.store is None or session.store.path.resolve() != path.resolve():
            continue
        if session.status != "stopped":
            raise StoreError(
                f"{path}: session {session.name!r} of this process (pid {os.getpid()}) is open on it; go on with that one, or end it "
                "first with its close() (smartorders_lab.session.close_all() ends all of this process)"
            )
        session.close()


_SETTINGS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "poll_ns": ("poll_interval", lambda ns: duration_text(ns) if ns else "None"),
    "ticks": ("other ticks", lambda ticks: ", ".join(f"{symbol} {digest[:8]}" for symbol, digest in ticks.items())),
}
"""Settings whose names in the journal are not those of `paper`, and how they are shown."""


class Session:
    """Orders that live. Made by `paper(...)`; a context manager. Calls may come from any thread."""

    def __init__(self, journal: Any, broker: Any, feed: Feed, store: Any = None, recorder: Recorder | None = None):
        self.journal, self.broker, self.feed, self.store, self.recorder = journal, broker, feed, store, recorder
        self.id: str = journal.id
        self.name: str = journal.name
        self.mode: str = journal.meta.get("mode", "paper")
        self.error: BaseException | None = None
        self.book: Book
        self._live = getattr(feed, "real_time", True)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._listeners: dict[int, tuple[int, Callable[[list[dict[str, Any]]], None]]] = {}
        self._numbers = itertools.count()
        self._ready, self._idle, self._over = threading.Event(), threading.Event(), threading.Event()
        self._calls: set[Future[Any]] = set()
        self._calling = threading.Lock()
        self._refuses = self._closing = False
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._status = "starting"
        self._watched: dict[str, frozenset[str]] = {}
        self._watching: asyncio.Lock
        self._stopped_lines: dict[str, asyncio.Event] = {}
        self._memory: dict[str, _Memory] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._left = False
        self._thread = threading.Thread(target=self._run, name=f"session {self.id}", daemon=True)
        self._teller = threading.Thread(target=self._tell, name=f"session {self.id} listeners", daemon=True)
        try:
            self._thread.start()
            self._teller.start()
            self._ready.wait()
            if self.error is not None:
                raise self.error
        except BaseException:
            self.close()
            raise
        _OPEN.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        many = len(self.book.specs)
        return f"Session({self.name!r}, {self.mode}, {self.status}, {many} {'order' if many == 1 else 'orders'})"

    def _repr_html_(self) -> str:
        from .listings import picture

        state = self.last_state()
        prices = [
            f"{symbol} {market.get('price') or market.get('mark') or market.get('bid') or '–'}"
            for symbol, market in state["symbols"].items()
        ]
        mode = MODES.get(self.mode, self.mode)
        return picture(" · ".join([f"Session {self.name}", mode, state["status"], *prices]), state["orders"])

    # ------------------------------------------------------------------------------------------------ orders

    def place(self, order: SmartOrder, key: str = "") -> int:
        """A new order; returns its number. It is durable on return. The same order under the same `key` is placed once only.

        Raises SpecError for what the market does not admit, DataError for a market or price that the feed does not have.
        """
        if not isinstance(order, SmartOrder):
            raise SpecError.one("order", order, "is not a SmartOrder", "build it with SmartOrder(...)")
        return int(self._call(self._place(order, key))[0])

    def edit(self, oid: int, version: int | None = None, force: bool = False, **changes: Any) -> int:
        """Change fields of a living order (`stop_loss=96`); returns its new version. Raises ActionRefused, StaleVersion, SpecError.

        `version`: number of events of the order when this was decided. `force`: also what would trigger at once.
        """
        return self._act(oid, "edit", version, force, changes=changes)

    def add_funds(
        self, oid: int, quantity: Any = None, cost: Any = None, price: Any = None, version: int | None = None
    ) -> int:
        """Buy more, by quantity or cost, at market or with a limit at `price`."""
        return self._act(oid, "add_funds", version, quantity=quantity, cost=cost, price=price)

    def reduce_funds(self, oid: int, quantity: Any, price: Any = None, version: int | None = None) -> int:
        """Sell some."""
        return self._act(oid, "reduce_funds", version, quantity=quantity, price=price)

    def take_profit(self, oid: int, level: int, version: int | None = None) -> int:
        """Sell now what level `level` (1 is TP1) would sell, as if its price had been reached."""
        return self._act(oid, "take_profit", version, level=level)

    def open_now(self, oid: int, version: int | None = None) -> int:
        """Stop waiting, and enter at market."""
        return self._act(oid, "open_now", version)

    def close_at_market(self, oid: int, version: int | None = None) -> int:
        """Sell everything now."""
        return self._act(oid, "close_at_market", version)

    def cancel(self, oid: int, version: int | None = None) -> int:
        """Stop managing; what is held stays. Whoever calls this has made sure that it is meant."""
        return self._act(oid, "cancel", version)

    def refresh(self, oid: int | None = None) -> int:
        """Look up at the broker what is under way, of one order or all; returns how many child orders that were.

        With money also what the account holds: if it lacks what orders hold, nothing is sent any more until `release`.
        """
        many = int(self._do(lambda: self.book.refresh(None if oid is None else _number(oid))))
        if self.mode == "live":
            self._call(self._accounted())
        return many

    def account(self) -> dict[str, Any]:
        """What the exchange says of the account: `balances` (free and total of each currency, as text), `held` (what living orders hold of
        each coin), `differences` (in words), `orphans`. Raises ActionError on paper, ExchangeError if it does not answer."""
        account: Account = self._call(self._looked())
        return {
            "balances": {coin: [plain(free), plain(total)] for coin, (free, total) in account.balances.items()},
            "held": {coin: plain(amount) for coin, amount in account.held.items()},
            "differences": account.differences,
            "orphans": [orphan._asdict() for orphan in account.orphans],
        }

    def orphans(self, cancel: bool = False) -> list[dict[str, Any]]:
        """Open orders at the exchange that bear an id as ours are and that no order here owns: symbol, client_id, id, `ours` (the id is one
        of this session). `cancel`: those that are ours are cancelled, and have `cancelled`. Raises as `account`."""
        found: list[Orphan] = self._call(self._looked()).orphans
        told = []
        for orphan in found:
            more = {"cancelled": self._call(self._cancelled(orphan))} if cancel and orphan.ours else {}
            told.append({**orphan._asdict(), **more})
        return told

    def halt(self, why: str = "halted") -> list[dict[str, Any]]:
        """Send nothing to the exchange any more, until `release`; returns the orders that still live. Raises ActionError on paper."""
        if not isinstance(self.broker, Remotely):
            raise ActionError("halt(): this session is on paper; close() ends it")
        self.broker.guard.halt(why)  # first, and on this thread: a switch does not wait its turn
        self._events.put([])
        return [
            order for order in self.state()["orders"] if order["status"] in ("PENDING", "ACTIVE", "PARTIALLY_CLOSED")
        ]

    def release(self) -> None:
        """Send to the exchange again."""
        if isinstance(self.broker, Remotely):
            self.broker.guard.release()
            self._events.put([])

    def share(self, oid: int) -> str:
        """The order as a link: what it asks for, no account, no secret.

        Raises ActionError for an order whose edits make sense only for what it holds: as a new order it would be refused.
        """
        number = _number(oid)
        spec: SmartOrder = self._do(lambda: self.book.spec(number))
        link = spec.share_link()
        try:
            SmartOrder.from_link(link)
        except SpecError as error:
            raise ActionError(
                f"order {number}: cannot be shared as it stands, for a new order is refused so ({'; '.join(map(str, error.problems))}); "
                f"share what it was placed as: so.Fork(session, {number}).editor.link"
            ) from None
        return link

    def _act(self, oid: int, kind: str, version: int | None, force: bool = False, **details: Any) -> int:
        async def acted() -> int:
            rests = getattr(self.broker, "rests", None)
            if rests is None:
                return self.book.act(number, kind, version, force, **details)
            # an order that is over could not be told what was sold while it was taken back
            clears = kind == "cancel" and version in (None, self.book.version(number))
            async with rests.cleared(number) if clears else contextlib.nullcontext():
                after = self.book.act(number, kind, version, force, **details)
            rests.wake()
            return after

        number = _number(oid)
        return int(self._call(acted()))

    async def _place(self, order: SmartOrder, key: str) -> tuple[int, int]:
        """Number and version of a new order."""
        if not (key and key in self.book.keys):
            instrument = self.feed.instrument(order.symbol)
            self.book._check(order, self.book.open_market(instrument))
            await self._watch(
                order.symbol, {order.trigger}
            )  # first: an order that nobody watches must not be in the journal
        number = self.book.place(order, key)
        return number, self.book.version(number)

    async def _watch(self, symbol: str, triggers: set[str]) -> None:
        """Have the feed bring what these triggers need, from where the book is."""
        async with self._watching:
            watched = self._watched.get(symbol, frozenset())
            if triggers <= watched:
                return
            market = self.book.markets[symbol]
            if watched and self._live:  # it begins anew where what has arrived ends
                over = self._stopped_lines[symbol] = asyncio.Event()
                await self.feed.stop(symbol)
                await over.wait()
            busy = any(desk.busy for desk in market.desks.values())
            if self._live and not watched:
                market.state = "stale"  # until the feed says otherwise
            was_idle = self._idle.is_set()
            self._idle.clear()
            token = market.token if busy or watched or not self._live else ""
            try:
                await self.feed.start(symbol, watched | triggers, token)
            except BaseException:
                if watched and self._live:
                    await self.feed.start(symbol, watched, market.token)
                if was_idle:
                    self._idle.set()
                raise
            self._watched[symbol] = watched | triggers

    # ------------------------------------------------------------------------------------------------ looking

    @property
    def status(self) -> str:
        """`starting`, `live`, `stale` (no ticks come, so nothing can trigger), `ended` (so is the feed) or `stopped`."""
        if self._status == "live" and any(self.book.markets[symbol].state == "stale" for symbol in [*self._watched]):
            return "stale"
        return self._status

    def orders(self) -> pl.DataFrame:
        """All orders, one row each."""
        from .listings import ORDERS, table

        return table(self.state()["orders"], ORDERS)

    def order(self, oid: int) -> dict[str, Any]:
        """One order as it stands, as plain data."""
        return self._worded(*self._do(lambda: self._rows(_number(oid))))

    def events(self, oid: int | None = None) -> pl.DataFrame:
        """What happened, of one order or of all, as in `Run.events`."""
        import polars as pl

        from .run import _events_frame

        rows = self.journal.events(order=None if oid is None else _number(oid))
        frames = []
        for symbol in sorted({self.book.specs[int(n)].symbol for n in np.unique(rows["order"])}):
            mine = [n for n, spec in self.book.specs.items() if spec.symbol == symbol]
            part = rows[np.isin(rows["order"], mine)]
            frames.append(
                _events_frame(part, self.book.markets[symbol].instrument).with_columns(pl.Series("n", part["n"]))
            )
        if not frames:
            return _events_frame(rows, Instrument())
        return pl.concat(frames).sort("n").drop("n")

    def state(self, orders: Iterable[int] | None = None) -> dict[str, Any]:
        """Everything as it stands after the last change, as plain data: `seq`, `session`, `mode`, `status`, `symbols`, `orders`.

        `orders`: only these, which costs the less the fewer they are; none of them for prices and status alone.
        """
        wanted = None if orders is None else [_number(oid) for oid in orders]
        head, rows = self._do(lambda: self._state(wanted))
        described = [self._worded(*row) for row in rows]  # here, not on the session's time
        return {**head, "orders": described}

    def last_state(self) -> dict[str, Any]:
        """As `state()`, also of a session that has stopped: how it stood then. Nothing watches its orders any more."""
        if not self._over.is_set():
            with contextlib.suppress(StoreError):  # it stops this very moment
                return self.state()
        self._thread.join()
        head, rows = self._state(None)
        return {**head, "orders": [self._worded(*row) for row in rows]}

    def last_changes(self, order: int) -> list[dict[str, Any]]:
        """As `changes(limit=None, order=order)`, also of a session that has stopped: its store is read. Raises StoreError."""
        try:
            return self.changes(limit=None, order=order)
        except StoreError:
            if self.store is None:
                raise
        from .journal import Journal
        from .store import Store

        with Store(self.store.path, read_only=True) as store:
            return [self._change(row) for row in Journal.open(store, self.id).events(order=_number(order))]

    def recent(self, symbol: str, since: int = 0, trigger: str = "last") -> Recent:
        """The last ticks of a symbol that the orders saw, RECENT at most: those from number `since` on, as they count for `trigger`.

        Asking costs the session nothing. Raises DataError for a symbol or a trigger that it has no ticks of.
        """
        memory = self._memory.get(symbol)
        instrument = self.book.markets[symbol].instrument if symbol in self.book.markets else None
        if instrument is None:
            raise DataError(f"symbol = {short(symbol)}: this session has no such market; place an order of it first")
        if memory is None:
            return Recent(0, np.zeros(0, np.int64), np.zeros(0))
        first, ts, units = memory.read(since, {"last": "price"}.get(trigger, trigger))
        if units is None:
            raise DataError(f"trigger = {short(trigger)}: the ticks of {symbol} do not have it; take last")
        return Recent(first, ts, instrument.prices(units))

    def changes(self, since: int = 0, limit: int | None = 1000, order: int | None = None) -> list[dict[str, Any]]:
        """What happened after change number `since`, in order, as plain data: the first `limit` changes, of one order or of all."""
        number = None if order is None else _number(order)
        return [self._change(row) for row in self.journal.events(since, order=number, limit=limit)]

    def on_event(self, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call `callback` with each change from now on, once it is durable; returns what ends it. It is called on a thread of its own."""

        def each(changes: list[dict[str, Any]]) -> None:
            for change in changes:
                callback(change)

        return self.on_change(each)

    def on_change(self, callback: Callable[[list[dict[str, Any]]], None]) -> Callable[[], None]:
        """As `on_event`, with all changes of one commit at once, and with none when only the status has changed."""
        number = next(self._numbers)
        self._listeners[number] = (self.journal.changes, callback)

        def end() -> None:
            self._listeners.pop(number, None)

        return end

    def run(self) -> Run:
        """The session so far as a `Run`, one symbol at a time: frames, summary, charts. Raises ActionError if it has several symbols.

        It has the ticks that the session still knows, and what was done to its orders.
        """
        from .story import Story

        run, until = self._do(self._run_so_far)
        story = Story(self, until.instrument.symbol, until=until)
        run.meta["actions"] = [action.to_dict() for action in story.actions]
        with contextlib.suppress(DataError):  # none has come yet
            run.meta["first_tick"], run.ticks = story.ticks()
            run.meta["data_hash"] = run.ticks.data_hash
        return run

    def _run_so_far(self) -> tuple[Run, Moment]:
        from .run import Run, frames
        from .story import moment

        book = self.book
        symbols = {spec.symbol for spec in book.specs.values()}
        if len(symbols) != 1:
            raise ActionError(
                f"run(): this session has orders of {', '.join(sorted(symbols)) or 'no symbol'}; look at orders() and events()"
            )
        market = book.markets[symbols.pop()]
        book.catch_up()
        until = moment(self, market.instrument.symbol)
        rows, legs, begin = [], [], 0
        for number in book.specs:
            row, own = book.rows(number)
            row["leg"], row["end"] = begin, begin + len(own)
            begin += len(own)
            rows.append(row)
            legs.append(own)
        table = SimpleNamespace(
            orders=np.concatenate(rows).view(np.recarray), legs=np.concatenate(legs).view(np.recarray)
        )
        changes = self.journal.events()
        events = np.zeros(len(changes), EVENT)
        for name in EVENT.names or ():
            events[name] = changes[name]
        events = events[np.lexsort((events["seq"], events["order"]))]
        specs = [book.specs[number] for number in book.specs]  # as they were placed, as in a replay
        made = frames(specs, table, market.instrument, book.fills, events, None)  # type: ignore[arg-type]
        meta = {
            "name": self.name,
            "symbol": market.instrument.symbol,
            "source": f"session {self.id}",
            "data_hash": None,
            "ticks": market.ticks,
            "path": None,
            "bars": None,
            "first_ts": int(table.orders.created.min()),
            "last_ts": market.last_ts,
            "fills": book.fills.to_dict(),
            "poll_interval": duration_text(book.poll_ns) if book.poll_ns else None,
            "outlier": book.outlier,
            "held_back": None,
            "instrument": market.instrument.model_dump(mode="json"),
            "actions": [],
            "warnings": [],
            "replayed_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": 0.0,
        }
        return Run(made["orders"], made["levels"], made["events"], made["fills"], specs=specs, meta=meta), until

    def shadow(self, oid: int | None = None) -> pl.DataFrame:
        """One order, or all, beside themselves on paper, leg by leg: price, delay and fees; see shadow.py."""
        from .shadow import shadow

        return shadow(self, None if oid is None else _number(oid))

    def command(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A call as plain data, as it comes from another process. Raises SmartOrdersError."""
        given = dict(arguments)
        if name == "place":
            order = SmartOrder.from_dict(given.get("spec", {}))
            number, version = self._call(self._place(order, str(given.get("key", ""))))
            return {"order": number, "version": version}
        if name == "refresh":
            return {"looked_up": self.refresh(given.get("order"))}
        oid = given.pop("order", None)
        if name == "share":
            return {"order": oid, "link": self.share(oid)}
        if name == "edit":
            given = {**given.pop("changes", {}), **given}
        calls: dict[str, Callable[..., int]] = {
            n: getattr(self, n)
            for n in ("edit", "add_funds", "reduce_funds", "take_profit", "open_now", "close_at_market", "cancel")
        }
        if name not in calls:
            raise ActionError(
                f"command = {short(name)}: is not one; there is place, refresh, share, {', '.join(calls)}"
            )
        return {"order": oid, "version": calls[name](oid, **given)}

    # ------------------------------------------------------------------------------------------------ the end

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the feed has ended or paused and all of it is dealt with; False if `timeout` seconds passed first.

        Raises what stopped the session, if something did.
        """
        done = self._idle.wait(timeout)
        if self.error is not None:
            raise self.error
        return done

    def close(self) -> None:
        """Stop: nothing is lost, and the same call goes on with it. May be called twice, and from any thread but the session's own.

        Listeners are told what is left to tell, for a moment.
        """
        if threading.current_thread() is self._thread:
            raise ActionError("a session cannot be closed from its own thread; close it from another one")
        _OPEN.discard(self)
        self._closing = True
        with contextlib.suppress(RuntimeError, AttributeError):  # its loop is closed, or not there yet
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread.is_alive():
            self._thread.join()
        self._events.put(None)
        if self._teller.is_alive() and threading.current_thread() is not self._teller:
            self._teller.join(_FAREWELL_S)
        self.broker.close()
        if self.store is not None:
            self.store.close()

    def compact(self) -> None:
        """Take a snapshot, and let go of what the one before it covers: the next start is quick and the store stays small."""

        def work() -> None:
            if self.recorder is not None:
                self.recorder.flush()
            self.book.compact()

        self._do(work)

    # ------------------------------------------------------------------------------------------------ its own thread

    def _run(self) -> None:
        try:
            with _quick_switches():
                asyncio.run(self._main())
        except BaseException as error:
            self.error = self.error or error
        if self.error is not None and self._ready.is_set():
            log.error("session %s stopped: %s", self.name, self.error, exc_info=self.error)
        self._status = "stopped"
        self._over.set()
        self._idle.set()
        self._ready.set()
        self._events.put([])

    async def _main(self) -> None:
        self._stop, self._watching = asyncio.Event(), asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        if self._closing:
            self._stop.set()
        tasks: list[asyncio.Task[None]] = []
        opened = False
        try:
            zero = (
                time.time_ns() - time.monotonic_ns()
            )  # nobody sets this clock: by it requests are known to have expired

            def clock() -> int:
                return zero + time.monotonic_ns()

            self.book = Book(self.journal, self.broker, clock, self._market_clock, self._told)
            self.book.seen = self._seen
            await self.feed.open()
            opened = True
            if isinstance(self.broker, Remotely):
                await self.broker.open()
                self.broker.begin(self._spawn, self._heard)
                self.broker.resumes(self.book)
            if hasattr(self.feed, "on_play"):
                self.feed.on_play = self._goes_on
            self.book.resume()
            if isinstance(self.broker, Remotely):
                await self._reconciled(self.broker)
                if self.mode == "live" and self.book.markets:
                    await self._accounted()
            for symbol, market in self.book.markets.items():
                if busy := {trigger for trigger, desk in market.desks.items() if desk.busy}:
                    await self._watch(symbol, busy)
            if not self._live and not self._watched:
                self._idle.set()
            self._status = "live"
            self._ready.set()
            tasks = [asyncio.create_task(work) for work in (self._read(), self._keep_time(), self._stopped())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            await self._last_calls()
            await self._leave()
            if self.error is None:
                self.book.flush()
                if self.recorder is not None:
                    self.recorder.flush()
                if self.journal.last - self.book.covered > SNAPSHOT_ENTRIES // 20:
                    self.book.compact()
                self.journal.end()
        except Exception as error:
            self._fail(error)
        finally:
            await self._last_calls()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._leave()
            if opened:
                await self.feed.close()

    async def _leave(self) -> None:
        """No more work of a broker, or what it hears would come after the end."""
        if isinstance(self.broker, Remotely) and not self._left:
            self._left = True
            for task in [*self._workers]:
                task.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
            await self.broker.end()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have a broker's work done beside; a mistake in it stops the session, and so does work that somebody else breaks off."""

        def over(task: asyncio.Task[None]) -> None:
            self._workers.discard(task)
            if task.cancelled():
                if not self._left:  # an order would be followed by nobody
                    why = "work on an order was broken off; nothing is traded on; start again: it goes on from there"
                    self._fail(ExchangeError(f"{self.feed.name}: {why}"))
            elif (error := task.exception()) is not None:
                self._fail(error)

        task = asyncio.get_running_loop().create_task(work)
        self._workers.add(task)
        task.add_done_callback(over)

    def _heard(self, reports: list[Report]) -> None:
        """What a broker reports by itself."""
        if self.error is None:
            try:
                self.book.hear(reports)
            except Exception as error:
                self._fail(error)

    async def _looked(self) -> Account:
        """The account. What a trade has changed may be seen in one place before the other, so differences have to last."""
        from .brokers import accounts
        from .brokers.venues import Failed, Fate

        if self.mode != "live":
            raise ActionError("account: this session has none at an exchange; so.live(...) has")
        broker: Any = self.broker
        deadline, looks = time.monotonic() + ACCOUNT_S, 0
        while True:
            try:
                account = await accounts.look(broker, self.book)
            except Failed as failed:
                if failed.fate is Fate.REFUSED or time.monotonic() > deadline:
                    raise ExchangeError(
                        f"account: {broker.venue.name} does not say what it holds: {failed.reason}"
                    ) from None
                await asyncio.sleep(0.5)
                continue
            looks += 1
            if not account.differences or looks >= LOOKS:
                return account
            await asyncio.sleep(max(broker.venue.facts.lag_s / LOOKS, LOOK_S))

    async def _accounted(self) -> None:
        """Hold the account against the orders: differences are noted, and nothing is sent any more."""
        account = await self._looked()
        for orphan in account.orphans:
            whose = "of this session, and no order of it owns it; orphans(cancel=True) cancels it"
            other = "of another session, or of a store that was lost; cancel it by hand if it is not"
            text = f"open order {orphan.client_id} ({orphan.id}) is {whose if orphan.ours else other}"
            self._noted(Notice(orphan.symbol, "orphan", text))
        for difference in account.differences:
            self._noted(Notice("", "account", difference))
        if account.differences:
            why = f"halted: {'; '.join(account.differences)}; look at the account, close or cancel what is not there, then release()"
            cast("Remotely", self.broker).guard.halt(why)

    async def _cancelled(self, orphan: Orphan) -> bool:
        from .brokers.venues import Failed

        venue: Any = cast("Any", self.broker).venue
        try:
            await venue.cancel(orphan.symbol, orphan.client_id, orphan.id)
        except Failed as failed:
            log.warning("%s: not cancelled: %s", orphan.client_id, failed)
            return False
        return True

    def _noted(self, notice: Notice) -> None:
        log.warning("session %s: %s", self.name, notice.text)
        self.book.notice(notice)
        self._events.put([])

    async def _reconciled(self, broker: Remotely) -> None:
        """Wait until it is known what became of everything that was under way: only then may prices that were missed count.

        Raises ExchangeError if that cannot be found out.
        """
        deadline = time.monotonic() + broker.patience_s
        while self.error is None and not self._stop.is_set():
            doubtful = [
                job for job in self.book.jobs.values() if job.open and (job.doubted or job.state is not State.WORKING)
            ]
            if not doubtful:
                broker.settled(self.book)
                return
            if time.monotonic() > deadline:
                names = ", ".join(f"order {job.order} ({job.submit.client_id})" for job in doubtful[:10])
                raise ExchangeError(
                    f"{self.feed.name}: what became of {len(doubtful)} requests could not be found out: {names}; nothing is traded on; "
                    "start again when the exchange answers, or look at the account"
                )
            await asyncio.sleep(0.02)
            self.book.timer()

    def _market_clock(self) -> int:
        """The exchange's clock, in ns: what is sent now must not be too early or late for the ticks that come."""
        if hasattr(self.feed, "now_ms"):
            return int(self.feed.now_ms() * 1e6)
        if hasattr(self.feed, "clock"):
            return int(self.feed.clock())
        return time.time_ns() if self._live else 0

    def _fail(self, error: BaseException) -> None:
        """What could not be kept must not be traded on, and what is wrong in itself neither: stop."""
        self.error = self.error or error
        self._stop.set()

    async def _last_calls(self) -> None:
        """Take no more calls. Those that came before are carried out; one that waits for the feed is given up."""
        with self._calling:
            self._refuses = True
        for _ in range(3):
            await asyncio.sleep(0)
        for call in [*self._calls]:
            call.cancel()
        await asyncio.sleep(0)

    async def _read(self) -> None:
        """What the feed brings, until the session stops."""
        while True:
            item = await self.feed.next()
            if isinstance(item, Block):
                if self._status == "ended":
                    self._now("live")
                self.book.feed(item)
                await asyncio.sleep(0)
            elif item is None:
                self.book.settle()
                self._now("ended")
                self._idle.set()
                return await self._stopped()
            elif item.what in ("paused", "ended"):
                self.book.settle()
                if item.what == "ended":
                    self._now("ended")
                getattr(self.feed, "at_rest", lambda then: then())(self._idle.set)
            elif item.what == "stopped":
                if item.symbol in self._stopped_lines:
                    self._stopped_lines.pop(item.symbol).set()
            else:
                self.book.notice(item)
                self._events.put([])

    def _now(self, status: str) -> None:
        self._status = status
        self._events.put([])

    def _goes_on(self) -> None:
        """The feed has been told to go on."""
        self._idle.clear()
        if self._over.is_set():
            self._idle.set()

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TIMER_S)
            self.book.timer()
            compacts = self.journal.last - self.book.covered > SNAPSHOT_ENTRIES
            if self.recorder is not None and (compacts or self.recorder.full):
                await asyncio.to_thread(self.recorder.flush)
            if compacts:
                self.book.compact()

    async def _stopped(self) -> None:
        await self._stop.wait()

    def _told(self, number: int, events: np.ndarray) -> None:
        self._events.put((number, events))

    def _tell(self) -> None:
        """Tell listeners, on a thread of its own."""
        while (item := self._events.get()) is not None:
            listeners = [*self._listeners.items()]
            changes: list[dict[str, Any]] = []
            if item and listeners:
                first, events = item
                changes = [self._change(row, first + k) for k, row in enumerate(events)]
            for number, (since, callback) in listeners:
                news = [change for change in changes if change["seq"] > since]
                if number not in self._listeners or (item and not news):
                    continue
                try:
                    callback(news)
                except BaseException as error:  # also exit(), which would end this thread and nothing else
                    log.error("a listener of session %s failed: %s", self.name, error, exc_info=error)

    def _do(self, work: Callable[[], Any]) -> Any:
        async def coroutine() -> Any:
            return work()

        return self._call(coroutine())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have something done on the session's thread, and wait for it."""
        if threading.current_thread() is self._thread:
            work.close()
            raise ActionError("a call from the session's own thread would wait for itself; call from another one")
        with self._calling:
            refuses = self._refuses or self.error is not None or self._over.is_set()
            if not refuses:
                call = asyncio.run_coroutine_threadsafe(self._guarded(work), self._loop)
                self._calls.add(call)
        if refuses:
            work.close()
            self._over.wait(_FAREWELL_S)  # who hears that it is stopped finds it stopped
            raise self._is_over()
        try:
            return call.result()
        except CancelledError:
            raise StoreError(
                f"session {self.name!r} was stopped before this call was done; start it again under the same name and look at its orders"
            ) from None
        finally:
            self._calls.discard(call)

    def _is_over(self) -> StoreError:
        why = f": {self.error}" if self.error else ""
        return StoreError(f"session {self.name!r} is stopped{why}; start it again under the same name")

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> Any:
        if self.error is not None:
            work.close()
            raise self._is_over()
        before = self.journal.last
        try:
            return await work
        except Exception as error:
            refused = isinstance(error, SmartOrdersError) and not isinstance(error, StoreError)
            half_done = any(
                kind in ("place", "action") for kind, _ in self.book._entries
            )  # noted, and its turn has failed
            if half_done or isinstance(error, StoreError) or not (refused or self.journal.last == before):
                self._fail(error)
            raise

    # ------------------------------------------------------------------------------------------------ plain data

    def _state(self, wanted: list[int] | None) -> tuple[dict[str, Any], list[Any]]:
        book = self.book
        if wanted is None:
            book.catch_up()
            wanted = [*book.specs]
        else:
            for number in wanted:
                if number in book.homes:
                    symbol, trigger = book.homes[number]
                    desk = book.markets[symbol].desks[trigger]
                    desk._arrive(desk.slots[number])
        head = {
            "seq": self.journal.changes,
            "session": self.id,
            "name": self.name,
            "mode": self.mode,
            "status": self.status,
            "halted": self.broker.guard.halted if isinstance(self.broker, Remotely) else "",
            "symbols": {symbol: self._symbol(symbol) for symbol in book.markets},
        }
        return head, [self._rows(number) for number in wanted]

    def _symbol(self, symbol: str) -> dict[str, Any]:
        market = self.book.markets[symbol]
        prices = {series: plain(market.instrument.price(units)) for series, units in market.last.items()}
        return {
            **prices,
            "ts": instant_text(market.last_ts) if market.ticks else None,
            "state": market.state,
            "ticks": market.ticks,
            "held_back": market.held_back,
            "price_increment": plain(market.instrument.price_increment),
            "quantity_increment": plain(market.instrument.quantity_increment),
        }

    def _rows(self, number: int) -> tuple[Any, ...]:
        """What there is to say of an order, as `_worded` takes it."""
        book = self.book
        row, legs = book.rows(number)
        spec = book.spec(number)
        market = book.markets[spec.symbol]
        series = {"last": "price"}.get(spec.trigger, spec.trigger)
        last = market.last.get(series) if row["status"][0] < Status.CLOSED else None
        return number, spec, row, legs, market.instrument, last

    def _worded(
        self, number: int, spec: SmartOrder, row: Any, legs: Any, instrument: Instrument, last: int | None
    ) -> dict[str, Any]:
        """An order as plain data."""
        from .run import describe

        described = describe(spec, row.view(np.recarray), legs.view(np.recarray), instrument, self.book.fills, last)
        return {"order": number, **described}

    def _seen(self, instrument: Instrument, first: int, block: Block) -> None:
        """Ticks that the orders are about to see."""
        memory = self._memory.get(instrument.symbol)
        if memory is None:
            memory = self._memory[instrument.symbol] = _Memory()
        memory.keep(first, block)
        if self.recorder is not None:
            self.recorder.keep(instrument, first, block)

    def _change(self, row: Any, number: int | None = None) -> dict[str, Any]:
        from .run import described_event

        order = int(row["order"])
        instrument = self.book.markets[self.book.specs[order].symbol].instrument
        return {"seq": int(row["n"]) if number is None else number, **described_event(row, instrument)}


class Recent(NamedTuple):
    """Ticks that a session has seen: the number of the first of them, `ts` in ns (int64), prices as float64."""

    first: int
    ts: np.ndarray
    price: np.ndarray


class _Memory:
    """The last RECENT ticks of one symbol, and as many more as there is room for; written by one thread, read by any."""

    _SERIES = ("price", "bid", "ask", "mark")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ts = np.zeros(2 * RECENT, np.int64)
        self._columns: dict[str, np.ndarray] = {}
        self._first = self._count = 0

    def keep(self, first: int, block: Block) -> None:
        """More ticks; `first`: the number of the first of them."""
        columns = {name: getattr(block, name) for name in self._SERIES if getattr(block, name) is not None}
        skipped = max(len(block.ts) - RECENT, 0)
        more = len(block.ts) - skipped
        with self._lock:
            if first != self._first + self._count or skipped or columns.keys() != self._columns.keys():
                self._columns = {name: self._columns.get(name, np.zeros_like(self._ts)) for name in columns}
                self._first, self._count = first + skipped, 0
            elif self._count + more > len(self._ts):
                gone = self._count - RECENT
                for column in (self._ts, *self._columns.values()):
                    column[:RECENT] = column[gone : self._count].copy()
                self._first, self._count = self._first + gone, RECENT
            end = self._count + more
            self._ts[self._count : end] = block.ts[skipped:]
            for name, column in columns.items():
                self._columns[name][self._count : end] = column[skipped:]
            self._count = end

    def read(self, since: int, series: str) -> tuple[int, np.ndarray, np.ndarray | None]:
        """The number of the first tick, times, and one series in units, from tick `since` on; None: there is no such series."""
        with self._lock:
            first = max(since, self._first + self._count - RECENT, self._first)
            begin = min(first - self._first, self._count)
            column = self._columns.get(series)
            part = None if column is None else column[begin : self._count].copy()
            return first, self._ts[begin : self._count].copy(), part


_OPEN: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def close_all() -> None:
    """End every session of this process, as its end does."""
    for session in [*_OPEN]:
        session.close()


_running, _before = 0, 0.0
_counting = threading.Lock()


@contextlib.contextmanager
def _quick_switches() -> Iterator[None]:
    """Quick turns of Python's threads, while any session runs."""
    global _running, _before
    with _counting:
        if not _running:
            _before = sys.getswitchinterval()
            sys.setswitchinterval(min(_before, _SWITCH_S))
        _running += 1
    try:
        yield
    finally:
        with _counting:
            _running -= 1
            if not _running:
                sys.setswitchinterval(_before)


def _number(oid: Any) -> int:
    if isinstance(oid, bool) or not isinstance(oid, (int, np.integer)):
        raise ActionError(f"order = {short(oid)}: is not the number of an order, which place() returned")
    return int(oid)
