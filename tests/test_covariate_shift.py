"""Both measures of internal covariate shift: tables and verdicts worked by hand, and what is drawn of odd results."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import findings_of
from matplotlib.figure import Figure

from bnrepro.analysis import estimate, judge, rows
from bnrepro.experiment import import_experiment
from bnrepro.figures import look
from bnrepro.store import Results
from bnrepro.training import Schedule

nan, inf = math.nan, math.inf
DRIFT, NORM, RELATIVE, COSINE = "drift", "‖G − G'‖", "‖G − G'‖ / ‖G‖", "cos(G, G')"
PROBE = "train.probe_examples"
found = import_experiment("covariate_shift")
assert found
EXPERIMENT = found

# Results by hand: 30 steps, measured at intervals of 5 that are even from step 10 on: one third has 10, the others 15
# and 20, and 25 and 30

MEASURED_STEPS = (0, 5, 10, 15, 20, 25, 30)
ABSURD = 1e6
"""A value that no mean may take in."""


def a_run(run_id: str, **columns: Any) -> dict[str, Any]:
    run: dict[str, Any] = {"run_id": run_id, "activation": "sigmoid", "norm": "none", "lr": 0.1, "seed": 0, "steps": 30}
    run |= {"train.measurements": 6, PROBE: 120, "test_accuracy": 0.95, "diverged_at": nan} | columns
    return run | {"status": "done" if math.isnan(run["diverged_at"]) else "diverged"}


def layer(run_id: str, number: int, **even: Sequence[float] | float) -> list[dict[str, Any]]:
    """Rows of table ``layers``: of each column one value for all even steps, or five, and absurd ones before."""
    columns = {name: [ABSURD, ABSURD, *np.broadcast_to(values, 5).tolist()] for name, values in even.items()}
    rows = zip(MEASURED_STEPS, *columns.values(), strict=True)
    return [{"run_id": run_id, "layer": number, **dict(zip(["step", *columns], row, strict=True))} for row in rows]


def results_of(runs: Sequence[dict[str, Any]], layers: Sequence[dict[str, Any]]) -> Results:
    needed = [column.removeprefix("layer.") for column in EXPERIMENT.needs]
    frame = pd.DataFrame(layers)
    frame = frame.reindex(columns=[*frame, *(name for name in needed if name not in frame)])
    curves = frame[["run_id", "step"]].drop_duplicates(ignore_index=True)
    return Results(pd.DataFrame(runs), curves, frame, units=pd.DataFrame())


def with_shift(drift: dict[tuple[str, int], float], gradient: float = 1.0, **columns: Any) -> Results:
    """Runs by norm and seed: their drift, and a shift of the gradients that is ``gradient`` with batch norm, else 1."""
    runs = [a_run(f"{norm}{seed}{columns}", norm=norm, seed=seed, **columns) for norm, seed in drift]
    layers = []
    for run, value in zip(runs, drift.values(), strict=True):
        shift = 1.0 if run["norm"] == "none" else gradient
        layers += layer(run["run_id"], 2, drift_wasserstein=value, shift_norm=shift, gradient_norm=1.0)
    return results_of(runs, layers)


def together(*parts: Results) -> Results:
    runs, curves, layers = (
        pd.concat([getattr(part, name) for part in parts], ignore_index=True) for name in ("runs", "curves", "layers")
    )
    return Results(runs, curves, layers, units=pd.DataFrame())


def both(plain: Sequence[float], other: Sequence[float]) -> dict[tuple[str, int], float]:
    return {("none", i): v for i, v in enumerate(plain)} | {("batch", i): v for i, v in enumerate(other)}


def values(table: pd.DataFrame, *key: Any) -> dict[Any, float]:
    return {quantity: float(value) for quantity, value in rows(table, *key)["value"].items()}


# Tables


def test_means_are_over_layers_and_even_steps_and_leave_out_what_nothing_precedes() -> None:
    layers = [
        *layer("a", 1, drift_wasserstein=[1, 2, 3, 4, 5], shift_norm=0.0, shift_cosine=1.0, gradient_norm=1.0),
        *layer(
            "a",
            2,
            drift_wasserstein=[3, 4, 5, 6, 7],
            shift_norm=[1, 2, 3, 4, 5],
            shift_cosine=[0.5, 0.5, 0.5, 0.7, 0.8],
            gradient_norm=[2, 2, 2, 2, 0],
        ),
        *layer("a", 3, shift_norm=[3, 4, 5, 6, 7], shift_cosine=[0.7, 0.7, 0.7, 0.9, 1.0]),  # the logits
    ]
    results = results_of([a_run("a")], layers)
    results.curves["landscape_smoothness"] = [ABSURD, ABSURD, 1.0, 2.0, 3.0, 4.0, 10.0]
    assert values(EXPERIMENT.analyse(results)["score"], "sigmoid", "none", 0.1, 120) == pytest.approx(
        {
            "accuracy": 0.95,
            "diverged": 0,
            DRIFT: 4,  # of 2, 3, 4, 5, 6
            NORM: 4,  # of 1, 3; 2, 4; …
            RELATIVE: 1.25,  # of 1/2, 2/2, 3/2, 4/2; undefined at the last step
            COSINE: 0.7,
            "smoothness": 4,
        }
    )


def test_rows_are_means_over_seeds_and_of_diverged_runs_there_is_no_measure() -> None:
    runs = [a_run(f"{seed}", seed=seed, test_accuracy=0.9 + seed / 100) for seed in range(3)]
    runs += [a_run("x", seed=3, test_accuracy=nan, diverged_at=17.0)]
    layers = [r for run in runs for r in layer(run["run_id"], 1, drift_wasserstein=run["seed"] ** 2)]
    score = EXPERIMENT.analyse(results_of(runs, layers))["score"]
    assert values(score, "sigmoid", "none", 0.1, 120) == pytest.approx(
        {"accuracy": (0.90 + 0.91 + 0.92) / 4, "diverged": 1 / 4, DRIFT: 5 / 3}
    )
    assert score["n"].tolist() == [4, 4, 3]


@pytest.mark.parametrize(
    ("steps", "measurements", "thirds"),
    [
        (30, 6, {"early": (10, 10), "middle": (15, 20), "late": (25, 30)}),
        (32, 6, {"early": (10, 10), "middle": (15, 20), "late": (25, 30)}),  # and 32, after 2 steps
        (50_000, 100, {"early": (1000, 16_500), "middle": (17_000, 33_000), "late": (33_500, 50_000)}),
        (3, 100, {"middle": (2, 2), "late": (3, 3)}),
        (30, 1, {}),
    ],
)
def test_thirds_are_of_steps_and_have_the_measurements_that_end_even_intervals(
    steps: int, measurements: int, thirds: dict[str, tuple[int, int]]
) -> None:
    measured = Schedule(steps, 60, measurements, 120, 1000).measured_steps
    layers = [{"run_id": "a", "layer": 1, "step": step, "drift_wasserstein": 1.0} for step in measured]
    run = a_run("a", steps=steps, **{"train.measurements": measurements})
    table = EXPERIMENT.analyse(results_of([run], layers))["thirds"]
    assert {row.Index: (row.low, row.high) for row in table.itertuples()} == thirds


def ratio(results: Results, window: str = "whole", measure: str = DRIFT, probe: int = 120) -> float:
    table = EXPERIMENT.analyse(results)["compared"]
    return estimate(table, "sigmoid", "batch", 0.1, probe, window, f"ratio of {measure}").value


def test_each_third_has_its_own_ratio() -> None:
    shift = {"none": [1.0, 1, 1, 1, 1], "batch": [0.1, 0.5, 0.5, 4, 6]}
    layers = [
        row
        for norm, values in shift.items()
        for row in layer(norm, 2, drift_wasserstein=values, shift_norm=values, gradient_norm=0.5)
    ]
    results = results_of([a_run(norm, norm=norm) for norm in shift], layers)
    for measure in (DRIFT, NORM, RELATIVE):
        found = {window: ratio(results, window, measure) for window in ("whole", "early", "middle", "late")}
        assert found == pytest.approx({"whole": 11.1 / 5, "early": 0.1, "middle": 0.5, "late": 5})


@pytest.mark.parametrize(
    ("plain", "other", "expected"),
    [
        ([2.0], [1.0], 0.5),
        ([1.0, 1.0], [8.0, 2.0], 4),
        ([8.0, 4.0, 2.0], [8.0, 4.0, 2.0], 1),  # paired by seed
        ([1.0, 1.0, 0.0], [1.0, 4.0, 1.0], 2),  # no ratio to 0,
        ([1.0, 1.0, 1.0], [1.0, 4.0, inf], 2),  # nor of what is not finite,
        ([1.0, 1.0, nan], [1.0, 4.0, 3.0], 2),  # nor of what is not measured
        ([1.0], [0.0], nan),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_ratios_are_geometric_means_over_pairs_of_one_seed(
    plain: list[float], other: list[float], expected: float, order: int
) -> None:
    drift = dict(list(both(plain, other).items())[::order])
    assert ratio(with_shift(drift)) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("changes", "compared"),
    [
        ({}, True),
        ({"test_accuracy": 0.9}, True),
        ({"test_accuracy": 0.89}, False),  # one seed of one arm that is not trained is enough
        ({"test_accuracy": nan, "diverged_at": 7.0, "status": "diverged"}, False),
    ],
)
@pytest.mark.parametrize("changed", range(4))
def test_only_networks_that_are_all_trained_are_compared(changes: dict[str, Any], compared: bool, changed: int) -> None:
    results = with_shift(both([1.0, 1.0], [1.0, 1.0]))
    results.runs.loc[changed, [*changes]] = [*changes.values()]
    assert (ratio(results) == 1) == compared


def test_there_is_a_ratio_to_the_plain_network_of_the_same_rate_only() -> None:
    results = with_shift({("none", 0): 4.0, ("mine.Shift", 0): 2.0, ("batch", 0): 1.0})
    assert (
        values(EXPERIMENT.analyse(results)["compared"], "sigmoid", "mine.Shift", 0.1, 120, "whole")["ratio of drift"]
        == 0.5
    )
    results.runs.loc[0, "lr"] = 0.2
    assert EXPERIMENT.analyse(results)["compared"].empty


def test_singular_values_are_those_after_training() -> None:
    jacobian: dict[str, Any] = {
        "jacobian_min": [9, 9, 9, 9, 0.1],
        "jacobian_median": [9, 9, 9, 9, 0.5],
        "jacobian_max": 2.0,
    }
    second = {"jacobian_min": 0.3, "jacobian_median": 0.9, "jacobian_max": 4.0}
    layers = [*layer("a", 1, **jacobian), *layer("a", 2, **second), *layer("a", 3, drift_wasserstein=1.0)]
    runs = [a_run("a"), a_run("x", seed=1, diverged_at=30.0), a_run("b", norm="batch")]
    layers += [*layer("x", 1, **second), *layer("b", 1, drift_wasserstein=1.0)]
    table = EXPERIMENT.analyse(results_of(runs, layers))["singular_values"]
    assert table["value"].to_dict() == pytest.approx(
        {("sigmoid", "none", 0.1, 120, name): v for name, v in (("smallest", 0.2), ("median", 0.7), ("largest", 3))}
    )


@pytest.mark.parametrize(
    ("accuracies", "best"),
    [
        ({(0.1, 0): 0.9, (1.0, 0): 0.8}, 0.1),
        ({(0.1, 0): 0.9, (1.0, 0): 0.9}, 1.0),  # the largest of equals
        ({(0.1, 0): 0.5, (0.1, 1): 0.5, (1.0, 0): 0.9, (1.0, 1): nan}, 0.1),  # a diverged run has an accuracy of 0
    ],
)
def test_an_arm_is_drawn_at_its_most_accurate_rate(accuracies: dict[tuple[float, int], float], best: float) -> None:
    runs = [
        a_run(
            f"{lr}-{seed}", lr=lr, seed=seed, test_accuracy=accuracy, diverged_at=40.0 if accuracy != accuracy else nan
        )
        for (lr, seed), accuracy in accuracies.items()
    ]
    measured = {"jacobian_median": 0.5, "p15": -1.0, "p50": 0.0, "p85": 2.0}
    layers = [row for run in runs for row in layer(run["run_id"], 1, **measured)]
    tables = EXPERIMENT.analyse(results_of(runs, layers))
    for name in ("jacobian", "percentiles"):
        assert tables[name].index.unique("lr").tolist() == [best]
    band = estimate(tables["percentiles"], "sigmoid", "none", best, 120, 1, 30)
    assert (band.low, band.value, band.high) == (-1, 0, 2)


# Verdict

THRICE = [1.0, 1.1, 1.2]
WINDOWS = ("whole", "early", "middle", "late")
CLAIMS = ["2.2", "+gradient_shift"]


@pytest.mark.parametrize(
    ("drift", "gradient", "answer"),
    [
        (0.5, 2.0, "reproduces"),
        (1.0, 1.0, "reproduces"),
        (0.5, 0.5, "reproduces in part"),
        (2.0, 2.0, "reproduces in part"),
        (2.0, 0.5, "does not reproduce"),
    ],
)
def test_the_verdict_is_that_inputs_drift_less_and_gradients_change_no_less(
    drift: float, gradient: float, answer: str
) -> None:
    results = with_shift(both(THRICE, [drift * x for x in THRICE]), gradient)
    findings = findings_of(EXPERIMENT, EXPERIMENT.analyse(results), *CLAIMS)
    assert [finding.of for finding in findings] == [
        f"sigmoid, rate 0.1, probe of 120, {window}: ratio of {measure}"
        for measure in (DRIFT, RELATIVE)
        for window in WINDOWS
    ]
    assert [finding.estimate.value for finding in findings] == pytest.approx([drift] * 4 + [gradient] * 4)
    assert judge(findings) == answer


def test_a_verdict_is_of_every_size_of_the_probe_and_of_every_phase() -> None:
    small, large = (
        with_shift(both(THRICE, [k * x for x in THRICE]), k, **{PROBE: p}) for p, k in ((60, 2), (1000, 0.5))
    )
    tables = EXPERIMENT.analyse(together(large, small))
    for claim, first in (("2.2", False), ("+gradient_shift", True)):
        findings = findings_of(EXPERIMENT, tables, claim)
        assert [finding.holds for finding in findings] == [first, not first] * 4
        assert [finding.of.split(", ")[2:][0] for finding in findings[:2]] == ["probe of 60", "probe of 1000"]
        assert judge(findings) == "reproduces in part"
    assert [ratio(together(large, small), probe=probe) for probe in (60, 1000)] == pytest.approx([2, 0.5])


def test_on_mini_batches_there_are_ratios_of_their_own_and_the_critics_are_held_against_them_first() -> None:
    shift = {"none": 1.0, "batch": 3.0}
    layers = [
        row
        for norm, value in shift.items()
        for number, logits in ((2, {}), (3, {"gradient_norm": nan}))
        for row in layer(
            norm,
            number,
            **{"shift_norm": 1.0, "gradient_norm": 1.0} | logits,
            minibatch_shift_norm=value if number == 2 else 5 * value,
            minibatch_gradient_norm=[2.0, 2.0, 2.0, 2.0, 0.0] if norm == "batch" else 4.0,
        )
    ]
    results = results_of([a_run(norm, norm=norm) for norm in shift], layers)
    assert ratio(results, measure=f"{NORM} on mini-batches") == pytest.approx(3)  # of 6 and 18
    assert ratio(results, measure=f"{RELATIVE} on mini-batches") == pytest.approx(6)  # of the second layer, 1/4 and 3/2
    findings = findings_of(EXPERIMENT, EXPERIMENT.analyse(results), "+gradient_shift")
    assert findings[0].of == "sigmoid, rate 0.1, whole: ratio of ‖G − G'‖ on mini-batches"
    assert len(findings) == 8


def test_drift_above_the_floor_is_what_two_samples_of_the_probe_do_not_explain() -> None:
    # √(5² − 4²) = 3 and √(13² − 12²) = 5; and 0 where the floor is higher.
    floor, root = math.sqrt(2), [5.0, 5.0, 13.0, 13.0, 1.0]
    columns = {"drift_wasserstein": root, "drift_floor": [4 * floor, 4 * floor, 12 * floor, 12 * floor, 4 * floor]}
    layers = [*layer("none", 1, **columns), *layer("batch", 1, drift_wasserstein=root, drift_floor=0.0)]
    results = results_of([a_run(norm, norm=norm) for norm in ("none", "batch")], layers)
    score = EXPERIMENT.analyse(results)["score"]
    assert values(score, "sigmoid", "none", 0.1, 120)["drift above the floor"] == pytest.approx((3 + 3 + 5 + 5 + 0) / 5)
    assert ratio(results, measure="drift above the floor") == pytest.approx(37 / 16)
    for below, expected in ((["batch"], 0), (["none"], inf), (["none", "batch"], nan)):
        found = [row | ({"drift_floor": ABSURD} if row["run_id"] in below else {}) for row in layers]
        results = results_of([a_run(norm, norm=norm) for norm in ("none", "batch")], found)
        assert ratio(results, measure="drift above the floor") == pytest.approx(expected, nan_ok=True)
        draw(results)["shift"].draw_without_rendering()


@pytest.mark.parametrize(
    "results",
    [
        with_shift({("none", 0): 1.0}),
        with_shift(
            {("mine.Shift" if norm == "batch" else norm, i): x for (norm, i), x in both(THRICE, THRICE).items()}
        ),
        with_shift(both(THRICE, THRICE), test_accuracy=0.5),
        with_shift(both([1.0], [2.0])),  # one pair has no interval
        with_shift(both(THRICE, [5.0, 1.0, 0.2]), nan),  # whose interval is on both sides of 1
    ],
)
def test_some_runs_tell_nothing(results: Results) -> None:
    assert judge(findings_of(EXPERIMENT, EXPERIMENT.analyse(results), *CLAIMS)) == "can't be told from these runs"


@pytest.mark.parametrize(("median", "holds"), [([0.9, 0.92, 0.91], True), ([0.3, 0.31, 0.3], False), ([0.9], None)])
def test_the_conjecture_is_of_the_median_singular_value_where_both_train(
    median: list[float], holds: bool | None
) -> None:
    runs, layers = [], []
    for seed, value in enumerate(median):
        for norm, of_norm in (("none", 1.0), ("batch", value)):
            runs.append(a_run(f"{norm}{seed}", norm=norm, seed=seed))
            layers += layer(f"{norm}{seed}", 2, jacobian_median=of_norm, drift_wasserstein=1.0)
    runs.append(a_run("alone", norm="batch", lr=1.6))  # no plain network of its rate
    layers += layer("alone", 2, jacobian_median=1.0, drift_wasserstein=1.0)
    (finding,) = findings_of(EXPERIMENT, EXPERIMENT.analyse(results_of(runs, layers)), "3.3f")
    assert finding.of == "sigmoid, rate 0.1, probe of 120: median singular value"
    assert finding.holds is holds


# Figures


def draw(results: Results) -> dict[str, Figure]:
    with look():
        return EXPERIMENT.draw(EXPERIMENT.analyse(results))


def test_figures_are_of_what_was_measured() -> None:
    measured = {"drift_wasserstein": 1.0, "jacobian_median": 0.5, "p15": -1.0, "p50": 0.0, "p85": 2.0}
    arms = [("relu", "batch"), ("sigmoid", "batch"), ("sigmoid", "none")]
    runs = [a_run(f"{a}{n}{lr}", activation=a, norm=n, lr=lr) for a, n in arms for lr in (0.1, 1.0)]
    runs.append(a_run("x", activation="relu", norm="batch", lr=1.0, seed=1, test_accuracy=nan, diverged_at=17.0))
    results = results_of(runs, [row for run in runs for row in layer(run["run_id"], 1, **measured)])
    figures = draw(results)
    assert [*figures] == [
        *("shift", "shift-over-steps-sigmoid", "shift-over-steps-relu"),
        *("jacobian", "percentiles-sigmoid", "percentiles-relu"),
    ]
    titles = {name: [title for ax in figure.axes if (title := ax.get_title())] for name, figure in figures.items()}
    assert titles["shift"] == ["drift (paper)"]
    assert titles["shift-over-steps-relu"] == ["ReLU, rate 0.1", "ReLU, rate 1"]
    assert titles["jacobian"] == [
        "sigmoid, rate 1 without batch norm, 1 with batch norm",
        "ReLU, rate 0.1 with batch norm",
    ]
    assert titles["percentiles-relu"] == ["layer 1, with batch norm, rate 0.1"]
    (ax,) = figures["percentiles-relu"].axes
    band = np.concatenate([path.vertices for collection in ax.collections for path in collection.get_paths()])
    assert {-1, 2} <= set(band[:, 1])  # of one seed too
    crosses = {
        name: [
            (ax.get_title(), *np.asarray(line.get_xdata()))
            for ax in figure.axes
            for line in ax.lines
            if line.get_marker() == "x"
        ]
        for name, figure in figures.items()
    }
    assert crosses["shift-over-steps-relu"][0] == ("ReLU, rate 1", 17)
    legends = {name: [text.get_text() for text in figure.legends[0].get_texts()] for name, figure in figures.items()}
    for name, drawn in crosses.items():
        assert ("diverged" in legends[name]) == bool(drawn) == (name == "shift-over-steps-relu")


def test_a_ratio_is_a_number_on_the_ground_of_its_side_of_one() -> None:
    sizes = {60: (THRICE, [0.4 * x for x in THRICE]), 1000: (THRICE, [11.0, 12.1, 13.2]), 4000: (THRICE, [0.5, 1, 4])}
    parts = [with_shift(both(*drift), **{PROBE: probe}) for probe, drift in sizes.items()]
    ax, *_ = draw(together(*parts))["shift"].axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["60", "1,000", "4,000"]
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"{window}, 0.1" for window in WINDOWS]
    texts = {text.get_position(): text for text in ax.texts}
    assert [texts[column, 0].get_text() for column in range(3)] == ["0.4", "11", "1.1"]
    assert [texts[column, 3].get_fontweight() for column in range(3)] == ["normal", "bold", "bold"]
    (image,) = ax.images
    ground: Any = image.get_array()
    np.testing.assert_allclose(ground.filled(nan), [[math.log(0.4), math.log(11), nan]] * 4)


def test_figures_over_steps_are_of_the_probe_with_which_most_was_measured() -> None:
    few, many = ({"drift_wasserstein": 1.0}, {"drift_wasserstein": 1.0, "jacobian_median": 0.5})
    for measured, told in (({60: few, 120: many, 1000: few}, 120), ({1000: few, 60: few}, 60)):
        runs = [a_run(f"{probe}", **{PROBE: probe}) for probe in measured]
        results = results_of(runs, [r for probe, columns in measured.items() for r in layer(f"{probe}", 1, **columns)])
        assert EXPERIMENT.analyse(results)["shift"].index.unique(PROBE).tolist() == [told]
        title = draw(results)["shift-over-steps-sigmoid"].legends[0].get_title().get_text()
        assert title.split() == f"measured on a probe of {told} training examples".split()


@pytest.mark.parametrize(
    "results",
    [
        with_shift(both([0.0], [0.0]), 0.0),  # nothing moves, of which there is no logarithm
        with_shift(both([1.0, inf, 0.0], [2.0, 2.0, 2.0]), inf),
        with_shift({("none", 0): nan}, test_accuracy=nan, diverged_at=40.0),
    ],
)
def test_what_is_0_or_infinite_or_not_measured_can_be_drawn(results: Results) -> None:
    for figure in draw(results).values():
        figure.draw_without_rendering()
