"""The committed sample is what its script makes, says that it is synthetic, and holds what exits have to live with."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

DATA = Path(__file__).parent.parent / "data"
PATH = DATA / "sample_trades.parquet"
HOUR = 3_600 * 10**9


@pytest.fixture(scope="module")
def sample() -> pl.DataFrame:
    return pl.read_parquet(PATH)


@pytest.fixture(scope="module")
def minutes(sample: pl.DataFrame) -> np.ndarray:
    """Log returns of the last prices of minutes."""
    minute = pl.col("ts_ns") // (60 * 10**9)
    return np.diff(np.log(sample.group_by(minute, maintain_order=True).agg(pl.col("price").last())["price"].to_numpy()))


def correlation(x: np.ndarray, lag: int) -> float:
    return float(np.corrcoef(x[:-lag], x[lag:])[0, 1])


def test_the_script_makes_this_very_frame(sample: pl.DataFrame, tmp_path: Path) -> None:
    out = tmp_path / "again.parquet"
    subprocess.run([sys.executable, str(DATA / "make_sample.py"), "--out", str(out)], check=True, capture_output=True)
    assert pl.read_parquet(out).equals(sample)


def test_another_seed_makes_another_frame(sample: pl.DataFrame) -> None:
    make = runpy.run_path(str(DATA / "make_sample.py"))["make"]
    assert make(count=500).equals(sample[:500])
    assert not make(seed=9, count=500).equals(sample[:500])


def test_the_file_is_small_and_says_that_it_is_synthetic() -> None:
    assert PATH.stat().st_size < 1_000_000
    label = json.loads(pl.read_parquet_metadata(PATH)["smartorders_lab.sample"])
    assert label["synthetic"] is True
    assert (label["symbol"], label["price_increment"], label["quantity_increment"]) == ("SOL/USDT", 0.01, 0.001)
    readme = (DATA / "README.md").read_text("utf-8")
    assert "SYNTHETIC" in readme
    assert all(f"`{name}`" in readme for name in ("ts_ns", "price", "size", "side", "trade_id"))


def test_rows_are_sound(sample: pl.DataFrame) -> None:
    assert sample.schema == {
        "ts_ns": pl.Int64,
        "price": pl.Float64,
        "size": pl.Float64,
        "side": pl.String,
        "trade_id": pl.String,
    }
    assert sample.height == 60_000
    assert sample["ts_ns"].is_sorted()
    identities = sample["trade_id"].cast(pl.Int64)
    assert identities.is_sorted()
    assert identities.n_unique() == sample.height
    assert set(sample["side"].unique()) == {"buy", "sell"}
    for column, decimals in (("price", 2), ("size", 3)):
        assert (sample[column] == sample[column].round(decimals)).all()
        assert (sample[column] > 0).all()


def test_volatility_clusters_and_tails_are_fat(minutes: np.ndarray) -> None:
    assert ((minutes - minutes.mean()) ** 4).mean() / minutes.var() ** 2 > 8, "a normal distribution has 3"
    size = np.minimum(np.abs(minutes), np.quantile(np.abs(minutes), 0.99))  # not the work of four jumps
    assert all(correlation(size, lag) > 0.15 for lag in (1, 2, 5, 10))
    assert abs(correlation(minutes, 1)) < 0.15, "while the sign of the next minute is open"


def test_trades_bounce_between_bid_and_ask(sample: pl.DataFrame) -> None:
    assert correlation(np.diff(sample["price"].to_numpy()), 1) < -0.1
    up = sample.with_columns(step=pl.col("price").diff()).filter(pl.col("step") != 0)
    assert up.filter(side="buy")["step"].mean() > 0 > up.filter(side="sell")["step"].mean()


def test_jumps_a_gap_quiet_spells_and_sweeps(sample: pl.DataFrame) -> None:
    moves = np.diff(sample["price"].to_numpy()) / sample["price"].to_numpy()[:-1]
    assert moves.max() > 0.01
    assert moves.min() < -0.03, "a stop at 3 % is jumped over"
    waits = np.diff(sample["ts_ns"].to_numpy())
    assert (waits > HOUR / 2).sum() == 1
    hole = int(waits.argmax())
    skipped = int(sample["trade_id"][hole + 1]) - int(sample["trade_id"][hole])
    assert skipped > 100, "the market traded on while the feed was silent"
    hourly = sample.group_by(pl.col("ts_ns") // HOUR).len()["len"]
    assert hourly.filter(hourly > 5).quantile(0.05) < hourly.median() / 5
    sweeps = sample.group_by("ts_ns", "side").agg(
        pl.len(), (pl.col("price").max() - pl.col("price").min()).alias("span")
    )
    assert (sweeps["len"] >= 3).sum() > 1000
    assert sweeps.filter(pl.col("len") >= 4)["span"].min() > 0.009, "they eat into the book"


def test_ladders_and_stops_are_both_reached(sample: pl.DataFrame) -> None:
    """Long positions entered every three hours, each until +7 % or -3 %: both happen often, and +2, +4 on the way."""
    prices = sample["price"].to_numpy()
    assert 120 < prices.min() < 140
    assert 175 < prices.max() < 195
    hours = (sample["ts_ns"].to_numpy() - sample["ts_ns"][0]) // (3 * HOUR)
    reached: dict[float, int] = dict.fromkeys((1.02, 1.04, 1.07, 0.97), 0)
    for start in np.flatnonzero(np.diff(hours, prepend=-1)):
        ratio = prices[start:] / prices[start]
        stopped = ratio <= 0.97
        end = int(stopped.argmax()) if stopped.any() else len(ratio)
        reached[0.97] += bool(stopped.any())
        for rung in (1.02, 1.04, 1.07):
            reached[rung] += bool((ratio[:end] >= rung).any())
    assert all(count >= 4 for count in reached.values()), reached
