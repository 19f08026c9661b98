"""Live trading: the same session, with child orders at a real exchange.

    with so.live("binance", store="live.duckdb", confirm="live", limits={"symbols": ["SOL/USDT"], "max_order": 50, ...}) as session:
        session.place(order)
        session.halt()

Nothing happens by default: keys have to be there, limits be given, and `confirm="live"` be said. A start finds out what became of every
order that was under way before it takes a price or a command; if it cannot, it stops and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from typing import Any

from .book import FORMAT
from .brokers.dry import dry_broker, keys_or_made_up
from .brokers.guard import Guard, Limits
from .brokers.live import LiveBroker
from .brokers.resting import Rests
from .brokers.streams import PrivateStream
from .brokers.venues import ALIASES, FACTS, Venue, connect
from .errors import SpecError
from .fields import fraction
from .fills import FillModel
from .keys import Keys
from .recorder import Recorder
from .session import Feed, Session, _journal
from .times import duration_ns

FEES_IN_BASE = frozenset({"binance", "bybit", "okx", "gate", "bitget"})
"""Exchanges that take the fee of a purchase out of what is bought."""
LEVELS = ("on_trigger", "resting")
"""When a level is sent that sells at a limit."""


class AsyncPauses:
    """Pauses of a running event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Event] = {}

    async def pause(self, seconds: float, key: str) -> None:
        """Wait, or until `key` is woken."""
        event = self._waiting.setdefault(key, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()
        self._waiting.pop(key, None)

    def wake(self, key: str) -> None:
        """Let who waits for `key` go on."""
        if key in self._waiting:
            self._waiting[key].set()


def live(
    exchange: str,
    *,
    store: Any,
    limits: Limits | Mapping[str, Any],
    confirm: str = "",
    name: str = "",
    keys: Keys | None = None,
    profile: str = "",
    feed: Feed | None = None,
    fills: FillModel | Mapping[str, Any] | None = None,
    slippage_cap: Any = "1%",
    poll_interval: Any = None,
    outlier: Any = "5%",
    keep_ticks: Any = None,
    client: Callable[[], Any] | None = None,
    dry_run: bool = False,
    streams: bool = True,
    protective_stop: Any = None,
    levels: str = "on_trigger",
    **options: Any,
) -> Session:
    """A session that trades at `exchange`, with money. As `paper`, and:

    `confirm`: has to be "live". `limits`: what may be opened (see brokers.guard.Limits). `keys`: None: from the keyring or the
    environment (see keys.Keys.find, with `profile`). `fills`: the fees that are reckoned with, and their currency. `slippage_cap`: how
    far from the last price a purchase at market may go. While the file `<store>.STOP` is there nothing is sent. `client`: makes a
    ccxt.pro client to trade with, in place of one with the keys. `dry_run`: nothing is sent; each request that would be is in
    `session.broker.requests`, and orders live on on paper (see brokers/dry.py). `streams`: listen to what the exchange says of our orders
    by itself, with a second client, so that a fill is known at once and working orders need few looks. `protective_stop`: so far beyond
    its effective stop (`"2%"`) an order that has bought rests a stop at the exchange, which sells also when this machine is dead and stays
    when the session ends. `levels`: "resting": levels that sell at a limit rest on the book before their price is there, those at market
    are sent on trigger all the same (see brokers/resting.py for both). Raises SmartOrdersError.
    """
    venue_name = ALIASES.get(exchange, exchange)
    if venue_name not in FACTS:
        raise SpecError.one("exchange", exchange, "is not one that can be traded on", f"take one of {', '.join(FACTS)}")
    if confirm != "live" and not dry_run:
        raise SpecError.one(
            "confirm", confirm, "live trading has to be confirmed", 'add confirm="live", or use so.paper(...)'
        )
    if store is None:
        raise SpecError.one(
            "store", store, "a live session has to outlive its process", 'give a file: store="live.duckdb"'
        )
    checked = limits if isinstance(limits, Limits) else checked_limits(limits)
    try:
        cap = fraction(slippage_cap)
        poll = 0 if poll_interval in (None, 0) else duration_ns(poll_interval)
    except ValueError as error:
        raise SpecError.one(
            "slippage_cap or poll_interval", [slippage_cap, poll_interval], str(error), 'write "1%", "500ms"'
        ) from None
    if not 0 < cap < 1:
        raise SpecError.one("slippage_cap", slippage_cap, "must be between 0 and 100 %", 'write "1%"')
    distance = _distance(protective_stop, venue_name, dry_run)
    if levels not in LEVELS:
        raise SpecError.one("levels", levels, "is not a way to send levels", f"take one of {', '.join(LEVELS)}")
    if levels == "resting" and (dry_run or distance is not None):
        why = (
            "reserve the coins that a protective stop would need"
            if distance is not None
            else "are not shown by a dry run"
        )
        raise SpecError.one("levels", levels, f"levels that rest {why}", "leave one of them out")
    base = {"fee_maker": "0.1%", "fee_taker": "0.1%", "fee_currency": "base" if venue_name in FEES_IN_BASE else "quote"}
    model = fills if isinstance(fills, FillModel) else FillModel(**{**base, **(fills or {})})
    if model.latency or model.participation is not None:
        raise SpecError.one("fills", model, "latency and participation are the exchange's own here", "give fees only")
    if feed is None:
        from .feeds.live import LiveFeed

        feed = LiveFeed(venue_name, **options)
    elif options:
        option, value = next(iter(options.items()))
        raise SpecError.one(option, value, "is an option of a live feed", "leave it out, or set it on the feed")
    meta = {
        "format": FORMAT,
        "mode": "dry" if dry_run else "live",
        "exchange": venue_name,
        "fills": model.to_dict(),
        "poll_ns": poll,
        "outlier": None if outlier is None else str(outlier),
        "balances": None,
    }
    if client is None:
        find = keys_or_made_up if dry_run else Keys.find
        client = partial(connect, venue_name, keys or find(venue_name, profile))
    name = name or f"{'dry' if dry_run else 'live'} {venue_name}"
    asked = (
        {"mode", "exchange"}
        | ({"fills"} if fills is not None else set())
        | ({"poll_ns"} if poll_interval is not None else set())
    )
    journal, opened = _journal(store, name, meta, asked)
    guard = Guard(checked, f"{opened.path}.STOP")
    broker: LiveBroker
    if dry_run:
        paid, ledger = FillModel(**journal.meta["fills"]), f"{opened.path}.{journal.id}.paper"
        try:
            broker = dry_broker(venue_name, client, guard, AsyncPauses(), cap, paid, ledger)
        except BaseException:
            opened.close()
            raise
    else:
        venue = Venue(venue_name, client)
        stream = PrivateStream(venue) if streams else None
        rests = Rests(f"{opened.path}.{journal.id}.resting", levels == "resting", distance)
        broker = LiveBroker(venue, guard, AsyncPauses(), cap, stream=stream, beside=(venue.keep_time,), rests=rests)
    return Session(journal, broker, feed, opened, None if keep_ticks is None else Recorder(keep_ticks))


def _distance(protective_stop: Any, exchange: str, dry_run: bool) -> Decimal | None:
    """How far from the effective stop the protective one is; None: there is none."""
    if protective_stop is None:
        return None
    try:
        distance = fraction(protective_stop)
    except ValueError as error:
        raise SpecError.one("protective_stop", protective_stop, str(error), 'write "2%"') from None
    if not 0 < distance < 1:
        raise SpecError.one("protective_stop", protective_stop, "must be between 0 and 100 %", 'write "2%"')
    if not FACTS[exchange].stop:
        raise SpecError.one(
            "protective_stop",
            protective_stop,
            f"is not supported at {exchange} yet, only at {', '.join(name for name, facts in FACTS.items() if facts.stop)}",
            "leave it out: then orders have their stops only while the session runs",
        )
    if dry_run:
        raise SpecError.one("protective_stop", protective_stop, "does nothing in a dry run", "leave one of them out")
    return distance


def checked_limits(given: Mapping[str, Any]) -> Limits:
    """Limits from plain data, each named if it is missing or unknown."""
    names = list(Limits.__dataclass_fields__)
    for key in given:
        if key not in names:
            raise SpecError.one(f"limits.{key}", given[key], "is not a limit", f"there is {', '.join(names)}")
    for key in names:
        if key not in given:
            raise SpecError.one(f"limits.{key}", None, "is missing", "there is no default: say what may be opened")
    return Limits(**given)
