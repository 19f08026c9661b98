"""OrderChart: the price of one market and the lines of an order on it, to be dragged by mouse, finger or key.

    chart = OrderChart(ticks)
    chart.lines = [{"id": "tp1", "kind": "level", "price": 64155.1, "label": "TP1", "draggable": True}]
    chart.on_move(lambda id, price, final: print(id, price, final))

The browser is sent what it can show and no more: a sample of the whole, a finer one of the newest ticks, and whatever it
asks for when somebody zooms. The first picture needs no question, for all of that is in the state of the widget. New ticks
follow as small binary messages. Words that come from the browser are checked before anything is done with them.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from decimal import Decimal
from html import escape
from math import inf, isfinite
from pathlib import Path
from threading import RLock
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import numpy as np

from ..errors import DataError, SmartOrdersError, short
from ..looks import AVERAGE, BUY, EVENT, INKS, LEVELS, MARK, MIN_POINTS, REASONS, SELL, STOP, THEMES, decimals, m4
from ..times import instant_text

try:
    import anywidget
    import traitlets
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("the panel needs anywidget: pip install 'smartorders_lab[notebook]'") from error

if TYPE_CHECKING:
    from ..ticks import Ticks

KINDS = ("entry", "stop", "trail", "even", "level", "market")
"""What a line can be: entry, stop loss, trailing stop, break-even, take-profit level, the market itself."""
STATES = ("planned", "waiting", "working", "filled", "cancelled")
MARKS = ("buy", "sell", "event")
PATHS = ("stop", "mark", "other")
MAX_LINES = 200
MAX_MARKS = 5_000
STREAM_POINTS = 200_000
"""Streamed ticks that are kept; of those beyond it the older half is thinned, so that a stream can run for weeks."""
_WHOLE, _RAW, _TAIL, _TAIL_TICKS = 2_400, 6_000, 4_000, 40_000
_MOST_POINTS = 24_000
_PATH_POINTS = 2_000
_PATH_TAIL = 4_000
_REASON_LENGTH = 300
_REMEMBERED = 15.0  # seconds in which a move can still be rejected
_COLOURS = {
    "entry": BUY,
    "stop": STOP,
    "trail": MARK,
    "even": REASONS["break_even"][0],
    "level": LEVELS["FILLED"][0],
    "market": REASONS["break_even"][0],
    "buy": BUY,
    "sell": SELL,
    "event": EVENT,
    "mark": MARK,
    "other": AVERAGE,
    "working": LEVELS["TRIGGERED"][0],
    "filled": LEVELS["FILLED"][0],
    "error": LEVELS["CANCELLED"][0],
}

Moved = Callable[[str, float, bool], object]
"""What is told of a move: id of the line, price, and whether the hand has let go."""


class _Sample(NamedTuple):
    """Ticks between two moments: ts (int64 ns), price (float64), and whether it is all there is."""

    ts: np.ndarray
    price: np.ndarray
    raw: bool


class _Tape:
    """Ticks that were loaded, and behind them what was streamed since. Safe to use from several threads."""

    def __init__(self, ticks: Ticks | None, trigger: str | None):
        self.lock = RLock()
        self.ticks = ticks
        if ticks is None:
            self.ts = self.units = np.empty(0, np.int64)
        else:
            view = ticks.view(trigger or ticks.triggers[0])
            self.ts, self.units = view.ts, view.price
        self.count = 0
        """Ticks that were ever streamed."""
        self.used = 0
        self.new_ts: np.ndarray = np.empty(1024, np.int64)
        self.new_price: np.ndarray = np.empty(1024)

    def add(self, ts: np.ndarray, price: np.ndarray) -> int:
        """Take in newer ticks; how many had been streamed before them. Raises DataError if time goes backwards."""
        last = self.last
        backwards = np.flatnonzero(np.diff(ts, prepend=ts[:1] if last is None else last) < 0)
        if len(backwards):
            row = int(backwards[0])
            before = instant_text(int(ts[row - 1])) if row else instant_text(int(last or 0))
            raise DataError(
                f"ts[{row}] = {instant_text(int(ts[row]))}: before the tick before it, {before}; sort them, or start anew "
                "with set_ticks(...)"
            )
        self.count += len(ts)
        if len(ts) > STREAM_POINTS // 2:
            kept = m4(ts, price, STREAM_POINTS // 2)
            ts, price = ts[kept], price[kept]
        if self.used + len(ts) > STREAM_POINTS:
            half = self.used // 2
            kept = np.append(m4(self.new_ts[:half], self.new_price[:half], half // 8), np.arange(half, self.used))
            self.new_ts[: len(kept)], self.new_price[: len(kept)] = self.new_ts[kept], self.new_price[kept]
            self.used = len(kept)
        end = self.used + len(ts)
        if end > len(self.new_ts):
            size = min(STREAM_POINTS, max(end, 2 * len(self.new_ts)))
            self.new_ts, self.new_price = np.resize(self.new_ts, size), np.resize(self.new_price, size)
        self.new_ts[self.used : end], self.new_price[self.used : end] = ts, price
        self.used = end
        return self.count

    @property
    def first(self) -> int | None:
        """Time of the oldest tick."""
        if len(self.ts):
            return int(self.ts[0])
        return int(self.new_ts[0]) if self.used else None

    @property
    def last(self) -> int | None:
        """Time of the newest tick."""
        if self.used:
            return int(self.new_ts[self.used - 1])
        return int(self.ts[-1]) if len(self.ts) else None

    def __len__(self) -> int:
        return len(self.ts) + self.used

    def cut(self, first: int | None, last: int | None, points: int) -> _Sample:
        """At most about `points` ticks from `first` to `last`, and one beyond either end, so that lines reach the edge."""
        with self.lock:
            new_ts, new_price = self.new_ts[: self.used], self.new_price[: self.used]
            new = _within(new_ts, first, last, self.used and len(self.ts) == 0)
            new_ts, new_price = new_ts[new].copy(), new_price[new].copy()
        old = _within(self.ts, first, last, True)
        ts, units = self.ts[old], self.units[old]
        raw = len(ts) + len(new_ts) <= points
        if not raw:
            share = 0.0
            if len(new_ts) and len(ts):
                share = (int(new_ts[-1]) - int(new_ts[0])) / max(1, int(new_ts[-1]) - int(ts[0]))
            elif len(new_ts):
                share = 1.0
            kept = m4(ts, units, max(MIN_POINTS, int(points * (1 - share)))) if len(ts) else slice(0)
            ts, units = ts[kept], units[kept]
            kept = m4(new_ts, new_price, max(MIN_POINTS, int(points * share))) if len(new_ts) else slice(0)
            new_ts, new_price = new_ts[kept], new_price[kept]
        price = np.empty(0) if self.ticks is None else self.ticks.instrument.prices(units)
        return _Sample(np.append(ts, new_ts), np.append(price, new_price), raw)

    def tail(self) -> tuple[int | None, int | None]:
        """From when to when the newest ticks are shown in detail."""
        with self.lock:
            back = _TAIL_TICKS - self.used
            if back > 0 and len(self.ts):
                return int(self.ts[max(0, len(self.ts) - back)]), self.last
            return int(self.new_ts[max(0, self.used - _TAIL_TICKS)]), self.last


class _Path(NamedTuple):
    """A stepped line: where it changes, and until when it goes on."""

    kind: str
    ts: np.ndarray
    price: np.ndarray
    end: int
    full: int
    """Points of it when it was last sent whole."""


class OrderChart(anywidget.AnyWidget):
    """A price with lines that can be dragged, marks where something happened, and stepped paths.

    Parameters
    ----------
    ticks : what is drawn, None for nothing yet; see `set_ticks`.
    theme : `"light"`, `"dark"`, or `"auto"`: as the notebook, or else the system, has it.
    height : of the chart, in CSS pixels.

    Attributes
    ----------
    lines : list of dicts with `id` (text), `kind` (one of KINDS), `price`, `label`, and if need be `detail` (text beside the
        price), `draggable` (False), `low` and `high` (limits of a drag, None for none) and `state` (one of STATES). A new
        list redraws; what is put into the old one does not.
    marks : list of dicts with `ts` (ns), `price`, `kind` (one of MARKS) and `text`.
    step, digits : lines snap to multiples of `step`; prices are written with `digits` decimals.
    title : text in the corner, as a rule the symbol.

    Wrong values raise DataError. `append`, `set_path`, `reject` and the attributes may be used from any one other thread.
    """

    _esm = Path(__file__).parent / "static" / "chart.js"

    lines: Any = traitlets.List(help="lines that may be dragged").tag(sync=True)
    marks: Any = traitlets.List(help="where something happened").tag(
        sync=True, to_json=lambda marks, _: [{**mark, "ts": str(mark["ts"])} for mark in marks]
    )
    step = traitlets.Float(0.01).tag(sync=True)
    digits = traitlets.Int(2).tag(sync=True)
    theme = traitlets.Unicode("auto").tag(sync=True)
    height = traitlets.Int(420).tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    _colours = traitlets.Dict(_COLOURS).tag(sync=True)
    # Counters: what the browser gets in their place is made when it is sent, so a page that is opened later gets the latest.
    _series = traitlets.Int(0).tag(sync=True, to_json=lambda version, self: self._state_of_ticks(version))
    _paths = traitlets.Int(0).tag(sync=True, to_json=lambda version, self: self._state_of_paths(version))
    _window: Any = traitlets.List().tag(sync=True)

    def __init__(self, ticks: Ticks | None = None, *, theme: str = "auto", height: int = 420):
        self._tape = _Tape(ticks, None)
        self._drawn_paths: dict[str, _Path] = {}
        self._movers: list[Moved] = []
        self._before: dict[str, tuple[float, float | None, float]] = {}
        self._lines_lock, self._data_lock = RLock(), RLock()
        self._shows = 0
        self._sampled: tuple[tuple[int, int], dict[str, Any]] | None = None
        super().__init__(theme=theme, height=height, **_of_market(ticks))
        if hasattr(self.comm, "_reply_subshell_for"):  # else a busy cell would keep drags and zooms waiting
            self.comm._reply_subshell_for = lambda data, default: default

    # ------------------------------------------------------------------------------------------------ what is drawn

    def set_ticks(self, ticks: Ticks | None, trigger: str | None = None) -> None:
        """Draw these ticks instead; `trigger` is the price to draw (last, bid, ask, mark), the first there is by default.

        Sets `step`, `digits` and `title` to those of the market. What was streamed goes.
        """
        tape = _Tape(ticks, trigger)
        for name, value in _of_market(ticks).items():
            setattr(self, name, value)
        with self._data_lock:
            self._tape, self._sampled = tape, None
            self._series += 1

    def append(self, ts: Any, price: Any) -> None:
        """Newest ticks of a stream: `ts` int64 ns, not decreasing, and float prices. Raises DataError."""
        moments, prices = _columns(ts, price)
        if not len(moments):
            return
        with self._data_lock, self._tape.lock:
            count = self._tape.add(moments, prices)
            self.send({"k": "a", "at": count - len(moments)}, [_packed(moments, prices)])

    def set_path(self, name: str, ts: Any, price: Any = None, kind: str = "stop") -> None:
        """Draw a stepped line `name` through these points, instead of the one of that name; `ts` None removes it.

        `kind` is stop, mark (a water mark) or other. A path that goes on where it ended costs only what is new. Raises
        DataError.
        """
        with self._data_lock:
            if ts is None:
                if self._drawn_paths.pop(name, None) is not None:
                    self._paths += 1
                return
            if not isinstance(name, str) or not name:
                raise DataError(f"name = {short(name)}: must be a text; give each path a name of its own")
            if kind not in PATHS:
                raise DataError(f"kind = {short(kind)}: must be one of {', '.join(PATHS)}")
            moments, prices = _columns(ts, price)
            if not len(moments):
                raise DataError("ts: is empty; give at least one point, or None to remove the path")
            changes = np.flatnonzero(np.diff(prices, prepend=np.nan) != 0)
            end, moments, prices = int(moments[-1]), moments[changes], prices[changes]
            old = self._drawn_paths.get(name)
            known = 0 if old is None else len(old.ts)
            goes_on = (
                old is not None
                and old.kind == kind
                and len(moments) - old.full < _PATH_TAIL
                and known <= len(moments)
                and end >= old.end
                and np.array_equal(moments[:known], old.ts)
                and np.array_equal(prices[:known], old.price)
            )
            full = old.full if old is not None and goes_on else len(moments)
            self._drawn_paths[name] = _Path(kind, moments, prices, end, full)
            if goes_on:
                if old is not None and (end, len(moments)) != (old.end, known):
                    content = {"k": "path", "name": name, "at": known, "end": _ms(end)}
                    self.send(content, [_packed(moments[known:], prices[known:])])
            else:
                self._paths += 1

    def show(self, start: int | None = None, stop: int | None = None) -> None:
        """Show the ticks from `start` to `stop` (ns); without them, follow the newest. Raises DataError."""
        if (start is None) != (stop is None) or (start is not None and stop is not None and start >= stop):
            raise DataError(f"start, stop = {short((start, stop))}: must be two moments in order, or both None")
        self._shows += 1
        self._window = [self._shows, *([] if start is None or stop is None else [_ms(start), _ms(stop)])]

    # ------------------------------------------------------------------------------------------------ what is moved

    def on_move(self, callback: Moved) -> Callable[[], None]:
        """Call `callback(id, price, final)` when a line is moved; returns what ends that.

        `final` is False while a hand drags (at most 20 times a second, the newest price wins) and True when it lets go, and
        for moves by key. After an undone drag the former price comes as final. The chart has the new price in `lines` when
        a final move is told. A SmartOrdersError that is raised by `callback` rejects the move with its text. Callbacks run on
        the thread that serves the browser: hand work on to another one.
        """
        self._movers.append(callback)

        def end() -> None:
            if callback in self._movers:
                self._movers.remove(callback)

        return end

    def reject(self, id: str, reason: str) -> None:
        """Let a line spring back to where it was before its last move, and say why, to eyes and to screen readers."""
        line = self._line(id)
        if line is None:
            known = ", ".join(line["id"] for line in self.lines) or "none"
            raise DataError(f"id = {short(id)}: no line has it; there are: {known}")
        with self._lines_lock:
            old, moved, when = self._before.pop(id, (line["price"], None, -inf))
            price = old if line["price"] == moved and monotonic() - when < _REMEMBERED else line["price"]
            self.send({"k": "reject", "id": id, "reason": str(reason)[:_REASON_LENGTH], "price": price})
            self._place(id, price)

    def _line(self, id: object) -> dict[str, Any] | None:
        return next((line for line in self.lines if line["id"] == id), None)

    def _place(self, id: str, price: float) -> None:
        self.lines = [{**line, "price": price} if line["id"] == id else line for line in self.lines]

    # ------------------------------------------------------------------------------------------------ the browser asks

    def _handle_custom_msg(self, content: object, buffers: object) -> None:
        """What comes from the browser; what cannot be understood is passed over."""
        if not isinstance(content, dict):
            return
        kind = content.get("k")
        if kind == "move":
            self._moved(content)
        elif kind == "view":
            self._answer(content)
        elif kind == "paths":
            with self._data_lock:
                self._paths += 1

    def _moved(self, content: dict[str, Any]) -> None:
        id, price, final, number = (content.get(key) for key in ("id", "price", "final", "n"))
        if not (isinstance(id, str) and _is_number(price) and isinstance(final, bool) and _is_number(number)):
            return
        with self._lines_lock:
            line = self._line(id)
            if line is None or not line["draggable"]:
                return
            snapped, slack = self._snapped(float(price)), self.step / 1e3
            low, high = line["low"], line["high"]
            if (
                snapped <= 0
                or (low is not None and snapped < low - slack)
                or (high is not None and snapped > high + slack)
            ):
                if final:
                    self.reject(id, f"{_text(snapped, self.digits)}: must be {_between(line, self.digits)}")
                self.send({"k": "ack", "n": number})
                return
            if final:
                self._before[id] = line["price"], snapped, monotonic()
                self._place(id, snapped)
        try:
            for callback in list(self._movers):
                callback(id, snapped, final)
        except SmartOrdersError as error:
            self._refuse(id, str(error), final)
        except Exception:
            self._refuse(id, "this could not be done; the notebook shows the error", final)
            raise
        finally:
            self.send({"k": "ack", "n": number})

    def _refuse(self, id: str, reason: str, final: bool) -> None:
        """Reject a move; of one that is still in the hand only the reason is shown."""
        line = self._line(id)
        if line is not None and final:
            self.reject(id, reason)
        elif line is not None:
            self.send({"k": "reject", "id": id, "reason": reason[:_REASON_LENGTH], "price": line["price"]})

    def _snapped(self, price: float) -> float:
        """The multiple of `step` nearest to a price."""
        units = Decimal(repr(price)) / Decimal(repr(self.step))
        return float(units.to_integral_value() * Decimal(repr(self.step)))

    def _answer(self, content: dict[str, Any]) -> None:
        start, stop, points, number = (content.get(key) for key in ("from", "to", "points", "n"))
        if not (_is_number(start) and _is_number(stop) and _is_number(points) and _is_number(number)):
            return
        tape = self._tape
        first, last = tape.first, tape.last
        if first is None or last is None or start >= stop:
            return
        begin, end = (int(min(max(ms * 1e6, first), last)) for ms in (start, stop))
        whole = content.get("whole") is True
        with tape.lock:
            count = tape.count
        sample = (
            tape.cut(None, None, _WHOLE)
            if whole
            else tape.cut(begin, end, int(min(max(points, MIN_POINTS), _MOST_POINTS)))
        )
        names, buffers = [], [_packed(sample.ts, sample.price)]
        for name, path in [] if whole else self._drawn_paths.copy().items():
            ts, price, raw = _thinned(path, begin, end)
            names.append({"name": name, "raw": raw})
            buffers.append(_packed(ts, price))
        span = [first, last] if whole else [begin, end]
        reply = {
            "k": "view",
            "n": number,
            "v": self._series,
            "whole": whole,
            "at": count,
            "raw": sample.raw,
            "paths": names,
        }
        if tape is self._tape:
            self.send({**reply, "from": _ms(span[0]), "to": _ms(span[1])}, buffers)

    def _state_of_ticks(self, version: int) -> dict[str, Any]:
        tape = self._tape
        with self._data_lock, tape.lock:
            key = version, tape.count
            if self._sampled is None or self._sampled[0] != key:
                state: dict[str, Any] = {"v": version, "at": tape.count}
                if len(tape):
                    raw = len(tape) <= _RAW
                    state["whole"] = _layer(tape.cut(None, None, _RAW if raw else _WHOLE))
                    if not raw:
                        state["tail"] = _layer(tape.cut(*tape.tail(), _TAIL))
                self._sampled = key, state
            return self._sampled[1]

    def _state_of_paths(self, version: int) -> dict[str, Any]:
        with self._data_lock:
            paths = {}
            for name, path in self._drawn_paths.items():
                ts, price, raw = _thinned(path, None, None)
                about = {"kind": path.kind, "count": len(path.ts), "end": _ms(path.end), "raw": raw}
                paths[name] = {**about, "data": _packed(ts, price)}
                self._drawn_paths[name] = path._replace(full=len(path.ts))
            return {"v": version, "paths": paths}

    # ------------------------------------------------------------------------------------------------ checks

    @traitlets.validate("lines")
    def _check_lines(self, proposal: Any) -> list[dict[str, Any]]:
        return _checked(proposal["value"], "lines", MAX_LINES, _checked_line)

    @traitlets.validate("marks")
    def _check_marks(self, proposal: Any) -> list[dict[str, Any]]:
        return _checked(proposal["value"], "marks", MAX_MARKS, _checked_mark)

    @traitlets.validate("step")
    def _check_step(self, proposal: Any) -> float:
        return _above(proposal["value"], "step", 0)

    @traitlets.validate("digits")
    def _check_digits(self, proposal: Any) -> int:
        if not 0 <= proposal["value"] <= 20:
            raise DataError(f"digits = {proposal['value']}: must be 0 to 20")
        return int(proposal["value"])

    @traitlets.validate("theme")
    def _check_theme(self, proposal: Any) -> str:
        if proposal["value"] not in THEMES:
            raise DataError(f"theme = {short(proposal['value'])}: must be one of {', '.join(THEMES)}")
        return str(proposal["value"])

    @traitlets.validate("height")
    def _check_height(self, proposal: Any) -> int:
        if not 160 <= proposal["value"] <= 4000:
            raise DataError(f"height = {proposal['value']}: must be 160 to 4000 pixels")
        return int(proposal["value"])

    # ------------------------------------------------------------------------------------------------ display

    def __repr__(self) -> str:
        name = f" {self.title}" if self.title else ""
        return f"<OrderChart{name}: {len(self._tape):,} ticks, {len(self.lines)} lines, {len(self.marks)} marks>"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict] | None:
        """The widget, and for a page without a kernel a picture of it as it is now."""
        found = super()._repr_mimebundle_(**kwargs)
        if found is None:
            return None
        data, about = found
        return {**data, "text/html": self.picture()}, about

    def picture(self) -> str:
        """The chart as it stands as HTML: one image, made without a browser, that needs nothing else."""
        start, stop = [int(ms * 1e6) for ms in self._window[1:]] or _recent(self._tape, self.lines)
        sample = self._tape.cut(start, stop, 1200)
        paths = [*self._drawn_paths.copy().values()]
        svg = _svg(sample, self.lines, self.marks, paths, self.digits, self.theme)
        words = [f"{line['label']} {_text(line['price'], self.digits)} ({line['state']})" for line in self.lines]
        alt = escape(f"Chart {self.title}".strip() + (": " if words else "") + ", ".join(words))
        image = b64encode(svg.encode()).decode()
        return f'<img alt="{alt}" style="max-width:100%" src="data:image/svg+xml;base64,{image}">'


# --- ticks and numbers --------------------------------------------------------------------------------------------------


def _of_market(ticks: Ticks | None) -> dict[str, Any]:
    if ticks is None:
        return {}
    instrument, view = ticks.instrument, ticks.view(ticks.triggers[0]).price
    about = float(instrument.price(int(view[-1]))) if instrument.derived else None
    digits = decimals(instrument.price_increment, about)
    return {"step": float(instrument.price_increment), "digits": digits, "title": ticks.symbol}


def _columns(ts: Any, price: Any) -> tuple[np.ndarray, np.ndarray]:
    """Moments and prices as arrays that fit each other. Raises DataError."""
    moments, prices = np.atleast_1d(np.asarray(ts)), np.atleast_1d(np.asarray(price, np.float64))
    if moments.dtype.kind == "M":
        moments = moments.astype("datetime64[ns]").astype(np.int64)
    if moments.dtype.kind not in "iu" and len(moments):
        raise DataError(f"ts: is {moments.dtype}; must be int64, ns since 1970 in UTC")
    if moments.shape != prices.shape or moments.ndim != 1:
        raise DataError(f"price: has the shape {prices.shape}, ts has {moments.shape}; one price for each moment")
    if len(bad := np.flatnonzero(~np.isfinite(prices))):
        raise DataError(f"price[{bad[0]}] = {prices[bad[0]]}: must be finite; leave such points out")
    moments = moments.astype(np.int64)
    if len(bad := np.flatnonzero(np.diff(moments) < 0)):
        row = int(bad[0]) + 1
        raise DataError(f"ts[{row}] = {instant_text(int(moments[row]))}: before the one before it; sort both by time")
    return moments, prices


def _within(ts: np.ndarray, first: int | None, last: int | None, reach: object) -> slice:
    """Positions from `first` to `last`, and one more on either side where there is one."""
    begin = 0 if first is None else int(np.searchsorted(ts, first))
    end = len(ts) if last is None else int(np.searchsorted(ts, last, "right"))
    return slice(max(0, begin - bool(reach)), end + 1)


def _packed(ts: np.ndarray, price: np.ndarray) -> bytes:
    """Milliseconds, then prices, as float64: what a browser reads without parsing. Exact to the microsecond."""
    return (ts // 1000 / 1000.0).astype("<f8").tobytes() + price.astype("<f8").tobytes()


def _ms(ns: int) -> float:
    """A moment as `_packed` has it."""
    return int(ns) // 1000 / 1000.0


def _layer(sample: _Sample) -> dict[str, Any]:
    ts = sample.ts
    data = _packed(ts, sample.price)
    return {"from": _ms(ts[0]), "to": _ms(ts[-1]), "raw": sample.raw, "data": data}


def _thinned(path: _Path, first: int | None, last: int | None) -> tuple[np.ndarray, np.ndarray, bool]:
    """The changes of a path between two moments, and the one before, at which it stood when they began."""
    cut = _within(path.ts, first, last, True)
    ts, price = path.ts[cut], path.price[cut]
    if len(ts) <= _PATH_POINTS:
        return ts, price, True
    kept = m4(ts, price, _PATH_POINTS)
    return ts[kept], price[kept], False


def _recent(tape: _Tape, lines: list[dict[str, Any]]) -> tuple[int | None, int | None]:
    """The newest stretch in which the price moved about as far as the lines are apart."""
    sample = tape.cut(None, None, _WHOLE)
    prices = [line["price"] for line in lines if line["state"] != "cancelled"]
    if not len(sample.ts) or not prices:
        return None, None
    newest = sample.price[-1]
    reach = (max(*prices, newest) - min(*prices, newest)) / 2
    back = sample.price[::-1]
    moved = np.maximum.accumulate(back) - np.minimum.accumulate(back)
    far = np.flatnonzero(moved >= reach)
    return (int(sample.ts[::-1][far[0]]) if len(far) else None), None


# --- checks -------------------------------------------------------------------------------------------------------------


def _checked(given: list[Any], name: str, most: int, check: Callable[[dict, str], dict]) -> list[dict[str, Any]]:
    if len(given) > most:
        raise DataError(f"{name}: holds {len(given):,}; at most {most:,} can be shown")
    found = []
    for i, one in enumerate(given):
        if not isinstance(one, dict):
            raise DataError(f"{name}[{i}] = {short(one)}: must be a dict")
        found.append(check(one, f"{name}[{i}]"))
    ids = [one["id"] for one in found if "id" in one]
    if twice := next((id for i, id in enumerate(ids) if id in ids[:i]), None):
        raise DataError(f"{name}: the id {short(twice)} comes twice; each needs one of its own")
    return found


def _checked_line(line: dict[str, Any], where: str) -> dict[str, Any]:
    known = {"label": "", "detail": "", "draggable": False, "low": None, "high": None, "state": "planned"}
    if unknown := set(line) - {"id", "kind", "price", *known}:
        raise DataError(
            f"{where}.{min(unknown, key=str)}: is no field of a line; there are id, kind, price, {', '.join(known)}"
        )
    if missing := [field for field in ("id", "kind", "price") if field not in line]:
        raise DataError(f"{where}.{missing[0]}: is missing")
    full = {**known, **line}
    for field in ("id", "label", "detail"):
        if not isinstance(full[field], str) or (field == "id" and not full[field]):
            raise DataError(f"{where}.{field} = {short(full[field])}: must be a text")
    _one_of(full, where, "kind", KINDS)
    _one_of(full, where, "state", STATES)
    full["price"] = _above(full["price"], f"{where}.price", -inf)
    for field in ("low", "high"):
        if full[field] is not None:
            full[field] = _above(full[field], f"{where}.{field}", -inf)
    if full["low"] is not None and full["high"] is not None and full["low"] > full["high"]:
        raise DataError(f"{where}.low = {full['low']}: must not be above high, {full['high']}")
    full["draggable"] = bool(full["draggable"])
    return full


def _checked_mark(mark: dict[str, Any], where: str) -> dict[str, Any]:
    ts = mark.get("ts")
    if isinstance(ts, str) and ts.lstrip("-").isdigit():
        ts = int(ts)
    if isinstance(ts, bool) or not isinstance(ts, (int, np.integer)):
        raise DataError(f"{where}.ts = {short(ts)}: must be ns since 1970, as a whole number")
    _one_of(mark, where, "kind", MARKS)
    text = mark.get("text", "")
    if not isinstance(text, str):
        raise DataError(f"{where}.text = {short(text)}: must be a text")
    price = _above(mark.get("price"), f"{where}.price", -inf)
    return {"ts": int(ts), "price": price, "kind": mark["kind"], "text": text}


def _one_of(one: dict[str, Any], where: str, field: str, known: tuple[str, ...]) -> None:
    if one.get(field) not in known:
        raise DataError(f"{where}.{field} = {short(one.get(field))}: must be one of {', '.join(known)}")


def _above(value: Any, where: str, least: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if isinstance(value, (bool, str)) or not isfinite(number) or number <= least:
        raise DataError(
            f"{where} = {short(value)}: must be a finite number" + (f" above {least:g}" if least > -inf else "")
        )
    return number


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300


def _text(price: float, digits: int) -> str:
    return f"{price:,.{digits}f}"


def _between(line: dict[str, Any], digits: int) -> str:
    low, high = line["low"], line["high"]
    if low is not None and high is not None:
        return f"from {_text(low, digits)} to {_text(high, digits)}"
    return f"at most {_text(high, digits)}" if high is not None else f"at least {_text(low or 0, digits)}"


# --- the picture --------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _RIGHT, _BOTTOM = 860, 340, 190, 24
_DASHES = {"planned": "6 4", "waiting": "6 4", "working": "6 4", "filled": "", "cancelled": "2 4"}
_PATH_DASHES = {"stop": "", "mark": "5 3", "other": "8 3 2 3"}
_WORDS = {
    "planned": "",
    "waiting": " waiting",
    "working": " working",
    "filled": " ✓ filled",
    "cancelled": " ✕ cancelled",
}
_SHAPES = {"buy": "0,2 -5,11 5,11", "sell": "0,-2 -5,-11 5,-11", "event": "0,-6 6,0 0,6 -6,0"}


def _svg(sample: _Sample, lines: list[dict], marks: list[dict], paths: list[_Path], digits: int, theme: str) -> str:
    """Price, lines, marks and paths as SVG; what lies off the scale is named at its edge."""
    ink, width, height = INKS[theme], _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    prices = [float(p) for p in (sample.price.min(), sample.price.max())] if len(sample.ts) else []
    span = (max(prices) - min(prices)) if prices else inf
    for line in sorted(lines, key=lambda line: abs(line["price"] - (prices or [line["price"]])[0])):
        if max(*prices, line["price"], line["price"]) - min(*prices, line["price"], line["price"]) <= 20 * (
            span or inf
        ):
            prices.append(line["price"])
    steps = [_thinned(path, int(sample.ts[0]), int(sample.ts[-1])) for path in paths] if len(sample.ts) else []
    for _, price, _ in steps:
        ends = [float(p) for p in (price.min(), price.max())] if len(price) else []
        prices += [p for p in ends if max(*prices, p) - min(*prices, p) <= 20 * (span or inf)]
    low, high = (min(prices), max(prices)) if prices else (0.0, 1.0)
    room = 0.07 * (high - low) or abs(high) * 1e-3 or 1.0
    low, high = low - room, high + room

    def y(price: float) -> float:
        return round((high - min(max(price, low), high)) / (high - low) * height, 1)

    parts = []
    if len(sample.ts):
        first, last = int(sample.ts[0]), int(sample.ts[-1])
        scale = width * 0.97 / max(1, last - first)
        xs = (sample.ts - first) * scale
        line_points = " ".join(f"{x:.1f},{y(p)}" for x, p in zip(xs.tolist(), sample.price.tolist(), strict=True))
        parts.append(f'<polyline points="{line_points}" fill="none" stroke="{ink}" stroke-width="1.2"/>')
        for path, (ts, price, _) in zip(paths, steps, strict=True):
            ends = np.clip(np.append(ts, path.end), first, last)
            if len(ts) and ts[0] <= last and path.end >= first:
                corners = zip(ends[:-1].tolist(), ends[1:].tolist(), price.tolist(), strict=True)
                way = " ".join(f"{(x - first) * scale:.1f},{y(p)}" for a, b, p in corners for x in (a, b))
                colour, dash = _COLOURS[path.kind], _PATH_DASHES[path.kind]
                parts.append(
                    f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}"/>'
                )
        for mark in marks:
            if first <= mark["ts"] <= last:
                place = f"translate({(mark['ts'] - first) * scale:.1f} {y(mark['price'])})"
                shape = (
                    f'<polygon points="{_SHAPES[mark["kind"]]}" fill="{_COLOURS[mark["kind"]]}" transform="{place}">'
                )
                parts.append(f"{shape}<title>{escape(mark['text'])}</title></polygon>")
        for when, x, anchor in ((first, 0.0, "start"), (last, float(xs[-1]), "end")):
            moment = instant_text(when)[:19].replace("T", " ")
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 7}" text-anchor="{anchor}">{moment} UTC</text>')
    for line, at in zip(sorted(lines, key=lambda line: -line["price"]), _apart(lines, y, height), strict=True):
        colour = _COLOURS[line["kind"]]
        faint = line["state"] == "cancelled" or (line["state"] == "filled" and line["kind"] != "entry")
        arrow = "↑ " if line["price"] > high else "↓ " if line["price"] < low else ""
        level, dash = y(line["price"]), _DASHES[line["state"]] if line["kind"] in ("level", "trail", "even") else ""
        stroke = f'stroke="{colour}" stroke-width="1.5" fill="none" opacity="{0.55 if faint else 1}"'
        if not arrow:
            parts.append(f'<path d="M0 {level}H{width - 8}L{width} {at}" {stroke} stroke-dasharray="{dash}"/>')
        words = f"{arrow}{line['label']} {_text(line['price'], digits)}{_WORDS[line['state']]}"
        parts.append(f'<circle cx="{width + 6}" cy="{at}" r="3.5" fill="{colour}"/>')
        parts.append(f'<text x="{width + 14}" y="{at + 4:.1f}">{escape(words)}</text>')
    body = "".join(parts)
    style = f'font-family="system-ui,Helvetica,Arial,sans-serif" font-size="11.5" fill="{ink}"'
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    back = {"light": "#ffffff", "dark": "#10151d"}.get(theme, "none")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><rect {size[size.index("width") :]} fill="{back}"/><g {style}>{body}</g></svg>'


def _apart(lines: list[dict], y: Callable[[float], float], height: float) -> list[float]:
    """Heights of the labels of all lines, from the highest price on, moved so that none covers another."""
    gap = min(15.0, (height - 15) / max(1, len(lines)))
    heights: list[float] = []
    for line in sorted(lines, key=lambda line: -line["price"]):
        heights.append(max(y(line["price"]), heights[-1] + gap if heights else 8.0))
    limit = height - 6
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], limit)
        limit = heights[i] - gap
    return [round(height, 1) for height in heights]
