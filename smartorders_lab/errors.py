"""Every error this library raises on purpose.

    SmartOrdersError
    ├── SpecError          an order that does not hold together; all its problems at once
    │   ├── LinkError      a share link that is broken, foreign, too new or too large
    │   └── PlanError      a plan file (TOML) or a command-line override
    ├── DataError          ticks, bars or files; names the row and the value
    ├── LimitError         a named limit of this library was passed
    ├── ActionError        an action that makes no sense
    │   └── ActionRefused  one that the order does not take as it stands
    │       └── StaleVersion   because it has moved on since that was decided
    ├── StoreError         the DuckDB file: locked, foreign, too new, damaged
    └── ExchangeError      an exchange that could not be reached or answered nonsense

A message is one line: *field or row = value: rule; way out*.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_SECRET = re.compile(r"(\.|^api_?|private_?)key$|secret|pass(word|phrase)$|token$", re.IGNORECASE)
"""Fields whose value is nobody's business, wherever it was written by mistake."""


class SmartOrdersError(Exception):
    """Base of all errors of this library."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input.

    `path` is the field as it is typed (`take_profits[1].price`), `value` what was given,
    `rule` what must hold and `fix` the way out. `level` is `"error"` or `"warning"`.
    """

    path: str
    value: object
    rule: str
    fix: str = ""
    level: str = "error"

    def __str__(self) -> str:
        value = "***" if _SECRET.search(self.path) else short(self.value)
        shown = "" if self.value is None else f" = {value}"
        return f"{self.path}{shown}: {self.rule}" + (f"; {self.fix}" if self.fix else "")


class SpecError(SmartOrdersError, ValueError):
    """An order that does not hold together. `problems` lists everything found, not just the first."""

    def __init__(self, problems: Problem | Iterable[Problem]):
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("\n".join(map(str, self.problems)))

    @classmethod
    def one(cls, path: str, value: object, rule: str, fix: str = "") -> SpecError:
        """The error of one problem."""
        return cls(Problem(path, value, rule, fix))


class LinkError(SpecError):
    """A share link that cannot be opened."""


class PlanError(SpecError):
    """A plan file or an override of one of its fields."""


class DataError(SmartOrdersError, ValueError):
    """Ticks, bars or a file that cannot be used as they are."""


class LimitError(SmartOrdersError, ValueError):
    """A named limit of this library was passed."""


class ActionError(SmartOrdersError, ValueError):
    """An action that cannot be understood or does not fit the order it names."""


class ActionRefused(ActionError):
    """An action that an order does not take as it stands. `reason` is a word of rows.Reason; nothing has changed."""

    def __init__(self, text: str, reason: str = ""):
        self.reason = reason
        super().__init__(text)


class StaleVersion(ActionRefused):
    """An action that was decided on a version of the order that is no longer the latest."""


class StoreError(SmartOrdersError, OSError):
    """The DuckDB file cannot be used."""


class ExchangeError(SmartOrdersError):
    """An exchange could not be reached, refused, or answered something that cannot be used."""


def short(value: object, length: int = 60) -> str:
    """`repr(value)`, cut to `length` characters, so that an error stays one line."""
    text = repr(value) if isinstance(value, str) else " ".join(str(value).split())
    return text if len(text) <= length else text[: length - 1] + "…"
