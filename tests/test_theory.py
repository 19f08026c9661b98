"""The engine against what is known: ruin, drawdown, rarely seen barriers, and that a fair game stays fair whatever the order.

Thousands of independent paths lie on one tape, one order starts on each. An estimate may be 4 standard errors off, a
distribution as far as the inequality of Dvoretzky, Kiefer and Wolfowitz (with Massart's constant) allows at 1e-4; the seeds are
fixed. Each law is also shown to be tight: the formula next to it is refused by the same orders.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest

import smartorders_lab as so
from smartorders_lab.theory import BETA, Brownian, Walk, log_distance

SECOND = 10**9
T0 = 1_701_000_000 * SECOND  # a whole number of every poll interval below
SYMBOL = "COIN/USDT:USDT"
HIGH = 1_000_000
"""Price at which the walks of ±1 start: so high that a callback of d/HIGH is d ticks, from whatever mark."""
SIGMA = 0.001
"""Deviation of the logarithm of the price from one tick to the next."""
Z = 4.0
SIDES = ["buy", "sell"]


class Tape(NamedTuple):
    ticks: so.Ticks
    paths: np.ndarray
    """Prices, one row a path."""

    @property
    def starts(self) -> np.ndarray:
        return np.arange(len(self.paths)) * self.paths.shape[1]


@cache
def walks(p: float, paths: int, length: int) -> Tape:
    rng = np.random.default_rng(1)
    steps = np.where(rng.random((paths, length), np.float32) < p, 1, -1).cumsum(axis=1)
    return tape(HIGH + steps - steps[:, :1], increment="1")


@cache
def motion(tilt: float, paths: int = 4000, length: int = 1800) -> Tape:
    """Prices whose logarithm is a Brownian motion, with its drift in units of half its variance."""
    rng = np.random.default_rng(2)
    steps = (SIGMA * rng.standard_normal((paths, length)) + tilt * SIGMA**2 / 2).cumsum(axis=1)
    return tape(np.round(100 * np.exp(steps - steps[:, :1]), 6), increment="0.000001")


def tape(prices: np.ndarray, increment: str) -> Tape:
    instrument = so.Instrument(symbol=SYMBOL, price_increment=increment, quantity_increment="0.0001")
    sizes = np.random.default_rng(3).integers(1, 9, prices.size) * 0.5
    ts = T0 + np.arange(prices.size) * SECOND
    return Tape(so.Ticks.from_arrays(ts, prices.ravel(), sizes, instrument=instrument), prices)


def order(side: str, **changes: Any) -> so.SmartOrder:
    return so.SmartOrder(**{"symbol": SYMBOL, "side": side, "quantity": 1, **changes})


def replay(tape: Tape, side: str, look: int = 1, **exits: Any) -> pl.DataFrame:
    """One order on each path; all of them finish by themselves. Adds `won`, `top` (the water mark), `height`, `gain`, `steps`."""
    length = tape.paths.shape[1]
    made = order(side, max_hold=(length - look) * SECOND, **exits)
    poll = look * SECOND if look > 1 else None
    run = so.replay([made] * len(tape.paths), tape.ticks, tape.starts, poll_interval=poll, progress=False)
    frame, sign = run.orders, made.direction
    assert "max_hold" not in frame["exit_reason"]
    return frame.with_columns(
        won=pl.col("exit_reason") == "take_profit",
        top=run.events.filter(pl.col("kind") == "triggered")
        .group_by("order", maintain_order=True)
        .last()["water_mark"],
        steps=pl.col("held_ns") / SECOND,
    ).with_columns(
        height=sign * (pl.col("top") / pl.col("entry_price")).log(),
        gain=sign * (pl.col("exit_price") / pl.col("entry_price")).log(),
    )


def rate(distance: int) -> str:
    """The callback that is `distance` ticks at HIGH: half a tick less, which rounding away from the market gives back."""
    return f"{(distance - 0.5) / HIGH:.8f}"


def z_share(hits: pl.Series, p: float) -> float:
    """Standard errors, as they are if p is right, between a relative frequency and p."""
    return float((hits.mean() - p) / np.sqrt(p * (1 - p) / len(hits)))


def z_mean(values: Any, expected: float = 0.0) -> float:
    values = np.asarray(values, float)
    return float((values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values))))


def dkw(values: Any, above: Callable[[float], float], least: float = 0.0) -> float:
    """The distance between the distribution of a sample and P(X >= x) = above(x), as a share of what chance explains at 1e-4.

    It is looked for at x >= `least`.
    """
    x, count = np.unique(np.asarray(values, float), return_counts=True)
    share = np.cumsum(count) / count.sum()  # of the sample up to x
    law = np.array([above(value) for value in x])
    next_ = np.array([above(np.nextafter(value, np.inf)) for value in x])
    off = np.maximum(np.abs(1 - share - next_), np.abs(1 - np.r_[0, share[:-1]] - law))
    distance = off[x >= least].max()
    return float(distance / np.sqrt(np.log(2 / 1e-4) / (2 * count.sum())))


# --- the formulas among themselves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.5, 0.53, 0.4])
@pytest.mark.parametrize(("up", "down"), [(12, 8), (1, 5), (3, 20)])
def test_walk_solves_its_equations(p: float, up: int, down: int) -> None:
    """h(x) = p·h(x + 1) + q·h(x - 1) with h = 1 at the target and 0 at the stop; the same, with 1 more, for the time."""
    n = up + down - 1
    system = np.eye(n) - p * np.eye(n, k=1) - (1 - p) * np.eye(n, k=-1)
    walk = Walk(p)
    assert walk.target_first(up, down) == pytest.approx(np.linalg.solve(system, p * (np.arange(n) == n - 1))[down - 1])
    assert walk.time(up, down) == pytest.approx(np.linalg.solve(system, np.ones(n))[down - 1])
    # the drawdown is a walk on 0..down-1 that stays at 0 when the price makes a new top
    system = np.eye(down) - p * np.eye(down, k=-1) - (1 - p) * np.eye(down, k=1)
    system[0, 0] -= p
    assert walk.trailing_time(down) == pytest.approx(np.linalg.solve(system, np.ones(down))[0])
    assert walk.top(down) == pytest.approx(np.linalg.solve(system, p * (np.arange(down) == 0))[0])
    assert walk.top_above(3, down) == pytest.approx((walk.top(down) / (1 + walk.top(down))) ** 3)


@pytest.mark.parametrize("drift", [0.0, 0.7, -0.7])
def test_brownian_motion_is_the_limit_of_walks(drift: float) -> None:
    fine = 1000  # steps per unit of distance, and their square per unit of time
    walk, limit = Walk((1 + drift / fine) / 2), Brownian(drift)
    up, down = 2, 1
    assert limit.target_first(up, down) == pytest.approx(walk.target_first(up * fine, down * fine), rel=1e-3)
    assert limit.value(up, down) == pytest.approx(walk.value(up * fine, down * fine) / fine, rel=1e-3)
    assert limit.time(up, down) == pytest.approx(walk.time(up * fine, down * fine) / fine**2, rel=1e-3)
    assert limit.top(down) == pytest.approx(walk.top(down * fine) / fine, rel=2e-3)
    assert limit.top_above(0.8, down) == pytest.approx(walk.top_above(800, down * fine), rel=2e-3)
    assert limit.trailing_value(down) == pytest.approx(walk.trailing_value(down * fine) / fine, rel=4e-3)
    assert limit.trailing_time(down) == pytest.approx(walk.trailing_time(down * fine) / fine**2, rel=4e-3)
    mirrored = limit.mirror()
    assert mirrored.target_first(down, up) == pytest.approx(1 - limit.target_first(up, down))
    assert walk.mirror().value(down, up) == pytest.approx(-walk.value(up, down))


def test_formulas_go_over_into_those_without_drift() -> None:
    for still, slow in [(Brownian(0, 2, 0.1), Brownian(1e-6, 2, 0.1)), (Walk(), Walk(0.5 + 1e-7))]:
        for name, args in [("target_first", (3, 2)), ("time", (3, 2)), ("top", (3,)), ("trailing_time", (3,))]:
            assert getattr(slow, name)(*args) == pytest.approx(getattr(still, name)(*args), rel=1e-4), name
        assert slow.trailing_value(3) == pytest.approx(0, abs=1e-4)
    assert log_distance(0.02) == pytest.approx(log_distance(1 / 1.02 - 1))


def test_beta_is_zeta_of_a_half() -> None:
    n = 1e6
    zeta = (1 / np.sqrt(np.arange(1, n + 1))).sum() - 2 * np.sqrt(n) - 0.5 / np.sqrt(n)  # Euler and Maclaurin
    assert pytest.approx(-zeta / np.sqrt(2 * np.pi), abs=1e-9) == BETA


# --- first passages: take profit or stop loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("p", [0.5, 0.53, 0.47])
def test_ruin_of_a_walk(p: float, side: str) -> None:
    up, down = 12, 8
    sign = 1 if side == "buy" else -1
    walk = Walk(p) if sign > 0 else Walk(p).mirror()
    made = replay(walks(p, 4000, 1200), side, take_profits=[(HIGH + sign * up, 100)], stop_loss=HIGH - sign * down)
    assert abs(z_share(made["won"], walk.target_first(up, down))) < Z
    assert abs(z_mean(made["steps"], walk.time(up, down))) < Z
    assert abs(z_mean(made["realized_pnl"], walk.value(up, down))) < Z
    assert set(made["realized_pnl"]) == {up, -down}
    for wrong in [Walk(1 - p) if p != 0.5 else Walk(0.52), Walk(p - 0.02)]:
        assert abs(z_share(made["won"], (wrong if sign > 0 else wrong.mirror()).target_first(up, down))) > 2 * Z


@pytest.mark.parametrize("look", [1, 9])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("tilt", [0.0, 40.0])
def test_levels_seen_now_and_then(tilt: float, side: str, look: int) -> None:
    """A target at 8 deviations of what the price does between two looks, and a stop at one."""
    sign = 1 if side == "buy" else -1
    move = SIGMA * np.sqrt(look)
    above, below = round(8 * move, 6), -round(move, 6)
    up, down = log_distance(sign * above), log_distance(sign * below)
    drift = sign * tilt * SIGMA**2 / 2
    law, always = Brownian(drift, SIGMA, look), Brownian(drift, SIGMA)
    targets = {"take_profits": [(f"{sign * above:+%}", 100)], "stop_loss": f"{sign * below:+%}"}
    made = replay(motion(tilt), side, look, **targets)
    won, lost = made.filter("won")["gain"], made.filter(~pl.col("won"))["gain"]
    assert abs(z_share(made["won"], law.target_first(up, down))) < Z
    assert abs(z_mean(made["steps"], law.time(up, down))) < Z
    assert abs(z_mean(made["gain"], law.value(up, down))) < Z
    if not tilt:  # with drift the overshoot is slightly more along it, and less against it
        assert abs(z_mean(won, up + law.shift)) < Z
        assert abs(z_mean(lost, -down - law.shift)) < Z
    assert z_share(made["won"], always.target_first(up, down)) > Z
    assert z_mean(made["steps"], always.time(up, down)) > 2 * Z
    assert z_mean(won, up) > 2 * Z
    assert z_mean(lost, -down) < -2 * Z
    if tilt:
        assert abs(z_share(made["won"], law.mirror().target_first(up, down))) > Z


# --- the first drawdown: a trailing stop ------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("p", [0.5, 0.53, 0.47])
def test_drawdown_of_a_walk(p: float, side: str) -> None:
    """The top before a drawdown of d is geometric, exactly."""
    distance = 7
    walk = Walk(p) if side == "buy" else Walk(p).mirror()
    made = replay(walks(p, 4000, 1200), side, trailing_stop=rate(distance))
    top = (made["top"] - HIGH).abs()
    assert set(made["realized_pnl"] + distance - top) == {0.0}
    assert dkw(top, lambda height: walk.top_above(np.ceil(height), distance)) < 1
    assert abs(z_mean(top, walk.top(distance))) < Z
    assert abs(z_mean(made["realized_pnl"], walk.trailing_value(distance))) < Z
    assert abs(z_mean(made["steps"], walk.trailing_time(distance))) < Z
    for wrong in [distance - 1, distance + 1]:
        assert abs(z_mean(made["steps"], walk.trailing_time(wrong))) > Z
    if p != 0.5:
        assert dkw(top, lambda height: walk.mirror().top_above(np.ceil(height), distance)) > 3
        assert abs(z_mean(made["realized_pnl"])) > 2 * Z


@pytest.mark.parametrize("look", [1, 4])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("tilt", [0.0, 40.0, -40.0])
def test_drawdown_seen_now_and_then(tilt: float, side: str, look: int) -> None:
    """A trailing stop at 1 %, ten or five looks away: the top is exponential, missed by one shift and left by another."""
    callback = 0.01
    sign = 1 if side == "buy" else -1
    distance = log_distance(-sign * callback)
    drift = sign * tilt * SIGMA**2 / 2
    law, always = Brownian(drift, SIGMA, look), Brownian(drift, SIGMA)
    made = replay(motion(tilt), side, look, trailing_stop=callback)
    away = SIGMA * np.sqrt(look)  # nearer to the start than one look the law does not hold: some never rise at all
    assert dkw(made["height"], lambda height: law.top_above(height, distance), away) < 1
    assert abs(z_mean(made["height"], law.top(distance))) < Z
    assert abs(z_mean(made["gain"], law.trailing_value(distance))) < Z
    assert abs(z_mean(made["steps"], law.trailing_time(distance))) < Z
    assert abs(z_mean(made["steps"], always.trailing_time(distance))) > 2 * Z
    if look > 1:
        assert dkw(made["height"], lambda height: always.top_above(height, distance), away) > 1
    assert (
        abs(z_mean(made["height"] - made["gain"], distance + law.shift)) < Z
    )  # it is not left at the stop, but beyond
    assert abs(z_mean(made["height"] - made["gain"], distance)) > 2 * Z
    if tilt:
        assert dkw(made["height"], lambda height: law.mirror().top_above(height, distance)) > 3
        assert abs(z_mean(made["gain"])) > 2 * Z


# --- a fair game -----------------------------------------------------------------------------------------------------------

PATHS, LENGTH, EXPIRY = 800, 300, 100


def shapes(side: str) -> dict[str, so.SmartOrder]:
    """Orders of every kind; where the market stops them in nothing, time does."""
    sign = 1 if side == "buy" else -1

    def at(*ticks: int) -> Any:
        prices = [HIGH + sign * tick for tick in ticks]
        return prices if len(prices) > 1 else prices[0]

    def levels(*pairs: tuple[int, float], kind: str = "market") -> list[so.TakeProfit]:
        return [so.TakeProfit(target=at(tick), size=size, kind=kind) for tick, size in pairs]

    ladder, stop = levels((4, 40), (8, 35), (13, 25)), at(-6)
    plain: dict[str, Any] = {"take_profits": ladder, "stop_loss": stop}
    made: dict[str, dict[str, Any]] = {
        "one target": {"take_profits": levels((9, 100)), "stop_loss": at(-5)},
        "ladder": plain,
        "ladder, limits": {**plain, "take_profits": levels((4, 40), (8, 35), (13, 25), kind="limit")},
        "ladder, break-even": {**plain, "break_even": True},
        "ladder, break-even after two, above": {**plain, "break_even": {"after": 2, "offset": "0.000003"}},
        "ladder, break-even with fees": {**plain, "break_even": {"after": 1, "offset": "fees"}},
        "ladder, trailing": {**plain, "trailing_stop": rate(5)},
        "ladder, runner, all": {
            "take_profits": levels((3, 25), (6, 25)),
            "stop_loss": at(-8),
            "trailing_stop": {"callback_rate": rate(4), "activation": at(5)},
            "break_even": True,
        },
        "trailing alone": {"trailing_stop": rate(6)},
        "last level trails": {**plain, "trailing_take_profit": rate(3)},
        "shares of what is left": {
            **plain,
            "take_profits": levels((3, 50), (7, 50), (9, 50)),
            "size_basis": "remaining",
        },
        "stop that waits": {**plain, "stop_loss": {"target": stop, "timeout": "7s", "emergency": at(-11)}},
        "stop with a limit": {**plain, "stop_loss": {"target": stop, "limit": at(-7), "emergency": at(-12)}},
        "bought on the way down": {
            **plain,
            "entry": so.Entry.ladder([(at(-2), 60), (at(-4), 40)]),
            "stop_loss": at(-9),
        },
        "bought at a limit": {**plain, "entry": so.Entry.limit(at(-3)), "trailing_stop": rate(7)},
        "bought at a stop": {**plain, "entry": so.Entry.stop(at(2)), "break_even": True},
        "bought at a turn": {**plain, "entry": so.Entry.trailing(rate(3), activation=at(-2)), "trailing_stop": rate(4)},
        "risk": {**plain, "quantity": None, "risk": 7},
        "coarse": {**plain, "quantity": "0.0017", "trailing_stop": rate(5)},
    }
    times = {"entry_expiry": EXPIRY * SECOND, "max_hold": (LENGTH - EXPIRY - 10) * SECOND}
    return {name: order(side, tag=name, **{"quantity": "0.9973", **times, **fields}) for name, fields in made.items()}


def results(tape: Tape, orders: list[so.SmartOrder], **how: Any) -> pl.DataFrame:
    """Orders path after path, with `gross`: the profit before fees, what is still held counted at the path's last price;
    `exposure`: what was held, integrated over time; `paid`: by how much fills were worse than the price of their tick; `rested`:
    what was sold by limits that had waited. All per coin ordered, so that no shape is lost beside a larger one."""
    each, length = len(orders) // len(tape.paths), tape.paths.shape[1]
    run = so.replay(orders, tape.ticks, np.repeat(tape.starts, each), progress=False, **how)
    sign = orders[0].direction
    fills = run.fills.with_columns(
        way=pl.when(pl.col("role").is_in(["entry", "add_funds"])).then(1).otherwise(-1),
        worse=pl.col("price") - pl.Series(tape.paths.ravel()[run.fills["tick"]]),
    )
    sums = fills.group_by("order").agg(
        lived=-(pl.col("way") * pl.col("quantity") * (pl.col("tick") % length)).sum(),
        paid=sign * (pl.col("way") * pl.col("quantity") * pl.col("worse")).sum(),
        rested=pl.col("quantity").filter((pl.col("liquidity") == "maker") & (pl.col("way") < 0)).sum(),
        charged=pl.col("fee").sum(),
    )
    frame = run.orders.join(sums, on="order", how="left", maintain_order="left")
    assert np.allclose(frame["charged"].fill_null(0), frame["fees"], rtol=0, atol=1e-6)
    last = pl.Series(np.repeat(tape.paths[:, -1], each))
    frame = frame.with_columns(
        gross=pl.col("realized_pnl")
        + pl.col("fees")
        + sign * pl.col("held") * (last - pl.col("entry_price").fill_null(0)),
        exposure=pl.col("lived").fill_null(0) + pl.col("held") * (length - 1),
        **{name: pl.col(name).fill_null(0) for name in ("paid", "rested")},
    )
    ordered = pl.when(pl.col("quantity") > 0).then(pl.col("quantity")).otherwise(1)
    return frame.with_columns(pl.col("gross", "exposure", "paid", "rested", "fees", "realized_pnl") / ordered)


def scores(frame: pl.DataFrame, expression: pl.Expr) -> np.ndarray:
    """Standard errors between the mean of an expression and 0, of each shape."""
    groups = frame.with_columns(value=expression).group_by("tag", maintain_order=True).agg("value")
    return np.array([z_mean(values) for values in groups["value"]])


TOUCH = {"touch": True}
VENUES: dict[str, dict[str, Any]] = {
    "plain": {},
    "fees": {"fills": {"fee_taker": "0.000002", "fee_maker": "0.000001", **TOUCH}},
    "slippage": {"fills": {"slippage": "0.0000005", **TOUCH}},
    "latency": {"fills": {"latency": "3s", **TOUCH}},
    "in parts": {"fills": {"participation": "0.2", **TOUCH}},
    "polled": {"fills": TOUCH, "poll_interval": "5s"},
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("venue", "p"), [*((venue, 0.5) for venue in VENUES), ("plain", 0.54), ("in parts", 0.54)])
def test_no_order_beats_the_market(venue: str, p: float, side: str) -> None:
    """Optional stopping: what an order earns is the drift times what it held, less what it paid, and never its shape."""
    tape, made = walks(p, PATHS, LENGTH), list(shapes(side).values())
    frame = results(tape, made * PATHS, **VENUES[venue])
    drift = (2 * p - 1) * made[0].direction * pl.col("exposure")
    fair = pl.col("gross") - drift + pl.col("paid")
    assert abs(scores(frame, fair)).max() < Z
    assert frame.filter(pl.col("bought") > 0).height > 0.8 * frame.height
    if venue == "plain":  # a limit that rests is filled by the tick that goes through it: sold one tick too cheap
        assert np.allclose(frame["paid"], frame["rested"], rtol=0, atol=1e-6)
        adverse = frame.filter(tag="ladder, limits")
        assert adverse["rested"].mean() > 0.1
    elif venue == "slippage":
        assert np.median(scores(frame, fair - pl.col("paid"))) < -Z
    elif venue != "in parts":
        assert frame["paid"].abs().max() == 0
    if venue == "fees":
        assert scores(frame, pl.col("realized_pnl")).max() < -Z
        assert abs(scores(frame, pl.col("realized_pnl") + pl.col("fees"))).max() < Z
    if p != 0.5:
        assert abs(scores(frame, fair + drift)).min() > Z


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("p", [0.5, 0.54])
def test_no_action_beats_it_either(p: float, side: str) -> None:
    """Bought more of, sold some of, edited, and at last cancelled: coins that stay count at the last price."""
    tape, sign = walks(p, PATHS, LENGTH), 1 if side == "buy" else -1
    made = shapes(side)["ladder, runner, all"].replace(stop_loss=HIGH - sign * 12, trailing_stop=None, max_hold="1d")
    wider = [(HIGH + sign * 9, 30), (HIGH + sign * 16, 30)]
    actions = []
    for i, start in enumerate(tape.ticks.ts[tape.starts].tolist()):
        actions += [
            so.add_funds(i, start + 10 * SECOND, quantity="0.61"),
            so.reduce_funds(i, start + 35 * SECOND, quantity="0.3"),
            so.edit(i, start + 50 * SECOND, take_profits=wider, trailing_stop=rate(11)),
            (so.close_at_market if i % 3 == 0 else so.cancel)(i, start + 120 * SECOND),
        ]
    frame = results(tape, [made] * PATHS, actions=actions)
    assert {"cancelled", "close_at_market", "stop_loss", "trailing_stop"} <= set(frame["exit_reason"])
    assert 0.05 < (frame["held"] > 0).mean() < 0.95
    drift = (2 * p - 1) * sign * pl.col("exposure")
    assert abs(scores(frame, pl.col("gross") - drift)).max() < Z
    left_out = pl.when(pl.col("held") == 0).then(pl.col("gross") - drift).otherwise(0.0)
    assert abs(scores(frame, left_out)).max() > Z
