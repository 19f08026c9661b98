"""A dry run shows what a real run sends: both live through the same at the local exchange, side by side, at all eight venues."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from session_process import Local
from test_live import LIMITS, SOL, Desk, at, buy
from trading_exchange import Ask, _fields

import smartorders_lab as so
from smartorders_lab.brokers.dry import DryBroker, Request, keys_or_made_up
from smartorders_lab.brokers.venues import FACTS
from smartorders_lab.errors import ExchangeError, SpecError, StoreError
from smartorders_lab.trading import live

OVER = ("CLOSED", "STOPPED", "CANCELLED")


class Both(Desk):
    """A live session at a venue, and a dry run beside it that hears the same."""

    def start(self, **how: Any) -> so.Session:
        ledger = self.ledger
        ledger.maker = ledger.taker = Decimal("0.001")  # as the dry run reckons
        self.dry = self.begin()
        return super().start(**how)

    def begin(self, **how: Any) -> so.Session:
        """A dry run."""
        feed = Local(self.venue, self.server.port)
        given = {"store": self.store.with_name("dry.duckdb"), "limits": LIMITS, "client": self.connect, **how}
        return live(self.venue, feed=feed, dry_run=True, **given)

    @property
    def sessions(self) -> list[so.Session]:
        return [self.session, self.dry]

    @property
    def shown(self) -> list[Request]:
        found: list[Request] = self.dry.broker.requests
        return found

    def place(self, order: so.SmartOrder) -> int:
        (number,) = {session.place(order) for session in self.sessions}
        return number

    def go(self, *prices: float) -> None:
        """The market trades there, and both have seen it."""
        for price in prices:
            before = [session.state()["symbols"][SOL]["ticks"] for session in self.sessions]
            self.exchange.do(lambda price=price: self.server.move(SOL, price))
            for session, ticks in zip(self.sessions, before, strict=True):
                self.until(lambda s=session, t=ticks: s.state()["symbols"][SOL]["ticks"] > t, "it is seen")

    def both(self, oid: int, **wanted: Any) -> None:
        """Wait until an order is so in both; amounts to a hundredth."""

        def so_far(session: so.Session) -> bool:
            order = session.order(oid)
            return all(
                order[name] in value if isinstance(value, tuple) else abs(float(order[name] or 0) - value) < 0.011
                for name, value in wanted.items()
            )

        for session in self.sessions:
            self.until(lambda session=session: so_far(session), f"{session.mode}: order {oid} is {wanted}")

    def sent(self, count: int) -> None:
        """Wait until the last of so many orders is at the exchange, and shown."""
        self.until(lambda: sum(ask.kind == "create" for ask in self.server.asked) == count, "sent")
        self.until(lambda: sum(request.what == "create" for request in self.shown) == count, "shown")
        self.until(lambda: not any(child.busy and not child.id for child in children(self)), "and answered")


def children(both: Both) -> list[Any]:
    return [child for session in both.sessions for child in session.broker._children.values()]


@pytest.fixture
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Both]:
    made = Both(getattr(request, "param", "binance"), tmp_path)
    with made.exchange:
        made.start()
        try:
            yield made
        finally:
            for session in made.sessions:
                session.close()


# ---------------------------------------------------------------------------------------------------- the same requests

TIMES = {"timestamp", "nonce", "deadline", "clienttimestamp", "starttime", "start_sequence_timestamp", "x-gate-exptime"}
TIMES |= {
    "x-bapi-timestamp",
    "ok-access-timestamp",
    "access-timestamp",
    "kc-api-timestamp",
    "exptime",
    "start",
    "from",
    "since",
}
IDS = {"orderid", "ordid", "order_id", "order_ids", "txid"}


def leveled(value: Any, name: str = "") -> Any:
    """A part of a request without what is another one each time."""
    name = name.lower()
    if isinstance(value, dict):
        return {key: leveled(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [leveled(one, name) for one in value]
    if name == "signature":
        return "<signature>"
    if name in TIMES:
        return "<time>"
    if re.fullmatch("(t-)?so[0-9a-z]{16}", str(value)):
        return "<client id>"
    return "<id>" if name in IDS else str(value)


def path_of(text: str, ids: set[str]) -> str:
    parts = ["<id>" if part in ids or part.startswith("id-of-") else part for part in text.split("/")]
    return "/".join(leveled(part) for part in parts)


def as_shown(request: Request) -> tuple[str, str, str]:
    url = urlsplit(request.url)
    fields = dict(parse_qsl(url.query, keep_blank_values=True)) | _fields(request.body)
    return request.method, path_of(url.path, set()), json.dumps(leveled(fields), sort_keys=True)


def as_sent(ask: Ask, ids: set[str]) -> tuple[str, str, str]:
    return ask.method, path_of(ask.path, ids), json.dumps(leveled(ask.params), sort_keys=True)


def same_headers(request: Request, ask: Ask) -> None:
    for name, value in request.headers.items():
        assert name in ask.headers, name
        if value != "***" and name.lower() not in TIMES:
            assert ask.headers[name] == value, name


@pytest.mark.parametrize("both", FACTS, indirect=True)
def test_a_dry_run_shows_what_a_real_run_sends(both: Both) -> None:
    first = both.place(
        buy(entry=at(149), take_profits=[(155, 50), (165, 50)], stop_loss=140, trailing_stop="3%", break_even=True)
    )
    both.go(150, 149)
    both.sent(1)
    both.go(148.9)
    both.both(first, held=4)
    for session in both.sessions:
        session.add_funds(first, quantity=1)
    both.both(first, held=5)
    both.go(155.5)
    both.both(first, held=2.5)
    both.go(160, 164, 158)
    both.both(first, status=("STOPPED",))

    second = both.place(buy(2))
    both.go(157)
    both.both(second, held=2)
    for session in both.sessions:
        session.add_funds(second, quantity=1, price=130)
    both.sent(6)  # rests far below
    for session in both.sessions:
        session.reduce_funds(second, quantity="0.5")
    both.both(second, held=1.5)
    for session in both.sessions:
        session.close_at_market(second)
    both.both(second, status=("CLOSED",))
    both.until(lambda: all(child.over for child in children(both)), "all is over")

    asked, shown = both.exchange.do(lambda: [*both.server.asked]), both.shown
    ids = set(both.ledger.orders)
    for what, many in (("create", 8), ("cancel", 1)):  # of a close, either may be sent first
        acts = [ask for ask in asked if ask.kind == what]
        mine = [request for request in shown if request.what == what]
        assert [as_shown(request) for request in mine] == [as_sent(ask, ids) for ask in acts]
        assert len(acts) == many
        for request, ask in zip(mine, acts, strict=True):
            same_headers(request, ask)
    looks = {
        as_sent(ask, ids) for ask in asked if ask.kind not in ("create", "cancel", "balance")
    }  # an account is not asked for
    assert {as_shown(request) for request in shown if request.what == "look up"} == looks
    ours = {child.submit.client_id for child in both.dry.broker._children.values()}
    assert not any(name in f"{ask.path} {ask.query} {ask.body}" for ask in asked for name in ours), "none was sent"
    keys = both.server.venues[both.venue].keys
    for request in shown:
        for secret in filter(None, (keys.key, keys.secret, keys.password, keys.secret.replace("\n", "\\n"))):
            assert secret not in str(request)
    assert {request.order for request in shown} == {first, second}


# ---------------------------------------------------------------------------------------------------- alone


class Alone(Both):
    """A dry run, and nothing beside."""

    def start(self, **how: Any) -> so.Session:
        self.session = self.dry = self.begin(**how)
        return self.session


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    made = Alone("binance", tmp_path)
    with made.exchange:
        made.start()
        try:
            yield made
        finally:
            made.session.close()


def test_it_goes_on_where_it_was(alone: Alone) -> None:
    oid = alone.session.place(buy(take_profits=[(155, 50), (165, 50)]))
    alone.move(150)
    alone.until(lambda: float(alone.session.order(oid)["held"]) > 3.9, "bought on paper")
    alone.session.add_funds(oid, quantity=1, price=149)
    alone.until(lambda: sum(request.what == "create" for request in alone.shown) == 2, "rests")
    alone.until(lambda: all(child.id for child in alone.session.broker._children.values()), "and is known")
    alone.session.close()
    session = alone.start()
    assert session.mode == "dry"
    assert float(session.order(oid)["held"]) > 3.9
    alone.move(155.5)
    alone.until(lambda: session.order(oid)["status"] == "PARTIALLY_CLOSED", "the level is sold")
    alone.move(148.9)
    alone.until(lambda: float(session.order(oid)["held"]) > 2.9, "what rested is bought")
    assert alone.server.asked == []
    assert [request.what for request in alone.shown].count("create") == 1, "what rests is not sent again"


def test_limits_and_the_switch_count_as_they_would(alone: Alone) -> None:
    session = alone.session
    dear = session.place(buy(50))
    oid = session.place(buy(2))
    alone.move(150)
    alone.until(lambda: session.order(dear)["status"] in OVER, "7500 are more than 2000")
    alone.until(lambda: float(session.order(oid)["held"]) > 1.9, "300 are not")
    assert {request.order for request in alone.shown} == {oid}
    assert [order["order"] for order in session.halt("enough")] == [oid]
    before = len(alone.shown)
    session.close_at_market(oid)
    alone.until(lambda: session.order(oid)["attention"] or "alert" in set(session.events(oid)["kind"]), "it says so")
    assert len(alone.shown) == before


def test_what_is_heard_and_logged_has_no_secrets(alone: Alone, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Request] = []
    alone.session.broker.on_request(heard.append)
    with caplog.at_level(logging.DEBUG):
        alone.session.place(buy(2))
        alone.move(150)
        alone.until(lambda: len(heard) >= 3, "heard")
    assert heard == alone.shown
    assert caplog.text.count("dry run: order 0 would create POST https://api.binance.com/api/v3/order ") == 1
    keys = alone.server.venues["binance"].keys
    told = caplog.text + "".join(map(str, heard))
    assert "signature=***" in told
    assert keys.key not in told
    assert keys.secret not in told
    assert not re.search("signature=[0-9a-f]", told)


@pytest.mark.parametrize("exchange", FACTS)
def test_keys_that_are_made_up_sign_all_the_same(exchange: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ccxt

    monkeypatch.setattr("smartorders_lab.keys._from_keyring", lambda *_: {})
    for name in ("KEY", "SECRET", "PASSWORD"):
        monkeypatch.delenv(f"SMARTORDERS_{exchange.upper()}_{name}", raising=False)
    keys = keys_or_made_up(exchange)
    assert keys.source == "nowhere: made up"
    client = getattr(ccxt, exchange)(keys.for_ccxt())
    path, api = {
        "binance": ("order", ["private"]),
        "bybit": ("v5/order/create", ["private"]),
        "okx": ("trade/order", ["private"]),
        "gate": ("orders", ["private", "spot"]),
        "bitget": ("v2/spot/trade/place-order", ["private", "spot"]),
        "kucoin": ("hf/orders", ["private"]),
        "kraken": ("AddOrder", ["private"]),
        "coinbase": ("brokerage/orders", ["v3", "private"]),
    }[exchange]
    assert client.sign(path, api, "POST", {"amount": 1})["headers"]
    monkeypatch.setenv(f"SMARTORDERS_{exchange.upper()}_KEY", "a-key")
    with pytest.raises(ExchangeError, match="the API secret from"):
        keys_or_made_up(exchange)


def test_a_dry_run_and_a_live_session_are_two(alone: Alone) -> None:
    assert isinstance(alone.session.broker, DryBroker)
    alone.session.close()
    with pytest.raises(StoreError, match="was begun with mode = 'dry', not 'live'"):
        live(
            "binance",
            store=alone.store.with_name("dry.duckdb"),
            confirm="live",
            limits=LIMITS,
            feed=Local("binance", 1),
            client=alone.connect,
            name="dry binance",
        )
    with pytest.raises(SpecError, match=r"limits\.max_day"):
        live("binance", store=alone.store, limits={k: v for k, v in LIMITS.items() if k != "max_day"}, dry_run=True)
