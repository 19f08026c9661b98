"""`python -m benchmarks`: one table. Output is compared before anything is timed; what differs ends the run."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

from rich.console import Console

from . import blocking, house, indexing, live, odds, orders, others, panel, sweeps, trading
from .scale import FULL, QUICK, TOY
from .table import plain, show

PARTS = {
    "orders": orders.rows,
    "growth": orders.growth,
    "index": indexing.rows,
    "sweeps": sweeps.rows,
    "odds": odds.rows,
    "live": live.rows,
    "trading": trading.rows,
    "panel": panel.rows,
    "blocking": blocking.rows,
    "store": house.storing,
    "import": house.importing,
    "others": others.rows,
}


def main() -> None:
    """Run the parts asked for and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_const", dest="scale", const=QUICK, help="about a minute (default)")
    size.add_argument("--full", action="store_const", dest="scale", const=FULL, help="everything: 200 M ticks, 8 GiB")
    size.add_argument("--toy", action="store_const", dest="scale", const=TOY, help="only to see that it runs")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be given several times")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    chosen = parser.parse_args()
    scale = chosen.scale or QUICK
    rows = []
    note = Console(stderr=True)
    for name, part in PARTS.items():
        if chosen.only and name not in chosen.only:
            continue
        note.print(f"[dim]{name} …[/]")
        for row in part(scale):
            rows.append(row)
            note.print(f"[dim]  {row.work}, {row.size}: {row.ours}; {row.reference}[/]")
    show(rows)
    if chosen.json:
        about = {"python": platform.python_version(), "cores": os.cpu_count(), "command": sys.argv[1:]}
        chosen.json.write_text(json.dumps({"about": about, "rows": plain(rows)}, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
