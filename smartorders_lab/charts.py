"""Charts: the life of one order, and what many orders came to, as plain plotly figures. The only owner of plotly.

    run.plot(3)                        # in a notebook the figure shows itself
    write_html(run.plot(3), "order.html")

Between two events nothing about an order changes but its water mark, so the path of the stop is not recorded:
`stop_path` recomputes it from the ticks, exactly, and holds it against what every event says. Lines are drawn from a
sample (`m4`) that keeps every high and low; zooming in does not bring back the ticks in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from html import escape
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from .actions import Action
from .errors import DataError, short
from .exact import floor_rate
from .fills import FillModel
from .instrument import Instrument
from .lower import rate_units
from .rows import NONE, SCALE
from .ticks import CONTINUOUS, Bars, TickView
from .times import duration_ns

try:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("charts need plotly: pip install 'smartorders_lab[plot]'") from error

if TYPE_CHECKING:
    from .run import Run
    from .spec import SmartOrder, TrailingStop
    from .ticks import Ticks

THEMES = ("auto", "light", "dark")
MIN_POINTS = 40
"""Fewest points that a line can be drawn with: ten pixel columns."""
MAX_CANDLES = 300
"""Most candles of a chart; beyond it, neighbours are merged."""
_MARGIN = 20
"""Ticks shown around an order, however short its life was."""
_NAMED_MARKS = 12
"""Up to so many events carry their word on the chart, more only in the hover."""

# Mostly Okabe and Ito's palette (2008), which those who see red and green alike can tell apart; dash, marker and word
# say it again.
_STOP, _MARK, _AVERAGE, _BUY, _SELL, _EVENT = "#d55e00", "#56b4e9", "#cc79a7", "#0072b2", "#e69f00", "#9467bd"
_LEVELS = {
    "PENDING": ("#8b949e", "dash", "circle-open"),
    "TRIGGERED": ("#d9a400", "dashdot", "circle-dot"),
    "FILLED": ("#009e73", "solid", "circle"),
    "CANCELLED": ("#d9432f", "dot", "x"),
}
"""Colour, dash and marker of a take-profit level, by status."""
_REASONS = {
    "take_profit": ("#009e73", ""),
    "trailing_take_profit": ("#44bb99", "/"),
    "trailing_stop": ("#56b4e9", ""),
    "break_even": ("#8b949e", ""),
    "stop_loss": ("#d55e00", ""),
    "max_hold": ("#cc79a7", "\\"),
    "close_at_market": ("#0072b2", "x"),
    "reduced": ("#e69f00", "."),
}
"""Colour and pattern of an exit reason."""
_MARKERS = {
    "armed": "triangle-right",
    "break_even": "diamond",
    "timer_started": "hourglass",
    "timer_cleared": "hourglass-open",
    "action": "star",
    "action_refused": "x-thin-open",
    "rejected": "octagon",
}
"""Marker of the events that are neither fills nor levels."""
_EXITS = {"stop_loss", "break_even", "trailing_stop", "max_hold", "close_at_market"}
_BUYS = {"entry", "add_funds"}


# --- figures --------------------------------------------------------------------------------------------------------


def plot_order(
    run: Run,
    order: int = 0,
    ticks: Ticks | None = None,
    *,
    points: int = 4000,
    theme: str = "auto",
    pad: float = 0.08,
) -> go.Figure:
    """The life of one order: price, average entry, levels, stop and water mark as they moved, fills and events.

    Parameters
    ----------
    order : which order of the run.
    ticks : the ticks that it was replayed on, where the run does not carry them (read back from a store).
    points : most points of a line; highs and lows stay those of the ticks (see `m4`).
    theme : `"light"`, `"dark"`, or `"auto"`, which reads on both; the background is transparent.
    pad : what is shown before and after the order, as a share of its life.

    Raises DataError if there is no such order, if there are no ticks, or if they are not those of the run.
    """
    _check_look(theme, points)
    if not pad >= 0:
        raise DataError(f"pad = {short(pad)}: must be 0 or more; 0.1 shows a tenth of the order's life on either side")
    life = _Life.of(run, order, ticks)
    window = life.window(pad)
    bottom, top, line_height = _heights(life, window)
    figure = go.Figure(layout=_layout(theme))
    figure.add_traces([_price(life, window, points, theme), *_lines(life, points), *_level_lines(life), *_dots(life)])
    begin, end = life.view.ts[window.start], life.view.ts[window.stop - 1]
    figure.update_xaxes(range=[_times(begin - (end - begin) // 80), _times(end)])  # room for a marker on the first tick
    figure.update_yaxes(range=[bottom, top])
    for y, text, colour in _spread(_labels(life, bottom, top), line_height):
        font = {"color": colour, "size": 11}
        figure.add_annotation(x=1.005, xref="paper", xanchor="left", y=y, text=text, font=font, showarrow=False)
    if life.final:
        figure.add_vline(_times(life.end_ts), line={"color": _INKS[theme], "width": 1, "dash": "dot"}, opacity=0.6)
    figure.update_layout(title=_title(life), margin={"r": 170}, height=520)
    return figure


def plot_summary(run: Run, *, theme: str = "auto", points: int = 4000) -> go.Figure:
    """What the orders of a run came to: returns by exit reason, and the profit of the finished ones over time."""
    _check_look(theme, points)
    done = run.orders.filter(pl.col("exit_ts").is_not_null() & pl.col("return_").is_not_null()).sort("exit_ts")
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09, figure=go.Figure(layout=_layout(theme)))
    if done.height:
        figure.add_traces(list(_histogram(done)), rows=1, cols=1)
        ts, total = done["exit_ts"].dt.epoch("ns").to_numpy(), done["realized_pnl"].cum_sum().to_numpy()
        kept = m4(ts, total, points)
        curve = _steps(ts[kept], total[kept], "profit so far", _INKS[theme], width=1.5, showlegend=False)
        figure.add_trace(curve, row=1, col=2)
    else:
        nothing = "no order has left its position"
        figure.add_annotation(text=nothing, xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False)
    figure.update_xaxes(title="return, %", row=1, col=1)
    figure.update_yaxes(title="orders", row=1, col=1)
    figure.update_yaxes(title="profit so far, quote currency", row=1, col=2)
    s = run.summary()
    won = "–" if s["win_rate"] is None else f"{s['win_rate']:.0%}"
    text = f"<b>{s['orders']:,} orders · {s['finished']:,} finished · {won} won · pnl {s['realized_pnl']:+,.6g}</b>"
    below = escape(f"{run.meta['symbol'] or run.specs[0].symbol} · fees {s['fees']:,.6g}")
    figure.update_layout(title={"text": text, "subtitle": {"text": below}}, barmode="stack", height=440)
    figure.update_layout(legend={"y": -0.2})
    return figure


def write_html(figures: go.Figure | Sequence[go.Figure], path: str | Path, title: str = "smartorders_lab") -> Path:
    """One or more figures as a page that opens anywhere, offline: plotly.js (5 MB) is inside, nothing is loaded."""
    many = [figures] if isinstance(figures, go.Figure) else list(figures)
    if not many:
        raise DataError("figures: is empty; give at least one figure")
    config = {"displaylogo": False, "responsive": True}
    parts = [f.to_html(full_html=False, include_plotlyjs=i == 0, config=config) for i, f in enumerate(many)]
    theme = (many[0].layout.meta or {}).get("theme", "light")
    Path(path).write_text(_PAGE.format(title=escape(title), style=_STYLES[theme], body="\n".join(parts)), "utf-8")
    return Path(path)


def m4(ts: np.ndarray, values: np.ndarray, points: int) -> np.ndarray:
    """Positions of at most `points` samples whose line looks like the line of all.

    Time is cut into pixel columns, and of each column the first, last, lowest and highest sample stay: U. Jugel,
    Z. Jerzak, G. Hackenbroich, V. Markl, "M4: A Visualization-Oriented Time Series Data Aggregation", PVLDB 7, 2014.
    `ts` (int64) must not decrease.
    """
    if len(ts) <= points:
        return np.arange(len(ts))
    edges = np.linspace(ts[0], ts[-1], points // 4 + 1)[1:-1].astype(np.int64)
    cuts = np.unique([0, *np.searchsorted(ts, edges), len(ts)])
    kept = []
    for start, stop in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
        column = values[start:stop]
        kept += [start, start + int(np.argmin(column)), start + int(np.argmax(column)), stop - 1]
    return np.unique(kept)


# --- the path of the stop ---------------------------------------------------------------------------------------------


class StopPath(NamedTuple):
    """Effective stop and water mark as steps: what stood when tick `tick` was done, and until the next row's tick.

    In price increments; NONE where there was none.
    """

    tick: np.ndarray
    stop: np.ndarray
    mark: np.ndarray


def stop_path(run: Run, order: int = 0, ticks: Ticks | None = None) -> StopPath:
    """How the stop of one order moved, tick by tick: `docs/rules.md`, section Stop, on whole arrays.

    Raises DataError as `plot_order` does, also if ticks and events contradict one another.
    """
    return _Life.of(run, order, ticks).path


@dataclass
class _Life:
    """One order of a run with all that its chart needs: rows of the frames (times in ns), ticks, and how it was run."""

    spec: SmartOrder
    row: dict[str, Any]
    events: list[dict[str, Any]]
    levels: list[dict[str, Any]]
    filled: list[dict[str, Any]]
    edits: list[Action]
    fills: FillModel
    instrument: Instrument
    view: TickView
    looked: np.ndarray | None
    bars: Bars | None
    how: list[str]

    @classmethod
    def of(cls, run: Run, order: int, ticks: Ticks | None) -> _Life:
        """Gather it. Raises DataError."""
        count, meta = run.orders.height, run.meta
        if isinstance(order, bool) or not isinstance(order, (int, np.integer)) or not 0 <= order < count:
            raise DataError(f"order = {short(order)}: the run has {count} orders; use 0 to {count - 1}")
        ticks = _ticks_of(run, run.ticks if ticks is None else ticks)
        spec = run.specs[order]
        view = ticks.view(spec.trigger, spec.direction)
        poll = duration_ns(meta["poll_interval"] or 0)
        actions = [Action(**action) for action in meta["actions"]]
        frames = [
            frame.filter(pl.col("order") == order).with_columns(pl.selectors.datetime().dt.epoch("ns")).to_dicts()
            for frame in (run.orders, run.events, run.levels, run.fills)
        ]
        return cls(
            spec=spec,
            row=frames[0][0],
            events=frames[1],
            levels=[level for level in frames[2] if level["price"] is not None],
            filled=frames[3],
            edits=sorted((a for a in actions if a.order == order and a.kind == "edit"), key=lambda a: a.at),
            fills=FillModel(**meta["fills"]),
            instrument=Instrument(**meta["instrument"]),
            view=view,
            looked=_looked(view.ts, poll, meta["held_back"] or []),
            bars=ticks.bars,
            how=[f"{name} {meta[key]}" for key, name in _HOW.items() if meta[key]],
        )

    @property
    def side(self) -> int:
        """+1 for a long, -1 for a short."""
        return self.spec.direction

    @property
    def final(self) -> bool:
        """Whether the order has ended."""
        return self.row["exit_reason"] is not None

    @property
    def end_ts(self) -> int:
        """When it ended, or the tape did."""
        return self.events[-1]["ts"] if self.final else int(self.view.ts[-1])

    def window(self, pad: float) -> slice:
        """The ticks shown."""
        count = len(self.view.ts)
        first, last = self.events[0]["tick"], self.events[-1]["tick"] if self.final else count - 1
        margin = int(pad * (last - first)) + _MARGIN
        return slice(max(first - margin, 0), min(last + margin + 1, count))

    def price(self, units: Any) -> float:
        """Units as a float."""
        return float(self.instrument.price(int(units)))

    def prices(self, units: np.ndarray) -> np.ndarray:
        """Units as floats, NaN for none."""
        return np.where(units == NONE, np.nan, self.instrument.prices(units))

    def text(self, price: float) -> str:
        """A price with the decimals of its market."""
        return f"{price:.{max(-int(self.instrument.price_increment.normalize().as_tuple().exponent), 0)}f}"

    def units(self, quantity: float) -> int:
        """A quantity of a frame as the integer that it came from."""
        return round(quantity / float(self.instrument.quantity_increment))

    def mirrored(self, price: float | None) -> int:
        """A price of a frame as the integer that it came from, mirrored as in the kernel: up is the profit side."""
        return NONE if price is None else self.side * round(price / float(self.instrument.price_increment))

    def x(self, tick: int) -> int:
        """The watched price of a tick, mirrored."""
        return self.side * int(self.view.price[tick])

    @cached_property
    def entries(self) -> list[tuple[int, float]]:
        """(time, average entry) after each fill that moved it."""
        found, quantity, spent = [], 0.0, 0.0
        for event in self.events:
            if event["kind"] == "held" or (event["kind"] == "filled" and event["role"] in _BUYS):
                quantity, spent = quantity + event["quantity"], spent + event["quantity"] * event["price"]
                found.append((event["ts"], spent / quantity))
        return found

    @cached_property
    def path(self) -> StopPath:
        """See `stop_path`. From event to event: the ticks between two, then the tick of the next."""
        parts, trail, edits = [], _Trail(self), iter(self.edits)
        trail.take(self.spec.trailing_stop)
        stop, mark, seen = NONE, NONE, 0
        for tick, group in groupby(self.events, key=lambda event: event["tick"]):
            if trail.moves:
                parts.append(self._rise(trail.rate, stop, mark, seen, tick))
                mark = max(parts[-1].mark[-1:], default=mark)
            events, held = list(group), mark != NONE
            self._compare(events[0], mark)
            for event in events:
                trail.follow(event, edits)
            stop, mark = self.mirrored(events[-1]["stop"]), self.mirrored(events[-1]["water_mark"])
            if trail.moves and (held or self._looked_after_entry(events)) and self._is_looked(tick):
                mark = max(mark, self.x(tick))
                stop = max(stop, _turn(mark, trail.rate, self.side))
            parts.append(StopPath(*(np.array([value]) for value in (tick, stop, mark))))
            seen = tick + 1
        if trail.moves:
            parts.append(self._rise(trail.rate, stop, mark, seen, len(self.view.ts)))
        tick, *mirrored = (np.concatenate(column) for column in zip(*parts, strict=True))
        return StopPath(tick, *(np.where(x == NONE, NONE, self.side * x) for x in mirrored))

    def _rise(self, rate: int, stop: int, mark: int, start: int, end: int) -> StopPath:
        """The steps, mirrored, that the ticks from `start` up to `end` (excluded) make of `stop` and `mark`."""
        x = self.view.price[start:end] if self.side > 0 else -self.view.price[start:end]
        if self.looked is not None:
            x = np.where(self.looked[start:end], x, NONE)
        best = np.maximum(np.maximum.accumulate(x), mark)
        higher = np.flatnonzero(np.diff(best, prepend=mark))
        return StopPath(start + higher, np.maximum(_turn(best[higher], rate, self.side), stop), best[higher])

    def _is_looked(self, tick: int) -> bool:
        return self.looked is None or bool(self.looked[tick])

    def _looked_after_entry(self, events: list[dict[str, Any]]) -> bool:
        """Whether the tick that opened the position was looked at once more: not if that look had opened it.

        Latency, `open_now` and held coins come before the look; an entry inside a bar's segment leaves the rest of it.
        """
        opened = [event for event in events if event["kind"] == "triggered" and event["role"] == "entry"]
        if not opened or any(event["kind"] == "action" and event["role"] == "open_now" for event in events):
            return True
        tick = opened[0]["tick"]
        inside = len(self.view.flags) > 0 and bool(self.view.flags[tick] & CONTINUOUS)
        return inside and self.mirrored(opened[0]["price"]) != self.x(tick)

    def _compare(self, event: dict[str, Any], mark: int) -> None:
        """The events are the truth: a mark that could not have come from these ticks is refused."""
        if mark != NONE and self.mirrored(event["water_mark"]) not in (mark, max(mark, self.x(event["tick"]))):
            raise DataError(
                f"ticks: lead to a water mark of {self.price(self.side * mark)} at tick {event['tick']}, "
                f"the run says {event['water_mark']}; give the ticks that the run was replayed on"
            )


@dataclass
class _Trail:
    """Whether and how the water mark moves, as the events of an order tell it."""

    life: _Life
    rate: int = 0
    waits: bool = False
    armed: bool = False
    over: bool = False
    bought: dict[str | None, int] = field(default_factory=dict)
    sold: int = 0

    @property
    def moves(self) -> bool:
        """Whether a new high lifts the mark now."""
        return self.armed and not self.over

    def take(self, trailing: TrailingStop | None) -> None:
        """The trailing stop of a spec."""
        self.rate = 0 if trailing is None else rate_units(trailing.callback_rate)
        self.waits = trailing is not None and trailing.activation is not None

    def follow(self, event: dict[str, Any], edits: Iterator[Action]) -> None:
        """Take one event into account; `edits` are the edits not yet seen."""
        kind, role = event["kind"], event["role"]
        if role == "edit":
            changes = next(edits)
            if kind == "action" and "trailing_stop" in changes.changes:
                self.take(changes.apply(self.life.spec).trailing_stop)
                self.armed = self.rate > 0 and bool(self.bought) and (self.armed or not self.waits)
        elif kind == "armed" and role == "trailing_stop":
            self.armed = True
        elif kind == "held" or (kind == "filled" and role in _BUYS):
            if not self.bought:
                self.armed = self.rate > 0 and not self.waits
            self.bought[event["liquidity"]] = self.bought.get(event["liquidity"], 0) + self.life.units(
                event["quantity"]
            )
        elif kind == "filled":
            self.sold += self.life.units(event["quantity"])
            self.over |= self.sold >= self.entered
        elif kind == "ended" or (kind == "triggered" and role in _EXITS) or (kind == "action" and role == "cancel"):
            self.over = True

    @property
    def entered(self) -> int:
        """What the position has received, in units."""
        fills = self.life.fills
        if fills.fee_currency != "base" or self.life.side < 0:
            return sum(self.bought.values())
        fees = {"maker": rate_units(fills.fee_maker), "taker": rate_units(fills.fee_taker)}
        return sum(quantity * (SCALE - fees.get(str(kind), 0)) for kind, quantity in self.bought.items()) // SCALE


def _ticks_of(run: Run, ticks: Ticks | None) -> Ticks:
    """The ticks of a run, walked as it walked them."""
    meta = run.meta
    if ticks is None:
        raise DataError(
            f"ticks: this run was read back without them (they came from {meta['source']}); "
            "give them: run.plot(order, ticks=Ticks.read(...))"
        )
    if ticks.bars is not None and meta["path"] and ticks.path != meta["path"]:
        ticks = ticks.with_path(meta["path"])
    if ticks.data_hash != meta["data_hash"]:
        raise DataError(
            f"ticks: {len(ticks):,} from {ticks.source} are not those of the run; "
            f"give the {meta['ticks']:,} from {meta['source']}"
        )
    return ticks


def _looked(ts: np.ndarray, poll: int, held_back: Sequence[int]) -> np.ndarray | None:
    """Mask of the ticks that were believed and, with polling, looked at; None for all."""
    if not poll and not held_back:
        return None
    mask = np.ones(len(ts), dtype=bool)
    mask[held_back] = False
    if poll:
        believed = np.flatnonzero(mask)
        interval = ts[believed] // poll
        mask[believed[:-1][interval[1:] == interval[:-1]]] = False
    return mask


def _turn(mark: Any, rate: int, side: int) -> Any:
    """The trailing stop of a mark, or of an array of them: the kernel's own rule, uncompiled."""
    return getattr(floor_rate, "py_func", floor_rate)(mark, SCALE - side * rate)


# --- traces -----------------------------------------------------------------------------------------------------------


def _steps(ns: Any, y: Any, name: str, colour: str, *, width: float = 1, dash: str = "solid", **more: Any) -> Any:
    """A line that holds its height until the next point."""
    line = {"color": colour, "width": width, "dash": dash, "shape": "hv"}
    hover = f"%{{x}}<br>%{{y:.10~g}}<extra>{name}</extra>"
    return go.Scatter(x=_times(ns), y=y, mode="lines", name=name, line=line, hovertemplate=hover, **more)


def _segments(spans: Sequence[tuple[int, int, float]], name: str, colour: str, **more: Any) -> Any:
    """Horizontal lines, (from, to, price) each, as one trace."""
    ns = [time for start, stop, _ in spans for time in (start, stop, stop)]
    y = [height for _, _, price in spans for height in (price, price, np.nan)]
    return _steps(ns, y, name, colour, **more)


def _price(life: _Life, window: slice, points: int, theme: str) -> Any:
    if life.bars is not None:
        return _candles(life, life.bars, window, theme)
    ts, price = life.view.ts[window], life.view.price[window]
    kept = m4(ts, price, points)
    return _steps(ts[kept], life.prices(price[kept]), "price", _INKS[theme], opacity=0.85)


def _candles(life: _Life, bars: Bars, window: slice, theme: str) -> Any:
    """The bars of a window of points; so many that they would touch are merged, which keeps highs and lows."""
    chosen = slice(window.start // 4, (window.stop - 1) // 4 + 1)
    count = len(bars.ts[chosen])
    merged = -(-count // MAX_CANDLES)
    starts = np.arange(0, count, merged)
    line = {"line": {"color": _INKS[theme], "width": 1}}
    return go.Candlestick(
        x=_times(bars.ts[chosen][starts] + merged * bars.bar_ns // 2),
        open=life.prices(bars.open[chosen][starts]),
        high=life.prices(np.maximum.reduceat(bars.high[chosen], starts)),
        low=life.prices(np.minimum.reduceat(bars.low[chosen], starts)),
        close=life.prices(bars.close[chosen][np.append(starts[1:], count) - 1]),
        name="price",
        increasing={**line, "fillcolor": "rgba(0,0,0,0)"},
        decreasing={**line, "fillcolor": "rgba(128,128,128,0.55)"},
        opacity=0.85,
    )


def _lines(life: _Life, points: int) -> Iterator[Any]:
    """Where the entry waited, the average entry, water mark and stop."""
    if waits := _waits(life):
        yield _segments(waits, "entry waits", _BUY if life.spec.side == "buy" else _SELL, dash="dot")
    if life.entries:
        ns, average = zip(*life.entries, (life.end_ts, life.entries[-1][1]), strict=True)
        yield _steps(ns, average, "average entry", _AVERAGE, width=1.5, dash="longdash")
    path = life.path
    times = np.append(life.view.ts[path.tick], max(life.end_ts, life.view.ts[path.tick[-1]]))
    if life.spec.trailing_stop or any("trailing_stop" in edit.changes for edit in life.edits):
        yield _sampled(life, times, path.mark, points, "water mark", _MARK, dash="dot")
    if (path.stop != NONE).any():
        yield _sampled(life, times, path.stop, points, "stop", _STOP, width=2)


def _sampled(life: _Life, ns: np.ndarray, units: np.ndarray, points: int, name: str, colour: str, **more: Any) -> Any:
    units = np.append(units, units[-1])
    kept = m4(ns, units, points)
    return _steps(ns[kept], life.prices(units[kept]), name, colour, **more)


def _waits(life: _Life) -> list[tuple[int, int, float]]:
    """(from, to, price) of each rung while it waited; nothing if the entry was edited."""
    entry = life.spec.entry
    if entry.kind == "held" or any("entry" in edit.changes for edit in life.edits):
        return []
    over: dict[int, int] = {}
    for event in life.events:
        if event["role"] == "entry" and event["kind"] in ("triggered", "cancelled", "rejected"):
            over.setdefault(event["level"], event["ts"])
    prices = [rung.price for rung in entry.rungs] if entry.rungs else [entry.price]
    begin = life.events[0]["ts"]
    return [(begin, over.get(i, life.end_ts), float(price)) for i, price in enumerate(prices) if price is not None]


def _level_lines(life: _Life) -> Iterator[Any]:
    """One trace per status, so that the legend is the key: a level takes its colours one after another."""
    spans: dict[str, list[tuple[int, int, float]]] = {status: [] for status in _LEVELS}
    ends: dict[str, list[tuple[int, float]]] = {status: [] for status in _LEVELS}
    for level in life.levels:
        lived = _level_life(life, level)
        for (status, start), (_, stop) in zip(lived, [*lived[1:], ("", life.end_ts)], strict=True):
            if stop > start or status == level["status"]:
                spans[status].append((start, stop, level["price"]))
        ends[level["status"]].append((lived[-1][1], level["price"]))
    for status, (colour, dash, symbol) in _LEVELS.items():
        name = f"level {status.lower()}"
        if spans[status]:
            yield _segments(spans[status], name, colour, dash=dash, width=1.5, legendgroup=name)
        if ends[status] and status != "PENDING":
            ns, y = zip(*ends[status], strict=True)
            marker = {"color": colour, "size": 9, "symbol": symbol}
            yield _points(ns, y, name, marker, legendgroup=name, showlegend=False)


def _level_life(life: _Life, level: dict[str, Any]) -> list[tuple[str, int]]:
    """(status, since) of one level, in order; it came to be with the position, or by the last edit of the ladder."""
    triggered, filled = level["triggered_ts"], level["filled_ts"]
    begin, edits = life.entries[0][0] if life.entries else life.events[0]["ts"], iter(life.edits)
    for event in life.events:
        edited = event["role"] == "edit" and "take_profits" in next(edits).changes and event["kind"] == "action"
        if edited and (triggered is None or event["ts"] <= triggered):
            begin = max(begin, event["ts"])
    lived = [("PENDING", begin)]
    if triggered is not None:
        lived.append(("TRIGGERED", triggered))
    if filled is not None:
        lived.append(("FILLED", filled))
    if level["status"] == "CANCELLED":
        when = [
            event["ts"]
            for event in life.events
            if event["kind"] == "cancelled" and event["role"] == "take_profit" and event["level"] == level["level"]
        ]
        lived.append(("CANCELLED", when[-1] if when else life.end_ts))
    return lived


def _points(ns: Any, y: Any, name: str, marker: dict[str, Any], **more: Any) -> Any:
    hover = f"%{{x}}<br>%{{y:.10~g}}<extra>{name}</extra>"
    more = {"mode": "markers", "hovertemplate": hover, "cliponaxis": False, **more}
    return go.Scatter(x=_times(ns), y=y, name=name, marker=marker, **more)


def _dots(life: _Life) -> Iterator[Any]:
    """Fills, then everything else that happened."""
    hover = {"hovertemplate": "%{hovertext}<br>%{x}<extra></extra>"}
    for opens in (True, False):
        chosen = [fill for fill in life.filled if (fill["role"] in _BUYS) == opens]
        bought = opens == (life.side > 0)
        name, symbol, colour = ("buy", "triangle-up", _BUY) if bought else ("sell", "triangle-down", _SELL)
        if chosen:
            marker = {"symbol": symbol, "size": 12, "color": colour, "line": {"width": 1, "color": "white"}}
            ns, y = zip(*((fill["ts"], fill["price"]) for fill in chosen), strict=True)
            texts = [_fill_text(life, name, fill) for fill in chosen]
            yield _points(ns, y, f"{name} ({'entry' if opens else 'exit'})", marker, hovertext=texts, **hover)
    marks = [event for event in life.events if event["kind"] in _MARKERS]
    if marks:
        watched = [life.price(life.view.price[event["tick"]]) for event in marks]
        heights = [price if e["price"] is None else e["price"] for e, price in zip(marks, watched, strict=True)]
        texts = [_event_text(event) for event in marks]
        symbols = [_MARKERS[event["kind"]] for event in marks]
        marker = {"symbol": symbols, "size": 10, "color": _EVENT, "line": {"width": 1.5, "color": _EVENT}}
        mode = "markers+text" if len(marks) <= _NAMED_MARKS else "markers"
        style = {"textposition": "bottom right", "textfont": {"size": 10}, "mode": mode, **hover}
        yield _points([e["ts"] for e in marks], heights, "events", marker, text=texts, hovertext=texts, **style)


def _fill_text(life: _Life, name: str, fill: dict[str, Any]) -> str:
    number = f" {fill['level'] + 1}" if fill["level"] >= 0 and fill["role"] != "entry" else ""
    return (
        f"<b>{name}: {fill['role'].replace('_', ' ')}{number}</b><br>{fill['quantity']:.10g} at "
        f"{life.text(fill['price'])}<br>fee {fill['fee']:.6g}, {fill['liquidity']}"
    )


def _event_text(event: dict[str, Any]) -> str:
    kind, role = event["kind"].replace("_", " "), (event["role"] or "").replace("_", " ")
    if event["kind"] == "action":
        return f"{role} {event['quantity']:.10g}" if event["quantity"] else role
    if event["kind"] in ("action_refused", "rejected"):
        return f"{role} {kind.removeprefix('action ')}: {event['reason'].replace('_', ' ')}"
    return f"{role} {kind}" if kind == "armed" else kind


def _histogram(done: pl.DataFrame) -> Iterator[Any]:
    """Bars of returns in per cent, one trace per exit reason; the outer 1 % on either side are in the outermost."""
    returns, reasons = 100 * done["return_"].to_numpy(), done["exit_reason"].to_numpy()
    low, high = np.quantile(returns, [0.01, 0.99])
    edges = np.linspace(low, high, 49) if high > low else np.array([low - 0.5, low + 0.5])
    for reason in [*_REASONS, *sorted(set(reasons) - set(_REASONS))]:
        chosen = returns[reasons == reason]
        colour, shape = _REASONS.get(reason, ("#8b949e", "+"))
        name = reason.replace("_", " ")
        if len(chosen):
            yield go.Bar(
                x=(edges[1:] + edges[:-1]) / 2,
                y=np.histogram(np.clip(chosen, edges[0], edges[-1]), edges)[0],
                width=edges[1] - edges[0],
                name=f"{name} ({len(chosen):,})",
                marker={"color": colour, "pattern": {"shape": shape}, "line": {"width": 0}},
                hovertemplate="%{x:.2f} %: %{y} orders<extra>" + name + "</extra>",
            )


# --- words and layout -------------------------------------------------------------------------------------------------


def _heights(life: _Life, window: slice) -> tuple[float, float, float]:
    """Lowest and highest price shown, and the height of a line of text.

    A stop or level further from the price than the price has moved would flatten everything else; it is only named.
    """
    shown = life.view.price[window]
    near = [life.price(shown.min()), life.price(shown.max()), *(fill["price"] for fill in life.filled)]
    near += [average for _, average in life.entries]
    span = (max(near) - min(near)) or 0.01 * max(near)
    stops = life.path.stop[life.path.stop != NONE]
    far = [level["price"] for level in life.levels] + [life.price(units) for units in (*stops[:1], *stops[-1:])]
    low, high = min(near) - span, max(near) + span
    near += [price for price in far if low <= price <= high]
    room = 0.06 * ((max(near) - min(near)) or span)
    bottom, top = min(near) - room, max(near) + room
    return bottom, top, (top - bottom) / 22


def _labels(life: _Life, bottom: float, top: float) -> Iterator[tuple[float, str, str]]:
    """(height, text, colour) of what stands at the right edge; an arrow points at what lies outside."""

    def label(name: str, price: float, colour: str, word: str = "") -> tuple[float, str, str]:
        arrow = "↑ " if price > top else "↓ " if price < bottom else ""
        return min(max(price, bottom), top), f"{arrow}{name} {life.text(price)} {word}".rstrip(), colour

    for level in life.levels:
        yield label(f"TP{level['level'] + 1}", level["price"], _LEVELS[level["status"]][0], level["status"].lower())
    if life.entries:
        yield label("entry", life.entries[-1][1], _AVERAGE)
    if life.path.stop[-1] != NONE:
        yield label("stop", life.price(life.path.stop[-1]), _STOP)


def _spread(labels: Iterable[tuple[float, str, str]], height: float) -> Iterator[tuple[float, str, str]]:
    """The labels moved apart, so that none covers another: those that touch share the room around their middle."""
    groups: list[list[tuple[float, str, str]]] = []

    def middle(group: list[tuple[float, str, str]]) -> float:
        return sum(member[0] for member in group) / len(group)

    for label in sorted(labels):
        group = [label]
        while groups and middle(group) - middle(groups[-1]) < height * (len(group) + len(groups[-1])) / 2:
            group = groups.pop() + group
        groups.append(group)
    for group in groups:
        for i, (_, text, colour) in enumerate(group):
            yield middle(group) + height * (i - (len(group) - 1) / 2), text, colour


_HOW = {"path": "path", "poll_interval": "polled every", "outlier": "outlier guard"}


def _title(life: _Life) -> dict[str, Any]:
    row = life.row
    parts = [f"{row['symbol']} {row['side']}" + (f" {row['quantity']:.6g}" if row["quantity"] else "")]
    parts.append(row["status"] + (f" by {row['exit_reason'].replace('_', ' ')}" if row["exit_reason"] else ""))
    if row["levels"]:
        parts.append(f"{row['filled_levels']}/{row['levels']} levels")
    if row["return_"] is not None:
        parts.append(f"pnl {row['realized_pnl']:+,.6g} ({row['return_']:+.2%})")
    below = " · ".join([str(life.spec), *life.how, *([row["tag"]] if row["tag"] else [])])
    return {"text": f"<b>{escape(' · '.join(parts))}</b>", "subtitle": {"text": escape(below)}}


_INKS = {"auto": "#768390", "light": "#24292f", "dark": "#d0d7de"}
"""Colour of text and price; that of auto has a contrast of 4 against white and of 4.8 against Jupyter's dark grey."""
_LIGHT, _DARK = "body { background: #ffffff; }", "body { background: #0d1117; }"
_STYLES = {"light": _LIGHT, "dark": _DARK, "auto": f"{_LIGHT} @media (prefers-color-scheme: dark) {{ {_DARK} }}"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{style} body {{ margin: 1rem; font-family: system-ui, sans-serif; }}</style></head>
<body>
{body}
</body>
</html>
"""


@cache
def _template(theme: str) -> Any:
    """Our look: transparent, a quiet grid, small type."""
    ink, grid = _INKS[theme], "rgba(128,128,128,0.22)"
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 12}},
    }
    title = {"x": 0.01, "xanchor": "left", "y": 0.97, "yanchor": "top", "font": {"size": 16}}
    return go.layout.Template(
        layout={
            "font": {"color": ink, "size": 12, "family": "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": {**axis, "rangeslider": {"visible": False}},
            "yaxis": axis,
            "legend": {"orientation": "h", "y": -0.12, "x": 0, "font": {"size": 11}},
            "hoverlabel": {"bgcolor": "#1c2128", "font": {"color": "#e6edf3"}},
            "modebar": {
                "bgcolor": "rgba(0,0,0,0)",
                "color": ink,
                "activecolor": _STOP,
                "remove": ["select", "lasso", "zoomIn", "zoomOut", "autoScale"],
            },
            "title": {**title, "subtitle": {"font": {"size": 12}}},
            "margin": {"l": 60, "r": 20, "t": 80, "b": 60},
        }
    )


def _layout(theme: str) -> dict[str, Any]:
    return {"template": _template(theme), "meta": {"theme": theme}}


def _check_look(theme: str, points: int) -> None:
    if theme not in THEMES:
        raise DataError(f"theme = {short(theme)}: must be one of {', '.join(THEMES)}")
    if isinstance(points, bool) or not isinstance(points, (int, np.integer)) or points < MIN_POINTS:
        raise DataError(f"points = {short(points)}: must be a whole number of at least {MIN_POINTS}")


def _times(ns: Any) -> Any:
    """ns as what plotly draws: UTC, to the microsecond."""
    return np.asarray(ns, dtype=np.int64).astype("datetime64[ns]").astype("datetime64[us]")
