"""The panel as an application: pages that Voila serves, in a process of its own beside the session's.

    with Pages(store, title="ladders", ticks=[ticks]) as pages:
        print(pages.url)

Each page has a kernel that connects to the session (`so.connect`), so a page can be reloaded or closed as one likes: orders live
elsewhere. The process ends when its parent lets go of it, however that ends, and its kernels with it.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import polars as pl

from ..errors import SmartOrdersError
from ..fills import FillModel
from ..instrument import Instrument
from ..looks import THEMES
from ..spec import SmartOrder
from ..ticks import Ticks

PORT = 8866
TRIES = 50
"""Ports that are tried from PORT on, where none is asked for."""
START_S = 120.0
"""How long the pages may take to be there."""
END_S = 15.0
"""How long they may take to go."""
IDLE_S = 120
"""After so many seconds, a kernel goes whose page has gone without a word."""
_CONFIG = "SMARTORDERS_PANEL"
_TEMPLATES = Path(__file__).with_name("voila")
_CELL = "from smartorders_lab.panel import app\nterminal = app.page()"


def loopback(ip: str) -> bool:
    """Whether an address can only be reached from this machine. Raises SmartOrdersError if it is none."""
    if ip == "localhost":
        return True
    try:
        return ip_address(ip).is_loopback
    except ValueError:
        raise SmartOrdersError(f"ip = {ip!r}: is not an address; write 127.0.0.1") from None


# ------------------------------------------------------------------------------------------------- the session's process


class Pages:
    """The pages of a session, served from `start()` to `close()`, or in a `with`.

    Parameters
    ----------
    store : of the session, which has to be served (see serve.Server) before a page is opened.
    title : of the pages.
    ticks, fills : histories, one of each symbol, and what is assumed of the venue, for the editor, its odds and what-ifs.
    ip, port : where; port None: the first free one from PORT on.
    token : what a browser has to show; None: none is asked for.
    theme : auto, light or dark.
    lives : what a page may ask of the session, see Lives; None where it runs in yet another process.

    Raises SmartOrdersError if the port is taken, or if Voila does not start.
    """

    def __init__(
        self,
        store: str | os.PathLike[str],
        *,
        title: str = "",
        ticks: Sequence[Ticks] = (),
        fills: FillModel | None = None,
        ip: str = "127.0.0.1",
        port: int | None = None,
        token: str | None = "",
        theme: str = "auto",
        lives: Lives | None = None,
    ):
        if theme not in THEMES:
            raise SmartOrdersError(f"theme = {theme!r}: must be one of {', '.join(THEMES)}")
        self.ip, self.port, self.title, self.theme = ip, port, title, theme
        self.token = secrets.token_hex(24) if token == "" else token
        self._store, self._ticks, self._fills, self._lives = Path(store).absolute(), list(ticks), fills, lives
        self._folder: Path | None = None
        self._process: subprocess.Popen[str] | None = None
        self.asked = False
        """Whether it has been asked to end."""
        loopback(ip)

    @property
    def url(self) -> str:
        """Where they are, with the token."""
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        if self.ip in ("0.0.0.0", "::"):
            host = socket.gethostname()
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def start(self) -> Self:
        """Serve them; returns when they can be opened."""
        import importlib.util

        missing = [name for name in ("voila", "anywidget", "aiohttp") if importlib.util.find_spec(name) is None]
        if missing:
            raise ModuleNotFoundError(
                f"the panel needs the packages {', '.join(missing)}; pip install 'smartorders_lab[panel,exchange]'"
            )
        self._folder = Path(tempfile.mkdtemp(prefix="smartorders-panel-"))
        try:
            self._begin()
        except BaseException:
            self.close()
            raise
        return self

    def _begin(self) -> None:
        assert self._folder is not None
        page: dict[str, Any] = {"store": str(self._store), "title": self.title, "theme": self.theme}
        page["fills"] = None if self._fills is None else self._fills.to_dict()
        page["ticks"] = [keep(ticks, self._folder / f"ticks{n}.parquet") for n, ticks in enumerate(self._ticks)]
        if self._lives is not None:
            page["lives"] = self._lives.start()
        (self._folder / "panel.json").write_text(json.dumps(page), "utf-8")
        env = os.environ | {_CONFIG: str(self._folder)}
        env["JUPYTER_PATH"] = os.pathsep.join(filter(None, (str(_TEMPLATES), os.environ.get("JUPYTER_PATH"))))
        with open(self._folder / "voila.log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "smartorders_lab.panel.app"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=env,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        told = {"ip": self.ip, "port": self.port, "token": self.token, "title": self.title, "theme": self.theme}
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(told) + "\n")
            self._process.stdin.flush()
        ready = self._ready()
        if "port" not in ready:
            raise SmartOrdersError(ready.get("error") or f"the pages could not be served: {self._last_words()}")
        self.port = int(ready["port"])

    def _ready(self) -> dict[str, Any]:
        """What the process says when its pages can be opened."""
        assert self._process is not None
        stdout = self._process.stdout
        assert stdout is not None
        found: list[str] = []
        reader = threading.Thread(target=lambda: found.append(stdout.readline()), daemon=True)
        reader.start()
        reader.join(START_S)
        if not found:
            return {"error": f"the pages: Voila has not started within {START_S:g} s; try again, this machine is busy"}
        return dict(json.loads(found[0])) if found[0].strip() else {}

    def _last_words(self) -> str:
        assert self._folder is not None
        lines = [
            line for line in (self._folder / "voila.log").read_text("utf-8", "replace").splitlines() if line.strip()
        ]
        return lines[-1].strip() if lines else "Voila said nothing"

    def when_over(self, call: Callable[[int], None]) -> None:
        """Have `call(code)` called, on a thread of its own, if they end without having been asked to."""
        process = self._process
        assert process is not None

        def wait() -> None:
            code = process.wait()
            if not self.asked:
                call(code)

        threading.Thread(target=wait, daemon=True).start()

    def close(self) -> None:
        """The end of them. Twice does no harm."""
        self.asked = True
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            assert process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.close()  # it ends when nobody holds this any more
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()
        if self._lives is not None:
            self._lives.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def keep(ticks: Ticks, path: Path) -> dict[str, Any]:
    """Write ticks where a page finds them; returns how to read them."""
    columns: dict[str, Any] = {"ts": ticks.ts}
    if ticks.bars is not None:
        bars = ticks.bars
        columns = {
            "ts": bars.ts,
            **{n: ticks.instrument.prices(getattr(bars, n)) for n in ("open", "high", "low", "close")},
        }
        if bars.volume is not None:
            columns["volume"] = bars.volume
    else:
        for name in ("price", "bid", "ask", "mark"):
            units = getattr(ticks, name)
            if units is not None:
                columns[name] = ticks.instrument.prices(units)
        for name in ("size", "side"):
            if getattr(ticks, name) is not None:
                columns[name] = getattr(ticks, name)
    pl.DataFrame(columns).write_parquet(path, compression="lz4")
    found: dict[str, Any] = {"path": str(path), "instrument": ticks.instrument.model_dump(mode="json")}
    if ticks.bars is not None:
        found |= {"bar": ticks.bars.bar_ns, "walk": ticks.path}
    return found


def kept(told: dict[str, Any]) -> Ticks:
    """Ticks as `keep` has written them."""
    instrument = Instrument(**told["instrument"])
    frame = pl.read_parquet(told["path"])
    if "bar" in told:
        return Ticks.from_bars(frame, told["walk"], instrument, bar=int(told["bar"]), unit="ns")
    given: dict[str, Any] = {name: frame[name].to_numpy() for name in frame.columns}
    return Ticks.from_arrays(given.pop("ts"), given.pop("price", None), **given, instrument=instrument, unit="ns")


# ------------------------------------------------------------------------------------------------- asking the session


class Lives:
    """What a page may ask of the session in this process and a stream does not say: an order as it was placed, what was done to it,
    the ticks that it lived through. Answers on this machine alone, and only to who has the key.
    """

    def __init__(self, session: Any):
        self._session = session
        self._key = secrets.token_hex(32)
        self._server: socket.socket | None = None

    def start(self) -> dict[str, Any]:
        """Answer from now on; returns what `ask_lives` needs."""
        self._server = server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, args=(server,), daemon=True, name="panel lives")
        self._thread.start()
        return {"port": server.getsockname()[1], "key": self._key}

    def close(self) -> None:
        """No more answers."""
        server, self._server = self._server, None
        if server is not None:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()
            self._thread.join(10)

    def _serve(self, server: socket.socket) -> None:
        while self._server is server:
            try:
                line, _ = server.accept()
            except OSError:
                return
            with line, suppress(OSError, ValueError):
                line.settimeout(10)
                asked = json.loads(_read(line, most=1 << 16))
                if hmac.compare_digest(str(asked.get("key", "")), self._key):
                    _write(line, json.dumps(self._answer(asked)).encode())

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        from ..life import seen
        from ..story import Story

        session = self._session
        try:
            if "symbol" in asked:
                ticks = seen(session, asked["symbol"])
                if ticks is None:
                    return {}
                return {"ticks": keep(ticks, Path(asked["into"]))}
            oid = int(asked["order"])
            book = session.book
            story = Story(session, book.specs[oid].symbol, oid)
            told: dict[str, Any] = {
                "order": book.specs[oid].to_dict(),
                "actions": [action.to_dict() for action in story.actions],
                "fills": book.fills.to_dict(),
                "poll": book.poll_ns,
            }
            if story.placed is not None:
                told["created"] = story.placed[1]
            return told
        except (SmartOrdersError, KeyError) as error:
            return {"error": str(error)}


def _read(line: socket.socket, most: int = 1 << 32) -> bytes:
    """Bytes after their number. Raises ValueError if there are more than `most`."""
    with line.makefile("rb") as file:
        count = int.from_bytes(file.read(8), "big")
        if count > most:
            raise ValueError(f"{count} bytes announced; at most {most} are read")
        return file.read(count)


def _write(line: socket.socket, body: bytes) -> None:
    line.sendall(len(body).to_bytes(8, "big") + body)


def ask_lives(at: dict[str, Any], **asked: Any) -> dict[str, Any]:
    """An answer of Lives in another process. Raises SmartOrdersError."""
    try:
        with socket.create_connection(("127.0.0.1", at["port"]), timeout=30) as line:
            _write(line, json.dumps({"key": at["key"], **asked}).encode())
            found: dict[str, Any] = json.loads(_read(line))
    except (OSError, ValueError):
        raise SmartOrdersError("session: its process does not answer; see whether it still runs") from None
    if "error" in found:
        raise SmartOrdersError(found["error"])
    return found


# ------------------------------------------------------------------------------------------------- a page's kernel


def page() -> Any:
    """What the cell of a page shows: the terminal of the session that this application belongs to; None if that does not run."""
    import ipywidgets
    from IPython.display import display

    from ..remote import connect
    from .parts import said_html
    from .terminal import Terminal

    folder = Path(os.environ[_CONFIG])
    told = json.loads((folder / "panel.json").read_text("utf-8"))
    try:
        session: Any = connect(told["store"])
    except SmartOrdersError as error:
        display(ipywidgets.HTML(said_html(f"{error}. Reload this page when it runs.")))
        return None
    if told.get("lives"):
        session.life, session.seen = partial(_life, told["lives"]), partial(_seen, told["lives"])
    ticks = [kept(each) for each in told["ticks"]]
    fills = None if told["fills"] is None else FillModel(**told["fills"])
    draft = folder / "draft.json"
    order = None
    with suppress(OSError, SmartOrdersError):
        order = SmartOrder.from_json(draft.read_text("utf-8"))
    terminal = Terminal(session, ticks or None, order=order, fills=fills, theme=told["theme"], title=told["title"])
    terminal.observe(lambda change: _draw_up(draft, change["new"]), "order")
    display(terminal)
    return terminal


def _draw_up(path: Path, order: SmartOrder | None) -> None:
    """Keep the order that is being shaped, for when the page is loaded again."""
    if order is not None:
        new = path.with_suffix(f".{os.getpid()}")
        with suppress(OSError):
            new.write_text(order.to_json(), "utf-8")
            new.replace(path)


def _life(at: dict[str, str], oid: int) -> dict[str, Any]:
    """An order as it was placed, what was done to it, and what is assumed of the venue."""
    return ask_lives(at, order=oid)


def _seen(at: dict[str, str], symbol: str) -> Ticks | None:
    """The ticks of a symbol that the session has seen."""
    with tempfile.TemporaryDirectory() as folder:
        found = ask_lives(at, symbol=symbol, into=str(Path(folder) / "ticks.parquet"))
        return kept(found["ticks"]) if found else None


# ------------------------------------------------------------------------------------------------- Voila's process


def serve(told: dict[str, Any]) -> None:
    """Voila, until the parent lets go. `told`: ip, port, token, title, theme."""
    import nbformat
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpecManager
    from tornado.ioloop import IOLoop
    from traitlets.config import Config
    from voila.app import Voila

    def with_cookie(request: Any, notebook: Any, cwd: str) -> None:
        """A page has to show this when it asks for the end of its kernel."""
        request.xsrf_token  # noqa: B018  to read it is to set it

    class Own(KernelSpecManager):
        """No kernel but this very Python."""

        def find_kernel_specs(self) -> dict[str, str]:
            return {NATIVE_KERNEL_NAME: RESOURCES}

        def get_kernel_spec(self, kernel_name: str) -> Any:
            return self.kernel_spec_class(resource_dir=RESOURCES, **get_kernel_dict())

    class Panel(Voila):
        """Voila for one notebook of ours."""

        def init_settings(self) -> Any:
            settings = super().init_settings()
            settings["allow_remote_access"] = not loopback(told["ip"])  # else a foreign name that leads here is refused
            return settings

    folder = Path(os.environ[_CONFIG])
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(_CELL)])
    book.metadata |= {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "title": f"{told['title']} – smartorders" if told["title"] else "smartorders",
    }
    nbformat.write(book, folder / "panel.ipynb")
    config = Config()
    config.Voila.open_browser = False
    config.Voila.log_level = "WARN"
    config.Voila.ip = told["ip"]
    config.Voila.port = told["port"] or PORT
    config.Voila.port_retries = 0 if told["port"] else TRIES
    config.Voila.connection_dir_root = str(folder)
    config.Voila.token = told["token"] or ""
    config.Voila.tornado_settings = {
        "headers": {
            "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
            "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
            "connect-src 'self' ws: wss: blob: data:; frame-ancestors 'self'; object-src 'none'; base-uri 'self'",
            "Referrer-Policy": "same-origin",
        }
    }
    own = config.VoilaConfiguration
    own.template, own.theme = "smartorders", "light"
    own.allow_template_override = own.allow_theme_override = "NO"
    own.resources = {"panel": {"theme": told["theme"]}}
    own.file_allowlist, own.file_denylist = [], [".*"]
    own.extension_allowlist = ["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8", "anywidget"]
    own.strip_sources = True
    own.prelaunch_hook = with_cookie
    kernels = config.MappingKernelManager
    kernels.cull_idle_timeout, kernels.cull_interval, kernels.cull_connected = IDLE_S, IDLE_S // 4, False
    own.kernel_spec_manager_class = Own
    app = Panel(config=config, config_file_paths=[])  # the user's settings of Voila are for other notebooks
    app.initialize([str(folder / "panel.ipynb")])

    def ready() -> None:
        print(json.dumps({"port": app.port}), flush=True)
        threading.Thread(target=let_go, args=(IOLoop.current(),), daemon=True).start()

    def let_go(loop: Any) -> None:
        sys.stdin.read()  # until whoever started this ends, or wants this to end
        loop.add_callback(loop.stop)

    IOLoop.current().add_callback(ready)
    app.start()


def main() -> None:
    """The process of the pages: told what to do on its first line of stdin."""
    told = json.loads(sys.stdin.readline())
    try:
        with socket.socket(socket.AF_INET6 if ":" in told["ip"] else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((told["ip"], told["port"] or 0))
    except OSError as error:
        where = f"{told['ip']}:{told['port']}" if told["port"] else told["ip"]
        fix = "take another --port, or none" if told["port"] else "take an --ip of this machine"
        print(json.dumps({"error": f"{where}: cannot be listened on: {error.strerror}; {fix}"}), flush=True)
        return
    serve(told)


if __name__ == "__main__":
    main()
