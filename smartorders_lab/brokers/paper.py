"""PaperBroker: an exchange simulated in this process, to which a session talks as it would to a real one.

    broker = PaperBroker("paper.ledger", FillModel(fee_taker="0.1%"), {"USDT": 1000})
    broker.list(instrument)
    broker.tick("BTC/USDT", number, ts, price, buy, sell, size)
    reports = broker.submit(submit)

It fills what replay fills, to the byte, since both call venue.py. The session says which tick the market is at, in this order:
commands of a user, whose children meet the next tick (`instant=False`); `tick`; `match` of the cancels that have arrived, then of the
children in leg order; then what the rules send, which meets this tick (`instant=True`). Ticks at which `due` finds nothing may be left out.

What a call has answered is on disk: one line of the ledger and one fdatasync for each call that changes something. Killed and opened
again, the broker knows what it knew; asked again for what it has done, it says so again and does nothing.

    3f9a0c11 [["submit", [...]], ["fill", ...]]   CRC-32 of the text and of the CRC before it, in hex; then the changes, as JSON

An account is kept if the ledger was begun with balances, in exact decimals. Spot: a buy reserves quote currency, a sell base currency.
Linear derivatives (`BTC/USDT:USDT`): margin is the whole notional, gains are booked on closing; a loss beyond all that is free
is written off, so that no balance is ever negative. A market child that has become too dear when it is filled is cancelled.

Known limits: no funding, no liquidation, one thread at a time; what was over for a week is forgotten when the ledger is rewritten.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, InvalidOperation, localcontext
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from ..errors import DataError, StoreError, short
from ..fields import plain
from ..fills import FillModel
from ..instrument import MAX_UNITS, Instrument, decimal
from ..lower import rate_units
from ..machine import read_only
from ..matching import COLUMNS, first_due, look
from ..messages import Cancel, Report, Submit, What
from ..rows import NEVER, NONE, NOW, Liquidity, table
from ..times import instant_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = 1
"""Version of the ledger; a file with a higher one is refused."""
KEPT_NS = 7 * 86400 * 10**9
"""How long a child that is over can be looked up, at least."""
_ROOM = 1 << 16
"""Bytes that a ledger may always have before it is rewritten."""
_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
_SYMBOL = re.compile(r"([^/:]+)/([^/:]+)(?::([^-:]+)(?:-.*)?)?")

Change = tuple[Any, ...]
"""A line of the ledger is a list of these: what is changed, and its new value."""
Changes = list[Change]
Reports = list[Report]
Submits = list[Submit]


class Due(NamedTuple):
    """A child for which a coming tick means something; `cancels`: what arrives is its cancel."""

    client_id: str
    order: int
    leg: int
    cancels: bool


Dues = list[Due]


class _Tick(NamedTuple):
    number: int
    ts: int
    price: int
    buy: int
    sell: int
    volume: int


class _Fill(NamedTuple):
    tick: int
    ts: int
    price: int
    quantity: int
    liquidity: int
    reason: str


class _Market:
    """A market that is traded here, and the tick that it is at."""

    def __init__(self, instrument: Instrument):
        self.instrument = instrument
        self.tick: _Tick | None = None

    @property
    def number(self) -> int:
        return -1 if self.tick is None else self.tick.number


class _Child:
    """A child order: as it was sent, and what became of it. `unit`: what it reserves of `currency` for each unit not yet filled."""

    def __init__(self, submit: Submit, since: int = -1, due: int = 0, currency: str = "", unit: Decimal = Decimal(0)):
        self.submit, self.since, self.due, self.currency, self.unit = submit, since, due, currency, unit
        self.cancel_due: int | None = None
        self.rested = False
        self.looked = -1
        self.fills: list[_Fill] = []
        self.left = submit.quantity
        self.over: tuple[int, int, What, str] | None = None
        """Tick, time, CANCELLED or REJECTED, why."""

    @property
    def working(self) -> bool:
        return self.left > 0 and self.over is None

    @property
    def reserved(self) -> Decimal:
        return self.unit * self.left if self.working else Decimal(0)

    @property
    def last_ts(self) -> int:
        """When it was over, or something last happened to it."""
        if self.over is not None:
            return self.over[1]
        return self.fills[-1].ts if self.fills else self.submit.sent

    def filled(self) -> Reports:
        """Its fills."""
        return [
            Report(self.submit.client_id, What.FILLED, f.ts, f.price, f.quantity, f.liquidity, self._name(n), f.reason)
            for n, f in enumerate(self.fills)
        ]

    def _name(self, n: int) -> str:
        return f"{self.submit.client_id}-{n + 1}"

    def ending(self) -> Reports:
        """That it was cancelled or refused, if so."""
        if self.over is None:
            return []
        _, ts, what, reason = self.over
        return [Report(self.submit.client_id, what, ts, quantity=self.left, reason=reason)]

    def reports(self) -> Reports:
        """All that is known."""
        if self.over is not None and self.over[2] is What.REJECTED:
            return self.ending()
        accepted = Report(self.submit.client_id, What.ACCEPTED, self.due, quantity=self.submit.quantity)
        return [accepted, *self.filled(), *self.ending()]

    def at(self, tick: int) -> Reports:
        """What a tick did to it."""
        fills = [report for report, fill in zip(self.filled(), self.fills, strict=True) if fill.tick == tick]
        return fills + (self.ending() if self.over is not None and self.over[0] == tick else [])

    def row(self) -> list[int]:
        """As matching.py sees it."""
        submit = self.submit
        limit = NONE if submit.limit is None else submit.direction * submit.limit
        cancel = NEVER if self.cancel_due is None else self.cancel_due
        exits = -1 if submit.opens else 1
        return [self.due, cancel, limit, submit.direction, exits, int(submit.at_limit), int(self.rested)]


class PaperBroker:
    """A simulated exchange. Raises StoreError if its ledger cannot be used, DataError for what it is told wrongly."""

    instant = True
    """Answers come back from the call itself."""
    request_expiry_ns = 0
    """After so long a request that has not arrived can never be executed."""
    visibility_lag_ns = 0
    """After so long an executed order is visible to `query`."""
    tells_all = True

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        fills: FillModel,
        balances: Mapping[str, Decimal | str | float] | None = None,
    ):
        """`path`: the ledger, begun if it is not there; None: in memory. `balances`: what the account is begun with; None: no account
        (or the one that the ledger has), nothing is refused for lack of funds."""
        self.fills = fills
        self._slippage = rate_units(fills.slippage)
        self._now = table(NOW, 1)
        self._markets: dict[str, _Market] = {}
        self._increments: dict[str, tuple[Decimal, Decimal]] = {}
        self._children: dict[str, _Child] = {}
        self._working: dict[str, dict[str, _Child]] = {}
        self._of_order: dict[tuple[str, int], list[_Child]] = {}
        self._tables: dict[str, tuple[np.ndarray, list[_Child]]] = {}
        self._begun: dict[str, str] | None = None
        self._totals: dict[str, Decimal] | None = None
        self._positions: dict[tuple[str, int], tuple[int, int]] = {}
        self._latest = 0
        begun = None if balances is None else {str(k): _amount(f"balances[{k!r}]", v) for k, v in balances.items()}
        first: Change = ("paper", FORMAT, begun)
        self._ledger = None if path is None else _Ledger(Path(path))
        if self._ledger is None:
            self._apply(first)
            return
        try:
            if not self._ledger.path.exists():
                self._ledger.rewrite([[first]])
                self._apply(first)
            else:
                self._recover(self._ledger, begun)
        except BaseException:
            self._ledger.close()
            raise

    def __repr__(self) -> str:
        where = "in memory" if self._ledger is None else self._ledger.path.name
        working = sum(len(children) for children in [*self._working.values()])
        account = {} if self._totals is None else self._totals
        funds = ", ".join(f"{plain(amount)} {currency}" for currency, amount in [*account.items()] if amount)
        many = f"{len(self._children):,} child orders, {working:,} working"
        return f"PaperBroker({where}, {many}, {funds or ('no limit of funds' if self._totals is None else 'no funds')})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the ledger back."""
        if self._ledger is not None:
            self._ledger.close()

    # ------------------------------------------------------------------------------------------------ the market

    def list(self, instrument: Instrument) -> None:
        """Trade a market here. Raises DataError for one that an account cannot keep, or whose increments have changed under way."""
        symbol = instrument.symbol
        increments = (instrument.price_increment, instrument.quantity_increment)
        before = self._increments.get(symbol, increments)
        if before != increments and (self._working.get(symbol) or any(s == symbol for s, _ in self._positions)):
            raise DataError(
                f"{symbol}: its increments were {plain(before[0])} and {plain(before[1])}, now they are {plain(increments[0])} and "
                f"{plain(increments[1])}, and something is open; list it as it was until that is closed"
            )
        if self._totals is not None:
            _check_account(symbol, self.fills)
        if self._increments.get(symbol) != increments:
            self._commit(("market", symbol, str(increments[0]), str(increments[1])))
        if symbol in self._markets:
            self._markets[symbol].instrument = instrument
        else:
            self._markets[symbol] = _Market(instrument)

    def tick(self, symbol: str, number: int, ts: int, price: int, buy: int, sell: int, size: float | None) -> None:
        """The market is at this tick now. `number` counts the ticks of the symbol, `buy` and `sell` are where a market order trades."""
        market = self._market(symbol)
        offered = self._offered(market, None if size is None else np.array([size]))
        volume = int(offered[0]) if len(offered) else -1
        market.tick = _Tick(int(number), int(ts), int(price), int(buy), int(sell), volume)

    def due(
        self, symbol: str, ts: np.ndarray, price: np.ndarray, buy: np.ndarray, sell: np.ndarray, size: np.ndarray | None
    ) -> tuple[int, Dues]:
        """Look ahead over coming ticks (int64 arrays) without changing anything: (index, children) of the first that means something.

        That is one at which a cancel arrives, a child is to be filled, or a limit order arrives and rests: `match` has to be asked
        for it then, so that later ticks find it resting. Index `len(ts)` if there is none. Children are listed by order, cancels
        first, then in leg order, each as if it were alone: `match` may find that others have left it nothing.
        """
        rows, children = self._table(symbol)
        if not children or not len(ts):
            return len(ts), []
        volume = self._offered(self._market(symbol), size)
        found = np.empty(len(children), np.int64)
        arrays = [read_only(np.asarray(a, np.int64)) for a in (ts, buy, sell, volume)]
        at, count = first_due(*arrays, rows, self._slippage, int(self.fills.touch), found)
        result = []
        for k in found[:count]:
            submit, cancel = children[k].submit, children[k].cancel_due
            result.append(Due(submit.client_id, submit.order, submit.leg, cancel is not None and cancel <= ts[at]))
        return at, sorted(result, key=lambda child: (child.order, not child.cancels, child.leg))

    def _market(self, symbol: str) -> _Market:
        if symbol not in self._markets:
            raise DataError(f"symbol = {short(symbol)}: is not traded here; list() its instrument first")
        return self._markets[symbol]

    def _offered(self, market: _Market, size: np.ndarray | None) -> np.ndarray:
        """What ticks of these sizes offer to one order, in units; empty if anything."""
        share = self.fills.participation
        if share is None:
            return np.empty(0, np.int64)
        if size is None:
            raise DataError("participation: these ticks have no sizes; leave participation out")
        scaled = size * float(share) / float(market.instrument.quantity_increment)
        return np.floor(scaled + 1e-6).astype(np.int64)

    def _table(self, symbol: str) -> tuple[np.ndarray, Sequence[_Child]]:
        if symbol not in self._tables:
            children = [*self._working.get(symbol, {}).values()]
            rows = np.array([child.row() for child in children], np.int64).reshape(-1, COLUMNS)
            self._tables[symbol] = rows, children
        return self._tables[symbol]

    # ------------------------------------------------------------------------------------------------ requests

    def submit(self, submit: Submit) -> Reports:
        """Take a child order: ACCEPTED, and FILLED if it meets the current tick and fills; or REJECTED.

        Sent again with the same client id, the first one stands and its state is reported.
        """
        known = self._children.get(submit.client_id)
        if known is not None:
            return known.reports()
        submit = _native(submit)
        market = self._markets.get(submit.symbol)
        with localcontext(_EXACT):
            refusal = f"unknown market: {submit.symbol}" if market is None else _refusal(submit, market.instrument)
            if market is not None and not refusal:
                child = self._reserve(submit, market)
                refusal = self._unaffordable(child, market)
            if market is None or refusal:
                self._commit(("rejected", [*submit], refusal))
                return self._children[submit.client_id].reports()
            changes: Changes = [("submit", [*submit], child.since, child.due, child.currency, plain(child.unit))]
            if submit.instant and self.fills.latency == 0 and market.tick is not None:
                changes += self._look(child, market.tick)
            self._commit(*changes)
        return self._children[submit.client_id].reports()

    def match(self, client_id: str) -> Reports:
        """Do what the current tick does to a child: FILLED, CANCELLED or nothing. Asked again for the same tick it says the same again."""
        child = self._children.get(client_id)
        if child is None:
            return [Report(client_id, What.ABSENT)]
        market = self._markets.get(child.submit.symbol)
        if market is None or market.tick is None:
            return []
        tick = market.tick
        if child.looked == tick.number:
            return child.at(tick.number)
        if not child.working or tick.number <= child.since:
            return []
        if child.cancel_due is not None and child.cancel_due <= tick.ts:
            self._commit(("over", client_id, tick.number, tick.ts, ""))
        elif child.due <= tick.ts:
            with localcontext(_EXACT):
                changes = self._look(child, tick)
            if changes:
                self._commit(*changes)
        return child.at(tick.number)

    def cancel(self, cancel: Cancel) -> Reports:
        """Take a limit child back: its fills and CANCELLED without latency; with it nothing yet, the cancel is on its way.

        A child that is over says what became of it; a market child cannot be called back and says how it stands.
        """
        child = self._children.get(cancel.client_id)
        if child is None:
            return [Report(cancel.client_id, What.ABSENT)]
        if not child.working or child.submit.limit is None:
            return [report for report in child.reports() if child.working or report.what is not What.ACCEPTED]
        if self.fills.latency == 0:
            market = self._markets.get(child.submit.symbol)
            number = -1 if market is None else market.number
            self._commit(("over", cancel.client_id, number, int(cancel.sent), ""))
            return child.filled() + child.ending()
        if child.cancel_due is None:
            self._commit(("cancel", cancel.client_id, int(cancel.sent) + self.fills.latency))
        return []

    def query(self, client_id: str) -> Reports:
        """All that is known of a child: ABSENT, REJECTED, or ACCEPTED, each FILLED and CANCELLED."""
        child = self._children.get(client_id)
        return [Report(client_id, What.ABSENT)] if child is None else child.reports()

    def open_orders(self) -> Submits:
        """The children that are neither filled nor over, as they were sent."""
        return [child.submit for working in self._working.values() for child in working.values()]

    def _look(self, child: _Child, tick: _Tick) -> Changes:
        """What a tick changes for a child that has arrived."""
        submit, now = child.submit, self._now
        now[0].volume = tick.volume
        if tick.volume >= 0:
            others = self._of_order.get((submit.symbol, submit.order), [])
            now[0].volume -= sum(f.quantity for other in others for f in other.fills if f.tick == tick.number)
        liquidity, price, quantity = self._meet(child, tick, child.left)
        if quantity == 0:
            waits = submit.limit is None or child.rested
            return [] if waits else [("rest", submit.client_id, tick.number)]
        ts, reason = max(tick.ts, child.due), ""
        changes: Changes = []
        if self._totals is not None:
            paid, reason = self._pay(child, price, quantity, liquidity)
            if paid is None:
                return [("over", submit.client_id, tick.number, ts, reason)]
            changes = paid
        return [("fill", submit.client_id, tick.number, ts, price, quantity, liquidity, reason), *changes]

    def _meet(self, child: _Child, tick: _Tick, wanted: int) -> tuple[int, int, int]:
        """(liquidity, price, quantity) of a child at a tick that still offers `_now[0].volume`."""
        row = np.array(child.row(), np.int64)
        met = look(row, self._now, wanted, tick.buy, tick.sell, self._slippage, int(self.fills.touch))
        return int(met[0]), int(met[1]), int(met[2])

    # ------------------------------------------------------------------------------------------------ the account

    def balances(self) -> dict[str, tuple[Decimal, Decimal]]:
        """Total and reserved of each currency; empty if there is no account."""
        with localcontext(_EXACT):
            return {currency: (total, self._reserved(currency)) for currency, total in (self._totals or {}).items()}

    def deposit(self, currency: str, amount: Decimal | str | float) -> None:
        """Add to the account. Raises DataError if there is none."""
        if self._totals is None:
            raise DataError(f"deposit({currency!r}): this broker keeps no account; begin a ledger with balances")
        with localcontext(_EXACT):
            self._commit(self._add(currency, Decimal(_amount("amount", amount))))

    def _reserved(self, currency: str, but: _Child | None = None) -> Decimal:
        """What working children, all but one, and the margin of positions hold of a currency."""
        working = (child for children in self._working.values() for child in children.values())
        total = sum((c.reserved for c in working if c.currency == currency and c is not but), Decimal(0))
        for (symbol, _), (_, cost) in self._positions.items():
            if _currencies(symbol)[2] == currency:
                total += cost * self._step(symbol)
        return total

    def _free(self, currency: str, but: _Child | None = None) -> Decimal:
        assert self._totals is not None
        return self._totals.get(currency, Decimal(0)) - self._reserved(currency, but)

    def _step(self, symbol: str) -> Decimal:
        """The notional of one unit at a price of one unit."""
        price, quantity = self._increments[symbol]
        return price * quantity

    def _reserve(self, submit: Submit, market: _Market) -> _Child:
        """The child that a request becomes, with what it is going to hold of the account."""
        child = _Child(submit, market.number, submit.sent + self.fills.latency)
        if self._totals is None:
            return child
        base, quote, settle = _currencies(submit.symbol)
        if settle and not submit.opens:
            return child  # what it takes from is the position
        if submit.side < 0 and not settle:
            child.currency, child.unit = base, self._increments[submit.symbol][1]
            return child
        tick, price, fee = market.tick, submit.limit, max(self.fills.fee_taker, Decimal(0))
        if price is not None:
            fee = max(fee, self.fills.fee_maker)
            if submit.side < 0 and tick is not None:
                price = max(price, tick.sell)  # where it fills if it arrives now; its margin is the notional
        elif tick is not None:
            self._now[0].volume = -1
            _, price, _ = self._meet(child, tick, 1)
        child.currency = settle or quote
        child.unit = (price or 0) * self._step(submit.symbol) * (1 if self._in_coins(submit) else 1 + fee)
        return child

    def _in_coins(self, submit: Submit) -> bool:
        """Whether the fee is taken out of what is bought."""
        return self.fills.fee_currency == "base" and submit.opens and submit.direction > 0

    def _unaffordable(self, child: _Child, market: _Market) -> str:
        """Why the account does not bear a child; empty if it does."""
        submit = child.submit
        if self._totals is None:
            return ""
        if child.currency:
            need, has = child.unit * submit.quantity, self._free(child.currency)
            return _insufficient(need, has, child.currency) if need > has else "" if need else "no price yet"
        free, _ = self._positions.get((submit.symbol, submit.direction), (0, 0))
        for other in self._working.get(submit.symbol, {}).values():
            if not other.submit.opens and other.submit.direction == submit.direction:
                free -= other.left
        if submit.quantity <= free:
            return ""
        need, has = market.instrument.quantity(submit.quantity), market.instrument.quantity(free)
        return f"insufficient position: needs {plain(need)} {submit.symbol}, free {plain(has)} {submit.symbol}"

    def _pay(self, child: _Child, price: int, quantity: int, liquidity: int) -> tuple[Changes | None, str]:
        """The changes of the account that a fill makes, and a word on it; None and why if it cannot be paid."""
        submit = child.submit
        base, quote, settle = _currencies(submit.symbol)
        notional = price * quantity * self._step(submit.symbol)
        rate = self.fills.fee_maker if liquidity == Liquidity.MAKER else self.fills.fee_taker
        fee = Decimal(0) if self._in_coins(submit) else notional * rate
        if settle and not submit.opens:
            return self._close(submit, settle, notional, fee, quantity)
        coins = quantity * self._increments[submit.symbol][1]
        if submit.side < 0 and not settle:
            return [self._add(base, -coins), self._add(quote, notional - fee)], ""
        need, has = notional + fee, self._free(child.currency, child) - child.unit * (child.left - quantity)
        if need > has:
            return None, _insufficient(need, has, child.currency)
        if settle:
            held, cost = self._positions.get((submit.symbol, submit.direction), (0, 0))
            position = ("position", submit.symbol, submit.direction, held + quantity, cost + price * quantity)
            return [self._add(settle, -fee), position], ""
        got = coins * (1 - rate) if self._in_coins(submit) else coins
        return [self._add(quote, -need), self._add(base, got)], ""

    def _close(
        self, submit: Submit, settle: str, notional: Decimal, fee: Decimal, quantity: int
    ) -> tuple[Changes, str]:
        """Take from a position: its share of the margin comes back with what was gained."""
        held, cost = self._positions[submit.symbol, submit.direction]
        share = cost * quantity // held
        margin = share * self._step(submit.symbol)
        gain, least = submit.direction * (notional - margin) - fee, -(self._free(settle) + margin)
        position = ("position", submit.symbol, submit.direction, held - quantity, cost - share)
        note = f"written off: {plain(least - gain)} {settle}" if gain < least else ""
        return [self._add(settle, max(gain, least)), position], note

    def _add(self, currency: str, amount: Decimal) -> Change:
        assert self._totals is not None
        return "total", currency, plain(self._totals.get(currency, Decimal(0)) + amount)

    # ------------------------------------------------------------------------------------------------ the ledger

    def know(self, submit: Submit, venue_id: str, fills: Iterable[str]) -> None:
        """Nothing: the ledger knows."""

    def together(self) -> contextlib.AbstractContextManager[None]:
        """What is asked within it is made durable at once when it ends; only then its answers count."""
        return contextlib.nullcontext() if self._ledger is None else self._ledger.together()

    def _commit(self, *changes: Change) -> None:
        """Write changes to disk, then make them."""
        if self._ledger is not None:
            self._ledger.append(changes)
        for change in changes:
            self._apply(change)

    def _apply(self, change: Sequence[Any]) -> None:
        what, key, *rest = change
        if what == "paper":
            self._begun = rest[0]
            self._totals = None if rest[0] is None else {k: Decimal(v) for k, v in rest[0].items()}
        elif what == "market":
            self._increments[key] = Decimal(rest[0]), Decimal(rest[1])
        elif what == "total":
            assert self._totals is not None
            self._totals[key] = Decimal(rest[0])
        elif what == "position":
            self._positions[key, rest[0]] = rest[1], rest[2]
            if rest[1] == 0:
                del self._positions[key, rest[0]]
        else:
            self._change_child(what, key, rest)

    def _change_child(self, what: str, key: Any, rest: Sequence[Any]) -> None:
        if what in ("submit", "rejected"):
            submit = Submit(*key)
            if what == "submit":
                since, due, currency, unit = rest
                child = _Child(submit, since, due, currency, Decimal(unit))
                self._of_order.setdefault((submit.symbol, submit.order), []).append(child)
            else:
                child = _Child(submit)
                child.over = -1, submit.sent, What.REJECTED, rest[0]
            self._children[submit.client_id] = child
        else:
            child = self._children[key]
            if what == "cancel":
                child.cancel_due = rest[0]
            elif what == "over":
                child.looked, child.over = rest[0], (rest[0], rest[1], What.CANCELLED, rest[2])
            else:
                child.looked, child.rested = rest[0], True
                if what == "fill":
                    child.fills.append(_Fill(*rest))
                    child.left -= rest[3]
        symbol, client_id = child.submit.symbol, child.submit.client_id
        if child.working:
            self._working.setdefault(symbol, {})[client_id] = child
        else:
            self._working.get(symbol, {}).pop(client_id, None)
        self._latest = max(self._latest, child.last_ts)
        self._tables.pop(symbol, None)

    def _recover(self, ledger: _Ledger, begun: Mapping[str, str] | None) -> None:
        """Take up a ledger where it stands."""
        for changes in ledger.read():
            for change in changes:
                self._apply(change)
        if begun is not None and begun != self._begun:
            was = "without an account" if self._begun is None else f"with {_listed(self._begun)}"
            raise StoreError(
                f"{ledger.path}: was begun {was}, not with {_listed(begun)}; leave balances out, "
                f"deposit() what is new, or give another path"
            )
        self._of_order = {}
        for client_id, child in [*self._children.items()]:
            if not child.working and child.last_ts < self._latest - KEPT_NS:
                del self._children[client_id]
            else:
                self._of_order.setdefault((child.submit.symbol, child.submit.order), []).append(child)
        short_form = [*self._state()]
        if ledger.size > max(_ROOM, 4 * sum(len(json.dumps(changes)) for changes in short_form)):
            ledger.rewrite(short_form)

    def _state(self) -> Iterator[Changes]:
        """The lines of a ledger that says how things stand."""
        first: Changes = [("paper", FORMAT, self._begun)]
        first += [("market", symbol, str(a), str(b)) for symbol, (a, b) in self._increments.items()]
        first += [("total", currency, plain(amount)) for currency, amount in (self._totals or {}).items()]
        first += [("position", *key, *position) for key, position in self._positions.items()]
        yield first
        for client_id, child in self._children.items():
            if child.over is not None and child.over[2] is What.REJECTED:
                yield [("rejected", [*child.submit], child.over[3])]
                continue
            opened = ("submit", [*child.submit], child.since, child.due, child.currency, plain(child.unit))
            changes: Changes = [opened]
            if child.rested and not child.fills:
                changes.append(("rest", client_id, child.looked))
            changes += [("fill", client_id, *fill) for fill in child.fills]
            if child.cancel_due is not None:
                changes.append(("cancel", client_id, child.cancel_due))
            if child.over is not None:
                changes.append(("over", client_id, child.over[0], child.over[1], child.over[3]))
            yield changes


class _Ledger:
    """A file to which lines are added, each on disk before `append` returns. One owner at a time, by a lock on `<path>.lock`."""

    def __init__(self, path: Path):
        self.path = path
        self.size = 0
        self._crc = 0
        self._file: int | None = None
        self._failed = "is closed; open it again"
        self._later = self._unsynced = False
        if path.is_dir():
            raise StoreError(f"{path}: is a folder; give the path of a file in it, as in {path / 'paper.ledger'}")
        if not path.parent.is_dir():
            raise StoreError(f"{path}: the folder {path.parent} does not exist; create it first")
        self._lock = _take_lock(path)

    def rewrite(self, lines: Iterable[Sequence[Change]]) -> None:
        """Replace the file, whole or not at all."""
        draft = self.path.with_name(self.path.name + ".new")
        self._crc, data = 0, b""
        for changes in lines:
            data += self._line(changes)
        try:
            file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            try:
                _write(file, data)
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(draft, self.path)
            if hasattr(os, "O_DIRECTORY"):
                folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            self._open(len(data))
        except OSError as error:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise StoreError(
                f"{self.path}: cannot be written: {error.strerror}; make room, or take another folder"
            ) from None

    def read(self) -> Iterator[list[Any]]:
        """The changes of each line. A last line that is not whole was never answered for, and is cut off. Raises StoreError for damage."""
        try:
            pieces = self.path.read_bytes().split(b"\n")
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be read: {error.strerror}; check its permissions") from None
        size, whole = 0, len(pieces) - 1
        for n, piece in enumerate(pieces):
            if not piece and n == whole > 0:
                break
            changes = self._parse(piece) if n < whole else None
            if n == 0:
                self._check_first(changes)
            if changes is None:
                if n == whole or (n == whole - 1 and not pieces[whole]):
                    break
                raise StoreError(
                    f"{self.path}: line {n + 1} of {whole} is damaged (its checksum is wrong); put back a copy of the file, or keep what "
                    f"comes before it: head -n {n} {self.path.name} > new.ledger"
                )
            size += len(piece) + 1
            yield changes
        try:
            self._open(size)
            assert self._file is not None
            if size < sum(map(len, pieces)) + whole:
                os.ftruncate(self._file, size)
                _sync(self._file)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written: {error.strerror}; check its permissions, or take another folder"
            ) from None

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Lines that are added within are on disk when it ends."""
        self._later = True
        try:
            yield
        finally:
            self._later = False
        if self._unsynced:
            self._put(b"")

    def append(self, changes: Sequence[Change]) -> None:
        """Add a line; on disk when this returns. After an error nothing more can be added: what is on disk is not known."""
        self._put(self._line(changes))

    def _put(self, line: bytes) -> None:
        if self._file is None:
            raise StoreError(f"{self.path}: {self._failed}")
        try:
            _write(self._file, line)
            self._unsynced = self._later
            if not self._later:
                _sync(self._file)
        except OSError as error:
            self._failed = f"could not be written: {error.strerror}; make room, then open it again"
            os.close(self._file)
            self._file = None
            raise StoreError(f"{self.path}: {self._failed}") from None
        self.size += len(line)

    def close(self) -> None:
        """Close the file and give the lock back."""
        for file in (self._file, self._lock):
            if file is not None:
                os.close(file)
        self._file = self._lock = None

    def _open(self, size: int) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._file, self.size = os.open(self.path, os.O_WRONLY | os.O_APPEND), size

    def _line(self, changes: Sequence[Change]) -> bytes:
        text = json.dumps(changes, separators=(",", ":")).encode()
        self._crc = zlib.crc32(text, self._crc)
        return b"%08x %s\n" % (self._crc, text)

    def _parse(self, piece: bytes) -> list[Any] | None:
        """The changes of a line; None if it is not what was written."""
        crc = zlib.crc32(piece[9:], self._crc)
        if piece[:9] != b"%08x " % crc:
            return None
        self._crc = crc
        changes: list[Any] = json.loads(piece[9:])
        return changes

    def _check_first(self, changes: list[Any] | None) -> None:
        if changes is None or not changes or changes[0][0] != "paper":
            raise StoreError(
                f"{self.path}: is not the ledger of a paper broker, or its first line is damaged; give another path"
            )
        if changes[0][1] > FORMAT:
            raise StoreError(
                f"{self.path}: has format {changes[0][1]}, this library knows {FORMAT}; update smartorders_lab, or give another path"
            )


def _write(file: int, data: bytes) -> None:
    """All of it, in as many calls as that takes."""
    while data:
        data = data[os.write(file, data) :]


def _sync(file: int) -> None:
    getattr(os, "fdatasync", os.fsync)(file)


def _take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock of a ledger until it is closed."""
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}; take another folder") from None
    if fcntl is None:
        return lock
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.pwrite(lock, f"{os.getpid()} {instant_text(_now_ns())}\n".encode().ljust(64), 0)
    except BlockingIOError:
        pid, _, since = os.pread(lock, 64, 0).decode(errors="replace").strip().partition(" ")
        os.close(lock)
        raise StoreError(
            f"{path}: is in use by pid {pid or 'unknown'} since {since or 'unknown'}; wait for it to end, or close it there"
        ) from None
    except OSError as error:
        os.close(lock)
        raise StoreError(f"{path}: cannot be locked: {error.strerror}; take a folder on a local disk") from None
    return lock


def _now_ns() -> int:
    return int(datetime.now(UTC).timestamp()) * 10**9


def _native(submit: Submit) -> Submit:
    """The same in Python's own types, as JSON has them."""
    client_id, symbol, order, leg, side, direction, quantity, limit, opens, at_limit, sent, instant = submit
    return Submit(
        *(str(client_id), str(symbol), int(order), int(leg), int(side), int(direction), int(quantity)),
        None if limit is None else int(limit),
        *(bool(opens), bool(at_limit), int(sent), bool(instant)),
    )


def _refusal(submit: Submit, instrument: Instrument) -> str:
    """What is wrong with a child order itself; empty if nothing."""
    most, least, quantity = instrument.max_quantity, instrument.min_quantity, instrument.quantity(submit.quantity)
    if not 0 < submit.quantity <= MAX_UNITS:
        return f"bad quantity: {submit.quantity} units"
    if submit.limit is not None and not 0 < submit.limit <= MAX_UNITS:
        return f"bad limit: {submit.limit} units"
    if submit.direction not in (1, -1) or submit.side != (submit.direction if submit.opens else -submit.direction):
        return f"bad side: {submit.side} for direction {submit.direction}"
    if submit.opens and quantity < least:
        return f"bad quantity: {plain(quantity)} is less than {plain(least)}"
    if submit.opens and most is not None and quantity > most:
        return f"bad quantity: {plain(quantity)} is more than {plain(most)}"
    return ""


def _currencies(symbol: str) -> tuple[str, str, str]:
    """Base, quote and settle currency of a symbol; no settle currency on spot."""
    match = _SYMBOL.fullmatch(symbol.partition("@")[0])  # after it comes the price that is watched, not what is traded
    if match is None:
        raise DataError(f"symbol = {short(symbol)}: names no currencies; write BTC/USDT or BTC/USDT:USDT")
    return match[1], match[2], match[3] or ""


def _check_account(symbol: str, fills: FillModel) -> None:
    """Whether an account can keep this market."""
    _, quote, settle = _currencies(symbol)
    if settle and settle != quote:
        raise DataError(
            f"symbol = {short(symbol)}: is settled in {settle}, not in {quote}; a paper account keeps linear markets only"
        )
    if settle and fills.fee_currency == "base":
        raise DataError(f"fee_currency = 'base': {symbol} has no coins to take a fee from; write fee_currency='quote'")


def _amount(name: str, value: object) -> str:
    """An amount of money, 0 or above, as text."""
    try:
        amount = decimal(value)
    except ValueError as error:
        raise DataError(f"{name} = {short(value)}: {error}; write a number such as 1000 or '0.5'") from None
    if amount < 0:
        raise DataError(f"{name} = {short(value)}: must be 0 or above; a paper account has no debts")
    return plain(amount)


def _insufficient(need: Decimal, has: Decimal, currency: str) -> str:
    return f"insufficient funds: needs {plain(need)} {currency}, free {plain(has)} {currency}"


def _listed(balances: Mapping[str, str]) -> str:
    return ", ".join(f"{amount} {currency}" for currency, amount in balances.items()) or "nothing"
