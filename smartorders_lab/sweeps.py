"""sweep(): one order in every combination of a grid, at many entries: a longer table of orders, replayed by the same engine.

    found = so.sweep(order, ticks, entries="every 15m", grid={"stop_loss": ["1%", "2%"], "trailing_stop": [None, "1%"]})
    found.combinations                          # one row for each: its values, and what its orders came to
    found.best()                                # the best of them, and how much of that is luck

The work is a list of independent parts, each all entries of some combinations. What a part comes to is the same wherever and
whenever it is evaluated, so parts run on threads, on other machines, and after an interruption only those that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from . import __version__
from .combinations import combine, grid_rows, labels, mirrored
from .entries import Entries, find_entries
from .errors import DataError, LimitError, Problem, SpecError, short
from .fills import FillModel
from .findings import Sweep
from .folders import Folder, is_database
from .instrument import Instrument
from .lower import suit
from .machine import cores, in_order
from .outcomes import Evaluator
from .replays import Progress
from .rows import OUTCOME, table
from .run import money, order_columns
from .spec import SmartOrder
from .tallies import Tallier, Tally, block_edges, joined
from .ticks import Ticks
from .times import duration_ns, duration_text

if TYPE_CHECKING:
    from .store import Store

PART_ORDERS = 1 << 18
"""Orders of a part, about: one combination has all its entries in one part."""
_CACHED = 1 << 14
"""Orders whose rows are added up at once, so that they stay in the cache."""
MAX_KEPT = 4_000_000
"""Most orders that are kept in memory, where no store is named."""


class Part(NamedTuple):
    """All entries of the combinations `first`..`last` of one market."""

    number: int
    market: int
    first: int
    last: int


class Result(NamedTuple):
    """What a part came to. `rows` of OUTCOME and `frame` of orders only where the job asks for them."""

    part: Part
    tally: Tally
    rows: np.recarray | None = None
    frame: pl.DataFrame | None = None


@dataclass(frozen=True)
class Market:
    """One symbol of a sweep: its ticks, its orders by combination (and their mirror images for entries the other way), its entries.

    `combination` and `order` are the numbers of its first ones in the whole sweep.
    """

    symbol: str
    ticks: Ticks
    instrument: Instrument
    orders: list[SmartOrder]
    mirrors: list[SmartOrder]
    entries: Entries
    combination: int
    order: int


@dataclass(frozen=True)
class Job:
    """All that the parts have in common; it can be pickled. `keeps`: `"rows"`, `"frame"`, `"file"` (in `folder`) or nothing."""

    markets: list[Market]
    fills: FillModel
    poll_ns: int
    edges: np.ndarray
    levels: int
    keeps: str
    folder: str = ""
    use_index: bool = True

    def parts(self, orders: int) -> list[Part]:
        """The parts, of about `orders` orders each."""
        found: list[Part] = []
        for n, market in enumerate(self.markets):
            step = max(1, orders // len(market.entries))
            for first in range(0, len(market.orders), step):
                found.append(Part(len(found), n, first, min(first + step, len(market.orders))))
        return found


def evaluate_part(part: Part, job: Job, workers: int | None = 1) -> Result:
    """Evaluate one part; a part that is kept in a folder is written there whole before this returns."""
    market = job.markets[part.market]

    def evaluated(orders: Sequence[SmartOrder], created: np.ndarray, cursors: np.ndarray) -> np.recarray:
        evaluator = Evaluator(orders, market.ticks, created, cursors, job.fills, job.use_index, job.poll_ns)
        return next(evaluator.blocks(len(orders) * len(created), workers)).rows

    return collect(part, job, lambda begin, end: outcome_rows(part, job, slice(begin, end), evaluated))


def collect(part: Part, job: Job, rows_of: Callable[[int, int], np.recarray]) -> Result:
    """What a part comes to: `rows_of(begin, end)` has its outcomes at some entries, combination by combination. Writes what is kept."""
    market = job.markets[part.market]
    entries, count = len(market.entries), part.last - part.first
    tallier = Tallier(count, market.entries.created, job.edges, job.levels)
    step = entries if count > 1 else min(entries, PART_ORDERS)
    kept: list[np.recarray] = []
    frames: list[pl.DataFrame] = []
    for begin in range(0, entries, step):
        end = min(begin + step, entries)
        rows = rows_of(begin, end)
        together = max(1, _CACHED // (end - begin))
        for a in range(0, count, together):
            b = min(a + together, count)
            some = rows[a * (end - begin) : b * (end - begin)].view(np.recarray)
            tallier.add(a, b, begin, end, some, money(some, market.instrument, job.fills))
        if job.keeps == "rows":
            kept.append(rows)
        elif job.keeps:
            frames.append(orders_frame(part, job, begin, end, rows))
    result = Result(part, tallier.tally)
    if job.keeps == "rows":
        return result._replace(rows=kept[0] if len(kept) == 1 else np.concatenate(kept).view(np.recarray))
    if job.folder:
        Folder(job.folder).write(part.number, result.tally, pl.concat(frames) if frames else None)
        return result
    return result._replace(frame=pl.concat(frames) if frames else None)


Evaluated = Callable[[Sequence[SmartOrder], np.ndarray, np.ndarray], np.recarray]
"""Rows of OUTCOME of orders created at some times (ns), from some ticks on."""


def outcome_rows(part: Part, job: Job, which: Any, evaluated: Evaluated) -> np.recarray:
    """Rows of OUTCOME of a part's combinations at the entries `which` (a slice, or numbers), combination by combination."""
    market, own = job.markets[part.market], slice(part.first, part.last)
    created, cursors = market.entries.created[which], market.entries.cursors[which]
    if market.entries.sides is None:
        return evaluated(market.orders[own], created, cursors)
    count, sides = part.last - part.first, market.entries.sides[which]
    rows = table(OUTCOME, count * len(created))
    for sign, orders in ((1, market.orders), (-1, market.mirrors)):
        chosen = np.flatnonzero(sides == sign)
        if len(chosen):
            found = evaluated(orders[own], created[chosen], cursors[chosen])
            rows.reshape(count, -1)[:, chosen] = found.reshape(count, -1)
    return rows


def orders_frame(part: Part, job: Job, begin: int, end: int, rows: np.recarray) -> pl.DataFrame:
    """Outcomes as the columns of `run.orders`, with the numbers of the order, its combination and its entry."""
    market, count = job.markets[part.market], part.last - part.first
    combination = np.repeat(np.arange(part.first, part.last), end - begin)
    entry = np.tile(np.arange(begin, end), count)
    short = np.array([order.side == "sell" for order in market.orders[part.first : part.last]])[
        combination - part.first
    ]
    if market.entries.sides is not None:
        short = market.entries.sides[entry] < 0
    return pl.DataFrame(
        {
            "order": market.order + combination * len(market.entries) + entry,
            "combination": market.combination + combination,
            "entry": entry,
            "symbol": pl.repeat(market.symbol, len(rows), eager=True),
            "side": pl.Series(["buy", "sell"]).gather(short.astype(np.uint32)),
            **order_columns(rows, market.instrument, job.fills),
            "hits": rows.hits,
        }
    )


# --- sweep -----------------------------------------------------------------------------------------------------------


def sweep(
    order: SmartOrder,
    ticks: Ticks | Mapping[str, Ticks],
    entries: Any = None,
    grid: Any = None,
    fills: FillModel | Mapping[str, Any] | None = None,
    workers: int | None = None,
    client: Any = None,
    store: Store | str | PathLike[str] | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    by: str | Sequence[str] | None = None,
    poll_interval: Any = None,
    skip_invalid: bool = False,
    restart: bool = False,
    name: str = "",
    use_index: bool = True,
) -> Sweep:
    """Replay an order in every combination of a grid, created at every entry; the result equals `replay()` of the same orders.

    Parameters
    ----------
    order : what the combinations have in common.
    ticks : a `Ticks`, or several by symbol; then the symbol is one more parameter of the grid.
    entries : tick numbers, times (ns, aware datetimes, ISO text), a mask or a signal with one value for each tick or bar (True, or 1
        and -1: then the side follows the signal), `(frame, "column")`, `"every 1h"`, or `random_entries(n, seed)`; or one of these for
        each symbol.
    grid : lists of values by field (`"stop_loss"`, `"trailing_stop.callback_rate"`, `"take_profits"` …), every combination of which
        is tried, or a list of combinations (dicts).
    fills : as in replay(); `poll_interval`, `progress`, `workers` and `use_index` too.
    client : a Client of dask.distributed, whose workers evaluate the parts: see cluster.py. Ticks that were read from files are read
        again where the worker is, under the same path; a folder as `store` must be one that all machines share.
    store : a folder for Parquet files, or a `Store` or the path of a DuckDB file. A sweep that was interrupted goes on there with
        the parts that are missing; it refuses if anything else changed, unless `restart`.
    by : what is kept: None: every order; `"combination"` or names of the grid: aggregates only. `Sweep.table` is a table by it.
    skip_invalid : leave out combinations that make no valid order, instead of refusing them all.
    name : free text that the sweep is stored under.

    Raises
    ------
    SpecError for an order or a grid, DataError for ticks or entries, LimitError beyond a named limit, StoreError for a store.
    """
    if not isinstance(order, SmartOrder):
        raise SpecError(Problem("order", short(order), "is not a SmartOrder", "build it with SmartOrder(...)"))
    if fills is not None and not isinstance(fills, (FillModel, Mapping)):
        raise SpecError(Problem("fills", fills, "is not a FillModel", 'write FillModel(fee_taker="0.1%")'))
    model = fills if isinstance(fills, FillModel) else FillModel(**(fills or {}))
    try:
        poll = duration_ns(poll_interval or 0)
    except ValueError as error:
        raise SpecError(Problem("poll_interval", poll_interval, str(error))) from None
    names, rows = grid_rows(grid)
    several = _several(ticks)
    markets, table_of, skipped, problems = _markets(order, several, entries, names, rows, skip_invalid)
    if len(several) > 1:
        names = ["symbol", *names]
    _check_by(by, names)
    total = sum(len(m.orders) * len(m.entries) for m in markets)
    if by is None and store is None and total > MAX_KEPT:
        raise LimitError(
            f'orders = {total:,}: more than MAX_KEPT = {MAX_KEPT:,} that are kept in memory; name a store (store="out/sweep/"), '
            'or keep aggregates only (by="combination")'
        )
    orders = [made for market in markets for made in market.orders]
    started = datetime.now(UTC)
    meta = {
        "name": name,
        "library": f"smartorders_lab {__version__}",
        "order": order.to_dict(),
        "grid": names,
        "combinations": len(orders),
        "orders": total,
        "skipped": skipped,
        "markets": {m.symbol: _told(m) for m in markets},
        "fills": model.to_dict(),
        "poll_interval": duration_text(poll) if poll else None,
        "kept": by is None,
        "by": by if by is None or isinstance(by, str) else list(by),
        "part_orders": PART_ORDERS,
        "started_at": started.isoformat(timespec="seconds"),
    }
    edges = block_edges([m.entries.created for m in markets], len(orders))
    levels = max(len(made.take_profits) for made in orders)
    sink = _sink(store, meta, orders, restart)
    job = Job(markets, model, poll, edges, levels, "rows" if by is None else "", use_index=use_index)
    if sink is not None:
        job = replace(job, folder=sink.folder, keeps="frame" if by is None else "")
    try:
        results = _run(sink, job, workers, client, progress, total)
        meta["seconds"] = round((datetime.now(UTC) - started).total_seconds(), 6)
        tallies = joined([results[n].tally for n in sorted(results)])
        if by is not None:
            source = None
        elif sink is not None:
            source = sink.orders
        else:
            source = _in_memory(job, results)
        found = Sweep(orders, table_of, tallies, edges, meta, source, problems)
        if sink is not None:
            sink.finish(found)
    finally:
        if sink is not None:
            sink.close()
    return found


def _run(
    sink: Any,
    job: Job,
    workers: int | None,
    client: Any,
    progress: bool | Callable[[int, int], None] | None,
    total: int,
) -> dict[int, Result]:
    """The results of all parts by number: those that the sink has already, and the others as they are evaluated."""
    parts = job.parts(PART_ORDERS)
    results = {n: Result(parts[n], tally) for n, tally in (sink.done() if sink is not None else {}).items()}
    todo = [part for part in parts if part.number not in results]
    sizes = [(part.last - part.first) * len(job.markets[part.market].entries) for part in parts]
    bar = Progress(progress, total)
    finished = sum(sizes[n] for n in results)
    if finished:
        bar.at(finished)
    try:
        with closing(_evaluated(todo, job, workers, client)) as evaluated:
            for result in evaluated:
                if sink is not None:
                    sink.put(result)
                results[result.part.number] = result._replace(frame=None)
                finished += sizes[result.part.number]
                bar.at(finished)
    finally:
        bar.close()
    return results


def _evaluated(parts: list[Part], job: Job, workers: int | None, client: Any) -> Generator[Result, None, None]:
    if client is not None:
        yield from import_module(".cluster", __package__).evaluate_parts(client, parts, job)
        return
    threads = workers or cores()
    if job.use_index:  # built once, by all cores, before several parts ask for it
        for market in {part.market: job.markets[part.market] for part in parts}.values():
            for key in {(made.trigger, made.direction) for made in [*market.orders, *market.mirrors]}:
                market.ticks.index(*key, workers)
    # many parts run beside one another, a few are each spread over the cores
    beside = threads if len(parts) >= 2 * threads else 1
    yield from in_order(lambda part: evaluate_part(part, job, max(threads // beside, 1)), parts, beside)


def _in_memory(job: Job, results: dict[int, Result]) -> Callable[[], pl.LazyFrame]:
    def frames() -> pl.LazyFrame:
        made = [
            orders_frame(result.part, job, 0, len(job.markets[result.part.market].entries), result.rows)
            for _, result in sorted(results.items())
            if result.rows is not None
        ]
        return pl.concat(made).lazy()

    return frames


def _several(ticks: Any) -> dict[str, Ticks]:
    several = {getattr(ticks, "symbol", ""): ticks} if not isinstance(ticks, Mapping) else dict(ticks)
    for symbol, one in several.items():
        if not isinstance(one, Ticks):
            where = f"ticks[{symbol!r}]" if isinstance(ticks, Mapping) else "ticks"
            raise DataError(
                f"{where} = {short(one)}: is not Ticks; read them with Ticks.read(...) or Ticks.from_arrays(...)"
            )
    if not several:
        raise DataError("ticks: is empty; give a Ticks, or several by symbol")
    return several


def _markets(
    order: SmartOrder,
    several: dict[str, Ticks],
    entries: Any,
    names: list[str],
    rows: list[dict[str, Any]],
    skip_invalid: bool,
) -> tuple[list[Market], pl.DataFrame, int, list[Problem]]:
    """Each symbol with its combinations and entries; the grid as a frame; how many combinations were left out, and why."""
    markets: list[Market] = []
    tables: list[pl.DataFrame] = []
    problems: list[Problem] = []
    combination = number = skipped = 0
    shared = labels(rows, names)
    for symbol, ticks in several.items():
        own = symbol if len(several) > 1 or (symbol and symbol != ticks.symbol) else ""
        made = combine(order, rows, ticks.instrument, own, skip_invalid)
        asked = entries
        if isinstance(entries, Mapping):
            if symbol not in entries:
                raise DataError(f"entries: has none for {symbol!r}; it has {', '.join(map(repr, entries))}")
            asked = entries[symbol]
        where = find_entries(asked, ticks)
        mirrors: list[SmartOrder] = []
        if where.sides is not None:
            made, mirrors = _both_ways(made, names)
        low, high = ticks.price_range()
        instrument = suit(ticks.instrument, made.orders + mirrors, (), low, high)
        shown = made.orders[0].symbol
        # a part has some of the combinations, and all parts one quantity increment
        pinned = replace(ticks, instrument=instrument.model_copy(update={"derived": False}))
        pinned._views, pinned._indexes, pinned._origin = ticks._views, ticks._indexes, ticks._origin
        pinned._range, pinned._hash = (low, high), ticks.data_hash
        markets.append(Market(shown, pinned, instrument, made.orders, mirrors, where, combination, number))
        kept = shared if not made.skipped else labels(made.rows, names)
        if len(several) > 1:
            kept = kept.select(pl.repeat(shown, len(made.orders)).alias("symbol"), *kept.columns)
        tables.append(kept)
        combination += len(made.orders)
        number += len(made.orders) * len(where)
        skipped += made.skipped
        problems += made.problems
    return markets, pl.concat(tables, how="vertical_relaxed"), skipped, problems


def _both_ways(made: Any, names: list[str]) -> tuple[Any, list[SmartOrder]]:
    """The combinations as longs, and as shorts, for a signal that says which."""
    if "side" in names:
        raise SpecError(
            Problem("grid.side", None, "follows the signal, which holds 1 and -1", "leave it out, or give a mask")
        )
    pairs = [(order, mirrored(order)) for order in made.orders]
    pairs = [(a, b) if a.side == "buy" else (b, a) for a, b in pairs]
    return made._replace(orders=[a for a, _ in pairs]), [b for _, b in pairs]


def _check_by(by: Any, names: list[str]) -> None:
    if by is None or by == "combination":
        return
    wrong = (
        [by]
        if isinstance(by, str) and by not in names
        else [n for n in ([by] if isinstance(by, str) else by) if n not in names]
    )
    if wrong:
        fix = f'use "combination" or some of {", ".join(names)}' if names else 'use "combination"'
        raise SpecError(Problem("by", wrong[0], "is not in the grid", fix))


def _told(market: Market) -> dict[str, Any]:
    """What a sweep says of one of its markets."""
    ticks, entries = market.ticks, market.entries
    return {
        "source": ticks.source,
        "data_hash": ticks.data_hash,
        "ticks": len(ticks),
        "bars": None if ticks.bars is None else len(ticks.bars),
        "path": None if ticks.bars is None else ticks.path,
        "first_ts": int(ticks.ts[0]),
        "last_ts": int(ticks.ts[-1]),
        "instrument": market.instrument.model_dump(mode="json"),
        "entries": len(entries),
        "entries_from": entries.text,
        "entries_hash": entries.hash,
    }


def _sink(store: Any, meta: dict[str, Any], orders: list[SmartOrder], restart: bool) -> Any:
    """Where the parts go, opened and compared with what is there; None: nowhere."""
    if store is None:
        return None
    from .jit import engine_digest

    digest = blake2b(digest_size=8)
    for order in orders:
        digest.update(order.to_json().encode())
    meta |= {"specs_hash": digest.hexdigest(), "engine": engine_digest()}
    if isinstance(store, (str, PathLike)) and not is_database(store):
        return Folder(store).begin(meta, restart)
    from .store import Store, StoredSweep

    return StoredSweep.begin(
        store if isinstance(store, Store) else Store(store), meta, restart, close=not isinstance(store, Store)
    )
