"""Tallies: what the orders of each combination came to, in sums that can be added, resampled and cut by time.

The time of the entries is cut into blocks. For each combination and block a tally keeps six sums over the finished
orders (`SUMS`), once by the block in which an order entered and once by that in which it left: the first gives means,
intervals and test folds, the second what was known at a moment. Quantiles are taken from all orders of a combination.

*Finished* is an order that entered and is at its end. Those still open, or never entered, are counted and no more:
they are in no mean, rate or quantile. `total_pnl` and `fees` are of all orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from .metrics import MIN_BLOCKS
from .rows import Status

SUMS = ("finished", "return", "square", "wins", "gain", "loss")
"""Sums of a block: orders, returns, their squares, orders won, profits above and below 0 (quote currency)."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
METRICS = ("expectancy", "total_pnl", "win_rate", "profit_factor", "sharpe")
"""What the best combination can be chosen by: all of these follow from SUMS."""
_BLOCKS, _LEAST_BLOCKS = 60, 12
_BLOCK_BYTES = 256 << 20
"""Memory for the sums of all blocks; with very many combinations there are fewer blocks."""
_CELLS = 8_000_000
"""Numbers held at once while resampling."""

Tally = dict[str, np.ndarray]
"""Arrays whose first axis is the combination: `count`, `entered`, `stopped`, `held`, `exited`, `pnl`, `fees`, `bars`,
`hits` (by level), `quantiles` (of return, mae, mfe by QUANTILES), `entered_in` and `left_in` (by block and SUMS)."""


def block_edges(created: Sequence[np.ndarray], combinations: int) -> np.ndarray:
    """Times (ns) at which blocks 1, 2 … begin, so that each holds about as many entries; equal times are not parted."""
    room = _BLOCK_BYTES // (max(combinations, 1) * len(SUMS) * 16)
    blocks = max(min(_BLOCKS, room), _LEAST_BLOCKS)
    every = np.sort(np.concatenate(created))
    return np.unique(every[np.arange(1, blocks) * len(every) // blocks])


class Tallier:
    """Adds up the outcomes of some combinations, all entries of each, block of rows by block of rows."""

    def __init__(self, combinations: int, created: np.ndarray, edges: np.ndarray, levels: int):
        self.edges, self.blocks, self.entries = edges, len(edges) + 1, len(created)
        self.entered_in = np.searchsorted(edges, created, side="right")
        counts, sums = (combinations,), (combinations, self.blocks, len(SUMS))
        self.tally: Tally = {
            **{name: np.zeros(counts, np.int64) for name in ("count", "entered", "stopped", "exited", "bars")},
            **{name: np.zeros(counts) for name in ("held", "pnl", "fees")},
            "hits": np.zeros((combinations, levels), np.int64),
            "quantiles": np.full((combinations, 3, len(QUANTILES)), np.nan),
            "entered_in": np.zeros(sums),
            "left_in": np.zeros(sums),
        }
        self._waiting: list[np.ndarray] = []

    def add(self, first: int, last: int, begin: int, end: int, rows: np.recarray, found: dict[str, np.ndarray]) -> None:
        """Outcomes of combinations `first`..`last` at entries `begin`..`end`, as rows and as what `money` made of them."""
        shape, here, tally = (last - first, end - begin), slice(first, last), self.tally
        status, bought = (np.ascontiguousarray(rows[name]) for name in ("status", "bought"))
        entered = bought > 0
        finished = entered & (status >= Status.CLOSED) & (rows.reason > 0)
        out = finished & (rows.exited > 0)

        def total(values: np.ndarray) -> np.ndarray:
            return values.reshape(shape).sum(axis=1)

        tally["count"][here] += shape[1]
        tally["entered"][here] += total(entered)
        tally["stopped"][here] += total(finished & (status == Status.STOPPED))
        tally["exited"][here] += total(out)
        tally["held"][here] += total(np.where(out, (rows.last_exit - rows.first_fill).astype(float), 0.0))
        tally["pnl"][here] += total(found["pnl"])
        tally["fees"][here] += total(found["fees"])
        tally["bars"][here] += total(rows.bars)
        hits = np.where(finished, rows.hits, 0)
        for level in range(tally["hits"].shape[1]):
            tally["hits"][here, level] += total((hits >> level) & 1)

        pnl, back = np.where(finished, found["pnl"], 0.0), np.where(finished, found["return"], 0.0)
        values = (finished, back, back * back, pnl > 0, np.maximum(pnl, 0.0), np.minimum(pnl, 0.0))
        line = np.repeat(np.arange(shape[0]) * self.blocks, shape[1])
        left = np.searchsorted(self.edges, np.maximum(rows.last_exit, rows.first_fill), side="right")
        for name, block in (("entered_in", np.tile(self.entered_in[begin:end], shape[0])), ("left_in", left)):
            place, cells = line + block, shape[0] * self.blocks
            for i, value in enumerate(values):
                weights = None if value is finished else value
                chosen = place[finished] if weights is None else place
                added = np.bincount(chosen, weights, minlength=cells)
                tally[name][here, :, i] += added.reshape(shape[0], self.blocks)

        three = np.stack(
            [np.where(finished, found[name], np.nan).reshape(shape) for name in ("return", "mae", "mfe")], 1
        )
        if shape[1] == self.entries:
            tally["quantiles"][here] = _quantiles(three)
            return
        self._waiting.append(three)
        if end == self.entries:
            tally["quantiles"][here] = _quantiles(np.concatenate(self._waiting, axis=2))
            self._waiting = []


def _quantiles(values: np.ndarray) -> np.ndarray:
    """Quantiles of the last axis, interpolated between neighbours (type 7), NaN left out."""
    ordered = np.sort(values, axis=-1)
    count = np.isfinite(ordered).sum(axis=-1)[..., None]
    position = np.maximum(count - 1, 0) * np.asarray(QUANTILES)
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    a, b = (np.take_along_axis(ordered, at, axis=-1) for at in (low, high))
    return a + (b - a) * (position - low)


def joined(tallies: Sequence[Tally]) -> Tally:
    """The tallies of parts, one after another."""
    return {name: np.concatenate([tally[name] for tally in tallies]) for name in tallies[0]}


def merged(tally: Mapping[str, np.ndarray], groups: np.ndarray, count: int) -> Tally:
    """Combinations added up by group number; quantiles cannot be added and become NaN, unless a group has one member."""
    result: Tally = {}
    order = np.argsort(groups, kind="stable")
    members = np.bincount(groups, minlength=count)
    starts = np.concatenate([[0], np.cumsum(members)[:-1]])
    for name, values in tally.items():
        if name == "quantiles":
            result[name] = np.where((members == 1)[:, None, None], values[order][starts], np.nan)
        else:
            result[name] = np.add.reduceat(values[order], starts, axis=0)
    return result


# --- what the sums say -----------------------------------------------------------------------------------------------


def metric(name: str, sums: np.ndarray) -> np.ndarray:
    """One of METRICS from sums whose last axis is SUMS; NaN where it is undefined."""
    n, total, _, wins, gain, loss = (sums[..., i] for i in range(len(SUMS)))
    with np.errstate(divide="ignore", invalid="ignore"):
        if name == "expectancy":
            return total / n
        if name == "win_rate":
            return wins / n
        if name == "profit_factor":
            return np.where(loss < 0, gain / -loss, np.nan)
        if name == "sharpe":
            return total / n / deviation(sums)
    return gain + loss


def deviation(sums: np.ndarray) -> np.ndarray:
    """Standard deviation (n − 1) of returns; NaN with fewer than two."""
    n, total, square = (sums[..., i] for i in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = np.maximum(square - total * total / n, 0.0)
        # what is left of equal returns after subtraction is rounding, not spread
        return np.where(n > 1, np.sqrt(np.where(spread > 1e-13 * square, spread, 0.0) / (n - 1)), np.nan)


def columns(tally: Tally) -> dict[str, np.ndarray]:
    """The aggregates of each combination: counts, rates, returns, money."""
    sums = tally["entered_in"].sum(axis=1)
    finished = sums[:, 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        found: dict[str, np.ndarray] = {
            "count": tally["count"],
            "entered": tally["entered"],
            "finished": finished.astype(np.int64),
            "expectancy": metric("expectancy", sums),
            "std": deviation(sums),
            "sharpe": metric("sharpe", sums),
            "win_rate": metric("win_rate", sums),
            "profit_factor": metric("profit_factor", sums),
            "stop_rate": tally["stopped"] / finished,
            "held_mean_s": tally["held"] / tally["exited"] / 1e9,
            "total_pnl": tally["pnl"],
            "fees": tally["fees"],
        }
        for i in range(tally["hits"].shape[1]):
            found[f"hit_{i}"] = tally["hits"][:, i] / finished
    for k, name in enumerate(("return", "mae", "mfe")):
        for q, share in enumerate(QUANTILES):
            found[f"{name}_q{round(share * 100):02d}"] = tally["quantiles"][:, k, q]
    found["ambiguous_bars"] = tally["bars"]
    return found


# --- what chance can do ------------------------------------------------------------------------------------------------


def stretch(tally: Tally, edges: np.ndarray) -> np.ndarray:
    """How many neighbouring blocks to draw together for each combination, so that a block lasts as long as a mean hold."""
    step = float(np.median(np.diff(edges))) if len(edges) > 1 else np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        held = np.nan_to_num(tally["held"] / tally["exited"])
    return 2 ** np.ceil(np.log2(np.maximum(held / max(step, 1.0), 1.0))).astype(np.int64)


def intervals(tally: Tally, edges: np.ndarray, level: float, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of each mean return by a block bootstrap over the time of entry: blocks are drawn with all orders in them.

    Overlapping orders share their fate, and blocks of time keep them together. NaN where fewer than MIN_BLOCKS blocks
    hold a finished order. Orders of one block need not be as many as of another: the mean is Σ returns / Σ orders.
    """
    low, high = (np.full(len(tally["count"]), np.nan) for _ in range(2))
    wide = stretch(tally, edges)
    tails = [(1 - level) / 2, (1 + level) / 2]
    for width in np.unique(wide):
        for chosen, means in _resampled(tally["entered_in"], np.flatnonzero(wide == width), int(width), draws, seed):
            low[chosen], high[chosen] = np.quantile(means, tails, axis=0)
    return low, high


def luck(tally: Tally, edges: np.ndarray, enough: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The best mean return of all combinations in `enough` if none of them was worth anything, once for each draw.

    H. White's Reality Check (Econometrica 68, 2000): every combination is resampled over the same blocks and its own
    mean taken off, so that combinations that resemble one another count as little as they differ.
    """
    best = np.full(draws, -np.inf)
    # the longest hold asks for the widest blocks, as far as enough of them remain
    width = min(int(stretch(tally, edges)[enough].max(initial=1)), max((len(edges) + 1) // MIN_BLOCKS, 1))
    means = metric("expectancy", tally["entered_in"].sum(axis=1))
    for chosen, drawn in _resampled(tally["entered_in"], enough, width, draws, seed):
        best = np.maximum(best, (drawn - means[chosen]).max(axis=1))
    return best[np.isfinite(best)]


def _resampled(blocks: np.ndarray, chosen: np.ndarray, width: int, draws: int, seed: int) -> Any:
    """(combinations, mean return by draw and combination), some at a time; all of them see the same draws."""
    count = -(-blocks.shape[1] // width)
    if count < MIN_BLOCKS:
        return
    starts = np.arange(0, blocks.shape[1], width)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws).astype(float)
    at_once = max(_CELLS // draws, 1)
    for first in range(0, len(chosen), at_once):
        some = chosen[first : first + at_once]
        sums = np.add.reduceat(blocks[some][:, :, :2], starts, axis=1)
        some = some[kept] if not (kept := (sums[:, :, 0] > 0).sum(axis=1) >= MIN_BLOCKS).all() else some
        if len(some):
            orders, returns = (sums[kept][:, :, i] for i in range(2))
            drawn = weights @ orders.T
            # a draw that met only blocks without orders says nothing: it gets the mean of all
            mean = returns.sum(axis=1) / orders.sum(axis=1)
            yield some, np.where(drawn > 0, (weights @ returns.T) / np.maximum(drawn, 1), mean)


def frame(found: Mapping[str, np.ndarray]) -> pl.DataFrame:
    """Aggregates as a frame; NaN becomes null."""
    return pl.DataFrame({name: pl.Series(values) for name, values in found.items()}).with_columns(
        pl.selectors.float().fill_nan(None)
    )
