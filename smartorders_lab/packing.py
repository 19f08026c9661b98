"""Ticks and rows as bytes: what stands in a session's journal and its snapshots."""

from __future__ import annotations

import json
import zlib
from typing import Any

import numpy as np

from .errors import StoreError
from .messages import Block
from .rows import LEG, ORDER

COLUMNS = ("price", "bid", "ask", "mark", "size")
"""The columns that ticks may have beside their time."""
_TABLES = {"ORDER": ORDER, "LEG": LEG}
_PRINTS = {name: f"{zlib.crc32(repr(dtype.descr).encode()):08x}" for name, dtype in _TABLES.items()}


def pack_ticks(block: Block, doubt: tuple[int, int, int] | None = None) -> bytes:
    """A block, and the state of the guard after it, as bytes: a line of JSON, then its columns, compressed as differences."""
    columns = {name: getattr(block, name) for name in ("ts", *COLUMNS) if getattr(block, name) is not None}
    head = json.dumps([block.symbol, len(block.ts), block.token, block.late, [*columns], doubt], separators=(",", ":"))
    parts = [
        np.ascontiguousarray(column).tobytes()
        if name == "size"
        else np.diff(column, prepend=column.dtype.type(0)).tobytes()
        for name, column in columns.items()
    ]
    return head.encode() + b"\n" + zlib.compress(b"".join(parts), 1)


def unpack_ticks(body: bytes) -> Block:
    """The block that `pack_ticks` made bytes of."""
    head, _, data = body.partition(b"\n")
    symbol, n, token, late, names, _ = json.loads(head)
    data = zlib.decompress(data)
    columns: dict[str, Any] = {"price": None}
    for k, name in enumerate(names):
        part = np.frombuffer(data, np.float64 if name == "size" else np.int64, n, 8 * n * k)
        columns[name] = part if name == "size" else np.cumsum(part)
    return Block(symbol, token=token, late=late, **columns)


def pack_state(head: dict[str, Any], **tables: np.ndarray) -> bytes:
    """What JSON can hold, and rows of ORDER and LEG by name: a line of JSON, then the rows, compressed."""
    kinds = {dtype: name for name, dtype in _TABLES.items()}
    shapes = [[name, kinds[np.dtype(rows.dtype.descr)], len(rows)] for name, rows in tables.items()]
    line = json.dumps([head, shapes, _PRINTS], separators=(",", ":")).encode()
    return line + b"\n" + zlib.compress(b"".join(rows.tobytes() for rows in tables.values()), 1)


def unpack_state(body: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `pack_state` made bytes of; the rows can be changed. Raises StoreError for rows of another version."""
    line, _, data = body.partition(b"\n")
    head, shapes, prints = json.loads(line)
    if prints != _PRINTS:
        raise StoreError(
            f"snapshot: its rows have the layout {prints}, here it is {_PRINTS}; go on with the version that wrote it"
        )
    data, tables, at = zlib.decompress(data), {}, 0
    for name, kind, length in shapes:
        tables[name] = np.frombuffer(data, _TABLES[kind], length, at).copy()
        at += tables[name].nbytes
    return head, tables
