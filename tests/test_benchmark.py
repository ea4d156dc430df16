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
from bnrepro.benchmark import around, contest, limits
from bnrepro.benchmark.charts import bars, growth_curves
from bnrepro.benchmark.contestants import (
    ARMS,
    CONTESTANTS,
    IMAGES,
    RIVALS,
    Case,
    Contestant,
    Floor,
    Ours,
    stand_in,
    takes_part,
)
from bnrepro.composition import complete, compose
from bnrepro.config import RunConfig, Settings
from bnrepro.datasets import IDX
from bnrepro.layers import Array
from bnrepro.store import RunResult
from bnrepro.sweeping import train_group
from bnrepro.training import Measurement

TINY = Case(64, "dense", "relu", "batch", runs=2, width=8, depth=2, batch=10)
SMALL = (1, 8, 8)


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
            self.twin = Ours(case)

        def advance(self) -> None:
            self.twin.turn()

        def measure(self) -> Array | None:
            return self.twin.losses

    monkeypatch.setitem(CONTESTANTS, "JAX", Rival)
    assert len(contest.contest([("bnrepro", TINY), ("JAX", TINY)], rounds=1)) == 2


def test_a_single_run_may_part_where_a_relu_is_at_0(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rival(Ours):
        def turn(self) -> float:
            seconds = super().turn()
            assert self.losses is not None
            self.losses[:parted] *= 2
            return seconds

    monkeypatch.setitem(CONTESTANTS, "JAX", Rival)
    case = replace(TINY, runs=3)
    parted = 1
    contest.contest([("bnrepro", case), ("JAX", case)], rounds=1)
    parted = 2
    with pytest.raises(RuntimeError, match="to different losses"):
        contest.contest([("bnrepro", case), ("JAX", case)], rounds=1)


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


def test_what_is_measured_after_a_turn_is_taken_off_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Case, "steps", 4)
    contestant = Ours(TINY)
    ticks = iter([0, 10, 13, 100, 120, 124])  # a turn and a measurement end at the second, another at the third
    monkeypatch.setattr("time.process_time", lambda: next(ticks))
    assert contestant.turn() == (10 - 3) / (4 * TINY.runs)
    assert contestant.measuring == 3
    assert contestant.turn() == (20 - 4) / (4 * TINY.runs)


def test_a_turn_has_its_steps_and_two_measurements() -> None:
    contestant = Ours(TINY)
    contestant.turn()
    after = next(contestant.events), next(contestant.events)
    assert [event.step for event in after if isinstance(event, Measurement)] == [2 * TINY.steps] * 2


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), SMALL])
def test_dense_images_have_as_many_ones_as_zeros(shape: tuple[int, int, int]) -> None:
    data = stand_in(shape, "dense")
    assert data.image_shape == shape
    assert data.train_images.mean() == pytest.approx(0.5, abs=0.03)


def test_sparse_images_have_the_ones_of_mnist() -> None:
    images = stand_in((1, 28, 28), "sparse").train_images.reshape(-1, 784)
    assert images.mean() == pytest.approx(0.1323, abs=0.001)
    assert images.mean(axis=0).max() == pytest.approx(0.563, abs=0.03)
    active = [images[first : first + 60].any(axis=0).sum() for first in range(0, 6000, 60)]
    assert np.mean(active) == pytest.approx(451.5, abs=5)
    assert (~images.any(axis=0)).sum() > 784 - 676


def test_classes_can_be_told_apart() -> None:
    data = stand_in((1, 28, 28), "sparse")
    means = np.stack([data.train_images[data.train_labels == label].mean(axis=0) for label in range(10)])
    nearest = np.square(data.test_images[:100, np.newaxis] - means).sum(axis=(2, 3, 4)).argmin(axis=1)
    assert (nearest == data.test_labels[:100]).mean() > 0.9


CNN = Case(64, "dense", "relu", "batch", runs=1, batch=10, channels=(2, 3))


def test_a_convolutional_network_takes_part() -> None:
    network, shape = CNN.network(), CNN.image_shape
    params, _ = network.init(np.random.default_rng(0), shape)
    assert [p["W"].shape for p in params.values() if "W" in p] == [(2, 1, 3, 3), (3, 2, 3, 3), (12, 10)]
    (row,) = contest.contest([("bnrepro", CNN)], rounds=1).to_dict("records")
    assert row["median"] > 0


@pytest.mark.parametrize(
    ("case", "products"),
    [
        (TINY, 2 * 10 * (64 * 8 + 8 * 8 + 8 * 10)),
        (CNN, 10 * 9 * (8 * 8 * 1 * 2 + 4 * 4 * 2 * 3)),
        (replace(CNN, inputs=3072), 10 * 9 * (32 * 32 * 3 * 2 + 16 * 16 * 2 * 3)),
    ],
)
def test_the_steps_of_a_turn_have_equally_many_products(case: Case, products: int) -> None:
    large = replace(case, batch=case.batch * 1000)
    assert large.steps == int(1.5e9 / (1000 * products))


RIVAL_CASES = [
    *(("compiled", TINY), ("JAX", TINY), pytest.param("PyTorch compiled", TINY, marks=pytest.mark.slow)),
    *(("PyTorch", replace(TINY, runs=1)), ("PyTorch", CNN), ("PyTorch channels last", CNN)),
]


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
@pytest.mark.parametrize(("name", "case"), RIVAL_CASES)
@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_rivals_end_at_our_losses(
    name: str, case: Case, norm: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not takes_part(name):
        pytest.skip(f"needs {RIVALS[name]}")
    monkeypatch.setattr(Case, "steps", 5)
    same = replace(case, norm=norm, activation=activation)
    contest.contest([("bnrepro", same), (name, same)], rounds=1)


@pytest.mark.parametrize(("package", "compiler"), [(None, "g++"), ("there", None), ("there", "g++")])
def test_who_takes_part(package: str | None, compiler: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    monkeypatch.setattr("shutil.which", lambda name: compiler)
    assert takes_part("bnrepro")
    assert takes_part("JAX") is bool(package)
    assert takes_part("PyTorch compiled") is bool(package and compiler)


def test_the_witness_tells_the_time_and_the_memory_of_its_process() -> None:
    overrides = ["train.steps=2", "train.measurements=2", f"diagnostics=[{around.WITNESS}]"]
    run = RunConfig.parse(Settings.parse(compose(overrides)).run)
    begin = time.time()
    (result,) = train_group([run], stand_in(SMALL, "dense"))
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
    cases = [Case(64, "dense", *arm) for arm in ARMS]
    table = pd.DataFrame(rows("floor", cases[:1], median=10.0) + rows("bnrepro", cases, median=20.0))
    rivals = pd.DataFrame(rows("JAX", cases, median=16.0))
    found = contest.profile(1, pd.concat([table, rivals])).set_index(["activation", "norm"])
    assert found["calls"].to_dict() == calls
    assert (found["total"] == 20).all()
    assert (found[["products", "calls", "passes"]].sum(axis=1) == 20).all()
    assert (found["over JAX"] == 1.25).all()
    assert contest.profile(1, table)["over JAX"].isna().all()


def test_a_run_takes_its_steps_and_all_its_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr("time.process_time", lambda: next(ticks) ** 2)
    monkeypatch.setattr(Case, "steps", 4)
    run = RunConfig.parse(Settings.parse(compose(["train.steps=40", "train.measurements=4"])).run)
    assert run.train.measured_steps == [0, 1, 2, 3, 5, 7, 10, 20, 30, 40]
    training, measuring = contest.seconds_of_a_run(run, stand_in(SMALL, "dense"), turns=1, engine="numpy")
    assert measuring == 10 * (4 - 1) / 8  # the clock showed 0, 1 and 4
    assert training == 40 * (1 - 3) / (4 * 8)


def test_what_limits_many_cores_is_measured_and_reckoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENGINES", ("numpy",))
    monkeypatch.setattr(limits, "_alone_and_at_once", lambda pools, measure, rounds: (2e-4, 4e-4))
    monkeypatch.setattr(limits, "written_per_second", lambda groups: 77.0)
    engine, memory, store = limits.limits(1).to_dict("records")
    weights = 4 * (784 * 100 + 2 * 100 * 100 + 100 * 10) / 1e6
    assert (engine["what"], engine["alone"], engine["both"]) == ("numpy", 200, 400)
    assert engine["held"] == pytest.approx(16 * weights)
    assert engine["moved"] == pytest.approx(5 * weights)
    assert engine["GB/s of 64"] == pytest.approx(64 * 5 * weights / 200e-6 / 1e3)
    assert engine["runs/s of 64"] == pytest.approx(64 / 10)  # 50,000 steps take 10 s
    assert (memory["what"], memory["alone"], memory["both"]) == ("memory", 2e-4, 4e-4)
    assert (store["what"], store["runs/s of 64"]) == ("store", 77)


def test_the_writer_takes_runs_by_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[list[RunResult]] = []
    monkeypatch.setattr("bnrepro.benchmark.limits.Store.add", lambda store, results: added.append([*results]))
    assert limits.written_per_second(2) > 0
    assert [len(group) for group in added] == [8, 8]
    assert len({result.config.run_id for group in added for result in group}) == 16
    assert {len(result.curves) for group in added for result in group} == {len(added[0][0].curves)}
    assert len(added[0][0].curves) > 100


def test_figures_are_drawn_of_those_who_took_part() -> None:
    cases = [Case(*images, *arm) for images in IMAGES for arm in ARMS]
    figure = bars(pd.DataFrame(rows("bnrepro", cases) + rows("floor", cases[:: len(ARMS)])))
    assert [ax.get_title() for ax in figure.axes] == ["784 inputs, sparse", "784 inputs, dense", "64 inputs, dense"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "matrix products alone",
        "bnrepro, NumPy",
    ]
    grown = [row for name in contest.GROWTH for row in rows("bnrepro", cases, dimension=name, ratio=4.0)]
    sizes = pd.DataFrame({"number": [10, 100], "median": [5.0, 2.0]})
    drawn = growth_curves(pd.DataFrame(grown), sizes).axes
    assert len(drawn) == 2 * len(contest.GROWTH) + 2
    assert all(ax.dataLim.y1 < ax.get_ylim()[1] for ax in drawn)


def test_the_stand_in_can_be_read_as_mnist(tmp_path: Path) -> None:
    data = stand_in(SMALL, "dense")
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
    assert set(tables) == {
        "steps",
        "profile",
        "growth",
        "convolutions",
        "limits",
        "sweep_sizes",
        "around",
    }
    assert not any(table.drop(columns="over JAX", errors="ignore").isna().all().any() for table in tables.values())
    assert all((table["machine"].str.len() > 0).all() for table in tables.values())
    assert {path.name for path in (tmp_path / "benchmark").glob("*.png")} == {"steps.png", "growth.png"}
