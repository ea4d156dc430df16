"""Layers with a leading run axis: R copies of one network advance in lock-step.

The contract, the same for every layer (and for :class:`bnrepro.batchnorm.BatchNorm`)::

    init(rng, in_shape)                  # → params, state, out_shape: of one run, without the run axis
    forward(params, state, x, *, train)  # → y, state, backward
    backward(dy)                         # → dx, grads (same keys as params)

``forward`` is pure: it changes none of its arguments, and ``backward`` closes over what it needs and may be called
any number of times. So evaluating can't disturb training, and a gradient at other weights is just another call.
``dx`` is the gradient of the loss with respect to ``x``. The ``backward`` of a layer with parameters also takes
``need_dx=False``: the first such layer of a network is spared the product that nobody reads.

Letters for shapes: R runs, N examples, D features, C channels, H height, W width, K classes. The run axis of ``x``
may be 1 where all runs see the same mini-batch; it broadcasts. Every product and reduction is done per run, so that
run r in a group gives the same bits as run r alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = dict[str, Array]
Shape = tuple[int, ...]
Backward = Callable[..., tuple[Any, Arrays]]


class Layer(Protocol):
    """What a network is stacked from; the module's docstring has the contract."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Draw the parameters and the state of one run, for examples of shape ``in_shape``."""
        ...

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Apply the layer to x (R, N, ...)."""
        ...


Initializer = Callable[[np.random.Generator, int, int, Shape], Array]
"""(rng, fan_in, fan_out, shape) → weights. All of them scale the same standard normal draws."""


@dataclass(frozen=True)
class Normal:
    """W ~ N(0, std²): the paper's "small random Gaussian values" (Section 4.1), whose std it does not state."""

    std: float

    def __call__(self, rng: np.random.Generator, fan_in: int, fan_out: int, shape: Shape) -> Array:
        """Draw weights of the given shape; the fans play no part."""
        return rng.standard_normal(shape) * self.std


def xavier(rng: np.random.Generator, fan_in: int, fan_out: int, shape: Shape) -> Array:
    """W ~ N(0, 2 / (fan_in + fan_out)): the variance of Glorot & Bengio 2010, Eq. 12; they draw it uniformly."""
    return rng.standard_normal(shape) * math.sqrt(2 / (fan_in + fan_out))


def he(rng: np.random.Generator, fan_in: int, fan_out: int, shape: Shape) -> Array:
    """W ~ N(0, 2 / fan_in): He et al. 2015, Eq. 10, for ReLU."""
    return rng.standard_normal(shape) * math.sqrt(2 / fan_in)


def sum_over_examples(x: Array) -> Array:
    """Sum x (R, N, D) over N, giving (R, 1, D): as a product with ones, which BLAS does in one pass."""
    return np.ones((1, x.shape[1]), x.dtype) @ x


@dataclass(frozen=True)
class Dense:
    """y = x W + b, with W (R, D_in, D_out) and b (R, 1, D_out).

    Without bias before a batch norm, whose β takes its place (paper, Section 3.2).
    """

    units: int
    initializer: Initializer
    bias: bool = True

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """W by the initializer, b = 0."""
        (d_in,) = in_shape
        params = {"W": self.initializer(rng, d_in, self.units, (d_in, self.units))}
        if self.bias:
            params["b"] = np.zeros((1, self.units))
        return params, {}, (self.units,)

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Multiply x (R or 1, N, D_in) by W; y is (R, N, D_out)."""
        weights = params["W"]
        y = x @ weights
        if self.bias:
            y += params["b"]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Arrays]:
            grads = {"W": x.swapaxes(1, 2) @ dy}
            if self.bias:
                grads["b"] = sum_over_examples(dy)
            return (dy @ weights.swapaxes(1, 2) if need_dx else None), grads

        return y, state, backward


@dataclass(frozen=True)
class Flatten:
    """(R, N, C, H, W) → (R, N, C·H·W), without a copy."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """No parameters, no state."""
        return {}, {}, (math.prod(in_shape),)

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """View x (R, N, ...) as y (R, N, D)."""
        return x.reshape(*x.shape[:2], -1), state, lambda dy: (dy.reshape(x.shape), {})


class Nonlinearity:
    """Base of the layers that act on each unit alone: no parameters, no state, y of x's shape.

    The network taps what enters them, and the diagnostics ask them which units no longer pass a gradient.
    """

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """No parameters, no state."""
        return {}, {}, in_shape

    def inactive(self, x: Array) -> Array:
        """Share (R,) of what is saturated or dead on the pre-activations x (R, N, ...); NaN if not defined."""
        return np.full(len(x), np.nan)


@dataclass(frozen=True)
class Sigmoid(Nonlinearity):
    """y = 1 / (1 + exp(−x)), as ½ tanh(x/2) + ½, which can't overflow."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Apply it to each element; dx = dy · y (1 − y)."""
        y = x * 0.5
        np.tanh(y, out=y)
        y *= 0.5
        y += 0.5

        def backward(dy: Array) -> tuple[Array, Arrays]:
            dx = 1 - y
            dx *= y
            dx *= dy
            return dx, {}

        return y, state, backward

    def inactive(self, x: Array) -> Array:
        """Share of the outputs that are saturated: within 0.05 of 0 or 1, which is |x| > log 19."""
        return (np.abs(x) > math.log(19)).reshape(len(x), -1).mean(axis=1)


@dataclass(frozen=True)
class ReLU(Nonlinearity):
    """y = max(x, 0); the gradient at 0 is 0."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Apply it to each element."""
        y = np.zeros_like(x)
        np.maximum(x, y, out=y)  # five times as fast as against the scalar 0
        return y, state, lambda dy: (dy * (y > 0), {})

    def inactive(self, x: Array) -> Array:
        """Share of the units that are dead: x ≤ 0 for every example."""
        return (x <= 0).all(axis=1).reshape(len(x), -1).mean(axis=1)


def softmax_cross_entropy(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Cross-entropy of softmax(logits), and its gradient with respect to the logits.

    Args:
        logits: (R, N, K).
        targets: (R or 1, N, K), one-hot.

    Returns:
        The mean loss in nats over the N examples, (R,); and its gradient (softmax − targets) / N, (R, N, K).
        The largest logit is subtracted before exponentiating, so that none overflows.
    """
    shifted = logits - logits.max(axis=2, keepdims=True)
    p = np.exp(shifted)
    total = p.sum(axis=2, keepdims=True)
    examples = logits.shape[1]
    loss = (np.log(total[..., 0]) - (shifted * targets).sum(axis=2)).sum(axis=1) / examples
    p /= total
    p -= targets
    p /= examples
    return loss, p
