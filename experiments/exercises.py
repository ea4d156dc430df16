"""Check answers to the exercises of ``algorithm1.ipynb`` against the package's own batch normalization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnrepro.batchnorm import BatchNorm

EPS = 1e-5
RNG = np.random.default_rng(1)
X, DY = 3 + 2 * RNG.standard_normal((8, 3)), RNG.standard_normal((8, 3))
IMAGES = 1 + RNG.standard_normal((8, 2, 4, 4))
GAMMA, BETA = np.array([1.5, -0.5, 2.0]), np.array([0.1, 0.2, -0.3])


@dataclass(frozen=True)
class Exercise:
    """What an answer is called with, what it has to return, and what to think of if it does not."""

    given: tuple[Any, ...]
    names: tuple[str, ...]
    right: tuple[Any, ...]
    hint: str


def _layer(x: Any, gamma: Any, beta: Any) -> tuple[Any, ...]:
    """Return y, the state after a mini-batch, and the backward pass, of the package's layer for one run."""
    layer = BatchNorm(eps=EPS)
    _, state, _ = layer.init(np.random.default_rng(0), x.shape[1:])
    shape = (1, 1, -1, *(1 for _ in x.shape[2:]))
    params = {"gamma": gamma.reshape(shape), "beta": beta.reshape(shape)}
    return layer.forward(params, {name: a[None] for name, a in state.items()}, x[None], train=True)


def _exercises() -> dict[int, Exercise]:
    y, state, backward = _layer(X, GAMMA, BETA)
    dx, grads = backward(DY[None])
    normalised, _, _ = _layer(X, np.ones(3), np.zeros(3))
    of_images = _layer(IMAGES, np.ones(2), np.zeros(2))[1]
    mean, var = state["mean"].reshape(-1), state["var"].reshape(-1)
    folded = [
        a.reshape(-1) for a in BatchNorm(eps=EPS).fold({"gamma": GAMMA, "beta": BETA}, {"mean": mean, "var": var})
    ]
    layer, started = BatchNorm(momentum=0.9), {name: np.zeros((1, 1, 1)) for name in ("mean", "var", "updates")}
    for value in (4.0, 1.0, 7.0):
        started = layer._average(started, np.full((1, 1, 1), value), np.ones((1, 1, 1)), 60)
    positions = IMAGES[:, 0].size
    return {
        1: Exercise((X, GAMMA, BETA, EPS), ("y",), (y[0],), "the variance of a mini-batch is the biased one"),
        2: Exercise(
            (DY, normalised[0], np.sqrt(X.var(axis=0) + EPS), GAMMA),
            ("dx", "dgamma", "dbeta"),
            (dx[0], grads["gamma"].reshape(-1), grads["beta"].reshape(-1)),
            "the loss sees x through the mean and the variance, too",
        ),
        3: Exercise((GAMMA, BETA, mean, var, EPS), ("scale", "shift"), tuple(folded), "γ (x − μ) / √(σ² + ε) + β"),
        4: Exercise(
            ([4.0, 1.0, 7.0], 0.9), ("average",), (started["mean"].item(),), "the weights of what there is sum to 1"
        ),
        5: Exercise(
            (IMAGES,),
            ("mean", "variance"),
            (of_images["mean"].reshape(-1), of_images["var"].reshape(-1) * (positions - 1) / positions),
            "a feature map has one mean, of all its positions in all images",
        ),
    }


EXERCISES = _exercises()


def check(number: int, answer: Callable[..., Any]) -> bool:
    """Call an answer with made-up values, and print in one line whether it returns what the package does.

    Args:
        number: of the exercise, from 1.
        answer: the function that the exercise asks for.

    Returns:
        Whether it is right.
    """
    exercise = EXERCISES[number]
    told = _told(exercise, answer)
    print(f"exercise {number}: {told or 'right'}")
    return not told


def _told(exercise: Exercise, answer: Callable[..., Any]) -> str:
    """Say what is wrong with an answer; nothing if it is right."""
    try:
        found = answer(*exercise.given)
    except NotImplementedError:
        return "not done yet"
    except Exception as error:  # whatever a learner's statements raise
        return f"raises {type(error).__name__}: {error}"
    several = found if isinstance(found, tuple) else (found,)
    if len(several) != len(exercise.names):
        return f"must return {', '.join(exercise.names)}; it returns {len(several)} of these {len(exercise.names)}"
    for name, value, right in zip(exercise.names, several, exercise.right, strict=True):
        shape = np.shape(value)
        if shape != np.shape(right):
            return f"{name} has the shape {shape}; it must have {np.shape(right)}"
        if not np.allclose(value, right, rtol=1e-9, atol=1e-9):
            return f"{name} is wrong by up to {np.abs(np.asarray(value) - right).max():.2g}; {exercise.hint}"
    return ""
