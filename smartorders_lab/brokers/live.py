"""LiveBroker: child orders of a session at a real exchange.

    broker = LiveBroker(venue, guard)
    broker.begin(spawn, hear)          # where its work runs, and who is told what comes of it
    broker.submit(submit)              # returns at once; what becomes of it is heard later

Each child has one worker: it creates the order, then follows it until it is over. What it tells is read from the exchange each time anew
(`Venue.find`); private streams only wake it up. It tells a child as absent only when its last request can no longer arrive, and as over
only when every trade of it has been told, so that whoever hears it can believe it.

Whether a request of unknown outcome is repeated under its client id or, once it is proven absent, under a new one, is the rule of the
exchange: Bybit never takes an id twice and Coinbase gives the first order back, so there the id itself keeps a repetition from being a
second order. The others forget the id of an order that is over, some at once: there the proof comes first, and a new id lets both be
looked up.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import ExchangeError, StoreError, short
from ..instrument import Instrument
from ..messages import Cancel, Report, Submit, What
from ..rows import NONE, SCALE
from .guard import Guard, exposure
from .resting import SOLD
from .venues import SECOND_NS, Failed, Fate, Fill, Truth, Venue, Wanted

if TYPE_CHECKING:
    from ..book import Book
    from .resting import Rests
    from .streams import PrivateStream

SHORTEST_S, LONGEST_S = 0.05, 2.0
"""Pauses between looks at an order that works, if nothing wakes them; twice as long each time."""
RESTING_S = 30.0
"""The longest one while a private stream tells what happens to it: two looks a minute and order, where the tightest exchange (Kraken) lets
a key make about twenty. Without a stream it is thirty."""
GIVE_UP_S = 30.0
"""How long a request that the exchange does not take (too many, clock, no connection) is sent again."""
LET_IN_S = 5.0
"""How long a start waits for an exchange to judge its keys, if it takes no request (too many, its numbers)."""
CANCEL_S = 2.0
"""How long after a cancel that came to nothing the next one is sent."""


Reports = list[Report]


log = logging.getLogger(__name__)


class Pauses(Protocol):
    """Where workers wait."""

    async def pause(self, seconds: float, key: str) -> None:
        """Wait, or until `key` is woken."""

    def wake(self, key: str) -> None:
        """Let who waits for `key` go on."""


class _Child:
    """One order: what was asked for, and how far it is."""

    def __init__(self, submit: Submit, since_ms: int, sent_ns: int):
        self.submit, self.since_ms, self.sent_ns = submit, since_ms, sent_ns
        self.id = ""
        self.price: Decimal | None = None
        self.free: Decimal | None = None
        """What there is to be sold where that is less than what was asked for."""
        self.accepted = self.recalled = self.over = self.busy = self.asked = False
        self.rests = self.rested = False
        """It is an order that rested before it was asked for, or was; `accepted`: it is one of its own."""
        self.fills: set[str] = set()
        self.sold = 0
        """What of it was sold by what rested at the exchange before it."""
        self.cancel_ns = self.missed_ns = 0
        self.wakes = 0


class LiveBroker:
    """Children at a real exchange. Raises StoreError for what the exchange says that cannot be true.

    `slippage_cap`: how far from the last price a purchase at market may go. `clock`: ns that nobody sets. `stream`: what the exchange
    says by itself; `beside`: other work that lasts as long as the session; `rests`: what rests at the exchange beside children.
    """

    tells_all = True
    patience_s = 300.0
    """How long a start waits until it is known what became of what was under way."""

    def __init__(
        self,
        venue: Venue,
        guard: Guard,
        pauses: Pauses,
        slippage_cap: Decimal = Decimal("0.01"),
        clock: Callable[[], int] = time.monotonic_ns,
        stream: PrivateStream | None = None,
        beside: Sequence[Callable[[], Coroutine[Any, Any, None]]] = (),
        rests: Rests | None = None,
    ):
        self.venue, self.guard, self.pauses, self.cap, self.clock = venue, guard, pauses, slippage_cap, clock
        self.request_expiry_ns, self.visibility_lag_ns = venue.request_expiry_ns, venue.visibility_lag_ns
        self.stream, self._beside, self.rests = stream, beside, rests
        self._children: dict[str, _Child] = {}
        self._instruments: dict[str, Instrument] = {}
        self._last: dict[str, Decimal] = {}
        self._spawn: Callable[[Coroutine[Any, Any, None]], Any]
        self._hear: Callable[[Reports], None]
        self._starting: Book | None = None

    def begin(self, spawn: Callable[[Coroutine[Any, Any, None]], Any], hear: Callable[[Reports], None]) -> None:
        """From now on work runs where `spawn` puts it, and reports go to `hear`."""
        self._spawn, self._hear = spawn, hear
        for work in self._beside:
            spawn(work())
        if self.stream is not None:
            spawn(self.stream.run(self._names, self.touched))

    async def open(self) -> None:
        """Learn the exchange's markets and its clock. Raises ExchangeError."""
        try:
            await self.venue.open()
            await self._let_in()
            if self.rests is not None:
                await self.rests.open(self)
        except Failed as failed:
            raise ExchangeError(
                f"{self.venue.name}: cannot be traded on: {failed.reason}; see `smartorders doctor`"
            ) from None

    async def _let_in(self) -> None:
        """Have the keys refused now, not by every look at what is under way. Raises Failed."""
        begin = self.clock()
        while True:
            try:
                await self.venue.balances()
                return
            except Failed as failed:
                if failed.fate is Fate.REFUSED:
                    raise
                if failed.fate is not Fate.NOT_SENT or self.clock() > begin + LET_IN_S * SECOND_NS:
                    return
            await self.pauses.pause(0.2, "")

    def resumes(self, book: Book) -> None:
        """A book is about to resume. What its last turn left unsent is sent in there, and must be held against limits, too."""
        self._starting = book
        if self.rests is not None:
            self.rests.book = book

    def settled(self, book: Book) -> None:
        """It is known what became of everything: from here the guard counts by itself."""
        self._starting = None
        self._count(book)
        if self.rests is not None:
            self.rests.settled()
            self._spawn(self.rests.run())

    def _count(self, book: Book, but: str = "") -> None:
        """Have limits count what orders hold and what is under way, `but` for one child."""
        self.guard.begin(*exposure(book, self.guard.clock()))
        for job in book.jobs.values():
            if job.open and job.submit.opens and job.submit.client_id != but:
                market = book.markets[_market(job.submit.symbol)]
                last = market.instrument.price(market.last.get("price", 0))
                self.guard.goes_on(job.submit, market.instrument, job.submit.quantity - job.filled, last)

    async def end(self) -> None:
        """No more requests."""
        await self.venue.close()

    def close(self) -> None:
        """Nothing more: what it knows is at the exchange, and in the journal."""

    # ------------------------------------------------------------------------------------------------ what a book asks

    def list(self, instrument: Instrument) -> None:
        """Trade a market here."""
        self._instruments[instrument.symbol] = instrument

    def tick(self, symbol: str, number: int, ts: int, price: int, buy: int, sell: int, size: float | None) -> None:
        """Where the market is, in the eyes of the session."""
        self._last[symbol] = self._instruments[_market(symbol)].price(price)

    def due(
        self, symbol: str, ts: np.ndarray, price: np.ndarray, buy: np.ndarray, sell: np.ndarray, size: np.ndarray | None
    ) -> tuple[int, Sequence[tuple[str, int, int, bool]]]:
        """Nothing: what happens to a child is reported."""
        return len(ts), []

    def together(self) -> AbstractContextManager[None]:
        """The exchange keeps its own books."""
        return contextlib.nullcontext()

    def match(self, client_id: str) -> Reports:
        """Nothing: what happens to a child is reported."""
        return []

    def submit(self, submit: Submit) -> Reports:
        """Have a child created; REJECTED at once if the guard rails do not let it pass."""
        if submit.client_id in self._children:
            return self.query(submit.client_id)
        if submit.side > 0 and submit.limit is None and submit.symbol not in self._last:
            why = "no price has come yet that a purchase could be held against"
            return [Report(submit.client_id, What.REJECTED, reason=why)]
        if self._starting is not None:
            self._count(self._starting, submit.client_id)
        refusal = self.guard.refusal(submit, self._instrument(submit), self._last.get(submit.symbol))
        if refusal and (submit.opens or self.rests is None or not self.rests.sold(submit.order)):
            return [Report(submit.client_id, What.REJECTED, reason=refusal)]
        child = self._children[submit.client_id] = _Child(submit, self.venue.now_ms(), self.clock())
        self._put_to_work(child, True)
        return []

    def cancel(self, cancel: Cancel) -> Reports:
        """Have a child taken back."""
        child = self._children.get(cancel.client_id)
        if child is None:
            return [Report(cancel.client_id, What.UNKNOWN)]
        child.recalled = True
        self._put_to_work(child, False)
        return []

    def query(self, client_id: str) -> Reports:
        """Have a child looked up."""
        child = self._children.get(client_id)
        if child is None:
            return [Report(client_id, What.UNKNOWN)]
        child.asked = True
        self._put_to_work(child, False)
        return []

    async def fresh(self) -> None:
        """Look now at everything under way that sells. Raises Failed."""
        for child in [*self._children.values()]:
            if not child.over and not child.submit.opens:
                submit = child.submit
                truth = await self.venue.find(_market(submit.symbol), submit.client_id, child.id, child.since_ms)
                if truth is not None and not child.over:
                    self._told(child, truth)
        if self.rests is not None:
            await self.rests.fresh()

    def know(self, submit: Submit, id: str, fills: Mapping[str, int]) -> None:
        """A child of an earlier start, its id at the exchange if that was heard, and the trades that have been told, and how much each."""
        if submit.client_id in self._children:  # sent by this very start
            return
        child = self._children[submit.client_id] = _Child(submit, submit.sent // 1_000_000, self.clock())
        child.rested, child.fills = id.startswith(SOLD), set(fills)
        child.id = "" if child.rested else id
        child.accepted = bool(child.id)
        child.sold = sum(units for name, units in fills.items() if name.startswith(SOLD))

    # ------------------------------------------------------------------------------------------------ workers

    def touched(self, client_id: str) -> None:
        """A stream says that something has happened to a child."""
        child = self._children.get(client_id)
        if child is not None and not child.over:
            self._put_to_work(child, False)
        elif self.rests is not None:
            self.rests.touched(client_id)

    def _names(self) -> dict[str, str]:
        """What the children that are not over are called, here and at the exchange."""
        names = {} if self.rests is None else dict(self.rests.names())
        for client_id, child in self._children.items():
            if not child.over:
                names[client_id] = client_id
                if child.id:
                    names[child.id] = client_id
        return names

    def _put_to_work(self, child: _Child, create: bool) -> None:
        child.wakes += 1
        if child.busy:
            self.pauses.wake(child.submit.client_id)
        elif not child.over:
            child.busy = True
            self._spawn(self._work(child, create))

    async def _work(self, child: _Child, create: bool) -> None:
        try:
            if not (create or self._is_not_sent(child)) or await self._create(child):
                await self._follow(child)
        finally:
            child.busy = False

    def _is_not_sent(self, child: _Child) -> bool:
        """Whether a child of an earlier start is certain never to have been sent: what rests is it still."""
        mine = None if self.rests is None or child.accepted else self.rests.of(child.submit)
        return mine is not None and not mine.over

    async def _create(self, child: _Child) -> bool:
        """Have the exchange take a child; False if that is settled: it does not."""
        if self.rests is not None and not child.submit.opens:
            await self.rests.sell(child)
            if child.over:
                return False
        begin, pause = self.clock(), SHORTEST_S
        while True:
            halted = self.guard.halted
            if child.recalled or halted or self.clock() > begin + GIVE_UP_S * SECOND_NS:
                # up to here every request is known not to have been carried out
                what = What.CANCELLED if child.recalled or child.sold else What.REJECTED
                self._tell(
                    child, [Report(child.submit.client_id, what, reason=halted or "it could not be sent in time")], True
                )
                return False
            child.sent_ns = self.clock()
            try:
                child.id = await self.venue.create(self._wanted(child))
            except Failed as failed:
                log.info("%s: not created (%s): %s", child.submit.client_id, failed.fate, failed)
                child.sent_ns = self.clock()
                self.guard.failed(failed)
                if failed.fate is Fate.REFUSED:
                    if failed.poor and await self._cut_to_free(child):
                        continue
                    reason = f"insufficient funds: {failed.reason}" if failed.poor else failed.reason
                    what = What.CANCELLED if child.sold else What.REJECTED
                    self._tell(child, [Report(child.submit.client_id, what, reason=reason)], True)
                    return False
                if failed.fate is Fate.EXISTS:
                    return True
                if failed.fate is Fate.UNSURE:
                    if not self.venue.facts.repeat:
                        return True
                    if not await self._repeat(child):
                        return True
            else:
                self.guard.worked()
            if child.id:
                child.accepted = True
                self._tell(child, [Report(child.submit.client_id, What.ACCEPTED, fill_id=child.id)])
                return True
            await self.pauses.pause(pause, child.submit.client_id)
            pause = min(2 * pause, LONGEST_S)

    async def _cut_to_free(self, child: _Child) -> bool:
        """Funds are missing for a sale: sell what there is, so that as little as possible stays unprotected. False if nothing is."""
        submit, instrument = child.submit, self._instrument(child.submit)
        if submit.side > 0 or submit.opens or ":" in instrument.symbol or child.free is not None:
            return False
        try:
            balances = await self.venue.balances()
        except Failed:
            return False
        free = balances.get(instrument.symbol.split("/")[0], (Decimal(0), Decimal(0)))[0]
        amount = free // instrument.quantity_increment * instrument.quantity_increment
        asked = self._left(child)
        if not 0 < amount < asked:
            return False
        log.warning("%s: only %s are free to be sold of %s", submit.client_id, amount, asked)
        child.free = amount
        return True

    async def _repeat(self, child: _Child) -> bool:
        """Send a request of unknown outcome again under its id, where that cannot make a second order, until its outcome is known.

        Returns whether it is there; if not, what it came to has to be looked up.
        """
        begin, pause = self.clock(), SHORTEST_S
        while True:
            await self.pauses.pause(pause, child.submit.client_id)
            pause = min(2 * pause, LONGEST_S)
            if child.recalled or self.guard.halted or self.clock() > begin + GIVE_UP_S * SECOND_NS:
                return False
            child.sent_ns = self.clock()
            try:
                child.id = await self.venue.create(self._wanted(child))
                return True
            except Failed as failed:
                child.sent_ns = self.clock()
                self.guard.failed(failed)
                if failed.fate in (Fate.EXISTS, Fate.REFUSED):
                    return False  # a refusal says nothing of the first request

    async def _follow(self, child: _Child) -> None:
        """Look at a child until it is over, or proven absent."""
        submit, pause, told = child.submit, SHORTEST_S, True
        while not child.over:
            seen, fills = child.wakes, len(child.fills)
            if child.recalled and self.clock() >= child.cancel_ns:
                child.cancel_ns = self.clock() + int(CANCEL_S * SECOND_NS)
                with contextlib.suppress(Failed):  # whatever it says, the look that follows says what it came to
                    await self.venue.cancel(_market(submit.symbol), submit.client_id, child.id)
            looked, sure = self.clock(), True  # an answer that takes long says how it stood when it was asked for
            try:
                truth = await self.venue.find(_market(submit.symbol), submit.client_id, child.id, child.since_ms)
            except Failed as failed:
                log.info("%s: not looked up: %s", submit.client_id, failed)
                truth, sure = None, False
            if truth is not None:
                child.missed_ns = 0
                self._told(child, truth)
            elif sure and looked >= child.sent_ns + self.request_expiry_ns + self.visibility_lag_ns:
                child.missed_ns = child.missed_ns or looked
                if looked >= child.missed_ns + self.visibility_lag_ns:  # on its way from list to list it is in neither
                    if child.accepted or not (child.rested or child.sold):
                        self._tell_absent(child)
                        return
                    child.missed_ns = 0
                    if not await self._create(child):  # as far as the books know it is there
                        return
            if self.stream is not None and not told and (child.over or len(child.fills) > fills):
                self.stream.missed()
            if child.over:
                return
            if child.wakes != seen:  # this look may have come before what it was about
                pause = SHORTEST_S
                continue
            await self.pauses.pause(pause, submit.client_id)
            told = child.wakes != seen
            pause = SHORTEST_S if told else min(2 * pause, self._longest(child))

    def _tell_absent(self, child: _Child) -> None:
        name = child.submit.client_id
        if child.accepted:  # some exchanges forget an order that is over and unfilled within hours
            self._tell(child, [Report(name, What.CANCELLED, reason="the exchange has forgotten it")], True)
        else:
            self.guard.over(child.submit)  # sent again it is counted again
            self._tell(child, [Report(name, What.ABSENT)])

    def _longest(self, child: _Child) -> float:
        """The longest pause before a child is looked at again."""
        there = child.accepted or child.rests
        told = self.stream is not None and self.stream.hears and there and not child.recalled
        return RESTING_S if told else LONGEST_S

    def _wanted(self, child: _Child) -> Wanted:
        submit, instrument = child.submit, self._instrument(child.submit)
        side = "buy" if submit.side > 0 else "sell"
        market = submit.limit is None
        if not market:
            child.price = instrument.price(submit.limit)  # type: ignore[arg-type]
        elif submit.side > 0 and child.price is None:
            most = self._last[submit.symbol] * (1 + self.cap)
            child.price = instrument.price(int(most // instrument.price_increment))
        sent_ms = self.venue.now_ms() if not self.venue.facts.repeat else child.since_ms
        return Wanted(
            submit.client_id,
            _market(submit.symbol),
            side,
            self._left(child),
            child.price,
            sent_ms,
            ioc=market and submit.side > 0,
        )

    def _left(self, child: _Child) -> Decimal:
        """What of a child the exchange is to be sent: not what rested has sold, in this start or an earlier one."""
        left = self._instrument(child.submit).quantity(child.submit.quantity - child.sold)
        return left if child.free is None else min(left, child.free)

    # ------------------------------------------------------------------------------------------------ what is told

    def _told(self, child: _Child, truth: Truth) -> None:
        """Tell what is new of what the exchange says."""
        submit = child.submit
        reports = []
        child.id = truth.id
        if child.asked or not child.accepted:  # who has asked hears also that there is nothing new
            child.accepted, child.asked = True, False
            reports.append(Report(submit.client_id, What.ACCEPTED, fill_id=truth.id))
        for fill in truth.fills:
            if fill.id not in child.fills:
                child.fills.add(fill.id)
                reports.append(self._filled(submit, fill))
        whole = truth.filled == self._instrument(submit).quantity(submit.quantity - child.sold)
        over = whole or not truth.open
        if over and not whole:
            what = What.REJECTED if truth.rejected else What.CANCELLED
            reports.append(Report(submit.client_id, what, reason=truth.rejected))
        if reports or over:
            self._tell(child, reports, over)

    def _works(self, child: _Child, name: str) -> None:
        """What rests at the exchange under that name is the order of a child."""
        if child.asked or not child.rests:
            child.rests, child.rested, child.asked = True, True, False
            self._tell(child, [Report(child.submit.client_id, What.ACCEPTED, fill_id=f"{SOLD}{name}")])

    def _sold(self, child: _Child, fills: Sequence[Fill]) -> None:
        """What rested at the exchange has sold these of a child; it is sent for the others alone."""
        reports = [self._filled(child.submit, fill) for fill in fills]
        child.fills |= {report.fill_id for report in reports}
        child.sold += sum(report.quantity for report in reports)
        self._tell(child, reports, child.sold == child.submit.quantity)

    def _filled(self, submit: Submit, fill: Fill) -> Report:
        instrument = self._instrument(submit)
        quantity = fill.amount / instrument.quantity_increment
        if quantity != int(quantity):
            raise StoreError(
                f"{submit.client_id}: trade {short(fill.id)} of {fill.amount} is no multiple of {instrument.quantity_increment}; "
                "look at the account before going on"
            )
        price = round(fill.price / instrument.price_increment)
        fees = tuple((currency, str(cost)) for currency, cost in fill.fees)
        lost = NONE
        if fees:
            base = sum(
                (cost for currency, cost in fill.fees if currency == _market(submit.symbol).split("/")[0]), Decimal(0)
            )
            lost = math.ceil(base * SCALE / instrument.quantity_increment)
        liquidity = int(fill.liquidity)
        return Report(submit.client_id, What.FILLED, fill.ts, price, int(quantity), liquidity, fill.id, "", fees, lost)

    def _tell(self, child: _Child, reports: Reports, over: bool = False) -> None:
        child.over = child.over or over
        for report in reports:
            if report.what is What.FILLED:
                self.guard.filled(child.submit, self._instrument(child.submit), report.price, report.quantity)
        if child.over:
            self.guard.over(child.submit)
        self._hear(reports)
        if self.rests is not None:
            self.rests.wake()

    def _instrument(self, submit: Submit) -> Instrument:
        return self._instruments[_market(submit.symbol)]


def _market(symbol: str) -> str:
    """The market that a book's name of it is traded on: without what is watched there."""
    return symbol.partition("@")[0]
