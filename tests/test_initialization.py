"""Initial standard deviations: those that are usable counted by hand, the gain, the verdict, and the figure."""

import math
from typing import Any

import pandas as pd
import pytest

from bnrepro.analysis import Tables, estimate, judge
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("initialization")
assert EXPERIMENT
nan = math.nan


def tables_of(accuracies: dict[tuple[str, float, float], list[float]]) -> Tables:
    """The tables of networks of (norm, rate, standard deviation), with the accuracy of each seed; NaN diverged."""
    runs = list[dict[str, Any]]()
    for (norm, lr, std), seeds in accuracies.items():
        for seed, accuracy in enumerate(seeds):
            status = "diverged" if math.isnan(accuracy) else "done"
            run = {"run_id": str(len(runs)), "activation": "relu", "norm": norm, "lr": lr, "model.init.std": std}
            runs.append(run | {"seed": seed, "status": status, "test_accuracy": accuracy})
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(runs), *(pd.DataFrame({"run_id": []}) for _ in range(3))))


GRID = {
    ("none", 0.1, 0.1): [0.95, 0.95], ("none", 0.1, 1.0): [0.89, nan], ("none", 0.1, 10.0): [nan, nan],
    ("none", 0.4, 0.1): [0.1, 0.90], ("none", 0.4, 1.0): [0.1, 0.1], ("none", 0.4, 10.0): [0.1, 0.1],
    ("batch", 0.1, 0.1): [0.95, 0.95], ("batch", 0.1, 1.0): [0.95, 0.95], ("batch", 0.1, 10.0): [0.1, 0.1],
    ("batch", 0.4, 0.1): [0.95, 0.95], ("batch", 0.4, 1.0): [0.95, 0.95], ("batch", 0.4, 10.0): [0.95, 0.95],
}  # fmt: skip


def test_usable_standard_deviations_are_counted_at_each_rate_and_at_the_one_where_they_are_most() -> None:
    tables = tables_of(GRID)
    counts = [estimate(tables["rates"], "relu", *arm, "usable deviations") for arm in (("none", 0.1), ("none", 0.4))]
    assert [count.value for count in counts] == [1, 0.5]  # 90% itself counts, and who diverged does not
    assert estimate(tables["best"], "relu", "none", "best rate").value == 0.1
    assert estimate(tables["best"], "relu", "batch", "best rate").value == 0.4
    assert estimate(tables["best"], "relu", "batch", "gain") == (2, 2, 2, 2, 0)
    assert tables["final"].loc[("relu", "batch", 10.0), "value"] == 0.95  # at its best rate


@pytest.mark.parametrize(
    ("changes", "seeds", "holds", "answer"),
    [
        ({}, 2, True, "reproduces"),
        ({("none", 0.1, 1.0): [0.9, 0.9], ("none", 0.1, 10.0): [0.9, 0.9]}, 2, False, "does not reproduce"),
        ({}, 1, None, "can't be told from these runs"),
    ],
)
def test_the_verdict_asks_for_one_more(changes: Any, seeds: int, holds: bool | None, answer: str) -> None:
    assert EXPERIMENT
    tables = tables_of({key: accuracies[:seeds] for key, accuracies in (GRID | changes).items()})
    (claim,) = EXPERIMENT.claims
    findings = claim.findings(tables)
    assert [(finding.of, finding.holds) for finding in findings] == [("relu, usable deviations gained", holds)]
    assert judge(findings) == answer


def test_the_figure_is_of_final_accuracy_against_the_standard_deviation() -> None:
    assert EXPERIMENT
    (ax,) = EXPERIMENT.draw(tables_of(GRID))["initialization"].axes
    assert (ax.get_title(), ax.get_xscale()) == ("ReLU", "log")
    assert ax.get_xlabel() == "standard deviation of the initial weights"
