"""Finished runs, in and out: one SQLite file per sweep, written in one transaction per finished group.

The file has a rollback journal and not a write-ahead log, which needs memory shared by all who open it: sweeps on two
machines would corrupt a store on a network file system, and nobody could read one in a folder that can't be written.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from .config import COLUMNS, SETTING_COLUMNS, RunConfig, declared_settings
from .errors import InputError
from .layers import Array
from .measuring import ALWAYS
from .provenance import digest, software
from .recipe import NORMS, Outcome
from .settings import flatten, to_json, to_override

if TYPE_CHECKING:
    import pandas as pd

    Measured = pd.DataFrame | Callable[[], pd.DataFrame]

FILE = "runs.sqlite"
APPLICATION_ID = 0x626E7265  # "bnre": marks the file as ours
SCHEMA_VERSION = 6
AFFINITIES = {float: "REAL", int: "INTEGER", str: "TEXT"}
_OWN_COLUMNS = ", ".join(
    f"{found.setting.column} {AFFINITIES[found.kind]}" for found in declared_settings() if found.setting.column
)
PREDICTIONS = """
CREATE TABLE IF NOT EXISTS predictions ( -- of the runs that were asked for them
    run INTEGER PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
    probabilities BLOB NOT NULL, -- of each class for each test example after the last step, in turn: float16
    labels BLOB NOT NULL         -- of the test examples: uint8
) STRICT;
"""
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS runs (
    run INTEGER PRIMARY KEY AUTOINCREMENT,  -- in the order in which they were stored
    run_id TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('done', 'diverged', 'failed')),
    {_OWN_COLUMNS},
    test_accuracy REAL,   -- on the whole test set after the last step; NULL unless done
    validation_accuracy REAL, -- likewise, on the training images that were held out; NULL unless some were
    diverged_at INTEGER,  -- updates done before the loss left the finite range
    seconds REAL,         -- wall-clock time of its group, shared equally among the group's runs
    finished TEXT,        -- the time at which its group ended, in UTC
    error TEXT,           -- traceback of a failed run
    config TEXT NOT NULL, -- JSON of all settings; run_id is the digest of those that are not at their default
    code TEXT NOT NULL,   -- digest of the code that computed it
    bnrepro TEXT, git_commit TEXT, python TEXT, numpy TEXT, simd TEXT,
    blas TEXT, blas_kernel TEXT, blas_threads INTEGER, machine TEXT, cpu TEXT, host TEXT, numba TEXT,
    note TEXT,            -- what the user wrote of the command that trained it
    UNIQUE (run_id, code)
) STRICT;
CREATE TABLE IF NOT EXISTS curves (
    run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, step INTEGER NOT NULL,
    {", ".join(f"{column.name} REAL" for column in ALWAYS)},
    PRIMARY KEY (run, step)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS layers (
    run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, step INTEGER NOT NULL, layer INTEGER NOT NULL,
    PRIMARY KEY (run, step, layer)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units (
    run INTEGER NOT NULL REFERENCES runs ON DELETE CASCADE, step INTEGER NOT NULL, unit INTEGER NOT NULL,
    PRIMARY KEY (run, step, unit)
) STRICT, WITHOUT ROWID;
{PREDICTIONS}CREATE TABLE IF NOT EXISTS claims ( -- runs that a sweep is about to train
    run_id TEXT NOT NULL, code TEXT NOT NULL,
    owner TEXT NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL,
    seen REAL NOT NULL,   -- when its owner was last heard of, by the owner's clock: others look for a change alone
    PRIMARY KEY (run_id, code)
) STRICT, WITHOUT ROWID;
"""
MEASURED = {"curves": ["step"], "layers": ["step", "layer"], "units": ["step", "unit"], "predictions": list[str]()}
"""The tables of what was measured, and what tells apart the rows of one run in each."""
OUTCOME = ["status", "test_accuracy", "validation_accuracy", "diverged_at"]
"""The columns of table ``runs`` that training gives."""
NEEDED = ("config", "status", "code", "test_accuracy", "diverged_at", "seconds", "error")
"""The columns of table ``runs``, beside those that it is sorted by, without which nothing can be told of a run."""

CLAIM_SECONDS = 30.0
"""The time in which a claim's owner is to be heard of, by the clock of who looks: those of two machines may differ."""

ADVICE = {
    sqlite3.SQLITE_FULL: "; with more space, the same command goes on",
    sqlite3.SQLITE_IOERR: "; is the disk full? Once it is not, the same command goes on",
    sqlite3.SQLITE_BUSY: "; another process keeps it locked",
    sqlite3.SQLITE_CORRUPT: "; move it away or name another results_dir",
    sqlite3.SQLITE_NOTADB: "; move it away or name another results_dir",
}
"""The words on what to do, by the primary error code of SQLite."""


@dataclass
class RunResult(Outcome):
    """The end of one run, and where it came from."""

    config: RunConfig
    seconds: float = 0.0
    finished: str | None = None
    """The time, in UTC, at which its group ended."""
    error: str | None = None
    """The traceback of a failed run."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """Return the row of table ``runs``."""
        settings = self.config.to_dict()
        leaves = dict(flatten(settings))
        return (
            {"run_id": self.config.run_id, "status": self.status}
            | {column: leaves.get(key) for key, column in COLUMNS.items()}
            | {
                "test_accuracy": self.test_accuracy,
                "validation_accuracy": self.validation_accuracy,
                "diverged_at": self.diverged_at,
                "seconds": self.seconds,
                "finished": self.finished,
                "error": self.error,
                "config": to_json(settings),
                "code": self.config.code,
            }
            | self.provenance
            | software()
        )


class Predictions(NamedTuple):
    """What a run predicts of the test examples after its last step."""

    probabilities: Array
    """The probability (N, K) of each class for each example, in float16."""
    labels: Array
    """The right class (N,) of each example."""


class Results:
    """Tidy tables: one row per run; per run and step; and per layer or unit of these (1 is the first).

    ``curves``, ``layers`` and ``units`` have the columns of the diagnostics that were on, and the settings that vary,
    lists as text. Each is a DataFrame, or given as a function that is called for it at first use.
    """

    def __init__(
        self,
        runs: pd.DataFrame,
        curves: Measured,
        layers: Measured,
        units: Measured,
        predictions: Measured | None = None,
    ) -> None:
        """Take the tables; settings that curves, layers or units have are left out, as those of ``runs`` are joined."""
        self.runs = runs
        self._measured = {"curves": curves, "layers": layers, "units": units}
        self._measured["predictions"] = runs.iloc[:0, :0] if predictions is None else predictions

    def __repr__(self) -> str:
        """Say how many runs there are, how they ended, and which settings vary."""
        count = len(self.runs)
        text = f"{count} run{'s' * (count != 1)}"
        ended = self.runs["status"].tolist() if "status" in self.runs else []
        if counts := [f"{ended.count(s)} {s}" for s in ("done", "diverged", "failed") if s in ended]:
            text += f": {', '.join(counts)}"
        return f"{text}; varies: {', '.join(self.varying)}" if self.varying else text

    @functools.cached_property
    def varying(self) -> list[str]:
        """Return the settings that are not the same in all runs that have them, by their columns in ``runs``."""
        settings = filter(is_setting, self.runs)
        return [str(name) for name in settings if len({*map(str, self.runs[name].dropna())}) > 1]

    def part(self, chosen: Sequence[bool]) -> Results:
        """Return the runs for which ``chosen``, in their order, is true, and what was measured of them."""
        runs = self.runs[[*chosen]].reset_index(drop=True)

        def of(name: str) -> pd.DataFrame:
            table = self.table(name)
            return table[table["run_id"].isin(runs["run_id"])].reset_index(drop=True) if "run_id" in table else table

        return Results(runs, *(functools.partial(of, name) for name in MEASURED))

    def table(self, name: str) -> pd.DataFrame:
        """Return table ``runs``, or one of the others as it was measured, without settings."""
        if name == "runs":
            return self.runs
        table = self._measured[name]
        if callable(table):
            table = self._measured[name] = table()
        settings = [*filter(is_setting, table)]
        return table.drop(columns=settings) if settings else table

    def _with_settings(self, name: str) -> pd.DataFrame:
        table = self.table(name)
        if not self.varying or "run_id" not in table:
            return table
        settings = self.runs[["run_id", *self.varying]]
        lists = {name: settings[name].map(hashable) for name in self.varying if settings[name].dtype == object}
        joined = table.merge(settings.assign(**lists), on="run_id", how="left", validate="many_to_one")
        return joined[["run_id", *self.varying, *(column for column in table if column != "run_id")]]

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """Return what was measured of each run: a row per run × step."""
        return self._with_settings("curves")

    @functools.cached_property
    def layers(self) -> pd.DataFrame:
        """Return what was measured of each layer: a row per run × step × layer."""
        return self._with_settings("layers")

    @functools.cached_property
    def units(self) -> pd.DataFrame:
        """Return what was measured of each unit of the last hidden layer: a row per run × step × unit."""
        return self._with_settings("units")

    @functools.cached_property
    def predictions(self) -> dict[str, Predictions]:
        """Return what each run predicts of the test examples, by its id, for runs with ``train.predictions=true``."""
        found = {}
        for row in self.table("predictions").to_dict("records"):
            labels = np.frombuffer(row["labels"], np.uint8)
            probabilities = np.frombuffer(row["probabilities"], np.float16).reshape(len(labels), -1)
            found[str(row["run_id"])] = Predictions(probabilities, labels)
        return found


def hashable(value: Any) -> Any:
    """Write lists as a command line has them, so that rows can be grouped by them."""
    return to_override(value) if isinstance(value, list | dict) else value


def is_setting(column: object) -> bool:
    """Tell whether a column of table ``runs`` is a setting."""
    return column in SETTING_COLUMNS or "." in str(column)


class Store:
    """The runs of one sweep in ``folder/runs.sqlite``: one result for each run and code that computed it.

    Every method raises InputError, whose message is one line, if SQLite can't read or write the file.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        """Open the store; with ``create``, to write: begin it if it is not there, and check that it is whole.

        Raises:
            InputError: if it is not there, can't be written, is damaged, or was written by something else.
        """
        self.path = folder / FILE
        self._unchanged_since: dict[tuple[str, float], float] = {}
        """When each owner of claims, as it was last heard of, was found so first, by a clock that nobody sets."""
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"results_dir={folder.parent}: can't be written ({error.strerror})") from error
            for path in (folder, self.path):  # SQLite would tell after training
                if path.exists() and not os.access(path, os.W_OK):
                    raise InputError(f"{path}: can't be written; name another results_dir")
        elif not self.path.is_file():
            raise InputError(f"{self.path}: no such store of runs")
        with self._connect() as db:
            db.execute("BEGIN")  # so that nobody else writes in between
            (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            (application,) = db.execute("PRAGMA application_id").fetchone()
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (page_size,) = db.execute("PRAGMA page_size").fetchone()
            torn = self.path.stat().st_size % page_size  # which SQLite would fill up with zeros
            db.execute("COMMIT")
            if tables == 0 and application == 0:
                if not create:
                    raise InputError(f"{self.path}: empty; no run has been stored in it")
                db.executescript(  # IF NOT EXISTS: another process may have begun it since
                    f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID};"
                    f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
            elif application != APPLICATION_ID:
                raise InputError(f"{self.path}: not a store of bnrepro; name another results_dir")
            elif version not in (SCHEMA_VERSION, *MIGRATIONS):
                raise InputError(
                    f"{self.path}: schema {version}, this version of bnrepro reads and writes {SCHEMA_VERSION}; "
                    "name another results_dir"
                )
            elif torn or (create and db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",)):
                raise self._unusable("database disk image is malformed", sqlite3.SQLITE_CORRUPT)
        if version in MIGRATIONS and application == APPLICATION_ID:
            self._migrate(version)

    def _migrate(self, version: int) -> None:
        """Bring a store of an earlier schema to this one, in one transaction, with a copy beside it until it is done.

        Raises:
            InputError: if it can't be written; it can be read by this version only once it is migrated.
        """
        kept = self.path.with_name(f"{self.path.name}.schema{version}")
        for path in (self.path.parent, self.path):
            if not os.access(path, os.W_OK):
                raise InputError(
                    f"{self.path}: of schema {version}, and can't be written to be brought to {SCHEMA_VERSION}"
                )
        with self._transaction() as db:
            (now,) = db.execute("PRAGMA user_version").fetchone()
            if now != version:  # another process has migrated it meanwhile
                return
            with self._connect() as unchanged, closing(sqlite3.connect(kept)) as copy:
                unchanged.backup(copy)
            for earlier in range(version, SCHEMA_VERSION):
                MIGRATIONS[earlier](db)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        kept.unlink()

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        """Connect in autocommit mode; what SQLite can't do, and settings that are damaged, are bad input."""
        try:
            db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            try:
                yield db
            finally:
                db.close()
        except sqlite3.Error as error:
            raise self._unusable(error, getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) from error
        except json.JSONDecodeError as error:
            raise self._unusable(f"settings of a run: {error}", sqlite3.SQLITE_CORRUPT) from error
        except UnicodeDecodeError as error:  # of a text, or of SQLite's own message that quotes one
            raise self._unusable("database disk image is malformed", sqlite3.SQLITE_CORRUPT) from error

    def _unusable(self, reason: object, code: int) -> InputError:
        advice = ADVICE.get(code & 0xFF, "")  # the primary code in an extended one
        line = " ".join(str(reason).split())  # SQLite quotes damaged statements whole
        return InputError(f"{self.path}: can't be used as a store of runs ({line}){advice}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Connect so that each change is on the disk even if the power goes right after."""
        with self._connect() as db:
            db.execute("PRAGMA foreign_keys = ON")
            db.execute("PRAGMA synchronous = EXTRA")
            db.execute("PRAGMA fullfsync = ON")  # the same for macOS
            yield db

    @contextmanager
    def _transaction(self, other: Path | None = None) -> Iterator[sqlite3.Connection]:
        """Connect so that all changes are on the disk once this ends without an error, and else none.

        Args:
            other: file of another store, whose tables are to be had under the name ``other``.
        """
        with self._writing() as db:
            if other:
                db.execute("ATTACH ? AS other", [str(other)])
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    def add(self, results: Iterable[RunResult], *, replace: bool = False, note: str | None = None) -> None:
        """Store runs that have ended, with a note, in one transaction, and drop the claims to them.

        A failed run gives way to a later try. A finished one does not, unless ``replace`` and the later one is
        finished too. What other code computed stays beside it.
        """
        with self._transaction() as db:
            for result in results:
                key = _key(result.config)
                db.execute("DELETE FROM claims WHERE run_id = ? AND code = ?", key)
                if _is_finished(db, key) and not (replace and result.status != "failed"):
                    continue
                db.execute("DELETE FROM runs WHERE run_id = ? AND code = ?", key)
                _insert(db, "runs", [result.row() | {"note": note}])
                (run,) = db.execute("SELECT last_insert_rowid()").fetchone()
                for table in MEASURED:
                    _insert(db, table, [{"run": run} | row for row in getattr(result, table)])

    def finished(self) -> set[tuple[str, str]]:
        """Return ``(run_id, code)`` of the runs that are done or diverged."""
        with self._connect() as db:
            return set(_finished(db))

    def finals(self) -> dict[tuple[str, str], float]:
        """Return the final test accuracy of the runs that are done, by ``(run_id, code)``, and 0 of diverged ones."""
        with self._connect() as db:
            rows = db.execute("SELECT run_id, code, ifnull(test_accuracy, 0) FROM runs WHERE status != 'failed'")
            return {(run_id, code): accuracy for run_id, code, accuracy in rows}

    def settings(self, *, failed: bool = False) -> list[tuple[str, str, dict[str, Any]]]:
        """Return ``(run_id, code, settings)`` of runs that are finished, or failed too, in the order of their ids."""
        with self._connect() as db:
            sql = "SELECT run_id, code, config FROM runs WHERE ? OR status != 'failed' ORDER BY run_id, code"
            return [(run_id, code, _settings(config)) for run_id, code, config in db.execute(sql, [failed])]

    def of_other_code(self, runs: Iterable[RunConfig]) -> dict[str, str]:
        """Return those of ``runs`` that only other code has finished: their ids, and the last code that did."""
        with self._connect() as db:
            finished = _finished(db)
        last, known = dict(finished), set(finished)
        return {run.run_id: last[run.run_id] for run in runs if run.run_id in last and _key(run) not in known}

    def claim(self, runs: Iterable[RunConfig], owner: str, *, replace: bool = False) -> list[RunConfig]:
        """Claim runs that are about to be trained, so that no other sweep on this store trains them meanwhile.

        A claim is void once its process has ended, or this store has looked at it for ``CLAIM_SECONDS`` and
        :meth:`heartbeat` was not called.

        Args:
            runs: that are to be trained.
            owner: who claims, by a name that nobody else has.
            replace: claim runs that are finished too.

        Returns:
            The runs that ``owner`` now has: those that are not finished, nor claimed by others.
        """
        with self._transaction() as db:
            others = db.execute(
                "SELECT owner, host, pid, max(seen) FROM claims WHERE owner != ? GROUP BY owner", [owner]
            ).fetchall()
            now, before = time.monotonic(), self._unchanged_since
            self._unchanged_since = {(name, seen): before.get((name, seen), now) for name, _, _, seen in others}
            silent = {name for (name, _), since in self._unchanged_since.items() if now - since > CLAIM_SECONDS}
            void = [[name] for name, host, pid, _ in others if name in silent or _has_ended(host, pid)]
            db.executemany("DELETE FROM claims WHERE owner = ?", void)
            claimed = "SELECT 1 FROM claims WHERE run_id = ? AND code = ? AND owner != ?"
            free = [
                run
                for run in runs
                if (replace or not _is_finished(db, _key(run)))
                and db.execute(claimed, [*_key(run), owner]).fetchone() is None
            ]
            me = (owner, platform.node(), os.getpid(), time.time())
            db.executemany("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?, ?, ?)", [_key(r) + me for r in free])
        return free

    def heartbeat(self, owner: str) -> None:
        """Keep the claims of ``owner``."""
        with self._transaction() as db:
            db.execute("UPDATE claims SET seen = ? WHERE owner = ?", [time.time(), owner])

    def release(self, owner: str) -> None:
        """Drop the claims of ``owner``."""
        with self._transaction() as db:
            db.execute("DELETE FROM claims WHERE owner = ?", [owner])

    def load(self, runs: Iterable[RunConfig] | None = None) -> Results:
        """Load what the code in place has stored of ``runs``; by default all runs, by the code that ended them last.

        The DataFrames are in an order that does not depend on who finished first. Table ``runs`` has every setting as
        a column with a dotted name, except those with a column of their own. The others are read at first use.

        Warns:
            UserWarning: if that puts runs of different code together.
        """
        with self._connect() as db:
            db.execute("BEGIN")  # one state of the file for all that is read
            if runs is None:
                chosen = [run for run, _ in db.execute(f"SELECT run, max({ENDED}) FROM runs GROUP BY run_id")]
            else:
                wanted = {_key(run) for run in runs}
                stored = db.execute("SELECT run, run_id, code FROM runs")
                chosen = [run for run, *key in stored if tuple(key) in wanted]
            table, versions = self._runs(db, chosen)
        if runs is None and versions > 1:
            warnings.warn(
                f"{self.path}: runs computed by {versions} versions of the code; column code tells which", stacklevel=3
            )
        parts = (functools.partial(self._without_numbers, name, chosen) for name in MEASURED)
        return Results(table.drop(columns="run"), *parts)

    def all_runs(self) -> pd.DataFrame:
        """Load table ``runs`` as :meth:`load` does, but of every code, with the number of a run as column ``run``."""
        with self._connect() as db:
            db.execute("BEGIN")
            return self._runs(db, [run for (run,) in db.execute("SELECT run FROM runs")])[0]

    def _runs(self, db: sqlite3.Connection, chosen: Sequence[int]) -> tuple[pd.DataFrame, int]:
        """Read table ``runs`` with a column for every setting, and count the versions of code that they are from."""
        import pandas as pd

        order = ["dataset", "activation", "norm", "lr", "seed", "run_id", "code"]
        table = _read(db, "runs", chosen)
        for column in (*order, *NEEDED):
            if column not in table:
                raise self._unusable(f"no column {column} in table runs", sqlite3.SQLITE_CORRUPT)
        settings = pd.json_normalize([_settings(text) for text in table["config"]])
        settings.index = table.index
        whole = table.drop(columns="config").join(settings.drop(columns=list(COLUMNS), errors="ignore"))
        return whole.sort_values(order, ignore_index=True), _versions(table)

    def _without_numbers(self, table: str, chosen: Sequence[int]) -> pd.DataFrame:
        return self.measured(table, chosen).drop(columns="run")

    def measured(self, table: str, chosen: Sequence[int]) -> pd.DataFrame:
        """Load what was measured of runs, by their numbers in column ``run``.

        Raises:
            InputError: if one of them is not there any more.
        """
        with self._connect() as db:
            db.execute("BEGIN")
            (left,) = db.execute(f"SELECT count(*) FROM runs WHERE run IN {CHOSEN}", [json.dumps(chosen)]).fetchone()
            if left != len(chosen):
                raise InputError(
                    f"{self.path}: runs were deleted or trained again since they were loaded; load them again"
                )
            return _read(db, table, chosen)

    def delete(self, chosen: Sequence[int]) -> int:
        """Delete runs by their numbers, in one transaction, and return how many there still were.

        A run that is trained again has another number, so that what a sweep stores meanwhile stays.
        """
        with self._transaction() as db:
            return db.execute(f"DELETE FROM runs WHERE run IN {CHOSEN}", [json.dumps(chosen)]).rowcount

    def give_back_space(self) -> bool:
        """Give the space of what was deleted back to the disk, and tell whether none is left to give back.

        That may keep the file locked for longer than a sweep waits for it, so it is left as long as one has claims.
        """
        with self._writing() as db:
            (free,) = db.execute("PRAGMA freelist_count").fetchone()
            owners = db.execute("SELECT DISTINCT host, pid FROM claims").fetchall()
            if free and any(not _has_ended(host, pid) for host, pid in owners):
                return False
            if free:
                db.execute("VACUUM")
            return True

    def merge(self, other: Store) -> Merged:
        """Take the runs of another store into this one, in one transaction.

        Of runs that are in both, by the same code, a finished one takes the place of a failed one; else this store's
        are kept.
        """
        with self._transaction(other.path) as db:
            if db.execute("PRAGMA other.quick_check(1)").fetchone() != ("ok",):
                raise other._unusable("database disk image is malformed", sqlite3.SQLITE_CORRUPT)
            columns = {table: _same_columns(db, table) for table in ("runs", *MEASURED)}
            ours, theirs = (
                {
                    (run_id, code): (run, status != "failed")
                    for run, run_id, code, status in db.execute(
                        f"SELECT run, run_id, code, status FROM {schema}.runs ORDER BY run"
                    )
                }
                for schema in ("main", "other")
            )
            merged = Merged()
            for key, (there, finished) in theirs.items():
                here, finished_here = ours.get(key, (None, False))
                if here is not None and (finished_here or not finished):
                    merged.kept += 1
                    if finished and _differ(db, here, there, columns):
                        merged.differing.append((here, there))
                    continue
                if here is None:
                    merged.new += 1
                else:
                    merged.replaced += 1
                    db.execute("DELETE FROM main.runs WHERE run = ?", [here])
                names = columns["runs"]
                db.execute(f"INSERT INTO main.runs ({names}) SELECT {names} FROM other.runs WHERE run = ?", [there])
                (run,) = db.execute("SELECT last_insert_rowid()").fetchone()
                for table in MEASURED:
                    names = columns[table]
                    db.execute(
                        f"INSERT INTO main.{table} (run, {names}) SELECT ?, {names} FROM other.{table} WHERE run = ?",
                        [run, there],
                    )
        return merged


@dataclass
class Merged:
    """The number of runs that came of another store, and of those that did not."""

    new: int = 0
    replaced: int = 0
    """The number of runs that took the place of failed ones."""
    kept: int = 0
    """The number of runs that were in both stores, of which this store's were kept."""
    differing: list[tuple[int, int]] = field(default_factory=list)
    """The numbers, here and there, of those that were kept, although what training gave is not the same to the bit."""


def _key(run: RunConfig) -> tuple[str, str]:
    return run.run_id, run.code


def _settings(config: object) -> dict[str, Any]:
    """Return the settings in a text of column ``config``.

    Raises:
        json.JSONDecodeError: it has none.
    """
    found = json.loads(config) if isinstance(config, str) else None
    if not isinstance(found, dict):
        raise json.JSONDecodeError("not an object", str(config), 0)
    return found


def _finished(db: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return the finished runs in the order in which they were stored."""
    return db.execute("SELECT run_id, code FROM runs WHERE status != 'failed' ORDER BY run").fetchall()


def _is_finished(db: sqlite3.Connection, key: tuple[str, str]) -> bool:
    sql = "SELECT 1 FROM runs WHERE run_id = ? AND code = ? AND status != 'failed'"
    return db.execute(sql, key).fetchone() is not None


def _has_ended(host: str, pid: int) -> bool:
    """Tell whether a process is known to have ended, which can be told on its own machine only."""
    if host == platform.node() and os.name == "posix":  # elsewhere, signal 0 is not harmless
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # somebody else's
            return False
    return False


def _versions(runs: pd.DataFrame) -> int:
    """Count the versions of code that the runs are from; other engines and a user's classes have files of their own."""
    named = [frozenset(re.findall(r'"(\w+\.[\w.]+|compiled)"', config)) for config in runs["config"]]
    return max(runs.groupby(named)["code"].nunique(), default=0)


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


def _same_columns(db: sqlite3.Connection, table: str) -> str:
    """Add the columns to a table that it has in the other store alone, and return all that are there but ``run``."""
    there = {name: kind for _, name, kind, *_ in db.execute(f"PRAGMA other.table_info({table})") if name != "run"}
    here = {name for _, name, *_ in db.execute(f"PRAGMA main.table_info({table})")}
    for name in there.keys() - here:
        db.execute(f'ALTER TABLE main.{table} ADD COLUMN "{name}" {there[name]}')
    return ", ".join(f'"{name}"' for name in there)


def _differ(db: sqlite3.Connection, here: int, there: int, columns: Mapping[str, str]) -> bool:
    """Tell whether training gave a run other numbers here than in the other store."""
    columns = {**columns, "runs": ", ".join(OUTCOME)}
    return any(
        db.execute(f"SELECT 1 FROM (SELECT {names} FROM {one} EXCEPT SELECT {names} FROM {other})", runs).fetchone()
        for table, names in columns.items()
        for one, other, runs in (
            (f"main.{table} WHERE run = ?", f"other.{table} WHERE run = ?", [here, there]),
            (f"other.{table} WHERE run = ?", f"main.{table} WHERE run = ?", [there, here]),
        )
    )


ENDED = "ifnull(finished, '') || printf('%20d', run)"
"""The expression for the order in which runs ended, and else were stored: those of another machine were later."""

CHOSEN = "(SELECT value FROM json_each(?))"
"""The expression for a JSON list of any length as a parameter."""


def _read(db: sqlite3.Connection, table: str, chosen: Sequence[int]) -> pd.DataFrame:
    """Read the rows of chosen runs; NULL is NaN in a column of numbers, even if it is NULL in every row."""
    import pandas as pd

    types = {name: kind for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")}
    columns = ["run_id", *(name for name in types if name != "run_id")]
    order = ", ".join(["run_id", *MEASURED.get(table, ())])
    names = ", ".join(f'"{name}"' for name in columns)
    source = "runs" if table == "runs" else f"{table} JOIN (SELECT run, run_id FROM runs) USING (run)"
    rows = db.execute(f"SELECT {names} FROM {source} WHERE run IN {CHOSEN} ORDER BY {order}", [json.dumps(chosen)])
    frame = pd.DataFrame(rows.fetchall(), columns=columns)
    return frame.astype({name: float for name in types if types[name] == "REAL" or name == "diverged_at"})


def _leave_out_defaults_of_norms(db: sqlite3.Connection) -> None:
    """Migrate from schema 2, whose ids were of all settings: a norm's options at its default are left out now."""
    for run, text in db.execute("SELECT run, config FROM runs").fetchall():
        settings = _settings(text)
        model = settings.get("model")
        if not isinstance(model, dict):  # edited by hand
            continue
        try:
            norm = NORMS.resolve(model.get("norm", "none"), "model.norm")
        except InputError:  # a class that is not here any more: no run has its old id, nor would have its new one
            continue
        defaults = {f.name: f.default for f in fields(cast("type[Any]", norm))} if norm else {}
        options: Mapping[str, Any] = model.get("norm_options", {})
        if options:
            model["norm_options"] = {k: v for k, v in options.items() if k not in defaults or v != defaults[k]}
        db.execute("UPDATE runs SET run_id = ? WHERE run = ?", [digest(to_json(settings)), run])


def _add_what_came_with_4(db: sqlite3.Connection) -> None:
    """Migrate from schema 3, which knew no images held out, no predictions, and less of the machine."""
    db.execute(PREDICTIONS)
    for column, kind in {"validation_accuracy": "REAL", "cpu": "TEXT", "host": "TEXT", "numba": "TEXT"}.items():
        db.execute(f"ALTER TABLE runs ADD COLUMN {column} {kind}")


def _add_what_came_with_5(db: sqlite3.Connection) -> None:
    """Migrate from schema 4, which did not know when a run was trained."""
    db.execute("ALTER TABLE runs ADD COLUMN finished TEXT")


def _add_what_came_with_6(db: sqlite3.Connection) -> None:
    """Migrate from schema 5, which knew no notes."""
    db.execute("ALTER TABLE runs ADD COLUMN note TEXT")


MIGRATIONS: Mapping[int, Callable[[sqlite3.Connection], None]] = {
    2: _leave_out_defaults_of_norms,
    3: _add_what_came_with_4,
    4: _add_what_came_with_5,
    5: _add_what_came_with_6,
}
"""The function that migrates each earlier schema to the next."""
