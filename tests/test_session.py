"""Sessions: the calls, the end, what stops them; a blocked cell; a live feed; processes that are killed."""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import killing
from session_process import ETH, SOL, Exchange, Local

import smartorders_lab as so
from smartorders_lab import session as module
from smartorders_lab.links import decode
from smartorders_lab.messages import Block, Notice
from smartorders_lab.serve import Server, discovery_path
from smartorders_lab.session import Session
from smartorders_lab.times import instant_text

BTC = so.Instrument(symbol="BTC/USDT", price_increment="0.01", quantity_increment="0.001")
BEGIN = 10**18
LONG = 60


def ticks_of(prices: Any, symbol: str = "BTC/USDT", begin: int = BEGIN, step: int = 10**9) -> so.Ticks:
    instrument = BTC.model_copy(update={"symbol": symbol})
    ts = begin + step * np.arange(len(prices), dtype=np.int64)
    return so.Ticks.from_arrays(ts, np.asarray(prices, float), instrument=instrument, unit="ns")


def walk(count: int = 20_000, seed: int = 1, **how: Any) -> so.Ticks:
    steps = np.random.default_rng(seed).normal(0, 0.0005, count)
    return ticks_of((100 * np.exp(np.cumsum(steps))).round(2), **how)


def order(**changes: Any) -> so.SmartOrder:
    given: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "quantity": 1}
    given |= {"take_profits": [("+1%", 40), ("+2%", 30), ("+4%", 30)], "stop_loss": "-2%", "break_even": True}
    return so.SmartOrder(**given | changes)


def quick(ticks: so.Ticks | list[so.Ticks]) -> Any:
    """A feed that goes only where it is told to, at once."""
    return so.recorded(ticks, speed=None, paused=True)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.005)


def done(thread: threading.Thread) -> None:
    thread.join(LONG)
    assert not thread.is_alive()


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """Every test closes what it opens, and Python's threads take turns as before."""
    yield
    assert not [*module._OPEN]
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("session")]
    assert sys.getswitchinterval() == 0.005


@pytest.fixture(params=["memory", "store"])
def store(request: Any, tmp_path: Path) -> Path | None:
    return tmp_path / "lab.duckdb" if request.param == "store" else None


# ------------------------------------------------------------------------------------------------------- the calls


def test_a_session_does_what_replay_does(store: Path | None) -> None:
    ticks = walk()
    feed = quick(ticks)
    told: list[dict[str, Any]] = []
    with so.paper(feed=feed, store=store, fills={"fee_taker": "0.1%"}) as session:
        assert (session.status, session.mode, session.name) == ("live", "paper", "paper recorded")
        assert session.wait(0), "nothing is placed, so there is nothing to wait for"
        assert session.orders().is_empty()
        assert "status" in session.orders().columns
        assert session.events().is_empty()
        session.on_event(told.append)
        a = session.place(order(), key="x")
        b = session.place(order(trailing_stop="1%", stop_loss=None))
        assert (a, b, session.place(order(), key="x")) == (0, 1, 0)
        with pytest.raises(so.SpecError, match="key = 'x': is that of order 0, which is another one"):
            session.place(order(tag="other"), key="x")
        feed.play(500)
        assert session.wait(LONG)
        assert session.state()["symbols"]["BTC/USDT"]["ticks"] == 500
        version = session.order(a)["version"]
        after = session.edit(a, stop_loss="-1.5%", version=version)
        assert after == session.order(a)["version"] > version
        with pytest.raises(
            so.StaleVersion, match=f"order 0: version = {version}: the order has moved on to version {after}"
        ):
            session.edit(a, stop_loss="-1%", version=version)
        with pytest.raises(so.ActionRefused, match="use force=True") as refusal:
            session.edit(a, stop_loss=150)
        assert refusal.value.reason == "would_trigger"
        session.add_funds(a, quantity="0.5")
        feed.play(600)
        assert session.wait(LONG)
        session.reduce_funds(a, quantity="0.25")
        assert session.refresh() == session.refresh(a) + session.refresh(b)
        assert decode(session.share(a)) == order(stop_loss="-1.5%")
        feed.play(instant_text(int(ticks.ts[3000])))
        assert session.wait(LONG)
        assert session.state()["symbols"]["BTC/USDT"]["ticks"] == 3000
        c = session.place(order(entry=so.Entry.limit(50)))
        session.cancel(c)
        d = session.place(order(entry=so.Entry.limit(50)))
        session.open_now(d)
        feed.play(3100)
        assert session.wait(LONG)
        session.close_at_market(d)
        assert session.status == "live"
        feed.play()
        assert session.wait(LONG)
        assert session.status == "ended"
        orders, events, changes = session.orders(), session.events(), session.changes()
        assert orders["order"].to_list() == [0, 1, 2, 3]
        assert orders["status"].to_list()[2] == "CANCELLED"
        assert [change["seq"] for change in changes] == [*range(1, events.height + 1)]
        assert session.changes(5, limit=2) == changes[5:7]
        assert session.events(a).equals(events.filter(events["order"] == a))
        until(lambda: len(told) == len(changes))
        assert told == changes
        run = session.run()
        actions = [(n, tick, so.Action(**data)) for n, tick, data in _actions(session)]
        placed = _placed(session)
    theirs = so.replay(
        [one for _, one in placed], ticks, [created for created, _ in placed], so.FillModel(fee_taker="0.1%"),
        [action.model_copy(update={"order": n}) for n, _, action in actions], progress=False, workers=1,
    )  # fmt: skip
    assert run.events.equals(theirs.events)
    assert run.orders.drop("ambiguous_bars").equals(theirs.orders.drop("ambiguous_bars"))
    assert run.levels.equals(theirs.levels)
    assert run.fills.equals(theirs.fills)
    assert run.summary() == theirs.summary()


def _entries(session: Session, kind: str) -> list[Any]:
    return [json.loads(body) for _, what, body in session.journal.entries() if what == kind]


def _actions(session: Session) -> list[tuple[int, int, Any]]:
    return [(n, tick, data) for n, tick, data, _ in _entries(session, "action")]


def _placed(session: Session) -> list[tuple[int, so.SmartOrder]]:
    return [(created, so.SmartOrder.from_json(text)) for _, created, text, _ in _entries(session, "place")]


def test_commands_are_calls(store: Path | None) -> None:
    feed = quick(walk())
    with so.paper(feed=feed, store=store) as session:
        assert session.command("place", {"spec": order().to_dict()}) == {"order": 0, "version": 1}
        feed.play(100)
        assert session.wait(LONG)
        version = session.order(0)["version"]
        answer = session.command("edit", {"order": 0, "changes": {"stop_loss": "-1%"}, "version": version})
        assert answer == {"order": 0, "version": session.order(0)["version"]}
        assert session.command("refresh", {"order": None})["looked_up"] == session.command("refresh", {})["looked_up"]
        assert session.command("share", {"order": 0})["link"] == session.share(0)
        assert session.command("add_funds", {"order": 0, "quantity": "0.1"})["version"] > answer["version"]
        for wrong, words in (
            (("nonsense", {"order": 0}), "command = 'nonsense': is not one; there is place, refresh, share, edit"),
            (("edit", {"changes": {"stop_loss": 1}}), "is not the number of an order"),
            (("cancel", {"order": 7}), "no such order; this session has 1"),
        ):
            with pytest.raises(so.ActionError, match=words):
                session.command(*wrong)
        with pytest.raises(so.SpecError):
            session.command("place", {})


def test_what_is_refused_leaves_nothing_behind(store: Path | None) -> None:
    feed = so.recorded(walk(), speed=None)
    with so.paper(feed=feed, store=store) as session:
        for wrong, kind, words in (
            (order(quantity="0.0001"), so.SpecError, "quantity"),
            (order(symbol="ETH/USDT"), so.DataError, "was not recorded; there is BTC/USDT"),
            (order(trigger="bid"), so.SmartOrdersError, "bid"),
            ("buy", so.SpecError, "is not a SmartOrder"),
        ):
            with pytest.raises(kind, match=words):
                session.place(wrong)  # type: ignore[arg-type]
        state = session.state()
        assert state["orders"] == []
        assert all(market["ticks"] == 0 for market in state["symbols"].values()), (
            "time stands still until there is an order"
        )
        with pytest.raises(so.ActionError, match="no such order"):
            session.edit(0, stop_loss=1)
        assert session.wait(0)
        session.place(order(entry=so.Entry.limit(1)))
        assert session.wait(LONG)
        with pytest.raises(so.ActionError, match=r"order = 'x': is not the number of an order"):
            session.order("x")  # type: ignore[arg-type]
        with pytest.raises(so.SpecError, match="stop_los is not a field of SmartOrder; did you mean stop_loss"):
            session.edit(0, stop_los=1)
        assert session.status == "ended"


def test_two_symbols(store: Path | None) -> None:
    one, other = walk(300), walk(300, 2, symbol="ETH/USDT", begin=BEGIN + 10**8)
    feed = quick([one, other])
    with so.paper(feed=feed, store=store) as session:
        session.place(order())
        feed.play()
        assert session.wait(LONG)
        assert session.status == "ended"
        session.place(
            order(symbol="ETH/USDT", side="sell", take_profits=[("-1%", 100)], stop_loss="+2%", break_even=False)
        )
        assert session.wait(LONG)
        assert session.status == "ended"
        assert {symbol: market["ticks"] for symbol, market in session.state()["symbols"].items()} == {
            "BTC/USDT": 300,
            "ETH/USDT": 300,
        }
        events = session.events()
        assert events["order"].unique().sort().to_list() == [0, 1]
        assert session.events(1).equals(events.filter(events["order"] == 1))
        with pytest.raises(so.ActionError, match="this session has orders of BTC/USDT, ETH/USDT"):
            session.run()


def test_recorded_ticks_stop_where_they_are_told_to() -> None:
    """Also when they are told to go on before it was seen that they had stopped."""
    feed = quick(walk(3000))
    with so.paper(feed=feed) as session:
        session.place(order(entry=so.Entry.limit(1)))
        for n in range(1, 1500):
            feed.play(n)
            assert session.wait(LONG)
            assert session.book.markets["BTC/USDT"].ticks == n
        feed.play(1499)
        assert session.wait(LONG)
        feed.play()
        assert session.wait(LONG)
        feed.play()
        assert session.wait(LONG)
        assert session.book.markets["BTC/USDT"].ticks == 3000
        with pytest.raises(so.DataError, match="until = 'soon'"):
            feed.play("soon")
        with pytest.raises(so.DataError, match="another session is at it"):
            so.paper(feed=feed)
    feed.play()
    assert session.wait(LONG)
    with so.paper(feed=feed) as session:  # from the beginning
        session.place(order(entry=so.Entry.limit(1)))
        feed.pause()
        assert session.wait(LONG)


# ---------------------------------------------------------------------------------------------- starting and stopping


def test_the_same_call_goes_on(tmp_path: Path) -> None:
    ticks, store = walk(), tmp_path / "lab.duckdb"
    whole, parts = quick(ticks), quick(ticks)
    with so.paper(feed=whole) as session:
        for tag in ("a", "b"):
            session.place(order(tag=tag))
        whole.play()
        assert session.wait(LONG)
        expected = session.events()
    for n, upto in enumerate((0, 200, 1000, 5000, None)):
        with so.paper(feed=parts, store=store, name="mine") as session:
            for tag in ("a", "b"):
                session.place(order(tag=tag), key=tag)
            parts.play(upto)
            assert session.wait(LONG)
            if n == 2:
                session.compact()
                session.compact()
        if n == 3:
            parts = quick(ticks)
    with so.paper(feed=quick(ticks), store=store, name="mine") as session:
        assert session.events().equals(expected)
        assert session.wait(0)
    with so.Store(store) as opened:
        assert opened.sessions()["name"].to_list() == ["mine"]


def test_other_settings_are_refused(tmp_path: Path) -> None:
    store, ticks = tmp_path / "lab.duckdb", walk(100)
    given: dict[str, Any] = {
        "fills": {"fee_taker": "0.1%"},
        "poll_interval": "500ms",
        "balances": {"USDT": 1000},
        "outlier": "5%",
    }
    with so.paper(feed=quick(ticks), store=store, **given) as session:
        session.place(order())
    for changed, words in (
        ({"fills": {"fee_taker": "0.2%"}}, "fills = "),
        ({"poll_interval": "1s"}, "poll_interval = 500ms, not 1s"),
        ({"balances": {"USDT": 2000}}, r"balances = .*1000.*, not .*2000"),
        ({"outlier": None}, "outlier = "),
        ({"feed": quick(walk(100, 2))}, "other ticks"),
    ):
        with pytest.raises(
            so.StoreError, match=rf"session 'paper recorded' was begun with {words}.*or take another name"
        ):
            so.paper(**{"feed": quick(ticks), "store": store} | changed)
    for same in ({}, given, {"poll_interval": "500ms"}):
        with so.paper(feed=quick(ticks), store=store, **same) as session:
            assert session.journal.meta["poll_ns"] == 500_000_000
            assert session.broker.balances()["USDT"][0] == 1000
    with pytest.raises(so.StoreError, match=r"was begun with exchange = 'recorded', not 'binance'"):
        so.paper(feed=Other(), store=store, name="paper recorded")  # type: ignore[arg-type]
    for wrong in ({}, {"exchange": "binance", "feed": quick(ticks)}):
        with pytest.raises(so.SpecError, match="give either an exchange or a feed"):
            so.paper(**wrong)  # type: ignore[arg-type]
    with pytest.raises(so.SpecError, match="is an option of a live feed"):
        so.paper(feed=quick(ticks), stale_after="3s")
    with pytest.raises(so.SpecError, match="poll_interval = 'x'"):
        so.paper(feed=quick(ticks), poll_interval="x")


class Other:
    """A feed of somebody else: two ticks, then whatever `then` does."""

    name, real_time = "binance", False

    def __init__(self, then: Callable[[], Any] = lambda: None):
        self.then, self.left = then, [100, 101]
        self.started = asyncio.Event()
        self.slow: asyncio.Event | None = None

    async def open(self) -> None:
        pass

    def instrument(self, symbol: str) -> so.Instrument:
        return BTC

    async def start(self, symbol: str, triggers: frozenset[str] = frozenset(), token: str = "") -> None:
        if self.slow is not None:
            await self.slow.wait()
        self.started.set()

    async def stop(self, symbol: str) -> None:
        pass

    async def next(self) -> Any:
        await self.started.wait()
        if self.left:
            units = self.left.pop(0)
            return Block("BTC/USDT", np.array([BEGIN + units]), np.array([10_000 + units]), token=str(units))
        return self.then()

    async def close(self) -> None:
        self.started.set()


def test_one_session_to_a_store(tmp_path: Path) -> None:
    store = tmp_path / "lab.duckdb"
    with so.paper(feed=quick(walk(10)), store=store) as first:
        for name in ("", "another"):  # a cell that is run twice
            with pytest.raises(
                so.StoreError,
                match=rf"session 'paper recorded' of this process \(pid {os.getpid()}\) is open on it; go on with that",
            ):
                so.paper(feed=quick(walk(10)), store=store, name=name)
        code = f"""
import smartorders_lab as so
so.paper(feed=so.recorded(so.Ticks.from_arrays([10**18], [1.0], symbol='A/B', unit='ns')), store={str(store)!r})
"""
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert other.returncode == 1
        assert f"lab.duckdb: is locked by pid {os.getpid()} since" in other.stderr
        assert first.status == "live"
    with pytest.raises(so.SpecError, match="a session owns its store"), so.Store(store) as opened:
        so.paper(feed=quick(walk(10)), store=opened)


FORGETS = """
import sys, numpy as np, smartorders_lab as so
ticks = so.Ticks.from_arrays(np.arange(1, 200) * 10**9, 100 + np.arange(199) % 7 / 100, symbol="BTC/USDT", unit="ns")
feed = so.recorded(ticks, speed=None, paused=True)
session = so.paper(feed=feed, store=sys.argv[1])
session.on_event(lambda event: None)
session.place(so.SmartOrder(symbol="BTC/USDT", side="buy", quantity=1, stop_loss="-5%"), key="x")
feed.play(100)
session.wait()
print(session.order(0)["status"], session.state()["symbols"]["BTC/USDT"]["ticks"])
if len(sys.argv) > 2:
    raise SystemExit(int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [0, 3])
def test_a_script_may_forget_to_close(tmp_path: Path, code: int) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        FORGETS,
        str(tmp_path / "lab.duckdb"),
        *([str(code)] if code else []),
    ]
    for _ in range(2):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (code, "")
        assert done.stdout == "ACTIVE 100\n"
    assert not (tmp_path / "lab.duckdb.wal").exists(), "a clean end leaves everything in the store"


def test_what_cannot_start_leaves_the_store_free(tmp_path: Path) -> None:
    store = tmp_path / "lab.duckdb"

    class Closed(Other):
        async def open(self) -> None:
            raise so.ExchangeError("binance: is down")

    for _ in range(2):
        with pytest.raises(so.ExchangeError, match="is down"):
            so.paper(feed=Closed(), store=store)  # type: ignore[arg-type]
    with so.paper(feed=Other(), store=store) as session:  # type: ignore[arg-type]
        session.close()
        session.close()
        assert session.status == "stopped"
        with pytest.raises(
            so.StoreError, match="session 'paper binance' is stopped; start it again under the same name"
        ):
            session.orders()


def test_an_interrupt_while_it_starts_ends_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    class Interrupting(Other):
        async def open(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.2)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored by what it runs beside
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
    with pytest.raises(KeyboardInterrupt):
        so.paper(feed=Interrupting(), store=tmp_path / "lab.duckdb")  # type: ignore[arg-type]
    with so.paper(feed=Other(), store=tmp_path / "lab.duckdb") as session:  # type: ignore[arg-type]
        assert session.status == "live"


# -------------------------------------------------------------------------------------------------- what stops it


@pytest.mark.parametrize("call", ["place", "edit", "cancel", "feed"])
def test_an_error_of_the_store_stops_it_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, ticks = tmp_path / "lab.duckdb", walk()
    feed = quick(ticks)
    session = so.paper(feed=feed, store=store)
    told: list[list[dict[str, Any]]] = []
    session.on_change(told.append)
    numbers = [session.place(order(tag=str(n))) for n in range(3)]
    feed.play(300)
    assert session.wait(LONG)
    acknowledged = [(session.edit(n, stop_loss="-1.7%"), session.order(n)) for n in numbers]
    before = session.changes()

    def full(*_: Any) -> int:
        raise so.StoreError("lab.duckdb: the disk is full: make room")

    append = session.journal.append
    monkeypatch.setattr(session.journal, "append", full)
    calls: dict[str, Callable[[], Any]] = {
        "place": lambda: session.place(order()),
        "edit": lambda: session.edit(0, stop_loss="-1%"),
        "cancel": lambda: session.cancel(1),
    }
    if call == "feed":
        feed.play()
        with pytest.raises(so.StoreError, match="the disk is full"):
            session.wait(LONG)
    else:
        with pytest.raises(so.StoreError, match="the disk is full"):
            calls[call]()
    done(session._thread)
    monkeypatch.setattr(session.journal, "append", append)  # it is not written to again, though it could be
    assert session.status == "stopped"
    for again in (*calls.values(), session.orders, session.refresh, session.compact, session.run):
        with pytest.raises(
            so.StoreError,
            match=r"session 'paper recorded' is stopped: lab\.duckdb: the disk is full: make room; start it again",
        ):
            again()
    with pytest.raises(so.StoreError, match="the disk is full"):
        session.wait()
    until(lambda: told and told[-1] == [])
    assert "session paper recorded stopped: lab.duckdb: the disk is full" in caplog.text
    feed = quick(ticks) if call == "feed" else feed
    with so.paper(feed=feed, store=store) as session:  # the same call: the one that stopped is closed for it
        assert session.changes() == before
        assert [(version, session.order(n)) for n, (version, _) in enumerate(acknowledged)] == acknowledged
        feed.play()
        assert session.wait(LONG)
        events = session.events()
    with so.paper(feed=(feed := quick(ticks))) as session:
        for n in range(3):
            session.place(order(tag=str(n)))
        feed.play(300)
        assert session.wait(LONG)
        for n in numbers:
            session.edit(n, stop_loss="-1.7%")
        feed.play()
        assert session.wait(LONG)
        assert session.events().equals(events)


@pytest.mark.parametrize(
    "error", [RuntimeError("a mistake"), ValueError("another"), asyncio.CancelledError(), SystemExit(3)]
)
def test_a_feed_that_fails_stops_it_loudly(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise error

    with so.paper(feed=Other(fail)) as session:  # type: ignore[arg-type]
        statuses: list[str] = []
        session.on_change(lambda changes: statuses.append(session.status))
        session.place(order())
        with pytest.raises(type(error)):
            session.wait(LONG)
        done(session._thread)
        until(lambda: "stopped" in statuses)
        assert session.changes()[-1]["kind"] == "filled", "what came before it is there"
        with pytest.raises(so.StoreError, match=f"session 'paper binance' is stopped: .*{error}; start it again"):
            session.orders()
    assert "session paper binance stopped: " in caplog.text


def test_ticks_that_cannot_be_stop_it_too(caplog: pytest.LogCaptureFixture) -> None:
    nameless = Block("XRP/USDT", np.array([BEGIN + 10**6]), np.array([100]))
    with so.paper(feed=Other(lambda: nameless)) as session:  # type: ignore[arg-type]
        session.place(order())
        with pytest.raises(so.DataError, match="'XRP/USDT': this session does not know that market"):
            session.wait(LONG)
    assert "stopped" in caplog.text


def test_a_mistake_in_the_middle_of_a_change_stops_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    feed = quick(walk(100))
    with so.paper(feed=feed) as session:
        session.place(order())
        feed.play(10)
        assert session.wait(LONG)
        before = session.changes()

        def broken(*_: Any, **__: Any) -> None:
            raise IndexError("out of range")

        monkeypatch.setattr(session.book, "_act", broken)
        with pytest.raises(IndexError):
            session.edit(0, stop_loss="-1%")
        with pytest.raises(so.StoreError, match="is stopped: out of range"):
            session.orders()
        done(session._thread)
        assert session.changes() == before
    assert "session paper recorded stopped: out of range" in caplog.text


def test_a_feed_that_is_over() -> None:
    with so.paper(feed=Other()) as session:  # type: ignore[arg-type]
        statuses: list[str] = []
        session.on_change(lambda changes: statuses.append("" if changes else session.status))
        session.place(order())
        assert session.wait(LONG)
        assert session.status == "ended"
        until(lambda: "ended" in statuses)
        assert session.order(0)["status"] == "ACTIVE"
        session.cancel(0)


def test_notices_are_kept_and_told() -> None:
    notices = [
        Notice("BTC/USDT", "stale", "nothing heard"),
        Notice("BTC/USDT", "gap", "3 trades"),
        Notice("BTC/USDT", "live", "connected"),
    ]

    def say() -> Any:
        return notices.pop(0) if notices else None

    with so.paper(feed=Other(say)) as session:  # type: ignore[arg-type]
        seen: list[str] = []
        session.on_change(lambda changes: changes or seen.append(session.status))
        session.place(order())
        assert session.wait(LONG)
        until(lambda: seen and seen[-1] == "ended")
        kept = [entry[:3] for entry in _entries(session, "notice")]
        assert [one for one in kept if one[1] in ("stale", "gap", "live")] == [
            ["BTC/USDT", "stale", "nothing heard"], ["BTC/USDT", "gap", "3 trades"], ["BTC/USDT", "live", "connected"],
        ]  # fmt: skip


def test_closing_ends_calls_that_wait_for_the_feed() -> None:
    feed = Other()
    session = so.paper(feed=feed)  # type: ignore[arg-type]
    feed.slow = asyncio.Event()
    errors: list[BaseException] = []

    def place() -> None:
        try:
            session.place(order())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=place) for _ in range(3)]
    for thread in threads:
        thread.start()
    until(lambda: len(session._calls) == 3)
    session.close()
    for thread in threads:
        done(thread)
    assert [type(error) for error in errors] == [so.StoreError] * 3
    assert "was stopped before this call was done" in str(errors[0])
    assert not session.book.specs


def test_who_hears_that_it_is_stopped_finds_it_stopped() -> None:
    class Lingering(Other):
        async def close(self) -> None:
            await asyncio.sleep(0.2)

    session = so.paper(feed=Lingering())  # type: ignore[arg-type]
    closing = threading.Thread(target=session.close)
    closing.start()
    with pytest.raises(so.StoreError, match="is stopped"):
        deque((session.state() for _ in itertools.count()), maxlen=0)
    assert session.status == "stopped"
    closing.join()


def test_calls_while_it_is_closed() -> None:
    """Whoever calls at that moment gets an answer or an error, and never waits for ever."""
    for _ in range(20):
        feed = quick(walk(50))
        session = so.paper(feed=feed)
        stopped: list[BaseException] = []

        def call(session: Session = session, stopped: list[BaseException] = stopped) -> None:
            try:
                while True:
                    session.place(order())
                    session.state()
            except BaseException as caught:
                stopped.append(caught)

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        until(lambda session=session: session.book.specs)
        session.close()
        for thread in threads:
            done(thread)
        assert [type(error) for error in stopped] == [so.StoreError] * 4
    gc.collect()


# ------------------------------------------------------------------------------------------------ threads, listeners


def test_calls_from_many_threads(store: Path | None) -> None:
    feed = so.recorded(walk(), speed=None)
    with so.paper(feed=feed, store=store) as session:
        numbers: list[int] = []
        errors: list[BaseException] = []
        over = threading.Event()

        def work(k: int) -> None:
            try:
                for n in range(10):
                    number = session.place(order(tag=f"{k} {n}"), key=f"{k} {n}")
                    numbers.append(number)
                    try:
                        session.edit(number, note="seen", stop_loss="-3%")
                    except so.ActionError:
                        assert session.order(number)["tag"] == f"{k} {n}"
            except BaseException as error:
                errors.append(error)

        def look() -> None:
            try:
                while not over.is_set():
                    changes = session.changes()
                    assert [change["seq"] for change in changes] == [*range(1, len(changes) + 1)]
                    assert session.state()["seq"] >= len(changes)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        lookers = [threading.Thread(target=look) for _ in range(2)]
        for thread in [*threads, *lookers]:
            thread.start()
        for thread in threads:
            done(thread)
        over.set()
        for thread in lookers:
            done(thread)
        assert errors == []
        assert sorted(numbers) == [*range(40)]
        assert session.wait(LONG)
        assert session.journal.changes == len(session.changes()) == session.events().height


def test_a_listener_that_raises_or_sleeps_delays_nothing(caplog: pytest.LogCaptureFixture) -> None:
    feed = quick(walk())
    gate = threading.Event()
    good: list[int] = []
    with so.paper(feed=feed) as session:

        def fails(event: Any) -> None:
            raise RuntimeError("I am broken")

        def leaves(event: Any) -> None:
            raise SystemExit(1)

        def sleeps(event: Any) -> None:
            assert gate.wait(LONG)

        first = [session.on_event(listener) for listener in (fails, leaves)]
        session.on_event(lambda event: good.append(event["seq"]))
        session.place(order())
        until(lambda: good == [1])
        assert "a listener of session paper recorded failed: I am broken" in caplog.text
        for end in first:
            end()
            end()
        slow = session.on_event(sleeps)
        feed.play()
        assert session.wait(LONG)
        assert session.order(0)["exit_reason"] is not None, "it has lived and died while the listener slept"
        assert len(good) < session.journal.changes
        late: list[int] = []
        session.on_event(lambda event: late.append(event["seq"]))
        last = session.journal.changes
        session.place(order(entry=so.Entry.limit(1)))
        gate.set()
        until(lambda: late)
        assert good == [*range(1, session.journal.changes + 1)]
        assert late == [*range(last + 1, session.journal.changes + 1)], (
            "from now on, and not what is still to be told to others"
        )
        slow()


def test_closing_does_not_wait_long_for_a_listener(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FAREWELL_S", 0.01)
    gate, inside = threading.Event(), threading.Event()
    session = so.paper(feed=quick(walk(10)))

    def sleeps(event: Any) -> None:
        inside.set()
        assert gate.wait(LONG)

    session.on_event(sleeps)
    session.place(order())
    assert inside.wait(LONG)
    session.close()
    assert session._teller.is_alive()
    gate.set()
    done(session._teller)


def test_a_listener_may_call_and_close() -> None:
    feed = quick(walk())
    session = so.paper(feed=feed)
    seen: list[Any] = []

    def manage(event: dict[str, Any]) -> None:
        seen.append(event["kind"])
        if event["kind"] == "filled" and event["role"] == "entry":
            seen.append(session.edit(event["order"], stop_loss="-0.5%"))
        elif event["kind"] == "ended":
            seen.append(session.orders()["exit_reason"].to_list())
            session.close()

    session.on_event(manage)
    session.place(order(take_profits=[("+9%", 100)], break_even=False))
    feed.play()
    done(session._thread)
    done(session._teller)
    assert seen[-1] == ["stop_loss"]
    assert session.status == "stopped"
    session.close()


def test_calls_from_its_own_thread_are_refused() -> None:
    answers: list[BaseException] = []

    def call() -> None:
        for what in (session.orders, lambda: session.place(order()), session.close):
            try:
                what()
            except BaseException as error:
                answers.append(error)

    with so.paper(feed=Other(call)) as session:  # type: ignore[arg-type]
        session.place(order())
        assert session.wait(LONG)
        assert [type(error) for error in answers] == [so.ActionError] * 3
        assert "call from another one" in str(answers[0])
        assert "close it from another one" in str(answers[2])


def test_python_switches_threads_quickly_while_any_session_runs() -> None:
    before = sys.getswitchinterval()
    first, second = so.paper(feed=quick(walk(10))), so.paper(feed=quick(walk(10)))
    assert sys.getswitchinterval() == 0.001 < before
    first.close()
    assert sys.getswitchinterval() == 0.001
    second.close()
    assert sys.getswitchinterval() == before


# ------------------------------------------------------------------------------------------------- a cell that blocks


def test_orders_trigger_while_the_main_thread_sleeps_and_computes(tmp_path: Path) -> None:
    """Not timed: the changes that the store holds when the cell is over have been committed during it."""
    ticks = ticks_of((100 + np.arange(5000) / 100).round(2), step=10**7)
    with so.paper(feed=so.recorded(ticks, speed=5), store=tmp_path / "lab.duckdb") as session:
        for n in range(40):
            session.place(
                order(
                    tag=str(n),
                    take_profits=[(f"+{1 + n}%", 100)],
                )
            )
        begin = session.journal.changes
        time.sleep(3)
        slept = session.journal.changes
        end, count = time.monotonic() + 3, 0
        while time.monotonic() < end:
            count += 1
        computed = session.journal.changes
        kinds = [change["kind"] for change in session.changes()]
    assert begin < slept < computed
    assert "triggered" in kinds[begin:slept]
    assert "triggered" in kinds[slept:computed]
    assert count > 0


# ---------------------------------------------------------------------------------------------------- over the wire


def test_served_to_another_process(store: Path | None, tmp_path: Path) -> None:
    feed = quick(walk())
    discovery = discovery_path(tmp_path / "lab.duckdb")
    with so.paper(feed=feed, store=store) as session, Server(session, discovery=discovery) as server:
        with so.connect(server.url, server.token, timeout=LONG) as remote:
            assert remote.orders().columns == session.orders().columns
            heard: list[dict[str, Any]] = []
            told: list[dict[str, Any]] = []
            session.on_event(told.append)
            remote.on_event(heard.append)
            assert remote.place(order()) == {"order": 0, "version": 1}
            assert remote.place(order(trailing_stop="1%"))["order"] == 1
            feed.play(200)
            assert session.wait(LONG)
            version = session.order(0)["version"]
            assert remote.edit(0, stop_loss="-1.9%", version=version)["version"] == session.order(0)["version"]
            with pytest.raises(so.StaleVersion, match=f"version = {version}: the order has moved on") as stale:
                remote.edit(0, stop_loss="-1.8%", version=version)
            assert stale.value.reason == "stale_version"
            with pytest.raises(so.ActionRefused, match="it would trigger at once"):
                remote.edit(0, stop_loss=150)
            with pytest.raises(so.SpecError, match="quantity"):
                remote.place(order(quantity="0.0001"))
            assert remote.share(0)["link"] == session.share(0)
            assert remote.orders().equals(session.orders())
            feed.play()
            assert session.wait(LONG)
            assert session.orders()["status"].is_in(["CLOSED", "STOPPED"]).all()
            assert remote.orders().equals(session.orders())
            assert remote.state() == session.state()
            until(lambda: len(heard) == len(told) == session.journal.changes)
            assert heard == told == session.changes()
            assert remote.events()["seq"].to_list() == [*range(1, session.journal.changes + 1)]
        with so.connect(tmp_path / "lab.duckdb", timeout=LONG) as found:
            assert found.id == session.id


def test_some_orders_and_the_last_ticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a picture of a session asks for, here and from another process: a few orders, new ticks, the changes of one order."""
    monkeypatch.setattr(module, "RECENT", 1000)
    ticks = walk(6000)
    feed = quick(ticks)
    with so.paper(feed=feed, store=tmp_path / "lab.duckdb") as session:
        with pytest.raises(so.DataError, match="this session has no such market; place an order of it first"):
            session.recent("BTC/USDT")
        session.place(order(trailing_stop="1%"))
        session.place(order(entry=so.Entry.limit(50)))
        assert len(session.recent("BTC/USDT").ts) == 0
        with (
            Server(session, discovery=discovery_path(tmp_path / "lab.duckdb")) as server,
            so.connect(server.url, server.token) as remote,
        ):
            at, seen = 0, []
            for end in (1, 400, 700, 2900, 3000):
                feed.play(end)
                assert session.wait(LONG)
                here, there = session.recent("BTC/USDT", at), remote.recent("BTC/USDT", at)
                assert here.first == there.first == max(at, end - 1000)
                assert np.array_equal(here.ts, there.ts)
                assert np.array_equal(here.price, there.price)
                assert np.array_equal(here.ts, ticks.ts[here.first : end])
                assert np.array_equal(here.price, ticks.instrument.prices(ticks.price[here.first : end]))
                at = end
                seen.append(len(here.ts))
            assert seen == [1, 399, 300, 1000, 100]
            assert len(session.recent("BTC/USDT", 3000).ts) == 0
            assert session._memory["BTC/USDT"]._ts.nbytes == 16_000, "it does not grow"
            for ask in (session, remote):
                whole = ask.state()
                assert whole["symbols"]["BTC/USDT"]["price_increment"] == "0.01"
                assert ask.state([1]) == {**whole, "orders": whole["orders"][1:]}
                assert ask.state([0])["orders"][0] == session.order(0), "also what moves with the ticks alone"
                assert ask.state([]) == {**whole, "orders": []}
                with pytest.raises(so.ActionError, match="no such order"):
                    ask.state([7])
                with pytest.raises(so.DataError, match="trigger = 'mark': the ticks of BTC/USDT do not have it"):
                    ask.recent("BTC/USDT", 0, "mark")
                mine = [change for change in session.changes(limit=None) if change["order"] == 1]
                assert ask.changes(limit=None, order=1) == mine
                assert ask.changes(limit=1, order=1) == mine[:1]
            assert not remote.closed
        assert remote.closed


def test_a_look_at_one_order_leaves_the_others_asleep() -> None:
    """The more orders there are, the less may a picture of one of them cost the session."""
    feed = quick(walk())
    with so.paper(feed=feed) as session:
        for _ in range(3):
            session.place(order(take_profits=[("+50%", 100)], stop_loss="-50%", trailing_stop="40%"))
        feed.play(3000)
        assert session.wait(LONG)
        desk = session.book.markets["BTC/USDT"].desks["last"]
        session.state([1])
        cursors = [int(desk.row(number).cursor) for number in range(3)]
        assert cursors[1] == 3000
        assert max(cursors[0], cursors[2]) < 3000
        assert session.state([1])["orders"] == session.state()["orders"][1:2]


# ------------------------------------------------------------------------------------------------------- a live feed


def stop_at(price: float, **changes: Any) -> so.SmartOrder:
    return order(**{"symbol": SOL, "take_profits": [(160, 100)], "stop_loss": price, "break_even": False} | changes)


def _came(session: Session, trades: list[Any], symbol: str = SOL) -> None:
    until(lambda: session.book.markets[symbol].ticks >= len(trades))
    assert session.book.markets[symbol].ticks == len(trades)


def _connected(session: Session, exchange: Exchange, symbol: str = SOL) -> None:
    exchange.wait(exchange.server.subscribed(symbol=symbol))
    until(lambda: session.book.markets[symbol].state == "live" or not session.book.markets[symbol].ticks)


@pytest.mark.parametrize("venue", ["binance", "kraken"])
def test_live_ticks_through_drops_and_restarts(venue: str, tmp_path: Path) -> None:
    pytest.importorskip("ccxt")
    given: dict[str, Any] = {"store": tmp_path / "lab.duckdb", "name": "live"}
    with Exchange(venue) as exchange:
        server = exchange.server
        exchange.publish(150, 150)
        with so.paper(feed=Local(venue, server.port), **given) as session:
            assert session.journal.meta["outlier"] == "0.05"
            states: list[str] = []
            session.on_change(lambda changes: changes or states.append(session.status))
            with pytest.raises(so.ExchangeError, match="no such market"):
                session.place(order(symbol="SOL/USTD"))
            # Three stops, a target that the market runs back from, one that stays beyond, and two that are never reached.
            stops = [session.place(stop_at(price)) for price in (149, 147, 145)]
            back = session.place(stop_at(100, take_profits=[(152, 100)]))
            beyond = session.place(stop_at(160, side="sell", take_profits=[(146.5, 100)]))
            never = session.place(stop_at(101))
            trades = exchange.publish(150)
            exchange.wait(server.subscribed())
            trades += exchange.publish(150.1)
            _came(session, trades)
            until(lambda: session.status == "live")
            until(lambda: "live" in states)
            assert session.orders()["status"].unique().to_list() == ["ACTIVE"]
            trades += exchange.publish(148.9, 149.5)
            _came(session, trades)
            assert session.order(stops[0])["exit_reason"] == "stop_loss"
            exchange.do(server.drop)
            trades += exchange.publish(149.4, 149.3)
            _came(session, trades)
            exchange.wait(server.subscribed())
            exchange.wait(server.restart())
            trades += exchange.publish(149.2)
            exchange.wait(server.subscribed())
            trades += exchange.publish(149.1)
            _came(session, trades)
            assert session.orders()["status"].to_list().count("ACTIVE") == 5
            edited = session.edit(never, stop_loss=102)
        # While nobody is there: a stop is crossed, and a target for a moment.
        trades += exchange.publish(146.9, 152.5, 148)
        time.sleep(4.2)  # so that they are late, also where the exchange tells the time in whole seconds
        trades += exchange.publish(146)
        with so.paper(feed=Local(venue, server.port, late_after="3s"), **given) as session:
            _came(session, trades)
            assert session.order(never)["version"] == edited
            assert "stop_loss" in session.events(stops[1])["role"], (
                "it has fired, and is filled with the next trade that is not late"
            )
            assert session.order(stops[2])["status"] == "ACTIVE"
            assert session.order(back)["status"] == "ACTIVE", "the price is no longer there"
            exchange.wait(server.subscribed())
            trades += exchange.publish(146)
            _came(session, trades)
            assert session.order(stops[1])["exit_reason"] == "stop_loss"
            assert session.order(stops[1])["exit_price"] == "146"
            trades += exchange.publish(144.9, 146)
            _came(session, trades)
            assert session.order(stops[2])["exit_reason"] == "stop_loss"
            assert session.order(beyond)["exit_reason"] == "take_profit", "the price is still beyond"
            assert session.order(back)["status"] == "ACTIVE"
            assert session.order(never)["status"] == "ACTIVE"
            ids = [round(size * 1000) for block in _blocks(session) for size in block.size.tolist()]
            assert ids == [trade.id for trade in trades]


def _blocks(session: Session) -> list[Any]:
    from smartorders_lab.packing import unpack_ticks

    session.compact()  # also commits what is pending; the first one lets go of nothing
    return [unpack_ticks(body) for _, kind, body in session.journal.entries() if kind == "ticks"]


def test_another_trigger_and_another_symbol_on_a_live_feed() -> None:
    pytest.importorskip("ccxt")
    with Exchange("binance") as exchange:
        server = exchange.server
        exchange.publish(150)
        with so.paper(feed=Local("binance", server.port, quotes=True)) as session:
            session.place(stop_at(140))
            exchange.wait(server.subscribed())
            exchange.wait(server.subscribed(what="quotes"))
            trades = exchange.publish(150, 151)
            exchange.do(lambda: server.quote("150.40", "150.60"))
            _came(session, trades)
            exchange.do(lambda: server.quote("150.50", "150.60"))
            errors: list[BaseException] = []

            def place(given: so.SmartOrder) -> None:
                try:
                    session.place(given)
                except BaseException as error:
                    errors.append(error)

            given = [
                stop_at(140, trigger="bid"),
                stop_at(141, trigger="bid"),
                stop_at(140).replace(symbol=ETH),
                stop_at(141).replace(symbol=ETH),
            ]
            threads = [threading.Thread(target=place, args=(one,)) for one in given]
            for thread in threads:
                thread.start()
            for thread in threads:
                done(thread)
            assert errors == []
            exchange.wait(server.subscribed())
            exchange.wait(server.subscribed(what="quotes"))
            exchange.wait(server.subscribed(symbol=ETH))
            exchange.do(lambda: server.quote("150.40", "150.60"))
            trades += exchange.publish(151.5)
            exchange.publish(2000, symbol=ETH)
            until(lambda: session.book.markets[SOL].last.get("price") == 15150)
            exchange.do(lambda: server.quote("139.00", "151.00"))
            until(lambda: session.orders()["exit_reason"].to_list().count("stop_loss") >= 2)
            by_trigger = {
                o["order"]: (o["symbol"], o["spec"].get("trigger", "last"), o["exit_reason"])
                for o in session.state()["orders"]
            }
            assert {(symbol, reason) for symbol, trigger, reason in by_trigger.values() if trigger == "bid"} == {
                (SOL, "stop_loss")
            }
            assert by_trigger[0][2] is None, "no trade was there"
            sizes = [size for block in _blocks(session) if block.symbol == SOL for size in block.size.tolist() if size]
            assert [round(size * 1000) for size in sizes] == [trade.id for trade in trades]


def test_a_session_that_comes_back_to_nothing_starts_now(tmp_path: Path) -> None:
    """Nobody waits for what has happened while no order lived, so it is not fetched."""
    pytest.importorskip("ccxt")
    store = tmp_path / "lab.duckdb"
    with Exchange("binance") as exchange:
        server = exchange.server
        exchange.publish(150)
        with so.paper(feed=Local("binance", server.port), store=store) as session:
            number = session.place(stop_at(140))
            exchange.wait(server.subscribed())
            trades = exchange.publish(150)
            _came(session, trades)
            session.close_at_market(number)
            while session.order(number)["status"] != "CLOSED":  # by the clock of the exchange, as far as that is known
                trades += exchange.publish(150)
                _came(session, trades)
        exchange.publish(151, 152)
        with so.paper(feed=Local("binance", server.port), store=store) as session:
            assert session.status == "live", "nothing is watched, so nothing is stale"
            assert not server.sockets
            session.place(stop_at(141))
            exchange.wait(server.subscribed())
            trades += exchange.publish(153)
            _came(session, trades)
            assert session.order(1)["entry_price"] == "153"


# ------------------------------------------------------------------------------------------------------------- kills


@pytest.mark.parametrize(("venue", "compacting"), [("binance", False), ("kraken", True)])
def test_kills_lose_nothing_and_do_nothing_twice(venue: str, compacting: bool, tmp_path: Path) -> None:
    """SMARTORDERS_KILLS says how many; `python tests/killing.py` is the long run."""
    pytest.importorskip("ccxt")
    kills = int(os.environ.get("SMARTORDERS_KILLS", "8")) // 2
    seen = killing(tmp_path, kills, venue, compacting)
    assert seen["acknowledged"] > 0
    assert seen["kills"] == kills
