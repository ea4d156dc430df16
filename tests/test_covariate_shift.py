"""Both measures of internal covariate shift: numbers worked by hand, and figures of any part of a sweep."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from runs import dataframes, part_of, settings

from bnrepro.config import Inline
from bnrepro.errors import InputError
from bnrepro.experiment import import_experiment, read_tables, write_tables
from bnrepro.figures import look
from bnrepro.store import Results, Store
from bnrepro.sweeping import Progress, expand, run_all

covariate_shift: Any = import_experiment("covariate_shift")
nan, inf = math.nan, math.inf

# Tables by hand: 20 steps measured at even intervals of 5, after one measurement that is not even

MEASURED_STEPS = (0, 5, 10, 15, 20)
ABSURD = 1e6
"""A value that no mean may take in."""


def a_run(run_id: str, **columns: Any) -> dict[str, Any]:
    run = {"run_id": run_id, "status": "done", "activation": "sigmoid", "norm": "none", "lr": 0.1, "seed": 0}
    run |= {"steps": 20, "train.measurements": 4, "test_accuracy": 0.95, "diverged_at": nan}
    return run | columns


def layer(run_id: str, number: int, **even: Sequence[float]) -> list[dict[str, Any]]:
    """Rows of table ``layers``: of each column the values at steps 10, 15 and 20, and absurd ones before."""
    columns = {name: [ABSURD, ABSURD, *values] for name, values in even.items()}
    rows = zip(MEASURED_STEPS, *columns.values(), strict=True)
    return [{"run_id": run_id, "layer": number, **dict(zip(["step", *columns], row, strict=True))} for row in rows]


def results_of(runs: list[dict[str, Any]], layers: list[dict[str, Any]]) -> Results:
    curves = pd.DataFrame([{"run_id": run["run_id"], "step": step} for run in runs for step in MEASURED_STEPS])
    return Results(pd.DataFrame(runs), curves, pd.DataFrame(layers), units=pd.DataFrame())


def with_drift(values: dict[tuple[str, int], float]) -> Results:
    """Runs of which only the drift was measured, by norm and seed."""
    runs = [a_run(f"{norm}{seed}", norm=norm, seed=seed) for norm, seed in values]
    layers = [
        row for (norm, seed), v in values.items() for row in layer(f"{norm}{seed}", 1, drift_wasserstein=[v, v, v])
    ]
    return results_of(runs, layers)


def test_means_are_over_layers_and_even_steps_and_leave_out_what_nothing_precedes() -> None:
    layers = [
        *layer(
            "a",
            1,
            drift_wasserstein=[0.1, 0.2, 0.3],
            shift_norm=[0, 0, 0],
            shift_cosine=[1, 1, 1],
            gradient_norm=[1, 1, 1],
            jacobian_median=[0.5, 0.6, 0.7],
        ),
        *layer(
            "a",
            2,
            drift_wasserstein=[0.3, 0.4, 0.5],
            shift_norm=[1, 2, 3],
            shift_cosine=[0.5, 0.5, 0.8],
            gradient_norm=[2, 2, 0],
            jacobian_median=[nan, nan, nan],
        ),
        *layer("a", 3, shift_norm=[3, 4, 5], shift_cosine=[0.7, 0.9, 0.8]),  # the logits
    ]
    results = results_of([a_run("a")], layers)
    results.curves["landscape_smoothness"] = [ABSURD, ABSURD, 1.0, 2.0, 6.0]
    assert covariate_shift.score(results).to_dict("index") == {
        ("sigmoid", "none", 0.1): {
            "accuracy": 0.95,
            "diverged": 0,
            "drift": 0.3,
            "‖G − G'‖": 3.0,  # of 1, 3; 2, 4; 3, 5
            "‖G − G'‖ / ‖G‖": 0.75,  # of 1/2, 2/2; undefined at the last step
            "cos(G, G')": 0.7,
            "singular value": 0.6,
            "smoothness": 3.0,
        }
    }


def test_rows_are_medians_over_seeds_and_diverged_runs_have_no_part_in_them() -> None:
    runs = [a_run(f"{seed}", seed=seed, test_accuracy=0.9 + seed / 100) for seed in range(4)]
    runs += [a_run("x", seed=4, status="diverged", test_accuracy=nan, diverged_at=17.0)]
    layers = [r for run in runs for r in layer(run["run_id"], 1, drift_wasserstein=[run["seed"] ** 2] * 3)]
    (row,) = covariate_shift.score(results_of(runs, layers)).to_dict("records")
    assert row == {"accuracy": 0.91, "diverged": 1, "drift": 2.5}  # of 0, 0.90 … 0.93; of 0, 1, 4, 9


def test_numbers_have_three_digits_whatever_their_size() -> None:
    (row,) = covariate_shift.score(with_drift({("none", 0): 0.000123456})).to_dict("records")
    assert row["drift"] == 0.000123


def ratio_of(results: Results) -> str:
    table = covariate_shift.score(results)
    assert table.index.tolist() == [("sigmoid", "none", 0.1), ("sigmoid", "batch", 0.1)]
    assert table["ratio of drift"].iloc[0] == ""
    return str(table["ratio of drift"].iloc[1])


@pytest.mark.parametrize(
    ("without", "with_batch_norm", "ratio"),
    [
        ([2], [1], "0.5"),
        ([1, 1], [8, 2], "4"),  # two seeds are too few for an interval
        ([1, 1, 1], [300, 300, 300], "300"),  # and so are equal ones
        ([10, 5, 2.5], [1, 1, 1], "0.2 (0.1–0.4)"),  # the range: 1 of 27 resamples has the smallest only
        ([8, 4, 2], [8, 4, 2], "1"),  # paired by seed
        ([1, 1, 1, 0], [1, 2, 4, 1], "2 (1–4)"),
        ([1, 1, 1, 1], [1, 2, 4, inf], "2 (1–4)"),
        ([1, 1, 1, nan], [1, 2, 4, 3], "2 (1–4)"),
        ([1000, 1000, 1000], [1, 10, 100], "0.01 (0.001–0.1)"),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_ratios_are_paired_by_seed(without: list[float], with_batch_norm: list[float], ratio: str, order: int) -> None:
    drift = {("none", seed): value for seed, value in enumerate(without)}
    drift |= {("batch", seed): value for seed, value in list(enumerate(with_batch_norm))[::order]}
    assert ratio_of(with_drift(drift)) == ratio


def test_the_interval_is_that_of_all_resamples() -> None:
    ratios = [0.1, 0.2, 0.25, 0.6, 0.9]
    drift = {("none", seed): 1.0 for seed in range(5)} | {("batch", seed): r for seed, r in enumerate(ratios)}
    resamples = [np.mean(np.log(sample)) for sample in itertools.product(ratios, repeat=5)]
    low, high = np.exp(np.percentile(resamples, [2.5, 97.5]))
    assert ratio_of(with_drift(drift)) == f"{np.exp(np.log(ratios).mean()):.2g} ({low:.2g}–{high:.2g})"


def test_there_are_ratios_only_where_there_is_something_to_compare() -> None:
    table = covariate_shift.score(with_drift({("none", 0): 1.0, ("batch", 1): 1.0}))
    assert "ratio of drift" not in table
    table = covariate_shift.score(with_drift({("batch", 0): 1.0}))
    assert table.columns.tolist() == ["accuracy", "diverged", "drift"]
    table = covariate_shift.score(with_drift({("none", 0): 4.0, ("mine.Shift", 0): 2.0, ("batch", 0): 1.0}))
    assert table["ratio of drift"].tolist() == ["", "0.25", "0.5"]


def test_arms_are_in_the_order_of_the_paper_then_by_rate() -> None:
    cells = [(a, n, r) for a in ("mine.Swish", "relu", "sigmoid") for n in ("batch", "none") for r in (1.0, 0.3)]
    runs = [a_run(str(i), activation=a, norm=n, lr=r) for i, (a, n, r) in enumerate(cells)]
    layers = [row for run in runs for row in layer(run["run_id"], 1, drift_wasserstein=[1, 1, 1])]
    assert covariate_shift.score(results_of(runs, layers)).index.tolist() == [
        (a, n, r) for a in ("sigmoid", "relu", "mine.Swish") for n in ("none", "batch") for r in (0.3, 1.0)
    ]


# A small sweep, stored


def train(folder: Any, grid: dict[str, Any], **changes: Any) -> Results:
    store = Store(folder, create=True)
    runs = expand(settings(changes), grid)
    run_all(runs, store, Inline(group_size=None), Progress(len(runs)))
    return store.load()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two activations × two norms × three rates × two seeds; at 1,000 all but sigmoid with batch norm diverge."""
    grid = {
        "model": {"activation": ["sigmoid", "relu"], "norm": ["none", "batch"]},
        "optimizer": {"lr": [0.3, 3.0, 1000.0]},
        "seed": [0, 1],
    }
    diagnostics = ["percentiles", "inactive", "gradients", "drift", "covariate_shift", "jacobian", "landscape"]
    changes = {"model.hidden": [16, 16], "train.steps": 60, "diagnostics": diagnostics}
    return train(tmp_path_factory.mktemp("sweep"), grid, **changes)


PARTS = {
    "all": "lr > 0",
    "two arms of different activations, one seed": "(activation == 'relu') == (norm == 'batch') and seed == 0",
    "one run": "lr == 0.3 and seed == 0 and norm == 'batch' and activation == 'sigmoid'",
    "one diverged run": "lr == 1000 and activation == 'relu' and norm == 'none' and seed == 0",
    "only diverged": "lr == 1000 and activation == 'relu'",
    "diverged and not, at one rate": "lr == 1000",
}


def draw(results: Results) -> dict[str, Figure]:
    with look():
        drawn: dict[str, Figure] = covariate_shift.figures(results)
    return drawn


def xs(line: Line2D) -> list[float]:
    return [float(x) for x in np.asarray(line.get_xdata(), float)]


def ys(line: Line2D) -> list[float]:
    return [float(y) for y in np.asarray(line.get_ydata(), float)]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def content(figures: dict[str, Figure]) -> dict[str, list[Any]]:
    """All that depends on the results: what is drawn where, in which colour, and what is written."""
    drawn: dict[str, list[Any]] = {}
    for name, figure in figures.items():
        drawn[name] = [legend_of(figure)]
        for ax in figure.axes:
            lines = [(line.get_color(), xs(line), ys(line)) for line in ax.get_lines()]
            bands = [np.asarray(path.vertices).tolist() for band in ax.collections for path in band.get_paths()]
            drawn[name] += [ax.get_title(), ax.get_ylabel(), lines, bands, [text.get_text() for text in ax.texts]]
    return drawn


@pytest.mark.parametrize("part", PARTS)
def test_any_part_of_a_sweep_can_be_shown(trained: Results, part: str) -> None:
    """Without a warning, which would be an error here."""
    results = part_of(trained, PARTS[part])
    before = [table.copy() for table in dataframes(results)]
    table = covariate_shift.score(results)
    assert len(table) == len(results.runs[["activation", "norm", "lr"]].drop_duplicates())
    activations = [a for a in ("sigmoid", "relu") if a in set(results.runs["activation"])]
    figures = draw(results)
    assert list(figures) == [
        "shift",
        *(f"shift-over-steps-{a}" for a in activations),
        "jacobian",
        *(f"percentiles-{a}" for a in activations),
    ]
    for figure in figures.values():
        assert len(figure.legends) == 1
        for ax in figure.axes:
            place = ax.get_subplotspec()
            assert place is not None
            assert ax.get_title()
            assert ax.get_xlabel() or not place.is_last_row()
            assert ax.get_ylabel() or not place.is_first_col()
            assert ax.get_xscale() != "linear"
        figure.set_layout_engine("none")  # which would draw it twice
        figure.draw_without_rendering()
    for table, old in zip(dataframes(results), before, strict=True):
        pd.testing.assert_frame_equal(table, old)


def test_the_small_sweep_has_runs_that_diverge(trained: Results) -> None:
    wild = trained.runs[trained.runs["lr"] == 1000].groupby("activation")["status"].value_counts().to_dict()
    assert wild[("relu", "diverged")] == 4
    assert ("sigmoid", "done") in wild
    assert set(trained.runs.query("lr < 1000")["status"]) == {"done"}


@pytest.mark.parametrize("part", ["all", "one diverged run"])
def test_reference_data_show_the_same(trained: Results, part: str) -> None:
    results = part_of(trained, PARTS[part])
    drawn_from = covariate_shift.drawn_from(results)
    pd.testing.assert_frame_equal(covariate_shift.score(drawn_from), covariate_shift.score(results), check_exact=True)
    np.testing.assert_equal(content(draw(drawn_from)), content(draw(results)))  # in which NaN is equal to NaN


def test_reference_data_are_no_more_than_is_shown(trained: Results) -> None:
    drawn_from = covariate_shift.drawn_from(trained)
    assert len(drawn_from.runs) == len(trained.runs)
    assert "config" not in drawn_from.runs
    assert drawn_from.units.empty
    assert "drift_std" in trained.layers
    assert "drift_std" not in drawn_from.layers
    assert "test_accuracy" not in drawn_from.curves
    best = part_of(drawn_from, "lr == 3 and activation == 'sigmoid' and norm == 'batch'").layers
    others = part_of(drawn_from, "lr == 1000 and activation == 'relu'").layers
    assert best.loc[best["layer"] < 3, "p50"].notna().all()
    assert others["p50"].isna().all()
    assert others["shift_norm"].notna().any()


@pytest.mark.parametrize(
    ("diagnostics", "figures", "panels", "columns"),
    [
        (["percentiles"], ["percentiles-relu"], [], []),
        (
            ["percentiles", "drift", "covariate_shift"],
            ["shift", "shift-over-steps-relu", "percentiles-relu"],
            ["paper: inputs drift", "critics: gradients change", "critics: gradients turn"],
            ["drift", "‖G − G'‖", "cos(G, G')"],
        ),
        (["drift"], ["shift", "shift-over-steps-relu"], ["paper: inputs drift"], ["drift"]),
        (
            ["covariate_shift", "gradients"],
            ["shift", "shift-over-steps-relu"],
            ["critics: gradients change", "critics: gradients turn"],
            ["‖G − G'‖", "‖G − G'‖ / ‖G‖", "cos(G, G')"],
        ),
        (["jacobian"], ["jacobian"], [], ["singular value"]),
        (["landscape"], [], [], ["smoothness"]),
    ],
)
def test_what_was_not_measured_is_left_out(
    tmp_path: Any, diagnostics: list[str], figures: list[str], panels: list[str], columns: list[str]
) -> None:
    grid = {"model": {"norm": ["none", "batch"]}}
    changes = {"model.activation": "relu", "model.hidden": [8, 8], "diagnostics": diagnostics}
    results = train(tmp_path, grid, **changes)
    table = covariate_shift.score(results)
    assert [c for c in table if not c.startswith("ratio")] == ["accuracy", "diverged", *columns]
    drawn = draw(results)
    assert list(drawn) == figures
    if panels:
        assert [ax.get_title() for ax in drawn["shift"].axes] == [f"ReLU, {panel}" for panel in panels]
    reference = covariate_shift.drawn_from(results)
    np.testing.assert_equal(content(draw(reference)), content(drawn))
    write_tables(reference, tmp_path / "reference")
    stored = read_tables(tmp_path / "reference")
    pd.testing.assert_index_equal(covariate_shift.score(stored).columns, table.columns)
    assert list(draw(stored)) == figures


@pytest.mark.parametrize("diagnostics", [["inactive", "gradients", "units"], []])
def test_without_any_diagnostic_that_is_shown_the_setting_is_named(tmp_path: Any, diagnostics: list[str]) -> None:
    results = train(tmp_path, {"seed": [0]}, diagnostics=diagnostics)
    for show in (covariate_shift.score, covariate_shift.figures):
        with pytest.raises(InputError, match="diagnostics: must have one of percentiles, drift, covariate_shift, "):
            show(results)
    # The columns may be there for the sake of other runs of the store.
    results.curves["landscape_smoothness"] = nan
    with pytest.raises(InputError, match="diagnostics: must have one of"):
        covariate_shift.score(results)


# Figures


def lines_of(ax: Axes, **properties: Any) -> list[Line2D]:
    return [line for line in ax.get_lines() if all(getattr(line, f"get_{k}")() == v for k, v in properties.items())]


def test_shift_is_drawn_at_its_rates_open_where_nothing_is_learned_and_diverged_runs_are_marked() -> None:
    accuracies = {(0.1, 0): 0.95, (0.1, 1): 0.95, (1.0, 0): 0.5, (1.0, 1): 0.6, (3.0, 0): 0.9, (3.0, 1): nan}
    runs = [
        a_run(f"{rate}-{seed}", lr=rate, seed=seed, test_accuracy=accuracy)
        | ({"status": "diverged", "diverged_at": 12.0} if math.isnan(accuracy) else {})
        for (rate, seed), accuracy in accuracies.items()
    ]
    layers = [row for run in runs for row in layer(run["run_id"], 1, drift_wasserstein=[run["lr"] + run["seed"]] * 3)]
    figure = draw(results_of(runs, layers))["shift"]
    (ax,) = figure.axes
    (line,) = lines_of(ax, linestyle="--")
    assert dict(zip(xs(line), ys(line), strict=True)) == pytest.approx({0.1: 0.6, 1: 1.5, 3: 3})
    (learned,) = lines_of(ax, marker="o", markerfacecolor="#D55E00")
    (unlearned,) = lines_of(ax, marker="o", markerfacecolor="w")
    assert xs(learned) == [0.1]
    assert xs(unlearned) == [1.0, 3.0]  # at 3 the median of 0.9 and 0, for the diverged run
    (cross,) = lines_of(ax, marker="x")
    assert xs(cross) == [3.0]
    assert [text.get_text() for text in ax.texts] == ["1/2"]
    assert ax.get_ylabel() == "Wasserstein distance / σ\n(lower is less shift)"
    assert legend_of(figure) == [
        "without batch norm",
        "range over 2 seeds (line: median)",
        "open: median final accuracy below 90%",
        "diverged",
    ]


def test_networks_in_which_nothing_moves_can_be_drawn() -> None:
    figures = draw(with_drift({("none", 0): 0.0, ("batch", 0): 0.0}))
    for figure in figures.values():
        figure.draw_without_rendering()


def test_a_legend_has_nothing_that_is_not_drawn() -> None:
    assert legend_of(draw(with_drift({("none", 0): 1.0}))["shift"]) == ["without batch norm"]


def test_shift_over_steps_has_a_row_per_measure_and_a_column_per_rate(trained: Results) -> None:
    figure = draw(trained)["shift-over-steps-relu"]
    drift, *_ = rows = np.reshape(np.array(figure.axes, dtype=object), (4, 3))
    assert [row[0].get_ylabel().partition("\n")[0] for row in rows] == [
        "Wasserstein distance / σ", "‖G − G'‖", "‖G − G'‖ / ‖G‖", "cos(G, G')"
    ]  # fmt: skip
    assert [ax.get_title() for ax in drift] == ["ReLU, rate 0.3", "ReLU, rate 3", "ReLU, rate 1000"]
    layers = trained.layers.merge(trained.runs).query("activation == 'relu' and norm == 'batch' and lr == 3")
    means = layers.query("layer > 1").groupby(["run_id", "step"])["shift_norm"].mean()
    (line,) = lines_of(rows[1, 1], color="#0072B2", linestyle="-")
    np.testing.assert_allclose(ys(line), means.groupby("step").median())
    (even,) = lines_of(rows[1, 1], linestyle=":")
    assert xs(even)[0] == 15
    crosses = [x for line in lines_of(rows[1, 2], marker="x") for x in xs(line)]
    expected = trained.runs.query("activation == 'relu' and lr == 1000")["diverged_at"]
    assert sorted(crosses) == sorted(expected)


def best_rates(accuracies: dict[tuple[float, int], float]) -> Results:
    """Runs with percentiles and singular values that tell their rates."""
    runs = [a_run(f"{r}-{s}", lr=r, seed=s, test_accuracy=a) for (r, s), a in accuracies.items()]
    layers = []
    for run in runs:
        rate = [run["lr"]] * 3
        layers += layer(run["run_id"], 1, p15=rate, p50=rate, p85=rate, jacobian_min=rate, jacobian_median=rate)
    frame = pd.DataFrame(layers).assign(jacobian_max=1.0)
    return Results(pd.DataFrame(runs), results_of(runs, []).curves, frame, pd.DataFrame())


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ({(0.1, 0): 0.9, (1.0, 0): 0.8}, 0.1),
        ({(0.1, 0): 0.9, (1.0, 0): 0.9}, 1.0),  # the largest of equals
        ({(1.0, 0): 0.9, (0.1, 0): 0.9}, 1.0),
        ({(0.1, 0): 0.8, (1.0, 0): nan}, 0.1),
        ({(0.1, s): 0.8 for s in range(3)} | {(1.0, 0): 0.9, (1.0, 1): nan, (1.0, 2): nan}, 0.1),
        ({(0.1, s): 0.8 for s in range(3)} | {(1.0, 0): 0.9, (1.0, 1): 0.9, (1.0, 2): nan}, 1.0),
        ({(0.1, 0): nan, (1.0, 0): nan}, 1.0),
    ],
)
def test_against_steps_an_arm_is_drawn_at_its_best_rate(
    accuracies: dict[tuple[float, int], float], best: float
) -> None:
    figures = draw(best_rates(accuracies))
    (ax,) = figures["percentiles-sigmoid"].axes
    assert ax.get_title() == f"layer 1, without batch norm, rate {best:g}"
    (line,) = lines_of(ax, linestyle="--")
    assert set(ys(line)[2:]) == {best}
    (ax,) = figures["jacobian"].axes
    assert ax.get_title() == f"sigmoid, rate {best:g} without batch norm"
    smallest, median, largest = sorted(lines_of(ax, linestyle="--"), key=lambda line: ys(line)[-1])
    assert set(ys(median)[2:]) | set(ys(smallest)[2:]) == {best}
    assert set(ys(largest)) == {1.0}
    (reference,) = lines_of(ax, linestyle=":")
    assert set(ys(reference)) == {1}


def test_bands_of_percentiles_are_drawn_per_norm_and_layer(trained: Results) -> None:
    figure = draw(part_of(trained, "lr == 0.3"))["percentiles-relu"]
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"layer {n}, {norm} batch norm, rate 0.3" for norm in ("without", "with") for n in (1, 2)]
    layers = trained.layers.merge(trained.runs[["run_id", "activation", "norm", "lr"]])
    shown = layers.query("activation == 'relu' and norm == 'batch' and lr == 0.3 and layer == 2").groupby("step")
    for line, name in zip(figure.axes[3].get_lines(), ("p15", "p85", "p50"), strict=False):
        np.testing.assert_array_equal(ys(line), shown[name].median())
