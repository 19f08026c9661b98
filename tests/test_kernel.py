"""Two truths: the compiled kernel and the slow oracle agree, event by event, on random orders over random tapes; and what must
never or always hold of the kernel itself.

`SMARTORDERS_EXAMPLES=20000 pytest tests/test_kernel.py` looks longer.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import replace
from decimal import Decimal

import kernel_run
import numpy as np
import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Tick, replay_one

import smartorders_lab as so
from smartorders_lab import replays
from smartorders_lab.index import Index
from smartorders_lab.lower import Table, lower_fills, suit
from smartorders_lab.machine import Machine, chunk
from smartorders_lab.ticks import TickView

EXAMPLES = int(os.environ.get("SMARTORDERS_EXAMPLES", "60" if os.environ.get("NUMBA_DISABLE_JIT") == "1" else "600"))
random_cases = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="CI" in os.environ,
    database=None,
)


runs = st.lists(st.integers(1, 9) | st.sampled_from([15, 63, 64, 65, 130]), min_size=1, max_size=4)


@random_cases
@given(strategies.cases())
def test_the_kernel_and_the_oracle_agree(case: strategies.Case) -> None:
    try:
        truth = replay_one(
            case.order, case.instrument, case.ticks, case.fills, case.actions, case.start, case.poll_interval
        )
    except so.SpecError:
        return  # an edit that only made sense after one that was refused
    events, run = kernel_run.replay(case)
    for expected, event in zip(truth.events, events, strict=False):
        assert event == expected, "\n".join(map(str, ["oracle", *truth.events, "kernel", *events]))
    assert len(events) == len(truth.events)
    if run is None:
        return
    found = run.orders.row(0, named=True)
    assert found["realized_pnl"] == pytest.approx(float(truth.realized_pnl), rel=1e-12, abs=1e-9)
    assert found["fees"] == pytest.approx(float(truth.fees), rel=1e-12, abs=1e-12)
    assert found["held"] == pytest.approx(float(truth.held), rel=1e-15)
    assert found["ambiguous_bars"] == truth.ambiguous_bars
    for name in ("mae", "mfe"):
        value = getattr(truth, name)
        assert found[name] == (None if value is None else pytest.approx(float(value), rel=1e-12, abs=1e-15)), name
    assert run.levels["status"].to_list() == [level.status for level in truth.levels]


@random_cases
@given(strategies.cases(bars=False))
def test_the_mirror_holds(case: strategies.Case) -> None:
    """Without fees in coins, slippage and quotes, a tape turned round at 100 gives the opposite order the same life."""
    if case.ticks[0].buy is not None or case.order.cost or case.order.entry.kind == "held":
        return
    if "%" in case.order.to_json() or case.order.trailing_stop or case.order.trailing_take_profit:
        return  # fractions of a price do not mirror at 100
    if (
        case.order.entry.kind == "trailing"
        or any(a.cost or a.changes for a in case.actions)
        or case.instrument.min_notional
    ):
        return
    if case.order.break_even and case.order.break_even.offset != 0:
        return
    fills = case.fills.model_copy(update={"slippage": Decimal(0), "fee_currency": "quote"})

    def turned(value: Decimal | None) -> Decimal | None:
        return None if value is None else 200 - value

    flipped = mirrored(case)
    ours = kernel_run.replay(replace(case, fills=fills)).events
    theirs = kernel_run.replay(replace(flipped, fills=fills)).events
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert b._replace(price=turned(b.price), stop=turned(b.stop), water_mark=turned(b.water_mark)) == a


def mirrored(case: strategies.Case) -> strategies.Case:
    """The same case seen in a mirror at a price of 100."""

    def turn(node: object) -> object:
        if isinstance(node, dict):
            prices = ("price", "limit_price", "activation", "target", "limit", "emergency")
            return {k: str(200 - Decimal(v)) if k in prices else turn(v) for k, v in node.items()}  # type: ignore[arg-type]
        return [turn(item) for item in node] if isinstance(node, list) else node

    data = case.order.to_dict()
    symbol = "BTC/USDT:USDT"
    order = so.SmartOrder.from_dict(
        turn({**data, "symbol": symbol, "side": "sell" if data["side"] == "buy" else "buy"})
    )
    return replace(
        case,
        order=order,
        instrument=case.instrument.model_copy(update={"symbol": symbol}),
        ticks=tuple(tick._replace(price=200 - tick.price) for tick in case.ticks),
        actions=tuple(a.model_copy(update={"price": None if a.price is None else 200 - a.price}) for a in case.actions),
    )


@random_cases
@given(strategies.cases(bars=False))
def test_what_never_happens(case: strategies.Case) -> None:
    """Never sells more than it holds; an end is final; versions have no gaps; the ledger adds up."""
    events, run = kernel_run.replay(case)
    held, ended = Decimal(0), False
    for number, event in enumerate(events):
        assert not ended, "something happened after the end"
        assert event.seq == number
        if event.kind in ("filled", "held"):
            held += event.quantity if event.role in ("entry", "add_funds") else -event.quantity
            assert held >= 0
        ended = event.kind == "ended"
    if run is not None and case.fills.fee_currency == "quote":
        assert run.orders["held"][0] == pytest.approx(float(held))


def test_many_orders_do_not_know_one_another() -> None:
    """A batch of orders, long and short, gives each the life it has alone."""
    rng = np.random.default_rng(5)
    price = 100 + np.cumsum(rng.choice([-0.1, 0, 0.1], 3000)).round(1)
    ticks = so.Ticks.from_arrays(np.arange(3000) * 10**9 + 1_700_000_000 * 10**9, price.round(1))
    orders = [
        so.SmartOrder(
            symbol="X/Y:Y", side=side, quantity=3, take_profits=[("1%", 40), ("2%", 60)], stop_loss="1.5%",
            trailing_stop=rate, break_even=True,
        )
        for side in ("buy", "sell")
        for rate in (None, "1%", "0.7%")
    ] * 100  # fmt: skip
    starts = rng.integers(0, 2500, len(orders))
    together = so.replay(orders, ticks, starts=starts)
    for i in rng.integers(0, len(orders), 25):
        alone = so.replay(orders[i], ticks, starts=int(starts[i])).events
        ours = together.events.filter(together.events["order"] == i)
        assert ours.drop("order").equals(alone.drop("order"))


@random_cases
@given(strategies.cases(), st.lists(st.integers(0, 60), max_size=4))
def test_cutting_the_tape_changes_nothing(case: strategies.Case, cuts: list[int]) -> None:
    """A year of ticks at once or one tick at a time: every event and every row comes out the same.

    Not cut: just before the order's first tick, where a command that comes at once would not know the price before it.
    """
    if case.poll_interval or (case.start or 0) > case.ticks[-1].ts:
        return  # with polling, whether a tick is the last of its interval shows only in the next one
    bars = any(tick.bar for tick in case.ticks)
    begin = next(i for i, tick in enumerate(case.ticks) if case.start is None or tick.ts >= case.start)
    cuts = [min(cut - cut % 4 if bars else cut, len(case.ticks)) for cut in cuts]
    places = sorted({cut for cut in cuts if cut != begin} | {0, len(case.ticks)})
    whole, pieces = engine_run(case, [0, len(case.ticks)]), engine_run(case, places)
    for a, b in zip(whole, pieces, strict=True):
        assert a.tobytes() == b.tobytes()


def engine_run(
    case: strategies.Case, cuts: list[int], use_index: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events, order row and legs after running a case in chunks between the cuts."""
    ticks = kernel_run.tape_of(case.ticks, case.instrument)
    created, cursors = replays.start_ticks(None if case.start is None else [case.start], 1, ticks)
    low, high = ticks.price_range()
    instrument = suit(ticks.instrument, [case.order], case.actions, low, high)
    scripts = replays._scripts([case.order], list(case.actions), created, instrument)
    machine = Machine(
        Table([case.order], instrument, scripts, case.fills),
        lower_fills(case.fills, instrument, case.poll_interval, high),
    )
    machine.book.orders.created, machine.book.orders.cursor = created, cursors
    events: list[np.ndarray] = []
    for first, last in itertools.pairwise(cuts):
        whole = ticks.view(case.order.trigger, case.order.direction)
        cut = {id(array): array[first:last] for array in whole}  # what is one array stays one
        view = TickView(*(cut[id(array)] for array in whole))
        index = Index(view.price) if use_index else None
        events += machine.advance(chunk(view, instrument, case.fills, index, first), 0, 1)
    return np.concatenate(events), np.array(machine.book.orders), np.array(machine.book.legs)


@random_cases
@given(strategies.cases(), runs)
def test_the_index_changes_nothing(case: strategies.Case, repeat: list[int]) -> None:
    """Every byte of every event and row is the same with the index and without."""
    if case.start is not None and case.start > case.ticks[-1].ts:
        return
    bars = any(tick.bar for tick in case.ticks)
    case = replace(case, ticks=stretched(case.ticks, [1] if bars else repeat))
    whole = [0, len(case.ticks)]
    for a, b in zip(engine_run(case, whole), engine_run(case, whole, use_index=True), strict=True):
        assert a.tobytes() == b.tobytes()


def stretched(ticks: tuple[Tick, ...], repeat: list[int]) -> tuple[Tick, ...]:
    """The tape with each tick standing for a while: leaves and nodes in which nothing happens."""
    return tuple(tick for i, tick in enumerate(ticks) for _ in range(repeat[i % len(repeat)]))
