"""Labelled images in memory, and the seeded stream of mini-batches.

Letters for shapes: N examples, C channels, H W height and width.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import threadpoolctl

from .errors import InputError

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]
Inputs = Literal["raw", "centred", "standardised", "whitened"]
Augmentation = Literal["crop", "flip"]
Order = Literal["reshuffled", "fixed", "replacement"]

WHITENING_EPSILON = 0.01
"""The share of the mean variance of a pixel that is added to every eigenvalue before whitening, by default."""
CROPPED = 8
"""The share of a side by which images are moved at most, as a divisor: by 4 pixels of 32, as is usual on CIFAR-10."""
AT_ONCE = 1024
"""The images that are converted at once where all are needed."""

POPULATION_BATCHES = 50
"""Training mini-batches behind the population statistics of Algorithm 2, or as many as the data set has."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, kept as uint8 so that all workers can share one small, memory-mapped copy.

    Attributes:
        train_images: (N, C, H, W), uint8.
        train_labels: (N,), uint8, from 0 to ``classes`` - 1.
        test_images: (N', C, H, W), uint8.
        test_labels: (N',), uint8.
        classes: number of classes K.
        scale: factor of pixels, a number or an array that is broadcast along (C, H, W).
        mean: what is subtracted from pixels first, likewise; None for nothing.
        whitening: (C H W, C H W), the symmetric matrix that pixels are multiplied by at last; None for none.
        validation: images and labels that are held out from training, as those to test on; None if none are.
        augmentation: what is done to the images of every mini-batch that is trained on, by :func:`augmented`.
    """

    train_images: ByteArray
    train_labels: ByteArray
    test_images: ByteArray
    test_labels: ByteArray
    classes: int
    scale: float | FloatArray
    mean: FloatArray | None = None
    whitening: FloatArray | None = None
    validation: tuple[ByteArray, ByteArray] | None = None
    augmentation: tuple[Augmentation, ...] = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of one image, (C, H, W)."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width

    def inputs(self, images: ByteArray, dtype: npt.DTypeLike) -> FloatArray:
        """Return images (…, C, H, W) as a network takes them, in ``dtype``: per mini-batch, never for a whole set."""
        if self.mean is None:
            return images.astype(dtype) if self.scale == 1 else np.multiply(images, self.scale, dtype=dtype)
        x: FloatArray = np.subtract(images, self.mean, dtype=dtype)
        np.multiply(x, self.scale, out=x, dtype=dtype)
        if self.whitening is None:
            return x
        # A product for each run and mini-batch: its bits do not depend on what else is whitened at once.
        flat: FloatArray = np.matmul(x.reshape(*x.shape[:-3], -1), _whitening(self, np.dtype(dtype)))
        return flat.reshape(x.shape)

    def validated(self) -> Dataset | None:
        """Return a data set to test on the images held out, if there are any."""
        if self.validation is None:
            return None
        images, labels = self.validation
        return replace(self, train_images=self.train_images[:0], test_images=images, test_labels=labels)


@functools.lru_cache(maxsize=2)  # the groups that a worker trains mostly have one data set
def _whitening(data: Dataset, dtype: np.dtype[Any]) -> FloatArray:
    assert data.whitening is not None
    return data.whitening.astype(dtype)


def fitted(data: Dataset, inputs: Inputs, epsilon: float = WHITENING_EPSILON) -> Dataset:
    """Return the data set with inputs normalised by statistics of its training images, which stay as they are.

    - centred: the mean is subtracted, of each pixel of grey images, of each channel of colour images.
    - standardised: likewise, and divided by the standard deviation. Sums are exact, of integers, so that mean and
      deviation have the same bits on every machine. What is constant is divided by 1.
    - whitened: each pixel has mean 0, and all together are multiplied by (Σ + ε I)^(−1/2), which keeps them as near as
      possible to what they were (ZCA; Bell & Sejnowski 1997). Σ is their covariance and ε is ``epsilon`` times the mean
      of its diagonal: directions of less variance stay small. The root is LAPACK's, whose last bits differ between
      machines.

    Args:
        data: with raw inputs, scaled by a number.
        inputs: "raw" leaves them as they are.
        epsilon: of whitened inputs.
    """
    if inputs == "raw":
        return data
    sums, squares = _sums(data.train_images)
    count = len(data.train_images)
    if inputs == "whitened":
        mean, _ = _moments(sums, squares, count)
        return replace(data, mean=mean, whitening=_zca(data.train_images, sums, float(data.scale), epsilon))
    if len(sums) > 1:
        sums, squares = sums.sum(axis=(1, 2), keepdims=True), squares.sum(axis=(1, 2), keepdims=True)
        count *= math.prod(data.image_shape[1:])
    mean, deviation = _moments(sums, squares, count)
    if inputs == "centred":
        return replace(data, mean=mean)
    varies = deviation > 0
    return replace(data, mean=mean, scale=np.divide(1, deviation, out=np.full_like(mean, data.scale), where=varies))


def _sums(images: ByteArray) -> tuple[IntArray, IntArray]:
    """Return the sum of each pixel over all images and that of its squares, (C, H, W)."""
    sums, squares = np.zeros((2, *images.shape[1:]), np.int64)
    for start in range(0, len(images), AT_ONCE):
        part = images[start : start + AT_ONCE].astype(np.int64)
        sums += part.sum(axis=0)
        squares += np.square(part).sum(axis=0)
    return sums, squares


def _moments(sums: IntArray, squares: IntArray, count: int) -> tuple[FloatArray, FloatArray]:
    """Return mean and standard deviation, from sums over ``count`` values each.

    Python's integers are exact, and rounded once.
    """
    pairs = [(s, q) for s, q in zip(sums.ravel().tolist(), squares.ravel().tolist(), strict=True)]
    mean = np.array([s / count for s, _ in pairs])
    deviation = np.array([math.sqrt(count * q - s * s) / count for s, q in pairs])
    return mean.reshape(sums.shape), deviation.reshape(sums.shape)


def _zca(images: ByteArray, sums: IntArray, scale: float, epsilon: float) -> FloatArray:
    """Return the matrix that whitens pixels times ``scale`` from which the mean is subtracted."""
    rows, total = images.reshape(len(images), -1), sums.ravel().astype(float)
    products = np.zeros((rows.shape[1],) * 2)
    with threadpoolctl.threadpool_limits(1, user_api="blas"):  # on whose number the bits of the root depend
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE].astype(float)
            products += part.T @ part  # exact: integers below 2^53
        covariance = (len(rows) * products - np.outer(total, total)) * (scale / len(rows)) ** 2
        values, vectors = np.linalg.eigh(covariance)
        root: FloatArray = (vectors / np.sqrt(values.clip(0) + epsilon * values.mean())) @ vectors.T
    return root


class Source(Protocol):
    """A place that a data set comes from; a dataclass whose fields are settings."""

    @abstractmethod
    def load(self) -> Dataset:
        """Return the data set.

        Raises:
            InputError: if it can't be had.
        """
        ...


def every_fifth_of_a_class(labels: ByteArray) -> BoolArray:
    """Tell which examples are for the test, (N,): within each of 10 classes every fifth, from the fifth on."""
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return test


def divided(data: Dataset, train_examples: int | None, validation: int) -> Dataset:
    """Return the data set with some of its training images held out, and so many of the others to train on, or all.

    Classes take turns, each from its first image on: these are held out, and the next ones trained on, in the order in
    which they were. So the choice is as balanced as the classes are, no random number decides it, and a smaller
    training set is part of a larger one.

    Raises:
        InputError: there are not so many.
    """
    count = len(data.train_labels)
    if validation >= count:
        raise InputError(f"dataset.validation={validation}: must be less than {count}, the training images")
    left = count - validation
    if train_examples is not None and train_examples > left:
        held_out = f", {validation} of {count} being held out" if validation else ""
        told = f"must be at most {left}, the training images{held_out}"
        raise InputError(f"dataset.train_examples={train_examples}: {told}")
    if validation == 0 and train_examples in (None, count):
        return data
    in_turn, until = _in_turn(data.train_labels), validation + (train_examples or left)
    images, labels = data.train_images, data.train_labels
    held, kept = np.sort(in_turn[:validation]), np.sort(in_turn[validation:until])
    return replace(
        data,
        train_images=images[kept],
        train_labels=labels[kept],
        validation=(images[held], labels[held]) if validation else None,
    )


def _in_turn(labels: ByteArray) -> IntArray:
    """Return the indices of the first example of each class, then of the second of each, and so on."""
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        rank[of_class] = np.arange(len(of_class))
    return np.lexsort((labels, rank))


def labelled_images(arrays: Sequence[ByteArray], maximum: int, *, binarize: bool) -> Dataset:
    """Make a data set of 10 classes.

    Args:
        arrays: training images (N, C, H, W), training labels (N,), test images (N', C, H, W), test labels (N',).
        maximum: pixels lie between 0 and this.
        binarize: whether pixels become 0 or 1, with 1 from half of the maximum up.
    """
    half = (maximum + 1) // 2  # an integer: comparing with 127.5 would go through float64

    def pixels(images: ByteArray) -> ByteArray:
        return (images >= half).view(np.uint8) if binarize else images

    train, train_labels, test, test_labels = arrays
    return Dataset(
        train_images=pixels(train),
        train_labels=train_labels,
        test_images=pixels(test),
        test_labels=test_labels,
        classes=10,
        scale=1.0 if binarize else 1 / maximum,
    )


def augmented(images: ByteArray, kinds: Sequence[Augmentation], rng: np.random.Generator) -> ByteArray:
    """Return images (N, C, H, W), each changed at random as training on more images would have it.

    - flip: mirrored left to right, with probability ½.
    - crop: moved up or down, and left or right, by up to an eighth of its side, with 0 where nothing was.
    """
    if "flip" in kinds:
        images = np.where(rng.random(len(images))[:, None, None, None] < 0.5, images[..., ::-1], images)
    if "crop" in kinds:
        count, _, height, width = images.shape
        most = height // CROPPED, width // CROPPED
        padded = np.pad(images, ((0, 0), (0, 0), *((n, n) for n in most)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(2, 3))
        down, right = (rng.integers(0, 2 * n + 1, count) for n in most)
        images = windows[np.arange(count), :, down, right]
    return images


def minibatches(
    examples: int, batch_size: int, seed: int | np.random.SeedSequence, order: Order = "reshuffled"
) -> Iterator[IntArray]:
    """Return an endless stream of mini-batches, drawn without replacement within an epoch unless order says so.

    Every epoch is a permutation cut into ``examples // batch_size`` mini-batches; the remainder of
    the epoch is left out, so that every mini-batch has the same size.

    Args:
        examples: number of training examples N.
        batch_size: examples per mini-batch.
        seed: the stream is the same for the same seed.
        order: "reshuffled", a fresh permutation in every epoch; "fixed", the first one again and again: the same
            mini-batches in the same order; "replacement", no epochs: each example is drawn from all.

    Returns:
        Iterator over arrays of (batch_size,) indices from 0 to N - 1.

    Raises:
        InputError: batch_size is not in 1 … N (raised by the call, not by the first ``next``).
    """
    if not 1 <= batch_size <= examples:
        raise InputError(f"train.batch_size={batch_size}: must be from 1 to {examples}, the training examples")
    rng = np.random.default_rng(seed)

    def stream() -> Iterator[IntArray]:
        used = examples - examples % batch_size
        while order == "replacement":
            yield rng.integers(0, examples, batch_size)
        epoch = rng.permutation(examples)
        while True:
            yield from epoch[:used].reshape(-1, batch_size)
            if order == "reshuffled":
                epoch = rng.permutation(examples)

    return stream()


def training_batches(data: Dataset, size: int, dtype: npt.DTypeLike) -> Iterator[FloatArray]:
    """Yield the mini-batches (1, N, C, H, W) of population statistics, from a stream that is the same for all runs."""
    count = len(data.train_labels)
    for batch in itertools.islice(minibatches(count, size, 0), min(POPULATION_BATCHES, count // size)):
        yield data.inputs(data.train_images[None, batch], dtype)


def evenly(count: int, wanted: int) -> IntArray:
    """Return the indices of ``wanted`` of ``count`` examples, evenly spaced, or of all."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(int)
