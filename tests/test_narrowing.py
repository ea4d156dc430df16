"""No override is dropped beside a sweep: every run has what was given, or the command is refused."""

import shlex
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrepro.api import runs_of
from bnrepro.composition import complete, compose, gather_lists, typed
from bnrepro.config import RunConfig, Settings
from bnrepro.errors import InputError
from bnrepro.narrowing import ABSENT, Given, find, narrow

SWEEPS = ["covariate_shift", "figure1", "implementation_mistakes", "learning_rates", "unstated"]
MISTAKES = "sweep=implementation_mistakes"


def told_of(*overrides: str) -> tuple[list[str], list[RunConfig]]:
    """What is told of these overrides, and the runs that they lead to."""
    told = list[str]()
    parsed = Settings.parse(compose(overrides, told.append))
    return told, runs_of(parsed, overrides)


def values(runs: list[RunConfig], key: str) -> list[Any]:
    """The values of a setting among the runs, in their order."""
    found = [find(run.to_dict(), tuple(key.split("."))) for run in runs]
    return [value for i, value in enumerate(found) if value not in found[:i]]


# An axis of the setting itself, and values of which it is a part


@pytest.mark.parametrize(
    ("overrides", "told", "key", "left", "count"),
    [
        ("+sweep model.activation=tanh", "in place of the sweep's [sigmoid, relu]", "model.activation", ["tanh"], 48),
        ("+sweep sweep.refine.key=null optimizer.lr=0.3", "in place of the sweep's [0.0016, 0.0063, …, 25]",
         "optimizer.lr", [0.3], 12),
        ("+sweep ++seed=5", "in place of the sweep's [0, 1, 2]", "seed", [5], 32),
        ("+sweep seed=${train.batch_size}", "in place of the sweep's [0, 1, 2]", "seed", [60], 32),
        ("+sweep=figure1 seed=7", "in place of the sweep's [0, 1, …, 4]", "seed", [7], 62),
        ("+sweep=unstated optimizer.lr=0.3", "in place of the sweep's [0.01]", "optimizer.lr", [0.3], 75),
        (f"{MISTAKES} model=cnn", "in place of the sweep's 9 values", "model.norm", ["batch"], 6),
        (f"{MISTAKES} model=cnn model.norm=none", "in place of the sweep's 9 values", "model.norm", ["none"], 6),
        (f"{MISTAKES} model.norm=batch", "leaves 2 of the sweep's 9 values of model", "model.norm", ["batch"], 12),
        (f"{MISTAKES} model.init={{std:null}}", "leaves 2 of the sweep's 9 values of model", "model.name", ["cnn"], 12),
        (f"{MISTAKES} model=cnn model.channels.1=9", "in place of the sweep's 9 values", "model.channels", [[8, 9]], 6),
        ("+sweep=figure1 model.init={scheme:he,std:null}", "in place of the sweep's 5 values", "model.init.scheme",
         ["he"], 80),
        ("+sweep=figure1 model.init.std=0.05",
         "leaves 1 of the sweep's 5 values of model.init; leaves out 2 of the sweep's grids, without such a value",
         "model.init.std", [0.05], 60),
        ("+sweep=unstated optimizer=momentum", "leaves out 1 of the sweep's grids, without such a value",
         "optimizer.name", ["momentum"], 65),
        ("+sweep=unstated optimizer=sgd", "leaves out 2 of the sweep's grids, without such a value", "optimizer.name",
         ["sgd"], 55),
        ("+sweep=unstated sweep.grid.optimizer.name=[sgd] optimizer=sgd",
         "leaves out 2 of the sweep's grids, without such a value", "optimizer.name", ["sgd"], 55),
    ],
)  # fmt: skip
def test_a_setting_that_a_sweep_varies_is_the_given_one_alone(
    overrides: str, told: str, key: str, left: list[Any], count: int
) -> None:
    lines, runs = told_of(*overrides.split())
    (line,) = lines
    override, _, said = line.partition(": ") if "{" not in line else line.partition("}: ")
    assert override in overrides
    assert said == told
    assert values(runs, key) == left
    assert len(runs) == count


@pytest.mark.parametrize(
    "overrides",
    [
        "+sweep train.steps=7", "+sweep model=cnn", "+sweep optimizer=momentum", "+sweep seed=0,1,2",
        "+sweep seed=1 sweep.grid.seed=[1]", "+sweep=figure1 dataset.binarize=true", f"{MISTAKES} train={{steps:7}}",
        "+sweep ~sweep.grid.seed seed=5", "+sweep ~model.init +model.init={scheme:he,std:null}",
    ],
)  # fmt: skip
def test_nothing_is_told_where_the_grid_stays(overrides: str) -> None:
    told, runs = told_of(*overrides.split())
    assert told == []
    assert runs


# Lists


@pytest.mark.parametrize(
    ("overrides", "key", "left", "count"),
    [
        ("+sweep seed=range(0,10)", "seed", [*range(10)], 320),
        ("+sweep seed=4,3", "seed", [4, 3], 64),
        ("+sweep seed=5 seed=5", "seed", [5], 32),
        ("+sweep seed=4,3 seed=4,3", "seed", [4, 3], 64),
        ("+sweep seed=choice(4)", "seed", [4], 32),
        ("+sweep seed=sort(4,3)", "seed", [3, 4], 64),
        ("+sweep=figure1 seed=7,8", "seed", [7, 8], 124),
        ("+sweep sweep.grid.seed=range(0,2)", "seed", [0, 1], 64),
        ("+sweep train.batch_size=30,60", "train.batch_size", [30, 60], 192),
        ("+sweep sweep.grid.train.batch_size=[30,60]", "train.batch_size", [30, 60], 192),
        ("+sweep model.hidden=[8],[16,16]", "model.hidden", [[8], [16, 16]], 192),
        ("+sweep dataset.binarize=true,false", "dataset.binarize", [True, False], 192),
        ("+sweep lr_schedule=constant,step", "lr_schedule.name", ["constant", "step"], 192),
        ("+sweep lr_schedule=glob(*,exclude=step)", "lr_schedule.name", ["constant", "exponential"], 192),
        ("+sweep model=cnn model.norm=none,batch model.kernel=5", "model.norm", ["none", "batch"], 96),
        ("+sweep train={steps:5} train.batch_size=30,60", "train.batch_size", [30, 60], 192),
        ("+sweep model.activation='tanh','relu'", "model.activation", ["tanh", "relu"], 96),
        ("+sweep=figure1 model.init.std=0.03,0.1", "model.init.std", [0.03, 0.1], 120),
        (f"{MISTAKES} model.name=cnn,cnn", "model.name", ["cnn"], 12),
        (f"{MISTAKES} model=mlp,cnn", "model.name", ["mlp", "cnn"], 12),
    ],
)
def test_a_list_of_values_is_an_axis(overrides: str, key: str, left: list[Any], count: int) -> None:
    _, runs = told_of(*overrides.split())
    assert values(runs, key) == left
    assert len(runs) == count


@pytest.mark.parametrize(
    "overrides",
    ["--multirun|+sweep|seed=0,1", "-m|+sweep|seed=0,1", "seed=0,1", "+sweep|compute=local,inline", "sweep=a,b"],
)
def test_a_list_is_hydras_without_a_sweep_with_multirun_and_around_a_run(overrides: str) -> None:
    words = complete(overrides.split("|"))
    assert gather_lists(words) == words


def test_a_gathered_list_is_shown_as_it_was_typed() -> None:
    words = ["sweep=x", "sweep.grid.seed=[0]", "seed=range(0,3)", "model.activation='a','b'", "train.steps=5"]
    gathered = gather_lists(complete(words))
    assert gathered[:3] == ["sweep=x", "++sweep.grid.seed=[0]", "train.steps=5"]
    assert sorted(typed(gathered)) == sorted(words)


# What is refused


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        # no value of an axis has it
        (f"{MISTAKES}|model.dropout=0.5", "model.dropout=0.5: none of the sweep's 9 values of model has it; instead "),
        (f"{MISTAKES}|+model.norm_options.eps=1e-3", "+model.norm_options.eps=1e-3: none of the sweep's 9 values of "),
        (f"{MISTAKES}|~model.dropout", "~model.dropout: none of the sweep's 9 values of model has it; instead write "),
        (f"{MISTAKES}|model.norm=batch,none", "model.norm=batch,none: none of the sweep's 9 values of model has it; "),
        ("+sweep=figure1|model.init.std=0.2",
         "model.init.std=0.2: none of the sweep's 5 values of model.init has it; instead write 'sweep.grid.model.in"),
        # what contradicts
        ("+sweep|seed=5|sweep.grid.seed=[0,1]", "seed=5: not together with sweep.grid.seed=[0,1]"),
        ("+sweep|seed=1|sweep.grid.seed=[0,1]", "seed=1: not together with sweep.grid.seed=[0,1]"),
        ("+sweep|seed=1|sweep.grid={seed:[0,1]}", "seed=1: not together with sweep.grid={seed:[0,1]}"),
        ("+sweep|seed=1,2|sweep.grid.seed=[0,1]", "seed=1,2: not together with sweep.grid.seed=[0,1]"),
        ("+sweep|seed=5|+sweep.more=[{seed:[1]}]", "seed=5: not together with +sweep.more=[{seed:[1]}]"),
        ("+sweep|+sweep.more=[{model:{init:[{scheme:he}]}}]|model.init.scheme=xavier",
         "model.init.scheme=xavier: not together with +sweep.more=[{model:{init:[{scheme:he}]}}]"),
        ("+sweep|sweep.grid.seed=[0]|sweep.grid.seed=[1]", "sweep.grid.seed=[0]: not together with sweep.grid.seed=[1"),
        ("+sweep=figure1|sweep.more=[]|sweep.more=[{seed:[3]}]",
         "sweep.more=[]: not together with sweep.more=[{seed:[3]}]"),
        ("+sweep|seed=5|seed=6", "seed=5: not together with seed=6"),
        ("seed=5|seed=6", "seed=5: not together with seed=6"),
        ("model=cnn|model=mlp", "model=cnn: not together with model=mlp"),
        ("+sweep|~sweep", "sweep=learning_rates: not together with ~sweep"),
        ("train.batch_size=30|train={batch_size:40}", "train.batch_size=30: not together with train={batch_size:40}"),
        ("train.batch_size=30|~train.batch_size", "train.batch_size=30: not together with ~train.batch_size"),
        ("+sweep|seed=5|seed=0,1", "seed=5: not together with seed=0,1"),
        ("+sweep|seed=0,1|seed=2,3", "seed=0,1: not together with seed=2,3"),
        ("+sweep|train={steps:5}|train.steps=5,6", "train={steps:5}: not together with train.steps=5,6"),
        (f"{MISTAKES}|model=mlp,cnn|model.norm=none,batch", "model=mlp,cnn: not together with model.norm=none,batch"),
        ("+sweep|optimizer=sgd,momentum",
         "optimizer=sgd,momentum: not together with the sweep's axes optimizer.lr; --multirun makes a sweep of each"),
        # what has no effect
        ("+sweep|~seed", "~seed: has no effect, since the sweep's grid has values of seed"),
        ("+sweep|train={}", "train={}: must have at least one setting"),
        ("+sweep|model.norm=none|+model.norm_options.eps=1e-3", "+model.norm_options.eps=1e-3: has no effect, since "),
        ("+sweep|model.init.scheme=he|model.init.std=0.3", "model.init.std=0.3: has no effect, since model.init.std i"),
        ("model.init.scheme=he|model.init.std=0.3|compute=inline", "model.init.std=0.3: has no effect, since model.in"),
        ("sweep.grid.seed=[0]", "sweep.grid.seed=[0]: only with a sweep: +sweep=NAME, of accelerating, "),
        ("+sweep.more=[{seed:[0]}]", "+sweep.more=[{seed:[0]}]: only with a sweep: +sweep=NAME, of accelerating, "),
        ("compute.n_jobs=2", "compute.n_jobs=2: has no effect on a single run, which is trained as with compute=inl"),
        # what is no list
        ("+sweep|seed=interval(0,1)", "seed=interval(0,1): must be a finite list of values ("),
        ("+sweep|seed=range(0,1,0)", "seed=range(0,1,0): must be a finite list of values ("),
        ("+sweep|seed=range(0,0)", "seed=range(0,0): must list at least one value"),
        ("+sweep|seed=glob(*)", "seed=glob(*): must list at least one value"),
        ("+sweep|sweep.grid.seed=interval(0,1)", "sweep.grid.seed=interval(0,1): must be a finite list of values ("),
        ("+sweep|+sweep.lists=3", "sweep.lists=3: no such key"),
    ],
)  # fmt: skip
def test_what_can_have_no_effect_is_refused(overrides: str, told: str) -> None:
    with pytest.raises(InputError) as error:
        told_of(*overrides.split("|"))
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("sweep", "override", "key", "value"),
    [
        ("+sweep=figure1", "model.init.std=0.2", "model.init.std", 0.2),
        (MISTAKES, "model.dropout=0.5", "model.dropout", 0.5),
        (MISTAKES, "+model.norm_options.inference=batch", "model.norm_options.inference", "batch"),
        (MISTAKES, "model.hidden.1=7", "model.hidden", [100, 7, 100]),
    ],
)
def test_what_is_to_be_written_instead_works(sweep: str, override: str, key: str, value: object) -> None:
    with pytest.raises(InputError, match=r"; instead write '") as error:
        told_of(sweep, override)
    (written,) = shlex.split(str(error.value).partition("; instead write ")[2])
    _, runs = told_of(sweep, written)
    assert value in values(runs, key)


# Any override of any setting, beside any sweep

GIVEN: dict[str, list[Any]] = {
    "dataset.name": ["digits"],
    "dataset.binarize": [True, False],
    "model.name": ["mlp", "cnn"],
    "model.hidden": [[8], [100, 100, 100]],
    "model.activation": ["sigmoid", "relu", "tanh"],
    "model.norm": ["none", "batch", "bnrepro.experiments.wrong_layers.PerPixel"],
    "model.norm_options.eps": [1e-3, 1e-2],
    "model.norm_options.inference": ["population", "ema"],
    "model.dropout": [0.0, 0.5],
    "model.init.scheme": ["normal", "xavier", "he"],
    "model.init.std": [0.05, 0.1, 0.2, None],
    "optimizer.name": ["sgd", "momentum"],
    "optimizer.lr": [0.1, 0.3],
    "optimizer.weight_decay": [0.0, 0.01],
    "lr_schedule.name": ["constant"],
    "train.steps": [7],
    "train.batch_size": [4, 30],
    "train.measurements": [5, 200],
    "train.dtype": ["float64"],
    "diagnostics": [["units"], ["drift"]],
    "seed": [0, 5],
}
SPELLED = {True: "true", False: "false", None: "null"}


def spelled(key: str, value: Any) -> str:
    text = f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)
    return f"++{key}={SPELLED[value] if isinstance(value, bool | None) else text}"


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(SWEEPS),
    st.lists(
        st.sampled_from([*GIVEN]).flatmap(lambda key: st.tuples(st.just(key), st.sampled_from(GIVEN[key]))),
        min_size=1,
        max_size=2,
    ),
)
def test_every_run_has_what_is_given_or_it_is_refused(name: str, chosen: list[tuple[str, Any]]) -> None:
    try:
        _, runs = told_of(f"+sweep={name}", *(spelled(*each) for each in chosen))
    except InputError:
        return
    assert runs
    for key, value in chosen:
        found = values(runs, key)
        applies = [each for each in found if each is not ABSENT and not (key == "model.init.std" and each is None)]
        assert applies == [value] or (value is None and found == [None])


# Grids of one's own


def test_changes_to_a_grid_are_kept_to_what_is_given_each_as_they_are() -> None:
    grid = {"a": {"b": [1, 2]}, "c": [{"d": 1, "e": 1}, {"d": 2, "e": 1}]}
    more: list[dict[str, Any]] = [{"a": [{"b": 1}, {"b": 3}]}, {"c": {"d": [5]}}, {"c": [{"d": 7}]}, {"a": [{"b": 4}]}]
    once, changed, _ = narrow(grid, more, [Given("a.b=3", ("a", "b"), [3])], {}, None)
    assert once == {"a": {"b": [3]}, "c": grid["c"]}
    assert changed == [{"a": [{"b": 3}]}, more[1], more[2]]
    twice, changed, told = narrow(grid, more, [Given("c.d=2", ("c", "d"), [2])], {}, None)
    assert twice == {"a": grid["a"], "c": [{"d": 2, "e": 1}]}
    assert changed == [more[0], {"c": {"d": [2]}}, more[3]]
    assert told == [
        "c.d=2: leaves 1 of the sweep's 2 values of c; leaves out 1 of the sweep's grids, without such a value"
    ]
    assert grid == {"a": {"b": [1, 2]}, "c": [{"d": 1, "e": 1}, {"d": 2, "e": 1}]}


def test_true_is_not_one() -> None:
    grid, _, _ = narrow({"a": [{"b": 1}, {"b": True}]}, [], [Given("a.b=true", ("a", "b"), [True])], {}, None)
    assert grid["a"][0]["b"] is True
