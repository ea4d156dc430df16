"""The seeded stream of mini-batches, and images as floats."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnrepro.data import minibatches, to_float
from bnrepro.errors import InputError


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("maximum", [1, 16, 255])
def test_to_float(maximum: int, dtype: type[np.floating[Any]]) -> None:
    """All values that a pixel may have, in both dtypes."""
    images = np.arange(maximum + 1, dtype=np.uint8).reshape(-1, 1, 1, 1)
    pixels = to_float(images, 1 / maximum, dtype)
    assert pixels.dtype == dtype
    assert pixels.shape == images.shape
    assert (pixels.min(), pixels.max()) == (0, 1)
    np.testing.assert_allclose(pixels, images / maximum, rtol=1e-6)


@given(data=st.data(), examples=st.integers(1, 60), seed=st.integers(0, 2**32))
def test_minibatches(data: st.DataObject, examples: int, seed: int) -> None:
    """No index comes twice in an epoch, for any sizes; the same seed gives the same stream."""
    batch_size = data.draw(st.integers(1, examples))
    per_epoch = examples // batch_size
    stream = minibatches(examples, batch_size, seed)
    batches = list(itertools.islice(stream, 3 * per_epoch))
    assert {batch.shape for batch in batches} == {(batch_size,)}
    for start in range(0, 3 * per_epoch, per_epoch):
        epoch = np.concatenate(batches[start : start + per_epoch])
        assert len(np.unique(epoch)) == per_epoch * batch_size
        assert set(epoch.tolist()) <= set(range(examples))
    again = itertools.islice(minibatches(examples, batch_size, seed), 3 * per_epoch)
    np.testing.assert_array_equal(batches, list(again))


def test_minibatches_differ_between_epochs_and_seeds() -> None:
    """Shuffled anew; and a number is the seed sequence made from it."""
    stream = minibatches(60, 20, np.random.SeedSequence(1))
    first, second = (np.concatenate(list(itertools.islice(stream, 3))) for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(60))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first[:20], next(minibatches(60, 20, 2)))
    np.testing.assert_array_equal(first[:20], next(minibatches(60, 20, 1)))


def test_remainder_varies_from_epoch_to_epoch() -> None:
    """What one epoch leaves out, another holds."""
    seen = np.concatenate(list(itertools.islice(minibatches(7, 4, 0), 20)))
    assert set(seen.tolist()) == set(range(7))


@pytest.mark.parametrize("batch_size", [11, 0, -1])
def test_batch_size_is_checked_by_the_call(batch_size: int) -> None:
    """An error at the first ``next`` would come from deep inside training."""
    with pytest.raises(InputError, match=rf"^train\.batch_size={batch_size}: must be from 1 to 10"):
        minibatches(10, batch_size, 0)
