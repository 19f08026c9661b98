"""A few lives with a fault on the way, and live sessions that are killed; `live_faults.py` and `killing.py --live` run many."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

pytest.importorskip("ccxt")

from live_faults import known_faults, run, sweep, table
from live_killing import live_killing

from smartorders_lab.brokers.venues import FACTS

ENDS = [
    [0, "STOPPED", "trailing_stop"],
    [1, "CLOSED", "close_at_market"],
    [2, "CLOSED", "close_at_market"],
    [3, "CANCELLED", "cancelled"],
]
SOME = [
    ("binance", "524 before", "trades", 3),
    ("binance", "500 after", "create", 2),
    ("bybit", "closed after", "create", 3),
    ("okx", "reset after", "create", 2),
    ("okx", "html after", "order", 2),
    ("gate", "truncated after", "create", 2),
    ("bitget", "unknown0 after", "create", 4),
    ("bitget", "empty after", "trades", 1),
    ("kucoin", "late before", "create", 2),
    ("kraken", "unknown0 after", "create", 2),
    ("kraken", "braces after", "cancel", 1),
    ("coinbase", "broken after", "create", 5),
    ("coinbase", "nonce before", "create", 1),
]
"""Which request of which kind meets which fault. The second order that is created buys at once: done twice it would be bought twice."""


@pytest.mark.parametrize(("venue", "fault", "kind", "nth"), SOME)
def test_a_fault_changes_nothing(venue: str, fault: str, kind: str, nth: int) -> None:
    assert fault in known_faults(venue)
    done = run(venue, fault, nth, ENDS, kind)
    assert not done.violation, done.violation
    assert done.met == kind
    assert done.seen["children"] == 10


RESTING = [
    ("levels", "binance", "500 after", "create", 2),
    ("levels", "okx", "reset after", "create", 3),
    ("levels", "kraken", "empty after", "cancel", 1),
    ("levels", "bitget", "closed after", "order", 5),
    ("stops", "bybit", "reset after", "create", 3),
    ("stops", "gate", "html after", "create", 2),
    ("stops", "kucoin", "429 before", "cancel", 2),
    ("stops", "coinbase", "closed after", "cancel", 2),
]
"""The same with levels, or protective stops, that rest at the exchange."""
RESTING_ENDS = {
    "levels": [[0, "STOPPED", "break_even"], [1, "CLOSED", "close_at_market"], [2, "CLOSED", "take_profit"]],
    "stops": [[0, "STOPPED", "trailing_stop"], [1, "STOPPED", "stop_loss"], [2, "CLOSED", "close_at_market"]],
}
"""How its orders end."""


@pytest.mark.parametrize(("rests", "venue", "fault", "kind", "nth"), RESTING)
def test_a_fault_changes_nothing_of_what_rests(rests: str, venue: str, fault: str, kind: str, nth: int) -> None:
    done = run(venue, fault, nth, RESTING_ENDS[rests], kind, rests)
    assert not done.violation, done.violation
    assert done.met == kind


def test_all_eight_are_there() -> None:
    assert {venue for venue, *_ in SOME} == set(FACTS)
    assert {venue for _, venue, *_ in RESTING} == set(FACTS)


def test_a_sweep_goes_on_where_it_was(tmp_path: Path) -> None:
    log, said = tmp_path / "runs.jsonl", list[str]()
    (first,) = sweep(["okx"], ["reset after"], 100, 0, log, said.append)
    assert (first.nth, first.met, first.violation) == (1, "balance", "")
    wrong = dataclasses.asdict(first) | {"violation": "oh"}
    log.write_text(json.dumps(wrong) + "\n")
    runs = sweep(["okx"], ["reset after"], 100, 0, log, said.append)
    assert [one.violation for one in runs] == ["oh"], "it is not run again"
    assert table(runs).splitlines()[-2].split()[:-1] == ["all", "1", "1", "1", "1", "11", "0", "1"]


def test_kills_of_live_sessions(tmp_path: Path) -> None:
    """SMARTORDERS_KILLS says how many; `python tests/killing.py --live` is the long run over all eight."""
    kills = int(os.environ.get("SMARTORDERS_KILLS", "8")) // 2
    seen = live_killing(tmp_path, kills, ["bybit", "gate", "kraken", "coinbase"], note=lambda text: None)
    assert seen["kills"] == kills
    assert seen["children"] > 0
