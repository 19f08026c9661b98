"""The main job on real markets: every file of the market data, ladders long and short, thousands of orders, one DuckDB file; and
more than 500 of those orders once more through the oracle, and 1,600 once more without the index."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import kernel_run
import numpy as np
import polars as pl
import pytest
from oracle import Tick, replay_one

import smartorders_lab as so
from smartorders_lab.ticks import BAR, CONTINUOUS, Ticks

FILES = {  # file: a distance that its prices cover in some hundred ticks, in per cent
    "trades_binance_spot_BTCUSDT_20240808": Decimal("0.03"),
    "quotes_binance_spot_BTCUSDT_20240808": Decimal("0.03"),
    "trades_binance_usdm_ETHUSDT_20240808": Decimal("0.02"),
    "trades_binance_spot_XRPETH_20191011": Decimal("0.3"),
    "trades_bitstamp_BTCUSD_2011": Decimal("2"),
    "bars_ftx_BTCPERP_1m_202201": Decimal("0.3"),
    "bars_coinbase_ETHUSD_1m_20170903": Decimal("0.5"),
    "bars_coinbase_BTCUSD_1s_20161007": Decimal("0.05"),
}
PER_FILE, CHECKED, SCANNED = 1200, 70, 200
FILLS = so.FillModel(fee_maker="0.02%", fee_taker="0.05%", slippage="0.005%", latency="20ms")


def templates(symbol: str, unit: Decimal, trigger: str) -> list[so.SmartOrder]:
    """Ladders of every kind, long and short, with distances in units of the file's own movement."""

    def pc(times: float) -> str:
        return f"{Decimal(str(times)) * unit}%"

    ladder = [(pc(1), 40), (pc(2), 35), (pc(4), 25)]
    shapes: list[dict[str, Any]] = [
        {"take_profits": ladder, "stop_loss": pc(2), "break_even": True},
        {
            "take_profits": ladder,
            "stop_loss": {"target": pc(2), "timeout": "2s", "emergency": pc(4)},
            "trailing_stop": pc(3),
        },
        {
            "take_profits": [(pc(1), 50, "limit"), (pc(3), 30, "limit")],
            "trailing_stop": pc(2),
            "break_even": {"offset": "fees"},
        },
        {"take_profits": ladder, "stop_loss": {"target": pc(2), "limit": pc(2.5)}, "trailing_take_profit": pc(1)},
        {"take_profits": [(pc(1), 50), (pc(2), 100)], "size_basis": "remaining", "stop_loss": pc(3), "max_hold": "30m"},
        {
            "entry": {"kind": "trailing", "callback_rate": pc(1)},
            "take_profits": ladder,
            "stop_loss": pc(2),
            "entry_expiry": "1h",
        },
    ]
    return [
        so.SmartOrder(symbol=symbol, side=side, quantity=1, trigger=trigger, **shape)
        for shape in shapes
        for side in ("buy", "sell")
    ]


def oracle_ticks(ticks: Ticks, trigger: str, direction: int, first: int, last: int, i: so.Instrument) -> list[Tick]:
    """Ticks `first` to `last` of the view that an order watches, as exact decimals."""
    view = ticks.view(trigger, direction)
    flags = view.flags if len(view.flags) else np.zeros(len(view.ts), np.uint8)
    return [
        Tick(
            int(view.ts[k]), i.price(view.price[k]), None, bool(flags[k] & CONTINUOUS), bool(flags[k] & BAR),
            i.price(view.buy[k]), i.price(view.sell[k]),
        )
        for k in range(first, last)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lab") / "lab.duckdb"


@pytest.mark.parametrize("name", FILES)
def test_every_file(name: str, market_data: Path, lab: Path) -> None:
    ticks = Ticks.read(market_data / f"{name}.parquet", symbol="X/Y:Y", sort="bitstamp" in name)
    trigger = ticks.triggers[0]
    shapes = templates("X/Y:Y", FILES[name], trigger)
    orders = shapes * (PER_FILE // len(shapes))
    rng = np.random.default_rng(7)
    starts = np.sort(rng.integers(0, len(ticks) - 10, len(orders)))
    with so.Store(lab) as store:
        run = so.replay(orders, ticks, starts=starts, fills=FILLS, store=store, name=name, progress=False)
        counts = store.sql("select count(*) n from orders where run = ?", [run.id])
        assert counts["n"][0] == len(orders)
    assert run.orders["entry_ts"].is_not_null().mean() > 0.8
    assert set(run.orders["exit_reason"].drop_nulls()) >= {"take_profit", "stop_loss"}

    lives = run.events.group_by("order").agg(pl.col("tick").max(), ended=(pl.col("kind") == "ended").any())
    short = lives.filter(pl.col("ended")).sort("order")
    life = short["tick"].to_numpy() - starts[short["order"].to_numpy()]
    some = rng.permutation(short["order"].to_numpy()[life < 20_000])[:SCANNED]
    scan = so.replay([orders[k] for k in some], ticks, starts=starts[some], fills=FILLS, use_index=False)
    names = pl.DataFrame({"order": np.arange(len(some)), "own": some})
    for frame in ("orders", "events", "fills", "levels"):
        ours = getattr(run, frame).filter(pl.col("order").is_in(some)).sort("order", maintain_order=True)
        theirs = getattr(scan, frame).join(names, on="order").sort("own", maintain_order=True)
        assert ours.equals(theirs.with_columns(order="own").drop("own").select(ours.columns)), frame

    instrument = so.Instrument(**run.meta["instrument"])
    chosen = rng.permutation(short["order"].to_numpy()[life < 700])[:CHECKED]
    assert len(chosen) == CHECKED
    ends = dict(short.select("order", "tick").iter_rows())
    for k in map(int, chosen):
        first = int(starts[k]) - (int(starts[k]) % 4 if ticks.bars is not None else 0)
        last = ends[k] + (4 - ends[k] % 4 if ticks.bars is not None else 1)
        tape = oracle_ticks(ticks, trigger, orders[k].direction, first, last, instrument)
        begin = int(starts[k])
        truth = replay_one(orders[k], instrument, tape[begin - first :], FILLS, (), tape[begin - first].ts)
        moved = [event._replace(tick=event.tick + begin) for event in truth.events]
        assert kernel_run.events_of(run, instrument, k) == moved
