"""Choices that the paper leaves open, one at a time: their table by hand, and their figure of a small sweep."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from runs import dataframes, part_of

from bnrepro.composition import compose
from bnrepro.config import Inline, Settings
from bnrepro.experiment import import_experiment
from bnrepro.figures import look
from bnrepro.store import Results, Store
from bnrepro.sweeping import Progress, expand, run_all

nan = float("nan")


def the_experiment() -> ModuleType:
    module = import_experiment("unstated")
    assert module is not None
    return module


unstated = the_experiment()


# The table by hand


def run(norm: str, seed: int, final: float, to_target: int | None, **settings: Any) -> dict[str, Any]:
    eps = {"model.norm_options.eps": nan if norm == "none" else 1e-5}
    return {"norm": norm, "seed": seed, "final": final, "reached": to_target, "optimizer.name": "sgd"} | eps | settings


def results_of(runs: list[dict[str, Any]]) -> Results:
    rows, curves = [], []
    for number, given in enumerate(map(dict, runs)):
        final, reached = given.pop("final"), given.pop("reached")
        status = {"status": "diverged" if final != final else "done", "diverged_at": 7 if final != final else nan}
        rows.append({"run_id": str(number), "lr": 0.1, "steps": 100, "test_accuracy": final} | status | given)
        curves += [{"run_id": str(number), "step": step, "test_accuracy": 0.1} for step in (0, 100)]
        if reached is not None:
            curves.append({"run_id": str(number), "step": reached, "test_accuracy": 0.9})
    return Results(pd.DataFrame(rows), pd.DataFrame(curves), layers=pd.DataFrame(), units=pd.DataFrame())


BASE = [
    run("none", 0, 0.90, 40),
    run("none", 1, 0.92, 80),
    run("batch", 0, 0.95, 10),
    run("batch", 1, 0.94, 40),
]
CHANGED = {"optimizer.name": "momentum", "lr": 0.01}


def test_the_score_of_the_base() -> None:
    assert unstated.score(results_of(BASE)).to_dict("index") == {
        "base": {
            "accuracy without batch norm": "91.0 (90.0 to 92.0)",
            "accuracy with batch norm": "94.5 (94.0 to 95.0)",
            "speed-up": "2.8 (2 to 4)",  # √(4 · 2)
            "gain": "+3.50 (+2.00 to +5.00)",
        }
    }


@pytest.fixture
def changed() -> pd.DataFrame:
    """The base with an optimiser that fails plain networks, and with another ε."""
    momentum = [run("none", 0, nan, None, **CHANGED), run("none", 1, 0.8, None, **CHANGED)]
    momentum += [run("batch", 0, 0.96, 5, **CHANGED), run("batch", 1, 0.96, None, **CHANGED)]
    eps = [run("batch", seed, 0.93, 20, **{"model.norm_options.eps": 1e-3}) for seed in (0, 1)]
    table: pd.DataFrame = unstated.score(results_of(BASE + momentum + eps))
    return table


def test_a_choice_is_named_by_what_differs_from_most_runs(changed: pd.DataFrame) -> None:
    assert changed.index.tolist() == ["base", "eps 0.001", "lr 0.01, optimizer momentum"]


def test_a_choice_of_batch_norm_alone_is_compared_with_the_plain_base(changed: pd.DataFrame) -> None:
    row = changed.loc["eps 0.001"]
    assert row["accuracy without batch norm"] == changed.loc["base", "accuracy without batch norm"]
    assert row["gain"] == "+2.00 (+1.00 to +3.00)"
    assert row["speed-up"] == "2.8 (2 to 4)"


def test_a_target_that_is_never_reached_is_said_and_a_diverged_run_counts_as_0(changed: pd.DataFrame) -> None:
    row = changed.loc["lr 0.01, optimizer momentum"]
    assert row["accuracy without batch norm"] == "40.0 (0.0 to 80.0)"
    assert row["speed-up"] == "plain: 2 of 2 never, normalised: 1 of 2 never"


# The sweep itself, small


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Results:
    small = ["model.hidden=[6,5]", "train.steps=20", "train.measurements=4", "sweep.grid.seed=[0,1]"]
    composed = Settings.parse(compose(["+sweep=unstated", *small]))
    runs = expand(composed.run, *composed.grids)
    store = Store(tmp_path_factory.mktemp("sweep"), create=True)
    run_all(runs, store, Inline(group_size=None), Progress(len(runs)))
    return store.load(runs)


def test_each_choice_of_the_sweep_is_one_of_the_table(trained: Results) -> None:
    assert unstated.score(trained).index.tolist() == [
        "base",
        "binarize False",
        "eps 0.001",
        "eps 1e-08",
        "inference population",
        "lr 0.01, optimizer adagrad",
        "lr 0.01, optimizer momentum",
    ]


@pytest.mark.parametrize("condition", ["seed >= 0", "seed == 0", "norm == 'batch'", "norm == 'none'", "index == 0"])
def test_any_part_of_the_sweep_can_be_shown(trained: Results, condition: str) -> None:
    """Without a warning, which would be an error here."""
    results = part_of(trained, condition)
    before = [table.copy() for table in dataframes(results)]
    table = unstated.score(results)
    with look():
        (figure,) = unstated.figures(results).values()
        figure.draw_without_rendering()
    assert [ax.get_title() for ax in figure.axes] == table.index.tolist()
    for table, old in zip(dataframes(results), before, strict=True):
        pd.testing.assert_frame_equal(table, old)


def test_the_legend_says_where_runs_diverged(tmp_path: Path) -> None:
    with look():
        (figure,) = unstated.figures(results_of([run("none", 0, nan, None), run("batch", 0, 0.9, 10)])).values()
        figure.savefig(tmp_path / "figure.png")
    (legend,) = figure.legends
    assert "diverged" in [text.get_text() for text in legend.get_texts()]


def test_reference_data_show_the_same(trained: Results) -> None:
    reference = unstated.drawn_from(trained)
    pd.testing.assert_frame_equal(unstated.score(reference), unstated.score(trained))
    assert list(reference.table("curves")) == ["run_id", "step", "test_accuracy"]
