"""Combinations: the orders of a sweep, one for each choice of values from a grid.

    {"stop_loss": ["1%", "2%"], "trailing_stop.callback_rate": ["0.5%", "1%"]}     # every pair of them: 4
    [{"stop_loss": "1%"}, {"stop_loss": "2%", "max_hold": "4h"}]                     # just these 2

A name is a field of SmartOrder, or of a part of it after a dot; its values are what the constructor takes. Where `side`
turns round, the distances of the order itself turn with it; those of the grid are written without a sign to fit both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from difflib import get_close_matches
from itertools import product
from math import prod
from typing import Any, NamedTuple

import polars as pl

from .errors import LimitError, Problem, SpecError, short
from .fields import Distance, plain
from .instrument import Instrument
from .lower import check
from .spec import BreakEven, Entry, Part, SmartOrder, StopLoss, TrailingStop, TrailingTakeProfit

MAX_COMBINATIONS = 200_000
"""Most combinations of one sweep."""
MAX_PROBLEMS = 50
"""Most invalid combinations that an error lists; it counts the others."""
_SIZES = ("quantity", "cost", "risk")
_PARTS: dict[str, type[Part]] = {
    "entry": Entry,
    "stop_loss": StopLoss,
    "trailing_stop": TrailingStop,
    "trailing_take_profit": TrailingTakeProfit,
    "break_even": BreakEven,
}
_LABEL = 60


class Combinations(NamedTuple):
    """`orders`, the `rows` of the grid that each stands for, how many were `skipped`, and why (`problems`)."""

    orders: list[SmartOrder]
    rows: list[dict[str, Any]]
    skipped: int
    problems: list[Problem]


def grid_rows(grid: Any) -> tuple[list[str], list[dict[str, Any]]]:
    """The names of a grid and its combinations: the product of its lists, or its rows as they are. Raises SpecError, LimitError."""
    if grid is None or (isinstance(grid, (Mapping, list, tuple)) and not grid):
        return [], [{}]
    if isinstance(grid, Mapping):
        grid = {name: list(values) if _is_list(values) else values for name, values in grid.items()}
        problems = [
            Problem(f"grid.{name}", values, "must be a list of values, at least one", 'write ["1%", "2%"]')
            for name, values in grid.items()
            if not isinstance(values, list) or not values
        ]
        names = list(grid)
        if not problems:
            _check_count(prod(map(len, grid.values())))
    elif isinstance(grid, (list, tuple)) and all(isinstance(row, Mapping) for row in grid):
        problems, names = [], list(dict.fromkeys(name for row in grid for name in row))
        _check_count(len(grid))
    else:
        fix = 'write {"stop_loss": ["1%", "2%"]} or a list of combinations'
        raise SpecError(Problem("grid", short(grid), "must be lists of values by field, or a list of dicts", fix))
    problems += [problem for name in names if (problem := _name_problem(name))]
    problems += [
        Problem(f"grid.{name}", None, f"cannot stand beside {other}, which is a part of it", "keep one of them")
        for name in names
        for other in names
        if isinstance(other, str) and other.startswith(f"{name}.")
    ]
    if problems:
        raise SpecError(problems)
    if isinstance(grid, Mapping):
        return names, [dict(zip(names, values, strict=True)) for values in product(*grid.values())]
    return names, [dict(row) for row in grid]


def combine(
    order: SmartOrder, rows: list[dict[str, Any]], instrument: Instrument, symbol: str = "", skip_invalid: bool = False
) -> Combinations:
    """Each row of a grid as an order that suits `instrument`, for `symbol` if it is given.

    Raises SpecError with all invalid ones at once, or leaves them out (`skip_invalid`).
    """
    base = {name: _open(getattr(order, name)) for name in order.model_fields_set}
    base |= {"symbol": symbol} if symbol else {}
    mirror = {name: _turned(value) for name, value in base.items()}
    orders, kept, problems, wrong = list[SmartOrder](), list[dict[str, Any]](), list[Problem](), 0
    for i, row in enumerate(rows):
        try:
            made = _made(mirror if row.get("side", order.side) != order.side else base, row)
            found = [p for p in check(made, instrument) if p.level == "error"]
        except SpecError as error:
            found = error.problems
        if not found:
            orders.append(made)
            kept.append(row)
            continue
        wrong += 1
        if wrong <= MAX_PROBLEMS:
            problems += [_placed(p, i, row) for p in found]
    if wrong > MAX_PROBLEMS:
        problems.append(
            Problem("grid", None, f"{wrong - MAX_PROBLEMS:,} more combinations are invalid", "mend these first")
        )
    if wrong and not (skip_invalid and orders):
        raise SpecError(problems)
    return Combinations(orders, kept, wrong, problems)


def mirrored(order: SmartOrder) -> SmartOrder:
    """The same order the other way round: the other side, and every distance with the other sign. Raises SpecError."""
    prices = [name for name, value in _leaves("", _open(order)) if isinstance(value, Decimal) and _is_price(name)]
    if prices:
        raise SpecError(
            Problem(
                prices[0], None, "is a price, which has no mirror image", "write a distance, as in +2%, or leave -1 out"
            )
        )
    base = {name: _turned(_open(getattr(order, name))) for name in order.model_fields_set}
    return SmartOrder(**(base | {"side": "sell" if order.side == "buy" else "buy"}))


def labels(rows: list[dict[str, Any]], names: list[str]) -> pl.DataFrame:
    """The grid as columns: numbers and truths as such, all else as short text; null where a combination leaves a field as it was."""
    return pl.DataFrame({name: _column(name, [row.get(name, _LEFT) for row in rows]) for name in names})


# --- names and values ------------------------------------------------------------------------------------------------


def _is_list(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping, Part))


def _check_count(count: int) -> None:
    if count > MAX_COMBINATIONS:
        raise LimitError(
            f"grid: makes {count:,} combinations, more than MAX_COMBINATIONS = {MAX_COMBINATIONS:,}; sweep parts of it"
        )


def _steps(name: str) -> list[str]:
    return re.sub(r"\[(\d+)\]", r".\1", name).split(".")


def _name_problem(name: Any) -> Problem | None:
    """What is wrong with the name of a field, if anything."""
    if not isinstance(name, str):
        return Problem("grid", short(name), "is not the name of a field", "write it in quotes")
    steps = _steps(name)
    if steps[0] == "symbol":
        return Problem(
            "grid.symbol", None, "follows the ticks", 'give several: ticks={"BTC/USDT": ..., "ETH/USDT": ...}'
        )
    known = list(SmartOrder.model_fields)
    if steps[0] in known and len(steps) > 1 and steps[0] in _PARTS:
        known, steps = (
            [f"{steps[0]}.{field}" for field in _PARTS[steps[0]].model_fields],
            [".".join(steps[:2]), *steps[2:]],
        )
    if steps[0] in known:
        return None
    close = get_close_matches(steps[0], known, 1)
    return Problem(
        f"grid.{name}",
        None,
        "is not a field",
        f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}",
    )


def _open(value: Any) -> Any:
    """Parts as dicts of what was given, so that one field of them can be replaced."""
    if isinstance(value, Part):
        return {name: _open(getattr(value, name)) for name in value.model_fields_set}
    return [_open(item) for item in value] if isinstance(value, tuple) else value


def _turned(value: Any) -> Any:
    if isinstance(value, Distance):
        return Distance(-value.fraction)
    if isinstance(value, dict):
        return {name: _turned(item) for name, item in value.items()}
    return [_turned(item) for item in value] if isinstance(value, list) else value


def _leaves(path: str, value: Any) -> Iterable[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
        return
    for name, item in items:
        yield from _leaves(f"{path}[{name}]" if isinstance(name, int) else f"{path}.{name}".lstrip("."), item)


def _is_price(path: str) -> bool:
    return path.endswith((".target", ".limit", ".emergency", ".activation", ".price", ".limit_price"))


def _made(base: dict[str, Any], row: Mapping[str, Any]) -> SmartOrder:
    data = dict(base)
    if any(name in row for name in _SIZES):
        data = {name: value for name, value in data.items() if name not in _SIZES}
    for name, value in row.items():
        data = _placed_in(data, _steps(name), value, name)
    return SmartOrder(**data)


def _placed_in(node: Any, steps: list[str], value: Any, name: str) -> Any:
    """A copy of `node` with the value at `steps` replaced; a part that is not there yet is begun."""
    if not steps:
        return value
    if isinstance(node, list):
        if not steps[0].isdigit() or int(steps[0]) >= len(node):
            raise SpecError(Problem(name, value, f"the order has {len(node)} of these", "give the list as a whole"))
        at = int(steps[0])
        return [*node[:at], _placed_in(node[at], steps[1:], value, name), *node[at + 1 :]]
    if node is not None and not isinstance(node, dict):
        raise SpecError(Problem(name, value, f"{short(node)} has no parts", "give the field as a whole"))
    there = {} if node is None else node
    return {**there, steps[0]: _placed_in(there.get(steps[0]), steps[1:], value, name)}


def _placed(problem: Problem, i: int, row: Mapping[str, Any]) -> Problem:
    """A problem of one order as one of the grid, with the combination that it is about."""
    path = f"grid[{i}]" if problem.path in ("SmartOrder", "order") else f"grid[{i}].{problem.path}"
    made_of = ", ".join(f"{name}={label(value)}" for name, value in row.items())
    return Problem(
        path,
        problem.value,
        f"{problem.rule} (in {made_of if len(made_of) < 120 else made_of[:119] + '…'})",
        problem.fix,
    )


# --- values as text ----------------------------------------------------------------------------------------------------

_LEFT = object()
"""A field that a combination leaves as it was."""


def label(value: Any) -> str:
    """A value of a grid as short text."""
    if isinstance(value, Part):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return " ".join(f"{name}={label(item)}" for name, item in value.items()) or "on"
    if isinstance(value, (list, tuple)):
        return (
            " ".join(":".join(map(label, item)) if isinstance(item, (list, tuple)) else label(item) for item in value)
            or "none"
        )
    if value is None or isinstance(value, bool):
        return {None: "none", True: "on", False: "off"}[value]
    return plain(value) if isinstance(value, Decimal) else str(value)


def _column(name: str, values: list[Any]) -> pl.Series:
    given = [value for value in values if value is not _LEFT]
    for kinds, dtype in (((bool,), pl.Boolean), ((int,), pl.Int64), ((int, float, Decimal), pl.Float64)):
        if given and all(isinstance(v, kinds) and (isinstance(v, bool) == (kinds == (bool,))) for v in given):
            return pl.Series(
                name, [None if v is _LEFT else v if dtype != pl.Float64 else float(v) for v in values], dtype
            )
    texts: dict[str, str] = {}
    seen: set[str] = set()
    for value in given:
        full = label(value)
        if full not in texts:
            short_ = full if len(full) <= _LABEL else full[: _LABEL - 1] + "…"
            texts[full] = short_ if short_ not in seen else f"{short_} #{len(seen)}"
            seen.add(texts[full])
    return pl.Series(name, [None if v is _LEFT else texts[label(v)] for v in values], pl.String)
