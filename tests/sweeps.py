"""Small sweeps as true processes, for the tests of what can go wrong with them."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

import bnrepro
from bnrepro.errors import InputError
from bnrepro.store import FILE, Results

MINE = """
import os, signal, time
from bnrepro.measuring import measures
from bnrepro.layers import ReLU


class Slow(ReLU):
    '''Trains as ReLU does, but takes its time, and writes down that the training of a run was entered, and by whom.'''

    def init(self, rng, in_shape):
        with open(os.environ["ENTERED"], "a") as file:
            file.write(f"{os.getpid()}\\n")
        return super().init(rng, in_shape)

    def forward(self, params, state, x, *, train):
        time.sleep(0.01)
        return super().forward(params, state, x, train=train)


@measures()
def deadly(snapshot):
    '''A diagnostic that takes the process with it, as a lack of memory does, if a run of the group has this rate.'''
    if 2.0 in snapshot.lr and snapshot.x.shape[1] > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {}
"""

SMALL = (
    "+sweep",
    "model.hidden=[8]",
    "train.steps=20",
    "train.measurements=4",
    "sweep.grid.model.activation=[mine.Slow]",
)
TWELVE = (
    *SMALL,
    "sweep.refine.key=null",
    "sweep.grid.optimizer.lr=[0.25,0.5,1.0]",
    "sweep.grid.seed=[0,1]",
    "compute.group_size=1",
)
"""12 runs, each a group of its own."""
STORE = Path("results", "learning_rates", FILE)


def patience() -> float:
    """How many times slower than an idle machine this one is, for limits of time."""
    return max(1.0, 3 * os.getloadavg()[0] / (os.cpu_count() or 1))


def at_most() -> float:
    """Seconds after which a test gives up waiting."""
    return 60 * patience()


@dataclass
class Sweep:
    """``python -m bnrepro`` in a folder of its own, as a process group of its own, as a terminal starts it."""

    folder: Path
    overrides: Sequence[str]
    limits: Callable[[], object] | None = None
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    """In the environment of all its processes."""

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.out, self.err = (self.folder / f"{name}-{self.mark}" for name in ("out", "err"))
        (self.folder / "mine.py").write_text(MINE)
        environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
        with self.out.open("w") as out, self.err.open("w") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "bnrepro", *self.overrides],
                cwd=self.folder,
                env=environment | {"MARK": self.mark, "ENTERED": str(self.folder / "entered")},
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=self._begin,
            )

    def _begin(self) -> None:
        for number in signal.SIGINT, signal.SIGHUP:  # which may be ignored where the tests run in the background
            signal.signal(number, signal.SIG_DFL)
        if self.limits:
            self.limits()

    def end(self) -> tuple[int, str, str]:
        """Wait for it: status, output and errors."""
        status = self.process.wait(at_most())
        return status, self.out.read_text(), self.err.read_text()

    def workers(self) -> list[psutil.Process]:
        """The processes that it has started, or has left behind."""
        return [process for process in marked(self.mark) if process.pid != self.process.pid]

    def kill(self) -> None:
        """End whatever is left of it."""
        for process in marked(self.mark):
            process.kill()
        self.process.wait()


def marked(mark: str) -> list[psutil.Process]:
    """Living processes with this mark in their environment, but for those that only clean up after others."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("MARK") == mark and process.status() != psutil.STATUS_ZOMBIE
            if ours and "resource_tracker" not in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:  # it has ended, or is somebody else's
            continue
    return found


@contextmanager
def a_sweep(folder: Path, overrides: Sequence[str], limits: Callable[[], object] | None = None) -> Iterator[Sweep]:
    """A sweep of which nothing is left afterwards."""
    sweep = Sweep(folder, overrides, limits)
    try:
        yield sweep
    finally:
        sweep.kill()


def finish(folder: Path, overrides: Sequence[str]) -> tuple[int, str, str]:
    """Run the sweep to its end."""
    with a_sweep(folder, overrides) as sweep:
        return sweep.end()


def eventually(happens: Callable[[], Any], seconds: float | None = None) -> Any:
    """What ``happens`` returns, once that is true."""
    begin = time.monotonic()
    while not (result := happens()):
        assert time.monotonic() - begin < (seconds or at_most()), "it did not happen in time"
        time.sleep(0.02)
    return result


def entered(folder: Path) -> list[int]:
    """For each run whose training was entered, the process that did."""
    path = folder / "entered"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def stored(folder: Path) -> Results:
    """What the store has."""
    return bnrepro.load(folder / STORE)


def count_stored(folder: Path) -> int:
    """How many runs the store has, if it has been begun."""
    with suppress(InputError):
        return len(stored(folder).runs)
    return 0


def drawn(folder: Path) -> dict[str, bytes]:
    """The figures and tables."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / STORE).parent.rglob("*.*"))
        if path.is_file() and path.suffix in (".png", ".svg", ".csv")
    }


def interrupt(sweep: Sweep, number: int) -> None:
    """Send a signal as it comes in life: that of Ctrl-C and of a closed terminal to all processes, others to one."""
    if number in (signal.SIGINT, signal.SIGHUP):
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(sweep.process.pid, number)
    else:
        sweep.process.send_signal(number)
