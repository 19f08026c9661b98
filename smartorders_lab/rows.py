"""The tables that the kernel works on: int enums, and the dtypes ORDER, LEG, COMMAND, EVENT and FILLS.

Prices and quantities are integer units of the instrument. Prices in ORDER and LEG are *mirrored*: `x = direction ·
price`, so that up is always the profit side and each rule is written once. `NONE` marks a price that is not there.
Every field that the kernel reads is int64: numba compiles a function anew for each mix of integer widths it is called with.
Tables must be `np.recarray` (see `table`): numba gives records their `.field`, plain numpy only recarrays do.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

NONE = -(2**62)
"""No price: below every mirrored price, so that `x <= NONE` is never true."""
NEVER = 2**62
"""Above every price and after every time."""
SCALE = 10**8
"""Fractions (rates, distances, fees) are integers of 1e-8."""
LEAF_BITS = 6
FAN_BITS = 2
LEAF = 1 << LEAF_BITS
"""Ticks to a leaf of the tick index."""
FAN = 1 << FAN_BITS
"""Children to a node of the tick index."""


class Status(IntEnum):
    """Where an order is in its life."""

    PENDING = 0
    ACTIVE = 1
    PARTIALLY_CLOSED = 2
    CLOSED = 3
    STOPPED = 4
    CANCELLED = 5


class LegStatus(IntEnum):
    """Where one leg (rung, level, exit, add, reduce) is. A free slot for an add or reduce is CANCELLED with no quantity."""

    PENDING = 0
    TRIGGERED = 1
    FILLED = 2
    CANCELLED = 3


class Role(IntEnum):
    """Whose an event or fill is."""

    NONE = 0
    ENTRY = 1
    TAKE_PROFIT = 2
    TRAILING_TAKE_PROFIT = 3
    STOP_LOSS = 4
    BREAK_EVEN = 5
    TRAILING_STOP = 6
    MAX_HOLD = 7
    CLOSE_AT_MARKET = 8
    ADD_FUNDS = 9
    REDUCE_FUNDS = 10
    OPEN_NOW = 11
    EDIT = 12
    CANCEL = 13
    STOP_OUT = 14


class Reason(IntEnum):
    """Why an order ended, or why something was refused. The first ten are exit reasons."""

    NONE = 0
    TAKE_PROFIT = 2
    TRAILING_TAKE_PROFIT = 3
    STOP_LOSS = 4
    BREAK_EVEN = 5
    TRAILING_STOP = 6
    MAX_HOLD = 7
    CLOSE_AT_MARKET = 8
    REDUCED = 10
    CANCELLED = 13
    ENTRY_EXPIRED = 14
    REJECTED = 15
    WRONG_STATUS = 20
    TOO_LARGE = 21
    WOULD_TRIGGER = 22
    STALE_VERSION = 23
    CLOSING = 24
    TOO_MANY = 25
    NO_SIZE = 26
    TOO_SMALL = 27
    NO_FUNDS = 28
    REFUSED = 29


class Kind(IntEnum):
    """What an event says."""

    CREATED = 0
    HELD = 1
    ARMED = 2
    TRIGGERED = 3
    FILLED = 4
    REJECTED = 5
    CANCELLED = 6
    BREAK_EVEN = 7
    TIMER_STARTED = 8
    TIMER_CLEARED = 9
    ACTION = 10
    ACTION_REFUSED = 11
    ENDED = 12
    ALERT = 13


class EntryKind(IntEnum):
    """How the position is opened. A ladder is several LIMIT rungs."""

    MARKET = 0
    LIMIT = 1
    STOP = 2
    TRAILING = 3
    HELD = 4


class SizeKind(IntEnum):
    """What the size means; COST and RISK are decided at the price that triggers the entry."""

    QUANTITY = 0
    COST = 1
    RISK = 2


class Liquidity(IntEnum):
    """Maker or taker."""

    NONE = 0
    MAKER = 1
    TAKER = 2


class Target(IntEnum):
    """What a target's value is: nothing, a mirrored price, or a distance in 1/SCALE."""

    NONE = 0
    PRICE = 1
    DISTANCE = 2


class Even(IntEnum):
    """Break-even: off, average entry plus an offset, or the price that pays the fees."""

    OFF = 0
    OFFSET = 1
    FEES = 2


_TARGET = [("kind", "i8"), ("value", "i8")]


def _targets(*names: str) -> list[tuple[str, str]]:
    return [(f"{name}_{part}", kind) for name in names for part, kind in _TARGET]


ORDER = np.dtype(
    [
        # what was asked for
        ("side", "i8"),
        ("created", "i8"),
        ("entry_kind", "i8"),
        ("entry_x", "i8"),
        ("entry_limit", "i8"),
        ("entry_rate", "i8"),
        ("entry_activation", "i8"),
        ("size_kind", "i8"),
        ("amount", "i8"),
        ("by_remaining", "i8"),
        ("runner", "i8"),
        *_targets("stop", "stop_limit", "emergency"),
        ("timeout", "i8"),
        ("trail_rate", "i8"),
        *_targets("activation"),
        ("ttp_rate", "i8"),
        ("even", "i8"),
        ("even_after", "i8"),
        ("even_offset", "i8"),
        ("max_hold", "i8"),
        ("entry_expiry", "i8"),
        # where its legs are: from `leg` on rungs, levels, exits, then adds and reduces up to `end`
        ("leg", "i8"),
        ("rungs", "i8"),
        ("levels", "i8"),
        ("level_slots", "i8"),
        ("exits", "i8"),
        ("end", "i8"),
        # what became of it
        ("status", "i8"),
        ("reason", "i8"),
        ("closing", "i8"),
        ("exit_limit", "i8"),
        ("exit_x", "i8"),
        ("cancelling", "i8"),
        ("opening", "i8"),
        ("started", "i8"),
        ("seq", "i8"),
        ("cursor", "i8"),
        ("seen", "i8"),
        ("command", "i8"),
        ("planned", "i8"),
        ("extra", "i8"),
        ("bought", "i8"),
        ("bought_maker", "i8"),
        ("bought_taker", "i8"),
        ("lost", "i8"),
        ("entered", "i8"),
        ("exited", "i8"),
        ("cost", "i8"),
        ("cost_maker", "i8"),
        ("cost_taker", "i8"),
        ("proceeds", "i8"),
        ("proceeds_maker", "i8"),
        ("filled_levels", "i8"),
        ("adds", "i8"),
        ("children", "i8"),
        ("refused", "i8"),
        ("retry", "i8"),
        ("first_fill", "i8"),
        ("first_tick", "i8"),
        ("last_exit", "i8"),
        ("entry_armed", "i8"),
        ("entry_mark", "i8"),
        ("stop_x", "i8"),
        ("stop_limit_x", "i8"),
        ("emergency_x", "i8"),
        ("activation_x", "i8"),
        ("even_fired", "i8"),
        ("even_x", "i8"),
        ("armed", "i8"),
        ("mark", "i8"),
        ("trail_x", "i8"),
        ("timer", "i8"),
        ("worst", "i8"),
        ("best", "i8"),
        ("bars", "i8"),
        ("last_bar", "i8"),
    ]
)
"""One smart order: configuration, then state. `lost`: base currency that fees have taken by word of the venue, in increments of 1e-8."""

OUTCOME = np.dtype(
    [
        (name, "i8")
        for name in (
            *("side", "created", "status", "reason", "planned", "levels", "filled_levels", "first_fill", "last_exit"),
            *("bought", "bought_maker", "bought_taker", "entered", "exited", "cost", "cost_maker", "cost_taker"),
            *("proceeds", "proceeds_maker", "worst", "best", "bars", "hits"),
        )
    ]
)
"""What became of an order, without how: fields of ORDER, and `hits`, a bit for each level that was filled completely."""

LEG = np.dtype(
    [
        ("role", "i8"),
        ("status", "i8"),
        ("limit", "i8"),
        ("sent", "i8"),
        ("rested", "i8"),
        ("number", "i8"),
        ("target_kind", "i8"),
        ("target_value", "i8"),
        ("x", "i8"),
        ("price", "i8"),
        ("weight", "i8"),
        ("quantity", "i8"),
        ("filled", "i8"),
        ("due", "i8"),
        ("cancel_due", "i8"),
        ("met", "i8"),
        ("looked", "i8"),
        ("mark", "i8"),
        ("spent", "i8"),
        ("triggered_ts", "i8"),
        ("filled_ts", "i8"),
        ("child", "i8"),
        ("submitted", "i8"),
        ("recalled", "i8"),
        ("news", "i8"),
    ]
)
"""Anything of an order that may go to a venue. `x`: trigger, mirrored; `price`: limit of its child, mirrored;
`weight`: its size, per cent in 1/SCALE; `quantity`: assigned or sent; `due`: arrival of the child, `cancel_due` of its cancel
(NONE: none); `met`: the price it sees if it arrives at once;
`looked`: the last tick that was matched with it; before the first −1, and −2 − t during the moment (tick t, or a command before
it) in which it was sent, while more can join it; `mark`: water mark of a trailing take-profit that is running (NONE: it is not);
`spent`: Σ price·quantity of its fills; `child`: number of the child order among those of its smart order. With a broker:
`submitted`, `recalled`: it has been told of the child, of its cancel;
`news`: it has something to say (News)."""

COMMAND = np.dtype(
    [
        ("ts", "i8"),
        ("role", "i8"),
        ("limit", "i8"),
        ("force", "i8"),
        ("by_cost", "i8"),
        ("living", "i8"),
        ("version", "i8"),
        ("price", "i8"),
        ("quantity", "i8"),
        ("level", "i8"),
        ("edit", "i8"),
        ("mask", "i8"),
    ]
)
"""An action on one order. `level`: number of the one that is taken, -1 for none; `edit` is the row of the edited spec
in the table of edits, `mask` the fields it changes; `living`: it makes sense only for a position that is held (a stop
in profit)."""

EVENT = np.dtype(
    [
        ("order", "i8"),
        ("seq", "i8"),
        ("ts", "i8"),
        ("tick", "i8"),
        ("kind", "i1"),
        ("role", "i1"),
        ("level", "i2"),
        ("liquidity", "i1"),
        ("status", "i1"),
        ("reason", "i1"),
        ("price", "i8"),
        ("quantity", "i8"),
        ("stop", "i8"),
        ("mark", "i8"),
    ]
)
"""One thing that happened. Prices are real, not mirrored."""

FILLS = np.dtype(
    [
        ("fee_maker", "i8"),
        ("fee_taker", "i8"),
        ("slippage", "i8"),
        ("latency", "i8"),
        ("participation", "i8"),
        ("poll", "i8"),
        ("min_quantity", "i8"),
        ("min_notional", "i8"),
        ("max_quantity", "i8"),
        ("most", "i8"),
        ("touch", "i8"),
        ("base_fee", "i8"),
        ("broker", "i8"),
    ]
)
"""The fill model and the venue's limits, in integers. `most`: the largest quantity that an order may come to without overflow.
`broker`: 1 if a broker says what is filled, 0 if the venue of venue.py does."""


CONTINUOUS = 1
"""Flag of a tick: a point that was reached continuously from the one before, rather than printed."""
BAR = 2
"""Flag of a tick: a point of a bar; points 4k to 4k + 3 are bar k."""
LATE = 4
"""Flag of a tick: it came after a gap. Stops and water marks look at it, nothing else does."""


class Ask(IntEnum):
    """A question to the broker, about one leg."""

    SUBMIT = 1
    CANCEL = 2
    MATCH = 3


class Answer(IntEnum):
    """What the broker says: nothing yet, a fill, that the child is over, or that it never was."""

    NOTHING = 0
    FILL = 1
    CANCELLED = 2
    REJECTED = 3


class News(IntEnum):
    """Whether the broker has something to say about a leg: a cancel that is done is heard before anything else."""

    NONE = 0
    REPORT = 1
    CANCEL = 2


RETRY = 10**9
"""Wait after an exit was refused, in ns; twice as long each time."""
REFUSALS = 8
"""Refusals in a row after which an exit waits for the user."""
ANSWERS = 256
"""Most answers of the broker to one order at one moment."""


class Field(IntEnum):
    """Bits of an edit's mask. RESIZE: the planned size follows from what was edited, if nothing was bought or sent yet."""

    ENTRY = 1
    SIZE = 2
    STOP = 4
    TRAILING = 8
    EVEN = 16
    LEVELS = 32
    TRAILING_TAKE_PROFIT = 64
    MAX_HOLD = 128
    ENTRY_EXPIRY = 256
    RESIZE = 512


NOW = np.dtype(
    [
        ("order", "i8"),
        ("tick", "i8"),
        ("ts", "i8"),
        ("x", "i8"),
        ("before", "i8"),
        ("last", "i8"),
        ("entry_base", "i8"),
        ("exit_base", "i8"),
        ("volume", "i8"),
        ("met", "i8"),
        ("continuous", "i8"),
        ("matching", "i8"),
        ("instant", "i8"),
        ("late", "i8"),
        ("n", "i8"),
        ("asked", "i8"),
        *[(f"ask_{name}", "i8") for name in ("leg", "child", "role", "limit", "price", "quantity")],
        ("known", "i8"),
        ("heard", "i8"),
        ("answers", "i8", (ANSWERS, 5)),
    ]
)
"""The moment that one order is looking at. Prices are mirrored: `x` watched, `before` the point that a continuous tick
came from, `last` the last price that a command sees, `entry_base` and `exit_base` where a market child would trade.
`volume`: what the tick still offers (-1: any). `met`: where an exit was decided. `matching`: the venue matches what
has arrived by `ts`; `instant`: a child sent now arrives now; `late`: see LATE. `n`: events written.

With a broker: `asked` (Ask) is a question that it has to answer before this moment can be lived through, `ask_leg` and what follows
the child that it is about; then the moment is lived through again from the start. `known` of `answers` (code of Answer, price,
quantity, liquidity or reason, `lost` of a fill) are there, `heard` were used."""


FOUND = np.dtype([(name, "i8") for name in ("tick", "x", "rate", "best", "worst", "even", "count")])
"""What grids.py found from one entry: the tick of a stop, trail or hold, where it stood, and the prices on the way to it. Of a body:
`tick` at which nothing is left, `even` at which break-even is met at `x`, and its `count` of STEPs."""

STEP = np.dtype([(name, "i8") for name in ("tick", "leg", "left", "proceeds", "hits", "best", "worst")])
"""A level that grids.py reached: what is left and earned after it, which levels were hit, and the prices on the way to it."""


NOD = 64
"""Living orders that are watched as one before they are looked at one by one."""


for _dtype in (FOUND, STEP, ORDER, OUTCOME, LEG, COMMAND, EVENT, FILLS, NOW):
    _hidden = set(_dtype.names or ()) & set(dir(np.recarray))
    assert not _hidden, f"{_hidden} would read the array's own attribute without the JIT"


def table(dtype: np.dtype, length: int) -> np.recarray:
    """A zeroed table of `length` rows."""
    return np.zeros(length, dtype).view(np.recarray)
