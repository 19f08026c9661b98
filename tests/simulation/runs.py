"""Many seeds, one after another or side by side; what came of them."""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, get_args

import numpy as np

from smartorders_lab.actions import Kind as Action
from smartorders_lab.rows import EVENT

from .checks import Violation
from .live import LiveWorld
from .live_mutants import LIVE_MUTANTS
from .mutants import MUTANTS, broken
from .venue import FAULTS
from .world import World, bare

SOMETIMES = (
    *(f"fault: submit {name}" for name in ("lost", "delayed", "unheard", "twice", "partial", "refused", "poor")),
    *(f"fault: cancel {name}" for name in ("lost", "delayed", "unheard", "twice")),
    *("fault: query fails", "fault: query blind", "fault: match twice", "fault: report twice", "fault: broker raises"),
    *("fault: arrived late", "fault: arrived too late", "fault: cancelled by the venue", "fault: disk full"),
    *("fault: feed down", "fault: reports lost", "fault: old tick", "fault: wick", "fault: clock set"),
    *(f"crash: {side} {what}" for side in ("before", "after") for what in ("append", "snapshot", "compact")),
    *(f"crash: {what} {side}" for side in ("before", "after") for what in ("submit", "cancel", "match", "query")),
    *(
        f"crash: {site} on resuming"
        for site in ("before append", "after append", "query before", "query after", "submit after")
    ),
    "crash: before telling",
    *(
        f"branch: {name}"
        for name in ("compact", "snapshot", "exit refused", "late ticks", "reports heard", "sent again")
    ),
    *(f"entry: {name}" for name in ("market", "limit", "stop", "trailing", "ladder", "held")),
    *(f"end: closed/{n}" for n in (2, 3, 7, 8)),
    *(f"end: stopped/{n}" for n in (4, 5, 6)),
    *(f"end: cancelled/{n}" for n in (13, 14, 15)),
    *(f"user: {name}" for name in (*get_args(Action), "StaleVersion")),
)
"""What has to come about in some seed, or the simulation does not test what it says."""
_PAPER_ONLY = ("fault: submit", "fault: cancel twice", "fault: query", "fault: match", "fault: report", "fault: broker")
SOMETIMES_LIVE = (
    *(
        name
        for name in SOMETIMES
        if not name.startswith((*_PAPER_ONLY, "crash: match", "crash: query", "crash: submit"))
    ),
    *(f"fault: {what} {name}" for what, names in FAULTS.items() if what != "balances" for name in names),
    *(
        "fault: came twice",
        "fault: outage",
        "fault: find blind",
        "fault: forgotten",
        "fault: in neither list",
        "fault: halted",
    ),
    *("fault: cancel loses the race", "fault: remainder cancelled", "fault: trades do not add up yet"),
    *(f"crash: worker {what}" for what in ("begins", "create", "find", "trades", "cancel", "pause")),
    *(f"crash: {what}" for what in ("submit before", "submit after", "query before", "create before", "create after")),
    *(f"told: {what}" for what in ("accepted", "filled", "cancelled", "rejected", "absent")),
    *(f"branch: {what}" for what in ("repeated", "start waits")),
)
"""The same with the live broker."""


@dataclass
class Result:
    """What came of one seed, or of many."""

    runs: int = 0
    happened: int = 0
    asserted: int = 0
    points: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    digests: dict[int, str] = field(default_factory=dict)

    def add(self, other: Result) -> None:
        """Together."""
        self.runs += other.runs
        self.happened += other.happened
        self.asserted += other.asserted
        self.points += other.points
        self.counts += other.counts
        self.violations += other.violations
        self.digests |= other.digests

    def missing(self, broker: str = "paper") -> list[str]:
        """What should have come about and did not."""
        wanted = SOMETIMES if broker == "paper" else SOMETIMES_LIVE
        return [name for name in wanted if not self.counts[name]]

    def __str__(self) -> str:
        sums = Counter[str]()
        for name, number in self.counts.items():
            sums[name.partition(":")[0]] += number
        text = f"{self.runs} runs, {self.happened} steps, {self.asserted} checks, {self.points} points to be killed at"
        rows = [f"  {name:42} {self.counts[name]:>9}" for name in sorted(self.counts)]
        return "\n".join([text, *rows, f"{len(self.violations)} violations"])


WORLDS: dict[str, type[World]] = {"paper": World, "live": LiveWorld}
BROKEN = {"paper": MUTANTS, "live": LIVE_MUTANTS}


def command(seed: int, steps: int, kill_at: int = 0, quiet: bool = False, broker: str = "paper") -> str:
    """What repeats a run."""
    more = (f" --kill-at {kill_at}" if kill_at else "") + (" --quiet" if quiet else "")
    more += f" --broker {broker}" if broker != "paper" else ""
    return f"python -m tests.simulation --first {seed} --seeds 1 --steps {steps}{more} -v"


def run_seed(
    seed: int,
    steps: int,
    kill_at: int = 0,
    crashes: bool = True,
    quiet: bool = False,
    say: bool = False,
    broker: str = "paper",
) -> tuple[World, Result]:
    """One run; a violation is told with what happened last and how to repeat it."""
    world = WORLDS[broker](seed, kill_at, crashes, quiet, say)
    violations = []
    try:
        world.run(steps)
    except Violation as violation:
        last = "\n".join(f"    {line[:200]}" for line in world.trail)
        again = command(seed, steps, kill_at, quiet, broker)
        violations.append(f"seed {seed}: {violation}\n  {world.plan}\n{last}\n  {again}")
    finally:
        world.close()
    digest = {} if violations else {seed: world.digest()}
    return world, Result(1, world.happened, world.checks.asserted, world.points, world.counts, violations, digest)


def simulate(task: tuple[int, int] | tuple[int, int, str]) -> Result:
    """One seed with its faults and its crashes: seed, steps, and the broker (paper)."""
    seed, steps, *broker = task
    return run_seed(seed, steps, broker=broker[0] if broker else "paper")[1]


def exhaust(task: tuple[int, int], stride: int = 1) -> Result:
    """One seed with its faults, killed once at every point (or every so many); and again without faults, where that must change nothing."""
    seed, steps = task
    total = Result()
    for quiet in (False, True):
        world, result = run_seed(seed, steps, crashes=False, quiet=quiet)
        total.add(result)
        unharmed = outcome(world) if quiet and not result.violations else None
        for kill_at in range(1, world.points + 1, stride):
            other, result = run_seed(seed, steps, kill_at, quiet=quiet)
            if unharmed is not None and not result.violations and (text := _difference(unharmed, outcome(other))):
                where = command(seed, steps, kill_at, quiet)
                result.violations.append(
                    f"seed {seed}: killed at point {kill_at} it comes to something else: {text}\n  {where}"
                )
            total.add(result)
    total.digests.clear()
    return total


def outcome(world: World) -> tuple[np.ndarray, list[Any]]:
    """All events and the rows of all orders."""
    found = np.concatenate(world.journal._events)
    events = np.zeros(len(found), EVENT)
    for name in EVENT.names or ():
        events[name] = found[name]
    assert world.book is not None
    return events, [bare(world.book, number) for number in world.book.specs]


def _difference(a: tuple[np.ndarray, list[Any]], b: tuple[np.ndarray, list[Any]]) -> str:
    for was, now in zip(a[0], b[0], strict=False):
        if was.tobytes() != now.tobytes():
            return f"event {was} became {now}"
    if len(a[0]) != len(b[0]):
        return f"{len(a[0])} events became {len(b[0])}"
    return "" if a[1] == b[1] else "the orders differ"


def catch(
    name: str, seeds: Sequence[int], steps: int, all_of_them: bool = False, broker: str = "paper"
) -> tuple[int, int, str]:
    """How many of the seeds catch a mutant, of how many that were tried, and what the first said."""
    caught, first = 0, ""
    with broken(BROKEN[broker][name]):
        for tried in count(1):
            if tried > len(seeds):
                break
            _, result = run_seed(seeds[tried - 1], steps, broker=broker)
            if result.violations:
                caught += 1
                first = first or result.violations[0].partition("\n")[0]
                if not all_of_them:
                    return caught, tried, first
    return caught, len(seeds), first


def _catch(task: tuple[str, int, int, int, str]) -> tuple[str, tuple[int, int, str]]:
    name, begin, seeds, steps, broker = task
    return name, catch(name, range(begin, begin + seeds), steps, True, broker)


def side_by_side(work: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> Iterator[Any]:
    """The results in order, computed by so many processes."""
    if workers == 1:
        yield from map(work, tasks)
        return
    with multiprocessing.get_context("fork" if sys.platform != "win32" else "spawn").Pool(workers) as pool:
        yield from pool.imap(work, tasks, chunksize=1)
