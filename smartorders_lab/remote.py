"""Remote: a session that runs in another process of this machine, followed and steered from here.

    with connect("paper.duckdb") as session:
        session.orders()
        session.edit(3, stop_loss=97)
        session.on_event(print)

A thread of its own holds the connection. When it breaks it is made again, and the events go on where they stopped: each is
told once, in order, however slow the callbacks are. Every call waits for its answer, and errors are those of the session.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from html import escape
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import numpy as np

try:
    import aiohttp
except ImportError:
    raise ModuleNotFoundError("connecting needs the package aiohttp; pip install 'smartorders_lab[exchange]'") from None

from . import errors
from .errors import ActionRefused, LimitError, Problem, SmartOrdersError, SpecError, StoreError
from .fields import Distance
from .links import decode
from .listings import EVENTS, ORDERS, table
from .serve import MAX_MESSAGE, PAGE, PROTOCOL, find
from .session import Recent
from .spec import Part, SmartOrder
from .times import duration_ns, duration_text

if TYPE_CHECKING:
    import polars as pl

_FIRST_WAIT, _LONGEST_WAIT = 0.05, 5.0
_KEPT = 10_000
log = logging.getLogger(__name__)


def connect(target: str | Path, token: str | None = None, *, timeout: float = 10.0) -> Remote:
    """Follow and steer a session that another process serves.

    `target`: the path of its store, or its `http://127.0.0.1:port` with `token`. `timeout`: seconds that a call waits for its answer,
    also while the connection is being made again. Raises SmartOrdersError if there is no session, or if it refuses the token.
    """
    return Remote(target, token, timeout=timeout)


@dataclass
class _Command:
    """A command that is under way. `server`: the one that it was sent to, None if it was not sent yet."""

    ident: str
    text: str
    answer: Future[dict[str, Any]] = field(default_factory=Future)
    server: str | None = None


@dataclass
class _Listener:
    callback: Callable[[dict[str, Any]], None]
    since: int


class Remote:
    """A session in another process. Made by `connect()`; calls may come from any thread, also from a callback."""

    def __init__(self, target: str | Path, token: str | None = None, *, timeout: float = 10.0):
        self._target, self._token, self._timeout = target, token, timeout
        self._at: tuple[str, dict[str, str]] = ("", {})
        self._fault: SmartOrdersError | None = None
        self._session = self._server = ""
        self._connected = False
        self._seq = -1
        self._commands: dict[str, _Command] = {}
        self._ws: aiohttp.ClientWebSocketResponse | None = None
        self._http: aiohttp.ClientSession | None = None
        # what listeners have not been told yet: all changes above `_floor` that came; those below are asked for again
        self._news = threading.Condition()
        self._listeners: list[_Listener] = []
        self._waiting: deque[dict[str, Any]] = deque()
        self._floor = self._told = -1
        self._teller: threading.Thread | None = None
        self._closed = False

        first: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._closing, self._up = asyncio.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(first,), name="smartorders-remote", daemon=True)
        self._thread.start()
        try:
            first.result(timeout)
        except TimeoutError:
            self.close()
            raise SmartOrdersError(
                f"session: no answer within {timeout:g} s; see whether its process still runs"
            ) from None
        except BaseException:
            self.close()
            raise

    # What can be asked

    @property
    def connected(self) -> bool:
        """Whether the connection stands at the moment; it is made again by itself."""
        return self._connected

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    @property
    def id(self) -> str:
        """The session's id."""
        return self._session

    def state(self, orders: Iterable[int] | None = None) -> dict[str, Any]:
        """The session as it stands: `seq`, `session`, `mode`, `status`, `symbols`, `orders`, all of them or only these."""
        if orders is None:
            return self._get("/state")
        wanted = [int(oid) for oid in orders]
        found = self._get("/state", orders=",".join(map(str, wanted[:PAGE])))
        for begin in range(PAGE, len(wanted), PAGE):
            more = self._get("/state", orders=",".join(map(str, wanted[begin : begin + PAGE])))
            found = {**more, "orders": found["orders"] + more["orders"]}
        return found

    def recent(self, symbol: str, since: int = 0, trigger: str = "last") -> Recent:
        """The last ticks of a symbol that the session saw, from number `since` on; see `Session.recent`."""
        found = self._get("/ticks", symbol=symbol, since=str(since), trigger=trigger)
        return Recent(found["first"], np.array(found["ts"], np.int64), np.array(found["price"], np.float64))

    def orders(self) -> pl.DataFrame:
        """The orders as they stand, one row each; times in UTC, prices and amounts as float64."""
        return table(self.state()["orders"], ORDERS)

    def events(self, oid: int | None = None) -> pl.DataFrame:
        """What has happened to an order, or to all, from the beginning; one row each."""
        return table(self.changes(limit=None, order=oid), EVENTS)

    def changes(self, since: int = 0, limit: int | None = 1000, order: int | None = None) -> list[dict[str, Any]]:
        """What happened after change number `since`, in order, as plain data: the first `limit` changes, of one order or of all."""
        rows: list[dict[str, Any]] = []
        more = True
        while more and (limit is None or len(rows) < limit):
            query = {"since": str(since)} | ({} if order is None else {"order": str(order)})
            page = self._get("/changes", **query)
            rows += page["changes"]
            since, more = page["seq"], page["more"]
        return rows[:limit]

    def on_event(self, callback: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        """Have `callback` called with each change from now on, one after another on a thread for that; returns what ends it.

        It may take its time and give commands. What it raises is logged, and the next change comes all the same.
        """
        listener = _Listener(callback, 0)
        with self._news:
            listener.since = self._seq
            if not self._listeners:
                self._waiting.clear()
                self._floor = self._told = self._seq
            self._listeners.append(listener)
            if self._teller is None:
                self._teller = threading.Thread(target=self._tell, name="smartorders-events", daemon=True)
                self._teller.start()

        def unsubscribe() -> None:
            with self._news, suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    # What can be done

    def place(self, order: SmartOrder | dict[str, Any] | str) -> dict[str, Any]:
        """Place an order: a SmartOrder, its fields as a dict, or a share link. Raises SpecError before anything is sent."""
        spec = decode(order) if isinstance(order, str) else order
        if isinstance(spec, dict):
            spec = SmartOrder.from_dict(spec)
        if not isinstance(spec, SmartOrder):
            fix = "give a SmartOrder, its to_dict() or its share link"
            raise SpecError(Problem("order", order, "is not an order", fix))
        return self._command("place", spec=spec.to_dict())

    def edit(self, oid: int, *, version: int | None = None, force: bool = False, **changes: Any) -> dict[str, Any]:
        """Change fields of an order: `edit(3, stop_loss=97, break_even=True)`.

        `version`: that of the order when it was decided on; if it is another by now, the edit is refused. `force`: take it though it
        triggers at once.
        """
        return self._command("edit", order=oid, version=version, force=force, changes=changes)

    def add_funds(
        self, oid: int, *, quantity: Any = None, cost: Any = None, price: Any = None, version: int | None = None
    ) -> dict[str, Any]:
        """Buy more, by quantity or cost; at market, or with a limit at `price`."""
        return self._command("add_funds", order=oid, quantity=quantity, cost=cost, price=price, version=version)

    def reduce_funds(self, oid: int, *, quantity: Any, price: Any = None, version: int | None = None) -> dict[str, Any]:
        """Sell some; at market, or with a limit at `price`."""
        return self._command("reduce_funds", order=oid, quantity=quantity, price=price, version=version)

    def take_profit(self, oid: int, *, level: int, version: int | None = None) -> dict[str, Any]:
        """Sell now what level `level` (1 is TP1) would sell, as if its price had been reached."""
        return self._command("take_profit", order=oid, level=level, version=version)

    def open_now(self, oid: int, *, version: int | None = None) -> dict[str, Any]:
        """Stop waiting: enter the rest of the planned size at market."""
        return self._command("open_now", order=oid, version=version)

    def close_at_market(self, oid: int, *, version: int | None = None) -> dict[str, Any]:
        """Sell everything now."""
        return self._command("close_at_market", order=oid, version=version)

    def cancel(self, oid: int, *, version: int | None = None) -> dict[str, Any]:
        """Stop managing; what is held stays."""
        return self._command("cancel", order=oid, version=version)

    def refresh(self, oid: int | None = None) -> dict[str, Any]:
        """Have the session ask its broker how an order, or everything, really stands."""
        return self._command("refresh", order=oid)

    def share(self, oid: int) -> dict[str, Any]:
        """The share link of an order."""
        return self._command("share", order=oid)

    def halt(self, why: str = "halted") -> list[dict[str, Any]]:
        """Have it send nothing to the exchange any more, until `release`; returns the orders that still live."""
        return list(self._command("halt", why=why)["orders"])

    def release(self) -> None:
        """Have it send to the exchange again."""
        self._command("release")

    def orphans(self, cancel: bool = False) -> list[dict[str, Any]]:
        """Orders at the exchange that bear the session's ids and that no smart order owns; with `cancel` they are taken back."""
        return list(self._command("orphans", cancel=cancel)["orders"])

    def close(self) -> None:
        """Let go of the session, which goes on. Calls that still wait raise SmartOrdersError."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._closing.set)
        for thread in (self._thread, self._teller):
            if thread is not None and thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        how = "closed" if self._closed else "connected" if self._connected else "not connected"
        return f"Remote({self._at[0]}, session {self._session}, {how})"

    def _repr_html_(self) -> str:
        from .listings import picture

        state: dict[str, Any] = {"symbols": {}, "orders": []}
        if self._connected and not self._closed:
            with suppress(SmartOrdersError):  # it has gone this very moment
                state = self.state()
        prices = [
            f"{symbol} {market.get('price') or market.get('mark') or '–'}"
            for symbol, market in state["symbols"].items()
        ]
        if "mode" not in state:
            return f"<div>{escape(repr(self))}</div>"
        mode = {"paper": "paper", "dry": "dry run, nothing is sent"}.get(
            state["mode"], f"{state['mode'].upper()}, real money"
        )
        return picture(
            " · ".join([f"Session {state['name']}", "in another process", mode, state["status"], *prices]),
            state["orders"],
        )

    # The connection

    def _run(self, first: Future[None]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main(first))

    async def _main(self, first: Future[None]) -> None:
        limits = aiohttp.ClientTimeout(total=self._timeout)
        async with aiohttp.ClientSession(timeout=limits, trust_env=False) as self._http:
            follow = asyncio.create_task(self._stay(first))
            await self._closing.wait()
            follow.cancel()
            await asyncio.gather(follow, return_exceptions=True)

    async def _stay(self, first: Future[None]) -> None:
        """Keep the connection up until the end."""
        wait = _FIRST_WAIT
        while True:
            self._fault = await self._follow(first)
            if not first.done():
                first.set_exception(self._fault)
                return
            wait = _FIRST_WAIT if self._connected else min(2 * wait, _LONGEST_WAIT)
            self._connected, self._ws = False, None
            self._up.clear()
            await asyncio.sleep(wait)

    async def _follow(self, first: Future[None]) -> SmartOrdersError:
        """One connection, from its beginning to its end; returns why it ended."""
        try:
            url, headers = self._at = _address(self._target, self._token)
        except SmartOrdersError as error:
            return error
        assert self._http is not None
        query = {} if self._seq < 0 else {"since": str(self._seq), "session": self._session}
        status, closing = 0, aiohttp.ClientWSTimeout(ws_close=1.0)
        try:
            async with self._http.ws_connect(
                f"{url}/stream", params=query, headers=headers, max_msg_size=0, heartbeat=30.0, timeout=closing
            ) as ws:
                async for message in ws:
                    if message.type is aiohttp.WSMsgType.TEXT:
                        await self._take(json.loads(message.data), ws, first)
        except aiohttp.WSServerHandshakeError as error:
            status = error.status
        except SmartOrdersError as error:
            return error
        except (aiohttp.ClientError, OSError, ValueError, KeyError, TypeError):
            status = -1
        # raised or kept, aiohttp's own error would carry the request with the token in it
        if status == 401:
            return SmartOrdersError(f"token: is not the one of the session at {url}; take it from the discovery file")
        if status > 0:
            return SmartOrdersError(
                f"{url}: refused the stream with HTTP status {status}; is it a session of this version?"
            )
        return SmartOrdersError(f"{url}: no session answers; see whether its process still runs")

    async def _take(self, message: dict[str, Any], ws: aiohttp.ClientWebSocketResponse, first: Future[None]) -> None:
        kind = message["type"]
        if kind in ("snapshot", "resume"):
            if message["protocol"] != PROTOCOL:
                raise SmartOrdersError(
                    f"protocol = {message['protocol']}: this library speaks {PROTOCOL}; install the version of the session"
                )
            self._server = message["server"]
            if kind == "snapshot":
                with self._news:
                    if self._session not in ("", message["session"]):
                        log.warning(
                            "session %s took the place of %s; its events are told from here on",
                            message["session"],
                            self._session,
                        )
                    self._session = message["session"]
                    self._seq = self._floor = self._told = message["state"]["seq"]
                    self._waiting.clear()
                    for listener in self._listeners:
                        listener.since = -1
            self._ws, self._connected = ws, True
            for command in list(self._commands.values()):
                await self._send(command)
            self._up.set()
            if not first.done():
                first.set_result(None)
        elif kind == "changes":
            with self._news:
                self._seq = message["changes"][-1]["seq"]
                if self._listeners:
                    self._waiting += message["changes"]
                while len(self._waiting) > _KEPT:
                    self._floor = self._waiting.popleft()["seq"]
                self._news.notify_all()
        elif kind == "answer":
            waiting = self._commands.pop(message["id"], None)
            if waiting is not None and not waiting.answer.done():
                waiting.answer.set_result(message)

    async def _send(self, command: _Command) -> None:
        """Send a command, or send it again, which does no harm to the same server: it knows the id."""
        if self._ws is None:
            return
        if command.server not in (None, self._server):
            self._commands.pop(command.ident, None)
            if not command.answer.done():
                command.answer.set_exception(
                    SmartOrdersError(
                        "command: the session was restarted before it answered; whether it was carried out, its events say"
                    )
                )
            return
        command.server = self._server
        with suppress(ConnectionError, aiohttp.ClientError):
            await self._ws.send_str(command.text)

    def _command(self, name: str, **arguments: Any) -> dict[str, Any]:
        ident = uuid4().hex
        given = {key: _plain(key, value) for key, value in arguments.items() if value is not None}
        text = json.dumps({"type": "command", "id": ident, "name": name, "arguments": given}, allow_nan=False)
        if len(text) > MAX_MESSAGE:
            raise LimitError(f"{name}: {len(text)} characters are more than {MAX_MESSAGE} (MAX_MESSAGE); send less")
        command = _Command(ident, text)
        message = self._wait(self._give(command), command)
        if not message["ok"]:
            raise raised(message["error"])
        result: dict[str, Any] = message["result"]
        return result

    async def _give(self, command: _Command) -> dict[str, Any]:
        self._commands[command.ident] = command
        try:
            await self._send(command)
            return await asyncio.wrap_future(command.answer)
        finally:
            self._commands.pop(command.ident, None)

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        found: dict[str, Any] = self._wait(self._fetch(path, query))
        if found.get("ok") is False:
            raise raised(found["error"])
        return found

    async def _fetch(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        assert self._http is not None
        while True:
            await self._up.wait()
            url, headers = self._at
            with suppress(aiohttp.ClientError, OSError, ValueError):
                async with self._http.get(f"{url}{path}", params=query, headers=headers) as response:
                    found: dict[str, Any] = await response.json()
                    if response.status != 401:  # another server has the port by now; the stream will find its way
                        return found
            await asyncio.sleep(_FIRST_WAIT)

    def _wait(self, work: Any, command: _Command | None = None) -> Any:
        """The outcome of `work` on the loop. Raises SmartOrdersError if it takes too long or if this is closed meanwhile."""
        over = SmartOrdersError("session: this connection is closed; connect again")
        if self._closed or not self._thread.is_alive():
            work.close()
            raise over
        try:
            task = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # closed this very moment
            work.close()
            raise over from None
        closed = False
        try:
            return task.result(self._timeout)
        except TimeoutError:
            task.cancel()
        except CancelledError:
            closed = True
        except BaseException:  # Ctrl-C, or what the coroutine raised
            task.cancel()
            raise
        if closed:
            raise over
        why = "" if self._connected or self._fault is None else f" ({self._fault})"
        unsure = "; it may still be carried out, its events say" if command is not None and command.server else ""
        raise SmartOrdersError(
            f"session: no answer within {self._timeout:g} s{why}{unsure}; try again, or give a longer timeout="
        )

    # The listeners

    def _tell(self) -> None:
        """Tell the listeners what comes; what they were too slow for is asked for again."""
        while True:
            with self._news:
                while not self._closed and self._told >= self._seq:
                    self._news.wait()
                if self._closed:
                    return
                told = self._told
                behind = told < self._floor
                until = self._floor if behind else self._seq
                batch = [change for change in self._waiting if change["seq"] > told]
                if not behind:
                    self._waiting.clear()
                    self._floor = until
            if behind:
                try:
                    batch = self._get("/changes", since=str(told), limit=str(PAGE))["changes"]
                except SmartOrdersError as error:
                    log.warning("events after %d could not be read yet: %s", told, error)
                    with self._news:
                        self._news.wait_for(lambda: self._closed, 1)
                    continue
            for change in batch:
                with self._news:
                    if self._closed:
                        return
                    if self._told != told:  # another session took the place of this one
                        break
                    told = self._told = change["seq"]
                    listeners = [listener for listener in self._listeners if listener.since < told]
                for listener in listeners:
                    try:
                        listener.callback(change)
                    except Exception:
                        log.exception("a listener failed on change %d", told)
            with self._news:
                if not batch and self._told == told:  # nobody was there to be told, or the numbers have a hole
                    self._told = until


def raised(described: dict[str, Any]) -> SmartOrdersError:
    """The error that a session has described, of the same class."""
    kind = getattr(errors, str(described["class"]), SmartOrdersError)
    if not (isinstance(kind, type) and issubclass(kind, SmartOrdersError)):
        kind = SmartOrdersError
    error: SmartOrdersError = kind.__new__(kind)
    error.args = (described["message"],)
    if isinstance(error, ActionRefused):
        error.reason = described.get("reason", "")
    if isinstance(error, SpecError):
        error.problems = [Problem(**problem) for problem in described.get("problems", [])]
    return error


def _plain(path: str, value: Any) -> Any:
    """A value of a command as JSON has it. Raises SpecError."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, (float, Decimal, Distance)):
        return str(value)
    if isinstance(value, Part):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(key): _plain(f"{path}.{key}", part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(f"{path}[{n}]", part) for n, part in enumerate(value)]
    if isinstance(value, np.generic):
        return _plain(path, value.item())
    if isinstance(value, timedelta):
        return duration_text(duration_ns(value))
    raise SpecError(Problem(path, value, "cannot be sent", "use text, numbers, and parts of an order"))


def _address(target: str | Path, token: str | None) -> tuple[str, dict[str, str]]:
    """Where a session is and what to show there. Raises SmartOrdersError."""
    text = str(target)
    if "://" not in text:
        found = find(target)
        if not found["alive"]:
            raise StoreError(
                f"{text}: the session of {found['started']} is gone without a word (process {found['pid']}); start it again"
            )
        text, token = found["url"], token or found["token"]
    at = urlsplit(text)
    token = token or next(iter(parse_qs(at.query).get("token", [])), None)
    host = f"[{at.hostname}]" if ":" in (at.hostname or "") else at.hostname
    if at.scheme not in ("http", "ws") or host not in ("127.0.0.1", "localhost", "[::1]"):
        where = f"{at.scheme}://{host}"
        raise SmartOrdersError(
            str(Problem("target", where, "must be http:// and an address of this machine", "use a tunnel (ssh -L)"))
        )
    if not token:
        raise SmartOrdersError("token: is needed with an address; give token=, or the path of the store instead")
    return f"http://{host}:{at.port or 80}", {"Authorization": f"Bearer {token}"}
