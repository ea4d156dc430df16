"""Where data sets come from: files of several formats, downloads, and the digits that come with scikit-learn.

Letters for shapes: N examples, C channels, H W height and width.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import math
import sys
import tarfile
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .data import (
    WHITENING_EPSILON,
    Augmentation,
    ByteArray,
    Dataset,
    Inputs,
    Source,
    divided,
    every_fifth_of_a_class,
    fitted,
    labelled_images,
)
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

CIFAR10_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
CIFAR10_FOLDER = "cifar-10-batches-bin"
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
"""The MD5 of the archive that its page states."""
CIFAR10_SUMS = [[6415714204, 6295060180, 5829907619], [1290492328, 1266775083, 1176108223]]
"""The sums of all pixels per channel, of the published training and test images: the well-known means times N H W."""
CIFAR10_RECORDS = 10_000
"""The examples in each of the six files."""
CIFAR10_SHAPE = (3, 32, 32)

WHERE = Setting(identity=False)


@dataclass(frozen=True, kw_only=True)
class Images(Source):
    """Base of the project's own data sets: the settings that all of them have.

    Attributes:
        binarize: pixels become 0 or 1, with 1 from half of the maximum up. The paper uses binary images but does not
            say how they become so.
        inputs: pixels from 0 to 1 as they are, or normalised by :func:`bnrepro.data.fitted`.
        whitening_epsilon: what is added to eigenvalues before pixels are whitened, as a share of their mean.
        train_examples: how many of the training images are trained on, by :func:`bnrepro.data.divided`; None for all.
        validation: how many of the training images are held out, likewise, and the accuracy measured on in the end.
        augmentation: what is done to the images of a mini-batch, by :func:`bnrepro.data.augmented`.
    """

    binarize: bool
    inputs: Inputs = "raw"
    whitening_epsilon: Annotated[float, Field(gt=0)] = WHITENING_EPSILON
    train_examples: Annotated[int, Field(gt=0, strict=True)] | None = None
    validation: Annotated[int, Field(ge=0, strict=True)] = 0
    augmentation: list[Augmentation] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Sort what is done to images, which has an order of its own.

        Raises:
            ValueError: ε is given, and inputs are not whitened.
        """
        if self.whitening_epsilon != WHITENING_EPSILON and self.inputs != "whitened":
            raise ValueError(f"whitening_epsilon={self.whitening_epsilon}: only with dataset.inputs=whitened")
        object.__setattr__(self, "augmentation", sorted({*self.augmentation}))

    def prepared(self, arrays: Sequence[ByteArray], maximum: int) -> Dataset:
        """Return the data set that :func:`bnrepro.data.labelled_images` makes of arrays, as the settings have it."""
        data = labelled_images(arrays, maximum, binarize=self.binarize)
        fewer = divided(data, self.train_examples, self.validation)
        return replace(fitted(fewer, self.inputs, self.whitening_epsilon), augmentation=tuple(self.augmentation))


@dataclass(frozen=True, kw_only=True)
class Digits(Images):
    """The 1,797 digits of 8 by 8 pixels from 0 to 16 that come with scikit-learn: no download.

    The split is fixed and draws no random numbers, so no library version can change it: within each class
    every fifth image goes to the test set. That gives 1,442 training and 355 test images. The digits come
    from several writers and both parts see all of them, so accuracy says nothing about an unseen writer.
    """

    def load(self) -> Dataset:
        """Return the data set, with images of (1, 8, 8)."""
        package = find_spec("sklearn")
        assert package
        (folder,) = package.submodule_search_locations or []
        # The file that its load_digits reads; importing that takes longer than all else before the first step.
        table = np.loadtxt(Path(folder) / "datasets" / "data" / "digits.csv.gz", np.uint8, delimiter=",")
        images, labels = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1]
        test = every_fifth_of_a_class(labels)
        arrays = images[~test], labels[~test], images[test], labels[test]
        return self.prepared(arrays, 16)


@dataclass(frozen=True, kw_only=True)
class Files(Images):
    """Ten classes of images in files, which are downloaded unless a folder has them.

    Where the files lie is not part of what a run is, but that they are not the published ones is.

    Attributes:
        name: name of the data set, and of its folder in the cache.
        root: folder with the files; None downloads them into the user's cache.
        mirrors: addresses of folders that hold what is downloaded, tried in order.
    """

    name: str
    root: Annotated[str | None, WHERE]
    mirrors: Annotated[list[str], WHERE]

    @property
    @abstractmethod
    def needed(self) -> str:
        """Say which files the set is made of."""
        ...

    @abstractmethod
    def pinned(self) -> Files:
        """Return the set with the digests that tell its files from others, unless they are the published ones.

        Raises:
            InputError: these can't be read or had; or digests are given in a wrong number, or none are known.
        """
        ...

    def _folder(self) -> Path:
        """Return the folder in which the files lie, or will."""
        if self.root is not None:
            return Path(self.root).expanduser()
        import pooch  # type: ignore[import-untyped]

        return Path(pooch.os_cache("bnrepro")) / self.name

    def _error(self, problem: str) -> InputError:
        if self.root is None:
            return InputError(f"dataset.root=null: {problem}; delete {self._folder()} to download it again")
        return InputError(f"dataset.root={self.root}: {problem}; it needs {self.needed}")

    def _find(self, *names: str) -> Path | None:
        """Return the path of the first of these files that is under ``root``."""
        try:
            folder = self._folder()
            if not folder.is_dir():
                raise self._error("no such folder")
            return next((folder / name for name in names if (folder / name).is_file()), None)
        except (OSError, RuntimeError) as error:  # RuntimeError: ~user without a home
            raise self._error(_reason(error)) from error

    def _check(self, files: Sequence[str], contents: Sequence[bytes], digests: Sequence[str]) -> None:
        """Check that the contents have these digests."""
        for file, content, expected in zip(files, contents, digests, strict=True):
            if (digest := _sha256(content)) != expected:
                raise self._error(f"{file}: SHA-256 is {digest}, not {expected} as in dataset.sha256")

    def _download(self, file: str, known_hash: str | None) -> Path:
        """Return the path of a file in the cache, downloaded unless a good copy is already there."""
        import pooch

        pooch.get_logger().setLevel(logging.WARNING)
        folder, reasons = self._folder(), []
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


@dataclass(frozen=True, kw_only=True)
class IDX(Files):
    """Ten classes of grey images in four IDX files, as MNIST is published.

    Under ``root`` they are raw or .gz (raw wins), named as published or with a dot as some mirrors name them
    (``train-images.idx3-ubyte``).

    Attributes:
        sha256_gz: digests of the .gz files as the mirrors serve them, in the order of ``IDX_FILES``; checked on
            download but not under ``root``, whose files may have been compressed anew. None leaves them unchecked.
        sha256: digests of the uncompressed files, same order; None takes what files there are.
    """

    sha256_gz: Annotated[list[str] | None, WHERE]
    sha256: list[str] | Literal["published"] | None = "published"

    @property
    def needed(self) -> str:
        """Say which files the set is made of."""
        return f"the four IDX files of {self.name}, raw or .gz"

    def pinned(self) -> IDX:
        """Return the set with ``sha256`` "published", or a list: that of the files as they are now, if it was None."""
        digests = self._digests() or [_sha256(self._read(index)[1]) for index in range(len(IDX_FILES))]
        return replace(self, sha256="published" if digests == PUBLISHED.get(self.name) else digests)

    def _digests(self) -> list[str] | None:
        """Return the digests that the files must have, if any."""
        _check_digests(sha256=self.sha256, sha256_gz=self.sha256_gz, files=IDX_FILES)
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
            self._check(IDX_FILES, contents, digests)
        train_images, test_images = train_images[:, np.newaxis], test_images[:, np.newaxis]
        return self.prepared((train_images, train_labels, test_images, test_labels), 255)

    def _read(self, index: int) -> tuple[Path, bytes]:
        """Return the path of a file, downloaded if need be, and its content, uncompressed."""
        file = IDX_FILES[index]
        if self.root is None:
            path: Path | None = self._download(f"{file}.gz", self.sha256_gz[index] if self.sha256_gz else None)
        else:
            dotted = file.replace("-idx", ".idx")
            path = self._find(file, dotted, f"{file}.gz", f"{dotted}.gz")
        if path is None:
            raise self._error(f"no file {file} or {file}.gz there")
        try:
            content = path.read_bytes()
            return path, gzip.decompress(content) if path.suffix == ".gz" else content
        except (OSError, EOFError, zlib.error) as error:
            raise self._error(f"{path.name}: {_reason(error)}") from error


@dataclass(frozen=True, kw_only=True)
class CIFAR10(Files):
    """Ten classes of colour images of 32 by 32 pixels: the binary version of CIFAR-10, six files in an archive.

    Under ``root`` lies the archive, or the six files, in a folder ``cifar-10-batches-bin`` or not (files win). A record
    of a file is a byte of label and 3,072 of pixels: the red, the green and the blue plane, rows first.

    Attributes:
        verify: whether the images must be the published ones. The archive must then have the published MD5. No digests
            of single files are published, so of these are checked: 10,000 examples in each file, as many of each class,
            and the sum of all pixels per channel, in training and in test images; not the order of the images.
        sha256: digests of the six files, training first, if the images are not the published ones and ``verify`` is
            false; None takes what files there are.
    """

    verify: Annotated[bool, WHERE]
    sha256: list[str] | None = None

    @property
    def needed(self) -> str:
        """Say which files the set is made of."""
        return f"{CIFAR10_ARCHIVE}, or the six .bin files in it"

    def pinned(self) -> CIFAR10:
        """Return the set with ``sha256`` None if the images are, or must be, the published ones."""
        _check_digests(sha256=self.sha256, files=CIFAR10_FILES)
        if self.verify and self.sha256 is not None:
            raise InputError("dataset.sha256: needs dataset.verify=false, as the published images have no such digests")
        if self.verify:
            return self
        if self.sha256 is not None:
            return replace(self, sha256=[digest.lower() for digest in self.sha256])
        contents = self._contents()
        published = not _unlike_published(self._arrays(contents))
        return replace(self, sha256=None if published else [_sha256(content) for content in contents])

    def load(self) -> Dataset:
        """Read and check the files, downloading the archive first if need be.

        Returns:
            The data set, with images of (3, 32, 32).

        Raises:
            InputError: a file is missing, unreadable, damaged, or not the published one and these are asked for; or no
                mirror serves the archive; or the cache can't be written.
        """
        contents = self._contents()
        arrays = self._arrays(contents)
        if self.verify and (problem := _unlike_published(arrays)):
            raise self._error(f"not the published images ({problem}); dataset.verify=false takes them")
        if self.sha256:
            self._check(CIFAR10_FILES, contents, self.sha256)
        return self.prepared(arrays, 255)

    def _contents(self) -> list[bytes]:
        """Return the content of the six files, from the archive or not."""
        if self.root is None:
            return self._unpack(self._download_archive())
        found = [self._find(file, f"{CIFAR10_FOLDER}/{file}") for file in CIFAR10_FILES]
        if any(found):
            return [self._read(path, file) for path, file in zip(found, CIFAR10_FILES, strict=True)]
        archive = self._find(CIFAR10_ARCHIVE)
        if archive is None:
            raise self._error(f"neither {CIFAR10_ARCHIVE} nor {CIFAR10_FILES[0]} there")
        if self.verify:
            digest = hashlib.md5(self._read(archive, archive.name), usedforsecurity=False).hexdigest()
            if digest != CIFAR10_MD5:
                told = f"MD5 is {digest}, not {CIFAR10_MD5} as published; dataset.verify=false takes it"
                raise self._error(f"{archive.name}: {told}")
        return self._unpack(archive)

    def _read(self, path: Path | None, file: str) -> bytes:
        if path is None:
            raise self._error(f"no file {file} there")
        try:
            return path.read_bytes()
        except OSError as error:
            raise self._error(f"{file}: {_reason(error)}") from error

    def _download_archive(self) -> Path:
        with contextlib.suppress(OSError):
            if self.mirrors and not (self._folder() / CIFAR10_ARCHIVE).exists():
                told = f"downloading {CIFAR10_ARCHIVE}, 170 MB, into {self._folder()}; its server may take 40 minutes"
                print(told, file=sys.stderr, flush=True)
        return self._download(CIFAR10_ARCHIVE, f"md5:{CIFAR10_MD5}" if self.verify else None)

    def _unpack(self, archive: Path) -> list[bytes]:
        """Return the six files in the archive, from memory: nothing in it is written anywhere, whatever its path."""
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(archive, "r:gz") as tar:
                for member in tar:
                    file = member.name.removeprefix("./").removeprefix(f"{CIFAR10_FOLDER}/")
                    if file in CIFAR10_FILES:
                        opened = tar.extractfile(member) if member.isreg() and member.size <= _LARGEST else None
                        if opened is None:
                            raise self._error(f"{archive.name}: {file} in it is no file of up to {_LARGEST} bytes")
                        found[file] = opened.read()
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise self._error(f"{archive.name}: {_reason(error)}") from error
        if missing := [file for file in CIFAR10_FILES if file not in found]:
            raise self._error(f"{archive.name}: no {missing[0]} in it")
        return [found[file] for file in CIFAR10_FILES]

    def _arrays(self, contents: Sequence[bytes]) -> list[ByteArray]:
        """Return training images, training labels, test images and test labels."""
        records = []
        for file, content in zip(CIFAR10_FILES, contents, strict=True):
            if not content or len(content) % _RECORD:
                raise self._error(f"{file}: {len(content)} bytes, where every example has {_RECORD}")
            records.append(np.frombuffer(content, np.uint8).reshape(-1, _RECORD))
            if (largest := records[-1][:, 0].max()) > 9:
                raise self._error(f"label {largest} in {file}, where labels are 0 to 9")
        parts = np.concatenate(records[:-1]), records[-1]
        arrays = (array for part in parts for array in (part[:, 1:].reshape(-1, *CIFAR10_SHAPE), part[:, 0]))
        return [*map(np.ascontiguousarray, arrays)]


_RECORD = 1 + math.prod(CIFAR10_SHAPE)
_LARGEST = CIFAR10_RECORDS * _RECORD


def _unlike_published(arrays: Sequence[ByteArray]) -> str | None:
    """Say what tells these from the published images and labels of CIFAR-10, if anything does."""
    for i, (part, files) in enumerate([("training", 5), ("test", 1)]):
        images, labels = arrays[2 * i : 2 * i + 2]
        if len(labels) != files * CIFAR10_RECORDS:
            return f"{len(labels)} {part} images, not {files * CIFAR10_RECORDS}"
        if (counts := np.bincount(labels, minlength=10).tolist()) != [len(labels) // 10] * 10:
            return f"{counts} {part} images of the classes"
        if (sums := images.sum(axis=(0, 2, 3), dtype=np.int64).tolist()) != CIFAR10_SUMS[i]:
            return f"pixels of the {part} images add up to {sums}, not to {CIFAR10_SUMS[i]}"
    return None


DATASETS = Table({"digits": Digits, "mnist": IDX, "fashion_mnist": IDX, "cifar10": CIFAR10}, base=Source)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _check_digests(*, files: Sequence[str], **settings: object) -> None:
    """Check that every list of digests has one for each of the files."""
    for key, digests in settings.items():
        if isinstance(digests, list) and len(digests) != len(files):
            told = f"{len(digests)} digests; it takes null or one for each of {len(files)} files"
            raise InputError(f"dataset.{key}: {told}")


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
