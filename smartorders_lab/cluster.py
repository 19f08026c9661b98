"""A sweep on the workers of a Dask cluster: the same parts, cut by time as well, and the same rows.

    with Client("tcp://scheduler:8786") as client:
        found = so.sweep(order, ticks, entries, grid, client=client, store="/shared/out/sweep/")

A part (some combinations of one symbol) is cut by time into partitions of the tape. A task evaluates the entries of one partition on the
ticks of that partition alone; orders that are still alive at its end are carried on over the next ones, in the state they are in,
until they are finished or the tape is. A last task for each part joins the rows, adds them up and writes the part where it is.

Ticks that were read from files are read again where the worker is, and only the rows of a partition where the file is Parquet; they must be
those that the client has. Ticks in memory are sent to every worker once. Tasks depend on nothing but what they are given, so one
whose worker is lost is done again elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from . import __version__
from .errors import DataError, StoreError, short
from .machine import Machine, chunk
from .outcomes import Evaluator, read_outcomes
from .rows import OUTCOME, Status, table
from .spec import SmartOrder
from .sweeps import Job, Part, Result, collect, outcome_rows
from .tapes import Tape
from .ticks import Ticks

TASK_ORDERS = 1 << 16
"""Most orders of one task, about, so that a few parts keep many workers busy."""
CARRIED = 1 << 15
"""Orders that are carried over the following partitions together."""
LOSSES = 5
"""How often what was sent to the workers is sent again because all that held it are gone."""
WAIT_S = 60
"""Seconds that a sweep waits for the first worker."""


@dataclass(frozen=True)
class Work:
    """What every task is given: the job without its ticks, all parts by number, and the tape of each market."""

    job: Job
    parts: dict[int, Part]
    tapes: list[Tape]
    version: str

    def entries(self, part: Part, k: int) -> np.ndarray:
        """The numbers of the entries in partition `k`."""
        cursors, cuts = self.job.markets[part.market].entries.cursors, self.tapes[part.market].cuts
        return np.flatnonzero((cursors >= cuts[k]) & (cursors < cuts[k + 1]))


def evaluate_parts(client: Any, parts: Sequence[Part], job: Job) -> Iterator[Result]:
    """The result of each part, as the workers of a `distributed.Client` finish them. Raises DataError for another client, and whatever
    a task raises; when it is closed before the end, what is left is cancelled."""
    distributed = _distributed(client)
    tapes = [Tape.of(market.ticks, job.poll_ns) for market in job.markets]
    sent = [None if market.ticks._origin else replace(market.ticks) for market in job.markets]
    light: Any = [replace(market, ticks=None) for market in job.markets]  # type: ignore[arg-type]
    folder = str(Path(job.folder).absolute()) if job.folder else ""
    todo = {part.number: part for part in parts}
    work = Work(replace(job, markets=light, folder=folder), dict(todo), tapes, __version__)
    lost: Exception | None = None
    for _ in range(LOSSES):
        _await_workers(client)
        try:
            shared = _spread(client, work)
            spread = [None if ticks is None else _spread(client, ticks) for ticks in sent]
        except (OSError, ValueError, KeyError) as error:  # what distributed says when workers die in the middle of it
            lost = error
            continue
        futures = _submitted(client, work, todo, shared, spread)
        try:
            for future in distributed.as_completed(futures):
                if future.status != "cancelled":
                    result = future.result()
                    future.release()
                    del todo[result.part.number]
                    yield result
        finally:
            client.cancel(futures)
        if not todo:
            return
    raise DataError(
        f"client = {client!r}: its workers were lost {LOSSES} times with all that was sent to them; give them more memory, or start more"
    ) from lost


def _await_workers(client: Any) -> None:
    try:
        client.wait_for_workers(1, timeout=WAIT_S)
    except TimeoutError:
        raise DataError(
            f"client = {short(client)}: has no workers after {WAIT_S} s; start some: dask worker ADDRESS"
        ) from None


def _spread(client: Any, data: Any) -> Any:
    """The future of data that is on every worker, and lost only with all of them."""
    return client.scatter(data, broadcast=True, hash=False)


def _submitted(client: Any, work: Work, todo: dict[int, Part], shared: Any, tapes: list[Any]) -> list[Any]:
    """The future of each part."""
    name = uuid4().hex[:8]
    futures = []
    for number, part in todo.items():
        pieces = []
        for k in range(len(work.tapes[part.market].digests)):
            count = len(work.entries(part, k))
            step = max(1, TASK_ORDERS // (part.last - part.first))
            for a in range(0, count, step):
                key = (f"sweep-orders-{name}", number, k, a)
                given = (shared, number, k, a, a + step, tapes[part.market])
                pieces.append(client.submit(_evaluate, *given, key=key, pure=False, priority=-number))
        last = (f"sweep-part-{name}", number)
        futures.append(client.submit(_finish, shared, number, pieces, key=last, pure=False, priority=-number))
    return futures


def _distributed(client: Any) -> Any:
    """The package, if the client is one of its clients and has workers."""
    try:
        import distributed
    except ImportError:
        raise DataError(
            f"client = {short(client)}: needs the package distributed; pip install 'smartorders_lab[dask]'"
        ) from None
    if not isinstance(client, distributed.Client) or client.asynchronous:
        raise DataError(
            f"client = {short(client)}: is not a synchronous Client of dask.distributed; write client=Client() for this machine, or "
            'Client("tcp://scheduler:8786")'
        )
    if client.status != "running":
        raise DataError(f"client = {short(client)}: is {client.status}; connect a new one")
    return distributed


# --- on the worker ---------------------------------------------------------------------------------------------------


def _evaluate(
    work: Work, number: int, k: int, begin: int, end: int, sent: Ticks | None
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers `begin`..`end` of the entries of a part in partition `k`, and their outcomes, carried on to their ends."""
    if work.version != __version__:
        raise DataError(
            f"smartorders_lab {__version__} on the worker, {work.version} on the client: must be the same; install one version on both"
        )
    part = work.parts[number]
    which = work.entries(part, k)[begin:end]
    return which, outcome_rows(part, work.job, which, partial(_carried, work.job, work.tapes[part.market], k, sent))


def _carried(
    job: Job,
    tape: Tape,
    k: int,
    sent: Ticks | None,
    orders: Sequence[SmartOrder],
    created: np.ndarray,
    cursors: np.ndarray,
) -> np.recarray:
    """Outcomes of orders that begin in partition `k`: on its own ticks, and of those that live on, on the ticks that follow."""
    window, base = tape.window(k, sent), tape.begin(k)
    evaluator = Evaluator(orders, window, created, cursors - base, job.fills, job.use_index, job.poll_ns)
    rows = next(evaluator.blocks(len(orders) * len(created), 1)).rows
    last = len(tape.digests)
    if k + 1 == last:
        return rows
    grid = rows.reshape(len(orders), -1)
    alive = grid["status"] < Status.CLOSED
    combinations = np.flatnonzero(alive.any(axis=1))
    together = max(1, CARRIED // len(created))
    for first in range(0, len(combinations), together):
        books = []
        for c in combinations[first : first + together]:
            which = np.flatnonzero(alive[c])
            own = copy(evaluator)
            own.created, own.cursors = created[which], cursors[which]
            book = own._copies(c, 0, len(which))
            books.append((c, which, book, Machine(book, evaluator.model)))
        for j in range(k, last):
            going = [one for one in books if (one[2].orders.status < Status.CLOSED).any()]
            if not going:
                break
            window, chunks = tape.window(j, sent), dict[Any, Any]()
            for c, which, _, machine in going:
                key = (orders[c].trigger, orders[c].direction)
                if key not in chunks:
                    index = window.index(*key, 1) if job.use_index else None
                    chunks[key] = chunk(window.view(*key), evaluator.instrument, job.fills, index, tape.begin(j))
                machine.advance(chunks[key], 0, len(which), keep=False)
        for c, which, book, _ in books:
            found = table(OUTCOME, len(which))
            read_outcomes(book, found)
            grid[c, which] = found
    return rows


def _finish(work: Work, number: int, pieces: list[tuple[np.ndarray, np.ndarray]]) -> Result:
    """A part from its pieces, entries in their order; in a folder it is written before this returns."""
    part, job = work.parts[number], work.job
    if job.folder and not (Path(job.folder) / "manifest.json").exists():
        raise StoreError(
            f"{job.folder}: is not there on a worker; name a folder that all machines share, or a .duckdb file"
        )
    count, entries = part.last - part.first, len(job.markets[part.market].entries)
    rows = table(OUTCOME, count * entries)
    for which, found in pieces:
        rows.reshape(count, -1)[:, which] = found.reshape(count, -1)
    return collect(part, job, lambda begin, end: rows if count > 1 else rows[begin:end].view(np.recarray))
