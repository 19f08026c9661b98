"""The chart: its Python side with the real class, and chart.js in a real Chromium, joined by the widget's own protocol."""

from __future__ import annotations

import base64
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smartorders_lab as so
from smartorders_lab.errors import DataError

pytest.importorskip("anywidget")
from smartorders_lab.panel import chart as module
from smartorders_lab.panel.chart import OrderChart

HERE = Path(__file__).parent
SOURCE = (Path(module.__file__).parent / "static" / "chart.js").read_text()
CHROMIUM = Path("/usr/bin/chromium")
START = 1_723_118_400_000_000_000  # 2024-08-08 12:00:00 UTC
MS = 1_000_000
SYNCED = ["lines", "marks", "step", "digits", "theme", "height", "title", "_colours", "_series", "_paths", "_window"]


def walk(n: int = 3_000, start: float = 64_000.0, step: float = 0.1, seed: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ts = START + np.cumsum(rng.integers(50, 2_000, n)) * MS
    return ts, np.round(start + np.cumsum(rng.normal(0, 9 * step, n)), 1)


def ticks_of(ts: Any, price: Any, increment: str = "0.1", symbol: str = "BTC/USDT") -> so.Ticks:
    instrument = so.Instrument(symbol=symbol, price_increment=increment, quantity_increment="0.001")
    units = np.rint(np.asarray(price) / float(increment)).astype(np.int64)
    return so.Ticks.from_arrays(ts, instrument.prices(units), unit="ns", instrument=instrument)


def line(id: str = "tp1", kind: str = "level", price: float = 64_050.0, **more: Any) -> dict[str, Any]:
    return {"id": id, "kind": kind, "price": price, "label": id.upper(), "draggable": True, **more}


def unpacked(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    both = np.frombuffer(data, "<f8")
    return both[: len(both) // 2], both[len(both) // 2 :]


class Wire:
    """What a chart sends, in the order in which it does."""

    def __init__(self, chart: OrderChart):
        self.out: list[tuple[dict[str, Any], list[bytes]]] = []
        chart.comm.publish_msg = self._take

    def _take(self, kind: str, data: Any = None, metadata: Any = None, buffers: Any = None, **rest: Any) -> None:
        self.out.append((data, [bytes(one) for one in buffers or []]))

    def customs(self, kind: str) -> list[tuple[dict[str, Any], list[bytes]]]:
        return [(d["content"], b) for d, b in self.out if d["method"] == "custom" and d["content"]["k"] == kind]


@pytest.fixture
def made():
    """Charts that are closed in the end."""
    charts: list[OrderChart] = []

    def make(*args: Any, **more: Any) -> OrderChart:
        charts.append(OrderChart(*args, **more))
        return charts[-1]

    yield make
    for one in charts:
        one.close()


def move(chart: OrderChart, id: Any, price: Any, final: Any = True, n: Any = 1) -> None:
    chart._handle_custom_msg({"k": "move", "id": id, "price": price, "final": final, "n": n}, [])


# --- the side of Python -------------------------------------------------------------------------------------------------


def test_a_chart_takes_its_grid_and_name_from_the_ticks(made) -> None:
    chart = made(ticks_of([START, START + MS], [0.00001234, 0.00001240], "0.00000002", "PEPE/USDT"))
    assert (chart.step, chart.digits, chart.title) == (2e-8, 8, "PEPE/USDT")
    chart.set_ticks(ticks_of([START, START + MS], [64_000.5, 64_001], "0.5"))
    assert (chart.step, chart.digits, chart.title) == (0.5, 1, "BTC/USDT")
    assert made().get_state("_series")["_series"] == {"v": 0, "at": 0}


def test_few_ticks_are_sent_whole_and_exactly(made) -> None:
    ts, price = walk(500)
    layer = made(ticks_of(ts, price)).get_state("_series")["_series"]["whole"]
    ms, prices = unpacked(layer["data"])
    assert layer["raw"]
    assert np.array_equal(np.rint(ms * 1000).astype(np.int64) * 1000, ts)
    assert np.allclose(prices, price, rtol=0, atol=1e-9)


def test_what_is_sent_first_is_small_and_keeps_every_extreme(made) -> None:
    ts, price = walk(300_000)
    price[123_456] = price.max() + 5
    price[200_000] = price.min() - 5
    state = made(ticks_of(ts, price)).get_state(SYNCED)["_series"]
    whole, tail = (unpacked(state[name]["data"]) for name in ("whole", "tail"))
    assert len(SOURCE) + len(state["whole"]["data"]) + len(state["tail"]["data"]) < 300_000
    assert (whole[1].min(), whole[1].max()) == (price.min(), price.max())
    assert not state["whole"]["raw"]
    assert tail[0][-1] == whole[0][-1]
    assert len(tail[0]) > 0.6 * len(whole[0])


def test_a_zoom_is_answered_with_the_ticks_of_its_window(made) -> None:
    ts, price = walk(200_000)
    chart = made(ticks_of(ts, price))
    wire = Wire(chart)
    first, last = ts[50_000] // 1000 / 1000, ts[51_000] // 1000 / 1000
    chart._handle_custom_msg({"k": "view", "n": 7, "from": first, "to": last, "points": 4000, "whole": False}, [])
    ((answer, buffers),) = wire.customs("view")
    ms, prices = unpacked(buffers[0])
    assert (answer["n"], answer["raw"], answer["v"]) == (7, True, 0)
    assert len(ms) == pytest.approx(1_003, abs=1), "one more on either side, so that the line reaches the edges"
    assert ms[0] <= first
    assert ms[-1] >= last
    assert np.array_equal(prices, np.round(price[np.isin(ts // 1000, np.rint(ms * 1000).astype(np.int64))], 1))
    wire.out.clear()
    chart._handle_custom_msg({"k": "view", "n": 8, "from": 0, "to": 9e15, "points": 1000, "whole": False}, [])
    ((answer, buffers),) = wire.customs("view")
    assert not answer["raw"]
    assert 300 < len(unpacked(buffers[0])[0]) <= 1000
    assert (answer["from"], answer["to"]) == (ts[0] // 1000 / 1000, ts[-1] // 1000 / 1000)


def test_the_stream_is_sent_in_order_and_kept_for_those_who_come_later(made) -> None:
    ts, price = walk(2_000)
    chart = made(ticks_of(ts[:1_000], price[:1_000]))
    wire = Wire(chart)
    for i in range(1_000, 2_000, 100):
        chart.append(ts[i : i + 100], price[i : i + 100])
    sent = wire.customs("a")
    assert [content["at"] for content, _ in sent] == list(range(0, 1_000, 100))
    assert np.array_equal(np.concatenate([unpacked(b[0])[1] for _, b in sent]), price[1_000:])
    state = chart.get_state("_series")["_series"]
    ms, prices = unpacked(state["whole"]["data"])
    assert state["at"] == 1_000
    assert (len(ms), prices[-1]) == (2_000, price[-1])


def test_a_stream_without_end_does_not_grow(made, monkeypatch) -> None:
    monkeypatch.setattr(module, "STREAM_POINTS", 5_000)
    chart = made()
    ts, price = walk(60_000)
    price[17] = price.max() + 50
    for i in range(0, 60_000, 700):
        chart.append(ts[i : i + 700], price[i : i + 700])
    tape = chart._tape
    assert tape.count == 60_000
    assert tape.used <= 5_000
    assert len(tape.new_ts) <= 5_000
    kept = tape.cut(None, None, 100_000)
    assert kept.price.max() == price.max(), "a peak outlives the thinning"
    assert np.array_equal(kept.price[-1_000:], price[-1_000:])
    assert (np.diff(kept.ts) >= 0).all()
    chart.append(ts[-1] + np.arange(1, 30_001), np.full(30_000, 5.0))
    assert tape.used <= 5_000
    assert tape.last == ts[-1] + 30_000


def test_a_thread_streams_while_the_browser_asks(made) -> None:
    ts, price = walk(20_000)
    chart = made(ticks_of(ts[:10_000], price[:10_000]))
    wire = Wire(chart)
    wrong: list[BaseException] = []

    def stream() -> None:
        try:
            for i in range(10_000, 20_000, 50):
                chart.append(ts[i : i + 50], price[i : i + 50])
                chart.lines = [line(price=float(price[i]))]
        except BaseException as error:
            wrong.append(error)

    thread = threading.Thread(target=stream)
    thread.start()
    n = 0
    while thread.is_alive():
        n += 1
        chart._handle_custom_msg({"k": "view", "n": n, "from": 0, "to": 9e15, "points": 900, "whole": n % 2 == 0}, [])
        move(chart, "tp1", 64_000.0)
        chart.get_state("_series")
    thread.join()
    assert not wrong
    assert [content["at"] for content, _ in wire.customs("a")] == list(range(0, 10_000, 50))
    for _, buffers in wire.customs("view"):
        assert (np.diff(unpacked(buffers[0])[0]) >= 0).all()


@pytest.mark.parametrize(
    ("ts", "price", "words"),
    [
        ([START + 5, START + 4], [1.0, 1.0], r"ts\[1\] = 2024-08-08T12:00:00\.000000004Z: before"),
        ([START - 10**12], [1.0], r"ts\[0\] = .* set_ticks"),
        ([START + 10**12], [np.nan], r"price\[0\] = nan: must be finite"),
        ([START + 10**12], [1.0, 2.0], r"price: has the shape \(2,\), ts has \(1,\)"),
        ([1.5], [1.0], "ts: is float64; must be int64"),
    ],
)
def test_ticks_that_cannot_be_streamed_are_refused(made, ts, price, words) -> None:
    chart = made(ticks_of([START, START + 3], [1.0, 1.0]))
    with pytest.raises(DataError, match=words):
        chart.append(ts, price)
    assert chart._tape.count == 0


def test_a_path_that_goes_on_costs_only_what_is_new(made) -> None:
    ts, price = walk(3_000)
    stop = np.maximum.accumulate(price) - 50
    chart = made(ticks_of(ts, price))
    wire = Wire(chart)
    chart.set_path("stop", ts[:2_000], stop[:2_000])
    assert [data["method"] for data, _ in wire.out] == ["update"]
    wire.out.clear()
    chart.set_path("stop", ts[:2_500], stop[:2_500])
    chart.set_path("stop", ts[:2_500], stop[:2_500])
    ((content, buffers),) = wire.customs("path")
    changes = np.flatnonzero(np.diff(stop[:2_500], prepend=np.nan) != 0)
    assert content["at"] + len(unpacked(buffers[0])[0]) == len(changes)
    assert content["end"] == ts[2_499] // 1000 / 1000
    wire.out.clear()
    chart.set_path("stop", ts[:2_500], stop[:2_500] + 1)
    assert [data["method"] for data, _ in wire.out] == ["update"]
    chart.set_path("stop", None)
    assert chart.get_state("_paths")["_paths"]["paths"] == {}
    chart.set_path("stop", None)


def test_a_long_path_is_thinned_and_comes_in_full_for_a_window(made) -> None:
    ts, price = walk(50_000)
    chart = made(ticks_of(ts, price))
    chart.set_path("what if", ts, price, "other")
    path = chart.get_state("_paths")["_paths"]["paths"]["what if"]
    assert not path["raw"]
    assert len(unpacked(path["data"])[0]) <= 2_000
    wire = Wire(chart)
    message = {"k": "view", "n": 1, "from": ts[100] / 1e6, "to": ts[600] / 1e6, "points": 4000, "whole": False}
    chart._handle_custom_msg(message, [])
    ((answer, buffers),) = wire.customs("view")
    assert answer["paths"] == [{"name": "what if", "raw": True}]
    assert unpacked(buffers[1])[0][0] <= ts[100] / 1e6, "what held when the window begins"


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("", ([1], [1.0]), "name = '': must be a text"),
        ("stop", ([1], [1.0], "dotted"), "kind = 'dotted': must be one of stop, mark, other"),
        ("stop", ([], []), "ts: is empty"),
        ("stop", ([2, 1], [1.0, 1.0]), r"ts\[1\]"),
    ],
)
def test_paths_that_cannot_be_drawn_are_refused(made, name, args, words) -> None:
    with pytest.raises(DataError, match=words):
        made().set_path(name, *args)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([3], r"lines\[0\] = 3: must be a dict"),
        ([{"id": "a", "kind": "level"}], r"lines\[0\]\.price: is missing"),
        ([line(kind="target")], r"lines\[0\]\.kind = 'target': must be one of entry, stop"),
        ([line(state="FILLED")], r"lines\[0\]\.state = 'FILLED': must be one of planned"),
        ([line(), line()], "lines: the id 'tp1' comes twice"),
        ([line(price=float("nan"))], r"lines\[0\]\.price = nan: must be a finite number"),
        ([line(price="64000")], r"lines\[0\]\.price = '64000': must be a finite number"),
        ([line(low=2.0, high=1.0)], r"lines\[0\]\.low = 2\.0: must not be above high, 1\.0"),
        ([line(label=None)], r"lines\[0\]\.label = None: must be a text"),
        ([line(id="")], r"lines\[0\]\.id = '': must be a text"),
        ([line(colour="red")], r"lines\[0\]\.colour: is no field of a line"),
        ([line(str(i)) for i in range(201)], "lines: holds 201; at most 200"),
    ],
)
def test_wrong_lines_are_refused_in_words(made, given, words) -> None:
    chart = made()
    chart.lines = [line()]
    with pytest.raises(DataError, match=words):
        chart.lines = given
    assert [one["id"] for one in chart.lines] == ["tp1"]


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("step", 0, "step = 0.0: must be a finite number above 0"),
        ("digits", -1, "digits = -1"),
        ("theme", "blue", "theme = 'blue': must be one of auto, light, dark"),
        ("height", 20, "height = 20: must be 160 to 4000 pixels"),
        ("marks", [{"ts": 1.5, "price": 1, "kind": "buy"}], r"marks\[0\]\.ts = 1\.5: must be ns"),
        ("marks", [{"ts": 1, "price": 1, "kind": "bought"}], r"marks\[0\]\.kind = 'bought'"),
        ("marks", [{"ts": 1, "price": 1, "kind": "buy", "text": 3}], r"marks\[0\]\.text = 3"),
    ],
)
def test_other_wrong_values_are_refused(made, field, value, words) -> None:
    with pytest.raises(DataError, match=words):
        setattr(made(), field, value)


def test_moments_of_marks_keep_their_nanoseconds_on_the_way(made) -> None:
    chart = made()
    chart.marks = [{"ts": np.int64(START + 7), "price": np.float64(1.5), "kind": "buy", "text": "in"}]
    sent = json.loads(json.dumps(chart.get_state("marks")["marks"]))
    assert sent == [{"ts": str(START + 7), "price": 1.5, "kind": "buy", "text": "in"}]


def test_moves_are_told_with_prices_on_the_grid(made) -> None:
    chart = made(ticks_of([START, START + 1], [64_000.0, 64_000.5], "0.5"))
    chart.lines = [line(), line("entry", "entry", 64_000.0, draggable=False)]
    told: list[tuple[str, float, bool]] = []
    end = chart.on_move(lambda *args: told.append(args))
    move(chart, "tp1", 64_100.3, final=False)
    assert chart.lines[0]["price"] == 64_050.0
    move(chart, "tp1", 64_100.3)
    assert chart.lines[0]["price"] == 64_100.5
    assert told == [("tp1", 64_100.5, False), ("tp1", 64_100.5, True)]
    end()
    end()
    move(chart, "tp1", 64_000.0)
    assert len(told) == 2


@pytest.mark.parametrize("increment", ["0.1", "0.00000001", "0.005", "2.5", "1000"])
def test_the_grid_is_exact(made, increment) -> None:
    chart = made(ticks_of([START, START + 1], [float(increment) * 3, float(increment) * 4], increment))
    for units in (1, 3, 7, 1_234, 640_005, 99_999_999):
        price = float(so.Instrument(price_increment=increment).price(units))
        assert chart._snapped(price) == price
        assert chart._snapped(price * (1 + 1e-12)) == price


@pytest.mark.parametrize(
    "content",
    [
        None,
        "move",
        [1],
        {},
        {"k": "move"},
        {"k": ["move"]},
        {"k": "move", "id": "tp1", "price": "64060", "final": True, "n": 1},
        {"k": "move", "id": "tp1", "price": float("nan"), "final": True, "n": 1},
        {"k": "move", "id": "tp1", "price": float("inf"), "final": True, "n": 1},
        {"k": "move", "id": "tp1", "price": 10**400, "final": True, "n": 1},
        {"k": "move", "id": "tp1", "price": True, "final": True, "n": 1},
        {"k": "move", "id": "tp1", "price": 64_060.0, "final": 1, "n": 1},
        {"k": "move", "id": "tp1", "price": 64_060.0, "final": True, "n": None},
        {"k": "move", "id": ["tp1"], "price": 64_060.0, "final": True, "n": 1},
        {"k": "move", "id": "tp9", "price": 64_060.0, "final": True, "n": 1},
        {"k": "move", "id": "entry", "price": 64_060.0, "final": True, "n": 1},
        {"k": "view", "n": 1, "from": 5, "to": 5, "points": 100},
        {"k": "view", "n": 1, "from": "a", "to": 5, "points": 100},
        {"k": "view", "n": 1, "from": float("nan"), "to": 5, "points": 100},
        {"k": "view", "from": 0, "to": 5, "points": 100},
        {"kind": "anywidget-command", "name": "__class__", "id": "x", "msg": 1},
    ],
)
def test_what_a_browser_makes_up_is_passed_over(made, content) -> None:
    chart = made(ticks_of(*walk(100)))
    chart.lines = [line(), line("entry", "entry", draggable=False)]
    wire, told = Wire(chart), []
    chart.on_move(lambda *args: told.append(args))
    before = list(chart.lines)
    chart._handle_custom_msg(content, [])
    assert (told, chart.lines, wire.out) == ([], before, [])


@pytest.mark.parametrize("points", [-5, 0, 1, 10**9])
@pytest.mark.parametrize(("start", "stop"), [(-1e299, 1e299), (0, 1), (9e15, 9.1e15)])
def test_a_window_out_of_reach_is_brought_back(made, start, stop, points) -> None:
    ts, price = walk(30_000)
    chart = made(ticks_of(ts, price))
    wire = Wire(chart)
    message = {"k": "view", "n": 1, "from": start, "to": stop, "points": points, "whole": False}
    chart._handle_custom_msg(message, [])
    ((answer, buffers),) = wire.customs("view")
    assert 1 <= len(unpacked(buffers[0])[0]) <= 24_000
    assert ts[0] / 1e6 <= answer["from"] <= answer["to"] <= ts[-1] / 1e6


def test_a_move_beyond_the_limits_springs_back(made) -> None:
    chart = made(ticks_of(*walk(100)))
    chart.lines = [line(low=64_000.0, high=64_100.0)]
    wire, told = Wire(chart), []
    chart.on_move(lambda *args: told.append(args))
    move(chart, "tp1", 64_100.1, final=False)
    move(chart, "tp1", 64_100.1)
    move(chart, "tp1", 63_999.9)
    assert told == []
    reasons = [content["reason"] for content, _ in wire.customs("reject")]
    assert reasons[0] == "64,100.1: must be from 64,000.0 to 64,100.0"
    assert len(reasons) == 2
    assert len(wire.customs("ack")) == 3
    move(chart, "tp1", 64_100.0)
    assert told == [("tp1", 64_100.0, True)]


def test_a_rejected_line_returns_to_where_it_was_before_the_move(made) -> None:
    chart = made(ticks_of(*walk(100)))
    chart.lines = [line(), line("sl", "stop", 63_900.0)]
    wire = Wire(chart)
    move(chart, "tp1", 64_200.0)
    chart.reject("tp1", "TP1 must stay below TP2")
    assert chart.lines[0]["price"] == 64_050.0
    ((content, _),) = wire.customs("reject")
    assert content == {"k": "reject", "id": "tp1", "reason": "TP1 must stay below TP2", "price": 64_050.0}
    chart.reject("tp1", "again")
    assert chart.lines[0]["price"] == 64_050.0
    move(chart, "tp1", 64_200.0)
    chart.lines = [line(price=64_180.0)]
    chart.reject("tp1", "no")
    assert chart.lines[0]["price"] == 64_180.0, "what was said since then counts"
    with pytest.raises(DataError, match="id = 'tp7': no line has it; there are: tp1"):
        chart.reject("tp7", "no")


def test_an_error_in_a_callback_rejects_and_is_heard(made) -> None:
    chart = made(ticks_of(*walk(100)))
    chart.lines = [line()]
    wire = Wire(chart)

    def refuse(id: str, price: float, final: bool) -> None:
        raise so.ActionRefused("the level is filled")

    end = chart.on_move(refuse)
    move(chart, "tp1", 64_060.0, final=False)
    assert chart.lines[0]["price"] == 64_050.0
    move(chart, "tp1", 64_060.0, n=2)
    end()
    assert chart.lines[0]["price"] == 64_050.0
    assert [content["reason"] for content, _ in wire.customs("reject")] == ["the level is filled"] * 2

    def stumble(id: str, price: float, final: bool) -> None:
        raise KeyError("tp1")

    chart.on_move(stumble)
    with pytest.raises(KeyError):
        move(chart, "tp1", 64_060.0, n=3)
    assert chart.lines[0]["price"] == 64_050.0
    assert [content["n"] for content, _ in wire.customs("ack")] == [1, 2, 3], "or the next move would wait"


def test_a_preview_that_is_refused_does_not_undo_the_move_before_it(made) -> None:
    chart = made(ticks_of(*walk(100)))
    chart.lines = [line()]
    move(chart, "tp1", 64_060.0)

    def refuse(id: str, price: float, final: bool) -> None:
        raise so.ActionRefused("no")

    chart.on_move(refuse)
    move(chart, "tp1", 64_070.0, final=False)
    assert chart.lines[0]["price"] == 64_060.0


def test_the_window_can_be_set_from_python(made) -> None:
    chart = made(ticks_of(*walk(100)))
    chart.show(START, START + 10**9)
    assert chart.get_state("_window")["_window"] == [1, START / 1e6, START / 1e6 + 1000]
    chart.show()
    assert chart.get_state("_window")["_window"] == [2]
    with pytest.raises(DataError, match="two moments in order"):
        chart.show(START, START)
    with pytest.raises(DataError, match="or both None"):
        chart.show(START)


def test_bars_are_drawn_along_their_path(made) -> None:
    minute = START // MS
    rows = [[minute, 10, 12, 9, 11, 1], [minute + 60_000, 11, 13, 10, 12, 1]]
    chart = made(so.Ticks.from_bars(rows))
    assert unpacked(chart.get_state("_series")["_series"]["whole"]["data"])[1].tolist() == [
        10,
        9,
        12,
        11,
        11,
        10,
        13,
        12,
    ]


def test_a_saved_notebook_shows_a_picture(made) -> None:
    chart = made(ticks_of(*walk(50_000), symbol="<b>&\"x'"), theme="dark")
    chart.lines = [line(label="<script>alert(1)</script>"), line("far", price=99_000.0, state="filled")]
    chart.marks = [{"ts": int(walk(50_000)[0][-5]), "price": 64_000.0, "kind": "buy", "text": "</title><script>"}]
    data, _ = chart._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    html = data["text/html"]
    assert len(html) < 60_000
    assert "<script" not in html
    assert html.count("<") == 1
    svg = base64.b64decode(re.search(r"base64,([^\"]+)", html)[1]).decode()
    assert "<script" not in svg
    assert "&lt;script&gt;alert(1)" in svg
    assert "TP1" not in svg
    assert "↑ FAR 99,000.0 ✓ filled" in svg
    from xml.etree import ElementTree

    ElementTree.fromstring(svg)
    empty = made()
    assert "img" in empty.picture()
    empty.lines = [line()]
    assert "TP1 64,050.0" in base64.b64decode(re.search(r"base64,([^\"]+)", empty.picture())[1]).decode().replace(
        ".00", ".0"
    )
    assert repr(chart) == "<OrderChart <b>&\"x': 50,000 ticks, 2 lines, 1 marks>"


def test_the_picture_has_the_paths_and_the_window_of_the_chart(made) -> None:
    ts, price = walk(2_000)
    chart = made(ticks_of(ts, price))
    chart.set_path("stop", ts[[100, 300]], price[[100, 300]] - 20)
    chart.set_path("what if", ts[:200], price[:200] - 10, "other")
    chart.show(int(ts[0]), int(ts[400]))
    image = base64.b64decode(re.search(r"base64,([^\"]+)", chart.picture())[1]).decode()
    assert image.count("<polyline") == 3
    assert "2024-08-08 12:00:" in image
    last = str(np.datetime64(int(ts[400]), "ns"))[:19].replace("T", " ")
    assert last[:16] in image, "it ends where the window does"
    chart.set_path("what if", None)
    chart.show(int(ts[500]), int(ts[900]))
    image = base64.b64decode(re.search(r"base64,([^\"]+)", chart.picture())[1]).decode()
    assert image.count("<polyline") == 1, "a path that ended before is not there"


def test_prices_that_nobody_rounded_have_seven_digits(made) -> None:
    price = 100 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.0007, 50)))
    ticks = so.Ticks.from_arrays(START + MS * np.arange(50), price, symbol="BTC/USDT", unit="ns")
    chart = made(ticks)
    assert (chart.digits, chart.step) == (4, 1e-8)


def test_a_closed_chart_takes_no_harm(made) -> None:
    chart = made(ticks_of(*walk(100)))
    chart.close()
    chart.append([START + 10**15], [64_000.0])
    chart.lines = [line()]


# --- the side of the browser --------------------------------------------------------------------------------------------


def encoded(value: Any) -> Any:
    if isinstance(value, (bytes, memoryview)):
        return {"__bytes__": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        return {key: encoded(one) for key, one in value.items()}
    return [encoded(one) for one in value] if isinstance(value, (list, tuple)) else value


class Bench:
    """A real chart and a real page; what one says is carried to the other when `carry` is called."""

    def __init__(self, page: Any, chart: OrderChart, width: int):
        self.page, self.chart, self.wire = page, chart, Wire(chart)
        self.moves: list[tuple[str, float, bool]] = []
        chart.on_move(lambda *args: self.moves.append(args))
        page.evaluate("([state, width]) => lab.mount(state, `${width}px`)", [encoded(chart.get_state(SYNCED)), width])
        self.settle()

    def settle(self) -> None:
        """Until nothing is left to be drawn."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.page.wait_for_function("lab.drawn.length > 0 && !lab.held().frames")

    def carry(self, frames: bool = True) -> list[dict[str, Any]]:
        """Take what the page has sent to Python, and what Python said to the page."""
        sent: list[dict[str, Any]] = self.page.evaluate("() => lab.model.sent.splice(0)")
        for content in sent:
            self.chart._handle_custom_msg(content, [])
        for data, buffers in self.wire.out:
            if data["method"] == "custom":
                self.page.evaluate(
                    "([c, b]) => lab.model.message(c, b.map((x) => x.__bytes__))", [data["content"], encoded(buffers)]
                )
            else:
                from ipywidgets.widgets.widget import _put_buffers

                _put_buffers(data["state"], data["buffer_paths"], buffers)
                self.page.evaluate("(state) => lab.model.update(state)", encoded(data["state"]))
        self.wire.out.clear()
        if frames:
            self.settle()
        return sent

    def view(self) -> dict[str, Any]:
        return self.page.evaluate("() => lab.drawn.at(-1)")

    def pill(self, id: str) -> Any:
        return self.page.locator(f'.pill[data-id="{id}"]')

    def y(self, id: str) -> float:
        """Middle of a pill, in the page."""
        box = self.pill(id).bounding_box()
        return box["y"] + box["height"] / 2

    def x(self, id: str) -> float:
        box = self.pill(id).bounding_box()
        return box["x"] + box["width"] / 2

    def price(self, id: str) -> float:
        return float(self.pill(id).get_attribute("aria-valuenow"))

    def pixel(self) -> float:
        """Price of one pixel."""
        view = self.view()
        return (view["high"] - view["low"]) / view["plot"]["h"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        pytest.skip(f"no browser at {CHROMIUM}")
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def bench(browser, made):
    """Make a Bench of a chart; nothing may come from the network, and nothing may be said on the console."""
    contexts, noise = [], []

    def make(ticks: Any = None, lines: Any = (), *, width: int = 800, setup: Any = None, **options: Any) -> Bench:
        theme = options.pop("theme", "auto")
        context = browser.new_context(viewport={"width": width + 40, "height": 520}, offline=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: noise.append(message.text))
        page.on("pageerror", lambda error: noise.append(str(error)))
        page.on(
            "request",
            lambda request: noise.append(request.url) if not request.url.startswith(("blob:", "data:")) else None,
        )
        page.set_content("<body style='margin:20px'></body>")
        page.evaluate((HERE / "js" / "model.js").read_text())
        page.evaluate("(source) => lab.load(source)", SOURCE)
        chart = made(ticks, theme=theme)
        chart.lines = list(lines)
        if setup:
            setup(chart, page)
        return Bench(page, chart, width)

    yield make
    for context in contexts:
        context.close()
    assert noise == []


def usual(n: int = 3_000) -> tuple[so.Ticks, list[dict[str, Any]], float]:
    ts, price = walk(n)
    last = round(float(price[-1]), 1)
    lines = [
        line("tp2", price=round(last + 60, 1), low=last, detail="+0.1 % · 50 %"),
        line("tp1", price=round(last + 30, 1), low=last, high=round(last + 200, 1), detail="50 %"),
        line("entry", "entry", last, draggable=False, state="filled"),
        line("sl", "stop", round(last - 50, 1), high=last),
    ]
    return ticks_of(ts, price), lines, last


def test_a_dragged_pill_tells_prices_on_the_grid_and_one_final(bench) -> None:
    ticks, lines, _last = usual()
    b = bench(ticks, lines)
    mouse, start = b.page.mouse, b.price("tp1")
    x, y, pixel = b.x("tp1"), b.y("tp1"), b.pixel()
    mouse.move(x, y)
    mouse.down()
    for i in range(1, 41):
        mouse.move(x, y - i)
    assert b.pill("tp1").evaluate("el => el.classList.contains('held')")
    mouse.up()
    sent = [m for m in b.carry() if m["k"] == "move"]
    assert [m["final"] for m in sent].count(True) == 1
    assert sent[-1]["final"]
    assert len(sent) >= 2
    assert all(round(m["price"] * 10) / 10 == m["price"] for m in sent)
    assert b.moves[-1] == ("tp1", sent[-1]["price"], True)
    assert sent[-1]["price"] - start == pytest.approx(40 * pixel, abs=pixel + 0.1)
    assert b.chart.lines[1]["price"] == b.price("tp1") == sent[-1]["price"]


def test_a_line_is_dragged_by_itself_and_stops_at_its_limits(bench) -> None:
    ticks, lines, last = usual()
    b = bench(ticks, lines)
    mouse, y = b.page.mouse, b.y("sl")
    mouse.move(120, y + 2)
    assert b.page.locator("canvas").get_attribute("class") == "on-line"
    mouse.down()
    mouse.move(120, y - 100)
    mouse.move(120, 40)
    assert b.price("sl") == last, "a stop above the entry is none"
    mouse.up()
    assert [m for m in b.carry() if m["k"] == "move"][-1]["price"] == last
    assert b.moves[-1] == ("sl", last, True)
    assert all(price <= last for _, price, _ in b.moves)


def test_previews_wait_for_python_and_the_newest_wins(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines)
    mouse, x, y = b.page.mouse, b.x("tp2"), b.y("tp2")
    mouse.move(x, y)
    mouse.down()
    b.page.evaluate("() => lab.clock()")
    for i in range(1, 60):
        mouse.move(x, y + i / 2)
    b.page.wait_for_timeout(450)
    silent = b.page.evaluate("() => lab.times")
    assert np.diff(silent).min(initial=1000) >= 390, "while Python is silent, not even that often"
    price = b.price("tp2")
    b.carry()
    b.page.wait_for_timeout(80)
    sent = b.carry()
    assert not sent or sent[-1]["price"] == price
    assert b.moves[-1] == ("tp2", price, False)
    for i in range(60):
        mouse.move(x, y + i / 3)
        b.carry(frames=False)
    mouse.up()
    b.carry()
    gaps = np.diff(b.page.evaluate("() => lab.times"))[len(silent) :]
    assert gaps[:-1].min() >= 45, "at most 20 a second, but for the last word"
    assert [final for _, _, final in b.moves].count(True) == 1
    assert b.moves[-1] == ("tp2", b.price("tp2"), True)


def test_escape_undoes_a_drag(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines)
    mouse, start = b.page.mouse, b.price("tp2")
    mouse.move(b.x("tp2"), b.y("tp2"))
    mouse.down()
    mouse.move(b.x("tp2"), b.y("tp2") + 30)
    b.carry()
    assert b.moves[-1][2] is False
    b.page.keyboard.press("Escape")
    mouse.move(b.x("tp2"), b.y("tp2") + 60)
    mouse.up()
    b.carry()
    assert b.moves[-1] == ("tp2", start, True)
    b.settle()
    assert b.price("tp2") == start


def test_a_click_moves_nothing(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines)
    b.page.mouse.click(b.x("tp2"), b.y("tp2"))
    b.page.mouse.click(120, b.y("sl"))
    assert [m for m in b.carry() if m["k"] == "move"] == []


def test_keys_move_a_line_by_steps_and_speak(bench) -> None:
    ticks, lines, last = usual()
    b = bench(ticks, lines)
    pill = b.pill("tp1")
    pill.focus()
    start = b.price("tp1")
    expected = start
    for key, steps in [
        ("ArrowUp", 1),
        ("ArrowRight", 1),
        ("ArrowDown", -1),
        ("Shift+ArrowUp", 10),
        ("PageUp", 100),
        ("PageDown", -100),
        ("ArrowLeft", -1),
    ]:
        b.page.keyboard.press(key)
        b.page.wait_for_timeout(60)
        b.carry()
        expected = round(expected + steps * 0.1, 1)
        assert b.moves[-1] == ("tp1", expected, True), key
    text = f"{expected:,.1f}"
    shown = {
        name: pill.get_attribute(name)
        for name in ("role", "aria-valuenow", "aria-valuemin", "aria-valuemax", "aria-label")
    }
    assert shown == {
        "role": "slider",
        "aria-valuenow": f"{expected:g}" if expected % 1 == 0 else str(expected),
        "aria-valuemin": str(last).removesuffix(".0"),
        "aria-valuemax": str(round(last + 200, 1)).removesuffix(".0"),
        "aria-label": "TP1, level",
    }
    assert pill.get_attribute("aria-valuetext") == f"{text}, 50 %, planned"
    b.page.keyboard.press("End")
    b.page.wait_for_timeout(60)
    b.carry()
    assert b.moves[-1] == ("tp1", round(last + 200, 1), True)
    count = len(b.moves)
    b.page.keyboard.press("ArrowUp")
    b.carry()
    assert len(b.moves) == count, "no further than the limit"
    b.page.keyboard.press("Escape")
    b.page.wait_for_timeout(60)
    b.carry()
    assert b.moves[-1] == ("tp1", start, True)


def test_the_keyboard_reaches_everything_and_the_notebook_gets_none_of_its_keys(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines)
    b.page.evaluate(
        "() => { lab.leaked = []; document.addEventListener('keydown', (event) => lab.leaked.push(event.key)); }"
    )
    reached = []
    for _ in range(8):
        b.page.keyboard.press("Tab")
        reached.append(b.page.evaluate("() => lab.focused()"))
    names = [one.split("|")[0] for one in reached]
    assert names == [
        "Price chart BTC/USDT",
        "Zoom out",
        "Zoom in",
        "Show all ticks",
        "Follow the newest tick",
        "TP2, level",
        "TP1, level",
        "SL, stop",
    ]
    assert all(one.endswith("|true") for one in reached)
    assert (
        b.page.evaluate("() => document.body.firstElementChild.firstElementChild.dataset.lmSuppressShortcuts") == "true"
    )
    b.page.keyboard.press("ArrowUp")
    assert "ArrowUp" not in b.page.evaluate("() => lab.leaked")


def test_a_rejection_springs_back_and_says_why(bench) -> None:
    ticks, lines, _last = usual()
    b = bench(ticks, lines)
    start = b.price("tp2")

    def refuse(id: str, price: float, final: bool) -> None:
        if final:
            raise so.ActionRefused("must stay above <b>TP1</b>")

    b.chart.on_move(refuse)
    b.pill("tp2").focus()
    b.page.keyboard.press("PageDown")
    b.carry()
    b.page.wait_for_function("lab.held().frames === 0")
    why = b.pill("tp2").locator(".why")
    assert b.price("tp2") == start == b.chart.lines[0]["price"]
    assert why.is_visible()
    assert why.inner_text() == "must stay above <b>TP1</b>"
    assert b.pill("tp2").get_attribute("aria-invalid") == "true"
    live = b.page.locator('[aria-live="assertive"]')
    b.page.wait_for_function("() => lab.root().querySelector('[aria-live]').textContent !== ''")
    assert live.text_content() == "TP2: must stay above <b>TP1</b>"
    b.page.keyboard.press("Escape")
    assert not why.is_visible()


def test_a_move_that_python_has_not_heard_of_is_marked(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines)
    b.pill("tp2").focus()
    b.page.keyboard.press("ArrowUp")
    price = b.price("tp2")
    b.page.evaluate("(lines) => lab.model.update({ lines })", lines)  # sent before the move was heard
    b.settle()
    assert b.price("tp2") != price or price == round(lines[0]["price"] + 0.1, 1)
    b.page.wait_for_function("() => lab.root().querySelector('[data-id=tp2]').ariaBusy === 'true'")
    b.carry()
    assert b.pill("tp2").get_attribute("aria-busy") is None
    assert b.price("tp2") == round(lines[0]["price"] + 0.1, 1)


def test_python_has_the_last_word_but_not_over_the_hand(bench) -> None:
    ticks, lines, last = usual()
    b = bench(ticks, lines)
    b.page.mouse.move(b.x("tp2"), b.y("tp2"))
    b.page.mouse.down()
    b.page.mouse.move(b.x("tp2"), b.y("tp2") + 20)
    held = b.price("tp2")
    b.chart.lines = [{**lines[0], "price": last + 90, "detail": "new"}, {**lines[1], "price": last + 40}, *lines[2:]]
    b.carry()
    assert b.price("tp2") == held
    assert b.price("tp1") == round(last + 40, 1)
    assert b.pill("tp2").locator(".detail").inner_text() == "new"
    b.page.mouse.up()
    b.carry()
    b.chart.lines = [{**lines[0], "price": last + 90}, *lines[1:]]
    b.carry()
    assert b.price("tp2") == round(last + 90, 1)
    b.chart.lines = lines[1:]
    b.carry()
    assert b.pill("tp2").count() == 0


def test_a_line_that_goes_while_it_is_held_is_let_go(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines)
    b.page.mouse.move(b.x("tp2"), b.y("tp2"))
    b.page.mouse.down()
    b.page.mouse.move(b.x("tp2"), b.y("tp2") + 20)
    b.chart.lines = lines[1:]
    b.carry()
    b.page.mouse.move(300, 200)
    b.page.mouse.up()
    b.carry()
    assert all(not final for _, _, final in b.moves)


@pytest.mark.parametrize("width", [800, 380])
def test_pills_never_overlap_and_lines_off_the_scale_stand_at_the_edge(bench, width) -> None:
    ticks, _lines, last = usual()
    many = [
        line(f"l{i:02d}", price=round(last + 0.1 * (i % 7), 1), detail="something longer · 12 %") for i in range(25)
    ]
    far = [line("high", price=last * 3), line("higher", price=last * 5), line("low", "stop", price=last / 3)]
    b = bench(ticks, [*many, *far], width=width)
    boxes = [one.bounding_box() for one in b.page.locator(".pill").all()]
    assert len(boxes) == 28
    for i, one in enumerate(boxes):
        assert one["y"] >= 20
        assert one["y"] + one["height"] <= 440
        for other in boxes[:i]:
            apart = (
                one["x"] + one["width"] <= other["x"] + 0.5
                or other["x"] + other["width"] <= one["x"] + 0.5
                or one["y"] + one["height"] <= other["y"] + 0.5
                or other["y"] + other["height"] <= one["y"] + 0.5
            )
            assert apart, (one, other)
    arrows = {id: b.pill(id).locator(".arrow").text_content() for id in ("high", "higher", "low", "l00")}
    assert arrows == {"high": "↑", "higher": "↑", "low": "↓", "l00": ""}
    assert b.y("higher") < b.y("l06") < b.y("low")
    b.pill("low").focus()
    b.page.keyboard.press("Enter")
    b.settle()
    assert b.view()["low"] < last / 3
    assert b.pill("low").locator(".arrow").text_content() == ""


def test_a_line_can_be_dragged_off_the_scale(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines)
    before = b.view()
    b.page.mouse.move(b.x("tp2"), b.y("tp2"))
    b.page.mouse.down()
    b.page.mouse.move(b.x("tp2"), b.y("tp2") - 5)
    b.page.mouse.move(b.x("tp2"), 5)
    b.page.wait_for_function("(high) => lab.drawn.at(-1).high > high", arg=before["high"] * 1.001)
    assert b.price("tp2") > before["high"]
    b.page.mouse.up()


def test_the_stream_is_drawn_and_followed(bench) -> None:
    ts, price = walk(12_000)
    b = bench(ticks_of(ts[:1_000], price[:1_000]))
    before = b.view()
    assert before["follow"]
    for i in range(1_000, 12_000, 500):
        b.chart.append(ts[i : i + 500], price[i : i + 500])
    b.chart.append(ts[-1:] + 1, price[-1:])
    asked = [message for _ in range(4) for message in b.carry() if message["k"] == "view"]
    assert any(message["whole"] for message in asked), "what the ring has lost comes back in a sample"
    view = b.view()
    assert view["at"] == 11_001
    assert view["to"] > ts[-1] / 1e6 > before["to"]
    assert view["points"] >= 10_000
    assert view["to"] - view["from"] == pytest.approx(before["to"] - before["from"], rel=0.6) or view["follow"]
    b.page.locator("canvas").focus()
    b.page.keyboard.press("ArrowLeft")
    b.settle()
    free = b.view()
    assert not free["follow"]
    b.chart.append(ts[-1:] + 10**12, price[-1:] + 5)
    b.carry()
    assert b.view()["to"] == pytest.approx(free["to"]), "who looks at the past is left there"
    b.page.get_by_role("button", name="Follow the newest tick").click()
    b.settle()
    assert b.view()["to"] > (ts[-1] + 10**12) / 1e6


def test_a_gap_in_the_stream_is_mended_and_a_repetition_dropped(bench) -> None:
    ts, price = walk(2_000)
    b = bench(ticks_of(ts[:1_000], price[:1_000]))
    b.chart.append(ts[1_000:1_100], price[1_000:1_100])
    (lost,) = b.wire.out
    b.wire.out.clear()
    b.chart.append(ts[1_100:1_200], price[1_100:1_200])
    again = b.wire.out[0]
    b.carry()
    assert b.view()["points"] == 1_100
    asked = b.carry()
    assert [m for m in asked if m["k"] == "view" and m["whole"]], "what is missing is asked for"
    b.carry()
    assert b.view()["points"] == 1_200
    b.wire.out.append(again)
    b.carry()
    assert b.view()["points"] == 1_200
    assert lost[0]["content"]["at"] == 0


def test_zooming_asks_for_what_can_be_seen_and_no_more(bench) -> None:
    ts, price = walk(400_000)
    b = bench(ticks_of(ts, price))
    b.page.locator("canvas").focus()
    b.page.keyboard.press("0")
    b.page.wait_for_timeout(120)
    assert b.carry() == [], "the whole is there already"
    whole = b.view()
    b.page.locator("canvas").evaluate(  # all at once: a hand that rests between two keys is answered for where it rests
        """(at, keys) => {
            for (const key of keys) at.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
        }""",
        ["+"] * 8 + ["ArrowLeft"] * 3,
    )
    b.page.wait_for_function("lab.model.sent.length > 0")
    b.settle()
    before = b.view()["drawn"]
    asked = b.carry()
    assert [m["k"] for m in asked] == ["view"]
    span = b.view()["to"] - b.view()["from"]
    assert span < (whole["to"] - whole["from"]) / 20
    assert asked[0]["to"] - asked[0]["from"] == pytest.approx(2 * span)
    assert b.view()["drawn"] > 1.5 * before
    b.page.wait_for_timeout(120)
    assert b.carry() == [], "one answer is enough"


def test_the_mouse_pans_and_the_wheel_zooms_around_it(bench) -> None:
    ts, price = walk(3_000)
    b = bench(ticks_of(ts, price))
    b.page.mouse.move(200, 300)
    before = b.view()
    at = before["from"] + (200 - 21) / before["plot"]["w"] * (before["to"] - before["from"])
    b.page.mouse.move(201, 300)
    b.page.mouse.move(200, 300)
    b.page.mouse.wheel(0, -300)
    b.page.wait_for_function("(n) => lab.drawn.at(-1).from > n", arg=before["from"])
    zoomed = b.view()
    there = zoomed["from"] + (200 - 21) / zoomed["plot"]["w"] * (zoomed["to"] - zoomed["from"])
    assert there == pytest.approx(at, abs=0.01 * (zoomed["to"] - zoomed["from"]))
    b.page.mouse.down()
    b.page.mouse.move(300, 300)
    b.page.mouse.up()
    b.settle()
    panned = b.view()
    moved = zoomed["from"] - panned["from"]
    assert moved == pytest.approx(100 / zoomed["plot"]["w"] * (zoomed["to"] - zoomed["from"]), rel=0.05)
    assert not panned["follow"]
    b.page.mouse.dblclick(300, 450 - 20)
    b.settle()
    assert b.view()["follow"]


def test_a_page_that_scrolls_past_is_not_caught(bench) -> None:
    b = bench(ticks_of(*walk(500)))
    before = b.view()
    stopped = b.page.evaluate(
        "() => { const event = new WheelEvent('wheel', { deltaY: 100, cancelable: true, bubbles: true, composed: true });"
        " lab.root().querySelector('canvas').dispatchEvent(event); return event.defaultPrevented; }"
    )
    assert not stopped
    assert b.view() == before


def test_the_scale_of_prices_is_dragged_and_reset(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines)
    before = b.view()
    b.page.mouse.move(800, 100)
    b.page.mouse.down()
    b.page.mouse.move(800, 220)
    b.page.mouse.up()
    b.settle()
    after = b.view()
    assert after["high"] - after["low"] == pytest.approx(2 * (before["high"] - before["low"]), rel=0.02)
    b.page.mouse.dblclick(400, 400)
    b.settle()
    assert b.view()["high"] == pytest.approx(before["high"])


def test_fingers_drag_pan_and_pinch(bench) -> None:
    ticks, lines, _last = usual()
    b = bench(ticks, lines, has_touch=True)
    session = b.page.context.new_cdp_session(b.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        given = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": given})

    x, y, start = b.x("tp2"), b.y("tp2"), b.price("tp2")
    touch("touchStart", (x, y))
    touch("touchMove", (x, y + 10))
    touch("touchMove", (x, y + 25))
    touch("touchEnd")
    b.carry()
    assert b.moves[-1][2] is True
    assert b.moves[-1][1] == pytest.approx(start - 25 * b.pixel(), abs=4 * b.pixel())
    y, start = b.y("sl"), b.price("sl")
    touch("touchStart", (150, y + 3))
    touch("touchMove", (150, y + 15))
    touch("touchMove", (150, y + 33))
    touch("touchEnd")
    b.carry()
    assert b.moves[-1][0] == "sl"
    assert b.moves[-1][1] < start
    before = b.view()
    touch("touchStart", (200, 330), (300, 330))
    touch("touchMove", (150, 330), (350, 330))
    touch("touchEnd")
    b.settle()
    after = b.view()
    assert after["to"] - after["from"] == pytest.approx((before["to"] - before["from"]) / 2, rel=0.1)


def test_text_of_users_stays_text(bench) -> None:
    evil = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'
    ticks, lines, last = usual()

    def setup(chart: OrderChart, page: Any) -> None:
        chart.title = evil
        chart.marks = [{"ts": int(ticks.ts[-20]), "price": float(last), "kind": "buy", "text": evil}]

    b = bench(ticks, [{**lines[0], "label": evil, "detail": evil, "id": evil}, *lines[1:]], setup=setup)
    b.chart.reject(evil, evil)
    b.page.mouse.move(500, 200)
    b.page.mouse.move(501, 201)
    b.page.locator("canvas").focus()
    b.carry()
    b.page.wait_for_timeout(60)
    assert b.page.evaluate("() => window.pwned") is None
    assert b.page.evaluate("() => lab.root().querySelectorAll('img, script, a, iframe').length") == 0
    assert b.page.locator(".name").first.text_content() == evil
    assert evil in b.page.locator("ul li").first.text_content()


def test_the_theme_follows_the_page_and_can_be_set(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines, color_scheme="dark")

    def theme() -> str:
        return b.page.locator(".chart").get_attribute("data-theme")

    def pixel() -> list[int]:
        return b.page.evaluate("() => lab.pixel(3, 380)")

    assert theme() == "dark"
    assert max(pixel()[:3]) < 90
    b.page.emulate_media(color_scheme="light")
    b.settle()
    assert theme() == "light"
    assert min(pixel()[:3]) > 200
    b.page.evaluate("() => (document.body.dataset.jpThemeLight = 'false')")
    b.page.wait_for_function("() => lab.root().querySelector('.chart').dataset.theme === 'dark'")
    b.settle()
    assert max(pixel()[:3]) < 90
    b.chart.theme = "light"
    b.carry()
    assert theme() == "light"


def test_every_word_can_be_read(bench) -> None:
    ticks, _lines, last = usual()
    kinds = [
        line(kind, kind, price=last + 20 * i, state=state)
        for i, (kind, state) in enumerate(zip(module.KINDS, [*module.STATES, "working"], strict=True))
    ]
    for theme in ("light", "dark"):
        b = bench(ticks, kinds, theme=theme)
        for kind in module.KINDS:
            colour = "(el, name) => getComputedStyle(el)[name]"
            text, back = (
                b.pill(kind).locator(".name").evaluate(colour, "color"),
                b.pill(kind).evaluate(colour, "backgroundColor"),
            )
            assert contrast(text, back) >= 4.5, (theme, kind)


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        parts = [int(p) / 255 for p in re.findall(r"\d+", colour)[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    high, low = sorted([light(one), light(other)], reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_small_and_large_prices_are_written_as_people_write_them(bench) -> None:
    ts = START + np.arange(200) * 1000 * MS
    b = bench(ticks_of(ts, 1234 + np.arange(200) % 7, "1", "A/B"), [line(price=1_236.0)])
    assert b.pill("tp1").locator(".price").inner_text() == "1,236"
    units = 1234 + np.arange(200) % 9
    c = bench(ticks_of(ts, units * 1e-8, "0.00000001", "PEPE/USDT"), [line(price=0.00001240)])
    assert c.pill("tp1").locator(".price").inner_text() == "0.00001240"
    c.pill("tp1").focus()
    c.page.keyboard.press("ArrowDown")
    c.carry()
    assert c.moves == [("tp1", 0.00001239, True)]
    d = bench(ticks_of(ts, 64_000 + (units - 1234) / 2, "0.5"), [line(price=64_000.5)])
    assert d.pill("tp1").locator(".price").inner_text() == "64,000.5"


def test_times_are_utc_wherever_the_reader_sits(bench) -> None:
    ts = START + np.arange(200) * 1000 * MS
    b = bench(ticks_of(ts, 64_000 + np.arange(200) % 7), timezone_id="Asia/Kolkata")
    b.page.mouse.move(400, 200)
    b.page.mouse.move(401, 200)
    b.settle()
    words = b.page.locator(".readout").inner_text()
    assert re.search(r"8 Aug 2024 12:0[0-3]:\d\d\.000 UTC", words), words


@pytest.mark.parametrize("ratio", [1, 1.25, 2, 3])
def test_the_canvas_has_the_pixels_of_the_device(bench, ratio) -> None:
    b = bench(ticks_of(*walk(300)), device_scale_factor=ratio, width=701)
    size = b.page.locator("canvas").evaluate("(el) => [el.width, el.height, el.clientWidth, el.clientHeight]")
    assert size[:2] == [pytest.approx(size[2] * ratio, abs=1), pytest.approx(size[3] * ratio, abs=1)]


def test_it_is_redrawn_when_its_place_changes_and_not_while_it_is_hidden(bench) -> None:
    ts, price = walk(600)
    b = bench(ticks_of(ts[:500], price[:500]))
    b.page.evaluate("() => (lab.el.style.width = '500px')")
    b.page.wait_for_function("lab.drawn.at(-1).plot.w < 450")
    assert b.page.locator(".chart").get_attribute("class") == "chart narrow"
    b.page.evaluate("() => (lab.el.style.display = 'none')")
    b.page.wait_for_timeout(80)
    count = b.page.evaluate("() => lab.drawn.length")
    b.chart.append(ts[500:], price[500:])
    b.carry(frames=False)
    b.page.wait_for_timeout(80)
    assert b.page.evaluate("() => lab.drawn.length") == count
    b.page.evaluate("() => (lab.el.style.display = '')")
    b.page.wait_for_function("lab.drawn.at(-1).at === 100")
    b.chart.height = 300
    b.carry()
    assert b.view()["plot"]["h"] == 300 - 26


def test_calm_is_kept_where_it_is_wanted(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines, reduced_motion="reduce")
    b.chart.reject("tp2", "no")
    b.carry()
    assert b.pill("tp2").evaluate("(el) => getComputedStyle(el).animationName") == "none"


def test_two_views_share_what_streams_in(bench) -> None:
    ts, price = walk(600)
    b = bench(ticks_of(ts[:500], price[:500]), [line()])
    b.page.evaluate("() => lab.view('400px')")
    b.chart.append(ts[500:], price[500:])
    b.carry()
    assert {view["at"] for view in b.page.evaluate("() => lab.drawn.slice(-2)")} == {100}
    assert b.page.locator(".pill").count() == 2
    b.page.evaluate("() => lab.sights[0].abort()")
    b.carry()
    assert b.page.locator(".pill").count() == 1
    b.chart.append(ts[-1:] + 1, price[-1:])
    b.carry()
    assert b.view()["at"] == 101


def test_nothing_stays_behind(bench) -> None:
    ticks, lines, _ = usual()
    b = bench(ticks, lines, width=600)
    b.page.mouse.move(300, 200)
    b.page.mouse.move(b.x("tp2"), b.y("tp2"))
    b.page.mouse.down()
    b.page.mouse.move(b.x("tp2"), b.y("tp2") + 20)
    b.chart.reject("sl", "no")
    b.carry(frames=False)
    held = b.page.evaluate("() => lab.held()")
    assert held["listeners"] > 40
    assert held["observers"] == 3
    b.page.evaluate("() => lab.sights[0].abort()")
    b.page.evaluate("() => lab.life.abort()")
    assert b.page.evaluate("() => lab.held()") == {"listeners": 0, "observers": 0, "frames": 0, "timers": 0}
    assert b.page.evaluate("() => [lab.model.listeners.length, document.querySelector('.box').childElementCount]") == [
        0,
        0,
    ]
    b.page.mouse.up()


def test_what_is_missing_of_a_path_is_asked_for(bench) -> None:
    ts, price = walk(2_000)
    b = bench(ticks_of(ts, price), setup=lambda chart, page: chart.set_path("mark", ts[:1_000], price[:1_000], "mark"))
    b.chart.set_path("mark", ts[:1_500], price[:1_500], "mark")
    assert [data["method"] for data, _ in b.wire.out] == ["custom"]
    b.carry()
    assert b.carry() == []
    b.chart.set_path("mark", ts[:1_700], price[:1_700], "mark")
    b.wire.out.clear()
    b.chart.set_path("mark", ts, price, "mark")
    b.carry()
    assert [m["k"] for m in b.carry()] == ["paths"]
    b.carry()
    assert b.carry() == []


def test_python_chooses_the_window(bench) -> None:
    ts, price = walk(3_000)
    b = bench(ticks_of(ts, price))
    b.chart.show(int(ts[500]), int(ts[900]))
    b.carry()
    view = b.view()
    assert ts[480] / 1e6 < view["from"] < ts[500] / 1e6 < ts[900] / 1e6 < view["to"] < ts[940] / 1e6
    b.chart.show()
    b.carry()
    assert b.view()["follow"]


def test_new_ticks_keep_the_view_if_they_can(bench) -> None:
    ts, price = walk(4_000)
    b = bench(ticks_of(ts[:3_000], price[:3_000]))
    b.page.locator("canvas").focus()
    b.page.keyboard.press("+")
    b.page.keyboard.press("ArrowLeft")
    b.settle()
    before = b.view()
    b.chart.set_ticks(ticks_of(ts, price))
    b.carry()
    assert (b.view()["from"], b.view()["to"]) == (before["from"], before["to"])
    b.chart.set_ticks(ticks_of(ts + 10**15, price))
    b.carry()
    assert b.view()["from"] > before["to"]


def test_a_path_stays_within_the_scale(bench) -> None:
    """Also one that comes or grows when the scale stands already; one that is far away would flatten the price, and is left out."""
    ts, price = walk(2_000)
    b = bench(ticks_of(ts, price))
    view = b.view()
    low, high = float(price.min()), float(price.max())
    below = view["low"] - (view["high"] - view["low"]) / 2
    b.chart.set_path("stop", ts[[0, 1_000]], np.array([below, low]))
    b.carry()
    grown = b.view()
    assert grown["low"] < below
    assert grown["high"] == pytest.approx(view["high"], abs=high - low)
    b.chart.set_path("stop", ts[[0, 1_000, 1_500]], np.array([below, low, below - (high - low)]))
    b.carry()
    assert b.view()["low"] < below - (high - low)
    b.chart.set_path("stop", ts[[0, 1_000]], np.array([low / 10, low / 10]))
    b.carry()
    assert b.view()["low"] > low - 3 * (high - low)


def test_a_weekend_takes_its_time_and_hides_nothing(bench) -> None:
    """Ticks of a Friday and of the Monday after: the clock runs on in between, and both days can be read and reached."""
    day = 86_400_000 * MS
    friday, price = walk(2_000)
    monday = friday + 3 * day
    ts, both = np.append(friday, monday), np.append(price, price + 500)
    b = bench(ticks_of(ts, both))
    b.page.locator("canvas").focus()
    b.page.keyboard.press("0")
    b.settle()
    view = b.view()
    assert view["from"] <= ts[0] / 1e6 < ts[-1] / 1e6 <= view["to"]
    assert view["to"] - view["from"] < 1.4 * (ts[-1] - ts[0]) / 1e6
    assert (view["low"] < both.min(), view["high"] > both.max()) == (True, True)
    words = b.page.locator(".readout")
    box = b.page.locator("canvas").bounding_box()
    for share, day_of in (
        (0.01, "8 Aug"),
        (0.45, "8 Aug"),
        (0.55, "11 Aug"),
    ):  # in the gap: the tick that is nearest in time
        middle = (ts[0] + share * (ts[-1] - ts[0])) / 1e6
        at = (middle - view["from"]) / (view["to"] - view["from"]) * view["plot"]["w"]
        b.page.mouse.move(box["x"] + at, box["y"] + 150)
        b.page.mouse.move(box["x"] + at + 1, box["y"] + 150)
        b.settle()
        assert day_of in words.inner_text(), (share, words.inner_text())
    b.chart.show(int(monday[0]), int(monday[-1]))
    b.carry()
    b.page.wait_for_timeout(120)
    b.carry()
    view = b.view()
    assert view["low"] > price.min() + 100, "the scale is that of the day that is shown"
    assert view["drawn"] > 500
    sample = b.chart._tape.cut(int(friday[-1]) + 1, int(monday[0]) - 1, 1_000)
    assert sample.ts.tolist() == [friday[-1], monday[0]], "a window in the gap has the ticks on either side of it"
