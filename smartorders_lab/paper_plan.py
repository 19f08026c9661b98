"""What a session is begun with, on paper or live, read from a plan: the tables that a replay has, and two more.

    [session]
    exchange = "binance"                    # without it the ticks of [ticks] are played
    name = "ladders"                        # under which it is resumed; left out: the name of the file
    balances = { USDT = 1000 }              # left out: orders are not paid for
    poll_interval = "500ms"                 # look only at the last price of each interval
    outlier = "5%"                          # the guard against outlier prints, "none" for none
    speed = 60                              # how many times as fast recorded ticks are played; "max"
    slippage_cap = "1%"                     # live: how far from the last price a purchase at market may go
    profile = "second"                      # live: which keys (SMARTORDERS_BINANCE_SECOND_KEY)
    levels = "resting"                      # live: levels at a limit rest on the book; left out: sent on trigger
    protective_stop = "2%"                  # live: in place of that, a stop of each order rests so far beyond its own
    streams = false                         # live: do not listen to what the exchange says of our orders, look again and again

    [limits]                                # live: what may be opened; paper trading passes over it
    symbols = ["SOL/USDT"]
    max_order = 50                          # notional in quote currency: of one order,
    max_symbol = 200                        # held and under way in one symbol,
    max_day = 500                           # opened in one day (UTC)
    max_orders = 5                          # that open something and work at the same time
    max_distance = "5%"                     # of a limit from the last price

    [[orders]]                              # as in every plan; each is placed once, when the session begins
    [fills]
    [store]
    [ticks]

Everything that is wrong is reported at once.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator

from .errors import PlanError, Problem, SpecError
from .fields import Duration
from .fills import FillModel
from .plan import Plan, Text
from .spec import Part, SmartOrder
from .times import duration_text

if TYPE_CHECKING:
    from .ticks import Ticks

TABLES = ("session", "limits", "ticks", "orders", "fills", "store")
"""Tables of a plan that a session takes."""


def speed_of(value: object) -> float | None:
    """How many times as fast: a number above 0, or None for `max`. Raises ValueError."""
    if value == "max":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(str(value))
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise ValueError('must be a number above 0, or max; write 60 or "max"')
    return found


def _balances(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): str(amount) for name, amount in value.items()}
    raise ValueError("must say how much of each currency there is; write balances = { USDT = 1000 }")


class SessionTable(Part):
    """`[session]`: where the ticks come from, and the arguments of paper()."""

    exchange: Text | None = None
    name: Text = ""
    balances: Annotated[dict[str, str] | None, BeforeValidator(_balances)] = None
    poll_interval: Duration | None = None
    outlier: Any = "unset"
    speed: Annotated[float | None, BeforeValidator(speed_of)] = 1.0
    slippage_cap: Text = ""
    profile: Text = ""
    levels: Text = ""
    protective_stop: Text = ""
    streams: bool | None = None


@dataclass(frozen=True)
class PaperPlan:
    """A session and the orders that it begins with, each under a key, so that it is placed once however often this is run.

    `exchange` None: the `ticks` are played, at `speed`. `source` is the plan that they are read from, if there is one.
    """

    orders: list[tuple[str, SmartOrder]]
    session: SessionTable
    fills: FillModel | None = None
    store: Path | None = None
    name: str = ""
    source: Plan | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> PaperPlan:
        """The plan in a TOML file. Raises PlanError with everything that is wrong."""
        return cls.of(Plan.read(path))

    @classmethod
    def of(cls, plan: Plan) -> PaperPlan:
        """The session of a plan. Raises PlanError with everything that is wrong."""
        problems: list[Problem] = []
        for name in plan.data.keys() - set(TABLES):
            if name in ("actions", "replay", "sweep"):
                problems.append(Problem(name, None, "is not for a session on paper", f"take [{name}] out"))
            elif close := get_close_matches(name, TABLES, 1):
                problems.append(Problem(name, None, "is not a table of a plan", f"did you mean {close[0]}?"))
        named = {problem.path for problem in problems}
        rest = {
            name: table for name, table in plan.data.items() if name not in named and name not in ("session", "limits")
        }
        limits = plan.data.get("limits", {})
        if not isinstance(limits, Mapping):
            problems.append(Problem("limits", limits, "must be a table", "write [limits] above its fields"))
        session = SessionTable()
        given = plan.data.get("session", {})
        if isinstance(given, Mapping):
            try:
                session = SessionTable(**given)
            except SpecError as error:
                problems += [Problem(f"session.{p.path}", p.value, p.rule, p.fix) for p in error.problems]
        else:
            problems.append(Problem("session", given, "must be a table", "write [session] above its fields"))
        if session.exchange is None and "ticks" not in plan.data and not problems:
            fix = 'write exchange = "binance" below [session], or source = "trades.parquet" below [ticks]'
            problems.append(Problem("session.exchange", None, "is required where no [ticks] are given", fix))
        if session.exchange is not None or "ticks" not in rest:
            rest["ticks"] = rest.get("ticks", {"source": "-"})  # none are read
        source = Plan(rest, plan.folder, plan.name)
        try:
            parts = source.parts
            problems += [
                Problem(
                    f"orders[{n}].{name}", None, "an order of a session is placed once, when it begins", "leave it out"
                )
                for n, schedule in enumerate(parts.schedules)
                for name in ("start", "starts", "every")
                if getattr(schedule, name) is not None
            ]
        except PlanError as error:
            problems += error.problems
        if problems:
            raise PlanError(problems)
        return cls(
            [(f"orders[{n}]", order) for n, order in enumerate(parts.orders)],
            session,
            parts.fills if "fills" in plan.data else None,
            source.store_path,
            session.name or plan.name,
            source,
            dict(limits),
        )

    def ticks(self, file: str | None = None, symbol: str | None = None) -> Ticks:
        """The ticks to play: those of the plan, or of another `file`. Raises DataError, PlanError."""
        symbols = {order.symbol for _, order in self.orders}
        only = symbols.pop() if len(symbols) == 1 else None
        if self.source is None:
            from .ticks import Ticks

            return Ticks.read(file, symbol=symbol or only)
        plan = self.source if file is None else self.source.override("ticks.source", file)
        if symbol or plan.parts.ticks.symbol is None:
            plan = plan.override("ticks.symbol", symbol or only or "")
        return plan.read_ticks()

    @property
    def poll_interval(self) -> str | None:
        """The polling of [session], as text."""
        return None if self.session.poll_interval is None else duration_text(self.session.poll_interval)


def keyed(orders: Iterable[SmartOrder]) -> list[tuple[str, SmartOrder]]:
    """Orders under keys that say what they ask for: the same order again has the same key, so it is placed once."""
    seen: Counter[str] = Counter()
    found = []
    for order in orders:
        digest = hashlib.blake2b(order.to_json().encode(), digest_size=8).hexdigest()
        seen[digest] += 1
        found.append((f"order {digest} {seen[digest]}", order))
    return found
