"""Sweeps on a Dask cluster: the rows of a local sweep, wherever the ticks are, and whatever becomes of a worker."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import smartorders_lab as so
from smartorders_lab import cluster, sweeps, tapes

distributed = pytest.importorskip("distributed")

SAMPLE = Path(__file__).parents[1] / "data" / "sample_trades.parquet"
T0 = 1_700_000_000 * 10**9
FEES = so.FillModel(fee_taker="0.05%", fee_maker="0.01%")
GRID = {"stop_loss": ["0.5%", "2%", "8%"], "trailing_stop": [None, "1%"], "side": ["buy", "sell"]}


@pytest.fixture(scope="module")
def client() -> Any:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"
        ) as local,
        distributed.Client(local) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def ticks() -> so.Ticks:
    return so.Ticks.read(SAMPLE, symbol="SOL/USDT")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many partitions, tasks and parts."""
    monkeypatch.setattr(tapes, "PARTITION_TICKS", 5000)
    monkeypatch.setattr(cluster, "TASK_ORDERS", 300)
    monkeypatch.setattr(sweeps, "PART_ORDERS", 1000)


def order(**changes: Any) -> so.SmartOrder:
    fields: dict[str, Any] = {"symbol": "SOL/USDT", "side": "buy", "quantity": 1, "stop_loss": "-1%"}
    return so.SmartOrder(**{**fields, "take_profits": [("+1%", 50), ("+6%", 50)], **changes})


def in_memory(ticks: so.Ticks, symbol: str = "SOL/USDT") -> so.Ticks:
    return so.Ticks.from_arrays(ticks.ts, ticks.instrument.prices(ticks.price), ticks.size, symbol=symbol)


def bars(count: int = 3000) -> so.Ticks:
    rng = np.random.default_rng(5)
    close = 100 * np.exp(rng.normal(0, 0.002, count).cumsum())
    first = np.r_[100.0, close[:-1]]
    high, low = np.maximum(first, close) * 1.006, np.minimum(first, close) * 0.994
    frame = {"open": first, "high": high, "low": low, "close": close}
    return so.Ticks.from_bars(
        pl.DataFrame({"ts_ns": T0 + np.arange(count) * 60 * 10**9, **{k: v.round(2) for k, v in frame.items()}}),
        symbol="SOL/USDT",
        bar="1m",
    )


def assert_same(found: so.Sweep, local: so.Sweep) -> None:
    assert_frame_equal(found.orders, local.orders, check_exact=True)
    assert_frame_equal(found.combinations, local.combinations, check_exact=True)
    assert str(found.best(min_finished=1)) == str(local.best(min_finished=1))


CASES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "a grid": ({}, "every 10m", {}),
    "a real venue": (
        {"entry": so.Entry.trailing("0.3%"), "entry_expiry": "2h", "max_hold": "30h", "break_even": True},
        so.random_entries(150, 2),
        {"fills": so.FillModel(fee_taker="0.1%", latency="150ms", slippage="0.01%", participation="20%")},
    ),
    "polled": ({"trailing_take_profit": None}, "every 30m", {"poll_interval": "7m"}),
    "not in order": ({}, [59_000, 5, 5000, 4999, 5001, 20_000, 5], {"use_index": False}),
}


@pytest.mark.parametrize("kind", ["file", "memory"])
@pytest.mark.parametrize("name", CASES)
def test_a_cluster_finds_what_a_local_sweep_finds(client, ticks, small, name, kind):
    """Row by row; with stops of 8 % orders live over several partitions, and some to the end of the tape."""
    fields, entries, options = CASES[name]
    tape = ticks if kind == "file" else in_memory(ticks)
    asked = {"entries": entries, "grid": GRID, "fills": FEES, "progress": False, **options}
    found = so.sweep(order(**fields), tape, client=client, **asked)
    local = so.sweep(order(**fields), tape, **asked)
    assert_same(found, local)
    first, last = (local.orders[name].to_physical() for name in ("created_ts", "exit_ts"))
    passed = np.searchsorted(tape.ts, last.fill_null(2**62)) - np.searchsorted(tape.ts, first)
    assert passed.max() > 3 * tapes.PARTITION_TICKS
    assert last.is_null().any()


@pytest.mark.parametrize("path", ["pessimistic", "nearest-first"])
def test_bars_are_cut_between_bars(client, small, path):
    tape = bars().with_path(path)
    asked = {"entries": "every 20m", "grid": GRID, "fills": FEES, "progress": False, "poll_interval": "130s"}
    found = so.sweep(order(), tape, client=client, **asked)
    local = so.sweep(order(), tape, **asked)
    assert local.orders["ambiguous_bars"].sum() > 0
    assert_same(found, local)


def test_several_symbols_and_signals_for_both_sides(client, ticks, small):
    several = {"SOL/USDT": ticks.slice(0, 30_000), "ETH/USDT": in_memory(ticks.slice(20_000, 60_000), "ETH/USDT")}
    signals = {}
    for symbol, one in several.items():
        signals[symbol] = np.zeros(len(one), int)
        signals[symbol][50::700], signals[symbol][300::900] = 1, -1
    asked = {"entries": signals, "grid": {"stop_loss": ["1%", "8%"]}, "fills": FEES, "progress": False}
    assert_same(so.sweep(order(), several, client=client, **asked), so.sweep(order(), several, **asked))


def test_workers_write_the_parquet_that_duckdb_reads(client, ticks, small, tmp_path, monkeypatch):
    asked = {"entries": "every 10m", "grid": GRID, "fills": FEES}
    monkeypatch.chdir(tmp_path)
    said: list[tuple[int, int]] = []
    found = so.sweep(order(), ticks, store="out", client=client, progress=lambda n, of: said.append((n, of)), **asked)
    local = so.sweep(order(), ticks, progress=False, **asked)
    assert_same(found, local)
    assert_same(so.Sweep.read("out"), local)
    assert said == sorted(said)
    assert said[-1] == (local.orders.height, local.orders.height)
    files = sorted(Path("out").glob("part-*.parquet"))
    assert len(files) == 6
    query = "SELECT combination, count(*) AS n, sum(fees) AS fees FROM 'out/part-*.parquet' GROUP BY ALL ORDER BY ALL"
    with duckdb.connect() as connection:
        rows = connection.execute(query).fetchall()
    assert [(c, n) for c, n, _ in rows] == [(c, 427) for c in range(12)]
    assert [fees for *_, fees in rows] == pytest.approx(local.combinations["fees"].to_list())


def test_a_duckdb_file_and_aggregates_only(client, ticks, small, tmp_path):
    asked = {"entries": "every 30m", "grid": GRID, "fills": FEES, "progress": False}
    local = so.sweep(order(), ticks, **asked)
    so.sweep(order(), ticks, store=tmp_path / "kept.duckdb", client=client, **asked)
    assert_same(so.Sweep.read(tmp_path / "kept.duckdb"), local)
    few = so.sweep(order(), ticks, by="combination", client=client, **asked)
    assert_frame_equal(few.table, local.combinations, check_exact=True)


def test_other_files_are_read_as_they_are(client, ticks, small, tmp_path):
    """Several files, and rows that are no ticks: duplicates, and times that go backwards."""
    frame = pl.read_parquet(SAMPLE)
    frame[:30_000].write_csv(tmp_path / "a-1.csv")
    frame[30_000:].write_csv(tmp_path / "a-2.csv")
    pl.concat([frame[:20_000], frame[19_990:]]).write_parquet(tmp_path / "b.parquet")
    frame.reverse().write_parquet(tmp_path / "c.parquet")
    asked = {"entries": "every 2h", "grid": {"stop_loss": ["8%"]}, "progress": False}
    for source in (
        tmp_path / "a-*.csv",
        [tmp_path / "a-1.csv", tmp_path / "a-2.csv"],
        tmp_path / "b.parquet",
        tmp_path / "c.parquet",
    ):
        tape = so.Ticks.read(source, symbol="SOL/USDT", sort=True)
        assert_same(so.sweep(order(), tape, client=client, **asked), so.sweep(order(), tape, **asked))


def test_another_file_on_the_worker_is_refused(client, ticks, small, tmp_path):
    path = tmp_path / "moved.parquet"
    shutil.copy(SAMPLE, path)
    tape = so.Ticks.read(path, symbol="SOL/USDT")
    asked = {"entries": "every 1h", "client": client, "progress": False}
    pl.read_parquet(SAMPLE)[:-20_000].write_parquet(path)
    with pytest.raises(so.DataError, match=r"moved.parquet.*not those that the client read .*put the same file there"):
        so.sweep(order(), tape, **asked)
    path.unlink()
    with pytest.raises(so.DataError, match=r"moved.parquet"):
        so.sweep(order(), tape, **asked)
    assert so.sweep(order(), tape.slice(0, 5000), **asked).orders.height > 0  # no longer the file: it is sent


@pytest.mark.parametrize(("kind", "workers"), [("file", 1), ("memory", 1), ("memory", 2)])
def test_a_worker_killed_in_the_middle_changes_nothing(client, ticks, small, tmp_path, monkeypatch, kind, workers):
    """Nor do all of them, with everything that was sent to them."""
    monkeypatch.setattr(cluster, "TASK_ORDERS", 60)
    tape = ticks if kind == "file" else in_memory(ticks)
    asked = {"entries": "every 5m", "grid": GRID, "fills": FEES}
    client.wait_for_workers(2, timeout=120)
    victims = list(client.run(os.getpid).values())[:workers]

    def kill(done: int, total: int) -> None:
        if victims and 0 < done < total:
            while victims:
                os.kill(victims.pop(), signal.SIGKILL)

    found = so.sweep(order(), tape, store=tmp_path / "out", client=client, progress=kill, **asked)
    assert not victims
    assert_same(found, so.sweep(order(), tape, progress=False, **asked))


def test_workers_that_die_while_it_is_sent_to_them_change_nothing(client, ticks, small, monkeypatch):
    client.wait_for_workers(2, timeout=120)
    victims, scatter = client.run(os.getpid), client.scatter

    def dying(*args: Any, **options: Any) -> Any:
        if victims:
            options["workers"] = list(victims)
        while victims:
            os.kill(victims.popitem()[1], signal.SIGKILL)
        return scatter(*args, **options)

    monkeypatch.setattr(client, "scatter", dying)
    asked = {"entries": "every 2h", "grid": GRID, "progress": False}
    found = so.sweep(order(), in_memory(ticks), client=client, **asked)
    assert not victims
    assert_same(found, so.sweep(order(), in_memory(ticks), **asked))


def test_an_interrupted_sweep_leaves_nothing_running(client, ticks, small):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        so.sweep(order(), ticks, entries="every 5m", grid=GRID, client=client, progress=stop)
    for _ in range(100):
        if not any(client.processing().values()):
            break
        time.sleep(0.1)
    assert not any(client.processing().values())


def test_the_dashboard_names_the_tasks(client, ticks, small):
    from urllib.request import urlopen

    so.sweep(order(), ticks, entries="every 6h", client=client, progress=False)
    assert client.run_on_scheduler(_names) >= {"sweep-orders", "sweep-part"}
    with urlopen(client.dashboard_link, timeout=10) as page:
        assert page.status == 200


def _names(dask_scheduler: Any) -> set[str]:
    return set(dask_scheduler.task_prefixes)


def test_a_worker_reads_no_more_of_a_parquet_file_than_it_needs(ticks, small, monkeypatch):
    tape = tapes.Tape.of(ticks, 0)
    monkeypatch.setattr(tapes, "_cache", type(tapes._cache)())
    assert len(tape.cuts) == 13
    for k in (2, 11, 0, 2, 5, 6):
        window = tape.window(k, None)
        assert window.price.tolist() == ticks.price[tape.begin(k) : tape.cuts[k + 1]].tolist()
        assert window.price_range() == ticks.price_range()
    assert [len(kept) for kept in tapes._cache.values()] == [5000, 5004, 5004, 5004]


def test_what_is_no_client_is_refused(ticks):
    for wrong in ("tcp://scheduler:8786", object()):
        with pytest.raises(so.DataError, match=r"client = .*: is not a synchronous Client .*write client=Client\(\)"):
            so.sweep(order(), ticks, entries=[0], client=wrong, progress=False)
