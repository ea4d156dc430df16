"""Each norm of ``experiments/norms.py`` is what its docstring says; gradients, and the bits of a run in a group."""

import importlib
from typing import Any

import numpy as np
import pytest
from gradients import assert_gradients

from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import Array, Arrays, Layer
from bnrepro.network import Network, stack_runs

norms: Any = importlib.import_module("bnrepro.experiments.norms")
RNG = np.random.default_rng(0)
X, DY = RNG.standard_normal((2, 2, 8, 4)) + 0.5
IMAGES, DY_IMAGES = RNG.standard_normal((2, 2, 4, 4, 3, 2)) + 0.51
each_x = pytest.mark.parametrize(("x", "dy"), [(X, DY), (IMAGES, DY_IMAGES)], ids=["dense", "images"])
CASES: dict[str, Any] = {
    "nothing trained": norms.FixedAffine(),
    "γ trained": norms.FixedAffine(trained="gamma"),
    "β trained": norms.FixedAffine(trained="beta"),
    "centring": norms.CentringOnly(),
    "scaling": norms.ScalingOnly(),
    "scaling, by the test batch": norms.ScalingOnly(inference="batch"),
    "noisy": norms.NoisyBatchNorm(),
    "to be frozen": norms.FrozenStatistics(),
    "frozen": norms.FrozenStatistics(batches=1),
    "renorm, unclipped": norms.BatchRenorm(begin=1, end=1, r_max=1e9, d_max=1e9),
    "renorm, clipped": norms.BatchRenorm(begin=1, end=1, r_max=1.01, d_max=0.01),
    "group": norms.GroupNorm(groups=2),
    "layer": norms.LayerNorm(),
    "LRN": norms.ReLUWithLRN(),
}
each_norm = pytest.mark.parametrize("norm", CASES.values(), ids=CASES)


def start(layer: Layer, x: Array, dtype: Any = float) -> tuple[Arrays, Arrays]:
    """Parameters, with γ and β that do something, and the state of each run."""
    inits = [layer.init(np.random.default_rng(run), x.shape[2:])[:2] for run in range(len(x))]
    params, state = (
        stack_runs([{"": each} for each in trees], np.dtype(dtype))[""] for trees in zip(*inits, strict=True)
    )
    rng = np.random.default_rng(1)
    return {name: (p + 0.3 * rng.standard_normal(p.shape)).astype(dtype) for name, p in params.items()}, state


def after_a_batch(layer: Layer, x: Array, dtype: Any = float) -> tuple[Arrays, Arrays]:
    """The same after a mini-batch with other statistics than x has."""
    params, state = start(layer, x, dtype)
    return params, layer.forward(params, state, (1.3 * x[::-1] + 0.2).astype(dtype), train=True)[1]


@pytest.mark.parametrize("train", [True, False], ids=["train", "inference"])
@each_x
@each_norm
def test_gradients_equal_central_differences(norm: Layer, x: Array, dy: Array, train: bool) -> None:
    train &= not isinstance(norm, norms.BatchRenorm)  # whose r and d are constants to the gradient: below
    params, state = after_a_batch(norm, x)
    _, _, backward = norm.forward(params, state, x, train=train)
    dx, grads = backward(dy)

    def forward(at: Arrays) -> Array:
        return norm.forward({name: at[name] for name in params}, state, at["x"], train=train)[0]

    assert_gradients(forward, params | {"x": x}, dy, grads | {"x": dx})


@each_norm
@each_x
@pytest.mark.parametrize("train", [True, False], ids=["train", "inference"])
def test_a_run_alone_gives_the_bits_of_the_run_in_a_group_and_changes_no_argument(
    norm: Layer, x: Array, dy: Array, train: bool
) -> None:
    x, dy = x.astype(np.float32), dy.astype(np.float32)
    params, state = after_a_batch(norm, x, np.float32)
    before = [{name: a.copy() for name, a in arrays.items()} for arrays in (params, state, {"x": x})]
    y, after, backward = norm.forward(params, state, x, train=train)
    dx, grads = backward(dy)
    for arrays, copied in zip((params, state, {"x": x}), before, strict=True):
        assert all((arrays[name] == copied[name]).all() for name in copied)
    assert y.dtype == dx.dtype == np.float32
    for r in range(len(x)):
        own = slice(r, r + 1)
        own_params, own_state = ({n: a[own] for n, a in tree.items()} for tree in (params, state))
        y_alone, after_alone, backward = norm.forward(own_params, own_state, x[own], train=train)
        dx_alone, grads_alone = backward(dy[own])
        np.testing.assert_array_equal(y_alone, y[own])
        np.testing.assert_array_equal(dx_alone, dx[own])
        for of_run, of_group in ((after_alone, after), (grads_alone, grads)):
            assert of_run.keys() == of_group.keys()
            assert all((a == of_group[name][own]).all() for name, a in of_run.items())


def normalised(x: Array, axes: tuple[int, ...], eps: float = 1e-5) -> Array:
    found: Array = (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)
    return found


@each_x
@pytest.mark.parametrize("trained", ["gamma", "beta", "none"])
def test_a_fixed_affine_map_trains_the_part_that_is_said(x: Array, dy: Array, trained: str) -> None:
    layer = norms.FixedAffine(trained=trained)
    params, state = start(layer, x)
    assert [*params] == ([] if trained == "none" else [trained])
    y, after, backward = layer.forward(params, state, x, train=True)
    right = {"gamma": np.ones_like(state["mean"]), "beta": np.zeros_like(state["mean"])} | params
    expected, _, right_backward = BatchNorm().forward(right, state, x, train=True)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(backward(dy)[0], right_backward(dy)[0])
    assert [*backward(dy)[1]] == [*params]
    assert after.keys() == state.keys()


@each_x
def test_centring_and_scaling_are_the_parts_of_batch_norm(x: Array, dy: Array) -> None:
    axes = (1, *range(3, x.ndim))
    mean, std = x.mean(axis=axes, keepdims=True), np.sqrt(x.var(axis=axes, keepdims=True) + 1e-5)
    unbiased = x.var(axis=axes, keepdims=True, ddof=1)
    for layer, expected, at_inference in (
        (norms.CentringOnly(), x - mean, x - mean),
        (norms.ScalingOnly(), x / std, x / np.sqrt(unbiased + 1e-5)),
    ):
        params, state = start(layer, x)
        y, state, _ = layer.forward(params, state, x, train=True)
        np.testing.assert_allclose(y, params["gamma"] * expected + params["beta"], rtol=1e-12)
        y, _, _ = layer.forward(params, state, x, train=False)
        np.testing.assert_allclose(y, params["gamma"] * at_inference + params["beta"], rtol=1e-12)


def test_noise_has_the_distribution_that_is_stated_and_is_new_at_every_step_and_in_every_run() -> None:
    scale, shift = norms._noise(7, 0, np.empty((4000, 300)))
    assert scale.std(axis=0) == pytest.approx(0.1, rel=0.1)
    assert shift.std(axis=0) == pytest.approx(0.2 / np.sqrt(12), rel=0.1)
    for means, low, high in ((scale.mean(axis=0), 1, 1.25), (shift.mean(axis=0), -0.5, 0.5)):
        assert (low - 0.01 < means).all()
        assert (means < high + 0.01).all()
        assert np.ptp(means) > 0.9 * (high - low)
        assert means.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low) + 0.01)
    x = np.stack([X[0], X[0]])
    layer = norms.NoisyBatchNorm()
    params, state = start(layer, x)
    params = {name: np.ones_like(p) for name, p in params.items()}
    first, after, _ = layer.forward(params, state, x, train=True)
    again, _, _ = layer.forward(params, state, x, train=True)
    second, _, _ = layer.forward(params, after, x, train=True)
    np.testing.assert_array_equal(first, again)
    assert (first != second).all()
    assert (first[0] != first[1]).all()
    assert after["drawn"].reshape(-1).tolist() == [1, 1]
    np.testing.assert_array_equal(
        layer.forward(params, after, x, train=False)[0], BatchNorm().forward(params, after, x, train=False)[0]
    )


def test_noise_draws_no_weights() -> None:
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    norms.NoisyBatchNorm().init(rng, (3,))
    BatchNorm().init(other, (3,))
    assert rng.random() == other.random()


def test_frozen_statistics_are_those_of_the_first_mini_batches() -> None:
    layer, axes = norms.FrozenStatistics(batches=2), 1
    params, state = start(layer, X)
    for factor in (1, 3):
        y, state, _ = layer.forward(params, state, factor * X, train=True)
        np.testing.assert_allclose(y, params["gamma"] * normalised(factor * X, (1,)) + params["beta"], rtol=1e-10)
    mean, var = 2 * X.mean(axis=axes, keepdims=True), 5 * X.var(axis=axes, keepdims=True, ddof=1)
    for train in (True, False):
        y, after, _ = layer.forward(params, state, 7 * X, train=train)
        np.testing.assert_allclose(
            y, params["gamma"] * (7 * X - mean) / np.sqrt(var + 1e-5) + params["beta"], rtol=1e-10
        )
        assert all((after[name] == state[name]).all() for name in ("mean", "var", "updates"))


@each_x
def test_unclipped_batch_renorm_trains_on_what_inference_gives(x: Array, dy: Array) -> None:
    layer = CASES["renorm, unclipped"]
    params, state = after_a_batch(layer, x)
    y, _, backward = layer.forward(params, state, x, train=True)
    np.testing.assert_allclose(y, layer.forward(params, state, x, train=False)[0], rtol=1e-10)
    # The gradient is that of batch norm whose output is corrected by constants.
    axes = (1, *range(3, x.ndim))
    std = np.sqrt(state["var"] + 1e-5)
    r = np.sqrt(x.var(axis=axes, keepdims=True) + 1e-5) / std
    d = (x.mean(axis=axes, keepdims=True) - state["mean"]) / std
    dx, grads = backward(dy)

    def renormalised(at: Arrays) -> Array:
        found: Array = at["gamma"] * (normalised(at["x"], axes) * r + d) + at["beta"]
        return found

    assert_gradients(renormalised, params | {"x": x}, dy, grads | {"x": dx})


@pytest.mark.parametrize(("seen", "r_max", "d_max"), [(1, 1, 0), (2, 1, 0), (3, 2, 1), (4, 3, 2), (9, 3, 2)])
def test_the_limits_of_batch_renorm_grow_and_stay(seen: int, r_max: float, d_max: float) -> None:
    layer = norms.BatchRenorm(begin=2, end=4, r_max=3, d_max=2)
    params, state = start(layer, X)
    state |= {"mean": np.full_like(state["mean"], -50), "var": np.full_like(state["var"], 1e-4)}  # r and d far beyond
    y, after, _ = layer.forward(params, state | {"seen": np.full_like(state["seen"], seen)}, X, train=True)
    np.testing.assert_allclose(y, params["gamma"] * (normalised(X, (1,)) * r_max + d_max) + params["beta"], rtol=1e-6)
    assert after["seen"].reshape(-1).tolist() == [seen + 1] * 2
    np.testing.assert_allclose(layer.forward(params, state, X, train=True)[1]["var"], X.var(axis=1, keepdims=True))


def test_population_statistics_of_batch_renorm_are_those_of_algorithm_2() -> None:
    network = Network({"norm": norms.BatchRenorm(inference="population", begin=1, end=1)})
    params, state = ({"norm": tree} for tree in start(network.layers["norm"], X))
    found = network.with_population_statistics(params, state, [X, 3 * X])["norm"]
    np.testing.assert_allclose(found["mean"], 2 * X.mean(axis=1, keepdims=True))
    np.testing.assert_allclose(found["var"], 5 * X.var(axis=1, keepdims=True, ddof=1))


@pytest.mark.parametrize(("norm", "parts"), [(norms.GroupNorm(groups=2), 2), (norms.LayerNorm(), 1)])
@each_x
def test_group_and_layer_norm_are_of_one_example(norm: Layer, parts: int, x: Array, dy: Array) -> None:
    params, state = start(norm, x)
    groups = [normalised(group, tuple(range(2, x.ndim))) for group in np.split(x, parts, axis=2)]
    for train in (True, False):
        y, _, _ = norm.forward(params, state, x, train=train)
        np.testing.assert_allclose(y, params["gamma"] * np.concatenate(groups, axis=2) + params["beta"], rtol=1e-10)
        alone, _, _ = norm.forward(params, state, x[:, :1], train=train)
        np.testing.assert_allclose(alone, y[:, :1], rtol=1e-12)


def test_local_response_normalization_by_a_loop() -> None:
    layer = norms.ReLUWithLRN()
    a = np.maximum(100 * X, 0)
    expected = np.empty_like(a)
    for c in range(4):
        around = a[:, :, max(0, c - 2) : c + 3]
        expected[:, :, c] = a[:, :, c] / (2 + 1e-4 * (around**2).sum(axis=2)) ** 0.75
    np.testing.assert_allclose(layer.forward({}, {}, 100 * X, train=True)[0], expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("norm", "options", "problem"),
    [
        (norms.GroupNorm, {"groups": 0}, "groups=0: must be at least 1"),
        (norms.GroupNorm, {"eps": 0}, "eps=0: must be above 0"),
        (norms.FrozenStatistics, {"batches": 0}, "batches=0: must be at least 1"),
        (norms.FrozenStatistics, {"inference": "population"}, "inference=population: must be ema"),
        (norms.BatchRenorm, {"r_max": 0.5}, "r_max=0.5: must be at least 1"),
        (norms.BatchRenorm, {"d_max": -1}, "d_max=-1: must be at least 0"),
        (norms.BatchRenorm, {"begin": 0}, "begin=0: must be at least 1"),
        (norms.BatchRenorm, {"begin": 5, "end": 4}, "end=4: must be at least begin=5"),
        (norms.BatchRenorm, {"eps": -1}, "eps=-1: must be at least 0"),
    ],
)
def test_settings_out_of_range_are_refused(norm: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}"):
        norm(**options)


def test_groups_that_do_not_divide_the_features_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^groups=3: must divide the 4 features or maps of every layer$"):
        norms.GroupNorm(groups=3).init(np.random.default_rng(0), (4,))
