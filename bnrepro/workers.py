"""Train groups where settings say: in this process, in others of this machine, or on a Dask cluster.

All take a task and return a future of its result, so that whoever drives a sweep knows at any moment which groups are
in training, and a worker that dies takes no other's group with it. Calling ``joblib.Parallel`` would be shorter, but
loky's pool gives up on all its tasks when one worker dies, and joblib's Dask backend waits for ever for a task that
Dask has given up (joblib 1.6).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import logging
import multiprocessing.resource_tracker
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol, TypeVar

import joblib
import threadpoolctl
from loky import ProcessPoolExecutor, process_executor
from loky.backend import resource_tracker
from loky.process_executor import TerminatedWorkerError

from .config import Compute, Dask, Inline, Parallel, RunConfig
from .data import Dataset, Source
from .errors import InputError
from .interrupts import hold_signals, ignore_interrupts
from .settings import Choice
from .training import Measurement

Result = TypeVar("Result")
Task = Callable[..., Result]
"""A function of runs and their data set; or of these and what is to be called with each measurement."""
Watch = Callable[[Measurement], object]
Tell = Callable[[int], object]
"""A function that is told how many steps a group has been trained."""
Data = Mapping[Choice[Source], Dataset]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "VECLIB_MAXIMUM_THREADS": "1"}
"""The environment of workers. What threadpoolctl knows is limited there; Apple's Accelerate it does not know."""

CONNECT_SECONDS = 5
"""The time that a Dask scheduler may take to answer."""

TOPIC = "bnrepro-steps"
"""The topic of Dask under which workers log the steps that they have reached."""


class Workers(Protocol):
    """The processes that train groups, several at once."""

    @property
    def count(self) -> int:
        """Return how many groups can be in training at once, now; 0 if all workers are gone but some may come."""

    def submit(self, task: Task[Result], runs: Sequence[RunConfig], tell: Tell | None = None) -> Future[Result]:
        """Call ``task(runs, data)`` in a worker, with the data set of the runs, or ``task(runs, data, watch)``.

        With ``tell``, the task gets a ``watch`` to call with each measurement; ``tell`` is called with its step, at
        once or at the next :meth:`look`.

        The future raises InputError if the code there is not the code here, and WorkerDied if its process died.
        """

    def look(self) -> None:
        """Tell which steps the groups in training have reached, where that could not be told at once."""


class WorkerDied(Exception):
    """The process that trained a group has ended without a result; the message says with which exit code."""


@contextlib.contextmanager
def start(compute: Compute, data: Data) -> Iterator[Workers]:
    """Start workers with these data sets, which are ended in the end, whatever they do.

    Raises:
        InputError: if there is no room for the data sets, or no scheduler at the address given, or no Dask.
    """
    if isinstance(compute, Inline):
        yield _Inline(data)
        return
    assert isinstance(compute, Parallel)
    with _cluster(compute, data) if isinstance(compute, Dask) else _processes(compute, data) as workers:
        yield workers


def cause_of_death(error: BaseException) -> str | None:
    """Say why the worker of a task died, if that is why the task has no result."""
    distributed = sys.modules.get("distributed")  # which need not be installed
    died = (WorkerDied, distributed.KilledWorker) if distributed else WorkerDied
    return str(error) if isinstance(error, died) else None


def _work(task: Task[Result], runs: Sequence[RunConfig], code: Sequence[str], data: Dataset, *watch: Watch) -> Result:
    """Run the task in a worker, if the code there is the code of the sweep."""
    # For good, and not only around each training: those in other threads of a worker of Dask would set it back.
    threadpoolctl.threadpool_limits(1, user_api="blas")
    for run, expected in zip(runs, code, strict=True):
        if run.code != expected:
            raise InputError(
                f"a worker on {platform.node()} has other code (digest {run.code}) than this process ({expected}): "
                "workers need the same files, unchanged until the sweep ends"
            )
    return task(runs, data, *watch)


# This process


class _Inline:
    """The training of one group after another; a breakpoint in a layer stops there, and Ctrl-C comes through."""

    count = 1

    def __init__(self, data: Data) -> None:
        self._data = data

    def submit(self, task: Task[Result], runs: Sequence[RunConfig], tell: Tell | None = None) -> Future[Result]:
        future: Future[Result] = Future()
        watch = [lambda measured: tell(measured.step)] if tell else []
        with threadpoolctl.threadpool_limits(1, user_api="blas"):
            try:
                future.set_result(task(runs, self._data[runs[0].dataset], *watch))
            except Exception as error:
                future.set_exception(error)
        return future

    def look(self) -> None: ...


# Processes of this machine


@contextlib.contextmanager
def _processes(compute: Parallel, data: Data) -> Iterator[Workers]:
    with tempfile.TemporaryDirectory(prefix="bnrepro-") as folder:
        files = {name: str(Path(folder) / str(number)) for number, name in enumerate(data)}
        for name, dataset in data.items():
            try:
                joblib.dump(dataset, files[name])
            except OSError as error:
                raise InputError(f"TMPDIR={Path(folder).parent}: no room for {name.name} ({error.strerror})") from error
        _start_trackers()
        processes = _Processes(joblib.effective_n_jobs(compute.n_jobs), folder, files)
        try:
            yield processes
        finally:
            processes.end()


class _Processes:
    """Worker processes of this machine, each with an executor of its own."""

    def __init__(self, count: int, folder: str, files: Mapping[Choice[Source], str]) -> None:
        self.count, self._files, self._folder = count, files, folder
        self._executors: dict[int, ProcessPoolExecutor] = {}
        self._last: dict[int, Future[Any]] = {}
        """The future that each worker was last given."""
        self._tell: dict[int, Tell | None] = {}
        """What is to be told of the task that each worker was last given."""
        self._alive, self._held = Pipe(duplex=False)
        """Nothing is ever sent; the system closes the end that is held here as soon as this process has ended."""

    def submit(self, task: Task[Result], runs: Sequence[RunConfig], tell: Tell | None = None) -> Future[Result]:
        free = next(i for i in range(self.count) if i not in self._last or self._last[i].done())
        self._tell[free], steps = tell, self._steps(free)
        steps.unlink(missing_ok=True)
        watch = [functools.partial(_leave_step, steps)] if tell else []
        work = _work_on_file, task, runs, [run.code for run in runs], self._files[runs[0].dataset], *watch
        with hold_signals():
            try:
                future = self._executors[free].submit(*work)
            except (KeyError, BrokenExecutor):  # none yet, or its process has died
                try:
                    self._executors[free] = ProcessPoolExecutor(
                        1, env=ONE_THREAD, initializer=_begin, initargs=(self._alive, self._folder)
                    )
                except OSError as error:  # such as a read-only /dev/shm, where semaphores are
                    raise InputError(
                        f"compute=local: can't start processes ({error.strerror}); compute=inline needs none"
                    ) from error
                future = self._executors[free].submit(*work)
        self._last[free] = _with_exit_code(future, self._executors[free])
        return self._last[free]

    def look(self) -> None:
        for i, tell in self._tell.items():
            if tell and not self._last[i].done():
                with contextlib.suppress(OSError):  # nothing measured yet
                    tell(self._steps(i).stat().st_size)

    def _steps(self, worker: int) -> Path:
        """Return the file whose size is the step that a worker has reached: no space on the disk, and never torn."""
        return Path(self._folder) / f"{worker}.steps"

    def end(self) -> None:
        """Kill the workers, all at once, and wait until the last has ended."""
        if self._executors:
            with ThreadPoolExecutor(len(self._executors)) as pool:
                list(pool.map(lambda executor: executor.shutdown(kill_workers=True), self._executors.values()))
        self._held.close()
        self._alive.close()


def _with_exit_code(future: Future[Result], executor: ProcessPoolExecutor) -> Future[Result]:
    """Wrap a future: the new one raises WorkerDied where loky's tells the exit code in prose only."""
    outcome: Future[Result] = Future()

    def end(future: Future[Result]) -> None:
        error = future.exception()
        if isinstance(error, TerminatedWorkerError):
            processes = [*executor._processes.values()]  # the one; after this, loky forgets it
            for process in processes:
                process.join(1)
            codes = " or ".join(_status_text(process.exitcode) for process in processes)
            outcome.set_exception(WorkerDied(f"exit code {codes or 'unknown'}"))
        elif error:
            outcome.set_exception(error)
        else:
            outcome.set_result(future.result())

    future.add_done_callback(end)
    return outcome


def _status_text(exit_code: int | None) -> str:
    with contextlib.suppress(ValueError):  # no signal
        return f"{signal.Signals(-(exit_code or 0)).name}({exit_code})"
    return "unknown" if exit_code is None else str(exit_code)


def _start_trackers() -> None:
    """Start the processes that remove what loky leaves behind: the end of a terminal does not end them.

    They are silent. They would warn of what an interruption has kept loky from telling them, after our own words.
    """
    sys.warnoptions.append("ignore")  # they get them as options of their own
    try:
        with hold_signals():
            multiprocessing.resource_tracker.ensure_running()  # loky would start it with a worker, and unblock signals
            resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()


def _begin(alive: Connection, folder: str) -> None:
    ignore_interrupts()  # the parent ends this one
    # What a group took stays with the process (``memory``), and images mapped from a file count, too: that is no leak,
    # for which loky would end the process, with a warning.
    process_executor._MAX_MEMORY_LEAK_SIZE = sys.maxsize
    threading.Thread(target=_end_with, args=[alive, folder], daemon=True).start()


def _end_with(alive: Connection, folder: str) -> None:
    """End this worker with its parent, however that ends; its number alone tells nothing on Windows, where it stays."""
    with contextlib.suppress(EOFError, OSError):
        alive.recv()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _work_on_file(
    task: Task[Result], runs: Sequence[RunConfig], code: Sequence[str], file: str, *watch: Watch
) -> Result:
    return _work(task, runs, code, _load(file), *watch)


def _leave_step(file: Path, measured: Measurement) -> None:
    """Leave the step where ``_Processes.look`` finds it; that it can't be left stops no training."""
    with contextlib.suppress(OSError), file.open("ab") as opened:
        opened.truncate(measured.step)


@functools.cache
def _load(file: str) -> Dataset:
    """Load a data set as memory maps, which all processes share."""
    dataset: Dataset = joblib.load(file, mmap_mode="r")
    return dataset


# Dask


@contextlib.contextmanager
def _cluster(compute: Dask, data: Data) -> Iterator[Workers]:
    try:
        distributed: Any = importlib.import_module("distributed")  # whose types are half there
        dask: Any = importlib.import_module("dask")
    except ModuleNotFoundError as error:
        raise InputError("compute=dask: Dask is not installed; python -m pip install -e '.[dask]' does that") from error
    with contextlib.ExitStack() as stack:
        for name in ("distributed", "distributed.client", "tornado.application", "asyncio"):
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)  # what matters is said here
        options = {f"distributed.nanny.pre-spawn-environ.{name}": value for name, value in ONE_THREAD.items()}
        # The data sets are meant to travel with the graph.
        options["distributed.admin.large-graph-warning-threshold"] = "1TB"
        stack.enter_context(dask.config.set(options))
        address: Any = compute.scheduler
        if address is None:
            address = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=joblib.effective_n_jobs(compute.n_jobs),
                    threads_per_worker=1,
                    dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            )
        try:
            client = stack.enter_context(distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False))
        except Exception as error:  # of any type: TLS without certificates is a TypeError
            raise InputError(f"compute.scheduler={address}: can't be reached ({error})") from error
        yield _Cluster(compute, client, data)


class _Cluster:
    def __init__(self, compute: Dask, client: Any, data: Data) -> None:
        self._n_jobs, self._client = compute.n_jobs, client
        self._executor = client.get_executor(pure=False)
        # Not scattered: what is scattered is lost with the last worker that has it.
        self._data = {name: client.submit(_same, dataset, pure=False) for name, dataset in data.items()}
        self._numbers = itertools.count()
        self._told: dict[int, tuple[Future[Any], Tell]] = {}
        """What is to be told of each group in training, by its number."""
        self._reached: dict[int, int] = {}
        """What was heard, in a thread of Dask, since the last look: the steps of groups by their numbers."""
        client.subscribe_topic(TOPIC, self._hear)

    @property
    def count(self) -> int:
        try:
            threads: int = sum(self._client.nthreads().values())
        except OSError as error:
            raise InputError(f"compute.scheduler={self._client.scheduler.address}: lost ({error})") from error
        return threads if self._n_jobs < 0 else min(threads, self._n_jobs)

    def submit(self, task: Task[Result], runs: Sequence[RunConfig], tell: Tell | None = None) -> Future[Result]:
        number = next(self._numbers)
        watch = [functools.partial(_log_step, self._client.id, number)] if tell else []
        code, data = [run.code for run in runs], self._data[runs[0].dataset]
        future: Future[Result] = self._executor.submit(_work, task, runs, code, data, *watch)
        if tell:
            self._told[number] = future, tell
        return future

    def look(self) -> None:
        self._told = {number: told for number, told in self._told.items() if not told[0].done()}
        while self._reached:
            number, step = self._reached.popitem()
            if number in self._told:
                self._told[number][1](step)

    def _hear(self, event: tuple[float, tuple[str, int, int]]) -> None:
        client, number, step = event[1]
        if client == self._client.id:  # and not another sweep on the same cluster
            self._reached[number] = step


def _log_step(client: str, number: int, measured: Measurement) -> None:
    importlib.import_module("distributed").get_worker().log_event(TOPIC, (client, number, measured.step))


def _same(dataset: Dataset) -> Dataset:
    return dataset
