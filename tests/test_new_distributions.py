"""New distributions: accuracies worked by hand, paired by seed, and the verdicts."""

import math
from typing import Any

import pandas as pd
import pytest
from made_up import findings_of

from bnrepro.analysis import Tables, estimate
from bnrepro.experiment import import_experiment
from bnrepro.inference import CORRUPTIONS
from bnrepro.store import Results

EXPERIMENT = import_experiment("new_distributions")
assert EXPERIMENT


def tables_of(seeds: int = 2, **accuracies: tuple[float, float, float]) -> Tables:
    """The tables of sigmoid networks, by what the plain one has, that with batch norm as it is, and recomputed.

    The second seed has 0.02 more of everything. What is not given is that of ``clean``.
    """
    runs, curves = [], []
    for norm, seed in ((norm, seed) for norm in ("none", "batch") for seed in range(seeds)):
        run_id = f"{norm}{seed}"
        runs.append({"run_id": run_id, "activation": "sigmoid", "norm": norm, "seed": seed, "status": "done"})
        row: dict[str, Any] = {"run_id": run_id, "step": 10}
        named = {f"accuracy_{n}_{i}": f"accuracy_{n}_{i}_recomputed" for n in CORRUPTIONS for i in (1, 2, 3)}
        for column, again in {"accuracy_ema": "accuracy_population", **named}.items():
            name = column.removeprefix("accuracy_").removesuffix("_3")
            plain, as_it_is, recomputed = accuracies.get(name, accuracies["clean"])
            row[column] = (plain if norm == "none" else as_it_is) + 0.02 * seed
            row[again] = (plain if norm == "none" else recomputed) + 0.02 * seed
        curves += [dict.fromkeys(row, 0.1) | {"run_id": run_id, "step": 0}, row]
    table = pd.DataFrame(runs).assign(test_accuracy=0.9)
    nothing = pd.DataFrame({"run_id": []})
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(table, pd.DataFrame(curves), nothing, nothing))


CLEAN = (0.95, 0.96, 0.97)


def test_gain_and_loss_by_hand() -> None:
    table = tables_of(clean=CLEAN, noise=(0.7, 0.5, 0.6))["accuracy"]
    for images, quantity, expected in (
        ("clean", "as it is", 0.97), ("clean", "recomputed", 0.98), ("noise 3", "as it is", 0.51),
        ("noise 3", "recomputed", 0.61), ("noise 3", "gain", 0.1), ("noise 3", "lost against clean", 0.37),
        ("noise 3", "recomputed over plain", -0.1), ("noise 3", "as it is over plain", -0.2),
    ):  # fmt: skip
        found = estimate(table, "sigmoid", "batch", images, quantity)
        assert found.value == pytest.approx(expected), quantity
        assert found.n == 2
    assert estimate(table, "sigmoid", "none", "noise 3", "as it is").value == pytest.approx(0.71)
    assert estimate(table, "sigmoid", "none", "noise 3", "recomputed").n == 0
    assert math.isnan(estimate(table, "sigmoid", "batch", "noise 2", "gain").value)  # in the figure alone


def test_the_verdicts_are_of_each_corruption_at_its_hardest() -> None:
    assert EXPERIMENT
    undone, helped, hurt = (0.9, 0.5, 0.97), (0.9, 0.5, 0.7), (0.4, 0.6, 0.6)
    tables = tables_of(clean=CLEAN, contrast=undone, brightness=undone, inversion=hurt, noise=helped, blur=helped)
    expected = {
        "5.d": [True, True, False, True, True],
        "+affine": [True] * 5,
        "+fragile": [True, True, False, True, True],
    }
    for claim, holds in expected.items():
        findings = findings_of(EXPERIMENT, tables, claim)
        assert [finding.holds for finding in findings] == holds
        assert [finding.of.split(":")[0].split(", ")[1] for finding in findings] == [
            "contrast × 0.1", "brightness + 1", "1 inverted", "noise of σ = 0.6", "1 blurred"
        ]  # fmt: skip
    none = tables_of(clean=CLEAN, contrast=helped, noise=CLEAN)
    assert [finding.holds for finding in findings_of(EXPERIMENT, none, "+affine")][::3] == [False, False]
