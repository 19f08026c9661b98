"""Every example runs from a shell, says something, and stays quiet about everything else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAST_LINES = {
    "first_replay.py": "worst moment",
    "manage_a_living_order.py": "CLOSED by close_at_market",
    "bars_and_bounds.py": "60 min bars",
    "sweep.py": "walk-forward over 5 folds",
    "paper.py": "kept in out/paper.duckdb",
    "demo.py": "every event is in out/demo.duckdb",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Examples and data on their own, so that what an example writes does not land in the repository."""
    folder = tmp_path_factory.mktemp("kit")
    for name in ("examples", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def shell(folder: Path, *command: str | Path) -> str:
    strict = {**os.environ, "PYTHONWARNINGS": "error", "COLUMNS": "120"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=strict, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_every_script_is_listed() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(LAST_LINES)


@pytest.mark.parametrize("name", LAST_LINES)
def test_script(copy: Path, name: str) -> None:
    said = shell(copy, sys.executable, copy / "examples" / name).splitlines()
    assert len(said) > 3
    assert LAST_LINES[name] in said[-1]


def test_the_demo_runs_again(copy: Path) -> None:
    shell(copy, sys.executable, copy / "examples" / "demo.py")
    assert (copy / "out" / "demo.duckdb").stat().st_size > 100_000
    assert "plotly.js v" in (copy / "out" / "demo.html").read_text("utf-8")


def test_plan(copy: Path) -> None:
    said = shell(copy, Path(sys.executable).with_name("smartorders"), "replay", copy / "examples" / "plan.toml")
    assert "144" in said
    assert "exit reason" in said


def test_sweep_plan(copy: Path) -> None:
    said = shell(copy, Path(sys.executable).with_name("smartorders"), "sweep", copy / "examples" / "sweep.toml")
    assert "24 combinations tried, by expectancy" in said
    assert "by luck (p = " in said
