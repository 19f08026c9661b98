"""The trading half of the local exchange: accounts, orders, fills and private streams, and every way in which they fail.

    async with TradingExchange(["binance"]) as server:
        exchange = trader("binance", server)
        await exchange.create_order("SOL/USDT", "limit", "buy", 1, 140, {"clientOrderId": "so1"})
        server.move("SOL/USDT", "139.5")

One matching engine for all venues (`Ledger`), exact and spot only. A venue is a `Dialect`: it says which request is of
which kind, checks the signature and the time as the venue does, and writes the venue's words. Faults are set per kind of
request (`fault`) or by a seed (`chaos`); what came in and what was done about it stands in `asked`.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import importlib
import itertools
import json
import random
import re
import socket
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl

import local_exchange
from aiohttp import web
from exchange_server import MS
from local_exchange import SYMBOLS, VENUES, LocalExchange, Socket, Venue, client

ZERO = Decimal(0)
TICK, STEP = Decimal("0.01"), Decimal("0.001")
KINDS = ("create", "cancel", "order", "open", "closed", "trades", "balance", "account", "token")
"""What a private request can be about; a venue may have several requests of one kind."""
BEFORE = ("refused", "reset", "lost", "late", "busy", "nonce", "418", "429", "500", "502", "503", "504", "524")
AFTER = ("reset", "closed", "timeout", "truncated", "empty", "html", "500", "502", "503", "504", "524")
BODIES = ("broken", "braces")
FAULTS = (*(f"{what} before" for what in BEFORE), *(f"{what} after" for what in (*AFTER, *BODIES)))
"""Faults of every venue. A venue has more: `unknown<n> before` and `unknown<n> after`, for each of its `unknown`.
Where `chaos` or a client in another process meets `refused before`, the connection is closed unanswered instead."""

# The streams and the certificate know only the names in HOSTS; these two serve private streams alone.
local_exchange.HOSTS = tuple(dict.fromkeys([*local_exchange.HOSTS, "ws-api.binance.com", "ws-auth.kraken.com"]))


class Refusal(Exception):
    """A request that the venue does not execute. `what` is a word that each dialect knows, see `Dialect.refusal`."""

    def __init__(self, what: str, detail: str = ""):
        super().__init__(what, detail)
        self.what, self.detail = what, detail


@dataclass(frozen=True)
class Keys:
    key: str
    secret: str
    password: str = ""


@dataclass(eq=False)
class Ask:
    """One private request. `params`: query and body together; `executed`: it came through to the account."""

    venue: str
    kind: str
    method: str
    path: str
    query: str
    body: str
    headers: Any
    params: dict[str, Any]
    fault: str = ""
    executed: bool = False
    status: int = 0
    answer: Any = None


@dataclass(eq=False)
class Fill:
    id: str
    order: Order
    price: Decimal
    amount: Decimal
    maker: bool
    fee: Decimal
    fee_currency: str
    ns: int
    number: int

    @property
    def ms(self) -> int:
        return self.ns // MS

    @property
    def cost(self) -> Decimal:
        return self.price * self.amount


@dataclass(eq=False)
class Order:
    """`status`: open, closed, cancelled, rejected, expired (what an IOC or market order could not get). `funds`: a market
    order that spends so much quote currency. `given`: the fields of the request that a venue echoes. `trigger`: the order
    waits (`waiting`) until the market is there, from below if `above`. A stop that is `apart` is no order and becomes none:
    it is `fired`, and `child` is the order that followed."""

    id: str
    number: int
    cid: str
    symbol: str
    side: str
    kind: str
    amount: Decimal
    price: Decimal | None
    tif: str
    funds: Decimal | None
    ns: int
    given: dict[str, Any]
    status: str = "open"
    why: str = ""
    trigger: Decimal | None = None
    above: bool = False
    waiting: bool = False
    apart: bool = False
    child: Order | None = None
    filled: Decimal = ZERO
    cost: Decimal = ZERO
    locked: Decimal = ZERO
    updated_ns: int = 0
    fills: list[Fill] = field(default_factory=list)
    unseen: int = 0
    seen_from: float = 0.0

    @property
    def ms(self) -> int:
        return self.ns // MS

    @property
    def updated(self) -> int:
        return self.updated_ns // MS

    @property
    def open(self) -> bool:
        return self.status == "open"

    @property
    def remaining(self) -> Decimal:
        return self.amount - self.filled

    @property
    def average(self) -> Decimal:
        return self.cost / self.filled if self.filled else ZERO

    @property
    def base(self) -> str:
        return self.symbol.split("/")[0]

    @property
    def quote(self) -> str:
        return self.symbol.split("/")[1]

    def fees(self) -> dict[str, Decimal]:
        paid: dict[str, Decimal] = defaultdict(Decimal)
        for fill in self.fills:
            paid[fill.fee_currency] += fill.fee
        return dict(paid)


class Ledger:
    """One account at one venue: balances, orders, fills. Everything happens at once and in one loop."""

    def __init__(self, dialect: Dialect):
        self.dialect, self.server = dialect, dialect.server
        self.total: dict[str, Decimal] = defaultdict(Decimal, {"USDT": Decimal(10_000)})
        self.used: dict[str, Decimal] = defaultdict(Decimal)
        self.orders: dict[str, Order] = {}
        self.fills: list[Fill] = []
        self.executions: Counter[str] = Counter()
        self.maker, self.taker = Decimal("0.0008"), Decimal("0.001")
        self.coin: tuple[str, Decimal] | None = None
        """A third currency in which fees are paid, and its price in the quote currency."""
        self._numbers = itertools.count(1)

    def free(self, currency: str) -> Decimal:
        return self.total[currency] - self.used[currency]

    def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """(total, used) of every currency that there is any of."""
        return {name: (total, self.used[name]) for name, total in sorted(self.total.items()) if total}

    # ------------------------------------------------------------------------------------------------------------ orders

    def create(
        self, symbol: str, side: str, kind: str, amount: Any, price: Any = None, *, cid: str = "", tif: str = "GTC",
        funds: Any = None, given: dict[str, Any] | None = None, trigger: Any = None, above: bool = False,
    ) -> Order:  # fmt: skip
        """A new order, matched at once; raises Refusal. The same as a request would do, so tests act for another hand."""
        price = None if kind == "market" else _decimal(price, "price")
        amount = ZERO if amount is None else _decimal(amount, "amount")
        funds = None if funds is None else _decimal(funds, "amount")
        trigger = None if trigger is None else _decimal(trigger, "price")
        apart = trigger is not None and self.dialect.apart
        old = self.same(cid, apart)
        if old is not None:
            if self.dialect.unique == "idempotent":
                return old
            raise Refusal("duplicate", cid)
        self._check(symbol, side, amount, price, funds)
        if trigger is not None and self.dialect.either_way:
            above = trigger > self.server.last[symbol]
        if trigger is not None and self._reached(symbol, trigger, above):
            raise Refusal("trigger", str(trigger))
        takes = self._takes(symbol, side, amount, price, funds) if trigger is None else []
        if tif == "PO" and takes and self.dialect.post_only == "refused":
            raise Refusal("post_only")
        cost = sum((p * size for p, size in takes), ZERO)
        if funds is not None:  # what it got, and what it would have got of a deeper book
            last = takes[-1][0] if takes else self.server.best(symbol, side)
            amount = sum((size for _, size in takes), ((funds - cost) / last).quantize(STEP, ROUND_DOWN))
        at = price or trigger if trigger or tif != "IOC" else None
        if trigger is None or self.dialect.holds(given or {}):
            self._afford(side, symbol, amount, at, takes, cost)
        number, now = next(self._numbers), self.server.ns()
        order = Order(
            (self.dialect.stop_id if apart else self.dialect.order_id)(number), number, cid, symbol, side, kind, amount, price,
            "IOC" if kind == "market" else tif, funds, now, given or {}, updated_ns=now, trigger=trigger, above=above,
            waiting=trigger is not None, apart=apart,
        )  # fmt: skip
        self._enter(order)
        self.executions[cid or order.id] += 1
        if self.server.late_rejects:
            self.server.late_rejects -= 1
            return self._done(order, "rejected", "late")
        if tif == "PO" and takes:
            self._say("new", order)
            return self._done(order, "cancelled", "post_only")
        self._lock(order)
        self._say("new", order)
        return order if order.waiting else self._take(order, takes)

    def _enter(self, order: Order) -> None:
        order.unseen, order.seen_from = self.server.lag, self.server.lag_until()
        self.orders[order.id] = order

    def _take(self, order: Order, takes: list[tuple[Decimal, Decimal]]) -> Order:
        for p, size in takes:
            self.book(order, size, p, maker=False)
        self.server.taken(order.symbol, order.filled)
        if order.open and order.tif == "IOC":
            self._done(order, "expired", "ioc")
        return order

    def _reached(self, symbol: str, trigger: Decimal, above: bool) -> bool:
        last = self.server.last[symbol]
        return last >= trigger if above else last <= trigger

    def _fire(self, stop: Order) -> None:
        """The market has reached the trigger: an order like any other from now on, if there is money for it."""
        stop.waiting = False
        self._lock(stop)
        takes = self._takes(stop.symbol, stop.side, stop.amount, stop.price, None)
        cost = sum((p * size for p, size in takes), ZERO)
        free = self.free(stop.base if stop.side == "sell" else stop.quote) + stop.locked
        got = sum((size for _, size in takes), ZERO) if stop.price is None else stop.amount
        if (got if stop.side == "sell" else cost * self._reserve()) > free:
            self._done(stop, "rejected" if stop.apart else "expired", "funds")
        elif stop.apart:
            self._done(stop, "fired", "")
            number, now = next(self._numbers), self.server.ns()
            id, cid = self.dialect.following(stop, number)
            order = stop.child = dataclasses.replace(
                stop, id=id, cid=cid, number=number, ns=now, updated_ns=now, status="open", trigger=None, apart=False,
                fills=[], given=dict(stop.given),
            )  # fmt: skip
            self._enter(order)
            self._lock(order)
            self._say("new", order)
            self._take(order, takes)
        else:
            self._take(stop, takes)

    def cancel(self, order: Order) -> Order:
        """By request of the user; Refusal `done` where there is nothing left to cancel."""
        if not order.open:
            raise Refusal("done", order.id)
        return self._done(order, "cancelled", "user")

    def same(self, cid: str, apart: bool = False) -> Order | None:
        """The order that keeps `cid` from being used again, by the rule of the venue; `apart`: among its stops."""
        if not cid or self.dialect.unique == "none":
            return None
        taken = [order for order in self.orders.values() if order.cid == cid and order.apart == apart]
        return next((order for order in taken if order.open or self.dialect.unique != "open"), None)

    def find(self, id: str = "", cid: str = "", apart: bool = False) -> Order:
        """The order of that id, or the newest with that client id; Refusal `unknown` when there is none or not yet.
        `apart`: not among the orders but among the stops that are none."""
        for order in reversed(self.orders.values()):
            named = order.apart == apart and (order.id == id if id else bool(cid) and order.cid == cid)
            if named and self.seen(order):
                return order
        raise Refusal("unknown", id or cid)

    def listed(self, symbol: str = "", open: bool | None = None, apart: bool | None = None) -> list[Order]:
        """Orders, and stops that are `apart`, that lookups can see by now, oldest first."""
        return [
            order
            for order in self.orders.values()
            if symbol in ("", order.symbol)
            and (open is None or order.open == open)
            and (apart is None or order.apart == apart)
            and self.seen(order)
        ]

    def traded(self, symbol: str = "", order: Order | None = None) -> list[Fill]:
        """Fills that lookups can see by now, oldest first."""
        found = [f for f in self.fills if symbol in ("", f.order.symbol) and order in (None, f.order)]
        seen = {id(one): self.seen(one) for one in {id(f.order): f.order for f in found}.values()}
        return [fill for fill in found if seen[id(fill.order)]]

    def seen(self, order: Order) -> bool:
        """Whether a lookup finds the order already; asking counts as a lookup."""
        if order.unseen:
            order.unseen -= 1
            return False
        return time.monotonic() >= order.seen_from

    def lapse(self) -> None:
        """End what waits for longer than it was to (`given`, in ns)."""
        for order in self.orders.values():
            if order.open and order.waiting and self.server.ns() > order.given.get("until_ns", 10**30):
                self._done(order, "expired", "late")

    def moved(self, symbol: str, price: Decimal, size: Decimal | None) -> None:
        """Fill what the market trades through, best price first, at its own price; at most `size` in all."""
        for side, sign in (("buy", -1), ("sell", 1)):
            mine = [o for o in self.orders.values() if o.open and o.symbol == symbol and o.side == side]
            resting = [o for o in mine if not o.waiting]
            crossed = [o for o in resting if o.price is not None and (o.price - price) * sign <= 0]
            for order in sorted(crossed, key=lambda o: (sign * (o.price or ZERO), o.number)):
                amount = order.remaining if size is None else min(order.remaining, size)
                if size is not None:
                    size -= amount
                if amount:
                    self.book(order, amount)
        self.lapse()
        for order in list(self.orders.values()):
            here = order.waiting and order.open and order.symbol == symbol
            if here and order.trigger is not None and self._reached(symbol, order.trigger, order.above):
                self._fire(order)

    def book(self, order: Order, amount: Any, price: Decimal | None = None, *, maker: bool = True) -> Fill:
        """One fill of an open order, at its own price unless told another."""
        amount, price = Decimal(amount), order.price if price is None else price
        assert price is not None
        assert order.open, order
        assert ZERO < amount <= order.remaining, order
        cost, rate = price * amount, self.maker if maker else self.taker
        currency, fee = self.dialect.fee(order, amount, cost, rate)
        if self.coin is not None:
            currency, fee = self.coin[0], (cost * rate / self.coin[1]).quantize(Decimal("1E-8"))
        sign = 1 if order.side == "buy" else -1
        self.total[order.base] += sign * amount
        self.total[order.quote] -= sign * cost
        self.total[currency] -= fee
        number = next(self._numbers)
        fill = Fill(
            self.dialect.trade_id(number), order, price, amount, maker, fee, currency, self.server.ns(), number
        )  # fmt: skip
        order.filled, order.cost, order.updated_ns = order.filled + amount, order.cost + cost, fill.ns
        order.fills.append(fill)
        self.fills.append(fill)
        if order.filled == order.amount:
            order.status = "closed"
        self._lock(order)
        self._say("fill", order, fill)
        return fill

    def reject(self, order: Order, why: str) -> Order:
        """What the venue itself does to an order that it had accepted: out with what is left of it."""
        return self._done(order, "cancelled", why)

    # ------------------------------------------------------------------------------------------------------- the inside

    def _check(
        self, symbol: str, side: str, amount: Decimal, price: Decimal | None, funds: Decimal | None
    ) -> None:  # fmt: skip
        if funds is None and (amount <= 0 or amount % STEP):
            raise Refusal("step", str(amount))
        if price is not None and (price <= 0 or price % TICK):
            raise Refusal("tick", str(price))
        if funds is None and amount < self.dialect.least_amount:
            raise Refusal("amount", str(amount))
        at = price if price is not None else self.server.best(symbol, side)
        if (amount * at if funds is None else funds) < self.dialect.least_cost:
            raise Refusal("cost", str(amount * at if funds is None else funds))

    def _takes(
        self, symbol: str, side: str, amount: Decimal, price: Decimal | None, funds: Decimal | None
    ) -> list[tuple[Decimal, Decimal]]:
        """(price, amount) of what the order gets at once."""
        takes: list[tuple[Decimal, Decimal]] = []
        for at, offered in self.server.levels(symbol, side):
            if price is not None and (at > price if side == "buy" else at < price):
                break
            left = amount if funds is None else (funds / at).quantize(STEP, ROUND_DOWN)
            size = left if offered is None else min(left, offered)
            if size:
                takes.append((at, size))
                amount, funds = amount - size, None if funds is None else funds - size * at
        return takes

    def _afford(
        self, side: str, symbol: str, amount: Decimal, price: Decimal | None, takes: Any, cost: Decimal
    ) -> None:  # fmt: skip
        base, quote = symbol.split("/")
        if side == "sell":
            needed, free = amount if price is not None else sum((size for _, size in takes), ZERO), self.free(base)
        else:
            needed, free = (amount * price if price is not None else cost) * self._reserve(), self.free(quote)
        if needed > free:
            raise Refusal("funds", f"{needed} of {free}")

    def _reserve(self) -> Decimal:
        """What a buy locks of its cost: the fee as well where that is paid in the quote currency."""
        return 1 + (self.taker if self.dialect.fee_in == "quote" and self.coin is None else ZERO)

    def _lock(self, order: Order) -> None:
        locked = ZERO
        at = order.price or order.trigger if order.waiting else order.price
        if order.open and at is not None and (not order.waiting or self.dialect.holds(order.given)):
            locked = order.remaining if order.side == "sell" else order.remaining * at * self._reserve()
        self.used[order.base if order.side == "sell" else order.quote] += locked - order.locked
        order.locked = locked

    def _done(self, order: Order, status: str, why: str) -> Order:
        order.status, order.why, order.updated_ns = status, why, self.server.ns()
        self._lock(order)
        self._say("done", order)
        return order

    def _say(self, what: str, order: Order, fill: Fill | None = None) -> None:
        if not order.apart:  # nobody listens to the streams of stops
            self.server.event(self.dialect, self.dialect.events(what, order, fill))


def _decimal(text: Any, what: str) -> Decimal:
    try:
        return Decimal(str(text))
    except ArithmeticError:
        raise Refusal("tick" if what == "price" else "step", str(text)) from None


class Dialect(Venue):
    """A venue that trades. A subclass sets the facts below and writes `signed`, `refusal`, `events` and an `on_<kind>` for
    each kind that `routes` knows; those return the JSON of the answer, or raise Refusal."""

    keys = Keys("local-key", "local-secret")
    routes: tuple[tuple[str, str, str], ...] = ()
    """(method, pattern of the whole path, or of path?query, kind), the first counts: everything else is market data."""
    unique = "open"
    """Where a client id may not be used again: `open` orders, `always`, `idempotent` (the old order comes back), `none`."""
    fee_in = "base"
    """What a buy pays its fee in; a sale always pays in the quote currency."""
    post_only = "refused"
    """What becomes of a post-only order that would take: `refused` at once, or accepted and then `cancelled`."""
    least_amount, least_cost = Decimal("0.001"), Decimal(0)
    apart = False
    """Whether a stop is kept in a list of its own, and another order follows it when it fires."""
    reserves = True
    """Whether a stop that waits has what it sells locked, see `holds`."""
    either_way = False
    """Whether a stop beyond the market waits for it to come back, instead of being refused."""
    market_info: ClassVar[dict[str, Any]] = {}
    """What ccxt wants to find in `info` of the markets that `trader` makes by hand."""
    options: ClassVar[dict[str, Any]] = {}
    """What `trader` puts into ccxt's options."""
    codes: ClassVar[dict[str, Any]] = {}
    """The venue's own table for `refusal`."""
    unknown: tuple[tuple[int, Any], ...] = ()
    """(HTTP status, body) of the venue's own ways to say that it does not know what became of the request."""

    def __init__(self, server: Any):
        super().__init__(server)
        self.server: TradingExchange = server
        self.ledger = Ledger(self)
        self.denied = ""
        """`key` or `ip`: what is wrong with every request; `permission`: the key may read, not trade."""
        self.withdraw = False
        """Whether the key may withdraw."""

    @property
    def ms(self) -> int:
        return self.server.ns() // MS

    def order_id(self, number: int) -> str:
        return str(10_000_000 + number)

    def trade_id(self, number: int) -> str:
        return str(20_000_000 + number)

    def stop_id(self, number: int) -> str:
        """The id of a stop that is apart."""
        return str(30_000_000 + number)

    def holds(self, given: dict[str, Any]) -> bool:
        """Whether a stop that waits and was asked for with these fields has what it sells locked."""
        return self.reserves

    def following(self, stop: Order, number: int) -> tuple[str, str]:
        """(id, client id) of the order that follows a stop which is apart."""
        return self.order_id(number), ""

    def fee(self, order: Order, amount: Decimal, cost: Decimal, rate: Decimal) -> tuple[str, Decimal]:
        if order.side == "buy" and self.fee_in == "base":
            return order.base, (amount * rate).quantize(Decimal("1E-8"))
        return order.quote, (cost * rate).quantize(Decimal("1E-8"))

    def kind(self, method: str, path: str, query: str = "") -> str:
        """What a request is about; nothing if it is not private."""
        texts = path, f"{path}?{query}"
        for m, pattern, kind in self.routes:
            if m == method and any(re.fullmatch(pattern, text) for text in texts):
                return kind
        return ""

    def serve(self, ask: Ask) -> Any:
        """Check and execute one request."""
        self.signed(ask)
        if self.shut_out or (self.denied and ask.kind in ("create", "cancel")):
            raise Refusal(self.denied)
        return getattr(self, "on_" + ask.kind)(ask)

    @property
    def shut_out(self) -> bool:
        """Whether the key may not even read, nor listen."""
        return self.denied in ("key", "ip")

    def signed(self, ask: Ask) -> None:
        """Raise Refusal `key`, `signature` or `time` (`time` with `ahead` or `late`) unless all is as the venue has it."""
        raise NotImplementedError

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        """HTTP status and body: key, ip, permission, signature, time, busy, symbol, step, tick, amount, cost, cid, funds,
        duplicate, post_only, trigger (already reached), unknown (no such order), done (nothing to cancel)."""
        raise NotImplementedError

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        """(topic, frame) for every private stream that hears of `new`, `fill` or `done`; a connection gets those of its
        topics, see `private`."""
        return []

    def private(self, connection: Socket, topic: str) -> None:
        """From now on the connection gets the events of that topic."""
        connection.subscribe("private", topic)

    def market(self, id: str) -> str:
        """The symbol of a market id; Refusal `symbol` if there is none."""
        try:
            return self.symbol(id)
        except KeyError:
            raise Refusal("symbol", id) from None


DIALECTS: dict[str, type[Dialect]] = {}


def dialect(made: type[Dialect]) -> type[Dialect]:
    """Enter a dialect under its name."""
    DIALECTS[made.name] = made
    return made


def _learn() -> None:
    """Import the dialects, which import this module."""
    for name in ("trading_venues", "trading_venues_more"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise


_refused: contextvars.ContextVar[bool] = contextvars.ContextVar("refused", default=False)


class TradingExchange(LocalExchange):
    """`lag`: how many lookups do not find a new order yet; `lag_s`: for how many seconds they do not. `late_rejects`: how
    many of the next orders are accepted and then rejected. `stream`: what happens to private events: `` `` nothing,
    `doubled`, `swapped` (each pair in the wrong order), `muted`. `skew_ms`: how far the clock is ahead. `chaos`: a
    generator, a probability and fault names, for every private request of a kind in `chaotic`. `executions`: of each
    client id, how many orders were created. `asked`: every private request."""

    def __init__(self, venues: Sequence[str] | None = None):
        _learn()
        super().__init__(venues or tuple(DIALECTS))
        self.skew_ms = 0
        self.clock: Callable[[], int] = time.time_ns
        self.last = {"SOL/USDT": Decimal(150), "ETH/USDT": Decimal(2000), "SOL/USDT:USDT": Decimal(150)}
        self.spread = TICK
        self.offered: dict[str, list[Decimal]] = {}
        self.lag, self.lag_s, self.late_rejects = 0, 0.0, 0
        self.stream = ""
        self.faults: dict[tuple[str, int], str] = {}
        self.counts: Counter[str] = Counter()
        self.chaos: tuple[random.Random, float, Sequence[str]] | None = None
        self.chaotic: tuple[str, ...] = ("create", "cancel")
        self.asked: list[Ask] = []
        self.held: list[Callable[[], None]] = []
        self._newest_ns = 0
        self._swapped: list[tuple[Dialect, list[tuple[str, Any]]]] = []
        self.venues = {name: DIALECTS.get(name, VENUES[name])(self) for name in self.venues}

    async def __aenter__(self) -> TradingExchange:
        await self.up()
        return self

    # --------------------------------------------------------------------------------------------- what tests play with

    def whereabouts(self) -> tuple[int, str]:
        """What a client in another process needs to know, see `Far`."""
        return self.port, str(local_exchange._certificates()[0])

    def ledger(self, venue: str = "") -> Ledger:
        """The account at a venue; the only one if there is one."""
        name = venue or next(iter(self.venues))
        found = self.venues[name]
        assert isinstance(found, Dialect), name
        return found.ledger

    @property
    def executions(self) -> Counter[str]:
        return sum((ledger.executions for ledger in self._ledgers()), Counter())

    def _ledgers(self) -> list[Ledger]:
        return [venue.ledger for venue in self.venues.values() if isinstance(venue, Dialect)]

    def move(self, symbol: str, price: Any, size: Any = None) -> None:
        """The market trades at `price`, and so do the orders that rest there or nearer, up to `size` in all. The best bid
        is there then and the best ask a `spread` above; the streams say so."""
        price, size = Decimal(str(price)), None if size is None else Decimal(str(size))
        self.last[symbol] = price
        trade = dataclasses.replace(self.trade(), price=f"{price:.2f}")
        self.publish([trade if size is None else dataclasses.replace(trade, size=f"{size:.3f}")], symbol)
        self.quote(f"{self.best(symbol, 'sell'):.2f}", f"{self.best(symbol, 'buy'):.2f}", symbol)
        for ledger in self._ledgers():
            ledger.moved(symbol, price, size)

    def offer(self, symbol: str, *amounts: Any) -> None:
        """What takers find from now on: the first amount at the best price, each other one tick further, then nothing;
        without amounts as much as they want, as in the beginning."""
        self.offered[symbol] = [Decimal(str(amount)) for amount in amounts]
        if not amounts:
            del self.offered[symbol]

    def fault(self, name: str, kind: str = "create", nth: int = 1) -> None:
        """The `nth` private request of that kind from now on (`*`: of any kind) meets the fault of that name."""
        known = {f"unknown{n} {when}" for venue in self.venues.values() for n in range(len(getattr(venue, "unknown", ())))
                 for when in ("before", "after")}  # fmt: skip
        assert name in FAULTS or name in known, name
        self.faults[kind, self.counts[kind] + nth] = name

    def arrive(self) -> None:
        """What was held up on its way (`late before`) arrives now, if its time is not over."""
        held, self.held = self.held, []
        for one in held:
            one()

    def cut(self) -> None:
        """Cut the private streams without a word."""
        for connection in self.sockets[:]:
            if any(what == "private" for what, _ in connection.topics):
                connection.cut()

    # -------------------------------------------------------------------------------------------- what dialects ask for

    def ns(self) -> int:
        """The exchange's time, never the same twice."""
        self._newest_ns = max(self._newest_ns + 1000, (self.clock() + self.skew_ms * MS) // 1000 * 1000)
        return self._newest_ns

    def now_ms(self) -> int:
        """The exchange's clock, for judging a request's time."""
        return self.clock() // MS + self.skew_ms

    def best(self, symbol: str, side: str) -> Decimal:
        """The price that a taker of that side gets first."""
        return self.last[symbol] + (self.spread if side == "buy" else ZERO)

    def levels(self, symbol: str, side: str) -> Iterable[tuple[Decimal, Decimal | None]]:
        best, step = self.best(symbol, side), TICK if side == "buy" else -TICK
        if symbol not in self.offered:
            return [(best, None)]
        return [(best + n * step, amount) for n, amount in enumerate(self.offered[symbol])]

    def taken(self, symbol: str, amount: Decimal) -> None:
        """Less is offered now, the best first."""
        for n, offered in enumerate(self.offered.get(symbol, ())):
            gone = min(offered, amount)
            self.offered[symbol][n] -= gone
            amount -= gone

    def lag_until(self) -> float:
        return time.monotonic() + self.lag_s if self.lag_s else 0.0

    def event(self, venue: Dialect, frames: list[tuple[str, Any]]) -> None:
        """Send what one event makes to those private streams of the venue that want it."""
        if self.stream == "muted":
            return
        self._swapped.append((venue, frames))
        if self.stream == "swapped" and len(self._swapped) < 2:
            return
        batches, self._swapped = self._swapped[:: -1 if self.stream == "swapped" else 1], []
        for speaker, batch in batches * (2 if self.stream == "doubled" else 1):
            for connection in self.sockets:
                if connection.venue is speaker:
                    for topic, frame in batch:
                        connection.send(frame, ("private", topic))

    async def listening(self, topic: str, count: int = 1) -> None:
        """Wait until so many private streams want that topic."""
        await self.subscribed(count, "private", topic)

    # ------------------------------------------------------------------------------------------------------ the inside

    async def _rest(self, venue: Venue, request: web.Request) -> web.Response:
        query = request.rel_url.raw_query_string
        kind = venue.kind(request.method, request.path, query) if isinstance(venue, Dialect) else ""
        if not kind or self.refuse:
            return await super()._rest(venue, request)
        assert isinstance(venue, Dialect)
        body = await request.text()
        params = dict(request.query) | _fields(body)
        ask = Ask(venue.name, kind, request.method, request.path, query, body, request.headers, params)
        self.asked.append(ask)
        ask.fault = self._next_fault(kind)
        what, _, when = ask.fault.partition(" ")
        if when == "before":
            return await self._broken(venue, ask, request, what)
        answer = self._execute(venue, ask)
        return await self._broken(venue, ask, request, what) if what else answer

    def _next_fault(self, kind: str) -> str:
        self.counts[kind] += 1
        self.counts["*"] += 1
        found = self.faults.pop((kind, self.counts[kind]), "") or self.faults.pop(("*", self.counts["*"]), "")
        if not found and self.chaos is not None and kind in self.chaotic:
            generator, probability, names = self.chaos
            if generator.random() < probability:
                found = generator.choice(list(names))
        return found

    def _execute(self, venue: Dialect, ask: Ask) -> web.Response:
        try:
            ask.answer, ask.status = venue.serve(ask), 200
            ask.executed = True
        except Refusal as refusal:
            ask.status, ask.answer = venue.refusal(refusal.what, refusal.detail, ask)
        return web.json_response(ask.answer, status=ask.status)

    async def _broken(self, venue: Dialect, ask: Ask, request: web.Request, what: str) -> web.Response:
        """What the client gets to see instead of an answer."""
        transport = request.transport
        if what in ("busy", "nonce"):
            ask.status, ask.answer = venue.refusal("busy" if what == "busy" else "time", "", ask)
            return web.json_response(ask.answer, status=ask.status)
        if what.startswith("unknown"):
            status, answer = venue.unknown[int(what.removeprefix("unknown"))]
            return web.json_response(answer, status=status)
        if what.isdigit():
            page = "<html><title>error</title></html>"
            headers = {"Retry-After": "1"} if what == "429" else {}
            return web.Response(status=int(what), text=page, content_type="text/html", headers=headers)
        if what == "braces":
            return web.json_response({})
        if what == "broken":
            half = json.dumps(ask.answer)
            return web.Response(text=half[: len(half) // 2], content_type="application/json")
        if what == "empty":
            return web.Response(content_type="application/json")
        if what == "html":
            return web.Response(text="<html>We will be back soon</html>", content_type="text/html")
        if what == "late":
            self.held.append(lambda: void(self._execute(venue, ask)))
        if what in ("lost", "late", "timeout"):
            while transport is not None and not transport.is_closing():
                await asyncio.sleep(0.01)
            return web.Response()
        if what == "truncated":
            text = json.dumps(ask.answer).encode()
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = len(text) + 1
            await response.prepare(request)
            await response.write(text[: len(text) // 2])
        if transport is not None:
            if what == "reset":
                linger = struct.pack("ii", 1, 0)
                transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                transport.abort()
            else:
                transport.close()
        return web.Response()

    def refuses(self, url: Any, method: str) -> bool:
        """Whether the connection for that request is to be refused; counts it if so."""
        venue = next((venue for venue in self.venues.values() if url.host in venue.hosts), None)
        kind = venue.kind(method, url.path, url.raw_query_string) if isinstance(venue, Dialect) else ""
        if not kind:
            return False
        for key in ((kind, self.counts[kind] + 1), ("*", self.counts["*"] + 1)):
            if self.faults.get(key) == "refused before":
                self._next_fault(kind)
                return True
        return False


def void(_: object) -> None:
    pass


def _fields(body: str) -> dict[str, Any]:
    """The fields of a body, JSON or form."""
    if not body:
        return {}
    if body[0] not in "{[":
        return dict(parse_qsl(body, keep_blank_values=True))
    found = json.loads(body)
    return found if isinstance(found, dict) else {"": found}


@dataclass(frozen=True)
class Far:
    """A server in another process: its port and the file of its authority, as `TradingExchange.whereabouts` tells them.
    A process that has one makes no certificates of its own."""

    port: int
    authority: str

    def __post_init__(self) -> None:
        local_exchange._certificates = lambda: (Path(self.authority),) * 3  # type: ignore[assignment]


def trader(venue: str, server: TradingExchange | Far, **config: Any) -> Any:
    """The real ccxt.pro client of `venue` with the keys of the account there; close it with `closed`."""

    class Door:
        """The server's port, or one where nobody listens for the requests whose connection is to be refused."""

        @property
        def port(self) -> int:
            return _closed_port() if _refused.get() else server.port

    async def start(session: Any, context: Any, params: Any) -> None:
        _refused.set(isinstance(server, TradingExchange) and server.refuses(params.url, params.method))

    _learn()
    keys = DIALECTS[venue].keys
    config = {"apiKey": keys.key, "secret": keys.secret, "password": keys.password} | config
    config["options"] = DIALECTS[venue].options | config.get("options", {})
    made = client(venue, Door(), **config)  # type: ignore[arg-type]
    made.session.trace_configs.append(_trace(start))
    for entry in (made.markets or {}).values():
        entry["info"] |= DIALECTS[venue].market_info
    return made


def _trace(start: Any) -> Any:
    import aiohttp

    made = aiohttp.TraceConfig()
    made.on_request_start.append(start)
    made.freeze()
    return made


def _closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def plain(number: Decimal) -> str:
    """Without exponent and without zeros at the end."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


__all__ = ["AFTER", "BEFORE", "BODIES", "FAULTS", "KINDS", "SYMBOLS", "Ask", "Dialect", "Far", "Fill", "Keys", "Ledger", "Order", "Refusal",
           "TradingExchange", "dialect", "plain", "trader"]  # fmt: skip
