"""Placements: names of variants, each at its best rate, what they lose by hand, the verdicts, and the figure."""

import importlib
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bnrepro.analysis import Tables, estimate, judge
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("placement")
assert EXPERIMENT
placement: Any = importlib.import_module("bnrepro.experiments.placement")
NORMS = "bnrepro.experiments.norms."
PAPER = {"norm": "batch", "model.placement": "before"}
AFTER, WITH_BIAS = PAPER | {"model.placement": "after"}, PAPER | {"model.bias": True}
NOT_TRAINED = PAPER | {"norm": f"{NORMS}FixedAffine", "model.norm_options.trained": "none"}
CENTRING, SCALING = (PAPER | {"norm": f"{NORMS}{name}Only"} for name in ("Centring", "Scaling"))

T = 12.7062047
"""The t-quantile of two seeds: of x and y the interval of the mean reaches T·|x − y|/2 to either side."""


def tables_of(*arms: tuple[dict[str, Any], float, list[float]]) -> Tables:
    """The tables of variants at a rate, with the accuracy of each seed, NaN if it diverged.

    They reach it after 20 steps, or as many as ``taken`` says.
    """
    runs, curves, layers = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for settings, lr, accuracies in arms:
        for seed, accuracy in enumerate(accuracies):
            name, status = {"run_id": str(len(runs))}, "diverged" if math.isnan(accuracy) else "done"
            run = {
                "activation": "relu",
                "lr": lr,
                "seed": seed,
                "steps": 100,
                "status": status,
                "test_accuracy": accuracy,
            }
            runs.append(name | run | {"model.bias": None, "model.norm_options.trained": None} | settings)
            taken = settings.get("taken", 20)
            reached = {0: 0.1, taken - 1: 0.1, taken: accuracy}
            curves += [name | {"step": step, "test_accuracy": found} for step, found in reached.items()]
            for step, layer in ((0, 1), (0, 2), (20, 1), (20, 2)):
                moments = {
                    "skewness": layer,
                    "output_skewness": 2 * layer,
                    "kurtosis": step,
                    "output_kurtosis": step - 1,
                }
                layers.append(name | {"step": step, "layer": layer} | moments)
    assert EXPERIMENT
    results = Results(pd.DataFrame(runs), pd.DataFrame(curves), pd.DataFrame(layers), pd.DataFrame())
    return EXPERIMENT.analyse(results)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"norm": "none", "model.placement": "before"}, "no norm"),
        (PAPER, "batch norm"),
        (AFTER, "batch norm after g"),
        (WITH_BIAS, "batch norm, with b"),
        (AFTER | {"model.bias": False}, "batch norm after g, without b"),
        (NOT_TRAINED, "batch norm, γ = 1, β = 0"),
        (NOT_TRAINED | {"model.norm_options.trained": "gamma"}, "batch norm, β = 0"),
        (NOT_TRAINED | {"model.norm_options.trained": "beta"}, "batch norm, γ = 1"),
        (CENTRING, "centring only"),
        (SCALING | {"model.norm_options.trained": math.nan, "model.bias": math.nan}, "scaling only"),
        (PAPER | {"norm": "mine.Norm"}, "Norm"),
    ],
)
def test_a_variant_is_named_by_what_is_done_to_the_norm(settings: dict[str, Any], name: str) -> None:
    assert placement.variant(pd.Series(settings)) == name


def test_each_variant_is_at_its_own_best_rate_and_loses_by_seed() -> None:
    tables = tables_of(
        (PAPER, 0.1, [0.90, 0.80]), (PAPER, 0.4, [0.96, 0.94]),
        (AFTER, 0.1, [0.93, 0.95]), (AFTER, 0.4, [0.99, math.nan]),
    )  # fmt: skip
    best = {name: tables["best"].xs(("relu", name)) for name in ("batch norm", "batch norm after g")}
    assert {name: of["value"]["best rate"] for name, of in best.items()} == {
        "batch norm": 0.4,
        "batch norm after g": 0.1,
    }
    assert "accuracy lost" not in best["batch norm"].index
    lost = estimate(tables["best"], "relu", "batch norm after g", "accuracy lost")
    assert lost == pytest.approx((0.01, 0.01 - T * 0.02, 0.01 + T * 0.02, 2, 0))  # of 0.03 and −0.01
    rates = tables["rates"].xs(("relu", "batch norm after g", 0.4))
    assert tuple(rates.loc["final accuracy"])[::3] == (pytest.approx(0.495), 2)  # the one that diverged has 0
    assert tuple(rates.loc["steps to 90%"])[::4] == (pytest.approx(math.sqrt(20 * 100)), 1)
    assert estimate(tables["diverged"], "relu", "batch norm after g", 0.4).value == 0.5


def test_moments_are_those_of_the_papers_variant_after_the_last_step_over_layers() -> None:
    table = tables_of((PAPER, 0.1, [0.9, math.nan]), (AFTER, 0.1, [0.9, 0.9]))["moments"]
    skewness = [estimate(table, "relu", "|skewness|", quantity) for quantity in ("enters", "leaves", "difference")]
    assert [(each.value, each.n) for each in skewness] == [(1.5, 1), (3, 1), (1.5, 1)]
    assert estimate(table, "relu", "|excess kurtosis|", "leaves").value == 19


@pytest.mark.parametrize(
    ("claim", "arms", "holds", "answer"),
    [
        ("3.a", [(NOT_TRAINED, [0.93, 0.93])], [True], "reproduces"),
        ("3.a", [(NOT_TRAINED, [0.945, 0.945])], [False], "does not reproduce"),
        ("3.a", [(NOT_TRAINED, [0.93])], [None], "can't be told from these runs"),
        ("3.a", [(AFTER, [0.93, 0.93])], [None], "can't be told from these runs"),
        ("3.2a", [(AFTER, [0.93, 0.93])], [True, True, False], "reproduces in part"),
        ("3.2a", [(AFTER, [0.96, 0.96])], [False, True, False], "reproduces in part"),
        ("3.2b", [(WITH_BIAS, [0.945, 0.945])], [True, True], "reproduces"),
        ("3.2b", [(WITH_BIAS, [0.93, 0.93])], [False, True], "reproduces in part"),
        ("3.2b", [(WITH_BIAS, [0.97, 0.97])], [False, True], "reproduces in part"),
        ("3.2b", [(WITH_BIAS | {"taken": 10}, [0.95, 0.95])], [True, False], "reproduces in part"),
        ("3.2b", [(WITH_BIAS | {"taken": 30}, [0.95, 0.95])], [True, False], "reproduces in part"),
        ("3.2b", [(AFTER, [0.95, 0.95])], [], "can't be told from these runs"),
        ("+parts", [(CENTRING, [0.9, 0.9]), (SCALING, [0.945, 0.945])], [True, False], "reproduces in part"),
    ],
)
def test_verdicts(claim: str, arms: list[Any], holds: list[bool | None], answer: str) -> None:
    assert EXPERIMENT
    tables = tables_of((PAPER, 0.1, [0.95, 0.95]), *((settings, 0.1, finals) for settings, finals in arms))
    (findings,) = [each.findings(tables) for each in EXPERIMENT.claims if each.id == claim]
    assert [finding.holds for finding in findings] == holds
    assert judge(findings) == answer


def test_the_figure_has_a_row_for_each_variant_and_points_for_each_rate() -> None:
    assert EXPERIMENT
    tables = tables_of((PAPER, 0.1, [0.9, 0.9]), (PAPER, 0.4, [0.96, 0.94]), (CENTRING, 0.1, [0.8, 0.7]))
    figure = EXPERIMENT.draw(tables)["placement"]
    top, bottom = figure.axes
    assert [label.get_text() for label in top.get_yticklabels()] == ["batch norm", "centring only"]
    assert (top.get_title(), top.get_xlabel()) == ("ReLU", "final test accuracy")
    assert bottom.get_xlabel() == "steps to 90% of test accuracy"
    drawn = [tuple(np.ravel(line.get_xydata())) for line in top.get_lines() if len(np.ravel(line.get_xydata())) == 2]
    assert {(round(x, 3), round(y, 2)) for x, y in drawn} >= {(0.9, -0.25), (0.95, 0.25), (0.75, 0.75)}
