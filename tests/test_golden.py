"""Every request that `Venue` makes at each of the eight exchanges, as it is sent: method, address, headers, body.

    python tests/test_golden.py --write [venue ...]     # write tests/golden/<venue>.json anew, after a change that is meant

A real ccxt client talks to the local exchange, with fixed keys, a clock that stands still and no chance in it; what it hands to its
`fetch` is compared with the file. The file alone proves nothing but that nothing has changed. So each request in it is also judged by
what the exchange documents: its signature by the local exchange's own rule, which the examples that Binance, Kraken and Gate publish
have to satisfy as well, and where the client id, the time limit and the time in force have to be by a table here.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from local_exchange import closed
from trading_exchange import DIALECTS, Ask, Keys, Order, Refusal, TradingExchange, _fields, _learn, trader

from smartorders_lab.brokers.venues import EXPIRY_MS, FACTS, Failed, Venue, Wanted

_learn()
GOLDEN = Path(__file__).with_name("golden")
SOL = "SOL/USDT"
BEGIN_MS = 1_767_225_600_000
"""The clock of the first scene; each following one begins a minute later, and each request takes a second."""


class Clock:
    ms = BEGIN_MS


class Scene:
    """What a scene plays with: the venue, the account at the exchange, and orders that are there already."""

    def __init__(self, venue: Venue, server: TradingExchange):
        self.venue, self.server = venue, server
        self.ledger = server.ledger(venue.name)
        self.number = 0

    @property
    def client_id(self) -> str:
        return f"so{self.number:016d}"

    def order(self, side: str = "buy", price: Any = "140", what: str = "") -> Order:
        """An order of this scene that somebody has sent before, and what has become of it."""
        cid = f"t-{self.client_id}" if self.venue.name == "gate" else self.client_id
        order = self.ledger.create(SOL, side, "limit", "0.5", price, cid=cid)
        if what == "cancelled":
            self.ledger.cancel(order)
        return order

    async def create(self, side: str, price: Any = None, **how: Any) -> None:
        price = None if price is None else Decimal(price)
        wanted = Wanted(self.client_id, SOL, side, Decimal("0.5"), price, self.venue.now_ms(), **how)
        id = await self.venue.create(wanted)
        assert self.ledger.orders[id].cid.removeprefix("t-") == self.client_id

    async def protect(self) -> str:
        """A stop that rests at the exchange; returns its id."""
        price = None if self.venue.facts.stop == "market" else Decimal("138.5")
        wanted = Wanted(
            self.client_id, SOL, "sell", Decimal("0.5"), price, self.venue.now_ms(), trigger=Decimal("139.5")
        )
        id = await self.venue.create(wanted)
        assert self.ledger.orders[id].waiting
        assert self.ledger.orders[id].cid == ("" if self.venue.name == "gate" else self.client_id)
        return id

    async def look(self, id: str, known: bool, filled: str = "0", **is_: bool) -> None:
        """Look a stop up that is there, by both of its ids; `known`: or is not found."""
        for by in (id, ""):
            truth = await self.venue.find(SOL, self.client_id, by, self.venue.now_ms() - 40_000, True)
            assert (truth is not None) == known
            if truth is not None:
                assert (truth.id, truth.filled, truth.open) == (id, Decimal(filled), is_["open"])

    async def waits(self) -> None:
        await self.look(await self.protect(), True, open=True)
        assert len(await self.venue.open_orders(SOL)) > 1

    async def fires(self) -> None:
        id = await self.protect()
        self.server.move(SOL, "139.4")
        await self.look(id, True, "0.5", open=False)
        self.server.move(SOL, "150")

    async def give_up(self, by_id: bool) -> None:
        id = await self.protect()
        if self.venue.name == "coinbase" and not by_id:
            with pytest.raises(Failed):
                await self.venue.cancel(SOL, self.client_id, "", True)
            return
        await self.venue.cancel(SOL, self.client_id, id if by_id else "", True)
        assert self.ledger.orders[id].status == "cancelled"
        await self.look(id, self.venue.name != "kucoin", open=False)

    async def find(self, order: Order | None, by_id: bool) -> None:
        id = order.id if order is not None and by_id else "" if order is not None or not by_id else self.nothing()
        truth = await self.venue.find(SOL, self.client_id, id, self.venue.now_ms() - 30_000)
        assert (truth is None) == (order is None)
        if truth is not None and order is not None:
            assert (truth.id, truth.open, truth.filled) == (order.id, order.open, order.filled)

    def nothing(self) -> str:
        """The id of no order, as this exchange writes ids."""
        return self.ledger.dialect.order_id(9_999)

    async def cancel(self, by_id: bool) -> None:
        order = self.order()
        if self.venue.name == "coinbase" and not by_id:
            with pytest.raises(Failed):
                await self.venue.cancel(SOL, self.client_id, "")
            return
        await self.venue.cancel(SOL, self.client_id, order.id if by_id else "")
        assert order.status == "cancelled"


SCENES: dict[str, Callable[[Scene], Awaitable[Any]]] = {
    "open": lambda scene: scene.venue.open(),
    "create: buy, limit": lambda scene: scene.create("buy", "140.25"),
    "create: sell, limit": lambda scene: scene.create("sell", "160.5"),
    "create: buy, post only": lambda scene: scene.create("buy", "139", post_only=True),
    "create: buy at market, limited and at once": lambda scene: scene.create("buy", "151.5", ioc=True),
    "create: sell at market": lambda scene: scene.create("sell"),
    "find by id: works": lambda scene: scene.find(scene.order(), True),
    "find by id: filled": lambda scene: scene.find(scene.order(price="151"), True),
    "find by id: cancelled": lambda scene: scene.find(scene.order(what="cancelled"), True),
    "find by id: nothing": lambda scene: scene.find(None, True),
    "find by client id: works": lambda scene: scene.find(scene.order(), False),
    "find by client id: filled": lambda scene: scene.find(scene.order(price="151"), False),
    "find by client id: cancelled": lambda scene: scene.find(scene.order(what="cancelled"), False),
    "find by client id: nothing": lambda scene: scene.find(None, False),
    "cancel by id": lambda scene: scene.cancel(True),
    "cancel by client id": lambda scene: scene.cancel(False),
    "open orders": lambda scene: scene.venue.open_orders(SOL),
    "balances": lambda scene: scene.venue.balances(),
    "create: protective stop": lambda scene: scene.protect(),
    "stop: waits": lambda scene: scene.waits(),
    "stop: has fired": lambda scene: scene.fires(),
    "stop: taken back by id": lambda scene: scene.give_up(True),
    "stop: taken back by client id": lambda scene: scene.give_up(False),
}


def still(client: Any) -> Any:
    """A client whose time is `Clock` and whose dice always fall the same way."""
    client.milliseconds = lambda: Clock.ms
    client.seconds = lambda: Clock.ms // 1000
    client.microseconds = lambda: Clock.ms * 1000
    client.uuid = lambda *_: "00000000-0000-4000-8000-000000000000"
    client.uuid16 = lambda *_: "0" * 16
    client.uuid22 = lambda *_: "0" * 22
    client.random_bytes = lambda length: "00" * length
    return client


@asynccontextmanager
async def listening(name: str) -> AsyncIterator[tuple[Scene, list[dict[str, Any]]]]:
    """(scene, entries): a venue whose requests are written down before they are sent."""
    entries: list[dict[str, Any]] = []
    scene: Scene

    def make() -> Any:
        client = still(trader(name, server))
        send = client.fetch

        async def fetch(url: str, method: str = "GET", headers: Any = None, body: Any = None) -> Any:
            entries.append(
                {
                    "at": Clock.ms,
                    "method": method,
                    "url": url,
                    "headers": dict(sorted((headers or {}).items())),
                    "body": body,
                }
            )
            Clock.ms += 1000
            return await send(url, method, headers, body)

        client.fetch = fetch
        return client

    async with TradingExchange([name]) as server:
        server.clock = lambda: Clock.ms * 10**6
        server.ledger(name).total["SOL"] = Decimal(100)
        scene = Scene(Venue(name, make), server)
        yield scene, entries
        await closed(scene.venue.client)


def recorded(name: str) -> list[dict[str, Any]]:
    """Every request of every scene at one exchange, named."""

    async def play() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async with listening(name) as (scene, entries):
            for number, (title, act) in enumerate(SCENES.items()):
                Clock.ms, scene.number = BEGIN_MS + 60_000 * number, number
                entries.clear()
                await act(scene)
                many = len(entries) > 1
                found += [
                    {"name": f"{title}, request {n + 1}" if many else title, **entry} for n, entry in enumerate(entries)
                ]
        return found

    return asyncio.run(play())


def token(entry: dict[str, Any]) -> str:
    """The token of a request to Coinbase; nothing where there is none."""
    return str(entry["headers"].get("Authorization", "")).removeprefix("Bearer ")


def written(entry: dict[str, Any]) -> dict[str, Any]:
    """A request as the file has it: a token is spelled out, without its signature, which is another one each time."""
    if not token(entry):
        return entry
    head, claims, _ = (part + "=" * (-len(part) % 4) for part in token(entry).split("."))
    told = {name: json.loads(base64.urlsafe_b64decode(part)) for name, part in (("head", head), ("claims", claims))}
    return {**entry, "headers": {**entry["headers"], "Authorization": told}}


def file(name: str) -> Path:
    return GOLDEN / f"{name}.json"


def golden(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file(name).read_text("utf-8"))
    return found


@pytest.mark.parametrize("name", FACTS)
def test_requests_are_what_they_were(name: str) -> None:
    found = recorded(name)
    for now, was in zip(map(written, found), golden(name), strict=False):
        assert now == was, f"if this is meant: python tests/test_golden.py --write {name}"
    assert [entry["name"] for entry in found] == [entry["name"] for entry in golden(name)]
    for entry in found:
        judged(name, entry)


# ------------------------------------------------------------------------------------------------ what the exchange asks for


def asked(name: str, entry: dict[str, Any]) -> Ask:
    """A request as the exchange reads it."""
    url = urlsplit(entry["url"])
    body = entry["body"] or ""
    params = dict(parse_qsl(url.query, keep_blank_values=True)) | _fields(body)
    kind = DIALECTS[name](None).kind(entry["method"], url.path, url.query)
    return Ask(name, kind, entry["method"], url.path, url.query, body, entry["headers"], params)


def exchange(name: str, ms: int, keys: Keys | None = None) -> Any:
    """How an exchange judges, when its clock says so."""
    server = TradingExchange([name])
    server.clock = lambda: ms * 10**6
    dialect: Any = server.venues[name]
    if keys is not None:
        dialect.keys = keys
    return dialect


def judged(name: str, entry: dict[str, Any]) -> None:
    """A private request bears a good signature, and no longer does so if anything that counts is changed."""
    ask = asked(name, entry)
    if not ask.kind:
        assert not any(word in str(entry).lower() for word in ("sign", "secret", "-key")), "public, and signed"
        return
    exchange(name, entry["at"]).signed(ask)
    changed = []
    if name not in ("binance", "bybit"):  # these sign no path
        changed.append(dataclasses.replace(ask, path=ask.path + "s"))
    if name != "coinbase":  # its token is for a path alone
        if ask.body:
            changed.append(dataclasses.replace(ask, body=" " + ask.body if ask.body[0] in "{[" else "x=1&" + ask.body))
        if ask.query:
            changed.append(dataclasses.replace(ask, query="x=1&" + ask.query))
    for other in changed:
        with pytest.raises(Refusal, match="signature"):
            exchange(name, entry["at"]).signed(other)
    assert changed or (name in ("binance", "bybit") and not ask.body)


def test_the_rules_of_signing_satisfy_the_examples_that_are_published() -> None:
    """Binance (Spot API, "SIGNED endpoint examples"), Kraken ("Spot REST authentication"), Gate ("APIv4 signed request")."""
    text = (
        "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559"
    )
    sign = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
    key = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
    secret = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
    params = dict(parse_qsl(text)) | {"signature": sign}
    ask = Ask(
        "binance", "create", "POST", "/api/v3/order", "", f"{text}&signature={sign}", {"X-MBX-APIKEY": key}, params
    )
    exchange("binance", 1499827319559, Keys(key, secret)).signed(ask)

    body = "nonce=1616492376594&ordertype=limit&pair=XBTUSD&price=37500&type=buy&volume=1.25"
    sign = "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8ndwLUQ=="
    secret = "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg=="
    headers = {"API-Key": "mine", "API-Sign": sign}
    ask = Ask("kraken", "create", "POST", "/0/private/AddOrder", "", body, headers, dict(parse_qsl(body)))
    exchange("kraken", 0, Keys("mine", secret)).signed(ask)

    query = "contract=BTC_USD&status=finished&limit=50"
    sign = (
        "55f84ea195d6fe57ce62464daaa7c3c02fa9d1dde954e4c898289c9a2407a3d6"
        "fb3faf24deff16790d726b66ac9f74526668b13bd01029199cc4fcc522418b8a"
    )
    headers = {"KEY": "key", "SIGN": sign, "Timestamp": "1541993715"}
    ask = Ask("gate", "closed", "GET", "/api/v4/futures/orders", query, "", headers, dict(parse_qsl(query)))
    exchange("gate", 1541993715_000, Keys("key", "secret")).signed(ask)


@dataclasses.dataclass(frozen=True)
class Terms:
    """Where an exchange wants what, in the body, the query or the headers of a request to create an order.

    `client_id`: the field, and how it is written; `until`: what limits the time, from the moment of the request in ms; the others: what
    says how long an order is good, None for a field that has to be absent.
    """

    client_id: tuple[str, str]
    until: Callable[[int], dict[str, Any]]
    limit: dict[str, Any]
    at_once: dict[str, Any]
    post_only: dict[str, Any]
    market: dict[str, Any]


def iso(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03d}Z"


TERMS = {
    "binance": Terms(
        ("newClientOrderId", "{}"),
        lambda ms: {"timestamp": str(ms), "recvWindow": str(EXPIRY_MS)},
        {"type": "LIMIT", "timeInForce": "GTC"},
        {"type": "LIMIT", "timeInForce": "IOC"},
        {"type": "LIMIT_MAKER", "timeInForce": None},
        {"type": "MARKET", "price": None, "quoteOrderQty": None, "quantity": "0.5"},
    ),
    "bybit": Terms(
        ("orderLinkId", "{}"),
        lambda ms: {"X-BAPI-TIMESTAMP": str(ms), "X-BAPI-RECV-WINDOW": str(EXPIRY_MS)},
        {"category": "spot", "orderType": "Limit"},  # good until it is cancelled, unless told
        {"category": "spot", "orderType": "Limit", "timeInForce": "IOC"},
        {"category": "spot", "orderType": "Limit", "timeInForce": "PostOnly"},
        {"category": "spot", "orderType": "Market", "marketUnit": "baseCoin", "price": None, "qty": "0.5"},
    ),
    "okx": Terms(
        ("clOrdId", "{}"),
        lambda ms: {"OK-ACCESS-TIMESTAMP": iso(ms), "expTime": str(ms + EXPIRY_MS)},
        {"ordType": "limit", "tdMode": "cash"},
        {"ordType": "ioc", "tdMode": "cash"},
        {"ordType": "post_only", "tdMode": "cash"},
        {"ordType": "market", "tgtCcy": "base_ccy", "px": None, "sz": "0.5"},
    ),
    "gate": Terms(
        ("text", "t-{}"),
        lambda ms: {"Timestamp": str(ms // 1000), "x-gate-exptime": str(ms + EXPIRY_MS)},
        {"type": "limit", "account": "spot", "time_in_force": None},
        {"type": "limit", "account": "spot", "time_in_force": "ioc"},
        {"type": "limit", "account": "spot", "time_in_force": "poc"},
        {"type": "market", "side": "sell", "price": None, "amount": "0.5"},
    ),
    "bitget": Terms(
        ("clientOid", "{}"),
        lambda ms: {"ACCESS-TIMESTAMP": str(ms)},
        {"orderType": "limit", "force": "GTC"},
        {"orderType": "limit", "force": "IOC"},
        {"orderType": "limit", "force": "post_only"},
        {"orderType": "market", "side": "sell", "price": None, "size": "0.5"},
    ),
    "kucoin": Terms(
        ("clientOid", "{}"),
        lambda ms: {"clientTimestamp": ms, "allowMaxTimeWindow": EXPIRY_MS, "KC-API-TIMESTAMP": str(ms)},
        {"type": "limit", "timeInForce": None},
        {"type": "limit", "timeInForce": "IOC"},
        {"type": "limit", "postOnly": True},
        {"type": "market", "funds": None, "price": None, "size": "0.5"},
    ),
    "kraken": Terms(
        ("cl_ord_id", "{}"),
        lambda ms: {"nonce": str(ms), "deadline": iso(ms + EXPIRY_MS), "userref": None},
        {"ordertype": "limit", "oflags": "fciq", "timeinforce": None},
        {"ordertype": "limit", "oflags": "fciq", "timeinforce": "IOC"},
        {"ordertype": "limit", "oflags": "post,fciq"},
        {"ordertype": "market", "oflags": "fciq", "price": None, "volume": "0.5"},
    ),
    "coinbase": Terms(
        ("client_order_id", "{}"),
        lambda ms: {"nbf": ms // 1000, "exp": ms // 1000 + 120, "uri": "POST api.coinbase.com/api/v3/brokerage/orders"},
        {"limit_limit_gtc.base_size": "0.5", "limit_limit_gtc.post_only": False},
        {"sor_limit_ioc.base_size": "0.5", "sor_limit_ioc.limit_price": "151.5"},
        {"limit_limit_gtc.base_size": "0.5", "limit_limit_gtc.post_only": True},
        {"market_market_ioc.base_size": "0.5", "market_market_ioc.quote_size": None},
    ),
}
KINDS = {
    "create: buy, limit": "limit",
    "create: sell, limit": "limit",
    "create: buy, post only": "post_only",
    "create: buy at market, limited and at once": "at_once",
    "create: sell at market": "market",
}


def fields(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """What a request says, wherever it says it; a part within a part with a point."""
    said: dict[str, Any] = dict(asked(name, entry).params)
    said |= (said.pop("", None) or [{}])[0]  # OKX: a list of one order
    for key, terms in (said.pop("order_configuration", None) or {}).items():
        said |= {f"{key}.{field}": value for field, value in terms.items()}
    claims = entry["headers"].get("Authorization", {}).get("claims", {})
    return {**said, **claims, **entry["headers"]}


@pytest.mark.parametrize("name", FACTS)
def test_orders_say_who_they_are_and_how_long_they_are_good(name: str) -> None:
    terms, requests = TERMS[name], {entry["name"]: entry for entry in golden(name)}
    for number, title in enumerate(KINDS, 1):
        entry = requests[title]
        said, (field, spelled) = fields(name, entry), terms.client_id
        expected = {
            field: spelled.format(f"so{number:016d}"),
            **terms.until(entry["at"]),
            **getattr(terms, KINDS[title]),
        }
        assert {key: said.get(key) for key in expected} == expected, title
        assert len(f"so{number:016d}") == 18, "as long as they are"
        assert str(entry).count(f"so{number:016d}") == 1, "and in no other field"


STOPS: dict[str, dict[str, Any]] = {
    "binance": {"type": "STOP_LOSS", "stopPrice": "139.5", "price": None, "quantity": "0.5", "side": "SELL"},
    "bybit": {
        "orderFilter": "tpslOrder",
        "triggerPrice": "139.5",
        "orderType": "Market",
        "qty": "0.5",
        "side": "Sell",
        "category": "spot",
    },
    "okx": {
        "ordType": "conditional",
        "slTriggerPx": "139.5",
        "slOrdPx": "-1",
        "slTriggerPxType": "last",
        "sz": "0.5",
        "side": "sell",
        "tdMode": "cash",
        "clOrdId": None,
        "tpTriggerPx": None,
        "triggerPx": None,
    },
    "gate": {
        "trigger": {"price": "139.5", "rule": "<=", "expiration": 72_482},
        "put": {
            "type": "limit",
            "side": "sell",
            "price": "138.5",
            "amount": "0.5",
            "account": "normal",
            "time_in_force": "gtc",
        },
        "market": "SOL_USDT",
    },
    "bitget": {
        "planType": "amount",
        "triggerPrice": "139.5",
        "triggerType": "fill_price",
        "orderType": "market",
        "size": "0.5",
        "side": "sell",
        "executePrice": None,
    },
    "kucoin": {"stop": "loss", "stopPrice": "139.5", "type": "market", "size": "0.5", "side": "sell", "price": None},
    "kraken": {"ordertype": "stop-loss", "price": "139.5", "price2": None, "volume": "0.5", "type": "sell"},
    "coinbase": {
        "stop_limit_stop_limit_gtc.stop_price": "139.5",
        "stop_limit_stop_limit_gtc.limit_price": "138.5",
        "stop_limit_stop_limit_gtc.stop_direction": "STOP_DIRECTION_STOP_DOWN",
        "side": "SELL",
    },
}
APART: dict[str, tuple[str, dict[str, Any]]] = {
    "okx": ("/api/v5/trade/order-algo", {"algoClOrdId": "{}", "expTime": None}),
    "gate": ("/api/v4/spot/price_orders", {}),
    "bitget": ("/api/v2/spot/trade/place-plan-order", {"clientOid": "{}"}),
    "kucoin": ("/api/v1/stop-order", {"clientOid": "{}", "clientTimestamp": None, "allowMaxTimeWindow": None}),
}
"""Where a stop is sent that is no order; where its client id is and what limits the time, if not where an order has them."""


@pytest.mark.parametrize("name", FACTS)
def test_protective_stops_say_what_they_wait_for(name: str) -> None:
    (entry,) = [entry for entry in golden(name) if entry["name"] == "create: protective stop"]
    cid = f"so{[*SCENES].index('create: protective stop'):016d}"
    terms = TERMS[name]
    path, own = APART.get(name, ("", {terms.client_id[0]: "{}"}))
    told = {key: value.format(cid) if value == "{}" else value for key, value in own.items()}
    said = fields(name, entry)
    expected = STOPS[name] | terms.until(entry["at"]) | told
    assert {key: said.get(key) for key in expected} == expected
    assert (entry["body"] or "").count(cid) == (name != "gate"), "in one field, and no other"
    assert not path or urlsplit(entry["url"]).path == path


STOPS_BY: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "binance": (("orderId",), ("origClientOrderId",)),
    "bybit": (("orderId",), ("orderLinkId",)),
    "okx": (("algoId",), ("algoClOrdId",)),
    "gate": (("/price_orders/{}",), ("/price_orders/{}",)),
    "bitget": (("orderId",), ("clientOid",)),
    "kucoin": (("/stop-order/{}",), ("clientOid",)),
    "kraken": (("txid",), ("cl_ord_id",)),
    "coinbase": (("order_ids",), ()),
}
"""By what a stop is taken back; Gate keeps no client id of one, so that it is looked for first."""


@pytest.mark.parametrize("name", FACTS)
def test_stops_are_taken_back_by_one_name(name: str) -> None:
    """One request, which names the stop and nothing else: without a name it may be taken for one that means all of them."""
    ids = {"binance": str.isdigit, "bybit": str.isdigit, "okx": str.isdigit, "gate": str.isdigit, "bitget": str.isdigit}
    for title, by in zip(("stop: taken back by id", "stop: taken back by client id"), STOPS_BY[name], strict=True):
        cid = f"so{[*SCENES].index(title):016d}"
        entries = [entry for entry in golden(name) if entry["name"].partition(",")[0] == title]
        kinds = [asked(name, entry).kind for entry in entries]
        assert kinds.count("cancel") == len(by)
        assert kinds[0] == "create"
        if not by:
            continue
        entry = entries[kinds.index("cancel")]
        said, path = fields(name, entry), urlsplit(entry["url"]).path
        where = by[0]
        found = path.rpartition("/")[2] if where.startswith("/") else said[where]
        found = found[0] if isinstance(found, list) else found
        if title.endswith("client id") and name != "gate":
            assert found == cid
        else:
            assert found
            assert found != cid
            assert ids.get(name, lambda _: True)(found)
        assert not where.startswith("/") or path.endswith(where.format(found))
        if name == "bybit":
            assert said["orderFilter"] == "tpslOrder", "or it looks among the orders"


BY_ID: dict[str, tuple[str, ...]] = {
    "binance": ("orderId",),
    "bybit": ("orderId",),
    "okx": ("ordId",),
    "gate": ("/",),
    "bitget": ("orderId",),
    "kucoin": ("/",),
    "kraken": ("txid",),
    "coinbase": ("/", "order_ids"),
}
BY_CLIENT_ID: dict[str, str] = {
    "binance": "origClientOrderId",
    "bybit": "orderLinkId",
    "okx": "clOrdId",
    "gate": "/t-",
    "bitget": "clientOid",
    "kucoin": "/client-order/",
    "kraken": "cl_ord_id",
}


@pytest.mark.parametrize("name", FACTS)
def test_orders_are_named_where_the_exchange_looks_for_them(name: str) -> None:
    """By its id or by ours, never by neither: a cancel that names no order may be taken for one that means all of them."""
    for entry in golden(name):
        title = entry["name"].partition(",")[0]
        if not title.startswith(("find by", "cancel by")):
            continue
        said, path = fields(name, entry), urlsplit(entry["url"]).path
        cid = f"so{[*SCENES].index(title):016d}"
        assert "None" not in (entry["body"] or "") + entry["url"], entry["name"]
        ours = BY_CLIENT_ID.get(name, "")
        named = [
            value
            for field in BY_ID[name]
            for value in [path.rpartition("/")[2] if field == "/" else said.get(field)]
            if value
        ]
        if "request" in entry["name"] and not entry["name"].endswith("request 1"):
            continue  # what follows once it is known
        if "by client id" not in title:
            assert cid not in str(entry)
            assert named, entry["name"]
        elif name == "coinbase":  # it has no such lookup: a list, from before it was sent
            assert said["start_date"] <= iso(entry["at"] - 60_000)
        elif ours.startswith("/"):
            assert path.endswith(f"{ours}{cid}"), entry["name"]
        else:
            assert said[ours] == cid, entry["name"]


def main() -> None:
    """Write the files anew."""
    if "--write" not in sys.argv:
        raise SystemExit(__doc__)
    GOLDEN.mkdir(exist_ok=True)
    for name in [name for name in sys.argv[1:] if name in FACTS] or FACTS:
        entries = [written(entry) for entry in recorded(name)]
        file(name).write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(file(name), len(entries))


if __name__ == "__main__":
    main()
