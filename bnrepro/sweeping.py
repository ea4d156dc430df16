"""Grid → runs → lock-step groups → workers → store."""

from __future__ import annotations

import copy
import itertools
import math
import sys
import threading
import time
import traceback
import uuid
from bdb import BdbQuit
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NoReturn

import numpy as np
from tqdm import auto, tqdm

from . import workers
from .config import RUN_KEYS, Compute, Dask, RunConfig, check_run_keys, parse_part
from .data import Dataset, Source
from .errors import InputError
from .narrowing import MOST_RUNS
from .network import Network
from .provenance import environment
from .recipe import Init, Model, check_engine, train_runs
from .settings import Choice, flatten, to_override
from .store import CLAIM_SECONDS, RunResult, Store
from .training import Measurement
from .workers import Workers, cause_of_death

MAX_GROUP = 8
"""Runs in lock-step beyond which little is gained: for the paper's network on 28 by 28 pixels, 8 take 63% (batch norm)
to 76% of the time per run that 1 takes, and 16 take 2% to 7% more than 8; on 8 by 8 pixels 5% to 9% less
(``python -m bnrepro +benchmark``). Nor have sweeps many more runs of one seed, which share the mini-batch."""

LOCK_STEP_IMAGES = 3 << 20
"""Bytes that the largest images between layers may take, of a mini-batch in all runs together: then they stay in cache.
Of a CNN on 8 by 8 pixels, 8 runs take half the time per run that 1 takes, but on 28 by 28 pixels 2 take 10% less and
8 take 20% more."""

LINE_EVERY = 5.0
"""Seconds between lines of progress where there is no terminal."""

HEARTBEAT = CLAIM_SECONDS / 6
"""Seconds between two signs of life to other sweeps on the same store."""

POLL = 1.0
"""Seconds between two looks at what another sweep has finished, and at how many workers there are."""


def expand(base: Mapping[str, Any], *grids: Mapping[str, Any]) -> list[RunConfig]:
    """Return the runs of nested grids around the settings ``base``: every combination once, the first key slowest.

    Raises:
        InputError: if a grid is empty or too large, or a value in it is not allowed.
    """
    runs = {}
    for grid in grids:
        axes = list(find_axes(grid))
        if not axes:
            raise InputError("sweep.grid={}: must list values for at least one setting")
        if (count := math.prod(len(values) for _, values in axes)) > MOST_RUNS:
            factors = " × ".join(f"{len(values)} of {'.'.join(path)}" for path, values in axes)
            raise InputError(f"sweep.grid: {factors} makes {count} runs: must be at most {MOST_RUNS}")
        for run in combine(base, axes):
            runs[run.run_id] = run
    return list(runs.values())


Keys = tuple[str, ...]


def find_axes(grid: Mapping[str, Any], path: Keys = ()) -> Iterator[tuple[Keys, list[Any]]]:
    """Yield the axes of a grid, each with its values.

    Raises:
        InputError: if something in it is no list of values.
    """
    for key, values in grid.items():
        where = (*path, key)
        if isinstance(values, Mapping):
            yield from find_axes(values, where)
        elif isinstance(values, list) and values:
            yield where, values
        else:
            raise InputError(
                f"sweep.grid.{'.'.join(where)}={to_override(values)}: must be a list of at least one value"
            )


def combine(base: Mapping[str, Any], axes: Sequence[tuple[Keys, list[Any]]]) -> Iterator[RunConfig]:
    """Yield every combination of the axes' values, the first axis slowest.

    Each part of a run is parsed once and shared by all runs that have it.

    Raises:
        InputError: if a value is not allowed.
    """
    check_run_keys(_changed(base, [(path, values[0]) for path, values in axes]))
    axes_of = {key: [i for i, (path, _) in enumerate(axes) if path[0] == key] for key in RUN_KEYS}
    parsed: dict[tuple[Any, ...], dict[str, Any]] = {}
    for chosen in itertools.product(*(range(len(values)) for _, values in axes)):
        parts: dict[str, Any] = {}
        for key, of_key in axes_of.items():
            part = (key, *[chosen[i] for i in of_key])
            if part not in parsed:
                changes = [(axes[i][0], axes[i][1][chosen[i]]) for i in of_key]
                parsed[part] = parse_part(_changed({k: base[k] for k in [key] if k in base}, changes), key)
            parts |= parsed[part]
        yield RunConfig(**parts)


def _changed(settings: Mapping[str, Any], changes: Sequence[tuple[Keys, Any]]) -> dict[str, Any]:
    """Return a copy of the settings with the changes."""
    changed = copy.deepcopy(dict(settings))
    for path, value in changes:
        node = changed
        for key in path[:-1]:
            node = node.setdefault(key, {})
            if not isinstance(node, dict):
                raise InputError(f"sweep.grid.{'.'.join(path)}: no such key; {key} is not a group of settings")
        node[path[-1]] = value
    return changed


def form_groups(
    runs: Sequence[RunConfig], workers: int, data: Mapping[Choice[Source], Dataset], group_size: int | None = None
) -> list[list[RunConfig]]:
    """Cut runs into groups that can train in lock-step, of at most ``group_size`` runs.

    By default groups are as large as pays for images of the size of ``data`` (``MAX_GROUP``, ``LOCK_STEP_IMAGES``), and
    no larger than lets all workers finish at about the same time. Runs of one seed stay together, since they share
    mini-batches. What seems to take longest comes first, so that the last to end are short.
    """
    rounds = math.ceil(len(runs) / (MAX_GROUP * workers))
    share = math.ceil(len(runs) / (rounds * workers)) if runs else 1
    alike: dict[str, list[RunConfig]] = {}
    for run in runs:
        alike.setdefault(run.group_id, []).append(run)
    groups = []
    for members in alike.values():
        members.sort(key=lambda run: run.seed)
        most = group_size or min(share, _largest_that_pays(members[0], data[members[0].dataset]))
        parts = math.ceil(len(members) / most)
        groups += [list(part) for part in np.array_split(np.array(members, dtype=object), parts)]
    return sorted(groups, key=_seeming_length, reverse=True)


def _largest_that_pays(run: RunConfig, data: Dataset) -> int:
    """Return how many runs such as this are fastest in lock-step."""
    network = _plain_network(run, data)
    images = network.largest_images(data.image_shape) if network else 0
    size = images * run.train.batch_size * np.dtype(run.train.dtype).itemsize
    return max(1, min(MAX_GROUP, LOCK_STEP_IMAGES // size)) if size else MAX_GROUP


def _seeming_length(group: Sequence[RunConfig]) -> tuple[int, int, bool]:
    """Return what groups are ordered by: examples to train on, runs, and normalised or not (a fifth more time)."""
    run, model = group[0], group[0].model.value
    normalised = isinstance(model, Model) and model.normalization is not None
    return run.train.steps * run.train.batch_size, len(group), normalised


def train_group(
    runs: Sequence[RunConfig], data: Dataset, watch: Callable[[Measurement], object] | None = None
) -> list[RunResult]:
    """Train runs of one ``group_id`` in lock-step.

    A run that raises is ``failed``, with its traceback. In lock-step that can't be told from its neighbours, so each
    run of the group is then trained alone.

    Raises:
        InputError: if training finds that what the user gave can't be trained.
        KeyboardInterrupt: if the user leaves a debugger, as for Ctrl-C.
    """
    begin, found = time.perf_counter(), dict[str, Any]()
    results = [RunResult(run) for run in runs]

    def look_on(measured: Measurement) -> None:
        if not found:  # while it trains, with the threads that BLAS then has
            found.update(environment())
        if watch:
            watch(measured)

    try:
        train_runs(runs, data, results, look_on)
    except InputError:
        raise
    except BdbQuit as left:
        raise KeyboardInterrupt from left
    except Exception:
        if len(runs) > 1:
            return [result for run in runs for result in train_group([run], data)]
        results[0].status, results[0].error = "failed", traceback.format_exc()
    seconds, found = (time.perf_counter() - begin) / len(runs), found or environment()
    ended = datetime.now(UTC).isoformat(timespec="seconds")
    if runs[0].train.engine != "compiled":
        found["numba"] = None  # imported, maybe, but not for these
    for result in results:
        result.seconds, result.finished, result.provenance = seconds, ended, found
    return results


def load_data(runs: Sequence[RunConfig]) -> dict[Choice[Source], Dataset]:
    """Load every data set of the runs, once.

    Raises:
        InputError: if one can't be loaded, is smaller than a mini-batch, or has images too small for a model of ours;
            or if an engine can't train what is asked of it.
    """
    data: dict[Choice[Source], Dataset] = {}
    built = set[tuple[Hashable, ...]]()
    for run in runs:
        if run.dataset not in data:
            data[run.dataset] = run.dataset.value.load()
        examples = len(data[run.dataset].train_labels)
        if run.train.batch_size > examples:
            raise InputError(
                f"train.batch_size={run.train.batch_size}: must be at most {examples}, "
                f"the training examples of {run.dataset.name}"
            )
        if (kind := (run.dataset, run.model.shared, run.optimizer, run.train)) not in built:
            built.add(kind)
            _check_fit(run, data[run.dataset])
            check_engine(run, data[run.dataset])
    return data


def _plain_network(run: RunConfig, data: Dataset) -> Network | None:
    """Return the network of a model of ours, with plain parts, which have the same shapes; None for a user's model.

    Classes of the user's are left to the workers, which they may kill.
    """
    if not isinstance(run.model.value, Model):
        return None
    return replace(run.model.value, activation="relu", norm="none", init=Init("he", None)).build(data.classes)


def _check_fit(run: RunConfig, data: Dataset) -> None:
    """Refuse a model of ours that can't be built for the images of its data set."""
    network = _plain_network(run, data)
    try:
        if network:
            network.init(np.random.default_rng(0), data.image_shape)
    except ValueError as error:
        _, height, width = data.image_shape
        raise InputError(
            f"model.name={run.model.name}: must go with the images of {run.dataset.name}, {height}×{width} ({error})"
        ) from error


def run_all(
    runs: Sequence[RunConfig],
    store: Store,
    compute: Compute,
    progress: Progress,
    *,
    force: bool = False,
    asked: Callable[[], Sequence[RunConfig]] = lambda: (),
    note: str | None = None,
) -> None:
    """Train the runs that the store lacks on all workers, or all runs if ``force``, and store each group as it ends.

    What other sweeps on the same store are training meanwhile is left to them, and waited for.

    Args:
        runs: that are asked for now.
        store: for what comes of them.
        compute: where to train them.
        progress: that is shown.
        force: train again what is stored.
        asked: returns the runs that are asked for by what is then stored: these, and more of the same data.
        note: stored with the runs that are trained.

    Raises:
        InputError: if the data can't be loaded, the store can't be written, or the workers can't be used.
    """
    with closing(progress):  # before what is printed next, be it an error
        missing = list(runs) if force else without(runs, store.finished())
        if not missing:
            return
        owner = uuid.uuid4().hex
        data = load_data(missing)
        with _claims(store, owner), workers.start(compute, data) as started:
            _Driver(store, owner, started, compute, progress, data, force, asked, note).drive(missing)


@contextmanager
def _claims(store: Store, owner: str) -> Iterator[None]:
    """Keep the claims of ``owner`` alive, in a thread of its own, since training may hold this one; then drop them."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(InputError):  # a store that can't be written says so when results are stored
                store.heartbeat(owner)

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(InputError):  # they are void once this process has ended
            store.release(owner)


class _Driver:
    """The loop that keeps workers busy, until every run has ended."""

    def __init__(
        self,
        store: Store,
        owner: str,
        started: Workers,
        compute: Compute,
        progress: Progress,
        data: Mapping[Choice[Source], Dataset],
        force: bool,
        asked: Callable[[], Sequence[RunConfig]],
        note: str | None = None,
    ) -> None:
        self.store, self.owner, self.workers, self.compute = store, owner, started, compute
        self.progress, self.data, self.force, self.asked, self.note = progress, data, force, asked, note
        self.known: set[str] = set()
        """The ids of the runs that are in the queue, or were."""
        self.queue: deque[list[RunConfig]] = deque()
        self.in_training: dict[Future[list[RunResult]], list[RunConfig]] = {}
        self.suspects: deque[RunConfig] = deque()
        """Runs whose worker died while it trained nothing else. They are tried once more when nothing else is in
        training anywhere, so that no neighbour can have taken the memory."""
        self.suspected: set[str] = set()
        self.elsewhere: list[RunConfig] = []
        """The runs that another sweep had claimed."""

    def drive(self, missing: Sequence[RunConfig]) -> None:
        """Train what is missing, and what is asked for once that has ended."""
        self._enqueue(missing)
        while self.queue or self.in_training or self.suspects or self.elsewhere or self._more():
            at_once = self.workers.count
            if at_once == 0:
                self.progress.note("no worker is connected; waiting for one")
            while self.queue and len(self.in_training) < max(1, at_once):
                self._claim_and_train(self.queue.popleft())
            if self.in_training:
                for future in wait(self.in_training, POLL, FIRST_COMPLETED).done:
                    self._end(future)
                self.workers.look()
                self.progress.tick()
            elif self.suspects:
                self._claim_and_train([self.suspects.popleft()])
            elif self.elsewhere:
                self._wait_for_others()

    def _enqueue(self, runs: Sequence[RunConfig]) -> None:
        self.known.update(run.run_id for run in runs)
        self.queue.extend(form_groups(runs, max(1, self.workers.count), self.data, self.compute.group_size))

    def _more(self) -> bool:
        """Put the runs into the queue that are asked for by now and not before, and tell whether there are any."""
        new = [run for run in self.asked() if run.run_id not in self.known]
        new = new if self.force else without(new, self.store.finished())
        if new:
            self.progress.more(len(new))
            self._enqueue(new)
        return bool(new)

    def _claim_and_train(self, group: Sequence[RunConfig]) -> None:
        claimed = self.store.claim(group, self.owner, replace=self.force)
        ours = {run.run_id for run in claimed}
        self.elsewhere += [run for run in group if run.run_id not in ours]
        if claimed:
            tell = partial(self.progress.reached, claimed)
            self.in_training[self.workers.submit(train_group, claimed, tell)] = claimed

    def _end(self, future: Future[list[RunResult]]) -> None:
        group = self.in_training.pop(future)
        if future.cancelled():
            assert isinstance(self.compute, Dask)  # processes cancel nothing
            scheduler = to_override(self.compute.scheduler)
            raise InputError(
                f"compute.scheduler={scheduler}: lost, with what was in training; the same command goes on"
            )
        error = future.exception()
        if error is None:
            self._store(future.result())
        elif isinstance(error, InputError):
            raise error
        elif len(group) > 1:
            half = len(group) // 2
            self.queue.extendleft([group[half:], group[:half]])
        elif group[0].run_id not in self.suspected:
            self.suspected.add(group[0].run_id)
            self.suspects.append(group[0])
        else:
            reason = cause_of_death(error)
            told = f"WorkerDied: {reason}, twice while it trained this run and nothing else; perhaps out of memory"
            text = told if reason else "".join(traceback.format_exception(error))
            self._store([RunResult(group[0], status="failed", error=text)])

    def _store(self, results: list[RunResult]) -> None:
        self.store.add(results, replace=self.force, note=self.note)
        if not self.queue:  # before a worker is idle
            self._more()
        self.progress(results)

    def _wait_for_others(self) -> None:
        left = self.elsewhere if self.force else without(self.elsewhere, self.store.finished())
        self.progress.found(len(self.elsewhere) - len(left))
        self.elsewhere = []
        if left:
            self.progress.note("the runs that are left are in training by another process; waiting for it")
            time.sleep(POLL)
            self._enqueue(left)


def without(runs: Sequence[RunConfig], finished: set[tuple[str, str]]) -> list[RunConfig]:
    """Return the runs that are not finished by the code in place, in their order."""
    return [run for run in runs if (run.run_id, run.code) not in finished]


def tell_apart(some: Sequence[RunConfig], runs: Sequence[RunConfig]) -> list[str]:
    """Write for each of ``some`` its settings that are not the same in all ``runs``, as a command line has them."""
    keys = varying([run.to_dict() for run in runs])
    flat = [dict(flatten(run.to_dict())) for run in some]
    return [" ".join(f"{key}={to_override(run[key])}" for key in keys if key in run) or "the only run" for run in flat]


def varying(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the dotted keys of settings whose values are not the same in all that have them."""
    values: dict[str, set[str]] = {}
    for each in settings:
        for key, value in flatten(each):
            values.setdefault(key, set()).add(to_override(value))
    return [key for key, found in values.items() if len(found) > 1]


def progress_bar(total: int, unit: str, *, leave: bool = True) -> tqdm[NoReturn]:
    """Return a bar in a terminal or a notebook; else, or of nothing, one that shows nothing, its ``disable`` true."""
    in_notebook = any(part.__module__ == "tqdm.notebook" for part in auto.tqdm.__mro__)
    shown = in_notebook or sys.stderr.isatty()
    return auto.tqdm(total=total, unit=unit, disable=not (shown and total), leave=leave, dynamic_ncols=True, miniters=0)


def headline(error: str) -> str:
    """Return the line of a traceback that says what was raised; or the first line of another text."""
    lines = error.splitlines() or [""]
    indented = [i for i, line in enumerate(lines[:-1]) if line.startswith("  ")]
    return lines[indented[-1] + 1] if indented else lines[0]


class Progress:
    """A display of how many runs have ended, and when the rest will: a bar in a terminal, else a line now and then.

    What runs in training have done of their steps counts for the time that is left, and moves the bar.
    """

    def __init__(self, total: int) -> None:
        """Begin with none of the ``total`` runs trained."""
        self.total, self.ended = total, 0
        self.failed: list[RunResult] = []
        self._parts: dict[str, float] = {}
        """What each run in training has done of its steps."""
        self._noted: set[str] = set()
        self._begin = self._last_line = time.monotonic()
        self._bar = progress_bar(total, "run")

    def __call__(self, results: Sequence[RunResult]) -> None:
        """Count the runs of a group that has ended."""
        self.ended += len(results)
        failed = [result for result in results if result.status == "failed"]
        if failed and not self.failed:
            self.note(f"a run failed: {headline(failed[0].error or '')}")
        self.failed += failed
        for result in results:
            self._parts.pop(result.config.run_id, None)
        self._show(last=self.ended == self.total)

    def reached(self, runs: Sequence[RunConfig], step: int) -> None:
        """Count the steps that runs in training have done."""
        self._parts |= {run.run_id: step / run.train.steps for run in runs}
        self._show()

    def _show(self, *, last: bool = False) -> None:
        done, now = self.ended + sum(self._parts.values()), time.monotonic()
        if not self._bar.disable:
            self._bar.bar_format = (
                f"{{l_bar}}{{bar}}| {self.ended}/{self.total} [{{elapsed}}<{{remaining}}, {{rate_fmt}}]"
            )
            self._bar.update(done - self._bar.n)
        elif last or (done and now - self._last_line > max(LINE_EVERY, (now - self._begin) / 50)):
            self._last_line = now
            left = tqdm.format_interval((now - self._begin) / done * (self.total - done))
            print(f"{self.ended} of {self.total} runs, {left} left", file=sys.stderr, flush=True)

    def found(self, count: int) -> None:
        """Count so many runs that another process has trained."""
        self.total -= count
        self._bar.total = self.total

    def more(self, count: int) -> None:
        """Count so many runs that are asked for by what has ended, and say so."""
        self.found(-count)
        self._bar.write(f"{count} more run{'s' * (count > 1)} to refine the grid", file=sys.stderr)

    def tick(self) -> None:
        """Let the display show the time, since groups may take long."""
        self._show()
        self._bar.refresh()

    def close(self) -> None:
        """End the bar, so that what is printed next begins a line."""
        self._bar.close()

    def note(self, line: str) -> None:
        """Say what keeps the sweep from going on, once."""
        if line not in self._noted:
            self._bar.write(line, file=sys.stderr)
        self._noted.add(line)
