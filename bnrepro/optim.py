"""Optimisers: plain functions of parameters, gradients and one learning rate per run.

``init(params)`` gives the optimiser's state; ``update(params, grads, state, lr)`` changes ``params`` and ``state`` in
place, since they are the largest arrays of all. Parameters are named by layer and by their name in it, and every one
has a leading run axis; ``lr`` is (R,).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .layers import Array, Arrays

Params = dict[str, Arrays]
"""layer → parameter name → array (R, ...)."""


class Optimizer(Protocol):
    """What the training loop asks of an optimiser."""

    def init(self, params: Params) -> Params:
        """State for parameters of these shapes."""
        ...

    def update(self, params: Params, grads: Params, state: Params, lr: Array) -> None:
        """One step, in place."""
        ...


def _leaves(lr: Array, *trees: Params) -> Iterator[tuple[Array, ...]]:
    """For every parameter: lr shaped to broadcast against it, and its array in each of the trees."""
    for layer, arrays in trees[0].items():
        for name, array in arrays.items():
            yield lr.reshape(-1, *[1] * (array.ndim - 1)), *(tree[layer][name] for tree in trees)


def _zeros_like(params: Params) -> Params:
    return {layer: {name: np.zeros_like(p) for name, p in ps.items()} for layer, ps in params.items()}


@dataclass(frozen=True)
class SGD:
    """θ ← θ − lr · g: "plain SGD" of Section 4.1's kind; the paper does not name its optimiser there."""

    def init(self, params: Params) -> Params:
        """Nothing to remember."""
        return {}

    def update(self, params: Params, grads: Params, state: Params, lr: Array) -> None:
        """One step, in place."""
        for rate, p, g in _leaves(lr, params, grads):
            p -= rate * g


@dataclass(frozen=True)
class Momentum:
    """v ← momentum · v − lr · g;  θ ← θ + v: the classical (heavy-ball) form, Sutskever et al. 2013, Eq. 1 and 2.

    Differs from the form v ← momentum · v + g; θ ← θ − lr · v when lr changes during training.
    """

    momentum: float

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: must be at least 0 and below 1")

    def init(self, params: Params) -> Params:
        """The velocities v = 0."""
        return _zeros_like(params)

    def update(self, params: Params, grads: Params, state: Params, lr: Array) -> None:
        """One step, in place."""
        for rate, p, g, v in _leaves(lr, params, grads, state):
            v *= self.momentum
            v -= rate * g
            p += v


@dataclass(frozen=True)
class Adagrad:
    """h ← h + g²;  θ ← θ − lr · g / (√h + eps): Duchi et al. 2011, the diagonal form (Section 1.1, δ = eps)."""

    eps: float

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.eps > 0:
            raise ValueError(f"eps={self.eps}: must be above 0")

    def init(self, params: Params) -> Params:
        """The sums of squares h = 0."""
        return _zeros_like(params)

    def update(self, params: Params, grads: Params, state: Params, lr: Array) -> None:
        """One step, in place."""
        for rate, p, g, h in _leaves(lr, params, grads, state):
            h += g * g
            p -= rate * g / (np.sqrt(h) + self.eps)


OPTIMIZERS: dict[str, type] = {"sgd": SGD, "momentum": Momentum, "adagrad": Adagrad}
