"""SmartOrder and its parts: frozen, validated, with everything that is wrong reported at once.

A spec says what a trader wants; it knows no ticks and no increments. `lower.py` turns it into the integers that the
kernel runs. What each field does is `docs/rules.md`.
"""

from __future__ import annotations

import contextlib
import contextvars
import difflib
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import pairwise
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from .errors import Problem, SpecError
from .fields import Distance, Duration, Number, Percent, Rate, Target, fraction, plain, text_of
from .instrument import Instrument
from .times import duration_text

SPEC_VERSION = 1
MAX_LEVELS = 20
"""Most take-profit levels, and most rungs of a ladder entry."""
MAX_TEXT = 300
"""Longest `tag` or `note`, in characters."""

_living: contextvars.ContextVar[bool] = contextvars.ContextVar("living", default=False)
_nesting: contextvars.ContextVar[int] = contextvars.ContextVar("nesting", default=0)


class Part(BaseModel):
    """Base of the spec and its parts: frozen, strict about names, and raising SpecError with all problems."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)

    def __init__(self, /, **data: Any) -> None:
        token = _nesting.set(_nesting.get() + 1)
        try:
            super().__init__(**data)
        except ValidationError as error:
            if _nesting.get() > 1:
                raise
            raise SpecError(self._all_problems(data, error)) from None
        finally:
            _nesting.reset(token)

    @classmethod
    def _all_problems(cls, data: dict[str, Any], error: ValidationError) -> list[Problem]:
        return [_problem(cls, line) for line in error.errors()]

    def __setattr__(self, name: str, value: object) -> None:
        raise SpecError(
            Problem(name, value, "a spec cannot be changed", f"make a new one: order.replace({name}=...)")
        ) from None

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain data (text for decimals and durations), without what is at its default."""
        return self.model_dump(mode="json", exclude_defaults=True)


class Entry(Part):
    """How the position is opened. Use `Entry.market()`, `.limit()`, `.stop()`, `.trailing()`, `.held()`, `.ladder()`.

    `price`: the limit, the stop price, or the price at which held coins were bought. `limit_price`: the limit of a
    stop-limit. `rungs`: (price, size %) of a ladder, nearest to the market first.
    """

    kind: Literal["market", "limit", "stop", "trailing", "held", "ladder"] = "market"
    price: Number | None = None
    limit_price: Number | None = None
    callback_rate: Rate | None = None
    activation: Number | None = None
    rungs: tuple[Rung, ...] = ()

    @classmethod
    def market(cls) -> Entry:
        """At market, on the first tick at or after creation."""
        return cls(kind="market")

    @classmethod
    def limit(cls, price: Any) -> Entry:
        """A limit order, sent when the price is at or through it."""
        return cls(kind="limit", price=price)

    @classmethod
    def stop(cls, price: Any, limit: Any = None) -> Entry:
        """A conditional entry: at market, or with a limit, once the price reaches `price` in the trade's direction."""
        return cls(kind="stop", price=price, limit_price=limit)

    @classmethod
    def trailing(cls, callback_rate: Any, activation: Any = None) -> Entry:
        """At market, once the price has turned by `callback_rate` from its extreme since `activation` (or creation)."""
        return cls(kind="trailing", callback_rate=callback_rate, activation=activation)

    @classmethod
    def held(cls, price: Any) -> Entry:
        """Already owned, at this average price."""
        return cls(kind="held", price=price)

    @classmethod
    def ladder(cls, rungs: Any) -> Entry:
        """Several limit entries: `[(price, size %), ...]`, nearest to the market first, sizes summing to 100."""
        return cls(kind="ladder", rungs=rungs)

    @field_validator("rungs", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        return _each(value, lambda item: _pair(item, ("price", "size")))

    @model_validator(mode="after")
    def _fields_of_kind(self) -> Self:
        allowed = {
            "market": (),
            "limit": ("price",),
            "stop": ("price", "limit_price"),
            "trailing": ("callback_rate", "activation"),
            "held": ("price",),
            "ladder": ("rungs",),
        }[self.kind]
        needed = allowed[:1]
        for name in ("price", "limit_price", "callback_rate", "activation", "rungs"):
            given = getattr(self, name) not in (None, ())
            if given and name not in allowed:
                raise ValueError(f"a {self.kind} entry has no {name}; leave it out")
            if not given and name in needed:
                raise ValueError(f"a {self.kind} entry needs {name}; e.g. Entry.{self.kind}(...)")
        return self


class Rung(Part):
    """One limit entry of a ladder: `price` and the share `size` (%) of the whole."""

    price: Number
    size: Percent


class TakeProfit(Part):
    """One level: `target` (a price, or a distance from the average entry), `size` in %, `kind` market or limit."""

    target: Target
    size: Percent
    kind: Literal["market", "limit"] = "market"


class StopLoss(Part):
    """The static stop: `target`; a `limit` makes it a stop-limit; `timeout` waits before believing it; `emergency` never waits."""

    target: Target
    limit: Target | None = None
    timeout: Duration | None = None
    emergency: Target | None = None


class TrailingStop(Part):
    """A stop that follows the water mark at `callback_rate`; it arms at `activation`, or at once."""

    callback_rate: Rate
    activation: Target | None = None


class TrailingTakeProfit(Part):
    """Makes the last level trail: once reached, it sells when the price falls by `callback_rate` from its best."""

    callback_rate: Rate


class BreakEven(Part):
    """Moves the stop to the average entry once `after` levels are filled.

    `offset` is a fraction in the order's direction (0, the default, is the entry itself) or `"fees"`: where what is
    left nets zero after the fees paid and to come.
    """

    after: int = Field(default=1, ge=1, le=MAX_LEVELS)
    offset: Decimal | Literal["fees"] = Decimal(0)

    @field_validator("offset", mode="before")
    @classmethod
    def _offset(cls, value: Any) -> Any:
        if value == "fees":
            return value
        result = fraction(value)
        if not -1 < result < 1:
            raise ValueError('must be a fraction between -1 and 1, or "fees"; write 0.1% or 0.001')
        return result

    def to_dict(self) -> dict[str, Any]:
        """The part as plain data."""
        return {"after": self.after, "offset": text_of(self.offset)}


class SmartOrder(Part):
    """One managed order: an entry, a ladder of take-profits, a stop, a trailing stop and break-even.

    Parameters
    ----------
    symbol : unified symbol, `BTC/USDT` or `BTC/USDT:USDT`.
    side : `"buy"` or `"sell"`.
    quantity, cost, risk : the size, exactly one of them: base currency, quote currency, or the quote currency lost
        if the stop fills at its price.
    entry : an `Entry`; market if not given.
    take_profits : levels; also `(price, size %)` or `("+5%", size %)` pairs.
    size_basis : `"initial"`: sizes are shares of the position; `"remaining"`: of what is left when a level triggers.
    stop_loss : a `StopLoss`, a price, or a distance such as `"-5%"`.
    trailing_stop, trailing_take_profit : the part, or its callback rate such as `"2%"`.
    break_even : a `BreakEven`, or True.
    max_hold, entry_expiry : durations (`"2h"`, timedelta, ns).
    trigger : the price watched: last, bid, ask or mark.
    tag, note : free text.

    Raises SpecError, which lists every problem found.
    """

    symbol: str
    side: Literal["buy", "sell"]
    quantity: Number | None = None
    cost: Number | None = None
    risk: Number | None = None
    entry: Entry = Entry(kind="market")
    take_profits: tuple[TakeProfit, ...] = ()
    size_basis: Literal["initial", "remaining"] = "initial"
    stop_loss: StopLoss | None = None
    trailing_stop: TrailingStop | None = None
    trailing_take_profit: TrailingTakeProfit | None = None
    break_even: BreakEven | None = None
    max_hold: Duration | None = None
    entry_expiry: Duration | None = None
    trigger: Literal["last", "bid", "ask", "mark"] = "last"
    tag: str = ""
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, data: Any) -> Any:
        return _expand(dict(data)) if isinstance(data, Mapping) else data

    @field_validator("symbol")
    @classmethod
    def _symbol(cls, value: str) -> str:
        base, slash, rest = value.partition("/")
        if not (slash and base and rest) or value != value.strip() or any(c.isspace() for c in value):
            raise ValueError(f"must be a unified symbol; write {_symbol_hint(value)}")
        return value

    @field_validator("tag", "note")
    @classmethod
    def _text(cls, value: str) -> str:
        if len(value) > MAX_TEXT:
            raise ValueError(f"has {len(value)} characters; at most {MAX_TEXT} (MAX_TEXT) are kept; shorten it")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = list(_contradictions(self))
        if problems:
            raise SpecError(problems)
        return self

    @classmethod
    def _all_problems(cls, data: dict[str, Any], error: ValidationError) -> list[Problem]:
        """Field problems, and the contradictions among the fields that are well-formed themselves."""
        problems = []
        for line in error.errors():
            cause = (line.get("ctx") or {}).get("error")
            problems += cause.problems if isinstance(cause, SpecError) else [_problem(cls, line)]
        broken = {str(line["loc"][0]) for line in error.errors() if line["loc"]}
        if broken:
            rest = {k: v for k, v in _expand(dict(data)).items() if k in cls.model_fields and k not in broken}
            if "symbol" not in rest:
                rest["symbol"] = "?/?"
            if "side" not in rest:
                return problems
            try:
                cls.model_validate(rest)
            except ValidationError as again:
                for line in again.errors():
                    cause = (line.get("ctx") or {}).get("error")
                    if isinstance(cause, SpecError):
                        problems += [p for p in cause.problems if not broken & set(NEEDS.get(p.rule.split(";")[0], ()))]
        return problems

    @property
    def direction(self) -> int:
        """+1 for a long, -1 for a short. Coins already owned and sold on spot are a long."""
        return _direction(self.side, self.entry.kind, self.symbol)

    @property
    def runner(self) -> Decimal:
        """The share (%) of the position that no level takes."""
        if self.size_basis == "remaining":
            return Decimal(0) if self.take_profits and self.take_profits[-1].size == 100 else Decimal(100)
        return 100 - sum((level.size for level in self.take_profits), Decimal(0))

    def replace(self, **changes: Any) -> SmartOrder:
        """A new order with some fields changed; the same shorthands as in the constructor."""
        kept = {name: getattr(self, name) for name in self.model_fields_set if name not in changes}
        if {"quantity", "cost", "risk"} & changes.keys():
            for name in ("quantity", "cost", "risk"):
                kept.pop(name, None)
        return type(self)(**kept, **changes)

    def warnings(self) -> list[Problem]:
        """What is allowed but probably not meant."""
        found = []
        if self.break_even and len(self.take_profits) < 2:
            found.append(
                Problem(
                    "break_even",
                    None,
                    "has fewer than 2 levels: it fires when the position is already closed",
                    "add a level or drop break_even",
                    "warning",
                )
            )
        if self.take_profits and self.size_basis == "initial" and 0 < self.runner < 1:
            found.append(
                Problem(
                    "take_profits",
                    None,
                    f"sizes sum to {plain(100 - self.runner)}, which leaves a runner of {plain(self.runner)} %",
                    "make them sum to 100 if that is not meant",
                    "warning",
                )
            )
        price = _reference(self) or next((t.target for t in self.take_profits if isinstance(t.target, Decimal)), None)
        stop = self.stop_loss.target if self.stop_loss else None
        if isinstance(stop, Decimal) and (stop < 1 if price is None else not price / 3 < stop < price * 3):
            found.append(
                Problem(
                    "stop_loss.target",
                    text_of(stop),
                    "is a price, and far from the entry",
                    f"if a distance was meant, write {plain(stop * 100) if stop < 1 else plain(stop)}%",
                    "warning",
                )
            )
        if self.stop_loss and self.stop_loss.emergency and not (self.stop_loss.timeout or self.stop_loss.limit):
            found.append(
                Problem(
                    "stop_loss.emergency",
                    self.stop_loss.emergency,
                    "never acts: the stop sells at market at once",
                    "add timeout or limit, or drop it",
                    "warning",
                )
            )
        return found

    def check(self, instrument: Instrument) -> list[Problem]:
        """Everything that keeps this order from `instrument`'s market; empty when it fits.

        Problems have `level` `"error"` or, where the order can start but not exactly as written, `"warning"`.
        """
        from .lower import check

        return check(self, instrument)

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no blanks, decimals as text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> SmartOrder:
        """The order that `to_dict` described. Raises SpecError."""
        return cls(**data)

    @classmethod
    def from_json(cls, text: str) -> SmartOrder:
        """The order that `to_json` described. Raises SpecError, also on duplicate keys and NaN."""
        from .links import strict_json

        return cls.from_dict(strict_json(text))

    def to_toml(self) -> str:
        """The order as the TOML of a plan's `[[orders]]` table, without its header."""
        return "\n".join(f"{name} = {_toml(value)}" for name, value in self.to_dict().items()) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> SmartOrder:
        """The order that `to_toml` described. Raises SpecError."""
        import tomllib

        try:
            return cls.from_dict(tomllib.loads(text, parse_float=Decimal))
        except tomllib.TOMLDecodeError as error:
            raise SpecError(Problem("toml", None, str(error), "see SmartOrder.to_toml()")) from None

    def share_link(self) -> str:
        """The whole spec as one line of text with a version and a checksum: no account, no secret."""
        from .links import encode

        return encode(self)

    @classmethod
    def from_link(cls, link: str) -> SmartOrder:
        """The order of a share link. Raises LinkError, which says which step failed."""
        from .links import decode

        return decode(link)

    def __str__(self) -> str:
        size = next(
            f"{plain(v)}" if n == "quantity" else f"{n} {plain(v)}"
            for n in ("quantity", "cost", "risk")
            if (v := getattr(self, n)) is not None
        )
        text = [self.side, size, self.symbol, _entry_text(self.entry)]
        if self.take_profits:
            text.append("tp " + " ".join(f"{text_of(t.target)}:{plain(t.size)}" for t in self.take_profits))
        if self.stop_loss:
            text.append(f"sl {text_of(self.stop_loss.target)}")
        if self.trailing_stop:
            text.append(f"trail {plain(self.trailing_stop.callback_rate * 100)}%")
        return " ".join(text) + (" break-even" if self.break_even else "")

    def __repr__(self) -> str:
        return f"SmartOrder({self})"

    def _repr_html_(self) -> str:
        from .looks import table

        size = next(name for name in ("quantity", "cost", "risk") if getattr(self, name) is not None)
        rows = [(size, plain(getattr(self, size))), ("entry", _entry_text(self.entry))]
        for n, level in enumerate(self.take_profits, 1):
            kind = "" if level.kind == "market" else f", {level.kind}"
            rows.append((f"TP{n}", f"{text_of(level.target)}, {plain(level.size)} %{kind}"))
        if self.take_profits and self.runner > 0:
            rows.append(("runner", f"{plain(self.runner)} %"))
        for name in ("stop_loss", "trailing_stop", "trailing_take_profit", "break_even"):
            part = getattr(self, name)
            if part is not None:
                first, *more = [(n, value) for n, value in part.to_dict().items() if value not in (None, "")]
                rows.append(
                    (name.replace("_", " "), ", ".join([_said(*first), *(f"{n} {_said(n, v)}" for n, v in more)]))
                )
        rows += [
            (n.replace("_", " "), duration_text(v)) for n in ("max_hold", "entry_expiry") if (v := getattr(self, n))
        ]
        rows += [(n, getattr(self, n)) for n in ("size_basis", "trigger", "tag", "note") if n in self.to_dict()]
        notes = [f"⚠ {warning}" for warning in self.warnings()]
        return table(f"{self.side} {self.symbol}", rows, notes=notes)


def _problem(model: type[BaseModel], line: ErrorDetails) -> Problem:
    path = ""
    for part in line["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    rule, value = line["msg"].removeprefix("Value error, "), line["input"]
    fix = ""
    if line["type"] == "missing":
        return Problem(path or model.__name__, None, "is required", f"give {path}=...")
    if line["type"] == "extra_forbidden":
        name = str(line["loc"][-1])
        known = list(model.model_fields) if len(line["loc"]) == 1 else _field_names()
        close = difflib.get_close_matches(name, known, 1)
        few = f"use one of {', '.join(known)}" if len(known) < 12 else "leave it out"
        return Problem(path, value, "is not a field", f"did you mean {close[0]}?" if close else few)
    if line["type"] == "literal_error":
        rule, fix = f"must be one of {line['ctx']['expected']}", _literal_hint(value, line["ctx"]["expected"])
    elif line["type"] in _RULES:
        rule, fix = _RULES[line["type"]]
        rule = rule.format_map(line.get("ctx", {}))
    elif not line["type"].startswith("value_error"):
        rule, fix = rule[0].lower() + rule[1:], "see help(SmartOrder)"
    if "; " in rule and not fix:
        rule, fix = rule.split("; ", 1)
    return Problem(path or model.__name__, None if isinstance(value, dict) else value, rule, fix)


_PAIRS = "write [(105, 40), (110, 60)]"
_RULES = {
    "string_type": ("must be text", "write it in quotes"),
    "tuple_type": ("must be a list", _PAIRS),
    "model_type": ("must be a pair or a table", _PAIRS),
    "bool_type": ("must be true or false", "write it without quotes"),
    "bool_parsing": ("must be true or false", "write it without quotes"),
    "int_type": ("must be a whole number", "write 1 or 2"),
    "int_parsing": ("must be a whole number", "write 1 or 2"),
    "int_from_float": ("must be a whole number", "write 1 or 2"),
    "greater_than_equal": ("must be at least {ge}", "make it larger"),
    "less_than_equal": ("must be at most {le}", "make it smaller"),
}
"""What pydantic finds, in our words."""


def _literal_hint(value: object, expected: str) -> str:
    """The word that was probably meant."""
    text = {"long": "buy", "short": "sell"}.get(str(value).lower(), str(value).lower())
    close = difflib.get_close_matches(text, re.findall(r"'(\w+)'", expected), 1, 0.75)
    return f"write {close[0]!r}" if close else ""


@contextlib.contextmanager
def living_order() -> Iterator[None]:
    """Inside, specs are judged as edits of an order that holds a position: the entry price no longer bounds its exits."""
    token = _living.set(True)
    try:
        yield
    finally:
        _living.reset(token)


def _field_names() -> list[str]:
    parts = (SmartOrder, Entry, Rung, TakeProfit, StopLoss, TrailingStop, TrailingTakeProfit, BreakEven)
    return sorted({name for part in parts for name in part.model_fields})


def _symbol_hint(value: str) -> str:
    text = "".join(value.split()).upper().replace("-", "").replace("_", "").replace("/", "")
    for quote in ("USDT", "USDC", "USD", "EUR", "BTC", "ETH"):
        if text.endswith(quote) and len(text) > len(quote):
            return f"{text[: -len(quote)]}/{quote}"
    return "BTC/USDT, or BTC/USDT:USDT for a perpetual"


def _direction(side: str, entry_kind: str, symbol: str) -> int:
    return 1 if side == "buy" or (entry_kind == "held" and ":" not in symbol) else -1


def _pair(item: Any, names: tuple[str, ...]) -> Any:
    if isinstance(item, (tuple, list)):
        if not 2 <= len(item) <= len(names):
            raise ValueError(f"must be a pair ({', '.join(names)}); write (105, 40)")
        return dict(zip(names, item, strict=False))
    return item


def _each(value: Any, convert: Any) -> Any:
    if isinstance(value, (str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise ValueError("must be a list; write [(105, 40), (110, 60)]")
    return tuple(convert(item) for item in value)


def _signed(value: Any, sign: int) -> Any:
    """An unsigned distance (`"5%"`) takes the side on which it makes sense."""
    if isinstance(value, str) and value.strip().endswith("%") and value.strip()[0] not in "+-":
        return f"{'+' if sign > 0 else '-'}{value.strip()}"
    return value


def _expand(data: dict[str, Any]) -> dict[str, Any]:
    """The shorthands that people type, as the parts that they stand for."""
    entry = data.get("entry")
    if isinstance(entry, str):
        data["entry"] = {"kind": entry}
    kind = entry.kind if isinstance(entry, Entry) else entry.get("kind", "") if isinstance(entry, Mapping) else ""
    up = _direction(str(data.get("side")), kind, str(data.get("symbol")))

    levels = data.get("take_profits")
    if isinstance(levels, (list, tuple)):
        data["take_profits"] = tuple(
            {**level, "target": _signed(level.get("target"), up)} if isinstance(level, Mapping) else level
            for level in (_pair(item, ("target", "size", "kind")) for item in levels)
        )
    for name, part, key, sign in (
        ("stop_loss", StopLoss, "target", -up),
        ("trailing_stop", TrailingStop, "callback_rate", up),
        ("trailing_take_profit", TrailingTakeProfit, "callback_rate", up),
    ):
        value = data.get(name)
        if value is None or isinstance(value, part):
            continue
        fields = dict(value) if isinstance(value, Mapping) else {key: value}
        data[name] = {k: v if k == "callback_rate" else _signed(v, sign) for k, v in fields.items()}
    if isinstance(data.get("break_even"), bool):
        data["break_even"] = {} if data["break_even"] else None
    return data


NEEDS = {
    "needs take-profit levels: it fires when one is filled": ("take_profits",),
    "needs a ladder: it makes the last level trail": ("take_profits",),
    "exactly one of quantity, cost and risk must be given": ("quantity", "cost", "risk"),
    "needs a stop loss, which says how much a unit can lose": ("stop_loss",),
    "leaves nothing to manage: no take-profit, stop, trailing stop or max_hold": (
        "take_profits",
        "stop_loss",
        "trailing_stop",
        "max_hold",
    ),
}
"""Rules that say nothing when one of these fields is itself malformed."""


def _contradictions(order: SmartOrder) -> Iterator[Problem]:
    """What the fields of an order say against one another."""
    up = order.direction
    long_ = "long" if up > 0 else "short"
    sizes = [n for n in ("quantity", "cost", "risk") if getattr(order, n) is not None]
    if len(sizes) != 1:
        yield Problem(
            "quantity",
            None,
            "exactly one of quantity, cost and risk must be given",
            f"keep one of {', '.join(sizes)}" if sizes else "add quantity=...",
        )
    if order.risk is not None and order.stop_loss is None:
        yield Problem("risk", order.risk, "needs a stop loss, which says how much a unit can lose", "add stop_loss=...")
    if order.entry.kind == "held" and order.risk is not None:
        yield Problem("risk", order.risk, "cannot size coins that are already held", "give quantity")
    if not (order.take_profits or order.stop_loss or order.trailing_stop or order.max_hold):
        yield Problem(
            "order",
            None,
            "leaves nothing to manage: no take-profit, stop, trailing stop or max_hold",
            "add take_profits=, stop_loss=, trailing_stop= or max_hold=",
        )

    yield from _entry_problems(order, up)
    reference = _reference(order)
    yield from _ladder_problems(order, up, long_, reference)
    yield from _stop_problems(order, up, long_, reference)

    trailing = order.trailing_stop
    if (
        trailing
        and trailing.activation is not None
        and (above := _beyond(trailing.activation, reference, up)) is not None
        and not above
    ):
        yield Problem(
            "trailing_stop.activation",
            text_of(trailing.activation),
            f"must be on the profit side of the entry for a {long_}",
            _side_hint(trailing.activation, up),
        )
    if order.trailing_take_profit and not order.take_profits:
        yield Problem(
            "trailing_take_profit", None, "needs a ladder: it makes the last level trail", "add take_profits="
        )
    even = order.break_even
    if even:
        if not order.take_profits:
            yield Problem(
                "break_even", None, "needs take-profit levels: it fires when one is filled", "add take_profits="
            )
        elif even.after > len(order.take_profits):
            yield Problem(
                "break_even.after",
                even.after,
                f"is more than the {len(order.take_profits)} levels there are",
                f"use 1 to {len(order.take_profits)}",
            )
        elif isinstance(even.offset, Decimal) and even.offset > 0:
            first = _as_distance(order.take_profits[even.after - 1].target, reference)
            if first is not None and up * first <= even.offset:
                yield Problem(
                    "break_even.offset",
                    even.offset,
                    f"lies at or beyond level {even.after - 1}, which fires it",
                    "make it smaller than the level's distance",
                )


def _entry_problems(order: SmartOrder, up: int) -> Iterator[Problem]:
    entry = order.entry
    stop, limit = entry.price, entry.limit_price
    if entry.kind == "stop" and stop is not None and limit is not None and up * (limit - stop) < 0:
        yield Problem(
            "entry.limit_price",
            limit,
            f"must be at or {'above' if up > 0 else 'below'} the stop price {plain(stop)}",
            "a limit short of it would never fill",
        )
    if entry.rungs:
        if len(entry.rungs) > MAX_LEVELS:
            yield Problem("entry.rungs", len(entry.rungs), f"at most {MAX_LEVELS} (MAX_LEVELS) are kept", "merge some")
        total = sum((r.size for r in entry.rungs), Decimal(0))
        if abs(total - 100) > Decimal("1e-9"):
            yield Problem("entry.rungs", None, f"sizes sum to {plain(total)}; they must sum to 100", "")
        for i, (a, b) in enumerate(pairwise(entry.rungs)):
            if up * (a.price - b.price) <= 0:
                yield Problem(
                    f"entry.rungs[{i + 1}].price",
                    b.price,
                    f"must be {'below' if up > 0 else 'above'} rung {i} ({plain(a.price)})",
                    "order the rungs from the market outwards",
                )


def _ladder_problems(order: SmartOrder, up: int, long_: str, reference: Decimal | None) -> Iterator[Problem]:
    levels = order.take_profits
    if len(levels) > MAX_LEVELS:
        yield Problem("take_profits", len(levels), f"at most {MAX_LEVELS} levels (MAX_LEVELS) are kept", "merge some")
    total = sum((level.size for level in levels), Decimal(0))
    if order.size_basis == "initial" and total > 100 + Decimal("1e-9"):
        yield Problem(
            "take_profits", None, f"sizes sum to {plain(total)}, more than 100", "make them sum to 100 or less"
        )
    if levels and order.runner > Decimal("1e-9") and not (order.stop_loss or order.trailing_stop or order.max_hold):
        yield Problem(
            "take_profits",
            None,
            f"leave a runner of {plain(order.runner)} % that nothing would ever close",
            "make the sizes sum to 100, or add stop_loss=, trailing_stop= or max_hold=",
        )
    for i, level in enumerate(levels):
        above = _beyond(level.target, reference, up)
        if above is not None and not above:
            what = (
                f"the entry {plain(reference)} "
                if reference is not None and isinstance(level.target, Decimal)
                else "the entry "
            )
            yield Problem(
                f"take_profits[{i}].target",
                text_of(level.target),
                f"must be {'above' if up > 0 else 'below'} {what}for a {long_}",
                _side_hint(level.target, up),
            )
    for i, (a, b) in enumerate(pairwise(levels)):
        gap = _gap(a.target, b.target, reference)
        if gap is None:
            yield Problem(
                f"take_profits[{i + 1}].target",
                text_of(b.target),
                "cannot be compared with the level before it: one is a "
                "price, one a distance, and the entry price is not known",
                "use prices or distances throughout",
            )
        elif up * gap <= 0:
            yield Problem(
                f"take_profits[{i + 1}].target",
                text_of(b.target),
                f"must be beyond level {i} ({text_of(a.target)})",
                "order the levels from the entry outwards",
            )


def _stop_problems(order: SmartOrder, up: int, long_: str, reference: Decimal | None) -> Iterator[Problem]:
    stop = order.stop_loss
    if stop is None:
        return
    furthest = order.entry.rungs[-1].price if order.entry.rungs and isinstance(stop.target, Decimal) else reference
    for name, value in (("target", stop.target), ("limit", stop.limit), ("emergency", stop.emergency)):
        if value is None:
            continue
        below = _beyond(value, furthest, -up)
        if below is not None and not below:
            entry = (
                f"the entry {plain(furthest)} " if furthest is not None and isinstance(value, Decimal) else "the entry "
            )
            yield Problem(
                f"stop_loss.{name}",
                text_of(value),
                f"must be {'below' if up > 0 else 'above'} {entry}for a {long_}",
                _side_hint(value, -up),
            )
    for name, value, strict in (("limit", stop.limit, False), ("emergency", stop.emergency, True)):
        if value is None:
            continue
        gap = _gap(stop.target, value, reference)
        if gap is None:
            yield Problem(
                f"stop_loss.{name}",
                text_of(value),
                "cannot be compared with the stop: one is a price, one a distance",
                "use two prices or two distances",
            )
        elif up * gap > 0 or (strict and gap == 0):
            yield Problem(
                f"stop_loss.{name}",
                text_of(value),
                f"must be {'beyond' if strict else 'at or beyond'} the stop ({text_of(stop.target)})",
                "move it further from the entry",
            )
    first = order.take_profits[0].target if order.take_profits else None
    if first is not None and reference is None and type(first) is type(stop.target):
        gap = _gap(stop.target, first, None)
        if gap is not None and up * gap <= 0:
            yield Problem(
                "stop_loss.target",
                text_of(stop.target),
                f"must be {'below' if up > 0 else 'above'} the first level ({text_of(first)}) for a {long_}",
                "",
            )


def _reference(order: SmartOrder) -> Decimal | None:
    """The entry price, where the spec alone tells it: a ladder's nearest rung, else the limit, stop or held price."""
    entry = order.entry
    return entry.rungs[0].price if entry.rungs else entry.limit_price or entry.price


def _as_distance(value: Decimal | Distance, reference: Decimal | None) -> Decimal | None:
    if isinstance(value, Distance):
        return value.fraction
    return None if reference is None else value / reference - 1


def _beyond(value: Decimal | Distance, reference: Decimal | None, sign: int) -> bool | None:
    """Whether `value` lies on the side `sign` of the entry; None if that cannot be known yet."""
    distance = None if _living.get() else _as_distance(value, reference)
    return None if distance is None else sign * distance > 0


def _gap(a: Decimal | Distance, b: Decimal | Distance, reference: Decimal | None) -> Decimal | None:
    """`b - a` as a distance or price difference; None if they cannot be compared."""
    if isinstance(a, Decimal) and isinstance(b, Decimal):
        return b - a
    da, db = _as_distance(a, reference), _as_distance(b, reference)
    return None if da is None or db is None else db - da


def _side_hint(value: Decimal | Distance, sign: int) -> str:
    if isinstance(value, Distance):
        return f"distances are signed price moves: write {'+' if sign > 0 else '-'}{plain(abs(value.fraction) * 100)}%"
    return "check the side and the price"


def _entry_text(entry: Entry) -> str:
    if entry.rungs:
        return "ladder " + " ".join(f"{plain(r.price)}:{plain(r.size)}" for r in entry.rungs)
    parts = [entry.kind] + [plain(v) for v in (entry.price, entry.limit_price) if v is not None]
    return " ".join(parts) + (f" {plain(entry.callback_rate * 100)}%" if entry.callback_rate else "")


def _said(name: str, value: Any) -> str:
    """A value of a part as it is read: fractions in per cent."""
    if name == "after":
        return f"after TP{value}"
    fraction = name == "callback_rate" or (name == "offset" and value != "fees")
    return f"{plain(Decimal(value) * 100)}%" if fraction else str(value)


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace(
        "\x7f", "\\u007f"
    )  # which JSON takes as it is, and TOML does not
