"""Where data sets come from: files of several formats, downloads, and the digits that come with scikit-learn.

Letters for shapes: N examples, C channels, H W height and width.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import math
import sys
import zlib
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from .data import ByteArray, Dataset, Source, every_fifth_of_a_class, labelled_images
from .errors import InputError
from .settings import Setting, Table

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

PUBLISHED = {
    "mnist": [
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ],
    "fashion_mnist": [
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ],
}
"""The SHA-256 of the uncompressed files, in the order of ``IDX_FILES``, by the name of the data set."""

WHERE = Setting(identity=False)


@dataclass(frozen=True)
class Digits(Source):
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
        package = find_spec("sklearn")
        assert package
        (folder,) = package.submodule_search_locations or []
        # The file that its load_digits reads; importing that takes longer than all else before the first step.
        table = np.loadtxt(Path(folder) / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
        images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
        test = every_fifth_of_a_class(labels)
        arrays = images[~test], labels[~test], images[test], labels[test]
        return labelled_images(arrays, 16, binarize=self.binarize)


@dataclass(frozen=True)
class IDX(Source):
    """Ten classes of grey images in four IDX files, as MNIST is published.

    Where the files lie is not part of what a run is, but that they are not the published ones is.

    Attributes:
        name: name of the data set, and of its folder in the cache.
        binarize: pixels become 0 or 1, with 1 from half of the maximum (128) up. The paper uses binary
            images but does not say how they become so.
        root: folder with the four files, raw or .gz (raw wins), named as published or with a dot as some mirrors
            name them (``train-images.idx3-ubyte``); None downloads them into the user's cache.
        mirrors: addresses of folders that hold the four files as .gz, tried in order.
        sha256_gz: digests of the .gz files as the mirrors serve them, same order; checked on download but
            not under ``root``, whose files may have been compressed anew. None leaves them unchecked.
        sha256: digests of the uncompressed files in the order of ``IDX_FILES``; None takes what files there are.
    """

    name: str
    binarize: bool
    root: Annotated[str | None, WHERE]
    mirrors: Annotated[list[str], WHERE]
    sha256_gz: Annotated[list[str] | None, WHERE]
    sha256: list[str] | Literal["published"] | None = "published"

    def pinned(self) -> IDX:
        """Return the set with the digests that tell its files from others: "published", or a list.

        Where ``sha256`` is None they are those of the files as they are now.

        Raises:
            InputError: these can't be read or had; or digests are given in a wrong number, or none are known.
        """
        digests = self._digests() or [_sha256(self._read(index)[1]) for index in range(len(IDX_FILES))]
        return replace(self, sha256="published" if digests == PUBLISHED.get(self.name) else digests)

    def _digests(self) -> list[str] | None:
        """Return the digests that the files must have, if any."""
        for key, digests in ("sha256", self.sha256), ("sha256_gz", self.sha256_gz):
            if isinstance(digests, list) and len(digests) != len(IDX_FILES):
                raise InputError(f"dataset.{key}: {len(digests)} digests; it takes null or one for each of 4 files")
        if self.sha256 != "published":
            return self.sha256 and [digest.lower() for digest in self.sha256]
        if self.name not in PUBLISHED:
            raise InputError(f"dataset.sha256=published: known of {', '.join(PUBLISHED)}, not of {self.name}")
        return PUBLISHED[self.name]

    def load(self) -> Dataset:
        """Read and check the four files, downloading them first if need be.

        Returns:
            The data set, with images of (1, H, W).

        Raises:
            InputError: a file is missing, unreadable, damaged, or at odds with its digest or with the
                other files; or no mirror serves it; or the cache can't be written.
        """
        digests = self._digests()
        contents, arrays = [], []
        for index, file in enumerate(IDX_FILES):
            path, content = self._read(index)
            try:
                arrays.append(_parse_idx(content, dimensions=3 if "images" in file else 1))
            except ValueError as error:
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
        if digests:  # last, because a digest does not say what is wrong with a file
            for file, content, expected in zip(IDX_FILES, contents, digests, strict=True):
                if (digest := _sha256(content)) != expected:
                    raise self._error(f"{file}: SHA-256 is {digest}, not {expected} as in dataset.sha256")
        return labelled_images(arrays, 255, binarize=self.binarize)

    def _read(self, index: int) -> tuple[Path, bytes]:
        """Return the path of a file, downloaded if need be, and its content, uncompressed."""
        path = self._download(index) if self.root is None else self._find(IDX_FILES[index])
        try:
            content = path.read_bytes()
            return path, gzip.decompress(content) if path.suffix == ".gz" else content
        except (OSError, EOFError, zlib.error) as error:
            raise self._error(f"{path.name}: {_reason(error)}") from error

    def _folder(self) -> Path:
        """Return the folder in which the files lie, or will."""
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
            dotted = file.replace("-idx", ".idx")
            for name in file, dotted, f"{file}.gz", f"{dotted}.gz":
                if (folder / name).is_file():
                    return folder / name
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


DATASETS = Table({"digits": Digits, "mnist": IDX, "fashion_mnist": IDX}, base=Source)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


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
