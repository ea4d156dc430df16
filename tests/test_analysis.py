"""Numbers of experiments: nothing pooled, nothing lost, and intervals that cover."""

import math
from typing import Any

import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from made_up import made_up
from matplotlib.figure import Figure
from runs import settings

from bnrepro import analysis, figures
from bnrepro.analysis import NOTHING, Estimate
from bnrepro.config import RunConfig
from bnrepro.errors import InputError
from bnrepro.store import Results
from bnrepro.sweeping import expand

nan, inf = math.nan, math.inf

# Facets and cells

AXES: dict[str, list[Any]] = {
    "model.activation": ["sigmoid", "relu", "tanh"],
    "model.norm": ["none", "batch"],
    "model.hidden": [[8], [8, 8]],
    "model.dropout": [0.0, 0.5],
    "model.init": [{"scheme": "normal", "std": 0.1}, {"scheme": "xavier", "std": None}],
    "optimizer.lr": [0.1, 0.2, 0.4],
    "train.batch_size": [30, 60],
    "train.dtype": ["float32", "float64"],
    "dataset.binarize": [True, False],
    "diagnostics": [["units"], []],
    "seed": [0, 1, 2],
}
"""Settings of every kind, and values of them."""


def grid_of(axes: dict[str, list[Any]]) -> list[RunConfig]:
    grid: dict[str, Any] = {}
    for key, values in axes.items():
        group, _, name = key.rpartition(".")
        (grid.setdefault(group, {}) if group else grid)[name] = values
    return expand(settings(), grid)


@hypothesis.settings(deadline=None, max_examples=60)
@given(
    chosen=st.fixed_dictionaries({}, optional={key: st.just(values) for key, values in AXES.items()}).filter(
        lambda axes: 1 < math.prod(map(len, axes.values())) <= 40
    ),
    arms=st.lists(
        st.sampled_from(["activation", "norm", "lr", "model", "model.init", "train.batch_size", "diagnostics"])
    ),
    kept=st.integers(0, 2**30),
)
def test_every_run_is_counted_once_in_exactly_one_cell(
    chosen: dict[str, list[Any]], arms: list[str], kept: int
) -> None:
    runs = grid_of(chosen)
    some = [run for i, run in enumerate(runs) if kept >> (i % 30) & 1] or runs[:1]  # any part of the sweep
    results = made_up(some)
    counted: list[str] = []
    for facet, part in analysis.facets(results, arms):
        assert all(facet[name] == analysis._plain(value) for name in facet for value in part.runs[name])
        columns = [c for c in part.runs if c in part.varying and c != "seed"]
        assert all(analysis.is_among(str(column), arms) for column in columns)  # what varies is compared
        by = columns or ["norm"]
        hashable = part.runs.assign(**{c: part.runs[c].map(analysis._plain) for c in by})
        for cell in analysis.cells(hashable, by).values():  # which refuses a second run of a seed
            counted += cell["run_id"].tolist()
            assert set(part.table("curves")["run_id"]) >= set(cell["run_id"])
    assert sorted(counted) == sorted(run.run_id for run in some)


def test_a_setting_that_is_only_there_or_not_makes_facets_too() -> None:
    runs = pd.DataFrame({"run_id": ["a", "b"], "norm": "none", "seed": 0, "mine.slope": [nan, 0.5]})
    none = pd.DataFrame({"run_id": []})
    found = analysis.facets(Results(runs, none, none, none), ["norm"])
    assert [(facet, part.runs["run_id"].tolist()) for facet, part in found] == [
        ({"mine.slope": 0.5}, ["b"]),
        ({"mine.slope": None}, ["a"]),
    ]


def test_an_arm_that_only_some_runs_have_an_option_of_is_one_facet() -> None:
    runs = expand(settings(), {"model": {"norm": ["none", "batch"]}, "seed": [0, 1]})
    ((facet, part),) = analysis.facets(made_up(runs), ["norm"])
    assert facet == {}
    assert len(part.runs) == 4


def test_two_runs_of_a_seed_in_a_cell_are_refused() -> None:
    runs = made_up(expand(settings(), {"train": {"batch_size": [30, 60]}, "seed": [0, 1]})).runs
    with pytest.raises(InputError, match=r"^seed=0: more than one run of norm=none, which differ in a setting"):
        analysis.cells(runs, ["norm"])
    assert list(analysis.cells(runs, ["train.batch_size", "norm"])) == [(30, "none"), (60, "none")]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("norm", ["mine.Norm", "batch", "none"], ["none", "batch", "mine.Norm"]),
        ("activation", ["tanh", "relu", "sigmoid"], ["sigmoid", "relu", "tanh"]),
        ("lr", [10.0, 9.0, 0.1], [0.1, 9.0, 10.0]),
        ("x", ["b", 2, "a", 10], [2, 10, "a", "b"]),
    ],
)
def test_levels_are_in_the_order_of_the_paper_then_sorted(name: str, values: list[Any], expected: list[Any]) -> None:
    table = pd.DataFrame({name: values, "y": 0})
    assert analysis.levels(table, name) == expected
    assert analysis.levels(table.set_index(name), name) == expected
    assert list(analysis.groups(table, [name])) == expected


# Runs


def test_failed_runs_are_no_outcomes_and_a_diverged_one_ends_at_0() -> None:
    runs = pd.DataFrame({"status": ["done", "diverged", "failed"], "test_accuracy": [0.5, nan, nan]})

    found = analysis.outcomes(Results(runs, runs, runs, runs))
    assert found["accuracy"].tolist() == [0.5, 0.0]
    assert found["diverged"].tolist() == [False, True]
    assert "accuracy" not in runs


def test_steps_to_a_target_are_those_of_the_first_measurement_after_0_that_has_it() -> None:
    curves = pd.DataFrame(
        {"run_id": [*"aaabbb"], "step": [0, 10, 20] * 2, "test_accuracy": [0.9, 0.5, 0.6, 0.1, 0.6, 0.2]}
    )
    runs = pd.DataFrame({"run_id": [*"bac"]}, index=[7, 8, 9])
    for targets, expected in (
        ([0.6, 0.6, 0.6], [10, 20, inf]),
        ([0.61, 0.5, 0.1], [inf, 10, inf]),
        ([nan, 0.7, nan], [nan, inf, nan]),
    ):
        steps = analysis.steps_to(runs, pd.Series(targets, runs.index), curves)
        np.testing.assert_array_equal(steps, expected)
        found = analysis.crossings(runs, pd.Series(targets, runs.index), curves[::-1])
        pd.testing.assert_series_equal(found["steps"], steps)
        np.testing.assert_array_equal(found["least"], steps.replace({10: 1, 20: 11}))  # after the measurement before


def test_a_smoothed_curve_is_the_mean_of_what_is_measured_nearby_of_one_run() -> None:
    """With 1.15 steps times earlier and later; 100 and 116 are further apart."""
    steps, accuracies = [0, 100, 110, 116, 200], [0.1, 0.5, 0.8, 0.2, 0.9]
    curves = pd.DataFrame({"run_id": ["a"] * 5 + ["b"], "step": [*steps, 110], "test_accuracy": [*accuracies, 0.3]})
    means = [0.1, (0.5 + 0.8) / 2, (0.5 + 0.8 + 0.2) / 3, (0.8 + 0.2) / 2, 0.9, 0.3]
    found = analysis.smoothed(curves.sample(frac=1, random_state=0)).sort_values(["run_id", "step"])
    assert found["step"].tolist() == curves["step"].tolist()
    np.testing.assert_allclose(found["test_accuracy"], means, atol=1e-9)
    assert analysis.smoothed(curves.iloc[:0]).empty


def test_noise_is_met_later_once_it_is_smoothed() -> None:
    rng, steps = np.random.default_rng(0), np.unique(np.geomspace(1, 10_000, 200).astype(int))
    curves = [
        pd.DataFrame({"run_id": str(i), "step": steps, "test_accuracy": 1 - steps**-0.5 + noise})
        for i, noise in enumerate(rng.normal(0, 0.02, (50, len(steps))))
    ]
    raw, runs = pd.concat(curves), pd.DataFrame({"run_id": [str(i) for i in range(50)]})
    target = pd.Series(0.95, runs.index)  # on average at step 400
    taken = [analysis.steps_to(runs, target, each) for each in (raw, analysis.smoothed(raw))]
    early, smooth = (float(np.exp(np.log(each).mean())) for each in taken)
    assert early < 200 < smooth < 400


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.9, 0.9, 0.9, 0.9], (1, 1000, 0, inf)),
        ([0.89, 0.9, 0.9, 0.89], (10, 100, 1, 1000)),
        ([0.9, 0.89, 0.9, 0.89], (100, 100, 10, 1000)),  # of equals the larger
        ([0.9, 0.9, 0.1, 0.9], (1, 10, 0, 100)),
        ([0.0, 0.2, 0.0, 0.95], (1000, 1000, 100, inf)),
        ([0.1, 0.2, 0.3, 0.4], (nan, nan, nan, nan)),
    ],
)
def test_the_usable_range_is_the_longest_unbroken_row(accuracies: list[float], expected: tuple[float, ...]) -> None:
    by_value = pd.Series(accuracies, [1.0, 10.0, 100.0, 1000.0])
    for order in (by_value, by_value[::-1]):
        np.testing.assert_array_equal(analysis.usable_range(order, 0.9), expected)


def test_the_best_value_is_that_of_the_highest_mean_the_largest_of_equals() -> None:
    runs = pd.DataFrame({"lr": [1, 1, 2, 2, 3, 3], "accuracy": [0.9, 0.0, 0.5, 0.6, 0.55, 0.55]})
    assert analysis.best_value(runs, "lr") == 3
    assert analysis.best_value(runs.iloc[:0], "lr") is None


@pytest.mark.parametrize(
    ("steps", "fastest"),
    [
        ({1: [80, 80], 2: [20, 20], 3: [40, 40]}, 2),
        ({1: [80, 80], 2: [20, inf]}, 1),  # most seeds before fewest steps
        ({1: [inf, 20], 2: [80, inf]}, 1),
        ({1: [20, 20], 2: [10, 40]}, 2),  # of equals the largest
        ({1: [inf, inf], 2: [inf, nan]}, 2),
        ({}, None),
    ],
)
def test_the_fastest_value_takes_the_fewest_steps_in_most_seeds(steps: dict[int, list[float]], fastest: Any) -> None:
    rows = [(lr, each) for lr, seeds in steps.items() for each in seeds]
    for order in (rows, rows[::-1]):
        assert analysis.fastest_value(pd.DataFrame(order, columns=["lr", "steps"]), "lr") == fastest


def test_initializations_have_names() -> None:
    runs = pd.DataFrame({"model.init.scheme": ["normal", "he", None], "model.init.std": [0.03, nan, nan]})
    assert analysis.initializations(runs).tolist() == ["std 0.03", "he", ""]
    assert analysis.initializations(runs[[]]).tolist() == [""] * 3


# Estimates


def assert_estimate(found: Estimate, *expected: float) -> None:
    np.testing.assert_allclose(found, [*expected, *[nan, nan, 1, 0][len(expected) - 1 :]], rtol=1e-6)


def test_estimates_by_hand() -> None:
    values = pd.Series([1.0, 2.0, 3.0, nan])
    half = 4.302652729911275 / math.sqrt(3)  # t of 2 degrees of freedom at .975; the standard deviation is 1
    assert_estimate(analysis.mean(values), 2, 2 - half, 2 + half, 3)
    logs = math.exp(half)
    assert_estimate(analysis.geometric_mean(values.map(np.exp)), math.e**2, math.e**2 / logs, math.e**2 * logs, 3)
    assert_estimate(analysis.mean(pd.Series([4.0])), 4)
    assert analysis.mean(pd.Series([nan])) == NOTHING or math.isnan(analysis.mean(pd.Series([nan])).value)
    assert analysis.mean(pd.Series([], dtype=float)).n == 0
    other = pd.Series([3.0, 1.0, 2.0], [2, 0, 1])  # pairs are those of one index
    assert_estimate(analysis.difference(values, other - 1), 1, 1, 1, 3)
    assert_estimate(analysis.ratio(values, 2 * other), 0.5, 0.5, 0.5, 3)
    assert_estimate(analysis.ratio(pd.Series([1.0, 1.0, 0.0]), pd.Series([0.0, 2.0, 1.0])), 0.5)


def test_a_run_that_never_gets_there_makes_a_bound() -> None:
    limit = pd.Series([100.0] * 3)
    some, never, all_of_them = (pd.Series(x) for x in ([10.0, 1000.0 / 10, 10.0], [10.0, inf, 10.0], [10.0] * 3))
    assert analysis.steps(some, limit).bound == 0
    found = analysis.steps(never, limit)
    assert found[:2] == analysis.steps(some, limit)[:2]
    assert (found.bound, math.isnan(found.high), found.n) == (1, True, 3)
    assert_estimate(analysis.steps(pd.Series([inf] * 3), limit), 100, nan, nan, 3, 1)
    slower = analysis.speed_up(never, all_of_them, limit)
    assert_estimate(slower, 10 ** (1 / 3), analysis.ratio(pd.Series([10.0, 100, 10]), all_of_them).low, nan, 3, 1)
    faster = analysis.speed_up(all_of_them, never, limit)
    assert_estimate(faster, 10 ** (-1 / 3), nan, 1 / slower.low, 3, -1)
    assert analysis.speed_up(never, never, limit).n == 0
    assert analysis.speed_up(never[:1], all_of_them, limit).n == 1  # pairs only


def test_what_is_read_off_a_grid_lies_between_its_values() -> None:
    low, high = pd.Series([1.0, 4.0]), pd.Series([4.0, 16.0])
    found = analysis.between(low, high)
    assert_estimate(found, 2, analysis.geometric_mean(low).low, analysis.geometric_mean(high).high, 2, 0)
    assert found.low < 2 < 8 < found.high
    assert analysis.between(low, pd.Series([4.0, inf])).bound == 1
    assert math.isnan(analysis.between(low, pd.Series([4.0, inf])).high)
    assert analysis.between(pd.Series([0.0, 1.0]), high, low).bound == -1
    assert analysis.between(pd.Series([0.0, 1.0]), pd.Series([inf, 1.0]), low).bound == 0


def test_a_mean_of_what_is_infinite_has_no_interval_and_tells_nothing_but_its_value() -> None:
    found = analysis.mean(pd.Series([1.0, nan, inf]))
    assert_estimate(found, inf, nan, nan, 2)
    assert analysis.beyond("it", found, 0).holds is None


def test_the_jackknife_of_a_mean_is_its_t_interval() -> None:
    values = [1.0, 4.0, 2.0, 8.0]
    found = analysis.jackknife(lambda table: table["x"].mean(), [pd.DataFrame({"x": [x]}) for x in values])
    np.testing.assert_allclose(found, analysis.mean(pd.Series(values)))
    assert_estimate(analysis.jackknife(lambda table: 3.0, [pd.DataFrame()]), 3)


def cover(interval: Any, draw: Any, truth: float, trials: int = 1500) -> float:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(trials):
        low, high = interval(pd.Series(draw(rng)))
        covered += low <= truth <= high
    return covered / trials


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(
    ("estimate", "draw", "truth"),
    [
        (analysis.mean, lambda rng, n: rng.normal(0.97, 0.003, n), 0.97),
        (analysis.geometric_mean, lambda rng, n: np.exp(rng.normal(math.log(3), 0.5, n)), 3),
        (analysis.mean, lambda rng, n: rng.uniform(0, 1, n), 0.5),  # no tails
        (analysis.mean, lambda rng, n: rng.standard_t(5, n), 0),  # long tails
    ],
)
def test_95_percent_intervals_cover_in_95_percent_of_all_cases(estimate: Any, draw: Any, truth: float, n: int) -> None:
    assert cover(lambda x: estimate(x)[1:3], lambda rng: draw(rng, n), truth) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(("n", "expected"), [(3, 0.75), (5, 0.84)])
def test_those_of_the_percentile_bootstrap_do_not(n: int, expected: float) -> None:
    def percentile_bootstrap(x: pd.Series) -> Any:
        means = np.random.default_rng(1).choice(x.to_numpy(), (400, n)).mean(axis=1)
        return np.percentile(means, [2.5, 97.5])

    assert cover(percentile_bootstrap, lambda rng: rng.normal(size=n), 0) == pytest.approx(expected, abs=0.03)


RATES = st.floats(1e-100, 1e100) | st.sampled_from([0.1, 0.3, 1.0, 3.0, 7.0, 49 / 10])
"""Numbers that are positive, often such as round in binary, as those of seeds that agree."""
SAME = pd.Series([1.0] * 8)
MEASURED = (0, 1, 2, 3, 5, 10, 20, 50, 100)


def of_seeds(values: st.SearchStrategy[Any]) -> st.SearchStrategy[pd.Series]:
    """Return a number for each of 1 to 8 seeds, or the same for all."""
    apart = st.lists(values, min_size=8, max_size=8)
    alike = values.map(lambda value: [value] * 8)
    return (apart | alike).map(lambda each: pd.Series(each, dtype=float))


def curves_to(level: float, steps: pd.Series, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs that get to a level at these steps, and their curves."""
    runs = pd.DataFrame({"run_id": [f"{name}{seed}" for seed in steps.index], "steps": 100.0}, steps.index)
    curves = [(f"{name}{seed}", at, level if at >= step else 0.0) for seed, step in steps.items() for at in MEASURED]
    return runs, pd.DataFrame(curves, columns=["run_id", "step", "test_accuracy"])


@hypothesis.settings(deadline=None, max_examples=25)
@given(
    n=st.integers(1, 8),
    one=of_seeds(RATES),
    other=of_seeds(RATES),
    taken=st.tuples(*[of_seeds(st.sampled_from([*MEASURED[1:], inf]))] * 2),
)
@example(n=3, one=SAME * 4.9, other=SAME * 0.3, taken=(SAME * 10, SAME * 50))  # whose logarithms round
@example(n=2, one=pd.Series([1e-100, 1e100]), other=SAME, taken=(SAME, SAME))  # whose interval ends above all floats
def test_no_interval_is_negative_in_width_and_every_estimate_can_be_drawn(
    n: int, one: pd.Series, other: pd.Series, taken: tuple[pd.Series, pd.Series]
) -> None:
    one, other, plain, normed = (each[:n] for each in (one, other, *taken))
    (plain_runs, of_plain), (runs, of_normed) = curves_to(0.9, plain, "plain"), curves_to(0.9, normed, "normed")
    limit = pd.Series(100.0, plain.index)
    found = {
        "mean": analysis.mean(one),
        "geometric mean": analysis.geometric_mean(one),
        "difference": analysis.difference(one, other),
        "ratio": analysis.ratio(one, other),
        "steps": analysis.steps(plain, limit),
        "speed-up": analysis.speed_up(plain, normed, limit),
        "speed-up to": analysis.speed_up_to(0.9, plain_runs, runs, pd.concat([of_plain, of_normed])),
        "between": analysis.between(one.clip(upper=other), one.clip(lower=other)),
        "between, open": analysis.between(plain.clip(upper=limit), plain.clip(lower=limit)),
        "jackknife": analysis.jackknife(lambda x: x["x"].mean(), [pd.DataFrame({"x": [x]}) for x in one]),
    }
    for name, each in found.items():
        assert not each.low > each.value, name
        assert not each.high < each.value, name
    ax = Figure().subplots()
    figures.points(ax, analysis.table(found, ["of"]).reset_index(drop=True), figures.style("batch"))


# Tables and verdicts


def test_tables_hold_numbers_and_give_them_back() -> None:
    table = analysis.table({("a", 1): Estimate(1, 0, 2, 3, 1), ("a", 2): NOTHING, ("b", 1): Estimate(5)}, ["x", "y"])
    assert [*table.columns] == ["value", "low", "high", "n", "bound"]
    assert all(kind.kind in "fi" for kind in table.dtypes)
    assert analysis.estimate(table, "a", 1) == Estimate(1, 0, 2, 3, 1)
    assert analysis.estimate(table, "c", 1) is NOTHING
    assert analysis.rows(table, "a").index.tolist() == [1, 2]
    assert analysis.rows(table, "z").empty
    assert analysis.table({}, ["x", "y"]).index.names == ["x", "y"]
    assert [*analysis.table({}, ["x", "y"]).columns] == [*table.columns]


def test_a_spread_is_median_and_range_of_the_replicates() -> None:
    values = pd.DataFrame({"k": [1, 1, 1, 2, 3], "x": [3.0, 1.0, 10.0, 5.0, nan]})
    found = analysis.spread(values, "x", ["k"])
    assert found.reset_index().to_numpy().tolist() == [[1, 3, 1, 10, 3, 0], [2, 5, 5, 5, 1, 0]]


@pytest.mark.parametrize(
    ("found", "at_least", "at_most"),
    [
        (Estimate(2, 1, 3, 5), True, None),
        (Estimate(2, 1.01, 3, 5), True, False),
        (Estimate(0.5, 0.2, 0.9, 5), False, True),
        (Estimate(2, 0.9, 3, 5), None, None),
        (Estimate(2), None, None),  # one seed
        (NOTHING, None, None),
        (Estimate(2, 1.5, nan, 5, 1), True, False),
        (Estimate(2, 0.5, nan, 5, 1), None, None),
        (Estimate(0.5, 0.1, nan, 5, 1), None, None),  # it may be anything above
        (Estimate(0.5, nan, 0.9, 5, -1), False, True),
        (Estimate(0.5, nan, 1.9, 5, -1), None, None),
    ],
)
def test_a_finding_holds_with_the_whole_interval(found: Estimate, at_least: bool | None, at_most: bool | None) -> None:
    assert analysis.above("x", found, 1).holds is at_least
    assert analysis.below("x", found, 1).holds is at_most


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        (Estimate(1, 0.8, 1.25, 5), True),
        (Estimate(1, 0.7, 1.2, 5), None),
        (Estimate(1, 0.9, 1.3, 5), None),
        (Estimate(2, 1.3, 3, 5), False),
        (Estimate(0.5, 0.4, 0.7, 5), False),
        (Estimate(1), None),
    ],
)
def test_a_finding_within_bounds_meets_both(found: Estimate, holds: bool | None) -> None:
    assert analysis.within("x", found, 0.8, 1.25) == analysis.Finding("x", found, holds)


@pytest.mark.parametrize(
    ("holds", "answer"),
    [
        ([True, True], "reproduces"),
        ([True, False], "reproduces in part"),
        ([True, None], "reproduces in part"),
        ([False, False], "does not reproduce"),
        ([False, None], "can't be told from these runs"),
        ([None], "can't be told from these runs"),
        ([], "can't be told from these runs"),
    ],
)
def test_the_verdict_follows_from_the_findings(holds: list[bool | None], answer: str) -> None:
    assert analysis.judge([analysis.Finding("x", NOTHING, each) for each in holds]) == answer
