"""A notebook cell that blocks: how long after a tick its trigger is on disk, while the main thread sleeps or computes."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

import smartorders_lab as so
from smartorders_lab.messages import Block
from smartorders_lab.rows import Kind, Role

from .scale import Scale
from .table import Row, span

PAUSE_S = 0.1
"""Between two ticks, each of which triggers one order."""
SYMBOL = "BTC/USDT"


def rows(scale: Scale) -> Iterator[Row]:
    """From the moment at which a tick is due to the one at which the fill of its order is durable, in DuckDB."""
    number = 20 * scale.processes
    quiet = None
    for name, work in (
        ("idle", wait),
        ("time.sleep", sleep),
        ("a loop in Python", spin),
        ("numpy", sort),
        ("pandas", group),
    ):
        delays = delay(number, work)
        p50, p99 = (float(np.quantile(delays, q)) for q in (0.5, 0.99))
        quiet = quiet or p50
        size = f"{number} triggers, {name}"
        reference = "" if name == "idle" else f"idle: {span(quiet)}"
        yield Row(
            "trigger → on disk",
            size,
            f"p50 {span(p50)}, p99 {span(p99)}, worst {span(max(delays))}",
            reference,
            p50 / quiet,
        )


def delay(number: int, work: Callable[[threading.Event], None]) -> list[float]:
    """Seconds from due to durable for each of so many orders, while `work` has the main thread."""
    feed, durable = Pulse(number), dict[int, float]()
    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder, so.paper(feed=feed, store=Path(folder) / "lab.duckdb") as session:
        told = session.book.told

        def heard(first: int, events: np.ndarray) -> None:
            now = perf_counter()
            sold = events[(events["kind"] == Kind.FILLED) & (events["role"] == Role.TAKE_PROFIT)]
            for order in sold["order"].tolist():
                durable.setdefault(order, now)
            if len(durable) == number:
                over.set()
            told(first, events)

        for k in range(number):
            levels = [(f"{100.01 + k / 100:.2f}", 100)]
            session.place(so.SmartOrder(symbol=SYMBOL, side="buy", quantity=1, take_profits=levels, stop_loss="-50%"))
        feed.enter()
        while (session.orders()["status"] != "ACTIVE").any():
            time.sleep(0.01)
        session.book.told = heard
        feed.go()
        work(over)
        over.wait()
        if (session.orders()["status"] != "CLOSED").any():
            raise AssertionError("every order should have been closed by its own tick")
    return [durable[k] - feed.due[k] for k in range(number)]


def wait(over: threading.Event) -> None:
    over.wait()


def sleep(over: threading.Event) -> None:
    while not over.is_set():
        time.sleep(3)


def spin(over: threading.Event) -> None:
    count = 0
    while not over.is_set():
        for _ in range(1_000_000):
            count += 1


def sort(over: threading.Event) -> None:
    values = np.random.default_rng(1).normal(size=5_000_000)
    while not over.is_set():
        np.sort(values)


def group(over: threading.Event) -> None:
    import pandas as pd

    dice = np.random.default_rng(1)
    frame = pd.DataFrame({"key": dice.integers(0, 50_000, 2_000_000), "value": dice.normal(size=2_000_000)})
    while not over.is_set():
        frame.groupby("key")["value"].rank()


class Pulse:
    """A feed whose price rises with each tick: the first comes with `enter`, the others at a steady pace from `go` on."""

    name, real_time = "pulse", False

    def __init__(self, number: int):
        self.due = [0.0] * number
        self._at = -1
        self._begin = 0.0

    async def open(self) -> None:
        self._loop, self._started, self._gone, self._over = (
            asyncio.get_running_loop(),
            *(asyncio.Event() for _ in range(3)),
        )

    def instrument(self, symbol: str) -> so.Instrument:
        return so.Instrument(symbol=symbol, price_increment="0.01", quantity_increment="0.001")

    async def start(self, symbol: str, triggers: frozenset[str] = frozenset(), token: str = "") -> None:
        pass

    async def stop(self, symbol: str) -> None:
        pass

    def enter(self) -> None:
        self._loop.call_soon_threadsafe(self._started.set)

    def go(self) -> None:
        self._loop.call_soon_threadsafe(self._gone.set)

    async def next(self) -> Any:
        await self._started.wait()
        at = self._at
        if at == len(self.due):
            await self._over.wait()
        elif at < 0:
            self._at = 0
        else:
            await self._gone.wait()
            self._begin = self._begin or perf_counter() + PAUSE_S
            self.due[at] = self._begin + at * PAUSE_S
            await asyncio.sleep(max(0.0, self.due[at] - perf_counter()))
            self._at += 1
        return Block(SYMBOL, np.array([10**18 + (at + 1) * 10**9]), np.array([10_001 + at]), token=str(at))

    async def close(self) -> None:
        for event in (self._started, self._gone, self._over):
            event.set()
