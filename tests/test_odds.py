"""Odds: the same orders as replay() makes of the same ladder at the same moments, and intervals that do not say too much."""

from __future__ import annotations

import json
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

import kernel_run
import numpy as np
import polars as pl
import pytest
import strategies
from hypothesis import assume, given
from hypothesis import strategies as st
from test_kernel import random_cases

import smartorders_lab as so
from smartorders_lab import metrics
from smartorders_lab.lower import merged_levels
from smartorders_lab.odds import LEVEL, MAX_ENTRIES, Odds, Record, _histogram
from smartorders_lab.run import money, order_columns

T0 = 1_700_000_000 * 10**9
SECOND = 10**9
FEES = so.FillModel(fee_taker="0.05%", fee_maker="0.01%", slippage="0.005%")


def tape(prices: Any, step: int = SECOND, symbol: str = "A/B:B", **options: Any) -> so.Ticks:
    return so.Ticks.from_arrays(T0 + np.arange(len(prices)) * step, prices, symbol=symbol, unit="ns", **options)


def walk(n: int, seed: int, size: float = 1e-3) -> np.ndarray:
    return (100 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, size, n)))).round(4)


def order(**changes: Any) -> so.SmartOrder:
    fields = {"symbol": "A/B:B", "side": "buy", "quantity": 1, "take_profits": [("1%", 50), ("2%", 50)]}
    return so.SmartOrder(**{**fields, "stop_loss": "1%", **changes})


# ---------------------------------------------------------------------------------------------------- equal to replay


class Moved:
    """An order taken to another price: each of its prices by the same ratio, on the increment, written once more and slowly."""

    def __init__(self, made: so.SmartOrder, here: Fraction, now: Any, instrument: so.Instrument):
        self.ratio, self.increment, self.long = here / Fraction(now), instrument.price_increment, made.direction > 0
        entry, stop, trail = made.entry, made.stop_loss, made.trailing_stop
        parts: dict[str, Any] = {"entry": self.entry(entry)}
        parts["take_profits"] = tuple(self.part(level, target=self.away(level.target)) for level in made.take_profits)
        if stop:
            target, limit = self.near(stop.target), self.away(stop.limit)
            if isinstance(target, Decimal) and isinstance(limit, Decimal):
                limit = self.worse(target, limit)
            parts["stop_loss"] = self.part(stop, target=target, limit=limit, emergency=self.near(stop.emergency))
        if trail:
            parts["trailing_stop"] = self.part(trail, activation=self.away(trail.activation))
        self.order = self.part(made, **parts)

    def entry(self, entry: so.Entry) -> so.Entry:
        if entry.kind == "stop":
            stop, limit = self.away(entry.price), self.near(entry.limit_price)
            if limit is not None:
                limit = max(stop, limit) if self.long else min(stop, limit)
            return self.part(entry, price=stop, limit_price=limit)
        rungs = tuple(self.part(rung, price=self.near(rung.price)) for rung in entry.rungs)
        return self.part(entry, price=self.near(entry.price), activation=self.near(entry.activation), rungs=rungs)

    @staticmethod
    def part(part: Any, **changes: Any) -> Any:
        """Not validated: on a coarse increment two prices may fall together, which a spec would not take."""
        return part.model_copy(update=changes)

    def worse(self, a: Decimal, b: Decimal) -> Decimal:
        return min(a, b) if self.long else max(a, b)

    def away(self, price: Any) -> Any:
        return self.rounded(price, ROUND_CEILING if self.long else ROUND_FLOOR)

    def near(self, price: Any) -> Any:
        return self.rounded(price, ROUND_FLOOR if self.long else ROUND_CEILING)

    def rounded(self, price: Any, rounding: str) -> Any:
        if not isinstance(price, Decimal):
            return price
        units = Fraction(price) * self.ratio / Fraction(self.increment)
        whole = units.__floor__() if rounding == ROUND_FLOOR else units.__ceil__()
        return max(whole, 1) * self.increment


def replayed(record: Record, made: so.SmartOrder, now: Any) -> tuple[list[so.SmartOrder], np.ndarray]:
    """The order at each entry, and which of them replay() takes and merges into the same ladder."""
    ticks = record.ticks
    price = ticks.view(made.trigger, made.direction).price[record.entries.cursors]
    orders = [Moved(made, Fraction(ticks.instrument.price(p)), now, ticks.instrument).order for p in price.tolist()]
    sizes = [level.size for level in merged_levels(made, ticks.instrument)[0]]
    same = [
        [level.size for level in merged_levels(one, ticks.instrument)[0]] == sizes
        and not any(p.level == "error" for p in one.check(ticks.instrument))
        for one in orders
    ]
    return orders, np.flatnonzero(same)


def check(record: Record, made: so.SmartOrder, now: Any) -> tuple[Odds, so.Run, np.ndarray]:
    """Every column of every order equals replay's."""
    orders, kept = replayed(record, made, now)
    rows, instrument = record.outcomes(made, now)
    starts = record.entries.cursors[kept]
    run = so.replay([orders[k] for k in kept], record.ticks, list(starts), record.fills, progress=False)
    for name, column in order_columns(rows[kept].view(np.recarray), instrument, record.fills).items():
        assert pl.Series(name, column).to_list() == run.orders[name].to_list(), name
    return record.of(made, now), run, kept


def check_figures(odds: Odds, run: so.Run) -> None:
    """The figures, from replay's frames."""
    done = run.orders.filter(pl.col("entry_ts").is_not_null() & pl.col("exit_reason").is_not_null())
    count = done.height
    assert (odds.orders, odds.finished) == (run.orders.height, count)
    assert odds.entered == run.orders["entry_ts"].is_not_null().sum()
    assert odds.unfinished == odds.entered - count
    assert sum(odds.counts) + odds.below + odds.above == count
    if not count:
        assert {odds.expectancy, odds.median, odds.win_rate, odds.stops, *odds.levels} == {None}
        return
    assert odds.expectancy == pytest.approx(done["return_"].mean())
    assert odds.median == pytest.approx(done["return_"].median())
    assert odds.win_rate == pytest.approx((done["realized_pnl"] > 0).mean())
    ways = done["exit_reason"].to_list()
    for share, names in (
        (odds.targets, ("take_profit", "trailing_take_profit")),
        (odds.stops, ("stop_loss",)),
        (odds.trails, ("trailing_stop",)),
        (odds.evens, ("break_even",)),
        (odds.holds, ("max_hold",)),
    ):
        assert share == pytest.approx(sum(way in names for way in ways) / count)
    assert sum(share for share in odds.exits.values() if share is not None) == pytest.approx(1)
    hold = done["held_ns"].drop_nulls()
    assert odds.hold_median_ns == (int(hold.median()) if len(hold) else None)
    filled = run.levels.filter(pl.col("order").is_in(done["order"].to_list()) & (pl.col("status") == "FILLED"))
    for level, share in enumerate(odds.levels):
        assert share == pytest.approx(filled.filter(pl.col("level") == level).height / count)


FILES = {  # file: symbol, a distance that its prices cover, trigger
    "trades_binance_spot_BTCUSDT_20240808": ("BTC/USDT", Decimal("0.03"), "last"),
    "quotes_binance_spot_BTCUSDT_20240808": ("BTC/USDT:USDT", Decimal("0.03"), "bid"),
    "trades_binance_usdm_ETHUSDT_20240808": ("ETH/USDT:USDT", Decimal("0.02"), "last"),
    "trades_bitstamp_BTCUSD_2011": ("BTC/USD:USD", Decimal("2"), "last"),
    "bars_ftx_BTCPERP_1m_202201": ("BTC/USD:USD", Decimal("0.3"), "last"),
}


def shapes(now: Decimal, unit: Decimal, side: str) -> dict[str, dict[str, Any]]:
    """Orders of every kind, with distances and with prices around `now`, in units of the file's own movement."""
    up = 1 if side == "buy" else -1

    def pc(times: float) -> str:
        return f"{Decimal(str(times)) * unit}%"

    def at(times: float) -> Decimal:
        return (now * (1 + up * Decimal(str(times)) * unit / 100)).quantize(Decimal("1e-8"))

    ladder = [(pc(1), 40), (pc(2), 35), (pc(4), 25)]
    priced = [(at(1), 40), (at(2), 35), (at(4), 25)]
    return {
        "plain": {"take_profits": ladder, "stop_loss": pc(2)},
        "trailing": {"take_profits": ladder, "stop_loss": pc(2), "trailing_stop": pc(3), "break_even": True},
        "trailing target": {
            "take_profits": ladder,
            "stop_loss": pc(2),
            "trailing_take_profit": pc(1),
            "max_hold": "10m",
        },
        "prices": {"take_profits": priced, "stop_loss": at(-2), "break_even": {"after": 1, "offset": "fees"}},
        "limit": {"entry": so.Entry.limit(at(-1)), "take_profits": priced, "stop_loss": at(-3), "entry_expiry": "30m"},
        "limit, distances": {"entry": so.Entry.limit(at(-1)), "take_profits": ladder, "stop_loss": pc(2)},
        "stop-limit": {
            "entry": so.Entry.stop(at(1), limit=at(1)),
            "take_profits": [(at(2), 100, "limit")],
            "stop_loss": {"target": at(-1), "limit": at(-1), "emergency": at(-3)},
        },
        "rungs": {
            "entry": so.Entry.ladder([(at(-1), "33.3"), (at(-2), "66.7")]),
            "take_profits": [(pc(1), 50), (pc(2), 50)],
            "trailing_stop": {"callback_rate": pc(3), "activation": at(1)},
            "stop_loss": at(-4),
        },
        "trailing entry": {"entry": so.Entry.trailing(pc(1), at(-1)), "take_profits": ladder, "stop_loss": pc(2)},
        "held": {"entry": so.Entry.held(at(-1)), "take_profits": priced, "stop_loss": at(-3)},
    }


@pytest.mark.parametrize("name", FILES)
def test_a_record_is_a_replay_on_real_prices(market_data, name) -> None:
    symbol, unit, trigger = FILES[name]
    ticks = so.Ticks.read(market_data / f"{name}.parquet", symbol=symbol)
    now = ticks.instrument.price(int(ticks.view(trigger).price[-1]))
    record = Record(ticks, 150, FEES, seed=4)
    ends: set[str] = set()
    for side in ("buy", "sell") if ":" in symbol else ("buy",):
        for number, (shape, parts) in enumerate(shapes(now, unit, side).items()):
            size = (
                {"risk": 20}
                if shape in ("plain", "limit", "limit, distances", "rungs")
                else [{"quantity": 1}, {"cost": 500}][number % 2]
            )
            made = so.SmartOrder(symbol=symbol, side=side, trigger=trigger, **size, **parts)
            odds, run, kept = check(record, made, now)
            assert len(kept) >= 140, shape
            if len(kept) == len(record):
                check_figures(odds, run)
            ends |= set(run.orders["exit_reason"].drop_nulls())
    assert len(ends) >= 5, "the files are to end orders in several ways"


@st.composite
def asked(draw: Any) -> tuple[Record, so.SmartOrder, Any]:
    case = draw(strategies.cases(with_actions=False))
    instrument = case.instrument.model_copy(update={"min_notional": Decimal(0)})
    ticks = kernel_run.tape_of(case.ticks, instrument)
    entries = draw(st.lists(st.integers(0, len(ticks) - 1), min_size=1, max_size=6))
    now = 100 if case.order.entry.kind == "market" else draw(st.sampled_from([100, 100, 99, "101.3", 77]))
    return Record(ticks, entries, case.fills, workers=1), case.order, Decimal(now)


@random_cases
@given(asked())
def test_a_record_is_a_replay_of_any_order(case: Any) -> None:
    record, made, now = case
    assume(len(replayed(record, made, now)[1]))
    odds, run, kept = check(record, made, now)
    if len(kept) == len(record):
        check_figures(odds, run)


def test_a_price_goes_along_and_a_distance_stays() -> None:
    """Where the reference is the price of the entry itself, the order is the one that was given."""
    ticks = tape(walk(3000, 1))
    record = Record(ticks, 300, FEES)
    now = Decimal("100")
    by_price = order(take_profits=[(101, 50), (102, 50)], stop_loss=99)
    by_distance = order()
    a, b = record.of(by_price, now), record.of(by_distance, now)
    assert a.finished == b.finished
    assert a.expectancy == pytest.approx(b.expectancy, abs=2e-5)  # slippage moves what distances are measured from
    assert a.levels == pytest.approx(b.levels, abs=0.03)
    start = int(record.entries.cursors[7])
    here = float(ticks.instrument.price(int(ticks.price[start])))
    one = order(entry=so.Entry.limit(round(here * 0.995, 4)), take_profits=[(here * 2, 100)], stop_loss=here / 2)
    rows, _ = Record(ticks, [start], FEES).outcomes(one, here)
    run = so.replay(one, ticks, start, FEES)
    assert rows.first_fill[0] == run.orders["entry_ts"].to_physical()[0]
    assert record.of(by_price).orders == 300  # the last price, by default


def test_sizes_do_not_matter_but_for_rounding() -> None:
    record = Record(tape(walk(5000, 2)), 200)
    made = order(entry=so.Entry.limit("99.5"), take_profits=[(101, 60), (102, 40)], stop_loss=98)
    found = [record.of(made.replace(**size), 100) for size in ({"quantity": 1}, {"cost": 500}, {"risk": 20})]
    for one in found[1:]:
        assert one.levels == found[0].levels
        assert one.expectancy == pytest.approx(found[0].expectancy, rel=1e-4)


def test_very_fine_prices_stay_exact() -> None:
    """Ratios of prices with many digits leave 64 bits, and are counted on beyond them."""
    ticks = tape(walk(2000, 8), instrument=so.Instrument(symbol="A/B:B", price_increment="1e-4"))
    made = order(entry=so.Entry.limit("99.5"), take_profits=[("101.2", 100)], stop_loss="98.7")
    odds, run, kept = check(Record(ticks, 100), made, Decimal("100.123456789012345678"))
    assert len(kept) == 100
    check_figures(odds, run)


def test_prices_in_between_are_rounded_away() -> None:
    """From 95 an activation at 110 of 100 lies at 104.5, which is 105: at 104 nothing is armed yet."""
    whole = so.Instrument(symbol="A/B:B", price_increment="1", quantity_increment="1")
    record = Record(tape([95.0, 104.0, 102.0, 105.0, 103.0], instrument=whole), [0])
    made = order(take_profits=[], stop_loss=50, trailing_stop={"callback_rate": "1%", "activation": 110})
    rows, _ = record.outcomes(made, 100)
    assert rows.last_exit[0] == T0 + 4 * SECOND


def test_a_price_stays_above_nothing() -> None:
    whole = so.Instrument(symbol="A/B:B", price_increment="1", quantity_increment="1")
    record = Record(tape([100.0, 50.0, 50.0], instrument=whole), [0, 1])
    made = so.SmartOrder(symbol="A/B:B", side="buy", cost=500, entry=so.Entry.limit(1), take_profits=[(2, 100)])
    assert record.outcomes(made, 100)[0].planned.tolist() == [500, 500]


def test_what_is_too_fine_at_the_highest_entry_is_coarser() -> None:
    """The level that an order has at the highest entry must fit 64 bits as well: sizes take the steps that replay() gives them."""
    ticks = tape(np.array([1000.0001, 1.0, 1.0]))
    record, made = Record(ticks, [0, 1]), order(quantity=100, take_profits=[(100, 100)], stop_loss="50%")
    _, instrument = record.outcomes(made, 1)
    run = so.replay(replayed(record, made, 1)[0], ticks, [0, 1])
    assert instrument.quantity_increment == Decimal(run.meta["instrument"]["quantity_increment"])
    alone = so.replay(made, ticks, 1)
    assert instrument.quantity_increment > Decimal(alone.meta["instrument"]["quantity_increment"])


def test_threads_change_nothing() -> None:
    ticks = tape(walk(20_000, 3))
    one, many = (Record(ticks, 700, FEES, workers=workers).of(order(trailing_stop="1.5%")) for workers in (1, 3))
    assert one == many


# ---------------------------------------------------------------------------------------------------- figures


def test_small_tape_by_hand() -> None:
    """Up to the first level and down again: half is sold at +1 %, half at −1 %, from the first tick only."""
    record = Record(tape([100.0, 101.0, 99.0, 98.0]), [0, 1, 3])
    odds = record.of(order())
    assert (odds.orders, odds.entered, odds.finished, odds.unfinished) == (3, 3, 2, 1)
    assert odds.levels == (0.5, 0.0)
    assert odds.stops == 1.0
    assert odds.expectancy == pytest.approx((0.0 + (99 - 101) / 101) / 2)
    assert odds.win_rate == 0
    assert odds.hold_median_ns == 1.5 * SECOND
    assert odds.low is odds.high is odds.win_interval is odds.effective is None  # two blocks of time are no sample
    assert odds.level_intervals == (None, None)


def test_never_entered_is_counted_and_no_more() -> None:
    record = Record(tape(walk(2000, 5)), 50)
    odds = record.of(order(entry=so.Entry.limit(1), take_profits=[(200, 100)], stop_loss="-1%"), 100)
    assert (odds.orders, odds.entered, odds.finished) == (50, 0, 0)
    assert odds.expectancy is odds.median is odds.stops is odds.hold_median_ns is None
    assert (odds.edges, odds.counts, odds.levels) == ((), (), (None,))
    assert "nothing finished" in repr(odds)
    assert "returns" in str(odds)
    assert "Odds" in odds._repr_html_()
    json.dumps(odds.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("distance", "seeds"), [("0.5%", 60), ("1.5%", 60)])
def test_intervals_cover_the_truth(distance, seeds) -> None:
    """A walk without drift: a level as far away as the stop is reached as often as theory says, and the interval holds that about 95
    times in 100, also where a life lasts as long as a block of time."""
    made = order(take_profits=[(distance, 100)], stop_loss=distance)
    away = float(distance.rstrip("%")) / 100
    truth = np.log(1 / (1 - away)) / np.log((1 + away) / (1 - away))
    share, mean = [], []
    for seed in range(seeds):
        odds = Record(tape(walk(60_000, 100 + seed, 5e-4)), 400, seed=seed).of(made)
        assert odds.effective < odds.finished
        share.append(odds.level_intervals[0].low <= truth <= odds.level_intervals[0].high)
        mean.append(odds.low <= away * (2 * truth - 1) <= odds.high)
    assert np.mean(share) >= 0.88
    assert np.mean(mean) >= 0.88


def test_more_of_the_same_says_no_more() -> None:
    """Entries beside one another share their fate: taking five for one narrows nothing."""
    ticks = tape(walk(60_000, 9, 5e-4))
    few = Record(ticks, 400).entries.cursors
    alone, crowded = (Record(ticks, entries).of(order()) for entries in (few, np.repeat(few, 5)))
    assert crowded.finished == 5 * alone.finished
    for a, b in zip(alone.level_intervals, crowded.level_intervals, strict=True):
        assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.15)
    assert crowded.high - crowded.low == pytest.approx(alone.high - alone.low, rel=0.15)
    assert crowded.effective == pytest.approx(alone.effective, rel=0.3)
    plain = metrics.wilson(round(crowded.win_rate * crowded.finished), crowded.finished, LEVEL)
    assert crowded.win_interval.high - crowded.win_interval.low > 3 * (plain.high - plain.low)


def test_independent_orders_count_in_full() -> None:
    """Lives of one tick that do not overlap: the effective number is that of the orders, as far as 60 blocks can tell."""
    steps = np.random.default_rng(4).choice([100.0, 102.0, 98.0], 6000)
    steps[::2] = 100.0
    odds = Record(tape(steps), np.arange(0, 5998, 2)).of(order(take_profits=[("1%", 100)], max_hold="1s"))
    assert odds.effective > 0.6 * odds.finished
    lone = metrics.wilson(round(odds.levels[0] * odds.finished), odds.finished, LEVEL)
    own = odds.level_intervals[0]
    assert own.high - own.low == pytest.approx(lone.high - lone.low, rel=0.35)


def test_good_and_bad_times_are_told_apart_from_good_and_bad_luck() -> None:
    """Short lives that do not overlap, but share the mood of their time: as many count as there are moods."""
    moods = np.random.default_rng(3).choice([101.0, 99.0], 60)
    steps = np.full(60 * 40, 100.0)
    steps[1::2] = np.repeat(moods, 20)
    record = Record(tape(steps), np.arange(0, len(steps), 2))
    made = order(take_profits=[("1%", 100)])
    odds = record.of(made)
    assert odds.finished == 1200
    assert 40 < odds.effective < 80
    rows, instrument = record.outcomes(made)
    spread = money(rows, instrument, so.FillModel())["return"].std()
    students = 2.0010  # of 59 degrees of freedom
    assert odds.high - odds.low == pytest.approx(2 * students * spread / odds.effective**0.5, rel=1e-4)
    assert (odds.high + odds.low) / 2 == pytest.approx(odds.expectancy)
    lone = metrics.wilson(odds.levels[0] * odds.effective, odds.effective, LEVEL)
    own = odds.level_intervals[0]
    assert 1.005 < (own.high - own.low) / (lone.high - lone.low) < 1.05


def test_results_that_are_all_alike_have_no_interval() -> None:
    steps = np.tile([100.0, 101.0], 600)
    odds = Record(tape(steps), np.arange(0, 1200, 2)).of(order(take_profits=[("1%", 100)]))
    assert odds.low is odds.high is None
    assert 0.98 < odds.level_intervals[0].low < odds.level_intervals[0].high == 1
    assert "(no interval)" in str(odds)


def test_what_never_happened_may_happen() -> None:
    """A level that never filled has an interval that ends above 0, and the wider the fewer lives fit into the time."""
    ticks = tape(walk(60_000, 6, 5e-4))
    near, far = (
        Record(ticks, 400).of(order(take_profits=[("1%", 50), ("50%", 50)], stop_loss=s)) for s in ("0.4%", "1%")
    )
    for odds in (near, far):
        assert odds.levels[1] == 0
        assert odds.level_intervals[1].low == 0
    assert far.level_intervals[1].high > 1.4 * near.level_intervals[1].high > 3 / 400


def test_the_histogram_keeps_equal_results_together() -> None:
    """Most orders end at exactly −1 % or +1 %: two boxes, with an edge at 0 between them."""
    steps = np.tile([100.0, 101.0, 100.0, 99.0], 500)
    odds = Record(tape(steps), np.arange(0, 2000, 2)).of(order(take_profits=[("1%", 100)], max_hold="1h"))
    assert odds.finished > 990
    assert 0 in odds.edges
    assert len(odds.edges) == len(odds.counts) + 1
    assert np.count_nonzero(odds.counts) == 2
    assert (odds.below, odds.above) == (0, 0)
    assert np.allclose(np.diff(odds.edges), odds.edges[1] - odds.edges[0])


def test_rounding_does_not_part_results() -> None:
    """The same result in two floats that differ in the last digit is in one box."""
    edges, counts, below, above = _histogram(np.repeat([-0.01, -0.010000000000000009, 0.02, 0.020000000000000018], 50))
    assert [count for count in counts if count] == [100, 100]
    assert (below, above) == (0, 0)
    assert edges[0] == -0.01


def test_tails_are_counted() -> None:
    steps = np.full(8000, 100.0)
    steps[1::4] = 101.0
    steps[[401, 801]] = 150.0
    steps[1201] = 50.0
    odds = Record(tape(steps), np.arange(0, 8000, 4)).of(order(take_profits=[("1%", 100)]))
    assert (odds.below, odds.above) == (1, 2)
    assert sum(odds.counts) == odds.finished - 3
    assert "(1 below, 2 above)" in str(odds)


def test_bars_say_where_their_path_decided(market_data) -> None:
    bars = so.Ticks.read(market_data / "bars_ftx_BTCPERP_1m_202201.parquet", symbol="A/B:B")
    record = Record(bars, 200)
    assert (record.entries.cursors % 4 == 0).all()
    tight = record.of(order(stop_loss="0.05%", take_profits=[("0.05%", 100)]))
    assert tight.ambiguous > 10
    assert "path of bars decided" in str(tight)
    assert record.of(order(stop_loss="5%", take_profits=[("5%", 100)])).ambiguous == 0


# ---------------------------------------------------------------------------------------------------- how it looks


def test_what_it_shows() -> None:
    record = Record(tape(walk(60_000, 7, 5e-4)), 500, FEES)
    assert repr(record) == "Record(A/B:B, 60,000 ticks, 500 entries: 500 at random, seed 0)"
    assert len(record) == 500
    odds = record.of(order(trailing_stop="0.8%", break_even=True))
    assert repr(odds).startswith("Odds(500 entries, 500 filled, ")
    assert "\n" not in repr(odds)
    text = str(odds)
    for part in (
        "mean return",
        "(95 %: ",
        "levels filled  1: ",
        "trailing stop ",
        "not a forecast",
        "independent ones",
    ):
        assert part in text
    page = odds._repr_html_()
    assert "role='img'" in page
    assert not any(word in page for word in ("<script", "<style", "class=", "http"))
    told = json.loads(json.dumps(odds.to_dict(), allow_nan=False))
    assert told["expectancy"] == odds.expectancy
    assert told["level_intervals"][0] == list(odds.level_intervals[0])
    assert told["unfinished"] == odds.unfinished
    assert len(told["edges"]) == len(told["counts"]) + 1


# ---------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"ticks": [1, 2]}, so.DataError, "is not Ticks"),
        ({"entries": 51}, so.DataError, "random_entries(51) of 50 ticks; ask for fewer"),
        ({"entries": 0}, so.DataError, "at least 1"),
        ({"entries": True}, so.DataError, "are no entries"),
        ({"entries": MAX_ENTRIES + 1}, so.LimitError, "MAX_ENTRIES"),
        ({"entries": np.repeat(3, MAX_ENTRIES + 1)}, so.LimitError, "MAX_ENTRIES"),
        ({"entries": [99]}, so.DataError, "lies outside the ticks"),
        ({"entries": np.tile([1, -1], 25)}, so.DataError, "a record is of one order"),
        ({"entries": None}, so.DataError, "is required"),
        ({"seed": -1}, so.DataError, "seed = -1"),
        ({"fills": "none"}, so.SpecError, "is not a FillModel"),
    ],
)
def test_what_makes_no_record(arguments, error, said) -> None:
    with pytest.raises(error) as caught:
        Record(**{"ticks": tape(walk(50, 1)), "entries": 10, **arguments})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_ticks_make_no_record() -> None:
    ticks = tape(walk(50, 1))
    empty = so.Ticks(ticks.instrument, ticks.ts[:0], ticks.price[:0])
    with pytest.raises(so.DataError, match="ticks: are empty"):
        Record(empty)


@pytest.mark.parametrize(
    ("made", "reference", "said"),
    [
        ("buy 1", None, "is not a SmartOrder"),
        (order(symbol="C/D:D"), None, "symbol = 'C/D:D': is not the instrument's A/B:B"),
        (order(stop_loss=101), 100, "stop_loss.target = '101': must be below the price now, 100"),
        (
            order(take_profits=[(99, 50), (102, 50)], stop_loss="2%"),
            100,
            "take_profits[0].target = '99': must be above",
        ),
        (order(side="sell", stop_loss=99), 100, "must be above the price now"),
        (order(trailing_stop={"callback_rate": "1%", "activation": 98}), 100, "trailing_stop.activation = '98'"),
        (order(), 0, "reference = 0: must be above 0; give a positive number"),
        (order(), "dear", "reference = 'dear': must be a finite number"),
        (order(), float("nan"), "reference = nan: must be a finite number"),
    ],
)
def test_what_has_no_odds(made, reference, said) -> None:
    with pytest.raises(so.SpecError) as caught:
        Record(tape(walk(50, 1)), 10).of(made, reference)
    assert said in str(caught.value)


def test_what_the_ticks_do_not_have_is_refused() -> None:
    record = Record(tape(walk(50, 1)), 10, {"participation": "10%"})
    with pytest.raises(so.DataError, match="no sizes"):
        record.of(order())
    with pytest.raises(so.DataError, match="bid"):
        Record(tape(walk(50, 1)), 10).of(order(trigger="bid"))
    coarse = so.Instrument(symbol="A/B:B", price_increment="0.5", quantity_increment="1", min_notional=1000)
    steps = np.repeat([100.0, 100.5], 25)
    with pytest.raises(so.SpecError, match="off the price increment"):
        Record(tape(steps, instrument=coarse), 10).of(order(stop_loss="98.7", quantity=50))
    with pytest.raises(so.SpecError, match="minimum notional"):
        Record(tape(steps, instrument=coarse), 10).of(order(entry=so.Entry.limit(100)))
    with pytest.raises(so.LimitError, match=r"orders\[0\].quantity"):
        Record(tape(steps), 10).of(order(quantity=10**17))
