"""How Bitget, KuCoin, Kraken and Coinbase trade: their private requests, signatures, codes and streams."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import uuid
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from functools import cache
from typing import Any, ClassVar
from urllib.parse import unquote

from local_exchange import Bitget, Coinbase, Kraken, Kucoin, Socket
from trading_exchange import Ask, Dialect, Fill, Keys, Order, Refusal, dialect, plain

DAY = 86_400_000


def _signature(secret: str | bytes, text: str | bytes, kind: str = "sha256") -> str:
    key = secret.encode() if isinstance(secret, str) else secret
    return base64.b64encode(hmac.new(key, text.encode() if isinstance(text, str) else text, kind).digest()).decode()


def _same(one: Any, other: str) -> bool:
    return hmac.compare_digest(str(one).encode(), other.encode())


def _iso(ns: int) -> str:
    return f"{datetime.fromtimestamp(ns // 10**9, UTC):%Y-%m-%dT%H:%M:%S}.{ns % 10**9 // 1000:06d}Z"


def _instant(text: str) -> int:
    """An ISO 8601 instant in ms."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def _latest(venue: Dialect, id: str, cid: str, apart: bool = False) -> Order:
    """The order of that id, or the newest with that client id, as the matching engine knows it: without any delay.
    `apart`: not among the orders but among the stops that are none."""
    for order in reversed(venue.ledger.orders.values()):
        if order.apart == apart and (order.id == id if id else bool(cid) and order.cid == cid):
            return order
    raise Refusal("unknown", id or cid)


def _within(asked: dict[str, Any], first: str, last: str, ms: int) -> bool:
    return int(asked.get(first, 0)) <= ms <= int(asked.get(last, 10**15))


# ------------------------------------------------------------------------------------------------------------- Bitget


@dialect
class BitgetTrading(Dialect, Bitget):
    """A classic account: for a unified one the venue has other paths. A lookup that finds nothing is an empty list."""

    keys = Keys("bitget-key", "bitget-secret", "bitget-password")
    options: ClassVar[dict[str, Any]] = {"uta": False}
    routes = (
        ("POST", "/api/v2/spot/trade/place-order", "create"),
        ("POST", "/api/v2/spot/trade/cancel-order", "cancel"),
        ("GET", "/api/v2/spot/trade/orderInfo", "order"),
        ("POST", "/api/v2/spot/trade/place-plan-order", "create"),
        ("POST", "/api/v2/spot/trade/cancel-plan-order", "cancel"),
        ("GET", "/api/v2/spot/trade/current-plan-order", "open"),
        ("GET", "/api/v2/spot/trade/history-plan-order", "closed"),
        ("GET", "/api/v2/spot/trade/plan-sub-order", "order"),
        ("GET", "/api/v2/spot/trade/unfilled-orders", "open"),
        ("GET", "/api/v2/spot/trade/history-orders", "closed"),
        ("GET", "/api/v2/spot/trade/fills", "trades"),
        ("GET", "/api/v2/spot/account/assets", "balance"),
        ("GET", "/api/v2/spot/account/info", "account"),
        ("GET", "/api/v3/account/settings", "account"),
    )
    post_only = "cancelled"
    apart, reserves, either_way = True, False, True
    least_cost = Decimal(1)
    window_ms = 30_000
    unknown = (
        (400, {"code": "40015", "msg": "System is abnormal, please try again later"}),
        (400, {"code": "40725", "msg": "service return an error"}),
        (400, {"code": "45001", "msg": "Unknown error"}),
        (400, {"code": "40010", "msg": "Request timed out"}),
    )
    codes: ClassVar[dict[str, Any]] = {
        "key": (400, "40006", "Invalid ACCESS_KEY"),
        "password": (400, "40012", "apikey/password is incorrect"),
        "ip": (400, "40018", "Invalid IP"),
        "permission": (400, "40014", "Incorrect permissions"),
        "signature": (400, "40009", "sign signature error"),
        "time": (400, "40008", "Request timestamp expired"),
        "busy": (429, "429", "Too Many Requests"),
        "mode": (400, "40084", "You are in Classic Account mode, and the Unified Account API is not supported at this "
                               "time"),
        "symbol": (400, "40034", "Parameter {} does not exist"),
        "step": (400, "40808", "Parameter verification exception size checkBDScale error value={} checkScale=3"),
        "tick": (400, "40808", "Parameter verification exception price checkBDScale error value={} checkScale=2"),
        "amount": (400, "45110", "less than the minimum amount 0.001 SOL"),
        "cost": (400, "45110", "less than the minimum amount 1 USDT"),
        "cid": (400, "40305", "client_oid length is not greater than 50, and cannot be Martian characters"),
        "funds": (400, "43012", "Insufficient balance"),
        "duplicate": (400, "40786", "Duplicate clientOid"),
        "trigger": (400, "40017", "Parameter verification failed triggerPrice"),
        "plan": (400, "40017", "Parameter verification failed {}"),
        "no plan": (400, "43025", "Plan order does not exist"),
        "unknown": (400, "43001", "The order does not exist"),
        "done": (400, "43001", "The order does not exist"),
    }  # fmt: skip
    failures: ClassVar[dict[str, Any]] = {
        "key": (30011, "Invalid ACCESS_KEY"), "password": (30012, "Invalid ACCESS_PASSPHRASE"),
        "time": (30014, "Request timestamp expired"), "signature": (30015, "Invalid sign"),
        "ip": (30002, "illegal request"),
        "permission": (30002, "illegal request"), "login": (30004, "User not logged in / User must be logged in"),
    }  # fmt: skip

    def __init__(self, server: Any):
        super().__init__(server)
        self.logged_in: set[Socket] = set()

    def order_id(self, number: int) -> str:
        return str(1_111_499_608_327_360_000 + number)

    def trade_id(self, number: int) -> str:
        return str(1_098_394_344_974_925_000 + number)

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        if what == "unknown" and ask.kind == "order":
            return 200, self._told([])
        if "plan" in ask.path and what in ("unknown", "done"):
            what = "no plan"
        status, code, text = self.codes[what]
        return status, {"code": code, "msg": text.format(detail), "requestTime": self.server.now_ms(), "data": None}

    def signed(self, ask: Ask) -> None:
        sent = ask.headers.get("ACCESS-TIMESTAMP", "")
        # The query is signed as it reads, not as it is encoded.
        text = sent + ask.method + ask.path + (f"?{unquote(ask.query)}" if ask.query else "") + ask.body
        found = {name: ask.headers.get(f"ACCESS-{name.upper()}", "") for name in ("key", "sign", "passphrase")}
        self._judge(found["key"], found["passphrase"], sent, 1, text, found["sign"])

    def _judge(self, key: str, password: str, sent: str, unit: int, text: str, sign: str) -> None:
        if not _same(key, self.keys.key):
            raise Refusal("key")
        if not sent.isdigit() or abs(int(sent) * unit - self.server.now_ms()) > self.window_ms:
            raise Refusal("time")
        if not _same(sign, _signature(self.keys.secret, text)):
            raise Refusal("signature")
        if not _same(password, self.keys.password):
            raise Refusal("password")

    def _told(self, data: Any) -> dict[str, Any]:
        return {"code": "00000", "msg": "success", "requestTime": self.server.now_ms(), "data": data}

    def stop_id(self, number: int) -> str:
        return self.order_id(number)

    def following(self, stop: Order, number: int) -> tuple[str, str]:
        return self.order_id(number), stop.id

    def _create_stop(self, asked: dict[str, Any], cid: str) -> Any:
        """Nothing is locked for it. The price has to be a text, what fires it the last price, and what is sold an amount."""
        for field, good in (("triggerPrice", str), ("size", str)):
            if not isinstance(asked.get(field), good):
                raise Refusal("plan", field)
        if asked.get("planType") != "amount" or asked.get("triggerType") != "fill_price" or asked["side"] != "sell":
            raise Refusal("plan", "planType")
        stop = self.ledger.create(
            self.market(asked["symbol"]), "sell", asked["orderType"], asked["size"], asked.get("executePrice"),
            cid=cid or f"bitget{len(self.ledger.orders)}", trigger=asked["triggerPrice"],
        )  # fmt: skip
        return self._told({"orderId": stop.id, "clientOid": stop.cid})

    def _stop_row(self, stop: Order) -> dict[str, Any]:
        status = {"open": "live", "fired": "executed", "rejected": "fail_execute"}.get(stop.status, "cancelled")
        return {
            "orderId": stop.id, "clientOid": stop.cid, "symbol": self.id(stop.symbol), "size": plain(stop.amount),
            "planType": "AMOUNT", "executePrice": plain(stop.price or Decimal(0)),
            "triggerPrice": plain(stop.trigger or Decimal(0)), "status": status, "orderType": stop.kind,
            "side": stop.side, "triggerType": "fill_price", "enterPointSource": "API", "cTime": str(stop.ms),
            "uTime": str(stop.updated),
        }  # fmt: skip

    def _stops(self, ask: Ask, open: bool) -> Any:
        asked = ask.params
        if not open and not ("symbol" in asked and "startTime" in asked and "endTime" in asked):
            raise Refusal("plan", "startTime")
        stops = self._page(ask, self.ledger.listed(self._symbol(ask), open, True))
        last = stops[-1].id if stops else ""
        return self._told({"nextFlag": False, "idLessThan": last, "orderList": [self._stop_row(one) for one in stops]})

    def on_create(self, ask: Ask) -> Any:
        asked = ask.params
        cid = asked.get("clientOid", "")
        if cid and not re.fullmatch(r"[A-Za-z0-9_-]{1,50}", cid):
            raise Refusal("cid")
        if "plan" in ask.path:
            return self._create_stop(asked, cid)
        kind, buys = asked["orderType"], asked["side"] == "buy"
        tif = asked.get("force", "gtc").upper()
        spends = kind == "market" and buys
        order = self.ledger.create(
            self.market(asked["symbol"]), asked["side"], kind, None if spends else asked["size"], asked.get("price"),
            cid=cid or f"bitget{len(self.ledger.orders)}", tif="PO" if tif == "POST_ONLY" else tif,
            funds=asked["size"] if spends else None,
        )  # fmt: skip
        return self._told({"orderId": order.id, "clientOid": order.cid})

    def _row(self, order: Order) -> dict[str, Any]:
        size = order.amount if order.funds is None else order.funds
        row = {
            "userId": "7264631750", "symbol": self.id(order.symbol), "orderId": order.id, "clientOid": order.cid,
            "price": plain(order.price or Decimal(0)), "size": f"{size:.16f}", "orderType": order.kind,
            "side": order.side,
            "status": self._status(order), "priceAvg": f"{order.average:.16f}", "baseVolume": f"{order.filled:.16f}",
            "quoteVolume": f"{order.cost:.16f}", "enterPointSource": "API", "orderSource": "normal",
            "cTime": str(order.ms),
            "uTime": str(order.updated), "tpslType": "normal", "triggerPrice": None, "quoteCoin": order.quote,
            "baseCoin": order.base, "cancelReason": "" if order.status in ("open", "closed") else f"{order.why}_cancel",
        }  # fmt: skip
        if order.fills:
            detail: dict[str, Any] = {}
            for currency, fee in order.fees().items():
                detail[currency] = {"deduction": False, "feeCoinCode": currency, "totalDeductionFee": 0,
                                    "totalFee": -float(fee)}  # fmt: skip
            paid = -float(sum(order.fees().values()))
            detail = {
                "newFees": {"c": 0, "d": 0, "deduction": False, "r": paid, "t": paid, "totalDeductionFee": 0}
            } | detail
            row["feeDetail"] = json.dumps(detail)
        return row

    @staticmethod
    def _status(order: Order) -> str:
        if order.open:
            return "partially_filled" if order.filled else "live"
        return "filled" if order.status == "closed" else "cancelled"

    def on_order(self, ask: Ask) -> Any:
        if "plan" in ask.path:
            child = self.ledger.find(ask.params["planOrderId"], "", True).child
            if child is None:
                return self._told([])
            price = plain(child.price or Decimal(0))
            row = {"orderId": child.id, "price": price, "type": child.kind, "status": self._status(child)}
            return self._told([row])
        return self._told([self._row(self.ledger.find(ask.params.get("orderId", ""), ask.params.get("clientOid", "")))])

    def on_cancel(self, ask: Ask) -> Any:
        plan = "plan" in ask.path
        order = _latest(self, ask.params.get("orderId", ""), ask.params.get("clientOid", ""), plan)
        if not plan and self.market(ask.params["symbol"]) != order.symbol:
            raise Refusal("unknown")
        self.ledger.cancel(order)
        return self._told({"orderId": order.id, "clientOid": order.cid})

    def _page(self, ask: Ask, rows: list[Any]) -> list[Any]:
        """The newest first, those of the time asked for."""
        asked = ask.params
        rows = [row for row in rows if _within(asked, "startTime", "endTime", row.ms)]
        rows = [row for row in rows if int(row.id) < int(asked.get("idLessThan", 10**19))]
        return rows[::-1][: min(int(asked.get("limit", 100)), 100)]

    def _symbol(self, ask: Ask) -> str:
        return self.market(ask.params["symbol"]) if "symbol" in ask.params else ""

    def on_open(self, ask: Ask) -> Any:
        if "plan" in ask.path:
            return self._stops(ask, True)
        orders = self.ledger.listed(self._symbol(ask), True, False)
        return self._told([self._row(order) for order in self._page(ask, orders)])

    def on_closed(self, ask: Ask) -> Any:
        if "plan" in ask.path:
            return self._stops(ask, False)
        listed = self.ledger.listed(self._symbol(ask), False, False)
        orders = [o for o in listed if o.ms > self.server.now_ms() - 90 * DAY]
        return self._told([self._row(order) for order in self._page(ask, orders)])

    def on_trades(self, ask: Ask) -> Any:
        fills = [f for f in self.ledger.traded(self._symbol(ask)) if ask.params.get("orderId") in (None, f.order.id)]
        return self._told([self._fill(fill, -1) for fill in self._page(ask, fills)])

    def _fill(self, fill: Fill, sign: int) -> dict[str, Any]:
        """`sign`: REST writes a fee that was paid with a minus, the stream without."""
        fee: Any = {"deduction": "no", "feeCoin": fill.fee_currency, "totalDeductionFee": "0",
                    "totalFee": plain(sign * fill.fee)}  # fmt: skip
        return {
            "userId": "7264631750", "symbol": self.id(fill.order.symbol), "orderId": fill.order.id, "tradeId": fill.id,
            "orderType": fill.order.kind, "side": fill.order.side, "priceAvg": plain(fill.price),
            "size": plain(fill.amount),
            "amount": plain(fill.cost), "feeDetail": fee if sign < 0 else [fee],
            "tradeScope": "maker" if fill.maker else "taker", "cTime": str(fill.ms), "uTime": str(fill.ms),
        }  # fmt: skip

    def _coin(self, name: str) -> dict[str, str]:
        return {"coin": name, "available": plain(self.ledger.free(name)), "limitAvailable": "0",
                "frozen": plain(self.ledger.used[name]), "locked": "0", "uTime": str(self.ms)}  # fmt: skip

    def on_balance(self, ask: Ask) -> Any:
        return self._told([self._coin(name) for name in self.ledger.balances()])

    def on_account(self, ask: Ask) -> Any:
        if ask.path.endswith("settings"):
            raise Refusal("mode")
        allowed = ["readonly", "spot_trade", *(["withdraw"] if self.withdraw else [])]
        return self._told({"userId": "7264631750", "ips": "127.0.0.1", "authorities": allowed, "parentId": 0})

    # ---------------------------------------------------------------------------------------------------------- streams

    def hear(self, connection: Socket, text: str) -> list[Any]:
        if not connection.path.endswith("/private") or text == "ping":
            return super().hear(connection, text)
        message = json.loads(text)
        if message["op"] == "login":
            (asked,) = message["args"]
            sent = str(asked["timestamp"])
            try:
                self._judge(asked["apiKey"], asked["passphrase"], sent, 1000, sent + "GET/user/verify", asked["sign"])
                if self.denied:
                    raise Refusal(self.denied)
            except Refusal as refusal:
                return [self._failure(refusal.what)]
            self.logged_in.add(connection)
            return [{"event": "login", "code": 0, "msg": ""}]
        if connection not in self.logged_in:
            return [self._failure("login")]
        frames: list[Any] = []
        for arg in message["args"]:
            which = arg.get("instId") or arg["coin"]
            self.private(connection, f"{arg['channel']}:{which}")
            frames.append({"event": "subscribe", "arg": arg})
            if arg["channel"] == "account":
                frames.append(self._frame("account", which, [self._coin(name) for name in self.ledger.balances()]))
        return frames

    def _failure(self, what: str) -> dict[str, Any]:
        code, text = self.failures[what]
        return {"event": "error", "code": code, "msg": text}

    def _frame(self, channel: str, which: str, rows: list[Any]) -> dict[str, Any]:
        arg = {"instType": "SPOT", "channel": channel, "coin" if channel == "account" else "instId": which}
        return {"action": "snapshot", "arg": arg, "data": rows, "ts": self.ms}

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        market = self.id(order.symbol)
        size = order.amount if order.funds is None else order.funds
        row: dict[str, Any] = {
            "instId": market, "orderId": order.id, "clientOid": order.cid, "size": plain(order.cost or size),
            "newSize": plain(size), "notional": plain((order.price or Decimal(0)) * order.amount),
            "orderType": order.kind,
            "force": "post_only" if order.tif == "PO" else "ioc" if order.tif == "IOC" else "gtc", "side": order.side,
            "accBaseVolume": plain(order.filled),
            "priceAvg": plain(order.average), "status": "live" if what == "new" else self._status(order),
            "cTime": str(order.ms), "uTime": str(order.updated), "enterPointSource": "API",
            "feeDetail": [{"feeCoin": name, "fee": plain(-fee)} for name, fee in order.fees().items()],
        }  # fmt: skip
        if order.price is not None:
            row["price"] = plain(order.price)
        if fill is not None:  # what was filled now, not in all
            row |= {"fillPrice": plain(fill.price), "tradeId": fill.id, "baseVolume": plain(fill.amount),
                    "fillTime": str(fill.ms), "fillFee": plain(-fill.fee), "fillFeeCoin": fill.fee_currency,
                    "tradeScope": "M" if fill.maker else "T"}  # fmt: skip
        told = [(f"orders:{which}", self._frame("orders", which, [row])) for which in (market, "default")]
        if fill is not None:
            told += [
                (f"fill:{which}", self._frame("fill", which, [self._fill(fill, 1)])) for which in (market, "default")
            ]
        names = sorted({order.base, order.quote, *([fill.fee_currency] if fill else [])})
        return [*told, ("account:default", self._frame("account", "default", [self._coin(name) for name in names]))]


# ------------------------------------------------------------------------------------------------------------- KuCoin


@dialect
class KucoinTrading(Dialect, Kucoin):
    """An account of high frequency, as all are by now. The stream of orders names no fees."""

    keys = Keys("kucoin-key", "kucoin-secret", "kucoin-password")
    options: ClassVar[dict[str, Any]] = {"hf": True, "uta": False}
    market_info: ClassVar[dict[str, Any]] = {"quoteIncrement": "0.01"}
    routes = (
        ("POST", "/api/v1/hf/orders", "create"),
        ("DELETE", "/api/v1/hf/orders/client-order/[^/]+", "cancel"),
        ("DELETE", "/api/v1/hf/orders/[^/]+", "cancel"),
        ("GET", "/api/v1/hf/orders/active", "open"),
        ("GET", "/api/v1/hf/orders/done", "closed"),
        ("GET", "/api/v1/hf/orders/client-order/[^/]*", "order"),
        ("GET", "/api/v1/hf/orders/[^/]+", "order"),
        ("POST", "/api/v1/stop-order", "create"),
        ("DELETE", "/api/v1/stop-order/[^/]+", "cancel"),
        ("GET", "/api/v1/stop-order/[^/]+", "order"),
        ("GET", "/api/v1/stop-order", "open"),
        ("GET", "/api/v1/hf/fills", "trades"),
        ("GET", "/api/v1/accounts", "balance"),
        ("GET", "/api/v1/user/api-key", "account"),
        ("GET", "/api/v1/hf/accounts/opened", "account"),
        ("GET", "/api/ua/v1/account/mode", "account"),
        ("GET", "/api/v3/margin/symbols", "account"),
        ("GET", "/api/v1/isolated/symbols", "account"),
        ("POST", "/api/v1/bullet-private", "token"),
    )
    apart, reserves = True, False
    same_id = False
    """Whether the order that follows a stop has the id of it; its client id it has."""
    fee_in = "quote"
    post_only = "cancelled"
    least_cost = Decimal("0.1")
    window_ms = 5000
    unknown = (
        (200, {"code": "408000", "msg": "Network timeout, please try again later"}),
        (500, {"code": "500000", "msg": "Internal Server Error"}),
    )
    codes: ClassVar[dict[str, Any]] = {
        "header": (401, "400001", "Please check the header of your request for KC-API-KEY, KC-API-SIGN, "
                                  "KC-API-TIMESTAMP, KC-API-PASSPHRASE"),
        "time": (401, "400002", "KC-API-TIMESTAMP Invalid"),
        "key": (401, "400003", "KC-API-KEY not exists"),
        "password": (401, "400004", "Invalid KC-API-PASSPHRASE"),
        "signature": (401, "400005", "Invalid KC-API-SIGN"),
        "ip": (401, "400006", "The IP address is not in the API whitelist"),
        "permission": (403, "400007", "Access denied, require more permission."),
        "busy": (429, "429000", "Too many requests in a short period of time, please retry later"),
        "symbol": (200, "900001", "Symbol not exists"),
        "step": (200, "400100", "Order size increment invalid."),
        "tick": (200, "400100", "Price increment invalid."),
        "amount": (200, "400100", "The quantity is below the minimum requirement."),
        "cost": (200, "600100", "Funds below the minimum requirement."),
        "cid": (200, "400100", "clientOid: at most 40 letters, numbers, underscores and hyphens"),
        "funds": (200, "200004", "Balance insufficient!"),
        "trigger": (200, "400100", "The stop price is invalid."),
        "stop": (200, "400100", "stop: one of loss and entry"),
        "duplicate": (200, "400100", "validation.createOrder.clientOidDuplicated"),
        "unknown": (200, "400100", "order not exist."),
        "done": (200, "400100", "order_not_exist_or_not_allow_to_cancel"),
    }  # fmt: skip

    def __init__(self, server: Any):
        super().__init__(server)
        self.insiders: set[str] = set()

    def order_id(self, number: int) -> str:
        return f"{0x6478CF1439BDFC << 40 | number:024x}"

    def trade_id(self, number: int) -> str:
        return str(13_000_000_000 + number)

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        if what == "unknown" and ask.kind == "cancel":
            what = "done"
        status, code, text = self.codes[what]
        return status, {"code": code, "msg": text}

    def signed(self, ask: Ask) -> None:
        names = ("KEY", "SIGN", "TIMESTAMP", "PASSPHRASE")
        key, sign, sent, password = (ask.headers.get(f"KC-API-{name}", "") for name in names)
        if not (key and sign and sent and password):
            raise Refusal("header")
        if not _same(key, self.keys.key):
            raise Refusal("key")
        if not sent.isdigit() or abs(int(sent) - self.server.now_ms()) > self.window_ms:
            raise Refusal("time")
        where = ask.path + (f"?{unquote(ask.query)}" if ask.query else "")
        if not _same(sign, _signature(self.keys.secret, sent + ask.method + where + ask.body)):
            raise Refusal("signature")
        if not _same(password, _signature(self.keys.secret, self.keys.password)):
            raise Refusal("password")

    def on_create(self, ask: Ask) -> Any:
        asked = ask.params
        cid = asked.get("clientOid", "")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", cid):
            raise Refusal("cid")
        if "stop-order" in ask.path:
            if asked.get("stop") != "loss" or asked["side"] != "sell":
                raise Refusal("stop")
            stop = self.ledger.create(
                self.market(asked["symbol"]), "sell", asked["type"], asked["size"], asked.get("price"), cid=cid,
                trigger=asked["stopPrice"],
            )  # fmt: skip
            return {"code": "200000", "data": {"orderId": stop.id}}
        order = self.ledger.create(
            self.market(asked["symbol"]), asked["side"], asked["type"], asked.get("size"), asked.get("price"), cid=cid,
            tif="PO" if asked.get("postOnly") else asked.get("timeInForce", "GTC"), funds=asked.get("funds"),
        )  # fmt: skip
        return {"code": "200000", "data": {"orderId": order.id, "clientOid": cid}}

    def _row(self, order: Order) -> dict[str, Any]:
        funds = order.funds if order.funds is not None else (order.price or Decimal(0)) * order.amount
        left = Decimal(0) if not order.open else order.remaining
        gone = Decimal(0) if order.open else order.remaining
        fees = order.fees() or {order.quote: Decimal(0)}
        return {
            "id": order.id, "symbol": self.id(order.symbol), "opType": "DEAL", "type": order.kind, "side": order.side,
            "price": plain(order.price or Decimal(0)), "size": "0" if order.funds is not None else plain(order.amount),
            "funds": plain(funds), "dealSize": plain(order.filled), "dealFunds": plain(order.cost),
            "fee": plain(next(iter(fees.values()))), "feeCurrency": next(iter(fees)), "stp": None,
            "timeInForce": "IOC" if order.tif == "IOC" and order.kind == "limit" else "GTC",
            "postOnly": order.tif == "PO", "hidden": False, "iceberg": False,
            "visibleSize": "0", "cancelAfter": 0, "channel": "API", "clientOid": order.cid, "remark": None,
            "tags": None,
            "cancelExist": order.status not in ("open", "closed"), "createdAt": order.ms,
            "lastUpdatedAt": order.updated,
            "tradeType": "TRADE", "inOrderBook": order.open, "cancelledSize": plain(gone), "cancelledFunds": "0",
            "remainSize": plain(left), "remainFunds": plain(left * (order.price or 0)), "active": order.open,
            "tax": "0",
        }  # fmt: skip

    def stop_id(self, number: int) -> str:
        return f"vs{0x9F6 << 32 | number:022x}"

    def following(self, stop: Order, number: int) -> tuple[str, str]:
        if not self.same_id:
            return self.order_id(number), stop.cid
        self.ledger.orders[f"stop {stop.id}"] = self.ledger.orders.pop(stop.id)  # one place, two things of that id
        return stop.id, stop.cid

    def _stop_row(self, stop: Order) -> dict[str, Any]:
        return {
            "id": stop.id, "symbol": self.id(stop.symbol), "userId": "1", "status": "NEW" if stop.open else "TRIGGERED",
            "type": stop.kind, "side": stop.side, "price": plain(stop.price or Decimal(0)), "size": plain(stop.amount),
            "funds": None, "stp": None, "timeInForce": "GTC", "cancelAfter": -1, "postOnly": False, "hidden": False,
            "iceberg": False, "visibleSize": None, "channel": "API", "clientOid": stop.cid, "remark": None,
            "tags": None, "orderTime": stop.ns, "domainId": "kucoin", "tradeSource": "USER", "tradeType": "TRADE",
            "feeCurrency": stop.quote, "takerFeeRate": plain(self.ledger.taker), "createdAt": stop.ms, "stop": "loss",
            "makerFeeRate": plain(self.ledger.maker), "stopTriggerTime": None if stop.open else stop.updated,
            "stopPrice": plain(stop.trigger or Decimal(0)), "relatedNo": None,
        }  # fmt: skip

    def _stop(self, ask: Ask) -> Order:
        """What was cancelled, or could not be placed, is forgotten."""
        by_cid = ask.path.endswith("ClientOid")
        id, cid = ("", ask.params.get("clientOid", "")) if by_cid else (ask.path.rpartition("/")[2], "")
        stop = _latest(self, id, cid, True) if ask.kind == "cancel" else self.ledger.find(id, cid, True)
        if stop.status not in ("open", "fired"):
            raise Refusal("unknown")
        return stop

    def _named(self, ask: Ask) -> tuple[str, str]:
        """(id, client id) in the path."""
        self.market(ask.params["symbol"])
        last = ask.path.rpartition("/")[2]
        return ("", last) if "/client-order/" in ask.path else (last, "")

    def on_order(self, ask: Ask) -> Any:
        if "stop-order" not in ask.path:
            return {"code": "200000", "data": self._row(self.ledger.find(*self._named(ask)))}
        if not ask.path.endswith("ClientOid"):
            return {"code": "200000", "data": self._stop_row(self._stop(ask))}
        try:
            return {"code": "200000", "data": [self._stop_row(self._stop(ask))]}
        except Refusal:
            return {"code": "200000", "data": []}

    def on_cancel(self, ask: Ask) -> Any:
        if "stop-order" in ask.path:
            stop = self.ledger.cancel(self._stop(ask))
            if ask.path.endswith("ClientOid"):
                data = {"cancelledOrderId": stop.id, "clientOid": stop.cid, "cancelledOcoOrderIds": None}
                return {"code": "200000", "data": data}
            return {"code": "200000", "data": {"cancelledOrderIds": [stop.id]}}
        id, cid = self._named(ask)
        self.ledger.cancel(_latest(self, id, cid))
        return {"code": "200000", "data": {"clientOid": cid} if cid else {"orderId": id}}

    def on_open(self, ask: Ask) -> Any:
        if "stop-order" in ask.path:
            stops = self.ledger.listed(self.market(ask.params["symbol"]), True, True)[::-1]
            page, size = int(ask.params.get("currentPage", 1)), min(int(ask.params.get("pageSize", 50)), 500)
            rows = [self._stop_row(stop) for stop in stops[(page - 1) * size : page * size]]
            pages = -(-len(stops) // size)
            data = {"currentPage": page, "pageSize": size, "totalNum": len(stops), "totalPage": pages, "items": rows}
            return {"code": "200000", "data": data}
        orders = self.ledger.listed(self.market(ask.params["symbol"]), True, False)
        return {"code": "200000", "data": [self._row(order) for order in orders[::-1]]}

    def _page(self, ask: Ask, rows: list[Any]) -> list[Any]:
        """20 unless told otherwise by `limit`; `pageSize`, which ccxt sends, says nothing here. `lastId`: those before it."""
        first, last = int(ask.params.get("startAt", 0)), int(ask.params.get("endAt", 10**15))
        if not first:
            first = min(last, self.server.now_ms()) - 7 * DAY
        rows = [row for row in rows if first <= row.ms <= min(last, first + 7 * DAY)]
        rows = [row for row in rows if row.number < int(ask.params.get("lastId") or 10**19)]
        return rows[::-1][: min(int(ask.params.get("limit", 20)), 100)]

    def on_closed(self, ask: Ask) -> Any:
        orders = self._page(ask, self.ledger.listed(self.market(ask.params["symbol"]), False, False))
        rows = [self._row(order) for order in orders]
        return {"code": "200000", "data": {"lastId": orders[-1].number if orders else 0, "items": rows}}

    def on_trades(self, ask: Ask) -> Any:
        fills = self.ledger.traded(self.market(ask.params["symbol"]))
        fills = self._page(ask, [f for f in fills if ask.params.get("orderId") in (None, f.order.id)])
        rows = [
            {"id": fill.number, "symbol": self.id(fill.order.symbol), "tradeId": int(fill.id), "orderId": fill.order.id,
             "counterOrderId": "0", "side": fill.order.side, "liquidity": "maker" if fill.maker else "taker",
             "forceTaker": False, "price": plain(fill.price), "size": plain(fill.amount), "funds": plain(fill.cost),
             "fee": plain(fill.fee), "feeRate": plain(self.ledger.maker if fill.maker else self.ledger.taker),
             "feeCurrency": fill.fee_currency, "stop": "", "tradeType": "TRADE", "type": fill.order.kind,
             "createdAt": fill.ms}
            for fill in fills
        ]  # fmt: skip
        return {"code": "200000", "data": {"items": rows, "lastId": fills[-1].number if fills else 0}}

    def on_balance(self, ask: Ask) -> Any:
        rows = [{"id": f"{n:024x}", "currency": name, "type": "trade_hf", "balance": plain(total),
                 "available": plain(total - used), "holds": plain(used)}
                for n, (name, (total, used)) in enumerate(self.ledger.balances().items())]  # fmt: skip
        return {"code": "200000", "data": [row for row in rows if ask.params.get("type") in (None, row["type"])]}

    def on_account(self, ask: Ask) -> Any:
        told: dict[str, Any] = {
            "mode": {"selfAccountMode": "CLASSIC"}, "opened": True, "symbols": [],
            "api-key": {"uid": 1, "subName": "", "remark": "tests", "apiKey": self.keys.key, "apiVersion": 3,
                        "permission": "General,Spot" + ",Withdrawal" * self.withdraw, "ipWhitelist": "127.0.0.1",
                        "createdAt": self.ms, "isMaster": True},
        }  # fmt: skip
        data = told[ask.path.rpartition("/")[2]]
        return {"code": "200000", "data": {"items": []} if ask.path.endswith("margin/symbols") else data}

    def on_token(self, ask: Ask) -> Any:
        token = f"private{next(self._numbers)}"
        self.tokens.add(token)
        self.insiders.add(token)
        address = {"endpoint": "wss://ws-api-spot.kucoin.com/", "protocol": "websocket", "encrypt": True,
                   "pingInterval": self.ping_ms, "pingTimeout": 10_000}  # fmt: skip
        return {"code": "200000", "data": {"token": token, "instanceServers": [address]}}

    # ---------------------------------------------------------------------------------------------------------- streams

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        topic = message.get("topic", "")
        if topic not in ("/spotMarket/tradeOrders", "/account/balance"):
            return super().hear(connection, text)
        if connection.request.query.get("token") not in self.insiders or not message.get("privateChannel"):
            return [
                {"id": message["id"], "type": "error", "code": 403, "data": f"topic {topic} needs a private channel"}
            ]
        self.private(connection, topic)
        return [{"id": message["id"], "type": "ack"}]

    def _message(self, topic: str, subject: str, data: dict[str, Any]) -> tuple[str, Any]:
        return topic, {"type": "message", "topic": topic, "subject": subject, "userId": "1", "channelType": "private",
                       "data": data}  # fmt: skip

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        told = []
        if what == "new" and order.kind == "limit" and order.tif != "IOC":
            told = [("open", "open", order.amount, Decimal(0))]
        elif fill is not None:
            left = order.remaining if order.open else Decimal(0)
            told = [("match", "match", left, order.filled)]
            if order.status == "closed":
                told.append(("filled", "done", left, order.filled))
        elif what == "done":
            told = [("canceled", "done", Decimal(0), order.filled)]
        frames = []
        for kind, status, left, filled in told:
            data: dict[str, Any] = {
                "symbol": self.id(order.symbol), "orderType": order.kind, "side": order.side, "orderId": order.id,
                "type": kind, "orderTime": order.ms, "price": plain(order.price or Decimal(0)),
                "filledSize": plain(filled),
                "clientOid": order.cid, "remainSize": plain(left), "status": status, "ts": order.updated_ns,
                "canceledSize": plain(order.remaining) if kind == "canceled" else "0",
            }  # fmt: skip
            data |= {"originSize": plain(order.amount), "size": plain(order.amount)} if order.funds is None else {
                "funds": plain(order.funds)}  # fmt: skip
            if kind == "match" and fill is not None:
                liquidity = "maker" if fill.maker else "taker"
                data |= {"liquidity": liquidity, "feeType": f"{liquidity}Fee", "matchPrice": plain(fill.price),
                         "matchSize": plain(fill.amount), "tradeId": fill.id}  # fmt: skip
            frames.append(self._message("/spotMarket/tradeOrders", "orderChange", data))
        event = "trade_hf.setted" if fill else "trade_hf.hold"
        for name in sorted({order.base, order.quote, *([fill.fee_currency] if fill else [])}):
            data = {"accountId": "1", "available": plain(self.ledger.free(name)), "availableChange": "0",
                    "currency": name,
                    "hold": plain(self.ledger.used[name]), "holdChange": "0", "relationEvent": event,
                    "relationEventId": str(order.number), "time": str(order.updated),
                    "total": plain(self.ledger.total[name])}  # fmt: skip
            frames.append(self._message("/account/balance", "account.balance", data))
        return frames


# ------------------------------------------------------------------------------------------------------------- Kraken


@dialect
class KrakenTrading(Dialect, Kraken):
    """Time is told by a number that has to grow with each request. An order is looked up by its own id only; the lists
    know client ids. `default_flags`: what fees an order of that side prefers if it does not say."""

    hosts = (*Kraken.hosts, "ws-auth.kraken.com")  # type: ignore[assignment]
    keys = Keys(
        "kraken-key", base64.b64encode(b"kraken-secret of sixty-four bytes, more or less, as they have it").decode()
    )
    routes = tuple(
        ("POST", f"/0/private/{name}", kind)
        for name, kind in (
            ("AddOrder", "create"), ("CancelOrder", "cancel"), ("QueryOrders", "order"), ("OpenOrders", "open"),
            ("ClosedOrders", "closed"), ("TradesHistory", "trades"), ("QueryTrades", "trades"),
            ("BalanceEx", "balance"),
            ("GetApiKeyInfo", "account"), ("GetWebSocketsToken", "token"),
        )
    )  # fmt: skip
    fee_in = "quote"
    post_only = "cancelled"
    least_cost = Decimal("0.5")
    default_flags: ClassVar[dict[str, str]] = {"buy": "fciq", "sell": "fcib"}
    unknown = (
        (200, {"error": ["EService:Timeout"]}),
        (200, {"error": ["EGeneral:Internal error"]}),
        (200, {"error": ["EService:Unavailable"]}),
        (200, {"error": ["EService:Busy"]}),
    )
    codes: ClassVar[dict[str, str]] = {
        "key": "EAPI:Invalid key", "ip": "EAPI:Invalid key", "permission": "EGeneral:Permission denied",
        "signature": "EAPI:Invalid signature", "time": "EAPI:Invalid nonce", "busy": "EAPI:Rate limit exceeded",
        "symbol": "EQuery:Unknown asset pair", "step": "EGeneral:Invalid arguments:volume",
        "tick": "EOrder:Tick size check failed", "trigger": "EOrder:Invalid price",
        "amount": "EOrder:Order minimum not met",
        "cost": "EOrder:Cost minimum not met", "cid": "EGeneral:Invalid arguments:cl_ord_id",
        "txid": "EGeneral:Invalid arguments:txid", "userref": "EGeneral:Invalid arguments:userref",
        "arguments": "EGeneral:Invalid arguments", "funds": "EOrder:Insufficient funds",
        "duplicate": "EOrder:cl_ord_id already in use", "deadline": "EService:Deadline elapsed",
        "far deadline": "EGeneral:Invalid arguments:deadline",
        "unknown": "EOrder:Unknown order", "done": "EOrder:Unknown order",
    }  # fmt: skip
    reasons: ClassVar[dict[str, str]] = {
        "user": "User requested",
        "post_only": "Post only order",
        "ioc": "Immediate or cancel",
        "late": "Insufficient funds",
    }

    def __init__(self, server: Any):
        super().__init__(server)
        self.nonce = 0
        self.websocket_tokens: dict[str, int] = {}

    def order_id(self, number: int) -> str:
        return f"O{number:05d}-LOCAL-{number * 7919 % 10**6:06d}"

    def trade_id(self, number: int) -> str:
        return f"T{number:05d}-LOCAL-{number * 7919 % 10**6:06d}"

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        return 200, {"error": [self.codes[what]]}

    def signed(self, ask: Ask) -> None:
        if not _same(ask.headers.get("API-Key", ""), self.keys.key):
            raise Refusal("key")
        nonce = str(ask.params.get("nonce", ""))
        digest = hashlib.sha256((nonce + ask.body).encode()).digest()
        expected = _signature(base64.b64decode(self.keys.secret), ask.path.encode() + digest, "sha512")
        if not _same(ask.headers.get("API-Sign", ""), expected):
            raise Refusal("signature")
        # What comes late was held up behind the gate, which has seen its number in time.
        if not nonce.isdigit() or (int(nonce) <= self.nonce and not ask.fault.startswith("late")):
            raise Refusal("time")
        self.nonce = max(self.nonce, int(nonce))

    @staticmethod
    def _kind(order: Order) -> str:
        return str(order.given.get("ordertype", order.kind))

    def _flags(self, order: Order) -> str:
        return order.given.get("oflags") or self.default_flags[order.side]

    def fee(self, order: Order, amount: Decimal, cost: Decimal, rate: Decimal) -> tuple[str, Decimal]:
        base = order.base, (amount * rate).quantize(Decimal("1E-8"))
        left = self.ledger.free(order.base) - (0 if order.locked else amount)
        if "fcib" in self._flags(order) and (order.side == "buy" or left >= base[1]):
            return base
        return order.quote, (cost * rate).quantize(Decimal("1E-8"))

    # --------------------------------------------------------------------------------------------------------- requests

    def on_create(self, ask: Ask) -> Any:
        asked = ask.params
        symbol, cid = self.market(asked["pair"]), asked.get("cl_ord_id", "")
        long = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}|[!-~]{1,18}"
        if cid and not re.fullmatch(long, cid):
            raise Refusal("cid")
        if cid and "userref" in asked:
            raise Refusal("arguments")
        if "deadline" in asked:
            left = _instant(asked["deadline"]) - self.server.now_ms()
            if left <= 0 or left > 60_000:
                raise Refusal("deadline" if left <= 0 else "far deadline")
        flags = [flag for flag in asked.get("oflags", "").split(",") if flag]
        if not {"fcib", "fciq"} & {*flags}:
            flags.append(self.default_flags[asked["type"]])
        given = {"oflags": ",".join(sorted(flags)), "ordertype": asked["ordertype"], "userref": asked.get("userref")}
        stop = re.fullmatch("(stop-loss|take-profit)(-limit)?", given["ordertype"])
        kind = given["ordertype"] if not stop else "limit" if stop[2] else "market"
        spends = "viqc" in flags and kind == "market"
        order = self.ledger.create(
            symbol, asked["type"], kind, None if spends else asked["volume"], asked.get("price2" if stop else "price"),
            cid=cid, tif="PO" if "post" in flags else asked.get("timeinforce", "GTC"),
            funds=asked["volume"] if spends else None, given=given, trigger=asked["price"] if stop else None,
            above=bool(stop) and (asked["type"] == "buy") == (stop[1] == "stop-loss"),  # type: ignore[index]
        )  # fmt: skip
        return self._told({"txid": [order.id], "descr": {"order": self._words(order)}})

    def _told(self, result: Any) -> dict[str, Any]:
        return {"error": [], "result": result}

    def _words(self, order: Order) -> str:
        at = "market" if order.price is None else f"limit {order.price:.2f}"
        if order.trigger is not None:
            named = self._kind(order).removesuffix("-limit").replace("-", " ")
            at = f"{named} {order.trigger:.2f}" + (f" -> {at}" if order.price is not None else "")
        size = order.amount if order.funds is None else order.funds
        return f"{order.side} {size:.8f} {self.id(order.symbol)} @ {at}"

    @staticmethod
    def _status(order: Order) -> str:
        return order.status if order.status in ("open", "closed") else "canceled"

    def _row(self, order: Order, trades: bool) -> dict[str, Any]:
        price, second = (f"{at:.2f}" if at is not None else "0" for at in (order.price, None))
        if order.trigger is not None:
            price, second = f"{order.trigger:.2f}", price
        row: dict[str, Any] = {
            "refid": None, "userref": order.given.get("userref"), "status": self._status(order),
            "opentm": order.ns / 10**9,
            "starttm": 0, "expiretm": 0,
            "descr": {"pair": self.id(order.symbol), "type": order.side, "ordertype": self._kind(order), "price": price,
                      "price2": second, "leverage": "none", "order": self._words(order), "close": ""},
            "vol": f"{order.amount if order.funds is None else order.funds:.8f}", "vol_exec": f"{order.filled:.8f}",
            "cost": f"{order.cost:.8f}", "fee": f"{sum(order.fees().values(), Decimal(0)):.8f}",
            "price": f"{order.average:.8f}", "stopprice": "0.00000", "limitprice": "0.00000", "misc": "",
            "oflags": self._flags(order),
        }  # fmt: skip
        if order.cid:
            row["cl_ord_id"] = order.cid
        if not order.open:
            row |= {"reason": self.reasons.get(order.why), "closetm": order.updated_ns / 10**9}
        if trades:
            row["trades"] = [fill.id for fill in order.fills]
        return row

    @staticmethod
    def _wants_trades(ask: Ask) -> bool:
        return str(ask.params.get("trades", "")).lower() == "true"

    @staticmethod
    def _txids(ask: Ask, most: int) -> list[str]:
        """What is looked up: one at least, and none of them empty."""
        wanted = str(ask.params.get("txid", "")).split(",")
        if not all(wanted) or len(wanted) > most:
            raise Refusal("txid")
        return wanted

    def on_order(self, ask: Ask) -> Any:
        wanted = self._txids(ask, 50)
        userref = ask.params.get("userref")
        if userref is not None and not userref.lstrip("-").isdigit():
            raise Refusal("userref")
        orders = [self.ledger.find(id) for id in wanted]
        return self._told({order.id: self._row(order, self._wants_trades(ask)) for order in orders})

    def on_cancel(self, ask: Ask) -> Any:
        id, cid = ask.params.get("txid", ""), ask.params.get("cl_ord_id", "")
        if not id and not cid:
            raise Refusal("txid")
        self.ledger.cancel(_latest(self, id, cid))
        return self._told({"count": 1})

    def _asked_for(self, ask: Ask, open: bool) -> list[Order]:
        asked, found = ask.params, self.ledger.listed(open=open)
        for field in ("cl_ord_id", "userref"):
            if field in asked:
                found = [
                    o for o in found if asked[field] == (o.cid if field == "cl_ord_id" else o.given.get("userref"))
                ]
        return found

    def on_open(self, ask: Ask) -> Any:
        return self._told({"open": {order.id: self._row(order, self._wants_trades(ask))
                                    for order in self._asked_for(ask, True)[::-1]}})  # fmt: skip

    def _page(self, ask: Ask, rows: list[Any], times: Any) -> list[Any]:
        """50 of them, the newest first; `start` and `end` are seconds."""
        first, last = Decimal(ask.params.get("start", 0)), Decimal(ask.params.get("end", 10**12))
        rows = [row for row in rows if any(first < Decimal(ns) / 10**9 <= last for ns in times(row))][::-1]
        offset = int(ask.params.get("ofs", 0))
        return rows[offset : offset + 50]

    def on_closed(self, ask: Ask) -> Any:
        orders = self._asked_for(ask, False)
        page = self._page(ask, orders, lambda order: (order.ns, order.updated_ns))
        rows = {order.id: self._row(order, self._wants_trades(ask)) for order in page}
        return self._told({"closed": rows, "count": len(orders)})

    def on_trades(self, ask: Ask) -> Any:
        fills = self.ledger.traded()
        if ask.path.endswith("QueryTrades"):
            wanted = self._txids(ask, 20)
            return self._told({fill.id: self._fill(fill) for fill in fills if fill.id in wanted})
        page = self._page(ask, fills, lambda fill: (fill.ns,))
        return self._told({"trades": {fill.id: self._fill(fill) for fill in page}, "count": len(fills)})

    def _fill(self, fill: Fill) -> dict[str, Any]:
        # Its fee is told in the quote currency, whatever was taken.
        rate = self.ledger.maker if fill.maker else self.ledger.taker
        return {
            "ordertxid": fill.order.id, "postxid": f"P{fill.id}", "pair": self.id(fill.order.symbol),
            "time": fill.ns / 10**9,
            "type": fill.order.side, "ordertype": self._kind(fill.order), "price": f"{fill.price:.2f}",
            "cost": f"{fill.cost:.8f}",
            "fee": f"{fill.cost * rate:.8f}", "vol": f"{fill.amount:.8f}", "margin": "0.00000000", "misc": "",
            "trade_id": fill.number, "maker": fill.maker,
        }  # fmt: skip

    def on_balance(self, ask: Ask) -> Any:
        """Older coins go by names with an X before them."""
        return self._told({"XETH" if name == "ETH" else name: {"balance": f"{total:.10f}", "hold_trade": f"{used:.10f}"}
                           for name, (total, used) in self.ledger.balances().items()})  # fmt: skip

    def on_account(self, ask: Ask) -> Any:
        allowed = ["query-funds", "query-open-trades", "query-closed-trades", "modify-trades", "close-trades"]
        return self._told({"api_key_name": "tests", "api_key": self.keys.key, "nonce": str(self.nonce),
                           "nonce_window": 0,
                           "permissions": allowed + ["withdraw-funds"] * self.withdraw,
                           "ip_allowlist": []})  # fmt: skip

    def on_token(self, ask: Ask) -> Any:
        token = f"kraken-token-{len(self.websocket_tokens)}"
        self.websocket_tokens[token] = self.server.now_ms() + 900_000
        return self._told({"token": token, "expires": 900})

    # ---------------------------------------------------------------------------------------------------------- streams

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        asked = message.get("params", {})
        channel = asked.get("channel")
        if channel not in ("executions", "balances"):
            return super().hear(connection, text)
        told = {"method": "subscribe", "req_id": message.get("req_id")}
        if self.denied or self.websocket_tokens.get(asked.get("token"), 0) < self.server.now_ms():
            return [told | {"success": False, "error": "ESession:Invalid session"}]
        self.private(connection, channel)
        frames: list[Any] = [told | {"success": True, "result": {"channel": channel}}]
        if channel == "balances":
            rows = [{"asset": name, "asset_class": "currency", "balance": float(total)}
                    for name, (total, _) in self.ledger.balances().items()]  # fmt: skip
            return [*frames, self._frame(channel, "snapshot", rows)]
        if asked.get("snap_orders", True):
            orders = [order for order in self.ledger.orders.values() if order.open]
            frames.append(self._frame(channel, "snapshot", [self._state(order, "new") for order in orders]))
        if asked.get("snap_trades"):
            frames.append(self._frame(channel, "snapshot", [self._trade(fill) for fill in self.ledger.fills[-50:]]))
        return frames

    def _frame(self, channel: str, type: str, rows: list[Any]) -> dict[str, Any]:
        return {"channel": channel, "type": type, "data": rows, "sequence": 1}

    def _state(self, order: Order, kind: str, status: str = "") -> dict[str, Any]:
        state = "partially_filled" if order.open and order.filled else "new" if order.open else self._status(order)
        row: dict[str, Any] = {
            "order_id": order.id, "symbol": order.symbol, "order_qty": float(order.amount),
            "cum_qty": float(order.filled),
            "cum_cost": float(order.cost), "avg_price": float(order.average),
            "time_in_force": "IOC" if order.tif == "IOC" and order.kind == "limit" else "GTC",
            "exec_type": kind, "side": order.side, "order_type": self._kind(order), "limit_price_type": "static",
            "order_status": status or ("filled" if state == "closed" else state), "order_userref": 0,
            "fee_usd_equiv": float(sum((fill.cost * self.ledger.taker for fill in order.fills), Decimal(0))),
            "fee_ccy_pref": "fcib" if "fcib" in self._flags(order) else "fciq", "timestamp": _iso(order.updated_ns),
        }  # fmt: skip
        if order.price is not None:
            row["limit_price"] = float(order.price)
        return row | ({"cl_ord_id": order.cid} if order.cid else {})

    def _trade(self, fill: Fill) -> dict[str, Any]:
        order = fill.order
        row: dict[str, Any] = {
            "order_id": order.id, "exec_id": fill.id, "exec_type": "trade", "trade_id": fill.number,
            "symbol": order.symbol,
            "side": order.side, "last_qty": float(fill.amount), "last_price": float(fill.price), "order_userref": 0,
            "liquidity_ind": "m" if fill.maker else "t", "cost": float(fill.cost), "order_type": self._kind(order),
            "order_status": "filled" if order.status == "closed" else "partially_filled", "timestamp": _iso(fill.ns),
            "fee_usd_equiv": float(fill.cost * self.ledger.taker),
            "fees": [{"asset": fill.fee_currency, "qty": float(fill.fee)}],
        }  # fmt: skip
        return row | ({"cl_ord_id": order.cid} if order.cid else {})

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        rows = []
        if what == "new":
            rows = [self._state(order, "pending_new", "pending_new"), self._state(order, "new", "new")]
        elif fill is not None:
            rows = [self._trade(fill)]
            if order.status == "closed":
                rows.append(self._state(order, "filled"))
        else:  # of what has ended, only what is new about it is said: not even the market
            reason = self.reasons.get(order.why)
            rows = [{"order_id": order.id, "order_userref": 0, "exec_type": "canceled", "order_status": "canceled",
                     "cum_qty": float(order.filled), "cum_cost": float(order.cost), "avg_price": float(order.average),
                     "fee_usd_equiv": 0, "cancel_reason": reason, "reason": reason,
                     "timestamp": _iso(order.updated_ns)}]  # fmt: skip
        told = [("executions", self._frame("executions", "update", [row])) for row in rows]
        if fill is not None:
            balances = [{"asset": name, "asset_class": "currency", "balance": float(self.ledger.total[name])}
                        for name in sorted({order.base, order.quote})]  # fmt: skip
            told.append(("balances", self._frame("balances", "update", balances)))
        return told


# ----------------------------------------------------------------------------------------------------------- Coinbase


@cache
def _coinbase_key() -> tuple[str, Any]:
    """(PEM, public key): always the same."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.derive_private_key(int.from_bytes(hashlib.sha256(b"coinbase").digest(), "big") >> 1, ec.SECP256R1())
    plain_pem = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, *plain_pem).decode(), key.public_key()


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@dialect
class CoinbaseTrading(Dialect, Coinbase):
    """Whatever is wrong with a token, the answer is 401 and one word. Open and closed orders are one list, by a filter.
    A client id that is used again brings back the order that has it."""

    keys = Keys("organizations/local/apiKeys/tests", _coinbase_key()[0])
    routes = (
        ("POST", "/api/v3/brokerage/orders", "create"),
        ("POST", "/api/v3/brokerage/orders/batch_cancel", "cancel"),
        ("GET", r"/api/v3/brokerage/orders/historical/batch\?(.*&)?order_status=OPEN(&.*)?", "open"),
        ("GET", "/api/v3/brokerage/orders/historical/batch", "closed"),
        ("GET", "/api/v3/brokerage/orders/historical/fills", "trades"),
        ("GET", "/api/v3/brokerage/orders/historical/[^/]*", "order"),
        ("GET", "/api/v3/brokerage/accounts", "balance"),
        ("GET", "/v2/accounts", "balance"),
        ("GET", "/api/v3/brokerage/key_permissions", "account"),
        ("GET", "/api/v3/brokerage/transaction_summary", "account"),
    )
    unique = "idempotent"
    fee_in = "quote"
    least_cost = Decimal(1)
    unknown = (
        (500, {"error": "internal_server_error", "error_details": "", "message": "Internal server error"}),
        (503, {"error": "unavailable", "error_details": "upstream connect error", "message": "upstream connect error"}),
    )
    codes: ClassVar[dict[str, str]] = {
        "symbol": "INVALID_PRODUCT_ID", "step": "INVALID_SIZE_PRECISION", "tick": "INVALID_PRICE_PRECISION",
        "amount": "INVALID_BASE_SIZE_TOO_SMALL", "cost": "INVALID_QUOTE_SIZE_TOO_SMALL", "cid": "INVALID_ORDER_CONFIG",
        "funds": "INSUFFICIENT_FUND", "post_only": "INVALID_LIMIT_PRICE_POST_ONLY",
        "trigger": "STOP_PRICE_ABOVE_LAST_TRADE_PRICE",
        "configuration": "UNSUPPORTED_ORDER_CONFIGURATION",
    }  # fmt: skip

    def order_id(self, number: int) -> str:
        return str(uuid.UUID(int=0x9BC1EB3B_5B46_4B71_9628 << 48 | number))

    def trade_id(self, number: int) -> str:
        return str(uuid.UUID(int=0xCDC39E45_BBD3_44EC_BF02 << 48 | number))

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        if what in ("key", "ip", "signature", "time"):
            return 401, "Unauthorized"
        if what == "permission":
            text = "Missing required scopes"
            return 403, {"error": "PERMISSION_DENIED", "error_details": text, "message": text}
        if what == "busy":
            return 429, {"error": "rate_limit_exceeded", "error_details": "", "message": "Too many requests"}
        if what == "unknown" and ask.kind == "order":
            text = "order with this orderID was not found"
            return 404, {"error": "unknown", "error_details": text, "message": text}
        if ask.kind != "create":
            return 400, {"error": "INVALID_ARGUMENT", "error_details": detail, "message": self.codes.get(what, what)}
        code = self.codes[what]
        if what == "trigger" and ask.params["side"] == "BUY":
            code = code.replace("ABOVE", "BELOW")
        text = "Insufficient balance in source account" if what == "funds" else detail
        return 200, {
            "success": False, "failure_reason": "UNKNOWN_FAILURE_REASON", "order_id": "",
            "error_response": {"error": code, "message": text, "error_details": "",
                               "preview_failure_reason": f"PREVIEW_{code}"},
            "order_configuration": ask.params.get("order_configuration"),
        }  # fmt: skip

    def signed(self, ask: Ask) -> None:
        bearer, _, token = ask.headers.get("Authorization", "").partition(" ")
        if bearer != "Bearer":
            raise Refusal("key")
        self._judge(token, f"{ask.method} api.coinbase.com{ask.path}")

    def _judge(self, token: str, uri: str = "") -> None:
        """`uri`: what the token has to be made for."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        try:
            head, claims, signature = token.split(".")
            header, claimed = json.loads(_unpadded(head)), json.loads(_unpadded(claims))
            raw = _unpadded(signature)
        except ValueError:
            raise Refusal("signature") from None
        if header.get("kid") != self.keys.key or claimed.get("sub") != self.keys.key:
            raise Refusal("key")
        numbers = int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
        if header.get("alg") != "ES256" or len(raw) != 64:
            raise Refusal("signature")
        try:
            signed = utils.encode_dss_signature(*numbers), f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256())
            _coinbase_key()[1].verify(*signed)
        except InvalidSignature:
            raise Refusal("signature") from None
        if claimed.get("uri", "") != uri:
            raise Refusal("signature")
        if not claimed["nbf"] * 1000 <= self.server.now_ms() < claimed["exp"] * 1000:
            raise Refusal("time")

    # --------------------------------------------------------------------------------------------------------- requests

    def on_create(self, ask: Ask) -> Any:
        asked = ask.params
        cid = asked.get("client_order_id", "")
        if not cid:
            raise Refusal("cid")
        ((name, terms),) = asked["order_configuration"].items()
        if name not in ("limit_limit_gtc", "sor_limit_ioc", "market_market_ioc", "stop_limit_stop_limit_gtc"):
            raise Refusal("configuration")
        funds = terms.get("quote_size")
        if funds is not None:  # what is to be spent, the fee included
            funds = (Decimal(funds) / (1 + self.ledger.taker)).quantize(Decimal("0.01"), ROUND_DOWN)
        order = self.ledger.create(
            self.market(asked["product_id"]), asked["side"].lower(),
            "market" if name == "market_market_ioc" else "limit",
            terms.get("base_size"), terms.get("limit_price"), cid=cid, funds=funds,
            tif="PO" if terms.get("post_only") else "IOC" if name.endswith("ioc") else "GTC", given={name: terms},
            trigger=terms.get("stop_price"), above=terms.get("stop_direction") == "STOP_DIRECTION_STOP_UP",
        )  # fmt: skip
        short = {"order_id": order.id, "product_id": self.id(order.symbol), "side": order.side.upper(),
                 "client_order_id": order.cid, "attached_order_id": ""}  # fmt: skip
        return {"success": True, "failure_reason": "UNKNOWN_FAILURE_REASON", "order_id": order.id,
                "success_response": short,
                "order_configuration": self._terms(order)}  # fmt: skip

    @staticmethod
    def _terms(order: Order) -> dict[str, Any]:
        if order.given:
            return order.given
        if order.price is None:
            return {"market_market_ioc": {"base_size": plain(order.amount)}}
        name = "sor_limit_ioc" if order.tif == "IOC" else "limit_limit_gtc"
        return {
            name: {"base_size": plain(order.amount), "limit_price": plain(order.price), "post_only": order.tif == "PO"}
        }

    @staticmethod
    def _status(order: Order) -> str:
        ended = {"closed": "FILLED", "rejected": "FAILED"}
        return "OPEN" if order.open else ended.get(order.status, "CANCELLED")

    def _row(self, order: Order) -> dict[str, Any]:
        fees = sum(order.fees().values(), Decimal(0))
        whole = order.amount or order.filled or Decimal(1)
        return {
            "order_id": order.id, "product_id": self.id(order.symbol), "user_id": "local",
            "order_configuration": self._terms(order),
            "side": order.side.upper(), "client_order_id": order.cid, "status": self._status(order),
            "time_in_force": "IMMEDIATE_OR_CANCEL" if order.tif == "IOC" else "GOOD_UNTIL_CANCELLED",
            "created_time": _iso(order.ns), "last_update_time": _iso(order.updated_ns),
            "completion_percentage": plain((100 * order.filled / whole).quantize(Decimal("0.01"))),
            "filled_size": plain(order.filled), "average_filled_price": plain(order.average), "fee": "",
            "number_of_fills": str(len(order.fills)), "filled_value": plain(order.cost), "pending_cancel": False,
            "size_in_quote": order.funds is not None, "total_fees": plain(fees),
            "total_value_after_fees": plain(order.cost + (
                fees if order.side == "buy" else -fees)), "size_inclusive_of_fees": order.funds is not None,
            "trigger_status": "INVALID_ORDER_TYPE",
            "order_type": order.kind.upper() if order.trigger is None else "STOP_LIMIT",
            "reject_reason": "REJECT_REASON_UNSPECIFIED", "settled": order.status == "closed", "product_type": "SPOT",
            "reject_message": "", "cancel_message": "User requested cancel" if order.why == "user" else "",
        }  # fmt: skip

    def on_order(self, ask: Ask) -> Any:
        return {"order": self._row(self.ledger.find(ask.path.rpartition("/")[2]))}

    def on_cancel(self, ask: Ask) -> Any:
        results = []
        for id in ask.params["order_ids"]:
            order = self.ledger.orders.get(id)
            known = order is not None and order.open
            if order is not None and known:
                self.ledger.cancel(order)
            reason = "UNKNOWN_CANCEL_FAILURE_REASON" if known else "UNKNOWN_CANCEL_ORDER"
            results.append({"success": known, "failure_reason": reason, "order_id": id})
        return {"results": results}

    def _page(self, ask: Ask, rows: list[Any], first: str, last: str, most: int) -> tuple[list[Any], str]:
        """(rows, cursor), the newest first."""
        asked = ask.params
        if "product_id" in asked:
            self.market(asked["product_id"])
        start = _instant(asked[first]) if first in asked else 0
        end = _instant(asked[last]) if last in asked else 10**15
        rows = [row for row in rows if start <= row.ms <= end][::-1]
        offset, limit = int(asked.get("cursor") or 0), min(int(asked.get("limit", most)), most)
        return rows[offset : offset + limit], str(offset + limit) if len(rows) > offset + limit else ""

    def on_closed(self, ask: Ask) -> Any:
        orders = self.ledger.listed(self.market(ask.params["product_id"]) if "product_id" in ask.params else "")
        wanted = re.findall(r"order_status=(\w+)", ask.query)
        orders = [order for order in orders if not wanted or self._status(order) in wanted]
        page, cursor = self._page(ask, orders, "start_date", "end_date", 1000)
        return {"orders": [self._row(o) for o in page], "sequence": "0", "has_next": bool(cursor), "cursor": cursor}

    on_open = on_closed

    def on_trades(self, ask: Ask) -> Any:
        fills = self.ledger.traded(self.market(ask.params["product_id"]) if "product_id" in ask.params else "")
        wanted = re.findall(r"order_ids?=([\w-]+)", ask.query)
        fills = [fill for fill in fills if not wanted or fill.order.id in wanted]
        page, cursor = self._page(ask, fills, "start_sequence_timestamp", "end_sequence_timestamp", 100)
        rows = [
            {"entry_id": f"{fill.number:064x}", "trade_id": fill.id, "order_id": fill.order.id,
             "trade_time": _iso(fill.ns),
             "trade_type": "FILL", "price": plain(fill.price), "commission": plain(fill.fee),
             "size": plain(fill.amount if fill.order.funds is None else fill.cost),
             "product_id": self.id(fill.order.symbol),
             "sequence_timestamp": _iso(fill.ns), "liquidity_indicator": "MAKER" if fill.maker else "TAKER",
             "size_in_quote": fill.order.funds is not None, "user_id": "local", "side": fill.order.side.upper()}
            for fill in page
        ]  # fmt: skip
        return {"fills": rows, "cursor": cursor}

    def on_balance(self, ask: Ask) -> Any:
        """The older list, which is the one that ccxt asks for unless told `v3`, does not say what is held by orders."""
        balances = self.ledger.balances().items()
        if ask.path == "/v2/accounts":
            wallets = [
                {"id": name, "name": f"{name} Wallet", "primary": False, "type": "wallet", "currency": {"code": name},
                 "balance": {"amount": plain(total), "currency": name}}
                for name, (total, _) in balances
            ]  # fmt: skip
            return {"pagination": {"next_uri": None, "order": "desc", "limit": 250}, "data": wallets}
        rows = [
            {"uuid": str(uuid.UUID(int=n)), "name": f"{name} Wallet", "currency": name, "active": True, "ready": True,
             "available_balance": {"value": plain(total - used), "currency": name}, "type": "ACCOUNT_TYPE_CRYPTO",
             "hold": {"value": plain(used), "currency": name}, "platform": "ACCOUNT_PLATFORM_CONSUMER"}
            for n, (name, (total, used)) in enumerate(balances)
        ]  # fmt: skip
        return {"accounts": rows, "has_next": False, "cursor": "", "size": len(rows)}

    def on_account(self, ask: Ask) -> Any:
        if ask.path.endswith("transaction_summary"):
            tier = {
                "pricing_tier": "",
                "taker_fee_rate": plain(self.ledger.taker),
                "maker_fee_rate": plain(self.ledger.maker),
            }
            return {"total_volume": 0, "total_fees": 0, "fee_tier": tier}
        return {"can_view": True, "can_trade": True, "can_transfer": self.withdraw,
                "portfolio_uuid": str(uuid.UUID(int=1)),
                "portfolio_type": "DEFAULT"}  # fmt: skip

    # ---------------------------------------------------------------------------------------------------------- streams

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        if message["channel"] != "user":
            return super().hear(connection, text)
        try:
            self._judge(message.get("jwt", ""))
            if self.denied:
                raise Refusal(self.denied)
        except Refusal:
            return [{"type": "error", "message": "authentication failure"}]
        wanted = message["product_ids"]
        for market in wanted or [""]:
            self.private(connection, f"user:{market}")
        orders = [o for o in self.ledger.orders.values() if o.open and (not wanted or self.id(o.symbol) in wanted)]
        snapshot = {"type": "snapshot", "orders": [self._state(order) for order in orders]}
        return [self._frame("subscriptions", [{"subscriptions": {"user": ["local"]}}]), self._frame("user", [snapshot])]

    def _state(self, order: Order) -> dict[str, Any]:
        fees = sum(order.fees().values(), Decimal(0))
        return {
            "order_id": order.id, "client_order_id": order.cid, "cumulative_quantity": plain(order.filled),
            "leaves_quantity": plain(order.remaining), "avg_price": plain(order.average), "total_fees": plain(fees),
            "status": self._status(order), "product_id": self.id(order.symbol), "creation_time": _iso(order.ns),
            "order_side": order.side.upper(), "order_type": order.kind.title(),
            "limit_price": plain(order.price or Decimal(0)),
            "filled_value": plain(order.cost), "number_of_fills": str(len(order.fills)),
            "stop_price": plain(order.trigger) if order.trigger is not None else "",
            "cancel_reason": "", "outstanding_hold_amount": plain(order.locked), "post_only": order.tif == "PO",
        }  # fmt: skip

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        state = self._state(order) | ({"status": "OPEN"} if what == "new" else {})
        frame = self._frame("user", [{"type": "update", "orders": [state]}])
        return [(f"user:{market}", frame) for market in (self.id(order.symbol), "")]
