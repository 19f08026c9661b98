"""Reads tests/rules/*.txt: one rule a row, for people who trade, whether or not they know Python.

    # why                   | order                                 | settings | ticks   | events
    a gap fires rungs in order | long 4 @market sl=95 tp=105:25,110:75 |       | 100 112 | entry 4@100, tp0 1@112, ...

Columns are separated by `|`, lines that begin with `#` are comments. tests/rules/README.md explains the language.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from oracle import Tick

from smartorders_lab.actions import Action
from smartorders_lab.fields import plain
from smartorders_lab.fills import FillModel
from smartorders_lab.instrument import Instrument
from smartorders_lab.spec import BreakEven, Entry, SmartOrder, StopLoss, TakeProfit, TrailingStop

FOLDER = Path(__file__).parent / "rules"
UNIT = 10**9
"""One time unit of a row, in ns."""
BEGIN = 1_699_999_980 * UNIT
"""Time 0 of a row: a whole minute, so that polling intervals begin there."""
ACTIONS = {
    "open": "open_now",
    "add": "add_funds",
    "reduce": "reduce_funds",
    "take": "take_profit",
    "stop": "stop_out",
    "close": "close_at_market",
    "cancel": "cancel",
    "edit": "edit",
}
SHORT_ROLES = {value: key for key, value in ACTIONS.items()} | {"take_profit": "tp", "trailing_take_profit": "ttp"}


@dataclass(frozen=True)
class Row:
    """One row, ready to be replayed."""

    where: str
    why: str
    order: SmartOrder
    instrument: Instrument
    ticks: tuple[Tick, ...]
    fills: FillModel
    actions: tuple[Action, ...]
    start: int | None
    poll_interval: int
    shows: frozenset[str]
    expected: str


def rows(folder: Path = FOLDER) -> list[Row]:
    """Every row of every table, in order. Raises ValueError naming the file and line that cannot be read."""
    found = []
    for path in sorted(folder.glob("*.txt")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if line.strip() and not line.startswith("#"):
                try:
                    found.append(read_row(line, f"{path.name}:{number}"))
                except Exception as error:
                    raise ValueError(f"{path.name}:{number}: {error}\n    {line}") from error
    return found


def read_row(line: str, where: str = "") -> Row:
    cells = [cell.strip() for cell in line.split("|")]
    if len(cells) != 5:
        raise ValueError(f"has {len(cells)} columns; a row has 5: why | order | settings | ticks | events")
    why, order_text, settings_text, ticks_text, expected = cells
    settings = words(settings_text)
    order = read_order(order_text)
    ticks, actions = read_ticks(ticks_text, order)
    if any(tick.buy is not None for tick in ticks):
        order = order.replace(trigger="bid")
    instrument = Instrument(
        symbol=order.symbol,
        price_increment=settings.pop("inc", "0.01"),
        quantity_increment=settings.pop("qty", "0.001"),
        min_quantity=settings.pop("min_qty", 0),
        min_notional=settings.pop("min_notional", 0),
    )
    fee = settings.pop("fee", 0)
    fills = FillModel(
        fee_taker=fee,
        fee_maker=settings.pop("maker", fee),
        slippage=settings.pop("slip", 0),
        latency=int(settings.pop("latency", 0)) * UNIT,
        touch="touch" in settings,
        fee_currency="base" if "base" in settings else "quote",
        participation=settings.pop("part", None),
    )
    start = settings.pop("start", None)
    poll = int(settings.pop("poll", 0)) * UNIT
    shows = frozenset(settings) & {"all", "stops", "times"}
    unknown = set(settings) - shows - {"touch", "base"}
    if unknown:
        raise ValueError(f"no such setting: {sorted(unknown)[0]}")
    start = None if start is None else moment(start)
    return Row(where, why, order, instrument, ticks, fills, actions, start, poll, shows, " ".join(expected.split()))


def words(text: str) -> dict[str, str]:
    """`latency=2 touch` as a dictionary; a word alone has the empty text."""
    return {name: value for name, _, value in (word.partition("=") for word in text.split())}


def moment(text: str) -> int:
    return BEGIN + int(Decimal(text) * UNIT)


# ---------------------------------------------------------------------------------------------------- orders


def read_order(text: str) -> SmartOrder:
    """`long 4 @market sl=95 tp=105:25,110:75`; `coins` are owned coins that are sold."""
    what, *rest = text.split()
    side = {"long": "buy", "short": "sell", "coins": "sell"}[what]
    fields: dict[str, Any] = {"symbol": "BTC/USDT:USDT" if what == "short" else "BTC/USDT", "side": side}
    for word in rest:
        if word.startswith("@"):
            fields["entry"] = read_entry(word[1:])
        elif "=" not in word and word[0].isdigit():
            fields["quantity"] = word
    return SmartOrder(**fields, **read_fields(" ".join(rest)))


def read_entry(text: str) -> Entry:
    kind, _, value = text.partition(":")
    if kind == "market":
        return Entry.market()
    if kind == "stop":
        price, _, limit = value.partition("/")
        return Entry.stop(price, limit or None)
    if kind == "trail":
        rate, _, activation = value.partition("/")
        return Entry.trailing(rate, activation or None)
    if kind == "held":
        return Entry.held(value)
    if kind == "ladder":
        return Entry.ladder([tuple(rung.split(":")) for rung in value.split(",")])
    return Entry.limit(kind)


def read_fields(text: str) -> dict[str, Any]:
    """The `name=value` words of an order or of an edit."""
    given = words(text)
    fields: dict[str, Any] = {name: given[name] for name in ("cost", "risk", "quantity") if name in given}
    if "entry" in given:
        fields["entry"] = read_entry(given["entry"])
    if "tp" in given:
        fields["take_profits"] = tuple(read_level(part) for part in given["tp"].split(",") if part)
    if "basis" in given:
        fields["size_basis"] = given["basis"]
    if "sl" in given:
        fields["stop_loss"] = None if given["sl"] == "off" else StopLoss(
            target=given["sl"],
            limit=given.get("sl_limit"),
            timeout=int(given["timeout"]) * UNIT if "timeout" in given else None,
            emergency=given.get("emergency"),
        )  # fmt: skip
    if "trail" in given:
        rate, _, activation = given["trail"].partition("/")
        off = rate == "off"
        fields["trailing_stop"] = None if off else TrailingStop(callback_rate=rate, activation=activation or None)
    if "ttp" in given:
        fields["trailing_take_profit"] = None if given["ttp"] == "off" else given["ttp"]
    if "be" in given:
        fields["break_even"] = read_break_even(given["be"])
    for word, name in (("hold", "max_hold"), ("expiry", "entry_expiry")):
        if word in given:
            fields[name] = None if given[word] == "off" else int(given[word]) * UNIT
    return fields


def read_level(text: str) -> TakeProfit:
    """`105:40` sells at market, `105L:40` with a limit."""
    target, _, size = text.partition(":")
    return TakeProfit(target=target.removesuffix("L"), size=size, kind="limit" if target.endswith("L") else "market")


def read_break_even(text: str) -> BreakEven | None:
    """`be` or `be=2` (after that many levels), `be=2:fees`, `be=1:+1%`, `be=off`."""
    if text == "off":
        return None
    after, _, offset = text.partition(":")
    return BreakEven(after=int(after or 1), offset=offset or 0)


# ---------------------------------------------------------------------------------------------------- ticks, actions


def read_ticks(text: str, order: SmartOrder) -> tuple[tuple[Tick, ...], tuple[Action, ...]]:
    """Ticks one unit apart, with actions in square brackets before the tick on which they are taken."""
    ticks: list[Tick] = []
    waiting: list[str] = []
    actions: list[Action] = []
    time = Decimal(-1)
    for action, word in re.findall(r"\[([^\]]*)\]|(\S+)", text):
        if action:
            waiting.append(action)
            continue
        when, colon, word = word.rpartition(":")
        time = Decimal(when) if colon else time + 1
        ticks.append(read_tick(word, BEGIN + int(time * UNIT)))
        actions += [read_action(text, ticks[-1].ts) for text in waiting]
        waiting = []
    if waiting:
        raise ValueError("an action stands before the tick on which it is taken; none follows")
    return tuple(ticks), tuple(actions)


def read_tick(word: str, ts: int) -> Tick:
    """`105`; `~105` reached continuously; `o105` opens a bar; `105x3` with a size; `105/106` a bid and an ask."""
    continuous, opens = word.startswith("~"), word.startswith("o")
    price, _, size = word.lstrip("~o").partition("x")
    bid, slash, ask = price.partition("/")
    buy, sell = (Decimal(ask), Decimal(bid)) if slash else (None, None)
    return Tick(ts, Decimal(bid), Decimal(size) if size else None, continuous, continuous or opens, buy, sell)


def read_action(text: str, ts: int) -> Action:
    """`cancel`, `add 2`, `add 2 @98`, `add cost=200`, `reduce 1 @105`, `take 1`, `edit sl=96`, `edit! sl=99`; `v=3`, `at=2.5`."""
    name, *rest = text.split()
    given = words(" ".join(rest))
    fields: dict[str, Any] = {"kind": ACTIONS[name.rstrip("!")], "at": moment(given["at"]) if "at" in given else ts}
    if "v" in given:
        fields["version"] = int(given["v"])
    if fields["kind"] == "edit":
        fields["force"] = name.endswith("!")
        fields["changes"] = read_fields(" ".join(rest))
    else:
        if "cost" in given:
            fields["cost"] = given["cost"]
        for word in rest:
            if word.startswith("@"):
                fields["price"] = word[1:]
            elif word[0].isdigit():
                fields["level" if name == "take" else "quantity"] = word
    return Action(**fields)


# ---------------------------------------------------------------------------------------------------- events


def events_text(row: Row, events: Iterable[Any]) -> str:
    """The events column: what is listed of these events (tuples with the field names of `run.events`)."""
    events = list(events)
    listed = [text for event in events if (text := event_text(row, event))]
    if not events or events[-1].kind != "ended":
        listed.append(f"still {events[-1].status}" if events else "nothing")
    return ", ".join(listed)


def event_text(row: Row, event: Any) -> str:
    """One event, or nothing if the row does not list its kind."""
    if event.kind == "created" or (event.kind in ("triggered", "cancelled", "action") and "all" not in row.shows):
        return ""
    text = short_text(row, event)
    if event.liquidity == "maker":
        text += " maker"
    if "stops" in row.shows and event.stop is not None:
        text += f" stop={number(event.stop)}"
    if "times" in row.shows:
        text = f"{number(Decimal(event.ts - BEGIN) / UNIT)}: {text}"
    return text


def short_text(row: Row, event: Any) -> str:
    who = SHORT_ROLES.get(event.role, event.role)
    if event.role in ("take_profit", "trailing_take_profit") or (who == "entry" and row.order.entry.rungs):
        who += str(event.level) if event.level >= 0 else ""
    elif event.role in ("add_funds", "reduce_funds") and event.level >= 0:
        who += str(event.level)
    amount = number(event.quantity) if event.quantity is not None else ""
    at = f"@{number(event.price)}" if event.price is not None else ""
    both = f"{amount}{at}"
    match event.kind:
        case "filled":
            return f"{who} {both}"
        case "held":
            return f"held {both}"
        case "ended":
            return f"{event.status} {event.reason}"
        case "action":
            return f"action {who} {both}".strip()
        case "action_refused":
            return f"refused {who} {event.reason}"
        case "rejected":
            return f"rejected {who} {event.reason}"
        case "break_even":
            return f"break-even{at}"
        case "timer_started" | "timer_cleared":
            return f"timer {event.kind.removeprefix('timer_')}{at}"
        case "cancelled":
            return f"cancelled {who} {amount}"
        case _:  # armed, triggered
            return f"{event.kind} {who} {both}".strip()


def number(value: Any) -> str:
    return plain(Decimal(str(value)))
