"""What becomes of a task in each kind of workers; test_faults.py and test_dask.py do worse to true sweeps."""

import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import threadpoolctl
from calls import Ended, but, in_a_process
from runs import a_run, write_idx
from sweeps import TWELVE, a_sweep, entered, eventually, finish, patience
from sweeps import interrupt as interrupt_all

from bnrepro import workers
from bnrepro.config import Compute, Dask, Inline, Local, RunConfig
from bnrepro.data import Dataset
from bnrepro.errors import InputError
from bnrepro.sweeping import load_data
from bnrepro.workers import Data, WorkerDied, Workers, cause_of_death


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data([a_run()])


@pytest.fixture
def one_process(data: Data) -> Iterator[Any]:
    with workers.start(Local(n_jobs=1, group_size=None), data) as started:
        yield started


def process(runs: Sequence[RunConfig], data: Dataset) -> int:
    return os.getpid()


def kill_yourself(runs: Sequence[RunConfig], data: Dataset) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(runs: Sequence[RunConfig], data: Dataset) -> None:
    os._exit(3)


def fail(runs: Sequence[RunConfig], data: Dataset) -> None:
    raise ArithmeticError(f"{len(runs)} runs")


def interrupt(runs: Sequence[RunConfig], data: Dataset) -> None:
    raise KeyboardInterrupt


def blas_threads(runs: Sequence[RunConfig], data: Dataset) -> set[int]:
    return {lib["num_threads"] for lib in threadpoolctl.threadpool_info() if lib["user_api"] == "blas"}


KEPT: list[bytes] = []


def grow(runs: Sequence[RunConfig], data: Dataset) -> None:
    KEPT.append(b"1" * 350_000_000)
    time.sleep(1.1)  # loky looks once in a second


def examples(runs: Sequence[RunConfig], data: Dataset) -> int:
    return len(data.train_labels)


@pytest.mark.parametrize("compute", [Inline(group_size=None), Local(n_jobs=1, group_size=None)])
def test_each_run_gets_its_own_data_set(tmp_path: Path, compute: Inline | Local) -> None:
    root = write_idx(tmp_path / "mnist")
    runs = [
        a_run(),
        a_run({"dataset.root": str(root), "dataset.sha256": None, "train.batch_size": 10}, "dataset=mnist"),
    ]
    with workers.start(compute, load_data(runs)) as started:
        assert [started.submit(examples, [run]).result() for run in runs] == [1442, 60]


def reach(end: Path, runs: Sequence[RunConfig], data: Dataset, watch: Callable[[Any], object]) -> None:
    """Reach two steps, and go on until there is the file ``end``."""
    for step in (3, 7):
        watch(SimpleNamespace(step=step))
    eventually(end.exists)


@pytest.mark.parametrize(
    "compute",
    [Local(n_jobs=2, group_size=None), Dask(n_jobs=2, group_size=None, scheduler=None)],
    ids=["local", "dask"],
)
def test_the_step_of_each_group_is_told_while_it_trains_and_no_longer(
    tmp_path: Path, data: Data, compute: Compute
) -> None:
    with workers.start(compute, data) as started:
        told: dict[str, int] = {}
        futures = {
            name: started.submit(partial(reach, tmp_path / name), [a_run()], partial(told.__setitem__, name))
            for name in ("one", "other")
        }

        def look() -> dict[str, int]:
            started.look()
            return told

        eventually(lambda: look() == {"one": 7, "other": 7})
        (tmp_path / "one").touch()
        futures["one"].result()
        told.clear()
        assert "one" not in look()
        started.submit(examples, [a_run()]).result()  # in the place of the one
        assert "one" not in look()
        (tmp_path / "other").touch()
        futures["other"].result()


def test_inline_the_step_is_told_at_once(tmp_path: Path, data: Data) -> None:
    told: list[int] = []
    (tmp_path / "end").touch()
    with workers.start(Inline(group_size=None), data) as started:
        started.submit(partial(reach, tmp_path / "end"), [a_run()], told.append).result()
    assert told == [3, 7]


@pytest.mark.parametrize("n_jobs", [1, 3])
def test_there_are_as_many_processes_as_are_asked_for(data: Data, n_jobs: int) -> None:
    with workers.start(Local(n_jobs=n_jobs, group_size=None), data) as started:
        assert started.count == n_jobs


def test_a_process_with_other_code_is_refused(one_process: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunConfig, "code", "0123456789abcdef")  # here, and not there
    with pytest.raises(InputError, match=r"has other code \(digest \w+\) than this process \(0123456789abcdef\)"):
        one_process.submit(process, [a_run()]).result()


def test_where_no_process_can_be_started_it_is_said(one_process: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))  # as of a semaphore in a read-only /dev/shm

    monkeypatch.setattr(workers, "ProcessPoolExecutor", refuse)
    with pytest.raises(
        InputError, match=r"compute=local: can't start processes \(Read-only file system\); compute=inl"
    ):
        one_process.submit(process, [a_run()])


def test_a_process_that_dies_is_told_by_its_exit_code_and_another_takes_its_place(one_process: Workers) -> None:
    first = one_process.submit(process, [a_run()]).result()
    for task, reason in ((kill_yourself, "exit code SIGKILL(-9)"), (leave, "exit code 3")):
        error = one_process.submit(task, [a_run()]).exception()
        assert isinstance(error, WorkerDied)
        assert cause_of_death(error) == reason
        assert one_process.submit(process, [a_run()]).result() not in (first, os.getpid())


def test_a_process_that_grows_is_not_replaced(one_process: Workers) -> None:
    first = one_process.submit(process, [a_run()]).result()
    one_process.submit(grow, [a_run()]).result()
    assert one_process.submit(process, [a_run()]).result() == first


def test_a_process_that_died_without_a_task_is_replaced(one_process: Any) -> None:
    idle = one_process.submit(process, [a_run()]).result()
    os.kill(idle, signal.SIGKILL)
    eventually(lambda: one_process._executors[0]._flags.broken)  # as loky sees it
    assert one_process.submit(process, [a_run()]).result() != idle


@pytest.mark.parametrize("compute", [Inline(group_size=None), Local(n_jobs=1, group_size=None)])
def test_what_a_task_raises_is_what_its_future_raises(data: Data, compute: Inline | Local) -> None:
    with workers.start(compute, data) as started:
        error = started.submit(fail, [a_run(), a_run()]).exception()
    assert isinstance(error, ArithmeticError)
    assert error.args == ("2 runs",)
    assert cause_of_death(error) is None


def test_what_dask_gives_up_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    class KilledWorker(Exception): ...

    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(KilledWorker=KilledWorker))
    assert cause_of_death(KilledWorker("four workers died")) == "four workers died"
    assert cause_of_death(WorkerDied("exit code 1")) == "exit code 1"
    assert cause_of_death(ValueError("killed")) is None


def test_inline_is_this_process_with_one_blas_thread_while_it_trains(data: Data) -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"), workers.start(Inline(group_size=None), data) as started:
        before = blas_threads([], data[a_run().dataset])
        assert started.count == 1
        assert started.submit(process, [a_run()]).result() == os.getpid()
        assert started.submit(blas_threads, [a_run()]).result() == {1}
        assert blas_threads([], data[a_run().dataset]) == before


def test_ctrl_c_comes_through_inline(data: Data) -> None:
    with workers.start(Inline(group_size=None), data) as started, pytest.raises(KeyboardInterrupt):
        started.submit(interrupt, [a_run()])


SLOW_TO_START = """
import pathlib, sys, time
if "loky.backend.popen_loky_posix" in sys.orig_argv:
    pathlib.Path(STARTING).touch()
    time.sleep(1)
"""


def test_ctrl_c_while_workers_start_leaves_our_line_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starting = tmp_path / "starting"
    (tmp_path / "sitecustomize.py").write_text(SLOW_TO_START.replace("STARTING", repr(str(starting))))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with a_sweep(tmp_path / "here", TWELVE) as sweep:
        eventually(starting.exists)
        interrupt_all(sweep, signal.SIGINT)
        status, out, err = sweep.end()
    assert (status, out.count("\n")) == (130, 1)
    assert re.fullmatch(r"\nbnrepro: interrupted; 0 of 12 runs are stored; to go on: .*\n", err), err


LEAVING = """
from loky.backend import resource_tracker
from bnrepro import workers

workers._start_trackers()
resource_tracker.register("/nothing-of-this-name", "semlock")
"""


def test_what_is_cleaned_up_after_the_end_is_cleaned_up_silently(tmp_path: Path) -> None:
    assert in_a_process(["-c", LEAVING], tmp_path) == Ended(0, "", "")


# Systems that have less


POORER = """
import os, signal, sys
sys.modules["resource"] = None
del os.getppid, signal.SIGHUP, signal.pthread_sigmask
"""
"""As on Windows, where ``os.getppid`` stays the same when the parent has ended."""


def what_a_worker_has(runs: Sequence[RunConfig], data: Dataset) -> tuple[dict[str, str], list[str]]:
    return dict(os.environ), sys.path


def test_a_worker_has_one_thread_and_the_import_path_of_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    run = a_run()
    with workers.start(Local(n_jobs=2, group_size=None), load_data([run])) as started:
        environment, path = started.submit(what_a_worker_has, [run]).result()
    assert environment["OMP_NUM_THREADS"] == environment["VECLIB_MAXIMUM_THREADS"] == "1"
    assert path[0] == str(tmp_path)


def test_a_system_without_hangups_and_measures_of_memory_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run, and a sweep whose death its workers notice."""
    (tmp_path / "sitecustomize.py").write_text(POORER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    status, out, err = finish(tmp_path / "here", [*TWELVE, "sweep.dry_run=true"])
    assert (status, err) == (0, "")
    assert "\nmemory: can't be measured on this system\n" in out
    (tmp_path / "here" / "entered").unlink()
    with a_sweep(tmp_path / "here", but(TWELVE, "train.steps=1000000")) as sweep:
        eventually(lambda: len(entered(tmp_path / "here")) == 2)
        assert len(sweep.workers()) == 2
        sweep.process.kill()
        eventually(lambda: not sweep.workers(), 3 * patience())
