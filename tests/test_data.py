"""The seeded stream of mini-batches, and images as floats."""

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnrepro.data import Augmentation, Dataset, Inputs, Order, augmented, divided, fitted, minibatches
from bnrepro.datasets import Digits
from bnrepro.errors import InputError


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("maximum", [1, 16, 255])
def test_raw_inputs(maximum: int, dtype: type[np.floating[Any]]) -> None:
    """All values that a pixel may have, in both dtypes."""
    images = np.arange(maximum + 1, dtype=np.uint8).reshape(-1, 1, 1, 1)
    pixels = images_of(images, 1 / maximum).inputs(images, dtype)
    assert pixels.dtype == dtype
    assert pixels.shape == images.shape
    assert (pixels.min(), pixels.max()) == (0, 1)
    np.testing.assert_allclose(pixels, images / maximum, rtol=1e-6)


def images_of(images: Any, scale: float = 1 / 255) -> Dataset:
    """A data set of these training images, (N, C, H, W), and three of another kind to test on."""
    train, test = np.asarray(images, np.uint8), np.full((3, *np.shape(images)[1:]), 255, np.uint8)
    labels = (np.arange(len(train)) % 10).astype(np.uint8)
    return Dataset(train, labels, test, np.zeros(3, np.uint8), classes=10, scale=scale)


def random_images(channels: int, count: int = 1500) -> Any:
    """More images than are converted at once, whose pixels are correlated and one of which is constant."""
    images = np.random.default_rng(0).integers(0, 256, (count, channels, 3, 4))
    images[:, 0, 1] = (images[:, 0, 1] + 3 * images[:, 0, 0]) // 4
    images[:, 0, 2, 3] = 7
    return images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("inputs", ["centred", "standardised"])
def test_centred_and_standardised_inputs(inputs: Inputs, channels: int) -> None:
    """Each pixel of grey images has mean 0 over the training images, and deviation 1; of colour images each channel."""
    images = random_images(channels)
    data = fitted(images_of(images), inputs)
    x, axes = images / 255, (0,) if channels == 1 else (0, 2, 3)
    mean, deviation = x.mean(axis=axes, keepdims=True), x.std(axis=axes, keepdims=True)
    expected = (x - mean) / (np.where(deviation < 1e-9, 1, deviation) if inputs == "standardised" else 1)
    np.testing.assert_allclose(data.inputs(data.train_images, np.float64), expected, atol=1e-12)
    found = data.inputs(data.train_images[np.newaxis, 5:9], np.float32)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0], expected[5:9], atol=1e-5)
    constant = [found[0, :, 0, 2, 3], data.inputs(data.test_images, np.float64)[:, 0, 2, 3]]
    if channels == 1:
        np.testing.assert_array_equal(constant[0], 0)
        np.testing.assert_allclose(constant[1], (255 - 7) / 255)


@pytest.mark.parametrize(("channels", "share"), [(1, None), (3, None), (1, 0.5)])
def test_whitened_inputs(channels: int, share: float | None) -> None:
    """What varies most is uncorrelated and of variance 1; the matrix is symmetric, by a formula of its own."""
    images = random_images(channels)
    data = fitted(images_of(images), "whitened", *([] if share is None else [share]))
    x = (images / 255).reshape(len(images), -1)
    x -= x.mean(axis=0)
    covariance = x.T @ x / len(x)
    epsilon = (share or 0.01) * np.trace(covariance) / len(covariance)
    values, vectors = np.linalg.eigh(covariance + epsilon * np.eye(len(covariance)))
    found = data.inputs(data.train_images, np.float64).reshape(x.shape)
    np.testing.assert_allclose(found, x @ vectors @ np.diag(values**-0.5) @ vectors.T, atol=1e-9)
    left = np.cov(found.T, bias=True)
    spread = np.linalg.eigvalsh(covariance)
    np.testing.assert_allclose(np.linalg.eigvalsh(left), spread / (spread + epsilon), atol=1e-9)
    assert data.whitening is not None
    np.testing.assert_allclose(data.whitening, data.whitening.T, atol=1e-12)
    np.testing.assert_allclose(data.inputs(data.train_images[:4], np.float32).reshape(4, -1), found[:4], atol=1e-4)


def test_sums_behind_inputs_are_exact() -> None:
    """Sums of squares of large pixels pass 2^53 once they are multiplied; deviations are right to the last bit."""
    images = np.full((60_000, 3, 4, 4), 255)
    images[0, 1, 0, 0] = 254
    data = fitted(images_of(images), "standardised")
    assert data.mean is not None
    count = 60_000 * 16
    assert data.mean.ravel().tolist() == [255, (255 * count - 1) / count, 255]
    one = math.sqrt(count - 1) / count  # of one value that differs by 1 from all others
    assert np.ravel(data.scale).tolist() == [1 / 255, 1 / one, 1 / 255]


def test_raw_inputs_take_the_data_set_as_it_is() -> None:
    data = images_of(random_images(1))
    assert fitted(data, "raw") is data


def labelled(labels: list[int]) -> Dataset:
    """One pixel for each label, which is the number of the example."""
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return replace(images_of(images), train_labels=np.array(labels, np.uint8))


@pytest.mark.parametrize(
    ("train_examples", "validation", "kept", "held_out"),
    [
        (None, 0, [0, 1, 2, 3, 4, 5, 6, 7], None),
        (8, 0, [0, 1, 2, 3, 4, 5, 6, 7], None),
        (3, 0, [0, 3, 4], None),  # the first of class 0, 1 and 2, and no other has had a turn
        (5, 0, [0, 1, 3, 4, 5], None),
        (None, 3, [1, 2, 5, 6, 7], [0, 3, 4]),
        (2, 3, [1, 5], [0, 3, 4]),
        (None, 7, [7], [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_classes_take_turns_in_what_is_held_out_and_what_is_trained_on(
    train_examples: int | None, validation: int, kept: list[int], held_out: list[int] | None
) -> None:
    data = labelled([2, 2, 2, 0, 1, 0, 2, 2])  # the turns: 3 4 0, 5 1, 2, 6, 7
    found = divided(data, train_examples, validation)
    assert found.train_images.ravel().tolist() == kept
    np.testing.assert_array_equal(found.train_labels, data.train_labels[kept])
    assert (found is data) == (held_out is None and len(kept) == 8)
    held = found.validated()
    assert (held is None) == (held_out is None)
    if held is not None:
        assert held.test_images.ravel().tolist() == held_out
        np.testing.assert_array_equal(held.test_labels, data.train_labels[held_out])


@pytest.mark.parametrize(
    ("train_examples", "validation", "problem"),
    [
        (9, 0, "dataset.train_examples=9: must be at most 8, the training images"),
        (6, 3, "dataset.train_examples=6: must be at most 5, the training images, 3 of 8 being held out"),
        (None, 8, "dataset.validation=8: must be less than 8, the training images"),
    ],
)
def test_more_images_than_there_are(train_examples: int | None, validation: int, problem: str) -> None:
    with pytest.raises(InputError) as error:
        divided(labelled([2, 2, 2, 0, 1, 0, 2, 2]), train_examples, validation)
    assert str(error.value) == problem


def test_inputs_are_fitted_to_what_is_trained_on() -> None:
    data = Digits(binarize=False, inputs="centred", train_examples=500, validation=200).load()
    assert data.mean is not None
    assert data.validation is not None
    np.testing.assert_allclose(data.mean, data.train_images.mean(axis=0), atol=1e-12)
    assert (len(data.train_labels), len(data.validation[1]), len(data.test_labels)) == (500, 200, 355)
    counts = np.bincount(data.train_labels), np.bincount(data.validation[1])
    assert [count.tolist() for count in counts] == [[50] * 10, [20] * 10]
    whole = {image.tobytes() for image in Digits(binarize=False).load().train_images}
    assert {image.tobytes() for image in data.train_images} | {image.tobytes() for image in data.validation[0]} < whole


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


def test_a_fixed_order_repeats_the_first_epoch() -> None:
    orders: list[Order] = ["fixed", "reshuffled"]
    fixed, reshuffled = (list(itertools.islice(minibatches(7, 2, 3, order), 7)) for order in orders)
    np.testing.assert_array_equal(fixed[:3], reshuffled[:3])
    np.testing.assert_array_equal(fixed[3:6], fixed[:3])
    np.testing.assert_array_equal(fixed[6], fixed[0])
    assert not np.array_equal(fixed[3:6], reshuffled[3:6])


def test_with_replacement_an_example_comes_at_any_time() -> None:
    """Twice in a mini-batch, too, and all of them equally often."""
    batches = np.stack(list(itertools.islice(minibatches(5, 4, 0, "replacement"), 2000)))
    assert batches.shape == (2000, 4)
    np.testing.assert_allclose(np.bincount(batches.ravel()) / 8000, 0.2, atol=0.02)
    alike = np.mean([len({*batch}) < 4 for batch in batches.tolist()])
    assert alike == pytest.approx(1 - 5 * 4 * 3 * 2 / 5**4, abs=0.04)


def numbered(count: int, height: int = 16, width: int = 24) -> Any:
    """Images of three channels all of whose pixels differ, none of them 0."""
    one = np.random.default_rng(0).permutation(height * width * 3) % 255 + 1
    return np.tile(one.reshape(3, height, width).astype(np.uint8), (count, 1, 1, 1))


def test_flipped_images() -> None:
    """About half of them, each left to right."""
    images = numbered(400)
    found = augmented(images, ["flip"], np.random.default_rng(1))
    flipped = (found == images[..., ::-1]).all(axis=(1, 2, 3))
    assert ((found == images).all(axis=(1, 2, 3)) ^ flipped).all()
    assert 150 < flipped.sum() < 250
    assert (found.dtype, found.shape) == (np.dtype(np.uint8), images.shape)


def test_cropped_images() -> None:
    """Moved by up to an eighth of each side, all ways alike, with 0 where nothing was."""
    images = numbered(2000)
    found = augmented(images, ["crop"], np.random.default_rng(1))
    seen = {}
    for down, right in itertools.product(range(-2, 3), range(-3, 4)):
        moved = np.roll(images[0], (down, right), axis=(1, 2))
        moved[:, : max(down, 0)] = 0
        moved[:, 16 + min(down, 0) :] = 0
        moved[:, :, : max(right, 0)] = 0
        moved[:, :, 24 + min(right, 0) :] = 0
        seen[down, right] = moved
    counts = [int((found == moved).all(axis=(1, 2, 3)).sum()) for moved in seen.values()]
    assert sum(counts) == 2000
    assert min(counts) > 2000 / 35 / 2


@pytest.mark.parametrize("kinds", [["flip"], ["crop"], ["crop", "flip"]])
def test_augmentation_is_seeded(kinds: list[Augmentation]) -> None:
    images = numbered(30)
    one, same, other = (augmented(images, kinds, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_remainder_varies_from_epoch_to_epoch() -> None:
    """What one epoch leaves out, another holds."""
    seen = np.concatenate(list(itertools.islice(minibatches(7, 4, 0), 20)))
    assert set(seen.tolist()) == set(range(7))


@pytest.mark.parametrize("batch_size", [11, 0, -1])
def test_batch_size_is_checked_by_the_call(batch_size: int) -> None:
    """An error at the first ``next`` would come from deep inside training."""
    with pytest.raises(InputError, match=rf"^train\.batch_size={batch_size}: must be from 1 to 10"):
        minibatches(10, batch_size, 0)
