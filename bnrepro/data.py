"""Data sets of images, and the seeded stream of mini-batches.

Letters for shapes: N examples, C channels, H W height and width.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


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
        """Shape of one image, (C, H, W)."""
        _, channels, height, width = self.train_images.shape
        return channels, height, width


def to_float(images: ByteArray, scale: float, dtype: npt.DTypeLike) -> FloatArray:
    """Return images times scale in ``dtype``, same shape: done per mini-batch, never for a whole set."""
    return images.astype(dtype) if scale == 1 else np.multiply(images, scale, dtype=dtype)


@dataclass(frozen=True)
class Digits:
    """The 1,797 digits of 8 by 8 pixels from 0 to 16 that come with scikit-learn: no download.

    The split is fixed and draws no random numbers, so no library version can change it: within each class
    every fifth image goes to the test set. That gives 1,442 training and 355 test images. The digits come
    from several writers and both parts see all of them, so accuracy says nothing about an unseen writer.

    Attributes:
        binarize: pixels become 0 or 1, with 1 from half of the maximum (8) up. The paper uses binary
            images but does not say how they become so.
    """

    binarize: bool

    def load(self) -> Dataset:
        """Return the data set, with images of (1, 8, 8)."""
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        digits = load_digits()
        images = digits.images.astype(np.uint8)
        labels = digits.target.astype(np.uint8)
        test = np.zeros(len(labels), dtype=bool)
        for label in range(10):
            test[np.flatnonzero(labels == label)[4::5]] = True
        arrays = images[~test], labels[~test], images[test], labels[test]
        return _dataset(arrays, 16, binarize=self.binarize)


@dataclass(frozen=True)
class IDX:
    """Ten classes of grey images in four IDX files, as MNIST is published.

    Where the files lie is not part of what a run is, so only ``name`` and ``binarize`` are compared.

    Attributes:
        name: name of the data set, and of its folder in the cache.
        binarize: pixels become 0 or 1, with 1 from half of the maximum (128) up. The paper uses binary
            images but does not say how they become so.
        root: folder with the four files, raw or .gz (raw wins); None downloads them into the user's cache.
        mirrors: addresses of folders that hold the four files as .gz, tried in order.
        sha256: digests of the uncompressed files in the order of ``IDX_FILES``; None checks structure only.
        sha256_gz: digests of the .gz files as the mirrors serve them, same order; checked on download but
            not under ``root``, whose files may have been compressed anew. None leaves them unchecked.
    """

    name: str
    binarize: bool
    root: str | None = field(compare=False)
    mirrors: list[str] = field(compare=False)
    sha256: list[str] | None = field(compare=False)
    sha256_gz: list[str] | None = field(compare=False)

    def load(self) -> Dataset:
        """Read and check the four files, downloading them first if need be.

        Returns:
            The data set, with images of (1, H, W).

        Raises:
            InputError: a file is missing, unreadable, damaged, or at odds with its digest or with the
                other files; or no mirror serves it; or the cache can't be written.
        """
        for key, digests in ("sha256", self.sha256), ("sha256_gz", self.sha256_gz):
            if digests is not None and len(digests) != len(IDX_FILES):
                raise InputError(f"dataset.{key}: {len(digests)} digests; it takes null or one for each of 4 files")

        contents, arrays = [], []
        for index, file in enumerate(IDX_FILES):
            path = self._download(index) if self.root is None else self._find(file)
            try:
                content = path.read_bytes()
                if path.suffix == ".gz":
                    content = gzip.decompress(content)
                arrays.append(_parse_idx(content, dimensions=3 if "images" in file else 1))
            except (OSError, EOFError, zlib.error, ValueError) as error:
                raise self._error(f"{path.name}: {_reason(error)}") from error
            contents.append(content)

        train_images, train_labels, test_images, test_labels = arrays
        for part, images, labels in ("train", train_images, train_labels), ("t10k", test_images, test_labels):
            if len(images) != len(labels):
                raise self._error(f"{len(images)} images but {len(labels)} labels in the {part} files")
            if labels.max() > 9:
                raise self._error(f"label {labels.max()} in the {part} file, where labels are 0 to 9")
        if train_images.shape[1:] != test_images.shape[1:]:
            raise self._error(f"train images of {train_images.shape[1:]}, t10k of {test_images.shape[1:]}")
        if self.sha256 is not None:  # last, because a digest does not say what is wrong with a file
            for file, content, expected in zip(IDX_FILES, contents, self.sha256, strict=True):
                digest = hashlib.sha256(content).hexdigest()
                if digest != expected.lower():
                    raise self._error(f"{file}: SHA-256 is {digest}, not {expected} as in dataset.sha256")
        return _dataset(arrays, 255, binarize=self.binarize)

    def _folder(self) -> Path:
        """The folder in which the files lie, or will."""
        if self.root is not None:
            return Path(self.root).expanduser()
        import pooch  # type: ignore[import-untyped]

        return Path(pooch.os_cache("bnrepro")) / self.name

    def _error(self, problem: str) -> InputError:
        if self.root is None:
            return InputError(f"dataset.root=null: {problem}; delete {self._folder()} to download it again")
        return InputError(
            f"dataset.root={self.root}: {problem}; it needs the four IDX files of {self.name}, raw or .gz"
        )

    def _find(self, file: str) -> Path:
        """Return the path of a file under ``root``, raw or .gz."""
        try:
            folder = self._folder()
            if not folder.is_dir():
                raise self._error("no such folder")
            for path in folder / file, folder / f"{file}.gz":
                if path.is_file():
                    return path
        except (OSError, RuntimeError) as error:  # RuntimeError: ~user without a home
            raise self._error(_reason(error)) from error
        raise self._error(f"no file {file} or {file}.gz there")

    def _download(self, index: int) -> Path:
        """Return the path of a .gz file in the cache, downloaded unless a good copy is already there."""
        import pooch

        pooch.get_logger().setLevel(logging.WARNING)
        file, folder, reasons = f"{IDX_FILES[index]}.gz", self._folder(), []
        known_hash = self.sha256_gz and self.sha256_gz[index]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for mirror in self.mirrors:
                try:
                    url, bar = f"{mirror.rstrip('/')}/{file}", sys.stderr.isatty()
                    return Path(pooch.retrieve(url, known_hash, file, folder, progressbar=bar))
                except PermissionError:  # the cache's fault, not the mirror's
                    raise
                except (OSError, ValueError) as error:
                    reasons.append(f"{mirror} ({_reason(error)})")
        except OSError as error:
            raise InputError(
                f"dataset.root=null: can't write the cache {folder} ({_reason(error)}); "
                "set dataset.root=FOLDER to use files on disk"
            ) from error
        raise InputError(
            f"dataset.root=null: no mirror gave {file}: {', '.join(reasons) or 'dataset.mirrors is empty'}; "
            "set dataset.root=FOLDER to use files on disk"
        )


DATASETS: dict[str, type[Digits] | type[IDX]] = {"digits": Digits, "mnist": IDX, "fashion_mnist": IDX}


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


def _dataset(arrays: Sequence[ByteArray], maximum: int, *, binarize: bool) -> Dataset:
    """Make a data set of 10 classes from images (N, H, W) and labels (N,) in the order of ``IDX_FILES``.

    Pixels lie between 0 and ``maximum``.
    """
    half = (maximum + 1) // 2  # an integer: comparing with 127.5 would go through float64

    def pixels(images: ByteArray) -> ByteArray:
        return (images >= half).view(np.uint8) if binarize else images

    train, train_labels, test, test_labels = arrays
    return Dataset(
        train_images=pixels(train)[:, np.newaxis],
        train_labels=train_labels,
        test_images=pixels(test)[:, np.newaxis],
        test_labels=test_labels,
        classes=10,
        scale=1.0 if binarize else 1 / maximum,
    )


def _parse_idx(content: bytes, *, dimensions: int) -> ByteArray:
    """Return the array in the bytes of an IDX file.

    The header is two zero bytes, the type code, the number of dimensions, and each dimension as a
    big-endian uint32; the values follow in C order.

    Raises:
        ValueError: the bytes are not a whole IDX file of uint8 in ``dimensions`` dimensions.
    """
    header = 4 + 4 * dimensions
    if content[:2] != b"\0\0":
        raise ValueError("not an IDX file, which starts with two zero bytes")
    if content[2:3] != b"\x08":
        raise ValueError(f"type code 0x{content[2:3].hex()}, not 0x08 (uint8)")
    if content[3:4] != bytes([dimensions]):
        raise ValueError(f"{int.from_bytes(content[3:4])} dimensions, not {dimensions}")
    if len(content) < header:
        raise ValueError(f"ends inside its header of {header} bytes")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, offset=4).tolist())
    if 0 in shape:
        raise ValueError(f"no examples: its header says {shape}")
    if len(content) - header != math.prod(shape):
        raise ValueError(f"{len(content) - header} bytes of values where its header says {shape}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _reason(error: BaseException) -> str:
    """Return one line for the innermost error: a refused connection comes wrapped in three others."""
    while error.__context__ is not None:
        error = error.__context__
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).partition(". ")[0]
