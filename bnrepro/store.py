"""Finished runs, in and out: one SQLite file per sweep, written in one transaction per finished group."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import threadpoolctl

from .config import ROOT, RunConfig
from .errors import InputError

if TYPE_CHECKING:
    import pandas as pd

FILE = "runs.sqlite"
APPLICATION_ID = 0x626E7265  # "bnre": marks the file as ours
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    run_id TEXT PRIMARY KEY,
    status TEXT NOT NULL CHECK (status IN ('done', 'diverged', 'failed')),
    dataset TEXT, activation TEXT, norm TEXT, lr REAL, seed INTEGER, steps INTEGER,
    test_accuracy REAL,   -- on the whole test set after the last step; NULL unless done
    diverged_at INTEGER,  -- updates done before the loss left the finite range
    seconds REAL,         -- wall-clock time of its group, shared equally among the group's runs
    error TEXT,           -- traceback of a failed run
    config TEXT NOT NULL, -- JSON of all settings, of which run_id is the digest
    bnrepro TEXT, git_commit TEXT, python TEXT, numpy TEXT,
    blas TEXT, blas_kernel TEXT, blas_threads INTEGER, machine TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS curves (
    run_id TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, step INTEGER NOT NULL,
    train_loss REAL, test_accuracy REAL, gradient_norm REAL,
    PRIMARY KEY (run_id, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layers (
    run_id TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, step INTEGER NOT NULL, layer INTEGER NOT NULL,
    PRIMARY KEY (run_id, step, layer)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (
    run_id TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, step INTEGER NOT NULL, unit INTEGER NOT NULL,
    PRIMARY KEY (run_id, step, unit)
) STRICT, WITHOUT ROWID;
"""


@dataclass
class RunResult:
    """What became of one run."""

    config: RunConfig
    status: str = "done"
    test_accuracy: float | None = None
    diverged_at: int | None = None
    seconds: float = 0.0
    error: str | None = None
    curves: list[dict[str, float]] = field(default_factory=list)
    layers: list[dict[str, float]] = field(default_factory=list)
    units: list[dict[str, float]] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The row of table ``runs``."""
        settings = self.config.to_dict()
        return (
            {
                "run_id": self.config.run_id,
                "status": self.status,
                "dataset": settings["dataset"]["name"],
                "activation": settings["model"].get("activation"),
                "norm": settings["model"].get("norm"),
                "lr": self.config.lr,
                "seed": self.config.seed,
                "steps": self.config.train.steps,
                "test_accuracy": self.test_accuracy,
                "diverged_at": self.diverged_at,
                "seconds": self.seconds,
                "error": self.error,
                "config": json.dumps(settings, sort_keys=True),
            }
            | self.provenance
            | software()
        )


@dataclass(frozen=True)
class Results:
    """Tidy tables: one row per run; per run and step; and per layer or unit of these (1 is the first).

    ``curves``, ``layers`` and ``units`` have the columns of the diagnostics that were on.
    """

    runs: pd.DataFrame
    curves: pd.DataFrame
    layers: pd.DataFrame
    units: pd.DataFrame


@functools.cache
def software() -> dict[str, Any]:
    """Versions that can matter to the bits of a result, and the commit of this checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git
        commit = ""
    return {
        "bnrepro": importlib.metadata.version("bnrepro"),
        "git_commit": commit or None,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def blas() -> dict[str, Any]:
    """The BLAS that NumPy runs on in this process: its name and version, kernel and threads in force."""
    found = [lib for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"]
    # SciPy brings an OpenBLAS of its own; NumPy's is the one that products go through.
    lib = next((lib for lib in found if "numpy" in lib["filepath"]), found[0] if found else {})
    return {
        "blas": f"{lib['internal_api']} {lib['version']}" if lib else None,
        "blas_kernel": lib.get("architecture"),
        "blas_threads": lib.get("num_threads"),
        "machine": platform.machine(),
    }


class Store:
    """The runs of one sweep in ``folder/runs.sqlite``."""

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        """Open the store, or begin it if ``create``.

        Raises:
            InputError: if it is not there, can't be written, or was written by something else.
        """
        self.path = folder / FILE
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"results_dir={folder.parent}: can't be written ({error.strerror})") from error
        elif not self.path.is_file():
            raise InputError(f"{self.path}: no such store of runs")
        with self._connect() as db:
            (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if tables == 0 and application == 0 and create:
                db.executescript(  # IF NOT EXISTS: another process may have begun it since
                    f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                    f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
            elif application != APPLICATION_ID:
                raise InputError(f"{self.path}: not a store of bnrepro; name another results_dir")
            elif version != SCHEMA_VERSION:
                raise InputError(
                    f"{self.path}: schema {version}, this version of bnrepro reads and writes {SCHEMA_VERSION}; "
                    "name another results_dir"
                )
            if create:
                with suppress(sqlite3.OperationalError):  # locked by another process, which is doing the same
                    db.execute("PRAGMA journal_mode = WAL")

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """A connection in autocommit mode; what SQLite can't do is reported as bad input."""
        try:
            db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            try:
                yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: can't be used as a store of runs ({error})") from error

    def add(self, results: Iterable[RunResult]) -> None:
        """Store finished runs in one transaction. A failed run gives way to a later try; nothing else is replaced."""
        results = list(results)
        with self._connect() as db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("BEGIN IMMEDIATE")
            taken = self._finished(db)
            for result in (r for r in results if r.config.run_id not in taken):
                run_id = result.config.run_id
                db.execute("DELETE FROM runs WHERE run_id = ?", [run_id])
                _insert(db, "runs", [result.row()])
                for table in ("curves", "layers", "units"):
                    _insert(db, table, [{"run_id": run_id} | row for row in getattr(result, table)])
            db.execute("COMMIT")

    def finished(self) -> set[str]:
        """Ids of the runs that are done or diverged: they are never trained again."""
        with self._connect() as db:
            return self._finished(db)

    @staticmethod
    def _finished(db: sqlite3.Connection) -> set[str]:
        return {run_id for (run_id,) in db.execute("SELECT run_id FROM runs WHERE status != 'failed'")}

    def load(self, run_ids: Iterable[str] | None = None) -> Results:
        """The stored runs, or those asked for, as DataFrames in an order that does not depend on who finished first.

        Table ``runs`` has every setting as a column with a dotted name, except those with a column of their own.
        """
        import pandas as pd

        with self._connect() as db:
            tables = [_read(db, table) for table in ("runs", "curves", "layers", "units")]
        if run_ids is not None:
            wanted = set(run_ids)
            tables = [t[t["run_id"].isin(wanted)].reset_index(drop=True) for t in tables]
        runs, *measured = tables
        settings = pd.json_normalize([json.loads(text) for text in runs["config"]])
        settings.index = runs.index
        own_column = ["dataset.name", "model.activation", "model.norm", "optimizer.lr", "seed", "train.steps"]
        runs = runs.drop(columns="config").join(settings.drop(columns=own_column, errors="ignore"))
        order = ["dataset", "activation", "norm", "lr", "seed", "run_id"]
        runs = runs.sort_values(order, ignore_index=True)
        return Results(runs, *measured)


def _insert(db: sqlite3.Connection, table: str, rows: list[dict[str, Any]]) -> None:
    """Insert rows, whose keys may differ; a measure that the table has not seen yet becomes a column of it."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    known = {name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")}
    for name in names:
        if name not in known:
            db.execute(f'ALTER TABLE {table} ADD COLUMN "{name}" REAL')
    columns = ", ".join(f'"{name}"' for name in names)
    values = ", ".join("?" * len(names))
    if rows:
        db.executemany(
            f"INSERT INTO {table} ({columns}) VALUES ({values})", [[row.get(name) for name in names] for row in rows]
        )


def _read(db: sqlite3.Connection, table: str) -> pd.DataFrame:
    """All rows; NULL is NaN in a column of numbers, even if it is NULL in every row."""
    import pandas as pd

    rows = db.execute(f"SELECT * FROM {table} ORDER BY run_id")
    frame = pd.DataFrame(rows.fetchall(), columns=[column[0] for column in rows.description])
    types = {name: kind for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")}
    return frame.astype({name: float for name in types if types[name] == "REAL" or name == "diverged_at"})


def load(name_or_path: str | Path, results_dir: str | Path = "results") -> Results:
    """Load a sweep by its name in ``results_dir``, or by the path of its folder or file.

    Returns:
        ``.runs``, ``.curves`` and ``.layers``, as :meth:`Store.load` describes.

    Raises:
        InputError: if there is no such store.
    """
    path = Path(name_or_path)
    if path.name == FILE:
        path = path.parent
    elif not (path / FILE).is_file():
        path = Path(results_dir) / path
    return Store(path).load()
