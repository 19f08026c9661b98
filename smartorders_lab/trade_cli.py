"""The commands of trading on paper: `smartorders paper`, and what another shell does to the session that it runs.

    smartorders paper plan.toml                    # until Ctrl-C; the same command goes on where it was
    smartorders orders lab.duckdb                  # from another shell, as are all below
    smartorders edit lab.duckdb 0 stop_loss=96 break_even=true
    smartorders close lab.duckdb 0 --yes

A session serves itself on 127.0.0.1 while it runs and says where in `<store>.session`; that is how the other commands find it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import cli
from .cli import INTERRUPTED, Json, Limit, StoreFile, _open, _UsageError, app
from .errors import PlanError, Problem, SmartOrdersError, SpecError, StoreError

if TYPE_CHECKING:
    from .paper_plan import PaperPlan
    from .remote import Remote
    from .spec import SmartOrder
    from .store import Store

UNLIKE = 1
"""Exit code of `verify` where a session is not what its ticks make of it."""
_PANEL = "Paper trading"

OrderNumber = Annotated[int, typer.Argument(metavar="ORDER", min=0, help="Number of the order, counted from 0.")]
Version = Annotated[
    int | None,
    typer.Option("--version", min=0, help="The version that was looked at; refused if it is another by now."),
]
Quantity = Annotated[str | None, typer.Option("--quantity", help="How much, in coins.")]
AtPrice = Annotated[str | None, typer.Option("--price", help="A limit; left out: at market.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


# ---------------------------------------------------------------------------------------------------- paper


@app.command("paper", rich_help_panel=_PANEL)
def paper_command(
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN.toml]", help="Orders, [session], [fills], [store] and [ticks].")
    ] = None,
    exchange: Annotated[str | None, typer.Option("--exchange", help="Live ticks: binance, bybit, okx …")] = None,
    order: Annotated[
        list[str], typer.Option("--order", metavar="LINK|JSON", help="An order to place; may be repeated.")
    ] = [],  # noqa: B006
    store: Annotated[Path | None, typer.Option("--store", help="The DuckDB file that it lives in.")] = None,
    name: Annotated[str, typer.Option("--name", help="The session of this name is resumed if it is there.")] = "",
    recorded: Annotated[Path | None, typer.Option("--recorded", metavar="FILE", help="Recorded ticks instead.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Of the recorded ticks.")] = None,
    speed: Annotated[
        str | None, typer.Option("--speed", help="Of recorded ticks: 60 is a minute a second; max.")
    ] = None,
    keep_ticks: Annotated[
        Path | None, typer.Option("--keep-ticks", metavar="FOLDER", help="Keep the ticks it sees, to be replayed.")
    ] = None,
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop once the recorded ticks have ended or all orders are over.")
    ] = False,
    balance: Annotated[
        list[str], typer.Option("--balance", metavar="USDT=1000", help="What the account has; may be repeated.")
    ] = [],  # noqa: B006
    fee_taker: Annotated[str | None, typer.Option("--fee-taker", help="0.1%")] = None,
    fee_maker: Annotated[str | None, typer.Option("--fee-maker", help="0.1%")] = None,
    slippage: Annotated[str | None, typer.Option("--slippage", help="Of market orders: 0.01%")] = None,
    latency: Annotated[str | None, typer.Option("--latency", help="From trigger to arrival: 50ms")] = None,
    poll: Annotated[str | None, typer.Option("--poll", help="Look only at the last price of each 500ms.")] = None,
    outlier: Annotated[str | None, typer.Option("--outlier", help="Guard against outlier prints: 5%, none.")] = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Let other shells of this user steer it.")] = True,
    log_file: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Also append JSON lines to it.")
    ] = None,
    json: Json = False,
) -> None:
    """Trade on paper until stopped. The same command goes on where it was, also after a crash; nothing is placed twice.

    On a terminal the orders are a table that moves; otherwise each change is a line. Ctrl-C or SIGTERM stop it cleanly; while it does
    not run, nothing triggers. Ctrl-C twice stops at once, which loses nothing either. From another shell, orders and events show what
    happens, and place, edit, add, reduce, open-now, close, cancel, refresh and share do what they say.

    \b
    smartorders paper plan.toml
    smartorders paper --exchange okx --order solab1:eyJl… --store lab.duckdb
    smartorders paper plan.toml --recorded sol.parquet --speed 60 --until-end
    smartorders paper plan.toml --json --log paper.log
    """
    if exchange is not None and recorded is not None:
        raise _UsageError("--exchange and --recorded cannot stand together; keep one")
    from .foreground import Stop, logged, run

    wanted = _wanted(plan, order, store, name)
    fees = {"fee_taker": fee_taker, "fee_maker": fee_maker, "slippage": slippage, "latency": latency}
    options = _options(wanted, {key: value for key, value in fees.items() if value is not None}, balance, poll, outlier)
    warned = [(key, warning) for key, spec in wanted.orders for warning in spec.warnings()]
    for key, warning in warned:
        cli._say("warning", str(warning) if len(wanted.orders) == 1 else f"{key}.{warning}")
    with ExitStack() as stack:
        if log_file is not None:
            stack.enter_context(logged(log_file))
        stop = stack.enter_context(Stop())
        source: dict[str, Any]
        if recorded is None and (exchange or wanted.session.exchange):
            source = {"exchange": exchange or wanted.session.exchange}
            if speed is not None or symbol is not None:
                raise _UsageError("--speed and --symbol are for recorded ticks; leave them out")
        else:
            source = {"feed": _recorded(wanted, recorded, symbol, speed)}
        from .session import paper

        assert wanted.store is not None
        before = _before(wanted.store)
        session = stack.enter_context(
            paper(store=wanted.store, name=wanted.name, keep_ticks=keep_ticks, **source, **options)
        )
        run(session, wanted, stop, before.get(session.name), serve, until_end, json)


def _wanted(path: Path | None, orders: list[str], store: Path | None, name: str) -> PaperPlan:
    """What a command line asks for: the plan, and what is changed of it."""
    from .paper_plan import PaperPlan, SessionTable, keyed

    wanted = PaperPlan([], SessionTable()) if path is None else PaperPlan.read(path)
    more = keyed(_order(text) for text in orders)
    wanted = replace(wanted, orders=[*wanted.orders, *more], store=store or wanted.store, name=name or wanted.name)
    if wanted.store is None:
        where = "--store" if path is None else "store.path"
        raise PlanError(Problem(where, None, "is required: a session is resumed from it", "pass --store lab.duckdb"))
    return wanted


def _order(text: str) -> SmartOrder:
    """An order as a share link or as JSON."""
    from .links import SCHEME
    from .spec import SmartOrder

    return SmartOrder.from_link(text) if text.strip().startswith(SCHEME) else SmartOrder.from_json(text)


def _options(
    wanted: PaperPlan, fees: dict[str, str], balances: list[str], poll: str | None, outlier: str | None
) -> dict[str, Any]:
    """Arguments of paper(): those of the plan, and what the command line says instead."""
    from .fills import FillModel

    found: dict[str, Any] = {"fills": wanted.fills, "balances": wanted.session.balances}
    if fees:
        found["fills"] = FillModel(**{**(wanted.fills.to_dict() if wanted.fills else {}), **fees})
    if balances:
        found["balances"] = {}
        for item in balances:
            currency, equals, amount = item.partition("=")
            if not (equals and currency and amount):
                raise _UsageError(f"--balance {item}: must be CURRENCY=AMOUNT; write --balance USDT=1000")
            found["balances"][currency.strip()] = amount.strip()
    found["poll_interval"] = poll or wanted.poll_interval
    guard = outlier if outlier is not None else wanted.session.outlier
    return found if guard == "unset" else {**found, "outlier": None if guard == "none" else guard}


def _recorded(wanted: PaperPlan, file: Path | None, symbol: str | None, speed: str | None) -> Any:
    """A feed of recorded ticks that waits until all orders are placed."""
    from .feeds.recorded import recorded
    from .paper_plan import speed_of

    try:
        fast = wanted.session.speed if speed is None else speed_of(speed)
    except ValueError as error:
        raise SpecError.one("--speed", speed, str(error)) from None
    if file is None and (wanted.source is None or "ticks" not in wanted.source.data):
        raise _UsageError("paper: needs ticks; pass --exchange binance, --recorded FILE or a plan")
    if wanted.source is None and symbol is None and len({order.symbol for _, order in wanted.orders}) != 1:
        raise _UsageError(f"--recorded {file}: does not say of which symbol; pass --symbol BTC/USDT")
    return recorded(wanted.ticks(None if file is None else os.path.abspath(file), symbol), fast, paused=True)


def _before(path: Path) -> dict[str, int]:
    """How many events the sessions of a store have had so far, by name."""
    if not path.exists():
        return {}
    with _open(path) as store:
        found = store.sessions()
    return dict(zip(found["name"].to_list(), found["events"].to_list(), strict=True))


# ---------------------------------------------------------------------------------------------------- from another shell


@app.command("place", rich_help_panel=_PANEL)
def place_command(
    store: StoreFile, order: Annotated[str, typer.Argument(metavar="LINK|JSON", help="The order.")], json: Json = False
) -> None:
    """Place an order in the session that runs on a store.

    \b
    smartorders place lab.duckdb solab1:eyJlbnRyeSI6….1f3a9c2e
    """
    spec = _order(order)
    for warning in spec.warnings():
        cli._say("warning", str(warning))
    _do(store, json, lambda session: session.place(spec))


@app.command("edit", rich_help_panel=_PANEL)
def edit_command(
    store: StoreFile,
    order: OrderNumber,
    changes: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE", help="stop_loss=96; stop_loss= takes it out.")],
    version: Version = None,
    force: Annotated[bool, typer.Option("--force", help="Also what would trigger at once.")] = False,
    json: Json = False,
) -> None:
    """Change fields of a living order; values are as in a plan.

    \b
    smartorders edit lab.duckdb 0 stop_loss=96 break_even=true
    smartorders edit lab.duckdb 0 'take_profits=[["+2%", 50]]' --version 7
    smartorders edit lab.duckdb 0 trailing_stop=
    """
    given = _changes(changes)
    _do(store, json, lambda session: session.edit(order, version=version, force=force, **given))


@app.command("add", rich_help_panel=_PANEL)
def add_command(
    store: StoreFile,
    order: OrderNumber,
    quantity: Quantity = None,
    cost: Annotated[str | None, typer.Option("--cost", help="How much, in quote currency.")] = None,
    price: AtPrice = None,
    version: Version = None,
    json: Json = False,
) -> None:
    """Buy more for an order; what it watches moves with the average entry.

    \b
    smartorders add lab.duckdb 0 --cost 500
    smartorders add lab.duckdb 0 --quantity 2 --price 148.5
    """
    if (quantity is None) == (cost is None):
        raise _UsageError("add: needs one of --quantity and --cost; write --cost 500")
    _do(
        store,
        json,
        lambda session: session.add_funds(order, quantity=quantity, cost=cost, price=price, version=version),
    )


@app.command("reduce", rich_help_panel=_PANEL)
def reduce_command(
    store: StoreFile,
    order: OrderNumber,
    quantity: Annotated[str, typer.Option("--quantity", help="How much, in coins.")],
    price: AtPrice = None,
    version: Version = None,
    json: Json = False,
) -> None:
    """Sell some of what an order holds.

    \b
    smartorders reduce lab.duckdb 0 --quantity 2
    """
    _do(
        store,
        json,
        lambda session: session.reduce_funds(order, quantity=quantity, price=price, version=version),
    )


@app.command("open-now", rich_help_panel=_PANEL)
def open_now_command(store: StoreFile, order: OrderNumber, version: Version = None, json: Json = False) -> None:
    """Let an order wait for its entry no longer: the rest is bought at market.

    \b
    smartorders open-now lab.duckdb 0
    """
    _do(store, json, lambda session: session.open_now(order, version=version))


@app.command("close", rich_help_panel=_PANEL)
def close_command(
    store: StoreFile, order: OrderNumber, version: Version = None, yes: Yes = False, json: Json = False
) -> None:
    """Sell everything that an order holds, at market, and end it.

    \b
    smartorders close lab.duckdb 0 --yes
    """
    ask = "close order {order} ({what}): sell {held} at market, now?"
    _do(store, json, lambda session: session.close_at_market(order, version=version), (order, ask, yes))


@app.command("cancel", rich_help_panel=_PANEL)
def cancel_command(
    store: StoreFile, order: OrderNumber, version: Version = None, yes: Yes = False, json: Json = False
) -> None:
    """End an order without selling: what it holds stays, and nothing protects it any more.

    \b
    smartorders cancel lab.duckdb 0 --yes
    """
    ask = "cancel order {order} ({what}): the {held} that it holds stay, without stop and levels?"
    _do(store, json, lambda session: session.cancel(order, version=version), (order, ask, yes))


@app.command("refresh", rich_help_panel=_PANEL)
def refresh_command(
    store: StoreFile,
    order: Annotated[int | None, typer.Argument(metavar="[ORDER]", min=0, help="Left out: all.")] = None,
    json: Json = False,
) -> None:
    """Have the session look up at its broker what is under way.

    \b
    smartorders refresh lab.duckdb
    """
    with _session(store) as session:
        done = session.refresh(order)
    if json:
        cli._print_json(done)
    else:
        print(f"{done['looked_up']} child orders looked up")


@app.command("sessions", rich_help_panel=_PANEL)
def sessions_command(store: StoreFile, limit: Limit = None, json: Json = False) -> None:
    """List the sessions of a store, or the one that is running on it.

    \b
    smartorders sessions lab.duckdb
    """
    import polars as pl

    live = _live(store)
    if live is not None:
        with live as session:
            state = session.state()
        from .serve import find

        where = find(store)
        row = {name: state[name] for name in ("session", "name", "mode", "status")}
        row |= {
            "orders": len(state["orders"]),
            "events": state["seq"],
            "pid": where["pid"],
            "started": where["started"],
        }
        frame = pl.DataFrame([row])
        cli._print_frame(f"Running on {store}; the others can be seen when it is stopped", frame, json, limit)
        return
    with _open(store) as opened:
        frame = opened.sessions()
    cli._print_frame(f"Sessions of {store}", frame, json, limit)


@app.command("verify", rich_help_panel=_PANEL)
def verify_command(
    store: StoreFile,
    session: Annotated[str | None, typer.Argument(metavar="[SESSION]", help="Id or name; left out: the last.")] = None,
    json: Json = False,
) -> None:
    """Live through a stopped session again and compare: its ticks and actions must lead to what it says came of them.

    \b
    smartorders verify lab.duckdb ladders
    """
    from .verify import verify

    if session is None:
        with _open(store) as opened:
            ids = opened.sessions()["session"].to_list()
        if not ids:
            raise StoreError(f"{store}: holds no sessions; smartorders paper begins one")
        session = ids[-1]
    verdict = verify(store, session)
    if json:
        cli._print_json({"session": session, "ok": verdict.ok, "verdict": str(verdict)})
    else:
        print(verdict)
    if not verdict.ok:
        raise typer.Exit(UNLIKE)


def share_of(store: Path, order: int, as_json: bool) -> None:
    """`smartorders share STORE ORDER`: the link of an order as it stands."""
    with _session(store) as session:
        found = session.share(order)
    if as_json:
        cli._print_json(found)
    else:
        print(found["link"])


@contextmanager
def _session(store: Path) -> Iterator[Remote]:
    """The session that runs on a store. One that does not answer is worth another try: exit code 75."""
    from .remote import connect

    try:
        with connect(store) as session:
            yield session
    except SmartOrdersError as error:
        if type(error) is not SmartOrdersError:
            raise
        raise typer.Exit(cli._failed([" ".join(str(error).split())], INTERRUPTED)) from None


def _do(
    store: Path,
    as_json: bool,
    act: Callable[[Remote], dict[str, Any]],
    ask: tuple[int, str, bool] | None = None,
) -> None:
    """Have the session do something, and say how the order stands then."""
    from .screen import number

    with _session(store) as session:
        if ask is not None:
            _confirm(session, *ask)
        result = act(session)
        if as_json:
            cli._print_json(result)
            return
        state = next(each for each in session.state()["orders"] if each["order"] == result["order"])
    words = [f"order {result['order']} is {_word(state['status'])}", f"version {state['version']}"]
    words += [f"{what} {number(state[name])}" for what, name in (("holds", "held"), ("stop", "stop")) if state[name]]
    print(", ".join(words))


def _confirm(session: Remote, order: int, ask: str, yes: bool) -> None:
    """Ask whether it is meant, if there is somebody to ask."""
    from .screen import clean, number

    if yes:
        return
    if not sys.stdin.isatty():
        raise _UsageError(f"order {order}: this asks before it acts, and there is no terminal to ask at; pass --yes")
    state = next((each for each in session.state()["orders"] if each["order"] == order), None)
    if state is None:
        return  # the session says it best
    coin = clean(state["symbol"].partition("/")[0])
    what = f"{state['side']} {clean(state['symbol'])}, {_word(state['status'])}"
    if not typer.confirm(ask.format(order=order, what=what, held=f"{number(state['held'])} {coin}"), err=True):
        raise _UsageError("not confirmed, so nothing was done; answer y, or pass --yes")


def _word(status: str) -> str:
    return status.lower().replace("_", " ")


def _changes(items: list[str]) -> dict[str, Any]:
    """FIELD=VALUE as they are typed; no value takes a part of the order out."""
    from .plan import toml_value
    from .spec import SmartOrder

    found: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        name = name.strip()
        if not (equals and name):
            raise _UsageError(f"{item}: must be FIELD=VALUE; write stop_loss=96")
        if name in found:
            raise _UsageError(f"{name}: stands twice; keep one")
        known = SmartOrder.model_fields.get(name)
        empty = value.strip() == "" and known is not None and not isinstance(known.default, str)
        found[name] = known.get_default(call_default_factory=True) if empty and known else toml_value(value.strip())
    return found


# ---------------------------------------------------------------------------------------------------- looking into a store


def session_rows(path: Path, wanted: str | None, what: str) -> tuple[str, Any] | None:
    """Title and rows of the session that a command line means: `orders` as plain data, `events` as a frame.

    That is the one that runs on the store, unless a run is `wanted`; else the one that is wanted, or begun last. None: it means a run.
    """
    live = _live(path)
    if live is not None:
        with live as session:
            state = session.state()
            if wanted is None or wanted == state["name"] or state["session"].startswith(wanted):
                title = f"session “{state['name']}” ({state['session']}, {state['mode']}, {state['status']})"
                return title, state["orders"] if what == "orders" else session.events()
    with _open(path) as store:
        found = _last_session(store) if wanted is None else _named_session(store, wanted)
        if found is None:
            return None
        from .journal import Journal

        journal = Journal.open(store, found)
        book = _book(journal)
        title = f"session “{journal.name}” ({journal.id}, {journal.meta.get('mode', 'paper')}, not running)"
        if what == "orders":
            return title, [_described(book, number) for number in book.specs]
        return title, _events(book, journal)


def _live(path: Path) -> Remote | None:
    """The session that runs on a store, None if there is none, also where one was killed and has left its file."""
    if not path.with_name(path.name + ".session").exists():
        return None
    from .remote import connect
    from .serve import find

    if not find(path)["alive"]:
        return None
    try:
        return connect(path)
    except SmartOrdersError:  # another process has its number by now, or it is just starting: the store knows
        return None


def _last_session(store: Store) -> str | None:
    """The session begun last, unless a run was saved after that."""
    sessions, runs = store.sessions(), store.runs()
    if sessions.is_empty():
        return None
    if not runs.is_empty() and runs["replayed_at"].max() > sessions["started_at"].max():  # type: ignore[operator]
        return None
    return str(sessions["session"][-1])


def _named_session(store: Store, name: str) -> str | None:
    sessions, runs = store.sessions(), store.runs()
    found = [id for id, own in sessions.select("session", "name").iter_rows() if own == name or id.startswith(name)]
    if not found or any(run.startswith(name) for run in runs["run"]):
        return None
    return found[0] if len(found) == 1 else name


class _Nobody:
    """A broker that knows nothing, for a look at a session that does not run: what is under way stays so."""

    request_expiry_ns = visibility_lag_ns = 0
    tells_all = True
    together = staticmethod(nullcontext)

    def __getattr__(self, name: str) -> Any:
        return lambda *_: []

    def due(self, symbol: str, ts: Any, *_: Any) -> tuple[int, list[Any]]:
        """Nothing."""
        return len(ts), []


class _Reading:
    """A journal that is read and not written."""

    def __init__(self, journal: Any):
        self._journal = journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._journal, name)

    def append(self, entries: Any, events: Any = None) -> int:
        """Nothing."""
        return int(self._journal.last)


def _book(journal: Any) -> Any:
    """The orders of a session as it left them, by living through its journal; nothing is asked of anybody, or written."""
    from .book import Book

    book = Book(_Reading(journal), _Nobody(), time.time_ns)
    book.resume()
    book.catch_up()
    return book


def _described(book: Any, number: int) -> dict[str, Any]:
    from .rows import Status
    from .run import describe

    row, legs = book.rows(number)
    spec = book.spec(number)
    market = book.markets[spec.symbol]
    last = (
        market.last.get({"last": "price"}.get(spec.trigger, spec.trigger)) if row["status"][0] < Status.CLOSED else None
    )
    import numpy as np

    facts = describe(spec, row.view(np.recarray), legs.view(np.recarray), market.instrument, book.fills, last)
    return {"order": number, **facts}


def _events(book: Any, journal: Any) -> Any:
    import numpy as np
    import polars as pl

    from .instrument import Instrument
    from .run import _events_frame

    rows = journal.events()
    frames = []
    for symbol, market in book.markets.items():
        part = rows[np.isin(rows["order"], [n for n, spec in book.specs.items() if spec.symbol == symbol])]
        frames.append(_events_frame(part, market.instrument).with_columns(pl.Series("n", part["n"])))
    return pl.concat(frames).sort("n").drop("n") if frames else _events_frame(rows, Instrument())
