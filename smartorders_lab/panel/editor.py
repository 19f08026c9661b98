"""LadderEditor: an order is shaped by its lines on a chart and by the fields beside it, with its record on the loaded ticks.

    editor = so.LadderEditor(ticks)
    editor                          # drag, type, undo
    editor.order                    # the order if it is valid, else None; editor.problems says why

What is typed stays as it is typed, whole or not. Lines and fields are two faces of one draft (draft.py); whatever changes it goes
through the hub, one change after another, and is one step of undo. The odds are reckoned beside it, always of the newest order: what
has been overtaken is never reckoned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import ipywidgets
import traitlets

from ..errors import DataError, Problem, SmartOrdersError, SpecError, short
from ..fields import Distance, percent, plain, target
from ..fills import FillModel
from ..links import encode
from ..odds import Odds, Record
from ..spec import MAX_LEVELS, SmartOrder
from ..ticks import Ticks
from . import draft as drafts
from .chart import OrderChart
from .draft import DEFAULTS, SIZES, Draft, Level, Market, Outlook, Shape, Step, read
from .odds_view import Keys, OddsView
from .parts import Hub, Manners, free, heading, said_html, text_of

HISTORY = 200
"""Most steps that can be undone."""
_KEYS_S = 1.0
"""Moves of one line by key that follow each other as fast as this are one step of undo."""
_HZ = 20.0
_STYLE = (Path(__file__).with_name("static") / "odds_editor.css").read_text("utf-8")
_ENTRIES = [
    ("At market", "market"),
    ("Limit", "limit"),
    ("Stop, at market", "stop"),
    ("Stop, limit", "stop_limit"),
    ("Trailing", "trailing"),
    ("Ladder of limits", "ladder"),
    ("Already held", "held"),
]
_ENTRY_FIELDS = {
    "entry.price": ("limit", "stop", "stop_limit", "held"),
    "entry.limit_price": ("stop_limit",),
    "entry.callback_rate": ("trailing",),
    "entry.activation": ("trailing",),
}
_GENERAL = ""
_GROUPS = {"sol-sides": "Side", "sol-form": "Exits as prices or distances"}
_LINES = {
    "entry": "entry.price",
    "entry_limit": "entry.limit_price",
    "entry_activation": "entry.activation",
    "stop": "stop_loss.target",
    "stop_limit": "stop_loss.limit",
    "emergency": "stop_loss.emergency",
    "activation": "trailing_stop.activation",
}
"""Lines of the chart whose price is the text at a path."""


class _Order(traitlets.Instance):
    """An order; that there is none, only the editor itself can say."""

    def set(self, obj: Any, value: Any) -> None:
        if value is None and obj._setting != threading.get_ident():
            raise DataError("order = None: cannot be set; load another order, or undo()")
        super().set(obj, value)


class LadderEditor(ipywidgets.VBox):
    """A smart order to be dragged, typed and tried.

    Parameters
    ----------
    ticks : the market; what the chart shows and the odds are reckoned on.
    order : what to begin with; without one, three levels around the last price.
    fills : fees and slippage, for risk and reward and for the odds; none if it is not given.
    entries : from how many moments the order is tried, or which (see Record). Of fewer ticks, from each.
    theme : auto, light or dark.
    name : an editor of that name that is still there is closed first.

    Attributes
    ----------
    order : the order, None while something is wrong; may be observed, and set, which is one step of undo.
    problems : list of Problem, warnings too.
    odds : Odds of the newest valid order that was tried, or None; may be observed.
    chart : the OrderChart, for more paths and marks.

    Observers are called on the thread of the editor. Raises DataError and SpecError for arguments that cannot be used.
    """

    order = _Order(SmartOrder, allow_none=True)
    problems: Any = traitlets.List()
    odds = traitlets.Instance(Odds, allow_none=True)

    def __init__(
        self,
        ticks: Ticks,
        order: SmartOrder | None = None,
        *,
        fills: FillModel | Mapping[str, Any] | None = None,
        entries: Any = 2000,
        theme: str = "auto",
        name: str = "editor",
    ):
        if not isinstance(ticks, Ticks):
            raise DataError(f"ticks = {short(ticks)}: is not Ticks; read them with Ticks.read(...)")
        if order is not None and not isinstance(order, SmartOrder):
            raise SpecError.one("order", order, "is not a SmartOrder", "build it with SmartOrder(...)")
        self._fills = fills if isinstance(fills, FillModel) else FillModel(**(fills or {}))
        self._ticks, self._entries = ticks, entries
        self._draft = self._first(order)
        self._anchor: Decimal | None = None
        self._market = self._measured()
        if order is None:
            self._draft = drafts.preset("1R · 2R · 3R", self._draft, self._market)
        self._watched = self._draft["trigger"]
        self._undo: list[Draft] = []
        self._redo: list[Draft] = []
        self._last_key, self._last_at = "", 0.0
        self._dragged: tuple[str, Draft, float] | None = None
        self._dragging: tuple[str, float] | None = None
        self._setting = 0
        self._closed = False
        self._record: Record | None = None
        self._wanted: SmartOrder | None = None
        self._tried: SmartOrder | None = None
        self._reckoning = False
        self._say_odds = False
        self._shown: dict[str, str] = {}
        self._inputs: dict[str, Any] = {}
        self._boxes: dict[str, ipywidgets.VBox] = {}
        self._parts: dict[str, ipywidgets.Box] = {}
        self._places: dict[str, _Place] = {}
        self._switches: dict[str, ipywidgets.Checkbox] = {}
        self._opened: dict[str, bool] = {}
        self._levels: list[_LevelRow] = []
        self._rungs: list[_RungRow] = []
        self._hidden: dict[int, bool] = {}
        self._owned: list[Any] = []
        self._hub = Hub(name, hz=_HZ)
        self._hub.on_close(self._end)
        self.manners = self._own(Manners(theme=theme))
        self.chart = self._own(OrderChart(ticks, theme=theme, height=430))
        self._view = self._own(OddsView(theme=theme))
        self._keys = self._own(Keys(sheet=_STYLE, groups=_GROUPS))
        self._plain = self._own(ipywidgets.Layout())
        self._styles: dict[type, Any] = {}
        super().__init__(self._build(), layout=self._own(ipywidgets.Layout(width="100%")))
        self.add_class("sol-panel")
        self.add_class("sol-editor")
        self._refresh()
        self.chart.on_move(self._moved)
        self._keys.on_msg(lambda _, content, buffers: self._hub.post(self._key, content))
        free(self)

    # ------------------------------------------------------------------------------------------------ for programs

    @property
    def ticks(self) -> Ticks:
        """The ticks that the order is shaped on."""
        return self._ticks

    @property
    def fills(self) -> FillModel:
        """Fees, slippage and the rest that is counted."""
        return self._fills

    @property
    def link(self) -> str | None:
        """The share link of the order, None while there is none. Setting it loads the order of a link; raises LinkError."""
        order = self.order
        return None if order is None else encode(order)

    @link.setter
    def link(self, text: str) -> None:
        self._do(self._load, SmartOrder.from_link(text))

    def code(self, language: str = "python") -> str:
        """Python or TOML that makes the order. Raises SpecError while there is none, DataError on another language."""
        if language not in ("python", "toml"):
            raise DataError(f"language = {short(language)}: must be python or toml")
        order = self.order
        if order is None:
            raise SpecError(
                [p for p in self.problems if p.level == "error"]
                or [Problem("order", None, "is not valid", "see problems")]
            )
        return drafts.python_code(order) if language == "python" else drafts.toml_code(order)

    @property
    def outlook(self) -> Outlook:
        """Risk and reward, per level and in total, as they are shown."""
        return drafts.outlook(self._draft, self._shape, self._fills)

    @property
    def draft(self) -> Draft:
        """What stands in the fields."""
        return self._draft

    def undo(self) -> bool:
        """Take back the last change; False if there is none."""
        return bool(self._do(self._step, self._undo, self._redo))

    def redo(self) -> bool:
        """Make the change again that was taken back last; False if there is none."""
        return bool(self._do(self._step, self._redo, self._undo))

    def preset(self, name: str) -> None:
        """Give the order the shape of a preset, one that comes along or one that was saved. Raises DataError."""
        self._do(self._preset, name)

    def save_preset(self, name: str) -> None:
        """Keep the shape of the order under a name, for later and for other markets. Raises DataError."""
        self._do(self._save, name)

    def set_ticks(self, ticks: Ticks) -> None:
        """Go on with other ticks, e.g. more of the same; the order stays as it is."""
        if not isinstance(ticks, Ticks):
            raise DataError(f"ticks = {short(ticks)}: is not Ticks; read them with Ticks.read(...)")
        self._do(self._take, ticks)

    def measure_from(self, price: Any = None) -> None:
        """Measure a market entry from `price` instead of the last one; None: from the last one again.

        Raises SpecError on what is not a price.
        """
        try:
            anchor = None if price is None else drafts.number(price)
        except ValueError as error:
            raise SpecError.one("price", price, *str(error).split("; ", 1)) from None
        self._do(self._anchored, anchor)

    def settle(self, timeout: float = 30.0) -> bool:
        """Wait until what was typed and dragged so far is shown and its odds are there; False if `timeout` seconds passed first."""
        end = monotonic() + timeout
        while self._hub.settle(max(end - monotonic(), 0.001)):
            if self._dragging is None and not self._reckoning:
                return True
            if monotonic() > end:
                break
        return False

    def close(self) -> None:
        """The end of it, of its widgets and threads. Twice does no harm."""
        hub = getattr(self, "_hub", None)
        if hub is None:  # it never came to be
            super().close()
        else:
            hub.close()

    def __repr__(self) -> str:
        state = "closed" if self._closed else str(self.order or f"{len(self.problems)} problems")
        return f"<LadderEditor {self._ticks.symbol or 'ticks'}: {state}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and for a page without a kernel what it showed last."""
        found = super()._repr_mimebundle_(**kwargs)
        if found is None:
            return None
        return {**found, "text/plain": repr(self), "text/html": self._still()}

    def _still(self) -> str:
        odds = "" if self.odds is None else self.odds._repr_html_()
        what = "no valid order" if self.order is None else text_of(self.order)
        return (
            f"<div style='font-family:system-ui,sans-serif'><div style='font-weight:600'>Ladder editor: {what}</div>"
            f"{self.chart.picture()}{self._reward_html(inline=True)}{odds}</div>"
        )

    def _do(self, fn: Callable[..., Any], *args: Any) -> Any:
        """`fn(*args)` on the thread of the editor, waited for; what it raises is raised here."""
        if self._hub.here:
            return fn(*args)
        done, found = threading.Event(), list[Any]()

        def work() -> None:
            try:
                found.append((fn(*args), None))
            except Exception as error:
                found.append((None, error))
            finally:
                done.set()

        if not self._hub.post(work):
            raise DataError("this editor is closed; make a new one: LadderEditor(ticks, order)")
        while not done.wait(0.5):
            if self._hub.closed and not done.wait(5):
                raise DataError("this editor was closed meanwhile; make a new one: LadderEditor(ticks, order)")
        result, error = found[0]
        if error is not None:
            raise error
        return result

    @traitlets.validate("order")
    def _order_set(self, proposal: Any) -> Any:
        if self._setting == threading.get_ident():
            return proposal["value"]
        self._do(self._load, proposal["value"])
        return self.order

    # ------------------------------------------------------------------------------------------------ changes

    def _first(self, order: SmartOrder | None) -> Draft:
        if order is not None:
            return Draft.of(order)
        symbol = self._ticks.symbol or DEFAULTS["symbol"]
        return Draft({**DEFAULTS, "symbol": symbol, "trigger": self._ticks.triggers[0]})

    def _change(self, draft: Draft, key: str = "", own: str | None = None) -> None:
        """Take over a draft as one step of undo; with the `key` of the step before, as part of that one."""
        if draft == self._draft:
            self._refresh()
            return
        if not (key and key == self._last_key and self._undo):
            self._undo = [*self._undo[-HISTORY + 1 :], self._draft]
            if self.odds is not None:
                self._view.before = self.odds.to_dict()
        self._redo = []
        self._last_key, self._last_at = key, monotonic()
        self._draft = draft
        self._refresh()

    def _step(self, source: list[Draft], other: list[Draft]) -> bool:
        # the lists may have been replaced since
        source, other = (self._undo, self._redo) if other is not self._undo else (self._redo, self._undo)
        if not source:
            return False
        other.append(self._draft)
        self._draft = source.pop()
        self._last_key = ""
        if self.odds is not None:
            self._view.before = self.odds.to_dict()
        self._refresh()
        return True

    def _typed(self, path: str, text: str) -> None:
        """Somebody typed into the field at a path, or chose there."""
        before = self._draft
        try:
            old = before[path]
        except IndexError:
            return  # the row is gone meanwhile
        self._shown[path] = text
        if text == old:
            return
        if path == "entry":
            draft = drafts.with_entry(before, text, self._market)
        elif path in ("side", "symbol"):
            draft = drafts.mirrored(before, before.set(path, text), self._market)
        elif path == "size":
            draft = self._with_size(before, text)
        else:
            draft = before.set(path, text)
        going_on = self._last_key == f"type {path}" and (text.startswith(old) or old.startswith(text))
        if not going_on:
            self._last_key = ""
        self._change(draft, f"type {path}")

    def _with_size(self, draft: Draft, kind: str) -> Draft:
        """Another way to give the size; the amount is worked out if there is none yet."""
        found, changed = self._shape, draft.set("size", kind)
        if draft[kind].strip() or found.quantity is None:
            return changed
        if kind == "quantity":
            i = self._market.instrument
            amount = i.quantity(i.quantity_units(found.quantity))
        elif kind == "cost":
            amount = round(found.quantity * found.entry, 2)
        else:
            amount = round(found.quantity * abs(found.entry - (found.stop or found.entry)), 2)
        return changed.set(kind, plain(amount)) if amount > 0 else changed

    def _switched(self, name: str, on: bool) -> None:
        draft = self._draft.switch(name, on)
        up, move = draft.direction, self._market.move
        wanted = {
            "stop_loss": {"stop_loss.target": str(Distance(-up * move))},
            "stop_loss.limit": {"stop_loss.limit": self._beyond_stop(draft)},
            "trailing_stop": {"trailing_stop.callback_rate": f"{plain(move * 100)}%"},
            "trailing_take_profit": {"trailing_take_profit.callback_rate": f"{plain(move * 50)}%"},
        }.get(name, {})
        for path, text in wanted.items():
            if on and not draft[path].strip():
                draft = draft.set(path, text)
        self._change(draft)

    def _beyond_stop(self, draft: Draft) -> str:
        """A limit a little beyond the stop, price or distance as the stop is."""
        up = draft.direction
        stop = read(target, drafts.signed(draft["stop_loss.target"], -up))
        if isinstance(stop, Distance):
            return str(Distance(round(stop.fraction - up * self._market.move / 10, 8)))
        return "" if stop is None else plain(self._market.nearest(stop * (1 - up * self._market.move / 10)))

    def _pressed(self, what: str, row: int = 0) -> None:
        """One of the buttons of the ladder."""
        draft, levels, rungs = self._draft, list(self._draft.levels), list(self._draft.rungs)
        if what == "add":
            draft = self._with_level(draft)
        elif what == "remove" and row < len(levels):
            draft = replace(draft, levels=(*levels[:row], *levels[row + 1 :]))
        elif what == "up" and 0 < row < len(levels):
            # levels stand from the entry outwards: what moves is the share and the kind
            a, b = levels[row - 1], levels[row]
            levels[row - 1], levels[row] = a._replace(size=b.size, kind=b.kind), b._replace(size=a.size, kind=a.kind)
            draft = replace(draft, levels=tuple(levels))
        elif what == "down":
            return self._pressed("up", row + 1)
        elif what == "sort":
            draft = self._sorted(draft)
        elif what == "spread" and levels:
            sizes = drafts.spread(len(levels))
            draft = replace(draft, levels=tuple(v._replace(size=s) for v, s in zip(levels, sizes, strict=True)))
        elif what == "whole" and levels:
            sizes_read = [read(percent, level.size) for level in levels]
            if all(size is not None for size in sizes_read):
                sizes = drafts.normalised([size for size in sizes_read if size is not None])
                draft = replace(draft, levels=tuple(v._replace(size=s) for v, s in zip(levels, sizes, strict=True)))
        elif what == "form" and row < len(levels):
            path = f"take_profits[{row}].target"
            prices = isinstance(read(target, draft[path]), Decimal)
            draft = (drafts.as_distances if prices else drafts.as_prices)(draft, self._market, [path])
        elif what == "add rung":
            draft = self._with_rung(draft)
        elif what == "remove rung" and row < len(rungs):
            draft = replace(draft, rungs=(*rungs[:row], *rungs[row + 1 :]))
        elif what == "spread rungs" and rungs:
            sizes = drafts.spread(len(rungs))
            draft = replace(draft, rungs=tuple(r._replace(size=s) for r, s in zip(rungs, sizes, strict=True)))
        if draft != self._draft:
            self._change(draft)
        return None

    def _with_level(self, draft: Draft) -> Draft:
        """One more level beyond the last; it takes what no level takes, or half of the largest share."""
        levels, found, up = list(draft.levels), self._shape, draft.direction
        if len(levels) >= MAX_LEVELS:
            return draft
        known = [price for price in found.levels if price is not None]
        gap = abs(known[-1] - (known[-2] if len(known) > 1 else found.entry)) if known else Decimal(0)
        price = self._market.nearest(
            (known[-1] if known else found.entry) + up * (gap or found.entry * self._market.move)
        )
        in_prices = bool(levels) and isinstance(read(target, levels[-1].target), Decimal)
        text = plain(price) if in_prices else self._market.distance(price, found.entry)
        sizes = [size for size in found.sizes if size is not None]
        left = 100 - sum(sizes, Decimal(0))
        if left <= 0 and len(sizes) == len(levels) > 0:
            largest = max(range(len(sizes)), key=lambda i: (sizes[i], i))
            left = round(sizes[largest] / 2, 2)
            levels[largest] = levels[largest]._replace(size=plain(sizes[largest] - left))
        return replace(draft, levels=(*levels, Level(text, plain(max(left, Decimal("0.01"))))))

    def _with_rung(self, draft: Draft) -> Draft:
        rungs, up = draft.rungs, draft.direction
        if len(rungs) >= MAX_LEVELS:
            return draft
        known = [price for price in self._shape.rungs if price is not None]
        last = known[-1] if known else self._market.last
        gap = abs(known[-1] - known[-2]) if len(known) > 1 else last * self._market.move / 2
        price = self._market.nearest(last - up * gap)
        sizes = drafts.spread(len(rungs) + 1)
        grown = (*rungs, Step(plain(price)))
        return replace(draft, rungs=tuple(r._replace(size=s) for r, s in zip(grown, sizes, strict=True)))

    def _sorted(self, draft: Draft) -> Draft:
        """Levels from the entry outwards, if each can be read."""
        prices = self._shape.levels
        if any(price is None for price in prices):
            return draft
        pairs = zip(prices, draft.levels, strict=True)
        ordered = sorted(pairs, key=lambda pair: self._shape.up * (pair[0] or 0))
        return replace(draft, levels=tuple(level for _, level in ordered))

    def _formed(self, form: str) -> None:
        """All exits as prices, or all as distances."""
        change = drafts.as_prices if form == "prices" else drafts.as_distances
        self._change(change(self._draft, self._market, drafts.exits(self._draft)))

    def _load(self, order: SmartOrder) -> None:
        self._change(Draft.of(order))

    def _preset(self, name: str) -> None:
        make = drafts.preset if name in drafts.presets() else drafts.load_preset
        self._change(make(name, self._draft, self._market))

    def _save(self, name: str) -> None:
        drafts.save_preset(name, self._draft, self._market)
        self._presets.options = self._preset_options()

    def _take(self, ticks: Ticks) -> None:
        self._ticks, self._record, self._tried = ticks, None, None
        self._market = self._measured()
        self.chart.set_ticks(ticks)
        self._refresh()

    def _anchored(self, price: Decimal | None) -> None:
        self._anchor, self._tried = price, None
        self._market = self._measured()
        self._refresh()

    def _measured(self) -> Market:
        market = Market.of(self._ticks, self._draft["trigger"])
        return market if self._anchor is None else market._replace(last=self._anchor)

    def _key(self, content: Any) -> None:
        if isinstance(content, dict) and content.get("undo"):
            self._step(self._undo, self._redo)
        elif isinstance(content, dict) and content.get("redo"):
            self._step(self._redo, self._undo)

    # ------------------------------------------------------------------------------------------------ lines

    def _moved(self, line: str, price: float, final: bool) -> None:
        """From the chart, on the thread that serves the browser."""
        if final:
            self._dragging = None
            self._hub.post(self._dropped, line, price)
        else:
            self._dragging = line, price
            self._hub.later("drag", self._follow)

    def _follow(self) -> None:
        """The newest place of a line that is in somebody's hand."""
        at, self._dragging = self._dragging, None
        if at is None:
            return
        if self._dragged is None or self._dragged[0] != at[0]:
            price = next((line["price"] for line in self.chart.lines if line["id"] == at[0]), at[1])
            self._dragged = at[0], self._draft, price
            self._last_key = ""
        self._change(self._with_line(at[0], self._market.nearest(at[1])), f"drag {at[0]}")

    def _dropped(self, line: str, price: float) -> None:
        dragged, self._dragged = self._dragged, None
        by_key = dragged is None
        start = self._draft if dragged is None or dragged[0] != line else dragged[1]
        draft = self._with_line(line, self._market.nearest(price))
        problem = self._new_problem(start, draft)
        back = dragged is not None and dragged[0] == line and price == dragged[2]  # the drag was called off
        if problem is not None or back:
            if start != self._draft and self._undo:
                self._undo.pop()
            self._last_key, self._draft = "", start
            if problem is not None and not back:
                self.chart.reject(line, f"{problem.rule}; {problem.fix}" if problem.fix else problem.rule)
            self._refresh()
            return
        key = f"drag {line}" if not by_key else f"keys {line}"
        if by_key and not (self._last_key == key and monotonic() - self._last_at < _KEYS_S):
            self._last_key = ""
        self._say_odds = True
        self._change(draft, key)
        if not by_key:
            self._last_key = ""

    def _new_problem(self, start: Draft, draft: Draft) -> Problem | None:
        """What would be wrong after a move that was not before it."""
        known = {(p.path, p.rule.partition("(")[0]) for p in start.order(self._market.instrument)[1]}
        return next(
            (
                p
                for p in draft.order(self._market.instrument)[1]
                if p.level == "error" and (p.path, p.rule.partition("(")[0]) not in known
            ),
            None,
        )

    def _with_line(self, line: str, price: Decimal) -> Draft:
        """The draft with one line of the chart at `price`."""
        draft, found, market = self._draft, self._shape, self._market
        if line == "trail" and (found.activation or found.entry) != price:
            return draft.set("trailing_stop.callback_rate", market.rate(price, found.activation or found.entry))
        if line == "even":
            away = market.distance(price, found.entry, up=found.up < 0) if price != found.entry else "0"
            text = away if found.up > 0 else away.translate(str.maketrans("+-", "-+"))
            return draft.set("break_even.offset", text.lstrip("+"))
        kind, _, number = line.rpartition(" ")
        path = _LINES.get(line) or {"level": "take_profits[{}].target", "rung": "entry.rungs[{}].price"}.get(
            kind, ""
        ).format(number)
        try:
            if isinstance(read(target, draft[path]), Distance):
                return draft.set(path, market.distance(price, found.entry))
            return draft.set(path, plain(price))
        except (KeyError, IndexError):
            return draft  # a line that is gone

    def _lines(self) -> list[dict[str, Any]]:
        """What the chart shows of the draft."""
        draft, found, market, up = self._draft, self._shape, self._market, self._shape.up
        step = market.instrument.price_increment
        lines: list[dict[str, Any]] = []

        def add(
            line: str,
            kind: str,
            price: Decimal | None,
            label: str,
            detail: str = "",
            between: tuple[Decimal | None, Decimal | None] = (None, None),
            draggable: bool = True,
        ) -> None:
            """`between`: what it has to stay inside of, on the side of the entry and beyond."""
            if price is None or price <= 0:
                return
            near, far = between if up > 0 else between[::-1]
            low = float(near + step) if near is not None else float(step)
            high = float(far - step) if far is not None else None
            if float(price) < low or (high is not None and float(price) > high):
                low, high = float(step), None  # it is out of order already: let it be put right
            limits = {"low": low, "high": high} if draggable else {}
            about = {"id": line, "kind": kind, "price": float(price), "label": label, "detail": detail}
            lines.append(about | {"draggable": draggable, **limits})

        kind = draft["entry"]
        words = {"limit": "Entry limit", "stop": "Entry stop", "stop_limit": "Entry stop", "held": "Held at"}
        fixed_stop = isinstance(read(target, draft["stop_loss.target"]), Decimal) and "stop_loss" in draft.on
        fixed_level = bool(draft.levels) and isinstance(read(target, draft.levels[0].target), Decimal)
        room = (found.stop if fixed_stop else None, found.levels[0] if fixed_level else None)
        size = self._size_text()
        if kind in words:
            price = read(drafts.number, draft["entry.price"])
            add("entry", "entry", price, words[kind], size, room)
            if kind == "stop_limit":
                add("entry_limit", "entry", read(drafts.number, draft["entry.limit_price"]), "Entry limit")
        elif kind == "ladder":
            for i, (rung, price) in enumerate(zip(draft.rungs, found.rungs, strict=True)):
                nearer = found.rungs[i - 1] if i else None
                further = found.rungs[i + 1] if i + 1 < len(found.rungs) else None
                add(f"rung {i}", "entry", price, f"Rung {i + 1}", f"{rung.size} %", (further, nearer))
        else:
            add("market", "market", market.last, "Market", f"entry · {size}".strip(" ·"), draggable=False)
        if kind == "trailing":
            add("entry_activation", "entry", read(drafts.number, draft["entry.activation"]), "Entry arms")
        rewards = self._outlook.levels
        for i, (level, price) in enumerate(zip(draft.levels, found.levels, strict=True)):
            before = found.levels[i - 1] if i else found.entry
            after = found.levels[i + 1] if i + 1 < len(found.levels) else None
            reward = rewards[i]
            words_of = [_away(price, found.entry), f"{level.size} %"]
            words_of += [f"{_signed(reward.r, 1)} R"] if reward is not None and reward.r is not None else []
            add(f"level {i}", "level", price, f"TP{i + 1}", " · ".join(words_of), (before, after))
        detail = _away(found.stop, found.entry)
        beyond = found.entry
        if self._outlook.risk is not None and found.stop is not None:
            detail += f" · −{_money(self._outlook.risk)}"
        add("stop", "stop", found.stop, "Stop", detail, (None, beyond))
        add("stop_limit", "stop", found.stop_limit, "Stop limit", "", (None, (found.stop or beyond) + up * step))
        add("emergency", "stop", found.emergency, "Emergency", "", (None, found.stop))
        mark = found.activation or found.entry
        rate = draft["trailing_stop.callback_rate"]
        add("trail", "trail", found.trail, "Trail", f"{rate} behind", (None, mark))
        add("activation", "trail", found.activation, "Trail arms", "", (found.entry, None))
        count = draft["break_even.after"]
        add("even", "even", found.even, "Break-even", f"after TP{count}", (None, self._level(count)))
        return lines

    def _level(self, after: str) -> Decimal | None:
        number = int(after) - 1 if after.isdigit() else -1
        return self._shape.levels[number] if 0 <= number < len(self._shape.levels) else None

    # ------------------------------------------------------------------------------------------------ showing

    def _refresh(self) -> None:
        """Show the draft: fields, problems, lines, reckonings; and have its odds reckoned."""
        draft = self._draft
        if draft["trigger"] != self._watched:
            self._watched, self._market = draft["trigger"], self._measured()
        order, problems = draft.order(self._market.instrument)
        if draft["trigger"] not in self._ticks.triggers:
            known = self._ticks.triggers
            problems = [
                *problems,
                Problem("trigger", draft["trigger"], f"these ticks have {', '.join(known)} only", f"use {known[0]}"),
            ]
            order = None
        self._shape = drafts.shape(draft, self._market, self._fills)
        self._outlook = drafts.outlook(draft, self._shape, self._fills)
        with self.manners.hold_sync():
            self._fill()
            self._blame(problems)
            self._visible()
        lines = self._lines()
        if self._dragged is not None:  # the hand has it; where it was is what a refusal goes back to
            held, _, price = self._dragged
            lines = [{**line, "price": price} if line["id"] == held else line for line in lines]
        if lines != self.chart.lines:
            self.chart.lines = lines
        self._put(self._reward, self._reward_html())
        self._put(self._status, self._status_html(order, problems))
        self._undo_button.disabled, self._redo_button.disabled = not self._undo, not self._redo
        self._setting = threading.get_ident()
        try:
            self.problems = problems
            self.order = order
        finally:
            self._setting = 0
        self._show_code()
        self._want(order)

    def _fill(self) -> None:
        """The draft into the fields; what somebody typed there stands there already."""
        draft = self._draft
        self._rows_for(len(draft.levels), len(draft.rungs))
        for path in draft.paths():
            text = draft[path]
            widget = self._inputs.get(path)
            if widget is None or self._shown.get(path) == text:
                continue
            if isinstance(widget, ipywidgets.Dropdown) and text not in {value for _, value in widget.options}:
                widget.options = [*widget.options, (text, text)]
            self._shown[path] = text
            widget.value = text
        for name, switch in self._switches.items():
            switch.value = name in draft.on
        forms = {type(read(target, draft[path])) for path in drafts.exits(draft)} - {type(None)}
        form = {Distance: "distances", Decimal: "prices"}[forms.pop()] if len(forms) == 1 else None
        if self._form.value != form:
            self._form.value = form
        for i, level in enumerate(draft.levels):
            self._levels[i].show(draft, self._shape, self._outlook, i, read(target, level.target))
        after = [str(i + 1) for i in range(max(len(draft.levels), 1))]
        if draft["break_even.after"] not in after:
            after.append(draft["break_even.after"])
        options = [(f"after TP{n}", n) for n in after]
        even = self._inputs["break_even.after"]
        if list(even.options) != options:
            even.options = options
            even.value = draft["break_even.after"]
        self._put(self._sum, self._sum_html())
        self._put(self._about_size, f'<div class="sol-hint">{text_of(self._about())}</div>')

    def _visible(self) -> None:
        """Only the fields that mean something as things stand."""
        draft, kind = self._draft, self._draft["entry"]
        for path, kinds in _ENTRY_FIELDS.items():
            self._hide(self._boxes[path], kind not in kinds)
        self._hide(self._ladder, kind != "ladder")
        for size in SIZES:
            self._hide(self._inputs[size], draft["size"] != size)
        for name, box in self._parts.items():
            self._hide(box, name not in draft.on)
        prices = [price for price in self._shape.levels if price is not None]
        ordered = all(self._shape.up * (b - a) > 0 for a, b in pairwise(prices))
        self._hide(self._sort, ordered or len(prices) < len(draft.levels))
        self._add.disabled = len(draft.levels) >= MAX_LEVELS
        self._spread.disabled = len(draft.levels) < 2
        self._whole.disabled = not draft.levels or any(size is None for size in self._shape.sizes)

    def _hide(self, widget: Any, hidden: bool) -> None:
        if self._hidden.get(id(widget), False) != hidden:
            self._hidden[id(widget)] = hidden
            (widget.add_class if hidden else widget.remove_class)("sol-off")

    def _blame(self, problems: Iterable[Problem]) -> None:
        """Each problem under the field that it concerns, the rest at the head."""
        said: dict[int, list[Problem]] = {}
        at_fault = set()
        for problem in problems:
            path = problem.path
            while path not in self._places:
                path = path.rpartition("[" if path.endswith("]") else ".")[0]
            said.setdefault(id(self._places[path]), []).append(problem)
            if problem.level == "error":
                at_fault.add(path)
        for place in {id(place): place for place in self._places.values()}.values():
            found = said.get(id(place), [])
            text = "".join(
                said_html(_problem_text(problem), "problem" if problem.level == "error" else "note")
                for problem in found
            )
            self._put(place, f'<div id="{place.mark}">{text}</div>' if text else "")
        for path, widget in self._inputs.items():
            if path in self._places and isinstance(widget, ipywidgets.Text):
                wrong = path in at_fault
                mark = self._places[path].mark if id(self._places[path]) in said else ""
                self.manners.name(widget, aria_invalid=wrong, aria_describedby=mark)

    def _put(self, place: ipywidgets.HTML, text: str) -> None:
        if place.value != text:
            place.value = text
        self._hide(place, not text)

    def _status_html(self, order: SmartOrder | None, problems: list[Problem]) -> str:
        errors = sum(p.level == "error" for p in problems)
        warnings = len(problems) - errors
        if order is not None:
            sign, kind = "●", "good"
            word = "valid" + (f", {_count(warnings, 'note')}" if warnings else "")
        else:
            sign, kind, word = "◆", "bad", _count(errors, "problem")
        return f'<span class="sol-chip sol-{kind}" role="status"><span aria-hidden="true">{sign}</span> {word}</span>'

    def _sum_html(self) -> str:
        draft, found = self._draft, self._shape
        if not draft.levels:
            return '<div class="sol-hint">No levels: the stop or time decides.</div>'
        sizes = [size for size in found.sizes if size is not None]
        total = sum(sizes, Decimal(0))
        if len(sizes) < len(found.sizes):
            text, kind = f"{plain(total)} % so far", "muted"
        elif draft["size_basis"] == "remaining":
            left = Decimal(1)
            for size in sizes:
                left *= 1 - size / 100
            text, kind = f"of what is left each time; a runner of {plain(round(left * 100, 1))} % stays", "muted"
        elif total == 100:
            text, kind = "100 %, closes everything", "good"
        elif total < 100:
            text, kind = f"{plain(total)} %, a runner of {plain(100 - total)} % stays", "muted"
        else:
            text, kind = f"{plain(total)} %, that is {plain(total - 100)} % too much", "bad"
        return f'<div class="sol-sum sol-{kind}">Sizes sum to {text_of(text)}</div>'

    def _size_text(self) -> str:
        if self._outlook.quantity is None:
            return ""
        return f"{_amount(self._outlook.quantity)} {self._base}".strip()

    @property
    def _base(self) -> str:
        return self._draft["symbol"].partition("/")[0]

    @property
    def _quote(self) -> str:
        return self._draft["symbol"].partition("/")[2].partition(":")[0]

    def _about(self) -> str:
        quantity, entry = self._outlook.quantity, float(self._shape.entry)
        if quantity is None:
            return ""
        where = "" if self._shape.planned else " at the last price"
        return f"≈ {_amount(quantity)} {self._base} · {_money(quantity * entry)} {self._quote}{where}"

    def _reward_html(self, inline: bool = False) -> str:
        """Risk and reward as a table; `inline`: with styles of its own, for a page without ours."""
        draft, found, out = self._draft, self._shape, self._outlook
        quote = text_of(self._quote)
        cell = " style='text-align:right;padding:2px 8px'" if inline else ""
        rows = []
        for i in reversed(range(len(draft.levels))):
            reward, price = out.levels[i], found.levels[i]
            if reward is None or price is None:
                rows.append(f'<tr><th scope="row">TP{i + 1}</th><td colspan="5"{cell}>–</td></tr>')
                continue
            cells = [
                self._price(price),
                _away(price, found.entry),
                f"{reward.share * 100:.4g} %",
                _signed(reward.money),
            ]
            cells.append("–" if reward.r is None else f"{_signed(reward.r)} R")
            rows.append(f'<tr class="sol-tp"><th scope="row">TP{i + 1}</th>' + _cells(cells, cell))
        entry = [self._price(self._market.nearest(found.entry)), "", _amount(out.quantity), "", ""]
        rows.append('<tr class="sol-in"><th scope="row">Entry</th>' + _cells(entry, cell))
        stops = [
            ("Stop", found.stop),
            ("Trail" if found.activation is None else "Trail, armed", found.trail),
        ]
        risk = "–" if out.risk is None else f"−{_money(out.risk)}"
        tight = [p for p in (found.stop, found.trail if found.activation is None else None) if p is not None]
        first = max(tight, key=lambda p: found.up * p) if tight else None
        for word, price in sorted(((w, p) for w, p in stops if p is not None), key=lambda pair: -found.up * pair[1]):
            tightest = price == first and out.risk is not None
            cells = [
                self._price(price),
                _away(price, found.entry),
                "",
                risk if tightest else "",
                "−1 R" if tightest else "",
            ]
            rows.append(f'<tr class="sol-sl"><th scope="row">{word}</th>' + _cells(cells, cell))
        head = "".join(f'<th scope="col"{cell}>{w}</th>' for w in ("Price", "Away", "Size", f"Net {quote}", "Net R"))
        facts = [
            ("All levels", "–" if out.money is None else f"{_signed(out.money)} {quote}", _r(out.r)),
            ("At risk (1 R)", "–" if out.risk is None else f"{_money(out.risk)} {quote}", self._risk_share()),
            ("Reward to risk", "–" if out.r is None else f"1 : {out.r:.2f}", ""),
            ("Breaks even at", "–" if out.win_rate is None else f"{out.win_rate:.0%} wins", ""),
        ]
        fees = self._fills
        rates = {"taker": fees.fee_taker, "maker": fees.fee_maker, "slippage": fees.slippage}
        counted = ", ".join(f"{word} {plain(value * 100)} %" for word, value in rates.items() if value)
        note = f"Counted: {counted}." if counted else "No fees are counted: none were given (fills=)."
        if out.runner:
            note += f" The runner of {out.runner * 100:.4g} % counts nothing."
        if not tight:
            note += " Without a stop there is no R."
        boxes = "".join(
            f"<div><dt>{word}</dt><dd>{value} <small>{more}</small></dd></div>" for word, value, more in facts
        )
        return (
            f'<dl class="sol-facts">{boxes}</dl><table class="sol-table"><thead><tr><th scope="col"></th>{head}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table><div class="sol-hint">{text_of(note)}</div>'
        )

    def _price(self, price: Decimal) -> str:
        """A price on the digits of the market, or on its own if it has more."""
        fine = f"{price:.{self.chart.digits}f}"
        return fine if Decimal(fine) == price or self._market.instrument.derived else plain(price)

    def _risk_share(self) -> str:
        out = self._outlook
        if out.risk is None or not out.quantity:
            return ""
        return f"{out.risk / (out.quantity * float(self._shape.entry)):.2%} of cost"

    def _show_code(self) -> None:
        if not self._opened.get("share"):
            return
        language = self._language.value
        self._code.value = "" if self.order is None else self.code(language)
        self._link.value = self.link or ""

    # ------------------------------------------------------------------------------------------------ odds

    def _want(self, order: SmartOrder | None) -> None:
        """Have the odds of an order reckoned; an order that is asked for later takes its place."""
        self._wanted = order
        if order is None:
            self._view.state = "stale" if self._view.now else "empty"
            return
        if self._tried is not None and order == self._tried:
            self._view.state = "failed" if self._view.note else "ready"
            return
        if self._view.state in ("empty", "failed"):
            self._view.state = "ready" if self._view.now else "working"
        if not self._reckoning:
            self._reckoning = self._hub.ask(self._reckon, self._reckoned)

    def _reckon(self) -> tuple[SmartOrder | None, Odds | None, str, Any]:
        """On the thread for what takes its time: the newest order that is wanted."""
        order, ticks, draft, found, market = self._wanted, self._ticks, self._draft, self._shape, self._market
        if order is None:
            return None, None, "", None
        try:
            if self._record is None or self._record.ticks is not ticks:
                self._record = Record(ticks, self._fitting(ticks), self._fills)
            odds, note = self._record.of(order, self._anchor), ""
        except SmartOrdersError as error:
            odds, note = None, str(error).splitlines()[0]
        ts = ticks.view(ticks.triggers[0]).ts
        start = max(int(ts[max(0, len(ts) - 20_000)]), int(ts[-1] - (ts[-1] - ts[0]) // 8))
        return order, odds, note, drafts.trail_path(ticks, draft, found, market, start)

    def _fitting(self, ticks: Ticks) -> Any:
        """The entries that were asked for, or each tick where there are fewer."""
        count, places = self._entries, len(ticks) // (1 if ticks.bars is None else 4)
        whole = isinstance(count, int) and not isinstance(count, bool)
        return min(count, places) if whole and places else count

    def _reckoned(self, found: Any, error: BaseException | None) -> None:
        self._reckoning = False
        if error is not None:
            self._tried = self._wanted
            self._view.note, self._view.state = f"the odds could not be reckoned: {error}", "failed"
            raise error
        order, odds, note, path = found
        if order is not None:
            self._tried = order
            self._setting = threading.get_ident()
            try:
                if odds is not None:
                    self.odds = odds
                    self._view.now = odds.to_dict()
            finally:
                self._setting = 0
            self._view.note, self._view.state = note, "failed" if note else "ready"
            ts, price = path
            if len(ts) and self._anchor is None:  # else it is about an entry elsewhere
                self.chart.set_path("trailing stop", ts, price, "stop")
            else:
                self.chart.set_path("trailing stop", None)
        if self._wanted is not None and self._wanted != order:
            self._reckoning = self._hub.ask(self._reckon, self._reckoned)
        elif self._say_odds and odds is not None and odds.expectancy is not None:
            self._say_odds = False
            self.manners.say(f"Odds: expectancy {odds.expectancy:+.2%} per order, {odds.win_rate or 0:.0%} profitable")

    # ------------------------------------------------------------------------------------------------ building

    def _build(self) -> list[Any]:
        with self.manners.hold_sync():
            head = self._head()
            left = self._box(
                "sol-column", self.chart, self._card("Risk and reward", self._reward_place()), self._odds_card()
            )
            right = self._box("sol-column sol-side", self._order_card(), self._ladder_card(), self._stops_card())
            right.children += (self._advanced_card(), self._share_card())
            return [self.manners, self._keys, head, self._place(_GENERAL), self._box("sol-split", left, right)]

    def _own(self, widget: Any) -> Any:
        self._owned.append(widget)
        return widget

    def _make(self, kind: Any, classes: str = "", **given: Any) -> Any:
        """A widget. Those of a kind share one style, for each would be a model of its own in the browser."""
        if hasattr(kind, "style"):
            made = kind.style.klass
            if made not in self._styles:
                self._styles[made] = self._own(made())
            given["style"] = self._styles[made]
        widget = self._own(kind(layout=self._plain, **given))
        for name in classes.split():
            widget.add_class(name)
        return widget

    def _box(self, classes: str, *children: Any) -> Any:
        return self._make(ipywidgets.Box, classes, children=children)

    def _html(self, text: str = "", classes: str = "") -> Any:
        return self._make(ipywidgets.HTML, classes, value=text)

    def _card(self, title: str, *children: Any) -> Any:
        return self._box("sol-card", self._own(heading(title)), *children)

    def _place(self, *paths: str) -> _Place:
        """Where problems of these paths are shown."""
        place: _Place = self._make(_Place, "sol-place")
        place.mark = f"sol-p{id(place):x}"
        for path in paths:
            self._places[path] = place
        self._hide(place, True)
        return place

    def _bind(self, path: str, widget: Any) -> Any:
        """A widget whose value is the text at a path."""
        self._inputs[path] = widget
        self._shown[path] = widget.value

        def changed(change: Any) -> None:
            if not self._hub.here and change.new is not None:
                self._hub.post(self._typed, path, str(change.new))

        widget.observe(changed, "value")
        return widget

    def _click(self, widget: Any, fn: Callable[..., Any], *args: Any) -> Any:
        widget.on_click(lambda _: self._hub.post(self._say, fn, *args))
        return widget

    def _say(self, fn: Callable[..., Any], *args: Any) -> None:
        """Do it, and if it is refused say why."""
        try:
            fn(*args)
            self._put(self._said, "")
        except SmartOrdersError as error:
            self._put(self._said, said_html(error))

    def _text(self, path: str, label: str, hint: str = "", *more: str, wide: bool = False, number: bool = True) -> Any:
        """A text field with its label and the place of its problems."""
        classes = "sol-number" if number else ""
        field = self._bind(path, self._make(ipywidgets.Text, classes, description=label, placeholder=hint))
        box = self._box("sol-field" + (" sol-wide" if wide else ""), field, self._place(path, *more))
        self._boxes[path] = box
        return box

    def _choice(self, path: str, label: str, options: list[tuple[str, str]], *more: str, wide: bool = False) -> Any:
        field = self._bind(path, self._make(ipywidgets.Dropdown, description=label, options=options))
        box = self._box("sol-field" + (" sol-wide" if wide else ""), field, self._place(path, *more))
        self._boxes[path] = box
        return box

    def _button(self, label: str, title: str, fn: Callable[..., Any], *args: Any, classes: str = "") -> Any:
        button = self._make(ipywidgets.Button, classes, description=label, tooltip=title)
        return self._click(button, fn, *args)

    def _switch(self, name: str, label: str) -> Any:
        box = self._make(ipywidgets.Checkbox, "sol-switch", description=label, indent=False)

        def changed(change: Any) -> None:
            if not self._hub.here:
                self._hub.post(self._switched, name, bool(change.new))

        box.observe(changed, "value")
        self._switches[name] = box
        return box

    def _head(self) -> Any:
        symbol = text_of(self._draft["symbol"])
        title = self._html(f'<h3 class="sol-title">Ladder editor <span>{symbol}</span></h3>', "sol-grow")
        self._status = self._html()
        self._presets = self._make(ipywidgets.Dropdown, "sol-presets", options=self._preset_options(), value="")
        self.manners.name(self._presets, "Presets")

        def chosen(change: Any) -> None:
            if change.new and not self._hub.here:
                self._hub.post(self._say, self._preset_chosen, change.new)

        self._presets.observe(chosen, "value")
        self._undo_button = self._button("↶ Undo", "Undo (Ctrl+Z)", self._key, {"undo": True})
        self._redo_button = self._button("↷ Redo", "Redo (Ctrl+Shift+Z)", self._key, {"redo": True})
        self._said = self._html("", "sol-place sol-all")
        self._hide(self._said, True)
        return self._box(
            "sol-head", title, self._status, self._presets, self._undo_button, self._redo_button, self._said
        )

    def _preset_options(self) -> list[tuple[str, str]]:
        own = [(f"★ {name}", name) for name in drafts.own_presets() if name not in drafts.presets()]
        return [("Presets …", ""), *((name, name) for name in drafts.presets()), *own]

    def _preset_chosen(self, name: str) -> None:
        self._presets.value = ""
        self._preset(name)

    def _reward_place(self) -> Any:
        self._reward = self._html("", "sol-reward")
        return self._reward

    def _odds_card(self) -> Any:
        return self._box("sol-card", self._view)

    def _order_card(self) -> Any:
        side = self._make(
            ipywidgets.ToggleButtons, "sol-sides", options=[("▲ Buy, long", "buy"), ("▼ Sell, short", "sell")]
        )
        self._bind("side", side)
        sizes = [("Cost", "cost"), ("Quantity", "quantity"), ("Risk", "risk")]
        kind = self._bind("size", self._make(ipywidgets.Dropdown, description="Size by", options=sizes))
        amounts = []
        for name in SIZES:
            amounts.append(self._bind(name, self._make(ipywidgets.Text, "sol-number", description="Amount")))
        self._about_size = self._html()
        size = self._box("sol-fields", self._box("sol-field", kind), self._box("sol-field", *amounts))
        place = self._place("size", *SIZES)
        entry = self._choice("entry", "Entry", _ENTRIES, "entry.kind", wide=True)
        fields = [
            self._text("entry.price", "Price"),
            self._text("entry.limit_price", "Limit"),
            self._text("entry.callback_rate", "Turns by", "1%"),
            self._text("entry.activation", "Arms at", "at once"),
        ]
        self._ladder = self._rung_part()
        symbol = [] if self._ticks.symbol else [self._text("symbol", "Symbol", wide=True, number=False)]
        return self._card(
            "Order",
            *symbol,
            side,
            self._place("side"),
            size,
            self._about_size,
            place,
            self._box("sol-fields", entry, *fields),
            self._ladder,
        )

    def _rung_part(self) -> Any:
        self._rung_box = self._box("sol-rows")
        buttons = self._box(
            "sol-row",
            self._button("+ Rung", "Add a rung further from the market", self._pressed, "add rung"),
            self._button("Spread evenly", "Give each rung the same share", self._pressed, "spread rungs"),
        )
        return self._box("sol-part", self._rung_box, self._place("entry.rungs"), buttons)

    def _ladder_card(self) -> Any:
        self._form = self._make(
            ipywidgets.ToggleButtons, "sol-form", options=[("Prices", "prices"), ("Distances", "distances")], value=None
        )

        def formed(change: Any) -> None:
            if change.new and not self._hub.here:
                self._hub.post(self._formed, change.new)

        self._form.observe(formed, "value")
        self._level_box = self._box("sol-rows")
        self._sum = self._html()
        self._add = self._button("+ Level", "Add a level beyond the last", self._pressed, "add")
        self._spread = self._button("Spread evenly", "Give each level the same share", self._pressed, "spread")
        self._whole = self._button("Make 100 %", "Scale the sizes so that they sum to 100 %", self._pressed, "whole")
        self._sort = self._button("Sort", "Order the levels from the entry outwards", self._pressed, "sort")
        buttons = self._box("sol-row", self._add, self._spread, self._whole, self._sort)
        trail = self._text("trailing_take_profit.callback_rate", "Falls back by", "1%", "trailing_take_profit")
        self._parts["trailing_take_profit"] = trail
        head = self._box("sol-row", self._own(heading("Take profits")), self._form)
        head.children[0].add_class("sol-grow")
        return self._box(
            "sol-card",
            head,
            self._level_box,
            self._sum,
            self._place("take_profits"),
            buttons,
            self._box("sol-part sol-inline", self._switch("trailing_take_profit", "Last level trails"), trail),
        )

    def _stops_card(self) -> Any:
        stop = self._text("stop_loss.target", "Stop", "-3% or a price", "stop_loss")
        limit = self._text("stop_loss.limit", "Limit")
        self._parts["stop_loss.limit"] = limit
        at_limit = self._switch("stop_loss.limit", "Sell at a limit, not at market")
        self._parts["stop_loss"] = self._box("sol-fields", stop, limit, self._box("sol-wide", at_limit))
        rate = self._text("trailing_stop.callback_rate", "Behind by", "2%", "trailing_stop")
        arms = self._text("trailing_stop.activation", "Arms at", "at once")
        self._parts["trailing_stop"] = self._box("sol-fields", rate, arms)
        after = self._choice("break_even.after", "When", [("after TP1", "1")], "break_even")
        offset = self._text("break_even.offset", "Offset", "0, 0.1% or fees")
        self._parts["break_even"] = self._box("sol-fields", after, offset)
        return self._card(
            "Protection",
            self._box("sol-part", self._switch("stop_loss", "Stop loss"), self._parts["stop_loss"]),
            self._box("sol-part", self._switch("trailing_stop", "Trailing stop"), self._parts["trailing_stop"]),
            self._box("sol-part", self._switch("break_even", "Break-even"), self._parts["break_even"]),
        )

    def _fold(self, key: str, label: str, *children: Any) -> Any:
        """A card that can be opened."""
        body = self._box("sol-body", *children)
        button = self._make(ipywidgets.Button, "sol-fold", description=f"▸ {label}")

        def turn() -> None:
            self._opened[key] = not self._opened.get(key, False)
            button.description = f"{'▾' if self._opened[key] else '▸'} {label}"
            self.manners.name(button, aria_expanded=self._opened[key])
            self._hide(body, not self._opened[key])
            self._show_code()

        self.manners.name(button, label, aria_expanded=False)
        self._click(button, turn)
        self._hide(body, True)
        return self._box("sol-card sol-folded", button, body)

    def _advanced_card(self) -> Any:
        triggers = [(name, name) for name in self._ticks.triggers]
        basis = [("of the whole position", "initial"), ("of what is left", "remaining")]
        return self._fold(
            "advanced",
            "Advanced",
            self._box(
                "sol-fields",
                self._text("entry_expiry", "Entry expires after", "never"),
                self._text("max_hold", "Hold at most", "no limit"),
                self._text("stop_loss.timeout", "Stop waits", "not at all"),
                self._text("stop_loss.emergency", "Emergency stop", "none"),
                self._choice("size_basis", "Level sizes are", basis),
                self._choice("trigger", "Watched price", triggers),
                *([self._text("symbol", "Symbol", wide=True, number=False)] if self._ticks.symbol else []),
                self._text("tag", "Tag", number=False),
                self._text("note", "Note", number=False),
            ),
        )

    def _share_card(self) -> Any:
        self._link = self._make(ipywidgets.Text, "sol-wide sol-code", description="Link of this order")
        self._pasted = self._make(ipywidgets.Text, "sol-wide", description="Paste a link", placeholder="solab1:…")
        self._pasted_said = self._html("", "sol-place sol-wide")
        self._hide(self._pasted_said, True)

        def pasted(change: Any) -> None:
            if not self._hub.here:
                self._hub.post(self._paste, str(change.new))

        self._pasted.observe(pasted, "value")
        self._link.observe(lambda _: None if self._hub.here else self._hub.post(self._show_code), "value")
        self._language = self._make(
            ipywidgets.Dropdown, description="Code", options=[("Python", "python"), ("TOML", "toml")]
        )
        self._language.observe(lambda _: None if self._hub.here else self._hub.post(self._show_code), "value")
        self._code = self._make(ipywidgets.Textarea, "sol-wide sol-code", rows=12, continuous_update=False)
        self.manners.name(self._code, "Code that makes this order", spellcheck=False)
        self._preset_name = self._make(ipywidgets.Text, description="Save as preset", placeholder="a name")
        save = self._make(
            ipywidgets.Button, "sol-bottom", description="Save", tooltip="Keep this shape under that name"
        )
        self._click(save, lambda: self._save(self._preset_name.value.strip()))
        self._hide(self._language, False)
        return self._fold(
            "share",
            "Share, code, own presets",
            self._box(
                "sol-fields",
                self._link,
                self._pasted,
                self._pasted_said,
                self._box("sol-wide sol-field", self._language),
                self._code,
                self._preset_name,
                save,
            ),
        )

    def _paste(self, text: str) -> None:
        """A link was pasted; what was pasted stays, with what is wrong with it."""
        if not text.strip():
            self._put(self._pasted_said, "")
            return
        try:
            order = SmartOrder.from_link(text)
        except SmartOrdersError as error:
            self._put(self._pasted_said, said_html(error))
            return
        self._load(order)
        self._put(self._pasted_said, said_html("Loaded. Undo brings back what was here.", "done"))

    def _rows_for(self, levels: int, rungs: int) -> None:
        """As many rows as there are levels and rungs; rows that were made once are kept."""
        while len(self._levels) < levels:
            self._levels.append(_LevelRow(self, len(self._levels)))
        while len(self._rungs) < rungs:
            self._rungs.append(_RungRow(self, len(self._rungs)))
        for box, shown in (
            (self._level_box, tuple(row.box for row in self._levels[:levels])),
            (self._rung_box, tuple(row.box for row in self._rungs[:rungs])),
        ):
            if box.children != shown:
                box.children = shown

    def _end(self) -> None:
        """On the hub, when it is closed: nothing of it stays."""
        self._closed = True
        self.unobserve_all()
        for widget in [*self._owned, self]:
            for part in (widget, getattr(widget, "layout", None), getattr(widget, "style", None)):
                if isinstance(part, ipywidgets.Widget):
                    ipywidgets.Widget.close(part)


class _Place(ipywidgets.HTML):
    """Where problems are shown; `mark` is its id in the page."""

    mark = ""


class _LevelRow:
    """The widgets of one take-profit level."""

    def __init__(self, editor: LadderEditor, row: int):
        make, name, path = editor._make, f"TP{row + 1}", f"take_profits[{row}]"
        self.editor = editor
        target_field = editor._bind(f"{path}.target", make(ipywidgets.Text, "sol-number sol-target"))
        size = editor._bind(f"{path}.size", make(ipywidgets.Text, "sol-number sol-size"))
        kinds = [("market", "market"), ("limit", "limit")]
        kind = editor._bind(f"{path}.kind", make(ipywidgets.Dropdown, "sol-kind", options=kinds))
        manners = editor.manners
        manners.name(target_field, f"{name}: price or distance")
        manners.name(size, f"{name}: size in per cent")
        manners.name(kind, f"{name}: sold at market or as a limit")
        press = editor._pressed
        self.form = editor._button(
            "%", f"{name} as a price or a distance", press, "form", row, classes="sol-icon sol-f"
        )
        self.up = editor._button(
            "↑", f"{name}: share and kind to the level before", press, "up", row, classes="sol-icon"
        )
        self.down = editor._button(
            "↓", f"{name}: share and kind to the level after", press, "down", row, classes="sol-icon"
        )
        away = editor._button("✕", f"Remove {name}", press, "remove", row, classes="sol-icon")
        for button in (self.form, self.up, self.down, away):
            manners.name(button, button.tooltip)
        self.detail = editor._html("", "sol-detail")
        place = editor._place(f"{path}.target", f"{path}.size", f"{path}.kind", path)
        label = editor._html(f'<span class="sol-name">{name}</span>')
        self.box = editor._box(
            "sol-level", label, target_field, self.form, size, kind, self.up, self.down, away, self.detail, place
        )
        if getattr(editor, "comm", None) is not None:
            free(self.box)

    def show(self, draft: Draft, found: Shape, out: Outlook, row: int, value: Any) -> None:
        """What this level comes to."""
        price, reward = found.levels[row], out.levels[row]
        parts = []
        if price is not None:
            parts.append(_away(price, found.entry) if isinstance(value, Decimal) else self.editor._price(price))
        if reward is not None and reward.r is not None:
            parts.append(f"{_signed(reward.r)} R")
        if reward is not None and reward.money is not None:
            parts.append(f"{_signed(reward.money)} {self.editor._quote}")
        self.editor._put(self.detail, f'<div class="sol-hint">{text_of(" · ".join(parts))}</div>' if parts else "")
        self.form.description = "%" if isinstance(value, Distance) else "="
        self.form.disabled = value is None
        self.up.disabled, self.down.disabled = row == 0, row == len(draft.levels) - 1


class _RungRow:
    """The widgets of one rung of a ladder entry."""

    def __init__(self, editor: LadderEditor, row: int):
        make, name, path = editor._make, f"Rung {row + 1}", f"entry.rungs[{row}]"
        price = editor._bind(f"{path}.price", make(ipywidgets.Text, "sol-number sol-target"))
        size = editor._bind(f"{path}.size", make(ipywidgets.Text, "sol-number sol-size"))
        editor.manners.name(price, f"{name}: price")
        editor.manners.name(size, f"{name}: size in per cent")
        away = editor._button("✕", f"Remove {name}", editor._pressed, "remove rung", row, classes="sol-icon")
        editor.manners.name(away, f"Remove {name}")
        place = editor._place(f"{path}.price", f"{path}.size", path)
        label = editor._html(f'<span class="sol-name">{name}</span>')
        self.box = editor._box("sol-rung", label, price, size, away, place)
        if getattr(editor, "comm", None) is not None:
            free(self.box)


# ---------------------------------------------------------------------------------------------------- words


def _problem_text(problem: Problem) -> str:
    value = "" if problem.value is None else f"{short(problem.value)}: "
    return f"{value}{problem.rule}" + (f"; {problem.fix}" if problem.fix else "")


def _cells(cells: list[str], attributes: str) -> str:
    return "".join(f"<td{attributes}>{text_of(cell)}</td>" for cell in cells) + "</tr>"


def _away(price: Decimal | None, entry: Decimal) -> str:
    """How far a price is from the entry, `+2.04 %`."""
    if price is None:
        return ""
    move = float(price / entry - 1) * 100
    digits = 2 if abs(move) >= 0.1 else 3
    return f"{move:+.{digits}f} %".replace("-", "−")


def _signed(value: float | None, digits: int = 2) -> str:
    if value is None:
        return "–"
    text = _money(abs(value)) if digits == 2 else f"{abs(value):.{digits}f}"
    return f"{'−' if value < 0 else '+'}{text}"


def _r(value: float | None) -> str:
    return "" if value is None else f"{_signed(value)} R"


def _money(value: float) -> str:
    """An amount on two decimals, or on as many as it needs."""
    return f"{value:,.2f}" if value >= 0.1 or value == 0 else plain(Decimal(f"{value:.3g}"))


def _amount(value: float | None) -> str:
    """A quantity on six digits."""
    return "–" if value is None else f"{value:,.0f}" if value >= 1e6 else plain(Decimal(f"{value:.6g}"))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
