"""Batch normalization: Algorithms 1 and 2 of Ioffe & Szegedy 2015 (arXiv 1502.03167)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .layers import Array, Arrays, Backward, Shape, sum_over_examples


@dataclass(frozen=True)
class BatchNorm:
    """y = γ (x − μ) / √(σ² + ε) + β, for x (R, N, D), with γ and β (R, 1, D), one pair per feature.

    In training (Algorithm 1), μ = mean and σ² = biased variance over the mini-batch of m = N examples, and the
    gradient passes through both. At inference, μ and σ² are moving averages of μ_B and m/(m−1) σ²_B, so the
    layer is a fixed affine map.

    The moving average after t mini-batches is the weighted mean of their statistics with weights momentum^(t−i),
    i = 1 … t, kept by ``average ← (1 − w) average + w new`` with w = (1 − momentum) / (1 − momentum^t): it needs no
    start value, and momentum is the share of the past that is kept.

    Differs from the paper in that Algorithm 2 averages over many mini-batches after training; the paper uses
    moving averages only to follow the accuracy during training (Section 3.1).

    Args:
        eps: ε, added to the variance inside the root. The paper does not state it.
        momentum: of the moving averages, in [0, 1).
    """

    eps: float = 1e-5
    momentum: float = 0.9

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not self.eps >= 0:
            raise ValueError(f"eps={self.eps}: must be at least 0")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: must be at least 0 and below 1")

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """γ = 1, β = 0. Before the first mini-batch, inference takes mean 0 and variance 1."""
        (features,) = in_shape
        params = {"gamma": np.ones((1, features)), "beta": np.zeros((1, features))}
        state = {"mean": np.zeros((1, features)), "var": np.ones((1, features)), "updates": np.zeros((1, 1))}
        return params, state, in_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Algorithm 1 if ``train``, else the affine map of Algorithm 2, step 11.

        Raises:
            ValueError: in training with N = 1, whose variance is 0.
        """
        gamma, beta = params["gamma"], params["beta"]
        if not train:
            return self._infer(gamma, beta, state, x)
        m = x.shape[1]
        if m < 2:
            raise ValueError("batch norm needs at least 2 examples in a training mini-batch")

        # x̂ is never written out. With c = x − μ, which keeps a rounding error δ = mean(c) when |μ| ≫ σ,
        # σ² = mean(c²) − δ² and x̂ = (c − δ) s for s = 1/√(σ² + ε): every use of x̂ is affine in c.
        mean = sum_over_examples(x) / m
        c = x - mean
        delta = sum_over_examples(c) / m
        var = sum_over_examples(c * c) / m - delta * delta
        s = 1 / np.sqrt(var + self.eps)
        a = gamma * s
        y = c * a
        y += beta - a * delta

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Arrays]:
            # The six gradients of Section 3, with ∂ℓ/∂σ² and ∂ℓ/∂μ put into ∂ℓ/∂x:
            # dx = γ s (dy − dβ/m − x̂ dγ/m), again affine in dy and c.
            dbeta = sum_over_examples(dy)
            dgamma = s * (sum_over_examples(dy * c) - delta * dbeta)
            grads = {"gamma": dgamma, "beta": dbeta}
            if not need_dx:
                return None, grads
            b = a * s * dgamma / -m
            dx = dy * a
            dx += c * b
            dx -= a * dbeta / m + b * delta
            return dx, grads

        return y, self._average(state, mean + delta, var * (m / (m - 1))), backward

    def _average(self, state: Arrays, mean: Array, var: Array) -> Arrays:
        """Move the averages towards the statistics of one mini-batch."""
        updates = state["updates"] + 1
        # In float64, where the first weight is exactly 1: in float32 a share of the start values would be left over.
        weight = (1 - self.momentum) / (1 - self.momentum ** updates.astype(float))
        weight = weight.astype(mean.dtype)
        return {
            "mean": (1 - weight) * state["mean"] + weight * mean,
            "var": (1 - weight) * state["var"] + weight * var,
            "updates": updates,
        }

    def _infer(self, gamma: Array, beta: Array, state: Arrays, x: Array) -> tuple[Array, Arrays, Backward]:
        s = 1 / np.sqrt(state["var"] + self.eps)
        a = gamma * s
        y = x * a
        y += beta - a * state["mean"]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array | None, Arrays]:
            dbeta = sum_over_examples(dy)
            grads = {"gamma": s * (sum_over_examples(dy * x) - state["mean"] * dbeta), "beta": dbeta}
            return (dy * a if need_dx else None), grads

        return y, state, backward
