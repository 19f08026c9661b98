"""The terminal, and the panel as an application: what it does for a page, its process, and its command."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_paper_cli import command, until
from typer.testing import CliRunner

import smartorders_lab as so
from smartorders_lab.cli import app as cli
from smartorders_lab.serve import Server, discovery_path

pytest.importorskip("voila")
pytest.importorskip("anywidget")

from smartorders_lab.panel import app
from smartorders_lab.panel.terminal import Terminal, summary

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and sockets")
SCRIPT = Path(sys.executable).with_name("smartorders")
SAMPLE = Path(__file__).parents[1] / "data" / "sample_trades.parquet"
BTC = so.Instrument(symbol="BTC/USDT", price_increment="0.01", quantity_increment="0.001")
BEGIN, STEP = 10**18, 10**9


def ticks_of(prices: Any, begin: int = BEGIN, symbol: str = "BTC/USDT") -> so.Ticks:
    ts = begin + STEP * np.arange(len(prices), dtype=np.int64)
    instrument = BTC.model_copy(update={"symbol": symbol})
    return so.Ticks.from_arrays(ts, np.asarray(prices, float), instrument=instrument, unit="ns")


def order(**changes: Any) -> so.SmartOrder:
    given: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "quantity": 1}
    return so.SmartOrder(**given | {"take_profits": [("+1%", 40), ("+2%", 60)], "stop_loss": "-2%"} | changes)


TAPE = ticks_of([100, 100.5, 101.2, 101.5, 100.9, 100.2, 99.9, 97.5, 97.0, 96.0])
PAST = ticks_of((100 + np.sin(np.arange(500) / 9)).round(2), BEGIN - 500 * STEP)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    left = [t.name for t in threading.enumerate() if t.name.startswith(("panel", "session", "smartorders"))]
    assert not left


@pytest.fixture
def session() -> Iterator[so.Session]:
    with so.paper(feed=so.recorded(TAPE, speed=None, paused=True), fills={"fee_taker": "0.1%"}) as session:
        yield session


def play(session: Any, upto: int | None = None) -> None:
    session.feed.play(upto)
    assert session.wait(30)


# ------------------------------------------------------------------------------------------------------- the terminal


def test_an_order_is_placed_after_a_question(session: so.Session) -> None:
    terminal = Terminal(session, PAST, order=order(), entries=20)
    try:
        assert terminal.order == order()
        assert "PAPER" in terminal.badge.value
        terminal.place.click()
        assert terminal.settle()
        assert terminal.dialog.question is not None
        assert terminal.dialog.question["go"] == "Place order"
        assert terminal.placed is None
        terminal.dialog.answer(None)
        assert terminal.settle()
        assert session.orders().is_empty()
        terminal.place.click()
        assert terminal.settle()
        terminal.dialog.answer("go")
        assert terminal.settle()
        assert terminal.placed == 0
        assert "Order 0 is placed" in terminal.said.value
        assert terminal.board.hub.settle()
        assert terminal.board.selected == 0
        assert session.book.specs[0] == order()
    finally:
        terminal.close()
        terminal.close()
    assert session.status == "live"


def test_what_is_refused_is_said_at_the_button(session: so.Session) -> None:
    """Here a market that the session's feed does not have."""
    other = ticks_of(np.linspace(50, 51, 300).round(2), symbol="ETH/USDT")
    terminal = Terminal(session, other, entries=20)
    try:
        terminal.place.click()
        assert terminal.settle()
        terminal.dialog.answer("go")
        assert terminal.settle()
        assert terminal.placed is None
        assert "was not recorded" in terminal.said.value
        assert not terminal.place.disabled
    finally:
        terminal.close()


def test_nothing_is_asked_while_the_order_is_not_whole(session: so.Session) -> None:
    from smartorders_lab.errors import Problem

    terminal = Terminal(session, PAST, order=order(), entries=20)
    try:
        editor = terminal.editor
        assert editor is not None
        assert editor.settle()
        assert terminal.settle()
        editor._hub.post(editor._typed, "stop_loss.target", "<b>105</b>")
        assert editor.settle()
        assert terminal.settle()
        assert terminal.order is None
        assert all(isinstance(problem, Problem) for problem in editor.problems)
        terminal.place.click()
        assert terminal.settle()
        assert terminal.dialog.question is None
        assert "stop_loss" in terminal.said.value
        assert "<b>105" not in terminal.said.value
    finally:
        terminal.close()


def test_the_newest_ticks_are_taken_in(session: so.Session) -> None:
    session.place(order())
    play(session, 4)
    terminal = Terminal(session, PAST, entries=20)
    try:
        editor = terminal.editor
        assert editor is not None
        assert len(editor.ticks) == 504
        play(session, 6)
        terminal.newest.click()
        assert terminal.settle()
        assert terminal.editor is editor  # with all that was typed in it
        assert len(editor.ticks) == 506
        assert editor.ticks.instrument.price(int(editor.ticks.price[-1])) == BTC.price(10020)
    finally:
        terminal.close()


def test_without_ticks_it_waits_for_some() -> None:
    """Of a live feed nothing is known before the first order; a recorded one is laid out whole, and said to be."""
    with so.paper(feed=so.recorded(TAPE, speed=None, paused=True)) as session:
        terminal = Terminal(session, entries=5)
        assert "odds know the future" in terminal.note.value
        terminal.close()
        session.feed.ticks = None  # as a live one  # type: ignore[attr-defined]
        terminal = Terminal(session)
        assert terminal.editor is None
        assert terminal.place.disabled
        assert "No ticks have come yet" in terminal.note.value
        terminal.close()


def test_several_markets() -> None:
    other = ticks_of(np.linspace(50, 51, 300).round(2), symbol="ETH/USDT")
    with so.paper(feed=so.recorded([TAPE, other], speed=None, paused=True)) as session:
        terminal = Terminal(session, [PAST, other], entries=5)
        first = terminal.editor
        assert terminal.symbol.options == ("BTC/USDT", "ETH/USDT")
        terminal.symbol.value = "ETH/USDT"
        assert terminal.settle()
        assert terminal.editor is not first
        assert terminal.order is not None
        assert terminal.order.symbol == "ETH/USDT"
        terminal.close()


def test_what_if_of_the_selected_order(session: so.Session) -> None:
    session.place(order(tag="<i>x"))
    play(session)
    terminal = Terminal(session, PAST, entries=20)
    try:
        assert terminal.board.selected == 0
        assert not terminal.what_if.disabled
        terminal.what_if.click()
        assert terminal.settle()
        assert terminal.fork is not None
        assert terminal.fork.settle()
        assert terminal.fork.difference == 0
        assert terminal.forked.children == (terminal.fork,)
        terminal._close_fork.click()
        assert terminal.settle()
        assert terminal.fork is None
    finally:
        terminal.close()


def test_nothing_of_it_stays_in_the_kernel(session: so.Session) -> None:
    from ipywidgets.widgets import widget

    session.place(order())
    play(session)
    Terminal(session, PAST, entries=20).close()
    before = set(widget._instances)
    for _ in range(2):
        terminal = Terminal(session, PAST, entries=20)
        terminal.what_if.click()
        assert terminal.settle()
        assert terminal.fork is not None
        assert terminal.fork.settle()
        terminal.close()
        kinds = sorted(type(widget._instances[key]).__name__ for key in set(widget._instances) - before)
        assert kinds == []


def test_an_order_is_read_back() -> None:
    spec = order(entry=so.Entry.ladder([(99, 60), (98, 40)]), stop_loss=95, trailing_stop="2%", break_even=True)
    assert summary(spec.replace(take_profits=[(105, 50), (110, 50)])) == [
        "Buy 1 BTC of BTC/USDT, entry ladder 99 (60 %), 98 (40 %).",
        "Take profit at 105 (50 %), 110 (50 %).",
        "Protected by stop 95, trailing stop 2 %, break-even after TP1.",
    ]
    bare = so.SmartOrder(symbol="BTC/USDT", side="sell", cost=100, entry=so.Entry.limit(120), take_profits=[(110, 100)])
    assert summary(bare) == [
        "Sell 100 USDT worth of BTC/USDT, entry limit 120.",
        "Take profit at 110 (100 %).",
        "Nothing protects it: no stop.",
    ]


# ------------------------------------------------------------------------------------------------------- what a page is given


def test_ticks_come_through_as_they_are(tmp_path: Path) -> None:
    ts = BEGIN + STEP * np.arange(4)
    quotes = so.Ticks.from_arrays(ts, [1.25, 1.5, 1.25, 1.75], [1, 2, 3, 4], [1, -1, 1, 0], bid=[1.2] * 4, ask=[1.3] * 4,
                                  mark=[1.25] * 4, unit="ns", symbol="A/B")  # fmt: skip
    columns = {
        "ts": ts * 60,
        "open": [1.0, 2, 3, 4],
        "high": [2.0, 3, 4, 5],
        "low": [0.5, 1, 2, 3],
        "close": [2.0, 3, 4, 4],
    }
    import polars as pl

    bars = so.Ticks.from_bars(pl.DataFrame(columns), "optimistic", symbol="A/B", unit="ns")
    for ticks in (TAPE, quotes, bars):
        told = json.loads(json.dumps(app.keep(ticks, tmp_path / "ticks.parquet")))
        back = app.kept(told)
        assert back.data_hash == ticks.data_hash
        assert (back.path, back.instrument) == (ticks.path, ticks.instrument)


def test_a_page_may_ask_what_a_stream_does_not_say(session: so.Session, tmp_path: Path) -> None:
    number = session.place(order())
    play(session, 4)
    session.edit(number, stop_loss="-1%")
    lives = app.Lives(session)
    at = lives.start()
    try:
        told = app.ask_lives(at, order=number)
        assert told["order"] == order().to_dict()
        assert [action["kind"] for action in told["actions"]] == ["edit"]
        assert told["fills"] == {"fee_taker": "0.001"}
        assert told["created"] == BEGIN - 1
        found = app._seen(at, "BTC/USDT")
        assert found is not None
        assert np.array_equal(found.price, TAPE.price[:4])
        assert app._seen(at, "ETH/USDT") is None
        with pytest.raises(so.SmartOrdersError):
            app.ask_lives(at, order=7)
        with pytest.raises(so.SmartOrdersError, match="does not answer"):
            app.ask_lives({**at, "key": "no"}, order=number)
    finally:
        lives.close()
    with pytest.raises(so.SmartOrdersError, match="does not answer"):
        app.ask_lives(at, order=number)


def test_addresses() -> None:
    assert app.loopback("127.0.0.1")
    assert app.loopback("::1")
    assert app.loopback("localhost")
    assert not app.loopback("0.0.0.0")
    assert not app.loopback("192.168.1.2")
    with pytest.raises(so.SmartOrdersError, match="is not an address"):
        app.loopback("here")


# ------------------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--exchange", "binance", "--recorded", "x"], "cannot stand together"),
        (["--ip", "0.0.0.0"], "pass --allow-remote if that is meant"),
        (["--ip", "0.0.0.0", "--allow-remote", "--no-token"], "keep the token"),
        (["--ip", "nowhere"], "is not an address"),
        (["--theme", "blue"], "must be one of auto, light, dark"),
        ([], "--store: is required"),
        (["--store", "lab.duckdb"], "needs ticks"),
        (["--store", "lab.duckdb", "--recorded", str(SAMPLE)], "pass --symbol BTC/USDT"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    given: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--theme" in given:
        given = [*given, "--store", "lab.duckdb", "--recorded", str(SAMPLE), "--symbol", "SOL/USDT"]
    result = CliRunner().invoke(cli, ["panel", *given])
    assert result.exit_code == 2, result.stderr
    assert said in result.stderr
    assert result.stdout == ""


class Panel:
    """A `smartorders panel` in a process of its own."""

    def __init__(self, folder: Path, *args: str | Path):
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        env = os.environ | {"TMPDIR": str(folder / "tmp"), "JUPYTER_CONFIG_DIR": str(folder / "config")}
        env |= {"JUPYTER_RUNTIME_DIR": str(folder / "runtime"), "IPYTHONDIR": str(folder / "ipython")}
        self.tmp = folder / "tmp"
        self.tmp.mkdir(exist_ok=True)
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen([SCRIPT, "panel", *args], cwd=folder, stdout=out, stderr=err, env=env)

    def __enter__(self) -> Panel:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def url(self) -> str:
        """Where it is, once it is there."""
        until(lambda: "panel at http" in self.out.read_text() or self.process.poll() is not None, "it starts", 120)
        assert self.process.poll() is None, self.err.read_text()
        line = next(line for line in self.out.read_text().splitlines() if line.startswith("panel at "))
        return line.removeprefix("panel at ")

    def send(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def children(self) -> list[int]:
        """Processes that work for it."""
        found = []
        for at in Path("/proc").glob("[0-9]*"):
            try:
                if f"{self.tmp}".encode() in (at / "environ").read_bytes() and int(at.name) != self.process.pid:
                    found.append(int(at.name))
            except OSError:
                continue
        return found


def get(url: str) -> tuple[int, str]:
    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    try:
        with urllib.request.build_opener(Stay).open(url, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, ""


def test_begun_looked_at_and_stopped(tmp_path: Path) -> None:
    """It begins a session, shows it to who has the token, ends cleanly on SIGTERM, and goes on with it on the next start."""
    args = [
        "--store",
        "lab.duckdb",
        "--recorded",
        str(SAMPLE),
        "--symbol",
        "SOL/USDT",
        "--speed",
        "600",
        "--name",
        "lab",
    ]
    link = so.SmartOrder(symbol="SOL/USDT", side="buy", quantity=1, stop_loss="-50%").share_link()
    with Panel(tmp_path, *args, "--order", link) as panel:
        begun(panel, tmp_path)
    with Panel(tmp_path, *args) as again:
        again.url()
        until(lambda: "event=resumed" in again.out.read_text(), "it goes on")
        assert " orders=1 " in again.out.read_text()
        assert again.send(signal.SIGINT) == 0


def begun(panel: Panel, folder: Path) -> None:
    url = panel.url()
    bare = url.partition("?")[0]
    assert bare.startswith("http://127.0.0.1:")
    assert get(bare)[0] == 302  # to where a token is asked for
    assert get(f"{bare}?token=no")[0] == 302
    status, page = get(url)
    assert status == 200
    assert "<title>lab – smartorders</title>" in page
    assert "app.page()" not in page
    assert "cdn" not in page.partition("<body")[0].replace("cdnjs", "")  # no link to another place in its head
    assert panel.children()
    until(lambda: "event=begun" in panel.out.read_text(), "the session runs")
    assert json.loads(command("orders", folder / "lab.duckdb", "--json"))[0]["symbol"] == "SOL/USDT"
    assert panel.send(signal.SIGTERM) == 0, panel.err.read_text()
    assert panel.err.read_text() == ""
    assert "event=stopped" in panel.out.read_text()
    until(lambda: not panel.children(), "its processes are gone")
    assert [*panel.tmp.glob("smartorders-panel-*")] == []
    assert not (folder / "lab.duckdb.session").exists()


def test_its_pages_end_with_it(tmp_path: Path) -> None:
    """Also where it has no time to say so."""
    with Panel(tmp_path, "--store", "lab.duckdb", "--recorded", str(SAMPLE), "--symbol", "SOL/USDT") as panel:
        panel.url()
        assert panel.children()
        panel.process.kill()
        until(lambda: not panel.children(), "its pages are gone")


def test_looking_at_a_session_that_another_process_runs(tmp_path: Path) -> None:
    store = tmp_path / "lab.duckdb"
    feed = so.recorded(TAPE, speed=None, paused=True)
    with so.paper(feed=feed, store=store, name="theirs") as session, Server(session, discovery=discovery_path(store)):
        session.place(order())
        with Panel(tmp_path, "--store", "lab.duckdb") as panel:
            looked_at(panel, session, store)


def looked_at(panel: Panel, session: so.Session, store: Path) -> None:
    assert "<title>theirs – smartorders</title>" in get(panel.url())[1]
    refused = subprocess.run(
        [SCRIPT, "panel", "--store", store, "--name", "mine"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "session theirs is running on" in refused.stderr
    assert panel.send(signal.SIGINT) == 0
    assert session.status == "live"
    assert panel.err.read_text() == ""


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        args = ["--recorded", str(SAMPLE), "--symbol", "SOL/USDT", "--store", "lab.duckdb", "--port", str(port)]
        done = subprocess.run([SCRIPT, "panel", *args], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"127.0.0.1:{port}: cannot be listened on" in done.stderr
    assert "Traceback" not in done.stderr
