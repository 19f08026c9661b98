"""Store: runs, sweeps and sessions kept in one DuckDB file; with `journal`, the only SQL of the library.

    with Store("runs.duckdb") as store:
        store.save(run)
        store.sql('SELECT exit_reason, sum(realized_pnl) FROM orders WHERE run = $run GROUP BY ALL', {"run": run.id})

A run is in the file whole or not at all: one transaction each, also under kill -9 and a full disk. Tables are written
as columns, in the order of the frames they came from, and read back equal to the nanosecond and the last bit.
`docs/schema.md` describes them.

One Store owns its file: `<path>.lock` is locked while it is open, exclusively or, with `read_only`, shared among
readers. Threads may share a Store; its calls take turns, and a journal waits for none of them. A plan, a notebook and
the command line may take turns too.

Known limits: no lock across machines (a network folder is asked twice at one's own risk), and a power cut while DuckDB
rewrites its header can damage the file, so copy what cannot be replayed again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import duckdb
import numpy as np
import polars as pl

from . import __version__
from .errors import StoreError, short
from .findings import Sweep
from .folders import changed, pack, unpack
from .run import FRAMES, Run
from .spec import SmartOrder
from .tallies import QUANTILES, joined
from .times import instant_ns, instant_text

try:
    import fcntl
except ImportError:  # Windows, where nobody else can open a file that DuckDB has open
    fcntl = None  # type: ignore[assignment]

SCHEMA_VERSION = 3
"""Version of the tables; a file with a higher one is refused, one with a lower one gets the tables that it lacks when it is written to."""

_OUTCOME = {
    "symbol": "VARCHAR",
    "side": "VARCHAR",
    "status": "VARCHAR",
    "exit_reason": "VARCHAR",
    "quantity": "DOUBLE",
    "created_ts": "TIMESTAMP_NS",
    "entry_ts": "TIMESTAMP_NS",
    "entry_price": "DOUBLE",
    "exit_ts": "TIMESTAMP_NS",
    "exit_price": "DOUBLE",
    "held_ns": "BIGINT",
    "filled_levels": "BIGINT",
    "levels": "BIGINT",
    "bought": "DOUBLE",
    "held": "DOUBLE",
    "dust": "DOUBLE",
    "realized_pnl": "DOUBLE",
    "return_": "DOUBLE",
    "fees": "DOUBLE",
    "mae": "DOUBLE",
    "mfe": "DOUBLE",
    "ambiguous_bars": "BIGINT",
}
"""What became of an order: columns that `orders` and `sweep_orders` share."""

TABLES: dict[str, dict[str, str]] = {
    "store": {"schema_version": "INTEGER", "created_by": "VARCHAR", "created_at": "TIMESTAMP_NS"},
    "runs": {
        "run": "VARCHAR",
        "name": "VARCHAR",
        "symbol": "VARCHAR",
        "replayed_at": "TIMESTAMP_NS",
        "orders": "BIGINT",
        "entered": "BIGINT",
        "finished": "BIGINT",
        "realized_pnl": "DOUBLE",
        "fees": "DOUBLE",
        "ticks": "BIGINT",
        "first_ts": "TIMESTAMP_NS",
        "last_ts": "TIMESTAMP_NS",
        "path": "VARCHAR",
        "bars": "BIGINT",
        "bounds": "BOOLEAN",
        "poll_interval": "VARCHAR",
        "outlier": "DOUBLE",
        "source": "VARCHAR",
        "data_hash": "VARCHAR",
        "seconds": "DOUBLE",
        "library": "VARCHAR",
        "levels": "BIGINT",
        "events": "BIGINT",
        "fills": "BIGINT",
        "meta": "VARCHAR",
    },
    "specs": {"run": "VARCHAR", "order": "BIGINT", "spec": "VARCHAR"},
    "orders": {
        "run": "VARCHAR",
        "order": "BIGINT",
        **_OUTCOME,
        "version": "BIGINT",
        "tag": "VARCHAR",
        "pnl_low": "DOUBLE",
        "pnl_high": "DOUBLE",
    },
    "levels": {
        "run": "VARCHAR",
        "order": "BIGINT",
        "level": "BIGINT",
        "price": "DOUBLE",
        "size": "DOUBLE",
        "quantity": "DOUBLE",
        "status": "VARCHAR",
        "triggered_ts": "TIMESTAMP_NS",
        "filled_ts": "TIMESTAMP_NS",
        "fill_price": "DOUBLE",
    },
    "events": {
        "run": "VARCHAR",
        "order": "BIGINT",
        "seq": "BIGINT",
        "ts": "TIMESTAMP_NS",
        "tick": "BIGINT",
        "kind": "VARCHAR",
        "role": "VARCHAR",
        "level": "INTEGER",
        "price": "DOUBLE",
        "quantity": "DOUBLE",
        "liquidity": "VARCHAR",
        "status": "VARCHAR",
        "stop": "DOUBLE",
        "water_mark": "DOUBLE",
        "reason": "VARCHAR",
    },
    "fills": {
        "run": "VARCHAR",
        "order": "BIGINT",
        "seq": "BIGINT",
        "ts": "TIMESTAMP_NS",
        "tick": "BIGINT",
        "role": "VARCHAR",
        "level": "INTEGER",
        "price": "DOUBLE",
        "quantity": "DOUBLE",
        "fee": "DOUBLE",
        "liquidity": "VARCHAR",
    },
    "sweeps": {
        "sweep": "VARCHAR",
        "name": "VARCHAR",
        "symbols": "VARCHAR",
        "started_at": "TIMESTAMP_NS",
        "finished_at": "TIMESTAMP_NS",
        "combinations": "BIGINT",
        "orders": "BIGINT",
        "kept": "BOOLEAN",
        "seconds": "DOUBLE",
        "library": "VARCHAR",
        "meta": "VARCHAR",
    },
    "sweep_parts": {"sweep": "VARCHAR", "part": "BIGINT", "orders": "BIGINT", "tally": "BLOB"},
    "sweep_combinations": {
        "sweep": "VARCHAR",
        "combination": "BIGINT",
        "symbol": "VARCHAR",
        "grid": "VARCHAR",
        "spec": "VARCHAR",
        "count": "BIGINT",
        "entered": "BIGINT",
        "finished": "BIGINT",
        **dict.fromkeys(
            ("expectancy", "low", "high", "std", "sharpe", "win_rate", "profit_factor", "stop_rate", "held_mean_s"),
            "DOUBLE",
        ),
        "total_pnl": "DOUBLE",
        "fees": "DOUBLE",
        "hit_rates": "VARCHAR",
        **{f"{name}_q{round(share * 100):02d}": "DOUBLE" for name in ("return", "mae", "mfe") for share in QUANTILES},
        "ambiguous_bars": "BIGINT",
    },
    "sweep_orders": {
        "sweep": "VARCHAR",
        "order": "BIGINT",
        "combination": "BIGINT",
        "entry": "BIGINT",
        **_OUTCOME,
        "hits": "BIGINT",
    },
    "sessions": {
        "session": "VARCHAR",
        "name": "VARCHAR",
        "started_at": "TIMESTAMP_NS",
        "library": "VARCHAR",
        "meta": "VARCHAR",
    },
    "session_entries": {
        "session": "VARCHAR",
        "seq": "BIGINT",
        "writer": "VARCHAR",
        "changes": "BIGINT",
        "kind": "VARCHAR",
        "crc": "BIGINT",
        "body": "BLOB",
    },
    "session_events": {
        "session": "VARCHAR",
        "n": "BIGINT",
        "order": "BIGINT",
        "seq": "BIGINT",
        "ts": "TIMESTAMP_NS",
        "tick": "BIGINT",
        "kind": "VARCHAR",
        "role": "VARCHAR",
        "level": "INTEGER",
        "liquidity": "VARCHAR",
        "status": "VARCHAR",
        "reason": "VARCHAR",
        "price": "BIGINT",
        "quantity": "BIGINT",
        "stop": "BIGINT",
        "water_mark": "BIGINT",
    },
    "session_snapshots": {
        "session": "VARCHAR",
        "number": "BIGINT",
        "seq": "BIGINT",
        "writer": "VARCHAR",
        "changes": "BIGINT",
        "finished": "BIGINT",
        "crc": "BIGINT",
        "body": "BLOB",
    },
    "session_orders": {
        "session": "VARCHAR",
        "order": "BIGINT",
        "seq": "BIGINT",
        "crc": "BIGINT",
        "body": "BLOB",
    },
}
"""Tables and their columns, each with its SQL type; what they mean is docs/schema.md."""

_KEYS = {
    "sessions": ("session",),
    "session_entries": ("session", "seq"),
    "session_events": ("session", "order", "seq"),
    "session_snapshots": ("session", "number"),
    "session_orders": ("session", "order"),
}
"""Primary keys, where a second writer has to be refused."""
_SWEEPS = ("sweeps", "sweep_parts", "sweep_combinations", "sweep_orders")
_SINCE = {2: _SWEEPS, 3: tuple(_KEYS)}
"""Tables that came with a later schema than the first."""
_BOUNDS = ("pnl_low", "pnl_high")
"""Columns of `orders` that only a run with bounds has; null in the others."""
_COUNTED = {"specs": "orders", **{name: name for name in FRAMES}}
"""The tables that hold rows of runs, each with the column of `runs` that says how many."""
_DTYPE: dict[str, Any] = {
    "BIGINT": pl.Int64,
    "INTEGER": pl.Int32,
    "DOUBLE": pl.Float64,
    "VARCHAR": pl.String,
    "BOOLEAN": pl.Boolean,
    "BLOB": pl.Binary,
    "TIMESTAMP_NS": pl.Datetime("ns", "UTC"),
}
_READS = {"SELECT", "EXPLAIN", "MULTI"}
"""Statements that `sql()` takes; MULTI is PIVOT."""
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "lock_configuration": "true",
}
"""Whatever SQL a user or a report runs: no files, no network, no variables of the program, and no way to turn that off."""


class Store:
    """A DuckDB file of runs, a context manager.

    `path` is created if it is missing, unless `read_only`. Raises StoreError: locked, not a store, newer, damaged.
    """

    def __init__(self, path: str | os.PathLike[str], read_only: bool = False):
        self._turn = threading.RLock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._lock: int | None = None
        self._tables = list(TABLES)
        self._guests: weakref.WeakSet[Any] = weakref.WeakSet()
        if not isinstance(path, str | os.PathLike) or os.fspath(path) in ("", ":memory:"):
            raise StoreError(f"path = {short(path)}: a store is a file; give its path, as in runs.duckdb")
        self.path, self.read_only = Path(path), read_only
        try:
            _check_place(self.path, read_only)
            self._lock = _take_lock(self.path, read_only)
            if not self.path.exists():
                _create(self.path)
            self._connection = _connect(self.path, read_only)
            self._check_schema()
            self._check_counts()
        except BaseException:
            self.close()
            raise

    # ------------------------------------------------------------------------------------------------ runs in and out

    def save(self, run: Run) -> str:
        """Store a run, whole or not at all, and return its id.

        Storing the same run again changes nothing. Raises StoreError if another run has its id, or if its frames have
        columns that the store does not keep.
        """
        tables = _tables_of(run)
        with self._working() as connection:
            self._check_writable()
            if connection.execute("SELECT count(*) FROM runs WHERE run = ?", [run.id]).fetchall() != [(0,)]:
                if _same(self.run(run.id), run):
                    return run.id
                raise StoreError(
                    f"{self.path}: run {run.id}: another run is stored under this id; "
                    f"delete it first with store.delete({run.id!r}), or give this one another id"
                )
            with _transaction(connection):
                for name, frame in tables.items():
                    _insert(connection, name, frame)
        return run.id

    def run(self, id: str) -> Run:
        """A run read back, by its id or the beginning of it. It equals the one that was saved, but has no ticks."""
        with self._working() as connection:
            run = self.resolve(id)
            text, bounds = connection.execute("SELECT meta, bounds FROM runs WHERE run = ?", [run]).fetchall()[0]
            orders, levels, events, fills = (_read(connection, name, run) for name in FRAMES)
            specs = _read(connection, "specs", run)["spec"]
        if not bounds:
            orders = orders.drop(*_BOUNDS)
        once = {spec: SmartOrder.from_json(spec) for spec in specs.unique()}
        return Run(orders, levels, events, fills, [once[spec] for spec in specs], json.loads(text), id=run)

    def frame(self, name: str, id: str) -> pl.DataFrame:
        """One frame of a run (`orders`, `levels`, `events`, `fills`), without reading the others."""
        if name not in FRAMES:
            raise StoreError(f"name = {short(name)}: a run has the frames {', '.join(FRAMES)}; use one of them")
        with self._working() as connection:
            return _read(connection, name, self.resolve(id))

    def runs(self) -> pl.DataFrame:
        """One row for each run, in the order in which they were saved."""
        with self._working() as connection:
            return _typed(connection.sql("SELECT * EXCLUDE (meta) FROM runs"))

    def delete(self, id: str) -> str:
        """Remove a run, whole or not at all; returns its id. The file keeps its size and uses the room again."""
        with self._working() as connection:
            self._check_writable()
            run = self.resolve(id)
            with _transaction(connection):
                for name in ("runs", *_COUNTED):
                    connection.execute(f"DELETE FROM {name} WHERE run = ?", [run])
        return run

    def resolve(self, id: str, what: str = "run") -> str:
        """The whole id of a run (or `what="sweep"`). Raises StoreError if there is none, or more than one that begins like this."""
        rows = self._open().execute(f"SELECT {what} FROM {what}s WHERE starts_with({what}, ?)", [str(id)]).fetchall()
        found = [run for (run,) in rows]
        if id in found:
            return str(id)
        if not id or not found:
            raise StoreError(f"{self.path}: {what} {short(id)}: no such {what}; store.{what}s() lists those there are")
        if len(found) > 1:
            shown = ", ".join(found[:5]) + (" …" if len(found) > 5 else "")
            raise StoreError(
                f"{self.path}: {what} {short(id)}: {len(found)} {what}s begin like this; take one of {shown}"
            )
        return str(found[0])

    # ------------------------------------------------------------------------------------------------ sweeps

    def sweeps(self) -> pl.DataFrame:
        """One row for each sweep, in the order in which they were begun; `finished_at` is null where one was interrupted."""
        with self._working() as connection:
            if "sweeps" not in self._tables:
                return pl.DataFrame(schema={n: _DTYPE[kind] for n, kind in TABLES["sweeps"].items() if n != "meta"})
            return _typed(connection.sql("SELECT * EXCLUDE (meta) FROM sweeps"))

    def sweep(self, id: str) -> Sweep:
        """A sweep read back, by its id or the beginning of it. Raises StoreError if it is not finished."""
        with self._working() as connection:
            sweep = self.resolve(id, "sweep")
            meta, finished = connection.execute(
                "SELECT meta, finished_at FROM sweeps WHERE sweep = ?", [sweep]
            ).fetchall()[0]
            if finished is None:
                raise StoreError(f"{self.path}: sweep {sweep}: is not finished; run the same sweep again to go on")
            rows = connection.execute(
                "SELECT grid, spec FROM sweep_combinations WHERE sweep = ? ORDER BY combination", [sweep]
            ).fetchall()
        told = json.loads(meta)
        values = [json.loads(grid) for grid, _ in rows]
        grid = pl.DataFrame({name: [row[name] for row in values] for name in told["grid"]}, infer_schema_length=None)
        stored = StoredSweep(self, sweep, told, False)
        tallies = stored.done()
        source = stored.orders if told["kept"] else None
        edges = np.array(told.pop("edges"), dtype=np.int64)
        specs = [SmartOrder.from_json(spec) for _, spec in rows]
        return Sweep(specs, grid, joined([tallies[n] for n in sorted(tallies)]), edges, told, source, id=sweep)

    def delete_sweep(self, id: str) -> str:
        """Remove a sweep, finished or not, whole or not at all; returns its id."""
        with self._working() as connection:
            self._check_writable()
            sweep = self.resolve(id, "sweep")
            with _transaction(connection):
                for name in _SWEEPS:
                    connection.execute(f"DELETE FROM {name} WHERE sweep = ?", [sweep])
        return sweep

    # ------------------------------------------------------------------------------------------------ sessions

    def sessions(self) -> pl.DataFrame:
        """One row for each session, in the order in which they were begun: how many entries and events its journal has had."""
        with self._working() as connection:
            if "sessions" not in self._tables:
                columns = {**TABLES["sessions"], "entries": "BIGINT", "events": "BIGINT"}
                return pl.DataFrame(schema={n: _DTYPE[kind] for n, kind in columns.items() if n != "meta"})
            return _typed(connection.sql(_SESSIONS))

    def _cursor(self, guest: Any) -> duckdb.DuckDBPyConnection:
        """A connection of its own for `guest`, who closes it on `close()` and is asked to when the store is closed."""
        connection = self._open().cursor()
        self._guests.add(guest)
        return connection

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreError(f"{self.path}: is open for reading only; open it with Store({str(self.path)!r})")

    # ------------------------------------------------------------------------------------------------ questions

    def sql(self, query: str, params: Sequence[Any] | Mapping[str, Any] | None = None) -> pl.DataFrame:
        """The answer to one query that reads: `store.sql("SELECT * FROM orders WHERE run = $run", {"run": id})`.

        `params` fill `?` in order, or `$name` by name. Times come back in UTC, decimals as floats, intervals as
        durations. Neither files nor variables can be read. Raises StoreError if the query is wrong or would change
        something.
        """
        with self._working("query: ") as connection:
            statements = connection.extract_statements(query)
            kinds = [statement.type.name for statement in statements]
            if len(kinds) != 1 or kinds[0] not in _READS:
                what = f"{len(kinds)} statements" if len(kinds) != 1 else kinds[0]
                raise StoreError(f"query: {what}: must be one statement that reads; write SELECT …")
            connection.execute("BEGIN TRANSACTION READ ONLY")
            try:
                given = params if params is None or isinstance(params, Mapping) else list(params)
                return _typed(connection.sql(query, params=given))
            finally:
                connection.execute("ROLLBACK")

    def compare(self, a: str, b: str) -> pl.DataFrame:
        """Two runs order by order: what each became, and what that made of its profit.

        One row for each order number of either run; columns of the runs end in `_a` and `_b`, prices in quote currency
        per base, `pnl_difference` = b − a in quote currency. `differs`: status, reason, prices or times are not the same.
        """
        with self._working() as connection:
            return _typed(connection.sql(_COMPARE, params={"a": self.resolve(a), "b": self.resolve(b)}))

    def verify(self) -> dict[str, int]:
        """Read every block of every table and check it against what was recorded; returns the rows of each table.

        Raises StoreError at the first thing that is not as it was saved.
        """
        with self._working() as connection:
            self._check_counts()
            rows = {}
            for name in self._tables:
                # hash() makes DuckDB read all columns of all blocks, each of which has a checksum
                rows[name] = connection.execute(f"SELECT count(*), bit_xor(hash(t)) FROM {name} t").fetchall()[0][0]
            wrong = connection.execute(_WRONG_EVENTS).fetchall()
            if wrong:
                run, order, version, events = wrong[0]
                raise StoreError(
                    f"{self.path}: run {run}: order {order} had {version} events, {events} are there; "
                    f"delete the run and replay it again"
                )
        return rows

    def _check_schema(self) -> None:
        with self._working() as connection:
            found: dict[str, dict[str, str]] = {}
            for table, column, kind in connection.execute(_COLUMNS).fetchall():
                found.setdefault(table, {})[column] = kind
            if "store" not in found:
                if found or self.read_only:
                    holds = f"holds the tables {', '.join(found)}" if found else "holds nothing"
                    raise StoreError(f"{self.path}: is a DuckDB file but not a store: it {holds}; give another path")
                with _transaction(connection):
                    _define(connection)
                return
            version, by = connection.execute("SELECT schema_version, created_by FROM store").fetchall()[0]
            if version > SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path}: has schema {version}, written by {by}; smartorders_lab {__version__} reads schema "
                    f"{SCHEMA_VERSION}; update it: pip install -U smartorders_lab"
                )
            newer = [table for since, tables in _SINCE.items() if since > version for table in tables]
            self._tables = [table for table in TABLES if table not in newer]
            for table in self._tables:
                if found.get(table) != TABLES[table]:
                    raise StoreError(
                        f"{self.path}: table {table} was changed by hand or is missing; restore a copy, or start a "
                        f"new store"
                    )
            if version < SCHEMA_VERSION and not self.read_only:
                with _transaction(connection):
                    _create_tables(connection, newer)
                    connection.execute("UPDATE store SET schema_version = ?", [SCHEMA_VERSION])
                self._tables = list(TABLES)

    def _check_counts(self) -> None:
        """As many rows of each run as were recorded, and none of a run that is not there."""
        with self._working() as connection:
            recorded = connection.execute(f"SELECT run, {', '.join(FRAMES)} FROM runs").fetchall()
            for table, column in _COUNTED.items():
                wanted = {run: counts[FRAMES.index(column)] for run, *counts in recorded}
                there = dict(connection.execute(f"SELECT run, count(*) FROM {table} GROUP BY run").fetchall())
                for run in wanted.keys() | there.keys():
                    if wanted.get(run, 0) != there.get(run, 0):
                        raise StoreError(
                            f"{self.path}: run {run}: {wanted.get(run, 0)} rows of {table} were saved, "
                            f"{there.get(run, 0)} are there; restore a copy, or replay into a new store"
                        )
            if "sweeps" in self._tables:
                wrong = connection.execute(_WRONG_SWEEPS).fetchall()
                if wrong:
                    sweep, wanted_, there_ = wrong[0]
                    raise StoreError(
                        f"{self.path}: sweep {sweep}: {wanted_} orders were saved, {there_} are there; "
                        f"restore a copy, or delete the sweep and run it again"
                    )

    # ------------------------------------------------------------------------------------------------ life

    def close(self) -> None:
        """Close the file and give the lock back. Closing twice is fine."""
        with self._turn:
            for guest in list(self._guests):
                guest.close()
            if self._connection is not None:
                with contextlib.suppress(duckdb.Error):
                    self._connection.close()
                self._connection = None
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self._connection is None else "read only" if self.read_only else "open"
        return f"Store({str(self.path)!r}, {state})"

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            raise StoreError(f"{self.path}: this Store is closed; open it again with Store({str(self.path)!r})")
        return self._connection

    @contextlib.contextmanager
    def _working(self, prefix: str = "") -> Iterator[duckdb.DuckDBPyConnection]:
        """The connection, for one thread at a time, with DuckDB's errors as ours."""
        with self._turn:
            try:
                with _translated(self.path, prefix):
                    yield self._open()
            except pl.exceptions.PolarsError as error:
                raise StoreError(
                    f"{prefix or f'{self.path}: '}{_line(error)}; cast the column to another type"
                ) from error


class StoredSweep:
    """A sweep on its way into a store, or in it: each part in one transaction, so that an interrupted one can go on."""

    folder = ""

    def __init__(self, store: Store, id: str, meta: dict[str, Any], close: bool):
        self.store, self.id, self.meta, self._close = store, id, meta, close

    @classmethod
    def begin(cls, store: Store, meta: dict[str, Any], restart: bool = False, close: bool = False) -> StoredSweep:
        """A new sweep, or the one of the same name and description that is there. Raises StoreError if an unfinished one differs."""
        try:
            with store._working() as connection:
                store._check_writable()
                named = connection.execute(
                    "SELECT sweep, meta, finished_at FROM sweeps WHERE name = ?", [meta["name"]]
                ).fetchall()
                for id, text, finished in reversed(named):
                    what = changed(json.loads(text), meta)
                    if restart and (not what or finished is None):
                        store.delete_sweep(id)
                    elif not what:
                        return cls(store, id, meta, close)
                    elif finished is None:
                        raise StoreError(
                            f"{store.path}: sweep {id} of this name is not finished, and {what}; give another name, "
                            f"or start anew with restart=True"
                        )
                made = cls(store, uuid4().hex[:12], meta, close)
                row = made._row() | {"meta": json.dumps(meta, ensure_ascii=False)}
                with _transaction(connection):
                    _insert(connection, "sweeps", _rows("sweeps", row))
        except BaseException:
            if close:
                store.close()
            raise
        return made

    def _row(self) -> dict[str, Any]:
        meta = self.meta
        at = {name: meta.get(name) and instant_ns(meta[name]) for name in ("started_at", "finished_at")}
        names = ("name", "combinations", "orders", "kept", "seconds", "library")
        return {
            "sweep": self.id,
            "symbols": ", ".join(meta["markets"]),
            **at,
            **{name: meta.get(name) for name in names},
        }

    def done(self) -> dict[int, Any]:
        """The sums of the parts that are done, by number."""
        with self.store._working() as connection:
            parts = connection.execute(
                "SELECT part, tally FROM sweep_parts WHERE sweep = ? ORDER BY part", [self.id]
            ).fetchall()
        return {part: unpack(tally) for part, tally in parts}

    def put(self, result: Any) -> None:
        """Keep one part, whole or not at all."""
        orders = 0 if result.frame is None else result.frame.height
        part = {"sweep": self.id, "part": result.part.number, "orders": orders, "tally": pack(result.tally)}
        with self.store._working() as connection, _transaction(connection):
            if result.frame is not None:
                frame = result.frame.with_columns(sweep=pl.repeat(self.id, orders, eager=True))
                _insert(connection, "sweep_orders", frame)
            _insert(connection, "sweep_parts", _rows("sweep_parts", part))

    def orders(self) -> pl.LazyFrame:
        """All orders, from the store, opened for it if need be."""
        query = 'SELECT * EXCLUDE (sweep) FROM sweep_orders WHERE sweep = ? ORDER BY "order"'
        opened = self.store if self.store._connection is not None else Store(self.store.path, read_only=True)
        try:
            with opened._working() as connection:
                return _typed(connection.sql(query, params=[self.id])).lazy()
        finally:
            if opened is not self.store:
                opened.close()

    def finish(self, sweep: Sweep) -> None:
        """Keep the combinations, and that the sweep is finished."""
        sweep.id, meta = self.id, sweep.meta
        with self.store._working() as connection:
            known = connection.execute("SELECT meta, finished_at FROM sweeps WHERE sweep = ?", [self.id]).fetchall()[0]
            if known[1] is not None:
                there = json.loads(known[0])
                meta |= {name: there[name] for name in ("started_at", "finished_at", "seconds")}
                return
            meta["finished_at"] = datetime.now(UTC).isoformat(timespec="seconds")
            table = sweep.combinations
            hits = [name for name in table.columns if re.fullmatch(r"hit_\d+", name)]
            columns: dict[str, Any] = {
                "sweep": pl.repeat(self.id, table.height, eager=True),
                "symbol": [order.symbol for order in sweep.specs],
                "grid": [
                    json.dumps(dict(zip(sweep.names, row, strict=True)), ensure_ascii=False)
                    for row in sweep.grid.rows()
                ]
                or ["{}"] * table.height,
                "spec": [order.to_json() for order in sweep.specs],
                "hit_rates": [json.dumps(row) for row in table.select(hits).rows()] or ["[]"] * table.height,
            }
            kept = [name for name in TABLES["sweep_combinations"] if name not in columns]
            text = json.dumps({**meta, "edges": sweep.edges.tolist()}, ensure_ascii=False)
            with _transaction(connection):
                _insert(
                    connection,
                    "sweep_combinations",
                    table.select(kept).with_columns(**{n: pl.Series(v) for n, v in columns.items()}),
                )
                connection.execute(
                    "UPDATE sweeps SET finished_at = ?, seconds = ?, meta = ? WHERE sweep = ?",
                    [datetime.now(UTC).replace(tzinfo=None, microsecond=0), meta["seconds"], text, self.id],
                )

    def close(self) -> None:
        """Close the store, if it was opened for this sweep."""
        if self._close:
            self.store.close()


_COLUMNS = """
    SELECT table_name, column_name, data_type FROM duckdb_columns()
    WHERE database_name = current_database() AND schema_name = 'main' ORDER BY table_name, column_index
"""
_WRONG_EVENTS = """
    SELECT run, o.order, o.version, count(e.seq)
    FROM orders o LEFT JOIN events e USING (run, "order")
    GROUP BY ALL HAVING o.version != count(e.seq) LIMIT 1
"""
_WRONG_SWEEPS = """
    SELECT sweep, coalesce(p.orders, 0)::BIGINT, coalesce(o.orders, 0)
    FROM (SELECT sweep, sum(orders) AS orders FROM sweep_parts GROUP BY sweep) p
    FULL JOIN (SELECT sweep, count(*) AS orders FROM sweep_orders GROUP BY sweep) o USING (sweep)
    WHERE coalesce(p.orders, 0) != coalesce(o.orders, 0) LIMIT 1
"""
_SESSIONS = """
    SELECT s.* EXCLUDE (meta), greatest(coalesce(e.seq, 0), coalesce(p.seq, 0)) AS entries, coalesce(c.n, 0) AS events
    FROM sessions s
    LEFT JOIN (SELECT session, max(seq) AS seq FROM session_entries GROUP BY session) e USING (session)
    LEFT JOIN (SELECT session, max(seq) AS seq FROM session_snapshots GROUP BY session) p USING (session)
    LEFT JOIN (SELECT session, max(n) AS n FROM session_events GROUP BY session) c USING (session)
    ORDER BY s.rowid
"""
_COMPARE = """
    SELECT coalesce(a.order, b.order) AS "order",
           a.status AS status_a, b.status AS status_b,
           a.exit_reason AS exit_reason_a, b.exit_reason AS exit_reason_b,
           a.realized_pnl AS realized_pnl_a, b.realized_pnl AS realized_pnl_b,
           b.realized_pnl - a.realized_pnl AS pnl_difference,
           a.entry_price AS entry_price_a, b.entry_price AS entry_price_b,
           a.exit_price AS exit_price_a, b.exit_price AS exit_price_b,
           a.entry_ts AS entry_ts_a, b.entry_ts AS entry_ts_b,
           a.exit_ts AS exit_ts_a, b.exit_ts AS exit_ts_b,
           (a.status, a.exit_reason, a.entry_price, a.exit_price, a.entry_ts, a.exit_ts) IS DISTINCT FROM
           (b.status, b.exit_reason, b.entry_price, b.exit_price, b.entry_ts, b.exit_ts) AS differs
    FROM (FROM orders WHERE run = $a) a FULL JOIN (FROM orders WHERE run = $b) b ON a.order = b.order
    ORDER BY 1
"""


# ---------------------------------------------------------------------------------------------------- rows and frames


def _tables_of(run: Run) -> dict[str, pl.DataFrame]:
    """A run as the rows of each table, `runs` last. Raises StoreError for what could not be read back."""
    frames = {name: _kept(name, getattr(run, name)) for name in FRAMES}
    texts = {id(order): order.to_json() for order in {id(order): order for order in run.specs}.values()}
    frames["specs"] = pl.DataFrame(
        {"order": range(len(run.specs)), "spec": [texts[id(order)] for order in run.specs]},
        schema={"order": pl.Int64, "spec": pl.String},
    )
    if len(run.specs) != run.orders.height:
        raise StoreError(f"run {run.id}: {len(run.specs)} specs for {run.orders.height} orders; give one for each")
    summary, meta = run.summary(), run.meta
    row = {
        "name": meta.get("name") or "",
        "symbol": meta.get("symbol") or "",
        "replayed_at": meta.get("replayed_at") and instant_ns(meta["replayed_at"]),
        "bounds": _BOUNDS[0] in run.orders.columns,
        "outlier": meta.get("outlier") and float(meta["outlier"]),
        "library": f"smartorders_lab {__version__}",
        "meta": _meta_text(run),
        **{name: frames[name].height for name in FRAMES},
        **{name: summary[name] for name in ("entered", "finished", "realized_pnl", "fees")},
    }
    columns = {name: kind for name, kind in TABLES["runs"].items() if name != "run"}
    values = {name: [row[name] if name in row else meta.get(name)] for name in columns}
    frames["runs"] = pl.DataFrame(values, schema={name: _DTYPE[kind] for name, kind in columns.items()})
    return {
        name: frame.insert_column(0, pl.repeat(run.id, frame.height, eager=True).alias("run"))
        for name, frame in frames.items()
    }


def _kept(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """A frame with all the columns of its table, in order."""
    wanted = {column: _DTYPE[kind] for column, kind in TABLES[name].items() if column != "run"}
    if not set(_BOUNDS) & set(frame.columns):
        frame = frame.with_columns(pl.lit(None, wanted[column]).alias(column) for column in _BOUNDS if column in wanted)
    if dict(frame.schema) != wanted:
        odd = {column: str(kind) for column, kind in frame.schema.items() if wanted.get(column) != kind}
        odd |= {column: "is missing" for column in wanted if column not in frame.columns}
        column, what = next(iter(odd.items()))
        raise StoreError(
            f"{name}.{column}: {what}: a stored run has the columns that replay() gave it; undo the change"
        )
    return frame.select(wanted.keys())


def _meta_text(run: Run) -> str:
    try:
        text = json.dumps(run.meta, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"run {run.id}: meta cannot be stored: {error}; keep text, numbers, lists and dicts in it"
        ) from None
    if json.loads(text) != run.meta:
        raise StoreError(
            f"run {run.id}: meta does not survive JSON; keep text, numbers, lists and dicts with text keys in it"
        )
    return text


def _same(a: Run, b: Run) -> bool:
    return (a.specs, a.meta) == (b.specs, b.meta) and all(
        _kept(name, getattr(a, name)).equals(_kept(name, getattr(b, name))) for name in FRAMES
    )


def _rows(table: str, row: Mapping[str, Any]) -> pl.DataFrame:
    """One row of a table."""
    schema = {name: _DTYPE[kind] for name, kind in TABLES[table].items()}
    return pl.DataFrame({name: [row[name]] for name in schema}, schema=schema)


def _insert(connection: duckdb.DuckDBPyConnection, table: str, frame: pl.DataFrame) -> None:
    # DuckDB would take a time with a zone for its own type of it, which ends at the microsecond.
    naive = frame.with_columns(pl.col(pl.Datetime("ns", "UTC")).dt.replace_time_zone(None))
    connection.register("incoming", naive)
    try:
        columns = ", ".join(map(_quoted, TABLES[table]))
        connection.execute(f"INSERT INTO {table} SELECT {columns} FROM incoming")
    finally:
        connection.unregister("incoming")


def _read(connection: duckdb.DuckDBPyConnection, table: str, run: str) -> pl.DataFrame:
    """The rows of a run as they were saved; without ORDER BY, which DuckDB documents to keep the order of insertion."""
    return _typed(connection.sql(f"SELECT * EXCLUDE (run) FROM {table} WHERE run = ?", params=[run]))


def _typed(relation: duckdb.DuckDBPyRelation) -> pl.DataFrame:
    """A relation as polars: times in UTC, whole HUGEINT as Int64, decimals as floats, intervals as durations."""
    intervals = [name for name, kind in zip(relation.columns, relation.types, strict=True) if str(kind) == "INTERVAL"]
    if intervals:  # which Arrow carries in a type that polars does not read
        relation = relation.project(
            ", ".join(
                f"epoch_us({_quoted(name)}) AS {_quoted(name)}" if name in intervals else _quoted(name)
                for name in relation.columns
            )
        )
    frame = relation.pl()
    casts = []
    for name, dtype in frame.schema.items():
        if name in intervals:
            casts.append(pl.col(name).cast(pl.Duration("us")))
        elif isinstance(dtype, pl.Datetime):
            zoned = pl.col(name).dt.convert_time_zone if dtype.time_zone else pl.col(name).dt.replace_time_zone
            casts.append(zoned("UTC"))
        elif isinstance(dtype, pl.Decimal):
            whole = (
                dtype.scale == 0 and frame[name].cast(pl.Int64, strict=False).null_count() == frame[name].null_count()
            )
            casts.append(pl.col(name).cast(pl.Int64 if whole else pl.Float64))
    return frame.with_columns(casts)


# ---------------------------------------------------------------------------------------------------- the file


@contextlib.contextmanager
def _translated(path: Path, prefix: str = "") -> Iterator[None]:
    """DuckDB's errors as ours."""
    try:
        yield
    except duckdb.Error as error:
        raise _store_error(path, error, prefix) from error


@contextlib.contextmanager
def _transaction(
    connection: duckdb.DuckDBPyConnection, begin: Any = "BEGIN TRANSACTION", commit: Any = "COMMIT"
) -> Iterator[None]:
    """All of it or nothing. A COMMIT after an error would report success, so there is none."""
    connection.execute(begin)
    try:
        yield
    except BaseException:
        with contextlib.suppress(duckdb.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute(commit)


class Inserts:
    """Small transactions that insert a few rows each, as quick as they get: parsed once, with the types of all values told.

    `tables`: the columns that are given as lists, of one length; the others have one value for all rows. TIMESTAMP_NS
    is given as ns. (Of all ways this one costs the least: it has one plan for any number of rows, and nothing to guess.)
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, tables: Mapping[str, Iterable[str]]):
        self._connection = connection
        self._words = [connection.extract_statements(word)[0] for word in ("BEGIN TRANSACTION", "COMMIT")]
        self._into: dict[str, tuple[Any, list[Any]]] = {}
        for table, lists in tables.items():
            columns, types = [], []
            for name, kind in TABLES[table].items():
                sent = connection.type({"TIMESTAMP_NS": "BIGINT"}.get(kind, kind))
                given = "unnest(?)" if name in lists else "?"
                columns.append(f"make_timestamp_ns({given})" if kind == "TIMESTAMP_NS" else given)
                types.append(connection.list_type(sent) if name in lists else sent)
            statement = connection.extract_statements(f"INSERT INTO {table} SELECT {', '.join(columns)}")[0]
            self._into[table] = statement, types

    def write(self, work: Iterable[tuple[str, Sequence[Any]]]) -> None:
        """Insert rows, table by table and each as its columns, in one transaction."""
        with _transaction(self._connection, *self._words):
            for table, columns in work:
                statement, types = self._into[table]
                values = [duckdb.Value(value, kind) for value, kind in zip(columns, types, strict=True)]
                self._connection.execute(statement, values)


def _create_tables(connection: duckdb.DuckDBPyConnection, tables: Iterable[str]) -> None:
    for table in tables:
        columns = ", ".join(f"{_quoted(name)} {kind}" for name, kind in TABLES[table].items())
        key = f", PRIMARY KEY ({', '.join(map(_quoted, _KEYS[table]))})" if table in _KEYS else ""
        connection.execute(f"CREATE TABLE {table} ({columns}{key})")


def _define(connection: duckdb.DuckDBPyConnection) -> None:
    _create_tables(connection, TABLES)
    now = datetime.now(UTC).replace(tzinfo=None)
    connection.execute("INSERT INTO store VALUES (?, ?, ?)", [SCHEMA_VERSION, f"smartorders_lab {__version__}", now])


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _connect(path: Path, read_only: bool = False) -> duckdb.DuckDBPyConnection:
    # FULL is what reaches the platters of a Mac; elsewhere the default does.
    full = {"fsync_mode": "FULL"} if sys.platform == "darwin" and int(duckdb.__version__.split(".")[0]) >= 2 else {}
    try:
        return duckdb.connect(str(path), read_only=read_only, config=_CONFIG | full)
    except duckdb.Error as error:
        raise _store_error(path, error) from error


def _create(path: Path) -> None:
    """An empty store at `path`, whole or not at all: made beside it, then renamed."""
    journal = path.with_name(path.name + ".wal")
    if journal.exists():
        raise StoreError(f"{path}: is missing, but its journal {journal.name} is there; put the two together again")
    draft = path.with_name(path.name + ".new")
    for left in (draft, draft.with_name(draft.name + ".wal")):
        left.unlink(missing_ok=True)
    connection = _connect(draft)
    try:
        with _transaction(connection):
            _define(connection)
    finally:
        connection.close()
    os.replace(draft, path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable: DuckDB syncs its files, not their names."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checkpoint(connection: duckdb.DuckDBPyConnection) -> bool:
    """Write the journal file (.wal) into the store, unless somebody else is just writing: it can wait."""
    try:
        connection.execute("CHECKPOINT")
    except duckdb.Error as error:
        if "Cannot CHECKPOINT" not in str(error):
            raise
        return False
    return True


def _check_place(path: Path, read_only: bool) -> None:
    try:
        if path.is_dir():
            raise StoreError(f"{path}: is a folder; give the path of a file in it, as in {path / 'runs.duckdb'}")
        if not path.parent.is_dir():
            raise StoreError(f"{path}: the folder {path.parent} does not exist; create it first")
        if not path.exists() and read_only:
            raise StoreError(f"{path}: does not exist; check the path, or save a run there first")
        if path.exists() and path.stat().st_size == 0:
            raise StoreError(f"{path}: is an empty file, not a store; remove it, or give another path")
    except PermissionError as error:
        raise StoreError(f"{path}: {error.strerror}; check the permissions of the folder") from None


def _take_lock(path: Path, read_only: bool) -> int | None:
    """A descriptor that holds the lock of `path`: DuckDB's own is lost whenever this process opens and closes the file."""
    if fcntl is None:
        return None
    name = path.with_name(path.name + ".lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if not read_only:
            raise StoreError(
                f"{path}: cannot be written: {error.strerror}; open it with read_only=True, or take another folder"
            ) from None
        return None  # nobody can write there, so nobody can be in the way
    try:
        fcntl.flock(lock, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        holder = f"{os.getpid()} {instant_text(_now_ns())}\n"
        os.pwrite(lock, holder.encode().ljust(64), 0)
    except BlockingIOError:
        pid, _, since = os.pread(lock, 64, 0).decode(errors="replace").strip().partition(" ")
        os.close(lock)
        if pid == str(os.getpid()):
            raise StoreError(
                f"{path}: is open in this process already (pid {pid}, since {since}); "
                f"close that Store first, or use it from here"
            ) from None
        raise StoreError(
            f"{path}: is locked by pid {pid or 'unknown'} since {since or 'unknown'}; wait for it to end, or close it there"
        ) from None
    except OSError:  # a file system without locks
        os.close(lock)
        return None
    return lock


def _now_ns() -> int:
    return instant_ns(datetime.now(UTC).replace(microsecond=0))


def _store_error(path: Path, error: duckdb.Error, prefix: str = "") -> StoreError:
    """DuckDB's error in one line, with the way out."""
    text, line = str(error), _line(error)
    for pattern, message in _KNOWN.items():
        if match := re.search(pattern, text, re.IGNORECASE):
            return StoreError(f"{path}: {message(match, line)}")
    candidates = re.search(r"(Candidate bindings: .*|Did you mean .*)", text)
    hint = f"; {candidates[1]}" if candidates else ""
    return StoreError(f"{prefix or f'{path}: '}{line}{hint}")


_KNOWN: dict[str, Callable[[re.Match[str], str], str]] = {
    r"set lock on file.*?\(PID (\d+)\)": lambda m, _: f"is open in another program (pid {m[1]}); close it there first",
    r"not a valid DuckDB|sqlite_scanner|external extensions": lambda _, __: (
        "is not a DuckDB file; give the path of a store, or a new one"
    ),
    r"WAL does not match": lambda _, __: "its journal (.wal) belongs to another file; put the right one beside it",
    r"read a database file with version": lambda _, line: f"needs another DuckDB ({line}); pip install -U duckdb",
    r"Corrupt database|enough bytes|checksum": (
        lambda _, line: f"is damaged ({line}); restore a copy, or replay into a new store"
    ),
    r"No space left": lambda _, __: "the disk is full, nothing was saved; make room and save again",
    r"Permission denied": lambda _, __: "permission denied; open it with read_only=True, or take another path",
    r"database has been invalidated": lambda _, __: (
        "cannot go on after an error before; close this Store and open it again"
    ),
}


def _line(error: Exception) -> str:
    """The first line of an error, without the class that DuckDB puts before it."""
    line = str(error).strip().split("\n")[0]
    return re.sub(r"^(\w+ )?[A-Z]\w* Error: ", "", line).rstrip(".;!")
