"""`smartorders panel`: the panel of a session as pages for a browser.

    smartorders panel plan.toml                              # begins the session, or goes on with it, as paper does
    smartorders panel --store lab.duckdb                     # looks at one that another shell runs
    smartorders panel --recorded sol.parquet --symbol SOL/USDT --store lab.duckdb

The session trades in this process, as with `smartorders paper`; the pages are served by another one and may come and go.
"""

from __future__ import annotations

import json as json_module
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import cli, trade_cli
from .cli import _UsageError, app
from .errors import SmartOrdersError

if TYPE_CHECKING:
    from .foreground import Stop
    from .panel.app import Pages
    from .ticks import Ticks


@app.command("panel", rich_help_panel=trade_cli._PANEL)
def panel_command(
    plan: Annotated[
        Path | None, typer.Argument(metavar="[PLAN.toml]", help="Orders, [session], [fills], [store] and [ticks].")
    ] = None,
    store: Annotated[Path | None, typer.Option("--store", help="The DuckDB file that the session lives in.")] = None,
    exchange: Annotated[str | None, typer.Option("--exchange", help="Live ticks: binance, bybit, okx …")] = None,
    recorded: Annotated[Path | None, typer.Option("--recorded", metavar="FILE", help="Recorded ticks instead.")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="Of the recorded ticks, or of --ticks.")] = None,
    speed: Annotated[
        str | None, typer.Option("--speed", help="Of recorded ticks: 60 is a minute a second; max.")
    ] = None,
    ticks: Annotated[
        Path | None, typer.Option("--ticks", metavar="FILE", help="A history for the editor and its odds.")
    ] = None,
    order: Annotated[
        list[str], typer.Option("--order", metavar="LINK|JSON", help="An order to place; may be repeated.")
    ] = [],  # noqa: B006
    name: Annotated[str, typer.Option("--name", help="The session of this name is resumed if it is there.")] = "",
    keep_ticks: Annotated[
        Path | None, typer.Option("--keep-ticks", metavar="FOLDER", help="Keep the ticks it sees, to be replayed.")
    ] = None,
    balance: Annotated[
        list[str], typer.Option("--balance", metavar="USDT=1000", help="What the account has; may be repeated.")
    ] = [],  # noqa: B006
    fee_taker: Annotated[str | None, typer.Option("--fee-taker", help="0.1%")] = None,
    fee_maker: Annotated[str | None, typer.Option("--fee-maker", help="0.1%")] = None,
    slippage: Annotated[str | None, typer.Option("--slippage", help="Of market orders: 0.01%")] = None,
    latency: Annotated[str | None, typer.Option("--latency", help="From trigger to arrival: 50ms")] = None,
    poll: Annotated[str | None, typer.Option("--poll", help="Look only at the last price of each 500ms.")] = None,
    outlier: Annotated[str | None, typer.Option("--outlier", help="Guard against outlier prints: 5%, none.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="Left out: the first free one from 8866 on.")
    ] = None,
    ip: Annotated[str, typer.Option("--ip", help="Where to listen.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="Let other machines in, where --ip is not of this one alone.")
    ] = False,
    no_token: Annotated[bool, typer.Option("--no-token", help="Let every program of this machine in.")] = False,
    browser: Annotated[bool, typer.Option("--browser", help="Open it in a browser.")] = False,
    theme: Annotated[str, typer.Option("--theme", help="auto, light or dark.")] = "auto",
    log_file: Annotated[
        Path | None, typer.Option("--log", metavar="FILE", help="Also append JSON lines to it.")
    ] = None,
    json: cli.Json = False,
) -> None:
    """Serve the panel of a session to a browser: editor, board, what if. Where a session runs on the store, that one is shown.

    It prints where it is, with a token that a browser has to show. Ctrl-C or SIGTERM stop it cleanly, and with it the session that it has
    begun; the same command goes on where it was. Pages may be closed and reloaded meanwhile.

    \b
    smartorders panel plan.toml
    smartorders panel plan.toml --recorded sol.parquet --speed 60
    smartorders panel --store lab.duckdb --ticks sol.parquet
    smartorders panel --exchange okx --store lab.duckdb --ticks btc.parquet
    """
    if exchange is not None and recorded is not None:
        raise _UsageError("--exchange and --recorded cannot stand together; keep one")
    from .foreground import Stop, logged, run
    from .panel.app import Lives, Pages, loopback

    here = loopback(ip)
    if not here and not allow_remote:
        raise _UsageError(f"--ip {ip}: other machines could come in; pass --allow-remote if that is meant")
    if not here and no_token:
        raise _UsageError(f"--no-token and --ip {ip}: anybody could trade here; keep the token")
    if not here:
        cli._say("warning", f"--ip {ip}: whoever has the token can trade here, and it goes over the network as it is")
    if no_token:
        cli._say("warning", "--no-token: every program and user of this machine can trade here")
    how: dict[str, Any] = {"ip": ip, "port": port, "token": None if no_token else "", "theme": theme}
    wanted = trade_cli._wanted(plan, order, store, name)
    assert wanted.store is not None
    with ExitStack() as stack:
        if log_file is not None:
            stack.enter_context(logged(log_file))
        stop = stack.enter_context(Stop())
        history = [] if ticks is None else [_history(ticks, symbol)]
        if (live := trade_cli._live(wanted.store)) is not None:
            given = {"PLAN": plan, "--exchange": exchange, "--recorded": recorded, "--order": order, "--name": name}
            extra = [option for option, value in given.items() if value]
            with live:
                title = str(live.state()["name"])
            if extra:
                raise _UsageError(
                    f"{extra[0]}: session {title!r} is running on {wanted.store}; leave it out to look at that one"
                )
            pages = stack.enter_context(Pages(wanted.store, title=title, ticks=history, **how))
            _tell(pages, json, browser)
            _watch(pages, stop)
            return
        if recorded is None and (exchange or wanted.session.exchange):
            source: dict[str, Any] = {"exchange": exchange or wanted.session.exchange}
            if speed is not None:
                raise _UsageError("--speed is for recorded ticks; leave it out")
        else:
            feed = trade_cli._recorded(wanted, recorded, symbol, speed)
            source = {"feed": feed}
            history = history or [*feed.ticks.values()]
        fees = {"fee_taker": fee_taker, "fee_maker": fee_maker, "slippage": slippage, "latency": latency}
        options = trade_cli._options(
            wanted, {key: value for key, value in fees.items() if value is not None}, balance, poll, outlier
        )
        from .session import paper

        before = trade_cli._before(wanted.store)
        session = stack.enter_context(
            paper(store=wanted.store, name=wanted.name, keep_ticks=keep_ticks, **source, **options)
        )
        pages = stack.enter_context(
            Pages(
                wanted.store, title=session.name, ticks=history, fills=session.book.fills, lives=Lives(session), **how
            )
        )
        pages.when_over(
            lambda code: cli._say("warning", f"panel: its pages have ended (exit code {code}); the session goes on")
        )
        _tell(pages, json, browser)
        run(session, wanted, stop, before.get(session.name), True, False, json)


def _history(path: Path, symbol: str | None) -> Ticks:
    from .ticks import Ticks

    found = Ticks.read(os.path.abspath(path), symbol=symbol)
    if not found.symbol:
        raise _UsageError(f"--ticks {path}: does not say of which symbol; pass --symbol BTC/USDT")
    return found


def _tell(pages: Pages, as_json: bool, browser: bool) -> None:
    """Say where it is."""
    print(json_module.dumps({"type": "panel", "url": pages.url}) if as_json else f"panel at {pages.url}", flush=True)
    if browser:
        import webbrowser

        threading.Thread(target=webbrowser.open, args=(pages.url,), daemon=True).start()


def _watch(pages: Pages, stop: Stop) -> None:
    """Until it is stopped, or its pages end. Raises SmartOrdersError if they do."""
    over: list[int] = []
    news = threading.Event()

    def ended(code: int) -> None:
        over.append(code)
        news.set()

    stop.wake, stop.running = news.set, True
    pages.when_over(ended)
    while not (stop.asked or over):
        news.wait()
    if over:
        raise SmartOrdersError(
            f"panel: its pages have ended (exit code {over[0]}); the session goes on, start this again"
        )
