"""The simulated exchange: at what price, as maker or taker, and how much of a child order one tick fills.

Prices are mirrored. `exits` is +1 for a child that sells what is held and -1 for one that opens: then "better than its limit" is
`exits · (price - limit) > 0` for longs and shorts alike.
"""

from __future__ import annotations

from .exact import ceil_rate, floor_rate
from .jit import kernel
from .rows import SCALE, Liquidity

MAKER, TAKER = int(Liquidity.MAKER), int(Liquidity.TAKER)


@kernel
def market_price(base, side, exits, slippage):
    """What a market child gets: `base` moved against it by `slippage`, rounded against it."""
    if exits > 0:
        moved = floor_rate(base, SCALE - side * slippage)
    else:
        moved = ceil_rate(base, SCALE + side * slippage)
    return side * max(side * moved, 1)


@kernel
def limit_fill(base, limit, exits, arriving, is_entry, touch):
    """(liquidity, price) of a limit child that a tick at `base` meets; liquidity 0 if it does not fill.

    An entry that arrives exactly at its limit is filled: it is sent because the price is there.
    """
    better = exits * (base - limit)
    if arriving and (better > 0 or (better == 0 and is_entry)):
        return TAKER, base
    if better > 0 or (better == 0 and touch):
        return MAKER, limit
    return 0, limit


@kernel
def take_volume(now, wanted):
    """How much of `wanted` the tick still offers; what is taken is gone for the order's other children."""
    if now.volume < 0:
        return wanted
    taken = min(wanted, now.volume)
    now.volume -= taken
    return taken
