"""Data sets from good and bad files, and from mirrors."""

import gzip
import hashlib
import importlib
import io
import logging
import re
import socket
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import bnrepro.datasets
from bnrepro.composition import compose
from bnrepro.config import RUN_KEYS, RunConfig
from bnrepro.data import Dataset
from bnrepro.datasets import CIFAR10, CIFAR10_FILES, DATASETS, IDX, IDX_FILES, PUBLISHED, Digits, Files, Images
from bnrepro.errors import InputError
from bnrepro.settings import Choice
from bnrepro.sweeping import train_group

CONF = Path(__file__).parents[1] / "conf" / "dataset"
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = IDX_FILES


def idx(array: npt.NDArray[Any], *, start: bytes = b"\0\0\x08", shape: tuple[int, ...] | None = None) -> bytes:
    """Return an IDX file of ``array``, or with a header that says otherwise."""
    shape = array.shape if shape is None else shape
    return start + bytes([len(shape)]) + np.array(shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def good_files() -> dict[str, bytes]:
    """Return 60 training and 20 test images of 6 by 5 pixels, as IDX files."""
    rng = np.random.default_rng(0)
    return {
        TRAIN_IMAGES: idx(rng.integers(0, 256, (60, 6, 5))),
        TRAIN_LABELS: idx(np.arange(60) % 10),
        TEST_IMAGES: idx(rng.integers(0, 256, (20, 6, 5))),
        TEST_LABELS: idx(np.arange(20) % 10),
    }


GOOD = good_files()
GOOD_GZ = {file: gzip.compress(content, mtime=0) for file, content in GOOD.items()}


def write(folder: Path, files: dict[str, bytes], suffix: str = "") -> None:
    """Write ``files`` into ``folder``, each name followed by ``suffix``."""
    for file, content in files.items():
        (folder / f"{file}{suffix}").write_bytes(content)


def digests(files: dict[str, bytes]) -> list[str]:
    """Return the SHA-256 of the four files."""
    return [hashlib.sha256(files[file]).hexdigest() for file in IDX_FILES]


def a_set(root: Path | str | None, **changes: Any) -> IDX:
    """Return a data set at ``root`` with nothing else to it but ``changes``."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "binarize": False,
        "mirrors": [],
        "sha256": None,
        "sha256_gz": None,
    }
    return IDX(root=None if root is None else str(root), **fields | changes)


def error_of(load: Callable[[], object]) -> str:
    """Return the message of the InputError that ``load`` raises, after checking its form."""
    with pytest.raises(InputError) as caught:
        load()
    message = str(caught.value)
    assert re.match(r"(dataset|train)\.\w+\S*: \S", message)
    assert "\n" not in message
    return message


def assert_equal(a: Dataset, b: Dataset) -> None:
    """Check that two data sets hold the same values."""
    for name in "train_images", "train_labels", "test_images", "test_labels":
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert (a.classes, a.scale) == (b.classes, b.scale)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of four good raw IDX files."""
    root = tmp_path / "good"
    root.mkdir()
    write(root, GOOD)
    return root


# IDX files on disk


def test_idx_holds_what_was_written(folder: Path) -> None:
    """Pixels, labels, shapes, types and scale."""
    data = a_set(folder).load()
    images = np.random.default_rng(0).integers(0, 256, (60, 6, 5))
    np.testing.assert_array_equal(data.train_images, images[:, np.newaxis])
    np.testing.assert_array_equal(data.train_labels, np.arange(60) % 10)
    assert data.test_images.shape == (20, 1, 6, 5)
    np.testing.assert_array_equal(data.test_labels, np.arange(20) % 10)
    arrays = data.train_images, data.train_labels, data.test_images, data.test_labels
    assert {array.dtype for array in arrays} == {np.dtype(np.uint8)}
    assert data.image_shape == (1, 6, 5)
    assert (data.classes, data.scale) == (10, 1 / 255)


def test_gz_equals_raw_and_raw_wins(folder: Path, tmp_path: Path) -> None:
    """Either form gives the same data set; of both, the .gz is not opened."""
    raw = a_set(folder).load()
    write(tmp_path, GOOD_GZ, ".gz")
    assert_equal(a_set(tmp_path).load(), raw)
    write(folder, dict.fromkeys(IDX_FILES, b"not even gzip"), ".gz")
    assert_equal(a_set(folder).load(), raw)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_names_with_a_dot_are_found(folder: Path, tmp_path: Path, suffix: str) -> None:
    """A mirror names the files so, beside folders with the published names."""
    for file, content in (GOOD_GZ if suffix else GOOD).items():
        (tmp_path / file).mkdir()
        (tmp_path / f"{file.replace('-idx', '.idx')}{suffix}").write_bytes(content)
    assert_equal(a_set(tmp_path).load(), a_set(folder).load())


def test_root_expands_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leading ~ is the home folder."""
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert_equal(a_set("~/good").load(), a_set(folder).load())


def test_idx_binarize_splits_at_half_of_the_maximum(folder: Path) -> None:
    """127 is below half of 255, 128 is not."""
    pixels = np.tile(np.array([0, 127, 128, 255, 255]), (60, 6, 1))
    write(folder, {TRAIN_IMAGES: idx(pixels)})
    data = a_set(folder, binarize=True).load()
    np.testing.assert_array_equal(data.train_images[0, 0, 0], [0, 0, 1, 1, 1])
    assert data.test_images.max() == 1
    assert data.train_images.dtype == np.uint8
    assert data.scale == 1.0


def test_where_the_files_lie_is_not_compared(folder: Path) -> None:
    """Two runs on the same data are the same run wherever it is read from."""

    def choice(root: Path | None, **changes: Any) -> Choice[IDX]:
        return Choice("mnist", a_set(root, **changes))

    assert choice(folder) == choice(None, mirrors=["a"], sha256_gz=["c"])
    assert hash(choice(folder)) == hash(choice(None))
    assert choice(folder) != choice(folder, binarize=True)
    assert choice(folder) != choice(folder, name="other")


def test_the_digests_of_files_that_are_not_the_published_ones_tell_sets_apart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are given, or without any those of the files that are there; and these are checked from then on."""
    write(tmp_path, GOOD_GZ, ".gz")
    found = a_set(folder).pinned()
    assert found.sha256 == a_set(tmp_path).pinned().sha256 == digests(GOOD)
    assert Choice("tiny", found) == Choice("tiny", a_set(None, sha256=digests(GOOD)).pinned())  # without reading them
    assert "no such folder" in error_of(a_set("/nowhere").pinned)
    write(folder, {TEST_LABELS: idx(np.arange(20)[::-1] % 10)})
    assert Choice("tiny", a_set(folder).pinned()) != Choice("tiny", found)
    assert f"not {digests(GOOD)[3]} as in dataset.sha256" in error_of(found.load)
    monkeypatch.setitem(PUBLISHED, "tiny", digests(GOOD))
    for same in a_set(tmp_path), a_set(None, sha256=[digest.upper() for digest in digests(GOOD)]):
        assert same.pinned() == replace(same, sha256="published")
        assert "sha256" not in Choice("tiny", same.pinned()).identity
    a_set(tmp_path, sha256="published").load()
    assert "SHA-256" in error_of(a_set(folder, sha256="published").load)


def test_published_digests_of_a_set_that_has_none() -> None:
    """The import path of the class makes a set of one's own."""
    message = error_of(a_set(None, sha256="published").pinned)
    assert message == "dataset.sha256=published: known of mnist, fashion_mnist, not of tiny"


BAD_CONTENTS = {
    "missing": ({TRAIN_IMAGES: None}, f"no file {TRAIN_IMAGES} or {TRAIN_IMAGES}.gz there"),
    "zero bytes": ({TRAIN_LABELS: b""}, f"{TRAIN_LABELS}: not an IDX file"),
    "magic": ({TRAIN_IMAGES: idx(np.zeros((60, 6, 5)), start=b"\1\0\x08")}, "not an IDX file"),
    "type code": ({TEST_IMAGES: idx(np.zeros((20, 6, 5)), start=b"\0\0\x0d")}, "type code 0x0d, not 0x08"),
    "dimensions": ({TEST_IMAGES: idx(np.zeros((20, 30)))}, f"{TEST_IMAGES}: 2 dimensions, not 3"),
    "images as labels": ({TRAIN_LABELS: GOOD[TRAIN_IMAGES]}, f"{TRAIN_LABELS}: 3 dimensions, not 1"),
    "header cut": ({TRAIN_IMAGES: GOOD[TRAIN_IMAGES][:9]}, "ends inside its header of 16 bytes"),
    "truncated": (
        {TRAIN_IMAGES: GOOD[TRAIN_IMAGES][:-1]},
        "1799 bytes of values where its header says (60, 6, 5)",
    ),
    "too long": ({TEST_LABELS: GOOD[TEST_LABELS] + b"\0"}, "21 bytes of values where its header says (20,)"),
    "huge header": ({TEST_LABELS: idx(np.zeros(20), shape=(2**32 - 1,))}, "its header says (4294967295,)"),
    "empty": ({TEST_IMAGES: idx(np.zeros((0, 6, 5))), TEST_LABELS: idx(np.zeros(0))}, "no examples"),
    "empty labels": ({TRAIN_LABELS: idx(np.zeros(0))}, f"{TRAIN_LABELS}: no examples"),
    "counts": ({TRAIN_LABELS: idx(np.zeros(59))}, "60 images but 59 labels in the train files"),
    "test counts": ({TEST_IMAGES: idx(np.zeros((21, 6, 5)))}, "21 images but 20 labels in the t10k files"),
    "label": ({TRAIN_LABELS: idx(np.full(60, 10))}, "label 10 in the train file"),
    "test label": ({TEST_LABELS: idx(np.arange(20))}, "label 19 in the t10k file"),
    "letters": ({TRAIN_LABELS: idx(np.arange(60) % 26 + 1)}, "label 26 in the train file, where labels are 0 to 9"),
    "shapes": ({TEST_IMAGES: idx(np.zeros((20, 5, 6)))}, "train images of (6, 5), t10k of (5, 6)"),
}


@pytest.mark.parametrize(("files", "problem"), BAD_CONTENTS.values(), ids=BAD_CONTENTS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bad_contents(folder: Path, files: dict[str, bytes | None], problem: str, suffix: str) -> None:
    """Every way in which one file, raw or .gz, is wrong in itself or beside the others."""
    for file, content in files.items():
        (folder / file).unlink()
        if content is not None:
            (folder / f"{file}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    # A digest would fail as well: structure is checked first because it says more.
    message = error_of(a_set(folder, sha256=["0" * 64] * 4).load)
    assert message.startswith(f"dataset.root={folder}: ")
    assert problem in message.replace(".gz: ", ": ")
    assert message.endswith("; it needs the four IDX files of tiny, raw or .gz")


def flipped(content: bytes, at: int) -> bytes:
    """Return ``content`` with one byte inverted."""
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


BAD_GZIP = {
    "truncated": (GOOD_GZ[TRAIN_IMAGES][:-20], "ended before the end-of-stream marker"),
    "cut in header": (GOOD_GZ[TRAIN_IMAGES][:5], "ended before the end-of-stream marker"),
    "not gzip": (GOOD[TRAIN_IMAGES], "Not a gzipped file"),
    "bad stream": (GOOD_GZ[TRAIN_IMAGES][:10] + b"\xff" * 20, "while decompressing"),
    "bad crc": (flipped(GOOD_GZ[TRAIN_IMAGES], -8 % len(GOOD_GZ[TRAIN_IMAGES])), "CRC check failed"),
    "zero bytes": (b"", "not an IDX file"),
}


@pytest.mark.parametrize(("content", "problem"), BAD_GZIP.values(), ids=BAD_GZIP)
def test_bad_gzip(folder: Path, content: bytes, problem: str) -> None:
    """Damage that shows while decompressing."""
    (folder / TRAIN_IMAGES).unlink()
    write(folder, {TRAIN_IMAGES: content}, ".gz")
    message = error_of(a_set(folder).load)
    assert f"{TRAIN_IMAGES}.gz: " in message
    assert problem in message


@pytest.mark.parametrize("root", ["nowhere", f"good/{TRAIN_IMAGES}"], ids=["missing", "a file"])
def test_root_is_not_a_folder(folder: Path, root: str) -> None:
    """Nothing there, or a file."""
    root = str(folder.parent / root)
    assert error_of(a_set(root).load).startswith(f"dataset.root={root}: no such folder; it needs")


def test_root_of_an_unknown_user() -> None:
    """Path.expanduser reports this one by a RuntimeError."""
    assert "home" in error_of(a_set("~no-such-user-here/mnist").load)


@pytest.mark.parametrize("method", ["read_bytes", "is_file"])
def test_unreadable(folder: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """No permission for the file, or for the folder it is in."""

    # Patched, because the superuser may read a file whatever its mode says.
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, method, denied)
    assert "Permission denied; it needs" in error_of(a_set(folder).load)


def test_sha256(folder: Path, tmp_path: Path) -> None:
    """Digests are of the uncompressed bytes, whichever form was read."""
    write(tmp_path, GOOD_GZ, ".gz")
    for root in folder, tmp_path:
        # Files under root may have been compressed anew: sha256_gz says nothing about them.
        a_set(root, sha256=digests(GOOD), sha256_gz=["0" * 64] * 4).load()
        a_set(root, sha256=[digest.upper() for digest in digests(GOOD)]).load()
        a_set(root, sha256_gz=["0" * 64] * 4).load()
        message = error_of(a_set(root, sha256=[*digests(GOOD)[:3], "0" * 64]).load)
        assert f"{TEST_LABELS}: SHA-256 is {digests(GOOD)[3]}, not {'0' * 64}" in message


@pytest.mark.parametrize("key", ["sha256", "sha256_gz"])
def test_wrong_number_of_digests(folder: Path, key: str) -> None:
    """Neither list may silently leave files unchecked."""
    message = error_of(a_set(folder, **{key: digests(GOOD)[:3]}).load)
    assert message == f"dataset.{key}: 3 digests; it takes null or one for each of 4 files"


@given(st.sampled_from(IDX_FILES), st.booleans(), st.data())
@settings(max_examples=150, deadline=None)
def test_any_damage_is_read_or_one_line_and_left_as_it_is(file: str, gz: bool, data: st.DataObject) -> None:
    """Bytes overwritten or put in, most of them in the header, and a cut; before they are compressed or after."""
    damaged = bytearray(GOOD_GZ[file] if gz else GOOD[file])
    places = st.one_of(st.integers(0, 16), st.integers(0, len(damaged)))
    for start, kept, written in data.draw(
        st.lists(st.tuples(places, st.booleans(), st.binary(max_size=9)), max_size=5), "edits"
    ):
        damaged[start : start + len(written) * (not kept)] = written
    damaged = damaged[: data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))), "size")]
    content = bytes(damaged) if gz or data.draw(st.booleans(), "raw") else gzip.compress(damaged)
    with tempfile.TemporaryDirectory() as root:
        write(Path(root), {name: good for name, good in GOOD.items() if name != file})
        path = Path(root) / (file if content == damaged and not gz else f"{file}.gz")
        path.write_bytes(content)
        before = {found.name: found.read_bytes() for found in Path(root).iterdir()}
        try:
            read = a_set(root).pinned().load()
            assert len(read.train_images) == len(read.train_labels)
        except InputError as error:
            refused = str(error)
        else:
            refused = ""
        assert re.fullmatch(rf"(dataset\.root={root}: .*; it needs the four IDX files of tiny, raw or \.gz)?", refused)
        assert {found.name: found.read_bytes() for found in Path(root).iterdir()} == before


ODD = {
    "one class": {TRAIN_LABELS: idx(np.full(60, 7)), TEST_LABELS: idx(np.full(20, 7))},
    "all black": {TRAIN_IMAGES: idx(np.zeros((60, 6, 5))), TEST_IMAGES: idx(np.zeros((20, 6, 5)))},
    "one pixel": {TRAIN_IMAGES: idx(np.full((60, 1, 1), 9)), TEST_IMAGES: idx(np.full((20, 1, 1), 3))},
    "one row": {TRAIN_IMAGES: idx(np.full((60, 1, 9), 9)), TEST_IMAGES: idx(np.full((20, 1, 9), 3))},
    "one test image": {TEST_IMAGES: idx(np.full((1, 6, 5), 9)), TEST_LABELS: idx(np.zeros(1))},
}


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize(
    ("kind", "model"),
    [
        (kind, model)
        for kind in ODD
        for model in ("mlp", "cnn")
        if model == "mlp" or kind not in ("one pixel", "one row")
    ],
)
def test_odd_images_are_trained_on(folder: Path, kind: str, norm: str, model: str) -> None:
    """Whatever can be learned from them; those of one row or pixel are too small for the CNN's pooling."""
    write(folder, ODD[kind])
    tiny = ["model.channels=[2]" if model == "cnn" else "model.hidden=[4]", "train.steps=20", "train.measurements=2"]
    place = [f"dataset.root='{folder}'", "dataset.sha256=null"]
    composed = compose(["dataset=mnist", *place, f"model={model}", f"model.norm={norm}", *tiny])
    run = RunConfig.parse({key: value for key, value in composed.items() if key in RUN_KEYS})
    (result,) = train_group([run], run.dataset.value.load())
    assert (result.status, result.error) == ("done", None)
    assert np.isfinite(result.curves[-1]["train_loss"])
    if kind == "one class":
        assert result.test_accuracy == 1


# Downloads, from a server on this machine


class Server(ThreadingHTTPServer):
    """A mirror: serves the files in ``folder`` and records what was asked for."""

    def __init__(self, folder: Path) -> None:
        """Bind to a free port."""
        requests: list[str] = []

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                requests.append(self.path)

        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.folder, self.requests = folder, requests
        self.url = f"http://127.0.0.1:{self.server_port}/"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A mirror of the four good files; the cache is a fresh folder, and no proxy stands between."""
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    served = tmp_path / "served"
    served.mkdir()
    write(served, GOOD_GZ, ".gz")
    with Server(served) as mirror:
        thread = threading.Thread(target=mirror.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield mirror
        mirror.shutdown()
        thread.join()


@pytest.fixture
def dead() -> Iterator[str]:
    """A mirror whose port is taken but refuses every connection."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/"


@pytest.mark.parametrize("checked", [True, False])
def test_second_mirror_then_cache(
    server: Server,
    dead: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    checked: bool,
) -> None:
    """A dead mirror is passed over; once cached, no mirror is needed; nothing is printed."""
    known = {"sha256": digests(GOOD), "sha256_gz": digests(GOOD_GZ)} if checked else {}
    expected = a_set(folder).load()
    assert_equal(a_set(None, mirrors=[dead, server.url.rstrip("/")], **known).load(), expected)
    assert server.requests == [f"/{file}.gz" for file in IDX_FILES]
    assert (tmp_path / "cache" / "bnrepro" / "tiny" / f"{TRAIN_IMAGES}.gz").is_file()
    assert_equal(a_set(None, mirrors=[dead], **known).load(), expected)
    assert capsys.readouterr() == ("", "")
    # Its handler holds the stderr of its import, which capsys does not see.
    assert importlib.import_module("pooch").get_logger().level == logging.WARNING


def test_spoilt_cache_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    """The digest finds it, and only that file is asked for again."""
    the_set = a_set(None, mirrors=[server.url], sha256_gz=digests(GOOD_GZ))
    the_set.load()
    write(tmp_path / "cache" / "bnrepro" / "tiny", {TEST_LABELS: b"spoilt"}, ".gz")
    the_set.load()
    assert len(server.requests) == 5


def test_corrupted_download_is_rejected(server: Server, dead: str, tmp_path: Path) -> None:
    """It does not enter the cache, and the next mirror is tried."""
    write(server.folder, {TRAIN_IMAGES: flipped(GOOD_GZ[TRAIN_IMAGES], 200)}, ".gz")
    message = error_of(a_set(None, mirrors=[server.url, dead], sha256_gz=digests(GOOD_GZ)).load)
    assert message.startswith(f"dataset.root=null: no mirror gave {TRAIN_IMAGES}.gz: {server.url} (SHA256 hash")
    assert not list((tmp_path / "cache").rglob("*.gz"))


def test_all_mirrors_fail(server: Server, dead: str) -> None:
    """The message gives the reason of each: connection refused, not found, unknown protocol."""
    (server.folder / f"{TRAIN_IMAGES}.gz").unlink()
    mirrors = [dead, server.url, "gopher://nowhere/"]
    message = error_of(a_set(None, mirrors=mirrors, sha256_gz=digests(GOOD_GZ)).load)
    assert f"no mirror gave {TRAIN_IMAGES}.gz: {dead} (" in message
    assert "refused" in message
    assert f"), {server.url} (404 Client Error: File not found" in message
    assert "gopher" in message
    assert message.endswith("; set dataset.root=FOLDER to use files on disk")


@pytest.mark.usefixtures("server")
def test_no_mirrors() -> None:
    """An empty list is told apart from mirrors that fail."""
    assert "dataset.mirrors is empty; set dataset.root=FOLDER" in error_of(a_set(None).load)


def test_bad_cached_file_says_what_to_delete(server: Server, tmp_path: Path) -> None:
    """Without digests, what a mirror serves may turn out wrong only when it is read."""
    write(server.folder, {TRAIN_LABELS: gzip.compress(idx(np.zeros(59)))}, ".gz")
    message = error_of(a_set(None, mirrors=[server.url]).load)
    assert message.startswith("dataset.root=null: 60 images but 59 labels")
    assert message.endswith(f"; delete {tmp_path / 'cache' / 'bnrepro' / 'tiny'} to download it again")


def test_cache_is_in_the_way(server: Server, tmp_path: Path) -> None:
    """The cache folder can not be made."""
    (tmp_path / "cache").write_text("a file where a folder should be")
    message = error_of(a_set(None, mirrors=[server.url]).load)
    assert message.startswith(f"dataset.root=null: can't write the cache {tmp_path / 'cache'}")
    assert message.endswith("; set dataset.root=FOLDER to use files on disk")


def test_cache_is_read_only(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no mirror's fault, so the next mirror is not tried."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    # Patched, because the superuser may write into any folder.
    monkeypatch.setattr("pooch.retrieve", denied)
    message = error_of(a_set(None, mirrors=[server.url, server.url]).load)
    assert "can't write the cache" in message
    assert message.count("Permission denied") == 1


# CIFAR-10


def records(count: int, seed: int = 0) -> bytes:
    """Return so many examples, of the ten classes in turn, as a file of CIFAR-10 has them."""
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)
    return np.insert(pixels, 0, np.arange(count) % 10, axis=1).tobytes()


SIX = {file: records(20 if "test" in file else 10, seed) for seed, file in enumerate(CIFAR10_FILES)}


def archive(files: dict[str, bytes], folder: str = "cifar-10-batches-bin/", kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a tar.gz of ``files``, all of this kind, in the same bytes at any time of day."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="w", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for file, content in files.items():
            member = tarfile.TarInfo(f"{folder}{file}")
            member.size, member.type = len(content) if kind == tarfile.REGTYPE else 0, kind
            member.linkname = "/etc/passwd"
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def photos(root: Path | str | None, **changes: Any) -> CIFAR10:
    """Return CIFAR-10 at ``root``, with nothing else to it but ``changes``."""
    fields: dict[str, Any] = {"name": "cifar10", "binarize": False, "mirrors": [], "verify": False}
    return CIFAR10(root=None if root is None else str(root), **fields | changes)


LAYOUTS: dict[str, Callable[[], dict[str, bytes]]] = {
    "files": lambda: SIX,
    "folder": lambda: {f"cifar-10-batches-bin/{file}": content for file, content in SIX.items()},
    "archive": lambda: {"cifar-10-binary.tar.gz": archive(SIX | {"batches.meta.txt": b"airplane"})},
    "flat archive": lambda: {"cifar-10-binary.tar.gz": archive(SIX, "./")},
    "files win": lambda: SIX | {"cifar-10-binary.tar.gz": b"not even gzip"},
}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the six small files be the published ones, and their archive the published archive."""
    monkeypatch.setattr(bnrepro.datasets, "CIFAR10_RECORDS", 10)
    monkeypatch.setattr(bnrepro.datasets, "CIFAR10_FILES", CIFAR10_FILES)
    pixels = [np.frombuffer(SIX[file], np.uint8).reshape(-1, 3073)[:, 1:].reshape(-1, 3, 1024) for file in SIX]
    sums = [part.sum(axis=(0, 2), dtype=int).tolist() for part in (np.concatenate(pixels[:5]), pixels[5][:10])]
    monkeypatch.setattr(bnrepro.datasets, "CIFAR10_SUMS", sums)
    packed = archive(SIX_PUBLISHED)
    monkeypatch.setattr(bnrepro.datasets, "CIFAR10_MD5", hashlib.md5(packed, usedforsecurity=False).hexdigest())


SIX_PUBLISHED = SIX | {"test_batch.bin": SIX["test_batch.bin"][: 10 * 3073]}


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files, some of them in folders of their own."""
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cifar10_holds_what_was_written(tmp_path: Path, layout: str) -> None:
    """A record is a label, then three planes, rows first; the files follow each other."""
    data = photos(fill(tmp_path, LAYOUTS[layout]())).load()
    third = np.frombuffer(SIX["data_batch_3.bin"], np.uint8).reshape(10, 3073)
    np.testing.assert_array_equal(data.train_images[24, 1, 2], third[4, 1 + 1024 + 64 :][:32])
    np.testing.assert_array_equal(data.train_labels, [*range(10)] * 5)
    np.testing.assert_array_equal(data.test_labels, [*range(10)] * 2)
    assert (data.image_shape, data.classes, data.scale, len(data.test_images)) == ((3, 32, 32), 10, 1 / 255, 20)
    assert all(array.flags.c_contiguous for array in (data.train_images, data.train_labels, data.test_images))


BAD_SIX = {
    "short": ({"data_batch_2.bin": records(10)[:-1]}, "data_batch_2.bin: 30729 bytes, where every example has 3073"),
    "empty": ({"test_batch.bin": b""}, "test_batch.bin: 0 bytes, where every example has 3073"),
    "label": ({"data_batch_5.bin": b"\x0a" + records(1)[1:]}, "label 10 in data_batch_5.bin, where labels are 0 to 9"),
    "missing": ({"data_batch_4.bin": None}, "no (file )?data_batch_4.bin (there|in it)"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("files", "problem"), BAD_SIX.values(), ids=BAD_SIX)
def test_bad_files_of_cifar10(tmp_path: Path, files: dict[str, bytes | None], problem: str, packed: bool) -> None:
    left = {file: content for file, content in (SIX | files).items() if content is not None}
    the_set = photos(fill(tmp_path, {"cifar-10-binary.tar.gz": archive(left)} if packed else left))
    message = error_of(the_set.load)
    assert re.search(problem, message)
    assert message.endswith("; it needs cifar-10-binary.tar.gz, or the six .bin files in it")


BAD_ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "not gzip": (lambda: b"spoilt", "Not a gzipped file"),
    "cut": (lambda: archive(SIX)[:-40_000], "ended before the end-of-stream marker|unexpected end of data"),
    "links": (lambda: archive(SIX, kind=tarfile.SYMTYPE), "data_batch_1.bin in it is no file of up to"),
    "folders": (lambda: archive(SIX, kind=tarfile.DIRTYPE), "data_batch_1.bin in it is no file of up to"),
    "elsewhere": (lambda: archive(SIX, "../../"), "no data_batch_1.bin in it"),
    "absolute": (lambda: archive(SIX, "/tmp/"), "no data_batch_1.bin in it"),
}


@pytest.mark.parametrize(("packed", "problem"), BAD_ARCHIVES.values(), ids=BAD_ARCHIVES)
def test_bad_archives(tmp_path: Path, packed: Callable[[], bytes], problem: str) -> None:
    """What an archive names is looked at in memory, and goes to no place of its choice."""
    fill(tmp_path, {"in/cifar-10-binary.tar.gz": packed()})
    assert re.search(f"cifar-10-binary.tar.gz: .*({problem})", error_of(photos(tmp_path / "in").load))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["cifar-10-binary.tar.gz"]


def test_a_member_that_is_too_large_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bnrepro.datasets, "_LARGEST", 3073 * 10)
    root = fill(tmp_path, {"cifar-10-binary.tar.gz": archive(SIX)})
    assert "test_batch.bin in it is no file of up to 30730 bytes" in error_of(photos(root).load)


@pytest.mark.parametrize("files", [{}, {"cifar-10-python.tar.gz": b""}], ids=["nothing", "pickles"])
def test_no_file_of_cifar10(tmp_path: Path, files: dict[str, bytes]) -> None:
    message = error_of(photos(fill(tmp_path, files)).load)
    assert "neither cifar-10-binary.tar.gz nor data_batch_1.bin there" in message


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("packed", [False, True])
def test_published_images_are_verified_and_make_the_run_of_the_published_set(tmp_path: Path, packed: bool) -> None:
    """Not verified, they are still found to be the published ones."""
    root = fill(tmp_path, {"cifar-10-binary.tar.gz": archive(SIX_PUBLISHED)} if packed else SIX_PUBLISHED)
    photos(root, verify=True).load()
    usual = Choice("cifar10", photos(None, verify=True).pinned())
    assert Choice("cifar10", photos(root).pinned()) == Choice("cifar10", photos(root, verify=True).pinned()) == usual
    assert "sha256" not in usual.identity


OTHERS = {
    "a file more": ({"test_batch.bin": SIX["test_batch.bin"]}, "20 test images, not 10"),
    "classes": ({"data_batch_1.bin": bytes([1]) + SIX["data_batch_1.bin"][1:]}, "training images of the classes"),
    "pixels": ({"data_batch_1.bin": SIX["data_batch_1.bin"][:-1] + b"\0"}, "pixels of the training images add up to"),
    "test pixels": ({"test_batch.bin": SIX_PUBLISHED["test_batch.bin"][:-1] + b"\0"}, "pixels of the test images add"),
}


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(("files", "problem"), OTHERS.values(), ids=OTHERS)
def test_other_images_are_refused_or_told_apart_by_their_digests(
    tmp_path: Path, files: dict[str, bytes], problem: str
) -> None:
    others = SIX_PUBLISHED | files
    root = fill(tmp_path / "files", others)
    message = error_of(photos(root, verify=True).load)
    assert re.search(rf"not the published images \(.*{problem}.*\); dataset.verify=false takes them; it needs", message)
    found = photos(root).pinned()
    assert found.sha256 == [hashlib.sha256(others[file]).hexdigest() for file in CIFAR10_FILES]
    found.load()
    assert found == photos(root, sha256=[digest.upper() for digest in found.sha256]).pinned()
    packed = fill(tmp_path / "packed", {"cifar-10-binary.tar.gz": archive(others)})
    assert Choice("cifar10", photos(packed).pinned()) == Choice("cifar10", found)
    assert "MD5 is" in error_of(photos(packed, verify=True).load)
    fill(root, SIX_PUBLISHED)
    assert "as in dataset.sha256" in error_of(found.load)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"sha256": ["0"]}, "dataset.sha256: 1 digests; it takes null or one for each of 6 files"),
        ({"sha256": ["0"] * 6, "verify": True}, "dataset.sha256: needs dataset.verify=false"),
    ],
)
def test_digests_that_cifar10_does_not_take(changes: dict[str, Any], problem: str) -> None:
    assert error_of(photos("anywhere", **changes).pinned).startswith(problem)


@pytest.mark.usefixtures("published")
def test_cifar10_is_downloaded_once_and_says_how_long_it_takes(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(server.folder, {"cifar-10-binary.tar.gz": archive(SIX_PUBLISHED)})
    the_set = photos(None, mirrors=[server.url], verify=True)
    assert_equal(the_set.load(), the_set.load())
    assert server.requests == ["/cifar-10-binary.tar.gz"]
    told = capsys.readouterr().err
    assert told.startswith("downloading cifar-10-binary.tar.gz, 170 MB, into ")
    assert told.endswith("cifar10; its server may take 40 minutes\n")
    fill(server.folder, {"cifar-10-binary.tar.gz": archive(SIX)})
    (tmp_path / "cache" / "bnrepro" / "cifar10" / "cifar-10-binary.tar.gz").unlink()
    assert "MD5 hash" in error_of(the_set.load)


@given(file=st.sampled_from(CIFAR10_FILES), packed=st.booleans(), data=st.data())
@settings(max_examples=60, deadline=None)
def test_any_damage_to_cifar10_is_read_or_one_line(file: str, packed: bool, data: st.DataObject) -> None:
    """Bytes overwritten in a file or in the archive of all, and a cut."""
    files = SMALL_PACKED if packed else SMALL
    name = next(iter(files)) if packed else file
    damaged = bytearray(files[name])
    for start, written in data.draw(
        st.lists(st.tuples(st.integers(0, len(damaged)), st.binary(max_size=9)), max_size=4)
    ):
        damaged[start : start + len(written)] = written
    damaged = damaged[: data.draw(st.one_of(st.just(len(damaged)), st.integers(0, len(damaged))), "size")]
    with tempfile.TemporaryDirectory() as root:
        the_set = photos(fill(Path(root), files | {name: bytes(damaged)}))
        try:
            assert the_set.pinned().load().image_shape == (3, 32, 32)
        except InputError as error:
            refused = str(error)
        else:
            refused = ""
        assert re.fullmatch(rf"(dataset\.root={root}: .*; it needs cifar-10-binary[^\n]*)?", refused)


SMALL = {file: records(1) for file in CIFAR10_FILES}
SMALL_PACKED = {"cifar-10-binary.tar.gz": archive(SMALL)}


# Digits


def test_digits_split() -> None:
    """Every fifth image of each class is for testing, the others are for training, and none is lost."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped]

    data, whole = Digits(binarize=False).load(), load_digits()
    assert data.train_images.shape == (1442, 1, 8, 8)
    assert data.test_images.shape == (355, 1, 8, 8)
    assert (data.classes, data.scale, data.image_shape) == (10, 1 / 16, (1, 8, 8))
    assert data.train_images.dtype == data.train_labels.dtype == np.uint8
    for label in range(10):
        of_class = whole.images[whole.target == label][:, np.newaxis]
        test = np.arange(len(of_class)) % 5 == 4
        np.testing.assert_array_equal(data.train_images[data.train_labels == label], of_class[~test])
        np.testing.assert_array_equal(data.test_images[data.test_labels == label], of_class[test])


def test_digits_binarize() -> None:
    """8 is half of 16."""
    grey, binary = Digits(binarize=False).load(), Digits(binarize=True).load()
    assert grey.train_images.max() == 16
    np.testing.assert_array_equal(binary.train_images, grey.train_images >= 8)
    np.testing.assert_array_equal(binary.test_images, grey.test_images >= 8)
    np.testing.assert_array_equal(binary.train_labels, grey.train_labels)
    assert binary.train_images.dtype == np.uint8
    assert binary.scale == 1.0


# Configuration


@pytest.mark.parametrize("name", DATASETS.entries)
def test_yaml_makes_a_data_set(name: str) -> None:
    """Keys are the fields, and digests and mirrors have their form."""
    values = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(values, dict)
    assert values["name"] == name
    assert values["binarize"] is False
    if DATASETS.entries[name] is Digits:
        assert values.keys() == {"name", *(field.name for field in fields(Images))}
        return
    the_set = DATASETS.entries[name](**{str(key): value for key, value in values.items()})
    assert isinstance(the_set, Files)
    assert the_set.root is None
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in the_set.mirrors)
    assert the_set.pinned() == the_set
    if not isinstance(the_set, IDX):
        return
    assert the_set.sha256_gz
    published = {*PUBLISHED[name], *the_set.sha256_gz}
    assert len(published) == 8
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in published)
