"""Closed forms: what targets, stops and trailing stops come to on a price that has no memory.

    fair = Brownian(deviation=0.01)                       # 1 % per unit of time, no drift
    fair.target_first(up=0.04, down=0.02)                 # 1/3: two to one against, and it pays two to one
    fair.trailing_time(0.02)                              # 4: how long a trailing stop at 2 % holds on average
    Brownian(deviation=0.01, look=0.25).trailing_time(0.02)   # 6.7: longer if the price is looked at four times per unit

Two prices, asked the same questions: `Brownian`, seen always or every `look`, and `Walk`, ±1 a step, where everything is
exact. Distances are positive and in the direction of the order. Where a price moves in per cent its logarithm is the Brownian
motion, distances are logarithms (`log_distance`), and a price that is a fair game has the drift -deviation²/2. `mirror()` is
the price as a short sees it.

Ruin: W. Feller, An Introduction to Probability Theory and Its Applications I, ch. XIV. Trailing stops: H. M. Taylor, A stopped
Brownian motion formula, Ann. Probab. 3, 1975; J. P. Lehoczky, Formulas for stopped diffusion processes with stopping times based
on the maximum, Ann. Probab. 5, 1977; P. W. Glynn, D. L. Iglehart, Trading securities using trailing stops, Management Science 41,
1995. Looks: M. Broadie, P. Glasserman, S. Kou, A continuity correction for discrete barrier options, Math. Finance 7, 1997.
`tests/test_theory.py` holds the engine against all of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from math import exp, expm1, log, log1p, sqrt
from typing import Self

BETA = 0.5825971579390107
"""-ζ(1/2)/√(2π): how far a walk of normal steps overshoots a distant barrier on average, in deviations of one step."""


def log_distance(move: float) -> float:
    """The distance |log(1 + move)| to a level: `move` is 0.02 for 2 % up, -0.02 for 2 % down."""
    return abs(log1p(move))


class _Price(ABC):
    """What the two prices have in common. θ (`tilt`): e^{-θx} is a martingale along the price x."""

    @property
    @abstractmethod
    def tilt(self) -> float: ...

    @property
    @abstractmethod
    def speed(self) -> float: ...

    @property
    def shift(self) -> float:
        """How much further out than it stands a barrier acts, because the price is not always looked at."""
        return 0.0

    def target_first(self, up: float, down: float) -> float:
        """The probability to be `up` above the start before `down` below it.

        (1 - e^{-θ·down}) / (1 - e^{-θ(up + down)}), and down/(up + down) without drift.
        """
        up, down = up + self.shift, down + self.shift
        if not self.tilt:
            return down / (up + down)
        return expm1(-self.tilt * down) / expm1(-self.tilt * (up + down))

    def value(self, up: float, down: float) -> float:
        """What leaving at the first of the two gains on average: P·up - (1 - P)·down. Nothing without drift."""
        p = self.target_first(up, down)
        return p * (up + self.shift) - (1 - p) * (down + self.shift) if self.tilt else 0.0

    def time(self, up: float, down: float) -> float:
        """How long that takes on average: the value divided by the speed; up·down/deviation² without drift."""
        return self.value(up, down) / self.speed if self.tilt else self._time(up + self.shift, down + self.shift)

    @abstractmethod
    def top_above(self, height: float, distance: float) -> float:
        """The probability that the price rises to `height` or more before it is first `distance` below its highest."""

    @abstractmethod
    def top(self, distance: float) -> float:
        """How high above the start the price rises on average before it is first `distance` below its highest."""

    def trailing_value(self, distance: float) -> float:
        """What leaving at a trailing stop gains on average: the top less the distance. Nothing without drift."""
        return self.top(distance) - distance - self.shift if self.tilt else 0.0

    def trailing_time(self, distance: float) -> float:
        """How long a trailing stop holds on average: its value divided by the speed; (distance/deviation)² without drift."""
        return self.trailing_value(distance) / self.speed if self.tilt else self._trailing_time(distance)

    @abstractmethod
    def _time(self, up: float, down: float) -> float: ...

    @abstractmethod
    def _trailing_time(self, distance: float) -> float: ...


@dataclass(frozen=True)
class Brownian(_Price):
    """A Brownian motion with `drift` and standard `deviation` per unit of time, looked at every `look` (0: always).

    With looks apart, barriers act β·deviation·√look further out: exact to first order in √look, and good to a few parts in a
    thousand for barriers a few such steps away.
    """

    drift: float = 0.0
    deviation: float = 1.0
    look: float = 0.0

    @property
    def tilt(self) -> float:
        """2·drift/deviation²."""
        return 2 * self.drift / self.deviation**2

    @property
    def speed(self) -> float:
        """The drift."""
        return self.drift

    @property
    def shift(self) -> float:
        """β·deviation·√look."""
        return BETA * self.deviation * sqrt(self.look)

    def top_above(self, height: float, distance: float) -> float:
        """As above: e^{-height/mean} with the mean (e^{θ·distance} - 1)/θ, which is the distance without drift.

        A walk that is looked at falls short of its top by the shift, on the average, and overshoots the stop by it, so the distance
        counts with two shifts and the height with one.
        """
        return exp(-(max(height, 0.0) + self.shift) / self._mean(distance)) if height > 0 else 1.0

    def top(self, distance: float) -> float:
        """As above: (e^{θ·distance} - 1)/θ, the distance without drift; looks as in `top_above`."""
        return self._mean(distance) - self.shift

    def mirror(self) -> Self:
        """The price as a short sees it."""
        return replace(self, drift=-self.drift)

    def _mean(self, distance: float) -> float:
        seen = distance + 2 * self.shift
        return expm1(self.tilt * seen) / self.tilt if self.tilt else seen

    def _time(self, up: float, down: float) -> float:
        return up * down / self.deviation**2

    def _trailing_time(self, distance: float) -> float:
        return ((distance + 2 * self.shift) / self.deviation) ** 2


@dataclass(frozen=True)
class Walk(_Price):
    """A price that goes up by 1 with probability `p` in every unit of time, and else down by 1. Distances are whole numbers."""

    p: float = 0.5

    @property
    def tilt(self) -> float:
        """log(p/(1 - p))."""
        return log(self.p / (1 - self.p))

    @property
    def speed(self) -> float:
        """2p - 1."""
        return 2 * self.p - 1

    def top_above(self, height: float, distance: float) -> float:
        """As above: one more each time with the probability of reaching 1 before -distance."""
        return self.target_first(1, distance) ** max(height, 0.0)

    def top(self, distance: float) -> float:
        """As above: (e^{θ·distance} - 1)/(1 - e^{-θ}), the distance without drift."""
        return expm1(self.tilt * distance) / -expm1(-self.tilt) if self.tilt else float(distance)

    def mirror(self) -> Self:
        """The price as a short sees it."""
        return replace(self, p=1 - self.p)

    def _time(self, up: float, down: float) -> float:
        return up * down

    def _trailing_time(self, distance: float) -> float:
        return distance * (distance + 1)
