"""Sessions that are killed (SIGKILL) again and again, and what must hold all the same.

    python tests/killing.py --kills 200 [--venue binance] [--compacting] [--seed 1]
    python tests/killing.py --live --kills 200 [--venue okx kraken] [--faults 0.03]         see live_killing.py

A real process with a real store listens to a local exchange over real sockets, places and edits orders, and is killed at random moments,
also while it starts, while the market goes on. In the end: what was acknowledged is there, no child order was carried out twice, what the
orders hold is what the ledger filled, and every stop that was crossed, also while nobody was there, has fired.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.testing import assert_array_equal
from session_process import SOL, Exchange

from smartorders_lab.brokers.paper import PaperBroker
from smartorders_lab.execution import client_id
from smartorders_lab.fills import FillModel
from smartorders_lab.journal import Journal
from smartorders_lab.packing import unpack_ticks
from smartorders_lab.rows import NONE, Kind, Status
from smartorders_lab.store import Store

PATIENCE_S = 120
"""How long anything may take before it counts as stuck."""


class Child:
    """The process that forks the session, and what the session says."""

    def __init__(self, **about: Any):
        program = Path(__file__).with_name("session_process.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), json.dumps(about)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.said: list[dict[str, Any]] = []
        self._life: tuple[int, int] | None = None
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        try:
            self.wait("warm", patience_s=5 * PATIENCE_S)  # it may have to compile everything
        except BaseException:
            self._process.kill()
            self.close()
            raise

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.said.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.said.append({"over": True})
            self._news.notify_all()

    def wait(self, word: str, since: int = 0, patience_s: float = PATIENCE_S) -> Any:
        """What was said under this word, waited for."""

        def found() -> dict[str, Any] | None:
            return next(
                (line for line in self.said[since:] if word in line or "failed" in line or "over" in line), None
            )

        with self._news:
            assert self._news.wait_for(found, patience_s), f"nothing of {word!r} in {patience_s} s: {self.said[-3:]}"
            line = found()
        assert line is not None
        assert word in line, line
        return line[word]

    def start(self, **job: Any) -> tuple[int, int]:
        """A new life; returns its process id and where what it says begins."""
        since = len(self.said)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        self._life = self.wait("pid", since), since
        return self._life

    def close(self) -> None:
        """The end, also of a life that a failed test has left behind."""
        if self._life is not None and not any("gone" in line for line in self.said[self._life[1] :]):
            os.kill(self._life[0], signal.SIGKILL)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        self._thread.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Market:
    """A random walk that is published until it is told to stop."""

    def __init__(self, exchange: Exchange, seed: int, symbol: str = SOL, pause_s: float = 0.05):
        self.exchange, self.symbol, self.pause_s = exchange, symbol, pause_s
        self.trades: list[Any] = []
        self._dice = random.Random(seed)
        self._price = 150.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._walk)
        self.still = threading.Lock()
        """Whoever holds it stops the market."""

    def _walk(self) -> None:
        while not self._over.wait(self._dice.random() * 2 * self.pause_s):
            prices = []
            for _ in range(self._dice.randint(1, 3)):
                self._price = round(self._price * (1 + self._dice.gauss(0, 0.0004)), 2)
                prices.append(self._price)
            with self.still:
                self.trades += self.exchange.publish(*prices, symbol=self.symbol)

    def __enter__(self) -> Market:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def kill(child: Child, exchange: Exchange, dice: random.Random, **job: Any) -> Counter[str]:
    """One life that does as it likes, and its end at any moment; returns what has happened how often."""
    pid, since = child.start(late_after=dice.choice(["1s", "1m", "1m", "1m"]), **job)
    if dice.random() < 0.7:
        child.wait("started", since)
    time.sleep(dice.random() * dice.choice([0.1, 0.5, 2]))
    if dice.random() < 0.2:
        exchange.do(exchange.server.drop)
    os.kill(pid, signal.SIGKILL)
    assert child.wait("gone", since) == -signal.SIGKILL, child.said[since:]
    mine = child.said[since:]
    return Counter(
        {
            "killed before it was there": not any("started" in line for line in mine),
            "acknowledged": sum("did" in line for line in mine),
            "refused": sum("refused" in line for line in mine),
        }
    )


def killing(
    folder: Path,
    kills: int,
    venue: str = "binance",
    compacting: bool = False,
    seed: int = 1,
    note: Callable[[str], None] = print,
) -> Counter[str]:
    """So many lives and deaths, then one that ends well, and all checks; returns what has happened how often."""
    dice, store, begin = random.Random(seed), folder / "killed.duckdb", time.time()
    with Exchange(venue) as exchange:
        about = {
            "store": str(store),
            "venue": venue,
            "port": exchange.server.port,
            "certificates": exchange.certificates,
            "compacting": compacting,
        }
        child = Child(**about)
        seen = Counter[str]()
        try:
            with Market(exchange, seed) as market:
                for number in range(kills):
                    seen += kill(child, exchange, dice, seed=seed * 10_000 + number)
                    if number % 20 == 19:
                        note(
                            f"{time.time() - begin:.0f} s, {number + 1} kills: {dict(seen)}, {len(market.trades)} trades"
                        )
            _, since = child.start(until=market.trades[-1].id)
            child.wait("caught_up", since)
            market.trades += exchange.publish(*[float(market.trades[-1].price)] * 2)
            state = child.wait("finished", since)
            assert child.wait("gone", since) == 0
        finally:
            child.close()
    seen["kills"], seen["trades"] = kills, len(market.trades)
    seen.update(check(store, child.said, market.trades, state, compacting))
    return seen


def check(
    store: Path, said: list[dict[str, Any]], trades: list[Any], state: dict[str, Any], compacted: bool
) -> Counter[str]:
    """All that must hold of what is on disk."""
    seen = Counter[str]()
    with Store(store) as opened:
        journal = Journal.open(opened, "killed")
        events, entries = journal.events(), [*journal.entries()]
        id = journal.id
    orders = {order["order"]: order for order in state["orders"]}
    lives = {n: events[events["order"] == n] for n in orders}
    nothing_lost(said, events, None if compacted else entries, orders)

    # No child was carried out twice, and what orders hold is what the ledger says.
    broker = PaperBroker(Path(f"{store}.{id}.paper"), FillModel(fee_taker="0.1%"))
    broker.close()
    asked: dict[tuple[int, int], list[Any]] = defaultdict(list)
    known = {client_id(id, n, c, a): (n, c) for n in orders for c in range(200) for a in range(1, 6)}
    for name, one in broker._children.items():
        asked[known[name]].append(one)
    held: Counter[int] = Counter()
    for (n, _), attempts in asked.items():
        filled = [sum(fill.quantity for fill in one.fills) for one in attempts]
        assert sum(amount > 0 for amount in filled) <= 1
        assert all(amount in (0, one.submit.quantity) for amount, one in zip(filled, attempts, strict=True))
        for one, amount in zip(attempts, filled, strict=True):
            held[n] += one.submit.side * one.submit.direction * amount
            seen["children"] += 1
            seen["fills"] += len(one.fills)
        seen["sent again"] += len(attempts) - 1
    told = events[events["kind"] == Kind.FILLED]
    assert len(told) == seen["fills"]
    for n, order in orders.items():
        assert Decimal(order["held"] or 0) == Decimal(held[n]) / 1000, (n, order, held[n])

    # Every stop that was crossed has fired; every tick came once.
    last = state["symbols"][SOL]
    prices = None
    if not compacted:
        blocks = [unpack_ticks(body) for _, kind, body in entries if kind == "ticks"]
        sizes = np.concatenate([block.size for block in blocks])  # type: ignore[arg-type]
        prices = np.concatenate([block.price for block in blocks])
        ids = np.rint(sizes * 1000).astype(np.int64)
        published = np.array([trade.id for trade in trades])
        assert len(np.unique(ids)) == len(ids)
        for missed in published[(published > ids.min()) & ~np.isin(published, ids)].tolist():
            at = int(np.flatnonzero(ids < missed)[-1])  # a session that comes back to no living order starts now
            living = [n for n, life in lives.items() if life["tick"][0] <= at and not _over_by(life, at)]
            assert not living, (missed, living)
            seen["nobody waited for"] += 1
        seen["out of order"] = int((np.diff(ids) < 0).sum())
        assert last["ticks"] == len(ids)
    stops_have_fired(orders, lives, Decimal(last["price"]), prices)
    return seen + Counter(order["status"] for order in orders.values())


def nothing_lost(
    said: list[dict[str, Any]], events: np.ndarray, entries: list[Any] | None, orders: dict[int, dict[str, Any]]
) -> None:
    """Nothing is missing among events, and nothing that was acknowledged. `entries`: the whole journal, if it is there."""
    assert_array_equal(events["n"], np.arange(1, len(events) + 1))
    for n, order in orders.items():
        assert_array_equal(events[events["order"] == n]["seq"], np.arange(order["version"]), f"order {n}")
    keys: dict[str, int] = {}
    for line in said:
        if "did" in line and line["version"]:
            assert orders[line["order"]]["version"] >= line["version"], line
        if line.get("did") == "place":
            assert keys.setdefault(line["key"], line["order"]) == line["order"]
    assert len(set(keys.values())) == len(keys)
    if entries is not None:
        placed = {data[0]: data for data in _of(entries, "place")}
        assert set(placed) == set(orders)
        edits = Counter(data[2]["changes"]["note"] for data in _of(entries, "action") if data[2]["kind"] == "edit")
        assert max(edits.values(), default=0) <= 1
        for line in said:
            if line.get("did") == "place":
                assert placed[line["order"]][2:] == [line["spec"], line["key"]]
            elif line.get("did") == "edit":
                assert edits[line["key"]] == 1, line


def stops_have_fired(
    orders: dict[int, dict[str, Any]], lives: dict[int, np.ndarray], last: Decimal, prices: np.ndarray | None
) -> None:
    """No order that holds something has a stop that the last price is beyond, nor, with all `prices`, any since its last event."""
    for n, order in orders.items():
        if order["status"] not in ("ACTIVE", "PARTIALLY_CLOSED") or order["stop"] is None:
            continue
        way = 1 if order["side"] == "buy" else -1
        assert way * (last - Decimal(order["stop"])) > 0, (n, order)
        if prices is not None:
            ending = lives[n][-1]
            if ending["stop"] != NONE:
                after = prices[int(ending["tick"]) + 1 :]
                assert (way * (after - int(ending["stop"])) > 0).all(), (n, order)


def _over_by(life: np.ndarray, tick: int) -> bool:
    """Whether an order was over when this tick had been."""
    return bool(life["status"][-1] >= Status.CLOSED and life["tick"][-1] <= tick)


def _of(entries: list[Any], kind: str) -> list[Any]:
    return [json.loads(body) for _, what, body in entries if what == kind]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument(
        "--venue", nargs="*", default=[], help="binance if none is named, with --live all eight in turn"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the store is to be, and stays; it must not be there yet")
    parser.add_argument("--compacting", action="store_true", help="snapshots, and a journal that forgets")
    parser.add_argument("--live", action="store_true", help="live sessions at an exchange that trades")
    parser.add_argument("--faults", type=float, default=0.0, help="with --live: share of requests that meet a fault")
    chosen = parser.parse_args()
    begin = time.time()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.folder is not None:
            chosen.folder.mkdir()
        place, seen = chosen.folder or Path(folder), Counter[str]()
        if chosen.live:
            from live_killing import live_killing

            seen = live_killing(place, chosen.kills, chosen.venue, chosen.seed, chosen.faults)
        else:
            for venue in chosen.venue or ["binance"]:
                (place / venue).mkdir()
                seen += killing(place / venue, chosen.kills, venue, chosen.compacting, chosen.seed)
    print(f"{time.time() - begin:.0f} s: {dict(seen)}")


if __name__ == "__main__":
    main()
