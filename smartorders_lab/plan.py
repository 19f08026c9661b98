"""Plan: a whole replay or sweep as one TOML file that can be read, kept under version control and varied from the command line.

    [ticks]
    source = "data/sample_trades.parquet"   # a file, a glob, a list of files, or a DuckDB query
    symbol = "SOL/USDT"

    [[orders]]                              # the fields of SmartOrder, and when it starts
    symbol = "SOL/USDT"
    side = "buy"
    quantity = 1
    take_profits = [["+2%", 40], ["+4%", 35], ["+7%", 25]]
    stop_loss = "-3%"
    every = "1h"                            # or start = "2024-03-04T12:00Z", or starts = [0, 1000]

    [[actions]]                             # the fields of Action; `order` counts the [[orders]] above
    [fills]                                 # the fields of FillModel
    [replay]                                # name, starts, poll_interval, outlier, bounds
    [store]
    path = "runs.duckdb"

    [sweep]                                 # the arguments of sweep(): entries, grid, by, store …
    entries = "every 15m"                   # or { random = 1000, seed = 1 }; without it, when the order starts
    store = "out/sweep"
    [sweep.grid]
    stop_loss = ["-1%", "-2%", "-3%"]
    trailing_stop.callback_rate = ["0.5%", "1%"]

Paths start from the folder of the plan; those inside a query from the working directory. Everything that is wrong is
reported at once.
"""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from .actions import Action
from .errors import DataError, PlanError, Problem, SpecError, short
from .fields import Duration
from .fills import FillModel
from .instrument import Instrument
from .spec import Part, SmartOrder
from .times import duration_text, instant_ns, instant_text

if TYPE_CHECKING:
    from .findings import Sweep
    from .run import Run
    from .ticks import Ticks


# ---------------------------------------------------------------------------------------------------- the tables


def _text(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be text; write it in quotes: "…"')
    return value


def _flag(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError("must be true or false; write it without quotes")
    return value


def _start(value: object) -> object:
    """A tick number or a time, as replay() takes them."""
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError("must be a tick number from 0 on, or a time; write 0 or 2024-08-08T23:55:00Z")
        return value
    return instant_ns(value)


def _starts(value: object) -> object:
    return [_start(item) for item in value] if isinstance(value, list) else _start(value)


def _source(value: object) -> object:
    if not value or not (
        isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
    ):
        raise ValueError('must be a file, a glob, a list of files or a query; write source = "trades.parquet"')
    return value


def _names(value: object) -> object:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value.values()):
        raise ValueError('must name columns; write columns = { price = "px" }')
    return value


Text = Annotated[str, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Start = Annotated[Any, BeforeValidator(_start)]
Starts = Annotated[Any, BeforeValidator(_starts)]


class TicksTable(Part):
    """`[ticks]`: the arguments of Ticks.read(), and `start` and `stop` of Ticks.slice()."""

    source: Annotated[Any, BeforeValidator(_source)]
    symbol: Text | None = None
    instrument: Instrument | None = None
    sort: Flag = False
    columns: Annotated[dict[str, str] | None, BeforeValidator(_names)] = None
    unit: Text | None = None
    tz: Text | None = None
    path: Text = "pessimistic"
    bar: Duration | None = None
    start: Start | None = None
    stop: Start | None = None


class ReplayTable(Part):
    """`[replay]`: the arguments of replay() that are not tables of their own."""

    name: Text = ""
    starts: Starts | None = None
    poll_interval: Duration | None = None
    outlier: Any = None
    bounds: Flag = False


class StoreTable(Part):
    """`[store]`: where the run is kept."""

    path: Text


def _entries(value: object) -> object:
    """Entries as sweep() takes them: text, numbers and times, or a table that draws them at random."""
    if isinstance(value, Mapping):
        from .entries import random_entries

        if set(value) - {"random", "seed"} or "random" not in value:
            raise ValueError("must say how many; write entries = { random = 1000, seed = 1 }")
        try:
            return random_entries(value["random"], value.get("seed", 0))
        except DataError as error:
            raise ValueError(str(error)) from None
    if isinstance(value, str) and value.startswith("every"):
        return value
    return _starts(value)


def _grid(value: object) -> object:
    """A grid with the dotted names of its tables in one: `trailing_stop.callback_rate = [...]` is a table in a table."""
    if isinstance(value, Mapping):
        return dict(_flat("", value))
    if isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
        return value
    raise ValueError('must be lists of values by field; write stop_loss = ["-1%", "-2%"] below [sweep.grid]')


def _flat(path: str, table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{path}{name}.", value)
        else:
            yield f"{path}{name}", value


def _by(value: object) -> object:
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError('must be "combination" or names of the grid; write by = ["stop_loss"]')


class SweepTable(Part):
    """`[sweep]`: the arguments of sweep(); `order` is which of the [[orders]] is varied, `symbols` more ticks, by symbol."""

    order: Annotated[int, Field(ge=0)] = 0
    entries: Annotated[Any, BeforeValidator(_entries)] = None
    grid: Annotated[Any, BeforeValidator(_grid)] = None
    by: Annotated[Any, BeforeValidator(_by)] = None
    store: Text | None = None
    name: Text = ""
    skip_invalid: Flag = False
    symbols: Annotated[dict[str, str] | None, BeforeValidator(_names)] = None


class Schedule(Part):
    """When the order of an `[[orders]]` table starts: once at `start`, at each of `starts`, or `every` so often from `start` on."""

    start: Start | None = None
    starts: Starts | None = None
    every: Duration | None = None

    @property
    def repeats(self) -> bool:
        """Whether it makes more than one order."""
        return self.every is not None or isinstance(self.starts, list)


class Parts(NamedTuple):
    """A plan, read: what each table stands for. `orders` and `schedules` have one entry for each `[[orders]]`."""

    ticks: TicksTable
    orders: list[SmartOrder]
    schedules: list[Schedule]
    actions: list[Action]
    fills: FillModel
    replay: ReplayTable
    store: StoreTable | None
    sweep: SweepTable | None


_TABLES = ("ticks", "orders", "actions", "fills", "replay", "store", "sweep", "session")
"""Tables of a plan; [session] is read by paper_plan alone."""


# ---------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Plan:
    """The data of a plan file, and the `folder` that its paths start from. Made by `Plan.read` or `Plan.from_toml`.

    Nothing is checked before `parts` is asked for, so several overrides may be needed to make it whole.
    """

    data: dict[str, Any]
    folder: Path = Path()
    name: str = ""

    @classmethod
    def read(cls, path: str | Path) -> Plan:
        """The plan in a TOML file. Raises PlanError if it cannot be read."""
        path = Path(path)
        try:
            text = path.read_text("utf-8-sig")
        except UnicodeDecodeError:
            raise PlanError(Problem(str(path), None, "is not UTF-8 text", "a plan is a TOML file")) from None
        except FileNotFoundError:
            raise PlanError(Problem(str(path), None, "does not exist", "check the path")) from None
        except OSError as error:
            raise PlanError(Problem(str(path), None, f"cannot be read: {error.strerror}", "give a TOML file")) from None
        return cls.from_toml(text, path.parent, path.stem, str(path))

    @classmethod
    def from_toml(cls, text: str, folder: str | Path = ".", name: str = "", where: str = "plan") -> Plan:
        """The plan in a text. Raises PlanError if it is not TOML."""
        try:
            return cls(tomllib.loads(text, parse_float=Decimal), Path(folder), name)
        except tomllib.TOMLDecodeError as error:
            fix = "text and times with a sign or unit go in quotes"
            raise PlanError(Problem(where, None, f"is not TOML: {error}", fix)) from None

    def override(self, key: str, value: Any) -> Plan:
        """A plan with one value changed or added: `plan.override("orders.0.stop_loss", "-4%")`.

        `key` names the value as it stands in the file, lists by number (`orders[0].stop_loss` does too). Raises PlanError
        if there is no such place; whether the value fits its place, `parts` says.
        """
        steps = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
        if not all(steps):
            raise PlanError(
                Problem("override", key, "is not a key", "write it like orders.0.stop_loss or fills.latency")
            )
        if steps[0] not in _TABLES:
            raise PlanError(Problem(key, None, f"{steps[0]} is not a table of a plan", _closest(steps[0], _TABLES)))
        return Plan(_changed(self.data, steps, value, ""), self.folder, self.name)

    @cached_property
    def parts(self) -> Parts:
        """What the plan says, checked. Raises PlanError with everything that is wrong."""
        problems: list[Problem] = []

        def part(kind: Any, path: str, data: object) -> Any:
            if not isinstance(data, Mapping):
                header = f"[[{path.partition('[')[0]}]]" if "[" in path else f"[{path}]"
                problems.append(Problem(path, data, "must be a table", f"write {header} above its fields"))
                return None
            try:
                return kind(**data)
            except SpecError as error:
                # A problem of the whole part carries its name instead of a field.
                own = {"SmartOrder", "Schedule", "order"} if path.startswith("orders") else {kind.__name__}
                problems.extend(
                    Problem(path if p.path in own else f"{path}.{p.path}", p.value, p.rule, p.fix)
                    for p in error.problems
                )
            return None

        def each(kind: Any, path: str) -> list[Any]:
            data = self.data.get(path, [])
            if not isinstance(data, list):
                problems.append(Problem(path, None, "must be a list of tables", f"write [[{path}]] above each"))
                return []
            return [part(kind, f"{path}[{i}]", item) for i, item in enumerate(data)]

        for name in self.data.keys() - set(_TABLES):
            problems.append(Problem(name, None, "is not a table of a plan", _closest(name, _TABLES)))
        ticks = part(TicksTable, "ticks", self.data.get("ticks", {}))
        pairs = each(_order_and_schedule, "orders")
        if not self.data.get("orders"):
            problems.append(Problem("orders", None, "is required", "add an [[orders]] table"))
        actions = each(Action, "actions")
        fills = part(FillModel, "fills", self.data.get("fills", {}))
        replay = part(ReplayTable, "replay", self.data.get("replay", {}))
        store = part(StoreTable, "store", self.data["store"]) if "store" in self.data else None
        sweep = part(SweepTable, "sweep", self.data["sweep"]) if "sweep" in self.data else None
        if sweep is not None and pairs and sweep.order >= len(pairs):
            problems.append(
                Problem("sweep.order", sweep.order, f"there are {len(pairs)} [[orders]]", f"use 0 to {len(pairs) - 1}")
            )
        if replay is not None:
            problems += _start_problems([pair[1] for pair in pairs if pair], replay)
        for i, action in enumerate(actions):
            problems += _action_problems(f"actions[{i}].order", action, pairs)
        if problems:
            raise PlanError(problems)
        return Parts(ticks, [p[0] for p in pairs], [p[1] for p in pairs], actions, fills, replay, store, sweep)

    def read_ticks(self, symbol: str | None = None, source: str | None = None) -> Ticks:
        """The ticks of the plan, or those of another `symbol` from `source`, read in the same way. Raises DataError."""
        from .ticks import Ticks

        given = self.parts.ticks.model_dump(exclude_unset=True, exclude={"source", "start", "stop", "instrument"})
        table = self.parts.ticks
        if source is not None:
            ticks = Ticks.read(self._source(source), **(given | {"symbol": symbol}))
        else:
            ticks = Ticks.read(self._source(table.source), table.instrument, **given)
        if table.start is None and table.stop is None:
            return ticks
        return ticks.slice(*(_position(value, len(ticks)) for value in (table.start, table.stop)))

    @property
    def store_path(self) -> Path | None:
        """The file that the run goes to, None if the plan names none."""
        return None if self.parts.store is None else self.folder / self.parts.store.path

    def run(self, progress: bool | Callable[[int, int], None] | None = None) -> Run:
        """Replay the plan, and store the run where the plan says so. Raises what replay() and Store do, and PlanError."""
        from .replays import replay

        parts = self.parts
        ticks = self.read_ticks()
        orders, starts, actions = self._expanded(ticks)
        with contextlib.ExitStack() as stack:
            store = None
            if self.store_path is not None:
                from .store import Store

                # A store that cannot be used is known before the replay; a new one begins after it.
                if self.store_path.exists():
                    store = stack.enter_context(Store(self.store_path))
            run = replay(
                orders,
                ticks,
                starts=starts,
                fills=parts.fills,
                actions=actions,
                poll_interval=parts.replay.poll_interval,
                progress=progress,
                outlier=parts.replay.outlier,
                bounds=parts.replay.bounds,
                name=parts.replay.name or self.name,
            )
            if self.store_path is not None:
                store = store or stack.enter_context(Store(self.store_path))
                store.save(run)
        return run

    @property
    def sweep_path(self) -> Path | None:
        """The folder or file that the sweep goes to: that of [sweep], else the store of the plan; None if it names none."""
        table = self.parts.sweep
        return self.store_path if table is None or table.store is None else self.folder / table.store

    def sweep(self, progress: bool | Callable[[int, int], None] | None = None, restart: bool = False) -> Sweep:
        """Sweep the plan; what was interrupted goes on, unless `restart`. Raises what sweep() does, and PlanError.

        Without a store only aggregates are kept.
        """
        from .sweeps import sweep

        parts, table = self.parts, self.parts.sweep
        if table is None:
            raise PlanError(Problem("sweep", None, "is required to sweep", "add a [sweep] table with entries and grid"))
        order, schedule = parts.orders[table.order], parts.schedules[table.order]
        ticks: Any = self.read_ticks()
        entries = table.entries
        if entries is None and schedule.every is not None:
            entries = f"every {duration_text(schedule.every)}"
        if entries is None:
            entries = schedule.starts if schedule.starts is not None else schedule.start
        if entries is None:
            raise PlanError(Problem("sweep.entries", None, "is required", 'write entries = "every 1h"'))
        if table.symbols:
            ticks = {
                order.symbol: ticks,
                **{name: self.read_ticks(name, source) for name, source in table.symbols.items()},
            }
        path = self.sweep_path
        try:
            return sweep(
                order,
                ticks,
                entries,
                table.grid,
                parts.fills,
                store=path,
                progress=progress,
                by="combination" if path is None and table.by is None else table.by,
                poll_interval=parts.replay.poll_interval,
                skip_invalid=table.skip_invalid,
                restart=restart,
                name=table.name or self.name,
            )
        except SpecError as error:
            raise PlanError(
                [
                    Problem(f"sweep.{p.path}" if p.path.startswith(("grid", "by")) else p.path, p.value, p.rule, p.fix)
                    for p in error.problems
                ]
            ) from None

    def _expanded(self, ticks: Ticks) -> tuple[list[SmartOrder], list[Any], list[Action]]:
        """Each order as often as it starts, its starts, and the actions by the number that their order then has."""
        from .lower import check
        from .replays import MAX_ORDERS

        parts = self.parts
        problems = [
            Problem(f"orders[{i}].{p.path}", p.value, p.rule, p.fix)
            for i, order in enumerate(parts.orders)
            for p in check(order, ticks.instrument)
            if p.level == "error"
        ]
        if problems:
            raise PlanError(problems)
        orders: list[SmartOrder] = []
        starts: list[Any] = []
        first: list[int] = []
        spread = parts.replay.starts if isinstance(parts.replay.starts, list) else None
        for i, (order, schedule) in enumerate(zip(parts.orders, parts.schedules, strict=True)):
            own = parts.replay.starts if spread is None else spread[i]
            times = _times(f"orders[{i}]", schedule, own, ticks, MAX_ORDERS - len(orders))
            first.append(len(orders))
            orders += [order] * len(times)
            starts += times
        actions = [action.model_copy(update={"order": first[action.order]}) for action in parts.actions]
        return orders, starts, actions

    def _source(self, source: Any) -> Any:
        if isinstance(source, list):
            return [str(self.folder / item) for item in source]
        query = re.match(r"\s*(select|with|from)\s", source, re.IGNORECASE)
        return source if query else str(self.folder / source)


def toml_value(text: str) -> Any:
    """What is typed after `--set key=`: a TOML value, or else the text as it is, so that quotes are not needed."""
    try:
        return tomllib.loads(f"value = {text}", parse_float=Decimal)["value"]
    except tomllib.TOMLDecodeError:
        return text


# ---------------------------------------------------------------------------------------------------- orders in time


def _order_and_schedule(**data: Any) -> tuple[SmartOrder, Schedule]:
    """An `[[orders]]` table. Raises SpecError with the problems of both."""
    when = {name: data.pop(name) for name in Schedule.model_fields if name in data}
    problems: list[Problem] = []
    made: list[Any] = []
    for kind, fields in ((SmartOrder, data), (Schedule, when)):
        try:
            made.append(kind(**fields))
        except SpecError as error:
            problems += error.problems
    if problems:
        raise SpecError(problems)
    return made[0], made[1]


def _start_problems(schedules: list[Schedule], replay: ReplayTable) -> Iterator[Problem]:
    for i, schedule in enumerate(schedules):
        given = [name for name in ("start", "starts", "every") if getattr(schedule, name) is not None]
        if "starts" in given and len(given) > 1:
            yield Problem(
                f"orders[{i}].starts",
                None,
                f"cannot stand beside {given[0 if given[0] != 'starts' else 1]}",
                "keep one",
            )
        if given and replay.starts is not None:
            yield Problem(f"orders[{i}].{given[0]}", None, "cannot stand beside replay.starts", "keep one")
        if isinstance(schedule.starts, list) and not schedule.starts:
            yield Problem(f"orders[{i}].starts", None, "is empty", "give at least one, or leave it out")
    if isinstance(replay.starts, list) and schedules and len(replay.starts) != len(schedules):
        fix = "give one for all, or one for each [[orders]]; starts of one order go into its own table"
        yield Problem("replay.starts", None, f"has {len(replay.starts)} values for {len(schedules)} orders", fix)


def _action_problems(path: str, action: Action | None, pairs: list[Any]) -> Iterator[Problem]:
    if action is None or not pairs:
        return
    if not 0 <= action.order < len(pairs):
        yield Problem(path, action.order, f"there are {len(pairs)} [[orders]]", f"use 0 to {len(pairs) - 1}")
    elif pairs[action.order] and pairs[action.order][1].repeats:
        yield Problem(path, action.order, "this order starts more than once", "actions need an order with one start")


def _times(path: str, schedule: Schedule, default: Any, ticks: Ticks, most: int) -> list[Any]:
    """When the orders of one table start, as replay() takes it."""
    if schedule.every is None:
        times = schedule.starts if schedule.starts is not None else schedule.start
        times = default if times is None else times
        return list(times) if isinstance(times, list) else [0 if times is None else times]
    start = 0 if schedule.start is None else schedule.start
    begin = int(ticks.ts[start]) if start < len(ticks) else start
    count = (int(ticks.ts[-1]) - begin) // schedule.every + 1
    if count > most:
        rule = f"would make {count:,} orders, more than the {most:,} there is room for (MAX_ORDERS)"
        raise PlanError(Problem(f"{path}.every", duration_text(schedule.every), rule, "make it longer"))
    return [begin + i * schedule.every for i in range(count)] or [begin]


def _position(value: Any, count: int) -> Any:
    """A slice's end: positions as they are, times (ns) as text, which is how slice() tells them from positions."""
    return value if value is None or value <= count else instant_text(value)


# ---------------------------------------------------------------------------------------------------- overrides


def _changed(node: Any, steps: list[str], value: Any, path: str) -> Any:
    """A copy of `node` with the value at `steps` replaced; tables that are missing on the way are made."""
    step, rest = steps[0], steps[1:]
    here = f"{path}.{step}" if path else step
    if isinstance(node, list):
        if not step.isdigit() or int(step) >= len(node):
            fix = f"use {path}.0 to {path}.{len(node) - 1}" if node else "add it to the file"
            raise PlanError(Problem(here, None, f"{path} is a list of {len(node)}", fix))
        at = int(step)
        return [*node[:at], _changed(node[at], rest, value, here) if rest else value, *node[at + 1 :]]
    if not isinstance(node, Mapping):
        raise PlanError(Problem(here, None, f"{path} is {short(node)}, which has no parts", f"set {path} as a whole"))
    if not rest:
        return {**node, step: value}
    if step in ("orders", "actions") and step not in node:
        raise PlanError(Problem(here, None, f"the plan has no [[{step}]]", "add one to the file"))
    return {**node, step: _changed(node.get(step, {}), rest, value, here)}


def _closest(name: str, names: tuple[str, ...]) -> str:
    close = get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(names)}"
