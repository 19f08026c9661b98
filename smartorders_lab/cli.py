"""The command line: `smartorders replay`, `sweep`, `fetch`, `runs`, `orders`, `events`, `compare`, `sql`, `share`; more in `trade_cli`.

Tables and words go to stdout, warnings and errors to stderr, one line each; with `--json` stdout is JSON and nothing else.

    exit code  0  done
               2  usage, a spec, a plan or a link
               3  data
               4  a store
               5  an exchange
              70  internal: a mistake of this program (--debug shows where)
              75  interrupted; the same command again goes on or begins anew
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from . import __version__
from .errors import DataError, ExchangeError, PlanError, Problem, SmartOrdersError, SpecError, StoreError

if TYPE_CHECKING:
    import polars as pl

    from .plan import Plan
    from .run import Run
    from .spec import SmartOrder
    from .store import Store

USAGE, DATA, STORE, EXCHANGE, INTERNAL, INTERRUPTED = 2, 3, 4, 5, 70, 75
_CODES = ((DataError, DATA), (StoreError, STORE), (ExchangeError, EXCHANGE), (SmartOrdersError, USAGE))
# typer brought its own copy of click along at some point, so the class is taken from where both have it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
_ROWS = 50
"""Rows of a table that are shown if no --limit is given."""
_WIDTH = 200
"""Columns of a table that goes to a file or a pipe."""
_COLOURS = {
    "ACTIVE": "cyan",
    "PARTIALLY_CLOSED": "yellow",
    "CLOSED": "green",
    "STOPPED": "red",
    "CANCELLED": "bright_black",
    "FILLED": "green",
    "TRIGGERED": "yellow",
}
_AS_TYPED = {
    "force=True": "--force",
    "sort=True": "--set ticks.sort=true",
    "restart=True": "--restart",
    "skip_invalid=True": "--set sweep.skip_invalid=true",
    'store="out/sweep/"': "--store out/sweep",
    'by="combination"': "--set sweep.by=combination",
}
"""Ways out as they are written in Python, and on the command line."""


class Commands(TyperGroup):
    """The commands, with every error as one line on stderr and an exit code of its own."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run one command line and exit."""
        try:
            code = super().main(*args, **(options | {"standalone_mode": False}))
            if code == 130:  # what typer makes of Ctrl-C
                raise KeyboardInterrupt
        except (KeyboardInterrupt, typer.Abort):
            code = _failed(["interrupted; run the same command again"], INTERRUPTED)
        except _UsageError as error:
            code = _failed(_usage(error), USAGE)
        except SmartOrdersError as error:
            lines = str(error).splitlines() if isinstance(error, SpecError) else [" ".join(str(error).split())]
            code = _failed(lines, next(code for kind, code in _CODES if isinstance(error, kind)))
        except ModuleNotFoundError as error:
            code = _failed([str(error)], USAGE)
        except Exception as error:
            what = " ".join(f"{type(error).__name__}: {error}".split())
            code = _failed([f"internal: {what}; smartorders --debug … shows where; please report it"], INTERNAL)
        sys.exit(code if isinstance(code, int) else 0)


def _failed(lines: Iterable[str], code: int) -> int:
    if _debug and not isinstance(sys.exception(), _UsageError):
        traceback.print_exc()
    for line in lines:
        for python, typed in _AS_TYPED.items():
            line = line.replace(f"pass {python}", f"pass {typed}").replace(python, typed)
        _say("error", line)
    return code


def _usage(error: Any) -> list[str]:
    """typer's words in ours: the closest match, or where an example stands."""
    text = re.sub(r" ?\(?(Did you mean|Possible options:) ([^,)?]*).*", r"; did you mean \2?", error.format_message())
    text = text.replace(".;", ";").rstrip(".").replace("'", "")
    if text and "; " not in text and error.ctx is not None:
        text += f"; {error.ctx.command_path} --help shows examples"
    return [text[0].lower() + text[1:]] if text else []  # empty where the help itself is the answer


def _say(word: str, line: str) -> None:
    print(f"{word}: {line}", file=sys.stderr)


_debug = False
app = typer.Typer(
    cls=Commands,
    name="smartorders",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
fetch = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(fetch, name="fetch", help="Download past trades or bars into a Parquet file.")


def main() -> None:
    """The console script."""
    app(prog_name="smartorders")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"smartorders {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
) -> None:
    """Smart orders, replayed over real ticks: entry, take-profit ladder, stop, trailing stop and break-even as one order.

    \b
    smartorders fetch trades binance SOL/USDT --start 7d --out sol.parquet
    smartorders replay plan.toml --store runs.duckdb
    smartorders sweep plan.toml --store out/sweep
    smartorders orders runs.duckdb --status stopped
    smartorders paper plan.toml
    smartorders live plan.toml --dry-run
    smartorders COMMAND --help
    """
    global _debug
    _debug = debug


# ---------------------------------------------------------------------------------------------------- arguments

PlanFile = Annotated[
    Path, typer.Argument(metavar="PLAN.toml", help="The plan: ticks, orders, fills and where to store.")
]
StoreFile = Annotated[Path, typer.Argument(metavar="STORE", help="The DuckDB file that runs were stored in.")]
RunId = Annotated[
    str | None, typer.Argument(metavar="RUN", help="Id of a run, or how it begins; left out: the one saved last.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Force = Annotated[bool, typer.Option("--force", help="Replace a file that is there already.")]
Limit = Annotated[int | None, typer.Option("--limit", min=0, help=f"Rows to show; 0 is all. Tables show {_ROWS}.")]
OrderNumber = Annotated[int | None, typer.Option("--order", min=0, help="Only this order, counted from 0.")]
Exchange = Annotated[
    str, typer.Argument(metavar="EXCHANGE", help="binance, bybit, okx, gate, bitget, kucoin, kraken, coinbase.")
]
Symbol = Annotated[str, typer.Argument(metavar="SYMBOL", help="BTC/USDT, or BTC/USDT:USDT for the swap.")]
Start = Annotated[str, typer.Option("--start", help="2024-01-01, 2024-01-01T12:00Z, or 7d: a week before the end.")]
End = Annotated[str | None, typer.Option("--end", help="Not included; left out: now.")]
Out = Annotated[Path, typer.Option("--out", help="The Parquet file to write.")]


# ---------------------------------------------------------------------------------------------------- replay


@app.command("replay")
def replay_command(
    plan: PlanFile,
    set: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the plan.")] = [],  # noqa: B006
    ticks: Annotated[str | None, typer.Option("--ticks", help="Other ticks: a file, a glob or a query.")] = None,
    store: Annotated[Path | None, typer.Option("--store", help="Keep the run in this DuckDB file.")] = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="Do not keep the run, whatever the plan says.")] = False,
    chart: Annotated[Path | None, typer.Option("--chart", metavar="OUT.html", help="Draw one order.")] = None,
    order: Annotated[int, typer.Option("--order", min=0, help="The order that --chart draws, from 0.")] = 0,
    json: Json = False,
    force: Force = False,
) -> None:
    """Replay a plan and print what came of it.

    Every value of the plan can be changed for one run: --set takes its key as it stands in the file, lists by number.

    \b
    smartorders replay plan.toml
    smartorders replay plan.toml --set orders.0.stop_loss=-4% --set replay.name=b
    smartorders replay plan.toml --ticks "sol-2024-*.parquet" --store sol.duckdb
    smartorders replay plan.toml --no-store --chart order.html --order 3
    smartorders replay plan.toml --json | jq .summary.realized_pnl
    """
    if store is not None and no_store:
        raise _UsageError("--store and --no-store cannot stand together; keep one")
    if chart is not None:
        _check_output(chart, "--chart", ".html", force)
    chosen = _overridden(_plan(plan), set)
    if ticks is not None:
        query = re.match(r"\s*(select|with|from)\s", ticks, re.IGNORECASE)
        chosen = chosen.override("ticks.source", ticks if query else os.path.abspath(ticks))
    if store is not None:
        chosen = chosen.override("store.path", os.path.abspath(store))
    if no_store:
        chosen = replace(chosen, data={name: table for name, table in chosen.data.items() if name != "store"})
    run = chosen.run(progress=False if json else None)
    for warning in run.meta["warnings"]:
        _say("warning", warning)
    if chart is not None:
        from .charts import write_html

        write_html(run.plot(order), chart)
    kept = None if chosen.store_path is None else os.path.relpath(chosen.store_path)
    if json:
        _print_json({"run": run.id, "store": kept, "summary": run.summary(), "meta": run.meta})
        return
    _print_pairs(_headline(run), run.summary())
    print(f"stored in {kept} as {run.id}" if kept else "not stored; --store FILE.duckdb keeps a run")
    if chart is not None:
        print(f"order {order} drawn in {chart}")


def _plan(path: Path) -> Plan:
    from .plan import Plan

    return Plan.read(path)


def _overridden(plan: Plan, sets: Sequence[str]) -> Plan:
    from .plan import toml_value

    for item in sets:
        key, equals, value = item.partition("=")
        if not equals:
            raise PlanError(Problem("--set", item, "must be KEY=VALUE", "write --set orders.0.stop_loss=-4%"))
        plan = plan.override(key.strip(), toml_value(value.strip()))
    return plan


def _check_output(path: Path, option: str, suffix: str, force: bool) -> None:
    if path.suffix != suffix:
        raise _UsageError(f"{option} {path}: must be a {suffix} file; write {path.with_suffix(suffix).name}")
    if not path.parent.is_dir():
        raise _UsageError(f"{option} {path}: the folder {path.parent} does not exist; create it first")
    if path.exists() and not force:
        raise _UsageError(f"{option} {path}: exists already; take another name, or pass --force")


def _headline(run: Run) -> str:
    from .times import instant_text

    meta = run.meta
    span = f"{instant_text(meta['first_ts'])} to {instant_text(meta['last_ts'])}"
    named = f"Run {run.id}" + (f" “{meta['name']}”" if meta["name"] else "")
    return f"{named} · {meta['symbol'] or 'ticks'} · {meta['ticks']:,} ticks · {span}"


# ---------------------------------------------------------------------------------------------------- sweep

_BEST_COLUMNS = ("finished", "expectancy", "low", "high", "win_rate", "profit_factor", "stop_rate", "total_pnl", "fees")


@app.command("sweep")
def sweep_command(
    plan: PlanFile,
    set: Annotated[list[str], typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the plan.")] = [],  # noqa: B006
    ticks: Annotated[str | None, typer.Option("--ticks", help="Other ticks: a file, a glob or a query.")] = None,
    store: Annotated[Path | None, typer.Option("--store", help="A folder for Parquet files, or a DuckDB file.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew instead of going on.")] = False,
    heatmap: Annotated[Path | None, typer.Option("--heatmap", metavar="OUT.html", help="Draw the grid.")] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="expectancy, total_pnl, win_rate, profit_factor, sharpe.")
    ] = "expectancy",
    folds: Annotated[int, typer.Option("--folds", min=0, help="Walk forward over so many folds.")] = 0,
    min_finished: Annotated[
        int, typer.Option("--min-finished", min=1, help="Fewest finished orders of a best cell.")
    ] = 30,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Combinations to show; 0 is all.")] = 10,
    json: Json = False,
    force: Force = False,
) -> None:
    """Replay an order in every combination of a grid and print the best of them, and how much of that is luck.

    The order is the first of the plan, entries and grid are in its [sweep] table. Interrupted, the same command goes on where it was.

    \b
    smartorders sweep plan.toml --store out/sweep
    smartorders sweep plan.toml --set 'sweep.grid.stop_loss=["1%", "2%"]'
    smartorders sweep plan.toml --set sweep.entries="every 1h" --folds 5
    smartorders sweep plan.toml --heatmap grid.html --metric profit_factor
    """
    import polars as pl

    if heatmap is not None:
        _check_output(heatmap, "--heatmap", ".html", force)
    chosen = _overridden(_plan(plan), set)
    if ticks is not None:
        query = re.match(r"\s*(select|with|from)\s", ticks, re.IGNORECASE)
        chosen = chosen.override("ticks.source", ticks if query else os.path.abspath(ticks))
    if store is not None:
        chosen = chosen.override("sweep.store", os.path.abspath(store))
    found = chosen.sweep(progress=False if json else None, restart=restart)
    if found.meta["skipped"]:
        _say("warning", f"{found.meta['skipped']} combinations make no valid order and were left out")
    best = None
    try:
        best = found.best(metric, min_finished)
    except DataError as error:
        if "min_finished" not in str(error):
            raise
        _say("warning", str(error).replace("min_finished =", "--min-finished"))
    table = found.combinations.sort(pl.col(metric), descending=True, nulls_last=True, maintain_order=True)
    walk = found.walk_forward(folds, metric, min_finished) if folds else None
    if heatmap is not None:
        from .looks import write_html

        x, y, cols, rows = [*found.names, *[None] * 4][:4]
        if x is None:
            raise PlanError(Problem("--heatmap", None, "needs a grid", "add [sweep.grid] to the plan"))
        write_html(found.heatmap(x, y, metric, rows, cols), heatmap)
    path = None if chosen.sweep_path is None else os.path.relpath(chosen.sweep_path)
    if json:
        told = None if best is None else {name: value for name, value in vars(best).items() if name != "order"}
        if told is not None and best is not None:
            told["order"] = best.order.to_dict()
        shown = table.head(limit or table.height).to_dicts()
        forward = None if walk is None else {**vars(walk), "folds": walk.folds.to_dicts()}
        _print_json(
            {
                "sweep": found.id,
                "store": path,
                "summary": found.summary(),
                "best": told,
                "combinations": shown,
                "walk_forward": forward,
            }
        )
        return
    named = f"Sweep {found.id}" + (f" “{found.meta['name']}”" if found.meta["name"] else "")
    _print_pairs(named, {name: value for name, value in found.summary().items() if value not in (None, "", 0)})
    columns = ("combination", *found.names, *_BEST_COLUMNS)
    _print_frame(f"{len(found.specs):,} combinations tried, by {metric}", table, False, limit, columns)
    if walk is not None:
        mean = (
            "no orders"
            if walk.expectancy is None
            else f"mean return {walk.expectancy:+.4%} of {walk.finished:,} orders"
        )
        _print_frame(f"Walk-forward, chosen on the past: {mean}", walk.folds, False, 0)
    if best is not None:
        print(best)
    print(f"kept in {path}" if path else "not kept; --store FOLDER keeps the orders")
    if heatmap is not None:
        print(f"drawn in {heatmap}")


# ---------------------------------------------------------------------------------------------------- fetch


@fetch.command("trades")
def fetch_trades_command(
    exchange: Exchange,
    symbol: Symbol,
    start: Start,
    out: Out,
    end: End = None,
    json: Json = False,
    force: Force = False,
) -> None:
    """Download every public trade of a range. Interrupted, the same command goes on where it was.

    \b
    smartorders fetch trades binance BTC/USDT --start 2024-01-01 --out btc.parquet
    smartorders fetch trades kraken ETH/EUR --start 2d --end 1d --out eth.parquet
    """
    from .feeds.fetch import fetch_trades

    _print_fetched(fetch_trades(exchange, symbol, start, end, out, force=force, progress=False if json else None), json)


@fetch.command("bars")
def fetch_bars_command(
    exchange: Exchange,
    symbol: Symbol,
    timeframe: Annotated[str, typer.Argument(metavar="TIMEFRAME", help="1m, 5m, 1h, 1d …")],
    start: Start,
    out: Out,
    end: End = None,
    json: Json = False,
    force: Force = False,
) -> None:
    """Download the finished candles of a range. Interrupted, the same command goes on where it was.

    \b
    smartorders fetch bars okx SOL/USDT:USDT 1m --start 7d --out sol_1m.parquet
    smartorders fetch bars binance BTC/USDT 1h --start 2023-01-01 --out 1h.parquet
    """
    from .feeds.fetch import fetch_bars

    done = fetch_bars(exchange, symbol, timeframe, start, end, out, force=force, progress=False if json else None)
    _print_fetched(done, json)


def _print_fetched(done: Any, json: bool) -> None:
    if json:
        _print_json({**vars(done), "path": str(done.path)})
    else:
        print(done)


# ---------------------------------------------------------------------------------------------------- stores


@app.command("runs")
def runs_command(
    store: StoreFile,
    run: RunId = None,
    check: Annotated[bool, typer.Option("--check", help="Read every row and compare with what was saved.")] = False,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """List the runs of a store, or show one of them.

    \b
    smartorders runs runs.duckdb
    smartorders runs runs.duckdb 3f9c
    smartorders runs runs.duckdb --check
    """
    with _open(store) as opened:
        if check:
            rows = opened.verify()
            if json:
                _print_json({"store": str(store), "whole": True, "rows": rows})
            else:
                print(
                    f"{store}: whole; "
                    + ", ".join(f"{count:,} {name}" for name, count in rows.items() if name != "store")
                )
        elif run is None:
            frame = opened.runs()
            _print_frame(f"Runs of {store}", frame, json, limit, _RUN_COLUMNS)
        else:
            found = opened.run(run)
            if json:
                _print_json({"run": found.id, "summary": found.summary(), "meta": found.meta})
            else:
                _print_pairs(_headline(found), found.summary() | _told(found.meta))


# fmt: off
_RUN_COLUMNS = (
    "run", "name", "symbol", "replayed_at", "orders", "entered", "finished", "realized_pnl", "fees", "ticks", "path",
    "poll_interval", "source",
)
_ORDER_COLUMNS = (
    "order", "side", "status", "exit_reason", "entry_ts", "entry_price", "exit_ts", "exit_price", "filled_levels",
    "levels", "realized_pnl", "return_", "pnl_low", "pnl_high", "tag",
)
# fmt: on
"""What a table shows of a run and of an order; JSON has all."""


def _told(meta: Mapping[str, Any]) -> dict[str, Any]:
    told = {name: meta[name] for name in ("source", "path", "poll_interval", "outlier", "replayed_at")}
    return told | {"fills": meta["fills"], "actions": len(meta["actions"]), "warnings": meta["warnings"]}


@app.command("orders")
def orders_command(
    store: StoreFile,
    run: RunId = None,
    order: OrderNumber = None,
    status: Annotated[str | None, typer.Option("--status", help="closed, stopped, cancelled, active …")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """The orders of a run: how each began and ended, and what it earned. Of a session: how each stands, while it runs and after.

    \b
    smartorders orders runs.duckdb
    smartorders orders runs.duckdb 3f9c --status stopped --limit 0
    smartorders orders runs.duckdb --json | jq '.[] | .realized_pnl'
    """
    import polars as pl

    from .rows import Status
    from .trade_cli import session_rows

    if status is not None:
        status = _choice(status.upper(), [s.name for s in Status], "--status")
    if (living := session_rows(store, run, "orders")) is not None:
        _print_living(*living, order, status, limit, json)
        return
    with _open(store) as opened:
        id = _chosen(opened, run)
        frame = _only(opened.frame("orders", id), order, f"run {id}")
    if status is not None:
        frame = frame.filter(pl.col("status") == status)
    if frame["pnl_low"].null_count() == frame.height:
        frame = frame.drop("pnl_low", "pnl_high")
    _print_frame(f"Orders of run {id}", frame, json, limit, _ORDER_COLUMNS)


@app.command("events")
def events_command(
    store: StoreFile,
    run: RunId = None,
    order: OrderNumber = None,
    kind: Annotated[str | None, typer.Option("--kind", help="triggered, filled, break_even, action_refused …")] = None,
    status: Annotated[str | None, typer.Option("--status", help="Status of the order after the event.")] = None,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """What happened to the orders of a run or a session, event by event.

    \b
    smartorders events runs.duckdb --order 3
    smartorders events runs.duckdb 3f9c --kind triggered --limit 0
    """
    import polars as pl

    from .rows import Kind, Status
    from .trade_cli import session_rows

    if (living := session_rows(store, run, "events")) is not None:
        id, frame = living
    else:
        with _open(store) as opened:
            id = f"run {_chosen(opened, run)}"
            frame = opened.frame("events", id.removeprefix("run "))
    frame = _only(frame, order, id)
    if kind is not None:
        frame = frame.filter(pl.col("kind") == _choice(kind.lower(), [k.name.lower() for k in Kind], "--kind"))
    if status is not None:
        frame = frame.filter(pl.col("status") == _choice(status.upper(), [s.name for s in Status], "--status"))
    _print_frame(f"Events of {id}", frame, json, limit)


@app.command("compare")
def compare_command(
    store: StoreFile,
    a: Annotated[str, typer.Argument(metavar="A", help="Id of a run, or how it begins.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Id of the other.")],
    all: Annotated[bool, typer.Option("--all", help="Also the orders that came out the same.")] = False,
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Two runs, order by order: where they differ and what that made of the profit.

    \b
    smartorders compare runs.duckdb 3f9c 81ab
    """
    import polars as pl

    with _open(store) as opened:
        frame = opened.compare(a, b)
    shown = frame if all else frame.filter(pl.col("differs"))
    keep = tuple(name for name in shown.columns if not name.startswith(("entry_ts", "exit_ts")))
    _print_frame(f"{shown.height} of {frame.height} orders of {a} and {b}", shown, json, limit, keep)


@app.command("sql")
def sql_command(
    store: StoreFile,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT; the tables are in docs/schema.md.")],
    param: Annotated[list[str], typer.Option("--param", metavar="NAME=VALUE", help="Fills $NAME.")] = [],  # noqa: B006
    limit: Limit = None,
    json: Json = False,
) -> None:
    """Ask a store in SQL. Only reading, and only the store: no files, no network.

    \b
    smartorders sql runs.duckdb "SELECT status, count(*) FROM orders GROUP BY ALL"
    smartorders sql runs.duckdb 'FROM fills WHERE run = $r' --param r=3f9c12ab45cd
    """
    from .plan import toml_value

    params = {}
    for item in param:
        name, equals, value = item.partition("=")
        if not equals:
            raise _UsageError(f"--param {item}: must be NAME=VALUE; write --param run=3f9c12ab45cd")
        params[name] = toml_value(value)
    with _open(store) as opened:
        frame = opened.sql(query, params or None)
    _print_frame(None, frame, json, limit)


def _open(path: Path) -> Store:
    from .store import Store

    return Store(path, read_only=True)


def _chosen(store: Store, run: str | None) -> str:
    """The whole id of a run; of the one saved last if none is named."""
    if run is not None:
        return store.resolve(run)
    ids = store.runs()["run"]
    if ids.is_empty():
        raise StoreError(f"{store.path}: holds no runs; smartorders replay PLAN.toml --store {store.path} saves one")
    return str(ids[-1])


def _only(frame: pl.DataFrame, order: int | None, run: str) -> pl.DataFrame:
    import polars as pl

    if order is None:
        return frame
    if order not in frame["order"]:
        last = frame["order"].to_list()
        raise _UsageError(f"--order {order}: is not in {run}; its orders are 0 to {max(last, default=0)}")
    return frame.filter(pl.col("order") == order)


def _print_living(
    title: str, orders: list[dict[str, Any]], order: int | None, status: str | None, limit: int | None, as_json: bool
) -> None:
    """Orders of a session, as it describes them."""
    from rich.text import Text

    from .screen import orders_table

    if order is not None and order not in {each["order"] for each in orders}:
        raise _UsageError(f"--order {order}: is not in {title}; it has {len(orders)} orders, counted from 0")
    orders = [o for o in orders if order in (None, o["order"]) and status in (None, o["status"])]
    rows = (
        len(orders)
        if limit == 0 or (limit is None and as_json)
        else min(_ROWS if limit is None else limit, len(orders))
    )
    if as_json:
        _print_json(orders[:rows])
        return
    console = _console()
    console.print(Text(f"Orders of {title}", style="bold"))
    console.print(orders_table(orders[:rows], console.width))
    if rows < len(orders):
        print(f"{len(orders) - rows:,} more rows; --limit 0 shows all")


def _choice(value: str, known: list[str], option: str) -> str:
    if value not in known:
        close = get_close_matches(value, known, 1)
        hint = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
        raise _UsageError(f"{option} {value}: is not one of ours; {hint}")
    return value


# ---------------------------------------------------------------------------------------------------- share


@app.command("share")
def share_command(
    what: Annotated[
        str, typer.Argument(metavar="PLAN.toml|LINK|STORE", help="A plan to share, a link to open, a running session.")
    ],
    number: Annotated[int | None, typer.Argument(metavar="[ORDER]", min=0, help="Of the session on STORE.")] = None,
    order: Annotated[int | None, typer.Option("--order", min=0, help="Only this [[orders]] of the plan.")] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print TOML for a plan.")] = False,
    json: Json = False,
) -> None:
    """Make a link of the orders of a plan or of an order of a running session, or open one: what it says and what to mind.

    Nothing is placed.

    \b
    smartorders share plan.toml --order 0
    smartorders share lab.duckdb 0
    smartorders share solab1:eyJlbnRyeSI6….1f3a9c2e
    smartorders share solab1:eyJlbnRyeSI6….1f3a9c2e --toml >> plan.toml
    """
    from .links import SCHEME
    from .spec import SmartOrder

    if number is not None:
        from .trade_cli import share_of

        if order is not None or toml:
            raise _UsageError("--order and --toml are for plans and links; leave them out")
        share_of(Path(what), number, json)
        return
    is_link = what.strip().startswith(SCHEME) and not os.path.exists(what)
    if is_link and order is not None:
        raise _UsageError("--order: a link holds one order; leave --order out")
    orders = {0: SmartOrder.from_link(what)} if is_link else _orders_of(Path(what), order)
    for number, spec in orders.items():
        for warning in spec.warnings():
            _say("warning", str(warning) if is_link else f"orders[{number}].{warning}")
    if json:
        found = [{"order": n, "link": spec.share_link(), "spec": spec.to_dict()} for n, spec in orders.items()]
        _print_json(found[0]["spec"] if is_link else found)
    elif toml:
        print("\n".join(f"[[orders]]\n{spec.to_toml()}" for spec in orders.values()), end="")
    elif is_link:
        fields = {name: "on" if value == {} else value for name, value in orders[0].to_dict().items()}
        _print_pairs(str(orders[0]), fields)
    else:
        for spec in orders.values():
            print(spec.share_link())


def _orders_of(path: Path, order: int | None) -> dict[int, SmartOrder]:
    orders = dict(enumerate(_plan(path).parts.orders))
    if order is not None and order not in orders:
        raise PlanError(Problem("--order", order, f"the plan has {len(orders)} orders", f"use 0 to {len(orders) - 1}"))
    return orders if order is None else {order: orders[order]}


# ---------------------------------------------------------------------------------------------------- printing


def _print_json(data: Any) -> None:
    print(json.dumps(_plain(data), ensure_ascii=False, indent=None if isinstance(data, list) else 2, allow_nan=False))


def _plain(value: Any) -> Any:
    """What JSON has words for: text keys, no NaN, times as ISO text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int) else str(value)


def _print_frame(
    title: str | None, frame: pl.DataFrame, as_json: bool, limit: int | None, columns: Sequence[str] | None = None
) -> None:
    """A frame as JSON, all columns and rows, or as a table of some of them."""
    import polars as pl

    rows = (
        frame.height
        if limit == 0 or (limit is None and as_json)
        else min(_ROWS if limit is None else limit, frame.height)
    )
    shown = frame.head(rows)
    if as_json:
        times = pl.col(pl.Datetime("ns", "UTC"), pl.Datetime("us", "UTC"), pl.Datetime("ms", "UTC"))
        _print_json(shown.with_columns(times.dt.strftime("%Y-%m-%dT%H:%M:%S%.fZ")).to_dicts())
        return
    shown = shown.select(name for name in columns or frame.columns if name in frame.columns)
    _print_table(title, shown)
    if rows < frame.height:
        print(f"{frame.height - rows:,} more rows; --limit 0 shows all")


def _print_table(title: str | None, frame: pl.DataFrame) -> None:
    import polars as pl
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = []
    for name, dtype in frame.schema.items():
        utc = " (UTC)" if isinstance(dtype, pl.Datetime) else ""
        table.add_column(Text(name + utc), justify="right" if dtype.is_numeric() else "left", overflow="fold")
        columns.append(_cells(frame[name]))
    for row in zip(*columns, strict=True):
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in row))
    console = _console()
    if title:
        console.print(Text(title, style="bold"))
    console.print(table)


def _cells(series: pl.Series) -> list[str]:
    """A column as text: decimals aligned, times to the millisecond, nothing for null."""
    import polars as pl

    if isinstance(series.dtype, pl.Datetime):
        series = series.dt.strftime("%Y-%m-%d %H:%M:%S%.3f")
    if series.dtype.is_float():
        values = [abs(value) for value in series if value is not None and math.isfinite(value)]
        enough = 5 - math.floor(math.log10(max(values, default=0) or 1))  # six digits of the largest, cents at least
        digits = max((len(f"{value:.{max(enough, 2)}f}".rstrip("0").partition(".")[2]) for value in values), default=0)
        return ["" if value is None else f"{value:,.{digits}f}" for value in series]
    return ["" if value is None else str(value) for value in series]


def _print_pairs(title: str, pairs: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        table.add_row(Text(name.replace("_", " ").strip()), Text(_shown(value)))
    console = _console()
    console.print(Text(title, style="bold"))
    console.print(table)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list):
        return ", ".join(map(_shown, value)) or "–"
    return "–" if value is None else f"{value:,.6g}" if isinstance(value, float) else str(value)


def _console() -> Any:
    from rich.console import Console

    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if known else _WIDTH, highlight=False)


from . import panel_cli as panel_cli  # noqa: E402
from . import trade_cli as trade_cli  # noqa: E402  its commands join those above, and it needs what stands there
