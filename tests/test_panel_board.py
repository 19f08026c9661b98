"""The board: real sessions on recorded ticks on the Python side, its scripts in a real Chromium, joined by what is really sent."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smartorders_lab as so
from smartorders_lab.links import decode
from smartorders_lab.serve import Server

pytest.importorskip("anywidget")
import ipywidgets

from smartorders_lab.panel import parts, watch
from smartorders_lab.panel.board import Board
from smartorders_lab.panel.parts import DOTS, Choice, Dialog, Hub, Manners, level_dots, progress, said_html, status_dot

CHROMIUM = Path("/usr/bin/chromium")
BTC = so.Instrument(symbol="BTC/USDT", price_increment="0.01", quantity_increment="0.001")
BEGIN = 10**18
LONG = 60
EVIL = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


def ticks_of(prices: Any, symbol: str = "BTC/USDT") -> so.Ticks:
    ts = BEGIN + 10**9 * np.arange(len(prices), dtype=np.int64)
    instrument = BTC.model_copy(update={"symbol": symbol})
    return so.Ticks.from_arrays(ts, np.asarray(prices, float), instrument=instrument, unit="ns")


def walk(count: int = 6_000, seed: int = 1, scale: float = 0.0005) -> np.ndarray:
    steps = np.random.default_rng(seed).normal(0, scale, count)
    return (100 * np.exp(np.cumsum(steps))).round(2)


def order(**changes: Any) -> so.SmartOrder:
    given: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "quantity": 1, "take_profits": [(102, 50), (104, 50)]}
    return so.SmartOrder(**given | {"stop_loss": 98} | changes)


def waiting(price: float = 50, **changes: Any) -> so.SmartOrder:
    return order(**{"entry": so.Entry.limit(price), "stop_loss": "-2%", "take_profits": [("+2%", 100)]} | changes)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """Every board is closed by the end of its test, with its threads and its widgets."""
    yield
    parts.close_all()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("panel")]


class Desk:
    """A session whose ticks go where they are told to, and a board of it. `sent`: what went to the browser."""

    def __init__(self, prices: Any, **how: Any):
        self.feed = so.recorded(ticks_of(prices), speed=None, paused=True)
        self.session = so.paper(feed=self.feed, **how)
        self.boards: list[Board] = []
        self.sent: list[dict[str, Any]] = []

    def board(self, session: Any = None, **how: Any) -> Board:
        made = Board(self.session if session is None else session, **how)
        send = made.view.send

        def keep(content: Any, *more: Any) -> None:
            self.sent.append(json.loads(json.dumps(content)))
            send(content, *more)

        made.view.send = keep
        made.truth = self.session
        self.boards.append(made)
        settle(made)
        return made

    def play(self, until: int) -> None:
        self.feed.play(until)
        assert self.session.wait(LONG)
        for board in self.boards:
            if not board.hub.closed:
                settle(board)

    def close(self) -> None:
        for board in self.boards:
            board.close()
        self.session.close()


@pytest.fixture
def desk() -> Iterator[Callable[..., Desk]]:
    made: list[Desk] = []

    def make(prices: Any, **how: Any) -> Desk:
        made.append(Desk(prices, **how))
        return made[-1]

    yield make
    for one in made:
        one.close()


def settle(board: Board) -> None:
    """Until everything that was clicked, told and looked at is shown."""
    for _ in range(2):
        assert board.hub.settle(LONG)
        if board.watch.status not in ("closed", "failed", "reconnecting"):
            until(lambda: board.watch.heard >= board.truth.journal.changes)
        board.hub.post(board.watch.pull)
    assert board.hub.settle(LONG)


def click(board: Board, key: str) -> None:
    assert not board.buttons[key].disabled, key
    board.buttons[key].click()
    settle(board)


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.01)


def said(board: Board) -> dict[str, str]:
    return {place: widget.value for place, widget in board._said.items() if widget.value}


def rows(board: Board) -> dict[int, dict[str, Any]]:
    return {row["n"]: row for row in board._whole_session()["rows"]}


def test_an_event_is_told_once_and_every_time_is_as_long() -> None:
    change = {
        "ts": "2024-01-01T00:00:35Z",
        "kind": "break_even",
        "role": "break_even",
        "level": -1,
        "price": "100",
        "quantity": "0",
    }
    change |= {"stop": "100", "status": "ACTIVE", "reason": None}
    assert watch.told(change) == "break even at 100"
    assert watch.log_line(change)["what"] == "break even"
    other = change | {"kind": "filled", "role": "take_profit", "level": 1}
    assert (watch.told(other), watch.log_line(other)["what"]) == ("take profit 2 filled at 100", "filled · take profit")
    moments = [
        watch.log_line(change | {"ts": f"2024-01-01T00:00:35{rest}Z"})["at"]
        for rest in ("", ".1", ".000000001", ".123456789")
    ]
    assert moments == [f"2024-01-01 00:00:35.{rest}" for rest in ("000", "100", "000", "123")]


# ----------------------------------------------------------------------------------------------------------- the hub


def test_a_hub_does_things_in_turn_and_what_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    hub, done = Hub("t"), []
    hub.on_close(lambda: done.append("closed"))
    hub.post(lambda: 1 / 0)
    for n in range(3):
        hub.post(done.append, n)
    hub.ask(lambda: int("7"), lambda result, error: done.append((result, error, hub.here)))
    hub.ask(lambda: int("x"), lambda result, error: done.append((result, type(error))))
    hub.ask(lambda: 1 / 0)
    assert hub.settle()
    assert done == [0, 1, 2, (7, None, True), (None, ValueError)]
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert repr(hub) == "Hub('t', running)"
    hub.post(hub.close)  # also from its own thread
    until(lambda: hub.closed)
    hub.close()
    hub.close()
    assert done[5:] == ["closed"]
    assert not hub.post(done.append, 8)
    assert not hub.ask(lambda: None)
    assert not hub.settle()


def test_of_what_is_coalesced_the_newest_wins() -> None:
    hub, done = Hub("t", hz=1000), []
    held, go = threading.Event(), threading.Event()
    hub.post(lambda: (held.set(), go.wait(LONG)))
    assert held.wait(LONG)
    for n in range(100):
        hub.later("a", done.append, n)
        hub.later("b", done.append, -n)
    go.set()
    assert hub.settle()
    assert done == [99, -99]


def test_a_hub_of_the_same_name_takes_the_place_of_the_former() -> None:
    ended: list[int] = []
    for n in range(5):
        hub = Hub("cell")
        hub.on_close(lambda n=n: ended.append(n))
    assert ended == [0, 1, 2, 3]
    assert sorted(t.name for t in threading.enumerate() if t.name.startswith("panel")) == [
        "panel cell",
        "panel cell calls",
    ]
    parts.close_all()
    assert ended == [0, 1, 2, 3, 4]


def test_at_the_end_of_the_process_nothing_is_sent() -> None:
    """A kernel that is restarted has no page any more that would know its widgets."""
    code = """
import atexit, sys
import comm
comm.DummyComm.publish_msg = lambda self, kind, *rest, **more: print(kind, flush=True)
import numpy as np
from smartorders_lab.panel.board import Board
import smartorders_lab as so
ts = 10**18 + 10**9 * np.arange(50)
ticks = so.Ticks.from_arrays(ts, np.full(50, 100.0), symbol="BTC/USDT", unit="ns")
session = so.paper(feed=so.recorded(ticks, speed=None))
board, editor = Board(session), so.LadderEditor(ticks, entries=10)
session.place(so.SmartOrder(symbol="BTC/USDT", side="buy", quantity=1, stop_loss="-5%"))
session.wait(60)
settled = [board.hub.settle(), editor.settle()]
print(f"settled: {settled}", flush=True)
atexit.register(print, "leaving", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    before, _, after = done.stdout.partition("leaving\n")
    assert "comm_open" in before
    assert "settled: [True, True]" in before
    assert "comm_close" not in after  # a beat may still be under way when the end begins


def test_callbacks_are_let_free() -> None:
    """In ipykernel 7 a widget answers on the thread of cells unless it is told not to; elsewhere there is nothing to tell."""

    class Comm:
        def _reply_subshell_for(self, data: Any, default: Any) -> Any:
            return "the thread of cells"

    class Stock:
        def __init__(self, *children: Any, comm: Any = None):
            self.children, self.comm = children, comm

    button = Stock(comm=Comm())
    parts.free(Stock(button, Stock(comm=object())))
    assert button.comm._reply_subshell_for({}, "its own") == "its own"


# ---------------------------------------------------------------------------------------------------------- words


def described(status: str = "ACTIVE", **more: Any) -> dict[str, Any]:
    given = {"status": status, "attention": None, "realized_pnl": "0", "exit_reason": None, "held": "1"}
    return given | {"entry_price": "100", "levels": [], "filled_levels": 0} | more


@pytest.mark.parametrize(
    ("order", "dot"),
    [
        (described("PENDING"), "pending"),
        (described("ACTIVE"), "active"),
        (described("PARTIALLY_CLOSED"), "partly_closed"),
        (described("CLOSED", realized_pnl="2"), "closed"),
        (described("CLOSED", realized_pnl="-2"), "closed_loss"),
        (described("STOPPED", realized_pnl="-2"), "stopped"),
        (described("STOPPED", realized_pnl="0.1"), "stopped_profit"),
        (described("CANCELLED", exit_reason="cancelled"), "cancelled"),
        (described("CANCELLED", exit_reason="rejected"), "rejected"),
        (described("ACTIVE", attention="exits are refused"), "attention"),
    ],
)
def test_every_status_has_its_dot(order: dict[str, Any], dot: str) -> None:
    assert status_dot(order) == dot


def test_no_status_is_told_by_colour_alone() -> None:
    """Two dots of one colour and shape mean the same colour and shape in words too: the word is never left out."""
    assert {dot.colour for dot in DOTS.values()} == {"grey", "yellow", "green", "red"}
    shapes: dict[str, set[str]] = {}
    for dot in DOTS.values():
        assert dot.word
        shapes.setdefault(dot.shape, set()).add(dot.colour)
    assert all(len(colours) == 1 for colours in shapes.values()), "a shape belongs to one colour"
    assert 'aria-label="partly filled"' in parts.dot_html("partial")
    assert "partly filled" in parts.dot_html("partial", word=True)


def test_a_level_goes_from_grey_over_yellow_to_green() -> None:
    def levels(*statuses: str) -> list[dict[str, Any]]:
        return [{"price": price, "size": "50", "status": s} for price, s in zip(("102", "104"), statuses, strict=True)]

    both = described(levels=levels("PENDING", "PENDING"))
    assert level_dots(both) == ["pending", "pending"]
    assert level_dots(both, 100.9) == ["pending", "pending"]
    assert level_dots(both, 101.0) == ["approaching", "pending"], "half the way from the entry"
    assert level_dots({**both, "held": "0"}, 101.0) == ["pending", "pending"], "nothing is held"
    assert level_dots(described(levels=levels("TRIGGERED", "PENDING")), 102.0) == ["working", "pending"]
    one = described(levels=levels("FILLED", "PENDING"), filled_levels=1)
    assert level_dots(one, 102.9) == ["filled", "pending"]
    assert level_dots(one, 103.0) == ["filled", "approaching"], "half the way from the level before"
    assert progress(one) == "1/2"
    assert level_dots(described(levels=levels("FILLED", "CANCELLED"))) == ["filled", "cancelled"]
    assert progress(described()) == ""
    short = described(levels=[{"price": "98", "size": "100", "status": "PENDING"}])
    assert (level_dots(short, 99.5), level_dots(short, 99.0)) == (["pending"], ["approaching"])


def test_what_is_said_is_no_markup() -> None:
    assert "<img" not in said_html(EVIL)
    assert 'role="alert"' in said_html("no")
    assert 'role="status"' in said_html("yes", "done")
    assert said_html("") == said_html(None) == ""


# -------------------------------------------------------------------------------------------------------- following


def test_a_board_shows_what_the_session_says(desk: Callable[..., Desk], tmp_path: Path) -> None:
    one = desk(walk(), store=tmp_path / "lab.duckdb", name="ladders")
    session = one.session
    a = session.place(order(stop_loss="-1%", trailing_stop="1.5%", tag="a"))
    session.place(waiting())
    session.place(order(side="sell", take_profits=[(50, 100)], stop_loss=150))
    one.play(200)
    board = one.board()
    assert repr(board) == "Board('ladders', paper, live, 3 orders, 3 living)"
    assert board.selected == 2
    assert not hasattr(board, "_notify_nothing")
    for end in (500, 1500, 3000, 4500):
        one.play(end)
        state = session.state()
        shown = rows(board)
        for described in state["orders"]:
            row = shown[described["order"]]
            assert row == watch.row_of(described, board.watch.price(described))
            assert (row["entry"], row["stop"], row["held"]) == (
                described["entry_price"],
                described["stop"],
                described["held"],
            )
            last = described["last"]
            assert board.watch.price(described) == (None if last is None else float(last))
        assert board._whole_session()["prices"]["BTC/USDT"]["price"] == state["symbols"]["BTC/USDT"]["price"]
    assert {row["section"] for row in shown.values()} == {"living", "pending", "finished"}
    board.selected = a
    settle(board)
    mine = session.changes(limit=None, order=a)
    assert [line["at"] for line in board._whole_log()["lines"]] == [
        f"{c['ts'].rstrip('Z').replace('T', ' ')}.000"[:23] for c in reversed(mine)
    ]
    assert board._whole_log()["title"] == "Events of order #0"
    assert board._detail["version"] == session.order(a)["version"] == len(mine)
    assert len(board.chart.marks) == sum(change["kind"] == "filled" for change in mine)
    assert board.events.get_state("state")["state"] == board._whole_log()
    assert board.view.get_state("state")["state"]["rows"] == [*shown.values()], "a page that is loaded again has it all"


def test_only_what_is_different_travels(desk: Callable[..., Desk]) -> None:
    one = desk([100.0, 100.5, 101.0, 101.5, 102.0, 103.0, 104.0])
    one.session.place(order(tag="x" * 200))
    one.play(1)
    board = one.board()
    one.sent.clear()
    one.play(2)
    news = [message for message in one.sent if message]
    assert news == [
        {
            "prices": {
                "BTC/USDT": {
                    "price": "100.5",
                    "ts": "2001-09-09T01:46:41Z",
                    "age": news[0]["prices"]["BTC/USDT"]["age"],
                }
            }
        }
    ]
    one.sent.clear()
    one.play(3)
    assert [m["rows"] for m in one.sent if "rows" in m] == [[{"n": 0, "levels": ["approaching", "pending"]}]]
    one.sent.clear()
    one.play(5)
    changed = {key for m in one.sent for row in m.get("rows", ()) for key in row}
    assert {"dot", "word", "held", "real", "levels", "progress", "filled"} <= changed
    assert not {"tag", "symbol", "side", "entry"} & changed
    assert rows(board)[0]["progress"] == "1/2"
    one.play(7)
    assert (rows(board)[0]["section"], rows(board)[0]["progress"]) == ("finished", "2/2")
    assert board.watch.status == "ended"
    assert board._head["feed"]["word"] == "feed ended"
    one.sent.clear()
    for _ in range(5):
        board.hub.post(board.watch.pull)
        settle(board)
    assert not [message for message in one.sent if message], "nothing happens, so nothing is told"
    until(lambda: {} in one.sent)  # but that the kernel lives


def test_a_trailing_stop_moves_between_the_events(desk: Callable[..., Desk]) -> None:
    prices = [100.0, 101.0, 102.0, 103.0, 102.5, 104.0, 103.9]
    one = desk(prices)
    one.session.place(order(take_profits=[(150, 100)], stop_loss=90, trailing_stop="2%"))
    one.play(1)
    board = one.board()
    seen = []
    for end in range(2, len(prices) + 1):
        one.play(end)
        row = rows(board)[0]
        assert (row["stop"], row["mark"]) == (one.session.order(0)["stop"], one.session.order(0)["water_mark"])
        seen.append(row["stop"])
    assert seen == ["98.98", "99.96", "100.94", "100.94", "101.92", "101.92"]
    other = one.board(name="other")  # who comes later recomputes it from the ticks
    assert [round(price, 2) for _, price in other._path] == pytest.approx([98.0, 98.98, 99.96, 100.94, 101.92])
    assert other._path[-1][0] == BEGIN + 5 * 10**9


def test_the_chart_has_the_ticks_and_the_lines(desk: Callable[..., Desk]) -> None:
    prices = walk(300)
    one = desk(prices)
    one.session.place(order(stop_loss="-5%", take_profits=[("+5%", 40), ("+20%", 60)], break_even=True))
    one.session.place(waiting(90.5, stop_loss=88, take_profits=[(102, 50), (104, 50)]))
    one.session.place(order(entry=so.Entry.ladder([(95, 50), (94, 50)]), stop_loss=90))
    one.play(100)
    board = one.board()
    board.selected = 0
    settle(board)
    assert len(board.chart._tape) == 100
    for end in (101, 150, 300):
        one.play(end)
        assert len(board.chart._tape) == end
        assert board.chart._tape.last == int(ticks_of(prices).ts[end - 1])
    assert (board.chart.step, board.chart.digits, board.chart.title) == (0.01, 2, "BTC/USDT")
    entry = float(one.session.order(0)["entry_price"])
    lines = {line["id"]: line for line in board.chart.lines}
    assert [*lines] == ["average", "stop", "tp0", "tp1"]
    assert lines["stop"]["price"] == float(one.session.order(0)["stop"])
    assert (
        lines["tp0"]["price"]
        == float(one.session.order(0)["levels"][0]["price"])
        == pytest.approx(entry * 1.05, abs=0.01)
    )
    assert [line["draggable"] for line in lines.values()] == [False, True, True, True]
    for number, drawn in (
        (1, {"entry": 90.5, "stop": 88.0, "tp0": 102.0, "tp1": 104.0}),
        (2, {"rung0": 95.0, "rung1": 94.0}),
    ):
        board.selected = number
        settle(board)
        found = {line["id"]: line["price"] for line in board.chart.lines}
        assert found.items() >= drawn.items()
    board.selected = None
    settle(board)
    assert board.chart.lines == []
    assert len(board.chart._tape) == 0
    board.selected = 99
    settle(board)
    assert board.selected is None, "there is no such order"


def test_orders_that_come_later_are_there(desk: Callable[..., Desk]) -> None:
    one = desk(walk(100))
    board = one.board()
    assert (board.selected, rows(board)) == (None, {})
    assert all(button.disabled for button in board.buttons.values() if button is not board.buttons["force"])
    one.session.place(order())
    settle(board)
    assert [*rows(board)] == [0]
    assert board.selected == 0
    one.play(10)
    assert rows(board)[0]["dot"] == "active"
    assert not board.buttons["cancel"].disabled


@pytest.mark.parametrize("seen_before", [0, 2])
def test_an_order_is_chosen_before_the_board_has_heard_of_it(desk: Callable[..., Desk], seen_before: int) -> None:
    """As the terminal does with what it has just placed; the choice stays, whatever a look finds meanwhile."""
    one = desk(walk(100))
    for _ in range(seen_before):
        one.session.place(waiting())
    board = one.board()
    chosen: list[Any] = []
    board.observe(lambda change: chosen.append(change["new"]), "selected")
    for look_first in (True, False, True):
        late = threading.Event()
        board.hub.ask(late.wait)  # nothing that is asked of the session is answered until then
        mine, _ = one.session.place(waiting()), one.session.place(waiting())
        board.selected = mine
        if look_first:
            state = one.session.state()
            board.hub.post(lambda state=state: board._news(board.watch._take(state, False), None, []))
        late.set()
        settle(board)
        assert board.selected == board.view.selected == board._detail["n"] == mine
    settle(board)
    assert len(chosen) <= 5, "what is written back is nobody's choice"


# ---------------------------------------------------------------------------------------------------------- actions


def test_everything_that_can_be_done_to_an_order(desk: Callable[..., Desk], tmp_path: Path) -> None:
    one = desk(np.full(400, 100.0), store=tmp_path / "lab.duckdb")
    session = one.session
    session.place(waiting(99, stop_loss=88, take_profits=[(102, 50), (104, 50)]))
    one.play(10)
    board = one.board()
    spec = lambda: session.book.spec(0)  # noqa: E731
    click(board, "open_now")
    assert "enters at market" in said(board)["actions"]
    one.play(20)
    assert session.order(0)["held"] == "1"
    assert board.buttons["open_now"].disabled

    board.fields["stop"].value = "97.5"
    board.fields["rate"].value = "5%"
    settle(board)
    assert board.buttons["apply"].description == "Apply 2 changes"
    click(board, "apply")
    assert (str(spec().stop_loss.target), str(spec().trailing_stop.callback_rate)) == ("97.5", "0.05")
    assert board.buttons["apply"].disabled
    assert "changed" in said(board)["protection"]
    assert (board.fields["stop"].value, board.fields["rate"].value) == ("97.5", "5%")

    board.fields["even"].value = True
    settle(board)
    assert spec().break_even is not None
    board.fields["even"].value = False
    settle(board)
    assert spec().break_even is None

    board._levels[1].price.value = "+6%"
    settle(board)
    click(board, "apply")
    assert [str(level.target) for level in spec().take_profits] == ["102", "106"], "with one price, all are prices"
    assert [level["price"] for level in session.order(0)["levels"]] == ["102", "106"]
    click(board, "add_level")
    board._levels[1].size.value = "30"
    board._levels[2].price.value, board._levels[2].size.value = "110", "20"
    settle(board)
    click(board, "apply")
    assert [(str(level.target), str(level.size)) for level in spec().take_profits] == [
        ("102", "50"),
        ("106", "30"),
        ("110", "20"),
    ]
    assert len(board._levels) == 3
    board._levels[0].drop.click()
    settle(board)
    click(board, "apply")
    assert [str(level.target) for level in spec().take_profits] == ["106", "110"]
    assert [level.price.value for level in board._levels] == ["106", "110"]

    board.fields["amount"].value = "0.5"
    click(board, "add")
    one.play(30)
    assert session.order(0)["held"] == "1.5"
    assert board.fields["amount"].value == ""
    board.fields["amount"].value, board.fields["unit"].value = "50", "cost"
    click(board, "add")
    one.play(40)
    assert session.order(0)["held"] == "2"
    board.fields["amount"].value, board.fields["unit"].value, board.fields["limit"].value = "0.25", "quantity", "101"
    click(board, "reduce")
    assert session.changes(limit=None)[-1]["role"] == "reduce_funds"

    click(board, "refresh")
    assert "Looked up 1 child order at the broker." in said(board)["actions"]
    click(board, "share")
    assert decode(board.dialog.question["copy"]) == spec()
    board.dialog.answer(None)

    click(board, "close")
    assert board.dialog.question["title"] == "Close order #0 at market?"
    assert board.dialog.question["lines"][0] == "Sells 2 BTC now, at about 100.00."
    board.dialog.answer(None)
    settle(board)
    assert session.order(0)["status"] == "ACTIVE", "nobody said yes"
    click(board, "close")
    board.dialog.answer("go")
    settle(board)
    one.play(50)
    assert session.order(0)["exit_reason"] == "close_at_market"
    assert all(
        board.buttons[key].disabled for key in ("open_now", "close", "cancel", "apply", "add", "reduce", "add_level")
    )
    assert all(board.fields[key].disabled for key in ("stop", "rate", "even", "amount"))


@pytest.mark.parametrize("choice", ["keep", "close"])
def test_cancel_says_what_will_happen(desk: Callable[..., Desk], choice: str) -> None:
    one = desk([100.0, *np.full(50, 102.0)])
    one.session.place(order())
    one.session.place(waiting())
    one.play(5)
    board = one.board()
    board.selected = 0
    settle(board)
    click(board, "cancel")
    question = board.dialog.question
    assert (question["title"], question["go"], question["safe"]) == ("Cancel order #0?", "Cancel order", "Keep order")
    assert question["lines"] == [
        "The take-profit level that waits (104.00) is cancelled.",
        "The stop at 98.00 is watched no longer.",
    ]
    assert [(c["value"], c["label"], c["detail"]) for c in question["choices"]] == [
        ("keep", "Keep the position", "0.5 BTC stays, without a stop: nothing watches it any more."),
        ("close", "Close at market", "Sells 0.5 BTC now, at about 102.00; then the order is over."),
    ]
    board.dialog.answer("nonsense")
    settle(board)
    assert one.session.order(0)["status"] == "PARTIALLY_CLOSED"
    click(board, "cancel")
    board.dialog.answer(choice)
    settle(board)
    one.play(10)
    done = one.session.order(0)
    assert (done["exit_reason"], done["held"]) == (
        ("cancelled", "0.5") if choice == "keep" else ("close_at_market", "0")
    )
    board.selected = 1
    settle(board)
    click(board, "cancel")
    assert board.dialog.question["lines"] == [
        "The entry still waits (limit entry at 50); it is taken back.",
        "Nothing is held. The order ends.",
    ]
    assert board.dialog.question["choices"] == []
    board.dialog.answer("go")
    settle(board)
    assert one.session.order(1)["exit_reason"] == "cancelled"


def test_what_is_refused_is_said_where_it_was_asked(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(200, 100.0))
    session = one.session
    session.place(order(entry=so.Entry.limit(100)))
    one.play(10)
    board = one.board()

    def invalid(key: str) -> str | None:
        mine = next(c for c in board.fields[key]._dom_classes if c.startswith("sol-n-"))
        return board.manners.names[mine].get("aria-invalid")

    board.fields["stop"].value = "ninety<b>"
    settle(board)
    click(board, "apply")
    assert [*said(board)] == ["stop"]
    assert "ninety&lt;b&gt;" in said(board)["stop"]
    assert 'role="alert"' in said(board)["stop"]
    assert invalid("stop") == "true"
    board.fields["rate"].value = "200%"
    board.fields["stop"].value = "98"
    settle(board)
    click(board, "apply")
    assert [*said(board)] == ["rate"]
    assert (invalid("stop"), invalid("rate")) == ("false", "true")
    click(board, "undo")
    assert said(board) == {}
    assert (board.fields["stop"].value, board.fields["rate"].value) == ("98", "")

    board._levels[0].price.value = "0"
    settle(board)
    click(board, "apply")
    assert [*said(board)] == ["ladder"]
    click(board, "undo")
    assert board._levels[0].price.value == "102"

    for amount, unit, words in (
        ("", "quantity", "amount: is missing"),
        ("50", "cost", "what is sold is a quantity"),
        ("7", "quantity", "more than is free"),
    ):
        board.fields["amount"].value, board.fields["unit"].value = amount, unit
        click(board, "reduce")
        assert [*said(board)] == ["funds"]
        assert words in said(board)["funds"]
    board.fields["amount"].value = "0.00001"
    click(board, "add")
    assert [*said(board)] == ["funds"]

    board.fields["stop"].value = "120"
    settle(board)
    assert board.buttons["force"].layout.display == "none"
    click(board, "apply")
    assert "It would trigger at once" in said(board)["protection"]
    assert board.fields["stop"].value == "120", "what was typed stays"
    assert board.buttons["force"].layout.display is None
    click(board, "force")
    one.play(20)
    assert session.order(0)["exit_reason"] == "stop_loss"
    assert board.buttons["force"].layout.display == "none"


def test_who_is_quicker_than_the_picture_is_not_stale(desk: Callable[..., Desk]) -> None:
    """Off and on again before anything was drawn: both are done, in turn, and it is the break-even that it was."""
    one = desk(np.full(200, 100.0))
    session = one.session
    session.place(order(break_even=so.BreakEven(offset="0.1%")))
    one.play(10)
    board = one.board()
    drawn = session.order(0)["version"]
    board.detail._handle_custom_msg({"seen": [0, drawn]}, [])
    settle(board)
    for on in (False, True, False, True):
        board.fields["even"].value = on
    settle(board)
    board.detail._handle_custom_msg({"seen": [0, drawn]}, [])
    assert session.order(0)["spec"]["break_even"] == {"offset": "0.001"}
    assert session.events(0)["kind"].to_list().count("action") == 4
    assert board.fields["even"].value is True
    session.edit(0, stop_loss=97)  # by somebody else
    board.fields["even"].value = False
    settle(board)
    assert "break_even" in session.order(0)["spec"], "what others did was not seen"
    assert board.fields["even"].value is True


def test_an_action_carries_the_version_that_the_user_saw(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(200, 100.0))
    session = one.session
    session.place(order())
    one.play(10)
    board = one.board()
    drawn = session.order(0)["version"]
    board.detail._handle_custom_msg({"seen": [0, drawn]}, [])
    session.edit(0, stop_loss=97)  # somebody else was quicker, and the browser has not drawn it yet
    settle(board)
    board.fields["even"].value = True
    settle(board)
    assert session.order(0)["spec"].get("break_even") is None
    assert "The order has moved on since you saw it; nothing was done." in said(board)["even"]
    assert board.fields["even"].value is False, "the switch goes back"
    board.detail._handle_custom_msg({"seen": [0, session.order(0)["version"]]}, [])
    for wrong in ({"seen": "x"}, {"seen": [0]}, {"seen": [None, None]}, "x"):
        board.detail._handle_custom_msg(wrong, [])
    board.fields["even"].value = True
    settle(board)
    assert session.order(0)["spec"]["break_even"] == {}
    assert said(board)["even"].count("changed") == 1

    board.detail._handle_custom_msg({"seen": [0, session.order(0)["version"]]}, [])
    click(board, "cancel")
    session.edit(0, stop_loss=96)  # while the question is open
    settle(board)
    board.detail._handle_custom_msg({"seen": [0, session.order(0)["version"]]}, [])
    board.dialog.answer("keep")
    settle(board)
    assert session.order(0)["status"] == "ACTIVE", "what was asked was about another version"
    assert "has moved on" in said(board)["actions"]


def test_lines_of_the_chart_move_the_order(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(200, 100.0))
    session = one.session
    session.place(order(stop_loss={"target": "-2%", "timeout": "5s"}, take_profits=[("+2%", 50), ("+4%", 50)]))
    session.place(waiting(90, stop_loss=80))
    one.play(10)
    board = one.board()
    board.selected = 0
    settle(board)
    counts = iter(range(1, 100))

    def drag(line: str, price: float, final: bool = True) -> None:
        board.chart._handle_custom_msg({"k": "move", "id": line, "price": price, "final": final, "n": next(counts)}, [])
        settle(board)

    drag("stop", 97.001, final=False)
    assert board.fields["stop"].value == "97.00", "the field follows the hand"
    assert session.order(0)["stop"] == "98"
    drag("stop", 98.0)
    assert session.order(0)["version"] == 3, "it was put back where it was: nothing is sent"
    assert board.fields["stop"].value == "-2%"
    drag("stop", 97.004)
    assert session.order(0)["spec"]["stop_loss"] == {"target": "97", "timeout": "5s"}, "what else belongs to it stays"
    drag("tp1", 105.5)
    assert [str(level.target) for level in session.book.spec(0).take_profits] == ["102", "105.5"]
    drag("stop", 101.0)
    assert "It would trigger at once" in said(board)["stop"]
    assert session.order(0)["stop"] == "97"
    lines = {line["id"]: line["price"] for line in board.chart.lines}
    assert (lines["stop"], lines["tp1"]) == (97.0, 105.5), "it springs back"
    assert board.fields["stop"].value == "97"
    assert not board._moving
    board.selected = 1
    settle(board)
    drag("entry", 91.0)
    assert session.order(1)["spec"]["entry"]["price"] == "91"
    drag("entry", 79.0)
    assert session.order(1)["spec"]["entry"]["price"] == "91"
    assert said(board)


def test_what_is_being_typed_is_not_written_over(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(200, 100.0))
    one.session.place(order())
    one.play(10)
    board = one.board()
    board.fields["stop"].value = "97"
    board._levels[1].price.value = "107"
    fields = [level.price for level in board._levels]
    one.session.edit(0, stop_loss=96, trailing_stop="6%")
    one.play(20)
    assert board.fields["stop"].value == "97"
    assert board.fields["rate"].value == "6%"
    assert [level.price for level in board._levels] == fields, "no field is made anew"
    assert board._levels[1].price.value == "107"
    click(board, "undo")
    assert board.fields["stop"].value == "96"


def test_a_ladder_that_changes_under_the_hand_says_so(desk: Callable[..., Desk]) -> None:
    one = desk([*np.full(20, 100.0), *np.full(20, 102.0)])
    one.session.place(order())
    one.play(10)
    board = one.board()
    old = board._levels[0]
    board._levels[1].price.value = "107"
    one.play(30)
    assert "changed meanwhile" in said(board)["ladder"]
    assert [level.open for level in board._levels] == [False, True]
    assert board._levels[1].price.value == "104"
    assert old.price.comm is None, "fields that are gone are closed"
    known = {c for level in board._levels for widget in level.widgets for c in widget._dom_classes}
    fields = {c for widget in (*board.fields.values(),) for c in widget._dom_classes}
    assert set(board.manners.names) <= known | fields


# ------------------------------------------------------------------------------------ sessions elsewhere, and their end


def test_a_session_in_another_process_looks_the_same(desk: Callable[..., Desk], tmp_path: Path) -> None:
    one = desk(walk(), store=tmp_path / "lab.duckdb")
    one.session.place(order(stop_loss="-30%", trailing_stop="25%", take_profits=[("+30%", 50), ("+40%", 50)]))
    one.session.place(waiting())
    one.play(100)
    port, token = 0, "a-token-for-tests-0123456789"
    with Server(one.session, token=token) as server:
        port = int(server.url.rpartition(":")[2])
        remote = so.connect(server.url, token, timeout=LONG)
        here, there = one.board(), one.board(remote, name="there")
        for end in (300, 900):
            one.play(end)
            assert rows(there) == rows(here)
            assert there._detail == here._detail
            assert there._whole_log() == here._whole_log()
            assert there.chart.lines == here.chart.lines
            assert there.chart._tape.last == here.chart._tape.last
        there.selected = 0
        settle(there)
        there.fields["stop"].value = "-31%"
        settle(there)
        click(there, "apply")
        assert one.session.order(0)["spec"]["stop_loss"] == {"target": "-31%"}
        there.fields["stop"].value = "500"
        settle(there)
        click(there, "apply")
        assert "It would trigger at once" in said(there)["protection"]
        click(there, "share")
        assert decode(there.dialog.question["copy"]) == one.session.book.spec(0)
        click(there, "refresh")
        assert "Nothing is under way" in said(there)["actions"]
    until(lambda: there.watch.status == "reconnecting")
    settle(there)
    assert there._head["feed"]["word"] == "reconnecting"
    assert "Reconnecting" in there._head["feed"]["text"]
    assert 0 in rows(there), "what was known stays"
    one.session.cancel(1)
    with Server(one.session, port=port, token=token):
        until(lambda: there.watch.status == "live" and rows(there)[1]["section"] == "finished")
        remote.close()
        until(lambda: there.watch.status == "closed")
        settle(there)
        assert there._head["final"]
        assert there.buttons["cancel"].disabled


def test_a_session_that_is_closed_or_fails_says_so(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(50, 100.0))
    one.session.place(order())
    one.play(10)
    board = one.board()
    one.session.close()
    until(lambda: board.watch.status == "closed")
    settle(board)
    assert board._head["feed"]["text"].startswith("This session is closed: nothing watches its orders.")
    assert board._head["final"]
    assert 0 in rows(board)
    assert board.buttons["cancel"].disabled


@pytest.mark.parametrize("kept", [False, True])
def test_a_board_of_a_closed_session_shows_how_it_stood(desk: Callable[..., Desk], tmp_path: Path, kept: bool) -> None:
    """Also what came in after the last look of a board that was there, and without anything to press."""
    one = desk(np.full(50, 100.0), store=tmp_path / "lab.duckdb" if kept else None)
    one.session.place(order(tag="first"))
    one.play(10)
    open_ = one.board()
    one.session.place(waiting())
    stood, told = one.session.state(), one.session.changes(limit=None, order=0)
    one.session.close()
    assert one.session.last_state()["orders"] == stood["orders"]
    assert [one.session.last_changes(0), one.session.last_state()["status"]] == [told, "stopped"]
    until(lambda: open_.watch.final and len(rows(open_)) == 2)
    late = one.board(name="late")
    for board in (open_, late):
        assert board._head["feed"]["word"] == "closed"
        assert "shown as they stood then" in board._head["feed"]["text"]
        assert {n: (row["section"], row["held"]) for n, row in rows(board).items()} == {
            0: ("living", "1"),
            1: ("pending", "0"),
        }
        board.selected = 0
        settle(board)
        assert [line["what"] for line in board._log][-1] == "created"
        assert len(board._log) == len(told)
        assert len(board.chart.lines) == 4
        assert not any(line["draggable"] for line in board.chart.lines)
        for key in ("open_now", "close", "cancel", "add", "reduce", "apply", "share", "refresh", "add_level"):
            assert board.buttons[key].disabled, key
        assert "first" in board.picture()
    assert "first" in one.session._repr_html_()


@pytest.mark.unverified
def test_a_session_that_has_failed_says_why(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(50, 100.0))
    one.session.place(order())
    one.play(10)
    board = one.board()

    async def broken() -> Any:
        raise RuntimeError(f"the feed is broken {EVIL}")

    one.feed.next = broken
    one.feed.play(20)
    until(lambda: board.watch.status == "failed")
    settle(board)
    assert board._head["feed"]["text"].startswith("FAILED: the session has stopped")
    assert "the feed is broken" in board._head["feed"]["text"]
    assert "<img" not in board.picture()


def test_wrong_arguments_are_refused_and_leave_nothing(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(50, 100.0))
    with pytest.raises(so.SpecError, match="theme = 'pink': is not one; use auto, light, dark"):
        Board(one.session, theme="pink")
    with pytest.raises(so.SpecError, match=r"session = 7: is not a session; give so.paper\(...\) or so.connect\(...\)"):
        Board(7)
    assert not [t for t in threading.enumerate() if t.name.startswith("panel")]


# ----------------------------------------------------------------------------------------------------- threads and memory


def test_a_cell_that_is_run_again_replaces_its_board(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(50, 100.0))
    one.session.place(order())
    one.play(10)
    counts, listeners = [], []
    for _ in range(5):
        board = one.board()
        counts.append(_widgets())
        listeners.append(len(one.session._listeners))
    assert sorted(t.name for t in threading.enumerate() if t.name.startswith("panel")) == [
        "panel board",
        "panel board calls",
    ]
    assert len(set(counts)) == 1, counts
    assert set(listeners) == {1}
    board.close()
    board.close()
    assert board.comm is None
    assert not one.session._listeners
    assert one.session.status == "live", "the session goes on"


def _widgets() -> int:
    from ipywidgets.widgets import widget

    return len(widget._instances)


def test_updates_leave_nothing_behind(desk: Callable[..., Desk]) -> None:
    """What is kept for the chart is bounded elsewhere; here nobody may grow by looking."""
    one = desk(100 + 0.01 * (np.arange(4000) % 50))
    for _ in range(20):
        one.session.place(order(trailing_stop="10%", stop_loss=80, take_profits=[(150, 100)]))
    one.play(100)
    board = one.board()
    at = 100

    def more(times: int) -> None:
        nonlocal at
        for _ in range(times):
            at += 5
            one.play(at)
            one.sent.clear()
        gc.collect()

    more(50)
    widgets = _widgets()
    tracemalloc.start()
    try:
        more(10)
        before = tracemalloc.take_snapshot()
        more(200)
        after = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    here = [
        tracemalloc.Filter(True, str(Path(parts.__file__).parent / name))
        for name in ("board.py", "watch.py", "parts.py")
    ]
    grown = sum(one.size_diff for one in after.filter_traces(here).compare_to(before.filter_traces(here), "lineno"))
    assert grown < 40_000, grown  # the path of the stop and the like: 200 bytes an update at the most
    assert _widgets() == widgets
    assert len(board._whole_log()["lines"]) <= 500


def test_a_browser_that_hangs_holds_up_nobody(desk: Callable[..., Desk]) -> None:
    """The session goes to its end while the hub does nothing at all; then the board catches up."""
    one = desk(walk(4000))
    one.session.place(order(stop_loss="-1%", take_profits=[("+1%", 100)]))
    one.play(10)
    board = one.board()
    held, go = threading.Event(), threading.Event()
    board.hub.post(lambda: (held.set(), go.wait(LONG)))
    assert held.wait(LONG)
    try:
        one.feed.play(4000)
        assert one.session.wait(LONG)
        assert one.session.status == "ended"
        one.session.place(order())
    finally:
        go.set()
    settle(board)
    assert rows(board)[0]["section"] == "finished"
    assert rows(board)[1]["section"] in ("living", "pending")


def test_a_slow_answer_stops_no_picture(desk: Callable[..., Desk]) -> None:
    one = desk(np.full(50, 100.0))
    one.session.place(order())
    one.play(10)
    board = one.board()
    go = threading.Event()
    board.hub.ask(lambda: go.wait(LONG))
    one.sent.clear()
    try:
        until(lambda: {} in one.sent)
    finally:
        go.set()


def test_a_session_is_not_asked_for_everything(desk: Callable[..., Desk], monkeypatch: pytest.MonkeyPatch) -> None:
    one = desk(walk(400))
    for n in range(30):
        one.session.place(
            order(stop_loss=50, take_profits=[(150, 100)], tag=str(n), **({"trailing_stop": "40%"} if n == 3 else {}))
        )
    one.play(10)
    board = one.board()
    state, asked = one.session.state, []

    def counted(orders: Any = None) -> Any:
        asked.append(None if orders is None else [*orders])
        return state(orders)

    monkeypatch.setattr(one.session, "state", counted)
    one.play(200)
    one.session.edit(7, stop_loss=60)
    settle(board)
    assert rows(board)[7]["stop"] == "60"
    assert None not in asked
    assert {number for orders in asked for number in orders} <= {3, 7}
    assert rows(board)[3]["mark"] == one.session.order(3)["water_mark"]
    before = len([orders for orders in asked if orders])
    for _ in range(5):
        board.hub.post(board.watch.pull)
        settle(board)
    assert len([orders for orders in asked if orders]) == before, "no new high, so nothing to look at"


# ------------------------------------------------------------------------------------------------- a saved notebook


def test_a_saved_notebook_has_a_table(desk: Callable[..., Desk]) -> None:
    one = desk([100.0, *np.full(50, 102.0)], name=f"n {EVIL}")
    one.session.place(order(tag=EVIL[:100], note="n"))
    one.play(10)
    board = one.board()
    bundle = board._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == repr(board)
    page = bundle["text/html"]
    assert "&lt;img src=x" in page
    assert not {"<img", "<script", "<style", "class="} & {
        piece for piece in ("<img", "<script", "<style", "class=") if piece in page
    }
    for words in ("PAPER", "partly closed", "1/2", "BTC/USDT", "●", 'aria-label="filled"'):
        assert words in page
    for n in range(130):
        one.session.place(waiting(tag=str(n)))
    settle(board)
    assert "31 more are not shown." in board.picture()


# ------------------------------------------------------------------------------------------------------ in a browser

MODEL = """
window.Model = class {
  constructor(state) { this.state = state; this.handlers = []; this.sent = []; this.saved = 0; }
  get(name) { return this.state[name]; }
  set(name, value) { this.state[name] = value; this.fire(`change:${name}`); }
  save_changes() { this.saved += 1; }
  on(name, handler) { this.handlers.push([name, handler]); }
  off(name, handler) { this.handlers = this.handlers.filter(([n, h]) => n !== name || (handler && h !== handler)); }
  fire(name, ...args) { for (const [n, handler] of [...this.handlers]) if (n === name) handler(...args); }
  send(content) { this.sent.push(structuredClone(content)); }
};
window.widgets = {};
window.make = async (name, source, state, into = document.body) => {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const found = (await import(url)).default;
  const widget = typeof found === "function" ? found() : found;
  const model = new Model(state), el = document.createElement("div");
  into.append(el);
  if (widget.initialize) await widget.initialize({ model });
  const end = await widget.render({ model, el });
  window.widgets[name] = { model, el, end, root: el.firstChild.shadowRoot, widget };
};
window.tell = (name, content) => window.widgets[name].model.fire("msg:custom", content, []);
window.deep = () => { let at = document.activeElement; while (at?.shadowRoot?.activeElement) at = at.shadowRoot.activeElement; return at; };
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip("no chromium here")
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1200, "height": 900})
    asked: list[str] = []
    context.route("**/*", lambda route: (asked.append(route.request.url), route.abort()))
    made = context.new_page()
    wrong: list[str] = []
    made.on("pageerror", lambda error: wrong.append(str(error)))
    made.set_content("<!doctype html><html lang=en><body></body></html>")
    made.evaluate(MODEL)
    made.set_default_timeout(20_000)
    yield made
    pwned = made.evaluate("window.pwned")
    context.close()
    assert not wrong
    assert not asked, "the network is not asked for anything"
    assert pwned is None, "user text has become markup"


def state_of(widget: Any, **changes: Any) -> dict[str, Any]:
    """The state of a widget as the browser gets it."""
    synced = {key: value for key, value in widget.get_state().items() if key not in ("layout", "_esm", "children")}
    return json.loads(json.dumps({**synced, **changes}))


def make(page: Any, name: str, widget: Any, **changes: Any) -> None:
    page.evaluate(
        "([name, source, state]) => make(name, source, state)", [name, widget._esm, state_of(widget, **changes)]
    )


def tell(page: Any, name: str, message: dict[str, Any]) -> None:
    page.evaluate("([name, message]) => tell(name, message)", [name, message])


def row(n: int, **changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "n": n,
        "symbol": "BTC/USDT",
        "quote": "USDT",
        "side": "buy",
        "way": 1,
        "tag": f"tag {n}",
        "dot": "active",
    }
    given |= {
        "word": "active",
        "over": False,
        "section": "living",
        "series": "price",
        "entry": "100",
        "stop": "98",
        "mark": None,
    }
    given |= {
        "held": "1",
        "real": 0.0,
        "levels": ["filled", "approaching", "pending"],
        "progress": "1/3",
        "filled": 1,
        "end": "",
    }
    return given | changes


def whole(*rows: dict[str, Any], price: str = "101", **head: Any) -> dict[str, Any]:
    feed = {"dot": "active", "kind": "", "word": "live", "text": ""}
    about = {"name": "ladders", "mode": "paper", "local": True, "final": False, "feed": feed, "alerts": []}
    market = {"price": price, "ts": "2024-08-08T12:00:00Z", "state": "live", "age": 0, "digits": 2}
    return {"head": {**about, **head}, "prices": {"BTC/USDT": market}, "rows": [*rows]}


def session_part(page: Any, state: dict[str, Any], **changes: Any) -> None:
    from smartorders_lab.panel.board import BoardPart

    part = BoardPart("session", lambda: state)
    make(page, "s", part, **changes)
    part.close()


def numbers(page: Any) -> list[int]:
    return [int(n) for n in page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.dataset.n)")]


def cells(page: Any, n: int) -> list[str]:
    return page.locator(f"tr[data-n='{n}'] td").all_inner_texts()


def test_the_table_in_a_browser(page: Any, desk: Callable[..., Desk]) -> None:
    """What a real session sends is what is drawn, and what it sends next is drawn over it."""
    one = desk([100.0, 101.0, 101.5, 102.0, 103.0, 104.0], name="ladders")
    one.session.place(order(tag=f"{EVIL[:120]}"))
    one.session.place(waiting(tag="dip"))
    one.play(2)
    board = one.board()
    make(page, "s", board.view)
    make(page, "o", board.detail)
    make(page, "l", board.events)
    grid = page.get_by_role("grid", name="Orders")
    assert grid.get_by_role("row").count() == 2, "the head and one that lives"
    assert cells(page, 0)[:10] == ["0", "BTC/USDT", "buy", "active", "100.00", "101.00", "98.00", "", "+1.00", "0/2"]
    assert cells(page, 0)[10] == EVIL[:120]
    dots = page.locator("tr[data-n='0'] td.levels .dot")
    assert dots.evaluate_all("all => all.map(one => [one.dataset.shape, one.getAttribute('aria-label')])") == [
        ["half", "approaching"],
        ["ring", "pending"],
    ]
    sent: dict[str, list[Any]] = {"s": one.sent, "o": [], "l": []}
    for key, widget in (("o", board.detail), ("l", board.events)):
        send = widget.send
        widget.send = lambda content, *more, send=send, key=key: (
            sent[key].append(json.loads(json.dumps(content))),
            send(content, *more),
        )
    one.sent.clear()
    board.selected = 0
    one.play(4)
    for key, messages in sent.items():
        for message in messages:
            page.evaluate("([key, message]) => tell(key, message)", [key, message])
    page.evaluate("widgets.s.model.set('selected', 0)")
    assert cells(page, 0)[3] == "partly closed"
    assert cells(page, 0)[8:10] == ["+2.00", "1/2"]
    assert page.locator("tr[data-n='0']").get_attribute("aria-selected") == "true"
    region = page.get_by_role("region", name="Selected order", exact=True)
    assert region.get_by_role("heading").inner_text() == "#0 BTC/USDT long"
    assert "partly closed" in region.inner_text()
    assert region.get_by_role("listitem").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))") == [
        "TP1 at 102.00, 50 percent, filled",
        "TP2 at 104.00, 50 percent, pending",
    ]
    assert page.evaluate("widgets.o.model.sent.at(-1)") == {"seen": [0, one.session.order(0)["version"]]}
    log = page.get_by_role("region", name="What happened to the selected order")
    kinds = [change["kind"] for change in one.session.changes(limit=None, order=0)]
    assert [text.partition(" ·")[0] for text in log.locator("tbody td:nth-child(2)").all_inner_texts()] == [
        k.replace("_", " ") for k in reversed(kinds)
    ]


def test_rows_are_chosen_by_mouse_and_keyboard(page: Any) -> None:
    session_part(page, whole(*(row(n) for n in range(30))), selected=29)
    assert numbers(page) == [*range(29, -1, -1)], "the newest first"
    chosen = lambda: page.evaluate("widgets.s.model.get('selected')")  # noqa: E731
    marked = lambda: page.locator("tr[aria-selected=true]").evaluate_all("all => all.map(one => +one.dataset.n)")  # noqa: E731
    assert marked() == [29]
    page.locator("tr[data-n='20']").click()
    assert (chosen(), marked()) == (20, [20])
    page.keyboard.press("ArrowDown")
    page.wait_for_function("widgets.s.model.get('selected') === 19")
    assert page.evaluate("+deep().dataset.n") == 19
    for key, number in (("End", 0), ("ArrowDown", 0), ("PageUp", 8), ("Home", 29), ("ArrowUp", 29)):
        page.keyboard.press(key)
        assert page.evaluate("+deep().dataset.n") == number
    page.keyboard.press("PageDown")
    page.keyboard.press("Enter")
    assert (chosen(), marked()) == (21, [21])
    assert page.locator("tbody tr[tabindex='0']").count() == 1, "one stop for the tab key"
    assert page.evaluate("widgets.s.el.firstChild.dataset.lmSuppressShortcuts") == "true"
    page.evaluate("widgets.s.model.set('selected', 5)")
    assert marked() == [5]


def test_orders_are_filtered_and_sorted(page: Any) -> None:
    rows = [
        row(
            0,
            section="finished",
            over=True,
            dot="stopped",
            word="stopped · stop loss",
            real=-3.0,
            held="0",
            end="2024-01-02",
        ),
        row(
            1,
            section="finished",
            over=True,
            dot="closed",
            word="closed · take profit",
            real=5.0,
            held="0",
            end="2024-01-03",
        ),
        row(2, section="pending", dot="pending", word="pending", held="0", entry=None, stop=None),
        row(3, entry="90"),
        row(4, section="attention", dot="attention", word="needs attention"),
        row(5, entry="100.5"),
    ]
    session_part(page, whole(*rows))
    bar = page.get_by_role("toolbar", name="Which orders")
    texts = bar.get_by_role("button").all_inner_texts()
    assert [" ".join(text.split()) for text in texts] == ["Attention 1", "Living 3", "Pending 1", "Finished 2", "All 6"]
    assert numbers(page) == [4, 5, 3]
    for name, found in (("Pending", [2]), ("Finished", [1, 0]), ("Attention", [4]), ("All", [4, 5, 3, 2, 1, 0])):
        bar.get_by_role("button", name=name).click()
        assert numbers(page) == found
        assert bar.get_by_role("button", name=name).get_attribute("aria-pressed") == "true"
        assert page.evaluate("widgets.s.model.get('section')") == name.lower()
    head = page.get_by_role("columnheader", name="P&L")
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers(page) == [0, 2, 5, 4, 1, 3]
    head.get_by_role("button").click()
    assert numbers(page) == [3, 1, 4, 5, 2, 0]
    page.evaluate("tell('s', {prices: {'BTC/USDT': {price: '80'}}})")
    assert numbers(page) == [3, 1, 4, 5, 2, 0], "rows do not run away from the hand"
    assert cells(page, 3)[8] == "−10.00"
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") is None
    bar.get_by_role("button", name="Living").click()
    over = {"n": 5, "section": "finished", "over": True, "dot": "stopped", "word": "stopped", "end": "2024-01-05"}
    tell(page, "s", {"rows": [over, row(6)]})
    assert numbers(page) == [4, 6, 3]
    tell(page, "s", {"all": whole(row(0))})
    assert numbers(page) == [0]
    tell(page, "s", {"all": whole()})
    assert page.get_by_text("No orders yet.").is_visible()


def test_many_orders_are_drawn_as_far_as_they_are_wanted(page: Any) -> None:
    session_part(page, whole(*(row(n) for n in range(1000))))
    assert len(numbers(page)) == 400
    page.evaluate("""() => {
        window.changed = new Set();
        const row = node => (node.closest ? node : node.parentElement).closest('tr')?.dataset.n;
        new MutationObserver(all => all.forEach(one => changed.add(row(one.target))))
            .observe(widgets.s.root, { subtree: true, childList: true, characterData: true });
    }""")
    page.evaluate("tell('s', {rows: [{n: 990, stop: '99'}]})")
    assert page.evaluate("[...changed].filter(n => n !== undefined)") == ["990"], "only what is another is drawn"
    page.get_by_role("button", name="Show all 1000").click()
    assert len(numbers(page)) == 1000
    assert page.get_by_role("grid").get_attribute("aria-rowcount") == "1001"


def test_silence_is_stale(page: Any) -> None:
    """A kernel that says nothing for three seconds is not believed any more; when it speaks again it is."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)
    session_part(page, whole(row(0)))
    feed = page.locator(".feed")
    page.clock.run_for(2500)
    assert feed.inner_text() == "live"
    page.evaluate("tell('s', {})")
    page.clock.run_for(2500)
    assert feed.inner_text() == "live"
    page.clock.run_for(1000)
    assert feed.inner_text() == "STALE"
    assert feed.locator(".dot").get_attribute("data-shape") == "diamond"
    alert = page.get_by_role("alert")
    assert re.search(
        r"STALE: no word from the kernel for 3\.[2-6] s\. If it is gone, nothing watches", alert.inner_text()
    )
    page.clock.run_for(5000)
    assert re.search(r"for 8\.[2-6] s", alert.inner_text())
    page.evaluate("tell('s', {})")
    page.clock.run_for(300)
    assert (feed.inner_text(), alert.inner_text()) == ("live", "")
    feed_over = {"dot": "cancelled", "kind": "warn", "word": "closed", "text": "This session is closed."}
    tell(page, "s", {"head": {"final": True, "feed": feed_over}})
    page.clock.run_for(10_000)
    assert feed.inner_text() == "closed", "what is over is not stale"
    assert alert.inner_text().strip() == "This session is closed."


@pytest.mark.parametrize("status", ["stale", "reconnecting", "failed", "closed", "ended"])
def test_the_state_of_the_feed_cannot_be_overlooked(page: Any, status: str) -> None:
    dot, kind, word, text = watch.FEEDS[status]
    session_part(page, whole(row(0), feed={"dot": dot, "kind": kind, "word": word, "text": text}))
    assert page.locator(".feed").inner_text() == word
    assert page.locator(".feed .dot").get_attribute("data-shape") == DOTS[dot].shape
    assert (page.get_by_role("alert").inner_text().strip() == text) or not text


def test_live_money_looks_like_it(page: Any) -> None:
    session_part(
        page, whole(row(0), name=f"my {EVIL}", mode="live", alerts=[{"text": f"#0: {EVIL}", "kind": "bad", "order": 0}])
    )
    assert page.locator(".mode").inner_text() == "LIVE · real money"
    assert page.get_by_role("heading").inner_text() == f"my {EVIL}"
    strip = page.locator(".strip")
    assert strip.bounding_box()["height"] >= 6
    page.get_by_role("button", name="Show #0").click()
    assert page.evaluate("widgets.s.model.get('selected')") == 0
    assert page.evaluate("+deep().dataset.n") == 0
    page.evaluate("""() => {
        document.body.innerHTML = "<div class=sol-panel></div>";
        document.querySelector(".sol-panel").append(widgets.s.el);
    }""")
    for kind, alarm in (("bad", "STALE: see above"), ("", None)):
        tell(page, "s", {"head": {"feed": {"dot": "error", "kind": kind, "word": "STALE", "text": "no ticks"}}})
        assert page.locator(".sol-panel").get_attribute("data-alarm") == alarm
    assert page.locator(".sol-panel[data-live]").count() == 1


def test_nothing_that_users_write_is_markup(page: Any) -> None:
    evil = row(
        0, symbol=EVIL, tag=EVIL, word=EVIL, side=EVIL, progress=EVIL, levels=[EVIL], dot=EVIL, stop=EVIL, entry=EVIL
    )
    state = whole(evil)
    state["prices"][EVIL] = state["prices"].pop("BTC/USDT")
    session_part(page, state)
    from smartorders_lab.panel.board import BoardPart

    levels = [{"price": EVIL, "size": EVIL, "dot": EVIL}]
    detail = BoardPart(
        "order", lambda: {"order": {**evil, "levels": levels, "words": EVIL, "version": 1, "price": EVIL, "digits": 2}}
    )
    line = dict.fromkeys(("at", "what", "dot", "level", "price", "quantity", "stop", "status", "reason"), EVIL)
    log = BoardPart("log", lambda: {"lines": [line], "title": EVIL})
    make(page, "o", detail)
    make(page, "l", log)
    for part in (detail, log):
        part.close()
    for key in "sol":
        assert page.evaluate("key => widgets[key].root.querySelectorAll('img, script').length", key) == 0
        assert EVIL in page.evaluate("key => widgets[key].root.textContent", key)
    for name in DOTS:
        assert page.evaluate("([name]) => widgets.s.model.get('dots')[name].length", [name]) == 3


def test_the_theme_follows_the_notebook(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    session_part(page, whole(row(0)))
    theme = lambda: page.evaluate("widgets.s.el.firstChild.dataset.theme")  # noqa: E731
    assert theme() == "light"
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("widgets.s.el.firstChild.dataset.theme === 'dark'")
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    page.wait_for_function("widgets.s.el.firstChild.dataset.theme === 'light'")
    page.evaluate("widgets.s.model.set('theme', 'dark')")
    assert theme() == "dark"


def test_a_view_that_goes_leaves_nothing(page: Any) -> None:
    session_part(page, whole(row(0)))
    count = page.evaluate("widgets.s.model.handlers.length")
    page.evaluate("""async () => {
        const { widget, model } = widgets.s;
        for (let k = 0; k < 5; k++) {
            const el = document.createElement("div");
            document.body.append(el);
            const end = await widget.render({ model, el });
            tell("s", {rows: [{n: 0, tag: `again ${k}`}]});
            if (!el.firstChild.shadowRoot.textContent.includes(`again ${k}`)) throw Error("the second view was not told");
            end();
            el.remove();
        }
    }""")
    assert page.evaluate("widgets.s.model.handlers.length") == count
    assert cells(page, 0)[10] == "again 4"


@pytest.mark.parametrize("width", [1200, 700, 380])
def test_a_narrow_panel_keeps_what_matters(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    session_part(page, whole(row(0, mark="101.5"), row(1)))
    shown = page.locator("thead th").evaluate_all(
        "all => all.filter(one => one.offsetWidth).map(one => one.textContent)"
    )
    assert {"#", "Symbol", "Status", "P&L", "Levels"} <= {*shown}
    assert ("Tag" in shown) == (width == 1200)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".pane").evaluate("one => one.scrollWidth <= one.clientWidth + 1")


# ------------------------------------------------------------------------------------------- the dialog and the manners


def opened(page: Any) -> Iterator[Dialog]:
    hub = Hub("dialog")
    dialog = Dialog(hub)
    dialog.send = lambda content, *more: page.evaluate("message => tell('d', message)", content)
    page.evaluate("document.body.innerHTML = '<button id=opener>Cancel…</button>'")
    make(page, "d", dialog)
    page.focus("#opener")
    return dialog


def test_the_dialog_starts_on_the_safe_side_and_gives_the_focus_back(page: Any) -> None:
    dialog = opened(page)
    choices = [Choice("keep", "Keep the position", "It stays."), Choice("close", "Close at market", EVIL)]
    how: dict[str, Any] = {"go": "Cancel order", "safe": "Keep order", "choices": choices}
    answers: list[str] = []

    def reply() -> Any:
        return page.evaluate("widgets.d.model.sent.at(-1)")

    dialog.ask(f"Cancel {EVIL}?", ["One.", EVIL], answers.append, **how)
    box = page.get_by_role("dialog", name=f"Cancel {EVIL}?")
    assert box.is_visible()
    assert page.evaluate("deep().textContent") == "Keep order"
    for _ in range(12):  # the focus stays inside
        page.keyboard.press("Tab")
        assert page.evaluate("deep() === document.body || widgets.d.root.contains(deep())")
    page.keyboard.press("Escape")
    assert box.count() == 0
    assert reply() == {"answer": dialog.question["id"], "value": None}
    assert page.evaluate("document.activeElement.id") == "opener"

    dialog.ask("Cancel?", [], answers.append, **how)
    page.get_by_role("radio", name="Close at market").check()
    page.get_by_role("button", name="Cancel order").click()
    assert reply() == {"answer": dialog.question["id"], "value": "close"}
    assert page.evaluate("document.activeElement.id") == "opener"

    dialog.ask("Sure?", [], answers.append, go="Yes", safe="No")
    dialog.ask("Really?", [], answers.append, go="Yes", safe="No")
    assert page.get_by_role("dialog").count() == 1
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert reply()["value"] == "go"
    assert page.evaluate("document.activeElement.id") == "opener"
    count = page.evaluate("widgets.d.model.sent.length")
    dialog.ask("Gone?", [], answers.append, go="Yes", safe="No")
    tell(page, "d", {"close": dialog.question["id"]})
    assert page.get_by_role("dialog").count() == 0
    assert page.evaluate("widgets.d.model.sent.length") == count, "answered elsewhere"
    assert answers == []
    dialog.close()


def test_a_link_can_be_copied(page: Any) -> None:
    dialog = opened(page)
    dialog.show("Share order #3", ["No secret."], f"so:{EVIL}")
    assert page.get_by_role("textbox", name="Share order #3").input_value() == f"so:{EVIL}"
    page.get_by_role("button", name="Copy").click()
    page.wait_for_function("['Copied', 'Press Ctrl+C'].includes(widgets.d.root.querySelector('.go').textContent)")
    assert page.get_by_role("dialog").locator("[role=status]").inner_text() != ""
    page.get_by_role("button", name="Close").click()
    assert page.evaluate("document.activeElement.id") == "opener"
    dialog.close()


def test_answers_are_taken_once_and_only_those_that_were_offered() -> None:
    hub, answers = Hub("dialog"), []
    dialog = Dialog(hub)
    dialog.ask("Sure?", ["x"], answers.append, go="Yes", choices=[Choice("a", "A"), Choice("b", "B")])
    number = dialog.question["id"]
    for content in (
        {"answer": number + 1, "value": "a"},
        {"answer": number, "value": "a"},
        {"answer": number, "value": "b"},
    ):
        dialog._handle_custom_msg(content, [])
    assert hub.settle()
    assert answers == ["a"]
    dialog.ask("Sure?", ["x"], answers.append, go="Yes")
    dialog._handle_custom_msg({"answer": dialog.question["id"], "value": "c"}, [])
    assert hub.settle()
    assert answers == ["a"]
    dialog.close()


def test_stock_widgets_get_names_and_keep_their_keys(page: Any) -> None:
    manners = Manners()
    field = manners.name(ipywidgets.Text(), "Stop loss", aria_invalid=True, onclick="window.pwned=1")
    mine = next(c for c in field._dom_classes if c.startswith("sol-n-"))
    page.evaluate(
        """async ([source, state, mine]) => {
            document.body.innerHTML = `<div class="sol-panel"><div id=here></div><div class="${mine}"><label>x</label><input></div>
                <button id=a>a</button><button id=b>b</button></div>`;
            await make("m", source, state, document.getElementById("here"));
        }""",
        [manners._esm, state_of(manners), mine],
    )
    page.wait_for_function("document.querySelector('.sol-panel').dataset.theme")
    given = page.locator("input")
    assert given.get_attribute("aria-label") == "Stop loss"
    assert given.get_attribute("aria-invalid") == "true"
    assert given.get_attribute("onclick") is None, "names and nothing else"
    assert page.evaluate(
        "[...document.querySelectorAll('input, button')].every(one => one.dataset.lmSuppressShortcuts)"
    )
    page.evaluate("document.querySelector('.sol-panel').insertAdjacentHTML('beforeend', '<select></select>')")
    page.wait_for_function("document.querySelector('select').dataset.lmSuppressShortcuts === 'true'")
    manners.name(field, aria_invalid=False)
    page.evaluate("names => widgets.m.model.set('names', names)", manners.names)
    assert given.get_attribute("aria-invalid") == "false"
    page.focus("#a")
    page.evaluate("document.getElementById('a').disabled = true")
    page.wait_for_function("document.activeElement.id === 'b'")  # what is disabled under the hand does not lose it
    page.evaluate("tell('m', {say: 'Order 3: changed', urgent: false})")
    page.wait_for_function("document.querySelector('[role=status]').textContent === 'Order 3: changed'")
    page.evaluate("tell('m', {say: 'refused', urgent: true})")
    page.wait_for_function("document.querySelector('[role=alert]').textContent === 'refused'")
    manners.forget(field)
    assert mine not in manners.names
    field.close()
    manners.close()
