"""Heat maps of a sweep: a value over two of its parameters, with small multiples over two more. Plain plotly figures.

A map shows where a neighbourhood is good, which is worth more than one good cell: the best cell of a map is the best of many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from .errors import DataError, short
from .looks import BUY, MIN_POINTS, STOP, check_look, layout

try:
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("heat maps need plotly: pip install 'smartorders_lab[plot]'") from error

if TYPE_CHECKING:
    from .findings import Sweep

MAX_MAPS = 64
"""Most small multiples of a figure."""
_MIDDLE = {"expectancy": 0.0, "total_pnl": 0.0, "sharpe": 0.0, "low": 0.0, "high": 0.0, "profit_factor": 1.0}
"""The value that is neither good nor bad, where there is one."""
_MONEY = (
    "total_pnl",
    "fees",
    "profit_factor",
    "sharpe",
    "held_mean_s",
    "count",
    "entered",
    "finished",
    "ambiguous_bars",
)
_CELL = 26


def heatmap(
    sweep: Sweep,
    x: str,
    y: str | None = None,
    value: str = "expectancy",
    rows: str | None = None,
    cols: str | None = None,
    *,
    level: float = 0.95,
    theme: str = "auto",
) -> go.Figure:
    """`value` over the grid's `x` and `y`; one map for each value of `rows` and `cols`; parameters that are not named are merged.

    `value` is a column of `Sweep.aggregate`. The hover of a cell shows it with its finished orders, and the mean return with its
    interval at `level`. All maps share their colours; cells without a finished order are left blank. `theme` as in the charts.
    Raises DataError for names that are not there, or more than MAX_MAPS maps.
    """
    check_look(theme, MIN_POINTS)
    names = [name for name in (x, y, rows, cols) if name is not None]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{short(twice)}: is named twice; give each parameter one place")
    table = sweep.aggregate(names, level=level)
    values = [name for name in table.columns if name not in names]
    if value not in values:
        raise DataError(f"value = {short(value)}: must be one of {', '.join(values)}")
    kinds = {name: _kinds(sweep.grid[name]) for name in names}
    across, down = (kinds[name] if name else [""] for name in (cols, rows))
    if len(across) * len(down) > MAX_MAPS:
        count = len(across) * len(down)
        raise DataError(
            f"rows, cols: make {count} maps, more than MAX_MAPS = {MAX_MAPS}; name parameters with fewer values"
        )
    texts = table.with_columns(pl.col(name).cast(pl.String).fill_null("as it was") for name in names)
    titles = [" · ".join(part for part in (_is(cols, c), _is(rows, r)) if part) for r in down for c in across]
    figure = make_subplots(
        rows=len(down),
        cols=len(across),
        subplot_titles=titles if len(titles) > 1 else None,
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=min(0.12, 0.3 / len(down)),
        figure=go.Figure(layout=layout(theme)),
    )
    for i, r in enumerate(down):
        for j, c in enumerate(across):
            picked = texts.filter(
                pl.all_horizontal(pl.lit(True), *[pl.col(n) == v for n, v in ((rows, r), (cols, c)) if n])
            )
            cells = _cells(picked, kinds[x], kinds[y] if y else [""], x, y, value, level)
            figure.add_trace(cells, row=i + 1, col=j + 1)
    figure.update_xaxes(type="category", ticks="")
    figure.update_yaxes(type="category", ticks="", autorange="reversed")
    figure.update_xaxes(title=x, row=len(down))
    figure.update_yaxes(title=y or "", col=1)
    figure.update_annotations(font={"size": 12})
    if not y:
        figure.update_yaxes(showticklabels=False)
    merged = [name for name in sweep.names if name not in names]
    told = f"{len(sweep.specs):,} combinations tried" + (f" · over all {', '.join(merged)}" if merged else "")
    height = 170 + len(down) * (70 + _CELL * len(kinds[y] if y else [""]))
    figure.update_layout(
        title={"text": f"<b>{value} by {' and '.join(names)}</b>", "subtitle": {"text": told}},
        coloraxis=_colours(table[value], value),
        height=max(height, 340),
        margin={"t": 100},
    )
    return figure


def _kinds(values: pl.Series) -> list[str]:
    """The values of a parameter as text, in the order of the grid."""
    return [str(text) for text in values.cast(pl.String).fill_null("as it was").unique(maintain_order=True)]


def _is(name: str | None, value: str) -> str:
    return f"{name} = {value}" if name else ""


def _cells(table: pl.DataFrame, xs: list[str], ys: list[str], x: str, y: str | None, value: str, level: float) -> Any:
    """One map. Values that were not tried, or have no finished order, are gaps."""
    z = np.full((len(ys), len(xs)), np.nan)
    hover = np.full(z.shape, "", dtype=object)
    for row in table.iter_rows(named=True):
        at = ys.index(row[y]) if y else 0, xs.index(row[x])
        if row["finished"] and row[value] is not None:
            z[at] = row[value]
        span = (
            "no interval: too few blocks"
            if row["low"] is None
            else f"{level * 100:.4g} %: {row['low']:+.3%} to {row['high']:+.3%}"
        )
        mean = "–" if row["expectancy"] is None else f"{row['expectancy']:+.3%}"
        where = "<br>".join(f"{name} = {row[name]}" for name in (x, y) if name)
        hover[at] = (
            f"{where}<br><b>{value} {_number(row[value], value)}</b><br>mean return {mean} ({span})<br>"
            f"{row['finished']:,} finished of {row['count']:,} orders"
        )
    return go.Heatmap(
        x=xs,
        y=ys,
        z=z,
        text=hover,
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        coloraxis="coloraxis",
    )


def _number(value: float | None, name: str) -> str:
    return "–" if value is None else f"{value:,.5g}" if name in _MONEY else f"{value:.3%}"


def _colours(values: pl.Series, name: str) -> dict[str, Any]:
    bar = {"title": {"text": name}, "thickness": 12, "tickformat": "" if name in _MONEY else ".3~%"}
    middle = 0.0 if name.startswith("return_") else _MIDDLE.get(name)
    if middle is None:
        return {"colorscale": "Cividis", "colorbar": bar}
    known = values.drop_nulls()
    reach = max((abs(float(v) - middle) for v in known), default=0.0) or 1.0
    scale = [[0, STOP], [0.5, "#e8e8e8"], [1, BUY]]
    return {"colorscale": scale, "cmin": middle - reach, "cmax": middle + reach, "colorbar": bar}
