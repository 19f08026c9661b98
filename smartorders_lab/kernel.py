"""The smart-order state machine: docs/rules.md in integers.

One function moves one order by one tick (`step`), one by what the venue says (`match`), one by a command (`command`).
They read and write one row of ORDER and its rows of LEG, and append rows of EVENT; they know no clock, no I/O, no
float and no text. Prices are mirrored (`x = side · price`): a short is a long in a mirror, and each rule stands here once.

Arguments that recur: `row`, `legs` the order and the table of legs; `fills` the fill model; `now` the moment (rows.NOW); `out` the events.
"""

from __future__ import annotations

from .exact import ceil_rate, floor_rate, ratio, share
from .jit import kernel, rare
from .rows import (
    NONE,
    SCALE,
    EntryKind,
    Even,
    Field,
    Kind,
    LegStatus,
    Liquidity,
    Reason,
    Role,
    SizeKind,
    Status,
    Target,
)
from .venue import limit_fill, market_price, take_volume

# numba reads module globals as constants; enum members would be compiled as enum objects, so they become plain integers here.
CREATED, HELD, ARMED, TRIGGERED, FILLED, REJECTED, CANCELLED, BREAK_EVEN = (int(k) for k in list(Kind)[:8])
TIMER_STARTED, TIMER_CLEARED, ACTION, ACTION_REFUSED, ENDED = (int(k) for k in list(Kind)[8:])
LEG_PENDING, LEG_TRIGGERED, LEG_FILLED, LEG_CANCELLED = (int(s) for s in LegStatus)
S_PENDING, S_ACTIVE, S_PARTIAL, S_CLOSED, S_STOPPED, S_CANCELLED = (int(s) for s in Status)
ROLE_NONE, ENTRY, TAKE_PROFIT, TRAILING_TP = (
    int(Role.NONE),
    int(Role.ENTRY),
    int(Role.TAKE_PROFIT),
    int(Role.TRAILING_TAKE_PROFIT),
)
STOP_LOSS, EVEN_STOP, TRAILING_STOP = int(Role.STOP_LOSS), int(Role.BREAK_EVEN), int(Role.TRAILING_STOP)
MAX_HOLD, CLOSE, ADD, REDUCE = (
    int(Role.MAX_HOLD),
    int(Role.CLOSE_AT_MARKET),
    int(Role.ADD_FUNDS),
    int(Role.REDUCE_FUNDS),
)
OPEN_NOW, EDIT, CANCEL = int(Role.OPEN_NOW), int(Role.EDIT), int(Role.CANCEL)
R_NONE, R_CANCELLED, R_EXPIRED, R_REJECTED = (
    int(Reason.NONE),
    int(Reason.CANCELLED),
    int(Reason.ENTRY_EXPIRED),
    int(Reason.REJECTED),
)
R_STATUS, R_LARGE, R_TRIGGER, R_STALE = (
    int(Reason.WRONG_STATUS),
    int(Reason.TOO_LARGE),
    int(Reason.WOULD_TRIGGER),
    int(Reason.STALE_VERSION),
)
R_CLOSING, R_MANY, R_NO_SIZE, R_SMALL = (
    int(Reason.CLOSING),
    int(Reason.TOO_MANY),
    int(Reason.NO_SIZE),
    int(Reason.TOO_SMALL),
)
E_MARKET, E_LIMIT, E_STOP, E_TRAILING, E_HELD = (int(k) for k in EntryKind)
BY_COST, BY_RISK = int(SizeKind.COST), int(SizeKind.RISK)
AT_PRICE, AT_DISTANCE = int(Target.PRICE), int(Target.DISTANCE)
EVEN_OFF, EVEN_FEES = int(Even.OFF), int(Even.FEES)
MAKER, TAKER = int(Liquidity.MAKER), int(Liquidity.TAKER)
F_ENTRY, F_SIZE, F_RESIZE, F_STOP, F_TRAILING, F_EVEN = (
    int(Field.ENTRY),
    int(Field.SIZE),
    int(Field.RESIZE),
    int(Field.STOP),
    int(Field.TRAILING),
    int(Field.EVEN),
)
F_LEVELS, F_TTP, F_HOLD, F_EXPIRY = (
    int(Field.LEVELS),
    int(Field.TRAILING_TAKE_PROFIT),
    int(Field.MAX_HOLD),
    int(Field.ENTRY_EXPIRY),
)


# --- reading a row --------------------------------------------------------------------------------------------------


@kernel
def held(row):
    """What the position is, in units."""
    return row.entered - row.exited


@kernel
def effective_stop(row):
    """The tightest of the stops that stand; NONE if there is none."""
    return max(row.stop_x, max(row.even_x, row.trail_x))


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
def met_falling(now, threshold):
    """The price at which a fall to `now.x` met `threshold`: its own on a continuous tick that came from above."""
    return threshold if now.continuous and now.before > threshold else now.x


@kernel
def met_rising(now, threshold):
    """The price at which a rise to `now.x` met `threshold`."""
    return threshold if now.continuous and now.before < threshold else now.x


# --- writing events -------------------------------------------------------------------------------------------------


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


# --- what follows from the average entry ------------------------------------------------------------------------------


@rare
def from_average(row, fraction, down):
    """average · (1 + fraction) as a mirrored price, rounded down or up in the mirror."""
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


# --- booking -----------------------------------------------------------------------------------------------------------


@kernel
def watch_price(row, x):
    """Remember the worst and the best price seen while something was held."""
    row.worst = min(row.worst, x)
    row.best = max(row.best, x)


@rare
def book_entry(row, legs, fills, now, x, quantity, liquidity):
    """A fill that adds to the position; liquidity 0 for coins that were held already."""
    amount = row.side * x * quantity
    row.bought += quantity
    row.cost += amount
    if liquidity == MAKER:
        row.bought_maker += quantity
        row.cost_maker += amount
    elif liquidity == TAKER:
        row.bought_taker += quantity
        row.cost_taker += amount
    row.entered = row.bought
    if fills.base_fee and row.side > 0:
        maker, taker = row.bought_maker, row.bought_taker
        parts = maker % SCALE * (SCALE - fills.fee_maker) + taker % SCALE * (SCALE - fills.fee_taker)
        net = maker // SCALE * (SCALE - fills.fee_maker) + taker // SCALE * (SCALE - fills.fee_taker) + parts // SCALE
        row.entered = row.bought - maker - taker + net
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
def book_exit(row, now, x, quantity, liquidity):
    """A fill that takes from the position."""
    amount = row.side * x * quantity
    row.exited += quantity
    row.proceeds += amount
    if liquidity == MAKER:
        row.proceeds_maker += amount
    row.last_exit = now.ts


@rare
def fire_break_even(row, fills, now, out):
    """Move the stop to break-even if enough levels are filled."""
    if row.even != EVEN_OFF and not row.even_fired and row.filled_levels >= row.even_after and held(row) > 0:
        row.even_fired = 1
        row.even_x = even_price(row, fills)
        emit(row, now, out, BREAK_EVEN, EVEN_STOP, -1, row.even_x, 0, 0, R_NONE)


@rare
def book(row, legs, fills, now, out, j, seen, x, quantity, liquidity):
    """Book one fill of leg `j` at `x` (the market stood at `seen`), and all that follows from it."""
    leg = legs[j]
    leg.filled += quantity
    leg.spent += row.side * x * quantity
    done = leg.filled == leg.quantity
    if done:
        leg.sent = 0
        leg.cancel_due = NONE
        leg.status = LEG_FILLED
        leg.filled_ts = now.ts
    if (leg.role != ENTRY and leg.role != ADD) or now.continuous:
        watch_price(row, seen)
    role = leg.role
    if role == ENTRY or role == ADD:
        book_entry(row, legs, fills, now, x, quantity, liquidity)
        emit(row, now, out, FILLED, role, leg.number, x, quantity, liquidity, R_NONE)
    else:
        book_exit(row, now, x, quantity, liquidity)
        if role == TAKE_PROFIT:
            if leg.mark != NONE:
                role = TRAILING_TP
            if done:
                row.filled_levels += 1
                row.status = S_PARTIAL
        elif role == REDUCE:
            assign(row, legs)
        emit(row, now, out, FILLED, role, leg.number, x, quantity, liquidity, R_NONE)
        if role == TAKE_PROFIT or role == TRAILING_TP:
            fire_break_even(row, fills, now, out)
        if held(row) == 0 and row.closing == 0:
            row.closing = role
            cancel_open(row, legs, fills, now, out)


@rare
def end(row, now, out, status, reason):
    """The last thing that happens to an order."""
    row.status = status
    row.reason = reason
    row.timer = NONE
    emit(row, now, out, ENDED, ROLE_NONE, -1, NONE, held(row), 0, reason)


# --- child orders --------------------------------------------------------------------------------------------------------


@rare
def send(row, legs, fills, now, j, x, quantity):
    """Send leg `j` for `quantity`; `x` is the price that triggered it, which is what it sees if it arrives at once."""
    leg = legs[j]
    leg.sent = 1
    leg.rested = 0
    leg.quantity = quantity
    leg.filled = 0
    leg.status = LEG_TRIGGERED
    leg.triggered_ts = now.ts
    leg.due = now.ts + fills.latency
    leg.cancel_due = NONE
    leg.met = x if now.instant else NONE
    leg.looked = -1


@rare
def match_leg(row, legs, fills, now, out, j):
    """What this tick fills of leg `j`. A limit that arrives inside a continuous tick and rests is looked at again with its end."""
    leg = legs[j]
    leg.looked = now.tick
    x = now.x if leg.met == NONE else leg.met
    match_at(row, legs, fills, now, out, j, x, not leg.rested)
    leg.rested = 1
    leg.met = NONE
    if leg.sent and leg.limit and x != now.x:
        match_at(row, legs, fills, now, out, j, now.x, False)


@rare
def match_at(row, legs, fills, now, out, j, x, arriving):
    """What one price fills of leg `j`."""
    leg = legs[j]
    opens = leg.role == ENTRY or leg.role == ADD
    exits = -1 if opens else 1
    base = x
    if x == now.x:
        base = now.entry_base if opens else now.exit_base
    if leg.limit:
        liquidity, price = limit_fill(base, leg.price, exits, arriving, leg.role == ENTRY, fills.touch)
    else:
        liquidity, price = TAKER, market_price(base, row.side, exits, fills.slippage)
    seen = now.x
    if now.continuous:
        seen = price if liquidity == MAKER else x
    if liquidity == 0:
        return
    quantity = take_volume(now, leg.quantity - leg.filled)
    if quantity > 0:
        book(row, legs, fills, now, out, j, seen, price, quantity, liquidity)


@rare
def request_cancel(row, legs, fills, now, out, j):
    """Ask the venue to cancel leg `j`; with zero latency that is done at once."""
    leg = legs[j]
    if leg.sent and leg.limit and leg.cancel_due == NONE:
        leg.cancel_due = now.ts + fills.latency
        if fills.latency == 0:
            cancel_leg(row, legs, now, out, j)


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


@rare
def sell_free(row, legs, fills, now):
    """Sell what is free: enlarge an exit child that a new one would not arrive later than, or send one. Returns its leg, -1 if none."""
    quantity = free(row, legs)
    if quantity <= 0:
        return -1
    to = exit_leg(row)
    for j in range(exit_leg(row), exit_leg(row) + row.exits):
        if not legs[j].sent:
            continue
        if to != j:  # kept in the order in which they were sent
            legs[to] = legs[j]
            legs[j].sent = 0
        leg = legs[to]
        if leg.limit == row.exit_limit and leg.cancel_due == NONE and max(leg.due, now.ts) == now.ts + fills.latency:
            leg.quantity += quantity
            leg.met = now.met if now.instant else leg.met
            return to
        to += 1
    if to == exit_leg(row) + row.exits:
        return -1
    legs[to].role = row.closing
    legs[to].limit = row.exit_limit
    legs[to].price = row.exit_x
    send(row, legs, fills, now, to, now.met, quantity)
    return to


@rare
def settle(row, legs, fills, now, out):
    """Carry on until nothing more follows at this moment: match what has arrived, sell what is free once an exit is decided, open
    what `open_now` still waits for; then end what is over."""
    busy = row.status < S_CLOSED
    while busy:
        busy = False
        if row.closing and not row.cancelling:
            j = sell_free(row, legs, fills, now)
            if j >= 0 and now.instant:
                match_leg(row, legs, fills, now, out, j)
        if row.opening and open_rest(row, legs, fills, now, out):
            busy = True
        for j in range(row.leg, row.end):
            leg = legs[j]
            arrived = leg.met != NONE or (now.matching and leg.due <= now.ts)
            if leg.sent and arrived and leg.looked != now.tick:
                match_leg(row, legs, fills, now, out, j)
                busy = True
                break
    if row.status >= S_CLOSED or anything_sent(row, legs):
        return
    if row.cancelling:
        end(row, now, out, S_CANCELLED, R_CANCELLED)
    elif row.closing and held(row) == 0:
        stopped = row.closing == STOP_LOSS or row.closing == EVEN_STOP or row.closing == TRAILING_STOP
        end(row, now, out, S_STOPPED if stopped else S_CLOSED, row.closing)
    elif row.bought == 0 and row.reason != 0 and not entry_open(row, legs):
        end(row, now, out, S_CANCELLED, row.reason)


@rare
def decide_exit(row, legs, fills, now, out, role, x, as_limit):
    """Leave the position: everything else is cancelled, and what is free is sold now and whenever some comes back."""
    row.closing = role
    row.exit_limit = as_limit
    row.exit_x = row.stop_limit_x
    row.timer = NONE
    now.met = x
    emit(row, now, out, TRIGGERED, role, -1, x, held(row) - in_flight(row, legs, True), 0, R_NONE)
    cancel_open(row, legs, fills, now, out)
    settle(row, legs, fills, now, out)


@rare
def escalate(row, legs, fills, now, out, role, x):
    """Replace a resting stop-limit by a market order."""
    row.closing = role
    row.exit_limit = 0
    now.met = x
    emit(row, now, out, TRIGGERED, role, -1, x, held(row) - in_flight(row, legs, True), 0, R_NONE)
    cancel_exits(row, legs, fills, now, out)
    settle(row, legs, fills, now, out)


# --- one tick --------------------------------------------------------------------------------------------------------------


@rare
def start(row, legs, fills, now, out):
    """The order comes into being on its first tick."""
    row.started = 1
    at = now.ts
    now.ts = row.created
    emit(row, now, out, CREATED, ROLE_NONE, -1, NONE, row.planned, 0, R_NONE)
    if row.entry_kind == E_HELD:
        leg = legs[row.leg]
        leg.status = LEG_FILLED
        leg.filled = leg.quantity
        leg.spent = row.side * leg.x * leg.quantity
        leg.triggered_ts = row.created
        leg.filled_ts = row.created
        book_entry(row, legs, fills, now, leg.x, leg.quantity, 0)
        emit(row, now, out, HELD, ENTRY, -1, leg.x, leg.quantity, 0, R_NONE)
    now.ts = at


@kernel
def match(row, legs, fills, now, out):
    """The venue at this tick: cancels that have arrived, then child orders, in leg order."""
    for j in range(row.leg, row.end):
        if legs[j].sent and legs[j].cancel_due != NONE and legs[j].cancel_due <= now.ts:
            cancel_leg(row, legs, now, out, j)
            if legs[j].role == REDUCE and not row.closing:
                assign(row, legs)
    settle(row, legs, fills, now, out)


@kernel
def step(row, legs, fills, now, out):
    """Time limits, stop, water mark, levels, entry, in that order; a continuous tick once more for each part of its segment."""
    if row.cancelling:
        return
    time_limits(row, legs, fills, now, out)
    again = row.status < S_CLOSED
    while again:
        again = False
        if now.continuous and held(row) > 0 and not row.closing:
            while near_rung(row, legs, fills, now, out):
                pass
        if held(row) > 0:
            watch_stop(row, legs, fills, now, out)
        if held(row) > 0 and not row.closing:
            watch_mark(row, now, out)
            watch_levels(row, legs, fills, now, out)
        if not row.closing and row.status < S_CLOSED:
            met = watch_entry(row, legs, fills, now, out)
            if now.continuous and now.instant and met != now.x and row.status < S_CLOSED:
                now.before = met
                again = True


@kernel
def time_limits(row, legs, fills, now, out):
    """Entry expiry and the longest hold."""
    if row.entry_expiry > 0 and now.ts >= row.created + row.entry_expiry and not row.closing and entry_open(row, legs):
        if row.bought == 0:
            row.reason = R_EXPIRED
        row.opening = 0
        cancel_entry(row, legs, fills, now, out)
        settle(row, legs, fills, now, out)
    if (
        row.max_hold > 0
        and row.bought > 0
        and now.ts >= row.first_fill + row.max_hold
        and held(row) > in_flight(row, legs, True)
    ):
        if not row.closing:
            decide_exit(row, legs, fills, now, out, MAX_HOLD, now.x, 0)
        elif row.exit_limit:
            escalate(row, legs, fills, now, out, MAX_HOLD, now.x)


@kernel
def watch_stop(row, legs, fills, now, out):
    """Does a stop trigger?"""
    x = now.x
    if row.closing == 0 and held(row) > in_flight(row, legs, True):
        fast = max(row.even_x, row.trail_x)
        fast_role = EVEN_STOP if row.even_x >= row.trail_x else TRAILING_STOP
        emergency = x <= row.emergency_x
        if row.timeout > 0:
            if x <= fast and (not emergency or fast > row.emergency_x):
                decide_exit(row, legs, fills, now, out, fast_role, met_falling(now, fast), 0)
            elif emergency:
                decide_exit(row, legs, fills, now, out, STOP_LOSS, met_falling(now, row.emergency_x), 0)
            elif row.timer != NONE and now.ts >= row.timer + row.timeout:
                if x <= row.stop_x:
                    decide_exit(row, legs, fills, now, out, STOP_LOSS, x, 1 if row.stop_limit_x != NONE else 0)
                else:
                    row.timer = NONE
                    emit(row, now, out, TIMER_CLEARED, STOP_LOSS, -1, x, 0, 0, R_NONE)
            elif row.timer == NONE and x <= row.stop_x:
                row.timer = now.ts
                emit(row, now, out, TIMER_STARTED, STOP_LOSS, -1, met_falling(now, row.stop_x), 0, 0, R_NONE)
        elif x <= max(row.stop_x, fast):
            if row.stop_x >= fast:
                as_limit = (
                    1 if row.stop_limit_x != NONE and not (emergency and met_falling(now, row.stop_x) == x) else 0
                )
                decide_exit(row, legs, fills, now, out, STOP_LOSS, met_falling(now, row.stop_x), as_limit)
            else:
                decide_exit(row, legs, fills, now, out, fast_role, met_falling(now, fast), 0)
    if row.closing and row.exit_limit and row.status < S_CLOSED and x <= row.emergency_x:
        escalate(row, legs, fills, now, out, STOP_LOSS, met_falling(now, row.emergency_x))


@kernel
def watch_mark(row, now, out):
    """Arm the trailing stop and move its water mark."""
    if row.trail_rate == 0:
        return
    arms = not row.armed and now.x >= row.activation_x
    if arms:
        row.armed = 1
    if row.armed:
        row.mark = max(row.mark, now.x)
        move_trail(row)
    if arms:
        emit(row, now, out, ARMED, TRAILING_STOP, -1, met_rising(now, row.activation_x), 0, 0, R_NONE)


@kernel
def level_quantity(row, legs, j):
    """What level `j` sells if it triggers now."""
    available = free(row, legs)
    if row.by_remaining:
        return share(available, legs[j].weight, 100 * SCALE)
    return min(legs[j].quantity, available)


@kernel
def watch_levels(row, legs, fills, now, out):
    """The trailing take-profits that are running, then every level that the price has reached."""
    begin, end = first_level(row), first_level(row) + row.levels
    for j in range(begin, end):
        leg = legs[j]
        if not is_running(leg):
            continue
        turn = floor_rate(leg.mark, SCALE - row.side * row.ttp_rate)
        leg.mark = max(leg.mark, now.x)
        quantity = min(leg.quantity, free(row, legs))
        if now.x <= turn and quantity > 0:
            x = met_falling(now, turn)
            emit(row, now, out, TRIGGERED, TRAILING_TP, leg.number, x, quantity, 0, R_NONE)
            leg.limit = 0
            send(row, legs, fills, now, j, x, quantity)
            settle(row, legs, fills, now, out)
            if row.closing or row.status >= S_CLOSED:
                return
    for j in range(begin, end):
        leg = legs[j]
        if leg.status != LEG_PENDING or now.x < leg.x:
            continue
        quantity = level_quantity(row, legs, j)
        if quantity <= 0:
            continue
        x = met_rising(now, leg.x)
        leg.quantity = quantity
        if j == end - 1 and row.ttp_rate > 0:
            leg.status = LEG_TRIGGERED
            leg.triggered_ts = now.ts
            leg.mark = now.x
            emit(row, now, out, ARMED, TRAILING_TP, leg.number, x, quantity, 0, R_NONE)
        else:
            leg.price = leg.x
            emit(row, now, out, TRIGGERED, TAKE_PROFIT, leg.number, x, quantity, 0, R_NONE)
            send(row, legs, fills, now, j, x, quantity)
            settle(row, legs, fills, now, out)
            if row.closing or row.status >= S_CLOSED:
                return


# --- the entry -------------------------------------------------------------------------------------------------------------


@rare
def size_at(row, x):
    """The quantity that the order's size means at a mirrored price; 0 or less if there is none."""
    price = row.side * x
    if row.size_kind == BY_COST:
        quantity = row.amount // price
    elif row.size_kind == BY_RISK:
        stop = row.stop_value
        if row.stop_kind == AT_DISTANCE:
            stop = floor_rate(x, SCALE + row.stop_value)
        quantity = row.amount // (x - stop) if x > stop else 0
    else:
        quantity = row.amount
    return quantity + row.extra


@rare
def trigger_entry(row, legs, fills, now, out, j, x):
    """Send rung `j`, met at `x`, unless it is too small."""
    leg = legs[j]
    quantity = leg.quantity if row.planned > 0 else size_at(row, x)
    price = row.side * (leg.price if leg.limit else x)
    small = quantity < fills.min_quantity or quantity * price < fills.min_notional
    if quantity <= 0 or small:
        leg.status = LEG_CANCELLED
        emit(
            row, now, out, REJECTED, ENTRY, leg.number, x, max(quantity, 0), 0, R_NO_SIZE if quantity <= 0 else R_SMALL
        )
        if row.bought == 0:
            row.reason = R_REJECTED
        return
    if row.planned == 0:
        row.planned = quantity
    leg.status = LEG_TRIGGERED
    emit(row, now, out, TRIGGERED, ENTRY, leg.number, x, quantity, 0, R_NONE)
    send(row, legs, fills, now, j, x, quantity)


@rare
def near_rung(row, legs, fills, now, out):
    """On a continuous fall, a rung above the stop is met before it; True if one was taken."""
    if row.closing or row.status >= S_CLOSED or row.entry_kind != E_LIMIT:
        return False
    for j in range(row.leg, first_level(row)):
        if legs[j].status == LEG_PENDING and now.x <= legs[j].x and legs[j].x > effective_stop(row):
            met = met_falling(now, legs[j].x)
            trigger_entry(row, legs, fills, now, out, j, met)
            settle(row, legs, fills, now, out)
            now.before = min(now.before, met)
            return True
    return False


@kernel
def watch_entry(row, legs, fills, now, out):
    """Does what waits of the entry trigger? Returns the price at which it was met, `now.x` if not inside a segment."""
    x, j = now.x, row.leg
    if row.entry_kind == E_LIMIT:
        for j in range(row.leg, first_level(row)):
            if row.status >= S_CLOSED:
                break
            if legs[j].status == LEG_PENDING and x <= legs[j].x:
                met = met_falling(now, legs[j].x)
                trigger_entry(row, legs, fills, now, out, j, met)
                settle(row, legs, fills, now, out)
                if now.continuous and now.instant and met != x:
                    return met
        return x
    if legs[j].status != LEG_PENDING:
        return x
    met = x
    if row.entry_kind == E_STOP:
        if x < row.entry_x:
            return x
        met = met_rising(now, row.entry_x)
    elif row.entry_kind == E_TRAILING:
        if not row.entry_armed:
            if row.entry_activation == NONE or x <= row.entry_activation:
                row.entry_armed = 1
                row.entry_mark = x
                if row.entry_activation != NONE:
                    emit(row, now, out, ARMED, ENTRY, 0, met_falling(now, row.entry_activation), 0, 0, R_NONE)
            return x
        turn = ceil_rate(row.entry_mark, SCALE + row.side * row.entry_rate)
        if x < turn:
            row.entry_mark = min(row.entry_mark, x)
            return x
        met = met_rising(now, turn)
    trigger_entry(row, legs, fills, now, out, j, met)
    settle(row, legs, fills, now, out)
    return met


@rare
def open_rest(row, legs, fills, now, out):
    """`open_now`, once the waiting entry is out of the way: the rest of the planned size at market. True if it was sent."""
    for j in range(row.leg, first_level(row)):
        if legs[j].sent:
            return False
    row.opening = 0
    quantity = (row.planned if row.planned > 0 else size_at(row, now.last)) - row.bought
    if row.bought > 0 and quantity <= 0:
        return False
    row.entry_kind = E_MARKET
    legs[row.leg].limit = 0
    legs[row.leg].quantity = max(quantity, 0)
    trigger_entry(row, legs, fills, now, out, row.leg, now.last)
    return True


# --- commands ----------------------------------------------------------------------------------------------------------------


@rare
def refuse(row, now, out, command, reason):
    """Say no; nothing changes."""
    emit(row, now, out, ACTION_REFUSED, command.role, -1, command.price, asked(row, now, command), 0, reason)


@rare
def take(row, now, out, command, quantity):
    """Say yes."""
    emit(row, now, out, ACTION, command.role, -1, command.price, quantity, 0, R_NONE)


@rare
def command(rows, i, legs, edits, edit_legs, backup, fills, now, out, command):
    """Apply one action to order `i`. `now.last` is the price that it sees."""
    row = rows[i]
    role = command.role
    if command.version >= 0 and command.version != row.seq:
        refuse(row, now, out, command, R_STALE)
    elif row.cancelling or (row.closing and role != CLOSE and role != CANCEL):
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
    elif role == CLOSE:
        if row.bought == 0:
            refuse(row, now, out, command, R_STATUS)
        else:
            take(row, now, out, command, 0)
            if not row.closing:
                decide_exit(row, legs, fills, now, out, CLOSE, now.last, 0)
            elif row.exit_limit:
                escalate(row, legs, fills, now, out, CLOSE, now.last)
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
    elif quantity <= 0 or quantity < fills.min_quantity or quantity * price < fills.min_notional:
        take(row, now, out, command, quantity)
        reason = R_NO_SIZE if quantity <= 0 else R_SMALL
        emit(row, now, out, REJECTED, ADD, row.adds, row.side * price, quantity, 0, reason)
    else:
        take(row, now, out, command, quantity)
        send_extra(row, legs, fills, now, out, command, j, row.adds, quantity)
        row.adds += 1


@rare
def reduce_funds(row, legs, fills, now, out, command):
    """Sell some."""
    j = slot(row, legs)
    if command.quantity > free(row, legs):
        refuse(row, now, out, command, R_LARGE)
    elif j < 0:
        refuse(row, now, out, command, R_MANY)
    else:
        take(row, now, out, command, command.quantity)
        send_extra(row, legs, fills, now, out, command, j, row.adds, command.quantity)
        row.adds += 1


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
