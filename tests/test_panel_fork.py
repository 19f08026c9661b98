"""What if: an order of a session, of one in another process, or of a run, lived through again as another one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

import smartorders_lab as so
from smartorders_lab.serve import Server, discovery_path

pytest.importorskip("anywidget")

from smartorders_lab.actions import Kind
from smartorders_lab.life import Course, kept, life_of, seen
from smartorders_lab.panel.fork import Fork, did, rows_of, table_html

BTC = so.Instrument(symbol="BTC/USDT", price_increment="0.01", quantity_increment="0.001")
BEGIN, STEP = 10**18, 10**9
FEES = {"fee_taker": "0.1%"}


def ticks_of(prices: Any) -> so.Ticks:
    ts = BEGIN + STEP * np.arange(len(prices), dtype=np.int64)
    return so.Ticks.from_arrays(ts, np.asarray(prices, float), instrument=BTC, unit="ns")


def walk(count: int = 12_000, seed: int = 3) -> so.Ticks:
    steps = np.random.default_rng(seed).normal(0, 0.0005, count)
    return ticks_of((100 * np.exp(np.cumsum(steps))).round(2))


def order(**changes: Any) -> so.SmartOrder:
    given: dict[str, Any] = {"symbol": "BTC/USDT", "side": "buy", "quantity": 1}
    given |= {"take_profits": [("+1%", 40), ("+2%", 30), ("+4%", 30)], "stop_loss": "-2%", "break_even": True}
    return so.SmartOrder(**given | changes)


UP = ticks_of([100, 100.5, 101.2, 101.5, 102.5, 102.2, 99.9, 97.5, 97.0, 96.0])
"""TP1 at 101, TP2 at 102, then back through the entry and the stop."""


def quick(ticks: so.Ticks) -> Any:
    return so.recorded(ticks, speed=None, paused=True)


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """Every test ends the threads that it began."""
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith(("panel", "session"))]


def placed(session: so.Session, ticks: so.Ticks, at: int, what: so.SmartOrder | None = None) -> int:
    """An order in the middle of the ticks, with another one before it."""
    session.place(order())
    session.feed.play(at)  # type: ignore[attr-defined]
    session.wait()
    return session.place(what or order())


def went_on(session: so.Session, until: int | None = None) -> None:
    session.feed.play(until)  # type: ignore[attr-defined]
    session.wait()


# ------------------------------------------------------------------------------------------------------- the life


@pytest.mark.parametrize("in_a_store", [False, True])
@pytest.mark.parametrize("poll", [None, "5s"])
def test_the_same_order_goes_the_same_way(tmp_path: Path, in_a_store: bool, poll: str | None) -> None:
    ticks = walk()
    how = {"store": tmp_path / "lab.duckdb" if in_a_store else None, "fills": FEES, "poll_interval": poll}
    with so.paper(feed=quick(ticks), **how) as session:
        number = placed(session, ticks, 3000, order(stop_loss="-4%", trailing_stop="3%"))
        went_on(session, 3050)
        session.edit(number, take_profits=[("+0.8%", 50), ("+3%", 50)])
        session.add_funds(number, quantity="0.5")
        went_on(session, 9000)
        life = life_of(session, number)
        real, told = life.course, session.order(number)
        assert real is not None
        assert (len(life.actions), life.whole, life.notes) == (2, True, ())
        assert len(life.ticks) == 6000
        assert np.array_equal(life.ticks.price, ticks.price[3000:9000])
        assert real.realized == float(told["realized_pnl"])
        run = life.again(life.order, keep=True)
        row = run.orders.row(0, named=True)
        assert row["realized_pnl"] == pytest.approx(real.realized, rel=1e-12)
        theirs = session.events(number).select("ts", "kind", "role", "level", "price", "quantity", "stop", "water_mark")
        assert run.events.select(theirs.columns).equals(theirs)


def test_a_changed_order_goes_another_way() -> None:
    with so.paper(feed=quick(UP)) as session:
        number = session.place(order())
        went_on(session)
        life = life_of(session, number)
        real = life.course
        assert real is not None
        assert [(f["role"], f["price"]) for f in real.fills] == [
            ("entry", 100.0),
            ("take_profit", 101.2),
            ("take_profit", 102.5),
            ("break_even", 99.9),
        ]
        wide = life.again(order(break_even=None), keep=True)
        assert wide.orders["exit_reason"][0] == "stop_loss"
        assert wide.orders["realized_pnl"][0] == pytest.approx(0.4 * 1.2 + 0.3 * 2.5 + 0.3 * -2.5)
        stop = real.stop
        assert stop[1].tolist()[0] == 98.0
        assert 100.0 in stop[1].tolist()
        assert stop[0][-1] == BEGIN + 6 * STEP


def test_what_was_done_by_hand_is_done_again_or_not() -> None:
    with so.paper(feed=quick(UP)) as session:
        number = session.place(order(stop_loss="-3%", break_even=None))
        went_on(session, 3)
        session.add_funds(number, quantity=1)
        session.edit(number, stop_loss="-1%", break_even=True)
        went_on(session, 5)
        session.close_at_market(number)
        went_on(session)
        life = life_of(session, number)
        assert did(life.actions) == "funds added, edited, closed at market"
        assert life.again(life.order, keep=True).orders["exit_reason"][0] == "close_at_market"
        assert life.again(life.order, keep=False).orders["exit_reason"][0] == "stop_loss"
        changed = life.order.replace(stop_loss="-5%")
        actions = kept(life.order, changed, life.actions)
        edit = next(action for action in actions if action.kind == "edit")
        assert edit.changes.keys() == {"break_even"}  # what is set by hand in the fork is not edited away


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_action_has_words(kind: str) -> None:
    needs = {"add_funds": {"quantity": 1}, "reduce_funds": {"quantity": 1}, "take_profit": {"level": 1}}
    needs["edit"] = {"changes": {"stop_loss": 90}}
    assert did((so.Action(kind=kind, at=0, **needs.get(kind, {})),) * 2).endswith(" 2 times")


def test_an_edit_of_nothing_but_what_is_changed_is_left_out() -> None:
    was, now = order(), order(stop_loss="-5%")
    assert kept(was, now, (so.edit(3, at=BEGIN, stop_loss="-1%", version=4),)) == []
    [action] = kept(was, was, (so.edit(3, at=BEGIN, stop_loss="-1%", version=4),))
    assert (action.order, action.version, action.changes) == (0, None, {"stop_loss": "-1%"})


def test_a_run() -> None:
    ticks = walk()
    actions = [so.add_funds(1, at=int(ticks.ts[4000]), quantity=1)]
    run = so.replay([order(), order(side="sell", take_profits=[("-1%", 100)], stop_loss="+2%", break_even=None)], ticks,
                    starts=[0, 3000], fills=FEES, actions=actions)  # fmt: skip
    for number in (0, 1):
        life = life_of(run, number)
        again = life.again(life.order, keep=True)
        assert again.orders["realized_pnl"][0] == run.orders["realized_pnl"][number]
        assert life.course is not None
        assert life.course.total == pytest.approx(again.orders["realized_pnl"][0] + life.course.unrealized)
    with pytest.raises(so.ActionError, match="this run has 2"):
        life_of(run, 2)
    run.ticks = None
    with pytest.raises(so.DataError, match="give them"):
        life_of(run, 0)
    assert life_of(run, 0, ticks).course is not None


def test_a_living_order_counts_with_the_latest_price() -> None:
    with so.paper(feed=quick(UP)) as session:
        number = session.place(order(break_even=None))
        went_on(session, 6)
        course = life_of(session, number).course
        assert course is not None
        assert course.unrealized == pytest.approx(0.3 * 2.2)
        assert course.held == pytest.approx(0.3)
        assert course.stop[0][-1] == BEGIN + 5 * STEP  # to the latest tick


def test_after_the_journal_was_compacted(tmp_path: Path) -> None:
    """Ticks then come from where they were kept, or from the recording; and what was done by hand is said to be unknown."""
    ticks = walk()
    for folder in (tmp_path / "ticks", None):
        with so.paper(
            feed=quick(ticks), store=tmp_path / f"{folder is None}.duckdb", keep_ticks=folder, outlier=None
        ) as session:
            number = placed(session, ticks, 2000, order(stop_loss="-9%", take_profits=[("+9%", 100)], break_even=None))
            went_on(session, 3000)
            session.add_funds(number, quantity=1)
            went_on(session, 4000)
            for upto in (5000, 6000, 7000):
                session.compact()
                went_on(session, upto)
            life = life_of(session, number)
            assert np.array_equal(life.ticks.price, ticks.price[2000:7000])
            assert not life.whole
            assert "not known" in life.notes[-1]


def test_without_ticks_it_says_how_to_give_them() -> None:
    with so.paper(feed=quick(UP)) as session:
        number = session.place(order())
        with pytest.raises(so.DataError, match="seen none of 'BTC/USDT' yet"):
            life_of(session, number)
        assert seen(session, "BTC/USDT") is None
        assert seen(session, "ETH/USDT") is None
        with pytest.raises(so.ActionError, match="no such order"):
            life_of(session, 7)
        went_on(session, 4)
        found = seen(session, "BTC/USDT")
        assert found is not None
        assert len(found) == 4


def test_a_session_of_another_process(tmp_path: Path) -> None:
    """Its state, its events and its last ticks come over its stream; older ticks have to be given, and its fees."""
    store = tmp_path / "lab.duckdb"
    ticks = walk()
    with (
        so.paper(feed=quick(ticks), store=store, fills=FEES) as session,
        Server(session, discovery=discovery_path(store)),
    ):
        number = placed(session, ticks, 3000)
        went_on(session, 9000)
        with so.connect(store) as remote:
            assert np.array_equal(life_of(remote, number).ticks.price, ticks.price[3000:9000])
            life = life_of(remote, number, ticks, so.FillModel(**FEES))
            here = life_of(session, number)
            assert (life.created, life.order, life.whole, life.notes) == (here.created, here.order, True, ())
            assert life.course is not None
            assert here.course is not None
            assert life.course.realized == here.course.realized
            assert [f["price"] for f in life.course.fills] == [f["price"] for f in here.course.fills]
            assert "fees and slippage" in life_of(remote, number, ticks).notes[0]
            with pytest.raises(so.ActionError, match="no such order"):
                life_of(remote, 9, ticks)


# ------------------------------------------------------------------------------------------------------- the table


def test_the_table_says_both_and_the_difference() -> None:
    real = Course("STOPPED", "stop_loss", 100.0, -2.0, 0.0, 0.2, 0.0, 90 * STEP, [])
    other = Course("ACTIVE", None, 100.0, 0.5, 1.0, 0.2, 1.0, 7200 * STEP, [])
    rows = {what: cells for what, *cells in rows_of(real, other)}
    assert rows["Outcome"] == ["stopped: stop loss", "active", ""]
    assert rows["Profit and loss"] == ["-2", "+1.5", "+3.5"]
    assert rows["of it still open"] == ["–", "+1", ""]
    assert rows["Fees"] == ["0.2", "0.2", "the same"]
    assert rows["Held for"] == ["1.5 min", "2 h", "+1.98 h"]
    assert {cells[1] for _, *cells in rows_of(real, None)} == {"–"}


def test_nothing_in_the_table_is_markup() -> None:
    html = table_html(Course("<b>", "<script>", None, 0, 0, 0, 0, None, []), None)
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


# ------------------------------------------------------------------------------------------------------- the widget


def test_the_fork_follows_its_editor() -> None:
    with so.paper(feed=quick(UP)) as session:
        number = session.place(order(tag="<img src=x onerror=alert(1)>"))
        went_on(session)
        fork = Fork(session, number, entries=20)
        try:
            assert fork.settle()
            assert fork.difference == 0
            assert fork.order == fork.life.order
            fork.editor.order = fork.life.order.replace(break_even=None)
            assert fork.editor.settle()
            assert fork.settle()
            assert fork.result.orders["exit_reason"][0] == "stop_loss"
            assert fork.difference == pytest.approx(0.3 * (97.5 - 99.9))
            table = {row["what"]: row for row in fork.comparison}
            assert table["Exits"]["real"] == "TP1 101.2, TP2 102.5, break even 99.9"
            assert table["Exits"]["changed"] == "TP1 101.2, TP2 102.5, stop loss 97.5"
            words = {mark["text"].partition(":")[0] for mark in fork.chart.marks}
            assert words == {"real", "what if"}
            assert "<img" not in "".join(child.value for child in fork.children if hasattr(child, "value") and
                                         isinstance(child.value, str))  # fmt: skip
        finally:
            fork.close()


def test_distances_are_measured_from_where_it_was_entered() -> None:
    with so.paper(feed=quick(UP)) as session:
        number = session.place(order())
        went_on(session)
        fork = Fork(session, number, entries=20)
        try:
            stop = next(line for line in fork.chart.lines if line["id"] == "stop")
            assert stop["price"] == 98.0  # 2 % below 100, and not below the latest price
        finally:
            fork.close()


def test_running_it_again_closes_the_one_before() -> None:
    run = so.replay(order(), UP)
    first = Fork(run, 0, entries=20)
    second = Fork(run, 0, entries=20)
    assert first.hub.closed
    assert not second.hub.closed
    second.close()
    second.close()


def test_a_fork_and_a_terminal_say_what_they_are() -> None:
    with so.paper(feed=quick(UP), name="ladders") as session:
        number = session.place(order(tag="<i>"))
        went_on(session)
        fork, terminal = Fork(session, number, entries=20), so.Terminal(session, UP, entries=20)
        try:
            assert fork.settle()
            assert terminal.settle()
            assert repr(fork).startswith("<Fork of order 0: buy 1 BTC/USDT market tp +1%:40")
            assert repr(fork).endswith("+0 USDT>")
            assert repr(terminal).startswith("<Terminal ladders, paper: buy cost 1000 BTC/USDT")
            assert "Board('ladders', paper, ended, 1 order, 0 living)" in repr(terminal)
            for one in (fork, terminal):
                assert "\n" not in repr(one)
                told = one._repr_mimebundle_()
                told = told[0] if isinstance(told, tuple) else told
                assert "<i>" not in told["text/html"]
                assert "data:image/svg+xml" in told["text/html"]
            assert "trailing stop" not in fork.chart._drawn_paths, "that is of an entry at the latest ticks"
        finally:
            fork.close()
            terminal.close()


def test_the_table_has_the_digits_of_the_market() -> None:
    fills = [{"role": "take_profit", "level": 0, "price": p, "quantity": q} for p, q in ((101.23, 1), (101.24, 2))]
    real = Course("CLOSED", "take_profit", 100.123456789, 1234.56789, 0.0, 0.123456789, 0.0, 90 * STEP, fills)
    rows = {what: cells for what, *cells in rows_of(real, None, 2)}
    assert rows["Entry"][0] == "100.12"
    assert rows["Exits"][0] == "TP1 101.24"
    assert (rows["Profit and loss"][0], rows["Fees"][0]) == ("+1,234.57", "0.1235")


def test_an_order_is_shared_if_it_opens() -> None:
    with so.paper(feed=quick(UP)) as session:
        exits = {"stop_loss": 98, "take_profits": [(101, 40), (102, 30), (110, 30)]}
        number = session.place(order(entry=so.Entry.limit(100), **exits))
        went_on(session, 5)
        assert so.SmartOrder.from_link(session.share(number)) == order(entry=so.Entry.limit(100), **exits)
        session.edit(number, stop_loss=101)
        words = r"order 0: cannot be shared as it stands.*stop_loss.target = '101': must be below the entry 100.*Fork"
        with pytest.raises(so.ActionError, match=words):
            session.share(number)
        fork = Fork(session, number, entries=20)
        assert so.SmartOrder.from_link(fork.editor.link or "").stop_loss == so.StopLoss(target=98), "the way out"
        fork.close()
