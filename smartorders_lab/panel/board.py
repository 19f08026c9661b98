"""Board: a session as a trader watches it: its orders, the chosen one with its chart, levels and log, and all that can be done to it.

    board = so.Board(session)
    board.selected = 3

What happens is pushed: the session says which orders have changed, these are looked at again, and what is different goes to the browser,
8 times a second at most. The session's own thread is asked for rows and nothing else, and waits for nobody. An action carries the
version of the order that the browser had drawn, and what is refused is said at the field or button where it was asked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from decimal import Decimal
from typing import Any

import ipywidgets
import numpy as np
import traitlets

from ..errors import ActionError, ActionRefused, SmartOrdersError, SpecError, StaleVersion
from ..fields import plain
from ..instrument import Instrument
from ..looks import THEMES
from ..ticks import Ticks
from ..times import instant_ns
from .chart import OrderChart
from .parts import (
    DOTS,
    Choice,
    Dialog,
    Hub,
    Manners,
    Part,
    dot_html,
    free,
    heading,
    level_dots,
    said_html,
    script,
    text_of,
)
from .watch import (
    FEEDS,
    KEPT,
    OVER,
    Watch,
    chart_lines,
    difference,
    digits_of,
    entry_words,
    fixed,
    log_line,
    resolved,
    row_of,
    standing,
    static_table,
    stop_path,
    told,
    way_of,
)

PULL_S = 0.2
"""How often prices and trailing stops are looked at; changes are told of at once."""
BEAT_S = 1.0
"""The longest time without a word to the browser, which takes 3 s of silence for a kernel that is gone."""
LOG = 500
"""Lines of the log of an order; the newest."""
log = logging.getLogger(__name__)


# ------------------------------------------------------------------------------------------------------------- the parts


class BoardPart(Part):
    """One part of a board that is ours: `session`, `order` or `log`; static/board.js draws them."""

    _esm = script("common.js", "board.js")
    part = traitlets.Unicode().tag(sync=True)
    dots = traitlets.Dict({name: [*dot] for name, dot in DOTS.items()}).tag(sync=True)
    most = traitlets.Int(LOG).tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)
    section = traitlets.Unicode("living").tag(sync=True)
    # never set: what the browser gets is made when it asks, so that a page that is loaded again has the whole of it
    state = traitlets.Any().tag(sync=True, to_json=lambda value, self: self.whole())

    def __init__(self, part: str, whole: Callable[[], dict[str, Any]], **kwargs: Any):
        self.whole = whole
        super().__init__(part=part, **kwargs)


class _Level:
    """One level that can be edited: its widgets, and what it was."""

    def __init__(self, number: int, dot: str, given: dict[str, Any] | None, price: str, size: str, open_: bool):
        self.number, self.given, self.was, self.open = number, given, (price, size), open_
        self.mark = ipywidgets.HTML(f'<span class="sol-tp">{dot_html(dot)} TP{number + 1}</span>')
        self.price = ipywidgets.Text(price, disabled=not open_, layout={"width": "104px"})
        self.size = ipywidgets.Text(size, disabled=not open_, layout={"width": "62px"})
        self.drop = ipywidgets.Button(description="×", tooltip=f"Remove TP{number + 1}", disabled=not open_)
        for field in (self.price, self.size):
            field.add_class("sol-number")
        self.drop.add_class("sol-icon")
        self.box = ipywidgets.HBox([self.mark, self.price, self.size, self.drop])
        self.box.add_class("sol-row")

    @property
    def widgets(self) -> list[Any]:
        """All of them."""
        return [self.mark, self.price, self.size, self.drop, self.box]

    @property
    def touched(self) -> bool:
        """Whether it is not what it was."""
        return self.open and (self.price.value.strip(), self.size.value.strip()) != self.was

    def show(self, dot: str, price: str, size: str) -> None:
        """It stands otherwise now; what the user is writing stays."""
        value = f'<span class="sol-tp">{dot_html(dot)} TP{self.number + 1}</span>'
        if self.mark.value != value:
            self.mark.value = value
        if not self.touched and (price, size) != self.was:
            self.was = (price, size)
            self.price.value, self.size.value = price, size

    def plan(self) -> dict[str, Any]:
        """The level as a spec has it. What was not touched stays as it was given, a distance a distance."""
        given = {"target": self.was[0], **(self.given or {}), "size": self.size.value.strip()}
        if self.given is None or self.price.value.strip() != self.was[0]:
            given["target"] = self.price.value.strip()
        return given


class Board(ipywidgets.VBox):
    """A session on a screen. `session`: one of this process (`so.paper`), or of another (`so.connect`).

    `theme`: auto, light or dark. `name`: a board of that name that is still there is closed, so that a cell can be run again.
    `selected`: the number of the order that is shown, None for none; may be set. `close()` ends it; the session goes on.
    """

    selected = traitlets.Int(None, allow_none=True)

    def __init__(self, session: Any, *, theme: str = "auto", name: str = "board"):
        if theme not in THEMES:
            raise SpecError.one("theme", theme, "is not one", f"use {', '.join(THEMES)}")
        if not hasattr(session, "state") or not hasattr(session, "on_event"):
            raise SpecError.one("session", session, "is not a session", "give so.paper(...) or so.connect(...)")
        self.hub = Hub(name)
        try:
            self._build(session, theme)
        except BaseException:
            self.hub.close()
            raise

    def _build(self, session: Any, theme: str) -> None:
        self._rows: dict[int, dict[str, Any]] = {}
        self._prices: dict[str, dict[str, Any]] = {}
        self._head: dict[str, Any] = {}
        self._detail: dict[str, Any] | None = None
        self._detail_price: str | None = None
        self._log: list[dict[str, Any]] = []
        self._changes: list[dict[str, Any]] = []
        self._logged = 0
        self._path: list[tuple[int, float]] = []
        self._drawn = self._living = self._removed = False
        self._chosen: int | None = None
        self._wanted: int | None = None
        """An order that was chosen and is not known here yet: the session is asked for it."""
        self._mirrors = False
        """Whether `selected` is being written from here, which is nobody's choice."""
        self._seen: tuple[int, int] | None = None
        self._own: tuple[int, int, int] | None = None
        """The last of our own actions: order, version that the user had seen, version that it led to."""
        self._switches: list[bool] = []
        """What break-even was switched to, and has not been answered yet."""
        self._spoke = 0.0
        self._forced: dict[str, Any] | None = None
        self._tables: tuple[Any, ...] = ()
        self._levels: list[_Level] = []
        self._shape: Any = None
        self._moving: dict[str, Any] = {}
        self.watch = Watch(session, self.hub, self._news)
        self._rows = {n: row_of(o, self.watch.price(o)) for n, o in self.watch.orders.items()}
        self._prices, self._head = self._prices_now(), self._head_now()
        first = self._first()

        self.manners = Manners(theme=theme)
        self.dialog = Dialog(self.hub, theme=theme)
        self.view = BoardPart("session", self._whole_session, theme=theme, selected=first)
        if first is not None and self._rows[first]["section"] != "living":
            self.view.section = {"attention": "living"}.get(self._rows[first]["section"], self._rows[first]["section"])
        self.detail = BoardPart("order", lambda: {"order": self._detail}, theme=theme)
        self.events = BoardPart("log", self._whole_log, theme=theme)
        self.chart = OrderChart(theme=theme, height=460)
        self._make_fields()
        self.events.add_class("sol-log")
        left = ipywidgets.VBox([self.chart, self.events])
        self.card = ipywidgets.VBox([self.detail, self._buttons_box, self._said["actions"]])
        right = ipywidgets.VBox([self.card, self._ladder_card, self._protection_card, self._funds_card])
        for box in (left, right):
            box.add_class("sol-column")
        self.card.add_class("sol-card")
        self.split = ipywidgets.Box([left, right])
        self.split.add_class("sol-split")
        self.dialog.add_class("sol-quiet")
        super().__init__([self.manners, self.view, self.split, self.dialog], selected=first)
        self.add_class("sol-panel")
        free(self)
        self._show_order(first)
        self.view.observe(self._selects, "selected")
        self.observe(self._selects, "selected")
        self.detail.on_msg(lambda _, content, buffers: self.hub.post(self._acknowledged, content))
        self._unmove = self.chart.on_move(lambda line, price, final: self.hub.post(self._dragged, line, price, final))
        self.hub.on_close(self._farewell)
        self.hub.every(PULL_S, self._beat)

    # -------------------------------------------------------------------------------------------- the fields

    def _make_fields(self) -> None:
        make, name = ipywidgets, self.manners.name
        self.buttons: dict[str, Any] = {}

        def button(key: str, text: str, tip: str, act: Callable[[], Any], css: str = "") -> Any:
            self.buttons[key] = made = make.Button(description=text, tooltip=tip)
            if css:
                made.add_class(css)
            made.on_click(lambda _: self.hub.post(act))
            return made

        def field(key: str, label: str, hint: str, width: str = "104px") -> Any:
            made = self.fields[key] = make.Text("", placeholder=hint, layout={"width": width})
            made.add_class("sol-number")
            return name(made, label, autocomplete="off", spellcheck="false")

        def line(*widgets: Any) -> Any:
            box = make.HBox([*widgets])
            box.add_class("sol-row")
            return box

        def words(text: str) -> Any:
            made = make.HTML(f'<span class="sol-words">{text_of(text)}</span>')
            made.add_class("sol-grow")
            return made

        def card(*widgets: Any) -> Any:
            box = make.VBox([*widgets])
            box.add_class("sol-card")
            return box

        self.fields: dict[str, Any] = {}
        self._said = {
            place: make.HTML("") for place in ("actions", "ladder", "protection", "stop", "rate", "even", "funds")
        }
        for said in self._said.values():
            said.add_class("sol-place")
        self._buttons_box = line(
            button(
                "open_now", "Open now", "Stop waiting, and enter at market", lambda: self._act("actions", "open_now")
            ),
            button("close", "Close at market…", "Sell everything now", self._ask_close),
            button("cancel", "Cancel…", "Stop managing this order", self._ask_cancel, "sol-danger"),
            button("share", "Share", "A link to what this order asks for", self._share),
            button("refresh", "Refresh", "Look up at the broker what is under way", self._refresh),
        )
        self._ladder = make.VBox([])
        self._ladder.add_class("sol-ladder")
        titles = make.HTML('<div class="sol-titles"><span>Level</span><span>Price</span><span>Size %</span></div>')
        self._ladder_card = card(
            heading("Ladder"),
            titles,
            self._ladder,
            line(button("add_level", "+ Level", "Add a level", self._add_level)),
            self._said["ladder"],
        )
        self.fields["even"] = make.Checkbox(False, description="Break-even after TP1", indent=False)
        self.fields["even"].add_class("sol-switch")
        self.fields["even"].observe(lambda change: self.hub.post(self._switched, change["new"]), "value")
        self._apply_box = line(
            button("apply", "Apply", "Send these changes", self._apply, "sol-go"),
            button("undo", "Undo", "Back to how the order stands", self._undo),
            button("force", "Do it all the same", "Send it although it triggers at once", self._force, "sol-danger"),
        )
        self._protection_card = card(
            heading("Protection"),
            line(words("Stop loss"), field("stop", "Stop loss, a price or a distance such as -5%", "none")),
            self._said["stop"],
            line(
                words("Trailing, callback rate"), field("rate", "Callback rate of the trailing stop, such as 2%", "off")
            ),
            self._said["rate"],
            self.fields["even"],
            self._said["even"],
            self._apply_box,
            self._said["protection"],
        )
        unit = self.fields["unit"] = make.Dropdown(
            options=[("quantity", "quantity"), ("cost", "cost")], layout={"width": "104px"}
        )
        name(unit, "What the amount is of")
        self._funds_card = card(
            heading("Funds"),
            line(
                field("amount", "Amount to add or reduce", "amount"),
                unit,
                field("limit", "Limit price, empty for market", "at market", "92px"),
            ),
            line(
                button("add", "Add funds", "Buy more", lambda: self._funds("add_funds")),
                button("reduce", "Reduce", "Sell some", lambda: self._funds("reduce_funds")),
            ),
            self._said["funds"],
        )
        for key in ("stop", "rate"):
            self.fields[key].observe(lambda change: self.hub.post(self._touched), "value")
        self._shown: dict[str, Any] = {"stop": "", "rate": "", "even": False}
        self._even: Any = None
        """Break-even as it was when it was last on, to be switched on again as such."""

    # -------------------------------------------------------------------------------------------- what comes in

    def _beat(self) -> None:
        if not self.watch.final and time.monotonic() >= self.watch.rest:
            self.watch.pull()
        if time.monotonic() - self._spoke >= BEAT_S and not self.watch.final:
            self._push({})

    def _push(self, message: dict[str, Any]) -> None:
        self._spoke = time.monotonic()
        self.view.send(message)

    def _news(self, numbers: list[int], ticks: Any, changes: list[dict[str, Any]] | None) -> None:
        """What a look has found."""
        watch = self.watch
        message: dict[str, Any] = {}
        first = not self._rows
        prices = self._prices_now()
        moved = {
            symbol
            for symbol, now in prices.items()
            if any(now.get(k) != self._prices.get(symbol, {}).get(k) for k in now if k != "age")
        }
        if moved:
            message["prices"] = {
                s: difference(self._prices.get(s), prices[s]) | {"age": prices[s]["age"]} for s in moved
            }
        self._prices = prices
        gone = self._rows.keys() - watch.orders.keys()
        touched = {*numbers, *(n for n, o in watch.orders.items() if o["symbol"] in moved and o["status"] not in OVER)}
        rows = []
        for number in sorted(touched):
            order = watch.orders[number]
            row = row_of(order, watch.price(order))
            if different := difference(self._rows.get(number), row):
                rows.append({"n": number, **different})
            self._rows[number] = row
        head = self._head_now()
        if different := difference(self._head, head):
            message["head"] = different
        self._head = head
        if gone:  # another session took the place of this one
            self._rows = {n: row for n, row in self._rows.items() if n not in gone}
            message = {"all": self._whole_session()}
        elif rows:
            message["rows"] = rows
        if message:
            self._push(message)
        chosen = self._chosen
        if gone and chosen not in self._rows:
            self._choose(self._first())
            return
        if chosen is None and first and self._rows and self._wanted is None:
            self._choose(self._first())
            return
        if chosen is not None:
            self._follow_order(chosen, chosen in touched, ticks, changes)
        if "head" in message or "all" in message:
            self._enable()

    def _follow_order(self, number: int, touched: bool, ticks: Any, changes: list[dict[str, Any]] | None) -> None:
        """The chosen order goes on."""
        order = self.watch.orders[number]
        if self._drawn and ticks is not None and len(ticks.ts):
            if self.chart_empty:
                self._draw_ticks(order, ticks)
            else:
                self.chart.append(ticks.ts, ticks.price)
        if changes is None:
            self._read_log(number)
        else:
            mine = [change for change in changes if change["order"] == number and change["seq"] > self._logged]
            if mine and self._drawn:
                self._add_to_log(mine)
        if touched:
            self._draw_order()
            if self._drawn:
                stop = order["stop"]
                when = self._now_of(order["symbol"])
                if stop is not None and when and (not self._path or self._path[-1][1] != float(stop)):
                    self._path.append((max(when, *(ts for ts, _ in self._path[-1:]), 0), float(stop)))
                self._draw_path(order)
        elif self._detail is not None:
            price = self._price_text(order)
            if price != self._detail_price:
                self._detail_price = self._detail["price"] = price
                self.detail.send({"price": price})

    def _prices_now(self) -> dict[str, dict[str, Any]]:
        now = time.monotonic()
        found: dict[str, dict[str, Any]] = {}
        for symbol, market in self.watch.symbols.items():
            prices: dict[str, Any] = {name: market[name] for name in ("price", "bid", "ask", "mark") if name in market}
            age = round(1000 * (now - self.watch.ages.get(symbol, now)))
            found[symbol] = {
                **prices,
                "ts": market["ts"],
                "state": market["state"],
                "age": age,
                "digits": digits_of(market),
            }
        return found

    def _head_now(self) -> dict[str, Any]:
        watch = self.watch
        dot, kind, word, text = FEEDS.get(watch.status, FEEDS["starting"])
        if watch.error:
            text = f"{text} {watch.error}".strip()
        alerts = [
            {"text": f"#{n} {o['symbol']}: {o['attention']}; the position is still held", "kind": "bad", "order": n}
            for n, o in watch.orders.items()
            if o["attention"] and o["status"] not in OVER
        ]
        if watch.halted:
            alerts.insert(0, {"text": f"HALTED: nothing is sent to the exchange ({watch.halted})", "kind": "bad"})
        for symbol, market in watch.symbols.items():
            if market["state"] == "stale" and watch.status not in ("ended", "closed", "stopped"):
                alerts.append({"text": f"{symbol}: no ticks come", "kind": "bad"})
            if market["held_back"]:
                count = f"{market['held_back']:,}"
                alerts.append({"text": f"{symbol}: {count} ticks were held back as outliers", "kind": "warn"})
        name = watch.name or str(getattr(watch.session, "name", "")) or "session"
        return {
            "name": name,
            "mode": watch.mode,
            "local": watch.local,
            "final": watch.final,
            "feed": {"dot": dot, "kind": kind, "word": word, "text": text},
            "alerts": alerts,
        }

    def _whole_session(self) -> dict[str, Any]:
        return {"head": self._head, "prices": self._prices, "rows": [*self._rows.values()]}

    def _whole_log(self) -> dict[str, Any]:
        return {"lines": self._log, "title": self._log_title()}

    def _log_title(self) -> str:
        return "" if self._chosen is None else f"Events of order #{self._chosen}"

    def _first(self) -> int | None:
        """The order to begin with: one that needs attention, then the newest that lives, waits, is over."""
        rows = sorted(self._rows.values(), key=standing)
        return int(rows[0]["n"]) if rows else None

    # -------------------------------------------------------------------------------------------- the chosen order

    def _selects(self, change: Any) -> None:
        """Somebody has set `selected`: a cell, the browser. From any thread."""
        if not (self._mirrors and self.hub.here):
            self.hub.post(self._choose, change["new"])

    def _mirror(self) -> None:
        """Let `selected` say, here and in the browser, which order is shown."""
        self._mirrors = True
        try:
            self.view.selected = self.selected = self._chosen
        finally:
            self._mirrors = False

    def _choose(self, number: int | None) -> None:
        self._wanted = None
        if number is not None and number not in self._rows:
            self._look_for(number)
        elif number == self._chosen:
            self._mirror()
        else:
            self._show_order(number)

    def _look_for(self, number: int) -> None:
        """An order that is not known here: it was placed this very moment, or there is none."""
        self._wanted = number

        def found(state: Any, error: BaseException | None) -> None:
            if error is None and state["orders"] and self.watch.takes(state):
                self._news([number], None, [])
            if self._wanted != number:
                return
            if number in self._rows:
                self._choose(number)
            else:
                self._wanted = None
                self._mirror()
                text = f"There is no order {number}" if error is None else f"Order {number} cannot be shown: {error}"
                self.manners.say(text, urgent=True)

        self.hub.ask(lambda: self.watch.session.state([number]), found)

    def _show_order(self, number: int | None) -> None:
        self._chosen = number
        self._seen = self._detail = None
        self._drawn, self._changes, self._log, self._logged, self._path = False, [], [], 0, []
        self._shape = None
        self._own, self._switches, self._even = None, [], None
        self._said_clear()
        for key in ("amount", "limit"):
            self.fields[key].value = ""
        self._shown = {"stop": "", "rate": "", "even": False}
        for key in ("stop", "rate"):
            self.fields[key].value = ""
        self._mirror()
        self.chart.lines, self.chart.marks = [], []
        self.chart.set_path("stop", None)
        self.chart_empty = True
        self.chart.set_ticks(None)
        self.events.send({"lines": [], "title": self._log_title()})
        if number is None:
            self.watch.follow(None)
        else:
            order = self.watch.orders[number]
            self.watch.follow(None)
            self._read_log(number)
            self._draw_ladder(order)
        self._draw_order()

    def _read_log(self, number: int) -> None:
        """The history of an order, and the ticks that are remembered of its market, both from the session."""
        order = self.watch.orders[number]
        symbol, trigger = order["symbol"], order["spec"].get("trigger", "last")
        session = self.watch.session

        def look() -> Any:
            ticks = None
            with suppress(SmartOrdersError):  # a session that has no ticks yet
                ticks = session.recent(symbol, 0, trigger)
            told = session.last_changes if self.watch.over else lambda order: session.changes(limit=None, order=order)
            return told(number), ticks

        def found(result: Any, error: BaseException | None) -> None:
            if number != self._chosen:
                return
            if error is not None:
                self._say("actions", f"its events could not be read: {error}")
                return
            changes, ticks = result
            self._drawn = True
            self._changes, self._log, self._logged, self._path = [], [], 0, []
            if ticks is not None and len(ticks.ts):
                self._draw_ticks(order, ticks)
                self.watch.follow(symbol, trigger, ticks.first + len(ticks.ts))
                self._path = stop_path(order, changes, ticks)
            else:
                self.watch.follow(symbol, trigger)
                self._path = stop_path(order, changes, None)
            self._add_to_log(changes, anew=True)
            self._draw_path(order)
            self._draw_order()

        self.hub.ask(look, found)

    def _add_to_log(self, changes: list[dict[str, Any]], anew: bool = False) -> None:
        self._changes += changes
        self._logged = changes[-1]["seq"] if changes else self._logged
        lines = [log_line(change) for change in changes[-LOG:]]
        self._log = [*reversed(lines), *self._log][:LOG]
        if anew:
            self.events.send({"lines": self._log, "title": self._log_title()})
        else:
            self.events.send({"more": lines})
            order = self.watch.orders[self._chosen] if self._chosen is not None else None
            if order is not None:
                self._path += [(instant_ns(c["ts"]), float(c["stop"])) for c in changes if c["stop"] is not None]
                self._path.sort(key=lambda point: point[0])
                self._draw_path(order)
        self._draw_marks()
        if not anew and any(change["kind"] in ("filled", "alert", "ended", "break_even") for change in changes):
            self.manners.say(f"Order {self._chosen}: " + ", ".join(told(change) for change in changes[-3:]))

    def _draw_ticks(self, order: Mapping[str, Any], ticks: Any) -> None:
        market = self.watch.symbols[order["symbol"]]
        instrument = Instrument(
            symbol=order["symbol"],
            price_increment=market["price_increment"],
            quantity_increment=market["quantity_increment"],
        )
        self.chart.set_ticks(Ticks.from_arrays(ticks.ts, ticks.price, instrument=instrument, unit="ns"))
        self.chart_empty = False

    def _now_of(self, symbol: str) -> int:
        ts = self.watch.symbols.get(symbol, {}).get("ts")
        return instant_ns(ts) if ts else 0

    def _draw_path(self, order: Mapping[str, Any]) -> None:
        if not self._path:
            return
        if len(self._path) > KEPT:
            self._path = self._path[-KEPT // 2 :]
        end = instant_ns(order["exit_ts"]) if order["exit_ts"] else self._now_of(order["symbol"])
        points = [*self._path]
        if end > points[-1][0] and order["stop"] is not None:
            points.append((end, float(order["stop"])))
        self.chart.set_path("stop", np.array([ts for ts, _ in points], np.int64), np.array([p for _, p in points]))

    def _draw_marks(self) -> None:
        marks: list[dict[str, Any]] = []
        order = self.watch.orders.get(self._chosen) if self._chosen is not None else None
        for change in self._changes if order is not None else ():
            price = change["price"]
            if price is None or change["kind"] not in ("filled", "held", "break_even", "alert"):
                continue
            way = way_of(order or {})
            buys = (change["role"] in ("entry", "add_funds", "open_now")) == (way > 0)
            kind = "event" if change["kind"] in ("break_even", "alert") else "buy" if buys else "sell"
            marks.append({"ts": instant_ns(change["ts"]), "price": float(price), "kind": kind, "text": told(change)})
        self.chart.marks = marks[-1000:]

    def _draw_order(self) -> None:
        """The card, lines and fields of the chosen order, where they are another."""
        number = self._chosen
        order = None if number is None else self.watch.orders.get(number)
        detail = None if order is None else self._detailed(order)
        if detail != self._detail or detail is None:
            self._detail = detail
            self._detail_price = None if detail is None else detail["price"]
            self.detail.send({"order": detail})
        if order is not None:
            step = Decimal(self.watch.symbols[order["symbol"]]["price_increment"])
            lines = chart_lines(order, step, not self.watch.final)
            if lines != self.chart.lines and not self._moving:
                self.chart.lines = lines
            self._fill_fields(order)
        self._enable()

    def _price_text(self, order: Mapping[str, Any]) -> str | None:
        price = self.watch.price(order)
        return None if price is None else f"{price:.12g}"

    def _detailed(self, order: Mapping[str, Any]) -> dict[str, Any]:
        row = row_of(order, self.watch.price(order))
        levels = [
            {"price": level["price"], "size": level["size"], "dot": dot}
            for level, dot in zip(order["levels"], row["levels"], strict=True)
        ]
        words = [entry_words(order), order["tag"], order["spec"].get("note", ""), order["attention"] or ""]
        return {
            **row,
            "levels": levels,
            "words": " · ".join(filter(None, words)),
            "version": order["version"],
            "price": self._price_text(order),
            "digits": digits_of(self.watch.symbols[order["symbol"]]),
        }

    def _acknowledged(self, content: Any) -> None:
        """The browser has drawn a version: what is clicked after this was decided on it."""
        seen = content.get("seen") if isinstance(content, dict) else None
        if isinstance(seen, list) and len(seen) == 2 and all(isinstance(each, int) for each in seen):
            self._seen = (seen[0], seen[1])

    def _version(self) -> int | None:
        """The version of the chosen order that the user saw: the one the browser drew last, or the one that was sent if there is none."""
        if self._seen is not None and self._seen[0] == self._chosen:
            return self._seen[1]
        return None if self._detail is None else int(self._detail["version"])

    # -------------------------------------------------------------------------------------------- fields

    def _fill_fields(self, order: Mapping[str, Any]) -> None:
        spec = order["spec"]
        stop, trail, even = spec.get("stop_loss"), spec.get("trailing_stop"), spec.get("break_even")
        now = {
            "stop": "" if stop is None else str(stop["target"]),
            "rate": "" if trail is None else _percent(trail["callback_rate"]),
            "even": even is not None,
        }
        if even is not None:
            self._even = even
        if self._switches:
            del now["even"]
        for key, value in now.items():
            untouched = self.fields[key].value == self._shown[key]
            self._shown[key] = value
            if untouched and self.fields[key].value != value:
                self.fields[key].value = value
        after = 1 if even is None else even.get("after", 1)
        self.fields["even"].description = f"Break-even after TP{after}"
        self._draw_ladder(order)
        self._touched()

    def _draw_ladder(self, order: Mapping[str, Any]) -> None:
        """The levels as fields. They are made anew only where there are others, so that nobody loses what he is typing in."""
        dots = level_dots(order, self.watch.price(order))
        shape = (order["order"], [level["status"] for level in order["levels"]], self.watch.final)
        texts = [(_short(level["price"]), plain(Decimal(level["size"]))) for level in order["levels"]]
        if shape == self._shape:
            for level in self._levels:
                if level.number < len(texts):
                    level.show(dots[level.number], *texts[level.number])
            return
        dropped = (
            self._shape is not None and self._shape[0] == shape[0] and any(level.touched for level in self._levels)
        )
        self._shape = shape
        waiting = [k for k, level in enumerate(order["levels"]) if level["status"] == "PENDING"]
        specs = order["spec"].get("take_profits", [])[-len(waiting) :] if waiting else []
        same = [_sized(specs[k]["size"]) for k in range(len(specs))] == [
            _sized(order["levels"][n]["size"]) for n in waiting
        ]
        given = dict(zip(waiting, specs, strict=True)) if same else {}
        over = order["status"] in OVER or self.watch.final
        levels = []
        for k, (price, size) in enumerate(texts):
            spec = given.get(k, {"target": price, "size": size})
            open_ = k in waiting and not over
            levels.append(_Level(k, dots[k], spec if open_ else None, price or str(spec["target"]), size, open_))
        self._set_levels(levels)
        if dropped:
            self._say("ladder", "The ladder has changed meanwhile; look at it again.", "note")

    def _set_levels(self, levels: list[_Level]) -> None:
        old, self._levels = self._levels, levels
        for level in levels:
            if level not in old:
                name = f"TP{level.number + 1}"
                self.manners.name(level.price, f"{name} price", autocomplete="off")
                self.manners.name(level.size, f"{name} size in percent", autocomplete="off")
                self.manners.name(level.drop, f"Remove {name}")
                level.drop.on_click(lambda _, level=level: self.hub.post(self._remove_level, level))
                for field in (level.price, level.size):
                    field.observe(lambda change: self.hub.post(self._touched), "value")
                free(level.box)
        self._ladder.children = [level.box for level in levels]
        gone = [level for level in old if level not in levels]
        self.manners.forget(*(widget for level in gone for widget in level.widgets))
        for level in gone:
            for widget in level.widgets:
                _end(widget)
        self._touched()

    def _ladder_plan(self, order: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The open levels as an edit takes them. Prices and distances do not mix: with one price, all are prices."""
        open_ = [level for level in self._levels if level.open]
        plan = [level.plan() for level in open_]
        distances = ["%" in str(one["target"]) for one in plan]
        if any(distances) and not all(distances):
            step = Decimal(self.watch.symbols[order["symbol"]]["price_increment"])
            for level, one in zip(open_, plan, strict=True):
                base = order["entry_price"] or order["spec"].get("entry", {}).get("price")
                price = resolved(one, base, -way_of(order), step)
                if not level.touched and level.given is not None and "%" not in level.was[0]:
                    one["target"] = level.was[0]
                elif price is not None:
                    one["target"] = plain(Decimal(str(price)))
        return plan

    def _add_level(self) -> None:
        number = max((level.number for level in self._levels), default=-1) + 1
        self._set_levels([*self._levels, _Level(number, "created", None, "", "", True)])

    def _remove_level(self, gone: _Level) -> None:
        if gone in self._levels:
            self._removed = True
            self._set_levels([level for level in self._levels if level is not gone])

    def _ladder_touched(self) -> bool:
        return self._removed or any(level.touched or (level.open and level.given is None) for level in self._levels)

    def _touched(self) -> None:
        """Something may have been typed: can it be sent?"""
        count = (
            sum(self.fields[key].value.strip() != self._shown[key] for key in ("stop", "rate")) + self._ladder_touched()
        )
        button = self.buttons["apply"]
        text = "Apply" if count < 2 else f"Apply {count} changes"
        if button.description != text:
            button.description = text
        for key in ("apply", "undo"):
            self._set(self.buttons[key], count > 0 and self._living)
        self.buttons["force"].layout.display = None if self._forced else "none"

    def _set(self, widget: Any, on: bool) -> None:
        if widget.disabled == on:
            widget.disabled = not on

    def _enable(self) -> None:
        """What can be done to the chosen order as it stands."""
        order = None if self._chosen is None else self.watch.orders.get(self._chosen)
        living = order is not None and order["status"] not in OVER and not self.watch.final
        pending = living and order is not None and order["status"] == "PENDING"
        for key, on in (
            ("open_now", pending),
            ("close", living and not pending),
            ("cancel", living),
            ("share", order is not None and not self.watch.final),
            ("refresh", order is not None and not self.watch.final),
            ("add", living),
            ("reduce", living),
            ("add_level", living),
        ):
            self._set(self.buttons[key], on)
        for key in ("stop", "rate", "even", "amount", "unit", "limit"):
            self._set(self.fields[key], living)
        self._living = living
        self._touched()

    def _undo(self) -> None:
        self._forced = None
        for key in ("stop", "rate"):
            self.fields[key].value = self._shown[key]
        self._shape, self._removed = None, False
        self._said_clear()
        self._draw_order()

    def _apply(self) -> None:
        """Send what was typed, as one edit."""
        number = self._chosen
        if number is None:
            return
        order = self.watch.orders[number]
        changes: dict[str, Any] = {}
        try:
            if (text := self.fields["stop"].value.strip()) != self._shown["stop"]:
                changes["stop_loss"] = _stop_change(order, text)
            if (text := self.fields["rate"].value.strip()) != self._shown["rate"]:
                changes["trailing_stop"] = (
                    {**order["spec"].get("trailing_stop", {}), "callback_rate": text} if text else None
                )
            if self._ladder_touched():
                changes["take_profits"] = self._ladder_plan(order)
        except SmartOrdersError as error:
            self._refused("protection", error)
            return
        if changes:
            self._edit("protection", changes)

    def _force(self) -> None:
        if self._forced is not None:
            self._edit("protection", self._forced, force=True)

    def _switched(self, on: bool) -> None:
        if on == (self._switches or [self._shown["even"]])[-1] or self._chosen is None:
            return
        self._switches.append(on)
        self._edit("even", {"break_even": (self._even or True) if on else None})

    def _edit(self, place: str, changes: dict[str, Any], force: bool = False, line: str = "") -> None:
        def back(error: BaseException | None) -> None:
            if line:
                self._moving.pop(line, None)
            if place == "even" and self._switches:
                switched = self._switches.pop(0)
                if error is None:
                    self._shown["even"] = switched
            if error is None:
                self._forced, self._removed = None, False
                self._shown |= {
                    key: self.fields[key].value.strip() for key in ("stop", "rate") if _FIELD[key] in changes
                }
                if "take_profits" in changes:
                    self._shape = None
                return
            if isinstance(error, ActionRefused) and error.reason == "would_trigger":
                self._forced = changes
            if line:
                if any(drawn["id"] == line for drawn in self.chart.lines):
                    self.chart.reject(line, _plain_refusal(error))
                self._let_go(line)
            if place == "even":
                self.fields["even"].value = (self._switches or [self._shown["even"]])[-1]
            self._touched()

        self._act(place, "edit", force=force, then=back, **changes)

    def _funds(self, kind: str) -> None:
        amount, limit, unit = (self.fields[key].value.strip() for key in ("amount", "limit", "unit"))
        if not amount:
            self._refused("funds", SpecError.one("amount", None, "is missing", "write how much, such as 0.5"))
            return
        if kind == "reduce_funds" and unit == "cost":
            self._refused("funds", SpecError.one("amount", amount, "what is sold is a quantity", "choose quantity"))
            return

        def done(error: BaseException | None) -> None:
            if error is None:
                self.fields["amount"].value = self.fields["limit"].value = ""

        self._act("funds", kind, then=done, **{unit: amount}, **({"price": limit} if limit else {}))

    # -------------------------------------------------------------------------------------------- what is done

    def _act(
        self,
        place: str,
        kind: str,
        *,
        then: Callable[[BaseException | None], None] | None = None,
        version: int | None = None,
        **arguments: Any,
    ) -> None:
        """An action on the chosen order, on the version that the user saw; what becomes of it is said at `place`."""
        number, session = self._chosen, self.watch.session
        seen = self._version() if version is None else version
        if number is None:
            return

        def act() -> int:
            own, on = self._own, seen
            since = on
            if own is not None and on is not None and own[0] == number and own[1] <= on < own[2]:
                since, on = own[1], own[2]  # all that has happened since is what the user did himself
            done = getattr(session, kind)(number, version=on, **arguments)
            after = int(
                done["version"] if isinstance(done, dict) else done
            )  # a session watched from elsewhere says more
            self._own = None if since is None else (number, since, after)
            return after

        def answered(result: Any, error: BaseException | None) -> None:
            if then is not None and number == self._chosen:
                then(error)
            if error is not None:
                self._refused(place, error, number)
            elif number == self._chosen:
                self._said_clear()
                self._say(place, _DONE[kind], "done")
                self.manners.say(f"Order {number}: {_DONE[kind]}")
            self.watch.pull()

        self.hub.ask(act, answered)

    def _refused(self, place: str, error: BaseException, number: int | None = None) -> None:
        """Say what was refused, where it was asked."""
        if not isinstance(error, SmartOrdersError):
            log.error("an action of the board failed: %s", error, exc_info=error)
        text = _plain_refusal(error)
        self.manners.say(text, urgent=True)
        if number not in (None, self._chosen):
            return
        self._said_clear()
        if isinstance(error, SpecError):
            at: dict[str, list[str]] = {}
            for problem in error.problems:
                at.setdefault(_place_of(problem.path, place), []).append(str(problem))
            for spot, lines in at.items():
                self._say(spot, "\n".join(lines))
        else:
            self._say(place, text)

    def _say(self, place: str, text: str, kind: str = "problem") -> None:
        self._said[place].value = said_html(text, kind)
        for key in {"stop": ("stop",), "rate": ("rate",), "funds": ("amount",)}.get(place, ()):
            self.manners.name(self.fields[key], aria_invalid=kind == "problem")

    def _said_clear(self) -> None:
        for said in self._said.values():
            if said.value:
                said.value = ""
        for key in ("stop", "rate", "amount"):
            self.manners.name(self.fields[key], aria_invalid=False)

    def _dragged(self, line: str, price: float, final: bool) -> None:
        """A line of the chart was moved: the field follows the hand, and the order when it lets go."""
        number = self._chosen
        if number is None:
            return
        order = self.watch.orders[number]
        market = self.watch.symbols[order["symbol"]]
        text = f"{price:.{digits_of(market)}f}"
        step = Decimal(market["price_increment"])
        stands = next((one["price"] for one in chart_lines(order, step) if one["id"] == line), None)
        if final and stands is not None and abs(stands - price) < float(step) / 2:  # put back where it was
            self._let_go(line)
            return
        self._moving[line] = price
        if line == "stop":
            self.fields["stop"].value = text
            if final:
                self._edit("stop", {"stop_loss": _stop_change(order, text)}, line=line)
        elif line == "entry":
            if final:
                entry = {**order["spec"].get("entry", {}), "price": text}
                self._edit("actions", {"entry": entry}, line=line)
        elif line.startswith("tp"):
            level = next((level for level in self._levels if line == f"tp{level.number}" and level.open), None)
            if level is None:
                self._moving.pop(line, None)
                return
            level.price.value = text
            if final:
                self._edit("ladder", {"take_profits": self._ladder_plan(order)}, line=line)

    def _let_go(self, line: str) -> None:
        """A line is no longer moved, and nothing has come of it: what followed the hand goes back."""
        self._moving.pop(line, None)
        if line == "stop":
            self.fields["stop"].value = self._shown["stop"]
        for level in self._levels:
            if line == f"tp{level.number}":
                level.price.value = level.was[0]
        self._draw_order()

    def _ask_cancel(self) -> None:
        order = None if self._chosen is None else self.watch.orders[self._chosen]
        if order is None:
            return
        number, lines, choices = order["order"], self._working(order), []
        version = self._version()
        if Decimal(order["held"] or 0):
            what = self._held_words(order)
            choices = [
                Choice("keep", "Keep the position", f"{what} stays, without a stop: nothing watches it any more."),
                Choice(
                    "close",
                    "Close at market",
                    f"{_sells(order)} {what} now{self._about(order)}; then the order is over.",
                ),
            ]
        else:
            lines.append("Nothing is held. The order ends.")

        def go(value: str) -> None:
            if number != self._chosen:
                self._say("actions", f"Another order was chosen meanwhile; order {number} is as it was.", "note")
            else:
                self._act("actions", "close_at_market" if value == "close" else "cancel", version=version)

        self.dialog.ask(f"Cancel order #{number}?", lines, go, go="Cancel order", safe="Keep order", choices=choices)

    def _ask_close(self) -> None:
        order = None if self._chosen is None else self.watch.orders[self._chosen]
        if order is None:
            return
        number, version = order["order"], self._version()
        lines = [f"{_sells(order)} {self._held_words(order)} now{self._about(order)}.", *self._working(order)]
        open_ = order["unrealized_pnl"]
        if open_ is not None:
            lines.append(f"Unrealised as it stands: {float(open_):+,.2f}, before fees and slippage.")

        def go(value: str) -> None:
            if number == self._chosen:
                self._act("actions", "close_at_market", version=version)

        self.dialog.ask(f"Close order #{number} at market?", lines, go, go="Close at market", safe="Keep it open")

    def _working(self, order: Mapping[str, Any]) -> list[str]:
        """What works for an order now, and what becomes of it when that ends."""
        digits = digits_of(self.watch.symbols[order["symbol"]])
        lines = ["This is a LIVE session: real money."] if self.watch.mode == "live" else []
        if order["status"] == "PENDING":
            lines.append(f"The entry still waits ({entry_words(order)}); it is taken back.")
        waiting = [level for level in order["levels"] if level["status"] == "PENDING"]
        sent = [level for level in order["levels"] if level["status"] == "TRIGGERED"]
        if waiting and order["status"] != "PENDING":
            prices = ", ".join(fixed(level["price"], digits) or "–" for level in waiting)
            one = len(waiting) == 1
            what = "The take-profit level that waits" if one else f"{len(waiting)} take-profit levels that wait"
            lines.append(f"{what} ({prices}) {'is' if one else 'are'} cancelled.")
        if sent:
            lines.append(
                f"{_many(len(sent), 'level')} at the exchange: taken back as far as it has not been filled by then."
            )
        if order["stop"] is not None:
            lines.append(f"The stop at {fixed(order['stop'], digits)} is watched no longer.")
        return lines

    def _held_words(self, order: Mapping[str, Any]) -> str:
        return f"{order['held']} {order['symbol'].partition('/')[0]}"

    def _about(self, order: Mapping[str, Any]) -> str:
        price = self.watch.price(order)
        return "" if price is None else f", at about {price:,.{digits_of(self.watch.symbols[order['symbol']])}f}"

    def _share(self) -> None:
        number, session = self._chosen, self.watch.session

        def shared(link: Any, error: BaseException | None) -> None:
            if error is not None:
                self._refused("actions", error, number)
                return
            text = link["link"] if isinstance(link, dict) else str(link)
            self.dialog.show(f"Share order #{number}", ["What the order asks for: no account, no secret."], text)

        if number is not None:
            self.hub.ask(lambda: session.share(number), shared)

    def _refresh(self) -> None:
        number, session = self._chosen, self.watch.session

        def looked(found: Any, error: BaseException | None) -> None:
            if error is not None:
                self._refused("actions", error, number)
                return
            count = found["looked_up"] if isinstance(found, dict) else int(found)
            text = (
                f"Looked up {_many(count, 'child order')} at the broker."
                if count
                else "Nothing is under way at the broker."
            )
            self._said_clear()
            self._say("actions", text, "done")
            self.watch.pull()

        if number is not None:
            self.hub.ask(lambda: session.refresh(number), looked)

    # -------------------------------------------------------------------------------------------- the end, and the page

    def _farewell(self) -> None:
        self.watch.close()
        self._unmove()
        with suppress(Exception):  # the kernel may be going down
            self._push(
                {"head": {"final": True, "feed": dict(zip(("dot", "kind", "word", "text"), _CLOSED, strict=True))}}
            )
        _end(self)

    def close(self) -> None:
        """End it: its threads stop, its widgets go. The session goes on."""
        hub = getattr(self, "hub", None)
        if hub is None or hub.here or hub.closed:
            super().close()
        else:
            hub.close()

    def __repr__(self) -> str:
        watch = self.watch
        living = sum(order["status"] not in OVER for order in watch.orders.values())
        return (
            f"Board({watch.name!r}, {watch.mode}, {watch.status}, {_many(len(watch.orders), 'order')}, {living} living)"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        made = super()._repr_mimebundle_(**kwargs)
        data = made[0] if isinstance(made, tuple) else made
        return {**(data or {}), "text/plain": repr(self), "text/html": self.picture()}

    def picture(self) -> str:
        """The board as HTML that needs nothing: for a notebook that is opened without its kernel."""
        return static_table(self._head, [*self._rows.values()], self._prices)


_CLOSED = {
    "dot": "cancelled",
    "kind": "warn",
    "word": "closed",
    "text": "This board is closed. The session may go on; run the cell again to see it.",
}
_FIELD = {"stop": "stop_loss", "rate": "trailing_stop"}
_DONE = {
    "edit": "changed",
    "open_now": "enters at market",
    "close_at_market": "closing at market",
    "cancel": "cancelled",
    "add_funds": "funds added",
    "reduce_funds": "funds reduced",
}


# ---------------------------------------------------------------------------------------------------------- small things


def _stop_change(order: Mapping[str, Any], text: str) -> dict[str, Any] | None:
    """The stop loss with another target; what else belongs to it stays."""
    return {**(order["spec"].get("stop_loss") or {}), "target": text} if text else None


def _plain_refusal(error: BaseException) -> str:
    """What is said of an error: one that another came first needs the way out, everything else has one."""
    if isinstance(error, StaleVersion):
        return "The order has moved on since you saw it; nothing was done. It is shown as it is now: look again, and decide anew."
    if isinstance(error, ActionRefused) and error.reason == "would_trigger":
        return "It would trigger at once on the last price, so it was not sent. “Do it all the same” sends it."
    if isinstance(error, (SmartOrdersError, ActionError)):
        return str(error)
    return f"{type(error).__name__}: {error}; nothing is known of what became of it, look at the log of the order"


def _place_of(path: str, place: str) -> str:
    """Where the problem of a field is said."""
    for start, spot in (
        ("stop_loss", "stop"),
        ("trailing_stop", "rate"),
        ("take_profits", "ladder"),
        ("break_even", "even"),
        ("quantity", "funds"),
        ("cost", "funds"),
        ("amount", "funds"),
        ("price", "funds"),
    ):
        if path.startswith(start) and (spot != "funds" or place == "funds"):
            return spot
    return place


def _short(text: str | None) -> str:
    return "" if text is None else str(text)


def _sized(size: Any) -> Decimal:
    return Decimal(str(size).rstrip("%"))


def _percent(rate: Any) -> str:
    text = str(rate)
    return text if "%" in text else f"{plain(Decimal(text) * 100)}%"


def _sells(order: Mapping[str, Any]) -> str:
    return "Sells" if way_of(order) > 0 else "Buys back"


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _end(widget: Any) -> None:
    """Close a widget and all that is in it."""
    for child in getattr(widget, "children", ()):
        _end(child)
    for part in ("layout", "style"):
        if isinstance(held := getattr(widget, part, None), ipywidgets.Widget):
            held.close()
    widget.unobserve_all()
    if isinstance(widget, Board):
        ipywidgets.VBox.close(widget)
    else:
        widget.close()
