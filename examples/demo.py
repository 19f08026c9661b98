"""The demo of `make demo`: a ladder, long and short, from a thousand starts, into DuckDB, a table and a chart.

python examples/demo.py            # writes out/demo.duckdb and out/demo.html, anew each time
"""

from pathlib import Path
from time import perf_counter

from rich.console import Console
from rich.table import Table

import smartorders_lab as so
from smartorders_lab.charts import write_html

HERE = Path(__file__).parent.parent
OUT = HERE / "out"
STORE, PAGE = OUT / "demo.duckdb", OUT / "demo.html"

LONG = so.SmartOrder(
    symbol="SOL/USDT",
    side="buy",
    cost=1500,
    take_profits=[("+2%", 40), ("+4%", 35), ("+7%", 25)],
    stop_loss="-3%",
    trailing_stop="2.5%",
    break_even=True,
    tag="long",
)
SHORT = LONG.replace(side="sell", take_profits=[("-2%", 40), ("-4%", 35), ("-7%", 25)], stop_loss="3%", tag="short")
MARKET = so.Instrument(symbol="SOL/USDT", price_increment="0.01", quantity_increment="0.001")
FILLS = so.FillModel(fee_taker="0.1%", slippage="0.01%", latency="50ms")

BY_REASON = """
SELECT tag, coalesce(exit_reason, 'still open') AS reason, count(*) AS orders,
       avg(return_) AS mean_return, sum(realized_pnl) AS pnl, median(held_ns) / 3.6e12 AS hours
FROM orders GROUP BY ALL ORDER BY tag, orders DESC
"""
HITS = """
SELECT tag, level + 1 AS level, avg((l.status = 'FILLED')::INT) AS filled,
       avg((l.status = 'CANCELLED')::INT) AS cancelled, avg((l.status = 'PENDING')::INT) AS pending
FROM levels AS l JOIN orders USING (run, "order") GROUP BY ALL ORDER BY ALL
"""
EXTREMES = """
(SELECT * FROM orders WHERE exit_reason IS NOT NULL ORDER BY return_ DESC LIMIT 3)
UNION ALL BY NAME (SELECT * FROM orders WHERE exit_reason IS NOT NULL ORDER BY return_ LIMIT 3)
ORDER BY return_ DESC
"""


def table(title: str, *columns: str) -> Table:
    made = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        made.add_column(name, justify="left" if name in ("side", "reason", "status", "created") else "right")
    return made


def signed(value: float, form: str) -> str:
    return f"[{'green' if value > 0 else 'red'}]{value:{form}}[/]"


def main() -> None:
    console = Console()
    OUT.mkdir(exist_ok=True)
    for old in (STORE, PAGE):
        old.unlink(missing_ok=True)

    ticks = so.Ticks.read(HERE / "data" / "sample_trades.parquet", MARKET)
    starts = list(range(0, len(ticks), 120)) * 2
    orders = [LONG] * (len(starts) // 2) + [SHORT] * (len(starts) // 2)
    console.print(f"{len(ticks):,} synthetic trades of {ticks.symbol}, {len(orders):,} orders:")
    console.print(f"  {LONG}\n  {SHORT}\n", highlight=False)
    begin = perf_counter()
    run = so.replay(orders, ticks, starts, FILLS, name="demo")
    took = perf_counter() - begin

    with so.Store(STORE) as store:
        store.save(run)
        reasons = table("How they ended", "side", "reason", "orders", "mean return", "pnl, USDT", "median hours")
        for tag, reason, count, mean, pnl, hours in store.sql(BY_REASON).iter_rows():
            held = "–" if hours is None else f"{hours:.1f}"
            reasons.add_row(tag, reason, f"{count:,}", signed(mean, "+.2%"), signed(pnl, "+,.0f"), held)
        hits = table("How far they got", "side", "level", "filled", "cancelled", "pending")
        for tag, level, *shares in store.sql(HITS).iter_rows():
            hits.add_row(tag, f"TP{level}", *(f"{share:.0%}" for share in shares))
        few = table(
            "The best three and the worst three", "order", "side", "created", "status", "reason", "TP", "return"
        )
        extremes = store.sql(EXTREMES)
        for o in extremes.to_dicts():
            progress = f"{o['filled_levels']}/{o['levels']}"
            created, change = f"{o['created_ts']:%d %b %H:%M}", signed(o["return_"], "+.2%")
            few.add_row(str(o["order"]), o["tag"], created, o["status"], o["exit_reason"], progress, change)

    for each in (reasons, hits, few):
        console.print(each)
    best, worst = int(extremes["order"][0]), int(extremes["order"][-1])
    write_html([run.plot_summary(), run.plot(best), run.plot(worst)], PAGE, title="smartorders_lab demo")
    s = run.summary()
    console.print(f"pnl {s['realized_pnl']:+,.0f} USDT after {s['fees']:,.0f} of fees; {s['win_rate']:.0%} won")
    console.print(f"replayed in {took:.2f} s (the first time, that is mostly compiling)")
    console.print(f"every event is in {STORE.relative_to(HERE)}, the chart in {PAGE.relative_to(HERE)}")


if __name__ == "__main__":
    main()
