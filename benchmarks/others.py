"""The same work by other backtesters, in an environment of their own: `python -m benchmarks.others` makes it (benchmarks/.venv-others,
a few hundred MB from the package registry), runs them, and leaves figures that `python -m benchmarks` merges into its table."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .scale import QUICK, Scale
from .table import Row, count, show, span

HERE = Path(__file__).parent
VENV = HERE / ".venv-others"
RESULTS = VENV / "results.json"
REQUIREMENTS = ("vectorbt==1.2.0", "vectorbt-rust==1.2.0", "hftbacktest==2.4.2", "backtesting==0.6.6")
_AT_LEAST = {"vectorbt": 1_000, "hftbacktest": 20}


def rows(scale: Scale) -> Iterator[Row]:
    """Ours on the work that the others were given, and how many times faster that is."""
    from .orders import plain

    if not RESULTS.exists():
        yield Row("other backtesters", "", "", "not measured: python -m benchmarks.others")
        return
    found = json.loads(RESULTS.read_text())
    number, n, seconds = plain(scale)
    mine, size = number / seconds, f"{number:,} orders × {count(n)} ticks: stop, target, trailing stop"
    for one in found["orders"]:
        if (number, n) != (found["number"], found["n"]):
            continue
        reference = f"{one['name']}: {per_second(one['rate'])}; {one['note']}"
        ratio, least = mine / one["rate"], _AT_LEAST.get(one["name"].split()[0])
        target, reached = (f"≥ {least:,} ×", ratio >= least) if least else ("", None)
        yield Row("other backtesters", size, f"{span(seconds)}, {per_second(mine)}", reference, ratio, target, reached)
    yield from shown(found, ("combinations", "ladder"))


def shown(found: dict[str, Any], parts: tuple[str, ...]) -> Iterator[Row]:
    """What they did, without us."""
    what = {
        "orders": f"{found['number']:,} orders × {count(found['n'])} ticks",
        "combinations": f"{found['entries']:,} entries × 100 combinations, {count(found['n'])} ticks",
        "ladder": f"one order with 3 levels over {count(found['n'])} ticks",
    }
    for part in parts:
        for one in found[part]:
            reference = f"{one['name']}: {per_second(one['rate'])}; {one['note']}"
            yield Row("other backtesters", what[part], "", reference)


def per_second(rate: float) -> str:
    """Orders a second, as one reads them."""
    return f"{rate:,.3g} orders/s" if rate < 100 else f"{rate:,.0f} orders/s"


def measure(work: dict[str, int]) -> dict[str, Any]:
    """Run all of them; returns what they found."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    part = RESULTS.with_suffix(".part")
    command = [str(python), "-m", "benchmarks.others_work", str(part), json.dumps(work)]
    subprocess.run(command, check=True, cwd=HERE.parent)
    part.replace(RESULTS)
    return dict(json.loads(RESULTS.read_text()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser("python -m benchmarks.others", description=__doc__)
    parser.add_argument("--toy", action="store_true", help="only to see that it runs")
    toy = parser.parse_args().toy
    number, n, _, _ = QUICK.orders[0]
    work = {"number": number, "n": n, "entries": QUICK.sweeps[0][0]}
    found = measure({"number": 100, "n": 20_000, "entries": 10} if toy else work)
    print(", ".join(f"{name} {version}" for name, version in found["versions"].items()))
    show(shown(found, ("orders", "combinations", "ladder")))
    for name, text in found["cannot"].items():
        print(f"{name}: {text}")


if __name__ == "__main__":
    main()
