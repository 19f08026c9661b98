"""Rows of the table, and how their times are taken."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

NOT_YET = "not there yet"


@dataclass
class Row:
    """One line: what was done, on how much, what it cost us, what the reference is and cost, the ratio and what it should be."""

    work: str
    size: str
    ours: str
    reference: str = ""
    ratio: float | None = None
    target: str = ""
    reached: bool | None = None


@dataclass
class Timed:
    """The best time of a function, in seconds, and what it returned."""

    seconds: float
    value: Any


def race(rounds: int, *functions: Callable[[], Any]) -> list[Timed]:
    """The best of `rounds` of each, taken in turns: what disturbs one disturbs the others. The first call of each (which
    compiles) does not count."""
    timed = [Timed(float("inf"), function()) for function in functions]
    for _ in range(rounds):
        for one, function in zip(timed, functions, strict=True):
            before = time.perf_counter()
            function()
            one.seconds = min(one.seconds, time.perf_counter() - before)
    return timed


def faster(work: str, size: str, ours: float, reference: float, name: str, at_least: float | None = None) -> Row:
    """A row whose ratio is how many times faster we are than the reference."""
    ratio = reference / ours
    target = "" if at_least is None else f"≥ {at_least:,g} ×"
    reached = None if at_least is None else ratio >= at_least
    return Row(work, size, span(ours), f"{name}: {span(reference)}", ratio, target, reached)


def costs(work: str, size: str, ours: float, reference: float, name: str, at_most: float | None = None) -> Row:
    """A row whose ratio is how many times the reference we cost."""
    ratio = ours / reference
    target = "" if at_most is None else f"≤ {at_most:,g} ×"
    reached = None if at_most is None else ratio <= at_most
    return Row(work, size, span(ours), f"{name}: {span(reference)}", ratio, target, reached)


def within(work: str, size: str, ours: str, value: float, limit: float, target: str, reference: str = "") -> Row:
    """A row with a limit of its own instead of a ratio."""
    return Row(work, size, ours, reference, None, target, value <= limit)


def span(seconds: float) -> str:
    """Seconds, as one reads them."""
    for unit, scale in (("s", 1), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:,.3g} {unit}" if seconds / scale < 1000 else f"{seconds / scale:,.0f} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def count(number: float) -> str:
    """A count, as one reads it: 10,000 or 200 M."""
    return f"{number / 1e6:g} M" if number >= 1e6 else f"{number:,.0f}"


def show(rows: Iterable[Row], console: Console | None = None) -> None:
    """Print the table."""
    table = Table(title="smartorders_lab, and what else does the same work", title_justify="left")
    for name, justify in (("work", "left"), ("size", "left"), ("ours", "right"), ("reference", "left")):
        table.add_column(name, justify=justify, overflow="fold")
    for name in ("ratio", "target", "reached"):
        table.add_column(name, justify="right", no_wrap=True)
    previous = None
    for row in rows:
        if previous is not None and row.work != previous:
            table.add_section()
        ratio = "" if row.ratio is None else f"{row.ratio:,.3g} ×" if row.ratio < 1000 else f"{row.ratio:,.0f} ×"
        reached = "" if row.reached is None else "[green]yes[/]" if row.reached else "[red]no[/]"
        work = "" if row.work == previous else row.work
        table.add_row(work, row.size, row.ours, row.reference, ratio, row.target, reached)
        previous = row.work
    (console or Console(width=None if sys.stdout.isatty() else 180)).print(table)


def plain(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows as data."""
    return [asdict(row) for row in rows]
