# mypy: allow-untyped-defs, allow-untyped-calls
"""``bnrepro.BatchNormalization`` as code that follows the textbook uses it: layers with forward and backward, a dict of
parameters, an optimiser that changes them in place."""

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
    # Weights 0.9 and 1, normalised: (0.9 a + b) / 1.9.
    a, b = (x.var(axis=(0, 2, 3), ddof=1) for x in (first, second))
    np.testing.assert_allclose(norm.running_var, (0.9 * a + b) / 1.9)
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
        (np.ones(12), (8, 3, 2, 2), r"gamma must have shape \(3,\)"),
        (np.ones(3), (8, 3, 2), r"\(N, D\) or \(N, C, H, W\), not \(8, 3, 2\)"),
        (np.ones(3), (1, 3), "at least 2 values"),
    ],
)
def test_wrong_shapes_are_named(gamma: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BatchNormalization(gamma, np.zeros_like(gamma)).forward(np.zeros(shape))


def test_misuse_is_named() -> None:
    with pytest.raises(RuntimeError, match="forward before"):
        BatchNormalization(np.ones(2), np.zeros(2)).backward(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="come together"):
        BatchNormalization(np.ones(2), np.zeros(2), running_mean=np.zeros(2))
