"""Smart orders, replayed over real ticks: an entry, a take-profit ladder, a stop, a trailing stop and break-even as one order.

    import smartorders_lab as so

    order = so.SmartOrder(symbol="BTC/USDT", side="buy", quantity=1, entry=so.Entry.limit(100),
                          take_profits=[(105, 40), (110, 35), (120, 25)], stop_loss="-5%")
    run = so.replay(order, so.Ticks.read("trades.parquet"))
    run.orders

Importing this loads neither numba nor duckdb, ccxt or plotly; they come in when used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "actions": (
        "Action",
        "open_now",
        "edit",
        "add_funds",
        "reduce_funds",
        "take_profit",
        "stop_out",
        "close_at_market",
        "cancel",
    ),
    "entries": ("random_entries",),
    "errors": (
        "SmartOrdersError",
        "Problem",
        "SpecError",
        "LinkError",
        "PlanError",
        "DataError",
        "LimitError",
        "ActionError",
        "ActionRefused",
        "StaleVersion",
        "StoreError",
        "ExchangeError",
    ),
    "fields": ("Distance",),
    "fills": ("FillModel",),
    "feeds.recorded": ("recorded",),
    "findings": ("Sweep",),
    "instrument": ("Instrument",),
    "odds": ("Record",),
    "panel.board": ("Board",),
    "panel.editor": ("LadderEditor",),
    "panel.fork": ("Fork",),
    "panel.terminal": ("Terminal",),
    "remote": ("connect",),
    "replays": ("replay",),
    "run": ("Run",),
    "session": ("Session", "paper"),
    "spec": (
        "SmartOrder",
        "Entry",
        "Rung",
        "TakeProfit",
        "StopLoss",
        "TrailingStop",
        "TrailingTakeProfit",
        "BreakEven",
    ),
    "store": ("Store",),
    "sweeps": ("sweep",),
    "ticks": ("Ticks",),
    "trading": ("live",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = ["__version__", *_MODULE]

if TYPE_CHECKING:
    from .actions import Action, add_funds, cancel, close_at_market, edit, open_now, reduce_funds, stop_out, take_profit
    from .entries import random_entries
    from .errors import (
        ActionError,
        ActionRefused,
        DataError,
        ExchangeError,
        LimitError,
        LinkError,
        PlanError,
        Problem,
        SmartOrdersError,
        SpecError,
        StaleVersion,
        StoreError,
    )
    from .feeds.recorded import recorded
    from .fields import Distance
    from .fills import FillModel
    from .findings import Sweep
    from .instrument import Instrument
    from .odds import Record
    from .panel.board import Board
    from .panel.editor import LadderEditor
    from .panel.fork import Fork
    from .panel.terminal import Terminal
    from .remote import connect
    from .replays import replay
    from .run import Run
    from .session import Session, paper
    from .spec import BreakEven, Entry, Rung, SmartOrder, StopLoss, TakeProfit, TrailingStop, TrailingTakeProfit
    from .store import Store
    from .sweeps import sweep
    from .ticks import Ticks
    from .trading import live


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'smartorders_lab' has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
