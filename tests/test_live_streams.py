"""Private streams of a live session: they wake and are never believed, and the session's clock follows the exchange's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_live import SOL, Desk, at, buy

from smartorders_lab.brokers import live as live_module
from smartorders_lab.brokers import streams, venues
from smartorders_lab.brokers.streams import PrivateStream
from smartorders_lab.brokers.venues import FACTS, Venue

TOPICS = {
    "binance": "user",
    "bybit": "order",
    "okx": "orders",
    "gate": "spot.orders",
    "bitget": "orders:default",
    "kucoin": "/spotMarket/tradeOrders",
    "kraken": "executions",
    "coinbase": "user:",
}


class Listening(Desk):
    """A desk whose session listens."""

    def listens(self) -> None:
        self.exchange.wait(self.server.listening(TOPICS[self.venue]))

    def resting(self) -> int:
        """An order that rests, and nothing is going to look at it by itself."""
        oid = self.session.place(buy(entry=at(149)))
        self.move(150, 149)
        self.until(lambda: self.exchange.do(lambda: self.ledger.listed(open=True)), "it rests")
        self.until(lambda: self.session.broker.stream.hears, "its stream has told of it")
        self.quiet()
        return oid

    def quiet(self, seconds: float = 0.4) -> None:
        """Wait until nothing has been looked up for a while."""
        looked, since = len(self.server.asked), time.monotonic()
        while time.monotonic() < since + seconds:
            if looked != len(self.server.asked):
                looked, since = len(self.server.asked), time.monotonic()
            time.sleep(0.02)


@pytest.fixture
def rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a stream nothing would be heard for minutes."""
    for name in ("SHORTEST_S", "LONGEST_S", "RESTING_S"):
        monkeypatch.setattr(live_module, name, 600.0)


@contextlib.contextmanager
def desk(venue: str, folder: Path) -> Iterator[Listening]:
    made = Listening(venue, folder)
    with made.exchange:
        made.start(streams=True)
        try:
            yield made
        finally:
            made.session.close()


@pytest.mark.parametrize("venue", FACTS)
def test_a_fill_is_told_at_once(venue: str, tmp_path: Path, rarely: None) -> None:
    with desk(venue, tmp_path) as one:
        one.listens()
        oid = one.resting()
        one.move(148.9, size=1)
        one.until(lambda: float(one.session.order(oid)["held"]) > 0.9, "the first part is heard of")
        one.move(148.9)
        one.until(lambda: float(one.session.order(oid)["held"]) > 3.9, "and the rest")
        other = one.session.place(buy(entry=at(147)))
        one.move(147)
        one.until(lambda: one.exchange.do(lambda: one.ledger.listed(open=True)), "another rests")
        order = one.exchange.do(lambda: one.ledger.listed(open=True))[0]
        one.quiet()
        one.exchange.do(lambda: one.ledger.cancel(order))  # by another hand
        one.until(
            lambda: "cancelled" in str(one.session.events(other)["kind"].to_list()), "that it is gone is heard of"
        )
        assert one.session.error is None


GARBAGE = (
    "",
    "{",
    "null",
    "[]",
    "[[1]]",
    '{"e":"executionReport"}',
    '{"topic":"order","data":5}',
    '{"channel":"executions"}',
)


@pytest.mark.parametrize("venue", FACTS)
def test_whatever_a_stream_does_the_books_are_true(
    venue: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rarely: None
) -> None:
    """Frames that nobody can read, each event twice, something that happens while there is no connection."""
    monkeypatch.setattr(streams, "SHORTEST_S", 0.7)
    with desk(venue, tmp_path) as one:
        one.listens()
        oid = one.resting()

        def mess() -> None:
            one.server.stream = "doubled"
            for connection in one.server.sockets:
                if any(what == "private" for what, _ in connection.topics):
                    for text in GARBAGE:
                        connection.send(text)

        one.exchange.do(mess)
        one.move(148.9, size=1)
        one.until(lambda: float(one.session.order(oid)["held"]) > 0.9, "after the garbage")

        looked = len(one.server.asked)
        one.exchange.do(one.server.cut)
        one.until(lambda: len(one.server.asked) > looked, "all are looked at, since nothing can be heard now")
        one.quiet(0.2)
        one.move(148.9, size=1)
        one.until(lambda: float(one.session.order(oid)["held"]) > 1.9, "what happened in the gap")
        one.listens()
        one.quiet()
        one.move(148.9)
        one.until(lambda: float(one.session.order(oid)["held"]) > 3.9, "on the new connection")
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()


@pytest.mark.parametrize("how", ["muted", "swapped"])
def test_a_stream_that_fails_without_a_word_costs_one_long_pause(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_module, "RESTING_S", 1.0)
    with desk("bybit", tmp_path) as one:
        one.listens()
        oid = one.session.place(buy(entry=at(149)))
        one.move(150, 149)
        one.until(lambda: one.session.broker.stream.hears, "it has told of the order")
        one.quiet()
        one.server.stream = how
        one.exchange.do(lambda: one.server.move(SOL, 148.9, 1))
        one.until(lambda: float(one.session.order(oid)["held"]) > 0.9, "found by looking")
        if how == "muted":
            assert not one.session.broker.stream.hears, "it is not relied on any more"
        one.session.close_at_market(oid)
        one.is_(oid, "CLOSED")
        one.true()


def test_a_connection_that_is_dead_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rarely: None) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.1)
    with desk("okx", tmp_path) as one:
        one.listens()
        oid = one.resting()
        one.server.silent = True
        one.exchange.do(lambda: one.server.move(SOL, 148.9, 1))
        one.until(lambda: not one.session.broker.stream.hears, "nothing is heard of it, not even a pong")
        one.server.silent = False
        one.until(lambda: float(one.session.order(oid)["held"]) > 0.9, "what it has not told")


def test_looks_become_rare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And often again as soon as the stream is gone."""
    monkeypatch.setattr(live_module, "LONGEST_S", 0.1)
    with desk("bybit", tmp_path) as one:
        one.listens()
        one.session.place(buy(entry=at(149)))
        one.move(150, 149)
        one.until(lambda: one.session.broker.stream.hears, "it has told of the order")
        one.quiet()
        assert one.exchange.do(lambda: one.ledger.listed(open=True)), "it works all the time"
        monkeypatch.setattr(streams, "SHORTEST_S", 600.0)
        one.exchange.do(one.server.cut)
        looked = len(one.server.asked)
        one.until(lambda: len(one.server.asked) > looked + 10, "it is looked at as if there were no stream")


def test_only_ids_of_ours_wake() -> None:
    stream = PrivateStream(Venue("binance", lambda: None))
    woken: list[str] = []
    stream._names, stream._wake = lambda: {"so1": "so1", "700": "so1", "so2": "so2"}, woken.append
    for text in ("", "{}", '{"i": 701}', "so3"):
        stream._text(text)
    assert (woken, stream._proven) == ([], False)
    stream._text('{"c": "so2"')
    stream._text('{"i":700,"c":"other"}')
    assert (woken, stream._proven) == (["so2", "so1"], True)
    stream._greetings, stream._met = 2, time.monotonic()
    stream._text("hello")
    assert woken[2:] == ["so1", "so2"], "whatever was missed"
    stream._met -= streams.GREETING_S
    stream._text("pong")
    assert woken[4:] == [], "what comes later is no greeting"


# ---------------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("venue", FACTS)
@pytest.mark.parametrize("skew_ms", [200_000])
def test_a_clock_that_goes_wrong_is_set_right(
    venue: str, skew_ms: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(venues, "AGAIN_S", 0.0)
    made = Desk(venue, tmp_path)
    with made.exchange:
        made.start()
        try:
            made.server.skew_ms = skew_ms
            oid = made.session.place(buy(2))
            made.move(150)
            made.until(lambda: float(made.session.order(oid)["held"]) > 1.9, "bought all the same")
            assert abs(made.session.broker.venue.skew_ms + skew_ms) < 3000, "as far as it was off"
            made.session.close_at_market(oid)
            made.is_(oid, "CLOSED")
            made.true()
        finally:
            made.session.close()
