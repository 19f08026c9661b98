"""Management of a living order, as data: what `replay(actions=...)` scripts and a session will journal.

Which action is taken in which status is docs/rules.md, section Actions.
"""

from __future__ import annotations

from decimal import Decimal
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from .errors import Problem, SpecError
from .fields import Number
from .spec import Part, SmartOrder, living_order
from .times import instant_ns, instant_text

Kind = Literal["open_now", "edit", "add_funds", "reduce_funds", "take_profit", "stop_out", "close_at_market", "cancel"]
EDITABLE_WHEN_ACTIVE = frozenset(
    {"stop_loss", "trailing_stop", "break_even", "take_profits", "trailing_take_profit", "max_hold", "entry_expiry"}
)
"""Fields that an edit may change once something is held."""


class Action(Part):
    """One action on one order at one time. Made by `open_now()`, `edit()`, `add_funds()` and their like.

    `order`: index of the order in the replay. `at`: time (ns, aware datetime or ISO text). `quantity`, `cost`,
    `price`: for add and reduce; a price makes it a limit. `level`: of take_profit, 1 is TP1. `version`: number of events
    of the order when it was decided on; another one refuses the action. `force`: take an edit that triggers at once.
    `changes`: fields of an edit.
    """

    kind: Kind
    order: int = 0
    at: Annotated[int, BeforeValidator(instant_ns), PlainSerializer(instant_text, when_used="json")]
    quantity: Number | None = None
    cost: Number | None = None
    price: Number | None = None
    level: Annotated[int, Field(ge=1)] | None = None
    version: int | None = None
    force: bool = False
    changes: dict[str, Any] = Field(default_factory=dict)

    def __repr__(self) -> str:
        """As it is made: `edit(0, '2024-08-08T23:58:00Z', stop_loss=96)`."""
        told = self.to_dict()
        kind, at = told.pop("kind"), told.pop("at")
        given = {**{n: v for n, v in told.items() if n not in ("order", "changes")}, **self.changes}
        return f"{kind}({', '.join([str(self.order), repr(at), *(f'{n}={_shown(v)}' for n, v in given.items())])})"

    __str__ = __repr__

    @model_validator(mode="after")
    def _of_kind(self) -> Self:
        sized = (self.quantity is not None) + (self.cost is not None)
        if self.kind == "add_funds" and sized != 1:
            raise ValueError("add_funds needs exactly one of quantity and cost; add_funds(0, at, quantity=0.5)")
        if self.kind == "reduce_funds" and (self.quantity is None or self.cost is not None):
            raise ValueError("reduce_funds needs quantity; reduce_funds(0, at, quantity=0.5)")
        if self.kind not in ("add_funds", "reduce_funds") and (sized or self.price is not None):
            raise ValueError(f"{self.kind} takes no quantity, cost or price; leave them out")
        if (self.kind == "take_profit") != (self.level is not None):
            raise ValueError("take_profit, and nothing else, needs level; take_profit(0, at, level=1) takes TP1")
        if (self.kind == "edit") != bool(self.changes):
            raise ValueError("an edit needs at least one field to change; edit(0, at, stop_loss=96)")
        unknown = sorted(set(self.changes) - set(SmartOrder.model_fields))
        if unknown:
            close = get_close_matches(unknown[0], SmartOrder.model_fields, 1)
            hint = f"did you mean {close[0]}?" if close else "see help(SmartOrder)"
            raise ValueError(f"{unknown[0]} is not a field of SmartOrder; {hint}")
        fixed = sorted({"symbol", "side", "trigger"} & set(self.changes))
        if fixed:
            raise ValueError(f"{fixed[0]} cannot be edited; place another order")
        return self

    def apply(self, order: SmartOrder) -> SmartOrder:
        """The spec after this edit. Raises SpecError if it does not hold together.

        A stop may lie in profit and a level below the entry: for a position that is held that makes sense.
        """
        with living_order():
            return order.replace(**self.changes)

    def living_only(self, order: SmartOrder) -> bool:
        """Whether the edited spec makes sense only for a position that is held."""
        try:
            order.replace(**self.changes)
        except SpecError:
            return True
        return False


def open_now(order: int = 0, at: Any = None, *, version: int | None = None) -> Action:
    """Stop waiting: enter the rest of the planned size at market."""
    return Action(kind="open_now", order=order, at=_time(at), version=version)


def edit(order: int = 0, at: Any = None, *, force: bool = False, version: int | None = None, **changes: Any) -> Action:
    """Change fields of the spec: `edit(0, "2024-08-08T23:58Z", stop_loss=96, break_even=True)`."""
    return Action(kind="edit", order=order, at=_time(at), force=force, version=version, changes=changes)


def add_funds(
    order: int = 0,
    at: Any = None,
    *,
    quantity: Any = None,
    cost: Any = None,
    price: Any = None,
    version: int | None = None,
) -> Action:
    """Buy more, by quantity or cost; at market, or with a limit at `price`."""
    return Action(
        kind="add_funds", order=order, at=_time(at), quantity=quantity, cost=cost, price=price, version=version
    )


def reduce_funds(
    order: int = 0, at: Any = None, *, quantity: Any = None, price: Any = None, version: int | None = None
) -> Action:
    """Sell some; at market, or with a limit at `price`."""
    return Action(kind="reduce_funds", order=order, at=_time(at), quantity=quantity, price=price, version=version)


def take_profit(order: int = 0, at: Any = None, *, level: int, version: int | None = None) -> Action:
    """Send what level `level` (1 is TP1) would sell, as if its price had been reached."""
    return Action(kind="take_profit", order=order, at=_time(at), level=level, version=version)


def stop_out(order: int = 0, at: Any = None, *, version: int | None = None) -> Action:
    """Sell everything at market now, as if the effective stop had been reached; the end is told as that stop's."""
    return Action(kind="stop_out", order=order, at=_time(at), version=version)


def close_at_market(order: int = 0, at: Any = None, *, version: int | None = None) -> Action:
    """Sell everything now."""
    return Action(kind="close_at_market", order=order, at=_time(at), version=version)


def cancel(order: int = 0, at: Any = None, *, version: int | None = None) -> Action:
    """Stop managing; what is held stays."""
    return Action(kind="cancel", order=order, at=_time(at), version=version)


def _shown(value: Any) -> str:
    """A value as it is typed: a part by what is set in it, a Decimal as a number."""
    if isinstance(value, Part):
        value = value.to_dict()
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if part is not None}
    return str(value) if isinstance(value, Decimal) else repr(value)


def _time(at: Any) -> Any:
    if at is None:
        raise SpecError(Problem("at", None, "is required", "say when the action happens: cancel(0, at=...)"))
    return at
