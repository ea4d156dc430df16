"""The optimiser and the schedule of ``experiments/rules.py``: a step by hand, and decay against a growing rate."""

import importlib
from typing import Any

import numpy as np
import pytest

from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import Array, Sigmoid, softmax_cross_entropy, xavier
from bnrepro.network import mlp, stack_runs
from bnrepro.optim import Params

rules: Any = importlib.import_module("bnrepro.experiments.rules")


def test_only_hidden_weights_have_the_rate_and_the_decay() -> None:
    def of(value: float) -> Params:
        arrays = {"dense1": "W", "norm1": "gamma", "dense2": "W", "logits": "W"}
        return {layer: {name: np.full((2, 1, 1), value)} for layer, name in arrays.items()}

    params, weights = of(2.0), {"dense1": ("W",), "dense2": ("W",), "logits": ("W",)}
    optimizer = rules.HiddenSGD(weight_decay=0.5, rest=0.1)
    optimizer.update(params, of(1.0), optimizer.init(params), np.array([1.0, 10.0]), weights)
    assert not optimizer.linear
    for layer, name in (("dense1", "W"), ("dense2", "W")):
        assert params[layer][name].reshape(-1).tolist() == [2 - 1 * (1 + 0.5 * 2), 2 - 10 * (1 + 0.5 * 2)]
    for layer, name in (("norm1", "gamma"), ("logits", "W")):
        assert params[layer][name].reshape(-1) == pytest.approx([1.9, 1.9])


def test_decay_at_a_constant_rate_is_a_growing_rate_without() -> None:
    lr, decay, rng = 0.5, 0.1, np.random.default_rng(0)
    network = mlp([6, 5], 3, xavier, Sigmoid, lambda: BatchNorm(eps=0))
    params, state = (stack_runs([tree], np.dtype(float)) for tree in network.init(rng, (1, 3, 3)))
    decayed, grown = ({layer: {n: p.copy() for n, p in ps.items()} for layer, ps in params.items()} for _ in range(2))
    with_decay, without = (rules.HiddenSGD(weight_decay=each, rest=0.3) for each in (decay, 0.0))
    growth = rules.ExponentialGrowth(lr_decayed=lr, weight_decay=decay)
    for step in range(60):
        x, targets = rng.standard_normal((1, 12, 1, 3, 3)), np.eye(3)[rng.integers(0, 3, (1, 12))]
        losses = list[Array]()
        for own, optimizer, rate in ((decayed, with_decay, lr), (grown, without, lr * growth(step))):
            logits, _, backward = network.forward(own, state, x, train=True)
            loss, dlogits = softmax_cross_entropy(logits, targets)
            optimizer.update(own, backward(dlogits), {}, np.array([rate]), network.weights)
            losses.append(loss)
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-11)
    shrunk = 0.95**60
    for layer in ("dense1", "dense2"):
        np.testing.assert_allclose(decayed[layer]["W"], shrunk * grown[layer]["W"], rtol=1e-9)


@pytest.mark.parametrize(
    ("make", "settings", "problem"),
    [
        (rules.HiddenSGD, {"weight_decay": -1, "rest": 1}, "weight_decay=-1: must be at least 0"),
        (rules.HiddenSGD, {"weight_decay": 0, "rest": -1}, "rest=-1: must be at least 0"),
        (
            rules.ExponentialGrowth,
            {"lr_decayed": 2.0, "weight_decay": 0.5},
            "weight_decay=0.5: must be from 0 to below",
        ),
    ],
)
def test_settings_out_of_range_are_refused(make: Any, settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}"):
        make(**settings)
