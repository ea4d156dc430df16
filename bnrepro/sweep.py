"""Grid → runs → lock-step groups → joblib → store."""

from __future__ import annotations

import copy
import itertools
import math
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import joblib
import numpy as np
import threadpoolctl
from tqdm import tqdm

from .config import Compute, Named, RunConfig, spell
from .data import Dataset
from .errors import InputError
from .store import RunResult, Store, blas
from .train import Diverged, Measurement, train

MAX_GROUP = 8
"""Runs in lock-step beyond which nothing is gained: for the paper's network, 8 take half (batch norm) to two thirds of
the time per run that 1 takes, and 16 or 24 the same as 8 within the noise of the measurement."""

LINE_EVERY = 5.0
"""Seconds between lines of progress where there is no terminal."""


def expand(base: Mapping[str, Any], *grids: Mapping[str, Any]) -> list[RunConfig]:
    """The runs of nested grids around the settings ``base``: every combination once, the first key slowest.

    Raises:
        InputError: if a grid is empty, or a value in it is not allowed.
    """
    runs = {}
    for grid in grids:
        axes = list(_axes(grid, ()))
        if not axes:
            raise InputError("sweep.grid={}: must list values for at least one setting")
        for values in itertools.product(*(values for _, values in axes)):
            settings: Any = copy.deepcopy(dict(base))
            for (path, _), value in zip(axes, values, strict=True):
                node = settings
                for key in path[:-1]:
                    node = node.setdefault(key, {})
                    if not isinstance(node, dict):
                        raise InputError(f"sweep.grid.{'.'.join(path)}: no such key; {key} is not a group of settings")
                node[path[-1]] = value
            run = RunConfig.parse(settings)
            runs[run.run_id] = run
    return list(runs.values())


def _axes(grid: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for key, values in grid.items():
        where = (*path, key)
        if isinstance(values, Mapping):
            yield from _axes(values, where)
        elif isinstance(values, list) and values:
            yield where, values
        else:
            raise InputError(f"sweep.grid.{'.'.join(where)}={spell(values)}: must be a list of at least one value")


def form_groups(runs: Sequence[RunConfig], workers: int, group_size: int | None = None) -> list[list[RunConfig]]:
    """Cut runs into groups that can train in lock-step, of at most ``group_size`` runs.

    By default as large as pays (``MAX_GROUP``), and no larger than lets all workers finish at about the same time.
    Runs of one seed stay together, since they share mini-batches.
    """
    if group_size is None:
        rounds = math.ceil(len(runs) / (MAX_GROUP * workers))
        group_size = max(1, math.ceil(len(runs) / (rounds * workers))) if runs else 1
    alike: dict[str, list[RunConfig]] = {}
    for run in runs:
        alike.setdefault(run.group_id, []).append(run)
    groups = []
    for members in alike.values():
        members.sort(key=lambda run: run.seed)
        parts = math.ceil(len(members) / group_size)
        groups += [list(part) for part in np.array_split(np.array(members, dtype=object), parts)]
    return groups


def train_group(
    runs: Sequence[RunConfig], data: Dataset, watch: Callable[[Measurement], object] | None = None
) -> list[RunResult]:
    """Train runs of one ``group_id`` in lock-step, with one BLAS thread.

    An exception makes all of them ``failed``, with its traceback; it is not raised.
    """
    results = [RunResult(run) for run in runs]
    begin = time.perf_counter()
    first = runs[0]
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        try:
            events = train(
                networks=[run.model.value.build(data.classes) for run in runs],
                optimizer=first.optimizer.value,
                learning_rates=[run.lr for run in runs],
                seeds=[run.seed for run in runs],
                data=data,
                schedule=first.train,
                lr_schedule=first.lr_schedule.value,
                diagnostics=first.diagnostic_functions(),
                dtype=np.dtype(first.train.dtype),
            )
            for event in events:
                if isinstance(event, Measurement):
                    _record(event, results)
                    if watch:
                        watch(event)
                elif isinstance(event, Diverged):
                    for r in event.runs:
                        results[r].status, results[r].diverged_at = "diverged", event.step
                else:
                    for r, accuracy in zip(event.runs, event.test_accuracy, strict=True):
                        results[r].test_accuracy = float(accuracy)
        except Exception:
            for result in results:
                result.status, result.error = "failed", traceback.format_exc()
        provenance = blas()
    seconds = (time.perf_counter() - begin) / len(runs)
    for result in results:
        result.seconds, result.provenance = seconds, provenance
    return results


def _record(measured: Measurement, results: Sequence[RunResult]) -> None:
    always = {name: getattr(measured, name) for name in ("train_loss", "test_accuracy", "gradient_norm")}
    for i, r in enumerate(measured.runs):
        curve = {name: float(values[i]) for name, values in (always | measured.curve).items()}
        results[r].curves.append({"step": measured.step} | curve)
        for number, layer in enumerate(measured.layers, start=1):
            row = {name: float(values[i]) for name, values in layer.items()}
            results[r].layers.append({"step": measured.step, "layer": number} | row)
        if measured.units:
            columns = {name: values[i].tolist() for name, values in measured.units.items()}
            for number, values in enumerate(zip(*columns.values(), strict=True), start=1):
                unit = dict(zip(columns, values, strict=True))
                results[r].units.append({"step": measured.step, "unit": number} | unit)


def load_data(runs: Sequence[RunConfig]) -> dict[Named, Dataset]:
    """Every data set of the runs, once.

    Raises:
        InputError: if one can't be loaded, or is smaller than a mini-batch.
    """
    data: dict[Named, Dataset] = {}
    for run in runs:
        if run.dataset not in data:
            data[run.dataset] = run.dataset.value.load()
        examples = len(data[run.dataset].train_labels)
        if run.train.batch_size > examples:
            raise InputError(
                f"train.batch_size={run.train.batch_size}: must be at most {examples}, "
                f"the training examples of {run.dataset.name}"
            )
    return data


def run_all(
    runs: Sequence[RunConfig], store: Store, compute: Compute, report: Callable[[list[RunResult]], object]
) -> None:
    """Train the runs that the store lacks on all workers; store each group as it ends, then ``report`` it.

    Raises:
        InputError: if the data can't be loaded or the store can't be written.
    """
    missing = without(runs, store.finished())
    if not missing:
        return
    data = load_data(missing)
    workers = joblib.effective_n_jobs(compute.n_jobs)
    groups = form_groups(missing, workers, compute.group_size)
    # joblib hands arrays of this size to its workers as one memory-mapped copy.
    parallel = joblib.Parallel(
        n_jobs=min(workers, len(groups)), batch_size=1, return_as="generator_unordered", max_nbytes="1M"
    )
    for results in parallel(joblib.delayed(train_group)(group, data[group[0].dataset]) for group in groups):
        store.add(results)
        report(results)


def without(runs: Sequence[RunConfig], finished: set[str]) -> list[RunConfig]:
    """The runs that are not finished, in their order."""
    return [run for run in runs if run.run_id not in finished]


class Progress:
    """How many runs have ended, and when the rest will have: a bar in a terminal, else a line every few seconds."""

    def __init__(self, total: int) -> None:
        """``total`` runs are to be trained."""
        self.total, self.ended, self.failed = total, 0, 0
        self._begin = self._last_line = time.monotonic()
        self._bar = tqdm(total=total, unit="run", disable=not sys.stderr.isatty(), dynamic_ncols=True)

    def __call__(self, results: Sequence[RunResult]) -> None:
        """Count the runs of a group that has ended."""
        self.ended += len(results)
        self.failed += sum(result.status == "failed" for result in results)
        self._bar.update(len(results))
        now = time.monotonic()
        if self._bar.disable and (now - self._last_line > LINE_EVERY or self.ended == self.total):
            self._last_line = now
            left = tqdm.format_interval((now - self._begin) / self.ended * (self.total - self.ended))
            print(f"{self.ended} of {self.total} runs, {left} left", file=sys.stderr, flush=True)
        if self.ended == self.total:
            self._bar.close()
