"""Paper trading on recorded ticks, no network: an order that lives, is changed, survives a kill -9, and goes on.

python examples/paper.py            # its session lives in out/paper.duckdb, begun anew each time
"""

import subprocess
import sys
from pathlib import Path

import polars as pl

import smartorders_lab as so

HERE = Path(__file__).parent.parent
STORE = HERE / "out" / "paper.duckdb"

ORDER = so.SmartOrder(
    symbol="SOL/USDT",
    side="buy",
    quantity=10,
    take_profits=[("+2%", 40), ("+4%", 35), ("+9%", 25)],
    stop_loss="-3%",
    break_even=True,  # once the first level is filled
)


def session():
    """The session, begun or gone on with: the call is the same. Its ticks wait until they are told to play."""
    ticks = so.Ticks.read(HERE / "data" / "sample_trades.parquet", symbol="SOL/USDT")  # synthetic, see data/README.md
    feed = so.recorded(ticks, speed=None, paused=True)  # live ticks instead: so.paper("binance", store=..., name=...)
    fills = so.FillModel(fee_taker="0.1%", slippage="0.01%")
    return so.paper(feed=feed, store=STORE, name="example", fills=fills, balances={"USDT": 2000}), feed


def show(what: str, order: dict) -> None:
    dots = "".join(
        {"FILLED": "●", "TRIGGERED": "◐", "PENDING": "○", "CANCELLED": "×"}[x["status"]] for x in order["levels"]
    )
    stop = "–" if order["stop"] is None else order["stop"]
    print(
        f"{what:34} {dots}  holds {order['held']:>8}  stop {stop:>7}  version {order['version']:>2}  {order['status']}"
    )


def begin() -> None:
    """What happens before the kill: another process runs this."""
    paper, feed = session()
    oid = paper.place(ORDER, key="first")  # with a key it is placed once, however often this runs
    feed.play(until=1000)  # ticks
    paper.wait()
    show("bought", paper.order(oid))
    feed.play(until="2024-03-04T06:31Z")
    paper.wait()
    show("first level filled: break-even", paper.order(oid))
    paper.edit(oid, trailing_stop="2.5%")
    show("a trailing stop on top", paper.order(oid))
    try:
        paper.edit(oid, stop_loss=160)
    except so.ActionRefused as error:
        print(f"  refused: {error}")
    print("ready", flush=True)
    sys.stdin.read()  # until it is killed


def main() -> None:
    STORE.parent.mkdir(exist_ok=True)
    for old in STORE.parent.glob("paper.duckdb*"):
        old.unlink()

    with subprocess.Popen(
        [sys.executable, __file__, "begin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as other:
        for line in other.stdout:
            if line == "ready\n":
                other.kill()  # kill -9: no goodbye, nothing is flushed
            else:
                print(line, end="")
    print("  killed")

    paper, feed = session()
    with paper:
        oid = paper.place(ORDER, key="first")  # the one that is there
        show("resumed", paper.order(oid))
        feed.play(until="2024-03-04T06:40Z")
        paper.wait()
        show("second level filled", paper.order(oid))
        paper.add_funds(oid, cost=300)
        feed.play(until="2024-03-04T07:00Z")
        paper.wait()
        show("bought 300 USDT more", paper.order(oid))
        feed.play()  # to the end
        paper.wait()
        order, events = paper.order(oid), paper.events(oid)
        show(f"ended by {order['exit_reason']}", order)

    print("\nwhen      what                            quantity     price      stop")
    for e in events.filter(~pl.col("kind").is_in(["created", "triggered"])).to_dicts():
        what = f"{e['role'] or ''} {e['kind']}".replace("_", " ").strip() + (f": {e['reason']}" if e["reason"] else "")
        price, stop = (" " * 9 if x is None else f"{x:9.2f}" for x in (e["price"], e["stop"]))
        print(f"{e['ts']:%d %H:%M:%S}  {what:30} {e['quantity'] or 0:9.4g} {price} {stop}")
    print(
        f"\n{float(order['realized_pnl']):+.2f} USDT after fees of {float(order['fees']):.2f}, kept in out/{STORE.name}"
    )


if __name__ == "__main__":
    begin() if sys.argv[1:] == ["begin"] else main()
