"""The guard against outlier prints: what is too far away waits until other prints agree.

A print further than `outlier` from the last believed price counts only once AGREE prints in a row lie that close to one another; from
the last of them on it is believed. The same in replay, over whole columns, and live, print by print.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import Problem, SpecError
from .fields import fraction, plain
from .lower import rate_units
from .rows import SCALE

AGREE = 3
"""Prints in a row that have to agree before an outlier is believed."""


class Guard:
    """Follows one series of prices. `outlier` is a fraction; raises SpecError if it is not one above 0 and below 1."""

    def __init__(self, outlier: Any):
        try:
            distance = fraction(outlier)
        except ValueError as error:
            raise SpecError(Problem("outlier", outlier, str(error))) from None
        if not 0 < distance < 1:
            raise SpecError(Problem("outlier", outlier, "must be above 0 and below 1", "write 2% or 0.02"))
        self.limit, self.text = rate_units(distance), plain(distance)
        self.state: tuple[int, int, int] = (0, 0, 0)
        """The last believed price, the last doubtful one, and how many in a row agree with it; 0: none."""

    def believe(self, price: np.ndarray) -> np.ndarray:
        """Mask of the prices (int64, in order, after those of earlier calls) that are believed."""
        believed = np.ones(len(price), dtype=bool)
        if len(price) == 0:
            return believed
        reference, last, run = self.state
        reference = reference or int(price[0])
        before = np.concatenate([[reference], price[:-1]])
        far = np.flatnonzero(np.abs(price - before).astype(float) * SCALE > self.limit * before.astype(float))
        i = 0
        while i < len(price):
            if not run:  # only a jump can start a doubt, so everything up to the next one is taken whole
                position = np.searchsorted(far, i)
                if position == len(far):
                    reference = int(price[-1])
                    break
                i = int(far[position])
                reference = last = int(price[i - 1]) if i else reference
                run = 1
            while i < len(price) and abs(int(price[i]) - reference) * SCALE > self.limit * reference:
                run = run + 1 if abs(int(price[i]) - last) * SCALE <= self.limit * last else 1
                last = int(price[i])
                if run >= AGREE:
                    break
                believed[i] = False
                i += 1
            if i < len(price):
                reference, last, run = int(price[i]), 0, 0
                i += 1
        self.state = (reference, last, run)
        return believed
