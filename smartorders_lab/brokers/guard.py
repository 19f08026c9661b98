"""Guard rails of live trading: limits on what is opened, a switch that stops everything, a breaker after repeated failure.

    guard = Guard(Limits(symbols=["SOL/USDT"], max_order=200, max_symbol=500, max_day=2000, max_orders=5, max_distance="2%"))
    guard.refusal(submit, instrument, last)        # "" or why it must not be sent

Limits are on what adds to a position: what sells it is never held back by them, only by the switch (`halt`, or the file).
All notional is in quote currency.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SpecError, short
from ..fields import fraction, plain
from ..instrument import Instrument, decimal
from ..messages import Submit
from ..rows import Kind, Role, Status
from .venues import Failed, Fate

if TYPE_CHECKING:
    from ..book import Book

FAILURES = 5
"""Requests in a row that fail before the breaker opens."""
REST_S = 60.0
"""How long it stays open."""


@dataclass(frozen=True)
class Limits:
    """What may be opened. Every field has to be given: there is no default for somebody else's money. Raises SpecError.

    `symbols` that may be traded; `max_order`, `max_symbol`, `max_day`: notional of one order, held and under way in one symbol,
    opened in one day (UTC); `max_orders`: orders that open something and work at the same time; `max_distance`: of a limit from
    the last price (`"5%"`).
    """

    symbols: tuple[str, ...]
    max_order: Decimal
    max_symbol: Decimal
    max_day: Decimal
    max_orders: int
    max_distance: Decimal

    def __init__(self, symbols: Any, max_order: Any, max_symbol: Any, max_day: Any, max_orders: Any, max_distance: Any):
        given = [symbols] if isinstance(symbols, str) else list(symbols)
        if not given or not all(isinstance(symbol, str) and "/" in symbol for symbol in given):
            raise SpecError.one("limits.symbols", symbols, "must name markets", 'write ["BTC/USDT"]')
        object.__setattr__(self, "symbols", tuple(given))
        for name, value in (("max_order", max_order), ("max_symbol", max_symbol), ("max_day", max_day)):
            try:
                amount = decimal(value)
            except ValueError as error:
                raise SpecError.one(f"limits.{name}", value, str(error), "write 100") from None
            if not amount.is_finite() or amount <= 0:
                raise SpecError.one(f"limits.{name}", value, "must be more than 0", "give it in quote currency")
            object.__setattr__(self, name, amount)
        if isinstance(max_orders, bool) or not isinstance(max_orders, int) or max_orders < 1:
            raise SpecError.one("limits.max_orders", max_orders, "must be a whole number from 1 on", "write 5")
        object.__setattr__(self, "max_orders", max_orders)
        try:
            distance = fraction(max_distance)
        except ValueError as error:
            raise SpecError.one("limits.max_distance", max_distance, str(error), 'write "5%"') from None
        if not 0 < distance < 1:
            raise SpecError.one("limits.max_distance", max_distance, "must be between 0 and 100 %", 'write "5%"')
        object.__setattr__(self, "max_distance", distance)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "symbols": [*self.symbols],
            **{name: plain(getattr(self, name)) for name in ("max_order", "max_symbol", "max_day", "max_distance")},
            "max_orders": self.max_orders,
        }


class Guard:
    """Lets child orders pass, or says why not. `file`: while it is there, nothing is sent."""

    def __init__(
        self, limits: Limits, file: str | os.PathLike[str] | None = None, clock: Callable[[], float] = time.time
    ):
        self.limits, self.file, self.clock = limits, None if file is None else Path(file), clock
        self._halted = ""
        self._held: dict[str, Decimal] = {}
        self._working: dict[str, tuple[str, Decimal]] = {}
        self._day, self._opened = "", Decimal(0)
        self._failures, self._open_until = 0, 0.0

    def begin(self, held: Mapping[str, Decimal], opened_today: Decimal) -> None:
        """Where an earlier start left off: notional held in each symbol, and opened since midnight (UTC)."""
        self._held, self._day, self._opened = dict(held), self._today(), opened_today
        self._working.clear()  # what this start has sent itself comes with the rest

    def goes_on(self, submit: Submit, instrument: Instrument, quantity: int, last: Decimal) -> None:
        """A child that opens something is under way, and so much of it is not filled. It counts, whatever the limits say."""
        price = last if submit.limit is None else instrument.price(submit.limit)
        notional = price * instrument.quantity(quantity)
        self._working[submit.client_id] = (instrument.symbol, notional)
        self._opened += notional

    # ------------------------------------------------------------------------------------------------ the switch

    @property
    def halted(self) -> str:
        """Why nothing is sent any more; empty if it is."""
        if self._halted:
            return self._halted
        if self.file is not None and self.file.exists():
            return f"halted by the file {self.file}; remove it to go on"
        return ""

    def halt(self, why: str = "halted") -> None:
        """Send nothing any more, until `release`."""
        self._halted = why

    def release(self) -> None:
        """Send again. A file has to be removed by who put it there."""
        self._halted = ""

    # ------------------------------------------------------------------------------------------------ limits

    def refusal(self, submit: Submit, instrument: Instrument, last: Decimal | None) -> str:
        """Why a child must not be sent; empty if it may. One that may be, and opens something, counts from now on."""
        if self.halted:
            return self.halted
        if not submit.opens:
            return ""
        limits, symbol = self.limits, instrument.symbol
        if symbol not in limits.symbols:
            return f"limits.symbols: {short(symbol)} is not among them"
        if self.clock() < self._open_until:
            return f"the breaker is open after {FAILURES} failures in a row; it closes in {self._open_until - self.clock():.0f} s"
        if last is None or last <= 0:
            return "no price is known that the limits could be held against"
        price = last if submit.limit is None else instrument.price(submit.limit)
        if abs(price - last) > last * limits.max_distance:
            return f"limits.max_distance: {plain(price)} is {abs(price - last) / last:.2%} from the last price {plain(last)}"
        notional = price * instrument.quantity(submit.quantity)
        under_way = sum((size for other, size in self._working.values() if other == symbol), Decimal(0))
        if self._day != self._today():
            self._day, self._opened = self._today(), Decimal(0)
        for name, value in (
            ("max_order", notional),
            ("max_symbol", notional + under_way + self._held.get(symbol, Decimal(0))),
            ("max_day", notional + self._opened),
        ):
            if value > getattr(limits, name):
                return f"limits.{name}: {plain(round(value, 2))} would be more than {plain(getattr(limits, name))}"
        if len(self._working) >= limits.max_orders:
            return f"limits.max_orders: {len(self._working)} orders that open something are at work"
        self._working[submit.client_id] = (symbol, notional)
        self._opened += notional
        return ""

    def filled(self, submit: Submit, instrument: Instrument, price: int, quantity: int) -> None:
        """Some of a child was filled."""
        symbol, notional = instrument.symbol, instrument.price(price) * instrument.quantity(quantity)
        held = self._held.get(symbol, Decimal(0))
        if submit.opens:
            self._held[symbol] = held + notional
            if submit.client_id in self._working:
                _, left = self._working[submit.client_id]
                self._working[submit.client_id] = (symbol, max(left - notional, Decimal(0)))
        else:
            self._held[symbol] = max(held - notional, Decimal(0))

    def over(self, submit: Submit) -> None:
        """A child is over; what it did not fill has not been opened."""
        left = self._working.pop(submit.client_id, None)
        if left is not None:
            self._opened = max(self._opened - left[1], Decimal(0))

    # ------------------------------------------------------------------------------------------------ the breaker

    def failed(self, failed: Failed) -> None:
        """A request failed. An order that is refused for itself says nothing of the connection."""
        if failed.fate in (Fate.NOT_SENT, Fate.UNSURE):
            self._failures += 1
            if self._failures >= FAILURES:
                self._failures, self._open_until = 0, self.clock() + REST_S

    def worked(self) -> None:
        """A request was carried out."""
        self._failures, self._open_until = 0, 0.0

    def _today(self) -> str:
        return datetime.fromtimestamp(self.clock(), UTC).strftime("%Y-%m-%d")


def exposure(book: Book, now_s: float) -> tuple[dict[str, Decimal], Decimal]:
    """Notional that living orders hold in each symbol, and that was opened since the last midnight (UTC) before `now_s`."""
    held: dict[str, Decimal] = {}
    for number in book.homes:
        row = book.rows(number)[0][0]
        units = int(row["entered"] - row["exited"])
        if row["status"] < Status.CLOSED and units > 0 and row["bought"]:
            market = book.markets[book.specs[number].symbol].instrument
            average = market.price(int(row["cost"] // row["bought"]))
            held[market.symbol] = held.get(market.symbol, Decimal(0)) + abs(average) * market.quantity(units)
    today = datetime.fromtimestamp(now_s, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    events = book.journal.events()
    opens = np.isin(events["role"], (Role.ENTRY, Role.ADD_FUNDS)) & (events["kind"] == Kind.FILLED)
    opened = Decimal(0)
    for event in events[opens & (events["ts"] >= int(today.timestamp()) * 10**9)]:
        market = book.markets[book.specs[int(event["order"])].symbol].instrument
        opened += abs(market.price(int(event["price"]))) * market.quantity(int(event["quantity"]))
    return held, opened
