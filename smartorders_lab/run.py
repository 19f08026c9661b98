"""Run: what a replay left behind, as frames, summary and chart.

Frames are polars; times are UTC to the nanosecond; prices and amounts are float64, each the float nearest to the exact
integer that the engine booked. Money is in quote currency.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import polars as pl

from . import metrics
from .errors import DataError
from .fields import plain
from .fills import FillModel
from .instrument import Instrument
from .rows import NONE, SCALE, Kind, LegStatus, Liquidity, Reason, Role, Status
from .spec import SmartOrder
from .times import instant_text

if TYPE_CHECKING:
    import pandas as pd

    from .lower import Table
    from .ticks import Ticks

FRAMES = ("orders", "levels", "events", "fills")
TS = pl.Datetime("ns", "UTC")


def _words(enum: type[IntEnum], none: bool = True) -> list[str | None]:
    """Text of each value of an enum, by value; its NONE is null."""
    words: list[str | None] = [None] * (max(list(enum)) + 1)
    for member in enum:
        words[member] = (
            None
            if none and member.name == "NONE"
            else member.name
            if enum in (Status, LegStatus)
            else member.name.lower()
        )
    return words


_TEXT = {enum: _words(enum) for enum in (Status, LegStatus, Role, Reason, Kind, Liquidity)}


def _text(codes: np.ndarray, enum: type[Any]) -> pl.Series:
    words = pl.Series(_TEXT[enum], dtype=pl.String)
    return words.gather(np.ascontiguousarray(codes).astype(np.uint32))


def _time(ns: np.ndarray, known: np.ndarray) -> pl.Series:
    return pl.Series(
        pl.select(pl.when(pl.Series(known)).then(pl.Series(np.ascontiguousarray(ns)))).to_series().cast(TS)
    )


def _known(values: np.ndarray, known: np.ndarray) -> pl.Series:
    return pl.select(pl.when(pl.Series(known)).then(pl.Series(values))).to_series()


def frames(
    orders: Sequence[SmartOrder],
    book: Table,
    instrument: Instrument,
    fills: FillModel,
    events: np.ndarray,
    indices: np.ndarray | None,
) -> dict[str, pl.DataFrame]:
    """The four frames of a run, from the engine's tables. `indices`: tick numbers, where ticks were held back."""
    if indices is not None:
        events["tick"] = indices[events["tick"]]
    table = _events_frame(events, instrument)
    return {
        "orders": _orders_frame(orders, book, instrument, fills),
        "levels": _levels_frame(book, instrument),
        "events": table,
        "fills": _fills_frame(events, table, instrument, fills),
    }


def _events_frame(events: np.ndarray, instrument: Instrument) -> pl.DataFrame:
    def price(name: str) -> pl.Series:
        return _known(instrument.prices(events[name]), events[name] != NONE)

    return pl.DataFrame(
        {
            "order": events["order"],
            "seq": events["seq"],
            "ts": pl.Series(np.ascontiguousarray(events["ts"])).cast(TS),
            "tick": events["tick"],
            "kind": _text(events["kind"], Kind),
            "role": _text(events["role"], Role),
            "level": events["level"].astype(np.int32),
            "price": price("price"),
            "quantity": instrument.quantities(events["quantity"]),
            "liquidity": _text(events["liquidity"], Liquidity),
            "status": _text(events["status"], Status),
            "stop": price("stop"),
            "water_mark": price("mark"),
            "reason": _text(events["reason"], Reason),
        }
    )


def _fills_frame(events: np.ndarray, table: pl.DataFrame, instrument: Instrument, fills: FillModel) -> pl.DataFrame:
    chosen = events["kind"] == Kind.FILLED
    rate = np.where(events["liquidity"] == Liquidity.MAKER, float(fills.fee_maker), float(fills.fee_taker))[chosen]
    frame = table.filter(pl.Series(chosen)).select(
        "order", "seq", "ts", "tick", "role", "level", "price", "quantity", "liquidity"
    )
    return frame.with_columns(fee=pl.col("price") * pl.col("quantity") * pl.Series(rate)).select(
        "order", "seq", "ts", "tick", "role", "level", "price", "quantity", "fee", "liquidity"
    )


def money(rows: np.recarray, instrument: Instrument, fills: FillModel) -> dict[str, np.ndarray]:
    """`pnl`, `fees`, `return`, `mae` and `mfe` of rows of ORDER or OUTCOME; NaN is "none". See docs/rules.md, What is reported."""
    unit = float(instrument.price_increment) * float(instrument.quantity_increment)
    r = {
        name: np.ascontiguousarray(rows[name])
        for name in ("side", "bought", "exited", "cost", "proceeds", "worst", "best")
    }
    maker, taker = float(fills.fee_maker), float(fills.fee_taker)
    entered = r["bought"] > 0
    fees = np.zeros(len(rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        if maker or taker:
            makers = rows.cost_maker + rows.proceeds_maker
            takers = rows.cost_taker + r["proceeds"] - rows.proceeds_maker
            fees = (makers * maker + takers * taker) * unit
        gross = r["side"] * (r["proceeds"] - r["cost"] * (r["exited"] / r["bought"])) * unit
        pnl = np.where(entered, gross, 0.0) - fees + 0.0  # + 0.0: no negative zero
        average = r["cost"] / r["bought"]
        signed = r["side"] * average
        seen = entered & (r["worst"] <= r["best"])
        return {
            "pnl": pnl,
            "fees": fees,
            "return": np.where(entered, pnl / (r["cost"] * unit), np.nan),
            "mae": np.where(seen, np.minimum((r["worst"] - signed) / average, 0.0), np.nan),
            "mfe": np.where(seen, np.maximum((r["best"] - signed) / average, 0.0), np.nan),
        }


def order_columns(rows: np.recarray, instrument: Instrument, fills: FillModel) -> dict[str, pl.Series | np.ndarray]:
    """What became of orders, one column each, from rows of ORDER or OUTCOME; see docs/rules.md, What is reported."""
    bought, exited = rows.bought, rows.exited
    any_, out, final = bought > 0, exited > 0, rows.status >= Status.CLOSED
    earned = money(rows, instrument, fills)
    seen = any_ & (rows.worst <= rows.best)
    with np.errstate(divide="ignore", invalid="ignore"):
        entry, exit_price = instrument.prices(rows.cost / bought), instrument.prices(rows.proceeds / exited)
    in_fees = rows.lost / SCALE if "lost" in (rows.dtype.names or ()) else 0.0
    kept = bought - in_fees - rows.bought_maker * float(fills.fee_maker) - rows.bought_taker * float(fills.fee_taker)
    in_coins = ((fills.fee_currency == "base") | (in_fees != 0)) & (rows.side > 0)
    dust = np.where(in_coins, np.maximum(kept - rows.entered, 0.0), 0.0) * float(instrument.quantity_increment)
    gone = final & out
    return {
        "status": _text(rows.status, Status),
        "exit_reason": _text(np.where(final, rows.reason, 0), Reason),
        "quantity": instrument.quantities(rows.planned),
        "created_ts": pl.Series(np.ascontiguousarray(rows.created)).cast(TS),
        "entry_ts": _time(rows.first_fill, any_),
        "entry_price": _known(entry, any_),
        "exit_ts": _time(rows.last_exit, gone),
        "exit_price": _known(exit_price, out),
        "held_ns": _known(rows.last_exit - rows.first_fill, gone),
        "filled_levels": rows.filled_levels,
        "levels": rows.levels,
        "bought": instrument.quantities(bought),
        "held": instrument.quantities(rows.entered - exited),
        "dust": dust,
        "realized_pnl": earned["pnl"],
        "return_": _known(earned["return"], any_),
        "fees": earned["fees"],
        "mae": _known(earned["mae"], seen),
        "mfe": _known(earned["mfe"], seen),
        "ambiguous_bars": rows.bars,
    }


def _orders_frame(orders: Sequence[SmartOrder], book: Table, instrument: Instrument, fills: FillModel) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "order": np.arange(len(book.orders)),
            "symbol": [order.symbol for order in orders],
            "side": [order.side for order in orders],
            **order_columns(book.orders, instrument, fills),
            "version": book.orders.seq,
            "tag": [order.tag for order in orders],
        }
    )


def _levels_frame(book: Table, instrument: Instrument) -> pl.DataFrame:
    rows, legs = book.orders, book.legs
    counts = rows.levels
    owner = np.repeat(np.arange(len(rows)), counts)
    start = np.repeat(rows.leg + rows.rungs, counts)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    leg = legs[start + number]
    side = rows.side[owner]
    triggered, filled, known = leg.triggered_ts > 0, leg.status == LegStatus.FILLED, leg.x != NONE
    with np.errstate(divide="ignore", invalid="ignore"):
        price = instrument.prices(leg.spent / leg.filled)
    return pl.DataFrame(
        {
            "order": owner,
            "level": number,
            "price": _known(instrument.prices(side * leg.x), known),
            "size": leg.weight / 10**8,
            "quantity": instrument.quantities(leg.quantity),
            "status": _text(leg.status, LegStatus),
            "triggered_ts": _time(leg.triggered_ts, triggered),
            "filled_ts": _time(leg.filled_ts, filled),
            "fill_price": _known(price, leg.filled > 0),
        }
    )


def describe(
    spec: SmartOrder, row: np.recarray, legs: np.recarray, instrument: Instrument, fills: FillModel, last: int | None
) -> dict[str, Any]:
    """One order as plain data, decimals and times as text: how it stands. `last`: the price it watches, None once it is over."""
    # plain numbers: an attribute of a record takes numpy microseconds each time
    order = SimpleNamespace(**dict(zip(row.dtype.names or (), row[0].item(), strict=True)))
    levels = legs[order.rungs : order.rungs + order.levels]
    side, held = order.side, order.entered - order.exited
    earned = money(row, instrument, fills)
    stop = max(order.stop_x, order.even_x, order.trail_x)
    final = order.status >= Status.CLOSED

    def price(units: int | None) -> str | None:
        return None if units is None or abs(units) >= -NONE else plain(instrument.price(units))

    def average(total: int, quantity: int) -> str | None:
        return None if not quantity else f"{float(instrument.prices(np.array([total / quantity]))[0]):.12g}"

    def at(ts: int) -> str | None:
        return instant_text(ts) if ts else None

    open_pnl = None
    if last is not None and held:
        unit = float(instrument.price_increment) * float(instrument.quantity_increment)
        open_pnl = side * (last - order.cost / order.bought) * held * unit
    return {
        "symbol": spec.symbol,
        "side": spec.side,
        "tag": spec.tag,
        "status": _TEXT[Status][order.status],
        "exit_reason": _TEXT[Reason][order.reason] if final else None,
        "version": order.seq,
        "quantity": plain(instrument.quantity(order.planned)),
        "held": plain(instrument.quantity(held)),
        "entry_price": average(order.cost, order.bought),
        "exit_price": average(order.proceeds, order.exited),
        "last": price(last),
        "stop": None if final or not order.bought else price(side * stop if stop > NONE else None),
        "water_mark": price(side * order.mark) if order.bought else None,
        "realized_pnl": f"{float(earned['pnl'][0]):.12g}",
        "unrealized_pnl": None if open_pnl is None else f"{open_pnl:.12g}",
        "fees": f"{float(earned['fees'][0]):.12g}",
        "filled_levels": order.filled_levels,
        "levels": [
            {
                "price": price(side * x),
                "size": plain(Decimal(weight) / 10**8),
                "quantity": plain(instrument.quantity(quantity)),
                "status": _TEXT[LegStatus][status],
            }
            for x, weight, quantity, status in levels[["x", "weight", "quantity", "status"]].tolist()
        ],
        "attention": "exits are refused" if order.refused else None,
        "created_ts": at(order.created),
        "entry_ts": at(order.first_fill),
        "exit_ts": at(order.last_exit) if final else None,
        "spec": spec.to_dict(),
    }


def described_event(event: Any, instrument: Instrument) -> dict[str, Any]:
    """One event as plain data, decimals and times as text."""

    def price(name: str) -> str | None:
        return None if event[name] == NONE else plain(instrument.price(event[name]))

    return {
        "ts": instant_text(int(event["ts"])),
        "order": int(event["order"]),
        "version": int(event["seq"]) + 1,
        "tick": int(event["tick"]),
        "kind": _TEXT[Kind][event["kind"]],
        "role": _TEXT[Role][event["role"]],
        "level": int(event["level"]),
        "price": price("price"),
        "quantity": plain(instrument.quantity(event["quantity"])),
        "liquidity": _TEXT[Liquidity][event["liquidity"]],
        "status": _TEXT[Status][event["status"]],
        "stop": price("stop"),
        "water_mark": price("mark"),
        "reason": _TEXT[Reason][event["reason"]],
    }


def ticks_of(run: Run, ticks: Ticks | None, call: str) -> Ticks:
    """The ticks of a run, walked as it walked them. `call` is what to write where they are missing. Raises DataError."""
    meta = run.meta
    ticks = run.ticks if ticks is None else ticks
    if ticks is None and meta["data_hash"] is None:
        raise DataError(f"ticks: none had come yet ({meta['source']}); wait for the first")
    if ticks is None:
        raise DataError(
            f"ticks: this run was read back without them (they came from {meta['source']}); give them: {call}"
        )
    if ticks.bars is not None and meta["path"] and ticks.path != meta["path"]:
        ticks = ticks.with_path(meta["path"])
    if ticks.data_hash != meta["data_hash"]:
        seen = (
            ticks.slice(0, meta["ticks"]) if meta.get("first_tick") is not None else None
        )  # a session, of a longer tape
        if seen is not None and seen.slice(meta["first_tick"], None).data_hash == meta["data_hash"]:
            return seen
        raise DataError(
            f"ticks: {len(ticks):,} from {ticks.source} are not those of the run; "
            f"give the {meta['ticks']:,} from {meta['source']}"
        )
    return ticks


class Run:
    """The result of a replay: `orders`, `levels`, `events`, `fills` (polars frames), `specs`, `meta`, `id`.

    `ticks` is there while the run is in memory; a run read back from a store has none until it is given some.
    """

    def __init__(
        self,
        orders: pl.DataFrame,
        levels: pl.DataFrame,
        events: pl.DataFrame,
        fills: pl.DataFrame,
        specs: Sequence[SmartOrder],
        meta: dict[str, Any],
        ticks: Ticks | None = None,
        id: str | None = None,
    ):
        self.orders, self.levels, self.events, self.fills = orders, levels, events, fills
        self.specs, self.meta, self.ticks = list(specs), meta, ticks
        self.id = id or uuid4().hex[:12]

    def to_pandas(self, name: str = "orders") -> pd.DataFrame:
        """One of the frames as pandas; needs the `pandas` extra."""
        if name not in FRAMES:
            raise DataError(f"name = {name!r}: a run has the frames {', '.join(FRAMES)}; use one of them")
        frame: pl.DataFrame = getattr(self, name)
        return frame.to_pandas()

    def summary(self) -> dict[str, Any]:
        """The run in numbers: counts by status and exit reason, profit, hit rates of the levels, fees, excursions."""
        o = self.orders
        done = metrics.done(o)
        hit = metrics.hit_rates(self.levels)
        result: dict[str, Any] = {
            "orders": o.height,
            "entered": o["entry_ts"].is_not_null().sum(),
            "finished": done.height,
            "status": dict(o["status"].value_counts(sort=True).iter_rows()),
            "exit_reason": dict(o["exit_reason"].drop_nulls().value_counts(sort=True).iter_rows()),
            "realized_pnl": o["realized_pnl"].sum(),
            "fees": o["fees"].sum(),
            "win_rate": metrics.win_rate(done["realized_pnl"]),
            "profit_factor": metrics.profit_factor(done["realized_pnl"]),
            "return_mean": metrics.expectancy(done["return_"]),
            "return_median": done["return_"].median(),
            "mae_median": done["mae"].median(),
            "mfe_median": done["mfe"].median(),
            "held_mean_s": None if done["held_ns"].mean() is None else done["held_ns"].mean() / 1e9,  # type: ignore[operator]
            "level_hit_rate": dict(hit.select("level", "rate").iter_rows()),
        }
        if self.meta.get("bars"):
            result["path"], result["ambiguous_bars"] = self.meta["path"], o["ambiguous_bars"].sum()
        if "pnl_low" in o.columns:
            result["pnl_low"], result["pnl_high"] = o["pnl_low"].sum(), o["pnl_high"].sum()
        return result

    def equity(self, ticks: Ticks | None = None, every: Any = None) -> pl.DataFrame:
        """Profit over time, marked to market: `ts`, `realized`, `unrealized`, `equity`, `position` (see `metrics.marked`).

        A row for each instant with a tick or a fill, or, with `every` (`"1h"`), for the end of each period. `ticks` are
        those of the run, where it does not carry them; DataError if there are none or if they are others.
        """
        used = ticks_of(self, ticks, "run.equity(Ticks.read(...))")
        curve = metrics.realized(metrics.bookings(self))
        return metrics.marked(curve, *metrics.price_series(used, self.meta["held_back"] or ()), every)

    def report(self, path: str | Path | None = None, title: str | None = None, **options: Any) -> Path:
        """The run as one HTML page that opens offline; see `report.write_report`. Needs the `plot` extra."""
        from .report import write_report

        return write_report(self, path, title, **options)

    def plot(self, order: int = 0, ticks: Ticks | None = None, **options: Any) -> Any:
        """One order's life as a plotly figure; see `charts.plot_order`. Needs the `plot` extra."""
        from .charts import plot_order

        return plot_order(self, order, ticks, **options)

    def plot_summary(self, **options: Any) -> Any:
        """Returns by exit reason and profit over time as a plotly figure; see `charts.plot_summary`. Needs the `plot` extra."""
        from .charts import plot_summary

        return plot_summary(self, **options)

    def __repr__(self) -> str:
        s = self.summary()
        return (
            f"Run({self.id}: {s['orders']} orders on {self.meta['symbol'] or 'ticks'}, {s['entered']} entered, "
            f"{s['finished']} finished, pnl {s['realized_pnl']:.6g})"
        )

    def _repr_html_(self) -> str:
        from .looks import table

        def show(value: Any) -> str:
            if isinstance(value, dict):
                return ", ".join(f"{k}: {show(v)}" for k, v in value.items()) or "–"
            return "–" if value is None else f"{value:,.6g}" if isinstance(value, float) else str(value)

        span = f"{instant_text(self.meta['first_ts'])} to {instant_text(self.meta['last_ts'])}"
        head = f"Run {self.id} · {self.meta['symbol'] or 'ticks'} · {self.meta['ticks']:,} ticks · {span}"
        rows = [(name.replace("_", " "), show(value)) for name, value in self.summary().items()]
        return table(head, rows, notes=[f"⚠ {warning}" for warning in self.meta.get("warnings", [])])
