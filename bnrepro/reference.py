"""Keep reference data: stored runs of a sweep as tables of text, in ``results/reference/NAME``, and show them again."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from . import places
from .config import Figures, RunConfig
from .errors import InputError
from .experiment import PREDICTIONS, TABLE_OF, import_experiment
from .presenting import present, relative
from .store import MEASURED, Results, Store

EXACTLY: dict[str, Any] = {"float_precision": "round_trip"} if pd.__version__ < "3" else {}
"""What makes pandas read the number that was written; before its version 3, the last bit may be another without it."""

TABLES = ("runs", *MEASURED)
"""The tables of results, in the order in which they are given."""

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
    measured = []
    for level, table in TABLE_OF.items():
        columns = experiment.columns(level)
        whole = results.table(table).reindex(columns=["run_id", *MEASURED[table], *columns])
        measured.append(whole.dropna(subset=columns, how="all", ignore_index=True) if columns else whole.iloc[:0])
    whole = results.table(PREDICTIONS)
    measured.append(whole if PREDICTIONS in experiment.needs else whole.iloc[:0])
    write_tables(Results(results.runs, *measured), places.REFERENCE / name)
    show_reference(name, figures)


def write_tables(results: Results, folder: Path) -> None:
    """Write each table that has rows to TABLE.csv.xz, measures with five significant digits, probabilities with three.

    Of runs in float64, whose point is the last digits, measures have them all. Settings are in ``runs`` alone, those
    that are lists or mappings in JSON. Probabilities and labels are in base 64.
    """
    from .figures import atomic_write

    digits = 17 if "float64" in {*results.runs.get("train.dtype", ())} else 5
    for name in TABLES:
        table = results.table(name)
        if "probabilities" in table:
            table = table.assign(probabilities=table["probabilities"].map(_rounded))
        others = table.select_dtypes(exclude=["number", "bool"])
        table = table.assign(**{str(column): [_to_json(value) for value in others[column]] for column in others})
        if len(table):
            with atomic_write(folder / f"{name}.csv.xz") as partial:
                table.to_csv(partial, index=False, float_format=f"%.{digits}g", compression="xz")


def read_tables(folder: Path) -> Results:
    """Read what :func:`write_tables` wrote; a table without a file is empty."""

    def read(name: str) -> pd.DataFrame:
        path = folder / f"{name}.csv.xz"
        if not path.exists():
            return pd.DataFrame({"run_id": []})
        table: pd.DataFrame = pd.read_csv(path, dtype={"run_id": str}, keep_default_na=False, na_values=[""], **EXACTLY)
        texts = table.select_dtypes(exclude=["number", "bool"])
        table = table.assign(**{str(name): [_from_json(value) for value in texts[name]] for name in texts})
        return table.assign(**{name: table[name].map(base64.b64decode) for name in BYTES if name in table})

    return Results(*map(read, TABLES))


def _rounded(probabilities: bytes) -> bytes:
    return np.frombuffer(probabilities, np.float16).astype(float).round(3).astype(np.float16).tobytes()


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return json.dumps(value) if isinstance(value, list | dict) else value


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
