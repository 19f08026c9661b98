"""What is not replay: writing results into DuckDB, importing, and the first replay on a fresh machine."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count as numbers
from pathlib import Path

from . import ours
from .orders import SHAPES
from .scale import Scale
from .table import Row, costs, race, span, within
from .tape import starts, tape


def storing(scale: Scale) -> Iterator[Row]:
    """Store.save of a whole run, next to DuckDB copying its largest frame into a bare table."""
    import duckdb

    import smartorders_lab as so

    n = max(scale.orders[0][1] // 2, 20_000)
    run = ours.replay(SHAPES["0.005"], tape(n), starts(scale.stored, n))
    events = run.events
    with tempfile.TemporaryDirectory() as folder:
        names = numbers()

        def save() -> None:
            with so.Store(Path(folder) / f"{next(names)}.duckdb") as store:
                store.save(run)

        def copy() -> None:
            with duckdb.connect(str(Path(folder) / f"{next(names)}.duckdb")) as connection:
                connection.register("frame", events.to_arrow())
                connection.execute("CREATE TABLE events AS SELECT * FROM frame")

        saved, copied = race(min(scale.rounds, 3), save, copy)
        with so.Store(Path(folder) / "0.duckdb", read_only=True) as store:
            if not store.frame("events", run.id).equals(events):
                raise AssertionError("the events read back differ")
    rate = events.height / saved.seconds
    target = 1e6 if events.height > 1_000_000 else 0
    size = f"a run of {scale.stored:,} orders, {events.height:,} events"
    bare = f"bare copy of the events: {events.height / copied.seconds / 1e6:.3g} M/s"
    mine = f"{span(saved.seconds)}, {rate / 1e6:.3g} M events/s"
    yield Row(
        "DuckDB",
        size,
        mine,
        bare,
        saved.seconds / copied.seconds,
        "≥ 1 M/s" if target else "",
        rate >= target if target else None,
    )


_IMPORT = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
_READY = "import smartorders_lab as so; so.replay, so.Ticks"
_REPLAY = """
import time
begin = time.perf_counter()
import smartorders_lab as so
so.replay, so.Ticks, so.SmartOrder
loaded = time.perf_counter()
ticks = so.Ticks.from_arrays([1, 2, 3], [100.0, 100.5, 103.0], unit="s")
so.replay(so.SmartOrder(symbol="A/B", side="buy", quantity=1, take_profits=[("+2%", 100)], stop_loss="-5%"), ticks)
print(time.perf_counter() - loaded, loaded - begin)
"""


def importing(scale: Scale) -> Iterator[Row]:
    """Imports and first replays, each in a process of its own."""
    mine, ready, base = [], [], []
    for _ in range(scale.processes + 1):  # the first one fills the file cache
        mine.append(_python(_IMPORT.format("import smartorders_lab"))[0])
        ready.append(_python(_IMPORT.format(_READY))[0])
        base.append(_python(_IMPORT.format("import numpy, numba"))[0])
    yield costs("import", "smartorders_lab", min(mine), min(base), "numpy, numba", 2)
    yield costs("import", "with replay and Ticks", min(ready), min(base), "numpy, numba", 2)
    with tempfile.TemporaryDirectory() as cache:
        first = sum(_python(_REPLAY, cache))
        later = [_python(_REPLAY, cache) for _ in range(scale.processes)]
    yield within("first replay", "fresh cache, import and compiler included", span(first), first, 15, "≤ 15 s")
    beyond, loading = min(later)
    yield within(
        "first replay",
        "later process, beyond the import",
        span(beyond),
        beyond,
        1,
        "≤ 1 s",
        f"the import: {span(loading)}",
    )


def _python(code: str, cache: str | None = None) -> list[float]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if cache is not None:
        environment["SMARTORDERS_CACHE"] = cache
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return [float(value) for value in done.stdout.split()]
