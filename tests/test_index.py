"""The tick index: each search is the scan's, whatever the tape and wherever it begins and ends; grown, kept, and never believed blindly.

That a replay is the same to the byte with it and without is in test_kernel.py and test_real_data.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_kernel import random_cases

import smartorders_lab as so
from smartorders_lab import passages
from smartorders_lab.index import Index
from smartorders_lab.machine import read_only
from smartorders_lab.rows import FAN, LEAF, NEVER, NONE, SCALE

BORDERS = sorted({max(1, size + step) for size in (LEAF, LEAF * FAN, LEAF * FAN * FAN) for step in (-1, 0, 1)})
BEGIN = 1_700_000_000 * 10**9


def tape(seed: int, length: int, kind: str) -> np.ndarray:
    """Prices: a walk with ties, one with gaps, one that mostly stands, or a line."""
    rng = np.random.default_rng(seed)
    steps = {
        "walk": rng.integers(-1, 2, length),
        "gaps": rng.integers(-2, 3, length) * np.where(rng.random(length) < 0.02, 400, 1),
        "stands": rng.integers(-9, 10, length) * (rng.random(length) < 0.01),
        "up": np.ones(length, np.int64),
        "down": -np.ones(length, np.int64),
    }[kind]
    return np.maximum(10_000 + np.cumsum(steps), 1).astype(np.int64)


lengths = st.sampled_from(BORDERS) | st.integers(1, 3000)
kinds = st.sampled_from(["walk", "gaps", "stands", "up", "down"])


@random_cases
@given(st.integers(0, 10**6), lengths, kinds, st.data())
def test_a_search_is_a_scan(seed: int, length: int, kind: str, data: st.DataObject) -> None:
    price = read_only(tape(seed, length, kind))
    index = Index(price)
    first = data.draw(st.integers(0, length))
    end = data.draw(st.integers(first, length))
    near = int(price[min(first, length - 1)])
    high = data.draw(st.sampled_from([NEVER, near + 1, near + 20, near + 300, near]))
    low = data.draw(st.sampled_from([NONE, near - 1, near - 20, near - 300, near]))
    rate = data.draw(st.sampled_from([0, 1, SCALE // 10_000, SCALE // 1000, SCALE // 100, SCALE // 20]))
    fall, rise = data.draw(st.sampled_from([(rate, 0), (0, rate)]))
    found = passages.find(price, *index.arrays(), first, end, high, low, fall, rise)
    assert found == slow(price, first, end, high, low, fall, rise)


def slow(price: np.ndarray, t: int, end: int, high: int, low: int, fall: int, rise: int) -> tuple[int, int, int]:
    """The definition."""
    top, bottom = NONE, NEVER
    while t < end:
        p = int(price[t])
        fell = fall and top != NONE and p * SCALE <= top * (SCALE - fall)
        rose = rise and bottom != NEVER and p * SCALE >= bottom * (SCALE + rise)
        if p >= high or p <= low or fell or rose:
            break
        top, bottom, t = max(top, p), min(bottom, p), t + 1
    return t, top, bottom


@random_cases
@given(st.integers(0, 10**6), kinds, st.lists(lengths, min_size=2, max_size=5))
def test_an_extended_index_is_a_new_one(seed: int, kind: str, parts: list[int]) -> None:
    price = tape(seed, sum(parts), kind)
    grown, at = Index(price[: parts[0]]), parts[0]
    for part in parts[1:]:
        at += part
        grown.extend(price[:at])
        fresh = Index(price[:at])
        for level, count in enumerate(counts(at, len(fresh.at) - 1)):
            a, b = int(grown.at[level]), int(fresh.at[level])
            assert (grown.bounds[a : a + count] == fresh.bounds[b : b + count]).all()
            if level:
                a, b = a - int(grown.at[1]), b - int(fresh.at[1])
                assert (grown.moves[a : a + count] == fresh.moves[b : b + count]).all()
    with pytest.raises(so.DataError, match="covers"):
        grown.extend(price[:1])


def counts(ticks: int, levels: int) -> list[int]:
    found = [-(-ticks // LEAF)]
    while len(found) < levels:
        found.append(-(-found[-1] // FAN))
    return found


def test_it_is_built_the_same_on_many_threads_and_stays_small() -> None:
    price = tape(1, 3_000_001, "walk")
    one, many = Index(price, workers=1), Index(price, workers=4)
    for level, count in enumerate(counts(len(price), len(one.at) - 1)):
        a = int(one.at[level])
        assert (one.bounds[a : a + count] == many.bounds[a : a + count]).all()
    assert one.nbytes <= 0.08 * price.nbytes


def ticks_of(price: np.ndarray, begin: int = BEGIN) -> so.Ticks:
    instrument = so.Instrument(symbol="A/B:B", price_increment="0.01", quantity_increment="0.001")
    return so.Ticks.from_arrays(begin + np.arange(len(price)) * 10**9, price / 100, unit="ns", instrument=instrument)


ORDER = so.SmartOrder(
    symbol="A/B:B",
    side="sell",
    quantity=1,
    stop_loss="1%",
    trailing_stop="0.5%",
    take_profits=[("0.3%", 50), ("1%", 50)],
)


def test_appended_ticks_are_the_whole() -> None:
    """In pieces or at once: the same ticks, the same replay; the pieces before stay what they were."""
    price = tape(2, 9000, "walk")
    whole = ticks_of(price)
    part = ticks_of(price[:100])
    part.index()
    before = part
    for a, b in ((100, 101), (101, 4000), (4000, 4100), (4100, 9000)):
        part = part.append(ticks_of(price[a:b], BEGIN + a * 10**9))
    assert part.data_hash == whole.data_hash
    starts = np.arange(0, 9000, 50)
    assert so.replay([ORDER] * len(starts), part, starts=starts).events.equals(
        so.replay([ORDER] * len(starts), whole, starts=starts).events
    )
    other = before.append(ticks_of(price[5000:6000], BEGIN + 100 * 10**9))  # a second branch off the same piece
    assert len(before) == 100
    assert (other.price[100:] == price[5000:6000]).all()
    assert (part.price == price).all()
    assert so.replay(ORDER, other).events.equals(so.replay(ORDER, other, use_index=False).events)
    assert so.replay(ORDER, part).events.equals(so.replay(ORDER, part, use_index=False).events)


def test_appended_bars_are_the_whole() -> None:
    frame = {"ts": BEGIN + np.arange(60) * 60 * 10**9}
    frame |= {"open": np.arange(60) + 100.0, "high": np.arange(60) + 103.0, "low": np.arange(60) + 99.0}
    frame["close"] = np.arange(60) + 101.0
    table = pl.DataFrame(frame)
    own = {"bar": "1m", "instrument": so.Instrument(symbol="A/B", price_increment=1)}
    whole = so.Ticks.from_bars(table, **own)
    parts = so.Ticks.from_bars(table[:20], **own).append(so.Ticks.from_bars(table[20:], **own))
    assert parts.data_hash == whole.data_hash
    assert len(parts) == 240


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (lambda: "ticks", "is not Ticks"),
        (lambda: ticks_of(tape(1, 5, "walk"), BEGIN - 10**9), "before the last tick"),
        (lambda: so.Ticks.from_arrays([BEGIN + 10**15], [1.0], unit="ns", symbol="A/B:B"), "price_increment"),
        (
            lambda: so.Ticks.from_arrays(
                [BEGIN + 10**15],
                [1.0],
                [2.0],
                unit="ns",
                instrument=so.Instrument(symbol="A/B:B", price_increment="0.01"),
            ),
            "columns",
        ),
    ],
)
def test_what_does_not_fit_is_not_appended(more: Callable[[], Any], text: str) -> None:
    ticks = ticks_of(tape(1, 100, "walk"))
    with pytest.raises(so.DataError, match=text):
        ticks.append(more())
    assert len(ticks) == 100


def test_an_index_is_kept_beside_its_file_and_checked(tmp_path: Path) -> None:
    """Kept, used, and built anew when the data change or the file is damaged."""
    path = tmp_path / "trades.parquet"
    file = tmp_path / "trades.parquet.last.index"

    def write(price: np.ndarray) -> None:
        pl.DataFrame({"ts": BEGIN + np.arange(len(price)) * 10**9, "price": price / 100}).write_parquet(path)

    def read() -> None:
        ticks = so.Ticks.read(path, unit="ns", symbol="A/B:B", index=True)
        assert so.replay(ORDER, ticks).events.equals(so.replay(ORDER, ticks, use_index=False).events)
        assert Index.load(file, ticks.view().price, f"{ticks.data_hash} None") is not None

    write(tape(3, 5000, "walk"))
    read()
    kept = file.read_bytes()
    stamp = os.stat(file).st_mtime_ns
    read()
    assert os.stat(file).st_mtime_ns == stamp, "a good one is used as it is"
    write(tape(4, 5000, "walk"))  # other data, equal length: stale
    read()
    assert file.read_bytes() != kept
    good = file.read_bytes()
    for damaged in (b"", good[: len(good) // 2], good[:900] + bytes([good[900] ^ 1]) + good[901:], b"\0" * len(good)):
        file.write_bytes(damaged)
        read()
    file.write_bytes(kept)
    read()
    with pytest.raises(so.DataError, match="is not one file"):
        so.Ticks.read([path], index=True)
