"""The gradient checker: analytic gradients against central differences, in float64."""

from collections.abc import Callable, Mapping

import numpy as np

from bnrepro.layers import Array, Arrays

STEP = 1e-5
"""Balances truncation, of order STEP², against rounding, of order 1e-16 / STEP."""

TOLERANCE = 1e-6
"""Of the largest difference, relative to the largest element of the gradient."""


def central_differences(f: Callable[[Arrays], Array], at: Arrays, cotangent: Array) -> Arrays:
    """Return the gradient of ⟨cotangent, f(at)⟩ with respect to every element of every array.

    The cotangent is that of a loss behind f. It must be random: with ones in its place, so for the loss ``y.sum()``,
    the true gradient through a normalisation is zero, and nothing is checked.
    """
    gradients = {}
    for name, array in at.items():
        assert array.dtype == np.float64
        gradients[name] = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            above, below = array.copy(), array.copy()
            above[index] += STEP
            below[index] -= STEP
            change = f({**at, name: above}) - f({**at, name: below})
            gradients[name][index] = (cotangent * change).sum() / (above[index] - below[index])
    return gradients


def assert_gradients(
    f: Callable[[Arrays], Array], at: Arrays, cotangent: Array, gradients: Mapping[str, Array]
) -> None:
    """Fail unless ``gradients`` are those of ⟨cotangent, f(at)⟩, all of them, within ``TOLERANCE``."""
    assert gradients.keys() == at.keys()
    for name, expected in central_differences(f, at, cotangent).items():
        assert gradients[name].shape == expected.shape, f"gradient of {name} has shape {gradients[name].shape}"
        largest = np.abs(expected).max()
        difference = np.abs(gradients[name] - expected).max()
        assert difference <= TOLERANCE * largest, f"gradient of {name}: off by {difference:.1e} of {largest:.1e}"
