"""What all tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest

from bnrepro import workers
from bnrepro.config import Compute, Dask, RunConfig
from bnrepro.workers import Data, Workers


class Here:
    """Trains in this process, where a test can look on, and without the seconds that a worker takes to start."""

    count = 1

    def __init__(self, data: Data) -> None:
        self.data = data

    def submit(self, task: Callable[..., Any], runs: Sequence[RunConfig]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(task(runs, self.data[runs[0].dataset]))
        return future


@pytest.fixture(autouse=True, scope="session")
def one_job_is_this_process() -> Iterator[None]:
    """With ``n_jobs=1``, nothing but a true command starts a worker; with more, workers are true."""
    start = workers.start

    @contextmanager
    def start_if_several(compute: Compute, data: Data) -> Iterator[Workers]:
        if compute.n_jobs == 1 and not isinstance(compute, Dask):
            yield Here(data)
        else:
            with start(compute, data) as started:
                yield started

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(workers, "start", start_if_several)
        yield
