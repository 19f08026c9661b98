"""The command line and plans: what is printed, where, and with which exit code. What is refused is in bad_cli.py."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from bad_cli import EDIT, ORDER, PLAN, SAMPLE, TICKS, two_runs
from bad_cli import run as small_run
from typer.testing import CliRunner

import smartorders_lab as so
from smartorders_lab import cli
from smartorders_lab.cli import app
from smartorders_lab.plan import Plan, toml_value
from smartorders_lab.store import Store
from smartorders_lab.times import instant_ns

SCRIPT = Path(sys.executable).with_name("smartorders")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder, the working one, with plan.toml and runs.duckdb (runs aa11 and aa22)."""
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "runs.duckdb").write_bytes(two_runs())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def said(*args: str, code: int = 0) -> str:
    """What a command printed; stderr must be empty if it went well."""
    result = CliRunner().invoke(app, list(args))
    assert (result.exit_code, result.stderr if code == 0 else "") == (code, ""), result.stderr
    return result.stdout


def loud(*args: str) -> tuple[str, str]:
    """What a command that went well printed, on both channels."""
    result = CliRunner().invoke(app, list(args))
    assert result.exit_code == 0
    return result.stdout, result.stderr


def rows(table: str) -> list[list[str]]:
    """The cells of a printed table, header first."""
    lines = [line for line in table.splitlines() if line.strip() and "─" not in line]
    return [re.split(r" {2,}", line.strip()) for line in lines]


# ---------------------------------------------------------------------------------------------------- replay


def test_replay_prints_the_summary_and_says_where_the_run_is(here):
    out = said("replay", "plan.toml", "--store", "new.duckdb")
    with Store("new.duckdb") as store:
        (id,) = store.runs()["run"]
        summary = store.run(id).summary()
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0].startswith(f"Run {id} “plan” · SOL/USDT · 2,000 ticks · 2024-03-04T00:00:00.648Z to 2024-03-04T02:")
    assert f"orders          {summary['orders']}" in lines
    assert f"realized pnl    {summary['realized_pnl']:,.6g}" in lines
    assert lines[-1] == f"stored in new.duckdb as {id}"


def test_replay_json_is_json_alone(here):
    answer = json.loads(said("replay", "plan.toml", "--json"))
    assert answer["store"] is None
    run = small_run()
    assert answer["summary"] == json.loads(json.dumps(run.summary()))
    assert answer["meta"]["data_hash"] == run.meta["data_hash"]
    assert not list(here.glob("*.duckdb.lock"))


def test_set_changes_any_value(here):
    sets = {
        "orders.0.stop_loss": "-1%",
        "orders[0].quantity": "2.5",
        "orders.0.every": "30m",
        "orders.0.take_profits": '[["+1%", 100]]',
        "fills.latency": "200ms",
        "fills.touch": "true",
        "replay.name": "wide stop",
        "ticks.stop": "1500",
    }
    args = [arg for key, value in sets.items() for arg in ("--set", f"{key}={value}")]
    meta = json.loads(said("replay", "plan.toml", "--json", "--store", "x.duckdb", *args))["meta"]
    assert (meta["name"], meta["ticks"], meta["fills"]) == ("wide stop", 1500, {"latency": "200ms", "touch": True})
    with Store("x.duckdb") as store:
        spec = store.run(store.runs()["run"][0]).specs[0]
    assert str(spec) == "buy 2.5 SOL/USDT market tp +1%:100 sl -1%"


def test_ticks_and_store_of_the_line_start_from_the_working_folder(here):
    (here / "plans").mkdir()
    (here / "plans" / "p.toml").write_text(
        '[ticks]\nsource = "nothing.csv"\nsymbol = "SOL/USDT"\n' + ORDER + '[store]\npath = "its.duckdb"\n'
    )
    pl.read_parquet(SAMPLE).head(100).write_parquet(here / "few.parquet")
    assert "stored in plans/its.duckdb" in said("replay", "plans/p.toml", "--ticks", "few.parquet")
    assert "stored in mine.duckdb" in said("replay", "plans/p.toml", "--ticks", "few.parquet", "--store", "mine.duckdb")
    out = said("replay", "plans/p.toml", "--ticks", "SELECT * FROM 'few.parquet' LIMIT 50", "--no-store")
    assert "50 ticks" in out
    assert out.rstrip().endswith("not stored; --store FILE.duckdb keeps a run")
    assert (here / "plans" / "its.duckdb").exists()


def test_warnings_go_to_stderr(here):
    out, err = loud(
        "replay",
        "plan.toml",
        "--json",
        "--set",
        "orders.0.break_even=true",
        "--set",
        'orders.0.take_profits=[["+1%", 100]]',
    )
    assert json.loads(out)["meta"]["warnings"]
    assert err.startswith(
        "warning: break_even: has fewer than 2 levels: it fires when the position is already closed; add a level"
    )


def test_a_chart_is_drawn_and_replaced_only_by_force(here):
    pytest.importorskip("plotly")
    assert "order 1 drawn in order.html" in said("replay", "plan.toml", "--chart", "order.html", "--order", "1")
    assert (here / "order.html").read_text().lstrip().startswith("<!")
    said("replay", "plan.toml", "--chart", "order.html", code=2)
    said("replay", "plan.toml", "--chart", "order.html", "--force")


# ---------------------------------------------------------------------------------------------------- stores


def test_runs_lists_runs_in_aligned_columns(here):
    header, first, second = rows(said("runs", "runs.duckdb"))[1:]
    run = small_run()
    assert header[:6] == ["run", "name", "symbol", "replayed_at (UTC)", "orders", "entered"]
    assert [first[0], second[0]] == ["aa11", "aa22"]
    assert first[1:3] == ["small", "SOL/USDT"]
    assert first[4] == str(run.orders.height)
    lines = said("runs", "runs.duckdb").splitlines()
    assert len({line.rstrip().rfind("sample_trades.parquet") for line in lines if "aa" in line}) == 1
    assert [row["run"] for row in json.loads(said("runs", "runs.duckdb", "--json"))] == ["aa11", "aa22"]


def test_one_run_and_the_check(here):
    out = said("runs", "runs.duckdb", "aa1")
    assert "Run aa11 “small”" in out
    assert re.search(r"source +sample_trades.parquet \[0:2000\]", out)
    assert json.loads(said("runs", "runs.duckdb", "aa2", "--json"))["run"] == "aa22"
    checked = said("runs", "runs.duckdb", "--check")
    assert checked.startswith("runs.duckdb: whole; 2 runs, ")
    assert json.loads(said("runs", "runs.duckdb", "--check", "--json"))["rows"]["runs"] == 2


def test_orders_of_a_run(here):
    run = small_run()
    table = rows(said("orders", "runs.duckdb", "aa11"))
    assert table[0] == ["Orders of run aa11"]
    assert table[1][:4] == ["order", "side", "status", "exit_reason"]
    assert len(table) == 2 + run.orders.height
    assert said("orders", "runs.duckdb").startswith("Orders of run aa22")
    stopped = json.loads(said("orders", "runs.duckdb", "aa11", "--status", "stopped", "--json"))
    assert [row["order"] for row in stopped] == run.orders.filter(pl.col("status") == "STOPPED")["order"].to_list()
    assert stopped[0]["entry_ts"].endswith("Z")
    assert (
        pl.Series([stopped[0]["created_ts"]]).str.to_datetime(time_unit="ns")[0]
        == run.orders["created_ts"][stopped[0]["order"]]
    )
    (only,) = json.loads(said("orders", "runs.duckdb", "aa11", "--order", "2", "--json"))
    assert only["realized_pnl"] == run.orders["realized_pnl"][2]


def test_events_of_an_order(here):
    run = small_run()
    events = json.loads(said("events", "runs.duckdb", "aa11", "--order", "1", "--json"))
    assert [event["kind"] for event in events] == run.events.filter(pl.col("order") == 1)["kind"].to_list()
    assert events[0]["stop"] is None
    table = rows(said("events", "runs.duckdb", "aa11", "--kind", "triggered", "--limit", "3"))
    assert table[1][:5] == ["order", "seq", "ts (UTC)", "tick", "kind"]
    assert len(table) == 2 + 3 + 1
    assert re.fullmatch(r"\d+ more rows; --limit 0 shows all", " ".join(table[-1]))
    held = json.loads(said("events", "runs.duckdb", "aa11", "--status", "partially_closed", "--json"))
    assert {event["status"] for event in held} == {"PARTIALLY_CLOSED"}


def test_numbers_are_aligned_at_their_point(here):
    lines = said("events", "runs.duckdb", "aa11", "--order", "1").splitlines()
    at = lines[2].index("price") + len("price")
    prices = [line[:at].split()[-1] for line in lines[4:] if re.search(r"\d\.\d+$", line[:at])]
    assert len({len(price.partition(".")[2]) for price in prices}) == 1


def test_sql(here):
    out = said(
        "sql",
        "runs.duckdb",
        "SELECT count(*) AS n, max(ts) AS last FROM events WHERE run = $run",
        "--param",
        "run=aa11",
    )
    events = small_run().events
    last = events["ts"].max().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    assert rows(out) == [["n", "last (UTC)"], [str(events.height), last]]
    answer = json.loads(
        said(
            "sql",
            "runs.duckdb",
            "SELECT 1.5 AS a, NULL AS b, [1, 2] AS c, 'x' AS d, 'nan'::DOUBLE AS e, DATE '2024-01-02' AS f",
            "--json",
        )
    )
    assert answer == [{"a": 1.5, "b": None, "c": [1, 2], "d": "x", "e": None, "f": "2024-01-02"}]


def test_compare(here):
    shown = said("compare", "runs.duckdb", "aa11", "aa22")
    assert shown.startswith(f"0 of {small_run().orders.height} orders of aa11 and aa22")
    frame = json.loads(said("compare", "runs.duckdb", "aa11", "aa22", "--all", "--json"))
    assert len(frame) == small_run().orders.height
    assert not any(row["differs"] for row in frame)


# ---------------------------------------------------------------------------------------------------- share


def test_share_makes_links_and_opens_them(here):
    link = said("share", "plan.toml", "--order", "0").strip()
    order = Plan.read("plan.toml").parts.orders[0]
    assert so.SmartOrder.from_link(link) == order
    assert said("share", "plan.toml").split() == [link]
    assert json.loads(said("share", link, "--json")) == order.to_dict()
    assert json.loads(said("share", "plan.toml", "--json")) == [{"order": 0, "link": link, "spec": order.to_dict()}]
    (table,) = tomllib.loads(said("share", link, "--toml"), parse_float=Decimal)["orders"]
    assert so.SmartOrder.from_dict(table) == order
    shown = said("share", link)
    assert shown.startswith(str(order))
    assert re.search(r"stop loss +target: -0.3%", shown)


def test_share_warns(here):
    (here / "p.toml").write_text(TICKS + ORDER.replace("50], [", "49.5], [") + ORDER)
    out, err = loud("share", "p.toml")
    assert len(out.split()) == 2
    assert err.startswith("warning: orders[0].take_profits: sizes sum to 99.5, which leaves a runner of 0.5 %")
    link = out.split()[0]
    assert loud("share", link)[1] == err.replace("orders[0].", "")


# ---------------------------------------------------------------------------------------------------- help, codes, signals


def documented() -> list[tuple[str, str]]:
    """Each command and one of the examples in its docstring."""
    groups = {"": cli._options, **{f"{c.name}": c.callback for c in app.registered_commands}}
    groups |= {f"fetch {c.name}": c.callback for c in cli.fetch.registered_commands}
    return [
        (name, line.strip())
        for name, call in groups.items()
        for line in call.__doc__.splitlines()
        if line.strip().startswith("smartorders ")
    ]


def test_every_command_has_an_example():
    names = {name for name, _ in documented()}
    assert names == {
        "",
        "replay",
        "fetch trades",
        "fetch bars",
        "sweep",
        "runs",
        "orders",
        "events",
        "compare",
        "sql",
        "share",
        *("paper", "place", "edit", "add", "reduce", "take-profit", "open-now", "close", "cancel", "refresh"),
        *("sessions", "verify"),
        *("live", "halt", "release", "orphans", "doctor"),
        "panel",
    }


@pytest.mark.parametrize(("name", "example"), documented(), ids=lambda value: value)
def test_examples_stand_whole_in_the_help_and_parse(name, example):
    shown = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*name.split(), "--help"]).stdout
    assert example in [line.strip() for line in shown.splitlines()]
    assert example.startswith(f"smartorders {name}".strip())
    if "COMMAND" not in example:
        assert "Usage" in said(*shlex.split(re.split(r" \| | >> ", example)[0])[1:], "--help")


def test_no_command_prints_help_and_is_a_usage_error():
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 2
    assert "Usage: smartorders" in result.output
    assert "error" not in result.stderr


def test_a_mistake_of_ours_is_one_line_and_a_traceback_only_on_demand(here, monkeypatch):
    def broken(self, *args, **kwargs):
        raise ZeroDivisionError("by\nnothing")

    monkeypatch.setattr(Plan, "run", broken)
    result = CliRunner().invoke(app, ["replay", "plan.toml"])
    assert result.exit_code == 70
    assert (
        result.stderr
        == "error: internal: ZeroDivisionError: by nothing; smartorders --debug … shows where; please report it\n"
    )
    result = CliRunner().invoke(app, ["--debug", "replay", "plan.toml"])
    assert result.exit_code == 70
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: internal: ZeroDivisionError")
    assert CliRunner().invoke(app, ["replay", "plan.toml"]).stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (so.ExchangeError("okx: down; try later"), 5),
        (so.DataError("row 3: bad"), 3),
        (so.LimitError("orders = 3: more than MAX_ORDERS"), 2),
        (so.ActionError("actions[0]: before"), 2),
        (so.StoreError("x.duckdb: is locked"), 4),
        (ModuleNotFoundError("charts need plotly: pip install 'smartorders_lab[plot]'"), 2),
        (KeyboardInterrupt(), 75),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_exit_codes(here, monkeypatch, error, code):
    def broken(self, *args, **kwargs):
        raise error

    monkeypatch.setattr(Plan, "run", broken)
    result = CliRunner().invoke(app, ["replay", "plan.toml"])
    assert result.exit_code == code
    expected = str(error) or "interrupted; run the same command again"
    assert result.stderr == f"error: {expected}\n"


def test_the_ways_out_of_python_are_said_as_options(here):
    (here / "back.csv").write_text("ts,price\n1723161255342,1\n1723161255341,2\n")
    result = CliRunner().invoke(app, ["replay", "plan.toml", "--ticks", "back.csv"])
    assert result.exit_code == 3
    assert result.stderr.endswith("pass --set ticks.sort=true to sort by time\n")


def script(*args: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *args], capture_output=True, text=True, timeout=60, **options)


def test_the_console_script(here):
    done = script("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"smartorders {so.__version__}\n", "")
    done = script("orders", "runs.duckdb", "aa11", "--limit", "1", "--json")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == 1
    done = script("orders", "no.duckdb")
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == "error: no.duckdb: does not exist; check the path, or save a run there first\n"


def test_a_closed_pipe_is_not_an_error(here):
    done = subprocess.run(
        f"'{SCRIPT}' events runs.duckdb aa11 --limit 0 | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.startswith("Events of run aa11")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_ends_cleanly(here):
    os.mkfifo("ticks.csv")  # reading it waits for ever
    process = subprocess.Popen(
        [SCRIPT, "replay", "plan.toml", "--ticks", "ticks.csv"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    writer = os.open("ticks.csv", os.O_WRONLY)  # opens once the other side reads
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    os.close(writer)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (75, "", "error: interrupted; run the same command again\n")


def test_the_module_imports_nothing_heavy():
    heavy = {"polars", "duckdb", "numba", "numpy", "plotly", "ccxt"}
    code = f"import sys, smartorders_lab.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------------------------------------------- plans


def test_a_plan_runs_as_replay_would(tmp_path):
    text = (
        TICKS
        + ORDER
        + "start = 100\n"
        + ORDER
        + 'starts = [5, "2024-03-04T01:00:00Z"]\n'
        + EDIT
        + 'order = 0\n[fills]\nfee_taker = "0.1%"\n[replay]\npoll_interval = "250ms"\noutlier = 0.05\nname = "both"\n'
    )
    run = Plan.from_toml(text).run()
    order = Plan.from_toml(text).parts.orders[0]
    expected = so.replay(
        [order] * 3,
        so.Ticks.read(SAMPLE, symbol="SOL/USDT").slice(None, 2000),
        starts=[100, 5, "2024-03-04T01:00:00Z"],
        fills=so.FillModel(fee_taker="0.1%"),
        actions=[so.edit(0, "2024-03-04T00:10:00Z", stop_loss="-0.2%")],
        poll_interval="250ms",
        outlier="5%",
    )
    assert run.orders.equals(expected.orders)
    assert run.events.equals(expected.events)
    assert run.meta["name"] == "both"
    assert run.meta["actions"] == expected.meta["actions"]


def test_every_starts_an_order_so_often():
    run = Plan.from_toml(TICKS + ORDER + 'every = "30m"\nstart = 10').run()
    created = run.orders["created_ts"].to_physical()
    assert set(created.diff().drop_nulls()) == {30 * 60 * 10**9}
    assert created[0] == so.Ticks.read(SAMPLE).ts[10]


def test_an_action_finds_its_order_behind_a_repeated_one():
    run = Plan.from_toml(TICKS + ORDER + "starts = [0, 50, 100]\n" + ORDER + EDIT + "order = 1\n").run()
    assert run.events.filter(pl.col("kind") == "action")["order"].to_list() == [3]


def test_starts_of_the_replay_are_shared_out():
    one = Plan.from_toml(TICKS + ORDER + ORDER + "[replay]\nstarts = [7, 9]").run()
    all_ = Plan.from_toml(TICKS + ORDER + ORDER + "[replay]\nstarts = 7").run()
    ts = so.Ticks.read(SAMPLE).ts
    assert one.orders["created_ts"].to_physical().to_list() == [ts[7], ts[9]]
    assert all_.orders["created_ts"].to_physical().to_list() == [ts[7], ts[7]]


def test_ticks_are_cut_by_position_or_time():
    by_time = Plan.from_toml(
        TICKS.replace("stop = 2000", "start = 2024-03-04T01:00:00Z\nstop = 2024-03-04T02:00:00Z") + ORDER
    ).read_ticks()
    assert instant_ns("2024-03-04T01:00:00Z") <= by_time.ts[0] < by_time.ts[-1] < instant_ns("2024-03-04T02:00:00Z")
    assert len(Plan.from_toml(PLAN).read_ticks()) == 2000


def test_everything_wrong_is_said_at_once():
    text = (
        'tick = 5\n[ticks]\nsort = "yes"\n'
        + ORDER.replace("buy", "long")
        + '[[actions]]\nkind = "cancel"\n[fills]\nlatency = "x"\n[replay]\nnam = "x"\n[store]\n'
    )
    with pytest.raises(so.PlanError) as caught:
        Plan.from_toml(text).parts  # noqa: B018
    assert [problem.path for problem in caught.value.problems] == [
        "tick", "ticks.source", "ticks.sort", "orders[0].side", "actions[0].at", "fills.latency", "replay.nam", "store.path",
    ]  # fmt: skip


def test_override_leaves_the_plan_as_it_was():
    plan = Plan.from_toml(PLAN)
    changed = plan.override("orders.0.stop_loss", "-4%").override("fills.fee_taker", Decimal("0.001"))
    assert str(changed.parts.orders[0].stop_loss.target) == "-4%"
    assert changed.parts.fills.fee_taker == Decimal("0.001")
    assert str(plan.parts.orders[0].stop_loss.target) == "-0.3%"
    assert "fills" not in plan.data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-4%", "-4%"),
        ("1.50", Decimal("1.50")),
        ("3", 3),
        ("true", True),
        ('"3"', "3"),
        ("[[105, 40]]", [[105, 40]]),
        ("{ target = 95 }", {"target": 95}),
        ("two words", "two words"),
        ("a\nb = 1", "a\nb = 1"),
    ],
)
def test_values_of_the_line_are_toml_or_text(text, value):
    assert toml_value(text) == value


@pytest.mark.unverified
def test_a_store_that_cannot_be_used_is_known_before_the_replay(tmp_path, monkeypatch):
    (tmp_path / "x.duckdb").write_text("not a store")
    monkeypatch.setattr("smartorders_lab.replays.replay", lambda *args, **options: pytest.fail("replayed"))
    with pytest.raises(so.StoreError, match="is not a DuckDB file"):
        Plan.from_toml(PLAN + '[store]\npath = "x.duckdb"', tmp_path).run()


def test_a_plan_that_fails_starts_no_store(tmp_path):
    with pytest.raises(so.PlanError):
        Plan.from_toml(PLAN + '[store]\npath = "x.duckdb"', tmp_path).override("orders.0.symbol", "ETH/USDT").run()
    assert list(tmp_path.iterdir()) == []


def test_the_fetch_commands_hand_on_what_they_are_given(here, monkeypatch):
    calls = []

    def fetched(*args, **options):
        calls.append((args, options))
        return so_fetch.Fetched(Path("x.parquet"), "trades of SOL/USDT on okx", 3, 10**18, 2 * 10**18, requests=4)

    import smartorders_lab.feeds.fetch as so_fetch

    monkeypatch.setattr(so_fetch, "fetch_trades", fetched)
    monkeypatch.setattr(so_fetch, "fetch_bars", fetched)
    out = said("fetch", "trades", "okx", "SOL/USDT", "--start", "7d", "--out", "x.parquet")
    assert out == "x.parquet: 3 trades of SOL/USDT on okx, 2001-09-09T01:46:40Z to 2033-05-18T03:33:20Z (4 requests)\n"
    answer = json.loads(
        said(
            "fetch",
            "bars",
            "okx",
            "SOL/USDT",
            "1m",
            "--start",
            "7d",
            "--end",
            "1d",
            "--out",
            "x.parquet",
            "--force",
            "--json",
        )
    )
    assert (answer["rows"], answer["path"]) == (3, "x.parquet")
    assert [args for args, _ in calls] == [
        ("okx", "SOL/USDT", "7d", None, Path("x.parquet")),
        ("okx", "SOL/USDT", "1m", "7d", "1d", Path("x.parquet")),
    ]
    assert [options["force"] for _, options in calls] == [False, True]


def test_the_exit_codes_are_those_of_the_page():
    page = cli.__doc__ or ""
    assert [int(code) for code in re.findall(r"^ +(?:exit code)? +(\d+)  ", page, re.MULTILINE)] == [
        0,
        2,
        3,
        4,
        5,
        70,
        75,
    ]


# ---------------------------------------------------------------------------------------------------- sweep

SWEEP = (
    PLAN
    + """
[sweep]
[sweep.grid]
stop_loss = ["0.2%", "0.3%"]
trailing_stop.callback_rate = ["0.1%", "0.2%"]
"""
)


@pytest.fixture
def grid(here):
    (here / "sweep.toml").write_text(SWEEP)
    return here


def test_a_sweep_prints_the_best_and_what_was_tried(grid):
    out = said("sweep", "sweep.toml", "--min-finished", "5", "--limit", "2", "--folds", "2")
    found = Plan.read(grid / "sweep.toml").sweep()
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[0].endswith("“sweep”")
    assert "entries       15 (every 10m)" in lines
    assert "4 combinations tried, by expectancy" in lines
    assert "2 more rows; --limit 0 shows all" in lines
    assert lines[-1] == "not kept; --store FOLDER keeps the orders"
    best = found.best(min_finished=5)
    assert str(best).splitlines()[0] in lines
    assert any(line.startswith("Walk-forward, chosen on the past: ") for line in lines)
    header = next(row for row in rows(out) if row[0] == "combination")
    assert header[:4] == ["combination", "stop_loss", "trailing_stop.callback_rate", "finished"]
    answer = json.loads(said("sweep", "sweep.toml", "--min-finished", "5", "--json"))
    assert (answer["best"]["combination"], answer["store"], len(answer["combinations"])) == (best.combination, None, 4)
    assert answer["combinations"][0]["expectancy"] == max(found.combinations["expectancy"])


def test_a_sweep_of_the_line(grid):
    """Values of the plan, the store and the picture, as they are typed."""
    pytest.importorskip("plotly")
    out, err = loud(
        "sweep", "sweep.toml", "--set", 'sweep.grid.stop_loss=["0.2%", "+1%", "0.4%"]', "--set", "sweep.entries=every 5m",
        "--set", "sweep.skip_invalid=true", "--store", "out/kept", "--heatmap", "grid.html", "--metric", "win_rate",
    )  # fmt: skip
    assert err.splitlines()[0] == "warning: 2 combinations make no valid order and were left out"
    assert "entries       29 (every 5m)" in [line.rstrip() for line in out.splitlines()]
    assert "kept in out/kept\ndrawn in grid.html\n" in out
    kept = so.Sweep.read(grid / "out" / "kept")
    assert kept.grid["stop_loss"].to_list() == ["0.2%", "0.2%", "0.4%", "0.4%"]
    assert kept.orders.height == 4 * 29
    assert "win_rate by stop_loss and trailing_stop.callback_rate" in (grid / "grid.html").read_text()
    random = said("sweep", "sweep.toml", "--set", "sweep.entries={ random = 50, seed = 3 }", "--min-finished", "2")
    assert "50 (50 at random, seed 3)" in random


def test_a_sweep_over_several_symbols(grid):
    pl.read_parquet(SAMPLE).head(3000).write_parquet(grid / "other.parquet")
    found = Plan.from_toml(SWEEP + '[sweep.symbols]\n"ETH/USDT" = "other.parquet"\n', grid).sweep()
    assert found.names == ["symbol", "stop_loss", "trailing_stop.callback_rate"]
    assert found.combinations["symbol"].to_list() == ["SOL/USDT"] * 4 + ["ETH/USDT"] * 4


KILLED = """
import os, time
import smartorders_lab.sweeps as s
from smartorders_lab.cli import main

real, s.PART_ORDERS = s.evaluate_part, 100

def slow(part, *rest):
    time.sleep(0.03)
    found = real(part, *rest)
    os.write(1, b"part\\n")  # in one piece, whichever thread it is
    return found

s.evaluate_part = slow
main()
"""


@pytest.mark.parametrize("place", ["out/kept", "kept.duckdb"])
def test_a_killed_sweep_goes_on_where_it_was(grid, place):
    """SIGKILL again and again; what comes of it is what an uninterrupted sweep gives, row by row."""
    stops = ", ".join(f'"{i / 20:.2f}%"' for i in range(1, 9))
    args = ["sweep", "sweep.toml", "--set", f"sweep.grid.stop_loss=[{stops}]", "--set", "sweep.entries=every 2m"]
    command = [sys.executable, "-c", KILLED, *args, "--store", place]
    kills, evaluated = 0, 0
    for wait in (3, 1, 4, 100):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=grid) as process:
            parts = 0
            for line in process.stdout:
                parts += line == "part\n"
                if parts == wait:
                    process.kill()
                    kills += 1
                    break
            evaluated += parts
            process.stdout.read()
        if wait == 100:
            assert process.returncode == 0
    assert kills == 3
    assert evaluated < 16 + 3 * 6  # a kill costs the parts that were on their way, not those that were done
    said(*args, "--store", "whole", "--min-finished", "2")
    whole, killed = so.Sweep.read("whole"), so.Sweep.read(place)
    assert whole.orders.height == 16 * 72
    assert killed.orders.equals(whole.orders)
    assert killed.combinations.equals(whole.combinations)


def test_a_changed_plan_refuses_to_go_on(grid):
    said("sweep", "sweep.toml", "--store", "kept", "--min-finished", "2")
    result = CliRunner().invoke(app, ["sweep", "sweep.toml", "--store", "kept", "--set", "fills.latency=1s"])
    assert result.exit_code == 4
    assert "kept: holds another sweep: fills changed from {} to {'latency': '1s'}; take another folder" in result.stderr
    assert "start anew with --restart" in result.stderr
    said("sweep", "sweep.toml", "--store", "kept", "--set", "fills.latency=1s", "--restart", "--min-finished", "2")
    assert so.Sweep.read("kept").meta["fills"] == {"latency": "1s"}
