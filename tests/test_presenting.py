"""What is printed and written of an experiment."""

import functools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_up import an_outcome, made_up, write_experiment
from runs import settings

from bnrepro import analysis
from bnrepro.analysis import NOTHING, Estimate
from bnrepro.composition import compose
from bnrepro.config import Figures, RunConfig, Settings
from bnrepro.errors import InputError
from bnrepro.experiment import Experiment, import_experiment
from bnrepro.presenting import WIDTH, figure_folder, present, show, spell, spell_table
from bnrepro.store import Store
from bnrepro.sweeping import expand

nan = math.nan
PNG = Figures(width=None, style=None, formats=["png"])


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (NOTHING, ""),
        (Estimate(0.97389, 0.97342, 0.97436, 5), "0.9739 [0.9734, 0.9744]"),
        (Estimate(2.181, 1.2251, 3.883, 5), "2.2 [1.2, 3.9]"),
        (Estimate(23_681.2, 13_990.7, 40_083.2, 5), "24,000 [14,000, 40,000]"),
        (Estimate(0.00367, 0.00223, 0.00511, 5), "0.0037 [0.0022, 0.0051]"),
        (Estimate(-0.5503, -0.66591, -0.43468, 5), "-0.55 [-0.67, -0.43]"),
        (Estimate(6.3, 6.3, 25, 5), "6.3 [6.3, 25.0]"),
        (Estimate(0.123456789, 0.12345678, 0.1234568, 5), "0.1235 [0.1235, 0.1235]"),  # no more than 4 digits
        (Estimate(1000.0, 1000.0, 1000.0, 5), "1,000 [1,000, 1,000]"),
        (Estimate(50_000, nan, nan, 5, 1), "> 50,000"),
        (Estimate(4, 1, nan, 5, 1), "> 4.0 [1.0, ]"),
        (Estimate(2.6, nan, 7.7, 5, -1), "< 2.6 [, 7.7]"),
        (Estimate(0.97389), "0.974"),
        (Estimate(0), "0"),
        (Estimate(0, -0.1, 0.1, 3), "0.00 [-0.10, 0.10]"),
        (Estimate(2.2e-17, -0.0043, 0.0043, 5), "0.0000 [-0.0043, 0.0043]"),
        (Estimate(1.6), "1.6"),
        (Estimate(6.6e-18), "6.6e-18"),
    ],
)
def test_estimates_have_the_digits_that_their_intervals_make_sensible(found: Estimate, text: str) -> None:
    assert spell(found) == text


@pytest.mark.parametrize(
    ("found", "of", "text"),
    [
        (Estimate(0.97389, 0.97, 0.98, 5), "final accuracy", "0.9739 [0.9700, 0.9800]"),
        (Estimate(0.5, 0.1, 0.9, 3), "accuracy", "0.5000 [0.1000, 0.9000]"),
        (Estimate(0.97389), "sigmoid, best accuracy, at rate 1", "0.9739"),
        (Estimate(1, nan, nan, 3, -1), "difference of accuracies", "< 1.0000"),
        (Estimate(0.97389, 0.97, 0.98, 5), "gain", "0.974 [0.970, 0.980]"),
        (NOTHING, "accuracy", ""),
    ],
)
def test_accuracies_have_four_decimals(found: Estimate, of: str, text: str) -> None:
    assert spell(found, of) == text


def test_a_table_has_a_column_for_each_quantity_and_says_where_seeds_are_fewer() -> None:
    rows = {
        ("none", 0.1, "accuracy"): Estimate(0.5, 0.4, 0.6, 3),
        ("none", 0.1, "steps"): Estimate(100, 90, 110, 2),
        ("batch", 25.0, "accuracy"): Estimate(0.9, 0.8, 1.0, 3),
    }
    assert spell_table(analysis.table(rows, ["norm", "lr", "quantity"])).split("\n") == [
        "                          accuracy                  steps",
        "norm  lr                                                 ",
        "none  0.1  0.5000 [0.4000, 0.6000]  100 [90, 110] (n = 2)",
        "batch 25   0.9000 [0.8000, 1.0000]                       ",
    ]
    assert spell_table(analysis.table({("a",): Estimate(1)}, ["quantity"])).split("\n") == ["a", "1"]


def test_a_table_is_no_wider_than_the_screen() -> None:
    rows = {(f"quantity number {i}",): Estimate(0.97389, 0.97342, 0.97436, 5) for i in range(9)}
    lines = spell_table(analysis.table(rows, ["quantity"])).split("\n")
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.count("0.9739") for line in lines) == 9


@functools.cache
def folder_of(*overrides: str) -> str:
    """The name of the folder of figures within that of the sweep; empty for the sweep's own."""
    folder = Path("results", "learning_rates")
    settings = Settings.parse(compose(["+sweep", *overrides]))
    found = figure_folder(folder, settings, ["+sweep", *overrides])
    return str(found.relative_to(folder)) if found != folder else ""


LRS = "[0.0016,0.0063,0.025,0.1,0.4,1.6,6.3,25]"


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["results_dir=here", "compute.n_jobs=1", "compute=local", "hydra.verbose=1"],
        ["++results_dir=here", "++compute.n_jobs=1", "figures.width=3.3", "sweep.redraw=30"],
        ["train.steps=3000"],
        ["seed=0,2,1"],
        [f"sweep.grid.optimizer.lr={LRS}", "sweep.refine.key=optimizer.lr"],
    ],
)
def test_the_sweep_as_it_stands_has_its_own_folder_however_it_is_spelled(overrides: list[str]) -> None:
    assert folder_of(*overrides) == ""


@pytest.mark.parametrize(
    "spellings",
    [
        [["train.steps=5"], ["++train.steps=5"], ["sweep.grid.train.steps=[5]"], ["train.steps=5", "sweep.redraw=30"]],
        [["optimizer.lr=0.1"], ["optimizer.lr=1e-1"], ["sweep.grid.optimizer.lr=[1.0e-1,.1]"]],
        [["seed=0,1", "train.steps=6"], ["train.steps=6", "seed=range(0,2)"], ["train.steps=6", "seed=1,0"]],
        [[f"sweep.grid.seed={[*range(70)]}".replace(" ", "")], ["seed=range(0,70)"]],
        [["dataset=mnist"], ["dataset=mnist", "dataset.root=/a"]],
    ],
)
def test_one_set_of_runs_has_one_folder_of_a_short_name_whatever_was_typed(spellings: list[list[str]]) -> None:
    (name,) = {folder_of(*overrides) for overrides in spellings}
    assert re.fullmatch("[0-9a-f]{8}", name)


def test_each_variant_of_a_sweep_has_a_folder_of_figures() -> None:
    variants = ["train.steps=5", "train.steps=6", "optimizer.lr=0.1", "seed=range(0,70)", "seed=range(0,71)"]
    variants += ["train.dtype=float64", "sweep.refine.ratio=2", "sweep.refine.key=null"]
    assert len({folder_of(each) for each in variants}) == 8


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An experiment of a user's own, ``mine``, that compares learning rates."""
    write_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    found = import_experiment("mine")
    assert found
    return found


def some_runs(**axes: Any) -> list[RunConfig]:
    return expand(settings(), {"optimizer": {"lr": [0.1, 0.2]}, "seed": [0, 1], **axes})


def test_what_is_shown_is_printed_and_written(
    mine: Experiment, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, others = some_runs(), expand(settings(), {"optimizer": {"lr": [5, 6]}})
    folder = tmp_path / "results" / "mine"
    Store(folder, create=True).add(map(an_outcome, runs + others))
    every = Figures(width=None, style=None, formats=["png", "svg", "pdf"])
    drawn = folder / "0123abcd"
    show("mine", runs, folder, drawn, every, "python -m bnrepro +sweep=mine")
    lines = capsys.readouterr().out.splitlines()
    files = [
        *(f"mine.{kind}" for kind in every.formats),
        "score.csv",
        "drawn/final.csv.xz",
        "drawn/diverged.csv.xz",
        "verdict.json",
        "settings.json",
        "report.html",
    ]
    assert lines[-9:] == [os.path.relpath(drawn / file) for file in files]
    assert {str(path.relative_to(drawn)) for path in drawn.rglob("*.*")} == set(files)
    assert lines[0] == "score:"
    assert lines[6:10] == [
        "claim +mine (Section 0): It learns.",
        "criterion: It ends at 50% or more.",
        lines[8],
        "verdict: reproduces",
    ]
    assert lines[8].startswith("- accuracy at 0.1: 0.9")
    table = pd.read_csv(drawn / "score.csv", index_col=["lr", "quantity"])
    assert [*table] == [*Estimate._fields]
    assert table.index.tolist() == [(0.1, "accuracy"), (0.2, "accuracy")]  # not the others
    of_runs = json.loads((drawn / "settings.json").read_text("utf-8"))
    assert (of_runs["optimizer.lr"], of_runs["seed"], of_runs["model.hidden"]) == ([0.1, 0.2], [0, 1], [[8]])
    said = json.loads((drawn / "verdict.json").read_text("utf-8"))
    (claim,) = said["claims"]
    assert (claim["id"], claim["sentence"], said["runs"], said["of"]) == ("+mine", "It learns.", 4, 4)
    (verdict,) = claim["verdicts"]
    assert verdict["answer"] == "reproduces"
    assert verdict["findings"][0]["value"] == pytest.approx(table.loc[(0.1, "accuracy"), "value"], rel=1e-5)
    assert (verdict["findings"][0]["n"], verdict["findings"][0]["holds"]) == (2, True)


def test_what_varies_besides_is_shown_facet_by_facet(mine: Experiment, tmp_path: Path) -> None:
    runs = some_runs(train={"batch_size": [30, 60]})
    both = present(mine, made_up(runs), tmp_path / "both", PNG, expected=8).told
    tables = pd.read_csv(tmp_path / "both" / "score.csv")
    (claim,) = json.loads((tmp_path / "both" / "verdict.json").read_text("utf-8"))["claims"]
    for size, verdict in zip((30, 60), claim["verdicts"], strict=True):
        assert f"== train.batch_size={size} ==" in both
        assert f"verdict (train.batch_size={size}): reproduces" in both
        assert (tmp_path / "both" / f"mine,train.batch_size={size}.png").is_file()
        assert verdict["facet"] == {"train.batch_size": size}
        alone = [run for run in runs if run.train.batch_size == size]
        present(mine, made_up(alone), tmp_path / f"{size}", PNG, expected=4)
        part = tables[tables["train.batch_size"] == size].drop(columns="train.batch_size")
        pd.testing.assert_frame_equal(part.reset_index(drop=True), pd.read_csv(tmp_path / f"{size}" / "score.csv"))


def test_a_part_of_a_sweep_says_so(mine: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    draw = mine.draw

    def titled(tables: Any) -> Any:
        drawn = draw(tables)
        titles.extend(figure.legends[0].get_title().get_text() for figure in drawn.values())
        return drawn

    object.__setattr__(mine, "draw", titled)
    told = present(mine, made_up(some_runs()[:3]), tmp_path / "part", PNG, expected=4).told
    assert titles == ["3 of 4 runs"]
    assert "\nverdict (3 of 4 runs): reproduces\n" in told


def test_a_sweep_without_an_experiment_says_where_its_runs_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = expand(settings(), {"seed": [0]})
    store = Store(tmp_path, create=True)
    with pytest.raises(InputError, match=r"none of the runs of nothing is stored$"):
        show("nothing", [run], tmp_path, tmp_path, PNG, "python -m bnrepro")
    store.add([an_outcome(run)])
    show("nothing", [run], tmp_path, tmp_path, PNG, "python -m bnrepro")
    assert capsys.readouterr().out == (
        f"no experiments/nothing.py, so no table and no figure; the runs are in {tmp_path}\n"
        f"{os.path.relpath(tmp_path / 'report.html')}\n"
    )


def test_a_table_is_never_torn(mine: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, folder = made_up(some_runs()), tmp_path / "drawn"
    present(mine, results, folder, PNG, expected=4)
    before = (folder / "score.csv").read_bytes()

    def killed(table: pd.DataFrame, path: Path, **options: Any) -> None:
        path.write_text("half a ta")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", killed)
    with pytest.raises(KeyboardInterrupt):
        present(mine, results, folder, PNG, expected=4)
    assert (folder / "score.csv").read_bytes() == before
