"""Two figures at scale: a grid of 100,000 runs until its first group trains, and the load of 10,000 stored runs.

``python tests/benchmark_scale.py`` prints seconds and the most memory of the process; pytest does not collect it.
Training is a stub, and everything else is what a sweep does.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import bnrepro
from bnrepro import sweeping, workers
from bnrepro.composition import compose
from bnrepro.config import RUN_KEYS, Compute, Local, RunConfig
from bnrepro.store import RunResult, Store
from bnrepro.workers import Data, Tell

GRID = {
    "model": {"activation": ["sigmoid", "relu"], "norm": ["none", "batch"], "init": {"std": [0.01, 0.03, 0.1, 0.3, 1]}},
    "optimizer": {"lr": [10 ** (-3 + k / 10) for k in range(50)]},
    "seed": list(range(100)),
}


class Begun(Exception):
    """The first group has come to a worker."""


class Stub:
    """Workers that never train."""

    count = 2

    def submit(self, task: Callable[..., Any], runs: Sequence[RunConfig], tell: Tell | None = None) -> Future[Any]:
        raise Begun

    def look(self) -> None: ...


@contextmanager
def start_stubs(compute: Compute, data: Data) -> Iterator[Stub]:
    yield Stub()


def main_job() -> dict[str, Any]:
    composed = compose([])
    return {key: value for key, value in composed.items() if key in RUN_KEYS}


def begin(folder: Path) -> None:
    """What a sweep does from its settings to its first group."""
    with clock("expand") as done:
        runs = sweeping.expand(main_job(), GRID)
        done(f"{len(runs):,} runs")
    with clock("check against the store") as done:
        store = Store(folder, create=True)
        missing = sweeping.without(runs, store.finished())
        store.of_other_code(missing)
        done(f"{len(missing):,} missing")
    with clock("begin"), suppress(Begun), patch.object(workers, "start", start_stubs):
        sweeping.run_all(runs, store, Local(n_jobs=2, group_size=None), sweeping.Progress(len(missing)))


def load(folder: Path) -> None:
    """A store of 10,000 runs with curves of the usual length, and the load of its table ``runs``."""
    runs = sweeping.expand(main_job(), GRID)[:10_000]
    steps = runs[0].train.measured_steps
    curves = [{"step": step, "train_loss": 1.0, "test_accuracy": 0.5, "gradient_norm": 1.0} for step in steps]
    layers = [{"step": step, "layer": n, "p15": -1.0, "p50": 0.0, "p85": 1.0} for step in steps for n in (1, 2, 3)]
    with clock("fill"):
        store = Store(folder, create=True)
        for group in sweeping.form_groups(runs, 1, {}, 1000):
            store.add(RunResult(run, test_accuracy=0.5, curves=curves, layers=layers) for run in group)
    with clock("load") as done:
        results = bnrepro.load(store.path)
        done(f"{len(results.runs):,} runs")
    with clock("load their curves") as done:
        done(f"{len(results.curves):,} rows")


@contextmanager
def clock(name: str) -> Iterator[Callable[[str], None]]:
    """Print how long it took, what was done, and the most memory of this process so far."""
    told: list[str] = []
    wall, cpu = time.perf_counter(), time.process_time()
    yield told.append
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<25} {wall:6.2f} s ({cpu:6.2f} s of CPU), {peak:5.0f} MB  {' '.join(told)}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        for figure in ("begin", "load"):  # each in a process of its own, for its memory
            subprocess.run([sys.executable, __file__, figure], check=True)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            {"begin": begin, "load": load}[sys.argv[1]](Path(temporary) / "sweep")
