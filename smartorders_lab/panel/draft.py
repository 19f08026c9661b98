"""Draft: an order as it stands in the fields of a form, whole or not, and what can be reckoned from it.

What was typed is kept as text, so a draft that makes no order loses nothing. Paths are those of a spec and of its
problems: `entry.price`, `take_profits[1].target`. It knows no widgets.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError, Problem, SpecError
from ..fields import Distance, fraction, number, percent, plain, rate, target, text_of
from ..fills import FillModel
from ..instrument import Instrument
from ..spec import SmartOrder
from ..ticks import Ticks
from ..times import duration_text

ENTRIES = ("market", "limit", "stop", "stop_limit", "trailing", "ladder", "held")
SIZES = ("quantity", "cost", "risk")
DEFAULTS = {
    "symbol": "BASE/QUOTE",
    "side": "buy",
    "size": "cost",
    "quantity": "",
    "cost": "1000",
    "risk": "",
    "entry": "market",
    "entry.price": "",
    "entry.limit_price": "",
    "entry.callback_rate": "",
    "entry.activation": "",
    "size_basis": "initial",
    "stop_loss.target": "",
    "stop_loss.limit": "",
    "stop_loss.timeout": "",
    "stop_loss.emergency": "",
    "trailing_stop.callback_rate": "",
    "trailing_stop.activation": "",
    "trailing_take_profit.callback_rate": "",
    "break_even.after": "1",
    "break_even.offset": "0",
    "max_hold": "",
    "entry_expiry": "",
    "trigger": "last",
    "tag": "",
    "note": "",
}
"""Every field and what it holds in an empty draft. `size` says which of three is meant, `entry` which kind."""
SWITCHES = ("stop_loss", "stop_loss.limit", "trailing_stop", "trailing_take_profit", "break_even")
_LIST = re.compile(r"(take_profits|entry\.rungs)\[(\d+)\]\.(\w+)")


class Level(NamedTuple):
    """A take-profit level as typed."""

    target: str = ""
    size: str = ""
    kind: str = "market"


class Step(NamedTuple):
    """A rung of a ladder entry as typed."""

    price: str = ""
    size: str = ""


@dataclass(frozen=True)
class Draft:
    """An order as typed. `fields` holds every name of DEFAULTS, `on` the switches (of SWITCHES) that are on."""

    fields: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULTS))
    on: frozenset[str] = frozenset()
    levels: tuple[Level, ...] = ()
    rungs: tuple[Step, ...] = ()

    @classmethod
    def of(cls, order: SmartOrder) -> Draft:
        """The draft that makes `order`."""
        size = next(name for name in SIZES if getattr(order, name) is not None)
        entry, stop, trail, even = order.entry, order.stop_loss, order.trailing_stop, order.break_even
        values: dict[str, Any] = {
            **{name: getattr(order, name) for name in ("symbol", "side", "size_basis", "trigger", "tag", "note")},
            "size": size,
            size: getattr(order, size),
            "entry": "stop_limit" if entry.kind == "stop" and entry.limit_price is not None else entry.kind,
            **{f"entry.{n}": getattr(entry, n) for n in ("price", "limit_price", "callback_rate", "activation")},
            **{name: _duration(getattr(order, name)) for name in ("max_hold", "entry_expiry")},
        }
        on = set()
        if stop is not None:
            on |= {"stop_loss"} | ({"stop_loss.limit"} if stop.limit is not None else set())
            values |= {f"stop_loss.{n}": getattr(stop, n) for n in ("target", "limit", "emergency")}
            values["stop_loss.timeout"] = _duration(stop.timeout)
        if trail is not None:
            on.add("trailing_stop")
            values |= {f"trailing_stop.{n}": getattr(trail, n) for n in ("callback_rate", "activation")}
        if order.trailing_take_profit is not None:
            on.add("trailing_take_profit")
            values["trailing_take_profit.callback_rate"] = order.trailing_take_profit.callback_rate
        if even is not None:
            on.add("break_even")
            values |= {"break_even.after": str(even.after), "break_even.offset": even.offset}
        for name, value in values.items():
            if isinstance(value, Decimal) and name.endswith(("callback_rate", "offset")):
                values[name] = f"{plain(value * 100)}%" if value else "0"
        return cls(
            DEFAULTS | {name: str(text_of(value)) for name, value in values.items() if value is not None},
            frozenset(on),
            tuple(Level(text_of(t.target), plain(t.size), t.kind) for t in order.take_profits),
            tuple(Step(plain(r.price), plain(r.size)) for r in entry.rungs),
        )

    def __getitem__(self, path: str) -> str:
        """The text at a path."""
        found = _LIST.fullmatch(path)
        if found is None:
            return self.fields[path]
        rows = self.levels if found[1] == "take_profits" else self.rungs
        return str(getattr(rows[int(found[2])], found[3]))

    def set(self, path: str, text: str) -> Draft:
        """A draft with the text at one path replaced."""
        found = _LIST.fullmatch(path)
        if found is None:
            if path not in DEFAULTS:
                raise KeyError(path)
            return replace(self, fields={**self.fields, path: text})
        i, part = int(found[2]), {found[3]: text}
        if found[1] == "take_profits":
            return replace(self, levels=(*self.levels[:i], self.levels[i]._replace(**part), *self.levels[i + 1 :]))
        return replace(self, rungs=(*self.rungs[:i], self.rungs[i]._replace(**part), *self.rungs[i + 1 :]))

    def switch(self, name: str, on: bool) -> Draft:
        """A draft with one part switched on or off; what its fields hold stays."""
        return replace(self, on=self.on | {name} if on else self.on - {name})

    def paths(self) -> Iterator[str]:
        """Every path that has a text."""
        yield from self.fields
        for i in range(len(self.levels)):
            yield from (f"take_profits[{i}].{part}" for part in Level._fields)
        for i in range(len(self.rungs)):
            yield from (f"entry.rungs[{i}].{part}" for part in Step._fields)

    @property
    def direction(self) -> int:
        """+1 for a long, -1 for a short, as SmartOrder.direction."""
        owned = self["entry"] == "held" and ":" not in self["symbol"]
        return -1 if self["side"] == "sell" and not owned else 1

    # ------------------------------------------------------------------------------------------------ to an order

    def data(self) -> dict[str, Any]:
        """The arguments of SmartOrder that are meant, as text."""
        f = self.fields
        data: dict[str, Any] = {"symbol": f["symbol"], "side": f["side"], f["size"]: f[f["size"]]}
        data["entry"] = self._entry()
        if self.levels:
            data["take_profits"] = [level._asdict() for level in self.levels]
        data |= {n: f[n] for n in ("size_basis", "trigger", "tag", "note") if f[n] != DEFAULTS[n]}
        data |= {n: f[n] for n in ("max_hold", "entry_expiry") if f[n].strip()}
        for name, first, rest in (
            ("stop_loss", "target", ("limit", "timeout", "emergency")),
            ("trailing_stop", "callback_rate", ("activation",)),
            ("trailing_take_profit", "callback_rate", ()),
            ("break_even", "after", ("offset",)),
        ):
            if name in self.on:
                given = [n for n in rest if f[f"{name}.{n}"].strip()]
                if name == "stop_loss":
                    given = [n for n in given if n != "limit"] + ["limit"] * ("stop_loss.limit" in self.on)
                data[name] = {n: f[f"{name}.{n}"] for n in (first, *given)}
        return data

    def _entry(self) -> dict[str, Any]:
        kind = self["entry"]
        if kind == "ladder":
            return {"kind": kind, "rungs": [rung._asdict() for rung in self.rungs]}
        needed = {
            "limit": ("price",),
            "stop": ("price",),
            "stop_limit": ("price", "limit_price"),
            "trailing": ("callback_rate",),
            "held": ("price",),
        }.get(kind, ())
        data = {name: self[f"entry.{name}"] for name in needed}
        if kind == "trailing" and self["entry.activation"].strip():
            data["activation"] = self["entry.activation"]
        return {"kind": "stop" if kind == "stop_limit" else kind, **data}

    def order(self, instrument: Instrument | None = None) -> tuple[SmartOrder | None, list[Problem]]:
        """The order, None if there is an error, and all problems, those of `instrument`'s market too."""
        try:
            order = SmartOrder(**self.data())
        except SpecError as error:
            # a ladder of which a level cannot be read is not a ladder that is missing
            broken = any(p.path.startswith("take_profits[") for p in error.problems)
            needless = ("break_even", "trailing_take_profit") if broken else ()
            return None, [p for p in error.problems if not (p.path in needless and p.rule.startswith("needs"))]
        problems = order.check(instrument or Instrument())
        return (None if any(p.level == "error" for p in problems) else order), problems

    # ------------------------------------------------------------------------------------------------ keeping

    def to_json(self) -> dict[str, Any]:
        """The draft as plain data."""
        fields = {name: text for name, text in self.fields.items() if text != DEFAULTS[name]}
        return {"fields": fields, "on": sorted(self.on), "levels": list(self.levels), "rungs": list(self.rungs)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Draft:
        """The draft that `to_json` described; raises KeyError, TypeError, ValueError or AttributeError if it is none."""
        texts = {str(name): str(text) for name, text in data["fields"].items() if name in DEFAULTS}
        return cls(
            DEFAULTS | texts,
            frozenset(data["on"]) & frozenset(SWITCHES),
            tuple(Level(*map(str, level)) for level in data["levels"]),
            tuple(Step(*map(str, rung)) for rung in data["rungs"]),
        )


def _duration(ns: int | None) -> str | None:
    return None if ns is None else duration_text(ns)


def read(reader: Any, text: str) -> Any:
    """What a reader of fields.py makes of a text; None if it is not readable."""
    try:
        return reader(text)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------------- prices


class Market(NamedTuple):
    """What a draft is measured against: increments, the last price, a usual move (fraction) and the latest extremes."""

    instrument: Instrument
    last: Decimal
    move: Decimal
    low: Decimal
    high: Decimal

    @classmethod
    def of(cls, ticks: Ticks, trigger: str = "last") -> Market:
        """The market at the end of `ticks`. The usual move is an eighth of the latest range, on two digits."""
        trigger = trigger if trigger in ticks.triggers else ticks.triggers[0]
        view = ticks.view(trigger).price
        units = view[-max(20_000, len(view) // 10) :]
        instrument = ticks.instrument
        last, low, high = (instrument.price(int(value)) for value in (units[-1], units.min(), units.max()))
        move = max((high - low) / last / 8, 8 * instrument.price_increment / last, Decimal("0.002"))
        move = min(move, Decimal("0.1"))
        return cls(instrument, last, Decimal(f"{move:.2g}").quantize(Decimal("1e-8")).normalize(), low, high)

    def grid(self, price: Decimal, up: bool) -> Decimal:
        """The price on the increment, rounded up or down."""
        i = self.instrument
        return i.price(i.price_units(price, ROUND_CEILING if up else ROUND_FLOOR))

    def nearest(self, price: float | Decimal) -> Decimal:
        """The nearest price on the increment, at least one of them."""
        i = self.instrument
        return i.price(max(i.price_units(price, ROUND_HALF_EVEN), 1))

    def at(self, value: Decimal | Distance | None, entry: Decimal) -> Decimal | None:
        """A target as a price, distances from `entry` and rounded away from it."""
        if not isinstance(value, Distance):
            return value
        return self.grid(entry * (1 + value.fraction), value.fraction > 0)

    def distance(self, price: Decimal, entry: Decimal, up: bool | None = None) -> str:
        """The shortest distance from `entry` that comes to `price`: `+5%`. It is rounded away from the entry, or as `up` says."""
        step = self.instrument.price_increment * Decimal("0.999")
        low, high = (price - step, price) if (price > entry if up is None else up) else (price, price + step)
        return str(Distance(shortest(low / entry - 1, high / entry - 1, price / entry - 1)))

    def rate(self, price: Decimal, mark: Decimal) -> str:
        """The shortest callback rate at which the stop below (or above) `mark` is at `price`: `2%`."""
        away = self.distance(price, mark)
        return away.lstrip("+-")


def shortest(low: Decimal, high: Decimal, wanted: Decimal) -> Decimal:
    """The fraction with the fewest decimals from `low` to `high`; `wanted` on eight if there is none."""
    for digits in range(2, 9):
        scale = Decimal(10) ** digits
        found = (low * scale).to_integral_value(ROUND_CEILING) / scale
        if found <= high:
            return found
    return round(wanted, 8)


# ---------------------------------------------------------------------------------------------------- reckoning


@dataclass(frozen=True)
class Shape:
    """The prices of a draft, None where a text cannot be read. `entry` is what distances are measured from.

    `even` is where break-even puts the stop, `trail` the trailing stop as it arms, `quantity` the planned size.
    """

    up: int
    entry: Decimal
    planned: bool
    levels: tuple[Decimal | None, ...] = ()
    sizes: tuple[Decimal | None, ...] = ()
    rungs: tuple[Decimal | None, ...] = ()
    stop: Decimal | None = None
    stop_limit: Decimal | None = None
    emergency: Decimal | None = None
    trail: Decimal | None = None
    trail_rate: Decimal | None = None
    activation: Decimal | None = None
    even: Decimal | None = None
    quantity: Decimal | None = None


def signed(text: str, sign: int) -> str:
    """A distance without a sign gets the side on which it makes sense, as in SmartOrder."""
    bare = text.strip()
    return f"{'+' if sign > 0 else '-'}{bare}" if bare.endswith("%") and bare[0] not in "+-" else text


def reference(draft: Draft, market: Market) -> tuple[Decimal, bool]:
    """The entry price, and whether the draft itself tells it; else it is the last price."""
    kind = draft["entry"]
    if kind == "ladder":
        pairs = [(read(number, rung.price), read(percent, rung.size)) for rung in draft.rungs]
        known = [(price, size) for price, size in pairs if price is not None and size is not None]
        if known:
            return sum(p * s for p, s in known) / sum(s for _, s in known), True
    name = {"limit": "price", "stop": "price", "held": "price", "stop_limit": "limit_price"}.get(kind)
    price = read(number, draft[f"entry.{name}"]) if name else None
    return (market.last, False) if price is None else (price, True)


def shape(draft: Draft, market: Market, fills: FillModel) -> Shape:
    """The prices of `draft` in `market`."""
    up = draft.direction
    entry, planned = reference(draft, market)

    def at(text: str, sign: int) -> Decimal | None:
        return market.at(read(target, signed(text, sign)), entry)

    found: dict[str, Any] = {}
    if "stop_loss" in draft.on:
        found["stop"] = at(draft["stop_loss.target"], -up)
        found["emergency"] = at(draft["stop_loss.emergency"], -up)
        if "stop_loss.limit" in draft.on:
            found["stop_limit"] = at(draft["stop_loss.limit"], -up)
    if "trailing_stop" in draft.on:
        found["activation"] = at(draft["trailing_stop.activation"], up)
        found["trail_rate"] = back = read(rate, draft["trailing_stop.callback_rate"])
        if back is not None:
            mark = found["activation"] or entry
            found["trail"] = market.grid(mark * (1 - up * back), up < 0)
    if "break_even" in draft.on:
        offset = draft["break_even.offset"].strip() or "0"
        if offset == "fees":
            taker = fills.fee_taker
            paid = Decimal(0) if draft["entry"] == "held" else taker
            found["even"] = market.grid(entry * (1 + up * paid) / (1 - up * taker), up < 0)
        elif (move := read(fraction, offset)) is not None:
            found["even"] = market.grid(entry * (1 + up * move), up < 0)
    size, text = draft["size"], draft[draft["size"]]
    amount = read(number, text)
    if amount is not None:
        away = up * (entry - found["stop"]) if found.get("stop") is not None else Decimal(0)
        found["quantity"] = {
            "quantity": amount,
            "cost": amount / entry,
            "risk": amount / away if away > 0 else None,
        }[size]
    return Shape(
        up,
        entry,
        planned,
        tuple(at(level.target, up) for level in draft.levels),
        tuple(read(percent, level.size) for level in draft.levels),
        tuple(read(number, rung.price) for rung in draft.rungs) if draft["entry"] == "ladder" else (),
        **found,
    )


class Reward(NamedTuple):
    """What one level brings: its price, share of the position (fraction), net money, and that in R."""

    price: float
    share: float
    money: float | None
    r: float | None


class Outlook(NamedTuple):
    """Risk and reward of a draft, fees and slippage counted. `risk`: money lost if the stop takes it all (1 R).

    `money`, `r`: net, if every level fills; the `runner` (fraction) counts nothing. `win_rate`: how often that must happen for
    the rest, all lost at the stop, to be paid for. None where something is missing.
    """

    quantity: float | None
    risk: float | None
    levels: tuple[Reward | None, ...]
    money: float | None
    r: float | None
    win_rate: float | None
    runner: float


def outlook(draft: Draft, found: Shape, fills: FillModel) -> Outlook:
    """Risk and reward, per level and in total. Entries are counted as taker, limit levels as maker, all else as taker."""
    taker, maker, slip = float(fills.fee_taker), float(fills.fee_maker), float(fills.slippage)
    up, entry = found.up, float(found.entry)
    bought = entry if draft["entry"] not in ("market", "stop", "trailing") else entry * (1 + up * slip)
    paid = 0.0 if draft["entry"] == "held" else bought * taker

    def net(price: float, limit: bool) -> float:
        """Profit of one unit that leaves at `price`."""
        price = price if limit else price * (1 - up * slip)
        return up * (price - bought) - paid - price * (maker if limit else taker)

    stops = [found.stop, found.trail if found.activation is None else None]
    tight = [float(stop) for stop in stops if stop is not None and up * (found.entry - stop) > 0]
    lost = -net(max(tight, key=lambda stop: up * stop), False) if tight else 0.0
    loss = lost if lost > 0 else None
    quantity = None if found.quantity is None else float(found.quantity)
    left, rewards = 1.0, list[Reward | None]()
    for level, price, size in zip(draft.levels, found.levels, found.sizes, strict=True):
        if price is None or size is None:
            rewards.append(None)
            continue
        share = float(size) / 100 * (left if draft["size_basis"] == "remaining" else 1)
        left -= share
        unit = net(float(price), level.kind == "limit")
        money = None if quantity is None else unit * share * quantity
        rewards.append(Reward(float(price), share, money, unit / loss if loss else None))
    good = [reward for reward in rewards if reward is not None]
    whole = len(good) == len(rewards) > 0
    r = sum(g.share * g.r for g in good if g.r is not None) if whole and loss else None
    money = sum(g.money for g in good if g.money is not None) if whole and quantity is not None else None
    return Outlook(
        quantity,
        loss * quantity if loss and quantity is not None else None,
        tuple(rewards),
        money,
        r,
        1 / (1 + r) if r is not None and r > 0 else None,
        left if left > 1e-9 and (whole or not rewards) else 0.0,
    )


def spread(count: int) -> list[str]:
    """Sizes of `count` equal parts in %, whole numbers that sum to 100 (the last ones take what is left)."""
    return [str((i + 1) * 100 // count - i * 100 // count) for i in range(count)]


def normalised(sizes: list[Decimal]) -> list[str]:
    """Sizes scaled so that they sum to exactly 100, on two decimals; none becomes 0."""
    total, done, given, texts = sum(sizes, Decimal(0)), Decimal(0), Decimal(0), []
    for i, size in enumerate(sizes):
        done += size
        left = Decimal("0.01") * (len(sizes) - 1 - i)
        upto = min(max(round(done / total * 100, 2), given + Decimal("0.01")), 100 - left)
        texts.append(plain(upto - given))
        given = upto
    return texts


# ---------------------------------------------------------------------------------------------------- changes of shape


def mirrored(before: Draft, after: Draft, market: Market) -> Draft:
    """`after` with its prices turned round, where a change of side made a long a short or a short a long."""
    if before.direction == after.direction:
        return after
    entry, _ = reference(before, market)
    pivot = read(number, after["entry.price"])
    draft = after
    if after["entry"] == "stop_limit" and pivot is not None:
        draft = _moved(draft, "entry.limit_price", pivot, pivot)
    if after["entry"] == "ladder" and after.rungs and (first := read(number, after.rungs[0].price)) is not None:
        for i in range(1, len(after.rungs)):
            draft = _moved(draft, f"entry.rungs[{i}].price", first, first)
    now, _ = reference(draft, market)
    paths = [f"take_profits[{i}].target" for i in range(len(draft.levels))]
    paths += ["stop_loss.target", "stop_loss.limit", "stop_loss.emergency", "trailing_stop.activation"]
    for path in paths:
        draft = _moved(draft, path, entry, now)
    return draft


def _moved(draft: Draft, path: str, entry: Decimal, now: Decimal) -> Draft:
    """One price or distance on the other side of the entry, which was at `entry` and is `now`."""
    text = draft[path].strip()
    value = read(target, text)
    if isinstance(value, Distance):
        return draft.set(path, text.translate(str.maketrans("+-", "-+")))
    if value is None or (turned := now + entry - value) <= 0:
        return draft
    return draft.set(path, plain(turned))


def as_prices(draft: Draft, market: Market, paths: list[str]) -> Draft:
    """The distances at `paths` as prices."""
    entry, _ = reference(draft, market)
    for path in paths:
        sign = -draft.direction if path.startswith("stop_loss") else draft.direction
        value = read(target, signed(draft[path], sign))
        if isinstance(value, Distance) and (price := market.at(value, entry)) is not None and price > 0:
            draft = draft.set(path, plain(price))
    return draft


def as_distances(draft: Draft, market: Market, paths: list[str]) -> Draft:
    """The prices at `paths` as distances from the entry."""
    entry, _ = reference(draft, market)
    for path in paths:
        value = read(target, draft[path])
        if isinstance(value, Decimal):
            draft = draft.set(path, market.distance(value, entry))
    return draft


def exits(draft: Draft) -> list[str]:
    """Paths of everything that can be a price or a distance."""
    names = ("stop_loss.target", "stop_loss.limit", "stop_loss.emergency", "trailing_stop.activation")
    return [f"take_profits[{i}].target" for i in range(len(draft.levels))] + [n for n in names if draft[n].strip()]


def with_entry(draft: Draft, kind: str, market: Market) -> Draft:
    """The draft with another kind of entry; what it needs and does not have yet is filled in near the last price."""
    before, draft = draft, draft.set("entry", kind)
    up, last, move = draft.direction, market.last, market.move
    wanted: dict[str, str] = {}
    if kind in ("limit", "stop", "stop_limit", "held"):
        aside = {"limit": -up, "held": 0}.get(kind, up) * move / 2
        wanted["entry.price"] = plain(market.nearest(last * (1 + aside)))
    if kind == "stop_limit":
        at = read(number, draft["entry.price"]) or market.nearest(last * (1 + up * move / 2))
        wanted["entry.limit_price"] = plain(market.nearest(at * (1 + up * move / 10)))
    if kind == "trailing":
        wanted["entry.callback_rate"] = f"{plain(move * 100)}%"
    for path, text in wanted.items():
        if not draft[path].strip():
            draft = draft.set(path, text)
    if kind == "ladder" and not draft.rungs:
        prices = [market.nearest(last * (1 - up * move * k / 4)) for k in range(1, 4)]
        draft = replace(draft, rungs=tuple(Step(plain(p), s) for p, s in zip(prices, spread(3), strict=True)))
    return mirrored(before, draft, market)


# ---------------------------------------------------------------------------------------------------- presets


def presets() -> dict[str, str]:
    """The names of what comes along, with what each does."""
    return {
        "1R · 2R · 3R": "three levels at one, two and three times the stop distance; break-even after the first",
        "40/35/25 ladder": "three levels, most of it early",
        "Breakout": "enters beyond the latest extreme, stop one move back, two far levels",
        "Scale out and trail": "half at 1R, the other half trails",
    }


def preset(name: str, draft: Draft, market: Market) -> Draft:
    """The draft in the shape of a preset; side, size, symbol and notes stay. Raises DataError on an unknown name."""
    if name not in presets():
        raise DataError(f"preset = {name!r}: there is no such preset; use one of {', '.join(presets())}")
    up, move = draft.direction, market.move

    def away(times: str) -> str:
        return str(Distance(round(up * move * Decimal(times), 8)))

    kept = {n: draft[n] for n in ("symbol", "side", "size", *SIZES, "trigger", "tag", "note")}
    entry = {n: draft[n] for n in DEFAULTS if n == "entry" or n.startswith("entry.")}
    shapes = {
        "1R · 2R · 3R": ([("1", "34"), ("2", "33"), ("3", "33")], "break_even"),
        "40/35/25 ladder": ([("1", "40"), ("2", "35"), ("3.5", "25")], ""),
        "Breakout": ([("1.5", "50"), ("3", "50")], "break_even"),
        "Scale out and trail": ([("1", "50")], "trailing_stop"),
    }
    steps, part = shapes[name]
    fields = DEFAULTS | kept | entry | {"stop_loss.target": away("-1")}
    if part == "trailing_stop":
        fields |= {
            "trailing_stop.callback_rate": f"{plain(move * 100)}%",
            "trailing_stop.activation": away("1"),
        }
    if name == "Breakout":
        step = market.instrument.price_increment
        fields |= {"entry": "stop", "entry.price": plain(market.high + step if up > 0 else market.low - step)}
    levels = tuple(Level(away(times), size) for times, size in steps)
    rungs = () if name == "Breakout" else draft.rungs
    made = Draft(fields, frozenset({"stop_loss", part} - {""}), levels, rungs)
    return made if made.direction == up else replace(made, fields=fields | {"entry": "market"})


def presets_file() -> Path:
    """Where own presets are kept: the file named by SMARTORDERS_PRESETS, else `presets.json` among the user's settings."""
    named = os.environ.get("SMARTORDERS_PRESETS")
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path(named) if named else base / "smartorders_lab" / "presets.json"


def own_presets() -> dict[str, dict[str, Any]]:
    """The presets that were saved; none if the file is missing or is not one of ours."""
    try:
        data = json.loads(presets_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): v for k, v in data.items() if isinstance(v, dict)} if isinstance(data, dict) else {}


def save_preset(name: str, draft: Draft, market: Market) -> None:
    """Keep the shape of a draft under a name: its exits as distances, its entry by how far it is from the last price."""
    if not name.strip() or len(name) > 60 or name in presets():
        raise DataError(f"name = {name!r}: must be 1 to 60 characters and not the name of a preset that comes along")
    shaped = as_distances(draft, market, exits(draft))
    offsets = {path: str(value / market.last) for path in _entry_paths(draft) if (value := read(number, draft[path]))}
    file = presets_file()
    kept = own_presets() | {name: shaped.to_json() | {"offsets": offsets}}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(kept, indent=1, ensure_ascii=False), "utf-8")
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror}); set SMARTORDERS_PRESETS") from None


def load_preset(name: str, draft: Draft, market: Market) -> Draft:
    """The draft in a shape that was saved, on its own side; symbol, size and notes stay. Raises DataError."""
    try:
        saved = own_presets()[name]
        made = Draft.from_json(saved)
        for path, ratio in saved["offsets"].items():
            made = made.set(path, plain(market.nearest(market.last * Decimal(ratio))))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError):
        raise DataError(f"preset = {name!r}: is not in {presets_file()}, or damaged; save it again") from None
    kept = {n: draft[n] for n in ("symbol", "side", "size", *SIZES, "trigger", "tag", "note")}
    before = replace(made, fields={**made.fields, "symbol": draft["symbol"]})
    return mirrored(before, replace(made, fields={**made.fields, **kept}), market)


def _entry_paths(draft: Draft) -> list[str]:
    rungs = [f"entry.rungs[{i}].price" for i in range(len(draft.rungs))]
    return ["entry.price", "entry.limit_price", "entry.activation", *rungs]


# ---------------------------------------------------------------------------------------------------- code


def python_code(order: SmartOrder) -> str:
    """Python that makes `order` and leaves it in `order`."""
    entry = order.entry
    lines = [f"symbol={_text(order.symbol)},", f"side={order.side!r},".replace("'", '"')]
    lines += [f"{n}={_number(getattr(order, n))}," for n in SIZES if getattr(order, n) is not None]
    if entry.kind != "market":
        if entry.kind == "ladder":
            rungs = ", ".join(f"({_number(r.price)}, {_number(r.size)})" for r in entry.rungs)
            given = [f"[{rungs}]"]
        else:
            given = [_number(entry.price)] if entry.price is not None else []
            given += [_text(f"{plain(entry.callback_rate * 100)}%")] if entry.callback_rate is not None else []
            given += [f"limit={_number(entry.limit_price)}"] if entry.limit_price is not None else []
            given += [f"activation={_number(entry.activation)}"] if entry.activation is not None else []
        lines.append(f"entry=so.Entry.{entry.kind}({', '.join(given)}),")
    if order.take_profits:
        lines.append("take_profits=[")
        for t in order.take_profits:
            kind = ', "limit"' if t.kind == "limit" else ""
            lines.append(f"    ({_target(t.target)}, {_number(t.size)}{kind}),")
        lines.append("],")
    for name, part in (
        ("size_basis", order.size_basis if order.size_basis != "initial" else None),
        ("stop_loss", order.stop_loss),
        ("trailing_stop", order.trailing_stop),
        ("trailing_take_profit", order.trailing_take_profit),
        ("break_even", order.break_even),
        ("max_hold", order.max_hold),
        ("entry_expiry", order.entry_expiry),
        ("trigger", order.trigger if order.trigger != "last" else None),
        ("tag", order.tag or None),
        ("note", order.note or None),
    ):
        if part is not None:
            lines.append(f"{name}={_part(name, part)},")
    return "import smartorders_lab as so\n\norder = so.SmartOrder(\n    " + "\n    ".join(lines) + "\n)\n"


def toml_code(order: SmartOrder) -> str:
    """TOML that makes `order`: what stands below `[[orders]]` in a plan, and what SmartOrder.from_toml reads."""
    return "# below [[orders]] in a plan, or SmartOrder.from_toml(...)\n" + order.to_toml().replace("\x7f", "\\u007f")


def _part(name: str, part: Any) -> str:
    if isinstance(part, str):
        return _text(part)
    if isinstance(part, int):
        return _text(duration_text(part))
    given = {n: getattr(part, n) for n in type(part).model_fields if getattr(part, n) is not None}
    if name == "break_even":
        offset = given["offset"]
        texts = [f"after={part.after}"]
        texts += [] if offset == 0 else [f"offset={_text(offset if offset == 'fees' else f'{plain(offset * 100)}%')}"]
    else:
        texts = []
        for n, value in given.items():
            if n == "callback_rate":
                texts.append(f"{n}={_text(f'{plain(value * 100)}%')}")
            else:
                texts.append(f"{n}={_text(duration_text(value)) if n == 'timeout' else _target(value)}")
    first = texts[0].partition("=")[2]
    if len(texts) == 1 and name != "break_even":
        return first
    kind = "".join(word.title() for word in name.split("_"))
    return f"so.{kind}({', '.join(texts)})"


def _text(text: str) -> str:
    """A Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _number(value: Decimal) -> str:
    """A number as Python reads it back to the same; text where a float would not hold it."""
    text = plain(value)
    return text if "." not in text or plain(Decimal(repr(float(text)))) == text else _text(text)


def _target(value: Decimal | Distance) -> str:
    return _text(str(value)) if isinstance(value, Distance) else _number(value)


def trail_path(ticks: Ticks, draft: Draft, found: Shape, market: Market, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the trailing stop of an order entered at `start` (ns) would have stood: times (ns) and prices, where it moved.

    The mark starts at the price of `start` and follows from there on; the activation is as far from it as from the entry.
    """
    trigger = draft["trigger"] if draft["trigger"] in ticks.triggers else ticks.triggers[0]
    view = ticks.view(trigger, found.up)
    first = int(np.searchsorted(view.ts, start))
    empty = np.empty(0, np.int64), np.empty(0)
    if found.trail_rate is None or first >= len(view.ts):
        return empty
    x = view.price[first:] * found.up
    opened = x[0]
    if found.activation is not None:
        needed = opened + abs(float(opened)) * float(found.up * (found.activation / found.entry - 1))
        armed = int(np.argmax(x >= needed)) if (x >= needed).any() else len(x)
        if armed == len(x):
            return empty
        first, x = first + armed, x[armed:]
    mark = np.maximum.accumulate(x)
    moved = np.flatnonzero(np.diff(mark, prepend=mark[0] - 1))
    stop = mark[moved] * found.up * (1 - found.up * float(found.trail_rate))
    hit = np.flatnonzero(x <= mark * (1 - found.up * float(found.trail_rate)))
    ts, price = view.ts[first + moved], stop * float(market.instrument.price_increment)
    if len(hit):
        end = int(view.ts[first + hit[0]])
        keep = ts <= end
        ts, price = np.append(ts[keep], end), np.append(price[keep], price[keep][-1])
    else:
        ts, price = np.append(ts, view.ts[-1]), np.append(price, price[-1])
    return ts, price
