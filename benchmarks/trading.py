"""A session at work: many watched orders, ticks at a steady pace, a real store and ledger; from the tick to the intent on disk."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import smartorders_lab as so
from smartorders_lab.book import FORMAT, Book
from smartorders_lab.brokers.paper import PaperBroker
from smartorders_lab.journal import Journal
from smartorders_lab.messages import Block

from .scale import Scale
from .table import Row, count
from .tape import walk

SYMBOL = "A/B:B"
RATE = 1_000
"""Ticks a second, one block each: as a busy market sends them."""


class Timed:
    """A journal that notes when it has made an intent durable."""

    def __init__(self, journal: Journal):
        self.journal, self.began = journal, 0.0
        self.delays, self.due, self.commits = list[float](), list[float](), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)

    def append(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None = None) -> int:
        last = self.journal.append(entries, events)
        self.commits += 1
        if any(kind == "intent" for kind, _ in entries):
            self.delays.append(time.perf_counter() - self.began)
            self.due.append(self.began)
        return last


def rows(scale: Scale) -> Iterator[Row]:
    """Delays at a steady pace, then the memory over as many ticks as an hour brings, as fast as they go."""
    number, seconds = scale.trading
    ticks = seconds * RATE + scale.hour
    price = walk(ticks + 1, step=2e-5)
    ts = 1_700_000_000 * 10**9 + np.arange(ticks + 1) * (10**9 // RATE)
    instrument = so.Instrument(symbol=SYMBOL, price_increment="0.01", quantity_increment="0.001")
    fills = so.FillModel(fee_taker="0.1%")
    meta = {"format": FORMAT, "fills": fills.to_dict(), "poll_ns": 0, "outlier": None}
    with tempfile.TemporaryDirectory() as folder, so.Store(Path(folder) / "session.duckdb") as store:
        journal = Timed(Journal.create(store, meta))
        broker = PaperBroker(Path(folder) / "paper", fills)
        book = Book(journal, broker, time.time_ns)
        book.resume()
        book.open_market(instrument)
        book.feed(Block(SYMBOL, ts[:1], price[:1]))
        place(book, price[0] / 100, number)
        book.feed(Block(SYMBOL, ts[1:2], price[1:2]))
        journal.delays.clear()
        journal.due.clear()
        late, begin = 0.0, time.perf_counter()
        for k in range(2, seconds * RATE):
            due = begin + k / RATE
            while (now := time.perf_counter()) < due:
                time.sleep(max(0.0, min(due - now, 0.0005)))
            late = max(late, now - due)
            journal.began = due  # what waits behind another tick's commit has waited too
            book.feed(Block(SYMBOL, ts[k : k + 1], price[k : k + 1]))
            if k % (RATE // 4) == 0:
                book.flush()
        took = time.perf_counter() - begin
        size = f"{count(number)} orders, {RATE:,} ticks/s for {seconds} s"
        kept = took < seconds * 1.02
        early = sum(due < begin + seconds / 4 for due in journal.due)
        for work, delays in (
            ("tick to intent on disk, all placed just now", journal.delays[:early]),
            ("tick to intent on disk, from then on", journal.delays[early:]),
        ):
            p50, p99 = np.quantile(delays or [np.nan], [0.5, 0.99]) * 1e3
            text = f"p50 {p50:.1f} ms, p99 {p99:.1f} ms"
            yield Row(work, size, text, f"{len(delays)} intents", None, "", None)
        yield Row(
            "keeps up",
            size,
            f"{took:.1f} s, at most {late * 1e3:.0f} ms behind",
            f"{seconds} s",
            took / seconds,
            "≤ 1.02",
            kept,
        )
        held: list[int] = []
        first, begin = seconds * RATE, time.perf_counter()
        for k in range(first, ticks, 250):
            held.append(memory())
            book.feed(Block(SYMBOL, ts[k : k + 250], price[k : k + 250]))
            book.flush()
            if journal.last - book.covered > 20_000:
                book.compact()
        took, half = time.perf_counter() - begin, len(held) // 2
        early, late_on = (float(np.median(part)) for part in (held[:half], held[half:]))
        size = f"{count(number)} orders, {count(scale.hour)} ticks"
        text = f"{early / 2**20:.0f} → {late_on / 2**20:.0f} MiB, {scale.hour / took:,.0f} ticks/s"
        yield Row(
            "memory over an hour, sped up",
            size,
            text,
            "median of its first half → of its second",
            None,
            "≤ 32 MiB more",
            late_on - early <= 32 * 2**20,
        )
        broker.close()


def place(book: Book, price: float, number: int) -> None:
    """Orders of four kinds, exits from near to far, so that some of them trigger all the time."""
    rng = np.random.default_rng(5)
    for n in range(number):
        away = float(np.round(10 ** rng.uniform(-3.2, -1), 5))
        order: dict[str, Any] = {"symbol": SYMBOL, "side": "buy" if n % 2 else "sell", "quantity": 1}
        sign = "" if n % 2 else "-"
        order["take_profits"] = [(f"{sign}{away * (k + 1):.3%}", size) for k, size in enumerate((40, 30, 30))]
        order["stop_loss"] = f"{'-' if n % 2 else ''}{2 * away:.3%}"
        if n % 4 > 1:
            order["trailing_stop"], order["break_even"] = f"{2 * away:.3%}", True
        book.place(so.SmartOrder(**order))


def memory() -> int:
    """Bytes that this process holds now; where the system does not say, at most so far."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
