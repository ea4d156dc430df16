"""Measure what stands around the step: start-up, throughput and memory of whole commands and sweeps, in wall time."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl

from ..composition import MAIN_JOB, compose
from ..config import Local, RunConfig, Settings
from ..data import Dataset
from ..datasets import IDX_FILES
from ..provenance import environment
from ..store import Store
from ..sweeping import Progress, expand, run_all
from .contestants import stand_in, takes_part

WITNESS = f"{__package__}.witness.witness"
"""Import path of the diagnostic that tells when a worker first trains, and its memory."""


def around(*, quick: bool) -> dict[str, float]:
    """Measure start-up, throughput and wall time of the main job, and of its beginning on MNIST.

    If ``quick``, of one seed, and throughput by a quarter of the steps, which the start of the workers weighs on.
    """
    found = {"--help, seconds": float(np.median([_command("--help") for _ in range(3)]))}
    grid = "sweep.grid.seed=[0]" if quick else "sweep.grid.seed=[0,1,2]"
    settings = Settings.parse(compose(["+sweep", grid, *(["train.steps=500"] if quick else [])]))
    runs = expand(settings.run, *settings.grids)
    one, two = (trained / seconds for seconds, trained in (_train(runs, workers) for workers in (1, 2)))
    found |= {"run-steps per second, 1 worker": one, "run-steps per second, 2 workers": two}
    found["2 workers, as a multiple of 1"] = two / one
    with tempfile.TemporaryDirectory() as folder:
        command = "+sweep", grid, *_with_2_workers(folder)
        found["sweep.dry_run=true, seconds"] = _command(*command, "sweep.dry_run=true")
        found["+sweep with 2 workers, seconds"] = _command(*command)
        found["the same again, all of it stored, seconds"] = _command(*command)
        if takes_part("compiled"):
            found["+sweep with 2 workers, compiled, seconds"] = _command(*command, "train.engine=compiled")
    return found | _beginning_on_mnist()


def _beginning_on_mnist() -> dict[str, float]:
    """Measure the time from a command to its first step, and its workers' memory, with as many images as MNIST has."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_idx(images, stand_in((1, 28, 28), "sparse"))
        diagnostics = [*compose(["+sweep"])["diagnostics"], WITNESS]
        measured = ["train.steps=100", "train.measurements=1", f"diagnostics=[{','.join(diagnostics)}]"]
        mnist = ["dataset=mnist", f"dataset.root='{images}'", "dataset.sha256=null"]
        begin = time.time()
        two_groups = ["sweep.grid.seed=[0]", "sweep.grid.model.activation=[sigmoid]"]
        _command("+sweep", *two_groups, *measured, *mnist, *_with_2_workers(folder))
        curves = Store(Path(folder) / MAIN_JOB).load().curves
    return {
        "first step of a sweep on MNIST, seconds": curves["unix_time"].min() - begin,
        "peak of its workers, MB": curves["peak_memory"].max(),
    }


def _with_2_workers(folder: str) -> list[str]:
    return ["compute.n_jobs=2", f"results_dir='{folder}'"]


def _command(*overrides: str) -> float:
    """Return the wall time of ``python -m bnrepro``, in seconds."""
    begin = time.time()
    subprocess.run([sys.executable, "-m", "bnrepro", *overrides], check=True, stdout=subprocess.DEVNULL)
    return time.time() - begin


def _train(runs: Sequence[RunConfig], workers: int) -> tuple[float, float]:
    """Return the wall time from the start of the workers to the last result in the store, and all steps trained."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), create=True)
        begin = time.time()
        run_all(runs, store, Local(n_jobs=workers, group_size=None), Progress(len(runs)))
        seconds, table = time.time() - begin, store.load().runs
    return seconds, table["diverged_at"].fillna(table["steps"]).sum()


def write_idx(folder: Path, data: Dataset) -> None:
    """Write the data set as four files like those of MNIST."""
    folder.mkdir()
    for file, array in zip(
        IDX_FILES, (data.train_images, data.train_labels, data.test_images, data.test_labels), strict=True
    ):
        array = array.reshape(len(array), *array.shape[2:])
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (folder / file).write_bytes(header + (255 * array if "images" in file else array).tobytes())


def sweep_sizes(sizes: Sequence[int], run: Mapping[str, Any]) -> pd.DataFrame:
    """Measure sweeps of so many runs of 10 steps around the settings ``run``, on all cores.

    Returns:
        One row for each: ``number`` of runs, and ``median``, the wall time per run in µs, from the grid to the store.
    """
    short = {"train": {"steps": [10], "measurements": [1]}, "optimizer": {"lr": [0.01, 0.1]}}
    rows = []
    for size in sizes:
        begin = time.time()
        runs = expand(run, {**short, "seed": list(range(size // 2))})
        seconds = time.time() - begin + _train(runs, workers=-1)[0]
        rows.append({"number": size, "median": seconds / size * 1e6})
    return pd.DataFrame(rows)


def machine() -> str:
    """Name the processor, the BLAS and what else decides about the time, in one line."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    pinned = os.environ.get("OPENBLAS_CORETYPE") or "not pinned"
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        lib = environment()
    return (
        f"{named[1] if named else platform.processor()}, {os.cpu_count()} cores; {lib['blas']}, kernel "
        f"{lib['blas_kernel']} ({pinned}), {lib['blas_threads']} thread; Python {lib['python']}, NumPy {lib['numpy']}"
    )
