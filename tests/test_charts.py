"""Charts: what is drawn is what happened, at every tick, whatever the number of ticks."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import kernel_run
import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from oracle import Replay
from strategies import Case, cases

import smartorders_lab as so
from smartorders_lab import metrics
from smartorders_lab.charts import (
    MAX_CANDLES,
    MAX_DOTS,
    THEMES,
    m4,
    plot_equity,
    plot_excursions,
    plot_levels,
    plot_order,
    plot_returns,
    plot_summary,
    stop_path,
    write_html,
)
from smartorders_lab.rows import NONE

SAMPLE = Path(__file__).parent.parent / "data" / "sample_trades.parquet"
PERPETUAL = so.Instrument(symbol="BTC/USDT:USDT", price_increment="0.01", quantity_increment="0.001")
BEGIN = 1_709_510_400 * 10**9
LONG = so.SmartOrder(
    symbol="SOL/USDT",
    side="buy",
    quantity=10,
    take_profits=[("+2%", 40), ("+4%", 35), ("+9%", 25)],
    stop_loss="-3%",
    trailing_stop="2.5%",
    break_even=True,
)


@pytest.fixture(scope="module")
def sample() -> so.Ticks:
    return so.Ticks.read(SAMPLE, symbol="SOL/USDT")


@pytest.fixture(scope="module")
def run(sample: so.Ticks) -> so.Run:
    return so.replay([LONG] * 3, sample, starts=[0, 30_000, 50_000], fills=so.FillModel(fee_taker="0.1%"))


def walk(count: int, seed: int = 1, first: int = 10_000) -> so.Ticks:
    """A seeded walk of small steps, a tick each 100 ms."""
    steps = np.random.default_rng(seed).integers(-2, 3, count)
    price = np.maximum(first + np.cumsum(steps), 2_000) / 100
    return so.Ticks.from_arrays(BEGIN + np.arange(count) * 10**8, price, instrument=PERPETUAL, unit="ns")


def traces(figure: Any) -> dict[str, dict[str, Any]]:
    """Traces of a figure by name, markers of levels apart from their lines; arrays as arrays."""
    found = {}
    for trace in figure.to_dict()["data"]:
        for axis in ("x", "y", "open", "high", "low", "close"):
            if axis in trace:
                trace[axis] = values(trace[axis])
        found[trace["name"] + (" end" if trace.get("mode") == "markers" and "level" in trace["name"] else "")] = trace
    return found


def values(column: Any) -> np.ndarray:
    """What plotly has packed as base64."""
    if isinstance(column, dict):
        return np.frombuffer(base64.b64decode(column["bdata"]), dtype=column["dtype"])
    array = np.asarray(column)
    return array.astype(float) if array.dtype == object else array


def labels(figure: Any) -> dict[str, tuple[str, str]]:
    """Word and colour of the right-hand labels by name."""
    found = {}
    for note in figure.to_dict()["layout"]["annotations"]:
        name, _, rest = note["text"].removeprefix("↑ ").removeprefix("↓ ").partition(" ")
        found[name] = (rest, note["font"]["color"])
    return found


# --- the path of the stop ---


class Watched(Replay):
    """The oracle, writing down stop and mark after each tick."""

    def one_tick(self) -> None:
        super().one_tick()
        self.__dict__.setdefault("states", {})[self.index] = (self.effective_stop(), self.water_mark)


def at_each_tick(path: Any, ticks: list[int], increment: Decimal) -> list[tuple[Decimal | None, Decimal | None]]:
    rows = np.searchsorted(path.tick, ticks, side="right") - 1
    columns = ([None if i < 0 or c[i] == NONE else int(c[i]) * increment for i in rows] for c in (path.stop, path.mark))
    return list(zip(*columns, strict=True))


@settings(max_examples=150, deadline=None)
@given(cases())
def test_the_path_is_the_oracles_at_every_tick(case: Case) -> None:
    """Latency, polling, edits, fees in coins, bars, shorts: whatever `cases` draws."""
    oracle = Watched(
        case.order, case.instrument, list(case.ticks), case.fills, case.actions, case.start, case.poll_interval
    )
    try:
        events = oracle.run().events
        outcome = kernel_run.replay(case)
    except so.SpecError:  # one edit of a script may not fit what another has left
        assume(False)
        raise
    assume(outcome.run is not None and outcome.events == events)
    path = stop_path(outcome.run, 0, kernel_run.tape_of(case.ticks, case.instrument))
    known = sorted(oracle.states)
    assert at_each_tick(path, known, case.instrument.price_increment) == [oracle.states[i] for i in known]


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("options", [{}, {"poll_interval": "3s"}, {"outlier": "0.02%"}], ids=str)
def test_the_path_is_that_of_a_loop(side: str, options: dict[str, Any]) -> None:
    """A long walk, tick by tick in Python: mark = best price seen, stop = mark less 3 %, and never back."""
    ticks = walk(40_000)
    sign = 1 if side == "buy" else -1
    stop_loss = f"{-5 * sign:+d}%"
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side=side, quantity=1, stop_loss=stop_loss, trailing_stop="3%")
    run = so.replay(order, ticks, **options)
    path = stop_path(run)
    assert len(path.tick) > 10
    entry = mark = sign * int(ticks.price[0])
    held_back, poll = set(run.meta["held_back"] or []), 3 * 10**9 if "poll_interval" in options else 0
    believed = [i for i in range(len(ticks)) if i not in held_back]
    looked = [
        i
        for i, after in zip(believed, [*believed[1:], None], strict=True)
        if not poll or after is None or ticks.ts[after] // poll != ticks.ts[i] // poll
    ]
    mark = sign * round(run.fills["price"][0] * 100)
    entry = mark
    first, last = run.fills["tick"][0], run.events["tick"][-1] if run.orders["exit_reason"][0] else len(ticks) - 1
    expected, stop = {}, -(10**18)
    for i in looked:
        if first < i < last or (i == last and run.orders["exit_reason"][0] is None):
            mark = max(mark, sign * int(ticks.price[i]))
            static = (entry * (100 - 5 * sign)) // 100
            stop = max(stop, static, (mark * (100 - 3 * sign)) // 100)
            expected[i] = (Decimal(sign * stop) / 100, Decimal(sign * mark) / 100)
    assert at_each_tick(path, list(expected), Decimal("0.01")) == list(expected.values())


def test_a_drawn_stop_never_loosens_and_ends_where_the_events_say(run: so.Run) -> None:
    for order in range(3):
        drawn = traces(run.plot(order))
        stop, mark = drawn["stop"]["y"], drawn["water mark"]["y"]
        events = run.events.filter(run.events["order"] == order)
        assert (np.diff(stop[~np.isnan(stop)]) >= 0).all()
        assert (np.diff(mark[~np.isnan(mark)]) >= 0).all()
        assert (stop[-1], mark[-1]) == (events["stop"][-1], events["water_mark"][-1])


def test_foreign_ticks_are_refused(run: so.Run, sample: so.Ticks) -> None:
    with pytest.raises(so.DataError, match="are not those of the run; give the 60,000 from sample_trades"):
        run.plot(0, ticks=sample.slice(0, 59_999))
    kept = sample.data_hash
    run.meta["data_hash"] = "another"
    try:
        with pytest.raises(so.DataError, match="not those of the run"):
            run.plot()
    finally:
        run.meta["data_hash"] = kept


# --- M4 ---


@pytest.mark.parametrize("points", [40, 400, 4000])
def test_m4_keeps_first_last_and_the_extremes_of_every_column(points: int) -> None:
    rng = np.random.default_rng(points)
    ts = np.sort(rng.integers(0, 10**15, 100_000))
    ts[5_000:20_000] = ts[5_000]  # a burst within one nanosecond
    y = rng.integers(-(10**6), 10**6, len(ts)).cumsum()
    kept = m4(ts, y, points)
    assert len(kept) <= points
    assert (np.diff(kept) > 0).all()
    assert {0, len(ts) - 1, y.argmin(), y.argmax()} <= set(kept.tolist())
    edges = np.linspace(ts[0], ts[-1], points // 4 + 1)[1:-1].astype(np.int64)
    column = np.searchsorted(edges, ts, side="right")
    for c in np.unique(column):
        mine, drawn = y[column == c], y[kept[column[kept] == c]]
        assert (mine.min(), mine.max(), mine[0], mine[-1]) == (drawn.min(), drawn.max(), drawn[0], drawn[-1])


def test_m4_leaves_short_series_alone() -> None:
    assert m4(np.arange(40), np.arange(40), 40).tolist() == list(range(40))
    flat = np.zeros(1000, dtype=np.int64)
    assert m4(flat, flat, 40)[[0, -1]].tolist() == [0, 999]


def test_two_million_ticks_stay_within_the_points() -> None:
    ticks = walk(2_000_000, first=100_000)
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=1, stop_loss="-90%", trailing_stop="60%")
    run = so.replay(order, ticks)
    assert run.orders["status"][0] == "ACTIVE"
    figure = run.plot(points=1000)
    drawn = traces(figure)
    assert all(len(trace["x"]) <= 1000 for trace in drawn.values())
    assert drawn["price"]["y"].max() == int(ticks.price.max()) / 100
    assert drawn["price"]["y"].min() == int(ticks.price.min()) / 100
    assert drawn["water mark"]["y"].max() == int(ticks.price.max()) / 100
    assert len(figure.to_json()) < 200_000


# --- levels, fills, events ---

WORDS = {"FILLED": "filled", "CANCELLED": "cancelled", "PENDING": "pending", "TRIGGERED": "triggered"}
COLOURS = {"filled": "#009e73", "cancelled": "#d9432f", "pending": "#8b949e", "triggered": "#d9a400"}


def test_levels_have_the_colour_and_the_word_of_their_status(run: so.Run) -> None:
    seen = set()
    for order in range(3):
        figure = run.plot(order)
        drawn = traces(figure)
        for level in run.levels.filter(run.levels["order"] == order).to_dicts():
            word = WORDS[level["status"]]
            seen.add(word)
            assert labels(figure)[f"TP{level['level'] + 1}"] == (f"{level['price']:.2f} {word}", COLOURS[word])
            line = drawn[f"level {word}"]
            assert line["line"]["color"] == COLOURS[word]
            assert level["price"] in line["y"]
    assert {"filled", "cancelled"} <= seen
    dashes = [drawn[name]["line"]["dash"] for name in drawn if name in {f"level {word}" for word in COLOURS}]
    assert len(dashes) == len(set(dashes)), "a status is told by its dash too"


def test_a_level_takes_its_colours_one_after_another() -> None:
    """With a slow venue: grey until the price is there, yellow until the fill, green from then on."""
    seconds = BEGIN + 10**9 * np.arange(9)
    prices = [100, 100, 100, 101, 105, 105, 105, 106, 106.0]
    order = so.SmartOrder(
        symbol="BTC/USDT:USDT", side="buy", quantity=2, take_profits=[(105, 50), (120, 50)], stop_loss=90
    )
    ticks = so.Ticks.from_arrays(seconds, prices, instrument=PERPETUAL, unit="ns")
    figure = so.replay(order, ticks, fills=so.FillModel(latency="2s")).plot()
    drawn = traces(figure)
    at = {i: np.datetime64(int(ns) // 1000, "us").tolist() for i, ns in enumerate(seconds)}
    assert drawn["level pending"]["x"][[0, 1, 3, 4]].tolist() == [at[2], at[4], at[2], at[8]]
    assert drawn["level triggered"]["x"][:2].tolist() == [at[4], at[6]]
    assert drawn["level filled"]["x"][:2].tolist() == [at[6], at[8]]
    assert drawn["level filled end"]["x"].tolist() == [at[6]]
    assert labels(figure)["TP2"] == ("120.00 pending", COLOURS["pending"])
    assert "level cancelled" not in drawn


def test_a_level_far_away_is_named_at_the_edge_and_does_not_flatten_the_price(sample: so.Ticks) -> None:
    far = LONG.replace(take_profits=[("+1%", 50), ("+400%", 50)])
    figure = so.replay(far, sample).plot()
    layout = figure.to_dict()["layout"]
    assert layout["yaxis"]["range"][1] < 200
    assert any(note["text"].startswith("↑ TP2 750.60") for note in layout["annotations"])


def test_labels_do_not_cover_one_another() -> None:
    ladder = [(f"+{k}%", 5) for k in range(1, 21)]
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=100, take_profits=ladder, stop_loss="-3%")
    layout = so.replay(order, walk(2_000)).plot().to_dict()["layout"]
    low, high = layout["yaxis"]["range"]
    pixels = (layout["height"] - 195) / (high - low)
    heights = sorted(note["y"] for note in layout["annotations"])
    assert np.diff(heights).min() * pixels >= 14, "a line of text is as high as that"
    assert low <= heights[0] < heights[-1] <= high
    above = sorted(layout["annotations"], key=lambda note: note["y"])
    prices = [float(re.search(r"(\d+\.\d+)", note["text"])[1]) for note in above]  # type: ignore[index]
    assert prices == sorted(prices), "also of those that are all beyond the edge"


def test_words_of_events_do_not_cover_one_another(sample: so.Ticks) -> None:
    at = datetime(2024, 3, 4, 2, tzinfo=UTC)
    actions = [so.add_funds(0, at, quantity=2), so.edit(0, at, stop_loss=160), so.open_now(0, at)]
    run = so.replay(LONG, sample, actions=actions)
    events = traces(run.plot())["events"]
    assert events["hovertext"][:3] == ["add funds 2", "edit refused: would trigger", "open now refused: wrong status"]
    named = [(place, word) for place, word in zip(events["textposition"], events["text"], strict=True) if word]
    assert {"add funds 2", "break even"} <= {word for _, word in named}
    at_once = [place for place, word in named[:3] if word != "break even"]
    assert len(set(at_once)) == len(at_once) >= 2, "three things at once do not stand at one corner"


def test_prices_that_nobody_rounded_are_shown_on_seven_digits() -> None:
    price = 100 * np.exp(np.cumsum(np.random.default_rng(3).normal(0, 0.0007, 5_000)))
    ticks = so.Ticks.from_arrays(BEGIN + np.arange(5_000) * 10**9, price, symbol="BTC/USDT", unit="ns")
    order = LONG.replace(symbol="BTC/USDT", quantity=1)
    figure = so.replay(order, ticks, starts=[1000]).plot()
    shown = [note["text"] for note in figure.to_dict()["layout"]["annotations"]]
    assert shown
    assert all(re.search(r"\d{2,3}\.\d{4}\b", text) for text in shown), shown


def test_a_long_order_leaves_its_title_whole() -> None:
    ladder = [(f"+{k / 4}%", 4) for k in range(1, 21)]
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=100, take_profits=ladder, stop_loss="-3%")
    below = so.replay(order, walk(2_000)).plot().to_dict()["layout"]["title"]["subtitle"]["text"]
    assert below.endswith("…")
    assert len(below) <= 120


# --- a session ---


def session_run(until: int, tmp_path: Path | None = None, **how: Any) -> Any:
    """A session on a walk, up to a tick; one order edited while it lived, one that has just been placed."""
    ticks = walk(6_000)
    feed = so.recorded(ticks, speed=None, paused=True)
    session = so.paper(feed=feed, store=tmp_path and tmp_path / "lab.duckdb", fills={"fee_taker": "0.1%"}, **how)
    order = LONG.replace(symbol="BTC/USDT:USDT", quantity=1, take_profits=[("+9%", 100)], break_even=None)
    session.place(order)
    feed.play(until // 3)
    assert session.wait(60)
    session.edit(0, trailing_stop="1.5%")
    with pytest.raises(so.StaleVersion):
        session.edit(0, version=1, stop_loss="-1%")
    session.add_funds(0, quantity="0.5")
    feed.play(until)
    assert session.wait(60)
    session.place(order)  # of which no tick has been seen yet
    return session, feed, ticks


@pytest.mark.parametrize("kept", [False, True])
def test_a_session_is_drawn_as_a_replay_of_it(tmp_path: Path, kept: bool) -> None:
    session, feed, ticks = session_run(3_000, tmp_path if kept else None)
    with session:
        run = session.run()
        assert [action["kind"] for action in run.meta["actions"]] == ["edit", "edit", "add_funds"]
        theirs = so.replay(
            run.specs[:1], ticks.slice(0, 3_000), fills=so.FillModel(fee_taker="0.1%"),
            actions=[so.Action(**action) for action in run.meta["actions"]],
        )  # fmt: skip
        ours, wanted = stop_path(run), stop_path(theirs)
        assert all(np.array_equal(a, b) for a, b in zip(ours, wanted, strict=True))
        assert run.orders["exit_reason"][0] is None, "it lives"
        for number in (0, 1):
            assert run.plot(number).data
        assert run.report(tmp_path / "report.html").stat().st_size > 10_000
        feed.play()
        assert session.wait(60)
        done = session.run()
        assert done.orders["exit_reason"][0] == "trailing_stop"
        assert len(done.ticks) == 6_000
        assert "sell (exit)" in traces(done.plot(0))
        assert done.specs[0].trailing_stop.callback_rate == Decimal("0.025"), "as it was placed"


def test_a_session_takes_the_ticks_of_the_whole_tape() -> None:
    session, _, ticks = session_run(3_000)
    with session:
        run = session.run()
    run.ticks = None
    with pytest.raises(so.DataError, match="give them"):
        run.plot()
    own = traces(run.plot(0, ticks.slice(0, 3_000)))
    assert np.array_equal(traces(run.plot(0, ticks))["stop"]["y"], own["stop"]["y"])
    with pytest.raises(so.DataError, match="give the 3,000"):
        run.plot(0, ticks.slice(5, 4_000))


def test_a_session_that_has_let_go_of_its_beginning(tmp_path: Path) -> None:
    """Its journal was compacted: what is still there is drawn where the order began with it, and else it says what to give."""
    session, feed, ticks = session_run(3_000, tmp_path, outlier="50%")
    with session:
        for until in (3_400, 3_800, 4_200):
            session.compact()
            feed.play(until)
            assert session.wait(60)
        late = session.place(LONG.replace(symbol="BTC/USDT:USDT", quantity=1))
        feed.play()
        assert session.wait(60)
        run = session.run()
        assert 0 < run.meta["first_tick"] < 4_200
        assert len(run.ticks) == 6_000 - run.meta["first_tick"]
        with pytest.raises(so.DataError, match="has let go of the ticks that it began with"):
            run.plot(0)
        drawn, whole = traces(run.plot(late)), traces(run.plot(late, ticks))
        for name in ("stop", "average entry"):
            assert np.array_equal(drawn[name]["y"], whole[name]["y"])
            assert np.array_equal(drawn[name]["x"], whole[name]["x"])
        assert run.meta["actions"] == []
        assert np.nanmin(traces(run.plot(0, ticks))["stop"]["y"]) < 98, (
            "by its events: what was edited is not known any more"
        )


def test_a_session_without_a_tick_says_so() -> None:
    with so.paper(feed=so.recorded(walk(10), speed=None, paused=True)) as session:
        session.place(LONG.replace(symbol="BTC/USDT:USDT", quantity=1))
        with pytest.raises(so.DataError, match="none had come yet"):
            session.run().plot()


def test_fills_say_role_price_quantity_and_fee(run: so.Run) -> None:
    drawn = traces(run.plot(0))
    fills = run.fills.filter(run.fills["order"] == 0)
    buys, sells = drawn["buy (entry)"], drawn["sell (exit)"]
    assert buys["y"].tolist() == fills["price"][:1].to_list()
    assert sells["y"].tolist() == fills["price"][1:].to_list()
    assert buys["hovertext"] == ["<b>buy: entry</b><br>10 at 150.12<br>fee 1.5012, taker"]
    assert sells["hovertext"][0] == "<b>sell: take profit 1</b><br>4 at 154.20<br>fee 0.6168, taker"
    assert buys["marker"]["symbol"] != sells["marker"]["symbol"]


def test_title_says_how_it_ended(run: so.Run) -> None:
    title = run.plot(0).to_dict()["layout"]["title"]
    assert re.fullmatch(
        r"<b>SOL/USDT buy 10 · STOPPED by trailing stop · 2/3 levels · pnl \+\d+\.\d+ \(\+\d\.\d\d%\)</b>",
        title["text"],
    )
    assert "trail 2.5%" in title["subtitle"]["text"]


def test_actions_timer_and_break_even_are_marked(sample: so.Ticks) -> None:
    order = LONG.replace(
        trailing_stop=so.TrailingStop(callback_rate="2%", activation="+1%"),
        stop_loss=so.StopLoss(target="-0.3%", timeout="10m", emergency="-5%"),
        take_profits=[("+1.5%", 50), ("+40%", 50)],
        tag="<script>alert(1)</script>",
    )
    at = datetime(2024, 3, 4, 2, tzinfo=UTC)
    run = so.replay(
        order,
        sample,
        actions=[so.add_funds(0, at, quantity=2), so.edit(0, at, stop_loss=151.9), so.open_now(0, at)],
    )
    figure = run.plot()
    assert traces(figure)["events"]["hovertext"] == [
        "timer started",
        "timer cleared",
        "trailing stop armed",
        "add funds 2",
        "edit refused: would trigger",
        "open now refused: wrong status",
        "break even",
    ]
    assert "<script>" not in figure.to_json()
    assert "average entry" in traces(figure)
    assert len(set(traces(figure)["average entry"]["y"])) == 2, "adding moved the average"


def test_a_short_is_drawn_in_the_mirror() -> None:
    """The same walk upside down, the same order on the other side: every height is 200 less the long's."""
    ticks = walk(20_000)
    mirrored = so.Ticks.from_arrays(ticks.ts, (20_000 - ticks.price) / 100, instrument=PERPETUAL, unit="ns")
    exits = {"quantity": 3, "symbol": "BTC/USDT:USDT", "trailing_stop": so.TrailingStop(callback_rate="5%")}
    long = so.SmartOrder(side="buy", take_profits=[(102, 50), (130, 50)], stop_loss=90, **exits)
    short = so.SmartOrder(side="sell", take_profits=[(98, 50), (70, 50)], stop_loss=110, **exits)
    a, b = traces(so.replay(long, ticks).plot()), traces(so.replay(short, mirrored).plot())
    swapped = {"buy (entry)": "sell (entry)", "sell (exit)": "buy (exit)"}
    for name in ("price", "water mark", "level pending", "average entry", "buy (entry)"):
        other = b[swapped.get(name, name)]
        count = 50 if name == "water mark" else None  # until the two stops, shares of different prices, part them
        np.testing.assert_allclose(a[name]["y"][:count], 200 - other["y"][:count])
    assert (np.diff(b["stop"]["y"]) <= 0).all()


# --- bars, pending orders, look ---


def bars_of(count: int) -> so.Ticks:
    ticks = walk(4 * count)
    price = (ticks.price / 100).reshape(-1, 4)
    frame = {
        "ts": BEGIN + 60 * 10**9 * np.arange(count),
        "open": price[:, 0],
        "high": price.max(axis=1),
        "low": price.min(axis=1),
        "close": price[:, 3],
    }
    return so.Ticks.from_bars(pl.DataFrame(frame), instrument=PERPETUAL, bar="1m", unit="ns")


@pytest.mark.parametrize("count", [50, 2_000])
def test_bars_are_candles_and_many_are_merged(count: int) -> None:
    ticks = bars_of(count)
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=1, stop_loss="-80%")
    figure = so.replay(order, ticks).plot()
    candles = traces(figure)["price"]
    assert candles["type"] == "candlestick"
    assert len(candles["x"]) == count if count <= MAX_CANDLES else len(candles["x"]) <= MAX_CANDLES
    assert candles["high"].max() == ticks.bars.high.max() / 100
    assert candles["low"].min() == ticks.bars.low.min() / 100
    assert "path pessimistic" in figure.to_dict()["layout"]["title"]["subtitle"]["text"]


def test_bars_of_another_path_are_walked_as_the_run_did() -> None:
    ticks = bars_of(200)
    order = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=1, trailing_stop="50%")
    run = so.replay(order, ticks)
    run.ticks = None
    assert run.plot(ticks=ticks.with_path("optimistic")).to_json() == run.plot(ticks=ticks).to_json()


def test_an_order_that_never_entered_shows_where_it_waited(sample: so.Ticks) -> None:
    order = LONG.replace(entry=so.Entry.ladder([(100, 50), (99, 50)]), entry_expiry="3h", break_even=None)
    figure = so.replay(order, sample).plot()
    drawn = traces(figure)
    assert set(drawn["entry waits"]["y"][[0, 3]]) == {100.0, 99.0}
    assert "stop" not in drawn
    assert "CANCELLED by entry expired · 0/3 levels" in figure.to_dict()["layout"]["title"]["text"]


@pytest.mark.parametrize("theme", THEMES)
def test_backgrounds_are_transparent(run: so.Run, theme: str) -> None:
    for figure in (run.plot(theme=theme), run.plot_summary(theme=theme)):
        look = figure.to_dict()["layout"]["template"]["layout"]
        assert look["paper_bgcolor"] == look["plot_bgcolor"] == "rgba(0,0,0,0)"
        assert type(figure).__name__ == "Figure"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 3}, "order = 3: the run has 3 orders; use 0 to 2"),
        ({"order": -1}, "order = -1"),
        ({"order": True}, "order = True"),
        ({"order": "0"}, "order = '0'"),
        ({"theme": "pink"}, "theme = 'pink': must be one of auto, light, dark"),
        ({"points": 3}, "points = 3: must be a whole number of at least 40"),
        ({"pad": -1}, "pad = -1: must be 0 or more"),
    ],
)
def test_refusals(run: so.Run, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(so.DataError, match=re.escape(message)):
        run.plot(**arguments)


def test_a_run_without_ticks_says_what_to_give(run: so.Run, sample: so.Ticks) -> None:
    bare = so.Run(run.orders, run.levels, run.events, run.fills, run.specs, run.meta)
    with pytest.raises(so.DataError, match=r"sample_trades.parquet\); give them: run.plot\(order, ticks=Ticks.read"):
        bare.plot()
    assert bare.plot(1, ticks=sample).to_json() == plot_order(run, 1).to_json()


# --- many orders, files ---


def test_summary_counts_every_finished_order(sample: so.Ticks) -> None:
    run = so.replay([LONG] * 500, sample, starts=list(range(0, 50_000, 100)))
    figure = plot_summary(run)
    drawn = traces(figure)
    done = run.orders.filter(run.orders["exit_ts"].is_not_null())
    bars = {name: trace for name, trace in drawn.items() if trace["type"] == "bar"}
    assert sum(trace["y"].sum() for trace in bars.values()) == done.height
    for reason, count in run.summary()["exit_reason"].items():
        assert bars[f"{reason.replace('_', ' ')} ({count:,})"]["y"].sum() == count
    assert drawn["profit so far"]["y"][-1] == pytest.approx(done["realized_pnl"].sum())
    assert f"500 orders · {done.height} finished" in figure.to_dict()["layout"]["title"]["text"]


def test_summary_of_nothing_says_so(sample: so.Ticks) -> None:
    run = so.replay(LONG.replace(entry=so.Entry.limit(1), stop_loss=None), sample)
    notes = [note["text"] for note in plot_summary(run).to_dict()["layout"]["annotations"]]
    assert "no order has left its position" in notes


def test_a_page_loads_nothing(run: so.Run, tmp_path: Path) -> None:
    path = write_html([run.plot(0), run.plot_summary()], tmp_path / "run.html", title="a <b>")
    page = path.read_text("utf-8")
    assert page.count("plotly.js v") == 1, "one library for all figures"
    assert "<title>a &lt;b&gt;</title>" in page
    outside = re.sub(r"<script[^>]*>/\*\*\s*\* plotly\.js v.*?</script>", "", page, flags=re.S)
    assert len(outside) < 500_000
    assert "http" not in outside
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=", page[:5_000] + outside)
    with pytest.raises(so.DataError, match="figures: is empty"):
        write_html([], tmp_path / "none.html")


# --- equity, excursions, levels ---


@pytest.fixture(scope="module")
def many(sample: so.Ticks) -> so.Run:
    starts = list(range(0, 55_000, 220))
    return so.replay([LONG.replace(stop_loss="-1%")] * 250, sample, starts=starts, fills={"fee_taker": "0.1%"})


@pytest.mark.parametrize("points", [40, 1000])
def test_equity_and_drawdown_keep_their_extremes_in_the_sample(many: so.Run, points: int) -> None:
    drawn, curve = traces(plot_equity(many, points=points)), many.equity()
    fall = metrics.drawdown(curve["equity"])
    for name, values in (
        ("equity, marked to market", curve["equity"].to_numpy()),
        ("realized", curve["realized"].to_numpy()),
        ("drawdown", -fall),
    ):
        y = drawn[name]["y"]
        assert len(y) <= points
        assert (y[0], y[-1], y.min(), y.max()) == (values[0], values[-1], values.min(), values.max())
    assert drawn["drawdown"]["xaxis"] == "x2"
    assert drawn["realized"]["y"][-1] == pytest.approx(many.orders["realized_pnl"].sum())


def test_equity_without_ticks_is_the_realized_one(many: so.Run, sample: so.Ticks) -> None:
    bare = so.Run(many.orders, many.levels, many.events, many.fills, many.specs, many.meta)
    drawn = traces(plot_equity(bare))
    assert set(drawn) == {"realized", "drawdown"}
    assert drawn["realized"]["y"][-1] == pytest.approx(many.orders["realized_pnl"].sum())
    assert plot_equity(bare, sample).to_json() == plot_equity(many).to_json()
    with pytest.raises(so.DataError, match="not those of the run"):
        plot_equity(bare, sample.slice(0, 10))


def test_excursions_show_every_finished_order_once_on_each_side(many: so.Run) -> None:
    done = metrics.done(many.orders).filter(pl.col("mae").is_not_null())
    dots = [trace for trace in plot_excursions(many).to_dict()["data"] if trace["mode"] == "markers"]
    left, right = ([t for t in dots if t["xaxis"] == axis] for axis in ("x", "x2"))
    for side, column in ((left, "mae"), (right, "mfe")):
        x, y = (np.concatenate([values(trace[axis]) for trace in side]) for axis in ("x", "y"))
        assert sorted(x) == sorted(100 * done[column].to_numpy())
        assert sorted(y) == sorted(100 * done["return_"].to_numpy())
    symbols = {trace["name"].split(" (")[0]: trace["marker"]["symbol"] for trace in dots}
    assert symbols == {"won": "circle", "not won": "x"}, "told by shape as well as by colour"


def test_of_very_many_orders_excursions_show_an_even_sample(many: so.Run) -> None:
    times = MAX_DOTS // 200
    orders = pl.concat([many.orders] * times).with_columns(order=pl.int_range(pl.len()))
    crowd = so.Run(orders, many.levels, many.events, many.fills, many.specs * times, many.meta)
    figure = plot_excursions(crowd).to_dict()
    y = np.concatenate([values(t["y"]) for t in figure["data"] if t["mode"] == "markers" and t["xaxis"] == "x"])
    returns = 100 * metrics.done(orders)["return_"].to_numpy()
    assert len(y) == MAX_DOTS < len(returns)
    assert (y.min(), y.max()) == (returns.min(), returns.max())
    assert np.median(y) == pytest.approx(np.median(returns), abs=0.05)
    assert f"3,000 of {len(returns):,} orders" in figure["layout"]["title"]["text"]


def test_levels_show_rate_and_interval(many: so.Run) -> None:
    trace = traces(plot_levels(many))["hit rate"]
    rates = metrics.hit_rates(many.levels)
    assert list(trace["x"]) == pytest.approx((100 * rates["rate"]).to_list())
    assert list(trace["x"] + values(trace["error_x"]["array"])) == pytest.approx((100 * rates["high"]).to_list())
    assert list(trace["x"] - values(trace["error_x"]["arrayminus"])) == pytest.approx((100 * rates["low"]).to_list())
    assert trace["text"][0] == f"{rates['rate'][0]:.0%} · {rates['filled'][0]} of 250"


def test_returns_count_every_order_that_left(many: so.Run) -> None:
    bars = traces(plot_returns(many)).values()
    assert sum(bar["y"].sum() for bar in bars) == many.orders["exit_ts"].is_not_null().sum()


def test_charts_of_nothing_say_so(sample: so.Ticks) -> None:
    order = so.SmartOrder(symbol="SOL/USDT", side="buy", quantity=1, entry=so.Entry.limit(1), stop_loss=0.5)
    nothing = so.replay(order, sample)
    for plot, text in (
        (plot_excursions, "no order has left its position"),
        (plot_returns, "no order has left its position"),
        (plot_levels, "no order has take-profit levels"),
    ):
        notes = [note["text"] for note in plot(nothing).to_dict()["layout"]["annotations"]]
        assert notes == [text]
    assert set(traces(plot_equity(nothing))["realized"]["y"]) == {0.0}
    bare = so.Run(nothing.orders, nothing.levels, nothing.events, nothing.fills, nothing.specs, nothing.meta)
    assert plot_equity(bare).to_dict()["layout"]["annotations"][0]["text"] == "no order was filled"


@pytest.mark.parametrize("plot", [plot_equity, plot_excursions, plot_levels, plot_returns])
def test_new_charts_have_the_same_look(many: so.Run, plot: Any) -> None:
    for theme in THEMES:
        figure = plot(many, theme=theme).to_dict()
        assert figure["layout"]["template"]["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"
        assert figure["layout"]["meta"] == {"theme": theme}
    with pytest.raises(so.DataError, match="theme = 'pink'"):
        plot(many, theme="pink")
