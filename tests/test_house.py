"""The house of ARCHITECTURE.md is the house that stands: who imports whom, who owns the heavy packages, what an import loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import smartorders_lab as so
from smartorders_lab import jit

PACKAGE = Path(so.__file__).parent
PAGE = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
HEAVY = {
    "numba": {"jit"},
    "duckdb": {"store", "feeds/history"},
    "aiohttp": {"serve", "remote", "brokers/venues"},
    "ccxt": {"feeds/fetch", "feeds/live", "brokers/venues"},
    "plotly": {"charts", "heatmaps"},
    "typer": {"cli", "trade_cli", "panel_cli"},
    "distributed": {"cluster"},
}


def modules() -> dict[str, ast.Module]:
    paths = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    return {path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(path.read_text()) for path in paths}


def floors() -> list[list[str]]:
    """The rows of the house, from the bottom (words) to the top (faces)."""
    drawing = PAGE.split("## The house")[1].split("```")[1]
    return [line.split()[1:] for line in drawing.strip().splitlines()]


def imported(tree: ast.Module, at_load: bool) -> set[str]:
    """Modules that a module imports; `at_load`: when it is imported itself, not in functions or for types."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            lazy = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            if at_load and (lazy or typing):
                continue
            if isinstance(child, ast.ImportFrom):
                base = ("." * child.level) + (child.module or "")
                found.update([base] if child.module else [base + alias.name for alias in child.names])
            elif isinstance(child, ast.Import):
                found.update(alias.name for alias in child.names)
            visit(child)

    visit(tree)
    return found


def test_every_module_has_a_floor() -> None:
    assert sorted(name for floor in floors() for name in floor) == sorted(modules())


def test_imports_only_go_down_the_house() -> None:
    level = {name: n for n, floor in enumerate(floors()) for name in floor}
    for name, tree in modules().items():
        for target in imported(tree, at_load=True):
            if target.startswith("."):
                other = target.lstrip(".").replace(".", "/")
                own = f"{name.rpartition('/')[0]}/{other}"
                other = own if own in level and not target.startswith("..") else other
                if other in level:
                    assert level[other] <= level[name], f"{name} imports {other}, which stands above it"


@pytest.mark.parametrize("package", HEAVY)
def test_heavy_packages_have_one_owner(package: str) -> None:
    users = {
        n for n, tree in modules().items() if any(t.split(".")[0] == package for t in imported(tree, at_load=False))
    }
    assert users == HEAVY[package]


@pytest.mark.parametrize(
    "statement", ["import smartorders_lab", "from smartorders_lab import SmartOrder, Entry, FillModel"]
)
def test_importing_loads_nothing_heavy(statement: str) -> None:
    heavy = ["ccxt", "plotly", "ipywidgets", "dask", "numba", "duckdb", "pandas", "polars", "IPython"]
    code = f"import sys; {statement}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_cache_is_keyed_by_every_kernel_source() -> None:
    """A kernel function in a file that the digest does not know would leave yesterday's rules in the cache."""
    users = {n for n, tree in modules().items() if ".jit" in imported(tree, at_load=True)}
    assert {f"{name}.py" for name in users | {"jit", "rows", "codes"}} == set(jit.KERNELS)


def test_every_public_name_is_there() -> None:
    for name in so.__all__:
        assert getattr(so, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Order'"):
        so.Order  # noqa: B018
