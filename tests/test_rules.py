"""The tables of rules, once against the oracle and once against the kernel, and what no order may ever do."""

from __future__ import annotations

from decimal import Decimal

import kernel_run
import pytest
from hypothesis import assume, given, settings
from oracle import FINAL, Event, Result, replay_one
from rule_table import Row, events_text, read_row, rows
from strategies import Case, cases

from smartorders_lab.errors import SpecError

ROWS = rows()
every_row = pytest.mark.parametrize("row", ROWS, ids=[row.why for row in ROWS])


def oracle_result(row: Row | Case) -> Result:
    return replay_one(row.order, row.instrument, row.ticks, row.fills, row.actions, row.start, row.poll_interval)


def kernel_events(row: Row) -> list[Event]:
    """The events of `so.replay` on a row."""
    return kernel_run.replay(row).events


@every_row
def test_oracle(row: Row) -> None:
    assert events_text(row, oracle_result(row).events) == row.expected, row.where


@every_row
def test_kernel(row: Row) -> None:
    assert events_text(row, kernel_events(row)) == row.expected, row.where


@every_row
def test_invariants(row: Row) -> None:
    check_invariants(row, oracle_result(row))


@settings(max_examples=200, deadline=None)
@given(cases())
def test_invariants_of_random_orders(case: Case) -> None:
    try:
        result = oracle_result(case)
    except SpecError:  # one edit of a script may not fit what another has left
        assume(False)
    check_invariants(case, result)


def check_invariants(row: Row | Case, result: Result) -> None:
    """Never sells more than it holds, the stop never falls by itself, the end is the end."""
    long = row.order.direction > 0
    held, stop, moved = Decimal(0), None, True
    for seq, event in enumerate(result.events):
        assert event.seq == seq
        assert (event.status in FINAL) == (event.kind == "ended"), event
        if event.kind in ("held", "filled"):
            enters = event.role in ("entry", "add_funds")
            held += event.quantity if enters else -event.quantity
            assert held >= 0, event
            moved |= enters
        moved |= event.kind == "action" and event.role == "edit"
        if stop is not None and not moved:
            assert event.stop is not None, event
            assert event.stop >= stop if long else event.stop <= stop, event
        stop, moved = event.stop, False
        if event.kind == "ended":
            assert seq == len(result.events) - 1, event
    assert 0 <= result.held <= result.entered <= result.bought
    if result.status in ("CLOSED", "STOPPED"):
        assert result.held == 0
        assert result.exit_reason is not None


def result_of(row: str) -> Result:
    return oracle_result(read_row(f"- | {row} | -"))


def event_of(row: str, kind: str) -> Event:
    return next(event for event in result_of(row).events if event.kind == kind)


def test_the_ladder_ends_with_three_of_three() -> None:
    result = result_of("long 4 @100 sl=95 tp=105:40,110:35,120:25 | | 100 105 110 120")
    assert [level.status for level in result.levels] == ["FILLED"] * 3
    assert result.realized_pnl == Decimal("1.6") * 5 + Decimal("1.4") * 10 + 1 * 20
    assert (result.mae, result.mfe) == (0, Decimal("0.2"))


def test_profit_counts_all_fees() -> None:
    result = result_of("long 4 @100 sl=95 tp=110:100 | fee=1% | 100 110")
    assert result.fees == 4 + Decimal("4.4")
    assert result.realized_pnl == 40 - Decimal("8.4")


def test_a_fee_in_coins_costs_what_it_costs_in_quote() -> None:
    result = result_of("long 4 @100 sl=95 tp=110:100 | fee=1% base | 100 110")
    assert result.realized_pnl == Decimal("3.96") * 110 * Decimal("0.99") - 400


def test_a_short_gains_when_it_falls() -> None:
    result = result_of("short 4 @100 sl=105 tp=90:100 | | 100 103 90")
    assert result.realized_pnl == 40
    assert (result.mae, result.mfe) == (Decimal("-0.03"), Decimal("0.1"))


@pytest.mark.parametrize(
    ("ticks", "worst", "best"),
    [
        ("100 ~90 ~120", "-0.05", 0),  # stopped at 95: what the bar did later does not count
        ("100 97 ~90", "-0.05", 0),
        ("100 90", "-0.1", 0),  # a print at 90 was watched while it was held
        ("100 ~104 ~99", "-0.01", "0.04"),
    ],
)
def test_excursions(ticks: str, worst: str, best: str) -> None:
    result = result_of(f"long 4 @100 sl=95 | | {ticks}")
    assert (result.mae, result.mfe) == (Decimal(worst), Decimal(best))


@pytest.mark.parametrize(
    ("ticks", "count"),
    [
        ("o100 ~94 ~106 ~100", 1),  # bought at the open, with both still ahead
        ("o100 ~106 ~94 ~100", 1),
        ("o100 ~98 ~104 ~100 o100 ~94 ~106 ~100", 1),
        ("o100 ~98 ~104 ~100 o100 ~94 ~104 ~100", 0),  # the level is out of reach
        ("o100 ~98 ~104 ~100 o100 ~96 ~106 ~100", 0),  # the stop is out of reach
    ],
)
def test_ambiguous_bars(ticks: str, count: int) -> None:
    assert result_of(f"long 4 @100 sl=95 tp=105:100 | | {ticks}").ambiguous_bars == count


def test_a_level_shows_in_the_event_what_it_asks_for() -> None:
    event = event_of("long 4 @market sl=95 tp=105:25,110:75 | | 100 112", "triggered")
    assert (event.role, event.level, event.price, event.quantity) == ("entry", 0, 100, 4)
