"""Watch: what a board knows of a session, kept up to date, and how that reads: rows, lines of a chart, lines of a log. No widgets.

A session says which orders have changed. Those are looked at again, and with them what moves between two changes: prices, and the orders
whose stop trails. All of it is asked on a thread that may wait, so that neither the picture nor the session does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any

import numpy as np

from ..errors import SmartOrdersError
from ..fields import Distance, target
from ..looks import decimals
from ..times import instant_ns
from .parts import DOTS, MODES, Hub, dot_html, level_dots, progress, status_dot, text_of

OVER = ("CLOSED", "STOPPED", "CANCELLED")
KEPT = 10_000
"""Changes that wait to be drawn; of more, the log is read anew."""
STATIC_ROWS = 100
"""Orders in the table of a saved notebook."""
_RANK = {"attention": 0, "living": 1, "pending": 2, "finished": 3}
_TD = "padding:3px 10px;border-bottom:1px solid #d8dee480;white-space:nowrap;"
_SERIES = {"last": "price"}

log = logging.getLogger(__name__)


class Watch:
    """What a board knows of a session, kept up to date from what changes. All but `__init__` and `close` on the hub's threads.

    `news` is called on the hub's thread after every look, with the numbers of the orders that were looked at, the ticks that came, and the
    changes.
    """

    def __init__(self, session: Any, hub: Hub, news: Callable[[list[int], Any, list[dict[str, Any]] | None], None]):
        self.session, self.hub, self._news = session, hub, news
        self.orders: dict[int, dict[str, Any]] = {}
        self.symbols: dict[str, dict[str, Any]] = {}
        self.id = self.name = ""
        self.mode = str(getattr(session, "mode", "paper"))
        self.halted = ""
        self.status, self.error = "starting", ""
        self.heard = 0
        """The number of the last change that the session has told of."""
        self.ages: dict[str, float] = {}
        """When the last tick of a symbol came, on the clock of `time.monotonic`."""
        self.following: tuple[str, str] | None = None
        """The symbol and trigger whose ticks are wanted."""
        self._at = 0
        self._passed: dict[tuple[str, str], int] = {}
        self.rest = 0.0
        """Until when, on that clock, a look has no hurry: it may take a quarter of the time at the most."""
        self._lock = threading.Lock()
        self._changed: set[int] = set()
        self._told: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._asking = self._again = False
        self.local = hasattr(session, "book")
        subscribe = getattr(session, "on_change", None)
        self._end = subscribe(self._hear) if subscribe else session.on_event(lambda change: self._hear([change]))
        try:
            self._take(session.state(), True)
        except SmartOrdersError as error:
            self._failed(error)
            if self.over:
                self._take_last(self._last())

    def close(self) -> None:
        """Hear no more."""
        self._end()

    def follow(self, symbol: str | None, trigger: str = "last", at: int = 0) -> None:
        """Bring the ticks of this symbol from number `at` on."""
        self.following = None if symbol is None else (symbol, trigger)
        self._at = at

    def price(self, order: Mapping[str, Any]) -> float | None:
        """The last price that an order watches, None once it is over."""
        if order["status"] in OVER:
            return None
        trigger = order["spec"].get("trigger", "last")
        price = self.symbols.get(order["symbol"], {}).get(_SERIES.get(trigger, trigger))
        return None if price is None else float(price)

    def _hear(self, changes: Sequence[dict[str, Any]]) -> None:
        """On the session's thread for listeners: leave a note and go."""
        with self._lock:
            self._changed.update(change["order"] for change in changes)
            self._told.extend(changes)
            self.heard = max(self.heard, *(change["seq"] for change in changes[-1:]), 0)
        self.hub.later("pull", self.pull)

    def pull(self) -> None:
        """Have a look, unless one is under way."""
        if self._asking:
            self._again = True
            return
        self._asking, self._again = True, False
        if not self.hub.ask(self._look, self._looked):
            self._asking = False

    def _look(self) -> tuple[dict[str, Any], bool, Any, int]:
        """On the thread for calls."""
        began = time.monotonic()
        if not getattr(self.session, "connected", True):
            raise ConnectionError
        with self._lock:
            changed, self._changed = self._changed, set()
        passed = {**self._passed}
        try:
            moving = self._moved()
            state, whole = self.session.state(sorted(changed | moving)), False
            if state["session"] != self.id:
                state, whole = self.session.state(), True
            following, at = self.following, self._at
            ticks = None
            if following is not None and following[0] in state["symbols"]:
                ticks = (following, self.session.recent(following[0], at, following[1]))
            now = time.monotonic()
            self.rest = now + 3 * (now - began)
            return state, whole, ticks, at
        except BaseException:
            with self._lock:
                self._changed |= changed
            self._passed = passed
            raise

    def _moved(self) -> set[int]:
        """Orders whose water mark the price has passed since the last look: between two events nothing else about an order changes."""
        groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for order in [*self.orders.values()]:
            if (
                order["status"] not in OVER
                and order["held"] != "0"
                and order["water_mark"] is not None
                and trails(order)
            ):
                groups.setdefault((order["symbol"], order["spec"].get("trigger", "last")), []).append(order)
        found: set[int] = set()
        for market, orders in groups.items():
            at = self._passed.setdefault(market, self.symbols[market[0]]["ticks"])
            ticks = self.session.recent(market[0], at, market[1])
            self._passed[market] = ticks.first + len(ticks.ts)
            if not len(ticks.ts):
                continue
            low, high, lost = float(ticks.price.min()), float(ticks.price.max()), ticks.first > at
            for order in orders:
                mark, way = float(order["water_mark"]), way_of(order)
                if lost or (high > mark if way > 0 else low < mark):
                    found.add(order["order"])
        return found

    def _looked(self, found: Any, error: BaseException | None) -> None:
        self._asking = False
        numbers: list[int] = []
        ticks = None
        if error is not None and self.over and not self.final:
            self.hub.ask(self._last, self._stood)
        if error is None:
            state, whole, ticks, at = found
            numbers = self._take(state, whole)
            if ticks is not None:
                if ticks[0] != self.following or at != self._at:
                    ticks = None  # somebody else is followed by now
                else:
                    self._at, ticks = ticks[1].first + len(ticks[1].ts), ticks[1]
        else:
            self._failed(error)
        with self._lock:
            lost = len(self._told) == KEPT
            told, self._told = [*self._told], deque(maxlen=KEPT)
        self._news(numbers, ticks, None if lost else told)
        if self._again:
            self.hub.later("pull", self.pull)

    @property
    def over(self) -> bool:
        """Whether it is a session of this process that has stopped."""
        return self.local and getattr(self.session, "status", "") == "stopped"

    def _last(self) -> dict[str, Any] | None:
        """How a session stood when it stopped; None if that is not known."""
        try:
            found: dict[str, Any] = self.session.last_state()
        except Exception as error:  # one that has failed may have left anything behind
            log.warning("the last state of %s cannot be told: %s", self.name, error)
            return None
        return found

    def _take_last(self, state: dict[str, Any] | None) -> list[int]:
        """Show that, and still that it is over."""
        if state is None:
            return []
        status, error = self.status, self.error
        numbers = self._take(state, True)
        self.status, self.error = status, error
        return numbers

    def _stood(self, state: dict[str, Any] | None, error: BaseException | None) -> None:
        self._news(self._take_last(state), None, [])

    def _take(self, state: dict[str, Any], whole: bool) -> list[int]:
        if whole:
            self.orders.clear()
            self._passed.clear()
            with self._lock:
                self.heard = max(state["seq"], self.heard) if self.id in ("", state["session"]) else state["seq"]
            self.id = state["session"]
        self.name, self.mode, self.status = state.get("name", state["session"]), state["mode"], state["status"]
        self.error, self.halted = "", str(state.get("halted", ""))
        now = time.monotonic()
        for symbol, market in state["symbols"].items():
            known = self.symbols.get(symbol)
            if known is None and market["ts"]:
                old = (time.time_ns() - instant_ns(market["ts"])) / 1e9
                self.ages[symbol] = now - old if 0 <= old < 86_400 else now
            elif known is None or market["ticks"] != known["ticks"]:
                self.ages[symbol] = now
        self.symbols = state["symbols"]
        for order in state["orders"]:
            self.orders[order["order"]] = order
        return [order["order"] for order in state["orders"]]

    def takes(self, state: dict[str, Any]) -> bool:
        """Take in orders that were asked for besides the looks; False if they are another session's."""
        if state["session"] != self.id:
            return False
        self._take(state, False)
        return True

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, ConnectionError) or not self.local:
            self.status = "closed" if getattr(self.session, "closed", False) else "reconnecting"
            self.error = "" if isinstance(error, ConnectionError) else str(error)
        elif getattr(self.session, "status", "") == "stopped":
            why = self.session.error
            self.status, self.error = ("closed", "") if why is None else ("failed", str(why))
            self.name, self.mode = self.session.name, self.session.mode
        else:
            self.status, self.error = "failed", str(error)
            log.error("the board of %s could not look: %s", self.name, error, exc_info=error)

    @property
    def final(self) -> bool:
        """Whether nothing will come any more."""
        return self.status in ("closed", "failed")


def trails(order: Mapping[str, Any]) -> bool:
    """Whether the best price since the entry matters to an order."""
    return not {"trailing_stop", "trailing_take_profit"}.isdisjoint(order["spec"])


FEEDS: dict[str, tuple[str, str, str, str]] = {
    "starting": ("created", "", "starting", ""),
    "live": ("active", "", "live", ""),
    "stale": ("error", "bad", "STALE", "STALE: no ticks come, so nothing can trigger."),
    "reconnecting": (
        "waiting",
        "warn",
        "reconnecting",
        "Reconnecting: the session does not answer. What is shown is what it said last.",
    ),
    "ended": ("created", "", "feed ended", ""),
    "stopped": (
        "cancelled",
        "warn",
        "closed",
        "This session is closed: nothing watches its orders. They are shown as they stood then; start it again and run the cell.",
    ),
    "closed": (
        "cancelled",
        "warn",
        "closed",
        "This session is closed: nothing watches its orders. They are shown as they stood then; start it again and run the cell.",
    ),
    "failed": ("error", "bad", "FAILED", "FAILED: the session has stopped, nothing watches its orders."),
}
"""How a session is: dot, how loud, word, and what is said of it."""


def row_of(order: Mapping[str, Any], price: float | None) -> dict[str, Any]:
    """An order as a row of the table in the browser."""
    dot, over = status_dot(order), order["status"] in OVER
    reason = (order["exit_reason"] or "").replace("_", " ")
    pending = order["status"] == "PENDING"
    attends = bool(order["attention"]) and not over
    word = DOTS[dot].word
    if reason and order["status"] in ("CLOSED", "STOPPED"):
        word = f"{order['status'].lower()} · {reason}"  # whether at a loss, the shape of the dot says, and the P&L
    elif reason and reason not in ("cancelled", "rejected"):
        word = f"{word} · {reason}"
    trigger = order["spec"].get("trigger", "last")
    return {
        "n": order["order"],
        "symbol": order["symbol"],
        "quote": order["symbol"].partition("/")[2].partition(":")[0],
        "side": order["side"],
        "way": way_of(order),
        "tag": order["tag"],
        "dot": dot,
        "word": word,
        "over": over,
        "section": "attention" if attends else "finished" if over else "pending" if pending else "living",
        "series": _SERIES.get(trigger, trigger),
        "entry": order["entry_price"],
        "stop": order["stop"],
        "mark": order["water_mark"] if trails(order) else None,
        "held": order["held"],
        "real": round(float(order["realized_pnl"] or 0), 8),
        "levels": level_dots(order, price),
        "progress": progress(order),
        "filled": order["filled_levels"],
        "end": order["exit_ts"] or "",
    }


def way_of(order: Mapping[str, Any]) -> int:
    """+1 where a rising price is a profit. Coins that are owned and sold on the ladder are long."""
    held = order["spec"].get("entry", {}).get("kind") == "held" and ":" not in order["symbol"]
    return 1 if order["side"] == "buy" or held else -1


def static_table(head: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], prices: Mapping[str, Any]) -> str:
    """A session as a table in HTML with inline styles alone; nothing that a user wrote is markup."""
    shown = sorted(rows, key=standing)[:STATIC_ROWS]
    titles = ("#", "Symbol", "Side", "Status", "Entry", "Price", "Stop", "P&L realised", "Levels", "Tag")
    lines = []
    for row in shown:
        digits = prices.get(row["symbol"], {}).get("digits")
        price = None if row["over"] else prices.get(row["symbol"], {}).get(row["series"])
        cells = [
            text_of(row["n"]),
            text_of(row["symbol"]),
            text_of(row["side"]),
            dot_html(row["dot"]) + " " + text_of(row["word"]),
            *(text_of(fixed(value, digits)) for value in (row["entry"], price, row["stop"])),
            f"{row['real']:+,.2f}" if row["real"] else "",
            "".join(dot_html(name) for name in row["levels"]) + f" {text_of(row['progress'])}",
            text_of(row["tag"]),
        ]
        lines.append("<tr>" + "".join(f'<td style="{_TD}text-align:left">{cell}</td>' for cell in cells) + "</tr>")
    badge, words = MODES.get(head["mode"], (head["mode"].upper(), head["mode"]))
    mode = badge if head["mode"] == "paper" else f"{badge}, {words}"
    top = "".join(f'<th scope="col" style="{_TD}text-align:left">{text_of(title)}</th>' for title in titles)
    more = f"<p>{len(rows) - len(shown)} more are not shown.</p>" if len(rows) > len(shown) else ""
    said = f"<b>{text_of(head['name'])}</b> · {mode} · {text_of(head['feed']['word'])}"
    body = "".join(lines) or f'<tr><td style="{_TD}" colspan="{len(titles)}">No orders.</td></tr>'
    return (
        f'<div><p>{said}, as it was when this was saved.</p><table style="border-collapse:collapse;font-size:13px">'
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{more}</div>"
    )


def chart_lines(order: Mapping[str, Any], step: Decimal, open_: bool = True) -> list[dict[str, Any]]:
    """An order as lines of an OrderChart; prices are multiples of `step`. Those that an edit can move may be dragged, if `open_`."""
    over = order["status"] in OVER
    drags = open_ and not over
    lines: list[dict[str, Any]] = []
    spec = order["spec"]
    entry = spec.get("entry", {})
    if order["entry_price"] is not None:
        line = {
            "id": "average",
            "kind": "entry",
            "price": float(order["entry_price"]),
            "label": "Entry",
            "state": "filled",
        }
        lines.append({**line, "detail": f"{order['held']} held" if not over else ""})
    elif order["status"] == "PENDING" and entry.get("price") is not None:
        moves = drags and entry.get("kind") in ("limit", "stop") and entry.get("limit_price") is None
        line = {"id": "entry", "kind": "entry", "price": float(entry["price"]), "label": "Entry", "state": "waiting"}
        lines.append({**line, "detail": entry.get("kind", ""), "draggable": moves})
    elif order["status"] == "PENDING":
        for k, rung in enumerate(entry.get("rungs", ())):
            line = {"id": f"rung{k}", "kind": "entry", "price": float(rung["price"]), "label": f"Entry {k + 1}"}
            lines.append({**line, "detail": f"{rung['size']} %", "state": "waiting"})
    base = order["entry_price"] or entry.get("price")
    static = resolved(spec.get("stop_loss"), base, way_of(order), step)
    stop = None if order["stop"] is None else float(order["stop"])
    if static is not None and not over:
        line = {"id": "stop", "kind": "stop", "price": static, "label": "Stop", "draggable": drags}
        lines.append({**line, "detail": str(spec["stop_loss"]["target"]), "state": "waiting"})
    if stop is not None and (static is None or abs(stop - static) > float(step) / 2):
        trails = "trailing_stop" in spec
        kind, label = ("trail", "Trailing") if trails else ("even", "Break-even")
        lines.append(
            {
                "id": "effective",
                "kind": kind,
                "price": stop,
                "label": label,
                "detail": "effective stop",
                "state": "working",
            }
        )
    states = {"PENDING": "waiting", "TRIGGERED": "working", "FILLED": "filled", "CANCELLED": "cancelled"}
    specs = spec.get("take_profits", ())
    for k, level in enumerate(order["levels"]):
        price = level["price"]
        if price is None and k < len(specs):
            price = resolved(specs[k], base, -way_of(order), step)
        if price is None:
            continue
        line = {
            "id": f"tp{k}",
            "kind": "level",
            "price": float(price),
            "label": f"TP{k + 1}",
            "detail": f"{level['size']} %",
        }
        lines.append({**line, "draggable": drags and level["status"] == "PENDING", "state": states[level["status"]]})
    known = {"detail": "", "draggable": False, "low": None, "high": None, "state": "planned"}
    return [{**known, **line} for line in lines]


def resolved(part: Mapping[str, Any] | None, base: Any, way: int, step: Decimal) -> float | None:
    """The price of a target, a price itself or a distance from `base`, rounded down to the increment, or up if `way` is -1."""
    if part is None:
        return None
    given = target(part["target"])
    if not isinstance(given, Distance):
        return float(given)
    if base is None:
        return None
    steps = (Decimal(str(base)) * (1 + given.fraction) / step).to_integral_value(
        ROUND_FLOOR if way > 0 else ROUND_CEILING
    )
    return float(steps * step)


def stop_path(order: Mapping[str, Any], changes: Iterable[Mapping[str, Any]], ticks: Any) -> list[tuple[int, float]]:
    """How the effective stop stood: what the events say, and between two of them what a trailing stop makes of the ticks."""
    way, trail = way_of(order), order["spec"].get("trailing_stop")
    points: list[tuple[int, float]] = []
    events = [change for change in changes if change["stop"] is not None]
    for k, change in enumerate(events):
        ts, stop = instant_ns(change["ts"]), float(change["stop"])
        points.append((ts, stop))
        last = k + 1 == len(events)
        if trail is None or ticks is None or change["water_mark"] is None or (last and order["status"] in OVER):
            continue
        end = None if last else instant_ns(events[k + 1]["ts"])
        final_stop, mark = (
            (order["stop"], order["water_mark"]) if last else (events[k + 1]["stop"], events[k + 1]["water_mark"])
        )
        if mark is None or final_stop is None or mark == change["water_mark"]:
            continue  # between these two it did not move
        a = int(np.searchsorted(ticks.ts, ts, "right"))
        b = len(ticks.ts) if end is None else int(np.searchsorted(ticks.ts, end, "left"))
        best = np.maximum.accumulate(way * ticks.price[a:b])
        rate = float(Decimal(str(trail["callback_rate"]).rstrip("%"))) / (
            100 if "%" in str(trail["callback_rate"]) else 1
        )
        path = np.clip(way * best * (1 - way * rate) * way, way * stop, max(way * float(final_stop), way * stop))
        at = np.flatnonzero(np.diff(path, prepend=way * stop) > 0)
        points += [(int(ticks.ts[a + i]), float(way * path[i])) for i in at]
    return points


def log_line(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change as a line of the log."""
    role = (change["role"] or "").replace("_", " ")
    kind = change["kind"]
    word = kind.replace("_", " ")
    said = f"{word} · {role}" if role not in ("", "none", word) else word
    names = {
        "filled": "filled",
        "held": "filled",
        "triggered": "working",
        "cancelled": "cancelled",
        "rejected": "rejected",
    }
    names |= {
        "alert": "attention",
        "action_refused": "error",
        "armed": "waiting",
        "break_even": "active",
        "timer_started": "waiting",
    }
    level = change["level"]
    return {
        "at": moment(change["ts"]),
        "what": said,
        "dot": names.get(kind, "created"),
        "hot": kind in ("alert", "rejected", "action_refused"),
        "level": "" if level is None or level < 0 else str(level + 1),
        "price": change["price"] or "",
        "quantity": "" if change["quantity"] in (None, "0") else change["quantity"],
        "stop": change["stop"] or "",
        "status": (change["status"] or "").replace("_", " ").lower(),
        "reason": (change["reason"] or "").replace("_", " ").replace("none", ""),
    }


def moment(text: str) -> str:
    """A time as a session writes it, to the millisecond: in a column, all are as long."""
    whole, _, rest = text.rstrip("Z").partition(".")
    return f"{whole.replace('T', ' ')}.{rest[:3]:0<3}"


def told(change: Mapping[str, Any]) -> str:
    """A change in a few words."""
    kind, role = change["kind"].replace("_", " "), (change["role"] or "").replace("_", " ")
    level = change["level"]
    which = f" {level + 1}" if level is not None and level >= 0 and role in ("take profit", "entry") else ""
    price = f" at {change['price']}" if change["price"] else ""
    what = kind if role in ("none", kind) else f"{role}{which} {kind}".strip()
    return f"{what}{price}"


def entry_words(order: Mapping[str, Any]) -> str:
    """How an order waits to be entered; nothing once it does not."""
    if order["status"] != "PENDING":
        return ""
    entry = order["spec"].get("entry", {"kind": "market"})
    kind = entry.get("kind", "market")
    if kind == "ladder":
        return f"{len(entry['rungs'])} limit entries from {entry['rungs'][0]['price']}"
    at = entry.get("price") or entry.get("callback_rate")
    return f"{kind} entry" + ("" if at is None else f" at {at}")


def difference(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """What of `new` is not in `old`."""
    return {key: value for key, value in new.items() if old is None or key not in old or old[key] != value}


def digits_of(market: Mapping[str, Any]) -> int:
    """Decimals of a market's prices."""
    return decimals(Decimal(market["price_increment"]))


def fixed(text: Any, digits: int | None) -> str | None:
    """A number as text with so many decimals."""
    return None if text is None else str(text) if digits is None else f"{float(text):,.{digits}f}"


def standing(row: Mapping[str, Any]) -> tuple[int, int]:
    """What comes first in a list of orders: what needs attention, what lives, waits, is over; the newest before older ones."""
    return _RANK[row["section"]], -row["n"]
