"""The exchange of the simulation: the ledger of PaperBroker, behind a wire on which requests and answers get lost, late and doubled.

Two styles. `paper`: the session says where the market is, and asks for every fill, as with PaperBroker itself. `live`: the market moves by
itself, and what happens is reported later, as a real exchange does.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from smartorders_lab.brokers.paper import PaperBroker
from smartorders_lab.fills import FillModel
from smartorders_lab.instrument import Instrument
from smartorders_lab.messages import Cancel, Report, Submit, What

if TYPE_CHECKING:
    from .world import World

MS = 1_000_000


class Broken(Exception):
    """The connection broke while a request was out."""


class Ledger(PaperBroker):
    """What the exchange itself knows. `seen` is called with every change."""

    def __init__(self, fills: FillModel, balances: dict[str, str] | None, seen: Callable[[Sequence[Any]], None]):
        self.seen: Callable[[Sequence[Any]], None] | None = seen
        super().__init__(None, fills, balances)

    def _commit(self, *changes: Any) -> None:
        super()._commit(*changes)
        if self.seen is not None:
            for change in changes:
                self.seen(change)


class Exchange:
    """What a book talks to. Faults come from the world's random numbers, as long as it has faults."""

    def __init__(self, world: World):
        self.world, plan = world, world.plan
        self.request_expiry_ns, self.visibility_lag_ns = plan.expiry, plan.lag
        self.live = plan.live
        self.tells_all = False
        self.ledger = Ledger(plan.fills, plan.balances, world.checks.changed)
        self.wire: list[tuple[int, int, Submit | Cancel]] = []
        """Requests that are on their way: when they arrive, a count, what they are."""
        self.reports: list[tuple[int, int, list[Report]]] = []
        """What will be reported by itself: when, a count, what."""
        self.visible: dict[str, int] = {}
        self.sent: dict[str, int] = {}
        self.unanswered: set[str] = set()
        """Children that were looked up in vain."""
        self._count = 0

    # ------------------------------------------------------------------------------------------------ what a book asks

    def list(self, instrument: Instrument) -> None:
        self.ledger.list(instrument)

    def tick(self, symbol: str, number: int, ts: int, price: int, buy: int, sell: int, size: float | None) -> None:
        if not self.live:
            self.ledger.tick(symbol, number, ts, price, buy, sell, size)

    def due(
        self, symbol: str, ts: np.ndarray, price: np.ndarray, buy: np.ndarray, sell: np.ndarray, size: np.ndarray | None
    ) -> tuple[int, Sequence[tuple[str, int, int, bool]]]:
        return (len(ts), []) if self.live else self.ledger.due(symbol, ts, price, buy, sell, size)

    def know(self, *_: object) -> None:
        self.ledger.know(*_)  # type: ignore[arg-type]

    def together(self) -> AbstractContextManager[None]:
        return self.ledger.together()

    def submit(self, submit: Submit) -> list[Report]:
        world = self.world
        world.point("submit before")
        world.checks.sending(submit)
        self.sent[submit.client_id] = world.now
        fault = world.fault(
            "submit",
            lost=3,
            delayed=3 if self.request_expiry_ns else 0,
            unheard=4,
            twice=3,
            partial=3,
            refused=2,
            poor=1,
        )
        reports: list[Report] = []
        if fault == "delayed":
            self._send(submit)
        elif fault in ("refused", "poor"):
            why = "market closed" if fault == "refused" else "insufficient funds: needs 2 B, free 1 B"
            self.ledger._commit(("rejected", [*submit], why))
            reports = self.ledger.query(submit.client_id)
        elif fault != "lost":
            reports = self._arrived(submit, fault == "partial")
        world.point("submit after")
        if fault == "unheard" and self.live:
            self._report_later([report for report in reports if world.rng.random() < 0.5])
        if fault in ("lost", "delayed", "unheard"):
            return self._unknown(submit.client_id)
        if fault == "twice":
            world.count("fault: ack twice")
            return reports + reports
        if self.live and fault == "" and world.chance(0.5):
            later = [report for report in reports if report.what in (What.FILLED, What.CANCELLED)]
            self._report_later(later)
            return [report for report in reports if report not in later]
        return reports

    def match(self, client_id: str) -> list[Report]:
        if self.live:
            return []
        self.world.point("match before")
        reports = self.ledger.match(client_id)
        self.world.point("match after")
        return reports + reports if self.world.fault("match", twice=1) else reports

    def cancel(self, cancel: Cancel) -> list[Report]:
        world = self.world
        world.point("cancel before")
        world.checks.cancelling(cancel)
        fault = world.fault("cancel", lost=3, delayed=3 if self.request_expiry_ns else 0, unheard=3, twice=1)
        reports: list[Report] = []
        if fault == "delayed":
            self._send(cancel)
        elif fault != "lost":
            reports = self._recalled(cancel)
        world.point("cancel after")
        if fault in ("lost", "delayed", "unheard"):
            return self._unknown(cancel.client_id)
        return reports + reports if fault == "twice" else reports

    def query(self, client_id: str) -> list[Report]:
        world = self.world
        world.point("query before")
        fault = world.fault("query", fails=2)
        world.point("query after")
        self.unanswered.add(client_id)
        if fault == "fails":
            return self._unknown(client_id)
        if world.now < self.visible.get(client_id, 0):
            world.count("fault: query blind")
            return [Report(client_id, What.ABSENT)]
        self.unanswered.discard(client_id)
        return self.ledger.query(client_id)

    def _unknown(self, client_id: str) -> list[Report]:
        if self.world.plan.raises and self.world.rng.random() < 0.5:
            self.world.count("fault: broker raises")
            raise Broken("the connection broke")
        return [Report(client_id, What.UNKNOWN)]

    # ------------------------------------------------------------------------------------------------ what happens there

    def _send(self, request: Submit | Cancel) -> None:
        """Put a request on the wire; it may arrive after it has expired."""
        self._count += 1
        delay = self.world.rng.randint(50, 6000) * MS
        heapq.heappush(self.wire, (self.world.now + delay, self._count, request))

    def arrive(self) -> None:
        """The next request on the wire arrives. The exchange refuses what comes too late."""
        _, _, request = heapq.heappop(self.wire)
        if isinstance(request, Cancel):
            self._report_later(self._recalled(request))
        elif self.world.now > self.sent[request.client_id] + self.request_expiry_ns:
            self.world.count("fault: arrived too late")
        else:
            self.world.count("fault: arrived late")
            reports = self._arrived(request._replace(instant=False, sent=max(request.sent, self.world.now)), False)
            if self.live:
                self._report_later(reports)

    def _arrived(self, submit: Submit, partial: bool) -> list[Report]:
        world, ledger = self.world, self.ledger
        if self.live:
            submit = submit._replace(instant=True, sent=world.now)
        if self.visibility_lag_ns:
            self.visible[submit.client_id] = world.now + (
                world.rng.randint(0, self.visibility_lag_ns) if world.chance(0.5) else 0
            )
        market = ledger._markets[submit.symbol]
        before = market.tick
        if partial and before is not None:
            market.tick = before._replace(volume=submit.quantity // 2)
        reports = ledger.submit(submit)
        if partial:
            market.tick = before
            self._end(submit.client_id, "partial")
            reports = ledger.query(submit.client_id)
        return reports

    def _recalled(self, cancel: Cancel) -> list[Report]:
        return self.ledger.cancel(cancel._replace(sent=self.world.now) if self.live else cancel)

    def _end(self, client_id: str, why: str) -> bool:
        """The exchange cancels a child of its own accord."""
        child = self.ledger._children[client_id]
        if not child.working:
            return False
        number = self.ledger._markets[child.submit.symbol].number
        self.ledger._commit(("over", client_id, number, self.world.now, why))
        return True

    def cancel_something(self) -> None:
        """A child is cancelled that nobody asked to be."""
        working = [submit.client_id for submit in self.ledger.open_orders()]
        if working:
            client_id = self.world.rng.choice(working)
            self._end(client_id, "by the venue")
            self.world.count("fault: cancelled by the venue")
            self._report_later(self.ledger.query(client_id)[1:])

    def working(self, symbol: str = "", order: int = -1) -> list[str]:
        """The children that work, all or those of one smart order."""
        if not symbol:
            return [submit.client_id for submit in self.ledger.open_orders()]
        return [child.submit.client_id for child in self.ledger._of_order.get((symbol, order), []) if child.working]

    def market(self, symbol: str, number: int, ts: int, price: int, size: float) -> None:
        """In the live style: a trade, and what it does to the children there."""
        if not self.live or symbol not in self.ledger._markets:
            return
        ledger = self.ledger
        ledger.tick(symbol, number, ts, price, price, price, size)
        if not ledger._working.get(symbol):
            return
        prices = np.array([price])
        _, children = ledger.due(symbol, np.array([ts]), prices, prices, prices, np.array([size]))
        for child in children:
            self._report_later(ledger.match(child[0]))

    def _report_later(self, reports: list[Report]) -> None:
        """Each report takes its own time, some come twice. That a child is over is told after its fills: so adapters have to."""
        rng = self.world.rng
        for report in reports:
            for _ in range(2 if self.world.fault("report", twice=2) else 1):
                self._count += 1
                at = self.world.now + rng.randint(0, 800) * MS
                told = [report]
                if report.what is What.CANCELLED:
                    told = self.ledger.query(report.client_id)[1:]
                heapq.heappush(self.reports, (at, self._count, told))

    def heard(self) -> list[Report]:
        """The reports whose time has come."""
        due: list[Report] = []
        while self.reports and self.reports[0][0] <= self.world.now:
            due += heapq.heappop(self.reports)[2]
        return due
