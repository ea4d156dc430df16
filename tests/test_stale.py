"""Which reference data are stale, and how a verification shows that they are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from calls import Ended, assert_one_line
from made_up import MINE, WITHOUT_CLAIMS, made_up, runs_of, write_experiment
from runs import a_run

from bnrepro import places, stale, sweeping
from bnrepro.config import Inline, RunConfig
from bnrepro.errors import InputError
from bnrepro.experiment import import_experiment
from bnrepro.places import CHECKOUT, CONF
from bnrepro.provenance import environment
from bnrepro.reference import digests, keep, known, read_table, settings, write_tables
from bnrepro.stale import CURRENT, STALE, VERIFIED, full_scale, standing, verify_reference
from bnrepro.store import Results, RunResult, Store
from bnrepro.sweeping import Progress, expand, run_all
from bnrepro.verify import recognise

HERE = Inline(group_size=None)
DIGITS: dict[str, Any] = {"name": "digits"}

# What the data say of themselves


@pytest.mark.parametrize("name", sorted(full_scale()))
def test_the_settings_of_every_run_are_read_back_from_the_table(name: str, tmp_path: Path) -> None:
    runs = runs_of(name, *full_scale()[name])
    some = runs[:: max(1, len(runs) // 60)]
    write_tables(made_up(some), tmp_path)
    found, left_out = recognise(settings(read_table(tmp_path, "runs")))
    assert not left_out
    assert sorted((run.run_id, code) for run, code in found) == sorted((run.run_id, run.code) for run in some)


def test_samples_that_are_spread_evenly_are_of_other_cells_and_seeds(tmp_path: Path) -> None:
    runs = runs_of("batch_size")
    write_tables(made_up(runs), tmp_path)
    ordered = [found for *_, found in settings(read_table(tmp_path, "runs"))]
    sample = [ordered[i * len(ordered) // 8] for i in range(8)]
    cells = {(each["model"]["norm"], each["train"]["batch_size"], each["model"]["activation"]) for each in sample}
    assert len(cells) == 8
    assert len({each["seed"] for each in sample}) > 2


def a_result(**fields: Any) -> RunResult:
    result = RunResult(a_run(), test_accuracy=0.5, **fields)
    result.curves = [{"step": step, "train_loss": 0.25 + step, "test_accuracy": 0.5} for step in (0, 5)]
    result.layers = [{"step": 0, "layer": n, "p50": -0.5} for n in (1, 2)]
    result.units = [{"step": 0, "unit": 3, "p50": math.nan}, {"step": 0, "unit": 4, "p50": 0.0}]
    result.predictions = [{"probabilities": b"01", "labels": b"2"}]
    return result


def digest_of(folder: Path, *results: RunResult) -> str:
    store = Store(folder, create=True)
    store.add(results)
    found = digests(store.load([results[0].config]))
    return found[results[0].config.run_id]


def change(table: str, row: int, column: str, value: Any) -> Callable[[RunResult], object]:
    return lambda result: getattr(result, table)[row].update({column: value})


@pytest.mark.parametrize(
    "changed",
    [
        lambda result: setattr(result, "test_accuracy", np.nextafter(0.5, 1)),
        lambda result: setattr(result, "status", "diverged"),
        lambda result: setattr(result, "diverged_at", 3),
        lambda result: setattr(result, "validation_accuracy", 0.5),
        change("curves", 0, "train_loss", np.nextafter(0.25, 1)),
        change("curves", 1, "step", 6),
        change("curves", 1, "gradient_norm", 1.0),
        change("layers", 1, "p50", 0.5),
        change("units", 0, "p50", 0.0),
        change("predictions", 0, "labels", b"3"),
        lambda result: result.units.pop(),
    ],
)
def test_a_digest_is_of_every_bit_that_was_measured(tmp_path: Path, changed: Callable[[RunResult], object]) -> None:
    other = a_result()
    changed(other)
    assert digest_of(tmp_path / "a", a_result()) != digest_of(tmp_path / "b", other)


def test_a_digest_is_of_nothing_else(tmp_path: Path) -> None:
    """Neither of how long it took, the order in which rows came, nor what was measured of other runs."""
    alone = digest_of(tmp_path / "a", a_result())
    same = a_result(seconds=3.0, finished="2026", provenance={"cpu": "other"})
    same.layers.reverse()
    beside = RunResult(
        a_run({"seed": 1}), curves=[{"step": 0, "landscape": 1.0}], layers=[{"step": 0, "layer": 1, "x": 1.0}]
    )
    assert digest_of(tmp_path / "b", same, beside) == alone == "4e0ff37eeb0f69bd"


# Standing


GRID = {"model": {"norm": ["none", "batch"]}, "optimizer": {"lr": [0.1]}, "seed": [0, 1]}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the reference data of a sweep, ``mine``, of four runs that were truly trained."""
    script = write_experiment(tmp_path, MINE.replace('"run.test_accuracy"', '"run.train_loss"'))
    monkeypatch.setattr(places, "EXPERIMENTS", script.parent)
    monkeypatch.setattr(places, "REFERENCE", tmp_path / "reference")
    runs = expand(a_run().to_dict() | {"dataset": {"name": "digits", "binarize": False}}, GRID)
    monkeypatch.setattr(stale, "full_scale", lambda: {"mine": []})
    monkeypatch.setattr(stale, "_asked_for", lambda name: runs)
    store = Store(tmp_path / "store", create=True)
    run_all(runs, store, HERE, Progress(len(runs)))
    experiment = import_experiment("mine")
    assert experiment
    write_tables(keep(experiment, store.load(runs)), tmp_path / "reference" / "mine")
    return tmp_path / "reference" / "mine"


def rewrite(folder: Path, **columns: Any) -> None:
    """Change columns of table ``runs``."""
    none = pd.DataFrame({"run_id": []})
    runs = (
        read_table(folder, "runs").assign(**columns).drop(columns=[c for c, value in columns.items() if value is None])
    )
    write_tables(Results(runs, none, none, none), folder)


def test_reference_data_of_the_code_in_place_are_current(mine: Path) -> None:
    assert standing("mine") == (CURRENT, "")


def test_reference_data_of_other_code_are_stale_until_they_are_verified(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(mine, code="other")
    assert standing("mine") == (STALE, "computed by other code (other)")
    assert verify_reference("mine", 2, HERE, DIGITS)
    out = capsys.readouterr().out
    assert "2 of 2 runs are equal, bit for bit\n" in out
    kept = pd.read_csv(mine / "verified.csv", dtype=str)
    assert kept[["code", "of", "runs", "cpu"]].to_numpy().tolist() == [
        [a_run().code, "other", "2", environment()["cpu"]]
    ]
    told = f"2 runs verified {kept['date'][0]} on {environment()['cpu']}"
    assert standing("mine") == (VERIFIED, told)
    assert out.endswith(f"reference/mine is verified: {told}.\n")
    assert verify_reference("mine", 4, HERE, DIGITS)
    assert pd.read_csv(mine / "verified.csv")["runs"].tolist() == [4]  # in place of what it was
    rewrite(mine, code="another")
    assert standing("mine").state == STALE


def test_a_digest_that_differs_is_no_verification(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = read_table(mine, "runs")["digest"]
    rewrite(mine, digest=["0" * 16, *digest[1:]])
    assert not verify_reference("mine", 4, HERE, DIGITS)
    out = capsys.readouterr().out
    assert "3 of 4 runs are equal, bit for bit\n" in out
    assert not (mine / "verified.csv").exists()
    rewrite(mine, digest="0" * 16, blas_kernel="Other")  # where the first steps are judged, which are the same
    assert verify_reference("mine", 2, HERE, DIGITS)
    assert capsys.readouterr().out.count("within tolerance") == 2
    assert not (mine / "verified.csv").exists()


def test_reference_data_without_digests_are_not_verified(mine: Path) -> None:
    rewrite(mine, digest=None)
    with pytest.raises(InputError, match=r"^reference/mine: of code that kept no digests, so nothing to verify$"):
        verify_reference("mine", 2, HERE, DIGITS)


def test_reference_data_of_a_sweep_that_has_grown_are_stale(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = [*stale._asked_for("mine"), a_run({"seed": 7})]
    monkeypatch.setattr(stale, "_asked_for", lambda name: more)
    assert standing("mine") == (STALE, "1 of the runs of its sweep are missing")


@pytest.mark.parametrize("lost", [{"steps": 21}, {"model.init.scheme": "no such"}])
def test_reference_data_whose_runs_are_others_here_are_stale(mine: Path, lost: dict[str, Any]) -> None:
    rewrite(mine, **lost)
    assert standing("mine") == (STALE, "computed by other code (not known)")


# The page


def test_the_page_says_what_the_data_say(tmp_path: Path) -> None:
    assert CHECKOUT
    page = tmp_path / "results" / "reference" / "README.md"
    page.parent.mkdir(parents=True)
    page.write_bytes((CHECKOUT / "results" / "reference" / "README.md").read_bytes())
    assert [*stale.write_table(tmp_path, stale.standings())] == [page]
    assert page.read_text("utf-8") == (CHECKOUT / "results" / "reference" / "README.md").read_text("utf-8"), (
        "a reference has become stale, or was made anew: python -m bnrepro +claims writes the page"
    )


def test_every_sweep_has_its_full_scale() -> None:
    assert {*full_scale()} == {path.stem for path in CONF.glob("sweep/*.yaml")} - WITHOUT_CLAIMS
    for name, overrides in full_scale().items():
        assert runs_of(name, *overrides)


def test_what_is_not_known_of_runs_is_not_told() -> None:
    runs = pd.DataFrame({"dataset": ["mnist"] * 2, "steps": [5, 10], "seconds": [3000.0, 4000.0]})
    assert stale.describe(runs) == {
        "runs": "2 of 5 to 10 steps, mnist",
        "time": "1 h 57 min",
        "engine": "numpy",
        "machine": "CPU not known",
        "date": "not known",
    }
    known_ = {
        "train.engine": "compiled",
        "cpu": "EPYC",
        "blas_kernel": "Zen",
        "finished": ["2026-11-28T01", "2026-11-30"],
    }
    found = stale.describe(runs.assign(**known_))
    assert (found["engine"], found["machine"]) == ("compiled", "EPYC, kernel Zen")
    assert found["date"] == "2026-11-28 to 2026-11-30"


# +reference


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, list[str]]:
    """Full scales that are small, and a place for reference data."""
    tiny = ["model.hidden=[8]", "train.steps=5", "train.measurements=2", "sweep.grid.seed=[0]"]
    few = [*tiny, "sweep.grid.optimizer.lr=[0.1]"]
    scales = {"learning_rates": few, "initialization": few}
    monkeypatch.setattr(stale, "full_scale", lambda: scales)
    monkeypatch.setattr(places, "REFERENCE", tmp_path / "reference")
    monkeypatch.setattr(places, "CHECKOUT", tmp_path)
    for page in ("README.md", "results/reference/README.md"):
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(f"{stale.BEGIN}\n{stale.END}\n")
    return scales


AROUND = ("compute=inline", "figures.formats=[png]")


@pytest.mark.usefixtures("blank_figures")
def test_one_command_makes_all_reference_data_and_trains_what_is_missing(
    call: Callable[..., Ended],
    small: dict[str, list[str]],
    tmp_path: Path,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    planned = call("+reference", *AROUND, "sweep.dry_run=true")
    assert (planned.status, trained) == (0, [])
    assert [line.split()[:3] for line in planned.out.splitlines()[1:3]] == [
        ["learning_rates", "4", "4"],
        ["initialization", "24", "24"],
    ]
    assert not (tmp_path / "reference").exists()
    first = call("+reference=learning_rates", *AROUND)
    assert (first.status, len(trained)) == (0, 4)
    assert {"runs.csv.xz", "score.csv", "verdict.json"} <= {
        p.name for p in (tmp_path / "reference/learning_rates").iterdir()
    }
    assert (
        "| `learning_rates` | `python -m bnrepro +sweep=learning_rates "
        in (tmp_path / "results/reference/README.md").read_text()
    )

    whole = sweeping.train_group

    def fail(runs: Sequence[RunConfig], *rest: Any) -> list[RunResult]:
        return [RunResult(run, status="failed", error="MemoryError: too much") for run in runs]

    monkeypatch.setattr(sweeping, "train_group", fail)
    failed = call("+reference", *AROUND)
    assert failed.status == 1
    assert failed.err.endswith("bnrepro: not made, of which the reason stands above: initialization\n")
    assert known() == ["learning_rates"]
    monkeypatch.setattr(sweeping, "train_group", whole)
    trained.clear()
    assert call("+reference", *AROUND).status == 0
    assert len(trained) == 24  # the failed ones alone
    assert known() == ["initialization", "learning_rates"]
    assert set(read_table(tmp_path / "reference" / "initialization", "runs")["finished"].str[:2]) == {"20"}


def test_a_sweep_that_can_not_be_trained_is_told_and_the_others_go_on(
    call: Callable[..., Ended], small: dict[str, list[str]], trained: list[str]
) -> None:
    small |= {"learning_rates": [*small["learning_rates"], "dataset=mnist"]}
    ended = call("+reference", *AROUND, "reference.root=nowhere")
    assert ended.status == 1
    assert "bnrepro: dataset.root=nowhere: no such folder" in ended.err
    assert len(trained) == 24


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["+reference=nothing"], r"reference\.sweeps=nothing: must be all or some of learning_rates, initialization"),
        (
            ["+reference", "reference.root=F"],
            r"reference\.root=F: has no effect, since none of these sweeps reads files",
        ),
        (["+reference", "train.steps=3"], r"train\.steps=3: has no effect on \+reference"),
        (["+reference", "sweep.force=true"], r"sweep\.force=true: has no effect on \+reference"),
        (["+reference", "+sweep"], r"reference\.sweeps=\[\"all\"\]: not together with sweep=learning_rates"),
        (["+reference", "+claims"], r"reference\.sweeps=\[\"all\"\]: not together with claims=true"),
        (["+sweep", "reference.root=F"], r"reference\.root=F: only with \+reference"),
    ],
)
def test_what_has_no_effect_on_reference_data_is_refused(
    call: Callable[..., Ended], arguments: list[str], told: str
) -> None:
    assert_one_line(call(*arguments), told)


def test_the_files_of_each_data_set_may_lie_in_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bnrepro.commands import _at_full_scale
    from bnrepro.composition import compose
    from bnrepro.config import Settings

    (tmp_path / "mnist").mkdir()
    given = Settings.parse(compose(["+reference", f"reference.root={tmp_path}"]))
    for data, root in (("mnist", tmp_path / "mnist"), ("cifar10", tmp_path)):
        found = _at_full_scale("learning_rates", [f"dataset={data}"], given)
        assert found.run["dataset"]["root"] == str(root)
    assert "root" not in _at_full_scale("learning_rates", [], given).run["dataset"]
