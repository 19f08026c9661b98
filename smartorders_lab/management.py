"""Actions on a living order: open now, edit, add, reduce, take profit, stop out, close, cancel (docs/rules.md, section Actions).

Arguments that recur: `row`, `legs` the order and the table of legs; `fills` the fill model; `now` the moment (rows.NOW); `out` the
events. Prices are mirrored (`x = side · price`): a short is a long in a mirror, and each rule stands here once.
"""

from __future__ import annotations

from .codes import (
    ACTION,
    ACTION_REFUSED,
    ADD,
    CANCEL,
    CLOSE,
    EDIT,
    EVEN_OFF,
    F_ENTRY,
    F_EVEN,
    F_EXPIRY,
    F_HOLD,
    F_LEVELS,
    F_RESIZE,
    F_SIZE,
    F_STOP,
    F_TRAILING,
    F_TTP,
    LEG_CANCELLED,
    LEG_PENDING,
    OPEN_NOW,
    R_CLOSING,
    R_LARGE,
    R_MANY,
    R_NO_SIZE,
    R_NONE,
    R_STALE,
    R_STATUS,
    R_TRIGGER,
    REDUCE,
    REJECTED,
    STOP_LOSS,
    STOP_OUT,
    TAKE_PROFIT,
    TRAILING_TP,
    TRIGGERED,
)
from .exact import floor_rate, share
from .jit import rare
from .kernel import decide_exit, escalate, level_quantity, refusal, send, settle
from .position import (
    assign,
    cancel_entry,
    cancel_exits,
    cancel_open,
    effective_stop,
    emit,
    even_price,
    exit_leg,
    fast_role,
    fire_break_even,
    first_level,
    free,
    is_running,
    is_waiting,
    move_trail,
    resolve,
)
from .rows import NONE, SCALE


@rare
def refuse(row, now, out, command, reason):
    """Say no; nothing changes."""
    emit(row, now, out, ACTION_REFUSED, command.role, command.level, command.price, asked(row, now, command), 0, reason)


@rare
def take(row, now, out, command, quantity):
    """Say yes; what the venue refused may be tried again."""
    row.refused = 0
    row.retry = 0
    emit(row, now, out, ACTION, command.role, command.level, command.price, quantity, 0, R_NONE)


@rare
def command(rows, i, legs, edits, edit_legs, backup, fills, now, out, command):
    """Apply one action to order `i`. `now.last` is the price that it sees."""
    row = rows[i]
    role = command.role
    if command.version >= 0 and command.version != row.seq:
        refuse(row, now, out, command, R_STALE)
    elif row.cancelling or (row.closing and role != CLOSE and role != STOP_OUT and role != CANCEL):
        refuse(row, now, out, command, R_CLOSING)
    elif role == OPEN_NOW:
        open_now(row, legs, fills, now, out, command)
    elif role == EDIT:
        edit(rows, i, legs, edits, edit_legs, backup, fills, now, out, command)
    elif role == ADD:
        if row.bought == 0:
            plan_more(row, legs, now, out, command)
        else:
            add_funds(row, legs, fills, now, out, command)
    elif role == REDUCE:
        if row.bought == 0:
            plan_less(row, legs, now, out, command)
        else:
            reduce_funds(row, legs, fills, now, out, command)
    elif role == TAKE_PROFIT:
        take_level(row, legs, fills, now, out, command)
    elif role == CLOSE or role == STOP_OUT:
        leave(row, legs, fills, now, out, command)
    else:
        take(row, now, out, command, 0)
        row.cancelling = 1
        cancel_open(row, legs, fills, now, out)
        cancel_exits(row, legs, fills, now, out)
        settle(row, legs, fills, now, out)


@rare
def open_now(row, legs, fills, now, out, command):
    """Stop waiting and enter at market; refused if the entry is already on its way as a market order."""
    waits = row.bought == 0 and not row.opening
    for j in range(row.leg, first_level(row)):
        if legs[j].sent and not legs[j].limit:
            waits = False
    if not waits:
        refuse(row, now, out, command, R_STATUS)
        return
    take(row, now, out, command, 0)
    row.opening = 1
    cancel_entry(row, legs, fills, now, out)
    settle(row, legs, fills, now, out)


@rare
def is_out(row, legs):
    """Whether a child of the entry is out, so that its size can no longer be planned, or nothing of the entry waits."""
    waits = False
    for j in range(row.leg, first_level(row)):
        if legs[j].sent:
            return True
        waits = waits or legs[j].status == LEG_PENDING
    return not waits


@rare
def plan(row, legs, change):
    """Change the planned size of an order that has bought nothing yet."""
    row.extra += change
    if row.planned > 0:
        row.planned += change
        share_rungs(row, legs)


@rare
def share_rungs(row, legs):
    """Give each waiting rung its share of the planned size."""
    size, given = 0, 0
    for j in range(row.leg, first_level(row)):
        size += legs[j].weight
        upto = share(row.planned, size, 100 * SCALE)
        if legs[j].status == LEG_PENDING:
            legs[j].quantity = upto - given
        given = upto


@rare
def asked(row, now, command):
    """The quantity of an add, which may have been given as cost."""
    if not command.by_cost:
        return command.quantity
    return command.quantity // (now.last * row.side if command.price == NONE else command.price * row.side)


@rare
def plan_more(row, legs, now, out, command):
    """Add funds before anything was bought."""
    if is_out(row, legs):
        refuse(row, now, out, command, R_STATUS)
        return
    quantity = asked(row, now, command)
    plan(row, legs, quantity)
    take(row, now, out, command, quantity)


@rare
def plan_less(row, legs, now, out, command):
    """Reduce funds before anything was bought."""
    if is_out(row, legs):
        refuse(row, now, out, command, R_STATUS)
    elif row.planned > 0 and command.quantity >= row.planned:
        refuse(row, now, out, command, R_LARGE)
    else:
        plan(row, legs, -command.quantity)
        take(row, now, out, command, command.quantity)


@rare
def slot(row, legs):
    """A leg that an add or reduce can use; -1 if all are out."""
    for j in range(exit_leg(row) + row.exits, row.end):
        if not legs[j].sent:
            return j
    return -1


@rare
def send_extra(row, legs, fills, now, out, command, j, number, quantity):
    """Send an add or reduce."""
    leg = legs[j]
    leg.role = command.role
    leg.number = number
    leg.limit = command.limit
    leg.price = command.price
    send(row, legs, fills, now, j, now.last, quantity)


@rare
def add_funds(row, legs, fills, now, out, command):
    """Buy more."""
    quantity = asked(row, now, command)
    price = row.side * (now.last if command.price == NONE else command.price)
    j = slot(row, legs)
    if j < 0:
        refuse(row, now, out, command, R_MANY)
    elif refusal(row, fills, quantity, price) != R_NONE:
        take(row, now, out, command, quantity)
        reason = refusal(row, fills, quantity, price)
        emit(row, now, out, REJECTED, ADD, row.adds, row.side * price, quantity, 0, reason)
    else:
        take(row, now, out, command, quantity)
        send_extra(row, legs, fills, now, out, command, j, row.adds, quantity)
        row.adds += 1


@rare
def reduce_funds(row, legs, fills, now, out, command):
    """Sell some."""
    j = slot(row, legs)
    if command.quantity <= 0:
        refuse(row, now, out, command, R_NO_SIZE)
    elif command.quantity > free(row, legs):
        refuse(row, now, out, command, R_LARGE)
    elif j < 0:
        refuse(row, now, out, command, R_MANY)
    else:
        take(row, now, out, command, command.quantity)
        send_extra(row, legs, fills, now, out, command, j, row.adds, command.quantity)
        row.adds += 1


@rare
def take_level(row, legs, fills, now, out, command):
    """Send what a level would sell, as if its price had been reached; one that trails sells at market."""
    for j in range(first_level(row), first_level(row) + row.levels):
        leg = legs[j]
        if leg.number != command.level or not is_waiting(leg) or row.bought == 0:
            continue
        trails = is_running(leg)
        quantity = min(leg.quantity, free(row, legs)) if trails else level_quantity(row, legs, j)
        if quantity <= 0:
            refuse(row, now, out, command, R_NO_SIZE)
            return
        take(row, now, out, command, 0)
        emit(
            row, now, out, TRIGGERED, TRAILING_TP if trails else TAKE_PROFIT, leg.number, now.last, quantity, 0, R_NONE
        )
        if row.ttp_rate > 0 and j == first_level(row) + row.levels - 1:
            leg.limit = 0
        leg.price = leg.x
        send(row, legs, fills, now, j, now.last, quantity)
        return
    refuse(row, now, out, command, R_STATUS)


@rare
def leave(row, legs, fills, now, out, command):
    """Sell everything at market: by the user's decision, or as the effective stop would."""
    role = CLOSE
    if command.role == STOP_OUT:
        role = STOP_LOSS if row.stop_x == effective_stop(row) else fast_role(row)
    if row.bought == 0 or (command.role == STOP_OUT and effective_stop(row) == NONE):
        refuse(row, now, out, command, R_STATUS)
    else:
        take(row, now, out, command, 0)
        if not row.closing:
            decide_exit(row, legs, fills, now, out, role, now.last, 0)
        elif row.exit_limit:
            escalate(row, legs, fills, now, out, role, now.last)


@rare
def edit(rows, i, legs, edits, edit_legs, backup, fills, now, out, command):
    """Take over the fields of `command.mask` from row `command.edit` of the edited specs."""
    row = rows[i]
    new = edits[command.edit]
    mask = command.mask
    kept = 0
    for j in range(first_level(row), first_level(row) + row.levels):
        if legs[j].status != LEG_PENDING:
            kept += 1
    entry_sent = row.opening > 0
    for j in range(row.leg, first_level(row)):
        entry_sent = entry_sent or legs[j].status != LEG_PENDING
    if ((mask & (F_ENTRY | F_SIZE)) and (row.bought > 0 or entry_sent)) or (command.living and row.bought == 0):
        refuse(row, now, out, command, R_STATUS)
        return
    if (mask & F_LEVELS) and kept + new.levels > row.level_slots:
        refuse(row, now, out, command, R_MANY)
        return
    backup[0] = rows[i]
    fired = row.even_fired
    copy_fields(row, new, mask)
    if row.bought > 0:
        refresh(row, fills, mask)
        level = NONE
        if mask & F_LEVELS and new.levels > 0:
            first = edit_legs[first_level(new)]
            level = resolve(row, first.target_kind, first.target_value, False)
        stop = row.stop_x if mask & F_STOP else NONE
        stop = max(stop, row.trail_x if mask & F_TRAILING else NONE)
        stop = max(stop, row.even_x if mask & F_EVEN else NONE)
        if mask & F_TTP:
            for j in range(first_level(row), first_level(row) + row.levels):
                if is_running(legs[j]) and row.ttp_rate > 0:
                    stop = max(stop, floor_rate(legs[j].mark, SCALE - row.side * row.ttp_rate))
        triggers = now.last <= stop or (level != NONE and now.last >= level)
        if triggers and not command.force:
            rows[i] = backup[0]
            refuse(row, now, out, command, R_TRIGGER)
            return
    if mask & F_TTP and row.ttp_rate == 0:
        for j in range(first_level(row), first_level(row) + row.levels):
            if is_running(legs[j]):
                legs[j].status = LEG_PENDING
                legs[j].mark = NONE
    if mask & F_LEVELS:
        replace_levels(row, legs, new, edit_legs)
    if mask & F_ENTRY:
        replace_rungs(row, legs, new, edit_legs)
    if mask & (F_ENTRY | F_SIZE | F_RESIZE) and row.bought == 0 and not entry_sent:
        row.planned = new.planned + row.extra if new.planned > 0 else 0
        share_rungs(row, legs)
    if row.even_fired and not fired:
        row.even_fired = 0
        row.even_x = NONE
    take(row, now, out, command, 0)
    fire_break_even(row, fills, now, out)


@rare
def copy_fields(row, new, mask):
    """Configuration of the fields in `mask`."""
    if mask & F_ENTRY:
        row.entry_kind = new.entry_kind
        row.entry_x = new.entry_x
        row.entry_limit = new.entry_limit
        row.entry_rate = new.entry_rate
        row.entry_activation = new.entry_activation
        row.entry_armed = 0
    if mask & (F_ENTRY | F_SIZE):
        row.size_kind = new.size_kind
        row.amount = new.amount
    if mask & F_SIZE:
        row.by_remaining = new.by_remaining
        row.extra = 0
    if mask & F_STOP:
        row.stop_kind = new.stop_kind
        row.stop_value = new.stop_value
        row.stop_limit_kind = new.stop_limit_kind
        row.stop_limit_value = new.stop_limit_value
        row.emergency_kind = new.emergency_kind
        row.emergency_value = new.emergency_value
        row.timeout = new.timeout
        row.timer = NONE
    if mask & F_TRAILING:
        if row.activation_kind != new.activation_kind or row.activation_value != new.activation_value:
            row.armed = 0
        row.trail_rate = new.trail_rate
        row.activation_kind = new.activation_kind
        row.activation_value = new.activation_value
    if mask & F_EVEN:
        row.even = new.even
        row.even_after = new.even_after
        row.even_offset = new.even_offset
    if mask & F_LEVELS:
        row.runner = new.runner
    if mask & F_TTP:
        row.ttp_rate = new.ttp_rate
    if mask & F_HOLD:
        row.max_hold = new.max_hold
    if mask & F_EXPIRY:
        row.entry_expiry = new.entry_expiry


@rare
def refresh(row, fills, mask):
    """What edited fields mean for a position that is held."""
    row.stop_x = resolve(row, row.stop_kind, row.stop_value, True)
    row.stop_limit_x = resolve(row, row.stop_limit_kind, row.stop_limit_value, True)
    row.emergency_x = resolve(row, row.emergency_kind, row.emergency_value, True)
    row.activation_x = resolve(row, row.activation_kind, row.activation_value, False)
    if mask & F_TRAILING:
        row.armed = row.trail_rate > 0 and (row.armed > 0 or row.activation_kind == 0)
        move_trail(row)
    if mask & F_EVEN:
        row.even_fired = row.even != EVEN_OFF and row.filled_levels >= row.even_after
        row.even_x = even_price(row, fills) if row.even_fired else NONE


@rare
def replace_levels(row, legs, new, edit_legs):
    """The levels that have not triggered give way to the edited ones; the runner is what both leave of 100 per cent."""
    begin = first_level(row)
    to = begin
    size = 0
    for j in range(begin, begin + row.levels):
        if legs[j].status != LEG_PENDING:
            size += legs[j].weight
            if to != j:
                legs[to] = legs[j]
            to += 1
    for k in range(new.levels):
        legs[to + k] = edit_legs[first_level(new) + k]
        legs[to + k].number = to - begin + k
        size += legs[to + k].weight
    for j in range(to + new.levels, begin + row.level_slots):
        legs[j].status = LEG_CANCELLED
        legs[j].quantity = 0
    row.levels = to - begin + new.levels
    row.runner = 0 if row.by_remaining else max(100 * SCALE - size, 0)
    if row.bought > 0:
        for j in range(to, to + new.levels):
            legs[j].x = resolve(row, legs[j].target_kind, legs[j].target_value, False)
        assign(row, legs)


@rare
def replace_rungs(row, legs, new, edit_legs):
    """The entry starts anew."""
    for k in range(row.rungs):
        if k < new.rungs and edit_legs[new.leg + k].status == LEG_PENDING:
            legs[row.leg + k] = edit_legs[new.leg + k]
        else:
            legs[row.leg + k].status = LEG_CANCELLED
            legs[row.leg + k].quantity = 0
