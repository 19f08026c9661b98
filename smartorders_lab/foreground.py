"""A session run from a shell: placed, shown and told until a signal or its end, then left so that the next start goes on with it.

On a terminal it is a table that is drawn again as it moves; anywhere else each change is a line, or with `as_json` a JSON line.
The log gets all of that as JSON lines: ts, level, event, session, order and what belongs to it; of a change, `at` is its time on the
exchange and `nth` the level of the ladder.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .cli import _console, _say, _UsageError
from .errors import PlanError, Problem, SmartOrdersError
from .keys import scrub
from .screen import OVER, change_line, pairs_line, screen

if TYPE_CHECKING:
    from .paper_plan import PaperPlan
    from .serve import Server
    from .session import Session

AT_ONCE = 130
"""Exit code of a second Ctrl-C, which waits for nothing."""
REDRAW_S = 0.25
"""How often the table is drawn again at most."""
_BUSY = 20
"""Of so many parts of the time, the table may cost the session one."""
_PAGE = 1000

log = logging.getLogger(__name__)


def run(
    session: Session,
    wanted: PaperPlan,
    stop: Stop,
    before: int | None,
    serve: bool,
    until_end: bool,
    as_json: bool,
) -> None:
    """Place what is wanted, let go, and show what happens until it is over."""
    path = wanted.store
    assert path is not None
    dry = hasattr(session.broker, "on_request")
    looks = sys.stdout.isatty() and not as_json and not dry
    teller = _Teller(session, as_json, looks, before or 0)
    stop.wake, stop.running = teller.news.set, True
    with ExitStack() as stack:
        if dry:
            session.broker.on_request(teller.request)
        placed = _place(session, wanted, path)
        url = stack.enter_context(_server(session, path)).url if serve else None
        event = "begun" if before is None else "resumed"
        teller.status(event, orders=len(session.book.specs), placed=placed, store=str(path), url=url)
        for note in session.journal.notes:
            _say("warning", note)
        teller.begin()
        if hasattr(session.feed, "play"):
            session.feed.play()
        screen = stack.enter_context(_Screen(session)) if looks else None
        while not (stop.asked or session.status == "stopped"):
            teller.news.wait(screen.wait if screen else 1.0)
            teller.news.clear()
            if screen:
                screen.draw()
            teller.tell()
            if until_end and (session.status == "ended" or not teller.living):
                break
    session.close()
    teller.tell()
    if session.error is not None:
        log.error("failed: %s", session.error, extra={"data": {"event": "failed", "session": session.id}})
        raise session.error
    teller.status("stopped", orders=len(session.book.specs))
    if looks:
        print(f"stopped; the same command goes on with it, smartorders orders {path} shows it")


def _place(session: Session, wanted: PaperPlan, path: Path) -> int:
    """Place what has not been placed, all of it or nothing; returns how many that were."""
    from .lower import check

    problems = []
    for key, order in wanted.orders:
        number = session.book.keys.get(key)
        if number is None:
            market = session.feed.instrument(order.symbol)
            problems += [
                Problem(f"{key}.{p.path}", p.value, p.rule, p.fix) for p in check(order, market) if p.level == "error"
            ]
        elif session.book.specs[number] != order:
            rule = f"says something else than when it was placed, as order {number}"
            fix = f"change that one with smartorders edit {path} {number} FIELD=VALUE, or write a new [[orders]] below the last"
            problems.append(Problem(key, None, rule, fix))
    if problems:
        raise PlanError(problems)
    fresh = [pair for pair in wanted.orders if pair[0] not in session.book.keys]
    for key, order in wanted.orders:
        session.place(order, key)
    return len(fresh)


def _server(session: Session, path: Path) -> Server:
    try:
        from .serve import Server, discovery_path
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; or pass --no-serve, then nothing can be done to its orders") from None
    return Server(session, discovery=discovery_path(path))


class Stop:
    """Signals: before the session runs they interrupt, then the first one asks it to stop and the second does not wait."""

    def __init__(self) -> None:
        self.asked = self.running = False
        self.wake: Callable[[], None] = lambda: None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):  # nohup
                continue
            self._old[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, old in self._old.items():
            signal.signal(number, old)

    def _take(self, number: int, frame: object) -> None:
        if self.asked:
            if sys.stdout.isatty():
                os.write(1, b"\x1b[?25h\n")  # the cursor, which a table hides
            os._exit(AT_ONCE)
        self.asked = True
        if not self.running:
            raise KeyboardInterrupt
        self.wake()


class _Teller:
    """Tells changes, each once and in order, from number `since` on: to the log, and unless `quiet` as lines on stdout."""

    def __init__(self, session: Session, as_json: bool, quiet: bool, since: int):
        self.session, self.as_json, self.quiet, self.since = session, as_json, quiet, since
        self.news = threading.Event()
        self.living: set[int] = set()
        self._changes: SimpleQueue[list[dict[str, Any]]] = SimpleQueue()
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._status = self._look()

    def begin(self) -> None:
        """Listen from now on, and tell what happened before that."""
        self.session.on_change(self._take)
        self.living = {order["order"] for order in self.session.state()["orders"] if order["status"] not in OVER}
        while page := self.session.changes(self.since, _PAGE):
            self._each(page)

    def status(self, event: str, **more: Any) -> None:
        """Tell how the session is."""
        session = self.session
        facts = {"session": session.id, "name": session.name, "mode": session.mode, "status": session.status, **more}
        self._status = self._look()
        self._out({"type": "session", "ts": _now(), "event": event, **facts}, event, facts)

    def request(self, request: Any) -> None:
        """A request that a dry run would send; may be called on any thread."""
        self._requests.put(request)
        self.news.set()

    def tell(self) -> None:
        """Tell what has happened since."""
        with suppress(Empty):
            while True:
                facts = self._requests.get_nowait().to_dict()
                facts = {"ts": _iso(facts.pop("ms")), **facts}
                line = {name: value for name, value in facts.items() if self.as_json or value not in ("", {}, -1)}
                self._out({"type": "request", **line}, "request", facts)
        look = self._look()
        if look != self._status and look[0] != "stopped":
            stale = ",".join(symbol for symbol, state in look[1] if state == "stale")
            self.status("status", stale=stale or None, halted=look[2] or None)
        with suppress(Empty):
            while True:
                self._each(self._changes.get_nowait())

    def _take(self, changes: list[dict[str, Any]]) -> None:
        self._changes.put(changes)
        self.news.set()

    def _each(self, changes: list[dict[str, Any]]) -> None:
        for change in changes:
            if change["seq"] > self.since:
                self.since = change["seq"]
                (self.living.discard if change["status"] in OVER else self.living.add)(change["order"])
                facts = {{"ts": "at", "level": "nth"}.get(name, name): value for name, value in change.items()}
                facts["session"] = self.session.id
                line = {"type": "change", **change} if self.as_json else change_line(change)
                self._out(line, change["kind"], facts)

    def _look(self) -> Any:
        markets, guard = self.session.book.markets, getattr(self.session.broker, "guard", None)
        states = sorted((symbol, market.state) for symbol, market in [*markets.items()])
        return self.session.status, states, "" if guard is None else guard.halted

    def _out(self, line: dict[str, Any] | str, event: str, facts: dict[str, Any]) -> None:
        worse = event == "alert" or facts.get("status") == "stale" or facts.get("halted")
        level = logging.WARNING if worse else logging.INFO
        log.log(level, event, extra={"data": {"event": event, **facts}})
        if self.quiet:
            return
        if isinstance(line, dict):
            named = {name: value for name, value in line.items() if name not in ("type", "ts")}
            line = json.dumps(line, ensure_ascii=False) if self.as_json else pairs_line(line["ts"], named)
        try:
            print(line, flush=True)
        except BrokenPipeError:  # who read it is gone; the orders are not
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Screen:
    """The table of a terminal. `wait`: seconds until it may be drawn again."""

    def __init__(self, session: Session):
        from rich.live import Live

        self.session = session
        self.console = _console()
        self.live = Live(console=self.console, auto_refresh=False, vertical_overflow="crop")
        self.wait = REDRAW_S
        self._due = 0.0
        self._shown: Any = None

    def __enter__(self) -> _Screen:
        self.live.start()
        self.draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._due = 0.0
        with suppress(SmartOrdersError):
            self.draw()
        self.live.stop()

    def draw(self) -> None:
        """Draw it, unless that was done just now."""
        now = time.monotonic()
        if now < self._due or self.session.status == "stopped":
            self.wait = max(self._due - now, 0.01)
            return
        state = self.session.state()
        took = time.monotonic() - now
        self.wait = max(REDRAW_S, _BUSY * took)
        self._due = time.monotonic() + self.wait
        if state != self._shown:
            self._shown = state
            self.live.update(screen(state, self.console.width, self.console.height), refresh=True)


# ---------------------------------------------------------------------------------------------------- the log


class _Lines(logging.Formatter):
    """Log records as JSON lines: ts, level, event, and what belongs to it."""

    def format(self, record: logging.LogRecord) -> str:
        ts = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        facts = {"ts": ts, "level": record.levelname.lower(), "event": "log", **getattr(record, "data", {})}
        if facts["event"] != record.getMessage():
            facts["message"] = record.getMessage()
        if record.exc_info:
            facts["error"] = self.formatException(record.exc_info)
        return scrub(json.dumps(facts, ensure_ascii=False, default=str))


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """What the library logs goes to a file, too."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise _UsageError(
            f"--log {path}: cannot be written: {error.strerror}; give a file in a folder of yours"
        ) from None
    handler.setFormatter(_Lines())
    ours = logging.getLogger(__package__)
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)
        handler.close()


def _now() -> str:
    return _iso(time.time() * 1000)


def _iso(ms: float) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
