"""One order through the kernel, in the words of the oracle."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
from oracle import Event, Tick

import smartorders_lab as so
from smartorders_lab.ticks import BAR, CONTINUOUS, Ticks


class Outcome(NamedTuple):
    """What `so.replay` made of one order: its events as the oracle writes them, and the run."""

    events: list[Event]
    run: so.Run | None


def tape_of(ticks: tuple[Tick, ...] | list[Tick], instrument: so.Instrument) -> Ticks:
    """The oracle's ticks as `Ticks`.

    Points inside a bar cannot be given as arrays, so their flags are put into the views that replay will ask for; this
    is the only place where the tests reach behind the public API.
    """
    quotes = ticks[0].buy is not None
    made = Ticks.from_arrays(
        [tick.ts for tick in ticks],
        None if quotes else [float(tick.price) for tick in ticks],
        size=None if ticks[0].size is None else [float(tick.size or 0) for tick in ticks],
        bid=[float(tick.sell or 0) for tick in ticks] if quotes else None,
        ask=[float(tick.buy or 0) for tick in ticks] if quotes else None,
        instrument=instrument,
        unit="ns",
    )
    if any(tick.continuous or tick.bar for tick in ticks):
        flags = np.array([CONTINUOUS * tick.continuous + BAR * tick.bar for tick in ticks], np.uint8)
        for direction in (1, -1):
            made._views["last", direction] = made.view("last", direction)._replace(flags=flags)
    return made


def replay(case: Any) -> Outcome:
    """Run a case (`order, instrument, ticks, fills, actions, start, poll_interval`) through the kernel."""
    if case.start is not None and case.start > case.ticks[-1].ts:
        return Outcome([], None)  # replay refuses an order that would never begin
    run = so.replay(
        [case.order],
        tape_of(case.ticks, case.instrument),
        starts=None if case.start is None else [case.start],
        fills=case.fills,
        actions=case.actions,
        poll_interval=case.poll_interval or None,
        progress=False,
    )
    return Outcome(events_of(run, case.instrument), run)


def events_of(run: so.Run, instrument: so.Instrument, order: int = 0) -> list[Event]:
    """The events of one order, prices and quantities as the exact decimals that they stand for."""

    def exact(value: float | None, increment: Decimal) -> Decimal | None:
        return None if value is None else round(Decimal(repr(value)) / increment) * increment

    frame = run.events.filter(run.events["order"] == order)
    found = frame.with_columns(ts=frame["ts"].dt.epoch("ns")).select(Event._fields)
    events = []
    for event in map(Event._make, found.iter_rows()):
        blank = event.quantity == 0 and event.kind in NO_QUANTITY and event.role not in ("add_funds", "reduce_funds")
        events.append(
            event._replace(
                price=exact(event.price, instrument.price_increment),
                quantity=None if blank else exact(event.quantity, instrument.quantity_increment),
                stop=exact(event.stop, instrument.price_increment),
                water_mark=exact(event.water_mark, instrument.price_increment),
            )
        )
    return events


NO_QUANTITY = ("armed", "break_even", "timer_started", "timer_cleared", "action", "action_refused", "ended")
