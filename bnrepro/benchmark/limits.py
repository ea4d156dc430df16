"""Measure and reckon what would limit training on many cores: memory, and the store's one writer.

Two cores are measured, alone and at once; what 64 of them would ask for follows by arithmetic. The network is the
paper's, with sigmoids and batch norm, on images like MNIST's.
"""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import threadpoolctl

from ..composition import compose
from ..config import RunConfig, Settings
from ..store import Store
from ..sweeping import train_group
from .contestants import ENGINES, Case, Engine, Ours, stand_in, takes_part

CASE = Case(784, "sparse", "sigmoid", "batch")
CORES = 64
STEPS = 50_000
"""Steps of a run on MNIST."""

COPIED = 64 << 20
"""Bytes that are copied at a time to measure the memory: more than caches hold."""


def limits(rounds: int) -> pd.DataFrame:
    """Measure both engines and the memory, on one core and on two at once, and the store's writer.

    Returns:
        One row for each engine, and one for the memory itself:

        - alone, both: µs per run and step, on one core and on two at once; of the memory, GB/s per core;
        - held: MB that a core works on at a time;
        - moved: MB per run and step that come from beyond a core's own cache, or go there, by arithmetic;
        - GB/s of 64: what 64 cores would ask of the memory, were there no larger cache between;
        - runs/s of 64: runs of 50,000 steps that 64 cores would end in a second, and, of the store, that it can write.
    """
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        pools = [
            stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), _keep_to, (core,)))
            for core in (cores[0], cores[-1])[: len(cores)]
        ]
        for engine in (engine for engine in ENGINES if takes_part(engine)):
            alone, both = _alone_and_at_once(pools, functools.partial(_turn, engine), rounds)
            held, moved = _megabytes(engine)
            rows.append(
                {"what": engine, "alone": alone * 1e6, "both": both * 1e6, "held": held, "moved": moved}
                | {"GB/s of 64": CORES * moved / 1e3 / alone, "runs/s of 64": CORES / (alone * STEPS)}
            )
        alone, both = _alone_and_at_once(pools, _copy, rounds)
        rows.append({"what": "memory", "alone": alone, "both": both, "held": 2 * COPIED / 1e6})
    rows.append({"what": "store", "runs/s of 64": written_per_second(groups=20)})
    return pd.DataFrame(rows)


def _keep_to(core: int) -> None:
    os.sched_setaffinity(0, {core})
    threadpoolctl.threadpool_limits(1, user_api="blas")


def _alone_and_at_once(
    pools: Sequence[ProcessPoolExecutor], measure: Callable[[], float], rounds: int
) -> tuple[float, float]:
    """Return the medians of what a core measures alone, and what all measure at once, in turns of both."""
    for started in [pool.submit(measure) for pool in pools]:
        started.result()
    alone, both = [], []
    for _ in range(rounds):
        alone.append(pools[0].submit(measure).result())
        both += [task.result() for task in [pool.submit(measure) for pool in pools]]
    return float(np.median(alone)), float(np.median(both))


def _turn(engine: Engine) -> float:
    """Return the time of a run's step, in seconds: the median of three turns."""
    return float(np.median([_ours(engine).turn() for _ in range(3)]))


@functools.cache  # one for each engine in each process
def _ours(engine: Engine) -> Ours:
    return Ours(CASE, engine)


def _copy() -> float:
    """Return the GB that are read and written in a second, as bytes are copied."""
    source, target = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)
    begin = time.process_time()
    for _ in range(10):
        np.copyto(target, source)
    return 10 * 2 * COPIED / 1e9 / (time.process_time() - begin)


def _megabytes(engine: Engine) -> tuple[float, float]:
    """Return what a core works on at a time, and what moves between its own cache and beyond per run and step, in MB.

    In lock-step the weights of all runs and their gradients are more than the cache holds: to go forward reads the
    weights, to go backward writes the gradients, and to update reads both and writes the weights. Compiled, one run's
    weights come and go once in a chunk of steps, and only mini-batches come anew: of the pixels that are not 0, a byte
    and an index of two, once by image and once by pixel.
    """
    weights = 4 * sum(a * b for a, b in itertools.pairwise(CASE.dims))
    if engine == "numpy":
        return CASE.runs * 2 * weights / 1e6, 5 * weights / 1e6
    from ..compiled import CHUNK

    ones = stand_in(CASE.image_shape, CASE.images).train_images.mean() * CASE.inputs * CASE.batch
    return weights / 1e6, (2 * weights / CHUNK + 6 * ones) / 1e6


def written_per_second(groups: int) -> float:
    """Return how many runs with as many measurements as on MNIST the store's one writer takes in a second."""
    short = ["train.steps=180", "train.measurements=180", "train.eval_examples=100"]
    run = Settings.parse(compose(["+sweep", "dataset=mnist", *short])).run
    parsed = [RunConfig.parse({**run, "seed": seed}) for seed in range(8 * groups)]
    results = train_group(parsed[:8], stand_in((1, 28, 28), "sparse"))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder), create=True)
        begin = time.time()
        for first in range(0, len(parsed), 8):
            group = zip(results, parsed[first : first + 8], strict=True)
            store.add(replace(result, config=config) for result, config in group)
        return len(parsed) / (time.time() - begin)
