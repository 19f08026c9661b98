"""Serve: a session's changes and commands for other processes of this machine, over 127.0.0.1.

    with Server(session, discovery=discovery_path("paper.duckdb")) as server:
        ...                                   # elsewhere: so.connect("paper.duckdb")

`docs/stream.md` is the protocol: a WebSocket `/stream` and plain `/state`, `/changes`, `/command`. The server has a
thread and a loop of its own. Changes are read from the session and nowhere else: a callback only says that there are
some. So a client that falls behind costs no memory and no time of anybody: it goes on from the last change it was sent.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

try:
    from aiohttp import WSCloseCode, WSMsgType, web
except ImportError:
    raise ModuleNotFoundError("serving needs the package aiohttp; pip install 'smartorders_lab[exchange]'") from None

from . import errors
from .errors import (
    ActionError,
    ActionRefused,
    DataError,
    LimitError,
    Problem,
    SmartOrdersError,
    SpecError,
    StoreError,
    short,
)
from .times import instant_text

PROTOCOL = 1
"""Version of the messages."""
MAX_MESSAGE = 64 * 1024
"""Longest message or body that a client may send, in bytes."""
MAX_CLIENTS = 64
"""Streams that are open at once."""
MAX_OUTSTANDING = 32
"""Commands of one stream that are under way; no more are read from it until one is answered."""
MAX_ANSWERS = 10_000
"""Answers that are kept for commands that come twice."""
PAGE = 1000
"""Most changes that are asked of the session at once, and most that /changes answers with."""
_BATCH = 250
_KEPT = 10_000
_GRACE = 1.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_ORIGIN = re.compile(rf"https?://{_HOST.pattern}", re.IGNORECASE)

COMMANDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    name: (frozenset(required.split()), frozenset(optional.split()))
    for name, required, optional in (
        ("place", "spec", ""),
        ("edit", "order changes", "version force"),
        ("add_funds", "order", "quantity cost price version"),
        ("reduce_funds", "order quantity", "price version"),
        ("take_profit", "order level", "version"),
        ("open_now", "order", "version"),
        ("close_at_market", "order", "version"),
        ("cancel", "order", "version"),
        ("refresh", "", "order"),
        ("share", "order", ""),
        ("halt", "", "why"),
        ("release", "", ""),
        ("orphans", "", "cancel"),
    )
}
"""The commands: arguments that each needs, and others that it knows."""
SWITCHES = frozenset({"halt", "release", "orphans"})
"""Commands to a session with money, which are no turn of its book."""

log = logging.getLogger(__name__)
_silent = logging.getLogger(f"{__name__}.http")  # what aiohttp says of a broken request may quote it, token and all
_silent.disabled = True
_T = TypeVar("_T")


class Hub(Protocol):
    """What a server needs of a session. Everything may be called from any thread.

    `changes` and `state` show only what is committed; what a callback of `on_change` is told of can be read by then.
    """

    id: str

    def state(self, orders: Iterable[int] | None = None) -> dict[str, Any]:
        """A consistent snapshot: `seq`, `session`, `mode`, `status`, `symbols`, `orders`, all of them or only these."""

    def recent(self, symbol: str, since: int = 0, trigger: str = "last") -> Any:
        """The last ticks of a symbol, from number `since` on: `first`, `ts`, `price`. Raises DataError."""

    def changes(self, since: int, limit: int = 1000) -> list[dict[str, Any]]:
        """The first `limit` changes whose `seq` is above `since`, in order of `seq`."""

    def on_change(self, callback: Callable[[list[dict[str, Any]]], None]) -> Callable[[], None]:
        """Have `callback` called after every commit, with no changes where only the status is another; returns what ends it."""

    def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Carry out one of COMMANDS and wait until it is durable. Raises SmartOrdersError."""


def discovery_path(store: str | Path) -> Path:
    """Where a session on a store says how it can be reached: `<store>.session`."""
    path = Path(store)
    return path if path.suffix == ".session" else path.with_name(path.name + ".session")


def find(path: str | Path) -> dict[str, Any]:
    """How the session on a store can be reached: `url`, `token`, `pid`, `session`, `server`, `started`, and `alive`.

    `path`: the store, or its discovery file. `alive` is False if the process that wrote the file is gone without having
    removed it. Raises StoreError if there is no such file or if it is not one.
    """
    file = discovery_path(path)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not all(isinstance(found[name], str) for name in ("url", "token", "session", "server", "started")):
            raise TypeError
        return {**found, "alive": _runs(int(found["pid"]))}
    except FileNotFoundError:
        raise StoreError(f"{file}: no session is served on this store; start one, or check the path") from None
    except OSError as error:
        raise StoreError(f"{file}: cannot be read: {error.strerror}; it belongs to who runs the session") from None
    except (ValueError, KeyError, TypeError):
        raise StoreError(
            f"{file}: is not a discovery file of a session; remove it and start the session again"
        ) from None


def _runs(pid: int) -> bool:
    """Whether a process is there. Windows cannot be asked without harm, so there the connection has to tell."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Server:
    """Serves one session to processes of this machine. `start()` it and `close()` it, or use it in a `with`.

    `host`: a loopback address, nothing else. `port`: 0 takes a free one. `token`: 64 random hex digits unless given. `discovery`:
    where to write how to be reached (see `discovery_path`), readable by the owner alone. `heartbeat`: seconds between pings to a quiet
    client; `patience`: seconds after which a client that takes nothing is cut off. Raises SmartOrdersError.
    """

    def __init__(
        self,
        hub: Hub,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        *,
        discovery: str | Path | None = None,
        heartbeat: float = 15.0,
        patience: float = 60.0,
    ):
        if host not in _LOOPBACK:
            fix = "use 127.0.0.1, and a tunnel (ssh -L) from elsewhere"
            raise SmartOrdersError(str(Problem("host", host, "must be an address of this machine alone", fix)))
        if token is not None and len(token) < 16:
            raise SmartOrdersError("token: must have at least 16 characters; leave it out to get a random one")
        self._hub, self._host, self._port = hub, "127.0.0.1" if host == "localhost" else host, port
        self._token = token or secrets.token_hex(32)
        self._discovery = None if discovery is None else Path(discovery)
        self._heartbeat, self._patience = heartbeat, patience
        self.id = secrets.token_hex(8)
        """Of this server; another one after a restart."""
        self.url = ""
        """`http://127.0.0.1:port`, once started."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop, self._woken = asyncio.Event(), asyncio.Event()
        self._pending = self._status_due = False
        self._tail = _Tail()
        self._clients: set[_Client] = set()
        self._answers: OrderedDict[str, tuple[bytes, asyncio.Task[str]]] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._readers = ThreadPoolExecutor(2, "smartorders-serve-read")
        self._workers = ThreadPoolExecutor(8, "smartorders-serve-command")

    @property
    def token(self) -> str:
        """What a client has to show."""
        return self._token

    def __repr__(self) -> str:
        return f"Server({self.url or 'not started'}, session {self._hub.id})"

    def start(self) -> Self:
        """Listen, and write the discovery file. Raises SmartOrdersError if the port is taken."""
        if self._thread is not None:
            raise SmartOrdersError("start: this server was started before; make another Server")
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="smartorders-serve", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self._thread.join()
            raise
        return self

    def close(self) -> None:
        """Stop listening, tell the clients what is left to tell, and remove the discovery file. Twice does no harm."""
        if self._thread is not None and self._thread.is_alive() and self._loop is not None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # The thread

    def _run(self, ready: Future[None]) -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as error:
            if ready.done():
                log.exception("the server of session %s ended", self._hub.id)
            else:
                ready.set_exception(error)
        finally:
            for pool in (self._readers, self._workers):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _main(self, ready: Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_MESSAGE)
        app.router.add_get("/stream", self._stream)
        app.router.add_get("/state", self._get_state, allow_head=False)
        app.router.add_get("/changes", self._get_changes, allow_head=False)
        app.router.add_get("/ticks", self._get_ticks, allow_head=False)
        app.router.add_post("/command", self._post_command)
        runner = web.AppRunner(app, access_log=None, logger=_silent, shutdown_timeout=_GRACE)
        await runner.setup()
        unsubscribe = None
        pump: asyncio.Task[None] | None = None
        try:
            try:
                await web.TCPSite(runner, self._host, self._port).start()
            except OSError as error:
                what = Problem(
                    "port", self._port, f"cannot be listened on: {error.strerror}", "use another, or 0 for any"
                )
                raise SmartOrdersError(str(what)) from None
            port = runner.addresses[0][1]
            self.url = f"http://{f'[{self._host}]' if ':' in self._host else self._host}:{port}"
            unsubscribe = self._hub.on_change(self._notice)
            if self._discovery is not None:
                self._announce(self._discovery)
            pump = asyncio.create_task(self._pump())
            ready.set_result(None)
            await self._stop.wait()
        finally:
            if unsubscribe is not None:
                unsubscribe()
            self._withdraw()
            if pump is not None:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)
                await self._farewell()
            await runner.cleanup()

    async def _farewell(self) -> None:
        """Answer what is under way and send what is left, for a moment; then close every stream."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_GRACE)
        with suppress(Exception):
            async with asyncio.timeout(_GRACE):
                self._status_due = True
                await self._collect()
                while any(client.cursor < self._tail.last or client.note for client in self._clients):
                    await asyncio.sleep(0.01)
        closing = [asyncio.create_task(client.end(WSCloseCode.GOING_AWAY)) for client in self._clients]
        if closing:
            await asyncio.wait(closing)

    def _announce(self, path: Path) -> None:
        """Write the discovery file whole or not at all, readable by the owner from the first byte on."""
        session, started = self._hub.id, instant_text(time.time_ns())
        facts = {"protocol": PROTOCOL, "url": self.url, "token": self._token, "pid": os.getpid(), "session": session}
        draft = path.with_name(f"{path.name}.{secrets.token_hex(6)}.tmp")
        try:
            with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="utf-8") as file:
                json.dump(facts | {"server": self.id, "started": started}, file, indent=1)
            os.replace(draft, path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise StoreError(f"{path}: cannot be written: {error.strerror}; give another discovery=, or none") from None

    def _withdraw(self) -> None:
        """Remove the discovery file, unless another server has put its own there."""
        if self._discovery is not None:
            with suppress(StoreError, OSError):
                if find(self._discovery)["server"] == self.id:
                    self._discovery.unlink()

    # From the session to the clients

    def _notice(self, changes: list[dict[str, Any]]) -> None:
        """Called on the session's thread: leaves a note and returns."""
        if not changes:
            self._status_due = True
        if not self._pending and self._loop is not None:
            self._pending = True
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._pending = False
        self._woken.set()

    async def _pump(self) -> None:
        """Read each change once for all clients that keep up."""
        while True:
            self._woken.clear()
            try:
                if self._tail.floor is None:
                    self._tail.begin((await self._read(self._hub.state))["seq"])
                    self._wake_clients()
                await self._collect()
            except Exception:
                log.exception("session %s: changes could not be read; trying again", self._hub.id)
                await asyncio.sleep(1)
                continue
            try:
                async with asyncio.timeout(self._heartbeat):
                    await self._woken.wait()
            except TimeoutError:
                self._status_due = True

    async def _collect(self) -> None:
        while page := await self._read(self._page, self._tail.last):
            self._tail.add(page)
            self._wake_clients()
        if self._status_due:
            self._status_due = False  # before the look: what is another after it says so again
            state = await self._read(self._hub.state)
            note = _text({"type": "state"} | {name: value for name, value in state.items() if name != "orders"})
            for client in self._clients:
                client.note = note
            self._wake_clients()

    def _wake_clients(self) -> None:
        for client in self._clients:
            client.wake.set()

    def _page(self, since: int) -> list[tuple[int, str]]:
        return [(change["seq"], _text(change)) for change in self._hub.changes(since, PAGE)]

    async def _read(self, ask: Callable[..., _T], *args: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, ask, *args)

    async def _write(self, client: _Client, since: int | None, session: str | None) -> None:
        """Everything that one stream is sent of its own accord."""
        state = await self._read(self._hub.state)
        head = {"protocol": PROTOCOL, "server": self.id, "session": state["session"]}
        if since is None or since > state["seq"] or session not in (None, state["session"]):
            client.cursor = state["seq"]
            await client.send(await self._read(_text, {"type": "snapshot", **head, "state": state}))
        else:
            client.cursor = since
            await client.send(_text({"type": "resume", **head, "since": since}))
        while True:
            client.wake.clear()
            note, client.note = client.note, None
            texts, cursor = await self._next(client.cursor)
            if texts:
                await client.send(f'{{"type":"changes","changes":[{",".join(texts)}]}}')
            client.cursor = cursor
            if note:
                await client.send(note)
                await client.ping()  # notes come at the same pace, so that a client that gets them is never idle
            if texts or note:
                continue
            try:
                async with asyncio.timeout(self._heartbeat):
                    await client.wake.wait()
            except TimeoutError:
                await client.ping()

    async def _next(self, cursor: int) -> tuple[list[str], int]:
        """The next changes after `cursor`, as text, and where they end: from memory, or for a client that is behind from the session."""
        tail = self._tail
        while tail.floor is None or cursor < tail.floor:
            floor = tail.floor  # as it was before the look, which may take a while
            page = (await self._read(self._page, cursor))[:_BATCH]
            if page:
                return [text for _, text in page], page[-1][0]
            if floor is None:
                return [], cursor
            cursor = floor
        return tail.after(cursor)

    # From the clients to the session

    @web.middleware
    async def _guard(self, request: web.Request, handler: Callable[..., Any]) -> web.StreamResponse:
        """Nobody is let in without the token; every refusal is one line of JSON."""
        try:
            self._admit(request)
            answer: web.StreamResponse = await handler(request)
            return answer
        except _Refused as refused:
            return _refusal(refused.status, refused)
        except web.HTTPRequestEntityTooLarge:
            return _refusal(413, LimitError(f"body: more than {MAX_MESSAGE} bytes (MAX_MESSAGE); send less"))
        except web.HTTPNotFound:
            rule, fix = "is not served", "there are /stream, /state, /changes, /ticks and /command"
            return _refusal(404, ActionError(str(Problem("path", request.path, rule, fix))))
        except web.HTTPMethodNotAllowed as error:
            fix = f"use {', '.join(sorted(error.allowed_methods))}"
            return _refusal(
                405, ActionError(str(Problem("method", request.method, f"does not fit {request.path}", fix)))
            )
        except SmartOrdersError as error:
            return _refusal(400 if isinstance(error, (ActionError, DataError)) else 503, error)
        except Exception as error:
            log.exception("session %s: %s failed", self._hub.id, request.path)
            return _refusal(500, _internal(error))

    def _admit(self, request: web.Request) -> None:
        hosts = request.headers.getall("Host", [])
        if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
            raise _Refused(403, Problem("Host", ", ".join(hosts), "is not this machine", f"ask {self.url}"))
        for origin in request.headers.getall("Origin", []):
            if not _ORIGIN.fullmatch(origin):
                raise _Refused(
                    403, Problem("Origin", origin, "pages from elsewhere are not served", "open it from this machine")
                )
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = request.query.get("token", "")
        if not hmac.compare_digest(given.strip().encode("utf-8", "replace"), self._token.encode()):
            rule = "is not the one of this session" if given else "is missing"
            fix = "send Authorization: Bearer TOKEN or ?token=TOKEN, with the token of the discovery file"
            raise _Refused(401, Problem("token", None, rule, fix))

    async def _get_state(self, request: web.Request) -> web.Response:
        orders = request.query.get("orders")
        state = await (self._read(self._hub.state) if orders is None else self._read(self._hub.state, _wholes(orders)))
        return _json(await self._read(_text, state))

    async def _get_ticks(self, request: web.Request) -> web.Response:
        symbol, since = request.query.get("symbol", ""), _whole(request, "since", 0)
        found = await self._read(self._hub.recent, symbol, since, request.query.get("trigger", "last"))
        columns = {"first": found.first, "ts": found.ts.tolist(), "price": found.price.tolist()}
        return _json(await self._read(_text, columns))

    async def _get_changes(self, request: web.Request) -> web.Response:
        since, limit = _whole(request, "since", 0), _whole(request, "limit", PAGE)
        order = _whole(request, "order", None)
        assert since is not None
        assert limit is not None
        if not 1 <= limit <= PAGE:
            raise ActionError(
                str(Problem("limit", limit, f"must be 1 to {PAGE}", "ask again from the seq of the answer"))
            )
        found = await self._read(self._hub.changes, since, limit)
        chosen = found if order is None else [change for change in found if change["order"] == order]
        seq = found[-1]["seq"] if found else since
        return _json(_text({"changes": chosen, "seq": seq, "more": len(found) == limit}))

    async def _post_command(self, request: web.Request) -> web.Response:
        message = _parsed((await request.read()).decode("utf-8", "surrogateescape"))
        return _json(await self._obey({"type": "command"} | message))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        since, session = _whole(request, "since", None), request.query.get("session")
        if len(self._clients) >= MAX_CLIENTS:
            raise _Refused(503, Problem("streams", None, f"{MAX_CLIENTS} are open already (MAX_CLIENTS)", "close one"))
        # autoping would hide the answers to our pings, by which a quiet client is known to be there
        ws = web.WebSocketResponse(
            autoping=False, compress=False, max_msg_size=MAX_MESSAGE, timeout=_GRACE, writer_limit=0
        )
        await ws.prepare(request)
        assert request.transport is not None
        client = _Client(ws, request.transport, self._patience)
        self._clients.add(client)
        writer = asyncio.create_task(self._guarded(client, since, session))
        try:
            async for message in ws:
                client.heard = True
                if message.type is WSMsgType.PING:
                    await client.pong(message.data)
                elif message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await client.room.acquire()
                    self._keep(asyncio.create_task(self._answer(client, message.data)))
        except ConnectionError:
            pass
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self._clients.discard(client)
        return ws

    async def _guarded(self, client: _Client, since: int | None, session: str | None) -> None:
        try:
            await self._write(client, since, session)
        except ConnectionError:
            client.cut()
        except Exception as error:
            log.exception("session %s: a stream failed", self._hub.id)
            with suppress(ConnectionError):
                await client.send(_text({"type": "error", "error": described(_internal(error))}))
            await client.end(WSCloseCode.INTERNAL_ERROR)

    async def _answer(self, client: _Client, data: str | bytes) -> None:
        try:
            with suppress(ConnectionError):
                await client.send(await self._obey(data))
        finally:
            client.room.release()

    async def _obey(self, data: str | bytes | dict[str, Any]) -> str:
        """The answer to one command, as text. The same command again gets the same answer and does nothing."""
        ident: str | None = None
        try:
            message = data if isinstance(data, dict) else _parsed(data)
            given = message.get("id")
            ident = given if isinstance(given, str) and 1 <= len(given) <= 64 else None
            name, arguments = _command(message)
            assert ident is not None
            content = hashlib.blake2b(_text([name, arguments]).encode(), digest_size=16).digest()
            known = self._answers.get(ident)
            if known is not None and known[0] != content:
                raise ActionError(
                    str(Problem("id", ident, "was given to another command", "make a new one for each command"))
                )
        except SmartOrdersError as error:
            return _text({"type": "answer", "id": ident, "ok": False, "error": described(error)})
        if known is None:
            # a task of its own: the command goes on, and its answer is kept, if the connection is lost meanwhile
            known = content, self._keep(asyncio.create_task(self._carry_out(ident, name, arguments)))
            self._answers[ident] = known
            while len(self._answers) > MAX_ANSWERS and next(iter(self._answers.values()))[1].done():
                self._answers.popitem(last=False)
        return await asyncio.shield(known[1])

    async def _carry_out(self, ident: str, name: str, arguments: dict[str, Any]) -> str:
        try:
            loop = asyncio.get_running_loop()
            act = self._switch if name in SWITCHES else self._hub.command
            result = await loop.run_in_executor(self._workers, act, name, arguments)
            return _text({"type": "answer", "id": ident, "ok": True, "result": result})
        except SmartOrdersError as error:
            return _text({"type": "answer", "id": ident, "ok": False, "error": described(error)})
        except Exception as error:
            log.exception("session %s: command %s failed", self._hub.id, name)
            return _text({"type": "answer", "id": ident, "ok": False, "error": described(_internal(error))})

    def _switch(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        """Halt, release, orphans."""
        call = getattr(self._hub, name, None)
        if call is None or getattr(self._hub, "mode", "paper") == "paper":
            rule = "is for sessions that trade at an exchange"
            raise ActionError(str(Problem("name", name, rule, "close() ends one on paper")))
        found = call(**arguments)
        return {} if found is None else {"orders": found}

    def _keep(self, task: asyncio.Task[_T]) -> asyncio.Task[_T]:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


class _Tail:
    """The newest changes, as text: all of those above `floor` up to `last`. `floor` None: nothing was read yet."""

    def __init__(self) -> None:
        self.floor: int | None = None
        self.last = 0
        self._seqs: list[int] = []
        self._texts: list[str] = []

    def begin(self, seq: int) -> None:
        self.floor = self.last = seq

    def add(self, page: list[tuple[int, str]]) -> None:
        self._seqs += [seq for seq, _ in page]
        self._texts += [text for _, text in page]
        self.last = self._seqs[-1]
        if len(self._seqs) > 2 * _KEPT:
            self.floor = self._seqs[-_KEPT - 1]
            del self._seqs[:-_KEPT], self._texts[:-_KEPT]

    def after(self, seq: int) -> tuple[list[str], int]:
        start = bisect_right(self._seqs, seq)
        end = min(start + _BATCH, len(self._seqs))
        return self._texts[start:end], self._seqs[end - 1] if end > start else seq


class _Client:
    """One open stream: `cursor` is the last change that it was sent."""

    def __init__(self, ws: web.WebSocketResponse, transport: asyncio.Transport, patience: float):
        self.ws, self.transport, self.patience = ws, transport, patience
        self.cursor = 0
        self.note: str | None = None
        self.wake = asyncio.Event()
        self.room = asyncio.Semaphore(MAX_OUTSTANDING)
        self.heard = False
        self._asked: float | None = None

    async def send(self, text: str) -> None:
        """Raises ConnectionError if the client is gone or takes nothing."""
        with self._limited():
            async with asyncio.timeout(self.patience):
                await self.ws.send_str(text)

    async def pong(self, data: bytes) -> None:
        with self._limited():
            async with asyncio.timeout(self.patience):
                await self.ws.pong(data)

    async def ping(self) -> None:
        """Ask whether it is there; raises ConnectionError if it has not said so for too long."""
        now = asyncio.get_running_loop().time()
        if self.heard or self._asked is None:
            self.heard, self._asked = False, now
        elif now - self._asked > self.patience:
            raise ConnectionResetError
        with self._limited():
            async with asyncio.timeout(self.patience):
                await self.ws.ping()

    @contextmanager
    def _limited(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.cut()
            raise ConnectionResetError from None
        except RuntimeError:  # aiohttp's word for a stream that was closed meanwhile
            raise ConnectionResetError from None

    def cut(self) -> None:
        """End it without a word."""
        self.transport.abort()

    async def end(self, code: int) -> None:
        """End it with a close frame, or, if it does not listen, without."""
        with suppress(TimeoutError, ConnectionError, RuntimeError):
            async with asyncio.timeout(_GRACE):
                await self.ws.close(code=code)
        self.cut()


class _Refused(SmartOrdersError):
    """A request that is not served, with its HTTP status."""

    def __init__(self, status: int, problem: Problem):
        self.status = status
        super().__init__(str(problem))


def described(error: SmartOrdersError) -> dict[str, Any]:
    """An error as the protocol has it: `class`, `message`, the `reason` of a refusal, the `problems` of a SpecError."""
    kind = next(kind for kind in type(error).__mro__ if getattr(errors, kind.__name__, None) is kind)
    found: dict[str, Any] = {"class": kind.__name__, "message": str(error)}
    if isinstance(error, ActionRefused):
        found["reason"] = error.reason
    if isinstance(error, SpecError):
        found["problems"] = [
            {"path": p.path, "value": _scalar(p.value), "rule": p.rule, "fix": p.fix, "level": p.level}
            for p in error.problems
        ]
    return found


def _scalar(value: object) -> object:
    return value if value is None or isinstance(value, (str, bool, int)) else short(value)


def _internal(error: Exception) -> SmartOrdersError:
    if isinstance(error, SmartOrdersError):
        return error
    return SmartOrdersError(f"internal: {type(error).__name__}: {short(error)}; the session's log says where")


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _json(text: str, status: int = 200) -> web.Response:
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _refusal(status: int, error: SmartOrdersError) -> web.Response:
    return _json(_text({"ok": False, "error": described(error)}), status)


def _whole(request: web.Request, name: str, default: int | None) -> int | None:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ActionError(str(Problem(name, text, "must be a whole number from 0 on", "give one, or leave it out")))
    return int(text)


def _wholes(text: str) -> list[int]:
    """Numbers of orders: `3,5,8`, or nothing."""
    parts = text.split(",") if text else []
    if len(parts) > PAGE or not all(part.isascii() and part.isdigit() and len(part) < 19 for part in parts):
        raise ActionError(
            str(Problem("orders", text, f"must be up to {PAGE} whole numbers", "write 3,5,8, or nothing for none"))
        )
    return [int(part) for part in parts]


def _parsed(data: str | bytes) -> dict[str, Any]:
    """A JSON object without doubled keys, NaN or broken text. Numbers with a point stay text, so that none is rounded."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ActionError(str(Problem(name, None, "stands twice in the JSON", "keep one")))
            found[name] = value
        return found

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a number that JSON knows")

    try:
        if not isinstance(data, str):
            raise ValueError("it is binary")
        message = json.loads(data, object_pairs_hook=unique, parse_constant=refuse, parse_float=str)
        json.dumps(message, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        if isinstance(error, ActionError):
            raise
        raise ActionError(str(Problem("message", data, f"is not JSON: {error}", "see docs/stream.md"))) from None
    if not isinstance(message, dict):
        raise ActionError(str(Problem("message", data, "must be an object", "see docs/stream.md")))
    return message


def _command(message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the arguments of a command message, checked as far as they can be without the order."""
    if message.get("type") != "command":
        raise _wrong("type", message.get("type"), "must be command", "it is all that a client sends")
    for field in message:
        _known(field, field, ("type", "id", "name", "arguments"))
    ident, name, arguments = message.get("id"), message.get("name"), message.get("arguments", {})
    if not (isinstance(ident, str) and 1 <= len(ident) <= 64):
        raise _wrong("id", ident, "must be text of 1 to 64 characters", "make a new one for each command")
    if not isinstance(name, str):
        raise _wrong("name", name, "must be text", f"use one of {', '.join(COMMANDS)}")
    _known("name", name, COMMANDS)
    if not isinstance(arguments, dict):
        raise _wrong("arguments", arguments, "must be an object", "see docs/stream.md")
    required, optional = COMMANDS[name]
    for field in arguments:
        _known(f"arguments.{field}", field, sorted(required | optional))
    for field in sorted(required - arguments.keys()):
        raise _wrong(f"arguments.{field}", None, f"is needed by {name}", "see docs/stream.md")
    for field in ("order", "version"):
        value = arguments.get(field)
        empty = value is None and field not in required
        if field in arguments and not empty and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise _wrong(f"arguments.{field}", value, "must be a whole number from 0 on", "the orders show it")
    for field, kinds, rule in (
        ("changes", dict, "an object"),
        ("force", bool, "true or false"),
        ("cancel", bool, "true or false"),
        ("why", str, "text"),
        ("spec", (dict, str), "an object or a share link"),
    ):
        if field in arguments and not isinstance(arguments[field], kinds):
            raise _wrong(f"arguments.{field}", arguments[field], f"must be {rule}", "see docs/stream.md")
    if isinstance(arguments.get("spec"), str):
        from .links import decode

        arguments = {"spec": decode(arguments["spec"]).to_dict()}
    return name, arguments


def _known(path: str, name: str, names: Any) -> None:
    if name not in names:
        close = get_close_matches(name, names, 1)
        fix = f"did you mean {close[0]}?" if close else f"use {', '.join(names)}" if names else "leave it out"
        raise _wrong(path, name if path == "name" else None, "is not known", fix)


def _wrong(path: str, value: object, rule: str, fix: str) -> ActionError:
    return ActionError(str(Problem(path, value, rule, fix)))
