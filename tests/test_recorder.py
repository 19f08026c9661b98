"""Kept ticks: each once, whatever happens to the session, and readable as ticks."""

from __future__ import annotations

import numpy as np
import pytest

import smartorders_lab as so
from smartorders_lab.errors import StoreError
from smartorders_lab.messages import Block
from smartorders_lab.recorder import Recorder

INSTRUMENT = so.Instrument(symbol="BTC/USDT", price_increment="0.01", quantity_increment="0.001")
N = 3000
TS = 1_700_000_000 * 10**9 + np.cumsum(np.random.default_rng(1).integers(1, 10**8, N))
PRICE = 10_000 + np.random.default_rng(2).integers(-500, 500, N)


def ticks() -> so.Ticks:
    return so.Ticks.from_arrays(TS, PRICE / 100, size=np.ones(N), instrument=INSTRUMENT, unit="ns")


def read(folder) -> so.Ticks:
    return so.Ticks.read(str(folder / "BTC-USDT" / "*.parquet"), instrument=INSTRUMENT)


def order() -> so.SmartOrder:
    return so.SmartOrder(symbol="BTC/USDT", side="buy", quantity=1, take_profits=[("+4%", 100)], stop_loss="-4%")


def test_what_a_session_saw_can_be_replayed(tmp_path):
    feed = so.recorded(ticks(), speed=None)
    with so.paper(feed=feed, store=tmp_path / "lab.duckdb", keep_ticks=tmp_path / "ticks") as session:
        session.place(order())
        session.wait()
        events = session.events()
    kept = read(tmp_path / "ticks")
    assert (kept.ts == TS).all()
    assert (kept.price == PRICE).all()
    run = so.replay(order(), kept, starts=[0])
    assert run.events.drop("ts").equals(events.drop("ts"))


def test_each_tick_is_kept_once_over_restarts(tmp_path):
    """The second recorder is one whose session was killed: what it had not written comes again, what it had is passed over."""
    blocks = [Block("BTC/USDT", TS[a : a + 100], PRICE[a : a + 100]) for a in range(0, N, 100)]
    first = Recorder(tmp_path)
    for k, block in enumerate(blocks[:20]):
        first.keep(INSTRUMENT, 100 * k, block)
        if k in (4, 11):
            first.flush()
    again = Recorder(tmp_path)
    again.keep(INSTRUMENT, 950, Block("BTC/USDT", TS[950:1350], PRICE[950:1350]))
    for k, block in enumerate(blocks[13:], 13):
        again.keep(INSTRUMENT, 100 * k, block)
    again.flush()
    again.flush()
    kept = read(tmp_path)
    assert (kept.ts == TS).all()
    assert (kept.price == PRICE).all()
    assert len(list((tmp_path / "BTC-USDT").iterdir())) == 3


def test_a_folder_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "BTC-USDT").write_text("in the way")
    recorder = Recorder(tmp_path)
    recorder.keep(INSTRUMENT, 0, Block("BTC/USDT", TS[:5], PRICE[:5]))
    with pytest.raises(StoreError, match=r"ticks cannot be kept.*leave keep_ticks out"):
        recorder.flush()
