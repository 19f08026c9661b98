"""A grid shares its passages: many plain orders from one entry, each an exit that is the earliest of a few first passages.

From one entry the tick at which a stop, a level, a rate or a time limit is met does not depend on the other parts of the order. So each
is searched once, and an order costs a few comparisons instead of a life. *Plain* is an order whose parts do not act on one another but
through the earliest of them: see `plain` in outcomes.py; all others take the engine. Prices and sizes come from the rules' own functions
(position.py, kernel.py, venue.py); only their order in time is decided here, and tests hold it equal to the engine.

A *body* is an order less its stop, its trailing stop and its longest hold: size, ladder, break-even. `cells` says for each order which
body, stop, trail and hold it has. What was found of one entry is kept in rows of FOUND and STEP.
"""

from __future__ import annotations

from .codes import (
    E_LIMIT,
    E_MARKET,
    EVEN_OFF,
    EVEN_STOP,
    MAX_HOLD,
    R_EXPIRED,
    R_NONE,
    R_REJECTED,
    S_ACTIVE,
    S_CANCELLED,
    S_CLOSED,
    S_PARTIAL,
    S_PENDING,
    S_STOPPED,
    STOP_LOSS,
    TAKE_PROFIT,
    TAKER,
    TRAILING_STOP,
)
from .exact import floor_rate, share
from .jit import entry_point, kernel, rare
from .kernel import refusal, size_at
from .passages import first_at, passage
from .position import book_entry, even_price, first_level, resolve
from .rows import LEAF, LEAF_BITS, NEVER, NONE, SCALE
from .venue import market_price

AHEAD = 16
"""Entries whose data are fetched at a time."""


@kernel
def reach(ticks, side, t, end, up, down, fall, rise):
    """A passage in the mirror: (tick, best, worst before it)."""
    if side > 0:
        return passage(ticks[2], ticks[8], ticks[9], ticks[10], t, end, up, down, fall, rise)
    hit, top, bottom = passage(ticks[2], ticks[8], ticks[9], ticks[10], t, end, -down, -up, rise, fall)
    return hit, -bottom, -top


@entry_point
def evaluate(
    orders, rows, legs, fills, now, created, cursors, stops, trails, holds, cells, found, steps, ticks, out, at, stride
):
    """Fill `out[at + cells[c, 4] * stride + e]` for every cell c and entry e.

    `orders`: all combinations; `stops`, `trails`, `holds`: for each different one, an order that has it; `rows`, `legs`: scratch copies
    of the orders that stand for the bodies; `cells[c]`: the body, stop, trail and hold of a combination; `found`: scratch for them, one
    after another; `steps`: scratch, a row for each leg.
    """
    end = len(ticks[2])
    fill, moment, side = fills[0], now[0], rows[0].side
    bodies = len(rows)
    first_trail, first_hold = bodies + len(stops), bodies + len(stops) + len(trails)
    for e in range(len(cursors)):
        if e % AHEAD == 0:
            now[0].volume = touch(ticks, cursors, e, min(e + AHEAD, len(cursors)))
        status, reason, t = entry_tick(rows[0], legs, ticks, created[e], cursors[e], end)
        if t < end:
            one, last = enter_all(rows, legs, fill, moment, ticks, t), end
            if one >= 0:
                last = find_exits(orders, rows[one], stops, trails, holds, found, bodies, ticks, t, end)
            for b in range(bodies):
                climb(rows[b], legs, fill, found[b], steps, ticks, t, end, last)
        for c in range(len(cells)):
            o, b = out[at + cells[c, 4] * stride + e], cells[c, 0]
            row = rows[b]
            o.side = side
            o.created = created[e]
            o.levels = row.levels
            o.worst, o.best = NEVER, -NEVER
            o.planned = row.planned
            if t == end:
                o.status, o.reason = status, reason
            elif row.bought == 0:
                o.status, o.reason = S_CANCELLED, R_REJECTED
            else:
                s, r, h = bodies + cells[c, 1], first_trail + cells[c, 2], first_hold + cells[c, 3]
                end_cell(o, row, fill, found[b], found[s], found[r], found[h], steps, ticks, t, end)


@kernel
def touch(ticks, cursors, first, last):
    """Read what the next entries will need: side by side the waits for memory overlap, one after another they add up."""
    total, end = 0, len(ticks[2])
    for e in range(first, last):
        t = cursors[e]
        if t + LEAF < end:
            total += ticks[1][t] + ticks[2][t] + ticks[8][t >> LEAF_BITS, 0]
            for k in range(8, LEAF, 8):
                total += ticks[2][t + k]
    return total


@rare
def find_exits(orders, row, stops, trails, holds, found, k, ticks, t, end):
    """Every stop, trail and hold, into `found` from `k` on; returns a tick by which each order has met one of its own."""
    first, last = k, end
    if len(stops) == 1 and len(trails) == 1 and len(holds) == 1:
        one, hold = orders[trails[0]], orders[holds[0]]
        if one.trail_rate > 0 and one.activation_kind == 0 and hold.max_hold == 0:
            return find_both(row, orders[stops[0]], one, found, k, ticks, t, end)
    for s in range(len(trails)):
        find_trail(row, orders[trails[s]], found, k + len(stops) + s, s > 0, ticks, t, end)
    last = latest(found, k + len(stops), len(trails), end)
    for s in range(len(stops)):
        find_stop(row, orders[stops[s]], found, k + s, s > 0, ticks, t, end, last)
    last = latest(found, k, len(stops), last)
    for s in range(len(holds)):
        find_hold(row, orders[holds[s]], found[first + len(stops) + len(trails) + s], ticks, t, end)
    return latest(found, k + len(stops) + len(trails), len(holds), last)


@kernel
def latest(found, k, count, last):
    """The latest of some ticks, if that is before `last`."""
    tick = 0
    for s in range(k, k + count):
        tick = max(tick, found[s].tick)
    return min(tick, last)


@kernel
def entry_tick(row, legs, ticks, created, cursor, end):
    """(status, reason, tick) of the entry; where nothing is bought the tick is `end`."""
    t = cursor
    if cursor < end and row.entry_kind != E_MARKET:
        if row.entry_kind == E_LIMIT:
            t, _, _ = reach(ticks, row.side, cursor, end, NEVER, legs[row.leg].x, 0, 0)
        else:
            t, _, _ = reach(ticks, row.side, cursor, end, row.entry_x, NONE, 0, 0)
    if row.entry_expiry > 0 and cursor < end and ticks[1][min(t, end - 1)] >= created + row.entry_expiry:
        return S_CANCELLED, R_EXPIRED, end
    return S_PENDING, R_NONE, t


@rare
def enter_all(rows, legs, fills, now, ticks, t):
    """The entry fill of every body: size, average, the prices of its levels and what each sells. Returns one that has bought, or -1."""
    side, one = rows[0].side, -1
    x, base = side * ticks[2][t], side * (ticks[3][t] if side > 0 else ticks[4][t])
    now.ts = ticks[1][t]
    for b in range(len(rows)):
        row = rows[b]
        row.bought = row.bought_taker = row.entered = row.cost = row.cost_taker = row.status = 0
        leg = legs[row.leg]
        quantity = leg.quantity if row.planned > 0 else size_at(row, x)
        if refusal(row, fills, quantity, side * (leg.price if leg.limit else x)) == R_NONE:
            paid = base if leg.limit else market_price(base, side, -1, fills.slippage)
            book_entry(row, legs, fills, now, paid, quantity, TAKER, NONE)
            one = b
    return one


@rare
def climb(row, legs, fills, found, steps, ticks, t, end, last):
    """The levels that a body reaches before `last`, in order, as rows of `steps` from its first level on; and its break-even stop."""
    found.tick, found.count, found.even = end, 0, end
    if row.entered == 0:
        return
    side, first, count = row.side, first_level(row), 0
    hit, best, worst, before = t + 1, NONE, NEVER, NONE
    for j in range(first, first + row.levels):
        if legs[j].x < before:
            hit, best, worst = t + 1, NONE, NEVER
        before = legs[j].x
        hit, higher, lower = reach(ticks, side, min(hit, last), last, legs[j].x, NONE, 0, 0)
        best, worst = max(best, higher), min(worst, lower)
        if hit == last:
            continue
        k = first + count
        while k > first and steps[k - 1].tick > hit:  # only where a price and a distance are the wrong way round
            steps[k] = steps[k - 1]
            k -= 1
        steps[k].tick, steps[k].leg, steps[k].best, steps[k].worst = hit, j, best, worst
        count += 1
    left, proceeds, hits, n = row.entered, 0, 0, 0
    for k in range(first, first + count):
        step = steps[k]
        leg = legs[step.leg]
        quantity = share(left, leg.weight, 100 * SCALE) if row.by_remaining else min(leg.quantity, left)
        if quantity <= 0:
            continue
        left -= quantity
        proceeds += side * sold_at(side, fills, ticks, step.tick) * quantity
        hits |= 1 << (step.leg - first)
        to = steps[first + n]
        to.tick, to.best, to.worst = step.tick, step.best, step.worst
        to.left, to.proceeds, to.hits = left, proceeds, hits
        n += 1
        if left == 0:
            found.tick = to.tick
        elif row.even != EVEN_OFF and n == row.even_after:
            found.x = even_price(row, fills)
            even, best, worst = reach(ticks, side, to.tick + 1, min(last + 1, end), NEVER, found.x, 0, 0)
            found.even = even if even <= last else end
            x = side * ticks[2][to.tick]
            found.best, found.worst = max(best, max(to.best, x)), min(worst, min(to.worst, x))
    found.count = n


@kernel
def sold_at(side, fills, ticks, t):
    """The mirrored price of a market sale at a tick."""
    return market_price(side * (ticks[4][t] if side > 0 else ticks[3][t]), side, 1, fills.slippage)


@rare
def find_stop(row, order, found, k, chained, ticks, t, end, last):
    """Where a stop loss is met. One that lies further away than the one before is not met before it."""
    own = found[k]
    own.x = resolve(row, order.stop_kind, order.stop_value, True)
    begin, best, worst = t + 1, NONE, NEVER
    if chained and own.x <= found[k - 1].x:
        begin, best, worst = found[k - 1].tick, found[k - 1].best, found[k - 1].worst
    until = min(last + 1, end)
    own.tick, higher, lower = reach(ticks, row.side, min(begin, until), until, NEVER, own.x, 0, 0)
    own.best, own.worst = max(best, higher), min(worst, lower)
    if own.tick > last:
        own.tick = end


@rare
def find_both(row, order, trailing, found, k, ticks, t, end):
    """Where the first of one stop and one trailing stop is met, in one search; there is nothing else to share it with."""
    stop, trail, side, rate = found[k], found[k + 1], row.side, trailing.trail_rate
    stop.x = resolve(row, order.stop_kind, order.stop_value, True)
    down = max(stop.x, floor_rate(row.mark, SCALE - side * rate))
    hit, best, worst = reach(ticks, side, t + 1, end, NEVER, down, rate, 0)
    trail.x = floor_rate(max(row.mark, best), SCALE - side * rate)
    stop.tick = trail.tick = found[k + 2].tick = end
    stop.best, stop.worst, trail.best, trail.worst = best, worst, best, worst
    if hit < end:
        x = side * ticks[2][hit]
        if x <= stop.x:
            stop.tick = hit
        if x <= trail.x:
            trail.tick = hit
    return hit


@rare
def find_trail(row, order, found, k, chained, ticks, t, end):
    """Where a trailing stop is met, and what it stood at. A wider one is not met before a narrower one that armed at the same time."""
    own, side, rate = found[k], row.side, order.trail_rate
    begin, best, worst = t + 1, NONE, NEVER
    own.tick, own.x, own.rate, own.best, own.worst = end, NONE, 0, NONE, NEVER
    if rate == 0:
        return
    mark = row.mark
    if order.activation_kind != 0:
        begin, best, worst = reach(
            ticks, side, begin, end, resolve(row, order.activation_kind, order.activation_value, False), NONE, 0, 0
        )
        if begin == end:
            return
        x = side * ticks[2][begin]
        mark, best, worst = max(mark, x), max(best, x), min(worst, x)
        begin += 1
    else:
        own.rate = rate
        if chained and 0 < found[k - 1].rate <= rate:
            begin, best, worst = found[k - 1].tick, found[k - 1].best, found[k - 1].worst
            mark = max(mark, best)
    down = floor_rate(mark, SCALE - side * rate)
    own.tick, higher, lower = reach(ticks, side, begin, end, NEVER, down, rate, 0)
    own.best, own.worst = max(best, higher), min(worst, lower)
    own.x = floor_rate(max(mark, higher), SCALE - side * rate)


@rare
def find_hold(row, order, found, ticks, t, end):
    """Where the longest hold ends."""
    found.tick = end
    if order.max_hold > 0:
        found.tick = first_at(ticks[1], t + 1, end, ticks[1][t] + order.max_hold)
        _, found.best, found.worst = reach(ticks, row.side, t + 1, found.tick, NEVER, NONE, 0, 0)


@kernel
def end_cell(o, row, fills, body, stop, trail, hold, steps, ticks, t, end):
    """The outcome of one order: the earliest of what was found, and the levels reached before it."""
    ts, price, side = ticks[1], ticks[2], row.side
    x = side * price[t]
    o.planned = o.bought = o.bought_taker = row.bought
    o.cost = o.cost_taker = row.cost
    o.entered = row.entered
    o.first_fill = ts[t]
    if row.entered == 0:
        o.status, o.reason = S_CANCELLED, R_REJECTED
        return
    first = first_level(row)
    out = min(min(stop.tick, trail.tick), min(hold.tick, body.even))
    if body.tick < out:
        last = steps[first + body.count - 1]
        o.status, o.reason, o.filled_levels, o.hits = S_CLOSED, TAKE_PROFIT, body.count, last.hits
        o.exited, o.proceeds, o.last_exit = row.entered, last.proceeds, ts[body.tick]
        o.best = max(last.best, max(x, side * price[body.tick]))
        o.worst = min(last.worst, min(x, side * price[body.tick]))
        return
    n = body.count
    while n > 0 and steps[first + n - 1].tick >= out:
        n -= 1
    left = row.entered
    if n > 0:
        last = steps[first + n - 1]
        left, o.proceeds, o.hits, o.last_exit = last.left, last.proceeds, last.hits, ts[last.tick]
    o.filled_levels, o.exited = n, row.entered - left
    if out == end:
        o.status = S_PARTIAL if n > 0 else S_ACTIVE
        o.best, o.worst = max(stop.best, x), min(stop.worst, x)
        return
    if hold.tick == out:
        o.status, o.reason = S_CLOSED, MAX_HOLD
        best, worst = hold.best, hold.worst
    else:
        o.status = S_STOPPED
        o.reason, highest, best, worst = STOP_LOSS, NONE, NONE, NEVER
        if stop.tick == out:
            highest, best, worst = stop.x, stop.best, stop.worst
        if body.even == out and body.x > highest:
            o.reason, highest, best, worst = EVEN_STOP, body.x, body.best, body.worst
        if trail.tick == out and trail.x > highest:
            o.reason, best, worst = TRAILING_STOP, trail.best, trail.worst
    o.best, o.worst = max(best, max(x, side * price[out])), min(worst, min(x, side * price[out]))
    o.exited, o.last_exit = row.entered, ts[out]
    o.proceeds += side * sold_at(side, fills, ticks, out) * left
