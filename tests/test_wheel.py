"""A wheel in an empty environment, far from the checkout, trains and draws. Needs pip to reach a package index."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from runs import query

from bnrepro.places import VERSION

ROOT = Path(__file__).parents[1]
SOURCES = {"bnrepro": "bnrepro", "conf": "bnrepro/conf", "experiments": "bnrepro/experiments"}
SHORT = ["train.steps=5", "train.measurements=2", "sweep.grid.seed=[0]"]
MINE = "from bnrepro.layers import ReLU\n\n\nclass Mine(ReLU):\n    pass\n"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the sources, in which the build leaves its files."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in (*SOURCES, "results/reference"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(folder / "dist"), str(folder))
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def commands(wheel: Path) -> Path:
    """Where the commands of an environment are into which nothing but the wheel, and what it needs, was installed."""
    environment = wheel.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    folder = environment / ("Scripts" if os.name == "nt" else "bin")
    pip(str(folder / "python"), "install", str(wheel))
    return folder


def pip(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


@pytest.fixture
def run(commands: Path, tmp_path: Path) -> "Run":
    return Run(commands, tmp_path / "다른 곳 elsewhere")


class Run:
    """Runs commands of the environment in a folder whose name needs care, and where a project of another kind is."""

    def __init__(self, commands: Path, folder: Path) -> None:
        self.commands, self.folder = commands, folder
        folder.mkdir()
        (folder / "mine.py").write_text(MINE)
        subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
        author = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
        subprocess.run(["git", *author, "commit", "--quiet", "--allow-empty", "-m", "-"], cwd=folder, check=True)

    def __call__(self, command: Sequence[str]) -> list[str]:
        """Lines of its output; warnings are errors."""
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HYDRA_FULL_ERROR")}
        done = subprocess.run(
            [self.commands / command[0], *command[1:]],
            cwd=self.folder,
            env=environment | {"PYTHONWARNINGS": "error"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()


def test_the_wheel_has_every_module_option_and_table(wheel: Path) -> None:
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    here = {
        f"{inside}/{path.relative_to(ROOT / outside).as_posix()}"
        for outside, inside in SOURCES.items()
        for path in (ROOT / outside).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    reference = {name for name in there if name.startswith("bnrepro/reference/")}
    assert there - reference == here
    assert {name.partition("/")[2] for name in reference} == {
        path.relative_to(ROOT / "results").as_posix()
        for pattern in ("*/*.csv.xz", "*/verified.csv", "*/verdict.json")
        for path in (ROOT / "results" / "reference").glob(pattern)
    } | {"reference/README.md"}


def test_sweeps_train_and_draw(run: Run) -> None:
    lines = run(["bnrepro", "+sweep", *SHORT, "sweep.grid.model.activation=[mine.Mine,relu]"])
    assert lines[0].startswith("learning_rates: 32 runs, 0 found finished in ")
    figures = [(run.folder / line).name for line in lines if line.endswith(".png")]
    assert figures == ["accuracy.png", "convergence.png", "usable.png"]
    lines = run(["python", "-m", "bnrepro", "+sweep=implementation_mistakes", *SHORT])
    assert lines[0].startswith("implementation_mistakes: 18 runs, 0 found finished in ")
    (figure,) = (run.folder / line for line in lines if line.endswith(".png"))
    assert figure.stat().st_size > 10_000
    (store,) = (run.folder / "results" / "learning_rates").glob("*.sqlite")
    assert query(store, "SELECT DISTINCT bnrepro, git_commit FROM runs") == [(VERSION, None)]


def test_the_reference_is_drawn_from_what_is_installed(run: Run) -> None:
    lines = run(["python", "-m", "bnrepro", "+show=reference/figure1", "figures.formats=[png]"])
    tables = [run.folder / line for line in lines if line.endswith(".csv")]
    assert [table.name for table in tables] == ["score.csv", "chosen.csv", "tuning.csv", "drift.csv", "compared.csv"]
    for table in tables:
        assert table.parent == run.folder / "results" / "reference" / "figure1"
        assert table.read_text() == (ROOT / "results" / "reference" / "figure1" / table.name).read_text()


def test_the_version_is_that_of_the_wheel(run: Run) -> None:
    assert run(["bnrepro", "--version"]) == run(["python", "-m", "bnrepro", "--version"]) == [f"bnrepro {VERSION}"]
