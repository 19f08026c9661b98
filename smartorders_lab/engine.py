"""The engine: moves a table of orders over a chunk of ticks.

Orders do not know one another, so they are taken one after another, each over all ticks of the chunk. A chunk may be a year of
trades or one live tick: cutting the tape anywhere changes nothing, because all that an order remembers is in its rows. (Only the
price before an order's first tick, which a command at that moment looks at, has to be in the same chunk.)
"""

from __future__ import annotations

from .codes import LEG_PENDING, S_CLOSED
from .jit import entry_point, kernel, rare
from .kernel import close_moment, match, start, step
from .management import command
from .passages import first_at, passage
from .position import effective_stop, first_level, held, watch_price
from .rows import BAR, CONTINUOUS, LATE, NEVER, NONE
from .waits import pass_over, waits


@entry_point
def advance(rows, legs, commands, ends, edits, edit_legs, backup, fills, now, out, ticks, who, first, last, upto):
    """Move the orders `who[first:last]` over a chunk of ticks, up to tick number `upto`; returns where it ran out of room, or `last`.

    `ticks` is (base, ts, price, buy, sell, size, flags, same, bounds, moves, at): `base` the index of the chunk's first tick in its
    tape, then one array each, `size` and `flags` possibly empty; `same` says whether `buy` (1) and `sell` (2) are `price`; then the
    tick index of `price`, empty if every tick is to be looked at. `commands[row.command : ends[i]]` are the actions on order i, in
    time order. Each row's `cursor` is the next tick it has to see. Events go to `out`, from `now[0].n` on; when there may not be
    room for one more tick the call returns, and goes on where it was when called again. With a broker it also returns when there is
    something to ask it: then `now[0].asked` says what, and the rows of that order have to be put back to what they were.
    """
    base, ts, price, buy, sell, size, flags, same, bounds, moves, at = ticks
    moment = now[0]
    fill = fills[0]
    for k in range(first, last):
        i = who[k]
        row = rows[i]
        moment.order = i
        while row.status < S_CLOSED and row.cursor < upto:
            t = row.cursor - base
            due = row.command
            while due < ends[i] and commands[due].ts <= ts[t]:
                due += 1
            if moment.n + (4 * (row.end - row.leg) + 16) * (1 + due - row.command) > len(out):
                return k
            flag = flags[t] if len(flags) > 0 else 0
            moment.tick = row.cursor
            moment.x = row.side * price[t]
            moment.last = row.side * price[t - 1] if t > 0 else (moment.x if row.seen == NONE else row.seen)
            moment.before = moment.last
            moment.met = moment.x
            moment.continuous = 1 if flag & CONTINUOUS and t + base > 0 else 0
            moment.entry_base = row.side * (buy[t] if row.side > 0 else sell[t])
            moment.exit_base = row.side * (sell[t] if row.side > 0 else buy[t])
            moment.volume = size[t] if len(size) > 0 else -1
            moment.late = 1 if flag & LATE else 0
            tick(rows, i, legs, commands, due, edits, edit_legs, backup, fill, moment, out, ts, t)
            if moment.asked:
                return k
            if flag & BAR and row.status < S_CLOSED:
                watch_bar(row, legs, price, t, row.cursor)
            row.cursor += 1
            row.seen = moment.x
            if len(bounds) > 0 and row.status < S_CLOSED and row.cursor < upto:
                leap(row, legs, fill, commands, ends[i], base, upto, ts, price, flags, same, bounds, moves, at)
    return last


@entry_point
def between(rows, legs, commands, ends, edits, edit_legs, backup, fills, now, out, i, ts, tick, price):
    """What happens to order `i` between two ticks: it comes into being, is told its command, or hears the broker's report.

    `tick` is the number of the tick to come, `price` the last one. It is done as at the start of that tick, so events are the same whether
    a command waited for it or not. Events go to `out` from `now[0].n` on, which has to have room for (8 · legs + 32).
    """
    row, moment = rows[i], now[0]
    moment.order = i
    moment.tick = tick
    moment.ts = ts
    moment.x = row.side * price
    moment.last = moment.x
    moment.before = moment.x
    moment.met = NONE
    moment.continuous = 0
    moment.volume = -1
    moment.matching = 0
    moment.instant = 0
    moment.late = 0
    if not row.started:
        start(row, legs, fills[0], moment, out)
    while row.command < ends[i] and row.status < S_CLOSED:
        command(rows, i, legs, edits, edit_legs, backup, fills[0], moment, out, commands[row.command])
        close_moment(row, legs)
        row.command += 1
    if row.status < S_CLOSED and fills[0].broker:
        match(row, legs, fills[0], moment, out)


@kernel
def leap(row, legs, fill, commands, end, base, upto, ts, price, flags, same, bounds, moves, at):
    """Pass over the ticks at which nothing can happen to an order."""
    t, stop = row.cursor - base, upto - base
    bars = len(flags) > 0
    own_entry = same & (1 if row.side > 0 else 2)
    own_exit = same & (2 if row.side > 0 else 1)
    up, down, fall, rise, due = waits(row, legs, fill, commands, end, own_entry, own_exit, bars)
    if due == NONE or (bars and row.cursor % 4 > 0):
        return
    if row.side < 0:
        up, down, fall, rise = -down, -up, rise, fall
    hit, highest, lowest = passage(price, bounds, moves, at, t, stop, up, down, fall, rise)
    stop = hit
    if due < NEVER and ts[min(hit, stop - 1)] >= due:
        stop = first_at(ts, t, hit, due)
    if bars:
        stop -= (base + stop) % 4
    if stop <= t:
        return
    if stop < hit:
        hit, highest, lowest = passage(price, bounds, moves, at, t, stop, up, down, fall, rise)
    best, worst = (highest, lowest) if row.side > 0 else (-lowest, -highest)
    pass_over(row, legs, base + stop - 1, row.side * price[stop - 1], best, worst)


@kernel
def tick(rows, i, legs, commands, due, edits, edit_legs, backup, fill, moment, out, ts, t):
    """One order, one tick: commands, venue, and if the tick is looked at, the rules."""
    row = rows[i]
    moment.ts = ts[t]
    moment.matching = 0
    moment.instant = 0
    if not row.started:
        start(row, legs, fill, moment, out)
    while row.command < due and row.status < S_CLOSED:
        moment.ts = commands[row.command].ts
        moment.met = NONE
        command(rows, i, legs, edits, edit_legs, backup, fill, moment, out, commands[row.command])
        close_moment(row, legs)
        row.command += 1
    if row.status >= S_CLOSED:
        return
    moment.ts = ts[t]
    moment.met = moment.x
    moment.matching = 1
    moment.instant = 1 if fill.latency == 0 and not moment.late else 0
    match(row, legs, fill, moment, out)
    if row.status < S_CLOSED:
        looked = True
        if fill.poll > 0:
            moment.ts = (ts[t] // fill.poll + 1) * fill.poll
            looked = t + 1 == len(ts) or ts[t + 1] >= moment.ts
        if looked:
            moment.matching = 0
            step(row, legs, fill, moment, out)
    if held(row) > 0 and row.status < S_CLOSED:
        watch_price(row, moment.x)


@rare
def watch_bar(row, legs, price, t, index):
    """Count bars whose range holds both the stop and the next level: what came first, the bar does not say."""
    bar = index // 4
    if row.last_bar == bar or row.closing or held(row) == 0:
        return
    begin = t - index % 4
    if begin < 0 or begin + 3 >= len(price):
        return
    low = min(row.side * price[begin], row.side * price[begin + 3])
    high = max(row.side * price[begin], row.side * price[begin + 3])
    for k in (1, 2):
        low = min(low, row.side * price[begin + k])
        high = max(high, row.side * price[begin + k])
    if low > effective_stop(row):
        return
    for j in range(first_level(row), first_level(row) + row.levels):
        if legs[j].status == LEG_PENDING:
            if legs[j].x <= high:
                row.bars += 1
                row.last_bar = bar
            return
