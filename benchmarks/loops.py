"""What an expert would write for just this work, in numba: the references that replay is measured against.

Market entry at a tick, one stop, up to some take-profit levels with sizes, break-even after the first of them, a trailing
stop; no fees, no latency. The rules are those of docs/rules.md, to the tick, so output can be compared exactly. Prices are
int64 increments: no slower here than floats, no second copy of the tape, and every comparison is exact. A short reads
`-price`; `side` is a constant of each compiled loop, which therefore pays nothing for it. All but `watch` run on all
cores: threads over parts of the orders are as quick as prange, share uneven lives out better, and compile in a third
of the time.

* `linear`: the tight loop.
* `blocked`: the same, skipping blocks of 64 ticks whose lowest and highest price (SIMD) say that nothing happens in them.
* `shared`: a grid of stops × targets × rates; the passages of each are found once per entry, in one blocked pass, and the exit of
  a combination is the earliest of its three.
* `watch`: one live tick against many watched orders, levels in columns, SIMD any-hit first.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

import numba as nb
import numpy as np

TAKE_PROFIT, STOP_LOSS, BREAK_EVEN, TRAILING_STOP = 2, 4, 5, 6
REASONS = {None: 0, "take_profit": 2, "stop_loss": 4, "break_even": 5, "trailing_stop": 6}
SCALE = 10**8
BLOCK = 64
NEVER = 2**62
QUANTITY = 1000  # units of 0.001, so one coin
Results = tuple[np.ndarray, ...]

_njit = nb.njit(nogil=True, error_model="numpy")
_inline = nb.njit(nogil=True, error_model="numpy", inline="always")
_cached = nb.njit(nogil=True, error_model="numpy", cache=True)


@dataclass(frozen=True)
class Shape:
    """One order: fractions as text without a sign (`"2%"` is `"0.02"`), sizes in percent summing to 100."""

    stop: str = "0.015"
    targets: tuple[str, ...] = ("0.01", "0.02", "0.04")
    sizes: tuple[int, ...] = (40, 35, 25)
    rate: str = "0.02"
    break_even: bool = True
    side: int = 1

    def spec(self) -> Any:
        """The same as a SmartOrder."""
        import smartorders_lab as so

        up, down = ("+", "-") if self.side > 0 else ("-", "+")
        return so.SmartOrder(
            symbol="BTC/USDT",
            side="buy" if self.side > 0 else "sell",
            quantity=1,
            take_profits=[(f"{up}{float(t) * 100:g}%", s) for t, s in zip(self.targets, self.sizes, strict=True)],
            stop_loss=f"{down}{float(self.stop) * 100:g}%",
            trailing_stop=f"{float(self.rate) * 100:g}%",
            break_even=self.break_even or None,
        )

    def numbers(self) -> tuple[int, np.ndarray, np.ndarray, int, bool]:
        """Stop, levels and rate in 1/SCALE, and what each level sells: the differences of floored cumulative shares."""
        upto = [QUANTITY * sum(self.sizes[: k + 1]) // 100 for k in range(len(self.sizes))]
        return (
            scaled(self.stop),
            np.array([scaled(t) for t in self.targets]),
            np.diff(upto, prepend=0),
            scaled(self.rate),
            self.break_even,
        )


def scaled(fraction: str) -> int:
    """A fraction in 1/SCALE."""
    return int(Fraction(fraction) * SCALE)


@_inline
def times_rate(value, numerator):
    """floor(value · numerator / SCALE): prices of 3e8 increments still fit."""
    return value * numerator // SCALE


@_inline
def level_above(x, distance, side):
    """A target at a distance from the entry, rounded away."""
    return -times_rate(-x, SCALE + side * distance)


@_inline
def tick(x, k, levels, amounts, entry, down, stop, even, mark, proceeds, left, break_even):
    """The rule of one tick, stop first: (reason or 0, next level, break-even stop, mark, proceeds, what is left)."""
    trail = times_rate(mark, down)
    if x <= max(stop, even, trail):
        reason = TRAILING_STOP
        if stop >= even and stop >= trail:
            reason = STOP_LOSS
        elif even >= trail:
            reason = BREAK_EVEN
        return reason, k, even, mark, proceeds + x * left, 0
    mark = max(mark, x)
    while k < len(levels) and x >= levels[k]:
        proceeds += x * amounts[k]
        left -= amounts[k]
        k += 1
        if left == 0:
            return TAKE_PROFIT, k, even, mark, proceeds, left
        if break_even:
            even = entry
    return 0, k, even, mark, proceeds, left


@cache
def _linear(side: int) -> Any:
    @_cached
    def run(price, starts, loss, gains, amounts, rate, break_even, exits, reasons, profits):
        n = len(price)
        for i in range(len(starts)):
            entry = side * price[starts[i]]
            levels = np.empty(len(gains) + 1, np.int64)
            for j in range(len(gains)):
                levels[j] = level_above(entry, gains[j], side)
            levels[-1] = NEVER
            stop, even, mark, down = times_rate(entry, SCALE - side * loss), -NEVER, entry, SCALE - side * rate
            floor = max(stop, times_rate(mark, down))
            k, proceeds, left, reason, target = 0, 0, QUANTITY, 0, levels[0]
            upper = min(target, mark + 1)
            for t in range(starts[i] + 1, n):
                x = side * price[t]
                if floor < x < upper:
                    continue
                if floor < x < target:  # a new high
                    mark = x
                    floor, upper = max(floor, times_rate(mark, down)), min(target, mark + 1)
                    continue
                reason, k, even, mark, proceeds, left = tick(
                    x, k, levels[:-1], amounts, entry, down, stop, even, mark, proceeds, left, break_even
                )
                if reason:
                    exits[i] = t
                    break
                floor, target = max(stop, even, times_rate(mark, down)), levels[k]
                upper = min(target, mark + 1)
            reasons[i] = reason
            profits[i] = proceeds - entry * (QUANTITY - left)

    return run


@cache
def _blocked(side: int) -> Any:
    @_cached
    def run(price, starts, loss, gains, amounts, rate, break_even, exits, reasons, profits):
        n = len(price)
        for i in range(len(starts)):
            entry = side * price[starts[i]]
            levels = np.empty(len(gains) + 1, np.int64)
            for j in range(len(gains)):
                levels[j] = level_above(entry, gains[j], side)
            levels[-1] = NEVER
            stop, even, mark, down = times_rate(entry, SCALE - side * loss), -NEVER, entry, SCALE - side * rate
            floor = max(stop, times_rate(mark, down))
            k, proceeds, left, reason, target = 0, 0, QUANTITY, 0, levels[0]
            t = starts[i] + 1
            while reason == 0 and t < n:
                block = price[t : t + BLOCK]
                low, high = extremes(block, side)
                if high < target:
                    top = max(mark, high)  # the stop at the end of the block is the highest that stood in it
                    risen = max(floor, times_rate(top, down)) if high > mark else floor
                    if low > risen:
                        mark, floor = top, risen
                        t += len(block)
                        continue
                for j in range(len(block)):
                    x = side * block[j]
                    if x > mark or x <= floor or x >= target:
                        reason, k, even, mark, proceeds, left = tick(
                            x, k, levels[:-1], amounts, entry, down, stop, even, mark, proceeds, left, break_even
                        )
                        if reason:
                            exits[i] = t + j
                            break
                        floor, target = max(stop, even, times_rate(mark, down)), levels[k]
                t += len(block)
            reasons[i] = reason
            profits[i] = proceeds - entry * (QUANTITY - left)

    return run


@_inline
def extremes(block, side):
    """Lowest and highest of a block; a slice read from 0 on is what lets LLVM use SIMD."""
    low = high = block[0]
    if len(block) == BLOCK:
        for j in range(BLOCK):
            low = min(low, block[j])
            high = max(high, block[j])
    else:
        for j in range(len(block)):
            low = min(low, block[j])
            high = max(high, block[j])
    return (low, high) if side > 0 else (-high, -low)


@cache
def _shared(side: int) -> Any:
    @_cached
    def run(price, starts, losses, gains, rates, exits, reasons, profits):
        n, n_loss, n_gain, n_rate = len(price), len(losses), len(gains), len(rates)
        for i in range(len(starts)):
            entry = side * price[starts[i]]
            stops, targets = np.empty(n_loss + 1, np.int64), np.empty(n_gain + 1, np.int64)
            for j in range(n_loss):
                stops[j] = times_rate(entry, SCALE - side * losses[j])
            for j in range(n_gain):
                targets[j] = level_above(entry, gains[j], side)
            stops[-1], targets[-1] = -NEVER, NEVER
            stopped, gained, turned = np.full(n_loss, n), np.full(n_gain, n), np.full(n_rate, n)
            turns = np.zeros(n_rate, np.int64)  # where the trailing stop stood when it was passed
            a = b = c = 0  # the next stop, target and rate, nearest first; nothing outlives the widest rate
            mark, t = entry, starts[i] + 1
            while c < n_rate and t < n:
                block = price[t : t + BLOCK]
                low, high = extremes(block, side)
                top = max(mark, high)
                if high < targets[b] and low > stops[a] and low > times_rate(top, SCALE - side * rates[c]):
                    mark = top
                    t += len(block)
                    continue
                for j in range(len(block)):
                    x = side * block[j]
                    while x <= stops[a]:
                        stopped[a] = t + j
                        a += 1
                    while c < n_rate:
                        turn = times_rate(mark, SCALE - side * rates[c])
                        if x > turn:
                            break
                        turned[c], turns[c] = t + j, turn
                        c += 1
                    mark = max(mark, x)
                    while x >= targets[b]:
                        gained[b] = t + j
                        b += 1
                t += len(block)
            o = i * n_loss * n_gain * n_rate
            for u in range(n_loss):
                for v in range(n_gain):
                    for w in range(n_rate):
                        at = min(stopped[u], turned[w])
                        if gained[v] < at:
                            at, reason = gained[v], TAKE_PROFIT
                        elif stopped[u] == at and (turned[w] > at or stops[u] >= turns[w]):
                            reason = STOP_LOSS
                        else:
                            reason = TRAILING_STOP
                        if at < n:
                            exits[o], reasons[o] = at, reason
                            profits[o] = (side * price[at] - entry) * QUANTITY
                        o += 1

    return run


def _on_all_cores(run: Any, price: np.ndarray, starts: np.ndarray, each: int, *rest: Any) -> Results:
    """Run a loop over parts of the starts; `each`: how many results a start has."""
    out = tuple(np.full(len(starts) * each, nothing) for nothing in (-1, 0, 0))
    cuts = np.linspace(0, len(starts), 8 * threads() + 1).astype(int)

    def part(a: int, b: int) -> None:
        run(price, starts[a:b], *rest, *(column[a * each : b * each] for column in out))

    with ThreadPoolExecutor(threads()) as pool:
        list(pool.map(part, cuts, cuts[1:]))
    return out


def threads() -> int:
    """How many threads everything gets, ours and the loops."""
    return os.cpu_count() or 1


def linear(price: np.ndarray, starts: np.ndarray, shape: Shape) -> Results:
    """Exit tick (−1: none), reason and profit (in units) of each order; one tick after another."""
    return _on_all_cores(_linear(shape.side), price, starts, 1, *shape.numbers())


def blocked(price: np.ndarray, starts: np.ndarray, shape: Shape) -> Results:
    """As `linear`, 64 ticks at a time where nothing happens."""
    return _on_all_cores(_blocked(shape.side), price, starts, 1, *shape.numbers())


def shared(
    price: np.ndarray, starts: np.ndarray, stops: list[str], targets: list[str], rates: list[str], side: int = 1
) -> Results:
    """As `linear`, for each entry and each combination of a grid with one target; distances and rates ascending."""
    grid = [np.array([scaled(v) for v in axis]) for axis in (stops, targets, rates)]
    return _on_all_cores(_shared(side), price, starts, math.prod(map(len, grid)), *grid)


@_njit
def _watch(x, low, high, hits):
    """Orders whose stop or next upper price (a level, or a new high of one that trails) a tick reaches; returns how many."""
    n = 0
    for first in range(0, len(low), BLOCK):
        lows, highs = low[first : first + BLOCK], high[first : first + BLOCK]
        hit = False
        for j in range(len(lows)):
            hit |= (x <= lows[j]) | (x >= highs[j])
        if hit:
            for j in range(len(lows)):
                if x <= lows[j] or x >= highs[j]:
                    hits[n] = first + j
                    n += 1
    return n


@_njit
def _watch_many(prices, low, high, hits):
    n = 0
    for x in prices:
        n += _watch(x, low, high, hits)
    return n


def watch(prices: np.ndarray, low: np.ndarray, high: np.ndarray) -> int:
    """Ticks in one call against longs with these stops and next upper prices; how many hits there were."""
    return int(_watch_many(prices, low, high, np.empty(len(low), np.int64)))
