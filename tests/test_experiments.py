"""What holds for every experiment, whatever it shows and whatever part of its sweep there is."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from made_up import WITHOUT_CLAIMS, made_up, runs_of
from matplotlib.figure import Figure

from bnrepro import analysis, figures
from bnrepro.analysis import Answer, Estimate, Tables
from bnrepro.composition import compose
from bnrepro.config import Figures, RunConfig, Settings
from bnrepro.diagnostics import DIAGNOSTICS
from bnrepro.errors import InputError
from bnrepro.experiment import PREDICTIONS, TABLE_OF, Experiment, import_experiment
from bnrepro.places import CONF, EXPERIMENTS, REFERENCE
from bnrepro.presenting import WIDTH, present
from bnrepro.reference import known, load_reference
from bnrepro.settings import flatten
from bnrepro.store import MEASURED, Results
from bnrepro.sweeping import expand

SWEEPS = sorted(path.stem for path in CONF.glob("sweep/*.yaml"))
MANY = 40
"""The number of runs above which a grid is made small."""
PNG = Figures(width=None, style=None, formats=["png"])


def experiment(name: str) -> Experiment:
    found = import_experiment(name)
    assert found
    return found


def norm(run: RunConfig) -> str:
    return str(getattr(run.model.value, "norm", "none"))


PARTS: dict[str, Callable[[list[RunConfig]], list[RunConfig]]] = {
    "all": lambda runs: runs,
    "one seed": lambda runs: [run for run in runs if run.seed == 0],
    "every other run": lambda runs: runs[::2],
    "the first run": lambda runs: runs[:1],
    "the last run": lambda runs: runs[-1:],
    "no batch norm": lambda runs: [run for run in runs if norm(run) == "none"] or runs[:1],
    "batch norm alone": lambda runs: [run for run in runs if norm(run) != "none"],
    "one value of each setting": lambda runs: [run for run in runs if run.seed == 0 and run.lr == runs[0].lr],
    "all diverged": lambda runs: runs,
}


@functools.cache
def few_of(name: str, *overrides: str) -> list[RunConfig]:
    """A sweep in small: of each grid two seeds; of a grid of many runs the first two values and the last of each."""
    settings, found = Settings.parse(compose([f"sweep={name}", *overrides])), dict[str, RunConfig]()
    for grid in settings.grids:
        runs = [(run, dict(flatten(run.to_dict()))) for run in expand(settings.run, grid)]
        for key in dict.fromkeys(key for _, of_run in runs for key in of_run):
            values = list(dict.fromkeys(str(of_run.get(key)) for _, of_run in runs))
            kept = values[:2] if key == "seed" else [*values[:2], values[-1]] if len(runs) > MANY else values
            runs = [(run, of_run) for run, of_run in runs if str(of_run.get(key)) in kept]
        found |= {run.run_id: run for run, _ in runs}
    return list(found.values())


@functools.cache
def results_of(name: str, part: str) -> Results:
    """All of a sweep, or a part of it in small; made up once, and so not to be changed."""
    runs = list(runs_of(name)) if part == "all" else PARTS[part](few_of(name))
    return made_up(runs, diverged=True if part == "all diverged" else None)


@functools.cache
def tables_of(name: str, part: str) -> Tables:
    return experiment(name).analyse(results_of(name, part))


def copies(tables: Tables) -> Tables:
    return {name: table.copy() for name, table in tables.items()}


def contents(results: Results) -> Tables:
    return {name: results.table(name).copy() for name in ("runs", *MEASURED)}


def assert_equal(one: Tables, other: Tables) -> None:
    assert list(one) == list(other)
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, other[name], check_exact=True)


every_experiment = pytest.mark.parametrize("name", SWEEPS)
every_part = pytest.mark.parametrize("part", PARTS)
every_small_part = pytest.mark.parametrize("part", [part for part in PARTS if part != "all"])


def test_every_sweep_has_its_experiment_and_the_other_way_round() -> None:
    assert {path.stem for path in EXPERIMENTS.glob("*.py")} == {
        *SWEEPS,
        "wrong_layers",
        "norms",
        "rules",
        "scale_invariance",
        "generalization",
        "exercises",
    }


@every_experiment
@every_part
def test_any_part_of_a_sweep_becomes_numbers(name: str, part: str) -> None:
    results = results_of(name, part)
    before = contents(results)
    tables = tables_of(name, part)
    assert_equal(contents(results), before)
    assert any("quantity" in table.index.names for table in tables.values())  # something to read
    for table in tables.values():
        assert tuple(table.columns) == Estimate._fields
        assert all(kind.kind in "fi" for kind in table.dtypes)
        assert not table.index.duplicated().any()


def drawn_with_labelled_axes(name: str, part: str) -> dict[str, Figure]:
    """The figures, which have labels and legends, and of which none changes the tables."""
    before = copies(tables_of(name, part))
    with figures.look():
        drawn = experiment(name).draw(tables_of(name, part))
    assert_equal(before, tables_of(name, part))
    for figure in drawn.values():
        for axis in "xy":
            labels = [getattr(ax, f"get_{axis}label")() for ax in figure.axes]
            assert any(labels) or getattr(figure, f"get_sup{axis}label")()
        assert figure.legends  # outside of the panels
    return drawn


@every_experiment
@every_small_part
def test_any_part_of_a_sweep_is_drawn_with_labelled_axes(name: str, part: str) -> None:
    drawn_with_labelled_axes(name, part)


@every_experiment
@every_part
def test_any_part_of_a_sweep_has_a_verdict(name: str, part: str) -> None:
    for claim in experiment(name).claims:
        findings = claim.findings(tables_of(name, part))
        assert len({finding.of for finding in findings}) == len(findings)
        answer = analysis.judge(findings)
        assert answer in get_args(Answer)
        if part in ("one seed", "the first run", "the last run", "one value of each setting"):
            assert answer == "can't be told from these runs", claim.id


@every_experiment
def test_claims_are_sentences_of_which_a_figure_is_drawn_from_the_whole_sweep(name: str) -> None:
    claims = experiment(name).claims
    assert bool(claims) == (name not in WITHOUT_CLAIMS)
    drawn = drawn_with_labelled_axes(name, "all")
    for claim in claims:
        for sentence in (claim.sentence, claim.criterion):
            assert re.fullmatch(r"[A-Z‖].*[\w%)]\.", sentence), sentence
        assert claim.section
        assert claim.figure in drawn
        assert claim.findings(tables_of(name, "all"))


@every_experiment
def test_nothing_is_pooled(name: str) -> None:
    shown = experiment(name)
    overrides = [["train.dtype=float32"], ["train.dtype=float64"]]
    runs = [[run for run in few_of(name, *each) if run.seed == 0] for each in overrides]
    both = made_up([run for each in runs for run in each])
    if analysis.is_among("train.dtype", shown.arms):
        assert [facet for facet, _ in analysis.facets(both, shown.arms)] == [{}]
        return
    with pytest.raises(InputError, match=r"more than one run of"):
        shown.analyse(both)
    parts = list(analysis.facets(both, shown.arms))
    assert [facet for facet, _ in parts] == [{"train.dtype": "float32"}, {"train.dtype": "float64"}]
    for (_, part), each in zip(parts, runs, strict=True):
        assert_equal(shown.analyse(part), shown.analyse(made_up(each)))


@every_experiment
def test_what_is_read_is_what_is_declared(name: str) -> None:
    shown, results = experiment(name), results_of(name, "one seed")
    declared = []
    for level, table in TABLE_OF.items():
        measured = results.table(table)
        declared.append(measured[["run_id", *MEASURED[table], *(c for c in shown.columns(level) if c in measured)]])
    if PREDICTIONS in shown.needs:
        declared.append(results.table(PREDICTIONS))
    assert_equal(shown.analyse(Results(results.runs, *declared)), tables_of(name, "one seed"))


@every_experiment
def test_the_sweep_measures_what_is_needed_and_no_less_will_do(name: str) -> None:
    shown, runs = experiment(name), runs_of(name)
    shown.check(name, runs)
    needed = {n for n, d in DIAGNOSTICS.items() for c in d.columns if f"{c.level}.{c.name}" in shown.needs}
    few = few_of(name, f"diagnostics=[{','.join(sorted(needed))}]")
    shown.check(name, few)
    tables = shown.analyse(made_up(few))
    for claim in shown.claims:
        claim.findings(tables)
    with figures.look():
        shown.draw(tables)
    for missing in needed:
        with pytest.raises(InputError, match=rf"^diagnostics=\[.*\]: {name} needs {missing} among them$"):
            shown.check(name, runs_of(name, f"diagnostics=[{','.join(sorted(needed - {missing}))}]"))


@every_experiment
def test_the_same_results_make_the_same_bytes(name: str, tmp_path: Path) -> None:
    results = results_of(name, "one seed")
    (tmp_path / "coarse.mplstyle").write_text("savefig.dpi: 40")
    coarse = dataclasses.replace(PNG, style=str(tmp_path / "coarse.mplstyle"))
    for folder in ("a", "b"):
        told = present(experiment(name), results, tmp_path / folder, coarse, expected=len(results.runs)).told
        assert ("\nverdict: can't be told from these runs\n" in told) == (name not in WITHOUT_CLAIMS)
        assert max(len(line) for line in told.splitlines() if "/" not in line) <= 100
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert {path.suffix for path in names} == {".png", ".csv", ".xz", *([] if name in WITHOUT_CLAIMS else [".json"])}
    for path in names:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


@pytest.mark.parametrize("name", known())
def test_the_committed_tables_and_verdict_are_those_of_the_committed_data(name: str, tmp_path: Path) -> None:
    results = load_reference(name)
    shown = dataclasses.replace(experiment(name), draw=lambda tables: {})
    told = present(shown, results, tmp_path, PNG, expected=len(results.runs)).told
    assert max(map(len, told.splitlines())) <= WIDTH
    written = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir() if path.is_file()}
    assert "verdict.json" in written
    for file, text in written.items():
        assert text == (REFERENCE / name / file).read_text("utf-8"), file
