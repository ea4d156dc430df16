"""Norms beside batch normalization, each a class, and ReLU with what batch norm made needless; several sweeps use them.

They have no short name among the options of ``model.norm``; settings name them by import path, as
``bnrepro.experiments.norms.GroupNorm``, and their fields are ``model.norm_options``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import Array, Arrays, Backward, Layer, Norm, ReLU, Shape, require, sum_per_feature

# Parts of batch norm


@dataclass(frozen=True)
class FixedAffine(BatchNorm):
    """Batch norm whose γ = 1, or β = 0, or both, are no parameters: "simply normalizing each input" (Section 3)."""

    trained: Literal["gamma", "beta", "none"] = "none"
    """What is trained."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return what is trained, and batch norm's state."""
        params, state, out_shape = super().init(rng, in_shape)
        return {name: p for name, p in params.items() if name == self.trained}, state, out_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Do what batch norm does with the rest of γ and β as it begins."""
        start = {"gamma": np.ones_like(state["mean"]), "beta": np.zeros_like(state["mean"])}
        y, state, backward = super().forward(start | params, state, x, train=train)

        def of_trained(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx, grads = backward(dy, need_dx=need_dx)
            return dx, {name: grads[name] for name in params}

        return y, state, of_trained


@dataclass(frozen=True)
class _Part(BatchNorm):
    """Base of y = γ (x − center) scale + β, where one of center and scale is not that of batch norm."""

    def _parts(self, mean: Array, var: Array) -> tuple[Array, Array]:
        """Return center and scale by mean and variance."""
        raise NotImplementedError

    def _dx(self, dx_hat: Array, x: Array, mean: Array, scale: Array, m: int) -> Array:
        """Return the gradient at x by that at x̂ = (x − center) scale, in training."""
        raise NotImplementedError

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Normalise by the mini-batch if ``train``, else by the moving averages."""
        gamma, m = params["gamma"], x[0, :, 0].size
        own = train or self.inference == "batch"
        mean, var = _moments(x, m) if own else (state["mean"], state["var"])
        center, scale = self._parts(mean, var)
        x_hat = (x - center) * scale

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx_hat = dy * gamma
            dx = self._dx(dx_hat, x, mean, scale, m) if own else dx_hat * scale
            return dx, {"gamma": sum_per_feature(dy * x_hat), "beta": sum_per_feature(dy)}

        averages = self._average(state, mean, var, m) if train else state
        return gamma * x_hat + params["beta"], averages, backward


def _moments(x: Array, m: int) -> tuple[Array, Array]:
    """Return mean and biased variance per feature, of m values each."""
    mean = sum_per_feature(x) / m
    return mean, sum_per_feature((x - mean) ** 2) / m


@dataclass(frozen=True)
class CentringOnly(_Part):
    """y = γ (x − μ) + β: the mean of batch norm without its variance."""

    def _parts(self, mean: Array, var: Array) -> tuple[Array, Array]:
        return mean, np.ones_like(var)

    def _dx(self, dx_hat: Array, x: Array, mean: Array, scale: Array, m: int) -> Array:
        return dx_hat - sum_per_feature(dx_hat) / m


@dataclass(frozen=True)
class ScalingOnly(_Part):
    """y = γ x / √(σ² + ε) + β: the variance of batch norm, around the mean, which itself stays in."""

    def _parts(self, mean: Array, var: Array) -> tuple[Array, Array]:
        return np.zeros_like(mean), 1 / np.sqrt(var + self.eps)

    def _dx(self, dx_hat: Array, x: Array, mean: Array, scale: Array, m: int) -> Array:
        slope = sum_per_feature(dx_hat * x) * scale**3 / m  # −2 ∂ℓ/∂σ² / m
        dx: Array = dx_hat * scale - slope * (x - mean)
        return dx


# Batch norm with something changed


@dataclass(frozen=True)
class NoisyBatchNorm(BatchNorm):
    """Batch norm, and then random noise whose own distribution changes at every step: Santurkar et al. 2018.

    In training, y = s · BN(x) + t, where for each unit and step μ ~ U(−½, ½) and σ ~ U(1, 1.25), and for each of its
    values t ~ U(μ − 0.1, μ + 0.1) and s ~ N(σ, 0.1). At inference there is no noise. As for dropout, the noise comes
    from a counter-based stream of the run's own, kept in the state.
    """

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return batch norm's parameters and state, with the key of the stream and the number of draws."""
        params, state, out_shape = super().init(rng, in_shape)
        (own,) = rng.spawn(1)  # leaves rng itself as it was
        key = own.integers(2**63, size=state["updates"].shape)
        return params, state | {"key": key, "drawn": np.zeros_like(key)}, out_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Do what batch norm does, and add the noise if ``train``."""
        y, after, of_norm = super().forward(params, state, x, train=train)
        if not train:
            return y, after, of_norm
        runs = zip(state["key"].reshape(-1), state["drawn"].reshape(-1), strict=True)
        noise = [_noise(*run, y[0]) for run in runs]
        scale, shift = (np.stack(each).astype(y.dtype) for each in zip(*noise, strict=True))
        after = after | {"key": state["key"], "drawn": state["drawn"] + 1}
        return y * scale + shift, after, lambda dy, *, need_dx=True: of_norm(dy * scale, need_dx=need_dx)


def _noise(key: int, drawn: int, like: Array) -> tuple[Array, Array]:
    """Return s and t, of the shape of a run's ``like`` (N, D) or (N, C, H, W), for draw number ``drawn``."""
    stream = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, drawn]))
    unit = (like.shape[1], *(1 for _ in like.shape[2:]))
    mean, std = stream.uniform(-0.5, 0.5, unit), stream.uniform(1, 1.25, unit)
    return stream.normal(std, 0.1, like.shape), stream.uniform(mean - 0.1, mean + 0.1, like.shape)


@dataclass(frozen=True)
class FrozenStatistics(BatchNorm):
    """Batch norm for the first ``batches`` mini-batches; then their statistics stay, and are constants to the gradient.

    What is left is an affine map that begins well: a control for what the normalization of every mini-batch adds.
    """

    momentum: float = 1.0
    """1: statistics are the plain mean of those of all these mini-batches."""
    batches: int = 50

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        super().__post_init__()
        require(self.batches >= 1, f"batches={self.batches}", "at least 1")
        require(self.inference == "ema", f"inference={self.inference}", "ema, the statistics that are frozen")

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return batch norm's parameters and state, with the number of mini-batches seen."""
        params, state, out_shape = super().init(rng, in_shape)
        return params, state | {"seen": np.zeros(state["updates"].shape, int)}, out_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Do what batch norm does in training until the statistics are frozen, then what it does at inference."""
        seen = state["seen"]  # equal in all runs, which are in lock-step
        y, after, backward = super().forward(params, state, x, train=train and seen.flat[0] < self.batches)
        return y, after | {"seen": seen + int(train)}, backward


@dataclass(frozen=True)
class BatchRenorm(BatchNorm):
    """y = γ (x̂ r + d) + β: Ioffe 2017 (arXiv 1702.03275), Algorithm 1; in training x̂ is that of batch norm.

    r = σ_B / σ, clipped to [1 / r_max, r_max], and d = (μ_B − μ) / σ, clipped to [−d_max, d_max], are constants to the
    gradient; μ and σ are the moving averages before this mini-batch. Unclipped, training does what inference does. Up
    to mini-batch ``begin`` r = 1 and d = 0, which is batch norm; then the limits grow evenly up to mini-batch ``end``.

    Differs from the paper in that the average is of the biased σ_B² and not of σ_B, and is debiased as batch norm's.
    """

    momentum: float = 0.99
    r_max: float = 3.0
    d_max: float = 5.0
    begin: int = 100
    end: int = 500

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        super().__post_init__()
        require(self.r_max >= 1, f"r_max={self.r_max}", "at least 1")
        require(self.d_max >= 0, f"d_max={self.d_max}", "at least 0")
        require(self.begin >= 1, f"begin={self.begin}", "at least 1, so that there are averages")
        require(self.begin <= self.end, f"end={self.end}", f"at least begin={self.begin}")

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return batch norm's parameters and state, with the number of mini-batches seen."""
        params, state, out_shape = super().init(rng, in_shape)
        return params, state | {"seen": np.zeros(state["updates"].shape, int)}, out_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Normalise as batch norm does, and correct that by r and d if ``train``."""
        if not train:
            return super().forward(params, state, x, train=False)
        gamma, seen = params["gamma"], state["seen"]  # equal in all runs, which are in lock-step
        done = float(np.interp(seen.flat[0], [self.begin, self.end], [0, 1]))
        r_max, d_max = 1 + done * (self.r_max - 1), done * self.d_max
        mean, var = _moments(x, x[0, :, 0].size)
        std = np.sqrt(state["var"] + self.eps)
        r = np.clip(np.sqrt(var + self.eps) / std, 1 / r_max, r_max).astype(x.dtype)
        d = np.clip((mean - state["mean"]) / std, -d_max, d_max).astype(x.dtype)
        corrected = {"gamma": gamma * r, "beta": params["beta"] + gamma * d}
        y, after, of_norm = super().forward(corrected, state, x, train=True)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx, grads = of_norm(dy, need_dx=need_dx)
            return dx, grads | {"gamma": r * grads["gamma"] + d * grads["beta"]}

        return y, after | {"seen": seen + 1}, backward

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return super()._average(state, mean, var * ((m - 1) / m), m)

    def population(self, state: Arrays) -> tuple[Layer, Arrays] | None:
        """Gather, if ``inference="population"``, the statistics of plain batch norm."""
        found = super().population(state)
        return found and (BatchNorm(self.eps, momentum=1.0), found[1])


# Norms of one example alone


@dataclass(frozen=True)
class GroupNorm(Norm):
    """y = γ (x − μ) / √(σ² + ε) + β by the mean and variance of one example's groups of features: Wu & He 2018.

    Features, of x (R, N, D), or maps, of x (R, N, C, H, W), are in ``groups`` equal groups; γ and β are one per feature
    or map. Training and inference are the same, and no example depends on another.
    """

    groups: int = 4
    eps: float = 1e-5

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        require(self.groups >= 1, f"groups={self.groups}", "at least 1")
        require(0 < self.eps < np.inf, f"eps={self.eps}", "above 0, and finite")

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return γ = 1, β = 0 and no state."""
        if in_shape[0] % self.groups:
            raise ValueError(f"groups={self.groups}: must divide the {in_shape[0]} features or maps of every layer")
        shape = (1, in_shape[0], *(1 for _ in in_shape[1:]))
        return {"gamma": np.ones(shape), "beta": np.zeros(shape)}, {}, in_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Normalise each group of each example."""
        gamma, grouped = params["gamma"], (*x.shape[:2], self.groups, -1)
        values = x.reshape(grouped)
        centred = values - values.mean(axis=3, keepdims=True)
        s = 1 / np.sqrt((centred * centred).mean(axis=3, keepdims=True) + self.eps)
        x_hat = (centred * s).reshape(x.shape)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            grads = {"gamma": sum_per_feature(dy * x_hat), "beta": sum_per_feature(dy)}
            dx_hat, normal = (dy * gamma).reshape(*dy.shape[:2], *grouped[2:]), x_hat.reshape(grouped)
            dx = dx_hat - dx_hat.mean(axis=3, keepdims=True) - normal * (dx_hat * normal).mean(axis=3, keepdims=True)
            return (dx * s).reshape(dy.shape), grads

        return gamma * x_hat + params["beta"], state, backward


@dataclass(frozen=True)
class LayerNorm(GroupNorm):
    """Group norm of a single group, all features of the layer: Ba et al. 2016 (arXiv 1607.06450)."""

    groups: int = 1


# A nonlinearity


class ReLUWithLRN(ReLU):
    """ReLU and local response normalization, which batch norm made needless (Section 4.2.1): Krizhevsky et al. 2012.

    y_c = a_c / (k + α Σ a_j²)^β over the n units or maps j around c, with their k = 2, n = 5, α = 1e-4 and β = 0.75.
    Since it is not of each unit alone, diagnostic ``jacobian`` takes a unit's effect on its neighbours for a part of
    its slope.
    """

    k, n, alpha, beta = 2.0, 5, 1e-4, 0.75

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Apply max(x, 0) to each element, and divide it by what it and its neighbours give."""
        a, _, of_relu = super().forward(params, state, x, train=train)
        scale = self.k + self.alpha * self._around(a * a)
        power = scale**-self.beta

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            of_scale = self._around(dy * a * power / scale)
            return of_relu(dy * power - 2 * self.alpha * self.beta * a * of_scale, need_dx=need_dx)

        return a * power, state, backward

    def _around(self, x: Array) -> Array:
        """Return the sum over the n features around each one."""
        half, total = self.n // 2, x.copy()
        for away in range(1, half + 1):
            total[:, :, away:] += x[:, :, :-away]
            total[:, :, :-away] += x[:, :, away:]
        return total
