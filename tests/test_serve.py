"""Serving a session and following it: nothing missed, nothing doubled, nobody let in, over real sockets."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import jsonschema
import numpy as np
import polars as pl
import pytest

import smartorders_lab as so
from smartorders_lab import errors, listings, remote, serve
from smartorders_lab.remote import Remote, connect
from smartorders_lab.serve import COMMANDS, MAX_MESSAGE, SWITCHES, Server, discovery_path, find
from smartorders_lab.session import Recent

SCHEMA = json.loads((Path(__file__).parent.parent / "docs" / "stream.schema.json").read_text())
TOKEN = "canary0123456789canary0123456789"
LONG = 30
"""Seconds after which something that should have come is taken not to come."""


def check(message: Any, name: str | None = None) -> Any:
    """The message, which the schema allows: as any message, or as one of its `$defs`."""
    schema = (
        SCHEMA if name is None else {"$schema": SCHEMA["$schema"], "$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{name}"}
    )
    jsonschema.Draft202012Validator(schema).validate(message)
    return message


class Book:
    """A session in memory: orders, a list of changes, commands that change them."""

    def __init__(self, orders: int = 3):
        self.id = "book"
        self.lock = threading.RLock()
        self.log: list[dict[str, Any]] = []
        self.callbacks: list[Callable[[list[dict[str, Any]]], None]] = []
        self.status = "live"
        self.versions = [0] * orders
        self.done: list[tuple[str, dict[str, Any]]] = []
        self.hold = threading.Event()
        self.hold.set()
        self.filler = ""

    def state(self) -> dict[str, Any]:
        with self.lock:
            return {
                "seq": len(self.log),
                "session": self.id,
                "mode": "paper",
                "status": self.status,
                "symbols": {"BTC/USDT": {"last": "101.5"}},
                "orders": [
                    {
                        "order": n,
                        "symbol": "BTC/USDT",
                        "side": "buy",
                        "tag": "t",
                        "status": "ACTIVE",
                        "version": version,
                        "entry_price": "100",
                        "held": "0.6",
                        "stop": None,
                        "water_mark": "105.25",
                        "realized_pnl": "-0.5",
                        "levels": [{"price": "105", "size": "40", "status": "FILLED"}],
                        "exit_reason": None,
                    }
                    for n, version in enumerate(self.versions)
                ],
            }

    def changes(self, since: int, limit: int = 1000) -> list[dict[str, Any]]:
        with self.lock:
            return self.log[since : since + limit]

    def on_change(self, callback: Callable[[list[dict[str, Any]]], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def commit(self, count: int = 1, order: int | None = None) -> None:
        with self.lock:
            new = []
            for _ in range(count):
                seq = len(self.log) + 1
                n = seq % len(self.versions) if order is None else order
                self.versions[n] += 1
                change = {"seq": seq, "ts": "2024-08-08T23:58:00.000000001Z", "order": n, "kind": "filled"}
                change |= {"role": "take_profit", "level": 0, "price": "105", "quantity": "0.4", "status": "ACTIVE"}
                change |= {"stop": None, "water_mark": "105.2", "reason": None}
                new.append(change | ({"filler": self.filler} if self.filler else {}))
                self.log.append(new[-1])
        self.tell(new)

    def tell(self, new: list[dict[str, Any]]) -> None:
        for callback in list(self.callbacks):
            callback(new)

    def command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        self.hold.wait(LONG)
        order = arguments.get("order", 0)
        if name == "open_now":
            raise ZeroDivisionError("a mistake")
        if order >= len(self.versions):
            raise so.ActionError(f"order = {order}: there are {len(self.versions)}; use 0 to {len(self.versions) - 1}")
        if arguments.get("version") not in (None, self.versions[order]):
            raise errors.StaleVersion(
                f"version = {arguments['version']}: order {order} has {self.versions[order]} by now; look again",
                "stale_version",
            )
        if name == "place":
            so.SmartOrder.from_dict(arguments["spec"])
            self.versions.append(0)
            order = len(self.versions) - 1
        with self.lock:
            self.done.append((name, arguments))
        self.commit(order=order)
        return {"order": order, "version": self.versions[order]}


@contextmanager
def running(book: Book, seconds: float = 1e9, seed: int = 1) -> Iterator[None]:
    """Commits of random size on a thread, until the block ends."""
    over, rng = threading.Event(), random.Random(seed)

    def work() -> None:
        while not over.wait(rng.random() * 0.004):
            book.commit(rng.choice([1, 1, 1, 2, 5, 40, 700]))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def until(what: Callable[[], Any]) -> Any:
    """Wait for `what()` to be true, for as long as it may take."""
    limit = time.monotonic() + LONG
    while not (found := what()):
        assert time.monotonic() < limit, "it did not happen"
        time.sleep(0.005)
    return found


@pytest.fixture
def book() -> Book:
    return Book()


@pytest.fixture
def server(book: Book) -> Iterator[Server]:
    with Server(book, token=TOKEN) as server:
        yield server


def ask(server: Server, path: str, body: Any = None, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """One request: status, JSON body and headers."""

    async def work() -> tuple[int, Any, dict[str, str]]:
        async with aiohttp.ClientSession() as http:
            given = {"Authorization": f"Bearer {TOKEN}"} | headers
            data = None if body is None else body if isinstance(body, (str, bytes)) else json.dumps(body)
            method = "GET" if body is None else "POST"
            async with http.request(method, server.url + path, data=data, headers=given) as response:
                return response.status, await response.json(), dict(response.headers)

    return asyncio.run(work())


Ws = aiohttp.ClientWebSocketResponse


def stream(server: Server, work: Callable[[Ws], Any], query: str = "", **headers: str) -> Any:
    """What a coroutine makes of an open stream."""

    async def run() -> Any:
        async with aiohttp.ClientSession() as http:
            given = {"Authorization": f"Bearer {TOKEN}"} | headers
            async with (
                asyncio.timeout(LONG),
                http.ws_connect(server.url + "/stream" + query, headers=given, max_msg_size=0) as ws,
            ):
                return await work(ws)

    return asyncio.run(run())


async def next_of(ws: Ws, kind: str) -> Any:
    while True:
        message = check(await ws.receive_json())
        if message["type"] == kind:
            return message


async def ask_on(ws: Ws, **command: Any) -> Any:
    await ws.send_json({"type": "command"} | command)
    return await next_of(ws, "answer")


# Who is let in


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        ({"Authorization": ""}, 401, "token: is missing"),
        ({"Authorization": "Bearer wrong"}, 401, "token: is not the one of this session"),
        ({"Authorization": "Bearer wröng"}, 401, "token: is not"),
        ({"Authorization": f"Basic {TOKEN}"}, 401, "token: is missing"),
        ({"Host": "example.com"}, 403, "Host = 'example.com'"),
        ({"Host": "127.0.0.1.example.com:80"}, 403, "Host"),
        ({"Host": "x@127.0.0.1"}, 403, "Host"),
        ({"Origin": "https://example.com"}, 403, "Origin = 'https://example.com'"),
        ({"Origin": "null"}, 403, "Origin"),
        ({"Origin": "http://localhost.example.com"}, 403, "Origin"),
        ({"Host": "localhost:1", "Origin": "http://localhost:8888"}, 200, ""),
        ({"Host": "[::1]", "Origin": "http://[::1]:8888"}, 200, ""),
    ],
)
def test_who_is_let_in(server: Server, headers: dict[str, str], status: int, words: str) -> None:
    got, body, answered = ask(server, "/state", **headers)
    assert got == status
    assert not [name for name in answered if name.lower().startswith("access-control")]
    if status == 200:
        check(body, "state")
    else:
        assert words in check(body, "refusal")["error"]["message"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            stream(server, lambda ws: ws.receive(), **headers)
        assert refused.value.status == status


def test_the_token_may_stand_in_the_address(server: Server) -> None:
    assert ask(server, f"/state?token={TOKEN}", Authorization="")[0] == 200
    assert ask(server, "/state?token=wrong", Authorization="")[0] == 401


def test_other_addresses_and_short_tokens_are_refused(book: Book) -> None:
    for host in ("0.0.0.0", "", "::", "192.168.1.1", "example.com"):
        with pytest.raises(so.SmartOrdersError, match=r"host = .*must be an address of this machine"):
            Server(book, host=host)
    with pytest.raises(so.SmartOrdersError, match="token: must have at least 16") as short:
        Server(book, token="secret")
    assert "secret" not in str(short.value)


def test_tokens_are_random_and_not_shown(book: Book) -> None:
    servers = [Server(book) for _ in range(2)]
    assert len({server.token for server in servers}) == 2
    assert all(len(bytes.fromhex(server.token)) == 32 for server in servers)
    assert all(server.token not in repr(server) for server in servers)


def test_a_port_that_is_taken(book: Book) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with pytest.raises(so.SmartOrdersError, match=f"port = {port}: cannot be listened on"):
            Server(book, port=port).start()
    assert book.callbacks == []


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6(book: Book) -> None:
    try:
        server = Server(book, host="::1", token=TOKEN).start()
    except so.SmartOrdersError:
        pytest.skip("no ::1 here")
    with closing(server), connect(server.url, TOKEN) as session:
        assert session.state()["session"] == "book"


def test_the_token_is_in_no_log_and_no_error(
    book: Book, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    said: list[str] = []
    with Server(book, token=TOKEN, discovery=discovery_path(tmp_path / "a.duckdb")) as server:
        port = int(server.url.rpartition(":")[2])
        auth = f"Authorization: Bearer {TOKEN}\r\n"
        for request in (
            f"GET /state?token={TOKEN} HTTP/1.1\r\nno colon\r\n\r\n",
            f"GET /state?token={TOKEN} HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
            f"GET /sta\x00te?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            f"GET /nowhere?token={TOKEN} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n",
            f"POST /command HTTP/1.1\r\nHost: 127.0.0.1\r\n{auth}Content-Length: 3\r\nConnection: close\r\n\r\n{{x}}",
            f"GET /state HTTP/1.1\r\nHost: x\r\n{auth}Connection: close\r\n\r\n",
        ):
            with closing(socket.create_connection(("127.0.0.1", port), LONG)) as raw:
                raw.sendall(request.encode())
                answer = b""
                while part := raw.recv(65536):
                    answer += part
                assert answer.startswith(b"HTTP/1.")
                assert b" 4" in answer.splitlines()[0]
        ask(server, "/command", {"id": "1", "name": "open_now", "arguments": {"order": 0}})
        failing: Callable[[], Any]
        for failing in (
            lambda: connect(server.url, TOKEN + "x"),
            lambda: connect(server.url + f"?token={TOKEN}x"),
            lambda: connect(f"http://example.com?token={TOKEN}"),
            lambda: connect(f"http://127.0.0.1:1?token={TOKEN}"),
        ):
            with pytest.raises(so.SmartOrdersError) as error:
                failing()
            said += traceback.format_exception(error.value)
            assert error.value.__cause__ is None
            assert error.value.__context__ is None
        with connect(tmp_path / "a.duckdb") as session:
            said.append(repr(session))
            with pytest.raises(so.SmartOrdersError) as error:
                session.open_now(0)
            said += traceback.format_exception(error.value)
    said += [caplog.text, *capfd.readouterr()]
    assert "ZeroDivisionError" in caplog.text
    assert TOKEN not in "".join(said)


# Requests that make no sense


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/nowhere", None, 404, "path = '/nowhere'"),
        ("/", None, 404, "path = '/'"),
        ("/command", None, 405, "method = 'GET'"),
        ("/state", {}, 405, "method = 'POST'"),
        ("/changes?since=-1", None, 400, "since = '-1'"),
        ("/changes?since=x", None, 400, "since = 'x'"),
        ("/changes?since=²", None, 400, "since"),
        (f"/changes?since={'9' * 30}", None, 400, "since"),
        ("/changes?limit=0", None, 400, "limit = 0: must be 1 to 1000"),
        ("/changes?limit=1001", None, 400, "limit = 1001"),
        ("/changes?order=a", None, 400, "order = 'a'"),
        ("/stream?since=1.5", None, 400, "since = '1.5'"),
        ("/command", "{", 400, "is not JSON"),
        ("/command", "[" * 60_000, 400, "is not JSON"),
        ("/command", "[1]", 400, "must be an object"),
        ("/command", '{"id": NaN}', 400, "NaN is not a number that JSON knows"),
        ("/command", '{"id": "a", "id": "b"}', 400, "id: stands twice"),
        ("/command", '{"id": "\\ud800"}', 400, "is not JSON"),
        ("/command", b"\xff\xfe", 400, "is not JSON"),
        ("/command", "1" * 5000, 400, "is not JSON"),
        ("/command", " " * (MAX_MESSAGE + 1), 413, f"more than {MAX_MESSAGE} bytes"),
    ],
)
def test_bad_requests_name_what_is_wrong(server: Server, path: str, body: Any, status: int, words: str) -> None:
    got, said, _ = ask(server, path, body)
    assert got == status
    assert words in check(said, "refusal")["error"]["message"]
    assert "\n" not in said["error"]["message"]


BAD_COMMANDS = [
    ({"type": "order"}, "type = 'order': must be command"),
    ({"id": None}, "id: must be text"),
    ({"id": ""}, "id = ''"),
    ({"id": "x" * 65}, "id = 'xxx"),
    ({"id": 7}, "id = 7"),
    ({"name": None}, "name: must be text"),
    ({"name": "edlt"}, "name = 'edlt': is not known; did you mean edit?"),
    ({"name": "__class__"}, "name = '__class__': is not known; use place"),
    ({"nmae": "edit"}, "nmae: is not known; did you mean name?"),
    ({"arguments": [1]}, "arguments = [1]: must be an object"),
    ({"arguments": {"order": 0}}, "arguments.changes: is needed by edit"),
    ({"arguments": {"order": 0, "changes": 3}}, "arguments.changes = 3: must be an object"),
    ({"arguments": {"order": 0, "changes": {}, "froce": 1}}, "arguments.froce: is not known; did you mean force?"),
    ({"arguments": {"order": 0, "changes": {}, "force": 1}}, "arguments.force = 1: must be true or false"),
    ({"arguments": {"order": "0", "changes": {}}}, "arguments.order = '0': must be a whole number"),
    ({"arguments": {"order": True, "changes": {}}}, "arguments.order = True"),
    ({"arguments": {"order": None, "changes": {}}}, "arguments.order: must be a whole number"),
    ({"arguments": {"order": -1, "changes": {}}}, "arguments.order = -1"),
    ({"arguments": {"order": 0, "changes": {}, "version": "2"}}, "arguments.version = '2'"),
    ({"name": "place", "arguments": {"spec": 5}}, "arguments.spec = 5: must be an object or a share link"),
    ({"name": "place", "arguments": {"spec": "solab1:xx.yy"}}, "link = 'solab1:xx.yy': is damaged"),
]


def test_bad_commands_name_the_field(server: Server, book: Book) -> None:
    good = {"type": "command", "id": "a", "name": "edit", "arguments": {"order": 0, "changes": {"stop_loss": "97"}}}

    async def work(ws: Ws) -> None:
        await next_of(ws, "snapshot")
        for change, words in BAD_COMMANDS:
            given = {key: value for key, value in (good | change).items() if value is not None}
            await ws.send_json(given)
            said = await next_of(ws, "answer")
            assert words in said["error"]["message"]
            assert said["id"] == (given.get("id") if given.get("id") in ("a",) else None)
            assert not list(jsonschema.Draft202012Validator(SCHEMA).iter_errors(said))
        await ws.send_bytes(b"{}")
        assert "it is binary" in (await next_of(ws, "answer"))["error"]["message"]
        await ws.send_str("{")
        assert "is not JSON" in (await next_of(ws, "answer"))["error"]["message"]
        assert book.done == []
        check(good)
        assert (await ask_on(ws, **good))["ok"]  # the stream has survived it all

    stream(server, work)
    for change, words in BAD_COMMANDS:
        given = {key: value for key, value in (good | change).items() if value is not None}
        status, said, _ = ask(server, "/command", given)
        assert status == 200
        assert words in check(said, "answer")["error"]["message"]


def test_too_long_a_message_ends_the_stream(server: Server) -> None:
    async def work(ws: Ws) -> int | None:
        await next_of(ws, "snapshot")
        await ws.send_str(" " * (MAX_MESSAGE + 1))
        message = await ws.receive()
        assert message.type is aiohttp.WSMsgType.CLOSE
        return ws.close_code

    assert stream(server, work) == 1009


def test_too_many_streams(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MAX_CLIENTS", 1)

    async def work(ws: Ws) -> None:
        await next_of(ws, "snapshot")
        async with aiohttp.ClientSession() as http, http.get(server.url + f"/stream?token={TOKEN}") as other:
            assert other.status == 503
            assert "1 are open already" in check(await other.json(), "refusal")["error"]["message"]

    stream(server, work)
    until(lambda: not server._clients)
    stream(server, lambda ws: next_of(ws, "snapshot"))


# What the session says


def test_plain_http(server: Server, book: Book) -> None:
    book.commit(2500)
    state = check(ask(server, "/state")[1], "state")
    assert state == book.state()
    seqs, since, more = [], 0, True
    while more:
        page = check(ask(server, f"/changes?since={since}&limit=999")[1], "page")
        seqs += [change["seq"] for change in page["changes"]]
        since, more = page["seq"], page["more"]
    assert seqs == list(range(1, 2501))
    page = ask(server, "/changes?since=2000&order=1")[1]
    assert [change["seq"] for change in page["changes"]] == [n for n in range(2001, 2501) if n % 3 == 1]
    assert page["seq"] == 2500
    assert ask(server, "/changes?since=2500")[1] == {"changes": [], "seq": 2500, "more": False}


def test_orders_and_ticks_are_asked_for_properly(server: Server, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    for query in ("1,x", "-1", "1,,2", ",".join(["1"] * 1001)):
        status, refused, _ = ask(server, f"/state?orders={query}")
        assert status == 400
        assert check(refused, "refusal")["error"]["message"].startswith("orders = ")
    assert check(ask(server, "/ticks?symbol=BTC/USDT&since=x")[1], "refusal")["error"]["message"].startswith("since = ")
    asked: list[Any] = []

    def recent(*how: Any) -> Any:
        asked.append(how)
        return Recent(7, np.array([2**62, 2**62 + 1]), np.array([0.1, 1e-8]))

    monkeypatch.setattr(book, "recent", recent, raising=False)
    ticks = check(ask(server, "/ticks?symbol=BTC/USDT&since=5&trigger=bid")[1], "ticks")
    assert ticks == {"first": 7, "ts": [2**62, 2**62 + 1], "price": [0.1, 1e-8]}
    assert asked == [("BTC/USDT", 5, "bid")]


def test_a_stream_begins_with_a_snapshot_or_where_it_stopped(server: Server, book: Book) -> None:
    book.commit(20)

    async def fresh(ws: Ws) -> None:
        first = check(await ws.receive_json())
        assert (first["type"], first["state"], first["server"]) == ("snapshot", book.state(), server.id)
        book.commit(3)
        seqs: list[int] = []
        while len(seqs) < 3:
            seqs += [change["seq"] for change in (await next_of(ws, "changes"))["changes"]]
        assert seqs == [21, 22, 23]

    async def again(ws: Ws) -> None:
        first = check(await ws.receive_json())
        assert (first["type"], first["since"]) == ("resume", 5)
        assert [change["seq"] for change in (await next_of(ws, "changes"))["changes"]] == list(range(6, 24))

    async def kind(ws: Ws) -> str:
        return str(check(await ws.receive_json())["type"])

    stream(server, fresh)
    stream(server, again, "?since=5")
    stream(server, again, "?since=5&session=book")
    assert stream(server, kind, "?since=23") == "resume"
    assert stream(server, kind, "?since=24") == "snapshot"  # from a future that has not been
    assert stream(server, kind, "?since=5&session=other") == "snapshot"


def test_the_status_is_told(server: Server, book: Book) -> None:
    async def work(ws: Ws) -> None:
        await next_of(ws, "snapshot")
        book.status = "stale"
        book.tell([])
        said = await next_of(ws, "state")
        assert said == {"type": "state"} | {name: value for name, value in book.state().items() if name != "orders"}

    stream(server, work)


def test_a_session_that_fails_is_no_end(server: Server, book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(book, "state", lambda: 1 / 0)
        assert "internal: ZeroDivisionError" in check(ask(server, "/state")[1], "refusal")["error"]["message"]

        async def work(ws: Ws) -> None:
            said = check(await ws.receive_json())
            assert said["type"] == "error"
            await ws.receive()
            assert ws.close_code == 1011

        stream(server, work)
    stream(server, lambda ws: next_of(ws, "snapshot"))


@pytest.mark.parametrize("kept", [10_000, 20])
def test_nothing_is_missed_and_nothing_doubled(book: Book, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    """Clients that read at their own pace and break off wherever they like, while changes are made without a pause."""
    monkeypatch.setattr(serve, "_KEPT", kept)  # with 20 in memory, nearly all come from the session itself
    goal = 6000

    async def follow(server: Server, seed: int) -> None:
        rng = random.Random(seed)
        slow, sudden = rng.choice([0, 0.001, 0.02]), rng.random() < 0.5
        seen: int | None = rng.choice([None, 0])
        async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as http:
            while seen is None or seen < goal:
                query = "" if seen is None else f"?since={seen}"
                async with http.ws_connect(f"{server.url}/stream{query}", max_msg_size=0) as ws:
                    first = await ws.receive_json()
                    assert first["type"] == ("snapshot" if seen is None else "resume")
                    seen = first["state"]["seq"] if seen is None else seen
                    for _ in range(rng.choice([1, 5, 40])):
                        message = await ws.receive_json()
                        if message["type"] == "changes":
                            seqs = [change["seq"] for change in message["changes"]]
                            assert seqs == list(range(seen + 1, seen + 1 + len(seqs)))
                            seen = seqs[-1]
                        await asyncio.sleep(slow * rng.random())
                        if seen >= goal:
                            break
                    if sudden:
                        assert ws._conn is not None
                        ws._conn.transport.abort()  # no close frame

    async def work() -> None:
        async with asyncio.timeout(4 * LONG):
            await asyncio.gather(*(follow(server, seed) for seed in range(8)))

    with Server(book, token=TOKEN) as server, running(book):
        asyncio.run(work())
        until(lambda: not server._clients)
    assert len(book.log) >= goal


def deaf(server: Server) -> socket.socket:
    """A stream that is opened and never read from."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(LONG)
    raw.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    raw.sendall(
        f"GET /stream?token={TOKEN}&since=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    until(lambda: server._clients)
    return raw


def test_a_client_that_does_not_read_holds_nobody_up_and_is_cut_off(book: Book) -> None:
    book.filler = "x" * 5000
    with Server(book, token=TOKEN, patience=2.0) as server, closing(deaf(server)) as raw:
        (sleeper,) = server._clients

        async def work(ws: Ws) -> None:
            await next_of(ws, "snapshot")
            seen = 0
            while seen < 4000:
                book.commit(500)
                while seen < len(book.log):
                    seen = (await next_of(ws, "changes"))["changes"][-1]["seq"]
                    size = sleeper.transport.get_write_buffer_size()
                    assert size < 2**21, "what a client does not read must not pile up"

        stream(server, work)
        assert sleeper.cursor < 4000
        until(lambda: not server._clients)
        got = b""
        with suppress(ConnectionResetError):
            while part := raw.recv(1 << 20):
                got += part
        assert len(got) < 4000 * 5000


def test_a_quiet_client_that_is_gone_is_cut_off_and_one_that_is_there_is_not(book: Book) -> None:
    with Server(book, token=TOKEN, heartbeat=0.05, patience=1.5) as server, closing(deaf(server)):

        async def work(ws: Ws) -> None:
            await next_of(ws, "snapshot")
            for _ in range(40):  # it answers pings, so it outlives the one that does not
                assert (await next_of(ws, "state"))["status"] == "live"
            while len(server._clients) > 1:
                await next_of(ws, "state")

        stream(server, work)
        until(lambda: not server._clients)


def test_a_client_that_is_gone_is_cut_off_also_where_the_status_keeps_changing(book: Book) -> None:
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            book.tell([])

    thread = threading.Thread(target=work)
    with Server(book, token=TOKEN, heartbeat=1000, patience=0.3) as server, closing(deaf(server)):
        thread.start()
        until(lambda: not server._clients)
        over.set()
        thread.join()


def test_memory_of_the_newest_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """From wherever a client goes on, it gets all that came after, or is told to look elsewhere."""
    monkeypatch.setattr(serve, "_KEPT", 5)
    monkeypatch.setattr(serve, "_BATCH", 3)
    tail, rng = serve._Tail(), random.Random(3)
    tail.begin(10)
    seqs = list(range(11, 200, 1)) + list(range(200, 600, 7))  # a session may leave numbers out
    at = 0
    while at < len(seqs):
        step = rng.choice([1, 2, 9, 30])
        tail.add([(seq, str(seq)) for seq in seqs[at : at + step]])
        at += step
        assert tail.last == seqs[:at][-1]
        assert tail.floor is not None
        assert len(tail._seqs) <= 10
        for start in range(tail.floor, tail.last + 2):
            texts, seq = tail.after(start)
            expected = [str(n) for n in seqs[:at] if n > start][:3]
            assert texts == expected
            assert seq == (int(expected[-1]) if expected else start)


def test_a_hole_below_what_is_in_memory(book: Book) -> None:
    """A look that finds nothing proves that there is nothing up to where memory began before it, not after it."""
    server = Server(book)
    server._tail.begin(10)

    async def read(ask: Any, *args: Any) -> list[Any]:
        if server._tail.floor == 10:
            server._tail.begin(12)  # 11 and 12 have come and gone meanwhile
            return []
        return [(n, str(n)) for n in (11, 12) if n > args[0]]

    server._read = read  # type: ignore[method-assign, assignment]
    assert asyncio.run(server._next(5)) == (["11", "12"], 12)


def test_a_client_that_is_there_before_the_first_look(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    go, looks, look = threading.Event(), [], book.state

    def state() -> dict[str, Any]:
        looks.append(1)
        if len(looks) == 1:
            go.wait(LONG)
        return look()

    empty, changes = threading.Event(), book.changes

    def seen(since: int, limit: int) -> list[dict[str, Any]]:
        found = changes(since, limit)
        if not found:
            empty.set()
        return found

    monkeypatch.setattr(book, "state", state)
    monkeypatch.setattr(book, "changes", seen)
    book.commit(3)
    with Server(book, token=TOKEN) as server:
        until(lambda: looks)

        async def work(ws: Ws) -> None:
            await next_of(ws, "snapshot")
            until(empty.is_set)
            book.commit(2)
            go.set()
            assert [change["seq"] for change in (await next_of(ws, "changes"))["changes"]] == [4, 5]
            book.commit()
            assert [change["seq"] for change in (await next_of(ws, "changes"))["changes"]] == [6]

        stream(server, work)


def test_the_session_is_not_waited_for_and_does_not_wait(server: Server, book: Book) -> None:
    """A callback leaves a note, whatever the clients do: many commits are one wake-up."""
    woken = []
    wake = server._wake

    def counted() -> None:
        woken.append(1)
        wake()

    server._wake = counted  # type: ignore[method-assign]
    busy, free = threading.Event(), threading.Event()

    def occupied() -> None:
        busy.set()
        free.wait(LONG)

    with closing(deaf(server)):
        assert server._loop is not None
        server._loop.call_soon_threadsafe(occupied)
        busy.wait(LONG)
        for _ in range(2000):
            book.commit()
        free.set()
        until(lambda: server._tail.last == 2000)
    assert len(woken) == 1


def test_the_last_changes_come_before_the_end(book: Book) -> None:
    server = Server(book, token=TOKEN).start()

    async def work(ws: Ws) -> tuple[int, int | None, str]:
        await next_of(ws, "snapshot")
        book.commit(1234)
        book.status = "stopped"
        closer = asyncio.get_running_loop().run_in_executor(None, server.close)
        seen, status = 0, ""
        async for message in ws:
            said = check(json.loads(message.data))
            if said["type"] == "changes":
                seen = said["changes"][-1]["seq"]
            else:
                status = said["status"]
        await closer
        return seen, ws.close_code, status

    assert stream(server, work) == (1234, 1001, "stopped")
    assert book.callbacks == []
    server.close()
    with pytest.raises(so.SmartOrdersError, match="was started before"):
        server.start()
    book.commit()  # a callback that comes late does no harm
    server._notice([])


# Commands


def test_commands_are_carried_out_once(server: Server, book: Book) -> None:
    edit = {"id": "one", "name": "edit", "arguments": {"order": 1, "changes": {"stop_loss": 0.1}}}

    async def work(ws: Ws) -> None:
        await next_of(ws, "snapshot")
        said = await ask_on(ws, **edit)
        assert said == {"type": "answer", "id": "one", "ok": True, "result": {"order": 1, "version": 1}}
        assert await ask_on(ws, **edit) == said
        other = await ask_on(ws, **(edit | {"name": "cancel", "arguments": {"order": 1}}))
        assert "id = 'one': was given to another command" in other["error"]["message"]

    stream(server, work)
    assert ask(server, "/command", edit)[1]["result"]["version"] == 1  # over another connection as well
    assert book.done == [("edit", {"order": 1, "changes": {"stop_loss": "0.1"}})]  # as written, not as a float


def test_a_command_outlives_its_connection(server: Server, book: Book) -> None:
    book.hold.clear()
    command = {"type": "command", "id": "two", "name": "cancel", "arguments": {"order": 0}}

    async def ask_and_leave(ws: Ws) -> None:
        await ws.send_json(command)
        until(lambda: "two" in server._answers)

    stream(server, ask_and_leave)
    threading.Timer(0.05, book.hold.set).start()
    assert ask(server, "/command", command)[1]["ok"]  # waits for the first one's answer
    assert len(book.done) == 1


def test_answers_are_forgotten_when_there_are_too_many(
    server: Server, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "MAX_ANSWERS", 3)

    async def work(ws: Ws) -> None:
        for n in range(50):
            assert (await ask_on(ws, id=str(n), name="share", arguments={"order": 0}))["id"] == str(n)

    stream(server, work)
    assert len(server._answers) == 3
    assert len(book.done) == 50


def test_commands_side_by_side(server: Server, book: Book) -> None:
    """More at once than are let in: the rest waits in the connection, and the stream goes on meanwhile."""
    book.hold.clear()

    async def work(ws: Ws) -> set[str]:
        await next_of(ws, "snapshot")
        for n in range(200):
            await ws.send_json({"type": "command", "id": str(n), "name": "cancel", "arguments": {"order": 0}})
        book.commit()
        await next_of(ws, "changes")
        assert len(server._answers) <= serve.MAX_OUTSTANDING
        book.hold.set()
        return {(await next_of(ws, "answer"))["id"] for _ in range(200)}

    assert stream(server, work) == {str(n) for n in range(200)}
    assert len(book.done) == 200


def test_errors_keep_their_class_and_their_problems(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    with connect(server.url, TOKEN) as session:
        with pytest.raises(so.ActionError, match="order = 99: there are 3; use 0 to 2"):
            session.cancel(99)
        with pytest.raises(errors.StaleVersion, match="version = 5: order 0 has 0 by now") as stale:
            session.edit(0, version=5, stop_loss=97)
        assert stale.value.reason == "stale_version"
        with pytest.raises(so.SmartOrdersError, match="internal: ZeroDivisionError: a mistake; the session's log"):
            session.open_now(0)
        spec = {
            "symbol": "BTC/USDT",
            "side": "buy",
            "quantity": -1,
            "take_profits": [[90, 100]],
            "entry": {"price": "x"},
        }
        with pytest.raises(so.SpecError) as ours:
            so.SmartOrder.from_dict(spec)
        with pytest.raises(so.SpecError) as theirs:
            session._command("place", spec=spec)
        assert str(theirs.value) == str(ours.value)
        assert [p.path for p in theirs.value.problems] == [p.path for p in ours.value.problems]
        with pytest.raises(so.LinkError, match="is damaged") as link:
            session._command("place", spec="solab1:x.y")
        assert link.value.problems[0].path == "link"
    assert "command open_now failed" in caplog.text


def test_every_class_of_error_comes_through() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, so.SmartOrdersError)]
    assert len(kinds) >= 9
    for kind in kinds:
        error = kind.__new__(kind)
        error.args = ("field = 1: a rule; a way out",)
        if isinstance(error, so.SpecError):
            error.problems = [so.Problem("field", 1, "a rule", "a way out")]
        if isinstance(error, errors.ActionRefused):
            error.reason = "stale_version"
        described = check(serve.described(error), "problem")
        again = remote.raised(json.loads(json.dumps(described)))
        assert type(again) is kind
        assert str(again) == str(error)
        if isinstance(error, so.SpecError):
            assert isinstance(again, so.SpecError)
            assert again.problems == error.problems
        if isinstance(error, errors.ActionRefused):
            assert isinstance(again, errors.ActionRefused)
            assert again.reason == "stale_version"
    for unknown in ("Exception", "Problem", "annotations", "__name__"):
        assert type(remote.raised({"class": unknown, "message": "x"})) is so.SmartOrdersError


# The discovery file


def test_the_discovery_file(book: Book, tmp_path: Path) -> None:
    store = tmp_path / "paper.duckdb"
    with Server(book, discovery=discovery_path(store)) as server:
        file = tmp_path / "paper.duckdb.session"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        check(json.loads(file.read_text()), "discovery")
        found = find(store)
        assert found == find(file)
        assert (found["url"], found["token"], found["pid"]) == (server.url, server.token, os.getpid())
        assert found["alive"]
        assert [path.name for path in tmp_path.iterdir()] == [file.name]
        with Server(book, discovery=file) as second:
            assert find(store)["server"] == second.id
        assert not file.exists()
        file.write_text(json.dumps(found | {"server": "another"}))
    assert find(store)["server"] == "another"  # not ours, so it stays


def test_a_store_without_a_session(tmp_path: Path) -> None:
    store = tmp_path / "paper.duckdb"
    with pytest.raises(so.StoreError, match="no session is served on this store"):
        connect(store)
    for junk in ("", "{", "[]", "{}", '{"url": 1}', "\udcff"):
        discovery_path(store).write_text(junk, errors="surrogateescape")
        with pytest.raises(so.StoreError, match="is not a discovery file"):
            connect(store)


def test_a_discovery_file_that_cannot_be_written(book: Book, tmp_path: Path) -> None:
    with pytest.raises(so.StoreError, match="cannot be written: No such file"):
        Server(book, discovery=tmp_path / "nowhere" / "a.session").start()
    assert book.callbacks == []


def test_a_session_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import sys, os; sys.path.insert(0, 'tests'); from test_serve import Book; from smartorders_lab.serve import Server\n"
        "server = Server(Book(), discovery=sys.argv[1]).start(); print(server.url, flush=True); sys.stdin.read()"
    )
    file = discovery_path(tmp_path / "paper.duckdb")
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        [sys.executable, "-c", code, str(file)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with connect(tmp_path / "paper.duckdb", timeout=LONG) as session:
            assert find(file)["pid"] == process.pid
            assert session.state()["session"] == "book"
            process.kill()
            process.wait()
            until(lambda: not session.connected)
            session._timeout = 0.2
            with pytest.raises(so.SmartOrdersError, match=r"no answer within 0.2 s \(.*is gone without a word"):
                session.state()
            with pytest.raises(so.SmartOrdersError, match=r"no answer within 0.2 s") as error:
                session.cancel(0)
            assert "may still be carried out" not in str(error.value)  # it was never sent
    assert not find(file)["alive"]
    with pytest.raises(so.StoreError, match=rf"is gone without a word \(process {process.pid}\)"):
        connect(tmp_path / "paper.duckdb")
    with pytest.raises(so.SmartOrdersError, match="no session answers"):
        connect(url, TOKEN)


# The client


def test_addresses(server: Server) -> None:
    for target in (server.url, server.url.replace("http", "ws"), f"{server.url}/stream?token={TOKEN}"):
        with connect(target, None if "token" in target else TOKEN) as session:
            assert session.id == "book"
            assert repr(session) == f"Remote({server.url}, session book, connected)"
        assert "closed" in repr(session)
        session.close()
    with pytest.raises(so.SmartOrdersError, match="token: is needed with an address"):
        connect(server.url)
    with pytest.raises(so.SmartOrdersError, match="token: is not the one of the session"):
        connect(server.url, "wrong")
    for target in (
        "http://example.com",
        "http://127.0.0.1.example.com:80",
        "https://127.0.0.1",
        "http://127.0.0.1@example.com",
    ):
        with pytest.raises(so.SmartOrdersError, match="must be http:// and an address of this machine"):
            connect(target, TOKEN)


def test_a_port_that_says_nothing() -> None:
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as mute,
        pytest.raises(so.SmartOrdersError, match=r"no answer within 0.2 s|no session answers"),
    ):
        connect(f"http://127.0.0.1:{mute.getsockname()[1]}", TOKEN, timeout=0.2)


def test_what_a_client_sees_and_does(server: Server, book: Book) -> None:
    order = so.SmartOrder(symbol="BTC/USDT", side="buy", quantity="0.1", take_profits=[(105, 100)], stop_loss="-5%")
    with connect(server.url, TOKEN) as session:
        frame = session.orders()
        assert frame.columns[:3] == ["order", "symbol", "side"]
        assert frame["entry_price"].to_list() == [100.0] * 3
        assert frame.schema["stop"] == pl.Float64
        assert frame["levels"][0].to_list() == [{"price": 105.0, "size": 40.0, "status": "FILLED"}]
        for given in (order, order.to_dict(), order.share_link()):
            placed = session.place(given)
            assert book.done[-1] == ("place", {"spec": order.to_dict()})
        assert placed == {"order": 5, "version": 1}
        stop = so.StopLoss(target="-2%", timeout="5s")
        session.edit(
            5,
            version=1,
            take_profits=[so.TakeProfit(target=110, size=40), (Decimal("120.5"), np.float64(60))],
            stop_loss=stop,
            trailing_stop=None,
            max_hold=timedelta(hours=2),
            break_even=True,
        )
        changes = book.done[-1][1]["changes"]
        assert order.replace(**changes) == order.replace(
            take_profits=[(110, 40), ("120.5", 60)], stop_loss=stop, max_hold="2h", break_even=True
        )
        assert changes["trailing_stop"] is None
        session.add_funds(1, cost=50.5, price=np.int64(99), version=0)
        assert book.done[-1] == ("add_funds", {"order": 1, "cost": "50.5", "price": 99, "version": 0})
        session.reduce_funds(1, quantity=Decimal("0.25"))
        assert book.done[-1] == ("reduce_funds", {"order": 1, "quantity": "0.25"})
        session.take_profit(1, level=2)
        assert book.done[-1] == ("take_profit", {"order": 1, "level": 2})
        session.refresh()
        session.close_at_market(2)
        session.cancel(1)
        session.share(1)
        assert {name for name, _ in book.done} == set(COMMANDS) - SWITCHES - {"open_now"}
        events = session.events(1)
        assert events["order"].unique().to_list() == [1]
        assert events.height == 5
        assert session.events().height == len(book.log)
        assert events.schema["ts"] == pl.Datetime("ns", "UTC")
        assert events["ts"].dt.nanosecond().to_list() == [1] * 5
        for bad in (object(), {1, 2}):
            with pytest.raises(so.SpecError, match=r"changes.stop_loss.*cannot be sent"):
                session.edit(1, stop_loss=bad)
        with pytest.raises(so.LimitError, match="MAX_MESSAGE"):
            session.edit(1, tag="x" * MAX_MESSAGE)
        with pytest.raises(so.SpecError, match="is not an order"):
            session.place(5)  # type: ignore[arg-type]
    for call in (session.state, session.orders, lambda: session.cancel(0)):
        with pytest.raises(so.SmartOrdersError, match="this connection is closed"):
            call()


def test_frames_without_rows_have_their_columns() -> None:
    empty = listings.table([], listings.ORDERS)
    assert empty.height == 0
    assert empty.schema["held"] == pl.Float64
    assert empty.schema["symbol"] == pl.String
    assert listings.table([], listings.EVENTS).schema["ts"] == pl.Datetime("ns", "UTC")
    both = listings.table([{"tag": "12", "price": "1"}, {"tag": None, "new": {"a": 1}}])
    assert both.to_dicts() == [{"tag": "12", "price": 1.0, "new": None}, {"tag": None, "price": None, "new": {"a": 1}}]


def test_a_server_that_speaks_otherwise(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PROTOCOL", 2)
    with pytest.raises(so.SmartOrdersError, match="protocol = 2: this library speaks 1"):
        connect(server.url, TOKEN)
    monkeypatch.setattr(server, "_write", lambda client, *_: client.send('{"kind": "snapshot"}'))
    with pytest.raises(so.SmartOrdersError, match="no session answers"):
        connect(server.url, TOKEN)


def test_history_longer_than_a_page(server: Server, book: Book) -> None:
    book.commit(3210)
    with connect(server.url, TOKEN) as session:
        assert session.events()["seq"].to_list() == list(range(1, 3211))
        assert session.events(2).height == 1070


@pytest.mark.parametrize("kept", [10_000, 3])
def test_listeners_are_told_everything_once(
    server: Server, book: Book, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """One that is slow, one that fails, one that steers, one that leaves."""
    monkeypatch.setattr(remote, "_KEPT", kept)  # with 3, what is not told at once is asked for again
    book.commit(7)
    seen: list[int] = []
    others: list[int] = []
    brief: list[int] = []
    commands: list[Any] = []

    def slow(change: dict[str, Any]) -> None:
        if change["seq"] % 500 == 0:
            time.sleep(0.01)
        seen.append(change["seq"])

    def fails(change: dict[str, Any]) -> None:
        others.append(change["seq"])
        raise RuntimeError("a listener's own mistake")

    def steers(change: dict[str, Any]) -> None:
        if change["seq"] == 8:
            commands.append(session.cancel(0))

    def leaves(change: dict[str, Any]) -> None:
        brief.append(change["seq"])
        leave()

    with connect(server.url, TOKEN) as session:
        for callback in (slow, fails, steers):
            session.on_event(callback)
        leave = session.on_event(leaves)
        logging.getLogger(remote.__name__).disabled = True
        try:
            with running(book):
                until(lambda: len(book.log) > 4000)
            until(lambda: len(others) == len(book.log) - 7)
        finally:
            logging.getLogger(remote.__name__).disabled = False
        leave()
    expected = list(range(8, len(book.log) + 1))
    assert seen == others == expected
    assert brief == [8]
    assert commands[0]["order"] == 0


def test_a_listener_that_comes_late_hears_from_then_on(server: Server, book: Book) -> None:
    seen: list[int] = []
    with connect(server.url, TOKEN) as session:
        leave = session.on_event(lambda change: None)
        book.commit(10)
        until(lambda: session._told == 10)
        leave()
        book.commit(10)
        until(lambda: session._told == 20)
        busy, free, slow = threading.Event(), threading.Event(), list[int]()

        def waits(change: dict[str, Any]) -> None:
            slow.append(change["seq"])
            busy.set()
            free.wait(LONG)

        session.on_event(waits)
        book.commit(10)
        busy.wait(LONG)
        until(lambda: session._seq == 30)
        session.on_event(lambda change: seen.append(change["seq"]))
        free.set()
        book.commit(5)
        until(lambda: len(seen) == 5 and len(slow) == 15)
    assert seen == list(range(31, 36))
    assert slow == list(range(21, 36))


def test_closing_from_a_callback(server: Server, book: Book) -> None:
    session = connect(server.url, TOKEN)
    session.on_event(lambda change: session.close())
    book.commit(5)
    until(lambda: not session._thread.is_alive())
    session.close()


def test_a_restart_of_the_server_is_bridged(book: Book, tmp_path: Path) -> None:
    """New port, new token, same session: events go on where they stopped, calls wait."""
    store, seen = tmp_path / "paper.duckdb", []
    server = Server(book, discovery=discovery_path(store)).start()
    with connect(store, timeout=LONG) as session, running(book):
        session.on_event(lambda change: seen.append(change["seq"]))
        first: list[str] = [server.url]
        for _ in range(3):
            until(lambda: session.connected)
            server.close()
            server = Server(book, discovery=discovery_path(store)).start()
            first.append(server.url)
            assert session.state()["session"] == "book"
            assert session.cancel(0)["order"] == 0
        until(lambda: len(seen) > 500)
        until(lambda: session.connected)
    server.close()
    assert seen == list(range(seen[0], seen[0] + len(seen)))
    assert len(book.done) == 3


def test_a_broken_connection_is_bridged(server: Server, book: Book) -> None:
    """The same server again: commands that were under way are sent again and carried out once."""
    seen: list[int] = []
    with connect(server.url, TOKEN, timeout=LONG) as session:
        session.on_event(lambda change: seen.append(change["seq"]))
        book.hold.clear()
        answers: list[Any] = []
        threads = [threading.Thread(target=lambda: answers.append(session.cancel(1))) for _ in range(5)]
        for thread in threads:
            thread.start()
        until(lambda: len(server._answers) == 5)
        for _ in range(3):
            client = until(lambda: next(iter(server._clients), None))
            assert server._loop is not None
            server._loop.call_soon_threadsafe(client.cut)
            until(lambda gone=client: gone not in server._clients)
            book.commit(100)
        until(lambda: session.connected)
        book.hold.set()
        for thread in threads:
            thread.join()
        assert sorted(answer["version"] for answer in answers)[-1] == book.versions[1]
        until(lambda: len(seen) == len(book.log))
    assert seen == list(range(1, len(book.log) + 1))
    assert len(book.done) == 5


def test_a_command_that_a_restart_caught_is_not_sent_twice(book: Book, tmp_path: Path) -> None:
    store = tmp_path / "paper.duckdb"
    server = Server(book, discovery=discovery_path(store)).start()
    book.hold.clear()
    with connect(store, timeout=LONG) as session:
        failed: list[BaseException] = []

        def give() -> None:
            try:
                session.cancel(1)
            except so.SmartOrdersError as error:
                failed.append(error)

        thread = threading.Thread(target=give)
        thread.start()
        until(lambda: server._answers)
        server.close()
        with Server(book, discovery=discovery_path(store)):
            thread.join(LONG)
            book.hold.set()
            until(lambda: book.done)
            assert "the session was restarted before it answered" in str(failed[0])
            assert session.cancel(2)["order"] == 2
    assert len(book.done) == 2


def test_another_session_in_its_place(book: Book, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store, seen = tmp_path / "paper.duckdb", []
    book.commit(50)
    server = Server(book, discovery=discovery_path(store)).start()
    with connect(store, timeout=LONG) as session:
        session.on_event(lambda change: seen.append(change["seq"]))
        book.commit(2)
        until(lambda: len(seen) == 2)
        server.close()
        other = Book()
        other.id = "other"
        other.commit(3)
        with Server(other, discovery=discovery_path(store)):
            until(lambda: session.id == "other" and session.connected)
            other.commit(2)
            until(lambda: len(seen) == 4)
            assert session.state()["seq"] == 5
    assert seen == [51, 52, 4, 5]
    assert "session other took the place of book" in caplog.text


def test_a_call_that_takes_too_long(server: Server, book: Book) -> None:
    book.hold.clear()
    with connect(server.url, TOKEN, timeout=2) as session:
        with pytest.raises(so.SmartOrdersError, match=r"no answer within 2 s; it may still be carried out"):
            session.cancel(0)
        until(lambda: not session._commands)
        book.hold.set()
        until(lambda: book.done)
        until(lambda: session.connected)
        assert session.state()["seq"] == 1  # longer than the timeout after it was made, the connection still stands


def test_closing_ends_calls_that_wait(server: Server, book: Book) -> None:
    book.hold.clear()
    session = connect(server.url, TOKEN, timeout=LONG)
    failed: list[str] = []

    def give() -> None:
        try:
            session.cancel(0)
        except so.SmartOrdersError as error:
            failed.append(str(error))

    thread = threading.Thread(target=give)
    thread.start()
    until(lambda: server._answers)
    session.close()
    thread.join(LONG)
    book.hold.set()
    assert "this connection is closed" in failed[0]


def test_the_schema_knows_the_commands_and_says_no() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    command = SCHEMA["$defs"]["command"]["properties"]
    assert set(command["name"]["enum"]) == set(COMMANDS)
    assert set(command["arguments"]["properties"]) == {
        name for pair in COMMANDS.values() for part in pair for name in part
    }
    good = Book()
    good.commit()
    change, state = good.log[0], good.state()
    about = {name: value for name, value in state.items() if name != "orders"}
    for bad in (
        {"type": "changes", "changes": []},
        {"type": "changes", "changes": [change | {"seq": "1"}]},
        {"type": "changes", "changes": [change | {"price": 105.0}]},
        {"type": "changes", "changes": [change | {"ts": "2024-08-08"}]},
        {"type": "state", **state},
        {"type": "state", **about, "status": "fine"},
        {"type": "answer", "id": "a", "ok": True, "error": {"class": "x", "message": "y"}},
        {"type": "answer", "id": "a", "ok": True},
        {"type": "command", "id": "a", "name": "drop"},
        {"type": "other"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            check(bad)


def test_the_page_names_every_command() -> None:
    page = (Path(__file__).parent.parent / "docs" / "stream.md").read_text()
    for name, (required, optional) in COMMANDS.items():
        (row,) = [line for line in page.splitlines() if line.startswith("| `") and f"`{name}`" in line.split("|")[1]]
        assert all(f"`{argument}`" in row for argument in required | optional)


@pytest.mark.parametrize("module", ["serve", "remote"])
def test_without_aiohttp_they_say_what_to_install(module: str) -> None:
    code = f"import sys; sys.modules['aiohttp'] = None; import smartorders_lab.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ModuleNotFoundError: " in done.stderr
    assert "needs the package aiohttp; pip install" in done.stderr


def test_remote_is_what_connect_makes(server: Server) -> None:
    with connect(server.url, TOKEN) as session:
        assert isinstance(session, Remote)
