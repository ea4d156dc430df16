"""Batch normalization: Algorithms 1 and 2 of Ioffe & Szegedy 2015 (arXiv 1502.03167)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from .layers import (
    NO_DX,
    Array,
    Arrays,
    Backward,
    Layer,
    Norm,
    Shape,
    along_rows,
    as_rows,
    from_rows,
    require,
    require_shape,
    sum_rows,
)


@dataclass(frozen=True)
class BatchNorm(Norm):
    """y = γ (x − μ) / √(σ² + ε) + β: one γ and β per feature of x (R, N, D), or per map of x (R, N, C, H, W).

    In training (Algorithm 1), μ is the mean and σ² the biased variance over the mini-batch, of m = N values per
    feature, or m = N·H·W per feature map (Section 3.2), and the gradient passes through both.

    At inference, by the setting ``inference``:

    - ``ema``: moving averages of μ_B and m/(m−1) σ²_B, gathered during training. The average after t mini-batches is
      their mean with weights momentum^(t−i), i = 1 … t, kept by
      ``average ← (1 − w) average + w new`` with w = (1 − momentum) / (1 − momentum^t). So it needs no start value,
      ``momentum`` is the share of the past that is kept, and the limit momentum = 1 is the plain mean. The state's
      ``updates`` is 1/w: of how many mini-batches the average is.
    - ``population``: Algorithm 2: the plain mean of μ_B and of m/(m−1) σ²_B over many training mini-batches at the
      weights as they are, computed afresh by :meth:`bnrepro.network.Network.with_population_statistics`.
    - ``batch``: the test batch's own statistics, as in training. Not in the paper, and shown only for why not: the
      output for an image then depends on which others come with it.

    Differs from the paper in the default: it uses moving averages only to follow the accuracy during training
    (Section 3.1). It does not state ε.

    Args:
        eps: ε, added to the variance inside the root.
        momentum: of the moving averages, in [0, 1].
        inference: which statistics inference uses.

    Raises:
        ValueError: if a setting is out of range.
    """

    eps: float = 1e-5
    momentum: float = 0.9
    inference: Literal["ema", "population", "batch"] = "ema"
    least_values = 2

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        require(0 <= self.eps < np.inf, f"eps={self.eps}", "at least 0, and finite")
        require(0 <= self.momentum <= 1, f"momentum={self.momentum}", "from 0 to 1")

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """Return γ = 1, β = 0, and the state of inference before the first mini-batch: mean 0, variance 1."""
        shape = (1, in_shape[0], *(1 for _ in in_shape[1:]))
        params = {"gamma": np.ones(shape), "beta": np.zeros(shape)}
        state = {"mean": np.zeros(shape), "var": np.ones(shape), "updates": np.zeros([1] * len(shape))}
        return params, state, in_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """Normalise x by Algorithm 1 if ``train``, else apply the affine map of Algorithm 2, step 11.

        Raises:
            ValueError: if x has not the shape of the parameters, or in training with m = 1, whose variance is 0.
        """
        gamma, beta = params["gamma"], params["beta"]
        require_shape(x, "R N D" if gamma.ndim == 3 else "R N C H W", "BatchNorm")
        if x.shape[2] != gamma.shape[2]:
            raise ValueError(f"BatchNorm has parameters for {gamma.shape[2]} features, not {x.shape[2]}")
        if not train and self.inference != "batch":
            return self._infer(params, state, x)
        m = x[0, :, 0].size
        if m < self.least_values and train:
            raise ValueError(
                f"BatchNorm needs at least {self.least_values} values per feature in a training mini-batch, not {m}"
            )

        # x̂ is never written out. With c = x − μ, which keeps a rounding error δ = mean(c) when |μ| ≫ σ,
        # σ² = mean(c²) − δ² and x̂ = (c − δ) s for s = 1/√(σ² + ε): every use of x̂ is affine in c.
        rows, shape = as_rows(x), gamma.shape
        mean = sum_rows(rows, shape)
        mean /= m
        c = rows - along_rows(mean, rows)
        delta = sum_rows(c, shape)
        delta /= m
        var = sum_rows(c * c, shape)
        var /= m
        square = delta * delta
        var -= square
        if (var < square).any():  # the sum for μ lost too much: of a constant feature, σ² might be negative
            shift = np.where(var < square, sum_rows(c.astype(np.float64), shape) / m, 0).astype(c.dtype)
            mean = mean + shift
            c -= along_rows(shift, c)  # 0 for all other features, whose bits stay the same
            delta = sum_rows(c, shape) / m
            var = np.maximum(sum_rows(c * c, shape) / m - delta * delta, 0)
        s = 1 / np.sqrt(var + self.eps)
        a = gamma * s
        y = c * along_rows(a, c)
        y += along_rows(beta - a * delta, c)

        averages = self._average(state, mean + delta, var, m) if train else state
        return from_rows(y, x.shape), averages, partial(_backward, c, delta, s, a, m)

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        """Move the averages towards a mini-batch's mean and unbiased variance, m/(m−1) times the biased ``var``."""
        updates = self.momentum * state["updates"] + 1  # 1/w: after t mini-batches, 1 + momentum + … + momentum^(t−1)
        weight = 1 / updates
        kept = 1 - weight
        moved = {"mean": weight * mean, "var": weight * (m / (m - 1)) * var, "updates": updates}
        for name in "mean", "var":
            moved[name] += kept * state[name]
        return moved

    def population(self, state: Arrays) -> tuple[Layer, Arrays] | None:
        """Return, if ``inference="population"``, the layer that averages mini-batches by momentum = 1, else None."""
        if self.inference != "population":
            return None
        return replace(self, momentum=1.0), state | {"updates": np.zeros_like(state["updates"])}

    def fold(self, params: Arrays, state: Arrays) -> tuple[Array, Array]:
        """Return the map that inference is (Algorithm 2, step 11): y = scale · x + shift, both of γ's shape."""
        scale = params["gamma"] / np.sqrt(state["var"] + self.eps)
        return scale, params["beta"] - scale * state["mean"]

    def _infer(self, params: Arrays, state: Arrays, x: Array) -> tuple[Array, Arrays, Backward]:
        scale, shift = self.fold(params, state)
        rows = as_rows(x)
        y = rows * along_rows(scale, rows)
        y += along_rows(shift, rows)
        return (
            from_rows(y, x.shape),
            state,
            partial(_backward_of_inference, rows, state["mean"], np.sqrt(state["var"] + self.eps), scale),
        )


# Functions of the module, not of ``forward``, so that a layer can be copied and pickled with what it returned.


def _backward(
    c: Array, delta: Array, s: Array, a: Array, m: int, dy: Array, *, need_dx: bool = True
) -> tuple[Array, Arrays]:
    """Return dx and the gradients of γ and β, with the letters of :meth:`BatchNorm.forward`."""
    # The six gradients of Section 3, with ∂ℓ/∂σ² and ∂ℓ/∂μ put into ∂ℓ/∂x:
    # dx = γ s (dy − dβ/m − x̂ dγ/m), again affine in dy and c.
    dy, shape = as_rows(dy), dy.shape
    dbeta = sum_rows(dy, s.shape)
    product = dy * c
    dgamma = sum_rows(product, s.shape)
    dgamma -= delta * dbeta
    dgamma *= s
    grads = {"gamma": dgamma, "beta": dbeta}
    if not need_dx:
        return NO_DX, grads
    slope = dgamma * s
    slope /= m
    np.multiply(c, along_rows(slope, c), out=product)
    product += along_rows(dbeta / m - slope * delta, c)
    dx = np.subtract(dy, product, out=product)
    dx *= along_rows(a, c)
    return from_rows(dx, shape), grads


def _backward_of_inference(
    x: Array, mean: Array, std: Array, scale: Array, dy: Array, *, need_dx: bool = True
) -> tuple[Array, Arrays]:
    """Return dx and the gradients of γ and β of y = scale · x + shift."""
    dy, shape = as_rows(dy), dy.shape
    normalised = (x - along_rows(mean, x)) / along_rows(std, x)
    grads = {"gamma": sum_rows(dy * normalised, mean.shape), "beta": sum_rows(dy, mean.shape)}
    return (from_rows(dy * along_rows(scale, dy), shape) if need_dx else NO_DX), grads


class BatchNormalization:
    """Stand in for the class of the textbook "Deep Learning from Scratch" and of notes after it.

    Code written against it runs unchanged, and right, on :class:`BatchNorm`, but for γ and β of images (4. below). As
    printed in the note from which this project grew, the class does not work, in these places:

    1. ``forward`` passes on ``trainflg``, a name that does not exist.
    2. ``backward`` reads ``dout.shpae``.
    3. ``running_var`` is only ever multiplied by ``momentum`` and never takes in the variance of a mini-batch, so it
       stays 0 and test-time output is scaled by 1/√ε = 1000.
    4. 4-D input is flattened to (N, C·H·W): statistics per pixel, where Section 3.2 has one pair per feature map.
    5. The running statistics start at 0 and use the biased variance: test-time output is wrong early, and always off
       by m/(m−1).

    Its ε, written ``10e-7``, is 1e-6, as here; its backward pass is right.

    Arrays may be lists and of any type of real numbers: integers and booleans are computed with in float64, float16
    in float32, and float16 input gives float16 ``forward`` and ``backward``.

    Args:
        gamma: γ, (D,) for input (N, D), (C,) for input (N, C, H, W), or one number for all. Read anew by every call,
            so that an optimiser may change it in place.
        beta: β, likewise.
        momentum: share of the past in the running statistics.
        running_mean: (D,) or (C,) from earlier training; None to begin with the first mini-batch.
        running_var: likewise.

    Attributes:
        dgamma: ∂ℓ/∂γ after ``backward``, one value per feature.
        dbeta: ∂ℓ/∂β, likewise.
        running_mean: moving average of the mini-batch means: the first mini-batch's, then by each mini-batch
            ``momentum * running_mean + (1 - momentum) * mean``. None before there is one. It may be set at any time,
            together with ``running_var``: training goes on from the values given, and None begins anew. A single NaN
            in a mini-batch makes both NaN for that feature until they are set, as in PyTorch.
        running_var: moving average of the unbiased variances, likewise.
        xc: x − μ of the last mini-batch in training, of the shape of x.
        std: √(σ² + ε) of that mini-batch, one value per feature.
        xn: xc / std.
        input_shape: shape of the last input.
        batch_size: its N.
    """

    def __init__(
        self,
        gamma: ArrayLike,
        beta: ArrayLike,
        momentum: float = 0.9,
        running_mean: Any = None,
        running_var: Any = None,
    ) -> None:
        """Keep references to γ and β."""
        self.gamma, self.beta, self.momentum = gamma, beta, momentum
        self.running_mean, self.running_var = running_mean, running_var
        self.dgamma: Any = None
        self.dbeta: Any = None
        self.xc: Any = None
        self.std: Any = None
        self.xn: Any = None
        self.input_shape: Any = None
        self.batch_size: Any = None
        self._backward: Backward | None = None
        self._dtype: Any = None

    def forward(self, x: ArrayLike, train_flg: bool = True) -> Array:
        """Normalise x (N, D) or (N, C, H, W): by the mini-batch if ``train_flg``, else by the running statistics.

        A mini-batch of a single value per feature gives β in training, and leaves the running statistics as they are,
        since one value has no variance.

        Raises:
            ValueError: if x has another number of axes or no examples, or γ, β or the running statistics do not fit it.
        """
        given = np.asarray(x)
        rows = _floats("x", given)
        shape = rows.shape
        if rows.ndim not in (2, 4) or 0 in shape[1:]:
            raise ValueError(f"BatchNormalization takes (N, D) or (N, C, H, W), of which D, C, H, W > 0, not {shape}")
        if (self.running_mean is None) != (self.running_var is None):
            raise ValueError("running_mean and running_var come together, or neither")
        features, begun = shape[1], self.running_mean is not None

        def per_feature(name: str, value: ArrayLike) -> Array:
            floats = _floats(name, value)
            if floats.size == math.prod(shape[1:]) != features:
                remedy = f"{name}.reshape({features}, -1).mean(axis=1)" if name in ("gamma", "beta") else "None"
                raise ValueError(
                    f"{name} must have shape ({features},) for input {shape}, not {floats.shape}: one value per "
                    f"feature map, for all its pixels (paper, Section 3.2), not one per pixel; give {remedy} instead"
                )
            try:
                row = np.broadcast_to(floats, (1, features))
            except ValueError:
                raise ValueError(
                    f"{name} must have shape ({features},) for input {shape}, not {floats.shape}"
                ) from None
            return row.reshape(1, 1, features, *(1 for _ in shape[2:]))

        several = rows[:, :1].size != 1
        layer = BatchNorm(eps=1e-6, momentum=self.momentum, inference="batch" if train_flg else "ema")
        params = {"gamma": per_feature("gamma", self.gamma), "beta": per_feature("beta", self.beta)}
        state = {
            "mean": per_feature("running_mean", self.running_mean if begun else 0.0),
            "var": per_feature("running_var", self.running_var if begun else 1.0),
        }
        # What there is weighs as the average of so many mini-batches that the next one's weight is 1 − momentum.
        updates = 0.0 if not begun else 1 / (1 - self.momentum) if self.momentum < 1 else np.inf
        state["updates"] = np.full_like(state["mean"], updates)
        backward: Any
        (y,), state, backward = layer.forward(params, state, rows[np.newaxis], train=train_flg and several)
        if train_flg:
            c, delta, s = backward.args[:3]
            (self.xc,), self.std = from_rows(c, (1, *shape)) - delta, (1 / s).reshape(-1)
            (self.xn,) = self.xc * s
            if several:
                self.running_mean, self.running_var = state["mean"].reshape(-1), state["var"].reshape(-1)
        self.input_shape, self.batch_size = shape, len(rows)
        self._backward, self._dtype = backward, given.dtype
        return self._narrowed(y)

    def backward(self, dout: ArrayLike) -> Array:
        """Return ∂ℓ/∂x for dout = ∂ℓ/∂y of the last ``forward``, and set ``dgamma`` and ``dbeta``.

        Args:
            dout: of the shape of y, or flat: (N, C·H·W).

        Raises:
            RuntimeError: before the first ``forward``.
            ValueError: if dout has another shape.
        """
        if self._backward is None:
            raise RuntimeError("backward needs a forward before it")
        dy, shape = _floats("dout", dout), self.input_shape
        if dy.shape not in (shape, (shape[0], math.prod(shape[1:]))):
            raise ValueError(f"dout must have the shape of the last forward's output, {shape}, not {dy.shape}")
        dx: Array
        (dx,), grads = self._backward(dy.reshape(1, *shape))
        self.dgamma, self.dbeta = grads["gamma"].reshape(-1), grads["beta"].reshape(-1)
        return self._narrowed(dx)

    def _narrowed(self, a: Array) -> Array:
        return a.astype(np.float16) if self._dtype == np.float16 else a


def _floats(name: str, value: ArrayLike) -> Array:
    """Return an array to compute with: float32 at least, and float64 for integers and booleans.

    Raises:
        ValueError: if it holds anything but real numbers.
    """
    a = np.asarray(value)
    if a.dtype.kind not in "biuf":
        raise ValueError(f"{name} must hold real numbers, not {a.dtype}")
    return a.astype(np.promote_types(a.dtype, np.float32) if a.dtype.kind == "f" else np.float64, copy=False)
