"""A lecture's sweep: accuracy and gain worked by hand, and the figure."""

import math

import numpy as np
import pandas as pd
import pytest
from made_up import made_up, runs_of

from bnrepro.analysis import estimate
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("first")
assert EXPERIMENT

T = 12.7062047
"""The t-quantile of two seeds: of x and y the interval of the mean reaches T·|x − y|/2 to either side."""


def results_of(accuracies: dict[tuple[str, float], list[float]]) -> Results:
    """The results of networks of (norm, learning rate), with the accuracy of each seed; NaN diverged at step 7."""
    runs = [
        {"run_id": f"{norm}-{lr}-{seed}", "norm": norm, "lr": lr, "seed": seed, "test_accuracy": accuracy}
        | ({"status": "diverged", "diverged_at": 7.0} if math.isnan(accuracy) else {"status": "done"})
        for (norm, lr), seeds in accuracies.items()
        for seed, accuracy in enumerate(seeds)
    ]
    curves = [
        {"run_id": run["run_id"], "step": step, "test_accuracy": 0.1 * step}
        for run in runs
        for step in ((0, 5) if run["status"] == "diverged" else (0, 5, 9))
    ]
    nothing = pd.DataFrame({"run_id": []})
    return Results(pd.DataFrame(runs), pd.DataFrame(curves), nothing, nothing)


def test_accuracy_and_gain_by_hand_paired_by_seed() -> None:
    assert EXPERIMENT
    found = {("none", 0.1): [0.90, 0.80], ("batch", 0.1): [0.95, 0.87], ("batch", 10.0): [0.3, math.nan]}
    table = EXPERIMENT.analyse(results_of(found))["accuracy"]
    for key, mean, reach in (
        (("none", 0.1, "final accuracy"), 0.85, T * 0.05),
        (("batch", 0.1, "gain"), 0.06, T * 0.01),  # of 0.05 and 0.07
        (("batch", 10.0, "final accuracy"), 0.15, T * 0.15),  # the one that diverged has 0
    ):
        assert estimate(table, *key) == pytest.approx((mean, mean - reach, mean + reach, 2, 0))
    assert len(table) == 3 + 1  # no gain where there is no plain network


def test_the_figure_has_a_panel_for_each_rate_with_crosses_where_runs_diverged() -> None:
    assert EXPERIMENT
    found = {("none", 0.1): [0.9], ("batch", 0.1): [0.95], ("none", 10.0): [math.nan], ("batch", 10.0): [0.9]}
    (figure,) = EXPERIMENT.draw(EXPERIMENT.analyse(results_of(found))).values()
    assert [ax.get_title() for ax in figure.axes] == ["learning rate 0.1", "learning rate 10"]
    lines = [np.asarray(line.get_xydata()).tolist() for line in figure.axes[1].get_lines()]
    assert lines[:2] == [[[0, 0], [5, 0.5]], [[7, 0.05]]]
    assert lines[2:] == [[[0, 0], [5, 0.5], [9, pytest.approx(0.9)]]]


def test_it_is_of_seconds() -> None:
    runs = runs_of("first")
    assert sum(run.train.steps for run in runs) <= 30_000
    assert {run.dataset.name for run in runs} == {"digits"}
    assert EXPERIMENT
    assert [*EXPERIMENT.draw(EXPERIMENT.analyse(made_up(runs)))] == ["first"]
