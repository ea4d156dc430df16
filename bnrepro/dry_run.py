"""Tell what a sweep would do, how long it would take and in how much memory, before it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from . import workers
from .config import Compute, Parallel, RunConfig
from .data import Dataset
from .provenance import peak_memory
from .recipe import events
from .store import Store
from .sweeping import form_groups, load_data
from .training import Measurement

CALIBRATION_SECONDS = 0.2
"""The time for which a group is trained to see how fast it goes: half of it was far off, more told little."""

CALIBRATION_POINTS = 5
"""The least number of measurements of a calibration."""

LONG_MEASUREMENT = 1.0
"""The seconds from which on the measurement of a group is taken to be that of its first run, as often as it has runs:
together they may take a third less."""

MOST_KINDS = 12
"""Kinds of runs that are calibrated; the others are taken to be like them."""


class Estimate(NamedTuple):
    """What it takes to train runs."""

    groups: int
    largest: int
    """The runs of the largest group."""
    at_once: int
    seconds: float
    source: str
    """What the time is told by."""
    memory: int | None
    """The most bytes that a process that trains has, where the system tells."""


def preview(
    runs: Sequence[RunConfig],
    missing: Sequence[RunConfig],
    store: Store | None,
    compute: Compute,
    check: Callable[[], object],
    further: int = 0,
) -> None:
    """Print what it takes to train the runs that are missing; keep nothing.

    Args:
        runs: all runs of the sweep.
        missing: those that are to be trained.
        store: where some are stored, if any are.
        compute: where they would be trained.
        check: what raises if the sweep is not to be trained; called while workers start.
        further: the number of runs that may be asked for by what comes of these, at most.

    Raises:
        InputError: if the data can't be loaded or the workers can't be used.
    """
    if not missing:
        check()
        print("nothing to train")
        return
    groups, largest, at_once, seconds, source, each = estimate(runs, missing, store, compute, check)
    own = peak_memory()
    print(f"{len(missing)} runs to train in {groups} groups of up to {largest}, {at_once} at once")
    print(f"time: about {tqdm.format_interval(seconds)}, {source}")
    if each is None or own is None:
        print("memory: can't be measured on this system")
    else:
        beside = f"{_megabytes(each)} in each of {at_once} workers and " if isinstance(compute, Parallel) else ""
        print(f"memory: about {beside}{_megabytes(own)} here")
    if further:
        print(f"sweep.refine: what comes of these may ask for up to {further} runs more, which take time of their own")
    print("nothing was trained or stored: sweep.dry_run=true")


def estimate(
    runs: Sequence[RunConfig],
    missing: Sequence[RunConfig],
    store: Store | None,
    compute: Compute,
    check: Callable[[], object],
) -> Estimate:
    """Return what it takes to train the runs that are missing, of which there is one at least, as for ``preview``."""
    data = load_data(missing)
    with workers.start(compute, data) as started:
        at_once = max(1, started.count)
        groups = form_groups(missing, at_once, data, compute.group_size)
        begun = [started.submit(_begin, group) for group in groups[:at_once]]
        check()
        wait(begun)
        largest = {group[0].group_id: group for group in sorted(groups, key=len)}
        chosen = [list(largest)[i] for i in np.unique(np.linspace(0, len(largest) - 1, MOST_KINDS).astype(int))]
        futures: dict[str, Future[tuple[float, int | None]]] = {}
        for kind in chosen:
            while sum(not future.done() for future in futures.values()) >= at_once:
                time.sleep(0.01)
            futures[kind] = started.submit(_calibrate, largest[kind])
        measured = {kind: future.result() for kind, future in futures.items()}
    seconds = {kind: seconds / len(largest[kind]) for kind, (seconds, _) in measured.items()}
    source = f"by {CALIBRATION_SECONDS:g} s of training of {len(chosen)} of {len(largest)} kinds of runs"
    if store and (stored := _stored_seconds(store, runs)):
        seconds |= stored
        source = "by the times of stored runs" + (f", and {source}" if set(largest) - set(stored) else "")
    typical = float(np.mean(list(seconds.values())))
    total = sum(seconds.get(run.group_id, typical) for run in missing) / min(at_once, len(groups))
    each = max((peak for _, peak in measured.values() if peak), default=None)
    return Estimate(len(groups), max(map(len, groups)), at_once, total, source, each)


def _begin(runs: Sequence[RunConfig], data: Dataset) -> None:
    """Do nothing, in a worker that has then imported all that it takes to train."""


def _calibrate(runs: Sequence[RunConfig], data: Dataset) -> tuple[float, int | None]:
    """Return the seconds that training the group would take, and this process's most memory in bytes, if known.

    Measurements, which may take as long as hundreds of steps, are timed by one of them, that of a single run where it
    takes long; steps with measurements of next to nothing between them.
    """
    per_measurement = len(runs) * _time_measurement(runs[:1], data)
    if per_measurement < LONG_MEASUREMENT:
        per_measurement = _time_measurement(runs, data)
    peak = peak_memory()
    # Without early measurements it may train to the end before the second.
    often = replace(runs[0].train, probe_examples=2, eval_examples=1, early_measurements=True)
    cheap = [replace(run, diagnostics=[], train=often) for run in runs]
    begin, points = time.perf_counter(), []
    for event in events(cheap, data):
        now = time.perf_counter() - begin
        if isinstance(event, Measurement):
            points.append((event.step, now))
        if now > CALIBRATION_SECONDS and len(points) >= CALIBRATION_POINTS:
            break
    train, (steps, times) = runs[0].train, np.array(points).T
    per_step = (times[-1] - times[0]) / max(1, steps[-1])
    return per_step * train.steps + per_measurement * len(train.measured_steps), peak


def _time_measurement(runs: Sequence[RunConfig], data: Dataset) -> float:
    """Return the seconds that a step and the measurement after it take; if it takes long, those of the one before."""
    short = [replace(run, train=replace(run.train, steps=1, measurements=1)) for run in runs]
    begin, found = time.perf_counter(), events(short, data)
    next(found)
    first = time.perf_counter() - begin
    if first < LONG_MEASUREMENT:
        next(found)
        return time.perf_counter() - begin - first
    return first


def _stored_seconds(store: Store, runs: Sequence[RunConfig]) -> dict[str, float]:
    """Return the mean seconds of the stored runs of each kind."""
    kinds = {run.run_id: run.group_id for run in runs}
    table = store.load(runs).runs
    finished = table[table["status"] != "failed"]
    means = finished["seconds"].groupby(finished["run_id"].map(kinds)).mean()
    return {str(kind): float(mean) for kind, mean in means.items()}


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB"
