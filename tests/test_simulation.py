"""A session in a world where everything goes wrong keeps its promises; see simulation/__init__.py. `make simulate` runs many more seeds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulation.live_mutants import LIVE_MUTANTS
from simulation.mutants import MUTANTS
from simulation.runs import Result, catch, exhaust, run_seed, simulate

HERE = Path(__file__).parent
STEPS = 150
FIRST = {
    "cancel_is_proof": 20,
    "first_sending_counts": 18,
    "forgotten_is_absent": 15,
    "one_look": 14,
    "repeats_the_unwanted": 53,
    "restart_forgets_fills": 4,
    "two_workers": 69,
}
"""A seed that catches a broken broker, so that it is tried first."""


def regressions() -> Iterator[tuple[int, int, str]]:
    """Seed, steps and broker of each line."""
    for line in (HERE / "regressions.txt").read_text().splitlines():
        words = line.partition("#")[0].split()
        if words:
            yield int(words[0]), int(words[1]), words[2] if len(words) > 2 else "paper"


def hold(result: Result) -> None:
    assert not result.violations, "\n".join(result.violations[:3])


@pytest.mark.parametrize("part", range(6))
def test_everything_holds_whatever_happens(part: int) -> None:
    total = Result()
    for seed in range(40 * part, 40 * part + 40):
        total.add(simulate((seed, STEPS)))
    hold(total)
    assert total.counts["crashes"] > 40, "this tests less than it should"
    assert total.asserted > 100_000, "this checks less than it should"


@pytest.mark.parametrize("part", range(2))
def test_everything_holds_at_an_exchange(part: int) -> None:
    total = Result()
    for seed in range(10 * part, 10 * part + 10):
        total.add(simulate((seed, 100, "live")))
    hold(total)
    assert total.counts["crashes"] > 5, "this tests less than it should"
    assert total.counts["told: filled"] > 50, "this tests less than it should"
    assert total.asserted > 50_000, "this checks less than it should"


@pytest.mark.parametrize("seed", [1, 3, 8])
def test_killed_at_every_third_point(seed: int) -> None:
    result = exhaust((seed, 16), stride=3)
    hold(result)
    assert result.runs > 40, "this kills less than it should"


@pytest.mark.parametrize(("seed", "steps", "broker"), [*regressions()])
def test_what_went_wrong_once(seed: int, steps: int, broker: str) -> None:
    hold(simulate((seed, steps, broker)))


def test_a_seed_is_the_same_every_time() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from simulation.runs import simulate\n"
        "print(*[simulate((seed, 60, broker)).digests[seed] for broker in ('paper', 'live') for seed in range(5)])"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code, str(HERE)],
            env={"PYTHONHASHSEED": n},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n in ("1", "2")
    }
    assert len(runs) == 1
    assert len(set(runs.pop().split())) == 10


@pytest.mark.parametrize("name", MUTANTS)
def test_broken_books_are_caught(name: str) -> None:
    caught, tried, _ = catch(name, range(150), STEPS)
    assert caught, f"{name} broke the book in {tried} runs and nobody saw it"


@pytest.mark.parametrize("name", LIVE_MUTANTS)
def test_broken_brokers_are_caught(name: str) -> None:
    first = FIRST.get(name, 0)
    caught, tried, _ = catch(name, [first, *range(150)], STEPS, broker="live")
    assert caught, f"{name} broke the broker in {tried} runs and nobody saw it"


def test_a_violation_says_how_to_repeat_it() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smartorders_lab.outliers.Guard.believe", MUTANTS["no_guard"]()[0][2])
        texts = [text for seed in range(20) for text in run_seed(seed, STEPS)[1].violations]
    assert texts
    assert "--seeds 1 --steps 150 -v" in texts[0]
    assert "feed" in texts[0]
