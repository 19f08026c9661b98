"""The world of one seed: its markets, its users, its clock, and a book that is killed again and again."""

from __future__ import annotations

import copy
import hashlib
import random
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

import smartorders_lab as so
from smartorders_lab.book import FORMAT, Book
from smartorders_lab.errors import ActionRefused, SmartOrdersError, SpecError, StoreError
from smartorders_lab.execution import State
from smartorders_lab.fills import FillModel
from smartorders_lab.instrument import Instrument
from smartorders_lab.journal import MemoryJournal
from smartorders_lab.messages import Block, Notice
from smartorders_lab.rows import EVENT, NEVER, Status

from .checks import Checks, Violation
from .exchange import MS, Exchange

SECOND = 1000 * MS
BEGIN = 1_700_000_000 * SECOND
OUTLIER = "6%"
SYMBOLS = ("A/B:B", "C/B")


class Crash(BaseException):
    """The process is killed here."""


class DiskFull(StoreError):
    """A commit finds no room."""


class Plan:
    """What a seed is about; drawn before anything happens."""

    def __init__(self, rng: random.Random):
        self.live = rng.random() < 0.5
        self.native = not self.live and rng.random() < 0.25
        """PaperBroker as it is: no request expires or hides."""
        self.expiry = 0 if self.native else 2 * SECOND
        self.lag = 0 if self.native else 1500 * MS
        self.raises = rng.random() < 0.5
        self.polls = rng.random() < 0.12
        self.poll = 700 * MS if self.polls else 0
        self.outlier = OUTLIER if rng.random() < 0.6 else None
        self.exchange_clock = rng.random() < 0.6
        self.symbols = SYMBOLS[: 2 if rng.random() < 0.35 else 1]
        self.fault_rate = rng.choice([0.0, 0.1, 0.3, 0.5])
        self.crash_rate = rng.choice([0.0, 0.002, 0.01, 0.03])
        self.gap_rate = rng.choice([0.0, 0.01, 0.03])
        self.fills = FillModel(
            fee_maker=rng.choice(["0%", "0.02%"]),
            fee_taker="0.1%",
            slippage=rng.choice(["0%", "0.01%"]),
            latency=rng.choice([0, 0, 150 * MS, 900 * MS]),
            touch=rng.random() < 0.3,
            participation=rng.choice([None, None, "50%"]),
            fee_currency="base" if rng.random() < 0.1 else "quote",
        )
        self.balances = None
        if rng.random() < 0.25 and self.fills.fee_currency == "quote":
            self.balances = {"B": rng.choice(["1500", "1000000"]), "C": rng.choice(["3", "1000"])}

    def quiet(self) -> None:
        """An exchange that never fails, and no time but that of the ticks."""
        self.live, self.native, self.expiry, self.lag, self.exchange_clock = False, True, 0, 0, False

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in vars(self).items())


class Archive(MemoryJournal):
    """A journal in memory that also keeps what was compacted away, for the checks."""

    def __init__(self, meta: dict[str, Any], hook: Callable[[str], None]):
        super().__init__(meta, hook=hook)
        self.all_entries: list[tuple[str, bytes]] = []
        self.given: tuple[Sequence[tuple[str, bytes]], np.ndarray | None] = ((), None)

    def append(self, entries: Sequence[tuple[str, bytes]], events: np.ndarray | None = None) -> int:
        self.given = entries, events
        return super().append(entries, events)


class Market:
    """The prices of one symbol. `tape`: (ts, price, size, whether it is real)."""

    def __init__(self, symbol: str, rng: random.Random):
        self.symbol = symbol
        self.price = 10_000
        self.trend = 0.0
        self.tape: list[tuple[int, int, float, bool]] = []
        self.fed = self.asked = 0
        """How much of the tape the book was given, and was to be given."""
        self.wick = 0
        self.lowest, self.highest = 10**9, 0
        self.next = BEGIN + rng.randint(1, 400) * MS


class World:
    """One seed. `steps` things happen, then all faults end and everything has to come to its end."""

    plans, checkers, exchanges = Plan, Checks, Exchange
    """What it is made of; a world of another kind has its own."""
    calm = 20, 3 * SECOND
    """How long after the last fault everything has to be known."""

    def __init__(self, seed: int, kill_at: int = 0, crashes: bool = True, quiet: bool = False, say: bool = False):
        """`kill_at`: killed once, at that point, and not at random. `crashes`: killed at random. `quiet`: no faults, no time passes while
        it is down, and users try again, so that being killed must not change anything."""
        self.seed, self.rng = seed, random.Random(seed)
        self.plan = self.plans(self.rng)
        if quiet:
            self.plan.quiet()
        self.kill_at, self.crashes, self.quiet, self.say = kill_at, crashes, quiet, say
        self.now, self.offset = BEGIN, 0
        self.clocks = random.Random(f"clocks of {seed}")
        self.points = 0
        self.counts: Counter[str] = Counter()
        self.trail: deque[str] = deque(maxlen=20)
        self.faults = not quiet
        self.book: Book | None = None
        self.checks = self.checkers(self)
        self.instruments = {
            symbol: Instrument(symbol=symbol, price_increment="0.01", quantity_increment="0.001", min_quantity="0.01")
            for symbol in self.plan.symbols
        }
        self.least = dict.fromkeys(self.plan.symbols, 10)
        self.markets = {symbol: Market(symbol, self.rng) for symbol in self.plan.symbols}
        self.believed: dict[str, list[tuple[int, bool]]] = {symbol: [] for symbol in self.plan.symbols}
        """(price, late) of each tick that a book has taken."""
        meta = {
            "format": FORMAT,
            "fills": self.plan.fills.to_dict(),
            "poll_ns": self.plan.poll,
            "outlier": self.plan.outlier,
        }
        self.journal = Archive(meta, self._hook)
        self.journal.id = f"seed{seed}"
        self.exchange: Any = self.exchanges(self)
        self.cut = False
        """The feed is down."""
        self.deaf = False
        """What the exchange reports by itself does not come through."""
        self.keys = 0
        self.happened = 0
        self.resuming = False

    # ------------------------------------------------------------------------------------------------ chance

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def chance(self, share: float) -> bool:
        return self.faults and self.rng.random() < share

    def fault(self, where: str, **weights: int) -> str:
        """One of the faults by weight, or none."""
        if not self.chance(self.plan.fault_rate):
            return ""
        names = [name for name, weight in weights.items() for _ in range(weight)]
        name = self.rng.choice(names)
        self.counts[f"fault: {where} {name}"] += 1
        self.note(f"  fault: {where} {name}")
        return name

    def point(self, site: str) -> None:
        """Here the process can be killed."""
        self.points += 1
        rate = self.plan.crash_rate * (5 if "cancel" in site else 1)  # of which there are few
        dies = self.points == self.kill_at if self.kill_at else self.crashes and self.chance(rate)
        if dies:
            self.counts[f"crash: {site}{' on resuming' if self.resuming else ''}"] += 1
            self.note(f"  killed: {site}")
            raise Crash(site)
        if site == "before append" and self.crashes and self.chance(self.plan.crash_rate / 4):
            self.counts["fault: disk full"] += 1
            self.note("  the disk is full")
            raise DiskFull("no room")

    def _hook(self, moment: str) -> None:
        if moment == "after append":
            entries, events = self.journal.given
            self.journal.all_entries += entries
            if self.say:
                for kind, body in entries:
                    self.note(f"    {kind} {body[:150]!r}")
            self.checks.committed(entries, events)
        self.point(moment)

    def note(self, text: str) -> None:
        self.trail.append(text)
        if self.say:
            print(f"{(self.now - BEGIN) / 1e9:9.3f} {text}")

    # ------------------------------------------------------------------------------------------------ time

    def clock(self) -> int:
        return self.now + self.offset

    def market_clock(self) -> int:
        return self.now if self.plan.exchange_clock else 0

    def pass_time(self, ns: int) -> None:
        """Markets move, requests arrive."""
        end = self.now + ns
        pace = 1 if ns < 20 * SECOND else 6
        wire = self.exchange.wire
        while True:
            market = min(self.markets.values(), key=lambda market: market.next)
            arrival = wire[0][0] if wire else NEVER
            if min(market.next, arrival) > end:
                break
            if arrival < market.next:
                self.now = arrival
                self.exchange.arrive()
                continue
            self.now = market.next
            self._trade(market)
            market.next += self.rng.randint(1, 700 * pace) * MS
        self.now = end

    def _trade(self, market: Market) -> None:
        rng = self.rng
        if rng.random() < 0.02:
            market.trend = rng.uniform(-0.0015, 0.0015)
        market.price = max(50, round(market.price * (1 + market.trend + rng.gauss(0, 0.0012))))
        if rng.random() < 0.01:
            market.price = max(50, round(market.price * (1 + rng.choice([-0.015, 0.015]))))
        self.print_tick(market)

    def print_tick(self, market: Market) -> None:
        """A trade at the price, and sometimes a print that never was."""
        size = self.rng.randint(1, 4000) / 1000
        market.tape.append((self.now, market.price, size, True))
        market.lowest, market.highest = min(market.lowest, market.price), max(market.highest, market.price)
        self.exchange.market(market.symbol, len(market.tape), self.now, market.price, size)
        market.wick -= 1
        if self.chance(0.02):
            self._wick(market)

    def _wick(self, market: Market) -> None:
        if self.plan.outlier and len(market.tape) > 3 and market.wick < 0:
            market.tape.append(
                (self.now, market.price * 2 if self.rng.random() < 0.5 else market.price // 2, 1.0, False)
            )
            market.wick = 5
            self.count("fault: wick")

    def _wick_first(self) -> None:
        """The first print that a process sees is not always a good one."""
        for market in self.markets.values():
            if self.chance(0.3) and market.fed == len(market.tape):
                self._wick(market)

    def extremes(self, symbol: str) -> tuple[int, int]:
        market = self.markets[symbol]
        return market.lowest, market.highest

    def real_ticks(self, symbol: str) -> list[tuple[int, int]]:
        return [(ts, price) for ts, price, _, real in self.markets[symbol].tape if real]

    # ------------------------------------------------------------------------------------------------ what happens

    def run(self, steps: int) -> None:
        """All of it. Raises Violation."""
        try:
            self._do(self._started)
            for _ in range(steps):
                self._do(self._choose())
                self._do(self._meanwhile())
            self.settle()
        except Violation:
            raise
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise Violation(
                "error", f"{type(error).__name__}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
            ) from error

    def _meanwhile(self) -> Callable[[], object]:
        """What happens beside."""
        return self.hear if self.rng.random() < 0.6 else self.timer

    def close(self) -> None:
        """Nothing more happens."""

    def _do(self, work: Callable[[], object], again: bool = False) -> None:
        """Something happens; if the process dies of it, it is started again, as often as it takes. `again`: then it is tried again."""
        self.happened += 1
        while True:
            try:
                if self.book is None:
                    self.start()
                work()
                assert self.book is not None
                self.checks.step(self.book)
                return
            except (Crash, DiskFull):
                self._died()
                self.count("crashes")
                if not self.quiet:
                    self._wick_first()
                    self.pass_time(self.rng.choice([50 * MS, 500 * MS, 3 * SECOND, self.rng.randint(1, 100) * SECOND]))
                if not (again or self.quiet or self.rng.random() < 0.5):
                    work = self._started

    def _started(self) -> None:
        """Nothing else."""

    def _died(self) -> None:
        """What was in memory is lost."""
        self.book, self.resuming = None, False

    def _broker(self) -> Any:
        """What a book talks to."""
        return self.exchange

    def _reconciled(self, book: Book) -> None:
        """A book has been resumed: what was under way is known before it is given the ticks that it missed."""
        self.checks.reconciled(book)

    def _resumes(self, book: Book) -> None:
        """A broker that wants to know is told here."""

    def start(self) -> None:
        """A process starts on what is there."""
        self.note("start")
        if self.faults and self.clocks.random() < 0.2:
            self.offset += self.clocks.choice([-1, 1]) * self.clocks.choice([2 * SECOND, 3600 * SECOND, 10**6 * SECOND])
            self.count("fault: clock set")
            self.note(f"the clock is set, {self.offset / SECOND:+.0f} s")
        self.resuming = True
        self.cut = self.deaf = False
        self.exchange.reports.clear()
        self.checks.restarted()
        book = Book(self.journal, self._broker(), self.clock, self.market_clock, self._told)
        self.book = book  # the exchange asks it what is durable
        self._resumes(book)
        book.resume()
        self._reconciled(book)
        for symbol in self.plan.symbols:
            book.open_market(self.instruments[symbol])
            taken, market = book.markets[symbol], self.markets[symbol]
            market.fed = int(taken.token or 0)
            real = sum(real for *_, real in market.tape[: market.fed])
            self.checks.hold(
                taken.ticks == real or self.plan.poll,
                "L4",
                f"{symbol}: goes on after {real} ticks, {taken.ticks} are known",
            )
            del self.believed[symbol][taken.ticks :]
            if self.quiet:
                self.feed(symbol, upto=market.asked)
            else:
                self.feed(symbol, late=market.fed > 0)
        self.resuming = False

    def _told(self, number: int, events: np.ndarray) -> None:
        self.point("before telling")
        self.checks.tell(number, events)

    def feed(self, symbol: str, late: bool = False, upto: int | None = None) -> None:
        """The book is given what it has not been given yet."""
        book, market = self.book, self.markets[symbol]
        assert book is not None
        end = market.asked = len(market.tape) if upto is None else upto
        part = market.tape[market.fed : end]
        if not part:
            return
        if late:
            self.count("branch: late ticks")
        ticks = list(part)
        if self.chance(0.03) and market.fed > 3 and market.tape[market.fed - 3][0] < market.tape[market.fed - 1][0]:
            ticks = [market.tape[market.fed - 3], *ticks]
            self.count("fault: old tick")
        ts, price, size = (np.array([tick[n] for tick in ticks], np.float64 if n == 2 else np.int64) for n in range(3))
        self.note(f"feed {symbol} {part[0][1]}…{part[-1][1]} ({len(part)}{' late' if late else ''})")
        self.believed[symbol] += [(tick[1], late) for tick in part if tick[3]]
        market.fed = end
        book.feed(Block(symbol, ts, price, size, token=str(end), late=late))
        taken, real = book.markets[symbol].ticks, len(self.believed[symbol])
        self.checks.hold(taken == real or self.plan.poll, "L4", f"{symbol}: {taken} ticks were taken, {real} are real")

    def _choose(self) -> Callable[[], object]:
        """Time passes, and one thing is going to happen. All chance is in here, so that it can be tried again."""
        rng, book = self.rng, self.book
        assert book is not None
        self.pass_time(rng.randint(0, 900) * MS)
        draw = rng.random()
        if draw < 0.62 and not self.cut:
            symbol = rng.choice(self.plan.symbols)
            upto = len(self.markets[symbol].tape)
            return lambda: self.feed(symbol, upto=upto)
        if draw < 0.80:
            return self.timer
        if draw < 0.85:
            return self._place()
        if draw < 0.91:
            return self._act()
        if draw < 0.93:
            return self.compact if rng.random() < 0.3 else self.snapshot
        if draw < 0.94 and self.faults:
            self.exchange.cancel_something()
            return self._started
        if draw < 0.95:
            self.pass_time(rng.randint(2, 15) * SECOND)
            return self._started
        return self.trouble

    def timer(self) -> None:
        assert self.book is not None
        self.note("timer")
        self.book.timer()

    def hear(self) -> None:
        """What the exchange reports by itself."""
        reports = self.exchange.heard()
        if reports and not self.deaf and self.book is not None:
            self.note(f"hear {[(r.client_id, r.what.value, r.quantity) for r in reports]}")
            self.count("branch: reports heard")
            self.book.hear(reports)

    def trouble(self) -> None:
        """The feed or the reports break down, or come back."""
        assert self.book is not None
        if self.cut:
            self.cut = False
            self.note("the feed is back")
            self.book.notice(Notice("", "live", ""))
            for symbol in self.plan.symbols:
                self.feed(symbol, late=True)
        elif self.deaf:
            self.deaf = False
            self.note("the reports are back")
            self.book.refresh()
        elif self.chance(self.plan.gap_rate * 10):
            if self.rng.random() < 0.5 or not self.plan.live:
                self.cut = True
                self.count("fault: feed down")
                self.note("the feed is down")
                self.book.notice(Notice("", "stale", "no ticks"))
            else:
                self.deaf = True
                self.count("fault: reports lost")
                self.note("the reports are lost")

    def snapshot(self) -> None:
        assert self.book is not None
        self.note("snapshot")
        self.count("branch: snapshot")
        self.book.snapshot()

    def compact(self) -> None:
        assert self.book is not None
        self.note("compact")
        self.count("branch: compact")
        self.book.compact()

    # ------------------------------------------------------------------------------------------------ users

    def living(self) -> list[int]:
        assert self.book is not None
        book = self.book
        return [n for n, (symbol, trigger) in book.homes.items() if book.markets[symbol].desks[trigger].living(n)]

    def _place(self) -> Callable[[], object]:
        book = self.book
        assert book is not None
        if len(self.living()) >= 3 or len(book.specs) >= 14:
            return self._started
        self.keys += 1
        try:
            key, order, twice = f"key{self.keys}", self._order(), self.rng.random() < 0.2
        except SpecError:
            self.count("user: makes no sense")
            return self._started

        def place() -> None:
            assert self.book is not None
            self.note(f"place {order!r}")
            try:
                number = self.book.place(order, key=key)
                if twice:
                    self.checks.hold(self.book.place(order, key=key) == number, "keys", f"{key} is order {number}")
                    self.count("user: placed twice")
            except SpecError as error:
                self.note(f"  refused: {str(error)[:100]}")
                self.count("user: place SpecError")

        return place

    def _order(self) -> so.SmartOrder:
        rng = self.rng
        symbol = rng.choice(self.plan.symbols)
        price = self.markets[symbol].price / 100
        held = symbol == "C/B" and rng.random() < 0.4
        side = "sell" if held or rng.random() < 0.5 else "buy"
        s = 1 if side == "buy" or held else -1

        def near(share: float) -> str:
            return f"{price * (1 + s * share):.2f}"

        def away(share: float) -> str:
            return f"{s * share:+.2%}"

        kind = "held" if held else rng.choice(["market", "market", "limit", "stop", "stop limit", "trailing", "ladder"])
        entry = {
            "market": so.Entry.market(),
            "limit": so.Entry.limit(near(-rng.uniform(0.0, 0.006))),
            "stop": so.Entry.stop(near(0.003)),
            "stop limit": so.Entry.stop(near(0.003), near(0.004)),
            "trailing": so.Entry.trailing("0.3%"),
            "ladder": so.Entry.ladder([(near(-0.001), 40), (near(-0.004), 30), (near(-0.007), 30)]),
            "held": so.Entry.held(f"{price:.2f}"),
        }[kind]
        levels = [
            so.TakeProfit(target=away(share), size=size, kind=rng.choice(["market", "limit"]))
            for share, size in [(0.003, 30), (0.008, 30), (0.015, rng.choice([20, 40]))][: rng.randint(0, 3)]
        ]
        spec: dict[str, Any] = {"symbol": symbol, "side": side, "entry": entry, "take_profits": levels}
        size = rng.random()
        if size < 0.8 or held:
            spec["quantity"] = rng.choice(["0.5", "1.234", "2", "4.321"])
        else:
            spec["cost"] = rng.choice(["120", "333"])
        if rng.random() < 0.85 or not levels:
            stop: dict[str, Any] = {"target": away(-rng.uniform(0.004, 0.012))}
            if rng.random() < 0.2:
                stop["limit"], stop["emergency"] = away(-0.013), away(-0.016)
            elif rng.random() < 0.15:
                stop["timeout"], stop["emergency"] = "3s", away(-0.016)
            spec["stop_loss"] = stop
        if rng.random() < 0.5:
            spec["trailing_stop"] = {"callback_rate": "0.8%"} | (
                {"activation": away(0.002)} if rng.random() < 0.5 else {}
            )
        if len(levels) > 1 and rng.random() < 0.5:
            spec["break_even"] = {"after": 1, "offset": rng.choice(["0%", "fees"])}
        if levels and rng.random() < 0.2:
            spec["trailing_take_profit"] = "0.3%"
        if rng.random() < 0.1:
            spec["max_hold"] = "60s"
        if rng.random() < 0.2 and not held:
            spec["entry_expiry"] = "30s"
        if levels and rng.random() < 0.15:
            spec["size_basis"] = "remaining"
        return so.SmartOrder(**spec)

    def _act(self) -> Callable[[], object]:
        rng, book = self.rng, self.book
        assert book is not None
        orders = self.living()
        if not orders:
            return self._started
        number = rng.choice(orders)
        spec = book.spec(number)
        s = spec.direction
        price = self.markets[spec.symbol].price / 100
        kind = rng.choice(
            [
                "open_now",
                "edit",
                "edit",
                "edit",
                "add_funds",
                "reduce_funds",
                "take_profit",
                "stop_out",
                "close_at_market",
                "cancel",
            ]
        )
        details: dict[str, Any] = {}
        if kind == "edit":
            changes = rng.choice(
                [
                    {"stop_loss": f"{price * (1 - s * rng.uniform(-0.001, 0.01)):.2f}"},
                    {"trailing_stop": rng.choice(["0.5%", "1%", None])},
                    {"take_profits": [(f"{price * (1 + s * rng.uniform(-0.001, 0.01)):.2f}", 50)]},
                    {"break_even": bool(rng.random() < 0.5)},
                    {"entry_expiry": "40s"},
                    {"max_hold": "90s"},
                    {"entry": {"kind": "limit", "price": f"{price * (1 - s * 0.002):.2f}"}},
                    {"quantity": "1.5"},
                ]
            )
            details = {"changes": changes}
        elif kind in ("add_funds", "reduce_funds"):
            details = {"quantity": rng.choice(["0.1", "0.4", "1"])}
            if rng.random() < 0.4:
                away = -0.001 if kind == "add_funds" else 0.002
                details["price"] = f"{price * (1 + s * away):.2f}"
        elif kind == "take_profit":
            details = {"level": rng.randint(1, 3)}
        version = rng.choice([None, None, book.version(number), max(0, book.version(number) - 1)])
        force, before = rng.random() < 0.2, self.checks.actions

        def act() -> None:
            assert self.book is not None
            if self.quiet and self.checks.actions > before:
                return
            now = self.book.version(number)
            self.note(f"act {number} {kind} {details} version {version} of {now}")
            try:
                self.book.act(number, kind, version=version, force=force, **details)
                self.count(f"user: {kind}")
                self.checks.hold(
                    version in (None, now), "stale", f"order {number}: version {version} of {now} was taken"
                )
            except StoreError:
                raise
            except SmartOrdersError as error:
                self.note(f"  refused: {str(error)[:100]}")
                self.count(f"user: {type(error).__name__}")

        return act

    # ------------------------------------------------------------------------------------------------ the end

    def settle(self) -> None:
        """No more faults: everything comes to its end, and book, exchange and journal agree."""
        self.note("---- no more faults")
        self.faults, self.crashes = False, False
        self._do(self._reconnect, again=True)
        self._wait(*self.calm)
        self._do(self._all_known, again=True)
        for share in (0.4, 2.5):
            self._drive(share)
            self._wait(16, 20 * SECOND)
        self._do(self._no_stop_passed, again=True)
        orders, before = self.living(), self.checks.actions
        self._do(lambda: self._close(orders[self.checks.actions - before :]), again=True)
        self._wait(16, 20 * SECOND)
        self._do(self._over, again=True)

    def _reconnect(self) -> None:
        assert self.book is not None
        if self.cut or self.deaf:
            self.cut = self.deaf = False
            for symbol in self.plan.symbols:
                self.feed(symbol, late=True)
            self.book.refresh()

    def _wait(self, times: int, ns: int) -> None:
        """Time passes while prices stand still."""
        for _ in range(times):
            self._stand_still(ns)
            self._do(self._look, again=True)

    def _stand_still(self, ns: int) -> None:
        end = self.now + ns
        while self.exchange.wire and self.exchange.wire[0][0] <= end:
            self.now = max(self.now, self.exchange.wire[0][0])
            self.exchange.arrive()
        self.now = end
        for market in self.markets.values():
            self.print_tick(market)
            market.next = self.now + 100 * MS

    def _look(self) -> None:
        """The book is given all there is."""
        for symbol in self.plan.symbols:
            self.feed(symbol)
        self.timer()
        self.hear()

    def _all_known(self) -> None:
        assert self.book is not None
        for (order, child), job in self.book.jobs.items():
            waits = job.state in (State.SUBMITTING, State.UNKNOWN)
            self.checks.hold(not waits, "L3", f"order {order}, child {child} is {job.state}")

    def _drive(self, share: float) -> None:
        """Prices go where every stop of one side lies."""
        for market in self.markets.values():
            end = round(market.price * share)
            while market.price != end:
                step = max(1, market.price // 40)
                market.price = max(end, market.price - step) if end < market.price else min(end, market.price + step)
                self.now += 300 * MS
                for other in self.markets.values():
                    self.print_tick(other)
                    other.next = self.now + 100 * MS
        self._do(self._look, again=True)

    def _no_stop_passed(self) -> None:
        assert self.book is not None
        for number in self.living():
            symbol, trigger = self.book.homes[number]
            row = self.book.markets[symbol].desks[trigger].row(number)
            x = int(row.side) * self.markets[symbol].price
            held = int(row.entered - row.exited)
            stop = max(int(row.stop_x), int(row.even_x), int(row.trail_x))
            waits = int(row.retry) == NEVER or int(row.exit_limit)  # for the user, or as a stop-limit that rests
            self.checks.hold(
                held == 0 or waits or x > stop, "L2", f"order {number} lives at {x}, its stop is {stop} (mirrored)"
            )
            self.checks.hold(not row.closing or waits, "L1", f"order {number} still leaves")

    def _close(self, orders: Sequence[int]) -> None:
        assert self.book is not None
        for number in orders:
            row = self.book.rows(number)[0][0]
            with suppress(ActionRefused):  # it is being cancelled already
                self.book.act(number, "close_at_market" if row["bought"] else "cancel")

    def _over(self) -> None:
        book = self.book
        assert book is not None
        living = [(n, Status(int(book.rows(n)[0]["status"][0])).name) for n in self.living()]
        poor = self.plan.balances is not None
        self.checks.hold(not living or poor, "L3", f"orders {living} are not over")
        if not living:
            open_jobs = [key for key, job in book.jobs.items() if job.open]
            self.checks.hold(not open_jobs, "L3", f"children {open_jobs} are not over")
            working = self.exchange.working()
            self.checks.hold(not working, "I7", f"{working} still work at the exchange")
        self.checks.same_as_exchange(book)
        self.checks.whole_tape()
        self._again(book)

    def _again(self, book: Book) -> None:
        """The journal leads here again: from its last snapshot, or from its very beginning, each in every other seed."""
        book.flush()
        book.catch_up()
        whole = self.seed % 2 == 0
        journal, exchange = self._copy(whole)
        other = Book(journal, exchange, self.clock, self.market_clock)  # type: ignore[arg-type]
        other.resume()
        other.catch_up()
        what = "from the beginning" if whole else "from the last snapshot"
        self.checks.hold(journal.changes == self.journal.changes, "I10", f"{what}: {journal.changes} events")
        for number in book.specs:
            self.checks.hold(bare(book, number) == bare(other, number), "I10", f"{what}: order {number} differs")

    def _copy(self, whole: bool) -> tuple[MemoryJournal, Any]:
        journal = MemoryJournal(self.journal.meta)
        journal.id, journal.last, journal.changes = self.journal.id, self.journal.last, self.journal.changes
        journal._keys = set(self.journal._keys)
        journal._events = [np.concatenate(self.journal._events)]
        if whole:
            journal._entries = [(n, *entry) for n, entry in enumerate(self.journal.all_entries, 1)]
        else:
            journal._entries, journal._snapshots = list(self.journal._entries), list(self.journal._snapshots)
            journal._finished = dict(self.journal._finished)
        return journal, self._mute()

    def _mute(self) -> Any:
        """An exchange as it stands, that a second book can talk to without harm."""
        ledger = self.exchange.ledger
        seen, ledger.seen = ledger.seen, None
        other = copy.deepcopy(ledger)
        ledger.seen = seen
        other.request_expiry_ns, other.visibility_lag_ns = self.plan.expiry, self.plan.lag
        return other

    def digest(self) -> str:
        """Of all that was noted and all that happened."""
        found = hashlib.sha256()
        for kind, body in self.journal.all_entries:
            found.update(kind.encode() + b"\0" + body + b"\0")
        events = np.concatenate(self.journal._events)
        for name in EVENT.names or ():
            found.update(np.ascontiguousarray(events[name]).tobytes())
        return found.hexdigest()[:16]


_PLACES = ("leg", "end", "exits", "level_slots", "cursor")
"""Where rows lie in their tables, which a snapshot packs anew."""


def bare(book: Book, number: int) -> tuple[Any, ...]:
    row, legs = book.rows(number)
    return [row[name].tolist() for name in row.dtype.names if name not in _PLACES], legs.tolist()  # type: ignore[return-value]
