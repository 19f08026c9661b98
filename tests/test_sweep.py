"""Sweeps: the same orders as replay() would make of them, sums that add up, and a best cell that is not taken at its word."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import smartorders_lab as so
from smartorders_lab import metrics, sweeps, tallies
from smartorders_lab.combinations import label, mirrored
from smartorders_lab.entries import find_entries
from smartorders_lab.fills import FillModel
from smartorders_lab.folders import Folder
from smartorders_lab.run import money, order_columns
from smartorders_lab.store import SCHEMA_VERSION, TABLES

SAMPLE = Path(__file__).parents[1] / "data" / "sample_trades.parquet"
T0 = 1_700_000_000 * 10**9
HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def ticks() -> so.Ticks:
    return so.Ticks.read(SAMPLE, symbol="SOL/USDT")


@pytest.fixture(scope="module")
def small(ticks) -> so.Sweep:
    return so.sweep(order(), ticks, entries="every 10m", grid=GRID, fills=FEES, progress=False)


def order(**changes: object) -> so.SmartOrder:
    fields: dict = {
        "symbol": "SOL/USDT",
        "side": "buy",
        "quantity": 1,
        "stop_loss": "-1%",
        "take_profits": [("+1%", 50), ("+2%", 50)],
    }
    return so.SmartOrder(**{**fields, **changes})


FEES = FillModel(fee_taker="0.05%", fee_maker="0.01%")
GRID = {"stop_loss": ["0.5%", "1%", "2%"], "trailing_stop": [None, "1%"], "side": ["buy", "sell"]}


def tape(*prices: float, step: int = 10**9) -> so.Ticks:
    return so.Ticks.from_arrays(T0 + np.arange(len(prices)) * step, np.array(prices, float), symbol="SOL/USDT")


def same_as_replay(
    found: so.Sweep, ticks: so.Ticks, made: list[so.SmartOrder], numbers: np.ndarray | None = None, **options: object
) -> None:
    """Each order of the sweep is the order that replay() makes of the same spec at the same moment, in every column."""
    rows = found.orders
    starts = rows["created_ts"].to_physical().to_list()
    if numbers is not None:  # several ticks may share a time
        starts = [int(numbers[entry]) for entry in rows["entry"]]
    run = so.replay(made, ticks, starts=starts, progress=False, **options)
    shared = [name for name in run.orders.columns if name in rows.columns]
    assert len(shared) >= 22
    assert_frame_equal(rows.select(shared), run.orders.select(shared), check_exact=True, check_dtypes=False)
    hits = (
        run.levels.filter(pl.col("status") == "FILLED")
        .group_by("order")
        .agg(hits=(2 ** pl.col("level")).sum().cast(pl.Int64))
    )
    wanted = run.orders.select("order").join(hits, on="order", how="left").fill_null(0)["hits"]
    assert rows["hits"].to_list() == wanted.to_list()


def specs(found: so.Sweep) -> list[so.SmartOrder]:
    return [found.specs[c] for c in found.orders["combination"]]


# ---------------------------------------------------------------------------------------------------- equal to replay

BTC = {
    "symbol": "BTC/USDT",
    "side": "buy",
    "cost": 1000,
    "stop_loss": "-0.1%",
    "take_profits": [("+0.05%", 50), ("+0.15%", 50)],
}
MARKETS = {
    "plain trades": ("trades_binance_spot_BTCUSDT_20240808.parquet", BTC, {}, {}),
    "a real venue": (
        "trades_binance_spot_BTCUSDT_20240808.parquet",
        BTC,
        {"fee_taker": "0.1%", "fee_maker": "-0.01%", "latency": "150ms", "slippage": "0.01%", "participation": "20%"},
        {"trailing_stop": [None, "0.1%"], "break_even": [None, True], "max_hold": [None, "2m"]},
    ),
    "entries that wait": (
        "trades_binance_usdm_ETHUSDT_20240808.parquet",
        {**BTC, "symbol": "ETH/USDT:USDT", "entry_expiry": "3m"},
        {"fee_maker": "0.02%", "fee_taker": "0.05%", "touch": True},
        {
            "entry": [
                "market",
                so.Entry.limit("2681"),
                so.Entry.trailing("0.02%"),
                so.Entry.stop("2682.5", limit="2683"),
            ]
        },
    ),
    "shorts and ladders": (
        "trades_binance_usdm_ETHUSDT_20240808.parquet",
        {**BTC, "symbol": "ETH/USDT:USDT", "fee_currency": None},
        {"fee_taker": "0.05%"},
        {"side": ["buy", "sell"], "take_profits": [[("0.05%", 100)], [("0.02%", 30), ("0.05%", 30), ("0.1%", 40)], []]},
    ),
}


@pytest.mark.parametrize("name", MARKETS)
def test_a_sweep_is_a_replay_of_the_same_orders(market_data, monkeypatch, name):
    file, fields, fills, grid = MARKETS[name]
    made = so.SmartOrder(**{k: v for k, v in fields.items() if k != "fee_currency"})
    tape_ = so.Ticks.read(market_data / file, symbol=made.symbol)
    grid = {"stop_loss": ["0.05%", "0.2%"], **grid}
    monkeypatch.setattr(sweeps, "PART_ORDERS", 100)
    found = so.sweep(made, tape_, entries=so.random_entries(40, 3), grid=grid, fills=fills, progress=False)
    assert found.orders.height == 40 * np.prod([len(values) for values in grid.values()])
    assert found.orders["status"].n_unique() > 1
    same_as_replay(found, tape_, specs(found), find_entries(so.random_entries(40, 3), tape_).cursors, fills=fills)


@pytest.mark.parametrize("path", ["pessimistic", "optimistic", "nearest-first"])
def test_a_sweep_over_bars_takes_the_path_of_each_side(market_data, path):
    bars = so.Ticks.read(market_data / "bars_ftx_BTCPERP_1m_202201.parquet", symbol="BTC/USDT:USDT", path=path).slice(
        0, 4000
    )
    made = so.SmartOrder(
        symbol="BTC/USDT:USDT", side="buy", quantity="0.1", take_profits=[("0.05%", 50), ("0.1%", 50)], max_hold="1h"
    )
    grid = {"side": ["buy", "sell"], "stop_loss": ["0.04%", "0.1%"], "trailing_stop": [None, "0.1%"]}
    found = so.sweep(made, bars, entries="every 30m", grid=grid, fills=FEES, progress=False)
    assert found.orders["ambiguous_bars"].sum() > 0
    same_as_replay(found, bars, specs(found), fills=FEES)


def test_a_signal_says_the_side_and_mirrors_the_order(ticks):
    signal = np.zeros(len(ticks), int)
    signal[100:50_000:400], signal[300:50_000:500] = 1, -1
    made = order(
        break_even=so.BreakEven(offset="0.1%"), trailing_stop=so.TrailingStop(callback_rate="1%", activation="+0.5%")
    )
    found = so.sweep(made, ticks, entries=pl.Series(signal), grid={"stop_loss": ["1%", "3%"]}, progress=False)
    assert found.orders["side"].to_list() == ["buy" if s > 0 else "sell" for s in signal[signal != 0]] * 2
    other = [mirrored(spec) for spec in found.specs]
    chosen = [
        (found.specs if side == "buy" else other)[c]
        for c, side in found.orders.select("combination", "side").iter_rows()
    ]
    assert str(other[0].take_profits[0].target) == "-1%"
    assert str(other[0].trailing_stop.activation) == "-0.5%"
    same_as_replay(found, ticks, chosen, np.flatnonzero(signal))
    again = so.sweep(mirrored(made), ticks, entries=signal.tolist(), grid={"stop_loss": ["1%", "3%"]}, progress=False)
    assert_frame_equal(found.orders, again.orders)


def test_several_symbols_are_one_more_parameter(ticks):
    early, late = ticks.slice(0, 20_000), ticks.slice(20_000, 60_000)
    other = so.Ticks.from_arrays(late.ts, late.instrument.prices(late.price), late.size, symbol="ETH/USDT")
    asked = {"SOL/USDT": "every 1h", "ETH/USDT": [5, 500, 5000]}
    several = {"SOL/USDT": early, "ETH/USDT": other}
    found = so.sweep(order(), several, entries=asked, grid={"stop_loss": ["1%", "2%"]}, fills=FEES, progress=False)
    alone = [
        so.sweep(
            order(symbol=symbol),
            one,
            entries=asked[symbol],
            grid={"stop_loss": ["1%", "2%"]},
            fills=FEES,
            progress=False,
        )
        for symbol, one in several.items()
    ]
    numbers = ("order", "combination")
    assert_frame_equal(found.orders.drop(numbers), pl.concat([one.orders for one in alone]).drop(numbers))
    assert found.orders["order"].to_list() == list(range(found.orders.height))
    assert found.combinations.select("symbol", "stop_loss").rows() == list(product(several, ["1%", "2%"]))
    by_symbol = found.aggregate("symbol")
    assert by_symbol["count"].to_list() == [2 * m["entries"] for m in found.meta["markets"].values()]


def test_threads_parts_and_the_index_change_nothing(ticks, small, monkeypatch):
    for workers, size in ((1, 1000), (2, 500), (3, 50)):
        monkeypatch.setattr(sweeps, "PART_ORDERS", size)
        other = so.sweep(
            order(), ticks, "every 10m", GRID, FEES, workers=workers, use_index=workers != 1, progress=False
        )
        assert_frame_equal(other.orders, small.orders, check_exact=True)
        # where one combination is evaluated in pieces its sums are rounded differently
        assert_frame_equal(other.combinations, small.combinations, check_exact=size > 50)


def test_a_part_can_be_sent_away(ticks):
    """A job and its parts are all that a worker elsewhere needs."""
    sent: list[bytes] = []

    class Client:
        pass

    market_job: list[sweeps.Job] = []
    real = sweeps._evaluated

    def spied(parts, job, workers, client):
        market_job.append(job)
        sent.extend(pickle.dumps((part, job)) for part in parts)
        return real(parts, job, workers, None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "_evaluated", spied)
        found = so.sweep(order(), ticks, "every 1h", GRID, progress=False, client=Client())
    results = [sweeps.evaluate_part(*pickle.loads(one)) for one in sent]
    for name, values in tallies.joined([result.tally for result in results]).items():
        np.testing.assert_array_equal(values, found.tally[name])


# ---------------------------------------------------------------------------------------------------- entries


def test_every_way_to_say_when(ticks):
    ts = ticks.ts
    at = np.searchsorted(ts, ts[[7, 90, 4000, 4100]]).tolist()  # the first tick of its time
    mask = np.zeros(len(ticks), bool)
    mask[at[:3]] = True
    frame = pl.DataFrame({"ts": ts[at], "go": [1.0, 2.0, 1.0, None]})
    ways = [
        at[:3],
        np.array(at[:3]),
        mask,
        mask.tolist(),
        pl.Series(mask),
        pl.Series(mask).to_pandas(),
        pl.Series(mask).cast(pl.Float64),
        (frame, "go"),
        (frame.to_pandas(), "go"),
        (frame.with_columns(pl.col("ts").cast(pl.Datetime("ns", "UTC"))), "go"),
    ]
    for way in ways:
        found = find_entries(way, ticks)
        assert (found.cursors.tolist(), found.created.tolist(), found.sides) == (at[:3], ts[at[:3]].tolist(), None)
    times = [ts[7], "2024-03-04T01:00:00Z", datetime(2024, 3, 4, 1, tzinfo=UTC), np.datetime64("2024-03-04T01:00:00")]
    found = find_entries(times, ticks)
    one = int(np.searchsorted(ts, 1_709_514_000 * 10**9))
    assert found.cursors.tolist() == [at[0], one, one, one]
    assert found.created.tolist()[1:] == [1_709_514_000 * 10**9] * 3
    assert find_entries(pl.Series(ts[at]).cast(pl.Datetime("ns", "UTC")), ticks).cursors.tolist() == at
    every = find_entries("every 1h30m", ticks)
    assert set(np.diff(every.created)) == {90 * 60 * 10**9}
    assert (every.created[0], every.created[-1] > ts[-1] - 90 * 60 * 10**9) == (ts[0], True)
    assert find_entries(5, ticks).cursors.tolist() == [5]


def test_random_entries_are_different_sorted_and_repeatable(ticks):
    a, b, c = (find_entries(so.random_entries(500, seed), ticks) for seed in (1, 1, 2))
    assert a.cursors.tolist() == b.cursors.tolist() == sorted(set(a.cursors))
    assert a.hash == b.hash != c.hash
    with pytest.raises(so.DataError, match="random_entries"):
        find_entries(so.random_entries(len(ticks) + 1), ticks)


def test_a_signal_on_bars_is_known_at_the_close():
    rows = [(100.0 + i, 103.0 + i, 99.0 + i, 102.0 + i) for i in range(4)]
    frame = pl.DataFrame(rows, schema=["open", "high", "low", "close"], orient="row").with_columns(
        ts_ns=pl.Series(T0 + np.arange(4) * 60 * 10**9), go=pl.Series([0, 1, 0, -1])
    )
    bars = so.Ticks.from_bars(frame.drop("go"), symbol="SOL/USDT", bar="1m")
    for way in (frame["go"], (frame, "go")):
        found = find_entries(way, bars)
        assert found.cursors.tolist() == [7, 15]
        assert found.created.tolist() == [bars.bars.ts[1] + 60 * 10**9 - 1, bars.bars.ts[3] + 60 * 10**9 - 1]
        assert found.sides.tolist() == [1, -1]
    bought = so.sweep(order(), bars, frame["go"] == 1, progress=False).orders
    assert bought["entry_price"].to_list() == [103.0]
    assert set(find_entries(so.random_entries(3), bars).cursors % 4) == {0}


# ---------------------------------------------------------------------------------------------------- the grid


def test_the_grid_is_the_product_of_its_lists_in_their_order(small):
    assert small.combinations.select("stop_loss", "trailing_stop", "side").rows() == list(
        product(["0.5%", "1%", "2%"], ["none", "1%"], ["buy", "sell"])
    )
    for spec, (stop, _, side) in zip(
        small.specs, small.combinations.select("stop_loss", "trailing_stop", "side").rows(), strict=True
    ):
        sign = "-" if side == "buy" else "+"
        assert (str(spec.stop_loss.target), spec.side) == (f"{sign}{stop}", side)
        assert str(spec.take_profits[1].target) == ("+2%" if side == "buy" else "-2%")


def test_any_field_can_be_varied(ticks):
    grid = [
        {"trailing_stop.callback_rate": "1%", "trailing_stop.activation": "+0.5%"},
        {"take_profits[1].target": "+5%", "take_profits.0.size": 30},
        {"stop_loss.timeout": "30s", "cost": 100},
        {"break_even": so.BreakEven(offset="fees"), "max_hold": "1h", "entry": "market"},
        {},
    ]
    found = so.sweep(order(), ticks, [0], grid, progress=False)
    made = found.specs
    assert str(made[0].trailing_stop.activation) == "+0.5%"
    assert [str(level.target) for level in made[1].take_profits] == ["+1%", "+5%"]
    assert (made[1].take_profits[0].size, made[2].stop_loss.timeout) == (30, 30 * 10**9)
    assert (made[2].cost, made[2].quantity) == (100, None)
    assert made[3].max_hold == HOUR
    assert made[4] == order()
    assert found.grid.columns == list(dict.fromkeys(name for row in grid for name in row))
    assert found.grid["cost"].to_list() == [None, None, 100, None, None]
    assert found.grid["break_even"].to_list()[3] == label(so.BreakEven(offset="fees")) == "after=1 offset=fees"


def test_no_grid_is_the_order_itself(ticks):
    found = so.sweep(order(), ticks, "every 1h", progress=False)
    assert found.specs == [order()]
    assert found.combinations.height == 1


def test_invalid_combinations_are_refused_at_once_or_left_out(ticks):
    grid = {"stop_loss": ["1%", "+0.5%", "2%"], "take_profits": [[("+1%", 100)], [("+1%", 60), ("+2%", 60)]]}
    with pytest.raises(so.SpecError) as caught:
        so.sweep(order(), ticks, [0], grid)
    assert [p.path for p in caught.value.problems] == [
        "grid[1].take_profits", "grid[2].stop_loss.target", "grid[3].take_profits", "grid[3].stop_loss.target", "grid[5].take_profits",
    ]  # fmt: skip
    assert "(in stop_loss=1%, take_profits=+1%:60 +2%:60)" in str(caught.value)
    found = so.sweep(order(), ticks, [0], grid, skip_invalid=True, progress=False)
    assert found.combinations.select("stop_loss", "take_profits").rows() == [("1%", "+1%:100"), ("2%", "+1%:100")]
    assert found.meta["skipped"] == 4
    assert len(found.problems) == 5


# ---------------------------------------------------------------------------------------------------- sums and tables


def test_aggregates_are_those_of_the_orders(small):
    for by in ("combination", ["stop_loss"], ["side", "trailing_stop"], []):
        table = small.aggregate(by)
        keys = ["combination"] if by == "combination" else by
        with_grid = small.orders.drop("side").join(
            small.combinations.select("combination", *small.names), on="combination"
        )
        done = metrics.done(with_grid)
        assert done.height < with_grid.height
        for row in table.iter_rows(named=True):
            mine = pl.all_horizontal(pl.lit(True), *[pl.col(key) == row[key] for key in keys])
            all_, some = with_grid.filter(mine), done.filter(mine)
            returns, pnl = some["return_"], some["realized_pnl"]
            wanted = {
                "count": all_.height,
                "entered": all_["entry_ts"].is_not_null().sum(),
                "finished": some.height,
                "expectancy": metrics.expectancy(returns),
                "std": returns.std(),
                "sharpe": metrics.sharpe(returns),
                "win_rate": metrics.win_rate(pnl),
                "profit_factor": metrics.profit_factor(pnl),
                "stop_rate": (some["status"] == "STOPPED").mean(),
                "held_mean_s": some["held_ns"].mean() / 1e9,
                "hit_0": (some["hits"] % 2 == 1).mean(),
                "hit_1": (some["hits"] // 2 % 2 == 1).mean(),
                "total_pnl": all_["realized_pnl"].sum(),
                "fees": all_["fees"].sum(),
                "ambiguous_bars": 0,
            }
            for name in ("return", "mae", "mfe"):
                column = some["return_" if name == "return" else name].drop_nulls()
                for share, value in metrics.quantiles(column, tallies.QUANTILES).items():
                    wanted[f"{name}_q{round(share * 100):02d}"] = value
            assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-9)
            assert row["low"] < row["expectancy"] < row["high"]


def test_money_is_that_of_the_orders_frame(market_data):
    ticks = so.Ticks.read(market_data / "trades_binance_spot_BTCUSDT_20240808.parquet", symbol="BTC/USDT")
    for fills in (FillModel(), FillModel(fee_maker="-0.01%", fee_taker="0.1%", fee_currency="base")):
        made = [so.SmartOrder(**BTC), mirrored(so.SmartOrder(**BTC))]
        entries = find_entries("every 5s", ticks)
        evaluator = sweeps.Evaluator(made, ticks, entries.created, entries.cursors, fills)
        rows = next(evaluator.blocks(10_000)).rows
        mine = money(rows, evaluator.instrument, fills)
        frame = pl.DataFrame(order_columns(rows, evaluator.instrument, fills))
        for name, column in {
            "pnl": "realized_pnl",
            "fees": "fees",
            "return": "return_",
            "mae": "mae",
            "mfe": "mfe",
        }.items():
            np.testing.assert_array_equal(mine[name], frame[column].to_numpy())


def test_by_keeps_aggregates_only(ticks, small):
    for by in ("combination", ["stop_loss", "side"], "side"):
        lean = so.sweep(order(), ticks, "every 10m", GRID, FEES, by=by, progress=False)
        with pytest.raises(so.DataError, match="were not kept"):
            lean.orders  # noqa: B018
        assert_frame_equal(lean.combinations, small.combinations)
        if by == "combination":
            assert_frame_equal(lean.table, small.combinations)
        else:
            quantiles = [name for name in lean.table.columns if "_q" in name]
            assert_frame_equal(lean.table.drop(quantiles), small.aggregate(by).drop(quantiles))
            assert lean.table[quantiles].null_count().sum_horizontal().item() == lean.table.height * len(quantiles)
    assert_frame_equal(small.table, small.orders)
    assert_frame_equal(
        small.scan().filter(pl.col("combination") == 3).collect(), small.orders.filter(pl.col("combination") == 3)
    )


def test_orders_without_an_end_are_counted_and_in_no_mean():
    ticks = tape(*[100.0] * 5, *[101.5] * 5, *[100.5] * 10)
    made = order(take_profits=[("+1%", 100)], stop_loss="-10%")
    row = so.sweep(made, ticks, entries=[0, 12], progress=False).combinations.row(0, named=True)
    assert (row["count"], row["entered"], row["finished"], row["expectancy"]) == (2, 2, 1, pytest.approx(0.015))
    waiting = so.sweep(order(entry=so.Entry.limit(50)), ticks, entries=[0], progress=False).combinations.row(
        0, named=True
    )
    assert (waiting["count"], waiting["entered"], waiting["finished"], waiting["expectancy"]) == (1, 0, 0, None)


def test_progress_is_told_and_reaches_the_end(ticks, monkeypatch):
    monkeypatch.setattr(sweeps, "PART_ORDERS", 100)
    said: list[tuple[int, int]] = []
    found = so.sweep(order(), ticks, "every 1h", GRID, progress=lambda done, total: said.append((done, total)))
    total = found.meta["orders"]
    assert said[-1] == (total, total)
    assert [done for done, _ in said] == sorted({done for done, _ in said})
    assert len(said) == len(GRID["stop_loss"]) * 4


# ---------------------------------------------------------------------------------------------------- chance


def noise(seed: int, combinations: int, entries: int = 3000, edge: float = 0.0) -> so.Sweep:
    """A sweep whose returns are drawn: nothing in it is worth anything, but the last combination by `edge`."""
    rng = np.random.default_rng(seed)
    created = np.arange(entries, dtype=np.int64) * HOUR
    edges = tallies.block_edges([created], combinations)
    tally = tallies.Tallier(combinations, created, edges, 1)
    rows = sweeps.table(sweeps.OUTCOME, combinations * entries)
    rows.bought, rows.exited, rows.status, rows.reason = 1, 1, 3, 2
    rows.first_fill, rows.last_exit = np.tile(created, combinations), np.tile(created + HOUR // 2, combinations)
    returns = rng.normal(0, 0.01, (combinations, entries))
    returns[-1] += edge
    values = returns.ravel()
    tally.add(
        0,
        combinations,
        0,
        entries,
        rows,
        {"pnl": values, "return": values, **dict.fromkeys(("fees", "mae", "mfe"), values * 0)},
    )
    made = order()
    meta = {
        "skipped": 0,
        "orders": 1,
        "by": "combination",
        "markets": {"SOL/USDT": {"first_ts": 0, "last_ts": int(created[-1])}},
    }
    return so.Sweep([made] * combinations, pl.DataFrame({"n": range(combinations)}), tally.tally, edges, meta)


def test_the_best_of_noise_is_called_luck_and_a_true_edge_is_not():
    p_values = [noise(seed, 40).best(draws=300).p_value for seed in range(40)]
    assert np.mean(np.array(p_values) < 0.1) < 0.25
    assert np.mean(p_values) > 0.3
    found = noise(1, 40, edge=0.002).best()
    assert (found.combination, found.chosen, found.tried, found.eligible) == (39, 39, 40, 40)
    assert found.p_value < 0.01
    assert found.luck == pytest.approx(0.01 / 3000**0.5 * 2.16, rel=0.15)  # the expected largest of 40 normals
    assert found.deflated == pytest.approx(found.expectancy - found.luck)
    assert found.deflated_sharpe > 0.99
    assert found.test == pytest.approx(0.002, abs=0.0012)


def test_intervals_cover_the_truth():
    covered = []
    for seed in range(10):
        table = noise(seed, 50, 1000).combinations
        covered += ((table["low"] < 0) & (table["high"] > 0)).to_list()
    assert 0.9 < np.mean(covered) < 0.98
    table = noise(3, 5).aggregate(level=0.5, seed=1)
    assert (table["high"] - table["low"]).max() < 0.0006


def test_blocks_keep_orders_together_that_share_their_fate():
    """Where neighbours repeat one another, the interval is as wide as that of the few that differ."""
    created = np.arange(6000, dtype=np.int64) * HOUR
    edges = tallies.block_edges([created], 1)
    tally = tallies.Tallier(1, created, edges, 0)
    rows = sweeps.table(sweeps.OUTCOME, 6000)
    rows.bought, rows.exited, rows.status, rows.reason = 1, 1, 3, 2
    values = np.repeat(np.random.default_rng(5).normal(0, 0.01, 60), 100)
    tally.add(
        0, 1, 0, 6000, rows, {"pnl": values, "return": values, **dict.fromkeys(("fees", "mae", "mfe"), values * 0)}
    )
    low, high = tallies.intervals(tally.tally, edges, 0.95, 2000, 0)
    assert high[0] - low[0] == pytest.approx(2 * 1.96 * values.std() / 60**0.5, rel=0.15)
    alone = metrics.bootstrap_mean(values, 500)
    assert high[0] - low[0] > 5 * (alone.high - alone.low)
    slow = {**tally.tally, "held": np.array([6000.0 * 100 * HOUR * 10]), "exited": np.array([6000])}
    assert np.isnan(
        tallies.intervals(slow, edges, 0.95, 100, 0)[0][0]
    )  # fewer than MIN_BLOCKS blocks as long as a hold


def test_a_choice_sees_only_what_had_ended(small):
    """Each fold again, from the orders themselves."""
    walk = small.walk_forward(folds=4, metric="total_pnl", min_finished=5)
    orders = metrics.done(small.orders)
    for row in walk.folds.iter_rows(named=True):
        begin = pl.Series([row["begin"]]).dt.epoch("ns")[0]
        begin, end = walk.folds["begin"].dt.epoch("ns")[row["fold"]], walk.folds["end"].dt.epoch("ns")[row["fold"]]
        last = row["fold"] == walk.folds.height - 1
        past = orders.filter(pl.col("exit_ts").dt.epoch("ns") < begin)
        scores = past.group_by("combination").agg(pnl=pl.col("realized_pnl").sum(), n=pl.len()).filter(pl.col("n") >= 5)
        assert row["train"] == pytest.approx(scores["pnl"].max())
        assert row["combination"] == scores.sort("pnl", descending=True)["combination"][0]
        mine = orders.filter(pl.col("combination") == row["combination"])
        created = mine["created_ts"].dt.epoch("ns")
        test = mine.filter((created >= begin) & ((created < end) | last))
        assert row["test_finished"] == test.height
        assert row["test"] == pytest.approx(test["realized_pnl"].sum())
        assert row["test_expectancy"] == pytest.approx(test["return_"].mean())
    assert walk.finished == walk.folds["test_finished"].sum()


def test_best_says_all_of_it(small):
    found = small.best("profit_factor")
    table = small.combinations
    assert found.value == table["profit_factor"].max()
    assert found.order == small.specs[found.combination]
    assert found.values == {name: table[name][found.combination] for name in small.names}
    text = str(found)
    assert text.startswith("best of 12 combinations tried (12 with enough finished orders), by profit_factor = ")
    assert "by luck (p = " in text
    assert "out of sample: chosen before 2024-03-06T" in text
    assert str(small.best("profit_factor")) == text
    assert repr(small).startswith(f"Sweep({small.id}: 12 combinations, ")
    assert "combinations" in small._repr_html_()


# ---------------------------------------------------------------------------------------------------- kept


@pytest.fixture(params=["folder", "file", "store"])
def place(request, tmp_path):
    """Where a sweep may be kept: a folder, the path of a file, an open Store."""
    if request.param != "store":
        yield tmp_path / ("kept" if request.param == "folder" else "kept.duckdb")
        return
    with so.Store(tmp_path / "kept.duckdb") as store:
        yield store


def read_back(place) -> so.Sweep:
    if isinstance(place, so.Store):
        return place.sweep(place.sweeps()["sweep"][-1])
    if place.is_dir():
        return Folder(place).read()
    with so.Store(place, read_only=True) as store:
        return store.sweep(store.sweeps()["sweep"][-1])


def swept(ticks, place, **options):
    return so.sweep(order(), ticks, "every 10m", GRID, FEES, store=place, progress=False, **options)


@pytest.mark.parametrize("by", [None, "combination"])
def test_a_kept_sweep_is_the_sweep(ticks, small, place, by, monkeypatch):
    monkeypatch.setattr(sweeps, "PART_ORDERS", 1000)
    for found in (swept(ticks, place, by=by), read_back(place)):
        assert_frame_equal(found.combinations, small.combinations, check_exact=True)
        assert found.specs == small.specs
        assert str(found.best()) == str(small.best())
        if by is None:
            assert_frame_equal(found.orders, small.orders, check_exact=True)
            assert_frame_equal(found.aggregate("side"), small.aggregate("side"), check_exact=True)
        else:
            with pytest.raises(so.DataError, match="were not kept"):
                found.orders  # noqa: B018
        assert found.meta["finished_at"]


def test_what_is_done_is_not_done_again(ticks, small, place, monkeypatch):
    """Interrupted after three parts, a sweep goes on with the others; finished, it is only read."""
    monkeypatch.setattr(sweeps, "PART_ORDERS", 500)
    real, done = sweeps.evaluate_part, []

    def evaluate(part, job, workers=1):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(part.number)
        return real(part, job, workers)

    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "evaluate_part", evaluate)
        with pytest.raises(KeyboardInterrupt):
            swept(ticks, place, workers=1)
    with pytest.raises(so.StoreError, match="is not finished"):
        read_back(place)
    again: list[int] = []
    monkeypatch.setattr(sweeps, "evaluate_part", lambda part, *rest: again.append(part.number) or real(part, *rest))
    said: list[int] = []
    found = so.sweep(order(), ticks, "every 10m", GRID, FEES, store=place, progress=lambda n, _: said.append(n))
    assert sorted(done + again) == list(range(12))
    assert said[0] == 3 * 427
    assert_frame_equal(found.orders, small.orders, check_exact=True)
    assert_frame_equal(found.combinations, small.combinations, check_exact=True)
    again.clear()
    assert_frame_equal(swept(ticks, place).orders, small.orders, check_exact=True)
    assert again == []


CHANGES = {
    "the grid": {"grid": {**GRID, "stop_loss": ["0.5%", "1%", "3%"]}},
    "fills changed from": {"fills": FillModel(fee_taker="0.06%")},
    "the entries of SOL/USDT changed": {"entries": "every 20m"},
    "the order changed": {"order": order(max_hold="1h")},
    "poll_interval changed from None to '1s'": {"poll_interval": "1s"},
    "by changed": {"by": "combination"},
    "the ticks of SOL/USDT changed (60,000 ticks before, 59,990 now)": {"ticks": 59_990},
}


def test_another_sweep_is_refused_by_what_changed(ticks, place, monkeypatch):
    monkeypatch.setattr(sweeps, "PART_ORDERS", 2500)
    real = sweeps.evaluate_part
    asked = {
        "order": order(),
        "ticks": ticks,
        "entries": "every 10m",
        "grid": GRID,
        "fills": FEES,
        "store": place,
        "name": "it",
    }

    def evaluate(part, *rest):
        if part.number:
            raise KeyboardInterrupt
        return real(part, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "evaluate_part", evaluate)
        with pytest.raises(KeyboardInterrupt):
            so.sweep(**asked, workers=1, progress=False)
    for said, change in CHANGES.items():
        changed = change if "ticks" not in change else {"ticks": ticks.slice(0, change["ticks"])}
        with pytest.raises(so.StoreError) as caught:
            so.sweep(**{**asked, **changed}, progress=False)
        assert said in str(caught.value)
        assert "restart=True" in str(caught.value)
    found = so.sweep(**{**asked, "fills": None}, restart=True, progress=False)
    assert found.orders["fees"].sum() == 0
    assert found.orders.height == 12 * 427


def test_a_folder_that_holds_something_else_is_left_alone(ticks, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(so.StoreError, match="holds files that are no sweep"):
        swept(ticks, tmp_path)
    with pytest.raises(so.StoreError, match="write out/"):
        swept(ticks, tmp_path / "out.parquet")
    with pytest.raises(so.StoreError, match="holds no sweep"):
        Folder(tmp_path / "none").read()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_many_orders_need_a_store(ticks, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeps, "MAX_KEPT", 1000)
    with pytest.raises(so.LimitError, match="name a store"):
        swept(ticks, None)
    assert swept(ticks, None, by="combination").combinations.height == 12
    found = swept(ticks, tmp_path / "out")
    monkeypatch.setattr("smartorders_lab.findings.MAX_FRAME", 1000)
    with pytest.raises(so.LimitError, match="scan"):
        found.orders  # noqa: B018
    assert found.scan().select(pl.len()).collect().item() == 12 * 427


def test_an_older_store_gets_the_new_tables(ticks, tmp_path):
    import duckdb

    path = tmp_path / "old.duckdb"
    run = so.replay(order(), ticks, store=path)
    with duckdb.connect(str(path)) as old:
        for table in (t for t in TABLES if t.startswith(("sweep", "session"))):
            old.execute(f"DROP TABLE {table}")
        old.execute("UPDATE store SET schema_version = 1")
    with so.Store(path, read_only=True) as store:
        assert store.runs()["run"].to_list() == [run.id]
        assert store.sweeps().is_empty()
        assert "sweeps" not in store.verify()
    found = swept(ticks, path, by="combination")
    with so.Store(path) as store:
        assert store.run(run.id).orders.equals(run.orders)
        assert store.sweeps()["sweep"].to_list() == [found.id]
        assert store.verify()["sweep_combinations"] == 12
        assert store.sql("SELECT schema_version FROM store").item() == SCHEMA_VERSION
        store.delete_sweep(found.id)
        assert store.verify()["sweep_parts"] == 0


# ---------------------------------------------------------------------------------------------------- heat maps


def test_a_heat_map_shows_the_aggregates(small):
    pytest.importorskip("plotly")
    figure = small.heatmap("stop_loss", "trailing_stop")
    (cells,) = figure.data
    table = {
        (r["stop_loss"], r["trailing_stop"]): r for r in small.aggregate(["stop_loss", "trailing_stop"]).to_dicts()
    }
    assert (list(cells.x), list(cells.y)) == (["0.5%", "1%", "2%"], ["none", "1%"])
    for i, y in enumerate(cells.y):
        for j, x in enumerate(cells.x):
            row = table[x, y]
            assert cells.z[i][j] == row["expectancy"]
            assert f"{row['finished']:,} finished of {row['count']:,} orders" in cells.text[i][j]
            assert f"95 %: {row['low']:+.3%} to {row['high']:+.3%}" in cells.text[i][j]
    assert "12 combinations tried · over all side" in figure.layout.title.subtitle.text
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax


def test_small_multiples_and_gaps(small, ticks):
    pytest.importorskip("plotly")
    figure = small.heatmap("stop_loss", "trailing_stop", "win_rate", cols="side", theme="dark")
    assert len(figure.data) == 2
    assert [note.text for note in figure.layout.annotations] == ["side = buy", "side = sell"]
    axes = [axis for name, axis in figure.layout.to_plotly_json().items() if name.startswith(("xaxis", "yaxis"))]
    assert {axis["type"] for axis in axes} == {"category"}  # "1%" is a name, not a number
    assert len(axes) == 4
    sells = small.combinations.filter((pl.col("side") == "sell") & (pl.col("trailing_stop") == "1%"))
    assert list(figure.data[1].z[1]) == sells["win_rate"].to_list()
    corner = [{"stop_loss": "1%", "max_hold": "1h"}, {"stop_loss": "2%", "max_hold": "2h"}]
    cells = (
        so.sweep(order(), ticks, "every 1h", corner, progress=False)
        .heatmap("stop_loss", "max_hold", "total_pnl")
        .data[0]
    )
    assert [np.isnan(z) for z in np.ravel(cells.z)] == [False, True, True, False]
    line = small.heatmap("stop_loss", value="profit_factor").data[0]
    assert np.shape(line.z) == (1, 3)


def test_what_cannot_be_drawn(small):
    pytest.importorskip("plotly")
    for args, said in (
        (("stop", "side"), "stop.*is not in the grid; use some of stop_loss"),
        (("side", "side"), "is named twice"),
        (("side", "stop_loss", "winrate"), "must be one of count"),
    ):
        with pytest.raises(so.DataError, match=said):
            small.heatmap(*args)
