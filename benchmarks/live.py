"""One live tick against many watched orders."""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np

import smartorders_lab as so
from smartorders_lab.desk import Desk, Dialogue
from smartorders_lab.lower import Table, suit
from smartorders_lab.rows import NONE, Answer, Liquidity, Status, Target

from .loops import watch as columns
from .scale import Scale
from .table import Row, count, race
from .tape import walk

TICKS = 2_000


def rows(scale: Scale) -> Iterator[Row]:
    """Nanoseconds for each order and tick, on ticks that trigger nothing; the reference gets all ticks in one call."""
    price = walk(TICKS)
    for number in scale.watched:
        ahead = np.random.default_rng(3).integers(100, 100_000, (2, number))
        low, high = price.min() - ahead[0], price.max() + ahead[1]
        (loop,) = race(scale.rounds, lambda low=low, high=high: columns(price, low, high))
        if loop.value:
            raise AssertionError("no tick should reach any of these levels")
        each = loop.seconds / (TICKS * number) * 1e9
        reference = f"columns, SIMD any-hit, 1 thread: {each:.3g} ns an order"
        mine = live(price, low, high) / (TICKS * number) * 1e9
        target = "≤ 0.5 ns" if number == 10_000 else ""
        reached = mine <= 0.5 if target else None
        size = f"{count(number)} watched orders"
        yield Row("live, one tick", size, f"{mine:.3g} ns an order", reference, mine / each, target, reached)


def live(price: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    """Seconds for one tick at a time, each a call from Python, against orders with these stops and levels."""
    instrument = so.Instrument(symbol="A/B:B", price_increment="0.01", quantity_increment="0.001")
    order = so.SmartOrder(
        symbol="A/B:B", side="buy", quantity=1, stop_loss="1%", take_profits=[("1%", 100)], trailing_stop="50%"
    )
    fills, most = so.FillModel(), int(high.max())
    instrument = suit(instrument, [order], (), int(low.min()), most)
    book = Table([order] * len(low), instrument, [()] * len(low), fills)
    book.orders.stop_kind = book.legs.target_kind = Target.PRICE  # one spec, a price of its own for each order
    book.orders.stop_value, book.legs.target_value[1::3] = low, high
    desk = Desk(instrument, fills, 0, quotes=False)
    desk.expect(most)
    for number, row in enumerate(book.orders):
        desk.adopt(number, order, book.orders[number : number + 1], book.legs[row.leg : row.end])
    ts = np.arange(TICKS + 1)
    price = np.concatenate([price[:1], price])
    desk.extend((ts[:1], price[:1]), late=False)
    _, everybody = desk.first_wake(0, 1)
    for dialogue in desk.turn(0, everybody).values():
        entered(dialogue, int(price[0]))
    desk.pass_by()
    begin = perf_counter()
    for k in range(1, TICKS + 1):
        desk.extend((ts[k : k + 1], price[k : k + 1]), late=False)
        tick, woken = desk.first_wake(k, k + 1)
        if woken:
            raise AssertionError(f"nothing should happen at tick {tick}")
        desk.pass_by()
    seconds = perf_counter() - begin
    if (desk.rows.status[: desk.count] != Status.ACTIVE).any():
        raise AssertionError("every order should have been entered")
    return seconds


def entered(dialogue: Dialogue, price: int) -> None:
    """Fill every entry at a price."""
    said: Any = None
    try:
        while True:
            question = dialogue.send(said)
            said = (Answer.FILL, price, question.quantity, Liquidity.TAKER, NONE)
    except StopIteration:
        return
