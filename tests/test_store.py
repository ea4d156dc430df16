"""What is stored comes back, once, whole or not at all; and nobody else's file is touched."""

import dataclasses
import math
import sqlite3
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import a_run, assert_same_results, query

import bnrepro
from bnrepro.errors import InputError
from bnrepro.store import APPLICATION_ID, FILE, SCHEMA_VERSION, RunResult, Store, load, software

REQUIRED = {
    "run_id", "status", "dataset", "activation", "norm", "lr", "seed", "steps", "test_accuracy", "diverged_at",
    "seconds", "bnrepro", "git_commit", "numpy", "blas", "blas_kernel", "blas_threads",
}  # fmt: skip
NAN = math.nan


def a_result(lr: float = 0.1, seed: int = 0, **fields: Any) -> RunResult:
    """A run of two measurements and two layers."""
    curves = [{"step": s, "train_loss": lr + s, "test_accuracy": 0.5, "gradient_norm": 1.0} for s in (0, 7)]
    layers = [
        {"step": s, "layer": n, "p15": -1.0, "p50": float(s), "p85": lr, "inactive": 0.25, "gradient_norm": 2.0}
        for s in (0, 7)
        for n in (1, 2)
    ]
    defaults: dict[str, Any] = {"test_accuracy": 0.75, "seconds": 1.5, "curves": curves, "layers": layers}
    return RunResult(a_run({"optimizer.lr": lr, "seed": seed}), **defaults | fields)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "sweep", create=True)


# Round trip


def test_measures_that_a_table_has_not_seen_become_its_columns(store: Store) -> None:
    store.add([a_result(0.1)])
    curves = [{"step": 0, "train_loss": 1.0, "landscape_smoothness": 3.0}]
    layers = [{"step": 0, "layer": 1, "p50": 2.0}, {"step": 0, "layer": 2, "shift_norm": 4.0}]
    units = [{"step": 0, "unit": n, "p50": float(n)} for n in (1, 2, 3)]
    newer = a_result(0.2, curves=curves, layers=layers, units=units)
    store.add([newer])
    loaded = store.load([newer.config.run_id])
    assert loaded.curves["landscape_smoothness"].tolist() == [3.0]
    assert loaded.layers["p50"].tolist()[0] == 2.0
    assert loaded.layers["shift_norm"].isna().tolist() == [True, False]
    assert loaded.units.to_dict("list") == {
        "run_id": [newer.config.run_id] * 3,
        "step": [0, 0, 0],
        "unit": [1, 2, 3],
        "p50": [1.0, 2.0, 3.0],
    }
    older = store.load([a_result(0.1).config.run_id])
    assert older.curves["landscape_smoothness"].isna().all()
    assert older.layers["p15"].notna().all()


def test_what_is_added_is_loaded(store: Store) -> None:
    result = a_result(provenance={"blas": "openblas 1", "blas_kernel": "Zen", "blas_threads": 1, "machine": "m"})
    store.add([result])
    loaded = store.load()
    (row,) = loaded.runs.to_dict("records")
    assert row.keys() >= REQUIRED
    expected = {
        "run_id": result.config.run_id, "status": "done", "dataset": "digits", "activation": "sigmoid", "norm": "none",
        "lr": 0.1, "seed": 0, "steps": 20, "test_accuracy": 0.75, "seconds": 1.5, "blas": "openblas 1",
        "blas_threads": 1, "dataset.binarize": False, "model.hidden": [8], "model.init.std": 0.1,
        "train.batch_size": 60, "optimizer.name": "sgd", **software(),
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    assert math.isnan(row["diverged_at"])
    assert loaded.curves.drop(columns="run_id").to_dict("records") == result.curves
    assert loaded.layers.drop(columns="run_id").to_dict("records") == result.layers
    assert set(loaded.curves["run_id"]) == set(loaded.layers["run_id"]) == {result.config.run_id}


def test_every_bit_of_a_float_survives(store: Store) -> None:
    value = float(np.float32(1) / np.float32(3))
    store.add(
        [a_result(curves=[{"step": 0, "train_loss": value, "test_accuracy": 0.1 + 0.2, "gradient_norm": 5e-324}])]
    )
    (row,) = store.load().curves.drop(columns="run_id").to_dict("records")
    assert row == {"step": 0, "train_loss": value, "test_accuracy": 0.1 + 0.2, "gradient_norm": 5e-324}


def test_infinity_and_nan_of_a_diverged_curve_survive(store: Store) -> None:
    curve = {"step": 0, "train_loss": math.inf, "test_accuracy": NAN, "gradient_norm": NAN}
    layer = {
        "step": 0,
        "layer": 1,
        "p15": -math.inf,
        "p50": NAN,
        "p85": math.inf,
        "inactive": NAN,
        "gradient_norm": NAN,
    }
    store.add([a_result(status="diverged", test_accuracy=None, diverged_at=1, curves=[curve], layers=[layer])])
    loaded = store.load()
    pd.testing.assert_frame_equal(loaded.curves.drop(columns="run_id"), pd.DataFrame([curve]))
    pd.testing.assert_frame_equal(loaded.layers.drop(columns="run_id"), pd.DataFrame([layer]))


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_columns_of_numbers_are_numbers_even_where_no_run_has_one(store: Store, status: str) -> None:
    numbers: dict[str, Any] = (
        {"test_accuracy": None, "diverged_at": 3} if status == "diverged" else {"test_accuracy": 1.0}
    )
    store.add([a_result(status=status, **numbers)])
    types = store.load().runs.dtypes.astype(str)
    assert set(types[["test_accuracy", "diverged_at", "lr", "seconds"]]) == {"float64"}
    assert set(types[["seed", "steps"]]) == {"int64"}


def test_an_empty_store_loads_as_empty_tables(store: Store) -> None:
    results = store.load()
    assert len(results.runs) == len(results.curves) == len(results.layers) == 0
    assert store.finished() == set()


def test_rows_are_in_the_same_order_whoever_finished_first(tmp_path: Path) -> None:
    results = [a_result(lr, seed) for lr in (1.0, 0.1, 10) for seed in (1, 0)]
    forth, back = Store(tmp_path / "forth", create=True), Store(tmp_path / "back", create=True)
    forth.add(results)
    for result in reversed(results):
        back.add([dataclasses.replace(result, curves=result.curves[::-1], layers=result.layers[::-1])])
    assert_same_results(forth.load(), back.load())
    runs = forth.load().runs
    assert list(zip(runs["lr"], runs["seed"], strict=True)) == [(lr, s) for lr in (0.1, 1, 10) for s in (0, 1)]
    assert runs.index.tolist() == list(range(6))
    curves = forth.load().curves
    assert curves.equals(curves.sort_values(["run_id", "step"], ignore_index=True))


def test_load_of_chosen_runs_only(store: Store) -> None:
    chosen, other = a_result(0.1), a_result(0.2)
    store.add([chosen, other])
    results = store.load([chosen.config.run_id, "unknown"])
    for table in (results.runs, results.curves, results.layers):
        assert set(table["run_id"]) == {chosen.config.run_id}


def test_settings_of_different_runs_share_a_table(store: Store) -> None:
    store.add([RunResult(a_run({"model.norm": "batch"})), RunResult(a_run({}, "optimizer=momentum"))])
    runs = store.load().runs
    assert runs["norm"].tolist() == ["batch", "none"]
    np.testing.assert_array_equal(runs["model.norm_options.eps"], [1e-5, NAN])
    np.testing.assert_array_equal(runs["optimizer.momentum"], [NAN, 0.9])


# Finished runs


def test_a_failed_run_gives_way_to_a_later_try(store: Store) -> None:
    failed = a_result(status="failed", test_accuracy=None, error="Traceback …")
    store.add([failed])
    assert store.finished() == set()
    assert store.load().runs["error"].tolist() == ["Traceback …"]
    store.add([a_result(layers=[])])
    results = store.load()
    assert results.runs["status"].tolist() == ["done"]
    assert results.runs["error"].isna().all()
    assert len(results.curves) == 2
    assert len(results.layers) == 0  # those of the failed try are gone
    assert store.finished() == {failed.config.run_id}


@pytest.mark.parametrize("status", ["done", "diverged"])
@pytest.mark.parametrize("later", ["done", "diverged", "failed"])
def test_a_finished_run_is_never_replaced(store: Store, status: str, later: str) -> None:
    store.add([a_result(status=status, seconds=1.0)])
    store.add([a_result(status=later, seconds=2.0, curves=[])])
    results = store.load()
    assert results.runs[["status", "seconds"]].to_numpy().tolist() == [[status, 1.0]]
    assert len(results.curves) == 2


@pytest.mark.parametrize(
    "bad",
    [
        a_result(0.2, status="lost"),
        a_result(0.2, curves=[{"step": 1}, {"step": 1}]),
        a_result(0.2, layers=[{"step": 1, "layer": None}]),
        a_result(0.2, curves=[{"step": 1, "train_loss": "high"}]),
    ],
    ids=["status", "twice the same step", "no layer", "type"],
)
def test_a_group_is_added_whole_or_not_at_all(store: Store, bad: RunResult) -> None:
    store.add([a_result(0.3)])
    with pytest.raises(InputError):
        store.add([a_result(0.1), bad])
    results = store.load()
    assert results.runs["lr"].tolist() == [0.3]
    assert set(results.curves["run_id"]) == set(results.layers["run_id"]) == set(results.runs["run_id"])
    store.add([a_result(0.1)])  # and the store is not locked


# Many at once


def test_the_journal_is_a_write_ahead_log(store: Store) -> None:
    assert query(store.path, "PRAGMA journal_mode") == [("wal",)]


def test_who_reads_does_not_wait_for_who_writes(store: Store) -> None:
    store.add([a_result(0.1)])
    writer = sqlite3.connect(store.path, isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM runs")
        assert len(store.load().runs) == 1
    finally:
        writer.close()


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """What ``work(i)`` gave or raised, all started at once."""
    start, ended = threading.Barrier(count), []

    def one(i: int) -> None:
        start.wait()
        try:
            ended.append(work(i))
        except Exception as error:
            ended.append(error)

    threads = [threading.Thread(target=one, args=[i]) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ended


def test_a_store_begun_many_times_at_once_is_begun_once(tmp_path: Path) -> None:
    for attempt in range(15):  # it takes a few to see a race
        folder = tmp_path / str(attempt)
        assert in_threads(4, partial(begin_and_add, folder)) == [None] * 4
        assert sorted(Store(folder).load().runs["lr"]) == [1, 2, 3, 4]
        assert query(folder / FILE, "PRAGMA journal_mode") == [("wal",)]


def begin_and_add(folder: Path, i: int) -> None:
    Store(folder, create=True).add([a_result(i + 1)])


def test_a_run_added_many_times_at_once_is_stored_once(store: Store) -> None:
    assert in_threads(4, lambda i: store.add([a_result(seconds=float(i))])) == [None] * 4
    results = store.load()
    assert (len(results.runs), len(results.curves)) == (1, 2)


# load()


@pytest.mark.parametrize("spelling", ["name", "folder", "file", "text"])
def test_load_by_name_or_path(store: Store, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    store.add([a_result()])
    folder = store.path.parent
    monkeypatch.chdir(folder.parent)
    results = {
        "name": lambda: load("sweep", results_dir=folder.parent),
        "folder": lambda: bnrepro.load(Path("sweep")),
        "file": lambda: load(store.path),
        "text": lambda: load(str(store.path)),
    }[spelling]()
    assert len(results.runs) == 1


def test_load_by_name_looks_in_results(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.path.parent
    (folder.parent / "results").mkdir()
    folder.rename(folder.parent / "results" / "sweep")
    monkeypatch.chdir(folder.parent)
    assert len(load("sweep").runs) == 0


@pytest.mark.parametrize("name", ["nothing", "no/such/folder", f"no/such/{FILE}"])
def test_a_missing_store_is_named_and_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"nothing|no/such") as error:
        load(name)
    assert FILE in str(error.value)
    assert list(tmp_path.iterdir()) == []


# Files that are not ours


def a_foreign_database(file: Path, application: int = 0, version: int = 0) -> None:
    query(file, "CREATE TABLE runs (run_id TEXT)")
    query(file, f"PRAGMA application_id = {application}")
    query(file, f"PRAGMA user_version = {version}")


def a_truncated_store(file: Path, cut: float) -> None:
    Store(file.parent, create=True).add([a_result(lr) for lr in range(1, 40)])
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * cut)])


def a_corrupt_store(file: Path) -> None:
    """Every page but the first is lost."""
    Store(file.parent, create=True).add([a_result(lr) for lr in range(1, 40)])
    content = file.read_bytes()
    file.write_bytes(content[:4096] + b"\x55" * (len(content) - 4096))


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "another program's database": (a_foreign_database, "not a store of bnrepro"),
    "another application id": (lambda file: a_foreign_database(file, 1), "not a store of bnrepro"),
    "an older schema": (lambda file: a_foreign_database(file, APPLICATION_ID, SCHEMA_VERSION - 1), "schema 0, "),
    "a newer schema": (lambda file: a_foreign_database(file, APPLICATION_ID, SCHEMA_VERSION + 1), "schema 2, "),
    "garbage": (lambda file: file.write_bytes(bytes(range(256)) * 40), "not a database"),
    "text": (lambda file: file.write_text("run_id,lr\n"), "not a database"),
    "half of a store": (lambda file: a_truncated_store(file, 0.5), "malformed"),
    "the start of a store": (lambda file: a_truncated_store(file, 0.02), "malformed"),
    "a corrupt store": (a_corrupt_store, "malformed"),
}


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("kind", FOREIGN)
def test_a_file_that_is_not_ours_is_refused_and_left_as_it_is(tmp_path: Path, kind: str, create: bool) -> None:
    file = tmp_path / FILE
    make, reason = FOREIGN[kind]
    make(file)
    before = file.read_bytes()
    with pytest.raises(InputError, match=reason) as error:
        Store(tmp_path, create=create).load()
    assert str(error.value).startswith(f"{file}: ")
    assert "\n" not in str(error.value)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_a_corrupt_page_is_reported_by_whatever_reads_it(tmp_path: Path) -> None:
    """Some pages are met when opening, others only by load or add."""
    a_truncated_store(tmp_path / FILE, 1.0)
    good = (tmp_path / FILE).read_bytes()
    reported = 0
    for page in range(1, len(good) // 4096):
        (tmp_path / FILE).write_bytes(good[: page * 4096] + b"\x55" * 4096 + good[(page + 1) * 4096 :])
        try:
            Store(tmp_path).load()
        except InputError:
            reported += 1
    assert reported >= 5


@pytest.mark.parametrize("folder", ["file", "file/below", "file/below/it"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError) as error:
        Store(tmp_path / folder / "sweep", create=True)
    assert str(error.value) == f"results_dir={tmp_path / folder}: can't be written (Not a directory)"


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(InputError, match="unable to open database file"):
        Store(tmp_path, create=True)


# Provenance


def test_provenance_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    software.cache_clear()
    try:
        assert software()["git_commit"] is None
        assert software()["numpy"] == np.__version__
    finally:
        software.cache_clear()
