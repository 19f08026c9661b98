"""The tape that everything here runs on: a seeded geometric walk, as integer prices. Needs numpy only: the competitors'
environment imports it too."""

from __future__ import annotations

from typing import Any

import numpy as np

INCREMENT = 0.01
START = 5_000_000  # 50,000.00: one step of 1e-4 is 500 increments
STEP = 1e-4
FINE = 2.2e-5
"""The step at which 200 M ticks spread as 10 M of STEP do, and about that of one trade of a busy market: an order at 5 % then
lives millions of ticks."""
SPACING = 1_000_000  # ns between two ticks, so that times tell tick numbers
FIRST = 1_700_000_000 * 10**9
_CHUNK = 1 << 22


def walk(n: int, seed: int = 7, step: float = STEP) -> np.ndarray:
    """`n` prices in increments of 0.01. A shorter walk of the same seed is the beginning of a longer one."""
    units = np.empty(n, np.int64)
    level = np.log(START)
    for first in range(0, n, _CHUNK):
        moves = np.random.default_rng([seed, first]).standard_normal(_CHUNK, np.float32)[: n - first]
        path = np.cumsum(moves, dtype=np.float64)
        path *= step
        path += level
        level = path[-1]
        np.exp(path, out=path)
        np.rint(path, out=units[first : first + len(path)], casting="unsafe")
    return units


def times(n: int) -> np.ndarray:
    """One tick each millisecond, in ns."""
    ts = np.arange(n)
    ts *= SPACING
    ts += FIRST
    return ts


def tick_of(ts: np.ndarray) -> np.ndarray:
    """The tick at a time."""
    return (ts - FIRST) // SPACING


def starts(count: int, n: int, seed: int = 11) -> np.ndarray:
    """Where orders begin: sorted ticks of the first nine tenths, so that most of them end on the tape."""
    return np.sort(np.random.default_rng(seed).integers(0, max(n * 9 // 10, 1), count))


def ticks_of(price: np.ndarray) -> Any:
    """A `Ticks` over the walk itself. Not by `from_arrays`, which takes float prices: at 200 M ticks its copies would not fit."""
    import smartorders_lab as so

    instrument = so.Instrument(symbol="BTC/USDT", price_increment="0.01", quantity_increment="0.001")
    ts = times(len(price))
    for column in (price, ts):
        column.flags.writeable = False
    return so.Ticks(instrument, ts, price, source="benchmarks.tape")


_last: dict[tuple[int, float], Any] = {}


def tape(n: int, step: float = STEP) -> Any:
    """The walk as `Ticks`. The last one is kept, and no other: at 200 M ticks one is 3.2 GB."""
    if (n, step) not in _last:
        _last.clear()
        _last[n, step] = new_tape(n, step)
    return _last[n, step]


def new_tape(n: int, step: float = STEP) -> Any:
    """The walk as `Ticks` that nobody else holds."""
    return ticks_of(walk(n, step=step))
