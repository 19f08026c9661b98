"""The smart-order state machine: docs/rules.md in integers.

`step` moves one order by one tick, `match` by what the venue says; management.py moves it by a command. They read and write one
row of ORDER and its rows of LEG, and append rows of EVENT; they know no clock, no I/O, no float and no text.

Arguments that recur: `row`, `legs` the order and the table of legs; `fills` the fill model; `now` the moment (rows.NOW); `out` the
events. Prices are mirrored (`x = side · price`): a short is a long in a mirror, and each rule stands here once.
"""

from __future__ import annotations

from .codes import (
    ADD,
    ALERT,
    ARMED,
    ASK_MATCH,
    ASK_SUBMIT,
    AT_DISTANCE,
    BY_COST,
    BY_RISK,
    CREATED,
    E_HELD,
    E_LIMIT,
    E_MARKET,
    E_STOP,
    E_TRAILING,
    ENDED,
    ENTRY,
    EVEN_STOP,
    FILLED,
    HELD,
    LEG_CANCELLED,
    LEG_FILLED,
    LEG_PENDING,
    LEG_TRIGGERED,
    MAKER,
    MAX_HOLD,
    NEWS_CANCEL,
    R_CANCELLED,
    R_EXPIRED,
    R_LARGE,
    R_NO_SIZE,
    R_NONE,
    R_REJECTED,
    R_SMALL,
    REDUCE,
    REJECTED,
    ROLE_NONE,
    S_CANCELLED,
    S_CLOSED,
    S_PARTIAL,
    S_STOPPED,
    STOP_LOSS,
    TAKE_PROFIT,
    TAKER,
    TIMER_CLEARED,
    TIMER_STARTED,
    TOLD_CANCELLED,
    TOLD_FILL,
    TOLD_REJECTED,
    TRAILING_STOP,
    TRAILING_TP,
    TRIGGERED,
)
from .exact import ceil_rate, floor_rate, share
from .jit import kernel, rare
from .position import (
    anything_sent,
    ask,
    assign,
    book_entry,
    book_exit,
    cancel_entry,
    cancel_exits,
    cancel_leg,
    cancel_open,
    effective_stop,
    emit,
    entry_open,
    entry_recallable,
    exit_leg,
    fast_role,
    fire_break_even,
    first_level,
    free,
    held,
    in_flight,
    is_running,
    met_falling,
    met_rising,
    move_trail,
    watch_price,
)
from .rows import NEVER, NONE, REFUSALS, RETRY, SCALE
from .venue import limit_fill, market_price, take_volume


@rare
def book(row, legs, fills, now, out, j, seen, x, quantity, liquidity, lost):
    """Book one fill of leg `j` at `x` (the market stood at `seen`), and all that follows from it; `lost` as in book_entry."""
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
        book_entry(row, legs, fills, now, x, quantity, liquidity, lost)
        emit(row, now, out, FILLED, role, leg.number, x, quantity, liquidity, R_NONE)
    else:
        book_exit(row, legs, fills, now, x, quantity, liquidity, lost)
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
    leg.looked = -2 - now.tick
    row.children += 1
    leg.child = row.children
    leg.submitted = 0
    leg.recalled = 0
    leg.news = 0


@rare
def match_leg(row, legs, fills, now, out, j):
    """What this tick fills of leg `j`. A limit that arrives inside a continuous tick and rests is looked at again with its end."""
    if fills.broker:
        hear(row, legs, fills, now, out, j)
        return
    leg = legs[j]
    leg.looked = now.tick
    x = now.x if leg.met == NONE else leg.met
    match_at(row, legs, fills, now, out, j, x, not leg.rested)
    leg.rested = 1
    leg.met = NONE
    if leg.sent and leg.limit and x != now.x:
        match_at(row, legs, fills, now, out, j, now.x, False)


@rare
def hear(row, legs, fills, now, out, j):
    """What the broker says of leg `j`, whose child it is given now if it has not been before."""
    leg = legs[j]
    k = ask(now, legs, ASK_MATCH if leg.submitted else ASK_SUBMIT, j)
    leg.submitted = 1
    leg.news = 0
    leg.met = NONE
    leg.looked = now.tick
    if k < 0:
        return
    told = now.answers[k, 0]
    if told == TOLD_FILL:
        row.refused = 0
        x, quantity = row.side * now.answers[k, 1], now.answers[k, 2]
        book(row, legs, fills, now, out, j, now.x, x, quantity, now.answers[k, 3], now.answers[k, 4])
    elif told == TOLD_CANCELLED:
        unasked = leg.cancel_due == NONE
        cancel_leg(row, legs, now, out, j)
        give_back(row, legs, j)
        if unasked and leg.role == ENTRY and row.bought == 0:
            row.reason = R_REJECTED
        if unasked and leg.role != ENTRY and leg.role != ADD and leg.role != REDUCE:
            back_off(row, now)
    elif told == TOLD_REJECTED:
        refused(row, legs, now, out, j, now.answers[k, 3])


@rare
def back_off(row, now):
    """An exit did not come about: wait before the next try, longer each time, and after REFUSALS of them for the user."""
    row.refused += 1
    row.retry = now.ts + (RETRY << (row.refused - 1)) if row.refused < REFUSALS else NEVER


@rare
def refused(row, legs, now, out, j, reason):
    """The venue refuses leg `j`: an entry, add or reduce is over; an exit is tried again later, and says so."""
    leg = legs[j]
    leg.sent = 0
    leg.cancel_due = NONE
    left = leg.quantity - leg.filled
    if leg.role == ENTRY or leg.role == ADD or leg.role == REDUCE:
        leg.status = LEG_CANCELLED
        emit(row, now, out, REJECTED, leg.role, leg.number, leg.price if leg.limit else NONE, left, 0, reason)
        if leg.role == ENTRY and row.bought == 0:
            row.reason = R_REJECTED
    else:
        back_off(row, now)
        waits = leg.role == TAKE_PROFIT and not row.closing and not row.cancelling
        leg.status = LEG_CANCELLED
        if waits:
            leg.status = LEG_PENDING if leg.mark == NONE else LEG_TRIGGERED
            leg.quantity = left
        emit(row, now, out, ALERT, leg.role, leg.number, NONE, left, 0, reason)
    give_back(row, legs, j)


@rare
def give_back(row, legs, j):
    """What leg `j` had not filled is free again."""
    if legs[j].role != ENTRY and legs[j].role != ADD and not row.closing and not row.cancelling:
        assign(row, legs)


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
        book(row, legs, fills, now, out, j, seen, price, quantity, liquidity, NONE)


@rare
def sell_free(row, legs, fills, now):
    """Sell what is free: enlarge an exit child of this moment that nobody has seen yet, or send one. Returns its leg, -1 if none."""
    quantity = free(row, legs)
    if quantity <= 0 or now.ts < row.retry:
        return -1
    to = exit_leg(row)
    for j in range(exit_leg(row), exit_leg(row) + row.exits):
        if not legs[j].sent:
            continue
        if to != j:  # kept in the order in which they were sent
            legs[to] = legs[j]
            legs[j].sent = 0
        leg = legs[to]
        unseen = leg.looked == -2 - now.tick and not leg.submitted and leg.cancel_due == NONE
        if unseen and leg.limit == row.exit_limit and leg.due == now.ts + fills.latency:
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
def close_moment(row, legs):
    """A command has been carried out: the venue has been told of what it sent, and nothing joins that any more."""
    for j in range(row.leg, row.end):
        if legs[j].looked < -1:
            legs[j].looked = -1


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
            if fills.broker:
                arrived = leg.met != NONE or leg.news
            else:
                arrived = (leg.met != NONE or (now.matching and leg.due <= now.ts)) and leg.looked != now.tick
            if leg.sent and arrived:
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
    elif row.bought > 0 and row.entered == 0 and not entry_open(row, legs):
        end(row, now, out, S_CANCELLED, R_REJECTED)
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
        book_entry(row, legs, fills, now, leg.x, leg.quantity, 0, NONE)
        emit(row, now, out, HELD, ENTRY, -1, leg.x, leg.quantity, 0, R_NONE)
    now.ts = at


@kernel
def match(row, legs, fills, now, out):
    """The venue at this tick: cancels that have arrived, then child orders, in leg order."""
    for j in range(row.leg, row.end):
        if fills.broker:
            if legs[j].sent and legs[j].news == NEWS_CANCEL:
                hear(row, legs, fills, now, out, j)
        elif legs[j].sent and legs[j].cancel_due != NONE and legs[j].cancel_due <= now.ts:
            cancel_leg(row, legs, now, out, j)
            if legs[j].role == REDUCE and not row.closing:
                assign(row, legs)
    settle(row, legs, fills, now, out)


@kernel
def step(row, legs, fills, now, out):
    """Time limits, stop, water mark, levels, entry, in that order; a continuous tick once more for each part of its segment."""
    if row.cancelling:
        return
    if now.late:
        if held(row) > 0:
            watch_stop(row, legs, fills, now, out)
        if held(row) > 0 and not row.closing:
            watch_mark(row, now, out)
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
    expired = row.entry_expiry > 0 and now.ts >= row.created + row.entry_expiry
    if expired and not row.closing and entry_recallable(row, legs):
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
        emergency = x <= row.emergency_x
        if row.timeout > 0:
            if x <= fast and (not emergency or fast > row.emergency_x):
                decide_exit(row, legs, fills, now, out, fast_role(row), met_falling(now, fast), 0)
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
                decide_exit(row, legs, fills, now, out, fast_role(row), met_falling(now, fast), 0)
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
        if now.x <= turn and quantity > 0 and now.ts >= row.retry:
            x = met_falling(now, turn)
            emit(row, now, out, TRIGGERED, TRAILING_TP, leg.number, x, quantity, 0, R_NONE)
            leg.limit = 0
            send(row, legs, fills, now, j, x, quantity)
            settle(row, legs, fills, now, out)
            if row.closing or row.status >= S_CLOSED:
                return
    for j in range(begin, end):
        leg = legs[j]
        if leg.status != LEG_PENDING or now.x < leg.x or now.ts < row.retry:
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
def refusal(row, fills, quantity, price):
    """Why the venue would refuse an entry or add of `quantity` at `price`; R_NONE if it takes it."""
    if quantity <= 0:
        return R_NO_SIZE
    if quantity > fills.most - row.bought or quantity > fills.max_quantity:
        return R_LARGE
    if quantity < fills.min_quantity or quantity * price < fills.min_notional:
        return R_SMALL
    return R_NONE


@rare
def trigger_entry(row, legs, fills, now, out, j, x):
    """Send rung `j`, met at `x`, unless it is too small."""
    leg = legs[j]
    quantity = leg.quantity if row.planned > 0 else size_at(row, x)
    price = row.side * (leg.price if leg.limit else x)
    reason = refusal(row, fills, quantity, price)
    if reason != R_NONE:
        leg.status = LEG_CANCELLED
        emit(row, now, out, REJECTED, ENTRY, leg.number, x, max(quantity, 0), 0, reason)
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
