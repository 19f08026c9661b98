"""Stops as each exchange has them.

At Binance, Bybit, Coinbase and Kraken a stop is an order that waits. OKX (algo orders), Gate (price orders), Bitget (plan orders) and
KuCoin (stop orders) keep them apart from orders, in lists of their own; when one fires, an order with another id follows it. What is apart
is asked for here; `Venue` makes of both the same.

    stop = await look(venue, "SOL/USDT", client_id, "", since_ms)  # None: the exchange knows of none
    stop.waits or stop.orders                                      # or what it has become
"""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .venues import Venue

APART = ("okx", "gate", "bitget", "kucoin")
DAY_S, MARKS = 86_400, 30_000
"""How long Gate lets a stop wait, in seconds, less a number below `MARKS` by which it is known again."""
HISTORY_MS = 89 * 86_400_000
"""How far back Bitget can be asked for stops that do not wait any more."""


class Stop(NamedTuple):
    """What a list of stops says of one. `fired`: an order follows, or has; `orders`: those that did; `failed`: why none could."""

    id: str
    client_id: str
    waits: bool
    fired: bool = False
    orders: tuple[str, ...] = ()
    failed: str = ""


def asked(name: str, client_id: str, trigger: Decimal) -> dict[str, Any]:
    """What ccxt has to be told so that an order to sell rests until the last price falls to `trigger`, under a client id."""
    if name == "okx":
        # no other client id is known here; a `conditional` order is refused if the price is there already
        return {"algoClOrdId": client_id, "stopLossPrice": float(trigger), "tdMode": "cash"}
    if name == "gate":
        return {"trigger": {"price": f"{trigger:f}", "rule": "<=", "expiration": mark(client_id)}}
    if name == "bitget":  # of `triggerPrice` ccxt sends a number instead of a text; the mark price would be the default
        return {"clientOrderId": client_id, "stopPrice": float(trigger), "triggerType": "fill_price"}
    return {"client_order_id" if name == "coinbase" else "clientOrderId": client_id, "stopLossPrice": float(trigger)}


def named(name: str) -> dict[str, Any]:
    """What ccxt has to be told so that it cancels a stop."""
    return {"orderFilter": "tpslOrder"} if name == "bybit" else {"trigger": True} if name in APART else {}


def mark(client_id: str) -> int:
    """How many seconds a stop waits at Gate. It keeps no client id of a stop, but this number."""
    return DAY_S - zlib.crc32(client_id.encode()) % MARKS


async def look(venue: Venue, symbol: str, client_id: str, id: str, since_ms: int) -> Stop | None:
    """A stop that is apart, by the exchange's id if it is known ("" if not). Raises Failed."""
    client, name = venue.client, venue.name
    if name in ("bitget", "gate") and not (name == "gate" and id):
        return await _in_lists(venue, symbol, client_id, id, since_ms)
    by = named(name) | ({} if id else {"clientOrderId": client_id})
    found = await venue._looked(lambda: client.fetch_order(id, symbol, by))
    stop = _READ[name](found["info"]) if found and found.get("id") else None
    if name == "kucoin" and (stop is None or stop.fired):
        # the order that follows has its client id; that it had its id is not ruled out
        order = await venue._order(symbol, client_id, "", since_ms) if client_id else None
        order = order or (await venue._order(symbol, "", id, since_ms) if id else None)
        if order is not None:
            stop = Stop(id or (stop.id if stop else str(order["id"])), client_id, False, True, (str(order["id"]),))
    return stop


async def waiting(venue: Venue, symbol: str) -> list[Stop]:
    """Every stop that is apart and waits. Raises Failed."""
    client = venue.client
    more = named(venue.name) | ({"ordType": "conditional"} if venue.name == "okx" else {})
    rows = await venue._pages("stops", lambda n, by: client.fetch_open_orders(symbol, None, n, more | by))
    return [_READ[venue.name](row["info"]) for row in rows]


async def _in_lists(venue: Venue, symbol: str, client_id: str, id: str, since_ms: int) -> Stop | None:
    """A stop out of the list of those that wait, then of those that do not."""
    client, name, since = venue.client, venue.name, max(since_ms - 60_000, venue.now_ms() - HISTORY_MS)
    read, trigger = _READ[name], named(name)

    def meant(row: Mapping[str, Any]) -> bool:
        if name == "bitget":
            return str(row["id"]) == id if id else row.get("clientOrderId") == client_id
        kept, at = row["info"].get("trigger") or {}, int(row.get("timestamp") or 0)
        return row.get("side") == "sell" and at >= since and str(kept.get("expiration")) == str(mark(client_id))

    asks: tuple[Callable[[int | None, dict[str, Any]], Awaitable[Any]], ...] = (
        lambda n, by: client.fetch_open_orders(symbol, None, n, trigger | by),
        lambda n, by: (
            client.fetch_canceled_and_closed_orders(symbol, since, n, trigger | by)
            if name == "bitget"
            else client.fetch_closed_orders(symbol, None, n, trigger | by)
        ),
    )
    for ask in asks:
        for row in await venue._pages("stops", ask, lambda page: any(map(meant, page))):
            if meant(row):
                stop = read(row["info"])
                return await _followed(venue, symbol, stop, since_ms) if name == "bitget" and stop.fired else stop
    return None


async def _followed(venue: Venue, symbol: str, stop: Stop, since_ms: int) -> Stop:
    """A stop of Bitget that has fired, and the orders that followed; ccxt does not know where that is asked."""
    where = ("v2/spot/trade/plan-sub-order", ["private", "spot"], "GET", {"planOrderId": stop.id})
    told = await venue._looked(lambda: venue.client.request(*where))
    orders = tuple(str(row["orderId"]) for row in (told or {}).get("data") or ())
    if not orders:  # it bears the id of the stop as its client id
        order = await venue._order(symbol, stop.id, "", since_ms)
        orders = () if order is None else (str(order["id"]),)
    return stop._replace(orders=orders)


def _okx(row: Mapping[str, Any]) -> Stop:
    state, ids = row.get("state"), row.get("ordIdList") or [row.get("ordId")]
    ended = state in ("canceled", "order_failed")
    failed = f"the order that was to follow failed: {row.get('failCode')}" if state == "order_failed" else ""
    orders = tuple(str(id) for id in ids if id)
    waits = state in ("live", "pause")
    return Stop(str(row["algoId"]), str(row.get("algoClOrdId") or ""), waits, not waits and not ended, orders, failed)


def _gate(row: Mapping[str, Any]) -> Stop:
    status, order = row.get("status"), str(row.get("fired_order_id") or "0")
    ended = status in ("cancelled", "expired", "failed")
    failed = str(row.get("reason") or "failed") if status == "failed" else ""
    orders = () if order == "0" else (order,)
    return Stop(str(row["id"]), "", status == "open", status != "open" and not ended, orders, failed)


def _bitget(row: Mapping[str, Any]) -> Stop:
    status = row.get("status")
    failed = "the order that was to follow failed" if status in ("fail_execute", "fail_trigger") else ""
    waits, ended = status in ("live", "not_trigger"), bool(failed) or status in ("cancelled", "canceled", "cancel")
    return Stop(str(row["orderId"]), str(row.get("clientOid") or ""), waits, not waits and not ended, (), failed)


def _kucoin(row: Mapping[str, Any]) -> Stop:
    status = row.get("status")
    ended = status in ("CANCEL", "CANCELED", "CANCELLED")
    return Stop(str(row["id"]), str(row.get("clientOid") or ""), status == "NEW", status != "NEW" and not ended)


_READ: dict[str, Callable[[Mapping[str, Any]], Stop]] = {
    "okx": _okx,
    "gate": _gate,
    "bitget": _bitget,
    "kucoin": _kucoin,
}
