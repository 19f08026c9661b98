"""The chart of the panel in a real JupyterLab and a real Chromium, beside a FigureWidget of plotly that does the same work; and a board.

Both charts show 10,000 points and get ten updates a second. Measured is from just before Python sends to the frame after the one that
was drawn from it; both clocks are of this machine. Bytes are those that the page's web sockets receive. The board shows a session whose
market ticks twenty times a second: how late a timer of the kernel's main loop is says how long a cell would wait, and its memory, over an
hour of ticks in a minute, whether a board that stays open grows.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .scale import Scale
from .table import Row, within

POINTS, PACE, TICKS = 10_000, 10, 3
WAIT = 90_000
LATENCY, RATE, PAINT, SIZE = 0.050, 15_000, 0.5, 300_000
ORDERS, HERTZ, ANSWER, GROWTH = 50, 20, 0.1, 10.0
ROOT = Path(__file__).parents[1]

SHARED = f"""
import json, threading, time
import numpy as np
rng = np.random.default_rng(1)
N, PACE, TICKS = {POINTS}, {PACE}, {TICKS}
def walk(n, start=64000.0):
    return np.round(start + np.cumsum(rng.normal(0, 0.9, n)), 1)
price = walk(N)
ts = 1723118400_000_000_000 + np.arange(N) * 33_333_333
def stream(update, seconds, out):
    def run():
        sent, begin = [], time.perf_counter()
        for k in range(1, int(seconds * PACE) + 1):
            time.sleep(max(0, begin + k / PACE - time.perf_counter()))
            sent.append([k * TICKS, time.time()])
            update(k)
        with open(out, "w") as file:
            json.dump(sent, file)
    thread = threading.Thread(target=run)
    thread.start()
"""
OURS = {
    "load": SHARED + "import smartorders_lab as so\nfrom smartorders_lab.panel.chart import OrderChart\n"
    "ticks = so.Ticks.from_arrays(ts, price, unit='ns', instrument=so.Instrument(symbol='BTC/USDT', price_increment='0.1'))\n"
    "last = float(price[-1])\n"
    "lines = [dict(id=i, kind=k, price=round(last + d, 1), label=i, draggable=True) for i, k, d in\n"
    "         [('TP3', 'level', 90), ('TP2', 'level', 60), ('TP1', 'level', 30), ('Entry', 'entry', 0), ('SL', 'stop', -60)]]\n",
    "show": "began = time.time()\nchart = OrderChart(ticks)\nchart.lines = lines\n"
    "open('began', 'w').write(str(began))\nchart",
    # the ring of the browser is filled to its 10,000 points before anything is measured
    "fill": "more = walk(N, last)\nchart.append(ts[-1] + 1 + np.arange(N) * 33_333_333, more)",
    "stream": "now = int(ts[-1]) + 1 + N * 33_333_333\n"
    "new = walk(N, more[-1])\n"
    "def update(k):\n"
    "    i = k * TICKS\n"
    "    chart.append(now + np.arange(i, i + TICKS) * 33_333_333, new[i:i + TICKS])\n"
    "stream(update, {seconds}, 'sent')",
}
THEIRS = {
    "load": SHARED + "import plotly.graph_objects as go\nlast = float(price[-1])\n",
    "show": "began = time.time()\nfig = go.FigureWidget(go.Scatter(x=np.arange(N), y=price, mode='lines'))\n"
    "for d in (90, 60, 30, 0, -60):\n    fig.add_hline(last + d)\n"
    "open('began', 'w').write(str(began))\nfig",
    "fill": "None",
    "stream": "x, y, new = np.arange(N), price.copy(), walk(N, last)\n"
    "def update(k):\n"
    "    global x, y\n"
    "    x, y = x + TICKS, np.append(y[TICKS:], new[k * TICKS:(k + 1) * TICKS])\n"
    "    with fig.batch_update():\n"
    "        fig.data[0].x, fig.data[0].y = x, y\n"
    "stream(update, {seconds}, 'sent')",
}
# What is drawn is noted in the frame that follows; a figure says which points it shows by the x of the newest.
WATCH = """
(() => {
  const lab = (window.bench = { drawn: [], bytes: 0, at0: null });
  const now = () => performance.timeOrigin + performance.now();
  const note = (at) => requestAnimationFrame(() => lab.drawn.push([at, now(), lab.bytes]));
  const Real = window.WebSocket;
  window.WebSocket = class extends Real {
    constructor(...args) {
      super(...args);
      this.addEventListener("message", ({ data }) => (lab.bytes += data.byteLength ?? data.size ?? data.length));
    }
  };
  document.addEventListener("orderchart:drawn", (event) => note(event.detail.at));
  const look = () => {
    const gd = document.querySelector(".js-plotly-plot");
    if (!gd || !gd.on || !gd.querySelector(".scatterlayer .trace path")) return requestAnimationFrame(look);
    const tell = () => note(Array.from(gd.data[0].x).at(-1) - N + 1);
    gd.on("plotly_afterplot", tell);
    tell();
  };
  look();
})();
""".replace("N", str(POINTS), 1).replace("- N +", f"- {POINTS} +")


def missing() -> str:
    """What these measurements need and is not here, as words; empty if all is."""
    gone = [name for name in ("jupyterlab", "anywidget", "plotly", "playwright") if find_spec(name) is None]
    if chromium() is None:
        gone.append("chromium")
    return ", ".join(gone)


def chromium() -> str | None:
    """Where the browser is."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def rows(scale: Scale) -> Iterator[Row]:
    """Send to drawn, bytes a second, first paint: ours, and a FigureWidget's."""
    if gone := missing():
        yield Row("panel, streaming", f"{POINTS:,} points", "skipped", f"not here: {gone}")
        return
    seconds = 4 * scale.rounds
    with laboratory() as lab:
        ours, theirs = measure(lab, OURS, seconds), measure(lab, THEIRS, seconds)
        calm, hour = watch(lab, 1, seconds), watch(lab, 60, 15 * scale.rounds)
    size = f"{POINTS:,} points, {PACE} updates/s, {seconds} s"
    p95 = ours["p95"]
    yield within(
        "panel, send to drawn", size, times(ours), p95, LATENCY, "p95 ≤ 50 ms", f"FigureWidget: {times(theirs)}"
    )
    wire = [f"{one['rate'] / 1000:,.1f} kB/s" for one in (ours, theirs)]
    yield within("panel, on the wire", size, wire[0], ours["rate"], RATE, "≤ 15 kB/s", f"FigureWidget: {wire[1]}")
    paint = [f"{one['paint']:.2f} s" for one in (ours, theirs)]
    yield within(
        "panel, first paint",
        f"{POINTS:,} ticks",
        paint[0],
        ours["paint"],
        PAINT,
        "≤ 0.5 s",
        f"FigureWidget: {paint[1]}",
    )
    sizes = [f"{one['size'] / 1e6:.2f} MB" for one in (ours, theirs)]
    yield within(
        "panel, first paint",
        "received until then",
        sizes[0],
        ours["size"],
        SIZE,
        "≤ 0.3 MB",
        f"FigureWidget: {sizes[1]}",
    )
    size = f"{ORDERS} orders, {HERTZ} ticks/s, {seconds} s"
    yield within(
        "board, the kernel answers", size, f"p95 {calm['late'] * 1e3:.0f} ms", calm["late"], ANSWER, "p95 ≤ 100 ms"
    )
    said = f"{hour['begin']:,.0f} → {hour['end']:,.0f} MiB"
    size = f"{ORDERS} orders, {15 * scale.rounds} min of ticks, 60 × as fast"
    yield within("board, memory of the kernel", size, said, hour["end"] - hour["begin"], GROWTH, "≤ 10 MiB more")


def times(one: dict[str, float]) -> str:
    """Latencies, as one reads them."""
    lost = "" if one["drawn"] == 1 else f" ({1 - one['drawn']:.0%} never drawn)"
    return f"p50 {one['p50'] * 1e3:,.0f} ms, p95 {one['p95'] * 1e3:,.0f} ms{lost}"


class Laboratory:
    """A JupyterLab of its own, and a browser."""

    def __init__(self, folder: Path, port: int, browser: Any):
        self.folder, self.port, self.browser = folder, port, browser

    def page(self, name: str, cells: list[str]) -> Any:
        """A notebook with these cells, opened, its kernel idle."""
        made = [
            {"cell_type": "code", "id": f"c{i}", "source": s, "metadata": {}, "outputs": [], "execution_count": None}
            for i, s in enumerate(cells)
        ]
        about = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        book = {"cells": made, "metadata": about, "nbformat": 4, "nbformat_minor": 5}
        (self.folder / "work" / f"{name}.ipynb").write_text(json.dumps(book))
        page = self.browser.new_page(viewport={"width": 1300, "height": 900})
        page.add_init_script(WATCH)
        page.goto(f"http://127.0.0.1:{self.port}/lab/tree/{name}.ipynb?token=bench&reset", timeout=WAIT)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=WAIT)
        page.wait_for_function(f"() => ({NOTEBOOK})?.sessionContext?.session?.kernel?.status === 'idle'", timeout=WAIT)
        return page


NOTEBOOK = "window.jupyterapp?.shell?.currentWidget"


def measure(lab: Laboratory, cells: dict[str, str], seconds: int) -> dict[str, float]:
    """One kind of chart: latencies and first paint in seconds, bytes, bytes a second."""
    work = lab.folder / "work"
    for name in ("began", "sent"):
        (work / name).unlink(missing_ok=True)
    page = lab.page(
        f"bench{id(cells)}", [cells["load"], cells["show"], cells["fill"], cells["stream"].format(seconds=seconds)]
    )

    run_cell(page, 0)
    bytes_before = page.evaluate("bench.bytes")
    run_cell(page, 1)
    page.wait_for_function("bench.drawn.length > 0", timeout=WAIT)
    _, painted, bytes_then = page.evaluate("bench.drawn[0]")
    began = float((work / "began").read_text())
    run_cell(page, 2)
    page.wait_for_timeout(3000)
    page.evaluate("() => { bench.drawn.length = 0; bench.bytes = 0; }")
    run_cell(page, 3)
    until(lambda: (work / "sent").exists(), seconds + 60)
    time.sleep(2)
    sent = np.array(json.loads((work / "sent").read_text()))
    drawn = np.array(page.evaluate("bench.drawn"))
    page.close()
    reached = np.maximum.accumulate(drawn[:, 0])
    base = 0 if cells is THEIRS else POINTS
    first = np.searchsorted(reached, sent[:, 0] + base)
    seen = first < len(drawn)
    late = np.full(len(sent), np.inf)  # what was never drawn is late without end
    late[seen] = drawn[first[seen], 1] / 1e3 - sent[seen, 1]
    return {
        "p50": float(np.quantile(late, 0.5, method="higher")),
        "p95": float(np.quantile(late, 0.95, method="higher")),
        "drawn": float(seen.mean()),
        "rate": float(drawn[-1, 2] / seconds),
        "paint": painted / 1e3 - began,
        "size": bytes_then - bytes_before,
    }


BOARD = {
    "load": f"""
import asyncio, json, time
import numpy as np
import smartorders_lab as so
n = {HERTZ} * 3600 * 2
rng = np.random.default_rng(1)
price = np.round(100 + np.cumsum(rng.normal(0, 0.001, n)), 2)
ts = 1723118400_000_000_000 + np.arange(n) * {10**9 // HERTZ}
ticks = so.Ticks.from_arrays(ts, price, unit='ns', instrument=so.Instrument(symbol='BTC/USDT', price_increment='0.01'))
session = so.paper(feed=so.recorded(ticks, speed=SPEED))
for k in range({ORDERS}):
    session.place(so.SmartOrder(symbol='BTC/USDT', side='buy', quantity=1, stop_loss='-40%', take_profits=[('+50%', 100)]))
""",
    "show": "board = so.Board(session)\nboard",
    "watch": """
def resident():
    return int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20
async def look():
    await asyncio.sleep(SECONDS / 3)  # what is allocated once has been
    begin, late, end = resident(), [], time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        due = time.perf_counter() + 0.02
        await asyncio.sleep(0.02)
        late.append(time.perf_counter() - due)
    seen = session.state([])['symbols']['BTC/USDT']['ticks']
    found = dict(begin=begin, end=resident(), late=float(np.quantile(late, 0.95)), ticks=seen)
    board.close()
    session.close()
    with open('watched', 'w') as file:
        json.dump(found, file)
task = asyncio.get_running_loop().create_task(look())
""",
}


def watch(lab: Laboratory, speed: int, seconds: int) -> dict[str, float]:
    """A board over a session: how late its kernel's loop is (p95, s), its memory at the beginning and the end (MiB)."""
    done = lab.folder / "work" / "watched"
    done.unlink(missing_ok=True)
    cells = [text.replace("SPEED", str(speed)).replace("SECONDS", str(seconds)) for text in BOARD.values()]
    page = lab.page(f"board{speed}", cells)
    for i in range(len(cells)):
        run_cell(page, i)
    until(done.exists, 2 * seconds + 60)
    time.sleep(0.2)
    page.close()
    found: dict[str, float] = json.loads(done.read_text())
    if found["ticks"] < 0.8 * HERTZ * speed * seconds:
        raise AssertionError(f"the session has seen {found['ticks']} ticks only")
    return found


def run_cell(page: Any, i: int) -> None:
    """Run one cell, and wait until it is done."""
    book = f"const book = {NOTEBOOK}.content; book.activeCellIndex = i;"
    page.evaluate(f"async (i) => {{ {book} await jupyterapp.commands.execute('notebook:run-cell'); }}", i)
    page.wait_for_function(f"(i) => {NOTEBOOK}.content.widgets[i].model.executionCount > 0", arg=i, timeout=WAIT)


def until(condition: Any, seconds: float) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the notebook did not answer")
        time.sleep(0.1)


@contextmanager
def laboratory() -> Iterator[Laboratory]:
    """JupyterLab on this machine alone, with a configuration of its own, and Chromium."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as name, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        folder, port = Path(name), probe.getsockname()[1]
        (folder / "work").mkdir()
        settings = folder / "config" / "labconfig"
        settings.mkdir(parents=True)
        off = {"@jupyterlab/apputils-extension:announcements": True}
        (settings / "page_config.json").write_text(json.dumps({"disabledExtensions": off}))
        places = {"CONFIG": "config", "DATA": "data", "RUNTIME": "runtime"}
        env = {**os.environ, **{f"JUPYTER_{key}_DIR": str(folder / value) for key, value in places.items()}}
        env |= {"PYTHONPATH": str(ROOT), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        probe.close()
        options = [
            "--no-browser",
            "--ip=127.0.0.1",
            f"--port={port}",
            "--ServerApp.port_retries=0",
            "--IdentityProvider.token=bench",
        ]
        options += ["--LabApp.expose_app_in_browser=True", "--allow-root"]
        with open(folder / "log", "wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *options],
                cwd=folder / "work",
                env=env,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            until(lambda: answers(port), 90)
            with sync_playwright() as engine:
                browser = engine.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
                yield Laboratory(folder, port, browser)
                browser.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                server.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    """Whether the server is up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=5):
            return True
    except OSError:
        return False
