"""The one kernel decorator, and the one place that imports numba.

numba's own cache does not notice that a callee *in another file* has changed: the cached caller would go on giving
yesterday's answer. So the cache folder is named by a digest of all kernel sources and of the versions that compile them.
`NUMBA_DISABLE_JIT=1` runs the same functions as plain Python.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

KERNELS = (
    "jit.py",
    "rows.py",
    "codes.py",
    "exact.py",
    "passages.py",
    "venue.py",
    "position.py",
    "kernel.py",
    "management.py",
    "waits.py",
    "engine.py",
    "grids.py",
    "watching.py",
    "matching.py",
)


@functools.cache
def engine_digest() -> str:
    """What the rules were compiled from: 16 hex digits of all kernel sources and of the compiler's versions, as they were loaded."""
    import llvmlite

    digest = hashlib.blake2b(digest_size=8)
    here = Path(__file__).parent
    for name in KERNELS:
        digest.update((here / name).read_bytes())
    digest.update(
        f"{numba.__version__} {llvmlite.__version__} {platform.python_version()} {platform.machine()}".encode()
    )
    return digest.hexdigest()


def _cache_folder() -> Path:
    base = os.environ.get("SMARTORDERS_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "smartorders_lab" / engine_digest()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"smartorders_lab_{os.getuid()}" / engine_digest()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


import numba  # noqa: E402
from numba.core import config as _numba_config  # noqa: E402
from numba.core import types  # noqa: E402

_config: Any = _numba_config


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel function: no Python objects, no GIL, integer division as in C's fast path.

    It can be called from other kernel functions only; what Python calls is an `entry_point`.
    """
    return _compile(function, inline=True, **_INNER)


def rare(function: Callable[..., Any]) -> Any:
    """A kernel function off the hot path: compiled once and called, instead of being inlined into each of its callers."""
    return _compile(function, inline=False, **_INNER)


def entry_point(function: Callable[..., Any]) -> Any:
    """A kernel function that Python calls, cached on disk with all that it calls."""
    return _compile(function, inline=True, cache=True)


# _nrt: no kernel makes an array, so none needs to count who holds it; counting took half of the time of a search
_ALL: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
_INNER: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _compile(function: Callable[..., Any], inline: bool, **options: Any) -> Any:
    before = _config.CACHE_DIR
    _config.CACHE_DIR = str(_cache_folder())
    try:
        compiled: Any = numba.njit(**_ALL, **options)(function)
    finally:
        _config.CACHE_DIR = before
    resolve = getattr(compiled, "get_call_template", None)
    if resolve is not None:  # absent with the JIT off
        compiled.get_call_template = lambda args, kws: _callee(compiled, inline, resolve, args, kws)
    return compiled


def _callee(compiled: Any, inline: bool, resolve: Callable[..., Any], args: Any, kws: Any) -> Any:
    """Compile a function that another kernel function calls, in a way that keeps the first replay short.

    numba would compile it once for every constant it is called with (133 versions of 65 functions, 35 s), so constants count as
    plain integers; it would optimise it and emit machine code for it alone and again inside every caller, so both are left to the
    entry point; and it would inline everything everywhere, so what is rare is marked not to be. Together: 35 s to 8 s.
    """
    with _link_only(compiled.targetctx.codegen()):
        template = resolve(tuple(map(types.unliteral, args)), kws)
    if not inline:
        for overload in compiled.overloads.values():
            for llvm_function in overload.library._final_module.functions:
                if not llvm_function.is_declaration and str(llvm_function.linkage) == "Linkage.external":
                    llvm_function.add_function_attribute("noinline")
    return template


@contextlib.contextmanager
def _link_only(codegen: Any) -> Iterator[None]:
    """Inside, what is compiled is kept for linking into its callers, unoptimised, and given no machine code of its own."""
    engine, level = codegen._engine, _config.OPT
    nested = "_add_module" in vars(codegen)
    if not nested:
        codegen._add_module = lambda module: None
        codegen.set_env = lambda name, env: None
        engine.finalize_object = lambda: None
    _config.OPT = type(level)(0)
    try:
        yield
    finally:
        _config.OPT = level
        if not nested:
            del codegen._add_module, codegen.set_env, engine.finalize_object
