"""Many living orders and one new tick: who has to look at it.

Each order has a row in a table of integers (columns HIGH to BOTTOM), made from what it waits for; NOD orders share a row that wakes
whenever one of them might, and all of those share a last one. So a tick at which nothing happens costs a look at one row. Who is woken
catches up with the ticks that it slept through by the tick index.
"""

from __future__ import annotations

from .codes import S_CLOSED
from .exact import ceil_rate, floor_rate
from .jit import entry_point, kernel
from .rows import NEVER, NOD, NONE, SCALE
from .waits import waits

HIGH, LOW, DUE, FALL, RISE, TOP, BOTTOM = range(7)
"""What wakes an order, in real prices: one at or above HIGH or at or below LOW, the time DUE; and while a FALL (RISE) by a rate is waited
for, LOW (HIGH) follows each price above TOP (below BOTTOM)."""


@entry_point
def watch(rows, legs, commands, ends, fills, same, bars, who, count, watched, nods):
    """Say what each of `who[:count]` waits for, in `watched`, and in `nods` for all beside it."""
    for k in range(count):
        i = who[k]
        row, w = rows[i], watched[i]
        w[HIGH], w[LOW], w[DUE], w[FALL], w[RISE], w[TOP], w[BOTTOM] = NEVER, NONE, NEVER, 0, 0, NEVER, NONE
        if row.status >= S_CLOSED:
            continue
        own_entry, own_exit = same & (1 if row.side > 0 else 2), same & (2 if row.side > 0 else 1)
        up, down, fall, rise, due = waits(row, legs, fills[0], commands, ends[i], own_entry, own_exit, bars)
        w[DUE] = due if row.started else min(due, row.created)
        if row.side > 0:
            w[HIGH], w[LOW], w[FALL], w[RISE] = up, down, fall, rise
        else:
            w[HIGH], w[LOW], w[FALL], w[RISE] = -down, -up, rise, fall
        if w[FALL] > 0:
            w[TOP] = NONE
        if w[RISE] > 0:
            w[BOTTOM] = NEVER
    last = -1
    for k in range(count):
        if who[k] // NOD != last:
            last = who[k] // NOD
            nod(watched, last * NOD, min(last * NOD + NOD, len(watched)), nods[last])
    nod(nods, 0, len(nods) - 1, nods[len(nods) - 1])


@kernel
def nod(rows, first, last, n):
    """What wakes any of `rows[first:last]`."""
    n[HIGH], n[LOW], n[DUE], n[TOP], n[BOTTOM] = NEVER, NONE, NEVER, NEVER, NONE
    for i in range(first, last):
        w = rows[i]
        n[HIGH], n[LOW], n[DUE] = min(n[HIGH], w[HIGH]), max(n[LOW], w[LOW]), min(n[DUE], w[DUE])
        n[TOP], n[BOTTOM] = min(n[TOP], w[TOP]), max(n[BOTTOM], w[BOTTOM])


@kernel
def sleeps(n, price, ts):
    """Whether a tick concerns nobody."""
    return price < n[HIGH] and price > n[LOW] and ts < n[DUE] and price <= n[TOP] and price >= n[BOTTOM]


@entry_point
def first_wake(prices, times, first, last, watched, nods, woken):
    """The first of the ticks `first` to `last - 1` that somebody has to look at, and how many have to, who are put into `woken`."""
    for t in range(first, last):
        count = wake(prices[t], times[t], watched, nods, woken)
        if count > 0:
            return t, count
    return last, 0


@kernel
def wake(price, ts, watched, nods, woken):
    """Put the orders that have to look at a tick into `woken`; returns how many."""
    count, blocks = 0, len(nods) - 1
    if sleeps(nods[blocks], price, ts):
        return 0
    for block in range(blocks):
        if sleeps(nods[block], price, ts):
            continue
        first, last = block * NOD, min(block * NOD + NOD, len(watched))
        for i in range(first, last):
            w = watched[i]
            if price >= w[HIGH] or price <= w[LOW] or ts >= w[DUE]:
                woken[count] = i
                count += 1
                continue
            if price > w[TOP]:
                w[TOP] = price
                w[LOW] = max(w[LOW], floor_rate(price, SCALE - w[FALL]))
            if price < w[BOTTOM]:
                w[BOTTOM] = price
                w[HIGH] = min(w[HIGH], ceil_rate(price, SCALE + w[RISE]))
        nod(watched, first, last, nods[block])
    nod(nods, 0, blocks, nods[blocks])
    return count
