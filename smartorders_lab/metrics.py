"""Metrics: one formula for each number that is said about a run. Arrays and frames in, numbers and frames out.

    metrics.profit_factor(run.orders["realized_pnl"])
    metrics.summary(run)                        # all of them

What is undefined is None (no orders, no losses, one trade) and never NaN; an input that is not finite is refused. A
ratio that people annualise is scaled with the square root of the periods in a year of 365 days, since these markets
never close. Money is in quote currency, times are integer nanoseconds (UTC). An order that came out at exactly 0 is
neither won nor lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, e, floor, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import polars as pl

from .errors import DataError, short
from .fills import FillModel
from .instrument import Instrument
from .lower import rate_units
from .rows import SCALE
from .times import NS, duration_ns, duration_text

if TYPE_CHECKING:
    from .run import Run
    from .ticks import Ticks

DAY_NS = NS["d"]
YEAR_NS = 365 * DAY_NS
"""A year of a market that never closes."""
MIN_SPAN_NS = 30 * DAY_NS
"""Shortest tape that `summary` annualises: of eleven minutes no year follows."""
MIN_PERIODS = 30
"""Fewest periods that `summary` takes a Sharpe ratio of."""
MIN_BLOCKS = 10
"""Fewest blocks that a block bootstrap draws from; with fewer, the interval would look narrow because so little differs."""
MAX_PERIODS = 10_000_000
"""Most periods of one resampling."""
_DRAWS = 4_000_000
"""Random numbers held in memory at once by the bootstrap: 32 MB."""
_GAMMA = 0.5772156649015329
_OPENS = ("entry", "add_funds")
_TS = pl.Datetime("ns", "UTC")


class Interval(NamedTuple):
    """Two ends of a confidence interval."""

    low: float
    high: float


class Drawdown(NamedTuple):
    """The deepest fall: its depth (money, ≥ 0), the time of the peak, of the bottom and of the recovery, and how long it took.

    `recovery` is None where the old peak was never reached again; `duration` (ns) then runs to the last sample.
    Where nothing ever fell, depth and duration are 0 and all times None.
    """

    depth: float
    start: int | None
    bottom: int | None
    recovery: int | None
    duration: int


def _finite(name: str, values: Any) -> np.ndarray:
    """A one-dimensional float array. Raises DataError at the first value that is not a finite number."""
    array = np.asarray(values.to_numpy() if isinstance(values, pl.Series) else values, dtype=np.float64)
    if array.ndim != 1:
        raise DataError(f"{name}: has {array.ndim} dimensions; give a list, a Series or a one-dimensional array")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise DataError(
            f"{name}[{bad[0]}] = {array[bad[0]]}: must be a finite number; drop it first (Series.drop_nulls)"
        )
    return array


def _instants(ts: Any, values: np.ndarray) -> np.ndarray:
    """Times as int64 ns, as many as `values`, not decreasing. Raises DataError."""
    series = ts.dt.epoch("ns") if isinstance(ts, pl.Series) and ts.dtype == _TS else ts
    array = np.asarray(series, dtype=np.int64)
    if array.shape != values.shape:
        raise DataError(f"ts: has {array.size} values for {values.size} others; give as many")
    if (np.diff(array) < 0).any():
        raise DataError("ts: goes backwards; sort by time first")
    return array


def _length(name: str, value: Any) -> int:
    try:
        length = duration_ns(value)
    except ValueError as error:
        raise DataError(f"{name} = {short(value)}: {error}") from None
    if length == 0:
        raise DataError(f"{name} = {short(value)}: must be longer than 0; write 1d")
    return length


def _level(level: float) -> float:
    if not 0 < level < 1:
        raise DataError(f"level = {short(level)}: must lie between 0 and 1; write 0.95 for 95 %")
    return level


# --- one order after another: arrays of profits, returns, excursions --------------------------------------------------


def expectancy(values: Any) -> float | None:
    """Mean outcome of one order, Σ x / n: of profits in money, of returns as a fraction, of R multiples in R.

    None without orders. Van K. Tharp, Trade Your Way to Financial Freedom, 1998.
    """
    x = _finite("values", values)
    return float(x.mean()) if len(x) else None


def win_rate(pnl: Any) -> float | None:
    """Share of orders with a profit above 0, of all; None without orders."""
    x = _finite("pnl", pnl)
    return float((x > 0).mean()) if len(x) else None


def wilson(successes: int, count: int, level: float = 0.95) -> Interval | None:
    """Confidence interval of a share: (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) / (1 + z²/n) with p = successes / n.

    It takes the trials as independent, which overlapping orders are not; then the truth is wider. None if `count` is 0.
    E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22, 1927.
    """
    if not 0 <= successes <= count:
        raise DataError(f"successes = {successes}: must lie between 0 and count = {count}")
    if not count:
        return None
    z, p = NormalDist().inv_cdf((1 + _level(level)) / 2), successes / count
    middle, half = p + z * z / (2 * count), z * sqrt(p * (1 - p) / count + z * z / (4 * count * count))
    # the ends at 0 and n are exactly 0 and 1; rounding must not say otherwise
    low = 0.0 if successes == 0 else (middle - half) / (1 + z * z / count)
    return Interval(low, 1.0 if successes == count else (middle + half) / (1 + z * z / count))


def profit_factor(pnl: Any) -> float | None:
    """Σ profits / |Σ losses|. None where nothing was lost; 0 where nothing was won."""
    x = _finite("pnl", pnl)
    lost = -float(x[x < 0].sum())
    return float(x[x > 0].sum()) / lost if lost else None


def payoff_ratio(pnl: Any) -> float | None:
    """Mean profit of the orders won / mean loss of those lost. None where none was won or none was lost."""
    x = _finite("pnl", pnl)
    won, lost = x[x > 0], x[x < 0]
    return float(won.mean() / -lost.mean()) if len(won) and len(lost) else None


def kelly(returns: Any) -> float | None:
    """Kelly fraction W − (1 − W) / payoff ratio, W the win rate; below 0: no bet. None without profits or without losses.

    It takes every order as one of two outcomes, and holds only if what comes is like what was. J. L. Kelly, A New
    Interpretation of Information Rate, Bell System Technical Journal 35, 1956.
    """
    won, payoff = win_rate(returns), payoff_ratio(returns)
    return None if won is None or payoff is None else won - (1 - won) / payoff


def sharpe(returns: Any, per_year: float = 1.0) -> float | None:
    """Mean / standard deviation (n − 1) of returns, times √`per_year`, the number of such returns in a year; riskless rate 0.

    With `per_year=1` it is that of one order or period. Money in place of returns gives the same where the capital
    does not change. None with fewer than two values or if all are equal. W. F. Sharpe, The Sharpe Ratio, Journal of
    Portfolio Management 21, 1994.
    """
    x = _finite("returns", returns)
    # a spread of 0 is looked for in the values: the computed deviation of equal ones need not be exactly 0
    return None if len(x) < 2 or np.ptp(x) == 0 else float(x.mean() / x.std(ddof=1) * sqrt(per_year))


def sortino(returns: Any, target: float = 0.0, per_year: float = 1.0) -> float | None:
    """(mean − target) / √(Σ min(x − target, 0)² / n), times √`per_year`; as `sharpe`, but only what falls short counts.

    None with fewer than two values or if nothing fell short. F. A. Sortino and R. van der Meer, Downside Risk,
    Journal of Portfolio Management 17, 1991.
    """
    x = _finite("returns", returns) - target
    deviation = sqrt(np.square(np.minimum(x, 0)).mean()) if len(x) > 1 else 0.0
    return float(x.mean() / deviation * sqrt(per_year)) if deviation else None


def sqn(multiples: Any, cap: int = 100) -> float | None:
    """System quality number √min(n, `cap`) · mean / standard deviation (n − 1) of R multiples.

    None as for `sharpe`. Van K. Tharp, The Definitive Guide to Position Sizing, 2008; the cap, too, is his.
    """
    x = _finite("multiples", multiples)
    ratio = sharpe(x)
    return None if ratio is None else ratio * sqrt(min(len(x), cap))


def streaks(pnl: Any) -> tuple[int, int]:
    """(most wins, most losses) in a row, in the order given; a 0 ends both. (0, 0) without orders."""
    signs = np.sign(_finite("pnl", pnl))
    if not len(signs):
        return 0, 0
    starts = np.flatnonzero(np.concatenate([[True], signs[1:] != signs[:-1]]))
    lengths, kinds = np.diff(np.append(starts, len(signs))), signs[starts]
    return int(lengths[kinds > 0].max(initial=0)), int(lengths[kinds < 0].max(initial=0))


def value_at_risk(returns: Any, level: float = 0.95) -> float | None:
    """Historical value at risk, as a loss: minus the ⌈(1 − level)·n⌉-th smallest return; below 0 if even that one gained.

    None without orders. RiskMetrics Technical Document, J. P. Morgan, 1996.
    """
    x, tail = _tail(returns, level)
    return float(-x[max(ceil(tail), 1) - 1]) if len(x) else None


def expected_shortfall(returns: Any, level: float = 0.95) -> float | None:
    """Mean loss of the worst (1 − level)·n orders, the last of them counted with its fraction; never below `value_at_risk`.

    None without orders. C. Acerbi and D. Tasche, On the Coherence of Expected Shortfall, Journal of Banking & Finance
    26, 2002, definition 2.6.
    """
    x, tail = _tail(returns, level)
    if not len(x):
        return None
    whole = floor(tail)
    rest = (tail - whole) * x[whole] if tail > whole else 0.0
    return float(-(x[:whole].sum() + rest) / tail)


def _tail(returns: Any, level: float) -> tuple[np.ndarray, float]:
    """Sorted returns, and how many of them the tail holds; 5 % of 100 is 5, which floats alone would not say."""
    x = np.sort(_finite("returns", returns))
    return x, round((1 - _level(level)) * len(x), 9)


def quantiles(values: Any, shares: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> dict[float, float] | None:
    """Quantiles, interpolated between neighbours (type 7), by share; None without values. For `mae`, `mfe`, holds."""
    x = _finite("values", values)
    return dict(zip(shares, np.quantile(x, shares).tolist(), strict=True)) if len(x) else None


def edge_ratio(mae: Any, mfe: Any) -> float | None:
    """Mean favourable / mean adverse excursion; above 1 prices went further with the orders than against them.

    Both as fractions of the entry price, which makes markets comparable; C. Faith, Way of the Turtle, 2007, measures
    them in ATR instead. The exits cut the excursions, so it speaks of the whole order. None if nothing ran against any.
    """
    worst, best = _finite("mae", mae), _finite("mfe", mfe)
    against = -float(worst.mean()) if len(worst) else 0.0
    return float(best.mean()) / against if against else None


def fee_share(fees: float, pnl: float) -> float | None:
    """Fees as a share of the profit before them, fees / (pnl + fees); None if there was no such profit."""
    gross = pnl + fees
    return fees / gross if gross > 0 else None


def turnover(price: Any, quantity: Any) -> float:
    """Σ price · quantity of all fills, entries and exits alike, in quote currency; 0 without fills."""
    return float(_finite("price", price) @ _finite("quantity", quantity))


def hit_rates(levels: pl.DataFrame, level: float = 0.95) -> pl.DataFrame:
    """How many orders filled each take-profit level: `level`, `orders`, `filled`, `rate`, `low`, `high` (see `wilson`).

    From `run.levels`; orders that never entered count too. Empty without levels.
    """
    count = (
        levels.group_by("level")
        .agg(orders=pl.len(), filled=(pl.col("status") == "FILLED").sum(), rate=(pl.col("status") == "FILLED").mean())
        .sort("level")
    )
    ends = [wilson(filled, orders, level) or (0.0, 1.0) for orders, filled in count.select("orders", "filled").rows()]
    low, high = (pl.Series([end[i] for end in ends], dtype=pl.Float64) for i in (0, 1))
    return count.with_columns(low=low, high=high)


# --- what chance can do -----------------------------------------------------------------------------------------------


def bootstrap_mean(values: Any, n: int = 10_000, seed: int = 0, level: float = 0.95, block: int = 1) -> Interval | None:
    """Percentile interval of the mean from `n` resamples; the same seed gives the same interval.

    Orders that overlap in time are not independent, and drawing them one by one makes the interval too narrow: `block`
    draws that many neighbours at a time (values in order of time, the last joined to the first), ⌈len / block⌉ of them.
    None with fewer than two values, or than MIN_BLOCKS blocks. B. Efron, Bootstrap Methods, Annals of Statistics 7,
    1979; D. N. Politis and J. P. Romano, A Circular Block-Resampling Procedure for Stationary Data, 1992.
    """
    x = _finite("values", values)
    for name, value in (("n", n), ("block", block)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise DataError(f"{name} = {short(value)}: must be a whole number of at least 1")
    if len(x) < 2 or (block > 1 and len(x) < MIN_BLOCKS * block):
        return None
    if block > 1:
        total = np.concatenate([[0.0], np.cumsum(np.concatenate([x, x[: block - 1]]))])
        x = (total[block:] - total[:-block]) / block
    rng, drawn = np.random.default_rng(seed), -(-len(x) // block)
    means, at_once = np.empty(n), max(_DRAWS // drawn, 1)
    for start in range(0, n, at_once):
        part = means[start : start + at_once]
        part[:] = x[rng.integers(0, len(x), (len(part), drawn))].mean(axis=1)
    tail = (1 - _level(level)) / 2
    return Interval(*np.quantile(means, [tail, 1 - tail]).tolist())


def block_length(count: int, overlap: float | None = None) -> int:
    """Orders to draw together: ⌈max(n^⅓, mean number of orders open at once)⌉, at least 1.

    n^⅓ is the rate of P. Hall, J. L. Horowitz and B.-Y. Jing, On Blocking Rules for the Bootstrap with Dependent Data,
    Biometrika 82, 1995; that orders living at the same time share their fate is ours.
    """
    return max(ceil(round(max(count ** (1 / 3), overlap or 0.0), 9)), 1)


def moments(returns: Any) -> tuple[float, float] | None:
    """(skewness, kurtosis) m₃/m₂^1.5 and m₄/m₂² of returns; a normal has 0 and 3. None as for `sharpe`."""
    x = _finite("returns", returns)
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    z = (x - x.mean()) / x.std()
    return float((z**3).mean()), float((z**4).mean())


def probabilistic_sharpe(
    ratio: float, count: int, skewness: float = 0.0, kurtosis: float = 3.0, benchmark: float = 0.0
) -> float | None:
    """Probability that the true Sharpe ratio lies above `benchmark`, given the one measured on `count` returns.

    Φ((SR − SR*)·√(n − 1) / √(1 − γ₃·SR + (γ₄ − 1)/4·SR²)). Both ratios are those of one period, not annualised. None
    with fewer than two returns, and where the root is 0. D. H. Bailey and M. López de Prado, The Sharpe Ratio Efficient
    Frontier, Journal of Risk 15, 2012.
    """
    variance = 1 - skewness * ratio + (kurtosis - 1) / 4 * ratio * ratio
    if count < 2 or variance <= 0:
        return None
    return NormalDist().cdf((ratio - benchmark) * sqrt(count - 1) / sqrt(variance))


def expected_max_sharpe(trials: int, variance: float) -> float:
    """The best Sharpe ratio to expect of `trials` worthless strategies whose ratios vary by `variance`; 0 for one trial.

    √V·((1 − γ)·Φ⁻¹(1 − 1/N) + γ·Φ⁻¹(1 − 1/(N·e))), γ Euler's constant. Combinations of a sweep resemble one another,
    so that their number is more than that of independent trials, and the result rather strict. Bailey and López de
    Prado, The Deflated Sharpe Ratio, Journal of Portfolio Management 40, 2014.
    """
    if trials < 1 or variance < 0:
        raise DataError(f"trials = {trials}, variance = {variance}: need at least 1 trial and a variance of 0 or more")
    if trials == 1:
        return 0.0
    normal = NormalDist()
    best = (1 - _GAMMA) * normal.inv_cdf(1 - 1 / trials) + _GAMMA * normal.inv_cdf(1 - 1 / (trials * e))
    return sqrt(variance) * best


def deflated_sharpe(
    ratio: float, count: int, trials: int, variance: float, skewness: float = 0.0, kurtosis: float = 3.0
) -> float | None:
    """`probabilistic_sharpe` against what the best of `trials` would show by luck alone (`expected_max_sharpe`).

    For the winner of a sweep: `trials` is how many combinations were tried, `variance` that of their Sharpe ratios,
    all per period. None as for `probabilistic_sharpe`. Bailey and López de Prado, 2014.
    """
    return probabilistic_sharpe(ratio, count, skewness, kurtosis, expected_max_sharpe(trials, variance))


# --- a curve over time ------------------------------------------------------------------------------------------------


def drawdown(equity: Any, start: float = 0.0) -> np.ndarray:
    """Fall from the highest point so far, max(start, equity up to here) − equity; ≥ 0, in the unit of `equity`.

    `start` is where the curve began, before its first sample. Empty for an empty curve.
    """
    x = _finite("equity", equity)
    return np.maximum(np.maximum.accumulate(x), start) - x


def max_drawdown(ts: Any, equity: Any, start: float = 0.0) -> Drawdown | None:
    """The deepest of `drawdown`, the first if several are as deep; None without samples.

    Where the peak is `start` itself, the fall begins with the first sample.
    """
    fall = drawdown(equity, start)
    when = _instants(ts, fall)
    if not len(fall):
        return None
    bottom = int(np.argmax(fall))
    if fall[bottom] == 0:
        return Drawdown(0.0, None, None, None, 0)
    peaks = np.flatnonzero(fall[:bottom] == 0)
    begin = int(when[peaks[-1]] if len(peaks) else when[0])
    after = np.flatnonzero(fall[bottom:] == 0)
    recovery = int(when[bottom + after[0]]) if len(after) else None
    end = int(when[-1]) if recovery is None else recovery
    return Drawdown(float(fall[bottom]), begin, int(when[bottom]), recovery, end - begin)


def ulcer_index(equity: Any, capital: float) -> float | None:
    """√(mean of squared drawdowns in per cent of the peak), of `capital` + equity sampled at equal intervals.

    None without samples, or where the capital was used up. P. Martin and B. McCann, The Investor's Guide to Fidelity
    Funds, 1989.
    """
    if not capital > 0:
        raise DataError(f"capital = {short(capital)}: must be above 0; give the money that the run started with")
    x = capital + _finite("equity", equity)
    if not len(x) or np.min(x) <= 0:
        return None
    peak = np.maximum(np.maximum.accumulate(x), capital)
    return float(100 * sqrt(np.square((peak - x) / peak).mean()))


def mar(ts: Any, equity: Any, start: float = 0.0) -> float | None:
    """MAR ratio: profit per year since the start / maximum drawdown of the same time, both in money (not compounded).

    None if nothing fell, or without any time between first and last sample. Managed Account Reports.
    """
    x = _finite("equity", equity)
    when = _instants(ts, x)
    deepest = max_drawdown(when, x, start)
    if deepest is None or not deepest.depth or when[-1] == when[0]:
        return None
    return float((x[-1] - start) * YEAR_NS / int(when[-1] - when[0]) / deepest.depth)


def calmar(ts: Any, equity: Any, start: float = 0.0, window: Any = 3 * YEAR_NS) -> float | None:
    """Calmar ratio: as `mar`, over the last three years (`window`) only; the whole curve where it is shorter.

    None as for `mar`. T. W. Young, Calmar Ratio: A Smoother Tool, Futures 20, 1991.
    """
    x = _finite("equity", equity)
    when = _instants(ts, x)
    if not len(x) or when[-1] - when[0] <= _length("window", window):
        return mar(when, x, start)
    first = int(np.searchsorted(when, when[-1] - _length("window", window)))
    return mar(when[first:], x[first:], float(x[first]))


def resample(
    ts: Any, values: Any, every: Any, first: int | None = None, last: int | None = None, start: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """(ends, values) of a curve at the end of each period of length `every` (`"1d"`), from that of `first` to that of `last`.

    Periods begin at multiples of their length since 1970 (UTC), so that days are days. A period without a sample keeps
    the value before it, and before the first sample that is `start`. Without samples and `first`, both are empty.
    """
    x = _finite("values", values)
    when, step = _instants(ts, x), _length("every", every)
    if not len(x) and first is None:
        return np.empty(0, np.int64), np.empty(0)
    begin, end = int(when[0] if first is None else first) // step, int(when[-1] if last is None else last) // step
    if end - begin >= MAX_PERIODS:
        raise DataError(
            f"every = {short(every)}: makes more than MAX_PERIODS = {MAX_PERIODS:,} periods; take longer ones"
        )
    ends = np.arange(begin + 1, end + 2, dtype=np.int64) * step
    position = np.searchsorted(when, ends)
    return ends, np.concatenate([[start], x])[position]


def exposure(ts: Any, open: Any, first: int, last: int) -> float | None:
    """Share of the time from `first` to `last` with a position, `open` > 0; None if no time passed.

    `open` holds from its instant to the next one, the last one to `last`; before the first nothing is open.
    """
    lasted, count = _lasted(ts, open, first, last)
    return float(lasted[count > 0].sum() / (last - first)) if last > first else None


def overlap(ts: Any, open: Any, first: int, last: int) -> float | None:
    """Mean number of orders open at once, over the time when any is; None if none ever was for any time."""
    lasted, count = _lasted(ts, open, first, last)
    held = lasted[count > 0].sum()
    return float(lasted @ count / held) if held else None


def _lasted(ts: Any, open: Any, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    count = _finite("open", open)
    ends = np.clip(np.append(_instants(ts, count), last), first, last)
    return np.diff(ends).astype(np.float64), count


# --- a run ------------------------------------------------------------------------------------------------------------


def bookings(run: Run) -> pl.DataFrame:
    """What each fill changed: `order`, `ts`, `pnl`, `position`, `cost`, `capital`, `open`; in order of order and event.

    `pnl` is the change of the order's `realized_pnl`, as if the tape had ended there: after k fills they add up to
    side · (proceeds − cost of all entries · exited / bought) − fees, and after the last one to `run.orders.realized_pnl`.
    So an entry fill books its fee; one that comes after a partial exit also moves the average that was sold at.
    `position` is signed (a short below 0), `cost` is position · average entry, `capital` the same without sign, `open`
    +1 when an order begins to hold something and -1 when it holds nothing more. Held coins come in at their stated price.
    """
    model, instrument = FillModel(**run.meta["fills"]), Instrument(**run.meta["instrument"])
    columns = ["order", "seq", "ts", "price", "quantity"]
    held = run.events.filter(pl.col("kind") == "held").select(
        *columns, fee=pl.lit(0.0), liquidity=pl.lit(None, pl.String), opens=pl.lit(True)
    )
    filled = run.fills.select(*columns, "fee", "liquidity", opens=pl.col("role").is_in(_OPENS))
    table = pl.concat([held, filled]).sort("order", "seq")
    side = pl.Series("side", _directions(run)[table["order"].to_numpy()])
    units = (pl.col("quantity") / float(instrument.quantity_increment)).round().cast(pl.Int64)
    opens, notional = pl.col("opens"), pl.col("price") * pl.col("quantity")
    sums = {
        "bought": pl.when(opens).then(units).otherwise(0),
        "makers": pl.when(opens & pl.col("liquidity").eq_missing("maker")).then(units).otherwise(0),
        "takers": pl.when(opens & pl.col("liquidity").eq_missing("taker")).then(units).otherwise(0),
        "exited": pl.when(opens).then(0).otherwise(units),
        "spent": pl.when(opens).then(notional).otherwise(0.0),
        "proceeds": pl.when(opens).then(0.0).otherwise(notional),
        "fees": pl.col("fee"),
    }
    t = table.with_columns(side, **{name: each.cum_sum().over("order") for name, each in sums.items()})
    lost = np.zeros(t.height, np.int64)
    if model.fee_currency == "base":
        rates = rate_units(model.fee_maker), rate_units(model.fee_taker)
        lost = np.where(t["side"].to_numpy() > 0, _coins(t["makers"].to_numpy(), t["takers"].to_numpy(), *rates), 0)
    left = t["bought"].to_numpy() - lost - t["exited"].to_numpy()
    share = pl.col("exited") / pl.col("bought")
    state = t.select(
        "order",
        "ts",
        "side",
        held=pl.Series(instrument.quantities(left)),
        average=pl.col("spent") / (pl.col("bought") * float(instrument.quantity_increment)),
        pnl=pl.col("side") * (pl.col("proceeds") - pl.col("spent") * share) - pl.col("fees"),
    )
    state = state.select(
        "order",
        "ts",
        "pnl",
        position=pl.col("side") * pl.col("held"),
        cost=pl.col("side") * pl.col("held") * pl.col("average"),
        capital=pl.col("held") * pl.col("average"),
        open=(pl.col("held") > 0).cast(pl.Int64),
    )
    rest = ("pnl", "position", "cost", "capital", "open")
    return state.with_columns(pl.col(name) - pl.col(name).shift(1, fill_value=0).over("order") for name in rest)


def _coins(makers: np.ndarray, takers: np.ndarray, maker: int, taker: int) -> np.ndarray:
    """⌈(makers·maker + takers·taker) / SCALE⌉ without passing 64 bits: the coins that fees took, as the kernel rounds."""
    (whole, part), (whole2, part2) = np.divmod(makers, SCALE), np.divmod(takers, SCALE)
    return whole * maker + whole2 * taker - (-(part * maker + part2 * taker) // SCALE)


def realized(booked: pl.DataFrame) -> pl.DataFrame:
    """The realized equity curve, one row per instant with a fill: `ts`, `realized`, `position`, `cost`, `capital`, `open`.

    Running sums of `bookings`. What comes at the same instant is one step, in whatever order it is listed. Empty
    without fills.
    """
    names = ("pnl", "position", "cost", "capital", "open")
    steps = booked.sort("ts", maintain_order=True).group_by("ts", maintain_order=True).agg(pl.col(names).sum())
    curve = steps.with_columns(pl.col(names).cum_sum()).rename({"pnl": "realized"})
    # where nothing is open, nothing of the sums' rounding must look like a position
    flat = pl.col("open") == 0
    return curve.with_columns(pl.when(flat).then(0.0).otherwise(pl.col(n)).alias(n) for n in names[1:4])


def marked(curve: pl.DataFrame, ts: Any, price: Any, every: Any = None) -> pl.DataFrame:
    """The equity curve marked to market: `ts`, `realized`, `unrealized`, `equity`, `position`, from `realized` and prices.

    unrealized = position · price − cost, equity = realized + unrealized, each with the last price at or before the
    instant and all fills of it. The instants are those of the prices, or, with `every` (`"1h"`), the ends of its
    periods, and the last one of all. A fill between two prices, as inside a bar, shows with the next: beside the price
    before it, it would make a profit that never was. Empty without prices.
    """
    p = _finite("price", price)
    when = _instants(ts, p)
    if not len(p):
        return pl.DataFrame(
            schema={"ts": _TS, **dict.fromkeys(("realized", "unrealized", "equity", "position"), pl.Float64)}
        )
    booked = curve["ts"].dt.epoch("ns").to_numpy()
    final = max(int(when[-1]), int(booked[-1])) if len(booked) else int(when[-1])
    if every is None:
        instants = np.unique(np.append(when, final))
    else:
        ends, _ = resample(when, p, every, last=final)
        instants = np.append(ends[ends < final], final)
    state = np.searchsorted(booked, instants, side="right")
    now = {name: np.concatenate([[0.0], curve[name].to_numpy()])[state] for name in ("realized", "position", "cost")}
    unrealized = now["position"] * p[np.searchsorted(when, instants, side="right") - 1] - now["cost"]
    return pl.DataFrame(
        {
            "ts": pl.Series(instants).cast(_TS),
            "realized": now["realized"],
            "unrealized": unrealized,
            "equity": now["realized"] + unrealized,
            "position": now["position"],
        }
    )


def price_series(ticks: Ticks, held_back: Sequence[int] = ()) -> tuple[np.ndarray, np.ndarray]:
    """(ts, price) that positions are valued at: last trades, else the middle of bid and ask, else the mark; of bars, closes.

    `held_back`: prints that the run did not believe, which are left out.
    """
    if ticks.bars is not None:
        return ticks.bars.ts + (ticks.bars.bar_ns - 1), ticks.instrument.prices(ticks.bars.close)
    if ticks.price is not None:
        kept = np.ones(len(ticks), dtype=bool)
        kept[list(held_back)] = False
        return ticks.ts[kept], ticks.instrument.prices(ticks.price[kept])
    if ticks.bid is not None and ticks.ask is not None:
        return ticks.ts, ticks.instrument.prices((ticks.bid + ticks.ask) / 2)
    one = next(series for series in (ticks.mark, ticks.bid, ticks.ask) if series is not None)
    return ticks.ts, ticks.instrument.prices(one)


def r_multiples(run: Run) -> pl.DataFrame:
    """`order` and `r`, profit in units of the risk taken, of each finished order that had a stop; Van K. Tharp, 1998.

    The risk is |price − stop|·bought with price and effective stop as they stood after the first entry fill (a trailing
    stop counts), fees left out. Orders without a stop, or with one that already locked in a profit, are left out.
    """
    opened = pl.col("kind").is_in(["filled", "held"])
    first = run.events.filter(opened).group_by("order").agg(pl.col("price", "stop").sort_by("seq").first())
    known = first.with_columns(sign=pl.Series(_directions(run)[first["order"].to_numpy()]))
    risk = pl.col("sign") * (pl.col("price") - pl.col("stop"))
    joined = done(run.orders).join(known, on="order", how="inner", maintain_order="left").filter(risk > 0)
    return joined.select("order", r=pl.col("realized_pnl") / (risk * pl.col("bought")))


def _directions(run: Run) -> np.ndarray:
    """+1 or -1 of each order; specs repeat, so each is asked once."""
    known = {id(spec): spec.direction for spec in run.specs}
    return np.array([known[id(spec)] for spec in run.specs], dtype=np.int64)


def done(orders: pl.DataFrame) -> pl.DataFrame:
    """The orders that entered and ended: those that a rate or a ratio of orders is about."""
    return orders.filter(pl.col("entry_ts").is_not_null() & pl.col("exit_reason").is_not_null())


def by_period(booked: pl.DataFrame, orders: pl.DataFrame, every: str = "1mo") -> pl.DataFrame:
    """Realized profit by calendar period (`"1d"`, `"1mo"`; UTC): `period`, `pnl`, `finished`, `won`, in order of time.

    `pnl` is what was booked in it (see `bookings`), `finished` and `won` count the orders whose last exit lay in it.
    Periods in which nothing happened are left out.
    """
    money = booked.group_by(period=pl.col("ts").dt.truncate(every)).agg(pl.col("pnl").sum())
    ended = (
        done(orders)
        .filter(pl.col("exit_ts").is_not_null())
        .group_by(period=pl.col("exit_ts").dt.truncate(every))
        .agg(finished=pl.len(), won=(pl.col("realized_pnl") > 0).sum())
    )
    table = money.join(ended, on="period", how="left").sort("period")
    return table.with_columns(pl.col("finished", "won").fill_null(0))


def period_of(span: int) -> int | None:
    """The longest of day, hour, minute and second (ns) of which `span` holds MIN_PERIODS; None if none does."""
    return next((NS[unit] for unit in ("d", "h", "m", "s") if span >= MIN_PERIODS * NS[unit]), None)


def summary(
    run: Run, ticks: Ticks | None = None, capital: float | None = None, period: Any = None, seed: int = 0
) -> dict[str, Any]:
    """Every number of this page for one run, by name; None where a number is undefined, and the empty dict for levels.

    Parameters
    ----------
    ticks : those of the run, where it does not carry them. With them, curves are marked to market (`equity` says
        `"marked"`), else they hold realized profits only (`"realized"`).
    capital : money that percentages are taken of; None: the most that was ever tied up in positions, at cost.
    period : length of the periods behind `sharpe` and `sortino` (`"1d"`); None: see `period_of`.
    seed : of the bootstrap.

    `sharpe`, `sortino`, `psr` are per period, those with `_annual` annualised; these, `calmar` and `mar` need a tape of
    MIN_SPAN_NS. `sharpe_trade`, `sortino_trade` are per order. `return_ci` is a block bootstrap of the mean return.
    """
    meta = run.meta
    first, last = int(meta["first_ts"]), int(meta["last_ts"])
    booked = bookings(run)
    curve = realized(booked)
    values = run.equity(ticks) if (ticks is not None or run.ticks is not None) else curve
    column = "equity" if "equity" in values.columns else "realized"
    when, equity = values["ts"].dt.epoch("ns").to_numpy(), values[column].to_numpy()
    ended = curve["ts"].dt.epoch("ns").to_numpy()
    last = max([last, *ended[-1:].tolist()])
    base = float(curve["capital"].max() or 0.0) if capital is None else capital  # type: ignore[arg-type]
    step = period_of(last - first) if period is None else _length("period", period)
    changes, samples = np.empty(0), np.empty(0)
    if step:
        _, samples = resample(when, equity, step, first, last)
        changes = np.diff(samples, prepend=0.0)
    yearly = YEAR_NS / step if step and last - first >= MIN_SPAN_NS else None
    ratio, shape = sharpe(changes), moments(changes)
    deepest = max_drawdown(when, equity) or Drawdown(0.0, None, None, None, 0)

    finished = done(run.orders).sort("entry_ts", "order")
    pnl, returns = finished["realized_pnl"], finished["return_"]
    mae, mfe = (finished.filter(pl.col("mae").is_not_null())[name] for name in ("mae", "mfe"))
    by_exit = finished.filter(pl.col("exit_ts").is_not_null()).sort("exit_ts", "order")["realized_pnl"]
    multiples = r_multiples(run)["r"]
    wins, losses = streaks(by_exit)
    together = overlap(ended, curve["open"], first, last)
    block = block_length(len(returns), together)
    total, fees = float(run.orders["realized_pnl"].sum()), float(run.orders["fees"].sum())
    moved = turnover(run.fills["price"], run.fills["quantity"])
    held = finished["held_ns"].drop_nulls()
    won = int((pnl > 0).sum())
    return {
        "orders": run.orders.height,
        "entered": run.orders["entry_ts"].is_not_null().sum(),
        "finished": finished.height,
        "realized_pnl": total,
        "unrealized_pnl": float(values["unrealized"][-1]) if "unrealized" in values.columns and len(values) else None,
        "fees": fees,
        "fee_share": fee_share(fees, total),
        "turnover": moved,
        "capital": base or None,
        "turnover_share": moved / base if base else None,
        "return_on_capital": total / base if base else None,
        "win_rate": win_rate(pnl),
        "win_rate_ci": wilson(won, len(pnl)),
        "profit_factor": profit_factor(pnl),
        "payoff_ratio": payoff_ratio(pnl),
        "expectancy": expectancy(pnl),
        "return_mean": expectancy(returns),
        "return_ci": bootstrap_mean(returns, 2_000, seed, block=block),
        "block": block,
        "r_mean": expectancy(multiples),
        "r_orders": len(multiples),
        "sqn": sqn(multiples),
        "kelly": kelly(returns),
        "sharpe_trade": sharpe(returns),
        "sortino_trade": sortino(returns),
        "value_at_risk": value_at_risk(returns),
        "expected_shortfall": expected_shortfall(returns),
        "consecutive_wins": wins,
        "consecutive_losses": losses,
        "mae": quantiles(mae),
        "mfe": quantiles(mfe),
        "edge_ratio": edge_ratio(mae, mfe),
        "held_mean_s": float(held.mean()) / 1e9 if len(held) else None,  # type: ignore[arg-type]
        "exposure": exposure(ended, curve["open"], first, last),
        "overlap": together,
        "equity": "marked" if column == "equity" else "realized",
        "max_drawdown": deepest.depth,
        "max_drawdown_share": deepest.depth / base if base else None,
        "max_drawdown_start": deepest.start,
        "max_drawdown_bottom": deepest.bottom,
        "max_drawdown_recovery": deepest.recovery,
        "max_drawdown_s": deepest.duration / 1e9,
        "period": duration_text(step) if step else None,
        "periods": len(changes),
        "sharpe": ratio,
        "sharpe_annual": sharpe(changes, yearly) if yearly else None,
        "sortino": sortino(changes),
        "sortino_annual": sortino(changes, 0.0, yearly) if yearly else None,
        "psr": None if ratio is None or shape is None else probabilistic_sharpe(ratio, len(changes), *shape),
        "ulcer_index": ulcer_index(samples, base) if base else None,
        "calmar": calmar(when, equity) if yearly else None,
        "mar": mar(when, equity) if yearly else None,
        "level_hit_rate": hit_rates(run.levels).to_dicts(),
    }
