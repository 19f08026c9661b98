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
from functools import cached_property
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from . import metrics
from .actions import Action
from .errors import DataError, short
from .exact import floor_rate
from .fills import FillModel
from .instrument import Instrument
from .looks import (
    AVERAGE,
    BUY,
    EVENT,
    INKS,
    LEVELS,
    MARK,
    MIN_POINTS,
    REASONS,
    SELL,
    STOP,
    THEMES,
    check_look,
    decimals,
    layout,
    m4,
    utc,
    write_html,
)
from .lower import rate_units
from .rows import NONE, SCALE
from .run import ticks_of
from .ticks import CONTINUOUS, Bars, TickView
from .times import duration_ns, instant_text

try:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("charts need plotly: pip install 'smartorders_lab[plot]'") from error

if TYPE_CHECKING:
    from .run import Run
    from .spec import SmartOrder, TrailingStop
    from .ticks import Ticks

__all__ = [
    "MAX_CANDLES",
    "MAX_DOTS",
    "MIN_POINTS",
    "THEMES",
    "StopPath",
    "m4",
    "plot_equity",
    "plot_excursions",
    "plot_levels",
    "plot_order",
    "plot_returns",
    "plot_summary",
    "stop_path",
    "write_html",
]

MAX_CANDLES = 300
"""Most candles of a chart; beyond it, neighbours are merged."""
MAX_DOTS = 3000
"""Most orders of a scatter chart; of more, a sample that is even in their returns."""
_MARGIN = 20
"""Ticks shown around an order, however short its life was."""
_NAMED_MARKS = 12
"""Up to so many events carry their word on the chart, more only in the hover."""
_ABOVE_BELOW, _WIDE, _LETTER, _LINE = 195, 700, 6, 14.8
"""About how many pixels of `plot_order` are not its plot, how wide that is, and what a letter and a line of text take."""

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
    check_look(theme, points)
    if not pad >= 0:
        raise DataError(f"pad = {short(pad)}: must be 0 or more; 0.1 shows a tenth of the order's life on either side")
    life = _Life.of(run, order, ticks)
    window = life.window(pad)
    bottom, top = _heights(life, window)
    labels = _labels(life, bottom, top)
    height = max(520, _ABOVE_BELOW + 15 * len(labels))
    figure = go.Figure(layout=layout(theme))
    begin, end = int(life.view.ts[window.start]), max(int(life.view.ts[window.stop - 1]), life.end_ts)
    begin -= (end - begin) // 80  # room for a marker on the first tick
    frame = _Frame(begin, end, bottom, top, height - _ABOVE_BELOW)
    figure.add_traces([_price(life, window, points, theme), *_lines(life, points), *_level_lines(life)])
    figure.add_traces([*_dots(life, frame)])
    figure.update_xaxes(range=[utc(begin), utc(end)])
    figure.update_yaxes(range=[bottom, top])
    for y, text, colour in _spread(labels, frame.line, bottom, top):
        font = {"color": colour, "size": 11}
        figure.add_annotation(x=1.005, xref="paper", xanchor="left", y=y, text=text, font=font, showarrow=False)
    if life.final:
        figure.add_vline(utc(life.end_ts), line={"color": INKS[theme], "width": 1, "dash": "dot"}, opacity=0.6)
    figure.update_layout(title=_title(life), margin={"r": 170}, height=height)
    return figure


def plot_summary(run: Run, *, theme: str = "auto", points: int = 4000) -> go.Figure:
    """What the orders of a run came to: returns by exit reason, and the profit of the finished ones over time."""
    check_look(theme, points)
    done = _left(run).sort("exit_ts")
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.09, figure=go.Figure(layout=layout(theme)))
    if done.height:
        figure.add_traces(list(_histogram(done)), rows=1, cols=1)
        ts, total = done["exit_ts"].dt.epoch("ns").to_numpy(), done["realized_pnl"].cum_sum().to_numpy()
        kept = m4(ts, total, points)
        curve = _steps(ts[kept], total[kept], "profit so far", INKS[theme], width=1.5, showlegend=False)
        figure.add_trace(curve, row=1, col=2)
    else:
        _say(figure, "no order has left its position")
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


def plot_equity(
    run: Run, ticks: Ticks | None = None, *, every: Any = None, theme: str = "auto", points: int = 4000
) -> go.Figure:
    """Profit over time, and below it how far it lay under its highest point so far.

    Parameters
    ----------
    ticks : those of the run, where it does not carry them. Without any only the realized profit is drawn, and its drawdown.
    every : sample at the ends of such periods (`"1h"`) only; None: at every tick.
    theme, points : as for `plot_order`.

    Raises DataError if the ticks are not those of the run.
    """
    check_look(theme, points)
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[0.7, 0.3],
        vertical_spacing=0.05,
        figure=go.Figure(layout=layout(theme)),
    )
    known = run.ticks is not None or ticks is not None
    curve = run.equity(ticks, every) if known else metrics.realized(metrics.bookings(run))
    ts = curve["ts"].dt.epoch("ns").to_numpy()
    lines = [("realized", "realized", INKS[theme], 1.0)] if known else []
    name = "equity, marked to market" if known else "realized"
    for column, word, colour, width in [*lines, ("equity" if known else "realized", name, BUY, 1.5)]:
        values = curve[column].to_numpy()
        kept = m4(ts, values, points)
        figure.add_trace(_steps(ts[kept], values[kept], word, colour, width=width), 1, 1)
    if curve.height:
        fall = -metrics.drawdown(curve["equity" if known else "realized"])
        kept = m4(ts, fall, points)
        fill: dict[str, Any] = {"fill": "tozeroy", "fillcolor": "rgba(213,94,0,0.25)", "showlegend": False}
        figure.add_trace(_steps(ts[kept], fall[kept], "drawdown", STOP, **fill), 2, 1)
    else:
        _say(figure, "no order was filled")
    figure.update_yaxes(
        title="profit, quote currency", zeroline=True, zerolinecolor="rgba(128,128,128,0.6)", row=1, col=1
    )
    figure.update_yaxes(title="drawdown", row=2, col=1)
    figure.update_layout(height=520, margin={"t": 40}, hovermode="x")
    return figure


def plot_returns(run: Run, *, theme: str = "auto") -> go.Figure:
    """Returns of the orders that have left their position, by exit reason."""
    check_look(theme, MIN_POINTS)
    done = _left(run)
    figure = go.Figure(layout=layout(theme))
    if done.height:
        figure.add_traces(list(_histogram(done)))
    else:
        _say(figure, "no order has left its position")
    figure.update_xaxes(title="return, %")
    figure.update_yaxes(title="orders")
    figure.update_layout(barmode="stack", height=400, margin={"t": 40}, legend={"y": -0.2})
    return figure


def plot_excursions(run: Run, *, theme: str = "auto") -> go.Figure:
    """Return against the worst and the best excursion, a dot per finished order; see `docs/rules.md`, What is reported.

    Orders on the dashed line ended at their very worst (left) or best price (right); the distance to it is what the exit
    won back or gave away, fees included. J. Sweeney, Maximum Adverse Excursion, 1996.
    """
    check_look(theme, MIN_POINTS)
    done = metrics.done(run.orders).filter(pl.col("mae").is_not_null()).sort("return_", "order")
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, figure=go.Figure(layout=layout(theme))
    )
    chosen = done[np.unique(np.linspace(0, done.height - 1, min(done.height, MAX_DOTS)).round().astype(int))]
    kinds = (("won", pl.col("realized_pnl") > 0, BUY, "circle"), ("not won", pl.col("realized_pnl") <= 0, STOP, "x"))
    for name, condition, colour, symbol in kinds:
        some = chosen.filter(condition)
        text = [
            f"order {o}: return {r:+.3%}<br>worst {w:+.3%}, best {b:+.3%}<br>{x.replace('_', ' ')}"
            for o, r, w, b, x in some.select("order", "return_", "mae", "mfe", "exit_reason").rows()
        ]
        marker = {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.75}
        for column, excursion in ((1, "mae"), (2, "mfe")):
            dots = go.Scatter(
                x=100 * some[excursion].to_numpy(),
                y=100 * some["return_"].to_numpy(),
                mode="markers",
                name=f"{name} ({done.filter(condition).height:,})",
                legendgroup=name,
                showlegend=column == 1,
                marker=marker,
                hovertext=text,
                hovertemplate="%{hovertext}<extra></extra>",
            )
            if some.height:
                figure.add_trace(dots, row=1, col=column)
    for column, excursion in ((1, "mae"), (2, "mfe")):
        both = [chosen[excursion].to_numpy(), chosen["return_"].to_numpy()] if chosen.height else [np.zeros(1)]
        ends = [100 * max(np.min(each) for each in both), 100 * min(np.max(each) for each in both)]
        line = {"color": INKS[theme], "width": 1, "dash": "dash"}
        more = {"mode": "lines", "line": line, "showlegend": False, "hoverinfo": "skip", "opacity": 0.7}
        figure.add_trace(go.Scatter(x=ends, y=ends, name=f"return = {excursion}", **more), row=1, col=column)
    if not done.height:
        _say(figure, "no order has left its position")
    figure.update_xaxes(title="worst excursion (MAE), %", row=1, col=1)
    figure.update_xaxes(title="best excursion (MFE), %", row=1, col=2)
    figure.update_yaxes(title="return, %", row=1, col=1)
    figure.update_layout(height=420, margin={"t": 40}, legend={"y": -0.2})
    if chosen.height < done.height:
        note = f"{chosen.height:,} of {done.height:,} orders, even in their returns"
        figure.update_layout(margin={"t": 60}, title={"text": note, "font": {"size": 12}})
    return figure


def plot_levels(run: Run, *, level: float = 0.95, theme: str = "auto") -> go.Figure:
    """How many orders filled each take-profit level, in per cent of all, with confidence intervals (`metrics.hit_rates`)."""
    check_look(theme, MIN_POINTS)
    rates = metrics.hit_rates(run.levels, level)
    figure = go.Figure(layout=layout(theme))
    if rates.height:
        rate, low, high = (100 * rates[name].to_numpy() for name in ("rate", "low", "high"))
        counts = [f"{rate:.0%} · {n:,} of {of:,}" for rate, n, of in rates.select("rate", "filled", "orders").rows()]
        ends = {"type": "data", "array": high - rate, "arrayminus": rate - low, "thickness": 2, "width": 6}
        dots = go.Scatter(
            x=rate,
            y=[f"TP{number + 1}" for number in rates["level"]],
            error_x={**ends, "color": LEVELS["FILLED"][0]},
            mode="markers+text",
            marker={"color": LEVELS["FILLED"][0], "size": 10},
            text=counts,
            textposition="top center",
            customdata=np.stack([low, high], axis=1),
            hovertemplate="%{y}: %{text}<br>%{customdata[0]:.1f} to %{customdata[1]:.1f} %<extra></extra>",
            name="hit rate",
            cliponaxis=False,
        )
        figure.add_trace(dots)
    else:
        _say(figure, "no order has take-profit levels")
    figure.update_xaxes(title=f"orders that filled the level, % (bars: {level:.0%} confidence)", range=[-2, 102])
    figure.update_yaxes(range=[rates.height - 0.5, -0.7])
    figure.update_layout(height=max(180 + 48 * rates.height, 260), margin={"t": 40})
    return figure


def _left(run: Run) -> pl.DataFrame:
    """The orders that have left their position."""
    return run.orders.filter(pl.col("exit_ts").is_not_null() & pl.col("return_").is_not_null())


def _say(figure: go.Figure, text: str) -> None:
    figure.add_annotation(text=text, xref="paper", yref="paper", x=0.5, y=0.5, showarrow=False)


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
        ticks = ticks_of(run, ticks, "run.plot(order, ticks=Ticks.read(...))")
        spec = run.specs[order]
        view = ticks.view(spec.trigger, spec.direction)
        first = meta.get("first_tick") or 0 if ticks.data_hash == meta["data_hash"] else 0
        poll = duration_ns(meta["poll_interval"] or 0)
        actions = [Action(**action) for action in meta["actions"]]
        frames = [
            frame.filter(pl.col("order") == order).with_columns(pl.selectors.datetime().dt.epoch("ns")).to_dicts()
            for frame in (run.orders, run.events, run.levels, run.fills)
        ]
        if first:
            _renumber(frames[1], order, first, view.ts)
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

    def times(self, ticks: Any) -> np.ndarray:
        """When these ticks were, ns. What was done after the last one has the number of the next, which has not come yet."""
        return self.view.ts[np.minimum(ticks, len(self.view.ts) - 1)]

    @cached_property
    def edited(self) -> list[Action | None]:
        """The edit of each event that tells of one; None where the journal of a session has let go of it."""
        told = sum(event["role"] == "edit" for event in self.events)
        return [*[None] * (told - len(self.edits)), *self.edits]

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
        return f"{price:.{self.digits}f}"

    @cached_property
    def digits(self) -> int:
        """Decimals of prices."""
        about = self.price(self.view.price[-1]) if self.instrument.derived else None
        return decimals(self.instrument.price_increment, about)

    def units(self, quantity: float) -> int:
        """A quantity of a frame as the integer that it came from."""
        return round(quantity / float(self.instrument.quantity_increment))

    def mirrored(self, price: float | None) -> int:
        """A price of a frame as the integer that it came from, mirrored as in the kernel: up is the profit side."""
        return NONE if price is None else self.side * round(price / float(self.instrument.price_increment))

    def x(self, tick: int) -> int:
        """The watched price of a tick, mirrored."""
        return self.side * int(self.view.price[min(tick, len(self.view.price) - 1)])

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
        if None in self.edited:
            return self._told_path()
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
            seen_yet = tick < len(self.view.ts)
            if trail.moves and seen_yet and (held or self._looked_after_entry(events)) and self._is_looked(tick):
                mark = max(mark, self.x(tick))
                stop = max(stop, _turn(mark, trail.rate, self.side))
            parts.append(StopPath(*(np.array([value]) for value in (tick, stop, mark))))
            seen = tick + 1
        if trail.moves:
            parts.append(self._rise(trail.rate, stop, mark, seen, len(self.view.ts)))
        tick, *mirrored = (np.concatenate(column) for column in zip(*parts, strict=True))
        return StopPath(tick, *(np.where(x == NONE, NONE, self.side * x) for x in mirrored))

    def _told_path(self) -> StopPath:
        """The steps that the events tell of, without those in between."""
        tick = np.array([event["tick"] for event in self.events], np.int64)
        units = ([self.mirrored(event[name]) for event in self.events] for name in ("stop", "water_mark"))
        return StopPath(tick, *(np.where(x == NONE, NONE, self.side * x) for x in map(np.array, units)))

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


def _renumber(events: list[dict[str, Any]], order: int, first: int, ts: np.ndarray) -> None:
    """Count the ticks of events from `first` on, the oldest that a session still has. Raises DataError if they begin before it."""
    if events[0]["tick"] < first:
        raise DataError(
            f"order {order}: the session has let go of the ticks that it began with (its oldest is of {instant_text(int(ts[0]))}); "
            "give them: run.plot(order, ticks=Ticks.read(...)), or begin sessions with keep_ticks="
        )
    for event in events:
        event["tick"] -= first


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
    return go.Scatter(x=utc(ns), y=y, mode="lines", name=name, line=line, hovertemplate=hover, **more)


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
    return _steps(ts[kept], life.prices(price[kept]), "price", INKS[theme], opacity=0.85)


def _candles(life: _Life, bars: Bars, window: slice, theme: str) -> Any:
    """The bars of a window of points; so many that they would touch are merged, which keeps highs and lows."""
    chosen = slice(window.start // 4, (window.stop - 1) // 4 + 1)
    count = len(bars.ts[chosen])
    merged = -(-count // MAX_CANDLES)
    starts = np.arange(0, count, merged)
    line = {"line": {"color": INKS[theme], "width": 1}}
    return go.Candlestick(
        x=utc(bars.ts[chosen][starts] + merged * bars.bar_ns // 2),
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
        yield _segments(waits, "entry waits", BUY if life.spec.side == "buy" else SELL, dash="dot")
    if life.entries:
        ns, average = zip(*life.entries, (life.end_ts, life.entries[-1][1]), strict=True)
        yield _steps(ns, average, "average entry", AVERAGE, width=1.5, dash="longdash")
    path = life.path
    ts = life.times(path.tick)
    ends = np.append(ts, max(life.end_ts, ts[-1]))
    if life.spec.trailing_stop or any("trailing_stop" in edit.changes for edit in life.edits):
        yield _sampled(life, ends, path.mark, points, "water mark", MARK, dash="dot")
    if (path.stop != NONE).any():
        yield _sampled(life, ends, path.stop, points, "stop", STOP, width=2)


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
    spans: dict[str, list[tuple[int, int, float]]] = {status: [] for status in LEVELS}
    ends: dict[str, list[tuple[int, float]]] = {status: [] for status in LEVELS}
    for level in life.levels:
        lived = _level_life(life, level)
        for (status, start), (_, stop) in zip(lived, [*lived[1:], ("", life.end_ts)], strict=True):
            if stop > start or status == level["status"]:
                spans[status].append((start, stop, level["price"]))
        ends[level["status"]].append((lived[-1][1], level["price"]))
    for status, (colour, dash, symbol) in LEVELS.items():
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
    begin, edits = life.entries[0][0] if life.entries else life.events[0]["ts"], iter(life.edited)
    for event in life.events:
        edit = next(edits) if event["role"] == "edit" else None
        if (
            edit
            and "take_profits" in edit.changes
            and event["kind"] == "action"
            and (triggered is None or event["ts"] <= triggered)
        ):
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
    return go.Scatter(x=utc(ns), y=y, name=name, marker=marker, **more)


def _dots(life: _Life, frame: _Frame) -> Iterator[Any]:
    """Fills, then everything else that happened."""
    hover = {"hovertemplate": "%{hovertext}<br>%{x}<extra></extra>"}
    for opens in (True, False):
        chosen = [fill for fill in life.filled if (fill["role"] in _BUYS) == opens]
        bought = opens == (life.side > 0)
        name, symbol, colour = ("buy", "triangle-up", BUY) if bought else ("sell", "triangle-down", SELL)
        if chosen:
            marker = {"symbol": symbol, "size": 12, "color": colour, "line": {"width": 1, "color": "white"}}
            ns, y = zip(*((fill["ts"], fill["price"]) for fill in chosen), strict=True)
            texts = [_fill_text(life, name, fill) for fill in chosen]
            yield _points(ns, y, f"{name} ({'entry' if opens else 'exit'})", marker, hovertext=texts, **hover)
    marks = [event for event in life.events if event["kind"] in _MARKERS]
    if marks:
        last = len(life.view.price) - 1
        watched = [life.price(life.view.price[min(event["tick"], last)]) for event in marks]
        heights = [price if e["price"] is None else e["price"] for e, price in zip(marks, watched, strict=True)]
        texts = [_event_text(event) for event in marks]
        symbols = [_MARKERS[event["kind"]] for event in marks]
        marker = {"symbol": symbols, "size": 10, "color": EVENT, "line": {"width": 1.5, "color": EVENT}}
        times = [event["ts"] for event in marks]
        mode = "markers+text" if len(marks) <= _NAMED_MARKS else "markers"
        others = [(fill["ts"], fill["price"]) for fill in life.filled]
        words, places = frame.named([*zip(times, heights, strict=True)], texts, others)
        style = {"textposition": places, "textfont": {"size": 10}, "mode": mode, **hover}
        yield _points(times, heights, "events", marker, text=words, hovertext=texts, **style)


class _Frame(NamedTuple):
    """What a chart shows: times (ns), prices, and its height in pixels."""

    begin: int
    end: int
    bottom: float
    top: float
    height: float

    @property
    def line(self) -> float:
        """The height of a line of text, as a price."""
        return (self.top - self.bottom) * _LINE / self.height

    def named(
        self, marks: Sequence[tuple[int, float]], texts: Sequence[str], others: Sequence[tuple[int, float]]
    ) -> tuple[list[str], list[str]]:
        """The texts of marks and where they stand, so that none covers another text or mark; where there is no room, none."""

        def pixel(ts: int, price: float) -> tuple[float, float]:
            across = (ts - self.begin) / max(self.end - self.begin, 1) * _WIDE
            return across, (self.top - price) / (self.top - self.bottom) * self.height

        spots = [pixel(*mark) for mark in marks]
        taken = {(x - 4, y - 4, x + 4, y + 4) for x, y in [*spots, *(pixel(*other) for other in others)]}
        words, places = [], []
        for (x, y), text in zip(spots, texts, strict=True):
            wide = _LETTER * len(text)
            boxes = {
                f"{up} {side}": (
                    left,
                    y + (5 if up == "bottom" else -5 - _LINE),
                    left + wide,
                    y + (5 + _LINE if up == "bottom" else -5),
                )
                for side, left in (("right", x + 6), ("left", x - 6 - wide))
                for up in ("bottom", "top")
            }
            free = {
                place: box
                for place, box in boxes.items()
                if box[0] >= 0
                and box[1] >= 0
                and box[3] <= self.height
                and all(box[2] <= a or c <= box[0] or box[3] <= b or d <= box[1] for a, b, c, d in taken)
            }
            place = next(iter(free), None)
            if place is not None:
                taken.add(free[place])
            words.append(text if place else "")
            places.append(place or "bottom right")
        return words, places


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
    for reason in [*REASONS, *sorted(set(reasons) - set(REASONS))]:
        chosen = returns[reasons == reason]
        colour, shape = REASONS.get(reason, ("#8b949e", "+"))
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


def _heights(life: _Life, window: slice) -> tuple[float, float]:
    """Lowest and highest price shown.

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
    return bottom, top


class _Label(NamedTuple):
    """What stands at the right edge: how high, of which price, its text and colour."""

    height: float
    price: float
    text: str
    colour: str


def _labels(life: _Life, bottom: float, top: float) -> list[_Label]:
    """What stands at the right edge; an arrow points at what lies outside."""
    found = []

    def label(name: str, price: float, colour: str, word: str = "") -> _Label:
        arrow = "↑ " if price > top else "↓ " if price < bottom else ""
        return _Label(min(max(price, bottom), top), price, f"{arrow}{name} {life.text(price)} {word}".rstrip(), colour)

    for level in life.levels:
        word = level["status"].lower()
        found.append(label(f"TP{level['level'] + 1}", level["price"], LEVELS[level["status"]][0], word))
    if life.entries:
        found.append(label("entry", life.entries[-1][1], AVERAGE))
    if life.path.stop[-1] != NONE:
        found.append(label("stop", life.price(life.path.stop[-1]), STOP))
    return found


def _spread(labels: Iterable[_Label], height: float, bottom: float, top: float) -> Iterator[tuple[float, str, str]]:
    """The labels moved apart, so that none covers another: those that touch share the room around their middle."""
    groups: list[list[_Label]] = []

    def middle(group: list[_Label]) -> float:
        reach = height * (len(group) - 1) / 2
        return max(min(sum(label.height for label in group) / len(group), top - reach), bottom + reach)

    for label in sorted(labels):
        group = [label]
        while groups and middle(group) - middle(groups[-1]) < height * (len(group) + len(groups[-1])) / 2:
            group = groups.pop() + group
        groups.append(group)
    for group in groups:
        for i, label in enumerate(group):
            yield middle(group) + height * (i - (len(group) - 1) / 2), label.text, label.colour


def _cut(text: str, most: int = 110) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


_HOW = {"path": "path", "poll_interval": "polled every", "outlier": "outlier guard"}


def _title(life: _Life) -> dict[str, Any]:
    row = life.row
    parts = [f"{row['symbol']} {row['side']}" + (f" {row['quantity']:.6g}" if row["quantity"] else "")]
    parts.append(row["status"] + (f" by {row['exit_reason'].replace('_', ' ')}" if row["exit_reason"] else ""))
    if row["levels"]:
        parts.append(f"{row['filled_levels']}/{row['levels']} levels")
    if row["return_"] is not None:
        parts.append(f"pnl {row['realized_pnl']:+,.6g} ({row['return_']:+.2%})")
    below = " · ".join([_cut(str(life.spec)), *life.how, *([_cut(row["tag"])] if row["tag"] else [])])
    return {"text": f"<b>{escape(' · '.join(parts))}</b>", "subtitle": {"text": escape(below)}}
