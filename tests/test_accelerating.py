"""Accelerating: which change is which, gains and speed-ups by hand, the verdicts, and the figure."""

import importlib
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bnrepro.analysis import Tables, estimate, judge
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("accelerating")
assert EXPERIMENT
accelerating: Any = importlib.import_module("bnrepro.experiments.accelerating")
BASELINE: dict[str, Any] = {
    "norm": "batch",
    "lr": 0.02,
    "model.dropout": 0.4,
    "optimizer.weight_decay": 1e-3,
    "lr_schedule.factor": 0.94,
    "train.order": "fixed",
    "dataset.augmentation": ["crop"],
    "activation": "bnrepro.experiments.norms.ReLUWithLRN",
}
CHANGED: dict[str, Any] = {
    "lr": 0.1,
    "model.dropout": 0.0,
    "optimizer.weight_decay": 2e-4,
    "lr_schedule.factor": 0.69,
    "train.order": "reshuffled",
    "dataset.augmentation": [],
    "activation": "relu",
}
SHUFFLED = {"train.order": "reshuffled"}
FINE = [0.90, 0.90]


def tables_of(*arms: tuple[dict[str, Any], list[float], int]) -> Tables:
    """The tables of arms, with what they change, the accuracy of each seed, and the step at which that is reached."""
    runs, curves = list[dict[str, Any]](), list[dict[str, Any]]()
    for settings, accuracies, reached in arms:
        for seed, accuracy in enumerate(accuracies):
            run = {"run_id": str(len(runs)), "seed": seed, "steps": 100, "status": "done", "test_accuracy": accuracy}
            runs.append(run | BASELINE | settings)
            curves += [
                {"run_id": run["run_id"], "step": step, "test_accuracy": accuracy if step >= reached else 0.1}
                for step in (0, 20, 40, 100)
            ]
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(runs), pd.DataFrame(curves), pd.DataFrame(), pd.DataFrame()))


@pytest.mark.parametrize("setting", CHANGED)
def test_each_setting_is_a_change_alone_and_on_top_of_the_others(setting: str) -> None:
    name = {column: name for name, (column, _) in accelerating.CHANGES.items()}[setting]
    without = {key: value for key, value in CHANGED.items() if key != setting}
    tables = tables_of(
        ({}, [0.90, 0.80], 100),
        ({setting: CHANGED[setting]}, [0.92, 0.84], 20),
        (CHANGED, [0.95, 0.97], 20),
        (without, [0.96, 0.96], 40),
    )
    table = tables["changes"]
    assert {*table.index.get_level_values("change")} == {name}
    assert estimate(table, name, "alone", "gain in accuracy").value == pytest.approx(0.03)
    assert estimate(table, name, "alone", "speed-up").value == pytest.approx(5)
    assert estimate(table, name, "on top of the others", "gain in accuracy").value == pytest.approx(0.0)
    assert estimate(table, name, "on top of the others", "speed-up").value == pytest.approx(2)
    others = accelerating._name({*accelerating.CHANGES} - {name})
    assert {*tables["arms"].index.unique("arm")} == {"baseline", "all", name, others}


def test_a_run_that_diverges_has_no_accuracy() -> None:
    tables = tables_of(({}, FINE, 20), ({"lr": 0.1, "status": "diverged"}, [np.nan, np.nan], 20))
    assert estimate(tables["changes"], "rate × 5", "alone", "gain in accuracy").value == pytest.approx(-0.9)
    assert estimate(tables["diverged"], "rate × 5", "alone").value == 0.5
    assert EXPERIMENT
    (legend,) = EXPERIMENT.draw(tables)["accelerating"].legends
    assert legend.get_texts()[-1].get_text() == "runs diverged (accuracy 0)"


@pytest.mark.parametrize(
    ("settings", "accuracies", "reached", "answer"),
    [
        ({"lr": 0.1}, FINE, 20, "reproduces"),
        ({"lr": 0.1}, FINE, 100, "does not reproduce"),
        ({"lr_schedule.factor": 0.69}, FINE, 20, "reproduces"),
        ({"model.dropout": 0.0}, [0.895, 0.895], 100, "reproduces"),
        ({"model.dropout": 0.0}, [0.88, 0.88], 100, "does not reproduce"),
        ({"activation": "relu"}, [0.7, 0.99], 100, "can't be told from these runs"),
        (SHUFFLED, [0.905, 0.905], 100, "reproduces"),
        (SHUFFLED, FINE, 20, "does not reproduce"),
    ],
)
def test_verdicts_of_changes(settings: dict[str, Any], accuracies: list[float], reached: int, answer: str) -> None:
    tables = tables_of(({}, FINE, 40), (settings, accuracies, reached))
    assert EXPERIMENT
    found = {claim.id: judge(claim.findings(tables)) for claim in EXPERIMENT.claims}
    assert found == {"4.2.1": answer, "+shuffling": "can't be told from these runs"}


@pytest.mark.parametrize(
    ("with_norm", "without", "answer"),
    [
        ([0.91, 0.92], [0.90, 0.91], "reproduces"),
        ([0.91, 0.92], [0.91, 0.92], "does not reproduce"),
        ([0.91, 0.92], [0.90, 0.92], "can't be told from these runs"),
        (FINE, FINE, "does not reproduce"),
    ],
)
def test_verdict_on_shuffling(with_norm: list[float], without: list[float], answer: str) -> None:
    plain = {"norm": "none"}
    tables = tables_of(({}, FINE, 40), (SHUFFLED, with_norm, 40), (plain, FINE, 40), (plain | SHUFFLED, without, 40))
    assert EXPERIMENT
    (findings,) = [claim.findings(tables) for claim in EXPERIMENT.claims if claim.id == "+shuffling"]
    assert judge(findings) == answer


def test_the_figure_has_a_row_for_each_change_and_a_point_for_each_comparison() -> None:
    tables = tables_of(({}, FINE, 40), ({"lr": 0.1}, [0.95, 0.93], 20), (SHUFFLED, [0.9, 0.92], 40))
    assert EXPERIMENT
    gain, speed = EXPERIMENT.draw(tables)["accelerating"].axes
    assert [label.get_text() for label in gain.get_yticklabels()] == [*accelerating.CHANGES]
    drawn = [tuple(np.ravel(line.get_xydata())) for line in gain.get_lines() if len(np.ravel(line.get_xydata())) == 2]
    assert {(round(x, 3), round(y, 2)) for x, y in drawn} >= {(0.04, -0.2), (0.01, 3.8)}
    assert "speed-up" in speed.get_xlabel()
