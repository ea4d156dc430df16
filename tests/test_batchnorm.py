"""Batch norm against the formulas and claims of Ioffe & Szegedy 2015; test_layers.py checks the layers' contract."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import Array, Arrays, Backward, Dense, he

repeatable = settings(deadline=None, derandomize=True, max_examples=50)
any_shapes = given(runs=st.integers(1, 3), examples=st.integers(2, 9), features=st.integers(1, 5))


def start(bn: BatchNorm, features: int, dtype: Any = np.float64) -> tuple[Arrays, Arrays]:
    """Parameters and state of one run as it begins."""
    params, state, _ = bn.init(np.random.default_rng(0), (features,))
    return as_runs(params, dtype), as_runs(state, dtype)


def as_runs(arrays: Arrays, dtype: Any) -> Arrays:
    return {name: a[None].astype(dtype) for name, a in arrays.items()}


def normalize(bn: BatchNorm, x: Array) -> tuple[Array, Arrays, Backward]:
    """One pass in training over x (1, N, D), with γ = 1 and β = 0, from the start."""
    return bn.forward(*start(bn, x.shape[2], x.dtype), x, train=True)


def draw(runs: int, examples: int, features: int) -> tuple[Arrays, Array, Array]:
    """γ and β, x, and a cotangent; each run and feature has an offset and a scale of its own."""
    rng = np.random.default_rng([runs, examples, features])
    per_feature = (runs, 1, features)
    params = {"gamma": rng.standard_normal(per_feature), "beta": rng.standard_normal(per_feature)}
    shape = (runs, examples, features)
    x = 3 * rng.standard_normal(per_feature) + rng.uniform(0.5, 2, per_feature) * rng.standard_normal(shape)
    return params, x, rng.standard_normal(shape)


def backward_of(bn: BatchNorm, params: Arrays, x: Array, dy: Array) -> tuple[Array, Arrays]:
    _, state = start(bn, x.shape[2])
    return bn.forward(params, state, x, train=True)[2](dy)


@any_shapes
@repeatable
def test_backward_is_the_six_formulas_of_section_3(runs: int, examples: int, features: int) -> None:
    eps, m = 0.1, examples
    params, x, dy = draw(runs, examples, features)
    dx, grads = backward_of(BatchNorm(eps=eps), params, x, dy)
    for r in range(runs):
        for d in range(features):
            xs, dys = x[r, :, d], dy[r, :, d]
            mu = sum(xs) / m
            var = sum((xs - mu) ** 2) / m
            x_hat = (xs - mu) / math.sqrt(var + eps)
            d_x_hat = dys * params["gamma"][r, 0, d]
            d_var = sum(d_x_hat * (xs - mu) * (-1 / 2) * (var + eps) ** (-3 / 2))
            d_mu = sum(d_x_hat * (-1 / math.sqrt(var + eps))) + d_var * sum(-2 * (xs - mu)) / m
            d_x = d_x_hat / math.sqrt(var + eps) + d_var * 2 * (xs - mu) / m + d_mu / m
            np.testing.assert_allclose(dx[r, :, d], d_x, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(grads["gamma"][r, 0, d], sum(dys * x_hat), rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(grads["beta"][r, 0, d], sum(dys), rtol=1e-12, atol=1e-12)


@any_shapes
@repeatable
def test_without_eps_the_normalized_values_have_mean_0_and_mean_square_1(
    runs: int, examples: int, features: int
) -> None:
    _, x, _ = draw(runs, examples, features)
    for run in x:
        x_hat, _, _ = normalize(BatchNorm(eps=0), run[None])
        np.testing.assert_allclose(x_hat.mean(axis=1), 0, atol=1e-12)
        np.testing.assert_allclose((x_hat**2).mean(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("eps", [0, 0.1])
def test_the_right_gamma_and_beta_give_back_the_identity(eps: float) -> None:
    bn = BatchNorm(eps=eps)
    _, x, _ = draw(1, 8, 3)
    params = {"gamma": np.sqrt(x.var(axis=1, keepdims=True) + eps), "beta": x.mean(axis=1, keepdims=True)}
    y, _, _ = bn.forward(params, start(bn, 3)[1], x, train=True)
    np.testing.assert_allclose(y, x, rtol=1e-12)


@any_shapes
@repeatable
def test_the_gradient_of_x_sums_to_0_over_the_mini_batch(runs: int, examples: int, features: int) -> None:
    params, x, dy = draw(runs, examples, features)
    dx, _ = backward_of(BatchNorm(eps=0.1), params, x, dy)
    np.testing.assert_allclose(dx.sum(axis=1), 0, atol=1e-12)


@pytest.mark.parametrize("eps", [0, 1e-9, 1e-6, 1e-3, 0.1])
def test_the_gradient_of_x_is_orthogonal_to_x_only_without_eps(eps: float) -> None:
    params, x, dy = draw(2, 8, 3)
    dx, grads = backward_of(BatchNorm(eps=eps), params, x, dy)
    # With the six formulas, Σ x dx = γ dγ ε / (σ² + ε).
    expected = params["gamma"] * grads["gamma"] * eps / (x.var(axis=1, keepdims=True) + eps)
    actual = (x * dx).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    assert np.abs(actual).max() >= eps


def dense_then_norm(bn: BatchNorm, weights: Array, u: Array, dy: Array) -> tuple[Array, Array, Array]:
    """BN(W u) with γ = 1, β = 0, and for the cotangent dy the gradients of u and of W."""
    x, _, dense_backward = Dense(weights.shape[2], he, bias=False).forward({"W": weights}, {}, u, train=True)
    y, _, norm_backward = normalize(bn, x)
    du, grads = dense_backward(norm_backward(dy)[0])
    return y, du, grads["W"]


def draw_dense() -> tuple[Array, Array, Array]:
    """W, u, and a cotangent of W u."""
    rng = np.random.default_rng(0)
    return rng.normal(0, 0.4, (1, 6, 4)), rng.standard_normal((1, 20, 6)), rng.standard_normal((1, 20, 4))


@pytest.mark.parametrize("a", [0.01, 0.1, 0.5, 2, 10, 100])
def test_the_scale_of_the_weights_changes_neither_output_nor_jacobian_as_in_section_3_3(a: float) -> None:
    weights, u, dy = draw_dense()
    y, du, dw = dense_then_norm(BatchNorm(eps=0), weights, u, dy)
    y_a, du_a, dw_a = dense_then_norm(BatchNorm(eps=0), a * weights, u, dy)
    np.testing.assert_allclose(y_a, y, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(du_a, du, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(dw_a, dw / a, rtol=1e-10, atol=1e-12 / a)


@pytest.mark.parametrize(("a", "off"), [(0.001, 0.5), (0.01, 0.02), (0.1, 1e-4), (1, 1e-6)])
def test_eps_breaks_the_invariance_by_at_most_half_of_eps_over_the_variance(a: float, off: float) -> None:
    eps = 1e-5
    weights, u, dy = draw_dense()
    y, _, _ = dense_then_norm(BatchNorm(eps=0), weights, u, dy)
    y_a, _, _ = dense_then_norm(BatchNorm(eps=eps), a * weights, u, dy)
    lost = 1 - (y_a / y).mean(axis=1)  # the same for every example
    var = (a * u @ weights).var(axis=1)
    # y shrinks by √(a²σ² / (a²σ² + ε)), which is 1 − ε / (2 a²σ²) to first order, and never less.
    np.testing.assert_allclose(lost, 1 - np.sqrt(var / (var + eps)), rtol=1e-6)
    assert (lost <= eps / (2 * var)).all()
    assert (lost >= off).all()


def test_one_example_is_refused_in_training_but_not_at_inference() -> None:
    params, state = start(BatchNorm(), 3)
    with pytest.raises(ValueError, match="at least 2 values per feature"):
        BatchNorm().forward(params, state, np.ones((1, 1, 3)), train=True)
    y, _, _ = BatchNorm(eps=0).forward(params, state, np.ones((1, 1, 3)), train=False)
    np.testing.assert_array_equal(y, 1)  # at the start, mean 0 and variance 1


@pytest.mark.parametrize("offset", [0, 1e2, 1e4, 1e6])
def test_float32_is_accurate_at_an_offset_much_larger_than_the_spread(offset: float) -> None:
    m = 60
    rng = np.random.default_rng(0)
    x = (offset + rng.standard_normal((1, m, 100))).astype(np.float32)
    dy = rng.standard_normal(x.shape).astype(np.float32)
    y, state, backward = normalize(BatchNorm(momentum=0), x)
    exact, _, exact_backward = normalize(BatchNorm(), x.astype(float))
    np.testing.assert_allclose(state["var"] * (m - 1) / m, x.astype(float).var(axis=1, keepdims=True), rtol=1e-5)
    exact_mean = x.astype(float).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(state["mean"], exact_mean, rtol=7e-8, atol=7e-8)  # as near as float32 comes
    np.testing.assert_allclose(y, exact, rtol=0, atol=1e-4)
    np.testing.assert_allclose(backward(dy)[0], exact_backward(dy.astype(float))[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0, 0.1, 1e4 + 0.1, 12345678])
@pytest.mark.parametrize("m", [2, 7, 60])
def test_a_constant_feature_gives_beta_and_no_gradient_of_gamma(m: int, value: float, dtype: Any) -> None:
    bn, dy = BatchNorm(), np.random.default_rng(0).standard_normal((1, m, 3)).astype(dtype)
    y, _, backward = normalize(bn, np.full((1, m, 3), value, dtype))
    dx, grads = backward(dy)
    np.testing.assert_allclose(y, 0, atol=1e-4)
    np.testing.assert_allclose(grads["gamma"], 0, atol=0.01)
    # The gradient of x is not 0: with σ² = 0 the six formulas leave (dy − mean dy) / √ε.
    np.testing.assert_allclose(dx, (dy - dy.mean(axis=1, keepdims=True)) / math.sqrt(bn.eps), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("value", [0.1, 123456.7, 1e6, 1e6 + 0.5, 3e9])
@pytest.mark.parametrize("shape", [(2, 2000, 100), (1, 20000, 3), (1, 100000, 7), (2, 700, 3, 12, 12)])
def test_no_offset_of_a_constant_feature_costs_accuracy_in_a_large_float32_batch(
    shape: tuple[int, ...], value: float
) -> None:
    # The sum of as many float32 loses so much that E[(x − μ)²] − (E[x] − μ)² comes out below 0.
    rng = np.random.default_rng(0)
    x = np.full(shape, value, np.float32)
    x[:, :, -1] = rng.standard_normal(x[:, :, -1].shape)  # beside it is a feature as any
    bn, per_map = BatchNorm(momentum=0), (shape[0], 1, shape[2], *(1 for _ in shape[3:]))
    params = {"gamma": np.ones(per_map, np.float32), "beta": np.zeros(per_map, np.float32)}
    state = {"mean": np.zeros(per_map), "var": np.ones(per_map), "updates": np.zeros([1] * len(shape))}
    y, state, _ = bn.forward(params, state, x, train=True)
    assert (state["var"] >= 0).all()
    np.testing.assert_allclose(y[:, :, :-1], 0, atol=1e-3)
    np.testing.assert_allclose(state["mean"][:, :, :-1], np.float32(value), rtol=1e-7)
    # The bits of the feature beside it are those that it has without the constant ones.
    x[:, :, :-1] = rng.standard_normal(x[:, :, :-1].shape)
    np.testing.assert_array_equal(bn.forward(params, state, x, train=True)[0][:, :, -1], y[:, :, -1])


@pytest.mark.parametrize("m", [2000, 100000])
def test_float32_variance_is_right_at_a_large_offset_in_a_large_batch(m: int) -> None:
    x = (1e6 + np.random.default_rng(0).standard_normal((1, m, 3))).astype(np.float32)
    _, state, _ = normalize(BatchNorm(momentum=0), x)
    np.testing.assert_allclose(state["var"], x.var(axis=1, dtype=float, keepdims=True, ddof=1), rtol=1e-4)


def averages(bn: BatchNorm, batches: list[Array]) -> Arrays:
    """The state after these mini-batches (N, D)."""
    params, state = start(bn, batches[0].shape[1], batches[0].dtype)
    for batch in batches:
        _, state, _ = bn.forward(params, state, batch[None], train=True)
    return state


def test_moving_averages_of_a_hand_worked_sequence() -> None:
    # The statistics with m = 2, so that m/(m − 1) σ² = (x₁ − x₂)² / 2: means 1, 2, 4 and variances 2, 2, 32.
    batches = [np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]), np.array([[0.0], [8.0]])]
    state = averages(BatchNorm(momentum=0.9), batches)
    # Weights .9², .9, 1, which sum to 2.71: (.81 + 1.8 + 4) / 2.71 and (1.62 + 1.8 + 32) / 2.71.
    np.testing.assert_allclose(state["mean"], [[[6.61 / 2.71]]], rtol=1e-14)
    np.testing.assert_allclose(state["var"], [[[35.42 / 2.71]]], rtol=1e-14)


@pytest.mark.parametrize("momentum", [0, 0.5, 0.9, 0.999, 1])
def test_moving_averages_weigh_mini_batches_by_momentum_to_the_power_of_their_age(momentum: float) -> None:
    _, x, _ = draw(30, 5, 2)
    weights = np.array([momentum**age for age in reversed(range(30))])
    state = averages(BatchNorm(momentum=momentum), list(x))
    for name, statistic in ("mean", x.mean(axis=1)), ("var", x.var(axis=1, ddof=1)):
        np.testing.assert_allclose(state[name][0, 0], weights @ statistic / weights.sum(), rtol=1e-11)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-13)])
@pytest.mark.parametrize("momentum", [0, 0.9, 0.99, 0.999, 1])
def test_after_one_mini_batch_the_averages_are_its_statistics(momentum: float, dtype: Any, rtol: float) -> None:
    spread = np.array([0, 1e-4, 1, 1e4])
    batch = (spread * np.random.default_rng(0).standard_normal((8, 4))).astype(dtype)
    state = averages(BatchNorm(momentum=momentum), [batch])
    exact = batch.astype(float)
    np.testing.assert_allclose(state["var"][0, 0], exact.var(axis=0, ddof=1), rtol=rtol)
    np.testing.assert_allclose(state["mean"][0, 0], exact.mean(axis=0), rtol=rtol)


@pytest.mark.parametrize("momentum", [0, 0.9, 0.99, 0.999, 1])
def test_a_constant_feature_is_finite_at_inference_too(momentum: float) -> None:
    bn, batch = BatchNorm(momentum=momentum), np.zeros((8, 3), np.float32)
    for updates in 1, 2, 5:
        state = averages(bn, [batch] * updates)
        assert (state["var"] >= 0).all()
        y, _, _ = bn.forward(start(bn, 3, np.float32)[0], state, batch[None], train=False)
        np.testing.assert_array_equal(y, 0)


@pytest.mark.parametrize("m", range(2, 61))
def test_the_variance_that_is_averaged_is_unbiased(m: int) -> None:
    # m fair coins show k heads with probability C(m, k) / 2^m: feature k is that outcome. The coin's variance is 1/4.
    outcomes = (np.arange(m)[:, None] < np.arange(m + 1)).astype(float)
    probability = np.array([math.comb(m, k) / 2**m for k in range(m + 1)])
    state = averages(BatchNorm(momentum=0), [outcomes])
    np.testing.assert_allclose(state["var"][0, 0] @ probability, 1 / 4, rtol=1e-12)
    np.testing.assert_allclose(state["mean"][0, 0] @ probability, 1 / 2, rtol=1e-12)


def test_inference_is_the_affine_map_of_algorithm_2_step_11() -> None:
    bn = BatchNorm(eps=0.1)
    params, x, _ = draw(2, 5, 3)
    rng = np.random.default_rng(0)
    mean, var = rng.standard_normal((2, 1, 3)), rng.uniform(0.5, 2, (2, 1, 3))
    state = {"mean": mean, "var": var, "updates": np.full((2, 1, 1), 7.0)}
    y, after, _ = bn.forward(params, state, x, train=False)
    slope = params["gamma"] / np.sqrt(var + 0.1)
    np.testing.assert_allclose(y, slope * x + (params["beta"] - slope * mean), rtol=1e-13, atol=1e-14)
    assert all(after[name] is state[name] for name in state)


def test_inference_takes_each_example_alone() -> None:
    params, x, _ = draw(1, 5, 3)
    state = averages(BatchNorm(), [x[0]])
    together, _, _ = BatchNorm().forward(params, state, x, train=False)
    for n in range(5):
        alone, _, _ = BatchNorm().forward(params, state, x[:, [n]], train=False)
        np.testing.assert_array_equal(alone, together[:, [n]])


def test_folded_inference_is_inference_to_rounding() -> None:
    bn, (params, x, _) = BatchNorm(), draw(3, 6, 4)
    state = {"mean": x.mean(axis=1, keepdims=True), "var": x.var(axis=1, keepdims=True), "updates": np.ones((3, 1, 1))}
    scale, shift = bn.fold(params, state)
    assert scale.shape == shift.shape == (3, 1, 4)
    x_hat = (x - state["mean"]) / np.sqrt(state["var"] + bn.eps)
    np.testing.assert_allclose(scale * x + shift, params["gamma"] * x_hat + params["beta"], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        bn.forward(params, state, x, train=False)[0], params["gamma"] * x_hat + params["beta"], rtol=1e-12, atol=1e-12
    )


def test_the_test_batchs_own_statistics_make_an_output_depend_on_its_neighbours() -> None:
    bn, (params, x, _) = BatchNorm(inference="batch"), draw(1, 6, 4)
    _, state = start(bn, 4)
    y, after, _ = bn.forward(params, state, x, train=False)
    np.testing.assert_array_equal(y, bn.forward(params, state, x, train=True)[0])
    assert after is state
    assert not np.allclose(bn.forward(params, state, x[:, :3], train=False)[0], y[:, :3])


@pytest.mark.parametrize("train", [True, False])
def test_on_images_it_is_the_dense_layer_on_one_row_per_pixel(train: bool) -> None:
    runs, n, c, h, w = 2, 5, 3, 4, 6
    bn, rng = BatchNorm(eps=0.1), np.random.default_rng(0)
    params, rows, dy = draw(runs, n * h * w, c)

    def as_images(a: Array) -> Array:
        return np.moveaxis(a.reshape(runs, n, h, w, c), 4, 2)

    def per_map(a: Array) -> Array:
        return a.reshape(*a.shape, 1, 1)

    state = {"mean": rng.standard_normal((runs, 1, c)), "var": rng.uniform(1, 2, (runs, 1, c))}
    state["updates"] = np.full((runs, 1, 1), 3.0)
    y, after, backward = bn.forward(params, state, rows, train=train)
    on_images = {name: per_map(p) for name, p in params.items()}, {name: per_map(a) for name, a in state.items()}
    y4, after4, backward4 = bn.forward(*on_images, as_images(rows), train=train)
    dx, grads = backward(dy)
    dx4, grads4 = backward4(as_images(dy))
    for actual, expected in [
        (y4, as_images(y)),
        (dx4, as_images(dx)),
        *((grads4[name], per_map(grads[name])) for name in grads),
        *((after4[name], per_map(after[name])) for name in after),
    ]:
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)


def test_one_value_per_feature_map_is_refused_in_training() -> None:
    params, state, _ = BatchNorm().init(np.random.default_rng(0), (3, 1, 1))
    with pytest.raises(ValueError, match="at least 2 values per feature"):
        BatchNorm().forward(as_runs(params, float), as_runs(state, float), np.ones((1, 1, 3, 1, 1)), train=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"eps": -1e-9}, "eps=-1e-09"),
        ({"eps": math.nan}, "eps=nan"),
        ({"eps": math.inf}, "eps=inf"),
        ({"momentum": -0.1}, "momentum=-0.1"),
        ({"momentum": 1.1}, "momentum=1.1"),
        ({"momentum": math.nan}, "momentum=nan"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"{named}: must be"):
        BatchNorm(**options)
