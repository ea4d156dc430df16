"""Processes that train: what they are given, and that they work where a system has less than this one."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from runs import a_run
from sweeps import TWELVE, a_sweep, entered, eventually, finish, patience

from bnrepro import workers
from bnrepro.config import Compute, RunConfig
from bnrepro.data import Dataset
from bnrepro.sweep import load_data

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
    with workers.start(Compute(2, None), load_data([run])) as started:
        environment, path = started.submit(what_a_worker_has, [run]).result()
    assert environment["OMP_NUM_THREADS"] == environment["VECLIB_MAXIMUM_THREADS"] == "1"
    assert path[0] == str(tmp_path)


def test_a_system_without_hangups_and_measures_of_memory_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dry run, and a sweep whose death its workers notice."""
    (tmp_path / "sitecustomize.py").write_text(POORER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    status, out, err = finish(tmp_path / "here", [*TWELVE, "sweep.dry_run=true"])
    assert (status, err) == (0, "")
    assert "\nmemory: can't be measured on this system\n" in out
    (tmp_path / "here" / "entered").unlink()
    with a_sweep(tmp_path / "here", [*TWELVE, "train.steps=1000000"]) as sweep:
        eventually(lambda: len(entered(tmp_path / "here")) == 2)
        assert len(sweep.workers()) == 2
        sweep.process.kill()
        eventually(lambda: not sweep.workers(), 3 * patience())
