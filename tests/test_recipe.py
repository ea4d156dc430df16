"""From settings to training: each setting reaches what it is for, and no other."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from runs import a_run

from bnrepro.batchnorm import BatchNorm
from bnrepro.composition import compose
from bnrepro.config import RunConfig, Settings
from bnrepro.data import Dataset
from bnrepro.datasets import Digits
from bnrepro.layers import Conv2D, Dense, Dropout, Layer, Normal, ReLU, Sigmoid, Tanh, he, xavier
from bnrepro.optim import Adagrad, ExponentialDecay, Momentum
from bnrepro.recipe import Outcome, Run, events, specification, train_runs
from bnrepro.training import Diverged, Specification


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Digits(binarize=False).load()


def specify(digits: Dataset, *runs: RunConfig) -> Specification:
    return specification(runs, digits)


def a_cnn(changes: dict[str, Any], model: str = "cnn") -> RunConfig:
    return a_run({"model": Settings.parse(compose([f"model={model}"])).run["model"]} | changes)


def an_inception(changes: dict[str, Any]) -> RunConfig:
    return a_cnn(changes, "inception")


def layers(spec: Specification, run: int = 0) -> list[Layer]:
    return list(spec.networks[run].layers.values())


def test_hidden_layers_are_in_their_order(digits: Dataset) -> None:
    found = layers(specify(digits, a_run({"model.hidden": [7, 5, 3]})))
    assert [layer.units for layer in found if isinstance(layer, Dense)] == [7, 5, 3, 10]


def test_stages_are_in_their_order_with_the_kernel(digits: Dataset) -> None:
    found = layers(specify(digits, a_cnn({"model.channels": [3, 4], "model.kernel": 5})))
    assert [(layer.channels, layer.kernel) for layer in found if isinstance(layer, Conv2D)] == [(3, 5), (4, 5)]


def test_stem_and_modules_of_an_inception_have_their_widths(digits: Dataset) -> None:
    changes = {"model.stem": 5, "model.modules": [[1, 2, 3, 4, 6, 7], [0, 8, 9, 10, 11, 0]]}
    found = layers(specify(digits, an_inception(changes)))
    widths = [layer.channels for layer in found if isinstance(layer, Conv2D)]
    assert widths == [5, 1, 2, 3, 4, 6, 6, 7, 8, 9, 10, 11, 11]


@pytest.mark.parametrize("make", [a_run, a_cnn, an_inception])
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_dropout_has_its_rate(digits: Dataset, make: Callable[..., RunConfig], rate: float) -> None:
    found = layers(specify(digits, make({"model.dropout": rate})))
    assert {layer.rate for layer in found if isinstance(layer, Dropout)} == ({rate} if rate else set())


@pytest.mark.parametrize(("name", "activation"), [("sigmoid", Sigmoid), ("relu", ReLU), ("tanh", Tanh)])
def test_the_activation_is_the_one_named(digits: Dataset, name: str, activation: type[Layer]) -> None:
    (network,) = specify(digits, a_run({"model.activation": name})).networks
    assert {type(layer) for layer in network.nonlinearities.values()} == {activation}


def test_the_norm_has_its_options(digits: Dataset) -> None:
    options = {"eps": 0.5, "momentum": 0.25, "inference": "population"}
    found = layers(specify(digits, a_run({"model.norm": "batch", "model.norm_options": options})))
    assert [layer for layer in found if isinstance(layer, BatchNorm)] == [BatchNorm(0.5, 0.25, "population")]


@pytest.mark.parametrize("make", [a_run, a_cnn])
def test_norm_and_bias_are_where_they_are_asked_for(digits: Dataset, make: Callable[..., RunConfig]) -> None:
    def found(**changes: Any) -> list[Any]:
        changed = make({"model.norm": "batch", **{f"model.{key}": value for key, value in changes.items()}})
        return [getattr(layer, "bias", type(layer)) for layer in layers(specify(digits, changed))[:4]]

    assert [each for each in found() if each in (True, False, BatchNorm)] == [False, BatchNorm]
    assert [each for each in found(bias=True) if each in (True, False, BatchNorm)] == [True, BatchNorm]
    after = [each for each in found(placement="after", bias=False) if each in (True, False, BatchNorm, Sigmoid, ReLU)]
    assert after[0] is False
    assert after[2] is BatchNorm


@pytest.mark.parametrize(
    ("changes", "initializer"),
    [
        ({"model.init.std": 0.3}, Normal(0.3)),
        ({"model.init.scheme": "xavier"}, xavier),
        ({"model.init.scheme": "he"}, he),
    ],
)
def test_weights_are_drawn_as_is_said(digits: Dataset, changes: dict[str, Any], initializer: object) -> None:
    found = layers(specify(digits, a_run(changes)))
    assert {layer.initializer for layer in found if isinstance(layer, Dense)} == {initializer}


def test_each_run_of_a_group_has_its_own_rate_seed_and_initial_weights(digits: Dataset) -> None:
    own = [(0.1, 3, 0.5), (0.2, 1, 0.25), (0.4, 2, 1.0)]
    runs = [a_run({"optimizer.lr": lr, "seed": seed, "model.init.std": std}) for lr, seed, std in own]
    spec = specify(digits, *runs)
    assert list(spec.learning_rates) == [0.1, 0.2, 0.4]
    assert list(spec.seeds) == [3, 1, 2]
    for r, (_, _, std) in enumerate(own):
        assert {layer.initializer for layer in layers(spec, r) if isinstance(layer, Dense)} == {Normal(std)}


def test_optimiser_and_schedule_have_their_settings(digits: Dataset) -> None:
    run = a_run(
        {"optimizer.momentum": 0.7, "optimizer.weight_decay": 0.1, "lr_schedule.every": 7, "lr_schedule.factor": 0.3},
        "optimizer=momentum",
        "lr_schedule=exponential",
    )
    spec = specify(digits, run)
    assert spec.optimizer == Momentum(momentum=0.7, weight_decay=0.1)
    assert spec.lr_schedule == ExponentialDecay(every=7, factor=0.3)
    spec = specify(digits, a_run({"optimizer.eps": 0.5}, "optimizer=adagrad"))
    assert spec.optimizer == Adagrad(eps=0.5, weight_decay=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_is_in_the_dtype_and_for_the_steps_that_are_said(digits: Dataset, dtype: str) -> None:
    changes = {"train.dtype": dtype, "train.steps": 9, "train.batch_size": 11, "train.measurements": 3}
    spec = specify(digits, a_run(changes | {"train.probe_examples": 17, "train.eval_examples": 19}))
    assert spec.dtype == np.dtype(dtype)
    schedule = spec.schedule
    assert (schedule.steps, schedule.batch_size, schedule.measurements) == (9, 11, 3)
    assert (schedule.probe_examples, schedule.eval_examples) == (17, 19)


def test_the_diagnostics_are_those_named(digits: Dataset) -> None:
    assert list(specify(digits, a_run({"diagnostics": ["drift", "units"]})).diagnostics) == ["drift", "units"]
    assert specify(digits, a_run({"diagnostics": []})).diagnostics == {}


def outcomes_of(runs: Sequence[Run], data: Dataset) -> list[Outcome]:
    """What becomes of runs that train in lock-step."""
    outcomes = [Outcome() for _ in runs]
    train_runs(runs, data, outcomes)
    return outcomes


def test_rows_have_the_columns_that_are_declared_and_the_values_of_their_own_run(digits: Dataset) -> None:
    changes = {"diagnostics": ["gradients", "units", "covariate_shift"], "train.steps": 4, "train.measurements": 2}
    runs: list[Run] = [a_run(changes | {"optimizer.lr": lr, "seed": seed}) for lr, seed in ((0.1, 0), (0.5, 1))]
    together = outcomes_of(runs, digits)
    for run, outcome in zip(runs, together, strict=True):
        (alone,) = outcomes_of([run], digits)
        assert outcome == alone
        assert outcome.status == "done"
        levels = {"run": outcome.curves, "layer": outcome.layers, "unit": outcome.units}
        keys = {"run": {"step"}, "layer": {"step", "layer"}, "unit": {"step", "unit"}}
        for level, rows in levels.items():
            declared = {c.name for d in run.measured().values() for c in d.columns if c.level == level}
            always = {"train_loss", "test_accuracy", "gradient_norm"} if level == "run" else set()
            assert set().union(*rows) == keys[level] | declared | always
        assert [row["step"] for row in outcome.curves] == [0, 1, 2, 4]
        assert {(row["step"], row["unit"]) for row in outcome.units} == {
            (s, u) for s in (0, 1, 2, 4) for u in range(1, 9)
        }
        assert {row["layer"] for row in outcome.layers} == {1, 2}
    assert together[0] != together[1]


def test_a_run_that_diverges_ends_with_its_step_and_without_an_accuracy(digits: Dataset) -> None:
    runs = [a_run({"model.activation": "relu", "optimizer.lr": lr}) for lr in (1e6, 0.1, 0.5)]
    diverged, *healthy = outcomes_of(runs, digits)
    assert (diverged.status, diverged.test_accuracy) == ("diverged", None)
    assert diverged.diverged_at is not None
    assert diverged.curves[-1]["step"] <= diverged.diverged_at
    told = [event for event in events([runs[0]], digits) if isinstance(event, Diverged)]
    assert [event.step for event in told] == [diverged.diverged_at]
    for run, outcome in zip(runs[1:], healthy, strict=True):
        assert (outcome.status, outcome.diverged_at) == ("done", None)
        assert [outcome] == outcomes_of([run], digits)
    assert healthy[0].test_accuracy != healthy[1].test_accuracy
