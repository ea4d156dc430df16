"""Learning rates and steps to accuracy: tables worked by hand, and figures of any part of a sweep."""

import copy
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from runs import dataframes, part_of, settings

from bnrepro.config import Inline, RunConfig
from bnrepro.experiment import TABLES, import_experiment, read_tables, show, write_tables
from bnrepro.figures import look
from bnrepro.store import Results, Store
from bnrepro.sweeping import Progress, expand, run_all

learning_rates: Any = import_experiment("learning_rates")
nan = math.nan

# The score by hand


def results_of(runs: list[dict[str, Any]]) -> Results:
    """Results from runs given as columns of table ``runs``, with ``curve`` as {step: test accuracy}."""
    rows, curves = [], []
    for number, run in enumerate(runs):
        curve = run.pop("curve", {})
        defaults = {"run_id": str(number), "activation": "sigmoid", "norm": "none", "seed": 0, "steps": 100}
        accuracy = run.get("test_accuracy", math.nan)
        ending = {"status": "diverged" if math.isnan(accuracy) else "done", "diverged_at": math.nan}
        rows.append(defaults | ending | {"test_accuracy": accuracy} | run)
        curves += [{"run_id": str(number), "step": step, "test_accuracy": value} for step, value in curve.items()]
    return Results(
        pd.DataFrame(rows),
        pd.DataFrame(curves, columns=["run_id", "step", "test_accuracy"]),
        layers=pd.DataFrame(),
        units=pd.DataFrame(),
    )


def arm(accuracies: list[float], **columns: Any) -> list[dict[str, Any]]:
    """Runs at the rates 0.01, 0.1, 1, …; NaN is a diverged one."""
    rates = 10.0 ** np.arange(-2, len(accuracies) - 2)
    return [{"lr": rate, "test_accuracy": a, **columns} for rate, a in zip(rates, accuracies, strict=True)]


def test_score_by_hand() -> None:
    first = arm([0.95, 0.50, 0.92, 0.91], seed=0)  # usable from 1 to 10: 1 decade
    first[0]["curve"] = {0: 0.1, 40: 0.9, 100: 0.95}
    first[2]["curve"] = {0: 0.1, 40: 0.2, 60: 0.92}
    second = arm([0.90, 0.97, 0.93, nan], seed=1)  # usable from 0.01 to 1: 2 decades
    second[1]["curve"] = {0: 0.1, 20: 0.89, 30: 0.97}
    second[2]["curve"] = {0: 0.1, 20: 0.91}
    table = learning_rates.score(results_of(first + second))
    assert table.to_dict("index") == {
        ("sigmoid", "none"): {
            "best accuracy": "0.960 (0.950–0.970)",
            "best rate": "0.032 (0.01–0.1)",  # √(0.01 · 0.1)
            "usable decades": "1.5 (1.0–2.0)",
            "diverged": "12% (0%–25%)",
            "steps to 90%": "30 (20–40)",
        }
    }


@pytest.mark.parametrize(
    ("accuracies", "decades"),
    [
        ([0.9, 0.9, 0.9, 0.9], 3),
        ([0.89, 0.9, 0.9, 0.89], 1),
        ([0.9, 0.89, 0.9, 0.89], 0),  # single rates span nothing
        ([0.9, 0.9, 0.1, 0.9, 0.9, 0.9], 2),
        ([0.9, 0.9, 0.9, nan, 0.9, 0.9], 2),
        ([0.1, 0.2], 0),
        ([nan, nan], 0),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_usable_decades_are_the_longest_unbroken_row(accuracies: list[float], decades: int, order: int) -> None:
    table = learning_rates.score(results_of(arm(accuracies)[::order]))
    assert table["usable decades"].tolist() == [f"{decades:.1f} ({decades:.1f}–{decades:.1f})"]


def test_an_arm_that_always_diverges_never_gets_anywhere() -> None:
    runs = arm([nan, nan], norm="batch", seed=0) + arm([nan, nan], norm="batch", seed=1)
    runs += arm([0.95, 0.2], seed=0) + arm([0.2, 0.2], seed=1)
    runs[4]["curve"] = {0: 0.1, 10: 0.95}
    table = learning_rates.score(results_of(runs))
    assert table.index.tolist() == [("sigmoid", "none"), ("sigmoid", "batch")]
    assert table.loc[("sigmoid", "batch")].tolist() == [
        "never", "never", "0.0 (0.0–0.0)", "100% (100%–100%)", "never"
    ]  # fmt: skip
    assert table.loc[("sigmoid", "none"), "steps to 90%"] == "in 1 of 2 seeds"


@pytest.mark.parametrize("order", [1, -1])
def test_of_equally_good_rates_the_largest_is_best(order: int) -> None:
    table = learning_rates.score(results_of(arm([0.95, 0.95, 0.9])[::order]))
    assert table["best rate"].tolist() == ["0.1 (0.1–0.1)"]


def test_arms_are_in_the_order_of_the_paper_and_none_is_left_out() -> None:
    arms = [(a, n) for a in ("mine.Swish", "relu", "sigmoid") for n in ("mine.Shift", "batch", "none")]
    runs = [run for a, n in arms for run in arm([0.9, 0.9], activation=a, norm=n)]
    table = learning_rates.score(results_of(runs))
    assert table.index.tolist() == [
        (a, n) for a in ("sigmoid", "relu", "mine.Swish") for n in ("none", "batch", "mine.Shift")
    ]


# The tables by hand: networks of 100 steps that are at an accuracy of 0.5 until they get to that of their seed


ACCURACY = (0.94, 0.96, 0.95, 0.93, 0.97)


def arm_of(steps: Sequence[int | None], final: float = 0.9, lr: float = 0.1, **columns: Any) -> list[dict[str, Any]]:
    """A run per seed, which gets to the accuracy of its seed after so many steps; None: never."""
    return [
        {"lr": lr, "seed": seed, "test_accuracy": final, **columns}
        | {"curve": {0: 0.1, 1: 0.5} | ({} if step is None else {step: ACCURACY[seed]}) | {100: final}}
        for seed, step in enumerate(steps)
    ]


def tables_of(runs: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    tables: dict[str, pd.DataFrame] = learning_rates.tables(results_of(runs))
    return tables


def test_steps_to_accuracy_by_hand() -> None:
    runs = [
        *arm_of([None, None], final=0.6, lr=0.01),
        *arm_of([40, 80]),  # the baseline
        *arm_of([None, None], final=nan, lr=1.0),
        *arm_of([100, 100], lr=0.01, norm="batch"),
        *arm_of([80, 80], lr=0.1, norm="batch"),
        *arm_of([20, 20], lr=1.0, norm="batch"),
        *arm_of([10, None], lr=10.0, norm="batch", final=0.92),
    ]
    table = tables_of(runs)["steps_to_accuracy"]
    assert table.index.names == ["activation", "variant"]
    assert table.columns.tolist() == ["learning rate", "steps to target", "speed-up", "best accuracy"]
    both = "0.9500 [0.9400, 0.9600]"
    assert {variant: tuple(row) for (_, variant), row in zip(table.index, table.to_numpy(), strict=True)} == {
        "without batch norm": ("0.1", "57 [40, 80]", "", both),  # √(40 · 80)
        "with batch norm, same rate": ("0.1 (×1)", "80 [80, 80]", "0.71 [0.5, 1]", both),
        "with batch norm, at its fastest rate": ("1 (×10)", "20 [20, 20]", "2.8 [2, 4]", both),
        "with batch norm, at its most accurate rate": (
            "10 (×100)", "in 1 of 2 seeds", "< 1.8", "0.9300 [0.9200, 0.9400]"  # √(40/10 · 80/100)
        ),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("baseline", "arm", "steps", "speed_up"),
    [
        ([40], [20], "20", "2"),  # of one seed there is no interval
        ([40, 80], [20, 20], "20 [20, 20]", "2.8 [2, 4]"),
        ([40, 80], [10, 20], "14 [10, 20]", "4 [4, 4]"),  # pairs agree though seeds do not
        ([40, 80], [20, 10], "14 [10, 20]", "4 [2, 8]"),
        ([90, 90, 90], [90, 30, 10], "30 [10, 90]", "3 [1, 9]"),
        # Of the 5⁵ means of the exponents 0 to 4, drawn with replacement, 2.5% are below 0.8 and as many above 3.2.
        ([64] * 5, [64, 32, 16, 8, 4], "16 [7, 37]", "4 [1.7, 9.2]"),
        ([40, 40], [20, None], "in 1 of 2 seeds", "< 0.89"),  # √(40/20 · 40/100)
        ([40, 40], [None, None], "never", "< 0.4"),
        ([100], [1], "1", "100"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_speed_up_over_the_baseline(
    baseline: list[int], arm: list[int | None], steps: str, speed_up: str, order: int
) -> None:
    runs = arm_of(baseline) + arm_of(arm, norm="batch")[::order]
    table = tables_of(runs)["steps_to_accuracy"].loc["sigmoid"]
    same_rate = table.loc["with batch norm, same rate"]
    assert (same_rate["steps to target"], same_rate["speed-up"]) == (steps, speed_up)


@pytest.mark.parametrize(
    ("plain", "normed", "speed_up"),
    [
        ([40, 80], [20, 20], "2.8 [2, 4]"),
        ([None, 80], [20, 20], "> 4.5"),  # √(100/20 · 80/20)
        ([None, None], [20, 20], "> 5"),
        ([40, 80], [20, None], "< 1.3"),  # √(40/20 · 80/100)
        ([None, 80], [20, None], ""),
        ([None, None], [None, None], ""),
    ],
)
def test_speed_up_at_an_equal_rate(plain: list[int | None], normed: list[int | None], speed_up: str) -> None:
    runs = arm_of([10, 10]) + arm_of([10, 10], norm="batch")
    runs += arm_of(plain, lr=1.0, final=0.6) + arm_of(normed, lr=1.0, norm="batch", final=0.6)
    table = tables_of(runs)["equal_rates"].loc["sigmoid"]
    assert table["speed-up with batch norm to target"].to_dict() == {"0.1": "1 [1, 1]", "1": speed_up}


def test_equal_rates_by_hand_with_a_target_of_their_own_where_the_plain_network_is_usable() -> None:
    runs = [
        *arm_of([None, None], lr=0.001, final=0.9),
        *arm_of([None, None], lr=0.01, final=0.9),  # usable: its best is 0.9, at step 100
        *arm_of([40, 80], lr=0.1, final=0.91),
        *arm_of([50, None], lr=1.0, final=0.89),
        *arm_of([20, 50], lr=0.001, norm="batch", final=0.9),
        *arm_of([20, 50], lr=0.01, norm="batch", final=0.9),
        *arm_of([None, None], lr=0.1, norm="batch", final=nan),
    ]
    runs[1]["test_accuracy"] = 0.89  # of one seed, which is enough not to be usable
    runs[2]["test_accuracy"] = 0.92  # which is not on its curve
    table = tables_of(runs)["equal_rates"]
    assert table.index.tolist() == [("sigmoid", rate) for rate in ("0.001", "0.01", "0.1", "1")]
    assert table.to_dict("list") == {
        "steps without batch norm": ["never", "never", "57 [40, 80]", "in 1 of 2 seeds"],
        "steps with batch norm": ["32 [20, 50]", "32 [20, 50]", "never", ""],
        "speed-up with batch norm to target": ["> 3.2", "> 3.2", "< 0.57", ""],
        "speed-up with batch norm to target of rate": ["", "3.2 [2, 5]", "< 0.57", ""],
        "best accuracy without batch norm": ["0.9000", "0.9000", "0.9500", "0.9150"],
        "best accuracy with batch norm": ["0.9500", "0.9500", "0.5000", ""],
    }


@pytest.mark.parametrize(
    ("rates", "fastest"),
    [
        ({0.1: [80, 80], 1.0: [20, 20], 10.0: [40, 40]}, "1 (×10)"),
        ({0.1: [80, 80], 1.0: [20, None]}, "0.1 (×1)"),  # most seeds before fewest steps
        ({0.1: [None, 80], 1.0: [20, None]}, "1 (×10)"),
        ({0.1: [20, 20], 1.0: [10, 40]}, "1 (×10)"),  # of equals the largest
        ({0.1: [None, None], 1.0: [None, None]}, None),
    ],
)
def test_the_fastest_rate(rates: dict[float, list[int | None]], fastest: str | None) -> None:
    runs = arm_of([50, 50])
    for rate, steps in rates.items():
        runs += arm_of(steps, lr=rate, norm="batch")
    table = tables_of(runs)["steps_to_accuracy"].loc["sigmoid"]
    assert table["learning rate"].get("with batch norm, at its fastest rate") == fastest


def test_the_baseline_is_at_the_rate_of_the_highest_median_and_a_diverged_run_counts_as_0() -> None:
    runs = arm_of([10, 10, 10], lr=0.1, final=0.9) + arm_of([10, 10, 10], lr=1.0, final=0.95)
    runs[3]["test_accuracy"] = runs[4]["test_accuracy"] = nan
    table = tables_of(runs)["steps_to_accuracy"]
    assert table["learning rate"].tolist() == ["0.1"]


def test_what_was_measured_before_the_first_step_does_not_count() -> None:
    runs = arm_of([40]) + arm_of([20], norm="batch")
    for run in runs:
        run["curve"][0] = 0.99
    table = tables_of(runs)["steps_to_accuracy"].loc["sigmoid"]
    assert table["steps to target"].tolist()[:2] == ["40", "20"]
    assert table["best accuracy"].tolist()[:2] == ["0.9400", "0.9400"]


def test_a_baseline_that_diverged_at_once_sets_no_target() -> None:
    runs = arm_of([None], final=nan) + arm_of([20], norm="batch")
    runs[0]["curve"] = {0: 0.1}
    table = tables_of(runs)["steps_to_accuracy"].loc["sigmoid"]
    assert table[["steps to target", "speed-up"]].iloc[:2].to_numpy().tolist() == [["", ""], ["", ""]]
    assert table["best accuracy"].tolist()[:2] == ["0.0000", "0.9400"]


def test_seeds_are_compared_with_the_baseline_of_the_same_seed() -> None:
    """Seed 1 of the arm has the accuracy that only the baseline of seed 0 has as its target."""
    runs = arm_of([40, 80]) + arm_of([20, 20], norm="batch")
    runs[3]["curve"] = {0: 0.1, 20: ACCURACY[0], 100: 0.9}
    table = tables_of(runs)["steps_to_accuracy"].loc["sigmoid"]
    assert table.loc["with batch norm, same rate", "steps to target"] == "in 1 of 2 seeds"


def test_tables_do_not_depend_on_the_order_of_the_runs_nor_on_when_they_are_made() -> None:
    runs = arm_of([64] * 5) + arm_of([64, 32, 16, 8, 4], norm="batch") + arm_of([3, 9, 27, 81, 5], lr=1.0, norm="batch")
    results = results_of(runs)
    backwards = Results(results.runs[::-1], results.curves[::-1], results.layers, results.units)
    for name, table in learning_rates.tables(results).items():
        pd.testing.assert_frame_equal(table, learning_rates.tables(results)[name])
        pd.testing.assert_frame_equal(table, learning_rates.tables(backwards)[name])


@pytest.mark.parametrize(
    ("arms", "variants"),
    [
        ([("sigmoid", "none")], ["without batch norm"]),
        (
            [("sigmoid", "batch")],
            ["with batch norm, at its most accurate rate"],  # without a target no rate is fastest
        ),
        (
            [("sigmoid", "batch"), ("relu", "none")],
            ["with batch norm, at its most accurate rate", "without batch norm"],
        ),
        (
            [("relu", "mine.Shift"), ("relu", "none")],
            [
                "without batch norm",
                "mine.Shift, same rate",
                "mine.Shift, at its fastest rate",
                "mine.Shift, at its most accurate rate",
                "without batch norm, at the most accurate rate mine.Shift",
            ],
        ),
    ],
)
def test_arms_that_are_missing_leave_out_their_rows(arms: list[tuple[str, str]], variants: list[str]) -> None:
    runs = [run for a, n in arms for run in arm_of([40, 80], activation=a, norm=n)]
    table = tables_of(runs)["steps_to_accuracy"]
    assert table.index.get_level_values("variant").tolist() == variants
    assert set(table["best accuracy"]) == {"0.9500 [0.9400, 0.9600]"}
    assert len(tables_of(runs)["equal_rates"]) == len({activation for activation, _ in arms})


def test_runs_that_rate_and_seed_do_not_tell_apart_are_not_compared() -> None:
    results = results_of(arm_of([40, 40]) + arm_of([20, 20], norm="batch") + arm_of([20, 20], norm="batch"))
    assert learning_rates.tables(results) == {}
    assert list(learning_rates.figures(results)) == ["accuracy", "convergence"]


# The figures by hand


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_accuracy_is_drawn_at_its_rates_and_diverged_runs_are_marked() -> None:
    runs = arm([0.2, 0.8, math.nan], seed=0) + arm([0.4, 0.9, 0.5], seed=1) + arm([0.7, math.nan], norm="batch", seed=0)
    figure = learning_rates.accuracy(results_of(runs + arm([0.7, math.nan], norm="batch", seed=1)).runs)
    (ax,) = figure.axes
    lines = {tuple(line.get_xdata()): list(line.get_ydata()) for line in ax.get_lines() if len(line.get_xdata()) > 1}
    np.testing.assert_allclose(lines[(0.01, 0.1, 1.0)], [0.3, 0.85, 0.5])
    crosses = [line for line in ax.get_lines() if line.get_marker() == "x"]
    assert sorted(line.get_xdata()[0] for line in crosses) == [0.1, 1.0]
    assert all(line.get_ydata()[0] < 0 for line in crosses)
    assert [text.get_text() for text in ax.texts] == ["1/2"]  # of the seeds, where not all diverged
    assert legend_of(figure) == [
        "without batch norm", "with batch norm", "range over 2 seeds (line: median)", "diverged", "usable: 90%"
    ]  # fmt: skip
    assert ax.get_ylabel() == "test accuracy after 100 steps"


def test_without_divergence_and_with_one_seed_the_legend_says_neither() -> None:
    assert legend_of(learning_rates.accuracy(results_of(arm([0.2, 0.8])).runs)) == ["without batch norm", "usable: 90%"]


def test_convergence_shows_each_arm_at_its_best_rate_and_both_at_either() -> None:
    def curve(height: float) -> dict[int, float]:
        return {0: 0.1, 50: height, 100: height}

    plain, normed = arm([0.5, 0.8, math.nan]), arm([0.3, 0.6, 0.9], norm="batch")
    for run, height in zip(plain + normed, [0.5, 0.8, 0.15, 0.3, 0.6, 0.9], strict=True):
        run["curve"] = curve(height)
    plain[2] |= {"curve": {0: 0.1, 30: 0.15}, "diverged_at": 35}
    figure = learning_rates.convergence(results_of(plain + normed))
    last: list[list[float]] = []
    crosses: list[list[float]] = []
    for ax in figure.axes:
        (target,) = [line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"]
        assert target == 0.8
        drawn = [line for line in ax.get_lines() if line.get_linestyle() != ":"]
        ends = [(line.get_marker(), *line.get_xydata()[-1].tolist()) for line in drawn]
        last.append([y for marker, _, y in ends if marker != "x"])
        crosses.append([x for marker, x, _ in ends if marker == "x"])
    assert last == [[0.8, 0.9], [0.8, 0.6], [0.15, 0.9]]
    assert crosses == [[], [], [35]]
    assert [ax.get_title().rpartition(" (")[2] for ax in figure.axes] == ["0.1, 1)", "0.1)", "1)"]


def test_accuracies_are_spaced_by_the_logarithm_of_the_error() -> None:
    """To the highest that is drawn, and at least to what counts as usable."""
    for highest, ticks in [
        (0.985, [0, 0.5, 0.8, 0.9, 0.95, 0.98]),
        (0.2, [0, 0.5, 0.8, 0.9]),
        (nan, [0, 0.5, 0.8, 0.9]),
        (1.0, [0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999]),
    ]:
        (ax,) = learning_rates.accuracy(results_of(arm([0.1, highest])).runs).axes
        assert ax.get_yticks().tolist() == ticks
        heights = ax.transData.transform([(0.01, y) for y in (0.4, 0.6, 0.7, 0.8)])[:, 1]
        assert heights[3] - heights[2] == pytest.approx(heights[1] - heights[0])  # errors of 0.3, 0.2 and of 0.6, 0.4
        assert ax.transData.transform((0.01, np.fmax(highest, 0.9)))[1] <= ax.bbox.y1


def test_the_speed_up_is_drawn_with_its_interval_or_as_a_bound_and_rates_without_a_target_are_marked() -> None:
    runs = [
        *arm_of([None, None], lr=0.001, final=nan),
        *arm_of([None, None], lr=0.01, final=0.6),
        *arm_of([40, 80], lr=0.1),
        *arm_of([40, 80], lr=1.0),
        *arm_of([20, 20], lr=0.001, norm="batch"),
        *arm_of([20, 20], lr=0.01, norm="batch"),
        *arm_of([20, 20], lr=0.1, norm="batch"),
        *arm_of([20, None], lr=1.0, norm="batch"),
    ]
    figure = learning_rates.figures(results_of(runs))["speedup"]
    (ax,) = figure.axes
    marked = {line.get_marker(): line.get_xydata() for line in ax.get_lines() if line.get_marker() != "None"}
    np.testing.assert_allclose(marked["s"], [[0.1, math.sqrt(2 * 4)]])
    np.testing.assert_allclose(marked["v"], [[1.0, math.sqrt(2 * 0.8)]])
    assert marked["o"][:, 0].tolist() == [0.01, 0.01]
    assert marked["x"][:, 0].tolist() == [0.001]
    (interval,) = [collection.get_segments()[0] for collection in ax.collections]
    np.testing.assert_allclose(interval, [[0.1, 2], [0.1, 4]])
    assert legend_of(figure) == [
        "with batch norm", "95% bootstrap interval, 2 seeds", "at most: not reached in every seed",
        "plain network below 90%", "plain network diverged",
    ]  # fmt: skip


def test_the_speed_up_of_one_seed_has_neither_interval_nor_bound() -> None:
    figure = learning_rates.figures(results_of(arm_of([40]) + arm_of([20], norm="batch")))["speedup"]
    assert not figure.axes[0].collections
    assert legend_of(figure) == ["with batch norm"]


@pytest.mark.parametrize(
    "runs",
    [
        arm_of([40, 80]),
        arm_of([40, 80], norm="batch"),
        arm_of([40, 80]) + arm_of([40, 80], lr=1.0, norm="batch"),
        arm_of([None, None], final=0.8) + arm_of([40, 80], norm="batch"),
    ],
    ids=["plain", "normed", "no common rate", "plain is not usable"],
)
def test_there_is_no_figure_of_the_speed_up_where_there_is_none(runs: list[dict[str, Any]]) -> None:
    assert list(learning_rates.figures(results_of(copy.deepcopy(runs)))) == ["accuracy", "convergence"]


# A small sweep, stored


GRID = {
    "model": {"activation": ["sigmoid", "relu"], "norm": ["none", "batch"]},
    "optimizer": {"lr": [0.3, 3.0, 1000.0]},
    "seed": [0, 1],
}
"""At a rate of 1,000 all but sigmoid with batch norm diverge."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[RunConfig], Path]:
    """The runs of the grid, and the folder of their store."""
    folder = tmp_path_factory.mktemp("sweep")
    runs = expand(settings({"model.hidden": [16, 16], "train.steps": 60}), GRID)
    run_all(runs, Store(folder, create=True), Inline(group_size=None), Progress(len(runs)))
    return runs, folder


@pytest.fixture(scope="module")
def trained(swept: tuple[list[RunConfig], Path]) -> Results:
    return Store(swept[1]).load()


PARTS = {
    "all": "lr > 0",
    "one seed": "seed == 0",
    "one norm": "norm == 'batch'",
    "one activation": "activation == 'relu'",
    "one arm": "activation == 'relu' and norm == 'none'",
    "one rate": "lr == 0.3",
    "one run": "lr == 0.3 and seed == 0 and norm == 'batch' and activation == 'sigmoid'",
    "only diverged": "lr == 1000 and activation == 'relu'",
    "one diverged run": "lr == 1000 and activation == 'relu' and norm == 'none' and seed == 0",
    "an arm that diverged": "lr < 1000 or norm == 'none' and lr == 1000 and activation == 'relu'",
    "diverged and not at one rate": "lr == 1000",
}


def check(figure: Figure) -> None:
    """Labelled axes, a title each, and a legend that names what it shows and is cut off nowhere."""
    for ax in figure.axes:
        place = ax.get_subplotspec()
        assert place is not None
        assert ax.get_title()
        assert ax.get_xlabel() or not place.is_last_row()
        assert ax.get_ylabel() or not place.is_first_col()
        assert ax.get_xscale() != "linear"
        assert ax.get_yscale() != "linear"
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert all(text.get_text() for text in legend.get_texts())
    extent = legend.get_window_extent()
    assert figure.bbox.x0 <= extent.x0
    assert extent.x1 <= figure.bbox.x1


@pytest.mark.parametrize("part", PARTS)
def test_any_part_of_a_sweep_can_be_shown(trained: Results, part: str) -> None:
    """Without a warning, which would be an error here."""
    results = part_of(trained, PARTS[part])
    before = [table.copy() for table in dataframes(results)]
    arms = results.runs[["activation", "norm"]].drop_duplicates()
    assert len(learning_rates.score(results)) == len(arms)
    tables = learning_rates.tables(results)
    assert set(tables["steps_to_accuracy"].index.get_level_values("activation")) == set(arms["activation"])
    assert len(tables["equal_rates"]) == len(results.runs[["activation", "lr"]].drop_duplicates())
    for table in tables.values():
        cells = table.to_numpy().ravel().tolist()
        assert all(isinstance(cell, str) for cell in cells)
        assert not any(word in cell for cell in cells for word in ("nan", "inf"))
    with look():
        for figure in learning_rates.figures(results).values():
            check(figure)
    for table, old in zip(dataframes(results), before, strict=True):
        pd.testing.assert_frame_equal(table, old)


def test_the_small_sweep_has_runs_that_diverge_and_a_speed_up(trained: Results) -> None:
    wild = trained.runs[trained.runs["lr"] == 1000].groupby("activation")["status"].value_counts().to_dict()
    assert wild[("relu", "diverged")] == 4
    assert ("sigmoid", "done") in wild
    assert set(trained.runs.query("lr < 1000")["status"]) == {"done"}
    speed_ups = learning_rates.tables(trained)["steps_to_accuracy"]["speed-up"]
    assert any("[" in cell for cell in speed_ups)


def all_tables(results: Results) -> list[str]:
    return [table.to_csv() for table in (learning_rates.score(results), *learning_rates.tables(results).values())]


def everything_shown(results: Results) -> tuple[list[str], dict[str, bytes]]:
    pixels = {}
    with look():
        for name, figure in learning_rates.figures(results).items():
            file = io.BytesIO()
            figure.savefig(file, format="raw", dpi=40)
            pixels[name] = file.getvalue()
    return all_tables(results), pixels


def read_all(results: Results) -> None:
    """Whatever is read to show the results; to paint it reads no more."""
    all_tables(results)
    learning_rates.figures(results)


@pytest.mark.parametrize("part", ["all", "only diverged"])
def test_reference_data_show_the_same(trained: Results, tmp_path: Path, part: str) -> None:
    results = part_of(trained, PARTS[part])
    reference = learning_rates.drawn_from(results)
    assert everything_shown(reference) == everything_shown(results)
    write_tables(reference, tmp_path)
    from_text = read_tables(tmp_path)
    assert learning_rates.figures(from_text).keys() == learning_rates.figures(results).keys()
    for name, table in learning_rates.tables(results).items():
        steps = [column for column in table if "accuracy" not in column]  # which text has to five digits
        pd.testing.assert_frame_equal(learning_rates.tables(from_text)[name][steps], table[steps])


@pytest.mark.parametrize("table", ["runs", "curves"])
def test_reference_data_have_no_column_that_is_not_shown(trained: Results, table: str) -> None:
    reference = learning_rates.drawn_from(trained)
    assert reference.layers.empty
    assert reference.units.empty
    for column in reference.table(table):
        without = reference.table(table).drop(columns=column)
        tables = dict(zip(TABLES, dataframes(reference), strict=True)) | {table: without}
        with pytest.raises(KeyError):
            read_all(Results(**tables))


def test_the_tables_are_printed_and_written_under_their_names(
    swept: tuple[list[RunConfig], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: Results
) -> None:
    runs, store = swept
    (tmp_path / "runs.sqlite").symlink_to(store / "runs.sqlite")
    show("learning_rates", [run for run in runs if run.lr == 0.3], tmp_path, [])
    printed = capsys.readouterr().out
    tables = learning_rates.tables(part_of(trained, "lr == 0.3"))
    assert list(tables) == ["steps_to_accuracy", "equal_rates"]
    for name, table in tables.items():
        assert f"\n{name}\n{table.to_string()}\n" in printed
        assert (tmp_path / f"{name}.csv").read_text() == table.to_csv()
        assert f"{name}.csv" in printed
