"""What a trader does to an order while it lives: scripted actions, and a refusal.

python examples/manage_a_living_order.py
"""

from pathlib import Path

import smartorders_lab as so

DATA = Path(__file__).parent.parent / "data"

ticks = so.Ticks.read(DATA / "sample_trades.parquet", symbol="SOL/USDT")
order = so.SmartOrder(
    symbol="SOL/USDT",
    side="buy",
    quantity=10,
    entry=so.Entry.limit(145),  # far below the market
    take_profits=[("+3%", 50), ("+8%", 50)],
    stop_loss="-4%",
)
actions = [
    so.open_now(0, "2024-03-04T01:00:00Z"),  # stop waiting, enter at market
    so.add_funds(0, "2024-03-04T02:00:00Z", quantity=5),  # the average entry moves, and with it every distance
    so.edit(0, "2024-03-04T05:00:00Z", stop_loss=155),  # above the market: would sell at once, so it is refused
    so.edit(0, "2024-03-04T07:00:00Z", stop_loss=153, trailing_stop="3%"),
    so.reduce_funds(0, "2024-03-04T09:00:00Z", quantity=2, price=158.5),  # a limit: waits for its price
    so.close_at_market(0, "2024-03-04T20:00:00Z"),
]
run = so.replay(order, ticks, actions=actions)

print("when      what                              quantity    price     stop    held")
held = 0.0
for e in run.events.to_dicts():
    if e["kind"] == "filled":
        held += e["quantity"] if e["role"] in ("entry", "add_funds") else -e["quantity"]
    what = f"{e['role'] or ''} {e['kind']}".replace("_", " ").strip() + (f": {e['reason']}" if e["reason"] else "")
    price, stop = (f"{x:9.2f}" if x is not None else " " * 9 for x in (e["price"], e["stop"]))
    print(f"{e['ts']:%d %H:%M:%S}  {what:32} {e['quantity'] or '':>8} {price}{stop}{held:8g}")

(result,) = run.orders.to_dicts()
print(
    f"\n{result['status']} by {result['exit_reason']}: {result['realized_pnl']:+.2f} USDT on {result['bought']:g} SOL"
)
