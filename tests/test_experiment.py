"""From stored runs to a table and figures, by the name of the experiment."""

import os
from pathlib import Path

import pandas as pd
import pytest
from runs import a_run, settings

from bnrepro import experiment
from bnrepro.experiment import EXPERIMENTS, figure_folder, find_experiment, show
from bnrepro.store import RunResult, Store
from bnrepro.sweep import expand

MINE = """
import pandas as pd
from matplotlib.figure import Figure


def score(results):
    return results.runs.groupby("lr")[["test_accuracy"]].mean()


def figures(results):
    figure = Figure()
    figure.subplots().plot(results.runs["lr"], results.runs["test_accuracy"])
    return {"mine": figure, "again": figure}
"""


def test_every_experiment_has_its_sweep_and_the_other_way_round() -> None:
    sweeps = (EXPERIMENTS.parent / "conf" / "sweep").glob("*.yaml")
    assert sorted(path.stem for path in sweeps) == sorted(path.stem for path in EXPERIMENTS.glob("*.py"))


@pytest.mark.parametrize("name", sorted(path.stem for path in EXPERIMENTS.glob("*.py")))
def test_every_experiment_has_a_score_and_figures(name: str) -> None:
    module = find_experiment(name)
    assert module is not None
    assert callable(module.score)
    assert callable(module.figures)


def test_a_sweep_need_not_have_an_experiment() -> None:
    assert find_experiment("nothing") is None


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], ""),
        (["+sweep=learning_rates"], ""),
        (
            ["+sweep=x", "results_dir=here", "compute.n_jobs=1", "compute=local", "dataset.root=/a", "hydra.verbose=1"],
            "",
        ),
        (["++results_dir=here", "++compute.n_jobs=1"], ""),
        (["train.steps=5", "+sweep=x"], "train.steps=5"),
        (["train.steps=5", "dataset=mnist"], "dataset=mnist,train.steps=5"),
        (["dataset=mnist", "train.steps=5"], "dataset=mnist,train.steps=5"),
        (["+sweep=x", "sweep.grid.seed=[0,1]"], "sweep.grid.seed=[0,1]"),
        (["+sweep=x", "+sweep.grid.train.steps=[5]"], "sweep.grid.train.steps=[5]"),
        (["++train.steps=5"], "train.steps=5"),
        (["model.activation=a/../b c"], "model.activation=a_.._b_c"),
        (["optimizer.lr=1e-3"], "optimizer.lr=1e-3"),
    ],
)
def test_each_variant_of_a_sweep_has_a_folder_of_figures(tmp_path: Path, overrides: list[str], name: str) -> None:
    assert figure_folder(tmp_path, overrides) == tmp_path / name


def test_a_folder_has_a_name_that_file_systems_take(tmp_path: Path) -> None:
    long = [f"sweep.grid.seed={list(range(count))}" for count in (500, 501)]
    for override in long:
        figure_folder(tmp_path, [override]).mkdir()  # one each, or the figures of one would replace the other's


def test_show_prints_the_table_and_draws_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.py").write_text(MINE)
    monkeypatch.setattr(experiment, "EXPERIMENTS", tmp_path / "experiments")
    monkeypatch.chdir(tmp_path)
    runs = expand(settings(), {"optimizer": {"lr": [0.1, 0.2]}})
    others = expand(settings(), {"optimizer": {"lr": [5, 6]}})
    folder = tmp_path / "results" / "mine"
    Store(folder, create=True).add([RunResult(run, test_accuracy=run.lr) for run in runs + others])
    show("mine", runs, folder, ["+sweep=mine", "train.steps=20"])
    lines = capsys.readouterr().out.splitlines()
    drawn = folder / "train.steps=20"
    files = [f"{name}.{kind}" for name in ("mine", "again") for kind in ("png", "svg")] + ["score.csv"]
    assert lines[-5:] == [os.path.relpath(drawn / file) for file in files]
    assert sorted(path.name for path in drawn.iterdir()) == sorted(files)
    assert (drawn / "score.csv").read_text().split() == ["lr,test_accuracy", "0.1,0.1", "0.2,0.2"]  # not the others
    assert lines[:-5] == ["     test_accuracy", "lr                ", "0.1            0.1", "0.2            0.2"]


def test_a_sweep_without_an_experiment_says_where_its_runs_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show("nothing", [a_run()], tmp_path, [])
    assert capsys.readouterr().out == (
        f"no experiments/nothing.py, so no table and no figure; the runs are in {tmp_path}\n"
    )


def test_an_experiment_may_have_no_figures_and_its_table_is_never_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bare.py").write_text(MINE.partition("def figures")[0] + "def figures(results):\n    return {}\n")
    monkeypatch.setattr(experiment, "EXPERIMENTS", tmp_path)
    runs = expand(settings(), {"optimizer": {"lr": [0.1, 0.2]}})
    folder = tmp_path / "results"
    Store(folder, create=True).add([RunResult(run, test_accuracy=run.lr) for run in runs])
    show("bare", runs, folder, ["train.steps=20"])
    drawn = folder / "train.steps=20"
    before = (drawn / "score.csv").read_bytes()

    def killed(table: pd.DataFrame, path: Path) -> None:
        path.write_text("half a ta")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", killed)
    with pytest.raises(KeyboardInterrupt):
        show("bare", runs, folder, ["train.steps=20"])
    assert (drawn / "score.csv").read_bytes() == before
