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
    """Inference without m/(m−1): the moving average takes the biased variance (Algorithm 2, step 10)."""

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return super()._average(state, mean, var * ((m - 1) / m), m)


@dataclass(frozen=True)
class MomentumReversed(BatchNorm):
    """A momentum of 0.9, meant as the share of the past, used as the share of the newest mini-batch."""

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return BatchNorm(self.eps, 1 - self.momentum)._average(state, mean, var, m)


@dataclass(frozen=True)
class StatisticsOfTestBatch(BatchNorm):
    """The training flag left on at test time: images come four at a time and are normalised by their own statistics."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """As the right layer in training."""
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
        """With a running variance of 0."""
        params, state, out_shape = super().init(rng, in_shape)
        return params, state | {"var": np.zeros_like(state["var"])}, out_shape

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return super()._average(state, mean, var, m) | {"var": self.momentum * state["var"]}


@dataclass(frozen=True)
class OutsideGradient(BatchNorm):
    """Mean and variance taken for constants in the backward pass (Section 2), behind a bias b that they cancel."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """With b = 0."""
        params, state, out_shape = super().init(rng, in_shape)
        return params | {"b": np.zeros_like(params["beta"])}, state, out_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """As the right layer on x + b, but for the gradient in training."""
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
    """Feature maps flattened to (N, C·H·W): statistics, γ and β per pixel and not per feature map (Section 3.2)."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """One γ and β per pixel."""
        params, state, _ = super().init(rng, (int(np.prod(in_shape)),))
        return params, state, in_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """The dense layer on flattened feature maps."""
        y, state, flat = super().forward(params, state, x.reshape(*x.shape[:2], -1), train=train)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx, grads = flat(dy.reshape(y.shape), need_dx=need_dx)
            return (dx.reshape(dy.shape) if need_dx else NO_DX), grads

        return y.reshape(x.shape), state, backward
