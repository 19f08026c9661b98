"""Ticks that were recorded, fed to a session as if they came in now, at any speed.

    with so.paper(feed=so.recorded(ticks, speed=60)) as session:
        session.place(order)
        session.wait()

Time stands still until the first order of a symbol is placed, and between two starts of a session. With `paused=True` it goes on only
when told to: `feed.play(until=1000)`, then `session.wait()`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError, short
from ..instrument import Instrument
from ..messages import Block, Notice
from ..ticks import Ticks
from ..times import instant_ns, instant_text

BLOCK = 4096
"""Most ticks that are handed over at once."""
_TIMES = 10**15
"""From here on a number is a time in ns, and not that of a tick."""
_STEP_S = 0.005
"""With a speed: how often what is due by now is handed over, in seconds of this machine's time."""


class RecordedFeed:
    """A feed of `ticks`, one symbol or several. `speed`: how many times as fast as it was, None: as fast as it goes.

    Raises DataError for bars, which are paths and not ticks, and for ticks without a symbol.
    """

    name = "recorded"
    real_time = False

    def __init__(self, ticks: Ticks | Sequence[Ticks], speed: float | None = 1.0, paused: bool = False):
        several = [ticks] if isinstance(ticks, Ticks) else list(ticks)
        for one in several:
            if not isinstance(one, Ticks) or one.bars is not None:
                raise DataError(
                    f"ticks = {short(one)}: must be Ticks, and not bars; read trades or quotes with Ticks.read(...)"
                )
            if not one.symbol:
                raise DataError('ticks: name no symbol; read them with Ticks.read(..., symbol="BTC/USDT")')
        if speed is not None and not 0 < float(speed) < float("inf"):
            raise DataError(f"speed = {short(speed)}: must be above 0, or None for as fast as it goes")
        self.ticks = {one.symbol: one for one in several}
        if len(self.ticks) < len(several):
            raise DataError("ticks: a symbol stands twice; join its ticks with ticks.append(...)")
        self.speed = speed
        self._until: int | None = -1 if paused else None
        self._at: dict[str, int] = {}
        self._began: tuple[float, int] | None = None
        self._ended = self._told = False
        self._changed: asyncio.Event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()
        self.on_play: Callable[[], None] = lambda: None
        """Called before it goes on; a session sets it."""

    def __repr__(self) -> str:
        at = {**self._at}
        tapes = [
            f"{symbol} {f'{at[symbol]:,} of ' if symbol in at else ''}{len(ticks):,} ticks"
            for symbol, ticks in self.ticks.items()
        ]
        how = "as fast as it goes" if self.speed is None else f"{self.speed:g} times as fast as it was"
        until = self._until
        rests = [] if until is None else ["paused" if until < 0 else f"up to {_limit(until)}"]
        return f"RecordedFeed({', '.join([*tapes, how, *rests])})"

    def describe(self) -> dict[str, Any]:
        """What a session remembers of it."""
        return {symbol: ticks.data_hash for symbol, ticks in self.ticks.items()}

    def clock(self) -> int:
        """A time in ns before all ticks: what happens before the first of them happens then."""
        return min((int(one.ts[0]) for one in self.ticks.values() if len(one.ts)), default=1) - 1

    # ------------------------------------------------------------------------------------------------ what a session calls

    async def open(self) -> None:
        """Get ready, in the session's event loop, from the beginning. Raises DataError while another session has it."""
        if self._loop is not None and not self._ended:
            raise DataError("feed: another session is at it; close that one, or make another feed of the same ticks")
        self._loop, self._changed = asyncio.get_running_loop(), asyncio.Event()
        self._at, self._began, self._ended, self._told = {}, None, False, False

    def instrument(self, symbol: str) -> Instrument:
        """The market of a symbol. Raises DataError if it was not recorded."""
        return self._ticks(symbol).instrument

    async def start(self, symbol: str, triggers: frozenset[str] = frozenset({"last"}), token: str = "") -> None:
        """Begin with a symbol, after the tick that `token` names. Raises DataError for a trigger that was not recorded."""
        ticks = self._ticks(symbol)
        for trigger in triggers:
            ticks.view(trigger)
        if symbol not in self._at:
            with self._lock:
                self._at[symbol] = int(token or 0)
                self._began, self._told = None, False
            self._changed.set()

    async def stop(self, symbol: str) -> None:
        """No more of a symbol."""
        with self._lock:
            self._at.pop(symbol, None)

    async def next(self) -> Block | Notice | None:
        """The next ticks. A Notice `paused` when it stops to wait for `play`, `ended` when all have been handed over; None once closed."""
        while True:
            self._changed.clear()
            if self._ended:
                return None
            with self._lock:
                symbol, until, wait = self._next_symbol()
                if symbol is not None and wait <= 0:
                    return self._block(symbol, until)
                if symbol is None and not self._told:
                    self._told = True
                    left = not self._at or any(at < len(self.ticks[s].ts) for s, at in self._at.items())
                    return Notice("", "paused" if left else "ended", "")
            if symbol is None:
                await self._changed.wait()
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), max(wait, _STEP_S))

    def at_rest(self, then: Callable[[], None]) -> None:
        """Call `then`, unless it has been told to go on since it said that it stopped."""
        with self._lock:
            if self._told:
                then()

    async def close(self) -> None:
        """Hand over no more."""
        self._ended = True
        if self._loop is not None:
            self._changed.set()

    # ------------------------------------------------------------------------------------------------ what a user calls

    def play(self, until: Any = None) -> None:
        """Go on, up to tick number `until` of each symbol, or up to a time; None: to the end. May be called from any thread."""
        limit = _until(until)
        with self._lock:
            self.on_play()
            self._until, self._told, self._began = limit, False, None
        self._wake()

    def pause(self) -> None:
        """Stop here."""
        with self._lock:
            self._until = -1
        self._wake()

    # ------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    def _ticks(self, symbol: str) -> Ticks:
        if symbol not in self.ticks:
            raise DataError(f"symbol = {short(symbol)}: was not recorded; there is {', '.join(self.ticks)}")
        return self.ticks[symbol]

    def _last(self, symbol: str) -> int:
        """The number of the tick before which a symbol has to stop for now."""
        ts, until = self.ticks[symbol].ts, self._until
        if until is None:
            return len(ts)
        return min(until, len(ts)) if until < _TIMES else int(np.searchsorted(ts, until))

    def _next_symbol(self) -> tuple[str | None, int, float]:
        """Whose tick is next, the tick before which its block ends, and how many seconds it is until then."""
        waiting = {s: int(self.ticks[s].ts[at]) for s, at in self._at.items() if at < self._last(s)}
        if not waiting:
            return None, 0, 0.0
        symbol = min(waiting, key=lambda s: waiting[s])
        ts, at, last = self.ticks[symbol].ts, self._at[symbol], self._last(symbol)
        last = min(last, at + BLOCK)
        others = [t for s, t in waiting.items() if s != symbol]
        if others:
            last = max(min(last, int(np.searchsorted(ts, min(others), "right"))), at + 1)
        if self.speed is None:
            return symbol, last, 0.0
        if self._began is None:
            self._began = (time.monotonic(), int(ts[at]))
        now = self._began[1] + int((time.monotonic() - self._began[0]) * self.speed * 1e9)
        due = int(np.searchsorted(ts, now, "right"))
        if due <= at:
            return symbol, last, (int(ts[at]) - now) / 1e9 / self.speed
        return symbol, min(last, due), 0.0

    def _block(self, symbol: str, last: int) -> Block:
        ticks, at = self.ticks[symbol], self._at[symbol]
        self._at[symbol] = last
        columns = {n: getattr(ticks, n) for n in ("size", "bid", "ask", "mark")}
        price = next(c for c in (ticks.price, ticks.mark, ticks.bid) if c is not None)
        parts: dict[str, Any] = {n: None if c is None else c[at:last] for n, c in columns.items()}
        return Block(symbol, ticks.ts[at:last], price[at:last], token=str(last), **parts)


def recorded(ticks: Ticks | Sequence[Ticks], speed: float | None = 1.0, paused: bool = False) -> RecordedFeed:
    """Ticks as a feed for `paper(feed=...)`; see RecordedFeed."""
    return RecordedFeed(ticks, speed, paused)


def _limit(until: int) -> str:
    return f"tick {until:,}" if until < _TIMES else instant_text(until)


def _until(until: Any) -> int | None:
    if until is None or isinstance(until, (int, np.integer)):
        return until if until is None else int(until)
    try:
        return instant_ns(until)
    except ValueError as error:
        raise DataError(f"until = {short(until)}: {error}") from None
