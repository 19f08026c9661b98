"""Parts: what the widgets of the panel have in common.

`Hub`: the thread on which a panel lives. `Manners`: theme, names for screen readers and announcements of stock ipywidgets. `Dialog`: a
question that is asked before something happens. Dots, escaping, and how a widget of our own is made (`Part`).

Callbacks of widgets come on threads that nobody can foretell, while cells run. So a callback only posts to the hub; the hub's thread
alone writes to widgets. A session is talked to on a second thread of the hub, so that a slow answer stops no picture.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import anywidget
import ipywidgets
import traitlets

from .. import session as _session  # noqa: F401  what comes first ends last: at the exit, sessions are closed after the panel
from ..looks import THEMES

HZ = 8.0
"""How often, at most, what changes is shown: more the eye does not take in."""
MODES = {
    "paper": ("PAPER", "on paper"),
    "live": ("LIVE", "with real money"),
    "dry": ("DRY RUN", "on paper, showing what would be sent"),
}
"""How the mode of a session is written: as a badge, and in a sentence."""
_JOIN_S = 5.0
_STATIC = Path(__file__).with_name("static")
_numbers = itertools.count(1)

log = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------------------- the hub


class Hub:
    """One thread with an event loop for a group of widgets, and one more for calls that may take their time.

    `name`: a hub of that name that is still there is closed first, so that a cell that is run again replaces what it made before.
    `hz`: how often, at most, `later` is done.
    """

    def __init__(self, name: str, hz: float = HZ):
        former = _HUBS.get(name)
        if former is not None:
            former.close()
        self.name, self._pause = name, 1 / hz
        self._loop = asyncio.new_event_loop()
        self._context = contextvars.Context()  # not the caller's: what is done here belongs to no cell
        self._lock = threading.Lock()
        self._later: dict[Any, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self._due = False
        self._flushed = 0.0
        self._endings: list[Callable[[], Any]] = []
        self._work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=_live, args=(self._loop,), name=f"panel {name}", daemon=True)
        self._worker = threading.Thread(
            target=_labour, args=(self._work, self.post), name=f"panel {name} calls", daemon=True
        )
        _HUBS[name] = self
        self._thread.start()
        self._worker.start()

    def __repr__(self) -> str:
        return f"Hub({self.name!r}, {'closed' if self.closed else 'running'})"

    @property
    def closed(self) -> bool:
        """Whether it takes nothing any more."""
        return self._closing

    @property
    def here(self) -> bool:
        """Whether this is the hub's own thread."""
        return threading.current_thread() is self._thread

    def post(self, fn: Callable[..., Any], *args: Any) -> bool:
        """Have `fn(*args)` called on the hub's thread, after what was posted before. From any thread; False once it is closed."""
        if self._closing:
            return False
        with suppress(RuntimeError):  # the loop was closed this very moment
            self._loop.call_soon_threadsafe(_safely, fn, args, context=self._context)
            return True
        return False

    def later(self, key: Any, fn: Callable[..., Any], *args: Any) -> None:
        """As `post`, but at most `hz` times a second, and of several under one key only the newest."""
        with self._lock:
            self._later[key] = (fn, args)
            if self._due or self._closing:
                return
            self._due = True
        self.post(self._arrange)

    def every(self, seconds: float, fn: Callable[[], Any]) -> None:
        """Have `fn()` called on the hub's thread now and every so many seconds."""

        def again() -> None:
            _safely(fn, ())
            if not self._closing:
                self._loop.call_later(seconds, again, context=self._context)

        self.post(again)

    def ask(self, work: Callable[[], Any], then: Callable[[Any, BaseException | None], Any] | None = None) -> bool:
        """Have `work()` done on the thread for calls, in turn, and `then(result, error)` on the hub's; False once it is closed."""
        if self._closing:
            return False
        self._work.put((work, then))
        return True

    def on_close(self, fn: Callable[[], Any]) -> None:
        """Have `fn()` called, on the hub's thread, when it is closed; the last one first."""
        self._endings.append(fn)

    def settle(self, timeout: float = 30.0) -> bool:
        """Wait until everything that was asked for so far is done and shown; False if `timeout` seconds passed first.

        Not from its own threads, which would wait for themselves.
        """
        return all(self._settled(timeout) for _ in range(2))  # what an answer gives rise to, too

    def _settled(self, timeout: float) -> bool:
        done = threading.Event()

        def show(result: Any, error: BaseException | None) -> None:
            self._flush()
            done.set()

        # posted before it is asked: a call that stands in the queue of the hub's thread is before this one
        return self.post(self.ask, lambda: None, show) and done.wait(timeout)

    def close(self, silent: bool = False) -> None:
        """The end of it: what was posted is done, then what `on_close` was given; then its threads end. Twice does no harm.

        `silent`: what `on_close` was given is left out, so that nothing more is sent.
        """
        with self._lock:
            first, self._closing = not self._closing, True
        if silent:
            self._endings.clear()
        if first:
            self._work.put(None)
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._finish, context=self._context)
        me = threading.current_thread()
        if me not in (self._thread, self._worker):
            self._over.wait(_JOIN_S)
            self._thread.join(_JOIN_S)
            self._worker.join(_JOIN_S)
        if _HUBS.get(self.name) is self:
            del _HUBS[self.name]

    def _arrange(self) -> None:
        wait = self._flushed + self._pause - self._loop.time()
        self._loop.call_later(max(wait, 0), self._flush, context=self._context)

    def _flush(self) -> None:
        with self._lock:
            pending, self._later, self._due = self._later, {}, False
        self._flushed = self._loop.time()
        for fn, args in pending.values():
            _safely(fn, args)

    def _finish(self) -> None:
        while self._endings:
            _safely(self._endings.pop(), ())
        self._over.set()
        self._loop.stop()


_HUBS: dict[str, Hub] = {}


def close_all() -> None:
    """Close every hub of this process, and with it what lives on it."""
    for hub in [*_HUBS.values()]:
        hub.close()


@atexit.register
def _leave() -> None:
    """End the threads. The widgets go with the process, in silence: the page of a kernel that is restarted does not know them any more."""
    # ipywidgets closes what is left when Python takes its modules apart; its list of widgets is private, hence only where it is there
    for widget in [*getattr(ipywidgets.widgets.widget, "_instances", {}).values()]:
        comm: Any = getattr(widget, "comm", None)
        if comm is not None:
            comm.publish_msg = _unsent
    for hub in [*_HUBS.values()]:
        hub.close(silent=True)


def _unsent(*args: Any, **kwargs: Any) -> None:
    pass


def _live(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _labour(work: queue.SimpleQueue[Any], post: Callable[..., bool]) -> None:
    while (item := work.get()) is not None:
        call, then = item
        result, error = None, None
        try:
            result = call()
        except Exception as problem:
            error = problem
        if then is not None:
            post(then, result, error)
        elif error is not None:
            log.error("a call of the panel failed: %s", error, exc_info=error)
        del item, call, then, result, error


def _safely(fn: Callable[..., Any], args: Sequence[Any]) -> None:
    """Nothing that fails may end the hub, and nothing is printed: that would land in whichever cell ran last."""
    try:
        fn(*args)
    except Exception as error:
        log.error("the panel failed in %s: %s", getattr(fn, "__qualname__", fn), error, exc_info=error)


def free(*widgets: Any) -> None:
    """Let callbacks of these widgets, and of what is in them, come while a cell runs.

    ipykernel 7 answers a widget on the thread from which it was last written to, and for one that was made in a cell that is the thread of
    cells: a click would wait for the cell to end. Private to ipykernel, hence only where it is there.
    """
    for widget in widgets:
        comm: Any = getattr(widget, "comm", None)
        if hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = lambda data, default: default
        free(*getattr(widget, "children", ()))


# ---------------------------------------------------------------------------------------------------------- words


def text_of(value: object) -> str:
    """A value as HTML text or the value of an attribute: nothing in it is markup. None is empty."""
    return "" if value is None else escape(str(value), quote=True)


class Dot(NamedTuple):
    """A status as it is shown.

    `colour`: grey, yellow, green or red. `shape`: ring, half, disc, diamond, square or cross. `word`: what it is.
    """

    colour: str
    shape: str
    word: str


DOTS = {
    "created": Dot("grey", "ring", "created"),
    "pending": Dot("grey", "ring", "pending"),
    "cancelled": Dot("grey", "cross", "cancelled"),
    "waiting": Dot("yellow", "half", "waiting"),
    "approaching": Dot("yellow", "half", "approaching"),
    "working": Dot("yellow", "half", "working"),
    "partial": Dot("yellow", "half", "partly filled"),
    "partly_closed": Dot("yellow", "half", "partly closed"),
    "active": Dot("green", "disc", "active"),
    "filled": Dot("green", "disc", "filled"),
    "closed": Dot("green", "disc", "closed"),
    "stopped_profit": Dot("green", "disc", "stopped in profit"),
    "closed_loss": Dot("red", "square", "closed at a loss"),
    "stopped": Dot("red", "square", "stopped"),
    "rejected": Dot("red", "diamond", "rejected"),
    "error": Dot("red", "diamond", "error"),
    "attention": Dot("red", "diamond", "needs attention"),
}
"""Every status that the panel shows, by name. None is told by its colour alone."""
INKS = {"grey": "#768390", "yellow": "#b58600", "green": "#009e73", "red": "#d9432f"}
SIGNS = {"ring": "○", "half": "◐", "disc": "●", "diamond": "◆", "square": "■", "cross": "×"}
NEAR = 0.5
"""A level counts as approached when the price has come this part of the way to it, from the level before it or the entry."""


def status_dot(order: Mapping[str, Any]) -> str:
    """Which of DOTS an order is, as a session describes it."""
    if order.get("attention"):
        return "attention"
    status, lost = order["status"], float(order["realized_pnl"] or 0) < 0
    if status == "CANCELLED":
        return "rejected" if order.get("exit_reason") == "rejected" else "cancelled"
    if status == "CLOSED":
        return "closed_loss" if lost else "closed"
    if status == "STOPPED":
        return "stopped" if lost else "stopped_profit"
    return {"PENDING": "pending", "ACTIVE": "active", "PARTIALLY_CLOSED": "partly_closed"}[status]


def level_dots(order: Mapping[str, Any], price: float | None = None) -> list[str]:
    """Which of DOTS each take-profit level of an order is, from the entry outwards; `price`: the last one."""
    found, reached = [], order.get("entry_price")
    near = price is not None and float(order["held"] or 0) > 0 and reached is not None
    for level in order["levels"]:
        status = level["status"]
        if status == "PENDING" and near and price is not None and reached is not None:
            near = False  # only the next one
            begin, end = float(reached), float(level["price"])
            way = (price - begin) / (end - begin) if end != begin else 1.0
            found.append("approaching" if way >= NEAR else "pending")
        else:
            found.append({"PENDING": "pending", "TRIGGERED": "working", "FILLED": "filled"}.get(status, "cancelled"))
        reached = level["price"] if status in ("TRIGGERED", "FILLED") else reached
    return found


def progress(order: Mapping[str, Any]) -> str:
    """`2/3`: how many levels of an order are filled; empty without levels."""
    return f"{order['filled_levels']}/{len(order['levels'])}" if order["levels"] else ""


def dot_html(name: str, word: bool = False) -> str:
    """A dot as HTML that needs no style sheet, with its word beside it or for screen readers."""
    dot = DOTS[name]
    sign = f'<span style="color:{INKS[dot.colour]}"'
    if word:
        return f'{sign} aria-hidden="true">{SIGNS[dot.shape]}</span> {dot.word}'
    return f'{sign} role="img" aria-label="{dot.word}" title="{dot.word}">{SIGNS[dot.shape]}</span>'


def said_html(text: object, kind: str = "problem") -> str:
    """What is to be said at a field or a button: `problem` (announced at once), `note` or `done`. Empty for nothing."""
    if not text:
        return ""
    sign = {"problem": "◆", "note": "○", "done": "●"}[kind]
    role = "alert" if kind == "problem" else "status"
    lines = "<br>".join(text_of(line) for line in str(text).splitlines())
    return f'<div class="sol-said sol-{kind}" role="{role}"><span aria-hidden="true">{sign}</span> {lines}</div>'


# ------------------------------------------------------------------------------------------------- widgets of our own


def script(*names: str) -> str:
    """Scripts of `static/`, one after another, as one module: only the last one may export."""
    return "\n".join((_STATIC / name).read_text("utf-8") for name in names)


LOOK = (_STATIC / "look.css").read_text("utf-8")
"""Colours of both themes, type, buttons and dots, for the shadow root of a widget of our own and for `.sol-panel`."""


class Part(anywidget.AnyWidget):
    """A widget of our own: `theme` follows JupyterLab, or else the browser, where it is `auto`; `look`: its style sheet."""

    theme = traitlets.Enum(THEMES, "auto").tag(sync=True)
    look = traitlets.Unicode(LOOK).tag(sync=True)


class Manners(Part):
    """Theme, style, names and announcements for the stock ipywidgets of a panel. It has to be in the box with the class `sol-panel`.

    Lets no key that is meant for a field reach the notebook (in JupyterLab, x would cut the cell), and tells screen readers what
    ipywidgets does not.
    """

    _esm = script("common.js", "manners.js")
    sheet = traitlets.Unicode((_STATIC / "panel.css").read_text("utf-8")).tag(sync=True)
    names = traitlets.Dict().tag(sync=True)
    """By CSS class: attributes of the first thing in it that takes the focus (`role`, `aria-…`, `inputmode`)."""

    def name(self, widget: Any, label: str | None = None, **attributes: Any) -> Any:
        """Give a stock widget a name for screen readers, and other attributes (`aria_invalid=True`); returns the widget."""
        mine = next((c for c in widget._dom_classes if c.startswith("sol-n-")), None)
        if mine is None:
            mine = f"sol-n-{next(_numbers)}"
            widget.add_class(mine)
        given = {key.replace("_", "-"): value for key, value in attributes.items()}
        given = {k: str(v).lower() if isinstance(v, bool) else v for k, v in given.items()}
        known = self.names.get(mine, {})
        now = {**known, **({} if label is None else {"aria-label": label}), **given}
        if now != known:
            self.names = {**self.names, mine: now}
        return widget

    def forget(self, *widgets: Any) -> None:
        """These are gone."""
        gone = {c for widget in widgets for c in widget._dom_classes}
        if gone & self.names.keys():
            self.names = {mine: given for mine, given in self.names.items() if mine not in gone}

    def say(self, text: str, urgent: bool = False) -> None:
        """Have screen readers say it."""
        self.send({"say": text, "urgent": urgent})


class Choice(NamedTuple):
    """One of several ways to go, in a dialog."""

    value: str
    label: str
    detail: str = ""


class Dialog(Part):
    """A question that is asked before something happens: a modal <dialog>.

    The focus starts on the safe button, and returns to where it was. Esc is the safe answer. A new question takes the place of one that
    is still open.
    """

    _esm = script("common.js", "dialog.js")

    def __init__(self, hub: Hub, **kwargs: Any):
        super().__init__(**kwargs)
        self._hub, self._asked = hub, 0
        self._then: Callable[[str], Any] = _nothing
        self.question: dict[str, Any] | None = None
        """What is being asked, None if nothing is."""
        self.on_msg(lambda _, content, buffers: hub.post(self._answered, content))

    def ask(
        self,
        title: str,
        lines: Sequence[str],
        then: Callable[[str], Any],
        *,
        go: str,
        safe: str = "Back",
        choices: Sequence[Choice] = (),
        danger: bool = True,
    ) -> None:
        """Ask; if the answer is to go, `then` is called on the hub's thread with the chosen value, or `go`. All text is shown as it is."""
        self._asked = next(_numbers)
        self._then = then
        options = [choice._asdict() for choice in choices]
        self.question = {"id": self._asked, "title": title, "lines": [*lines], "go": go, "safe": safe}
        self.question |= {"choices": options, "danger": danger}
        self.send({"ask": self.question})

    def show(self, title: str, lines: Sequence[str], copy: str, *, safe: str = "Close") -> None:
        """Show something that can be copied."""
        self._asked, self._then = next(_numbers), _nothing
        self.question = {"id": self._asked, "title": title, "lines": [*lines], "copy": copy, "safe": safe}
        self.send({"ask": self.question})

    def answer(self, value: str | None = None) -> None:
        """Answer in the place of the user: a choice, `go`, or None for the safe answer."""
        self._hub.post(self._answered, {"answer": self._asked, "value": value})

    def _answered(self, content: Any) -> None:
        if self.question is None or content.get("answer") != self.question["id"]:
            return  # an answer to a question that nobody asks any more
        question, self.question = self.question, None
        self.send({"close": question["id"]})
        value = content.get("value")
        if value in {"go", *(choice["value"] for choice in question.get("choices", ()))} and "go" in question:
            self._then(value)


def _nothing(value: str) -> None:
    pass


def heading(text: str) -> ipywidgets.HTML:
    """A small heading of a card."""
    return ipywidgets.HTML(f'<h4 class="sol-heading">{text_of(text)}</h4>')
