"""How much of everything: a minute, everything, or just enough to see that it runs and agrees."""

from __future__ import annotations

from dataclasses import dataclass

from .tape import FINE, STEP


@dataclass(frozen=True)
class Scale:
    """Sizes of all benchmarks."""

    rounds: int
    index: int  # ticks
    orders: tuple[tuple[int, int, float, str], ...]  # orders, ticks, step of the walk, callback rate
    sample: int  # orders that the loops run where all would take minutes
    growth: tuple[int, int]  # orders, ticks; which grow 10 and 100 times if they may
    factors: tuple[int, ...]
    sweeps: tuple[tuple[int, int, float], ...]  # entries, ticks, step; 100 combinations each
    checked: int  # entries whose combinations are replayed one by one and compared
    ladders: tuple[int, int, int]  # entries, ticks, values on each of the three axes
    watched: tuple[int, ...]
    stored: int  # orders
    processes: int  # runs of a subprocess
    trading: tuple[int, int]  # orders, seconds at a steady pace
    hour: int  # ticks after that, as fast as they go


QUICK = Scale(
    rounds=5,
    index=10_000_000,
    orders=((10_000, 1_000_000, STEP, "0.02"), (10_000, 10_000_000, STEP, "0.02"), (10_000, 10_000_000, STEP, "0.05")),
    sample=500,
    growth=(1_000, 200_000),
    factors=(10, 100),
    sweeps=((1_000, 1_000_000, STEP),),
    checked=50,
    ladders=(1_000, 10_000_000, 10),
    watched=(100, 1_000, 10_000, 100_000),
    stored=20_000,
    processes=3,
    trading=(1000, 5),
    hour=20000,
)
FULL = Scale(
    rounds=7,
    index=100_000_000,
    orders=(
        *QUICK.orders,
        (100_000, 200_000_000, STEP, "0.02"),
        (100_000, 200_000_000, STEP, "0.05"),
        (100_000, 200_000_000, FINE, "0.02"),
        (100_000, 200_000_000, FINE, "0.05"),
    ),
    sample=500,
    growth=(1_000, 1_000_000),
    factors=(10, 100),
    sweeps=((1_000, 1_000_000, STEP), (1_000, 100_000_000, STEP), (1_000, 100_000_000, FINE)),
    checked=50,
    ladders=(1_000, 10_000_000, 10),
    watched=(100, 1_000, 10_000, 100_000),
    stored=120_000,
    processes=5,
    trading=(10000, 60),
    hour=3600000,
)
TOY = Scale(
    rounds=1,
    index=20_000,
    orders=((50, 20_000, STEP, "0.005"),),
    sample=20,
    growth=(20, 20_000),
    factors=(2,),
    sweeps=((10, 20_000, STEP),),
    checked=5,
    ladders=(5, 20_000, 2),
    watched=(100,),
    stored=50,
    processes=1,
    trading=(20, 1),
    hour=500,
)
