"""Terminal: from an idea to an order in one place: the editor, a button that places what it holds, and the board.

    so.Terminal(session)                  # over the ticks that the session has seen
    so.Terminal(session, ticks)           # over a history

The order that was placed is the one selected in the board. What the session refuses is said at the button.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
import traitlets

from ..errors import DataError, SmartOrdersError, short
from ..fields import plain
from ..fields import text_of as text_of_value
from ..fills import FillModel
from ..life import seen
from ..spec import SmartOrder
from ..ticks import Ticks
from ..times import instant_text
from .board import Board
from .editor import LadderEditor
from .fork import Fork, shut
from .parts import MODES, Dialog, Hub, Manners, free, said_html, text_of

STYLE = """<style>
.sol-terminal-head h2 { font-size: 1.15em; margin: 0; line-height: 1.5; overflow-wrap: anywhere; }
.sol-mode { font-weight: 700; padding: 2px 10px; margin-right: 6px; border-radius: 999px; border: 2px solid currentColor; }
.sol-terminal-row { gap: 8px; } .sol-upto { opacity: .75; line-height: 32px; }
.sol-mode-live { background: #d9432f; color: #fff; border-color: #d9432f; }
</style>"""
_NO_TICKS = (
    "No ticks have come yet, so there is nothing to draw on. Give a history, Terminal(session, ticks), or place the first order with "
    "session.place(...), and take the newest ticks."
)


class Terminal(ipywidgets.VBox):
    """Editor and board of a session.

    Parameters
    ----------
    session : of this process (`so.paper(...)`), or watched from another one (`so.connect(...)`).
    ticks : a history, or several of different symbols; None: what the session has seen.
    order : what the editor begins with.
    fills, entries, theme : as in LadderEditor; `fills` None: those of the session.
    title : above it all; left out: the session's name.
    name : a terminal of that name that is there already is closed first.

    `order` is that of the editor, None while its fields make none; `placed` the number of the order placed last.
    """

    order = traitlets.Any(None, allow_none=True)
    placed = traitlets.Int(None, allow_none=True)

    def __init__(
        self,
        session: Any,
        ticks: Ticks | Sequence[Ticks] | None = None,
        *,
        order: SmartOrder | None = None,
        fills: FillModel | None = None,
        entries: int = 2000,
        theme: str = "auto",
        title: str = "",
        name: str = "terminal",
    ):
        state = session.state()
        self.session, self.mode = session, str(state["mode"])
        self._given = [ticks] if isinstance(ticks, Ticks) else list(ticks or ())
        for one in self._given:
            if not isinstance(one, Ticks):
                raise DataError(f"ticks = {short(one)}: is not Ticks; read them with Ticks.read(...)")
        self._fills = fills if fills is not None else _fills_of(session)
        self._entries, self._theme, self._name = entries, theme, name
        self.hub = Hub(name)
        try:
            self._build(state, order, title)
        except BaseException:
            self.hub.close()
            raise

    def _build(self, state: dict[str, Any], order: SmartOrder | None, title: str) -> None:
        theme = self._theme
        self.manners, self.dialog = Manners(theme=theme), Dialog(self.hub, theme=theme)
        self.editor: LadderEditor | None = None
        self.fork: Fork | None = None
        badge, words = MODES.get(self.mode, (self.mode.upper(), self.mode))
        shown = text_of(title or state["name"] or state["session"])
        kind, what = "live" if self.mode == "live" else "paper", text_of(f"orders are carried out {words}")
        mode = f'<span class="sol-mode sol-mode-{kind}" title="{what}">{text_of(badge)}</span>'
        self.head = ipywidgets.HTML(f'{STYLE}<div class="sol-terminal-head"><h2>{shown}</h2></div>')
        self.badge = ipywidgets.HTML(mode)
        self.symbol = ipywidgets.Dropdown(description="Market", layout=ipywidgets.Layout(width="auto"))
        self.manners.name(self.symbol, "Market")
        self.newest = ipywidgets.Button(
            description="Newest ticks", icon="refresh", tooltip="Take in the ticks that came since"
        )
        self.note = ipywidgets.HTML()
        self.place = ipywidgets.Button(description=f"Place {words}…")
        self.place.add_class("sol-terminal-place")
        self.place.add_class("sol-go")
        self.said = ipywidgets.HTML()
        self.what_if = ipywidgets.Button(
            description="What if…",
            disabled=True,
            tooltip="Change the selected order in a copy, and see what would have become of it",
        )
        self.what_if.add_class("sol-terminal-what-if")
        self.manners.name(self.what_if, "What if: fork the selected order")
        self.forked = ipywidgets.VBox(layout=ipywidgets.Layout(width="100%"))
        self._fork_said = ipywidgets.HTML()
        self._close_fork = ipywidgets.Button(description="Close what if", layout=ipywidgets.Layout(display="none"))
        self._bench = ipywidgets.VBox(layout=ipywidgets.Layout(width="100%"))
        row = ipywidgets.Layout(flex_flow="row wrap", align_items="center")
        self.board = Board(self.session, theme=theme, name=f"{self._name} board")
        rows = [
            ipywidgets.HBox(children, layout=row)
            for children in (
                [self.symbol, self.newest, self.note],
                [self.badge, self.place, self.said],
                [self.what_if, self._close_fork, self._fork_said],
            )
        ]
        for each in rows:
            each.add_class("sol-terminal-row")
        super().__init__(
            [
                self.manners,
                self.dialog,
                self.head,
                rows[0],
                self._bench,
                rows[1],
                self.board,
                rows[2],
                self.forked,
            ]
        )
        self.add_class("sol-panel")
        self.add_class("sol-terminal")
        self.layout.width = "100%"
        self._lay_out(self._tapes(), order)
        self.place.on_click(lambda _: self.hub.post(self._ask_place))
        self.newest.on_click(lambda _: self.hub.post(self._renew))
        self.symbol.observe(lambda _: self.hub.post(self._renew), "value")
        self.what_if.on_click(lambda _: self.hub.post(self._ask_fork))
        self._close_fork.on_click(lambda _: self.hub.post(self._drop_fork))
        self.board.observe(lambda _: self.hub.post(self._selected), "selected")
        self.hub.on_close(self._end)
        free(self)
        self._selected()

    def __repr__(self) -> str:
        name = getattr(self.session, "name", "") or getattr(self.session, "id", "")
        order = "no ticks yet" if self.editor is None else str(self.order or "no whole order")
        return f"<Terminal {name}, {self.mode}: {order}; {self.board!r}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and for a page without a kernel what it showed last."""
        found = super()._repr_mimebundle_(**kwargs)
        data = found[0] if isinstance(found, tuple) else found
        editor = "" if self.editor is None else self.editor._still()
        return {**(data or {}), "text/plain": repr(self), "text/html": f"<div>{editor}{self.board.picture()}</div>"}

    def settle(self, timeout: float = 30.0) -> bool:
        """Wait until everything that was asked for so far is done and shown; False if `timeout` seconds passed first."""
        return self.hub.settle(timeout)

    def close(self) -> None:
        """The end of it and of its threads; the session goes on. Twice does no harm."""
        self.hub.close()

    def _end(self) -> None:
        self._drop_fork()
        if self.editor is not None:
            self.editor.close()
        self.board.close()
        shut(self)

    # ------------------------------------------------------------------------------------------------ the editor

    def _tapes(self) -> tuple[dict[str, Ticks], str]:
        """Ticks by symbol, and what has to be said about them."""
        found = {one.symbol: one for one in self._given}
        for symbol in self.session.state()["symbols"]:
            news = seen(self.session, symbol)
            if news is not None:
                found[symbol] = _after(found[symbol], news) if symbol in found else news
        feed = getattr(getattr(self.session, "feed", None), "ticks", None)
        if not found and isinstance(feed, Mapping):
            return dict(
                feed
            ), "These are all recorded ticks, also those that have not been played yet: odds know the future."
        return found, ""

    def _lay_out(self, found: tuple[dict[str, Ticks], str], order: SmartOrder | None = None) -> None:
        """The editor, over the ticks that there are."""
        tapes, note = found
        symbols = tuple(tapes)
        if self.symbol.options != symbols:
            self.symbol.options = symbols
        wanted = order.symbol if order is not None and order.symbol in tapes else self.symbol.value
        if symbols and wanted not in symbols:
            wanted = symbols[0]
        if self.symbol.value != wanted:
            self.symbol.value = wanted
        self.symbol.layout.display = None if len(symbols) > 1 else "none"
        self.place.disabled = not tapes
        if not tapes:
            self.note.value = said_html(_NO_TICKS, "note")
            return
        ticks = tapes[wanted]
        upto = instant_text(int(ticks.ts[-1]) // 10**9 * 10**9).replace("T", " ").replace("Z", " UTC")
        self.note.value = said_html(note, "note") or f'<span class="sol-upto">{len(ticks):,} ticks up to {upto}</span>'
        former = self.editor
        if former is not None and former.ticks.symbol == ticks.symbol:
            if former.ticks is not ticks:
                former.set_ticks(ticks)
            return
        self.editor = LadderEditor(
            ticks,
            order if order is not None and order.symbol == wanted else None,
            fills=self._fills,
            entries=self._entries,
            theme=self._theme,
            name=f"{self._name} editor",
        )
        self._bench.children = (self.editor,)
        self.editor.observe(self._edited, "order")
        self.order = self.editor.order
        if former is not None:
            former.close()

    def _edited(self, change: Any) -> None:
        self.hub.post(self._take)

    def _take(self) -> None:
        self.order = None if self.editor is None else self.editor.order
        if self.order is not None and self.said.value:
            self.said.value = ""

    def _renew(self) -> None:
        """Look for newer ticks, or for those of another market."""

        def found(tapes: Any, error: BaseException | None) -> None:
            if error is not None:
                self.note.value = said_html(_words(error))
            else:
                self._lay_out(tapes)

        self.hub.ask(self._tapes, found)

    # ------------------------------------------------------------------------------------------------ placing

    def _ask_place(self) -> None:
        order = None if self.editor is None else self.editor.order
        if order is None:
            self._say_problems()
            return
        badge, words = MODES.get(self.mode, (self.mode.upper(), self.mode))
        live = self.mode == "live"
        self.dialog.ask(
            f"{badge}: place this order {words}?",
            [*summary(order), *(str(warning) for warning in order.warnings())],
            lambda _: self._go(order),
            go="Place with real money" if live else "Place order",
            safe="Back",
            danger=live,
        )

    def _say_problems(self) -> None:
        problems = [] if self.editor is None else [p for p in self.editor.problems if p.level == "error"]
        text = (
            "\n".join(str(problem) for problem in problems[:5])
            or "order: is not whole; see what stands under its fields"
        )
        self.said.value = said_html(text)

    def _go(self, order: SmartOrder) -> None:
        self.place.disabled = True
        self.said.value = said_html("Being placed …", "note")
        self.hub.ask(lambda: self.session.place(order), self._went)

    def _went(self, result: Any, error: BaseException | None) -> None:
        self.place.disabled = False
        if error is not None:
            self.said.value = said_html(_words(error))
            return
        number = int(result["order"]) if isinstance(result, Mapping) else int(result)
        self.placed = number
        self.said.value = said_html(f"Order {number} is placed.", "done")
        self.board.selected = number

    # ------------------------------------------------------------------------------------------------ what if

    def _selected(self) -> None:
        self.what_if.disabled = self.board.selected is None

    def _ask_fork(self) -> None:
        number = self.board.selected
        if number is None:
            return
        self._drop_fork()
        self._fork_said.value = said_html("Being looked up …", "note")
        self.hub.ask(lambda: self._forked(number), self._show_fork)

    def _forked(self, number: int) -> Fork:
        history = None
        if seen(self.session, self._symbol_of(number)) is None:
            history = next((one for one in self._given if one.symbol == self._symbol_of(number)), None)
        name = f"{self._name} fork"
        return Fork(
            self.session, number, history, fills=self._fills, entries=self._entries, theme=self._theme, name=name
        )

    def _symbol_of(self, number: int) -> str:
        return next(str(each["symbol"]) for each in self.session.state()["orders"] if each["order"] == number)

    def _show_fork(self, fork: Fork | None, error: BaseException | None) -> None:
        if fork is None:
            self._fork_said.value = said_html(_words(error))
            return
        self.fork = fork
        self._fork_said.value = ""
        self.forked.children = (fork,)
        self._close_fork.layout.display = None

    def _drop_fork(self) -> None:
        fork, self.fork = self.fork, None
        self._fork_said.value = ""
        self.forked.children = ()
        self._close_fork.layout.display = "none"
        if fork is not None:
            fork.close()


def summary(order: SmartOrder) -> list[str]:
    """An order in a few lines, as it is read back before it is placed."""
    size = next(
        (plain(v), w)
        for v, w in ((order.quantity, ""), (order.cost, " worth"), (order.risk, " at risk"))
        if v is not None
    )
    base, quote = order.symbol.partition("/")[::2]
    unit = base if order.quantity is not None else quote
    entry = order.entry
    at = " ".join(plain(v) for v in (entry.price, entry.limit_price) if v is not None)
    if entry.rungs:
        at = ", ".join(f"{plain(rung.price)} ({plain(rung.size)} %)" for rung in entry.rungs)
    if entry.callback_rate is not None:
        at = f"{at} {plain(entry.callback_rate * 100)} %".strip()
    lines = [
        f"{order.side.title()} {size[0]} {unit}{size[1]} of {order.symbol}, entry {entry.kind}{f' {at}' if at else ''}."
    ]
    if order.take_profits:
        levels = ", ".join(f"{text_of_value(level.target)} ({plain(level.size)} %)" for level in order.take_profits)
        lines.append(f"Take profit at {levels}.")
    guards = []
    if order.stop_loss is not None:
        guards.append(f"stop {text_of_value(order.stop_loss.target)}")
    if order.trailing_stop is not None:
        guards.append(f"trailing stop {plain(order.trailing_stop.callback_rate * 100)} %")
    if order.break_even is not None:
        guards.append(f"break-even after TP{order.break_even.after}")
    lines.append(f"Protected by {', '.join(guards)}." if guards else "Nothing protects it: no stop.")
    return lines


def _words(error: BaseException | None) -> str:
    """What is said of an error."""
    return str(error) if isinstance(error, SmartOrdersError) else f"{type(error).__name__}: {error}"


def _fills_of(session: Any) -> FillModel | None:
    """What a session assumes of its venue, where that can be known."""
    book = getattr(session, "book", None)
    fills: FillModel | None = None if book is None else book.fills
    return fills


def _after(history: Ticks, news: Ticks) -> Ticks:
    """A history and what came after it; where they do not fit, the newer."""
    try:
        later = news.slice(instant_text(int(history.ts[-1]) + 1), None)
    except DataError:  # nothing came after it: it holds what was seen
        return history
    try:
        return history.append(later)
    except DataError:
        return news
