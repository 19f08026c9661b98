"""What one order holds and what follows from it: the ledger, the average entry, the stops, its events, OCO.

Arguments that recur: `row`, `legs` the order and the table of legs; `fills` the fill model; `now` the moment (rows.NOW); `out` the
events. Prices are mirrored (`x = side · price`): a short is a long in a mirror, and each rule stands here once.
"""

from __future__ import annotations

from .codes import (
    ADD,
    ASK_CANCEL,
    AT_DISTANCE,
    AT_PRICE,
    BREAK_EVEN,
    CANCELLED,
    EVEN_FEES,
    EVEN_OFF,
    EVEN_STOP,
    LEG_CANCELLED,
    LEG_PENDING,
    LEG_TRIGGERED,
    MAKER,
    R_NONE,
    S_ACTIVE,
    S_PENDING,
    TAKER,
    TOLD_CANCELLED,
    TRAILING_STOP,
)
from .exact import ceil_rate, floor_rate, ratio, share
from .jit import kernel, rare
from .rows import NONE, SCALE


@kernel
def held(row):
    """What the position is, in units."""
    return row.entered - row.exited


@kernel
def effective_stop(row):
    """The tightest of the stops that stand; NONE if there is none."""
    return max(row.stop_x, max(row.even_x, row.trail_x))


@kernel
def fast_role(row):
    """Which of break-even and trailing stop is the tighter."""
    return EVEN_STOP if row.even_x >= row.trail_x else TRAILING_STOP


@kernel
def first_level(row):
    """Index of the first level's leg."""
    return row.leg + row.rungs


@kernel
def exit_leg(row):
    """Index of the first leg that exits use."""
    return row.leg + row.rungs + row.level_slots


@kernel
def is_waiting(leg):
    """Whether a level or rung has sent nothing yet and still may."""
    return leg.status == LEG_PENDING or (leg.status == LEG_TRIGGERED and leg.sent == 0)


@kernel
def is_running(leg):
    """Whether a trailing take-profit has been reached and has not turned yet."""
    return leg.status == LEG_TRIGGERED and leg.sent == 0 and leg.mark != NONE


@kernel
def in_flight(row, legs, markets_only):
    """What exit children have been sent for and have not filled; optionally only market orders, which cannot be called back."""
    total = 0
    for j in range(first_level(row), row.end):
        leg = legs[j]
        if leg.sent and leg.role != ADD and not (markets_only and leg.limit):
            total += leg.quantity - leg.filled
    return total


@kernel
def free(row, legs):
    """What is held and not in flight."""
    return held(row) - in_flight(row, legs, False)


@kernel
def anything_sent(row, legs):
    """Whether any child order is out."""
    for j in range(row.leg, row.end):
        if legs[j].sent:
            return True
    return False


@kernel
def entry_open(row, legs):
    """Whether something of the entry waits or is out."""
    for j in range(row.leg, first_level(row)):
        if legs[j].sent or legs[j].status == LEG_PENDING:
            return True
    return False


@kernel
def entry_recallable(row, legs):
    """Whether something of the entry waits, or rests at the venue and has not been asked back."""
    for j in range(row.leg, first_level(row)):
        leg = legs[j]
        if leg.status == LEG_PENDING or (leg.sent and leg.limit and leg.cancel_due == NONE):
            return True
    return False


@kernel
def met_falling(now, threshold):
    """The price at which a fall to `now.x` met `threshold`: its own on a continuous tick that came from above."""
    return threshold if now.continuous and now.before > threshold else now.x


@kernel
def met_rising(now, threshold):
    """The price at which a rise to `now.x` met `threshold`."""
    return threshold if now.continuous and now.before < threshold else now.x


@rare
def emit(row, now, out, kind, role, level, x, quantity, liquidity, reason):
    """Append one event; `x` is mirrored, NONE for no price."""
    event = out[now.n]
    now.n += 1
    stop = effective_stop(row)
    event.order = now.order
    event.seq = row.seq
    event.ts = now.ts
    event.tick = now.tick
    event.kind = kind
    event.role = role
    event.level = level
    event.liquidity = liquidity
    event.status = row.status
    event.reason = reason
    event.price = NONE if x == NONE else row.side * x
    event.quantity = quantity
    event.stop = NONE if stop == NONE else row.side * stop
    event.mark = NONE if row.bought == 0 else row.side * row.mark
    row.seq += 1


@rare
def from_average(row, fraction, down):
    """average · (1 + fraction) as a mirrored price, rounded down or up in the mirror."""
    price = row.cost // row.bought
    if price * row.bought == row.cost:  # one fill, or several at one price
        return floor_rate(row.side * price, SCALE + fraction) if down else ceil_rate(row.side * price, SCALE + fraction)
    return row.side * ratio(row.bought, SCALE, down == (row.side < 0), row.cost, SCALE + fraction, 0, 0, 0, 0)


@rare
def resolve(row, kind, value, down):
    """A target as a mirrored price; NONE if there is none."""
    if kind == AT_DISTANCE:
        return from_average(row, value, down)
    return value if kind == AT_PRICE else NONE


@rare
def even_price(row, fills):
    """The break-even price, mirrored, rounded down."""
    if row.even != EVEN_FEES:
        return from_average(row, row.side * row.even_offset, True)
    sign, up = row.side, row.side < 0
    after_exit = SCALE - sign * fills.fee_taker
    if fills.base_fee and sign > 0:
        return ratio(row.entered, after_exit, up, row.cost, SCALE, 0, 0, 0, 0)
    maker, taker = SCALE + sign * fills.fee_maker, SCALE + sign * fills.fee_taker
    free_of_fees = row.cost - row.cost_maker - row.cost_taker
    return sign * ratio(row.bought, after_exit, up, row.cost_maker, maker, row.cost_taker, taker, free_of_fees, SCALE)


@rare
def resolve_all(row, legs, fills):
    """Everything measured from the average entry, after that has moved."""
    row.stop_x = resolve(row, row.stop_kind, row.stop_value, True)
    row.stop_limit_x = resolve(row, row.stop_limit_kind, row.stop_limit_value, True)
    row.emergency_x = resolve(row, row.emergency_kind, row.emergency_value, True)
    row.activation_x = resolve(row, row.activation_kind, row.activation_value, False)
    row.even_x = even_price(row, fills) if row.even_fired else NONE
    for j in range(first_level(row), first_level(row) + row.levels):
        if is_waiting(legs[j]):
            legs[j].x = resolve(row, legs[j].target_kind, legs[j].target_value, False)


@rare
def assign(row, legs):
    """Split what is free over the levels that have sent nothing, by size, the runner being one more share."""
    if row.by_remaining:
        return
    start, stop = first_level(row), first_level(row) + row.levels
    whole = row.runner
    for j in range(start, stop):
        if is_waiting(legs[j]):
            whole += legs[j].weight
    pool = max(free(row, legs), 0)
    size, given = 0, 0
    for j in range(start, stop):
        if is_waiting(legs[j]):
            size += legs[j].weight
            upto = share(pool, size, whole)
            legs[j].quantity = upto - given
            given = upto


@kernel
def move_trail(row):
    """The trailing stop that belongs to the water mark."""
    row.trail_x = floor_rate(row.mark, SCALE - row.side * row.trail_rate) if row.armed else NONE


@kernel
def watch_price(row, x):
    """Remember the worst and the best price seen while something was held."""
    row.worst = min(row.worst, x)
    row.best = max(row.best, x)


@rare
def arrived(row, fills):
    """What has arrived of what was bought: without what fees have taken of it, by the fill model or by word of the venue."""
    maker, taker, net = row.bought_maker, row.bought_taker, row.bought
    if fills.base_fee and row.side > 0:
        parts = maker % SCALE * (SCALE - fills.fee_maker) + taker % SCALE * (SCALE - fills.fee_taker)
        net -= maker + taker
        net += maker // SCALE * (SCALE - fills.fee_maker) + taker // SCALE * (SCALE - fills.fee_taker) + parts // SCALE
    if row.lost and row.side > 0:
        net = max(net + -row.lost // SCALE, row.exited)
    return net


@rare
def book_entry(row, legs, fills, now, x, quantity, liquidity, lost):
    """A fill that adds to the position; liquidity 0 for coins that were held already, `lost` as in messages.Report."""
    amount = row.side * x * quantity
    row.bought += quantity
    row.cost += amount
    if liquidity == MAKER:
        row.cost_maker += amount
    elif liquidity == TAKER:
        row.cost_taker += amount
    if lost != NONE:
        row.lost += lost
    elif liquidity == MAKER:
        row.bought_maker += quantity
    elif liquidity == TAKER:
        row.bought_taker += quantity
    row.entered = arrived(row, fills)
    if row.status == S_PENDING:
        row.status = S_ACTIVE
        row.reason = R_NONE
        row.first_fill = now.ts
        row.first_tick = now.tick
        row.mark = from_average(row, 0, True)
        row.armed = row.trail_rate > 0 and row.activation_kind == 0
        move_trail(row)
    resolve_all(row, legs, fills)
    assign(row, legs)


@rare
def book_exit(row, legs, fills, now, x, quantity, liquidity, lost):
    """A fill that takes from the position; `lost` as in messages.Report."""
    amount = row.side * x * quantity
    row.exited += quantity
    row.proceeds += amount
    if liquidity == MAKER:
        row.proceeds_maker += amount
    row.last_exit = now.ts
    if lost != NONE and lost != 0 and row.side > 0:
        row.lost += lost
        row.entered = arrived(row, fills)
        assign(row, legs)


@rare
def fire_break_even(row, fills, now, out):
    """Move the stop to break-even if enough levels are filled."""
    if row.even != EVEN_OFF and not row.even_fired and row.filled_levels >= row.even_after and held(row) > 0:
        row.even_fired = 1
        row.even_x = even_price(row, fills)
        emit(row, now, out, BREAK_EVEN, EVEN_STOP, -1, row.even_x, 0, 0, R_NONE)


@rare
def request_cancel(row, legs, fills, now, out, j):
    """Ask the venue to cancel leg `j`; with zero latency that is done at once."""
    leg = legs[j]
    if leg.sent and leg.limit and leg.cancel_due == NONE:
        leg.cancel_due = now.ts + fills.latency
        if fills.latency == 0 and (not leg.submitted or recalled(legs, now, j)):
            cancel_leg(row, legs, now, out, j)


@rare
def recalled(legs, now, j):
    """Whether the broker says that the child of leg `j` is cancelled. If it does not yet, its report will."""
    legs[j].recalled = 1
    k = ask(now, legs, ASK_CANCEL, j)
    return k >= 0 and now.answers[k, 0] == TOLD_CANCELLED


@rare
def ask(now, legs, question, j):
    """The row of the broker's answer to a question about leg `j`, -1 if it has to be asked first: then nothing that follows counts."""
    if now.asked:
        return -1
    if now.heard < now.known:
        now.heard += 1
        return now.heard - 1
    leg = legs[j]
    now.asked = question
    now.ask_leg = j
    now.ask_child = leg.child
    now.ask_role = leg.role
    now.ask_limit = leg.limit
    now.ask_price = leg.price
    now.ask_quantity = leg.quantity
    return -1


@rare
def cancel_leg(row, legs, now, out, j):
    """Leg `j` is over; what it had not filled is given back."""
    leg = legs[j]
    leg.sent = 0
    leg.cancel_due = NONE
    leg.status = LEG_CANCELLED
    emit(row, now, out, CANCELLED, leg.role, leg.number, NONE, leg.quantity - leg.filled, 0, R_NONE)


@rare
def cancel_open(row, legs, fills, now, out):
    """OCO: what waits is cancelled, what rests at the venue is asked back."""
    row.opening = 0
    for j in range(row.leg, row.end):
        if exit_leg(row) <= j < exit_leg(row) + row.exits:
            continue
        if is_waiting(legs[j]):
            cancel_leg(row, legs, now, out, j)
        else:
            request_cancel(row, legs, fills, now, out, j)


@rare
def cancel_exits(row, legs, fills, now, out):
    """Ask back a stop-limit that rests."""
    for j in range(exit_leg(row), exit_leg(row) + row.exits):
        request_cancel(row, legs, fills, now, out, j)


@rare
def cancel_entry(row, legs, fills, now, out):
    """Stop entering."""
    for j in range(row.leg, first_level(row)):
        if legs[j].status == LEG_PENDING:
            cancel_leg(row, legs, now, out, j)
        else:
            request_cancel(row, legs, fills, now, out, j)
