"""Docstrings can be read where they stand, and the page about the package says what the code says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest

from bnrepro.config import declared_settings

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("bnrepro", "experiments") for path in (ROOT / folder).rglob("*.py"))

LEANING = """
    about above across after against along among around as at before behind below beside besides
    between beyond by despite during except for from in inside into like near of off on onto out
    outside over per since than through throughout to toward towards under until unlike up upon via
    with within without he her hers him his i it its itself me mine my our ours she that their
    theirs them themselves these they this those us we you your yours both either neither none same
    such so then too also likewise
"""
"""First words that lean on what stood before: prepositions, pronouns, and what compares with something unnamed."""

NAMING = "a an the every each all any no some how what when where whether which who whose why if"
"""First words of a phrase that names a thing and does not say what a function does."""

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def documented(tree: ast.Module) -> Iterator[tuple[str, ast.AST, str | None, bool]]:
    """Yield what can have a docstring: its name, its node, the docstring, and whether it is public."""
    yield "module", tree, ast.get_docstring(tree), True
    yield from within(tree, "", public=True)


def within(parent: ast.AST, prefix: str, *, public: bool) -> Iterator[tuple[str, ast.AST, str | None, bool]]:
    """Yield the same of what stands in a module, class, function or branch."""
    before: ast.AST | None = None
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, FUNCTIONS | ast.ClassDef):
            own = public and (node.name[0] != "_" or node.name[:2] == "__")
            yield prefix + node.name, node, ast.get_docstring(node), own
            yield from within(node, f"{prefix}{node.name}.", public=own and isinstance(node, ast.ClassDef))
        elif isinstance(node, ast.If | ast.With | ast.Try):
            yield from within(node, prefix, public=public)
        elif isinstance(before, ast.Assign | ast.AnnAssign) and (text := literal(node)) is not None:
            target = before.target if isinstance(before, ast.AnnAssign) else before.targets[0]
            yield prefix + ast.unparse(target), node, text, public
        before = node


def literal(node: ast.AST) -> str | None:
    """Return the text of a statement that is a string alone."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return node.value.value
    return None


def faults(tree: ast.Module) -> Iterator[str]:
    """Say what is wrong with the docstrings of a module."""
    for name, node, text, public in documented(tree):
        words = (text or "").lower().replace(",", " ").replace(":", " ").split()
        special = isinstance(node, FUNCTIONS) and name.rpartition(".")[2].startswith("__")
        if not words:
            if public and not special:
                yield f"{name} has no docstring"
            continue
        if words[0] in LEANING.split() or words[:2] == ["the", "same"]:
            yield f"{name} leans on something unnamed: {text}"
        elif isinstance(node, FUNCTIONS) and words[0] in NAMING.split():
            yield f"{name} names a thing, and does not say what is done: {text}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_can_be_read_where_they_stand(path: Path) -> None:
    assert list(faults(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("def f():\n    pass", "f has no docstring"),
        ('class C:\n    """A thing."""\n    def f(self):\n        pass', "C.f has no docstring"),
        ('def f():\n    """In the worker."""', "f leans"),
        ('def _f():\n    """In the worker."""', "_f leans"),
        ('def f():\n    """The same from the reference data."""', "f leans"),
        ('def f():\n    """The runs of a sweep."""', "f names a thing"),
        ('def f():\n    """How many."""', "f names a thing"),
        ('class C:\n    """In several processes at once."""', "C leans"),
        ('class C:\n    """A thing."""\n    x: int\n    """Of the identity."""', "C.x leans"),
        ('X = 1\n"""Those of the paper."""', "X leans"),
    ],
)
def test_a_docstring_that_can_not_is_found(source: str, fault: str) -> None:
    (found,) = faults(ast.parse('"""Docstring of a module."""\n' + source))
    assert found.startswith(fault)


def type_text(kind: Any) -> str:
    """Return how the page calls the type of a setting."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return type_text(args[0])
    if origin is list:
        return f"list of {type_text(args[0])}"
    if origin is Literal:
        return " or ".join(map(str, args))
    if origin in (Union, UnionType):
        return " or ".join(map(type_text, args))
    return "null" if kind is NoneType else str(kind.__name__)


def settings_table() -> str:
    """Return the table of the settings of a run, from their declarations."""
    rows = [
        ("key", "type", "part of the identity", "may differ within a group", "column of `runs`"),
        ("---",) * 5,
    ]
    for key, setting, kind, *_ in declared_settings():
        called = type_text(kind).replace("str", "name") if setting.names else type_text(kind)
        identity, differs = (
            ("no", "yes")[flag] for flag in (setting.identity, setting.per_run or not setting.identity)
        )
        column = f"`{setting.column or key}`" if setting.identity else "none"
        rows.append((f"`{key}`", called, identity, differs, column))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page() -> str:
    return (ROOT / "bnrepro" / "README.md").read_text(encoding="utf-8")


def test_the_page_has_the_settings_as_they_are_declared() -> None:
    if settings_table() not in page():
        pytest.fail(f"bnrepro/README.md: the table of settings must be\n\n{settings_table()}\n", pytrace=False)


def test_the_page_has_every_room() -> None:
    package = ROOT / "bnrepro"
    modules = {path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py")}
    rooms = {module.removesuffix("/__init__") for module in modules if module != "__init__"} | {
        "../conf/",
        "../experiments/",
    }
    table = page().partition("## Rooms")[2].partition("## ")[0]
    assert {line.split("`")[1] for line in table.splitlines() if line.startswith("| `")} == rooms


# Commands

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("[a-z]*/**/*.md"), *ROOT.glob("experiments/*.py"), *ROOT.glob("conf/**/*.yaml")]
QUOTED = re.compile(r"""'[^']*'|"[^"]*"|\s#.*""")


def commands(text: str) -> Iterator[str]:
    """Yield what a reader may paste into a shell: lines of blocks, and overrides and commands within sentences."""
    text = re.sub(r"```(\w*)\n(.*?)```", lambda block: block[0] if block[1] == "sh" else "", text, flags=re.DOTALL)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()
    for span in re.findall(r"`+([^`\n]+)`+", text):
        if re.match(r"(python |pip |bnrepro |dask )|'?[+~]{0,2}[a-z_.]+(\.KEY)?=", span):
            yield span


def unquoted(command: str) -> list[str]:
    """Return the words of a command that zsh or fish takes for patterns, or Bash for something else than text."""
    return [word for word in QUOTED.sub("", command).split() if re.search(r"[\[\](){}*?<>;]", word)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_command_can_be_pasted_into_any_shell(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    assert {command: bad for command in commands(written) if (bad := unquoted(command))} == {}


@pytest.mark.parametrize(
    ("text", "bad"),
    [
        ("```sh\npython -m bnrepro +sweep optimizer.lr=[0.1,1]  # [a comment]\n```", ["optimizer.lr=[0.1,1]"]),
        ("gives `seed=range(0,10)` and `f(x)`", ["seed=range(0,10)"]),
        ("gives `'seed=range(0,10)'` and `optimizer.lr=0.1,1`", []),
        ("```python\ncall(a=[1])\n```", []),
        ("``+sweep.grid.x=[60]`` shows", ["+sweep.grid.x=[60]"]),
    ],
)
def test_a_command_that_can_not_is_found(text: str, bad: list[str]) -> None:
    assert [word for command in commands(text) for word in unquoted(command)] == bad
