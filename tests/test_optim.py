"""Every optimiser against two hand-worked steps and the rules of the run axis.

A new optimiser is one more row of ``OPTIMISERS``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from bnrepro.layers import Shape
from bnrepro.network import select_runs
from bnrepro.optim import (
    OPTIMIZERS,
    SGD,
    Adagrad,
    Constant,
    ExponentialDecay,
    Momentum,
    Optimizer,
    Params,
    StepDecay,
)


@dataclass(frozen=True)
class Row:
    """θ = 1 meets the gradients 2 and −1 at the learning rates 0.1 and 0.2; ``golden`` is θ after each step."""

    optimizer: Optimizer
    golden: tuple[float, float]


OPTIMISERS = {
    "sgd": Row(
        SGD(weight_decay=0),
        # 1 − .1·2;  .8 − .2·(−1)
        (0.8, 1.0),
    ),
    "sgd with weight decay": Row(
        SGD(weight_decay=0.5),
        # g = 2 + .5·1, θ = 1 − .1·2.5;  g = −1 + .5·.75, θ = .75 − .2·(−.625)
        (0.75, 0.875),
    ),
    "momentum": Row(
        Momentum(momentum=0.9, weight_decay=0),
        # v = 0 − .1·2 = −.2, θ = 1 − .2;  v = .9·(−.2) − .2·(−1) = .02, θ = .8 + .02
        (0.8, 0.82),
    ),
    "momentum with weight decay": Row(
        Momentum(momentum=0.9, weight_decay=0.5),
        # v = −.1·2.5, θ = 1 − .25;  v = .9·(−.25) − .2·(−1 + .5·.75) = −.1, θ = .75 − .1
        (0.75, 0.65),
    ),
    "adagrad": Row(
        Adagrad(eps=1.0, weight_decay=0),
        # h = 4, θ = 1 − .1·2 / (2 + 1);  h = 4 + 1, θ = 1 − .2/3 − .2·(−1) / (√5 + 1)
        (1 - 0.2 / 3, 1 - 0.2 / 3 + 0.2 / (math.sqrt(5) + 1)),
    ),
    "adagrad with weight decay": Row(
        Adagrad(eps=0.5, weight_decay=0.5),
        # g = 2.5, h = 6.25, θ = 1 − .1·2.5 / (2.5 + .5) = 11/12;
        # g = −1 + .5·11/12 = −13/24, h = 6.25 + (13/24)², θ = 11/12 + .2·(13/24) / (√h + .5)
        (11 / 12, 11 / 12 + 0.2 * 13 / 24 / (math.sqrt(6.25 + (13 / 24) ** 2) + 0.5)),
    ),
}
each_optimizer = pytest.mark.parametrize("row", OPTIMISERS.values(), ids=OPTIMISERS)

SHAPES: dict[str, dict[str, Shape]] = {
    "dense": {"W": (5, 3), "b": (1, 3)},
    "norm": {"gamma": (1, 3), "W": (1, 3)},
    "conv": {"kernel": (2, 3, 4, 4)},
    "flatten": {},
}
WEIGHTS = {"dense": ("W",), "conv": ("kernel",)}
"""What is a weight does not go by its name."""


def draw(runs: int, seed: int) -> Params:
    """Arrays named and shaped like parameters, in float32."""
    rng = np.random.default_rng(seed)
    return {
        layer: {name: rng.standard_normal((runs, *shape)).astype(np.float32) for name, shape in shapes.items()}
        for layer, shapes in SHAPES.items()
    }


def train(optimizer: Optimizer, runs: list[int], rates: list[float]) -> tuple[Params, Params]:
    """Parameters and the optimiser's state of some of 8 runs after 4 steps."""
    params = select_runs(draw(8, seed=0), np.array(runs))
    state = optimizer.init(params)
    for step in range(1, 5):
        grads = select_runs(draw(8, seed=step), np.array(runs))
        optimizer.update(params, grads, state, np.array(rates, np.float32), WEIGHTS)
    return params, state


def bits(tree: Params) -> dict[str, dict[str, bytes]]:
    return {layer: {name: a.tobytes() for name, a in arrays.items()} for layer, arrays in tree.items()}


def test_every_optimiser_of_the_package_is_in_the_table() -> None:
    assert {type(row.optimizer) for row in OPTIMISERS.values()} == set(OPTIMIZERS.values())


@each_optimizer
def test_two_steps_equal_the_hand_worked_ones(row: Row) -> None:
    params = {"layer": {"W": np.array([[1.0]])}}
    state = row.optimizer.init(params)
    for gradient, lr, expected in zip((2.0, -1.0), (0.1, 0.2), row.golden, strict=True):
        row.optimizer.update(params, {"layer": {"W": np.array([[gradient]])}}, state, np.array([lr]), {"layer": ("W",)})
        np.testing.assert_allclose(params["layer"]["W"], [[expected]], rtol=1e-14)


@each_optimizer
def test_each_run_has_its_own_learning_rate(row: Row) -> None:
    rates = [0.1, 3.0, 1e-3, 0.5]
    params, _ = train(row.optimizer, [0, 0, 0, 0], rates)  # four times the same run but for the rate
    for r, rate in enumerate(rates):
        alone, _ = train(row.optimizer, [0], [rate])
        assert bits(select_runs(params, np.array([r]))) == bits(alone)
    assert len({params["dense"]["W"][r].tobytes() for r in range(4)}) == 4


@each_optimizer
@pytest.mark.parametrize("runs", [1, 2, 5, 8])
def test_a_run_alone_gives_the_bits_of_the_run_in_a_group(row: Row, runs: int) -> None:
    rates = np.geomspace(1e-3, 10, runs).tolist()
    group = train(row.optimizer, list(range(runs)), rates)
    for r in range(runs):
        alone = train(row.optimizer, [r], [rates[r]])
        for tree, expected in zip(group, alone, strict=True):
            assert bits(select_runs(tree, np.array([r]))) == bits(expected)


@each_optimizer
def test_a_step_changes_parameters_and_state_in_place_and_nothing_else(row: Row) -> None:
    params, grads, lr = draw(2, seed=0), draw(2, seed=1), np.array([0.1, 0.2], np.float32)
    state = row.optimizer.init(params)
    arrays = [a for tree in (params, state) for layer in tree.values() for a in layer.values()]
    for a in [lr, *(a for layer in grads.values() for a in layer.values())]:
        a.flags.writeable = False  # so that changing it raises
    row.optimizer.update(params, grads, state, lr, WEIGHTS)
    after = [a for tree in (params, state) for layer in tree.values() for a in layer.values()]
    assert all(a is b for a, b in zip(arrays, after, strict=True))
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}
    assert bits(params) != bits(draw(2, seed=0))


@pytest.mark.parametrize("row", [row for row in OPTIMISERS.values() if row.optimizer.linear])
def test_a_linear_optimiser_takes_gradients_that_were_multiplied_by_the_learning_rate(row: Row) -> None:
    optimizer = row.optimizer
    lr = np.array([0.1, 0.25], np.float32)
    plain, scaled = draw(2, seed=0), draw(2, seed=0)
    plain_state, scaled_state = optimizer.init(plain), optimizer.init(scaled)
    for step in 1, 2:
        grads = draw(2, seed=step)
        times_lr = {
            layer: {name: lr.reshape(-1, *[1] * (g.ndim - 1)) * g for name, g in arrays.items()}
            for layer, arrays in grads.items()
        }
        optimizer.update(plain, grads, plain_state, lr, WEIGHTS)
        optimizer.update(scaled, times_lr, scaled_state, lr, WEIGHTS, scaled=True)
    assert bits(scaled) == bits(plain)


@each_optimizer
def test_a_zero_gradient_changes_only_weights_that_decay(row: Row) -> None:
    params = draw(2, seed=0)
    zeros = {layer: {name: np.zeros_like(a) for name, a in arrays.items()} for layer, arrays in params.items()}
    row.optimizer.update(params, zeros, row.optimizer.init(params), np.ones(2, np.float32), WEIGHTS)
    decays = getattr(row.optimizer, "weight_decay", 0) > 0
    after, before = bits(params), bits(draw(2, seed=0))
    for layer, arrays in before.items():
        for name, a in arrays.items():
            assert (after[layer][name] != a) == (decays and name in WEIGHTS.get(layer, ()))


@pytest.mark.parametrize(
    ("construct", "named"),
    [
        (lambda: Momentum(momentum=-0.1, weight_decay=0), "momentum=-0.1"),
        (lambda: Momentum(momentum=1.0, weight_decay=0), "momentum=1.0"),
        (lambda: Momentum(momentum=math.nan, weight_decay=0), "momentum=nan"),
        (lambda: Adagrad(eps=0.0, weight_decay=0), "eps=0.0"),
        (lambda: Adagrad(eps=-1.0, weight_decay=0), "eps=-1.0"),
        (lambda: Adagrad(eps=math.nan, weight_decay=0), "eps=nan"),
        (lambda: Adagrad(eps=math.inf, weight_decay=0), "eps=inf"),
        (lambda: SGD(weight_decay=-1e-4), "weight_decay=-0.0001"),
        (lambda: Momentum(momentum=0.9, weight_decay=math.nan), "weight_decay=nan"),
        (lambda: StepDecay(every=0, factor=0.5), "every=0"),
        (lambda: StepDecay(every=10, factor=0.0), "factor=0.0"),
        (lambda: ExponentialDecay(every=10, factor=1.1), "factor=1.1"),
    ],
)
def test_hyperparameters_out_of_range_are_refused_by_name(construct: Callable[[], Optimizer], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}: must be"):
        construct()


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), {0: 1, 1: 1, 10**6: 1}),
        (StepDecay(every=10, factor=0.5), {0: 1, 9: 1, 10: 0.5, 19: 0.5, 20: 0.25}),
        (ExponentialDecay(every=10, factor=0.25), {0: 1, 5: 0.5, 10: 0.25, 15: 0.125}),
    ],
)
def test_schedules_give_the_factors_of_their_formula(
    schedule: Callable[[int], float], expected: dict[int, float]
) -> None:
    assert {step: schedule(step) for step in expected} == pytest.approx(expected)


def test_six_times_faster_decay_is_a_sixth_of_every() -> None:
    slow, fast = ExponentialDecay(every=600, factor=0.5), ExponentialDecay(every=100, factor=0.5)
    assert fast(50) == pytest.approx(slow(300)) == pytest.approx(slow(50) ** 6)
