"""What is stored comes back, once, whole or not at all; and nobody else's file is touched."""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runs import a_run, assert_same_results, part_of, query, without_added

import bnrepro
from bnrepro import store as module
from bnrepro.config import Inline, RunConfig
from bnrepro.errors import InputError
from bnrepro.provenance import environment, software
from bnrepro.recipe import Status
from bnrepro.store import (
    APPLICATION_ID,
    CLAIM_SECONDS,
    FILE,
    MIGRATIONS,
    SCHEMA_VERSION,
    Results,
    RunResult,
    Store,
)
from bnrepro.verify import verify

REQUIRED = {
    "run_id", "status", "dataset", "activation", "norm", "lr", "seed", "steps", "test_accuracy", "diverged_at",
    "seconds", "code", "bnrepro", "git_commit", "python", "numpy", "simd", "blas", "blas_kernel", "blas_threads",
    "machine",
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
    defaults: dict[str, Any] = {
        "test_accuracy": 0.75,
        "seconds": 1.5,
        "finished": "2026",
        "curves": curves,
        "layers": layers,
    }
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
    loaded = store.load([newer.config])
    assert loaded.curves["landscape_smoothness"].tolist() == [3.0]
    assert loaded.layers["p50"].tolist()[0] == 2.0
    assert loaded.layers["shift_norm"].isna().tolist() == [True, False]
    assert loaded.units.to_dict("list") == {
        "run_id": [newer.config.run_id] * 3,
        "step": [0, 0, 0],
        "unit": [1, 2, 3],
        "p50": [1.0, 2.0, 3.0],
    }
    older = store.load([a_result(0.1).config])
    assert older.curves["landscape_smoothness"].isna().all()
    assert older.layers["p15"].notna().all()


def test_what_is_added_is_loaded(store: Store) -> None:
    here = {"python": "3", "numpy": "2", "simd": "X86_V3", "blas": "openblas 1", "blas_kernel": "Zen", "machine": "m"}
    result = a_result(provenance=here | {"blas_threads": 1})
    store.add([result])
    loaded = store.load()
    (row,) = loaded.runs.to_dict("records")
    assert row.keys() >= REQUIRED
    expected = {
        "run_id": result.config.run_id, "status": "done", "dataset": "digits", "activation": "sigmoid", "norm": "none",
        "lr": 0.1, "seed": 0, "steps": 20, "test_accuracy": 0.75, "seconds": 1.5, "finished": "2026", "blas_threads": 1,
        "dataset.binarize": False, "model.hidden": [8], "model.init.std": 0.1, "train.batch_size": 60,
        "optimizer.name": "sgd", "code": result.config.code, **here, **software(),
    }  # fmt: skip
    assert {key: row[key] for key in expected} == expected
    assert math.isnan(row["diverged_at"])
    assert not {"run", "config"} & row.keys()
    assert loaded.curves.drop(columns="run_id").to_dict("records") == result.curves
    assert loaded.layers.drop(columns="run_id").to_dict("records") == result.layers
    assert set(loaded.curves["run_id"]) == set(loaded.layers["run_id"]) == {result.config.run_id}


def test_predictions_are_loaded_on_request_as_arrays_by_run(store: Store) -> None:
    probabilities = np.array([[0.125, 0.875], [1, 0], [6e-8, 1]], np.float16)
    labels = np.array([1, 0, 1], np.uint8)
    asked = a_result(predictions=[{"probabilities": probabilities.tobytes(), "labels": labels.tobytes()}])
    store.add([asked, a_result(0.2)])
    ((run_id, found),) = store.load().predictions.items()
    assert run_id == asked.config.run_id
    assert (found.probabilities.dtype.name, found.labels.dtype.name) == ("float16", "uint8")
    np.testing.assert_array_equal(found.probabilities, probabilities)
    np.testing.assert_array_equal(found.labels, labels)
    assert store.load([a_result(0.2).config]).predictions == {}
    store.add([dataclasses.replace(asked, predictions=[])], replace=True)
    assert store.load().predictions == {}


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
    results = store.load([chosen.config, a_run({"seed": 7})])
    for table in (results.runs, results.curves, results.layers):
        assert set(table["run_id"]) == {chosen.config.run_id}


def test_tables_of_measurements_are_read_at_first_use_and_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add([a_result()])
    read, tables = module._read, list[str]()

    def watched(db: sqlite3.Connection, table: str, chosen: Sequence[int]) -> pd.DataFrame:
        tables.append(table)
        return read(db, table, chosen)

    monkeypatch.setattr(module, "_read", watched)
    results = store.load()
    assert len(results.runs) == 1
    assert tables == ["runs"]
    assert results.layers is results.layers
    assert len(results.curves) == 2
    assert tables == ["runs", "layers", "curves"]


def test_results_of_given_tables() -> None:
    runs, curves, layers, units = (pd.DataFrame({"a": [number]}) for number in range(4))
    results = Results(runs, curves, layers=layers, units=units)
    for table, one in ((results.runs, runs), (results.curves, curves), (results.layers, layers)):
        assert table is one
    assert results.units is units


def test_where_a_run_was_computed_is_stored(store: Store) -> None:
    store.add([a_result(provenance=environment())])
    (row,) = store.load().runs.to_dict("records")
    assert environment().items() <= row.items()
    assert {"python", "numpy", "simd", "blas", "blas_kernel", "machine"} < environment().keys()


def test_numpy_without_features_of_the_cpu_above_its_baseline_is_recorded_as_such() -> None:
    found = " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))
    script = "from bnrepro.provenance import environment; print([environment()['simd']])"
    done = subprocess.check_output(
        [sys.executable, "-W", "error", "-c", script], env=os.environ | {"NPY_DISABLE_CPU_FEATURES": found}, text=True
    )
    assert done == "['']\n"


def test_settings_are_those_of_the_finished_runs(store: Store) -> None:
    results = [a_result(seed=seed, status=status) for seed, status in enumerate(("done", "failed", "diverged"))]
    store.add(results)
    done, _, diverged = (result.config for result in results)
    expected = [(run.run_id, run.code, run.to_dict()) for run in (done, diverged)]
    assert store.settings() == sorted(expected, key=lambda row: row[0])


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
    assert query(store.path, "SELECT count(*) FROM layers") == [(0,)]
    assert store.finished() == {(failed.config.run_id, failed.config.code)}


@pytest.mark.parametrize("status", ["done", "diverged"])
@pytest.mark.parametrize("later", ["done", "diverged", "failed"])
def test_a_finished_run_is_never_replaced(store: Store, status: str, later: str) -> None:
    store.add([a_result(status=status, seconds=1.0)])
    store.add([a_result(status=later, seconds=2.0, curves=[])])
    results = store.load()
    assert results.runs[["status", "seconds"]].to_numpy().tolist() == [[status, 1.0]]
    assert len(results.curves) == 2


@pytest.mark.parametrize("later", ["done", "diverged", "failed"])
def test_a_finished_run_is_replaced_if_asked_and_by_one_that_ended_well(store: Store, later: str) -> None:
    store.add([a_result(seconds=1.0), a_result(0.2)])
    before = store.load()
    store.add([a_result(status=later, seconds=2.0, curves=[], layers=[])], replace=True)
    results = store.load([a_result().config])
    replaced = later != "failed"
    assert results.runs[["status", "seconds"]].to_numpy().tolist() == [[later, 2.0] if replaced else ["done", 1.0]]
    assert len(results.curves) == (0 if replaced else 2)
    assert len(store.load().runs) == 2
    if replaced:  # what was loaded is not put together from two trainings
        with pytest.raises(InputError, match="trained again since they were loaded; load them again"):
            _ = before.curves


def of_code(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """From now on, runs are computed by other code."""
    monkeypatch.setattr(RunConfig, "code", code)


def test_what_other_code_computed_stays_beside_and_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run, only_old = a_result().config, a_result(0.2).config
    of_code(monkeypatch, "old")
    store.add([a_result(seconds=1.0), a_result(0.2)])
    assert store.of_other_code([run]) == {}
    of_code(monkeypatch, "new")
    assert store.of_other_code([run, only_old, a_run({"seed": 7})]) == {run.run_id: "old", only_old.run_id: "old"}
    assert len(store.load([run]).runs) == 0
    store.add([a_result(seconds=2.0, curves=[])])
    assert store.finished() == {(run.run_id, "old"), (run.run_id, "new"), (only_old.run_id, "old")}
    assert store.of_other_code([run, only_old]) == {only_old.run_id: "old"}
    new = store.load([run, only_old])
    assert new.runs[["run_id", "code", "seconds"]].to_numpy().tolist() == [[run.run_id, "new", 2.0]]
    assert len(new.curves) == 0
    of_code(monkeypatch, "old")
    old = store.load([run, only_old])
    assert old.runs["code"].tolist() == ["old", "old"]
    assert len(old.curves) == 4


def test_a_run_that_failed_is_not_finished_by_other_code(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    of_code(monkeypatch, "old")
    store.add([a_result(status="failed")])
    of_code(monkeypatch, "new")
    assert store.of_other_code([a_result().config]) == {}


def test_a_whole_store_is_loaded_as_last_stored_and_says_if_that_mixes_code(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_code(monkeypatch, "old")
    store.add([a_result(0.1), a_result(0.2)])
    of_code(monkeypatch, "new")
    store.add([a_result(0.1, curves=[])])
    with pytest.warns(UserWarning, match="2 versions of the code; column code tells which$") as warned:
        results = bnrepro.load(store.path)
    assert [Path(warning.filename) for warning in warned] == [Path(__file__)]
    assert results.runs["code"].tolist() == ["new", "old"]
    assert len(results.curves) == 2
    store.add([a_result(0.2)])
    assert bnrepro.load(store.path).runs["code"].tolist() == [
        "new",
        "new",
    ]  # without a warning, which would be an error


# Stores of an earlier schema


WITH_OPTIONS = {"model.norm": "batch", "model.norm_options": {"eps": 1e-3}}
OLD_RUNS: list[dict[str, Any]] = [
    {},
    {"model.norm": "batch"},
    WITH_OPTIONS,
    {"model.norm": "bnrepro.batchnorm.BatchNorm"},
]


@pytest.fixture
def old_store(store: Store) -> Path:
    """The file of a store as schema 2 had it: ids are digests of all settings, with the norm's own defaults."""
    store.add(RunResult(a_run(changes), curves=[{"step": 0, "train_loss": 0.5}]) for changes in OLD_RUNS)
    for run_id, config in query(store.path, "SELECT run_id, config FROM runs"):
        config = json.dumps(without_added(json.loads(config)), sort_keys=True)  # there was no choice
        old = hashlib.sha256(config.encode()).hexdigest()[:16]
        query(store.path, f"UPDATE runs SET run_id = '{old}', config = '{config}' WHERE run_id = '{run_id}'")
    make_old(store.path, 2)
    return store.path


def make_old(file: Path, version: int) -> None:
    """Make a store, but for its ids, one of an earlier schema."""
    query(file, "ALTER TABLE runs DROP COLUMN note")
    if version < 5:
        query(file, "ALTER TABLE runs DROP COLUMN finished")
    if version < 4:
        for column in ("validation_accuracy", "cpu", "host", "numba"):
            query(file, f"ALTER TABLE runs DROP COLUMN {column}")
        query(file, "DROP TABLE predictions")
    query(file, f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("version", range(3, SCHEMA_VERSION))
def test_a_store_of_a_later_schema_is_migrated_on_opening(store: Store, version: int) -> None:
    store.add([a_result()])
    make_old(store.path, version)
    again = Store(store.path.parent)
    assert query(store.path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert again.load().predictions == {}
    again.add([a_result(0.2, predictions=[{"probabilities": b"00", "labels": b"0"}])])
    assert len(again.load().predictions) == 1


@pytest.mark.parametrize("create", [False, True])
def test_a_store_of_the_schema_before_is_migrated_on_opening(old_store: Path, create: bool) -> None:
    before = query(old_store, "SELECT run, status, config, code FROM runs ORDER BY run")
    runs = [a_run(changes) for changes in OLD_RUNS]
    store = Store(old_store.parent, create=create)
    assert store.finished() == {(run.run_id, run.code) for run in runs}
    assert len(store.load(runs).curves) == len(runs)
    assert query(old_store, "SELECT run, status, config, code FROM runs ORDER BY run") == before
    assert query(old_store, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert store.load(runs).predictions == {}
    assert [path.name for path in old_store.parent.iterdir()] == [FILE]
    assert Store(old_store.parent).finished() == store.finished()


def test_a_migration_that_fails_leaves_the_store_as_it_was_and_a_copy_beside_it(
    old_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "SELECT * FROM runs ORDER BY run"
    before = query(old_store, rows)

    def halfway(db: sqlite3.Connection) -> None:
        db.execute("UPDATE runs SET run_id = run_id || 'x'")
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setitem(MIGRATIONS, 2, halfway)
        with pytest.raises(InputError, match=r"can't be used as a store of runs \(disk I/O error\)"):
            Store(old_store.parent)
    kept = old_store.with_name(f"{FILE}.schema2")
    for file in (old_store, kept):
        assert query(file, rows) == before
        assert query(file, "PRAGMA user_version") == [(2,)]
    assert Store(old_store.parent).finished() == {(run.run_id, run.code) for run in map(a_run, OLD_RUNS)}
    assert not kept.exists()


def test_a_store_migrated_by_many_at_once_is_migrated_once(old_store: Path) -> None:
    in_threads(4, lambda i: Store(old_store.parent))
    assert Store(old_store.parent).finished() == {(run.run_id, run.code) for run in map(a_run, OLD_RUNS)}


def test_an_old_store_that_cannot_be_written_is_named(old_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=rf"of schema 2, and can't be written to be brought to {SCHEMA_VERSION}$"):
        Store(old_store.parent)


def test_a_class_by_its_import_path_is_no_other_version_of_the_code(store: Store) -> None:
    mistake = a_run({"model.norm": "bnrepro.experiments.wrong_layers.BiasedVariance"})
    assert mistake.code != a_run().code
    store.add([a_result(), RunResult(mistake)])
    assert len(bnrepro.load(store.path).runs) == 2  # without a warning, which would be an error


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


def begin_and_add(folder: Path, i: int) -> None:
    Store(folder, create=True).add([a_result(i + 1)])


BEGUN = """
import os, sys
from pathlib import Path
from runs import a_run
from bnrepro.store import RunResult, Store

results = [RunResult(a_run({"seed": seed})) for seed in range(8)]
for attempt in range(3):  # it takes a few to see a race
    (waiting, go), children = os.pipe(), []
    for result in results:
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(waiting, 1)  # until every end of the pipe is closed
            Store(Path(sys.argv[1], str(attempt)), create=True).add([result])
            os._exit(0)
        children.append(child)
    os.close(go)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
"""


def test_a_store_begun_by_eight_processes_at_once_is_begun_once(tmp_path: Path) -> None:
    done = in_a_process(BEGUN, tmp_path / "new")
    assert (done.returncode, done.stderr) == (0, "")
    for folder in (tmp_path / "new").iterdir():
        assert sorted(Store(folder).load().runs["seed"]) == list(range(8))


def test_a_run_added_many_times_at_once_is_stored_once(store: Store) -> None:
    assert in_threads(4, lambda i: store.add([a_result(seconds=float(i))])) == [None] * 4
    results = store.load()
    assert (len(results.runs), len(results.curves)) == (1, 2)


# Claims


@pytest.fixture
def wanted() -> list[RunConfig]:
    return [a_run({"seed": seed}) for seed in range(3)]


def test_what_one_has_claimed_another_does_not_get(store: Store, wanted: list[RunConfig]) -> None:
    first, second, third = wanted
    assert store.claim([first, second], "a") == [first, second]
    assert store.claim(wanted, "b") == [third]
    assert store.claim(wanted, "a") == [first, second]  # again
    store.release("a")
    assert store.claim(wanted, "b") == wanted


def test_what_is_finished_is_not_claimed_unless_asked(store: Store, wanted: list[RunConfig]) -> None:
    statuses: tuple[Status, ...] = ("done", "diverged", "failed")
    store.add(RunResult(run, status=status) for run, status in zip(wanted, statuses, strict=True))
    assert store.claim(wanted, "a") == [wanted[2]]
    assert store.claim(wanted, "b", replace=True) == wanted[:2]


def test_what_other_code_has_finished_or_claimed_is_free(
    store: Store, wanted: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    store.add([RunResult(wanted[0])])
    store.claim(wanted, "a")
    of_code(monkeypatch, "other")
    assert store.claim(wanted, "b") == wanted


@pytest.mark.parametrize("status", ["done", "failed"])
def test_what_is_stored_is_no_longer_claimed(store: Store, wanted: list[RunConfig], status: Status) -> None:
    store.claim(wanted, "a")
    store.add([RunResult(wanted[0], status=status)])
    assert query(store.path, "SELECT count(*) FROM claims") == [(2,)]
    assert store.claim(wanted, "b") == ([] if status == "done" else wanted[:1])


def test_a_claim_ends_with_its_process(store: Store, wanted: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as owner:
        with monkeypatch.context() as as_owner:
            as_owner.setattr("bnrepro.store.os.getpid", lambda: owner.pid)
            store.claim(wanted, "a")
        assert store.claim(wanted, "b") == []
        owner.kill()
    assert store.claim(wanted, "b") == wanted


def test_a_process_on_another_machine_is_not_looked_for_here(
    store: Store, wanted: list[RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("bnrepro.store.os.getpid", lambda: ended.pid)
        elsewhere.setattr("bnrepro.store.platform.node", lambda: "elsewhere")
        store.claim(wanted, "a")
    assert store.claim(wanted, "b") == []


class Clocks:
    """The clocks of this machine, which a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.elapsed, self.ahead = 0.0, 0.0
        start = time.time()
        monkeypatch.setattr("bnrepro.store.time.monotonic", lambda: self.elapsed)
        monkeypatch.setattr("bnrepro.store.time.time", lambda: start + self.elapsed + self.ahead)


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


@pytest.mark.parametrize("ahead", [0, 3600, -3600], ids=["same clock", "an hour ahead", "an hour behind"])
def test_a_claim_ends_without_a_heartbeat_while_another_looks(
    store: Store, wanted: list[RunConfig], clocks: Clocks, ahead: float
) -> None:
    store.claim(wanted, "a")
    clocks.ahead = ahead  # another machine's, or this one's has been set
    other = Store(store.path.parent)
    clocks.elapsed += 10 * CLAIM_SECONDS  # nobody looked
    assert other.claim(wanted, "b") == []
    clocks.elapsed += CLAIM_SECONDS - 1
    assert other.claim(wanted, "b") == []
    clocks.elapsed += 2
    assert other.claim(wanted, "b") == wanted


@pytest.mark.parametrize("ahead", [0, 3600, -3600], ids=["same clock", "an hour ahead", "an hour behind"])
def test_a_heartbeat_keeps_claims_whatever_the_clocks_say(
    store: Store, wanted: list[RunConfig], clocks: Clocks, ahead: float
) -> None:
    store.claim(wanted, "a")
    other = Store(store.path.parent)
    for _ in range(5):
        clocks.ahead = ahead
        assert other.claim(wanted, "b") == []
        clocks.elapsed += CLAIM_SECONDS * 0.6
        clocks.ahead = 0
        store.heartbeat("a")


def test_claims_at_once_share_the_runs(store: Store) -> None:
    runs = [a_run({"seed": seed}) for seed in range(40)]
    claimed: Any = in_threads(4, lambda i: [r for k in range(0, 40, 4) for r in store.claim(runs[k : k + 4], str(i))])
    assert sorted(run.seed for part in claimed for run in part) == list(range(40))


# Kills, full disks, permissions

KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from runs import a_run
from bnrepro.store import RunResult, Store

folder, rng = Path(sys.argv[1]), random.Random(0)
store = Store(folder, create=True)
measured = [{"step": step, "layer": 1, "p50": 0.5} for step in range(100)]

def add(seed):
    store.add(RunResult(a_run({"seed": seed + i}), layers=measured) for i in range(3))
    (folder.parent / "reported").write_text(str(seed + 3))

add(0)
torn = 0
for _ in range(20):
    child = os.fork()
    if child == 0:
        for seed in range(len(store.finished()), 10**6, 3):
            add(seed)
    time.sleep(rng.uniform(0.02, 0.2))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    torn += (folder / "runs.sqlite-journal").exists()
print(torn)
"""


def in_a_process(script: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    return subprocess.run(
        [*options.pop("before", ()), sys.executable, "-c", script, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_what_is_reported_as_stored_is_there_whole_whenever_the_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    done = in_a_process(KILLED, folder)
    assert (done.returncode, done.stderr) == (0, "")
    results = Store(folder, create=True).load()
    count = len(results.runs)
    assert sorted(results.runs["seed"]) == list(range(count))
    assert count % 3 == 0
    assert count >= int((tmp_path / "reported").read_text() or 3)  # it is empty if the writing of it was killed
    assert results.layers.groupby("run_id").size().tolist() == [100] * count
    assert int(done.stdout) > 0  # else nothing was killed while it wrote


def test_a_group_is_on_the_disk_before_it_is_reported(store: Store) -> None:
    with store._transaction() as db:
        assert db.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
        assert db.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [-4096, 0, 1, 4096, 5 * 4096])
def test_a_file_that_cannot_grow_keeps_what_it_has(store: Store, room: int) -> None:
    store.add([a_result(lr) for lr in (1, 2, 3)])
    before = store.load()
    curve = [{"step": step, "train_loss": 0.5} for step in range(2000)]
    group = [a_result(lr, curves=curve) for lr in (4, 5)]
    with files_of_at_most(store.path.stat().st_size + room):
        with pytest.raises(InputError) as error:
            store.add(group)
        assert_same_results(store.load(), before)
    assert re_one_line(error.value).endswith(
        "(disk I/O error); is the disk full? Once it is not, the same command goes on"
    )
    assert_same_results(store.load(), before)
    assert query(store.path, "PRAGMA integrity_check") == [("ok",)]
    store.add(group)
    assert len(store.load().runs) == 5


def re_one_line(error: InputError) -> str:
    (line,) = str(error).splitlines()
    return line


@pytest.mark.parametrize("size", [0, 100, 4096, 20000])
def test_a_store_that_could_not_be_begun_is_begun_later(tmp_path: Path, size: int) -> None:
    with files_of_at_most(size), pytest.raises(InputError, match="is the disk full"):
        Store(tmp_path, create=True)
    with pytest.raises(InputError, match=r"empty; no run has been stored in it$"):
        Store(tmp_path)
    store = Store(tmp_path, create=True)
    store.add([a_result()])
    assert len(store.load().runs) == 1


FULL_DISK = """
import itertools, sys
from pathlib import Path
from runs import a_run
from bnrepro.errors import InputError
from bnrepro.store import RunResult, Store

store = Store(Path(sys.argv[1]), create=True)
curve = [{"step": step, "train_loss": 0.5} for step in range(200)]
try:
    for seed in itertools.count(0, 3):
        store.add([RunResult(a_run({"seed": seed + i}), curves=curve) for i in range(3)])
except InputError as error:
    print(error)
results = Store(Path(sys.argv[1])).load()
print(seed, len(results.runs), len(results.curves))
"""


def test_a_full_disk_keeps_what_it_has(tmp_path: Path) -> None:
    mounted = 'mount -t tmpfs -o size=300k tmpfs "$0" && exec "$@"'
    before = ["unshare", "--mount", "--map-root-user", "sh", "-c", mounted, str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    done = in_a_process(FULL_DISK, tmp_path, before=before)
    assert (done.returncode, done.stderr) == (0, "")
    line, counts = done.stdout.splitlines()
    assert line.startswith(f"{tmp_path / FILE}: can't be used as a store of runs (database or disk is full); ")
    reported, runs, rows = map(int, counts.split())
    assert reported == runs > 0
    assert rows == 200 * runs


@pytest.fixture
def permissions() -> Iterator[Callable[[], None]]:
    """A function after which permissions count, which the superuser need not heed."""
    users = os.getresuid()
    yield lambda: os.setresuid(65534, 65534, users[2]) if users[1] == 0 else None
    os.setresuid(*users)


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A folder that everybody can read; those of pytest are its user's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        for path in Path(folder).rglob("*"):
            path.chmod(0o755)


def test_a_store_that_may_only_be_read_is_read_and_not_written(
    open_to_all: Path, permissions: Callable[[], None]
) -> None:
    store = Store(open_to_all / "sweep", create=True)
    store.add([a_result()])
    store.path.chmod(0o444)
    store.path.parent.chmod(0o555)
    before = store.path.read_bytes()
    permissions()
    assert len(bnrepro.load(store.path).curves) == 2
    with pytest.raises(InputError, match=r"sweep: can't be written; name another results_dir$"):
        Store(store.path.parent, create=True)
    for write in (lambda: store.add([a_result(0.2)]), lambda: store.claim([a_run({"seed": 7})], "a")):
        with pytest.raises(InputError, match="readonly database"):
            write()
    assert store.path.read_bytes() == before


def test_a_folder_that_may_not_be_written_is_named(open_to_all: Path, permissions: Callable[[], None]) -> None:
    (open_to_all / "sweep").mkdir(0o555)
    permissions()
    with pytest.raises(InputError, match=r"sweep: can't be written; name another results_dir$"):
        Store(open_to_all / "sweep", create=True)
    with pytest.raises(InputError, match=r"can't be written \(Permission denied\)$"):
        Store(open_to_all / "sweep" / "below", create=True)


# Results


def test_results_say_how_many_runs_ended_how_and_what_varies(store: Store) -> None:
    assert repr(store.load()) == "0 runs"
    store.add([a_result(0.1, test_accuracy=None, status="diverged", diverged_at=3)])
    assert repr(store.load()) == "1 run: 1 diverged"
    store.add([a_result(0.2), a_result(0.2, seed=1), RunResult(a_run({"model.norm": "batch"}), status="failed")])
    assert repr(store.load()) == "4 runs: 2 done, 1 diverged, 1 failed; varies: norm, lr, seed"


def test_what_varies_is_in_every_table_beside_what_was_measured(store: Store) -> None:
    store.add([a_result(0.2, seed=1), a_result(0.1)])
    results = store.load()
    assert [*results.curves][:4] == ["run_id", "lr", "seed", "step"]
    for table in (results.curves, results.layers):
        settings = results.runs.set_index("run_id").loc[table["run_id"], ["lr", "seed"]]
        np.testing.assert_array_equal(table[["lr", "seed"]], settings)
    pd.testing.assert_frame_equal(results.curves.drop(columns=["lr", "seed"]), results.table("curves"))
    assert results.table("runs") is results.runs
    assert [*results.table("layers")][:4] == ["run_id", "step", "layer", "p15"]
    assert len(results.units) == 0


def test_lists_are_joined_as_text_that_rows_can_be_grouped_by(store: Store) -> None:
    curves = [{"step": 0, "train_loss": 1.0, "test_accuracy": 0.5, "gradient_norm": 1.0}]
    store.add(RunResult(a_run({"model.hidden": hidden}), curves=curves) for hidden in ([8], [8, 4]))
    results = store.load()
    assert repr(results) == "2 runs: 2 done; varies: model.hidden"
    assert results.curves.groupby("model.hidden").size().to_dict() == {"[8]": 1, "[8, 4]": 1}
    assert sorted(results.runs["model.hidden"], key=len) == [[8], [8, 4]]


def test_results_of_a_part_have_what_varies_in_it(store: Store) -> None:
    store.add([a_result(0.2), a_result(0.2, seed=1), a_result(0.1)])
    results = part_of(store.load(), "seed == 0")
    assert [*results.curves][:3] == ["run_id", "lr", "step"]
    assert [*part_of(results, "lr == 0.1").curves][:2] == ["run_id", "step"]
    assert [*part_of(results, "lr == 0.1").table("curves")] == [*results.table("curves")]


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


def a_damaged_statement(file: Path, old: bytes, new: bytes) -> None:
    """What SQLite says of it quotes the statement."""
    Store(file.parent, create=True).add([a_result()])
    content = file.read_bytes()
    assert content.count(old) == 1
    file.write_bytes(content.replace(old, new))


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "another program's database": (a_foreign_database, "not a store of bnrepro"),
    "another application id": (lambda file: a_foreign_database(file, 1), "not a store of bnrepro"),
    "an older schema": (
        lambda file: a_foreign_database(file, APPLICATION_ID, 1),
        rf"schema 1, this version of bnrepro reads and writes {SCHEMA_VERSION}; name another results_dir$",
    ),
    "a newer schema": (
        lambda file: a_foreign_database(file, APPLICATION_ID, SCHEMA_VERSION + 1),
        f"schema {SCHEMA_VERSION + 1}, ",
    ),
    "garbage": (lambda file: file.write_bytes(bytes(range(256)) * 40), "not a database"),
    "text": (lambda file: file.write_text("run_id,lr\n"), "not a database"),
    "half of a store": (lambda file: a_truncated_store(file, 0.5), "malformed"),
    "the start of a store": (lambda file: a_truncated_store(file, 0.02), "malformed"),
    "a corrupt store": (a_corrupt_store, "malformed"),
    "a damaged schema": (
        lambda file: a_damaged_statement(file, b"blas_kernel TEXT", b"[las_kernel TEXT"),
        "unrecognized",
    ),
    "a schema that is no UTF-8": (
        lambda file: a_damaged_statement(file, b"blas_kernel TEXT", b"[\xff\xfes_kernel TEXT"),
        "malformed",
    ),
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


def test_a_corrupt_page_is_reported_before_anything_is_written(tmp_path: Path) -> None:
    a_truncated_store(tmp_path / FILE, 1.0)
    good = (tmp_path / FILE).read_bytes()
    for page in range(1, len(good) // 4096):
        (tmp_path / FILE).write_bytes(good[: page * 4096] + b"\x55" * 4096 + good[(page + 1) * 4096 :])
        with pytest.raises(InputError, match="malformed"):
            Store(tmp_path, create=True)


@pytest.mark.parametrize("create", [True, False])
def test_a_store_cut_short_anywhere_is_refused_and_left_as_it_is(tmp_path: Path, create: bool) -> None:
    file = tmp_path / FILE
    a_truncated_store(file, 1.0)
    good = file.read_bytes()
    for size in [2, 15, 16, 99, 100, 4095, *range(4096, len(good), 3000), len(good) - 1]:
        file.write_bytes(good[:size])
        with pytest.raises(InputError, match=r"move it away or name another results_dir$"):
            Store(tmp_path, create=create).load()
        assert file.read_bytes() == good[:size]


EDITED = {
    "settings cut": (
        """UPDATE runs SET config = replace(config, '"seed": 0', '"seed": ' || char(0))""",
        "settings of a",
    ),
    "settings empty": ("UPDATE runs SET config = ''", "settings of a run: Expecting value"),
    "settings a list": ("UPDATE runs SET config = '[1]'", "settings of a run: not an object"),
    "text that is no UTF-8": ("UPDATE runs SET error = CAST(x'ff' AS TEXT)", "[Cc]ould not decode|malformed"),
    "no table": ("DROP TABLE layers", "no such table: layers"),
    "no column of a setting": ("ALTER TABLE runs DROP COLUMN lr", "no column lr in table runs"),
    "no column of settings": ("ALTER TABLE runs DROP COLUMN config", "no column config in table runs|no such column"),
    "another column": ("ALTER TABLE runs RENAME COLUMN test_accuracy TO accuracy", "no column test_accuracy in table"),
}


@pytest.mark.parametrize(("edit", "reason"), EDITED.values(), ids=EDITED)
def test_a_store_edited_by_hand_is_one_line(store: Store, edit: str, reason: str) -> None:
    store.add([a_result()])
    query(store.path, edit)
    with pytest.raises(InputError, match=rf"can't be used as a store of runs \(({reason})") as error:
        _ = store.load().layers
    re_one_line(error.value)


@pytest.mark.parametrize("config", ["{}", '{"model": 3}', '{"dataset": 7}', '{"dataset": {"name": [1]}}'])
def test_settings_that_are_of_no_run_are_of_none_that_is_verified(store: Store, config: str) -> None:
    store.add([a_result()])
    query(store.path, f"UPDATE runs SET config = '{config}'")
    with pytest.raises(InputError, match="no finished run of the code in place"):
        verify(store.path.parent, 1, Inline(group_size=None), {"name": "digits", "binarize": False})
    make_old(store.path, 2)
    assert len(Store(store.path.parent).settings()) == 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of a store."""
    store = Store(tmp_path_factory.mktemp("whole"), create=True)
    store.add([a_result(lr) for lr in range(1, 12)])
    return store.path.read_bytes()


@given(st.data(), st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_damage_of_a_store_is_read_or_one_line_and_left_as_it_is(
    whole: bytes, data: st.DataObject, create: bool
) -> None:
    damaged = bytearray(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))), "size")])
    places = st.one_of(st.integers(0, 99), st.integers(0, len(whole)))  # the header of 100 bytes, or anywhere
    for start, written in data.draw(st.lists(st.tuples(places, st.binary(min_size=1, max_size=40)), max_size=9)):
        damaged[start : start + len(written)] = written
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "runs computed by")
        file = Path(folder) / FILE
        file.write_bytes(damaged)
        try:
            store = Store(file.parent, create=create)
            results = store.load()
            store.settings()
            _ = results.curves, results.layers, results.units
        except InputError as error:
            re_one_line(error)
        assert (create and not damaged) or file.read_bytes() == damaged
        assert [path.name for path in file.parent.iterdir()] == [FILE]


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
