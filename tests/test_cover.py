"""How often do 95% intervals have the true number in them? The table in experiments/README.md, and its simulation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bnrepro import analysis
from bnrepro.analysis import Estimate

PAGE = Path(__file__).parents[1] / "experiments" / "README.md"
TRIALS = 1000
SIZES = (3, 5, 10)
DRAWS: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(0, 0.3, n),
    "skewed": lambda rng, n: 0.3 * (rng.exponential(1, n) - 1),
}
"""What seeds differ by: of mean 0 and standard deviation 0.3."""

GRID = 10 ** np.arange(-3, 3, 0.2)
"""Values of a setting, 0.2 decades apart."""
MEASURED = np.unique((10 ** np.arange(0, 4, 0.1)).astype(int))
"""Steps at which accuracy is measured, a quarter apart."""

Simulated = Callable[[np.random.Generator, Callable[[int], np.ndarray], int], Estimate]


def mean(rng: np.random.Generator, draw: Callable[[int], np.ndarray], n: int) -> Estimate:
    return analysis.mean(pd.Series(1 + draw(n)))


def geometric_mean(rng: np.random.Generator, draw: Callable[[int], np.ndarray], n: int) -> Estimate:
    return analysis.geometric_mean(pd.Series(np.exp(draw(n))))


def difference(rng: np.random.Generator, draw: Callable[[int], np.ndarray], n: int) -> Estimate:
    pairs = pd.Series(rng.normal(0, 1, n))
    return analysis.difference(1 + pairs + draw(n), pairs)


def ratio(rng: np.random.Generator, draw: Callable[[int], np.ndarray], n: int) -> Estimate:
    pairs = pd.Series(rng.normal(0, 1, n))
    return analysis.ratio((pairs + draw(n)).map(np.exp), pairs.map(np.exp))


def between(rng: np.random.Generator, draw: Callable[[int], np.ndarray], n: int) -> Estimate:
    above = np.searchsorted(GRID, np.exp(draw(n)))
    return analysis.between(pd.Series(GRID[above - 1]), pd.Series(GRID[above]))


def speed_up_to(rng: np.random.Generator, draw: Callable[[int], np.ndarray], n: int) -> Estimate:
    plain = 300 * np.exp(rng.normal(0, 0.3, n))
    runs, curves = [], []
    for name, steps in (("plain", plain), ("other", plain * np.exp(draw(n)))):
        ids = [f"{name}{seed}" for seed in range(n)]
        runs.append(pd.DataFrame({"run_id": ids, "steps": float(MEASURED[-1])}))
        there = (MEASURED[None, :] >= steps[:, None]).astype(float)
        curves.append(
            pd.DataFrame(
                {"run_id": np.repeat(ids, len(MEASURED)), "step": np.tile(MEASURED, n), "test_accuracy": there.ravel()}
            )
        )
    plain_runs, other_runs = runs
    return analysis.speed_up_to(0.5, plain_runs, other_runs, pd.concat(curves))


def jackknife(rng: np.random.Generator, draw: Callable[[int], np.ndarray], n: int) -> Estimate:
    seeds = [pd.DataFrame({"x": [one], "y": [other]}) for one, other in zip(1 + draw(n), 1 + draw(n) / 3, strict=True)]
    return analysis.jackknife(lambda table: table["x"].mean() / table["y"].mean(), seeds)


ESTIMATORS: Mapping[str, Simulated] = {
    "`mean`": mean,
    "`difference`, of pairs": difference,
    "`geometric_mean`": geometric_mean,
    "`ratio`, of pairs": ratio,
    "`between`, on a grid of .2 decades": between,
    "`speed_up_to`, measured at steps a quarter apart": speed_up_to,
    "`jackknife`, of a ratio of means": jackknife,
}
"""Each estimates 1."""


def cover(estimator: Simulated, draw: str, n: int, trials: int) -> float:
    rng, covered = np.random.default_rng(n), 0
    for _ in range(trials):
        found = estimator(rng, lambda size: DRAWS[draw](rng, size), n)
        assert not math.isnan(found.low + found.high)
        covered += found.low <= 1 <= found.high
    return covered / trials


def page_table() -> str:
    heads = [f"{draw}, n = {n}" for draw in DRAWS for n in SIZES]
    rows = [["estimate", *heads], ["---"] * (1 + len(heads))]
    for name, estimator in ESTIMATORS.items():
        found = [f"{100 * cover(estimator, draw, n, TRIALS):.0f}%" for draw in DRAWS for n in SIZES]
        rows.append([name, *found])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@pytest.mark.slow
def test_the_page_has_the_cover_of_every_interval() -> None:
    if (table := page_table()) not in PAGE.read_text("utf-8"):
        pytest.fail(f"experiments/README.md: the table of cover must be\n\n{table}", pytrace=False)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_intervals_of_normal_values_cover_as_they_say(name: str) -> None:
    """On a grid more often, since the interval has the grid in it."""
    assert cover(ESTIMATORS[name], "normal", 5, 100) > 0.9
