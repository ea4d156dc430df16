"""Weight decay and a growing rate: how far apart two runs are by hand, the verdict, and the figure."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from bnrepro.analysis import Tables, estimate, judge
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("growing_rate")
assert EXPERIMENT


def tables_of(losses: dict[float, list[list[float]]]) -> Tables:
    """The tables of runs of each weight decay, with the losses of each seed at the steps 0, 1, 2, …."""
    runs, curves = list[dict[str, Any]](), list[dict[str, Any]]()
    for decay, seeds in losses.items():
        for seed, of_seed in enumerate(seeds):
            name = {"run_id": str(len(runs))}
            arm = {"activation": "sigmoid", "norm": "batch", "optimizer.weight_decay": decay, "seed": seed}
            runs.append(name | arm | {"status": "done", "test_accuracy": 0.9 + decay})
            curves += [name | {"step": step, "train_loss": loss} for step, loss in enumerate(of_seed)]
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(runs), pd.DataFrame(curves), pd.DataFrame(), pd.DataFrame()))


def test_the_largest_difference_of_a_pair_is_relative_and_its_mean_geometric() -> None:
    tables = tables_of({0.01: [[2.0, 1.0], [2.0, 4.0]], 0.0: [[2.0, 1.1], [2.2, 4.04]]})
    found = estimate(tables["growing_rate"], "sigmoid", "batch", "difference of losses")
    assert found.value == pytest.approx(0.1)  # of 0.1 at step 1, and 0.1 at step 0
    assert found.n == 2
    accuracies = estimate(tables["growing_rate"], "sigmoid", "batch", "difference of accuracies")
    assert accuracies.value == pytest.approx(0.01)
    assert tables["apart"].loc[("sigmoid", "batch", 1), "high"] == pytest.approx(0.1)
    assert tables["losses"].loc[("sigmoid", "batch", "grown", 0), "value"] == pytest.approx(2.1)


@pytest.mark.parametrize(
    ("losses", "holds", "answer"),
    [
        ({0.01: [[1.0], [1.0]], 0.0: [[1 + 1e-12], [1 + 2e-12]]}, [True], "reproduces"),
        ({0.01: [[1.0], [1.0]], 0.0: [[1.1], [1.1]]}, [False], "does not reproduce"),
        ({0.01: [[1.0]], 0.0: [[1 + 1e-12]]}, [None], "can't be told from these runs"),
        ({0.01: [[1.0], [1.0]]}, [None], "can't be told from these runs"),
    ],
    ids=["rounding", "other functions", "one seed", "no pair"],
)
def test_the_verdict_asks_for_rounding(losses: Any, holds: list[bool | None], answer: str) -> None:
    assert EXPERIMENT
    (claim,) = EXPERIMENT.claims
    findings = claim.findings(tables_of(losses))
    assert [finding.holds for finding in findings] == holds
    assert judge(findings) == answer


def test_the_figure_has_both_losses_and_their_difference() -> None:
    assert EXPERIMENT
    left, right = EXPERIMENT.draw(tables_of({0.01: [[2.0, 1.0]], 0.0: [[2.0, 1.1]]}))["growing_rate"].axes
    assert [np.asarray(line.get_ydata()).tolist() for line in left.get_lines()] == [[2.0, 1.0], [2.0, 1.1]]
    (line,) = right.get_lines()  # where there is a difference
    assert np.asarray(line.get_xydata()).tolist() == [[1, pytest.approx(0.1)]]
