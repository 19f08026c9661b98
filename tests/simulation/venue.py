"""The exchange of the live broker, in virtual time, behind a class with the methods of `Venue`.

It is written from what exchanges do, not from what the broker expects: requests get lost, late and doubled, answers get lost, an error may
come before or after the work is done, looks see an order as it was a while ago, trades show up after the quantity that they sum to.
What was on its way when a process died arrives all the same.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from smartorders_lab.brokers.venues import EXPIRY_MS, Failed, Fate, Fill, Truth, Wanted
from smartorders_lab.rows import Liquidity

from .exchange import MS

if TYPE_CHECKING:
    from .live import LiveWorld

FAULTS = {
    "create": {
        "lost": 3,
        "delayed": 4,
        "unheard": 5,
        "before": 1,
        "after": 3,
        "limited": 2,
        "refused": 2,
        "poor": 1,
        "slow": 3,
        "twice": 2,
        "doomed": 1,
        "busy": 3,
    },
    "find": {"lost": 2, "slow": 3, "limited": 2},
    "trades": {"lost": 2, "slow": 2, "limited": 1},
    "balances": {"lost": 2, "slow": 2, "limited": 2},
    "cancel": {"lost": 6, "delayed": 3, "unheard": 3, "after": 2, "limited": 1, "slow": 2},
}
"""What can go wrong with a request, by weight."""


class Wait:
    """A worker waits, for an answer or for time to pass."""

    def __init__(self, what: str, due: int | None = None, key: str = ""):
        self.what, self.due, self.key = what, due, key
        self.done = False
        self.outcome: Any = None

    def __await__(self) -> Generator[Wait, None, Any]:
        yield self
        if isinstance(self.outcome, Failed):
            raise self.outcome
        return self.outcome

    def ready(self, now: int) -> bool:
        return self.done or (self.due is not None and self.due <= now)


@dataclass
class Trade:
    """Some of an order was executed."""

    fill: Fill
    units: int
    price: int
    seen: int
    """From then on it is shown."""


@dataclass
class Order:
    """An order at the exchange. `history`: (since when, status, filled)."""

    id: str
    wanted: Wanted
    created: int
    seen: int
    units: int
    limit: int | None
    filled: int = 0
    status: str = "open"
    trades: list[Trade] = field(default_factory=list)
    history: list[tuple[int, str, int]] = field(default_factory=list)
    doomed: bool = False
    moves: int = 0
    """Until then it is between the list of open orders and that of orders which are over."""

    @property
    def open(self) -> bool:
        return self.status == "open"

    def at(self, ts: int) -> tuple[str, int] | None:
        """How it stood."""
        was = [(status, filled) for since, status, filled in self.history if since <= ts]
        return was[-1] if was else None


class LiveExchange:
    """The exchange itself, and the wire to it."""

    live = True

    def __init__(self, world: LiveWorld):
        self.world, self.plan = world, world.plan
        self.request_expiry_ns, self.visibility_lag_ns = world.plan.expiry, world.plan.lag
        self.wire: list[tuple[int, int, Callable[[], None]]] = []
        """What is going to happen: when, a count, what."""
        self.reports: list[tuple[int, int, str]] = []
        """What a stream is going to say: when, a count, of whom."""
        self.orders: dict[str, Order] = {}
        self.by_client: dict[str, list[Order]] = {}
        self.trades: dict[str, tuple[Order, Trade]] = {}
        self.begun = dict(world.plan.account)
        self.totals = dict(self.begun)
        self._count = 0
        self.busy_until = 0
        """Until then it takes no orders."""
        self.late_at = self.outage_until = 0
        """Until then no order comes through, but for one that is sent late in the outage and arrives later still."""

    # ------------------------------------------------------------------------------------------------ the wire

    def later(self, ns: int, what: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self.wire, (self.world.now + ns, self._count, what))

    def arrive(self) -> None:
        """The next thing on the wire happens."""
        heapq.heappop(self.wire)[2]()

    def put(self, what: str, work: Callable[[], Any], expiry: int = 0) -> Wait:
        """Send a request; what is returned waits for the answer."""
        world, rng, wait = self.world, self.world.rng, Wait(what)
        world.point(f"{what} before")
        fault = world.fault(what, **FAULTS[what])
        if expiry and 0 <= world.now - self.busy_until < 5000 * MS and world.chance(0.5):
            fault = "delayed"  # it comes back slowly
        outage = self._outage() if expiry else ""
        fault = outage or fault
        if fault == "busy":
            self.busy_until = world.now + rng.randint(1, 25) * 1000 * MS
        sent, travel, back = world.now, rng.randint(1, 60) * MS, rng.randint(1, 60) * MS
        if fault == "slow":
            back = rng.randint(200, 12_000) * MS
            if rng.random() < 0.5:
                travel, back = back, travel
        elif fault == "delayed":
            travel = rng.randint(expiry // 2 if outage else 50 * MS, max(expiry * 5 // 4, 1000 * MS))

        def answer(ns: int, outcome: Any) -> None:
            def come() -> None:
                wait.done, wait.outcome = True, outcome

            self.later(ns, come)

        def arrive() -> None:
            outcome: Any
            if expiry and world.now > sent + expiry:
                world.count("fault: arrived too late")
                outcome = Failed(Fate.NOT_SENT, "too late")
            elif fault == "before":
                outcome = Failed(Fate.UNSURE, "internal error")
            elif fault in ("limited", "busy") or (expiry and world.now < self.busy_until):
                outcome = Failed(Fate.NOT_SENT, "too many requests")
            elif fault == "refused":
                outcome = Failed(Fate.REFUSED, "market closed")
            elif fault == "poor":
                outcome = Failed(Fate.REFUSED, "no funds", poor=True)
            else:
                if fault == "delayed":
                    world.count("fault: arrived late")
                try:
                    outcome = work()
                except Failed as failed:
                    outcome = failed
                if fault == "after":
                    outcome = Failed(Fate.UNSURE, "internal error")
                if fault == "doomed" and isinstance(outcome, str):
                    self._doom(self.orders[outcome])
                if fault == "twice":
                    self.later(rng.randint(1, max(expiry // MS // 2, 1)) * MS, again)
            if fault not in ("unheard", "delayed"):
                answer(back, outcome)

        def again() -> None:
            """A request that comes a second time; only its id keeps it from being a second order."""
            if world.now <= sent + expiry and (self.plan.rule != "open" or self._some_open(work)):
                with_id = len(self.orders)
                try:
                    work()
                except Failed:
                    world.count("fault: came twice")
                assert len(self.orders) == with_id

        if fault != "lost":
            self.later(travel, arrive)
        if fault in ("lost", "unheard", "delayed"):
            answer(rng.randint(100, 300 if outage else 10_000) * MS, Failed(Fate.UNSURE, "no answer"))
        world.point(f"{what} after")
        return wait

    @property
    def hopeless(self) -> bool:
        """Whether an outage has lasted so long that people give up."""
        return self.late_at == self.outage_until > self.world.now

    def _outage(self) -> str:
        """What becomes of an order that is sent now."""
        world, rng = self.world, self.world.weather
        if not (self.plan.outages and world.faults):
            return ""
        if world.now > self.outage_until and rng.random() < 0.15:
            self.late_at = world.now + rng.randint(5, 20) * 1000 * MS
            self.outage_until = self.late_at + 8000 * MS
            world.count("fault: outage")
        if world.now >= self.outage_until:
            return ""
        if world.now < self.late_at or self.hopeless:
            return "lost"
        self.late_at = self.outage_until
        return "delayed"

    def _some_open(self, work: Any) -> bool:
        return any(order.open for order in self.by_client.get(getattr(work, "client_id", ""), ()))

    # ------------------------------------------------------------------------------------------------ requests

    def create(self, wanted: Wanted) -> str:
        world, rng = self.world, self.world.rng
        known = self.by_client.get(wanted.client_id, [])
        if known and self.plan.rule == "same":
            return known[0].id
        if known and (self.plan.rule == "never" or any(order.open for order in known)):
            raise Failed(Fate.EXISTS, "duplicate client id")
        if self.plan.name == "kraken" and world.now > (wanted.sent_ms + EXPIRY_MS) * MS:
            raise Failed(Fate.NOT_SENT, "deadline elapsed")
        instrument = world.instruments[wanted.symbol]
        units, limit = wanted.amount / instrument.quantity_increment, None
        if wanted.price is not None:
            limit = wanted.price / instrument.price_increment
            world.checks.hold(limit == int(limit) > 0, "I17", f"price {wanted.price} of {wanted.client_id}")
        world.checks.hold(units == int(units) > 0, "I17", f"amount {wanted.amount} of {wanted.client_id}")
        self._afford(wanted)
        hides = rng.randint(0, self.visibility_lag_ns) if world.chance(0.4) else 0
        order = Order(
            f"x{len(self.orders) + 1}",
            wanted,
            world.now,
            world.now + hides,
            int(units),
            None if limit is None else int(limit),
        )
        self.orders[order.id] = order
        self.by_client.setdefault(wanted.client_id, []).append(order)
        self._changed(order)
        world.checks.accepted(order)
        if world.chance(0.3):
            self.later(rng.randint(1, 900) * MS, lambda: self._meet(order))
        else:
            self._meet(order)
        return order.id

    def look(self, symbol: str, client_id: str, id: str, since_ms: int) -> tuple[Order, str, int] | None:
        """An order as it stands, or stood a while ago."""
        world = self.world
        at = world.now - (world.rng.randint(0, self.visibility_lag_ns) if world.chance(0.4) else 0)
        found = [self.orders[id]] if id in self.orders else [] if id else self.by_client.get(client_id, [])
        for order in found:
            state = order.at(at)
            if state is None or order.seen > world.now:
                world.count("fault: find blind")
                continue
            if not id and self.plan.lists and order.created < (since_ms - 60_000) * MS:
                continue
            over = order.history[-1][0]
            if world.now < order.moves and (self.plan.moves or (self.plan.lists and not id)):
                world.count("fault: in neither list")
                continue
            forgotten = self.plan.forgets and not order.open and not order.filled and over + self.plan.forgets < at
            if forgotten:
                world.count("fault: forgotten")
            elif order.wanted.symbol == symbol:
                return order, *state
        return None

    def cancel(self, client_id: str, id: str) -> None:
        world = self.world
        found = [self.orders[id]] if id in self.orders else self.by_client.get(client_id, [])
        working = [order for order in found if order.open and not order.doomed]
        if not working:
            raise Failed(Fate.REFUSED, "no such order works")
        order = working[-1]
        if world.chance(0.25):
            world.count("fault: cancel loses the race")
            left = order.units - order.filled
            self._execute(order, world.rng.choice([left, max(1, left // 2)]), order.limit or self._price(order))
        if world.chance(0.3):
            self.later(world.rng.randint(1, 1500) * MS, lambda: self._end(order))
        else:
            self._end(order)

    # ------------------------------------------------------------------------------------------------ what happens there

    def _price(self, order: Order) -> int:
        return self.world.markets[order.wanted.symbol].price

    def _meet(self, order: Order) -> None:
        """An order meets the market for the first time."""
        if not order.open or order.doomed:
            return
        world, rng, price = self.world, self.world.rng, self._price(order)
        buys = order.wanted.side == "buy"
        if order.limit is None or (order.limit >= price if buys else order.limit <= price):
            left = order.units - order.filled
            part = rng.randint(0, left) if world.chance(0.25) else left
            pieces = rng.randint(1, 3) if part > 2 else 1
            for n in range(pieces):
                some = part if n == pieces - 1 else rng.randint(0, part)
                part -= some
                worse = price + (n if buys else -n)
                if order.limit is not None:
                    worse = min(worse, order.limit) if buys else max(worse, order.limit)
                self._execute(order, some, max(worse, 1), Liquidity.TAKER)
        if order.open and (order.wanted.ioc or order.limit is None):
            world.count("fault: remainder cancelled")
            self._end(order)

    def market(self, symbol: str, number: int, ts: int, price: int, size: float) -> None:
        """A trade, and what it does to the orders that rest."""
        world, rng = self.world, self.world.rng
        for order in [order for order in self.orders.values() if order.open and not order.doomed]:
            limit = order.limit
            if order.wanted.symbol != symbol or limit is None or order.history[-1][0] == world.now:
                continue
            through = limit - price if order.wanted.side == "buy" else price - limit
            if through > 0 or (through == 0 and not world.chance(0.5)):
                left = order.units - order.filled
                self._execute(order, rng.randint(1, left) if world.chance(0.6) else left, limit)

    def _execute(self, order: Order, units: int, price: int, liquidity: Liquidity = Liquidity.MAKER) -> None:
        if not units:
            return
        world, plan, wanted = self.world, self.plan, order.wanted
        instrument = world.instruments[wanted.symbol]
        amount, at = instrument.quantity(units), instrument.price(price)
        base, quote = wanted.symbol.partition(":")[0].split("/")
        rate = plan.fills.fee_maker if liquidity is Liquidity.MAKER else plan.fills.fee_taker
        fees: tuple[tuple[str, Decimal], ...] = ((quote, amount * at * rate),)
        if plan.coin and world.rng.random() < 0.5:
            fees = ((plan.coin, amount * at * rate / 300),)
        elif plan.fills.fee_currency == "base" and wanted.side == "buy":
            fees = ((base, amount * rate),)
        sign = 1 if wanted.side == "buy" else -1
        self._pay(base, sign * amount)
        self._pay(quote, -sign * amount * at)
        for currency, cost in fees:
            self._pay(currency, -cost)
        late = world.rng.randint(0, 4000) * MS if world.chance(0.3) else 0
        fill = Fill(f"t{len(self.trades) + 1}", world.now, at, amount, liquidity, fees)
        trade = Trade(fill, units, price, world.now + late)
        order.filled += units
        order.trades.append(trade)
        self.trades[fill.id] = order, trade
        if order.filled == order.units:
            order.status = "closed"
        self._changed(order)
        world.checks.executed_there(order, trade)

    def _pay(self, currency: str, amount: Decimal) -> None:
        self.totals[currency] = self.totals.get(currency, Decimal(0)) + amount

    def free(self, currency: str) -> Decimal:
        """What no order holds back."""
        held = Decimal(0)
        for order in self.orders.values():
            if order.open:
                base, quote = order.wanted.symbol.partition(":")[0].split("/")
                left = self.world.instruments[order.wanted.symbol].quantity(order.units - order.filled)
                if order.wanted.side == "sell" and currency == base:
                    held += left
                elif order.wanted.side == "buy" and currency == quote and order.wanted.price is not None:
                    held += left * order.wanted.price
        return self.totals.get(currency, Decimal(0)) - held

    def _afford(self, wanted: Wanted) -> None:
        base, quote = wanted.symbol.partition(":")[0].split("/")
        if wanted.side == "sell":
            need, has = wanted.amount, self.free(base)
            self.world.checks.selling(wanted, need, has)
        else:
            assert wanted.price is not None
            need, has = wanted.amount * wanted.price, self.free(quote)
        if need > has:
            raise Failed(Fate.REFUSED, f"needs {need}, has {has}", poor=True)

    def _end(self, order: Order, status: str = "canceled") -> None:
        if order.open:
            order.status = status
            self._changed(order)

    def _doom(self, order: Order) -> None:
        """It will be rejected although it was taken."""
        if order.open and not order.filled:
            order.doomed = True
            self.later(self.world.rng.randint(1, 900) * MS, lambda: self._end(order, "rejected"))

    def _changed(self, order: Order) -> None:
        order.history.append((self.world.now, order.status, order.filled))
        if not order.open and self.world.chance(0.8):
            order.moves = self.world.now + self.world.rng.randint(0, self.visibility_lag_ns)
        if self.world.chance(0.5):
            self._count += 1
            at = self.world.now + self.world.rng.randint(0, 500) * MS
            heapq.heappush(self.reports, (at, self._count, order.wanted.client_id))

    def cancel_something(self) -> None:
        """An order is cancelled that nobody asked to be."""
        working = [order for order in self.orders.values() if order.open and not order.doomed]
        if working:
            self._end(self.world.rng.choice(working))
            self.world.count("fault: cancelled by the venue")

    def heard(self) -> list[str]:
        """Whom the stream has spoken of."""
        due: list[str] = []
        while self.reports and self.reports[0][0] <= self.world.now:
            due.append(heapq.heappop(self.reports)[2])
        return due

    def working(self, symbol: str = "", order: int = -1) -> list[str]:
        """The client ids of orders that work, all or those of one smart order."""
        names = [one.wanted.client_id for one in self.orders.values() if one.open]
        return [name for name in names if not symbol or self.world.checks.intents[name][0] == order]


class SimVenue:
    """What one process sees of it."""

    def __init__(self, exchange: LiveExchange):
        self.exchange, plan = exchange, exchange.plan
        self.name, self.facts = plan.name, plan.facts
        self.request_expiry_ns, self.visibility_lag_ns = plan.expiry, plan.lag
        self.cancelled: dict[str, int] = {}
        """When a cancel of an order was last answered, or was not."""

    async def open(self) -> None:
        """Nothing to learn."""

    async def close(self) -> None:
        """Nothing to close."""

    def now_ms(self) -> int:
        return self.exchange.world.now // MS

    async def create(self, wanted: Wanted) -> str:
        exchange = self.exchange
        exchange.world.checks.creating(wanted)

        def work() -> str:
            return exchange.create(wanted)

        work.client_id = wanted.client_id  # type: ignore[attr-defined]
        try:
            found: str = await exchange.put("create", work, exchange.request_expiry_ns)
        except Failed as failed:
            exchange.world.checks.not_created(wanted, failed)
            raise
        return found

    async def find(self, symbol: str, client_id: str, id: str, since_ms: int, stop: bool = False) -> Truth | None:
        exchange = self.exchange
        exchange.world.checks.looking(client_id, self.cancelled.get(client_id, 0))
        found = await exchange.put("find", lambda: exchange.look(symbol, client_id, id, since_ms))
        if found is None:
            return None
        order, status, units = found
        trades: list[Trade] = []
        if units:
            trades = await exchange.put(
                "trades", lambda: [trade for trade in order.trades if trade.seen <= exchange.world.now]
            )
        return self.truth(order, status, units, trades)

    def truth(self, order: Order, status: str, units: int, trades: list[Trade]) -> Truth:
        told = sum(trade.units for trade in trades)
        if told < units:
            self.exchange.world.count("fault: trades do not add up yet")
            raise Failed(Fate.UNSURE, f"{units} are filled, the trades come to {told}")
        filled = self.exchange.world.instruments[order.wanted.symbol].quantity(told)
        whole = status == "closed" and told == order.units
        is_open = status == "open" or (status not in ("closed", "canceled", "expired", "rejected") and not whole)
        rejected = "it was not taken after all" if status == "rejected" and not told else ""
        return Truth(order.id, is_open, filled, tuple(trade.fill for trade in trades), rejected)

    async def cancel(self, symbol: str, client_id: str, id: str, stop: bool = False) -> bool:
        try:
            if self.name == "coinbase" and not id:
                raise Failed(Fate.NOT_SENT, "by its id only")
            await self.exchange.put("cancel", lambda: self.exchange.cancel(client_id, id))
        finally:
            self.cancelled[client_id] = self.exchange.world.now
        return False

    async def open_orders(self, symbol: str) -> list[tuple[str, str]]:
        working = [order for order in self.exchange.orders.values() if order.open and order.wanted.symbol == symbol]
        return [(order.wanted.client_id, order.id) for order in working]

    async def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        exchange = self.exchange
        found: dict[str, tuple[Decimal, Decimal]] = await exchange.put(
            "balances", lambda: {name: (exchange.free(name), total) for name, total in exchange.totals.items()}
        )
        return found
