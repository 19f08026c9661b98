"""A protective stop that rests at the exchange, so that a machine that is dead is not an open loss.

    broker = LiveBroker(venue, guard, pauses, protector=Protector(Decimal("0.02"), path))

It lies a distance beyond the effective stop of its order, so that the session's own comes first, and follows it. Its coins are reserved
by it, therefore it is taken back, and proven gone, before any exit of that order is sent; what the exit leaves is protected anew. There is
never more than one for an order: the next is sent when it is known that the one before can sell nothing any more.

When it has fired, what it sold is the answer to an exit: the order is told to close, and the exit that it then asks for is never sent but
filled with the trades of the stop (`withdraw`). So the books need nothing new, and each trade stands in the journal once: which part of it
was given to an exit is in the name of that exit's fill, `stop:<trade>/<where it begins>`.

Its client id is on disk before it is sent, in a file beside the store. A start reads the file and looks up what has become of each before
anything else happens. When a session ends, its stops stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ActionError, ExchangeError
from ..rows import NONE, Status
from .venues import SECOND_NS, Failed, Fate, Fill, Wanted

if TYPE_CHECKING:
    from ..book import Book
    from ..messages import Submit
    from .live import LiveBroker

TURN_S, LOOK_S = 1.0, 30.0
"""How often it is seen whether stops have to be moved; how often one that rests is looked up if nothing is heard of it."""
AGAIN_S = 30.0
"""How long after a stop was refused the next is tried."""
ASK_S = 5.0
"""How long after an order was told to close it is told again."""
PATIENCE_S = 30.0
"""How long a start tries to find out what became of a stop."""
PREFIX = "sp"
SOLD = "stop:"

log = logging.getLogger(__name__)


@dataclass
class Stop:
    """One protective stop; `units` and `at` (its trigger) in increments, `over` once it can sell nothing any more."""

    client_id: str
    order: int
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

    def line(self) -> dict[str, Any]:
        """What has to be known to find it again."""
        return {name: getattr(self, name) for name in ("client_id", "order", "symbol", "units", "at", "since_ms")}


class Protector:
    """The protective stops of a session. `distance`: of the effective stop, as a fraction of it; `path`: of its file."""

    def __init__(self, distance: Decimal, path: str | os.PathLike[str]):
        self.distance, self.path = distance, Path(path)
        self.broker: LiveBroker
        self.book: Book | None = None
        self._stops: dict[int, Stop] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._not_before: dict[int, int] = {}
        self._woken = asyncio.Event()

    # ------------------------------------------------------------------------------------------------ what a broker asks

    async def open(self, broker: LiveBroker) -> None:
        """Find out what became of the stops of earlier starts. Raises Failed, ExchangeError."""
        self.broker = broker
        for stop in self._read():
            if stop.order in self._stops:
                raise ExchangeError(
                    f"{self.path}: names two protective stops of order {stop.order}; look at the account, then remove the file"
                )
            self._stops[stop.order] = stop
            stop.sent_ns = begin = broker.clock()
            while True:
                try:
                    await self._look(stop)
                    break
                except Failed:
                    if broker.clock() > begin + int(PATIENCE_S * SECOND_NS):
                        raise
                    await broker.pauses.pause(0.2, stop.client_id)
        self._write([stop.line() for stop in self._stops.values()], "w")

    async def run(self, book: Book) -> None:
        """From now on orders are protected."""
        self.book = book
        while True:
            for number in sorted({*book.homes, *self._stops}):
                try:
                    await self._tend(number)
                except Failed as failed:
                    log.info("order %d: not protected yet: %s", number, failed)
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_S):
                    await self._woken.wait()

    def names(self) -> Iterator[tuple[str, str]]:
        """(what a stop is called, its client id) of each that is not over."""
        for stop in self._stops.values():
            if not stop.over:
                yield stop.client_id, stop.client_id
                if stop.id:
                    yield stop.id, stop.client_id

    def touched(self, client_id: str) -> None:
        """Something may have happened to a stop."""
        for stop in self._stops.values():
            if stop.client_id == client_id:
                stop.look_ns = 0
                self._woken.set()

    async def withdraw(self, submit: Submit) -> list[Fill]:
        """Take the stop of an order back before an exit is sent; returns what of this exit it has sold already."""
        async with self._lock(submit.order):
            stop = self._stops.get(submit.order)
            if stop is None:
                return []
            await self._take_back(stop)
            instrument, left, sold = self.broker._instrument(submit), submit.quantity, list[Fill]()
            for fill, begin in self._unclaimed(stop):
                units = min(int(fill.amount / instrument.quantity_increment) - begin, left)
                if units > 0:
                    part = instrument.quantity(units)
                    fees = tuple((currency, cost * part / fill.amount) for currency, cost in fill.fees)
                    sold.append(fill._replace(id=f"{SOLD}{fill.id}/{begin}", amount=part, fees=fees))
                    left -= units
            if not sold:
                self._forget(stop)
            return sold

    # ------------------------------------------------------------------------------------------------ one order

    def _lock(self, order: int) -> asyncio.Lock:
        return self._locks.setdefault(order, asyncio.Lock())

    async def _tend(self, number: int) -> None:
        async with self._lock(number):
            stop = self._stops.get(number)
            if stop is not None:
                units, at = self._wanted(number)
                if not stop.over and self.broker.clock() >= stop.look_ns:
                    await self._look(stop)
                far = abs(at - stop.at) > max(1, int(stop.at * self.distance / 4))
                if not stop.over and not stop.fills and units == stop.units and not far:
                    return
                await self._take_back(stop)
                if self._unclaimed(stop):
                    self._closed_by(stop)
                    return
                self._forget(stop)
            units, at = self._wanted(number)
            if units and not self.broker.guard.halted and self.broker.clock() >= self._not_before.get(number, 0):
                await self._send(number, units, at)

    def _wanted(self, number: int) -> tuple[int, int]:
        """How much of an order is to be protected, and where; (0, 0) if nothing is."""
        book = self.book
        if book is None or number not in book.homes:
            return 0, 0
        symbol, trigger = book.homes[number]
        market = book.markets[symbol]
        desk = market.desks[trigger]
        desk._arrive(desk.slots[number])
        row = desk.state(number)[0][0]
        stop = max(int(row["stop_x"]), int(row["even_x"]), int(row["trail_x"]))
        if row["side"] < 0 or row["status"] >= Status.CLOSED or row["closing"] or stop <= NONE:
            return 0, 0
        leaving = sum(
            job.submit.quantity - job.filled
            for job in book.jobs.values()
            if job.order == number and job.open and not job.submit.opens
        )
        units, at = int(row["entered"] - row["exited"]) - leaving, int(stop * (1 - self.distance))
        if units <= 0 or at <= 0 or market.last.get("price", 0) <= stop:
            return 0, 0
        return units, at

    async def _send(self, number: int, units: int, at: int) -> None:
        broker, book = self.broker, self.book
        assert book is not None
        symbol = book.homes[number][0]
        instrument = book.markets[symbol].instrument
        name = PREFIX + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(16))
        stop = Stop(name, number, symbol, units, at, broker.venue.now_ms(), sent_ns=broker.clock())
        self._write([stop.line()], "a")
        self._stops[number] = stop
        trigger = instrument.price(at)
        price = None if broker.venue.facts.stop == "market" else instrument.price(int(at * (1 - broker.cap)))
        wanted = Wanted(name, symbol, "sell", instrument.quantity(units), price, stop.since_ms, trigger=trigger)
        try:
            stop.id = await broker.venue.create(wanted)
            stop.look_ns = broker.clock() + int(LOOK_S * SECOND_NS)
        except Failed as failed:
            stop.sent_ns = broker.clock()
            if failed.fate in (Fate.REFUSED, Fate.NOT_SENT):
                stop.over = True
                self._forget(stop)
                self._not_before[number] = broker.clock() + int(AGAIN_S * SECOND_NS)
                log.warning("order %d: %s takes no protective stop: %s", number, broker.venue.name, failed.reason)

    async def _look(self, stop: Stop) -> None:
        """What became of a stop. Raises Failed."""
        broker, looked = self.broker, self.broker.clock()
        truth = await broker.venue.find(stop.symbol, stop.client_id, stop.id, stop.since_ms, True)
        stop.look_ns = broker.clock() + int(LOOK_S * SECOND_NS)
        if truth is not None:
            stop.id, stop.fills, stop.over, stop.missed_ns = truth.id, truth.fills, not truth.open, 0
        elif looked >= stop.sent_ns + broker.request_expiry_ns + broker.visibility_lag_ns:
            stop.missed_ns = stop.missed_ns or looked
            stop.over = looked >= stop.missed_ns + broker.visibility_lag_ns
        if truth is None:
            stop.look_ns = 0

    async def _take_back(self, stop: Stop) -> None:
        """Have a stop cancelled, until it is certain that it sells nothing any more."""
        pause = 0.05
        while not stop.over:
            with contextlib.suppress(Failed):
                await self.broker.venue.cancel(stop.symbol, stop.client_id, stop.id, True)
            try:
                await self._look(stop)
            except Failed as failed:
                log.info("order %d: its protective stop is not looked up: %s", stop.order, failed)
            if not stop.over:
                await self.broker.pauses.pause(pause, stop.client_id)
                pause = min(2 * pause, 2.0)

    # ------------------------------------------------------------------------------------------------ what it has sold

    def _unclaimed(self, stop: Stop) -> list[tuple[Fill, int]]:
        """Its trades that no exit was given in full, and from where on, in increments."""
        book = self.book
        if book is None or stop.order not in book.specs:
            return [(fill, 0) for fill in stop.fills]
        given: dict[str, int] = {}
        for job in book.jobs.values():
            if job.order == stop.order:
                for name, units in job.fills.items():
                    if name.startswith(SOLD):
                        trade = name.removeprefix(SOLD).rpartition("/")[0]
                        given[trade] = given.get(trade, 0) + units
        increment = book.markets[stop.symbol].instrument.quantity_increment
        return [(fill, given.get(fill.id, 0)) for fill in stop.fills if given.get(fill.id, 0) < fill.amount / increment]

    def _closed_by(self, stop: Stop) -> None:
        """Have an order close whose stop has fired: the exit that it asks for is what the stop has sold."""
        book, now = self.book, self.broker.clock()
        if book is None or now < self._not_before.get(stop.order, 0):
            return
        self._not_before[stop.order] = now + int(ASK_S * SECOND_NS)
        if stop.order not in book.homes or book.rows(stop.order)[0]["status"][0] >= Status.CLOSED:
            log.error("order %d is over, and its protective stop %s has sold all the same", stop.order, stop.id)
            self._forget(stop)
            return
        log.warning("order %d: its protective stop has fired at %s", stop.order, self.broker.venue.name)
        with contextlib.suppress(ActionError):  # it is closing already
            book.act(stop.order, "close_at_market")

    def _forget(self, stop: Stop) -> None:
        self._write([{"gone": stop.client_id}], "a")
        self._stops.pop(stop.order, None)

    # ------------------------------------------------------------------------------------------------ its file

    def _read(self) -> list[Stop]:
        found: dict[str, Stop] = {}
        if self.path.exists():
            for text in self.path.read_text().splitlines():
                try:
                    line = json.loads(text)
                except ValueError:  # the end, torn: what it names was never sent
                    continue
                if "gone" in line:
                    found.pop(line["gone"], None)
                else:
                    found[line["client_id"]] = Stop(**line)
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
