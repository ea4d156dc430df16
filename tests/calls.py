"""Commands as a user gives them, for the tests of the command line."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bnrepro.places import EXPERIMENTS

TINY = ["train.steps=5", "train.measurements=2", "model.hidden=[8]", "compute=inline"]
SMALL = [*TINY, "sweep.refine.key=null", "sweep.grid.optimizer.lr=[0.1]", "sweep.grid.seed=[0]"]


def but(overrides: Sequence[str], *others: str) -> list[str]:
    """The overrides with others, which take the place of those of the same key: one key is not given twice."""
    keys = {key_of(other) for other in others}
    return [*(override for override in overrides if key_of(override) not in keys), *others]


def key_of(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


SCRIPT = EXPERIMENTS / "learning_rates.py"
COMMAND = Path(sys.executable).with_name("bnrepro")


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


def in_a_process(arguments: Sequence[str], folder: Path, **env: str) -> Ended:
    """``python *arguments``, truly."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | env,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_one_line(ended: Ended, expected: str) -> None:
    assert ended.status == 1
    (line,) = ended.err.splitlines()
    assert re.match(f"bnrepro: {expected}", line), line


BROKEN = """
from bnrepro.layers import Sigmoid


class Broken(Sigmoid):
    def forward(self, params, state, x, *, train):
        raise RuntimeError("broken on purpose")


class Whole(Sigmoid):
    pass
"""
