"""What tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DATA = Path(os.environ.get("SMARTORDERS_DATA") or Path(__file__).parents[2] / "shared" / "data")
"""Real market data; see SOURCES.md there."""


@pytest.fixture(scope="session")
def market_data() -> Path:
    """The folder of real market data; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no market data at {DATA}: set SMARTORDERS_DATA to the folder that holds it")
    return DATA


@pytest.fixture(autouse=True)
def _sessions_are_replays(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every session that a test has run, here or in a process that left a store in `tmp_path`, is verified when the test is over.

    A test that damages a store, or the code between a session and its journal, says so: `@pytest.mark.unverified`.
    """
    if request.node.get_closest_marker("unverified"):
        yield
        return
    from smartorders_lab import session as module

    journals: list[Any] = []
    begin = module.Session.__init__

    def remembered(self: Any, journal: Any, *args: Any, **more: Any) -> None:
        begin(self, journal, *args, **more)
        journals.append(journal)

    monkeypatch.setattr(module.Session, "__init__", remembered)
    yield
    monkeypatch.undo()
    from smartorders_lab.journal import MemoryJournal
    from smartorders_lab.store import Store
    from smartorders_lab.verify import verify

    verdicts = [verify(journal) for journal in journals if isinstance(journal, MemoryJournal)]
    for path in request.node.funcargs["tmp_path"].rglob("*.duckdb") if "tmp_path" in request.node.funcargs else ():
        with Store(path, read_only=True) as store:
            verdicts += [verify(store, id) for id in store.sessions()["session"]]
    for verdict in verdicts:
        assert verdict.ok, verdict
