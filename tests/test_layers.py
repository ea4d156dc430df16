"""Every layer keeps the contract; then what is particular to each of those in layers.py, its initialisers and loss.

A new layer is one more row of ``LAYERS``.
"""

import inspect
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import scipy.signal
from gradients import assert_gradients
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrepro import batchnorm, layers
from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import (
    NO_DX,
    Array,
    Arrays,
    AvgPool2D,
    Backward,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAvgPool2D,
    Initializer,
    Layer,
    MaxPool2D,
    Nonlinearity,
    Normal,
    ReLU,
    Shape,
    Sigmoid,
    Tanh,
    channels_first,
    channels_last,
    he,
    softmax_cross_entropy,
    xavier,
)
from bnrepro.network import stack_runs


@pytest.fixture(autouse=True, scope="module")
def look_at_few_features() -> Iterator[None]:
    """Let a sparse layer skip features of small examples too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "LEAST_FEATURES", 1)
        yield


@dataclass(frozen=True)
class Row:
    layer: Layer
    shape: Shape
    """Of one example: small, since each of its elements is perturbed; other tests multiply its first number."""
    stochastic: bool = False
    """Whether training draws random numbers; from the state, so that forward is a function of its arguments."""
    zeros: float = 0.0
    """The share of features that are 0 in the whole mini-batch of a run."""


@dataclass(frozen=True)
class OfParts(Layer):
    """A layer of several inputs, here the first channel or feature and the others, in the other order."""

    of: Layer

    def init(self, rng: np.random.Generator, in_shape: Any) -> tuple[Arrays, Arrays, Shape]:
        channels, *image = in_shape
        return self.of.init(rng, ((channels - 1, *image), (1, *image)))  # type: ignore[arg-type]

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        parts: Any = x[:, :, 1:], x[:, :, :1]
        y, state, backward = self.of.forward(params, state, parts, train=train)

        def joined(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            (others, first), grads = backward(dy, need_dx=need_dx)
            return np.concatenate([first, others], axis=2), grads

        return y, state, joined


LAYERS = {
    "dense": Row(Dense(4, he), (3,)),
    "dense without bias": Row(Dense(4, he, bias=False), (3,)),
    "dense of one unit": Row(Dense(1, he), (1,)),
    "dense, sparse": Row(Dense(4, he, sparse=True), (7,), zeros=0.7),
    "dense, sparse, no bias": Row(Dense(4, he, bias=False, sparse=True), (7,), zeros=0.5),
    "flatten": Row(Flatten(), (2, 3, 2)),
    "sigmoid": Row(Sigmoid(), (3,)),
    "sigmoid of images": Row(Sigmoid(), (2, 3, 2)),
    "relu": Row(ReLU(), (3,)),
    "relu of images": Row(ReLU(), (2, 3, 2)),
    "tanh": Row(Tanh(), (3,)),
    "dropout": Row(Dropout(0.4), (4,), stochastic=True),
    "dropout of images": Row(Dropout(0.4), (2, 3, 2), stochastic=True),
    "dropout at rate 0": Row(Dropout(0.0), (3,)),
    "convolution": Row(Conv2D(3, 3, he), (2, 5, 4)),
    "convolution, padded, strided, no bias": Row(Conv2D(2, 3, he, stride=2, padding=1, bias=False), (2, 5, 4)),
    "convolution, stride > kernel": Row(Conv2D(2, 2, he, stride=3), (1, 6, 7)),
    "convolution of one pixel": Row(Conv2D(3, 1, he), (2, 2, 3)),
    "convolution of one pixel, strided": Row(Conv2D(3, 1, he, stride=2), (2, 5, 4)),
    "convolution of one pixel, padded": Row(Conv2D(2, 1, he, padding=1), (2, 2, 3)),
    "convolution, 5 × 5, strided, odd": Row(Conv2D(2, 5, he, stride=2, padding=2), (2, 5, 7)),
    "convolution, padded by more than the kernel": Row(Conv2D(2, 2, he, stride=2, padding=3), (1, 3, 2)),
    "convolution of long rows": Row(Conv2D(2, 3, he, stride=2, padding=1), (1, 2, 9)),
    "max pooling": Row(MaxPool2D(2), (2, 4, 4)),
    "max pooling, overlapping, odd": Row(MaxPool2D(3, 2), (1, 6, 5)),
    "max pooling, stride > size": Row(MaxPool2D(2, 3), (1, 6, 7)),
    "average pooling": Row(AvgPool2D(2), (2, 5, 4)),
    "average pooling, overlapping": Row(AvgPool2D(3, 1), (1, 4, 5)),
    "max pooling, padded": Row(MaxPool2D(3, 2, padding=1), (2, 4, 5)),
    "average pooling, padded": Row(AvgPool2D(3, 1, padding=1), (2, 3, 4)),
    "average pooling, padded, strided": Row(AvgPool2D(3, 2, padding=2), (1, 2, 5)),
    "global average pooling": Row(GlobalAvgPool2D(), (2, 3, 4)),
    "concatenation": Row(OfParts(Concatenate()), (4,)),
    "concatenation of images": Row(OfParts(Concatenate()), (3, 2, 3)),
    "batch norm": Row(BatchNorm(), (3,)),
    "batch norm of images": Row(BatchNorm(), (2, 3, 2)),
    "batch norm with the test batch's statistics": Row(BatchNorm(inference="batch"), (3,)),
    "batch norm without eps": Row(BatchNorm(eps=0, momentum=0), (3,)),
}
WITH_PARAMETERS = {name: row for name, row in LAYERS.items() if row.layer.init(np.random.default_rng(), row.shape)[0]}

OF_IMAGES = {name: row for name, row in LAYERS.items() if len(row.shape) == 3}

each_layer = pytest.mark.parametrize("row", LAYERS.values(), ids=LAYERS)
each_mode = pytest.mark.parametrize("train", [True, False], ids=["train", "inference"])
any_sizes = given(
    runs=st.sampled_from([1, 2, 5, 8]),
    examples=st.integers(1, 40),
    factor=st.integers(1, 9),
    dtype=st.sampled_from([np.float32, np.float64]),
)
repeatable = settings(deadline=None, derandomize=True, max_examples=40)


def is_float(a: Array) -> bool:
    """Integers in a state are keys and counters."""
    return np.issubdtype(a.dtype, np.floating)


@dataclass
class Sample:
    """A layer's arguments, with parameters and state that are not those of the start, and a cotangent ``dy``."""

    params: Arrays
    state: Arrays
    x: Array
    dy: Array

    def astype(self, dtype: Any) -> "Sample":
        return self.map(lambda a: a.astype(dtype) if is_float(a) else a)

    def of_run(self, r: int) -> "Sample":
        return self.map(lambda a: a[[r]])

    def map(self, f: Any) -> "Sample":
        params, state = ({name: f(a) for name, a in arrays.items()} for arrays in (self.params, self.state))
        return Sample(params, state, f(self.x), f(self.dy))


def sample(row: Row, runs: int = 2, examples: int = 8, factor: int = 1, *, shared_x: bool = False) -> Sample:
    """Draw arguments in float64; ``shared_x`` gives x the run axis 1."""
    rng = np.random.default_rng(0)
    shape = (factor * row.shape[0], *row.shape[1:])
    trees = []
    for _ in range(runs):
        params, state, _ = row.layer.init(rng, shape)
        trees.append({"params": params, "state": state})
    stacked = stack_runs(trees, np.dtype(float))
    params = {name: p + 0.5 * rng.standard_normal(p.shape) for name, p in stacked["params"].items()}
    seen = rng.standard_normal((runs, max(examples, 2), *shape))
    state = row.layer.forward(params, stacked["state"], seen, train=True)[1]
    x = 0.5 + 2 * rng.standard_normal((1 if shared_x else runs, examples, *shape))
    if row.zeros:
        x *= rng.random((len(x), 1, *shape)) >= row.zeros
    y = row.layer.forward(params, state, x, train=False)[0]
    return Sample(params, state, x, rng.standard_normal(y.shape))


def outcome(row: Row, s: Sample, *, train: bool) -> Arrays:
    """All that one forward and one backward pass give, under one name each."""
    y, state, backward = row.layer.forward(s.params, s.state, s.x, train=train)
    dx, grads = backward(s.dy)
    named = {f"state {name}": a for name, a in state.items()} | {f"gradient of {name}": a for name, a in grads.items()}
    return {"y": y, "dx": dx} | named


def assert_same_bits(actual: Arrays, expected: Arrays) -> None:
    assert actual.keys() == expected.keys()
    for name, a in actual.items():
        assert (a.dtype, a.shape) == (expected[name].dtype, expected[name].shape), name
        assert a.tobytes() == expected[name].tobytes(), name


def test_every_layer_of_the_package_is_in_the_table() -> None:
    classes = {
        cls
        for module in (layers, batchnorm)
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__ and Layer in cls.__mro__ and not inspect.isabstract(cls)
    }
    assert classes == {type(getattr(row.layer, "of", row.layer)) for row in LAYERS.values()}


@each_layer
def test_init_names_the_shapes_that_forward_takes_and_gives(row: Row) -> None:
    params, state, out_shape = row.layer.init(np.random.default_rng(0), row.shape)
    s = sample(row, runs=2, examples=8)
    assert {name: (2, *p.shape) for name, p in params.items()} == {name: p.shape for name, p in s.params.items()}
    assert {name: (2, *a.shape) for name, a in state.items()} == {name: a.shape for name, a in s.state.items()}
    assert s.dy.shape == (2, 8, *out_shape)


@each_layer
@each_mode
def test_gradients_equal_central_differences(row: Row, train: bool) -> None:
    s = sample(row, runs=2, examples=8)
    result = outcome(row, s, train=train)

    def y(at: Arrays) -> Array:
        return row.layer.forward({name: at[name] for name in s.params}, s.state, at["x"], train=train)[0]

    grads = {name: result[f"gradient of {name}"] for name in s.params}
    assert_gradients(y, {"x": s.x} | s.params, s.dy, {"x": result["dx"]} | grads)


@each_layer
@each_mode
def test_gradients_have_the_names_and_shapes_of_what_they_belong_to(row: Row, train: bool) -> None:
    s = sample(row, runs=3)
    _, state, backward = row.layer.forward(s.params, s.state, s.x, train=train)
    dx, grads = backward(s.dy)
    assert dx.shape == s.x.shape
    assert {name: g.shape for name, g in grads.items()} == {name: p.shape for name, p in s.params.items()}
    assert {name: a.shape for name, a in state.items()} == {name: a.shape for name, a in s.state.items()}


@each_layer
@each_mode
def test_passes_change_none_of_their_arguments(row: Row, train: bool) -> None:
    s = sample(row)
    for a in s.params, s.state, {"x": s.x, "dy": s.dy}:
        for array in a.values():
            array.flags.writeable = False  # so that changing it raises
    outcome(row, s, train=train)


@each_layer
@each_mode
def test_a_layer_remembers_nothing_but_what_its_backward_closes_over(row: Row, train: bool) -> None:
    s = sample(row)
    first = outcome(row, s, train=train)
    y, state, backward = row.layer.forward(s.params, s.state, s.x, train=train)
    outcome(row, sample(row, runs=3, examples=9), train=not train)
    for _ in range(2):
        dx, grads = backward(s.dy)
        named = {f"state {name}": a for name, a in state.items()}
        named |= {f"gradient of {name}": g for name, g in grads.items()}
        assert_same_bits({"y": y, "dx": dx} | named, first)


@each_layer
def test_inference_leaves_the_state_as_it_is(row: Row) -> None:
    s = sample(row)
    _, state, _ = row.layer.forward(s.params, s.state, s.x, train=False)
    assert_same_bits(state, s.state)


@each_layer
def test_the_output_in_training_depends_on_the_state_only_if_random(row: Row) -> None:
    s = sample(row)
    y, state, _ = row.layer.forward(s.params, s.state, s.x, train=True)
    again, _, _ = row.layer.forward(s.params, state, s.x, train=True)
    assert np.array_equal(y, again) != row.stochastic


@each_layer
@each_mode
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_is_kept(row: Row, train: bool, dtype: Any) -> None:
    result = outcome(row, sample(row).astype(dtype), train=train)
    assert {a.dtype for a in result.values() if is_float(a)} == {np.dtype(dtype)}
    assert {a.dtype for a in result.values() if not is_float(a)} <= {np.dtype(np.int64)}


@each_layer
@each_mode
def test_float32_is_within_1e_4_of_float64(row: Row, train: bool) -> None:
    s = sample(row, examples=60, factor=5).astype(np.float32)
    single, double = outcome(row, s, train=train), outcome(row, s.astype(np.float64), train=train)
    for name, expected in double.items():
        np.testing.assert_allclose(single[name], expected, rtol=0, atol=1e-4 * np.abs(expected).max(), err_msg=name)


@each_layer
@each_mode
@any_sizes
@repeatable
def test_a_run_alone_gives_the_bits_of_the_run_in_a_group(
    row: Row, train: bool, runs: int, examples: int, factor: int, dtype: Any
) -> None:
    s = sample(row, runs, max(examples, 2) if train else examples, factor).astype(dtype)
    group = outcome(row, s, train=train)
    for r in range(runs):
        assert_same_bits(outcome(row, s.of_run(r), train=train), {name: a[[r]] for name, a in group.items()})


@each_layer
@each_mode
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e-40])
def test_extreme_neighbours_change_no_bit_of_a_run(row: Row, train: bool, value: float) -> None:
    s = sample(row, runs=3, examples=7, factor=3).astype(np.float32)
    alone = outcome(row, s.of_run(1), train=train)

    def spoil(a: Array) -> Array:
        a = a.copy()
        if is_float(a):
            a[::2] = value
        return a

    with np.errstate(all="ignore"):
        group = outcome(row, s.map(spoil), train=train)
    assert_same_bits({name: a[[1]] for name, a in group.items()}, alone)


@each_layer
@each_mode
@pytest.mark.parametrize("examples", [2, 7, 60])
def test_x_shared_by_all_runs_gives_the_bits_of_x_repeated(row: Row, train: bool, examples: int) -> None:
    s = sample(row, runs=5, examples=examples, factor=3, shared_x=True).astype(np.float32)
    shared = outcome(row, s, train=train)
    repeated = Sample(s.params, s.state, np.repeat(s.x, 5, axis=0), np.repeat(s.dy, 5 // len(s.dy), axis=0))
    result = outcome(row, repeated, train=train)
    assert_same_bits({name: np.broadcast_to(a, result[name].shape) for name, a in shared.items()}, result)


@pytest.mark.parametrize("row", OF_IMAGES.values(), ids=OF_IMAGES)
@each_mode
def test_the_order_of_images_in_memory_changes_no_bit(row: Row, train: bool) -> None:
    s = sample(row, runs=3, factor=3).astype(np.float32)
    last = Sample(s.params, s.state, channels_first(channels_last(s.x)), s.dy)
    if s.dy.ndim == 5:
        last.dy = channels_first(channels_last(s.dy))
    assert_same_bits(outcome(row, last, train=train), outcome(row, s, train=train))


@pytest.mark.parametrize("row", OF_IMAGES.values(), ids=OF_IMAGES)
@each_mode
def test_images_stay_channels_last_in_memory(row: Row, train: bool) -> None:
    s = sample(row, factor=3)
    result = outcome(row, Sample(s.params, s.state, channels_first(channels_last(s.x)), s.dy), train=train)
    if s.dy.ndim == 5 and not isinstance(row.layer, Dropout):
        assert np.shares_memory(channels_last(result["y"]), result["y"])


@pytest.mark.parametrize("row", WITH_PARAMETERS.values(), ids=WITH_PARAMETERS)
@each_mode
def test_without_dx_the_gradients_are_the_same(row: Row, train: bool) -> None:
    s = sample(row).astype(np.float32)
    _, _, backward = row.layer.forward(s.params, s.state, s.x, train=train)
    dx, grads = backward(s.dy, need_dx=False)
    assert dx is NO_DX
    assert_same_bits(grads, backward(s.dy)[1])


def test_dense_is_x_w_plus_b() -> None:
    params = {"W": np.array([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]), "b": np.array([[[10.0, 20.0, 30.0]]])}
    y, _, _ = Dense(3, he).forward(params, {}, np.array([[[1.0, -1.0], [0.0, 2.0]]]), train=True)
    # 1·1 − 1·4 + 10, 1·2 − 1·5 + 20, 1·3 − 1·6 + 30;  2·4 + 10, 2·5 + 20, 2·6 + 30
    np.testing.assert_array_equal(y, [[[7, 17, 27], [18, 30, 42]]])


@repeatable
@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.integers(1, 70), st.integers(1, 30), st.booleans())
def test_a_sparse_dense_layer_computes_what_a_dense_one_does(
    zeros: list[float], examples: int, features: int, shared: bool
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, examples, features)) * (rng.random((4, examples, features)) < 0.5)
    x *= rng.random((4, 1, features)) >= np.reshape(zeros, (4, 1, 1))
    x = x[:1] if shared else x
    params = {"W": rng.standard_normal((4, features, 3)), "b": rng.standard_normal((4, 1, 3))}
    dy = rng.standard_normal((4, examples, 3))
    y, _, backward = Dense(3, he, sparse=True).forward(params, {}, x, train=True)
    expected, _, expected_backward = Dense(3, he).forward(params, {}, x, train=True)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
    for grad, expected_grad in zip(backward(dy)[1].values(), expected_backward(dy)[1].values(), strict=True):
        np.testing.assert_allclose(grad, expected_grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("examples", "unused", "skipped"), [(60, 10, True), (60, 4, True), (40, 5, True), (60, 3, False), (19, 10, False)]
)
def test_a_sparse_dense_layer_skips_features_that_no_example_has_where_it_pays(
    examples: int, unused: int, skipped: bool
) -> None:
    x = np.random.default_rng(0).standard_normal((2, examples, 10))
    x[:, :, :unused] = 0
    params = {"W": np.ones((2, 10, 1)), "b": np.zeros((2, 1, 1))}
    params["W"][:, :unused] = np.inf
    with np.errstate(invalid="ignore"):
        y, _, backward = Dense(1, he, sparse=True).forward(params, {}, x, train=True)
    assert np.isfinite(y).all() == skipped  # 0 · ∞ is NaN
    np.testing.assert_array_equal(backward(np.ones_like(y), need_dx=False)[1]["W"][:, :unused], 0)


def test_flatten_keeps_the_order_and_copies_nothing() -> None:
    x = np.arange(48.0).reshape(2, 2, 3, 2, 2)
    y, _, backward = Flatten().forward({}, {}, x, train=True)
    np.testing.assert_array_equal(y, np.arange(48).reshape(2, 2, 12))
    assert np.shares_memory(x, y)
    np.testing.assert_array_equal(backward(y)[0], x)


def on(nonlinearity: Layer, x: Array) -> tuple[Array, Array]:
    """y, and dx for dy = 1."""
    y, _, backward = nonlinearity.forward({}, {}, x, train=True)
    return y, backward(np.ones_like(y))[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_at_the_extremes_is_exactly_0_or_1_with_gradient_0(dtype: Any) -> None:
    y, dx = on(Sigmoid(), np.array([[[-1000, -np.inf, 1000, np.inf, 0]]], dtype))
    np.testing.assert_array_equal(y, [[[0, 0, 1, 1, 0.5]]])
    np.testing.assert_array_equal(dx, [[[0, 0, 0, 0, 0.25]]])


def test_sigmoid_agrees_with_its_definition() -> None:
    x = np.linspace(-40, 40, 2001).reshape(1, 1, -1)
    y, dx = on(Sigmoid(), x)
    expected = np.array([[[1 / (1 + math.exp(-v)) for v in x.flat]]])
    np.testing.assert_allclose(y, expected, rtol=0, atol=3e-16)
    np.testing.assert_allclose(dx, expected * (1 - expected), rtol=0, atol=3e-16)


def test_relu_has_gradient_0_at_0() -> None:
    y, dx = on(ReLU(), np.array([[[-1.0, 0.0, 2.0]]]))
    np.testing.assert_array_equal(y, [[[0, 0, 2]]])
    np.testing.assert_array_equal(dx, [[[0, 0, 1]]])


@pytest.mark.parametrize("nonlinearity", [Sigmoid(), ReLU(), Tanh()])
def test_nonlinearities_pass_nan_on(nonlinearity: Layer) -> None:
    y, _, _ = nonlinearity.forward({}, {}, np.full((1, 2, 3), np.nan, np.float32), train=True)
    assert np.isnan(y).all()


def test_sigmoid_is_inactive_where_its_output_is_within_0_05_of_0_or_1() -> None:
    # Run 0: σ(±3) = .953, .047; σ(±2.9) = .948, .052. Run 1: all of it. Run 2: none of it; NaN is not saturated.
    x = np.array([[[3, -3], [2.9, -2.9]], [[9, 9], [-9, -9]], [[0, 1], [-1, np.nan]]])
    np.testing.assert_array_equal(Sigmoid().inactive(x), [0.5, 1, 0])


def test_relu_is_inactive_where_a_unit_is_0_for_every_example() -> None:
    # Run 0: unit 0 is dead, unit 1 lives by one example. Run 1: both dead, at 0 too. Run 2: none; NaN is not dead.
    x = np.array([[[-1, -1], [-2, 1]], [[0, -1], [0, 0]], [[1, np.nan], [-1, -1]]])
    np.testing.assert_array_equal(ReLU().inactive(x), [0.5, 1, 0])


def test_inactive_of_images_counts_every_channel_and_position() -> None:
    x = np.full((1, 2, 1, 2, 2), -9.0)
    x[0, 1, 0, 1, 1] = 1.0
    np.testing.assert_array_equal(Sigmoid().inactive(x), [7 / 8])
    np.testing.assert_array_equal(ReLU().inactive(x), [3 / 4])


def test_inactive_is_nan_where_it_is_not_defined() -> None:
    class Identity(Nonlinearity):
        def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
            return x, state, lambda dy, *, need_dx=True: (dy, {})

    np.testing.assert_array_equal(Identity().inactive(np.zeros((2, 3, 4))), [np.nan, np.nan])


@pytest.mark.parametrize(
    ("initializer", "std"),
    [(Normal(0.05), 0.05), (Normal(2), 2), (xavier, math.sqrt(2 / (300 + 500))), (he, math.sqrt(2 / 300))],
    ids=["normal 0.05", "normal 2", "xavier", "he"],
)
def test_initializers_scale_the_same_draws_to_their_std(initializer: Initializer, std: float) -> None:
    weights = initializer(np.random.default_rng(0), 300, 500, (300, 500))
    np.testing.assert_array_equal(weights, np.random.default_rng(0).standard_normal((300, 500)) * std)
    # Of n draws, the standard error of the std is std / √(2n), and that of the mean std / √n.
    assert abs(weights.std() / std - 1) < 4 / math.sqrt(2 * weights.size)
    assert abs(weights.mean() / std) < 4 / math.sqrt(weights.size)


def test_dense_passes_its_fans_to_the_initializer() -> None:
    fans = []

    def spy(rng: np.random.Generator, fan_in: int, fan_out: int, shape: Shape) -> Array:
        fans.append((fan_in, fan_out, shape))
        return np.ones(shape)

    params, _, _ = Dense(5, spy).init(np.random.default_rng(0), (3,))
    assert fans == [(3, 5, (3, 5))]
    np.testing.assert_array_equal(params["b"], np.zeros((1, 5)))


def random_logits(runs: int, examples: int, classes: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    targets = np.eye(classes)[rng.integers(0, classes, (1, examples))]
    return 3 * rng.standard_normal((runs, examples, classes)), targets


def test_cross_entropy_of_a_hand_worked_example() -> None:
    logits = np.array([[[0, math.log(3)], [0, math.log(3)]]])  # p = (1/4, 3/4) twice
    loss, dlogits = softmax_cross_entropy(logits, np.array([[[0.0, 1.0], [1.0, 0.0]]]))
    # −log 3/4 and −log 1/4, averaged; (p − t) / 2.
    np.testing.assert_allclose(loss, [(math.log(4 / 3) + math.log(4)) / 2], rtol=1e-15)
    np.testing.assert_allclose(dlogits, [[[1 / 8, -1 / 8], [-3 / 8, 3 / 8]]], rtol=1e-15)


def test_cross_entropy_gradient_equals_central_differences_and_sums_to_0() -> None:
    logits, targets = random_logits(3, 8, 4)
    cotangent = np.array([0.3, -1.2, 2.0])
    _, dlogits = softmax_cross_entropy(logits, targets)
    assert_gradients(
        lambda at: softmax_cross_entropy(at["logits"], targets)[0],
        {"logits": logits},
        cotangent,
        {"logits": dlogits * cotangent[:, None, None]},
    )
    np.testing.assert_allclose(dlogits.sum(axis=2), 0, atol=1e-16)


def test_cross_entropy_is_invariant_to_a_shift_of_the_logits() -> None:
    logits, targets = random_logits(2, 8, 4)
    shift = np.arange(16.0).reshape(2, 8, 1) * 100
    for actual, expected in zip(
        softmax_cross_entropy(logits + shift, targets), softmax_cross_entropy(logits, targets), strict=True
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("examples", "classes"), [(8, 4), (1, 4), (8, 1)])
def test_cross_entropy_changes_neither_argument(examples: int, classes: int) -> None:
    arguments = random_logits(2, examples, classes)
    for a in arguments:
        a.flags.writeable = False  # so that changing it raises
    softmax_cross_entropy(*arguments)


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    logits = np.array([[[1e4, -1e4]], [[-1e4, 1e4]]], np.float32)
    loss, dlogits = softmax_cross_entropy(logits, np.array([[[1, 0]]], np.float32))
    np.testing.assert_array_equal(loss, [0, 2e4])
    np.testing.assert_array_equal(dlogits, [[[0, 0]], [[-1, 1]]])


@any_sizes
@repeatable
def test_cross_entropy_of_a_run_alone_gives_the_bits_of_the_run_in_a_group(
    runs: int, examples: int, factor: int, dtype: Any
) -> None:
    logits, targets = (a.astype(dtype) for a in random_logits(runs, examples, 1 + factor))
    loss, dlogits = softmax_cross_entropy(logits, targets)
    assert loss.dtype == dlogits.dtype == dtype
    for r in range(runs):
        alone = softmax_cross_entropy(logits[[r]], targets)
        assert_same_bits({"loss": alone[0], "dlogits": alone[1]}, {"loss": loss[[r]], "dlogits": dlogits[[r]]})


def convolve(layer: Conv2D, x: Array) -> tuple[Array, Array, Array]:
    """y (1, N, F, H', W'), and the random W (F, C, K, K) and b (F,) that made it of x (1, N, C, H, W)."""
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((layer.channels, x.shape[2], layer.kernel, layer.kernel))
    bias = rng.standard_normal(layer.channels)
    params = {"W": weights[None], "b": bias.reshape(1, 1, -1, 1, 1)}
    return layer.forward(params, {}, x, train=True)[0], weights, bias


@pytest.mark.parametrize("kernel", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("padding", [0, 1, 2])
@pytest.mark.parametrize("image", [(7, 7), (5, 8), (3, 10)])
def test_convolution_equals_a_naive_loop(kernel: int, stride: int, padding: int, image: tuple[int, int]) -> None:
    x = np.random.default_rng(1).standard_normal((1, 3, 2, *image))
    y, weights, bias = convolve(Conv2D(4, kernel, he, stride=stride, padding=padding), x)
    padded = np.zeros((3, 2, image[0] + 2 * padding, image[1] + 2 * padding))
    padded[:, :, padding : padding + image[0], padding : padding + image[1]] = x[0]
    rows = range(0, padded.shape[2] - kernel + 1, stride)
    columns = range(0, padded.shape[3] - kernel + 1, stride)
    assert y.shape == (1, 3, 4, len(rows), len(columns))
    for n, f, (p, i), (q, j) in itertools.product(range(3), range(4), enumerate(rows), enumerate(columns)):
        expected = (padded[n, :, i : i + kernel, j : j + kernel] * weights[f]).sum() + bias[f]
        assert y[0, n, f, p, q] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("row", [row for row in LAYERS.values() if isinstance(row.layer, Conv2D)])
@pytest.mark.parametrize(("patches", "small_product"), [(1, 10**6), (10**4, 10**4), (10**9, 1)])
def test_how_products_are_cut_changes_only_their_rounding(
    row: Row, patches: int, small_product: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = sample(Row(row.layer, (row.shape[0], 9, 12)), examples=7, factor=5)
    expected = outcome(row, s, train=True)
    monkeypatch.setattr(layers, "PATCHES", patches)
    monkeypatch.setattr(layers, "SMALL_PRODUCT", small_product)
    for name, a in outcome(row, s, train=True).items():
        np.testing.assert_allclose(a, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(
    ("out", "inner", "channels", "rows"),
    [((32, 32), 144, 16, 256), ((32, 32), 27, 16, 1024), ((16, 16), 400, 24, 64), ((16, 16), 576, 64, 256)],
)
def test_products_are_small_if_that_leaves_enough_rows(out: Shape, inner: int, channels: int, rows: int) -> None:
    assert layers._rows_of_product(out, inner, channels) == rows


@pytest.mark.parametrize("padding", [0, 2])
def test_convolution_is_the_correlation_of_scipy(padding: int) -> None:
    x = np.random.default_rng(1).standard_normal((1, 2, 3, 9, 8))
    y, weights, bias = convolve(Conv2D(4, 5, he, padding=padding), x)
    for n, f in itertools.product(range(2), range(4)):
        maps = [scipy.signal.correlate2d(np.pad(x[0, n, c], padding), weights[f, c], mode="valid") for c in range(3)]
        np.testing.assert_allclose(y[0, n, f], sum(maps) + bias[f], rtol=1e-12, atol=1e-12)


def test_convolution_passes_its_fans_to_the_initializer() -> None:
    fans = []

    def spy(rng: np.random.Generator, fan_in: int, fan_out: int, shape: Shape) -> Array:
        fans.append((fan_in, fan_out, shape))
        return np.ones(shape)

    Conv2D(5, 3, spy).init(np.random.default_rng(0), (2, 8, 8))
    assert fans == [(2 * 9, 5 * 9, (5, 2, 3, 3))]


def test_of_equal_pixels_the_first_takes_the_gradient_of_max_pooling() -> None:
    x = np.array([[1.0, 3, 0, 0], [3, 3, 0, 0]]).reshape(1, 1, 1, 2, 4)
    y, _, backward = MaxPool2D(2).forward({}, {}, x, train=True)
    np.testing.assert_array_equal(y, [[[[[3, 0]]]]])
    dx, _ = backward(np.array([10.0, 20]).reshape(1, 1, 1, 1, 2))
    np.testing.assert_array_equal(dx[0, 0, 0], [[0, 10, 20, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("pool", [MaxPool2D, AvgPool2D])
@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(2, 2, 0), (3, 2, 0), (2, 3, 0), (1, 1, 0), (3, 1, 0), (3, 1, 1), (3, 2, 1), (2, 2, 1), (3, 1, 2)],
)
@pytest.mark.parametrize("image", [(7, 7), (5, 8)])
def test_pooling_equals_a_naive_loop(pool: Any, size: int, stride: int, padding: int, image: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 2, *image)) - 3  # a 0 beyond the image would be the largest
    y, _, _ = pool(size, stride, padding).forward({}, {}, x, train=False)
    reduce = np.nanmax if pool is MaxPool2D else np.nanmean
    padded = np.pad(x, [(0, 0)] * 3 + [(padding, padding)] * 2, constant_values=np.nan)
    height, width = padded.shape[3:]
    expected = [
        [reduce(padded[..., i : i + size, j : j + size], axis=(3, 4)) for j in range(0, width - size + 1, stride)]
        for i in range(0, height - size + 1, stride)
    ]
    np.testing.assert_allclose(y, np.moveaxis(np.array(expected), (0, 1), (3, 4)), rtol=1e-12, atol=1e-14)


def test_a_convolution_of_one_pixel_gives_the_same_before_and_after_average_pooling() -> None:
    x, pool = np.random.default_rng(0).standard_normal((1, 2, 3, 5, 4)), AvgPool2D(3, 1, padding=1)
    before, weights, bias = convolve(Conv2D(4, 1, he), pool.forward({}, {}, x, train=False)[0])
    params = {"W": weights[np.newaxis], "b": bias.reshape(1, 1, 4, 1, 1)}
    projected, _, _ = Conv2D(4, 1, he).forward(params, {}, x, train=False)
    after, _, _ = pool.forward({}, {}, projected, train=False)
    np.testing.assert_allclose(after, before, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_stated_share_and_the_mean(rate: float) -> None:
    layer, x = Dropout(rate), np.ones((2, 100, 200), np.float32)
    state = stack_runs([{"d": layer.init(np.random.default_rng(r), (200,))[1]} for r in range(2)], np.dtype(float))["d"]
    y, _, backward = layer.forward({}, state, x, train=True)
    assert set(np.unique(y)) == {0, np.float32(1 / (1 - rate))}
    # The standard error of the share of 20,000 draws is √(rate (1 − rate) / 20,000).
    assert (y == 0).mean(axis=(1, 2)) - rate == pytest.approx([0, 0], abs=5 * math.sqrt(rate * (1 - rate) / 20_000))
    np.testing.assert_array_equal(backward(x)[0], y)
    assert not np.array_equal(y[0], y[1])
    np.testing.assert_array_equal(layer.forward({}, state, x, train=False)[0], x)


def test_dropout_draws_the_same_masks_for_equal_seeds_and_leaves_other_draws_alone() -> None:
    one, other = np.random.default_rng(7), np.random.default_rng(7)
    state = Dropout(0.5).init(one, (3,))[1]
    np.testing.assert_array_equal(one.standard_normal(5), other.standard_normal(5))
    again = Dropout(0.5).init(np.random.default_rng(7), (3,))[1]
    np.testing.assert_array_equal(state["key"], again["key"])


def test_dropout_masks_of_different_steps_and_runs_share_no_stretch_of_the_random_stream() -> None:
    layer, x = Dropout(0.5), np.ones((1, 20, 30), np.float32)
    rng = np.random.default_rng(0)
    state = stack_runs([{"d": layer.init(rng, (30,))[1]} for _ in range(2)], np.dtype(float))["d"]
    stretches = []
    for _ in range(6):
        y, state, _ = layer.forward({}, state, x, train=True)
        windows = np.lib.stride_tricks.sliding_window_view(y.reshape(2, -1) > 0, 64, axis=1)
        stretches += [bits.tobytes() for bits in np.packbits(windows, axis=2).reshape(-1, 8)]
    assert len(stretches) == 6 * 2 * (600 - 63)
    assert len({*stretches}) == len(stretches)  # which for independent bits fails once in 10^12


def test_tanh_is_inactive_where_its_output_is_within_0_05_of_1() -> None:
    # tanh(±1.84) = ±.9508, tanh(1.83) = .9498.
    np.testing.assert_array_equal(Tanh().inactive(np.array([[[1.84, -1.84, 1.83, 0]]])), [0.5])


@pytest.mark.parametrize(
    ("layer", "in_shape", "x", "message"),
    [
        (Dense(2, he), (3,), np.zeros((1, 8, 4)), "Dense has weights for D = 3, not 4"),
        (
            Dense(2, he),
            (3,),
            np.zeros((8, 3)),
            r"Dense takes floats of shape \(R, N, D\), not float64 of shape \(8, 3\)",
        ),
        (Dense(2, he), (3,), np.zeros((1, 8, 3), int), "not int64 of shape"),
        (Conv2D(2, 3, he), (2, 5, 5), np.zeros((1, 8, 1, 5, 5)), "Conv2D has weights for C = 2, not 1"),
        (Conv2D(2, 3, he), (2, 5, 5), np.zeros((1, 8, 2, 2, 5)), "kernel 3 is larger than the image, 2 with padding 0"),
        (Conv2D(2, 3, he), (2, 5, 5), np.zeros((8, 2, 5, 5)), r"Conv2D takes floats of shape \(R, N, C, H, W\)"),
        (MaxPool2D(2), (2, 5, 5), np.zeros((8, 2, 5, 5)), r"MaxPool2D takes floats of shape \(R, N, C, H, W\)"),
        (AvgPool2D(2), (2, 5, 5), np.zeros((1, 8, 2, 5, 5), np.uint8), "AvgPool2D takes floats.* not uint8"),
        (AvgPool2D(3), (2, 5, 5), np.zeros((1, 8, 2, 2, 5)), "AvgPool2D: kernel 3 is larger than the image"),
        (GlobalAvgPool2D(), (2, 5, 5), np.zeros((1, 8, 3)), r"GlobalAvgPool2D takes floats of shape \(R, N, C, H, W\)"),
        (
            OfParts(Concatenate()),
            (3,),
            np.zeros((1, 8, 3), int),
            r"Concatenate takes floats of shape \(R, N, D\), not int",
        ),
        (BatchNorm(), (3,), np.zeros((1, 8, 4)), "BatchNorm has parameters for 3 features, not 4"),
        (BatchNorm(), (3,), np.zeros((1, 8, 3), int), "BatchNorm takes floats .* not int64"),
        (BatchNorm(), (3,), np.zeros((1, 8, 3, 2, 2)), r"BatchNorm takes .*\(R, N, D\), not float64 of .*3, 2, 2\)"),
        (BatchNorm(), (3, 2, 2), np.zeros((1, 8, 3)), r"BatchNorm takes .*\(R, N, C, H, W\), not float64 of .*8, 3\)"),
    ],
)
def test_wrong_inputs_are_refused_by_name(layer: Layer, in_shape: Shape, x: Array, message: str) -> None:
    params, state, _ = layer.init(np.random.default_rng(0), in_shape)
    stacked = stack_runs([{"params": params, "state": state}], np.dtype(float))
    with pytest.raises(ValueError, match=message):
        layer.forward(stacked["params"], stacked["state"], x, train=True)


@pytest.mark.parametrize(
    ("layer", "in_shape", "message"),
    [
        (Dense(2, he), (1, 8, 8), r"Dense takes examples of shape \(D,\), not \(1, 8, 8\)"),
        (Conv2D(2, 3, he), (64,), r"Conv2D takes examples of shape \(C, H, W\), not \(64,\)"),
        (MaxPool2D(2), (64,), r"MaxPool2D takes examples of shape \(C, H, W\), not \(64,\)"),
        (MaxPool2D(4), (1, 3, 8), "MaxPool2D: kernel 4 is larger than the image"),
        (GlobalAvgPool2D(), (64,), r"GlobalAvgPool2D takes examples of shape \(C, H, W\), not \(64,\)"),
        (Concatenate(), ((1, 3, 8), (2, 3, 9)), r"differ in channels alone, not \(\(1, 3, 8\), \(2, 3, 9\)\)"),
    ],
)
def test_a_layer_that_does_not_fit_the_one_before_is_refused(layer: Layer, in_shape: Shape, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        layer.init(np.random.default_rng(0), in_shape)


@pytest.mark.parametrize("rate", [-0.1, 1.0, math.nan])
def test_a_dropout_rate_out_of_range_is_refused_by_name(rate: float) -> None:
    with pytest.raises(ValueError, match=f"rate={rate}: must be"):
        Dropout(rate)


@pytest.mark.parametrize("padding", [-1, 2])
def test_padding_that_leaves_windows_without_a_pixel_is_refused(padding: int) -> None:
    with pytest.raises(ValueError, match=f"padding={padding}: must be at least 0 and below size=2"):
        AvgPool2D(2, padding=padding)
