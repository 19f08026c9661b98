"""One order over three days of trades: what became of it, and why.

python examples/first_replay.py
"""

from pathlib import Path

import smartorders_lab as so

DATA = Path(__file__).parent.parent / "data"

ticks = so.Ticks.read(DATA / "sample_trades.parquet", symbol="SOL/USDT")  # synthetic, see data/README.md
order = so.SmartOrder(
    symbol="SOL/USDT",
    side="buy",
    cost=1500,  # USDT
    entry=so.Entry.limit(150),
    take_profits=[("+2%", 40), ("+4%", 35), ("+9%", 25)],  # distance from the average entry, share in per cent
    stop_loss="-3%",
    trailing_stop="2.5%",
    break_even=True,  # once the first level is filled
)
run = so.replay(order, ticks, fills=so.FillModel(fee_taker="0.1%", slippage="0.01%", latency="50ms"))

print(ticks)
print(order)
print()
print("when      what                        price     stop    status")
for e in run.events.to_dicts():
    level = f" {e['level'] + 1}" if e["role"] == "take_profit" else ""
    what = f"{e['role'] or ''}{level} {e['kind']}".replace("_", " ").strip()
    price, stop = (f"{x:9.2f}" if x is not None else " " * 9 for x in (e["price"], e["stop"]))
    print(f"{e['ts']:%d %H:%M:%S}  {what:24} {price}{stop}   {e['status']}")

(result,) = run.orders.to_dicts()
print()
print(f"{result['status']} by {result['exit_reason']}, {result['filled_levels']}/{result['levels']} levels filled")
print(f"bought at {result['entry_price']:.2f}, sold at {result['exit_price']:.2f} on average")
print(f"profit {result['realized_pnl']:+.2f} USDT ({result['return_']:+.2%}) after fees of {result['fees']:.2f}")
print(f"worst moment {result['mae']:+.2%}, best {result['mfe']:+.2%}")
