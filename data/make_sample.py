"""Make `data/sample_trades.parquet`: 60,000 SYNTHETIC trades with the features that decide where an exit fills.

    python data/make_sample.py [--out data/sample_trades.parquet]

No trade in it ever took place. The same frame comes out on every machine and version: the random integers are from
numpy's `RandomState`, whose stream is frozen, and what is made of them uses only + - * / and the square root, which
IEEE 754 rounds alike everywhere (logarithms and exponentials differ in the last bit from one processor to the next).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from math import sqrt
from pathlib import Path

import numpy as np
import polars as pl

SEED, TRADES = 8, 60_000
START_MS = 1_709_510_400_000  # 2024-03-04T00:00:00Z
HOUR_MS = 3_600_000
INCREMENT, QUANTITY_INCREMENT = 0.01, 0.001
FIRST_PRICE = 150.0
SIGMA = 0.00035
"""Standard deviation of one step of the fair price: 3.5 bp, 5 cents at 150, against a half-spread of about 4."""
ARCH, GARCH = 0.06, 0.935
"""Shocks feed the variance, and half of one is gone after 138 steps, some twelve minutes."""
PHASES = [
    # until (h), drift per hour, volatility times, pace times
    (9, 0.0035, 1.0, 1.0),
    (12, 0.0000, 0.4, 0.15),  # a quiet spell
    (22, 0.0085, 1.1, 1.2),
    (30, -0.0030, 1.0, 1.0),
    (34, -0.0290, 2.2, 2.6),  # a fall
    (42, 0.0010, 1.2, 1.0),
    (46, 0.0000, 0.4, 0.15),  # a quiet spell
    (60, 0.0200, 1.0, 1.2),
    (999, 0.0030, 1.1, 1.0),
]
JUMPS = {6.5: 0.013, 30.6: -0.034, 41.2: -0.015, 52.8: 0.019}
"""Hour: move between one trade and the next."""
OUTAGE = (26.0, 27.0)
"""Hours in which the market traded on and the feed was silent: the trade ids show the hole."""


class Dice:
    """Random numbers from integers alone."""

    def __init__(self, seed: int):
        self._integers = self._draw(np.random.RandomState(seed))

    @staticmethod
    def _draw(state: np.random.RandomState) -> Iterator[int]:
        while True:
            yield from state.randint(0, 2**31 - 1, 100_000).tolist()

    def unit(self) -> float:
        """Uniform, above 0 and below 1."""
        return (next(self._integers) + 0.5) / (2**31 - 1)

    def below(self, count: int) -> int:
        """Uniform among 0 .. count - 1."""
        return next(self._integers) % count

    def normal(self) -> float:
        """Nearly normal: twelve uniforms."""
        return sum(next(self._integers) for _ in range(12)) / (2**31 - 1) - 6.0

    def exponential(self) -> float:
        """Nearly exponential with mean 1: half the sum of two squared normals."""
        a, b = self.normal(), self.normal()
        return (a * a + b * b) / 2


def make(seed: int = SEED, count: int = TRADES) -> pl.DataFrame:
    """The sample: ts_ns, price, size, side, trade_id, in order; `count` rows."""
    dice = Dice(seed)
    rows: list[tuple[int, float, float, str, str]] = []
    now, fair, variance, trade_id, side = float(START_MS), FIRST_PRICE, SIGMA * SIGMA, 81_200_000, 1
    jumps = sorted(JUMPS.items())
    while len(rows) < count:
        hour = (now - START_MS) / HOUR_MS
        _, drift, rough, pace = next(phase for phase in PHASES if hour < phase[0])
        # Trading quickens with volatility: a taker order every 6 s on most days, several a second after a shock.
        excitement = sqrt(variance) / SIGMA
        wait = 5_200 * dice.exponential() / (pace * (0.4 + 0.6 * excitement * excitement))
        now += max(wait, 1.0)
        step = sqrt(variance) * dice.normal()
        variance = (1 - ARCH - GARCH) * SIGMA * SIGMA + ARCH * step * step + GARCH * variance
        fair *= 1 + rough * step + drift * wait / HOUR_MS
        depth = 1
        if jumps and hour >= jumps[0][0]:
            move = jumps.pop(0)[1]
            fair *= 1 + move
            variance, depth, side = 10 * SIGMA * SIGMA, 12, 1 if move > 0 else -1
        else:
            side = 1 if dice.below(2) else -1
            if dice.below(12) == 0:
                depth = 2 + dice.below(7)
        spread = 0.025 + 0.02 * excitement
        level = fair + side * spread
        ms = int(now)
        for fill in range(depth):
            trade_id += 1
            price = int(level / INCREMENT + 0.5) + side * (fill // 3)  # a sweep eats a level with every third fill
            units = min(int(150 / dice.unit()), 900_000)
            if not OUTAGE[0] <= hour < OUTAGE[1] and len(rows) < count:
                word = "buy" if side > 0 else "sell"
                rows.append((ms * 1_000_000, price / 100, units / 1000, word, str(trade_id)))
    names = {"ts_ns": pl.Int64, "price": pl.Float64, "size": pl.Float64, "side": pl.String, "trade_id": pl.String}
    return pl.DataFrame(rows, schema=names, orient="row")


def main() -> None:
    """Write the sample to `--out`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("sample_trades.parquet"))
    out: Path = parser.parse_args().out
    label = {
        "synthetic": True,
        "symbol": "SOL/USDT",
        "price_increment": INCREMENT,
        "quantity_increment": QUANTITY_INCREMENT,
        "seed": SEED,
        "made_by": "data/make_sample.py",
    }
    frame = make()
    frame.write_parquet(out, compression="zstd", metadata={"smartorders_lab.sample": json.dumps(label)})
    print(f"{out}: {frame.height:,} synthetic trades, {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
