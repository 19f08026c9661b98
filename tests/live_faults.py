"""Whole lives of orders at the local exchange, again and again, each time with one fault at one request.

    python tests/live_faults.py [--venue okx ...] [--rests levels] [--fault "reset after" ...] [--every 10 [--offset 3]]
                                [--log runs.jsonl] [--workers 2 [--lives 3]]

For each exchange a life without a fault counts the private requests; then every fault that the exchange knows happens at every one of them
(or at each `--every`th pair of both). The session is a real one, with real ccxt clients. In the end its fills, its positions and its
balances are those of the exchange, no intent was carried out twice, nothing is left open, its journal is lived through again to
the same bytes, and every order has ended as it does without a fault. `--rests` takes another life, with levels or protective stops that
rest at the exchange. What stands in `--log` is not run again. With `--workers` lives are
lived in so many processes, `--lives` at a time in each: much of a life is waiting.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import gc
import json
import multiprocessing
import queue
import random
import ssl
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock

from session_process import Exchange, Local, end_with_parent, parting
from trading_exchange import DIALECTS, FAULTS, Far, TradingExchange, _learn, trader

import smartorders_lab as so
from smartorders_lab import store as store_module
from smartorders_lab.brokers import live as live_module
from smartorders_lab.brokers import resting, venues
from smartorders_lab.brokers.resting import PREFIX as REST
from smartorders_lab.brokers.resting import SOLD
from smartorders_lab.brokers.venues import FACTS
from smartorders_lab.journal import Journal
from smartorders_lab.messages import Report, What
from smartorders_lab.rows import Status
from smartorders_lab.store import Store
from smartorders_lab.trading import live
from smartorders_lab.verify import verify

SOL = "SOL/USDT"
PRICE, STEP = Decimal("0.01"), Decimal("0.001")
PATIENCE_S = 60.0
TIMEOUT_S = 0.7
"""After so long the client gives a request up that is not answered."""
LIMITS = {
    "symbols": [SOL],
    "max_order": 2000,
    "max_symbol": 5000,
    "max_day": 50_000,
    "max_orders": 10,
    "max_distance": "20%",
}


RESTS: dict[str, dict[str, Any]] = {"": {}, "levels": {"levels": "resting"}, "stops": {"protective_stop": "1%"}}
"""Lives, by what rests at the exchange beside child orders, and what a session is told for that."""


def known_faults(venue: str) -> list[str]:
    """Every fault that an exchange can meet."""
    _learn()
    own = range(len(DIALECTS[venue].unknown))
    return [*FAULTS, *(f"unknown{n} {when}" for n in own for when in ("before", "after"))]


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """Proofs of absence that take less than a second, where the exchange on this machine answers in milliseconds."""
    facts = {
        name: dataclasses.replace(one, expiry_s=0.4, lag_s=0.2, stop_expiry_s=min(one.stop_expiry_s, 1.0))
        for name, one in FACTS.items()
    }
    with (
        mock.patch.dict(venues.FACTS, facts),
        mock.patch.multiple(resting, TURN_S=0.05, LOOK_S=1.0, AGAIN_S=0.3, ASK_S=0.2),
        mock.patch.object(live_module, "GIVE_UP_S", 5.0),
        mock.patch.object(live_module, "CANCEL_S", 0.3),
    ):
        yield


_certified = functools.cache(ssl.create_default_context)
MEMORY = Path("/dev/shm")
"""Where stores lie, if it is there: what a disk does is not what is asked here."""


@functools.cache
def _empty_store() -> bytes:
    """A store as a first start makes it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.duckdb"
        Store(path).close()
        return path.read_bytes()


@contextlib.contextmanager
def cheap() -> Iterator[None]:
    """What every life would load anew and is always the same is loaded once; a store has no threads of its own, and is believed."""
    _empty_store()  # while what it makes is still looked at
    with (
        mock.patch.object(ssl, "create_default_context", lambda *, cafile=None: _certified(cafile=cafile)),
        mock.patch.dict(store_module._CONFIG, threads=1),
        mock.patch.object(Store, "_check_schema"),
        mock.patch.object(Store, "_check_counts"),
    ):
        yield


def lasting(client: Any) -> Any:
    """Have a client keep its connections, as the product's does."""
    client.session.connector._force_close = False
    return client


class Watched(Local):
    """A feed that keeps its connections."""

    async def open(self) -> None:
        await super().open()
        lasting(self._client)


def connecting(venue: str, server: TradingExchange | Far, lasts: bool = False) -> Callable[[], Any]:
    """What makes a client of that exchange, which is closed with all that belongs to it. `lasts`: it keeps its connections."""

    def connect() -> Any:
        made = parting(trader(venue, server, timeout=int(TIMEOUT_S * 1000)))
        return lasting(made) if lasts else made

    return connect


# ------------------------------------------------------------------------------------------------------ what must hold


class Violation(AssertionError):
    """Something that may never happen has happened."""


def hold(condition: object, what: str, *more: object) -> None:
    """Raise Violation unless the condition holds."""
    if not condition:
        raise Violation(": ".join([what, *map(str, more)]))


@dataclasses.dataclass
class Told:
    """What a session has in its journal of its child orders: their client ids by (order, child), and the fills that it has heard of."""

    attempts: dict[tuple[int, int], list[str]]
    fills: dict[tuple[str, str], Report]


def told(journal: Journal) -> Told:
    """Read it."""
    attempts: dict[tuple[int, int], list[str]] = defaultdict(list)
    fills: dict[tuple[str, str], Report] = {}
    for _, kind, body in journal.entries():
        if kind not in ("intent", "again", "said", "report"):
            continue
        data = json.loads(body)
        if kind in ("intent", "again"):
            name = data[3] if kind == "again" else data[4][0]
            if name not in attempts[data[0], data[1]]:
                attempts[data[0], data[1]].append(name)
            continue
        for report in (Report(*one) for one in data[4 if kind == "said" else 2]):
            if report.what == What.FILLED:
                fills.setdefault((report.client_id, report.fill_id), report)
    return Told(dict(attempts), fills)


def client_ids(ledger: Any) -> dict[int, str]:
    """Under what a session knows each order of an exchange, by `id` of the order; one that follows a stop under the name of that."""
    names = {id(order): order.cid.removeprefix("t-") for order in ledger.orders.values()}  # so Gate.io writes them
    names |= {
        id(stop): f"{REST}{stop.id}" for stop in ledger.orders.values() if stop.apart and not stop.cid
    }  # or not at all
    return names | {id(stop.child): names[id(stop)] for stop in ledger.orders.values() if stop.child is not None}


def same_fills(ledger: Any, ours: Told, begun: dict[str, Decimal]) -> Counter[str]:
    """The exchange's orders, fills and balances are those that the session knows of, one execution for each intent; returns how many.

    `begun`: the balances of the beginning.
    """
    children = {name: child for child, names in ours.attempts.items() for name in names}
    sold: dict[str, str] = {}
    """Of each trade of what rests beside children, what rested."""
    executed: dict[tuple[int, int], list[str]] = defaultdict(list)
    names = client_ids(ledger)
    for order in ledger.orders.values():
        name = names[id(order)]
        if name.startswith(REST):
            sold |= dict.fromkeys((fill.id for fill in order.fills), name)
            continue
        hold(name in children, "the exchange has an order that no intent asked for", order)
        executed[children[name]].append(name)
    for child, made in executed.items():
        hold(len(made) == 1, "one child was executed more than once", child, made)
    there = {(names[id(f.order)], f.id): (f.price, f.amount, {f.fee_currency: _fee(f.fee)}) for f in ledger.fills}
    here: dict[tuple[str, str], tuple[Decimal, Decimal, dict[str, Decimal]]] = {}
    for key, r in ours.fills.items():
        trade = (
            key[1].removeprefix(SOLD).rpartition("/")[0]
        )  # a part of it, where several exits were filled with one trade
        key = (sold.get(trade, f"{key} of nothing"), trade) if key[1].startswith(SOLD) else key
        price, amount, fees = here.get(key, (r.price * PRICE, Decimal(0), {}))
        fees = {currency: _fee(Decimal(cost) + fees.get(currency, Decimal(0))) for currency, cost in r.fees}
        hold(price == r.price * PRICE, "one trade has two prices", key)
        here[key] = price, amount + r.quantity * STEP, fees
    hold(len(there) == len(ledger.fills), "the exchange has used an id twice")
    for key in there.keys() | here.keys():
        hold(
            here.get(key) == there.get(key), "a fill differs", key, f"ours {here.get(key)}", f"theirs {there.get(key)}"
        )
    total: dict[str, Decimal] = defaultdict(Decimal, begun)
    orders = {names[id(order)]: order for order in ledger.orders.values()}
    for (name, _), (price, amount, fees) in here.items():
        order = orders[name]
        sign = 1 if order.side == "buy" else -1
        total[order.base] += sign * amount
        total[order.quote] -= sign * amount * price
        for currency, cost in fees.items():
            total[currency] -= cost
    theirs = {name: amount for name, (amount, _) in ledger.balances().items()}
    hold(
        {n: _fee(a) for n, a in total.items() if _fee(a)} == {n: _fee(a) for n, a in theirs.items()},
        "balances differ",
        dict(total),
        theirs,
    )
    return Counter(children=len(executed), attempts=len(children), fills=len(ours.fills))


def _fee(amount: Decimal) -> Decimal:
    """A fee that was split is no whole number of anything."""
    return amount.quantize(Decimal("1e-12"))


def positions(events: Any) -> dict[int, Decimal]:
    """What each order has bought less what it has sold, by its events (a frame of `Session.events`), whole steps."""
    held: dict[int, Decimal] = defaultdict(Decimal)
    for event in events.filter(events["kind"] == "filled").iter_rows(named=True):
        opens = event["role"] in ("entry", "add_funds")
        held[event["order"]] += (1 if opens else -1) * Decimal(str(event["quantity"]))
    return dict(held)


# ------------------------------------------------------------------------------------------------------------ a life


class Life:
    """A live session at one venue of an exchange in this process. `lasts`: its client keeps its connections; `rests`: one of RESTS."""

    def __init__(self, venue: str, folder: Path, lasts: bool = True, rests: str = ""):
        self.venue, self.store, self.lasts, self.rests = venue, folder / "live.duckdb", lasts, rests
        self.store.write_bytes(_empty_store())
        self.exchange = Exchange()
        self.exchange.server = self.server = TradingExchange([venue])
        self.begun = {name: total for name, (total, _) in self.ledger.balances().items()}
        self.session: so.Session

    @property
    def ledger(self) -> Any:
        return self.server.ledger(self.venue)

    def __enter__(self) -> Life:
        self.exchange.__enter__()
        self._over = threading.Event()
        self._postman = threading.Thread(target=self._deliver)
        self._postman.start()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if hasattr(self, "session"):
                self.session.close()
        finally:
            self._over.set()
            self._postman.join()
            self.exchange.__exit__(*error)

    def _deliver(self) -> None:
        """What is held up on its way arrives shortly after its client has given up."""
        while not self._over.wait(0.02):
            if self.server.held and not self._over.wait(TIMEOUT_S + 0.1):
                self.exchange.do(self.server.arrive)

    def start(self) -> so.Session:
        self.session = live(
            self.venue,
            store=self.store,
            confirm="live",
            limits=LIMITS,
            feed=Watched(self.venue, self.server.port),
            client=connecting(self.venue, self.server, self.lasts),
            streams=False,  # or else what is asked, and when, would depend on what is pushed
            **RESTS[self.rests],
        )
        return self.session

    def move(self, *prices: float, size: float | None = None) -> None:
        """The market trades there, and the session has seen it."""
        for price in prices:
            self.price = price
            before = self._ticks()
            self.exchange.do(lambda price=price: self.server.move(SOL, price, size))
            if before >= 0:
                self._until(lambda before=before: self._ticks() > before, "it is seen")

    def _ticks(self) -> int:
        """How many have come; -1: the session does not know the market yet."""
        market = self.session.book.markets.get(SOL)
        return -1 if market is None else int(market.ticks)

    def _until(self, condition: Callable[[], Any], why: str, trades: bool = False) -> None:
        """Wait for it: looked at when something has happened, here or there, and now and then."""
        begin = time.monotonic()
        trade, look, before = begin + 1, 0.0, None
        while True:
            now = time.monotonic()
            happened = self.session.journal.last, self._ticks(), len(self.server.asked), len(self.ledger.fills)
            if happened != before or now > look:
                before, look = happened, now + 0.1
                if condition():
                    return
            hold(self.session.error is None, "the session has stopped", self.session.error)
            if now > begin + PATIENCE_S:
                raise Violation(f"not within {PATIENCE_S:.0f} s: {why}: {self.session.state()['orders']}")
            if trades and now > trade:  # what was refused is tried again with the ticks that come
                trade = now + 0.5
                self.exchange.do(lambda: self.server.move(SOL, self.price, STEP))
            time.sleep(0.005)

    def until(self, condition: Callable[[], Any], why: str) -> None:
        """Wait for it, while the market stands still."""
        self._until(condition, why, True)

    def _row(self, oid: int) -> Any:
        """An order as the session has it; as text, as `order()` has it, it costs ten times as much."""
        return self.session._do(lambda: self.session.book.rows(oid)[0][0])

    def is_(self, oid: int, *statuses: str) -> None:
        wanted = [Status[status] for status in statuses]
        self.until(lambda: self._row(oid)["status"] in wanted, f"order {oid} is {' or '.join(statuses)}")

    def has(self, oid: int, least: float, most: float = 1e9) -> None:
        self.until(lambda: least < self._held(oid) < most, f"order {oid} holds {least}")

    def _held(self, oid: int) -> Decimal:
        row = self._row(oid)
        return (int(row["entered"]) - int(row["exited"])) * STEP

    def open_orders(self, count: int) -> None:
        self.until(
            lambda: self.exchange.do(lambda: len(self.ledger.listed(open=True))) == count, f"{count} orders are open"
        )

    def while_away(self, *prices: float, size: float | None = None) -> so.Session:
        """The market trades there while there is no session; then there is one again."""
        self.session.close()
        for price in prices:
            self.price = price
            self.exchange.do(lambda price=price: self.server.move(SOL, price, size))
        return self.start()

    def live(self) -> dict[int, tuple[str, str | None]]:
        """All of it; returns how each order has ended."""
        self.start()
        {"": self._on_trigger, "levels": self._with_levels, "stops": self._with_stops}[self.rests]()
        session = self.session
        self.open_orders(0)
        self.until(lambda: not [job for job in session.book.jobs.values() if job.open], "nothing is under way")
        self.events = session.events()
        ends = {order["order"]: (order["status"], order["exit_reason"]) for order in session.state()["orders"]}
        session.close()
        hold(session.error is None, "the session has stopped", session.error)
        return ends

    def _on_trigger(self) -> None:
        session = self.session
        long = session.place(
            _buy(
                4,
                entry=_at(149),
                take_profits=[(155, 50), (165, 50)],
                stop_loss=140,
                trailing_stop="3%",
                break_even=True,
            )
        )
        self.move(150, 149)
        self.open_orders(1)
        self.move(148.9, size=1)
        self.has(long, 0.9)
        self.move(148.9)
        self.has(long, 3.9)
        session.add_funds(long, quantity=1)
        self.has(long, 4.9)
        self.move(155.5)
        self.is_(long, "PARTIALLY_CLOSED")
        hold(float(session.order(long)["stop"]) >= 149, "the stop is at break-even", session.order(long))
        self.move(160, 164, 158)
        self.is_(long, "STOPPED")

        cut = session.place(_buy(2))
        self.move(157)
        self.has(cut, 1.9)
        session.reduce_funds(cut, quantity="0.5")
        self.has(cut, 0, 1.6)
        session.close_at_market(cut)
        self.is_(cut, "CLOSED")

        away = session.place(_buy(2, entry=_at(150)))
        self.move(150)
        self.open_orders(1)
        session = self.while_away(149.9, size=1)
        self.has(away, 0.9)
        self.move(149.9)
        self.has(away, 1.9)
        session.close_at_market(away)
        self.is_(away, "CLOSED")

        taken_back = session.place(_buy(entry=_at(149)))
        self.move(149)
        self.open_orders(1)
        session.cancel(taken_back)
        self.is_(taken_back, "CANCELLED")

    def _with_levels(self) -> None:
        session = self.session
        long = session.place(_buy(4, take_profits=[_level(155, 50), _level(165, 50)], stop_loss=140, break_even=True))
        self.move(150)
        self.has(long, 3.9)
        self.rest(long, 2)
        session.edit(long, stop_loss=141, take_profits=[_level(156, 50), _level(165, 50)])
        self.until(lambda: self._sale_prices() == [156, 165], "the level is moved")
        session.add_funds(long, quantity=1)
        self.has(long, 4.9)
        self.rest(long, 2)
        self.move(156.5, size=0.75)
        self.has(long, 4.1, 4.4)
        session = self.while_away(155, 156.5, 155, size=0.25)
        self.has(long, 3.9, 4.1)
        self.move(156.5)
        self.is_(long, "PARTIALLY_CLOSED")
        self.move(151, 148)
        self.is_(long, "STOPPED")

        cut = session.place(_buy(2, take_profits=[_level(165, 60), _level(170, 40)]))
        self.move(150)
        self.has(cut, 1.9)
        self.rest(cut, 2)
        session.reduce_funds(cut, quantity="0.5")
        self.has(cut, 0, 1.6)
        self.rest(cut, 2)
        session.close_at_market(cut)
        self.is_(cut, "CLOSED")
        self.open_orders(0)

        away = session.place(_buy(2, take_profits=[_level(155, 100)]))
        self.move(150)
        self.has(away, 1.9)
        self.rest(away, 1)
        session = self.while_away(156)
        self.is_(away, "CLOSED")

    def _with_stops(self) -> None:
        session = self.session
        long = session.place(_buy(4, take_profits=[(160, 50), (175, 50)], stop_loss=140, trailing_stop="3%"))
        self.move(150)
        self.has(long, 3.9)
        self.rest(long, 1)
        self.move(155)
        self.until(lambda: self._sale_prices(148), "the stop at the exchange follows")
        session.add_funds(long, quantity=1)
        self.has(long, 4.9)
        self.rest(long, 1)
        self.move(160.5)
        self.is_(long, "PARTIALLY_CLOSED")
        self.until(lambda: self._sale_prices(153), "what is left is protected")
        session = self.while_away(152)
        self.is_(long, "STOPPED")

        cut = session.place(_buy(2, stop_loss=145))
        self.has(cut, 1.9)
        self.rest(cut, 1)
        session.reduce_funds(cut, quantity="0.5")
        self.has(cut, 0, 1.6)
        self.rest(cut, 1)
        self.move(144.5)
        self.is_(cut, "STOPPED")

        closed = session.place(_buy(2, stop_loss=135))
        self.has(closed, 1.9)
        self.rest(closed, 1)
        session.close_at_market(closed)
        self.is_(closed, "CLOSED")

    def _sale_prices(self, above: float = 0) -> list[Decimal]:
        """The prices above one, at which something would be sold."""
        prices = (price for price, _ in self._sales())
        return sorted(price for price in prices if price > above)

    def rest(self, oid: int, count: int) -> None:
        """So many rest, for all that an order holds."""

        def all_of_it() -> bool:
            sales = self._sales()
            return len(sales) == count and abs(sum(amount for _, amount in sales) - self._held(oid)) < 3 * STEP

        self.until(all_of_it, f"{count} rest for all that order {oid} holds")

    def _sales(self) -> list[tuple[Decimal, Decimal]]:
        """(price or trigger, amount that is left) of each order to sell at the exchange."""

        def look() -> list[tuple[Decimal, Decimal]]:
            sales = [order for order in self.ledger.orders.values() if order.open and order.side == "sell"]
            return [(o.trigger if o.waiting else o.price, o.amount - o.filled) for o in sales]

        found: list[tuple[Decimal, Decimal]] = self.exchange.do(look)
        return found

    def check(self) -> Counter[str]:
        """What must hold when it is over, at the exchange and in the store; returns how many there were of what."""
        hold(not self.ledger.listed(open=True), "orders are left open", self.ledger.listed(open=True))
        with Store(self.store, read_only=True) as store:
            journal = Journal.open(store, f"live {self.venue}")
            seen = same_fills(self.ledger, told(journal), self.begun)
            verdict = verify(store, journal.id)
        hold(verdict.ok, "its journal does not lead there", verdict)
        left = {order: amount for order, amount in positions(self.events).items() if amount >= STEP}
        # what a fee in coins took of a purchase was not there to be sold
        fees = sum((f.fee for f in self.ledger.fills if f.fee_currency == "SOL"), Decimal(0))
        hold(sum(left.values(), Decimal(0)) <= fees + len(left) * STEP, "more was bought than sold", left, fees)
        hold(self.ledger.total["SOL"] >= 0, "more was sold than bought", self.ledger.total["SOL"])
        seen["alerts"] = int((self.events["kind"] == "alert").sum())
        return seen


def _buy(quantity: Any = 4, **fields: Any) -> so.SmartOrder:
    return so.SmartOrder(symbol=SOL, side="buy", quantity=quantity, **{"stop_loss": 100, **fields})


def _level(price: Any, size: Any) -> dict[str, Any]:
    return {"target": price, "size": size, "kind": "limit"}


def _at(price: Any) -> so.Entry:
    return so.Entry(kind="limit", price=price)


@dataclasses.dataclass
class Run:
    """What came of a life with one fault. `met`: the kind of request that the fault happened to, "" if it was over before."""

    venue: str
    fault: str
    nth: int
    rests: str = ""
    met: str = ""
    requests: int = 0
    seconds: float = 0.0
    violation: str = ""
    ends: list[Any] = dataclasses.field(default_factory=list)
    seen: dict[str, int] = dataclasses.field(default_factory=dict)


def run(venue: str, fault: str = "", nth: int = 0, ends: Sequence[Any] = (), kind: str = "*", rests: str = "") -> Run:
    """One life; `fault` happens at the `nth` private request of a `kind`, `*`: of any. `ends`: how the orders have to end."""
    with quick(), cheap():
        return _run(venue, fault, nth, ends, kind, rests)


def _run(venue: str, fault: str, nth: int, ends: Sequence[Any], kind: str = "*", rests: str = "") -> Run:
    done, begin = Run(venue, fault, nth, rests), time.monotonic()
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        # only a new connection can be refused
        life = Life(venue, Path(folder), fault != "refused before", rests)
        try:
            with life:
                if fault:
                    life.server.fault(fault, kind, nth)
                done.ends = [[n, *end] for n, end in sorted(life.live().items())]
                done.seen = dict(life.check())
                hold(not ends or done.ends == list(ends), "orders ended otherwise", done.ends, list(ends))
        except Exception as error:
            done.violation = f"{type(error).__name__}: {error}"
            if not isinstance(error, Violation):
                done.violation += "\n" + traceback.format_exc()
        done.requests = life.server.counts["*"]
        done.met = next((ask.kind for ask in life.server.asked if ask.fault), "")
        if fault == "refused before" and not life.server.faults:
            done.met = "any"  # what was never sent is not among what was asked
    done.seconds = time.monotonic() - begin
    return done


Task = tuple[str, str, int, list[Any]]
"""Exchange, fault, number of the request, and how the orders have to end."""


def _work(tasks: Any, results: Any, lives: int, rests: str) -> None:
    """A process that lives so many lives at a time, until there is no task left."""

    def one() -> None:
        while (task := tasks.get()) is not None:
            results.put(_run(*task, rests=rests))

    end_with_parent()
    with quick(), cheap():
        for venue in FACTS:  # all that is loaded at first use
            _run(venue, "", 0, (), rests=rests)
        gc.collect()
        gc.freeze()
        threads = [threading.Thread(target=one) for _ in range(lives)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _side_by_side(todo: Sequence[Task], workers: int, lives: int, rests: str) -> Iterator[Run]:
    """What comes of them, as it comes."""
    spawn = multiprocessing.get_context("spawn")
    tasks, results = spawn.Queue(), spawn.Queue()
    for task in [*todo, *[None] * (workers * lives)]:
        tasks.put(task)
    processes = [spawn.Process(target=_work, args=(tasks, results, lives, rests), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    for _ in todo:
        while True:
            try:
                yield results.get(timeout=5)
                break
            except queue.Empty:
                if any(process.exitcode for process in processes) or not any(p.is_alive() for p in processes):
                    raise RuntimeError("a worker has died; what it says stands above") from None
    for process in processes:
        process.join()


def sweep(
    names: Sequence[str],
    faults: Sequence[str] = (),
    every: int = 1,
    offset: int = 0,
    log: Path | None = None,
    note: Callable[[str], None] = print,
    workers: int = 0,
    lives: int = 1,
    rests: str = "",
) -> list[Run]:
    """Lives at these exchanges with each fault at each request, or each `every`th of these pairs from `offset` on.

    `workers`: so many processes, each with so many `lives` at a time; 0: one after another, here. `rests`: one of RESTS.
    """
    known = [Run(**json.loads(line)) for line in log.read_text().splitlines()] if log and log.exists() else []
    there = {(one.venue, one.fault, one.nth, one.rests) for one in known}
    todo: list[Task] = []
    for venue in names:
        plain = run(venue, rests=rests)
        if plain.violation:
            raise Violation(f"{venue}, without any fault: {plain.violation}")
        note(f"{venue}: {plain.requests} requests, {plain.seen}, {plain.ends}")
        wanted = [name for name in known_faults(venue) if not faults or name in faults]
        pairs = [(name, nth) for nth in range(1, plain.requests + 1) for name in wanted]
        todo += [
            (venue, name, nth, plain.ends)
            for name, nth in pairs[offset::every]
            if (venue, name, nth, rests) not in there
        ]
    random.Random(len(todo)).shuffle(todo)  # what is run before somebody ends it is a sample of all
    alone = (run(*task, rests=rests) for task in todo)
    for one in _side_by_side(todo, workers, lives, rests) if workers else alone:
        known.append(one)
        if one.violation:
            note(f"VIOLATION at {one.venue}, {one.fault!r} at request {one.nth} ({one.met}): {one.violation}")
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(one)) + "\n")
    return known


def table(runs: Sequence[Run]) -> str:
    """A line for each exchange, and one for all."""
    rows: list[tuple[str, ...]] = [
        ("exchange", "faults", "requests", "runs", "met", "fills", "alerts", "violations", "s/run")
    ]
    names = list(dict.fromkeys(one.venue for one in runs))
    for name in [*names, ""]:
        some = [one for one in runs if name in ("", one.venue)]
        rows.append(
            (
                name or "all",
                *(
                    str(count)
                    for count in (
                        len({one.fault for one in some}),
                        max((one.nth for one in some), default=0),
                        len(some),
                        sum(bool(one.met) for one in some),
                        sum(one.seen.get("fills", 0) for one in some),
                        sum(one.seen.get("alerts", 0) for one in some),
                        sum(bool(one.violation) for one in some),
                        f"{sum(one.seconds for one in some) / max(len(some), 1):.2f}",
                    )
                ),
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    kinds = Counter(one.met for one in runs if one.met)
    return "\n".join(
        [
            *("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in rows),
            f"met by: {dict(kinds.most_common())}",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--venue", nargs="*", choices=[*FACTS], default=[*FACTS])
    parser.add_argument("--rests", choices=[*RESTS], default="", help="what rests at the exchange beside child orders")
    parser.add_argument("--fault", nargs="*", default=[], help="only these")
    parser.add_argument("--every", type=int, default=1, help="only each so many-th pair of a request and a fault")
    parser.add_argument("--offset", type=int, default=0, help="the first of these pairs")
    parser.add_argument("--log", type=Path, help="a file of what was run, added to; what stands there is not run again")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one life after another in this one")
    parser.add_argument("--lives", type=int, default=3, help="lives at a time in each worker")
    chosen = parser.parse_args()
    runs = sweep(
        chosen.venue,
        chosen.fault,
        chosen.every,
        chosen.offset,
        chosen.log,
        workers=chosen.workers,
        lives=chosen.lives,
        rests=chosen.rests,
    )
    print(table(runs))
    return int(any(one.violation for one in runs))


if __name__ == "__main__":
    raise SystemExit(main())
