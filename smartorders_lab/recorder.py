"""Recorder: the ticks that a session saw, in rolling Parquet files, to be replayed later.

    with so.paper("binance", store="lab.duckdb", keep_ticks="ticks") as session: ...
    so.replay(order, so.Ticks.read("ticks/BTC-USDT/*.parquet", symbol="BTC/USDT"))

A file holds up to ROWS ticks of one symbol and is named by the number of its first one in the session, so that after a crash each tick is
there once: what had not been written comes from the journal again.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from .errors import StoreError
from .instrument import Instrument
from .messages import Block

ROWS = 500_000
"""Ticks to a file."""


class Recorder:
    """Keeps ticks under `folder`, a folder for each symbol. Raises StoreError if that cannot be written."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        self._next: dict[str, int] = {}
        self._waiting: dict[str, list[tuple[int, Instrument, Block]]] = {}
        self._rows = 0

    def keep(self, instrument: Instrument, first: int, block: Block) -> None:
        """Ticks of a market, the first of them number `first` in the session; those that are there already are passed over."""
        symbol = instrument.symbol
        known = self._next.get(symbol)
        if known is None:
            known = self._next[symbol] = self._on_disk(symbol)
        if first + len(block.ts) > known:
            skip = max(known - first, 0)
            self._waiting.setdefault(symbol, []).append((first + skip, instrument, _from(block, skip)))
            self._next[symbol] = first + len(block.ts)
            self._rows += len(block.ts) - skip

    @property
    def full(self) -> bool:
        """Whether enough is waiting for a file."""
        return self._rows >= ROWS

    def flush(self) -> None:
        """Write what is waiting; each file is there whole or not at all. May run beside `keep`."""
        waiting, self._waiting, self._rows = self._waiting, {}, 0
        for symbol, parts in waiting.items():
            first = parts[0][0]
            frame = pl.concat([_frame(instrument, block) for _, instrument, block in parts], how="diagonal")
            path = self._place(symbol) / f"{first:015d}-{len(frame)}.parquet"
            draft = path.with_suffix(".new")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                frame.write_parquet(draft)
                with open(draft, "rb") as written:
                    os.fsync(written.fileno())
                os.replace(draft, path)
            except OSError as error:
                raise StoreError(
                    f"{path}: ticks cannot be kept: {error.strerror or error}; make room, or leave keep_ticks out"
                ) from None

    def _place(self, symbol: str) -> Path:
        return self.folder / re.sub(r"[^A-Za-z0-9]+", "-", symbol)

    def _on_disk(self, symbol: str) -> int:
        """The number after the last tick that is there."""
        names = [path.stem.partition("-") for path in self._place(symbol).glob("*.parquet")]
        return max((int(first) + int(rows) for first, _, rows in names), default=0)


def _from(block: Block, skip: int) -> Block:
    if not skip:
        return block
    columns: dict[str, Any] = {
        n: getattr(block, n)[skip:]
        for n in ("ts", "price", "size", "bid", "ask", "mark")
        if getattr(block, n) is not None
    }
    return block._replace(**columns)


def _frame(instrument: Instrument, block: Block) -> pl.DataFrame:
    columns = {"ts_ns": np.asarray(block.ts)}
    for name in ("price", "bid", "ask", "mark"):
        units = getattr(block, name)
        if units is not None:
            columns[name] = instrument.prices(units)
    if block.size is not None:
        columns["size"] = block.size
    return pl.DataFrame(columns)
