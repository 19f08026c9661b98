"""replay() as a user calls it: the worked examples, bars in every mode, quotes, the outlier guard, starts, frames."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import smartorders_lab as so
from smartorders_lab.ticks import PATHS

T0 = 1_700_000_000 * 10**9


def tape(*prices: float, step: int = 10**9) -> so.Ticks:
    return so.Ticks.from_arrays(T0 + np.arange(len(prices)) * step, np.array(prices, float))


def bars(*rows: tuple[float, float, float, float]) -> pl.DataFrame:
    ts = T0 + np.arange(len(rows)) * 60 * 10**9
    return pl.DataFrame(rows, schema=["open", "high", "low", "close"], orient="row").with_columns(ts_ns=pl.Series(ts))


def order(**changes: object) -> so.SmartOrder:
    fields: dict = {"symbol": "BTC/USDT", "side": "buy", "quantity": 1}
    return so.SmartOrder(**{**fields, **changes})


def kinds(run: so.Run, *wanted: str) -> list[tuple]:
    return list(run.events.filter(pl.col("kind").is_in(wanted)).select("kind", "role", "price").iter_rows())


LADDER = [(105, 40), (110, 35), (120, 25)]


def test_a_ladder_of_three_ends_three_of_three() -> None:
    run = so.replay(order(entry=so.Entry.limit(100), take_profits=LADDER, stop_loss="-5%"), tape(100, 105, 110, 120))
    row = run.orders.row(0, named=True)
    assert (row["status"], row["exit_reason"], row["filled_levels"], row["levels"]) == ("CLOSED", "take_profit", 3, 3)
    assert row["realized_pnl"] == pytest.approx(0.4 * 5 + 0.35 * 10 + 0.25 * 20)


def test_a_trailing_stop_of_2_percent_from_100() -> None:
    run = so.replay(order(entry=so.Entry.limit(100), trailing_stop="2%"), tape(100, 110, 108, 107))
    last = run.events.filter(pl.col("kind") == "triggered")[-1].row(0, named=True)
    assert (last["role"], last["price"], last["stop"], last["water_mark"]) == ("trailing_stop", 107.0, 107.8, 110.0)
    assert run.orders["status"][0] == "STOPPED"


def test_break_even_after_the_first_level_leaves_with_the_entry_price() -> None:
    run = so.replay(
        order(entry=so.Entry.limit(100), take_profits=LADDER, stop_loss="-5%", break_even=True),
        tape(100, 105, 103, 100),
    )
    row = run.orders.row(0, named=True)
    assert (row["status"], row["exit_reason"]) == ("STOPPED", "break_even")
    assert run.fills["price"].to_list() == [100.0, 105.0, 100.0]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_inside_a_bar_a_price_is_met_at_its_own_price(path: str, side: str) -> None:
    """Only the step from one close to the next open jumps."""
    flat, wide, gap = (100.0, 100.5, 99.5, 100.0), (100.0, 112.0, 88.0, 100.0), (90.0, 91.0, 89.0, 90.0)
    sign = 1 if side == "buy" else -1
    made = order(
        symbol="BTC/USDT:USDT",
        side=side,
        take_profits=[(100 + sign * 5, 50), (100 + sign * 10, 50)],
        stop_loss=100 - sign * 5,
    )
    inside = so.replay(made, so.Ticks.from_bars(bars(flat, wide, flat), path=path))
    assert set(inside.fills["price"][1:]) <= {100.0 + 5, 100.0 + 10, 100.0 - 5, 100.0 - 10}
    assert inside.orders["ambiguous_bars"][0] == 1
    assert inside.meta["path"] == path
    jumped = so.replay(made, so.Ticks.from_bars(bars(flat, gap), path=path))
    assert set(jumped.fills["price"][1:]) == {90.0}
    assert jumped.orders["ambiguous_bars"][0] == 0


def test_pessimistic_is_the_stop_side_first_for_both_sides() -> None:
    flat, wide = (100.0, 100.5, 99.5, 100.0), (100.0, 112.0, 88.0, 100.0)
    both = [
        order(symbol="BTC/USDT:USDT", side=side, take_profits=[("5%", 100)], stop_loss="5%") for side in ("buy", "sell")
    ]
    frame = bars(flat, wide)
    assert so.replay(both, so.Ticks.from_bars(frame)).orders["exit_reason"].to_list() == ["stop_loss"] * 2
    best = so.replay(both, so.Ticks.from_bars(frame, path="optimistic"))
    assert best.orders["exit_reason"].to_list() == ["take_profit"] * 2
    bounds = so.replay(both, so.Ticks.from_bars(frame), bounds=True).orders
    assert bounds["pnl_low"].to_list() == pytest.approx([-5.0, -5.0])
    assert bounds["pnl_high"].to_list() == pytest.approx([5.0, 5.0])


def test_quotes_are_watched_and_traded_on_their_own_sides() -> None:
    ticks = so.Ticks.from_arrays(
        T0 + np.arange(4) * 10**9, None, bid=np.array([99.0, 104, 105, 105]), ask=np.array([101.0, 106, 107, 107])
    )
    run = so.replay(order(trigger="bid", take_profits=[(105, 100)], stop_loss=90), ticks)
    assert run.fills["price"].to_list() == [101.0, 105.0]
    with pytest.raises(so.DataError, match="trigger"):
        so.replay(order(take_profits=[(105, 100)]), ticks)


def test_the_outlier_guard_holds_back_a_bad_print_and_believes_a_crash(market_data: Path) -> None:
    ticks = so.Ticks.read(market_data / "trades_bitstamp_BTCUSD_2011.parquet", sort=True)
    row = int(np.flatnonzero(ticks.price == ticks.instrument.price_units(15))[0])
    start = row - 20
    trail = order(trailing_stop="30%")
    believed, guarded = so.replay(trail, ticks, starts=start), so.replay(trail, ticks, starts=start, outlier="50%")
    assert believed.events["water_mark"].max() == 15.0
    assert guarded.events["water_mark"].max() < 5
    assert {row, row + 1} <= set(guarded.meta["held_back"])
    assert guarded.meta["outlier"] == "0.5"


def test_starts_may_be_indices_times_and_one_for_all() -> None:
    ticks, made = tape(100, 101, 102, 103), order(max_hold="1h")
    moment = datetime.fromtimestamp(T0 / 1e9 + 2, UTC)
    for starts in (2, T0 + 2 * 10**9, moment, moment.isoformat(), np.array([2]), pl.Series([moment]), [2]):
        assert so.replay(made, ticks, starts=starts).fills["price"].to_list() == [102.0]
    assert so.replay([made] * 3, ticks, starts=[0, 1, 3]).fills["price"].to_list() == [100.0, 101.0, 103.0]
    assert so.replay([made] * 2, ticks, starts=1).fills["price"].to_list() == [101.0, 101.0]


def test_polling_sees_only_the_last_price_of_an_interval() -> None:
    ticks = tape(100, 90, 96, 97, step=200_000_000)
    stop = order(stop_loss=95)
    assert so.replay(stop, ticks).orders["status"][0] == "STOPPED"
    polled = so.replay(stop, ticks, poll_interval="600ms")
    assert polled.orders["status"][0] == "ACTIVE"
    assert polled.meta["poll_interval"] == "600ms"


def test_frames_have_the_columns_that_are_promised() -> None:
    run = so.replay(order(take_profits=LADDER, stop_loss=95), tape(100, 105, 94))
    promised = {
        "orders": "order symbol side status exit_reason quantity entry_ts entry_price exit_ts exit_price held_ns filled_levels levels "
        "realized_pnl return_ fees mae mfe",
        "levels": "order level price size quantity status triggered_ts filled_ts fill_price",
        "events": "order seq ts tick kind level price quantity status stop water_mark reason",
        "fills": "order seq ts tick role level price quantity fee liquidity",
    }
    for name, columns in promised.items():
        assert set(columns.split()) <= set(getattr(run, name).columns), name
        assert len(run.to_pandas(name)) == len(getattr(run, name))
    assert run.levels["size"].to_list() == [40.0, 35.0, 25.0]
    assert run.levels["status"].to_list() == ["FILLED", "CANCELLED", "CANCELLED"]
    assert run.summary()["level_hit_rate"] == {0: 1.0, 1: 0.0, 2: 0.0}
    assert "1 orders" in repr(run)
    page = run._repr_html_()
    assert "<script" not in page
    assert "#fff" not in page


def test_an_order_that_never_enters_leaves_whole_frames() -> None:
    run = so.replay(order(entry=so.Entry.limit(50), take_profits=[(105, 100)]), tape(100, 101))
    row = run.orders.row(0, named=True)
    assert (row["status"], row["entry_ts"], row["return_"], row["mae"], row["realized_pnl"]) == (
        "PENDING",
        None,
        None,
        None,
        0.0,
    )
    assert run.fills.is_empty()
    assert "Run" in run._repr_html_()


def test_progress_is_told_to_a_callable() -> None:
    seen: list[tuple[int, int]] = []
    so.replay([order(stop_loss=90)] * 600, tape(100, 101), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (600, 600)
    assert len(seen) > 1


def test_a_pending_size_follows_the_price_that_triggers() -> None:
    run = so.replay(order(quantity=None, cost=50, max_hold="1h"), tape(100, 101))
    assert run.fills["quantity"].to_list() == [0.5]
    run = so.replay(order(quantity=None, risk=10, stop_loss="-5%"), tape(100, 101))
    assert run.fills["quantity"].to_list() == [2.0]
