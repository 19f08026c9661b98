"""Sessions in processes of their own, which a test kills at any moment, and the exchange that they listen to.

    python tests/session_process.py '{"store": "lab.duckdb", "venue": "binance", "port": 8443, "certificates": "/tmp/…"}'

For each line on stdin, `{"seed": 7}`, a process is forked that resumes the session and places and edits orders at random. Each call that
has returned is said on stdout, one line of JSON. With `"until": id` it does nothing of its own: it waits until that trade has come, says
what it has, and ends. A fork has all imports done, and its threads are its own, since none are left from before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import local_exchange
import numpy as np
from book_run import Plan, Tape, drive
from local_exchange import LocalExchange, client, closed

import smartorders_lab as so
from smartorders_lab.feeds import live
from smartorders_lab.feeds.live import LiveFeed
from smartorders_lab.session import Session

SOL, ETH, SWAP = local_exchange.SYMBOLS
SIDES = ("buy", "sell")
QUICK: dict[str, Any] = {"pause": "1ms", "poll_interval": "20ms", "late_after": "20s"}
"""No trade is late for a machine that has stood still for a while: no entry would be opened on it."""


async def goodbye() -> None:
    """Wait until TLS has said it in the background, since the loop is about to end; who does not answer is cut off."""
    loop: Any = asyncio.get_running_loop()

    def closing() -> list[Any]:
        found = []
        for fd in [*loop._selector.get_map()]:
            transport = loop._transports.get(fd)
            if transport is not None:
                state = getattr(getattr(transport.get_protocol(), "_state", None), "name", "")
                if transport.is_closing() or state in ("FLUSHING", "SHUTDOWN"):
                    found.append(transport)
        return found

    end = time.monotonic() + 5
    while left := closing():
        if time.monotonic() > end:
            for transport in left:
                transport.abort()
        await asyncio.sleep(0.002)


def parting(client: Any) -> Any:
    """A ccxt client whose `close` waits until all that belongs to it is closed."""
    shut = client.close

    async def close() -> None:
        client.close = shut
        await local_exchange.closed(client)
        await goodbye()

    client.close = close
    return client


class Local:
    """The live feed of one venue of a LocalExchange, whose client is made in the session's loop."""

    real_time = True

    def __init__(self, venue: str, port: int, **options: Any):
        self.name, self._port, self._options = venue, port, QUICK | options
        self.live: LiveFeed

    async def open(self) -> None:
        self._client = client(self.name, SimpleNamespace(port=self._port))  # type: ignore[arg-type]
        self.live = LiveFeed(self.name, client=self._client, **self._options)
        await self.live.open()

    def __getattr__(self, name: str) -> Any:
        if name == "live":
            raise AttributeError(name)
        return getattr(self.live, name)

    async def close(self) -> None:
        await self.live.close()
        await closed(self._client)
        await goodbye()


class Exchange:
    """A LocalExchange in a thread and a loop of its own."""

    def __init__(self, *venues: str):
        self.server = LocalExchange(venues)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="exchange", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.wait(self.server.up())
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(self.server.down())
        self.wait(goodbye())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def do(self, work: Callable[[], Any]) -> Any:
        async def coroutine() -> Any:
            return work()

        return self.wait(coroutine())

    def publish(self, *prices: float, symbol: str = SOL, **how: Any) -> list[Any]:
        """Trades at these prices happen."""
        server = self.server
        return self.do(lambda: server.publish([server.trade(price, **how) for price in prices], symbol))

    @property
    def certificates(self) -> str:
        return str(local_exchange._certificates()[0].parent)


# ------------------------------------------------------------------------------------------------------ what it does


LADDER = [("0.2%", 40), ("0.5%", 35), ("0.9%", 25)]


def random_order(
    dice: random.Random, symbol: str, price: float, sides: tuple[str, ...] = SIDES, kind: str = "market"
) -> so.SmartOrder:
    """Some order near a price: entries at once or a little away, targets and stops so close that they are reached within seconds.

    `kind`: of its levels.
    """
    side = dice.choice(sides)
    way, gain, loss = (1, "+", "-") if side == "buy" else (-1, "-", "+")
    near = round(price * (1 - way * dice.choice([0.0005, 0.001, 0.002])), 2)
    entry = dice.choice([None, None, so.Entry.limit(near)])
    levels = dice.choice([LADDER, [("0.4%", 100)]])
    trailing = dice.choice([None, None, "0.4%"])
    given: dict[str, Any] = {"entry": entry} if entry is not None else {}
    if dice.random() < 0.7 and len(levels) > 1:
        given["break_even"] = True
    return so.SmartOrder(
        symbol=symbol,
        side=side,
        quantity=str(Decimal(dice.randint(1000, 9000)) / 1000),
        take_profits=[so.TakeProfit(target=gain + away, size=size, kind=kind) for away, size in levels],
        stop_loss=loss + dice.choice(["0.3%", "0.6%"]),
        trailing_stop=trailing,
        **given,
    )


def say(**line: Any) -> None:
    os.write(1, json.dumps(line).encode() + b"\n")  # at once and whole, unlike print()


def play(
    session: Session, symbol: str, seed: int, compacting: bool, sides: tuple[str, ...] = SIDES, kind: str = "market"
) -> None:
    """Calls at random, each said when it has returned, for ever."""
    dice, done = random.Random(seed), 0
    while True:
        state = session.state()
        price = float(state["symbols"].get(symbol, {}).get("price", 150))
        living = [order for order in state["orders"] if order["status"] in ("PENDING", "ACTIVE", "PARTIALLY_CLOSED")]
        done += 1
        mark = f"{seed}-{done}"
        if len(living) < 8 or dice.random() < 0.1:
            order = random_order(dice, symbol, price, sides, kind)
            number = session.place(order, key=mark)
            say(did="place", order=number, version=session.order(number)["version"], key=mark, spec=order.to_json())
        else:
            order = dice.choice(living)
            way, gain, loss = (1, "+", "-") if order["side"] == "buy" else (-1, "-", "+")
            number, name = (
                order["order"],
                dice.choice(["edit"] * 6 + ["add", "reduce", "take", "open_now", "close", "cancel", "refresh"]),
            )
            try:
                if name == "edit":
                    # what is edited says which edit it was
                    changes: dict[str, Any] = {"note": mark}
                    if dice.random() < 0.6:
                        changes["stop_loss"] = loss + dice.choice(["0.3%", "0.5%", "0.8%"])
                    if dice.random() < 0.2:
                        changes["take_profits"] = [
                            so.TakeProfit(target=gain + away, size=size, kind=kind)
                            for away, size in dice.choice([LADDER, LADDER[1:], [("0.3%", 50), ("0.6%", 50)]])
                        ]
                    version = session.edit(number, version=dice.choice([None, order["version"]]), **changes)
                elif name == "add":
                    limit = dice.choice([None, round(price * (1 - way * 0.001), 2)])
                    version = session.add_funds(number, quantity="0.5", price=limit)
                elif name == "reduce":
                    limit = dice.choice([None, round(price * (1 + way * 0.001), 2)])
                    most = Decimal(order["held"] or 1) * dice.choice([5, 9]) / 10
                    most = max(Decimal("0.001"), most.quantize(Decimal("0.001")))
                    some = dice.choice([Decimal("0.1"), Decimal("0.5"), most])
                    version = session.reduce_funds(number, quantity=str(some), price=limit)
                elif name == "take":
                    version = session.take_profit(number, dice.randint(1, 3))
                elif name == "open_now":
                    version = session.open_now(number)
                elif name == "close":
                    version = session.close_at_market(number)
                elif name == "cancel":
                    version = session.cancel(number) if order["held"] in (None, "0") else 0
                else:
                    session.refresh()
                    version = 0
                say(did=name, order=number, version=version, key=mark)
            except so.ActionError as error:
                say(refused=name, order=number, why=str(error))
        if compacting and done % 40 == 0:
            session.compact()
        time.sleep(dice.random() * 0.02)


def finish(session: Session, symbol: str, until: int) -> None:
    """Wait until the trade with this id has come, then for two more that what is being closed can meet, and say what there is."""
    market = session.book.markets[symbol]
    for last in (until, until + 2):
        while str(last) not in live._unpacked(json.loads(market.token or '{"ids": []}')["ids"]):
            time.sleep(0.02)
        say(caught_up=last)
    session.refresh()
    say(finished=session.state())


def run(about: dict[str, Any], job: dict[str, Any]) -> None:
    """One life of the session."""
    symbol = about.get("symbol", SOL)
    feed = Local(about["venue"], about["port"], late_after=job.get("late_after", "1s"))
    with so.paper(feed=feed, store=about["store"], name="killed", outlier=None, fills={"fee_taker": "0.1%"}) as session:
        say(started=session.journal.changes, versions={n: session.book.version(n) for n in session.book.specs})
        if "until" in job:
            finish(session, symbol, job["until"])
        else:
            play(session, symbol, job["seed"], about.get("compacting", False))


def warm() -> None:
    """Everything is loaded and compiled before the first fork; nothing that keeps threads of its own, as polars does, is used."""
    import ccxt.pro  # noqa: F401
    import duckdb  # noqa: F401

    instrument = so.Instrument(symbol="A/B", price_increment="0.01", quantity_increment="0.001")
    price = np.rint(10_000 + 100 * np.sin(np.arange(2000) / 50)).astype(np.int64)
    tape = Tape(instrument, np.arange(2000) * 10**9 + 10**18, {"price": price}, np.ones(2000))
    dice = random.Random(1)
    steps: list[Any] = [("feed", "A/B", 10), *[("place", random_order(dice, "A/B", 100)) for _ in range(20)]]
    steps += [
        ("act", 0, "edit", {"changes": {"note": "x"}}),
        ("late", "A/B", 100),
        ("feed", "A/B", 2000),
        ("snapshot",),
    ]
    drive(Plan({"A/B": tape}, steps))


def end_with_parent() -> None:
    """Nobody is left behind when a test is killed (on Linux, where there is a way)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


# ------------------------------------------------------------------------------------------------------ with real orders


def run_live(about: dict[str, Any], job: dict[str, Any]) -> None:
    """One life of a live session. The job names exchange, port, store, limits, and in `how` more of what it is begun with; with
    `"quiet": true` it does nothing of its own and says again and again what it knows, until it is told to end by SIGTERM. Without
    `"late_after"` it waits long for trades that are missing: its last price is the market's, never that of one which came late."""
    from live_faults import connecting, quick
    from trading_exchange import Far

    from smartorders_lab.trading import live as trading

    ending = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ending.set())
    far = Far(job["port"], str(Path(about["certificates"]) / "authority.pem"))
    with (
        quick(),
        trading(
            job["venue"],
            store=job["store"],
            confirm="live",
            limits=job["limits"],
            feed=Local(job["venue"], job["port"], late_after=job.get("late_after", "1m")),
            client=connecting(job["venue"], far),
            outlier=None,
            **job.get("how", {}),
        ) as session,
    ):
        say(started=session.journal.changes, versions={n: session.book.version(n) for n in session.book.specs})
        if not job.get("quiet"):
            play(session, SOL, job["seed"], False, ("buy",), random.Random(job["seed"]).choice(["market", "limit"]))
        while not ending.wait(0.1):
            say(knows=session._do(lambda: knows(session)))
        state = session.state()
    say(finished=state)


def knows(session: Session) -> dict[str, Any]:
    """What a session knows of its child orders, each by its last client id: whether it works, whether that is in doubt, its fills,
    the earlier client ids; of what rests beside them, which child it is; and the last price, None if nothing watches the market."""
    book = session.book
    children = {}
    for key, job in book.jobs.items():
        doubtful = job.open and (job.recalled or job.doubted or job.state not in ("working", "done", "rejected"))
        before = [name for name, other in book.by_client.items() if other == key and name != job.submit.client_id]
        children[job.submit.client_id] = [job.open, doubtful, job.fills, before]
    market = book.markets.get(SOL)
    watches = market is not None and any(desk.busy for desk in market.desks.values())
    rests: Any = cast("Any", session.broker).rests
    beside = {name: rest.child for rest in rests._rests.values() for name in (rest.client_id, f"sr{rest.id}")}
    return {"children": children, "rests": beside, "last": market.last.get("price") if watches else None}


def warm_live() -> None:
    """Load what trading needs as well."""
    import live_faults  # noqa: F401
    import trading_exchange

    trading_exchange._learn()


def main() -> None:
    end_with_parent()
    about = json.loads(sys.argv[1])
    folder = Path(about["certificates"])
    paths = folder / "authority.pem", folder / "certificate.pem", folder / "key.pem"
    local_exchange._certificates = lambda: paths  # type: ignore[assignment]
    warm()
    if about.get("live"):
        warm_live()
    gc.collect()
    say(warm=threading.active_count())
    for line in sys.stdin:
        child = os.fork()
        if not child:
            end_with_parent()
            code = 1
            try:
                (run_live if about.get("live") else run)(about, json.loads(line))
                code = 0
            except BaseException as error:
                import traceback

                traceback.print_exc()
                say(failed=f"{type(error).__name__}: {error}")
            os._exit(code)
        say(pid=child)
        say(gone=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
