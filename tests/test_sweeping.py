"""A grid becomes runs, runs become groups, and how they are grouped and spread over workers changes no bit."""

import dataclasses
import itertools
import os
import re
import sys
import time
from bdb import BdbQuit
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from runs import a_run, assert_same_results, dataframes, query, settings, write_idx
from sweeps import eventually
from tqdm import tqdm

from bnrepro import sweeping
from bnrepro.composition import compose
from bnrepro.config import RUN_KEYS, Compute, Inline, Local, RunConfig
from bnrepro.data import Dataset
from bnrepro.errors import InputError
from bnrepro.layers import Array, ReLU
from bnrepro.measuring import Diagnostic, Snapshot, measures
from bnrepro.network import Network
from bnrepro.recipe import Architecture, Status
from bnrepro.settings import Choice, flatten
from bnrepro.store import Results, RunResult, Store
from bnrepro.sweeping import (
    Progress,
    expand,
    form_groups,
    headline,
    load_data,
    run_all,
    tell_apart,
    train_group,
    without,
)
from bnrepro.workers import Tell, WorkerDied

HERE = Inline(group_size=None)
ONE_BY_ONE = [Inline(group_size=1), Local(n_jobs=2, group_size=1)]


class Reports(Progress):
    """What was reported, a group at a time."""

    def __init__(self) -> None:
        super().__init__(0)
        self.groups: list[Sequence[RunResult]] = []

    def __call__(self, results: Sequence[RunResult]) -> None:
        self.groups.append(results)


def train_all(
    folder: Path, runs: Sequence[RunConfig], compute: Compute = HERE
) -> tuple[Store, list[Sequence[RunResult]]]:
    """Train what is missing in ``folder``; the store, and what was reported."""
    store = Store(folder, create=True)
    reports = Reports()
    run_all(runs, store, compute, reports)
    return store, reports.groups


def setting(run: RunConfig, key: str) -> Any:
    """The value of a dotted key among the settings of a run."""
    return dict(flatten(run.to_dict()))[key]


# Grids


def test_a_grid_is_every_combination_with_the_first_key_slowest() -> None:
    grid = {"model": {"norm": ["none", "batch"]}, "optimizer": {"lr": [1, 0.1]}, "seed": [0, 1]}
    runs = expand(settings({"train.steps": 5}), grid)
    made = [(setting(run, "model.norm"), run.lr, run.seed) for run in runs]
    assert made == list(itertools.product(["none", "batch"], [1, 0.1], [0, 1]))
    assert {run.train.steps for run in runs} == {5}
    assert {type(run.lr) for run in runs} == {float}


def test_a_value_of_the_grid_wins_over_the_base_at_any_depth() -> None:
    grid = {
        "model": {"init": {"std": [0.5]}, "hidden": [[4], [4, 4]]},
        "train": {"steps": [7]},
        "dataset": {"binarize": [True]},
    }
    base = settings({"model.norm": "batch"})
    before = repr(base)
    runs = expand(base, grid)
    assert [setting(run, "model.hidden") for run in runs] == [[4], [4, 4]]
    keys = ("model.init.std", "train.steps", "dataset.binarize", "model.norm")
    assert {tuple(setting(run, key) for key in keys) for run in runs} == {(0.5, 7, True, "batch")}
    assert repr(base) == before


def test_a_key_that_the_base_lacks_can_be_in_the_grid() -> None:
    runs = expand(settings({"model.norm": "batch"}), {"model": {"norm_options": {"eps": [1e-3, 1e-2]}}})
    assert [run.to_dict()["model"]["norm_options"]["eps"] for run in runs] == [1e-3, 1e-2]


@pytest.mark.parametrize(
    ("grid", "rates"),
    [
        ({"optimizer": {"lr": [1, 0.1, 1.0, 1]}}, [1, 0.1]),
        ({"optimizer": {"lr": [1]}, "model": {"norm_options": {"eps": [1e-3, 1e-2]}}}, [1]),  # of no norm
        ({"optimizer": {"lr": [1]}, "model": {"init": {"scheme": ["he"], "std": [1, 2]}}}, [1]),  # he has no std
    ],
)
def test_equal_runs_are_one_run(grid: dict[str, Any], rates: list[float]) -> None:
    assert [run.lr for run in expand(settings(), grid)] == rates


@pytest.mark.parametrize(
    ("grid", "start"),
    [
        ({}, "sweep.grid={}: must list values for at least one setting"),
        ({"model": {}}, "sweep.grid={}: must list values for at least one setting"),
        ({"seed": []}, "sweep.grid.seed=[]: must be a list of at least one value"),
        ({"optimizer": {"lr": []}, "seed": [0]}, "sweep.grid.optimizer.lr=[]: must be a list of at least one value"),
        ({"seed": 3}, "sweep.grid.seed=3: must be a list of at least one value"),
        ({"model": {"norm": "batch"}}, "sweep.grid.model.norm=batch: must be a list of at least one value"),
        ({"model": None}, "sweep.grid.model=null: must be a list of at least one value"),
        (
            {"foo": [1]},
            "foo=1: no such key; known are dataset, model, optimizer, lr_schedule, train, diagnostics, seed",
        ),
        ({"model": {"foo": [1]}}, "model.foo=1: no such key; known are activation, norm"),
        ({"model": {"init": {"foo": [1]}}}, "model.init.foo=1: no such key; known are scheme, std"),
        ({"foo": {"bar": [1]}}, 'foo={"bar": 1}: no such key; known are dataset, model'),
        ({"train": {"steps": {"foo": [1]}}}, "sweep.grid.train.steps.foo: no such key"),
        ({"model": {"hidden": {"foo": [1]}}}, "sweep.grid.model.hidden.foo: no such key"),
        ({"optimizer": {"lr": [0.1, -1]}}, "optimizer.lr=-1: must be greater than 0"),
        ({"model": {"activation": ["relu", "elu"]}}, "model.activation=elu: must be one of sigmoid, relu, tanh"),
        ({"results_dir": ["here"]}, "results_dir=here: no such key"),
    ],
)
def test_bad_grids_are_rejected(grid: dict[str, Any], start: str) -> None:
    with pytest.raises(InputError) as error:
        expand(settings(), grid)
    assert str(error.value).startswith(start)


# Groups


@st.composite
def grids(draw: st.DrawFn) -> list[RunConfig]:
    """Up to 4 × 2 × 2 × 3 runs in any order."""
    grid = {
        "model": {
            "activation": draw(st.sampled_from([["relu"], ["relu", "sigmoid"]])),
            "init": {"scheme": draw(st.sampled_from([["he"], ["he", "xavier"]]))},
        },
        "optimizer": {"lr": [1.0, 2.0, 3.0, 4.0][: draw(st.integers(1, 4))]},
        "seed": [0, 1, 2][: draw(st.integers(1, 3))],
    }
    return draw(st.permutations(expand(settings(), grid)))


@hypothesis_settings(max_examples=60, deadline=None)
@given(grids(), st.integers(1, 9), st.one_of(st.none(), st.integers(1, 50)))
def test_groups_are_a_partition_that_suits_the_workers(runs: list[RunConfig], workers: int, size: int | None) -> None:
    groups = form_groups(runs, workers, load_data(runs), size)
    grouped = [run.run_id for group in groups for run in group]
    assert sorted(grouped) == sorted(run.run_id for run in runs)
    kinds = [{run.group_id for run in group} for group in groups]
    assert all(len(kind) == 1 for kind in kinds)
    largest = max(len(group) for group in groups)
    assert largest <= (size or sweeping.MAX_GROUP)
    if size is None:  # none has more than its share, so that none is idle while another works on
        assert largest <= -(-len(runs) // workers)
    for kind in {run.group_id for run in runs}:  # as few as that allows, of sizes that differ by at most 1
        sizes = [len(group) for group in groups if group[0].group_id == kind]
        assert max(sizes) - min(sizes) <= 1
        seeds = [run.seed for group in groups if group[0].group_id == kind for run in group]
        assert seeds == sorted(seeds)  # runs of one seed share mini-batches


@pytest.mark.parametrize(
    ("count", "workers", "size", "sizes"),
    [(96, 2, None, [8] * 12), (5, 1, None, [5]), (9, 1, None, [5, 4]), (3, 8, None, [1, 1, 1]), (5, 2, 2, [2, 2, 1])],
)
def test_sizes_of_groups(count: int, workers: int, size: int | None, sizes: list[int]) -> None:
    runs = expand(settings(), {"seed": list(range(count))})
    assert [len(group) for group in form_groups(runs, workers, load_data(runs), size)] == sizes


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (["model.hidden=[1000]"], 8),  # no images between layers
        (["model=cnn", "train.batch_size=60"], 8),  # the largest: 60 · 8 · 8² numbers of 4 bytes, 123 kB
        (["model=cnn", "train.batch_size=240"], 6),
        (["model=cnn", "train.batch_size=240", "train.dtype=float64"], 3),
        (["model=cnn", "train.batch_size=60", "model.channels=[4,32]"], 8),  # of which the first is half the second
        (["model=cnn", "train.batch_size=60", "model.channels=[4,128]"], 6),
        (["model=cnn", "train.batch_size=1000", "model.channels=[200]"], 1),
        (["model=inception", "train.batch_size=120"], 6),  # the largest are those of the stem
    ],
)
def test_runs_are_in_lock_step_as_long_as_their_images_stay_in_cache(overrides: list[str], size: int) -> None:
    base = {key: value for key, value in compose(overrides).items() if key in RUN_KEYS}
    runs = expand(base, {"seed": list(range(16))})
    assert max(len(group) for group in form_groups(runs, 1, load_data(runs))) == size


@dataclasses.dataclass(frozen=True)
class Unbuildable(Architecture):
    """A model of a user's own."""

    def build(self, classes: int) -> Network:
        raise AssertionError("is built by workers only")


def test_a_model_of_the_users_own_is_not_built_before_it_is_trained() -> None:
    runs = [dataclasses.replace(a_run(), model=Choice("mine.Unbuildable", Unbuildable()))]
    assert form_groups(runs, 1, load_data(runs)) == [runs]


def test_what_takes_longest_is_trained_first() -> None:
    grid = {"model": {"norm": ["none", "batch"]}, "train": {"steps": [10, 20]}, "optimizer": {"lr": [1.0, 2.0, 3.0]}}
    groups = form_groups(expand(settings(), grid), workers=1, data={}, group_size=2)
    order = [(group[0].train.steps, len(group), setting(group[0], "model.norm")) for group in groups]
    assert order == [(s, n, norm) for s in (20, 10) for n in (2, 1) for norm in ("batch", "none")]


def test_no_runs_make_no_groups() -> None:
    assert form_groups([], 2, {}) == []


# A group


@pytest.fixture(scope="module")
def digits() -> Dataset:
    data: Dataset = a_run().dataset.value.load()
    return data


def test_a_trained_run_has_its_curve_and_its_layers(digits: Dataset) -> None:
    run = a_run({"model.hidden": [8, 4], "model.norm": "batch", "optimizer.lr": 0.5})
    (result,) = train_group([run], digits)
    assert (result.config, result.status, result.error, result.diverged_at) == (run, "done", None, None)
    steps = run.train.measured_steps
    assert [row["step"] for row in result.curves] == steps
    assert [(row["step"], row["layer"]) for row in result.layers] == list(itertools.product(steps, [1, 2]))
    assert result.test_accuracy == result.curves[-1]["test_accuracy"]  # all 355 test digits are below eval_examples
    assert result.curves[-1]["train_loss"] < result.curves[0]["train_loss"]
    assert result.seconds > 0


def test_the_seconds_of_a_group_are_shared_by_its_runs(digits: Dataset) -> None:
    begin = time.perf_counter()
    results = train_group([a_run({"seed": seed}) for seed in range(4)], digits)
    assert 0 < sum(result.seconds for result in results) <= time.perf_counter() - begin


def test_a_diverged_run_is_a_result_and_its_neighbour_does_not_notice(digits: Dataset) -> None:
    calm, wild = a_run({"optimizer.lr": 0.1}), a_run({"optimizer.lr": 1000})
    together = train_group([wild, calm], digits)
    (alone,) = train_group([calm], digits)
    diverged, done = together
    assert (diverged.status, diverged.test_accuracy, diverged.error) == ("diverged", None, None)
    assert diverged.diverged_at is not None
    assert 0 < diverged.diverged_at < 20
    assert [row["step"] for row in diverged.curves] == [
        step for step in calm.train.measured_steps if step <= diverged.diverged_at
    ]
    assert (done.curves, done.layers, done.test_accuracy) == (alone.curves, alone.layers, alone.test_accuracy)


def test_watch_sees_every_measurement(digits: Dataset) -> None:
    seen: list[int] = []
    run = a_run()
    train_group([run], digits, lambda measured: seen.append(measured.step))
    assert seen == run.train.measured_steps


BROKEN = """
from bnrepro.layers import Sigmoid


class Broken(Sigmoid):
    def forward(self, params, state, x, *, train):
        raise RuntimeError("broken on purpose")
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The import path of an activation that raises."""
    (tmp_path / "broken_of_test_sweeping.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    return "broken_of_test_sweeping.Broken"


def test_an_exception_makes_a_run_failed_with_its_traceback(digits: Dataset, broken: str) -> None:
    results = train_group([a_run({"model.activation": broken, "seed": seed}) for seed in (0, 1)], digits)
    assert [result.status for result in results] == ["failed", "failed"]
    for result in results:
        assert result.error is not None
        assert result.error.startswith("Traceback")
        assert "broken on purpose" in result.error
        assert result.test_accuracy is None


def test_a_run_that_fails_late_keeps_its_curve_up_to_there(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    @measures()
    def third_time(snapshot: Snapshot) -> dict[str, Array]:
        seen.append(len(seen))
        if len(seen) == 3:
            raise ArithmeticError("enough is enough")
        return {}

    (whole,) = train_group([a_run()], digits)
    monkeypatch.setattr(RunConfig, "measured", lambda run: {"third": third_time})
    (failed,) = train_group([a_run()], digits)
    assert failed.status == "failed"
    assert len(failed.curves) == 2
    for row, expected in zip(failed.curves, whole.curves, strict=False):
        assert row.items() <= expected.items()


def raising_at_a_rate(rate: float) -> Diagnostic:
    """A diagnostic that raises for a group with a run at this rate."""

    @measures()
    def diagnostic(snapshot: Snapshot) -> dict[str, Array]:
        if rate in snapshot.lr:
            raise ArithmeticError(f"the rate {rate} is not to my taste")
        return {}

    return diagnostic


def test_only_the_run_that_raises_fails_and_its_neighbours_do_not_notice(
    digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [a_run({"optimizer.lr": lr, "seed": seed, "model.norm": "batch"}) for lr in (0.5, 0.25) for seed in (0, 1)]
    expected = train_group(runs, digits)
    own = RunConfig.measured
    monkeypatch.setattr(RunConfig, "measured", lambda run: own(run) | {"raising": raising_at_a_rate(0.25)})
    results = train_group(runs, digits)
    assert [result.config for result in results] == runs
    assert [result.status for result in results] == ["done", "done", "failed", "failed"]
    for result, other in zip(results[:2], expected, strict=False):
        assert (result.curves, result.layers, result.test_accuracy) == (other.curves, other.layers, other.test_accuracy)
    assert "ArithmeticError: the rate 0.25 is not to my taste" in (results[2].error or "")


@pytest.mark.parametrize("compute", ONE_BY_ONE)
def test_a_failed_group_does_not_end_the_sweep(tmp_path: Path, broken: str, compute: Compute) -> None:
    runs = expand(settings(), {"model": {"activation": [broken, "relu"]}, "seed": [0, 1]})
    store, reports = train_all(tmp_path / "results", runs, compute)
    assert sorted(result.status for report in reports for result in report) == ["done", "done", "failed", "failed"]
    table = store.load(runs).runs
    assert table.groupby("activation")["status"].unique().map(list).to_dict() == {broken: ["failed"], "relu": ["done"]}
    assert table["error"].dropna().str.contains("broken on purpose").tolist() == [True, True]


# The whole sweep

GRID = {
    "model": {"activation": ["sigmoid", "relu"], "norm": ["none", "batch"]},
    "optimizer": {"lr": [0.1, 3.0, 1000.0]},
    "seed": [0, 1],
}


@pytest.fixture(scope="module")
def runs_of_files(tmp_path_factory: pytest.TempPathFactory) -> list[RunConfig]:
    """24 runs on 1.2 MB of images: what joblib gives its workers as a memory map."""
    root = write_idx(tmp_path_factory.mktemp("idx") / "root", count=1600, size=28)
    changes = {"dataset.root": str(root), "dataset.sha256": None, "model.hidden": [16, 16], "train.steps": 50}
    return expand(settings(changes, "dataset=mnist"), GRID)


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory, runs_of_files: list[RunConfig]) -> Results:
    """Each run alone, in this process."""
    return train_all(tmp_path_factory.mktemp("one"), runs_of_files, Inline(group_size=1))[0].load()


@pytest.mark.parametrize(
    "compute",
    [
        Inline(group_size=8),
        Inline(group_size=None),
        Local(n_jobs=1, group_size=None),
        Local(n_jobs=2, group_size=1),
        Local(n_jobs=2, group_size=8),
        Local(n_jobs=2, group_size=None),
    ],
)
def test_groups_and_workers_change_no_bit(
    tmp_path: Path, runs_of_files: list[RunConfig], one_by_one: Results, compute: Compute
) -> None:
    assert {run.train.dtype for run in runs_of_files} == {"float32"}
    store, reports = train_all(tmp_path, runs_of_files, compute)
    assert max(len(report) for report in reports) == {1: 1, 8: 6, None: 6}[compute.group_size]
    assert_same_results(store.load(), one_by_one)


def test_the_sweep_above_has_all_that_could_differ(one_by_one: Results) -> None:
    runs = one_by_one.runs
    assert set(runs["status"]) == {"done", "diverged"}
    assert (runs["test_accuracy"] > 0.5).any()
    assert runs["test_accuracy"].nunique() > 5


@pytest.mark.parametrize("compute", ONE_BY_ONE)
def test_blas_has_one_thread_wherever_it_trains(tmp_path: Path, compute: Compute) -> None:
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        store, _ = train_all(tmp_path, expand(settings(), {"seed": [0, 1]}), compute)
    runs = store.load().runs
    assert runs["blas_threads"].tolist() == [1, 1]
    assert runs["blas"].str.len().min() > 0


def say_where_the_images_are(runs: Sequence[RunConfig], data: Dataset, *rest: Any) -> list[RunResult]:
    """In place of training."""
    return [RunResult(run, status="failed", error=type(data.train_images).__name__) for run in runs]


def test_workers_share_one_memory_mapped_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs_of_files: list[RunConfig]
) -> None:
    monkeypatch.setattr(sweeping, "train_group", say_where_the_images_are)
    store, _ = train_all(tmp_path, runs_of_files[:2], Local(n_jobs=2, group_size=1))
    assert store.load().runs["error"].tolist() == ["memmap", "memmap"]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Ids of the runs of each group for which training was really entered."""
    entered: list[list[str]] = []

    def counted(runs: Sequence[RunConfig], data: Dataset, *rest: Any) -> list[RunResult]:
        entered.append([run.run_id for run in runs])
        return train_group(runs, data, *rest)

    monkeypatch.setattr(sweeping, "train_group", counted)
    return entered


def ids(groups: Iterable[Iterable[str]]) -> list[str]:
    return sorted(itertools.chain.from_iterable(groups))


def test_only_what_is_missing_is_trained(tmp_path: Path, trained: list[list[str]]) -> None:
    few = expand(settings(), {"optimizer": {"lr": [0.1, 1000.0]}, "seed": [0, 1]})
    more = expand(settings(), {"optimizer": {"lr": [0.2, 0.1, 1000.0]}, "seed": [0, 1, 2]})
    store, reports = train_all(tmp_path, few)
    assert ids(trained) == sorted(run.run_id for run in few)
    assert set(store.load().runs["status"]) == {"done", "diverged"}
    assert [len(report) for report in reports] == [len(group) for group in trained]
    before = store.load(few)

    trained.clear()
    assert train_all(tmp_path, few)[1] == []
    assert trained == []

    train_all(tmp_path, more)
    assert ids(trained) == sorted({run.run_id for run in more} - {run.run_id for run in few})
    assert len(store.finished()) == 9
    assert_same_results(store.load(few), before)


def test_a_failed_run_is_tried_again(tmp_path: Path, trained: list[list[str]]) -> None:
    run = a_run()
    Store(tmp_path, create=True).add([RunResult(run, status="failed")])
    store, _ = train_all(tmp_path, [run])
    assert trained == [[run.run_id]]
    assert store.finished() == {(run.run_id, run.code)}


def test_what_ended_before_an_interruption_is_kept(tmp_path: Path, trained: list[list[str]]) -> None:
    runs = expand(settings(), {"seed": [0, 1, 2, 3]})
    store = Store(tmp_path, create=True)

    class Interrupt(Reports):
        def __call__(self, results: Sequence[RunResult]) -> None:
            if len(store.finished()) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(runs, store, Inline(group_size=1), Interrupt())
    assert len(store.finished()) == 2
    stored = {run_id for run_id, _ in store.finished()}
    trained.clear()
    train_all(tmp_path, runs)
    assert ids(trained) == sorted({run.run_id for run in runs} - stored)


def test_an_interruption_leaves_no_claims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(runs: Sequence[RunConfig], data: Dataset, *rest: Any) -> list[RunResult]:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeping, "train_group", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_all(tmp_path, [a_run()])
    assert query(Store(tmp_path).path, "SELECT * FROM claims") == []


def test_claims_are_kept_alive_while_training_holds_this_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats: list[str] = []

    def train(runs: Sequence[RunConfig], data: Dataset, *rest: Any) -> list[RunResult]:
        eventually(lambda: len(beats) >= 3)
        return [RunResult(run) for run in runs]

    monkeypatch.setattr(sweeping, "HEARTBEAT", 0.01)
    monkeypatch.setattr(sweeping, "train_group", train)
    monkeypatch.setattr(Store, "heartbeat", lambda store, owner: beats.append(owner))
    train_all(tmp_path, [a_run()])
    assert len(set(beats)) == 1
    count = len(beats)
    time.sleep(0.1)
    assert len(beats) == count  # and no longer


def test_a_breakpoint_in_a_layer_stops_in_this_process_inline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, stopped = ReLU.forward, list[int]()

    def with_breakpoint(self: ReLU, *given: Any, **named: Any) -> Any:
        breakpoint()
        return forward(self, *given, **named)

    monkeypatch.setattr(ReLU, "forward", with_breakpoint)
    monkeypatch.setattr(sys, "breakpointhook", lambda: stopped.append(os.getpid()))
    store, _ = train_all(tmp_path, [a_run({"model.activation": "relu"})])
    assert set(stopped) == {os.getpid()}
    assert store.load().runs["status"].tolist() == ["done"]


def test_leaving_the_debugger_ends_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave() -> None:
        raise BdbQuit

    monkeypatch.setattr(ReLU, "forward", lambda *given, **named: breakpoint())
    monkeypatch.setattr(sys, "breakpointhook", leave)
    with pytest.raises(KeyboardInterrupt):
        train_all(tmp_path, [a_run({"model.activation": "relu"})])
    assert Store(tmp_path).finished() == set()


def test_without_keeps_the_order() -> None:
    runs = expand(settings(), {"seed": [3, 1, 2]})
    assert without(runs, {(runs[1].run_id, runs[1].code)}) == [runs[0], runs[2]]
    assert without(runs, {(runs[1].run_id, "other code")}) == runs


# What becomes of a group whose worker dies


class Mortal:
    """Workers that die of some runs, and write down what they were given and how much was in training then."""

    def __init__(self, count: int, deadly: set[str]) -> None:
        self.count, self.deadly = count, deadly
        self.given: list[tuple[list[str], int]] = []
        self.driver: sweeping._Driver | None = None

    def submit(self, task: Callable[..., Any], runs: Sequence[RunConfig], tell: Tell | None = None) -> Future[Any]:
        assert self.driver
        self.given.append(([run.run_id for run in runs], len(self.driver.in_training)))
        future: Future[Any] = Future()
        if self.deadly & {run.run_id for run in runs}:
            future.set_exception(WorkerDied("exit code SIGKILL(-9)"))
        else:
            future.set_result([RunResult(run) for run in runs])
        return future

    def look(self) -> None: ...


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(0, 11)), st.integers(1, 4), st.integers(1, 12))
def test_only_the_runs_to_blame_fail(deadly: set[int], count: int, group_size: int) -> None:
    runs = expand(settings(), {"seed": list(range(12))})
    blamed = {runs[i].run_id for i in deadly}
    mortal = Mortal(count, blamed)
    with TemporaryDirectory() as folder:
        store = Store(Path(folder), create=True)
        mortal.driver = sweeping._Driver(
            store, "me", mortal, Inline(group_size=group_size), Progress(12), {}, force=False, asked=list
        )
        mortal.driver.drive(runs)
        table = store.load(runs).runs.set_index("run_id")
    assert len(table) == 12
    assert set(table.index[table["status"] == "failed"]) == blamed
    for run_id in blamed:
        alone = [beside for given, beside in mortal.given if given == [run_id]]
        assert len(alone) == 2  # failures of its own
        assert alone[-1] == 0
        assert table["error"][run_id].startswith("WorkerDied: exit code SIGKILL(-9), twice while it trained this run")
    for run in runs:
        if run.run_id not in blamed:  # none was trained again once it was stored
            assert sum(run.run_id in given and not blamed & {*given} for given, _ in mortal.given) == 1


def test_smaller_groups_come_first(tmp_path: Path) -> None:
    runs = expand(settings(), {"seed": list(range(8))})
    mortal = Mortal(1, {runs[2].run_id})
    mortal.driver = sweeping._Driver(
        Store(tmp_path, create=True), "me", mortal, Inline(group_size=4), Progress(8), {}, force=False, asked=list
    )
    mortal.driver.drive(runs)
    assert [len(given) for given, _ in mortal.given] == [4, 2, 2, 1, 1, 4, 1]


def test_what_is_no_death_keeps_its_traceback(tmp_path: Path) -> None:
    class Confused(Mortal):
        def submit(self, task: Callable[..., Any], runs: Sequence[RunConfig], tell: Tell | None = None) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(TypeError("can't pickle it"))
            return future

    run = a_run()
    store = Store(tmp_path, create=True)
    sweeping._Driver(
        store, "me", Confused(1, set()), Inline(group_size=4), Progress(1), {}, force=False, asked=list
    ).drive([run])
    (error,) = store.load([run]).runs["error"]
    assert error == "TypeError: can't pickle it\n"


# Other sweeps on the same store


@pytest.mark.parametrize("group_size", [1, 3])
def test_what_another_sweep_trains_is_waited_for(
    tmp_path: Path,
    trained: list[list[str]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    group_size: int,
) -> None:
    runs = expand(settings(), {"seed": [0, 1, 2]})
    store = Store(tmp_path, create=True)
    theirs = store.claim(runs[:2], "another")
    polls = []

    def finish_another(seconds: float) -> None:
        polls.append(seconds)
        if len(polls) == 3:
            store.add([RunResult(theirs[0])])
            store.release("another")  # and so the other of theirs is free

    monkeypatch.setattr("bnrepro.sweeping.time.sleep", finish_another)
    progress = Progress(3)
    run_all(runs, store, Inline(group_size=group_size), progress)
    assert ids(trained) == sorted(run.run_id for run in runs[1:])
    assert len(store.finished()) == 3
    assert (progress.ended, progress.total) == (2, 2)
    err = capsys.readouterr().err
    assert err.count("the runs that are left are in training by another process; waiting for it\n") == 1
    assert query(store.path, "SELECT * FROM claims") == []


def test_force_trains_stored_runs_again_and_replaces_them(tmp_path: Path, trained: list[list[str]]) -> None:
    runs = expand(settings(), {"seed": [0, 1]})
    store, _ = train_all(tmp_path, runs)
    before = Results(*dataframes(store.load(runs)))  # read now
    query(store.path, "UPDATE runs SET test_accuracy = 2")
    trained.clear()
    run_all(runs, store, HERE, Reports(), force=True)
    assert ids(trained) == sorted(run.run_id for run in runs)
    assert_same_results(store.load(runs), before)


# What failed


def test_settings_that_tell_runs_apart_are_those_that_differ_among_all() -> None:
    runs = expand(settings(), {"model": {"hidden": [[4], [4, 4]], "norm": ["none", "batch"]}, "seed": [0, 1]})
    assert tell_apart([runs[5], runs[0]], runs) == [
        "model.norm=none model.hidden=[4, 4] seed=1",
        "model.norm=none model.hidden=[4] seed=0",
    ]
    assert tell_apart(runs[:1], runs[:1]) == ["the only run"]


# Data


def test_a_batch_larger_than_the_data_set_is_rejected_before_training(tmp_path: Path, trained: list[list[str]]) -> None:
    runs = expand(settings(), {"train": {"batch_size": [1442, 1443]}})
    assert len(load_data(runs[:1])) == 1
    with pytest.raises(
        InputError, match=r"^train\.batch_size=1443: must be at most 1442, the training examples of digits$"
    ):
        train_all(tmp_path, runs)
    assert trained == []


@pytest.mark.parametrize(
    ("size", "model", "channels", "refused"),
    [
        (1, "cnn", [2], "1×1"),
        (2, "cnn", [2], ""),
        (3, "cnn", [2, 2], "3×3"),
        (4, "cnn", [2, 2], ""),
        (1, "inception", None, "1×1"),
        (2, "inception", None, ""),
        (1, "mlp", None, ""),
    ],
)
def test_a_model_that_the_images_are_too_small_for_is_refused_before_training(
    tmp_path: Path, trained: list[list[str]], size: int, model: str, channels: list[int] | None, refused: str
) -> None:
    changes: dict[str, Any] = {"dataset.root": str(write_idx(tmp_path / "root", size=size)), "dataset.sha256": None}
    if model != "mlp":
        changes["model"] = compose([f"model={model}"])["model"] | ({"channels": channels} if channels else {})
    runs = [a_run({"train.batch_size": 10} | changes, "dataset=mnist")]
    if not refused:
        assert train_all(tmp_path, runs)[0].load().runs["status"].tolist() == ["done"]
        return
    with pytest.raises(
        InputError,
        match=rf"^model\.name={model}: must go with the images of mnist, {refused} \(MaxPool2D: kernel 2 is larger",
    ):
        train_all(tmp_path, runs)
    assert trained == []


def test_each_data_set_is_loaded_once(tmp_path: Path) -> None:
    root = write_idx(tmp_path / "root")
    changes = {"dataset.root": str(root), "dataset.sha256": None}
    runs = [
        *expand(settings(changes, "dataset=mnist"), {"dataset": {"binarize": [False, True]}, "seed": [0, 1]}),
        a_run(),
    ]
    data = load_data(runs)
    assert len(data) == 3
    assert [len(data[run.dataset].train_labels) for run in runs] == [60, 60, 60, 60, 1442]
    assert data[runs[0].dataset] is data[runs[1].dataset]
    assert data[runs[2].dataset].train_images.max() == 1


# Progress


def ended(*statuses: Status) -> list[RunResult]:
    errors = {"failed": "ValueError: bad"}
    return [RunResult(a_run(), status=status, error=errors.get(status)) for status in statuses]


def test_progress_is_plain_lines_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 6.0, 7.0, 12.0, 13.0]).__next__
    monkeypatch.setattr("bnrepro.sweeping.time.monotonic", clock)
    progress = Progress(10)
    for results in (
        ended("done"),
        ended("done", "done"),
        ended("failed"),
        ended("done", "diverged"),
        ended("done", "done", "done", "done"),
    ):
        progress(results)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "3 of 10 runs, 00:14 left",
        "a run failed: ValueError: bad",
        "6 of 10 runs, 00:08 left",
        "10 of 10 runs, 00:00 left",
    ]
    assert [result.status for result in progress.failed] == ["failed"]


def test_the_first_run_that_fails_is_told_of_at_once_and_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(4)
    progress(ended("done", "failed"))
    progress(ended("failed"))
    assert capsys.readouterr().err == "a run failed: ValueError: bad\n"
    assert len(progress.failed) == 2


def test_steps_of_groups_in_training_count_before_the_first_has_ended(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line every 5 seconds, and less often the longer a sweep has taken; whole runs, but time by the step."""
    now = [0.0]
    monkeypatch.setattr("bnrepro.sweeping.time.monotonic", lambda: now[0])
    runs = expand(settings({"train.steps": 100}), {"seed": [0, 1, 2, 3]})
    progress = Progress(4)
    for now[0], part, step in (
        (3.0, runs[:2], 20),
        (6.0, runs[:2], 40),
        (6.0, runs[:2], 40),
        (9.0, runs[:2], 50),
        (12.0, runs[2:], 50),
        (12.0, runs[:2], 0),  # whose worker has died
        (1000.0, runs[:2], 90),
    ):
        progress.reached(part, step)
    progress([RunResult(run) for run in runs[:2]])
    now[0] = 1019.0
    progress.reached(runs[2:], 75)
    now[0] = 1023.0
    progress.tick()
    assert capsys.readouterr().err.splitlines() == [
        "0 of 4 runs, 00:24 left",
        "0 of 4 runs, 00:12 left",
        "0 of 4 runs, 07:08 left",
        "2 of 4 runs, 02:26 left",
    ]


def test_the_bar_moves_with_the_steps(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnrepro.sweeping.sys.stderr.isatty", lambda: True)
    runs = expand(settings({"train.steps": 100}), {"seed": [0, 1, 2, 3]})
    progress = Progress(4)
    monkeypatch.setattr(progress._bar, "start_t", progress._bar.start_t - 60)
    monkeypatch.setattr(progress._bar, "last_print_t", progress._bar.last_print_t - 60)
    progress.reached(runs[:2], 50)
    progress.tick()
    assert re.search(r" 25%.* 0/4 \[01:00<03:00, ", capsys.readouterr().err)
    progress([RunResult(run) for run in runs])
    progress.close()
    assert re.search(r"100%.* 4/4 ", capsys.readouterr().err)


@pytest.mark.parametrize("compute", [HERE, Local(n_jobs=1, group_size=None)])
def test_a_group_in_training_moves_the_display(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: Compute
) -> None:
    told: list[int] = []
    monkeypatch.setattr(sweeping, "POLL", 0.001)
    monkeypatch.setattr(Progress, "reached", lambda progress, runs, step: told.append(step))
    train_all(tmp_path, [a_run({"train.steps": 3000})], compute)
    assert len(set(told)) > 2
    assert told == sorted(told)


def test_progress_is_a_bar_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnrepro.sweeping.sys.stderr.isatty", lambda: True)
    progress = Progress(2)
    monkeypatch.setattr(progress._bar, "start_t", progress._bar.start_t - 41)
    progress.tick()
    assert re.search(r" 0/2 \[00:41", capsys.readouterr().err)
    progress(ended("done"))
    progress(ended("done"))
    progress.close()
    err = capsys.readouterr().err
    assert re.search(r"100%.*2/2", err)
    assert " runs, " not in err


@pytest.mark.parametrize("left", [0, 2])
def test_what_follows_a_bar_in_a_terminal_begins_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, left: int
) -> None:
    """There is no bar of nothing; and where an error ends training, the bar is at its end before that is printed."""
    runs = expand(settings(), {"seed": [0, 1]})
    monkeypatch.setattr("bnrepro.sweeping.sys.stderr.isatty", lambda: True)
    monkeypatch.setattr(sweeping, "load_data", lambda runs: 1 / 0)
    store = Store(tmp_path, create=True)
    if not left:
        store.add([RunResult(run) for run in runs])
    progress = Progress(left)  # held, since a bar that nobody holds ends its line by itself
    with suppress(ZeroDivisionError):
        run_all(runs, store, HERE, progress)
    err = capsys.readouterr().err
    assert ("0/2" in err, err.endswith("\n")) == (True, True) if left else err == ""


def test_the_bar_is_drawn_anew_before_the_first_group_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Drawn(Reports):
        def tick(self) -> None:
            drawn.append(len(self.groups))

    drawn: list[int] = []
    none_done = iter([SimpleNamespace(done=())])
    monkeypatch.setattr(sweeping, "wait", lambda *given: next(none_done, None) or wait(*given))
    run_all([a_run()], Store(tmp_path, create=True), HERE, Drawn())
    assert drawn == [0, 1]


def test_progress_is_a_bar_in_a_notebook(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``tqdm.auto`` finds out, since its stderr is no terminal."""

    class Notebook(tqdm):  # type: ignore[type-arg]
        __module__ = "tqdm.notebook"

    monkeypatch.setattr("bnrepro.sweeping.auto.tqdm", Notebook)
    progress = Progress(1)
    progress(ended("done"))
    progress.close()
    err = capsys.readouterr().err
    assert re.search(r"100%.*1/1", err)
    assert " runs, " not in err


def test_diagnostics_of_a_run_are_recorded_in_their_tables() -> None:
    run = a_run({"diagnostics": ["units", "landscape", "covariate_shift"], "train.steps": 2})
    (result,) = train_group([run], load_data([run])[run.dataset])
    assert result.status == "done"
    assert [(row["step"], row["unit"]) for row in result.units[:8]] == [(0, n) for n in range(1, 9)]
    assert set(result.units[0]) == {"step", "unit", "p15", "p50", "p85"}
    assert {"train_loss", "landscape_smoothness"} < set(result.curves[0])
    assert [row["layer"] for row in result.layers[:2]] == [1, 2]  # the hidden layer and the logits
    assert set(result.layers[0]) == {"step", "layer", "shift_norm", "shift_cosine"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("", ""),
        ("WorkerDied: exit code 1\n", "WorkerDied: exit code 1"),
        ('Traceback:\n  File "a.py", line 1\n    x\nValueError: two\nlines', "ValueError: two"),
        ('Traceback:\n  File "a.py"\nKeyError: 1\n\nDuring …:\n\nTraceback:\n  File "b.py"\nOSError', "OSError"),
    ],
)
def test_the_headline_of_a_traceback_is_what_was_raised(error: str, line: str) -> None:
    assert headline(error) == line
