"""Looks: what all charts and pages have in common: colours, the template, the sample that a line is drawn from, the page.

Plain values and dictionaries; it needs no plotly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from math import floor, log10
from pathlib import Path
from typing import Any

import numpy as np

from .errors import DataError, short

THEMES = ("auto", "light", "dark")
MIN_POINTS = 40
"""Fewest points that a line can be drawn with: ten pixel columns."""
_DIGITS = 7

# Mostly Okabe and Ito's palette (2008), which those who see red and green alike can tell apart; dash, marker and word
# say it again.
STOP, MARK, AVERAGE, BUY, SELL, EVENT = "#d55e00", "#56b4e9", "#cc79a7", "#0072b2", "#e69f00", "#9467bd"
LEVELS = {
    "PENDING": ("#8b949e", "dash", "circle-open"),
    "TRIGGERED": ("#d9a400", "dashdot", "circle-dot"),
    "FILLED": ("#009e73", "solid", "circle"),
    "CANCELLED": ("#d9432f", "dot", "x"),
}
"""Colour, dash and marker of a take-profit level, by status."""
REASONS = {
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
INKS = {"auto": "#768390", "light": "#24292f", "dark": "#d0d7de"}
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


def check_look(theme: str, points: int) -> None:
    """Refuse a theme or a number of points that cannot be drawn. Raises DataError."""
    if theme not in THEMES:
        raise DataError(f"theme = {short(theme)}: must be one of {', '.join(THEMES)}")
    if isinstance(points, bool) or not isinstance(points, (int, np.integer)) or points < MIN_POINTS:
        raise DataError(f"points = {short(points)}: must be a whole number of at least {MIN_POINTS}")


def decimals(increment: Decimal, price: float | None = None) -> int:
    """Decimals that prices of a market are shown with: those of its increment.

    `price`: about what they are, where the increment was read off data (`Instrument.derived`): then seven digits are enough.
    """
    own = max(-int(increment.normalize().as_tuple().exponent), 0)
    return own if not price else min(own, max(_DIGITS - 1 - floor(log10(abs(price))), 0))


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


def table(
    head: str,
    rows: Iterable[Sequence[object]],
    titles: Sequence[str] = (),
    notes: Iterable[str] = (),
    below: str = "",
) -> str:
    """A small table for a notebook: HTML with inline styles only, in the notebook's own colours, light or dark.

    `rows`: the first of each is what it is about. All text is escaped; `below` is HTML that stands between the table and the `notes`.
    """
    cell = "style='text-align:left;padding:2px 12px 2px 0;border:0;vertical-align:top'"
    top = "".join(f"<th {cell} scope='col'>{escape(title)}</th>" for title in titles)
    lines = [f"<tr style='background:none'>{top}</tr>"] if titles else []
    for first, *others in rows:
        more = "".join(f"<td {cell}>{escape(str(other))}</td>" for other in others)
        lines.append(f"<tr style='background:none'><th {cell} scope='row'>{escape(str(first))}</th>{more}</tr>")
    said = "".join(f"<div style='opacity:.75'>{escape(note)}</div>" for note in notes)
    body = f"<table style='border:0;font-size:90%;color:inherit'>{''.join(lines)}</table>" if lines else ""
    return f"<div><div style='font-weight:600'>{escape(head)}</div>{body}{below}{said}</div>"


def fragment(figure: Any, library: bool) -> str:
    """A figure as a piece of a page; the first one of a page brings the `library`."""
    config = {"displaylogo": False, "responsive": True}
    text: str = figure.to_html(full_html=False, include_plotlyjs=library, config=config)
    return text


def write_html(figures: Any, path: str | Path, title: str = "smartorders_lab") -> Path:
    """One or more figures as a page that opens anywhere, offline: plotly.js (5 MB) is inside, nothing is loaded."""
    many: list[Any] = [figures] if hasattr(figures, "to_html") else list(figures)
    if not many:
        raise DataError("figures: is empty; give at least one figure")
    parts = [fragment(figure, i == 0) for i, figure in enumerate(many)]
    theme = (many[0].layout.meta or {}).get("theme", "light")
    Path(path).write_text(_PAGE.format(title=escape(title), style=_STYLES[theme], body="\n".join(parts)), "utf-8")
    return Path(path)


def layout(theme: str) -> dict[str, Any]:
    """Our look as the start of a figure's layout: transparent, a quiet grid, small type."""
    ink, grid = INKS[theme], "rgba(128,128,128,0.22)"
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "automargin": True,
        "title": {"font": {"size": 12}},
    }
    title = {"x": 0.01, "xanchor": "left", "y": 0.97, "yanchor": "top", "font": {"size": 16}}
    look = {
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
            "activecolor": STOP,
            "remove": ["select", "lasso", "zoomIn", "zoomOut", "autoScale"],
        },
        "title": {**title, "subtitle": {"font": {"size": 12}}},
        "margin": {"l": 60, "r": 20, "t": 80, "b": 60},
    }
    return {"template": {"layout": look}, "meta": {"theme": theme}}


def utc(ns: Any) -> Any:
    """ns as what plotly draws: UTC, to the microsecond."""
    return np.asarray(ns, dtype=np.int64).astype("datetime64[ns]").astype("datetime64[us]")
