"""Fork: what would have become of an order if it had been another one.

    fork = so.Fork(session, 3)       # an order of a session, living or done
    fork = so.Fork(run, 3)           # or of a replay

The order as it was placed is laid into the editor, over the ticks that it lived through. Whatever is changed there is replayed from the
moment at which the order was made, with the same fill model, up to the latest tick, and stands beside what really happened.

What the user did to the real order (edits, funds added or taken out, close, cancel) is done to the changed one, too, at the same times,
unless that is switched off. A field that is changed here stays as it is set here, also where it was edited later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from math import isclose
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets

from ..actions import Action
from ..errors import SpecError
from ..fills import FillModel
from ..life import Course, course_of, life_of
from ..run import Run
from ..ticks import Ticks
from ..times import instant_text
from .editor import LadderEditor
from .parts import Hub, Manners, dot_html, free, said_html, status_dot, text_of

if TYPE_CHECKING:
    pass

_EXITS = {"take_profit": "TP", "trailing_take_profit": "TP"}
_WORDS = {
    "edit": "edited",
    "add_funds": "funds added",
    "reduce_funds": "funds reduced",
    "open_now": "opened by hand",
    "take_profit": "level taken",
    "stop_out": "stopped out",
    "close_at_market": "closed at market",
    "cancel": "cancelled",
}

# ------------------------------------------------------------------------------------------------------- the comparison


def rows_of(real: Course, other: Course | None, digits: int = 8) -> Iterator[tuple[str, str, str, str]]:
    """The table: what, in reality, changed, and the difference; as text. `digits`: decimals of prices."""

    def money(value: float | None) -> str:
        return "–" if value is None else f"{'+' if value > 0 else '-'}{_money(abs(value))}" if value else "0"

    def both(what: str, show: Callable[[Course], str], by: str = "") -> tuple[str, str, str, str]:
        return what, show(real), "–" if other is None else show(other), by

    def difference(get: Callable[[Course], float | None], show: Callable[[float], str] = money) -> str:
        a, b = get(real), None if other is None else get(other)
        if a is None or b is None:
            return ""
        return "the same" if isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) else show(b - a)

    yield both("Outcome", _outcome)
    yield both(
        "Entry",
        lambda c: "never" if c.entry_price is None else _price(c.entry_price, digits),
        difference(lambda c: c.entry_price, lambda by: f"{'+' if by > 0 else '−'}{_price(abs(by), digits)}"),
    )
    yield both("Exits", lambda c: _exits(c, digits))
    yield both("Profit and loss", lambda c: money(c.total), difference(lambda c: c.total))
    yield both("of it still open", lambda c: money(c.unrealized) if c.held else "–")
    yield both("Fees", lambda c: _money(c.fees), difference(lambda c: c.fees))
    yield both("Held for", lambda c: _hold(c.held_ns), difference(lambda c: c.held_ns, _more))


def _outcome(course: Course) -> str:
    word = course.status.lower().replace("_", " ")
    reason = (course.exit_reason or "").replace("_", " ")
    return f"{word}: {reason}" if reason and reason != word else word


def _money(amount: float) -> str:
    """An amount above 0 in quote currency: two decimals, four where it is small, and then three digits that count."""
    if amount < 0.01:
        return f"{amount:.3g}"
    text = f"{amount:,.{2 if amount >= 100 else 4}f}"
    return text.rstrip("0").rstrip(".")


def _price(price: float, digits: int) -> str:
    """A price, or an average of prices, with the decimals of its market at the most."""
    text = f"{price:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _exits(course: Course, digits: int) -> str:
    """Which exits were filled at which average price, in order."""
    found: dict[str, list[tuple[float, float]]] = {}
    for fill in course.fills:
        role = fill["role"]
        if role in ("entry", "add_funds"):
            continue
        name = f"TP{fill['level'] + 1}" if role in _EXITS else role.replace("_", " ")
        found.setdefault(name, []).append((fill["price"], fill["quantity"]))
    texts = []
    for name, parts in found.items():
        quantity = sum(q for _, q in parts)
        texts.append(f"{name} {_price(sum(p * q for p, q in parts) / quantity, digits)}")
    return ", ".join(texts) or "none"


def _hold(ns: float | None) -> str:
    if ns is None:
        return "–"
    for unit, word in ((86_400_000_000_000, "d"), (3_600_000_000_000, "h"), (60_000_000_000, "min")):
        if ns >= unit:
            return f"{ns / unit:.3g} {word}"
    return f"{ns / 1e9:.3g} s"


def _more(ns: float) -> str:
    return ("+" if ns > 0 else "−") + _hold(abs(ns))


def table_html(real: Course, other: Course | None, digits: int = 8) -> str:
    """The comparison as a table of its own; nothing in it is markup of the user's."""
    head = "".join(f'<th scope="col">{word}</th>' for word in ("", "Real", "What if", "Difference"))
    body = "".join(
        f'<tr><th scope="row">{text_of(what)}</th>' + "".join(f"<td>{text_of(cell)}</td>" for cell in cells) + "</tr>"
        for what, *cells in rows_of(real, other, digits)
    )
    inside = f"<caption>Real and what if</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    box = 'class="sol-fork-scroll" tabindex="0" role="group" aria-label="Real and what if" data-lm-suppress-shortcuts="true"'
    return f'<div {box}><table class="sol-fork-table">{inside}</table></div>'


STYLE = """<style>
.sol-fork-scroll { overflow-x: auto; max-width: 100%; }
.sol-fork-table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
.sol-fork-table caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.sol-fork-table th, .sol-fork-table td { padding: 4px 10px; border: 0; text-align: left; line-height: 1.35; vertical-align: top;
  border-bottom: 1px solid var(--sol-line, rgba(128,128,128,.3)); background: none; color: inherit; white-space: normal; }
.sol-fork-table thead th { font-weight: 600; opacity: .75; }
.sol-fork-table tbody th { font-weight: 400; opacity: .75; white-space: nowrap; }
.sol-fork-head { line-height: 1.4; }
</style>"""


# ------------------------------------------------------------------------------------------------------- the widget


class Fork(ipywidgets.VBox):
    """What if? An order beside another one on the ticks that it lived through.

    Parameters
    ----------
    source : a session (`so.paper(...)`), one watched from another process (`so.connect(...)`), or a `Run`.
    oid : number of the order.
    ticks : the ticks that it lived through, where the source does not have them.
    fills : what is assumed of the venue, where the source does not say (a session of another process).
    entries, theme : as in LadderEditor.
    name : a fork of that name that is there already is closed first.

    `order` is the changed order, or None while its fields make none; `result` the Run of it; `difference` its profit minus the real
    one, in quote currency. Raises DataError, ActionError.
    """

    order = traitlets.Any(None, allow_none=True)
    result = traitlets.Any(None, allow_none=True)
    difference = traitlets.Float(None, allow_none=True)

    def __init__(
        self,
        source: Any,
        oid: int,
        ticks: Ticks | None = None,
        *,
        fills: FillModel | None = None,
        entries: int = 2000,
        theme: str = "auto",
        name: str = "fork",
    ):
        self.life = life_of(source, oid, ticks, fills)
        assert self.life.course is not None
        self.real: Course = self.life.course
        self.what_if: Course | None = None
        self.hub = Hub(name)
        try:
            self._build(theme, entries, name)
        except BaseException:
            self.hub.close()
            raise

    def _build(self, theme: str, entries: int, name: str) -> None:
        life = self.life
        self.editor = LadderEditor(
            life.ticks, life.order, fills=life.fills, entries=entries, theme=theme, name=f"{name} editor"
        )
        self.chart = self.editor.chart
        self._stand_at_entry()
        self.manners = Manners(theme=theme)
        self.keep = ipywidgets.Checkbox(
            value=bool(self.life.actions),
            description=f"Do to it what I did: {did(self.life.actions)}",
            indent=False,
            disabled=not self.life.actions,
            layout=ipywidgets.Layout(width="auto", max_width="100%"),
        )
        self.manners.name(self.keep, f"Do to the changed order what I did: {did(self.life.actions)}")
        self.said = ipywidgets.HTML()
        self.table = ipywidgets.HTML(
            table_html(self.real, None, self.chart.digits), layout=ipywidgets.Layout(width="100%", overflow="auto")
        )
        head = ipywidgets.HTML(STYLE + self._head())
        notes = ipywidgets.HTML("".join(said_html(note, "note") for note in self.life.notes))
        if not self.life.actions:
            self.keep.layout.display = "none"
        super().__init__([self.manners, head, notes, self.keep, self.said, self.table, self.editor])
        self.add_class("sol-panel")
        self.add_class("sol-fork")
        self.layout.width = "100%"
        self._draw_real()
        self.editor.observe(self._edited, "order")
        self.keep.observe(self._edited, "value")
        self.hub.on_close(self._end)
        free(self)
        self.order = self.editor.order
        self._edited(None)

    @property
    def comparison(self) -> list[dict[str, str]]:
        """The table as it is shown: `what`, `real`, `changed`, `difference`."""
        names = ("what", "real", "changed", "difference")
        return [dict(zip(names, row, strict=True)) for row in rows_of(self.real, self.what_if, self.chart.digits)]

    def settle(self, timeout: float = 30.0) -> bool:
        """Wait until what was changed so far has been lived through; False if `timeout` seconds passed first."""
        return self.hub.settle(timeout)

    def close(self) -> None:
        """The end of it and of its threads. Twice does no harm."""
        self.hub.close()

    def __repr__(self) -> str:
        order = self.life.order
        by = "" if self.difference is None else f", {self.difference:+.6g} {_quote(order.symbol)}"
        return f"<Fork of order {self.life.number}: {order}; what if: {self.order or 'not whole'}{by}>"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and for a page without a kernel what it showed last."""
        found = super()._repr_mimebundle_(**kwargs)
        data = found[0] if isinstance(found, tuple) else found
        return {**(data or {}), "text/plain": repr(self), "text/html": self.picture()}

    def picture(self) -> str:
        """The chart and the comparison as HTML that needs nothing: for a notebook that is opened without its kernel."""
        table = table_html(self.real, self.what_if, self.chart.digits)
        return f"<div>{self._head()}{self.chart.picture()}{table}</div>"

    def _end(self) -> None:
        self.editor.close()
        shut(self)

    def _head(self) -> str:
        order, life = self.life.order, self.life
        status = status_dot(
            {"status": self.real.status, "realized_pnl": self.real.realized, "exit_reason": self.real.exit_reason}
        )
        parts = [
            f"<b>What if?</b> Order {life.number} · {text_of(order.side)} {text_of(order.symbol)}",
            f"made {text_of(_moment(life.created))}",
            dot_html(status, word=True),
            *([f"“{text_of(order.tag)}”"] if order.tag else []),
        ]
        return f'<div class="sol-fork-head">{" · ".join(parts)}</div>'

    def _stand_at_entry(self) -> None:
        """Measure distances from where the order was entered, or could have been, and not from the latest price."""
        ticks, order = self.life.ticks, self.life.order
        first = ticks.instrument.price(int(ticks.view(order.trigger, order.direction).price[0]))
        entered = next((fill["price"] for fill in self.real.fills if fill["role"] == "entry"), None)
        self.editor.measure_from(first if entered is None else Decimal(repr(float(entered))))

    def _draw_real(self) -> None:
        self._draw("stop of the real order", self.real, "stop")
        self._mark()
        ts = self.life.ticks.ts
        end = int(self.real.fills[-1]["ts"]) if self.real.exit_reason is not None and self.real.fills else int(ts[-1])
        span = end - int(ts[0])
        if span > 0:
            self.chart.show(int(ts[0]) - span // 20, min(end + span // 2, int(ts[-1]) + span // 5))

    def _draw(self, name: str, course: Course | None, kind: str) -> None:
        """The stop of a course as a path; none where it has none."""
        known = course is not None and len(course.stop[0]) > 0
        if course is None or not known:
            self.chart.set_path(name, None)
        else:
            self.chart.set_path(name, *course.stop, kind)

    def _mark(self) -> None:
        marks = []
        for word, course in (("real", self.real), ("what if", self.what_if)):
            for fill in course.fills if course is not None else ():
                bought = fill["role"] in ("entry", "add_funds")
                long = self.life.order.direction > 0
                name = f"TP{fill['level'] + 1}" if fill["role"] in _EXITS else fill["role"].replace("_", " ")
                marks.append(
                    {
                        "ts": str(fill["ts"]),
                        "price": float(fill["price"]),
                        "kind": "buy" if bought == long else "sell",
                        "text": f"{word}: {name} {fill['quantity']:.6g} at {_price(fill['price'], self.chart.digits)}",
                    }
                )
        self.chart.marks = marks

    def _edited(self, change: Any) -> None:
        self.hub.post(self._begin)

    def _begin(self) -> None:
        """On the hub: live through the order as it stands in the editor; of several changes only the newest."""
        self.order = self.editor.order
        order, keep = self.order, self.keep.value
        if order is None:
            self._show(None, SpecError.one("order", None, "is not whole", "see what stands under its fields"))
            return

        def work() -> Run | None:
            if order is not self.editor.order or keep != self.keep.value:
                return None  # a newer one waits
            return self.life.again(order, keep)

        self.hub.ask(work, self._show)

    def _show(self, run: Run | None, error: BaseException | None) -> None:
        if run is None and error is None:
            return
        self.result = run
        self.what_if = None if run is None else course_of(run, 0, self.life.ticks)
        self._draw("stop, what if", self.what_if, "other")
        self._mark()
        by = None if self.what_if is None else self.what_if.total - self.real.total
        self.difference = 0.0 if by is not None and isclose(by, 0, abs_tol=1e-9) else by
        self.table.value = table_html(self.real, self.what_if, self.chart.digits)
        if error is not None:
            self.said.value = said_html(str(error))
        else:
            self.said.value = said_html(self._verdict(), "done")

    def _verdict(self) -> str:
        by = self.difference or 0.0
        last, unit = _moment(int(self.life.ticks.ts[-1])), _quote(self.life.order.symbol)
        if self.order == self.life.order and not by:
            return f"Up to {last}: the same order. Change it above."
        word = "better" if by > 0 else "worse"
        return f"Up to {last}: {f'{_money(abs(by))} {unit} {word}' if by else 'no difference'}."


def shut(widget: Any) -> None:
    """Close a widget with all that is in it: nothing of it stays in the kernel."""
    for child in getattr(widget, "children", ()):
        shut(child)
    for part in (widget, getattr(widget, "layout", None), getattr(widget, "style", None)):
        if isinstance(part, ipywidgets.Widget):
            part.unobserve_all()
            ipywidgets.Widget.close(part)


def _quote(symbol: str) -> str:
    return symbol.partition("/")[2].partition(":")[0]


def _moment(ns: int) -> str:
    """A time to the second, as it is read."""
    return instant_text(ns // 10**9 * 10**9).replace("T", " ").replace("Z", " UTC")


def did(actions: tuple[Action, ...]) -> str:
    """What was done to an order, in words."""
    counts: dict[str, int] = {}
    for action in actions:
        counts[action.kind] = counts.get(action.kind, 0) + 1
    texts = [_WORDS[kind] + (f" {n} times" if n > 1 else "") for kind, n in counts.items()]
    return ", ".join(texts) or "nothing"
