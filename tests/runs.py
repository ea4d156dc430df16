"""Tiny runs, for the tests of everything above the numeric core."""

import copy
import functools
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bnrepro.composition import compose
from bnrepro.config import RUN_KEYS, RunConfig
from bnrepro.datasets import IDX_FILES
from bnrepro.reference import TABLES
from bnrepro.store import Results

TINY = ("model.hidden=[8]", "train.steps=20", "train.measurements=4")


@functools.cache
def _composed(*overrides: str) -> dict[str, Any]:
    return {key: value for key, value in compose([*TINY, *overrides]).items() if key in RUN_KEYS}


def settings(changes: Mapping[str, Any] | None = None, *overrides: str) -> dict[str, Any]:
    """The settings of a tiny run: composed with ``overrides``, then ``changes``, dotted key → value, put in."""
    changed = copy.deepcopy(_composed(*overrides))
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        functools.reduce(lambda node, part: node.setdefault(part, {}), path, changed)[last] = value
    return changed


def a_run(changes: Mapping[str, Any] | None = None, *overrides: str) -> RunConfig:
    """The same, parsed."""
    return RunConfig.parse(settings(changes, *overrides))


ADDED: Mapping[str, Any] = {
    "train.engine": "numpy",
    "model.placement": "before",
    "model.bias": None,
    "dataset.inputs": "raw",
    "dataset.whitening_epsilon": 0.01,
    "dataset.train_examples": None,
    "dataset.validation": 0,
    "dataset.augmentation": [],
    "train.order": "reshuffled",
    "train.early_measurements": True,
    "train.predictions": False,
}
"""The settings that have a default in their class, which leaves them out of ids; but for those of norms."""


def without_added(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run but for those of ``ADDED``, which must be as they are there."""
    left = copy.deepcopy(dict(settings))
    for key, value in ADDED.items():
        group, name = key.split(".")
        assert left[group].pop(name) == value
    return left


def write_idx(folder: Path, count: int = 60, size: int = 8) -> Path:
    """Four IDX files of ``count`` images each, size × size, whose brightness tells the class; the folder is made."""
    folder.mkdir(parents=True)
    labels = (np.arange(count) % 10).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 30, (count, size, size))
    images = (noise + 20 * labels[:, None, None]).astype(np.uint8)
    for file in IDX_FILES:
        array = images if "images" in file else labels
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / file).write_bytes(header + array.tobytes())
    return folder


def assert_same_results(a: Results, b: Results) -> None:
    """Equal to the bit, but for how long it took, and when."""
    when = ["seconds", "finished"]
    for one, other in ((a.runs.drop(columns=when), b.runs.drop(columns=when)), (a.curves, b.curves)):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
    pd.testing.assert_frame_equal(a.layers, b.layers, check_exact=True)


def part_of(results: Results, condition: str) -> Results:
    """The runs for which ``condition`` holds, with what was measured of them."""
    runs = results.runs.query(condition).reset_index(drop=True)
    measured = (results.curves, results.layers, results.units)
    return Results(runs, *(t[t["run_id"].isin(runs["run_id"])].reset_index(drop=True) for t in measured))


def dataframes(results: Results) -> list[pd.DataFrame]:
    """All four, as they were measured."""
    return [results.table(name) for name in TABLES]


def query(file: Path, sql: str) -> list[Any]:
    """The rows that ``sql`` gives, read past the store's own code; an open connection is a warning, so it is closed."""
    db = sqlite3.connect(file)
    try:
        rows = db.execute(sql).fetchall()
        db.commit()
        return rows
    finally:
        db.close()
