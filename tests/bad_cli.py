"""Plans, links, command lines and stores that must be refused: `(name, callable of tmp_path, error class, part of its message)`.

A command line fails as `Failed`, whose text is its exit code and its line on stderr; stdout must then be empty.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import polars as pl
from typer.testing import CliRunner

from smartorders_lab.cli import app
from smartorders_lab.errors import DataError, LinkError, PlanError, StoreError
from smartorders_lab.findings import Sweep
from smartorders_lab.plan import Plan
from smartorders_lab.run import Run
from smartorders_lab.store import Store

SAMPLE = Path(__file__).parents[1] / "data" / "sample_trades.parquet"
ORDER = """
[[orders]]
symbol = "SOL/USDT"
side = "buy"
quantity = 1
take_profits = [["+0.2%", 50], ["+0.5%", 50]]
stop_loss = "-0.3%"
"""
TICKS = f"""
[ticks]
source = "{SAMPLE}"
symbol = "SOL/USDT"
stop = 2000
"""
PLAN = TICKS + ORDER + 'every = "10m"\n'
EDIT = '[[actions]]\nkind = "edit"\nat = 2024-03-04T00:10:00Z\nchanges = { stop_loss = "-0.2%" }\n'


class Failed(Exception):
    """What a command line that failed said."""


@cache
def run() -> Run:
    """A small run; its ticks are 2,000 synthetic trades."""
    return Plan.from_toml(PLAN, name="small").run()


def copy(like: Run | None = None, **changes: Any) -> Run:
    """A run with another id, or with other parts changed."""
    like = like or run()
    names = ("orders", "levels", "events", "fills", "specs", "meta", "id")
    return Run(**{name: changes.get(name, getattr(like, name)) for name in names})


@cache
def two_runs() -> bytes:
    """A store file that holds the runs aa11 and aa22."""
    with TemporaryDirectory() as folder:
        with Store(Path(folder) / "x.duckdb") as store:
            for id in ("aa11", "aa22"):
                store.save(copy(id=id))
        return (Path(folder) / "x.duckdb").read_bytes()


def plan(text: str, name: str = "plan") -> Callable[[Path], Any]:
    return lambda folder: Plan.from_toml(text, folder, name).run()


def overridden(key: str, value: Any = 1) -> Callable[[Path], Any]:
    return lambda _: Plan.from_toml(PLAN).override(key, value).run()


def swept(text: str) -> Callable[[Path], Any]:
    """A plan with these lines in its [sweep] table, swept."""
    return lambda folder: Plan.from_toml(f"{PLAN}[sweep]\n{text}\n", folder).sweep()


def plan_file(content: bytes) -> Callable[[Path], Any]:
    def call(folder: Path) -> Any:
        (folder / "plan.toml").write_bytes(content)
        return Plan.read(folder / "plan.toml")

    return call


def command(*args: str) -> Callable[[Path], Any]:
    """A command line in a folder with `plan.toml`, `runs.duckdb`, an empty store and `there.html`; `{…}` are their paths."""

    def call(folder: Path) -> Any:
        (folder / "plan.toml").write_text(PLAN)
        (folder / "there.html").write_text("")
        (folder / "sweep.toml").write_text(PLAN + '[sweep]\ngrid.stop_loss = ["-0.2%", "-0.3%"]\n')
        (folder / "runs.duckdb").write_bytes(two_runs())
        if "@empty.duckdb" in args:
            Store(folder / "empty.duckdb").close()
        result = CliRunner().invoke(app, [arg.replace("@", f"{folder}/") for arg in args])
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        raise Failed(f"exit {result.exit_code}: {result.stderr}")

    return call


def opened(use: Callable[[Store], Any], read_only: bool = False) -> Callable[[Path], Any]:
    """Something done with a store that holds the runs aa11 and aa22."""

    def call(folder: Path) -> Any:
        (folder / "runs.duckdb").write_bytes(two_runs())
        with Store(folder / "runs.duckdb", read_only) as store:
            return use(store)

    return call


def file(name: str, content: bytes = b"") -> Callable[[Path], Any]:
    def call(folder: Path) -> Any:
        (folder / name).write_bytes(content)
        return Store(folder / "x.duckdb")

    return call


def by_hand(*statements: str) -> Callable[[Path], Any]:
    """A store, opened and checked after somebody changed it in DuckDB."""

    def call(folder: Path) -> Any:
        (folder / "x.duckdb").write_bytes(two_runs())
        with duckdb.connect(str(folder / "x.duckdb")) as connection:
            for statement in statements:
                connection.execute(statement)
        with Store(folder / "x.duckdb") as store:
            store.verify()

    return call


def damaged(change: Callable[[bytearray], Any]) -> Callable[[Path], Any]:
    """A store whose bytes were changed, read to the end."""

    def call(folder: Path) -> Any:
        path = folder / "x.duckdb"
        content = bytearray(two_runs())
        change(content)
        path.write_bytes(content)
        with Store(path) as store:
            store.verify()

    return call


def zeroed(content: bytearray) -> None:
    """Damage in the middle, which opening alone does not meet."""
    content[3 * 4096 + 262144 : 3 * 4096 + 2 * 262144] = bytes(262144)


def foreign(folder: Path) -> Any:
    with duckdb.connect(str(folder / "x.duckdb")) as connection:
        connection.execute("CREATE TABLE trades (price DOUBLE)")
    return Store(folder / "x.duckdb")


def journal_of_another(folder: Path) -> Any:
    Store(folder / "x.duckdb").close()
    with duckdb.connect(str(folder / "y.duckdb")) as connection:
        connection.execute("CREATE TABLE t (a INTEGER)")
        (folder / "x.duckdb.wal").write_bytes((folder / "y.duckdb.wal").read_bytes())
    return Store(folder / "x.duckdb")


def twice(folder: Path) -> Any:
    with Store(folder / "x.duckdb"):
        return Store(folder / "x.duckdb")


def reader_beside_writer(folder: Path) -> Any:
    with Store(folder / "x.duckdb"):
        return Store(folder / "x.duckdb", read_only=True)


def closed(folder: Path) -> Any:
    store = Store(folder / "x.duckdb")
    store.close()
    return store.runs()


@contextlib.contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder that may not be written to; the superuser takes another user's place, since nothing stops him."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(name)
        finally:
            os.seteuid(user)
            os.chmod(name, 0o755)


def read_only_folder(_: Path) -> Any:
    with unprivileged() as folder:
        return Store(folder / "x.duckdb")


def link(text: str) -> Callable[[Path], Any]:
    from smartorders_lab.spec import SmartOrder

    return lambda _: SmartOrder.from_link(text)


ACCEPTED = "must be one statement that reads; write SELECT …"
CASES: list[tuple[str, Callable[[Path], Any], type[Exception], str]] = [
    # plans
    (
        "plan missing",
        lambda folder: Plan.read(folder / "no.toml"),
        PlanError,
        "no.toml: does not exist; check the path",
    ),
    ("plan a folder", lambda folder: Plan.read(folder), PlanError, "cannot be read: Is a directory; give a TOML file"),
    ("plan not UTF-8", plan_file(b"\xff\xfe\x00"), PlanError, "plan.toml: is not UTF-8 text; a plan is a TOML file"),
    (
        "plan not TOML",
        plan_file(b"[ticks]\nsource = trades.parquet\n"),
        PlanError,
        "is not TOML: Invalid value (at line 2, column 10); text and times with a sign or unit go in quotes",
    ),
    ("plan of nothing", plan(""), PlanError, "ticks.source: is required; give source=..."),
    ("plan without orders", plan(TICKS), PlanError, "orders: is required; add an [[orders]] table"),
    (
        "orders a single table",
        plan(TICKS + '[orders]\nside = "buy"'),
        PlanError,
        "orders: must be a list of tables; write [[orders]] above each",
    ),
    (
        "orders numbers",
        plan("orders = [1]\n" + TICKS),
        PlanError,
        "orders[0] = 1: must be a table; write [[orders]] above its fields",
    ),
    (
        "ticks text",
        plan("ticks = 'x.parquet'\n" + ORDER),
        PlanError,
        "ticks = 'x.parquet': must be a table; write [ticks] above its fields",
    ),
    ("table unknown", plan(PLAN + "[fill]\n"), PlanError, "fill: is not a table of a plan; did you mean fills?"),
    (
        "ticks key unknown",
        overridden("ticks.simbol"),
        PlanError,
        "ticks.simbol = 1: is not a field; did you mean symbol?",
    ),
    (
        "order key unknown",
        overridden("orders.0.stoploss"),
        PlanError,
        "orders[0].stoploss = 1: is not a field; did you mean stop_loss?",
    ),
    (
        "fills key unknown",
        overridden("fills.latnecy"),
        PlanError,
        "fills.latnecy = 1: is not a field; did you mean latency?",
    ),
    (
        "order wrong",
        overridden("orders.0.stop_loss", "3%%"),
        PlanError,
        "orders[0].stop_loss.target = '-3%%': is not a percentage; write 2% or 0.02",
    ),
    (
        "order with nothing to do",
        plan(TICKS + '[[orders]]\nsymbol = "SOL/USDT"\nside = "buy"\nquantity = 1\n'),
        PlanError,
        "orders[0]: leaves nothing to manage: no take-profit, stop, trailing stop or max_hold;",
    ),
    (
        "sort a word",
        overridden("ticks.sort", "yes"),
        PlanError,
        "ticks.sort = 'yes': must be true or false; write it without quotes",
    ),
    (
        "source a number",
        overridden("ticks.source", 5),
        PlanError,
        'ticks.source = 5: must be a file, a glob, a list of files or a query; write source = "trades.parquet"',
    ),
    (
        "columns a list",
        overridden("ticks.columns", ["px"]),
        PlanError,
        "ticks.columns = ['px']: must name columns; write columns = { price = \"px\" }",
    ),
    (
        "increment negative",
        overridden("ticks.instrument", {"price_increment": -1}),
        PlanError,
        "ticks.instrument: Instrument.price_increment = -1: must be above 0",
    ),
    (
        "name a number",
        overridden("replay.name", 5),
        PlanError,
        'replay.name = 5: must be text; write it in quotes: "…"',
    ),
    (
        "poll interval a word",
        overridden("replay.poll_interval", "fast"),
        PlanError,
        "replay.poll_interval = 'fast': is not a duration; write 50ms, 1.5s, 2h",
    ),
    (
        "start negative",
        overridden("orders.0.start", -1),
        PlanError,
        "orders[0].start = -1: must be a tick number from 0 on, or a time",
    ),
    (
        "start without a zone",
        overridden("orders.0.start", "2024-03-04T00:10"),
        PlanError,
        "orders[0].start = '2024-03-04T00:10': has no time zone; add one",
    ),
    (
        "starts and every",
        overridden("orders.0.starts", [0, 5]),
        PlanError,
        "orders[0].starts: cannot stand beside every; keep one",
    ),
    (
        "starts empty",
        plan(TICKS + ORDER + "starts = []"),
        PlanError,
        "orders[0].starts: is empty; give at least one, or leave it out",
    ),
    (
        "starts twice",
        overridden("replay.starts", 5),
        PlanError,
        "orders[0].every: cannot stand beside replay.starts; keep one",
    ),
    (
        "starts of another length",
        plan(TICKS + ORDER + "[replay]\nstarts = [0, 1, 2]"),
        PlanError,
        "replay.starts: has 3 values for 1 orders; give one for all, or one for each [[orders]]",
    ),
    ("every a nanosecond", overridden("orders.0.every", 1), PlanError, "orders[0].every = '1ns': would make "),
    (
        "action on no order",
        plan(TICKS + ORDER + EDIT + "order = 3"),
        PlanError,
        "actions[0].order = 3: there are 1 [[orders]]; use 0 to 0",
    ),
    (
        "action on a repeated order",
        plan(PLAN + EDIT),
        PlanError,
        "actions[0].order = 0: this order starts more than once; actions need an order with one start",
    ),
    (
        "action without a size",
        plan(TICKS + ORDER + '[[actions]]\nkind = "add_funds"\nat = 2024-03-04T00:10:00Z'),
        PlanError,
        "actions[0]: add_funds needs exactly one of quantity and cost",
    ),
    ("store without a path", plan(PLAN + "[store]"), PlanError, "store.path: is required; give path=..."),
    (
        "order of another symbol",
        overridden("orders.0.symbol", "ETH/USDT"),
        PlanError,
        "orders[0].symbol = 'ETH/USDT': is not the instrument's SOL/USDT; use its own",
    ),
    ("ticks missing", overridden("ticks.source", "no.parquet"), DataError, "no.parquet: no such file; check the path"),
    # sweeps
    (
        "sweep without a table",
        lambda _: Plan.from_toml(PLAN).sweep(),
        PlanError,
        "sweep: is required to sweep; add a [sweep] table",
    ),
    ("sweep key unknown", swept("entires = 5"), PlanError, "sweep.entires = 5: is not a field; did you mean entries?"),
    ("sweep of no order", swept("order = 2"), PlanError, "sweep.order = 2: there are 1 [[orders]]; use 0 to 0"),
    (
        "sweep without entries",
        lambda _: Plan.from_toml(TICKS + ORDER + "[sweep]\n").sweep(),
        PlanError,
        'sweep.entries: is required; write entries = "every 1h"',
    ),
    (
        "entries at random without a number",
        swept("entries = { seed = 3 }"),
        PlanError,
        "sweep.entries: must say how many; write entries = { random = 1000",
    ),
    (
        "entries at random, none",
        swept("entries = { random = 0 }"),
        PlanError,
        "n = 0: must be a whole number of at least 1",
    ),
    (
        "grid a number",
        swept("grid = 5"),
        PlanError,
        "sweep.grid = 5: must be lists of values by field; write stop_loss = ",
    ),
    (
        "grid of a value",
        swept('grid.stop_loss = "-1%"'),
        PlanError,
        "sweep.grid.stop_loss = '-1%': must be a list of values, at least one",
    ),
    (
        "grid key unknown",
        swept('grid.stop_los = ["-1%"]'),
        PlanError,
        "sweep.grid.stop_los: is not a field; did you mean stop_loss?",
    ),
    (
        "grid key of a part unknown",
        swept('grid.trailing_stop.calback_rate = ["1%"]'),
        PlanError,
        "sweep.grid.trailing_stop.calback_rate: is not a field; did you mean trailing_stop.callback_rate?",
    ),
    (
        "grid of symbols",
        swept('grid.symbol = ["ETH/USDT"]'),
        PlanError,
        "sweep.grid.symbol: follows the ticks; give several: ticks=",
    ),
    (
        "grid of a part and of the whole",
        swept('[sweep.grid]\nstop_loss = ["-1%"]\n"stop_loss.timeout" = ["1s"]'),
        PlanError,
        "sweep.grid.stop_loss: cannot stand beside stop_loss.timeout, which is a part of it; keep one of them",
    ),
    (
        "grid with invalid combinations",
        swept('grid.stop_loss = ["-1%", "+5%"]'),
        PlanError,
        "sweep.grid[1].stop_loss.target = '+5%': must be below the entry for a long (in stop_loss=+5%);",
    ),
    (
        "by unknown",
        swept('by = ["stop"]\ngrid.stop_loss = ["-1%"]'),
        PlanError,
        "sweep.by = 'stop': is not in the grid;",
    ),
    ("by a number", swept("by = 5"), PlanError, 'sweep.by = 5: must be "combination" or names of the grid'),
    (
        "entries that are no times",
        swept('entries = ["noon"]'),
        PlanError,
        "sweep.entries = ['noon']: is not a time; write 2024-08-08T23:55:00Z",
    ),
    (
        "entries every nothing",
        swept('entries = "every day"'),
        DataError,
        "entries = 'every day': is not a duration; write 50ms, 1.5s, 2h",
    ),
    (
        "entries behind the ticks",
        swept('entries = ["2030-01-01T00:00Z"]'),
        DataError,
        "entries[0] = 1893456000000000000: lies outside the",
    ),
    (
        "more entries at random than ticks",
        swept("entries = { random = 9000 }"),
        DataError,
        "entries: random_entries(9000) of 2000 ticks; ask for fewer",
    ),
    (
        "metric unknown",
        command("sweep", "@sweep.toml", "--metric", "sharp"),
        Failed,
        "exit 3: error: metric = 'sharp': must be one of",
    ),
    (
        "heatmap of no page",
        command("sweep", "@sweep.toml", "--heatmap", "@x.png"),
        Failed,
        "must be a .html file; write x.html",
    ),
    ("sweep into a file", command("sweep", "@sweep.toml", "--store", "@x.parquet"), Failed, "exit 4: error: store = "),
    (
        "sweep of no such folder",
        lambda folder: Sweep.read(folder / "no"),
        StoreError,
        "no: holds no sweep (no manifest.json); check the path",
    ),
    (
        "sweep of a store without",
        opened(lambda store: store.sweep("ab")),
        StoreError,
        "sweep 'ab': no such sweep; store.sweeps() lists",
    ),
    (
        "override of no table",
        overridden("order.0.side"),
        PlanError,
        "order.0.side: order is not a table of a plan; did you mean orders?",
    ),
    (
        "override without a name",
        overridden("orders..side"),
        PlanError,
        "override = 'orders..side': is not a key; write it like orders.0.stop_loss or fills.latency",
    ),
    (
        "override beyond the list",
        overridden("orders[7].side"),
        PlanError,
        "orders.7: orders is a list of 1; use orders.0 to orders.0",
    ),
    (
        "override inside a value",
        overridden("orders.0.side.kind"),
        PlanError,
        "orders.0.side.kind: orders.0.side is 'buy', which has no parts; set orders.0.side as a whole",
    ),
    (
        "override of no action",
        overridden("actions.0.at"),
        PlanError,
        "actions: the plan has no [[actions]]; add one to the file",
    ),
    # links
    (
        "link without its end",
        link("solab1:eyJzaWRlIjoi"),
        LinkError,
        "is damaged: the checksum does not match; copy the whole link again",
    ),
    (
        "link of another tool",
        link("3commas:abc"),
        LinkError,
        "link = '3commas:abc': is not a share link: it does not start with solab1:; paste the whole link",
    ),
    (
        "link newer",
        link("solab7:abc.def"),
        LinkError,
        "link = 'solab7': has version 7, this library reads 1; update smartorders_lab",
    ),
    ("link empty", link(""), LinkError, "link = '': is not a share link"),
    # command lines
    ("command unknown", command("replya"), Failed, "exit 2: error: no such command replya; did you mean replay?\n"),
    (
        "option unknown",
        command("replay", "@plan.toml", "--jsn"),
        Failed,
        "exit 2: error: no such option: --jsn; did you mean --json?\n",
    ),
    (
        "argument missing",
        command("replay"),
        Failed,
        "exit 2: error: missing argument PLAN.toml; smartorders replay --help shows examples\n",
    ),
    (
        "option without a value",
        command("orders", "@runs.duckdb", "--order"),
        Failed,
        "exit 2: error: option --order requires an argument",
    ),
    (
        "number a word",
        command("orders", "@runs.duckdb", "--order", "two"),
        Failed,
        "exit 2: error: invalid value for --order: ",
    ),
    (
        "order that the run does not have, orders",
        command("orders", "@runs.duckdb", "--order", "99999"),
        Failed,
        "exit 2: error: --order 99999: is not in run ",
    ),
    (
        "order that the run does not have, events",
        command("events", "@runs.duckdb", "--order", "99999"),
        Failed,
        "exit 2: error: --order 99999: is not in run ",
    ),
    (
        "arguments too many",
        command("runs", "@runs.duckdb", "a", "b"),
        Failed,
        "exit 2: error: got unexpected extra argument(s) (b)",
    ),
    (
        "set without a value",
        command("replay", "@plan.toml", "--set", "fills.latency"),
        Failed,
        "exit 2: error: --set = 'fills.latency': must be KEY=VALUE; write --set orders.0.stop_loss=-4%\n",
    ),
    (
        "set of no key",
        command("replay", "@plan.toml", "--set", "fill.latency=1s"),
        Failed,
        "exit 2: error: fill.latency: fill is not a table of a plan; did you mean fills?\n",
    ),
    (
        "two problems, two lines",
        command("replay", "@plan.toml", "--set", "orders.0.side=long", "--set", "fills.latency=x"),
        Failed,
        "exit 2: error: orders[0].side = 'long': must be one of 'buy' or 'sell'; write 'buy'\n"
        "error: fills.latency = 'x': is not a duration;",
    ),
    (
        "store and no store",
        command("replay", "@plan.toml", "--store", "@x.duckdb", "--no-store"),
        Failed,
        "exit 2: error: --store and --no-store cannot stand together; keep one\n",
    ),
    (
        "chart there already",
        command("replay", "@plan.toml", "--chart", "@there.html"),
        Failed,
        "there.html: exists already; take another name, or pass --force\n",
    ),
    (
        "chart not HTML",
        command("replay", "@plan.toml", "--chart", "@chart.png"),
        Failed,
        "chart.png: must be a .html file; write chart.html\n",
    ),
    (
        "chart nowhere",
        command("replay", "@plan.toml", "--chart", "@no/chart.html"),
        Failed,
        "does not exist; create it first\n",
    ),
    ("ticks of the line missing", command("replay", "@plan.toml", "--ticks", "@no.csv"), Failed, "exit 3: error: "),
    (
        "store of the line nowhere",
        command("replay", "@plan.toml", "--store", "@no/x.duckdb"),
        Failed,
        "exit 4: error: ",
    ),
    (
        "store of the line missing",
        command("runs", "@no.duckdb"),
        Failed,
        "no.duckdb: does not exist; check the path, or save a run there first\n",
    ),
    (
        "store of the line a plan",
        command("runs", "@plan.toml"),
        Failed,
        "plan.toml: is not a DuckDB file; give the path of a store, or a new one\n",
    ),
    (
        "run unknown",
        command("orders", "@runs.duckdb", "zz"),
        Failed,
        "runs.duckdb: run 'zz': no such run; store.runs() lists those there are\n",
    ),
    (
        "run not unique",
        command("events", "@runs.duckdb", "aa"),
        Failed,
        "runs.duckdb: run 'aa': 2 runs begin like this; take one of aa11, aa22\n",
    ),
    ("store empty", command("orders", "@empty.duckdb"), Failed, "holds no runs; smartorders replay PLAN.toml --store "),
    (
        "kind unknown",
        command("events", "@runs.duckdb", "aa11", "--kind", "fill"),
        Failed,
        "exit 2: error: --kind fill: is not one of ours; did you mean filled?\n",
    ),
    (
        "status unknown",
        command("orders", "@runs.duckdb", "aa11", "--status", "done"),
        Failed,
        "exit 2: error: --status DONE: is not one of ours; use one of PENDING, ACTIVE, ",
    ),
    (
        "query that writes",
        command("sql", "@runs.duckdb", "DROP TABLE runs"),
        Failed,
        f"exit 4: error: query: DROP: {ACCEPTED}\n",
    ),
    (
        "parameter without a value",
        command("sql", "@runs.duckdb", "SELECT $a", "--param", "a"),
        Failed,
        "exit 2: error: --param a: must be NAME=VALUE; write --param run=3f9c12ab45cd\n",
    ),
    (
        "share of no order",
        command("share", "@plan.toml", "--order", "4"),
        Failed,
        "exit 2: error: --order = 4: the plan has 1 orders; use 0 to 0\n",
    ),
    (
        "share of a broken link",
        command("share", "solab1:abc.def"),
        Failed,
        "exit 2: error: link = 'solab1:abc.def': is damaged: the checksum does not match; copy the whole link again\n",
    ),
    (
        "share of one link of many",
        command("share", "solab1:abc.def", "--order", "1"),
        Failed,
        "exit 2: error: --order: a link holds one order; leave --order out\n",
    ),
    ("share of nothing there", command("share", "@no.toml"), Failed, "no.toml: does not exist; check the path\n"),
    (
        "fetch from nowhere",
        command("fetch", "trades", "binanc", "SOL/USDT", "--start", "1d", "--out", "@x.parquet"),
        Failed,
        "exit 3: error: exchange = 'binanc': must be one of ",
    ),
    (
        "fetch of a bad symbol",
        command("fetch", "bars", "okx", "SOLUSDT", "1m", "--start", "1d", "--out", "@x.parquet"),
        Failed,
        "exit 3: error: symbol = 'SOLUSDT': must be BASE/QUOTE; write BTC/USDT",
    ),
    (
        "fetch into a CSV",
        command("fetch", "trades", "okx", "SOL/USDT", "--start", "1d", "--out", "@x.csv"),
        Failed,
        "must be a Parquet file; write x.parquet\n",
    ),
    (
        "fetch over something else",
        command("fetch", "trades", "okx", "SOL/USDT", "--start", "1d", "--out", str(SAMPLE)),
        Failed,
        "take another name, or replace it with --force\n",
    ),
    # stores
    (
        "store without a path",
        lambda _: Store(""),
        StoreError,
        "path = '': a store is a file; give its path, as in runs.duckdb",
    ),
    (
        "store in memory",
        lambda _: Store(":memory:"),
        StoreError,
        "path = ':memory:': a store is a file; give its path, as in runs.duckdb",
    ),
    ("store a folder", lambda folder: Store(folder), StoreError, "is a folder; give the path of a file in it, as in "),
    ("store nowhere", lambda folder: Store(folder / "no" / "x.duckdb"), StoreError, "does not exist; create it first"),
    (
        "store to read missing",
        lambda folder: Store(folder / "x.duckdb", read_only=True),
        StoreError,
        "x.duckdb: does not exist; check the path, or save a run there first",
    ),
    (
        "store in a folder to read",
        read_only_folder,
        StoreError,
        "x.duckdb: cannot be written: Permission denied; open it with read_only=True, or take another folder",
    ),
    (
        "store an empty file",
        file("x.duckdb"),
        StoreError,
        "x.duckdb: is an empty file, not a store; remove it, or give another path",
    ),
    (
        "store a text",
        file("x.duckdb", b"a,b\n1,2\n" * 5000),
        StoreError,
        "x.duckdb: is not a DuckDB file; give the path of a store, or a new one",
    ),
    (
        "store SQLite",
        file("x.duckdb", b"SQLite format 3\0" + bytes(8176)),
        StoreError,
        "x.duckdb: is not a DuckDB file; give the path of a store, or a new one",
    ),
    (
        "journal without its store",
        file("x.duckdb.wal", b"\0" * 100),
        StoreError,
        "x.duckdb: is missing, but its journal x.duckdb.wal is there; put the two together again",
    ),
    (
        "journal of another file",
        journal_of_another,
        StoreError,
        "x.duckdb: its journal (.wal) belongs to another file; put the right one beside it",
    ),
    (
        "DuckDB file of something else",
        foreign,
        StoreError,
        "x.duckdb: is a DuckDB file but not a store: it holds the tables trades; give another path",
    ),
    (
        "schema newer",
        by_hand("UPDATE store SET schema_version = 7, created_by = 'smartorders_lab 3.1'"),
        StoreError,
        "x.duckdb: has schema 7, written by smartorders_lab 3.1; smartorders_lab 0.1.0 reads schema 3; "
        "update it: pip install -U smartorders_lab",
    ),
    (
        "table with another column",
        by_hand("ALTER TABLE fills ADD COLUMN note VARCHAR"),
        StoreError,
        "x.duckdb: table fills was changed by hand or is missing; restore a copy, or start a new store",
    ),
    (
        "table gone",
        by_hand("DROP TABLE levels"),
        StoreError,
        "x.duckdb: table levels was changed by hand or is missing; restore a copy, or start a new store",
    ),
    ("rows gone", by_hand("DELETE FROM fills WHERE seq = 2"), StoreError, "rows of fills were saved, "),
    (
        "rows of no run",
        by_hand("INSERT INTO specs VALUES ('bb', 0, '{}')"),
        StoreError,
        "x.duckdb: run bb: 0 rows of specs were saved, 1 are there; restore a copy, or replay into a new store",
    ),
    (
        "events moved to another order",
        by_hand('UPDATE events SET "order" = 1 WHERE "order" = 0 AND seq = 1'),
        StoreError,
        "delete the run and replay it again",
    ),
    (
        "store cut short",
        damaged(lambda content: content.__delitem__(slice(len(content) // 2, None))),
        StoreError,
        "x.duckdb: is damaged (Could not read enough bytes",
    ),
    (
        "store with a flipped bit",
        damaged(lambda content: content.__setitem__(12300, content[12300] ^ 1)),
        StoreError,
        "x.duckdb: is damaged (Corrupt database file",
    ),
    ("store zeroed in the middle", damaged(zeroed), StoreError, "x.duckdb: is damaged ("),
    ("store open in this process", twice, StoreError, "x.duckdb: is open in this process already (pid "),
    (
        "store to read while it is written",
        reader_beside_writer,
        StoreError,
        "close that Store first, or use it from here",
    ),
    ("store closed", closed, StoreError, "x.duckdb: this Store is closed; open it again with Store("),
    (
        "save to a reader",
        opened(lambda store: store.save(run()), read_only=True),
        StoreError,
        "runs.duckdb: is open for reading only; open it with Store(",
    ),
    (
        "delete from a reader",
        opened(lambda store: store.delete("aa11"), read_only=True),
        StoreError,
        "runs.duckdb: is open for reading only; open it with Store(",
    ),
    (
        "id of another run",
        opened(lambda store: store.save(copy(id="aa11", meta=run().meta | {"name": "other"}))),
        StoreError,
        "runs.duckdb: run aa11: another run is stored under this id; delete it first "
        "with store.delete('aa11'), or give this one another id",
    ),
    (
        "frame with a column more",
        opened(lambda store: store.save(copy(id="b", fills=run().fills.with_columns(x=1)))),
        StoreError,
        "fills.x: Int32: a stored run has the columns that replay() gave it; undo the change",
    ),
    (
        "frame with a column less",
        opened(lambda store: store.save(copy(id="b", events=run().events.drop("tick")))),
        StoreError,
        "events.tick: is missing: a stored run has the columns that replay() gave it; undo the change",
    ),
    (
        "frame with times in µs",
        opened(
            lambda store: store.save(
                copy(id="b", events=run().events.with_columns(pl.col("ts").dt.cast_time_unit("us")))
            )
        ),
        StoreError,
        "events.ts: Datetime(time_unit='us', time_zone='UTC'): a stored run has",
    ),
    (
        "specs one short",
        opened(lambda store: store.save(copy(id="b", specs=run().specs[1:]))),
        StoreError,
        "give one for each",
    ),
    (
        "meta of objects",
        opened(lambda store: store.save(copy(id="b", meta=run().meta | {"when": object()}))),
        StoreError,
        "run b: meta cannot be stored: Object of type object is not JSON serializable; keep text, numbers, lists and dicts in it",
    ),
    (
        "meta with numbers for keys",
        opened(lambda store: store.save(copy(id="b", meta=run().meta | {"x": {1: 2}}))),
        StoreError,
        "run b: meta does not survive JSON; keep text, numbers, lists and dicts with text keys in it",
    ),
    (
        "run not there",
        opened(lambda store: store.run("bb")),
        StoreError,
        "runs.duckdb: run 'bb': no such run; store.runs() lists those there are",
    ),
    (
        "run of an empty id",
        opened(lambda store: store.run("")),
        StoreError,
        "runs.duckdb: run '': no such run; store.runs() lists those there are",
    ),
    (
        "run of half an id",
        opened(lambda store: store.delete("aa")),
        StoreError,
        "runs.duckdb: run 'aa': 2 runs begin like this; take one of aa11, aa22",
    ),
    (
        "frame unknown",
        opened(lambda store: store.frame("trades", "aa11")),
        StoreError,
        "name = 'trades': a run has the frames orders, levels, events, fills; use one of them",
    ),
    ("query deletes", opened(lambda store: store.sql("DELETE FROM runs")), StoreError, f"query: DELETE: {ACCEPTED}"),
    (
        "query deletes while it explains",
        opened(lambda store: store.sql("EXPLAIN ANALYZE DELETE FROM runs")),
        StoreError,
        "transaction is launched in read-only mode",
    ),
    (
        "query of two",
        opened(lambda store: store.sql("SELECT 1; DROP TABLE runs")),
        StoreError,
        f"query: 2 statements: {ACCEPTED}",
    ),
    ("query of none", opened(lambda store: store.sql("-- nothing")), StoreError, f"query: 0 statements: {ACCEPTED}"),
    ("query not SQL", opened(lambda store: store.sql("SELEC 1")), StoreError, "query: syntax error at or near "),
    (
        "query of an unknown column",
        opened(lambda store: store.sql("SELECT pnl FROM orders")),
        StoreError,
        'query: Referenced column "pnl" not found in FROM clause; Candidate bindings: ',
    ),
    (
        "query of a file",
        opened(lambda store: store.sql("SELECT * FROM read_csv('/etc/passwd')")),
        StoreError,
        "file system operations are disabled by configuration",
    ),
    (
        "query of a variable",
        opened(lambda store: store.sql("SELECT * FROM ORDER_FRAME")),
        StoreError,
        "query: Table with name ORDER_FRAME does not exist",
    ),
    (
        "query that attaches",
        opened(lambda store: store.sql("ATTACH 'y.duckdb'")),
        StoreError,
        f"query: ATTACH: {ACCEPTED}",
    ),
    (
        "query that unlocks",
        opened(lambda store: store.sql("SET enable_external_access = true")),
        StoreError,
        f"query: SET: {ACCEPTED}",
    ),
    (
        "query without its parameter",
        opened(lambda store: store.sql("SELECT * FROM orders WHERE run = $run")),
        StoreError,
        "query: Values were not provided for the following parameters: run",
    ),
]
