"""The world of the live broker: the real LiveBroker and its Guard, whose workers go on when the world lets them.

    python -m tests.simulation --broker live --seeds 1000 --steps 400

There is no event loop. A worker is a coroutine that waits for an answer of the exchange (venue.py) or for time to pass; the world's random
numbers say which of those that can go on goes on, and the process can be killed at each of these moments, and at every commit. What
it had on its way still arrives at the exchange.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np

import smartorders_lab as so
from smartorders_lab.book import Book
from smartorders_lab.brokers.guard import Guard, Limits
from smartorders_lab.brokers.live import CANCEL_S, LiveBroker
from smartorders_lab.brokers.venues import FACTS, Failed, Fate, Wanted
from smartorders_lab.errors import ActionError
from smartorders_lab.execution import State
from smartorders_lab.fills import FillModel
from smartorders_lab.messages import Cancel, Report, Submit, What
from smartorders_lab.rows import NEVER

from .checks import Checks
from .exchange import MS
from .venue import LiveExchange, Order, SimVenue, Trade, Wait
from .world import SECOND, SYMBOLS, Plan, World

RULES = {"bybit": "never", "coinbase": "same"}
"""What an exchange does with a client id that it knows: never takes it again, or gives the same order back; the others take it again
when no open order bears it."""
LISTS = frozenset({"gate", "kraken", "coinbase"})
"""Exchanges where an order is looked for in lists that begin somewhere."""
MOVES = frozenset({"bybit"})
"""And where that is so although its id is known."""
LONGEST_S = 12
"""Expiries and lags are no longer here, so that a run has more to tell than waiting."""
PATIENCE, DAY = 300 * SECOND, 86_400 * SECOND


class LivePlan(Plan):
    """What a seed is about, with the exchange that it trades at."""

    def __init__(self, rng: random.Random):
        super().__init__(rng)
        self.live, self.native, self.exchange_clock = True, False, True
        self.symbols = SYMBOLS[: 2 if rng.random() < 0.35 else 1]
        self.name = rng.choice(sorted(FACTS))
        facts = FACTS[self.name]
        self.facts = replace(facts, expiry_s=min(facts.expiry_s, LONGEST_S), lag_s=min(facts.lag_s, LONGEST_S))
        self.expiry, self.lag = int(self.facts.expiry_s * SECOND), int(self.facts.lag_s * SECOND)
        self.rule, self.lists = RULES.get(self.name, "open"), self.name in LISTS
        self.moves = self.name in MOVES or rng.random() < 0.25
        self.forgets = rng.choice([0, 0, 3 * SECOND, 40 * SECOND])
        """After so long an order that is over and unfilled is not found any more; 0: it always is."""
        self.coin = rng.choice(["", "", "N"])
        """A third coin that fees are paid in, half of the time."""
        self.fault_rate = rng.choice([0.0, 0.15, 0.3, 0.3, 0.5])
        self.crash_rate = rng.choice([0.0, 0.001, 0.003, 0.008])
        self.fills = FillModel(
            fee_maker=rng.choice(["0%", "0.02%"]),
            fee_taker="0.1%",
            fee_currency="base" if rng.random() < 0.3 else "quote",
        )
        self.balances = None
        self.account = {name: Decimal(10**9) for name in "ABCN"}
        draw = rng.random()
        self.bare = 0.15 < draw < 0.4
        """It begins with money only: what is sold has to have been bought."""
        if draw < 0.15:
            self.balances = {"A": "3", "B": rng.choice(["1500", "1000000"]), "C": rng.choice(["3", "1000"]), "N": "100"}
            self.account = {name: Decimal(amount) for name, amount in self.balances.items()}
        elif self.bare:
            self.account = {"B": Decimal(10**9), "N": Decimal(10**9)}
        self.tight = rng.random() < 0.25
        self.halts = rng.choice([0.0, 0.0, 0.2])
        self.restless = rng.choice([0.0, 0.15])
        """How often somebody takes back an order that is under way."""
        more = random.Random(str(rng.getstate()))  # apart, so that seeds stay what they were
        self.most = more.choice([1, 2])
        """How many orders that open something may work at the same time, where limits are tight."""
        self.outages = more.random() < (0.7 if self.facts.repeat else 0.15)
        """Orders do not come through for a while, now and then."""
        if self.outages:
            self.lag = min(self.lag, 2 * SECOND)

    def limits(self) -> Limits:
        if self.tight:
            return Limits([*self.symbols], 400, 900, 4000, self.most, "3%")
        return Limits([*self.symbols], 10**8, 10**9, 10**9, 50, "50%")


class LiveChecks(Checks):
    """And what must hold at an exchange."""

    world: LiveWorld

    def __init__(self, world: LiveWorld):
        super().__init__(world)
        self.told_fills: set[str] = set()
        """Fills that the book has heard of, as far as it can know."""
        self.durable_fills: dict[str, list[Any]] = {}
        self.taken_back: set[str] = set()
        """Client ids that this process was asked to take back."""
        self.ended: dict[str, str] = {}
        """Client ids that were told to be over, or absent, and how."""
        self.unsure: set[str] = set()
        """Client ids of which a request went out whose outcome was not heard, or was that it was carried out."""
        self.owed: dict[tuple[int, int], int] = {}
        """What a book that starts now can come to know of each child."""

    # ------------------------------------------------------------------------------------------------ the exchange

    def accepted(self, order: Order) -> None:
        name = order.wanted.client_id
        self.hold(name in self.intents, "I13", f"{name} has no intent")
        self.hold(name not in self.ended, "T3", f"{name} arrived, and was told to be {self.ended.get(name)}")
        submit = self.submit_of(name)
        self.hold((order.wanted.side == "buy") == (submit.side > 0), "I13", f"{name}: {order.wanted}")
        cut = self.world.plan.balances is not None and not submit.opens  # what is there is sold
        self.hold(order.units == submit.quantity or cut, "I13", f"{name}: {order.units} of {submit.quantity}")
        self.hold(order.units <= submit.quantity, "I13", f"{name}: {order.units} of {submit.quantity}")
        self.hold(submit.limit in (None, order.limit), "I13", f"{name}: limit {order.limit}, not {submit.limit}")
        if self.world.plan.tight and submit.opens:
            self._limits(order)

    def _limits(self, order: Order) -> None:
        """What opens something is within the limits, also of what an earlier process has sent."""
        world, limits, notional = self.world, self.world.plan.limits(), Decimal(0)
        working = 0
        for other in world.exchange.orders.values():
            if self.submit_of(other.wanted.client_id).opens and (other.open or other is order):
                working += 1
                instrument = world.instruments[other.wanted.symbol]
                price = other.limit or world.markets[other.wanted.symbol].price
                notional += instrument.quantity(other.units - other.filled) * instrument.price(price)
        self.hold(working <= limits.max_orders, "G2", f"{working} orders that open something work")
        for other, trade in world.exchange.trades.values():
            if self.submit_of(other.wanted.client_id).opens and trade.fill.ts // DAY == world.now // DAY:
                notional += trade.fill.price * trade.fill.amount
        self.hold(notional <= limits.max_day * Decimal("1.03"), "G2", f"{notional} are opened today")

    def executed_there(self, order: Order, trade: Trade) -> None:
        name = order.wanted.client_id
        self.hold(name not in self.ended, "T2", f"{name}: filled, and was told to be {self.ended.get(name)}")
        self.filled(self.submit_of(name), trade.units)

    def submit_of(self, name: str) -> Submit:
        return Submit(*self.attempts[name])

    def selling(self, wanted: Wanted, need: Decimal, has: Decimal) -> None:
        self.hold(not self.world.plan.bare or need <= has, "E3", f"{wanted.client_id}: sells {need}, there are {has}")

    # ------------------------------------------------------------------------------------------------ what a broker does

    def creating(self, wanted: Wanted) -> None:
        """A broker sends an order."""
        name, world = wanted.client_id, self.world
        assert world.broker is not None
        self.hold(name in self.sent, "I13", f"{name} was not asked for")
        self.hold(self.intents[name] not in self.recalled, "I18", f"{name} was taken back")
        self.hold(not world.halted and not world.broker.guard._halted, "E2", name)
        self.hold(world.plan.rule != "open" or name not in self.unsure, "E1", f"{name} at {world.plan.name}")
        if name in self.unsure:
            world.count("branch: repeated")
        self.unsure.add(name)

    def looking(self, name: str, cancelled: int) -> None:
        """A broker looks at an order; `cancelled`: when it last heard of a cancel of it, 0: never."""
        late = self.world.now > cancelled + CANCEL_S * SECOND
        self.hold(not late or name not in self.taken_back, "C1", f"{name} was taken back, last at {cancelled}")

    def not_created(self, wanted: Wanted, failed: Failed) -> None:
        if failed.fate in (Fate.NOT_SENT, Fate.REFUSED) and wanted.client_id not in self.world.exchange.by_client:
            self.unsure.discard(wanted.client_id)

    def telling(self, report: Report) -> None:
        """A broker tells the book something of its own accord."""
        name, what, exchange, book = report.client_id, report.what, self.world.exchange, self.world.book
        assert book is not None
        self.world.count(f"told: {what}")
        there = exchange.by_client.get(name, [])
        if what is What.FILLED:
            self.hold(report.fill_id in exchange.trades, "T1", f"{report} was never executed")
            order, trade = exchange.trades[report.fill_id]
            fill = trade.fill
            self.hold(order.wanted.client_id == name, "T1", f"{report} is of {order.wanted.client_id}")
            same = (trade.price, trade.units, fill.ts, int(fill.liquidity))
            self.hold(
                (report.price, report.quantity, report.ts, report.liquidity) == same, "T1", f"{report} was {trade}"
            )
            self.hold(dict(report.fees) == {c: str(n) for c, n in fill.fees}, "T1", f"{report} has cost {fill.fees}")
            self.hold(report.fill_id not in self.told_fills, "T1", f"{report} is told again")
            self.told_fills.add(report.fill_id)
        elif what in (What.CANCELLED, What.REJECTED):
            working = [order.id for order in there if order.open]
            self.hold(not working, "T2", f"{report}: {working} still work")
            left = [trade.fill.id for order in there for trade in order.trades if trade.fill.id not in self.told_fills]
            self.hold(not left, "T2", f"{report}: {left} were not told")
            self.hold(what is What.CANCELLED or not any(order.filled for order in there), "T2", f"{report}: filled")
            self.ended[name] = str(what)
        elif what is What.ABSENT:
            working = [order.id for order in there if order.open or order.filled]
            self.hold(not working, "T3", f"{report}: {working} are there")
            self.ended[name] = "absent"

    def committed(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None) -> None:
        for kind, body in entries:
            if kind in ("report", "said"):
                data = json.loads(body)
                for told in data[2] if kind == "report" else data[4]:
                    report = Report(*told)
                    if report.what == What.FILLED:
                        name = report.fill_id
                        self.hold(name not in self.durable_fills, "T1", f"fill {name} is in the journal twice")
                        self.durable_fills[name] = told
        super().committed(entries, events)

    # ------------------------------------------------------------------------------------------------ the book

    def restarted(self) -> None:
        super().restarted()
        self.taken_back.clear()
        self.told_fills = set(self.durable_fills)
        world, self.owed = self.world, {}
        for order, trade in world.exchange.trades.values():
            if trade.fill.ts <= world.now - world.plan.lag and order.wanted.client_id in self.intents:
                key = self.intents[order.wanted.client_id]
                self.owed[key] = self.owed.get(key, 0) + trade.units

    def reconciled(self, book: Book) -> None:
        for key, job in book.jobs.items():
            owed = self.owed.get(key, 0)
            self.hold(job.filled >= owed, "R2", f"order {key[0]}, child {key[1]}: {job.filled} of {owed} are known")

    def step(self, book: Book) -> None:
        super().step(book)
        broker = self.world.broker
        assert broker is not None
        for name in broker.guard._working:
            key = book.by_client.get(name)
            job = None if key is None else book.jobs[key]
            at_work = job is not None and job.open and job.submit.client_id == name
            self.hold(at_work, "G1", f"{name} is over or was given up, and counts")
        for job in book.jobs.values():
            name = job.submit.client_id
            known = name in broker._children and not broker._children[name].over and name not in self.ended
            if job.open and job.submit.opens and known:
                self.hold(
                    name in broker.guard._working, "G1", f"{name} opens something, is under way, and does not count"
                )
        for name in self.world.exchange.working():
            key = book.by_client.get(name)
            job = None if key is None else book.jobs[key]
            at_work = job is not None and job.open and job.submit.client_id == name
            self.hold(at_work, "O1", f"{name} works at the exchange, and no book follows it")

    def money(self) -> None:
        """Every fill of the exchange is in the journal, and balances are what these come to."""
        exchange = self.world.exchange
        missing = exchange.trades.keys() - self.durable_fills.keys()
        self.hold(not missing, "T1", f"fills {sorted(missing)} were never told")
        totals = dict(exchange.begun)
        for told in self.durable_fills.values():
            report = Report(*told)
            submit = self.submit_of(report.client_id)
            instrument = self.world.instruments[submit.symbol]
            base, quote = submit.symbol.partition(":")[0].split("/")
            amount = submit.side * instrument.quantity(report.quantity)
            totals[base] = totals.get(base, Decimal(0)) + amount
            totals[quote] = totals.get(quote, Decimal(0)) - amount * instrument.price(report.price)
            for currency, cost in report.fees:
                totals[currency] = totals.get(currency, Decimal(0)) - Decimal(cost)
        self.hold(totals == exchange.totals, "B1", f"{totals} by the journal, {exchange.totals} there")

    def same_as_exchange(self, book: Book) -> None:
        super().same_as_exchange(book)
        self.money()


class Watched(LiveBroker):
    """The broker as it is; what a book asks of it is looked at, and a process may die there."""

    world: LiveWorld

    def submit(self, submit: Submit) -> list[Report]:
        world = self.world
        world.point("submit before")
        world.checks.sending(submit)
        reports = super().submit(submit)
        for report in reports:
            world.checks.telling(report)
        world.point("submit after")
        return reports

    def cancel(self, cancel: Cancel) -> list[Report]:
        self.world.point("cancel before")
        self.world.checks.cancelling(cancel)
        reports = super().cancel(cancel)
        if not reports:
            self.world.checks.taken_back.add(cancel.client_id)
        return reports

    def query(self, client_id: str) -> list[Report]:
        self.world.point("query before")
        return super().query(client_id)


class Mute:
    """A broker that says nothing."""

    tells_all = True

    def __init__(self, plan: Plan):
        self.request_expiry_ns, self.visibility_lag_ns = plan.expiry, plan.lag

    def due(self, symbol: str, ts: np.ndarray, *_: Any) -> tuple[int, Sequence[Any]]:
        return len(ts), []

    def together(self) -> AbstractContextManager[None]:
        return nullcontext()

    def query(self, client_id: str) -> list[Report]:
        return []

    submit = match = cancel = query

    def list(self, *_: Any) -> None:
        """Nothing."""

    tick = know = list


class Pauses:
    """Where workers wait for time to pass."""

    def __init__(self, world: LiveWorld):
        self.world = world

    async def pause(self, seconds: float, key: str) -> None:
        await Wait("pause", self.world.now + int(seconds * 1e9), key)

    def wake(self, key: str) -> None:
        for worker in self.world.workers:
            if worker.wait is not None and worker.wait.what == "pause" and worker.wait.key == key:
                worker.wait.done = True


class Switch:
    """The file that stops everything."""

    def __init__(self, world: LiveWorld):
        self.world = world

    def __str__(self) -> str:
        return "STOP"

    def exists(self) -> bool:
        return self.world.halted


class Worker:
    """A coroutine of a broker, and what it waits for; None: to begin."""

    def __init__(self, work: Coroutine[Any, Any, None]):
        self.work: Any = work
        self.wait: Wait | None = None


class LiveWorld(World):
    """One seed."""

    plans, checkers, exchanges = LivePlan, LiveChecks, LiveExchange
    calm = 40, 5 * SECOND
    plan: LivePlan
    checks: LiveChecks
    exchange: LiveExchange

    def __init__(self, seed: int, kill_at: int = 0, crashes: bool = True, quiet: bool = False, say: bool = False):
        self.workers: list[Worker] = []
        self.broker: Watched | None = None
        self.halted = False
        """The file of the switch is there."""
        self.next_timer = 0
        self.weather = random.Random(f"weather of {seed}")
        """Of outages."""
        super().__init__(seed, kill_at, crashes, quiet, say)

    # ------------------------------------------------------------------------------------------------ a process

    def _broker(self) -> Any:
        begun, zero = self.now, self.rng.randint(0, 10**6) * SECOND
        guard = Guard(self.plan.limits(), clock=lambda: self.now / 1e9)
        guard.file = Switch(self)  # type: ignore[assignment]
        venue: Any = SimVenue(self.exchange)
        self.broker = Watched(venue, guard, Pauses(self), clock=lambda: zero + self.now - begun)
        self.broker.world = self
        self.broker.begin(self._spawn, self._heard)
        self.next_timer = self.now
        return self.broker

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.workers.append(Worker(work))

    def _heard(self, reports: list[Report]) -> None:
        assert self.book is not None
        self.note(f"hear {[(r.client_id, r.what.value, r.quantity) for r in reports]}")
        self.count("branch: reports heard")
        for report in reports:
            self.checks.telling(report)
        self.book.hear(reports)

    def _died(self) -> None:
        super()._died()
        self.close()

    def close(self) -> None:
        for worker in self.workers:
            worker.work.close()
        self.workers.clear()
        self.broker = None

    def _resumes(self, book: Book) -> None:
        assert self.broker is not None
        self.broker.resumes(book)

    def _reconciled(self, book: Book) -> None:
        end = self.now + PATIENCE * (4 if self.plan.fault_rate > 0.3 else 1)
        while any(job.open and (job.doubted or job.state is not State.WORKING) for job in book.jobs.values()):
            self.count("branch: start waits")
            self.checks.hold(self.now < end, "L6", f"not within {PATIENCE // SECOND} s")
            self.live_on(20 * MS)
            book.timer()
        assert self.broker is not None
        self.broker.settled(book)
        super()._reconciled(book)

    # ------------------------------------------------------------------------------------------------ time

    def pass_time(self, ns: int) -> None:
        """The process is not there, or busy with something else."""
        super().pass_time(ns if self.book is None or ns >= SECOND else ns // 6)

    def _meanwhile(self) -> Callable[[], object]:
        ns = self.rng.choice([30, 300, 300, 1500]) * MS
        return lambda: self.live_on(ns)

    def live_on(self, ns: int, still: bool = False) -> None:
        """The session's loop runs for so long. `still`: prices stand still."""
        assert self.book is not None
        end = self.now + ns
        if still:
            for market in self.markets.values():
                market.next = end + 100 * MS
        while True:
            self._work()
            wire, market = self.exchange.wire, min(self.markets.values(), key=lambda market: market.next)
            dues = [worker.wait.due for worker in self.workers if worker.wait is not None and worker.wait.due]
            arrival = wire[0][0] if wire else NEVER
            at = min(market.next, arrival, self.next_timer, *dues)
            if at > end:
                break
            self.now = max(self.now, at)
            if arrival <= at:
                self.exchange.arrive()
            elif market.next <= at:
                self._trade(market)
                market.next += self.rng.randint(1, 700) * MS
            elif self.next_timer <= at:
                self.next_timer = self.now + 250 * MS
                self.book.timer()
                self.hear()
        self.now = end

    def _work(self) -> None:
        """Workers that can go on do so, in any order, sometimes not at once."""
        while ready := [one for one in self.workers if one.wait is None or one.wait.ready(self.now)]:
            if self.chance(0.03):
                return
            worker = ready[0] if len(ready) == 1 else self.rng.choice(ready)
            self.point(f"worker {worker.wait.what if worker.wait else 'begins'}")
            try:
                worker.wait = worker.work.send(None)
            except StopIteration:
                self.workers.remove(worker)

    def hear(self) -> None:
        """What a stream says."""
        for name in self.exchange.heard():
            if not self.deaf and self.broker is not None:
                self.broker.touched(name)

    # ------------------------------------------------------------------------------------------------ what happens

    def _choose(self) -> Callable[[], object]:
        assert self.book is not None
        assert self.broker is not None
        under_way = sorted({order for (order, _), job in self.book.jobs.items() if job.open})
        if self.exchange.hopeless and not self.broker.guard.halted and self.rng.random() < 0.4:
            return self._halt
        if under_way and self.rng.random() < self.plan.restless:
            number, kind = self.rng.choice(under_way), self.rng.choice(["cancel", "close_at_market"])
            return lambda: self._take_back(number, kind)
        return super()._choose()

    def _take_back(self, number: int, kind: str) -> None:
        assert self.book is not None
        self.note(f"take back {number}: {kind}")
        with suppress(ActionError):
            self.book.act(number, kind)
            self.count("user: takes back")

    def trouble(self) -> None:
        assert self.book is not None
        assert self.broker is not None
        if self.halted or self.broker.guard._halted:
            self.note("the switch is on again")
            self.halted = False
            self.broker.guard.release()
        elif self.chance(self.plan.halts):
            self._halt()
        else:
            super().trouble()

    def _halt(self) -> None:
        assert self.broker is not None
        self.count("fault: halted")
        self.note("the switch is off")
        if self.rng.random() < 0.5:
            self.halted = True
        else:
            self.broker.guard.halt()

    def _order(self) -> so.SmartOrder:
        order = super()._order()
        while self.plan.bare and (order.side == "sell" or order.entry.kind == "held"):
            order = super()._order()
        return order

    # ------------------------------------------------------------------------------------------------ the end

    def _reconnect(self) -> None:
        assert self.broker is not None
        self.halted = False
        self.broker.guard.release()
        super()._reconnect()

    def _wait(self, times: int, ns: int) -> None:
        for _ in range(times):
            self._do(lambda: self.live_on(ns, still=True), again=True)
            for market in self.markets.values():
                self.print_tick(market)
                market.next = self.now + 100 * MS
            self._do(self._look, again=True)

    def _all_known(self) -> None:
        self.live_on(5 * SECOND, still=True)  # what the last tick sent again is answered, and no other tick comes
        super()._all_known()
        assert self.book is not None
        for (order, child), job in self.book.jobs.items():
            self.checks.hold(not (job.open and job.recalled), "L3", f"order {order}, child {child} was taken back")

    def _over(self) -> None:
        super()._over()
        self.checks.hold(
            self.plan.balances is not None or not self.broker or not self.broker.guard._working, "G1", "still counts"
        )

    def _mute(self) -> Any:
        return Mute(self.plan)
