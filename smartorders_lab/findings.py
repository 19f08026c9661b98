"""Sweep: what a sweep found, by combination and by any of its parameters, and how much of the best of it is luck.

The best of many combinations looks good on the very data that it was chosen on. So `best()` says how many were tried, what the best of
as many worthless ones would show, and what a choice made on the first part of the time earned in the rest; `walk_forward()` chooses again
and again. Returns are those of finished orders (docs of `tallies`); intervals resample blocks of time, not orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from itertools import pairwise
from os import PathLike
from typing import Any
from uuid import uuid4

import numpy as np
import polars as pl

from .errors import DataError, LimitError, Problem, StoreError, short
from .metrics import Interval, deflated_sharpe
from .spec import SmartOrder
from .tallies import METRICS, QUANTILES, SUMS, Tally, columns, frame, intervals, luck, merged, metric
from .times import duration_text, instant_text

DRAWS = 1000
"""Resamples behind an interval."""
MIN_FINISHED = 30
"""Fewest finished orders of a combination that may be called the best."""
MAX_FRAME = 20_000_000
"""Most orders that are read from a store at once."""


@dataclass(frozen=True, repr=False)
class Best:
    """The best combination of a sweep, and what to make of it.

    `value` of `metric` on all data; `expectancy` with its `interval`; `tried` combinations, `eligible` of which had enough finished orders.
    `luck`: mean return that the best of as many worthless combinations shows on such data, `p_value`: how often it shows as much as
    this one; `deflated`: expectancy − luck; `deflated_sharpe`: probability of a true Sharpe ratio above that of the best
    worthless one, which takes orders as independent. `chosen`: what the orders that had left before `split_at` would have
    chosen, `train` their mean return, `test` that of the orders that entered from then on. None: undefined (too few orders, or blocks).
    """

    combination: int
    values: dict[str, Any]
    order: SmartOrder
    metric: str
    value: float
    finished: int
    expectancy: float
    interval: Interval | None
    tried: int
    eligible: int
    luck: float | None
    p_value: float | None
    deflated: float | None
    deflated_sharpe: float | None
    split_at: int
    chosen: int | None
    train: float | None
    test: float | None
    test_interval: Interval | None
    test_finished: int
    level: float

    def __str__(self) -> str:
        made_of = ", ".join(f"{name} = {value}" for name, value in self.values.items()) or "the order as it is"
        between = "no interval: too few blocks of time" if self.interval is None else _span(self.interval, self.level)
        lines = [
            f"best of {self.tried:,} combinations tried ({self.eligible:,} with enough finished orders), "
            f"by {self.metric} = {self.value:.6g}",
            f"combination {self.combination}: {made_of}",
            f"mean return {self.expectancy:+.4%} of {self.finished:,} finished orders; {between}",
        ]
        if self.luck is not None:
            lines.append(
                f"the best of as many worthless combinations shows {self.luck:+.4%} by luck (p = {self.p_value:.2g}); "
                f"beyond that: {self.deflated:+.4%}"
            )
        when = instant_text(self.split_at)
        if self.test is None:
            lines.append(f"out of sample from {when}: too few orders to say")
        else:
            between = "" if self.test_interval is None else f"; {_span(self.test_interval, self.level)}"
            lines.append(
                f"out of sample: chosen before {when} (combination {self.chosen}, {self.train:+.4%} until then), "
                f"{self.test:+.4%} of {self.test_finished:,} orders after it{between}"
            )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Best(combination {self.combination} of {self.tried:,}, {self.metric} = {self.value:.6g}, {self.finished:,} orders)"

    def _repr_html_(self) -> str:
        return f"<pre style='white-space:pre-wrap'>{escape(str(self))}</pre>"


@dataclass(frozen=True, repr=False)
class WalkForward:
    """Folds in order of time, in each of which the combination that was best until then was traded.

    `folds`: `fold`, `begin`, `end`, `combination` and its values, `train` and `test` (the metric), `train_finished`, `test_finished`,
    `test_expectancy`, and `all_expectancy`, the mean of all combinations in the same fold. `expectancy`, `interval` and
    `finished` are of the tests of all folds together.
    """

    folds: pl.DataFrame
    metric: str
    expectancy: float | None
    interval: Interval | None
    finished: int

    def __repr__(self) -> str:
        mean = "no mean" if self.expectancy is None else f"{self.expectancy:+.4%}"
        return f"WalkForward({self.folds.height} folds by {self.metric}, {mean} of {self.finished:,} orders)"

    def _repr_html_(self) -> str:
        return f"<div>{escape(repr(self))}</div>{self.folds._repr_html_()}"


class Sweep:
    """What a sweep found: `combinations` (a frame), `specs`, `meta`, `id`, `problems` (of combinations that were left out)."""

    def __init__(
        self,
        specs: Sequence[SmartOrder],
        grid: pl.DataFrame,
        tally: Tally,
        edges: np.ndarray,
        meta: dict[str, Any],
        orders: Callable[[], pl.LazyFrame] | None = None,
        problems: Sequence[Problem] = (),
        id: str | None = None,
    ):
        self.specs, self.grid, self.tally, self.edges, self.meta = list(specs), grid, tally, edges, meta
        self.problems, self.id = list(problems), id or uuid4().hex[:12]
        self._source = orders

    @classmethod
    def read(cls, path: str | PathLike[str], id: str | None = None) -> Sweep:
        """A finished sweep from its folder, or from a DuckDB file: by its id, or the one that was begun last. Raises StoreError."""
        from .folders import Folder, is_database

        if not is_database(path):
            return Folder(path).read()
        from .store import Store

        with Store(path, read_only=True) as store:
            if id is None:
                known = store.sweeps()["sweep"]
                if known.is_empty():
                    raise StoreError(
                        f"{path}: holds no sweeps; check the path, or keep one there with sweep(..., store=...)"
                    )
                id = str(known[-1])
            return store.sweep(id)

    @property
    def names(self) -> list[str]:
        """The names of the grid."""
        return list(self.grid.columns)

    # ------------------------------------------------------------------------------------------------ tables

    def scan(self) -> pl.LazyFrame:
        """The orders as a lazy frame, read as far as a query needs them. Raises DataError if only aggregates were kept."""
        if self._source is None:
            raise DataError(
                "orders: were not kept, by="
                + repr(self.meta["by"])
                + "; sweep again with by=None, and a store for many"
            )
        return self._source()

    @cached_property
    def orders(self) -> pl.DataFrame:
        """One row for each order: `order`, `combination`, `entry`, `symbol`, `side`, then the columns of `run.orders`, and `hits`.

        `hits` has a bit for each level that was filled. Raises DataError if they were not kept, LimitError beyond MAX_FRAME.
        """
        lazy = self.scan()
        if self.meta["orders"] > MAX_FRAME:
            raise LimitError(
                f"orders: {self.meta['orders']:,} are more than MAX_FRAME = {MAX_FRAME:,}; ask sweep.scan() for what you need of them"
            )
        return lazy.collect()

    @cached_property
    def combinations(self) -> pl.DataFrame:
        """One row for each combination: `combination`, its values, and the aggregates of its orders, see `aggregate`."""
        return self.aggregate("combination")

    @property
    def table(self) -> pl.DataFrame:
        """The table that `by=` asked for: the orders, the combinations, or aggregates by names of the grid."""
        by = self.meta["by"]
        return self.orders if by is None else self.combinations if by == "combination" else self.aggregate(by)

    def aggregate(
        self, by: str | Sequence[str] = "combination", level: float = 0.95, draws: int = DRAWS, seed: int = 0
    ) -> pl.DataFrame:
        """What the orders of each combination came to, or of all combinations that share the values named in `by`.

        Columns: `count`, `entered`, `finished`; of the finished ones `expectancy` (mean return), `low` and `high` (its interval at
        `level`, a block bootstrap over the time of entry), `std`, `sharpe` (of one order), `win_rate`, `profit_factor`, `stop_rate`,
        `held_mean_s`, `hit_0` … (share that filled the level), `return_q05` … `mae_q05` … `mfe_q95` (quantiles); of all orders
        `total_pnl`, `fees` (quote currency) and `ambiguous_bars`. Returns and excursions are fractions. Null is undefined.
        Quantiles of several combinations together need their orders; where these were not kept, they are null.
        """
        if by == "combination":
            keys, tally = pl.DataFrame({"combination": range(len(self.specs)), **self.grid.to_dict()}), self.tally
        else:
            keys, groups = self._groups([by] if isinstance(by, str) else list(by))
            tally = merged(self.tally, groups, keys.height)
            if self._source is not None and keys.height < len(self.specs):
                tally["quantiles"] = self._quantiles(groups, keys.height)
        low, high = intervals(tally, self.edges, level, draws, seed)
        found = columns(tally)
        place = list(found).index("expectancy") + 1
        items = list(found.items())
        return pl.concat(
            [keys, frame(dict([*items[:place], ("low", low), ("high", high), *items[place:]]))], how="horizontal"
        )

    def _groups(self, by: list[str]) -> tuple[pl.DataFrame, np.ndarray]:
        """The different values of `by` in order of first appearance, and for each combination which of them it has."""
        self._check_names(by)
        keyed = self.grid.select(by) if by else pl.DataFrame({"all": pl.repeat(True, len(self.specs), eager=True)})
        keys = keyed.unique(maintain_order=True)
        groups = keyed.join(
            keys.with_row_index("group"), on=keyed.columns, how="left", nulls_equal=True, maintain_order="left"
        )
        return keys, groups["group"].to_numpy().astype(np.int64)

    def _check_names(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.names:
                has = f"use some of {', '.join(self.names)}" if self.names else "this sweep has no grid"
                raise DataError(f"{short(name)}: is not in the grid; {has}")

    def _quantiles(self, groups: np.ndarray, count: int) -> np.ndarray:
        """Quantiles of the returns and excursions of the finished orders of each group."""
        lookup = pl.LazyFrame({"combination": np.arange(len(groups)), "group": groups})
        done = pl.col("entry_ts").is_not_null() & pl.col("exit_reason").is_not_null()
        asked = [
            pl.col(name).quantile(share, "linear").alias(f"{name}{share}")
            for name in ("return_", "mae", "mfe")
            for share in QUANTILES
        ]
        found = self.scan().filter(done).join(lookup, on="combination").group_by("group").agg(asked).collect()
        result = np.full((count, 3 * len(QUANTILES)), np.nan)
        result[found["group"].to_numpy()] = found.drop("group").to_numpy()
        return result.reshape(count, 3, len(QUANTILES))

    # ------------------------------------------------------------------------------------------------ the best

    def best(
        self,
        metric: str = "expectancy",
        min_finished: int = MIN_FINISHED,
        split: float = 0.7,
        level: float = 0.95,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> Best:
        """The best combination by `metric`, with what chance alone would show and what such a choice earned out of sample.

        `metric`: expectancy, total_pnl, win_rate, profit_factor or sharpe; only combinations with `min_finished` finished orders count.
        `split`: share of the entries after which the test begins. Raises DataError if no combination has that many.
        """
        _check_metric(metric)
        sums = self.tally["entered_in"].sum(axis=1)
        scores = _scores(metric, sums, min_finished)
        if not np.isfinite(scores).any():
            most = int(sums[:, 0].max(initial=0))
            raise DataError(
                f"min_finished = {min_finished}: no combination has so many finished orders, the most is {most}; lower it"
            )
        chosen = int(np.nanargmax(scores))
        enough = np.flatnonzero(sums[:, 0] >= min_finished)
        only = {name: values[[chosen]] for name, values in self.tally.items()}
        own = self._interval(only, level, draws, seed)
        noise = luck(self.tally, self.edges, enough, draws, seed) if own else np.empty(0)
        mean = float(_metric("expectancy", sums[chosen]))
        ratios = _metric("sharpe", sums[enough])
        ratio = float(_metric("sharpe", sums[chosen]))
        tried_ratios = ratios[np.isfinite(ratios)]
        variance = float(tried_ratios.var(ddof=1)) if len(tried_ratios) > 1 else 0.0
        at = min(max(round(len(self.edges) * split), 1), len(self.edges)) if len(self.edges) else 0
        fold = self._fold(metric, min_finished, at, len(self.edges) + 1)
        return Best(
            combination=chosen,
            values=self._values(chosen),
            order=self.specs[chosen],
            metric=metric,
            value=float(scores[chosen]),
            finished=int(sums[chosen, 0]),
            expectancy=mean,
            interval=own,
            tried=len(self.specs),
            eligible=len(enough),
            luck=float(noise.mean()) if len(noise) else None,
            p_value=float((1 + (noise >= mean).sum()) / (1 + len(noise))) if len(noise) else None,
            deflated=mean - float(noise.mean()) if len(noise) else None,
            deflated_sharpe=deflated_sharpe(ratio, int(sums[chosen, 0]), len(enough), variance)
            if np.isfinite(ratio)
            else None,
            split_at=int(self.edges[at - 1]) if at else int(min(m["first_ts"] for m in self.meta["markets"].values())),
            chosen=fold.combination,
            train=fold.train,
            test=fold.test,
            test_interval=None if fold.tally is None else self._interval(fold.tally, level, draws, seed),
            test_finished=fold.finished,
            level=level,
        )

    def walk_forward(
        self,
        folds: int = 5,
        metric: str = "expectancy",
        min_finished: int = MIN_FINISHED,
        level: float = 0.95,
        draws: int = DRAWS,
        seed: int = 0,
    ) -> WalkForward:
        """Choose the best combination on the past, trade it in the next fold, and so on: what such choices earned.

        The time of the entries is cut into `folds` + 1 stretches of about as many entries; the first only trains. A choice at a moment sees
        the orders that had left by then, so nothing of the fold itself; the fold is the orders that entered in it.
        """
        _check_metric(metric)
        blocks = len(self.edges) + 1
        if isinstance(folds, bool) or not isinstance(folds, (int, np.integer)) or not 1 <= folds < blocks:
            raise DataError(
                f"folds = {short(folds)}: must be a whole number from 1 to {blocks - 1}; these entries have {blocks} blocks"
            )
        bounds = np.round(np.linspace(0, blocks, folds + 2)).astype(int)
        first = min(m["first_ts"] for m in self.meta["markets"].values())
        last = max(m["last_ts"] for m in self.meta["markets"].values())
        times = np.concatenate([[first], self.edges, [last]])
        rows, tests = [], []
        for n, (a, b) in enumerate(pairwise(bounds[1:])):
            fold = self._fold(metric, min_finished, int(a), int(b))
            everyone = self.tally["entered_in"][:, a:b].sum(axis=(0, 1))
            values = dict.fromkeys(self.names) if fold.combination is None else self._values(fold.combination)
            rows.append(
                {
                    "fold": n,
                    "begin": int(times[a]),
                    "end": int(times[b]),
                    "combination": fold.combination,
                    **values,
                    "train": fold.train_score,
                    "train_finished": fold.train_finished,
                    "test": fold.test_score,
                    "test_finished": fold.finished,
                    "test_expectancy": fold.test,
                    "all_expectancy": _number(_metric("expectancy", everyone)),
                }
            )
            if fold.tally is not None:
                tests.append(fold.tally)
        kinds: dict[str, Any] = {name: self.grid.schema[name] for name in self.names}
        kinds |= {"combination": pl.Int64, "train": pl.Float64, "test": pl.Float64, "test_expectancy": pl.Float64}
        table = pl.DataFrame(rows, schema_overrides=kinds).with_columns(
            pl.col("begin", "end").cast(pl.Datetime("ns", "UTC"))
        )
        if not tests:
            return WalkForward(table, metric, None, None, 0)
        together = {name: np.sum([test[name] for test in tests], axis=0) for name in tests[0]}
        sums = together["entered_in"].sum(axis=(0, 1))
        expectancy = _number(_metric("expectancy", sums))
        return WalkForward(table, metric, expectancy, self._interval(together, level, draws, seed), int(sums[0]))

    def _fold(self, metric: str, min_finished: int, begin: int, end: int) -> _Fold:
        """The combination that is best by what was known when block `begin` began, and what it came to until block `end`."""
        known = self.tally["left_in"][:, :begin].sum(axis=1)
        scores = _scores(metric, known, min_finished)
        if not np.isfinite(scores).any():
            return _Fold(None, None, None, 0, None, None, 0, None)
        chosen = int(np.nanargmax(scores))
        tally = {name: values[[chosen]] for name, values in self.tally.items()}
        inside = np.zeros_like(tally["entered_in"])
        inside[:, begin:end] = tally["entered_in"][:, begin:end]
        tally["entered_in"] = inside
        test = inside.sum(axis=(0, 1))
        return _Fold(
            chosen,
            _number(_metric("expectancy", known[chosen])),
            float(scores[chosen]),
            int(known[chosen, 0]),
            _number(_metric("expectancy", test)),
            _number(_metric(metric, test)) if test[0] else None,
            int(test[0]),
            tally,
        )

    def _values(self, combination: int) -> dict[str, Any]:
        return self.grid.row(combination, named=True) if self.names else {}

    def _interval(self, tally: Tally, level: float, draws: int, seed: int) -> Interval | None:
        low, high = intervals(tally, self.edges, level, draws, seed)
        return Interval(float(low[0]), float(high[0])) if np.isfinite(low[0]) else None

    # ------------------------------------------------------------------------------------------------ faces

    def heatmap(
        self,
        x: str,
        y: str | None = None,
        value: str = "expectancy",
        rows: str | None = None,
        cols: str | None = None,
        **options: Any,
    ) -> Any:
        """A value over two names of the grid as a plotly heat map; small multiples over `rows` and `cols`. See `heatmaps.heatmap`."""
        from .heatmaps import heatmap

        return heatmap(self, x, y, value, rows, cols, **options)

    def summary(self) -> dict[str, Any]:
        """The sweep in numbers."""
        meta, markets = self.meta, self.meta["markets"]
        sums = self.tally["entered_in"].sum(axis=(0, 1))
        return {
            "combinations": len(self.specs),
            "skipped": meta["skipped"],
            "grid": ", ".join(f"{name} ({self.grid[name].n_unique()})" for name in self.names),
            "symbols": ", ".join(symbol for symbol in markets if symbol),
            "entries": ", ".join(f"{market['entries']:,} ({market['entries_from']})" for market in markets.values()),
            "orders": meta["orders"],
            "entered": int(self.tally["entered"].sum()),
            "finished": int(sums[0]),
            "expectancy": _number(_metric("expectancy", sums)),
            "total_pnl": float(self.tally["pnl"].sum()),
            "fees": float(self.tally["fees"].sum()),
            "seconds": meta.get("seconds"),
            "block": duration_text(int(np.median(np.diff(self.edges)))) if len(self.edges) > 1 else None,
        }

    def __repr__(self) -> str:
        s = self.summary()
        return (
            f"Sweep({self.id}: {s['combinations']:,} combinations, {s['orders']:,} orders, {s['finished']:,} finished)"
        )

    def _repr_html_(self) -> str:
        from .looks import table

        shown = [
            (name, f"{value:,.6g}" if isinstance(value, float) else value)
            for name, value in self.summary().items()
            if value is not None
        ]
        return table(f"Sweep {self.id}", shown)


@dataclass(frozen=True)
class _Fold:
    combination: int | None
    train: float | None
    train_score: float | None
    train_finished: int
    test: float | None
    test_score: float | None
    finished: int
    tally: Tally | None


_metric = metric


def _scores(name: str, sums: np.ndarray, least: int) -> np.ndarray:
    scores = np.where(sums[..., SUMS.index("finished")] >= max(least, 1), _metric(name, sums), np.nan)
    return np.where(np.isfinite(scores), scores, np.nan)


def _check_metric(name: str) -> None:
    if name not in METRICS:
        raise DataError(f"metric = {short(name)}: must be one of {', '.join(METRICS)}")


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _span(interval: Interval, level: float) -> str:
    return f"{level * 100:.4g} % between {interval.low:+.4%} and {interval.high:+.4%}"
