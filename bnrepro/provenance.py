"""Record where a result comes from: which code computed it, and on which machine."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import platform
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

from . import places
from .places import PACKAGE

ROOM = "recipe"
"""The module of this package from which all code that computes results is reached."""


@functools.cache
def code_digest(names: frozenset[str] = frozenset(), package: Path = PACKAGE) -> str:
    """Return the digest of all code that computes results: other code may compute others.

    That is the module ``recipe``, the modules that define what ``names`` stand for, and whatever of this project or of
    the user's these import, found from their import statements; not what is installed, nor the package's
    ``__init__``, which only gathers names for users. Of each module its syntax tree counts, without docstrings,
    comments, type annotations, layout, and what is imported for type checking only.

    Args:
        names: import paths, as ``package.module.Class``.
        package: folder of this package.
    """
    own = __package__ or PACKAGE.name
    waiting = [*_with_parents(f"{own}.{ROOM}"), *(part for name in names for part in _with_parents(name))]
    found: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        path = _file(module, own, package)
        if path is None or module in found or path == package / "__init__.py":
            continue
        found[module], imported = _read(path.read_bytes(), module, path.name == "__init__.py")
        waiting += imported
    return digest("".join(f"{module}\0{text}\0" for module, text in sorted(found.items())))


def digest(text: str) -> str:
    """Return the digest of a text, as ids have it: 16 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@functools.cache
def _read(source: bytes, module: str, is_package: bool) -> tuple[str, tuple[str, ...]]:
    """Return what counts in a module, and every module that it may import."""
    tree, text = ast.parse(source), list[str]()
    _write(tree, text)
    return "".join(text), tuple(_imports(tree, module, is_package=is_package))


def _file(module: str, own: str, package: Path) -> Path | None:
    """Return the source of a module of this package or of the user's; None of what is installed, or is no module."""
    top = module.partition(".")[0]
    if top == own:
        stem = package.joinpath(*module.split(".")[1:])
        beside = [stem.with_name(f"{stem.name}.py"), stem / "__init__.py"]
        if (path := next((path for path in beside if path.is_file()), None)) is not None:
            return path
    elif _is_installed(top):
        return None
    return _source(module)


def _source(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):  # a class, say, and no module
        return None
    return Path(spec.origin).resolve() if spec and spec.origin and spec.origin.endswith(".py") else None


@functools.cache
def _is_installed(top: str) -> bool:
    """Tell whether a top-level module is not the user's own: of the standard library, built in, or from a package."""
    path = _source(top)
    folders = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return top in sys.stdlib_module_names or (path is not None and not folders.isdisjoint(path.parents))


def _with_parents(dotted: str) -> Iterator[str]:
    """Return every module that a dotted name may mean, with the packages around it."""
    parts = dotted.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts) + 1))


def _imports(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[str]:
    """Return every module that the import statements of a module may mean, with the packages around it."""
    for node in _walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _with_parents(alias.name)
        elif isinstance(node, ast.ImportFrom):
            around = module.split(".")
            around = around[: len(around) - node.level + is_package] if node.level else []
            source = [*around, *filter(None, [node.module])]
            for alias in node.names:
                yield from _with_parents(".".join([*source, alias.name]))


def _is_for_types_only(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _counts(node: ast.AST) -> bool:
    """Tell whether a statement can change a number: docstrings, of attributes too, can't."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return not is_text and not _is_for_types_only(node)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if _counts(child):
            yield from _walk(child)


ANNOTATIONS = {"annotation", "returns", "type_comment", "type_params", "type_ignores"}


def _write(node: object, text: list[str]) -> None:
    """Write a syntax tree so that it reads the same in every version of Python."""
    if isinstance(node, list):
        text.append("[")
        for item in node:
            if not isinstance(item, ast.AST) or _counts(item):
                _write(item, text)
        text.append("]")
    elif isinstance(node, ast.AST):
        text.append(type(node).__name__ + "(")
        for name, value in ast.iter_fields(node):
            if name not in ANNOTATIONS and value not in (None, []):  # versions add fields that are empty
                text.append(name + "=")
                _write(value, text)
        text.append(")")
    else:
        text.append(repr(node) + ",")


@functools.cache
def software() -> dict[str, Any]:
    """Return the version of this package, and the commit of this checkout, if it is one."""
    commit = ""
    if places.CHECKOUT:  # else git might tell the commit of a project around the installed package
        command = ["git", "-C", str(places.CHECKOUT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        with suppress(OSError):  # no git
            commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return {"bnrepro": places.VERSION, "git_commit": commit or None}


def environment() -> dict[str, Any]:
    """Return all but the code that can matter to the bits of a result, as this process has it.

    Versions, that of Numba once it is imported; the machine's name and its processor's; the instruction sets that NumPy
    found besides its baseline; and the BLAS that NumPy runs on: its name and version, its kernel and its threads in
    force.
    """
    found = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    # SciPy brings an OpenBLAS of its own; NumPy's is the one that products go through.
    lib = next((lib for lib in found if "numpy" in lib["filepath"]), found[0] if found else {})
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        # NumPy leaves out what is empty.
        "simd": " ".join(np.show_config(mode="dicts").get("SIMD Extensions", {}).get("found", [])),
        "blas": f"{lib['internal_api']} {lib['version']}" if lib else None,
        "blas_kernel": lib.get("architecture"),
        "blas_threads": lib.get("num_threads"),
        "machine": platform.machine(),
        "cpu": _cpu(),
        "host": platform.node(),
        "numba": numba.__version__ if (numba := sys.modules.get("numba")) else None,
    }


@functools.cache
def _cpu() -> str | None:
    """Return the name of the processor's model, where the system tells."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or None


def peak_memory() -> int | None:
    """Return the most memory, in bytes, that this process has had; None where the system does not tell, as Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
