"""Turn the results of a sweep into what its experiment shows: tables and figures.

An experiment is ``experiments/NAME.py`` beside ``conf/sweep/NAME.yaml``, ours or the user's own (``places``), with
``score(results)``, a DataFrame, and ``figures(results)``, a dict of matplotlib Figures by file name. It may have
``tables(results)``, a dict of further DataFrames by file name. Run as a script, it redraws without training.

Reference data, in ``results/reference/NAME``, are stored runs as tables of text, from which the script redraws where
there is no store. An experiment with ``drawn_from(results)`` says which of the results that takes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from . import places
from .config import RunConfig
from .errors import InputError
from .provenance import digest
from .store import Results, Store

TABLES = ("runs", "curves", "layers", "units")
"""The tables of results, in the order in which they are given."""

NOT_PART_OF_A_RUN = ("results_dir", "compute", "dataset.root", "sweep=", "sweep.force", "hydra")


def import_experiment(name: str) -> ModuleType | None:
    """Import the module ``experiments/NAME.py``; return None if there is none.

    Raises:
        InputError: if there is more than one of this name.
    """
    path = places.find_experiment(name)
    if path is None:
        return None
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figure_folder(sweep_folder: Path, overrides: Sequence[str]) -> Path:
    """Return the folder of the figures of a sweep with these overrides: each variant has one, named by them."""
    kept = sorted(o for o in (o.lstrip("+") for o in overrides) if not o.startswith(NOT_PART_OF_A_RUN))
    name = re.sub(r"[^\w.,=\[\]+-]", "_", ",".join(kept))
    if len(name) > 200:  # of the 255 bytes that file systems allow
        name = f"{name[:180]}-{digest(name)}"
    return sweep_folder / name


def show(name: str, runs: Sequence[RunConfig], sweep_folder: Path, overrides: Sequence[str]) -> None:
    """Print the tables of the experiment and draw its figures from the stored runs."""
    experiment = import_experiment(name)
    if experiment is None:
        print(f"no experiments/{name}.py, so no table and no figure; the runs are in {sweep_folder}")
        return
    _present(experiment, Store(sweep_folder).load(runs), figure_folder(sweep_folder, overrides))


def _present(experiment: ModuleType, results: Results, folder: Path) -> None:
    from . import figures

    tables = {"score": experiment.score(results)}
    if hasattr(experiment, "tables"):
        tables |= experiment.tables(results)
    for name, table in tables.items():
        heading = "" if name == "score" else f"\n{name}\n"
        print(heading + table.to_string())
    with figures.look():
        drawn = experiment.figures(results)
        paths = [path for stem, figure in drawn.items() for path in figures.save(figure, folder, stem)]
    for name, table in tables.items():
        paths.append(folder / f"{name}.csv")
        with figures.atomic_write(paths[-1]) as partial:
            table.to_csv(partial)
    for path in paths:
        with suppress(ValueError):  # on another drive of Windows it stays absolute
            path = Path(os.path.relpath(path))
        print(path)


def has_reference(name: str) -> bool:
    """Tell whether there are reference data of a sweep."""
    return (places.REFERENCE / name / "runs.csv.xz").exists()


def load_reference(name: str) -> Results:
    """Load the reference data of a sweep.

    Raises:
        InputError: if there are none.
    """
    if not has_reference(name):
        known = sorted(path.parent.name for path in places.REFERENCE.glob("*/runs.csv.xz"))
        raise InputError(f"reference/{name}: must be one of {', '.join(f'reference/{each}' for each in known)}")
    return read_tables(places.REFERENCE / name)


def show_reference(name: str) -> None:
    """Show an experiment from its reference data, with figures beside these; in a wheel, in ``results/reference``."""
    experiment = import_experiment(name)
    assert experiment
    shown = places.REFERENCE if places.CHECKOUT else Path("results", "reference")
    _present(experiment, load_reference(name), shown / name)


def make_reference(name: str, runs: Sequence[RunConfig], sweep_folder: Path) -> None:
    """Make the reference data of the stored runs, and show them.

    Raises:
        InputError: if this is no checkout, whose they are.
    """
    if places.CHECKOUT is None:
        raise InputError("--reference: only in a checkout of bnrepro, not where it is installed from a wheel")
    experiment = import_experiment(name)
    assert experiment
    results = Store(sweep_folder).load(runs)
    measured = experiment.drawn_from(results) if hasattr(experiment, "drawn_from") else results
    # The runs are whole, with all of their provenance.
    write_tables(Results(results.runs, *map(measured.table, TABLES[1:])), places.REFERENCE / name)
    show_reference(name)


def write_tables(results: Results, folder: Path) -> None:
    """Write each table that has rows to TABLE.csv.xz, measures with five significant digits.

    Settings are in ``runs`` alone, those that are lists or mappings in JSON.
    """
    from .figures import atomic_write

    for name in TABLES:
        table = results.table(name)
        others = table.select_dtypes(exclude=["number", "bool"])
        table = table.assign(**{str(column): [_to_json(value) for value in others[column]] for column in others})
        if len(table):
            with atomic_write(folder / f"{name}.csv.xz") as partial:
                table.to_csv(partial, index=False, float_format="%.5g", compression="xz")


def read_tables(folder: Path) -> Results:
    """Read what :func:`write_tables` wrote; a table without a file is empty."""
    import pandas as pd

    def read(name: str) -> pd.DataFrame:
        path = folder / f"{name}.csv.xz"
        if not path.exists():
            return pd.DataFrame({"run_id": []})
        table = pd.read_csv(path, dtype={"run_id": str}, keep_default_na=False, na_values=[""])
        texts = table.select_dtypes(exclude=["number", "bool"])
        return table.assign(**{str(name): [_from_json(value) for value in texts[name]] for name in texts})

    return Results(*map(read, TABLES))


def _to_json(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _from_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value
