"""What the experiments show: numbers worked by hand, and figures of any part of a sweep."""

import math
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from runs import settings

from bnrepro.config import Compute
from bnrepro.errors import InputError
from bnrepro.experiment import find_experiment
from bnrepro.figures import look
from bnrepro.store import Results, Store
from bnrepro.sweep import Progress, expand, run_all


def the(name: str) -> ModuleType:
    module = find_experiment(name)
    assert module is not None
    return module


learning_rates, covariate_shift = the("learning_rates"), the("covariate_shift")

# Tables by hand


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


def test_learning_rates_by_hand() -> None:
    nan = math.nan
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
        ([0.9, 0.9, 0.9, math.nan, 0.9, 0.9], 2),
        ([0.1, 0.2], 0),
        ([math.nan, math.nan], 0),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_usable_decades_are_the_longest_unbroken_row(accuracies: list[float], decades: int, order: int) -> None:
    table = learning_rates.score(results_of(arm(accuracies)[::order]))
    assert table["usable decades"].tolist() == [f"{decades:.1f} ({decades:.1f}–{decades:.1f})"]


def test_an_arm_that_always_diverges_never_gets_anywhere() -> None:
    runs = arm([math.nan, math.nan], norm="batch", seed=0) + arm([math.nan, math.nan], norm="batch", seed=1)
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


def layer_rows(run_id: str, layer: int, rows: list[tuple[float, ...]]) -> list[dict[str, Any]]:
    names = ("step", "p15", "p50", "p85", "inactive")
    return [{"run_id": run_id, "layer": layer, **dict(zip(names, row, strict=True))} for row in rows]


def test_covariate_shift_by_hand() -> None:
    runs = [
        {"run_id": run_id, "activation": a, "norm": n, "lr": 0.3, "seed": 0}
        for run_id, a, n in [
            ("w", "relu", "none"),
            ("x", "sigmoid", "batch"),
            ("y", "sigmoid", "none"),
            ("z", "sigmoid", "none"),
        ]
    ]
    layers = [
        *layer_rows("y", 1, [(5, -1, 1, 1, 0.5), (0, -1, 0, 1, 0.0), (9, 0, 0, 4, 0.25)]),  # |1|/2 + |−1|/4, 4/2
        *layer_rows("z", 1, [(0, -1, 0, 1, 0.0), (5, -1, 0, 1, 0.0), (9, 0, 1, 2, 0.75)]),  # 0 + 1/2, 2/2
        *layer_rows("z", 2, [(0, 0, 1, 2, 0.0), (9, 0, 3, 10, 0.1)]),  # 2/10, 10/2
        *layer_rows("x", 1, [(0, 0, 1, 2, 0.0), (9, 0, 1, 2, 0.0)]),
        *layer_rows("w", 1, [(0, 0, 1, 2, 0.0), (9, 0, 1, 2, 0.0)]),
    ]
    table = covariate_shift.score(Results(pd.DataFrame(runs), pd.DataFrame(), pd.DataFrame(layers), pd.DataFrame()))
    assert table.index.names == ["activation", "norm", "layer"]
    assert dict(zip(table.index, table.to_numpy().tolist(), strict=True)) == {
        ("sigmoid", "none", 1): [0.625, 1.5, 0.5],  # the mean of y and z
        ("sigmoid", "none", 2): [0.2, 5.0, 0.1],
        ("sigmoid", "batch", 1): [0.0, 1.0, 0.0],
        ("relu", "none", 1): [0.0, 1.0, 0.0],
    }
    assert [label[:2] for label in table.index] == [("sigmoid", "none")] * 2 + [("sigmoid", "batch"), ("relu", "none")]


# A small sweep, stored


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two activations × two norms × three rates × two seeds; at 1,000 all but sigmoid with batch norm diverge."""
    grid = {
        "model": {"activation": ["sigmoid", "relu"], "norm": ["none", "batch"]},
        "optimizer": {"lr": [0.3, 3.0, 1000.0]},
        "seed": [0, 1],
    }
    store = Store(tmp_path_factory.mktemp("sweep"), create=True)
    runs = expand(settings({"model.hidden": [16, 16], "train.steps": 60}), grid)
    run_all(runs, store, Compute(1, None), Progress(len(runs)))
    return store.load()


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


def part_of(results: Results, condition: str) -> Results:
    runs = results.runs.query(condition).reset_index(drop=True)
    measured = (results.curves, results.layers, results.units)
    return Results(runs, *(t[t["run_id"].isin(runs["run_id"])].reset_index(drop=True) for t in measured))


def check(figure: Figure) -> None:
    """Labelled axes, a title each, and a legend that names what it shows."""
    for ax in figure.axes:
        place = ax.get_subplotspec()
        assert place is not None
        assert ax.get_title()
        assert ax.get_xlabel() or not place.is_last_row()
        assert ax.get_ylabel() or not place.is_first_col()
        assert ax.get_xscale() != "linear"
    (legend,) = figure.legends
    assert all(text.get_text() for text in legend.get_texts())


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("experiment", [learning_rates, covariate_shift], ids=["learning_rates", "covariate_shift"])
def test_any_part_of_a_sweep_can_be_shown(trained: Results, experiment: ModuleType, part: str) -> None:
    """Without a warning, which would be an error here."""
    results = part_of(trained, PARTS[part])
    before = [table.copy() for table in vars(results).values()]
    arms = results.runs[["activation", "norm"]].drop_duplicates()
    table = experiment.score(results)
    assert table.index.droplevel("layer" if "layer" in table.index.names else []).nunique() == len(arms)
    with look():
        for figure in experiment.figures(results).values():
            check(figure)
            figure.draw_without_rendering()
    for table, old in zip(vars(results).values(), before, strict=True):
        pd.testing.assert_frame_equal(table, old)


def test_the_small_sweep_has_runs_that_diverge(trained: Results) -> None:
    wild = trained.runs[trained.runs["lr"] == 1000].groupby("activation")["status"].value_counts().to_dict()
    assert wild[("relu", "diverged")] == 4
    assert ("sigmoid", "done") in wild
    assert set(trained.runs.query("lr < 1000")["status"]) == {"done"}


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
        ends = [(line.get_marker(), *line.get_xydata()[-1].tolist()) for line in ax.get_lines()]
        last.append([y for marker, _, y in ends if marker != "x"])
        crosses.append([x for marker, x, _ in ends if marker == "x"])
    assert last == [[0.8, 0.9], [0.8, 0.6], [0.15, 0.9]]
    assert crosses == [[], [], [35]]
    assert [ax.get_title().rpartition(" (")[2] for ax in figure.axes] == ["0.1, 1)", "0.1)", "1)"]


def test_bands_of_percentiles_are_drawn_per_norm_and_layer(trained: Results) -> None:
    figures = covariate_shift.figures(part_of(trained, "lr == 0.3"))
    assert list(figures) == ["percentiles-sigmoid", "percentiles-relu"]
    titles = [ax.get_title() for ax in figures["percentiles-relu"].axes]
    assert titles == [f"layer {n}, {norm} batch norm" for norm in ("without", "with") for n in (1, 2)]
    layers = trained.layers.merge(trained.runs[["run_id", "activation", "norm", "lr"]])
    shown = layers.query("activation == 'relu' and norm == 'batch' and lr == 0.3 and layer == 2").groupby("step")
    lines = figures["percentiles-relu"].axes[3].get_lines()
    for line, name in zip(lines, ("p15", "p85", "p50"), strict=True):
        np.testing.assert_array_equal(line.get_ydata(), shown[name].median())


def test_covariate_shift_leaves_out_the_logits_that_other_diagnostics_add_and_asks_for_percentiles() -> None:
    runs = pd.DataFrame([{"run_id": "a", "activation": "relu", "norm": "none", "lr": 0.1, "seed": 0}])
    rows = [{"run_id": "a", "step": step, "layer": 1, "p15": -1.0, "p50": 0.0, "p85": 1.0} for step in (0, 5)]
    logits = [{"run_id": "a", "step": step, "layer": 2, "shift_norm": 1.0} for step in (0, 5)]
    layers = pd.DataFrame([row | {"inactive": 0.0} for row in rows] + logits)
    results = Results(runs, pd.DataFrame(), layers, pd.DataFrame())
    assert covariate_shift.score(results).index.tolist() == [("relu", "none", 1)]
    (figure,) = covariate_shift.figures(results).values()
    assert len(figure.axes) == 1
    with pytest.raises(InputError, match="diagnostics: must have percentiles"):
        covariate_shift.score(Results(runs, pd.DataFrame(), layers.drop(columns="p50"), pd.DataFrame()))


def test_covariate_shift_needs_no_diagnostic_but_percentiles() -> None:
    runs = pd.DataFrame([{"run_id": "a", "activation": "relu", "norm": "none", "lr": 0.1, "seed": 0}])
    rows = [{"run_id": "a", "step": step, "layer": 1, "p15": -1.0, "p50": 0.0, "p85": 1.0} for step in (0, 5)]
    table = covariate_shift.score(Results(runs, pd.DataFrame(), pd.DataFrame(rows), pd.DataFrame()))
    assert table.columns.tolist() == ["drift of the median", "spread, last / first", "inactive"]
    assert table["inactive"].isna().all()
    # The column may be there for the sake of other runs of the store.
    without = pd.DataFrame(rows).assign(p50=math.nan)
    with pytest.raises(InputError, match="diagnostics: must have percentiles"):
        covariate_shift.score(Results(runs, pd.DataFrame(), without, pd.DataFrame()))
