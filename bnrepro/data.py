"""Labelled images in memory, and the seeded stream of mini-batches.

Letters for shapes: N examples, C channels, H W height and width.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .errors import InputError

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

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
        scale: pixel value times scale is in [0, 1].
    """

    train_images: ByteArray
    train_labels: ByteArray
    test_images: ByteArray
    test_labels: ByteArray
    classes: int
    scale: float

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of one image, (C, H, W)."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width


def to_float(images: ByteArray, scale: float, dtype: npt.DTypeLike) -> FloatArray:
    """Return images times scale in ``dtype``, same shape: done per mini-batch, never for a whole set."""
    return images.astype(dtype) if scale == 1 else np.multiply(images, scale, dtype=dtype)


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


def minibatches(examples: int, batch_size: int, seed: int | np.random.SeedSequence) -> Iterator[IntArray]:
    """Return an endless stream of mini-batches, drawn without replacement within an epoch.

    Every epoch is a fresh permutation cut into ``examples // batch_size`` mini-batches; the remainder of
    the epoch is left out, so that every mini-batch has the same size.

    Args:
        examples: number of training examples N.
        batch_size: examples per mini-batch.
        seed: the stream is the same for the same seed.

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
        while True:
            yield from rng.permutation(examples)[:used].reshape(-1, batch_size)

    return stream()


def training_batches(data: Dataset, size: int, dtype: npt.DTypeLike) -> Iterator[FloatArray]:
    """Yield the mini-batches (1, N, C, H, W) of population statistics, from a stream that is the same for all runs."""
    count = len(data.train_labels)
    for batch in itertools.islice(minibatches(count, size, 0), min(POPULATION_BATCHES, count // size)):
        yield to_float(data.train_images[None, batch], data.scale, dtype)


def evenly(count: int, wanted: int) -> IntArray:
    """Return the indices of ``wanted`` of ``count`` examples, evenly spaced, or of all."""
    return np.linspace(0, count - 1, min(wanted, count)).astype(int)
