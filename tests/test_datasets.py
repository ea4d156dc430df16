"""Data sets from good and bad files, and from mirrors."""

import gzip
import hashlib
import importlib
import logging
import re
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
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

from bnrepro.composition import compose
from bnrepro.config import RUN_KEYS, RunConfig
from bnrepro.data import Dataset
from bnrepro.datasets import DATASETS, IDX, IDX_FILES, PUBLISHED, Digits
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
        assert values.keys() == {"name", "binarize"}
        return
    the_set = IDX(**{str(key): value for key, value in values.items()})
    assert the_set.root is None
    assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in the_set.mirrors)
    assert the_set.pinned() == the_set
    assert the_set.sha256_gz
    published = {*PUBLISHED[name], *the_set.sha256_gz}
    assert len(published) == 8
    assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in published)
