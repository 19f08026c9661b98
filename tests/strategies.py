"""Random orders, tapes, fill models and actions for hypothesis, on increments so coarse that exact ties are common.

Everything is built for a long around a price of 100 and turned round for a short (`200 - price`), so both sides get the
same variety. Whatever `cases()` draws is valid: a SmartOrder refuses what is not, and such draws are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st
from oracle import Tick

from smartorders_lab.actions import Action
from smartorders_lab.errors import SpecError
from smartorders_lab.fills import FillModel
from smartorders_lab.instrument import Instrument
from smartorders_lab.spec import BreakEven, Entry, SmartOrder, StopLoss, TakeProfit, TrailingStop

SPOT, PERPETUAL = "BTC/USDT", "BTC/USDT:USDT"
BEGIN = 1_699_999_980 * 10**9
"""The time (ns) at which every tape begins; a whole minute, so that small polling intervals divide it."""
KINDS = ["open_now", "add_funds", "reduce_funds", "take_profit", "stop_out", "close_at_market", "cancel", "edit"]
RATES = ["1%", "2%", "3%", "5%", "10%"]
SIZES = [
    [100], [50, 50], [40, 35, 25], [25, 25, 25, 25], [10, 20, 30, 40], [33, 33, 34], [60], [30, 30], [1, 99], [50, 25],
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """All that a replay takes."""

    order: SmartOrder
    instrument: Instrument
    ticks: tuple[Tick, ...]
    fills: FillModel
    actions: tuple[Action, ...] = ()
    start: int | None = None
    poll_interval: int = 0


def maybe(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | strategy


def rarely(draw: Any, one_in: int) -> bool:
    """True once in so many draws; what shrinks away is True."""
    return draw(st.integers(1, one_in)) == one_in


class Side:
    """Turns what is meant for a long round for a short."""

    def __init__(self, long: bool) -> None:
        self.long = long
        self.name = "buy" if long else "sell"

    def price(self, price: int) -> int:
        return price if self.long else 200 - price

    def distance(self, per_cent: int) -> str:
        return f"{per_cent if self.long else -per_cent:+d}%"

    def target(self, draw: Any, price: int, distances: bool) -> Any:
        """A price, or the same as a distance from 100."""
        return self.distance(price - 100) if distances else self.price(price)


instruments = st.builds(
    Instrument,
    symbol=st.just(PERPETUAL),
    price_increment=st.sampled_from(["1", "1", "0.5", "0.01"]),
    quantity_increment=st.sampled_from(["1", "1", "0.1", "0.001"]),
    min_quantity=st.sampled_from([0, 0, 0, 1, 3]),
    min_notional=st.sampled_from([0, 0, 0, 150, 400]),
)

fill_models = st.builds(
    FillModel,
    fee_maker=st.sampled_from([0, 0, "0.1%", "-0.01%"]),
    fee_taker=st.sampled_from([0, 0, "0.1%", "1%"]),
    slippage=st.sampled_from([0, 0, 0, "0.1%", "2%"]),
    latency=st.sampled_from([0, 0, 0, 1, 2, 5]),
    touch=st.booleans(),
    fee_currency=st.sampled_from(["quote", "quote", "base"]),
    participation=st.sampled_from([None, None, None, 1, "0.5", "0.1"]),
)


@st.composite
def entries(draw: Any, side: Side) -> Entry:
    kind = draw(st.sampled_from(["market", "market", "limit", "stop", "stop_limit", "trailing", "held", "ladder"]))
    price = draw(st.integers(97, 103))
    if kind == "market":
        return Entry.market()
    if kind == "limit":
        return Entry.limit(side.price(price))
    if kind == "stop":
        return Entry.stop(side.price(price))
    if kind == "stop_limit":
        return Entry.stop(side.price(price), limit=side.price(price + draw(st.integers(0, 2))))
    if kind == "trailing":
        return Entry.trailing(draw(st.sampled_from(RATES)), draw(maybe(st.just(side.price(price)))))
    if kind == "held":
        return Entry.held(side.price(price))
    sizes = draw(st.sampled_from([s for s in SIZES if sum(s) == 100]))
    steps = draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes)))
    return Entry.ladder([(side.price(price - sum(steps[: n + 1])), size) for n, size in enumerate(sizes)])


@st.composite
def ladders(draw: Any, side: Side, basis: str) -> tuple[TakeProfit, ...]:
    sizes = draw(st.sampled_from(SIZES))
    if basis == "remaining" and draw(st.booleans()):
        sizes = [*sizes[:-1], 100]
    distances = draw(st.booleans())
    price = draw(st.integers(101, 106))
    levels = []
    for size in sizes:
        kind = draw(st.sampled_from(["market", "market", "limit"]))
        levels.append(TakeProfit(target=side.target(draw, price, distances), size=size, kind=kind))
        price += draw(st.integers(1, 4))
    return tuple(levels)


@st.composite
def stop_losses(draw: Any, side: Side) -> StopLoss:
    distances = draw(st.booleans())
    price = draw(st.integers(86, 99))
    below = price - draw(st.integers(0, 2))
    return StopLoss(
        target=side.target(draw, price, distances),
        limit=side.target(draw, below, distances) if rarely(draw, 4) else None,
        timeout=draw(st.integers(1, 6)) if rarely(draw, 3) else None,
        emergency=side.target(draw, price - draw(st.integers(1, 4)), distances) if draw(st.booleans()) else None,
    )


@st.composite
def trailing_stops(draw: Any, side: Side) -> TrailingStop:
    activation = draw(maybe(st.integers(102, 108)))
    if activation is not None:
        activation = side.target(draw, activation, draw(st.booleans()))
    return TrailingStop(callback_rate=draw(st.sampled_from(RATES)), activation=activation)


@st.composite
def break_evens(draw: Any, levels: int) -> BreakEven:
    return BreakEven(after=draw(st.integers(1, levels)), offset=draw(st.sampled_from([0, 0, "0.5%", "-1%", "fees"])))


@st.composite
def orders(draw: Any, side: Side | None = None) -> SmartOrder:
    """A valid order for either side."""
    side = side or Side(draw(st.booleans()))
    basis = draw(st.sampled_from(["initial", "initial", "remaining"]))
    levels = draw(ladders(side, basis)) if draw(st.integers(0, 4)) else ()
    stop = draw(stop_losses(side)) if draw(st.integers(0, 4)) else None
    size = draw(st.sampled_from(["quantity"] * 4 + ["cost", "risk"]))
    fields: dict[str, Any] = {
        "symbol": PERPETUAL if not side.long else draw(st.sampled_from([SPOT, PERPETUAL])),
        "side": side.name,
        size: {"quantity": draw(st.integers(1, 20)), "cost": draw(st.integers(80, 2000)), "risk": 40}[size],
        "entry": draw(entries(side)),
        "take_profits": levels,
        "size_basis": basis,
        "stop_loss": stop,
        "trailing_stop": draw(maybe(trailing_stops(side))),
        "max_hold": draw(st.sampled_from([None, None, 5, 15])),
        "entry_expiry": draw(st.sampled_from([None, None, 4, 12])),
    }
    if levels and rarely(draw, 3):
        fields["trailing_take_profit"] = draw(st.sampled_from(RATES))
    if fields["entry"].kind == "held" and fields["symbol"] == SPOT:
        fields["side"] = draw(st.sampled_from(["buy", "sell"]))  # coins that are owned are a long either way
    if levels and draw(st.booleans()):
        fields["break_even"] = draw(break_evens(len(levels)))
    return valid(fields)


def valid(fields: dict[str, Any]) -> SmartOrder:
    try:
        return SmartOrder(**fields)
    except SpecError:
        assume(False)
        raise


def landmarks(order: SmartOrder) -> list[int]:
    """Whole prices at which something of the order happens, and those next to them."""
    up = order.direction
    prices = [100, order.entry.price, order.entry.limit_price, order.entry.activation]
    prices += [rung.price for rung in order.entry.rungs]
    prices += [level.target for level in order.take_profits]
    if order.stop_loss:
        prices += [order.stop_loss.target, order.stop_loss.limit, order.stop_loss.emergency]
    if order.trailing_stop:
        prices.append(order.trailing_stop.activation)
    whole = {int(p if isinstance(p, Decimal | int) else 100 * (1 + p.fraction)) for p in prices if p is not None}
    return sorted({price + step for price in whole for step in (-1, 0, 1)} | {100 + 3 * up, 100 - 3 * up})


@st.composite
def tapes(draw: Any, order: SmartOrder, quotes: bool = False) -> tuple[Tick, ...]:
    """Prints: ties in time, constant stretches, small steps, gaps, and the order's own prices. All have a size."""
    near = landmarks(order)
    price, ts, ticks = draw(st.integers(95, 105)), BEGIN, []
    moves = st.sampled_from(["same", "step", "step", "step", "landmark", "landmark", "gap"])
    for _ in range(draw(st.integers(5, 60))):
        move = draw(moves)
        if move == "step":
            price += draw(st.sampled_from([-2, -1, 1, 2]))
        elif move == "landmark":
            price = draw(st.sampled_from(near))
        elif move == "gap":
            price += draw(st.integers(-12, 12))
        price = min(max(price, 60), 160)
        ts += draw(st.sampled_from([0, 1, 1, 1, 2, 5]))
        tick = Tick(ts, Decimal(price), Decimal(draw(st.integers(1, 12))))
        if quotes:
            spread = draw(st.sampled_from([0, 1, 2]))
            tick = tick._replace(buy=Decimal(price + spread), sell=Decimal(price))
        ticks.append(tick)
    return tuple(ticks)


@st.composite
def bar_tapes(draw: Any, order: SmartOrder) -> tuple[Tick, ...]:
    """Bars of four points each, the last three reached continuously."""
    near = landmarks(order)
    close, ticks = draw(st.integers(95, 105)), []
    for bar in range(draw(st.integers(2, 15))):
        opened = min(max(close + draw(st.sampled_from([0, 0, 0, -3, 3, -1, 1])), 60), 160)
        reach = [opened, *draw(st.lists(st.sampled_from(near) | st.integers(opened - 6, opened + 6), max_size=3))]
        high, low = max(reach), min(reach)
        close = draw(st.integers(low, high))
        middle = (high, low) if draw(st.booleans()) else (low, high)
        points = zip((0, 3, 6, 9), (opened, *middle, close), strict=True)
        ticks += [Tick(BEGIN + 10 * bar + at, Decimal(price), None, at > 0, True) for at, price in points]
    return tuple(ticks)


@st.composite
def actions(draw: Any, order: SmartOrder, first: int, last: int) -> tuple[Action, ...]:
    """Up to five actions between two times, half of them early."""
    side = Side(order.direction > 0)
    found: list[Action] = []
    spec = order
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from([*KINDS, "edit"]))
        at = draw(st.integers(first, min(last, first + 15)) | st.integers(first, last))
        fields: dict[str, Any] = {"kind": kind, "at": at}
        if rarely(draw, 12):
            fields["version"] = draw(st.integers(1, 6))
        if kind in ("add_funds", "reduce_funds"):
            fields["quantity"] = draw(st.integers(1, 8))
            if kind == "add_funds" and rarely(draw, 4):
                fields["cost"] = 100 * fields.pop("quantity")
            fields["price"] = draw(maybe(st.integers(94, 108).map(side.price)))
        if kind == "take_profit":
            fields["level"] = draw(st.integers(1, 3))
        if kind == "edit":
            fields["force"] = draw(st.booleans())
            fields["changes"] = draw(changes(side, spec))
        found.append(Action(**fields))
    kept = []
    for action in sorted(found, key=lambda action: action.at):
        if action.kind == "edit":
            try:
                order.replace(**action.changes)
                spec = spec.replace(**action.changes)
            except SpecError:
                continue
        kept.append(action)
    return tuple(kept)


@st.composite
def changes(draw: Any, side: Side, order: SmartOrder) -> dict[str, Any]:
    """The fields of an edit."""
    levels = draw(ladders(side, order.size_basis))
    possible = {
        "stop_loss": stop_losses(side),
        "trailing_stop": maybe(trailing_stops(side)),
        "take_profits": st.just(levels),
        "break_even": maybe(break_evens(max(1, len(order.take_profits)))),
        "max_hold": st.sampled_from([None, 3, 10]),
        "entry_expiry": st.sampled_from([None, 3, 10]),
        "entry": entries(side).filter(lambda entry: entry.kind != "held"),
        "quantity": st.integers(1, 10),
    }
    only_when_pending = {"entry", "quantity"} if rarely(draw, 4) else set()
    names = sorted(set(possible) - {"entry", "quantity"} | only_when_pending)
    names = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    return {name: draw(possible[name]) for name in names}


@st.composite
def cases(draw: Any, with_actions: bool = True, bars: bool | None = None) -> Case:
    """An order with a tape, a fill model and actions. `bars` asks for continuous tapes, or (False) for prints only."""
    order = draw(orders())
    fills = draw(fill_models)
    if rarely(draw, 4) if bars is None else bars:
        ticks = draw(bar_tapes(order))
        fills = fills.model_copy(update={"participation": None})
        poll = 0
    else:
        quotes = rarely(draw, 6)
        ticks = draw(tapes(order, quotes))
        poll = draw(st.sampled_from([0, 0, 0, 0, 2, 5]))
        if quotes:
            order = order.replace(trigger="bid")
    middle = ticks[len(ticks) // 2].ts
    start = draw(st.sampled_from([None, None, None, middle, max(ticks[0].ts, middle - 1)]))
    taken = draw(actions(order, start or ticks[0].ts, ticks[-1].ts)) if with_actions else ()
    instrument = draw(instruments).model_copy(update={"symbol": order.symbol})
    assume(not any(problem.level == "error" for problem in order.check(instrument)))
    return Case(order, instrument, ticks, fills, taken, start, poll)
