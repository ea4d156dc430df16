"""Mini-batches: slopes and biases of gradients, ways of inference and gains by hand, the verdicts, and the figures."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bnrepro.analysis import Tables, estimate, judge
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("mini_batch")
assert EXPERIMENT
nan = math.nan


def tables_of(*runs: dict[str, Any]) -> Tables:
    """The tables of runs, by settings, accuracy, and what is ``measured`` at the first and at the last step."""
    rows, curves = list[dict[str, Any]](), list[dict[str, Any]]()
    for run in runs:
        name, accuracy = {"run_id": str(len(rows))}, run.get("accuracy", 0.9)
        settings = {"norm": "batch", "model.hidden": [9] * 3, "train.batch_size": 60, "seed": 0, "diagnostics": []}
        status = {"test_accuracy": accuracy, "status": "diverged" if math.isnan(accuracy) else "done"}
        rows.append(name | settings | {key: value for key, value in run.items() if key in settings} | status)
        for step, factor in run.get("measured", {(0, 1.0): {}}):
            measured = run.get("measured", {(0, 1.0): {}})[step, factor]
            curves.append(name | {"step": step} | {column: factor * value for column, value in measured.items()})
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(rows), pd.DataFrame(curves), pd.DataFrame(), pd.DataFrame()))


def findings(claim: str, tables: Tables) -> Any:
    assert EXPERIMENT
    (found,) = [each.findings(tables) for each in EXPERIMENT.claims if each.id == claim]
    return found


def gradients(slope: float, bias: float, **settings: Any) -> dict[str, Any]:
    """A run whose estimates are twice as noisy in the end as in the beginning; from 64 on they fall off."""
    noise = {f"estimate_noise_{m}": m**slope if m <= 32 else 1e-6 for m in (2, 4, 8, 16, 32, 64)}
    measured = noise | {"estimate_bias_32": bias} | {f"estimate_cosine_{m}": m / 128 for m in (2, 4)}
    return {"diagnostics": ["gradient_estimate"], "measured": {(0, 1.0): measured, (9, 4.0): measured}} | settings


def test_slope_and_bias_are_of_geometric_means_over_training_up_to_32_examples() -> None:
    tables = tables_of(*(gradients(-0.5, 0.02, norm=norm) for norm in ("none", "batch")))
    assert estimate(tables["estimate"], "batch", "slope of noise").value == pytest.approx(-0.5)
    assert estimate(tables["estimate"], "none", "bias of 32").value == pytest.approx(0.04)
    qualities = tables["qualities"]["value"]
    assert qualities["noise", "batch", 4] == pytest.approx(2 * 4**-0.5)
    assert qualities["cosine", "batch", 4] == pytest.approx(2.5 * 4 / 128)


@pytest.mark.parametrize(
    ("slope", "bias", "holds"), [(-0.5, 0.02, [True, True]), (-0.4, 0.02, [False, True]), (-0.5, 0.06, [True, False])]
)
def test_estimates_must_improve_and_be_unbiased(slope: float, bias: float, holds: list[bool]) -> None:
    tables = tables_of(*(gradients(slope, bias, seed=seed) for seed in (0, 1)))
    assert [finding.holds for finding in findings("I1", tables)] == holds


def inference(population: float, biased: float, averages: float = 0.9, **settings: Any) -> dict[str, Any]:
    last = {"accuracy_ema": averages, "accuracy_population": population, "accuracy_biased": biased}
    return {"measured": {(0, 0.1): last, (9, 1.0): last}, "diagnostics": ["inference"]} | settings


def test_ways_of_inference_are_compared_on_the_same_weights_after_the_last_step() -> None:
    runs = [inference(0.6, 0.8, seed=0), inference(0.7, 0.8, 0.6, seed=1), inference(0.1, 0.1, seed=2, accuracy=nan)]
    table = tables_of(*runs)["inference"]
    assert estimate(table, 3, 60, "Algorithm 2").value == pytest.approx(0.65)
    assert estimate(table, 3, 60, "cost of m/(m−1)").value == pytest.approx(0.15)
    apart = estimate(table, 3, 60, "averages and Algorithm 2 apart")
    assert apart.value == pytest.approx(0.2)  # of 0.3 and 0.1
    assert apart.n == 2


@pytest.mark.parametrize(
    ("claim", "arguments", "holds"),
    [
        ("3.1a", (0.895, 0.9), True),
        ("3.1a", (0.88, 0.9), False),
        ("3.1a", (0.92, 0.9), False),
        ("3.1b", (0.895, 0.9), True),
        ("3.1b", (0.92, 0.9), True),
        ("3.1b", (0.88, 0.9), False),
    ],
)
def test_verdicts_of_inference(claim: str, arguments: tuple[float, float], holds: bool) -> None:
    found = findings(claim, tables_of(*(inference(*arguments, seed=seed) for seed in (0, 1))))
    assert [finding.holds for finding in found] == [holds]
    assert found[0].of.startswith("3 layers, m = 60, ")
    assert judge(findings(claim, tables_of(inference(*arguments)))) == "can't be told from these runs"


def test_other_norms_are_held_against_batch_norm_in_the_smallest_mini_batches() -> None:
    finals = {
        ("batch", 2): 0.5,
        ("mine.GroupNorm", 2): 0.6,
        ("none", 2): 0.9,
        ("batch", 60): 0.9,
        ("mine.GroupNorm", 60): 0.8,
    }
    runs = [
        {"norm": norm, "train.batch_size": size, "accuracy": final, "seed": seed}
        for (norm, size), final in finals.items()
        for seed in (0, 1)
    ]
    tables = tables_of(*runs)
    assert estimate(tables["accuracy"], 3, "GroupNorm", 60, "gain over batch norm").value == pytest.approx(-0.1)
    found = findings("+small_mini_batches", tables)
    assert [(finding.of, finding.holds) for finding in found] == [("3 layers, m = 2, gain by GroupNorm", True)]


def test_figures_are_of_the_runs_that_there_are() -> None:
    assert EXPERIMENT
    deep: dict[str, Any] = {"model.hidden": [9] * 10}
    drawn = EXPERIMENT.draw(
        tables_of(inference(0.6, 0.8), inference(0.6, 0.8, **deep), {"norm": "none", "accuracy": nan})
    )
    assert [*drawn] == ["mini_batch", "inference"]
    shallow, other = drawn["inference"].axes
    assert [ax.get_title() for ax in (shallow, other)] == ["3 hidden layers", "10 hidden layers"]
    assert [np.asarray(line.get_ydata()).tolist() for line in shallow.get_lines()] == [[0.9], [0.6], [0.8]]
    (first, _) = drawn["mini_batch"].axes
    assert "x" in [line.get_marker() for line in first.get_lines()]
    drawn = EXPERIMENT.draw(tables_of(gradients(-0.5, 1e-7)))
    assert [*drawn] == ["gradient_estimate"]
    noise, bias, cosine = drawn["gradient_estimate"].axes
    assert (noise.get_yscale(), cosine.get_yscale()) == ("log", "linear")
    assert [len(np.ravel(line.get_xdata())) for line in bias.get_lines()] == [0]  # nothing but rounding
