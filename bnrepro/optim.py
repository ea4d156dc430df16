"""Optimisers and learning-rate schedules: plain functions of parameters, gradients and one learning rate per run.

``init(params)`` gives the optimiser's state; ``update(params, grads, state, lr)`` changes ``params`` and ``state`` in
place, since they are the largest arrays of all. Parameters are named by layer and by their name in it, and every one
has a leading run axis; ``lr`` is (R,).

An optimiser that is ``linear`` sees gradients only times the learning rate. Its ``update`` takes ``scaled=True`` where
they come multiplied by it: the training loop does that to the gradient of the logits, which is far smaller.

Weight decay adds weight_decay · W to the gradient of every weight W, which is the gradient of the penalty
½ weight_decay ‖W‖² (the paper's "L2 weight regularization", Section 4.2.1). Biases, γ and β are spared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .layers import Array, Arrays, require

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


def _zeros_like(params: Params) -> Params:
    return {layer: {name: np.zeros_like(p) for name, p in ps.items()} for layer, ps in params.items()}


@dataclass(frozen=True, kw_only=True)
class _Decayed:
    """What all optimisers share: weight decay, and the walk over the parameters."""

    weight_decay: float

    def __post_init__(self) -> None:
        """Check the range."""
        require(0 <= self.weight_decay < np.inf, f"weight_decay={self.weight_decay}", "at least 0, and finite")

    def _leaves(self, params: Params, grads: Params, *state: Params) -> Iterator[tuple[Any, ...]]:
        """For every parameter: its decay, itself, its gradient, its state."""
        for layer, arrays in params.items():
            for name, p in arrays.items():
                decay = self.weight_decay if name == "W" else 0
                yield decay, p, grads[layer][name], *(tree[layer][name] for tree in state)


def _like(lr: Array, p: Array) -> Array:
    """Lr (R,), shaped to broadcast against the parameter p."""
    return lr.reshape(-1, *[1] * (p.ndim - 1))


class _Linear(_Decayed):
    """Of those that see gradients only times the learning rate."""

    linear = True

    def _steps(
        self, lr: Array, scaled: bool, params: Params, grads: Params, *state: Params
    ) -> Iterator[tuple[Any, ...]]:
        """For every parameter: itself, the learning rate times its decayed gradient, its state."""
        for decay, p, g, *rest in self._leaves(params, grads, *state):
            step = g if scaled else _like(lr, p) * g
            yield p, step + decay * _like(lr, p) * p if decay else step, *rest


@dataclass(frozen=True, kw_only=True)
class SGD(_Linear):
    """θ ← θ − lr · g. The paper does not name the optimiser of its MNIST experiment (Section 4.1)."""

    def init(self, params: Params) -> Params:
        """Nothing to remember."""
        return {}

    def update(self, params: Params, grads: Params, state: Params, lr: Array, *, scaled: bool = False) -> None:
        """One step, in place."""
        for p, step in self._steps(lr, scaled, params, grads):
            p -= step


@dataclass(frozen=True, kw_only=True)
class Momentum(_Linear):
    """v ← momentum · v − lr · g;  θ ← θ + v: the classical (heavy-ball) form, Sutskever et al. 2013, Eq. 1 and 2.

    Differs from the form v ← momentum · v + g; θ ← θ − lr · v when lr changes during training.
    """

    momentum: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        require(0 <= self.momentum < 1, f"momentum={self.momentum}", "at least 0 and below 1")

    def init(self, params: Params) -> Params:
        """The velocities v = 0."""
        return _zeros_like(params)

    def update(self, params: Params, grads: Params, state: Params, lr: Array, *, scaled: bool = False) -> None:
        """One step, in place."""
        for p, step, v in self._steps(lr, scaled, params, grads, state):
            v *= self.momentum
            v -= step
            p += v


@dataclass(frozen=True, kw_only=True)
class Adagrad(_Decayed):
    """h ← h + g²;  θ ← θ − lr · g / (√h + eps): Duchi et al. 2011, the diagonal form (Section 1.1, δ = eps)."""

    eps: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        require(0 < self.eps < np.inf, f"eps={self.eps}", "above 0, and finite")

    def init(self, params: Params) -> Params:
        """The sums of squares h = 0."""
        return _zeros_like(params)

    def update(self, params: Params, grads: Params, state: Params, lr: Array) -> None:
        """One step, in place."""
        for decay, p, g, h in self._leaves(params, grads, state):
            if decay:
                g = g + decay * p
            h += g * g
            p -= _like(lr, p) * g / (np.sqrt(h) + self.eps)


@dataclass(frozen=True)
class Constant:
    """The learning rate stays as it is."""

    def __call__(self, step: int) -> float:
        """What the learning rate is multiplied by after ``step`` updates."""
        return 1.0


@dataclass(frozen=True)
class _Decay:
    every: int
    factor: float

    def __post_init__(self) -> None:
        """Check the ranges."""
        require(self.every >= 1, f"every={self.every}", "a number of steps")
        require(0 < self.factor <= 1, f"factor={self.factor}", "above 0 and at most 1")


@dataclass(frozen=True)
class StepDecay(_Decay):
    """lr · factor^⌊step / every⌋: the learning rate drops at once, every so many steps."""

    def __call__(self, step: int) -> float:
        """What the learning rate is multiplied by after ``step`` updates."""
        return float(self.factor ** (step // self.every))


@dataclass(frozen=True)
class ExponentialDecay(_Decay):
    """lr · factor^(step / every): smoothly, by ``factor`` in ``every`` steps.

    The paper decays exponentially, and 6 times faster with batch norm (Section 4.2.1): ``every`` divided by 6.
    """

    def __call__(self, step: int) -> float:
        """What the learning rate is multiplied by after ``step`` updates."""
        return float(self.factor ** (step / self.every))


OPTIMIZERS: dict[str, type] = {"sgd": SGD, "momentum": Momentum, "adagrad": Adagrad}
SCHEDULES: dict[str, type] = {"constant": Constant, "step": StepDecay, "exponential": ExponentialDecay}
