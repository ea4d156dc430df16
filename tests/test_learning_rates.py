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

from bnrepro.analysis import Tables, estimate, judge, rows
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
        defaults = {"activation": "sigmoid", "norm": "none", "seed": 0, "steps": 100, "diverged_at": nan} | INIT
        table.append({"run_id": str(number), "status": status} | defaults | run)
    columns = ["run_id", "step", "test_accuracy"]
    return Results(pd.DataFrame(table), pd.DataFrame(curves, columns=columns), pd.DataFrame(), pd.DataFrame())


def tables_of(runs: Sequence[Run]) -> Tables:
    assert EXPERIMENT
    return EXPERIMENT.analyse(results_of(runs))


def figures_of(runs: Sequence[Run]) -> dict[str, Figure]:
    assert EXPERIMENT
    return EXPERIMENT.draw(tables_of(runs))


INIT = {"model.init.scheme": "normal", "model.init.std": 0.1}
SIGMOID = ("sigmoid", "std 0.1")


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


# Usable rates

SCORED = (
    [0.95, 0.50, 0.92, 0.91],  # usable from 1 to 10, the end of the grid: from 1 decade on
    [0.90, 0.97, 0.93, nan],  # usable from 0.01, the other end, to 1: from 2 decades on
)


def scored() -> list[Run]:
    return [run for seed, accuracies in enumerate(SCORED) for run in arm(accuracies, seed=seed)]


def usable(runs: Sequence[Run], level: str = "90%", norm: str = "none") -> dict[str, Any]:
    table = tables_of(runs)["usable"]
    return {name: estimate(table, *SIGMOID, norm, level, name) for name in rows(table, *SIGMOID, norm, level).index}


def test_usable_rates_by_hand() -> None:
    of = usable(scored())
    assert {*of} == {"lowest", "highest", "decades"}
    assert_is(of["lowest"], 0.1, (nan, interval([1, 0.01], log=True)[1]), bound=-1)
    assert_is(of["highest"], math.sqrt(10), (interval([1, 10], log=True)[0], nan), bound=1)
    # √(10¹ · 10²), and known from below alone
    assert_is(of["decades"], 1.5, (math.log10(interval([10, 100], log=True)[0]), nan), bound=1)


@pytest.mark.parametrize(
    ("level", "lowest", "highest"),
    [
        ("90%", 0.1, 100),
        ("95%", 1, 10),  # 0.95 is enough
        ("within 1 point", 10, 10),  # of 0.965
        ("above chance", 0.01, 100),
        ("no divergence", 0.01, 1000),
    ],
)
def test_what_is_usable_depends_on_what_is_asked(level: str, lowest: float, highest: float) -> None:
    of = usable(arm([0.21, 0.94, 0.95, 0.965, 0.93, 0.19]), level)
    assert (of["lowest"].value, of["highest"].value) == pytest.approx((lowest, highest))


def test_what_is_usable_nowhere_has_no_rate_within_a_point_of_its_best() -> None:
    assert usable(arm([0.11, 0.89]), "within 1 point")["highest"].n == 0


@pytest.mark.parametrize(
    ("accuracies", "decades", "highest", "bounds"),
    [
        ([0.9, 0.9, 0.9, 0.9], 3, 10, (1, 1)),
        ([0.89, 0.9, 0.9, 0.89], 1, 1, (0, 0)),
        ([0.9, 0.89, 0.9, 0.89], 0, 1, (0, 0)),  # single rates span nothing; of equals the larger
        ([0.9, 0.9, 0.1, 0.9, 0.9, 0.9], 2, 1000, (1, 1)),
        ([0.9, 0.9, 0.9, nan, 0.9, 0.9], 2, 1, (1, 0)),  # the row goes on below the grid
        ([0.1, 0.2], nan, nan, (0, 0)),
        ([nan, nan], nan, nan, (0, 0)),
    ],
)
def test_usable_rates_are_the_longest_unbroken_row(
    accuracies: list[float], decades: float, highest: float, bounds: tuple[int, int]
) -> None:
    of, n = usable(arm(accuracies)), int(decades == decades)  # one seed is no interval
    assert_is(of["decades"], decades, n=n, bound=bounds[0])
    assert_is(of["highest"], highest, n=n, bound=bounds[1])


def test_the_grid_is_in_the_interval_of_usable_rates() -> None:
    """Of both seeds the row ends somewhere from 1 to 10, and begins somewhere from 0.01 to 0.1."""
    of = usable([run for seed in (0, 1) for run in arm([0.8, 0.9, 0.95, 0.8], seed=seed)])
    assert_is(of["lowest"], 0.1, (0.01, 0.1))
    assert_is(of["highest"], 1, (1, 10))
    assert_is(of["decades"], 1, (1, 3))


def test_ratios_of_usable_rates_by_hand_and_by_seed() -> None:
    runs = [
        *arm([0.8, 0.9, 0.8, 0.8, 0.8], seed=0),  # up to 0.1, at 1 no more
        *arm([0.8, 0.9, 0.95, 0.8, nan], seed=1),  # up to 1
        *arm([0.8, 0.9, 0.9, 0.99, 0.8], seed=0, norm="batch"),  # up to 10: 100 times as high, from 10 to 1,000
        *arm([0.8, 0.9, 0.93, 0.8, 0.8], seed=1, norm="batch"),  # up to 1: once, from 0.1 to 10
        *arm([0.99], seed=2, norm="batch"),  # without a pair
    ]
    of = usable(runs, norm="batch")
    assert_is(of["ratio of highest"], 10, (interval([10, 0.1], log=True)[0], interval([1000, 10], log=True)[1]))


ENDS, GOES_ON = [0.9, 0.9, 0.8], [0.9, 0.9, 0.9]


@pytest.mark.parametrize(
    ("plain", "normed", "found"),
    [
        (ENDS, ENDS, (1, (0.1, 10), 2, 0)),
        (ENDS, GOES_ON, (10, (1, nan), 2, 1)),
        (GOES_ON, ENDS, (0.1, (nan, 1), 2, -1)),
        (GOES_ON, GOES_ON, (1, (nan, nan), 2, 0)),
        (ENDS, [0.8, 0.8], (0.1, (nan, 0.1), 2, -1)),  # usable below the lowest of its rates at most
        ([0.8, 0.8], ENDS, (nan, (nan, nan), 0, 0)),
        ([0.8, 0.8], [0.8, 0.8], (nan, (nan, nan), 0, 0)),
    ],
)
def test_where_the_grid_ends_the_ratio_of_usable_rates_is_a_bound(
    plain: list[float], normed: list[float], found: tuple[float, tuple[float, float], int, int]
) -> None:
    runs = [run for seed in (0, 1) for run in arm(plain, seed=seed) + arm(normed, seed=seed, norm="batch")]
    assert_is(usable(runs, norm="batch")["ratio of highest"], *found)


def test_arms_may_have_rates_of_their_own() -> None:
    """As where each has been refined near its own ends."""
    runs: list[Run] = [{"lr": lr, "test_accuracy": 0.95 if lr < 0.5 else 0.1} for lr in (0.1, 0.4, 0.6, 2.0)]
    runs += [{"lr": lr, "test_accuracy": 0.95 if lr < 2 else 0.1, "norm": "batch"} for lr in (0.1, 1.5, 2.5)]
    assert usable(runs, norm="batch")["ratio of highest"].value == pytest.approx(1.5 / 0.4)


# The most accurate rate


def score(runs: Sequence[Run], norm: str = "none") -> dict[Any, Any]:
    table = rows(tables_of(runs)["score"], *SIGMOID, norm)
    return {key: estimate(table, *key) for key in table.index}


def test_the_score_by_what_the_rate_is_chosen_on() -> None:
    """Of seed 0 the best is 0.95 at 0.01, of seed 1 it is 0.97 at 0.1; held-out images are for 1, then for 0.1."""
    held_out = ([0.1, 0.2, 0.8, 0.1], [0.1, 0.5, 0.3, nan])
    runs = [run | {"validation_accuracy": v} for run, v in zip(scored(), [*held_out[0], *held_out[1]], strict=True)]
    runs += [run | {"norm": "batch", "test_accuracy": run["test_accuracy"] + 0.02} for run in runs]
    of, gained = score(runs), score(runs, "batch")
    assert len(of) == 6
    assert_is(of["other seeds", "accuracy"], 0.7, interval([0.50, 0.90]))
    assert_is(of["other seeds", "rate"], math.sqrt(0.1 * 0.01), interval([0.1, 0.01], log=True))
    assert_is(of["validation images", "accuracy"], 0.925, interval([0.92, 0.93]))
    assert_is(of["validation images", "rate"], 1, (1, 1))
    assert_is(of["its own test images", "accuracy"], 0.96, interval([0.95, 0.97]))
    assert_is(of["its own test images", "rate"], math.sqrt(0.01 * 0.1), interval([0.01, 0.1], log=True))
    for choice in ("other seeds", "validation images", "its own test images"):
        assert_is(gained[choice, "gain"], 0.02, (0.02, 0.02))


def test_without_images_that_are_held_out_no_rate_is_chosen_on_them() -> None:
    assert {key[0] for key in score(scored())} == {"other seeds", "its own test images"}


def test_an_arm_that_always_diverges_has_no_most_accurate_rate() -> None:
    of = score([run | {"validation_accuracy": nan} for seed in (0, 1) for run in arm([nan, nan], seed=seed)])
    assert_is(of["other seeds", "accuracy"], 0, (0, 0))
    assert of["other seeds", "rate"].n == 0


@pytest.mark.parametrize("order", [1, -1])
def test_of_equally_good_rates_the_largest_is_best(order: int) -> None:
    of = score(arm([0.95, 0.95, 0.9])[::order])
    assert_is(of["other seeds", "rate"], 0.1, n=1)  # of a single seed, on itself
    assert_is(of["its own test images", "rate"], 0.1, n=1)


def test_arms_are_in_the_order_of_the_paper_and_none_is_left_out() -> None:
    arms = [(a, n) for a in ("mine.Swish", "relu", "sigmoid") for n in ("mine.Shift", "batch", "none")]
    tables = tables_of([run for a, n in arms for run in arm_of([40], activation=a, norm=n)])
    ordered = [(a, "std 0.1", n) for a in ("sigmoid", "relu", "mine.Swish") for n in ("none", "batch", "mine.Shift")]
    for name in ("usable", "score", "rates"):
        assert [*dict.fromkeys(key[:3] for key in tables[name].index)] == ordered
    assert {key[:3] for key in tables["steps_to_accuracy"].index} == {*ordered}


def test_initializations_are_compared_each_by_itself() -> None:
    he = {"model.init.scheme": "he", "model.init.std": None}
    one, other = arm([0.95, 0.1]) + arm([0.95, 0.95, 0.1], norm="batch"), arm([0.95, 0.1]) + arm([0.1], norm="batch")
    both = tables_of([*one, *(run | he for run in other)])
    for init, alone in ("std 0.1", one), ("he", other):
        found = both["usable"].xs(init, level="init")
        np.testing.assert_array_equal(found.to_numpy(), tables_of(alone)["usable"].to_numpy())
    assert EXPERIMENT
    assert [finding.of for finding in findings_of(EXPERIMENT, both, "A2")][:2] == [
        f"sigmoid, {init}, 90%: ratio of highest usable rates" for init in ("he", "std 0.1")
    ]


# Steps to accuracy

HIGHEST, END = "the baseline's highest", "100% of the way"


def taken(runs: Sequence[Run], quantity: str, norm: str = "batch") -> dict[str, Any]:
    """A quantity of an arm in table ``steps_to_accuracy``, by target."""
    table = rows(tables_of(runs)["steps_to_accuracy"], *SIGMOID, norm)
    return {key[0]: estimate(table, *key) for key in table.index if key[-1] == quantity}


def test_steps_to_accuracy_by_hand() -> None:
    runs = [
        *arm_of([None, None], final=0.6, lr=0.01),
        *arm_of([40, 80]),  # the baseline
        *arm_of([None, None], final=nan, lr=1.0),
        *arm_of([100, 100], lr=0.01, norm="batch"),
        *arm_of([80, 80], lr=0.1, norm="batch"),
        *arm_of([20, 25], lr=1.0, norm="batch"),
        *arm_of([10, None], lr=10.0, norm="batch", final=0.92),
    ]
    quantities = ("target", "rate", "steps", "steps, raw curve")
    plain, other = ({q: taken(runs, q, norm)[HIGHEST] for q in quantities} for norm in ("none", "batch"))
    for of in (plain, other):
        assert_is(of["target"], 0.95, interval(ACCURACY[:2]))
    assert_is(plain["rate"], 0.1, (0.1, 0.1))
    # after step 1, the measurement before
    assert_is(plain["steps"], math.sqrt(40 * 80), (interval([2, 2], log=True)[0], interval([40, 80], log=True)[1]))
    # Of seed 1 the fastest rate is 10, which is that of seed 0 only; of seed 0 it is 1.
    assert_is(other["rate"], math.sqrt(10), interval([1, 10], log=True))
    assert_is(other["steps"], math.sqrt(20 * 100), (interval([2, 100], log=True)[0], nan), bound=1)
    all_seeds, same, raw = (
        taken(runs, f"speed-up, {name}")[HIGHEST] for name in ("all seeds", "same rate", "raw curve")
    )
    assert all_seeds.value == pytest.approx(math.sqrt(40 / 20 * 80 / 25))
    assert same.value == pytest.approx(math.sqrt(40 / 80 * 80 / 80))
    for found in (raw, taken(runs, "speed-up")[HIGHEST]):  # measurements are too far apart to be averaged
        assert (found.bound, found.value) == (-1, pytest.approx(math.sqrt(40 / 20 * 80 / 100)))


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
    found = taken(arm_of(baseline) + arm_of(arm, norm="batch"), "speed-up")[HIGHEST]
    assert (found.value, found.n, found.bound) == (pytest.approx(math.exp(np.log(ratios).mean())), len(ratios), bound)


def dense(steps: float, noise: float = 0.0, **columns: Any) -> list[Run]:
    """Runs of three seeds at 0.1, at 0.95 from ``steps`` on, with a peak of noise far before; measured every 2%."""
    at = np.unique(np.geomspace(1, 100_000, 600).astype(int))
    runs = []
    for seed in range(3):
        values = np.where(at < steps * (1 + 0.1 * seed), 0.5, 0.95)
        values[np.searchsorted(at, steps / 10)] += noise
        curve = dict(zip(at.tolist(), values.tolist(), strict=True))
        runs.append({"lr": 0.1, "seed": seed, "steps": 100_000, "test_accuracy": 0.95, "curve": curve} | columns)
    return runs


def test_the_steps_between_measurements_are_in_the_interval_and_curves_are_smoothed() -> None:
    """The peak is met by raw curves only, which have batch norm gain 100 times."""
    runs = dense(10_000) + dense(1000, noise=0.45, norm="batch")
    found, raw = (taken(runs, name)["90%"] for name in ("speed-up", "speed-up, raw curve"))
    assert found.value == pytest.approx(10, rel=0.03)
    assert 9 < found.low < found.value < found.high < 11
    assert raw.value > 100


def test_targets_are_fixed_and_of_the_way_to_where_the_baseline_ends() -> None:
    levels = taken(arm_of([40, 40]) + arm_of([20, 20], norm="batch"), "target")
    found = {name: level.value for name, level in levels.items()}
    assert [*found] == [
        "80%", "90%", "92%", "94%", "95%", "96%",  # which seed 1 has
        *(f"{way}% of the way" for way in (50, 80, 90, 95, 98, 99, 100)), HIGHEST
    ]  # fmt: skip
    assert found["92%"] == 0.92
    assert found["50% of the way"] == pytest.approx(0.5)
    assert found[END] == pytest.approx(0.9)
    assert found[HIGHEST] == pytest.approx(0.95)


def test_the_baseline_is_at_the_rate_of_the_highest_mean_and_a_diverged_run_counts_as_0() -> None:
    runs = arm_of([10, 10, 10], lr=0.1, final=0.92) + arm_of([10, 10, 10], lr=1.0, final=0.93)
    assert taken(runs, "target", "none")[END].value == pytest.approx(0.93)
    runs[3]["test_accuracy"] = nan
    assert taken(runs, "target", "none")[END].value == pytest.approx(0.92)
    runs = [run | {"validation_accuracy": 1 - run["test_accuracy"]} for run in runs[:3] + arm_of([10] * 3, lr=1.0)]
    assert taken(runs, "target", "none")[END].value == pytest.approx(0.9)


def test_nothing_is_faster_than_a_plain_network_that_does_not_train() -> None:
    """At 18% at every rate, as sigmoids after a few hundred steps, which batch norm has after the first measurement."""
    plain = [run for lr in (0.1, 1.0) for run in arm_of([None, None], final=0.18, lr=lr)]
    for run in plain:
        run["curve"] = {0: 0.1, 100: 0.18}
    runs = plain + arm_of([20, 20], norm="batch", final=0.95)
    assert taken(runs, "speed-up") == {}
    assert {*taken(runs, "steps")} == {"80%", "90%", "92%", "94%", "95%", "96%"}
    assert taken(runs, "steps", "none")["90%"].bound == 1
    assert [*figures_of(runs)] == ["accuracy", "convergence", "usable"]


@pytest.mark.parametrize("diverged", [[0], [0, 1]])
def test_a_baseline_that_diverged_sets_no_target(diverged: list[int]) -> None:
    """However far it got before."""
    runs = arm_of([40, 40]) + arm_of([20, 20], norm="batch")
    for seed in diverged:
        runs[seed] |= {"test_accuracy": nan, "curve": {0: 0.1, 10: 0.2}}
    others = 2 - len(diverged)
    assert [each.n for name, each in taken(runs, "speed-up").items() if name == HIGHEST] == [others] * (others > 0)


def test_a_run_that_diverges_has_got_nowhere() -> None:
    runs = arm_of([40, 40]) + arm_of([20, 20], norm="batch")
    runs[3]["test_accuracy"] = nan
    found = taken(runs, "speed-up")["90%"]
    assert (found.value, found.bound) == (pytest.approx(math.sqrt(40 / 20 * 40 / 100)), -1)


def test_what_was_measured_before_the_first_step_does_not_count() -> None:
    runs = arm_of([40]) + arm_of([20], norm="batch")
    for run in runs:
        run["curve"][0] = 0.99
    assert_is(taken(runs, "target")[HIGHEST], 0.94, n=1)
    assert_is(taken(runs, "steps")[HIGHEST], 20, n=1)


def test_seeds_have_the_target_of_the_baseline_of_their_own() -> None:
    """Seed 1 of the arm has the accuracy that only the baseline of seed 0 has as its target."""
    runs = arm_of([40, 80]) + arm_of([20, 20], norm="batch")
    runs[3]["curve"] = {0: 0.1, 20: ACCURACY[0], 100: 0.9}
    found = taken(runs, "steps")[HIGHEST]
    assert (found.value, found.bound) == (pytest.approx(math.sqrt(20 * 100)), 1)


def test_at_equal_rates_the_speed_up_is_to_what_all_plain_runs_of_the_rate_reach() -> None:
    runs = [
        *arm_of([None, None], lr=0.01, final=0.85),
        *arm_of([40, 80], lr=0.1),
        *arm_of([50, None], lr=1.0, final=0.89),
        *arm_of([20, 50], lr=0.01, norm="batch"),
        *arm_of([80, None], lr=0.1, norm="batch", final=0.85),
        *arm_of([20, 20], lr=10.0, norm="batch"),
    ]
    table = rows(tables_of(runs)["rates"], *SIGMOID)
    found = {key[:2]: estimate(table, *key) for key in table.index if key[-1] == "speed-up to 90%"}
    assert {*found} == {("batch", 0.1)}
    assert found["batch", 0.1].value == pytest.approx(math.sqrt(40 / 80 * 80 / 100))
    assert found["batch", 0.1].bound == -1
    assert_is(estimate(table, "none", 1.0, "final accuracy"), 0.89, (0.89, 0.89))
    assert estimate(table, "none", 1.0, "diverged").value == 0
    assert len(table) == 6 * 2 + 2


def test_numbers_do_not_depend_on_the_order_of_the_runs() -> None:
    runs = arm_of([64] * 5) + arm_of([64, 32, 16, 8, 4], norm="batch") + arm_of([3, 9, 27, 81, 5], lr=1.0, norm="batch")
    runs += arm_of([70] * 5, lr=1.0)
    forwards, backwards = tables_of(runs), tables_of(runs[::-1])
    for name, table in forwards.items():
        pd.testing.assert_frame_equal(table.sort_index(), backwards[name].sort_index(), check_exact=True)


def test_runs_that_differ_in_what_is_not_compared_are_refused() -> None:
    runs = arm_of([40, 40]) + arm_of([20, 20], norm="batch")
    said = r"seed=1: more than one run of activation=sigmoid, init='?std 0\.1'?, norm=batch, lr=0\.1"
    with pytest.raises(InputError, match=said):
        tables_of([*runs, runs[-1]])


# The verdicts


def network(norm: str, highest: float, seeds: int = 2, fails: float = 0.5) -> list[Run]:
    """Runs at rates from 0.01 to 100, of which those up to ``highest`` are usable."""
    accuracies = [0.95 if 10.0 ** (i - 2) <= highest else fails for i in range(5)]
    return [run for seed in range(seeds) for run in arm(accuracies, seed=seed, norm=norm)]


@pytest.mark.parametrize(
    ("runs", "holds"),
    [
        (network("none", 0.1) + network("batch", 10), [True] * 3),
        (network("none", 0.1), [None] * 3),
        (network("batch", 10), []),
        (network("none", 0.1, 1) + network("batch", 10, 1), [None] * 3),
        (network("none", 0.1) + network("batch", 1), [None] * 3),  # 10 times, but the grid makes it 1 to 100
        (network("none", 0.1) + network("batch", 0.1), [None] * 3),
        (network("none", 10) + network("batch", 0.1), [False] * 3),
        (network("none", 0.1) + network("batch", 100), [True] * 3),
        (network("none", 100) + network("batch", 1), [False] * 3),
        (network("none", 0.1) + network("batch", 0), [False] * 3),  # usable nowhere
        (network("none", 0) + network("batch", 1), []),  # the plain network is
        ([run | {"test_accuracy": nan} for run in network("none", 0.1) + network("batch", 1)], []),
        (network("none", 0.1) + [run if run["test_accuracy"] < 0.9 else run | {"test_accuracy": 0.92}
                                 for run in network("batch", 10)], [True, False, True]),
    ],
    ids=[
        "holds", "plain alone", "batch norm alone", "one seed", "coarse", "equal", "lower", "to the end",
        "plain to the end", "nowhere", "plain nowhere", "all diverged", "at 90% only",
    ],
)  # fmt: skip
def test_higher_rates(runs: list[Run], holds: list[bool | None]) -> None:
    assert EXPERIMENT
    findings = findings_of(EXPERIMENT, tables_of(runs), "A2")
    assert [finding.holds for finding in findings] == holds
    levels = ("90%", "95%", "within 1 point")
    assert [finding.of for finding in findings] == [
        f"sigmoid, std 0.1, {level}: ratio of highest usable rates" for level in levels
    ][: len(holds)]


@pytest.mark.parametrize(
    ("plain", "other", "holds"),
    [
        (nan, nan, [True, True]),
        (0.15, 0.15, [True]),  # at chance, which is no divergence
        (0.5, 0.5, []),  # bad, but above chance
    ],
)
def test_training_explodes_at_higher_rates(plain: float, other: float, holds: list[bool]) -> None:
    runs = network("none", 0.1, fails=plain) + network("batch", 10, fails=other)
    assert EXPERIMENT
    findings = findings_of(EXPERIMENT, tables_of(runs), "3.3c")
    assert [finding.holds for finding in findings] == holds


def fast(norm: str, of_seeds: Sequence[int], final: float = 0.95) -> list[Run]:
    """Runs of two seeds that take so many steps, and are measured a factor of 1.2 before, then, and at the end."""
    return [
        {"lr": 0.1, "seed": seed, "norm": norm, "steps": 1000, "test_accuracy": final}
        | {"curve": {0: 0.1, round(steps / 1.2): 0.1, steps: final, 1000: final}}
        for seed, steps in enumerate(of_seeds)
    ]


@pytest.mark.parametrize(
    ("runs", "holds"),
    [
        (fast("none", [400, 600]) + fast("batch", [100, 150]), True),
        (fast("none", [400, 600]) + fast("batch", [400, 600]), False),  # as fast
        (fast("none", [100, 150]) + fast("batch", [400, 600]), False),
        (fast("none", [400, 600]) + fast("batch", [100, 400]), None),
        (fast("none", [400]) + fast("batch", [100]), None),
        (fast("none", [400, 600]), None),
        (fast("none", [500, 500]) + fast("batch", [100, 100], 0.85), None),
        (fast("batch", [100, 150]), ...),
        (fast("none", [400, 600], 0.85) + fast("batch", [100, 150]), ...),
    ],
)
def test_fewer_steps(runs: list[Run], holds: Any) -> None:
    assert EXPERIMENT
    findings = findings_of(EXPERIMENT, tables_of(runs), "3.b")
    ways = [f"sigmoid, std 0.1, speed-up to {way}% of the way" for way in (100, 99, 98, 95, 90, 80, 50)]
    assert [finding.of for finding in findings] == ([] if holds is ... else ways)
    if runs[-1]["test_accuracy"] == 0.85 and holds is None:  # which gets part of the way
        assert [finding.holds for finding in findings] == [False] * 5 + [True] * 2
    elif holds is not ...:
        assert [finding.holds for finding in findings] == [holds] * 7


def test_the_verdict_is_of_both_activations_and_of_batch_norm_alone() -> None:
    good = network("none", 0.1) + network("batch", 10)
    bad = network("none", 10) + network("batch", 0.1) + network("mine.Shift", 100)
    assert EXPERIMENT
    findings = findings_of(EXPERIMENT, tables_of([*good, *(run | {"activation": "relu"} for run in bad)]), "A2")
    assert [(finding.of.partition(",")[0], finding.holds) for finding in findings] == [
        ("sigmoid", True), ("ReLU", False)
    ] * 3  # fmt: skip
    assert judge(findings) == "reproduces in part"


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
    ("runs", "drawn"),
    [
        (arm_of([40, 80]), []),
        (arm_of([40, 80], norm="batch"), []),
        (arm_of([40, 80]) + arm_of([40, 80], lr=1.0, norm="batch"), ["usable", "speed_up"]),
        (arm_of([None, None], final=0.2) + arm_of([40, 80], norm="batch"), ["usable"]),
    ],
    ids=["plain", "batch norm", "both", "plain is not usable"],
)
def test_what_is_compared_is_drawn_where_there_is_something(runs: list[Run], drawn: list[str]) -> None:
    figures = figures_of(runs)
    assert [*figures] == ["accuracy", "convergence", *drawn]
    for name, figure in figures.items():
        assert [ax.get_title() for ax in figure.axes] == ["sigmoid" if name == "usable" else "sigmoid, std 0.1"]


def test_accuracy_is_drawn_against_the_rate_with_what_is_usable() -> None:
    runs = arm([0.2, 0.8, nan]) + arm([0.4, 0.9], seed=1) + arm([0.7], activation="relu")
    figure = figures_of([run | {"curve": {10: 0.2}} for run in runs])["accuracy"]
    assert [(ax.get_title(), ax.get_xlabel()) for ax in figure.axes] == [
        ("sigmoid, std 0.1", "learning rate"), ("ReLU, std 0.1", "learning rate")
    ]  # fmt: skip
    assert marked(figure.axes[0])["o"] == [[0.01, pytest.approx(0.3)], [0.1, pytest.approx(0.85)]]
    assert [x for x, _ in marked(figure.axes[0])["x"]] == [1]
    assert "usable: 90%" in legend_of(figure)


def test_convergence_is_of_each_arm_at_its_fastest_and_at_the_plain_networks_rate() -> None:
    runs = [
        *arm_of([40, 80], final=0.91),
        *arm_of([80, 80], norm="batch", final=0.92),
        *arm_of([20, 20], norm="batch", lr=1.0, final=0.92),
        *arm_of([90, 90], norm="batch", lr=10.0, final=0.93),  # most accurate, not drawn
        *arm_of([50, 50], activation="relu"),
        *arm_of([50, 50], activation="relu", norm="batch"),  # the same rate is the fastest
    ]
    runs[1] |= {"diverged_at": 95, "test_accuracy": nan}
    runs[0]["test_accuracy"] = 0.99
    figure = figures_of(runs)["convergence"]
    assert [ax.get_title() for ax in figure.axes] == ["sigmoid, std 0.1", "ReLU, std 0.1"]
    assert [legend_of(ax) for ax in figure.axes] == [
        ["without batch norm, 0.1", "with batch norm, 1", "with batch norm, 0.1", "the baseline's end"],
        ["without batch norm, 0.1", "with batch norm, 0.1", "the baseline's end"],
    ]
    first, second = figure.axes
    lines = {str(line.get_label()): line for line in first.get_lines()}
    ends = {label: line.get_xydata()[-1].tolist() for label, line in lines.items()}  # type: ignore[union-attr,index]
    assert ends["without batch norm, 0.1"] == [100, 0.91]
    assert ends["with batch norm, 1"] == [100, 0.92]
    assert lines["with batch norm, 0.1"].get_linewidth() < lines["with batch norm, 1"].get_linewidth()
    assert marked(first)["x"] == [[95, 0.05]]
    assert len(second.get_lines()) == 3
    assert lines["the baseline's end"].get_ydata() == pytest.approx([0.91, 0.91])
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


def test_ratios_of_usable_rates_are_drawn_with_their_interval_or_as_a_bound() -> None:
    runs = network("none", 0.1) + network("batch", 10)
    runs += [run | {"activation": "relu"} for run in network("none", 0.1) + network("batch", 100)]
    figure = figures_of([run | {"curve": {10: 0.2}} for run in runs])["usable"]
    assert [ax.get_title() for ax in figure.axes] == ["sigmoid", "ReLU"]
    names = [f"std 0.1, {level}" for level in ("90%", "95%", "within 1 point", "above chance", "no divergence")]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == names
    first, second = map(marked, figure.axes)
    np.testing.assert_allclose(first["s"], [[100, 0], [100, 1], [100, 2], [1, 3], [1, 4]])
    np.testing.assert_allclose(second[">"], [[1000, 0], [1000, 1], [1000, 2]])
    whole = figure.axes[0].collections[0].get_segments()[0]  # type: ignore[attr-defined]
    np.testing.assert_allclose(whole, [[10, 0], [1000, 0]])
    verticals = {line.get_xdata()[0] for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 2}  # type: ignore[arg-type,index]
    assert {5, 30} <= verticals
    assert legend_of(figure) == [
        "with batch norm",
        "95% interval (▾ at most, ▴ at least)",
        "5 and 30 times, as in the paper",
        "a ratio below 1.25, which does not matter",
    ]


def test_speed_ups_are_drawn_against_the_target_with_all_choices_and_the_papers() -> None:
    runs = arm_of([40, 80], final=0.92) + arm_of([20, 20], norm="batch") + arm_of([10, None], lr=1.0, norm="batch")
    figure = figures_of(runs)["speed_up"]
    (ax,) = figure.axes
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("target of test accuracy", "speed-up over the plain network")
    found = {q: taken(runs, q) for q in ("speed-up", "speed-up, all seeds", "speed-up, same rate", "target")}
    assert found["speed-up"][HIGHEST] != found["speed-up, all seeds"][HIGHEST]
    at = {name: target.value for name, target in found.pop("target").items()}
    curves = [np.asarray(line.get_xydata()) for line in ax.get_lines() if len(np.atleast_1d(line.get_xdata())) > 2]
    for by_target, curve in zip(found.values(), curves, strict=False):
        points = sorted((at[name], each.value) for name, each in by_target.items() if each.n)
        np.testing.assert_allclose(curve[np.lexsort(curve.T[::-1])], points)
    heights = {round(line.get_ydata()[0], 2) for line in ax.get_lines() if np.ptp(line.get_ydata()) == 0}  # type: ignore[arg-type,index]
    assert {2.33, 14.76} <= heights
    assert legend_of(figure) == [
        "with batch norm",
        "95% interval (▾ at most, ▴ at least)",
        "each at its fastest rate, by the other seeds",
        "each at its fastest rate, by all seeds",
        "both at the plain network's fastest rate",
        "by raw curves",
        "a ratio below 1.25, which does not matter",
        "the baseline's end, and its highest",
        "the paper's, at the same rate: 2.33",
        "the paper's, at 5 times the rate: 14.8",
    ]
