"""What a command does: what then stands on the screen and on the disk."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from calls import SCRIPT, SMALL, TINY, Ended, assert_one_line, but, files
from runs import query

import bnrepro
from bnrepro import config, experiment, sweeping
from bnrepro.api import headline
from bnrepro.store import FILE

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


# A sweep


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("place", [0, 2, len(SMALL)])
def test_bare_sweep_is_the_main_job_in_any_position(call: Callable[..., Ended], place: int) -> None:
    ended = call(*SMALL[:place], "+sweep", *SMALL[place:])
    assert ended.status == 0
    assert ended.out.startswith("learning_rates: 4 runs, 0 found finished in results/learning_rates/runs.sqlite\n")


@pytest.mark.usefixtures("blank_figures")
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

    for how in ("script", "command"):
        for path in drawn:
            if "sqlite" not in path:
                (here / path).unlink()
        shown = shown_by(call, how, *SMALL)
        assert (shown.status, shown.err, shown.out.splitlines()) == (0, "", first.out.splitlines()[1:])
        assert {path: (here / path).read_bytes() for path in files(here)} == drawn
    assert trained == []


@pytest.mark.usefixtures("blank_figures")
def test_a_wider_grid_trains_only_what_is_new(call: Callable[..., Ended], trained: list[str]) -> None:
    call("+sweep", *SMALL)
    old = set(trained)
    trained.clear()
    ended = call("+sweep", *TINY, "sweep.grid.optimizer.lr=[0.2,0.1]", "sweep.grid.seed=[0,1]")
    assert ended.out.startswith("learning_rates: 16 runs, 4 found finished in ")
    assert (len(trained), len(set(trained) | old)) == (12, 16)
    folders = {Path(line).parent.name for line in ended.out.splitlines()[-5:]}
    assert len(folders) == 1
    assert "sweep.grid.seed=[0,1]" in folders.pop()


@pytest.mark.usefixtures("blank_figures")
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


@pytest.mark.usefixtures("blank_figures")
def test_an_interrupted_sweep_says_what_is_stored(call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(results: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweeping.Progress, "__call__", lambda self, results: interrupted(results))
        ended = call("+sweep", *SMALL, "compute.group_size=1")
    assert ended.status == 130
    said, _, words = ended.err.strip().partition("python -m bnrepro ")
    assert said == "bnrepro: interrupted; 1 of 4 runs are stored; to go on: "
    assert call(*shlex.split(words)).out.startswith("learning_rates: 4 runs, 1 found finished in ")


@pytest.mark.usefixtures("blank_figures")
def test_a_dry_run_says_what_a_sweep_would_take_and_writes_nothing(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    first = call("+sweep", *SMALL, "sweep.dry_run=true")
    assert (first.status, first.err) == (0, "")
    lines = first.out.splitlines()
    assert lines[0] == "learning_rates: 4 runs, 0 found finished in results/learning_rates/runs.sqlite"
    assert lines[1] == "4 runs to train in 4 groups of up to 1, 1 at once"
    assert re.fullmatch(r"time: about 00:0\d, by 1 s of training of 4 of 4 kinds of runs", lines[2])
    assert re.fullmatch(r"memory: about \d+ MB here", lines[3])
    assert lines[4:] == ["nothing was trained or stored: sweep.dry_run=true"]
    assert list(here.iterdir()) == []
    assert trained == []

    two = call("+sweep", *but(SMALL, "compute=local", "compute.n_jobs=2"), "sweep.dry_run=true").out.splitlines()
    assert re.fullmatch(r"memory: about \d+ MB in each of 2 workers and \d+ MB here", two[3])

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


@pytest.mark.usefixtures("blank_figures")
def test_force_trains_again_what_is_stored(call: Callable[..., Ended], here: Path, trained: list[str]) -> None:
    call("+sweep", *SMALL)
    drawn = {path: (here / path).read_bytes() for path in files(here) if "sqlite" not in path}
    again = call("+sweep", *SMALL, "sweep.force=true")
    assert again.status == 0
    assert len(trained) == 8
    assert {path: (here / path).read_bytes() for path in files(here) if "sqlite" not in path} == drawn
    assert len(bnrepro.load("learning_rates").runs) == 4


@pytest.mark.usefixtures("blank_figures")
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


@pytest.mark.usefixtures("blank_figures")
def test_stored_runs_are_verified_by_training_some_of_them_again(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    call("+sweep", *SMALL)
    verified = call("+verify", "compute=inline", "verify.sample=2")
    assert verified.status == 0
    assert "2 of 2 runs are equal, bit for bit" in verified.out
    assert len(trained) == 6
    query(here / "results" / "learning_rates" / FILE, "UPDATE curves SET train_loss = train_loss + 1e-9 WHERE step = 5")
    assert call("+verify=learning_rates", "compute=inline").status == 1


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
    assert headline(error) == line


@pytest.mark.parametrize("name", ["learning_rates", "covariate_shift"])
def test_every_sweep_of_conf_trains_and_shows(call: Callable[..., Ended], here: Path, name: str) -> None:
    ended = call(f"+sweep={name}", *SMALL)
    assert ended.status == 0
    assert any(path.endswith(".svg") for path in files(here / "results" / name))


@pytest.mark.usefixtures("blank_figures")
def test_an_override_of_what_a_sweep_varies_is_told_and_names_what_its_folder_shows(
    call: Callable[..., Ended], here: Path, trained: list[str]
) -> None:
    told = [
        "model.activation=tanh: in place of the sweep's [sigmoid, relu]",
        "seed=4,5: in place of the sweep's [0, 1, 2]",
    ]
    given = [*TINY, "model.activation=tanh", "seed=4,5", "sweep.grid.optimizer.lr=[0.1]"]
    first = call("+sweep", *given)
    assert first.status == 0, first.err
    assert sorted(first.out.splitlines()[:2]) == told
    assert first.out.splitlines()[2].startswith("learning_rates: 4 runs, 0 found finished in ")
    runs = bnrepro.load("learning_rates").runs
    assert runs[["activation", "seed"]].drop_duplicates().to_numpy().tolist() == [["tanh", 4], ["tanh", 5]]
    (folder,) = {Path(path).parent.name for path in files(here) if path.endswith(".csv")}
    assert {"model.activation=tanh", "seed=4,5"} <= {*re.split(r",(?=\w+[.=])", folder)}

    for again in (call("+show", *given), call(*given, script=SCRIPT), call("+sweep", "sweep.dry_run=true", *given)):
        assert again.status == 0, again.err
        assert sorted(again.out.splitlines()[:2]) == told
    assert again.out.splitlines()[2:] == [
        "learning_rates: 4 runs, 4 found finished in results/learning_rates/runs.sqlite", "nothing to train"
    ]  # fmt: skip
    assert len(trained) == len(bnrepro.load("learning_rates", given).runs) == len(bnrepro.sweep(overrides=given).runs)
    missing = call("+show", *but(given, "seed=6,7"))
    assert call(*shlex.split(missing.err.partition("python -m bnrepro ")[2])).status == 0


# Shown again


def shown_by(call: Callable[..., Ended], how: str, *overrides: str) -> Ended:
    return call(*overrides, script=SCRIPT) if how == "script" else call("+show=learning_rates", *overrides)


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("how", ["script", "command"])
def test_what_is_missing_is_named_with_the_command_that_trains_it(
    call: Callable[..., Ended], here: Path, how: str
) -> None:
    overrides = [*SMALL, "results_dir='some where'"]
    ended = shown_by(call, how, *overrides)
    assert (ended.status, ended.out) == (1, "")
    said = re.fullmatch(r"bnrepro: 4 of 4 runs are not in some where/learning_rates; to train them: (.*)\n", ended.err)
    assert said
    words = shlex.split(said[1])
    assert words == ["python", "-m", "bnrepro", "+sweep=learning_rates", *overrides]
    assert files(here) == []


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("how", ["script", "command"])
def test_the_command_that_is_named_does_it(call: Callable[..., Ended], how: str) -> None:
    missing = shown_by(call, how, *SMALL)
    assert call(*shlex.split(missing.err.partition("python -m bnrepro ")[2])).status == 0
    wider = shown_by(call, how, *but(SMALL, "sweep.grid.seed=[0,1]"))
    assert wider.err.startswith("bnrepro: 4 of 8 runs are not in results/learning_rates; ")
    assert shown_by(call, how, *SMALL).status == 0


@pytest.mark.parametrize("how", ["script", "command"])
def test_without_a_store_and_overrides_the_reference_is_shown(
    call: Callable[..., Ended], here: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(experiment, "show_reference", shown.append)
    ended = shown_by(call, how)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == "results/learning_rates has not all of the 96 runs; here is the reference\n"
    assert shown == ["learning_rates"]
    assert files(here) == []


@pytest.mark.parametrize("show", ["sweep.dry_run=true", "sweep.force=true"])
def test_a_script_trains_nothing_whatever_it_is_told(call: Callable[..., Ended], here: Path, show: str) -> None:
    ended = call(show, script=SCRIPT)
    assert ended.err == "bnrepro: sweep.show=true: not together with sweep.dry_run=true or sweep.force=true\n"
    assert (ended.status, files(here)) == (1, [])


MEASURES = """
import numpy as np

from bnrepro.diagnostics import Column, measures


@measures(Column("train_loss", "run", "a column that every run has"))
def clash(snapshot):
    return {"train_loss": snapshot.lr}


@measures(Column("mine", "layer", "a value of each layer"))
def misshapen(snapshot):
    return {"mine": snapshot.lr}


def undeclared(snapshot):
    return {"mine": snapshot.lr}


@measures(Column("mine", "layer", "a value of each layer"))
def good(snapshot):
    return {"mine": np.ones((len(snapshot.lr), 2)) * snapshot.lr[:, None]}
"""


@pytest.fixture
def measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with these diagnostics."""
    (tmp_path / "measuring_of_a_test.py").write_text(MEASURES)
    monkeypatch.syspath_prepend(tmp_path)
    return "measuring_of_a_test"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("clash", "column train_loss of each run is every run's already"),
        ("misshapen", r"column mine has shape \(1,\); of each layer it must be \(1, 1\) or \(1, 2\)"),
        ("undeclared", "must be a bnrepro.diagnostics.Diagnostic"),
    ],
)
@pytest.mark.parametrize("command", [[*TINY], ["+sweep", *SMALL]], ids=["one run", "a sweep"])
def test_a_diagnostic_that_does_not_give_what_it_declares_is_one_line_before_any_training(
    call: Callable[..., Ended], measuring: str, command: list[str], name: str, problem: str
) -> None:
    assert_one_line(call(*command, f"diagnostics=[{measuring}.{name}]"), f"diagnostics={measuring}.{name}: {problem}$")
    stores = list(Path("results").rglob(FILE))
    assert all(query(store, "SELECT count(*) FROM runs") == [(0,)] for store in stores)


def test_a_diagnostic_of_ones_own_fills_the_column_that_it_declares(call: Callable[..., Ended], measuring: str) -> None:
    assert call(*TINY, f"diagnostics=[{measuring}.good]", "optimizer.lr=0.25").status == 0
    layers = bnrepro.load("single").layers
    assert (layers["mine"] == 0.25).all()
    assert sorted(layers["layer"].unique()) == [1, 2]
