"""The command line: what a user types, and what then stands on the screen and on the disk."""

import os
import re
import runpy
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra.core.global_hydra import GlobalHydra
from runs import query, write_idx

import bnrepro
from bnrepro import __main__ as command_line
from bnrepro import config, sweep
from bnrepro.data import Dataset
from bnrepro.datasets import IDX_FILES
from bnrepro.places import EXPERIMENTS
from bnrepro.store import FILE, RunResult
from bnrepro.sweep import train_group

TINY = ["train.steps=5", "train.measurements=2", "model.hidden=[8]", "compute.n_jobs=1"]
SMALL = [*TINY, "sweep.grid.optimizer.lr=[0.1]", "sweep.grid.seed=[0]"]
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


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, in which a command must leave nothing but its results."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "path", sys.path[:])
    yield folder
    assert {path.name for path in folder.iterdir()} <= {"results", "given"}


@pytest.fixture
def call(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """``python -m bnrepro *arguments`` in this process, or a script."""

    def call(*arguments: str, script: Path | None = None) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [str(script or "bnrepro"), *arguments])
        status: Any = 0
        try:
            if script:
                runpy.run_path(str(script), run_name="__main__")
            else:
                command_line.main()
        except SystemExit as ended:
            status = ended.code
        finally:
            GlobalHydra.instance().clear()
        return Ended(status, *capsys.readouterr())

    return call


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the runs for which training was really entered."""
    entered: list[str] = []

    def counted(runs: Sequence[Any], data: Dataset, *rest: Any) -> list[RunResult]:
        entered.extend(run.run_id for run in runs)
        return train_group(runs, data, *rest)

    monkeypatch.setattr(sweep, "train_group", counted)
    return entered


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# One run


def test_one_run_prints_its_progress_and_is_found_finished_the_second_time(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    first = call(*TINY)
    assert (first.status, first.err) == (0, "")
    *progress, last = first.out.splitlines()
    assert len(progress) == 5
    assert all(re.fullmatch(r"step +\d+  train loss \d\.\d{4}  test accuracy 0\.\d{4}", line) for line in progress)
    (run_id,) = trained
    assert last.startswith(f"run {run_id}: done, test accuracy 0.")
    assert last.endswith("; stored in results/single/runs.sqlite")
    assert files(here) == ["results/single/runs.sqlite"]

    second = call(*TINY)
    assert (second.status, second.err) == (0, "")
    assert second.out.splitlines() == ["found finished in results/single/runs.sqlite", last]
    assert trained == [run_id]
    assert bnrepro.load("single").runs["run_id"].tolist() == [run_id]


def test_a_run_that_diverges_says_at_which_step(call: Callable[..., Ended]) -> None:
    ended = call(*TINY, "model.activation=relu", "optimizer.lr=1e4")
    assert ended.status == 0
    assert re.search(r"run \w{16}: diverged, at step 1; stored in ", ended.out)


BROKEN = """
from bnrepro.layers import Sigmoid


class Broken(Sigmoid):
    def forward(self, params, state, x, *, train):
        raise RuntimeError("broken on purpose")


class Whole(Sigmoid):
    pass
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with an activation ``Broken`` and another, ``Whole``."""
    (tmp_path / "mine_of_test_main.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    return "mine_of_test_main"


def test_a_run_that_fails_shows_its_traceback_and_is_tried_again(
    call: Callable[..., Ended], mine: str, trained: list[str]
) -> None:
    for _ in range(2):
        ended = call(*TINY, f"model.activation={mine}.Broken")
        assert ended.status == 1
        assert "RuntimeError: broken on purpose" in ended.out
        assert ": failed, " in ended.out
        assert "Traceback" not in ended.err
    assert len(trained) == 2
    assert call(*TINY, f"model.activation={mine}.Whole").status == 0


def test_multirun_trains_each_into_the_same_store(call: Callable[..., Ended], here: Path, trained: list[str]) -> None:
    assert call(*TINY, "optimizer.lr=0.1").status == 0
    ended = call("--multirun", *TINY, "optimizer.lr=0.1,0.2", "model.norm=none,batch")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.count("found finished") == 1
    assert len(trained) == 4
    assert len(bnrepro.load("single").runs) == 4
    assert set(files(here)) == {"results/single/runs.sqlite", "results/single/multirun.yaml"}


def test_multirun_goes_on_after_a_run_that_fails(call: Callable[..., Ended], mine: str) -> None:
    ended = call("--multirun", *TINY, f"model.activation={mine}.Broken,{mine}.Whole")
    assert ended.status == 1
    assert bnrepro.load("single").runs["status"].tolist() == ["failed", "done"]
    assert "Traceback" not in ended.err


def test_multirun_over_sweeps_runs_them_all(call: Callable[..., Ended], here: Path) -> None:
    small = [f"++{o}" if o.startswith("sweep") else o for o in SMALL]  # Hydra forgets +sweep= when it checks them
    ended = call("--multirun", "+sweep=learning_rates,covariate_shift", *small)
    assert (ended.status, ended.out.count(": 4 runs, 0 found finished")) == (0, 2)
    assert len(bnrepro.load("covariate_shift").runs) == len(bnrepro.load("learning_rates").runs) == 4


# A sweep


@pytest.mark.parametrize("place", [0, 2, len(SMALL)])
def test_bare_sweep_is_the_main_job_in_any_position(call: Callable[..., Ended], place: int) -> None:
    ended = call(*SMALL[:place], "+sweep", *SMALL[place:])
    assert ended.status == 0
    assert ended.out.startswith("learning_rates: 4 runs, 0 found finished in results/learning_rates/runs.sqlite\n")


def test_a_sweep_shows_progress_a_table_and_the_paths_of_its_figures(call: Callable[..., Ended], here: Path) -> None:
    ended = call("+sweep", *SMALL)
    assert ended.status == 0
    assert re.fullmatch(r"(\d of 4 runs, \d\d:\d\d left\n)*4 of 4 runs, 00:00 left\n", ended.err)
    lines = ended.out.splitlines()
    for heading in ("best accuracy", "best rate", "usable decades", "diverged", "steps to 90%"):
        assert heading in lines[1]
    assert [line.split()[:2] for line in lines[3:7]] == [
        ["sigmoid", "none"], ["batch", lines[4].split()[1]], ["relu", "none"], ["batch", lines[6].split()[1]]
    ]  # fmt: skip
    assert {"steps_to_accuracy", "equal_rates"} <= {*lines}
    paths = [line for line in lines if line.startswith("results/")]
    assert [Path(path).name for path in paths] == [
        *(f"{figure}.{kind}" for figure in ("accuracy", "convergence") for kind in ("png", "svg")),
        "score.csv",
        "steps_to_accuracy.csv",
        "equal_rates.csv",
    ]
    assert {*paths, "results/learning_rates/runs.sqlite"} == set(files(here))


def test_a_second_sweep_trains_nothing_and_draws_the_same_bytes(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    first = call("+sweep", *SMALL)
    drawn = {path: (here / path).read_bytes() for path in files(here)}
    assert len(trained) == 4
    trained.clear()
    second = call("+sweep", *SMALL)
    assert trained == []
    assert (second.status, second.err) == (0, "")
    assert second.out == first.out.replace("0 found finished", "4 found finished")
    assert {path: (here / path).read_bytes() for path in files(here)} == drawn

    script = call(*SMALL, script=SCRIPT)  # and so does the script
    assert (script.status, script.err, script.out.splitlines()) == (0, "", first.out.splitlines()[1:])
    assert {path: (here / path).read_bytes() for path in files(here)} == drawn


def test_a_wider_grid_trains_only_what_is_new(call: Callable[..., Ended], trained: list[str]) -> None:
    call("+sweep", *SMALL)
    old = set(trained)
    trained.clear()
    ended = call("+sweep", *SMALL, "sweep.grid.optimizer.lr=[0.2,0.1]", "sweep.grid.seed=[0,1]")
    assert ended.out.startswith("learning_rates: 16 runs, 4 found finished in ")
    assert (len(trained), len(set(trained) | old)) == (12, 16)
    folders = {Path(line).parent.name for line in ended.out.splitlines()[-5:]}
    assert len(folders) == 1
    assert "sweep.grid.seed=[0,1]" in folders.pop()


def test_a_failed_run_does_not_keep_the_others_from_being_shown(call: Callable[..., Ended], mine: str) -> None:
    ended = call("+sweep", *SMALL, f"sweep.grid.model.activation=[{mine}.Broken,relu]")
    assert ended.status == 1
    *_, told, first, second, where = ended.err.splitlines()
    assert told == "2 runs failed:"
    assert first == f"  model.activation={mine}.Broken model.norm=none: RuntimeError: broken on purpose"
    assert second == f"  model.activation={mine}.Broken model.norm=batch: RuntimeError: broken on purpose"
    assert where == (
        "their tracebacks: column error of results/learning_rates/runs.sqlite; the same command tries them again"
    )
    assert "relu       none" in ended.out
    assert "Broken" not in ended.out.rpartition("steps to 90%")[2].partition("results/")[0]
    assert "Traceback" not in ended.err
    assert call("+sweep", *SMALL, f"sweep.grid.model.activation=[{mine}.Broken]").status == 1


def test_an_interrupted_sweep_says_what_is_stored(call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(results: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweep.Progress, "__call__", lambda self, results: interrupted(results))
        ended = call("+sweep", *SMALL, "compute.group_size=1")
    assert ended.status == 130
    said, _, words = ended.err.strip().partition("python -m bnrepro ")
    assert said == "bnrepro: interrupted; 1 of 4 runs are stored; to go on: "
    assert call(*shlex.split(words)).out.startswith("learning_rates: 4 runs, 1 found finished in ")


def test_a_dry_run_says_what_a_sweep_would_take_and_writes_nothing(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    first = call("+sweep", *SMALL, "sweep.dry_run=true")
    assert (first.status, first.err) == (0, "")
    lines = first.out.splitlines()
    assert lines[0] == "learning_rates: 4 runs, 0 found finished in results/learning_rates/runs.sqlite"
    assert lines[1] == "4 runs to train in 4 groups of up to 1, 1 at once"
    assert re.fullmatch(r"time: about 00:0\d, by 1 s of training of 4 of 4 kinds of runs", lines[2])
    assert re.fullmatch(r"memory: about \d+ MB in each of 1 workers and \d+ MB here", lines[3])
    assert lines[4:] == ["nothing was trained or stored: sweep.dry_run=true"]
    assert list(here.iterdir()) == []
    assert trained == []

    call("+sweep", *SMALL)
    before = {path: (here / path).read_bytes() for path in files(here)}
    wider = [*SMALL[:-1], "sweep.grid.seed=[0,1]"]
    lines = call("+sweep", *wider, "sweep.dry_run=true").out.splitlines()
    assert lines[0].startswith("learning_rates: 8 runs, 4 found finished in ")
    assert lines[1].startswith("4 runs to train ")
    assert re.fullmatch(r"time: about 00:0\d, by the times of stored runs", lines[2])
    assert call("+sweep", *SMALL, "sweep.dry_run=true").out.splitlines()[1:] == ["nothing to train"]
    assert {path: (here / path).read_bytes() for path in files(here)} == before
    assert len(trained) == 4


def test_force_trains_again_what_is_stored(call: Callable[..., Ended], here: Path, trained: list[str]) -> None:
    call("+sweep", *SMALL)
    drawn = {path: (here / path).read_bytes() for path in files(here) if "sqlite" not in path}
    again = call("+sweep", *SMALL, "sweep.force=true")
    assert again.status == 0
    assert len(trained) == 8
    assert {path: (here / path).read_bytes() for path in files(here) if "sqlite" not in path} == drawn
    assert len(bnrepro.load("learning_rates").runs) == 4


def test_runs_of_other_code_are_named_and_trained_again(
    call: Callable[..., Ended], here: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(config, "code_digest", lambda names: "0123456789abcdef")
        call("+sweep", *SMALL)
    wider = [*SMALL[:-1], "sweep.grid.seed=[0,1]"]
    redrawn = call(*wider, script=SCRIPT)
    assert "8 of 8 runs are not in results/learning_rates (4 of them were computed by other code); " in redrawn.err
    ended = call("+sweep", *wider)
    assert (ended.status, len(trained)) == (0, 12)
    assert ended.out.splitlines()[:2] == [
        "learning_rates: 8 runs, 0 found finished in results/learning_rates/runs.sqlite",
        "4 stored runs were computed by other code (0123456789abcdef) and are trained again",
    ]
    assert " 8 found finished " in call("+sweep", *wider).out.splitlines()[0]
    file = here / "results" / "learning_rates" / FILE
    assert query(file, "SELECT count(*), count(DISTINCT code) FROM runs") == [(12, 2)]  # and the old ones are kept


def test_stored_runs_are_verified_by_training_some_of_them_again(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    call("+sweep", *SMALL)
    verified = call("+verify", *TINY, "verify.sample=2")
    assert verified.status == 0
    assert "2 of 2 runs are equal, bit for bit" in verified.out
    assert len(trained) == 6
    query(here / "results" / "learning_rates" / FILE, "UPDATE curves SET train_loss = train_loss + 1e-9 WHERE step = 5")
    assert call("+verify=learning_rates", *TINY).status == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("", ""),
        ("WorkerDied: exit code 1\n", "WorkerDied: exit code 1"),
        ('Traceback:\n  File "a.py", line 1\n    x\nValueError: two\nlines', "ValueError: two"),
        ('Traceback:\n  File "a.py"\nKeyError: 1\n\nDuring …:\n\nTraceback:\n  File "b.py"\nOSError', "OSError"),
    ],
)
def test_the_headline_of_a_traceback_is_what_was_raised(error: str, line: str) -> None:
    assert command_line.headline(error) == line


@pytest.mark.parametrize("name", ["learning_rates", "covariate_shift"])
def test_every_sweep_of_conf_trains_and_shows(call: Callable[..., Ended], here: Path, name: str) -> None:
    ended = call(f"+sweep={name}", *SMALL)
    assert ended.status == 0
    assert any(path.endswith(".svg") for path in files(here / "results" / name))


# The user's own

DRAWS = """
from bnrepro.__main__ import redraw


def score(results):
    return results.runs.groupby("lr")[["test_accuracy"]].mean()


def figures(results):
    return {}


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
    assert "must be one of covariate_shift, figure1" in call("sweep=mine").err
    monkeypatch.chdir(own)
    ended = call("+sweep=mine", *TINY)
    assert (ended.status, ended.out.splitlines()[0]) == (
        0, "mine: 1 runs, 0 found finished in results/mine/runs.sqlite"
    )  # fmt: skip
    (table,) = (own / "results" / "mine").glob("*/score.csv")
    assert ended.out.endswith(f"{table.relative_to(own)}\n")
    assert "learning_rates, mine, unstated" in call("sweep=foo").err
    assert "learning_rates, mine, unstated" in call("sweep.dry_run=true").err
    script = call(*TINY, script=own / "experiments" / "mine.py")
    assert (script.status, script.out.splitlines()) == (0, ended.out.splitlines()[1:])


def test_sweeps_and_experiments_of_ones_own_are_found_beside_config_dir(
    call: Callable[..., Ended], own: Path, here: Path
) -> None:
    ended = call("--config-dir", str(own / "conf"), "+sweep=mine", *TINY)
    assert ended.status == 0
    assert [Path(path).name for path in files(here)] == ["score.csv", "runs.sqlite"]


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


# What Hydra offers


def test_the_version_is_one_line(call: Callable[..., Ended]) -> None:
    assert call("--version") == Ended(0, f"bnrepro {bnrepro.__version__}\n", "")


def test_cfg_job_prints_the_settings_and_trains_nothing(call: Callable[..., Ended], here: Path) -> None:
    ended = call("--cfg", "job", "+sweep", "optimizer=momentum", "train.steps=7")
    assert (ended.status, ended.err) == (0, "")
    for line in ("  steps: 7", "  momentum: 0.9", "sweep:", "      - 6.3", "results_dir: results"):
        assert line in ended.out.splitlines()
    assert files(here) == []


def test_help_shows_how_to_call_and_every_option(call: Callable[..., Ended], here: Path) -> None:
    ended = call("--help")
    assert (ended.status, ended.err) == (0, "")
    for part in (
        "python -m bnrepro +sweep ",
        "sweep: covariate_shift, figure1, implementation_mistakes, learning_rates",
        "adagrad",
        "batch_size: 60",
    ):
        assert part in ended.out
    assert files(here) == []


# The scripts


def test_a_script_says_which_command_trains_what_is_missing(call: Callable[..., Ended], here: Path) -> None:
    overrides = [*SMALL, "results_dir='some where'"]
    ended = call(*overrides, script=SCRIPT)
    assert (ended.status, ended.out) == (1, "")
    said = re.fullmatch(r"bnrepro: 4 of 4 runs are not in some where/learning_rates; to train them: (.*)\n", ended.err)
    assert said
    words = shlex.split(said[1])
    assert words == ["python", "-m", "bnrepro", "+sweep=learning_rates", *overrides]
    assert files(here) == []


def test_the_command_that_a_script_names_does_it(call: Callable[..., Ended]) -> None:
    missing = call(*SMALL, script=SCRIPT)
    assert call(*shlex.split(missing.err.partition("python -m bnrepro ")[2])).status == 0
    wider = call(*SMALL, "sweep.grid.seed=[0,1]", script=SCRIPT)
    assert wider.err.startswith("bnrepro: 4 of 8 runs are not in results/learning_rates; ")
    assert call(*SMALL, script=SCRIPT).status == 0


# True processes


def test_true_processes(tmp_path: Path) -> None:
    """The command that pip installs, on two workers, with a class of the user's own, then the script; -W error."""
    (tmp_path / "mine.py").write_text(BROKEN)
    overrides = [*SMALL, "compute.n_jobs=2", "sweep.grid.model.activation=[mine.Whole,relu]"]
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


# Bad input


def nothing(folder: Path) -> None: ...


def a_file(folder: Path) -> None:
    folder.write_text("in the way")


def good_files(folder: Path) -> None:
    write_idx(folder)


def changed(index: int, change: Callable[[bytes], bytes | None], suffix: str = "") -> Callable[[Path], None]:
    """The four files, one of them changed, renamed, or absent if the change is to None."""

    def prepare(folder: Path) -> None:
        path = write_idx(folder) / IDX_FILES[index]
        content = change(path.read_bytes())
        path.unlink()
        if content is not None:
            path.with_name(path.name + suffix).write_bytes(content)

    return prepare


def a_foreign_store(folder: Path) -> None:
    for name in ("single", "learning_rates"):
        (folder / name).mkdir(parents=True)
        query(folder / name / FILE, "CREATE TABLE runs (a)")


def garbage(folder: Path) -> None:
    (folder / "single").mkdir(parents=True)
    (folder / "single" / FILE).write_bytes(b"no database" * 99)


def refused() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/"


GIVEN_IDX = "dataset=mnist dataset.root=given dataset.sha256=null"
GROUPS = "dataset, model, optimizer, lr_schedule"
NAMES = "must be one of {}, or an import path"
BAD: list[tuple[str, str, Callable[[Path], None]]] = [
    # unknown names
    ("model.activation=elu", f"model.activation=elu: {NAMES.format('sigmoid, relu, tanh')}", nothing),
    ("model.norm=layer", f"model.norm=layer: {NAMES.format('none, batch')}", nothing),
    ("dataset=cifar", "dataset=cifar: must be one of digits, fashion_mnist, mnist", nothing),
    ("+sweep=foo", "sweep=foo: must be one of covariate_shift, figure1, implementation_mistakes, learning", nothing),
    ("optimizer=foo", "optimizer=foo: must be one of adagrad, momentum, sgd", nothing),
    ("model=foo", "model=foo: must be one of cnn, mlp", nothing),
    ("compute=foo", "compute=foo: must be one of dask, local", nothing),
    ("--multirun dataset=digits,foo", "dataset=foo: must be one of digits, fashion_mnist, mnist", nothing),
    ("model.init.scheme=foo", f"model.init.scheme=foo: {NAMES.format('normal, xavier, he')}", nothing),
    ("dataset=null", "Config group override must be .*; a group takes the name of an option, as in dataset=", nothing),
    # unknown keys
    ("+sweep sweep.grid={}", r"sweep.grid=\{\}: must list values for at least one setting", nothing),
    ("+sweep sweep.grid.model={}", r"sweep.grid.model=\{\}: must list values for at least one setting", nothing),
    ("results_dir='~nobody-of-that-name/x'", "results_dir=~nobody-of-that-name/x: must be a folder", nothing),
    ("model.foo=1", "model.foo=1: no such key; known are name, hidden, activation, norm, norm_options, ", nothing),
    ("optimizr.lr=1", "optimizr.lr=1: no such key; known are hydra, train, diagnostics, seed, ", nothing),
    ("+foo=1", f"foo=1: no such key; known are {GROUPS}, train, diagnostics, seed, compute, results_dir", nothing),
    ("+model.init.foo=1", "model.init.foo=1: no such key; known are scheme, std", nothing),
    ("dataset.root=here", "dataset.root=here: no such key; known are name, binarize", nothing),
    ("+sweep/scale=mnist", "sweep=null: must be one of covariate_shift, figure1, ", nothing),
    ("sweep.grid.seed=[1]", r"sweep.grid.seed=\[1\]: no such key; known are ", nothing),
    ("+sweep sweep.grid.foo=[1]", r"sweep.grid.foo=\[1\]: no such key; known are model, optimizer, seed", nothing),
    ("+sweep +sweep.grid.foo=[1]", f"foo=1: no such key; known are {GROUPS}, train, diagnostics, seed", nothing),
    ("~seed", "seed: missing", nothing),
    ("~train", "train=null: must be a group of settings", nothing),
    ("sweep.dry_run=true", "sweep=null: must be one of covariate_shift, figure1, ", nothing),
    ("+sweep sweep.force=perhaps", "sweep.force=perhaps: must be a valid boolean", nothing),
    ("+verify=foo", "results/foo/runs.sqlite: no such store of runs", nothing),
    ("+verify +sweep", "verify.sweep=learning_rates: not together with sweep=learning_rates", nothing),
    ("+verify verify.sample=0", "verify.sample=0: must be greater than 0", nothing),
    ("compute.scheduler=tcp://h:1", "compute.scheduler=tcp://h:1: no such key; known are n_jobs, group_size", nothing),
    ("+sweep compute=dask compute.scheduler=x://y", "compute.scheduler=x://y: can't be reached .*unknown", nothing),
    # Hydra's grammar
    ("model.hidden=[1", r"model.hidden=\[1: must be KEY=VALUE, .*no viable alternative", nothing),
    ("sweep", "sweep: must be KEY=VALUE, .*missing EQUAL", nothing),
    ("results_dir=~/here", "results_dir=~/here: must be KEY=VALUE, or \"KEY='VALUE'\" with special char", nothing),
    ("optimizer.lr=0.1,0.2", "Ambiguous value for argument 'optimizer.lr=0.1,0.2' .* add --multirun", nothing),
    ("seed=${oc.env:NO_SUCH_VARIABLE}", ".*'NO_SUCH_VARIABLE' not found.* full_key: seed", nothing),
    # numbers
    ("optimizer.lr=-1", "optimizer.lr=-1: must be greater than 0", nothing),
    ("optimizer.lr=0", "optimizer.lr=0: must be greater than 0", nothing),
    ("optimizer.lr=abc", "optimizer.lr=abc: must be a valid number", nothing),
    ("optimizer.lr=true", "optimizer.lr=true: must be a valid number", nothing),
    ("--multirun optimizer.lr=-1,-2", "optimizer.lr=-1: must be greater than 0", nothing),
    ("+sweep sweep.grid.optimizer.lr=[0.1,-1]", "optimizer.lr=-1: must be greater than 0", nothing),
    ("train.steps=0", "train.steps=0: must be greater than 0", nothing),
    ("train.steps=-5", "train.steps=-5: must be greater than 0", nothing),
    ("train.batch_size=0", "train.batch_size=0: must be greater than 0", nothing),
    ("train.batch_size=-5", "train.batch_size=-5: must be greater than 0", nothing),
    ("train.batch_size=1443", "train.batch_size=1443: must be at most 1442, the training examples of digits", nothing),
    ("+sweep train.batch_size=1443", "train.batch_size=1443: must be at most 1442, the training examples", nothing),
    ("train.batch_size=1 model.norm=batch", "train.batch_size=1: batch norm needs at least 2 examples", nothing),
    ("+sweep train.batch_size=1", "train.batch_size=1: batch norm needs at least 2 examples", nothing),
    # grids
    ("+sweep sweep.grid.seed=[]", r"sweep.grid.seed=\[\]: must be a list of at least one value", nothing),
    ("+sweep sweep.grid.seed=3", "sweep.grid.seed=3: must be a list of at least one value", nothing),
    ("+sweep ~sweep.grid.model ~sweep.grid.optimizer ~sweep.grid.seed", "sweep.grid={}: must list values", nothing),
    ("+sweep ~sweep.grid", "sweep.grid: missing", nothing),
    # files
    (GIVEN_IDX, "dataset.root=given: no such folder; it needs the four IDX files of mnist, raw or .gz", nothing),
    (GIVEN_IDX, "dataset.root=given: no file t10k-labels-idx1-ubyte or .*; it needs the", changed(3, lambda _: None)),
    (GIVEN_IDX, "dataset.root=given: train-images-idx3-ubyte: .* header says", changed(0, lambda b: b[:-1])),
    (GIVEN_IDX, "dataset.root=given: train-labels-idx1-ubyte: ends inside its header", changed(1, lambda b: b[:6])),
    (GIVEN_IDX, "dataset.root=given: train-labels-idx1-ubyte: not an IDX file", changed(1, lambda b: b"\x1f" + b[1:])),
    (GIVEN_IDX, "dataset.root=given: train-images-.*gz: Not a gzipped file", changed(0, lambda b: b, ".gz")),
    (GIVEN_IDX, "dataset.root=given: 30 images but 60 labels", changed(0, lambda b: b[:7] + b"\x1e" + b[8:1936])),
    (GIVEN_IDX, "dataset.root=given: t10k-images.*: 1 dimensions, not 3", changed(2, lambda b: b[:3] + b"\1" + b[4:])),
    ("dataset=mnist dataset.root=given", "dataset.root=given: .*SHA-256 is .*, not .* as in dataset.sha", good_files),
    (f"+sweep {GIVEN_IDX}", "dataset.root=given: no such folder", nothing),
    (
        f"dataset=mnist dataset.mirrors=[{refused()},{refused()}]",
        "dataset.root=null: no mirror gave train-images-idx3-ubyte.gz: .*Connection refused.*; set dataset.root=FOLD",
        nothing,
    ),
    # results
    ("results_dir=given", r"results_dir=given: can't be written \(Not a directory\)", a_file),
    ("+sweep results_dir=given/x", r"results_dir=given/x: can't be written \(Not a directory\)", a_file),
    ("--multirun results_dir=given seed=0,1", r"results_dir: can't write given/single \(Not a directory\)", a_file),
    ("results_dir=", "results_dir=: must have at least 1 character", nothing),
    ("results_dir=null", "results_dir=null: must be a valid string", nothing),
    ("results_dir=given", "given/single/runs.sqlite: not a store of bnrepro; name another results", a_foreign_store),
    ("+sweep results_dir=given", "given/learning_rates/runs.sqlite: not a store of bnrepro; ", a_foreign_store),
    ("results_dir=given", "given/single/runs.sqlite: can't be used as a store .*not a database", garbage),
    ("compute.n_jobs=0", "compute.n_jobs=0: must be a number of worker processes, or -1", nothing),
]  # fmt: skip


def assert_one_line(ended: Ended, expected: str) -> None:
    assert ended.status == 1
    (line,) = ended.err.splitlines()
    assert re.match(f"bnrepro: {expected}", line), line


@pytest.mark.parametrize(("arguments", "expected", "prepare"), BAD, ids=[f"{i}: {row[0]}" for i, row in enumerate(BAD)])
def test_bad_input_is_one_line_with_key_value_and_what_is_allowed(
    call: Callable[..., Ended],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    trained: list[str],
    arguments: str,
    expected: str,
    prepare: Callable[[Path], None],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(here.parent / "cache"))
    prepare(here / "given")
    ended = call(*sorted([*TINY, *arguments.split()], key=lambda word: not word.startswith("--")))
    assert_one_line(ended, expected)
    assert "Traceback" not in ended.out
    assert trained == []


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("dataset=foo", "dataset=foo: must be one of "),
        ("model.foo=1", "model.foo=1: no such key"),
        ("train.steps=0", "train.steps=0: must be greater than 0"),
        ("sweep.grid.seed=[]", r"sweep.grid.seed=\[\]: must be a list of at least one value"),
        ("foo", "foo: must be KEY=VALUE"),
        ("results_dir=given", "given/learning_rates/runs.sqlite: not a store of bnrepro"),
    ],
)
def test_a_script_reports_bad_input_alike(call: Callable[..., Ended], here: Path, override: str, expected: str) -> None:
    a_foreign_store(here / "given")
    assert_one_line(call(override, script=SCRIPT), expected)


def test_bad_input_in_true_processes(tmp_path: Path) -> None:
    """One of each way by which it is found, with and without the traceback."""
    (tmp_path / "file").write_text("in the way")
    cases = [
        ("-m bnrepro dataset=foo", "dataset=foo: must be one of "),
        ("-m bnrepro model.foo=1", "model.foo=1: no such key"),
        ("-m bnrepro optimizer.lr=0", "optimizer.lr=0: must be greater than 0"),
        ("-m bnrepro results_dir=file", "results_dir=file: can't be written"),
        ("-m bnrepro --multirun results_dir=file/x seed=0,1", "results_dir: can't write file/x/single"),
        ("-m bnrepro --multirun optimizer.lr=-1,-2", "optimizer.lr=-1: must be greater than 0"),
        (f"{SCRIPT} seed=0", "96 of 96 runs are not in results/learning_rates; to train them: "),
        (f"{SCRIPT} train.steps=0", "train.steps=0: must be greater than 0"),
    ]
    commands = [(arguments.split(), expected, full) for arguments, expected in cases for full in ("0", "1")]
    with ThreadPoolExecutor(2) as pool:
        ended = pool.map(lambda c: in_a_process(c[0], tmp_path, HYDRA_FULL_ERROR=c[2]), commands)
        for (_, expected, full), end in zip(commands, ended, strict=True):
            if full == "0":
                assert_one_line(end, expected)
            else:
                assert end.status == 1
                assert "Traceback (most recent call last)" in end.err
                assert "bnrepro: " not in end.err
            assert end.out == ""
    assert {path.name for path in tmp_path.iterdir()} <= {
        "file",
        "results",
    }  # where --multirun leaves its multirun.yaml


@pytest.mark.parametrize("reader", ["true", "head -n 1"])
def test_a_reader_that_has_had_enough_is_no_error(reader: str, tmp_path: Path) -> None:
    command = f"{shlex.quote(sys.executable)} -m bnrepro {' '.join(map(shlex.quote, TINY))} | {reader}"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
