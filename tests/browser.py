"""A browser and what it looks at: JupyterLab or Voila in a process of its own, with a home of its own, and the network blocked.

    with Lab(tmp_path) as lab, Browser() as browser:
        page = browser.open(lab)
        page.notebook("story.ipynb", ["import smartorders_lab as so", "so.LadderEditor(...)"])
        page.run_all()
        page.look("editor")

Every request that does not go to this machine is aborted and counted (`page.blocked`); errors of the console and of the page are
collected (`page.errors`). Conditions are waited for; nothing sleeps for a fixed time.
"""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
TOKEN = "a-token-for-tests"
START_S = 90
"""How long a server may take to start on a busy machine."""
WAIT_MS = 60_000
"""How long anything is waited for in a page."""
KERNEL_S = 60
QUIET = (
    "favicon",
    "apple-touch-icon",
    "ResizeObserver loop",
    "Could not restore the debugger state",  # JupyterLab, when a page is reloaded at once
)
"""What a console says without anything being wrong."""


def needs_browser() -> None:
    """Skip where there is no browser or no JupyterLab; on a build machine that is an error."""
    missing = [
        name for name in ("playwright", "jupyterlab", "voila", "anywidget") if not importlib.util.find_spec(name)
    ]
    if chromium() is None:
        missing.append("chromium")
    if not missing:
        return
    text = (
        f"no {', '.join(missing)}: these tests drive a real browser; apt-get install chromium, pip install -e '.[dev]'"
    )
    if os.environ.get("CI"):
        pytest.fail(text)
    pytest.skip(text)


def chromium() -> str | None:
    """Where the browser is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def free_port() -> int:
    """A port that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], why: str = "", seconds: float = 60) -> Any:
    """What `condition` returns, once that is something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, why or condition
        time.sleep(0.02)
    return found


# ---------------------------------------------------------------------------------------------------- servers


def home(folder: Path) -> dict[str, str]:
    """An environment in which Jupyter finds nothing of the user's, and leaves nothing there."""
    config = folder / "config"
    (config / "labconfig").mkdir(parents=True, exist_ok=True)
    page = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (config / "labconfig" / "page_config.json").write_text(json.dumps(page))
    places = {
        "JUPYTER_CONFIG_DIR": config,
        "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "IPYTHONDIR": folder / "ipython",
    }
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTEST"))}
    return kept | {name: str(place) for name, place in places.items()} | {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}


class Server:
    """A server of pages in a process of its own, in `folder`. A context manager: its kernels end with it."""

    ready = "/"

    def __init__(self, folder: Path, work: Path | None = None):
        self.folder = folder
        self.work = work or folder / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.env = home(folder)
        self.runtime = folder / "runtime"
        self.port = free_port()
        self.log = folder / "server.txt"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def arguments(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> Self:
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                self.arguments(), cwd=self.work, env=self.env, stdout=log, stderr=log, start_new_session=True
            )
        try:
            until(self._answers, f"{self.log}: it did not start", START_S)
        except BaseException:
            self.stop()
            raise
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}{self.ready}", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            with error:
                return error.code < 500
        except OSError:
            return False

    def stop(self) -> None:
        """Ask it to end; whatever is left of it after a while is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def ask(self, method: str, path: str) -> Any:
        """An answer of its REST interface."""
        request = urllib.request.Request(
            f"{self.url}{path}", method=method, headers={"Authorization": f"token {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def kernels(self) -> list[Path]:
        """Connection files of its kernels, the newest last."""
        found = [*self.runtime.rglob("kernel-*.json"), *self.folder.rglob("voila_*/kernel-*.json")]
        return sorted(set(found), key=lambda path: path.stat().st_mtime_ns)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Lab(Server):
    """JupyterLab, with `window.jupyterapp`."""

    ready = "/api"

    def arguments(self) -> list[str]:
        return [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *("--LabApp.expose_app_in_browser=True", "--LabApp.collaborative=False", "--LabApp.check_for_updates_class="
              "jupyterlab.NeverCheckForUpdate"),
            *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}", "--ServerApp.port_retries=0"),
            *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={self.work}"),
        ]  # fmt: skip

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with suppress(OSError):
                for session in self.ask("GET", "/api/sessions"):
                    self.ask("DELETE", f"/api/sessions/{session['id']}")
        super().stop()


class Voila(Server):
    """Voila, as it is out of the box, showing one notebook."""

    def __init__(self, folder: Path, notebook: Path):
        super().__init__(folder, notebook.parent)
        self.notebook = notebook

    def arguments(self) -> list[str]:
        return [
            *(sys.executable, "-m", "voila", str(self.notebook), "--no-browser", f"--port={self.port}"),
            *("--Voila.ip=127.0.0.1", "--Voila.port_retries=0", f"--token={TOKEN}"),
            *(f"--Voila.connection_dir_root={self.folder}", "--show_tracebacks=True"),
        ]


def notebook(path: Path, cells: Sequence[str]) -> Path:
    """A notebook of these cells of code."""
    import nbformat

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(book, path)
    return path


# ---------------------------------------------------------------------------------------------------- the browser


class Browser:
    """Chromium without a head. A context manager."""

    def __enter__(self) -> Self:
        from playwright.sync_api import sync_playwright

        self._playwright = sync_playwright().start()
        try:
            self.chromium = self._playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        except BaseException:
            self._playwright.stop()
            raise
        self._pages: list[Page] = []
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for page in self._pages:
            if error is not None:
                with suppress(Exception):
                    page.look("failed")
            with suppress(Exception):
                page.close()
        self.chromium.close()
        self._playwright.stop()

    def open(self, server: Server, pictures: Path | None = None, width: int = 1440, height: int = 1000) -> Page:
        """A page of a server that has not gone anywhere yet. Pictures go to SMARTORDERS_SCREENSHOTS, else to `pictures`."""
        chosen = os.environ.get("SMARTORDERS_SCREENSHOTS") or pictures or server.folder / "screenshots"
        page = Page(self, server, Path(chosen), width, height)
        self._pages.append(page)
        return page


class Page:
    """A page: what it shows, what it asked for that is not here, what it complained about. `it` is Playwright's."""

    def __init__(self, browser: Browser, server: Server, pictures: Path, width: int, height: int):
        self.server, self.pictures = server, pictures
        self.blocked: list[str] = []
        self.errors: list[str] = []
        self.lines: list[str] = []
        self.traffic = 0
        self.context = browser.chromium.new_context(viewport={"width": width, "height": height})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.context.set_default_timeout(WAIT_MS)
        self.context.route("**/*", self._route)
        self.it = self.context.new_page()
        self.it.on("console", self._console)
        self.it.on("pageerror", lambda error: self.errors.append(f"page: {error.stack or error}"))

    def _route(self, route: Any) -> None:
        at = urlsplit(route.request.url)
        if at.scheme in ("data", "blob") or at.hostname in ("127.0.0.1", "localhost"):
            route.continue_()
        else:
            self.blocked.append(route.request.url)
            route.abort()

    def _console(self, message: Any) -> None:
        self.lines.append(f"{message.type}: {message.text}")
        if message.type == "error" and not any(quiet in message.text for quiet in QUIET):
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def close(self) -> None:
        self.context.close()

    # ------------------------------------------------------------------------------------------------ going places

    def notebook(self, name: str, cells: Sequence[str] | None = None) -> Page:
        """Open a notebook in JupyterLab, made of `cells` if they are given, and wait for its kernel."""
        if cells is not None:
            notebook(self.server.work / name, cells)
        self.it.goto(f"{self.server.url}/lab/tree/{name}?token={TOKEN}&reset")
        self._ready()
        return self

    def _ready(self) -> None:
        self.it.wait_for_function(
            """() => {
                const panel = window.jupyterapp?.shell?.currentWidget;
                return !document.getElementById('jupyterlab-splash') && panel?.content?.widgets?.length > 0
                    && panel.sessionContext?.session?.kernel?.status === 'idle';
            }"""
        )

    def show(self, path: str = "/") -> Page:
        """Open a page of Voila, and wait until its cells have run."""
        at = f"{self.server.url}{path}"
        self.it.goto(at + ("&" if "?" in at else "?") + f"token={TOKEN}")
        self.it.wait_for_selector("#rendered_cells", state="visible")
        return self

    def reload(self) -> None:
        """As F5 does."""
        self.it.reload()
        if isinstance(self.server, Lab):
            self._ready()
        else:
            self.it.wait_for_selector("#rendered_cells", state="visible")

    # ------------------------------------------------------------------------------------------------ JupyterLab

    def command(self, name: str, **arguments: Any) -> None:
        """A command of JupyterLab, to its end."""
        self.it.evaluate("([name, args]) => window.jupyterapp.commands.execute(name, args)", [name, arguments])

    def run_all(self) -> None:
        """All cells, to their end."""
        self.command("notebook:run-all-cells")
        self.failed()

    def failed(self) -> None:
        """Raise what a cell has raised."""
        wrong = self.it.evaluate(
            """() => window.jupyterapp.shell.currentWidget.content.model.sharedModel.cells
                .flatMap(cell => cell.getOutputs?.() ?? []).filter(out => out.output_type === 'error')
                .map(out => out.traceback.join('\\n'))"""
        )
        assert not wrong, re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(wrong))

    def run(self, cell: int) -> None:
        """One cell, to its end."""
        self.it.evaluate(
            """async number => {
                const app = window.jupyterapp, content = app.shell.currentWidget.content;
                content.activeCellIndex = number;
                await app.commands.execute('notebook:run-cell');
            }""",
            cell,
        )
        self.failed()

    def restart(self) -> None:
        """A new kernel for the notebook; what is shown stays."""
        self.it.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        self._ready()

    def theme(self, word: str) -> None:
        """`light` or `dark`."""
        if isinstance(self.server, Lab):
            self.command("apputils:change-theme", theme=f"JupyterLab {word.title()}")
            light = "true" if word == "light" else "false"
            self.it.wait_for_function(
                "light => document.body.dataset.jpThemeLight === light && !document.getElementById('jupyterlab-splash')",
                arg=light,
            )
        else:
            self.it.emulate_media(color_scheme=word)

    def save(self) -> None:
        """The notebook, with what its cells show."""
        self.command("docmanager:save")

    # ------------------------------------------------------------------------------------------------ looking

    def value(self, code: str, before: str = "") -> Any:
        """What an expression is in the newest kernel of the server, through JSON; `before` is run first. Cells do not wait for it."""
        return kernel(self.server.kernels()[-1], code, before)

    def wait(self, selector: str, **how: Any) -> Any:
        """The first element of a selector, once it can be seen."""
        found = self.it.locator(selector).first
        found.wait_for(**({"state": "visible"} | how))
        return found

    def look(self, name: str, selector: str = "") -> Path:
        """A picture of the page, or of one element of it."""
        self.pictures.mkdir(parents=True, exist_ok=True)
        path = self.pictures / f"{name}.png"
        if selector:
            self.it.locator(selector).first.screenshot(path=path)
        else:
            self.it.screenshot(path=path)
        return path

    def size(self, width: int, height: int = 1000) -> None:
        """Another size of window."""
        self.it.set_viewport_size({"width": width, "height": height})

    def drag(self, element: Any, dx: float, dy: float, steps: int = 12) -> None:
        """Take an element by its middle and pull it, in pixels."""
        element.scroll_into_view_if_needed()
        box = element.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse = self.it.mouse
        mouse.move(x, y)
        mouse.down()
        mouse.move(x + dx, y + dy, steps=steps)
        mouse.up()


def kernel(connection: Path, code: str, before: str = "") -> Any:
    """What `code` is in a kernel, through JSON. On a thread of its own: Playwright has the event loop of this one."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(asyncio.run(_asked(connection, code, before)))
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


async def _asked(connection: Path, code: str, before: str) -> Any:
    from jupyter_client.asynchronous import AsyncKernelClient

    ask = {"value": f"__import__('json').dumps({code})"}
    client = AsyncKernelClient(connection_file=str(connection))
    client.load_connection_file()
    client.start_channels(hb=False, stdin=False)
    try:
        reply = await client.execute(before, False, False, ask, reply=True, timeout=KERNEL_S)
    finally:
        client.stop_channels()
        client.context.destroy(0)
    content = reply["content"]
    assert content["status"] == "ok", (content["ename"], content["evalue"])
    told = content["user_expressions"]["value"]
    assert told["status"] == "ok", (told["ename"], told["evalue"])
    return json.loads(ast.literal_eval(told["data"]["text/plain"]))
