"""Choices that the paper leaves open, one at a time: their table and their verdict by hand, and their figure."""

from math import nan, sqrt
from typing import Any

import pandas as pd
import pytest
from made_up import findings_of, made_up, runs_of

from bnrepro.analysis import Estimate, Tables, estimate, levels
from bnrepro.experiment import Experiment, import_experiment
from bnrepro.figures import look
from bnrepro.store import Results

found = import_experiment("unstated")
assert found
unstated: Experiment = found


def run(norm: str, seed: int, final: float, to_90: int | None, **settings: Any) -> dict[str, Any]:
    eps = {"model.norm_options.eps": nan if norm == "none" else 1e-5}
    given = {"lr": 0.1, "optimizer.name": "sgd", "steps": 100} | eps | settings
    return {"norm": norm, "seed": seed, "test_accuracy": final, "to 90%": to_90} | given


def results_of(runs: list[dict[str, Any]]) -> Results:
    """Runs that are measured at 0, 9, 39, 79 and 100 steps, and at the one where they get to 90%."""
    rows, curves = [], []
    for number, given in enumerate(runs):
        name, diverged = {"run_id": str(number)}, given["test_accuracy"] != given["test_accuracy"]
        end = {"status": "diverged", "diverged_at": 7} if diverged else {"status": "done", "diverged_at": nan}
        rows.append(name | end | {key: value for key, value in given.items() if key != "to 90%"})
        reached = given["to 90%"]
        curves += [
            name | {"step": step, "test_accuracy": 0.9 if reached and step >= reached else 0.1}
            for step in sorted({0, 9, 39, 79, 100, reached or 0})
        ]
    return Results(pd.DataFrame(rows), pd.DataFrame(curves), layers=pd.DataFrame(), units=pd.DataFrame())


BASE = [run("none", 0, 0.90, 40), run("none", 1, 0.92, 80), run("batch", 0, 0.95, 10), run("batch", 1, 0.94, 40)]


def of_both_norms(finals: list[float], to_90: list[int | None], **settings: Any) -> list[dict[str, Any]]:
    """Two seeds without, then two with batch norm."""
    norms = [("none", 0), ("none", 1), ("batch", 0), ("batch", 1)]
    return [run(*norm, final, step, **settings) for norm, final, step in zip(norms, finals, to_90, strict=True)]


MOMENTUM = of_both_norms([nan, 0.8, 0.96, 0.96], [None, None, 5, None], **{"optimizer.name": "momentum", "lr": 0.01})
LARGER = of_both_norms([0.7, 0.7, 0.8, 0.9], [80, 80, 40, 40], **{"train.batch_size": 60})
EPS = [run("batch", seed, 0.93, 20, **{"model.norm_options.eps": 1e-3}) for seed in (0, 1)]
LARGER_EPS = [each | {"train.batch_size": 60} for each in EPS]
NAMES = ["base", "lr=0.01, optimizer.name=momentum", "model.norm_options.eps=0.001"]


def table_of(runs: list[dict[str, Any]]) -> pd.DataFrame:
    return unstated.analyse(results_of(runs))["choices"]


def test_the_base_by_hand() -> None:
    table = table_of(BASE)
    assert levels(table, "choice") == ["base"]
    assert estimate(table, "base", "none", "final accuracy").value == pytest.approx(0.91)
    assert estimate(table, "base", "batch", "final accuracy").value == pytest.approx(0.945)
    gain = estimate(table, "base", "batch", "gain")
    half = 12.706204736 * (0.03 / sqrt(2)) / sqrt(2)  # of 0.05 and 0.02: Student's t of 1 degree of freedom
    assert gain == pytest.approx(Estimate(0.035, 0.035 - half, 0.035 + half, 2))
    assert estimate(table, "base", "batch", "speed-up to 90%").value == pytest.approx(sqrt(4 * 2))
    assert estimate(table, "base", "batch", "speed-up to 95%").n == 0  # where neither arm gets
    assert ("base", "batch", "gain less that of the base") not in table.index


def test_steps_are_known_as_finely_as_they_are_measured() -> None:
    """At 80 steps without and at 10 with batch norm it may have been there, since 79 and 9 were measured before."""
    found = estimate(table_of(of_both_norms([0.9] * 4, [100, 100, 39, 39])), "base", "batch", "speed-up to 90%")
    assert found == pytest.approx(Estimate(100 / 39, 80 / 39, 100 / 10, 2))


def test_a_choice_is_named_by_what_differs_from_most_runs() -> None:
    assert levels(table_of(BASE + MOMENTUM + EPS), "choice") == NAMES


def test_a_choice_that_only_batch_norm_has_is_compared_with_the_plain_network_of_the_same_other_settings() -> None:
    table = table_of([each | {"train.batch_size": 4} for each in BASE + EPS] + LARGER + LARGER_EPS)
    larger = "model.norm_options.eps=0.001, train.batch_size=60"
    assert estimate(table, NAMES[2], "none", "final accuracy").n == 0
    assert estimate(table, NAMES[2], "batch", "gain").value == pytest.approx(0.93 - 0.91)
    less = estimate(table, NAMES[2], "batch", "gain less that of the base")
    assert less.value == pytest.approx(0.02 - 0.035)
    assert less.n == 2
    assert estimate(table, NAMES[2], "batch", "speed-up to 90%").value == pytest.approx(sqrt(2 * 4))
    assert estimate(table, larger, "batch", "gain").value == pytest.approx(0.93 - 0.7)
    assert estimate(table, larger, "batch", "speed-up to 90%").value == pytest.approx(4)


def test_a_diverged_run_ends_at_0_and_nothing_is_known_if_both_arms_fail_to_get_to_90() -> None:
    table = table_of(BASE + MOMENTUM + EPS)
    assert estimate(table, NAMES[1], "none", "final accuracy").value == pytest.approx(0.4)
    assert estimate(table, NAMES[1], "batch", "gain").value == pytest.approx((0.96 + 0.16) / 2)
    assert estimate(table, NAMES[1], "batch", "speed-up to 90%").n == 0


@pytest.mark.parametrize(
    ("finals", "to_90", "held"),
    [
        ([0.90, 0.91, 0.92, 0.93], [80, 80, 10, 10], [True, True]),
        ([0.90, 0.91, 0.90, 0.91], [80, 80, 10, 10], [False, True]),
        ([0.90, 0.91, 0.95, 0.96], [40, 40, 40, 40], [True, False]),
        ([0.90, 0.91, 0.95, 0.96], [100, 100, 100, 100], [True, None]),  # each between 80 and 100
        ([0.95, 0.96, 0.90, 0.91], [10, 10, 80, 80], [False, False]),
        ([0.90, 0.96, 0.95, 0.94], [None, None, 10, 10], [None, True]),
        ([0.90, 0.91, 0.95, 0.96], [10, 10, None, None], [True, False]),
        ([nan, nan, nan, nan], [None, None, None, None], [False, None]),
    ],
)
def test_the_conclusion_holds_if_batch_norm_is_more_accurate_and_faster(
    finals: list[float], to_90: list[int | None], held: list[bool | None]
) -> None:
    findings = findings_of(unstated, unstated.analyse(results_of(of_both_norms(finals, to_90))))
    assert [finding.of for finding in findings] == ["base, gain", "base, speed-up to 90%"]
    assert [finding.holds for finding in findings] == held


def titles_and_legend(tables: Tables) -> tuple[list[str], list[str]]:
    with look():
        (figure,) = unstated.draw(tables).values()
        figure.draw_without_rendering()
    (legend,) = figure.legends
    return [ax.get_title() for ax in figure.axes], [text.get_text() for text in legend.get_texts()]


def test_each_choice_of_the_sweep_has_a_panel() -> None:
    tables = unstated.analyse(made_up([run for run in runs_of("unstated") if run.seed < 2]))
    titles, legend = titles_and_legend(tables)
    assert titles == levels(tables["choices"], "choice")
    assert titles == [
        "base",
        "dataset.binarize=false",
        "lr=0.01, optimizer.name=adagrad",
        "lr=0.01, optimizer.name=momentum",
        "model.norm_options.eps=0.001",
        "model.norm_options.eps=1e-08",
        "model.norm_options.inference=population",
        "train.order=fixed",
        "train.order=replacement",
    ]
    assert legend == [
        "without batch norm", "with batch norm", "range over 2 seeds (line: median)", "median of base"
    ]  # fmt: skip


def test_the_legend_says_where_runs_diverged() -> None:
    _, legend = titles_and_legend(unstated.analyse(results_of(BASE + MOMENTUM)))
    assert legend[-1] == "diverged"
