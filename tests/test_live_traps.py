"""Traps that eight exchanges and ccxt lay for who trades there, each met at the local exchange through the real client.

What a trap is about stands in its test. Those that need a whole session are in test_live.py, what is sent at all in test_golden.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from local_exchange import closed
from session_process import Local
from test_live import LIMITS, Desk, at, buy, desk
from trading_exchange import DIALECTS, Order, Refusal, TradingExchange, _learn, trader
from typer.testing import CliRunner

import smartorders_lab as so
from smartorders_lab.brokers import live as live_module
from smartorders_lab.brokers import venues
from smartorders_lab.brokers.venues import FACTS, Failed, Fate, Venue, Wanted
from smartorders_lab.cli import app
from smartorders_lab.errors import ExchangeError
from smartorders_lab.trading import FEES_IN_BASE

_learn()
SOL = "SOL/USDT"


def cid(number: int) -> str:
    return f"so{number:016d}"


class At:
    """A venue of its own, and the account there."""

    def __init__(self, name: str, skew_ms: int = 0, **config: Any):
        self.name, self.skew_ms, self.config = name, skew_ms, config

    async def __aenter__(self) -> Self:
        self.server = TradingExchange([self.name])
        self.server.skew_ms = self.skew_ms
        await self.server.up()
        self.venue = Venue(self.name, lambda: trader(self.name, self.server, **self.config))
        self.ledger = self.server.ledger()
        self.ledger.total |= {"SOL": Decimal(1000), "USDT": Decimal(10**7)}
        await self.venue.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await closed(self.venue.client)
        await self.server.down()

    def order(self, number: int, side: str = "buy", amount: Any = "0.5", price: Any = "140") -> Order:
        """An order of ours that is there already."""
        own = f"t-{cid(number)}" if self.name == "gate" else cid(number)
        return self.ledger.create(SOL, side, "limit", amount, price, cid=own, given={"oflags": "fciq"})

    def wanted(self, number: int, side: str = "buy", price: Any = "140", amount: Any = "0.5", **how: Any) -> Wanted:
        at = None if price is None else Decimal(price)
        return Wanted(cid(number), SOL, side, Decimal(amount), at, self.venue.now_ms(), **how)

    async def find(self, number: int, id: str = "") -> Any:
        return await self.venue.find(SOL, cid(number), id, self.venue.now_ms() - 1000)

    async def fails(self, asked: Awaitable[Any]) -> Failed:
        with pytest.raises(Failed) as caught:
            await asked
        return caught.value


def played(name: str, play: Callable[[At], Awaitable[None]], skew_ms: int = 0, **config: Any) -> None:
    async def whole() -> None:
        async with At(name, skew_ms, **config) as here:
            await play(here)

    asyncio.run(whole())


every = pytest.mark.parametrize("name", FACTS)


# ---------------------------------------------------------------------------------------------------- pages


@every
def test_every_trade_of_an_order_counts(name: str) -> None:
    """Lists come in pages of 20 to 500; an order whose trades do not add up would never be over."""

    async def play(here: At) -> None:
        many = 90 if name == "kucoin" else 130
        order = here.order(1, amount=many)
        for _ in range(many):
            here.ledger.book(order, 1)
        for id in (order.id, ""):
            truth = await here.find(1, id)
            assert (truth.filled, truth.open, len(truth.fills)) == (many, False, many)

    played(name, play)


@every
def test_every_order_that_works_is_listed(name: str) -> None:
    async def play(here: At) -> None:
        orders = [here.order(number) for number in range(130)]
        found = await here.venue.open_orders(SOL)
        assert sorted(found) == sorted((cid(number), order.id) for number, order in enumerate(orders))

    played(name, play)


@every
def test_an_order_is_found_however_many_came_after_it(name: str) -> None:
    """As after a night: what is not found would be proven absent, and sent again."""

    async def play(here: At) -> None:
        begin = here.venue.now_ms()
        order = here.order(1, price="151")
        for number in range(2, 320):
            here.order(number, price="151", amount="0.1")
        truth = await here.venue.find(SOL, cid(1), "", begin)
        assert truth is not None
        assert (truth.id, truth.filled) == (order.id, order.filled)

    played(name, play)


# ---------------------------------------------------------------------------------------------------- clocks and time


@every
@pytest.mark.parametrize("skew_s", [300, -300])
def test_a_clock_that_is_minutes_off(name: str, skew_s: int) -> None:
    """No exchange takes a time that is not its own; ccxt dates Coinbase's tokens by the machine's clock, whatever it has measured."""

    async def play(here: At) -> None:
        assert abs(here.venue.skew_ms + skew_s * 1000) < 5000
        id = await here.venue.create(here.wanted(1))
        assert (await here.find(1, id)).open
        await here.venue.create(here.wanted(2, price="151", ioc=True))
        assert not (await here.find(2)).open
        await here.venue.balances()

    played(name, play, skew_s * 1000)


LIMITED = {"okx": "expTime", "gate": "x-gate-exptime"}
"""Headers by which an exchange is told until when a request is good; the local one does not judge them by itself."""


@every
def test_what_arrives_after_its_time_is_not_carried_out(name: str) -> None:
    """Only so is not found in the end a proof, and sending again no second order."""

    async def play(here: At) -> None:
        dialect: Any = here.ledger.dialect
        signed = dialect.signed

        def judged(ask: Any) -> None:
            if name in LIMITED and ask.kind == "create" and here.server.now_ms() > int(ask.headers[LIMITED[name]]):
                raise Refusal("time")
            signed(ask)

        dialect.signed = judged
        here.server.fault("late before")
        assert (await here.fails(here.venue.create(here.wanted(1)))).fate is Fate.UNSURE
        here.server.skew_ms += here.venue.request_expiry_ns // 10**6 + 1500  # it was on its way for so long
        here.server.arrive()
        assert here.ledger.orders == {}
        assert here.server.executions == {}

    played(name, play, timeout=400)


# ---------------------------------------------------------------------------------------------------- what is what


@every
def test_a_status_is_not_the_truth(name: str) -> None:
    """Partly filled and then cancelled is `closed` here and `canceled` there, and in neither of Bybit's lists by status."""

    async def play(here: At) -> None:
        for number, end in enumerate((here.ledger.cancel, lambda order: here.ledger.reject(order, "post_only"))):
            order = here.order(number, amount=2)
            here.ledger.book(order, "0.5")
            assert (await here.find(number)).open
            end(order)
            for id in (order.id, ""):
                truth = await here.find(number, id)
                assert (truth.id, truth.open, truth.filled) == (order.id, False, Decimal("0.5"))
        here.server.offer(SOL, "0.7")
        id = await here.venue.create(here.wanted(9, price="151", amount=2, ioc=True))
        truth = await here.find(9, id)
        assert (truth.open, truth.filled, len(truth.fills)) == (False, Decimal("0.7"), 1)

    played(name, play)


@every
def test_an_acknowledgement_is_no_order(name: str) -> None:
    """Accepted and then rejected: said at once by nobody, and a bare `{}` for who believes the answer to `create`."""

    async def play(here: At) -> None:
        here.server.late_rejects = 1
        id = await here.venue.create(here.wanted(1))
        truth = await here.find(1, id)
        assert (truth.open, truth.filled) == (False, 0)

    played(name, play)


@every
def test_fees_wherever_they_are_told(name: str) -> None:
    """In the order, only in its trades, in a list with zeros, as text, negative; in what was bought, what was paid, or a third coin."""

    async def play(here: At) -> None:
        here.ledger.total["BNB"] = Decimal(5)
        for number, (side, coin) in enumerate((("buy", None), ("sell", None), ("buy", ("BNB", Decimal(600))))):
            here.ledger.coin = coin
            order = here.order(number, side, price="151" if side == "buy" else "149")
            truth = await here.find(number, order.id)
            paid: dict[str, Decimal] = {}
            for currency, cost in (fee for fill in truth.fills for fee in fill.fees):
                paid[currency] = paid.get(currency, Decimal(0)) + cost
            paid = {currency: cost for currency, cost in paid.items() if cost}
            if coin is not None and name in ("kraken", "coinbase"):
                continue  # these know no third coin
            assert {
                currency: abs(cost - order.fees()[currency]) < Decimal("1e-8") for currency, cost in paid.items()
            } == {next(iter(order.fees())): True}
            assert all(cost > 0 for cost in paid.values()), "what is paid is positive"

    played(name, play)


@every
def test_what_orders_hold_is_not_free(name: str) -> None:
    async def play(here: At) -> None:
        here.order(1, amount=10)
        free, total = (await here.venue.balances())["USDT"]
        assert total - free >= 1400

    played(name, play)


# ---------------------------------------------------------------------------------------------------- errors


AFTER = (
    "reset after", "closed after", "truncated after", "empty after", "html after", "broken after", "braces after",
    "500 after", "502 after", "503 after", "504 after", "524 after", "reset before", "500 before", "502 before",
)  # fmt: skip


@every
def test_what_nobody_knows_is_never_taken_for_a_refusal(name: str) -> None:
    """ccxt makes of these a return without an id, a bare ExchangeError, an InvalidOrder (Bybit 170146), a BadRequest (KuCoin 408000) ..."""

    async def play(here: At) -> None:
        own = [f"unknown{n} {when}" for n in range(len(DIALECTS[name].unknown)) for when in ("before", "after")]
        for number, fault in enumerate([*AFTER, *own]):
            here.server.fault(fault)
            failed = await here.fails(here.venue.create(here.wanted(number)))
            assert failed.fate is Fate.UNSURE, (fault, failed.reason)
            done = fault.endswith("after")
            assert here.server.executions.total() == sum(f.endswith("after") for f in [*AFTER, *own][: number + 1])
            truth = await here.find(number)
            assert (truth is not None) == done, fault

    played(name, play)


@every
def test_what_was_not_carried_out_is_known_to_be_so(name: str) -> None:
    async def play(here: At) -> None:
        again = ["refused before", "busy before", "418 before"]
        again += ["429 before"] if name != "okx" else []  # there a page of HTML is nothing that the exchange has said
        again += ["nonce before"]
        for number, fault in enumerate(again):
            here.server.fault(fault)
            failed = await here.fails(here.venue.create(here.wanted(number)))
            assert failed.fate is Fate.NOT_SENT, (fault, failed.reason)
        poor = await here.fails(here.venue.create(here.wanted(50, amount=10**6)))
        assert (poor.fate, poor.poor) == (Fate.REFUSED, True)
        for denied in ("permission", "key"):
            here.ledger.dialect.denied = denied
            failed = await here.fails(here.venue.create(here.wanted(51)))
            assert (failed.fate, failed.poor) == (Fate.REFUSED, False), denied
        assert here.server.executions == {}

    played(name, play)


def test_keys_that_are_taken_away_are_no_traffic_jam() -> None:
    """Binance -2015: once a client has signed in, ccxt calls it DDoSProtection, and would try for ever."""

    async def play(here: At) -> None:
        await here.venue.create(here.wanted(1))
        here.ledger.dialect.denied = "key"
        assert (await here.fails(here.venue.create(here.wanted(2)))).fate is Fate.REFUSED

    played("binance", play)


@every
def test_the_client_repeats_nothing_by_itself(name: str) -> None:
    """`maxRetriesOnFailure` sends an order again under the same id, and it is carried out twice."""

    async def play(here: At) -> None:
        here.server.fault("reset after")
        await here.fails(here.venue.create(here.wanted(1, price="151", ioc=True)))
        assert here.server.executions.total() == 1
        assert here.server.counts["create"] == 1

    played(name, play, options={"maxRetriesOnFailure": 3, "maxRetriesOnFailureDelay": 1})


@every
def test_the_same_client_id_again(name: str) -> None:
    """While the first works: refused under six different errors, none of them DuplicateOrderId; at Gate perhaps not at all."""

    async def play(here: At) -> None:
        wanted = here.wanted(1)
        first = await here.venue.create(wanted)
        if name == "gate":  # nothing is documented there, and nothing relied on
            return
        if name == "coinbase":
            assert await here.venue.create(wanted) == first
        else:
            assert (await here.fails(here.venue.create(here.wanted(1)))).fate is Fate.EXISTS
        assert set(here.server.executions.values()) == {1}

    played(name, play)


@every
def test_only_where_an_id_is_never_taken_twice_is_a_request_repeated(name: str) -> None:
    """After the first is filled the id is free again at six of them: the same request is a second order there."""

    async def play(here: At) -> None:
        wanted = here.wanted(1, price="151", ioc=True)
        await here.venue.create(wanted)
        with contextlib.suppress(Failed):
            await here.venue.create(wanted)
        twice = here.server.executions.total() == 2
        assert FACTS[name].repeat == (not twice)

    played(name, play)


@every
def test_a_request_that_is_given_up_is_carried_out(name: str) -> None:
    """A worker that is cancelled in the middle has sent its order all the same: it is found."""

    async def play(here: At) -> None:
        here.server.fault("timeout after")
        work = asyncio.create_task(here.venue.create(here.wanted(1, price="151", ioc=True)))
        async with asyncio.timeout(60):
            while not here.server.executions:
                await asyncio.sleep(0.005)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        truth = await here.find(1)
        assert (truth.open, truth.filled) == (False, Decimal("0.5"))

    played(name, play)


@every
def test_one_look_that_finds_nothing_proves_nothing(name: str) -> None:
    """Lookups lag behind; None is said until it is seen, and never an error."""

    async def play(here: At) -> None:
        here.server.lag_s = 0.3
        await here.venue.create(here.wanted(1))
        assert await here.find(1) is None
        async with asyncio.timeout(60):
            while (truth := await here.find(1)) is None:
                await asyncio.sleep(0.02)
        assert truth.open

    played(name, play)


# ---------------------------------------------------------------------------------------------------- cancels


@every
def test_a_cancel_means_one_order(name: str) -> None:
    """Gate with ccxt's unified parameter asks for the path of all orders; Bybit's ignores the name and needs the native one."""

    async def play(here: At) -> None:
        first, second = here.order(1), here.order(2)
        if name == "coinbase":
            assert (await here.fails(here.venue.cancel(SOL, cid(1), ""))).fate is Fate.NOT_SENT
            await here.venue.cancel(SOL, cid(1), first.id)
        else:
            await here.venue.cancel(SOL, cid(1), "")
        assert [first.status, second.status] == ["cancelled", "open"]

    played(name, play)


@every
def test_a_cancel_that_comes_too_late_is_no_cancel(name: str) -> None:
    async def play(here: At) -> None:
        order = here.order(1)
        here.server.move(SOL, "139")
        with contextlib.suppress(Failed):  # whatever is said of it
            await here.venue.cancel(SOL, cid(1), order.id)
        truth = await here.find(1, order.id)
        assert (truth.open, truth.filled) == (False, Decimal("0.5"))

    played(name, play)


# ---------------------------------------------------------------------------------------------------- Kraken's numbers


def test_numbers_grow_over_a_clock_that_is_set_back() -> None:
    """What was measured of the exchange's clock counts as well: else Kraken would refuse everything for an hour."""

    async def play(here: At) -> None:
        await here.venue.balances()

        def late() -> Any:
            made = trader("kraken", here.server)
            made.milliseconds = lambda: int(time.time() * 1000) - 3_600_000
            return made

        other = Venue("kraken", late)
        await other.open()
        taken = False
        async with asyncio.timeout(60):
            while not taken:  # it is told in whole seconds, so that the first may come too early
                with contextlib.suppress(Failed):
                    await other.balances()
                    taken = True
                await asyncio.sleep(0.05)
        await closed(other.client)

    played("kraken", play)


def test_numbers_grow_within_a_millisecond() -> None:
    """Kraken takes no number that is not above the last: two requests in one millisecond, from two clients, at once."""

    async def play(here: At) -> None:
        second, stands = here.venue.another(), here.venue._wall() + 1000
        here.venue._wall = lambda: stands
        begin = len(here.server.asked)
        for _ in range(3):
            await here.venue.balances()
            await second.fetch_open_orders(SOL)
        await asyncio.gather(*(here.venue.create(here.wanted(number)) for number in range(3)), here.venue.balances())
        await closed(second)
        numbers = [int(ask.params["nonce"]) for ask in here.server.asked[begin:]]
        assert numbers == [*range(numbers[0], numbers[0] + 10)]
        assert len(here.ledger.orders) == 3

    played("kraken", play)


# ---------------------------------------------------------------------------------------------------- sessions


def kinds(one: Desk) -> list[str]:
    """What the exchange has been asked for that needs a key, oldest first."""
    found: list[str] = one.exchange.do(lambda: [ask.kind for ask in one.server.asked])
    return found


@every
def test_what_a_start_asks_first(name: str, tmp_path: Path) -> None:
    """Balances, so that keys are refused before anything depends on them; then what is under way; and nothing is created."""
    with desk(name, tmp_path) as one:
        assert set(kinds(one)) == {"balance"}
        one.session.place(buy(entry=at(149)))
        one.move(150, 149)
        one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "it rests")
        one.session.close()
        before = kinds(one)
        one.start()
        asked = kinds(one)[len(before) :]
        assert asked[0] == "balance"
        assert {"order", "open", "closed"} & {*asked}, "and what is under way is looked up"
        assert {*asked} <= {"balance", "order", "open", "closed", "trades"}
        one.session.close()

        one.exchange.do(lambda: setattr(one.ledger.dialect, "denied", "key"))
        before = kinds(one)
        with pytest.raises(ExchangeError, match=rf"^{name}: cannot be traded on: .*; see `smartorders doctor`$"):
            one.start()
        assert [*{*kinds(one)[len(before) :]}] in ([], ["balance"]), "nothing after the refusal"
        one.exchange.do(lambda: setattr(one.ledger.dialect, "denied", ""))
        assert one.start().order(0)["status"] == "PENDING", "and nothing is lost by it"


OTHER_NAMES = [("gateio", "gate"), ("okex", "okx"), ("coinbaseadvanced", "coinbase"), ("coinbase-advanced", "coinbase")]


@pytest.mark.parametrize(("alias", "name"), OTHER_NAMES)
def test_exchanges_go_by_other_names(alias: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of ccxt's older versions mean the same venue: its facts, its fees, its keys, and the session of its name."""
    assert dict(OTHER_NAMES) == venues.ALIASES
    there = Desk(name, tmp_path)
    with there.exchange:
        feed = Local(name, there.server.port)
        asked: dict[str, Any] = {"store": there.store, "limits": LIMITS, "confirm": "live", "client": there.connect}
        with so.live(alias, feed=feed, **asked) as session:
            assert (session.broker.venue.name, session.broker.venue.facts) == (name, FACTS[name])
            assert session.journal.meta["exchange"] == name
            assert session.name == f"live {name}"
            assert (session.book.fills.fee_currency == "base") == (name in FEES_IN_BASE)
        with so.live(name, feed=Local(name, there.server.port), **asked) as again:
            assert again.id == session.id

    monkeypatch.setattr("smartorders_lab.keys._from_keyring", lambda *_: {})
    monkeypatch.delenv(f"SMARTORDERS_{name.upper()}_KEY", raising=False)
    link = so.SmartOrder(symbol=SOL, side="buy", quantity=1, stop_loss="-20%").share_link()
    most = ["--max-order=9", "--max-symbol=9", "--max-day=9", "--max-orders=1", "--max-distance=1%", "--allow", SOL]
    line = ["live", "--exchange", alias, "--order", link, "--store", str(tmp_path / "x.duckdb"), *most]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 5, result.stderr
    assert f"{name}: the API key from SMARTORDERS_{name.upper()}_KEY" in result.stderr


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, facts in FACTS.items():
        monkeypatch.setitem(venues.FACTS, name, dataclasses.replace(facts, expiry_s=0.4, lag_s=0.2))
    monkeypatch.setattr(live_module, "GIVE_UP_S", 5.0)
    monkeypatch.setattr("smartorders_lab.execution.FIRST_LOOK_NS", 50_000_000)


@pytest.mark.parametrize(("name", "hours"), [("okx", 3), ("bybit", 25)])
def test_an_order_that_the_exchange_has_forgotten(name: str, hours: int, tmp_path: Path, forgetful: None) -> None:
    """OKX lets go of what was cancelled without a fill after two hours, Bybit after a day: once it was there, it is over, not absent."""
    with desk(name, tmp_path) as one:
        oid = one.session.place(buy(entry=at(149)))
        one.move(150, 149)
        one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "it rests")
        one.session.close()

        def forget() -> None:
            (order,) = one.ledger.listed(open=True)
            one.ledger.cancel(order)
            order.updated_ns -= hours * 3600 * 10**9
            if name == "bybit":  # its newest are in another list
                one.ledger.dialect.on_order = one.ledger.dialect.on_open

        one.exchange.do(forget)
        session = one.start()
        one.until(lambda: session.order(oid)["status"] == "CANCELLED", "its entry is over")
        assert len(one.exchange.do(lambda: [*one.ledger.orders])) == 1, "and is not sent again by itself"


@pytest.mark.parametrize("name", ["binance", "kraken"])
def test_looks_that_lag_make_no_second_order(name: str, tmp_path: Path, forgetful: None) -> None:
    """Executed, the answer lost, and not to be seen at once."""
    with desk(name, tmp_path) as one:
        one.exchange.do(lambda: setattr(one.server, "lag", 2))
        one.exchange.do(lambda: one.server.fault("reset after"))
        oid = one.session.place(buy(2))
        one.move(150)
        one.until(lambda: Decimal(one.session.order(oid)["held"] or 0) > Decimal("1.9"), "bought")
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()


def test_orders_do_not_wait_behind_prices(tmp_path: Path) -> None:
    """ccxt has one queue for all requests of a client: who trades has a client of his own, and asks for nothing that is public."""
    with desk("kraken", tmp_path) as one:
        assert one.session.broker.venue.client is not one.session.feed._client  # type: ignore[attr-defined]
        asked: list[str] = []
        send = one.session.broker.venue.client.fetch

        async def noted(url: str, *more: Any, **other: Any) -> Any:
            asked.append(url)
            return await send(url, *more, **other)

        one.session.broker.venue.client.fetch = noted
        oid = one.session.place(buy(2))
        one.move(150, 151, 152)
        one.until(lambda: one.session.order(oid)["status"] == "ACTIVE", "bought")
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        assert asked
        assert not [url for url in asked if "/public/" in url and not url.endswith("/Time")]
