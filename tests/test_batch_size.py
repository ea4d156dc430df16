"""Batch sizes: accuracy and gain worked by hand, the verdict, and the figure."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import findings_of

from bnrepro.analysis import Tables, estimate, judge, levels
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("batch_size")
assert EXPERIMENT
nan = math.nan

T = 12.7062047
"""The t-quantile of two seeds: of x and y the interval of the mean reaches T·|x − y|/2 to either side."""


def tables_of(accuracies: dict[tuple[str, int], list[float]], **columns: Any) -> Tables:
    """The tables of networks of (norm, batch size), with the accuracy of each seed; NaN diverged."""
    runs = [
        {
            "run_id": f"{norm}-{size}-{seed}",
            "activation": "sigmoid",
            "norm": norm,
            "train.batch_size": size,
            "seed": seed,
            "status": "diverged" if math.isnan(accuracy) else "done",
            "test_accuracy": accuracy,
        }
        | columns
        for (norm, size), seeds in accuracies.items()
        for seed, accuracy in enumerate(seeds)
    ]
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(runs), *(pd.DataFrame({"run_id": []}) for _ in range(3))))


def test_accuracy_and_gain_by_hand_paired_by_seed() -> None:
    table = tables_of({
        ("none", 2): [0.90, 0.80], ("none", 60): [0.80, 0.82],
        ("batch", 2): [0.30, nan], ("batch", 60): [0.86, 0.87], ("batch", 100): [0.5, 0.5],
    })["accuracy"]  # fmt: skip
    assert levels(table, "train.batch_size") == [2, 60, 100]
    for (norm, size, quantity), mean, reach in (
        (("none", 2, "accuracy"), 0.85, T * 0.05),
        (("batch", 2, "accuracy"), 0.15, T * 0.15),  # the one that diverged has 0
        (("batch", 2, "gain"), -0.7, T * 0.1),  # of −0.6 and −0.8
        (("batch", 60, "gain"), 0.055, T * 0.005),  # of 0.06 and 0.05
        (("batch", 100, "accuracy"), 0.5, 0),
    ):
        found = estimate(table, "sigmoid", norm, size, quantity)
        assert found == pytest.approx((mean, mean - reach, mean + reach, 2, 0))
    assert len(table) == 5 + 2  # no gain where there is no plain network


@pytest.mark.parametrize(
    ("accuracies", "holds", "answer"),
    [
        ({("none", 2): [0.9, 0.9], ("batch", 2): [0.8, 0.8], ("none", 60): [0.8, 0.8], ("batch", 60): [0.8, 0.8]},
         [True, True], "reproduces"),
        ({("none", 2): [0.9, 0.9], ("batch", 2): [nan, nan], ("none", 60): [0.8, 0.8], ("batch", 60): [0.7, 0.7]},
         [True, False], "reproduces in part"),
        ({("none", 2): [0.8, 0.8], ("batch", 2): [0.9, 0.9], ("none", 9): [nan, nan], ("batch", 9): [nan, nan],
          ("none", 60): [0.8, 0.8], ("batch", 60): [0.7, 0.7]}, [False, False], "does not reproduce"),
        ({("none", 2): [0.9, 0.9], ("batch", 2): [0.9, 0.8], ("none", 60): [0.8], ("batch", 60): [0.9]},
         [None, None], "can't be told from these runs"),
        ({("batch", 2): [0.9, 0.9], ("batch", 60): [0.8, 0.8]}, [None, None], "can't be told from these runs"),
        ({("none", 2): [0.9, 0.9], ("none", 60): [0.8, 0.8]}, [None, None], "can't be told from these runs"),
        ({("none", 60): [0.8, 0.8], ("batch", 60): [0.9, 0.9]}, [], "can't be told from these runs"),
    ],
    ids=["holds", "large ones lose", "neither", "one seed", "no plain network", "no batch norm", "one size"],
)  # fmt: skip
def test_the_verdict_is_of_the_smallest_and_the_largest_mini_batches(
    accuracies: dict[tuple[str, int], list[float]], holds: list[bool | None], answer: str
) -> None:
    assert EXPERIMENT
    findings = findings_of(EXPERIMENT, tables_of(accuracies))
    assert [finding.holds for finding in findings] == holds
    assert judge(findings) == answer
    sizes = sorted({size for _, size in accuracies})
    names = [f"sigmoid, gain in mini-batches of {size}" for size in (sizes[0], sizes[-1])]
    assert [finding.of for finding in findings] == names[: len(holds)]


def test_the_figure_is_of_final_accuracy_against_batch_size() -> None:
    assert EXPERIMENT
    tables = tables_of({("none", 2): [0.9, 0.7], ("none", 60): [0.8, 0.9], ("batch", 2): [nan, nan]}, activation="relu")
    figures = EXPERIMENT.draw(tables)
    assert [*figures] == ["batch_size"]
    (ax,) = figures["batch_size"].axes
    assert (ax.get_title(), ax.get_xlabel(), ax.get_xscale()) == ("ReLU", "examples in a mini-batch", "log")
    lines = [(line.get_marker(), np.asarray(line.get_xydata()).tolist()) for line in ax.get_lines()]
    assert ("o", [[2, pytest.approx(0.8)], [60, pytest.approx(0.85)]]) in lines
    assert [points[0][0] for marker, points in lines if marker == "x"] == [2]
