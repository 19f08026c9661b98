"""Which stop? Every pair of two stops, long and short, from 400 entries: and what is left of the best one out of sample.

python examples/sweep.py
"""

from pathlib import Path

import smartorders_lab as so

DATA = Path(__file__).parent.parent / "data"

ticks = so.Ticks.read(DATA / "sample_trades.parquet", symbol="SOL/USDT")  # synthetic, see data/README.md
order = so.SmartOrder(symbol="SOL/USDT", side="buy", cost=1000, take_profits=[("1%", 50), ("2%", 50)], stop_loss="1%")
found = so.sweep(
    order,
    ticks,
    entries="every 10m",
    grid={"stop_loss": ["0.5%", "1%", "1.5%", "2%"], "trailing_stop": [None, "0.5%", "1%"], "side": ["buy", "sell"]},
    fills=so.FillModel(fee_taker="0.05%"),
)

print(f"{found.meta['orders']:,} orders")
print()
print("side  stop   finished  won    mean return (95 %)")
for row in found.aggregate(["side", "stop_loss"]).to_dicts():
    span = "" if row["low"] is None else f" ({row['low']:+.2%} to {row['high']:+.2%})"
    print(
        f"{row['side']:4}  {row['stop_loss']:5}  {row['finished']:8}  {row['win_rate']:4.0%}  {row['expectancy']:+.2%}{span}"
    )

print()
print(found.best())
walk = found.walk_forward(folds=5)
print(f"walk-forward over {walk.folds.height} folds: {walk.expectancy:+.3%} of {walk.finished:,} orders")
