"""The tear sheet: a run as one HTML page that opens anywhere, offline, in the light and in the dark, and on paper.

    run.report("week.html")

Everything is inside the page: plotly.js once, styles, figures, tables. It loads nothing, and a content policy in its
head has the browser refuse whatever would. Texts that users wrote (names, tags, notes, symbols) are escaped.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from . import __version__, metrics
from .charts import plot_equity, plot_excursions, plot_levels, plot_order, plot_returns
from .errors import DataError, short
from .fills import FillModel
from .looks import BUY, check_look, fragment
from .run import ticks_of
from .times import NS, duration_text, instant_text

if TYPE_CHECKING:
    from .run import Run
    from .ticks import Ticks

ROWS = 5
"""Orders listed as the best, and as the worst."""
_SPECS = 12
"""Different orders of a run that are written out; of more, the most frequent."""

MEANINGS = {
    "realized_pnl": ("Profit", "realized, after all fees, in quote currency"),
    "unrealized_pnl": ("Unrealized", "of what is still held, at the last price"),
    "return_on_capital": ("Return", "profit / capital"),
    "capital": ("Capital", "the most ever tied up in positions at once, at cost, unless it was given"),
    "max_drawdown": ("Maximum drawdown", "deepest fall of the equity curve below its highest point so far"),
    "max_drawdown_share": ("Maximum drawdown, of capital", "the same / capital"),
    "max_drawdown_start": ("Drawdown began", "the peak before the deepest fall"),
    "max_drawdown_bottom": ("Drawdown bottom", "its lowest point"),
    "max_drawdown_recovery": ("Drawdown recovered", "when the peak was reached again"),
    "max_drawdown_s": ("Drawdown lasted", "from the peak to the recovery, or to the end of the tape"),
    "win_rate": ("Win rate", "finished orders with a profit above 0"),
    "win_rate_ci": ("Win rate, 95 % interval", "Wilson; takes the orders as independent"),
    "profit_factor": ("Profit factor", "sum of profits / sum of losses"),
    "payoff_ratio": ("Payoff ratio", "mean profit / mean loss"),
    "expectancy": ("Expectancy", "mean profit of a finished order"),
    "return_mean": ("Mean return", "of a finished order, on its entry notional"),
    "return_ci": ("Mean return, 95 % interval", "block bootstrap, neighbours drawn together since orders overlap"),
    "block": ("Block", "orders that the bootstrap draws together"),
    "r_mean": ("Mean R", "profit in units of the risk to the first stop"),
    "r_orders": ("Orders with R", "finished orders that had a stop"),
    "sqn": ("SQN", "√min(n, 100) · mean R / standard deviation of R"),
    "kelly": ("Kelly fraction", "win rate − loss rate / payoff ratio; below 0: no bet"),
    "sharpe_trade": ("Sharpe ratio per order", "mean return / standard deviation"),
    "sortino_trade": ("Sortino ratio per order", "mean return / downside deviation"),
    "value_at_risk": ("Value at risk, 95 %", "loss that 5 % of the orders reach or exceed, as a return"),
    "expected_shortfall": ("Expected shortfall, 95 %", "mean loss of the worst 5 % of the orders"),
    "consecutive_wins": ("Most wins in a row", "in order of exit"),
    "consecutive_losses": ("Most losses in a row", "in order of exit"),
    "mae": ("Worst excursion", "quantiles of the worst price while held, against the entry"),
    "mfe": ("Best excursion", "quantiles of the best price while held, against the entry"),
    "edge_ratio": ("Edge ratio", "mean best / mean worst excursion"),
    "held_mean_s": ("Mean hold", "from first entry fill to last exit"),
    "exposure": ("Exposure", "share of the time with a position"),
    "overlap": ("Orders at once", "mean number open while any is"),
    "turnover": ("Turnover", "price · quantity of all fills"),
    "turnover_share": ("Turnover, of capital", "how often the capital was turned over"),
    "fees": ("Fees", "of all fills"),
    "fee_share": ("Fees, of profit", "fees / profit before fees; undefined where that was not above 0"),
    "period": ("Period", "of the ratios below; periods without a trade count"),
    "periods": ("Periods", "how many of them the tape has"),
    "sharpe": ("Sharpe ratio", "mean / standard deviation of the profit per period"),
    "sharpe_annual": ("Sharpe ratio, annual", "times √periods in 365 days; only for tapes of 30 days or more"),
    "sortino": ("Sortino ratio", "mean / downside deviation of the profit per period"),
    "sortino_annual": ("Sortino ratio, annual", "the same, annualised"),
    "psr": (
        "Probabilistic Sharpe",
        "probability that the true Sharpe ratio is above 0, for one strategy that was tried",
    ),
    "ulcer_index": ("Ulcer index", "root mean square of drawdowns, in per cent"),
    "calmar": ("Calmar ratio", "profit per year / maximum drawdown, last three years"),
    "mar": ("MAR ratio", "profit per year / maximum drawdown, whole tape"),
    "orders": ("Orders", "in this run"),
    "entered": ("Entered", "bought or sold something"),
    "finished": ("Finished", "entered and ended"),
}
"""Name and meaning of each number of `metrics.summary`, as the page says it."""
_SHARES = {
    *("return_on_capital", "max_drawdown_share", "win_rate", "win_rate_ci", "return_mean", "return_ci", "kelly", "mae"),
    *("mfe", "value_at_risk", "expected_shortfall", "exposure", "fee_share", "psr"),
}
_SIGNED = {"realized_pnl", "unrealized_pnl", "return_on_capital", "expectancy", "return_mean", "return_ci", "r_mean"}
_MONEY = {"realized_pnl", "unrealized_pnl", "capital", "max_drawdown", "expectancy", "turnover", "fees"}
_INSTANTS = {"max_drawdown_start", "max_drawdown_bottom", "max_drawdown_recovery"}
_TILES = (
    *("realized_pnl", "return_on_capital", "max_drawdown", "win_rate", "profit_factor", "return_mean"),
    *("r_mean", "sharpe", "psr", "exposure", "held_mean_s", "fees"),
)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline'; img-src data: blob:">
<title>{title}</title>
<style>{style}</style></head>
<body><main>
{body}
</main><script>{script}</script></body>
</html>
"""
_STYLE = f"""
:root {{ color-scheme: light dark; --paper: #ffffff; --card: #f6f8fa; --ink: #24292f; --quiet: #57606a;
  --line: #d0d7de; --gain: {BUY}; --loss: #b84300; }}
@media (prefers-color-scheme: dark) {{ :root {{ --paper: #0d1117; --card: #161b22; --ink: #d0d7de; --quiet: #9198a1;
  --line: #30363d; --gain: #56b4e9; --loss: #ff8f4d; }} }}
@media print {{ :root {{ color-scheme: light; --paper: #ffffff; --card: #ffffff; --ink: #000000; --quiet: #444c56;
  --line: #b0b7be; --gain: {BUY}; --loss: #b84300; }} }}
body {{ margin: 0; background: var(--paper); color: var(--ink); line-height: 1.45;
  font: 15px system-ui, 'Segoe UI', Helvetica, Arial, sans-serif; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 1.5rem 1.25rem 3rem; }}
h1 {{ font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }}
h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .3rem; padding-top: .9rem; border-top: 1px solid var(--line); }}
h3 {{ font-size: .95rem; margin: 1.1rem 0 .3rem; }}
p, figcaption {{ margin: .2rem 0 .6rem; color: var(--quiet); font-size: .87rem; max-width: 75ch; }}
header p {{ max-width: none; }}
figure {{ margin: 0; }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr)); gap: .7rem; margin: 1.1rem 0; }}
.tile {{ background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: .6rem .8rem; }}
.tile b {{ display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }}
.tile span {{ font-size: .82rem; font-weight: 600; }}
.tile small {{ display: block; color: var(--quiet); font-size: .76rem; line-height: 1.3; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; width: 100%; }}
th, td {{ text-align: left; padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }}
thead th {{ color: var(--quiet); font-weight: 600; white-space: nowrap; }}
td.n, th.n {{ text-align: right; white-space: nowrap; }}
td.v {{ text-align: right; }}
td.t {{ overflow-wrap: anywhere; min-width: 7rem; }}
td.m {{ color: var(--quiet); }}
.gain {{ color: var(--gain); }} .loss {{ color: var(--loss); }}
.bar {{ position: relative; width: 9rem; min-width: 9rem; }}
.bar i {{ position: absolute; top: .5em; height: .7em; background: currentColor; opacity: .75; }}
.warning {{ border-left: 4px solid #d9a400; padding: .25rem .7rem; margin: .4rem 0; background: var(--card); font-size: .87rem; }}
code {{ font-size: .85em; overflow-wrap: anywhere; }}
summary {{ cursor: pointer; font-weight: 600; margin: .6rem 0; }}
.xtick text, .ytick text, .x2tick text, .y2tick text, .legendtext, .textpoint text, .gtitle, .gtitle-subtitle,
.g-xtitle text, .g-ytitle text, .g-x2title text, .g-y2title text {{ fill: var(--ink) !important; }}
@media print {{
  main {{ max-width: none; padding: 0; }} .modebar {{ display: none !important; }} .wide {{ overflow: visible; }}
  table {{ font-size: .72rem; }} .tiles {{ grid-template-columns: repeat(4, 1fr); }} h2, h3 {{ break-after: avoid; }}
  .plotly-graph-div {{ height: auto !important; }}
  figure, .tile, tr, .warning {{ break-inside: avoid; }} .tile, .bar i {{ print-color-adjust: exact; }}
}}
"""
# a chart keeps the width of the screen when a page is printed, unless it is told; folded parts would be lost on paper
_SCRIPT = """
const charts = () => [...document.querySelectorAll('.js-plotly-plot')];
addEventListener('beforeprint', () => {
  document.querySelectorAll('details').forEach(d => { d.open = true; });
  charts().forEach(c => {
    c.height = c.layout.height;
    Plotly.relayout(c, {width: 690, height: Math.min(c.height, 370), autosize: false});
  });
});
addEventListener('afterprint', () => charts().forEach(
  c => Plotly.relayout(c, {width: null, height: c.height, autosize: true})));
"""


def write_report(
    run: Run,
    path: str | Path | None = None,
    title: str | None = None,
    *,
    overwrite: bool = False,
    ticks: Ticks | None = None,
    capital: float | None = None,
    examples: int = 2,
    points: int = 2000,
) -> Path:
    """Write a run as one self-contained HTML page (about 5 MB, nearly all of it plotly.js), and say where.

    Parameters
    ----------
    path : an .html file; None: the run's id, in the working folder.
    title : of the page; None: the run's name, symbol and id.
    overwrite : replace a file that is there already.
    ticks : those of the run, where it does not carry them. Without any the page has no charts of single orders, and
        its equity curve holds realized profits only.
    capital : money that percentages are taken of; see `metrics.summary`.
    examples : of so many of the best and of the worst orders the life is drawn.
    points : most points of a line.

    Raises DataError for a path that cannot be written, and if the ticks are not those of the run.
    """
    target = Path(re.sub(r"[^\w.-]", "_", run.id) + ".html" if path is None else path)
    if target.suffix != ".html":
        raise DataError(f"path = {short(str(target))}: must be an .html file; write {target.with_suffix('.html').name}")
    if not target.parent.is_dir():
        raise DataError(f"path = {short(str(target))}: the folder {target.parent} does not exist; create it first")
    if target.exists() and not overwrite:
        raise DataError(f"path = {short(str(target))}: exists already; take another name, or pass overwrite=True")
    if isinstance(examples, bool) or not isinstance(examples, (int, np.integer)) or examples < 0:
        raise DataError(f"examples = {short(examples)}: must be a whole number of at least 0")
    if capital is not None and not capital > 0:
        raise DataError(f"capital = {short(capital)}: must be above 0; leave it out to take the most that was tied up")
    check_look("auto", points)
    text = _page(run, title, ticks, capital, examples, points)
    target.write_text(text, "utf-8")
    return target


def _page(run: Run, title: str | None, ticks: Ticks | None, capital: float | None, examples: int, points: int) -> str:
    meta = run.meta
    used = ticks_of(run, ticks, "run.report(ticks=...)") if ticks is not None or run.ticks is not None else None
    numbers = metrics.summary(run, used, capital)
    booked = metrics.bookings(run)
    symbol = meta["symbol"] or run.specs[0].symbol
    named = title or " · ".join(part for part in (meta["name"], symbol, f"run {run.id}") if part)
    span = f"{_instant(meta['first_ts'])} to {_instant(meta['last_ts'])}"
    head = f"{numbers['orders']:,} orders on {symbol}, {numbers['entered']:,} entered, {numbers['finished']:,} finished"
    if used is None:
        value = "realized only: the run has no ticks with it"
    else:
        value = "marked to market at " + ("every tick" if used.bars is None else "the close of every bar")
    parts = [
        f"<header><h1>{escape(named)}</h1><p>{escape(head)} · {span} · {meta['ticks']:,} ticks</p></header>",
        *(f'<div class="warning">⚠ {escape(warning)}</div>' for warning in meta.get("warnings", [])),
        _tiles(numbers),
        _section(
            "Equity and drawdown", f"Profit over time, {value}.", plot_equity(run, used, points=points), library=True
        ),
        _section(
            "Returns by exit reason",
            "Finished orders; the outermost bars hold the outer 1 % on either side.",
            plot_returns(run),
        ),
        _section(
            "Take-profit levels",
            "Of all orders, also those that never entered. The intervals take orders as independent; orders that live "
            "at the same time are not, so the truth is less certain.",
            plot_levels(run),
        ),
        _section(
            "Excursions",
            "Each dot is a finished order: how far the price went against it (left) and with it (right) while it was "
            "held, and what it returned after fees. On the dashed line the order ended at that very price.",
            plot_excursions(run),
        ),
        _calendar(run, booked),
        _extremes(run, used, examples, points),
        _all_numbers(numbers),
        _assumptions(run, used),
    ]
    return _PAGE.format(title=escape(named), style=_STYLE, body="\n".join(parts), script=_SCRIPT)


# --- numbers ----------------------------------------------------------------------------------------------------------


def _number(value: float, digits: int = 4) -> str:
    """So many significant digits, whole numbers beyond them, and a real minus."""
    places = f",.{digits}g" if abs(value) < 10**digits else ",.0f"
    return f"{value:{places}}".replace("-", "−")


def _fixed(value: float) -> str:
    """Two decimals, so that columns stand below one another; three significant digits for what is small."""
    return _number(value, 3) if 0 < abs(value) < 0.1 else f"{value:,.2f}".replace("-", "−")


def _span(seconds: float) -> str:
    """A duration by its two largest units."""
    whole = duration_text(round(seconds * 1000) * NS["ms"])
    return " ".join(re.findall(r"\d+[a-z]+", whole)[:2])


def _instant(ns: int) -> str:
    """An instant to the second."""
    return instant_text(ns // 10**9 * 10**9)


def _shown(name: str, value: Any) -> str:
    """One number of the summary as text."""
    if value is None:
        return "–"
    if isinstance(value, dict):
        return ", ".join(f"{share:.0%}: {_shown(name, each)}" for share, each in value.items())
    if isinstance(value, tuple):
        return " to ".join(_shown(name, each) for each in value)
    if name in _INSTANTS:
        return _instant(value)
    if name.endswith("_s"):
        return _span(value)
    if isinstance(value, (str, int)):
        return str(value) if isinstance(value, str) else f"{value:,}"
    sign = "+" if name in _SIGNED and value > 0 else ""
    if name in _SHARES:
        return f"{sign}{_fixed(100 * value)} %"
    return sign + (_fixed(value) if name in _MONEY else _number(value, 3))


def _tone(value: Any) -> str:
    return "" if not isinstance(value, (int, float)) or not value else "gain" if value > 0 else "loss"


def _tiles(numbers: dict[str, Any]) -> str:
    more = {
        "realized_pnl": f"mean {_shown('expectancy', numbers['expectancy'])} per order",
        "max_drawdown": f"{_shown('max_drawdown_share', numbers['max_drawdown_share'])} of capital",
        "win_rate": f"95 %: {_shown('win_rate_ci', numbers['win_rate_ci'])}",
        "return_mean": f"95 %: {_shown('return_ci', numbers['return_ci'])}",
        "return_on_capital": f"capital {_shown('capital', numbers['capital'])}",
        "sharpe": f"per {numbers['period']}; annual {_shown('sharpe_annual', numbers['sharpe_annual'])}",
        "fees": f"{_shown('fee_share', numbers['fee_share'])} of the profit before them",
    }
    cells = []
    for name in _TILES:
        label, meaning = MEANINGS[name]
        tone = _tone(numbers[name]) if name in _SIGNED else ""
        extra = f"<small>{escape(more[name])}</small>" if name in more and numbers[name] is not None else ""
        cells.append(
            f'<div class="tile"><span>{escape(label)}</span><b class="{tone}">{escape(_shown(name, numbers[name]))}</b>'
            f"{extra}<small>{escape(meaning)}</small></div>"
        )
    return f'<div class="tiles">{"".join(cells)}</div>'


def _all_numbers(numbers: dict[str, Any]) -> str:
    rows: list[list[_Cell]] = [
        [label, (_shown(n, numbers[n]), "v"), (meaning, "m")] for n, (label, meaning) in MEANINGS.items()
    ]
    table = _table(["number", ("value", "n"), "what it is"], rows)
    return f"<h2>All numbers</h2><details><summary>{len(rows)} numbers; – is undefined</summary>{table}</details>"


# --- sections ---------------------------------------------------------------------------------------------------------


def _section(name: str, caption: str, figure: Any, library: bool = False) -> str:
    return (
        f"<h2>{escape(name)}</h2><figure><figcaption>{escape(caption)}</figcaption>{fragment(figure, library)}</figure>"
    )


_Cell = str | tuple[str, str]
"""A cell's text, and its class where it has one."""


def _table(head: Sequence[_Cell], rows: Iterable[Sequence[_Cell]]) -> str:
    """A table of escaped texts; a cell of class `bar` is our own markup."""

    def cell(tag: str, content: _Cell) -> str:
        text, kind = content if isinstance(content, tuple) else (content, "")
        mark = f' class="{kind}"' if kind else ""
        return f"<{tag}{mark}>{text if kind.startswith('bar') else escape(text)}</{tag}>"

    top = "".join(cell("th", each) for each in head)
    body = "".join(f"<tr>{''.join(cell('td', each) for each in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _calendar(run: Run, booked: pl.DataFrame) -> str:
    days = (run.meta["last_ts"] - run.meta["first_ts"]) / NS["d"]
    every, word, pattern = (
        ("1mo", "month", "%Y-%m")
        if days > 62
        else ("1d", "day", "%Y-%m-%d")
        if days > 2
        else ("1h", "hour", "%m-%d %H:00")
    )
    table = metrics.by_period(booked, run.orders, every).with_columns(total=pl.col("pnl").cum_sum())
    if not table.height:
        return ""
    scale = float(table["pnl"].abs().max() or 0.0) or 1.0  # type: ignore[arg-type]
    rows: list[list[_Cell]] = []
    for when, pnl, finished, won, total in table.select(
        pl.col("period").dt.strftime(pattern), "pnl", "finished", "won", "total"
    ).rows():
        width = 50 * abs(pnl) / scale
        side = f"left:{50 - width if pnl < 0 else 50:.2f}%;width:{width:.2f}%"
        rows.append(
            [
                when,
                (_shown("realized_pnl", pnl), f"n {_tone(pnl)}"),
                (f'<i style="{side}"></i>', f"bar {_tone(pnl)}"),
                (_shown("realized_pnl", total), "n"),
                (f"{finished:,}", "n"),
                (f"{won / finished:.0%}" if finished else "–", "n"),
            ]
        )
    head: list[_Cell] = [word, ("profit", "n"), "", ("so far", "n"), ("finished", "n"), ("won", "n")]
    note = "Realized when a fill booked it, entry fees included, UTC; where nothing was booked there is no row."
    return f"<h2>Profit by {word}</h2><p>{note}</p>{_table(head, rows)}"


def _extremes(run: Run, ticks: Ticks | None, examples: int, points: int) -> str:
    finished = metrics.done(run.orders).sort("realized_pnl", "order", descending=[True, False])
    if not finished.height:
        return ""
    best = finished.head(min(ROWS, ceil(finished.height / 2)))
    worst = finished.tail(min(ROWS, finished.height // 2)).reverse()
    parts = ["<h2>Best and worst orders</h2>"]
    for name, frame in (("Best", best), ("Worst", worst)):
        if frame.height:
            parts.append(f"<h3>{name}</h3>{_orders(frame)}")
    if ticks is None:
        parts.append("<p>No charts of single orders: the run has no ticks with it.</p>")
    elif examples:
        for name, frame in (("best", best), ("worst", worst)):
            for rank, order in enumerate(frame["order"].head(examples).to_list()):
                figure = plot_order(run, order, ticks, points=min(points, 1200)).update_layout(height=430)
                place = f"no. {rank + 1} of the {name}"
                parts.append(f"<figure><h3>Order {order}, {place}</h3>{fragment(figure, False)}</figure>")
    return "".join(parts)


def _orders(frame: pl.DataFrame) -> str:
    rows: list[list[_Cell]] = []
    for row in frame.with_columns(pl.col("entry_ts").dt.epoch("ns")).to_dicts():
        held = "–" if row["held_ns"] is None else _span(row["held_ns"] / 1e9)
        rows.append(
            [
                (f"{row['order']:,}", "n"),
                row["side"],
                _instant(row["entry_ts"]),
                (_shown("realized_pnl", row["realized_pnl"]), f"n {_tone(row['realized_pnl'])}"),
                (_shown("return_mean", row["return_"]), "n"),
                row["exit_reason"].replace("_", " "),
                (f"{row['filled_levels']}/{row['levels']}", "n"),
                (held, "n"),
                (_shown("mae", row["mae"]), "n"),
                (_shown("mfe", row["mfe"]), "n"),
                (row["tag"] or "", "t"),
            ]
        )
    head: list[_Cell] = [
        ("order", "n"),
        "side",
        "entered (UTC)",
        ("profit", "n"),
        ("return", "n"),
        "exit",
        ("levels", "n"),
    ]
    return _table([*head, ("held", "n"), ("worst", "n"), ("best", "n"), "tag"], rows)


def _assumptions(run: Run, ticks: Ticks | None) -> str:
    meta = run.meta
    model, market = FillModel(**meta["fills"]), meta["instrument"]
    limits = "a tick trades at it" if model.touch else "a tick trades through it"
    share = "any share" if model.participation is None else f"at most {100 * float(model.participation):g} %"
    facts = {
        "Fees": f"maker {100 * float(model.fee_maker):g} %, taker {100 * float(model.fee_taker):g} %, taken in "
        + ("coins for buys of longs, else in quote" if model.fee_currency == "base" else "quote")
        + " currency",
        "Slippage": f"{100 * float(model.slippage):g} % against the order, on market orders",
        "Latency": f"{duration_text(model.latency)} from trigger to arrival",
        "Limits": f"a resting limit is filled when {limits}",
        "Size": f"one order takes {share} of a tick's size; the market does not react to it",
        "Looked at": f"the last price of each {meta['poll_interval']}" if meta["poll_interval"] else "every tick",
        "Path in a bar": f"{meta['path']}: an assumption, not a bound"
        if meta["path"]
        else "none needed: these are ticks",
        "Outliers": f"prints beyond {meta['outlier']} held back until others agree: {len(meta['held_back'] or []):,}"
        if meta["outlier"]
        else "every print is believed",
        "Market": f"price increment {market['price_increment']}, quantity increment {market['quantity_increment']}"
        + (", read off the data" if market.get("derived") else ""),
        "Actions": f"{len(meta['actions']):,} by the user",
        "Data": f"{meta['source']}, {meta['ticks']:,} ticks"
        + (f" from {meta['bars']:,} bars" if meta.get("bars") else ""),
        "Data hash": str(meta["data_hash"]),
        "Replayed": f"{meta['replayed_at']} in {meta['seconds']:.3g} s, run {run.id}, smartorders_lab {__version__}",
    }
    if "pnl_low" in run.orders.columns:
        low, high = (_fixed(float(run.orders[name].sum())) for name in ("pnl_low", "pnl_high"))
        facts["Bounds"] = f"over every path in a bar, order by order, the profit lies between {low} and {high}"
    if meta.get("bars"):
        facts["Ambiguous bars"] = f"{run.orders['ambiguous_bars'].sum():,} in which stop and level lay both in reach"
    notes = [] if ticks is None else [*ticks.notes, *(f"{n:,} rows dropped: {why}" for why, n in ticks.dropped.items())]
    rows: list[list[_Cell]] = [[name, (text, "t")] for name, text in facts.items()]
    rows += [["Note on the data", (note, "t")] for note in notes]
    known: dict[int, str] = {}
    count = Counter(known.setdefault(id(spec), str(spec)) for spec in run.specs)
    rows += [[f"{n:,} orders", (text, "t")] for text, n in count.most_common(_SPECS)]
    if len(count) > _SPECS:
        rows.append(["", (f"and {len(count) - _SPECS:,} more kinds", "t")])
    intro = "What this replay took for granted. A replay is as good as its assumptions, and what paid yesterday need not tomorrow."
    return f"<h2>Assumptions</h2><p>{intro}</p>{_table(['what', 'how'], rows)}"
