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

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple

from ..errors import ExchangeError, short
from ..instrument import Instrument
from ..keys import Keys
from ..rows import Liquidity

SECOND_NS = 10**9


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
    """A request failed. `fate`: whether it can have been carried out all the same; `poor`: funds are missing."""

    def __init__(self, fate: Fate, reason: str, poor: bool = False):
        super().__init__(reason)
        self.fate, self.reason, self.poor = fate, reason, poor


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
    since that is refused, or answered with the first order, also when that is over. The lists are codes in the text of an error.
    """

    expiry_s: float
    lag_s: float
    repeat: bool = False
    unsure: tuple[str, ...] = ()
    exists: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
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
        options={"recvWindow": EXPIRY_MS, "enableUnifiedMargin": False, "enableUnifiedAccount": True},
    ),
    "okx": Facts(
        5,
        2,
        unsure=("50001", "50004", "50005", "50013", "50026"),
        exists=("51016",),
        again=("50011", "50061", "50102", "50112"),
        refused=("51149", "50120"),
    ),
    "gate": Facts(
        5,
        10,
        unsure=("INTERNAL", "SERVER_ERROR", "TOO_BUSY"),
        exists=("REPEATED_CREATION",),
        again=("REQUEST_EXPIRED", "TOO_MANY_REQUESTS", "TOO_FAST"),
        options={"unifiedAccount": False},
    ),
    # it cannot be told when to give a request up
    "bitget": Facts(
        60,
        10,
        unsure=("40010", "40015", "40725", "45001"),
        exists=("40786", "43118", "45034", "40708", "50060", "25212"),
        again=("40008", "40005", "429"),
        options={"uta": False},
    ),
    "kucoin": Facts(
        5,
        10,
        unsure=("408000", "500000"),
        exists=("clientOidDuplicated", "126044"),
        again=("400002", "429000", "200003"),
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
    ),
    # asked twice for the same client id it gives the first order back
    "coinbase": Facts(
        120,
        10,
        repeat=True,
        unsure=("INTERNAL", "internal_server_error"),
        exists=("DUPLICATE_CLIENT_ORDER_ID",),
        again=("rate_limit_exceeded", "too many requests"),
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
    reason = f"{type(error).__name__}: {short(text)}"

    def found(what: Fate) -> Failed:
        return Failed(what, reason, isinstance(error, ccxt.InsufficientFunds))

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


_EXPIRES = {"okx": ("expTime", r"^trade/order$"), "gate": ("x-gate-exptime", r"orders$")}
"""A header that says when a request is too late, and the paths that take it; ccxt has no parameter for it."""


def connect(name: str, keys: Keys) -> Any:
    """A ccxt client that trades with these keys."""
    import ccxt.pro

    return getattr(ccxt.pro, name)({**keys.for_ccxt(), "enableRateLimit": True})


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
        self._sent = 0

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
        await self._asked(self.client.load_markets)
        if self.client.has.get("fetchTime"):
            self.skew_ms = int(await self._asked(self.client.load_time_difference) or 0)

    async def close(self) -> None:
        """No more requests."""
        if self.client is not None:
            await self.client.close()

    def now_ms(self) -> int:
        """The exchange's clock."""
        return int(self.client.milliseconds()) - self.skew_ms

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
        elif self.name == "kucoin":
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

    async def find(self, symbol: str, client_id: str, id: str, since_ms: int) -> Truth | None:
        """What became of an order, by the exchange's id if it is known ("" if not); None if it is not found."""
        order = await self._order(symbol, client_id, id, since_ms)
        if order is None:
            return None
        found = str(order["id"])
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
        rejected = short(str(order.get("info"))) if status == "rejected" and not filled else ""
        return Truth(found, is_open, filled, fills, rejected)

    async def cancel(self, symbol: str, client_id: str, id: str) -> None:
        """Take an order back; what comes of it has to be looked up."""
        client = self.client
        if id:
            await self._asked(lambda: client.cancel_order(id, symbol))
        elif self.name == "bybit":
            await self._asked(lambda: client.cancel_order("", symbol, {"orderLinkId": client_id}))
        elif self.name == "gate":  # without an id in the path this would be a request to cancel everything
            await self._asked(lambda: client.cancel_order(f"t-{client_id}", symbol))
        elif self.name == "coinbase":
            raise Failed(Fate.NOT_SENT, "an order can be cancelled by the exchange's id only; look it up first")
        else:
            await self._asked(lambda: client.cancel_order("", symbol, {"clientOrderId": client_id}))

    async def open_orders(self, symbol: str) -> list[tuple[str, str]]:
        """(client id, id) of every order of a market that works."""
        found = await self._asked(lambda: self.client.fetch_open_orders(symbol))
        return [(self._client_id(order), str(order["id"])) for order in found]

    async def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Free and total of each currency."""
        found = await self._asked(self.client.fetch_balance)
        free, total = found.get("free") or {}, found.get("total") or {}
        return {name: (_decimal(free.get(name)), _decimal(total.get(name))) for name in total}

    # ------------------------------------------------------------------------------------------------ the inside

    def _prepare(self, client: Any) -> None:
        """Count what a client sends, and have it say until when an order is good."""
        client.options.update(self.facts.options)
        client.options["maxRetriesOnFailure"] = 0  # ccxt would repeat orders
        fetch, sign, expires = client.fetch, client.sign, _EXPIRES.get(self.name)

        async def counted(*request: Any, **more: Any) -> Any:
            self._sent += 1
            return await fetch(*request, **more)

        def dated(path: str, api: Any = "public", method: str = "GET", *args: Any, **more: Any) -> Any:
            request = sign(path, api, method, *args, **more)
            if expires is not None and method == "POST" and re.search(expires[1], path):
                request["headers"] = {**(request["headers"] or {}), expires[0]: str(self.now_ms() + EXPIRY_MS)}
            return request

        client.fetch, client.sign = counted, dated

    async def _asked(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a request. Raises Failed."""
        before = self._sent
        try:
            return await ask()
        except Failed:
            raise
        except Exception as error:
            raise fate(self.name, error, self._sent > before) from None

    async def _looked(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The answer to a look; None if the exchange says that there is no such order."""
        import ccxt

        try:
            return await ask()
        except ccxt.OrderNotFound:
            return None
        except Exception as error:
            if "was not found" in str(error) or _says(str(error), ("-2013", "EOrder:Unknown order", "NOT_FOUND")):
                return None
            raise fate(self.name, error, True) from None

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
            return await self._looked(lambda: client.fetch_order(id, symbol))
        if name in ("binance", "okx", "bitget", "kucoin", "gate"):
            order = await self._looked(lambda: client.fetch_order("", symbol, {"clientOrderId": client_id}))
            if order is not None and order.get("id"):
                return order
            if name != "gate":
                return None
        if name == "coinbase":
            return self._named(await self._looked(lambda: client.fetch_orders(symbol, since, 250)), client_id, id)
        by = {"clientOrderId": client_id} if name == "kraken" else {}
        order = self._named(await self._looked(lambda: client.fetch_open_orders(symbol, None, None, by)), client_id, id)
        if order is None:
            order = self._named(
                await self._looked(lambda: client.fetch_closed_orders(symbol, since, None, by)), client_id, id
            )
        return order

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
                return list(
                    await self._asked(lambda: client.fetch_order_trades(id, symbol, None, None, {"trades": named}))
                )
        elif self.name not in ("bitget", "coinbase"):
            return list(await self._asked(lambda: client.fetch_order_trades(id, symbol)))
        by = {"bitget": {"orderId": id}, "coinbase": {"order_ids": id}}.get(self.name, {})
        found = await self._asked(lambda: client.fetch_my_trades(symbol, since, None, by))
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


def _decimal(value: Any) -> Decimal:
    """A number of ccxt, as it is written."""
    return Decimal(0) if value is None else Decimal(str(value))
