"""Every diagnostic against a slow and obvious twin."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnrepro.diagnostics import correct_predictions, gradient_norm, percentiles
from bnrepro.layers import Array

repeatable = settings(deadline=None, derandomize=True, max_examples=100)


@given(
    runs=st.integers(1, 4),
    examples=st.integers(1, 9),
    units=st.integers(1, 7),
    q=st.lists(st.one_of(st.sampled_from([0, 15, 50, 85, 100]), st.floats(0, 100)), min_size=1, max_size=5),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@repeatable
def test_percentiles_equal_those_of_numpy(runs: int, examples: int, units: int, q: list[float], dtype: type) -> None:
    x: Array = np.random.default_rng([runs, examples, units]).standard_normal((runs, examples, units)).astype(dtype)
    result = percentiles(x, q)
    assert (result.shape, result.dtype) == ((runs, len(q)), np.dtype(dtype))
    tolerance = 4 * float(np.finfo(dtype).eps)
    for r in range(runs):
        np.testing.assert_allclose(result[r], np.percentile(x[r].astype(float), q), rtol=tolerance, atol=tolerance)


def test_percentiles_of_a_hand_worked_example() -> None:
    # 0, 10, …, 50 in disorder: the 50th lies halfway between 20 and 30, the 15th at position .75, the 85th at 4.25.
    x = np.array([[[50.0, 0.0], [20.0, 10.0], [40.0, 30.0]]])
    np.testing.assert_allclose(percentiles(x, (0, 15, 50, 85, 100)), [[0, 7.5, 25, 42.5, 50]], rtol=1e-14)


def test_percentiles_leave_their_input_as_it_is() -> None:
    x = np.array([[3.0, 1.0, 2.0]])
    percentiles(x, [50])
    np.testing.assert_array_equal(x, [[3, 1, 2]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_norm_is_the_root_of_the_sum_of_squares(dtype: type) -> None:
    rng = np.random.default_rng(0)
    grads: list[Array] = [rng.standard_normal((3, *shape)).astype(dtype) for shape in [(4, 5), (1, 5), (2, 3, 2, 2)]]
    expected = [math.sqrt(sum(float(v) ** 2 for g in grads for v in g[r].flat)) for r in range(3)]
    result = gradient_norm(iter(grads))
    assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_correct_predictions_counts_largest_logits() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((3, 50, 4)), rng.integers(0, 4, 50).astype(np.uint8)
    expected = [sum(max(range(4), key=run[n].__getitem__) == labels[n] for n in range(50)) for run in logits]
    np.testing.assert_array_equal(correct_predictions(logits, labels), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_a_run_that_is_not_finite_raises_nothing_and_leaves_the_others_alone(value: float) -> None:
    x = np.random.default_rng(0).standard_normal((3, 8, 5)).astype(np.float32)
    labels = np.arange(8) % 5
    spoilt = x.copy()
    spoilt[1] = value
    with np.errstate(over="ignore", invalid="ignore"):  # as in training
        for before, after in (
            (percentiles(x, (15, 50, 85)), percentiles(spoilt, (15, 50, 85))),
            (gradient_norm([x, x]), gradient_norm([spoilt, spoilt])),
            (correct_predictions(x, labels), correct_predictions(spoilt, labels)),
        ):
            assert after[[0, 2]].tobytes() == before[[0, 2]].tobytes()
        assert not np.isfinite(gradient_norm([spoilt])[1])
        assert np.isfinite(percentiles(spoilt, [50])[1, 0]) == np.isfinite(value)
