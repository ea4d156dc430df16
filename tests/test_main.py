"""The command line as a whole: what Hydra offers, several jobs, and true processes."""

from collections.abc import Callable
from pathlib import Path

from calls import BROKEN, SCRIPT, SMALL, TINY, Ended, files, in_a_process

import bnrepro


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


# What Hydra offers


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


# True processes


def test_true_processes(tmp_path: Path) -> None:
    """Training on two workers, with a class of the user's own, then the script; warnings are errors."""
    (tmp_path / "mine.py").write_text(BROKEN)
    overrides = [*SMALL, "compute=local", "compute.n_jobs=2", "sweep.grid.model.activation=[mine.Whole,relu]"]
    trained = in_a_process(["-m", "bnrepro", "+sweep", *overrides], tmp_path)
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
