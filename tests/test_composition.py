"""From what a user types to settings; what is wrong with it is said in terms of what was typed."""

import copy
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase

from bnrepro.composition import complete, compose, gather_lists, mistake, options, typed
from bnrepro.errors import InputError
from bnrepro.places import CONF
from bnrepro.startup import VERSION_BASE


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("+sweep", ["sweep=learning_rates"]),
        ("+sweep=figure1", ["sweep=figure1"]),
        ("sweep=figure1", ["sweep=figure1"]),
        ("+sweep=a,b", ["sweep=a,b"]),
        ("+show", ["sweep=learning_rates", "sweep.show=true"]),
        ("+show=figure1", ["sweep=figure1", "sweep.show=true"]),
        ("+verify", ["verify.sweep=learning_rates"]),
        ("verify=figure1", ["verify.sweep=figure1"]),
        ("+benchmark", ["benchmark=full"]),
        ("+benchmark=quick", ["benchmark=quick"]),
        ("+claims", ["claims=true"]),
        ("+help=model.norm", ["help=model.norm"]),
        ("sweep.more=[]", ["++sweep.more=[]"]),
        ("+report", ["report=true"]),
        ("sweep", ["sweep"]),  # which Hydra refuses
        ("++sweep.grid.seed=[0]", ["++sweep.grid.seed=[0]"]),
        ("+sweep/scale=mnist", ["+sweep/scale=mnist"]),
        ("sweep.grid.seed=[0]", ["++sweep.grid.seed=[0]"]),
        ("sweep.dry_run=true", ["sweep.dry_run=true"]),
        ("model.norm_options.eps=1e-3", ["++model.norm_options.eps=1e-3"]),
        ("model.norm_options={eps:1e-3}", ["++model.norm_options={eps:1e-3}"]),
        ("+model.norm_options.eps=1e-3", ["+model.norm_options.eps=1e-3"]),
        ("+runs", ["runs.store=all"]),
        ("+runs=figure1", ["runs.store=figure1"]),
        ("sweep.note=it's a: b, [c]", [r"sweep.note='it\'s a: b, [c]'"]),
        ("++sweep.note='a' or 'b'", [r"++sweep.note='\'a\' or \'b\''"]),
        ("sweep.note='a, b'", ["sweep.note='a, b'"]),
        ("sweep.note=null", ["sweep.note=null"]),
        ("runs.compare=12e4,0012", ["runs.compare=['12e4','0012']"]),
        ("runs.where=[a=1, b=[1,[2,3]],c='d,e']", [r"runs.where=['a=1','b=[1,[2,3]]','c=\'d,e\'']"]),
        ("runs.where=['a=1',\"b=2\"]", ["runs.where=['a=1',\"b=2\"]"]),
        ("runs.where=[]", ["runs.where=[]"]),
        ("--multirun", ["--multirun"]),
    ],
)
def test_short_commands_are_completed(given: str, meant: list[str]) -> None:
    assert complete(["a=1", given, "b=2"]) == ["a=1", *meant, "b=2"]


@pytest.mark.parametrize(
    "override",
    [
        "sweep.note=it's a: b, [c]",
        "sweep.note=a\nb",
        "+sweep.note=2026",
        "runs.compare=12e4,0012",
        "runs.where=a=1,b=[1,[2,3]],c='d,e'",
    ],
)
def test_texts_are_shown_as_they_were_typed(override: str) -> None:
    assert typed(complete([override])) == [override]


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["dataset=foo"], "dataset=foo: must be one of cifar10, digits, fashion_mnist, mnist"),
        (["dataset=null"], "dataset=null: must be one of cifar10, digits, fashion_mnist, mnist"),
        (["seed=1", "dataset=3"], "dataset=3: must be one of cifar10, digits, fashion_mnist, mnist"),
        (["~dataset=3"], "~dataset=3: must be one of cifar10, digits, fashion_mnist, mnist"),
        (["model.foo=1"], "model.foo=1: no such key; known are name, hidden, activation, norm, "),
        (["seed=1", "model.foo=1", "model.init.foo=2"], "model.foo=1: no such key; known are name, hidden, "),
        (["train.steps=1", "train.step=2"], "train.step=2: no such key; known are steps, "),
        (["sweep.grid.seed=[1]"], "sweep.grid.seed=[1]: only with a sweep: +sweep=NAME, of accelerating, batch_size"),
        (["optimizr.lr=1"], "optimizr.lr=1: no such key; known are hydra, train, diagnostics, seed, "),
        (["model.hidden=[1"], "model.hidden=[1: must be KEY=VALUE, or \"KEY='VALUE'\" with special characters ("),
        (
            ["model.hidden.foo=1"],
            "model.hidden.foo=1: model.hidden is a list, which is given as a whole: model.hidden=",
        ),
        (
            ["seed=1", "+sweep=implementation_mistakes", "sweep.grid.model.norm=[batch]", "train.steps=5"],
            "sweep.grid.model.norm=[batch]: sweep.grid.model is a list, which is given as a whole: sweep.grid.model=[",
        ),
        (
            ["+sweep=figure1", "sweep.grid.model.init.std=[0.1]"],
            "sweep.grid.model.init.std=[0.1]: sweep.grid.model.init is a list",
        ),
        (["seed=1", f"train.steps={'9' * 5000}"], f"train.steps={'9' * 5000}: can't be composed (Exceeds the limit"),
        (["seed.foo=1"], "seed.foo=1: no such key; known are none"),
        (["optimizer.beta=1"], "optimizer.beta=1: no such key; known are name, lr, weight_decay; +optimizer.beta=1 if"),
        (["+sweep", "seed=range(0,1000000000)"], "seed=range(0,1000000000): must list at most 1000000 values"),
        (["+sweep", "sweep.grid.seed=range(0,1e9)"], "sweep.grid.seed=range(0,1e9): must list at most 1000000 values"),
        (["model.hidden.7=1"], "Error merging override model.hidden.7=1 (list index out of range"),
        (["seed=${nothing}"], "Interpolation key 'nothing' not found"),
        (["+sweep", "sweep.grid={}"], "sweep.grid={}: must list values for at least one setting"),
        (["+sweep", "++sweep.grid.model={}"], "sweep.grid.model={}: must list values for at least one setting"),
    ],
)
def test_a_mistake_is_one_line_that_names_what_was_given(overrides: list[str], told: str) -> None:
    with pytest.raises(InputError) as error:
        compose(overrides)
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [ValueError("of the program"), KeyError("model"), OSError("disk")])
def test_an_error_of_the_program_is_no_mistake_of_the_user(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        raise error
    assert mistake(raised.value, ["dataset=null", "model.foo=1"]) is None


@pytest.mark.parametrize("folder", ["with spaces", "한글", "a=b,c", "100%", "it's [1]"])
@pytest.mark.parametrize("encode", [("\ufeff{}", "\n"), ("{}", "\r\n"), ("\ufeff{}", "\r\n")])
def test_own_options_may_stand_in_any_folder_with_a_mark_and_any_line_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, encode: tuple[str, str]
) -> None:
    own = tmp_path / folder / "conf" / "sweep"
    own.mkdir(parents=True)
    text = encode[0].format("grid:\n  seed: [4, 5]\n").replace("\n", encode[1])
    (own / "of_a_test.yaml").write_bytes(text.encode())
    monkeypatch.chdir(tmp_path / folder)
    assert compose(["+sweep=of_a_test"])["sweep"]["grid"] == {"seed": [4, 5]}


def test_a_mark_before_a_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "conf" / "sweep" / "marked.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("\ufeff# @package _global_\nseed: 3\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"marked\.yaml: begins with a byte order mark, .* # @package$"):
        compose(["+sweep=marked"])


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (["seed=range(0,1000000000)"], "seed=range(0,1000000000): must list at most 1000000 values"),
        (
            ["seed=range(0,2000)", "train.steps=range(1,1001)"],
            "train.steps=range(1,1001): makes 2000000 jobs of --multirun; must be at most 1000000",
        ),
        (["seed=range(0,2000)", "train.steps=range(1,501)", "model=glob(*)"], None),
    ],
)
def test_jobs_of_multirun_are_not_too_many_to_hold(overrides: list[str], refused: str | None) -> None:
    given = ["--multirun", *overrides]
    if refused is None:
        assert gather_lists(given) == given
        return
    with pytest.raises(InputError) as error:
        gather_lists(given)
    assert str(error.value) == refused


def test_options_are_those_of_a_group() -> None:
    assert options("dataset") == ["cifar10", "digits", "fashion_mnist", "mnist"]
    assert options("train") == []


def test_settings_are_composed_within_the_command_by_its_own_hydra() -> None:
    with hydra.initialize_config_dir(config_dir=str(CONF), **VERSION_BASE):
        own = GlobalHydra.instance().hydra
        within = compose(["train.steps=7"])
        assert GlobalHydra.instance().hydra is own
    assert within == compose(["train.steps=7"])


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """Settings of another application of Hydra."""
    (tmp_path / "config.yaml").write_text("theirs: 1\n")
    return tmp_path


@pytest.mark.parametrize("overrides", [["train.steps=7"], ["model.foo=1"]])
def test_composing_leaves_another_application_of_hydra_as_it_was(foreign: Path, overrides: Sequence[str]) -> None:
    arguments, version = sys.argv[:], VersionBase.instance().version_base
    with hydra.initialize_config_dir(config_dir=str(foreign), **VERSION_BASE):
        theirs = GlobalHydra.instance().hydra
        VersionBase.instance().version_base = mark = copy.copy(version)
        try:
            if overrides == ["train.steps=7"]:
                assert compose(overrides)["train"]["steps"] == 7
            else:
                with pytest.raises(InputError):
                    compose(overrides)
            assert VersionBase.instance().version_base is mark
        finally:
            VersionBase.instance().version_base = version
        assert GlobalHydra.instance().hydra is theirs
        assert hydra.compose("config") == {"theirs": 1}
    assert not GlobalHydra.instance().is_initialized()
    assert sys.argv == arguments
