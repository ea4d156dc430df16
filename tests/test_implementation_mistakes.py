"""Each mistake is the mistake that it says, and nothing else; and what the experiment makes of stored runs."""

import importlib
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gradients import assert_gradients
from made_up import findings_of

from bnrepro.analysis import estimate, levels, rows
from bnrepro.batchnorm import BatchNorm
from bnrepro.experiment import Experiment, import_experiment
from bnrepro.figures import look
from bnrepro.layers import Array, Arrays
from bnrepro.store import Results

found = import_experiment("implementation_mistakes")
assert found
experiment: Experiment = found
module: Any = importlib.import_module("bnrepro.experiments.implementation_mistakes")
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


def test_statistics_from_zero_lack_the_share_of_the_past_that_there_was_not() -> None:
    _, state = trained(layers.StatisticsFromZero(momentum=0.9), X, X)
    np.testing.assert_allclose(state["mean"], (1 - 0.9**2) * X.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(state["var"], (1 - 0.9**2) * X.var(axis=1, keepdims=True, ddof=1))


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


# What the experiment makes of runs

MEASURES = ["final accuracy", "accuracy lost", "train loss"]
OUTSIDE, PER_PIXEL = (module.TITLES[name] for name in ("OutsideGradient", "PerPixel"))


def test_every_mistake_has_a_title() -> None:
    assert {cls.__name__ for cls in MISTAKES} - {"BatchNorm"} == set(module.TITLES) - {"batch"}


def results_of(*cells: tuple[str, str, int, list[float]], **settings: Any) -> Results:
    """Runs with these final accuracies (NaN: diverged) of model, norm and batch size; the last train loss is 0.2."""
    runs, curves = list[dict[str, Any]](), []
    for model, norm, size, finals in cells:
        for seed, final in enumerate(finals):
            name, diverged = {"run_id": str(len(runs))}, bool(np.isnan(final))
            run = {"model.name": model, "norm": norm, "train.batch_size": size, "seed": seed, "test_accuracy": final}
            runs.append(name | run | {"status": "diverged" if diverged else "done"})
            curves += [name | {"step": step, "train_loss": 2 / step} for step in (10, 1)]
    return Results(pd.DataFrame(runs).assign(**settings), pd.DataFrame(curves), pd.DataFrame(), pd.DataFrame())


RIGHT = ("mlp", "batch", 4, [0.9, 0.8])
WRONG = ("mlp", "mine.OutsideGradient", 4, [0.5, np.nan])


def test_the_accuracy_lost_is_paired_by_seed_and_the_loss_is_the_last_of_runs_that_did_not_diverge() -> None:
    table = experiment.analyse(results_of(WRONG, RIGHT))["mistakes"]
    assert table.index.tolist() == [
        (4, "mlp", "right", "final accuracy"), (4, "mlp", "right", "train loss"),
        *((4, "mlp", OUTSIDE, measure) for measure in MEASURES),
    ]  # fmt: skip
    accuracy, lost, loss = (estimate(table, 4, "mlp", OUTSIDE, measure) for measure in MEASURES)
    assert accuracy.value == pytest.approx(0.25)
    assert lost.value == pytest.approx((0.4 + 0.8) / 2)
    assert loss.value == pytest.approx(0.2)
    assert loss.n == 1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (("mlp", "batch", 4, [np.nan, np.nan]), WRONG),
        (RIGHT, ("mlp", "OutsideGradient", 60, [0.5, 0.5])),
        (RIGHT, ("cnn", "OutsideGradient", 4, [0.5, 0.5])),
    ],
    ids=["diverged", "other batch size", "other network"],
)
def test_nothing_is_lost_against_another_right_layer_or_one_that_diverged(right: Any, wrong: Any) -> None:
    table = experiment.analyse(results_of(right, wrong))["mistakes"]
    assert estimate(table, wrong[2], wrong[0], OUTSIDE, "final accuracy").n == 2
    assert estimate(table, wrong[2], wrong[0], OUTSIDE, "accuracy lost").n == 0


def test_mistakes_are_in_the_order_of_their_titles_and_others_last() -> None:
    norms = ["mine.Another", "PerPixel", "MomentumReversed", "batch"]
    table = experiment.analyse(results_of(*(("mlp", norm, 4, [0.9]) for norm in norms)))["mistakes"]
    names = [*dict.fromkeys(table.index.get_level_values("mistake"))]
    assert names == ["right", "momentum the wrong way round", PER_PIXEL, "Another"]


def test_networks_that_differ_in_more_than_the_mistake_are_kept_apart() -> None:
    cells = (RIGHT, RIGHT, ("mlp", "batch", 4, [0.7, 0.6]))
    table = experiment.analyse(results_of(*cells, **{"model.dropout": [0, 0, 0, 0, 0.5, 0.5], "seed": [*range(6)]}))
    found = table["mistakes"]
    assert levels(found, "network") == ["mlp", "mlp model.dropout=0.5"]
    assert estimate(found, 4, "mlp model.dropout=0.5", "right", "final accuracy").value == pytest.approx(0.65)


def test_the_claims_hold_where_accuracy_is_lost() -> None:
    right, wrong = [0.95, 0.96, 0.94], [0.85, 0.85, 0.85]
    cells = [("mlp", "batch", size, right) for size in (4, 60)] + [("cnn", "batch", size, right) for size in (4, 60)]
    cells += [("mlp", "OutsideGradient", 4, wrong), ("mlp", "OutsideGradient", 60, right)]
    cells += [("cnn", "PerPixel", 4, [0.95, 0.94, 0.96]), ("mlp", "PerPixel", 60, wrong)]
    findings = findings_of(experiment, experiment.analyse(results_of(*cells)), "2.3", "3.2c")
    assert {finding.of: finding.holds for finding in findings} == {
        f"{OUTSIDE}, in mini-batches of 4": True,
        f"{OUTSIDE}, in mini-batches of 60": False,
        f"{PER_PIXEL}, in mini-batches of 4": None,
        f"{PER_PIXEL}, in mini-batches of 60": None,  # not measured of the convolutional network
    }


def test_the_bias_of_section_2_grows_and_the_loss_does_not_move() -> None:
    bias = experiment.analyse(results_of(RIGHT))["bias"]
    grows, right, loss = (rows(bias, curve)["value"] for curve in levels(bias, "curve"))
    assert grows.diff().dropna().min() > 0.1
    np.testing.assert_allclose(loss, loss.iloc[0], rtol=1e-12)
    assert not right.any()


def test_the_figure_has_a_row_per_mistake_and_says_how_many_runs_diverged() -> None:
    with look():
        (figure,) = experiment.draw(experiment.analyse(results_of(RIGHT, WRONG))).values()
        figure.draw_without_rendering()
    mistakes, _ = figure.axes
    assert [label.get_text() for label in mistakes.get_yticklabels()] == ["mlp: right", f"mlp: {OUTSIDE}"]
    assert [text.get_text() for text in mistakes.texts] == ["1 of 2 diverged"]
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["mini-batches of 4", "the right layer", "range over 2 seeds (line: median)"]
