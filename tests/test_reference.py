"""Reference data: tables of text, made of stored runs and shown again."""

import lzma
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from calls import assert_one_line
from made_up import MINE, an_outcome, write_experiment

from bnrepro import places
from bnrepro.commands import redraw
from bnrepro.composition import compose
from bnrepro.config import Settings
from bnrepro.errors import InputError
from bnrepro.places import REFERENCE
from bnrepro.reference import make_reference, read_tables, write_tables
from bnrepro.store import Results, Store
from bnrepro.sweeping import expand


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
        layers=pd.DataFrame({"run_id": [], "step": [], "layer": []}),
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


def test_measures_have_five_significant_digits_and_those_of_layers_and_units_four(tmp_path: Path) -> None:
    results, measure = some_results(), 0.0123456
    layers = pd.DataFrame({"run_id": ["0123456789012345"], "step": [0], "layer": [1], "drift": [measure]})
    curves, units = results.curves.assign(train_loss=measure), results.units.assign(p50=measure)
    write_tables(Results(results.runs, curves, layers, units), tmp_path)
    again = read_tables(tmp_path)
    assert again.curves["train_loss"].tolist() == [0.012346] * 2
    assert (again.layers["drift"].item(), again.units["p50"].item()) == (0.01235, 0.01235)


def test_predictions_come_back_with_three_decimals(tmp_path: Path) -> None:
    results, labels = some_results(), np.array([0, 2], np.uint8)
    probabilities = np.array([[0.12345, 0.8771, 4e-4], [6e-4, 0, 1]], np.float16)
    row = {"run_id": ["0123456789012345"], "probabilities": [probabilities.tobytes()], "labels": [labels.tobytes()]}
    measured = (results.curves, results.layers, results.units)
    write_tables(Results(results.runs, *measured, pd.DataFrame(row)), tmp_path)
    (found,) = read_tables(tmp_path).predictions.values()
    expected = np.array([[0.123, 0.877, 0], [0.001, 0, 1]], np.float16)
    np.testing.assert_array_equal(found.probabilities, expected)
    np.testing.assert_array_equal(found.labels, labels)


def test_settings_are_written_with_the_runs_alone(tmp_path: Path) -> None:
    results = some_results()
    curves = results.curves.assign(seed=0)  # as what an experiment has chosen of it may have
    assert not {*results.varying}.isdisjoint(results.curves)
    write_tables(Results(results.runs, curves, results.layers, results.units), tmp_path)
    written = lzma.decompress((tmp_path / "curves.csv.xz").read_bytes()).decode()
    columns = [line.partition(",")[0] for line in written.splitlines()]
    assert columns == [*results.table("curves")]
    assert {*columns}.isdisjoint({"seed", *results.varying})


def test_reference_data_are_the_same_bytes_every_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_tables(some_results(), tmp_path / folder)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_runs_in_float64_keep_all_digits(tmp_path: Path) -> None:
    """By which they differ from others."""
    results = some_results()
    for dtype, equal in (("float32", False), ("float64", True)):
        curves = results.curves.assign(train_loss=1 + 1e-15)
        write_tables(
            Results(results.runs.assign(**{"train.dtype": dtype}), curves, results.layers, results.units), tmp_path
        )
        assert bool((read_tables(tmp_path).curves["train_loss"] == 1 + 1e-15).all()) == equal


def test_the_reference_is_at_most_12_mb() -> None:
    committed = [
        path for path in REFERENCE.rglob("*") if path.suffix not in (".svg", ".pdf") and path.parent.name != "drawn"
    ]
    assert sum(path.stat().st_size for path in committed) < 12e6


def test_a_script_makes_the_reference_which_is_shown_by_its_name(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = write_experiment(tmp_path, MINE, "learning_rates")
    monkeypatch.setattr(places, "EXPERIMENTS", script.parent)
    monkeypatch.setattr(places, "REFERENCE", tmp_path / "reference")
    few = ["sweep.grid.seed=[0,1]", "sweep.grid.optimizer.lr=[0.1]", "model.norm=none", "model.activation=relu"]
    few += ["train.steps=1000", "figures.formats=[png]", "sweep.refine.key=null"]
    parsed = Settings.parse(compose(["+sweep=learning_rates", *few]))
    runs = expand(parsed.run, *parsed.grids)
    store = Store(here / "results" / "learning_rates", create=True)
    store.add(map(an_outcome, runs))

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["learning_rates.py", *arguments])
        redraw(str(script))
        return capsys.readouterr().out

    made = run("--reference", *few)
    reference = tmp_path / "reference" / "learning_rates"
    assert {path.name for path in reference.iterdir()} == {
        "mine.png", "score.csv", "verdict.json", "drawn", "runs.csv.xz", "curves.csv.xz", "layers.csv.xz"
    }  # fmt: skip
    kept = read_tables(reference)
    curves = kept.table("curves")
    assert [*curves] == ["run_id", "step", "test_accuracy", "train_loss", "gradient_norm"]  # what is needed, or judged
    assert curves["test_accuracy"].notna().all()
    assert curves.loc[curves["train_loss"].notna(), "step"].unique().tolist() == [0, 1]
    assert [*kept.table("layers")] == ["run_id", "step", "layer", "p50"]  # and what is used
    assert kept.units.empty
    before = {path.name: path.read_bytes() for path in reference.glob("*.*")}
    assert run("sweep.show=reference", "figures.formats=[png]").splitlines()[:8] == made.splitlines()[2:10]
    assert {path.name: path.read_bytes() for path in reference.glob("*.*")} == before


def test_a_part_of_a_sweep_is_no_reference(here: Path, monkeypatch: pytest.MonkeyPatch, call: object) -> None:
    settings = Settings.parse(compose(["+sweep=batch_size"]))
    Store(here / "results" / "batch_size", create=True).add(map(an_outcome, expand(settings.run, *settings.grids)[:3]))
    script = places.EXPERIMENTS / "batch_size.py"
    assert_one_line(call("--reference", script=script), r"77 of 80 runs are not in results/batch_size; to train them: ")  # type: ignore[operator]


def test_an_installed_wheel_makes_no_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "CHECKOUT", None)
    figures = Settings.parse(compose([])).figures
    with pytest.raises(InputError, match=r"^--reference: only in a checkout of bnrepro"):
        make_reference("learning_rates", [], tmp_path, figures)
