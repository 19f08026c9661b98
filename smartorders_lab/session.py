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
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from .book import FORMAT, Book
from .errors import ActionError, SpecError, StoreError, short
from .fields import plain
from .fills import FillModel
from .instrument import Instrument
from .messages import Block, Notice
from .outliers import Guard
from .rows import EVENT, Status
from .spec import SmartOrder
from .times import duration_ns, duration_text, instant_text

if TYPE_CHECKING:
    import polars as pl

    from .run import Run

TIMER_S = 0.25
"""How often ticks are made durable and requests of unknown outcome looked after."""
SNAPSHOT_ENTRIES = 20_000
"""Entries of the journal after which a snapshot is taken and older ones are let go."""
_SWITCH_S = 0.001
"""While a session runs, how long Python lets a busy thread run before another has its turn; 5 ms otherwise."""


class Feed(Protocol):
    """Where ticks come from; see feeds/live.py and feeds/recorded.py."""

    name: str

    async def open(self) -> None:
        """Get ready."""

    def instrument(self, symbol: str) -> Instrument:
        """The market of a symbol."""

    async def start(self, symbol: str, triggers: frozenset[str] = ..., token: str = "") -> None:
        """Begin with a symbol, or watch more of it."""

    async def next(self) -> Block | Notice | None:
        """What comes next."""

    async def close(self) -> None:
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
    **options: Any,
) -> Session:
    """A session on paper: live ticks of an `exchange`, or those of a `feed`, filled by the simulated venue of replay.

    `store`: the DuckDB file in which it is kept, None: nowhere. `name`: the session of that name is resumed if it is there. `fills`: what
    is assumed of the venue; `balances`: an account that orders are paid from (`{"USDT": 1000}`), None: no limit. `poll_interval`: look
    only at the last price of each interval. `outlier`: the guard against outlier prints, None: believe everything (5 % on a live feed, None
    on a recorded one unless given). `options` go to the live feed (see LiveFeed). Raises SmartOrdersError.
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
    if outlier == "unset":
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
    asked = {"exchange"} | ({"fills"} if model else set()) | ({"poll_ns"} if poll_interval is not None else set())
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
    return Session(journal, broker, feed, opened)


def _journal(store: Any, name: str, meta: dict[str, Any], asked: set[str]) -> tuple[Any, Any]:
    """The journal of the session of this name, begun if it is not there, and the store that it is in."""
    from .journal import Journal, MemoryJournal

    if store is None:
        return MemoryJournal(meta, name), None
    from .store import Store

    if isinstance(store, Store):
        raise SpecError.one("store", store.path, "a session owns its store", "give the path, and close the Store first")
    opened = Store(store)
    try:
        names = opened.sessions()
        if name not in names["name"].to_list():
            return Journal.create(opened, meta, name), opened
        journal = Journal.open(opened, name)
        for key in asked:
            if journal.meta.get(key) != meta[key]:
                raise StoreError(
                    f"{opened.path}: session {name!r} was begun with {key} = {short(journal.meta.get(key))}, not {short(meta[key])}; "
                    "leave it out to go on as it was, or take another name"
                )
        return journal, opened
    except BaseException:
        opened.close()
        raise


class Session:
    """Orders that live. Made by `paper(...)`; a context manager. Calls may come from any thread."""

    def __init__(self, journal: Any, broker: Any, feed: Feed, store: Any = None):
        self.journal, self.broker, self.feed, self.store = journal, broker, feed, store
        self.id: str = journal.id
        self.name: str = journal.name
        self.mode: str = journal.meta.get("mode", "paper")
        self.error: BaseException | None = None
        self.book: Book
        self._live = getattr(feed, "real_time", True)
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._listeners: dict[int, Callable[[list[dict[str, Any]]], None]] = {}
        self._ready, self._idle, self._over = threading.Event(), threading.Event(), threading.Event()
        self._stop: asyncio.Event
        self._loop: asyncio.AbstractEventLoop
        self._status = "starting"
        self._watched: dict[str, set[str]] = {}
        self._count = 0
        self._thread = threading.Thread(target=self._run, name=f"session {self.id}", daemon=True)
        self._teller = threading.Thread(target=self._tell, name=f"session {self.id} listeners", daemon=True)
        if hasattr(feed, "on_play"):
            feed.on_play = self._idle.clear
        self._thread.start()
        self._teller.start()
        self._ready.wait()
        if self.error is not None:
            error = self.error
            self.close()
            raise error
        _OPEN.add(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Session({self.name!r}, {self.mode}, {self.status}, {len(self.book.specs)} orders)"

    # ------------------------------------------------------------------------------------------------ orders

    def place(self, order: SmartOrder, key: str = "") -> int:
        """A new order; returns its number. It is durable on return. The same order under the same `key` is placed once only.

        Raises SpecError for what the market does not admit, DataError for a market or price that the feed does not have.
        """
        if not isinstance(order, SmartOrder):
            raise SpecError.one("order", order, "is not a SmartOrder", "build it with SmartOrder(...)")
        return int(self._call(self._place(order, key)))

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
        """Look up at the broker what is under way, of one order or all; returns how many child orders that were."""
        return int(self._do(lambda: self.book.refresh(None if oid is None else _number(oid))))

    def share(self, oid: int) -> str:
        """The order as a link: what it asks for, no account, no secret."""
        return str(self._do(lambda: self.book.spec(_number(oid)).share_link()))

    def _act(self, oid: int, kind: str, version: int | None, force: bool = False, **details: Any) -> int:
        return int(self._do(lambda: self.book.act(_number(oid), kind, version, force, **details)))

    async def _place(self, order: SmartOrder, key: str) -> int:
        if key and key in self.book.keys:
            return self.book.place(order, key)
        instrument = self.feed.instrument(order.symbol)
        self.book.open_market(instrument)
        number = self.book.place(order, key)
        await self._watch(order.symbol, order.trigger)
        return number

    async def _watch(self, symbol: str, trigger: str) -> None:
        watched = self._watched.setdefault(symbol, set())
        if trigger not in watched:
            self._idle.clear()
            await self.feed.start(symbol, frozenset({*watched, trigger}), self.book.markets[symbol].token)
            watched.add(trigger)

    # ------------------------------------------------------------------------------------------------ looking

    @property
    def status(self) -> str:
        """`starting`, `live`, `stale` (no ticks come, so nothing can trigger), `ended` (so is the feed) or `stopped`."""
        if self._status == "live" and any(market.state == "stale" for market in self.book.markets.values()):
            return "stale"
        return self._status

    def orders(self) -> pl.DataFrame:
        """All orders, one row each."""
        from .remote import table

        return table(self.state()["orders"])

    def order(self, oid: int) -> dict[str, Any]:
        """One order as it stands, as plain data."""
        return dict(self._do(lambda: self._described(_number(oid))))

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

    def state(self) -> dict[str, Any]:
        """Everything as it stands after the last change, as plain data: `seq`, `session`, `mode`, `status`, `symbols`, `orders`."""
        return dict(self._do(self._state))

    def changes(self, since: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """What happened after change number `since`, in order, as plain data."""
        return [self._change(row) for row in self.journal.events(since, limit=limit)]

    def on_event(self, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Call `callback` with each change from now on, once it is durable; returns what ends it. It is called on a thread of its own."""

        def each(changes: list[dict[str, Any]]) -> None:
            for change in changes:
                callback(change)

        return self.on_change(each)

    def on_change(self, callback: Callable[[list[dict[str, Any]]], None]) -> Callable[[], None]:
        """As `on_event`, with all changes of one commit at once, and with none when only the status has changed."""
        self._count += 1
        number = self._count
        self._listeners[number] = callback
        return lambda: self._listeners.pop(number, None) and None

    def run(self) -> Run:
        """The session so far as a `Run`, one symbol at a time: frames, summary, charts. Raises ActionError if it has several symbols."""
        return self._do(self._run_so_far)

    def _run_so_far(self) -> Run:
        from .run import Run, frames

        book = self.book
        symbols = {spec.symbol for spec in book.specs.values()}
        if len(symbols) != 1:
            raise ActionError(
                f"run(): this session has orders of {', '.join(sorted(symbols)) or 'no symbol'}; look at orders() and events()"
            )
        market = book.markets[symbols.pop()]
        book.catch_up()
        book.flush()
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
        specs = [book.spec(number) for number in book.specs]
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
        return Run(made["orders"], made["levels"], made["events"], made["fills"], specs=specs, meta=meta)

    def command(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A call as plain data, as it comes from another process. Raises SmartOrdersError."""
        given = dict(arguments)
        if name == "place":
            number = self.place(SmartOrder.from_dict(given["spec"]), str(given.get("key", "")))
            return {"order": number, "version": self.book.version(number)}
        if name == "refresh":
            return {"looked_up": self.refresh(given.get("order"))}
        oid = given.pop("order")
        if name == "share":
            return {"order": oid, "link": self.share(oid)}
        if name == "edit":
            given = {**given.pop("changes"), **given}
        calls: dict[str, Callable[..., int]] = {
            n: getattr(self, n) for n in ("edit", "add_funds", "reduce_funds", "open_now", "close_at_market", "cancel")
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
        """Stop: nothing is lost, and the same call goes on with it. May be called twice."""
        _OPEN.discard(self)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._events.put(None)
        if threading.current_thread() is not self._teller:
            self._teller.join()
        self.broker.close()
        if self.store is not None:
            self.store.close()

    def compact(self) -> None:
        """Take a snapshot, and let go of what the one before it covers: the next start is quick and the store stays small."""
        self._do(self.book.compact)

    # ------------------------------------------------------------------------------------------------ its own thread

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self.error = error
        finally:
            self._status = "stopped"
            self._ready.set()
            self._idle.set()
            self._over.set()
            self._events.put([])

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        before = sys.getswitchinterval()
        sys.setswitchinterval(min(before, _SWITCH_S))
        tasks: list[asyncio.Task[None]] = []
        try:
            clock = time.time_ns
            market_clock = clock if self._live else (lambda: 0)
            self.book = Book(self.journal, self.broker, clock, market_clock, self._told)
            await self.feed.open()
            self.book.resume()
            for symbol, market in self.book.markets.items():
                for trigger, desk in market.desks.items():
                    if desk.busy:
                        await self._watch(symbol, trigger)
            self._status = "live"
            self._ready.set()
            tasks = [asyncio.create_task(work) for work in (self._read(), self._keep_time(), self._stopped())]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self.book.flush()
            if self.journal.last - self.book.covered > SNAPSHOT_ENTRIES // 20:
                self.book.compact()
            self.journal.end()
        finally:
            sys.setswitchinterval(before)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.feed.close()

    async def _read(self) -> None:
        """What the feed brings, until the session stops."""
        while True:
            item = await self.feed.next()
            if isinstance(item, Block):
                self.book.feed(item)
                await asyncio.sleep(0)
            elif item is None or item.what == "paused":
                self.book.settle()
                if item is None:
                    self._status = "ended"
                    self._events.put([])
                self._idle.set()
                if item is None:
                    await asyncio.get_running_loop().create_future()
            else:
                self.book.notice(item)
                self._events.put([])

    async def _keep_time(self) -> None:
        while True:
            await asyncio.sleep(TIMER_S)
            self.book.timer()
            if self.journal.last - self.book.covered > SNAPSHOT_ENTRIES:
                self.book.compact()

    async def _stopped(self) -> None:
        await self._stop.wait()

    def _told(self, number: int, events: np.ndarray) -> None:
        self._events.put((number, events))

    def _tell(self) -> None:
        """Tell listeners, on a thread of its own."""
        while (item := self._events.get()) is not None:
            changes: list[dict[str, Any]] = []
            if item:
                number, events = item
                changes = [self._change(row, number + k) for k, row in enumerate(events)] if self._listeners else []
            for callback in [*self._listeners.values()]:
                try:
                    callback(changes)
                except Exception as error:
                    import logging

                    logging.getLogger(__name__).exception("a listener of session %s failed: %s", self.id, error)

    def _do(self, work: Callable[[], Any]) -> Any:
        async def coroutine() -> Any:
            return work()

        return self._call(coroutine())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have something done on the session's thread, and wait for it."""
        if not self._thread.is_alive() or self._over.is_set():
            work.close()
            why = f": {self.error}" if self.error else ""
            raise StoreError(f"session {self.name!r} is stopped{why}; start it again under the same name")
        if threading.current_thread() is self._thread:
            work.close()
            raise ActionError("a call from the session's own thread would wait for itself; call from another one")
        return asyncio.run_coroutine_threadsafe(self._guarded(work), self._loop).result()

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> Any:
        try:
            return await work
        except StoreError as error:  # what could not be kept must not be traded on
            self.error = error
            self._stop.set()
            raise

    # ------------------------------------------------------------------------------------------------ plain data

    def _state(self) -> dict[str, Any]:
        self.book.catch_up()
        return {
            "seq": self.journal.changes,
            "session": self.id,
            "name": self.name,
            "mode": self.mode,
            "status": self.status,
            "symbols": {symbol: self._symbol(symbol) for symbol in self.book.markets},
            "orders": [self._described(number) for number in self.book.specs],
        }

    def _symbol(self, symbol: str) -> dict[str, Any]:
        market = self.book.markets[symbol]
        prices = {series: plain(market.instrument.price(units)) for series, units in market.last.items()}
        return {
            **prices,
            "ts": instant_text(market.last_ts) if market.ticks else None,
            "state": market.state,
            "ticks": market.ticks,
            "held_back": market.held_back,
        }

    def _described(self, number: int) -> dict[str, Any]:
        """An order as plain data."""
        from .run import describe

        book = self.book
        row, legs = book.rows(number)
        spec = book.spec(number)
        market = book.markets[spec.symbol]
        series = {"last": "price"}.get(spec.trigger, spec.trigger)
        last = market.last.get(series) if row["status"][0] < Status.CLOSED else None
        return {
            "order": number,
            **describe(spec, row.view(np.recarray), legs.view(np.recarray), market.instrument, book.fills, last),
        }

    def _change(self, row: Any, number: int | None = None) -> dict[str, Any]:
        from .run import described_event

        order = int(row["order"])
        instrument = self.book.markets[self.book.specs[order].symbol].instrument
        return {"seq": int(row["n"]) if number is None else number, **described_event(row, instrument)}


_OPEN: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for session in [*_OPEN]:
        session.close()


def _number(oid: Any) -> int:
    if isinstance(oid, bool) or not isinstance(oid, (int, np.integer)):
        raise ActionError(f"order = {short(oid)}: is not the number of an order, which place() returned")
    return int(oid)
