"""Metrics: each formula by hand on a small example, against numpy and pandas, and on runs whose profit the engine knows."""

from __future__ import annotations

import math
import re
from pathlib import Path
from statistics import NormalDist
from typing import Any

import kernel_run
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import Case, cases
from test_real_data import FILES, templates

import smartorders_lab as so
from smartorders_lab import metrics
from smartorders_lab.times import NS

SAMPLE = Path(__file__).parent.parent / "data" / "sample_trades.parquet"
DAY = NS["d"]
PNL = [10.0, -5.0, 20.0, 0.0, -15.0, -10.0]
PERPETUAL = so.Instrument(symbol="BTC/USDT:USDT", price_increment="0.01", quantity_increment="0.001")
SPOT = so.Instrument(symbol="BTC/USDT", price_increment="0.01", quantity_increment="0.001")
SECONDS = 1_709_510_400 * 10**9 + 10**9 * np.arange(20)

floats = st.floats(-1e6, 1e6).map(lambda x: round(x, 4))
series = st.lists(floats, max_size=40)


def tape(*prices: float, instrument: so.Instrument = PERPETUAL) -> so.Ticks:
    return so.Ticks.from_arrays(SECONDS[: len(prices)], list(prices), instrument=instrument, unit="ns")


@pytest.fixture(scope="module")
def sample() -> so.Ticks:
    return so.Ticks.read(SAMPLE, symbol="SOL/USDT")


@pytest.fixture(scope="module")
def run(sample: so.Ticks) -> so.Run:
    order = so.SmartOrder(
        symbol="SOL/USDT",
        side="buy",
        quantity=10,
        take_profits=[("+0.5%", 40), ("+1%", 35), ("+2%", 25)],
        stop_loss="-0.8%",
        trailing_stop="1%",
    )
    return so.replay([order] * 300, sample, starts=list(range(0, 59_000, 197))[:300], fills={"fee_taker": "0.02%"})


# --- one order after another ---


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("expectancy", PNL, 0.0),
        ("expectancy", [], None),
        ("win_rate", PNL, 2 / 6),
        ("win_rate", [0.0], 0.0),
        ("win_rate", [], None),
        ("profit_factor", PNL, 30 / 30),
        ("profit_factor", [3.0, 1.0], None),
        ("profit_factor", [-3.0, 0.0], 0.0),
        ("profit_factor", [], None),
        ("payoff_ratio", PNL, 15 / 10),
        ("payoff_ratio", [1.0], None),
        ("payoff_ratio", [-1.0], None),
        ("kelly", PNL, 1 / 3 - (2 / 3) / 1.5),
        ("kelly", [2.0, -1.0, 2.0, -1.0], 0.5 - 0.5 / 2),
        ("kelly", [1.0], None),
        ("sharpe", [1.0, 3.0], 2 / math.sqrt(2)),
        ("sharpe", [0.1, 0.1, 0.1], None),
        ("sharpe", [1.0], None),
        ("sharpe", [], None),
        ("sortino", [2.0, -1.0], 0.5 / math.sqrt(0.5)),
        ("sortino", [2.0, 1.0], None),
        ("sortino", [-1.0], None),
        ("sqn", [1.0, 3.0], math.sqrt(2) * 2 / math.sqrt(2)),
        ("sqn", [1.0, 3.0] * 200, 10 * 2 / np.std([1.0, 3.0] * 200, ddof=1)),
        ("sqn", [1.0], None),
        ("streaks", PNL, (1, 2)),
        ("streaks", [1.0, 1.0, 0.0, 1.0, -1.0], (2, 1)),
        ("streaks", [], (0, 0)),
        ("streaks", [0.0], (0, 0)),
        ("value_at_risk", [float(x) for x in range(-10, 90)], 6.0),
        ("value_at_risk", [-1.0, 5.0], 1.0),
        ("value_at_risk", [2.0], -2.0),
        ("value_at_risk", [], None),
        ("expected_shortfall", [float(x) for x in range(-10, 90)], 8.0),
        ("expected_shortfall", [-1.0, 5.0], 1.0),
        ("expected_shortfall", [-4.0, -2.0, *[1.0] * 28], (4 + 0.5 * 2) / 1.5),
        ("expected_shortfall", [], None),
        ("quantiles", [], None),
    ],
)
def test_by_hand(name: str, values: list[float], expected: Any) -> None:
    found = getattr(metrics, name)(values)
    assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_ratios_scale_with_the_root_of_the_year() -> None:
    x = [0.01, -0.02, 0.03, 0.005]
    assert metrics.sharpe(x, 365) == pytest.approx(math.sqrt(365) * np.mean(x) / np.std(x, ddof=1))
    below = np.minimum(np.array(x) - 0.01, 0)
    assert metrics.sortino(x, 0.01, 12) == pytest.approx(
        math.sqrt(12) * (np.mean(x) - 0.01) / math.sqrt((below**2).mean())
    )


def test_edge_ratio_and_quantiles() -> None:
    assert metrics.edge_ratio([-0.01, -0.03], [0.02, 0.04]) == pytest.approx(0.03 / 0.02)
    assert metrics.edge_ratio([0.0], [0.02]) is None
    assert metrics.edge_ratio([], []) is None
    assert metrics.quantiles([1.0, 2.0, 3.0, 4.0, 5.0]) == {0.05: 1.2, 0.25: 2.0, 0.5: 3.0, 0.75: 4.0, 0.95: 4.8}


def test_fees_and_turnover() -> None:
    assert metrics.fee_share(2.0, 8.0) == 0.2
    assert metrics.fee_share(2.0, -2.0) is None
    assert metrics.fee_share(2.0, -1.0) == 2.0
    assert metrics.turnover([100.0, 110.0], [2.0, 1.0]) == 310.0
    assert metrics.turnover([], []) == 0.0


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [  # Newcombe, Statistics in Medicine 17, 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_one(successes: int, count: int, low: float, high: float) -> None:
    assert metrics.wilson(successes, count) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.5, 0.999))
def test_wilson_holds_the_share_and_mirrors(pair: tuple[int, int], level: float) -> None:
    k, n = pair
    low, high = metrics.wilson(k, n, level) or (1, 0)
    assert 0 <= low <= k / n <= high <= 1
    assert metrics.wilson(n - k, n, level) == pytest.approx((1 - high, 1 - low))
    assert metrics.wilson(0, 0) is None


@given(series, st.sampled_from([0.9, 0.95, 0.99]))
def test_the_shortfall_is_no_less_than_the_risk(values: list[float], level: float) -> None:
    risk, shortfall = metrics.value_at_risk(values, level), metrics.expected_shortfall(values, level)
    assert (risk is None) == (shortfall is None) == (not values)
    if risk is not None and shortfall is not None:
        assert shortfall >= risk - 1e-6
        assert sum(x <= -risk for x in values) >= (1 - level) * len(values) - 1e-9


@given(series)
def test_profit_factor_payoff_and_win_rate_agree(values: list[float]) -> None:
    """profit factor = payoff ratio · won / lost."""
    factor, payoff = metrics.profit_factor(values), metrics.payoff_ratio(values)
    won, lost = sum(x > 0 for x in values), sum(x < 0 for x in values)
    if payoff is not None:
        assert factor == pytest.approx(payoff * won / lost)
    assert (factor is None) == (lost == 0)


@given(series)
def test_streaks_are_those_of_a_loop(values: list[float]) -> None:
    best, now = {1: 0, -1: 0}, 0
    for x in values:
        sign = (x > 0) - (x < 0)
        now = now + sign if sign and now * sign > 0 else sign
        if now:
            best[sign] = max(best[sign], abs(now))
    assert metrics.streaks(values) == (best[1], best[-1])


@pytest.mark.parametrize("name", ["expectancy", "sharpe", "profit_factor", "drawdown", "value_at_risk", "streaks"])
def test_what_is_not_finite_is_refused_and_named(name: str) -> None:
    with pytest.raises(so.DataError, match=r"\[1\] = nan: must be a finite number; drop it first"):
        getattr(metrics, name)([1.0, math.nan])
    with pytest.raises(so.DataError, match=r"\[0\] = nan: must be a finite number"):
        getattr(metrics, name)(pl.Series([None, 1.0]))
    with pytest.raises(so.DataError, match=r"has 2 dimensions"):
        getattr(metrics, name)([[1.0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.wilson(3, 2), "successes = 3: must lie between 0 and count = 2"),
        (lambda: metrics.wilson(1, 2, 95), "level = 95: must lie between 0 and 1; write 0.95"),
        (lambda: metrics.bootstrap_mean([1.0, 2.0], n=0), "n = 0: must be a whole number of at least 1"),
        (lambda: metrics.bootstrap_mean([1.0, 2.0], block=1.5), "block = 1.5: must be a whole number"),
        (lambda: metrics.expected_max_sharpe(0, 1.0), "trials = 0, variance = 1.0: need at least 1 trial"),
        (lambda: metrics.ulcer_index([1.0], 0.0), "capital = 0.0: must be above 0"),
        (lambda: metrics.max_drawdown([1], [1.0, 2.0]), "ts: has 1 values for 2 others"),
        (lambda: metrics.max_drawdown([2, 1], [1.0, 2.0]), "ts: goes backwards; sort by time first"),
        (lambda: metrics.resample([1], [1.0], 0), "every = 0: must be longer than 0; write 1d"),
        (lambda: metrics.resample([1], [1.0], "soon"), "every = 'soon': is not a duration; write 50ms"),
        (lambda: metrics.calmar([1], [1.0], window=-1), "window = -1: a duration cannot be negative"),
        (lambda: metrics.resample([0], [1.0], "1ns", last=10**9), "every = '1ns': makes more than MAX_PERIODS"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(so.DataError, match=re.escape(message)):
        call()


# --- what chance can do ---


def test_the_bootstrap_is_that_of_a_loop_and_of_its_seed() -> None:
    x = np.random.default_rng(3).normal(1, 2, 25)
    rng = np.random.default_rng(9)
    means = [np.mean([x[i] for i in row]) for row in rng.integers(0, 25, (500, 25))]
    found = metrics.bootstrap_mean(x, 500, seed=9)
    assert found == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))
    assert metrics.bootstrap_mean(x, 500, seed=9) == found
    assert metrics.bootstrap_mean(x, 500, seed=10) != found


def test_a_block_bootstrap_is_that_of_a_loop_over_a_circle() -> None:
    x = np.random.default_rng(3).normal(1, 2, 43)
    starts = np.random.default_rng(1).integers(0, 43, (300, 11))
    means = [np.mean([x[(s + k) % 43] for s in row for k in range(4)]) for row in starts]
    assert metrics.bootstrap_mean(x, 300, seed=1, block=4) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_memory_is_bounded_by_chunks_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []
    x = np.arange(100.0)
    make = np.random.default_rng

    class Watched:
        def __init__(self, seed: int) -> None:
            self.rng = make(seed)

        def integers(self, low: int, high: int, size: tuple[int, ...]) -> np.ndarray:
            drawn.append(size)
            return self.rng.integers(low, high, size)

    monkeypatch.setattr(metrics, "_DRAWS", 1000)
    monkeypatch.setattr(np.random, "default_rng", Watched)
    interval = metrics.bootstrap_mean(x, 95, seed=4)
    assert sum(size[0] for size in drawn) == 95
    assert max(size[0] * size[1] for size in drawn) == 1000
    assert interval is not None
    assert interval.low < 49.5 < interval.high


def test_blocks_widen_the_interval_of_what_moves_together() -> None:
    x = np.repeat(np.random.default_rng(0).normal(0, 1, 60), 20)
    one, many = metrics.bootstrap_mean(x, 2000), metrics.bootstrap_mean(x, 2000, block=20)
    assert one is not None
    assert many is not None
    assert many.high - many.low > 3 * (one.high - one.low)


@pytest.mark.parametrize(("count", "block"), [(0, 1), (1, 1), (19, 2), (999, 100)])
def test_too_little_has_no_interval(count: int, block: int) -> None:
    assert metrics.bootstrap_mean(np.arange(float(count)), 100, block=block) is None


def test_an_interval_holds_the_mean_at_its_rate() -> None:
    rng = np.random.default_rng(11)
    found = [metrics.bootstrap_mean(rng.normal(5, 1, 80), 400, seed=i, level=0.9) for i in range(300)]
    inside = sum(interval.low <= 5 <= interval.high for interval in found if interval is not None)
    assert 250 <= inside <= 285  # 270 ± 3 standard deviations


def test_block_length_is_the_longer_of_its_two_reasons() -> None:
    assert [metrics.block_length(n) for n in (0, 1, 8, 9, 1000)] == [1, 1, 2, 3, 10]
    assert metrics.block_length(1000, 3.2) == 10
    assert metrics.block_length(1000, 14.2) == 15


def test_the_deflated_sharpe_ratio_is_the_papers() -> None:
    """Bailey and López de Prado 2014, numerical example: 2.5 a year over five years of days, best of a hundred."""
    best = metrics.expected_max_sharpe(100, 0.5 / 250)
    assert best == pytest.approx(0.1132, abs=5e-5)
    found = metrics.deflated_sharpe(2.5 / math.sqrt(250), 1250, 100, 0.5 / 250, -3, 10)
    assert found == pytest.approx(0.9004, abs=5e-5)
    assert metrics.expected_max_sharpe(1, 5.0) == 0


def test_the_probabilistic_sharpe_ratio_of_a_normal() -> None:
    ratio = 0.2
    expected = NormalDist().cdf(ratio * math.sqrt(99) / math.sqrt(1 + ratio**2 / 2))
    assert metrics.probabilistic_sharpe(ratio, 100) == pytest.approx(expected)
    assert metrics.probabilistic_sharpe(0.2, 100, benchmark=0.2) == 0.5
    assert metrics.probabilistic_sharpe(0.2, 1) is None
    assert metrics.probabilistic_sharpe(1.0, 9, skewness=2.0, kurtosis=5.0) is None


@given(st.floats(0.01, 1), st.integers(2, 5000), st.floats(-1, 1), st.floats(3, 10), st.floats(0.001, 0.5))
def test_psr_falls_with_the_benchmark_and_rises_with_the_sample(
    ratio: float, count: int, skewness: float, kurtosis: float, more: float
) -> None:
    at = [
        metrics.probabilistic_sharpe(ratio, n, skewness, kurtosis, b)
        for n, b in [(count, 0), (count, more), (2 * count, 0)]
    ]
    assert all(p is not None and 0 <= p <= 1 for p in at)
    assert at[1] <= at[0] <= at[2]
    few, many = (metrics.deflated_sharpe(ratio, count, n, 0.01, skewness, kurtosis) for n in (2, 200))
    assert many <= few <= at[0]


def test_moments_are_those_of_pandas() -> None:
    x = np.random.default_rng(5).gamma(2, 1, 4000)
    skewness, kurtosis = metrics.moments(x) or (0, 0)
    assert skewness == pytest.approx(pd.Series(x).skew(), rel=1e-2)  # pandas corrects for the sample's size
    assert kurtosis == pytest.approx(pd.Series(x).kurt() + 3, rel=1e-2)
    assert metrics.moments([1.0, 3.0]) == pytest.approx((0, 1))
    assert metrics.moments([1.0]) is None


# --- curves ---


def test_drawdown_by_hand() -> None:
    ts = [10, 20, 30, 40, 50, 60, 70]
    equity = [5.0, 8.0, 4.0, 8.0, 2.0, 6.0, 9.0]
    assert metrics.drawdown(equity).tolist() == [0, 0, 4, 0, 6, 2, 0]
    assert metrics.max_drawdown(ts, equity) == (6.0, 40, 50, 70, 30)
    assert metrics.max_drawdown(ts[:6], equity[:6]) == (6.0, 40, 50, None, 20)
    assert metrics.max_drawdown([10, 20], [-3.0, -1.0]) == (3.0, 10, 10, None, 10), "the start is a peak too"
    assert metrics.max_drawdown([10, 20], [1.0, 2.0]) == (0.0, None, None, None, 0)
    assert metrics.max_drawdown([], []) is None


@given(series, floats)
def test_drawdown_is_that_of_pandas_and_never_negative(values: list[float], start: float) -> None:
    fall = metrics.drawdown(values, start)
    full = pd.Series([start, *values], dtype=float)
    assert fall.tolist() == (full.cummax() - full)[1:].tolist()
    assert (fall >= 0).all()
    deepest = metrics.max_drawdown(range(len(values)), values, start)
    assert (None if deepest is None else deepest.depth) == (fall.max() if values else None)
    assert np.array_equal(metrics.drawdown(np.array(values) + 64, start + 64), fall) or np.allclose(
        metrics.drawdown(np.array(values) + 64, start + 64), fall
    )


def test_ulcer_index_by_hand() -> None:
    assert metrics.ulcer_index([0.0, 10.0, -1.0, 10.0], 100) == pytest.approx(math.sqrt(10.0**2 / 4))
    assert metrics.ulcer_index([-10.0], 100) == pytest.approx(10)
    assert metrics.ulcer_index([], 100) is None
    assert metrics.ulcer_index([-100.0], 100) is None


def test_mar_and_calmar_by_hand() -> None:
    year = metrics.YEAR_NS
    ts, equity = [0, year, 2 * year, 5 * year], [0.0, -10.0, 50.0, 40.0]
    assert metrics.mar(ts, equity) == pytest.approx(40 / 5 / 10)
    assert metrics.calmar(ts, equity) == pytest.approx((40 - 50) / 3 / 10)
    assert metrics.calmar(ts[:3], equity[:3]) == metrics.mar(ts[:3], equity[:3]) == pytest.approx(50 / 2 / 10)
    assert metrics.mar([0, 1], [1.0, 2.0]) is None
    assert metrics.mar([0, 0], [-1.0, -2.0]) is None
    assert metrics.calmar([], []) is None


def test_resample_by_hand() -> None:
    ends, values = metrics.resample([DAY // 2, DAY, 3 * DAY + 1], [1.0, 2.0, 3.0], "1d")
    assert (ends // DAY).tolist() == [1, 2, 3, 4]
    assert values.tolist() == [1, 2, 2, 3], "what lies on the boundary belongs to the day that begins"
    ends, values = metrics.resample([5 * DAY], [7.0], "1d", first=3 * DAY, last=6 * DAY, start=-1.0)
    assert values.tolist() == [-1, -1, 7, 7]
    assert metrics.resample([], [], "1d")[1].tolist() == []
    assert metrics.resample([], [], "1d", 0, DAY)[1].tolist() == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 500), floats), min_size=1, max_size=30), st.integers(1, 60))
def test_resample_is_that_of_pandas(samples: list[tuple[int, float]], step: int) -> None:
    samples.sort(key=lambda pair: pair[0])
    ts, values = (np.array(column) for column in zip(*samples, strict=True))
    _, found = metrics.resample(ts, values, step)
    groups = pd.Series(values).groupby(ts // step).last()
    assert found.tolist() == groups.reindex(range(ts[0] // step, ts[-1] // step + 1)).ffill().tolist()


def test_exposure_and_overlap_by_hand() -> None:
    ts, count = [10, 20, 40], [1, 2, 0]
    assert metrics.exposure(ts, count, 0, 50) == 0.6
    assert metrics.overlap(ts, count, 0, 50) == pytest.approx((10 + 2 * 20) / 30)
    assert metrics.exposure([10], [1], 0, 40) == 0.75, "what is open at the end is open up to it"
    assert metrics.exposure([], [], 0, 40) == 0
    assert metrics.exposure([], [], 5, 5) is None
    assert metrics.overlap([], [], 0, 40) is None


# --- runs ---


def test_hit_rates_by_hand() -> None:
    levels = pl.DataFrame({"level": [0, 1, 0, 1, 0], "status": ["FILLED", "FILLED", "CANCELLED", "PENDING", "FILLED"]})
    found = metrics.hit_rates(levels)
    assert found.select("level", "orders", "filled").rows() == [(0, 3, 2), (1, 2, 1)]
    assert found["rate"].to_list() == [2 / 3, 1 / 2]
    assert list(zip(found["low"], found["high"], strict=True)) == [metrics.wilson(2, 3), metrics.wilson(1, 2)]
    assert metrics.hit_rates(levels.head(0)).height == 0


def test_a_long_by_hand() -> None:
    """Bought 2 at 100 with a fee of 1 %, sold 1 at 110 and 1 at 90: 2 + 1.1 + 0.9 of fees."""
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=2, take_profits=[(110, 50)], stop_loss=90)
    run = so.replay(order, tape(100, 105, 110, 100, 90, 95), fills={"fee_taker": "1%"})
    booked = metrics.bookings(run)
    assert booked["pnl"].to_list() == pytest.approx([-2, 10 - 1.1, -10 - 0.9])
    assert booked["position"].to_list() == [2, -1, -1]
    assert booked["capital"].to_list() == [200, -100, -100]
    assert booked["open"].to_list() == [1, 0, -1]
    curve = run.equity()
    assert curve["equity"].to_list() == pytest.approx([-2, 8, 16.9, 6.9, -4, -4])
    assert curve["realized"].to_list() == pytest.approx([-2, -2, 6.9, 6.9, -4, -4])
    assert curve["position"].to_list() == [2, 2, 1, 1, 0, 0]
    assert metrics.r_multiples(run).rows() == [(0, pytest.approx(-4 / 20))]
    s = metrics.summary(run)
    assert (s["capital"], s["return_on_capital"]) == (200, pytest.approx(-0.02))
    assert (s["max_drawdown"], s["max_drawdown_s"]) == (pytest.approx(20.9), 3)
    assert s["exposure"] == pytest.approx(4 / 5)
    assert s["turnover"] == 400
    assert s["level_hit_rate"][0]["rate"] == 1
    assert (s["sharpe"], s["sharpe_annual"], s["period"], s["return_ci"]) == (None, None, None, None)


def test_a_short_is_the_mirror() -> None:
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="sell", quantity=1, stop_loss=110)
    curve = so.replay(order, tape(100, 90, 105, 110, 80)).equity()
    assert curve["equity"].to_list() == [0, 10, -5, -10, -10]
    assert curve["position"].to_list() == [-1, -1, -1, 0, 0]


def test_coins_already_owned_come_in_at_their_price() -> None:
    order = so.SmartOrder(
        symbol="BTC/USDT", side="sell", quantity=2, entry=so.Entry.held(80), take_profits=[(110, 50)], stop_loss=75
    )
    run = so.replay(order, tape(100, 110, 100, 75, instrument=SPOT))
    assert run.equity()["equity"].to_list() == pytest.approx([40, 60, 50, 25])
    assert run.orders["realized_pnl"].sum() == pytest.approx(25)
    assert metrics.r_multiples(run).rows() == [(0, pytest.approx(25 / (2 * 5)))]


def test_without_a_stop_there_is_no_r() -> None:
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=1, take_profits=[(110, 100)])
    run = so.replay(order, tape(100, 110))
    s = metrics.summary(run)
    assert (s["finished"], s["r_orders"], s["r_mean"], s["sqn"]) == (1, 0, None, None)


def test_fees_in_coins_leave_no_position_behind() -> None:
    order = so.SmartOrder(symbol="BTC/USDT", side="buy", quantity="1.234", stop_loss=90)
    run = so.replay(order, tape(100, 120, 90, instrument=SPOT), fills={"fee_taker": "0.3%", "fee_currency": "base"})
    curve = run.equity()
    kept = math.floor(1234 * 0.997) / 1000
    assert curve["position"].to_list() == pytest.approx([kept, kept, 0], abs=0)
    assert curve["equity"][-1] == pytest.approx(run.orders["realized_pnl"][0])


def test_what_is_still_held_is_marked() -> None:
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=1, stop_loss=50)
    s = metrics.summary(so.replay(order, tape(100, 120, 115)))
    assert (s["realized_pnl"], s["unrealized_pnl"], s["finished"], s["win_rate"]) == (0, 15, 0, None)
    assert (s["max_drawdown"], s["equity"]) == (5, "marked")


def test_sampling_takes_the_last_of_each_period() -> None:
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=1, stop_loss=50)
    run = so.replay(order, tape(100, 101, 102, 103, 104, 105))
    curve = run.equity(every="2s")
    assert curve["equity"].to_list() == [1 + 1, 3 + 1, 5], (
        "the price at the end of a period is the one that stands then"
    )
    assert curve["ts"].dt.epoch("s").to_list() == (SECONDS[[2, 4, 5]] // 10**9).tolist()


def test_nothing_bought_is_a_flat_line_and_many_nones() -> None:
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=1, entry=so.Entry.limit(50), stop_loss=40)
    run = so.replay(order, tape(100, 101, 102))
    assert run.equity()["equity"].to_list() == [0, 0, 0]
    s = metrics.summary(run)
    none = {"win_rate", "profit_factor", "expectancy", "return_ci", "kelly", "sqn", "capital", "ulcer_index", "mae"}
    assert {name for name in none if s[name] is not None} == set()
    assert (s["exposure"], s["realized_pnl"], s["max_drawdown"], s["level_hit_rate"]) == (0, 0, 0, [])


@settings(max_examples=120, deadline=None)
@given(cases())
def test_each_order_books_what_the_engine_says(case: Case) -> None:
    """Adds, reduces, latency, fees in coins, shorts, bars: what the fills add up to is the order's profit and position."""
    try:
        outcome = kernel_run.replay(case)
    except so.SpecError:
        assume(False)
        raise
    assume(outcome.run is not None)
    orders = outcome.run.orders
    booked = metrics.bookings(outcome.run)
    scale = max(float((outcome.run.fills["price"] * outcome.run.fills["quantity"]).sum()), 1e-12)
    assert booked["pnl"].sum() == pytest.approx(orders["realized_pnl"][0], abs=1e-9 * scale)
    assert abs(booked["position"].sum()) == pytest.approx(orders["held"][0], abs=1e-9)
    assert booked["open"].sum() == (orders["held"][0] > 0)
    curve = metrics.realized(booked)
    assert curve["ts"].is_unique().all()
    assert (curve["open"] >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.integers(0, 1000))
def test_equity_at_a_cut_is_the_profit_of_the_cut_run(cut: int, seed: int) -> None:
    """Nothing of what comes later is in the curve: cut the tape anywhere, and the profit up to there is the same."""
    rng = np.random.default_rng(seed)
    prices = np.round(100 * np.exp(np.cumsum(rng.normal(0, 0.02, 14))), 2).tolist()
    order = so.SmartOrder(
        symbol="BTC/USDT:USDT", side="buy", quantity=2, take_profits=[("+2%", 50), ("+6%", 25)], stop_loss="-4%"
    )
    add = so.add_funds(0, int(SECONDS[1]), quantity=1)
    whole, part = (
        so.replay(order, tape(*prices[:n]), fills={"fee_taker": "0.1%"}, actions=[add]) for n in (len(prices), cut)
    )
    assert whole.equity()["realized"][cut - 1] == pytest.approx(part.orders["realized_pnl"].sum())


@given(st.permutations(range(12)))
def test_equity_does_not_know_the_order_of_what_happens_at_once(order: list[int]) -> None:
    rows = pl.DataFrame(
        {
            "order": range(12),
            "ts": pl.Series([0, 0, 0, 5, 5, 5, 5, 5, 9, 9, 9, 9]).cast(pl.Datetime("ns", "UTC")),
            "pnl": [2.0**-k for k in range(12)],
            **{name: [1.0, -1.0] * 6 for name in ("position", "cost", "capital")},
            "open": [1, 0] * 6,
        }
    )
    assert metrics.realized(rows[order]).equals(metrics.realized(rows))


def test_summary_against_pandas(run: so.Run) -> None:
    s, frame = metrics.summary(run), run.orders.to_pandas()
    done = frame[frame["entry_ts"].notna() & frame["exit_reason"].notna()]
    assert s["win_rate"] == pytest.approx((done["realized_pnl"] > 0).mean())
    assert s["expectancy"] == pytest.approx(done["realized_pnl"].mean())
    assert s["sharpe_trade"] == pytest.approx(done["return_"].mean() / done["return_"].std())
    assert s["mae"][0.5] == pytest.approx(done["mae"].median())
    assert s["return_ci"].low < s["return_mean"] < s["return_ci"].high
    curve = run.equity().to_pandas().set_index("ts")["equity"]
    # a label at the end of a minute belongs to the next one: "left" closed, as in resample
    minutes = curve.resample("1min", closed="left", label="right").last().ffill()
    changes = minutes.diff().fillna(minutes.iloc[0])
    assert (s["period"], metrics.summary(run, period="1m")["periods"]) == (
        "1h" if s["period"] == "1h" else "1m",
        len(minutes),
    )
    assert metrics.summary(run, period="1m")["sharpe"] == pytest.approx(changes.mean() / changes.std())
    assert s["max_drawdown"] == pytest.approx((curve.cummax().clip(lower=0) - curve).max())
    stop = np.floor(np.round(done["entry_price"] * 99.2, 6)) / 100  # 0.8 % below, down to the next cent
    risk = (done["entry_price"] - stop) * done["bought"]
    assert s["r_mean"] == pytest.approx((done["realized_pnl"] / risk).mean())


def test_run_summary_takes_its_formulas_from_here(run: so.Run) -> None:
    short, long = run.summary(), metrics.summary(run)
    for name in ("orders", "entered", "finished", "realized_pnl", "fees", "win_rate", "profit_factor", "return_mean"):
        assert short[name] == long[name]
    assert short["held_mean_s"] == pytest.approx(long["held_mean_s"])
    assert short["level_hit_rate"] == {row["level"]: row["rate"] for row in long["level_hit_rate"]}


def test_the_same_seed_gives_the_same_summary(run: so.Run) -> None:
    assert metrics.summary(run, seed=3) == metrics.summary(run, seed=3)
    assert metrics.summary(run, seed=3)["return_ci"] != metrics.summary(run, seed=4)["return_ci"]


def test_periods_add_up(run: so.Run) -> None:
    table = metrics.by_period(metrics.bookings(run), run.orders, "1h")
    assert table["pnl"].sum() == pytest.approx(run.orders["realized_pnl"].sum())
    assert table["finished"].sum() == run.summary()["finished"]
    assert table["won"].sum() == (metrics.done(run.orders)["realized_pnl"] > 0).sum()
    assert table["period"].is_sorted()


def test_a_run_without_ticks(run: so.Run, sample: so.Ticks) -> None:
    bare = so.Run(run.orders, run.levels, run.events, run.fills, run.specs, run.meta)
    with pytest.raises(so.DataError, match=r"read back without them .* give them: run.equity\(Ticks.read"):
        bare.equity()
    with pytest.raises(so.DataError, match="are not those of the run"):
        bare.equity(sample.slice(0, 100))
    assert bare.equity(sample).equals(run.equity())
    s = metrics.summary(bare)
    assert (s["equity"], s["unrealized_pnl"]) == ("realized", None)
    assert s["max_drawdown"] == metrics.drawdown(metrics.realized(metrics.bookings(bare))["realized"]).max()


def test_quotes_marks_and_held_back_prints_have_a_price() -> None:
    quotes = so.Ticks.from_arrays(
        SECONDS[:2], None, bid=[99.0, 101.0], ask=[100.0, 102.0], instrument=PERPETUAL, unit="ns"
    )
    assert metrics.price_series(quotes)[1].tolist() == [99.5, 101.5]
    marks = so.Ticks.from_arrays(SECONDS[:2], None, mark=[99.0, 101.0], instrument=PERPETUAL, unit="ns")
    assert metrics.price_series(marks)[1].tolist() == [99, 101]
    assert metrics.price_series(tape(1, 2, 3), [1])[1].tolist() == [1, 3]


@pytest.mark.parametrize("name", FILES)
def test_real_markets_end_at_the_profit_of_the_orders(name: str, market_data: Path) -> None:
    ticks = so.Ticks.read(market_data / f"{name}.parquet", symbol="X/Y:Y", sort="bitstamp" in name)
    orders = templates("X/Y:Y", FILES[name], ticks.triggers[0]) * 20
    starts = np.sort(np.random.default_rng(7).integers(0, len(ticks) // 2, len(orders)))
    run = so.replay(orders, ticks, starts=starts, fills={"fee_taker": "0.05%", "latency": "20ms"}, progress=False)
    curve, total = run.equity(), run.orders["realized_pnl"].sum()
    moved = metrics.turnover(run.fills["price"], run.fills["quantity"])
    assert curve["realized"][-1] == pytest.approx(total, abs=1e-11 * moved)
    still = run.orders["held"].sum()
    assert metrics.realized(metrics.bookings(run))["open"][-1] == (run.orders["held"] > 0).sum()
    if not still:
        assert curve["equity"][-1] == curve["realized"][-1]
        assert curve["position"][-1] == 0
    s = metrics.summary(run)
    assert not [key for key, value in s.items() if isinstance(value, float) and not math.isfinite(value)]
