# mypy: allow-untyped-defs, allow-untyped-calls
"""``bnrepro.BatchNormalization`` as code that follows the textbook uses it: layers with forward and backward, a dict of
parameters, an optimiser that changes them in place."""

import copy
import itertools
import pickle
import re
from typing import Any

import numpy as np
import pytest

from bnrepro import BatchNormalization
from bnrepro.batchnorm import BatchNorm
from bnrepro.datasets import Digits


class Affine:
    def __init__(self, W, b):
        self.W, self.b = W, b

    def forward(self, x):
        self.shape = x.shape
        self.x = x.reshape(len(x), -1)
        return self.x @ self.W + self.b

    def backward(self, dout):
        self.dW, self.db = self.x.T @ dout, dout.sum(axis=0)
        return (dout @ self.W.T).reshape(self.shape)


class Relu:
    def forward(self, x):
        self.mask = x <= 0
        return np.where(self.mask, 0, x)

    def backward(self, dout):
        return np.where(self.mask, 0, dout)


class SoftmaxWithLoss:
    def forward(self, x, t):
        p = np.exp(x - x.max(axis=1, keepdims=True))
        self.y, self.t = p / p.sum(axis=1, keepdims=True), t
        return -np.log(self.y[np.arange(len(t)), t] + 1e-7).mean()

    def backward(self):
        dx = self.y.copy()
        dx[np.arange(len(self.t)), self.t] -= 1
        return dx / len(self.t)


class TwoLayerNet:
    """Affine, batch norm, ReLU, affine; on images, batch norm comes first, on (N, C, H, W)."""

    def __init__(self, on_images: bool) -> None:
        rng = np.random.default_rng(0)
        features = 1 if on_images else 50
        self.params = {
            "W1": 0.1 * rng.standard_normal((64, 50)),
            "b1": np.zeros(50),
            "gamma": np.ones(features),
            "beta": np.zeros(features),
            "W2": 0.1 * rng.standard_normal((50, 10)),
            "b2": np.zeros(10),
        }
        p = self.params
        self.norm = BatchNormalization(p["gamma"], p["beta"])
        self.affine1, self.affine2 = Affine(p["W1"], p["b1"]), Affine(p["W2"], p["b2"])
        first = [self.norm, self.affine1] if on_images else [self.affine1, self.norm]
        self.layers: list[Any] = [*first, Relu(), self.affine2]
        self.last = SoftmaxWithLoss()

    def predict(self, x, train_flg=False):
        for layer in self.layers:
            x = layer.forward(x, train_flg) if layer is self.norm else layer.forward(x)
        return x

    def gradient(self, x, t):
        loss = self.last.forward(self.predict(x, train_flg=True), t)
        dout = self.last.backward()
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        a1, a2, norm = self.affine1, self.affine2, self.norm
        own = {"gamma": norm.dgamma, "beta": norm.dbeta}
        return loss, {"W1": a1.dW, "b1": a1.db, "W2": a2.dW, "b2": a2.db} | own


@pytest.mark.parametrize("on_images", [False, True], ids=["2-D", "4-D"])
def test_two_layer_network_of_the_textbook_trains_and_evaluates(on_images: bool) -> None:
    data = Digits(binarize=False).load()
    x, x_test = data.train_images / 16, data.test_images / 16
    if not on_images:
        x, x_test = x.reshape(len(x), -1), x_test.reshape(len(x_test), -1)
    net = TwoLayerNet(on_images)
    rng = np.random.default_rng(1)
    losses = []
    for _ in range(400):
        batch = rng.choice(len(x), 60, replace=False)
        loss, grads = net.gradient(x[batch], data.train_labels[batch])
        losses.append(loss)
        for name, p in net.params.items():
            p -= 0.5 * grads[name]
    assert np.mean(losses[-20:]) < 0.1 * losses[0]
    predicted = net.predict(x_test).argmax(axis=1)
    assert (predicted == data.test_labels).mean() > 0.94
    # Test-time output depends on nothing but the image itself.
    one_by_one = np.concatenate([net.predict(x_test[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(one_by_one, net.predict(x_test)[:20], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(8, 5), (8, 3, 4, 2)], ids=["2-D", "4-D"])
def test_gradients_by_central_differences(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    x, cotangent = rng.standard_normal((2, *shape))
    gamma, beta = rng.standard_normal((2, shape[1]))
    norm = BatchNormalization(gamma, beta)

    def loss() -> float:
        return float((BatchNormalization(gamma, beta).forward(x) * cotangent).sum())

    norm.forward(x)
    dx = norm.backward(cotangent)
    for array, gradient in (x, dx), (gamma, norm.dgamma), (beta, norm.dbeta):
        for index in list(np.ndindex(array.shape))[:40]:
            kept = array[index]
            array[index] = kept + 1e-5
            above = loss()
            array[index] = kept - 1e-5
            below = loss()
            array[index] = kept
            assert gradient[index] == pytest.approx((above - below) / 2e-5, rel=1e-6, abs=1e-8)


def test_running_statistics_start_with_the_first_mini_batch_and_are_unbiased() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.standard_normal((2, 6, 3, 2, 2))
    norm = BatchNormalization(np.ones(3), np.zeros(3))
    before: Any = norm.running_mean
    assert before is None
    norm.forward(first)
    np.testing.assert_allclose(norm.running_mean, first.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(norm.running_var, first.var(axis=(0, 2, 3), ddof=1))
    norm.forward(second)
    a, b = (x.var(axis=(0, 2, 3), ddof=1) for x in (first, second))
    np.testing.assert_allclose(norm.running_var, 0.9 * a + 0.1 * b)
    before = norm.running_mean
    norm.forward(second, train_flg=False)
    assert norm.running_mean is before


def test_given_running_statistics_are_continued() -> None:
    x = np.random.default_rng(4).standard_normal((7, 2))
    mean, var = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    norm = BatchNormalization(np.ones(2), np.zeros(2), 0.8, mean, var)
    np.testing.assert_allclose(norm.forward(x, train_flg=False), (x - mean) / np.sqrt(var + 1e-6))
    norm.forward(x)
    np.testing.assert_allclose(norm.running_mean, 0.8 * mean + 0.2 * x.mean(axis=0))
    np.testing.assert_allclose(norm.running_var, 0.8 * var + 0.2 * x.var(axis=0, ddof=1))


def test_is_batch_norm_with_the_notes_epsilon() -> None:
    rng = np.random.default_rng(5)
    x, gamma, beta = rng.standard_normal((9, 4)), rng.standard_normal(4), rng.standard_normal(4)
    layer = BatchNorm(eps=1e-6)
    _, state, _ = layer.init(rng, (4,))
    params = {"gamma": gamma.reshape(1, 1, 4), "beta": beta.reshape(1, 1, 4)}
    expected, _, _ = layer.forward(params, {k: v[None] for k, v in state.items()}, x[None], train=True)
    np.testing.assert_array_equal(BatchNormalization(gamma, beta).forward(x), expected[0])


@pytest.mark.parametrize(
    ("gamma", "shape", "message"),
    [
        (np.ones(4), (8, 3), r"gamma must have shape \(3,\)"),
        (
            np.ones(12),
            (8, 3, 2, 2),
            r"not \(12,\): one value per feature map, .*Section 3.2.* gamma.reshape\(3, -1\).mean",
        ),
        (np.ones(3), (8, 3, 2), r"\(N, D\) or \(N, C, H, W\), .*not \(8, 3, 2\)"),
        (np.ones(3), (0, 3), "at least 2 values .* not 0"),
        (np.ones(0), (5, 0), r"D, C, H, W > 0, not \(5, 0\)"),
        (np.ones(3), (5, 3, 2, 0), r"D, C, H, W > 0, not \(5, 3, 2, 0\)"),
        (np.ones((3, 1, 1)), (8, 3, 2, 2), r"gamma must have shape \(3,\) for input \(8, 3, 2, 2\), not \(3, 1, 1\)$"),
    ],
)
def test_wrong_shapes_are_named(gamma: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchNormalization(gamma, np.zeros_like(gamma)).forward(np.zeros(shape))


@pytest.mark.parametrize("given", [(np.zeros(2), None), (None, np.ones(2))])
def test_running_statistics_come_together(given: Any) -> None:
    norm = BatchNormalization(np.ones(2), np.zeros(2), 0.9, *given)
    with pytest.raises(ValueError, match="come together"):
        norm.forward(np.eye(2))


def test_running_statistics_per_pixel_are_refused_with_a_remedy() -> None:
    norm = BatchNormalization(1, 0, running_mean=np.zeros(12), running_var=np.ones(12))
    with pytest.raises(ValueError, match=r"running_mean must have .* not one per pixel; give None instead"):
        norm.forward(np.zeros((8, 3, 2, 2)))


def test_backward_needs_a_forward() -> None:
    with pytest.raises(RuntimeError, match="forward before"):
        BatchNormalization(np.ones(2), np.zeros(2)).backward(np.zeros((3, 2)))


X = np.array([[1, 0, 3], [0, 1, 8], [1, 1, 2], [0, 1, 5]])
DOUT = np.array([[1, -2, 3], [0, 1, 1], [2, 0, -1], [-3, 1, 2]])
GAMMA, BETA = np.array([1, 2, 3]), np.array([0, 1, -1])


@pytest.mark.parametrize(
    ("x", "gamma", "beta", "dtype", "rtol"),
    [
        (X, GAMMA, BETA, "float64", 1e-12),
        (X.astype(np.uint8), GAMMA.astype(np.int8), BETA.astype(np.int8), "float64", 1e-12),
        (X.tolist(), GAMMA.tolist(), BETA.tolist(), "float64", 1e-12),
        (X > 1, GAMMA, BETA, "float64", 1e-12),
        (X, 2.0, 0.5, "float64", 1e-12),
        (X, [2], [[1, 2, 3]], "float64", 1e-12),
        (X.astype(np.float32), GAMMA.astype(np.float32), BETA.astype(np.float32), "float32", 1e-5),
        (X.astype(np.float16), GAMMA.astype(np.float16), BETA.astype(np.float16), "float16", 2e-3),
        (X.astype(np.float16), 1.0, 0.0, "float16", 2e-3),
        ((2000 * X).astype(np.float16), 1.0, 0.0, "float16", 2e-3),  # the squares of these are above all of float16
    ],
)
def test_all_real_numbers_are_taken(x: Any, gamma: Any, beta: Any, dtype: str, rtol: float) -> None:
    norm = BatchNormalization(gamma, beta)
    y, dx = norm.forward(x), norm.backward(DOUT.tolist() if isinstance(x, list) else DOUT)
    floats = np.array(x, float)
    exact = BatchNormalization(gamma * np.ones(3), beta * np.ones(3))
    mean, var = floats.mean(axis=0), floats.var(axis=0)
    expected = gamma * (floats - mean) / np.sqrt(var + 1e-6) + beta
    np.testing.assert_allclose(exact.forward(floats), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(y, expected, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(dx, exact.backward(DOUT.astype(float)), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(norm.dgamma, exact.dgamma, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(norm.dbeta, DOUT.sum(axis=0), rtol=rtol)
    np.testing.assert_allclose(norm.running_var, floats.var(axis=0, ddof=1), rtol=rtol)
    assert norm.dgamma.shape == norm.dbeta.shape == (3,)
    assert y.dtype == dtype
    if dtype != "float32":  # there the dtype of dout counts
        assert dx.dtype == dtype


@pytest.mark.parametrize("value", [np.ones((4, 3), complex), [["1", "2"]], np.array([[None, 1]])])
@pytest.mark.parametrize("name", ["x", "gamma", "running_mean", "dout"])
def test_what_is_no_real_number_is_refused_by_name(name: str, value: Any) -> None:
    attributes = {"gamma": 1, "beta": 0, "running_mean": 0, "running_var": 1}
    norm = BatchNormalization(**attributes | ({name: value} if name in attributes else {}))
    if name == "dout":
        norm.forward(X)
    call = norm.backward if name == "dout" else norm.forward
    with pytest.raises(ValueError, match=f"^{name} must hold real numbers, not "):
        call(X if name in attributes else value)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda norm: pickle.loads(pickle.dumps(norm))], ids=["copy", "pickle"]
)
def test_a_copy_goes_on_like_the_layer(copied: Any, train: bool, shape: tuple[int, ...]) -> None:
    x, dout, then = np.random.default_rng(6).standard_normal((3, *shape))
    norm = BatchNormalization(GAMMA, BETA, running_mean=np.ones(3), running_var=np.ones(3))
    norm.forward(x, train)
    twin = copied(norm)
    for step in (lambda n: n.backward(dout), lambda n: n.forward(then), lambda n: n.forward(then, False)):
        np.testing.assert_array_equal(step(twin), step(norm))
    for name in "dgamma", "dbeta", "running_mean", "running_var", "xn":
        np.testing.assert_array_equal(getattr(twin, name), getattr(norm, name))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
@pytest.mark.parametrize("wrong", [(), (1,), (3,), (4, 1), (5, 3), (3, 4), (4, 3, 2, 4), (4, 3, 1, 1), (4, 3, 5, 2)])
def test_dout_of_another_shape_is_refused(wrong: tuple[int, ...], shape: tuple[int, ...]) -> None:
    norm = BatchNormalization(GAMMA, BETA)
    norm.forward(np.random.default_rng(7).standard_normal(shape))
    with pytest.raises(
        ValueError,
        match="^" + re.escape(f"dout must have the shape of the last forward's output, {shape}, not {wrong}"),
    ):
        norm.backward(np.ones(wrong))


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
def test_a_flat_dout_is_taken(shape: tuple[int, ...]) -> None:
    x, dout = np.random.default_rng(8).standard_normal((2, *shape))
    norm = BatchNormalization(GAMMA, BETA)
    norm.forward(x)
    dx = norm.backward(dout)
    assert dx.shape == shape
    np.testing.assert_array_equal(norm.backward(dout.reshape(4, -1)), dx)


@pytest.mark.parametrize("before", [0, 1, 5])
@pytest.mark.parametrize("in_place", [False, True], ids=["set", "in place"])
def test_the_attributes_are_the_state(in_place: bool, before: int) -> None:
    rng = np.random.default_rng(9)
    norm = BatchNormalization(np.ones(2), np.zeros(2))
    for _ in range(before):
        norm.forward(rng.standard_normal((6, 2)))
    mean, var = np.array([3.0, -1.0]), np.array([4.0, 9.0])
    if in_place and before:
        norm.running_mean[...], norm.running_var[...] = mean, var
    else:
        norm.running_mean, norm.running_var = mean, var.tolist()
    x = 13 + rng.standard_normal((6, 2))
    np.testing.assert_allclose(norm.forward(x, False), (x - mean) / np.sqrt(var + 1e-6), rtol=1e-12)
    norm.forward(x)
    np.testing.assert_allclose(norm.running_mean, 0.9 * mean + 0.1 * x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(norm.running_var, 0.9 * var + 0.1 * x.var(axis=0, ddof=1), rtol=1e-12)
    norm.running_mean = norm.running_var = None
    norm.forward(x)
    np.testing.assert_allclose(norm.running_mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(norm.running_var, x.var(axis=0, ddof=1), rtol=1e-12)


def test_statistics_taken_over_by_another_layer_go_on_as_in_the_first() -> None:
    batches = np.random.default_rng(10).standard_normal((5, 6, 2))
    norm, other = (BatchNormalization(np.ones(2), np.zeros(2)) for _ in range(2))
    for batch in batches[:2]:
        norm.forward(batch)
    other.running_mean, other.running_var = norm.running_mean, norm.running_var
    for batch in batches[2:]:
        norm.forward(batch)
        other.forward(batch)
    np.testing.assert_array_equal(other.running_mean, norm.running_mean)
    np.testing.assert_array_equal(other.running_var, norm.running_var)


@pytest.mark.parametrize("momentum", [0, 1])
def test_the_ends_of_momentum(momentum: float) -> None:
    first, last = np.random.default_rng(11).standard_normal((2, 6, 2))
    norm = BatchNormalization(np.ones(2), np.zeros(2), momentum)
    norm.forward(first)
    norm.forward(last)
    np.testing.assert_allclose(norm.running_mean, (first if momentum else last).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_per_feature_gives_beta_and_no_statistics(shape: tuple[int, ...], begun: bool) -> None:
    norm = BatchNormalization(GAMMA, BETA)
    if begun:
        norm.forward(X.reshape(4, *shape[1:]))
    statistics = norm.running_mean, norm.running_var
    dout = np.array([1.0, 2.0, 3.0]).reshape(shape)
    np.testing.assert_array_equal(norm.forward(np.array([5.0, 0.1, -3.0]).reshape(shape)).ravel(), BETA)
    np.testing.assert_array_equal(norm.backward(dout), np.zeros(shape))
    np.testing.assert_array_equal(norm.dgamma, 0)
    np.testing.assert_array_equal(norm.dbeta, dout.ravel())
    assert (norm.running_mean is None) == (not begun)
    np.testing.assert_array_equal((norm.running_mean, norm.running_var), statistics)


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 5)])
def test_what_the_books_layer_keeps_is_kept(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(12).standard_normal(shape)
    axes = (0, 2, 3)[: len(shape) - 1]
    norm = BatchNormalization(1, 0)
    y = norm.forward(x)
    np.testing.assert_allclose(norm.xc, x - x.mean(axis=axes, keepdims=True), atol=1e-14)
    np.testing.assert_allclose(norm.std, np.sqrt(x.var(axis=axes) + 1e-6), rtol=1e-12)
    np.testing.assert_allclose(norm.xn, y, rtol=1e-12)
    assert (norm.input_shape, norm.batch_size) == (shape, 4)
    norm.forward(x[:2], train_flg=False)
    np.testing.assert_allclose(norm.xn, y, rtol=1e-12)


def test_a_constant_float32_feature_is_finite() -> None:
    rng, worst = np.random.default_rng(13), 0.0
    for value in 1e6 * rng.uniform(1, 2, 200).astype(np.float32):
        norm = BatchNormalization(np.float32(1), np.float32(0))
        y = norm.forward(np.full((2000, 3), value))
        assert (norm.running_var >= 0).all()
        worst = max(worst, np.abs(y).max())
    assert worst < 1e-3


def test_a_nan_stays_in_its_features_statistics_until_they_are_set_anew() -> None:
    x = np.random.default_rng(14).standard_normal((6, 2))
    norm = BatchNormalization(np.ones(2), np.zeros(2))
    norm.forward(np.where(np.eye(6, 2) > 0, [np.nan, 1], x))
    norm.forward(x)
    np.testing.assert_array_equal(np.isnan(norm.running_mean), [True, False])
    np.testing.assert_array_equal(np.isnan(norm.running_var), [True, False])
    norm.running_mean = norm.running_var = None
    norm.forward(x)
    assert np.isfinite(norm.running_var).all()


class PlainBatchNorm:
    """The formulas of the paper's Algorithm 1, for (N, D), with averages that start at 0 and of the biased variance."""

    def __init__(self, gamma, beta):
        self.gamma, self.beta = gamma, beta
        self.mean = self.var = np.zeros(len(gamma))

    def forward(self, x, train_flg):
        if train_flg:
            mean, var = x.mean(axis=0), x.var(axis=0)
            self.mean, self.var = 0.9 * self.mean + 0.1 * mean, 0.9 * self.var + 0.1 * var
        else:
            mean, var = self.mean, self.var
        self.root = np.sqrt(var + 1e-6)
        self.normalised = (x - mean) / self.root
        return self.gamma * self.normalised + self.beta

    def backward(self, dout):
        self.dgamma, self.dbeta = (dout * self.normalised).sum(axis=0), dout.sum(axis=0)
        centred = dout - dout.mean(axis=0) - self.normalised * (dout * self.normalised).mean(axis=0)
        return self.gamma * centred / self.root


def training_accuracy(norm: Any, scale: float) -> float:
    """Of 20 epochs on 1,000 digits, with weights drawn from a normal distribution of this scale."""
    data, rng = Digits(binarize=False).load(), np.random.default_rng(15)
    x, t = data.train_images[:1000].reshape(1000, -1) / 16, data.train_labels[:1000]
    sizes = [64, 50, 50, 50, 10]
    affines = [Affine(scale * rng.standard_normal(pair), np.zeros(pair[1])) for pair in itertools.pairwise(sizes)]
    norms = [norm(np.ones(size), np.zeros(size)) for size in sizes[1:-1]]
    layers: list[Any] = [*itertools.chain(*zip(affines, norms, (Relu() for _ in norms), strict=False)), affines[-1]]
    last = SoftmaxWithLoss()

    def predict(x, train_flg):
        for layer in layers:
            x = layer.forward(x, train_flg) if layer in norms else layer.forward(x)
        return x

    for _ in range(20):
        for batch in rng.permutation(1000).reshape(10, 100):
            last.forward(predict(x[batch], True), t[batch])
            dout = last.backward()
            for layer in reversed(layers):
                dout = layer.backward(dout)
            for affine in affines:
                affine.W -= 0.1 * affine.dW
                affine.b -= 0.1 * affine.db
            for layer in norms:
                layer.gamma -= 0.1 * layer.dgamma
                layer.beta -= 0.1 * layer.dbeta
    return float((predict(x, False).argmax(axis=1) == t).mean())


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
def test_a_deep_network_of_the_textbook_ends_at_the_accuracy_of_a_plain_class(scale: float) -> None:
    here, plain = training_accuracy(BatchNormalization, scale), training_accuracy(PlainBatchNorm, scale)
    assert plain > 0.9
    assert here == pytest.approx(plain, abs=0.005)
