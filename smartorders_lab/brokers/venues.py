"""The eight exchanges as a broker uses them, through ccxt: create, find and cancel an order in each one's own way, and what an error means.

    venue = Venue("binance", partial(connect, "binance", keys))
    await venue.open()
    placed = await venue.create(Wanted(client_id, "SOL/USDT", "buy", Decimal("0.5"), None, sent_ms))
    truth = await venue.find("SOL/USDT", client_id, placed, sent_ms)

Only what is needed is asked of an exchange: limit orders, market sales, and purchases at market as limit orders that are filled at once or
not at all (IOC), since a market order to buy means eight different things. An order is known by its client id and, once it is heard, by
the exchange's. What became of it is read from the order and its trades; a status is never believed before its trades add up.

Of an error one thing matters: whether the request can have been carried out (`Fate`). What is not on the list of the exchange's
refusals is of unknown outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

from ..errors import ExchangeError, short
from ..instrument import Instrument
from ..keys import Keys, quieten, scrub
from ..rows import Liquidity
from . import stops

SECOND_NS = 10**9
SYNC_S, LOOK_S, AGAIN_S = 600.0, 10.0, 5.0
"""How often the exchange's clock is read; how often it is looked whether this machine's was set; the shortest time between two readings."""
OPEN_S = (0.3, 1.0)
"""Pauses before markets and clock are asked for again at a start."""
TURN_S = 2.0
"""How long one request waits for another's answer where they have to arrive in order."""
STEP_S = 0.5
"""A clock that has moved by so much against the one that nobody sets was set, or the machine has slept."""
WEEK_MS = 7 * 86_400_000
"""How far back a stop is looked for that is to be cancelled."""
WRONG_MS = 1_000
"""What the clock has to have been wrong by for an error to have come of that."""

log = logging.getLogger(__name__)


class Fate(StrEnum):
    """What an error says of the request that met it."""

    REFUSED = "refused"
    """It was not carried out, and will not be."""
    EXISTS = "exists"
    """An order of that client id is there already."""
    NOT_SENT = "not sent"
    """It was not carried out; sent again as it is, it may be."""
    UNSURE = "unsure"
    """Nobody knows."""


class Failed(Exception):
    """A request failed. `fate`: whether it can have been carried out all the same; `poor`: funds are missing; `timely`: unless it failed,
    or may have, for the time that it bore."""

    def __init__(self, fate: Fate, reason: str, poor: bool = False, timely: bool = True):
        super().__init__(reason)
        self.fate, self.reason, self.poor, self.timely = fate, reason, poor, timely


class Wanted(NamedTuple):
    """An order to be created. `price` None: at market. `ioc`: what is not filled at once is cancelled.

    `sent_ms`: by the exchange's clock.
    """

    client_id: str
    symbol: str
    side: str
    amount: Decimal
    price: Decimal | None
    sent_ms: int
    ioc: bool = False
    post_only: bool = False
    trigger: Decimal | None = None
    """Rest until the market falls to it: a stop loss."""


class Fill(NamedTuple):
    """One trade of an order. `fees`: what was paid, by currency, negative for a rebate."""

    id: str
    ts: int
    price: Decimal
    amount: Decimal
    liquidity: Liquidity
    fees: tuple[tuple[str, Decimal], ...]


class Truth(NamedTuple):
    """What an exchange says of an order: its id, whether it still works, what was filled of it, every trade of that."""

    id: str
    open: bool
    filled: Decimal
    fills: tuple[Fill, ...]
    rejected: str = ""
    """Why the exchange refused it after it had taken it, if it did."""


@dataclass(frozen=True)
class Facts:
    """What is particular to one exchange.

    `expiry_s`: after so long a request that has not arrived is not carried out any more, by its own rule or because nothing takes longer;
    `lag_s`: after so long an order that exists is found; `repeat`: a request of unknown outcome may be repeated under its client id,
    since that is refused, or answered with the first order, also when that is over. The lists are codes in the text of an error; `clock`:
    those that say, or may say, that the time of the request was wrong. `stop`: whether a stop that rests there sells at "market" or at a
    "limit"; "" where it has not been tried. `stop_expiry_s`: `expiry_s` of a request for a stop, where that is longer.
    """

    expiry_s: float
    lag_s: float
    repeat: bool = False
    unsure: tuple[str, ...] = ()
    exists: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    clock: tuple[str, ...] = ()
    stop: str = ""
    stop_expiry_s: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)


EXPIRY_MS = 5_000
"""How long an exchange may take to carry a request out, where it can be told."""
FACTS = {
    # checked again by the matching engine; a client id is unique among open orders only
    "binance": Facts(
        5,
        2,
        unsure=("-1000", "-1001", "-1006", "-1007", "-1008"),
        exists=("Duplicate order sent",),
        again=("-1021", "-1003", "-1015"),
        refused=("-2015", "-5028"),
        clock=("-1021", "-5028"),
        stop="market",
        options={
            "recvWindow": EXPIRY_MS,
            "adjustForTimeDifference": False,
            "fetchCurrencies": False,
            "fetchMargins": False,
        },
    ),
    # an order link id is never taken twice
    "bybit": Facts(
        5,
        2,
        repeat=True,
        unsure=("10000", "10016", "170001", "170007", "170032", "170146"),
        exists=("170141", "110072", "12141"),
        again=("10002", "10006", "10018"),
        clock=("10002",),
        stop="market",
        options={"recvWindow": EXPIRY_MS, "enableUnifiedMargin": False, "enableUnifiedAccount": True},
    ),
    "okx": Facts(
        5,
        2,
        unsure=("50001", "50004", "50005", "50013", "50026"),
        exists=("51016",),
        again=("50011", "50061", "50102", "50112"),
        refused=("51149", "50120"),
        clock=("50102", "50112", "51149"),
        stop="market",
        stop_expiry_s=30,  # of a stop it cannot be told until when
        options={"brokerId": None},  # or else a client id of ccxt's own is sent beside ours
    ),
    "gate": Facts(
        5,
        10,
        unsure=("INTERNAL", "SERVER_ERROR", "TOO_BUSY"),
        exists=("REPEATED_CREATION",),
        again=("REQUEST_EXPIRED", "TOO_MANY_REQUESTS", "TOO_FAST"),
        clock=("REQUEST_EXPIRED",),
        stop="limit",
        options={"unifiedAccount": False},
    ),
    # it cannot be told when to give a request up
    "bitget": Facts(
        60,
        10,
        unsure=("40010", "40015", "40725", "45001"),
        exists=("40786", "43118", "45034", "40708", "50060", "25212"),
        again=("40008", "40005", "429"),
        clock=("40008", "40005"),
        stop="market",
        options={"uta": False},
    ),
    "kucoin": Facts(
        5,
        10,
        unsure=("408000", "500000"),
        exists=("clientOidDuplicated", "126044"),
        again=("400002", "429000", "200003"),
        clock=("400002",),
        stop="market",
        options={"uta": False, "hf": True},
    ),
    "kraken": Facts(
        5,
        10,
        unsure=("EService:", "EGeneral:Internal error"),
        exists=("cl_ord_id already in use", "cl_ord_id is already in use"),
        again=("EAPI:Invalid nonce", "EAPI:Rate limit exceeded", "EOrder:Rate limit exceeded", "EService:Throttled"),
        refused=(
            "EService:Deadline elapsed",
            "EService:Market in",
            "EGeneral:Invalid arguments",
            "EGeneral:Permission denied",
            "EAPI:Invalid signature",
            "EOrder:",
        ),
        clock=("EService:Deadline elapsed", "EAPI:Invalid nonce"),
        stop="market",
    ),
    # asked twice for the same client id it gives the first order back
    "coinbase": Facts(
        120,
        10,
        repeat=True,
        unsure=("INTERNAL", "internal_server_error"),
        exists=("DUPLICATE_CLIENT_ORDER_ID",),
        again=("rate_limit_exceeded", "too many requests"),
        clock=("Unauthorized",),  # all that it says of a token that is too old
        stop="limit",
    ),
}
ALIASES = {"gateio": "gate", "okex": "okx", "coinbaseadvanced": "coinbase", "coinbase-advanced": "coinbase"}


def _says(text: str, codes: Sequence[str]) -> bool:
    """Whether one of these codes is in the text of an error: a number as a whole value, words anywhere."""
    for code in codes:
        number = code.lstrip("-").isdigit()
        if re.search(rf'[:\[]\s*"?{re.escape(code)}(?![\d.])', text) if number else code in text:
            return True
    return False


def fate(name: str, error: BaseException, sent: bool) -> Failed:
    """What an error of exchange `name` says of its request; `sent`: whether anything went out at all."""
    import aiohttp
    import ccxt

    facts, text = FACTS[name], str(error)
    reason = f"{type(error).__name__}: {short(scrub(text))}"

    def found(what: Fate) -> Failed:
        return Failed(what, reason, isinstance(error, ccxt.InsufficientFunds), not _says(text, facts.clock))

    if isinstance(error, ccxt.BaseError) and not sent:
        return found(Fate.NOT_SENT if isinstance(error, ccxt.OperationFailed) else Fate.REFUSED)
    if isinstance(error.__cause__, aiohttp.ClientConnectorError):
        return found(Fate.NOT_SENT)
    for what, codes in (
        (Fate.EXISTS, facts.exists),
        (Fate.NOT_SENT, facts.again),
        (Fate.REFUSED, facts.refused),
        (Fate.UNSURE, facts.unsure),
    ):
        if _says(text, codes):
            return found(what)
    if isinstance(error, (ccxt.RateLimitExceeded, ccxt.DDoSProtection, ccxt.InvalidNonce)):
        return found(Fate.NOT_SENT)
    if isinstance(error, ccxt.ExchangeError) and type(error) is not ccxt.ExchangeError:
        return found(Fate.REFUSED)
    if name == "coinbase" and re.search(r'"success":\s*false', text):
        return found(Fate.REFUSED)
    return found(Fate.UNSURE)


_EXPIRES = {"okx": ("expTime", r"^trade/(batch-orders|order)$"), "gate": ("x-gate-exptime", r"orders$")}
"""A header that says when a request is too late, and the paths that take it; ccxt has no parameter for it."""


def connect(name: str, keys: Keys) -> Any:
    """A ccxt client that trades with these keys."""
    import ccxt.pro

    return getattr(ccxt.pro, name)({**keys.for_ccxt(), "enableRateLimit": True})


def _least(key: str) -> Callable[[list[dict[str, Any]]], str]:
    return lambda page: str(min(int(row["info"][key]) for row in page))


def _cursor(page: list[dict[str, Any]]) -> str:
    return next(
        (str(found) for row in page for key in ("nextPageCursor", "cursor") if (found := row["info"].get(key))), ""
    )


_PAGES: dict[tuple[str, str], tuple[int | None, str, Callable[[list[dict[str, Any]]], Any]]] = {
    ("binance", "trades"): (1000, "fromId", lambda page: max(int(row["id"]) for row in page) + 1),
    ("bybit", "trades"): (100, "cursor", _cursor),
    ("bybit", "open"): (50, "cursor", _cursor),
    ("okx", "trades"): (100, "after", _least("billId")),
    ("okx", "open"): (100, "after", _least("ordId")),
    ("okx", "stops"): (100, "after", _least("algoId")),
    ("gate", "stops"): (100, "offset", len),
    ("bitget", "stops"): (100, "idLessThan", _least("orderId")),
    ("kucoin", "stops"): (100, "currentPage", len),
    ("gate", "trades"): (1000, "page", len),
    ("gate", "closed"): (100, "page", len),
    ("bitget", "trades"): (100, "idLessThan", _least("tradeId")),
    ("bitget", "open"): (100, "idLessThan", _least("orderId")),
    ("kucoin", "trades"): (100, "lastId", _least("id")),
    ("coinbase", "trades"): (100, "cursor", _cursor),
    ("coinbase", "open"): (100, "cursor", _cursor),
    ("coinbase", "closed"): (250, "cursor", _cursor),
}
"""Of what an exchange lists in pages: how many to a page, the parameter that asks for the next, and what it is after a page."""


class Venue:
    """One exchange. Raises Failed for a request that fails, ExchangeError for what cannot be used at all.

    `make`: makes the ccxt.pro client that is used, in the event loop that uses it. It trades, and does nothing else: a queue of market data
    before a stop loss would be a loss. It is closed by `close`.
    """

    def __init__(self, name: str, make: Callable[[], Any]):
        self.name = ALIASES.get(name, name)
        if self.name not in FACTS:
            raise ExchangeError(
                f"exchange = {short(name)}: is not one that can be traded on; there is {', '.join(FACTS)}"
            )
        self.facts, self._make = FACTS[self.name], make
        self.client: Any = None
        self.skew_ms = 0
        """How far this machine's clock is ahead of the exchange's."""
        self._sent = self._nonce = 0
        self._wall: Callable[[], int] = _wall_ms
        self._synced_s, self._step_s = -AGAIN_S, 0.0
        self._syncing, self._turn = asyncio.Lock(), asyncio.Lock()

    @property
    def request_expiry_ns(self) -> int:
        """After so long a request that has not arrived is never carried out."""
        return int(self.facts.expiry_s * SECOND_NS)

    @property
    def visibility_lag_ns(self) -> int:
        """After so long an order that exists is found."""
        return int(self.facts.lag_s * SECOND_NS)

    async def open(self) -> None:
        """Markets, and how far the clocks are apart."""
        self.client = self._make()
        self._prepare(self.client)
        for ask in (partial(self._asked, self.client.load_markets), self.sync):
            for pause in (*OPEN_S, None):
                try:
                    await ask()
                    break
                except Failed as failed:  # one answer that is lost is no reason not to begin
                    if pause is None or failed.fate is Fate.REFUSED:
                        raise
                    await asyncio.sleep(pause)

    def another(self) -> Any:
        """Another client with the markets and the clock of this one, for what must not wait before an order. Who asks for it closes it."""
        client = self._make()
        self._prepare(client)
        client.set_markets_from_exchange(self.client)
        return client

    async def sync(self) -> None:
        """Measure how far the clocks are apart. Raises Failed.

        What the answer takes on its way counts as ours, so that we are a little late rather than early: a request may be seconds late,
        but not from the future.
        """
        if not self.client.has.get("fetchTime"):
            return
        self._synced_s, self._step_s = time.monotonic(), time.time() - time.monotonic()
        try:
            told = await self.client.fetch_time()
        except Exception as error:
            raise fate(self.name, error, True) from None
        if told is not None:
            self.skew_ms = int(self._wall()) - int(told)

    async def keep_time(self) -> None:
        """Measure it now and then, and when this machine's clock was set or has slept."""
        while True:
            await asyncio.sleep(LOOK_S)
            moved = abs(time.time() - time.monotonic() - self._step_s)
            if moved > STEP_S or time.monotonic() > self._synced_s + SYNC_S:
                with contextlib.suppress(Failed):
                    await self.sync()

    async def close(self) -> None:
        """No more requests."""
        if self.client is not None:
            await self.client.close()

    def now_ms(self) -> int:
        """The exchange's clock."""
        return int(self.client.milliseconds())

    def instrument(self, symbol: str) -> Instrument:
        """The rules of a market."""
        if symbol not in self.client.markets:
            raise ExchangeError(f"symbol = {short(symbol)}: {self.name} has no such market")
        return Instrument.from_ccxt(self.client.markets[symbol])

    # ------------------------------------------------------------------------------------------------ orders

    async def create(self, wanted: Wanted) -> str:
        """Create an order; returns the exchange's id of it."""
        client = self.client
        params: dict[str, Any] = {"client_order_id" if self.name == "coinbase" else "clientOrderId": wanted.client_id}
        if wanted.trigger is not None:
            params = stops.asked(self.name, wanted.client_id, wanted.trigger)
        if wanted.ioc:
            params["timeInForce"] = "IOC"
        elif wanted.post_only:
            params["postOnly"] = True
        if self.name == "kraken":
            until = (wanted.sent_ms + EXPIRY_MS) / 1000
            params |= {
                "deadline": datetime.fromtimestamp(until, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            }
            params |= {"oflags": "post,fciq" if wanted.post_only else "fciq"}
            params.pop("postOnly", None)
        elif self.name == "kucoin" and wanted.trigger is None:
            params |= {"clientTimestamp": wanted.sent_ms, "allowMaxTimeWindow": EXPIRY_MS}
        market = wanted.price is None
        price = None if wanted.price is None else float(wanted.price)
        placed = await self._asked(
            lambda: client.create_order(
                wanted.symbol, "market" if market else "limit", wanted.side, float(wanted.amount), price, params
            )
        )
        if not isinstance(placed, dict) or not placed.get("id"):  # an empty or foreign answer is parsed to that
            raise Failed(Fate.UNSURE, "the answer names no order")
        return str(placed["id"])

    async def find(self, symbol: str, client_id: str, id: str, since_ms: int, stop: bool = False) -> Truth | None:
        """What became of an order, by the exchange's id if it is known ("" if not); None if it is not found.

        `stop`: it was created with a trigger. Its fills are those of the order that it became, its id is its own.
        """
        if stop and self.name in stops.APART:
            return await self._find_stop(symbol, client_id, id, since_ms)
        order = await self._order(symbol, client_id, id, since_ms)
        if order is None:
            return None
        found = str(order.get("id") or "")
        if not found or (id and found != id):
            raise Failed(Fate.UNSURE, "the answer names no order, or another one")
        filled = _decimal(order.get("filled"))
        status = order.get("status")
        trades = await self._trades(symbol, order, since_ms) if filled > 0 else []
        fills = tuple(
            sorted({fill.id: fill for fill in map(self._fill, trades)}.values(), key=lambda fill: (fill.ts, fill.id))
        )
        if sum((fill.amount for fill in fills), Decimal(0)) < filled:
            raise Failed(Fate.UNSURE, f"order {found}: {filled} are filled, and its trades do not add up to that yet")
        filled = sum((fill.amount for fill in fills), Decimal(0))
        whole = status == "closed" and filled == _decimal(order.get("amount"))
        is_open = status == "open" or (status not in ("closed", "canceled", "expired", "rejected") and not whole)
        rejected = short(scrub(str(order.get("info")))) if status == "rejected" and not filled else ""
        return Truth(found, is_open, filled, fills, rejected)

    async def cancel(self, symbol: str, client_id: str, id: str, stop: bool = False) -> bool:
        """Take an order back; what comes of it has to be looked up, unless the answer says all: that it waited, and never sold.

        `stop`: it was created with a trigger.
        """
        client, more = self.client, stops.named(self.name) if stop else {}
        if stop and self.name in stops.APART:
            return await self._cancel_stop(symbol, client_id, id)
        if id:
            await self._asked(lambda: client.cancel_order(id, symbol, more))
        elif self.name == "bybit":
            await self._asked(lambda: client.cancel_order("", symbol, {"orderLinkId": client_id, **more}))
        elif self.name == "gate":  # without an id in the path this would be a request to cancel everything
            await self._asked(lambda: client.cancel_order(f"t-{client_id}", symbol))
        elif self.name == "coinbase":
            raise Failed(Fate.NOT_SENT, "an order can be cancelled by the exchange's id only; look it up first")
        else:
            await self._asked(lambda: client.cancel_order("", symbol, {"clientOrderId": client_id}))
        return False

    async def open_orders(self, symbol: str) -> list[tuple[str, str]]:
        """(client id, id) of every order of a market that works, and of every stop that waits; Gate keeps no client id of a stop: ""."""
        found = await self._pages("open", lambda limit, by: self.client.fetch_open_orders(symbol, None, limit, by))
        resting = await stops.waiting(self, symbol) if self.name in stops.APART else []
        return [(self._client_id(order), str(order["id"])) for order in found] + [
            (one.client_id, one.id) for one in resting
        ]

    async def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Free and total of each currency."""
        found = await self._asked(self.client.fetch_balance)
        free, total = found.get("free") or {}, found.get("total") or {}
        return {name: (_decimal(free.get(name)), _decimal(total.get(name))) for name in total}

    # ------------------------------------------------------------------------------------------------ the inside

    async def _find_stop(self, symbol: str, client_id: str, id: str, since_ms: int) -> Truth | None:
        """What became of a stop that is in a list of its own, and of what followed it."""
        stop = await stops.look(self, symbol, client_id, id, since_ms)
        if stop is None:
            if not id and self.now_ms() < since_ms + self.facts.stop_expiry_s * 1000:
                raise Failed(Fate.UNSURE, "it is not there, and may still arrive")
            return None
        if stop.fired and not stop.orders:
            raise Failed(Fate.UNSURE, f"stop {stop.id} has fired, and the order that follows is not known yet")
        if stop.waits or not stop.orders:
            return Truth(stop.id, stop.waits, Decimal(0), (), stop.failed)
        parts = [await self.find(symbol, "", order, since_ms) for order in stop.orders]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            raise Failed(Fate.UNSURE, f"stop {stop.id} has fired, and the order that follows is not found yet")
        fills = tuple(sorted((fill for part in known for fill in part.fills), key=lambda fill: (fill.ts, fill.id)))
        return Truth(
            stop.id,
            any(part.open for part in known),
            sum((part.filled for part in known), Decimal(0)),
            fills,
            next((part.rejected for part in known if part.rejected), ""),
        )

    async def _cancel_stop(self, symbol: str, client_id: str, id: str) -> bool:
        """Take back a stop that is in a list of its own, or the order that it has become; as `cancel`."""
        try:
            if self.name == "gate" and not id:
                raise Failed(Fate.NOT_SENT, "a stop can be cancelled by the exchange's id only; look it up first")
            by = stops.named(self.name) | ({} if id else {"clientOrderId": client_id})
            answer = await self._asked(lambda: self.client.cancel_order(id, symbol, by))
            # KuCoin forgets a stop that was cancelled; proven by its absence, every exit would wait for that
            return self.name == "kucoin" and "cancelledOrderId" in str(answer) and (id or client_id) in str(answer)
        except Failed:
            stop = await stops.look(self, symbol, client_id, id, self.now_ms() - WEEK_MS)
            if stop is None or not (stop.orders or (stop.waits and not id)):
                raise
            for order in stop.orders:
                await self.cancel(symbol, "", order)
            if not stop.orders:
                return await self._cancel_stop(symbol, client_id, stop.id)
            return False

    def _prepare(self, client: Any) -> None:
        """Count what a client sends, give it the exchange's clock, and have it say until when an order is good."""
        quieten(client)
        client.options.update({**self.facts.options, "timeDifference": 0})
        wall = self._wall = client.milliseconds
        client.milliseconds = lambda: wall() - self.skew_ms
        client.seconds = lambda: client.milliseconds() // 1000
        client.microseconds = lambda: client.milliseconds() * 1000
        if self.name == "kraken":  # its numbers have to grow whatever the clock does, also from one client to the next
            client.nonce = self._number
        client.options["maxRetriesOnFailure"] = 0  # ccxt would repeat orders
        # spot markets only: others need more hosts, more permissions and more time, and a start must not fail for what is not traded
        client.has["fetchCurrencies"] = False
        known = client.options.get("fetchMarkets")
        client.options["fetchMarkets"] = (known if isinstance(known, dict) else {}) | {"types": ["spot"]}
        if self.name == "coinbase":  # the other list does not say what orders hold
            client.options["fetchBalance"] = "v3PrivateGetBrokerageAccounts"
        fetch, sign, expires = client.fetch, client.sign, _EXPIRES.get(self.name)

        async def counted(*request: Any, **more: Any) -> Any:
            self._sent += 1
            async with self._in_turn():
                answer = await fetch(*request, **more)
            if (
                not isinstance(answer, (dict, list)) or answer == {}
            ):  # ccxt would read a page of HTML as no orders at all
                raise Failed(Fate.UNSURE, "the answer is empty, or none of this exchange's")
            return answer

        def dated(path: str, api: Any = "public", method: str = "GET", *args: Any, **more: Any) -> Any:
            request = sign(path, api, method, *args, **more)
            if expires is not None and method == "POST" and re.search(expires[1], path):
                request["headers"] = {**(request["headers"] or {}), expires[0]: str(self.now_ms() + EXPIRY_MS)}
            return request

        client.fetch, client.sign = counted, dated

    @contextlib.asynccontextmanager
    async def _in_turn(self) -> AsyncIterator[None]:
        """Where the numbers of requests have to arrive in order, one at a time; a request that hangs is not waited for long."""
        mine = False
        if self.name == "kraken":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TURN_S):
                    mine = await self._turn.acquire()
        try:
            yield
        finally:
            if mine:
                self._turn.release()

    def _number(self) -> int:
        # by this machine's clock: what is reckoned of the exchange's, from whole seconds, may be less after a restart;
        # but where this one is far behind it may have been set back
        ahead = self.now_ms() + 2 * WRONG_MS if self.skew_ms < -WRONG_MS else 0
        self._nonce = max(self._nonce + 1, int(self._wall()), ahead)
        return self._nonce

    async def _asked(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a request. Raises Failed."""
        before, skew = self._sent, self.skew_ms
        try:
            return await ask()
        except Failed:
            raise
        except Exception as error:
            failed = fate(self.name, error, self._sent > before)
        raise await self._timed(failed, skew)

    async def _timed(self, failed: Failed, skew_ms: int) -> Failed:
        """What failed, when we were reckoned to be so far ahead; if that was wrong it may be sent again, for it is set right here."""
        if failed.timely or failed.fate not in (Fate.NOT_SENT, Fate.REFUSED):
            return failed
        async with self._syncing:
            if time.monotonic() > self._synced_s + AGAIN_S:
                with contextlib.suppress(Failed):
                    await self.sync()
        if abs(self.skew_ms - skew_ms) >= WRONG_MS:
            log.warning("%s: our clock is %d ms ahead, not %d ms", self.name, self.skew_ms, skew_ms)
        elif failed.fate is not Fate.REFUSED or not await self._let_in_now():
            return failed
        return Failed(Fate.NOT_SENT, failed.reason)

    async def _let_in_now(self) -> bool:
        """Whether keys that were refused a moment ago are taken: Coinbase says 401 to a good token now and then, as to an old one."""
        if self.name != "coinbase":
            return False
        try:
            await self.client.fetch_balance()
        except Exception:
            return False
        log.warning("%s: refused keys that it takes", self.name)
        return True

    async def _pages(
        self,
        what: str,
        ask: Callable[[int | None, dict[str, Any]], Awaitable[Any]],
        until: Callable[[Any], Any] | None = None,
    ) -> list[dict[str, Any]]:
        """All of a list, page after page, or the pages up to one of which `until` is true. Raises Failed."""
        size, name, after = _PAGES.get((self.name, what), (None, "", _cursor))
        found: dict[str, dict[str, Any]] = {}
        by: dict[str, Any] = {}
        for number in range(2, 1000):
            page = await self._asked(lambda by=by: ask(size, by))  # type: ignore[misc]
            new = {str(row["id"]): row for row in page if str(row["id"]) not in found}
            found |= new
            if size is None or len(page) < size or not new or (until is not None and until(page)):
                break
            following = (
                (number - 1) * size if name == "offset" else number if name in ("page", "currentPage") else after(page)
            )
            if not following:
                break
            by = {name: following}
        return [*found.values()]

    async def _looked(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a look; None if the exchange says that there is no such order."""
        import ccxt

        skew = self.skew_ms
        try:
            return await ask()
        except Failed:
            raise
        except ccxt.OrderNotFound:
            return None
        except Exception as error:
            if "was not found" in str(error) or _says(str(error), ("-2013", "EOrder:Unknown order", "NOT_FOUND")):
                return None
            failed = fate(self.name, error, True)
        raise await self._timed(failed, skew)

    async def _order(self, symbol: str, client_id: str, id: str, since_ms: int) -> dict[str, Any] | None:
        """An order as ccxt reads it, however this exchange lets it be found."""
        client, name = self.client, self.name
        since = max(since_ms - 60_000, 0)
        order: dict[str, Any] | None
        if name == "bybit":
            by = {"orderId": id} if id else {"orderLinkId": client_id}
            order = self._named(
                await self._looked(lambda: client.fetch_open_orders(symbol, None, 50, by)), client_id, id
            )
            if order is None or order.get("status") != "open":
                older = await self._looked(lambda: client.fetch_canceled_and_closed_orders(symbol, None, 50, by))
                order = self._named(older, client_id, id) or order
            return order
        if id:
            return self._by_own_id(await self._looked(lambda: client.fetch_order(id, symbol)))
        if name in ("binance", "okx", "bitget", "kucoin", "gate"):
            order = await self._looked(lambda: client.fetch_order("", symbol, {"clientOrderId": client_id}))
            if order is not None and order.get("id"):
                return self._by_own_id(order)
            if name != "gate":
                return None
        if name == "coinbase":
            return self._named(
                await self._listed(lambda n, by: client.fetch_orders(symbol, since, n, by), client_id, id),
                client_id,
                id,
            )
        # without its trades an order of Kraken would have to be looked for among all that the account has made
        ours: dict[str, Any] = {"clientOrderId": client_id, "trades": "true"} if name == "kraken" else {}
        order = self._named(
            await self._looked(lambda: client.fetch_open_orders(symbol, None, None, ours)), client_id, id
        )
        if order is None:
            older = await self._listed(
                lambda n, more: client.fetch_closed_orders(symbol, since, n, ours | more), client_id, id
            )
            order = self._named(older, client_id, id)
        return order

    async def _listed(
        self, ask: Callable[[int | None, dict[str, Any]], Awaitable[Any]], client_id: str, id: str
    ) -> list[dict[str, Any]]:
        """What an exchange lists of orders, as far as the page that has the one that is meant."""
        return await self._pages("closed", ask, lambda page: self._named(page, client_id, id) is not None)

    def _by_own_id(self, order: dict[str, Any] | None) -> dict[str, Any] | None:
        """Of an order that has followed a stop of OKX ccxt gives the id of the stop."""
        own = order["info"].get("ordId") if self.name == "okx" and order else None
        return order | {"id": str(own)} if order and own else order

    def _client_id(self, order: Mapping[str, Any]) -> str:
        found = str(order.get("clientOrderId") or "")
        return found.removeprefix("t-") if self.name == "gate" else found

    def _named(self, orders: Sequence[dict[str, Any]] | None, client_id: str, id: str) -> dict[str, Any] | None:
        """The one of these orders that is meant."""
        for order in orders or ():
            if (id and str(order["id"]) == id) or (not id and self._client_id(order) == client_id):
                return order
        return None

    async def _trades(self, symbol: str, order: Mapping[str, Any], since_ms: int) -> list[dict[str, Any]]:
        """The trades of an order."""
        client, id = self.client, str(order["id"])
        since = max(since_ms - 60_000, 0)
        if self.name == "kraken":
            named = [str(one) for one in order["info"].get("trades") or ()] or [
                str(t["id"]) for t in order.get("trades") or ()
            ]
            if named:
                found = []
                for n in range(0, len(named), 19):  # after 20 at once ccxt asks for the trades of nothing
                    some = {"trades": named[n : n + 19]}
                    found += await self._asked(partial(client.fetch_order_trades, id, symbol, None, None, some))
                return found
        elif self.name not in ("bitget", "coinbase"):
            return await self._pages("trades", lambda n, by: client.fetch_order_trades(id, symbol, None, n, by))
        own = {"bitget": {"orderId": id}, "coinbase": {"order_ids": id}}.get(self.name, {})
        found = await self._pages("trades", lambda n, by: client.fetch_my_trades(symbol, since, n, own | by))
        return [trade for trade in found if str(trade.get("order")) == id]

    def _fill(self, trade: Mapping[str, Any]) -> Fill:
        fees = trade.get("fees") or ([trade["fee"]] if trade.get("fee") else [])
        paid = tuple(
            (str(fee["currency"]), _decimal(fee["cost"]))
            for fee in fees
            if fee.get("currency") and fee.get("cost") is not None
        )
        liquidity = Liquidity.MAKER if trade.get("takerOrMaker") == "maker" else Liquidity.TAKER
        return Fill(
            str(trade["id"]),
            int(trade["timestamp"]) * 1_000_000,
            _decimal(trade["price"]),
            _decimal(trade["amount"]),
            liquidity,
            paid,
        )


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


def _decimal(value: Any) -> Decimal:
    """A number of ccxt, as it is written."""
    return Decimal(0) if value is None else Decimal(str(value))
