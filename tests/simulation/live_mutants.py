"""Live brokers, and ways to use an exchange, that are broken on purpose; each is a mistake that costs money somewhere."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from smartorders_lab.book import Book
from smartorders_lab.brokers.guard import Guard
from smartorders_lab.brokers.live import LiveBroker
from smartorders_lab.brokers.venues import Failed, Fate, Truth, Wanted
from smartorders_lab.messages import Cancel, Report, Submit, What

from .venue import LiveExchange, Order, SimVenue, Trade

Patch = tuple[object, str, Any]


def rewritten(where: type, name: str, was: str, now: str) -> Patch:
    """A method with some of its text replaced."""
    method = getattr(where, name)
    text = textwrap.dedent(inspect.getsource(method))
    assert was in text, f"{where.__name__}.{name} has no {was!r} any more"
    found: dict[str, Any] = {}
    exec(text.replace(was, now), vars(sys.modules[method.__module__]), found)
    return where, name, found[name]


def same_id_again() -> list[Patch]:
    """A request of unknown outcome is repeated under its id where the exchange forgets it."""

    def init(self: SimVenue, exchange: LiveExchange) -> None:
        whole(self, exchange)
        self.facts = replace(self.facts, repeat=True)

    whole = SimVenue.__init__
    return [(SimVenue, "__init__", init)]


def new_id_at_once() -> list[Patch]:
    """What is not found counts as absent, also while it may still be on its way: it is sent again under a new id."""

    def init(self: LiveBroker, *given: Any, **more: Any) -> None:
        whole(self, *given, **more)
        self.request_expiry_ns = self.visibility_lag_ns = 0

    whole = LiveBroker.__init__
    return [(LiveBroker, "__init__", init)]


def _taken_for(fate: Fate) -> Patch:
    async def create(self: SimVenue, wanted: Wanted) -> str:
        try:
            return await whole(self, wanted)
        except Failed as failed:
            raise Failed(fate if failed.fate is Fate.UNSURE else failed.fate, failed.reason, failed.poor) from None

    whole = SimVenue.create
    return SimVenue, "create", create


def unsure_is_refused() -> list[Patch]:
    """An error of unknown outcome is taken for a refusal."""
    return [_taken_for(Fate.REFUSED)]


def unsure_is_not_sent() -> list[Patch]:
    """An error of unknown outcome is taken for a request that never went out."""
    return [_taken_for(Fate.NOT_SENT)]


def unsure_is_there() -> list[Patch]:
    """An error of unknown outcome is taken for an order that is there."""

    async def create(self: SimVenue, wanted: Wanted) -> str:
        try:
            return await whole(self, wanted)
        except Failed as failed:
            if failed.fate is Fate.UNSURE:
                return f"x{wanted.client_id}"
            raise

    whole = SimVenue.create
    return [(SimVenue, "create", create)]


def fills_told_again() -> list[Patch]:
    """Each look tells all fills."""

    def told(self: LiveBroker, child: Any, truth: Truth) -> None:
        child.fills.clear()
        whole(self, child, truth)

    whole = LiveBroker._told
    return [(LiveBroker, "_told", told)]


def restart_forgets_fills() -> list[Patch]:
    """After a restart the broker does not know which fills have been told."""

    def know(self: LiveBroker, submit: Submit, id: str, fills: Mapping[str, int]) -> None:
        whole(self, submit, id, {})

    whole = LiveBroker.know
    return [(LiveBroker, "know", know)]


def restart_forgets_orders() -> list[Patch]:
    """After a restart nobody follows the orders of the process before."""
    return [(LiveBroker, "know", lambda self, *_: None)]


def two_workers() -> list[Patch]:
    """What a start has sent itself gets a second worker."""

    def know(self: LiveBroker, submit: Submit, id: str, fills: Mapping[str, int]) -> None:
        self._children.pop(submit.client_id, None)
        whole(self, submit, id, fills)

    whole = LiveBroker.know
    return [(LiveBroker, "know", know)]


def over_before_trades() -> list[Patch]:
    """A status is believed although the trades do not add up to it yet."""

    def truth(self: SimVenue, order: Order, status: str, units: int, trades: list[Trade]) -> Truth:
        told = sum((trade.fill.amount for trade in trades), Decimal(0))
        return Truth(order.id, status == "open", told, tuple(trade.fill for trade in trades))

    return [(SimVenue, "truth", truth)]


def fill_is_the_end() -> list[Patch]:
    """An order of which something was filled is taken for one that was filled."""

    def truth(self: SimVenue, order: Order, status: str, units: int, trades: list[Trade]) -> Truth:
        found = whole(self, order, status, units, trades)
        return found._replace(open=found.open and not found.fills)

    whole = SimVenue.truth
    return [(SimVenue, "truth", truth)]


def cancel_is_proof() -> list[Patch]:
    """Who has taken an order back does not look what came of it."""

    async def cancel(self: SimVenue, symbol: str, client_id: str, id: str) -> None:
        await whole(self, symbol, client_id, id)
        self.__dict__.setdefault("believed", set()).add(client_id)

    async def find(self: SimVenue, symbol: str, client_id: str, id: str, since_ms: int) -> Truth | None:
        truth = await found(self, symbol, client_id, id, since_ms)
        if truth is not None and client_id in self.__dict__.get("believed", ()):
            return truth._replace(open=False)
        return truth

    whole, found = SimVenue.cancel, SimVenue.find
    return [(SimVenue, "cancel", cancel), (SimVenue, "find", find)]


def cancel_is_not_sent() -> list[Patch]:
    """Orders are not taken back."""

    def cancel(self: LiveBroker, cancel: Cancel) -> list[Report]:
        return []

    return [(LiveBroker, "cancel", cancel)]


def cancelled_once() -> list[Patch]:
    """A cancel that came to nothing is not sent again, whoever asks for it."""
    return [rewritten(LiveBroker, "_follow", "self.clock() >= child.cancel_ns", "not child.cancel_ns")]


def forgotten_is_absent() -> list[Patch]:
    """An order that the exchange has forgotten is told as if it had never been."""

    def tell(self: LiveBroker, child: Any, reports: list[Report], over: bool = False) -> None:
        if any("forgotten" in report.reason for report in reports):
            reports, over = [Report(child.submit.client_id, What.ABSENT)], False
        whole(self, child, reports, over)

    whole = LiveBroker._tell
    return [(LiveBroker, "_tell", tell)]


def late_answers() -> list[Patch]:
    """A look counts from when its answer comes."""
    return [rewritten(LiveBroker, "_follow", "looked >=", "self.clock() >=")]


def one_look() -> list[Patch]:
    """One look that finds nothing is enough."""
    return [rewritten(LiveBroker, "_follow", "child.missed_ns + self.visibility_lag_ns", "child.missed_ns")]


def first_sending_counts() -> list[Patch]:
    """The proof of absence is timed from the first sending of a request that was repeated, not from its last."""
    return [rewritten(LiveBroker, "_repeat", "child.sent_ns = self.clock()", "pass")]


def repeats_the_unwanted() -> list[Patch]:
    """What was taken back is sent again all the same."""
    return [rewritten(LiveBroker, "_repeat", "child.recalled or ", "")]


def switch_ignored() -> list[Patch]:
    """The switch is off, and orders go out."""
    return [(Guard, "halted", property(lambda self: ""))]


def counts_for_ever() -> list[Patch]:
    """What is over goes on counting against the limits."""
    return [(Guard, "over", lambda self, submit: None)]


def limits_forgotten() -> list[Patch]:
    """At a start limits do not count what is under way."""
    return [(Guard, "goes_on", lambda self, *_: None)]


def fees_not_told() -> list[Patch]:
    """Fees are left out."""

    def filled(self: LiveBroker, submit: Submit, fill: Any) -> Report:
        return whole(self, submit, fill._replace(fees=()))

    whole = LiveBroker._filled
    return [(LiveBroker, "_filled", filled)]


def starts_too_early() -> list[Patch]:
    """A start does not look up what became of the orders."""
    return [(Book, "refresh", lambda self, number=None: 0)]


LIVE_MUTANTS: dict[str, Callable[[], list[Patch]]] = {
    make.__name__: make
    for make in (
        same_id_again,
        new_id_at_once,
        unsure_is_refused,
        unsure_is_not_sent,
        unsure_is_there,
        fills_told_again,
        restart_forgets_fills,
        restart_forgets_orders,
        two_workers,
        over_before_trades,
        fill_is_the_end,
        cancel_is_proof,
        cancel_is_not_sent,
        cancelled_once,
        forgotten_is_absent,
        late_answers,
        one_look,
        first_sending_counts,
        repeats_the_unwanted,
        switch_ignored,
        counts_for_ever,
        limits_forgotten,
        fees_not_told,
        starts_too_early,
    )
}
