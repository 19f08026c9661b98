"""Live trading from a shell: sessions in processes of their own at the local exchange, confirmed, halted, released, run dry."""

from __future__ import annotations

import gc
import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from session_process import Exchange, Local, end_with_parent, parting, warm
from trading_exchange import DIALECTS, Far, TradingExchange, trader
from typer.testing import CliRunner

import smartorders_lab as so
from smartorders_lab import cli
from smartorders_lab.cli import app

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals and terminals")
VENUE, SOL = "binance", "SOL/USDT"
PLAN = """
[session]
exchange = "binance"
name = "money"
slippage_cap = "2%"

[limits]
symbols = ["SOL/USDT"]
max_order = 2000
max_symbol = 5000
max_day = 20000
max_orders = 5
max_distance = "20%"

[store]
path = "live.duckdb"

[[orders]]
symbol = "SOL/USDT"
side = "buy"
quantity = 2
take_profits = [["+8%", 50], ["+9%", 50]]
stop_loss = "-10%"
"""
LINK = so.SmartOrder(symbol=SOL, side="buy", quantity=1, stop_loss="-20%").share_link()


def command(*args: str | Path, code: int = 0) -> str:
    """What a command line of this process says: stdout, or stderr where it fails."""
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in args])
    assert result.exit_code == code, (args, result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return result.stdout if code == 0 else result.stderr


def until(condition: Callable[[], Any], why: Any = "", seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, why() if callable(why) else why or condition
        time.sleep(0.02)
    return found


class Shell:
    """Runs command lines, one at a time, each in a process that is forked from one that has everything loaded."""

    def __init__(self) -> None:
        self.warm = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.codes: dict[int, int] = {}
        self.pids: list[int] = []
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        assert self.warm.stdout is not None
        for line in self.warm.stdout:
            pid, _, code = line.partition(" ")
            if code.strip():
                self.codes[int(pid)] = int(code)
            else:
                self.pids.append(int(pid))

    def run(self, **job: Any) -> Life:
        before = len(self.pids)
        assert self.warm.stdin is not None
        self.warm.stdin.write(json.dumps(job) + "\n")
        self.warm.stdin.flush()
        until(lambda: len(self.pids) > before, "it is forked")
        return Life(self, self.pids[-1])

    def close(self) -> None:
        assert self.warm.stdin is not None
        assert self.warm.stdout is not None
        self.warm.stdin.close()
        self.warm.wait(60)
        self.reader.join()
        self.warm.stdout.close()


class Life:
    """One command line that runs."""

    def __init__(self, shell: Shell, pid: int):
        self.shell, self.pid = shell, pid

    def poll(self) -> int | None:
        return self.shell.codes.get(self.pid)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        until(lambda: self.poll() is not None, "it ends")
        return self.shell.codes[self.pid]


class Market:
    """The local exchange, and the processes that trade there."""

    def __init__(self, folder: Path, shell: Shell):
        self.shell = shell
        self.folder, self.store = folder, folder / "live.duckdb"
        self.exchange = Exchange()
        self.exchange.server = TradingExchange([VENUE])
        self.keys = DIALECTS[VENUE].keys
        self.running: list[Life] = []
        (folder / "plan.toml").write_text(PLAN)

    @property
    def server(self) -> Any:
        return self.exchange.server

    def run(self, *args: str, stdin: str, out: str, err: str) -> Life:
        """`smartorders …` in a process of its own."""
        keys = {"SMARTORDERS_BINANCE_KEY": self.keys.key, "SMARTORDERS_BINANCE_SECRET": self.keys.secret}
        env = {**keys, "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
        at, files = self.server.whereabouts(), [stdin, out, err]
        life = self.shell.run(at=at, args=args, cwd=str(self.folder), env=env, files=files)
        self.running.append(life)
        return life

    def start(self, *args: str, name: str = "a") -> Life:
        """`smartorders live …`, once it says that it has begun."""
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        out.touch()
        life = self.run("live", *args, stdin=os.devnull, out=str(out), err=str(err))
        until(lambda: "begun" in out.read_text() or "resumed" in out.read_text() or life.poll() is not None, "start")
        assert life.poll() is None, err.read_text()
        return life

    def said(self, name: str = "a") -> str:
        return (self.folder / f"{name}.out").read_text()

    def warned(self, name: str = "a") -> str:
        return (self.folder / f"{name}.err").read_text()

    def stop(self, life: Life) -> int:
        life.send_signal(signal.SIGINT)
        return life.wait()

    def move(self, price: float) -> None:
        self.exchange.do(lambda: self.server.move(SOL, price))

    def orders(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(command("orders", self.store, "--json"))
        return found

    def moved_until(self, condition: Callable[[], Any], why: Any = "") -> None:
        """The market trades on and on around one price."""

        def one() -> bool:
            self.move(150 + time.monotonic() % 1 / 10)
            time.sleep(0.05)
            return bool(condition())

        until(one, why)


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    made = Shell()
    yield made
    made.close()


@pytest.fixture
def market(tmp_path: Path, shell: Shell) -> Iterator[Market]:
    made = Market(tmp_path, shell)
    with made.exchange:
        try:
            yield made
        finally:
            for life in made.running:
                if life.poll() is None:
                    life.send_signal(signal.SIGKILL)
                life.wait()


def test_a_session_with_money_is_halted_and_released(market: Market) -> None:
    process = market.start("plan.toml", "--confirm", "live", "--log", "log.jsonl", "--protective-stop", "5%")
    banner = market.warned()
    assert banner.startswith(" LIVE: THIS TRADES WITH REAL MONEY \n")
    for words in (
        "exchange  binance",
        "keys      from SMARTORDERS_BINANCE_KEY, _SECRET",
        "session   “money” in live.duckdb, begins",
        "markets   SOL/USDT",
        "at most   2000 in one order, 5000 in one symbol, 20000 in a day (quote currency), 5 orders that open",
        "prices    limits within 20% of the last price, purchases at market up to 2% above it",
        "resting   a stop of each order, 5% beyond its own; it stays there when this ends",
        "to stop   smartorders halt live.duckdb, or create the file live.duckdb.STOP",
    ):
        assert words in banner
    assert " event=begun " in market.said()
    assert " mode=live " in market.said()
    market.moved_until(lambda: float(market.orders()[0]["held"] or 0) > 1.9, "bought")
    assert market.exchange.do(lambda: len(market.server.ledger().fills)) == 1
    waiting = lambda: [order for order in market.server.ledger().orders.values() if order.open and order.waiting]  # noqa: E731
    market.moved_until(lambda: len(market.exchange.do(waiting)) == 1, "its stop rests at the exchange")

    said = command("halt", market.store, "--why", "lunch")
    assert said.startswith(f"halted by {market.store}.STOP: nothing is sent any more; smartorders release")
    assert "1 open in session " in said
    assert "active" in said
    before = market.exchange.do(lambda: market.server.counts["create"])
    command("close", market.store, "0", "--yes")
    market.moved_until(lambda: market.orders()[0]["attention"] or "reason" in market.said(), "its exit is refused")
    until(lambda: "halted=" in market.said(), "it is said")
    assert market.exchange.do(lambda: market.server.counts["create"]) == before, "nothing was sent"

    assert "is on paper" not in command("release", market.store, "--yes")
    assert not Path(f"{market.store}.STOP").exists()
    market.moved_until(lambda: market.orders()[0]["status"] == "CLOSED", lambda: market.orders())
    assert market.exchange.do(lambda: len(market.server.ledger().fills)) == 2
    assert json.loads(command("orphans", market.store, "--json")) == []
    assert command("orphans", market.store).startswith("no orphans")
    assert market.stop(process) == 0

    again = market.start("plan.toml", "--confirm", "binance", name="b")
    assert "“money” in live.duckdb, goes on" in market.warned("b")
    assert " event=resumed " in market.said("b")
    assert " placed=0 " in market.said("b")
    assert market.stop(again) == 0
    texts = [path.read_bytes() for path in market.folder.iterdir() if path.is_file()]
    assert len(texts) > 6
    for secret in (market.keys.key, market.keys.secret):
        assert not [text for text in texts if secret.encode() in text], "no file has it"


def test_a_session_that_nobody_reaches_is_halted_by_the_file(market: Market) -> None:
    process = market.start("plan.toml", "--confirm", "live", "--no-serve", "--json")
    market.moved_until(lambda: '"kind": "filled"' in market.said(), "bought")
    said = command("halt", market.store)
    assert "the session that runs does not answer and holds the store" in said
    until(lambda: '"halted": "halted by the file' in market.said(), "it has seen it")
    assert market.stop(process) == 0
    told = json.loads(command("halt", market.store, "--json"))
    assert (told["halted"], told["reached"]) == (True, False)
    assert [order["status"] for order in told["orders"]] == ["ACTIVE"]
    said = command("halt", market.store)
    assert "no session answers" in said
    assert "1 open in session “money”" in said

    again = market.start("plan.toml", "--confirm", "live", "--order", LINK, name="b")
    assert f"{market.store.name}.STOP is there: nothing will be sent until smartorders release" in market.warned("b")
    until(lambda: len(market.orders()) == 2, "placed")
    market.moved_until(lambda: market.orders()[1]["status"] == "CANCELLED", "its entry is refused")
    assert market.exchange.do(lambda: market.server.counts["create"]) == 1
    assert market.stop(again) == 0
    assert command("release", market.store, "-y") == "released; no session answers, the next start goes on\n"
    assert "is not halted" in command("release", market.store, "-y", code=2)


def test_a_dry_run_shows_requests_and_sends_none(market: Market) -> None:
    process = market.start("plan.toml", "--dry-run")
    assert market.warned().startswith(" DRY RUN: nothing is sent to the exchange \n")
    assert "“money dry run” in live.duckdb" in market.warned()
    market.moved_until(lambda: float(market.orders()[0]["held"] or 0) > 1.9, "bought on paper")
    until(lambda: "what=create" in market.said(), "shown")
    (line,) = [line for line in market.said().splitlines() if "what=create" in line]
    for words in (
        "order=0",
        "method=POST",
        "url=https://api.binance.com/api/v3/order",
        "side=BUY",
        "price=15",
        "signature=***",
    ):
        assert words in line
    assert market.stop(process) == 0

    more = market.start("plan.toml", "--dry-run", "--order", LINK, "--json", name="b")
    market.moved_until(lambda: '"what": "create"' in market.said("b"), "shown as JSON")
    lines = [json.loads(line) for line in market.said("b").splitlines()]
    (shown,) = [line for line in lines if line["type"] == "request" and line["what"] == "create"]
    assert (shown["order"], shown["method"], shown["headers"]["X-MBX-APIKEY"]) == (1, "POST", "***")
    assert json.loads(command("sessions", market.store, "--json"))[0]["mode"] == "dry"
    assert market.stop(more) == 0
    assert market.server.asked == []
    assert market.keys.key not in market.said() + market.said("b") + market.warned()


@pytest.mark.parametrize(("typed", "code"), [("live", 0), ("yes", 2)])
def test_it_is_typed_at_a_terminal(typed: str, code: int, market: Market) -> None:
    ours, theirs = pty.openpty()
    where = os.ttyname(theirs)
    process = market.run("live", "plan.toml", "--json", stdin=where, out=where, err=where)
    shown = b""

    def read() -> bytes:
        nonlocal shown
        if select.select([ours], [], [], 0.05)[0]:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is gone
                time.sleep(0.02)
        return shown

    try:
        until(lambda: b"type live (or binance) to begin" in read(), lambda: shown)
        assert b"LIVE: THIS TRADES WITH REAL MONEY" in shown
        assert not market.store.exists()
        os.write(ours, typed.encode() + b"\n")
        if code == 0:
            until(lambda: b'"event": "begun"' in read(), lambda: shown)
            process.send_signal(signal.SIGINT)
        until(lambda: read() and process.poll() is not None, lambda: shown)
        read()
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.poll() == code, shown
    if code:
        assert b"error: not confirmed, so nothing was begun" in shown
        assert not market.store.exists()


BAD = [
    ("no terminal", ["live", "plan.toml"], 2, "this has to be confirmed, and there is no terminal to type at; pass --confirm live"),
    ("confirmed with yes", ["live", "plan.toml", "--confirm", "yes"], 2, "--confirm yes: must be live"),
    ("no exchange", ["live", "--order", LINK, "--store", "x.duckdb"], 2, "needs an exchange; pass --exchange binance"),
    ("unknown exchange", ["live", "plan.toml", "--exchange", "nyse"], 2, "nyse is not one that can be traded on; take one of binance"),
    ("no store", ["live", "--exchange", "okx", "--order", LINK], 2, "--store: is required"),
    ("no limits", ["live", "--exchange", "okx", "--order", LINK, "--store", "x.duckdb"], 2, "limits.symbols: is missing; there is"),
    ("limit of nothing", ["live", "plan.toml", "--max-day", "0"], 2, "limits.max_day = '0': must be more than 0"),
    ("limit unknown", ["live", "bad.toml"], 2, "limits.max_ordr = 5: is not a limit"),
    ("limits not a table", ["live", "worse.toml"], 2, "limits = 5: must be a table"),
    ("no keys", ["live", "plan.toml", "--confirm", "live"], 5, "the API key from SMARTORDERS_BINANCE_KEY, _SECRET and _PASSWORD is"),
    ("no keys of a profile", ["live", "plan.toml", "--profile", "second"], 5, "SMARTORDERS_BINANCE_SECOND_KEY, _SECRET"),
    ("halt nothing", ["halt", "none.duckdb"], 4, "none.duckdb: there is no such store"),
    ("release nothing", ["release", "none.duckdb", "-y"], 2, "is not halted; there is no none.duckdb.STOP"),
    ("orphans of nothing", ["orphans", "none.duckdb"], 4, "no session is served on this store"),
]  # fmt: skip


@pytest.mark.parametrize(("args", "code", "says"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_what_is_refused(
    args: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("smartorders_lab.keys._from_keyring", lambda *_: {})
    for name in ("KEY", "SECRET", "SECOND_KEY"):
        monkeypatch.delenv(f"SMARTORDERS_BINANCE_{name}", raising=False)
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "bad.toml").write_text(PLAN.replace("max_orders", "max_ordr"))
    (tmp_path / "worse.toml").write_text("limits = 5\n" + PLAN.replace("[limits]", "[other]"))
    if args[:2] == ["live", "plan.toml"] and code == 2 and "no terminal" in says:
        monkeypatch.setenv("SMARTORDERS_BINANCE_KEY", "some-key")
        monkeypatch.setenv("SMARTORDERS_BINANCE_SECRET", "some-secret")
    if "must be live" in says:
        monkeypatch.setenv("SMARTORDERS_BINANCE_KEY", "some-key")
        monkeypatch.setenv("SMARTORDERS_BINANCE_SECRET", "some-secret")
    assert says in command(*args, code=code)
    assert not list(tmp_path.glob("*.duckdb*")), "nothing was begun"


def test_paper_is_not_halted(tmp_path: Path) -> None:
    from smartorders_lab.feeds.recorded import recorded
    from smartorders_lab.serve import Server, discovery_path

    store = tmp_path / "p.duckdb"
    ticks = so.Ticks.read(Path(__file__).parents[1] / "data" / "sample_trades.parquet", symbol=SOL)
    with so.paper(feed=recorded(ticks), store=store) as session, Server(session, discovery=discovery_path(store)):
        assert "is on paper" in command("halt", store, code=2)
        assert not Path(f"{store}.STOP").exists()
        with so.connect(store) as remote:
            for switch in (remote.halt, remote.release, remote.orphans):
                with pytest.raises(so.ActionError, match="is for sessions that trade at an exchange"):
                    switch()


# ---------------------------------------------------------------------------------------------------- a process of its own


def patched(port: int, authority: str) -> None:
    """`smartorders` as users have it, but for where the exchange is."""
    import smartorders_lab.feeds.live as feeds
    import smartorders_lab.trading as trading

    far = Far(port, authority)

    def connect(name: str, keys: Any) -> Any:
        return parting(trader(name, far, **keys.for_ccxt()))

    trading.connect = connect
    feeds.LiveFeed = lambda name, **options: Local(name, far.port, **options)  # type: ignore[assignment,misc]


def child(job: dict[str, Any]) -> None:
    """One command line; ends the process."""
    end_with_parent()
    os.chdir(job["cwd"])
    os.environ.update(job["env"])
    for number, path in enumerate(job["files"]):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | (os.O_TRUNC if number else 0), 0o600), number)
    code: Any = 1
    try:
        patched(*job["at"])
        sys.argv = ["smartorders", *job["args"]]
        cli.main()
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))


def main() -> None:
    end_with_parent()
    warm()
    gc.collect()
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            child(json.loads(line))
        os.write(1, f"{pid}\n".encode())
        os.write(1, f"{pid} {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())


if __name__ == "__main__":
    main()
