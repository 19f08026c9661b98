"""The tick index of one series of prices: built in parallel, extended when ticks are appended, kept beside a file.

    ticks.index()                     # built on first use, which replay() and sweep() do by themselves

It only ever decides which ticks need no looking at: with it and without it a replay is equal to the byte (see passages.py).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from .errors import DataError
from .rows import FAN, LEAF

VERSION = 1
_PART = 1 << 14
"""Leaves that are worth a thread of their own."""


class Index:
    """The tree over a series of prices: `bounds`, `moves` and `at`, as passages.py describes them.

    `price` is int64, in increments, and must stay as it is; `ticks` are covered of it. `nbytes` is the memory beyond the prices.
    """

    def __init__(self, price: np.ndarray, workers: int | None = None):
        """Build the index of `price`; `workers` threads, None: as many as there are cores."""
        self.ticks = 0
        self._lay_out(len(price))
        self.extend(price, workers)

    def __repr__(self) -> str:
        return f"Index({self.ticks:,} ticks, {self.nbytes / 1e6:,.3g} MB)"

    def _lay_out(self, ticks: int) -> None:
        """Room for so many ticks and a few more."""
        counts = [ticks // LEAF + ticks // LEAF // 64 + 64]
        while counts[-1] > FAN:
            counts.append(-(-counts[-1] // FAN))
        self.at = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.bounds = np.zeros((int(self.at[-1]), 2), np.int64)
        self.moves = np.zeros((int(self.at[-1] - self.at[1]), 2), np.float32)
        self.at.flags.writeable = False

    def extend(self, price: np.ndarray, workers: int | None = None) -> None:
        """Cover the rest of `price`, a longer array that begins with what is covered already."""
        from .passages import build_leaves, build_nodes

        if len(price) < self.ticks:
            raise DataError(f"price has {len(price)} ticks: the index covers {self.ticks} already; build a new Index")
        leaves, first = -(-len(price) // LEAF), self.ticks // LEAF
        if leaves > self.at[1]:
            self._grow(len(price))
        size = max(_PART, -(-(leaves - first) // (4 * _cores(workers) * FAN)) * FAN)
        parts = [first, *range(first - first % FAN + size, leaves, size), leaves]

        def build(a: int, b: int) -> None:
            build_leaves(price, self.bounds, a, b)
            build_nodes(self.bounds, self.moves, self.at, 1, a // FAN, -(-b // FAN), leaves)

        if len(parts) == 2 or _cores(workers) == 1:
            build(first, leaves)
        else:
            with ThreadPoolExecutor(_cores(workers)) as pool:
                list(pool.map(build, parts, parts[1:]))
        self._build_above(first, leaves)
        self.ticks = len(price)

    def _grow(self, ticks: int) -> None:
        """Move to a layout with room for a quarter more, so that growing by little at a time costs little."""
        old, counts = (self.bounds, self.moves, self.at), -(-self.ticks // LEAF)
        self._lay_out(max(ticks, self.ticks + self.ticks // 4))
        for level in range(min(len(old[2]), len(self.at)) - 1):
            a, b = int(old[2][level]), int(self.at[level])
            self.bounds[b : b + counts] = old[0][a : a + counts]
            if level:
                a, b = a - int(old[2][1]), b - int(self.at[1])
                self.moves[b : b + counts] = old[1][a : a + counts]
            counts = -(-counts // FAN)
        if len(self.at) > len(old[2]):  # a new top
            self._build_above(0, -(-self.ticks // LEAF))

    def _build_above(self, first: int, leaves: int) -> None:
        """Fill the nodes over the first level from leaf `first` on."""
        from .passages import build_nodes

        count = -(-leaves // FAN)
        first //= FAN
        for level in range(2, len(self.at) - 1):
            first, count = first // FAN, -(-count // FAN)
            build_nodes(self.bounds, self.moves, self.at, level, first, count, leaves)

    @property
    def nbytes(self) -> int:
        """Bytes of the index."""
        return self.bounds.nbytes + self.moves.nbytes + self.at.nbytes

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the engine takes."""
        return _read_only(self.bounds), _read_only(self.moves), self.at

    def save(self, path: str | os.PathLike[str], data_hash: str) -> None:
        """Write the index to a file, whole or not at all; `data_hash` names the prices that it is of."""
        path = Path(path)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, about=self._about(data_hash), bounds=self.bounds, moves=self.moves, at=self.at)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise DataError(f"{path}: the index cannot be written ({error}); name another folder") from None

    @classmethod
    def load(cls, path: str | os.PathLike[str], price: np.ndarray, data_hash: str) -> Index | None:
        """The index in a file, or None if it is not the index of these prices: stale, damaged, or of another version."""
        index = cls.__new__(cls)
        try:
            with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                index.ticks = len(price)
                index.bounds, index.moves, index.at = file["bounds"], file["moves"], file["at"]
                index.at.flags.writeable = False
                about = file["about"]
        except Exception:  # whatever is wrong with it: it is not used
            return None
        return index if np.array_equal(about, index._about(data_hash)) else None

    def _about(self, data_hash: str) -> np.ndarray:
        """What the file must say to be believed: version, shape, the prices' hash, and a hash of the index itself."""
        from hashlib import blake2b

        digest = blake2b(f"{VERSION} {LEAF} {FAN} {self.ticks} {data_hash}".encode(), digest_size=16)
        for array in (self.bounds, self.moves, self.at):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return np.frombuffer(digest.digest(), np.uint8)


def _cores(workers: int | None) -> int:
    return (
        workers or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else workers or os.cpu_count() or 1
    )


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view
