"""SmartOrder + Instrument -> rows of ORDER and LEG; FillModel -> FILLS; Action -> COMMAND. Every rounding rule is here.

A price between two increments is rounded so that it triggers on the same ticks: away from the market for stops and
levels, towards "not worse" for limits. On a published instrument such a price is an error instead (`check`).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from .actions import EDITABLE_WHEN_ACTIVE, Action
from .errors import LimitError, Problem
from .fields import Distance, plain
from .fills import FillModel
from .instrument import MAX_UNITS, Instrument
from .rows import (
    COMMAND,
    FILLS,
    LEG,
    NEVER,
    NONE,
    ORDER,
    SCALE,
    EntryKind,
    Even,
    Field,
    LegStatus,
    Role,
    SizeKind,
    Status,
    Target,
    table,
)
from .spec import MAX_LEVELS, SmartOrder, TakeProfit

MAX_NOTIONAL_UNITS = 2**61
"""Largest Σ price · quantity of one order, in price increments times quantity increments."""
MAX_EXITS = 4
"""Most exit children of one order that are out at a time; what comes back while so many are waits for one to fill."""

_MASK = {
    "entry": Field.ENTRY,
    "quantity": Field.SIZE,
    "cost": Field.SIZE,
    "risk": Field.SIZE,
    "size_basis": Field.SIZE | Field.LEVELS,
    "take_profits": Field.LEVELS,
    "stop_loss": Field.STOP,
    "trailing_stop": Field.TRAILING,
    "trailing_take_profit": Field.TRAILING_TAKE_PROFIT,
    "break_even": Field.EVEN,
    "max_hold": Field.MAX_HOLD,
    "entry_expiry": Field.ENTRY_EXPIRY,
    "tag": 0,
    "note": 0,
}


def rate_units(fraction: Decimal) -> int:
    """A fraction in 1/SCALE."""
    return int(fraction * SCALE)


def reference_price(order: SmartOrder) -> Fraction | None:
    """The entry price where the spec alone tells it: a limit, stop-limit's limit, held price, or a ladder's average."""
    entry = order.entry
    if entry.rungs:
        return sum((Fraction(r.price) * Fraction(r.size) for r in entry.rungs), Fraction(0)) / 100
    if entry.kind in ("limit", "held"):
        return Fraction(entry.price)  # type: ignore[arg-type]
    return Fraction(entry.limit_price) if entry.limit_price is not None else None


def planned_units(order: SmartOrder, instrument: Instrument) -> int | None:
    """The planned quantity in units, rounded down; None if it is decided by the price that triggers the entry."""
    if order.quantity is not None:
        return instrument.quantity_units(order.quantity)
    price = reference_price(order)
    if price is None:
        return None
    if order.cost is not None:
        return int(Fraction(order.cost) / price / Fraction(instrument.quantity_increment))
    assert order.risk is not None
    assert order.stop_loss is not None
    target = order.stop_loss.target
    increment = Fraction(instrument.price_increment)
    stop = price * (1 + Fraction(target.fraction)) if isinstance(target, Distance) else Fraction(target)
    if isinstance(target, Distance):
        away = stop / increment
        stop = increment * (away.__floor__() if order.direction > 0 else away.__ceil__())
    loss = order.direction * (price - stop)
    return int(Fraction(order.risk) / loss / Fraction(instrument.quantity_increment)) if loss > 0 else 0


def merged_levels(order: SmartOrder, instrument: Instrument) -> tuple[tuple[TakeProfit, ...], list[Problem]]:
    """The ladder without levels that the exchange would refuse: each merges into the next, the last into the one before."""
    planned, price = planned_units(order, instrument), reference_price(order)
    levels = list(order.take_profits)
    if planned is None or price is None or order.size_basis != "initial" or not levels:
        return tuple(levels), []

    def too_small(i: int) -> bool:
        before = sum((Fraction(level.size) for level in levels[:i]), Fraction(0))
        upto = before + Fraction(levels[i].size)
        units = int(planned * upto / 100) - int(planned * before / 100)
        quantity = units * instrument.quantity_increment
        target = levels[i].target
        at = price * (1 + Fraction(target.fraction)) if isinstance(target, Distance) else Fraction(target)
        return quantity <= 0 or quantity < instrument.min_quantity or Fraction(quantity) * at < instrument.min_notional

    warnings, i, number = [], 0, 0
    while i < len(levels) and len(levels) > 1:
        if not too_small(i):
            i, number = i + 1, number + 1
            continue
        into = i + 1 if i + 1 < len(levels) else i - 1
        gone, kept = levels[i], levels[into]
        levels[into] = TakeProfit(target=kept.target, size=kept.size + gone.size, kind=kept.kind)
        del levels[i]
        warnings.append(
            Problem(
                f"take_profits[{number}]",
                f"{plain(gone.size)} %",
                f"is below the minimum of {instrument.symbol or 'the instrument'} (quantity {plain(instrument.min_quantity)}, "
                f"notional {plain(instrument.min_notional)}) and merges into the level {'after' if into > i else 'before'} it",
                "give it a larger share, or the order a larger size",
                "warning",
            )
        )
        number += 1
        if into < i:
            break
    return tuple(levels), warnings


def check(order: SmartOrder, instrument: Instrument) -> list[Problem]:
    """Everything that keeps `order` from the market of `instrument`."""
    problems = order.warnings()
    if instrument.symbol and order.symbol != instrument.symbol:
        problems.append(Problem("symbol", order.symbol, f"is not the instrument's {instrument.symbol}", "use its own"))
    problems += off_grid(instrument, absolute_prices(order), [("quantity", order.quantity)])
    planned, entry_price = planned_units(order, instrument), reference_price(order)
    if planned is not None:
        quantity = planned * instrument.quantity_increment
        if planned <= 0:
            problems.append(
                Problem(
                    "quantity",
                    None,
                    f"comes to less than one increment of {plain(instrument.quantity_increment)}",
                    "make the order larger",
                )
            )
        elif quantity < instrument.min_quantity:
            problems.append(
                Problem(
                    "quantity",
                    plain(quantity),
                    f"is below the minimum of {plain(instrument.min_quantity)}",
                    f"use at least {plain(instrument.min_quantity)}",
                )
            )
        if instrument.max_quantity is not None and quantity > instrument.max_quantity:
            problems.append(
                Problem(
                    "quantity",
                    plain(quantity),
                    f"is above the maximum of {plain(instrument.max_quantity)}",
                    "split the order",
                )
            )
        if entry_price is not None and 0 < Fraction(quantity) * entry_price < instrument.min_notional:
            problems.append(
                Problem(
                    "quantity",
                    plain(quantity),
                    f"is worth less than the minimum notional of {plain(instrument.min_notional)}",
                    "make the order larger",
                )
            )
    return problems + merged_levels(order, instrument)[1]


def off_grid(
    instrument: Instrument,
    prices: Sequence[tuple[str, Decimal | None]],
    quantities: Sequence[tuple[str, Decimal | None]],
) -> list[Problem]:
    """Prices and quantities, each with its path, that lie between two increments of a published instrument."""
    problems: list[Problem] = []
    if instrument.derived:
        return problems
    for path, price in prices:
        low, high = instrument.neighbours(price) if price is not None else (Decimal(0), Decimal(0))
        if price is not None and low != high:
            rule = f"is off the price increment {plain(instrument.price_increment)}"
            problems.append(Problem(path, plain(price), rule, f"use {plain(low)} or {plain(high)}"))
    step = instrument.quantity_increment
    for path, quantity in quantities:
        units = 0 if quantity is None else instrument.quantity_units(quantity)
        if quantity is not None and units * step != quantity:
            fix = f"use {plain(units * step)} or {plain((units + 1) * step)}" if units else f"use {plain(step)}"
            problems.append(Problem(path, plain(quantity), f"is not a multiple of {plain(step)}", fix))
    return problems


def absolute_prices(order: SmartOrder) -> list[tuple[str, Decimal]]:
    """Every absolute price of a spec, with its path."""
    found: list[tuple[str, Any]] = [
        ("entry.price", order.entry.price if order.entry.kind != "held" else None),
        ("entry.limit_price", order.entry.limit_price),
        ("entry.activation", order.entry.activation),
    ]
    found += [(f"entry.rungs[{i}].price", rung.price) for i, rung in enumerate(order.entry.rungs)]
    found += [(f"take_profits[{i}].target", level.target) for i, level in enumerate(order.take_profits)]
    if order.stop_loss:
        found += [(f"stop_loss.{n}", getattr(order.stop_loss, n)) for n in ("target", "limit", "emergency")]
    if order.trailing_stop:
        found.append(("trailing_stop.activation", order.trailing_stop.activation))
    return [(path, price) for path, price in found if isinstance(price, Decimal)]


def suit(
    instrument: Instrument, orders: Sequence[SmartOrder], actions: Sequence[Action], low: int, high: int
) -> Instrument:
    """The instrument that a run uses: a derived one gets the finest quantity increment at which nothing overflows.

    `low` and `high` are the extreme prices of the tape, in units. Raises LimitError if no increment holds every order.
    """
    highest = _highest(instrument, orders, high)
    if highest > MAX_UNITS:
        raise LimitError(
            f"price = {instrument.price(highest)}: more than MAX_UNITS = {MAX_UNITS} increments of {instrument.price_increment}; "
            "use a coarser price_increment"
        )
    lowest = instrument.price(low)
    different = {id(order): order for order in orders}.values()
    known = {id(order): _most(order, lowest) for order in different}
    sizes = [known[id(order)] for order in orders]
    for action in actions:
        if action.kind == "add_funds":
            added = action.quantity if action.quantity is not None else action.cost / (action.price or lowest)  # type: ignore[operator]
            sizes[action.order] += Fraction(added)
    money = max((Fraction(order.cost or order.risk or 0) for order in different), default=Fraction(0))
    money = max([money, *(Fraction(a.cost or 0) for a in actions)]) / Fraction(instrument.price_increment)
    largest = max(sizes)
    for digits in range(8, -1, -1):
        increment = Decimal(1).scaleb(-digits) if instrument.derived else instrument.quantity_increment
        units = largest / Fraction(increment)
        if units <= MAX_UNITS and max(units * highest, money / Fraction(increment)) <= MAX_NOTIONAL_UNITS:
            fitted = instrument.model_copy(update={"quantity_increment": increment})
            _no_finer(fitted, orders, largest)
            return fitted
        if not instrument.derived:
            break
    i = sizes.index(largest)
    name = next(n for n in ("quantity", "cost", "risk") if getattr(orders[i], n) is not None)
    raise LimitError(
        f"orders[{i}].{name} = {plain(getattr(orders[i], name))}: at prices up to {instrument.price(highest)} it may come to more than "
        f"2^61 (MAX_NOTIONAL_UNITS) steps of {instrument.price_increment} times {plain(instrument.quantity_increment)}; "
        "make the order smaller, or give an Instrument with coarser increments"
    )


def _highest(instrument: Instrument, orders: Sequence[SmartOrder], high: int) -> int:
    """The highest price that the tape or an order names, in units."""
    different = {id(order): order for order in orders}.values()
    named = [instrument.price_units(price, ROUND_CEILING) for order in different for _, price in absolute_prices(order)]
    return max([high, *named])


def _most(order: SmartOrder, lowest: Decimal) -> Fraction:
    """The largest quantity that a size can come to, roughly for `risk`: what is larger still is rejected when it triggers."""
    if order.quantity is not None:
        return Fraction(order.quantity)
    if order.cost is not None:
        return Fraction(order.cost) / Fraction(min([lowest, *(r.price for r in order.entry.rungs)]))
    assert order.risk is not None
    assert order.stop_loss is not None
    target, price = order.stop_loss.target, reference_price(order) or Fraction(lowest)
    away = abs(Fraction(target.fraction)) * price if isinstance(target, Distance) else abs(price - Fraction(target))
    return Fraction(order.risk) / max(away, price / 10_000)


def _no_finer(instrument: Instrument, orders: Sequence[SmartOrder], largest: Fraction) -> None:
    """An order must not lose digits because of a much larger one beside it."""
    step = instrument.quantity_increment
    if not instrument.derived:
        return
    for i, order in {id(order): (i, order) for i, order in reversed(list(enumerate(orders)))}.values():
        quantity = order.quantity
        if quantity is not None and quantity % step and not quantity % Decimal("1e-8"):
            raise LimitError(
                f"orders[{i}].quantity = {plain(quantity)}: is finer than {plain(step)}, the finest step beside an order of "
                f"{float(largest):g}; replay them apart, or give an Instrument"
            )


class Layout(NamedTuple):
    """How many legs of each kind an order has room for."""

    rungs: int
    levels: int
    exits: int
    extras: int


class Table:
    """Orders as rows: `orders` (ORDER), `legs` (LEG), `commands` (COMMAND), `ends` (end of each order's commands), `edits`, `edit_legs`."""

    def __init__(
        self,
        orders: Sequence[SmartOrder],
        instrument: Instrument,
        actions: Sequence[Sequence[tuple[Action, SmartOrder | None]]],
        fills: FillModel,
    ):
        """`actions[i]`: the actions on order i in time order, each with the spec after it if it is an edit."""
        self.instrument = instrument
        self._ladders: dict[int, tuple[TakeProfit, ...]] = {}
        at_once = fills.latency == 0 and fills.participation is None
        edits = [spec for acts in actions for _, spec in acts if spec is not None]
        self._ladders.update((id(spec), spec.take_profits) for spec in edits)  # merging is for before the start
        known: dict[int, Layout] = {}
        layouts = []
        for order, acts in zip(orders, actions, strict=True):
            layout = None if acts else known.get(id(order))
            if layout is None:
                layout = self._layout(order, acts, at_once)
                if not acts:
                    known[id(order)] = layout
            layouts.append(layout)
        self.orders, self.legs = self._rows(orders, layouts)
        bare = [Layout(_rungs(spec), len(self.ladder(spec)), 1, 0) for spec in edits]
        self.edits, self.edit_legs = self._rows(edits, bare)
        self._commands(orders, actions)

    def ladder(self, order: SmartOrder) -> tuple[TakeProfit, ...]:
        """The levels of an order after merging what is too small."""
        if id(order) not in self._ladders:
            self._ladders[id(order)] = merged_levels(order, self.instrument)[0]
        return self._ladders[id(order)]

    def _layout(self, order: SmartOrder, actions: Sequence[tuple[Action, SmartOrder | None]], at_once: bool) -> Layout:
        """Room for the order and for what its edits make of it. While an exit child is out, what comes back needs another one."""
        specs = [order, *(spec for _, spec in actions if spec is not None)]
        rungs = max(map(_rungs, specs))
        levels = min(MAX_LEVELS, sum(len(self.ladder(spec)) for spec in specs))
        extras = sum(action.kind in ("add_funds", "reduce_funds") for action, _ in actions)
        return Layout(rungs, levels, 1 if at_once else MAX_EXITS, extras)

    def _rows(self, orders: Sequence[SmartOrder], layouts: Sequence[Layout]) -> tuple[np.recarray, np.recarray]:
        """One row each and their legs; a spec that stands several times is lowered once and copied."""
        if not orders:
            return table(ORDER, 1), table(LEG, 1)
        kinds: dict[tuple[int, Layout], int] = {}
        kind = np.array([kinds.setdefault((id(o), y), len(kinds)) for o, y in zip(orders, layouts, strict=True)])
        specs = {id(order): order for order in orders}
        rows, legs = table(ORDER, len(kinds)), table(LEG, sum(sum(layout) for _, layout in kinds))
        begin = 0
        for n, (key, layout) in enumerate(kinds):
            row, own = self._lower(specs[key], layout)
            row.leg, row.end = begin, begin + len(own)
            rows[n] = tuple(vars(row).values())
            legs[begin : row.end] = [tuple(vars(leg).values()) for leg in own]
            begin = row.end
        first, counts = rows.leg[kind], (rows.end - rows.leg)[kind]
        ends = np.cumsum(counts)
        copied = rows[kind].view(np.recarray)
        copied.leg, copied.end = ends - counts, ends
        legs = legs[np.arange(ends[-1]) + np.repeat(first - copied.leg, counts)].view(np.recarray)
        return copied, legs

    def _commands(
        self, orders: Sequence[SmartOrder], actions: Sequence[Sequence[tuple[Action, SmartOrder | None]]]
    ) -> None:
        self.commands = table(COMMAND, max(sum(map(len, actions)), 1))
        self.ends = np.cumsum([len(acts) for acts in actions], dtype=np.int64)
        n = edits = 0
        if len(orders):
            self.orders.command = self.ends - [len(acts) for acts in actions]
        for i, acts in enumerate(actions):
            for action, spec in acts:
                row = self.commands[n]
                row.ts, row.version, row.force = (
                    action.at,
                    -1 if action.version is None else action.version,
                    action.force,
                )
                row.role = Role[action.kind.upper()]
                row.level = -1 if action.level is None else action.level - 1
                row.price = NONE
                if action.price is not None:
                    row.limit = 1
                    row.price = self._limit(action.price, orders[i].direction, action.kind == "add_funds")
                if action.cost is not None:
                    row.by_cost, row.quantity = 1, self._notional(action.cost)
                elif action.quantity is not None:
                    row.quantity = self.instrument.quantity_units(action.quantity)
                if spec is not None:
                    row.edit, edits = edits, edits + 1
                    mask = 0
                    for name in action.changes:
                        mask |= int(_MASK[name])
                    if spec.risk is not None and mask & Field.STOP:
                        mask |= int(Field.RESIZE)
                    row.mask = mask
                    row.living = action.living_only(orders[i])
                n += 1

    def _x(self, price: Decimal, side: int, up: bool) -> int:
        """A price mirrored, on the increment, rounded up or down in the mirror."""
        return side * self.instrument.price_units(price, ROUND_CEILING if up == (side > 0) else ROUND_FLOOR)

    def _limit(self, price: Decimal, side: int, opens: bool) -> int:
        """A limit, mirrored, never worse than asked for."""
        return self._x(price, side, up=not opens)

    def _notional(self, amount: Decimal) -> int:
        units = int(
            Fraction(amount) / Fraction(self.instrument.price_increment) / Fraction(self.instrument.quantity_increment)
        )
        if units > MAX_NOTIONAL_UNITS:
            raise LimitError(
                f"cost = {plain(amount)}: more than MAX_NOTIONAL_UNITS = 2^61 increments; use coarser increments"
            )
        return units

    def _target(self, row: Any, name: str, value: Decimal | Distance | None, side: int, up: bool) -> None:
        kind, units = Target.NONE, 0
        if isinstance(value, Distance):
            kind, units = Target.DISTANCE, rate_units(value.fraction)
        elif value is not None:
            kind, units = Target.PRICE, self._x(value, side, up)
        setattr(row, f"{name}_kind", kind)
        setattr(row, f"{name}_value", units)

    def _lower(self, order: SmartOrder, layout: Layout) -> tuple[Any, list[Any]]:
        """An order's row and its legs, as objects with the fields of ORDER and LEG: setting fields of records is slow."""
        side, levels = order.direction, self.ladder(order)
        row = SimpleNamespace(**_BLANK_ORDER)
        legs = [SimpleNamespace(**_BLANK_LEG) for _ in range(sum(layout))]
        row.side, row.levels = side, len(levels)
        row.rungs, row.level_slots, row.exits = layout.rungs, layout.levels, layout.exits
        self._size(row, order)
        self._entry(row, legs, order, layout.rungs)
        self._exits(row, order)
        row.by_remaining = int(order.size_basis == "remaining")
        runner = 100 - sum((level.size for level in levels), Decimal(0))
        row.runner = 0 if row.by_remaining else max(rate_units(runner), 0)
        for number, level in enumerate(levels):
            leg = legs[layout.rungs + number]
            leg.status, leg.number = LegStatus.PENDING, number
            leg.limit, leg.weight = int(level.kind == "limit"), rate_units(level.size)
            self._target(leg, "target", level.target, side, up=True)
            leg.x = leg.target_value if leg.target_kind == Target.PRICE else NONE
        return row, legs

    def _size(self, row: Any, order: SmartOrder) -> None:
        planned = planned_units(order, self.instrument)
        row.planned = planned or 0
        if order.quantity is not None or planned is not None:
            row.size_kind, row.amount = SizeKind.QUANTITY, planned
        elif order.cost is not None:
            row.size_kind, row.amount = SizeKind.COST, self._notional(order.cost)
        else:
            assert order.risk is not None
            row.size_kind, row.amount = SizeKind.RISK, self._notional(order.risk)

    def _entry(self, row: Any, legs: list[Any], order: SmartOrder, rungs: int) -> None:
        side, entry = order.direction, order.entry
        row.entry_kind = EntryKind.LIMIT if entry.kind == "ladder" else EntryKind[entry.kind.upper()]
        if entry.kind == "stop":
            assert entry.price is not None
            row.entry_x = self._x(entry.price, side, up=True)
        if entry.kind == "trailing":
            assert entry.callback_rate is not None
            row.entry_rate = rate_units(entry.callback_rate)
            if entry.activation is not None:
                row.entry_activation = self._x(entry.activation, side, up=False)
        single = entry.price if entry.kind == "limit" else entry.limit_price
        shares: list[tuple[Decimal | None, Decimal]] = [(r.price, r.size) for r in entry.rungs] or [
            (single, Decimal(100))
        ]
        whole = sum((size for _, size in shares), Decimal(0))
        done, given = Fraction(0), 0
        for k in range(rungs):
            leg = legs[k]
            leg.role, leg.number, leg.status = Role.ENTRY, k, LegStatus.CANCELLED
            if k >= len(shares):
                continue
            price, size = shares[k]
            done += Fraction(size)
            upto = int(int(row.planned) * done / Fraction(whole))
            leg.status, leg.weight, leg.quantity, given = LegStatus.PENDING, rate_units(size), upto - given, upto
            if price is not None:
                leg.limit, leg.price = 1, self._limit(price, side, opens=True)
                leg.x = leg.price
        if entry.kind == "held":
            assert entry.price is not None
            legs[0].x = side * self.instrument.price_units(entry.price, ROUND_HALF_EVEN)

    def _exits(self, row: Any, order: SmartOrder) -> None:
        side, stop, trail, even = order.direction, order.stop_loss, order.trailing_stop, order.break_even
        self._target(row, "stop", stop.target if stop else None, side, up=False)
        self._target(row, "stop_limit", stop.limit if stop else None, side, up=True)
        self._target(row, "emergency", stop.emergency if stop else None, side, up=False)
        row.timeout = (stop and stop.timeout) or 0
        row.trail_rate = rate_units(trail.callback_rate) if trail else 0
        self._target(row, "activation", trail.activation if trail else None, side, up=True)
        row.ttp_rate = rate_units(order.trailing_take_profit.callback_rate) if order.trailing_take_profit else 0
        row.even = Even.OFF
        if even:
            fees = even.offset == "fees"
            row.even, row.even_after = Even.FEES if fees else Even.OFFSET, even.after
            row.even_offset = 0 if fees else rate_units(even.offset)  # type: ignore[arg-type]
        row.max_hold, row.entry_expiry = order.max_hold or 0, order.entry_expiry or 0


_BLANK_ORDER: dict[str, int] = dict.fromkeys(ORDER.names or (), 0) | {
    **dict.fromkeys(("stop_x", "stop_limit_x", "emergency_x", "activation_x", "even_x", "trail_x"), NONE),
    **dict.fromkeys(("entry_activation", "timer", "seen"), NONE),
    "status": Status.PENDING,
    "last_bar": -1,
    "worst": NEVER,
    "best": -NEVER,
}
_BLANK_LEG: dict[str, int] = dict.fromkeys(LEG.names or (), 0) | {
    **dict.fromkeys(("cancel_due", "met", "mark"), NONE),
    "looked": -1,
    "role": Role.TAKE_PROFIT,
    "status": LegStatus.CANCELLED,
    "number": -1,
}


def _rungs(order: SmartOrder) -> int:
    return max(len(order.entry.rungs), 1)


def lower_fills(
    fills: FillModel, instrument: Instrument, poll_ns: int, highest: int, broker: bool = False
) -> np.recarray:
    """The fill model and the instrument's limits as one row of FILLS. `highest`: the highest price of the tape, in units.

    `broker`: a broker says what is filled, not the venue of venue.py.
    """
    rows = table(FILLS, 1)
    row = rows[0]
    row.fee_maker, row.fee_taker = rate_units(fills.fee_maker), rate_units(fills.fee_taker)
    row.slippage, row.latency, row.poll = rate_units(fills.slippage), fills.latency, poll_ns
    row.touch, row.base_fee, row.broker = fills.touch, fills.fee_currency == "base", broker
    row.min_quantity = instrument.quantity_units(instrument.min_quantity, ROUND_CEILING)
    row.most = MAX_NOTIONAL_UNITS // highest
    largest = instrument.max_quantity
    row.max_quantity = row.most if largest is None else min(instrument.quantity_units(largest), row.most)
    row.min_notional = int(
        (
            Fraction(instrument.min_notional)
            / Fraction(instrument.price_increment)
            / Fraction(instrument.quantity_increment)
        ).__ceil__()
    )
    return rows


assert set(_MASK) >= EDITABLE_WHEN_ACTIVE
