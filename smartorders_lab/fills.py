"""FillModel: what a replay assumes about the venue."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer, field_validator

from .fields import Fraction, fraction, text_of
from .spec import Part
from .times import duration_ns, duration_text


class FillModel(Part):
    """Fees, slippage, latency and the fill rule of limits; the rules are in docs/rules.md, section Fills.

    `fee_maker`, `fee_taker`: fraction of notional (`"0.1%"` or 0.001; a negative maker fee is a rebate). `slippage`:
    fraction, against the order, on market orders. `latency`: from trigger to arrival. `touch`: a resting limit fills when a tick
    trades at it, not only through it. `fee_currency`: `"base"` takes the fee of a long's buys in coins.
    `participation`: largest share of a tick's size that one order's children may take; None: any.
    """

    fee_maker: Fraction = Decimal(0)
    fee_taker: Fraction = Decimal(0)
    slippage: Fraction = Decimal(0)
    latency: Annotated[int, BeforeValidator(duration_ns), PlainSerializer(duration_text, when_used="json")] = 0
    touch: bool = False
    fee_currency: Literal["quote", "base"] = "quote"
    participation: Annotated[Decimal, PlainSerializer(text_of, when_used="json")] | None = None

    def __repr__(self) -> str:
        return f"FillModel({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"

    __str__ = __repr__

    @field_validator("fee_maker", "fee_taker")
    @classmethod
    def _fee(cls, value: Decimal) -> Decimal:
        if not Decimal("-0.1") <= value <= Decimal("0.1"):
            raise ValueError("must be a fraction between -10 % and 10 %; 0.1 % is 0.001")
        return value

    @field_validator("slippage")
    @classmethod
    def _slippage(cls, value: Decimal) -> Decimal:
        if not 0 <= value <= Decimal("0.5"):
            raise ValueError("must be a fraction between 0 and 50 %; 0.1 % is 0.001")
        return value

    @field_validator("participation", mode="before")
    @classmethod
    def _participation(cls, value: Any) -> Any:
        if value is None:
            return None
        result = fraction(value)
        if not 0 < result <= 1:
            raise ValueError("must be a fraction above 0 and at most 1; write 10% or 0.1")
        return result
