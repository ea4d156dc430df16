"""Which code computed a result: everything that can change a number is in the digest, and nothing else."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bnrepro import provenance
from bnrepro.places import PACKAGE
from bnrepro.provenance import code_digest, environment, software

COMPUTES = {
    "batchnorm", "data", "diagnostics", "errors", "inference", "layers", "measuring", "memory", "network", "optim",
    "recipe", "settings", "training",
}  # fmt: skip
"""Modules whose statements can change a number, or decide what is computed; and what training itself imports."""

OTHERS = {path.stem for path in PACKAGE.glob("*.py")} - COMPUTES

Change = Callable[[str, str], str]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package, to be changed."""
    return shutil.copytree(PACKAGE, tmp_path / "bnrepro", ignore=shutil.ignore_patterns("__pycache__"))


def digest(package: Path, *names: str) -> str:
    """Of a copy, as a new process would find it."""
    code_digest.cache_clear()
    return code_digest(frozenset(names), package)


def append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def test_the_digest_of_a_copy_is_that_of_the_package(package: Path) -> None:
    assert digest(package) == code_digest()
    assert re.fullmatch(r"[0-9a-f]{16}", code_digest())


@pytest.mark.parametrize("module", sorted(COMPUTES))
def test_a_statement_in_any_module_that_computes_changes_the_digest(package: Path, module: str) -> None:
    append(package / f"{module}.py", "\nnothing = 0\n")
    assert digest(package) != digest(PACKAGE)


@pytest.mark.parametrize("module", sorted(OTHERS))
def test_a_module_that_computes_nothing_is_not_in_the_digest(package: Path, module: str) -> None:
    append(package / f"{module}.py", "\nnothing = 0\n")
    assert digest(package) == digest(PACKAGE)


SOURCE = '''"""Module."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .layers import Array


# A comment.
class Thing:
    """Class."""

    size: int = 3
    """Attribute."""

    def double(self, x: float, *, y: int = 2) -> float:
        """Method."""
        return 2 * x  # twice
'''


@pytest.mark.parametrize(
    ("old", "new", "counts"),
    [
        ('"""Module."""', '"""Another."""', False),
        ('"""Class."""', "", False),
        ('"""Attribute."""', '"""Size."""', False),
        ('        """Method."""\n', "", False),
        ("# A comment.", "# Another.", False),
        ("  # twice", "", False),
        ("return 2 * x", "return (2 *\n                x)", False),
        ("size: int = 3", "size: float = 3", False),
        ("x: float, *, y: int = 2) -> float", "x, *, y=2)", False),
        ("    from .layers import Array", "    from .optim import Params", False),
        ("return 2 * x", "return 3 * x", True),
        ("return 2 * x", "return x * 2", True),
        ("return 2 * x", "return 2.0 * x", True),
        ("y: int = 2", "y: int = 3", True),
        ("size: int = 3", "size: int = 4", True),
        ("class Thing", "class Other", True),
        ("    def double", "    @staticmethod\n    def double", True),
        ('    """Class."""', '    text = """Class."""', True),
    ],
)
def test_words_and_layout_do_not_count_and_statements_do(package: Path, old: str, new: str, counts: bool) -> None:
    assert old in SOURCE
    append(package / "recipe.py", "\nfrom . import thing\n")
    (package / "thing.py").write_text(SOURCE)
    before = digest(package)
    (package / "thing.py").write_text(SOURCE.replace(old, new))
    assert (digest(package) != before) is counts


@pytest.mark.parametrize("newline", ["\r\n", "\n"])
def test_the_digest_is_the_same_with_the_line_ends_of_windows(package: Path, newline: str) -> None:
    for path in package.glob("*.py"):
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8", newline=newline)
    assert digest(package) == digest(PACKAGE)


@pytest.mark.parametrize(
    "statement",
    [
        "from . import helper",
        "from .helper import x",
        "import bnrepro.helper",
        "from bnrepro.helper import x",
        "def f():\n    from .helper import x",
        "from .deeper import helper",
        "from .deeper.helper import x",
    ],
)
def test_a_new_module_is_found_by_itself(package: Path, statement: str) -> None:
    helper = package / ("deeper/helper.py" if "deeper" in statement else "helper.py")
    helper.parent.mkdir(exist_ok=True)
    (package / "deeper").mkdir(exist_ok=True)
    (package / "deeper" / "__init__.py").write_text("")
    helper.write_text("x = 1\n")
    unused = digest(package)
    append(package / "layers.py", f"\n{statement}\n")
    before = digest(package)
    assert before != unused
    helper.write_text("x = 2\n")
    assert digest(package) != before


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package: ``own.Own``, which it has from ``parts.theirs``, which imports what is installed."""
    folder = tmp_path / "mine"
    (folder / "parts_of_test_provenance").mkdir(parents=True)
    files = {
        "own_of_test_provenance.py": "from parts_of_test_provenance.theirs import Theirs\nclass Own(Theirs): ...\n",
        "parts_of_test_provenance/__init__.py": "from . import gathered\n",
        "parts_of_test_provenance/gathered.py": "",
        "parts_of_test_provenance/theirs.py": (
            "import json, pandas\nfrom bnrepro.layers import ReLU\nclass Theirs(ReLU): ...\n"
        ),
        "parts_of_test_provenance/other.py": "",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    for name in [name for name in sys.modules if "_of_test_provenance" in name]:
        monkeypatch.delitem(sys.modules, name)
    provenance._is_installed.cache_clear()
    return folder


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("own_of_test_provenance.py", True),
        ("parts_of_test_provenance/__init__.py", True),
        ("parts_of_test_provenance/gathered.py", True),
        ("parts_of_test_provenance/theirs.py", True),
        ("parts_of_test_provenance/other.py", False),
    ],
)
def test_what_is_named_by_import_path_counts_with_all_that_it_imports(mine: Path, changed: str, counts: bool) -> None:
    name = "own_of_test_provenance.Own"
    before = digest(PACKAGE, name)
    assert before != digest(PACKAGE)
    append(mine / changed, "\nnothing = 0\n")
    assert (digest(PACKAGE, name) != before) is counts
    assert digest(PACKAGE) == code_digest()


def test_the_import_path_of_a_class_of_the_package_is_in_the_digest_already() -> None:
    assert digest(PACKAGE, "bnrepro.batchnorm.BatchNorm") == digest(PACKAGE)


def test_what_can_matter_to_the_bits_is_named() -> None:
    assert {"python", "numpy", "simd", "blas", "blas_kernel", "blas_threads", "machine", "cpu", "host", "numba"} == (
        environment().keys()
    )


def test_provenance_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    software.cache_clear()
    try:
        assert software()["git_commit"] is None
        assert software()["bnrepro"]
    finally:
        software.cache_clear()
