"""Many living orders and one new tick: who has to look at it.

Each order has a row of WATCH, made from what it waits for; NOD orders share a row that wakes whenever one of them might. So a tick at
which nothing happens costs a look at one row in NOD. Who is woken catches up with the ticks that it slept through by the tick index.
"""

from __future__ import annotations

from .codes import S_CLOSED
from .exact import ceil_rate, floor_rate
from .jit import entry_point, kernel
from .rows import NEVER, NOD, NONE, SCALE
from .waits import waits


@entry_point
def watch(rows, legs, commands, ends, fills, same, bars, who, count, watched, nods):
    """Say what each of `who[:count]` waits for, in `watched`, and in `nods` for all beside it."""
    for k in range(count):
        i = who[k]
        row, w = rows[i], watched[i]
        w.high, w.low, w.due, w.fall, w.rise, w.top, w.bottom = NEVER, NONE, NEVER, 0, 0, NEVER, NONE
        if row.status >= S_CLOSED:
            continue
        own_entry, own_exit = same & (1 if row.side > 0 else 2), same & (2 if row.side > 0 else 1)
        up, down, fall, rise, due = waits(row, legs, fills[0], commands, ends[i], own_entry, own_exit, bars)
        w.due = due if row.started else min(due, row.created)
        if row.side > 0:
            w.high, w.low, w.fall, w.rise = up, down, fall, rise
        else:
            w.high, w.low, w.fall, w.rise = -down, -up, rise, fall
        if w.fall > 0:
            w.top = NONE
        if w.rise > 0:
            w.bottom = NEVER
    last = -1
    for k in range(count):
        if who[k] // NOD != last:
            last = who[k] // NOD
            nod(watched, nods, last)


@kernel
def nod(watched, nods, block):
    """What wakes any of a block."""
    n = nods[block]
    n.high, n.low, n.due, n.top, n.bottom = NEVER, NONE, NEVER, NEVER, NONE
    for i in range(block * NOD, min(block * NOD + NOD, len(watched))):
        w = watched[i]
        n.high, n.low, n.due = min(n.high, w.high), max(n.low, w.low), min(n.due, w.due)
        n.top, n.bottom = min(n.top, w.top), max(n.bottom, w.bottom)


@entry_point
def wake(price, ts, watched, nods, woken):
    """Put the orders that have to look at a tick into `woken`; returns how many."""
    count = 0
    for block in range(len(nods)):
        n = nods[block]
        if price < n.high and price > n.low and ts < n.due and price <= n.top and price >= n.bottom:
            continue
        for i in range(block * NOD, min(block * NOD + NOD, len(watched))):
            w = watched[i]
            if price >= w.high or price <= w.low or ts >= w.due:
                woken[count] = i
                count += 1
                continue
            if price > w.top:
                w.top = price
                w.low = max(w.low, floor_rate(price, SCALE - w.fall))
            if price < w.bottom:
                w.bottom = price
                w.high = min(w.high, ceil_rate(price, SCALE + w.rise))
        nod(watched, nods, block)
    return count
