"""An optimiser and a learning-rate schedule, each a class, that the paper does not have; ``initialization`` uses them.

Settings name them by import path, as ``bnrepro.experiments.rules.HiddenSGD``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bnrepro.layers import Array, require
from bnrepro.optim import LearningRateSchedule, Optimizer, Params, State, Weights


@dataclass(frozen=True, kw_only=True)
class HiddenSGD(Optimizer):
    """SGD whose rate and weight decay are of hidden weights alone; all else follows its gradient at the rate ``rest``.

    W ← W − lr (g + weight_decay W) for the weights of hidden layers; θ ← θ − rest · g for those of the logits, for
    biases, γ and β. With batch norm, the first are the weights whose scale changes nothing (Section 3.3).
    """

    weight_decay: float
    rest: float

    def __post_init__(self) -> None:
        """Check that every setting is in its range."""
        require(0 <= self.weight_decay < np.inf, f"weight_decay={self.weight_decay}", "at least 0, and finite")
        require(0 <= self.rest < np.inf, f"rest={self.rest}", "at least 0, and finite")

    def init(self, params: Params) -> State:
        """Return no state: there is nothing to remember."""
        return {}

    def update(
        self, params: Params, grads: Params, state: State, lr: Array, weights: Weights, *, scaled: bool = False
    ) -> None:
        """Make one step in place."""
        hidden = {(layer, name) for layer in [*weights][:-1] for name in weights[layer]}
        for layer, arrays in params.items():
            for name, p in arrays.items():
                g = grads[layer][name]
                if (layer, name) in hidden:
                    p -= lr.reshape(-1, *[1] * (p.ndim - 1)) * (g + self.weight_decay * p)
                else:
                    p -= self.rest * g


@dataclass(frozen=True)
class ExponentialGrowth(LearningRateSchedule):
    """lr · (1 − lr_decayed · weight_decay)^(−2 step − 1): the rate without weight decay that does what decay does.

    For weights whose scale changes nothing, SGD at the constant rate ``lr_decayed`` with weight decay and SGD at this
    rate without it go through the same functions: Li & Arora 2020 (arXiv 1910.07454), here without momentum. With
    c = 1 − lr_decayed · weight_decay, from W ← c W − lr_decayed ∇L(W) and ∇L(W) = ∇L(V) / c^step, V = W / c^step has
    V ← V − lr_decayed c^(−2 step − 1) ∇L(V).
    """

    lr_decayed: float
    weight_decay: float

    def __post_init__(self) -> None:
        """Check that weights shrink to something."""
        shrinks = 0 <= self.lr_decayed * self.weight_decay < 1
        require(shrinks, f"weight_decay={self.weight_decay}", f"from 0 to below 1 / {self.lr_decayed}")

    def __call__(self, step: int) -> float:
        """Return what the learning rate is multiplied by after ``step`` updates."""
        return float((1 - self.lr_decayed * self.weight_decay) ** (-2 * step - 1))
