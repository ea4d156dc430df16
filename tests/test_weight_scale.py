"""The scale of weights: slopes, growth and effective rates by hand, the verdicts, the figures; and its diagnostic."""

import importlib
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from bnrepro.analysis import Tables, estimate, judge
from bnrepro.batchnorm import BatchNorm
from bnrepro.experiment import import_experiment
from bnrepro.layers import ReLU, softmax_cross_entropy, xavier
from bnrepro.network import Network, mlp, stack_runs
from bnrepro.store import Results

EXPERIMENT = import_experiment("weight_scale")
assert EXPERIMENT
scale: Any = importlib.import_module("bnrepro.experiments.scale_invariance")
nan = math.nan


def tables_of(*runs: dict[str, Any]) -> Tables:
    """The tables of runs, by settings, accuracy, ``own`` and ``others`` by a, ``norms`` at the first and last step."""
    rows, curves, layers = list[dict[str, Any]](), list[dict[str, Any]](), list[dict[str, Any]]()
    for run in runs:
        name, accuracy = {"run_id": str(len(rows))}, run.get("accuracy", 0.95)
        settings = {"activation": "relu", "norm": "batch", "seed": 0, "lr": 0.1, "optimizer.name": "sgd"}
        status = {"test_accuracy": accuracy, "status": "diverged" if math.isnan(accuracy) else "done"}
        rows.append(name | settings | {key: value for key, value in run.items() if key in settings} | status)
        for step in (0, 10):
            measured = {
                f"scaled_{which}_{end}": run[which](a) * (step > 0)
                for which in ("own", "others")
                if which in run
                for end, a in scale.SCALES.items()
            }
            curves.append(name | {"step": step, "train_loss": 1.0} | measured)
            for layer, norms in enumerate(run.get("norms", []), start=1):
                norm = norms[step > 0]
                layers.append(
                    name | {"step": step, "layer": layer, "weight_norm": norm, "effective_rate": run["lr"] / norm**2}
                )
    assert EXPERIMENT
    return EXPERIMENT.analyse(Results(pd.DataFrame(rows), pd.DataFrame(curves), pd.DataFrame(layers), pd.DataFrame()))


def right(seed: int) -> dict[str, Any]:
    return {"own": lambda a: 1 / a, "others": lambda a: 1e-4 if a > 1 else 0.5, "seed": seed}


def test_slopes_are_of_the_last_step_for_large_and_for_small_factors() -> None:
    table = tables_of(right(0), right(1), {"norm": "none", "own": lambda a: 0.0, "others": lambda a: 1.0})["identities"]
    for side, change in (("up", 1e-4), ("down", 0.5)):
        assert estimate(table, "relu", "batch", side, "slope of own gradient").value == pytest.approx(-1)
        assert estimate(table, "relu", "batch", side, "change of others").value == pytest.approx(change)
    assert estimate(table, "relu", "none", "up", "slope of own gradient").n == 0  # whose units are all dead


@pytest.mark.parametrize(
    ("own", "others", "holds"),
    [
        (lambda a: 1 / a, 1e-3, [True, True, True]),
        (lambda a: a**-0.9, 0.02, [False, True, False]),
        (lambda a: a**-1.1, 1e-3, [True, False, True]),
    ],
)
def test_the_identities_hold_within_a_hundredth(own: Any, others: float, holds: list[bool]) -> None:
    tables = tables_of(*({"own": own, "others": lambda a: others, "seed": seed} for seed in (0, 1)))
    assert [finding.holds for finding in findings("3.3a", tables)] == holds


def findings(claim: str, tables: Tables) -> Any:
    assert EXPERIMENT
    (found,) = [each.findings(tables) for each in EXPERIMENT.claims if each.id == claim]
    return found


def hidden(lr: float, last: float, accuracy: float = 0.95, **settings: Any) -> dict[str, Any]:
    """A run whose hidden weights grow from 2 to ``last`` and from 8 to 4 ``last``; those of the logits stay."""
    norms = [(2.0, last), (8.0, 4 * last), (1.0, 1.0)]
    return {"optimizer.name": "mine.HiddenSGD", "lr": lr, "norms": norms, "accuracy": accuracy} | settings


def test_growth_and_effective_rate_are_geometric_means_over_hidden_layers() -> None:
    tables = tables_of(*(hidden(lr, last, seed=seed) for seed in (0, 1) for lr, last in ((1.0, 4.0), (100.0, 8.0))))
    table = tables["hidden_rates"]
    assert estimate(table, "relu", "batch", 100.0, "growth of weights").value == pytest.approx(4)
    assert estimate(table, "relu", "batch", 100.0, "effective rate").value == pytest.approx(100 / (8 * 32))
    start = tables["effective"].loc[("behind", "relu", "batch", 100.0), "value"]
    assert start == pytest.approx(100 / (2 * 8))
    together = tables["all_hidden_rates"]
    assert estimate(together, "relu", "batch", "ratio of rates").value == 100
    assert estimate(together, "relu", "batch", "ratio of effective rates").value == pytest.approx(100 / 2**2)


@pytest.mark.parametrize(
    ("last", "accuracy", "holds", "answer"),
    [
        (8.0, 0.95, [True, False], "reproduces in part"),  # 100 / 4 is more than the root of 100
        (16.0, 0.95, [True, True], "reproduces"),
        (16.0, 0.8, [False, True], "reproduces in part"),
        (16.0, nan, [False, None], "can't be told from these runs"),
    ],
)
def test_rates_are_stabilised(last: float, accuracy: float, holds: list[bool | None], answer: str) -> None:
    runs = [(1.0, 4.0, 0.95), (100.0, last, accuracy)]
    found = findings("3.3b", tables_of(*(hidden(*run, seed=seed) for seed in (0, 1) for run in runs)))
    assert [finding.holds for finding in found] == holds
    assert judge(found) == answer


def test_figures_are_of_the_runs_that_there_are() -> None:
    assert EXPERIMENT
    drawn = EXPERIMENT.draw(tables_of(right(0)))
    assert [*drawn] == ["identities"]
    own, others = drawn["identities"].axes
    assert (own.get_xscale(), own.get_yscale(), others.get_xlabel()) == ("log", "log", "factor a on the weights W")
    drawn = EXPERIMENT.draw(tables_of(hidden(1.0, 4.0), hidden(10.0, 4.0, nan)))
    assert [*drawn] == ["hidden_rates", "effective_rates"]
    (ax,) = drawn["effective_rates"].axes
    assert [np.asarray(line.get_xdata()).tolist() for line in ax.get_lines() if line.get_marker() == "x"] == [[10.0]]


# The diagnostic


@pytest.mark.parametrize("norm", [None, lambda: BatchNorm(eps=0)], ids=["no norm", "batch norm"])
def test_scaled_weights_are_those_of_the_middle_hidden_layer(norm: Any) -> None:
    rng, network = np.random.default_rng(0), mlp([6, 5, 4], 3, xavier, ReLU, norm)
    params, state = (
        stack_runs(trees, np.dtype(float))
        for trees in zip(*(network.init(rng, (1, 3, 3)) for _ in range(2)), strict=True)
    )
    s = Probe(network, params, state, rng.standard_normal((1, 20, 1, 3, 3)), np.eye(3)[rng.integers(0, 3, (1, 20))])
    found = scale.scaled_weights(s)
    for end, a in scale.SCALES.items():
        scaled = {**params, "dense2": params["dense2"] | {"W": a * params["dense2"]["W"]}}
        before, after = (s.gradient(each)[1] for each in (params, scaled))
        own = [np.linalg.norm(grads["dense2"]["W"].reshape(2, -1), axis=1) for grads in (after, before)]
        rest = [
            np.concatenate(
                [
                    g.reshape(2, -1)
                    for layer, gs in grads.items()
                    for name, g in gs.items()
                    if (layer, name) != ("dense2", "W")
                ],
                axis=1,
            )
            for grads in (after, before)
        ]
        np.testing.assert_allclose(found[f"scaled_own_{end}"], own[0] / own[1], rtol=1e-10)
        change = np.linalg.norm(rest[0] - rest[1], axis=1) / np.linalg.norm(rest[1], axis=1)
        np.testing.assert_allclose(found[f"scaled_others_{end}"], change, rtol=1e-6, atol=1e-11)
        if norm:  # Section 3.3
            np.testing.assert_allclose(found[f"scaled_own_{end}"], 1 / a, rtol=1e-8)
            assert (found[f"scaled_others_{end}"] < 1e-8).all()


class Probe:
    """What the diagnostic asks of a snapshot."""

    def __init__(self, network: Network, params: Any, state: Any, x: Any, targets: Any) -> None:
        self.network, self.params, self.state, self.x, self.targets = network, params, state, x, targets
        self.grads = self.gradient(params)[1]

    def gradient(self, params: Any) -> Any:
        logits, _, backward = self.network.forward(params, self.state, self.x, train=True)
        loss, dlogits = softmax_cross_entropy(logits, self.targets)
        return loss, backward(dlogits)
