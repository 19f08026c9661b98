"""First passages: the first tick at which a price is reached, and the tree over the prices that finds it without looking at each.

Ticks are cut into leaves of LEAF; over them lies a tree with FAN children to a node. A node knows the highest and the lowest of its
prices and, above the leaves, the deepest fall and the highest rise from one of its prices to a later one. A node in which nothing can
happen is passed whole; what cannot be passed is looked at tick by tick, so the tree decides only where *not* to look. Falls and rises
are rounded up, and a leaf counts its whole range as both: that can only make the search look once too often.

`bounds[k]` is (highest, lowest) of node k, leaves first; `moves[k - at[1]]` is (fall, rise) of the nodes above them; `at[level]` is the
first node of a level, and its last entry the end. Here prices are real, not mirrored.
"""

from __future__ import annotations

from .exact import ceil_rate, floor_rate
from .jit import entry_point, kernel
from .rows import FAN, FAN_BITS, LEAF, LEAF_BITS, NEVER, NONE, SCALE

SLACK = 1 + 3e-7
"""More than a float32 loses."""


@entry_point
def build_leaves(price, bounds, first, last):
    """Fill the bounds of leaves `first`..`last`."""
    for leaf in range(first, last):
        begin = leaf * LEAF
        high = price[begin]
        low = high
        if begin + LEAF <= len(price):
            for half in range(begin, begin + LEAF, 32):  # of this length it is vectorised
                for t in range(half, half + 32):
                    high = max(high, price[t])
                    low = min(low, price[t])
        else:
            for t in range(begin, len(price)):
                high = max(high, price[t])
                low = min(low, price[t])
        bounds[leaf, 0] = high
        bounds[leaf, 1] = low


@entry_point
def build_nodes(bounds, moves, at, level, first, last, leaves):
    """Fill the nodes `first`..`last` of a level above the leaves, of which there are `leaves`."""
    below = leaves
    for _ in range(level - 1):
        below = (below + FAN - 1) // FAN
    for node in range(first, last):
        child = at[level - 1] + node * FAN
        high, low = bounds[child, 0], bounds[child, 1]
        fall, rise = 0.0, 0.0
        for k in range(child, at[level - 1] + min(node * FAN + FAN, below)):
            if level == 1:
                fall = max(fall, (bounds[k, 0] - bounds[k, 1]) / bounds[k, 0] * SLACK)
                rise = max(rise, (bounds[k, 0] - bounds[k, 1]) / bounds[k, 1] * SLACK)
            else:
                fall, rise = max(fall, float(moves[k - at[1], 0])), max(rise, float(moves[k - at[1], 1]))
            if k > child:
                fall = max(fall, (high - bounds[k, 1]) / high * SLACK)
                rise = max(rise, (bounds[k, 0] - low) / low * SLACK)
            high, low = max(high, bounds[k, 0]), min(low, bounds[k, 1])
        here = at[level] + node
        bounds[here, 0], bounds[here, 1] = high, low
        moves[here - at[1], 0], moves[here - at[1], 1] = fall, rise


@kernel
def scan(price, t, end, high, low, fall, rise, top, bottom):
    """The first tick from `t` on, before `end`, that a passage ends at; see `passage`."""
    if fall > 0:
        low = max(low, floor_rate(top, SCALE - fall)) if top != NONE else low
        while t < end:
            p = price[t]
            if p >= high or p <= low:
                break
            if p > top:
                top = p
                low = max(low, floor_rate(p, SCALE - fall))
            bottom = min(bottom, p)
            t += 1
    elif rise > 0:
        high = min(high, ceil_rate(bottom, SCALE + rise)) if bottom != NEVER else high
        while t < end:
            p = price[t]
            if p >= high or p <= low:
                break
            if p < bottom:
                bottom = p
                high = min(high, ceil_rate(p, SCALE + rise))
            top = max(top, p)
            t += 1
    else:
        while t < end:
            p = price[t]
            if p >= high or p <= low:
                break
            top = max(top, p)
            bottom = min(bottom, p)
            t += 1
    return t, top, bottom


@kernel
def passage(price, bounds, moves, at, t, end, high, low, fall, rise):
    """The first tick from `t` on, before `end`, at or above `high`, at or below `low`, or lower by the rate `fall` than a tick since
    `t`, or higher by the rate `rise` (0: none; not both); `end` if there is none. Also the highest and the lowest price before it."""
    stop = min(((t >> LEAF_BITS) + 1) << LEAF_BITS, end)
    t, top, bottom = scan(price, t, stop, high, low, fall, rise, NONE, NEVER)
    if t < stop or t == end:
        return t, top, bottom
    limit = fall / SCALE if fall > 0 else rise / SCALE
    side = 0 if fall > 0 else 1
    if fall > 0 and top != NONE:
        low = max(low, floor_rate(top, SCALE - fall))
    if rise > 0 and bottom != NEVER:
        high = min(high, ceil_rate(bottom, SCALE + rise))
    level, shift, node, highest_level = 0, LEAF_BITS, t >> LEAF_BITS, len(at) - 2
    while node & (FAN - 1) == 0 and level < highest_level:
        node >>= FAN_BITS
        shift += FAN_BITS
        level += 1
    while True:
        begin = node << shift
        if begin >= end:
            return end, top, bottom
        k = at[level] + node
        highest, lowest = bounds[k, 0], bounds[k, 1]
        quiet = highest < high and lowest > low and begin + (1 << shift) <= end
        if quiet and limit > 0:
            if level == 0:
                quiet = (highest - lowest) * SLACK < limit * (highest if fall > 0 else lowest)
            else:
                quiet = moves[k - at[1], side] < limit
        if quiet:
            if highest > top:
                top = highest
                if fall > 0:
                    low = max(low, floor_rate(top, SCALE - fall))
            if lowest < bottom:
                bottom = lowest
                if rise > 0:
                    high = min(high, ceil_rate(bottom, SCALE + rise))
        elif level == 0:
            stop = min(begin + LEAF, end)
            t, top, bottom = scan(price, begin, stop, high, low, fall, rise, top, bottom)
            if t < stop or t == end:
                return t, top, bottom
            if fall > 0:
                low = max(low, floor_rate(top, SCALE - fall))
            if rise > 0:
                high = min(high, ceil_rate(bottom, SCALE + rise))
        else:
            level -= 1
            shift -= FAN_BITS
            node <<= FAN_BITS
            continue
        node += 1
        while node & (FAN - 1) == 0 and level < highest_level:
            node >>= FAN_BITS
            shift += FAN_BITS
            level += 1


@kernel
def first_at(ts, t, end, due):
    """The first tick from `t` on, before `end`, whose time is `due` or later; `end` if there is none."""
    step = 1
    low = t
    while low < end and ts[low] < due:
        t = low + 1
        low += step
        step *= 2
    high = min(low, end)
    while t < high:
        middle = (t + high) // 2
        if ts[middle] < due:
            t = middle + 1
        else:
            high = middle
    return t


@entry_point
def find(price, bounds, moves, at, t, end, high, low, fall, rise):
    """`passage`, to be called from Python."""
    return passage(price, bounds, moves, at, t, end, high, low, fall, rise)
