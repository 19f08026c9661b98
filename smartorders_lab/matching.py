"""The paper exchange's matching: single child orders and coming ticks, by the fill rule of venue.py.

A child order is a row of integers, columns DUE to RESTED. Prices are mirrored, `x = direction · price`, as in venue.py.
"""

from __future__ import annotations

from .jit import entry_point, kernel
from .rows import NONE
from .venue import TAKER, limit_fill, market_price, take_volume

DUE, CANCEL, LIMIT, DIRECTION, EXITS, AT_LIMIT, RESTED = range(7)
"""When it arrives and when its cancel does (NEVER: none is on its way); its limit, mirrored (NONE: market); +1 for a long's; +1 if it
takes from the position, -1 if it adds; whether it also fills on arrival exactly at its limit; whether it has been looked at."""
COLUMNS = 7


@kernel
def meet(child, buy, sell, slippage, touch):
    """(liquidity, mirrored price) of a child that meets a tick; liquidity 0 if it does not fill."""
    direction, exits = child[DIRECTION], child[EXITS]
    base = direction * (buy if direction * exits < 0 else sell)
    if child[LIMIT] == NONE:
        return TAKER, market_price(base, direction, exits, slippage)
    return limit_fill(base, child[LIMIT], exits, child[RESTED] == 0, child[AT_LIMIT] != 0, touch)


@entry_point
def look(child, now, wanted, buy, sell, slippage, touch):
    """(liquidity, price, quantity) that a tick fills of `wanted` units of a child that has arrived.

    `now[0].volume` is what the tick still offers to the child's order (-1: any).
    """
    liquidity, x = meet(child, buy, sell, slippage, touch)
    if liquidity == 0:
        return 0, 0, 0
    return liquidity, child[DIRECTION] * x, take_volume(now[0], wanted)


@entry_point
def first_due(ts, buy, sell, volume, children, slippage, touch, found):
    """(index, count) of the first tick at which something is to be done for a child; (ticks, 0) if there is none.

    That is: its cancel arrives, it is filled, or it arrives as a limit order and rests. `found[:count]` are the rows of all such
    children at that tick, each as if it were alone. `volume`: what a tick offers to one order, empty if that is not limited.
    """
    for t in range(len(ts)):
        count = 0
        for k in range(len(children)):
            child = children[k]
            if child[CANCEL] <= ts[t]:
                found[count] = k
                count += 1
            elif child[DUE] <= ts[t]:
                arrives = child[LIMIT] != NONE and child[RESTED] == 0
                offered = len(volume) == 0 or volume[t] > 0
                if arrives or (offered and meet(child, buy[t], sell[t], slippage, touch)[0] != 0):
                    found[count] = k
                    count += 1
        if count > 0:
            return t, count
    return len(ts), 0
