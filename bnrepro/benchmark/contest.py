"""Measure the time of a step in a contest: all take turns on one core, and must train the same."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl

from ..composition import compose
from ..config import RunConfig, Settings
from ..data import Dataset
from .contestants import ARMS, CONTESTANTS, RIVALS, Case, Contestant, LockStep, stand_in

TOLERANCE = 1e-3
"""Relative difference of the losses after the first turn that float32 may make."""

RUNS = (1, 2, 4, 8, 16, 32)
"""The sizes of a group in lock-step that are measured."""

GROWTH: dict[str, Sequence[int]] = {
    "runs": RUNS,
    "width": (100, 200, 500, 1000),
    "depth": (3, 5, 10, 20),
    "batch": (10, 30, 60, 200, 1000),
}
"""The sizes that the work grows to, one field of :class:`Case` at a time."""


@contextmanager
def one_core() -> Iterator[None]:
    """Keep to one core, where the system lets a process choose, and one BLAS thread."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    try:
        if cores:
            os.sched_setaffinity(0, {max(cores)})
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)


def contest(entries: Iterable[tuple[str, Case]], rounds: int) -> pd.DataFrame:
    """Let contestants, by name, take turns on their cases.

    Returns:
        One row for each, in their order: the fields of the case, ``contestant``, and ``median``, ``low`` and ``high``,
        the quartiles over the rounds of its time in µs per run and step; ``ratio`` is the median as a multiple of the
        floor's for the same products, where that takes part.

    Raises:
        RuntimeError: if two that train the same case do not end at the same losses.
    """
    contestants = [(name, case, CONTESTANTS[name](case)) for name, case in entries]
    times: list[list[float]] = [[] for _ in contestants]
    for n in range(rounds + 1):
        order = range(len(contestants)) if n % 2 else reversed(range(len(contestants)))
        for i in order:
            times[i].append(contestants[i][2].turn() * 1e6)
        if n == 0:
            _check_losses(contestants)
    rows = []
    for (name, case, _), measured in zip(contestants, times, strict=True):
        low, median, high = np.percentile(measured[1:], (25, 50, 75))  # the first warmed up
        rows.append({**asdict(case), "contestant": name, "median": median, "low": low, "high": high})
    table = pd.DataFrame(rows)
    shape = [field.name for field in fields(Case) if field.name not in ("activation", "norm")]
    floors = table[table["contestant"] == "floor"].set_index(shape)["median"]
    at_floor = [floors.get(tuple(row)) for row in table[shape].itertuples(index=False)]
    return table.assign(ratio=table["median"] / pd.to_numeric(pd.Series(at_floor)))


def _check_losses(contestants: Sequence[tuple[str, Case, Contestant]]) -> None:
    ours = {case: c.losses for name, case, c in contestants if name == "bnrepro"}
    for name, case, c in contestants:
        if name in RIVALS and case in ours:
            found, expected = np.asarray(c.losses, float), np.asarray(ours[case], float)
            if not np.allclose(found, expected, rtol=TOLERANCE, atol=0):
                raise RuntimeError(f"{name} and bnrepro train {case} to different losses: {found} and {expected}")


def steps(rounds: int, runs: Sequence[int] = RUNS, inputs: Sequence[int] = (784, 64)) -> pd.DataFrame:
    """Hold the contest of everybody on the paper's network, with so many runs in lock-step and inputs."""
    tables = []
    for size in inputs:
        first = Case(size, *ARMS[0])
        entries = [("floor", replace(first, runs=r)) for r in runs]
        for activation, norm in ARMS:
            case = Case(size, activation, norm)
            entries += [("bnrepro", replace(case, runs=r)) for r in runs]
            rivals = [("JAX", case), ("PyTorch", replace(case, runs=1))]
            entries += [(name, case) for name, case in rivals if importlib.util.find_spec(RIVALS[name])]
        tables.append(contest(entries, rounds))
    return pd.concat(tables, ignore_index=True)


def growth(rounds: int, over: Mapping[str, Sequence[int]] = GROWTH) -> pd.DataFrame:
    """Hold the contest with the floor as the work grows, one ``dimension`` at a time, for ReLU at 784 inputs."""
    tables = []
    for dimension, values in over.items():
        entries: list[tuple[str, Case]] = []
        for value in values:
            changed: Any = {dimension: value}
            none, batch = (replace(Case(784, "relu", norm), **changed) for norm in ("none", "batch"))
            entries += [("floor", none), ("bnrepro", none), ("bnrepro", batch)]
        tables.append(contest(entries, rounds).assign(dimension=dimension))
    return pd.concat(tables, ignore_index=True)


def profile(rounds: int, table: pd.DataFrame) -> pd.DataFrame:
    """Tell where the time of a step of 8 runs goes, given the table of :func:`steps`; in µs per run and step.

    Returns:
        One row for each size of the images and arm:

        - products: the floor;
        - calls: of Python and NumPy, which take as long whatever the arrays hold: the time of a network of 2 units with
          a mini-batch of 2, without its floor;
        - passes: what is left, which is arithmetic other than products, and memory;
        - total: all three; over JAX: as a multiple of JAX's, where that took part.
    """
    cases = {arm: Case(64, *arm, width=2, batch=2) for arm in ARMS}
    tiny = contest([("floor", cases[ARMS[0]]), *(("bnrepro", case) for case in cases.values())], rounds)["median"]
    calls = dict(zip(cases, tiny[1:] - tiny[0], strict=True))
    eight = table[table["runs"] == 8].set_index(["inputs", "activation", "norm", "contestant"])["median"]
    rows = []
    for inputs in table["inputs"].unique():
        products = eight[inputs, *ARMS[0], "floor"]
        for arm in ARMS:
            total, jax = eight[inputs, *arm, "bnrepro"], eight.get((inputs, *arm, "JAX"), np.nan)
            row = {"inputs": inputs, "activation": arm[0], "norm": arm[1], "total": total, "products": products}
            rows.append(row | {"calls": calls[arm], "passes": total - products - calls[arm], "over JAX": total / jax})
    return pd.DataFrame(rows)


def measuring(turns: int) -> dict[str, float]:
    """Return the share of the main job's time that goes into measuring and evaluating, at its default settings.

    It is the mean over the arms: of scikit-learn's digits, and of as many images as MNIST has. For evaluating 10,000
    images 113 times in 50,000 steps, the products alone are 17% of the operations of training, so that a sweep on
    MNIST can't be much below that.
    """
    shares: dict[str, float] = {}
    for dataset, data in {"digits": None, "mnist": stand_in(784)}.items():
        arms = []
        for activation, norm in ARMS:
            arm = [f"dataset={dataset}", f"model.activation={activation}", f"model.norm={norm}"]
            run = RunConfig.parse(Settings.parse(compose(["+sweep", *arm])).run)
            arms.append(measuring_share(run, data or run.dataset.value.load(), turns))
        shares[f"measuring, share of a sweep on {dataset}"] = float(np.mean(arms))
    return shares


def measuring_share(run: RunConfig, data: Dataset, turns: int) -> float:
    """Return the share of the time of a group of 8 runs like this one that goes into measuring and evaluating."""
    settings, of = run.to_dict()["model"], run.train
    case = Case(math.prod(data.image_shape), settings["activation"], settings["norm"], batch=of.batch_size)
    group = LockStep(case, data, of.probe_examples, of.eval_examples, run.measured())
    step, measurement = [], []
    for _ in range(turns):
        begin = time.process_time()
        step.append(group.turn() * case.runs)
        measurement.append(time.process_time() - begin - case.steps * step[-1])
    measured = np.median(measurement) * len(of.measured_steps)
    return float(measured / (measured + np.median(step) * of.steps))
