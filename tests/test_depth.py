"""Depth: what is made of signals, and settings, worked by hand."""

import math
from typing import Any

import pandas as pd
import pytest
from made_up import findings_of

from bnrepro import figures
from bnrepro.analysis import Tables, estimate
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("depth")
assert EXPERIMENT
nan = math.nan

Setting = tuple[str, str, int, str, float]
"""Activation, norm, hidden layers, initial weights, learning rate."""

Layers = dict[int, list[tuple[float, float, float]]]
"""Gradient norm, relative change and share saturated of each layer, at some steps."""


def tables_of(accuracies: dict[Setting, list[float]], layers: dict[Setting, Layers] | None = None) -> Tables:
    """The tables of settings, by the accuracy of each seed; NaN diverged.

    Layers are of step 0 and 100, and equal for all seeds; all numbers of settings that are not given are 1.
    """
    runs, rows = list[dict[str, Any]](), list[dict[str, Any]]()
    for setting, seeds in accuracies.items():
        activation, norm, depth, init, lr = setting
        for seed, accuracy in enumerate(seeds):
            run_id = f"{setting}{seed}"
            run = {"run_id": run_id, "activation": activation, "norm": norm, "model.hidden": [5] * depth, "lr": lr}
            name, _, std = init.partition(" ")
            scheme = {"model.init.scheme": name, "model.init.std": float(std or nan)}
            status = {"status": "diverged" if math.isnan(accuracy) else "done", "test_accuracy": accuracy}
            runs.append(run | scheme | status | {"seed": seed, "steps": 100})
            for step in (0, 100):
                found = (layers or {}).get(setting, {}).get(step, [(1.0, 1.0, 1.0)] * depth)
                for layer, (gradient, change, saturated) in enumerate(found, start=1):
                    measured = {"gradient_norm": gradient, "relative_change": change, "inactive": saturated}
                    rows.append({"run_id": run_id, "step": step, "layer": layer} | measured)
    nothing = pd.DataFrame({"run_id": []})
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(runs), nothing, pd.DataFrame(rows), nothing))


PLAIN: Setting = ("sigmoid", "none", 3, "he", 0.1)
BATCH: Setting = ("sigmoid", "batch", 3, "he", 0.1)


def test_growth_per_layer_by_hand() -> None:
    plain = [(9.0, 0.01, 0.2), (1.0, 0.02, 0.4), (4.0, 0.04, 0.6)]
    lost = [(1.0, 0.01, 0.1), (8.0, 0.03, 0.1), (2.0, nan, 0.1)]  # in rounding, from the last layer on
    layers = {PLAIN: {0: plain, 100: lost}, BATCH: {0: [(1.0, 0.01, 0.0), (2.0, 0.01, 0.0), (4.0, 0.09, 0.0)]}}
    table = tables_of({PLAIN: [0.9, 0.9], BATCH: [0.9, 0.9]}, layers)["signals"]
    for norm, when, quantity, expected in (
        ("none", "before training", "gradient growth per layer", 1 / 4),  # from the last layer to the second
        ("none", "before training", "change growth per layer", 2.0),  # twice, over two layers
        ("none", "after training", "gradient growth per layer", 4.0),
        ("none", "after training", "change growth per layer", 3.0),  # over one layer
        ("batch", "before training", "change growth per layer", 3.0),
        ("batch", "before training", "change growth, with over without", 1.5),
    ):
        assert estimate(table, "sigmoid", norm, "he", when, quantity).value == pytest.approx(expected), (norm, when)


def test_after_training_changes_are_compared_where_both_train() -> None:
    for seeds, n in (([0.95, 0.95], 2), ([0.95, 0.5], 1), ([0.5, 0.5], 0)):
        table = tables_of({PLAIN: seeds, BATCH: [0.95, 0.95]})["signals"]
        quantity = "change growth, with over without"
        assert estimate(table, "sigmoid", "batch", "he", "after training", quantity).n == n
        assert estimate(table, "sigmoid", "batch", "he", "before training", quantity).n == 2


def test_settings_the_best_and_the_loss_by_depth_by_hand() -> None:
    tables = tables_of({
        ("relu", "none", 1, "he", 0.1): [0.95, 0.97], ("relu", "none", 1, "he", 1): [0.5, 0.99],
        ("relu", "none", 6, "he", 0.1): [0.7, 0.9], ("relu", "none", 6, "he", 1): [nan, nan],
        ("relu", "batch", 6, "he", 0.1): [0.8, 0.8], ("relu", "batch", 6, "he", 1): [0.95, 0.91],
    })  # fmt: skip
    for norm, depth, quantity, expected in (
        ("none", 1, "best accuracy", 0.96),
        ("none", 6, "best accuracy", 0.8),
        ("none", 6, "lost by depth", 0.16),
        ("none", 6, "settings that train", 0.25),  # 0 of 2 and 1 of 2
        ("batch", 6, "best accuracy", 0.93),
        ("batch", 6, "gain", 0.13),  # of 0.25 and 0.01
        ("batch", 6, "settings that train", 0.5),
    ):
        assert estimate(tables["trained"], "relu", norm, depth, quantity).value == pytest.approx(expected), quantity


def test_saturation_is_compared_where_both_train() -> None:
    ends = {PLAIN: {100: [(1.0, 1.0, 0.3)] * 3}, BATCH: {100: [(1.0, 1.0, 0.1)] * 3}}
    high, high_batch = (*PLAIN[:4], 1.0), (*BATCH[:4], 1.0)
    accuracies = {PLAIN: [0.95, 0.95], BATCH: [0.95, 0.95], high: [0.5, 0.5], high_batch: [0.95, 0.95]}
    table = tables_of(accuracies, ends)["saturation"]
    for norm, quantity, expected in (
        ("none", "saturated", 0.3),
        ("batch", "saturated", 0.1),
        ("batch", "difference", -0.2),
    ):
        assert estimate(table, "sigmoid", norm, 3, quantity).value == pytest.approx(expected)
    nowhere = tables_of({key: [0.5, 0.5] for key in accuracies})["saturation"]
    assert estimate(nowhere, "sigmoid", "batch", 3, "difference").n == 0


def test_remedies_are_one_by_one_and_all_of_them() -> None:
    accuracies: dict[Setting, list[float]] = {
        ("sigmoid", "none", 10, "std 0.1", 1.0): [0.1, 0.1],
        ("sigmoid", "none", 10, "std 0.1", 0.1): [0.2, 0.2],
        ("sigmoid", "none", 10, "xavier", 1.0): [0.3, 0.3],
        ("relu", "none", 10, "std 0.1", 1.0): [0.1, 0.1],
        ("relu", "none", 10, "he", 0.1): [0.9, 0.9],
        ("sigmoid", "batch", 10, "std 0.1", 1.0): [0.95, 0.95],
        ("sigmoid", "none", 20, "std 0.1", 1.0): [0.4, 0.4],
    }
    tables = tables_of(accuracies)
    table = tables["remedies"]
    gains = {"small learning rate": 0.1, "careful initialization": 0.2, "ReLU": 0, "all three": 0.8}
    for remedy, gain in gains.items():
        assert estimate(table, 10, remedy, "gain").value == pytest.approx(gain)
    assert EXPERIMENT
    assert [finding.holds for finding in findings_of(EXPERIMENT, tables, "I6")] == [True, True, False, True]
    assert [finding.holds for finding in findings_of(EXPERIMENT, tables, "I7")] == [True, None]


def test_accuracies_of_one_seed_are_within_the_axis_though_they_have_no_interval() -> None:
    assert EXPERIMENT
    with figures.look():
        figure = EXPERIMENT.draw(tables_of({PLAIN: [0.97], BATCH: [0.98]}))["depth"]
    assert figure.axes[0].get_ylim()[1] > 0.98
