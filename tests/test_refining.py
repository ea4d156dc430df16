"""Which values refine a grid, and a sweep that is refined, from its first run to its figures."""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from calls import Ended, files
from hypothesis import given, settings
from hypothesis import strategies as st

import bnrepro
from bnrepro.api import failure_report
from bnrepro.composition import compose
from bnrepro.config import RunConfig, Settings
from bnrepro.errors import InputError
from bnrepro.refining import Refinement, added_values
from bnrepro.store import RunResult, Store
from bnrepro.sweeping import Progress, expand

LRS = [0.0016, 0.0063, 0.025, 0.1, 0.4, 1.6, 6.3, 25]


def between(low: float, high: float) -> Callable[[float], list[bool]]:
    """What one run reaches whose usable values are these."""
    return lambda value: [low <= value <= high]


@pytest.mark.parametrize(
    ("grid", "usable", "ratio", "widest", "added"),
    [
        (LRS, (0.0063, 1.6), 4, 100, []),
        (LRS, (0.0063, 1.6), 2, 100, [0.0032, 3.2]),
        (LRS, (0.0063, 2.0), 1.6, 100, [0.0032, 0.0045, 2.3, 3.2]),
        (LRS, (0.0063, 3.5), 1.6, 100, [0.0032, 0.0045, 3.2, 4.5]),
        (LRS[::-1], (1e-4, 300), 4, 100, [2.5e-5, 1e-4, 4e-4, 100, 400]),
        (LRS, (0, math.inf), 1.6, 100, [2.5e-5, 1e-4, 4e-4, 100, 400, 1600]),  # not as far as 6,400
        (LRS, (0, math.inf), 1.6, 1, []),
        (LRS, (1, 0), 1.6, 100, []),
        ([1, 1.1], (0, 1), 1.01, 1, [1.01, 1.02, 1.05]),  # with more digits, where two don't tell values apart
        ([1, 1.1], (0, 9), 2, 10, [0.12, 0.25, 0.5, 2.2, 4.4, 9]),
        ([0.1], (0, 1), 1.6, 100, []),
    ],
)
def test_values_are_added_where_runs_begin_to_reach_a_level_and_beyond_the_grid(
    grid: list[float], usable: tuple[float, float], ratio: float, widest: float, added: list[float]
) -> None:
    assert added_values(grid, between(*usable), ratio, widest) == added


def test_a_value_is_added_if_any_seed_or_level_asks_for_it() -> None:
    def reached(value: float) -> list[bool]:
        return [value <= 0.5, value <= 5]

    assert added_values([0.1, 1, 10], reached, 4, 1) == [0.32, 3.2]


POSITIVE = st.floats(1e-6, 1e6)


@settings(deadline=None)
@given(
    st.lists(POSITIVE, min_size=2, max_size=6, unique=True),
    st.lists(st.tuples(POSITIVE, st.floats(1, 1e6)), min_size=1, max_size=3),
    st.floats(1.1, 10),
    st.floats(1, 100),
    st.randoms(use_true_random=False),
)
def test_ends_are_known_within_the_ratio_from_few_values_in_whatever_order_runs_end(
    grid: list[float], seeds: list[tuple[float, float]], ratio: float, widest: float, random: Any
) -> None:
    """Each seed reaches the level in one interval of values."""

    def reached(value: float) -> list[bool]:
        return [low <= value <= low * span for low, span in seeds]

    added = added_values(grid, reached, ratio, widest)
    every = sorted([*grid, *added])
    assert len({*every}) == len(every)
    for low, high in itertools.pairwise(every):
        assert reached(low) == reached(high) or high / low <= ratio
    for end, last in ((min(grid), every[0]), (max(grid), every[-1])):
        assert 1 / widest <= last / end <= widest
    bisected = math.log(max(grid) / min(grid)) / math.log(ratio)  # an interval is cut to 3/4 at least, on a log scale
    depth = 2 + max(0, math.log(max(1, bisected)) / math.log(4 / 3))
    beyond = sum(not min(grid) <= value <= max(grid) for value in added)
    assert len(added) - beyond <= 2 * len(seeds) * depth

    ended: set[float] = set()
    while left := [v for v in {*grid, *added_values(grid, known(reached, ended), ratio, widest)} if v not in ended]:
        ended.add(random.choice(left))
    assert sorted(ended) == every


def known(reached: Callable[[float], list[bool]], ended: set[float]) -> Callable[[float], list[bool] | None]:
    """What is known of the runs that have ended."""
    return lambda value: reached(value) if value in ended else None


def settings_of(*overrides: str) -> Settings:
    return Settings.parse(compose(["+sweep", "sweep.refine.key=optimizer.lr", *overrides]))


TWO_CELLS = ("sweep.grid.optimizer.lr=[0.1,1,10]", "model.activation=relu", "seed=0,1", "sweep.refine.ratio=4")


def refined(folder: Path, settings: Settings, end: Callable[[RunConfig], RunResult]) -> list[tuple[str, int, float]]:
    """Norm, seed and rate of what is asked for after the runs of the grid, once these have ended so."""
    store, grid = Store(folder, create=True), expand(settings.run, *settings.grids)
    store.add(map(end, grid))
    runs = Refinement(settings).extend(grid, store)
    assert runs[: len(grid)] == grid
    return [(norm_of(run), run.seed, run.lr) for run in runs[len(grid) :]]


def norm_of(run: RunConfig) -> str:
    return str(getattr(run.model.value, "norm", None))


def test_each_cell_is_refined_by_itself_with_all_of_its_seeds(tmp_path: Path) -> None:
    def end(run: RunConfig) -> RunResult:
        return RunResult(run, test_accuracy=float(run.lr < (5 if norm_of(run) == "batch" and run.seed else 0.5)))

    found = refined(tmp_path, settings_of(*TWO_CELLS, "sweep.refine.widest=1"), end)
    both = [("none", seed, 0.32) for seed in (0, 1)]
    assert found == both + [("batch", seed, lr) for lr in (0.32, 3.2) for seed in (0, 1)]


@pytest.mark.parametrize(
    ("at_10", "lrs"),
    [
        ({"test_accuracy": 0.1}, [0.32, 3.2]),
        ({"test_accuracy": 0.9}, [0.32, 100]),
        ({"status": "diverged"}, [0.32, 3.2]),
        ({"status": "failed"}, [0.32]),
    ],
)
def test_a_diverged_run_reaches_nothing_and_a_failed_one_tells_nothing(
    tmp_path: Path, at_10: dict[str, Any], lrs: list[float]
) -> None:
    settings = settings_of(
        *TWO_CELLS[:2], "model.norm=none", "seed=0", "sweep.refine.ratio=4", "sweep.refine.widest=10"
    )
    outcome = {0.1: {"test_accuracy": 0.8}, 1: {"test_accuracy": 0.9}, 10: at_10}
    found = refined(tmp_path, settings, lambda run: RunResult(run, **outcome[run.lr]))
    assert [lr for _, _, lr in found] == lrs


def test_failed_runs_are_said_to_leave_the_grid_unrefined_beside_them() -> None:
    (run,) = expand(settings_of().run, {"optimizer": {"lr": [0.1]}})
    *_, last = failure_report([RunResult(run, status="failed")], [run], Path("a store"), "optimizer.lr").splitlines()
    assert last == "beside their values of optimizer.lr the grid is not refined"


def test_grids_of_one_value_are_left_as_they_are(tmp_path: Path) -> None:
    more = "++sweep.more=[{optimizer:{lr:[0.4]},train:{steps:[7]}}]"
    found = refined(tmp_path, settings_of(*TWO_CELLS, more), lambda run: RunResult(run, test_accuracy=run.lr < 0.5))
    assert {lr for _, _, lr in found} == {0.01, 0.32}


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["sweep.refine.key=optimizer.momentum"],
            "optimizer.momentum: must be one of model.activation, model.norm, opt",
        ),
        (
            ["sweep.refine.key=seed"],
            "sweep.refine.key=seed: must be one of model.activation, model.norm, optimizer.lr, ",
        ),
        (["sweep.refine.key=model.norm"], "sweep.refine.key=model.norm: must have numbers greater than 0, not none"),
        (["sweep.grid.optimizer.weight_decay=[0,0.1]", "sweep.refine.key=optimizer.weight_decay"], "0, not 0"),
        (["optimizer.lr=0.1", "sweep.refine.ratio=2"], "lr: must have at least two values in the sweep's grid"),
        (
            ["sweep.grid.train.batch_size=[2,4]", "sweep.refine.key=train.batch_size"],
            "size=0.03: must be a valid integer",
        ),
        (
            ["sweep.grid.dataset.validation=[100,200]", "sweep.refine.key=dataset.validation"],
            "validation: must not be of the data set, ",
        ),
        (["sweep.refine.widest=1e9"], "sweep.refine.widest=1000000000.0: must be less than or equal to 1000000"),
        (["sweep.refine.levels=[0]"], "sweep.refine.levels.0=0: must be greater than 0"),
        (["sweep.refine.levels=[90]"], "sweep.refine.levels.0=90: must be less than or equal to 1"),
        (["sweep.refine.levels=[]"], r"sweep.refine.levels=\[\]: must have at least 1 item"),
        (["sweep.refine.ratio=1"], "sweep.refine.ratio=1: must be greater than or equal to 1.01"),
        (["sweep.refine.widest=0.1"], "sweep.refine.widest=0.1: must be greater than or equal to 1"),
        (["sweep.refine=3"], "sweep.refine=3: must be a group of settings"),
        (["sweep.refine.key=null", "sweep.refine.ratio=2"], "sweep.refine.ratio=2: only with sweep.refine.key"),
    ],
)
def test_what_cannot_be_refined_is_refused(overrides: Sequence[str], told: str) -> None:
    with pytest.raises(InputError, match=told):
        bnrepro.load("learning_rates", overrides)


def test_a_single_run_has_no_grid_to_refine() -> None:
    with pytest.raises(InputError, match=r"^sweep.refine.key=optimizer.lr: only with a sweep$"):
        bnrepro.train(["sweep.refine.key=optimizer.lr"])


@pytest.mark.parametrize("given", ["optimizer.lr=0.1,0.4", "optimizer={lr:0.1}", "sweep.grid.optimizer.lr=[0.1,0.4]"])
def test_values_that_are_given_are_not_refined(given: str) -> None:
    told = list[str]()
    assert Settings.parse(compose(["+sweep", given], told.append)).refine.key is None
    assert told[-1] == f"{given}: not refined, unless sweep.refine.key=optimizer.lr is given, too"


def test_values_that_are_given_are_refined_where_that_is_given_too() -> None:
    assert settings_of("optimizer.lr=0.1,0.4").refine.key == "optimizer.lr"
    assert Settings.parse(compose(["+sweep", "seed=0", "model.norm=batch"])).refine.key == "optimizer.lr"


# The whole of it

SWEEP = [
    *("model.activation=relu", "model.norm=none,batch", "model.hidden=[8]", "train.steps=60", "train.measurements=3"),
    *("seed=0", "optimizer.lr=0.01,0.1,1", "sweep.refine.key=optimizer.lr", "sweep.refine.levels=[0.5]"),
    *("sweep.refine.ratio=4", "sweep.refine.widest=10", "compute=inline", "figures.formats=[svg]"),
]


@pytest.mark.usefixtures("blank_figures")
def test_a_refined_sweep_goes_on_where_it_was_stopped_and_is_shown_as_far_as_it_is(
    call: Callable[..., Ended], here: Path, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(progress: Progress, count: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Progress, "more", interrupted)
        stopped = call("+sweep", *SWEEP)
    assert (stopped.status, len(trained)) == (130, 6)
    asked = int(re.search(r"interrupted; 6 of (\d+) runs are stored; ", stopped.err)[1])  # type: ignore[index]
    assert asked > 6
    part = call("+show", *SWEEP)
    assert f"\n{asked - 6} of {asked} runs are not in results/learning_rates; to train them: " in part.out
    assert f"verdict (6 of {asked} runs): can't be told from these runs" in part.out

    dry = call("+sweep", *SWEEP, "sweep.dry_run=true")
    assert f"\nlearning_rates: {asked} runs, 6 found finished in " in dry.out
    assert re.search(r"\nsweep.refine: what comes of these may ask for up to 8 runs more, ", dry.out)

    whole = call("+sweep", *SWEEP)
    assert (whole.status, len(trained)) == (0, len({*trained}))
    assert re.search(r"\d more runs? to refine the grid\n(.*\n)*(\d) of \2 runs, 00:00 left\n$", whole.err)
    assert "verdict: " in whole.out
    drawn = {path: (here / path).read_bytes() for path in files(here)}
    again, shown = call("+sweep", *SWEEP), call("+show", *SWEEP)
    assert f"\nlearning_rates: {len(trained)} runs, {len(trained)} found finished in " in again.out
    assert again.out.endswith(shown.out.rpartition("score:")[2])
    assert {path: (here / path).read_bytes() for path in files(here)} == drawn
    overrides = [override for override in SWEEP if not override.startswith("figures")]
    results = bnrepro.load("learning_rates", overrides)
    assert (
        sorted(results.runs["run_id"]) == sorted(trained) == sorted(bnrepro.sweep(overrides=overrides).runs["run_id"])
    )
    for _, cell in results.runs.groupby("norm"):
        usable = cell.set_index("lr")["test_accuracy"].sort_index() >= 0.5
        for low, high in itertools.pairwise(usable.index):
            assert usable[low] == usable[high] or high / low <= 4
