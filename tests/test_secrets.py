"""Keys that are planted, and everything that a live session leaves behind searched for them: files, logs, errors, frames, streams.

The search has its own idea of how a key may be spelled. That it finds one is tested first.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import dataclasses
import io
import json
import logging
import os
import pickle
import shutil
import signal
import time
import traceback
import urllib.parse
import zlib
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trading_exchange
from local_exchange import closed
from session_process import Local, parting
from test_doctor import Patient
from test_live import LIMITS, Desk, buy
from test_live_cli import LINK, Market, Shell
from trading_exchange import DIALECTS, TradingExchange, _learn, trader
from typer.testing import CliRunner

import smartorders_lab as so
from smartorders_lab import keys as keys_module
from smartorders_lab import trading
from smartorders_lab.brokers.live import LiveBroker
from smartorders_lab.brokers.venues import FACTS, Venue
from smartorders_lab.cli import app
from smartorders_lab.errors import ExchangeError
from smartorders_lab.foreground import logged
from smartorders_lab.keys import Keys, Secret
from smartorders_lab.serve import Server, discovery_path

_learn()
SOL = "SOL/USDT"


def planted(venue: str) -> trading_exchange.Keys:
    """Keys that nothing else looks like: with letters that are written differently in addresses and JSON; of Coinbase a PEM."""
    key, secret = f'PlantedKey+of/{venue}=&%"x', f"PlantedSecret+of/{venue}=='\\"
    password = f"PlantedPass/{venue}+=#" if venue in keys_module.NEEDS_PASSWORD else ""
    if venue == "kraken":
        secret = base64.b64encode(
            b"planted\xff\xfe\xfd kraken secret, sixty-four bytes or a little more than that"
        ).decode()
    if venue == "coinbase":
        key, secret = "organizations/planted+/apiKeys/coinbase=", DIALECTS[venue].keys.secret
    return trading_exchange.Keys(key, secret, password)


def spellings(text: str) -> set[bytes]:
    """All ways in which a key can be written that anybody here knows of."""
    parts = [text, *text.split("\n")] if "\n" in text else [text]
    found: set[str] = set()
    for part in parts:
        if len(part) < 12 or ("PRIVATE KEY" in part and part != text):
            continue
        found |= {part, part.strip(), repr(part)[1:-1], json.dumps(part)[1:-1], part.encode().hex()}
        found |= {urllib.parse.quote(part), urllib.parse.quote(part, safe=""), urllib.parse.quote_plus(part)}
        found |= {json.dumps(one)[1:-1] for one in [*found]}
        found |= {part[:16], urllib.parse.quote_plus(part[:16])}  # cut off, or escaped once more than is tried here
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found |= {encode(part.encode()).decode(), encode(part.encode()).decode().rstrip("=")}
    return {one.encode() for one in found}


class Search:
    """What is searched for, and what has been gone through."""

    def __init__(self, venue: str):
        self.keys = planted(venue)
        self.wanted = {
            s for text in (self.keys.key, self.keys.secret, self.keys.password) if text for s in spellings(text)
        }
        self.seen: dict[str, int] = {}

    def leaks(self, data: Any) -> list[bytes]:
        raw = data if isinstance(data, bytes) else str(data).encode("utf-8", "surrogateescape")
        return [one for one in self.wanted if one in raw]

    def clean(self, where: str, data: Any) -> None:
        self.seen[where] = self.seen.get(where, 0) + len(data if isinstance(data, bytes) else str(data))
        assert not self.leaks(data), (where, self.leaks(data))

    def file(self, path: Path) -> None:
        self.clean(path.name, path.read_bytes())
        if path.suffix == ".parquet":
            import polars as pl

            self.clean(f"{path.name} as a table", pl.read_parquet(path).write_json())

    def database(self, path: Path) -> None:
        """Every value of every table, since a database packs what it keeps."""
        import duckdb

        with duckdb.connect(str(path), read_only=True) as store:
            for (table,) in store.execute("select table_name from information_schema.tables").fetchall():
                for row in store.execute(f'select * from "{table}"').fetchall():
                    for value in _values(row):
                        self.clean(f"{path.name}: {table}", value)

    def error(self, where: str, error: BaseException) -> None:
        """What is shown of an error: by Python, by rich and by IPython, with the local variables of every frame."""
        from IPython.core.ultratb import VerboseTB
        from rich.console import Console
        from rich.traceback import Traceback

        kind, trace = type(error), error.__traceback__
        while trace is not None and Path(trace.tb_frame.f_code.co_filename).parent == Path(__file__).parent:
            trace = trace.tb_next  # these frames know the keys that they have planted
        self.clean(where, "".join(traceback.format_exception(kind, error, trace)))
        self.clean(f"{where}, repr", repr(error) + str(error) + repr(error.args) + repr(vars(error)))
        told = traceback.TracebackException(kind, error, trace, capture_locals=True)
        self.clean(f"{where}, locals", "".join(told.format()))
        console = Console(file=io.StringIO(), width=500)
        console.print(
            Traceback.from_exception(
                kind, error, trace, show_locals=True, locals_max_string=None, locals_max_length=None
            )
        )
        self.clean(f"{where}, rich", console.file.getvalue())  # type: ignore[attr-defined]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            shown = VerboseTB(include_vars=True).text(kind, error, trace)
        self.clean(f"{where}, IPython", shown)
        with contextlib.suppress(Exception):
            self.clean(f"{where}, pickled", pickle.dumps(error))

    def thing(self, where: str, thing: Any) -> None:
        """What an object says of itself in any way that it can be asked."""
        for ask in (
            repr,
            str,
            format,
            lambda o: f"{o!r:>50}",
            lambda o: f"{[o]} {{{o}}}",
            lambda o: json.dumps({"x": o}, default=repr),
        ):
            self.clean(where, ask(thing))
        for ask in (pickle.dumps, json.dumps, lambda o: repr(copy.copy(o))):
            try:
                found = ask(thing)
            except Exception as error:
                self.clean(f"{where}, refused", repr(error))
            else:
                self.clean(f"{where}, copied", found)
        for name in ("_repr_html_", "_repr_mimebundle_"):
            if hasattr(thing, name):
                self.clean(f"{where}, {name}", getattr(thing, name)())


def _values(value: Any) -> Iterator[Any]:
    if isinstance(value, (list, tuple)):
        for one in value:
            yield from _values(one)
    elif value is not None:
        yield value
        if isinstance(value, bytes):
            with contextlib.suppress(zlib.error):
                yield zlib.decompress(value)


# ---------------------------------------------------------------------------------------------------- the search itself


@pytest.mark.parametrize("venue", FACTS)
def test_the_search_finds_what_is_there(venue: str, tmp_path: Path) -> None:
    import duckdb

    search = Search(venue)
    for text in (search.keys.key, search.keys.secret, search.keys.password):
        for said in (
            text,
            urllib.parse.urlencode({"x": text}),
            json.dumps({"x": text}),
            repr([text]),
            base64.b64encode(text.encode()),
        ):
            assert not text or search.leaks(said if isinstance(said, bytes) else said.encode()), said
    if venue == "coinbase":
        line = search.keys.secret.splitlines()[2]
        assert search.leaks(line)
        assert search.leaks(json.dumps({"pem": search.keys.secret}))
    with duckdb.connect(str(tmp_path / "x.db")) as store:
        store.execute("create table t (x blob)")
        store.execute("insert into t values (?)", [zlib.compress(search.keys.key.encode())])
    with pytest.raises(AssertionError, match=r"x\.db"):
        search.database(tmp_path / "x.db")

    scope: dict[str, Any] = {}
    exec(compile("def deep(header):\n    raise ValueError('nothing to see')", "elsewhere.py", "exec"), scope)
    try:
        scope["deep"](search.keys.key)
    except ValueError as error:
        with pytest.raises(AssertionError, match="locals"):
            search.error("here", error)


# ---------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("venue", FACTS)
def test_keys_show_themselves_nowhere(venue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    search, own = Search(venue), planted(venue)
    made = Keys(venue, own.key, own.secret, own.password)
    assert made.for_ccxt() == {"apiKey": own.key, "secret": own.secret} | (
        {"password": own.password} if own.password else {}
    )
    for name, thing in {"keys": made, "a part": made.key, "another": made.secret, "parts": [made.secret]}.items():
        search.thing(name, thing)
    for thing in (made.key, made):
        for way in (pickle.dumps, json.dumps, copy.deepcopy):
            with pytest.raises(TypeError):
                way(thing)  # type: ignore[operator]


def wrong(search: Search, *given: str) -> None:
    try:
        Keys(*given)
    except ExchangeError as error:
        search.error("keys that cannot be", error)
    else:
        raise AssertionError(given)


@pytest.mark.parametrize("venue", FACTS)
def test_keys_that_cannot_be_are_not_shown_either(venue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some tracebacks show local variables: there are none with a key in them."""
    search, own = Search(venue), planted(venue)
    wrong(search, venue, f" {own.key}", own.secret, own.password)
    wrong(search, venue, own.key, f"'{own.secret}'", own.password)
    wrong(search, venue, own.key, "", own.password)
    wrong(search, venue, f"{own.key}é", own.secret, own.password)
    monkeypatch.setattr("smartorders_lab.keys._from_keyring", lambda *_: {})
    prefix = f"SMARTORDERS_{venue.upper()}_"
    for name in ("KEY", "SECRET", "PASSWORD"):
        monkeypatch.delenv(prefix + name, raising=False)
    monkeypatch.setenv(f"{prefix}KEY", own.key)
    monkeypatch.setenv(f"{prefix}PASSWORD", own.password)
    with pytest.raises(ExchangeError, match="secret") as caught:
        Keys.find(venue)
    search.error("half a key", caught.value)


def test_whatever_is_logged_anywhere_is_scrubbed(tmp_path: Path) -> None:
    """By whom ever, to whatever handler, with wrong formats, with an error: the record has no key when it is made."""
    from rich.console import Console
    from rich.logging import RichHandler

    search, own, shown = Search("binance"), planted("binance"), io.StringIO()
    Secret(own.key)
    path = tmp_path / "any.log"
    handler = logging.FileHandler(path)
    other = logging.getLogger("some.other.library")
    other.addHandler(handler)
    other.setLevel(logging.DEBUG)
    other.propagate = False  # pytest raises on a wrong format, which is one of those to be tried
    try:
        other.warning(
            "headers %s of %s", {"X-MBX-APIKEY": own.key}, f"https://x/?k={urllib.parse.quote(own.key, safe='')}"
        )
        other.warning("%s, twice the same: " + own.key, "nothing")
        other.warning("nothing wrong with this one: %d of %s", 3, "three")
        with contextlib.redirect_stderr(io.StringIO()) as said:
            other.warning("too few %s %s", own.key)
        try:
            raise ValueError(own.key)
        except ValueError:
            other.exception("an error")
        scope: dict[str, Any] = {"__name__": "ccxt.somewhere"}
        exec(compile("def ask(header):\n    raise OSError('nothing to see')", "somewhere.py", "exec"), scope)
        other.removeHandler(handler)
        other.addHandler(
            rich := RichHandler(
                console=Console(file=shown, width=500), rich_tracebacks=True, tracebacks_show_locals=True
            )
        )
        try:
            scope["ask"](Secret(own.key).reveal())
        except OSError:
            other.exception("in ccxt")
        other.removeHandler(rich)
    finally:
        other.removeHandler(handler)
        other.propagate = True
        handler.close()
    search.file(path)
    search.clean("stderr", said.getvalue())
    search.clean("a handler that shows local variables", shown.getvalue())
    assert "nothing to see" in shown.getvalue()
    text = path.read_text()
    assert "nothing wrong with this one: 3 of three" in text
    assert text.replace(" ", "").count("ValueError:***") == 1
    assert "an error" in text


@pytest.mark.parametrize("venue", FACTS)
def test_a_verbose_client_prints_no_key(
    venue: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """ccxt prints the headers of every request when it is told to be verbose; one that is a user's own may be."""
    search, own = Search(venue), planted(venue)
    monkeypatch.setattr(DIALECTS[venue], "keys", own)
    keys = Keys(venue, own.key, own.secret, own.password)

    async def ask() -> None:
        async with TradingExchange([venue]) as server:
            client = trader(venue, server, **keys.for_ccxt(), verbose=True)
            made = Venue(venue, lambda: client)
            await made.open()
            await made.balances()
            await closed(client)

    asyncio.run(ask())
    said = capfd.readouterr()
    assert "fetch Request" in said.out
    search.clean("stdout", said.out)


# ---------------------------------------------------------------------------------------------------- a session


class Planted(Desk):
    """A desk with planted keys, whose client goes the way of a user's: `live(keys=...)` and `connect`."""

    def __init__(self, venue: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
        super().__init__(venue, folder)
        self.keys = planted(venue)
        monkeypatch.setattr(DIALECTS[venue], "keys", self.keys)
        monkeypatch.setattr(trading, "connect", self.connected)

    def connected(self, name: str, keys: Keys) -> Any:
        """The client of `connect`, and the way to the local exchange."""
        given = keys.for_ccxt()
        assert given["apiKey"] == self.keys.key
        return parting(trader(name, self.server, **given))

    def start(self, **how: Any) -> so.Session:
        keys = Keys(self.venue, self.keys.key, self.keys.secret, self.keys.password)
        feed = Local(self.venue, self.server.port)
        self.session = trading.live(
            self.venue,
            store=self.store,
            confirm="live",
            limits=LIMITS,
            feed=feed,
            keys=keys,
            keep_ticks=self.store.parent / "ticks",
            **how,
        )
        return self.session


@contextlib.contextmanager
def everything_logged(path: Path) -> Iterator[None]:
    root, quiet = logging.getLogger(), logging.getLogger("numba")
    handler = logging.FileHandler(path)
    before = root.level, quiet.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    quiet.setLevel(logging.WARNING)  # it tells its every step of compiling
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before[0])
        quiet.setLevel(before[1])
        handler.close()


@pytest.mark.parametrize("venue", FACTS)
def test_a_session_leaves_no_key_behind(
    venue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    monkeypatch.setattr(LiveBroker, "patience_s", 0.3)
    search, heard = Search(venue), []
    desk = Planted(venue, tmp_path, monkeypatch)
    with contextlib.ExitStack() as stack:
        stack.enter_context(everything_logged(tmp_path / "everything.log"))
        stack.enter_context(logged(tmp_path / "live.jsonl"))
        stack.enter_context(desk.exchange)
        dialect: Any = desk.ledger.dialect
        session = desk.start()
        stack.callback(lambda: desk.session.close())
        with (
            Server(session, discovery=discovery_path(desk.store)) as server,
            so.connect(server.url, server.token) as remote,
        ):
            remote.on_event(heard.append)
            session.on_event(heard.append)
            _live(desk, session, dialect)
            search.clean("the stream", heard)
            search.clean(
                "state and changes", [remote.state(), remote.orders(), remote.events(), session.changes(limit=None)]
            )
            search.clean("a link", remote.share(0))
        for name, thing in {
            "session": session,
            "broker": session.broker,
            "venue": session.broker.venue,
            "client": session.broker.venue.client,
            "guard": session.broker.guard,
        }.items():
            search.thing(name, thing)
        for left in tmp_path.glob("live.duckdb*"):
            if left.is_file():
                shutil.copy(left, tmp_path / f"copy of {left.name.replace('duckdb', 'store')}")
        session.compact()  # ticks are written, too
        notebook(tmp_path / "cell.ipynb", session, _error(session))
        _crash(desk, session)
        assert session.error is not None
        search.error("what stopped it", session.error)
        with pytest.raises(so.SmartOrdersError) as caught:
            session.orders()
        search.error("a session that has stopped", caught.value)
        session.close()
        dialect.denied = "key"
        with pytest.raises(ExchangeError) as refused:
            desk.start()
        search.error("keys that are rejected", refused.value)
        dialect.denied = ""
        monkeypatch.setattr(
            dialect, "keys", trading_exchange.Keys(desk.keys.key, planted("gate").secret + "AAAA", desk.keys.password)
        )
        if venue != "coinbase":
            with pytest.raises(ExchangeError) as refused:
                desk.start()
            search.error("a wrong signature", refused.value)
    said = capfd.readouterr()
    search.clean("stdout", said.out)
    search.clean("stderr", said.err)
    search.database(desk.store)
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            search.file(path)
    assert "Request" in (tmp_path / "everything.log").read_text(errors="replace"), "ccxt has logged its requests"
    assert {
        "live.duckdb",
        "everything.log",
        "live.jsonl",
        "cell.ipynb",
        "stdout",
        "the stream",
        "a link",
    } <= search.seen.keys()
    assert any(name.endswith(".parquet") for name in search.seen)


def _live(desk: Planted, session: so.Session, dialect: Any) -> None:
    """Orders, and faults whose errors carry all that was sent."""
    first = session.place(buy(2, take_profits=[(170, 100)]))
    desk.move(150)
    desk.until(lambda: Decimal(session.order(first)["held"] or 0) > Decimal("1.9"), "bought")
    refuse = dialect.refusal

    def echo(what: str, detail: str, ask: Any) -> Any:
        """A refusal that quotes what it was sent, as proxies and gateways do."""
        status, answer = refuse(what, detail, ask)
        return status, {"quoted": desk.keys.key, **answer, "sent": str(dict(ask.headers))} if isinstance(
            answer, dict
        ) else answer

    def once(fault: str) -> None:
        desk.exchange.do(lambda: desk.server.fault(fault))

    desk.exchange.do(lambda: setattr(dialect, "refusal", echo))
    desk.exchange.do(lambda: desk.ledger.total.update(USDT=Decimal(1)))
    second = session.place(buy(2))
    desk.move(151)
    desk.until(lambda: "rejected" in session.events(second)["kind"].to_list(), "refused, with an echo")
    desk.exchange.do(lambda: desk.ledger.total.update(USDT=Decimal(10_000)))
    once("busy before")
    session.reduce_funds(first, quantity="0.5")
    desk.until(lambda: Decimal(session.order(first)["held"]) < Decimal("1.6"), "reduced")


def _error(session: so.Session) -> BaseException:
    try:
        session.edit(0, stop_loss=10_000)
    except so.SmartOrdersError as error:
        return error
    raise AssertionError


def _crash(desk: Planted, session: so.Session) -> None:
    """A mistake in a worker."""

    async def told(*_: Any) -> Any:
        raise TypeError("'NoneType' object is not subscriptable")

    session.broker.venue.find = told
    session.close_at_market(0)
    end = time.monotonic() + 60
    while session.error is None:
        assert time.monotonic() < end
        time.sleep(0.01)


def notebook(path: Path, session: so.Session, error: BaseException) -> None:
    """A notebook with a cell that shows the session and one that fails, as Jupyter saves it."""
    import nbformat
    from IPython.core.ultratb import VerboseTB
    from nbformat import v4

    shown = v4.new_output("display_data", data={"text/html": session._repr_html_(), "text/plain": repr(session)})
    failed = v4.new_output(
        "error",
        ename=type(error).__name__,
        evalue=str(error),
        traceback=VerboseTB(include_vars=True).text(type(error), error, error.__traceback__).splitlines(),
    )
    cells = [v4.new_code_cell("session", outputs=[shown]), v4.new_code_cell("session.edit(0)", outputs=[failed])]
    nbformat.write(v4.new_notebook(cells=cells), path)


# ---------------------------------------------------------------------------------------------------- the command line


class Shop(Market):
    """Command lines in processes of their own, with planted keys in their environment, at an exchange that quotes what it is sent."""

    def __init__(self, folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(DIALECTS["binance"], "keys", planted("binance"))
        super().__init__(folder, shell)
        self.search, self.dialect = Search("binance"), self.server.ledger().dialect
        quotes(monkeypatch, self.dialect)

    def fails(self, name: str, *args: str, code: int) -> str:
        """What a command line says that is not let in."""
        out, err = self.folder / f"{name}.out", self.folder / f"{name}.err"
        life = self.run(*args, stdin=os.devnull, out=str(out), err=str(err))
        assert life.wait() == code, err.read_text()
        return out.read_text() + err.read_text()

    def asked(self, *args: str | Path) -> str:
        """What a command line of another shell says."""
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, [str(arg) for arg in args])
        self.search.clean(f"smartorders {args[0]}", result.stdout + result.stderr)
        assert result.exit_code == 0, result.stderr
        return result.stdout


def mistaken(*_: Any) -> Any:
    """What is wrong has nothing to do with keys; where it happens they are in the frames."""
    raise TypeError("'NoneType' object is not subscriptable")


def quotes(monkeypatch: pytest.MonkeyPatch, dialect: Any) -> None:
    """Have refusals quote all that was sent, as proxies and gateways do."""
    refuse = dialect.refusal

    def echo(what: str, detail: str, ask: Any) -> Any:
        status, answer = refuse(what, detail, ask)
        if isinstance(answer, dict):
            if "msg" in answer:  # of some errors ccxt tells this alone
                answer["msg"] = f"{dialect.keys.key}: {answer['msg']}"
            answer = {"quoted": dialect.keys.key, "by": dialect.keys.secret, **answer, "sent": str(dict(ask.headers))}
        return status, answer

    monkeypatch.setattr(dialect, "refusal", echo)


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    made = Shell()
    yield made
    made.close()


@pytest.fixture
def shop(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    made = Shop(tmp_path, shell, monkeypatch)
    with made.exchange:
        try:
            yield made
        finally:
            for life in made.running:
                if life.poll() is None:
                    life.send_signal(signal.SIGKILL)
                life.wait()


def test_commands_print_no_key(shop: Shop) -> None:
    """What a session prints, logs and stores, and what other shells are told of it, also while its orders are refused."""
    process = shop.start("plan.toml", "--confirm", "live", "--json", "--log", "log.jsonl")
    shop.moved_until(lambda: '"kind": "filled"' in shop.said(), "bought")
    shop.exchange.do(lambda: shop.server.ledger().total.update(USDT=Decimal(1)))
    shop.asked("place", shop.store, LINK)
    shop.moved_until(lambda: '"rejected"' in shop.said(), "refused, with an echo")
    link = shop.asked("share", shop.store, "0")
    assert link.startswith("solab1:")
    for args in (
        ["halt", shop.store, "--json"], ["halt", shop.store], ["orders", shop.store], ["release", shop.store, "-y"],
        ["orphans", shop.store], ["orphans", shop.store, "--json"],
    ):  # fmt: skip
        assert shop.asked(*args)
    assert shop.stop(process) == 0
    for args in (
        ["halt", shop.store], ["release", shop.store, "-y"], ["sessions", shop.store, "--json"], ["events", shop.store, "--json"],
    ):  # fmt: skip
        assert shop.asked(*args)  # nobody is there
    shop.search.database(shop.store)
    for path in sorted(shop.folder.rglob("*")):
        if path.is_file():
            shop.search.file(path)
    assert {"a.out", "a.err", "log.jsonl", "plan.toml", "smartorders share"} <= shop.search.seen.keys()


def test_a_start_that_fails_prints_no_key(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the traceback of --debug, and where keys are not let in, are wrong, or cannot be any."""
    own, begin = shop.keys, ["--debug", "live", "plan.toml", "--confirm", "live"]

    def said(name: str, words: str, *more: str) -> None:
        text = shop.fails(name, *begin, *more, code=5)
        assert words in text, text
        assert "Traceback" in text
        shop.search.clean(name, text)

    shop.dialect.denied = "key"
    said("rejected", "binance: cannot be traded on: ")
    shop.dialect.denied = ""
    with monkeypatch.context() as patch:
        patch.setattr(shop.dialect, "keys", dataclasses.replace(own, secret="another"))
        said("a wrong secret", "binance: cannot be traded on: ", "--json", "--log", "log.jsonl")
    shop.keys = dataclasses.replace(own, key=f" {own.key}")
    said("spaces around", "has spaces, line ends or quotes around it")
    shop.keys = dataclasses.replace(own, secret="")
    said("half a key", "the API secret from SMARTORDERS_BINANCE_KEY, _SECRET and _PASSWORD is missing")
    for path in sorted(shop.folder.rglob("*")):
        if path.is_file():
            shop.search.file(path)


def test_a_dry_run_leaves_no_key_behind(shop: Shop) -> None:
    process = shop.start("plan.toml", "--dry-run", "--json", "--log", "log.jsonl")
    shop.moved_until(lambda: float(shop.orders()[0]["held"] or 0) > 1.9, "bought on paper")
    shop.asked("close", shop.store, "0", "--yes")
    shop.moved_until(lambda: shop.said().count('"what": "create"') > 1, "its sale is shown")
    assert shop.stop(process) == 0
    shop.search.database(shop.store)
    for path in sorted(shop.folder.rglob("*")):
        if path.is_file():
            shop.search.file(path)
    assert [name for name in shop.search.seen if name.endswith(".paper")]
    assert '"X-MBX-APIKEY": "***"' in shop.said()


@pytest.mark.parametrize("venue", FACTS)
def test_a_doctor_prints_no_key(venue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all is well, with an order, and where everything is refused with a quotation of what was sent."""
    monkeypatch.setattr(DIALECTS[venue], "keys", planted(venue))
    search, patient = Search(venue), Patient(venue, monkeypatch)
    dialect: Any = patient.dialect
    quotes(monkeypatch, dialect)

    def examined(where: str, *more: str, code: int) -> None:
        result = CliRunner(env={"COLUMNS": "400"}).invoke(app, ["doctor", venue, "--symbol", SOL, *more])
        assert result.exit_code == code, result.stdout + result.stderr
        assert "may trade" in result.stdout
        search.clean(where, result.stdout + result.stderr)

    with patient.exchange:
        patient.move(150)
        examined("well", "--smallest-order", "--yes", "--json", code=0)
        dialect.denied = "key"
        examined("refused", "--smallest-order", "--yes", code=1)


# ---------------------------------------------------------------------------------------------------- the rest of what is written


@pytest.mark.parametrize("venue", FACTS)
def test_requests_of_a_dry_run_have_no_key(venue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has signed it shows to whoever asks, at all eight; and the file of the paper exchange."""
    search, desk = Search(venue), Planted(venue, tmp_path, monkeypatch)
    with desk.exchange:
        session = desk.start(dry_run=True)
        try:
            oid = session.place(buy(2))
            desk.move(150)
            desk.until(lambda: Decimal(session.order(oid)["held"] or 0) > Decimal("1.9"), "bought on paper")
            requests = session.broker.requests
            assert "create" in {request.what for request in requests}
            for request in requests:
                search.thing("a request", request)
                search.clean("a request as data", json.dumps(request.to_dict()))
            search.clean("a link", session.share(oid))
            session.compact()
        finally:
            session.close()
    search.database(desk.store)
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            search.file(path)
    assert [name for name in search.seen if name.endswith(".paper")]


def test_the_file_of_what_rests_at_the_exchange_has_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search, desk = Search("binance"), Planted("binance", tmp_path, monkeypatch)
    with desk.exchange:
        session = desk.start(protective_stop="2%")
        try:
            oid = session.place(buy(2, stop_loss=140))
            desk.move(150)

            def written() -> list[Path]:
                return [path for path in tmp_path.glob(f"{desk.store.name}.{session.id}.*") if path.stat().st_size]

            desk.until(lambda: desk.exchange.do(lambda: desk.ledger.listed(open=True)), "it is protected")
            desk.until(written, "which is written down")
            for path in written():
                search.file(path)
            session.close_at_market(oid)
            desk.is_(oid, "CLOSED")
        finally:
            session.close()
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            search.file(path)


@pytest.mark.parametrize("venue", ["binance", "coinbase"])
def test_a_session_that_fails_at_its_start_shows_no_key(
    venue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that are not let in, an exchange that is not there, and a mistake of ours or of ccxt's: in every way to show an error."""
    search, desk = Search(venue), Planted(venue, tmp_path, monkeypatch)

    def fails(where: str, kind: type[Exception]) -> None:
        with pytest.raises(kind) as caught:
            desk.start()
        search.error(where, caught.value)

    with contextlib.ExitStack() as stack:
        stack.enter_context(everything_logged(tmp_path / "everything.log"))
        stack.enter_context(desk.exchange)
        dialect: Any = desk.ledger.dialect
        quotes(monkeypatch, dialect)
        dialect.denied = "key"
        fails("not let in", ExchangeError)
        dialect.denied = ""
        with monkeypatch.context() as patch:
            patch.setattr(Venue, "balances", mistaken)
            fails("a mistake", TypeError)
        with monkeypatch.context() as patch:
            patch.setattr(trading, "connect", lambda name, keys: mistaken(keys))
            fails("a client that cannot be made", TypeError)
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file():
            search.file(path)
