"""What bars hide: one ladder on ticks, and on the same ticks as bars of 1, 15 and 60 minutes along every path.

    python examples/bars_and_bounds.py

A bar does not say whether its high or its low came first. Each path is one answer; the interval between the worst and
the best of them is what a backtest on those bars leaves open. Ticks can still lie outside of it: a bar does not know
the gaps between its trades either, and a level that is jumped over fills at a better price than its own.
"""

from pathlib import Path

import polars as pl

import smartorders_lab as so

SAMPLE = Path(__file__).parent.parent / "data" / "sample_trades.parquet"
MINUTE = 60 * 10**9

ladder = so.SmartOrder(
    symbol="SOL/USDT", side="buy", quantity=10, take_profits=[("+0.5%", 50), ("+1%", 50)], stop_loss="-0.5%"
)
begin = 1_709_510_400 * 10**9
starts = [begin + hour * 60 * MINUTE for hour in range(1, 66)]  # a new order each hour

trades = pl.read_parquet(SAMPLE)
run = so.replay([ladder] * len(starts), so.Ticks.read(trades, symbol="SOL/USDT"), starts)
print(f"{'':12} {'profit':>9}   {'worst path':>10} {'best path':>10}   ambiguous bars")
print(f"{'ticks':12} {run.summary()['realized_pnl']:9.2f}")

for minutes in (1, 15, 60):
    time = pl.col("ts_ns") // (minutes * MINUTE) * minutes * MINUTE
    price = pl.col("price")
    bars = trades.group_by(time.alias("ts"), maintain_order=True).agg(
        open=price.first(), high=price.max(), low=price.min(), close=price.last(), volume=pl.col("size").sum()
    )
    ticks = so.Ticks.from_bars(bars, symbol="SOL/USDT", bar=f"{minutes}m", unit="ns")
    s = so.replay([ladder] * len(starts), ticks, starts, bounds=True).summary()
    low, high = f"{s['pnl_low']:10.2f}", f"{s['pnl_high']:10.2f}"
    print(f"{f'{minutes} min bars':12} {s['realized_pnl']:9.2f}   {low} {high}   {s['ambiguous_bars']}")
