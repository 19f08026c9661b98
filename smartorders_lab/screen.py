"""A session on a terminal: its orders as a table that is drawn again as they move, its changes as lines.

What users have written (tags, symbols) is shown as it is and never read as markup; characters that a terminal would obey are replaced.
Nothing is told by colour alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

DOTS = {
    "PENDING": ("○", "bright_black"),
    "TRIGGERED": ("◐", "yellow"),
    "FILLED": ("●", "green"),
    "CANCELLED": ("×", "red"),
}
"""A take-profit level by its status: what is drawn, and in which colour."""
LEGEND = "levels: ○ pending ◐ triggered ● filled × cancelled"
_GAP = 2
"""Spaces between columns."""
OVER = ("CLOSED", "STOPPED", "CANCELLED")
_STATUS = {
    "PENDING": "white",
    "ACTIVE": "cyan",
    "PARTIALLY_CLOSED": "yellow",
    "CLOSED": "green",
    "STOPPED": "red",
    "CANCELLED": "bright_black",
}
MODES = {
    "live": (" LIVE: REAL MONEY ", "bold white on red"),
    "dry": (" DRY RUN: NOTHING IS SENT ", "bold white on blue"),
}
"""What stands before everything else of a session that is not on paper."""
_SESSION = {"live": "bold green", "stale": "bold white on red", "ended": "bold yellow", "stopped": "bold yellow"}
_STALE = "STALE: no ticks come, so nothing can trigger"
_LINE = ("order", "version", "kind", "role", "level", "price", "quantity", "status", "stop", "water_mark", "reason")


def clean(value: object) -> str:
    """Text without what a terminal would obey: escapes, line ends, marks that turn the direction of writing."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


def levels(order: Mapping[str, Any]) -> Text:
    """`●◐○ 1/3`: the levels of an order, from the entry outwards, and how many are filled."""
    found = Text()
    for level in order["levels"]:
        found.append(*DOTS.get(level["status"], ("?", "")))
    if order["levels"]:
        found.append(f" {order['filled_levels']}/{len(order['levels'])}")
    return found


def pnl(order: Mapping[str, Any]) -> float:
    """What an order has earned so far, with what it would at the last price, before the fee of that."""
    return float(order["realized_pnl"] or 0) + float(order["unrealized_pnl"] or 0)


def number(value: Any) -> str:
    """A decimal text, cut to what fits into a column."""
    return "" if value is None else value if len(value) <= 12 else f"{float(value):.8g}"


def _signed(value: float) -> Text:
    return Text(
        f"{value:+,.2f}" if abs(value) >= 0.005 or not value else f"{value:+.2g}",
        "green" if value > 0 else "red" if value < 0 else "",
    )


def _status(order: Mapping[str, Any]) -> Text:
    found = Text(clean(order["status"]).replace("_", " ").lower(), _STATUS.get(order["status"], ""))
    if order.get("attention"):
        found.append(f" ! {clean(order['attention'])}", "bold red")
    return found


def _trails(order: Mapping[str, Any]) -> bool:
    """Whether the best price since the entry matters to it; otherwise it is not followed."""
    return not {"trailing_stop", "trailing_take_profit"}.isdisjoint(order["spec"])


_COLUMNS: tuple[tuple[str, str, int, Callable[[Mapping[str, Any]], str | Text]], ...] = (
    ("order", "right", 0, lambda o: str(o["order"])),
    ("symbol", "left", 0, lambda o: clean(o["symbol"])),
    ("side", "left", 3, lambda o: o["side"]),
    ("status", "left", 0, _status),
    ("price", "right", 2, lambda o: number(o["last"])),
    ("entry", "right", 4, lambda o: number(o["entry_price"])),
    ("stop", "right", 0, lambda o: number(o["stop"])),
    ("water mark", "right", 5, lambda o: number(o["water_mark"]) if _trails(o) else ""),
    ("levels", "left", 0, levels),
    ("held", "right", 6, lambda o: number(o["held"])),
    ("P&L", "right", 0, lambda o: _signed(pnl(o))),
    ("version", "right", 7, lambda o: str(o["version"])),
    ("reason", "left", 8, lambda o: clean(o["exit_reason"] or "").replace("_", " ")),
    ("tag", "left", 9, lambda o: clean(o["tag"])[:24]),
)
"""Title, alignment, when it is left out on a narrow terminal (the highest first, 0 never), and what stands in it."""


def orders_table(orders: Sequence[Mapping[str, Any]], width: int) -> Table:
    """Orders as a table no wider than `width`; what matters least is left out first."""
    shown = []
    for title, justify, rank, cell in _COLUMNS:
        cells = [cell(order) for order in orders]
        if rank < 8 or any(str(each) for each in cells):
            longest = max(map(cell_len, [title, *(str(each) for each in cells)]))
            shown.append((title, justify, rank, cells, longest))
    while sum(longest + _GAP for *_, longest in shown) > width and any(rank for _, _, rank, _, _ in shown):
        shown.remove(max(shown, key=lambda column: column[2]))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, _GAP - 1, 0, 0))
    for title, justify, _, _, _ in shown:
        table.add_column(Text(title), justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in zip(*(cells for *_, cells, _ in shown), strict=True):
        table.add_row(*(each if isinstance(each, Text) else Text(each) for each in row))
    return table


def headline(state: Mapping[str, Any]) -> Text:
    """`paper session “ladders” (1f3a…)  LIVE`: what it is and how it is; one with money says so first."""
    found = Text()
    if state["mode"] in MODES:
        found.append(*MODES[state["mode"]]).append(" ")
    found.append(f"{clean(state['mode'])} session “{clean(state['name'])}” ({clean(state['session'])})  ", "bold")
    status = state["status"]
    found.append(f" {_STALE} " if status == "stale" else clean(status).upper(), _SESSION.get(status, "bold"))
    if state.get("halted"):
        found.append(" ").append(f" HALTED: {clean(state['halted'])} ", "bold white on red")
    return found


def market_lines(state: Mapping[str, Any]) -> list[Text]:
    """One line for each symbol: its prices, when, and how many ticks."""
    lines = []
    for symbol, market in state["symbols"].items():
        prices = " ".join(
            clean(market[series] if series == "price" else f"{series} {market[series]}")
            for series in ("price", "bid", "ask", "mark")
            if series in market
        )
        line = Text(f"{clean(symbol)}  {prices or 'no price yet'}")
        if market["ts"]:
            line.append(f"  {market['ts'][:19].replace('T', ' ')}  {market['ticks']:,} ticks", "bright_black")
        if market["held_back"]:
            line.append(f"  {market['held_back']:,} held back as outliers", "yellow")
        if market["state"] == "stale":
            line.append("  ")
            line.append(" STALE ", _SESSION["stale"])
        lines.append(line)
    return lines


def screen(state: Mapping[str, Any], width: int, height: int) -> Group:
    """The whole of a session as it stands: living orders first, then those that ended last, as many as there is room for."""
    living = [order for order in state["orders"] if order["status"] not in OVER]
    over = sorted((o for o in state["orders"] if o["status"] in OVER), key=lambda o: o["exit_ts"] or "", reverse=True)
    lines = market_lines(state)
    room = max(height - len(lines) - 8, 3)
    shown = [*living, *over][:room]
    total = sum(map(pnl, state["orders"]))
    last = Text(f"{len(living)} living, {len(over)} over, P&L ")
    last.append(_signed(total))
    if len(state["orders"]) > room:
        last.append(f", {len(state['orders']) - room} more are not shown")
    parts: list[Any] = [headline(state), *lines]
    if shown:
        parts += ["", orders_table(shown, width), "", last, Text(LEGEND, "bright_black")]
    else:
        parts.append("no orders yet; smartorders place STORE LINK places one")
    return Group(*(Text(part) if isinstance(part, str) else part for part in parts))


def change_line(change: Mapping[str, Any]) -> str:
    """A change as a line of words: its time, then name=value."""
    given = {
        name: change[name] for name in _LINE if change[name] is not None and (name != "level" or change[name] >= 0)
    }
    return pairs_line(change["ts"], given)


def pairs_line(ts: str, pairs: Mapping[str, Any]) -> str:
    """A time and name=value; values with spaces or signs stand in quotes, so that a line is a line."""
    return " ".join([ts, *(f"{name}={_quoted(value)}" for name, value in pairs.items() if value is not None)])


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    plain = text and all(c.isalnum() or c in "_-+.:/@%" for c in text)
    return text if plain else json.dumps(text)
