"""What an order waits for: the prices, the fall or rise, and the time before which the rules would find nothing to do.

Whatever a rule in kernel.py looks at has to be here too. What is given here may come earlier than the rule itself acts (it is looked at
in vain then), never later. Prices are mirrored.
"""

from __future__ import annotations

from .codes import ADD, E_LIMIT, E_MARKET, E_STOP, E_TRAILING, ENTRY, LEG_PENDING
from .exact import ceil_rate, floor_rate
from .jit import kernel
from .kernel import level_quantity
from .position import (
    entry_open,
    entry_recallable,
    first_level,
    free,
    held,
    in_flight,
    is_running,
    move_trail,
    watch_price,
)
from .rows import NEVER, NONE, SCALE


@kernel
def rests(leg):
    """Whether a child order is at the venue and has been matched before."""
    return leg.sent and leg.rested and leg.met == NONE


@kernel
def waits(row, legs, fills, commands, end, own_entry, own_exit, bars):
    """(up, down, fall, rise, due): the next thing that can happen is a tick at or above `up`, at or below `down`, one that is lower
    than an earlier one by the rate `fall`, or higher by `rise` (0: none), or one at or after the time `due`; NONE: the next tick.

    `own_entry`, `own_exit`: whether entries and exits trade at the watched price; if not, a resting limit has to see every tick.
    `bars`: the ticks are points of bars, whose reach of a level is counted even if there is nothing to sell at it.
    """
    up, down, fall, rise = NEVER, NONE, 0, 0
    due = commands[row.command].ts if row.command < end else NEVER
    open_entry = entry_open(row, legs)
    if row.opening or (fills.poll > 0 and (row.trail_rate > 0 or row.ttp_rate > 0 or row.entry_kind == E_TRAILING)):
        return up, down, fall, rise, NONE
    for j in range(row.leg, row.end):
        leg = legs[j]
        if not leg.sent or fills.broker:  # whose reports wake the order
            continue
        if leg.cancel_due != NONE:
            due = min(due, leg.cancel_due)
        if not rests(leg):
            due = min(due, leg.due)
        elif not leg.limit:
            return up, down, fall, rise, NONE
        elif leg.role == ENTRY or leg.role == ADD:
            if not own_entry:
                return up, down, fall, rise, NONE
            down = max(down, leg.price - 1 + fills.touch)
        else:
            if not own_exit:
                return up, down, fall, rise, NONE
            up = min(up, leg.price + 1 - fills.touch)
    if row.cancelling:
        return up, down, fall, rise, due
    if row.entry_expiry > 0 and not row.closing and entry_recallable(row, legs):
        due = min(due, row.created + row.entry_expiry - fills.poll)
    if held(row) > 0:
        exposed = held(row) > in_flight(row, legs, True)
        if row.closing:
            if free(row, legs) > 0:
                return up, down, fall, rise, NONE
            if row.exit_limit:
                down = max(down, row.emergency_x)
        elif exposed:
            down = max(down, max(row.even_x, row.trail_x))
            if row.timeout > 0:
                down = max(down, row.emergency_x)
            if row.timeout == 0 or row.timer == NONE:
                down = max(down, row.stop_x)
            else:
                due = min(due, row.timer + row.timeout - fills.poll)
        if row.max_hold > 0 and exposed and (row.exit_limit or not row.closing):
            due = min(due, row.first_fill + row.max_hold - fills.poll)
        if not row.closing:
            if row.armed:
                fall = row.trail_rate
            elif row.trail_rate > 0:
                up = min(up, row.activation_x)
            for j in range(first_level(row), first_level(row) + row.levels):
                leg = legs[j]
                if is_running(leg):
                    down = max(down, floor_rate(leg.mark, SCALE - row.side * row.ttp_rate))
                    fall = min(fall, row.ttp_rate) if fall > 0 else row.ttp_rate
                elif leg.status == LEG_PENDING and leg.x < up and (bars or level_quantity(row, legs, j) > 0):
                    up = leg.x
    if open_entry and not row.closing:
        if row.entry_kind == E_LIMIT:
            for j in range(row.leg, first_level(row)):
                if legs[j].status == LEG_PENDING:
                    down = max(down, legs[j].x)
        elif legs[row.leg].status == LEG_PENDING:
            if row.entry_kind == E_MARKET:
                due = NONE
            elif row.entry_kind == E_STOP:
                up = min(up, row.entry_x)
            elif row.entry_kind == E_TRAILING:
                if row.entry_armed:
                    up = min(up, ceil_rate(row.entry_mark, SCALE + row.side * row.entry_rate))
                    rise = row.entry_rate
                elif row.entry_activation == NONE:
                    due = NONE
                else:
                    down = max(down, row.entry_activation)
    return up, down, fall, rise, due


@kernel
def pass_over(row, legs, tick, x, best, worst):
    """The order has lived through ticks in which nothing happened to it, the last of them `tick` at `x`, from `worst` to `best`."""
    row.seen = x
    row.cursor = tick + 1
    for j in range(row.leg, row.end):
        if rests(legs[j]):
            legs[j].looked = tick
    if held(row) > 0:
        watch_price(row, best)
        watch_price(row, worst)
        if not row.closing and not row.cancelling:
            if row.armed and row.trail_rate > 0 and best > row.mark:
                row.mark = best
                move_trail(row)
            if row.ttp_rate > 0:
                for j in range(first_level(row), first_level(row) + row.levels):
                    if is_running(legs[j]):
                        legs[j].mark = max(legs[j].mark, best)
    waiting = row.entry_armed and legs[row.leg].status == LEG_PENDING
    if row.entry_kind == E_TRAILING and waiting and not row.closing and not row.cancelling:
        row.entry_mark = min(row.entry_mark, worst)
