"""Odds: what the very same order would have done from thousands of other moments of the same ticks, in milliseconds.

    record = Record(ticks, entries=2000)
    record.of(order)                            # Odds: while a line is dragged, again and again

The order is taken to each entry as it stands now: a distance stays a distance, and a price keeps its ratio to the price of the
moment, so that a limit 1 % below the price now is a limit 1 % below the price at each entry, and its stop goes with it. From there
it is an order like any other: the engine that replays it decides, and fees, slippage and latency are those of the fill model.

What the figures are: the record of one order on one stretch of the past. What they are not: a forecast. Whoever drags the lines until
the record looks good has fitted the order to these very ticks, and no interval knows how often that was tried; `sweep().best()` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from math import floor, log10, sqrt
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from .entries import find_entries, random_entries
from .errors import DataError, LimitError, Problem, SpecError, short
from .fields import Distance, number, plain
from .fills import FillModel
from .instrument import Instrument
from .lower import Table, check, lower_fills, reference_price, suit
from .machine import Machine, chunk, cores, in_order
from .metrics import MIN_BLOCKS, Interval, wilson
from .outcomes import read_outcomes
from .rows import OUTCOME, SCALE, Reason, Status, table
from .run import money
from .spec import Part, SmartOrder
from .tallies import Tallier, Tally, block_edges, columns, stretch
from .ticks import Ticks
from .times import NS, instant_text

MAX_ENTRIES = 200_000
"""Most entries of a record: it is for answers while one waits; a sweep takes more."""
LEVEL = 0.95
"""Of every interval here."""
_BINS = 30
_TAIL = 0.005
"""Share of the results at either end that the histogram counts without drawing."""
_PRICES = {"target", "limit", "emergency", "activation", "price", "limit_price"}
"""Fields that hold a price or a distance."""
_MANY_OPEN = 0.05
"""Share of open orders from which on it is said what that does to the figures."""
_NAMED = {
    Reason.TAKE_PROFIT,
    Reason.TRAILING_TAKE_PROFIT,
    Reason.STOP_LOSS,
    Reason.TRAILING_STOP,
    Reason.BREAK_EVEN,
    Reason.MAX_HOLD,
}
"""Ends that have a share of their own."""


@dataclass(frozen=True)
class Odds:
    """The record of one order over many entries: what it did on these ticks, not what it will do.

    `orders` entries were tried between `first_ts` and `last_ts` (ns), `entered` of them filled, `finished` came to an end. The others
    are counted and no more: every share, mean and quantile is of the finished ones, as in a sweep. Where many are `unfinished`, the
    figures favour what ends soon.

    `expectancy` is the mean net return on what was paid, `low` to `high` its interval; `median`, `win_rate` with `win_interval`;
    `levels`: how often each level filled completely, with `level_intervals`; `targets`, `stops`, `trails`, `evens`, `holds` (time
    limit) and `others`: what ended it, summing to 1; `hold_median_ns`: from the first fill to the last. Fractions and shares, not per
    cent. Levels too small for the market are merged, as a replay of the order as it stands would merge them.

    `edges` and `counts`: the histogram of returns; `below` and `above` count what lies outside of it. `ambiguous`: orders that lived
    through a bar which holds both the stop and the next level, so that the path chosen for bars decided.

    Intervals are at 95 %. Orders whose lives overlap share their fate, so nothing is gained by packing entries more closely: the
    variance of a mean is the larger of that between blocks of time (those of a sweep, each at least as long as a mean hold) and the sum
    over all pairs of orders that were open at the same time, and Student's quantile pays for few blocks. `effective` is the number of
    independent orders whose mean would vary as much, never more than mean holds fit into the time. Shares get Wilson's interval on
    their own effective number: resampling a level that never filled would say 0 to 0. None: undefined, too few blocks of time, or
    results that are all alike.
    """

    orders: int
    entered: int
    finished: int
    levels: tuple[float | None, ...]
    level_intervals: tuple[Interval | None, ...]
    targets: float | None
    stops: float | None
    trails: float | None
    evens: float | None
    holds: float | None
    others: float | None
    expectancy: float | None
    low: float | None
    high: float | None
    median: float | None
    win_rate: float | None
    win_interval: Interval | None
    hold_median_ns: int | None
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int
    effective: float | None
    ambiguous: int
    first_ts: int
    last_ts: int

    @property
    def unfinished(self) -> int:
        """Orders that entered and were still open when the ticks ended."""
        return self.entered - self.finished

    @property
    def exits(self) -> dict[str, float | None]:
        """The share of each way to end, by name."""
        return {
            "target": self.targets,
            "stop loss": self.stops,
            "trailing stop": self.trails,
            "break-even": self.evens,
            "time limit": self.holds,
            "other": self.others,
        }

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data for JSON: intervals as lists of two, what is undefined as None."""
        told = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return told | {"unfinished": self.unfinished}

    def __repr__(self) -> str:
        mean = "nothing finished" if self.expectancy is None else f"{self.expectancy:+.3%} per order"
        return f"Odds({self.orders:,} entries, {self.entered:,} filled, {self.finished:,} finished, {mean})"

    def __str__(self) -> str:
        wide = max(len(name) for name, _ in self._lines())
        return "\n".join([self._head(), *(f"  {name:<{wide}}  {text}" for name, text in self._lines()), *self._notes()])

    def _head(self) -> str:
        share = _percent(self.entered / self.orders if self.orders else None)
        return f"{self.orders:,} entries, {self.entered:,} filled ({share}), {self.finished:,} finished"

    def _lines(self) -> list[tuple[str, str]]:
        between = "no interval" if self.low is None else f"95 %: {self.low:+.3%} to {self.high:+.3%}"
        mean = "–" if self.expectancy is None else f"{self.expectancy:+.3%} ({between})"
        levels = [
            f"{n}: {_ranged(*pair)}" for n, pair in enumerate(zip(self.levels, self.level_intervals, strict=True), 1)
        ]
        ended = [f"{name} {_percent(share)}" for name, share in self.exits.items() if share]
        return [
            ("mean return", mean),
            ("median", "–" if self.median is None else f"{self.median:+.3%}"),
            ("won", _ranged(self.win_rate, self.win_interval)),
            ("levels filled", "   ".join(levels) or "–"),
            ("ended by", ", ".join(ended) or "–"),
            ("typical hold", "–" if self.hold_median_ns is None else _lasting(self.hold_median_ns)),
            ("returns", _sparks(self)),
        ]

    def _notes(self) -> list[str]:
        found = []
        if self.unfinished:
            much = ": the figures favour what ends soon" if self.unfinished > _MANY_OPEN * self.entered else ""
            found.append(f"{self.unfinished:,} still open at the last tick, in no figure{much}")
        if self.effective is not None and self.effective < self.finished:
            found.append(
                f"entries overlap: they say as much as about {max(round(self.effective), 1):,} independent ones"
            )
        if self.ambiguous:
            found.append(
                f"{self.ambiguous:,} lived through a bar that holds both stop and level: the path of bars decided"
            )
        span = f"{instant_text(self.first_ts)} to {instant_text(self.last_ts)}"
        return [*found, f"entries from {span}; a record of these ticks, not a forecast"]

    def _repr_html_(self) -> str:
        from .looks import table

        return table(f"Odds: {self._head()}", self._lines()[:-1], notes=self._notes(), below=_bars(self))


class Record:
    """The moments at which an order could have been placed, and what does not depend on the order: made once, asked often.

    Parameters
    ----------
    ticks : a `Ticks`.
    entries : how many ticks to draw at random (with `seed`), or the moments themselves, as in sweep(): tick numbers, times, a mask,
        `"every 1h"`. A signal with sides is refused: the order has its own. Ticks drawn at random lie close where trade was busy.
    fills : the fill model; no fees, slippage or latency if it is not given.
    workers : threads; None: one per core.

    The tick index is built and the engine loaded when the first order is asked for. Raises DataError for ticks or entries, SpecError
    for fills, LimitError for more than MAX_ENTRIES entries.
    """

    def __init__(
        self,
        ticks: Ticks,
        entries: Any = 2000,
        fills: FillModel | Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        workers: int | None = None,
    ):
        if not isinstance(ticks, Ticks):
            raise DataError(
                f"ticks = {short(ticks)}: is not Ticks; read them with Ticks.read(...) or Ticks.from_arrays(...)"
            )
        if not len(ticks):
            raise DataError("ticks: are empty; give at least one")
        if fills is not None and not isinstance(fills, (FillModel, Mapping)):
            raise SpecError(Problem("fills", fills, "is not a FillModel", 'write FillModel(fee_taker="0.1%")'))
        self.ticks, self.seed, self.workers = ticks, seed, workers
        self.fills = fills if isinstance(fills, FillModel) else FillModel(**(fills or {}))
        if isinstance(entries, (int, np.integer)) and not isinstance(entries, bool):
            _check_count(int(entries))
            entries = random_entries(int(entries), seed)
        self.entries = find_entries(entries, ticks)
        _check_count(len(self.entries))
        if self.entries.sides is not None:
            raise DataError("entries: say long and short; a record is of one order, give a mask (signal > 0)")
        self._chunks: dict[tuple[str, int, Decimal], tuple[Any, ...]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def __repr__(self) -> str:
        return f"Record({self.ticks.symbol or 'ticks'}, {len(self.ticks):,} ticks, {len(self):,} entries: {self.entries.text})"

    def of(self, order: SmartOrder, reference: Any = None) -> Odds:
        """The odds of an order that is placed at the price `reference` now, by default the last price it watches.

        `reference` matters to orders with absolute prices only. Raises SpecError if the order does not fit the ticks' market (also their
        symbol, as in replay()) or, bought at market, has a stop or a level on the wrong side of `reference`.
        """
        rows, instrument = self.outcomes(order, reference)
        return self._odds(rows, instrument)

    def outcomes(self, order: SmartOrder, reference: Any = None) -> tuple[np.recarray, Instrument]:
        """What became of the order at each entry, as rows of OUTCOME, and the instrument whose units they are in."""
        if not isinstance(order, SmartOrder):
            raise SpecError(Problem("order", short(order), "is not a SmartOrder", "build it with SmartOrder(...)"))
        problems = [p for p in check(order, self.ticks.instrument) if p.level == "error"]
        if problems:
            raise SpecError(problems)
        view = self.ticks.view(order.trigger, order.direction)
        here = view.price[self.entries.cursors]
        now = _reference(reference, self.ticks.instrument.price(int(view.price[-1])))
        moves = _has_prices(order)
        if moves and order.entry.kind == "market":
            _check_sides(order, now)
        low, high = self.ticks.price_range()
        at = Fraction(self.ticks.instrument.price_increment) / Fraction(now)
        ends = [_scaled(order, at * int(units)) for units in (here.min(), here.max())] if moves else []
        instrument = suit(self.ticks.instrument, [order, *ends], (), low, high)
        model = lower_fills(self.fills, instrument, 0, high)
        count = len(self)
        book = Table([order] * count, instrument, [()] * count, self.fills)
        book.orders.created, book.orders.cursor = self.entries.created, self.entries.cursors
        if moves:
            _move(book, order, instrument, here, Fraction(now))
        found = table(OUTCOME, count)
        self._run(book, model, self._chunk(order, instrument))
        read_outcomes(book, found)
        return found, instrument

    def _chunk(self, order: SmartOrder, instrument: Instrument) -> tuple[Any, ...]:
        """What the engine sees of the ticks; of the instrument, only sizes of ticks depend on it."""
        key = (order.trigger, order.direction, instrument.quantity_increment)
        if key not in self._chunks:
            view, index = self.ticks.view(*key[:2]), self.ticks.index(*key[:2], self.workers)
            self._chunks[key] = chunk(view, instrument, self.fills, index)
        return self._chunks[key]

    def _run(self, book: Table, model: np.recarray, ticks: tuple[Any, ...]) -> None:
        count, threads = len(self), self.workers or cores()
        step = max(64, -(-count // (4 * threads)))
        for _ in in_order(
            lambda first: Machine(book, model).advance(ticks, first, min(first + step, count), keep=False),
            range(0, count, step),
            threads,
        ):
            pass

    # ------------------------------------------------------------------------------------------------ what it came to

    @cached_property
    def _edges(self) -> np.ndarray:
        return block_edges([self.entries.created], 1)

    def _odds(self, rows: np.recarray, instrument: Instrument) -> Odds:
        count, levels = len(rows), int(rows[0].levels)
        tallier = Tallier(1, self.entries.created, self._edges, levels)
        earned = money(rows, instrument, self.fills)
        tallier.add(0, 1, 0, count, rows, earned)
        tally, said = tallier.tally, {name: values[0] for name, values in columns(tallier.tally).items()}
        done = (rows.bought > 0) & (rows.status >= Status.CLOSED) & (rows.reason > 0)
        finished, returns = int(done.sum()), earned["return"][done]
        chance = _Chance.of(tally, self._edges, tallier.entered_in[done], rows[done])
        between = chance.mean(returns)
        ways = np.bincount(rows.reason[done], minlength=max(Reason) + 1) / max(finished, 1)
        hits = [(rows.hits[done] >> level) & 1 for level in range(levels)]
        held = (rows.last_exit - rows.first_fill)[done & (rows.exited > 0)]
        edges, counts, below, above = _histogram(returns)

        def share(*reasons: Reason) -> float | None:
            return float(sum(ways[reason] for reason in reasons)) if finished else None

        return Odds(
            orders=count,
            entered=int(said["entered"]),
            finished=finished,
            levels=tuple(_number(said[f"hit_{level}"]) for level in range(levels)),
            level_intervals=tuple(chance.share(hit) for hit in hits),
            targets=share(Reason.TAKE_PROFIT, Reason.TRAILING_TAKE_PROFIT),
            stops=share(Reason.STOP_LOSS),
            trails=share(Reason.TRAILING_STOP),
            evens=share(Reason.BREAK_EVEN),
            holds=share(Reason.MAX_HOLD),
            others=share(*(reason for reason in Reason if reason not in _NAMED)),
            expectancy=_number(said["expectancy"]),
            low=None if between is None else between.low,
            high=None if between is None else between.high,
            median=_number(said["return_q50"]),
            win_rate=_number(said["win_rate"]),
            win_interval=chance.share(earned["pnl"][done] > 0),
            hold_median_ns=int(np.median(held)) if len(held) else None,
            edges=edges,
            counts=counts,
            below=below,
            above=above,
            effective=chance.effective(returns),
            ambiguous=int((rows.bars[done] > 0).sum()),
            first_ts=int(self.entries.created.min()),
            last_ts=int(self.entries.created.max()),
        )


# --- the order at each entry -------------------------------------------------------------------------------------------


def _check_count(count: int) -> None:
    if count > MAX_ENTRIES:
        raise LimitError(f"entries = {count:,}: more than MAX_ENTRIES = {MAX_ENTRIES:,}; take fewer, or sweep()")


def _reference(given: Any, last: Decimal) -> Decimal:
    """The price now. Raises SpecError."""
    if given is None:
        return last
    try:
        return number(given)
    except ValueError as error:
        raise SpecError(Problem("reference", given, *str(error).split("; ", 1))) from None


def _prices(value: Any, path: str = "") -> list[tuple[str, Decimal]]:
    """Every absolute price of an order or a part of it, held coins' too, with its path."""
    if isinstance(value, tuple):
        return [found for i, item in enumerate(value) for found in _prices(item, f"{path}[{i}]")]
    found: list[tuple[str, Decimal]] = []
    for name, item in value if isinstance(value, Part) else ():
        where = f"{path}.{name}" if path else name
        found += [(where, item)] if name in _PRICES and isinstance(item, Decimal) else _prices(item, where)
    return found


def _has_prices(order: SmartOrder) -> bool:
    return bool(_prices(order))


def _check_sides(order: SmartOrder, now: Decimal) -> None:
    """An order bought at market says nowhere what its prices lie beside; `now` does."""
    problems = []
    for path, price in _prices(order):
        sign = -order.direction if path.startswith("stop_loss") else order.direction
        if sign * (price - now) <= 0:
            side = "above" if sign > 0 else "below"
            rule = f"must be {side} the price now, {plain(now)}, at which a market order buys or sells"
            problems.append(Problem(path, plain(price), rule, "move it, or give the reference= that it was meant for"))
    if problems:
        raise SpecError(problems)


def _scaled(value: Any, factor: Fraction) -> Any:
    """An order with its absolute prices times `factor`, unrounded and unchecked: enough to see whether it fits 64 bits."""
    if isinstance(value, tuple):
        return tuple(_scaled(item, factor) for item in value)
    if not isinstance(value, Part):
        return value
    return value.model_copy(
        update={
            name: item * factor.numerator / factor.denominator
            if name in _PRICES and isinstance(item, Decimal)
            else _scaled(item, factor)
            for name, item in value
        }
    )


class _Mover(NamedTuple):
    """Takes a price to every entry: mirrored units, rounded as lower.py rounds that kind of price, never below one increment."""

    here: np.ndarray
    now: Fraction
    side: int

    def __call__(self, price: Decimal, up: bool) -> np.ndarray:
        ratio, here = Fraction(price) / self.now, self.here
        a, b = ratio.numerator, ratio.denominator
        if max(a, b).bit_length() + int(here.max()).bit_length() > 62:
            here = here.astype(object)
        units = -(-a * here // b) if up == (self.side > 0) else a * here // b
        return self.side * np.maximum(units, 1).astype(np.int64)


def _move(book: Table, order: SmartOrder, instrument: Instrument, here: np.ndarray, now: Fraction) -> None:
    """Put the order's prices, and the size that follows from them, to where they are at each entry (`here`: its price in units)."""
    to, rows = _Mover(here, now, order.direction), book.orders
    legs = book.legs.reshape(len(rows), -1)
    entry, stop, trail = order.entry, order.stop_loss, order.trailing_stop
    if entry.kind == "stop" and entry.price is not None:
        rows.entry_x = to(entry.price, True)
    if entry.activation is not None:
        rows.entry_activation = to(entry.activation, False)
    single = entry.limit_price if entry.kind == "stop" else entry.price
    for k, price in enumerate([rung.price for rung in entry.rungs] or [single]):
        if price is not None:
            x = to(price, False)
            # rounding must not leave a limit short of its stop, where it would rest
            legs["x"][:, k] = legs["price"][:, k] = np.maximum(x, rows.entry_x) if entry.kind == "stop" else x
    if stop:
        if isinstance(stop.target, Decimal):
            rows.stop_value = to(stop.target, False)
        if isinstance(stop.limit, Decimal):
            x = to(stop.limit, True)
            rows.stop_limit_value = np.minimum(x, rows.stop_value) if isinstance(stop.target, Decimal) else x
        if isinstance(stop.emergency, Decimal):
            rows.emergency_value = to(stop.emergency, False)
    if trail and isinstance(trail.activation, Decimal):
        rows.activation_value = to(trail.activation, True)
    for k, level in enumerate(book.ladder(order), max(len(entry.rungs), 1)):
        if isinstance(level.target, Decimal):
            legs["target_value"][:, k] = legs["x"][:, k] = to(level.target, True)
    if order.quantity is None and reference_price(order) is not None:
        _resize(rows, legs, order, instrument)


def _resize(rows: np.recarray, legs: np.ndarray, order: SmartOrder, instrument: Instrument) -> None:
    """The planned quantity where cost or risk and the entry's own price decide it, as lower.planned_units has it: exact, rounded down."""
    sizes = [Fraction(rung.size) for rung in order.entry.rungs] or [Fraction(100)]
    common = int(np.lcm.reduce([size.denominator for size in sizes]))
    weights = [int(size * common) for size in sizes]
    whole, side = 100 * common, order.direction
    # the average price is total / whole
    total: Any = sum(side * legs["x"][:, k].astype(object) * weight for k, weight in enumerate(weights))
    away = total
    if order.risk is not None:
        assert order.stop_loss is not None
        target = order.stop_loss.target
        if isinstance(target, Distance):
            above = total * (SCALE + int(target.fraction * SCALE))
            stop = above // (whole * SCALE) if side > 0 else -(-above // (whole * SCALE))
        else:
            stop = side * rows.stop_value.astype(object)
        away = side * (total - whole * stop)
    amount = Fraction(order.cost if order.cost is not None else order.risk)  # type: ignore[arg-type]
    units = amount / Fraction(instrument.price_increment) / Fraction(instrument.quantity_increment)
    planned = [min(units.numerator * whole // (units.denominator * a), 2**62) if a > 0 else 0 for a in away]
    rows.planned = rows.amount = planned
    given: Any = 0
    upto = 0
    for k, weight in enumerate(weights):
        upto += weight
        share = np.array(planned, object) * upto // sum(weights)
        legs["quantity"][:, k] = share - given
        given = share


# --- figures -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chance:
    """What chance can do to the mean of a value of each finished order.

    `block`: the block of time that each entered in, of `count`, each as long as a mean hold or longer. `order`: the finished orders by
    their first fill; `upto`: behind the last one that begins before each ends. `lives`: how many mean holds fit into the time.
    """

    block: np.ndarray
    count: int
    order: np.ndarray
    upto: np.ndarray
    lives: float

    @classmethod
    def of(cls, tally: Tally, edges: np.ndarray, entered_in: np.ndarray, rows: np.recarray) -> _Chance:
        """Of the finished orders: `rows` of OUTCOME, and the block that each entered in."""
        width = int(stretch(tally, edges)[0])
        begin, end = (np.ascontiguousarray(rows[name]) for name in ("first_fill", "last_exit"))
        held = float(tally["held"][0]) / max(int(tally["exited"][0]), 1)
        lives = float(np.ptp(begin)) / held + 1 if held > 0 and len(begin) else np.inf
        order = np.argsort(begin, kind="stable")
        upto = np.searchsorted(begin[order], np.maximum(begin, end)[order], side="right")
        return cls(entered_in // width, -(-(len(edges) + 1) // width), order, upto, lives)

    @property
    def enough(self) -> bool:
        """Whether there are blocks enough for an interval."""
        return bool((np.bincount(self.block, minlength=self.count) > 0).sum() >= MIN_BLOCKS)

    def variance(self, values: np.ndarray) -> float:
        """Of the mean: the larger of what blocks of time say, and what all pairs of orders do whose lives overlap."""
        off, n = values - values.mean(), len(values)
        of_block = np.bincount(self.block, off, minlength=self.count)
        between = float(of_block @ of_block) * self.count / (self.count - 1)
        off = off[self.order]
        sums = np.concatenate([[0.0], np.cumsum(off)])
        later = sums[self.upto] - sums[1:]
        overlapping = float(off @ off + 2 * (off @ later))
        return max(between, overlapping, float(off @ off)) / n**2

    def effective(self, values: np.ndarray) -> float | None:
        """How many independent orders would have a mean that varies as much as that of `values` does; at most `lives`."""
        if not self.enough:
            return None
        most = min(float(len(values)), self.lives)
        return min(most, float(np.var(values)) / self.variance(values)) if np.ptp(values) > 0 else most

    @property
    def _wide(self) -> float:
        """How much further than a normal quantile Student's lies, for as few blocks or lives as there are."""
        return _student(max(min(self.count, self.lives) - 1, 1.0)) / _normal()

    def mean(self, values: np.ndarray) -> Interval | None:
        """The interval of the mean of `values`."""
        number = self.effective(values)
        if number is None or np.ptp(values) == 0:
            return None
        mean, half = float(values.mean()), _normal() * self._wide * float(np.std(values)) / sqrt(number)
        return Interval(mean - half, mean + half)

    def share(self, values: np.ndarray) -> Interval | None:
        """The interval of a share, from a truth for each finished order."""
        number = self.effective(values.astype(float))
        if number is None:
            return None
        number /= self._wide**2
        # effective numbers need not be whole
        return wilson(values.mean() * number, number, LEVEL)  # type: ignore[arg-type]


def _normal() -> float:
    return NormalDist().inv_cdf((1 + LEVEL) / 2)


def _student(freedom: float) -> float:
    """Student's quantile for LEVEL: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5."""
    z = _normal()
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def _histogram(values: np.ndarray) -> tuple[tuple[float, ...], tuple[int, ...], int, int]:
    """Round edges, one of them at 0 if it lies between, around all but the outermost values; counts between, below and above them."""
    if not len(values):
        return (), (), 0, 0
    values = np.round(values, 12)  # equal results stay on one side of an edge
    cut = int(_TAIL * (len(values) - 1))
    low, high = (float(q) for q in np.sort(values)[[cut, -1 - cut]])
    step = _round_step(max(high - low, abs(low) / 10, abs(high) / 10, 1e-6) / _BINS)
    first, last = floor(low / step), floor(high / step) + 1
    edges = np.array([round(k * step, 12) for k in range(first, last + 1)])
    counts = np.histogram(values, edges)[0]
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return tuple(edges.tolist()), tuple(counts.tolist()), below, above


def _round_step(width: float) -> float:
    """The next larger of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** floor(log10(width))
    return next(round(m * power, 12) for m in (1, 2, 5, 10) if m * power >= width)


# --- text --------------------------------------------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _ranged(share: float | None, between: Interval | None) -> str:
    return _percent(share) if between is None else f"{_percent(share)} ({between.low:.0%} to {between.high:.0%})"


def _lasting(ns: int) -> str:
    """A duration in its two largest units: 2h 5m."""
    units = [(unit, NS[unit]) for unit in ("d", "h", "m", "s", "ms", "us", "ns")]
    at = next((i for i, (_, size) in enumerate(units) if ns >= size), len(units) - 1)
    parts: list[str] = []
    for unit, size in units[at : at + 2]:
        count, ns = divmod(ns, size)
        parts += [f"{count}{unit}"] if count or not parts else []
    return " ".join(parts)


def _sparks(odds: Odds) -> str:
    """The histogram as a line of text, with its ends and what is outside."""
    if not odds.counts:
        return "–"
    most = max(odds.counts)
    line = "".join(" ▁▂▃▄▅▆▇█"[-(-8 * count // most)] for count in odds.counts)
    outside = f" ({odds.below} below, {odds.above} above)" if odds.below or odds.above else ""
    return f"{odds.edges[0]:+.2%} {line} {odds.edges[-1]:+.2%}{outside}"


def _bars(odds: Odds) -> str:
    """The histogram as boxes; a rule stands at 0, and each box says its numbers."""
    if not odds.counts:
        return ""
    most, boxes = max(odds.counts), []
    for low, high, count in zip(odds.edges, odds.edges[1:], odds.counts, strict=False):
        rule = "border-left:2px solid currentColor;" if low == 0 else ""
        boxes.append(
            f"<div title='{low:+.2%} to {high:+.2%}: {count:,}' style='flex:1;{rule}display:flex;align-items:flex-end'>"
            f"<div style='width:100%;height:{60 * count / most:.0f}px;background:currentColor;"
            f"opacity:{0.75 if low >= 0 else 0.4}'></div></div>"
        )
    ends = f"<span>{odds.edges[0]:+.2%} · {odds.below:,} below</span><span>{odds.above:,} above · {odds.edges[-1]:+.2%}</span>"
    return (
        f"<div style='max-width:420px'><div role='img' aria-label='Histogram of returns, {odds.finished:,} orders' "
        f"style='display:flex;gap:1px;height:60px;align-items:stretch'>{''.join(boxes)}</div>"
        f"<div style='display:flex;justify-content:space-between;font-size:80%'>{ends}</div></div>"
    )
