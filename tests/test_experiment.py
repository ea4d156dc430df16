"""From stored runs to a table and figures, by the name of the experiment."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs import a_run, settings

from bnrepro import places
from bnrepro.commands import redraw
from bnrepro.composition import compose
from bnrepro.config import Settings
from bnrepro.experiment import figure_folder, import_experiment, read_tables, show, write_tables
from bnrepro.places import CONF, EXPERIMENTS, REFERENCE
from bnrepro.store import Results, RunResult, Store
from bnrepro.sweeping import expand

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


SWEEPS = sorted(path.stem for path in CONF.glob("sweep/*.yaml"))


def test_every_experiment_has_its_sweep_and_the_other_way_round() -> None:
    assert {path.stem for path in EXPERIMENTS.glob("*.py")} == {*SWEEPS, "wrong_layers"}


@pytest.mark.parametrize("name", SWEEPS)
def test_every_experiment_has_a_score_and_figures(name: str) -> None:
    module = import_experiment(name)
    assert module is not None
    assert callable(module.score)
    assert callable(module.figures)


def test_a_sweep_need_not_have_an_experiment() -> None:
    assert import_experiment("nothing") is None


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
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "bare.py").write_text(
        MINE.partition("def figures")[0] + "def figures(results):\n    return {}\n"
    )
    monkeypatch.chdir(tmp_path)
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


# The reference


def some_results() -> Results:
    return Results(
        runs=pd.DataFrame(
            {
                "run_id": ["0123456789012345", "123e456789012345"],  # text, though they read as numbers
                "status": ["done", "diverged"],
                "norm": ["none", "batch"],
                "test_accuracy": [0.123456789, np.nan],
                "diagnostics": [["units"], []],
                "dataset.binarize": [True, False],
                "model.init": [{"scheme": "normal"}, {"scheme": "xavier"}],
            }
        ),
        curves=pd.DataFrame({"run_id": ["0123456789012345"] * 2, "step": [0, 100], "train_loss": [2.3, np.inf]}),
        layers=pd.DataFrame({"run_id": []}),
        units=pd.DataFrame({"run_id": ["123e456789012345"], "step": [3], "p50": [-1e-9]}),
    )


def test_reference_data_come_back_as_they_were_written(tmp_path: Path) -> None:
    results = some_results()
    write_tables(results, tmp_path)
    again = read_tables(tmp_path)
    for table in ("runs", "curves", "layers", "units"):
        pd.testing.assert_frame_equal(
            getattr(again, table), getattr(results, table), rtol=5e-5, check_dtype=False, check_index_type=False
        )
    assert again.runs["run_id"].tolist() == results.runs["run_id"].tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.csv.xz", "runs.csv.xz", "units.csv.xz"]


def test_settings_are_written_with_the_runs_alone(tmp_path: Path) -> None:
    results = some_results()
    curves = results.curves.assign(seed=0)  # as what an experiment has chosen of it may have
    assert not {*results.varying}.isdisjoint(results.curves)
    write_tables(Results(results.runs, curves, results.layers, results.units), tmp_path)
    written = pd.read_csv(tmp_path / "curves.csv.xz")
    assert [*written] == [*results.table("curves")]
    assert {*written}.isdisjoint({"seed", *results.varying})


def test_reference_data_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_tables(some_results(), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REFERENCE.glob("*/runs.csv.xz")))
def test_the_committed_table_is_that_of_the_committed_data(name: str) -> None:
    module = import_experiment(name)
    assert module is not None
    drawn = module.score(read_tables(REFERENCE / name)).to_csv()
    assert drawn == (REFERENCE / name / "score.csv").read_text()


def test_the_reference_is_at_most_5_mb() -> None:
    assert sum(path.stat().st_size for path in REFERENCE.rglob("*") if path.suffix != ".svg") < 5e6


def test_a_script_makes_the_reference_and_shows_it_where_there_is_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "learning_rates.py").write_text(
        MINE
        + "\n\ndef drawn_from(results):\n"
        + "    return type(results)(results.runs, results.curves[:0], results.layers, results.units)\n"
    )
    monkeypatch.setattr(places, "EXPERIMENTS", tmp_path)
    monkeypatch.setattr(places, "REFERENCE", tmp_path / "reference")
    monkeypatch.chdir(tmp_path)
    few = ["sweep.grid.seed=[0]", "sweep.grid.optimizer.lr=[0.1,0.2]"]
    parsed = Settings.parse(compose(["+sweep=learning_rates", *few]))
    runs = expand(parsed.run, *parsed.grids)
    curve = [{"step": 0, "train_loss": 2.0, "test_accuracy": 0.1, "gradient_norm": 1.0}]
    store = Store(tmp_path / "results" / "learning_rates", create=True)
    store.add(RunResult(run, test_accuracy=run.lr / 3, curves=curve) for run in runs)

    def script(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["learning_rates.py", *arguments])
        redraw(str(tmp_path / "learning_rates.py"))
        return capsys.readouterr().out

    made = script("--reference", *few)
    reference = tmp_path / "reference" / "learning_rates"
    assert {path.name for path in reference.iterdir()} == {
        *(f"{name}.{kind}" for name in ("mine", "again") for kind in ("png", "svg")),
        "score.csv",
        "runs.csv.xz",
    }
    assert (reference / "score.csv").read_text().split() == ["lr,test_accuracy", "0.1,0.033333", "0.2,0.066667"]
    before = {path.name: path.read_bytes() for path in reference.iterdir()}
    monkeypatch.chdir(reference)  # where there is no store
    assert script().splitlines()[1:4] == made.splitlines()[:3]
    assert {path.name: path.read_bytes() for path in reference.iterdir()} == before
    with pytest.raises(SystemExit):
        script(*few)
