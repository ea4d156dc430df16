"""From the results of a sweep to what its experiment shows: a table and figures.

An experiment is ``experiments/NAME.py`` beside ``conf/sweep/NAME.yaml``, with ``score(results)``, a DataFrame, and
``figures(results)``, a dict of matplotlib Figures by file name. Run as a script, it redraws without training.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from .config import ROOT, RunConfig
from .store import Store

EXPERIMENTS = ROOT / "experiments"

NOT_PART_OF_A_RUN = ("results_dir", "compute", "dataset.root", "sweep=", "sweep.force", "hydra")


def find_experiment(name: str) -> ModuleType | None:
    """The module ``experiments/NAME.py``, or None."""
    path = EXPERIMENTS / f"{name}.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def figure_folder(sweep_folder: Path, overrides: Sequence[str]) -> Path:
    """Where the figures of a sweep with these overrides go: each variant has a folder of its own, named by them."""
    kept = sorted(o for o in (o.lstrip("+") for o in overrides) if not o.startswith(NOT_PART_OF_A_RUN))
    name = re.sub(r"[^\w.,=\[\]+-]", "_", ",".join(kept))
    if len(name) > 200:  # of the 255 bytes that file systems allow
        name = f"{name[:180]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return sweep_folder / name


def show(name: str, runs: Sequence[RunConfig], sweep_folder: Path, overrides: Sequence[str]) -> None:
    """Print the table of the experiment and draw its figures from the stored runs."""
    experiment = find_experiment(name)
    if experiment is None:
        print(f"no {EXPERIMENTS.name}/{name}.py, so no table and no figure; the runs are in {sweep_folder}")
        return
    from . import figures

    results = Store(sweep_folder).load(runs)
    folder = figure_folder(sweep_folder, overrides)
    table = experiment.score(results)
    print(table.to_string())
    with figures.look():
        drawn = experiment.figures(results)
        paths = [path for stem, figure in drawn.items() for path in figures.save(figure, folder, stem)]
    paths.append(folder / "score.csv")
    with figures.whole(paths[-1]) as partial:
        table.to_csv(partial)
    for path in paths:
        print(os.path.relpath(path))
