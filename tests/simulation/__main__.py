"""The command line; see the package's own page."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from . import __doc__ as page
from .runs import BROKEN, Result, _catch, exhaust, run_seed, side_by_side, simulate

ENOUGH = 300
"""Seeds after which everything in SOMETIMES has to have come about."""
SHOWN = 5


def main() -> int:
    """0 if all held."""
    parser = argparse.ArgumentParser(
        "python -m tests.simulation", description=page, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=300, help="how many (300)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--steps", type=int, default=300, help="steps of each, before all comes to its end (300)")
    parser.add_argument("--workers", type=int, default=2, help="processes (2)")
    parser.add_argument(
        "--exhaustive",
        type=int,
        default=0,
        metavar="N",
        help="kill N seeds once at each point, with and without faults",
    )
    parser.add_argument("--mutants", action="store_true", help="how many of the seeds catch each broken book")
    parser.add_argument("--kill-at", type=int, default=0, help="repeat a run of --exhaustive")
    parser.add_argument(
        "--broker", choices=("paper", "live"), default="paper", help="the paper broker, or the live one (paper)"
    )
    parser.add_argument("--quiet", action="store_true", help="without faults, as half of --exhaustive")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell every step; for one seed")
    args = parser.parse_args()
    logging.getLogger("smartorders_lab").setLevel(logging.ERROR)  # what it warns of is what happens here
    if args.verbose or args.kill_at or args.quiet:
        world, result = run_seed(
            args.first,
            args.steps,
            args.kill_at,
            quiet=args.quiet,
            crashes=not args.quiet,
            say=args.verbose,
            broker=args.broker,
        )
        print(f"seed {args.first}: {world.plan}")
        return finish(result, False)
    if args.mutants:
        return mutants(args.first, args.seeds, args.steps, args.workers, args.broker)
    if args.exhaustive:
        tasks = [(seed, args.steps) for seed in range(args.first, args.first + args.exhaustive)]
        return finish(together(exhaust, tasks, args.workers), False)
    tasks = [(seed, args.steps, args.broker) for seed in range(args.first, args.first + args.seeds)]
    return finish(together(simulate, tasks, args.workers), args.seeds >= ENOUGH, args.broker)


def together(work: Callable[[Any], Result], tasks: Sequence[Any], workers: int) -> Result:
    """All tasks, with a word on how far they are every few seconds."""
    total, begun, said = Result(), time.monotonic(), time.monotonic()
    for n, result in enumerate(side_by_side(work, tasks, workers), 1):
        for text in result.violations[: max(0, SHOWN - len(total.violations))]:
            print(text, flush=True)
        total.add(result)
        now = time.monotonic()
        if now - said > 10 or n == len(tasks):
            said = now
            pace = total.happened / (now - begun)
            print(
                f"{n} of {len(tasks)} seeds, {pace:.0f} steps/s, {len(total.violations)} violations",
                file=sys.stderr,
                flush=True,
            )
    return total


def finish(result: Result, everything: bool, broker: str = "paper") -> int:
    """The table, and the exit code."""
    if len(result.violations) == 1:
        print(result.violations[0])
    print(result)
    missing = result.missing(broker) if everything else []
    for name in missing:
        print(f"never came about: {name}")
    return 1 if result.violations or missing else 0


def mutants(first: int, seeds: int, steps: int, workers: int, broker: str) -> int:
    """Each broken book, and how many seeds catch it."""
    missed = 0
    tasks = [(name, first, seeds, steps, broker) for name in BROKEN[broker]]
    for name, (caught, tried, text) in side_by_side(_catch, tasks, workers):
        missed += not caught
        print(f"{name:26} caught by {caught} of {tried} seeds  {text[:120]}", flush=True)
    print(f"{len(tasks) - missed} of {len(tasks)} caught")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
