"""Every diagnostic against a slow and obvious twin."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kurtosis, skew, wasserstein_distance
from snapshots import (
    NETWORKS,
    OPTIMIZERS,
    alone,
    arrays_of,
    as_in_training,
    each_mlp,
    each_network,
    each_optimizer,
    measured,
    plus,
    read,
    select,
    take,
)

from bnrepro import diagnostics
from bnrepro.batchnorm import BatchNorm
from bnrepro.data import minibatches
from bnrepro.diagnostics import (
    DIAGNOSTICS,
    LANDSCAPE_STEPS,
    PERCENTILES,
    axis_label,
    cosine,
    gradient_norm,
    percentiles,
    singular_values,
    unit_percentiles,
    wasserstein,
)
from bnrepro.errors import InputError
from bnrepro.layers import (
    Array,
    Conv2D,
    Dense,
    Flatten,
    Layer,
    ReLU,
    Sigmoid,
    correct_predictions,
    softmax_cross_entropy,
    xavier,
)
from bnrepro.measuring import Snapshot
from bnrepro.network import Network, copy_tree, mlp
from bnrepro.optim import Adagrad, Momentum, Optimizer, Params

repeatable = settings(deadline=None, derandomize=True, max_examples=100)


@given(
    runs=st.integers(1, 4),
    examples=st.integers(1, 9),
    units=st.integers(1, 7),
    q=st.lists(st.one_of(st.sampled_from([0, 15, 50, 85, 100]), st.floats(0, 100)), min_size=1, max_size=5),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@repeatable
def test_percentiles_equal_those_of_numpy(runs: int, examples: int, units: int, q: list[float], dtype: type) -> None:
    x: Array = np.random.default_rng([runs, examples, units]).standard_normal((runs, examples, units)).astype(dtype)
    result = percentiles(x, q)
    assert (result.shape, result.dtype) == ((runs, len(q)), np.dtype(dtype))
    tolerance = 4 * float(np.finfo(dtype).eps)
    for r in range(runs):
        np.testing.assert_allclose(result[r], np.percentile(x[r].astype(float), q), rtol=tolerance, atol=tolerance)


def test_percentiles_of_a_hand_worked_example() -> None:
    # 0, 10, …, 50 in disorder: the 50th lies halfway between 20 and 30, the 15th at position .75, the 85th at 4.25.
    x = np.array([[[50.0, 0.0], [20.0, 10.0], [40.0, 30.0]]])
    np.testing.assert_allclose(percentiles(x, (0, 15, 50, 85, 100)), [[0, 7.5, 25, 42.5, 50]], rtol=1e-14)


def test_percentiles_leave_their_input_as_it_is() -> None:
    x = np.array([[3.0, 1.0, 2.0]])
    percentiles(x, [50])
    np.testing.assert_array_equal(x, [[3, 1, 2]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_norm_is_the_root_of_the_sum_of_squares(dtype: type) -> None:
    rng = np.random.default_rng(0)
    grads: list[Array] = [rng.standard_normal((3, *shape)).astype(dtype) for shape in [(4, 5), (1, 5), (2, 3, 2, 2)]]
    expected = [math.sqrt(sum(float(v) ** 2 for g in grads for v in g[r].flat)) for r in range(3)]
    result = gradient_norm(iter(grads))
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_correct_predictions_counts_largest_logits() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((3, 50, 4)), rng.integers(0, 4, 50).astype(np.uint8)
    expected = [sum(max(range(4), key=run[n].__getitem__) == labels[n] for n in range(50)) for run in logits]
    np.testing.assert_array_equal(correct_predictions(logits, labels), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_run_that_is_not_finite_raises_nothing_and_leaves_the_others_alone(value: float) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8, 5)).astype(np.float32)
    labels = np.arange(8) % 5
    spoilt = x.copy()
    spoilt[1] = value
    with np.errstate(over="ignore", invalid="ignore"):  # as in training
        for before, after in (
            (percentiles(x, (15, 50, 85)), percentiles(spoilt, (15, 50, 85))),
            (gradient_norm([x, x]), gradient_norm([spoilt, spoilt])),
            (correct_predictions(x, labels), correct_predictions(spoilt, labels)),
        ):
            assert after[[0, 2]].tobytes() == before[[0, 2]].tobytes()
        assert not np.isfinite(gradient_norm([spoilt])[1])
        assert np.isfinite(percentiles(spoilt, [50])[1, 0]) == np.isfinite(value)


@given(
    runs=st.integers(1, 3),
    examples=st.integers(1, 9),
    units=st.integers(1, 4),
    q=st.lists(st.one_of(st.sampled_from([0, 15, 50, 85, 100]), st.floats(0, 100)), min_size=1, max_size=5),
)
@repeatable
def test_unit_percentiles_equal_those_of_numpy(runs: int, examples: int, units: int, q: list[float]) -> None:
    x = np.random.default_rng([runs, examples, units]).standard_normal((runs, examples, units))
    result = unit_percentiles(x, q)
    assert result.shape == (runs, len(q), units)
    for r, i in np.ndindex(runs, units):
        np.testing.assert_allclose(result[r, :, i], np.percentile(x[r, :, i], q), rtol=1e-14, atol=1e-14)


@given(runs=st.integers(1, 3), examples=st.integers(1, 9), units=st.integers(1, 4))
@repeatable
def test_wasserstein_equals_that_of_scipy(runs: int, examples: int, units: int) -> None:
    a, b = np.random.default_rng([runs, examples, units]).standard_normal((2, runs, examples, units))
    result = wasserstein(a, 2 * b + 1)
    assert result.shape == (runs, units)
    for r, i in np.ndindex(runs, units):
        expected = wasserstein_distance(a[r, :, i], 2 * b[r, :, i] + 1)
        np.testing.assert_allclose(result[r, i], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 2, 2)])
def test_cosine_is_the_inner_product_over_the_norms(shape: tuple[int, ...]) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 3, *shape))
    expected = [
        sum(u * v for u, v in zip(a[r].flat, b[r].flat, strict=True))
        / math.sqrt(sum(u * u for u in a[r].flat) * sum(v * v for v in b[r].flat))
        for r in range(3)
    ]
    np.testing.assert_allclose(cosine(a, b), expected, rtol=1e-12)
    np.testing.assert_allclose(cosine(a, 3 * a), 1, rtol=1e-15)
    np.testing.assert_allclose(cosine(a, -a), -1, rtol=1e-15)


def numeric_jacobian(pre: Array, weights: Array, slope: float, offset: float) -> Array:
    """Of x̂ → ẑ in one run whose nonlinearity is g(x) = slope · x + offset, by central differences at some point."""
    mean, std = pre.mean(axis=0), pre.std(axis=0)
    behind = (slope * pre + offset) @ weights
    mean_behind, std_behind = behind.mean(axis=0), behind.std(axis=0)

    def z_hat(x_hat: Array) -> Array:
        z: Array = ((slope * (mean + std * x_hat) + offset) @ weights - mean_behind) / std_behind
        return z

    at = np.random.default_rng(1).standard_normal(len(std))
    return np.array([(z_hat(at + step) - z_hat(at - step)) / 2 for step in np.eye(len(std))])


@pytest.mark.parametrize(("units", "following"), [(4, 4), (5, 3), (3, 5), (1, 1)])
def test_singular_values_are_those_of_the_map_from_normalised_to_normalised(units: int, following: int) -> None:
    rng = np.random.default_rng(0)
    pre = rng.standard_normal((3, 20, units)) * rng.uniform(0.1, 9, units) + rng.standard_normal(units)
    weights = rng.standard_normal((3, units, following))
    result = singular_values(pre, 0.3 * pre + 2, np.full_like(pre, 0.3), weights)
    assert result.shape == (3, min(units, following))
    for r in range(3):
        expected = np.linalg.svd(numeric_jacobian(pre[r], weights[r], 0.3, 2), compute_uv=False)
        np.testing.assert_allclose(result[r], expected, rtol=1e-9)


WHITE = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
"""Mean 0, standard deviation 1, uncorrelated."""


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        # Orthogonal: every direction is turned only, and every unit of h has standard deviation 1, or else 5.
        ([[0.6, -0.8], [0.8, 0.6]], [1, 1]),
        ([[3.0, -4.0], [4.0, 3.0]], [1, 1]),
        # h = (x1, x1 + x2) has standard deviations 1, √2: J Jᵀ = [[3/2, 1/2], [1/2, 1/2]], of eigenvalues 1 ± 1/√2.
        ([[1.0, 1.0], [0.0, 1.0]], [math.sqrt(1 + math.sqrt(0.5)), math.sqrt(1 - math.sqrt(0.5))]),
        # Both units of h are the same: J = [[1, 1], [0, 0]].
        ([[2.0, 5.0], [0.0, 0.0]], [math.sqrt(2), 0]),
    ],
)
@pytest.mark.parametrize("scale", [1, 7])
def test_singular_values_of_hand_worked_examples(weights: list[list[float]], expected: list[float], scale: int) -> None:
    pre = scale * WHITE[None] + 3
    result = singular_values(pre, 0.5 * pre, np.full_like(pre, 0.5), np.array([weights]))
    np.testing.assert_allclose(result, [expected], rtol=1e-14, atol=1e-15)


def test_singular_values_take_the_mean_slope_of_a_curved_nonlinearity() -> None:
    # A ReLU passes 2 of 4 examples in either unit. Its outputs 1, 1, 0, 0 have standard deviation 1/2: J = 1/2 / 1/2.
    post, slope = np.maximum(WHITE, 0)[None], (WHITE > 0).astype(float)[None]
    np.testing.assert_allclose(singular_values(WHITE[None], post, slope, np.eye(2)[None]), [[1, 1]], rtol=1e-15)
    slope[0, 0, 0] = 0.0  # now a quarter of the examples, in the first unit
    np.testing.assert_allclose(singular_values(WHITE[None], post, slope, np.eye(2)[None]), [[1, 0.5]], rtol=1e-15)


@pytest.mark.parametrize("bad", [[1], [0, 1, 2]])
@pytest.mark.parametrize("value", [0.5, 0.1])
@pytest.mark.parametrize("constant", [[2], [0, 1, 2, 3]])
def test_singular_values_are_nan_where_a_unit_does_not_vary(bad: list[int], value: float, constant: list[int]) -> None:
    rng = np.random.default_rng(0)
    pre, weights = rng.standard_normal((3, 50, 4)), np.tile(np.eye(4), (3, 1, 1))
    before = singular_values(pre, pre, np.ones_like(pre), weights)
    post = pre.copy()
    post[np.ix_(bad, range(50), constant)] = value
    with as_in_training():
        after = singular_values(pre, post, np.ones_like(pre), weights)
    good = [r for r in range(3) if r not in bad]
    assert np.isnan(after[bad]).all()
    assert after[good].tobytes() == before[good].tobytes()


def weight_layers(s: Snapshot) -> list[str]:
    return [name for name, arrays in s.params.items() if "W" in arrays]


def norm(tree: Params) -> float:
    return math.sqrt(sum(float((a * a).sum()) for arrays in tree.values() for a in arrays.values()))


def test_every_entry_has_its_columns_in_their_shapes() -> None:
    layers: dict[str, tuple[str, ...]] = dict.fromkeys(DIAGNOSTICS, ()) | {
        "percentiles": ("p15", "p50", "p85"),
        "inactive": ("inactive",),
        "gradients": ("gradient_norm",),
        "drift": ("drift_wasserstein", "drift_mean", "drift_std", "drift_floor"),
        "covariate_shift": ("shift_norm", "shift_cosine"),
        "minibatch_shift": ("minibatch_gradient_norm", "minibatch_shift_norm", "minibatch_shift_cosine"),
        "jacobian": ("jacobian_min", "jacobian_median", "jacobian_max"),
        "weights": ("weight_norm", "effective_rate"),
        "moments": ("skewness", "kurtosis", "output_skewness", "output_kurtosis", "output_zeros"),
        "amplification": ("relative_change",),
    }
    ranges = ("loss_min", "loss_max", "gradient_min", "gradient_max", "smoothness")
    statistics = ("ema", "population", "biased", "layerwise", "batch")
    curve = {"gradients": ("gradient_ratio",), "landscape": tuple(f"landscape_{name}" for name in ranges)}
    curve |= {"companions": ("companions",), "inference": tuple(f"accuracy_{name}" for name in statistics)}
    curve |= {name: tuple(c.name for c in DIAGNOSTICS[name].columns) for name in ("gradient_estimate", "corruptions")}
    for network, nonlinearities, units in ((NETWORKS["relu"], 3, 6), (NETWORKS["cnn"], 2, 3 * 2 * 2)):
        for s in (take(network), replace(take(network), before=None), select(take(network), [1])):
            runs = len(s.lr)
            for name in DIAGNOSTICS:
                depth = nonlinearities + (name in ("covariate_shift", "minibatch_shift", "weights"))
                expected = dict.fromkeys(curve.get(name, ()), (runs,)) | dict.fromkeys(layers[name], (runs, depth))
                expected |= dict.fromkeys(("p15", "p50", "p85"), (runs, units)) if name == "units" else {}
                assert {k: v.shape for k, v in read(name, s).items()} == expected


def test_units_without_a_nonlinearity_are_refused() -> None:
    with pytest.raises(InputError, match=r"^diagnostics=units: must be left out, since the network has no nonlinear"):
        diagnostics.units(replace(take(NETWORKS["relu"]), taps={}))


def test_the_label_of_an_axis_is_the_one_that_its_column_declares() -> None:
    assert axis_label("run", "train_loss") == "loss on the probe batch (nats)"
    assert axis_label("layer", "drift_wasserstein") == "Wasserstein distance / σ"
    assert axis_label("run", "gradient_norm") != axis_label("layer", "gradient_norm")
    with pytest.raises(KeyError):
        axis_label("unit", "train_loss")


each_diagnostic = pytest.mark.parametrize("diagnostic", DIAGNOSTICS)

SIZES = {name: (network, 4) for name, network in NETWORKS.items()}
for name, normalisation in {"paper": None, "paper, batch norm": BatchNorm}.items():  # BLAS takes other paths there
    SIZES[name] = mlp([100, 100, 100], 3, xavier, Sigmoid, normalisation), 28


@pytest.mark.parametrize(("network", "side"), SIZES.values(), ids=SIZES)
@each_diagnostic
def test_a_run_alone_reads_the_bits_of_the_run_in_a_group(network: Network, diagnostic: str, side: int) -> None:
    s = take(network, OPTIMIZERS["momentum"], np.float32, side)
    together = read(diagnostic, s)
    for r, own in alone(s):
        for name, value in read(diagnostic, own).items():
            assert value.tobytes() == together[name][[r]].tobytes(), name


@each_network
@each_optimizer
@each_diagnostic
def test_a_diagnostic_changes_nothing_it_is_given(network: Network, optimizer: Optimizer, diagnostic: str) -> None:
    s = take(network, optimizer)
    before = [a.tobytes() for a in arrays_of(s)]
    first, again = read(diagnostic, s), read(diagnostic, s)  # writing into s would raise
    assert [a.tobytes() for a in arrays_of(s)] == before
    assert {name: v.tobytes() for name, v in first.items()} == {name: v.tobytes() for name, v in again.items()}


@each_network
@each_diagnostic
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_diverging_run_raises_nothing_and_leaves_the_others_alone(
    network: Network, diagnostic: str, value: float
) -> None:
    s = take(network, OPTIMIZERS["momentum"], np.float32)
    params = copy_tree(s.params)
    for name in weight_layers(s):
        params[name]["W"][1] = value
    with as_in_training():
        spoilt = measured(s, params=params)
    healthy = read(diagnostic, s)
    for name, column in read(diagnostic, spoilt).items():
        assert column[[0, 2]].tobytes() == healthy[name][[0, 2]].tobytes(), name


@each_network
def test_percentiles_and_units_equal_those_of_numpy_run_by_run(network: Network) -> None:
    s = take(network)
    layers, units = read("percentiles", s), read("units", s)
    for q in PERCENTILES:
        for r in range(3):
            for i, tap in enumerate(s.taps.values()):
                np.testing.assert_allclose(layers[f"p{q}"][r, i], np.percentile(tap[r], q), rtol=1e-13)
            last = tap[r].reshape(len(tap[r]), -1)
            for d in range(last.shape[1]):
                np.testing.assert_allclose(units[f"p{q}"][r, d], np.percentile(last[:, d], q), rtol=1e-13)


@each_network
def test_inactive_counts_saturated_outputs_and_dead_units(network: Network) -> None:
    s = take(network)
    s = replace(s, taps={name: 4 * tap - 3 for name, tap in s.taps.items()})  # so that there are some
    result = read("inactive", s)["inactive"]
    for i, (name, tap) in enumerate(s.taps.items()):
        for r in range(3):
            x = tap[r].reshape(len(tap[r]), -1)
            if isinstance(network.layers[name], ReLU):
                counted = [all(v <= 0 for v in x[:, d]) for d in range(x.shape[1])]
            else:
                counted = [not 0.05 <= 1 / (1 + math.exp(-v)) <= 0.95 for v in x.flat]
            np.testing.assert_allclose(result[r, i], sum(counted) / len(counted), rtol=1e-14)
    assert 0 < result.mean() < 1


@each_network
def test_gradients_are_the_norms_of_the_weights_before_each_nonlinearity(network: Network) -> None:
    s = take(network)
    found = read("gradients", s)
    *hidden, logits = weight_layers(s)
    assert logits == "logits"
    for r in range(3):
        expected = [math.sqrt(sum(v * v for v in s.grads[name]["W"][r].flat)) for name in hidden]
        np.testing.assert_allclose(found["gradient_norm"][r], expected, rtol=1e-13)
        np.testing.assert_allclose(found["gradient_ratio"][r], expected[0] / expected[-1], rtol=1e-13)


def slow_drift(s: Snapshot) -> dict[str, Array]:
    assert s.before is not None
    found = np.full((4, len(s.lr), len(s.taps)), np.nan)
    for (i, name), r in ((pair, r) for pair in enumerate(s.taps) for r in range(len(s.lr))):
        now, before = (a[name][r].reshape(len(a[name][r]), -1).T for a in (s.taps, s.before))
        moved = [
            (
                wasserstein_distance(a, b) / np.std(b),
                abs(np.mean(a) - np.mean(b)) / np.std(b),
                abs(math.log(np.std(a) / np.std(b))),
                wasserstein_distance(a[::2], a[1::2]) / np.std(a),
            )
            for a, b in zip(now, before, strict=True)
            if len(set(a)) > 1 and len(set(b)) > 1
        ]
        if moved:
            found[:, r, i] = np.mean(moved, axis=0)
    return dict(zip(("drift_wasserstein", "drift_mean", "drift_std", "drift_floor"), found, strict=True))


def assert_columns(found: dict[str, Array], expected: dict[str, Array], tolerance: float = 1e-11) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance / 100, err_msg=name)


@each_network
def test_drift_is_the_mean_over_units_of_what_scipy_finds(network: Network) -> None:
    s = take(network)
    expected = slow_drift(s)
    assert all((value > 0).all() for value in expected.values())
    assert_columns(read("drift", s), expected)


@pytest.mark.parametrize("when", ["taps", "before"])
@pytest.mark.parametrize("value", [0.0, 0.5, 0.1])
def test_drift_leaves_out_units_that_do_not_vary(when: str, value: float) -> None:
    s = take(NETWORKS["relu"])
    constant: Any = {name: tap.copy() for name, tap in getattr(s, when).items()}
    constant["nonlinearity1"][0, :, 2] = value
    constant["nonlinearity2"][1, :, :3] = value
    constant["nonlinearity3"][2] = value  # no unit is left
    changed: dict[str, Any] = {when: constant}
    s = replace(s, **changed)
    expected = slow_drift(s)
    for column in expected.values():
        assert np.argwhere(np.isnan(column)).tolist() == [[2, 2]]
    assert_columns(read("drift", s), expected)


def test_drift_is_nan_at_the_first_measurement_and_zero_where_nothing_moved_but_has_a_floor() -> None:
    s = take(NETWORKS["relu"])
    first, still = (read("drift", replace(s, before=before)) for before in (None, s.taps))
    floors = first.pop("drift_floor"), still.pop("drift_floor")
    np.testing.assert_array_equal(*floors)
    assert (floors[0] > 0).all()
    for column in first.values():
        np.testing.assert_array_equal(column, np.full((3, 3), np.nan))
    for column in still.values():
        np.testing.assert_array_equal(column, np.zeros((3, 3)))


def test_the_floor_of_drift_is_the_distance_of_every_other_example_from_the_rest() -> None:
    # 0, 4 and 1, 7 lie 2 apart on average, the last of five is left out; σ of all is √(208/25).
    s = take(mlp([1], 3, xavier, ReLU, None))
    z: Array = np.array([0.0, 7.0, 4.0, 1.0, 6.0]).reshape(1, 5, 1) * np.ones((3, 1, 1))
    for before in (None, {"nonlinearity1": 9 * z}):
        found = read("drift", replace(s, taps={"nonlinearity1": z}, before=before))["drift_floor"]
        np.testing.assert_allclose(found, np.full((3, 1), 2 / np.std([0, 7, 4, 1, 6])), rtol=1e-14)


def test_the_floor_of_drift_falls_with_the_root_of_the_examples() -> None:
    s, rng = take(mlp([200], 3, xavier, ReLU, None)), np.random.default_rng(0)
    for examples in (60, 1000):
        z, other = rng.standard_normal((2, 3, examples, 200))
        floor = read("drift", replace(s, taps={"nonlinearity1": z}, before=None))["drift_floor"]
        # Two empirical distribution functions of n values differ by about √(4/(π n)) ∫ √(Φ (1 − Φ)), tails apart.
        np.testing.assert_allclose(floor * math.sqrt(examples / 2), 1.82, rtol=0.08)
        assert wasserstein(z, other).mean() == pytest.approx(floor.mean() / math.sqrt(2), rel=0.08)


def test_drift_of_a_hand_worked_shift_and_stretch() -> None:
    # From ±1 to 3 ± e: by 3 in the mean, by 1 in log σ; the halves by 3 ± (e − 1), the same way, so by 3 on average.
    s, sign = take(mlp([2], 3, xavier, ReLU, None)), np.tile([[1.0], [-1.0]], (3, 8, 2))
    s = replace(s, taps={"nonlinearity1": 5 * (3 + math.e * sign)}, before={"nonlinearity1": 5 * sign})
    found = read("drift", s)
    for name, expected in {"drift_wasserstein": 3, "drift_mean": 3, "drift_std": 1}.items():
        np.testing.assert_allclose(found[name], np.full((3, 1), expected), rtol=1e-14)


def slow_step(s: Snapshot) -> Params:
    """The parameters after one update, by the formula of each optimiser."""
    updated, optimizer = copy_tree(s.params), s.optimizer
    for layer, arrays in updated.items():
        for name, p in arrays.items():
            for r, lr in enumerate(s.lr):
                g = s.grads[layer][name][r] + (getattr(optimizer, "weight_decay", 0) * p[r] if name == "W" else 0)
                if isinstance(optimizer, Momentum):
                    p[r] += optimizer.momentum * s.optimizer_state[layer][name][r] - lr * g
                elif isinstance(optimizer, Adagrad):
                    p[r] -= lr * g / (np.sqrt(s.optimizer_state[layer][name][r] + g**2) + optimizer.eps)
                else:
                    p[r] -= lr * g
    return updated


def gradient_at(s: Snapshot, params: Params) -> tuple[Array, Params]:
    logits, _, backward = s.network.forward(params, s.state, s.x, train=True)
    loss, dlogits = softmax_cross_entropy(logits, s.targets)
    return loss, backward(dlogits)


@each_network
@each_optimizer
def test_covariate_shift_is_definition_2_1(network: Network, optimizer: Optimizer) -> None:
    s = take(network, optimizer)
    names, order = weight_layers(s), list(s.params)
    norms, cosines = np.empty((2, 3, len(names)))
    for r, own in alone(s):
        old, new = own.params, slow_step(own)
        for i, name in enumerate(names):
            before = gradient_at(own, old)[1][name]["W"].ravel()
            mixed = {layer: (new if order.index(layer) < order.index(name) else old)[layer] for layer in order}
            after = gradient_at(own, mixed)[1][name]["W"].ravel()
            norms[r, i] = np.linalg.norm(before - after)
            cosines[r, i] = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
    found = read("covariate_shift", s)
    assert_columns(found, {"shift_norm": norms, "shift_cosine": cosines}, 1e-9)
    assert (found["shift_norm"][:, 0] == 0).all()
    np.testing.assert_allclose(found["shift_cosine"][:, 0], 1, rtol=1e-15)
    assert (found["shift_norm"][:, 1:] > 1e-6).all()


@each_network
def test_the_shift_on_a_mini_batch_is_definition_2_1_on_training_examples_drawn_by_the_step(network: Network) -> None:
    s, seen = take(network, OPTIMIZERS["momentum"]), []
    for step in (0, 7):
        batch = np.random.default_rng(step).permutation(70)[:6]
        x, targets = s.data.train_images[None, batch] / 255, np.eye(3)[s.data.train_labels[None, batch]]
        own = measured(s, x=x, targets=targets)
        expected = read("covariate_shift", own)
        sizes = [gradient_norm([own.grads[name]["W"]]) for name in weight_layers(s)]
        columns = {"gradient_norm": np.transpose(sizes), **expected}
        found = read("minibatch_shift", replace(s, step=step))
        assert_columns(found, {f"minibatch_{name}": value for name, value in columns.items()})
        seen.append(found["minibatch_shift_norm"])
    assert (seen[0][:, 1:] != seen[1][:, 1:]).all()


@each_network
@each_optimizer
def test_a_step_is_the_optimisers_own_with_its_memory(network: Network, optimizer: Optimizer) -> None:
    s = take(network, optimizer)
    stepped, expected = s.after_a_step(), slow_step(s)
    for layer, arrays in expected.items():
        for name, p in arrays.items():
            np.testing.assert_allclose(stepped[layer][name], p, rtol=1e-12, atol=1e-13)


@each_network
def test_a_gradient_at_the_parameters_as_they_are_is_that_of_the_measurement(network: Network) -> None:
    s = take(network)
    for layer, arrays in s.gradient(s.params)[1].items():
        for name, g in arrays.items():
            np.testing.assert_array_equal(g, s.grads[layer][name])


def slow_jacobian(s: Snapshot, r: int, tap: str, weights: str) -> Array:
    x, w = s.taps[tap][r], s.params[weights]["W"][r]
    if isinstance(s.network.layers[tap], ReLU):
        y, slope = np.where(x > 0, x, 0), np.where(x > 0, 1.0, 0.0)
    else:
        y = 1 / (1 + np.exp(-x))
        slope = np.exp(-x) / (1 + np.exp(-x)) ** 2
    jacobian = np.empty(w.shape)
    for i, j in np.ndindex(w.shape):
        h = sum(y[:, k] * w[k, j] for k in range(len(w)))
        jacobian[i, j] = np.std(x[:, i]) * np.mean(slope[:, i]) * w[i, j] / np.std(h)
    return jacobian


@each_mlp
def test_jacobian_is_of_each_nonlinearity_and_the_weights_behind_it(network: Network) -> None:
    s = take(network)
    expected = np.full((3, 3, 3), np.nan)
    for r, i in np.ndindex(3, 2):
        values = np.linalg.svd(slow_jacobian(s, r, f"nonlinearity{i + 1}", f"dense{i + 2}"), compute_uv=False)
        expected[:, r, i] = values.min(), np.median(values), values.max()
    names = ("jacobian_min", "jacobian_median", "jacobian_max")
    assert_columns(read("jacobian", s), dict(zip(names, expected, strict=True)), 1e-10)


def test_jacobian_is_nan_where_the_layers_between_are_not_fully_connected() -> None:
    for column in read("jacobian", take(NETWORKS["cnn"])).values():
        np.testing.assert_array_equal(column, np.full((3, 2), np.nan))
    mixed: dict[str, Layer] = {"conv": Conv2D(2, 3, xavier), "relu1": ReLU(), "flatten": Flatten()}
    mixed |= {"dense2": Dense(5, xavier), "relu2": ReLU(), "dense3": Dense(4, xavier), "relu3": ReLU()}
    s = take(Network({**mixed, "logits": Dense(3, xavier)}))
    expected = [np.linalg.svd(slow_jacobian(s, r, "relu2", "dense3"), compute_uv=False) for r in range(3)]
    found = read("jacobian", s)
    for column in found.values():
        assert np.isnan(column).tolist() == [[True, False, True]] * 3
    np.testing.assert_allclose(found["jacobian_max"][:, 1], [v[0] for v in expected], rtol=1e-12)
    np.testing.assert_allclose(found["jacobian_min"][:, 1], [v[-1] for v in expected], rtol=1e-10)


def test_jacobian_is_nan_where_a_norm_is_between() -> None:
    s = take(mlp([5, 4, 6], 3, xavier, ReLU, BatchNorm, placement="after"))
    for column in read("jacobian", s).values():
        np.testing.assert_array_equal(column, np.full((3, 3), np.nan))


@pytest.mark.parametrize("activation", [Sigmoid, ReLU])
@pytest.mark.parametrize("factors", [[7.0, 7.0, 7.0, 7.0], [7.0, 0.2, 3.0, 50.0]], ids=["layer", "unit by unit"])
def test_with_batch_norm_the_scale_of_the_weights_is_nothing_to_the_jacobian(
    activation: Any, factors: list[float]
) -> None:
    # Section 3.3: BN((aW)u) = BN(Wu).
    s = take(mlp([5, 4, 6], 3, xavier, activation, lambda: BatchNorm(eps=0)))
    scaled = copy_tree(s.params)
    scaled["dense2"]["W"] *= factors
    found = read("jacobian", measured(s, params=scaled))
    assert_columns(found, read("jacobian", s), 1e-10)
    without = take(NETWORKS["sigmoid"])
    scaled = copy_tree(without.params)
    scaled["dense2"]["W"] *= factors
    after, before = (read("jacobian", t)["jacobian_max"] for t in (measured(without, params=scaled), without))
    assert (np.abs(after[:, 1] / before[:, 1] - 1) > 1e-3).all()


@each_network
@each_optimizer
def test_landscape_is_the_range_over_steps_along_the_gradient(network: Network, optimizer: Optimizer) -> None:
    s = take(network, optimizer)
    assert (min(LANDSCAPE_STEPS), max(LANDSCAPE_STEPS)) == (0.5, 4)
    rows: list[list[float]] = []
    for _, own in alone(s):
        (lr,), (_, here) = own.lr, gradient_at(own, own.params)
        losses, changes, smoothness = [], [], []
        for multiple in LANDSCAPE_STEPS:
            step = scaled(here, -multiple * lr)
            loss, there = gradient_at(own, plus(own.params, step))
            losses.append(float(loss[0]))
            changes.append(norm(plus(here, scaled(there, -1))))
            smoothness.append(changes[-1] / norm(step))
        rows.append([min(losses), max(losses), min(changes), max(changes), max(smoothness)])
    names = [f"landscape_{n}" for n in ("loss_min", "loss_max", "gradient_min", "gradient_max", "smoothness")]
    assert_columns(read("landscape", s), dict(zip(names, np.transpose(rows), strict=True)), 1e-9)


def scaled(tree: Params, factor: float) -> Params:
    return {layer: {name: factor * a for name, a in arrays.items()} for layer, arrays in tree.items()}


@pytest.mark.parametrize("network", [NETWORKS["sigmoid"], NETWORKS["sigmoid, batch norm"], NETWORKS["cnn, batch norm"]])
def test_smoothness_at_a_tiny_rate_is_the_curvature_along_the_gradient(network: Network) -> None:
    s = replace(take(network), lr=np.array([1e-6, 1e-5, 2e-5]))
    found = read("landscape", s)
    for r, own in alone(s):
        loss, g = gradient_at(own, own.params)
        above, below = (gradient_at(own, plus(own.params, scaled(g, eps)))[1] for eps in (1e-4, -1e-4))
        curvature = norm(plus(above, scaled(below, -1))) / 2e-4 / norm(g)  # ‖H g‖ / ‖g‖
        np.testing.assert_allclose(found["landscape_smoothness"][r], curvature, rtol=1e-3)
        for multiple, name in ((0.5, "min"), (4, "max")):  # the gradient changes in proportion to the step
            change = multiple * own.lr[0] * norm(g) * curvature
            np.testing.assert_allclose(found[f"landscape_gradient_{name}"][r], change, rtol=1e-3)
        for multiple, name in ((0.5, "max"), (4, "min")):  # and the loss falls by η ‖∇L‖²
            fall = loss[0] - found[f"landscape_loss_{name}"][r]
            np.testing.assert_allclose(fall, multiple * own.lr[0] * norm(g) ** 2, rtol=1e-3)


@each_network
def test_weights_are_their_norm_and_the_rate_over_its_square(network: Network) -> None:
    s = take(network)
    norms = np.array(
        [[math.sqrt(sum(v * v for v in s.params[n]["W"][r].flat)) for n in weight_layers(s)] for r in range(3)]
    )
    expected = {"weight_norm": norms, "effective_rate": np.array([[lr] for lr in s.lr]) / norms**2}
    assert_columns(read("weights", s), expected, 1e-13)


@each_network
def test_moments_are_those_of_scipy_over_the_units_that_vary(network: Network) -> None:
    s = take(network)
    taps = {name: tap.copy() for name, tap in s.taps.items()}
    first, second, *_ = taps.values()
    first.reshape(*first.shape[:2], -1)[1, :, 0] = 0.1
    second[2] = 0.1  # no unit is left
    s = replace(s, taps=taps)
    found = read("moments", s)
    for (i, (name, tap)), r in ((pair, r) for pair in enumerate(taps.items()) for r in range(3)):
        relu = isinstance(network.layers[name], ReLU)
        output = np.maximum(tap, 0) if relu else 1 / (1 + np.exp(-tap))
        for prefix, values in (("", tap), ("output_", output)):
            units = [unit for unit in values[r].reshape(len(values[r]), -1).T if len(set(unit)) > 1]
            for column, function in (("skewness", skew), ("kurtosis", kurtosis)):
                expected = np.mean([abs(function(unit)) for unit in units]) if units else math.nan
                np.testing.assert_allclose(found[prefix + column][r, i], expected, rtol=1e-9)
        np.testing.assert_allclose(found["output_zeros"][r, i], np.mean(output[r] == 0))
        assert relu == (found["output_zeros"][r, i] > 0) or r == 2


def test_moments_of_saturated_units_are_those_of_values_near_1() -> None:
    """Squares of 1e-30 are 0 in float32, and of 1e-200 in float64."""
    x = np.random.default_rng(0).uniform(1, 2, (2, 16, 3))
    for small in (x.astype(np.float32) * np.float32(2.0**-100), x * 2.0**-600):
        for found, expected in zip(diagnostics._shape(small), diagnostics._shape(x.astype(small.dtype)), strict=True):
            np.testing.assert_array_equal(found, expected)


def flat(grads: Params) -> Array:
    return np.concatenate([a.ravel() for arrays in grads.values() for a in arrays.values()])


@each_network
def test_gradient_estimates_are_those_of_whole_epochs_of_the_probe_batch(network: Network) -> None:
    s = take(network)
    found, (_, n) = read("gradient_estimate", s), s.x.shape[:2]
    assert n == 16
    for r, own in alone(s):
        whole = flat(own.grads)
        for m, count in {2: 32, 4: 32, 8: 32, 16: 32}.items():
            estimates = []
            for batch in itertools.islice(minibatches(n, m, 0), count):
                logits, _, backward = network.forward(own.params, own.state, s.x[:, batch], train=True)
                estimates.append(flat(backward(softmax_cross_entropy(logits, s.targets[:, batch])[1])))
            distances = [sum((g - whole) ** 2) for g in estimates]
            cosines = [g @ whole / np.linalg.norm(g) / np.linalg.norm(whole) for g in estimates]
            expected = {
                "noise": math.sqrt(np.mean(distances)) / np.linalg.norm(whole),
                "bias": np.linalg.norm(np.mean(estimates, axis=0) - whole) / np.linalg.norm(whole),
                "cosine": np.mean(cosines),
            }
            for name, value in expected.items():
                np.testing.assert_allclose(found[f"estimate_{name}_{m}"][r], value, rtol=1e-9, atol=1e-12)
        assert all(np.isnan(found[f"estimate_{name}_32"][r]) for name in ("noise", "bias", "cosine"))


def test_gradient_estimates_have_a_bias_with_batch_norm_alone() -> None:
    plain, normalised = (
        read("gradient_estimate", measured(s, x=s.x[:, :12], targets=s.targets[:, :12]))
        for s in (take(NETWORKS[name]) for name in ("sigmoid", "sigmoid, batch norm"))
    )
    for m in (2, 4):  # of which whole epochs are 36 and 33 mini-batches
        assert (plain[f"estimate_bias_{m}"] < 1e-13).all()
        assert (normalised[f"estimate_bias_{m}"] > 1e-2).all()
        assert (plain[f"estimate_noise_{m}"] > 1e-2).all()


@each_network
def test_amplification_is_the_change_of_what_enters_relative_to_its_spread(network: Network) -> None:
    s = take(network)
    found = read("amplification", s)["relative_change"]
    first, *_ = weight_layers(s)
    noise = np.random.default_rng(0).standard_normal(s.params[first]["W"].shape[1:])
    for r, own in alone(s):
        params = copy_tree(own.params)
        w = params[first]["W"]
        w += 0.01 * np.linalg.norm(w) * noise / np.linalg.norm(noise)
        taps: list[Array] = []
        network.forward(params, own.state, own.x, train=True, taps=taps)
        for i, (before, after) in enumerate(zip(own.taps.values(), taps, strict=True)):
            spread = sum(np.var(unit) * len(unit) for unit in before[0].reshape(len(before[0]), -1).T)
            expected = np.linalg.norm(after - before) / math.sqrt(spread)
            np.testing.assert_allclose(found[r, i], expected, rtol=1e-9)


def test_amplification_is_not_measured_where_rounding_is() -> None:
    s = take(NETWORKS["sigmoid"], dtype=np.float32)
    for offset, measured_there in ((0, True), (1e2, True), (1e4, False)):
        taps = dict(s.taps) | {"nonlinearity2": s.taps["nonlinearity2"] + np.float32(offset)}
        found = read("amplification", replace(s, taps=taps))["relative_change"]
        assert (np.isfinite(found) == [True, measured_there, True]).all()
