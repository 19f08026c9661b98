"""Runs inside the competitors' environment (see others.py); imports nothing of smartorders_lab. Writes one JSON file.

Each gets the same tape, the same starts and the same orders, through the API that its documentation shows for that work, compiled
before it is timed. Where a run over all orders would take hours it gets some of them; the rate is what counts.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np

from .loops import Shape, linear
from .tape import starts, times, walk

LOSS, GAIN, RATE = 0.015, 0.03, 0.02
STOPS = (0.004, 0.008, 0.012, 0.016, 0.02)
TARGETS = (0.005, 0.01, 0.015, 0.02, 0.03)
RATES = (0.005, 0.01, 0.015, 0.02)
CANNOT = {
    "vectorbt": "from_signals has one stop a column: sl_stop trails or it does not (sl_trail), so a stop loss beside a trailing stop, "
    "break-even beside either, and a ladder need adjust_sl_func_nb or a simulation of one's own; a stop fills at its own price, "
    "not at the tick's; every column is walked over all ticks and needs its own column of signals; no live engine.",
    "hftbacktest": "stops, targets, trailing and break-even are the user's code on each event: it simulates a venue, not smart orders. "
    "With trades alone there is no book, so its own market orders never fill.",
    "backtesting.py": "trades with sl= and tp= and several of them make a ladder; a trailing stop and break-even are the user's code "
    "in next(), once a bar in Python; orders fill on the next bar's open unless trade_on_close; one strategy at a time.",
}


def timed(function: Callable[[], Any], rounds: int = 3) -> tuple[float, Any]:
    """The best of some runs, after one that compiles."""
    value, best = function(), float("inf")
    for _ in range(rounds):
        before = time.perf_counter()
        value = function()
        best = min(best, time.perf_counter() - before)
    return best, value


def agreement(exits: np.ndarray, reference: np.ndarray) -> str:
    """How many exits are on the tick of the loop that agrees with replay."""
    return f"{np.mean(exits == reference):.0%} of exits on our tick"


# --- vectorbt -------------------------------------------------------------------------------------------------------------


def vectorbt_orders(price: np.ndarray, begin: np.ndarray, entries: int) -> dict[str, list[dict[str, Any]]]:
    """One column an order, one column a call: that is its quickest, and the signals of 10,000 columns would take 10 GB."""
    import vectorbt as vbt

    close = price / 100
    few = begin[np.linspace(0, len(begin) - 1, min(20, len(begin))).astype(int)]
    loop = linear(price, few, Shape("0.9", ("0.03",), (100,), "0.02", False))[0]
    grid = [axis.ravel() for axis in np.meshgrid(RATES, TARGETS)]

    def run(at: np.ndarray, rates: np.ndarray, gains: np.ndarray, engine: str) -> np.ndarray:
        exits = np.full(len(at), -1)
        for k, first in enumerate(at):
            signal = np.zeros(len(close), bool)
            signal[first] = True
            stops = {"sl_stop": rates[k], "sl_trail": True, "tp_stop": gains[k]}
            pf = vbt.Portfolio.from_signals(close, signal, **stops, size=1.0, init_cash=1e9, freq="1ms", engine=engine)
            orders = pf.orders.records
            if len(orders) == 2:
                exits[k] = orders["idx"][1]
        return exits

    found: dict[str, list[dict[str, Any]]] = {"orders": [], "combinations": []}
    for engine in ("rust", "numba"):
        name = f"vectorbt {engine}"
        fixed = [np.full(len(few), value) for value in (RATE, GAIN)]
        seconds, exits = timed(partial(run, few, *fixed, engine), 2)
        note = f"stop loss dropped; {agreement(exits, loop)}; from {len(few)} orders"
        found["orders"].append({"name": name, "rate": len(few) / seconds, "note": note})
        at = np.repeat(few[:1], len(grid[0]))
        seconds, _ = timed(partial(run, at, *grid, engine), 1)
        note = f"stops dropped: rates × targets; from {len(at)} combinations"
        found["combinations"].append({"name": name, "rate": len(at) / seconds, "note": note})
    return found


# --- hftbacktest ----------------------------------------------------------------------------------------------------------


def hftbacktest_orders(price: np.ndarray, begin: np.ndarray, entries: int) -> dict[str, list[dict[str, Any]]]:
    """One pass over the feed, the user's numba code keeps the open orders."""
    from hftbacktest import BacktestAsset, HashMapMarketDepthBacktest
    from hftbacktest.types import BUY_EVENT, EXCH_EVENT, LOCAL_EVENT, TRADE_EVENT, event_dtype

    data = np.zeros(len(price), event_dtype)
    data["ev"] = TRADE_EVENT | EXCH_EVENT | LOCAL_EVENT | BUY_EVENT
    data["exch_ts"] = data["local_ts"] = times(len(price))
    data["px"], data["qty"] = price, 1.0

    def run(at: np.ndarray, loss: np.ndarray, gain: np.ndarray, rate: np.ndarray) -> np.ndarray:
        asset = (
            BacktestAsset()
            .data(data)
            .linear_asset(1.0)
            .constant_order_latency(0, 0)
            .risk_adverse_queue_model()
            .no_partial_fill_exchange()
            .trading_value_fee_model(0.0, 0.0)
            .tick_size(1.0)
            .lot_size(1.0)
            .last_trades_capacity(16)
        )
        hbt = HashMapMarketDepthBacktest([asset])
        exits = np.full(len(at), -1)
        _drive(hbt, at, loss, gain, rate, exits)
        hbt.close()
        return exits

    full = [np.full(len(begin), value) for value in (LOSS, GAIN, RATE)]
    loop = linear(price, begin, Shape("0.015", ("0.03",), (100,), "0.02", False))[0]
    seconds, exits = timed(lambda: run(begin, *full))
    note = f"logic is the user's; {agreement(exits, loop)}"
    found = [{"name": "hftbacktest", "rate": len(begin) / seconds, "note": note}]
    axes = np.meshgrid(STOPS, TARGETS, RATES, indexing="ij")
    few = starts(entries, len(price))[:: max(entries // 100, 1)]
    grid = [np.tile(axis.ravel(), len(few)) for axis in axes]
    seconds, _ = timed(lambda: run(np.repeat(few, 100), *grid), 1)
    each = [{"name": "hftbacktest", "rate": len(few) * 100 / seconds, "note": f"from {len(few)} entries"}]
    return {"orders": found, "combinations": each, "ladder": []}


@nb.njit
def _drive(hbt, at, loss, gain, rate, exits):
    """Every event, every open order: entered at the trade of its tick, watched from the next one on."""
    n = len(at)
    active, mark = np.empty(n, np.int64), np.empty(n)
    stop, target = np.empty(n), np.empty(n)
    alive = following = 0
    t = -1
    while hbt.wait_next_feed(False, 10**18) == 2:
        t += 1
        trades = hbt.last_trades(0)
        x = trades[len(trades) - 1].px
        hbt.clear_last_trades(0)
        k = 0
        while k < alive:
            i = active[k]
            if x <= stop[k] or x >= target[k]:
                exits[i] = t
                alive -= 1
                active[k], mark[k], stop[k], target[k] = active[alive], mark[alive], stop[alive], target[alive]
                continue
            if x > mark[k]:
                mark[k] = x
                stop[k] = max(stop[k], x * (1 - rate[i]))
            k += 1
        while following < n and at[following] == t:
            active[alive], mark[alive] = following, x
            stop[alive] = x * (1 - min(loss[following], rate[following]))
            target[alive] = x * (1 + gain[following])
            alive += 1
            following += 1


# --- backtesting.py -------------------------------------------------------------------------------------------------------


def backtesting_orders(price: np.ndarray, begin: np.ndarray, entries: int) -> dict[str, list[dict[str, Any]]]:
    """One order a run; the trailing stop, and break-even, by hand in next()."""
    import pandas as pd
    from backtesting import Backtest, Strategy

    close = price / 100
    frame = pd.DataFrame(
        {"Open": close, "High": close, "Low": close, "Close": close}, index=pd.to_datetime(times(len(price)))
    )

    def run(at: int, levels: tuple[float, ...], even: bool) -> Any:
        class Order(Strategy):
            def init(self) -> None:
                self.i = -1
                self.mark = 0.0

            def next(self) -> None:
                self.i = len(self.data) - 1
                p = self.data.Close[-1]
                if self.i == at:
                    for level in levels:
                        self.buy(size=100, sl=p * (1 - min(LOSS, RATE)), tp=p * (1 + level))
                    self.mark, self.entry = p, p
                elif self.trades:
                    self.mark = max(self.mark, p)
                    least = self.mark * (1 - RATE)
                    if even and len(self.trades) < len(levels):
                        least = max(least, self.entry)
                    for trade in self.trades:
                        trade.sl = max(trade.sl, least)

        return Backtest(frame, Order, cash=1e9, trade_on_close=True, finalize_trades=False).run()

    first = max(int(begin[0]), 3)
    one, _ = timed(lambda: run(first, (GAIN,), False), 1)
    note = "one order at a time over the whole tape, trailing in next()"
    ladder, _ = timed(lambda: run(first, (0.01, 0.02, 0.04), True), 1)
    return {
        "orders": [{"name": "backtesting.py", "rate": 1 / one, "note": note}],
        "combinations": [{"name": "backtesting.py", "rate": 1 / one, "note": note}],
        "ladder": [
            {"name": "backtesting.py", "rate": 1 / ladder, "note": "three trades; trailing and break-even in next()"}
        ],
    }


def main(path: str, work: dict[str, int]) -> None:
    """Everybody in turn; who fails is named with the reason."""
    price, begin = walk(work["n"]), starts(work["number"], work["n"])
    packages = ("vectorbt", "vectorbt-rust", "hftbacktest", "backtesting", "numba", "numpy")
    found: dict[str, Any] = {**work, "versions": {p: version(p) for p in packages}, "cannot": CANNOT}
    found |= {"orders": [], "combinations": [], "ladder": [], "failed": {}}
    for name, one in (
        ("vectorbt", vectorbt_orders),
        ("hftbacktest", hftbacktest_orders),
        ("backtesting.py", backtesting_orders),
    ):
        before = time.perf_counter()
        try:
            for part, results in one(price, begin, work["entries"]).items():
                found[part] += results
        except Exception:
            found["failed"][name] = traceback.format_exc()
            print(f"{name} failed:\n{found['failed'][name]}", file=sys.stderr)
        print(f"{name}: {time.perf_counter() - before:.0f} s", file=sys.stderr)
    Path(path).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
