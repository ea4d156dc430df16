"""Measure the time of a step in a contest: all take turns on one core, and must train the same."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl

from ..composition import compose
from ..config import RunConfig, Settings
from ..data import Dataset
from .contestants import (
    ARMS,
    CONTESTANTS,
    ENGINES,
    IMAGES,
    RIVALS,
    Case,
    Contestant,
    Engine,
    Ours,
    stand_in,
    takes_part,
)

TOLERANCE = 1e-3
"""Relative difference of the losses after the first turn that float32 may make, as the median over runs.

Single runs may part: an input of a ReLU that is 0 but for rounding passes with one contestant and not with another.
With convolutions, where max pooling chooses too, and a single run, it is ten times that.
"""

CONVOLUTIONS = (
    Case(784, "dense", "relu", "batch", runs=1, channels=(8, 16)),
    Case(3072, "dense", "relu", "batch", runs=1, batch=32, channels=(16, 32, 64, 128)),
)
"""The convolutional networks that are trained: of images like MNIST's, and of images like CIFAR-10's."""

SLOW_TO_START = "PyTorch compiled"
"""The contestant that takes some 10 seconds for every case before it trains."""

GROWTH: dict[str, Sequence[int]] = {
    "runs": (1, 2, 4, 8, 16, 32),
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
            tolerance = TOLERANCE * (10 if case.channels else 1)
            if not np.median(np.abs(found / expected - 1)) <= tolerance:
                raise RuntimeError(f"{name} and bnrepro train {case} to different losses: {found} and {expected}")


def steps(rounds: int, *, quick: bool) -> pd.DataFrame:
    """Hold the contest of everybody on the paper's network.

    A quick one is without who is slow to start, and without dense images of 784 pixels.
    """
    rivals = [name for name in ("compiled", "JAX", SLOW_TO_START) if takes_part(name)]
    tables = []
    for inputs, images in IMAGES[:: 2 if quick else 1]:
        entries = [("floor", Case(inputs, images, *ARMS[0]))]
        for arm in ARMS:
            case = Case(inputs, images, *arm)
            entries += [(name, case) for name in ("bnrepro", *rivals) if not (quick and name == SLOW_TO_START)]
            if takes_part("PyTorch"):  # whose losses are compared with ours of one run
                alone = replace(case, runs=1)
                entries += [("bnrepro", alone), ("PyTorch", alone)]
        tables.append(contest(entries, rounds).drop(columns="channels"))
    return pd.concat(tables, ignore_index=True)


def convolutions(rounds: int) -> pd.DataFrame:
    """Hold the contest of convolutional networks, one run at a time: a row each as of :func:`contest`."""
    names = [name for name in ("bnrepro", "compiled", "PyTorch", "PyTorch channels last") if takes_part(name)]
    tables = [contest([(name, case) for name in names], rounds) for case in CONVOLUTIONS]
    return pd.concat(tables, ignore_index=True).drop(columns=["width", "depth", "ratio"])


def growth(rounds: int, *, quick: bool) -> pd.DataFrame:
    """Hold the contest with the floor as the work grows, one ``dimension`` at a time, for ReLU on dense images.

    A quick one goes to the second size of each.
    """
    tables = []
    for dimension, values in GROWTH.items():
        entries: list[tuple[str, Case]] = []
        for value in values[: 2 if quick else None]:
            changed: Any = {dimension: value}
            none, batch = (replace(Case(784, "dense", "relu", norm), **changed) for norm in ("none", "batch"))
            entries += [("floor", none), ("bnrepro", none), ("bnrepro", batch)]
        tables.append(contest(entries, rounds).drop(columns="channels").assign(dimension=dimension))
    return pd.concat(tables, ignore_index=True)


def profile(rounds: int, table: pd.DataFrame) -> pd.DataFrame:
    """Tell where the time of a step of 8 runs on dense images goes, given :func:`steps`; in µs per run and step.

    Returns:
        One row for each size of the images and arm:

        - products: the floor;
        - calls: of Python and NumPy, which take as long whatever the arrays hold: the time of a network of 2 units with
          a mini-batch of 2, without its floor;
        - passes: what is left, which is arithmetic other than products, and memory;
        - total: all three; over JAX: as a multiple of JAX's, where that took part.
    """
    cases = {arm: Case(64, "dense", *arm, width=2, batch=2) for arm in ARMS}
    tiny = contest([("floor", cases[ARMS[0]]), *(("bnrepro", case) for case in cases.values())], rounds)["median"]
    calls = dict(zip(cases, tiny[1:] - tiny[0], strict=True))
    table = table[(table["runs"] == 8) & (table["images"] == "dense")]
    eight = table.set_index(["inputs", "activation", "norm", "contestant"])["median"]
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

    It is the mean over the arms: of scikit-learn's digits, and of as many images as MNIST has, 10,000 of which are
    evaluated 113 times in 50,000 steps. What such a run takes, with sigmoids and batch norm, is extrapolated from turns
    of some steps and a measurement; runs are in groups of 8.
    """
    found: dict[str, float] = {}
    engines = [engine for engine in ENGINES if takes_part(engine)]
    data_sets = {"digits": None, "mnist": stand_in((1, 28, 28), "sparse")}
    for (dataset, data), engine in itertools.product(data_sets.items(), engines):
        shares = []
        for activation, norm in ARMS:
            arm = [f"dataset={dataset}", f"model.activation={activation}", f"model.norm={norm}"]
            run = RunConfig.parse(Settings.parse(compose(["+sweep", *arm])).run)
            training, measuring = seconds_of_a_run(run, data or run.dataset.value.load(), turns, engine)
            shares.append(measuring / (training + measuring))
            if (dataset, activation, norm) == ("mnist", "sigmoid", "batch"):
                found[f"a run on MNIST, sigmoid + BN, {engine}, seconds"] = training + measuring
        found[f"measuring, share of a sweep on {dataset}, {engine}"] = float(np.mean(shares))
    return found


def seconds_of_a_run(run: RunConfig, data: Dataset, turns: int, engine: Engine) -> tuple[float, float]:
    """Return what a run takes in a group of 8 like it, of processor time: to train, and to measure and evaluate."""
    settings, of = run.to_dict()["model"], run.train
    inputs = int(np.prod(data.image_shape))
    case = Case(inputs, "those of data", settings["activation"], settings["norm"], batch=of.batch_size)
    group = Ours(case, engine, data, of.probe_examples, of.eval_examples, run.measured())
    step, measurement = [], []
    for _ in range(turns):
        step.append(group.turn())
        measurement.append(group.measuring / case.runs)
    return float(np.median(step) * of.steps), float(np.median(measurement) * len(of.measured_steps))
