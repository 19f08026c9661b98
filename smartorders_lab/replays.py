"""replay(): smart orders over historical ticks, through the same engine that trades them.

`poll_interval`, `fills`, the bar path, the outlier guard and everything else that shaped a run is recorded with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from pydantic import BaseModel

from .actions import Action
from .errors import ActionError, DataError, LimitError, Problem, SpecError, short
from .fills import FillModel
from .instrument import Instrument
from .lower import Table, absolute_prices, check, lower_fills, off_grid, suit
from .outliers import Guard
from .run import Run, frames
from .spec import SmartOrder
from .ticks import PATHS, Ticks
from .times import duration_ns, duration_text, instant_ns, instant_text

if TYPE_CHECKING:
    from .store import Store

MAX_ORDERS = 2_000_000
"""Most orders of one replay; a sweep takes more, in chunks."""
_YEAR_NS = 366 * 86400 * 10**9
"""An int that is no tick index and lies longer than this before the first tick is a mistake (another unit), not a time."""


def replay(
    orders: SmartOrder | Sequence[SmartOrder],
    ticks: Ticks,
    starts: Any = None,
    fills: FillModel | Mapping[str, Any] | None = None,
    actions: Iterable[Action] = (),
    poll_interval: Any = None,
    store: Store | str | PathLike[str] | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    outlier: Any = None,
    bounds: bool = False,
    name: str = "",
    use_index: bool = True,
    workers: int | None = None,
) -> Run:
    """Replay smart orders over ticks.

    Parameters
    ----------
    orders : one SmartOrder or many.
    ticks : a `Ticks`.
    starts : when each order is created: a tick index (int below `len(ticks)`), a time (ns, aware datetime, ISO text), one for all
        or one each; None: the first tick.
    fills : fees, slippage, latency; none of them by default.
    actions : `open_now()`, `edit()`, `add_funds()` … at given times; `order` is the index in `orders`.
    poll_interval : look only at the last price of each interval (`"500ms"`); None or 0: at every tick.
    store : a `Store` or the path of a DuckDB file; the run is stored whole or not at all.
    progress : True for a bar, or a callable (done, total); None: a bar in a terminal when it takes long.
    outlier : a distance (`"2%"`) beyond which a print is held back until later prints agree with it; None: believe everything.
    bounds : also replay bars along the opposite path and give the profit as an interval (`pnl_low`, `pnl_high`).
    name : free text that the run is stored under.
    use_index : False looks at every tick instead of asking the tick index which to look at; the result is the same to the byte.
    workers : threads; None: one per core.

    Returns
    -------
    Run, with the frames `orders`, `levels`, `events` and `fills`.

    Raises
    ------
    SpecError if an order does not fit the instrument, DataError for ticks or starts, ActionError for actions,
    LimitError beyond a named limit.
    """
    many = [orders] if isinstance(orders, SmartOrder) else _list("orders", orders, "a SmartOrder or a list of them")
    if not isinstance(ticks, Ticks):
        raise DataError(
            f"ticks = {short(ticks)}: is not Ticks; read them with Ticks.read(...) or Ticks.from_arrays(...)"
        )
    acts = _list("actions", actions, "a list: actions=[cancel(...)]")
    if isinstance(starts, Iterable) and not isinstance(starts, (str, np.ndarray, pl.Series)):
        starts = list(starts)
    if fills is not None and not isinstance(fills, (FillModel, Mapping)):
        raise SpecError(Problem("fills", fills, "is not a FillModel", 'write FillModel(fee_taker="0.1%")'))
    if not isinstance(fills, FillModel):
        fills = FillModel(**(fills or {}))
    if store is not None:
        from .store import Store

        if not isinstance(store, Store):  # opened first: a locked or broken file is found before the work is done
            with Store(store) as opened:
                return replay(
                    many,
                    ticks,
                    starts,
                    fills,
                    acts,
                    poll_interval,
                    opened,
                    progress,
                    outlier,
                    bounds,
                    name,
                    use_index,
                    workers,
                )
    poll = _poll(poll_interval)
    _check_orders(many, ticks)
    if bounds and ticks.bars is None:
        raise DataError("bounds = True: these ticks are not bars, there is only one path; leave bounds out")

    guard = None if outlier is None else _guarded(ticks, outlier)
    created, cursors = start_ticks(starts, len(many), ticks)
    scripts = _scripts(many, acts, created, ticks.instrument)
    low, high = ticks.price_range()
    instrument = suit(ticks.instrument, many, acts, low, high)
    book = Table(many, instrument, scripts, fills)
    book.orders.created, book.orders.cursor = created, cursors
    model = lower_fills(fills, instrument, poll, high)

    started = datetime.now(UTC)
    events = _advance(many, ticks, book, model, fills, guard, use_index, workers, progress)
    made = frames(many, book, instrument, fills, events, guard[1] if guard else None)
    run = Run(
        made["orders"],
        made["levels"],
        made["events"],
        made["fills"],
        specs=many,
        meta={
            "name": name,
            "symbol": ticks.symbol,
            "source": ticks.source,
            "data_hash": ticks.data_hash,
            "ticks": len(ticks),
            "path": ticks.path if ticks.bars is not None else None,
            "bars": len(ticks.bars) if ticks.bars is not None else None,
            "first_ts": int(ticks.ts[0]),
            "last_ts": int(ticks.ts[-1]),
            "fills": fills.to_dict(),
            "poll_interval": duration_text(poll) if poll else None,
            "outlier": None if outlier is None else Guard(outlier).text,
            "held_back": None if guard is None else guard[2].tolist(),
            "instrument": instrument.model_dump(mode="json"),
            "actions": [action.to_dict() for action in acts],
            "warnings": _warnings(many, ticks),
            "replayed_at": started.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(UTC) - started).total_seconds(), 6),
        },
        ticks=ticks,
    )
    if bounds:
        run = _with_bounds(run, many, ticks, starts, fills, acts, poll_interval, outlier, workers)
    if store is not None:
        store.save(run)
    return run


# --- inputs --------------------------------------------------------------------------------------------------------------


def _list(name: str, value: Any, wanted: str) -> list[Any]:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping, BaseModel)):
        raise SpecError(Problem(name, value, f"must be {wanted}"))
    return list(value)


def _poll(value: Any) -> int:
    if value is None or value == 0:
        return 0
    try:
        return duration_ns(value)
    except ValueError as error:
        raise SpecError(Problem("poll_interval", value, str(error))) from None


def _check_orders(orders: list[SmartOrder], ticks: Ticks) -> None:
    if not orders:
        raise SpecError(Problem("orders", None, "is empty", "give at least one SmartOrder"))
    if len(orders) > MAX_ORDERS:
        raise LimitError(f"orders = {len(orders)}: more than MAX_ORDERS = {MAX_ORDERS}; replay them in parts")
    seen: dict[int, list[Problem]] = {}
    problems: list[Problem] = []
    for i, order in enumerate(orders):
        if not isinstance(order, SmartOrder):
            raise SpecError(
                Problem(f"orders[{i}]", short(order), "is not a SmartOrder", "build it with SmartOrder(...)")
            )
        if id(order) not in seen:
            seen[id(order)] = [p for p in check(order, ticks.instrument) if p.level == "error"]
        problems += [Problem(f"orders[{i}].{p.path}", p.value, p.rule, p.fix) for p in seen[id(order)]]
        if len(problems) > 100:
            break
    if problems:
        raise SpecError(problems)


def _warnings(orders: list[SmartOrder], ticks: Ticks) -> list[str]:
    found: dict[str, int] = {}
    for order in {id(o): o for o in orders}.values():
        for problem in check(order, ticks.instrument):
            if problem.level == "warning":
                found[str(problem)] = found.get(str(problem), 0) + 1
    warnings = [text + (f" ({n} orders)" if n > 1 else "") for text, n in found.items()]
    if ticks.bars is not None and any(o.entry.kind != "market" or o.trailing_stop for o in orders):
        warnings.append(
            f"path {ticks.path}: says which extreme of a bar came first; for an entry that waits or a trailing stop neither order is the "
            "worst for sure; bounds=True replays them all"
        )
    return warnings


def start_ticks(starts: Any, count: int, ticks: Ticks) -> tuple[np.ndarray, np.ndarray]:
    """Creation time and first tick of each order."""
    ts = ticks.ts if ticks.bars is None else ticks.view().ts
    if starts is None:
        starts = 0
    if isinstance(starts, date) and not isinstance(starts, datetime):
        raise DataError(f"starts = {starts}: is a date without a time; write a datetime with a zone")
    if isinstance(starts, pl.Series) and starts.dtype == pl.Datetime:
        starts = starts.dt.epoch("ns")
    if isinstance(starts, (str, datetime, int, np.integer, np.datetime64)):
        values = [starts] * count
    else:
        values = list(starts.tolist() if isinstance(starts, np.ndarray) and starts.dtype.kind == "i" else starts)
    if len(values) != count:
        raise DataError(f"starts has {len(values)} values for {count} orders; give one for all or one for each")
    if isinstance(starts, np.ndarray) and starts.dtype.kind == "i" and starts.min() >= 0 and starts.max() < len(ts):
        return ts[starts], starts.astype(np.int64)
    created, cursors = np.empty(count, dtype=np.int64), np.empty(count, dtype=np.int64)
    for i, value in enumerate(values):
        number = int(value) if isinstance(value, (int, np.integer)) and not isinstance(value, bool) else None
        if number is not None and 0 <= number < len(ts):
            created[i], cursors[i] = ts[number], number
            continue
        try:
            created[i] = instant_ns(value)
        except (ValueError, OverflowError) as error:
            raise DataError(f"starts[{i}] = {short(value)}: {error}") from None
        cursors[i] = np.searchsorted(ts, created[i])
        if (number is not None and number < ts[0] - _YEAR_NS) or cursors[i] >= len(ts):
            raise DataError(
                f"starts[{i}] = {short(value)}: lies outside the ticks; use an index below {len(ts)} "
                f"or a time (ns) up to {instant_text(int(ts[-1]))}"
            )
    return created, cursors


def _scripts(
    orders: list[SmartOrder], actions: list[Action], created: np.ndarray, instrument: Instrument
) -> list[list[tuple[Action, SmartOrder | None]]]:
    """Each order's actions in time order, edits with the spec after them."""
    if not actions:
        return [[]] * len(orders)
    scripts: list[list[tuple[Action, SmartOrder | None]]] = [[] for _ in orders]
    for n, action in enumerate(actions):
        if not isinstance(action, Action):
            raise ActionError(f"actions[{n}] = {short(action)}: is not an Action; use cancel(), edit(), add_funds() …")
        if not 0 <= action.order < len(orders):
            raise ActionError(
                f"actions[{n}].order = {action.order}: is not the index of an order; use 0 to {len(orders) - 1}"
            )
        if action.at < created[action.order]:
            raise ActionError(
                f"actions[{n}].at = {instant_text(action.at)}: before the order is created at "
                f"{instant_text(int(created[action.order]))}; use a later time"
            )
    for n, action in sorted(enumerate(actions), key=lambda pair: (pair[1].at, pair[0])):
        script = scripts[action.order]
        spec = None
        if action.kind == "edit":
            before = next((s for _, s in reversed(script) if s is not None), orders[action.order])
            try:
                spec = action.apply(before)
                wrong = off_grid(instrument, absolute_prices(spec), [("quantity", spec.quantity)])
                if wrong:
                    raise SpecError(wrong)
            except SpecError as error:
                raise SpecError(
                    [Problem(f"actions[{n}].{p.path}", p.value, p.rule, p.fix) for p in error.problems]
                ) from None
        off = off_grid(instrument, [("price", action.price)], [("quantity", action.quantity)])
        if off:
            raise SpecError([Problem(f"actions[{n}].{p.path}", p.value, p.rule, p.fix) for p in off])
        script.append((action, spec))
    return scripts


def _guarded(ticks: Ticks, outlier: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mask of believed ticks, their indices, held back indices)."""
    if ticks.bars is not None or ticks.price is None:
        raise DataError("outlier: needs trade prints, not bars or quotes; leave it out")
    believed = Guard(outlier).believe(ticks.price)
    return believed, np.flatnonzero(believed), np.flatnonzero(~believed)


# --- running --------------------------------------------------------------------------------------------------------------


def _advance(
    orders: list[SmartOrder],
    ticks: Ticks,
    book: Table,
    model: np.recarray,
    fills: FillModel,
    guard: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    use_index: bool,
    workers: int | None,
    progress: bool | Callable[[int, int], None] | None,
) -> np.ndarray:
    """Run every order to the end of the ticks; returns all events, by order and sequence."""
    from .machine import chunk, run

    if guard is not None:
        book.orders.cursor = np.searchsorted(guard[1], book.orders.cursor)
    chunks: dict[tuple[str, int], tuple[Any, ...]] = {}
    groups: list[tuple[tuple[Any, ...], int, int]] = []
    for i, order in enumerate(orders):
        key = (order.trigger, order.direction)
        if key not in chunks:
            index = ticks.index(*key) if use_index else None
            believed = None if guard is None else guard[0]
            chunks[key] = chunk(ticks.view(*key), book.instrument, fills, index, believed=believed)
        if groups and groups[-1][0] is chunks[key]:
            groups[-1] = (*groups[-1][:2], i + 1)
        else:
            groups.append((chunks[key], i, i + 1))
    bar = Progress(progress, len(orders))
    events = run(book, model, groups, workers, bar.at)
    bar.close()
    return events


class Progress:
    """A bar, a callback, or nothing."""

    def __init__(self, wanted: bool | Callable[[int, int], None] | None, total: int):
        self.total, self.done = total, 0
        self.callback = wanted if callable(wanted) else None
        self.bar = None
        if wanted is True or (wanted is None and total > 10_000):
            from tqdm.auto import tqdm

            self.bar = tqdm(total=total, unit="order", leave=False, disable=None if wanted is None else False)

    def at(self, done: int) -> None:
        """Say how far it is."""
        if self.bar is not None:
            self.bar.update(done - self.done)
        if self.callback:
            self.callback(done, self.total)
        self.done = done

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


def _with_bounds(
    run: Run,
    orders: list[SmartOrder],
    ticks: Ticks,
    starts: Any,
    fills: FillModel,
    actions: Any,
    poll: Any,
    outlier: Any,
    workers: int | None,
) -> Run:
    """The profit of the worst and the best of all paths, as an interval."""
    results = [run.orders["realized_pnl"]]
    for path in PATHS:
        if path != ticks.path:
            other = replay(
                orders,
                ticks.with_path(path),
                starts,
                fills,
                actions,
                poll,
                progress=False,
                outlier=outlier,
                workers=workers,
            )
            results.append(other.orders["realized_pnl"])
    stacked = np.vstack([series.to_numpy() for series in results])
    run.orders = run.orders.with_columns(
        pnl_low=pl.Series(stacked.min(axis=0)), pnl_high=pl.Series(stacked.max(axis=0))
    )
    return run
