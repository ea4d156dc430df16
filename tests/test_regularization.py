"""Batch norm and dropout: their numbers by hand, the verdicts, the figures, and the accuracy on training images."""

import importlib
from math import nan
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import findings_of

from bnrepro.analysis import Tables, estimate, rows
from bnrepro.experiment import Experiment, import_experiment
from bnrepro.figures import look
from bnrepro.store import Results

found = import_experiment("regularization")
assert found
regularization: Experiment = found

FEW, ALL = 300.0, nan
SHORT = {
    "size": "dataset.train_examples",
    "dropout": "model.dropout",
    "decay": "optimizer.weight_decay",
    "batch": "train.batch_size",
}


def a_run(norm: str, final: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    settings = {"size": ALL, "dropout": 0.0, "decay": 0.0, "batch": 60, "lr": 0.1}
    return {"norm": norm, "final": final, "seed": seed, "trained": 1.0} | settings | more


def tables_of(*given: dict[str, Any]) -> Tables:
    """Runs measured at steps 0 and 10, and in between where they have ``losses``: pairs of loss and accuracy."""
    runs, curves = [], []
    for number, run in enumerate(given):
        name = {"run_id": f"{number:02}"}
        settings = {SHORT.get(key, key): run[key] for key in ("norm", "seed", "lr", *SHORT)}
        end = {"status": "diverged" if run["final"] != run["final"] else "done", "test_accuracy": run["final"]}
        runs.append(name | settings | end)
        curves.append(name | {"step": 0, "train_loss": 2.3, "test_accuracy": 0.0})
        for step, (loss, accuracy) in enumerate(run.get("losses", []), start=1):
            curves.append(name | {"step": step, "train_loss": loss, "test_accuracy": accuracy})
        last = {"train_accuracy": run["trained"], "companions": run.get("companions", nan)}
        curves.append(name | {"step": 10, "train_loss": 1e-5, "test_accuracy": run["final"]} | last)
    return regularization.analyse(Results(pd.DataFrame(runs), pd.DataFrame(curves), pd.DataFrame(), pd.DataFrame()))


def of_seeds(norm: str, finals: list[float], **more: Any) -> list[dict[str, Any]]:
    return [a_run(norm, final, seed, **more) for seed, final in enumerate(finals)]


def test_each_arm_is_shown_at_the_best_of_its_rates_and_decays() -> None:
    runs = [
        *of_seeds("none", [0.8, 0.9], trained=0.99),
        *of_seeds("none", [0.9, 0.92], trained=0.97, lr=0.3, decay=1e-3),
        *of_seeds("none", [nan, 0.99], lr=1.0),  # 0.495 on average
        *of_seeds("none", [0.95, 0.95], dropout=0.2),
        *of_seeds("none", [0.5, 0.5], size=FEW),
    ]
    score = tables_of(*runs)["score"]
    assert rows(score, "all images", "none", 0)["value"].to_dict() == pytest.approx(
        {"final accuracy": 0.91, "training accuracy": 0.97, "gap": 0.06, "rate": 0.3, "weight decay": 1e-3}
    )
    assert estimate(score, "all images", "none", 0.2, "final accuracy").value == pytest.approx(0.95)
    assert estimate(score, "300 images", "none", 0, "final accuracy").value == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("alone", "dropped", "plain", "holds"),
    [
        ([0.95, 0.951], [0.95, 0.951], [0.955, 0.956], [True, True]),
        ([0.95, 0.951], [0.99, 0.991], [0.955, 0.956], [True, False]),
        ([0.95, 0.951], [0.95, 0.951], [0.97, 0.971], [False, True]),
        ([0.90, 0.951], [0.95, 0.951], [0.97, 0.95], [None, None]),
    ],
)
def test_dropout_is_not_needed_if_batch_norm_alone_is_as_good_as_any_with_it(
    alone: list[float], dropped: list[float], plain: list[float], holds: list[bool | None]
) -> None:
    runs = of_seeds("batch", alone) + of_seeds("batch", dropped, dropout=0.2) + of_seeds("none", [0.99, 0.99])
    runs += of_seeds("none", plain, dropout=0.2) + of_seeds("none", [0.5, 0.5], dropout=0.5)
    tables = tables_of(*runs)
    no_worse, gain = findings_of(regularization, tables, "A4")
    assert no_worse.of == "all images, batch norm alone less plain with dropout"
    assert no_worse.estimate.value == pytest.approx(np.mean(alone) - np.mean(plain))
    assert gain.estimate.value == pytest.approx(np.mean(dropped) - np.mean(alone))
    assert [no_worse.holds, gain.holds] == holds
    of_plain = estimate(tables["compared"], "all images", "none", "gain by dropout")
    assert of_plain.value == pytest.approx(np.mean(plain) - 0.99)


def test_batch_norm_regularises_if_the_gap_is_smaller_and_accuracy_higher_at_equal_loss() -> None:
    plain = [(0.5, 0.9), (0.05, 0.8), (0.04, 0.82), (0.02, 0.85)]  # what is above a loss of 0.1 does not count
    other = [(0.5, 0.1), (0.06, 0.84), (0.02, 0.86), (0.005, 0.99)]  # nor what only one of both has
    runs = of_seeds("none", [0.90, 0.90], losses=plain) + of_seeds("batch", [0.94, 0.94], losses=other)
    runs += of_seeds("batch", [0.99, 0.99], decay=1e-3) + of_seeds("none", [0.99, 0.99], dropout=0.2)
    gap, equal_loss = findings_of(regularization, tables_of(*runs), "3.4b")
    assert gap.estimate.value == pytest.approx(0.10 - 0.06)
    # the last measurement, at a loss of 1e-5, is in a half-decade of its own
    assert equal_loss.estimate.value == pytest.approx((0.84 - 0.81 + 0.86 - 0.85 + 0.94 - 0.90) / 3)
    assert (gap.holds, equal_loss.holds) == (True, True)


@pytest.mark.parametrize(("power", "holds"), [(-0.5, [True, True]), (-1.0, [True, False]), (-0.39, [True, False])])
def test_the_spread_over_companions_falls_by_a_power_of_the_size_of_mini_batches(
    power: float, holds: list[bool]
) -> None:
    runs = [
        run for m in (15, 60, 240) for run in of_seeds("batch", [0.9, 0.9], batch=m, companions=0.2 * (m / 60) ** power)
    ]
    for other in ({"lr": 0.3}, {"dropout": 0.2}, {"decay": 1e-3}):
        runs += of_seeds("batch", [0.9, 0.9], companions=9, **other)
    tables = tables_of(*runs, *of_seeds("none", [0.9, 0.9], companions=0))
    spread, exponent = findings_of(regularization, tables, "3.4a")
    assert spread.estimate.value == pytest.approx(0.2)
    assert exponent.estimate.value == pytest.approx(power)
    assert [spread.holds, exponent.holds] == holds
    assert tables["spread"].index.tolist() == [("all images", 15), ("all images", 60), ("all images", 240)]


def test_the_figures_are_of_what_is_measured() -> None:
    arms = [(norm, share) for norm in ("none", "batch") for share in (0.0, 0.2)]
    runs = [run for norm, share in arms for run in of_seeds(norm, [0.9, 0.92], dropout=share)]
    with look():
        drawn = regularization.draw(tables_of(*runs, *of_seeds("none", [0.8, 0.8], size=FEW)))
    assert [*drawn] == ["dropout", "gap"]
    assert [ax.get_title() for ax in drawn["dropout"].axes] == ["300 images", "all images"]
    dashed = [np.asarray(line.get_xydata()) for line in drawn["dropout"].axes[1].lines if line.get_linestyle() == "--"]
    assert [line[:, 1].tolist() for line in dashed if len(line) == 2] == [pytest.approx([0.91, 0.91])]


def test_training_accuracy_is_that_in_inference_mode() -> None:
    measures: Any = importlib.import_module("bnrepro.experiments.generalization")

    class Network:
        def forward(self, params: Any, state: Any, x: Any, *, train: bool) -> tuple[Any, Any, Any]:
            assert not train
            return np.array([[[3, 1], [3, 1], [0, 1], [0, 1]], [[0, 1]] * 4]), state, None

    class Snapshot:
        network, params, state, x = Network(), None, None, None
        targets = np.eye(2)[None, [0, 0, 0, 1]]

    assert measures.train_accuracy(Snapshot()) == {"train_accuracy": pytest.approx([3 / 4, 1 / 4])}
