"""Learning rates and steps to accuracy: tables worked by hand, the verdict, and what the figures hold."""

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import findings_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t as student

from bnrepro.analysis import Tables, estimate, judge, levels, rows
from bnrepro.errors import InputError
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("learning_rates")
assert EXPERIMENT
nan, inf = math.nan, math.inf

Run = dict[str, Any]


def results_of(runs: Sequence[Run]) -> Results:
    """Results of runs given as columns of table ``runs``, with ``curve`` as {step: test accuracy}; NaN diverged."""
    table, curves = [], []
    for number, run in enumerate(copy.deepcopy(runs)):
        for step, value in run.pop("curve", {}).items():
            curves.append({"run_id": str(number), "step": step, "test_accuracy": value})
        status = "diverged" if math.isnan(run["test_accuracy"]) else "done"
        defaults = {"activation": "sigmoid", "norm": "none", "seed": 0, "steps": 100, "diverged_at": nan}
        table.append({"run_id": str(number), "status": status} | defaults | run)
    columns = ["run_id", "step", "test_accuracy"]
    return Results(pd.DataFrame(table), pd.DataFrame(curves, columns=columns), pd.DataFrame(), pd.DataFrame())


def tables_of(runs: Sequence[Run]) -> Tables:
    assert EXPERIMENT
    return EXPERIMENT.analyse(results_of(runs))


def figures_of(runs: Sequence[Run]) -> dict[str, Figure]:
    assert EXPERIMENT
    return EXPERIMENT.draw(tables_of(runs))


def arm(accuracies: Iterable[float], **columns: Any) -> list[Run]:
    """Runs at the rates 0.01, 0.1, 1, …; NaN is a diverged one."""
    return [{"lr": 10.0 ** (i - 2), "test_accuracy": a} | columns for i, a in enumerate(accuracies)]


ACCURACY = (0.94, 0.96, 0.95, 0.93, 0.97)


def arm_of(steps: Sequence[int | None], final: float = 0.9, lr: float = 0.1, **columns: Any) -> list[Run]:
    """A run of 100 steps per seed, at 0.5 until it gets to the accuracy of its seed after ``steps``; None: never."""
    return [
        {"lr": lr, "seed": seed, "test_accuracy": final} | columns
        | {"curve": {0: 0.1, 1: 0.5} | ({} if step is None else {step: ACCURACY[seed]}) | {100: final}}
        for seed, step in enumerate(steps)
    ]  # fmt: skip


def interval(values: Sequence[float], *, log: bool = False) -> tuple[float, float]:
    """The t-interval of the mean, by its textbook formula; of the geometric mean if ``log``."""
    x = np.log(values) if log else np.array(values)
    half = student.ppf(0.975, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    ends = x.mean() - half, x.mean() + half
    return (math.exp(ends[0]), math.exp(ends[1])) if log else ends


def assert_is(found: Any, value: float, ends: tuple[float, float] = (nan, nan), n: int = 2, bound: int = 0) -> None:
    assert (found.n, found.bound) == (n, bound)
    assert (found.value, found.low, found.high) == pytest.approx((value, *ends), nan_ok=True)


# The score


SCORED = (
    [0.95, 0.50, 0.92, 0.91],  # usable from 1 to 10, the end of the grid: from 1 decade on
    [0.90, 0.97, 0.93, nan],  # usable from 0.01, the other end, to 1: from 2 decades on
)


def scored() -> list[Run]:
    first, second = (arm(accuracies, seed=seed) for seed, accuracies in enumerate(SCORED))
    first[0]["curve"] = {0: 0.95, 40: 0.9, 100: 0.95}  # what is measured before the first step does not count
    first[2]["curve"] = {0: 0.1, 40: 0.2, 60: 0.92}
    second[1]["curve"] = {0: 0.1, 20: 0.89, 30: 0.97}
    second[2]["curve"] = {0: 0.1, 20: 0.91}
    return first + second


def test_the_score_by_hand() -> None:
    table = tables_of(scored())["score"]
    of = {name: estimate(table, "sigmoid", "none", name) for name in levels(table, "quantity")}
    assert len(of) == len(table) == 8
    assert_is(of["best accuracy"], 0.96, interval([0.95, 0.97]))
    assert_is(of["most accurate rate"], 1)  # 0.925 on average, as at 0.01
    assert_is(of["usable rates"], 2.5)
    assert_is(of["highest usable rate"], math.sqrt(10), (interval([1, 10], log=True)[0], nan), bound=1)
    # √(10¹ · 10²), and known from below alone
    assert_is(of["usable decades"], 1.5, (math.log10(interval([10, 100], log=True)[0]), nan), bound=1)
    assert_is(of["diverged"], 0.125)
    assert_is(of["below 90%"], 0.25)
    assert_is(of["steps to 90%"], math.sqrt(40 * 20), interval([40, 20], log=True))


@pytest.mark.parametrize(
    ("accuracies", "count", "decades", "highest", "bounds"),
    [
        ([0.9, 0.9, 0.9, 0.9], 4, 3, 10, (1, 1)),
        ([0.89, 0.9, 0.9, 0.89], 2, 1, 1, (0, 0)),
        ([0.9, 0.89, 0.9, 0.89], 1, 0, 1, (0, 0)),  # single rates span nothing; of equals the larger
        ([0.9, 0.9, 0.1, 0.9, 0.9, 0.9], 3, 2, 1000, (1, 1)),
        ([0.9, 0.9, 0.9, nan, 0.9, 0.9], 3, 2, 1, (1, 0)),  # the row goes on below the grid
        ([0.1, 0.2], 0, nan, nan, (0, 0)),
        ([nan, nan], 0, nan, nan, (0, 0)),
    ],
)
def test_usable_rates_are_the_longest_unbroken_row(
    accuracies: list[float], count: int, decades: float, highest: float, bounds: tuple[int, int]
) -> None:
    table = tables_of(arm(accuracies))["score"]
    n = int(decades == decades)  # one seed is no interval
    assert_is(estimate(table, "sigmoid", "none", "usable rates"), count, n=1)
    assert_is(estimate(table, "sigmoid", "none", "usable decades"), decades, n=n, bound=bounds[0])
    assert_is(estimate(table, "sigmoid", "none", "highest usable rate"), highest, n=n, bound=bounds[1])


def test_the_grid_is_in_the_interval_of_usable_rates() -> None:
    """Of both seeds the row ends somewhere from 1 to 10, and begins somewhere from 0.01 to 0.1."""
    table = tables_of([run for seed in (0, 1) for run in arm([0.8, 0.9, 0.95, 0.8], seed=seed)])["score"]
    assert_is(estimate(table, "sigmoid", "none", "highest usable rate"), 1, (1, 10))
    assert_is(estimate(table, "sigmoid", "none", "usable decades"), 1, (1, 3))


def test_an_arm_that_always_diverges_never_gets_anywhere() -> None:
    runs = [run for seed in (0, 1) for run in arm([nan, nan], norm="batch", seed=seed)]
    plain = arm([0.95, 0.2], seed=0) + arm([0.2, 0.2], seed=1)
    plain[0]["curve"] = {0: 0.1, 10: 0.95}
    table = tables_of(runs + plain)["score"]
    of = {name: estimate(table, "sigmoid", "batch", name) for name in levels(table, "quantity")}
    assert_is(of["best accuracy"], 0, (0, 0))
    for quantity in ("most accurate rate", "usable decades", "highest usable rate"):
        assert_is(of[quantity], nan, n=0)
    assert_is(of["diverged"], 1)
    assert_is(of["steps to 90%"], 100, bound=1)
    # Seed 1 of the plain arm takes at least its 100 steps.
    low, _ = interval([10, 100], log=True)
    assert_is(estimate(table, "sigmoid", "none", "steps to 90%"), math.sqrt(10 * 100), (low, nan), bound=1)
    assert_is(estimate(table, "sigmoid", "none", "highest usable rate"), 0.01, n=1)


@pytest.mark.parametrize("order", [1, -1])
def test_of_equally_good_rates_the_largest_is_best(order: int) -> None:
    table = tables_of(arm([0.95, 0.95, 0.9])[::order])["score"]
    assert_is(estimate(table, "sigmoid", "none", "most accurate rate"), 0.1, n=1)


def test_arms_are_in_the_order_of_the_paper_and_none_is_left_out() -> None:
    arms = [(a, n) for a in ("mine.Swish", "relu", "sigmoid") for n in ("mine.Shift", "batch", "none")]
    tables = tables_of([run for a, n in arms for run in arm_of([40], activation=a, norm=n)])
    ordered = [(a, n) for a in ("sigmoid", "relu", "mine.Swish") for n in ("none", "batch", "mine.Shift")]
    for name in ("score", "rates"):
        assert [*dict.fromkeys(key[:2] for key in tables[name].index)] == ordered
    assert [*dict.fromkeys(key[:2] for key in tables["compared"].index)] == [key for key in ordered if key[1] != "none"]
    assert {key[:2] for key in tables["steps_to_accuracy"].index} == {*ordered}


# Compared with the plain network


def test_compared_by_hand_and_by_seed() -> None:
    runs = [
        *arm([0.8, 0.9, 0.8, 0.8, 0.8], seed=0),  # up to 0.1, at 1 no more
        *arm([0.8, 0.9, 0.95, 0.8, nan], seed=1),  # up to 1
        *arm([0.8, 0.9, 0.9, 0.99, 0.8], seed=0, norm="batch"),  # up to 10: 100 times as high, from 10 to 1,000
        *arm([0.8, 0.9, 0.93, 0.8, 0.8], seed=1, norm="batch"),  # up to 1: once, from 0.1 to 10
        *arm([0.99], seed=2, norm="batch"),  # without a pair
    ]
    for run, step in zip((runs[1], runs[6], runs[11], runs[16]), (80, 40, 20, 40), strict=True):
        run["curve"] = {step: 0.9}
    table = tables_of(runs)["compared"]
    assert levels(table, "norm") == ["batch"]
    of = {name: estimate(table, "sigmoid", "batch", name) for name in levels(table, "quantity")}
    assert len(of) == len(table) == 4
    low, high = interval([10, 0.1], log=True)[0], interval([1000, 10], log=True)[1]
    assert_is(of["ratio of highest usable rates"], 10, (low, high))
    assert_is(of["gain in best accuracy"], 0.035, interval([0.99 - 0.9, 0.93 - 0.95]))
    assert_is(of["share that diverges without, less with"], 0.1, interval([0, 0.2]))
    assert_is(of["speed-up to 90%"], 2, interval([4, 1], log=True))


ENDS, GOES_ON = [0.9, 0.9, 0.8], [0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("plain", "normed", "found"),
    [
        (ENDS, ENDS, (1, (0.1, 10), 2, 0)),
        (ENDS, GOES_ON, (10, (1, nan), 2, 1)),
        (GOES_ON, ENDS, (0.1, (nan, 1), 2, -1)),
        (GOES_ON, GOES_ON, (1, (nan, nan), 2, 0)),
        (ENDS, [0.8, 0.8], (nan, (nan, nan), 0, 0)),
    ],
)
def test_where_the_grid_ends_the_ratio_of_usable_rates_is_a_bound(
    plain: list[float], normed: list[float], found: tuple[float, tuple[float, float], int, int]
) -> None:
    runs = [run for seed in (0, 1) for run in arm(plain, seed=seed) + arm(normed, seed=seed, norm="batch")]
    assert_is(estimate(tables_of(runs)["compared"], "sigmoid", "batch", "ratio of highest usable rates"), *found)


# Steps to accuracy

BASELINE = "baseline"
SAME, FASTEST, BEST = (f"{name} with batch" for name in ("same rate", "fastest rate", "most accurate rate"))


def of_variants(runs: Sequence[Run], quantity: str) -> dict[str, Any]:
    """A quantity of each variant in table ``steps_to_accuracy``."""
    table = rows(tables_of(runs)["steps_to_accuracy"], "sigmoid")
    return {key[1]: estimate(table, *key) for key in table.index if key[-1] == quantity}


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
    rates = of_variants(runs, "learning rate")
    assert {name: found.value for name, found in rates.items()} == {BASELINE: 0.1, FASTEST: 1, SAME: 0.1, BEST: 10}
    accuracy, steps, speed_up = (
        of_variants(runs, name) for name in ("highest accuracy", "steps to target", "speed-up")
    )
    for variant in (BASELINE, SAME, FASTEST):
        assert_is(accuracy[variant], 0.95, interval(ACCURACY[:2]))
    assert_is(accuracy[BEST], 0.93, interval([0.94, 0.92]))
    assert_is(steps[BASELINE], math.sqrt(40 * 80), interval([40, 80], log=True))
    assert_is(steps[SAME], 80, (80, 80))
    assert_is(steps[FASTEST], 20, (20, 20))
    assert_is(steps[BEST], math.sqrt(10 * 100), (interval([10, 100], log=True)[0], nan), bound=1)
    assert {*speed_up} == {SAME, FASTEST, BEST}
    assert_is(speed_up[SAME], math.sqrt(0.5 * 1), interval([0.5, 1], log=True))
    assert_is(speed_up[FASTEST], math.sqrt(2 * 4), interval([2, 4], log=True))
    assert_is(speed_up[BEST], math.sqrt(4 * 0.8), (nan, interval([4, 0.8], log=True)[1]), bound=-1)


@pytest.mark.parametrize(
    ("baseline", "arm", "ratios", "bound"),
    [
        ([40], [20], [2], 0),
        ([40, 80], [10, 20], [4, 4], 0),  # pairs agree though seeds do not
        ([40, 80], [20, 10], [2, 8], 0),
        ([64] * 5, [64, 32, 16, 8, 4], [1, 2, 4, 8, 16], 0),
        ([40, 40], [20, None], [2, 0.4], -1),
        ([40, 40], [None, None], [0.4, 0.4], -1),
        ([40, 80, 60], [10, 20], [4, 4], 0),  # of seed 2 there is no pair
        ([100], [1], [100], 0),
    ],
)
def test_the_speed_up_is_paired_by_seed_and_without_an_end_a_bound(
    baseline: list[int], arm: list[int | None], ratios: list[float], bound: int
) -> None:
    found = of_variants(arm_of(baseline) + arm_of(arm, norm="batch"), "speed-up")[SAME]
    low, high = interval(ratios, log=True) if len(ratios) > 1 else (nan, nan)
    value = math.exp(np.log(ratios).mean())
    assert_is(found, value, (nan if bound else low, high), len(ratios), bound)


@pytest.mark.parametrize(
    ("rates", "fastest"),
    [
        ({0.1: [80, 80], 1.0: [20, 20], 10.0: [40, 40]}, 1),
        ({0.1: [80, 80], 1.0: [20, None]}, 0.1),  # most seeds before fewest steps
        ({0.1: [None, 20], 1.0: [80, None]}, 0.1),
        ({0.1: [20, 20], 1.0: [10, 40]}, 1),  # of equals the largest
        ({0.1: [None, None], 1.0: [None, None]}, 1),  # the most accurate
    ],
)
def test_the_fastest_rate(rates: dict[float, list[int | None]], fastest: float) -> None:
    runs = arm_of([50, 50])
    for rate, steps in rates.items():
        runs += arm_of(steps, lr=rate, norm="batch")
    assert of_variants(runs, "learning rate")[FASTEST].value == fastest


def test_the_baseline_is_at_the_rate_of_the_highest_mean_and_a_diverged_run_counts_as_0() -> None:
    runs = arm_of([10, 10, 10], lr=0.1, final=0.6) + arm_of([10, 10, 10], lr=1.0, final=0.8)
    assert of_variants(runs, "learning rate")[BASELINE].value == 1
    runs[3]["test_accuracy"] = nan
    assert of_variants(runs, "learning rate")[BASELINE].value == 0.1


def test_nothing_is_faster_than_a_plain_network_that_does_not_train() -> None:
    """At 18% at every rate, as sigmoids after a few hundred steps, which batch norm has after the first measurement."""
    plain = [run for lr in (0.1, 1.0) for run in arm_of([None, None], final=0.18, lr=lr)]
    for run in plain:
        run["curve"] = {0: 0.1, 100: 0.18}
    runs = plain + arm_of([20, 20], norm="batch", final=0.95)
    assert all(found.n == 0 for found in of_variants(runs, "speed-up").values())
    assert of_variants(runs, "steps to target")[BASELINE].n == 0
    assert estimate(tables_of(runs)["compared"], "sigmoid", "batch", "speed-up to 90%").n == 0
    assert [*figures_of(runs)] == ["accuracy", "convergence"]


@pytest.mark.parametrize("diverged", [[0], [0, 1]])
def test_a_baseline_that_diverged_sets_no_target(diverged: list[int]) -> None:
    """However far it got before."""
    runs = arm_of([40, 40]) + arm_of([20, 20], norm="batch")
    for seed in diverged:
        runs[seed] |= {"test_accuracy": nan, "curve": {0: 0.1, 10: 0.2}}
    others = 2 - len(diverged)
    assert {name: found.n for name, found in of_variants(runs, "steps to target").items()} == {
        BASELINE: others, FASTEST: others, SAME: others, BEST: others
    }  # fmt: skip
    assert of_variants(runs, "speed-up")[FASTEST].n == others


def test_what_was_measured_before_the_first_step_does_not_count() -> None:
    runs = arm_of([40]) + arm_of([20], norm="batch")
    for run in runs:
        run["curve"][0] = 0.99
    steps, accuracy = of_variants(runs, "steps to target"), of_variants(runs, "highest accuracy")
    assert_is(steps[BASELINE], 40, n=1)
    assert_is(steps[SAME], 20, n=1)
    assert_is(accuracy[BASELINE], 0.94, n=1)


def test_seeds_have_the_target_of_the_baseline_of_their_own() -> None:
    """Seed 1 of the arm has the accuracy that only the baseline of seed 0 has as its target."""
    runs = arm_of([40, 80]) + arm_of([20, 20], norm="batch")
    runs[3]["curve"] = {0: 0.1, 20: ACCURACY[0], 100: 0.9}
    found = of_variants(runs, "steps to target")[SAME]
    assert (found.value, found.bound) == (pytest.approx(math.sqrt(20 * 100)), 1)


@pytest.mark.parametrize(
    ("arms", "variants"),
    [
        ([("sigmoid", "none")], ["baseline"]),
        ([("sigmoid", "batch")], [FASTEST, BEST]),
        ([("sigmoid", "batch"), ("relu", "none")], [FASTEST, BEST, "baseline"]),
        (
            [("relu", "mine.Shift"), ("relu", "none"), ("relu", "batch")],
            ["baseline", FASTEST, SAME, BEST]
            + [f"{name} with mine.Shift" for name in ("fastest rate", "same rate", "most accurate rate")],
        ),
    ],
)
def test_arms_that_are_missing_leave_out_their_variants(arms: list[tuple[str, str]], variants: list[str]) -> None:
    runs = [run for activation, norm in arms for run in arm_of([40, 80], activation=activation, norm=norm)]
    table = tables_of(runs)["steps_to_accuracy"]
    assert [*dict.fromkeys(table.index.get_level_values("variant"))] == variants
    assert {*rows(table.swaplevel(0, 3), "highest accuracy")["value"]} == {0.95}


# Each rate


def test_each_rate_by_hand_with_a_target_of_its_own_where_the_plain_network_is_usable() -> None:
    runs = [
        *arm_of([None, None], lr=0.001, final=0.9),
        *arm_of([None, None], lr=0.01, final=0.9),  # usable: its best is 0.9, at step 100
        *arm_of([40, 80], lr=0.1, final=0.91),  # the baseline
        *arm_of([50, None], lr=1.0, final=0.89),
        *arm_of([20, 50], lr=0.001, norm="batch", final=0.9),
        *arm_of([20, 50], lr=0.01, norm="batch", final=0.9),
        *arm_of([None, None], lr=0.1, norm="batch", final=nan),
        *arm_of([20, 20], lr=10.0, norm="batch", final=0.95),
    ]
    runs[1]["test_accuracy"] = 0.89  # of one seed, which is enough not to be usable
    table = rows(tables_of(runs)["rates"], "sigmoid")
    speed_ups = {key[1]: estimate(table, *key) for key in table.index if key[-1] == "speed-up"}
    assert {*speed_ups} == {0.001, 0.01, 0.1}
    assert speed_ups[0.001].n == 0
    assert_is(speed_ups[0.01], math.sqrt(5 * 2), interval([5, 2], log=True))
    assert_is(speed_ups[0.1], math.sqrt(0.4 * 0.8), (nan, interval([0.4, 0.8], log=True)[1]), bound=-1)
    assert_is(estimate(table, "none", 0.001, "final accuracy"), 0.895, interval([0.9, 0.89]))
    assert_is(estimate(table, "none", 0.1, "highest accuracy"), 0.95, interval(ACCURACY[:2]))
    assert_is(estimate(table, "none", 0.01, "steps to target"), 100, bound=1)  # that of the baseline
    assert_is(estimate(table, "batch", 0.01, "steps to target"), math.sqrt(20 * 50), interval([20, 50], log=True))
    assert_is(estimate(table, "batch", 0.1, "final accuracy"), 0, (0, 0))
    assert len(table) == 8 * 3 + 3


def test_numbers_do_not_depend_on_the_order_of_the_runs() -> None:
    runs = arm_of([64] * 5) + arm_of([64, 32, 16, 8, 4], norm="batch") + arm_of([3, 9, 27, 81, 5], lr=1.0, norm="batch")
    runs += arm_of([70] * 5, lr=1.0)
    forwards, backwards = tables_of(runs), tables_of(runs[::-1])
    for name, table in forwards.items():
        pd.testing.assert_frame_equal(table.sort_index(), backwards[name].sort_index(), check_exact=True)


def test_runs_that_differ_in_what_is_not_compared_are_refused() -> None:
    runs = arm_of([40, 40]) + arm_of([20, 20], norm="batch")
    with pytest.raises(InputError, match=r"seed=1: more than one run of activation=sigmoid, norm=batch, lr=0\.1"):
        tables_of([*runs, runs[-1]])


# The verdict


def network(norm: str, highest: float, steps: Sequence[int | None]) -> list[Run]:
    """Runs at rates from 0.1 to 100, of which those up to ``highest`` are usable and take so many steps."""
    return [
        run
        for lr in (0.1, 1.0, 10.0, 100.0)
        for run in (
            arm_of(steps, lr=lr, norm=norm) if lr <= highest else arm_of([None] * len(steps), 0.5, lr, norm=norm)
        )
    ]


@pytest.mark.parametrize(
    ("runs", "holds", "answer"),
    [
        (network("none", 0.1, [40, 80]) + network("batch", 1, [10, 20]), [True, True], "reproduces"),
        (network("none", 0.1, [40, 80]), [None, None], None),
        (network("batch", 1, [10, 20]), [None, None], None),
        (network("none", 0.1, [40]) + network("batch", 100, [10]), [None, None], None),
        (network("none", 0.1, [40, 80]) + network("batch", 0.1, [10, 20]), [None, True], "reproduces in part"),
        (network("none", 0.1, [20, 40]) + network("batch", 1, [40, 80]), [True, False], "reproduces in part"),
        (network("none", 10, [20, 40]) + network("batch", 0.1, [40, 80]), [False, False], "does not reproduce"),
        (network("none", 0.1, [20, 40]) + network("batch", 1, [20, 40]), [True, True], "reproduces"),
        (network("none", 0.1, [40, 80]) + network("batch", 100, [10, 20]), [True, True], "reproduces"),
        (network("none", 100, [40, 80]) + network("batch", 1, [10, 20]), [False, True], "reproduces in part"),
        (network("none", 0.1, [40, 80]) + network("batch", 1, [10, None]), [True, None], "reproduces in part"),
        (network("none", 0.1, [40, 40]) + network("batch", 1, [None, None]), [True, False], "reproduces in part"),
        ([run | {"test_accuracy": nan} for run in network("none", 0.1, [40, 80]) + network("batch", 1, [9, 9])],
         [None, None], None),
    ],
    ids=[
        "holds", "plain alone", "batch norm alone", "one seed", "equal rates", "slower", "neither", "exactly 1",
        "usable to the end", "plain usable to the end", "not in every seed", "never", "all diverged",
    ],
)  # fmt: skip
def test_the_verdict(runs: list[Run], holds: list[bool | None], answer: str | None) -> None:
    assert EXPERIMENT
    norms = {run["norm"] for run in runs}
    findings = findings_of(EXPERIMENT, tables_of(runs), "A2", "3.b")
    assert [finding.of.partition(" (")[0] for finding in findings] == [
        "sigmoid, ratio of highest usable rates", "sigmoid, speed-up at its fastest rate"
    ]  # fmt: skip
    untrained = all(not run["test_accuracy"] >= 0.9 for run in runs if run["norm"] == "none") and norms != {"batch"}
    told = " (the plain network ends below 90% at every rate)"
    assert [finding.of.endswith(told) for finding in findings] == [untrained] * 2
    assert [finding.holds for finding in findings] == holds
    assert judge(findings) == (answer or "can't be told from these runs")


@pytest.mark.parametrize(
    ("plain", "other", "holds"),
    [
        ([0.95, nan, nan], [0.95, 0.95, nan], [True]),
        ([0.95, nan, nan], [0.95, nan, nan], [False]),
        ([0.95, 0.95, 0.5], [0.95, nan, nan], []),  # no plain network diverges
    ],
)
def test_training_explodes_at_fewer_rates(plain: list[float], other: list[float], holds: list[bool]) -> None:
    runs = [
        run
        for seed in (0, 1)
        for norm, accuracies in (("none", plain), ("batch", other))
        for run in arm(accuracies, seed=seed, norm=norm)
    ]
    assert EXPERIMENT
    assert [finding.holds for finding in findings_of(EXPERIMENT, tables_of(runs), "3.3c")] == holds


def test_the_verdict_is_of_both_activations_and_of_batch_norm_alone() -> None:
    good = network("none", 0.1, [40, 80]) + network("batch", 1, [10, 20])
    bad = network("none", 10, [20, 40]) + network("batch", 0.1, [40, 80]) + network("mine.Shift", 100, [10, 20])
    assert EXPERIMENT
    findings = findings_of(EXPERIMENT, tables_of([*good, *(run | {"activation": "relu"} for run in bad)]), "A2", "3.b")
    assert [(finding.of.partition(",")[0], finding.holds) for finding in findings] == [
        ("sigmoid", True), ("relu", False), ("sigmoid", True), ("relu", False)
    ]  # fmt: skip


# Figures


def legend_of(owner: Axes | Figure) -> list[str]:
    legend = owner.legends[0] if isinstance(owner, Figure) else owner.get_legend()
    assert legend
    return [text.get_text() for text in legend.get_texts()]


def marked(ax: Axes) -> dict[Any, list[list[float]]]:
    """The points of the lines of a panel, by their marker."""
    found: dict[Any, list[list[float]]] = {}
    for line in ax.get_lines():
        found.setdefault(line.get_marker(), []).extend(np.asarray(line.get_xydata()).tolist())
    return found


@pytest.mark.parametrize(
    ("runs", "speed_up"),
    [
        (arm_of([40, 80]), False),
        (arm_of([40, 80], norm="batch"), False),
        (arm_of([40, 80]) + arm_of([40, 80], lr=1.0, norm="batch"), False),
        (arm_of([None, None], final=0.8) + arm_of([40, 80], norm="batch"), False),
        (arm_of([40]) + arm_of([20], norm="batch"), True),
    ],
    ids=["plain", "batch norm", "no common rate", "plain is not usable", "a common rate"],
)
def test_the_speed_up_at_equal_rates_is_drawn_where_there_is_one(runs: list[Run], speed_up: bool) -> None:
    figures = figures_of(runs)
    assert [*figures] == ["accuracy", "convergence", "speedup"][: 2 + speed_up]
    for figure in figures.values():
        assert [ax.get_title() for ax in figure.axes] == ["sigmoid"]


def test_accuracy_is_drawn_against_the_rate_with_what_is_usable() -> None:
    runs = arm([0.2, 0.8, nan]) + arm([0.4, 0.9], seed=1) + arm([0.7], activation="relu")
    figure = figures_of([run | {"curve": {10: 0.2}} for run in runs])["accuracy"]
    assert [(ax.get_title(), ax.get_xlabel()) for ax in figure.axes] == [
        ("sigmoid", "learning rate"), ("ReLU", "learning rate")
    ]  # fmt: skip
    assert marked(figure.axes[0])["o"] == [[0.01, pytest.approx(0.3)], [0.1, pytest.approx(0.85)]]
    assert [x for x, _ in marked(figure.axes[0])["x"]] == [1]
    assert "usable: 90%" in legend_of(figure)


def test_convergence_is_of_the_baseline_and_of_batch_norm_at_the_same_and_at_its_fastest_rate() -> None:
    runs = [
        *arm_of([40, 80], final=0.91),
        *arm_of([80, 80], norm="batch"),
        *arm_of([20, 20], norm="batch", lr=1.0),
        *arm_of([90, 90], norm="batch", lr=10.0, final=0.93),  # most accurate, not drawn
        *arm_of([50, 50], activation="relu"),
        *arm_of([50, 50], activation="relu", norm="batch"),  # the same rate is the fastest
    ]
    runs[3] |= {"test_accuracy": nan, "diverged_at": 95}
    figure = figures_of(runs)["convergence"]
    assert [ax.get_title() for ax in figure.axes] == ["sigmoid", "ReLU"]
    assert [legend_of(ax) for ax in figure.axes] == [
        ["without batch norm, 0.1", "with batch norm, 0.1", "with batch norm, 1", "the baseline's highest"],
        ["without batch norm, 0.1", "with batch norm, 0.1", "the baseline's highest"],
    ]
    first, second = figure.axes
    lines = {str(line.get_label()): line for line in first.get_lines()}
    ends = {label: line.get_xydata()[-1].tolist() for label, line in lines.items()}  # type: ignore[union-attr,index]
    assert ends["without batch norm, 0.1"] == [100, 0.91]
    assert ends["with batch norm, 1"] == [100, 0.9]
    assert lines["with batch norm, 0.1"].get_linewidth() < lines["with batch norm, 1"].get_linewidth()
    assert marked(first)["x"] == [[95, 0.05]]
    assert len(second.get_lines()) == 3
    assert second.get_lines()[1].get_linewidth() == lines["with batch norm, 1"].get_linewidth()
    assert lines["the baseline's highest"].get_ydata() == pytest.approx([0.95, 0.95])
    assert first.get_xlim() == (0, 100)
    assert legend_of(figure) == ["range over 2 seeds (line: median)", "diverged"]


@pytest.mark.parametrize(
    ("runs", "labels"),
    [
        (arm_of([20], norm="batch"), ["with batch norm, 0.1"]),
        (arm_of([20], final=nan), ["without batch norm, 0.1"]),
    ],
)
def test_convergence_without_a_baseline_has_what_there_is_and_no_target(runs: list[Run], labels: list[str]) -> None:
    figure = figures_of(runs)["convergence"]
    assert legend_of(figure.axes[0]) == labels
    assert legend_of(figure) == []


def test_the_speed_up_is_drawn_with_its_interval_or_as_a_bound_and_rates_at_which_plain_networks_diverge() -> None:
    runs = [
        *arm_of([None, None], lr=0.001, final=nan),
        *arm_of([None, None], lr=0.01, final=0.6),
        *arm_of([40, 80], lr=0.1),
        *arm_of([40, 80], lr=1.0),
        *arm_of([20, 20], lr=0.001, norm="batch"),
        *arm_of([20, 20], lr=0.01, norm="batch"),
        *arm_of([20, 20], lr=0.1, norm="batch"),
        *arm_of([20, None], lr=1.0, norm="batch"),
        *arm_of([None, None], lr=0.1, activation="relu", final=0.8),  # without a target, so without a panel
        *arm_of([20, 20], lr=0.1, activation="relu", norm="batch"),
    ]
    figure = figures_of(runs)["speedup"]
    (ax,) = figure.axes
    assert ax.get_title() == "sigmoid"
    found = marked(ax)
    np.testing.assert_allclose(found["s"], [[0.1, math.sqrt(2 * 4)]])
    np.testing.assert_allclose(found["v"], [[1.0, math.sqrt(2 * 0.8)]])
    assert [x for x, _ in found["x"]] == [0.001]
    whole, half = (bars.get_segments()[0] for bars in ax.collections)  # type: ignore[attr-defined]
    np.testing.assert_allclose(whole, [[0.1, end] for end in interval([2, 4], log=True)])
    np.testing.assert_allclose(half, [[1.0, end] for end in (math.sqrt(2 * 0.8), interval([2, 0.8], log=True)[1])])
    (equal,) = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
    assert equal.get_ydata() == [1, 1]
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel()) == ("log", "log", "learning rate of both")
    handles = ["with batch norm", "95% interval (▾ at most, ▴ at least)", "plain network diverged"]
    assert legend_of(figure) == handles
    assert legend_of(figures_of(runs[4:6] + runs[12:14])["speedup"]) == handles[:2]
