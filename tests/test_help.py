"""What is told of settings, options, sweeps, diagnostics and other names: where it stands, and that it is right."""

import functools
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from calls import Ended, assert_one_line, files, in_a_process
from pydantic import Field

from bnrepro import places
from bnrepro.composition import compose, options
from bnrepro.config import Declared, RunConfig, Settings
from bnrepro.diagnostics import DIAGNOSTICS
from bnrepro.errors import InputError
from bnrepro.help import CLASSES, NAMES, WIDTH, Manual, allowed, another, comments
from bnrepro.narrowing import leaves
from bnrepro.settings import Setting


@functools.cache
def manual(**choices: str) -> Manual:
    """The manual of a command with these options."""
    composed = compose([f"{group}={option}" for group, option in choices.items()])
    chosen = {group: composed[group]["name"] for group in CLASSES}
    return Manual(composed, {**chosen, "sweep": None})


# Comments of option files

FILE = """# A file: what it is of
# in two lines

# @package _global_
name: thing   # behind
list: [1,     # begins
       2]
more: '#1'    # goes on
              # in the same column
 # and not in another
# above, a line
# and another
value: 3
group:        # of the group
  inner: {a: 1, b: 2}   # of both
  # above, further in
  last: |
    text   # that is none
plain: 1
"""


def test_a_comment_stands_behind_a_key_or_above_it(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_text(FILE)
    assert {key: told for key, told in comments(path).items() if told} == {
        "": "A file: what it is of in two lines",
        "name": "behind",
        "list": "begins",
        "more": "goes on in the same column",
        "value": "above, a line and another",
        "group": "of the group",
        "group.inner": "of both",
        "group.inner.a": "of both",
        "group.inner.b": "of both",
        "group.last": "above, further in",
    }


@pytest.mark.parametrize("group", CLASSES)
def test_every_setting_has_a_comment_in_its_file(group: str) -> None:
    for option in options(group):
        told = comments(places.CONF / group / f"{option}.yaml")
        assert told[""], option
        assert [key for key, text in told.items() if not text] == ["name"], option


def test_every_setting_around_and_every_sweep_has_one() -> None:
    told = comments(places.CONF / "config.yaml")
    keys = {".".join(path) for path, _ in leaves(compose([]), ())}
    assert [key for key in keys if key.partition(".")[0] not in CLASSES and not told[key]] == []
    assert [name for name in options("sweep") if not comments(places.CONF / "sweep" / f"{name}.yaml")[""]] == []


# What is allowed


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "integer"),
        (Annotated[int, Field(gt=0, strict=True)], "integer > 0"),
        (Annotated[int, Field(ge=0, lt=2**63)], "integer ≥ 0"),
        (Annotated[float, Field(ge=0, lt=1)], "number ≥ 0 and < 1"),
        (Annotated[float, Field(gt=0.5, le=1e6)] | None, "number > 0.5 and ≤ 1,000,000 or null"),
        (bool | None, "true or false or null"),
        (bool | Literal["reference"], "true or false or reference"),
        (Literal["a", "b", None], "a or b or null"),
        (list[Literal["crop", "flip"]], "list of crop or flip"),
        (list[list[int]], "list of list of integer"),
        (Annotated[str, Field(min_length=1)] | None, "text or null"),
        (Annotated[bool, Field(strict=True)] | Annotated[float, Field(gt=1)], "true or false or number > 1"),
    ],
)
def test_what_is_allowed_is_spelled(kind: Any, text: str) -> None:
    assert allowed(kind) == text


def test_names_are_allowed_beside_import_paths() -> None:
    assert allowed(str, {"none": None, "batch": int}) == "none, batch, or an import path"
    assert allowed(list[str], {"a": 1}) == "list of a, or an import path"


@pytest.mark.parametrize(
    ("kind", "now", "names", "found"),
    [
        (Annotated[int, Field(gt=0, strict=True)], 60, [], 30),
        (Annotated[int, Field(gt=0, strict=True)], 1, [], 2),
        (int, -1, [], 2),
        (float, 0.1, [], 0.05),
        (Annotated[float, Field(ge=0, lt=1)], 0.0, [], 0.1),
        (Annotated[int, Field(ge=0, strict=True)], 0, [], 5),
        (bool, True, [], False),
        (bool | None, None, [], True),
        (Literal["a", "b"], "a", [], "b"),
        (str, "none", ["none", "batch"], "batch"),
        (list[str], ["a"], ["a", "b"], ["a", "b"]),
        (list[Annotated[int, Field(gt=0)]], [8, 16], [], [8, 16, 16]),
        (list[Literal["crop", "flip"]], [], [], ["crop"]),
        (list[Literal["crop", "flip"]], ["crop", "flip"], [], ["crop"]),
        (list[str], ["https://here"], [], ["THING"]),
        (list[str] | None, ["0123abcd"], [], None),
        (str | None, None, [], "THING"),
    ],
)
def test_an_example_has_another_value(kind: Any, now: object, names: list[str], found: object) -> None:
    assert another(Declared("some.thing", Setting(), None, kind, None), now, names) == found


def test_an_example_is_like_what_the_comment_has() -> None:
    text = Declared("some.thing", Setting(), None, str | None, None)
    assert another(text, None, comment="a file, FILE.csv or FILE.parquet") == "FILE.csv"
    assert another(text, None, comment="an address, tcp://HOST:8786; null: none") == "tcp://HOST:8786"
    assert another(text, None, comment="+help=NAME: a NAME. And more") == "THING"
    two = Declared("some.thing", Setting(), None, Annotated[list[str], Field(min_length=2)] | None, None)
    assert another(two, None) == ["THING1", "THING2"]


# Entries


def entries() -> list[str]:
    return [*manual().entries()]


@pytest.mark.parametrize("name", entries())
def test_every_entry_says_what_it_is_within_the_width_with_an_example_that_works(name: str) -> None:
    lines = manual().entry(name).splitlines()
    assert lines[0] == name
    assert len(lines) > 1
    told = "\n".join(lines)
    assert all(len(line) <= WIDTH for line in lines if "  example  " not in line)
    if name in manual().declared and not name.endswith(".name"):
        assert re.search(r"^  what +\S", told, re.MULTILINE), told
        assert re.search(r"^  allowed +\S", told, re.MULTILINE)
        assert re.search(r"^  example +\S", told, re.MULTILINE) or name in ("sweep.grid", "sweep.more")
    for example in re.findall(r"^  example +python -m bnrepro (.+)$", told, re.MULTILINE):
        overrides = shlex.split(example)
        assert overrides
        settings = Settings.parse(compose(overrides))
        if not settings.grids and settings.run["dataset"]["name"] == "digits":  # files of others may be looked at
            RunConfig.parse(settings.run)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("optimizer.lr", ["now 0.1", "allowed number > 0", "identity another value .* lr of table runs; .* lock-step"]),
        ("lr", ["optimizer.lr", "example python -m bnrepro optimizer.lr=0.05"]),
        ("train.engine", ["now numpy", "class bnrepro.recipe.Training: The settings of how long a run trains, in"]),
        ("model.norm", ["allowed none, batch, or an import path", "batch bnrepro.batchnorm.BatchNorm: y = γ"]),
        ("model.channels", ["only with model=cnn", r"default \[8, 16\]", "what feature maps of each convolution"]),
        ("model.norm_options.eps", ["only with model.norm=batch", "default 1e-05", "what ε, added to the variance"]),
        ("dataset.root", ["only with .*dataset=cifar10", "identity not part of a run's identity"]),
        ("sweep.redraw", ["now null", r"example python -m bnrepro \+sweep sweep.redraw="]),
        ("claims", [r"example python -m bnrepro \+claims$"]),
        ("model", ["now mlp", "cnn Two stages", r"model.dropout=0.0 the share .* after every .* \[number ≥ 0"]),
        ("optimizer", ["also optimizer.momentum, optimizer.eps$|also optimizer.eps, optimizer.momentum$"]),
        ("norm_options", ["also model.norm_options.eps, model.norm_options.momentum, model.norm_options.inference$"]),
        ("train", ["what how a run trains", r"train.steps=3000 mini-batches to train on \[integer > 0\]"]),
        ("model/cnn", ["class bnrepro.recipe.CNN: A convolutional network", "model.dropout=0.0 .* before the dense"]),
        ("compute/dask", [r"example python -m bnrepro \+sweep compute=dask", "compute.scheduler=null address of a"]),
        ("growing_rate", [r"claim \+growing_rate With batch norm", "trains 20 runs on digits", "besides 1"]),
        ("depth", ["what How deep can", "claim I4 Small changes", "of model.hidden=.*; model.activation=.sigmoid, "]),
        ("drift", ["diagnostics/drift", "what bnrepro.diagnostics.drift: Measure how", "layers.drift_std .*σ"]),
        ("batch", ["model.norm/batch", "options model.norm_options.eps, model.norm_options.momentum,"]),
        ("momentum", ["^model.norm_options.momentum", "^optimizer.momentum", "^optimizer/momentum"]),
        ("inception", ["^model/inception", "^sweep/inception"]),
    ],
)  # fmt: skip
def test_an_entry_tells(name: str, told: list[str]) -> None:
    text = re.sub(r"[ \n]*\n {3,}| {2,}", " ", manual().entry(name))
    for each in told:
        assert re.search(each, text, re.MULTILINE), (each, text)


def test_all_diagnostics_are_named_by_the_code() -> None:
    assert set(NAMES["diagnostics"]) == set(DIAGNOSTICS)
    text = manual().entry("diagnostics")
    assert all(re.search(rf"^  {name}\b", text, re.MULTILINE) for name in DIAGNOSTICS)


def test_a_comment_is_that_of_the_option_that_is_chosen() -> None:
    assert "before the dense layer" in manual(model="cnn").comment("model.dropout")
    assert "default" not in manual(optimizer="momentum").entry("optimizer.momentum")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("optimizer.lrr", "did you mean optimizer.lr or "),
        ("model.nrom", "did you mean model.norm"),
        ("covariateshift", "did you mean covariate_shift"),
        ("zzz", "--help lists what there is"),
        ("", "--help lists what there is"),
        (".", "--help lists what there is"),
    ],
)
def test_of_an_unknown_name_the_nearest_are_told(name: str, nearest: str) -> None:
    with pytest.raises(InputError) as error:
        manual().entry(name)
    told = f"help={name}: no such setting, option, sweep or diagnostic; {nearest}"
    assert str(error.value).startswith(told)


# Commands

OWN = """
from dataclasses import dataclass

from bnrepro.optim import SGD


@dataclass(frozen=True)
class Careful(SGD):
    \"\"\"Steps that are small.\"\"\"

    care: float = 0.5
"""


def test_settings_of_a_class_of_ones_own_are_explained(
    call: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "careful_of_a_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = "optimizer.name=careful_of_a_test.Careful"
    for given in ([], ["+optimizer.care=0.25"]):
        ended = call(own, *given, "+help=optimizer.care")
        assert (ended.status, ended.err) == (0, "")
        assert "class       careful_of_a_test.Careful: Steps that are small." in ended.out
        assert ("now         0.25" if given else f"only with   {own}") in ended.out
        assert "allowed     number" in ended.out


@pytest.mark.parametrize("asked", [["--help"], ["-h"], ["+help"], ["--multirun", "--help"], ["+sweep", "--help"]])
def test_help_has_every_setting_with_its_comment_and_what_is_allowed(
    call: Callable[..., Ended], here: Path, asked: list[str]
) -> None:
    ended = call(*asked, "dataset=mnist", "train.steps=7")
    assert (ended.status, ended.err, files(here)) == (0, "", [])
    assert max(map(len, ended.out.splitlines())) <= WIDTH
    for part in (
        "  python -m bnrepro +sweep  ",
        "  dataset=mnist                 cifar10, digits, fashion_mnist, mnist\n",
        "  train.steps=7                 mini-batches to train on [integer > 0]\n",
        "  diagnostics=[percentiles, inactive, gradients]\n",
        'eval "$(python -m bnrepro -sc install=bash)"',
    ):
        assert part in ended.out
    composed = compose(["dataset=mnist"])
    keys = [".".join(path) for path, _ in leaves(composed, ())]
    assert [key for key in keys if not key.endswith(".name") and f"\n  {key}=" not in ended.out] == []


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            "+help=optimizer.lrr",
            "help=optimizer.lrr: no such setting, option, sweep or diagnostic; did you mean optimi",
        ),
        ("--help dataset=foo", "dataset=foo: must be one of "),
        ("+help=lr optimizer.name=foo", "optimizer.name=foo: must be one of sgd, "),
        ("+help=[a]", r"help=\[\"a\"\]: must be a valid string, or null"),
        ("+help=lr +claims", "help=lr: not together with claims=true$"),
        ("+help=lr +benchmark", "help=lr: not together with benchmark=full$"),
    ],
)
def test_bad_input_to_help_is_one_line(call: Callable[..., Ended], arguments: str, told: str) -> None:
    assert_one_line(call(*arguments.split()), told)


LIGHT = """
import sys
from bnrepro.__main__ import main

sys.argv = ["bnrepro", "--help"]
main()
assert not {"pandas", "matplotlib", "sklearn", "scipy"} & {*sys.modules}
"""


def test_help_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    ended = in_a_process(["-c", LIGHT], tmp_path)
    assert (ended.status, ended.err) == (0, "")
