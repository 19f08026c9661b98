"""The commands of trading, on paper and live: `smartorders paper`, `smartorders live`, and what another shell does to the session they run.

    smartorders paper plan.toml                    # until Ctrl-C; the same command goes on where it was
    smartorders live plan.toml --dry-run           # shows what it would send, and sends nothing
    smartorders live plan.toml                     # with money, once "live" is typed
    smartorders orders lab.duckdb                  # from another shell, as are all below
    smartorders edit lab.duckdb 0 stop_loss=96 break_even=true
    smartorders close lab.duckdb 0 --yes
    smartorders halt lab.duckdb                    # nothing is sent to the exchange any more

A session serves itself on 127.0.0.1 while it runs and says where in `<store>.session`; that is how the other commands find it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
_PANEL, _LIVE = "Paper trading", "Live trading"

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
    happens, and place, edit, add, reduce, take-profit, open-now, close, cancel, refresh and share do what they say.

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


# ---------------------------------------------------------------------------------------------------- live


@app.command("live", rich_help_panel=_LIVE)
def live_command(
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN.toml]", help="Orders, [session], [limits], [fills] and [store].")
    ] = None,
    exchange: Annotated[str | None, typer.Option("--exchange", help="binance, bybit, okx …")] = None,
    order: Annotated[
        list[str], typer.Option("--order", metavar="LINK|JSON", help="An order to place; may be repeated.")
    ] = [],  # noqa: B006
    store: Annotated[Path | None, typer.Option("--store", help="The DuckDB file that it lives in.")] = None,
    name: Annotated[str, typer.Option("--name", help="The session of this name is resumed if it is there.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Send nothing: show each request, and let the orders live on paper.")
    ] = False,
    confirm: Annotated[str, typer.Option("--confirm", metavar="live", help="Where nobody can type it.")] = "",
    allow: Annotated[
        list[str], typer.Option("--allow", metavar="SOL/USDT", help="A market that may be traded; may be repeated.")
    ] = [],  # noqa: B006
    max_order: Annotated[str | None, typer.Option("--max-order", help="Most of one order, in quote currency.")] = None,
    max_symbol: Annotated[str | None, typer.Option("--max-symbol", help="Most held and under way in a symbol.")] = None,
    max_day: Annotated[str | None, typer.Option("--max-day", help="Most that is opened in one day (UTC).")] = None,
    max_orders: Annotated[int | None, typer.Option("--max-orders", help="Orders that open something at once.")] = None,
    max_distance: Annotated[
        str | None, typer.Option("--max-distance", help="Most of a limit from the last price: 5%.")
    ] = None,
    slippage_cap: Annotated[
        str | None, typer.Option("--slippage-cap", help="A purchase at market pays at most so much more: 1%.")
    ] = None,
    levels: Annotated[
        str | None, typer.Option("--levels", help="on_trigger; resting: those at a limit rest on the book.")
    ] = None,
    protective_stop: Annotated[
        str | None,
        typer.Option("--protective-stop", help="Rest a stop at the exchange, so far beyond each order's: 2%."),
    ] = None,
    streams: Annotated[
        bool | None, typer.Option("--streams/--no-streams", help="Listen to what the exchange says of our orders.")
    ] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="Which keys, where there are several.")] = None,
    keep_ticks: Annotated[
        Path | None, typer.Option("--keep-ticks", metavar="FOLDER", help="Keep the ticks it sees, to be replayed.")
    ] = None,
    until_end: Annotated[bool, typer.Option("--until-end", help="Stop once all orders are over.")] = False,
    fee_taker: Annotated[str | None, typer.Option("--fee-taker", help="What is reckoned with: 0.1%")] = None,
    fee_maker: Annotated[str | None, typer.Option("--fee-maker", help="What is reckoned with: 0.1%")] = None,
    poll: Annotated[str | None, typer.Option("--poll", help="Look only at the last price of each 500ms.")] = None,
    outlier: Annotated[str | None, typer.Option("--outlier", help="Guard against outlier prints: 5%, none.")] = None,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Let other shells of this user steer it.")] = True,
    log_file: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Also append JSON lines to it.")
    ] = None,
    json: Json = False,
) -> None:
    """Trade with money until stopped. It says what is allowed, then wants to be confirmed: live, or the exchange's name, typed.

    Keys come from the keyring or from SMARTORDERS_BINANCE_KEY and _SECRET; limits from the [limits] of the plan or from options, and
    none has a default. Stopped and started again it finds out what became of everything before it trades on. It is steered from other
    shells as a session on paper is. smartorders halt STORE stops everything that would be sent; see also smartorders doctor.

    \b
    smartorders live plan.toml --dry-run
    smartorders live plan.toml
    smartorders live plan.toml --confirm live --json --log live.log
    smartorders live --exchange okx --order solab1:eyJl… --store live.duckdb
                     --max-symbol 200 --max-day 500 --max-orders 5 --max-distance 5%
    """
    from .brokers.venues import ALIASES, FACTS
    from .foreground import Stop, logged, run
    from .trading import checked_limits

    wanted = _wanted(plan, order, store, name)
    venue = exchange or wanted.session.exchange
    if venue is None:
        raise _UsageError("live: needs an exchange; pass --exchange binance, or write it below [session] of the plan")
    venue = ALIASES.get(venue, venue)
    if venue not in FACTS:
        raise _UsageError(f"live: {venue} is not one that can be traded on; take one of {', '.join(FACTS)}")
    if dry_run:
        wanted = replace(wanted, name=f"{wanted.name or venue} dry run")
    given: dict[str, Any] = {"symbols": allow, "max_order": max_order, "max_symbol": max_symbol, "max_day": max_day}
    given |= {"max_orders": max_orders, "max_distance": max_distance}
    limits = checked_limits({**wanted.limits, **{key: value for key, value in given.items() if value}})
    fees = {"fee_taker": fee_taker, "fee_maker": fee_maker}
    options = _options(wanted, {}, [], poll, outlier)
    known = {} if wanted.source is None else wanted.source.data.get("fills", {})
    options["fills"] = {**known, **{key: value for key, value in fees.items() if value is not None}} or None
    if options.pop("balances") is not None:
        cli._say("warning", "session.balances: is for paper; here the account's own count")
    options["slippage_cap"] = slippage_cap or wanted.session.slippage_cap or "1%"
    options["profile"] = profile if profile is not None else wanted.session.profile
    rests = {
        "levels": levels or wanted.session.levels or "on_trigger",
        "protective_stop": protective_stop or wanted.session.protective_stop or None,
    }
    if dry_run and rests != {"levels": "on_trigger", "protective_stop": None}:
        cli._say(
            "warning",
            "a dry run does not show what rests at the exchange: levels are sent on trigger, and no stop rests",
        )
    else:
        options |= rests
    heard = wanted.session.streams if streams is None else streams
    options |= {} if heard is None else {"streams": heard}
    for key, spec in wanted.orders:
        for warning in spec.warnings():
            cli._say("warning", f"{key}.{warning}")
    assert wanted.store is not None
    before = _before(wanted.store)
    options["keys"] = _keys(venue, options["profile"], dry_run)
    _tell_what_is_allowed(wanted, venue, limits, options, dry_run, before)
    if not dry_run:
        _typed(venue, confirm)
    with ExitStack() as stack:
        if log_file is not None:
            stack.enter_context(logged(log_file))
        stop = stack.enter_context(Stop())
        from .trading import live

        session = stack.enter_context(
            live(
                venue,
                store=wanted.store,
                name=wanted.name,
                limits=limits,
                confirm="live",
                dry_run=dry_run,
                keep_ticks=keep_ticks,
                **options,
            )
        )
        run(session, wanted, stop, before.get(session.name), serve, until_end, json)


def _keys(venue: str, profile: str, dry_run: bool) -> Any:
    """The keys of an exchange. Raises ExchangeError."""
    from .brokers.dry import keys_or_made_up
    from .keys import Keys

    return (keys_or_made_up if dry_run else Keys.find)(venue, profile)


def _tell_what_is_allowed(
    wanted: PaperPlan, venue: str, limits: Any, options: dict[str, Any], dry_run: bool, before: dict[str, int]
) -> None:
    """Say on stderr what is about to begin, so that nobody who looks can take it for paper."""
    from rich.console import Console
    from rich.text import Text

    from .fields import plain

    most = {name: plain(getattr(limits, name)) for name in ("max_order", "max_symbol", "max_day")}
    begun = wanted.name in before
    switch = Path(f"{wanted.store}.STOP")
    rows = {
        "exchange": venue,
        "keys": f"from {options['keys'].source}",
        "session": f"“{wanted.name or f'live {venue}'}” in {wanted.store}, {'goes on' if begun else 'begins'}",
        "orders": f"{len(wanted.orders)} in the plan; each is placed once",
        "markets": ", ".join(limits.symbols),
        "at most": f"{most['max_order']} in one order, {most['max_symbol']} in one symbol, {most['max_day']} in a day (quote currency), "
        f"{limits.max_orders} orders that open something at once",
        "prices": f"limits within {plain(limits.max_distance * 100)}% of the last price, purchases at market up to "
        f"{options['slippage_cap']} above it",
        "resting": _resting(options),
        "to stop": f"smartorders halt {wanted.store}, or create the file {switch}",
    }
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    word = " DRY RUN: nothing is sent to the exchange " if dry_run else " LIVE: THIS TRADES WITH REAL MONEY "
    console.print(Text(word, "bold white on blue" if dry_run else "bold white on red"))
    for name, text in rows.items():
        console.print(Text(f"  {name:<9} {text}"))
    if switch.exists():
        cli._say("warning", f"{switch} is there: nothing will be sent until smartorders release {wanted.store}")


def _resting(options: Mapping[str, Any]) -> str:
    """What rests at the exchange before it is due."""
    if options.get("protective_stop"):
        return f"a stop of each order, {options['protective_stop']} beyond its own; it stays there when this ends"
    if options.get("levels") == "resting":
        return "take-profit levels at a limit; they stay there when this ends, stops do not"
    return "nothing before it is due; stops work only while this runs"


def _typed(venue: str, confirm: str) -> None:
    """Have it confirmed. Raises a usage error."""
    if confirm:
        if confirm not in ("live", venue):
            raise _UsageError(f"--confirm {confirm}: must be live; write --confirm live")
        return
    if not sys.stdin.isatty():
        raise _UsageError("live: this has to be confirmed, and there is no terminal to type at; pass --confirm live")
    typed = typer.prompt(f"type live (or {venue}) to begin", default="", show_default=False, err=True)
    if typed.strip() not in ("live", venue):
        raise _UsageError("not confirmed, so nothing was begun; type live, or pass --confirm live")


_OUTCOMES = {
    "ok": "green",
    "warning": "yellow",
    "failed": "bold red",
    "not looked at": "bright_black",
    "not yet seen": "cyan",
}
UNWELL = 1
"""Exit code of `doctor` where something has failed."""


@app.command("doctor", rich_help_panel=_LIVE)
def doctor_command(
    exchange: Annotated[
        str, typer.Argument(metavar="EXCHANGE", help="binance, bybit, okx, gate, bitget, kucoin, kraken, coinbase.")
    ],
    symbol: Annotated[str, typer.Option("--symbol", metavar="SOL/USDT", help="The market that is looked at.")] = "",
    sandbox: Annotated[bool, typer.Option("--sandbox", help="At the exchange's sandbox, with its own keys.")] = False,
    smallest_order: Annotated[
        bool, typer.Option("--smallest-order", help="Also the smallest order: created, looked up, cancelled.")
    ] = False,
    away: Annotated[str, typer.Option("--away", help="How far below the market that order is.")] = "20%",
    profile: Annotated[str, typer.Option("--profile", help="Which keys, where there are several.")] = "",
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Look whether an exchange can be traded on from here: versions, network, clock, keys and what they may do, the market, streams.

    Nothing is created unless --smallest-order is given: then the smallest order to buy that the market takes, far below it and post-only,
    is created, looked up by client id, sent once more under it, cancelled and looked up again. Exit code 1 if something has failed.

    \b
    smartorders doctor binance --symbol SOL/USDT
    smartorders doctor okx --sandbox --smallest-order
    smartorders doctor kraken --smallest-order --yes --json
    """
    from .doctor import examine

    if smallest_order and not yes:
        if not sys.stdin.isatty():
            raise _UsageError("--smallest-order: sends an order, and there is no terminal to ask at; pass --yes")
        what = (
            "an order in the sandbox" if sandbox else "a real order, the smallest that the market takes, and cancel it"
        )
        typed = typer.prompt(
            f"this will send {what}; type {exchange} to go on", default="", show_default=False, err=True
        )
        if typed.strip() != exchange:
            raise _UsageError(f"not confirmed, so nothing was done; type {exchange}, or pass --yes")
    report = examine(exchange, symbol, sandbox=sandbox, smallest_order=smallest_order, away=away, profile=profile)
    if json:
        cli._print_json(report.to_dict())
    else:
        _print_report(report)
    if not report.ok:
        raise typer.Exit(UNWELL)


def _print_report(report: Any) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from .screen import clean

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "check", "", "found", "what to do"):
        table.add_column(title, overflow="fold", no_wrap=title == "")
    before = ""
    for check in report.checks:
        group, before = ("" if check.group == before else check.group), check.group
        outcome = Text(check.outcome, _OUTCOMES[check.outcome])
        table.add_row(Text(group), Text(check.name), outcome, Text(clean(check.found)), Text(clean(check.advice)))
    console = cli._console()
    where = f"{report.exchange}{', sandbox' if report.sandbox else ''}"
    console.print(Text(f"Doctor: {where}, {clean(report.symbol)}", style="bold"))
    console.print(table)
    many = {name: sum(check.outcome == name for check in report.checks) for name in _OUTCOMES}
    print(", ".join(f"{count} {name}" for name, count in many.items() if count))


@app.command("halt", rich_help_panel=_LIVE)
def halt_command(
    store: StoreFile,
    why: Annotated[str, typer.Option("--why", help="Said where something is refused.")] = "",
    json: Json = False,
) -> None:
    """Let the session on a store send nothing to the exchange any more, at once, and say what is open.

    It creates the file STORE.STOP, which holds also for a session that cannot be reached, and for the next start. What rests at the
    exchange stays there; orders can still be cancelled. smartorders release STORE lets it go on.

    \b
    smartorders halt live.duckdb
    touch live.duckdb.STOP
    """
    if not store.exists():
        raise StoreError(f"{store}: there is no such store; give the path that the session was started with")
    switch, failed = Path(f"{store}.STOP"), ""
    try:  # first of all: nobody has to answer for this
        switch.write_text(f"{why or 'halted'}\n")
    except OSError as error:
        failed = f"{switch}: cannot be written: {error.strerror}"
    reached = _live(store)
    if reached is not None and reached.state([])["mode"] == "paper":
        reached.close()
        switch.unlink(missing_ok=True)
        raise _UsageError(f"{store}: the session that runs on it is on paper; Ctrl-C stops it, or close its orders")
    if failed and reached is None:
        raise StoreError(f"{failed}; stop the session's process")
    if failed:
        cli._say("warning", f"{failed}; the next start would go on")
    title, orders, told = _what_is_open(store, reached, why)
    if json:
        cli._print_json({"halted": True, "file": str(switch), "reached": told, "orders": orders})
        return
    print(f"halted by {switch}: nothing is sent any more; smartorders release {store} lets it go on")
    if not told:
        print(
            "no session answers; if one runs, it is halted by the file"
            if orders is not None
            else "the session that runs does not answer and holds the store, so what is open cannot be seen here; look at the exchange"
        )
    if orders is not None:
        _print_open(title, orders)


def _what_is_open(store: Path, reached: Remote | None, why: str) -> tuple[str, list[dict[str, Any]] | None, bool]:
    """Title and living orders of the session on a store, None if they cannot be seen; and whether it was told to halt."""
    from .screen import OVER

    if reached is not None:
        try:
            with reached as session:
                orders = session.halt(why or "halted")
                return f"session {session.id}", orders, True
        except SmartOrdersError as error:
            cli._say("warning", " ".join(str(error).split()))
    try:
        found = session_rows(store, None, "orders")
    except SmartOrdersError:
        return "", None, False
    if found is None:
        return "no session", [], False
    return found[0], [order for order in found[1] if order["status"] not in OVER], False


def _print_open(title: str, orders: list[dict[str, Any]]) -> None:
    from .screen import orders_table

    if not orders:
        print(f"no order is open in {title}")
        return
    console = cli._console()
    console.print(f"{len(orders)} open in {title}", markup=False)
    console.print(orders_table(orders, console.width))


@app.command("release", rich_help_panel=_LIVE)
def release_command(store: StoreFile, yes: Yes = False, json: Json = False) -> None:
    """Let a halted session send to the exchange again: the file STORE.STOP goes, and the session that runs is told.

    \b
    smartorders release live.duckdb --yes
    """
    switch = Path(f"{store}.STOP")
    reached = _live(store)
    halted = str(reached.state([]).get("halted") or "") if reached is not None else ""
    if not (switch.exists() or halted):
        if reached is not None:
            reached.close()
        raise _UsageError(f"{store}: is not halted; there is no {switch}, and no session says that it is")
    if not yes:
        if not sys.stdin.isatty():
            raise _UsageError("release: this asks before it acts, and there is no terminal to ask at; pass --yes")
        if not typer.confirm(f"{halted or switch}\nsend to the exchange again?", err=True):
            raise _UsageError("not confirmed, so it stays halted; answer y, or pass --yes")
    switch.unlink(missing_ok=True)
    if reached is not None:
        with reached as session:
            session.release()
    if json:
        cli._print_json({"halted": False, "reached": reached is not None})
    else:
        print("released" + ("" if reached is not None else "; no session answers, the next start goes on"))


@app.command("orphans", rich_help_panel=_LIVE)
def orphans_command(
    store: StoreFile,
    cancel: Annotated[bool, typer.Option("--cancel", help="Take back those that are of this session.")] = False,
    json: Json = False,
) -> None:
    """Open orders at the exchange that bear ids as ours are, and that no order of the running session owns.

    \b
    smartorders orphans live.duckdb
    smartorders orphans live.duckdb --cancel
    """
    import polars as pl

    with _session(store) as session:
        found = session.orphans(cancel)
    if json:
        cli._print_json(found)
    elif not found:
        print("no orphans: every open order with an id of ours is owned")
    else:
        cli._print_frame("Orders at the exchange that nobody owns", pl.DataFrame(found), json, 0)


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


@app.command("take-profit", rich_help_panel=_PANEL)
def take_profit_command(
    store: StoreFile,
    order: OrderNumber,
    level: Annotated[int, typer.Option("--level", help="Which level: 1 is TP1.", min=1)],
    version: Version = None,
    json: Json = False,
) -> None:
    """Sell now what a level would sell, as if its price had been reached.

    \b
    smartorders take-profit lab.duckdb 0 --level 1
    """
    _do(store, json, lambda session: session.take_profit(order, level=level, version=version))


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
