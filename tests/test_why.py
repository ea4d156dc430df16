"""What speeds training up: the numbers of controls and critics by hand, their verdicts, and the figures."""

from math import e, inf, nan, sqrt
from typing import Any

import pandas as pd
import pytest
from made_up import findings_of

from bnrepro.analysis import Tables, estimate, rows
from bnrepro.experiment import Experiment, import_experiment
from bnrepro.figures import look
from bnrepro.store import Results

found = import_experiment("why")
assert found
why: Experiment = found

PATH = "bnrepro.experiments.norms."
NOISY, FROZEN = f"{PATH}NoisyBatchNorm", f"{PATH}FrozenStatistics"
STEPS = (0, 4, 20, 40, 60, 80, 100)
"""Measured steps: intervals are even from step 40 on; the first tenth ends with step 10, the last begins with 90."""


def a_run(norm: str, accuracies: list[float], seed: int = 0, **more: Any) -> dict[str, Any]:
    """A run with these test accuracies at the steps after 0; where they end early, it diverged."""
    return {"norm": norm, "accuracies": [0.1, *accuracies], "seed": seed, "lr": 0.1, "activation": "sigmoid"} | more


def tables_of(*given: dict[str, Any]) -> Tables:
    runs, curves, layers = [], [], []
    for number, run in enumerate(given):
        settings = {key: run[key] for key in ("norm", "seed", "lr", "activation")}
        ended = len(run["accuracies"]) == len(STEPS)
        final = run["accuracies"][-1] if ended else nan
        end = {"status": "done" if ended else "diverged", "test_accuracy": final, "diverged_at": nan if ended else 41}
        name = {"run_id": f"{number:02}"}
        runs.append(name | settings | end | {"steps": 100, "train.measurements": 5})
        for i, (step, accuracy) in enumerate(zip(STEPS, run["accuracies"], strict=False)):
            measured = {"train_loss": 1.0, "landscape_smoothness": 1.0}
            measured |= {key: run[key][i] for key in run if key in (*measured, "accuracy_ema", "accuracy_population")}
            curves.append(name | {"step": step, "test_accuracy": accuracy} | measured)
            layers += [
                name | {"step": step, "layer": n, "drift_wasserstein": run.get("drift", 1.0) * n} for n in (1, 3)
            ]
    return why.analyse(Results(pd.DataFrame(runs), pd.DataFrame(curves), pd.DataFrame(layers), pd.DataFrame()))


SLOW, FAST = [0.1, 0.1, 0.1, 0.4, 0.7, 0.96], [0.4, 0.7, 0.95, 0.96, 0.96, 0.97]
HALFWAY = [0.25, 0.4, 0.525, 0.68, 0.83, 0.965]


def of_seeds(norm: str, accuracies: list[float], **more: Any) -> list[dict[str, Any]]:
    return [a_run(norm, accuracies, seed, **more) for seed in (0, 1)]


BOTH = of_seeds("none", SLOW) + of_seeds("batch", FAST)


@pytest.mark.parametrize(
    ("accuracies", "kept", "holds"),
    [
        (HALFWAY, 0.5, True),
        (FAST, 1, False),
        (SLOW, 0, True),
        ([0.4, 0.7, 0.95], (2.05 - 2.36) / (4.94 - 2.36), True),  # it diverged, and has 0 from there on
    ],
)
def test_a_control_keeps_a_share_of_the_gain_in_mean_accuracy(
    accuracies: list[float], kept: float, holds: bool
) -> None:
    tables = tables_of(*BOTH, *of_seeds(FROZEN, accuracies))
    (finding,) = findings_of(why, tables, "A1")
    assert finding.of == "sigmoid, rate 0.1, statistics frozen, share of the gain kept"
    assert finding.estimate.value == pytest.approx(kept)
    assert finding.holds is holds


def test_controls_are_compared_at_the_plain_networks_most_accurate_rate() -> None:
    faster = [run | {"lr": 0.4} for run in [*BOTH[2:], *of_seeds(NOISY, FAST)]]
    tables = tables_of(*BOTH, *of_seeds("none", [0.1] * 6, lr=0.4), *faster, *of_seeds(NOISY, FAST))
    assert tables["controls"].index.tolist() == [("sigmoid", "noisy batch norm", 0.1, "share of the gain kept")]
    assert {key[2] for key in tables["curves"].index} == {0.1}


@pytest.mark.parametrize(("drift", "holds"), [(2.0, [True, True]), (0.5, [False, True])])
def test_noise_makes_inputs_drift_and_training_is_still_faster(drift: float, holds: list[bool]) -> None:
    tables = tables_of(*BOTH, *of_seeds(NOISY, FAST, drift=drift))
    findings = findings_of(why, tables, "+noise")
    assert [finding.holds for finding in findings] == holds
    assert findings[0].estimate.value == pytest.approx(drift)
    assert findings[1].estimate == pytest.approx((2.5, 81 / 40, 100 / 21, 2, 0))  # 100 steps to 95%, and 40


def test_what_ends_below_90_never_gets_to_95() -> None:
    score = tables_of(*BOTH, *of_seeds(FROZEN, [*FAST[:-1], 0.5]))["score"]
    assert estimate(score, "sigmoid", "batch", 0.1, "steps to 95%").value == pytest.approx(40)
    never = estimate(score, "sigmoid", "statistics frozen", 0.1, "steps to 95%")
    assert (never.value, never.bound) == pytest.approx((100, 1))


def test_smoothness_is_compared_at_equal_steps_and_at_equal_loss() -> None:
    """Without, it is 2 e at losses in [1, √10), 4 e in [√10, 10); with batch norm e and 3 e, and at other steps."""
    plain = {"train_loss": [9, 9, 5, 5, 5, 2, 2], "landscape_smoothness": [0, inf, 4 * e, 4 * e, 4 * e, 2 * e, 2 * e]}
    other = {"train_loss": [9, 5, 2, 2, 2, 2, 0.1], "landscape_smoothness": [0, 3 * e, e, e, e, e, 9]}
    tables = tables_of(*of_seeds("none", SLOW, **plain), *of_seeds("batch", FAST, **other))
    equal_steps, equal_loss = findings_of(why, tables, "+smoothness")
    assert equal_steps.estimate.value == pytest.approx(((3 * e + 9) / 4) / (3 * e))
    assert equal_loss.estimate.value == pytest.approx(sqrt(3 / 4 * 1 / 2))
    assert (equal_steps.holds, equal_loss.holds) == (True, True)


@pytest.mark.parametrize(
    ("gain", "holds"), [([0.005, 0.0051], True), ([0.02, 0.0201], False), ([0.0, 0.02], None), ([-0.02, -0.02], False)]
)
def test_the_gain_at_small_rates_is_that_at_the_smallest_at_which_both_train(gain: list[float], holds: bool) -> None:
    runs = []
    for seed, more in enumerate(gain):
        for lr, final, added in ((0.01, 0.5, 0.4), (0.1, 0.95, more), (0.4, 0.95, 0.04)):
            runs.append(a_run("none", [0.1] * 5 + [final], seed, lr=lr))
            runs.append(a_run("batch", [0.1] * 5 + [final + added], seed, lr=lr))
    (finding,) = findings_of(why, tables_of(*runs), "+small_rates")
    assert finding.of == "sigmoid, rate 0.1, gain"
    assert finding.estimate.value == pytest.approx(sum(gain) / 2)
    assert finding.holds is holds


def test_moving_averages_lag_early_and_agree_late() -> None:
    kinds = {"accuracy_ema": [0, 0.3, 0.9, 0.9, 0.9, 0.9, 0.9], "accuracy_population": [1, 0.4, 0, 0, 0, 0, 0.905]}
    again = of_seeds("batch", FAST, **kinds)
    tables = tables_of(*BOTH, *again)
    assert [(f.of, f.holds) for f in findings_of(why, tables, "+precise")] == [
        ("sigmoid, rate 0.1, Algorithm 2 less moving averages, early", True),
        ("sigmoid, rate 0.1, Algorithm 2 less moving averages, late", True),
    ]
    early, late = tables["statistics"]["value"]
    assert (early, late) == pytest.approx((0.1, 0.005))
    without = tables_of(*BOTH)
    pd.testing.assert_frame_equal(tables["score"], without["score"])  # they are no further seeds
    assert findings_of(why, without, "+precise") == []
    pd.testing.assert_frame_equal(tables_of(*again)["statistics"], tables["statistics"])  # nor left out alone


def test_the_figures_are_of_what_is_measured() -> None:
    tables = tables_of(*BOTH, *of_seeds(NOISY, FAST), *of_seeds(FROZEN, FAST[:3]))
    with look():
        drawn = why.draw(tables)
    assert [*drawn] == ["rates", "controls", "smoothness"]
    top, bottom = drawn["controls"].axes
    assert top.get_title() == "sigmoid, rate 0.1"
    assert "drift" in bottom.get_ylabel()
    (legend,) = drawn["controls"].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "without batch norm", "with batch norm", "noisy batch norm", "statistics frozen",
        "range over 2 seeds (line: median)", "diverged",
    ]  # fmt: skip
    assert rows(tables["diverged_at"], "sigmoid", "statistics frozen", 0.1)["value"].tolist() == [41, 41]
