"""A sweep in a folder: one Parquet file of orders for each part, and a manifest that says what they are.

    manifest.json            what was swept: order, grid, entries, data, fills, versions; and when it was finished
    part-000000.parquet      orders, as `Sweep.orders`; not there if only aggregates are kept
    part-000000.npz          sums of the part; a part is done when this file is there
    combinations.parquet     values, aggregates and spec of each combination, once all parts are done

Every file is written beside its place and then renamed, so that a file that is there is whole, also after kill -9.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import polars as pl

from .errors import StoreError, short
from .spec import SmartOrder
from .tallies import Tally, joined

if TYPE_CHECKING:
    from .findings import Sweep

_FORMAT = 1
_MANIFEST, _COMBINATIONS = "manifest.json", "combinations.parquet"
_COMPARED = {
    "library": "the library",
    "engine": "the rules (kernel sources or compiler)",
    "order": "the order",
    "grid": "the grid",
    "specs_hash": "the grid",
    "fills": "fills",
    "poll_interval": "poll_interval",
    "kept": "by",
    "part_orders": "the size of a part",
}
"""What must be as it was for a sweep to go on, and what to call it."""
_OF_MARKET = {"data_hash": "the ticks", "path": "the path through the bars", "entries_hash": "the entries"}


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What is not as it was when a sweep was begun, in a few words; empty if nothing."""
    if list(before["markets"]) != list(now["markets"]):
        return f"the symbols changed from {', '.join(before['markets'])} to {', '.join(now['markets'])}"
    for symbol, market in now["markets"].items():
        for key, what in _OF_MARKET.items():
            if before["markets"][symbol][key] != market[key]:
                count = "ticks" if key == "data_hash" else "entries"
                counts = (
                    f" ({before['markets'][symbol][count]:,} {count} before, {market[count]:,} now)"
                    if key != "path"
                    else ""
                )
                return f"{what} of {symbol or 'the sweep'} changed{counts}"
    for key, what in _COMPARED.items():
        if before.get(key) != now.get(key):
            values = (
                ""
                if key.endswith("hash") or key == "engine"
                else f" from {short(before.get(key))} to {short(now.get(key))}"
            )
            return f"{what} changed{values}"
    return ""


def is_database(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as a DuckDB file rather than as a folder. Raises StoreError for neither."""
    place = Path(path)
    if place.is_dir():
        return False
    if place.suffix in (".duckdb", ".db", ".ddb") or place.is_file():
        return True
    if place.suffix in (".parquet", ".json", ".csv"):
        raise StoreError(
            f"store = {short(str(path))}: a sweep is kept in a folder or in a .duckdb file; write {place.stem}/"
        )
    return False


def pack(tally: Tally) -> bytes:
    """A tally as bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **tally)  # type: ignore[arg-type]
    return buffer.getvalue()


def unpack(data: bytes) -> Tally:
    """The tally that `pack` made bytes of."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


class Folder:
    """A folder that holds one sweep. `begin` before writing, `read` for one that is finished. Raises StoreError."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    @property
    def folder(self) -> str:
        """Where parts write themselves."""
        return str(self.path)

    # ------------------------------------------------------------------------------------------------ writing

    def begin(self, meta: dict[str, Any], restart: bool = False) -> Folder:
        """Make the folder ready for a sweep: a new one, or one of the same description that goes on."""
        self._meta = meta
        try:
            if self.path.exists() and not self.path.is_dir():
                raise StoreError(f"{self.path}: is a file; give a folder, or a .duckdb file")
            if (self.path / _MANIFEST).exists():
                what = changed(self._manifest(), meta)
                if not what and not restart:
                    for left in self.path.glob("*.tmp"):
                        left.unlink(missing_ok=True)
                    return self
                if not restart:
                    raise StoreError(
                        f"{self.path}: holds another sweep: {what}; take another folder, or start anew with restart=True"
                    )
                self._clear()
            elif self.path.exists() and any(self.path.iterdir()):
                raise StoreError(f"{self.path}: holds files that are no sweep; give another folder, or an empty one")
            self.path.mkdir(parents=True, exist_ok=True)
            self._write(_MANIFEST, json.dumps({"format": _FORMAT, **meta}, ensure_ascii=False, indent=1).encode())
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"{self.path}: {error.strerror}; check the folder and its permissions") from None
        return self

    def _clear(self) -> None:
        """Remove the files of a sweep, the manifest last, and nothing else."""
        for pattern in ("part-*.npz", "part-*.parquet", _COMBINATIONS, "*.tmp", _MANIFEST):
            for file in self.path.glob(pattern):
                file.unlink()

    def write(self, number: int, tally: Tally, frame: pl.DataFrame | None) -> None:
        """Write one part, its sums last: where they are, the part is done."""
        if frame is not None:
            buffer = io.BytesIO()
            frame.write_parquet(buffer, compression="zstd", compression_level=1)
            self._write(f"part-{number:06d}.parquet", buffer.getbuffer())
        self._write(f"part-{number:06d}.npz", pack(tally))

    def _write(self, name: str, data: Any) -> None:
        draft = self.path / f"{name}.{uuid4().hex[:12]}.tmp"  # the same part may be written by two machines
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.path / name)
        except OSError as error:
            draft.unlink(missing_ok=True)
            free = shutil.disk_usage(self.path).free if self.path.exists() else 0
            raise StoreError(
                f"{self.path / name}: cannot be written: {error.strerror} ({free >> 20} MB free); make room and run it again, "
                "finished parts are kept"
            ) from None

    def done(self) -> dict[int, Tally]:
        """The sums of the parts that are done, by number."""
        found = {}
        for file in sorted(self.path.glob("part-*.npz")):
            if not self._meta["kept"] or file.with_suffix(".parquet").exists():
                found[int(file.stem.removeprefix("part-"))] = unpack(file.read_bytes())
        return found

    def put(self, result: Any) -> None:
        """Nothing: a part was written where it was evaluated."""

    def orders(self) -> pl.LazyFrame:
        """All orders, read when they are asked for."""
        files = sorted(self.path.glob("part-*.parquet"))
        return pl.scan_parquet(files, glob=False)

    def finish(self, sweep: Sweep) -> None:
        """Write the combinations, and that it is finished."""
        if "finished_at" in (there := self._manifest()):
            sweep.meta |= {name: there[name] for name in ("started_at", "finished_at", "seconds")}
            return
        specs = pl.Series("spec", [order.to_json() for order in sweep.specs])
        buffer = io.BytesIO()
        sweep.combinations.with_columns(specs).write_parquet(buffer)
        self._write(_COMBINATIONS, buffer.getbuffer())
        sweep.meta["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        edges = sweep.edges.tolist()
        text = json.dumps({"format": _FORMAT, **sweep.meta, "edges": edges}, ensure_ascii=False, indent=1)
        self._write(_MANIFEST, text.encode())

    def close(self) -> None:
        """Nothing is held open."""

    # ------------------------------------------------------------------------------------------------ reading

    def _manifest(self) -> dict[str, Any]:
        try:
            found = json.loads((self.path / _MANIFEST).read_text("utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{self.path}: holds no sweep (no {_MANIFEST}); check the path") from None
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{self.path / _MANIFEST}: cannot be read: {error}; sweep again into another folder"
            ) from None
        if found.get("format") != _FORMAT:
            raise StoreError(f"{self.path}: has format {found.get('format')}, this library reads {_FORMAT}; update it")
        return dict(found)

    def read(self) -> Sweep:
        """The sweep in this folder. Raises StoreError if it is not finished."""
        from .findings import Sweep

        meta = self._manifest()
        if "finished_at" not in meta:
            parts = len(list(self.path.glob("part-*.npz")))
            raise StoreError(
                f"{self.path}: is not finished ({parts} parts are done); run the same sweep again to go on"
            )
        self._meta = meta
        table = pl.read_parquet(self.path / _COMBINATIONS)
        edges = np.array(meta.pop("edges"), dtype=np.int64)
        tallies = self.done()
        specs = [SmartOrder.from_json(text) for text in table["spec"]]
        source: Callable[[], pl.LazyFrame] | None = self.orders if meta["kept"] else None
        tally = joined([tallies[n] for n in sorted(tallies)])
        return Sweep(specs, table.select(meta["grid"]), tally, edges, meta, source)
