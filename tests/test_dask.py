"""The same sweep on a Dask cluster: a scheduler and two workers as processes of their own, on loopback."""

import importlib
import logging
import os
import re
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from calls import but
from runs import assert_same_results
from sweeps import MINE, SMALL, TWELVE, a_sweep, drawn, entered, eventually, finish, marked, patience, stored

from bnrepro import workers
from bnrepro.config import Dask
from bnrepro.errors import InputError


@dataclass
class Cluster:
    """A scheduler, and workers of one thread each that share no folder with whoever drives the sweep."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    begun: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "mine.py").write_text(MINE)
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        self._begin("scheduler", "--port", self.address.rpartition(":")[2], "--no-dashboard", "--host", "127.0.0.1")

    def add_worker(self) -> None:
        self._begin("worker", self.address, "--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1")

    def _begin(self, *arguments: str) -> None:
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        self.begun.append(
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:]],
                cwd=self.folder,
                env=os.environ | {"PYTHONPATH": path, "MARK": self.mark, "ENTERED": str(self.folder / "entered")},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )

    def worker(self, pid: int) -> psutil.Process:
        return next(process for process in marked(self.mark) if process.pid == pid)


@contextmanager
def a_cluster(folder: Path, count: int = 2) -> Iterator[Cluster]:
    folder.mkdir()
    cluster = Cluster(folder)
    try:
        for _ in range(count):
            cluster.add_worker()
        yield cluster
    finally:
        for process in marked(cluster.mark):
            process.kill()
        for begun in cluster.begun:
            begun.wait()


def on(cluster: Cluster) -> list[str]:
    return [*TWELVE, "compute=dask", f"compute.scheduler={cluster.address}"]


@pytest.mark.slow
def test_the_same_bits_on_one_and_two_processes_and_on_dask_though_a_worker_is_killed(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two", "dask", "local cluster")]
    one, two, dask, local = folders
    assert finish(one, [*TWELVE, "compute=inline"])[0] == 0
    assert finish(two, but(TWELVE, "compute.n_jobs=2", "compute.group_size=3"))[0] == 0
    assert finish(local, [*TWELVE, "compute=dask", "compute.n_jobs=2"])[0] == 0
    with a_cluster(tmp_path / "elsewhere") as cluster, a_sweep(dask, on(cluster)) as sweep:
        eventually(lambda: len(set(entered(cluster.folder))) == 2)  # both are at work
        cluster.worker(entered(cluster.folder)[-1]).kill()
        status, out, err = sweep.end()
        assert status == 0, err
        assert "Traceback" not in out + err
        assert entered(dask) == []
        assert 12 < len(entered(cluster.folder)) <= 14
    for folder in folders[1:]:
        assert_same_results(stored(folder), stored(one))
        assert list(drawn(folder).values()) == list(drawn(one).values())
    assert set(stored(dask).runs["blas_threads"]) == {1}


@pytest.mark.slow
def test_a_sweep_waits_for_workers_and_uses_those_that_come(tmp_path: Path) -> None:
    with a_cluster(tmp_path / "elsewhere", count=0) as cluster, a_sweep(tmp_path / "here", on(cluster)) as sweep:
        assert eventually(sweep.err.read_text) == "no worker is connected; waiting for one\n"
        cluster.add_worker()
        eventually(lambda: len(entered(cluster.folder)) >= 2)
        cluster.worker(entered(cluster.folder)[-1]).kill()  # with all that it had, the data set too
        cluster.add_worker()
        status, _, err = sweep.end()
    assert status == 0, err
    assert len(stored(tmp_path / "here").runs) == 12


@pytest.mark.slow
def test_a_scheduler_that_is_lost_ends_the_sweep_with_one_line(tmp_path: Path) -> None:
    with a_cluster(tmp_path / "elsewhere") as cluster, a_sweep(tmp_path / "here", on(cluster)) as sweep:
        eventually(lambda: len(entered(cluster.folder)) >= 4)
        cluster.begun[0].kill()
        status, out, err = sweep.end()
    assert status == 1
    assert "Traceback" not in out + err
    assert re.match(rf"bnrepro: compute.scheduler={cluster.address}: ", err.splitlines()[-1]), err


@pytest.mark.slow
def test_a_run_that_kills_its_workers_is_found_and_the_others_complete(tmp_path: Path) -> None:
    """Dask gives it up after four of them; here each is brought back by its nanny."""
    deadly = ["sweep.grid.optimizer.lr=[1.0,2.0]", "sweep.grid.seed=[0]", "sweep.grid.model.norm=[none]"]
    more = [*deadly, "diagnostics=[mine.deadly]", "compute=dask", "compute.n_jobs=2", "compute.group_size=2"]
    status, out, err = finish(tmp_path, [*SMALL, *more])
    assert status == 1
    assert "Traceback" not in out + err
    assert "  optimizer.lr=2.0: WorkerDied: " in err
    assert stored(tmp_path).runs["status"].tolist() == ["done", "failed"]


@pytest.mark.slow
def test_workers_with_other_code_are_refused(tmp_path: Path) -> None:
    with a_cluster(tmp_path / "elsewhere") as cluster:
        (cluster.folder / "mine.py").write_text(MINE + "\nchanged = True\n")
        status, _, err = finish(tmp_path / "here", on(cluster))
    assert status == 1
    assert re.fullmatch(r"bnrepro: a worker on .* has other code \(digest \w{16}\) than this process .*\n", err), err


def test_a_scheduler_that_cannot_be_reached_is_one_line_within_ten_seconds(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    begin = time.monotonic()
    status, _, err = finish(tmp_path, [*TWELVE, "compute=dask", f"compute.scheduler={address}"])
    assert time.monotonic() - begin < 10 * patience()
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith(f"bnrepro: compute.scheduler={address}: can't be reached (")


def test_without_dask_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(InputError, match=r"^compute=dask: .* pip install -e '\.\[dask\]'"):
        workers.start(Dask(n_jobs=-1, group_size=None, scheduler=None), {}).__enter__()


@pytest.mark.slow
def test_loggers_are_quiet_for_as_long_as_there_is_a_cluster() -> None:
    importlib.import_module("distributed")
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client", "tornado.application")]
    before = [logger.level for logger in loggers]
    with workers.start(Dask(n_jobs=1, group_size=None, scheduler=None), {}) as started:
        assert started.count == 1
        assert [logger.level for logger in loggers] == [logging.CRITICAL] * len(loggers)
    assert [logger.level for logger in loggers] == before
