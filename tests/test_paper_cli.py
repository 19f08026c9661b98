"""Paper trading from a shell: real sessions in processes of their own, steered, interrupted, killed and resumed from here."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bad_cli import two_runs
from rich.console import Console
from typer.testing import CliRunner

import smartorders_lab as so
from smartorders_lab.cli import app
from smartorders_lab.paper_plan import PaperPlan
from smartorders_lab.plan import Plan
from smartorders_lab.screen import change_line, clean, orders_table, screen
from smartorders_lab.store import Store

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and terminals")
SCRIPT = Path(sys.executable).with_name("smartorders")
ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "sample_trades.parquet"
PLAN = f"""
[session]
name = "lab"
speed = 40

[ticks]
source = "{SAMPLE}"
symbol = "SOL/USDT"

[fills]
fee_taker = "0.1%"

[store]
path = "lab.duckdb"

[[orders]]
symbol = "SOL/USDT"
side = "buy"
quantity = 10
take_profits = [["+8%", 50], ["+9%", 50]]
stop_loss = "-10%"
tag = "[red]x"

[[orders]]
symbol = "SOL/USDT"
side = "buy"
quantity = 5
entry = {{ kind = "limit", price = 100 }}
stop_loss = "-5%"
"""
LINK = so.SmartOrder(symbol="SOL/USDT", side="buy", quantity=1, stop_loss="-20%").share_link()


def command(*args: str | Path, code: int = 0, stdin: str | None = None) -> str:
    """What a command line of this process says: stdout, or stderr where it fails."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in args], input=stdin)
    assert result.exit_code == code, (args, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    assert code == 0 or result.stdout == ""
    return result.stdout if code == 0 else result.stderr


def until(condition: Callable[[], Any], why: str = "", seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, why or condition
        time.sleep(0.02)
    return found


class Paper:
    """A `smartorders paper` in a process of its own."""

    def __init__(self, folder: Path, *args: str):
        self.folder = folder
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen([SCRIPT, "paper", *args], cwd=folder, stdout=out, stderr=err)

    def said(self) -> list[str]:
        return self.out.read_text().splitlines()

    def up(self) -> Paper:
        """Wait until it has placed what it should."""
        until(lambda: " event=begun " in self.text() or " event=resumed " in self.text() or self.ended(), "start")
        assert not self.ended(), self.err.read_text()
        return self

    def text(self) -> str:
        return self.out.read_text()

    def ended(self) -> bool:
        return self.process.poll() is not None

    def send(self, number: int) -> int:
        """A signal; returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


def orders(store: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(command("orders", store, "--json"))
    return found


def events(store: Path) -> list[tuple[Any, ...]]:
    """What happened, from a stopped session."""
    rows = json.loads(command("events", store, "--json"))
    return [(row["order"], row["seq"], row["ts"], row["kind"], row["price"], row["quantity"]) for row in rows]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Paper]:
    """A session with an order that holds and one that waits, for all tests that act on it in the order of this file."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "plan.toml").write_text(PLAN)
    (folder / "runs.duckdb").write_bytes(two_runs())
    paper = Paper(folder, "plan.toml", "--log", "log.jsonl").up()
    until(lambda: [o["status"] for o in orders(folder / "lab.duckdb")] == ["ACTIVE", "PENDING"])
    yield paper
    if not paper.ended():
        paper.process.kill()
    paper.process.wait()


# ---------------------------------------------------------------------------------------------------- a session that runs


def orders_and_events_are_shown_live(running: Paper) -> None:
    store = running.folder / "lab.duckdb"
    first, second = orders(store)
    assert (first["held"], first["entry_price"], first["stop"]) == ("10", "150.12", "135.1")
    shown = command("orders", store)
    assert re.match(r"Orders of session “lab” \(\w{12}, paper, live\)\n", shown)
    assert "[red]x" in shown
    assert re.search(r"0 +SOL/USDT +buy +active +1\d\d\.\d+ +150\.12 +135\.1 +○○ 0/2", shown)
    (only,) = json.loads(command("orders", store, "--status", "pending", "--json"))
    assert only["order"] == second["order"]
    kinds = [row["kind"] for row in json.loads(command("events", store, "lab", "--order", "0", "--json"))]
    assert kinds[:3] == ["created", "triggered", "filled"]
    (session,) = json.loads(command("sessions", store, "--json"))
    assert (session["name"], session["status"], session["orders"]) == ("lab", "live", 2)
    assert session["pid"] == running.process.pid


def every_action_from_another_process(running: Paper) -> None:
    store = running.folder / "lab.duckdb"
    at = {order["order"]: order for order in orders(store)}
    said = command("edit", store, "0", "stop_loss=140", "break_even=true", "--version", str(at[0]["version"]))
    assert said == f"order 0 is active, version {at[0]['version'] + 1}, holds 10, stop 140\n"
    assert json.loads(command("edit", store, "0", "stop_loss=-9%", "break_even=", "--json"))["order"] == 0
    spec = orders(store)[0]["spec"]
    assert (spec["stop_loss"], "break_even" in spec) == ({"target": "-9%"}, False)

    command("add", store, "0", "--cost", "150")
    until(lambda: float(orders(store)[0]["held"]) > 10.9)
    command("reduce", store, "0", "--quantity", "2.5")
    until(lambda: 8.4 < float(orders(store)[0]["held"]) < 8.6)
    assert command("open-now", store, "1").startswith("order 1 is ")
    until(lambda: orders(store)[1]["status"] == "ACTIVE")

    assert command("place", store, LINK).startswith("order 2 is ")
    until(lambda: orders(store)[2]["status"] == "ACTIVE")
    assert command("share", store, "2") == f"{LINK}\n"
    assert json.loads(command("refresh", store, "--json")) == {"looked_up": 0}

    assert command("close", store, "1", "--yes").startswith("order 1 is ")
    until(lambda: orders(store)[1]["exit_reason"] == "close_at_market")
    held = orders(store)[2]["held"]
    assert command("cancel", store, "2", "-y").startswith("order 2 is cancelled")
    assert orders(store)[2]["held"] == held == "1"


BAD_LIVE = [
    ("unknown order", ["edit", "@", "9", "stop_loss=96"], 2, "order 9: no such order; this session has 3, counted from 0"),
    ("stale version", ["edit", "@", "0", "stop_loss=96", "--version", "1"], 2, "version = 1: the order has moved on to version"),
    ("stop above the price", ["edit", "@", "0", "stop_loss=170"], 2, "it would trigger at once on the last price; use --force"),
    ("unknown field", ["edit", "@", "0", "stop_los=96"], 2, "stop_los is not a field of SmartOrder; did you mean stop_loss?"),
    ("no value", ["edit", "@", "0", "stop_loss"], 2, "stop_loss: must be FIELD=VALUE; write stop_loss=96"),
    ("field twice", ["edit", "@", "0", "tag=a", "tag=b"], 2, "tag: stands twice; keep one"),
    ("value wrong", ["edit", "@", "0", "stop_loss=3%%"], 2, "is not a percentage; write 2% or 0.02"),
    ("another symbol", ["edit", "@", "0", "symbol=ETH/USDT"], 2, "symbol cannot be edited; place another order"),
    ("order a word", ["edit", "@", "x", "tag=a"], 2, "invalid value for ORDER: "),
    ("add nothing", ["add", "@", "0"], 2, "add: needs one of --quantity and --cost; write --cost 500"),
    ("add both", ["add", "@", "0", "--cost", "1", "--quantity", "1"], 2, "add: needs one of --quantity and --cost"),
    ("add a word", ["add", "@", "0", "--cost", "lots"], 2, "must be a finite number; write it like 100 or 0.5"),
    ("reduce too much", ["reduce", "@", "0", "--quantity", "99"], 2, "more than is free to be sold, or than was planned"),
    ("open what is open", ["open-now", "@", "0"], 2, "order 0: open_now: its status does not allow that"),
    ("close without a terminal", ["close", "@", "0"], 2, "order 0: this asks before it acts, and there is no terminal to ask"),
    ("cancel without a terminal", ["cancel", "@", "0"], 2, "there is no terminal to ask at; pass --yes"),
    ("link broken", ["place", "@", LINK[:-1]], 2, "is damaged: the checksum does not match; copy the whole link again"),
    ("order of another market", ["place", "@", '{"symbol": "ETH/USDT", "side": "buy", "quantity": 1, "stop_loss": "-3%"}'], 3,
     "symbol = 'ETH/USDT': was not recorded; there is SOL/USDT"),
    ("number not there", ["orders", "@", "--order", "9"], 2, "--order 9: is not in session “lab”"),
    ("share of a plan's options", ["share", "@", "0", "--toml"], 2, "--order and --toml are for plans and links; leave them out"),
    ("run on a running store", ["orders", "@", "aa11"], 4, "is locked by pid"),
    ("a second session on it", ["paper", "--recorded", str(SAMPLE), "--order", LINK, "--store", "@"], 4, "is locked by pid"),
    ("verify while it runs", ["runs", "@"], 4, "is locked by pid"),
]  # fmt: skip


def bad_input_changes_nothing(running: Paper) -> None:
    store = running.folder / "lab.duckdb"
    before = [(o["order"], o["status"], o["held"], o["spec"]) for o in orders(store)]
    for name, args, code, message in BAD_LIVE:
        said = command(*(str(store) if arg == "@" else arg for arg in args), code=code)
        assert message in said, name
        assert all(line.startswith("error: ") for line in said.splitlines()), name
    assert [(o["order"], o["status"], o["held"], o["spec"]) for o in orders(store)] == before


def sigint_stops_and_the_same_command_resumes(running: Paper) -> None:
    """SIGINT, a look at the store, SIGTERM, kill -9; each start goes on, and nothing is doubled."""
    folder, store = running.folder, running.folder / "lab.duckdb"
    live = orders(store)
    assert running.send(signal.SIGINT) == 0
    assert running.err.read_text() == ""
    assert re.search(r" event=stopped session=\w{12} name=lab mode=paper status=stopped orders=3$", running.said()[-1])
    assert not (folder / "lab.duckdb.session").exists()
    assert "not running" in command("orders", store)
    kept = orders(store)
    still = ("order", "status", "held", "entry_price", "stop", "exit_reason", "realized_pnl", "version", "spec")
    assert [[o[name] for name in still] for o in kept] == [[o[name] for name in still] for o in live]
    lines = [line for line in running.said() if " order=" in line]
    first = events(store)
    assert [int(re.search(r"order=(\d+)", line)[1]) for line in lines] == [row[0] for row in first]  # type: ignore[index]

    again = Paper(folder, "plan.toml").up()
    assert f" event=resumed session={running.said()[0].split('session=')[1][:12]} " in again.said()[0]
    assert "orders=3 placed=0" in again.said()[0]
    assert [o["order"] for o in orders(store)] == [0, 1, 2]
    command("edit", store, "0", "tag=after")
    assert again.send(signal.SIGKILL) == -signal.SIGKILL
    second = events(store)
    assert second[: len(first)] == first
    assert (folder / "lab.duckdb.session").exists()  # left over, and nobody minds
    assert orders(store)[0]["tag"] == "after"
    assert '"name": "lab"' in command("sessions", store, "--json")
    assert "is gone without a word" in command("edit", store, "0", "tag=x", code=4)

    third = Paper(folder, "plan.toml", "--log", "log.jsonl").up()
    assert [(o["order"], o["tag"]) for o in orders(store)][:2] == [(0, "after"), (1, "")]
    assert third.send(signal.SIGTERM) == 0
    assert events(store)[: len(second)] == second
    assert command("verify", store, "lab").startswith("session ")

    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"begun", "filled", "created", "action", "stopped", "resumed"} <= {line["event"] for line in records}
    assert all({"ts", "level", "event"} <= set(line) for line in records)
    filled = next(line for line in records if line["event"] == "filled")
    assert (filled["order"], filled["level"], filled["price"]) == (0, "info", "150.12")


def an_order_of_the_plan_that_has_changed_is_refused(running: Paper) -> None:
    """A key belongs to what was placed under it."""
    folder = running.folder
    (folder / "other.toml").write_text(PLAN.replace("quantity = 10", "quantity = 11"))
    said = command("paper", folder / "other.toml", code=2)
    assert (
        "orders[0]: says something else than when it was placed, as order 0; change that one with smartorders edit"
        in said
    )
    more = "\n[[orders]]\nsymbol = 'SOL/USDT'\nside = 'buy'\nquantity = 2\nstop_loss = '-9%'\n"
    (folder / "other.toml").write_text(PLAN + more)
    out = command("paper", folder / "other.toml", "--speed", "max", "--until-end")
    assert "orders=4 placed=1" in out.splitlines()[0]
    assert "order=3 version=1 kind=created" in out


def test_a_session_from_other_shells(running: Paper) -> None:
    """One story: each part goes on from the one before."""
    orders_and_events_are_shown_live(running)
    every_action_from_another_process(running)
    bad_input_changes_nothing(running)
    sigint_stops_and_the_same_command_resumes(running)
    an_order_of_the_plan_that_has_changed_is_refused(running)


# ---------------------------------------------------------------------------------------------------- what it comes to


def test_a_session_that_is_killed_again_and_again_ends_as_a_replay_does(tmp_path: Path) -> None:
    """Two ladders over all of the sample; killed while it plays, resumed each time."""
    plan = (ROOT / "examples" / "paper.toml").read_text().replace("../data/sample_trades.parquet", str(SAMPLE))
    (tmp_path / "plan.toml").write_text(plan)
    store = tmp_path / "lab.duckdb"
    for wanted in (4, 12):
        paper = Paper(tmp_path, "plan.toml", "--speed", "12000", "--until-end")
        until(lambda: told(paper) >= wanted or paper.ended())  # noqa: B023
        paper.send(signal.SIGKILL)
    last = Paper(tmp_path, "plan.toml", "--speed", "max", "--until-end")
    assert last.process.wait(60) == 0, last.err.read_text()

    parts = Plan.from_toml(plan.replace("[session]", "[replay]").replace("speed", "#").replace("balances", "#")).parts
    ticks = so.Ticks.read(SAMPLE, symbol="SOL/USDT")
    run = so.replay(parts.orders, ticks, fills=parts.fills)
    found = orders(store)
    assert [o["status"] for o in found] == run.orders["status"].to_list()
    for order, row in zip(found, run.orders.to_dicts(), strict=True):
        assert float(order["realized_pnl"]) == pytest.approx(row["realized_pnl"], abs=1e-9)
        assert (order["version"], order["exit_reason"]) == (
            run.events.filter(pl.col("order") == order["order"]).height,
            row["exit_reason"],
        )
    happened = events(store)
    assert len(happened) == len({row[:2] for row in happened}) == run.events.height


def told(paper: Paper) -> int:
    return sum(" order=" in line for line in paper.said())


def test_json_lines_and_orders_of_the_command_line(tmp_path: Path) -> None:
    args = ["--recorded", str(SAMPLE), "--order", LINK, "--order", LINK, "--store", "x.duckdb", "--speed", "max"]
    args += ["--until-end", "--fee-taker", "0.1%", "--balance", "USDT=1000", "--no-serve", "--json"]
    paper = Paper(tmp_path, *args)
    assert paper.process.wait(60) == 0, paper.err.read_text()
    lines = [json.loads(line) for line in paper.said()]
    assert [line["type"] for line in lines[:2]] == ["session", "change"]
    assert (lines[0]["event"], lines[0]["placed"], lines[-1]["event"]) == ("begun", 2, "stopped")
    assert [line["seq"] for line in lines[1:-2]] == list(range(1, len(lines) - 2))
    assert lines[-2] == {**lines[-2], "event": "status", "status": "ended"}
    args[args.index("x.duckdb")] = str(tmp_path / "x.duckdb")
    assert json.loads(command("paper", *args).splitlines()[0])["placed"] == 0
    assert "was begun with fills = " in command("paper", *args, "--fee-taker", "0.2%", code=4)


@pytest.mark.unverified
def test_verify_finds_what_was_changed_by_hand(tmp_path: Path) -> None:
    import duckdb

    store = tmp_path / "x.duckdb"
    with so.paper(feed=so.recorded(so.Ticks.read(SAMPLE, symbol="SOL/USDT"), None), store=store, name="s") as session:
        session.place(so.SmartOrder.from_link(LINK))
        session.wait()
    assert json.loads(command("verify", store, "--json"))["ok"]
    with duckdb.connect(str(store)) as connection:
        connection.execute("UPDATE session_events SET price = price + 1 WHERE kind = 'filled'")
    result = CliRunner().invoke(app, ["verify", str(store), "s"])
    assert (result.exit_code, result.stderr) == (1, "")
    assert "DIFFERS" in result.stdout


def test_a_store_with_runs_and_sessions_shows_what_came_last(tmp_path: Path) -> None:
    store = tmp_path / "both.duckdb"
    store.write_bytes(two_runs())
    assert command("orders", store).startswith("Orders of run aa22")
    with so.paper(feed=so.recorded(so.Ticks.read(SAMPLE, symbol="SOL/USDT"), None), store=store, name="s") as session:
        session.place(so.SmartOrder.from_link(LINK))
        session.wait()
    assert command("orders", store).startswith("Orders of session “s”")
    assert command("events", store, "s").startswith("Events of session “s”")
    assert command("orders", store, "aa11").startswith("Orders of run aa11")
    assert [row["name"] for row in json.loads(command("sessions", store, "--json"))] == ["s"]
    with Store(store) as opened:
        before = opened.sessions()
    command("orders", store)
    with Store(store) as opened:
        assert opened.sessions().equals(before)  # to look changes nothing


# ---------------------------------------------------------------------------------------------------- bad command lines

SPEC = '{"symbol": "SOL/USDT", "side": "buy", "quantity": 1, "stop_loss": "-3%"}'
PLAYED = ("--recorded", str(SAMPLE), "--order", LINK)
KEPT = ("--store", "@x.duckdb")
BAD = [
    ("nothing", ["paper"], 2, "--store: is required: a session is resumed from it; pass --store lab.duckdb"),
    ("no ticks", ["paper", "--order", LINK, *KEPT], 2,
     "paper: needs ticks; pass --exchange binance, --recorded FILE or a plan"),
    ("both", ["paper", "--exchange", "okx", "--recorded", "x", *KEPT], 2, "--exchange and --recorded cannot stand together"),
    ("exchange unknown", ["paper", "--exchange", "binanse", "--order", LINK, *KEPT], 3, "did you mean binance?"),
    ("speed of an exchange", ["paper", "--exchange", "okx", "--speed", "2", *KEPT], 2, "--speed and --symbol are for recorded ticks"),
    ("plan missing", ["paper", "@no.toml"], 2, "no.toml: does not exist; check the path"),
    ("plan of a replay", ["paper", "@replay.toml"], 2, "orders[0].every: an order of a session is placed once"),
    ("plan without ticks", ["paper", "@bare.toml"], 2, "session.exchange: is required where no [ticks] are given"),
    ("plan with a typo", ["paper", "@typo.toml"], 2, "sesion: is not a table of a plan; did you mean session?"),
    ("plan key unknown", ["paper", "@key.toml"], 2, "session.exchagne = 'binance': is not a field; did you mean exchange?"),
    ("plan without a store", ["paper", "@kept.toml"], 2, "store.path: is required: a session is resumed from it"),
    ("ticks missing", ["paper", "--recorded", "@no.parquet", "--order", LINK, *KEPT], 3, "no.parquet: no such file"),
    ("no symbol", ["paper", "--recorded", str(SAMPLE), *KEPT], 2, "does not say of which symbol; pass --symbol BTC/USDT"),
    ("speed", ["paper", *PLAYED, "--speed", "0", *KEPT], 2,
     "--speed = '0': must be a number above 0, or max"),
    ("order not JSON", ["paper", "--order", "buy", *KEPT], 2, "is not JSON"),
    ("order wrong", ["paper", "--order", SPEC.replace("-3%", "3%%"), *KEPT], 2, "is not a percentage"),
    ("order off the lot", ["paper", "--recorded", str(SAMPLE), "--order", SPEC.replace(": 1,", ": 1e-12,"), *KEPT], 2, "quantity"),
    ("another symbol", ["paper", "--recorded", str(SAMPLE), "--symbol", "ETH/USDT", "--order", LINK, *KEPT], 3,
     "symbol = 'SOL/USDT': was not recorded; there is ETH/USDT"),
    ("fee", ["paper", "--order", LINK, "--fee-taker", "50%", *KEPT], 2, "fee_taker = '50%': must be a fraction between"),
    ("balance", ["paper", "--order", LINK, "--balance", "1000", *KEPT], 2, "--balance 1000: must be CURRENCY=AMOUNT"),
    ("balance a word", ["paper", *PLAYED, "--balance", "USDT=x", *KEPT], 3, "balances['USDT']"),
    ("poll", ["paper", *PLAYED, "--poll", "fast", *KEPT], 2, "poll_interval = 'fast'"),
    ("outlier", ["paper", *PLAYED, "--outlier", "x", *KEPT], 2, "outlier = 'x'"),
    ("log", ["paper", "--order", LINK, "--log", "@no/x.log", *KEPT], 2, "x.log: cannot be written: No such file or directory"),
    ("store in no folder", ["paper", *PLAYED, "--store", "@no/x.duckdb"], 4, "no/x.duckdb"),
    ("store not one", ["paper", *PLAYED, "--store", "@replay.toml"], 4, "replay.toml"),
    ("option unknown", ["paper", "--exchnge", "okx"], 2, "no such option: --exchnge; did you mean --exchange?"),
    ("command unknown", ["papre"], 2, "did you mean paper?"),
    ("no session", ["edit", "@runs.duckdb", "0", "tag=a"], 4, "runs.duckdb.session: no session is served on this store; start one"),
    ("no session to close", ["close", "@runs.duckdb", "0", "--yes"], 4, "no session is served on this store"),
    ("no store", ["cancel", "@no.duckdb", "0", "--yes"], 4, "no session is served on this store"),
    ("no store to look at", ["sessions", "@no.duckdb"], 4, "no.duckdb: does not exist"),
    ("no such session", ["orders", "@runs.duckdb", "ladders"], 4, "run 'ladders': no such run"),
    ("foreign discovery file", ["edit", "@odd.duckdb", "0", "tag=a"], 4, "is not a discovery file of a session; remove it"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "code", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_command_lines(tmp_path: Path, args: list[str], code: int, message: str) -> None:
    order = PLAN[PLAN.index("[[orders]]") :]
    plans = {
        "replay": PLAN.replace("stop_loss", 'every = "1h"\nstop_loss', 1),
        "bare": order + '[store]\npath = "x.duckdb"',
        "typo": PLAN.replace("[session]", "[sesion]"),
        "key": PLAN.replace("speed = 40", 'exchagne = "binance"'),
        "kept": PLAN.replace('[store]\npath = "lab.duckdb"', ""),
    }
    for name, text in plans.items():
        (tmp_path / f"{name}.toml").write_text(text)
    (tmp_path / "runs.duckdb").write_bytes(two_runs())
    (tmp_path / "odd.duckdb.session").write_text("{}")
    said = command(*(arg.replace("@", f"{tmp_path}/") for arg in args), code=code)
    assert message in said
    assert all(line.startswith("error: ") for line in said.splitlines())


def test_a_plan_says_everything_that_is_wrong_at_once() -> None:
    plan = '[session]\nspeed = -1\nbalances = 5\n[replay]\nname = "x"\n[[orders]]\nsymbol = "SOL"\nside = "buy"\nstop_loss = "-3%"\n'
    with pytest.raises(so.SmartOrdersError) as caught:
        PaperPlan.of(Plan.from_toml(plan))
    assert {line.split(":")[0].split(" = ")[0] for line in str(caught.value).splitlines()} >= {
        "session.speed", "session.balances", "replay", "orders[0].symbol",
    }  # fmt: skip


# ---------------------------------------------------------------------------------------------------- how it looks


def order_of(number: int, **changes: Any) -> dict[str, Any]:
    levels = [{"status": status} for status in changes.pop("levels", ("FILLED", "TRIGGERED", "PENDING"))]
    found = {
        "order": number, "symbol": "SOL/USDT", "side": "buy", "tag": "", "status": "ACTIVE", "exit_reason": None, "version": 7,
        "held": "6", "entry_price": "150.12", "last": "154.2", "stop": "150.12", "water_mark": "154.2", "realized_pnl": "12.3",
        "unrealized_pnl": "24.48", "filled_levels": sum(level["status"] == "FILLED" for level in levels), "levels": levels,
        "attention": None, "exit_ts": None, "spec": {},
    }  # fmt: skip
    return found | changes


def state_of(*orders: dict[str, Any], status: str = "live") -> dict[str, Any]:
    market = {"price": "154.2", "ts": "2024-03-04T06:30:04.949Z", "state": status, "ticks": 5123, "held_back": 2}
    return {
        "session": "9f3a01c2d4e5",
        "name": "lab",
        "mode": "paper",
        "status": status,
        "symbols": {"SOL/USDT": market},
        "orders": [*orders],
    }


def drawn(what: Any, width: int = 120, colour: bool = False) -> str:
    console = Console(width=width, force_terminal=colour, color_system="standard" if colour else None, highlight=False)
    with console.capture() as capture:
        console.print(what)
    return capture.get()


def test_the_screen() -> None:
    over = order_of(
        1, side="sell", status="STOPPED", exit_reason="trailing_stop", held="0", stop=None, last=None, levels=("CANCELLED",) * 3,
        realized_pnl="-25.1", unrealized_pnl=None, exit_ts="2024-03-04T03:23:15Z", tag="[red]x\x1b[31m\u202e",
        spec={"trailing_stop": {"callback_rate": "0.02"}},
    )  # fmt: skip
    text = drawn(screen(state_of(over, order_of(0)), 140, 30), 140)
    assert [line.rstrip() for line in text.splitlines()] == [
        "paper session “lab” (9f3a01c2d4e5)  LIVE",
        "SOL/USDT  154.2  2024-03-04 06:30:04  5,123 ticks  2 held back as outliers",
        "",
        "order  symbol    side  status   price   entry    stop  water mark  levels   held     P&L  version  reason         tag",
        "─" * 126,
        "    0  SOL/USDT  buy   active   154.2  150.12  150.12              ●◐○ 1/3     6  +36.78        7",
        "    1  SOL/USDT  sell  stopped         150.12               154.2  ××× 0/3     0  -25.10        7  trailing stop  [red]x�[31m�",
        "",
        "1 living, 1 over, P&L +11.68",
        "levels: ○ pending ◐ triggered ● filled × cancelled",
    ]
    assert "\x1b" not in text


def test_stale_is_said_loudly_and_in_words() -> None:
    plain = drawn(screen(state_of(order_of(0), status="stale"), 120, 30)).splitlines()
    assert plain[0].rstrip() == "paper session “lab” (9f3a01c2d4e5)   STALE: no ticks come, so nothing can trigger"
    assert plain[1].rstrip().endswith("STALE")
    assert "\x1b[1;37;41m STALE: no ticks" in drawn(screen(state_of(status="stale"), 120, 30), colour=True)


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_the_table_fits(width: int) -> None:
    rows = [order_of(0, status="PARTIALLY_CLOSED", tag="t" * 60), order_of(12, levels=("PENDING",) * 3)]
    text = drawn(orders_table(rows, width), width)
    assert max(map(len, text.splitlines())) <= width
    for must in ("order", "partially closed", "○○○ 0/3"):
        assert must in text
    assert ("entry" in text) == (width >= 100)


def test_many_orders_are_cut_to_the_height() -> None:
    lines = drawn(screen(state_of(*(order_of(n) for n in range(50))), 120, 24)).splitlines()
    assert len(lines) <= 24
    assert any("more are not shown" in line for line in lines)
    assert "no orders yet" in drawn(screen(state_of(), 80, 24))


def test_levels_are_coloured() -> None:
    text = drawn(orders_table([order_of(0, levels=("FILLED", "TRIGGERED", "PENDING", "CANCELLED"))], 120), colour=True)
    for code, dot in ((32, "●"), (33, "◐"), (90, "○"), (31, "×")):
        assert f"\x1b[{code}m{dot}" in text


def test_lines() -> None:
    change = {
        "ts": "2024-03-04T06:30:04Z", "order": 0, "version": 4, "tick": 9, "kind": "filled", "role": "take_profit", "level": 0,
        "price": "154.2", "quantity": "4", "liquidity": None, "status": "ACTIVE", "stop": None, "water_mark": None, "reason": 'a "b"\n',
    }  # fmt: skip
    assert change_line(change) == (
        "2024-03-04T06:30:04Z order=0 version=4 kind=filled role=take_profit level=0 price=154.2 quantity=4 status=ACTIVE "
        'reason="a \\"b\\"\\n"'
    )
    assert clean("a\x1b[2Jb\r\n\u202ec") == "a\N{REPLACEMENT CHARACTER}[2Jb" + "\N{REPLACEMENT CHARACTER}" * 3 + "c"


class Terminal:
    """A command in a pseudo-terminal."""

    def __init__(self, folder: Path, *args: str):
        import fcntl
        import pty
        import struct
        import termios

        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
        env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [SCRIPT, *args], cwd=folder, stdin=slave, stdout=slave, stderr=slave, env=env | {"TERM": "xterm-256color"}
        )
        os.close(slave)
        self.seen = ""

    def read(self) -> str:
        """What has come so far."""
        while select.select([self.master], [], [], 0.05)[0]:
            try:
                data = os.read(self.master, 65536)
            except OSError:  # the other side is closed
                break
            if not data:
                break
            self.seen += data.decode(errors="replace")
        return self.seen

    def close(self) -> int:
        until(lambda: self.read() and self.process.poll() is not None)
        os.close(self.master)
        return self.process.wait()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Makes terminals; none outlives the test."""
    made: list[Terminal] = []

    def make(*args: str) -> Terminal:
        made.append(Terminal(tmp_path, *args))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.close()


def test_on_a_terminal(tmp_path: Path, terminal: Callable[..., Terminal]) -> None:
    """The table is drawn, moves, and stays when it is stopped; close and cancel ask."""
    (tmp_path / "plan.toml").write_text(PLAN)
    paper = terminal("paper", "plan.toml")
    until(lambda: "active" in paper.read())
    asked = terminal("cancel", "lab.duckdb", "0")
    question = "cancel order 0 (buy SOL/USDT, active): the 10 SOL that it holds stay, without stop and levels? [y/N]:"
    until(lambda: question in asked.read())
    os.write(asked.master, b"n\n")
    assert asked.close() == 2
    assert "error: not confirmed, so nothing was done; answer y, or pass --yes" in asked.seen
    agreed = terminal("close", "lab.duckdb", "0")
    until(lambda: "sell 10 SOL at market, now? [y/N]:" in agreed.read())
    os.write(agreed.master, b"y\n")
    assert agreed.close() == 0
    until(lambda: "closed" in paper.read())
    paper.process.send_signal(signal.SIGINT)
    assert paper.close() == 0
    assert "paper session “lab”" in paper.seen
    assert "[red]x" in paper.seen
    assert "stopped; the same command goes on with it, smartorders orders" in paper.seen
    assert "event=" not in paper.seen
    assert paper.seen.rindex("\x1b[?25h") > paper.seen.rindex("\x1b[?25l")  # the cursor is back


# ---------------------------------------------------------------------------------------------------- live ticks


def test_an_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command on a real ccxt client, whose exchange is on 127.0.0.1: it fills, falls silent, is said to be stale, stops."""
    pytest.importorskip("ccxt")
    import ccxt.pro
    from local_exchange import SYMBOLS, VENUES, LocalExchange, market
    from local_exchange import session as http

    from smartorders_lab.feeds import live

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def there(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    async def call(what: Callable[[], Any]) -> Any:
        return what()

    server = LocalExchange(["binance"])
    there(server.up())

    def made(name: str) -> Any:
        client = getattr(ccxt.pro, name)({"enableRateLimit": False, "timeout": 3000})
        client.timeout_on_exit = 0
        client.set_markets([market(VENUES[name], symbol) for symbol in SYMBOLS])
        opened = client.open

        def open_here() -> None:
            if client.session is None:
                client.session = http(server)
            opened()

        client.open = open_here
        return client

    monkeypatch.setattr(live, "_new_client", made)
    monkeypatch.setitem(live.LiveFeed.__init__.__kwdefaults__, "stale_after", "1s")
    said: list[str] = []

    def play() -> None:
        store = tmp_path / "live.duckdb"
        try:
            until(lambda: (tmp_path / "live.duckdb.session").exists())
            with so.connect(store) as session:
                until(lambda: (there(call(lambda: server.publish(1))), session.state()["orders"][0]["held"] == "1")[1])
                there(call(lambda: setattr(server, "silent", True)))
                until(lambda: session.state()["status"] == "stale")
                said.append(session.state()["symbols"]["SOL/USDT"]["state"])
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    player = threading.Thread(target=play)
    player.start()
    try:
        out = command("paper", "--exchange", "binance", "--order", LINK, "--store", tmp_path / "live.duckdb")
    finally:
        player.join()
        there(server.down())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert said == ["stale"]
    assert 'name="paper binance"' in out
    assert re.search(r"kind=filled role=entry level=0 price=\d+", out)
    assert re.search(r" event=status .* status=stale stale=SOL/USDT\n", out)
    assert " event=stopped " in out.splitlines()[-1]
