"""The command line as a whole: what Hydra offers, several jobs, and true processes."""

import copy
import itertools
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import BROKEN, COMMAND, SCRIPT, SMALL, TINY, Ended, assert_one_line, but, files, in_a_process
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from made_up import MINE
from omegaconf import DictConfig

import bnrepro
from bnrepro.places import PACKAGE

ROOT = PACKAGE.parent


@pytest.mark.usefixtures("blank_figures")
def test_multirun_trains_each_into_the_same_store(call: Callable[..., Ended], here: Path, trained: list[str]) -> None:
    assert call(*TINY, "optimizer.lr=0.1").status == 0
    ended = call("--multirun", *TINY, "optimizer.lr=0.1,0.2", "model.norm=none,batch")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("found finished") == 1
    assert [line for line in ended.out.splitlines() if line.startswith("== ")] == [
        f"== job {i}: optimizer.lr={lr} model.norm={norm} =="
        for i, (lr, norm) in enumerate(itertools.product(["0.1", "0.2"], ["none", "batch"]))
    ]
    assert len(trained) == 4
    assert len(bnrepro.load("single").runs) == 4
    drawn = {f"results/single/{run_id}.{kind}" for run_id in trained for kind in ("png", "svg", "pdf")}
    assert set(files(here)) == {"results/single/runs.sqlite", "results/single/multirun.yaml", *drawn}


@pytest.mark.usefixtures("blank_figures")
def test_multirun_goes_on_after_a_run_that_fails(call: Callable[..., Ended], mine: str) -> None:
    ended = call("--multirun", *TINY, f"model.activation={mine}.Broken,{mine}.Whole")
    assert ended.status == 1
    assert bnrepro.load("single").runs["status"].tolist() == ["failed", "done"]
    assert "Traceback" not in ended.err


@pytest.mark.usefixtures("blank_figures")
def test_multirun_over_sweeps_runs_them_all(call: Callable[..., Ended], here: Path) -> None:
    ended = call("--multirun", "+sweep=learning_rates,covariate_shift", *SMALL)
    assert ended.status == 0
    for number, (name, runs) in enumerate({"learning_rates": 4, "covariate_shift": 12}.items()):
        assert f"== job {number}: sweep={name} ==\n{name}: {runs} runs, 0 found finished" in ended.out
        assert len(bnrepro.load(name).runs) == runs


# Sweepers that choose


class Best(Sweeper):
    """Trains two learning rates, then the one of which the job returned more, as sweepers that optimise do."""

    def __init__(self, direction: str) -> None:
        self.direction, self.returned = direction, list[Any]()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        assert self.launcher
        fixed, (rates,) = arguments[:-1], arguments[-1:]
        key, _, values = rates.partition("=")
        tried = values.split(",")
        jobs = self.launcher.launch([[*fixed, f"{key}={value}"] for value in tried], initial_job_idx=0)
        self.returned += [job.return_value for job in jobs]
        print(f"best: {max(zip(self.returned, tried, strict=True))[1]}, of {self.returned}")


@pytest.fixture
def best(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra knows ``hydra/sweeper=best``."""
    monkeypatch.setitem(Plugins.instance().class_name_to_class, "hydra_plugins.best.Best", Best)
    store = ConfigStore.instance()
    monkeypatch.setattr(store, "repo", copy.deepcopy(store.repo))
    for direction in ("maximize", "minimize"):
        node = {"_target_": "hydra_plugins.best.Best", "direction": direction}
        store.store(group="hydra/sweeper", name="best" if direction == "maximize" else "worst", node=node)


HELD_OUT = "dataset.validation=200"


@pytest.mark.usefixtures("blank_figures", "best")
def test_a_sweeper_that_chooses_gets_the_validation_accuracy(call: Callable[..., Ended]) -> None:
    rates = "optimizer.lr=0.5,1e9"
    ended = call("--multirun", "hydra/sweeper=best", *TINY, HELD_OUT, "model.activation=relu", rates)
    assert (ended.status, ended.err) == (0, "")
    done, diverged = bnrepro.load("single").runs.sort_values("lr").to_dict("records")
    assert diverged["status"] == "diverged"
    assert ended.out.splitlines()[-1] == f"best: 0.5, of [{done['validation_accuracy']}, 0.0]"


@pytest.mark.usefixtures("best")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--multirun hydra/sweeper=best seed=0,1", "dataset.validation=0: must be greater than 0 with hydra/swee"),
        ("hydra/sweeper=best dataset.validation=200", "hydra/sweeper=best: only with --multirun$"),
        (f"--multirun hydra/sweeper=best +sweep {HELD_OUT} seed=0,1", "hydra/sweeper=best: only with single runs, "),
        (f"--multirun hydra/sweeper=best +verify {HELD_OUT} seed=0,1", "hydra/sweeper=best: only with single runs"),
        (f"--multirun hydra/sweeper=worst {HELD_OUT} seed=0,1", "hydra.sweeper.direction=minimize: must be maximize"),
    ],
)
def test_a_sweeper_that_would_choose_by_something_else_is_refused(
    call: Callable[..., Ended], trained: list[str], arguments: str, told: str
) -> None:
    assert_one_line(call(*arguments.split()), told)
    assert trained == []


# The user's own

DRAWS = f"""{MINE}

from bnrepro.commands import redraw

if __name__ == "__main__":
    redraw(__file__)
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a sweep, ``mine``, and its experiment."""
    for path, text in {"conf/sweep/mine.yaml": "grid: {optimizer: {lr: [0.1]}}", "experiments/mine.py": DRAWS}.items():
        (tmp_path / "own" / path).parent.mkdir(parents=True)
        (tmp_path / "own" / path).write_text(text)
    return tmp_path / "own"


def test_sweeps_and_experiments_of_ones_own_are_found_in_the_current_folder(
    call: Callable[..., Ended], own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "must be one of accelerating, batch_size, covariate_shift" in call("sweep=mine").err
    monkeypatch.chdir(own)
    ended = call("+sweep=mine", *TINY, "figures.formats=[png]")
    assert (ended.status, ended.out.splitlines()[0]) == (
        0, "mine: 1 runs, 0 found finished in results/mine/runs.sqlite"
    )  # fmt: skip
    (table,) = (own / "results" / "mine").glob("*/score.csv")
    assert f"{table.relative_to(own)}\n" in ended.out
    assert "learning_rates, mine, mini_batch" in call("sweep=foo").err
    assert "learning_rates, mine, mini_batch" in call("sweep.dry_run=true").err
    script = call(*TINY, "figures.formats=[png]", script=own / "experiments" / "mine.py")
    assert (script.status, script.out.splitlines()) == (0, ended.out.splitlines()[1:])


def test_sweeps_and_experiments_of_ones_own_are_found_beside_config_dir(
    call: Callable[..., Ended], own: Path, here: Path
) -> None:
    ended = call("--config-dir", str(own / "conf"), "+sweep=mine", *TINY, "figures.formats=[png]")
    assert ended.status == 0
    assert {"score.csv", "runs.sqlite", "mine.png"} <= {Path(path).name for path in files(here)}


def test_of_two_options_or_experiments_of_one_name_none_is_taken(
    call: Callable[..., Ended], own: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own / "conf" / "sweep" / "mine.yaml").rename(own / "conf" / "sweep" / "figure1.yaml")
    (own / "experiments" / "mine.py").rename(own / "experiments" / "unstated.py")
    for arguments in (["--config-dir", str(own / "conf")], []):
        assert_one_line(
            call(*arguments, "+sweep=figure1", *TINY), ".*/own/conf/sweep/figure1.yaml: has the name of /.*"
        )
        assert_one_line(
            call(*arguments, "+sweep=unstated", *TINY), ".*/own/experiments/unstated.py: has the name of /.*"
        )
        monkeypatch.chdir(own)
    assert_one_line(call(script=own / "experiments" / "unstated.py"), ".*/unstated.py: has the name of /.*; rename it")
    assert trained == []


def test_a_script_elsewhere_is_not_taken_for_one_of_ours(call: Callable[..., Ended], own: Path) -> None:
    script = (own / "experiments" / "mine.py").rename(own / "experiments" / "figure1.py")
    assert_one_line(call(script=script), ".*/own/experiments/figure1.py: not found by its name; it must be in exper")


@pytest.mark.parametrize("inside", [True, False], ids=["in the clone", "elsewhere"])
def test_a_script_of_another_clone_says_which_one_is_installed(
    call: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    clone = tmp_path / "another clone"
    for folder in ("bnrepro", "conf", "experiments"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=shutil.ignore_patterns("__pycache__"))
    if inside:
        monkeypatch.chdir(clone)
    told = f".*/another clone/experiments/figure1.py: not of the bnrepro that is installed, {PACKAGE}; python -m pip"
    for more in ([], ["--reference"]):
        ended = call(*more, script=clone / "experiments" / "figure1.py")
        assert_one_line(ended, f"{told} install -e '{clone}' installs its own$")


# What Hydra offers


def test_the_version_is_one_line(call: Callable[..., Ended]) -> None:
    assert call("--version") == Ended(0, f"bnrepro {bnrepro.__version__}\n", "")


def test_cfg_job_prints_the_settings_and_trains_nothing(call: Callable[..., Ended], here: Path) -> None:
    ended = call("--cfg", "job", "+sweep", "optimizer=momentum", "train.steps=7")
    assert (ended.status, ended.err) == (0, "")
    for line in ("  steps: 7", "  momentum: 0.9", "sweep:", "      - 6.3", "results_dir: results"):
        assert line in ended.out.splitlines()
    assert files(here) == []


@pytest.mark.usefixtures("blank_figures")
def test_with_multirun_a_list_is_a_job_for_each_value(call: Callable[..., Ended], trained: list[str]) -> None:
    ended = call("--multirun", "+sweep", *SMALL, "model.activation=tanh,relu", "model.norm=batch")
    assert (ended.status, len(trained)) == (0, 2)
    assert [line for line in ended.out.splitlines() if line.startswith("model.activation=")] == [
        f"model.activation={name}: in place of the sweep's [sigmoid, relu]" for name in ("tanh", "relu")
    ]


def test_settings_are_completed_after_a_list_and_a_key_of_the_grid(
    call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", "bnrepro +sweep seed=0,1 sweep.grid.train.steps=[1,2] optimizer.l")
    assert call("-sc", "query=bash").out.split() == ["optimizer.lr="]


# True processes


def test_true_processes(tmp_path: Path) -> None:
    """The command that pip installs, on two workers, with a class of the user's own, then the script; -W error."""
    (tmp_path / "mine.py").write_text(BROKEN)
    two, mine = ["compute=local", "compute.n_jobs=2"], "sweep.grid.model.activation=[mine.Whole,relu]"
    overrides = but(SMALL, *two, mine)
    trained = in_a_process([str(COMMAND), "+sweep", *overrides], tmp_path)
    assert trained.status == 0
    assert trained.out.startswith("learning_rates: 4 runs, 0 found finished in results/learning_rates/runs.sqlite\n")
    (svg,) = (tmp_path / "results").rglob("accuracy.svg")
    before = svg.read_bytes()
    svg.unlink()
    drawn = in_a_process([str(SCRIPT), *overrides], tmp_path)
    assert (drawn.status, drawn.err) == (0, "")
    assert svg.read_bytes() == before
    elsewhere = in_a_process([str(SCRIPT), *overrides, "results_dir=elsewhere"], tmp_path)
    assert (elsewhere.status, elsewhere.err.count("\n"), elsewhere.out) == (1, 1, "")
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"results", "mine.py"}


@pytest.mark.parametrize(
    ("shell", "status"),
    [
        ("exec >/dev/full; {}", 1),
        ("exec >&-; {}", 0),
        ("set -o pipefail; {} | head -n 1", 1),
        ("set -o pipefail; {} 2>&1 | true", 1),
        ("export LANG=C PYTHONUTF8=0 PYTHONIOENCODING=ascii; {}", 0),
    ],
)
def test_a_sweep_is_drawn_whatever_becomes_of_its_output(tmp_path: Path, shell: str, status: int) -> None:
    sweep = ["+sweep=covariate_shift", *SMALL, "sweep.more=[]", "figures.formats=[svg]"]
    command = shell.format(shlex.join([sys.executable, "-W", "error", "-m", "bnrepro", *sweep]))
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    *progress, last = done.stderr.splitlines() or [""]
    full = last == "bnrepro: stdout: can't be written (No space left on device)"
    assert (done.returncode, full) == (status, "full" in shell)
    assert all(" of 4 runs, " in line for line in [*progress, *([] if full or not last else [last])])
    assert {path.suffix for path in tmp_path.rglob("*.*")} >= {".sqlite", ".svg", ".csv", ".json"}
