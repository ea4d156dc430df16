"""Ensembles: which networks make one, and errors worked by hand."""

import numpy as np
import pandas as pd
import pytest
from made_up import findings_of

from bnrepro.analysis import Tables, estimate
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("ensemble")
assert EXPERIMENT

LABELS = np.array([0, 0, 1, 1], np.uint8)
FIRST: dict[str, dict[str, object]] = {
    "A": {"model.init.std": 0.1},
    "B": {"model.init.std": 0.2},
    "larger": {"model.init.std": 0.1, "model.hidden": [9]},
    "longer": {"model.init.std": 0.1, "steps": 60},
}


def tables_of(right: dict[tuple[str, int], list[float]]) -> Tables:
    """The tables of runs of (arm, seed), with the probability that each gives to the right class of four examples."""
    runs, rows = [], []
    for (arm, seed), of_right in right.items():
        p = np.array(of_right)
        probabilities = np.where(LABELS[:, None] == [0, 1], p[:, None], 1 - p[:, None]).astype(np.float16)
        accuracy = float((p > 0.5).mean())
        run = {"run_id": f"{arm}{seed}", "status": "done", "seed": seed, "test_accuracy": accuracy, "steps": 10}
        runs.append(run | {"model.hidden": [2], "model.dropout": 0.05} | FIRST[arm])
        rows.append({"run_id": f"{arm}{seed}", "probabilities": probabilities.tobytes(), "labels": LABELS.tobytes()})
    nothing = pd.DataFrame({"run_id": []})
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(runs), nothing, nothing, nothing, pd.DataFrame(rows)))


RIGHT = {
    # Members of ensemble 0 are A0 and B1, of ensemble 1 A1 and B0.
    ("A", 0): [0.9, 0.9, 0.9, 0.25],  # an error of 1/4
    ("B", 1): [0.9, 0.25, 0.9, 0.9],  # likewise; together 0
    ("A", 1): [0.9, 0.25, 0.25, 0.9],  # 1/2
    ("B", 0): [0.25, 0.25, 0.9, 0.9],  # 1/2; together, of 0.575, 0.25, 0.575, 0.9, 1/4
    ("larger", 0): [0.9, 0.9, 0.9, 0.1],
    ("larger", 1): [0.9, 0.9, 0.9, 0.1],
    ("longer", 0): [0.9, 0.9, 0.9, 0.9],
}


def test_errors_by_hand() -> None:
    tables = tables_of(RIGHT)
    table = tables["ensemble"]
    for network, error in {
        "one network": 0.375, "best of the ensemble": 0.375, "ensemble": 0.125, "6 times the parameters": 0.25,
        "6 times the steps": 0.0,
    }.items():  # fmt: skip
        assert estimate(table, network, "error").value == pytest.approx(error), network
    assert estimate(table, "6 times the steps", "error").n == 1
    drop = estimate(table, "ensemble", "relative drop")
    assert drop.value == pytest.approx(1 - 0.125 / 0.375)
    assert drop.n == 2
    assert estimate(table, "6 times the parameters", "relative drop").value == pytest.approx(1 - 0.25 / 0.375)
    assert estimate(table, "6 times the steps", "relative drop").value == pytest.approx(1)  # of ensemble 0 alone
    assert estimate(table, "6 times the parameters", "error beyond the ensemble's").value == pytest.approx(0.125)
    assert tables["sizes"]["value"].tolist() == pytest.approx([0.375, 0.125])
    assert tables["sizes"].index.get_level_values("size").tolist() == [1, 2]


def test_an_ensemble_that_lacks_a_network_is_none() -> None:
    tables = tables_of({key: value for key, value in RIGHT.items() if key != ("B", 1)})
    found = estimate(tables["ensemble"], "ensemble", "error")
    assert (found.value, found.n) == (0.25, 1)


def test_the_verdicts_are_of_the_drop_and_of_networks_of_the_same_cost() -> None:
    assert EXPERIMENT
    findings = findings_of(EXPERIMENT, tables_of(RIGHT))
    assert [finding.of for finding in findings] == [
        "ensemble: relative drop of the error",
        "one network, 6 times the parameters: error beyond the ensemble's",
        "one network, 6 times the steps: error beyond the ensemble's",
    ]
    assert findings[1].estimate.value == pytest.approx(0.125)
    same = {key: [0.9, 0.9, 0.9, 0.1] for key in RIGHT}
    assert [finding.holds for finding in findings_of(EXPERIMENT, tables_of(same))] == [False, False, None]
