"""The paper's Figure 1 and ours: distances, choices and drifts known by construction, and figures of any part."""

import io
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from runs import dataframes, part_of

from bnrepro.composition import compose
from bnrepro.config import Inline, Settings
from bnrepro.experiment import import_experiment
from bnrepro.figures import NORMS, look
from bnrepro.places import EXPERIMENTS
from bnrepro.store import Results, Store
from bnrepro.sweeping import Progress, expand, run_all


def the_experiment() -> ModuleType:
    module = import_experiment("figure1")
    assert module is not None
    return module


figure1 = the_experiment()
TABLE = pd.read_csv(EXPERIMENTS / "paper" / "figure1a.csv", comment="#")
PRINTED: dict[str, dict[int, float]] = {
    norm: dict(TABLE.loc[TABLE["series"] == series, ["step", "test_accuracy"]].itertuples(index=False))
    for norm, series in (("none", "without_bn"), ("batch", "with_bn"))
}

# Tables by hand

Curve = Mapping[int, float]
Bands = Mapping[int, Mapping[int, float]]


def a_run(norm: str, curve: Curve, units: Bands | None = None, **columns: Any) -> dict[str, Any]:
    """A run of 50,000 steps at std 0.1 and learning rate 0.1; ``units`` as {unit: {step: median}}."""
    setting = {"dataset": "mnist", "lr": 0.1, "seed": 0, "steps": 50_000, "std": 0.1, "scheme": "normal"}
    ending = {"test_accuracy": list(curve.values())[-1], "diverged_at": math.nan, "measurements": 100}
    return {"norm": norm, "curve": curve, "units": units or {}} | setting | ending | columns


def results_of(*runs: dict[str, Any]) -> Results:
    rows, curves, units = [], [], []
    names = {"std": "model.init.std", "scheme": "model.init.scheme", "measurements": "train.measurements"}
    for number, run in enumerate(runs):
        run_id = f"{number:03}"
        rows.append({"run_id": run_id} | {names.get(k, k): v for k, v in run.items() if k not in ("curve", "units")})
        curves += [{"run_id": run_id, "step": step, "test_accuracy": value} for step, value in run["curve"].items()]
        units += [
            {"run_id": run_id, "step": step, "unit": unit, "p15": median - 1, "p50": median, "p85": median + 2}
            for unit, path in run["units"].items()
            for step, median in path.items()
        ]
    return Results(
        pd.DataFrame(rows),
        pd.DataFrame(curves),
        pd.DataFrame(columns=["run_id", "step", "layer"]),
        pd.DataFrame(units, columns=["run_id", "step", "unit", "p15", "p50", "p85"]),
    )


def off_by(norm: str, offset: float, first: int = 0, last: int = 50_000) -> dict[int, float]:
    """The paper's curve, measured at the paper's steps, with ``offset`` added from step ``first`` to ``last``."""
    return {step: value + offset * (first <= step <= last) for step, value in PRINTED[norm].items()}


@pytest.mark.parametrize(
    ("norm", "curves", "largest", "mean"),
    [
        ("batch", [off_by("batch", 0.004)], 0.004, 0.004),
        ("none", [off_by("none", 0.004)], 0.004, 0.004),
        ("none", [off_by("none", -0.012)], 0.012, 0.012),
        ("batch", [off_by("batch", 0.1, last=7_999)], 0.0, 0.1 * 8 / 70),  # the first 8 of 70 points
        ("none", [off_by("none", 0.1, last=11_999)], 0.0, 0.1 * 17 / 79),
        ("batch", [off_by("batch", 0.1, 8_039, 8_039)], 0.1, 0.1 / 70),  # the first point that counts
        ("none", [off_by("none", 0.1, 12_055, 12_055)], 0.1, 0.1 / 79),
        ("none", [off_by("none", 0.1, 11_581, 11_581)], 0.0, 0.1 / 79),  # the last that does not
        ("batch", [off_by("batch", 0.1, 49_051)], 0.1, 0.1 / 70),
        ("batch", [off_by("batch", d) for d in (0.03, -0.02, 0.001)], 0.001, 0.001),  # the median, not the mean
        ("batch", [off_by("batch", d) for d in (0.004, 0.002)], 0.003, 0.003),
    ],
)
def test_the_distance_from_the_paper_is_known(norm: str, curves: list[Curve], largest: float, mean: float) -> None:
    table = figure1.score(results_of(*(a_run(norm, curve, seed=seed) for seed, curve in enumerate(curves))))
    assert table.index.tolist() == [(norm, "std 0.1", 0.1)]
    assert table["largest"].tolist() == pytest.approx([largest], abs=1e-9)
    assert table["mean"].tolist() == pytest.approx([mean], abs=5e-5)  # rounded to four digits


def test_our_curve_is_interpolated_at_the_steps_of_the_paper() -> None:
    table = figure1.score(results_of(a_run("batch", {0: 0.9, 50_000: 1.0})))
    differences = {step: abs(value - (0.9 + step / 500_000)) for step, value in PRINTED["batch"].items()}
    assert table["largest"].item() == pytest.approx(max(d for s, d in differences.items() if s >= 8_000), abs=5e-5)
    assert table["mean"].item() == pytest.approx(np.mean(list(differences.values())), abs=5e-5)


PAPER = off_by("batch", 0.0)
TO_44_000 = {step: value for step, value in PAPER.items() if step <= 44_000}


@pytest.mark.parametrize(
    "runs",
    [
        pytest.param([a_run("batch", PAPER, dataset="digits")], id="digits"),
        pytest.param([a_run("batch", PAPER, dataset="fashion_mnist")], id="fashion"),
        pytest.param([a_run("batch", TO_44_000)], id="ends before the paper's curve"),
        pytest.param([a_run("mine.Shift", PAPER)], id="a norm of their own"),
        pytest.param([a_run("batch", TO_44_000, test_accuracy=math.nan, diverged_at=44_100)], id="diverged"),
        pytest.param(
            [a_run("batch", PAPER), a_run("batch", {0: 0.1}, seed=1, test_accuracy=math.nan, diverged_at=7)],
            id="a seed diverged",
        ),
    ],
)
def test_there_is_no_distance_where_nothing_can_be_compared(runs: list[dict[str, Any]]) -> None:
    table = figure1.score(results_of(*runs))
    assert table[["largest", "mean"]].isna().all(axis=None)
    assert len(table) == 1


def test_accuracy_is_the_median_over_seeds_and_a_diverged_run_counts_as_0() -> None:
    finals = [0.97, 0.95, math.nan, 0.96, 0.9]
    runs = [
        a_run("none", {0: 0.1}, seed=seed, test_accuracy=final, diverged_at=5.0 if math.isnan(final) else math.nan)
        for seed, final in enumerate(finals)
    ]
    (row,) = figure1.score(results_of(*runs)).to_dict("records")
    del row["largest"], row["mean"]
    assert row == {"final accuracy": 0.95, "lowest": 0.0, "highest": 0.97, "seeds": 5, "diverged": 1}


def at(std: float | None, lr: float) -> dict[str, Any]:
    return {"std": math.nan, "scheme": "xavier", "lr": lr} if std is None else {"std": std, "lr": lr}


def test_rows_are_sorted_by_arm_and_distance_and_those_without_one_by_accuracy() -> None:
    runs = [
        a_run("mine.Shift", PAPER),
        a_run("batch", off_by("batch", 0.006), **at(0.01, 1)),
        a_run("batch", off_by("batch", -0.002), **at(0.03, 1)),
        a_run("none", TO_44_000, **at(0.01, 1), test_accuracy=0.4),
        a_run("none", TO_44_000, **at(0.03, 1), test_accuracy=0.9),
        a_run("none", TO_44_000, **at(0.05, 1), test_accuracy=math.nan, diverged_at=44_100),
        a_run("none", off_by("none", 0.3), **at(None, 3)),
        a_run("none", off_by("none", 0.01), **at(None, 0.1)),
        a_run("none", off_by("none", 0.01, last=20_000), **at(0.1, 0.1)),  # a tie but for the mean
    ]
    expected = [
        ("none", "std 0.1", 0.1),
        ("none", "xavier", 0.1),
        ("none", "xavier", 3),
        ("none", "std 0.03", 1),
        ("none", "std 0.01", 1),
        ("none", "std 0.05", 1),
        ("batch", "std 0.03", 1),
        ("batch", "std 0.01", 1),
        ("mine.Shift", "std 0.1", 0.1),
    ]
    for order in (1, -1):
        table = figure1.score(results_of(*runs[::order]))
        assert table.index.tolist() == expected
        assert figure1.nearest(table) == {
            "none": ("std 0.1", 0.1),
            "batch": ("std 0.03", 1),
            "mine.Shift": ("std 0.1", 0.1),
        }


def both(none: float, batch: float, **setting: Any) -> list[dict[str, Any]]:
    return [a_run("none", off_by("none", none), **setting), a_run("batch", off_by("batch", batch), **setting)]


@pytest.mark.parametrize(
    ("runs", "common"),
    [
        ([*both(0.008, 0.003, **at(0.1, 1)), *both(0.002, 0.0045, **at(0.01, 3))], ("std 0.1", 1)),  # 0.8 against 0.9
        ([*both(0.009, 0.001, **at(0.1, 1)), *both(0.002, 0.004, **at(0.01, 3))], ("std 0.01", 3)),
        ([*both(0.05, 0.05, **at(None, 1)), a_run("none", off_by("none", 0), lr=3)], ("xavier", 1)),
        ([a_run("none", off_by("none", 0), lr=1), a_run("batch", PAPER, lr=3)], None),
        ([a_run("none", {0: 0.1, 9: a}, lr=lr) for lr, a in ((1, 0.6), (3, 0.9))], ("std 0.1", 3)),  # by accuracy
        (
            [
                a_run(norm, {0: 0.1, 9: a}, lr=lr)
                for norm, lr, a in (("none", 1, 0.8), ("batch", 1, 0.9), ("none", 3, 0.7), ("batch", 3, 0.99))
            ],
            ("std 0.1", 1),
        ),
    ],
)
def test_the_common_setting_is_the_best_for_the_worse_arm(
    runs: list[dict[str, Any]], common: tuple[str, float] | None
) -> None:
    assert figure1.nearest_common(figure1.score(results_of(*runs))) == common


FLAT = {unit: {0: 0.0, 10: 0.0} for unit in (1, 2)}


def test_runs_with_units_are_no_further_seed_and_no_further_setting() -> None:
    grid = [a_run("none", off_by("none", d), seed=seed) for seed, d in enumerate((0.001, 0.002))]
    again = a_run("none", off_by("none", 0.2), FLAT, measurements=200)
    elsewhere = a_run("batch", PAPER, FLAT, lr=5, measurements=200)
    table = figure1.score(results_of(*grid, again, elsewhere))
    pd.testing.assert_frame_equal(table, figure1.score(results_of(*grid)))
    assert table["seeds"].tolist() == [2]


def test_where_all_runs_have_units_each_setting_and_seed_counts_once() -> None:
    runs = [a_run("none", off_by("none", 0.001), FLAT, seed=seed) for seed in (0, 1)]
    again = a_run("none", off_by("none", 0.2), FLAT, measurements=200)
    table = figure1.score(results_of(*runs, again))
    assert table["seeds"].tolist() == [2]
    assert table["largest"].tolist() == [0.001]


DRIFTING = {
    1: {20: 3.0, 0: 0.0, 10: 2.0},  # |2| + |1| = 3; in the order of the rows 5
    2: {0: 5.0, 10: 5.0, 20: 4.0},  # 1, although far from 0
    3: {0: 0.0, 10: 1.0, 20: 0.0},  # 2, although it comes back
    4: {0: 0.0, 10: -2.0, 20: 0.0},  # 4
}


@pytest.mark.parametrize(
    ("units", "order", "typical"),
    [
        ((1, 2, 3, 4), [2, 3, 1, 4], 3),  # the lower of 3 and 1
        ((1, 3, 4), [3, 1, 4], 1),
        ((1, 4), [1, 4], 1),
        ((4,), [4], 4),
    ],
)
def test_the_typical_unit_is_that_of_median_drift(units: tuple[int, ...], order: list[int], typical: int) -> None:
    measured = {unit: DRIFTING[unit] for unit in units}
    figures = figure1.figures(
        results_of(*(a_run(norm, off_by(norm, 0), measured, measurements=200) for norm in ("none", "batch")))
    )
    ours = figures["figure1bc"].axes[0]
    assert f"unit {typical}\nstd 0.1, learning rate 0.1, seed 0" in ours.get_title()
    (median,) = ours.get_lines()
    assert dict(median.get_xydata().tolist()) == measured[typical]
    (panels,) = figures["units-batch"].axes
    numbers = [(*text.get_position(), text.get_text()) for text in panels.texts]
    assert [text for *_, text in numbers] == [str(unit) for unit in order]
    (frame,) = frames(panels)
    (place,) = ((x, y) for x, y, text in numbers if text == str(typical))
    assert frame.get_bbox().contains(*place)


def test_units_are_those_of_the_run_that_was_measured_most() -> None:
    seldom = a_run("none", off_by("none", 0), {1: {0: 0.0}}, seed=1)
    often = a_run("none", off_by("none", 0), {7: {0: 0.0}}, seed=2, measurements=200)
    for runs in ([seldom, often], [often, seldom]):
        (panels,) = figure1.figures(results_of(*runs))["units-none"].axes
        assert [text.get_text() for text in panels.texts] == ["7"]


# What the figures show


def frames(ax: Axes) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle) and not patch.get_fill()]


def lines_of(ax: Axes) -> list[dict[float, float]]:
    return [dict(np.asarray(line.get_xydata()).tolist()) for line in ax.get_lines()]


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_figure_1a_shows_the_nearest_settings_over_the_curves_of_the_paper() -> None:
    runs = [
        *both(0.001, 0.02, **at(0.1, 1)),
        *both(0.02, 0.001, **at(0.01, 3)),
        *both(0.004, 0.003, **at(None, 0.3)),
        a_run("batch", off_by("batch", 0.003), **at(0.01, 3), seed=1),
    ]
    figure = figure1.figures(results_of(*runs))["figure1a"]
    own, common = figure.axes
    assert own.get_title().splitlines()[1:] == [
        "without batch norm: std 0.1, learning rate 1, largest difference 0.0010",
        "with batch norm: std 0.01, learning rate 3, largest difference 0.0020",
    ]
    assert common.get_title().splitlines()[1:] == [
        "without batch norm: xavier, learning rate 0.3, largest difference 0.0040",
        "with batch norm: xavier, learning rate 0.3, largest difference 0.0030",
    ]
    shown = [PRINTED["none"], off_by("none", 0.001), PRINTED["batch"], off_by("batch", 0.002)]
    for drawn, expected in zip(lines_of(own), shown, strict=True):
        assert drawn == pytest.approx(expected)
    assert own.get_ylim() == (0.7, 1)
    assert [own.xaxis.get_major_formatter()(step) for step in (0, 500, 10_000, 50_000)] == ["0", "500", "10K", "50K"]
    assert legend_of(figure) == [
        "without batch norm",
        "with batch norm",
        "range over 2 seeds (line: median)",
        "Without BN (paper)",
        "With BN (paper)",
    ]


def test_on_digits_the_most_accurate_are_shown_without_the_paper() -> None:
    def curve(final: float) -> Curve:
        return {0: 0.1, 3_000: final}

    finals = {("none", 1): 0.9, ("none", 3): 0.93, ("batch", 1): 0.96, ("batch", 3): 0.92}
    runs = [a_run(norm, curve(a), lr=lr, dataset="digits", steps=3_000) for (norm, lr), a in finals.items()]
    figure = figure1.figures(results_of(*runs))["figure1a"]
    assert [lines_of(ax) for ax in figure.axes] == [[curve(0.93), curve(0.96)], [curve(0.93), curve(0.92)]]
    assert figure.axes[0].get_title().splitlines() == [
        "each arm where it is most accurate",
        "without batch norm: std 0.1, learning rate 3",
        "with batch norm: std 0.1, learning rate 1",
    ]
    assert figure.axes[0].get_ylim() == (0, 1)
    assert legend_of(figure) == ["without batch norm", "with batch norm"]


def test_settings_are_a_grid_with_distances_and_frames_and_diverged_runs_are_marked() -> None:
    runs = [
        a_run("none", off_by("none", 0.02), **at(0.1, 1)),
        a_run("none", off_by("none", 0.0123, first=20_000), **at(None, 3)),
        a_run("none", {0: 0.1, 50_000: 0.11}, **at(0.1, 3)),
        a_run("none", {0: 0.1}, **at(0.1, 3), seed=1, test_accuracy=math.nan, diverged_at=20_000),
        a_run("batch", off_by("batch", 0.004), **at(None, 3)),
        a_run("batch", off_by("batch", 0.3), **at(0.01, 3), test_accuracy=0.3),
    ]
    figure = figure1.figures(results_of(*runs))["settings"]
    panels = np.array(figure.axes).reshape(3, 2)
    assert [ax.get_ylabel().splitlines()[0] for ax in panels[:, 0]] == [
        "initialization std 0.01", "initialization std 0.1", "initialization xavier"
    ]  # fmt: skip
    assert [ax.get_title() for ax in panels[0]] == ["learning rate 1", "learning rate 3"]
    notes = [[[(t.get_text(), t.get_color()) for t in ax.texts] for ax in row] for row in panels]
    none, batch = (NORMS[norm]["color"] for norm in ("none", "batch"))
    assert notes == [
        [[], [("0.300, ends at 0.30", batch)]],
        [[("0.020", none)], [("1 of 2 diverged", none)]],
        [[], [("0.012", none), ("0.004", batch)]],
    ]
    framed = {(r, c): {f.get_linestyle() for f in frames(ax)} for (r, c), ax in np.ndenumerate(panels) if frames(ax)}
    assert framed == {(2, 1): {"--", "-"}}  # both arms
    crosses = [line for ax in figure.axes for line in ax.get_lines() if line.get_marker() == "x"]
    assert [(cross.axes, cross.get_xdata()[0], cross.get_color()) for cross in crosses] == [
        (panels[1, 1], 20_000, none)
    ]
    assert "diverged" in legend_of(figure)


def test_figure_1bc_stands_over_the_paper_on_one_scale() -> None:
    wide = {1: {0: 0.0, 50_000: 30.0}}
    figure = figure1.figures(
        results_of(a_run("none", off_by("none", 0), wide), a_run("batch", off_by("batch", 0), FLAT, seed=4))
    )["figure1bc"]
    assert {ax.get_ylim() for ax in figure.axes} == {figure.axes[0].get_ylim()}
    assert figure.axes[0].get_ylim()[1] > 30
    assert "with batch norm: unit 1\nstd 0.1, learning rate 0.1, seed 4" in figure.axes[1].get_title()
    paper = pd.read_csv(EXPERIMENTS / "paper" / "figure1bc.csv", comment="#").set_index("fraction_of_training")
    for ax, series in zip(figure.axes[2:], ("without_bn", "with_bn"), strict=True):
        of_paper = paper.loc[(paper["percentile"] == 50) & (paper["series"] == series), "sigmoid_input"].to_dict()
        (median,) = lines_of(ax)
        assert len(median) >= 197  # of 200: where a percentile could not be read, nothing is drawn
        assert median.items() <= of_paper.items()


# A small sweep, stored


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The sweep itself, on digits and small, with a rate at which all runs diverge."""
    small = ["model.hidden=[6,5]", "train.steps=40", "sweep.grid.train.measurements=[4]", "sweep.grid.seed=[0,1]"]
    rates = ["sweep.grid.optimizer.lr=[0.1,1,1e6]"]
    few = ["sweep.grid.model.init=[{scheme: normal, std: 0.1}, {scheme: xavier, std: null}]"]
    composed = Settings.parse(compose(["+sweep=figure1", *small, *rates, *few]))
    store = Store(tmp_path_factory.mktemp("sweep"), create=True)
    runs = expand(composed.run, *composed.grids)
    run_all(runs, store, Inline(group_size=None), Progress(len(runs)))
    return store.load()


PARTS = {
    "all": "lr > 0",
    "one seed": "seed == 0",
    "one norm": "norm == 'batch'",
    "one rate": "lr == 1",
    "one initialization": "`model.init.scheme` == 'xavier'",
    "one run": "lr == 1 and norm == 'none' and seed == 0 and `model.init.scheme` == 'xavier'",
    "only diverged": "lr == 1e6",
    "an arm diverged": "lr == 1e6 and norm == 'none' or lr == 1 and norm == 'batch'",
    "nothing in common": "lr == 1 and norm == 'none' or lr == 0.1 and norm == 'batch'",
    "only with units": "`train.measurements` == 200",
    "units of one arm": "`train.measurements` < 200 or norm == 'none'",
}


def test_the_small_sweep_diverges_and_has_units(trained: Results) -> None:
    table = figure1.score(trained)
    assert len(table) == 2 * 2 * 3
    assert set(table["seeds"]) == {2}
    assert (table["diverged"] == np.where(table.index.get_level_values("lr") == 1e6, 2, 0)).all()
    assert table[["largest", "mean"]].isna().all(axis=None)
    assert trained.units.groupby("norm")["step"].nunique().to_dict() == {"none": 41, "batch": 41}


@pytest.mark.parametrize("part", PARTS)
def test_any_part_of_the_sweep_can_be_shown(trained: Results, part: str) -> None:
    """Without a warning, which would be an error here."""
    results = part_of(trained, PARTS[part])
    before = [table.copy() for table in dataframes(results)]
    with look():
        figures = figure1.figures(results)
        for figure in figures.values():
            figure.draw_without_rendering()
            assert figure.legends
    measured = set(results.runs.loc[results.runs["run_id"].isin(results.units["run_id"]), "norm"])
    with_units = [f"units-{norm}" for norm in ("none", "batch") if norm in measured]
    assert [*figures] == ["figure1a", "settings", *(["figure1bc"] if len(with_units) == 2 else []), *with_units]
    assert {norm for norm, *_ in figure1.score(results).index} == set(results.runs["norm"])
    for table, old in zip(dataframes(results), before, strict=True):
        pd.testing.assert_frame_equal(table, old)


@pytest.mark.parametrize("part", ["one rate", "only with units"])
def test_figures_and_score_come_out_the_same_from_what_is_kept(trained: Results, part: str) -> None:
    results = part_of(trained, PARTS[part])
    kept = figure1.drawn_from(results)
    pd.testing.assert_frame_equal(figure1.score(results), figure1.score(kept))
    with look():
        figures, again = figure1.figures(results), figure1.figures(kept)
        assert {name: pixels(figure) for name, figure in figures.items()} == {
            name: pixels(figure) for name, figure in again.items()
        }


def pixels(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="rgba", dpi=40)
    return file.getvalue()


def test_of_the_results_no_more_is_kept_than_is_drawn(trained: Results) -> None:
    kept = figure1.drawn_from(trained)
    assert {*kept.runs} == {
        "run_id",
        "dataset",
        "norm",
        "lr",
        "seed",
        "steps",
        "test_accuracy",
        "diverged_at",
        "model.init.scheme",
        "model.init.std",
        "train.measurements",
    }
    assert [*kept.table("curves")] == ["run_id", "step", "test_accuracy"]
    assert [*kept.table("units")] == ["run_id", "step", "unit", "p15", "p50", "p85"]
    assert kept.layers.empty
    assert len(kept.runs) == len(trained.runs)
    assert set(kept.units["run_id"]).isdisjoint(kept.curves["run_id"])
    assert set(kept.units["run_id"]) | set(kept.curves["run_id"]) == set(trained.runs["run_id"])
