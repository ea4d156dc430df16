"""Settings are declared once: what they are to a run, and what their names stand for."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest

from bnrepro.errors import InputError
from bnrepro.layers import Nonlinearity, ReLU, xavier
from bnrepro.optim import SGD, Optimizer
from bnrepro.settings import Choice, Setting, Table, declarations, describe, flatten, names, to_json


@dataclass(frozen=True)
class Inner:
    """A part with a setting that was added later."""

    width: int
    depth: int = 3
    tags: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Outer:
    """Everything that a declaration can say."""

    inner: Inner
    what: Choice[Inner]
    seed: Annotated[int, Setting(per_run=True)]
    rate: Annotated[float, Setting(key="what.rate", per_run=True)]
    folder: Annotated[str, Setting(identity=False)]
    kind: Annotated[str, Setting(names=True)]
    options: Annotated[dict[str, Any], Setting(described_by="described")]
    late: bool = False

    @property
    def described(self) -> Inner | None:
        """The options as what they are."""
        return Inner(**self.options) if self.options else None


def outer(**changes: Any) -> Outer:
    whole: dict[str, Any] = {
        "inner": Inner(1),
        "what": Choice("mine.Inner", Inner(2)),
        "seed": 7,
        "rate": 0.5,
        "folder": "here",
        "kind": "mine.Kind",
        "options": {"width": 4},
    }
    return Outer(**whole | changes)


WHOLE = {
    "inner": {"width": 1, "depth": 3, "tags": []},
    "what": {"name": "mine.Inner", "width": 2, "depth": 3, "tags": [], "rate": 0.5},
    "seed": 7,
    "kind": "mine.Kind",
    "options": {"width": 4, "depth": 3, "tags": []},
    "late": False,
}
IDENTITY = {
    "inner": {"width": 1},
    "what": {"name": "mine.Inner", "width": 2, "rate": 0.5},
    "seed": 7,
    "kind": "mine.Kind",
    "options": {"width": 4},
}


def test_all_settings_that_make_a_run_are_described_but_for_where_things_lie() -> None:
    assert describe(outer(), defaults=True) == WHOLE


def test_a_setting_at_its_default_is_left_out_of_the_identity_so_that_it_can_be_added_later() -> None:
    assert describe(outer(), defaults=False) == IDENTITY
    changed = outer(late=True, inner=Inner(1, 4), what=Choice("mine.Inner", Inner(2, tags=["a"])))
    assert describe(changed, defaults=False) == IDENTITY | {
        "late": True,
        "inner": {"width": 1, "depth": 4},
        "what": {"name": "mine.Inner", "width": 2, "tags": ["a"], "rate": 0.5},
    }


def test_what_may_differ_within_a_lock_step_group_is_not_shared() -> None:
    shared = describe(outer(), defaults=False, per_run=False)
    assert shared == {
        key: value if key != "what" else {"name": "mine.Inner", "width": 2}
        for key, value in IDENTITY.items()
        if key != "seed"
    }


def test_no_options_are_described_as_none() -> None:
    assert describe(outer(options={}), defaults=True)["options"] == {}


def test_names_are_collected_at_any_depth() -> None:
    assert sorted(names(outer())) == ["mine.Inner", "mine.Kind"]


def test_a_choice_is_equal_to_another_that_makes_the_same_run() -> None:
    assert Choice("a", Inner(1)) == Choice("a", Inner(1, 3))
    assert hash(Choice("a", Inner(1))) == hash(Choice("a", Inner(1, 3)))
    assert Choice("a", Inner(1)) != Choice("b", Inner(1))
    assert Choice("a", Inner(1)) != Choice("a", Inner(2))
    assert Choice("mine.Kind", Inner(1)).paths == {"mine.Kind"}
    assert Choice("kind", Inner(1)).paths == frozenset()


def test_what_is_not_declared_is_as_the_defaults_of_a_setting_say() -> None:
    assert {setting for setting, _ in declarations(Inner).values()} == {Setting()}


def test_settings_are_flattened_to_dotted_keys() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {}, "d": {"e": [2]}}, "f": None})) == {"a.b": 1, "a.d.e": [2], "f": None}


def test_the_order_of_keys_does_not_matter() -> None:
    assert to_json({"b": 1, "a": [2]}) == to_json({"a": [2], "b": 1})


@pytest.mark.parametrize(
    ("table", "name", "allowed"),
    [
        (Table({"relu": ReLU}, base=Nonlinearity, has_settings=False), "bnrepro.layers.xavier", "a class derived from"),
        (
            Table({"relu": ReLU}, base=Nonlinearity, has_settings=False),
            "bnrepro.optim.SGD",
            "a class derived from bnrepro.layers.Nonlinearity",
        ),
        (
            Table({"sgd": SGD}, base=Optimizer),
            "bnrepro.layers.ReLU",
            "a dataclass derived from bnrepro.optim.Optimizer, whose fields are the settings",
        ),
        (
            Table({"relu": ReLU}, base=Nonlinearity, has_settings=False),
            "bnrepro.layers.Nonlinearity",
            "a class derived",
        ),
        (Table({"xavier": xavier}), "bnrepro.layers.NO_DX", "a function"),
        (Table({"a": Inner(1)}, instance=Inner), "bnrepro.layers.xavier", "a test_settings.Inner"),
        (Table({"relu": ReLU, "a": ReLU}), "b", "one of relu, a, or an import path like package.module.Class"),
        (Table({"relu": ReLU}), "bnrepro.layers.Missing", "one of relu, or an import path"),
        (Table({"relu": ReLU}), None, "one of relu, or an import path"),
    ],
)
def test_a_name_of_the_wrong_kind_is_refused(table: Table[Any], name: str | None, allowed: str) -> None:
    with pytest.raises(InputError) as error:
        table.resolve(name, "key")
    assert str(error.value).startswith(f"key={'null' if name is None else name}: must be {allowed}")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_module", "can't be imported (ModuleNotFoundError: No module named 'no_such_module')"),
        ("from json import nothing", "can't be imported (ImportError: cannot import name 'nothing' from 'json'"),
        ("def f(:", "can't be imported (SyntaxError: invalid syntax (mine_broken.py, line 1))"),
        ("None.attribute", "can't be imported (AttributeError: 'NoneType' object has no attribute"),
        ("raise ValueError('two\\nlines')", "can't be imported (ValueError: two lines)"),
        ("raise SystemExit(3)", "can't be imported (SystemExit: 3)"),
        ("", "must be one of relu, or an import path"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, told: str
) -> None:
    (tmp_path / "mine_broken.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_broken", raising=False)
    with pytest.raises(InputError) as error:
        Table({"relu": ReLU}).resolve("mine_broken.Swish", "key")
    assert str(error.value).startswith(f"key=mine_broken.Swish: {told}")


@pytest.mark.parametrize(
    "name", ["no_such_module.Swish", "json.no_such_module.Swish", "a..b", ".a", "json.tool.", "no.__class__"]
)
def test_a_module_that_is_not_there_is_no_broken_one(name: str) -> None:
    with pytest.raises(InputError, match="must be one of relu, or an import path"):
        Table({"relu": ReLU}).resolve(name, "key")


def test_a_name_stands_for_an_entry_or_for_what_is_at_its_import_path() -> None:
    table = Table({"relu": ReLU}, base=Nonlinearity, has_settings=False)
    assert table.resolve("relu", "key") is ReLU
    assert table.resolve("bnrepro.layers.ReLU", "key") is ReLU
