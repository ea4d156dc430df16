"""Optimisers and learning-rate schedules: plain functions of parameters, gradients and one learning rate per run.

Parameters are named by layer and by their name in it, and every one has a leading run axis; ``lr`` is (R,). What is
asked of an optimiser of one's own stands in :class:`Optimizer`.

Weight decay adds weight_decay · W to the gradient of every weight W, which is the gradient of the penalty
½ weight_decay ‖W‖² (the paper's "L2 weight regularization", Section 4.2.1). Biases, γ and β are spared.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from .layers import Array, Arrays, require

Params = dict[str, Arrays]
"""Parameters, or what has their layout: layer → parameter name → array (R, ...)."""

State = dict[str, Any]
"""What an optimiser remembers: dictionaries, lists and tuples, nested as its class likes. An array in them has a
leading run axis, as parameters have, and loses the runs that diverge; a number, such as a count of steps, or an array
without axes is of all runs."""

Weights = Mapping[str, tuple[str, ...]]
"""The parameters that are weights: layer → their names."""


class Optimizer(Protocol):
    """A rule by which parameters follow gradients; a dataclass whose fields are settings."""

    linear: ClassVar[bool] = False
    """Whether the optimiser sees gradients only times the learning rate. Its ``update`` is then given that product: the
    training loop does that to the gradient of the logits, which is far smaller than those of the parameters."""

    @abstractmethod
    def init(self, params: Params) -> State:
        """Return the state for parameters of these shapes; ``State`` says what it may consist of."""
        ...

    @abstractmethod
    def update(
        self, params: Params, grads: Params, state: State, lr: Array, weights: Weights, *, scaled: bool = False
    ) -> None:
        """Make one step: change ``params`` and ``state`` in place, since they are the largest arrays of all.

        Args:
            params: the parameters.
            grads: their gradients, or, if ``scaled``, these times the learning rate: for a ``linear`` optimiser only.
            state: as ``init`` began it.
            lr: (R,), the learning rate in force.
            weights: which of the parameters decay.
            scaled: see ``grads``.
        """
        ...


def _zeros_like(params: Params) -> Params:
    return {layer: {name: np.zeros_like(p) for name, p in ps.items()} for layer, ps in params.items()}


def _like(lr: Array, p: Array) -> Array:
    """Shape the learning rates (R,) to broadcast against the parameter p."""
    return lr.reshape(-1, *[1] * (p.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class _Decayed(Optimizer):
    """Base of all optimisers: weight decay, and the walk over the parameters."""

    weight_decay: float

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        require(0 <= self.weight_decay < np.inf, f"weight_decay={self.weight_decay}", "at least 0, and finite")

    def _leaves(self, params: Params, weights: Weights) -> Iterator[tuple[str, str, Array, float]]:
        """Yield for every parameter: its layer, its name, itself, its decay."""
        for layer, arrays in params.items():
            for name, p in arrays.items():
                yield layer, name, p, self.weight_decay if name in weights.get(layer, ()) else 0.0


class _Linear(_Decayed):
    """Base of the optimisers that see gradients only times the learning rate."""

    linear = True

    def _steps(
        self, params: Params, grads: Params, lr: Array, weights: Weights, scaled: bool
    ) -> Iterator[tuple[str, str, Array, Array]]:
        """Yield for every parameter: its layer, its name, itself, the learning rate times its decayed gradient."""
        for layer, name, p, decay in self._leaves(params, weights):
            g = grads[layer][name]
            step = g if scaled else _like(lr, p) * g
            yield layer, name, p, step + decay * _like(lr, p) * p if decay else step


@dataclass(frozen=True, kw_only=True)
class SGD(_Linear):
    """θ ← θ − lr · g. The paper does not name the optimiser of its MNIST experiment (Section 4.1)."""

    def init(self, params: Params) -> Params:
        """Return no state: there is nothing to remember."""
        return {}

    def update(
        self, params: Params, grads: Params, state: Params, lr: Array, weights: Weights, *, scaled: bool = False
    ) -> None:
        """Make one step in place: θ ← θ − lr · g."""
        for _, _, p, step in self._steps(params, grads, lr, weights, scaled):
            p -= step


@dataclass(frozen=True, kw_only=True)
class Momentum(_Linear):
    """v ← momentum · v − lr · g;  θ ← θ + v: the classical (heavy-ball) form, Sutskever et al. 2013, Eq. 1 and 2.

    Differs from the form v ← momentum · v + g; θ ← θ − lr · v when lr changes during training.
    """

    momentum: float

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        super().__post_init__()
        require(0 <= self.momentum < 1, f"momentum={self.momentum}", "at least 0 and below 1")

    def init(self, params: Params) -> Params:
        """Return the velocities v = 0."""
        return _zeros_like(params)

    def update(
        self, params: Params, grads: Params, state: Params, lr: Array, weights: Weights, *, scaled: bool = False
    ) -> None:
        """Make one step in place: v ← momentum · v − lr · g;  θ ← θ + v."""
        for layer, name, p, step in self._steps(params, grads, lr, weights, scaled):
            v = state[layer][name]
            v *= self.momentum
            v -= step
            p += v


@dataclass(frozen=True, kw_only=True)
class Adagrad(_Decayed):
    """h ← h + g²;  θ ← θ − lr · g / (√h + eps): Duchi et al. 2011, the diagonal form (Section 1.1, δ = eps)."""

    eps: float

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        super().__post_init__()
        require(0 < self.eps < np.inf, f"eps={self.eps}", "above 0, and finite")

    def init(self, params: Params) -> Params:
        """Return the sums of squares h = 0."""
        return _zeros_like(params)

    def update(
        self, params: Params, grads: Params, state: Params, lr: Array, weights: Weights, *, scaled: bool = False
    ) -> None:
        """Make one step in place: h ← h + g²;  θ ← θ − lr · g / (√h + eps)."""
        for layer, name, p, decay in self._leaves(params, weights):
            g, h = grads[layer][name], state[layer][name]
            if decay:
                g = g + decay * p
            h += g * g
            p -= _like(lr, p) * g / (np.sqrt(h) + self.eps)


class LearningRateSchedule(Protocol):
    """A rule by which the learning rate changes during training; a dataclass whose fields are settings."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return what the learning rate is multiplied by after ``step`` updates."""
        ...


@dataclass(frozen=True)
class Constant(LearningRateSchedule):
    """Keep the learning rate as it is."""

    def __call__(self, step: int) -> float:
        """Return what the learning rate is multiplied by after ``step`` updates."""
        return 1.0


@dataclass(frozen=True)
class _Decay(LearningRateSchedule):
    every: int
    factor: float

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        require(self.every >= 1, f"every={self.every}", "a number of steps")
        require(0 < self.factor <= 1, f"factor={self.factor}", "above 0 and at most 1")


@dataclass(frozen=True)
class StepDecay(_Decay):
    """lr · factor^⌊step / every⌋: the learning rate drops at once, every so many steps."""

    def __call__(self, step: int) -> float:
        """Return what the learning rate is multiplied by after ``step`` updates."""
        return float(self.factor ** (step // self.every))


@dataclass(frozen=True)
class ExponentialDecay(_Decay):
    """lr · factor^(step / every): the learning rate falls smoothly, by ``factor`` in ``every`` steps.

    The paper decays exponentially, and 6 times faster with batch norm (Section 4.2.1): ``every`` divided by 6.
    """

    def __call__(self, step: int) -> float:
        """Return what the learning rate is multiplied by after ``step`` updates."""
        return float(self.factor ** (step / self.every))


OPTIMIZERS: dict[str, type[Optimizer]] = {"sgd": SGD, "momentum": Momentum, "adagrad": Adagrad}
SCHEDULES: dict[str, type[LearningRateSchedule]] = {
    "constant": Constant,
    "step": StepDecay,
    "exponential": ExponentialDecay,
}
