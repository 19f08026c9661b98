"""The panel in a real browser, in JupyterLab and in Voila, with the network blocked: an order from an idea to its end.

Pictures of each step go to SMARTORDERS_SCREENSHOTS, where that is set.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import TOKEN, Browser, Lab, Page, Server, Voila, needs_browser, notebook, until

import smartorders_lab as so

STOCK = """
import anywidget, ipywidgets, traitlets
class Counter(anywidget.AnyWidget):
    _esm = '''
    export default { render({ model, el }) {
        const button = document.createElement('button');
        button.className = 'counter';
        const draw = () => { button.textContent = `count is ${model.get('count')}`; };
        button.onclick = () => { model.set('count', model.get('count') + 1); model.save_changes(); };
        model.on('change:count', draw);
        draw();
        el.append(button);
    } };
    '''
    count = traitlets.Int(0).tag(sync=True)
counter = Counter()
slider = ipywidgets.IntText(value=7, description='seven')
ipywidgets.VBox([slider, counter])
"""
HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
WIDE, NARROW = (1440, 2300), (620, 3600)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    needs_browser()
    with Browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    needs_browser()
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


# ------------------------------------------------------------------------------------------------------- the rig itself


def counts(page: Page) -> None:
    """A stock widget and one with a module of its own work, both ways."""
    button = page.wait(".counter")
    button.click()
    page.it.wait_for_function("() => document.querySelector('.counter').textContent === 'count is 1'")
    field = page.it.locator("input[type=number]").first
    field.fill("12")
    field.press("Tab")
    page.it.wait_for_function("() => document.querySelector('input[type=number]').value === '12'")


def test_the_rig_in_lab(browser: Browser, lab: Lab) -> None:
    page = browser.open(lab)
    page.notebook("stock.ipynb", [STOCK])
    page.run_all()
    counts(page)
    assert page.value("[counter.count, slider.value]") == [1, 12]
    page.theme("dark")
    page.theme("light")
    page.restart()
    assert page.value("'counter' in globals()") is False
    assert page.blocked == []
    assert page.errors == []
    page.close()


def test_the_rig_in_voila(browser: Browser, tmp_path: Path) -> None:
    with Voila(tmp_path, notebook(tmp_path / "stock.ipynb", [STOCK])) as voila:
        page = browser.open(voila)
        page.show()
        counts(page)
        assert page.value("[counter.count, slider.value]") == [1, 12]
        # its own template asks for a font of icons, which is why ours is another one: so the net is blocked, and it works without
        assert page.blocked
        assert all("fortawesome" in url for url in page.blocked), page.blocked
        page.close()


# ------------------------------------------------------------------------------------------------------- the tape

BTC = {"symbol": "BTC/USDT", "price_increment": "0.01", "quantity_increment": "0.001"}
BEGIN, SECOND = 1_767_225_600 * 10**9, 10**9
LATENCY = 5
"""Seconds between a trigger and its fill: what is yellow until it is green."""
ENTERED, NEAR, TOUCHED, FILLED, ALL = 10, 20, 26, 36, 120
"""Ticks of the tape up to which: it is entered; the price is near TP1; TP1 is triggered; TP1 is filled; there are no more."""


def history() -> so.Ticks:
    """What the odds are about: a walk that ends at 100, before the tape begins."""
    steps = np.random.default_rng(7).normal(0, 0.0004, 20_000)
    steps -= steps.mean()
    price = 100 * np.exp(np.cumsum(steps))
    ts = BEGIN - SECOND * np.arange(20_000, 0, -1)
    return so.Ticks.from_arrays(ts, (price * 100 / price[-1]).round(2), instrument=so.Instrument(**BTC), unit="ns")


def tape() -> so.Ticks:
    """One tick a second: 100, up to TP1 at 101 step by step, then 101.2 for good."""
    price = np.full(ALL, 101.2)
    price[:ENTERED] = 100
    price[ENTERED:NEAR] = 100.7
    price[NEAR : TOUCHED - 1] = 100.8
    price[TOUCHED - 1 : FILLED] = 101.0
    return so.Ticks.from_arrays(BEGIN + SECOND * np.arange(ALL), price, instrument=so.Instrument(**BTC), unit="ns")


def write(ticks: so.Ticks, path: Path) -> None:
    import polars as pl

    assert ticks.price is not None
    pl.DataFrame({"ts_ns": ticks.ts, "price": ticks.instrument.prices(ticks.price)}).write_parquet(path)


# ------------------------------------------------------------------------------------------------------- the story


class Story:
    """A page with a terminal, and the session behind it. `ask(code, before)`: in the page's kernel, where `terminal` is."""

    def __init__(self, page: Page, play: Callable[[int], None], order: Callable[[], dict[str, Any]], looks: str):
        from playwright.sync_api import expect

        expect.set_options(timeout=30_000)
        self.page, self.play, self.order, self.looks = page, play, order, looks
        self.expect = expect
        self.step = 0

    @property
    def root(self) -> Any:
        return self.page.it.locator(".sol-terminal").first

    @property
    def editor(self) -> Any:
        return self.root.locator(".sol-editor").first

    def ask(self, code: str, before: str = "") -> Any:
        return self.page.value(code, before)

    def spec(self) -> dict[str, Any] | None:
        """The order in the editor."""
        found: dict[str, Any] | None = self.ask(
            "None if terminal.editor.order is None else terminal.editor.order.to_dict()"
        )
        return found

    def until(self, condition: Callable[[], Any], why: str | Callable[[], Any] = "") -> Any:
        try:
            return until(condition, "" if callable(why) else why, 30)
        except AssertionError:
            raise AssertionError(why() if callable(why) else why) from None

    def look(self, name: str) -> None:
        """Pictures of a step, if anybody wants them."""
        self.step += 1
        if "SMARTORDERS_SCREENSHOTS" in os.environ:
            self.page.look(f"{self.looks}-{self.step:02d}-{name}")

    def named(self, role: str, name: str, **how: Any) -> Any:
        return self.root.get_by_role(role, name=name, exact=True, **how)

    def board_shows(self, text: str | re.Pattern[str]) -> None:
        self.expect(self.named("grid", "Orders")).to_contain_text(text)

    # ------------------------------------------------------------------------------------------------ its chapters

    def builds(self) -> None:
        """The order, typed and dragged."""
        editor = self.editor
        self.expect(editor.get_by_role("status").filter(has_text="valid").first).to_be_visible()
        editor.get_by_role("button", name="Prices", exact=True).click()
        editor.get_by_role("combobox", name="Size by").select_option("Quantity")
        for name, text in (
            ("TP3: price or distance", "106"),
            ("TP1: price or distance", "101"),
            ("TP2: price or distance", "102"),
            ("Stop", "98"),
            ("Amount", "2"),
        ):
            field = editor.get_by_role("textbox", name=name, exact=True)
            field.fill(text)
            field.press("Tab")
        editor.get_by_role("button", name="Advanced").click()
        tag = editor.get_by_role("textbox", name="Tag", exact=True)
        tag.fill(HOSTILE)
        tag.press("Tab")
        spec = self.until(lambda: (s := self.spec()) and s.get("tag") == HOSTILE and s, "the tag reaches the order")
        assert [level["target"] for level in spec["take_profits"]] == ["101", "102", "106"]
        assert (spec["quantity"], spec["stop_loss"]["target"]) == ("2", "98")
        assert self.ask("terminal.editor.settle()")
        self.look("built")

    def drags(self) -> None:
        """TP2 and the stop with the mouse: the fields, the order and the odds follow."""
        before = self.ask("[terminal.editor.odds.levels[1], terminal.editor.odds.stops]")
        shown = self.named("region", "Odds").inner_text()
        for line, field, dy in (("TP2, level", "TP2: price or distance", -40), ("Stop, stop", "Stop", 25)):
            box = self.editor.get_by_role("textbox", name=field, exact=True)
            old = box.input_value()
            self.page.drag(self.editor.get_by_role("slider", name=line), 0, dy)
            self.expect(box).not_to_have_value(old)
        assert self.ask("terminal.editor.settle()")

        def as_shown() -> bool:  # what a hand has let go of may still be on its way
            second = self.editor.get_by_role("textbox", name="TP2: price or distance", exact=True).input_value()
            stop = self.editor.get_by_role("textbox", name="Stop", exact=True).input_value()
            spec = self.spec()
            assert spec is not None
            assert float(second) > 102
            assert float(stop) < 98
            return bool(spec["take_profits"][1]["target"] == second and spec["stop_loss"]["target"] == stop)

        self.until(as_shown, "the order is what the fields say")
        assert self.ask("terminal.editor.settle()")
        after = self.ask("[terminal.editor.odds.levels[1], terminal.editor.odds.stops]")
        assert after[0] < before[0]  # a level that is farther away is reached less often
        assert after[1] < before[1]  # and so is a stop
        self.until(lambda: self.named("region", "Odds").inner_text() != shown, "the odds are shown")
        self.look("dragged")

    def places(self) -> None:
        """On paper, after a question; the order is the one selected below."""
        self.root.get_by_role("button", name="Place on paper…").click()
        dialog = self.page.it.get_by_role("dialog")
        self.expect(dialog).to_contain_text("Buy 2 BTC of BTC/USDT")
        self.expect(dialog.get_by_role("button", name="Back")).to_be_focused()
        self.look("asked")
        dialog.get_by_role("button", name="Back").click()
        self.expect(dialog).to_have_count(0)
        assert self.ask("terminal.placed") is None
        self.root.get_by_role("button", name="Place on paper…").click()
        self.page.it.get_by_role("dialog").get_by_role("button", name="Place order").click()
        self.expect(self.root.get_by_text("Order 0 is placed.")).to_be_visible()
        self.expect(self.named("region", "Selected order")).to_contain_text("#0 BTC/USDT")
        self.until(lambda: self.ask("[terminal.placed, terminal.board.selected]") == [0, 0], "it is the one selected")
        self.play(ENTERED)
        assert self.order()["status"] == "ACTIVE"
        self.expect(self.named("region", "Selected order")).to_contain_text("active")
        self.board_shows(HOSTILE)
        self.look("entered")

    def levels(self) -> None:
        """TP1 yellow, then green, and the stop at the entry."""
        first = self.named("region", "Selected order").get_by_role("listitem").first
        self.expect(first).to_have_accessible_name(re.compile("^TP1 at 101.*pending$"))
        self.play(NEAR)
        self.expect(first).to_have_accessible_name(re.compile("approaching$"))
        self.look("near")
        self.play(TOUCHED)
        assert self.order()["levels"][0]["status"] == "TRIGGERED"
        self.expect(first).to_have_accessible_name(re.compile("working$"))
        dot = self.named("grid", "Orders").get_by_role("img", name="working").first
        yellow = colour(dot)
        self.look("yellow")
        self.play(FILLED)
        self.expect(first).to_have_accessible_name(re.compile("filled$"))
        green = colour(self.named("grid", "Orders").get_by_role("img", name="filled").first)
        assert yellow[0] > yellow[2] + 60, yellow  # red and green, little blue
        assert yellow[1] > yellow[2] + 40, yellow
        assert green[1] > green[0] + 40, green
        self.board_shows("1/3")
        order = self.order()
        assert float(order["stop"]) == float(order["entry_price"]) == 100
        card = self.named("region", "Selected order")
        self.expect(card).to_contain_text(re.compile(r"Effective stop\s*100\.00"))
        slider = self.root.locator(".sol-split").get_by_role("slider", name="Stop, stop")
        self.expect(slider.or_(self.root.locator(".sol-split").get_by_text("100.00")).first).to_be_visible()
        self.look("green")

    def manages(self) -> None:
        """Break-even off and on, and more funds."""
        even = self.root.locator(".sol-split").get_by_role("checkbox", name="Break-even after TP1")
        self.expect(even).to_be_checked()
        even.locator("xpath=ancestor-or-self::label | ..").last.click()
        self.until(lambda: "break_even" not in self.order()["spec"], "break-even is off")
        self.expect(even).not_to_be_checked()
        self.look("even-off")
        even.locator("xpath=ancestor-or-self::label | ..").last.click()
        self.until(lambda: "break_even" in self.order()["spec"], "break-even is on again")
        self.expect(even).to_be_checked()
        held = float(self.order()["held"])
        amount = self.named("textbox", "Amount to add or reduce")
        amount.fill("0,5")
        self.named("button", "Add funds").click()
        self.expect(
            self.root.locator(".sol-problem").filter(has_text="quantity = '0,5'")
        ).to_be_visible()  # what is refused is said there
        self.look("refused")
        amount.fill("0.5")
        self.named("button", "Add funds").click()
        self.until(
            lambda: amount.input_value() == "",
            lambda: [*self.root.locator(".sol-problem").all_inner_texts(), self.order()],
        )
        self.play(FILLED + 2 * LATENCY)
        assert float(self.order()["held"]) == pytest.approx(held + 0.5)
        self.expect(self.root.get_by_text("add funds").first).to_be_visible()
        self.look("added")

    def comes_back(self) -> None:
        """After F5 everything is there again."""
        card = self.named("region", "Selected order")
        self.expect(card).to_contain_text("#0 BTC/USDT")
        self.board_shows("1/3")
        self.board_shows(HOSTILE)
        self.expect(card.get_by_role("listitem").first).to_have_accessible_name(re.compile("^TP1 at 101.*filled$"))
        self.expect(self.root.get_by_text("filled · entry").first).to_be_visible()

    def what_if(self) -> None:
        """Another order on the same ticks."""
        self.root.get_by_role("button", name="What if").click()
        fork = self.page.wait(".sol-fork")
        self.expect(fork.get_by_role("table", name="Real and what if")).to_contain_text("partially closed")
        self.expect(fork.get_by_text("the same order. Change it above")).to_be_visible()
        field = fork.get_by_role("textbox", name="TP1: price or distance", exact=True)
        field.fill("100.5")
        field.press("Tab")
        self.expect(fork.get_by_role("status").filter(has_text="worse")).to_be_visible()
        self.look("what-if")
        self.root.get_by_role("button", name="Close what if").click()
        self.expect(self.page.it.locator(".sol-fork")).to_have_count(0)

    def cancels(self) -> None:
        """With the dialog: it says what happens, Esc is safe, and what is held can be kept."""
        cancel = self.root.get_by_role("button", name="Cancel…")
        cancel.click()
        dialog = self.page.it.get_by_role("dialog")
        self.expect(dialog).to_contain_text("Cancel order #0?")
        self.expect(dialog).to_contain_text("2 take-profit levels that wait")
        self.expect(dialog.get_by_role("button", name="Keep order")).to_be_focused()
        self.look("cancel")
        self.page.it.keyboard.press("Escape")
        self.expect(dialog).to_have_count(0)
        assert self.order()["status"] == "PARTIALLY_CLOSED"
        cancel.click()
        self.page.it.get_by_role("dialog").get_by_role("button", name="Cancel order").click()
        self.until(lambda: self.order()["status"] == "CANCELLED", "it is cancelled")
        self.expect(self.named("region", "Selected order")).to_contain_text("cancelled")
        self.look("cancelled")

    def clean(self) -> None:
        """Nothing went wrong, nothing was asked of the network, and no tag was markup."""
        assert self.page.it.evaluate("() => window.hacked") is None
        assert self.page.blocked == []
        assert self.page.errors == []


def colour(dot: Any) -> list[int]:
    """Red, green and blue of what a dot is drawn with."""
    found: list[int] = dot.evaluate(
        """element => {
            const parts = [element, ...element.querySelectorAll('*')].flatMap(one => {
                const style = getComputedStyle(one);
                return [style.backgroundColor, style.fill, style.stroke, style.borderTopColor, style.color];
            }).map(text => (text.match(/[\\d.]+/g) || []).map(Number)).filter(c => c.length >= 3 && c[3] !== 0);
            const lively = c => Math.max(...c.slice(0, 3)) - Math.min(...c.slice(0, 3));
            return parts.sort((a, b) => lively(b) - lively(a))[0].slice(0, 3);
        }"""
    )
    return found


CORNER = "canvas => [...canvas.getContext('2d').getImageData(12, 60, 1, 1).data.slice(0, 3)]"
"""The colour of a place in a chart where nothing is drawn but its ground."""
CELL = """
import smartorders_lab as so
market = so.Instrument(**{market})
feed = so.recorded(so.Ticks.read("tape.parquet", market), speed=None, paused=True)
session = so.paper(feed=feed, store="story.duckdb", name="story", fills={{"latency": "{latency}s", "fee_taker": "0.1%"}})
terminal = so.Terminal(session, so.Ticks.read("history.parquet", market), name="story")
terminal
"""


def test_the_story_in_lab(browser: Browser, lab: Lab) -> None:
    write(tape(), lab.work / "tape.parquet")
    write(history(), lab.work / "history.parquet")
    page = browser.open(lab, width=WIDE[0], height=WIDE[1])
    page.notebook("story.ipynb", [CELL.format(market=BTC, latency=LATENCY), "1 + 1"])
    page.command("application:toggle-left-area")
    page.run_all()
    story = Story(
        page,
        lambda upto: page.value("0", f"feed.play({upto}); session.wait(30)"),
        lambda: page.value("session.order(0)"),
        "lab",
    )
    story.builds()
    story.drags()
    story.places()
    story.levels()
    page.theme("dark")
    for canvas in page.it.locator(".sol-terminal canvas").all():
        story.until(lambda canvas=canvas: max(canvas.evaluate(CORNER)) < 80, "the chart is dark, too")
    story.look("green-dark")
    page.theme("light")
    story.manages()
    page.save()
    page.reload()
    story.comes_back()
    story.look("reloaded")
    page.restart()
    page.run(0)
    page.wait(".sol-terminal")
    # a kernel that ends closes its widgets, of which the page knows no more
    page.errors = [text for text in page.errors if "Comm not found" not in text]
    assert page.value("[session.name, len(session.orders()), session.order(0)['status']]") == [
        "story",
        1,
        "PARTIALLY_CLOSED",
    ]
    story.comes_back()
    story.look("resumed")
    story.what_if()
    story.cancels()
    page.value("0", "terminal.close(); session.close()")
    threads = "[thread.name for thread in __import__('threading').enumerate()]"
    assert not [name for name in page.value(threads) if name.startswith(("panel", "session"))]
    story.clean()
    page.close()


class Application(Server):
    """The pages of an application that runs in this process, as a server of pages."""

    def __init__(self, folder: Path, pages: Any):
        super().__init__(folder)
        self.pages = pages

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.pages.port}"

    def kernels(self) -> list[Path]:
        found = self.pages._folder.rglob("kernel-*.json")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def test_the_story_in_voila(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from browser import home

    from smartorders_lab.panel.app import Lives, Pages
    from smartorders_lab.serve import Server as Stream
    from smartorders_lab.serve import discovery_path

    for name, value in home(tmp_path / "home").items():
        if name.startswith(("JUPYTER", "IPYTHON")):
            monkeypatch.setenv(name, value)
    store = tmp_path / "story.duckdb"
    feed = so.recorded(tape(), speed=None, paused=True)
    fills = {"latency": f"{LATENCY}s", "fee_taker": "0.1%"}
    with (
        so.paper(feed=feed, store=store, name="story", fills=fills) as session,
        Stream(session, discovery=discovery_path(store)),
        Pages(
            store, title="story", ticks=[history()], fills=session.book.fills, lives=Lives(session), token=TOKEN
        ) as pages,
    ):
        server = Application(tmp_path / "app", pages)
        page = browser.open(server, width=WIDE[0], height=WIDE[1])
        page.theme("dark")
        page.show()

        def play(upto: int) -> None:
            feed.play(upto)
            assert session.wait(30)

        story = Story(page, play, lambda: session.order(0), "voila")
        assert page.it.title() == "story – smartorders"
        assert "import" not in page.it.inner_text("body")  # no code
        story.builds()
        story.drags()
        story.places()
        story.levels()
        page.size(*NARROW)
        story.look("narrow")
        page.theme("light")
        story.look("narrow-light")
        story.manages()
        before = json.dumps(session.order(0))
        page.reload()
        story.comes_back()
        tag = story.editor.get_by_role("textbox", name="TP3: price or distance", exact=True)
        story.expect(tag).to_have_value("106")  # what was being shaped, too
        assert json.dumps(session.order(0)) == before
        story.what_if()
        page.size(*WIDE)
        story.cancels()
        story.clean()
        page.close()
        assert session.status == "live"  # pages come and go
