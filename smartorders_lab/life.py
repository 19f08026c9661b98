"""Life: what an order lived through, in a session or a replay, and living it again.

life = life_of(session, 3)
run = life.again(life.order, keep=True)      # the same order over the same ticks, with what the user did
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from .actions import Action
from .errors import ActionError, DataError, SmartOrdersError, short
from .fills import FillModel
from .instrument import Instrument
from .replays import replay
from .run import Run
from .spec import SmartOrder, living_order
from .story import Story
from .ticks import Ticks
from .times import duration_ns, instant_ns, instant_text

if TYPE_CHECKING:
    from .session import Session


@dataclass(frozen=True)
class Course:
    """How an order went. `status`, `exit_reason` as in `Run.orders`; `fills`: dicts of ts (ns), price, quantity, role, level, in order.

    `realized`, `unrealized`, `fees` in quote currency; `held_ns`: from the first fill to the last exit, or to the latest tick.
    """

    status: str
    exit_reason: str | None
    entry_price: float | None
    realized: float
    unrealized: float
    fees: float
    held: float
    held_ns: int | None
    fills: list[dict[str, Any]]
    stop: tuple[np.ndarray, np.ndarray] = field(default=(np.zeros(0, np.int64), np.zeros(0)), repr=False)
    """Effective stop: times (ns) and prices of its steps, to its end."""

    @property
    def total(self) -> float:
        """Profit, with what is still open at the latest price."""
        return self.realized + self.unrealized


@dataclass(frozen=True)
class Life:
    """What an order lived through, as far as it is known: enough to live it again.

    `order`: as it was placed. `created` in ns. `actions`: what the user did, at its times. `ticks`: from its creation to the latest.
    `poll`: ns, 0 for every tick. `whole`: False where what the user did is not known any more. `course`: what really happened.
    """

    number: int
    order: SmartOrder
    created: int
    actions: tuple[Action, ...]
    fills: FillModel
    ticks: Ticks
    poll: int = 0
    outlier: str | None = None
    whole: bool = True
    course: Course | None = None
    notes: tuple[str, ...] = ()

    def again(self, order: SmartOrder, keep: bool) -> Run:
        """Live it again as another order, with the user's actions or without. Raises SpecError, ActionError, DataError."""
        return replay(
            order,
            self.ticks,
            starts=self.created,
            fills=self.fills,
            actions=kept(self.order, order, self.actions) if keep else (),
            poll_interval=self.poll,
            outlier=self.outlier,
            progress=False,
            workers=1,
        )


def kept(was: SmartOrder, now: SmartOrder, actions: tuple[Action, ...]) -> list[Action]:
    """The actions as they go on with a changed order: what was changed by hand is not edited away again."""
    changed = {name for name in SmartOrder.model_fields if getattr(was, name) != getattr(now, name)}
    found = []
    for action in actions:
        changes = {name: value for name, value in action.changes.items() if name not in changed}
        if action.kind != "edit" or changes:
            found.append(action.model_copy(update={"order": 0, "version": None, "changes": changes}))
    return found


def life_of(source: Any, oid: int, ticks: Ticks | None = None, fills: FillModel | None = None) -> Life:
    """The life of an order of a session, here or watched from another process, or of a run.

    `ticks`: those that it lived through, where the source does not have them (any more). `fills`: what is assumed of the venue, where
    the source does not say. Raises DataError, ActionError for an order that is not there.
    """
    if isinstance(source, Run):
        return _of_run(source, oid, ticks)
    if hasattr(source, "journal") and hasattr(source, "book"):
        return _of_session(source, oid, ticks)
    if hasattr(source, "life"):
        return _of_other(source, oid, ticks, source.life(oid))
    return _of_other(source, oid, ticks, None if fills is None else {"fills": fills.to_dict()})


def _of_run(run: Run, oid: int, ticks: Ticks | None) -> Life:
    from .run import ticks_of

    if isinstance(oid, bool) or not isinstance(oid, (int, np.integer)) or not 0 <= oid < len(run.specs):
        raise ActionError(f"order {short(oid)}: no such order; this run has {len(run.specs)}, counted from 0")
    if run.meta["data_hash"] is not None:
        ticks = ticks_of(run, ticks, "Fork(run, order, ticks=Ticks.read(...))")
    elif ticks is None:
        raise DataError("ticks: this run has none; give those that its orders lived through: ticks=Ticks.read(...)")
    meta, oid = run.meta, int(oid)
    row = run.orders.row(oid, named=True)
    created = _ns(row["created_ts"])
    life = Life(
        number=oid,
        order=run.specs[oid],
        created=created,
        actions=tuple(a for a in (Action(**each) for each in meta["actions"]) if a.order == oid),
        fills=FillModel(**meta["fills"]),
        ticks=ticks,
        poll=duration_ns(meta["poll_interval"] or 0),
        outlier=meta["outlier"],
    )
    return replace(life, course=course_of(run, oid, ticks))


def _of_session(session: Session, oid: int, ticks: Ticks | None) -> Life:
    described = session.order(oid)
    book = session.book
    story = Story(session, book.specs[oid].symbol, oid)
    created = instant_ns(described["created_ts"]) if story.placed is None else story.placed[1]
    if ticks is None:
        first, ticks = story.ticks()
        at = None if story.placed is None else story.placed[0] - first
        if (at is None or at < 0) and _first(ticks, created) == 0 and ticks.ts[0] > created and first > 0:
            raise DataError(
                f"order {oid}: the session has let go of the ticks that it began with (its oldest is of {instant_text(int(ticks.ts[0]))}); "
                "give them: ticks=Ticks.read(...), or begin sessions with keep_ticks="
            )
        ticks = _from(ticks, _first(ticks, created) if at is None or at < 0 else at, oid)
    else:
        ticks = _from(ticks, _first(ticks, created), oid)
    events = session.events(oid)
    done = events.filter((events["kind"] == "action") | (events["kind"] == "action_refused")).height
    life = Life(
        number=oid,
        order=book.specs[oid],
        created=created,
        actions=tuple(story.actions),
        fills=book.fills,
        ticks=ticks,
        poll=book.poll_ns,
        whole=len(story.actions) >= done,
    )
    return _told(life, described, events)


def _of_other(session: Any, oid: int, ticks: Ticks | None, told: Mapping[str, Any] | None) -> Life:
    """Of a session in another process. `told`: what it says beyond its state: the order as it was placed, actions, fill model."""
    described = next((order for order in session.state()["orders"] if order["order"] == oid), None)
    if described is None:
        raise ActionError(f"order {short(oid)}: no such order in this session; look at its orders()")
    told = told or {}
    events = session.events(oid)
    created = int(told["created"]) if "created" in told else instant_ns(described["created_ts"])
    if ticks is None:
        ticks = seen(session, described["symbol"])
        if ticks is None or ticks.ts[0] > max(created, instant_ns(described["entry_ts"] or described["created_ts"])):
            raise DataError(
                f"order {oid}: the session in another process does not have all ticks that it lived through; give them: "
                "ticks=Ticks.read(...)"
            )
    with living_order():
        order = SmartOrder.from_dict(told.get("order") or described["spec"])
    acted = events.filter((events["kind"] == "action") | (events["kind"] == "action_refused")).height
    actions = tuple(Action(**action) for action in told.get("actions", ()))
    life = Life(
        number=oid,
        order=order,
        created=created,
        actions=actions,
        fills=FillModel(**told.get("fills", {})),
        ticks=_from(ticks, _first(ticks, created), oid),
        poll=int(told.get("poll", 0)),
        whole=len(actions) >= acted,
        notes=() if "fills" in told else ("the session does not say what it assumes of fees and slippage: none here",),
    )
    return _told(life, described, events)


def _told(life: Life, described: dict[str, Any], events: Any) -> Life:
    """With the real course, as the session tells it."""
    rows = [
        {**row, "ts": _ns(row["ts"])}
        for row in events.select("ts", "kind", "role", "level", "price", "quantity", "stop").to_dicts()
    ]
    fills = [row for row in rows if row["kind"] == "filled"]
    last = int(life.ticks.ts[-1])
    entry = described["entry_ts"]
    end = described["exit_ts"]
    held = float(described["held"])
    over = None if end is None else instant_ns(end)
    notes = life.notes
    if not life.whole:
        notes = (*notes, "what was done to it by hand is not known (any more): the changed order does without")
    found = Course(
        status=described["status"],
        exit_reason=described["exit_reason"],
        entry_price=None if described["entry_price"] is None else float(described["entry_price"]),
        realized=float(described["realized_pnl"]),
        unrealized=float(described["unrealized_pnl"] or 0),
        fees=float(described["fees"]),
        held=held,
        held_ns=None if entry is None else (over if over is not None and not held else last) - instant_ns(entry),
        fills=fills,
        stop=_told_stop(rows, described, last),
    )
    life = replace(life, course=found, notes=notes)
    try:
        run = life.again(life.order, keep=True)
    except SmartOrdersError:
        return life
    same = course_of(run, 0, life.ticks)
    if _key(same.fills) == _key(fills):  # then its stop is known at every tick, not only at its events
        return replace(life, course=replace(found, stop=same.stop))
    if life.whole:
        note = (
            "a replay of the real order fills otherwise than the session did: its broker or its feed had their troubles"
        )
        return replace(life, notes=(*life.notes, note))
    return life


def _key(fills: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(fill["ts"], fill["role"], fill["level"], round(fill["price"], 9), fill["quantity"]) for fill in fills]


def course_of(run: Run, oid: int, ticks: Ticks) -> Course:
    """How an order of a run went, up to the last tick."""
    row = run.orders.row(oid, named=True)
    fills = [
        {**fill, "ts": _ns(fill["ts"])}
        for fill in run.fills.filter(run.fills["order"] == oid)
        .select("ts", "price", "quantity", "role", "level")
        .to_dicts()
    ]
    view = ticks.view(run.specs[oid].trigger, run.specs[oid].direction)
    last = float(ticks.instrument.prices(view.price[-1:])[0])
    open_pnl = 0.0
    if row["held"] and row["entry_price"] is not None and row["exit_reason"] is None:
        open_pnl = run.specs[oid].direction * (last - row["entry_price"]) * row["held"]
    held_ns = row["held_ns"]
    if held_ns is None and row["entry_ts"] is not None:
        held_ns = int(view.ts[-1]) - _ns(row["entry_ts"])
    return Course(
        status=row["status"],
        exit_reason=row["exit_reason"],
        entry_price=row["entry_price"],
        realized=row["realized_pnl"],
        unrealized=open_pnl,
        fees=row["fees"],
        held=row["held"],
        held_ns=held_ns,
        fills=fills,
        stop=_stop(run, oid, ticks),
    )


def _stop(run: Run, oid: int, ticks: Ticks) -> tuple[np.ndarray, np.ndarray]:
    """The effective stop of an order of a run, tick by tick."""
    from .charts import stop_path
    from .rows import NONE

    path = stop_path(run, oid, ticks)
    view = ticks.view(run.specs[oid].trigger, run.specs[oid].direction)
    known = path.stop != NONE
    prices = ticks.instrument.prices(path.stop[known])
    events = run.events.filter(run.events["order"] == oid)
    row = run.orders.row(oid, named=True)
    end = _ns(events["ts"][-1]) if row["exit_reason"] is not None else int(view.ts[-1])
    return _closed(view.ts[path.tick[known]].astype(np.int64), prices, end)


def _told_stop(rows: list[dict[str, Any]], described: dict[str, Any], last: int) -> tuple[np.ndarray, np.ndarray]:
    """The effective stop as the events tell it."""
    held = [row for row in rows if row["stop"] is not None]
    ts = np.array([row["ts"] for row in held], np.int64)
    end = rows[-1]["ts"] if described["exit_reason"] is not None and rows else last
    return _closed(ts, np.array([row["stop"] for row in held], float), end)


def _closed(ts: np.ndarray, prices: np.ndarray, end: int) -> tuple[np.ndarray, np.ndarray]:
    """Steps that go on to `end`."""
    ts, prices = ts[ts <= end], prices[ts <= end]
    return (np.append(ts, end), np.append(prices, prices[-1])) if len(ts) else (ts, prices)


def seen(session: Any, symbol: str) -> Ticks | None:
    """The ticks of a symbol that a session has seen and still has; None if there are none."""
    if hasattr(session, "seen"):
        found: Ticks | None = session.seen(symbol)
        return found
    if hasattr(session, "journal"):
        if symbol not in session.book.markets:
            return None
        try:
            return Story(session, symbol, -1).ticks()[1]
        except DataError:
            return None
    market = session.state([])["symbols"].get(symbol)
    recent = session.recent(symbol) if market is not None and market["ticks"] else None
    if market is None or recent is None or not len(recent.ts):
        return None
    steps = {name: market[name] for name in ("price_increment", "quantity_increment")}
    return Ticks.from_arrays(recent.ts, recent.price, instrument=Instrument(symbol=symbol, **steps), unit="ns")


def _first(ticks: Ticks, created: int) -> int:
    """The first tick that an order made at `created` could meet."""
    ts = ticks.ts if ticks.bars is None else ticks.bars.ts
    return int(np.searchsorted(ts, created))


def _from(ticks: Ticks, first: int, oid: int) -> Ticks:
    count = len(ticks) if ticks.bars is None else len(ticks.bars)
    if first >= count:
        raise DataError(
            f"order {oid}: no tick has come since it was made; wait for the first, or give others: ticks=Ticks.read(...)"
        )
    return ticks.slice(first, None) if first else ticks


def _ns(at: Any) -> int:
    """A time of a frame in ns."""
    if isinstance(at, datetime):
        return instant_ns(at)
    return int(at)
