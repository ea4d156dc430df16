"""Each mistake is the mistake that it says, and nothing else; and what the experiment makes of stored runs."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gradients import assert_gradients

from bnrepro.batchnorm import BatchNorm
from bnrepro.composition import compose
from bnrepro.config import Settings
from bnrepro.experiment import import_experiment
from bnrepro.figures import look, save
from bnrepro.layers import Array, Arrays
from bnrepro.store import RunResult, Store
from bnrepro.sweeping import expand

experiment: Any = import_experiment("implementation_mistakes")
layers: Any = importlib.import_module("bnrepro.experiments.wrong_layers")
RNG = np.random.default_rng(0)
X, DY = RNG.standard_normal((2, 1, 8, 3))
IMAGES, DY_IMAGES = RNG.standard_normal((2, 1, 8, 2, 3, 2))
MISTAKES = [cls for cls in vars(layers).values() if isinstance(cls, type) and issubclass(cls, BatchNorm)]


def start(layer: BatchNorm, x: Array) -> tuple[Arrays, Arrays]:
    params, state, _ = layer.init(np.random.default_rng(0), x.shape[2:])
    return ({name: a[None].astype(float) for name, a in arrays.items()} for arrays in (params, state))  # type: ignore[return-value]


def trained(layer: BatchNorm, *batches: Array) -> tuple[Arrays, Arrays]:
    params, state = start(layer, batches[0])
    for x in batches:
        _, state, _ = layer.forward(params, state, x, train=True)
    return params, state


@pytest.mark.parametrize("mistake", [cls for cls in MISTAKES if cls not in (BatchNorm, layers.PerPixel)])
@pytest.mark.parametrize(("x", "dy"), [(X, DY), (IMAGES, DY_IMAGES)], ids=["dense", "images"])
def test_only_the_gradient_of_outside_gradient_differs_from_the_right_layer_in_training(
    mistake: Any, x: Array, dy: Array
) -> None:
    wrong, right = (layer.forward(*start(layer, x), x, train=True) for layer in (mistake(), BatchNorm()))
    np.testing.assert_array_equal(wrong[0], right[0])
    same_gradient = np.allclose(wrong[2](dy)[0], right[2](dy)[0])
    assert same_gradient == (mistake is not layers.OutsideGradient)


def test_biased_variance_keeps_the_biased_variance() -> None:
    _, state = trained(layers.BiasedVariance(), X)
    np.testing.assert_allclose(state["var"], X.var(axis=1, keepdims=True))


def test_momentum_reversed_gives_the_newest_mini_batch_the_weight_of_the_past() -> None:
    _, state = trained(layers.MomentumReversed(momentum=0.9), X, 3 * X)
    # Weights .1 and 1, which sum to 1.1.
    np.testing.assert_allclose(state["mean"], (0.1 + 3) * X.mean(axis=1, keepdims=True) / 1.1)


def test_statistics_of_test_batch_normalises_four_images_by_themselves() -> None:
    layer = layers.StatisticsOfTestBatch()
    params, state = trained(layer, X)
    y, after, _ = layer.forward(params, state, X, train=False)
    np.testing.assert_allclose(y[:, 4:].mean(axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(y[:, :4], layer.forward(params, state, X[:, :4], train=False)[0])
    assert after is state


def test_frozen_variance_stays_0_and_scales_inference_by_1_over_the_root_of_eps() -> None:
    layer = layers.FrozenVariance(eps=1e-6)
    params, state = trained(layer, X, X)
    np.testing.assert_array_equal(state["var"], 0)
    y, _, _ = layer.forward(params, state, X, train=False)
    np.testing.assert_allclose(y, 1000 * (X - X.mean(axis=1, keepdims=True)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("x", "dy"), [(X, DY), (IMAGES, DY_IMAGES)], ids=["dense", "images"])
def test_outside_gradient_takes_mean_and_variance_for_constants(x: Array, dy: Array) -> None:
    layer = layers.OutsideGradient(eps=0.1)
    params, state = start(layer, x)
    params["gamma"] *= 3
    _, _, backward = layer.forward(params, state, x, train=True)
    dx, grads = backward(dy)
    axes = (1, *range(3, x.ndim))
    mean, std = x.mean(axis=axes, keepdims=True), np.sqrt(x.var(axis=axes, keepdims=True) + 0.1)

    def frozen(at: Arrays) -> Array:
        y: Array = at["gamma"] * (at["x"] + at["b"] - mean) / std + at["beta"]
        return y

    assert_gradients(frozen, params | {"x": x}, dy, grads | {"x": dx})


def test_the_bias_before_outside_gradient_moves_and_the_output_does_not() -> None:
    layer = layers.OutsideGradient()
    params, state = start(layer, X)
    y, _, backward = layer.forward(params, state, X, train=True)
    bias = backward(DY)[1]["b"]
    assert np.abs(bias).min() > 0.01
    moved, _, _ = layer.forward(params | {"b": params["b"] - 5 * bias}, state, X, train=True)
    np.testing.assert_allclose(moved, y, atol=1e-12)


def test_per_pixel_has_one_gamma_and_statistics_for_every_pixel() -> None:
    layer = layers.PerPixel(eps=0)
    params, state = start(layer, IMAGES)
    y, _, backward = layer.forward(params, state, IMAGES, train=True)
    assert params["gamma"].shape == (1, 1, 2 * 3 * 2)
    np.testing.assert_allclose(y.mean(axis=1), 0, atol=1e-12)
    np.testing.assert_allclose((y**2).mean(axis=1), 1)
    assert backward(DY_IMAGES)[0].shape == IMAGES.shape


def test_every_mistake_has_a_title() -> None:
    named = {name for _, name in experiment.TITLES}
    assert {cls.__name__ for cls in MISTAKES} - {"BatchNorm"} == named - {"batch"}


def test_score_and_figure_of_a_stored_sweep_with_a_diverged_run(tmp_path: Path) -> None:
    base = Settings.parse(compose(["+sweep=implementation_mistakes", "train.steps=3", "train.eval_examples=20"]))
    (grid,) = base.grids
    runs = expand(base.run, {**grid, "seed": [0, 1]})
    assert len(runs) == len(experiment.TITLES) * 2 * 2
    store = Store(tmp_path, create=True)
    curve = [{"step": 0, "train_loss": 2.0}, {"step": 3, "train_loss": 1.0}]
    blank = {"test_accuracy": 0.5, "gradient_norm": 1.0}
    rows = [row | blank for row in curve]
    store.add(RunResult(run, test_accuracy=0.8 + 0.1 * run.seed, curves=rows) for run in runs[1:])
    store.add([RunResult(runs[0], status="diverged", diverged_at=2, curves=rows[:1])])
    table = experiment.score(store.load())
    assert table.index.tolist() == list(experiment.TITLES.values())
    assert table.loc["right", "test accuracy, m = 4"] == "1 of 2 diverged"
    assert table.loc["right", "test accuracy, m = 60"] == "0.850 (0.800–0.900)"
    assert table.loc["right", "train loss, m = 60"] == "1.000 (1.000–1.000)"
    with look():
        (figure,) = experiment.figures(store.load()).values()
        save(figure, tmp_path, "mistakes")
    errors, bias = figure.axes
    assert [label.get_text() for label in errors.get_yticklabels()] == list(experiment.TITLES.values())
    assert "test error after 3 steps, %" in errors.get_xlabel()
    assert any("1 of 2 diverged" in text.get_text() for text in errors.texts)
    biases, losses, right = (line.get_ydata() for line in bias.lines)
    assert biases[-1] > 10  # Section 2: the bias grows, the loss does not move
    np.testing.assert_allclose(losses, losses[0], rtol=1e-12)
    np.testing.assert_array_equal(right, 0)
