"""Books that are broken on purpose. The simulation is only as good as what it catches: each of these it has to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from smartorders_lab import book as book_module
from smartorders_lab import execution
from smartorders_lab.book import Book, _Past
from smartorders_lab.desk import Desk
from smartorders_lab.execution import Job, State
from smartorders_lab.messages import Block, Report, What
from smartorders_lab.outliers import Guard
from smartorders_lab.rows import SCALE, Answer, Ask, Status

Patch = tuple[object, str, Any]


def blind_retry() -> list[Patch]:
    """A request of unknown outcome is sent again without being looked up."""

    def look_up(self: Book, job: Job) -> None:
        if job.state is not State.UNKNOWN:
            return look(self, job)
        market = self.markets[job.submit.symbol]
        self._again(job, self._stamp(market), False)
        return self._hear(job, self._put(self.broker.submit, job.submit))

    look = Book.look_up
    return [(Book, "look_up", look_up)]


def record_after_ack() -> list[Patch]:
    """The intent is made durable together with the answer."""

    def request(self: Book, question: Any, job: Job, now: int) -> list[Report]:
        with patch.object(self, "_commit", lambda: None):
            return whole(self, question, job, now)

    whole = Book._request
    return [(Book, "_request", request)]


def new_client_id() -> list[Patch]:
    """Client ids are counted by the process."""
    count = iter(range(10**9))

    def client_id(session: str, order: int, child: int, attempt: int) -> str:
        return f"so{next(count):016d}"

    return [(book_module, "client_id", client_id), (execution, "client_id", client_id)]


def no_patience() -> list[Patch]:
    """What is not found counts as absent, also while it may still be on its way."""

    def hear(self: Job, reports: Any, now_ns: int, proof_ns: int) -> Any:
        return whole(self, reports, now_ns, 0)

    whole = Job.hear
    return [(Job, "hear", hear)]


def ticks_not_kept() -> list[Patch]:
    """An intent becomes durable before the ticks that led to it."""

    def note_ticks(self: Book, market: Any) -> None:
        if not self._entries or self._entries[-1][0] == "ticks":
            whole(self, market)

    def note(self: Book, kind: str, data: Any) -> None:
        held = [(market, market.pending) for market in self.markets.values()]
        for market, _ in held:
            market.pending = []
        noted(self, kind, data)
        for market, pending in held:
            market.pending = pending

    whole, noted = Book._note_ticks, Book._note
    return [(Book, "_note", note), (Book, "_note_ticks", note_ticks)]


def no_reservation() -> list[Patch]:
    """Every exit sells all that is held, whatever else is on its way out."""

    def new_job(self: Book, question: Any, symbol: str, trigger: str) -> Job:
        row = self.markets[symbol].desks[trigger].row(question.order)
        if question.role not in book_module._OPENS:
            question = question._replace(quantity=int(row.entered - row.exited) or question.quantity)
        return whole(self, question, symbol, trigger)

    whole = Book._new_job
    return [(Book, "_new_job", new_job)]


def no_guard() -> list[Patch]:
    """Every print is believed."""
    return [(Guard, "believe", lambda self, price: np.ones(len(price), bool))]


def guard_forgets() -> list[Patch]:
    """After a restart the guard believes the first print, whatever it is."""

    def resume(self: Book) -> None:
        whole(self)
        for market in self.markets.values():
            if market.guard is not None:
                market.guard.state = (0, 0, 0)

    whole = Book.resume
    return [(Book, "resume", resume)]


def fills_twice() -> list[Patch]:
    """A fill that is reported twice is taken twice."""

    def hear(self: Job, reports: Any, now_ns: int, proof_ns: int) -> Any:
        fresh = [
            report._replace(fill_id=f"{report.fill_id}/{len(self.fills)}") if report.what is What.FILLED else report
            for report in reports
        ]
        return whole(self, fresh, now_ns, proof_ns)

    whole = Job.hear
    return [(Job, "hear", hear)]


def no_catching_up() -> list[Patch]:
    """Ticks that were missed stay missed."""

    def feed(self: Book, block: Block) -> None:
        if not block.late:
            whole(self, block)

    whole = Book.feed
    return [(Book, "feed", feed)]


def late_as_new() -> list[Patch]:
    """Ticks that come late are traded on as if they were new: children meet prices of the past."""

    def new_job(self: Book, question: Any, symbol: str, trigger: str) -> Job:
        self.markets[symbol].late_until = 0
        return whole(self, question, symbol, trigger)

    whole = Book._new_job
    return [(Book, "_new_job", new_job)]


def stop_follows() -> list[Patch]:
    """The water mark follows the price down, and the trailing stop with it."""

    def pass_by(self: Desk, *upto: int) -> None:
        whole(self, *upto)
        self.catch_up()
        for slot, row in enumerate(self.rows[: self.count]):
            if row.armed and row.status < Status.CLOSED and not row.closing and row.entered > row.exited:
                row.mark = mark = int(row.side) * self.last_price
                row.trail_x = mark * (SCALE - int(row.side * row.trail_rate)) // SCALE
                self._watch(slot)

    whole = Desk.pass_by
    return [(Desk, "pass_by", pass_by)]


def no_reconciling() -> list[Patch]:
    """After a restart nobody asks what became of the children that were out."""
    return [(Book, "refresh", lambda self, number=None: 0)]


def late_before_reconciling() -> list[Patch]:
    """After a restart children are looked up only by and by, after the missed ticks."""

    def refresh(self: Book, number: int | None = None) -> int:
        for job in self.jobs.values():
            job.doubted, job.look_ns = True, self.clock()
        return 0

    return [(Book, "refresh", refresh)]


def hearsay() -> list[Patch]:
    """A child that was heard of after its answer was lost counts as known."""
    return [(Job, "answered", lambda self, reports: None)]


def sends_the_unwanted() -> list[Patch]:
    """A child that never arrived is sent again although it was taken back."""

    def look_up(self: Book, job: Job) -> None:
        recalled, job.recalled = job.recalled, False
        whole(self, job)
        job.recalled = recalled

    whole = Book.look_up
    return [(Book, "look_up", look_up)]


def cancel_hides_fills() -> list[Patch]:
    """A fill that comes with the answer to a cancel is not passed on."""

    def ask(self: Book, question: Any, symbol: str, trigger: str) -> Any:
        said = whole(self, question, symbol, trigger)
        lost = question.ask == Ask.CANCEL and said and said[0][0] == Answer.FILL
        return said[1:] if lost else said

    whole = Book._ask
    return [(Book, "_ask", ask)]


def stale_is_fine() -> list[Patch]:
    """Nobody looks at the version that an action was decided on."""

    def act(self: Book, number: int, kind: str, version: Any = None, force: bool = False, **details: Any) -> int:
        return whole(self, number, kind, None, force, **details)

    whole = Book.act
    return [(Book, "act", act)]


def keys_forgotten() -> list[Patch]:
    """An order that is placed again is another order."""

    def place(self: Book, order: Any, key: str = "") -> int:
        return whole(self, order)

    whole = Book.place
    return [(Book, "place", place)]


def answers_again() -> list[Patch]:
    """After a restart the last answer is forgotten."""

    def make(self: _Past, entries: Any, events: Any) -> None:
        whole(self, entries, events)
        if self.said and entries and entries[-1][1] == "said":
            self.said.pop()

    whole = _Past.__init__
    return [(_Past, "__init__", make)]


MUTANTS: dict[str, Callable[[], list[Patch]]] = {
    make.__name__: make
    for make in (
        blind_retry,
        record_after_ack,
        new_client_id,
        no_patience,
        ticks_not_kept,
        no_reservation,
        no_guard,
        guard_forgets,
        fills_twice,
        no_catching_up,
        stop_follows,
        no_reconciling,
        late_before_reconciling,
        late_as_new,
        hearsay,
        sends_the_unwanted,
        cancel_hides_fills,
        stale_is_fine,
        keys_forgotten,
        answers_again,
    )
}


@contextmanager
def broken(make: Callable[[], list[Patch]]) -> Iterator[None]:
    """Inside, books are broken like this."""
    patches = [patch.object(where, name, what) for where, name, what in make()]
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
