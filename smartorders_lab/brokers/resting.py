"""What rests at the exchange for a session beside its child orders: take-profit levels on the book, and stops for when the machine is dead.

    rests = Rests(path, levels=True)                     # each level that sells at a limit is there before its price is
    rests = Rests(path, distance=Decimal("0.02"))        # 2 % beyond the effective stop of each order
    broker = LiveBroker(venue, guard, pauses, rests=rests)

The engine knows nothing of it: a level waits until its price is there, an exit is asked for when a stop is. What rests here follows what
the books say should be sold and where, and reserves its coins; so before an exit of the order is sent it is taken back, and proven gone.
When it has sold, its trades are the answer to an exit: the order is told to take that level (to close, if it was the stop), and the
child that it then asks for is filled with them, and sent for what is left alone. What a level has sold beyond what is asked of it by
then (something else was sold meanwhile) is a reduction. A level that is reached while it rests is not sent again: its child is the
order that is there already, and the journal has it accepted as `rest:<client id>`. So ledger and events are those of an order whose
levels are sent when reached.

Each trade stands in the journal once: which part of it was given to an exit is in the name of that fill, `rest:<trade>/<where it begins>`.
There is never more than one for a level or a stop: the next is sent when it is known that the one before can sell nothing any more. Its
client id is on disk before it is sent, in a file beside the store; a start reads the file and looks up what has become of each before
anything else happens. When a session ends, what rests stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import string
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ActionError, ActionRefused, ExchangeError
from ..rows import NONE, SCALE, LegStatus, Role, Status
from .venues import SECOND_NS, Failed, Fate, Fill, Wanted

if TYPE_CHECKING:
    from ..book import Book
    from ..messages import Submit
    from .live import LiveBroker, _Child

TURN_S, LOOK_S = 1.0, 30.0
"""How often it is seen whether something has to be moved; how often what rests is looked up if nothing is heard of it."""
AGAIN_S = 30.0
"""How long after one was refused the next is tried."""
ASK_S = 5.0
"""How long after an order was told to sell it is told again."""
GIVE_UP_S = 6.0
"""How long others wait until it is known that what rested of an order is gone."""
PATIENCE_S = 30.0
"""How long a start tries to find out what became of one."""
PREFIX = "sr"
"""What their client ids begin with."""
SOLD = "rest:"
STOP = -1
"""The part of an order that is its protective stop; a level is the part of its number."""

log = logging.getLogger(__name__)


@dataclass
class Rest:
    """One order that rests; `units` and `at` (its price, or trigger) in increments, `over` once it can sell nothing any more."""

    client_id: str
    order: int
    part: int
    symbol: str
    units: int
    at: int
    since_ms: int
    id: str = ""
    sent_ns: int = 0
    look_ns: int = 0
    missed_ns: int = 0
    fills: tuple[Fill, ...] = ()
    over: bool = False
    child: str = ""
    """The child that it is, once its level is reached."""
    unasked: bool = False
    """Its level comes to nothing: what it has sold is asked for as a reduction."""
    given: Counter[str] = field(default_factory=Counter)
    """Of each trade, what exits were filled with."""

    def line(self) -> dict[str, Any]:
        """What has to be known to find it again."""
        return {
            name: getattr(self, name) for name in ("client_id", "order", "part", "symbol", "units", "at", "since_ms")
        }

    def __str__(self) -> str:
        what = "protective stop" if self.part == STOP else f"resting TP{self.part + 1}"
        return f"order {self.order}: its {what} {self.id or self.client_id}"


class Rests:
    """What rests for a session. `levels`: those at a limit do; `distance`: so far beyond its effective stop an order has a protective one,
    as a fraction; `path`: of its file."""

    def __init__(self, path: str | os.PathLike[str], levels: bool = False, distance: Decimal | None = None):
        self.path, self.levels, self.distance = Path(path), levels, distance
        self.broker: LiveBroker
        self.book: Book | None = None
        self._rests: dict[tuple[int, int], Rest] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._hurried: Counter[int] = Counter()
        self._not_before: dict[tuple[int, int], int] = {}
        self._clearing: set[int] = set()
        self._woken = asyncio.Event()

    # ------------------------------------------------------------------------------------------------ what a broker asks

    async def open(self, broker: LiveBroker) -> None:
        """Find out what became of those of earlier starts. Raises Failed, ExchangeError."""
        self.broker = broker
        for rest in self._read():
            if (rest.order, rest.part) in self._rests:
                raise ExchangeError(f"{self.path}: names two of {rest}; look at the account, then remove the file")
            self._rests[rest.order, rest.part] = rest
            rest.sent_ns = begin = broker.clock()
            while True:
                try:
                    await self._look(rest)
                    break
                except Failed:
                    if broker.clock() > begin + int(PATIENCE_S * SECOND_NS):
                        raise
                    await broker.pauses.pause(0.2, rest.client_id)
        if self.path.exists():
            self._write([rest.line() for rest in self._rests.values()], "w")

    def settled(self) -> None:
        """The book is where it was: what was sold meanwhile comes before prices that were missed."""
        for rest in [*self._rests.values()]:
            if self._unclaimed(rest):
                self._has_sold(rest)

    async def run(self) -> None:
        """Follow the book from now on."""
        assert self.book is not None
        while True:
            for number in sorted({*self.book.homes, *(order for order, _ in self._rests)}):
                if self._hurried[number] or self._lock(number).locked():
                    continue  # whoever is at it wakes this when it is done
                try:
                    await self._tend(number)
                except Failed as failed:
                    log.info("order %d: what rests of it is not as it should be yet: %s", number, failed)
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_S):
                    await self._woken.wait()

    def wake(self) -> None:
        """Something has changed that it follows."""
        self._woken.set()

    def names(self) -> Iterator[tuple[str, str]]:
        """(what one is called, its client id) of each that is not over."""
        for rest in self._rests.values():
            if not rest.over:
                yield rest.client_id, rest.client_id
                if rest.id:
                    yield rest.id, rest.client_id

    def sold(self, order: int) -> int:
        """How much of an order has been sold that its books have not heard of, in increments."""
        return 0 if self.book is None else sum(self._excess(rest) for rest in self._of(order))

    def touched(self, client_id: str) -> None:
        """Something may have happened to one."""
        for rest in self._rests.values():
            if rest.client_id == client_id:
                rest.look_ns = 0
                self._woken.set()
                if rest.child:
                    self.broker.touched(rest.child)

    async def fresh(self) -> None:
        """Look at all of them now. Raises Failed."""
        for rest in [*self._rests.values()]:
            async with self._lock(rest.order):
                if not rest.over:
                    await self._look(rest)

    def of(self, submit: Submit) -> Rest | None:
        """What rests for the level that an exit is of."""
        level = self._level(submit)
        return None if level is None else self._rests.get((submit.order, level))

    async def sell(self, child: _Child) -> None:
        """Let what rests answer for an exit that is about to be sent.

        A level is followed until it is over, or recalled; before any other exit all that rests of the order is taken back. Afterwards
        the rest of the exit may be sent: coins that are sold already, or for sale, are not in it. While all is halted, only what has
        been sold is told.
        """
        submit = child.submit
        level, mine, halted = self._level(submit), self.of(submit), bool(self.broker.guard.halted)
        if mine is not None and halted:
            self._give(mine, child)
        elif mine is not None and mine.at == submit.limit:  # an edit may have moved its level
            await self._follow(mine, child)
        self._hurried[submit.order] += 1
        try:
            async with self._lock(submit.order):
                # what other levels rest on are not the coins of this one
                away = [rest for rest in self._of(submit.order) if level is None or rest.part == STOP or rest is mine]
                if not halted:
                    await asyncio.gather(*(self._take_back(rest) for rest in away))
                for rest in self._of(submit.order):
                    if rest.over and (rest is mine or not (self._waits(rest) or self._is_reached(rest))):
                        self._give(rest, child)
                if not halted and self._short(submit.order) > 0:
                    beyond = self._claims(submit.order)[1]
                    await asyncio.gather(*(self._take_back(r) for r in self._of(submit.order) if beyond[r.part]))
                    for rest in self._of(submit.order):
                        most = min(self._short(submit.order), self._claims(submit.order)[1][rest.part])
                        self._give(rest, child, most)
        finally:
            self._hurried[submit.order] -= 1
            self.wake()

    async def _follow(self, rest: Rest, child: _Child) -> None:
        """Stay with a level that is reached, until it is over or it is enough; then it sells nothing any more."""
        rest.child, pause = child.submit.client_id, 0.05
        try:
            while True:
                seen = child.wakes
                async with self._lock(rest.order):
                    self._give(rest, child)
                    if rest.over:
                        return
                    if child.over or child.recalled:
                        await self._take_back(rest)
                        self._give(rest, child)
                        return
                    with contextlib.suppress(Failed):
                        if await self._look(rest):
                            self.broker._works(child, rest.client_id)
                    self._give(rest, child)
                if child.wakes != seen:
                    pause = 0.05
                elif not rest.over and not child.over:
                    await self.broker.pauses.pause(pause, rest.child)
                    pause = min(2 * pause, self.broker._longest(child))
        finally:
            rest.child, child.rests = "", False

    @contextlib.asynccontextmanager
    async def cleared(self, number: int) -> AsyncIterator[None]:
        """Within, nothing of an order rests but for exits, and its books know all that was sold. Raises ActionError where that cannot
        be had; while an exit is being sent it is as it is, for that takes back what rests."""
        if number in self._clearing:
            raise ActionError(f"order {number}: what rests of it is being taken back already; wait for that")
        if self._hurried[number]:
            yield
            return
        mine = [rest for rest in self._of(number) if not rest.child]
        self._hurried[number] += 1
        self._clearing.add(number)
        try:
            try:
                async with asyncio.timeout(GIVE_UP_S):
                    async with self._lock(number):
                        await asyncio.gather(*(self._take_back(rest) for rest in mine))
                    while self._lives(number) and any(self._unclaimed(rest) for rest in mine):
                        for rest in () if self._is_leaving(number) else mine:
                            if self._unclaimed(rest) and not self._is_reached(rest):
                                self._ask(rest)
                        await self.broker.pauses.pause(0.05, "")
            except TimeoutError:
                raise ActionError(
                    f"order {number}: {self.broker.venue.name} does not say whether what rests there has sold; try again"
                ) from None
            yield
        finally:
            self._hurried[number] -= 1
            self._clearing.remove(number)
            self.wake()

    # ------------------------------------------------------------------------------------------------ one order

    def _lock(self, order: int) -> asyncio.Lock:
        return self._locks.setdefault(order, asyncio.Lock())

    def _of(self, order: int) -> list[Rest]:
        return [rest for rest in self._rests.values() if rest.order == order]

    async def _tend(self, number: int) -> None:
        """See that what rests of an order is what should. Raises Failed."""
        async with self._lock(number):
            for rest in self._of(number):
                if not rest.over and self.broker.clock() >= rest.look_ns:
                    await self._look(rest)
            for rest in self._of(number):
                if rest.child or self._hurried[number] or self._is_reached(rest):
                    continue
                fits = not rest.over and self._fits(rest)
                if not fits and not rest.over and not self.broker.guard.halted:
                    await self._take_back(rest, GIVE_UP_S)
                if self._unclaimed(rest):
                    self._has_sold(rest)
                elif rest.over:
                    self._forget(rest)
            for part in self._wanted(number):
                wanted = self._wanted(number).get(part)  # an answer may have taken long
                if wanted is None or (number, part) in self._rests or self._hurried[number]:
                    continue
                if not self.broker.guard.halted and self.broker.clock() >= self._not_before.get((number, part), 0):
                    await self._send(number, part, *wanted)

    def _fits(self, rest: Rest) -> bool:
        """Whether one is as it should be; a stop need not follow every tick."""
        units, at = self._wanted(rest.order).get(rest.part, (0, 0))
        slack = 0 if self.distance is None else max(1, int(rest.at * self.distance / 4))
        if rest.part == STOP and rest.fills:
            return False
        return units == rest.units and abs(at - rest.at) <= slack

    def _wanted(self, number: int) -> dict[int, tuple[int, int]]:
        """What of an order should rest: of each part how much, and where."""
        book = self.book
        if book is None or number not in book.homes or not (self.levels or self.distance is not None):
            return {}
        symbol, trigger = book.homes[number]
        market = book.markets[symbol]
        desk = market.desks[trigger]
        desk._arrive(desk.slots[number])
        rows, legs = desk.state(number)
        row, last = rows[0], market.last.get("price", 0)
        if row["side"] < 0 or row["status"] >= Status.CLOSED or row["closing"] or row["cancelling"] or not last:
            return {}
        free, beyond = self._claims(number)
        stop = _stop(row)
        if free <= 0 or last <= stop:
            return {}
        found: dict[int, tuple[int, int]] = {}
        if self.distance is not None and stop > NONE:
            levels_have = sum(units for part, units in beyond.items() if part != STOP)
            found[STOP] = free - levels_have, int(stop * (1 - self.distance))
        if self.levels:
            levels = legs[int(row["rungs"]) : int(row["rungs"] + row["levels"])]
            for k, leg in enumerate(levels):
                if not self._may_rest(row, levels, k) or leg["x"] <= last:
                    continue
                units = free * int(leg["weight"]) // (100 * SCALE) if row["by_remaining"] else int(leg["quantity"])
                units = min(units, free)
                found[int(leg["number"])] = units, int(leg["x"])
                free -= units
            # what has sold, or may sell, more than its level is asked for now has the coins of others
            over = sum(max(0, units - found.get(part, (0, 0))[0]) for part, units in beyond.items())
            for part in reversed([part for part in found if part != STOP and not self._is_over(number, part)]):
                units, at = found[part]
                found[part] = max(0, units - over), at
                over = max(0, over - units)
        market_of = market.instrument
        return {
            part: (units, at)
            for part, (units, at) in found.items()
            if at > 0
            and units > 0
            and market_of.quantity(units) >= market_of.min_quantity
            and market_of.quantity(units) * market_of.price(at) >= market_of.min_notional
        }

    def _is_over(self, number: int, part: int) -> bool:
        return (number, part) in self._rests and self._rests[number, part].over

    def _claims(self, number: int) -> tuple[int, Counter[int]]:
        """What an order holds that no exit under way has still to sell; and of each part, what rests of it or was sold unheard of,
        beyond the exit that it is the answer to. In increments."""
        book, beyond = self.book, Counter[int]()
        assert book is not None
        row, told = book.rows(number)[0][0], self._told(number)
        free = int(row["entered"] - row["exited"])
        for rest in self._of(number):
            sold = self._units(rest, sum((fill.amount for fill in rest.fills), Decimal(0)))
            beyond[rest.part] = (sold if rest.over else rest.units) - sum(told[fill.id] for fill in rest.fills)
        followed = {rest.child: rest.part for rest in self._of(number) if rest.child}
        for job in book.jobs.values():
            if job.order == number and job.open and not job.submit.opens:
                left = job.submit.quantity - job.filled
                free -= left
                level = followed.get(job.submit.client_id, self._level(job.submit))
                if level is not None:
                    beyond[level] = max(0, beyond[level] - left)
        return free, beyond

    def _short(self, number: int) -> int:
        """How much more an order is about to sell than it holds."""
        assert self.book is not None
        if not self._of(number) or number not in self.book.homes:
            return 0
        free, beyond = self._claims(number)
        return beyond.total() - free

    def _level(self, submit: Submit) -> int | None:
        """The number of the level that an exit is of; None if it is of none."""
        leg = self._leg(submit)
        if self.book is None or leg is None or leg.role != Role.TAKE_PROFIT:
            return None
        return int(leg.number) if self._is_alone(self._levels(submit.order)[1], leg.number) else None

    def _levels(self, number: int) -> tuple[Any, Any]:
        """The row of an order, and its levels."""
        assert self.book is not None
        row, legs = self.book.rows(number)
        return row[0], legs[int(row[0]["rungs"]) : int(row[0]["rungs"] + row[0]["levels"])]

    def _is_alone(self, levels: Any, number: int) -> bool:
        """Whether a number says which level is meant: an edit may give a new one that of a level which is out."""
        return int(((levels["number"] == number) & (levels["status"] <= LegStatus.TRIGGERED)).sum()) == 1

    def _may_rest(self, row: Any, levels: Any, k: int) -> bool:
        """Whether a level is of those that rest: it waits, and sells at its limit."""
        trails = row["ttp_rate"] > 0 and k == len(levels) - 1
        waits = levels["status"][k] == LegStatus.PENDING and self._is_alone(levels, levels["number"][k])
        return bool(waits and levels["limit"][k] and not trails)

    def _leg(self, submit: Submit) -> Any:
        book = self.book
        key = None if book is None else book.by_client.get(submit.client_id)
        if book is None or key is None or key[0] not in book.homes:
            return None
        symbol, trigger = book.homes[key[0]]
        desk = book.markets[symbol].desks[trigger]
        at = desk.leg(*key)
        return None if at is None else desk.legs[int(desk.row(key[0]).leg) + at]

    def _is_reached(self, rest: Rest) -> bool:
        """Whether a level has a child, which is what rests, or will be once it has been looked up."""
        jobs = () if self.book is None or rest.part == STOP else self.book.jobs.values()
        mine = (job for job in jobs if job.order == rest.order and job.open and not job.submit.opens)
        return any(self._level(job.submit) == rest.part for job in mine)

    def _waits(self, rest: Rest) -> bool:
        """Whether a level may still be told of what it has sold."""
        if rest.part == STOP or self.book is None or rest.order not in self.book.homes:
            return False
        row, levels = self._levels(rest.order)
        if rest.unasked or row["closing"] or row["cancelling"] or row["status"] >= Status.CLOSED:
            return False
        return any(levels["number"][k] == rest.part and self._may_rest(row, levels, k) for k in range(len(levels)))

    async def _send(self, number: int, part: int, units: int, at: int) -> None:
        broker, book = self.broker, self.book
        assert book is not None
        symbol = book.homes[number][0]
        instrument = book.markets[symbol].instrument
        name = PREFIX + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(16))
        rest = Rest(name, number, part, symbol, units, at, broker.venue.now_ms(), sent_ns=broker.clock())
        self._write([rest.line()], "a")
        self._rests[number, part] = rest
        price: Decimal | None = instrument.price(at)
        trigger = price if part == STOP else None
        if part == STOP:
            at_market = broker.venue.facts.stop == "market"
            price = None if at_market else instrument.price(int(at * (1 - broker.cap)))
        wanted = Wanted(name, symbol, "sell", instrument.quantity(units), price, rest.since_ms, trigger=trigger)
        try:
            rest.id = await broker.venue.create(wanted)
            rest.look_ns = broker.clock() + int(LOOK_S * SECOND_NS)
        except Failed as failed:
            rest.sent_ns = broker.clock()
            if failed.fate in (Fate.REFUSED, Fate.NOT_SENT):
                rest.over = True
                self._forget(rest)
                self._not_before[number, part] = broker.clock() + int(AGAIN_S * SECOND_NS)
                log.warning("%s is not taken by %s: %s", rest, broker.venue.name, failed.reason)

    async def _look(self, rest: Rest) -> bool:
        """What became of one; whether it is there. Raises Failed."""
        broker, looked = self.broker, self.broker.clock()
        stop = rest.part == STOP
        truth = await broker.venue.find(rest.symbol, rest.client_id, rest.id, rest.since_ms, stop)
        rest.look_ns = broker.clock() + int(LOOK_S * SECOND_NS)
        if truth is not None:
            rest.id, rest.fills, rest.over, rest.missed_ns = truth.id, truth.fills, not truth.open, 0
        elif looked >= rest.sent_ns + broker.request_expiry_ns + broker.visibility_lag_ns:
            rest.missed_ns = rest.missed_ns or looked
            rest.over = looked >= rest.missed_ns + broker.visibility_lag_ns
        if truth is None:
            rest.look_ns = 0
        return truth is not None

    async def _take_back(self, rest: Rest, patience_s: float | None = None) -> None:
        """Have one cancelled, until it is certain that it sells nothing any more; raises Failed if that takes longer than `patience_s`."""
        pause, begin = 0.05, self.broker.clock()
        while not rest.over:
            try:
                if await self.broker.venue.cancel(rest.symbol, rest.client_id, rest.id, rest.part == STOP):
                    rest.over = True
                    return
            except Failed as failed:  # whatever it says, the look that follows says what it came to
                log.debug("%s is not cancelled: %s", rest, failed)
            try:
                await self._look(rest)
            except Failed as failed:
                log.info("%s is not looked up: %s", rest, failed)
            if not rest.over:
                if patience_s is not None and self.broker.clock() > begin + int(patience_s * SECOND_NS):
                    raise Failed(Fate.UNSURE, f"{rest} is not known to be gone")
                await self.broker.pauses.pause(pause, rest.client_id)
                pause = min(2 * pause, 2.0)

    # ------------------------------------------------------------------------------------------------ what it has sold

    def _unclaimed(self, rest: Rest) -> list[tuple[Fill, int]]:
        """Its trades that no exit was given in full, and from where on, in increments."""
        book = self.book
        if book is None or rest.order not in book.specs:
            return [(fill, 0) for fill in rest.fills]
        told = self._told(rest.order)  # `given` knows it sooner
        begins = [(fill, max(told[fill.id], rest.given[fill.id])) for fill in rest.fills]
        return [(fill, begin) for fill, begin in begins if begin < self._units(rest, fill.amount)]

    def _excess(self, rest: Rest) -> int:
        """How much one has sold that no exit was given, in increments."""
        return sum(self._units(rest, fill.amount) - begin for fill, begin in self._unclaimed(rest))

    def _told(self, number: int) -> Counter[str]:
        """Of each trade of what rested, what the exits of an order were filled with, as the journal has it."""
        assert self.book is not None
        told: Counter[str] = Counter()
        for job in self.book.jobs.values():
            if job.order == number:
                for name, units in job.fills.items():
                    if name.startswith(SOLD):
                        told[name.removeprefix(SOLD).rpartition("/")[0]] += units
        return told

    def _units(self, rest: Rest, amount: Decimal) -> int:
        """An amount in increments."""
        assert self.book is not None
        return int(amount / self.book.markets[rest.symbol].instrument.quantity_increment)

    def _give(self, rest: Rest, child: _Child, most: int | None = None) -> None:
        """Fill an exit with what one has sold, with `most` increments of it; forget it if it has nothing more to give."""
        instrument, fills = self.broker._instrument(child.submit), list[Fill]()
        left = child.submit.quantity - child.sold
        left = left if most is None else min(left, most)
        for fill, begin in self._unclaimed(rest):
            some = min(self._units(rest, fill.amount) - begin, left)
            if some > 0:
                part = instrument.quantity(some)
                fees = tuple((currency, cost * part / fill.amount) for currency, cost in fill.fees)
                fills.append(fill._replace(id=f"{SOLD}{fill.id}/{begin}", amount=part, fees=fees))
                rest.given[fill.id] = begin + some
                left -= some
        if fills:
            self.broker._sold(child, fills)
        if rest.over and not self._unclaimed(rest):
            self._forget(rest)

    def _has_sold(self, rest: Rest) -> None:
        """Have its order ask for the exit that this is the answer to, unless one is under way."""
        book, now, key = self.book, self.broker.clock(), (rest.order, rest.part)
        if book is None or now < self._not_before.get(key, 0) or (self.broker.guard.halted and not rest.over):
            return
        if rest.child or self._hurried[rest.order] or self._is_reached(rest):
            return
        self._not_before[key] = now + int(ASK_S * SECOND_NS)
        if not self._lives(rest.order):
            log.error("%s has sold at %s although the order is over", rest, self.broker.venue.name)
            self._forget(rest)
            return
        self._ask(rest)

    def _lives(self, number: int) -> bool:
        book = self.book
        return book is not None and number in book.homes and book.rows(number)[0]["status"][0] < Status.CLOSED

    def _is_leaving(self, number: int) -> bool:
        """Whether an exit of an order is about to be sent: it is given what has been sold."""
        assert self.book is not None
        mine = [job for job in self.book.jobs.values() if job.order == number and job.open and not job.submit.opens]
        children = [self.broker._children.get(job.submit.client_id) for job in mine]
        return any(child is None or not (child.accepted or child.rests) for child in children)

    def _ask(self, rest: Rest) -> None:
        book = self.book
        assert book is not None
        log.warning("%s has sold at %s", rest, self.broker.venue.name)
        with contextlib.suppress(ActionError):  # it is closing already
            if rest.part == STOP:
                stops = _stop(book.rows(rest.order)[0][0]) > NONE
                book.act(rest.order, "stop_out" if stops else "close_at_market")
                return
            if self._waits(rest):
                try:
                    book.act(rest.order, "take_profit", level=rest.part + 1)
                    return
                except ActionRefused as refused:
                    if refused.reason != "no_size":
                        return
                    rest.unasked = True
            # what a level has sold beyond what was asked of it makes the order hold less
            row = book.rows(rest.order)[0][0]
            units = min(self._claims(rest.order)[0], self._excess(rest))
            if rest.over and units > 0 and not (row["closing"] or row["cancelling"] or self._is_leaving(rest.order)):
                quantity = book.markets[rest.symbol].instrument.quantity(units)
                book.act(rest.order, "reduce_funds", quantity=quantity)

    def _forget(self, rest: Rest) -> None:
        self._write([{"gone": rest.client_id}], "a")
        if self._rests.get((rest.order, rest.part)) is rest:
            del self._rests[rest.order, rest.part]
        self._woken.set()

    # ------------------------------------------------------------------------------------------------ its file

    def _read(self) -> list[Rest]:
        found: dict[str, Rest] = {}
        if self.path.exists():
            for text in self.path.read_text().splitlines():
                try:
                    line = json.loads(text)
                except ValueError:  # the end, torn: what it names was never sent
                    continue
                if "gone" in line:
                    found.pop(line["gone"], None)
                else:
                    found[line["client_id"]] = Rest(**line)
        return [*found.values()]

    def _write(self, lines: list[dict[str, Any]], mode: str) -> None:
        """Durable before it returns."""
        target = self.path if mode == "a" else self.path.with_name(self.path.name + ".new")
        new = not target.exists()
        with open(
            os.open(target, os.O_CREAT | os.O_WRONLY | (os.O_APPEND if mode == "a" else os.O_TRUNC), 0o600), "w"
        ) as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        if mode != "a":
            os.replace(target, self.path)
        if new or mode != "a":
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def _stop(row: Any) -> int:
    """The effective stop of an order, in increments; NONE: it has none."""
    return max(int(row["stop_x"]), int(row["even_x"]), int(row["trail_x"]))
