"""The benchmark's parts, on next to nothing: no time is checked, and neither JAX nor PyTorch is needed."""

import itertools
import runpy
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from bnrepro import benchmark
from bnrepro.benchmark import around, contest
from bnrepro.benchmark.charts import bars, growth_curves
from bnrepro.benchmark.contestants import ARMS, CONTESTANTS, Case, Contestant, Floor, LockStep, stand_in
from bnrepro.composition import complete, compose
from bnrepro.config import RunConfig, Settings
from bnrepro.datasets import IDX
from bnrepro.layers import Array
from bnrepro.sweeping import train_group

TINY = Case(64, "relu", "batch", runs=2, width=8, depth=2, batch=10)


def test_a_contest_has_a_row_for_each_and_the_ratio_to_the_floor_of_the_same_shape() -> None:
    other = replace(TINY, runs=1)
    entries = [("floor", TINY), ("bnrepro", TINY), ("bnrepro", replace(TINY, norm="none")), ("bnrepro", other)]
    table = contest.contest(entries, rounds=2)
    assert table["contestant"].tolist() == [name for name, _ in entries]
    assert (table[["low", "median", "high"]] > 0).all(axis=None)
    floor, batch, none, without_floor = table["ratio"]
    assert floor == 1
    np.testing.assert_allclose([batch, none], table["median"][1:3] / table["median"][0])
    assert np.isnan(without_floor)


def test_a_turn_is_timed_per_run_and_step_without_the_measurement_and_the_first_warms_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, turns = [0.0], iter([50.0, 3.0, 2.0, 4.0])

    class Slow(Contestant):
        def advance(self) -> None:
            now[0] += next(turns)

        def measure(self) -> Array:
            now[0] += 1000
            return np.ones(TINY.runs)

    monkeypatch.setattr("time.process_time", lambda: now[0])
    monkeypatch.setattr(Case, "steps", 5)
    monkeypatch.setitem(CONTESTANTS, "bnrepro", Slow)
    (row,) = contest.contest([("bnrepro", TINY)], rounds=3).to_dict("records")
    assert [row["low"], row["median"], row["high"]] == [seconds * 1e6 / (5 * TINY.runs) for seconds in (2.5, 3, 3.5)]


def test_a_rival_that_trains_the_same_is_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rival(Contestant):
        def __init__(self, case: Case) -> None:
            super().__init__(case)
            self.twin = LockStep(case)

        def advance(self) -> None:
            self.twin.turn()

        def measure(self) -> Array | None:
            return self.twin.losses

    monkeypatch.setitem(CONTESTANTS, "JAX", Rival)
    assert len(contest.contest([("bnrepro", TINY), ("JAX", TINY)], rounds=1)) == 2


def test_a_rival_that_trains_something_else_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Contestant):
        def advance(self) -> None:
            pass

        def measure(self) -> Array:
            return np.zeros(TINY.runs)

    monkeypatch.setitem(CONTESTANTS, "JAX", Other)
    with pytest.raises(RuntimeError, match=r"JAX and bnrepro train Case\(.*\) to different losses"):
        contest.contest([("bnrepro", TINY), ("JAX", TINY)], rounds=1)


def test_the_products_of_the_floor_are_those_of_the_network() -> None:
    floor = Floor(TINY)
    params, _ = TINY.network().init(np.random.default_rng(0), (1, 8, 8))
    assert [w.shape for w in floor.weights] == [(2, *p["W"].shape) for p in params.values() if "W" in p]
    assert [x.shape for x in floor.x] == [(1, 10, 64), (2, 10, 8), (2, 10, 8)]  # all runs see one mini-batch
    floor.turn()
    assert all(np.isfinite(a).all() for a in [*floor.y, *floor.dweights, *floor.dx[1:]])


def test_a_turn_is_timed_by_its_steps_and_not_by_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(TINY, norm="none")
    monkeypatch.setattr(Case, "steps", 4)
    contestant = LockStep(case)
    ticks = itertools.accumulate(itertools.count(1))  # 1, 3, 6, 10: each step takes longer than the one before
    monkeypatch.setattr("time.process_time", lambda: next(ticks))
    assert contestant.turn() == (10 - 1) / (3 * case.runs)
    assert contestant.turn() == (36 - 15) / (3 * case.runs)


def test_the_witness_tells_the_time_and_the_memory_of_its_process() -> None:
    overrides = ["train.steps=2", "train.measurements=2", f"diagnostics=[{around.WITNESS}]"]
    run = RunConfig.parse(Settings.parse(compose(overrides)).run)
    begin = time.time()
    (result,) = train_group([run], stand_in(64))
    told = [begin, *(row["unix_time"] for row in result.curves), time.time()]
    assert len(told) == 5
    assert told == sorted(told)
    peaks = [row["peak_memory"] for row in result.curves]
    here = psutil.Process().memory_info().rss / (1 << 20)
    assert 0.5 * here < peaks[0] <= peaks[-1] < 100 * here


def rows(contestant: str, cases: list[Case], **more: Any) -> list[dict[str, Any]]:
    return [asdict(c) | {"contestant": contestant, "median": 2.0, "low": 1.0, "high": 3.0} | more for c in cases]


def test_the_profile_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {arm: 3.0 + i for i, arm in enumerate(ARMS)}
    tiny = pd.DataFrame({"median": [1.0, *(1 + microseconds for microseconds in calls.values())]})
    monkeypatch.setattr(contest, "contest", lambda entries, rounds: tiny if len(list(entries)) == 5 else None)
    cases = [Case(64, *arm) for arm in ARMS]
    table = pd.DataFrame(rows("floor", cases[:1], median=10.0) + rows("bnrepro", cases, median=20.0))
    rivals = pd.DataFrame(rows("JAX", cases, median=16.0))
    found = contest.profile(1, pd.concat([table, rivals])).set_index(["activation", "norm"])
    assert found["calls"].to_dict() == calls
    assert (found["total"] == 20).all()
    assert (found[["products", "calls", "passes"]].sum(axis=1) == 20).all()
    assert (found["over JAX"] == 1.25).all()
    assert contest.profile(1, table)["over JAX"].isna().all()


def test_the_share_of_measuring_is_of_all_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("time.process_time", lambda: next(ticks))  # a step takes a tick, a measurement too
    run = RunConfig.parse(Settings.parse(compose(["train.steps=40", "train.measurements=4"])).run)
    assert run.train.measured_steps == [0, 1, 2, 3, 5, 7, 10, 20, 30, 40]
    assert contest.measuring_share(run, stand_in(64), turns=2) == 10 / (10 + 40)


def test_figures_are_drawn_of_those_who_took_part() -> None:
    cases = [Case(size, *arm) for size in (784, 64) for arm in ARMS]
    figure = bars(pd.DataFrame(rows("bnrepro", cases) + rows("floor", [cases[0], cases[4]])))
    assert [ax.get_title() for ax in figure.axes] == ["784 inputs", "64 inputs"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "matrix products alone",
        "bnrepro, 8 runs in lock-step",
    ]
    grown = [row for name in contest.GROWTH for row in rows("bnrepro", cases, dimension=name, ratio=4.0)]
    sizes = pd.DataFrame({"number": [10, 100], "median": [5.0, 2.0]})
    drawn = growth_curves(pd.DataFrame(grown), sizes).axes
    assert len(drawn) == 2 * len(contest.GROWTH) + 2
    assert all(ax.dataLim.y1 < ax.get_ylim()[1] for ax in drawn)


def test_the_stand_in_can_be_read_as_mnist(tmp_path: Path) -> None:
    data = stand_in(64)
    around.write_idx(tmp_path / "images", data)
    options: Any = {"mirrors": [], "sha256": None, "sha256_gz": None}
    read = IDX(name="mnist", binarize=True, root=str(tmp_path / "images"), **options).load()
    np.testing.assert_array_equal(read.train_images, data.train_images)
    np.testing.assert_array_equal(read.test_labels, data.test_labels)


@pytest.mark.parametrize(("given", "size"), [("+benchmark", "full"), ("+benchmark=quick", "quick")])
def test_the_command_runs_it(given: str, size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(benchmark, "benchmark", lambda s: called.append((s.results_dir, s.benchmark)))
    monkeypatch.setattr(sys, "argv", ["bnrepro", given, f"results_dir={tmp_path}"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    runpy.run_module("bnrepro", run_name="__main__")
    assert called == [(tmp_path, size)]


def test_it_is_off_by_default_and_has_two_sizes() -> None:
    assert Settings.parse(compose([])).benchmark is None
    assert complete(["+benchmark"]) == ["benchmark=full"]
    with pytest.raises(ValueError, match="benchmark=slow: must be 'full' or 'quick'"):
        Settings.parse(compose(["+benchmark=slow"]))


def test_whoever_does_not_draw_imports_nothing_to_draw_with() -> None:
    code = (
        "import sys, bnrepro.benchmark; own = {m for m in sys.modules if m.startswith('bnrepro.benchmark.')};"
        "from bnrepro.benchmark import witness; light = 'pandas' not in sys.modules;"
        "from bnrepro.benchmark import around, contest; print(own, light, 'matplotlib' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["set()", "True", "False"]


@pytest.mark.slow
def test_the_quick_benchmark_leaves_tables_and_figures(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bnrepro", "+benchmark=quick", f"results_dir={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    tables = {path.stem: pd.read_csv(path) for path in (tmp_path / "benchmark").glob("*.csv")}
    assert set(tables) == {"steps", "profile", "growth", "sweep_sizes", "around"}
    assert not any(table.drop(columns="over JAX", errors="ignore").isna().all().any() for table in tables.values())
    assert all((table["machine"].str.len() > 0).all() for table in tables.values())
    assert {path.name for path in (tmp_path / "benchmark").glob("*.png")} == {"steps.png", "growth.png"}
