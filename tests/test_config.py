"""Settings are typed and checked, and a run is identified by what they say and not by how they say it."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import TINY, a_run, settings, without_added

from bnrepro.batchnorm import BatchNorm
from bnrepro.composition import compose
from bnrepro.config import RUN_KEYS, Inline, Local, RunConfig, Settings, declared_settings, validated
from bnrepro.datasets import PUBLISHED, Digits
from bnrepro.errors import InputError
from bnrepro.layers import Normal, he, xavier
from bnrepro.provenance import code_digest
from bnrepro.recipe import Count, Init
from bnrepro.settings import to_override

BATCH = {"model.norm": "batch"}


def a_cnn(*overrides: str) -> RunConfig:
    return RunConfig.parse(Settings.parse(compose(["model=cnn", *overrides])).run)


def message(error: pytest.ExceptionInfo[InputError]) -> str:
    """Of bad input: one line."""
    text = str(error.value)
    assert "\n" not in text
    return text


# What is rejected

NUMBER, INTEGER = "must be a valid number", "must be a valid integer"
NAMES = "must be one of {}, or an import path like package.module.Class"


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("optimizer.lr", "abc", NUMBER),
        ("optimizer.lr", "0.1", NUMBER),
        ("optimizer.lr", True, NUMBER),
        ("optimizer.lr", None, NUMBER),
        ("optimizer.lr", [0.1, 1], NUMBER),
        ("optimizer.lr", 0, "must be greater than 0"),
        ("optimizer.lr", -1, "must be greater than 0"),
        ("optimizer.lr", float("inf"), "must be a finite number"),
        ("optimizer.lr", float("nan"), "must be a finite number"),
        ("optimizer.name", "lbfgs", NAMES.format("sgd, momentum, adagrad")),
        ("optimizer.name", None, NAMES.format("sgd, momentum, adagrad")),
        ("optimizer.name", "json.dumps", "must be a dataclass"),
        ("optimizer.momentum", 0.9, "no such key"),
        ("optimizer", 3, "must be a group of settings with a name"),
        ("dataset", "digits", "must be a group of settings with a name"),
        ("dataset.name", "cifar", NAMES.format("digits, mnist, fashion_mnist, cifar10")),
        ("dataset.name", [1], NAMES.format("digits, mnist, fashion_mnist, cifar10")),
        ("dataset.binarize", "maybe", "must be a valid boolean"),
        ("dataset.root", "here", "no such key; known are binarize"),
        ("model", {}, "must be a group of settings with a name"),
        ("model.name", "vgg", NAMES.format("mlp, cnn, inception")),
        ("model.hidden", [], "must have at least 1 item"),
        ("model.hidden", 100, "must be a valid list"),
        ("model.activation", "elu", NAMES.format("sigmoid, relu, tanh")),
        ("model.activation", "no.such.Thing", NAMES.format("sigmoid, relu, tanh")),
        ("model.activation", "bnrepro.layers.Nothing", NAMES.format("sigmoid, relu, tanh")),
        ("model.activation", ".layers.ReLU", NAMES.format("sigmoid, relu, tanh")),
        ("model.activation", None, "must be a valid string"),
        ("model.norm", "layer", NAMES.format("none, batch")),
        ("model.norm", "json.dumps", "must be a dataclass"),
        (
            "model.width",
            3,
            "no such key; known are activation, norm, norm_options, dropout, init, placement, bias, hidden",
        ),
        ("model.init.scheme", "lecun", NAMES.format("normal, xavier, he")),
        ("model.init.std", 0, "must be greater than 0"),
        ("model.init.std", None, "scheme normal needs one above 0"),
        ("model.init.gain", 2, "no such key; known are scheme, std"),
        ("train", None, "must be a group of settings"),
        ("train.steps", 0, "must be greater than 0"),
        ("train.steps", -5, "must be greater than 0"),
        ("train.steps", 1.5, INTEGER),
        ("train.steps", "20", INTEGER),
        ("train.batch_size", 0, "must be greater than 0"),
        ("train.batch_size", -1, "must be greater than 0"),
        ("train.measurements", 0, "must be greater than 0"),
        ("train.early_measurements", 1, "must be a valid boolean or be greater than or equal to 1.001"),
        ("train.early_measurements", 1.0, "must be a valid boolean or be greater than or equal to 1.001"),
        ("train.early_measurements", "1.5", "must be a valid boolean or be a valid number"),
        ("train.early_measurements", float("inf"), "must be a valid boolean or be a finite number"),
        ("train.measurements", 10**6 + 1, "must be less than or equal to 1000000"),
        ("train.probe_examples", 1, "must be greater than 1"),
        ("train.eval_examples", 0, "must be greater than 0"),
        ("train.dtype", "float16", "must be 'float32' or 'float64'"),
        ("train.epochs", 3, "no such key; known are steps, batch_size, measurements"),
        ("seed", -1, "must be greater than or equal to 0"),
        ("seed", 1.5, INTEGER),
        ("seed", True, INTEGER),
        ("seed", 2**63, "must be less than 9223372036854775808"),
        ("lr", 0.1, "no such key; known are dataset, model, optimizer, lr_schedule, train, diagnostics, seed"),
        ("momentum", 0.1, "no such key"),
    ],
)
def test_a_bad_value_is_named_with_its_key_and_what_is_allowed(key: str, value: Any, allowed: str) -> None:
    with pytest.raises(InputError) as error:
        a_run({key: value})
    assert message(error).startswith(f"{key}={to_override(value)}: {allowed}")


INTEGERS = [found.key for found in declared_settings() if found.kind in (int, list[Count])]


@pytest.mark.parametrize("key", INTEGERS)
def test_no_integer_is_larger_than_a_store_can_hold(key: str) -> None:
    """SQLite's integers have 64 bits; found out after training, all of it would be lost."""
    groups = {"model.channels": "model=cnn", "model.kernel": "model=cnn", "model.stem": "model=inception"}
    groups["lr_schedule.every"] = "lr_schedule=step"
    large = 2**63 + 1
    value = f"[8,{large}]" if key in ("model.hidden", "model.channels") else large
    with pytest.raises(InputError) as error:
        RunConfig.parse(Settings.parse(compose([*filter(None, [groups.get(key)]), f"{key}={value}"])).run)
    assert re.match(rf"{key}(\.1)?={large}: must (fit in 64 bits|be less than)", message(error))


def test_integers_of_every_part_are_known() -> None:
    assert {"train.steps", "seed", "model.hidden", "model.channels", "model.kernel", "lr_schedule.every"} <= {*INTEGERS}


@pytest.mark.parametrize(
    ("hidden", "start"), [([0, 8], "model.hidden.0=0: must be greater"), ([8, 1.5], "model.hidden.1=1.5: must be a")]
)
def test_a_bad_element_of_a_list_is_named_with_its_place(hidden: list[Any], start: str) -> None:
    with pytest.raises(InputError) as error:
        a_run({"model.hidden": hidden})
    assert message(error).startswith(start)


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"eps": -1.0}, "model.norm_options.eps=-1.0: must be at least 0"),
        ({"eps": "abc"}, "model.norm_options.eps=abc: must be a valid number"),
        ({"momentum": 2}, "model.norm_options.momentum=2.0: must be from 0 to 1"),
        ({"inference": "moving"}, "model.norm_options.inference=moving: must be 'ema', 'population' or 'batch'"),
        ({"foo": True}, "model.norm_options.foo=true: no such key; known are eps, momentum"),
    ],
)
def test_options_of_the_norm_are_checked(options: dict[str, Any], start: str) -> None:
    with pytest.raises(InputError) as error:
        a_run(BATCH | {"model.norm_options": options})
    assert message(error).startswith(start)


@pytest.mark.parametrize(
    ("option", "key", "value"), [("momentum", "momentum", 1), ("momentum", "momentum", "x"), ("adagrad", "eps", 0)]
)
def test_options_of_the_optimizer_are_checked(option: str, key: str, value: Any) -> None:
    with pytest.raises(InputError, match=rf"^optimizer\.{key}={value}\S*: must be "):
        a_run({f"optimizer.{key}": value}, f"optimizer={option}")


@pytest.mark.parametrize("key", [*RUN_KEYS, "optimizer.lr", "optimizer.name", "train.steps", "model.init.std"])
def test_a_missing_key_is_named(key: str) -> None:
    changed = settings()
    *path, last = key.split(".")
    node = changed
    for part in path:
        node = node[part]
    del node[last]
    with pytest.raises(InputError) as error:
        RunConfig.parse(changed)
    assert message(error).startswith(key if last != "name" else path[-1])


@pytest.mark.parametrize("norm", ["batch", "bnrepro.batchnorm.BatchNorm"])
def test_batch_norm_needs_two_examples(norm: str) -> None:
    assert a_run({"train.batch_size": 1}).train.batch_size == 1
    assert a_run({"train.batch_size": 2, "model.norm": norm}).train.batch_size == 2
    with pytest.raises(InputError, match=r"^train\.batch_size=1: batch norm needs at least 2 examples"):
        a_run({"train.batch_size": 1, "model.norm": norm})


def test_how_much_inputs_are_whitened_is_given_with_whitened_inputs_alone() -> None:
    assert a_run({"dataset.inputs": "whitened", "dataset.whitening_epsilon": 0.1}).run_id
    told = r"^dataset\.whitening_epsilon=0\.1: only with dataset\.inputs=whitened$"
    with pytest.raises(InputError, match=told):
        a_run({"dataset.inputs": "centred", "dataset.whitening_epsilon": 0.1})


# What a run is

LEAVES: dict[str, Any] = {
    "dataset.name": "mnist",
    "dataset.binarize": True,
    "dataset.inputs": "centred",
    "dataset.whitening_epsilon": 0.1,
    "dataset.train_examples": 300,
    "dataset.validation": 30,
    "dataset.augmentation": ["flip"],
    "train.order": "fixed",
    "model.name": "bnrepro.recipe.MLP",
    "model.hidden": [8, 8],
    "model.activation": "relu",
    "model.norm": "bnrepro.batchnorm.BatchNorm",
    "model.norm_options.eps": 1e-3,
    "model.norm_options.momentum": 0.5,
    "model.norm_options.inference": "population",
    "model.dropout": 0.5,
    "model.init.scheme": "he",
    "model.init.std": 0.2,
    "model.placement": "after",
    "model.bias": True,
    "optimizer.name": "bnrepro.optim.Momentum",
    "optimizer.lr": 0.2,
    "optimizer.momentum": 0.5,
    "optimizer.weight_decay": 1e-4,
    "lr_schedule.name": "bnrepro.optim.Constant",
    "train.steps": 21,
    "train.batch_size": 61,
    "train.measurements": 5,
    "train.probe_examples": 100,
    "train.eval_examples": 100,
    "train.early_measurements": False,
    "train.predictions": True,
    "train.dtype": "float64",
    "train.engine": "compiled",
    "diagnostics": ["drift"],
    "seed": 1,
}
IN_LOCK_STEP = {"model.init.scheme", "model.init.std", "optimizer.lr", "seed"}


def full_run(changes: dict[str, Any] | None = None) -> RunConfig:
    """A run that has every leaf, and in which each can be changed alone."""
    dataset = "dataset=mnist" if (changes or {}).get("dataset.name") == "mnist" else "dataset=digits"
    inputs = "raw" if "train.engine" in (changes or {}) else "whitened"
    return a_run({"model.norm": "batch", "dataset.inputs": inputs, **(changes or {})}, "optimizer=momentum", dataset)


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for key, node in tree.items() for k, v in leaves(node, f"{path}.{key}" if path else key).items()}


def test_every_leaf_of_the_identity_is_tested_below() -> None:
    assert leaves(full_run().to_dict()).keys() == LEAVES.keys()


@pytest.mark.parametrize("key", LEAVES)
def test_any_change_makes_another_run(key: str) -> None:
    base, changed = full_run(), full_run({key: LEAVES[key]})
    assert leaves(changed.to_dict())[key] == LEAVES[key]
    assert changed.run_id != base.run_id


@pytest.mark.parametrize("key", LEAVES)
def test_a_group_is_runs_that_differ_in_rate_seed_and_initial_weights_only(key: str) -> None:
    base, changed = full_run(), full_run({key: LEAVES[key]})
    assert (changed.group_id == base.group_id) == (key in IN_LOCK_STEP)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"optimizer.lr": 1}, {"optimizer.lr": 1.0}),
        ({"model.init.std": 1}, {"model.init.std": 1.0}),
        ({"model.init.scheme": "he", "model.init.std": 0.1}, {"model.init.scheme": "he", "model.init.std": None}),
        ({"model.init.scheme": "xavier", "model.init.std": 0.1}, {"model.init.scheme": "xavier", "model.init.std": 9}),
        ({"dataset.binarize": True}, {"dataset.binarize": "true"}),
        ({"dataset.augmentation": ["flip", "crop", "flip"]}, {"dataset.augmentation": ["crop", "flip"]}),
        ({"diagnostics": ["units", "drift", "units"]}, {"diagnostics": ["drift", "units"]}),
        ({}, {"model.norm_options": {"eps": 1e-3}}),  # there is no norm to have options
        ({}, {"model.placement": "after"}),  # or to be placed
        ({}, {"model.bias": True}),
        (BATCH, BATCH | {"model.bias": False}),
        (BATCH | {"model.placement": "after"}, BATCH | {"model.placement": "after", "model.bias": "true"}),
        (BATCH, BATCH | {"model.norm_options": {"eps": 1e-5, "momentum": 0.9}}),
        (BATCH, BATCH | {"model.norm_options": {"momentum": 0.9}}),
        (BATCH | {"model.norm_options": {"eps": 1}}, BATCH | {"model.norm_options": {"eps": 1.0}}),
    ],
)
def test_another_spelling_is_the_same_run(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert a_run(one).run_id == a_run(other).run_id
    assert a_run(one).to_dict() == a_run(other).to_dict()


@pytest.mark.parametrize("spellings", [["1", "1.0", "1e0", "+1", "1.", "10e-1"], ["0.1", "1e-1", ".1", "1E-1"]])
@pytest.mark.parametrize("key", ["optimizer.lr", "model.init.std"])
def test_a_number_typed_in_another_way_is_the_same_run(key: str, spellings: list[str]) -> None:
    assert len({a_run({}, f"{key}={spelling}").run_id for spelling in spellings}) == 1


def test_options_of_the_norm_are_filled_in() -> None:
    assert a_run(BATCH).to_dict()["model"]["norm_options"] == {
        "eps": BatchNorm.eps,
        "momentum": BatchNorm.momentum,
        "inference": BatchNorm.inference,
    }
    assert a_run().to_dict()["model"]["norm_options"] == {}


def test_the_order_of_keys_does_not_matter() -> None:
    def backwards(tree: Any) -> Any:
        return {k: backwards(v) for k, v in reversed(tree.items())} if isinstance(tree, dict) else tree

    assert list(backwards(settings())) != list(settings())
    assert RunConfig.parse(backwards(settings())).run_id == a_run().run_id


@pytest.mark.parametrize(("key", "value"), [("root", "elsewhere"), ("mirrors", []), ("sha256_gz", None)])
def test_where_a_data_set_comes_from_is_not_part_of_a_run(key: str, value: Any) -> None:
    base, changed = (a_run(change, "dataset=mnist") for change in ({}, {f"dataset.{key}": value}))
    assert getattr(changed.dataset.value, key) == value != getattr(base.dataset.value, key)
    assert changed.run_id == base.run_id
    assert changed.dataset == base.dataset
    assert hash(changed.dataset) == hash(base.dataset)
    assert base.dataset != a_run({}, "dataset=fashion_mnist").dataset


def test_what_files_a_data_set_has_is_part_of_a_run_unless_they_are_the_published_ones() -> None:
    other = {"dataset.sha256": ["0" * 64] * 4}
    published = a_run({"dataset.sha256": PUBLISHED["mnist"]}, "dataset=mnist")
    assert published.run_id == a_run({}, "dataset=mnist").run_id != a_run(other, "dataset=mnist").run_id
    assert "sha256" not in json.dumps(published._identity(per_run=True))  # as when it was no part of any run


def test_ids_are_stable() -> None:
    """A change here makes every stored run unknown."""
    settled = {
        "dataset": {"name": "digits", "binarize": False},
        "model": {
            "name": "mlp",
            "hidden": [8],
            "activation": "sigmoid",
            "norm": "none",
            "norm_options": {},
            "dropout": 0.0,
            "init": {"scheme": "normal", "std": 0.1},
            "placement": "before",
            "bias": None,
        },
        "optimizer": {"name": "sgd", "lr": 1.0, "weight_decay": 0.0},
        "lr_schedule": {"name": "constant"},
        "train": {
            "steps": 20,
            "batch_size": 60,
            "measurements": 4,
            "probe_examples": 50,
            "eval_examples": 50,
            "dtype": "float32",
            "engine": "numpy",
        },
        "diagnostics": ["percentiles"],
        "seed": 0,
    }
    run = RunConfig.parse(settled)
    assert run.to_dict().keys() == settled.keys()
    assert run.run_id == "e4a96ca629f232e2"  # settings added since stand at their default


# Names and import paths

MINE = """
from dataclasses import dataclass

import numpy as np

from bnrepro.batchnorm import BatchNorm
from bnrepro.datasets import Digits
from bnrepro.measuring import Column, measures
from bnrepro.layers import Dense, Flatten, Sigmoid, xavier
from bnrepro.network import Network
from bnrepro.optim import SGD, LearningRateSchedule
from bnrepro.recipe import Architecture


class Swish(Sigmoid):
    pass


class Leaky(Sigmoid):
    def __init__(self, slope):
        pass


@dataclass(frozen=True)
class Shift(BatchNorm):
    shift: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Decay(SGD):
    decay: float


@dataclass(frozen=True)
class Few(Digits):
    count: int


@dataclass(frozen=True)
class Half(LearningRateSchedule):
    def __call__(self, step):
        return 0.5


@dataclass(frozen=True)
class Linear(Architecture):
    def build(self, classes):
        return Network({"flatten": Flatten(), "logits": Dense(classes, xavier)})


@measures()
def nothing(snapshot):
    return {}


@measures(Column("lr", "run", "learning rate"))
def rate(snapshot):
    return {"lr": snapshot.lr}


@measures(Column("diagnostics", "run", "learning rate"))
def list_of_names(snapshot):
    return {"diagnostics": snapshot.lr}


def tiny(rng, fan_in, fan_out, shape):
    return np.full(shape, 1e-3)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with something of everything that settings can name."""
    (tmp_path / "mine_of_test_config.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)


def test_an_activation_takes_no_arguments(mine: None) -> None:
    with pytest.raises(InputError) as error:
        a_run({"model.activation": "mine_of_test_config.Leaky"})
    path, problem = "mine_of_test_config.Leaky", "missing a required argument: 'slope'"
    assert message(error) == f"model.activation={path}: must be a class that takes no arguments ({problem})"


def test_classes_by_import_path(mine: None) -> None:
    changes = {
        "model.activation": "mine_of_test_config.Swish",
        "model.norm": "mine_of_test_config.Shift",
        "model.norm_options": {"shift": 2},
        "model.init.scheme": "mine_of_test_config.tiny",
        "optimizer": {"name": "mine_of_test_config.Decay", "lr": 0.1, "weight_decay": 0, "decay": 1},
        "dataset": {"name": "mine_of_test_config.Few", "binarize": False, "count": 5},
    }
    run = a_run(changes)
    network = run.model.value.build(10)
    assert [type(layer).__name__ for layer in network.layers.values()][1:4] == ["Dense", "Shift", "Swish"]
    assert vars(network.layers["norm1"]) == {**vars(BatchNorm()), "shift": 2.0}
    assert run.to_dict()["optimizer"] == {
        "name": "mine_of_test_config.Decay",
        "lr": 0.1,
        "weight_decay": 0.0,
        "decay": 1.0,
    }
    assert vars(run.dataset.value) == vars(Digits(binarize=False)) | {"count": 5}
    params, _ = network.init(np.random.default_rng(0), (1, 8, 8))
    assert np.all(params["dense1"]["W"] == 1e-3)
    for key, value in [("model.norm_options", {"shift": "x"}), ("optimizer.decay", "x"), ("dataset.count", "x")]:
        with pytest.raises(InputError, match=rf"^{re.escape(key)}\S*=x: must be a valid "):
            a_run(changes | {key: value})


@pytest.mark.parametrize(
    ("scheme", "std", "built"), [("normal", 0.3, Normal(0.3)), ("xavier", 0.3, xavier), ("he", None, he)]
)
def test_initializer_by_name(scheme: str, std: float | None, built: Any) -> None:
    assert Init(scheme, std).build() == built


# All that a command says


def test_compose_gives_every_setting_of_conf_with_overrides() -> None:
    composed = compose([*TINY, "+sweep=learning_rates", "sweep.grid.seed=[7]", "results_dir='~/here'"])
    parsed = Settings.parse(composed)
    assert RunConfig.parse(parsed.run).train.steps == 20
    (grid,) = parsed.grids
    assert grid["seed"] == [7]
    assert parsed.results_dir == Path("~/here").expanduser()
    assert parsed.compute == Local(n_jobs=-1, group_size=None)
    assert Settings.parse(compose(["compute=inline"])).compute == Inline(group_size=None)


def test_results_dir_and_compute_are_not_part_of_a_run() -> None:
    base, other = (
        RunConfig.parse(Settings.parse(compose([*TINY, *overrides])).run)
        for overrides in ([], ["results_dir=elsewhere", "compute.n_jobs=1", "compute.group_size=3"])
    )
    assert base.run_id == other.run_id


@pytest.mark.parametrize(
    ("override", "start"),
    [
        (
            "+foo=1",
            "foo=1: no such key; known are dataset, model, optimizer, lr_schedule, train, diagnostics, seed, compute",
        ),
        ("+lr=1", "lr=1: no such key; known are dataset, "),
        ("results_dir=null", "results_dir=null: must be a valid string"),
        ("results_dir=", "results_dir=: must have at least 1 character"),
        ("~results_dir", "results_dir: missing"),
        ("~compute", "compute=null: must be a group of settings"),
        ("compute.n_jobs=0", "compute.n_jobs=0: must be a number of worker processes, or -1 for one per core"),
        ("compute.n_jobs=abc", "compute.n_jobs=abc: must be a valid integer"),
        ("compute.n_jobs=true", "compute.n_jobs=true: must be a valid integer"),
        ("compute.name=slurm", "compute.name=slurm: must be one of local, dask, inline"),
        ("~compute.name", "compute.name=null: must be one of local, dask, inline"),
        ("compute.name=inline", "compute.n_jobs=-1: no such key; known are group_size"),
        ("compute.group_size=0", "compute.group_size=0: must be greater than 0"),
        ("+compute.foo=0", "compute.foo=0: no such key; known are group_size, n_jobs"),
        ("+sweep.foo=1", "sweep.foo=1: no such key; known are dry_run, force, show, redraw, note, refine, grid, more"),
        ("sweep=learning_rates ++sweep.grid=null", "sweep.grid=null: must be a valid dictionary"),
        ("sweep=learning_rates ++sweep.grid=[1]", "++sweep.grid=[1]: must be settings, each with a list of values"),
    ],
)
def test_bad_settings_around_a_run(override: str, start: str) -> None:
    with pytest.raises(InputError) as error:
        Settings.parse(compose(override.split()))
    assert message(error).startswith(start)


def test_validated_converts_and_returns_the_dataclass() -> None:
    assert validated(Local, {"n_jobs": 2, "group_size": None}, "compute") == Local(n_jobs=2, group_size=None)


@pytest.mark.parametrize(
    ("value", "spelled"),
    [(None, "null"), (True, "true"), ([1, None], "[1, null]"), ("abc", "abc"), (0.1, "0.1"), (float("nan"), "nan")],
)
def test_values_are_spelled_as_on_a_command_line(value: Any, spelled: str) -> None:
    assert to_override(value) == spelled


def test_a_convolutional_network_may_train_on_one_example_but_a_dense_one_not_with_batch_norm() -> None:
    run = a_cnn("train.batch_size=1")
    assert run.model.value.build(10).layers["norm1"] == BatchNorm()
    with pytest.raises(InputError, match=r"^train\.batch_size=1: batch norm needs at least 2 examples"):
        a_run(BATCH | {"train.batch_size": 1})


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["model=cnn", "model.kernel=2"], "model.kernel=2: must be odd, so that images keep their size"),
        (["model=cnn", "model.channels=[]"], "model.channels=[]: must "),
        *(
            (
                ["model=inception", f"model.modules={given}"],
                f"model.modules={given}: must be lists of six widths above 0",
            )
            for given in ("[[1, 1, 1, 1, 1]]", "[[1, 1, 1, 1, 1, 0]]", "[[0, 1, 1, 1, 1, 1]]", "[[1, 1, 0, 1, 1, 1]]")
        ),
        (["model=inception", "model.modules=[]"], "model.modules=[]: must "),
        (["model=inception", "model.modules=[[1, 1, -1, 1, 1, 1]]"], "model.modules.0.2=-1: must be greater"),
        (
            ["dataset=mnist", "dataset.sha256=foo"],
            "dataset.sha256=foo: must be a valid list or be 'published', or null",
        ),
        (["dataset=mnist", "dataset.sha256=[foo,null]"], "dataset.sha256.1=null: must be a valid string"),
        (["dataset=mnist", "dataset.sha256_gz=foo"], "dataset.sha256_gz=foo: must be a valid list, or null"),
        (["model.placement=behind"], "model.placement=behind: must be 'before' or 'after'"),
        (["model.bias=maybe"], "model.bias=maybe: must be a valid boolean"),
        (["model.init.std=-1"], "model.init.std=-1: must be greater than 0.0, or null"),
        (["model.dropout=1.0"], "model.dropout=1.0: must be less than 1"),
        (["optimizer.weight_decay=-1.0"], "optimizer.weight_decay=-1.0: must be at least 0"),
        (["lr_schedule=step", "lr_schedule.every=0"], "lr_schedule.every=0: must be a number of steps"),
        (["lr_schedule=exponential", "lr_schedule.factor=2.0"], "lr_schedule.factor=2.0: must be above 0"),
        (["lr_schedule.name=cosine"], "lr_schedule.name=cosine: must be one of constant, step, exponential"),
    ],
)
def test_bad_settings_of_models_optimisers_and_schedules(overrides: list[str], problem: str) -> None:
    with pytest.raises(InputError) as error:
        RunConfig.parse(Settings.parse(compose(overrides)).run)
    assert message(error).startswith(problem)


@pytest.mark.parametrize("option", ["constant", "step", "exponential"])
def test_every_learning_rate_schedule_is_an_option(option: str) -> None:
    assert a_run({}, f"lr_schedule={option}").lr_schedule.value(0) == 1


@pytest.mark.parametrize(
    ("overrides", "steps", "seeds"),
    [
        (["dataset=mnist"], 50_000, 5),
        (["dataset=fashion_mnist"], 50_000, 5),
        (["dataset=mnist", "train.steps=7", "sweep.grid.seed=[7]"], 7, 1),
    ],
)
@pytest.mark.parametrize("name", ["learning_rates", "covariate_shift"])
def test_a_sweep_on_mnist_is_of_the_papers_scale_unless_told_otherwise(
    name: str, overrides: list[str], steps: int, seeds: int
) -> None:
    parsed = Settings.parse(compose([f"+sweep={name}", *overrides]))
    assert RunConfig.parse(parsed.run).train.steps == steps
    assert len(parsed.grids[0]["seed"]) == seeds


@pytest.mark.parametrize(("name", "steps", "seeds"), [("learning_rates", 3000, 3), ("covariate_shift", 2000, 5)])
def test_a_sweep_on_digits_takes_a_minute_or_two(name: str, steps: int, seeds: int) -> None:
    parsed = Settings.parse(compose([f"+sweep={name}", "dataset=digits"]))
    assert RunConfig.parse(parsed.run).train.steps == steps
    assert len(parsed.grids[0]["seed"]) == seeds


def test_more_grids_are_the_grid_with_changes() -> None:
    more = "+sweep.more=[{optimizer: {lr: [1]}, train: {steps: [5, 6]}}, {model: {norm: [batch]}}]"
    grid, *changed = Settings.parse(compose(["+sweep=learning_rates", more])).grids
    first = {**grid, "optimizer": {"lr": [1]}, "train": {"steps": [5, 6]}}
    assert changed == [first, {**grid, "model": {**grid["model"], "norm": ["batch"]}}]
    assert len(grid["model"]) > 1


@pytest.mark.parametrize(("name", "column"), [("rate", "lr"), ("list_of_names", "diagnostics")])
def test_a_diagnostic_can_not_take_the_column_of_a_setting(mine: None, name: str, column: str) -> None:
    start = f"diagnostics=mine_of_test_config.{name}: column {column} of each run is every table's already"
    with pytest.raises(InputError, match=start):
        a_run({"diagnostics": [f"mine_of_test_config.{name}"]})


# Identity of what computes


def test_code_is_the_same_for_runs_that_differ_in_settings_only() -> None:
    runs = [a_run(), a_run({"seed": 1, "model.activation": "relu", "train.steps": 3}), a_cnn()]
    assert {run.code for run in runs} == {code_digest()}


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"model.activation": "mine_of_test_config.Swish"}, "mine_of_test_config.Swish"),
        (BATCH | {"model.norm": "mine_of_test_config.Shift"}, "mine_of_test_config.Shift"),
        ({"model.init.scheme": "mine_of_test_config.tiny"}, "mine_of_test_config.tiny"),
        (
            {"optimizer": {"name": "mine_of_test_config.Decay", "lr": 0.1, "weight_decay": 0, "decay": 1}},
            "mine_of_test_config.Decay",
        ),
        ({"dataset": {"name": "mine_of_test_config.Few", "binarize": False, "count": 5}}, "mine_of_test_config.Few"),
        ({"lr_schedule": {"name": "mine_of_test_config.Half"}}, "mine_of_test_config.Half"),
        ({"diagnostics": ["mine_of_test_config.nothing"]}, "mine_of_test_config.nothing"),
        ({"model": {"name": "mine_of_test_config.Linear"}}, "mine_of_test_config.Linear"),
    ],
)
def test_what_is_named_by_import_path_belongs_to_the_code(mine: None, changes: dict[str, Any], path: str) -> None:
    run = a_run(changes)
    assert run.code == code_digest(frozenset({path})) != code_digest()


def test_the_compiled_engine_belongs_to_the_code_of_the_runs_that_it_trains() -> None:
    assert a_run({"train.engine": "compiled"}).code == code_digest(frozenset({"bnrepro.compiled"})) != a_run().code


def sha256(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def test_the_id_of_a_run_is_the_digest_of_its_settings_but_for_those_at_the_default_of_their_class() -> None:
    for run in (a_run(), a_cnn("model.norm=none", "optimizer=momentum", "optimizer.lr=1e-3")):
        assert run.run_id == sha256(without_added(run.to_dict()))
    run = a_run(BATCH | {"model.norm_options": {"eps": 1e-3, "momentum": 0.9}})
    settings = without_added(run.to_dict())
    assert settings["model"]["norm_options"] == {"eps": 1e-3, "momentum": 0.9, "inference": "ema"}
    settings["model"]["norm_options"] = {"eps": 1e-3}
    assert run.run_id == sha256(settings)
