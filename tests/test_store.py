"""The store: what goes in comes out, whole or not at all, from one owner at a time."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import duckdb
import polars as pl
import pytest
from bad_cli import PLAN, SAMPLE, copy, unprivileged
from bad_cli import run as small_run
from polars.testing import assert_frame_equal

from smartorders_lab import store as store_module
from smartorders_lab.actions import add_funds, cancel, close_at_market, edit, reduce_funds
from smartorders_lab.errors import StoreError
from smartorders_lab.fills import FillModel
from smartorders_lab.findings import Sweep
from smartorders_lab.plan import Plan
from smartorders_lab.replays import replay
from smartorders_lab.run import FRAMES, Run
from smartorders_lab.spec import BreakEven, Entry, SmartOrder, StopLoss, TakeProfit, TrailingStop
from smartorders_lab.store import TABLES, Store
from smartorders_lab.sweeps import sweep
from smartorders_lab.ticks import Ticks

pytestmark = pytest.mark.unverified  # these are stores of runs, and damaged
SCHEMA = Path(__file__).parents[1] / "docs" / "schema.md"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.duckdb"


@pytest.fixture(scope="module")
def ticks():
    return Ticks.read(SAMPLE, symbol="SOL/USDT").slice(0, 20_000)


@pytest.fixture(scope="module")
def rich_run(ticks):
    """A run in which every field of a spec, every frame column and every kind of meta is used somewhere."""
    common = {"symbol": "SOL/USDT", "side": "buy", "quantity": "1.5"}
    orders = [
        SmartOrder(
            **common,
            entry=Entry.ladder([("150", 60), ("149.5", 40)]),
            take_profits=[TakeProfit(target="+1%", size="33.3", kind="limit"), ("+2.5%", "66.7")],
            stop_loss=StopLoss(target="-2%", limit="-2.1%", timeout="30s", emergency="-4%"),
            trailing_stop=TrailingStop(callback_rate="1.25%", activation="+0.5%"),
            trailing_take_profit="0.5%",
            break_even=BreakEven(after=1, offset="fees"),
            max_hold="3h20m",
            entry_expiry="2h1ns",
            tag='ünï "quoted" 🚀',
            note="line\nbreak; -- '",
        ),
        SmartOrder(
            **common,
            entry=Entry.stop("151", limit="152"),
            stop_loss="145",
            size_basis="remaining",
            take_profits=[("160", 50)],
        ),
        SmartOrder(**common, entry=Entry.trailing("1%", activation="149"), trailing_stop="2%"),
        SmartOrder(symbol="SOL/USDT", side="sell", cost=300, take_profits=[("-1%", 100)], stop_loss="+1%"),
        SmartOrder(symbol="SOL/USDT", side="buy", risk=10, stop_loss="-0.7%", max_hold="1d", break_even=None),
        SmartOrder(**common, entry=Entry.limit("1"), stop_loss="-50%", entry_expiry="1h"),
    ]
    begin = int(ticks.ts[0])
    hour = 3600 * 10**9
    actions = [
        edit(3, begin + hour, stop_loss=StopLoss(target="+2%")),
        add_funds(4, begin + hour, quantity="0.25"),
        reduce_funds(4, begin + 2 * hour, quantity=100),
        close_at_market(4, begin + 3 * hour),
        cancel(2, begin + 123_456_789),
    ]
    fills = FillModel(
        fee_maker="-0.01%", fee_taker="0.1%", slippage="0.02%", latency="150ms", touch=True, participation="50%"
    )
    return replay(orders, ticks, fills=fills, actions=actions, poll_interval="500ms", outlier="5%", name="rich")


def assert_same(a: Run, b: Run) -> None:
    assert (a.id, a.specs, a.meta) == (b.id, b.specs, b.meta)
    for name in FRAMES:
        assert_frame_equal(getattr(a, name), getattr(b, name), check_exact=True)


# ---------------------------------------------------------------------------------------------------- in and out


def test_a_run_comes_back_as_it_was(path, rich_run):
    with Store(path) as store:
        assert store.save(rich_run) == rich_run.id
        assert_same(store.run(rich_run.id), rich_run)
    with Store(path, read_only=True) as store:
        back = store.run(rich_run.id[:6])
    assert_same(back, rich_run)
    assert back.ticks is None
    assert back.summary() == rich_run.summary()


def test_times_survive_to_the_nanosecond_and_floats_to_the_bit(path):
    run = copy(id="fine")
    odd = pl.Series([1, 1_723_161_255_342_123_457, 2**62], dtype=pl.Int64).cast(pl.Datetime("ns", "UTC"))
    run.events = run.events.head(3).with_columns(
        ts=odd, price=pl.Series([0.1 + 0.2, 5e-324, -0.0]), stop=pl.Series([float("nan"), float("inf"), None])
    )
    with Store(path) as store:
        store.save(run)
        back = store.frame("events", "fine")
    assert back["ts"].to_physical().to_list() == [1, 1_723_161_255_342_123_457, 2**62]
    assert back["price"].to_numpy().tobytes() == run.events["price"].to_numpy().tobytes()
    assert_frame_equal(back, run.events, check_exact=True)


def tiled(doublings: int) -> Run:
    """The small run so many times doubled, as one."""
    run = small_run()
    frames = {name: getattr(run, name) for name in FRAMES}
    for i in range(doublings):
        step = run.orders.height * 2**i
        frames = {name: pl.concat([f, f.with_columns(pl.col("order") + step)]) for name, f in frames.items()}
    return copy(id="tiled", specs=run.specs * 2**doublings, **frames)


def test_rows_keep_their_order_in_a_run_larger_than_a_block(path):
    run = tiled(11)
    assert run.events.height > 122_880  # rows of one DuckDB row group
    with Store(path) as store:
        store.save(copy(id="before"))
        store.save(run)
        store.save(copy(id="after"))
        assert_same(store.run(run.id), run)
        store.delete("before")
        assert_same(store.run(run.id), run)


def test_bounds_and_bars_come_back(path, ticks):
    open_ = ticks.price[:2000:20].astype(float)
    frame = pl.DataFrame({"ts": ticks.ts[:2000:20] // 10**10 * 10**10, "open": open_, "close": open_}).unique(
        "ts", keep="first", maintain_order=True
    )
    bars = Ticks.from_bars(
        frame.with_columns(high=pl.col("open") + 60, low=pl.col("open") - 60), symbol="SOL/USDT", bar="1s"
    )
    order = SmartOrder(symbol="SOL/USDT", side="buy", quantity=1, take_profits=[("+0.2%", 100)], stop_loss="-0.2%")
    run = replay([order] * 3, bars, starts=[0, 4, 8], bounds=True)
    with Store(path) as store:
        store.save(run)
        assert_same(store.run(run.id), run)
        assert store.runs().select("bounds", "path", "bars").row(0) == (True, "pessimistic", len(bars.bars))


def test_saving_again_changes_nothing_and_another_run_under_the_id_is_refused(path):
    with Store(path) as store:
        store.save(copy(id="one"))
        before = store.verify()
        assert store.save(copy(id="one")) == "one"
        assert store.verify() == before
        changed = copy(id="one", orders=small_run().orders.with_columns(pl.col("fees") + 1e-12))
        with pytest.raises(StoreError, match="another run is stored under this id"):
            store.save(changed)
        assert store.verify() == before


def test_runs_lists_what_shaped_each_run(path, rich_run):
    with Store(path) as store:
        store.save(rich_run)
        store.save(copy(id="small"))
        runs = store.runs()
    assert runs.columns == [name for name in TABLES["runs"] if name != "meta"]
    assert runs["run"].to_list() == [rich_run.id, "small"]
    summary = rich_run.summary()
    row = runs.row(0, named=True)
    assert {name: row[name] for name in ("orders", "entered", "finished", "realized_pnl", "fees")} == {
        name: summary[name] for name in ("orders", "entered", "finished", "realized_pnl", "fees")
    }
    assert (row["name"], row["poll_interval"], row["outlier"], row["path"]) == ("rich", "500ms", 0.05, None)
    assert runs.schema["replayed_at"] == pl.Datetime("ns", "UTC")


def test_delete_takes_one_run_and_leaves_the_others(path, rich_run):
    with Store(path) as store:
        store.save(rich_run)
        store.save(copy(id="small"))
        assert store.delete("smal") == "small"
        assert store.runs()["run"].to_list() == [rich_run.id]
        assert_same(store.run(rich_run.id), rich_run)
        store.save(copy(id="small"))
        store.verify()


def test_a_plan_and_a_replay_store_by_path(path, ticks, tmp_path):
    order = SmartOrder(symbol="SOL/USDT", side="buy", quantity=1, stop_loss="-1%")
    first = replay(order, ticks, store=str(path))
    second = Plan.from_toml(PLAN + '[store]\npath = "runs.duckdb"', tmp_path).run()
    with Store(path) as store:
        assert store.runs()["run"].to_list() == [first.id, second.id]


# ---------------------------------------------------------------------------------------------------- questions


def test_compare_says_where_two_runs_differ(path):
    a = copy(id="a")
    stopped = pl.col("order") == 1
    b = copy(
        id="b",
        orders=a.orders.with_columns(
            realized_pnl=pl.when(stopped).then(pl.col("realized_pnl") - 2.5).otherwise("realized_pnl"),
            exit_reason=pl.when(stopped).then(pl.lit("break_even")).otherwise("exit_reason"),
        ),
    )
    with Store(path) as store:
        store.save(a)
        store.save(b)
        frame = store.compare("a", "b")
    assert frame["order"].to_list() == a.orders["order"].to_list()
    assert frame["differs"].to_list() == [order == 1 for order in a.orders["order"]]
    row = frame.row(1, named=True)
    assert row["exit_reason_b"] == "break_even"
    assert row["pnl_difference"] == pytest.approx(-2.5)


def test_sql_takes_parameters_and_returns_plain_types(path):
    with Store(path) as store:
        store.save(copy(id="a"))
        assert store.sql("SELECT count(*) AS n FROM orders WHERE run = ?", ["a"])["n"].to_list() == [
            small_run().orders.height
        ]
        frame = store.sql(
            "SELECT sum(tick) AS whole, 1.5 AS half, max(ts) AS last, max(ts) - min(ts) AS span FROM events WHERE run = $run",
            {"run": "a"},
        )
    events = small_run().events
    assert frame.schema == {
        "whole": pl.Int64,
        "half": pl.Float64,
        "last": pl.Datetime("ns", "UTC"),
        "span": pl.Duration("us"),
    }
    assert frame["whole"][0] == events["tick"].sum()
    assert frame["last"][0] == events["ts"].max()
    assert frame["span"][0] == events["ts"].max() - events["ts"].min()


@pytest.mark.parametrize(
    "query",
    [
        "PIVOT orders ON status USING count(*) GROUP BY run",
        "SHOW TABLES",
        "DESCRIBE orders",
        "EXPLAIN SELECT 1",
        "FROM runs",
        "VALUES (1)",
    ],
)
def test_sql_takes_every_form_of_reading(path, query):
    with Store(path) as store:
        store.save(copy(id="a"))
        assert store.sql(query).height > 0


def documented() -> dict[str, dict[str, str]]:
    """The tables of docs/schema.md: column -> type."""
    tables: dict[str, dict[str, str]] = {}
    for name, body in re.findall(r"^### `(\w+)`\n(.*?)(?=^##)", SCHEMA.read_text(), re.MULTILINE | re.DOTALL):
        tables[name] = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", body, re.MULTILINE))
    return tables


def swept(store: Store) -> Sweep:
    """A small sweep, kept in a store."""
    order = SmartOrder(symbol="SOL/USDT", side="buy", quantity=1, stop_loss="-1%", take_profits=[("+1%", 100)])
    ticks = Ticks.read(SAMPLE, symbol="SOL/USDT").slice(0, 20_000)
    return sweep(order, ticks, "every 1h", {"stop_loss": ["-1%", "-2%"]}, store=store, progress=False)


QUERIES = re.findall(r"^### ([^`\n]+)\n.*?```sql\n(.*?)```", SCHEMA.read_text(), re.MULTILINE | re.DOTALL)


def test_the_documented_columns_are_the_real_ones(path):
    Store(path).close()
    with duckdb.connect(str(path)) as connection:
        rows = connection.execute(
            "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal ORDER BY table_name, column_index"
        ).fetchall()
    real: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        real.setdefault(table, {})[column] = kind
    assert documented() == real
    assert all(list(documented()[table]) == list(columns) for table, columns in real.items())
    assert len(QUERIES) >= 8


@pytest.mark.parametrize("query", [sql for _, sql in QUERIES], ids=[title for title, _ in QUERIES])
def test_every_query_of_the_documentation_runs(query, rich_run, tmp_path):
    with Store(tmp_path / "x.duckdb") as store:
        store.save(rich_run)
        store.save(copy(id="other"))
        params = {"run": rich_run.id, "a": rich_run.id, "b": "other"}
        if "$sweep" in query:
            params["sweep"] = swept(store).id
        frame = store.sql(query, {name: value for name, value in params.items() if f"${name}" in query} or None)
    assert frame.width > 1
    if "14:03" not in query:
        assert frame.height > 0


def test_the_query_for_a_stop_finds_it(path):
    run = small_run()
    stops = run.events.filter((pl.col("kind") == "triggered") & (pl.col("role") == "stop_loss"))
    minute = stops["ts"][0].strftime("%H:%M")
    with Store(path) as store:
        store.save(run)
        found = store.sql(QUERIES[0][1].replace("14:03", minute), {"run": run.id})
    row = found.row(0, named=True)
    assert row["role"] == "stop_loss"
    assert row["price"] <= row["stop_before"]


def test_slippage_per_leg_is_what_the_fill_model_took(path, ticks):
    order = SmartOrder(symbol="SOL/USDT", side="buy", quantity=1, take_profits=[("+1%", 100)], stop_loss="-1%")
    run = replay([order] * 50, ticks, starts=list(range(0, 15_000, 300)), fills=FillModel(slippage="0.1%"))
    with Store(path) as store:
        store.save(run)
        costs = store.sql(next(sql for title, sql in QUERIES if "slippage" in title), {"run": run.id})
    assert costs["cost_bps"].to_list() == pytest.approx([10.0] * costs.height, abs=0.7)  # rounded to 0.01
    assert set(costs["role"]) == {"entry", "take_profit", "stop_loss"}


# ---------------------------------------------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("fails_at", ["specs", "orders", "fills", "runs"])
def test_a_save_that_fails_leaves_nothing(path, monkeypatch, fails_at):
    real = store_module._insert

    def insert(connection, table, frame):
        if table == fails_at:
            raise duckdb.IOException("IO Error: Could not write: No space left on device")
        real(connection, table, frame)

    with Store(path) as store:
        store.save(copy(id="first"))
        before = store.verify()
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "_insert", insert)
            with pytest.raises(StoreError, match="the disk is full, nothing was saved; make room and save again"):
                store.save(copy(id="second"))
        assert store.verify() == before
        store.save(copy(id="second"))
    with Store(path) as store:
        assert store.runs()["run"].to_list() == ["first", "second"]


def test_an_interrupt_while_saving_leaves_nothing(path, monkeypatch):
    real = store_module._insert

    def insert(connection, table, frame):
        real(connection, table, frame)
        if table == "events":
            raise KeyboardInterrupt

    with Store(path) as store:
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "_insert", insert)
            with pytest.raises(KeyboardInterrupt):
                store.save(copy(id="a"))
        assert store.runs().is_empty()
        assert store.save(copy(id="a")) == "a"


WRITERS = textwrap.dedent("""
    # Forks a writer for each line; a fork has all imports done, and its threads are its own since none were started before.
    import os
    import sys
    import polars as pl
    from smartorders_lab.run import FRAMES, Run
    from smartorders_lab.spec import SmartOrder
    from smartorders_lab.store import Store

    def write(prefix):
        frames = {name: pl.read_parquet(f"{folder}/{name}.parquet") for name in FRAMES}
        spec = SmartOrder(symbol="SOL/USDT", side="buy", quantity=1, stop_loss="-1%")
        print("opening -", flush=True)
        with Store(path) as store:
            for i in range(1000):
                run = Run(**frames, specs=[spec] * frames["orders"].height, meta={"n": i}, id=f"{prefix}-{i}")
                print("saving", run.id, flush=True)
                store.save(run)
                print("saved", run.id, flush=True)

    folder, path = sys.argv[1:]
    for prefix in iter(lambda: sys.stdin.readline().strip(), ""):
        child = os.fork()
        if not child:
            write(prefix)
        print("pid", child, flush=True)
        os.waitpid(child, 0)
        print("gone -", flush=True)
""")


def test_a_kill_leaves_every_run_whole_or_not_there(tmp_path):
    """20 writers, one after another, each killed (SIGKILL) at some moment of creating the store or saving its runs."""
    run = tiled(8)
    for name in FRAMES:
        getattr(run, name).write_parquet(tmp_path / f"{name}.parquet")
    command = [sys.executable, "-c", WRITERS, str(tmp_path), str(tmp_path / "killed.duckdb")]
    dice = random.Random(7)
    path, kills, seen, torn = tmp_path / "killed.duckdb", 20, set(), 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        for number in range(kills):
            writers.stdin.write(f"k{number}\n")
            writers.stdin.flush()
            # a third may be hit while it creates or opens the store, the others while they save
            awaited = "opening" if number % 3 == 0 else "saving"
            said = []
            while len(said) < 2 or awaited not in dict(said):
                said.append(tuple(writers.stdout.readline().split()))
            time.sleep(dice.random() * (0.05 if awaited == "opening" else 0.2))
            os.kill(int(dict(said)["pid"]), signal.SIGKILL)
            while said[-1][0] != "gone":
                said.append(tuple(writers.stdout.readline().split()))
            saving, saved = ({id for word, id in said if word == what} for what in ("saving", "saved"))
            seen |= saved
            torn += saving != saved
            if not path.exists():
                assert not saving
                continue
            with Store(path) as store:
                rows = store.verify()
                there = set(store.runs()["run"])
                assert seen <= there
                assert there - seen <= saving  # committed, and killed before it could say so
                assert rows["events"] == len(there) * run.events.height
                for id in there - seen:
                    assert_frame_equal(store.frame("events", id), run.events)
                for id in there:  # a small file is a quick test
                    store.delete(id)
            seen = set()
        writers.stdin.close()
    assert torn >= kills // 3


# ---------------------------------------------------------------------------------------------------- one owner at a time

HOLDER = """
import sys
from smartorders_lab.store import Store
with Store(sys.argv[1], read_only=sys.argv[2] == "r") as store:
    print("open", flush=True)
    sys.stdin.readline()
"""


def hold(path: Path, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "open\n"
    return process


def test_another_process_is_named_with_its_start(path):
    Store(path).close()
    holder = hold(path, "w")
    try:
        for read_only in (False, True):
            with pytest.raises(StoreError) as caught:
                Store(path, read_only)
            assert re.fullmatch(
                rf"{re.escape(str(path))}: is locked by pid {holder.pid} since \d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\dZ; "
                r"wait for it to end, or close it there",
                str(caught.value),
            )
    finally:
        holder.communicate("\n")
    Store(path).close()


def test_readers_share_and_keep_writers_out(path):
    Store(path).close()
    holder = hold(path, "r")
    try:
        with Store(path, read_only=True) as a, Store(path, read_only=True) as b:
            assert a.runs().is_empty()
            assert b.runs().is_empty()
        with pytest.raises(StoreError, match=r"is locked by pid|is open in this process already"):
            Store(path)
    finally:
        holder.communicate("\n")


def test_a_killed_owner_leaves_no_lock(path):
    Store(path).close()
    holder = hold(path, "w")
    holder.kill()
    holder.communicate()
    with Store(path) as store:
        store.save(copy(id="a"))


def test_a_file_open_in_plain_duckdb_is_refused(path):
    Store(path).close()
    code = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print('open', flush=True); sys.stdin.readline()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=rf"is open in another program \(pid {other.pid}\); close it there first"):
            Store(path)
    finally:
        other.communicate("\n")


def test_a_store_that_is_dropped_gives_its_lock_back(path):
    store = Store(path)
    del store
    Store(path).close()


def test_threads_take_turns(path):
    failures: list[BaseException] = []
    small_run()  # made once, before the threads ask for it

    def work(store: Store, number: int) -> None:
        try:
            for i in range(5):
                id = f"t{number}-{i}"
                store.save(copy(id=id))
                assert_same(store.run(id), copy(id=id))
                assert store.sql("SELECT count(*) AS n FROM runs WHERE run = $run", {"run": id})["n"][0] == 1
        except BaseException as error:
            failures.append(error)

    with Store(path) as store:
        threads = [threading.Thread(target=work, args=(store, number)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert store.runs().height == 20
        store.verify()


def test_a_store_in_a_folder_that_cannot_be_written_can_be_read():
    with unprivileged_store() as path, Store(path, read_only=True) as store:
        assert store.runs()["run"].to_list() == ["a"]


def unprivileged_store():
    """A folder that may not be written to, with a store in it."""

    @contextlib.contextmanager
    def folder():
        with unprivileged() as place:
            user = os.geteuid()
            os.seteuid(os.getuid())
            os.chmod(place, 0o755)
            with Store(place / "x.duckdb") as store:
                store.save(copy(id="a"))
            (place / "x.duckdb.lock").unlink()
            os.chmod(place, 0o555)
            os.seteuid(user)
            yield place / "x.duckdb"

    return folder()


def test_a_duckdb_file_without_tables_becomes_a_store(path):
    duckdb.connect(str(path)).close()
    with Store(path) as store:
        assert store.runs().is_empty()


def test_leftovers_of_a_killed_creation_are_cleared(path):
    draft = path.with_name("runs.duckdb.new")
    draft.write_bytes(b"half a file")
    with Store(path) as store:
        assert store.verify()["store"] == 1
    assert not draft.exists()


def test_the_config_stands_and_cannot_be_changed(path):
    with Store(path) as store:
        settings = dict(store.sql("SELECT name, value FROM duckdb_settings()").iter_rows())
    assert (settings["enable_external_access"], settings["lock_configuration"]) == ("false", "true")
    assert settings["autoinstall_known_extensions"] == settings["autoload_known_extensions"] == "false"


def test_what_a_store_says_of_itself(path):
    store = Store(path)
    assert repr(store) == f"Store({str(path)!r}, open)"
    store.close()
    store.close()
    assert repr(store) == f"Store({str(path)!r}, closed)"


# ---------------------------------------------------------------------------------------------------- sweeps


def test_a_sweep_lives_beside_runs(path):
    with Store(path) as store:
        store.save(copy(id="run"))
        found = swept(store)
        assert swept(store).id == found.id  # the same sweep again is the one that is there
        rows = store.verify()
        assert (rows["sweeps"], rows["sweep_orders"], rows["sweep_combinations"]) == (1, found.orders.height, 2)
        row = store.sweeps().row(0, named=True)
        assert (row["sweep"], row["symbols"], row["combinations"], row["kept"]) == (found.id, "SOL/USDT", 2, True)
        assert row["finished_at"] >= row["started_at"]
        assert_frame_equal(store.sweep(found.id[:5]).orders, found.orders, check_exact=True)
        assert store.delete_sweep(found.id) == found.id
        assert store.sweeps().is_empty()
        assert store.runs()["run"].to_list() == ["run"]
        assert_frame_equal(small_run().orders, store.run("run").orders)


def test_orders_of_a_sweep_that_are_missing_are_noticed(path):
    with Store(path) as store:
        found = swept(store)
        count = found.orders.height
    with duckdb.connect(str(path)) as connection:
        connection.execute('DELETE FROM sweep_orders WHERE "order" = 3')
    with pytest.raises(StoreError, match=f"sweep {found.id}: {count} orders were saved, {count - 1} are there"):
        Store(path)


def test_a_sweep_needs_a_store_that_can_be_written(path):
    Store(path).close()
    with Store(path, read_only=True) as store, pytest.raises(StoreError, match="is open for reading only"):
        swept(store)
