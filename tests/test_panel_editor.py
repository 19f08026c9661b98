"""The ladder editor: fields, lines and the order are one thing, nothing typed is lost, and the odds are those of the order."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import Side, orders

import smartorders_lab as so

pytest.importorskip("anywidget")

import ipywidgets

from smartorders_lab.odds import Record
from smartorders_lab.panel import draft as drafts
from smartorders_lab.panel.draft import DEFAULTS, ENTRIES, Draft, Market
from smartorders_lab.panel.editor import LadderEditor
from smartorders_lab.panel.odds_view import Keys, OddsView

BEGIN, STEP = 1_700_000_000 * 10**9, 10**9
FEES = so.FillModel(fee_taker="0.1%", fee_maker="0.02%")
SCALES = [("0.00001234", "0.00000001"), ("64000", "0.1"), ("150.25", "0.01"), ("1.0852", "0.00001")]


def market(symbol: str = "BTC/USDT:USDT", increment: str = "0.01", **limits: Any) -> so.Instrument:
    return so.Instrument(symbol=symbol, price_increment=increment, quantity_increment="0.001", **limits)


def ticks_of(prices: Any, instrument: so.Instrument) -> so.Ticks:
    ts = BEGIN + STEP * np.arange(len(prices), dtype=np.int64)
    return so.Ticks.from_arrays(ts, prices, instrument=instrument, unit="ns")


def walk(start: str = "100", increment: str = "0.01", count: int = 3000, symbol: str = "BTC/USDT:USDT") -> so.Ticks:
    steps = np.random.default_rng(7).normal(0, 0.0006, count)
    units = np.round(float(start) * np.exp(np.cumsum(steps)) / float(increment))
    prices = [float(Decimal(int(unit)) * Decimal(increment)) for unit in units]
    return ticks_of(prices, market(symbol, increment))


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """No thread of an editor outlives its test."""
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("panel")]


@pytest.fixture(scope="module")
def ticks() -> so.Ticks:
    return walk()


@pytest.fixture
def editor(ticks: so.Ticks) -> Iterator[LadderEditor]:
    made = LadderEditor(ticks, fills=FEES, entries=200)
    assert made.settle()
    yield made
    made.close()


def write(editor: LadderEditor, path: str, text: str) -> None:
    """As somebody types it into the field."""
    editor._inputs[path].value = text
    assert editor.settle()


def line(editor: LadderEditor, name: str) -> dict[str, Any]:
    return next(line for line in editor.chart.lines if line["id"] == name)


def drag(editor: LadderEditor, name: str, *prices: float, let_go: bool = True) -> None:
    """What the browser sends while a line is pulled through these prices."""
    for n, price in enumerate(prices):
        final = let_go and n == len(prices) - 1
        editor.chart._handle_custom_msg({"k": "move", "id": name, "price": price, "final": final, "n": n}, [])
        assert editor.settle()


def said(editor: LadderEditor, path: str) -> str:
    return str(editor._places[path].value)


# ---------------------------------------------------------------------------------------------------- whole


def test_a_new_editor_shows_a_valid_order_and_its_record(editor: LadderEditor, ticks: so.Ticks) -> None:
    assert editor.order is not None
    assert editor.problems == []
    assert [line["id"] for line in editor.chart.lines] == ["market", "level 0", "level 1", "level 2", "stop", "even"]
    expected = Record(ticks, 200, FEES).of(editor.order)
    assert editor.odds == expected
    assert editor._view.now == expected.to_dict()
    assert editor._view.state == "ready"


def test_what_it_is_given_is_checked(ticks: so.Ticks) -> None:
    with pytest.raises(so.DataError, match="is not Ticks"):
        LadderEditor([1, 2])  # type: ignore[arg-type]
    with pytest.raises(so.SpecError, match="is not a SmartOrder"):
        LadderEditor(ticks, "buy")  # type: ignore[arg-type]


def test_an_order_to_begin_with_is_taken_as_it_is(ticks: so.Ticks) -> None:
    given = so.SmartOrder(symbol="BTC/USDT:USDT", side="sell", risk=10, stop_loss="+1%", take_profits=[("-2%", 100)])
    editor = LadderEditor(ticks, given, entries=50)
    try:
        assert editor.order == given
        assert editor._inputs["side"].value == "sell"
        assert editor._inputs["risk"].value == "10"
        assert not editor._undo
    finally:
        editor.close()


def test_few_ticks_are_each_an_entry(ticks: so.Ticks) -> None:
    editor = LadderEditor(ticks.slice(0, 40), entries=2000)
    try:
        assert editor.settle()
        assert editor.odds is not None
        assert editor.odds.orders == 40
    finally:
        editor.close()


# ---------------------------------------------------------------------------------------------------- lines and fields


def test_a_drag_changes_field_order_and_odds_and_is_one_step(editor: LadderEditor) -> None:
    first, before, old = editor.order, editor.odds, editor._inputs["take_profits[1].target"].value
    assert first is not None
    start = line(editor, "level 1")["price"]
    drag(editor, "level 1", start + 0.05, start + 0.1, start + 0.2, start + 0.21)
    moved = editor.order
    assert moved is not None
    entry = editor._shape.entry
    assert editor._shape.levels[1] == Decimal(repr(round(start + 0.21, 2)))
    assert editor._inputs["take_profits[1].target"].value == str(moved.take_profits[1].target)
    assert editor._market.at(moved.take_profits[1].target, entry) == editor._shape.levels[1]
    assert line(editor, "level 1")["price"] == pytest.approx(start + 0.21)
    assert editor.odds != before
    assert before is not None
    assert editor._view.before == before.to_dict()  # the ghost is from before the drag, not from within it
    assert editor.undo()
    assert editor.order == first
    assert editor._inputs["take_profits[1].target"].value == old
    assert not editor.undo()
    assert editor.redo()
    assert editor.order == moved


def test_a_price_stays_a_price_and_a_distance_a_distance(editor: LadderEditor) -> None:
    editor._form.value = "prices"
    assert editor.settle()
    assert editor.order is not None
    assert all(isinstance(level.target, Decimal) for level in editor.order.take_profits)
    stop = line(editor, "stop")["price"]
    drag(editor, "stop", stop - 0.1)
    assert editor.order.stop_loss is not None
    assert editor._inputs["stop_loss.target"].value == f"{stop - 0.1:.2f}".rstrip("0").rstrip(".")
    prices = editor._shape.levels
    editor._form.value = "distances"
    assert editor.settle()
    assert all(isinstance(level.target, so.Distance) for level in editor.order.take_profits)
    assert editor._shape.levels == prices


def test_typing_moves_the_line(editor: LadderEditor) -> None:
    entry = editor._shape.entry
    write(editor, "take_profits[2].target", "+9%")
    assert editor._shape.levels[2] == editor._market.grid(entry * Decimal("1.09"), True)
    assert line(editor, "level 2")["price"] == float(editor._shape.levels[2])


def test_every_line_writes_its_own_field(ticks: so.Ticks) -> None:
    last = round(float(ticks.instrument.price(int(ticks.view().price[-1]))), 2)
    given = so.SmartOrder(
        symbol="BTC/USDT:USDT",
        side="buy",
        quantity=1,
        entry=so.Entry.stop(last + 1, limit=last + 2),
        take_profits=[(last + 5, 50), (last + 9, 50)],
        stop_loss=so.StopLoss(target=last - 2, limit=last - 3, emergency=last - 4),
        trailing_stop=so.TrailingStop(callback_rate="2%", activation="+3%"),
        break_even=so.BreakEven(offset="0.5%"),
    )
    editor = LadderEditor(ticks, given, entries=20)
    try:
        moves = {
            "entry": "entry.price",
            "entry_limit": "entry.limit_price",
            "level 1": "take_profits[1].target",
            "stop": "stop_loss.target",
            "stop_limit": "stop_loss.limit",
            "emergency": "stop_loss.emergency",
            "trail": "trailing_stop.callback_rate",
            "activation": "trailing_stop.activation",
            "even": "break_even.offset",
        }
        for name, path in moves.items():
            before = editor.draft
            place = line(editor, name)["price"]
            drag(editor, name, round(place + 0.07, 2))
            assert line(editor, name)["price"] == pytest.approx(place + 0.07), name
            assert {p for p in editor.draft.paths() if editor.draft[p] != before[p]} == {path}
            assert editor.order is not None, editor.problems
        ladder = given.replace(entry=so.Entry.ladder([(last, 50), (last - 1, 50)]))
        editor.order = ladder
        drag(editor, "rung 1", last - 1.5)
        assert editor.order is not None
        assert editor.order.entry.rungs[1].price == Decimal(f"{last - 1.5:.2f}")
    finally:
        editor.close()


def test_a_move_against_the_rules_springs_back_with_the_reason(ticks: so.Ticks, monkeypatch: Any) -> None:
    last = round(float(ticks.instrument.price(int(ticks.view().price[-1]))), 2)
    entry = so.Entry.stop(last + 1, limit=last + 2)
    given = so.SmartOrder(symbol="BTC/USDT:USDT", side="buy", quantity=1, entry=entry, stop_loss="-3%")
    editor = LadderEditor(ticks, given, entries=20)
    sent: list[Any] = []
    monkeypatch.setattr(editor.chart, "send", lambda content, buffers=None: sent.append(content))
    try:
        drag(editor, "entry_limit", last + 1.5, last + 0.5)
        assert editor.order == given
        assert line(editor, "entry_limit")["price"] == pytest.approx(last + 2)
        assert not editor._undo
        refusals = [content for content in sent if content["k"] == "reject"]
        assert [(content["id"], content["price"]) for content in refusals] == [("entry_limit", pytest.approx(last + 2))]
        assert "must be at or above the stop price" in refusals[0]["reason"]
    finally:
        editor.close()


def test_a_drag_that_is_called_off_leaves_nothing(editor: LadderEditor) -> None:
    before = editor.draft
    start = line(editor, "stop")["price"]
    drag(editor, "stop", start - 0.3, start - 0.2, start)
    assert editor.draft == before
    assert not editor.undo()


def test_a_line_cannot_be_dragged_through_the_next(editor: LadderEditor) -> None:
    before = editor.draft
    drag(editor, "level 0", line(editor, "level 1")["price"] + 1)
    drag(editor, "stop", float(editor._shape.entry) + 1)
    assert editor.draft == before


def test_moves_by_key_are_joined_to_one_step_and_drags_are_not(editor: LadderEditor, monkeypatch: Any) -> None:
    clock = itertools.count()
    monkeypatch.setattr("smartorders_lab.panel.editor.monotonic", lambda: 0.01 * next(clock))
    first = editor.draft
    start = line(editor, "stop")["price"]
    for n in range(1, 4):
        drag(editor, "stop", start - 0.01 * n)
    keyed = editor.draft
    drag(editor, "stop", start - 0.05, start - 0.06)
    drag(editor, "stop", start - 0.07, start - 0.08)
    assert editor.undo()
    assert editor.undo()
    assert editor.draft == keyed
    assert editor.undo()
    assert editor.draft == first


# ---------------------------------------------------------------------------------------------------- problems


def test_what_is_typed_stays_and_its_problem_stands_under_it(editor: LadderEditor) -> None:
    first = editor.order
    write(editor, "take_profits[1].target", "64k")
    assert editor.order is None
    assert [p.path for p in editor.problems] == ["take_profits[1].target"]
    for part in ("64k", "must be a finite number", "write it like 100 or 0.5"):
        assert part in said(editor, "take_profits[1].target")
    write(editor, "cost", "-7")
    write(editor, "max_hold", "soon")
    assert editor._inputs["take_profits[1].target"].value == "64k"
    assert {p.path for p in editor.problems} == {"take_profits[1].target", "cost", "max_hold"}
    assert "must be above 0" in said(editor, "cost")
    assert "is not a duration" in said(editor, "max_hold")
    assert editor._view.state == "stale"
    for _ in range(3):
        editor.undo()
    assert editor.order == first
    assert said(editor, "cost") == ""


BAD = {
    "symbol": ("BTCUSDT", "must be a unified symbol"),
    "cost": ("1e30", "between 1e-18 and 1e18"),
    "take_profits[0].target": ("+1e40%", "is not a fraction of anything"),
    "take_profits[2].size": ("0", "must be above 0"),
    "stop_loss.target": ("+5%", "must be below the entry"),
    "break_even.offset": ("200%", "must be a fraction between -1 and 1"),
    "entry_expiry": ("9" * 400 + "h", "is longer than 100 years"),
    "max_hold": ("-2h", "is not a duration"),
    "tag": ("x" * 301, "at most 300"),
}


@pytest.mark.parametrize("path", BAD)
def test_each_field_says_what_is_wrong_with_it(editor: LadderEditor, path: str) -> None:
    text, rule = BAD[path]
    write(editor, path, text)
    assert editor.order is None
    assert rule in said(editor, path)
    assert editor._inputs[path].value == text
    assert editor.undo()
    assert editor.order is not None
    assert said(editor, path) == ""


def test_problems_of_the_market_stand_under_their_fields(ticks: so.Ticks) -> None:
    strict = so.Ticks.from_arrays(
        ticks.ts, ticks.instrument.prices(ticks.price), instrument=market(min_notional=50), unit="ns"
    )
    editor = LadderEditor(strict, entries=20)
    try:
        write(editor, "entry", "limit")
        write(editor, "entry.price", "99.123")
        assert editor.order is None
        assert "99.12" in said(editor, "entry.price")
        write(editor, "entry.price", "99")
        assert editor.order is not None
        write(editor, "cost", "60")
        assert editor.order is not None  # levels merge: a note and not an error
        assert [p.level for p in editor.problems] == ["warning", "warning"]
        assert "merges into the level" in said(editor, "take_profits[0].target")
        write(editor, "cost", "30")
        assert editor.order is None
        assert "minimum notional" in said(editor, "cost")
        write(editor, "symbol", "ETH/USDT:USDT")
        assert "is not the instrument" in said(editor, "symbol")
    finally:
        editor.close()


def test_a_price_that_these_ticks_do_not_have_is_a_problem(editor: LadderEditor) -> None:
    assert editor.order is not None
    editor.order = editor.order.replace(trigger="mark")
    assert editor.order is None
    assert "these ticks have last only" in said(editor, "trigger")


def test_problems_without_a_field_of_their_own_are_not_lost(editor: LadderEditor) -> None:
    for _ in range(3):
        editor._pressed("remove", 0)
    for name in ("stop_loss", "break_even"):
        editor._switches[name].value = False
    assert editor.settle()
    assert [p.path for p in editor.problems] == ["order"]
    assert "leaves nothing to manage" in said(editor, "")


def test_text_of_the_user_is_never_markup(editor: LadderEditor) -> None:
    bad = "<script>alert(1)</script><img src=x onerror=alert(2)>"
    for path in ("take_profits[0].target", "cost", "tag", "symbol", "note"):
        write(editor, path, bad)
    html = [widget.value for widget in editor._owned if isinstance(widget, ipywidgets.HTML)]
    bundle = editor._repr_mimebundle_()
    assert bundle is not None
    for text in [*html, json.dumps(bundle)]:
        assert "<script" not in text
        assert "<img src=x" not in text


# ---------------------------------------------------------------------------------------------------- the ladder


def test_levels_can_be_added_removed_and_exchanged(editor: LadderEditor) -> None:
    editor._add.click()
    assert editor.settle()
    assert editor.order is not None
    assert len(editor.order.take_profits) == 4
    assert sum(level.size for level in editor.order.take_profits) == 100
    assert len(editor._level_box.children) == 4
    sizes = [level.size for level in editor.order.take_profits]
    write(editor, "take_profits[0].kind", "limit")
    editor._levels[0].down.click()
    assert editor.settle()
    assert [level.size for level in editor.order.take_profits] == [sizes[1], sizes[0], *sizes[2:]]
    assert [level.kind for level in editor.order.take_profits] == ["market", "limit", "market", "market"]
    editor._pressed("remove", 3)
    assert len(editor.order.take_profits) == 3
    assert "a runner of" in editor._sum.value
    editor._whole.click()
    assert editor.settle()
    assert sum(level.size for level in editor.order.take_profits) == 100
    assert "closes everything" in editor._sum.value
    editor._spread.click()
    assert editor.settle()
    assert [level.size for level in editor.order.take_profits] == [33, 33, 34]


def test_levels_that_are_out_of_order_can_be_sorted(editor: LadderEditor) -> None:
    assert "sol-off" in editor._sort._dom_classes
    write(editor, "take_profits[0].target", "+30%")
    assert editor.order is None
    assert "sol-off" not in editor._sort._dom_classes
    editor._sort.click()
    assert editor.settle()
    assert editor.order is not None
    assert str(editor.order.take_profits[2].target) == "+30%"


def test_no_more_levels_than_an_order_takes(editor: LadderEditor) -> None:
    for _ in range(25):
        editor._do(editor._pressed, "add")
    assert len(editor.draft.levels) == 20
    assert editor._add.disabled
    assert editor.order is not None
    assert sum(level.size for level in editor.order.take_profits) == 100


@given(st.lists(st.decimals("0.01", "100", places=2), min_size=1, max_size=20))
def test_sizes_can_be_made_to_sum_to_100(sizes: list[Decimal]) -> None:
    made = [Decimal(text) for text in drafts.normalised(sizes)]
    assert sum(made) == 100
    assert min(made) > 0
    total = sum(sizes)
    near = [abs(new - old / total * 100) for new, old in zip(made, sizes, strict=True)]
    assert max(near) <= Decimal("0.01") * (len(sizes) + 1)
    assert sum(map(int, drafts.spread(len(sizes)))) == 100


def test_a_switch_brings_a_part_and_keeps_what_it_held(editor: LadderEditor) -> None:
    editor._switches["trailing_stop"].value = True
    assert editor.settle()
    assert editor.order is not None
    assert editor.order.trailing_stop is not None
    write(editor, "trailing_stop.callback_rate", "1.25%")
    editor._switches["trailing_stop"].value = False
    assert editor.settle()
    assert editor.order.trailing_stop is None
    editor._switches["trailing_stop"].value = True
    editor._switches["stop_loss.limit"].value = True
    editor._switches["trailing_take_profit"].value = True
    assert editor.settle()
    assert editor.order.trailing_stop == so.TrailingStop(callback_rate="1.25%")
    assert editor.order.stop_loss is not None
    assert editor.order.stop_loss.limit is not None
    assert editor.order.trailing_take_profit is not None


def test_another_side_turns_the_order_round_and_back(editor: LadderEditor) -> None:
    for form in ("distances", "prices"):
        editor._form.value = form
        for kind in ENTRIES:
            write(editor, "entry", kind)
            first, before = editor.order, editor.draft
            assert first is not None, (kind, editor.problems)
            write(editor, "side", "sell")
            assert editor.order is not None, (kind, form, editor.problems)
            assert editor.order.direction == -first.direction
            write(editor, "side", "buy")
            assert editor.draft == before
            assert editor.order == first


def test_each_way_of_giving_the_size_starts_from_the_same_amount(editor: LadderEditor) -> None:
    write(editor, "cost", "500")
    quantity = editor.outlook.quantity
    for kind in ("quantity", "risk", "cost"):
        write(editor, "size", kind)
        assert editor.order is not None
        assert getattr(editor.order, kind) is not None
        assert editor.outlook.quantity == pytest.approx(quantity, rel=2e-3)


# ---------------------------------------------------------------------------------------------------- undo


CHANGES = st.one_of(
    st.tuples(
        st.just("type"),
        st.sampled_from(["take_profits[0].target", "stop_loss.target", "cost", "entry.price", "break_even.offset", "tag"]),
        st.sampled_from(["", "1", "+5%", "-5%", "105", "x", "fees"]),
    ),
    st.tuples(
        st.just("type"),
        st.sampled_from(["entry", "side", "size"]),
        st.sampled_from(["limit", "ladder", "trailing", "buy", "sell", "quantity", "risk"]),
    ),
    st.tuples(st.just("press"), st.sampled_from(["add", "remove", "up", "spread", "whole", "sort", "form"]), st.integers(0, 3)),
    st.tuples(st.just("switch"), st.sampled_from(["stop_loss", "trailing_stop", "break_even"]), st.booleans()),
    st.tuples(st.just("line"), st.sampled_from(["stop", "level 0", "level 1", "even"]), st.integers(-200, 200)),
    st.tuples(st.just("preset"), st.sampled_from([*drafts.presets()]), st.none()),
)  # fmt: skip
KNOWN = {"entry": ENTRIES, "side": ("buy", "sell"), "size": ("quantity", "cost", "risk")}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, max_size=12))
def test_whatever_is_done_can_be_undone_and_done_again(editor: LadderEditor, changes: list[Any]) -> None:
    def work() -> None:
        """On the editor's thread, so that no odds have to be waited for."""
        start = editor.draft
        editor._undo, editor._redo, editor._last_key = [], [], ""
        seen = [start]
        for kind, what, value in changes:
            if kind == "type" and value in KNOWN.get(what, (value,)):
                editor._inputs[what].value = value
                editor._typed(what, value)
            elif kind == "press":
                editor._pressed(what, value)
            elif kind == "switch":
                editor._switched(what, value)
            elif kind == "preset":
                editor._preset(what)
            elif kind == "line" and any(one["id"] == what for one in editor.chart.lines):
                editor._dropped(what, line(editor, what)["price"] + value / 100)
            for path in editor.draft.paths():
                assert editor._inputs[path].value == editor.draft[path]
            if editor.draft != seen[-1]:
                seen.append(editor.draft)
            order, problems = editor.draft.order(editor.ticks.instrument)
            assert (editor.order, editor.problems) == (order, problems)
        end = editor.draft
        while editor.undo():
            assert editor.draft in seen
        assert editor.draft == start
        while editor.redo():
            pass
        assert editor.draft == end
        while editor.undo():
            pass

    editor._do(work)


def test_typing_on_is_one_step_and_typing_anew_another(editor: LadderEditor) -> None:
    first = editor.draft
    for text in ("+1", "+12", "+12%"):
        write(editor, "take_profits[2].target", text)
    write(editor, "take_profits[2].target", "+13%")
    assert editor.undo()
    assert editor.draft["take_profits[2].target"] == "+12%"
    editor.undo()
    editor.undo()
    assert editor.draft == first


def test_an_order_that_is_set_is_a_step_too(editor: LadderEditor) -> None:
    first = editor.order
    assert first is not None
    seen: list[Any] = []
    editor.observe(lambda change: seen.append(change.new), "order")
    other = first.replace(take_profits=[("+1%", 100)])
    editor.order = other
    assert editor.order == other
    assert seen == [other]
    editor.undo()
    assert seen == [other, first]
    with pytest.raises(so.DataError, match="cannot be set"):
        editor.order = None


# ---------------------------------------------------------------------------------------------------- there and back


@pytest.fixture
def anywhere() -> Iterator[LadderEditor]:
    """An editor on ticks without a symbol, whose increments no order is too fine for."""
    prices = [100.0, 101.0, 99.0, 100.5, 100.00000001]
    made = LadderEditor(ticks_of(prices, so.Instrument(derived=True)), entries=2, name="anywhere")
    yield made
    made.close()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(orders(), TEXT, TEXT)
def test_every_order_survives_the_editor_its_link_and_its_code(order: so.SmartOrder, tag: str, note: str) -> None:
    order = order.replace(tag=tag, note=note)
    draft = Draft.of(order)
    assert so.SmartOrder(**draft.data()).to_json() == order.to_json()
    assert Draft.from_json(json.loads(json.dumps(draft.to_json()))) == draft
    made: dict[str, Any] = {}
    exec(drafts.python_code(order), made)
    assert made["order"].to_json() == order.to_json()
    assert so.SmartOrder.from_toml(drafts.toml_code(order)).to_json() == order.to_json()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(orders())
def test_every_order_can_be_loaded_and_comes_out_again(anywhere: LadderEditor, order: so.SmartOrder) -> None:
    before = anywhere.draft
    anywhere.order = order
    assert anywhere.order is not None, anywhere.problems
    assert anywhere.order.to_json() == order.to_json()
    assert anywhere.link == order.share_link()
    made: dict[str, Any] = {}
    exec(anywhere.code(), made)
    assert made["order"].to_json() == order.to_json()
    assert so.SmartOrder.from_toml(anywhere.code("toml")).to_json() == order.to_json()
    for path in anywhere.draft.paths():
        if path in anywhere._inputs:
            assert anywhere._inputs[path].value == anywhere.draft[path]
    if anywhere.draft != before:
        anywhere.undo()
    assert anywhere.draft == before


def test_numbers_that_a_float_would_not_hold_are_written_as_text() -> None:
    order = so.SmartOrder(
        symbol="A/B", side="buy", quantity="0.12345678901234567", stop_loss="0.00001234", entry=so.Entry.limit("1e17")
    )
    code = drafts.python_code(order)
    assert 'quantity="0.12345678901234567"' in code
    assert "stop_loss=0.00001234" in code
    made: dict[str, Any] = {}
    exec(code, made)
    assert made["order"] == order


def test_a_link_is_pasted_or_refused_under_its_field(editor: LadderEditor) -> None:
    first = editor.order
    other = so.SmartOrder(symbol="BTC/USDT:USDT", side="sell", quantity=2, stop_loss="+2%", take_profits=[("-1%", 100)])
    link = other.share_link()
    editor._pasted.value = link[:-3]
    assert editor.settle()
    assert "checksum" in editor._pasted_said.value
    assert editor._pasted.value == link[:-3]
    assert editor.order == first
    editor._pasted.value = f"  {link}\n"
    assert editor.settle()
    assert editor.order == other
    assert "Loaded" in editor._pasted_said.value
    assert editor.undo()
    assert editor.order == first
    editor.link = link
    assert editor.order == other
    with pytest.raises(so.LinkError):
        editor.link = "solab1:x"


def test_link_and_code_of_the_order_are_shown(editor: LadderEditor) -> None:
    fold = next(w for w in editor._owned if isinstance(w, ipywidgets.Button) and "Share" in w.description)
    fold.click()
    assert editor.settle()
    assert editor._link.value == editor.link
    assert editor._code.value == editor.code()
    editor._language.value = "toml"
    assert editor.settle()
    assert editor._code.value == editor.code("toml")
    write(editor, "cost", "none")
    assert editor._code.value == ""
    with pytest.raises(so.SpecError, match="cost"):
        editor.code()
    with pytest.raises(so.DataError, match="must be python or toml"):
        editor.code("rust")


# ---------------------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize(("price", "increment"), SCALES)
@pytest.mark.parametrize("side", ["buy", "sell"])
def test_presets_fit_every_market(price: str, increment: str, side: str) -> None:
    ticks = walk(price, increment)
    around = Market.of(ticks)
    start = Draft({**DEFAULTS, "symbol": ticks.symbol, "side": side})
    for kind, name in itertools.product(ENTRIES, drafts.presets()):
        draft = drafts.preset(name, drafts.with_entry(start, kind, around), around)
        order, problems = draft.order(ticks.instrument)
        assert order is not None, (kind, name, problems)
        assert problems == []
        assert order.direction == (1 if side == "buy" else -1)
        in_prices = drafts.as_prices(draft, around, drafts.exits(draft))
        assert in_prices.order(ticks.instrument)[0] is not None
        back = drafts.as_distances(in_prices, around, drafts.exits(draft))
        assert drafts.shape(back, around, FEES) == drafts.shape(draft, around, FEES)


def test_a_preset_is_chosen_from_the_list(editor: LadderEditor) -> None:
    for name in drafts.presets():
        editor._presets.value = name
        assert editor.settle()
        assert editor._presets.value == ""
        assert editor.order is not None, name
    with pytest.raises(so.DataError, match="is not in"):
        editor.preset("no such")


def test_own_presets_are_kept_and_fit_other_markets(
    editor: LadderEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "folder" / "presets.json"
    monkeypatch.setenv("SMARTORDERS_PRESETS", str(file))
    editor.preset("Scale out and trail")
    write(editor, "entry", "limit")
    editor._form.value = "prices"
    assert editor.settle()
    editor.save_preset("mine <b>")
    assert ("★ mine <b>", "mine <b>") in editor._presets.options
    with pytest.raises(so.DataError, match="name = 'Breakout'"):
        editor.save_preset("Breakout")
    shaped = editor._shape
    dear = LadderEditor(walk("64000", "0.1"), entries=20, name="dear")
    try:
        write(dear, "side", "sell")
        dear.preset("mine <b>")
        assert dear.order is not None, dear.problems
        assert dear.order.direction == -1
        assert dear.order.entry.kind == "limit"
        assert shaped.levels[0] is not None
        mine, theirs = shaped.levels[0] / shaped.entry - 1, dear._shape.levels[0] / dear._shape.entry - 1  # type: ignore[operator]
        assert float(theirs) == pytest.approx(-float(mine), abs=2e-4)
        file.write_text('{"mine <b>": {"fields": 3}}')
        with pytest.raises(so.DataError, match="damaged"):
            dear.preset("mine <b>")
    finally:
        dear.close()


# ---------------------------------------------------------------------------------------------------- reckoning


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize("basis", ["initial", "remaining"])
@pytest.mark.parametrize("size", ["quantity", "cost", "risk"])
def test_risk_and_reward_are_what_a_replay_earns(side: str, basis: str, size: str) -> None:
    """The whole ladder filled, and the stop: to the cent what the engine books, fees and slippage and all."""
    turn = Side(side == "buy")
    instrument = market(increment="0.0001")
    fills = so.FillModel(fee_taker="0.1%", fee_maker="0.02%", slippage="0.05%", touch=True)
    order = so.SmartOrder(
        symbol=instrument.symbol,
        side=side,
        **{size: {"quantity": 10, "cost": 1000, "risk": 50}[size]},
        entry=so.Entry.limit(100),
        size_basis=basis,
        take_profits=[
            so.TakeProfit(target=turn.price(104), size=40, kind="limit"),
            so.TakeProfit(target=turn.distance(8), size=50),
            so.TakeProfit(target=turn.price(110), size=10 if basis == "initial" else 100, kind="limit"),
        ],
        stop_loss=turn.distance(-5),
    )
    draft = Draft.of(order)
    won = ticks_of([float(turn.price(p)) for p in (100, 104, 108, 110, 110)], instrument)
    lost = ticks_of([float(turn.price(p)) for p in (100, 99, 95, 95)], instrument)
    around = Market.of(won)
    found = drafts.shape(draft, around, fills)
    out = drafts.outlook(draft, found, fills)
    assert out.runner == 0
    earned = so.replay(order, won, fills=fills).orders
    assert earned["status"].to_list() == ["CLOSED"]
    assert out.quantity == pytest.approx(float(found.quantity or 0))
    assert out.money == pytest.approx(float(earned["realized_pnl"][0]), abs=0.02)
    paid = so.replay(order, lost, fills=fills).orders
    assert paid["status"].to_list() == ["STOPPED"]
    assert out.risk == pytest.approx(-float(paid["realized_pnl"][0]), abs=0.02)
    assert out.r == pytest.approx(out.money / out.risk)  # type: ignore[operator]
    assert out.win_rate is not None
    assert out.win_rate * out.money - (1 - out.win_rate) * out.risk == pytest.approx(0, abs=1e-9)  # type: ignore[operator]
    assert sum(level.money for level in out.levels if level is not None and level.money is not None) == pytest.approx(
        out.money
    )


def test_the_tightest_stop_is_the_risk_and_without_one_there_is_no_r(editor: LadderEditor) -> None:
    wide = editor.outlook.risk
    assert wide is not None
    editor._switches["trailing_stop"].value = True
    write(editor, "trailing_stop.callback_rate", "0.1%")
    assert editor.outlook.risk is not None
    assert editor.outlook.risk < wide / 2
    for name in ("trailing_stop", "stop_loss"):
        editor._switches[name].value = False
    assert editor.settle()
    assert editor.outlook.risk is None
    assert editor.outlook.r is None
    assert "Without a stop there is no R." in editor._reward.value
    assert "taker 0.1 %" in editor._reward.value


@pytest.mark.parametrize("up", [1, -1])
@pytest.mark.parametrize("activation", [None, 0.004])
def test_the_path_of_the_trailing_stop_is_that_of_every_tick(up: int, activation: float | None) -> None:
    noise = np.cumsum(np.random.default_rng(3).normal(0, 0.0002, 1500))
    way = np.interp(np.arange(1500), [0, 300, 900, 1500], [0, 0, 0.02, -0.01])
    ticks = ticks_of((100 * np.exp(up * (way + noise))).round(2), market())
    text = "" if activation is None else f"{100 * up * activation:+g}%"
    fields = {**DEFAULTS, "side": "buy" if up > 0 else "sell", "symbol": ticks.symbol}
    fields |= {"trailing_stop.callback_rate": "0.5%", "trailing_stop.activation": text}
    draft = Draft(fields, frozenset({"trailing_stop"}))
    around = Market.of(ticks)
    begin = 300
    ts, price = drafts.trail_path(ticks, draft, drafts.shape(draft, around, FEES), around, int(ticks.ts[begin]))
    prices = [float(ticks.instrument.price(int(unit))) for unit in ticks.view().price]
    armed, mark, stops = activation is None, prices[begin], dict[int, float]()
    needed = prices[begin] * (1 + up * (activation or 0))
    for moment, now in zip(ticks.ts[begin:].tolist(), prices[begin:], strict=True):
        if not armed and up * now >= up * needed - 1e-9:
            armed, mark = True, now
        if not armed:
            continue
        if up * now <= up * mark * (1 - up * 0.005) + 1e-9:
            break
        mark = max(mark, now) if up > 0 else min(mark, now)
        stops[moment] = mark * (1 - up * 0.005)
    assert len(ts) > 2
    assert int(ts[-1]) == moment
    steps = dict(zip(ts[:-1].tolist(), price[:-1].tolist(), strict=True))
    drawn, expected = 0.0, 0.0
    for moment, value in stops.items():
        drawn, expected = steps.get(moment, drawn), value
        assert drawn == pytest.approx(expected, rel=1e-3)


# ---------------------------------------------------------------------------------------------------- odds


class Gate:
    """Holds the thread on which odds are reckoned, and counts what is reckoned."""

    def __init__(self, editor: LadderEditor, monkeypatch: pytest.MonkeyPatch):
        self.open = threading.Event()
        self.asked: list[so.SmartOrder] = []
        real = Record.of

        def of(record: Record, order: so.SmartOrder, reference: Any = None) -> Any:
            self.asked.append(order)
            return real(record, order, reference)

        monkeypatch.setattr(Record, "of", of)
        editor._hub.ask(self.open.wait)


def test_of_many_moves_only_the_newest_is_reckoned(editor: LadderEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    """And while it is reckoned, everything else goes on."""
    gate = Gate(editor, monkeypatch)
    start = line(editor, "stop")["price"]
    for n in range(1, 101):
        editor._do(editor._dropped, "stop", start - 0.01 * n)
        assert editor._shape.stop == Decimal(f"{start - 0.01 * n:.2f}")
    newest = editor.order
    editor._inputs["tag"].value = "typed while it reckons"
    editor._do(lambda: None)
    assert editor.order is not None
    assert editor.order.tag == "typed while it reckons"
    assert gate.asked == []
    gate.open.set()
    assert editor.settle()
    assert gate.asked == [editor.order]
    assert newest is not None
    assert editor.odds is not None


def test_what_the_record_refuses_is_said(editor: LadderEditor, ticks: so.Ticks) -> None:
    assert editor.order is not None
    last = editor._market.last
    editor.order = editor.order.replace(take_profits=[(last - 1, 100)], stop_loss=last - 2, break_even=None)
    assert editor.settle()
    assert editor._view.state == "failed"
    assert "must be above the price now" in editor._view.note
    editor.measure_from(last - Decimal("1.5"))
    assert editor.settle()
    assert editor._view.state == "ready"
    assert editor._shape.entry == last - Decimal("1.5")
    with pytest.raises(so.SpecError, match="price = 'x'"):
        editor.measure_from("x")


def test_other_ticks_are_taken_over_with_the_order(editor: LadderEditor, ticks: so.Ticks) -> None:
    order, first = editor.order, editor.odds
    editor.set_ticks(ticks.slice(0, 1000))
    assert editor.settle()
    assert editor.order == order
    assert editor.odds != first
    assert editor.odds == Record(ticks.slice(0, 1000), 200, FEES).of(order)
    assert editor._market.last == ticks.instrument.price(int(ticks.price[999]))


# ---------------------------------------------------------------------------------------------------- life


def test_closing_leaves_nothing(ticks: so.Ticks) -> None:
    before = {*_instances()}
    editor = LadderEditor(ticks, entries=20)
    assert editor.settle()
    editor._do(editor._pressed, "add")
    assert len({*_instances()} - before) > 100
    editor.close()
    assert {*_instances()} - before == set()
    editor.close()
    assert "closed" in repr(editor)
    with pytest.raises(so.DataError, match="this editor is closed"):
        editor.undo()


def _instances() -> dict[str, Any]:
    from ipywidgets.widgets import widget

    return dict(widget._instances)


def test_an_editor_made_again_closes_the_one_before(ticks: so.Ticks) -> None:
    first = LadderEditor(ticks, entries=20)
    other = LadderEditor(ticks, entries=20, name="another")
    second = LadderEditor(ticks, entries=20)
    assert first._hub.closed
    assert not other._hub.closed
    for editor in (other, second):
        editor.close()


def test_a_page_without_a_kernel_shows_what_it_was(editor: LadderEditor) -> None:
    bundle = editor._repr_mimebundle_()
    assert bundle is not None
    assert "application/vnd.jupyter.widget-view+json" in bundle
    html = bundle["text/html"]
    assert str(editor.order) in html
    assert "<img alt=" in html
    assert "Odds:" in html
    assert "<script" not in html
    assert "<style" not in html
    assert bundle["text/plain"] == repr(editor)


# ---------------------------------------------------------------------------------------------------- the browser


MOUNT = """
async ([code, state]) => {
  const url = "data:text/javascript;base64," + code;
  const part = (await import(url)).default;
  const heard = {}, sent = [];
  const model = {
    get: (name) => state[name], send: (message) => sent.push(message),
    on: (name, fn) => { (heard[name] ??= []).push(fn); }, off: (name, fn) => { heard[name] = (heard[name] || []).filter((f) => f !== fn); },
  };
  const el = document.querySelector("#place");
  window.part = { state, sent, heard, set: (more) => { Object.assign(state, more);
    for (const name of Object.keys(more)) for (const fn of heard["change:" + name] || []) fn(); } };
  window.part.end = part.render({ model, el });
}
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api")
    from browser import chromium as found
    from browser import needs_browser

    needs_browser()
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found(), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Any) -> Iterator[Any]:
    context = chromium.new_context()
    context.route("http*://**", lambda route: route.abort())
    made = context.new_page()
    made.wrong = []
    made.on("pageerror", lambda error: made.wrong.append(str(error)))
    yield made
    assert made.wrong == []
    context.close()


def mount(page: Any, kind: type, state: dict[str, Any], around: str = "<div id='place'></div>") -> None:
    page.set_content(around)
    page.evaluate(MOUNT, [base64.b64encode(str(kind._esm).encode()).decode(), state])  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def two_odds(ticks: so.Ticks) -> tuple[dict[str, Any], dict[str, Any]]:
    record = Record(ticks, 300, FEES)
    order = so.SmartOrder(
        symbol=ticks.symbol, side="buy", cost=100, take_profits=[("+0.5%", 60), ("+1%", 40)], stop_loss="-0.7%"
    )
    return record.of(order).to_dict(), record.of(order.replace(stop_loss="-1.5%")).to_dict()


def test_the_picture_shows_the_odds_and_those_before(page: Any, two_odds: Any) -> None:
    now, before = two_odds
    state = {"theme": "light", "look": "", "now": now, "before": {}, "state": "ready", "note": ""}
    mount(page, OddsView, state)
    place = page.locator("#place section")
    rows = place.locator("tr[data-row]")
    assert rows.first.locator("th").inner_text() == "TP1 fills"
    assert rows.first.locator(".share").inner_text() == f"{100 * now['levels'][0]:.0f} %"
    assert place.locator("[data-row=stops] .share").inner_text() == f"{100 * now['stops']:.0f} %"
    assert place.locator("svg rect").count() == sum(count > 0 for count in now["counts"])
    assert place.locator("svg path.ghost").count() == 0
    mean = place.locator("[data-figure^=Expectancy]").inner_text()
    assert f"{abs(100 * now['expectancy']):.2f} %" in mean
    assert ("−" if now["expectancy"] < 0 else "+") in mean
    assert "In-sample record" in place.inner_text()
    name = place.locator("figure").get_attribute("aria-label")
    assert "Distribution of" in name
    assert f"{now['finished']}" in name

    page.evaluate("before => window.part.set({ before })", before)
    page.wait_for_function("() => document.querySelector('#place > div').shadowRoot.querySelector('path.ghost')")
    change = 100 * (now["stops"] - before["stops"])
    assert abs(float(place.locator("[data-row=stops] .change").inner_text().replace("−", "-")) - change) < 0.51
    assert place.locator("[data-row=stops] .bar b").count() == 1
    assert "was " in place.locator("[data-figure^=Expectancy]").inner_text()

    page.evaluate("() => window.part.set({ state: 'failed', note: '<img src=x onerror=alert(1)>' })")
    page.wait_for_function(
        "() => document.querySelector('#place > div').shadowRoot.querySelector('.says').textContent.includes('<img')"
    )
    assert place.locator("img").count() == 0
    assert place.evaluate("node => node.classList.contains('stale')")
    assert page.evaluate("() => document.querySelector('#place > div').dataset.lmSuppressShortcuts") == "true"
    page.evaluate("() => window.part.end()")
    assert page.evaluate("() => Object.values(window.part.heard).flat().length") == 0


def test_the_picture_of_nothing_says_so(page: Any) -> None:
    state = {"theme": "dark", "look": "", "now": {}, "before": {}, "state": "empty", "note": ""}
    mount(page, OddsView, state)
    assert "A valid order is tried here" in page.locator("#place section").inner_text()
    page.evaluate("() => window.part.set({ state: 'working' })")
    page.wait_for_function(
        "() => document.querySelector('#place > div').shadowRoot.textContent.includes('from thousands of entries …')"
    )
    assert page.locator("#place section").get_attribute("aria-busy") == "true"
    nothing = {"orders": 5, "entered": 0, "finished": 0, "levels": [None], "level_intervals": [None], "edges": []}
    nothing |= dict.fromkeys(("stops", "trails", "evens", "holds", "others", "expectancy", "low", "high", "median"))
    nothing |= dict.fromkeys(("win_rate", "hold_median_ns", "effective")) | {"counts": [], "ambiguous": 0}
    page.evaluate("now => window.part.set({ now, state: 'ready' })", nothing)
    page.wait_for_function("() => document.querySelector('#place > div').shadowRoot.textContent.includes('5 entries')")
    assert "NaN" not in page.locator("#place section").inner_text()


def test_the_keys_of_undo_and_the_groups_of_buttons(page: Any) -> None:
    around = """<div class="sol-panel"><div id="place"></div><input id="field">
      <div class="widget-toggle-buttons sol-sides"><button class="mod-active">Buy</button><button>Sell</button></div></div>"""
    mount(page, Keys, {"sheet": "", "groups": {"sol-sides": "Side"}}, around)
    field = page.locator("#field")
    for keys in ("Control+z", "Control+Shift+z", "Control+y", "Meta+z", "z", "Control+a"):
        field.press(keys)
    assert page.evaluate("() => window.part.sent") == [{"undo": True}, {"redo": True}, {"redo": True}, {"undo": True}]
    group = page.get_by_role("group", name="Side")
    assert group.get_by_role("button", name="Buy", pressed=True).count() == 1
    page.evaluate("() => document.querySelectorAll('button').forEach((b) => b.classList.toggle('mod-active'))")
    group.get_by_role("button", name="Sell", pressed=True).wait_for()
    page.evaluate("() => window.part.end()")
    field.press("Control+z")
    assert len(page.evaluate("() => window.part.sent")) == 4


@pytest.mark.parametrize("text", ["1e9999999%", "-1e9999999%", "1E+99999999999999999", "9" * 500 + "%"])
@pytest.mark.parametrize(
    "path", ["stop_loss.target", "trailing_stop.callback_rate", "break_even.offset", "take_profits[1].target"]
)
def test_a_number_that_cannot_be_reckoned_with_is_a_problem_of_its_field(path: str, text: str) -> None:
    order = so.SmartOrder(
        symbol="BTC/USDT", side="buy", quantity=1, take_profits=[("+1%", 50), ("+2%", 50)], stop_loss="-2%",
        trailing_stop="1%", break_even=True,
    )  # fmt: skip
    made, problems = Draft.of(order).set(path, text).order(so.Instrument(symbol="BTC/USDT"))
    assert made is None
    assert [problem.path for problem in problems] == [path]


def test_a_weekend_in_the_ticks_counts_in_the_odds() -> None:
    """What opens beyond the stop is sold there, and what is held over the weekend has been held that long."""
    second, day = 10**9, 86_400 * 10**9
    friday = 10**18 + second * np.arange(100)
    ts = np.append(friday, friday + 3 * day)
    price = np.append(np.full(100, 100.0), np.full(100, 90.0))
    steps = {"price_increment": "0.01", "quantity_increment": "0.001"}
    ticks = so.Ticks.from_arrays(ts, price, instrument=so.Instrument(symbol="BTC/USDT", **steps), unit="ns")
    order = so.SmartOrder(symbol="BTC/USDT", side="buy", quantity=1, stop_loss="-2%")
    odds = so.Record(ticks, np.arange(100)).of(order)
    assert (odds.finished, odds.stops) == (100, 1.0)
    assert odds.expectancy == pytest.approx(-0.1)
    assert odds.hold_median_ns is not None
    assert 2.9 * day < odds.hold_median_ns < 3.1 * day
    timed = so.Record(ticks, np.arange(100)).of(order.replace(stop_loss="-50%", max_hold="1h"))
    assert timed.expectancy == pytest.approx(-0.1), "an hour ends with the first tick after it"
