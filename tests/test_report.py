"""The tear sheet: one page that loads nothing, says what the run says, and takes no orders from tags."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import smartorders_lab as so
from smartorders_lab import metrics
from smartorders_lab.report import MEANINGS, ROWS

SAMPLE = Path(__file__).parent.parent / "data" / "sample_trades.parquet"
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"
ORDER = so.SmartOrder(
    symbol="SOL/USDT",
    side="buy",
    quantity=10,
    take_profits=[("+0.5%", 40), ("+1%", 35), ("+2%", 25)],
    stop_loss="-0.8%",
    trailing_stop="1%",
    tag=EVIL,
)
LIBRARY = re.compile(r"<script[^>]*>/\*\*\s*\* plotly\.js v.*?</script>", re.S)


class Reader(HTMLParser):
    """Tags with their attributes, table rows as lists of cells, and the text outside of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.stack: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "link", "br"):
            self.stack.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, "every element is closed in its turn"

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.text += data
        if self.stack and self.stack[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def sample() -> so.Ticks:
    return so.Ticks.read(SAMPLE, symbol="SOL/USDT")


@pytest.fixture(scope="module")
def run(sample: so.Ticks) -> so.Run:
    starts = list(range(0, 59_000, 590))
    fills = so.FillModel(fee_taker="0.02%", latency="35ms", touch=True)
    return so.replay([ORDER] * 100, sample, starts=starts, fills=fills, name=f"night {EVIL}")


@pytest.fixture(scope="module")
def page(run: so.Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return run.report(tmp_path_factory.mktemp("page") / "run.html").read_text("utf-8")


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(LIBRARY.sub("", page))
    reader.close()
    assert reader.stack == []
    return reader


def test_it_loads_nothing(page: str) -> None:
    assert page.count("plotly.js v") == 1, "one library for all figures"
    outside = LIBRARY.sub("", page)
    assert len(outside) < 1_500_000
    assert not re.search(r"https?://|@import|url\(", outside)
    reader = read(page)
    assert not [
        (tag, kept)
        for tag, kept in reader.tags
        if {"src", "href", "srcset", "data", "action"} & kept.keys() or tag == "link"
    ]
    policy = next(kept["content"] for tag, kept in reader.tags if tag == "meta" and "http-equiv" in kept)
    assert policy is not None
    assert policy.startswith("default-src 'none';")


def test_what_users_wrote_stays_text(page: str) -> None:
    reader = read(page)
    assert EVIL in reader.text
    assert not [tag for tag, kept in reader.tags if tag == "img" or any(name.startswith("on") for name in kept)]
    assert "<script>alert" not in page
    assert "onerror=alert(1)>" not in page


def test_a_title_and_a_source_are_escaped(run: so.Run, tmp_path: Path) -> None:
    kept = dict(run.meta)
    run.meta.update(source=EVIL, warnings=[EVIL], symbol=EVIL)
    try:
        reader = read(run.report(tmp_path / "a.html", title=f"mine {EVIL}", examples=0).read_text("utf-8"))
    finally:
        run.meta.update(kept)
    assert not [tag for tag, _ in reader.tags if tag == "img"]
    assert f"mine {EVIL}" in reader.text
    assert reader.text.count(EVIL) >= 4


def test_it_says_what_the_run_says(run: so.Run, page: str) -> None:
    reader, numbers = read(page), metrics.summary(run)
    for name in ("realized_pnl", "fees", "max_drawdown"):
        assert f"{abs(numbers[name]):,.2f}" in reader.text
    assert f"{100 * numbers['win_rate']:.2f} %" in reader.text
    told = {row[0]: row[1] for row in reader.rows if len(row) == 3}
    assert {label for label, _ in MEANINGS.values()} <= told.keys()
    assert told["Finished"] == f"{numbers['finished']:,}"
    assert told["Profit factor"] == f"{numbers['profit_factor']:.3g}"
    assert told["Calmar ratio"] == "–", "a few days are not annualised"


def test_every_number_of_the_summary_is_on_the_page(run: so.Run) -> None:
    shown_elsewhere = {"equity", "level_hit_rate"}
    assert metrics.summary(run).keys() - shown_elsewhere == MEANINGS.keys()


def test_periods_best_and_worst_are_those_of_the_orders(run: so.Run, page: str) -> None:
    rows = read(page).rows
    days = [row for row in rows if len(row) == 6 and row[0] != "day"]
    table = metrics.by_period(metrics.bookings(run), run.orders, "1d")
    assert [row[4] for row in days] == [f"{n:,}" for n in table["finished"]]
    assert days[-1][3].lstrip("+−") == f"{abs(run.orders['realized_pnl'].sum()):,.2f}"
    ranked = metrics.done(run.orders).sort("realized_pnl", "order", descending=[True, False])["order"].to_list()
    listed = [int(row[0]) for row in rows if len(row) == 11 and row[0] != "order"]
    assert listed == ranked[:ROWS] + ranked[: -ROWS - 1 : -1]


def test_the_assumptions_are_all_there(run: so.Run, page: str) -> None:
    facts = {row[0]: row[1] for row in read(page).rows if len(row) == 2}
    assert facts["Fees"] == "maker 0 %, taker 0.02 %, taken in quote currency"
    assert facts["Latency"] == "35ms from trigger to arrival"
    assert facts["Limits"] == "a resting limit is filled when a tick trades at it"
    assert facts["Data hash"] == run.meta["data_hash"]
    assert facts["Path in a bar"] == "none needed: these are ticks"
    assert facts["100 orders"] == str(ORDER)


def test_bars_and_bounds_say_so(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"ts": range(0, 1800, 60), "open": 100.0, "high": 101.0, "low": 99.0, "close": [100.0, 100.5] * 15}
    )
    ticks = so.Ticks.from_bars(frame, symbol="BTC/USDT", unit="s")
    order = so.SmartOrder(symbol="BTC/USDT", side="buy", quantity=1, take_profits=[("+0.5%", 100)], stop_loss="-0.5%")
    run = so.replay(order, ticks, bounds=True, fills={"fee_currency": "base", "fee_taker": "1%"})
    text = run.report(tmp_path / "bars.html").read_text("utf-8")
    facts = {row[0]: row[1] for row in read(text).rows if len(row) == 2}
    assert facts["Path in a bar"] == "pessimistic: an assumption, not a bound"
    assert "lies between" in facts["Bounds"]
    assert facts["Ambiguous bars"].startswith("1 in which")
    assert "coins for buys of longs" in facts["Fees"]
    assert "marked to market at the close of every bar" in text


def test_without_ticks_it_says_what_is_missing(run: so.Run, sample: so.Ticks, tmp_path: Path) -> None:
    bare = so.Run(run.orders, run.levels, run.events, run.fills, run.specs, run.meta, id=run.id)
    text = bare.report(tmp_path / "bare.html").read_text("utf-8")
    assert "realized only: the run has no ticks with it" in text
    assert "No charts of single orders" in text
    assert "no. 1 of the best" not in text
    given = bare.report(tmp_path / "given.html", ticks=sample).read_text("utf-8")
    assert "no. 2 of the worst" in given
    with pytest.raises(so.DataError, match="are not those of the run"):
        bare.report(tmp_path / "foreign.html", ticks=sample.slice(0, 99))
    assert not (tmp_path / "foreign.html").exists()


def test_a_run_without_an_entry_is_a_page_too(sample: so.Ticks, tmp_path: Path) -> None:
    never = ORDER.replace(entry=so.Entry.limit(1), take_profits=(), stop_loss=0.5, trailing_stop=None)
    reader = read(so.replay(never, sample).report(tmp_path / "none.html").read_text("utf-8"))
    told = {row[0]: row[1] for row in reader.rows if len(row) == 3}
    assert (told["Win rate"], told["Capital"], told["Exposure"]) == ("–", "–", "0.00 %")
    assert "Best and worst" not in reader.text


def test_the_same_order_is_not_both_best_and_worst(sample: so.Ticks, tmp_path: Path) -> None:
    run = so.replay([ORDER] * 3, sample, starts=[0, 10_000, 20_000])
    rows = read(run.report(tmp_path / "three.html", examples=0).read_text("utf-8")).rows
    listed = [int(row[0]) for row in rows if len(row) == 11 and row[0] != "order"]
    assert sorted(listed) == [0, 1, 2]


def test_the_default_name_is_the_runs_id(run: so.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.report(examples=0) == Path(f"{run.id}.html")
    odd = so.Run(run.orders, run.levels, run.events, run.fills, run.specs, run.meta, id="../a b")
    assert odd.report() == Path(".._a_b.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".._a_b.html", f"{run.id}.html"])


def test_nothing_is_replaced_unasked(run: so.Run, tmp_path: Path) -> None:
    path = tmp_path / "run.html"
    path.write_text("mine")
    with pytest.raises(so.DataError, match=r"exists already; take another name, or pass overwrite=True"):
        run.report(path)
    assert path.read_text() == "mine"
    assert run.report(path, overwrite=True, examples=0) == path
    assert path.read_text("utf-8").startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("run.txt", {}, r"must be an .html file; write run.html"),
        ("missing/run.html", {}, r"missing does not exist; create it first"),
        ("run.html", {"examples": -1}, r"examples = -1: must be a whole number of at least 0"),
        ("run.html", {"examples": True}, r"examples = True: must be a whole number"),
        ("run.html", {"capital": 0}, r"capital = 0: must be above 0; leave it out"),
        ("run.html", {"points": 3}, r"points = 3: must be a whole number of at least 40"),
    ],
)
def test_refusals(run: so.Run, tmp_path: Path, path: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(so.DataError, match=message):
        run.report(tmp_path / path, **options)
    assert list(tmp_path.iterdir()) == []


def test_capital_is_what_percentages_are_of(run: so.Run, tmp_path: Path) -> None:
    reader = read(run.report(tmp_path / "c.html", capital=1_000_000, examples=0).read_text("utf-8"))
    told = {row[0]: row[1] for row in reader.rows if len(row) == 3}
    assert told["Capital"] == "1,000,000"
    expected = metrics.summary(run, capital=1_000_000.0)["return_on_capital"]
    assert told["Return"].lstrip("+−").removesuffix(" %") == f"{abs(100 * expected):.3g}"


def test_everything_says_what_it_is_in_one_line() -> None:
    """And what says how it is made makes the same again."""
    ticks = so.Ticks.from_arrays(10**18 + 10**9 * np.arange(500), np.full(500, 100.0), symbol="BTC/USDT", unit="ns")
    names = {name: getattr(so, name) for name in so.__all__}
    made = [
        so.FillModel(),
        so.FillModel(fee_taker="0.1%", latency="50ms"),
        so.Instrument(),
        ticks.instrument,
        so.edit(2, 10**18, stop_loss=96, break_even=True, force=True),
        so.add_funds(0, "2024-08-08T23:58Z", quantity="0.5", price=100),
        so.cancel(1, 10**18, version=3),
    ]
    for one in made:
        assert eval(repr(one), names) == one
        assert str(one) == repr(one)
    assert repr(made[4]) == "edit(2, '2001-09-09T01:46:40Z', force=True, stop_loss=96, break_even=True)"
    assert repr(ticks.index()).startswith("Index(500 ticks, ")
    feed = so.recorded(ticks, speed=60, paused=True)
    assert repr(feed) == "RecordedFeed(BTC/USDT 500 ticks, 60 times as fast as it was, paused)"
    with so.paper(feed=so.recorded(ticks, speed=None), balances={"USDT": 1000}) as session:
        assert repr(session.broker) == "PaperBroker(in memory, 0 child orders, 0 working, 1000 USDT)"


def test_orders_and_sessions_are_small_tables_without_markup() -> None:
    ticks = so.Ticks.from_arrays(10**18 + 10**9 * np.arange(50), np.full(50, 100.0), symbol="BTC/USDT", unit="ns")
    order = so.SmartOrder(
        symbol="BTC/USDT", side="buy", quantity=1, take_profits=[("+1%", 50)], stop_loss="-2%", tag="<b>mine</b>",
        trailing_stop=so.TrailingStop(callback_rate="2%", activation="+1%"), max_hold="2h",
    )  # fmt: skip
    html = order._repr_html_()
    with so.paper(feed=so.recorded(ticks, speed=None), name="<i>lab</i>") as session:
        assert "no orders yet" in session._repr_html_()
        for _ in range(22):
            session.place(order)
        session.wait(60)
        board = session._repr_html_()
    for text in (html, board, session._repr_html_()):
        assert "<b>" not in text
        assert "<i>" not in text
        assert "<style" not in text
        assert "&lt;b&gt;mine&lt;/b&gt;" in text
    assert "2%, activation +1%" in html
    assert "runner" in html
    assert "2 more: orders()" in board
    assert " · stopped · BTC/USDT 100" in session._repr_html_()
