"""Keep reference data: stored runs of a sweep as tables of text, in ``results/reference/NAME``, and show them again."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import numpy as np
import pandas as pd

from . import places
from .config import COLUMNS, Figures, RunConfig, declared_settings
from .errors import InputError
from .experiment import PREDICTIONS, TABLE_OF, Experiment, import_experiment
from .presenting import present, relative
from .provenance import digest
from .store import MEASURED, OUTCOME, Results, Store, is_setting
from .verify import JUDGED, LAST_JUDGED_STEP

EXACTLY: dict[str, Any] = {"float_precision": "round_trip"} if pd.__version__ < "3" else {}
"""What makes pandas read the number that was written; before its version 3, the last bit may be another without it."""

TABLES = ("runs", *MEASURED)
"""The tables of results, in the order in which they are given."""

LONG = ("curves", "layers", "units")
"""The tables whose files have a line for each column, not for each row: they are half as large so."""

BYTES = ("probabilities", "labels")
"""The columns that hold numbers as bytes."""


def known() -> list[str]:
    """Return the names of the sweeps of which there are reference data."""
    return sorted(path.parent.name for path in places.REFERENCE.glob("*/runs.csv.xz"))


def load_reference(name: str) -> Results:
    """Load the reference data of a sweep.

    Raises:
        InputError: if there are none.
    """
    if name not in known():
        raise InputError(f"reference/{name}: must be one of {', '.join(f'reference/{each}' for each in known())}")
    return read_tables(places.REFERENCE / name)


def show_reference(name: str, figures: Figures) -> None:
    """Show an experiment from its reference data, with figures beside these; in a wheel, in ``results/reference``.

    Raises:
        InputError: if there are none.
    """
    results = load_reference(name)
    experiment = import_experiment(name)
    assert experiment
    shown = places.REFERENCE if places.CHECKOUT else Path("results", "reference")
    told, paths = present(experiment, results, shown / name, figures, expected=len(results.runs))
    print("\n".join([told, *(str(relative(path)) for path in paths)]))


def make_reference(name: str, runs: Sequence[RunConfig], sweep_folder: Path, figures: Figures) -> None:
    """Make reference data of stored runs, with what was measured of them as far as it is analysed, and show them.

    Raises:
        InputError: if this is no checkout, whose they are.
    """
    if places.CHECKOUT is None:
        raise InputError("--reference: only in a checkout of bnrepro, not where it is installed from a wheel")
    experiment = import_experiment(name)
    assert experiment
    results = Store(sweep_folder).load(runs)
    write_tables(keep(experiment, results), places.REFERENCE / name)
    (places.REFERENCE / name / "verified.csv").unlink(missing_ok=True)  # that was of other data
    show_reference(name, figures)


def keep(experiment: Experiment, results: Results) -> Results:
    """Return what reference data have of results: a digest of all, and of what was measured what is analysed.

    Of the first steps they also have what is judged where training is repeated on other hardware (``verify``).
    """
    measured = []
    for level, table in TABLE_OF.items():
        columns = experiment.columns(level)
        more = [column for column in JUDGED if table == "curves" and column not in columns]
        whole = results.table(table).reindex(columns=["run_id", *MEASURED[table], *columns, *more])
        whole.loc[whole["step"] > LAST_JUDGED_STEP, more] = np.nan
        columns += more
        measured.append(whole.dropna(subset=columns, how="all", ignore_index=True) if columns else whole.iloc[:0])
    whole = results.table(PREDICTIONS)
    measured.append(whole if PREDICTIONS in experiment.needs else whole.iloc[:0])
    return Results(results.runs.assign(digest=results.runs["run_id"].map(digests(results))), *measured)


def digests(results: Results) -> dict[str, str]:
    """Return the digest of all that training gave each run, to the last bit: how it ended, and every measurement.

    Of each table it has the columns that tell rows apart, then the others by name, in the order of steps: numbers as
    little-endian doubles, texts as UTF-8. A column without any value in the run, as of what others measured, is no
    part of it.
    """
    parts: dict[str, list[str]] = {run_id: [] for run_id in results.runs["run_id"]}
    for name, keys in {"runs": list[str](), **MEASURED}.items():
        table = results.table(name)
        if name == "runs":
            table = table.reindex(columns=["run_id", *OUTCOME])
        if table.empty:
            continue
        columns = [*keys, *sorted(str(column) for column in {*table} - {"run_id", *keys})]
        for run_id, rows in table.sort_values(keys).groupby("run_id") if keys else table.groupby("run_id"):
            for column in columns:
                if rows[column].notna().any():
                    content = hashlib.sha256(b"".join(_to_bytes(rows[column]))).hexdigest()
                    parts[str(run_id)].append(f"{name}.{column} {len(rows)} {content}")
    return {run_id: digest("\n".join(each)) for run_id, each in parts.items()}


def _to_bytes(column: pd.Series) -> Iterator[bytes]:
    if pd.api.types.is_numeric_dtype(column):
        numbers = column.to_numpy("<f8") + 0.0  # there is one zero
        yield np.where(np.isnan(numbers), np.nan, numbers).tobytes()
        return
    for value in column:
        yield value if isinstance(value, bytes) else f"{value}\0".encode()


def settings(runs: pd.DataFrame) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield ``(run_id, code, settings)`` of reference data, as a store does; without a code where none is known.

    Runs of one cell, which differ in their seed, follow each other, and each cell begins with another seed, so that a
    sample that is spread evenly is one of cells and of seeds.

    Args:
        runs: their table ``runs``.
    """
    keys = {short: key for key, short in COLUMNS.items()}
    columns = {str(column): keys.get(str(column), str(column)).split(".") for column in filter(is_setting, runs)}
    cells: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for row in runs.to_dict("records"):
        found: dict[str, Any] = {}
        for column, (*path, last) in columns.items():
            value = row[column]
            if isinstance(value, float) and value.is_integer():  # as of a column that some runs lack
                value = int(value)
            if value == value or ".".join([*path, last]) in _nullable():
                node = found
                for key in path:
                    node = node.setdefault(key, {})
                node[last] = value if value == value else None
        if "norm" in found.get("model", {}):
            found["model"].setdefault("norm_options", {})  # an empty group has no column
        cell = json.dumps(found | {"seed": None}, sort_keys=True)
        cells.setdefault(cell, []).append((str(row["run_id"]), str(row.get("code", "")), found))
    for i, cell_ in enumerate(cells.values()):
        first = i % len(cell_)
        yield from [*cell_[first:], *cell_[:first]]


@functools.cache
def _nullable() -> set[str]:
    """Return the keys of settings that may be null, which a table does not tell from those that a run lacks."""
    return {found.key for found in declared_settings() if NoneType in get_args(found.kind)}


def write_tables(results: Results, folder: Path) -> None:
    """Write each table that has rows to TABLE.csv.xz, measures with five significant digits, probabilities with three.

    Measures of layers and units, of which there are many, have four; of runs in float64, whose point is the last
    digits, all measures have them all. Settings are in ``runs`` alone, those that are lists or mappings in JSON.
    Probabilities and labels are in base 64. The tables of :data:`LONG` are transposed.
    """
    from .figures import atomic_write

    exact = "float64" in {*results.runs.get("train.dtype", ())}
    for name in TABLES:
        digits = 17 if exact else 4 if name in ("layers", "units") else 5
        table = results.table(name)
        if "probabilities" in table:
            table = table.assign(probabilities=table["probabilities"].map(_rounded))
        others = table.select_dtypes(exclude=["number", "bool"])
        table = table.assign(**{str(column): [_to_json(value) for value in others[column]] for column in others})
        if len(table):
            text = table.to_csv(index=False, float_format=f"%.{digits}g", lineterminator="\n")
            with atomic_write(folder / f"{name}.csv.xz") as partial:
                partial.write_bytes(lzma.compress((_transposed(text) if name in LONG else text).encode()))


def read_tables(folder: Path) -> Results:
    """Read what :func:`write_tables` wrote; a table without a file is empty."""
    return Results(*(read_table(folder, name) for name in TABLES))


def read_table(folder: Path, name: str) -> pd.DataFrame:
    """Read one of the tables of :func:`read_tables`."""
    path = folder / f"{name}.csv.xz"
    if not path.exists():
        return pd.DataFrame({key: [] for key in ("run_id", *MEASURED.get(name, []))})
    text = lzma.decompress(path.read_bytes()).decode()
    file = io.StringIO(_transposed(text) if name in LONG else text)
    as_text = dict.fromkeys(("run_id", "code", "digest"), str)
    table: pd.DataFrame = pd.read_csv(file, dtype=as_text, keep_default_na=False, na_values=[""], **EXACTLY)
    texts = table.select_dtypes(exclude=["number", "bool"])
    table = table.assign(**{str(name): [_from_json(value) for value in texts[name]] for name in texts})
    return table.assign(**{name: table[name].map(base64.b64decode) for name in BYTES if name in table})


def _transposed(text: str) -> str:
    """Return the CSV of a table of numbers and names, none of which is quoted, with its rows as columns."""
    lines = (line.split(",") for line in text.splitlines())
    return "".join(f"{','.join(line)}\n" for line in zip(*lines, strict=True))


def _rounded(probabilities: bytes) -> bytes:
    return np.frombuffer(probabilities, np.float16).astype(float).round(3).astype(np.float16).tobytes()


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return json.dumps(value) if isinstance(value, list | dict) else value


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
