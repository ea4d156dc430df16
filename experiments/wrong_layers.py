"""Well-known mistakes in implementing batch normalization, each a class; ``implementation_mistakes`` compares them.

They have no short name among the options of ``model.norm``; settings name them by import path, as
``bnrepro.experiments.wrong_layers.PerPixel``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import NO_DX, Array, Arrays, Backward, Shape, sum_per_feature


@dataclass(frozen=True)
class BiasedVariance(BatchNorm):
    """Inference leaves out m/(m−1): the moving average takes the biased variance (Algorithm 2, step 10)."""

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return super()._average(state, mean, var * ((m - 1) / m), m)


@dataclass(frozen=True)
class MomentumReversed(BatchNorm):
    """A momentum of 0.9, meant as the share of the past, is used as the share of the newest mini-batch."""

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return BatchNorm(self.eps, 1 - self.momentum)._average(state, mean, var, m)


@dataclass(frozen=True)
class StatisticsOfTestBatch(BatchNorm):
    """The training flag is left on at test time: images come four at a time, with their own statistics."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Normalise x as the right layer does in training, and at test time four images at a time."""
        if train:
            return super().forward(params, state, x, train=True)
        own = replace(self, inference="batch")
        fours = np.array_split(x, max(1, x.shape[1] // 4), axis=1)
        parts = [BatchNorm.forward(own, params, state, four, train=False) for four in fours]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            raise NotImplementedError("inference only")

        return np.concatenate([y for y, _, _ in parts], axis=1), state, backward


@dataclass(frozen=True)
class FrozenVariance(BatchNorm):
    """``running_var = momentum * running_var``: it starts at 0 and stays there, and 1/√ε scales the test output."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return the right layer's parameters, and a state with a running variance of 0."""
        params, state, out_shape = super().init(rng, in_shape)
        return params, state | {"var": np.zeros_like(state["var"])}, out_shape

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return super()._average(state, mean, var, m) | {"var": self.momentum * state["var"]}


@dataclass(frozen=True)
class StatisticsFromZero(BatchNorm):
    """Moving averages of mean and variance start at 0, and nothing corrects them: they are too small early on."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return the right layer's parameters, and a state with a running variance of 0."""
        params, state, out_shape = super().init(rng, in_shape)
        return params, state | {"var": np.zeros_like(state["var"])}, out_shape

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        always = (
            1 / (1 - self.momentum) if self.momentum < 1 else np.inf
        )  # the new share is 1 − momentum from the start
        settled = state | {"updates": np.full_like(state["updates"], always)}
        return super()._average(settled, mean, var, m)


@dataclass(frozen=True)
class OutsideGradient(BatchNorm):
    """Mean and variance are taken for constants in the backward pass (Section 2), behind a bias b that they cancel."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return the right layer's parameters with a bias b = 0, and its state."""
        params, state, out_shape = super().init(rng, in_shape)
        return params | {"b": np.zeros_like(params["beta"])}, state, out_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Normalise x + b as the right layer does, but for the gradient in training."""
        x = x + params["b"]
        y, state, right = super().forward(params, state, x, train=train)
        axes = (1, *range(3, x.ndim))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx, grads = right(dy)
            if train:
                dx = dy * params["gamma"] / np.sqrt(x.var(axis=axes, keepdims=True) + self.eps)
            return dx, grads | {"b": sum_per_feature(dx)}

        return y, state, backward


@dataclass(frozen=True)
class PerPixel(BatchNorm):
    """Feature maps are flattened to (N, C·H·W): statistics, γ and β per pixel and not per feature map (Section 3.2)."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return one γ and β per pixel, and the state for them."""
        params, state, _ = super().init(rng, (int(np.prod(in_shape)),))
        return params, state, in_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Normalise flattened feature maps as the dense layer does."""
        y, state, flat = super().forward(params, state, x.reshape(*x.shape[:2], -1), train=train)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx, grads = flat(dy.reshape(y.shape), need_dx=need_dx)
            return (dx.reshape(dy.shape) if need_dx else NO_DX), grads

        return y.reshape(x.shape), state, backward
