"""How Binance, Bybit, OKX and Gate trade: their private requests, signatures, codes and streams."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, ClassVar
from urllib.parse import unquote

from local_exchange import Binance, Bybit, Gate, Okx, Socket
from trading_exchange import Ask, Dialect, Fill, Keys, Order, Refusal, dialect, plain

HOUR, DAY = 3_600_000, 86_400_000


def _hmac(secret: str, text: str, how: str = "sha256") -> str:
    return hmac.new(secret.encode(), text.encode(), how).hexdigest()


def _hmac64(secret: str, text: str) -> str:
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha256")).decode()


def _same(one: str, other: Any) -> bool:
    return hmac.compare_digest(one.encode(), str(other).encode())


def _any(venue: Dialect, id: str, cid: str) -> Order:
    """As the matching engine knows it, without the delay of lookups; by client id only what is open."""
    for order in reversed(venue.ledger.orders.values()):
        if not order.apart and (order.id == id if id else order.cid == cid and order.open):
            return order
    raise Refusal("unknown")


def _stop(venue: Dialect, id: str, cid: str) -> Order:
    """The stop of that id or client id in a list of its own, as the matching engine knows it."""
    for order in reversed(venue.ledger.orders.values()):
        if order.apart and (order.id == id if id else bool(cid) and order.cid == cid):
            return order
    raise Refusal("unknown")


def _between(rows: Sequence[Any], params: dict[str, Any], first: str, last: str, unit: int = 1) -> list[Any]:
    """Orders or fills whose time is in the asked bounds, newest first; `unit`: ms in the unit of the bounds."""
    start, end = int(params.get(first) or 0) * unit, int(params.get(last) or 10**15) * unit
    return [row for row in rows if start <= row.ms // unit * unit <= end][::-1]


def _long(number: Decimal | None) -> str:
    return f"{number or Decimal(0):.8f}"


_BINANCE_TYPES = ["LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT", "TAKE_PROFIT", "TAKE_PROFIT_LIMIT"]


@dialect
class BinanceTrading(Dialect, Binance):
    hosts = (*Binance.hosts, "ws-api.binance.com")  # type: ignore[assignment]
    keys = Keys("binance-key", "binance-secret")
    routes = (
        ("POST", "/api/v3/order", "create"),
        ("DELETE", "/api/v3/order", "cancel"),
        ("GET", "/api/v3/order", "order"),
        ("GET", "/api/v3/openOrders", "open"),
        ("GET", "/api/v3/allOrders", "closed"),
        ("GET", "/api/v3/myTrades", "trades"),
        ("GET", "/api/v3/account", "balance"),
        ("GET", "/sapi/v1/account/apiRestrictions", "account"),
        ("GET", "/sapi/v1/margin/(isolated/)?allPairs", "account"),
        ("GET", "/sapi/v1/capital/config/getall", "account"),
        ("GET", "/sapi/v1/bnbBurn", "account"),
    )
    least_cost = Decimal(5)
    market_info: ClassVar[dict[str, Any]] = {"orderTypes": _BINANCE_TYPES}
    unknown = (
        (400, {"code": -1006, "msg": "An unexpected response was received from the message bus. Execution status unknown."}),
        (408, {"code": -1007, "msg": "Timeout waiting for response from backend server. Send status unknown; execution status "
                                     "unknown."}),
        (400, {"code": -1000, "msg": "An unknown error occurred while processing the request."}),
        (400, {"code": -1001, "msg": "Internal error; unable to process your request. Please try again."}),
    )  # fmt: skip
    codes: ClassVar[dict[str, Any]] = {
        "key": (401, -2015, "Invalid API-key, IP, or permissions for action."),
        "ip": (401, -2015, "Invalid API-key, IP, or permissions for action."),
        "permission": (401, -2015, "Invalid API-key, IP, or permissions for action."),
        "format": (401, -2014, "API-key format invalid."),
        "signature": (400, -1022, "Signature for this request is not valid."),
        "time": (400, -1021, "Timestamp for this request is outside of the recvWindow."),
        "busy": (429, -1003, "Too much request weight used; current limit is 6000 request weight per 1 MINUTE."),
        "symbol": (400, -1121, "Invalid symbol."),
        "step": (400, -1013, "Filter failure: LOT_SIZE"),
        "amount": (400, -1013, "Filter failure: LOT_SIZE"),
        "tick": (400, -1013, "Filter failure: PRICE_FILTER"),
        "cost": (400, -1013, "Filter failure: NOTIONAL"),
        "cid": (400, -1100, "Illegal characters found in parameter 'newClientOrderId'; legal range is "
                            "'^[\\.A-Z\\:/a-z0-9_-]{1,36}$'."),
        "number": (400, -1100, "Illegal characters found in parameter 'orderId'; legal range is '^[0-9]{1,20}$'."),
        "missing": (400, -1102, "Mandatory parameter was not sent, was empty/null, or malformed."),
        "span": (400, -1127, "More than 24 hours between startTime and endTime."),
        "funds": (400, -2010, "Account has insufficient balance for requested action."),
        "duplicate": (400, -2010, "Duplicate order sent."),
        "post_only": (400, -2010, "Order would immediately match and take."),
        "trigger": (400, -2010, "Stop price would trigger immediately."),
        "unknown": (400, -2013, "Order does not exist."),
        "archived": (400, -2026, "Order was canceled or expired with no executed qty over 90 days ago and has been archived."),
        "done": (400, -2011, "Unknown order sent."),
    }  # fmt: skip

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        if what == "unknown" and ask.kind == "cancel":
            what = "done"
        status, code, text = self.codes[what]
        if detail == "ahead":
            text = "Timestamp for this request was 1000ms ahead of the server's time."
        return status, {"code": code, "msg": text}

    def signed(self, ask: Ask) -> None:
        key = ask.headers.get("X-MBX-APIKEY", "")
        if not key:
            raise Refusal("format")
        self._judge(key, ask.query + ask.body, ask.params)

    def _judge(self, key: str, text: str, params: dict[str, Any]) -> None:
        if key != self.keys.key:
            raise Refusal("key")
        if "timestamp" not in params or "signature" not in params:
            raise Refusal("missing")
        sent, window = int(params["timestamp"]), int(params.get("recvWindow", 5000))
        now = self.server.now_ms()
        if sent >= now + 1000:
            raise Refusal("time", "ahead")
        if now - sent > min(window, 60_000):
            raise Refusal("time")
        if not _same(_hmac(self.keys.secret, text.split("&signature=")[0]), params["signature"]):
            raise Refusal("signature")

    # ---------------------------------------------------------------------------------------------------------- requests

    def markets(self, path: str, query: dict[str, str]) -> Any:
        told = super().markets(path, query)
        if told is not None:
            for row in told["symbols"]:
                row["orderTypes"] = _BINANCE_TYPES
                row["filters"].append({"filterType": "NOTIONAL", "minNotional": "5.00000000", "applyMinToMarket": True,
                                       "maxNotional": "9000000.00000000", "applyMaxToMarket": False})  # fmt: skip
        return told

    def on_create(self, ask: Ask) -> Any:
        asked = ask.params
        cid = asked.get("newClientOrderId", "")
        if not re.fullmatch(r"[.A-Z:/a-z0-9_-]{1,36}", cid):
            raise Refusal("cid")
        kind, tif, side = asked["type"], asked.get("timeInForce", "GTC"), asked["side"].lower()
        order = self.ledger.create(
            self.market(asked["symbol"]), side, "limit" if "LIMIT" in kind else "market", asked.get("quantity"),
            asked.get("price"), cid=cid, tif="PO" if kind == "LIMIT_MAKER" else tif, funds=asked.get("quoteOrderQty"),
            given={"type": kind}, trigger=asked.get("stopPrice"), above=(side == "buy") == kind.startswith("STOP_LOSS"),
        )  # fmt: skip
        short = {"symbol": self.id(order.symbol), "orderId": int(order.id), "orderListId": -1, "clientOrderId": cid,
                 "transactTime": order.updated}  # fmt: skip
        told = asked.get("newOrderRespType", "ACK")
        if told == "ACK":
            return short
        fills = [{"price": _long(f.price), "qty": _long(f.amount), "commission": _long(f.fee),
                  "commissionAsset": f.fee_currency, "tradeId": int(f.id)} for f in order.fills]  # fmt: skip
        return short | self._state(order) | ({"fills": fills} if told == "FULL" else {})

    def _state(self, order: Order) -> dict[str, Any]:
        return {
            "price": _long(order.price), "origQty": _long(order.amount), "executedQty": _long(order.filled),
            "origQuoteOrderQty": _long(order.funds), "cummulativeQuoteQty": _long(order.cost),
            "status": self._status(order), "timeInForce": "GTC" if order.tif == "PO" or order.kind == "market" else order.tif,
            "type": order.given.get("type", order.kind.upper()), "side": order.side.upper(), "workingTime": order.ms,
            "selfTradePreventionMode": "EXPIRE_MAKER",
        } | ({"stopPrice": _long(order.trigger)} if order.trigger else {})  # fmt: skip

    @staticmethod
    def _status(order: Order) -> str:
        if order.open:
            return "PARTIALLY_FILLED" if order.filled else "NEW"
        return {"closed": "FILLED", "cancelled": "CANCELED", "rejected": "REJECTED", "expired": "EXPIRED"}[order.status]

    def _row(self, order: Order) -> dict[str, Any]:
        return {
            "symbol": self.id(order.symbol), "orderId": int(order.id), "orderListId": -1, "clientOrderId": order.cid,
            "stopPrice": "0.00000000", "icebergQty": "0.00000000", "time": order.ms, "updateTime": order.updated,
            "isWorking": not order.waiting, **self._state(order),
        }  # fmt: skip

    def _asked_for(self, ask: Ask) -> Order:
        symbol = self.market(ask.params["symbol"])
        number, cid = ask.params.get("orderId", ""), ask.params.get("origClientOrderId", "")
        if not number and not cid:
            raise Refusal("missing")
        if number and not number.isdigit():
            raise Refusal("number")
        order = self.ledger.find(number, cid) if ask.kind == "order" else _any(self, number, cid)
        if order.symbol != symbol:
            raise Refusal("unknown")
        return order

    def on_order(self, ask: Ask) -> Any:
        order = self._asked_for(ask)
        if not order.open and not order.filled and order.updated < self.ms - 90 * DAY:
            raise Refusal("archived")
        return self._row(order)

    def on_cancel(self, ask: Ask) -> Any:
        order = self.ledger.cancel(self._asked_for(ask))
        return self._row(order) | {"origClientOrderId": order.cid, "clientOrderId": f"cancel{order.number}",
                                   "transactTime": order.updated}  # fmt: skip

    def on_open(self, ask: Ask) -> Any:
        symbol = self.market(ask.params["symbol"]) if "symbol" in ask.params else ""
        return [self._row(order) for order in self.ledger.listed(symbol, open=True)]

    def _span(self, ask: Ask) -> tuple[int, int]:
        asked = ask.params
        first, last = int(asked.get("startTime", 0)), int(asked.get("endTime", 10**15))
        if "startTime" in asked and "endTime" in asked and last - first > DAY:
            raise Refusal("span")
        return first, min(last, first + DAY) if "startTime" in asked and "endTime" in asked else last

    def on_closed(self, ask: Ask) -> Any:
        first, last = self._span(ask)
        orders = [o for o in self.ledger.listed(self.market(ask.params["symbol"])) if first <= o.ms <= last]
        if "orderId" in ask.params:
            orders = [o for o in orders if int(o.id) >= int(ask.params["orderId"])]
        limit = min(int(ask.params.get("limit", 500)), 1000)
        return [self._row(o) for o in (orders[:limit] if first or "orderId" in ask.params else orders[-limit:])]

    def on_trades(self, ask: Ask) -> Any:
        first, last = self._span(ask)
        fills = [f for f in self.ledger.traded(self.market(ask.params["symbol"])) if first <= f.ms <= last]
        if "orderId" in ask.params:
            fills = [f for f in fills if f.order.id == ask.params["orderId"]]
        if "fromId" in ask.params:
            fills = [f for f in fills if int(f.id) >= int(ask.params["fromId"])]
        limit = min(int(ask.params.get("limit", 500)), 1000)
        fills = fills[:limit] if first or "fromId" in ask.params else fills[-limit:]
        return [
            {"symbol": self.id(f.order.symbol), "id": int(f.id), "orderId": int(f.order.id), "orderListId": -1,
             "price": _long(f.price), "qty": _long(f.amount), "quoteQty": _long(f.cost), "commission": _long(f.fee),
             "commissionAsset": f.fee_currency, "time": f.ms, "isBuyer": f.order.side == "buy", "isMaker": f.maker,
             "isBestMatch": True}
            for f in fills
        ]  # fmt: skip

    def on_balance(self, ask: Ask) -> Any:
        rows = [{"asset": name, "free": _long(total - used), "locked": _long(used)}
                for name, (total, used) in self.ledger.balances().items()]  # fmt: skip
        return {"makerCommission": 8, "takerCommission": 10, "canTrade": True, "canWithdraw": self.withdraw,
                "canDeposit": True, "updateTime": self.ms, "accountType": "SPOT", "balances": rows,
                "permissions": ["SPOT"]}  # fmt: skip

    def on_account(self, ask: Ask) -> Any:
        if ask.path.endswith("allPairs"):
            return []
        if ask.path.endswith("getall"):
            return [{"coin": name, "name": name, "trading": True, "isLegalMoney": False, "networkList": []}
                    for name in ("BNB", "ETH", "SOL", "USDT")]  # fmt: skip
        if ask.path.endswith("bnbBurn"):
            return {"spotBNBBurn": self.ledger.coin is not None, "interestBNBBurn": False}
        return {"ipRestrict": True, "createTime": self.ms, "enableReading": True, "enableSpotAndMarginTrading": True,
                "enableWithdrawals": self.withdraw, "enableFutures": False, "enableMargin": False,
                "permitsUniversalTransfer": False}  # fmt: skip

    # ----------------------------------------------------------------------------------------------------------- streams

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        if message.get("method") != "userDataStream.subscribe.signature":
            return super().hear(connection, text)
        params = message["params"]
        signed = "&".join(f"{name}={params[name]}" for name in sorted(params) if name != "signature")
        try:
            self._judge(params.get("apiKey", ""), signed, params)
            if self.shut_out:
                raise Refusal(self.denied)
        except Refusal as refusal:
            status, code, told = self.codes[refusal.what]
            return [{"id": message["id"], "status": status, "error": {"code": code, "msg": told}, "rateLimits": []}]
        self.private(connection, "user")
        return [{"id": message["id"], "status": 200, "result": {"subscriptionId": 0}, "rateLimits": []}]

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        state = self._state(order)
        kind = {"new": "NEW", "fill": "TRADE", "done": state["status"]}[what]
        report = {
            "e": "executionReport", "E": self.ms, "s": self.id(order.symbol), "c": order.cid, "S": state["side"],
            "o": state["type"], "f": state["timeInForce"], "q": state["origQty"], "p": state["price"], "P": _long(order.trigger),
            "F": "0.00000000", "g": -1, "C": "", "x": kind, "X": "NEW" if what == "new" else state["status"],
            "r": "NONE", "i": int(order.id), "l": _long(fill.amount if fill else None), "z": state["executedQty"],
            "L": _long(fill.price if fill else None), "n": _long(fill.fee) if fill else "0", "N": fill and fill.fee_currency,
            "T": order.updated, "t": int(fill.id) if fill else -1, "w": order.open and not order.waiting, "m": bool(fill and fill.maker),
            "M": bool(fill), "O": order.ms, "Z": state["cummulativeQuoteQty"], "Y": _long(fill.cost if fill else None),
            "Q": state["origQuoteOrderQty"], "W": order.ms, "V": "EXPIRE_MAKER",
        }  # fmt: skip
        if what == "done" and order.why == "user":
            report |= {"c": f"cancel{order.number}", "C": order.cid}
        names = {order.base, order.quote, *([fill.fee_currency] if fill else [])}
        balance = {"e": "outboundAccountPosition", "E": self.ms, "u": order.updated, "B": [
            {"a": name, "f": _long(self.ledger.free(name)), "l": _long(self.ledger.used[name])} for name in sorted(names)
        ]}  # fmt: skip
        return [("user", {"subscriptionId": 0, "event": frame}) for frame in (report, balance)]


@dialect
class BybitTrading(Dialect, Bybit):
    keys = Keys("bybit-key", "bybit-secret")
    routes = (
        ("POST", "/v5/order/create", "create"),
        ("POST", "/v5/order/cancel", "cancel"),
        ("GET", r"/v5/order/realtime\?.*order(Link)?Id=[^&].*", "order"),
        ("GET", "/v5/order/realtime", "open"),
        ("GET", "/v5/order/history", "closed"),
        ("GET", "/v5/execution/list", "trades"),
        ("GET", "/v5/account/wallet-balance", "balance"),
        ("GET", "/v5/user/query-api", "account"),
        ("GET", "/v5/account/info", "account"),
    )
    unique = "always"
    post_only = "cancelled"
    either_way = True
    least_cost = Decimal(1)
    codes: ClassVar[dict[str, Any]] = {
        "key": (10003, "API key is invalid."),
        "ip": (10010, "Unmatched IP, please check your API key's bound IP addresses."),
        "permission": (10005, "Permission denied, please check your API key permissions."),
        "signature": (10004, "Error sign, please check your signature generation algorithm."),
        "time": (10002, "invalid request, please check your server timestamp or recv_window param."),
        "busy": (10006, "Too many visits. Exceeded the API Rate Limit."),
        "symbol": (170121, "Invalid symbol."),
        "step": (170137, "Order quantity has too many decimals."),
        "tick": (170134, "Order price has too many decimals."),
        "amount": (170136, "Order quantity exceeded lower limit."),
        "cost": (170140, "Order value exceeded lower limit."),
        "cid": (170130, "Data sent for parameter 'orderLinkId' is not valid."),
        "missing": (10001, "params error: OrderId or orderLinkId is required"),
        "trigger": (170130, "Data sent for parameter 'triggerPrice' is not valid."),
        "funds": (170131, "Insufficient balance."),
        "duplicate": (170141, "Duplicate clientOrderId."),
        "unknown": (170213, "Order does not exist."),
        "cancelled": (170142, "Order has been canceled."),
        "filled": (170139, "Order has been filled."),
    }
    unknown = tuple(
        (200, {"retCode": code, "retMsg": text, "result": {}, "retExtInfo": {}, "time": 0})
        for code, text in (
            (10000, "Server Timeout"),
            (10016, "Internal server error."),
            (170007, "Timeout waiting for response from backend server."),
            (170146, "Order creation timeout."),
        )
    )

    def order_id(self, number: int) -> str:
        return str(1_900_000_000_000_000_000 + number)

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        if what == "done":
            what = "filled" if self.ledger.orders[detail].status == "closed" else "cancelled"
        code, text = self.codes[what]
        status = 401 if what in ("key", "signature") else 403 if what == "ip" else 200
        return status, {"retCode": code, "retMsg": text, "result": {}, "retExtInfo": {}, "time": self.ms}

    def signed(self, ask: Ask) -> None:
        stamp, key = ask.headers.get("X-BAPI-TIMESTAMP", ""), ask.headers.get("X-BAPI-API-KEY", "")
        window = ask.headers.get("X-BAPI-RECV-WINDOW", "5000")
        if key != self.keys.key:
            raise Refusal("key")
        if not self.server.now_ms() - int(window) <= int(stamp or 0) < self.server.now_ms() + 1000:
            raise Refusal("time")
        text = stamp + key + window + (ask.body if ask.method == "POST" else ask.query)
        if not _same(_hmac(self.keys.secret, text), ask.headers.get("X-BAPI-SIGN", "")):
            raise Refusal("signature")

    def _told(self, result: Any) -> Any:
        return {"retCode": 0, "retMsg": "OK", "result": result, "retExtInfo": {}, "time": self.ms}

    def _page(self, ask: Ask, rows: list[Any], most: int, usual: int) -> Any:
        start, size = int(ask.params.get("cursor") or 0), min(int(ask.params.get("limit") or usual), most)
        more = str(start + size) if len(rows) > start + size else ""
        page = {"category": ask.params["category"], "list": rows[start : start + size], "nextPageCursor": more}
        return self._told(page)

    # ---------------------------------------------------------------------------------------------------------- requests

    def on_create(self, ask: Ask) -> Any:
        asked = ask.params
        if asked["category"] != "spot":
            raise Refusal("symbol")
        cid = asked.get("orderLinkId", "")
        if not re.fullmatch(r"[A-Za-z0-9_-]{0,36}", cid):
            raise Refusal("cid")
        kind, side = asked["orderType"].lower(), asked["side"].lower()
        # Without a unit the quantity of a market buy is what it spends.
        unit = asked.get("marketUnit", "quoteCoin" if side == "buy" else "baseCoin")
        spends = kind == "market" and unit == "quoteCoin"
        which = asked.get("orderFilter", "Order")  # without it a trigger says nothing
        order = self.ledger.create(
            self.market(asked["symbol"]), side, kind, None if spends else asked["qty"], asked.get("price"), cid=cid,
            tif={"PostOnly": "PO"}.get(asked.get("timeInForce", "GTC"), asked.get("timeInForce", "GTC")),
            funds=asked["qty"] if spends else None, given={"unit": asked.get("marketUnit", ""), "filter": which},
            trigger=None if which == "Order" else asked["triggerPrice"],
        )  # fmt: skip
        return self._told({"orderId": order.id, "orderLinkId": cid})

    def holds(self, given: dict[str, Any]) -> bool:
        """Of the two that there are, one has its coins locked from the beginning, the other when it fires."""
        return given.get("filter") != "StopOrder"

    def on_cancel(self, ask: Ask) -> Any:
        id, cid = ask.params.get("orderId") or "", ask.params.get("orderLinkId") or ""
        if not id and not cid:
            raise Refusal("missing")
        found = _any(self, id, cid)
        if found.waiting and ask.params.get("orderFilter", "Order") != found.given.get("filter"):
            raise Refusal("unknown")
        order = self.ledger.cancel(found)
        return self._told({"orderId": order.id, "orderLinkId": order.cid})

    def _status(self, order: Order) -> str:
        if order.waiting:
            return "Untriggered" if order.open else "Deactivated"
        if order.why == "funds":
            return "Rejected"
        if order.open:
            return "PartiallyFilled" if order.filled else "New"
        if order.status in ("cancelled", "expired"):
            return "PartiallyFilledCanceled" if order.filled else "Cancelled"
        return {"closed": "Filled", "rejected": "Rejected"}[order.status]

    def _row(self, order: Order) -> dict[str, Any]:
        left = order.remaining if order.open else Decimal(0)
        fees = order.fees()
        return {
            "orderId": order.id, "orderLinkId": order.cid, "symbol": self.id(order.symbol), "blockTradeId": "",
            "price": plain(order.price or Decimal(0)), "qty": plain(order.amount if order.funds is None else order.funds),
            "side": order.side.title(), "isLeverage": "0", "positionIdx": 0, "orderStatus": self._status(order),
            "cancelType": "CancelByUser" if order.why == "user" else "UNKNOWN",
            "rejectReason": {"post_only": "EC_PostOnlyWillTakeLiquidity", "late": "EC_Others"}.get(order.why, "EC_NoError"),
            "avgPrice": f"{order.average:.9f}" if order.filled else "", "leavesQty": plain(left),
            "leavesValue": plain(left * (order.price or Decimal(0))), "cumExecQty": plain(order.filled),
            "cumExecValue": plain(order.cost), "cumExecFee": plain(sum(fees.values(), Decimal(0))),
            "cumFeeDetail": {name: plain(fee) for name, fee in fees.items()},
            "timeInForce": {"PO": "PostOnly"}.get(order.tif, order.tif), "orderType": order.kind.title(),
            "stopOrderType": order.given.get("filter", "") if order.trigger else "", "orderIv": "",
            "triggerPrice": plain(order.trigger) if order.trigger else "0.000", "takeProfit": "", "stopLoss": "",
            "triggerDirection": 0, "marketUnit": order.given.get("unit", ""), "lastPriceOnCreated": "", "reduceOnly": False,
            "closeOnTrigger": False, "createdTime": str(order.ms), "updatedTime": str(order.updated),
        }  # fmt: skip

    def _asked_for(self, ask: Ask, orders: list[Order]) -> list[Order]:
        id, cid = ask.params.get("orderId"), ask.params.get("orderLinkId")
        symbol = self.market(ask.params["symbol"]) if ask.params.get("symbol") else ""
        return [o for o in orders if id in ("", None, o.id) and cid in ("", None, o.cid) and symbol in ("", o.symbol)]

    def on_order(self, ask: Ask) -> Any:
        """Open orders and the last 500 that are not open any more."""
        orders = self.ledger.listed()
        ended = [order for order in orders if not order.open][-500:]
        found = self._asked_for(ask, [order for order in orders if order.open or order in ended])
        return self._page(ask, [self._row(order) for order in found[::-1]], 50, 20)

    def on_open(self, ask: Ask) -> Any:
        orders = self.ledger.listed(open=True) if ask.params["category"] == "spot" else []
        return self._page(ask, [self._row(order) for order in self._asked_for(ask, orders)[::-1]], 50, 20)

    def on_closed(self, ask: Ask) -> Any:
        """What was cancelled or rejected without a fill is forgotten after a day."""
        orders = self.ledger.listed(open=False) if ask.params["category"] == "spot" else []
        kept = [o for o in orders if o.filled or o.updated > self.ms - DAY]
        found = _between(self._asked_for(ask, kept), ask.params, "startTime", "endTime")
        status = ask.params.get("orderStatus")
        rows = [self._row(order) for order in found]
        return self._page(ask, [row for row in rows if status in (None, row["orderStatus"])], 50, 20)

    def _execution(self, fill: Fill) -> dict[str, Any]:
        order = fill.order
        return {
            "symbol": self.id(order.symbol), "orderId": order.id, "orderLinkId": order.cid, "side": order.side.title(),
            "orderPrice": plain(order.price or Decimal(0)), "orderQty": plain(order.amount),
            "leavesQty": plain(order.remaining), "orderType": order.kind.title(), "stopOrderType": "UNKNOWN",
            "execFee": plain(fill.fee), "feeCoin": fill.fee_currency, "feeCurrency": fill.fee_currency,
            "feeRate": plain(self.ledger.maker if fill.maker else self.ledger.taker), "execId": fill.id,
            "execPrice": plain(fill.price), "execQty": plain(fill.amount), "execType": "Trade",
            "execValue": plain(fill.cost), "execTime": str(fill.ms), "isMaker": fill.maker, "tradeIv": "", "blockTradeId": "",
            "seq": fill.number,
        }  # fmt: skip

    def on_trades(self, ask: Ask) -> Any:
        fills = self.ledger.traded() if ask.params["category"] == "spot" else []
        orders = self._asked_for(ask, [fill.order for fill in fills])
        found = _between([f for f in fills if f.order in orders], ask.params, "startTime", "endTime")
        return self._page(ask, [self._execution(fill) for fill in found], 100, 50)

    def _coins(self, names: Sequence[str] = ()) -> list[dict[str, Any]]:
        held = {name: (self.ledger.total[name], self.ledger.used[name]) for name in names} or self.ledger.balances()
        return [{"coin": name, "equity": plain(total), "walletBalance": plain(total), "locked": plain(used),
                 "availableToWithdraw": "", "totalOrderIM": "0", "totalPositionIM": "0", "borrowAmount": "0",
                 "accruedInterest": "0"} for name, (total, used) in held.items()]  # fmt: skip

    def on_balance(self, ask: Ask) -> Any:
        return self._told({"list": [{"accountType": "UNIFIED", "coin": self._coins()}]})

    def on_account(self, ask: Ask) -> Any:
        if ask.path.endswith("info"):
            return self._told({"unifiedMarginStatus": 6, "marginMode": "REGULAR_MARGIN", "spotHedgingStatus": "OFF"})
        allowed = {"Spot": ["SpotTrade"], "Wallet": ["AccountTransfer", *(["Withdraw"] if self.withdraw else [])]}
        return self._told({"apiKey": self.keys.key, "readOnly": 0, "secret": "", "ips": ["127.0.0.1"], "unified": 0,
                           "uta": 1, "permissions": allowed, "type": 1})  # fmt: skip

    # ----------------------------------------------------------------------------------------------------------- streams

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        if connection.path != "/v5/private" or message["op"] == "ping":
            return super().hear(connection, text)
        told = {"success": True, "ret_msg": "", "op": message["op"], "conn_id": "1", "req_id": message.get("req_id")}
        if message["op"] == "auth":
            key, expires, sign = message["args"]
            why = "" if key == self.keys.key and not self.shut_out else "API key is invalid."
            why = why or ("" if int(expires) > self.server.now_ms() else "Request expired.")
            why = why or ("" if _same(_hmac(self.keys.secret, f"GET/realtime{expires}"), sign) else "Error sign.")
            if not why:
                self.private(connection, "")
            return [told | {"success": not why, "ret_msg": why}]
        if ("private", "") not in connection.topics:
            return [told | {"success": False, "ret_msg": "Request not authorized"}]
        for topic in message["args"]:
            self.private(connection, topic)
        return [told]

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        def frame(topic: str, row: dict[str, Any]) -> tuple[str, Any]:
            return topic, {"id": f"{order.id}-{self.ms}", "topic": topic, "creationTime": self.ms, "data": [row]}

        row = {"category": "spot", **self._row(order)}
        coins = {"accountType": "UNIFIED", "coin": self._coins((order.base, order.quote))}
        frames = [frame("order", row), frame("wallet", coins)]
        return [frame("execution", {"category": "spot", **self._execution(fill)}), *frames] if fill else frames


@dialect
class OkxTrading(Dialect, Okx):
    keys = Keys("okx-key", "okx-secret", "okx-passphrase")
    routes = (
        ("POST", "/api/v5/trade/(batch-orders|order)", "create"),
        ("POST", "/api/v5/trade/order-algo", "create"),
        ("POST", "/api/v5/trade/cancel-order", "cancel"),
        ("POST", "/api/v5/trade/cancel-algos", "cancel"),
        ("GET", "/api/v5/trade/order", "order"),
        ("GET", "/api/v5/trade/order-algo", "order"),
        ("GET", "/api/v5/trade/orders-algo-pending", "open"),
        ("GET", "/api/v5/trade/orders-algo-history", "closed"),
        ("GET", "/api/v5/trade/orders-pending", "open"),
        ("GET", "/api/v5/trade/orders-history(-archive)?", "closed"),
        ("GET", "/api/v5/trade/fills(-history)?", "trades"),
        ("GET", "/api/v5/account/balance", "balance"),
        ("GET", "/api/v5/account/config", "account"),
    )
    post_only = "cancelled"
    apart = True
    codes: ClassVar[dict[str, Any]] = {
        "key": (401, "50111", "Invalid OK-ACCESS-KEY"),
        "ip": (401, "50110", "Your IP is not included in your API key's IP whitelist."),
        "permission": (403, "50120", "This API key doesn't have permission to use this function"),
        "passphrase": (401, "50105", "Request header OK-ACCESS-PASSPHRASE incorrect."),
        "signature": (401, "50113", "Invalid Sign"),
        "time": (401, "50102", "Timestamp request expired"),
        "late": (200, "51149", "Order timed out. Please try again later."),
        "busy": (429, "50011", "Rate limit reached. Please refer to API documentation and throttle requests."),
        "symbol": (200, "51001", "Instrument ID, Instrument ID code, or Spread ID doesn't exist."),
        "step": (200, "51121", "Order quantity must be a multiple of the lot size."),
        "tick": (200, "51000", "Parameter px error"),
        "amount": (200, "51020", "Your order should meet or exceed the minimum order amount."),
        "cost": (200, "51020", "Your order should meet or exceed the minimum order amount."),
        "cid": (200, "51000", "Parameter clOrdId error"),
        "number": (200, "51000", "Parameter ordId error"),
        "mode": (200, "51000", "Parameter tdMode error"),
        "type": (200, "51000", "Parameter ordType error"),
        "trigger": (200, "51280", "SL trigger price cannot be higher than the last price."),
        "funds": (200, "51008", "Order failed. Insufficient USDT balance in account."),
        "duplicate": (200, "51016", "Client order ID already exists."),
        "unknown": (200, "51603", "Order does not exist"),
        "missing": (200, "51400", "Cancellation failed as the order has been filled, canceled or does not exist."),
        "cancelled": (200, "51401", "Cancellation failed as the order is already canceled."),
        "filled": (200, "51402", "Cancellation failed as the order is already completed."),
    }
    unknown = tuple(
        (status, {"code": code, "msg": text, "data": []})
        for status, code, text in (
            (200, "50004", "API endpoint request timeout (does not indicate success or failure of order, please check order "
                           "status)."),
            (200, "50001", "Service temporarily unavailable. Try again later."),
            (200, "50013", "Systems are busy. Please try again later."),
            (500, "50026", "System error. Try again later."),
        )
    )  # fmt: skip

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        if what == "done":
            what = "filled" if self.ledger.orders[detail].status == "closed" else "cancelled"
        if what == "unknown" and ask.kind == "cancel":
            what = "missing"
        status, code, text = self.codes[what]
        if ask.kind not in ("create", "cancel") or status != 200:
            return status, {"code": code, "msg": text, "data": []}
        if "algo" in ask.path:
            row = {"algoId": "", "algoClOrdId": "", "clOrdId": "", "sCode": code, "sMsg": text, "tag": ""}
            return 200, {"code": "1", "msg": "All operations failed", "data": [row]}
        cid = self._only(ask).get("clOrdId", "")
        row = {"clOrdId": cid, "ordId": "", "sCode": code, "sMsg": text, "tag": "", "ts": str(self.ms)}
        return 200, {"code": "1", "msg": "All operations failed", "data": [row]}

    def signed(self, ask: Ask) -> None:
        stamp = ask.headers.get("OK-ACCESS-TIMESTAMP", "")
        if ask.headers.get("OK-ACCESS-KEY") != self.keys.key:
            raise Refusal("key")
        if ask.headers.get("OK-ACCESS-PASSPHRASE") != self.keys.password:
            raise Refusal("passphrase")
        sent = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC).timestamp() * 1000
        if abs(self.server.now_ms() - sent) > 30_000:
            raise Refusal("time")
        if self.server.now_ms() > int(ask.headers.get("expTime") or 10**15):
            raise Refusal("late")
        text = stamp + ask.method + ask.path + (f"?{ask.query}" if ask.query else "") + ask.body
        if not _same(_hmac64(self.keys.secret, text), ask.headers.get("OK-ACCESS-SIGN", "")):
            raise Refusal("signature")

    @staticmethod
    def _told(rows: list[Any]) -> Any:
        return {"code": "0", "msg": "", "data": rows}

    @staticmethod
    def _only(ask: Ask) -> dict[str, Any]:
        """The one order of a batch, or the body itself."""
        batch = ask.params.get("")
        return batch[0] if batch else ask.params

    # ---------------------------------------------------------------------------------------------------------- requests

    def on_create(self, ask: Ask) -> Any:
        asked = self._only(ask)
        algo = ask.path.endswith("-algo")
        cid = asked.get("algoClOrdId" if algo else "clOrdId", "")
        if not re.fullmatch(r"[A-Za-z0-9]{0,32}", cid):
            raise Refusal("cid")
        if algo:
            return self._create_stop(asked, cid)
        kind = "market" if asked["ordType"] == "market" else "limit"
        # A market buy counts in the quote currency unless told.
        unit = asked.get("tgtCcy", "quote_ccy" if asked["side"] == "buy" else "base_ccy")
        spends = kind == "market" and asked["side"] == "buy" and unit == "quote_ccy"
        order = self.ledger.create(
            self.market(asked["instId"]), asked["side"], kind, None if spends else asked["sz"], asked.get("px"), cid=cid,
            tif={"post_only": "PO", "ioc": "IOC"}.get(asked["ordType"], "GTC"), funds=asked["sz"] if spends else None,
            given={"ordType": asked["ordType"], "tgtCcy": unit if kind == "market" else ""},
        )  # fmt: skip
        return self._told([self._short(order)])

    def _create_stop(self, asked: dict[str, Any], cid: str) -> Any:
        """Of what there is of algo orders: one that waits for a price, and sells. Nothing but cash, as the account is."""
        if asked["ordType"] != "conditional" or asked["side"] != "sell" or asked.get("slTriggerPxType") != "last":
            raise Refusal("type")
        if asked["tdMode"] != "cash":
            raise Refusal("mode")
        price = None if asked["slOrdPx"] == "-1" else asked["slOrdPx"]
        order = self.ledger.create(
            self.market(asked["instId"]), "sell", "market" if price is None else "limit", asked["sz"], price, cid=cid,
            trigger=asked["slTriggerPx"], given={"ordType": "market" if price is None else "limit"},
        )  # fmt: skip
        return self._told([self._short_stop(order)])

    @staticmethod
    def _short_stop(order: Order) -> dict[str, Any]:
        return {"algoId": order.id, "algoClOrdId": order.cid, "clOrdId": "", "sCode": "0", "sMsg": "", "tag": ""}

    def _stop_row(self, stop: Order) -> dict[str, Any]:
        """After it has fired it names the order that followed; its own client id is not that order's."""
        child = stop.child
        state = {"open": "live", "fired": "effective", "rejected": "order_failed"}.get(stop.status, "canceled")
        return {
            "instType": "SPOT", "instId": self.id(stop.symbol), "algoId": stop.id, "algoClOrdId": stop.cid, "clOrdId": "",
            "ordId": child.id if child else "", "ordIdList": [child.id] if child else [], "ordType": "conditional",
            "side": stop.side, "posSide": "net", "tdMode": "cash", "sz": plain(stop.amount), "state": state, "lever": "",
            "slTriggerPx": plain(stop.trigger or Decimal(0)), "slTriggerPxType": "last",
            "slOrdPx": "-1" if stop.price is None else plain(stop.price), "tpTriggerPx": "", "tpOrdPx": "", "ccy": "",
            "actualSz": plain(child.filled) if child else "0", "actualPx": "", "actualSide": "sl" if child else "", "tag": "",
            "failCode": "51008" if stop.status == "rejected" else "", "triggerTime": str(stop.updated) if child else "",
            "cTime": str(stop.ms), "uTime": str(stop.updated), "last": "", "tgtCcy": "", "reduceOnly": "false",
        }  # fmt: skip

    def _stops(self, ask: Ask, open: bool) -> Any:
        """As many requests as there are types of algo orders."""
        if ask.params.get("ordType") != "conditional":
            raise Refusal("type")
        symbol = self.market(ask.params["instId"]) if "instId" in ask.params else ""
        rows = [self._stop_row(stop) for stop in self.ledger.listed(symbol, open, True)[::-1]]
        after = ask.params.get("after")
        rows = [row for row in rows if not after or int(row["algoId"]) < int(after)]
        return self._told(rows[: min(int(ask.params.get("limit", 100)), 100)])

    def _short(self, order: Order) -> dict[str, Any]:
        return {"clOrdId": order.cid, "ordId": order.id, "sCode": "0", "sMsg": "", "tag": "", "ts": str(self.ms)}

    def on_cancel(self, ask: Ask) -> Any:
        if ask.path.endswith("-algos"):
            asked = self._only(ask)
            stop = _stop(self, asked.get("algoId", ""), asked.get("algoClOrdId", ""))
            return self._told([self._short_stop(self.ledger.cancel(stop))])
        order = self.ledger.cancel(_any(self, ask.params.get("ordId", ""), ask.params.get("clOrdId", "")))
        return self._told([self._short(order)])

    def _row(self, order: Order) -> dict[str, Any]:
        last = order.fills[-1] if order.fills else None
        state = {"closed": "filled", "rejected": "order_failed"}.get(order.status, "canceled")
        if order.open:
            state = "partially_filled" if order.filled else "live"
        fees = order.fees()
        fee = next(iter(fees), order.base if order.side == "buy" else order.quote)
        return {
            "instType": "SPOT", "instId": self.id(order.symbol), "ordId": order.id, "clOrdId": order.cid, "tag": "",
            "px": plain(order.price) if order.price else "", "sz": plain(order.amount if order.funds is None else order.funds),
            "pnl": "0", "ordType": order.given.get("ordType", "limit"), "side": order.side, "posSide": "net",
            "tdMode": "cash", "accFillSz": plain(order.filled), "fillPx": plain(last.price) if last else "",
            "tradeId": last.id if last else "", "fillSz": plain(last.amount) if last else "0",
            "fillTime": str(last.ms) if last else "", "avgPx": plain(order.average) if last else "", "state": state,
            "lever": "", "tpTriggerPx": "", "slTriggerPx": "", "feeCcy": fee, "fee": plain(-fees.get(fee, Decimal(0))),
            "rebateCcy": order.quote, "rebate": "0", "category": "normal", "uTime": str(order.updated),
            "cTime": str(order.ms), "tgtCcy": order.given.get("tgtCcy", ""), "reduceOnly": "false",
            "cancelSource": {"user": "1", "post_only": "31", "ioc": "14"}.get(order.why, ""),
            "algoId": order.given.get("algoId", ""), "algoClOrdId": order.given.get("algoClOrdId", ""),
        }  # fmt: skip

    def following(self, stop: Order, number: int) -> tuple[str, str]:
        stop.given |= {"algoId": stop.id, "algoClOrdId": stop.cid}
        return super().following(stop, number)

    def _kept(self, order: Order) -> bool:
        """What was cancelled without a fill is forgotten after two hours."""
        return order.open or bool(order.filled) or order.updated > self.ms - 2 * HOUR

    def on_order(self, ask: Ask) -> Any:
        if ask.path.endswith("-algo"):
            id, cid = ask.params.get("algoId", ""), ask.params.get("algoClOrdId", "")
            return self._told([self._stop_row(self.ledger.find(id, cid, True))])
        symbol, number = self.market(ask.params["instId"]), ask.params.get("ordId", "")
        if number and not number.isdigit():
            raise Refusal("number")
        order = self.ledger.find(number, ask.params.get("clOrdId", ""))
        if order.symbol != symbol or not self._kept(order):
            raise Refusal("unknown")
        return self._told([self._row(order)])

    def _listed(self, ask: Ask, open: bool) -> Any:
        symbol = self.market(ask.params["instId"]) if "instId" in ask.params else ""
        kept = [order for order in self.ledger.listed(symbol, open, False) if self._kept(order)]
        rows = [self._row(order) for order in _between(kept, ask.params, "begin", "end")]
        after, state = ask.params.get("after"), ask.params.get("state")
        rows = [r for r in rows if (not after or int(r["ordId"]) < int(after)) and state in (None, r["state"])]
        return self._told(rows[: min(int(ask.params.get("limit", 100)), 100)])

    def on_open(self, ask: Ask) -> Any:
        return (self._stops if "algo" in ask.path else self._listed)(ask, True)

    def on_closed(self, ask: Ask) -> Any:
        return (self._stops if "algo" in ask.path else self._listed)(ask, False)

    def on_trades(self, ask: Ask) -> Any:
        symbol = self.market(ask.params["instId"]) if "instId" in ask.params else ""
        fills = [f for f in self.ledger.traded(symbol) if ask.params.get("ordId") in (None, "", f.order.id)]
        rows = [
            {"instType": "SPOT", "instId": self.id(f.order.symbol), "tradeId": f.id, "ordId": f.order.id,
             "clOrdId": f.order.cid, "billId": str(f.number), "tag": "", "fillPx": plain(f.price),
             "fillSz": plain(f.amount), "side": f.order.side, "posSide": "net", "execType": "M" if f.maker else "T",
             "feeCcy": f.fee_currency, "fee": plain(-f.fee), "ts": str(f.ms), "fillTime": str(f.ms)}
            for f in _between(fills, ask.params, "begin", "end")
            if not ask.params.get("after") or f.number < int(ask.params["after"])
        ]  # fmt: skip
        return self._told(rows[: min(int(ask.params.get("limit", 100)), 100)])

    def _details(self, names: Sequence[str] = ()) -> dict[str, Any]:
        held = {name: (self.ledger.total[name], self.ledger.used[name]) for name in names} or self.ledger.balances()
        rows = [{"ccy": name, "eq": plain(total), "cashBal": plain(total), "availBal": plain(total - used), "availEq": "",
                 "frozenBal": plain(used), "ordFrozen": plain(used), "uTime": str(self.ms)}
                for name, (total, used) in held.items()]  # fmt: skip
        return {"uTime": str(self.ms), "totalEq": "", "details": rows}

    def on_balance(self, ask: Ask) -> Any:
        return self._told([self._details()])

    def on_account(self, ask: Ask) -> Any:
        perm = "read_only,trade" + (",withdraw" if self.withdraw else "")
        return self._told([{"uid": "1", "acctLv": "1", "posMode": "net_mode", "perm": perm, "ip": "127.0.0.1"}])

    # ----------------------------------------------------------------------------------------------------------- streams

    def hear(self, connection: Socket, text: str) -> list[Any]:
        if text == "ping" or not connection.path.endswith("/private"):
            return super().hear(connection, text)
        message = json.loads(text)
        if message["op"] == "login":
            asked = message["args"][0]
            code = self._login(asked)
            if code:
                return [{"event": "error", "code": code, "msg": "Login failed.", "connId": "1"}]
            self.private(connection, "")
            return [{"event": "login", "code": "0", "msg": "", "connId": "1"}]
        frames: list[Any] = []
        for arg in message["args"]:
            if ("private", "") not in connection.topics:
                return [{"event": "error", "code": "60011", "msg": "Please log in", "connId": "1"}]
            self.private(connection, arg["channel"])
            frames.append({"event": "subscribe", "arg": arg, "connId": "1"})
            if arg["channel"] == "account":
                frames.append({"arg": {"channel": "account", "uid": "1"}, "data": [self._details()]})
        return frames

    def _login(self, asked: dict[str, str]) -> str:
        if asked["apiKey"] != self.keys.key or self.shut_out:
            return "60005"
        if asked["passphrase"] != self.keys.password:
            return "60024"
        if abs(self.server.now_ms() - int(asked["timestamp"]) * 1000) > 30_000:
            return "60006"
        text = asked["timestamp"] + "GET/users/self/verify"
        return "" if _same(_hmac64(self.keys.secret, text), asked["sign"]) else "60007"

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        row = self._row(order)
        if what != "fill":  # only a fill brings its trade along
            row |= {"tradeId": "", "fillSz": "0", "fillPx": "", "fillTime": ""}
        row |= {"execType": "", "fillFee": "0", "fillFeeCcy": "", "reqId": "", "amendResult": "", "code": "0"}
        if fill:
            row |= {
                "execType": "M" if fill.maker else "T",
                "fillFee": plain(-fill.fee),
                "fillFeeCcy": fill.fee_currency,
            }
        balance = self._details((order.base, order.quote))
        return [
            ("orders", {"arg": {"channel": "orders", "instType": "SPOT", "uid": "1"}, "data": [row]}),
            ("account", {"arg": {"channel": "account", "uid": "1"}, "data": [balance]}),
        ]


@dialect
class GateTrading(Dialect, Gate):
    keys = Keys("gate-key", "gate-secret")
    routes = (
        ("POST", "/api/v4/spot/orders", "create"),
        ("DELETE", "/api/v4/spot/orders(/.*)?", "cancel"),
        ("GET", "/api/v4/spot/orders/.+", "order"),
        ("POST", "/api/v4/spot/price_orders", "create"),
        ("DELETE", "/api/v4/spot/price_orders(/.*)?", "cancel"),
        ("GET", "/api/v4/spot/price_orders/.+", "order"),
        ("GET", "/api/v4/spot/price_orders", "open"),
        ("GET", "/api/v4/spot/open_orders", "open"),
        ("GET", "/api/v4/spot/orders", "closed"),
        ("GET", "/api/v4/spot/my_trades", "trades"),
        ("GET", "/api/v4/spot/accounts", "balance"),
        ("GET", "/api/v4/account/(detail|main_keys|debit_fee)", "account"),
    )
    unique = "none"
    apart, reserves = True, False
    least_cost = Decimal(3)
    codes: ClassVar[dict[str, Any]] = {
        "key": (401, "INVALID_KEY", "Invalid key provided"),
        "ip": (403, "IP_FORBIDDEN", "IP not in whitelist"),
        "permission": (403, "READ_ONLY", "The key is read only"),
        "signature": (401, "INVALID_SIGNATURE", "Signature mismatch"),
        "time": (403, "REQUEST_EXPIRED", "gap between request Timestamp and server time exceeds 60"),
        "busy": (429, "TOO_MANY_REQUESTS", "Request Rate limit Exceeded"),
        "symbol": (400, "INVALID_CURRENCY_PAIR", "Invalid currency pair"),
        "step": (400, "INVALID_PRECISION", "Invalid precision of amount"),
        "tick": (400, "INVALID_PRECISION", "Invalid precision of price"),
        "amount": (400, "INVALID_PARAM_VALUE", "Your order size is too small. The minimum is 0.001"),
        "cost": (400, "INVALID_PARAM_VALUE", "Your order size is too small. The minimum is 3 USDT"),
        "cid": (400, "INVALID_PARAM_VALUE", "text must start with `t-` and be of 28 letters, digits, _, . and -"),
        "missing": (400, "MISSING_REQUIRED_PARAM", "Missing required parameter: currency_pair"),
        "funds": (400, "BALANCE_NOT_ENOUGH", "Not enough balance"),
        "post_only": (400, "POC_FILL_IMMEDIATELY", "Order would match and take immediately so its cancelled"),
        "trigger": (400, "AUTO_TRIGGER_PRICE_LESS_LAST", "invalid argument: Trigger.Price must < last_price"),
        "put": (400, "INVALID_PARAM_VALUE", "invalid argument: put"),
        "expiration": (400, "INVALID_PARAM_VALUE", "invalid argument: trigger.expiration invalid range"),
        "unknown": (404, "ORDER_NOT_FOUND", "Order not found"),
        "cancelled": (400, "ORDER_CANCELLED", "Order cancelled"),
        "filled": (400, "ORDER_CLOSED", "Order closed"),
    }
    unknown = (
        (500, {"label": "INTERNAL", "message": "Internal server error"}),
        (500, {"label": "SERVER_ERROR", "message": "Internal server error"}),
        (503, {"label": "TOO_BUSY", "message": "System is busy"}),
    )

    def refusal(self, what: str, detail: str, ask: Ask) -> tuple[int, Any]:
        if what == "done":
            order = self.ledger.orders[detail]
            what = "unknown" if order.apart else "filled" if order.status == "closed" else "cancelled"
        status, label, text = self.codes[what]
        return status, {"label": label, "message": text}

    def signed(self, ask: Ask) -> None:
        stamp = ask.headers.get("Timestamp", "0")
        if ask.headers.get("KEY") != self.keys.key:
            raise Refusal("key")
        expired = self.server.now_ms() > int(ask.headers.get("x-gate-exptime") or 10**15)
        if expired or abs(self.server.now_ms() / 1000 - int(stamp)) > 60:
            raise Refusal("time")
        body = hashlib.sha512(ask.body.encode()).hexdigest()
        text = "\n".join([ask.method, ask.path, unquote(ask.query), body, stamp])
        if not _same(_hmac(self.keys.secret, text, "sha512"), ask.headers.get("SIGN", "")):
            raise Refusal("signature")

    # ---------------------------------------------------------------------------------------------------------- requests

    def markets(self, path: str, query: dict[str, str]) -> Any:
        told = super().markets(path, query)
        return [row | {"min_quote_amount": "3"} for row in told] if told else told

    def _create_stop(self, asked: dict[str, Any]) -> Any:
        """It keeps no client id, and sells at a limit; what it sells is not locked, and it ends after its time."""
        put, terms = asked["put"], asked["trigger"]
        if (put["type"], put["account"], put["side"], terms["rule"]) != ("limit", "normal", "sell", "<="):
            raise Refusal("put")
        if not 0 < terms["expiration"] <= 86_400:
            raise Refusal("expiration")
        until_ns = self.server.ns() + terms["expiration"] * 10**9
        stop = self.ledger.create(
            self.market(asked["market"]), "sell", "limit", put["amount"], put["price"], trigger=terms["price"],
            given={"tif": put["time_in_force"], "until_ns": until_ns, "expiration": terms["expiration"]},
        )  # fmt: skip
        return {"id": int(stop.id)}

    def _stop_row(self, stop: Order) -> dict[str, Any]:
        status = {"fired": "finish", "rejected": "failed"}.get(stop.status, stop.status)
        trigger = {"price": plain(stop.trigger or Decimal(0)), "rule": "<=", "expiration": stop.given["expiration"]}
        put = {"type": "limit", "side": stop.side, "price": plain(stop.price or Decimal(0)), "amount": plain(stop.amount),
               "account": "normal", "time_in_force": stop.given["tif"], "text": "api"}  # fmt: skip
        return {
            "trigger": trigger, "put": put, "id": int(stop.id), "user": 1, "market": self.id(stop.symbol),
            "ctime": stop.ms // 1000, "ftime": 0 if stop.open else stop.updated // 1000,
            "fired_order_id": int(stop.child.id) if stop.child else 0, "status": status,
            "reason": "BALANCE_NOT_ENOUGH" if stop.why == "funds" else "",
        }  # fmt: skip

    def _stops(self, ask: Ask) -> Any:
        self.ledger.lapse()
        symbol = self.market(ask.params["market"]) if "market" in ask.params else ""
        stops = self.ledger.listed(symbol, ask.params["status"] == "open", True)[::-1]
        start, size = int(ask.params.get("offset", 0)), min(int(ask.params.get("limit", 100)), 100)
        return [self._stop_row(stop) for stop in stops[start : start + size]]

    def _cancel_stop(self, ask: Ask) -> Any:
        id = ask.path.partition("price_orders")[2].strip("/")
        if not id:  # all of them
            return [self._stop_row(self.ledger.cancel(stop)) for stop in self.ledger.listed("", True, True)]
        return self._stop_row(self.ledger.cancel(_stop(self, id, "")))

    def on_create(self, ask: Ask) -> Any:
        asked = ask.params
        if ask.path.endswith("price_orders"):
            return self._create_stop(asked)
        text = asked.get("text", "")
        if text and not re.fullmatch(r"t-[0-9A-Za-z_.-]{1,28}", text):
            raise Refusal("cid")
        kind, tif = asked["type"], asked.get("time_in_force", "gtc")
        spends = kind == "market" and asked["side"] == "buy"
        order = self.ledger.create(
            self.market(asked["currency_pair"]), asked["side"], kind, None if spends else asked["amount"],
            asked.get("price"), cid=text, tif={"poc": "PO"}.get(tif, tif.upper()),
            funds=asked["amount"] if spends else None, given={"tif": tif},
        )  # fmt: skip
        return self._row(order)

    def _row(self, order: Order) -> dict[str, Any]:
        wanted = order.amount if order.funds is None else order.funds
        left = order.remaining if order.funds is None else order.funds - order.cost
        fees = order.fees()
        own = order.base if order.side == "buy" else order.quote
        finish = "open" if order.open else {"closed": "filled", "expired": "ioc"}.get(order.status, "cancelled")
        return {
            "id": order.id, "text": order.cid or "apiv4", "amend_text": "-", "create_time": str(order.ms // 1000),
            "update_time": str(order.updated // 1000), "create_time_ms": order.ms, "update_time_ms": order.updated,
            "status": {"filled": "closed", "open": "open"}.get(finish, "cancelled"), "currency_pair": self.id(order.symbol),
            "type": order.kind, "account": "spot", "side": order.side, "amount": plain(wanted),
            "price": plain(order.price or Decimal(0)), "time_in_force": order.given.get("tif", "gtc"), "iceberg": "0",
            "left": plain(left), "filled_amount": plain(order.filled), "fill_price": plain(order.cost),
            "filled_total": plain(order.cost), "avg_deal_price": plain(order.average),
            "fee": plain(fees.get(own, Decimal(0))), "fee_currency": own, "point_fee": "0",
            "gt_fee": plain(fees.get("GT", Decimal(0))), "gt_maker_fee": "0", "gt_taker_fee": "0", "gt_discount": False,
            "rebated_fee": "0", "rebated_fee_currency": order.quote, "finish_as": finish,
        }  # fmt: skip

    def _asked_for(self, ask: Ask) -> Order:
        """By the venue's id, or by the client's while the order is pending."""
        if "currency_pair" not in ask.params:
            raise Refusal("missing")
        id = unquote(ask.path.rsplit("/", 1)[1])
        cid = id if id.startswith("t-") else ""
        order = _any(self, id, "") if not cid and ask.kind == "cancel" else self.ledger.find("" if cid else id, cid)
        if order.symbol != self.market(ask.params["currency_pair"]) or (cid and not order.open):
            raise Refusal("unknown")
        return order

    def on_order(self, ask: Ask) -> Any:
        if "price_orders" in ask.path:
            self.ledger.lapse()
            return self._stop_row(self.ledger.find(ask.path.rsplit("/", 1)[1], "", True))
        return self._row(self._asked_for(ask))

    def on_cancel(self, ask: Ask) -> Any:
        if "price_orders" in ask.path:
            return self._cancel_stop(ask)
        if ask.path.rstrip("/").endswith("/orders"):
            # Every open order of the pair. What the venue makes of a slash at the end is not known; here it is the worst.
            symbol = self.market(ask.params["currency_pair"])
            pending = [o for o in self.ledger.orders.values() if o.open and o.symbol == symbol and not o.apart]
            return [self._row(self.ledger.cancel(order)) for order in pending]
        return self._row(self.ledger.cancel(self._asked_for(ask)))

    def on_open(self, ask: Ask) -> Any:
        if "price_orders" in ask.path:
            return self._stops(ask)
        groups: dict[str, list[Any]] = {}
        for order in self.ledger.listed("", True, False)[::-1]:
            groups.setdefault(self.id(order.symbol), []).append(self._row(order))
        return [{"currency_pair": id, "total": len(rows), "orders": rows} for id, rows in groups.items()]

    def _page(self, ask: Ask, rows: list[Any]) -> list[Any]:
        size = min(int(ask.params.get("limit", 100)), 1000)
        start = (int(ask.params.get("page", 1)) - 1) * size
        return rows[start : start + size]

    def on_closed(self, ask: Ask) -> Any:
        if "currency_pair" not in ask.params:
            raise Refusal("missing")
        orders = self.ledger.listed(self.market(ask.params["currency_pair"]), ask.params["status"] == "open", False)
        return self._page(ask, [self._row(order) for order in _between(orders, ask.params, "from", "to", 1000)])

    def _trade(self, fill: Fill) -> dict[str, Any]:
        own = fill.fee_currency != "GT"
        return {
            "id": fill.id, "create_time": str(fill.ms // 1000), "create_time_ms": f"{fill.ms}.{fill.ns % 10**6:06d}",
            "currency_pair": self.id(fill.order.symbol), "side": fill.order.side, "role": "maker" if fill.maker else "taker",
            "amount": plain(fill.amount), "price": plain(fill.price), "order_id": fill.order.id,
            "fee": plain(fill.fee) if own else "0", "point_fee": "0", "gt_fee": "0" if own else plain(fill.fee),
            "fee_currency": fill.fee_currency if own else fill.order.base, "text": fill.order.cid or "apiv4",
        }  # fmt: skip

    def on_trades(self, ask: Ask) -> Any:
        symbol = self.market(ask.params["currency_pair"]) if "currency_pair" in ask.params else ""
        fills = [f for f in self.ledger.traded(symbol) if ask.params.get("order_id") in (None, f.order.id)]
        return self._page(ask, [self._trade(fill) for fill in _between(fills, ask.params, "from", "to", 1000)])

    def on_balance(self, ask: Ask) -> Any:
        return [{"currency": name, "available": plain(total - used), "locked": plain(used), "update_id": 1}
                for name, (total, used) in self.ledger.balances().items()]  # fmt: skip

    def on_account(self, ask: Ask) -> Any:
        if ask.path.endswith("debit_fee"):
            return {"enabled": self.ledger.coin is not None}
        if ask.path.endswith("main_keys"):
            allowed = ["spot", "account", *(["wallet"] if self.withdraw else [])]
            perms = [{"name": name, "read_only": False} for name in allowed]
            return [
                {
                    "state": 1,
                    "mode": 1,
                    "name": "tests",
                    "user_id": 1,
                    "perms": perms,
                    "key": f"{self.keys.key[:6]}*****",
                }
            ]
        return {"user_id": 1, "ip_whitelist": ["127.0.0.1"], "currency_pairs": [], "key": {"mode": 1}, "tier": 0}

    # ----------------------------------------------------------------------------------------------------------- streams

    def hear(self, connection: Socket, text: str) -> list[Any]:
        message = json.loads(text)
        channel = message["channel"]
        if channel not in ("spot.orders", "spot.usertrades", "spot.balances"):
            return super().hear(connection, text)
        auth = message.get("auth") or {}
        signed = f"channel={channel}&event={message['event']}&time={message['time']}"
        good = auth.get("KEY") == self.keys.key and not self.shut_out
        good = good and abs(self.server.now_ms() / 1000 - message["time"]) <= 60
        good = good and _same(_hmac(self.keys.secret, signed, "sha512"), auth.get("SIGN"))
        if not good:
            error = {"code": 4, "message": "authentication fail"}
            return [self._frame(channel, "subscribe", None) | {"id": message["id"], "error": error}]
        self.private(connection, channel)
        return [self._frame(channel, "subscribe", {"status": "success"}) | {"id": message["id"]}]

    def events(self, what: str, order: Order, fill: Fill | None) -> list[tuple[str, Any]]:
        row = self._row(order) | {"create_time_ms": str(order.ms), "update_time_ms": str(order.updated), "user": 1}
        row["event"] = "finish" if not order.open else "put" if what == "new" else "update"
        pairs: list[tuple[str, Any]] = [("spot.orders", [row])]
        if fill:
            pairs.insert(0, ("spot.usertrades", [self._trade(fill) | {"id": int(fill.id), "user_id": 1}]))
        for name in (order.base, order.quote):
            free, used = self.ledger.free(name), self.ledger.used[name]
            balance = {"timestamp": str(self.ms // 1000), "timestamp_ms": str(self.ms), "user": "1", "currency": name,
                       "change": "0", "total": plain(free + used), "available": plain(free), "freeze": plain(used)}  # fmt: skip
            pairs.append(("spot.balances", [balance]))
        return [(channel, self._frame(channel, "update", rows)) for channel, rows in pairs]
