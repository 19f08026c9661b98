"""What one market trades in: increments and limits, and the way between decimals and integer units.

Inside the engine a price is an int64 count of `price_increment` and a quantity an int64 count of
`quantity_increment`. Everything here is exact (`decimal.Decimal`); floats are read by their shortest
representation, so `0.1` means one tenth.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from .errors import DataError, Problem, SpecError

MAX_UNITS = 2**53
"""Largest price or quantity, in units: the integers that a float64 still holds exactly."""


def decimal(value: object) -> Decimal:
    """`value` as an exact Decimal; floats by their shortest representation. Raises ValueError."""
    if isinstance(value, bool) or value is None:
        raise ValueError("not a number")
    try:
        number = (
            value
            if isinstance(value, Decimal)
            else Decimal(repr(float(value)) if isinstance(value, float) else str(value))
        )
    except InvalidOperation:
        raise ValueError("not a number") from None
    if not number.is_finite():
        raise ValueError("not a finite number")
    return number


class Instrument(BaseModel):
    """One market.

    `price_increment`: smallest price step, in quote currency. `quantity_increment`: smallest quantity step, in
    base currency. `min_quantity`, `max_quantity` (base) and `min_notional` (quote) are the limits of one child
    order; 0 or None means no limit. `derived=True` says that the increments were read off data rather than
    published by an exchange: then prices in between are rounded to an equivalent trigger instead of refused.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, /, **data: Any) -> None:
        try:
            super().__init__(**data)
        except ValidationError as error:
            lines = error.errors()
            raise SpecError(
                [
                    Problem(
                        f"Instrument.{'.'.join(map(str, e['loc']))}", e["input"], e["msg"].removeprefix("Value error, ")
                    )
                    for e in lines
                ]
            ) from None

    symbol: str = ""
    price_increment: Decimal = Decimal("1e-8")
    quantity_increment: Decimal = Decimal("1e-8")
    min_quantity: Decimal = Decimal(0)
    max_quantity: Decimal | None = None
    min_notional: Decimal = Decimal(0)
    derived: bool = False

    @field_validator(
        "price_increment", "quantity_increment", "min_quantity", "max_quantity", "min_notional", mode="before"
    )
    @classmethod
    def _exact(cls, value: object) -> object:
        return None if value is None else decimal(value)

    @field_validator("price_increment", "quantity_increment")
    @classmethod
    def _positive(cls, value: Decimal) -> Decimal:
        if value <= 0:
            raise ValueError("must be above 0")
        return value

    @field_validator("min_quantity", "max_quantity", "min_notional")
    @classmethod
    def _not_negative(cls, value: Decimal | None) -> Decimal | None:
        if value is not None and value < 0:
            raise ValueError("must be 0 or above")
        return value

    def __repr__(self) -> str:
        steps = {"price_increment", "quantity_increment"}
        given = {
            name: f"{value:f}" if isinstance(value, Decimal) else value
            for name, value in self
            if name in steps or value != type(self).model_fields[name].default
        }
        return f"Instrument({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    __str__ = __repr__

    @property
    def is_spot(self) -> bool:
        """Whether the symbol names a spot market (`BTC/USDT`) rather than a derivative (`BTC/USDT:USDT`)."""
        return ":" not in self.symbol

    @classmethod
    def from_ccxt(cls, market: Mapping[str, Any]) -> Instrument:
        """The instrument of one entry of ccxt's `exchange.markets` (precision mode TICK_SIZE, as on all eight exchanges)."""
        if not isinstance(market, Mapping) or "symbol" not in market:
            raise DataError("market: is not an entry of ccxt's exchange.markets; pass exchange.market(symbol)")
        precision, limits = market.get("precision") or {}, market.get("limits") or {}

        def limit(what: str, end: str) -> Any:
            return (limits.get(what) or {}).get(end)

        for name in ("price", "amount"):
            if precision.get(name) is None:
                raise DataError(
                    f"market {market.get('symbol')!r}: precision.{name} is missing; "
                    f"give the increments yourself: Instrument(symbol, price_increment, quantity_increment)"
                )
        return cls(
            symbol=market["symbol"],
            price_increment=precision["price"],
            quantity_increment=precision["amount"],
            min_quantity=decimal(limit("amount", "min") or 0),
            max_quantity=limit("amount", "max") or None,
            min_notional=decimal(limit("cost", "min") or 0),
        )

    def price_units(self, price: object, rounding: str = ROUND_HALF_EVEN) -> int:
        """`price` in units of the price increment, rounded with one of decimal's rounding modes."""
        return int((decimal(price) / self.price_increment).to_integral_value(rounding))

    def quantity_units(self, quantity: object, rounding: str = ROUND_FLOOR) -> int:
        """`quantity` in units of the quantity increment; down unless told otherwise, so that nothing is oversold."""
        return int((decimal(quantity) / self.quantity_increment).to_integral_value(rounding))

    def price(self, units: int) -> Decimal:
        """A price in units as a Decimal."""
        return int(units) * self.price_increment

    def quantity(self, units: int) -> Decimal:
        """A quantity in units as a Decimal."""
        return int(units) * self.quantity_increment

    def prices(self, units: np.ndarray) -> np.ndarray:
        """float64 prices of an array of units, each the float nearest to the exact decimal."""
        return _floats(units, self.price_increment)

    def quantities(self, units: np.ndarray) -> np.ndarray:
        """float64 quantities of an array of units."""
        return _floats(units, self.quantity_increment)

    def neighbours(self, price: object) -> tuple[Decimal, Decimal]:
        """The two prices on the grid around `price`."""
        return (
            self.price(self.price_units(price, ROUND_FLOOR)),
            self.price(self.price_units(price, ROUND_CEILING)),
        )


def _floats(units: np.ndarray, increment: Decimal) -> np.ndarray:
    _, digits, exponent = increment.as_tuple()
    mantissa = float(int("".join(map(str, digits))))
    assert isinstance(exponent, int)
    values = units * mantissa
    return values / 10.0**-exponent if exponent < 0 else values * 10.0**exponent
