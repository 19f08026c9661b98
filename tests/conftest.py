"""What tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("SMARTORDERS_DATA") or Path(__file__).parents[2] / "shared" / "data")
"""Real market data; see SOURCES.md there."""


@pytest.fixture(scope="session")
def market_data() -> Path:
    """The folder of real market data; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no market data at {DATA}: set SMARTORDERS_DATA to the folder that holds it")
    return DATA
