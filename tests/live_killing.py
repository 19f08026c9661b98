"""Live sessions that are killed (SIGKILL) again and again, at each of the eight exchanges, and what must hold all the same.

    python tests/killing.py --live --kills 200 [--venue okx kraken] [--seed 1] [--faults 0.03]

A real process with a real store trades through a real ccxt client at an exchange in this process, which goes on when the other one is
killed: it places, edits, closes and cancels orders while the market goes on and fills them, also while nobody is there. After some
of the starts, and in the end, the market stands still until the session knows what the exchange knows: every order there is a child that it
knows of, each child was executed once at most, every fill is known, and what works there works here. In the end, too: what was
acknowledged is in the store, balances are what the fills say, the journal is lived through again to the same bytes.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from killing import PATIENCE_S, Child, Market, kill, nothing_lost, stops_have_fired
from live_faults import PRICE, SOL, STEP, client_ids, hold, known_faults, same_fills, told
from local_exchange import _certificates
from session_process import Exchange
from trading_exchange import TradingExchange

from smartorders_lab.brokers.resting import PREFIX as REST
from smartorders_lab.brokers.resting import SOLD
from smartorders_lab.brokers.venues import FACTS
from smartorders_lab.journal import Journal
from smartorders_lab.packing import unpack_ticks
from smartorders_lab.rows import Kind, Role
from smartorders_lab.store import Store
from smartorders_lab.verify import verify

LIMITS = {
    "symbols": [SOL],
    "max_order": 5000,
    "max_symbol": 100_000,
    "max_day": 100_000_000,
    "max_orders": 50,
    "max_distance": "20%",
}
RESTS = {"nothing": {}, "levels": {"levels": "resting"}, "stops": {"protective_stop": "0.2%"}}
"""What rests at the exchange: another one with each start, so that what one life has left there is the next one's to clear away."""


class Floor(Exchange):
    """One exchange that trades; its prices fill what rests there, sometimes in part."""

    def __init__(self, venue: str, seed: int):
        super().__init__(venue)
        self.server = self.trading = TradingExchange([venue])
        self.ledger = self.trading.ledger(venue)
        self.ledger.total["USDT"] = Decimal(30_000)
        self._dice = random.Random(seed)

    def publish(self, *prices: float, symbol: str = SOL, **how: Any) -> list[Any]:
        """The market trades at these prices."""

        def move() -> list[Any]:
            for price in prices:
                self.trading.move(
                    symbol, price, self._dice.randint(1, 3000) * STEP if self._dice.random() < 0.3 else None
                )
            return self.trading.tape[symbol][-len(prices) :]

        return self.do(move)

    def truth(self) -> dict[str, tuple[bool, dict[str, int]]]:
        """Of each order by its client id: whether it works, and its fills."""

        def look() -> dict[str, tuple[bool, dict[str, int]]]:
            hold(max(self.ledger.executions.values(), default=0) <= 1, "a client id was executed twice")
            names = client_ids(self.ledger)
            return {
                names[id(order)]: (order.open, {fill.id: int(fill.amount / STEP) for fill in order.fills})
                for order in self.ledger.orders.values()
            }

        return self.do(look)


def differs(floor: Floor, knows: dict[str, Any], last: float) -> str:
    """What a session does not know, or not yet, of what the exchange knows; empty if it knows all."""
    truth, names, rests = floor.truth(), dict[str, str](), knows["rests"]
    for name, (_, _, _, before) in knows["children"].items():
        names |= dict.fromkeys([name, *before], name)
    for name, (works, fills) in truth.items():
        if name.startswith(REST) and works != (name in rests):
            return f"{name} rests at the exchange: {works}, with fills {fills}, and the session knows of {rests}"
    executed = Counter(names.get(name, f"orphan {name}") for name in truth if not name.startswith(REST))
    for name, count in executed.items():
        hold(count == 1, "one child was executed more than once", name, names)
        if name.startswith("orphan"):  # or asked for since the session has said what it knows
            return f"the exchange has an order that no child asked for: {name}"
    for name, (works, doubtful, fills, before) in knows["children"].items():
        there = [truth[one] for one in (name, *before) if one in truth]
        if doubtful:
            return f"{name} is in doubt"
        fills = {trade: units for trade, units in fills.items() if not trade.startswith(SOLD)}
        works = works and name not in rests.values()  # it is what rests
        if (works, fills) != (there[0] if there else (False, {})):
            return f"{name}: works, fills {works, fills}, at the exchange {there}"
    if knows["last"] not in (None, round(last / float(PRICE))):
        return f"the last price is {last}, the session has {knows['last']}"
    return ""


def settle(child: Child, floor: Floor, since: int, last: float) -> None:
    """Wait until the session knows what the exchange knows, while the market stands still."""
    end, seen, why = time.monotonic() + PATIENCE_S, since, ""
    while True:
        hold(time.monotonic() < end, f"after {PATIENCE_S} s the session and the exchange still differ", why)
        knows = child.wait("knows", seen)
        seen = len(child.said)
        why = differs(floor, knows, last)
        if not why:
            return


def kill_at(child: Child, folder: Path, kills: int, venue: str, seed: int, faults: float) -> Counter[str]:
    """So many kills at one exchange, then an end, and all checks; returns what has happened how often."""
    dice, store, begin = random.Random(f"{seed} {venue}"), folder / f"{venue}.duckdb", len(child.said)
    seen = Counter(kills=kills)
    with Floor(venue, seed) as floor:
        if faults:
            slow = ("late before",)  # nobody delivers it
            floor.trading.chaos = (
                random.Random(seed),
                faults,
                [name for name in known_faults(venue) if name not in slow],
            )
            floor.trading.chaotic = ("create", "cancel", "order", "open", "closed", "trades")
        job: dict[str, Any] = {"venue": venue, "port": floor.trading.port, "store": str(store), "limits": LIMITS}
        with Market(floor, seed) as market:
            for number in range(kills):
                rests = dice.choice([*RESTS])
                job["how"] = {**RESTS[rests], "streams": dice.random() < 0.5}
                seen[f"rests: {rests}"] += 1
                if not number or dice.random() < 0.7:
                    seen += kill(child, floor, dice, seed=seed * 10_000 + number, **job)
                    continue
                pid, since = child.start(quiet=True, **job)
                child.wait("started", since)
                with market.still:
                    if market.trades:
                        floor.publish(float(market.trades[-1].price))
                        settle(child, floor, len(child.said), float(market.trades[-1].price))
                    os.kill(pid, signal.SIGKILL)
                    assert child.wait("gone", since) == -signal.SIGKILL, child.said[since:]
                seen["looked at"] += 1
        floor.trading.chaos, job["how"] = None, {}
        pid, since = child.start(quiet=True, **job)
        child.wait("started", since)
        last = float(market.trades[-1].price)
        for _ in range(2):  # what is being closed may have to meet another tick
            floor.publish(last)
            settle(child, floor, len(child.said), last)
        os.kill(pid, signal.SIGTERM)
        state = child.wait("finished", since)
        assert child.wait("gone", since) == 0
        return seen + check(floor, store, child.said[begin:], state)


def check(floor: Floor, store: Path, said: list[dict[str, Any]], state: dict[str, Any]) -> Counter[str]:
    """All that must hold of what is on disk, and at the exchange."""
    with Store(store, read_only=True) as opened:
        journal = Journal.open(opened, opened.sessions()["session"][0])
        events, entries, ours = journal.events(), [*journal.entries()], told(journal)
        verdict = verify(opened, journal.id)
    orders = {order["order"]: order for order in state["orders"]}
    lives = {n: events[events["order"] == n] for n in orders}
    nothing_lost(said, events, entries, orders)
    seen = same_fills(floor.ledger, ours, {"USDT": Decimal(30_000)})
    hold(verdict.ok, "the journal does not lead there", verdict)

    # What an order holds is what it has bought, less fees in coins and what it has sold.
    filled = events[events["kind"] == Kind.FILLED]
    hold(len(filled) == seen["fills"], "fills and events differ", len(filled), seen["fills"])
    signs = np.where(np.isin(filled["role"], (Role.ENTRY, Role.ADD_FUNDS)), 1, -1)
    whose = {name: n for (n, _), names in ours.attempts.items() for name in names}
    fees: dict[int, Decimal] = defaultdict(Decimal)
    for (name, _), fill in ours.fills.items():
        fees[whose[name]] += sum((Decimal(cost) + STEP for coin, cost in fill.fees if coin == "SOL"), Decimal(0))
    for n, order in orders.items():
        mine = filled["order"] == n
        bought = int((signs[mine] * filled["quantity"][mine]).sum()) * STEP
        gone = bought - Decimal(order["held"] or 0)
        hold(0 <= gone <= fees[n], "an order holds something else", n, order, bought)
    blocks = [unpack_ticks(body).price for _, kind, body in entries if kind == "ticks"]
    if blocks:
        stops_have_fired(orders, lives, Decimal(state["symbols"][SOL]["price"]), np.concatenate(blocks))
    hold(floor.ledger.total["SOL"] >= 0, "more was sold than bought", floor.ledger.total)
    seen["orders"] = len(orders)
    seen["sent again"] = seen["attempts"] - len(ours.attempts)
    seen["alerts"] = int((events["kind"] == Kind.ALERT).sum())
    return seen + Counter(order["status"] for order in orders.values())


def live_killing(
    folder: Path,
    kills: int,
    names: Sequence[str] = (),
    seed: int = 1,
    faults: float = 0.0,
    note: Callable[[str], None] = print,
) -> Counter[str]:
    """So many kills over these exchanges in turn; returns what has happened how often."""
    names, seen = names or [*FACTS], Counter[str]()
    child = Child(live=True, certificates=str(_certificates()[0].parent))
    try:
        for n, venue in enumerate(names):
            part = kill_at(child, folder, kills // len(names) + (n < kills % len(names)), venue, seed, faults)
            note(f"{venue}: {dict(part)}")
            seen += part
    finally:
        child.close()
    return seen
