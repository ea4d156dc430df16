"""Whitening: each arm at its fastest rate, speed-ups and times by hand, the verdicts, and the figures."""

import importlib
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bnrepro.analysis import Tables, estimate, judge
from bnrepro.experiment import import_experiment
from bnrepro.store import Results

EXPERIMENT = import_experiment("whitening")
assert EXPERIMENT
whitening: Any = importlib.import_module("bnrepro.experiments.whitening")
PLAIN = {"norm": "none", "dataset.inputs": "raw"}
NORM = PLAIN | {"norm": "batch"}
LAYERS = PLAIN | {"norm": whitening.NORM}
WHITENED = {"dataset.inputs": "whitened"}
MORE = WHITENED | {"dataset.whitening_epsilon": 0.5}
NEVER = 1000


def tables_of(*arms: tuple[dict[str, Any], float, list[int]], seconds: float = 0.1) -> Tables:
    """The tables of arms at a rate, with the step at which each seed is first seen at 90%, of 200 measured in tens."""
    runs, curves = list[dict[str, Any]](), list[dict[str, Any]]()
    for settings, lr, reached in arms:
        for seed, at in enumerate(reached):
            own = {"run_id": str(len(runs)), "lr": lr, "seed": seed, "steps": 200, "status": "done"} | settings
            slow = own["norm"] == whitening.NORM
            own |= {"activation": "relu", "test_accuracy": 0.95 if at < NEVER else 0.5}
            runs.append(own | {"model.hidden": [3], "seconds": seconds * 3 if slow else 0.1})
            curves += [
                {
                    "run_id": own["run_id"],
                    "step": step,
                    "test_accuracy": 0.95 if step >= at else 0.1,
                    "train_loss": 0.35 if step >= at + 10 else 0.36,
                }
                for step in range(0, 201, 10)
            ]
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(runs), pd.DataFrame(curves), pd.DataFrame(), pd.DataFrame()))


def test_each_arm_is_at_the_rate_at_which_it_takes_the_fewest_steps() -> None:
    tables = tables_of(
        (PLAIN, 0.1, [100, 100]), (PLAIN, 0.4, [80, NEVER]), (PLAIN, 1.6, [100, 100]),
        (PLAIN | WHITENED, 0.1, [20, 20]), (PLAIN | WHITENED, 0.4, [40, 10]),
    )  # fmt: skip
    best = {
        name: estimate(tables["best"], "[3]", "relu", "none", "raw", name) for name in ("fastest rate", "steps to 90%")
    }
    assert best["fastest rate"].value == 1.6  # the larger of equals
    assert best["steps to 90%"].value == pytest.approx(100)
    rates = tables["rates"].xs(("[3]", "relu", "none", "raw", 0.4))
    assert tuple(rates.loc["steps to 90%"])[::4] == (pytest.approx(np.sqrt(80 * 200)), 1)  # at least
    found = estimate(tables["best"], "[3]", "relu", "none", "whitened", "speed-up over raw inputs")
    assert estimate(tables["best"], "[3]", "relu", "none", "whitened", "fastest rate").value == 0.4
    assert found.value == pytest.approx(np.sqrt(100 / 40 * 100 / 10))
    falls = estimate(tables["best"], "[3]", "relu", "none", "whitened", whitening.OVER_RAW_BY_LOSS)
    assert falls.value == pytest.approx(np.sqrt(110 / 50 * 110 / 20))


def test_the_interval_of_a_speed_up_has_the_steps_between_measurements_in_it() -> None:
    tables = tables_of((PLAIN, 0.1, [100, 100]), (PLAIN | WHITENED, 0.1, [20, 20]))
    found = estimate(tables["best"], "[3]", "relu", "none", "whitened", "speed-up over raw inputs")
    assert (found.value, found.low, found.high) == pytest.approx((5, 91 / 20, 100 / 11))


def test_a_step_that_whitens_takes_its_time() -> None:
    tables = tables_of((NORM, 0.1, [50, 50]), (LAYERS, 0.1, [60, 60]))
    of_layers = {
        name: estimate(tables["best"], "[3]", "relu", whitening.WHITENING, "raw", name)
        for name in ("ms per step", "time of a step over that of batch norm", "speed-up over batch norm")
    }
    assert [found.value for found in of_layers.values()] == pytest.approx([1.5, 3, 50 / 60])


@pytest.mark.parametrize(
    ("claim", "arms", "seconds", "answer"),
    [
        ("2.1", [(PLAIN, [100, 100]), (PLAIN | WHITENED, [50, 50])], 0.1, "reproduces"),
        ("2.1", [(PLAIN, [100, 100]), (PLAIN | WHITENED, [100, 100])], 0.1, "does not reproduce"),
        ("2.1", [(PLAIN, [NEVER, NEVER]), (PLAIN | WHITENED, [100, 100])], 0.1, "reproduces"),
        (
            "2.1",
            [(PLAIN, [100, 100]), (PLAIN | WHITENED, [50, 50]), (PLAIN | MORE, [100, 100])],
            0.1,
            "reproduces in part",
        ),
        ("2.1", [(PLAIN, [100]), (PLAIN | WHITENED, [50])], 0.1, "can't be told from these runs"),
        ("+inputs", [(NORM, [100, 100]), (NORM | WHITENED, [100, 100])], 0.1, "reproduces"),
        ("+inputs", [(NORM, [100, 100]), (NORM | WHITENED, [50, 50])], 0.1, "does not reproduce"),
        ("+inputs", [(NORM, [100, 100]), (NORM | MORE, [100, 100])], 0.1, "reproduces"),
        ("2.4", [(NORM, [100, 100]), (LAYERS, [100, 100])], 0.1, "reproduces"),
        ("2.4", [(NORM, [100, 100]), (LAYERS, [50, 50])], 0.1, "reproduces in part"),
        ("2.4", [(NORM, [100, 100]), (LAYERS, [50, 50])], 0.03, "does not reproduce"),
        ("2.4", [(NORM, [100, 100])], 0.1, "can't be told from these runs"),
    ],
)
def test_verdicts(claim: str, arms: list[tuple[dict[str, Any], list[int]]], seconds: float, answer: str) -> None:
    tables = tables_of(*((settings, 0.1, reached) for settings, reached in arms), seconds=seconds)
    assert EXPERIMENT
    (found,) = [each.findings(tables) for each in EXPERIMENT.claims if each.id == claim]
    assert judge(found) == answer


def test_figures_are_of_inputs_in_one_network_and_of_layers_in_another() -> None:
    assert EXPERIMENT
    tables = tables_of((PLAIN, 0.1, [100, 100]), (PLAIN, 0.4, [50, NEVER]), (PLAIN | WHITENED, 0.1, [50, 50]))
    drawn = EXPERIMENT.draw(tables)
    assert [*drawn] == ["inputs"]
    (ax,) = drawn["inputs"].axes
    (raw,) = [np.asarray(line.get_ydata()) for line in ax.get_lines() if len(np.ravel(line.get_xdata())) == 2]
    np.testing.assert_allclose(raw, [100, np.sqrt(50 * 200)])
    assert ax.get_title() == "ReLU, without batch norm"
    assert [*EXPERIMENT.draw(tables_of((NORM, 0.1, [50]), (LAYERS, 0.1, [60])))] == ["layers"]
