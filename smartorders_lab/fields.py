"""The field types of a spec: how a number, a fraction, a price or distance and a duration are read and written.

Every reader raises ValueError with the rule and the way out; pydantic adds the path and the value.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

from .instrument import decimal
from .times import duration_ns, duration_text

FRACTION_DECIMALS = 8
"""Fractions (callback rates, distances, fees) are kept to 1e-8, a ten-thousandth of a basis point."""
_SMALLEST, _LARGEST, _MOST = Decimal("1e-18"), Decimal("1e18"), Decimal("1e6")
_HUGE = 30
"""Digits before the point of what no fraction has."""


@dataclass(frozen=True)
class Distance:
    """A price given as a signed move from the average entry: `fraction=Decimal("-0.05")` is 5 % below it."""

    fraction: Decimal

    def __str__(self) -> str:
        return f"{'+' if self.fraction >= 0 else ''}{plain(self.fraction * 100)}%"


def plain(value: Decimal) -> str:
    """A Decimal without exponent or trailing zeros: `Decimal("1E+2")` is `100`."""
    text = f"{value:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) or "0"


def number(value: object) -> Decimal:
    """A finite number above 0 from int, float (by its shortest text), Decimal or text."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false; write 1 or 0.5")
    if isinstance(value, str) and "," in value:
        raise ValueError(f"must be a number with a decimal point; write {value.replace(',', '.')}")
    try:
        result = decimal(value)
    except ValueError:
        raise ValueError("must be a finite number; write it like 100 or 0.5") from None
    if result <= 0:
        raise ValueError("must be above 0; give a positive number")
    if not _SMALLEST <= result <= _LARGEST:
        raise ValueError("must lie between 1e-18 and 1e18; check the unit")
    return result


def fraction(value: object) -> Decimal:
    """A fraction from `0.02` or `"2%"`."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            result = decimal(value.strip()[:-1])
        except ValueError:
            raise ValueError("is not a percentage; write 2% or 0.02") from None
        result = result.scaleb(-2) if result.adjusted() < _HUGE else result
    elif isinstance(value, bool):
        raise ValueError("must be a fraction, not true or false; write 2% or 0.02")
    else:
        try:
            result = decimal(value)
        except ValueError:
            raise ValueError("must be a fraction; write 2% or 0.02") from None
    if result.adjusted() >= _HUGE or abs(result) > _MOST:  # what is huge cannot even be reckoned with
        raise ValueError("is not a fraction of anything; write 2% or 0.02")
    if result != round(result, FRACTION_DECIMALS):
        raise ValueError(f"has more than {FRACTION_DECIMALS} decimals as a fraction; round it")
    return result.normalize()


def rate(value: object) -> Decimal:
    """A callback rate: a fraction strictly between 0 and 1."""
    result = fraction(value)
    if not 0 < result < 1:
        hint = f"write {plain(result)}% or {plain(result / 100)}" if 1 <= result < 100 else "write 2% or 0.02"
        raise ValueError(f"must be a fraction above 0 and below 1 (0.02 = 2 %); {hint}")
    return result


def percent(value: object) -> Decimal:
    """A size in per cent, from `40` or `"40%"`."""
    text = value.strip()[:-1] if isinstance(value, str) and value.strip().endswith("%") else value
    result = number(text)
    if result > 100:
        raise ValueError("must be at most 100 per cent; sizes are shares of the position")
    return result


def target(value: object) -> Decimal | Distance:
    """A price (`105`, `"105"`) or a distance from the average entry (`"+5%"`)."""
    if isinstance(value, Distance):
        return value
    if isinstance(value, str) and value.strip().endswith("%"):
        result = fraction(value)
        if not -1 < result < 100:
            raise ValueError("must be a distance above -100 % and below 10000 %")
        return Distance(result)
    return number(value)


def duration(value: object) -> int:
    """A duration above 0, in ns."""
    result = duration_ns(value)
    if result == 0:
        raise ValueError("must be above 0; write 50ms, 2h, a timedelta, or integer nanoseconds")
    return result


def text_of(value: Any) -> Any:
    """A Decimal or Distance as text that reads back to the same."""
    return plain(value) if isinstance(value, Decimal) else value if value is None else str(value)


_text = PlainSerializer(text_of, when_used="json")
Number = Annotated[Decimal, BeforeValidator(number), _text]
Fraction = Annotated[Decimal, BeforeValidator(fraction), _text]
Rate = Annotated[Decimal, BeforeValidator(rate), _text]
Percent = Annotated[Decimal, BeforeValidator(percent), _text]
Target = Annotated[Decimal | Distance, BeforeValidator(target), _text]
Duration = Annotated[int, BeforeValidator(duration), PlainSerializer(duration_text, when_used="json")]
