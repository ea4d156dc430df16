"""What can go wrong while a sweep runs, does: in true processes, by true signals. README.md here lists it all."""

import random
import re
import resource
import shlex
import shutil
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from calls import but
from runs import assert_same_results
from sweeps import (
    SMALL,
    STORE,
    TWELVE,
    Sweep,
    a_sweep,
    count_stored,
    drawn,
    entered,
    eventually,
    finish,
    interrupt,
    patience,
    stored,
)

from bnrepro.store import Results


@dataclass
class Undisturbed:
    """A sweep of twelve runs that nothing went wrong with."""

    results: Results
    figures: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    begin = time.monotonic()
    status, _, err = finish(folder, TWELVE)
    assert status == 0, err
    assert len(entered(folder)) == 12
    return Undisturbed(stored(folder), drawn(folder), time.monotonic() - begin)


def assert_as_undisturbed(folder: Path, undisturbed: Undisturbed) -> None:
    assert_same_results(stored(folder), undisturbed.results)
    assert drawn(folder) == undisturbed.figures


def wait_for_the_end_of_workers(sweep: Sweep) -> None:
    eventually(lambda: not sweep.workers(), 3 * patience())


def has_entered(folder: Path, count: int) -> bool:
    return len(entered(folder)) >= count


# The whole sweep is stopped


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_a_signal_is_answered_at_once_and_the_command_it_names_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    with a_sweep(tmp_path, TWELVE) as sweep:
        eventually(lambda: count_stored(tmp_path) >= 2)
        interrupt(sweep, number)
        begin = time.monotonic()
        status, out, err = sweep.end()
        assert time.monotonic() - begin < 2 * patience()
        assert sweep.workers() == []
    assert status == 128 + number
    assert "Traceback" not in out + err
    said = re.search(r"\nbnrepro: interrupted; (\d+) of 12 runs are stored; to go on: python -m bnrepro (.*)\n$", err)
    assert said, err
    before = stored(tmp_path)
    assert len(before.runs) == int(said[1]) >= 2
    in_training = len(entered(tmp_path)) - len(before.runs)
    assert in_training <= 2
    status, out, err = finish(tmp_path, shlex.split(said[2]))
    assert status == 0, err
    assert out.startswith(f"learning_rates: 12 runs, {said[1]} found finished in ")
    assert len(entered(tmp_path)) == 12 + in_training
    assert len(stored(tmp_path).runs) == 12


def test_workers_of_a_killed_sweep_end_by_themselves(tmp_path: Path) -> None:
    """And take the copy of the data set with them."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TMPDIR", str(temporary))
        with a_sweep(tmp_path / "here", but(TWELVE, "train.steps=1000000")) as sweep:
            eventually(lambda: len(entered(tmp_path / "here")) == 2)
            assert len(sweep.workers()) == 2
            assert list(temporary.glob("bnrepro-*/*"))
            sweep.process.kill()
            wait_for_the_end_of_workers(sweep)
    eventually(lambda: not list(temporary.glob("bnrepro-*")))


@pytest.mark.slow
def test_killed_twenty_times_at_random_it_ends_as_if_nothing_had_been(tmp_path: Path, undisturbed: Undisturbed) -> None:
    rng = random.Random(0)
    folder, kills, ends = tmp_path / "0", 0, 0
    while kills < 20:
        with a_sweep(folder, TWELVE) as sweep:
            time.sleep(rng.uniform(0, undisturbed.seconds))
            number = rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
            killed = sweep.process.poll() is None
            interrupt(sweep, number)
            status, _, err = sweep.end()
            wait_for_the_end_of_workers(sweep)
        if killed and status != 0:
            kills += 1
            assert status in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + number), err
        else:
            ends += 1
            assert_as_undisturbed(folder, undisturbed)
            folder = tmp_path / str(ends)
    assert finish(folder, TWELVE)[0] == 0
    assert_as_undisturbed(folder, undisturbed)


# A worker dies


def test_what_a_killed_worker_was_training_is_trained_again(tmp_path: Path, undisturbed: Undisturbed) -> None:
    with a_sweep(tmp_path, TWELVE) as sweep:
        for count in (2, 6):
            eventually(partial(has_entered, tmp_path, count))
            victim = next(worker for worker in sweep.workers() if worker.pid == entered(tmp_path)[-1])
            victim.kill()
        status, _, err = sweep.end()
    assert status == 0, err
    assert_as_undisturbed(tmp_path, undisturbed)
    assert len(entered(tmp_path)) <= 14


DEADLY = [
    *SMALL, "sweep.grid.optimizer.lr=[0.25,0.5,1.0,2.0]", "sweep.grid.seed=[0]", "sweep.grid.model.norm=[none]",
    "diagnostics=[percentiles,mine.deadly]", "compute.group_size=4",
]  # fmt: skip


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_kills_its_worker_is_found_and_the_others_complete(tmp_path: Path, n_jobs: int) -> None:
    for _ in range(2):  # the second invocation tries it again
        (tmp_path / "entered").unlink(missing_ok=True)
        status, out, err = finish(tmp_path, [*DEADLY, f"compute.n_jobs={n_jobs}"])
        assert status == 1
        assert "Traceback" not in out + err
        *_, count, run, where = err.splitlines()
        assert count == "1 run failed:"
        assert re.match(r"  optimizer.lr=2.0: WorkerDied: exit code SIGKILL\(-9\), twice while it trained this ", run)
        assert where.startswith(f"their tracebacks: column error of {STORE}; ")
    assert len(entered(tmp_path)) == 2
    runs = stored(tmp_path).runs
    assert dict(zip(runs["lr"], runs["status"], strict=True)) == {0.25: "done", 0.5: "done", 1.0: "done", 2.0: "failed"}


# Two sweeps on one store


@pytest.mark.slow
def test_two_sweeps_at_once_share_the_work(tmp_path: Path, undisturbed: Undisturbed) -> None:
    with a_sweep(tmp_path, TWELVE) as one, a_sweep(tmp_path, TWELVE) as other:
        ended = [one.end(), other.end()]
    for status, _, err in ended:
        assert status == 0, err
    assert len(entered(tmp_path)) == 12  # none was trained twice
    assert_as_undisturbed(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_sweep_takes_over_what_a_killed_one_held(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """The first holds what is left when the second comes."""
    with a_sweep(tmp_path, but(TWELVE, "compute.group_size=12", "compute.n_jobs=2")) as first:
        eventually(lambda: len(entered(tmp_path)) == 12)
        first.process.send_signal(signal.SIGSTOP)
        with a_sweep(tmp_path, TWELVE) as second:
            eventually(second.err.read_text)
            assert second.err.read_text().startswith("the runs that are left are in training by another process; ")
            first.process.kill()
            status, _, err = second.end()
    assert status == 0, err
    assert len(entered(tmp_path)) == 24
    assert_as_undisturbed(tmp_path, undisturbed)


# The disk


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    wide = but(TWELVE, "model.hidden=[100]", "diagnostics=[units]", "compute=inline")
    size = 300_000
    limits = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (size, size))
    with a_sweep(tmp_path, wide, limits) as sweep:
        status, out, err = sweep.end()
    assert status == 1
    assert "Traceback" not in out + err
    *progress, last = err.splitlines()
    assert re.match(rf"bnrepro: {STORE}: .*(full|limit|too large)", last), err
    assert all(re.match(r"\d+ of 12 runs, ", line) for line in progress)
    before = stored(tmp_path)
    assert 0 < len(before.runs) < 12
    shutil.copytree(tmp_path / "results", tmp_path / "copy")
    assert finish(tmp_path, wide)[0] == 0
    after = stored(tmp_path)
    assert len(after.runs) == 12
    kept = after.runs["run_id"].isin(before.runs["run_id"])
    assert after.runs[kept].reset_index(drop=True)["seconds"].tolist() == before.runs["seconds"].tolist()
    assert set(after.units.groupby("run_id").size()) == {len(after.units) // 12}
