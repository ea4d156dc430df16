"""The gradient checker accepts right gradients and rejects those that are slightly off."""

from collections.abc import Callable

import numpy as np
import pytest
from gradients import assert_gradients

from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import Array, Arrays

RNG = np.random.default_rng(0)
AT = {
    "x": RNG.standard_normal((2, 8, 3)),
    "gamma": RNG.standard_normal((2, 1, 3)),
    "beta": RNG.standard_normal((2, 1, 3)),
}
COTANGENT = RNG.standard_normal((2, 8, 3))


def normalize(at: Arrays) -> Array:
    state = {"mean": np.zeros((2, 1, 3)), "var": np.ones((2, 1, 3)), "updates": np.zeros((2, 1, 1))}
    return BatchNorm().forward(at, state, at["x"], train=True)[0]


def right_gradients() -> Arrays:
    """By the formulas of Section 3, with ∂ℓ/∂σ² and ∂ℓ/∂μ put into ∂ℓ/∂x."""
    x, m = AT["x"], AT["x"].shape[1]
    s = 1 / np.sqrt(x.var(axis=1, keepdims=True) + BatchNorm().eps)
    x_hat = (x - x.mean(axis=1, keepdims=True)) * s
    dbeta = COTANGENT.sum(axis=1, keepdims=True)
    dgamma = (COTANGENT * x_hat).sum(axis=1, keepdims=True)
    return {"x": AT["gamma"] * s * (COTANGENT - dbeta / m - x_hat * dgamma / m), "gamma": dgamma, "beta": dbeta}


def test_right_gradients_pass() -> None:
    assert_gradients(normalize, AT, COTANGENT, right_gradients())


def test_a_gradient_known_in_closed_form_passes() -> None:
    x = np.linspace(-2, 2, 8)
    assert_gradients(lambda at: np.sin(at["x"]), {"x": x}, x, {"x": x * np.cos(x)})


@pytest.mark.parametrize("name", AT)
def test_a_gradient_scaled_by_1_0005_is_rejected(name: str) -> None:
    gradients = right_gradients()
    gradients[name] *= 1.0005
    with pytest.raises(AssertionError, match=f"gradient of {name}: off by"):
        assert_gradients(normalize, AT, COTANGENT, gradients)


@pytest.mark.parametrize("name", AT)
@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda largest: largest * 1.0005, id="one element 0.05% off"),
        pytest.param(lambda largest: 0, id="one element forgotten"),
        pytest.param(lambda largest: np.nan, id="one element NaN"),
    ],
)
def test_one_wrong_element_is_rejected(name: str, spoil: Callable[[float], float]) -> None:
    gradients = right_gradients()
    flat = gradients[name].reshape(-1)
    largest = np.abs(flat).argmax()
    flat[largest] = spoil(flat[largest])
    with pytest.raises(AssertionError, match=f"gradient of {name}: off by"):
        assert_gradients(normalize, AT, COTANGENT, gradients)


def test_a_gradient_that_takes_the_statistics_as_constants_is_rejected() -> None:
    scale = 1 / np.sqrt(AT["x"].var(axis=1, keepdims=True) + BatchNorm().eps)
    with pytest.raises(AssertionError, match="gradient of x: off by"):
        assert_gradients(normalize, AT, COTANGENT, right_gradients() | {"x": AT["gamma"] * scale * COTANGENT})


def test_a_gradient_of_another_shape_is_rejected() -> None:
    gradients = right_gradients()
    gradients["beta"] = gradients["beta"][:, 0]
    with pytest.raises(AssertionError, match="gradient of beta has shape"):
        assert_gradients(normalize, AT, COTANGENT, gradients)


def test_a_missing_gradient_is_rejected() -> None:
    gradients = right_gradients()
    del gradients["beta"]
    with pytest.raises(AssertionError):
        assert_gradients(normalize, AT, COTANGENT, gradients)
