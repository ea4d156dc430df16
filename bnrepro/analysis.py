"""Turn results into numbers: arms, pairs and replicates, and estimates with intervals. Here is no text and no plot.

Runs of one *cell* are those with one value of each setting of the *arms* that an experiment compares. They differ in
their *replicate*, the seed, alone. Runs of one seed are *pairs* across cells, since they share initial weights and the
order of mini-batches. A setting that varies and is none of these makes *facets*, which are analysed one by one: nothing
is pooled.

Intervals have a coverage of 95% and are Student's t-intervals of means over seeds (Student 1908), for what is positive
of means of logarithms. Those of the percentile bootstrap, with as few as 3 to 10 seeds, are too narrow: of normally
distributed values they cover the mean in 75% to 90% of all cases (``tests/test_analysis.py`` has both).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from .config import COLUMNS
from .errors import InputError
from .settings import to_override
from .store import Results, hashable, is_setting

REPLICATE = "seed"
"""The setting in which the runs of one cell differ."""

DIVERGED_ACCURACY = 0.0
"""The final accuracy of a run that diverged, less than any that did not."""

COVERAGE = 0.95

FIRST: Mapping[str, Sequence[str]] = {"activation": ("sigmoid", "relu"), "norm": ("none", "batch")}
"""The values of settings that come first in tables and figures, in the order of the paper; others are sorted."""

Tables = dict[str, pd.DataFrame]
"""Tables of an experiment, by name; the columns of each are those of :class:`Estimate`, its index says of what."""


class Estimate(NamedTuple):
    """A number, and what is known of it. In tables of an experiment it is a row."""

    value: float
    """The mean over seeds, on the scale that is stated; NaN if there is none."""
    low: float = math.nan
    """The lower end of the interval; NaN without one, as with a single seed."""
    high: float = math.nan
    n: int = 1
    """The number of seeds, or of pairs of runs."""
    bound: int = 0
    """1 if the true number is at least this, -1 if it is at most this; 0 if it is neither."""

    def map(self, function: Callable[[float], float]) -> Estimate:
        """Return the estimate on another scale, by a function that grows."""
        return self._replace(value=function(self.value), low=function(self.low), high=function(self.high))


NOTHING = Estimate(math.nan, n=0)
"""The estimate of what no run tells."""


# Cells and facets


def facets(results: Results, arms: Sequence[str]) -> Iterator[tuple[dict[str, Any], Results]]:
    """Split results into parts in which nothing varies but the settings of ``arms`` and the replicate.

    A run without a setting, such as an option of batch norm, has the value None of it.

    Args:
        results: of any runs.
        arms: the settings that are compared: columns of table ``runs``, or dotted keys, of a group for all of it.

    Yields:
        The value of each setting that makes the facet, none if there is but one, and its results. Every run is in one.
    """
    settings = _settings(results.runs)
    names = [str(column) for column in settings]
    compared = [column for column in names if column == REPLICATE or is_among(column, arms)]
    others = [column for column in names if column not in compared]
    by = [column for column in others if column in results.varying]
    # What differs within a cell makes facets too, even if it is only there or not.
    cell = settings[[*compared, *by]].apply(tuple, axis=1)
    by += [c for c in others if c not in by and settings.groupby(cell)[c].nunique(dropna=False).max() > 1]
    if not by:
        yield {}, results
        return
    parts = settings[by].apply(tuple, axis=1)
    for values in sorted(set(parts), key=lambda part: [_rank(c, v) for c, v in zip(by, part, strict=True)]):
        yield dict(zip(by, values, strict=True)), results.part((parts == values).to_numpy())


def _settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of ``runs`` that are settings, hashable, and with None for what a run does not have."""
    columns = filter(is_setting, runs)
    return pd.DataFrame({column: [_plain(value) for value in runs[column]] for column in columns}, dtype=object)


def _plain(value: Any) -> Any:
    return None if value != value else hashable(value)


def is_among(column: str, arms: Iterable[str]) -> bool:
    """Tell whether a column of table ``runs`` is one of ``arms``, or a setting of a group that is."""
    keys = {short: key for key, short in COLUMNS.items()}
    return any(arm in ("", column) or f"{keys.get(column, column)}.".startswith(f"{arm}.") for arm in arms)


def changes(runs: pd.DataFrame, among: Iterable[str], but: Sequence[str] = (), none: str = "") -> list[str]:
    """Name each run by the settings in which it differs from most of those that have them, as ``lr=0.1, steps=100``.

    Args:
        runs: rows of table ``runs``.
        among: the settings that can be named, as the arms of an experiment are.
        but: of these the ones that are left out, besides the replicate.
        none: the name of a run that differs in none.
    """
    found = _settings(runs)
    found = found[[c for c in map(str, found) if is_among(c, among) and not is_among(c, (*but, REPLICATE))]]
    usual = {column: values.mode().get(0) for column, values in found.items()}
    return [
        ", ".join(f"{c}={to_override(v)}" for c, v in run.items() if v is not None and v != usual[c]) or none
        for run in found.to_dict("records")
    ]


def groups(table: pd.DataFrame, by: Sequence[str]) -> dict[Any, pd.DataFrame]:
    """Return the rows of a table by the values of columns, a tuple if these are several, in the order of ``FIRST``."""
    found = dict(iter(table.groupby(list(by), dropna=False, sort=False)))
    ordered = sorted(found, key=lambda key: [_rank(c, v) for c, v in zip(by, key, strict=True)])
    return {(key if len(by) > 1 else key[0]): found[key] for key in ordered}


def cells(runs: pd.DataFrame, by: Sequence[str]) -> dict[Any, pd.DataFrame]:
    """Return the runs of each cell, indexed by their replicate, in the order of :func:`groups`.

    Raises:
        InputError: if two runs of a cell have the same replicate, so that something else would be pooled.
    """
    found = groups(runs, by)
    for key, members in found.items():
        if (twice := members[REPLICATE].duplicated()).any():
            where = ", ".join(f"{c}={to_override(v)}" for c, v in zip(by, np.atleast_1d(key), strict=True))
            raise InputError(
                f"{REPLICATE}={members.loc[twice, REPLICATE].iloc[0]}: more than one run of {where}, "
                "which differ in a setting that is not compared here"
            )
    return {key: members.set_index(REPLICATE).sort_index() for key, members in found.items()}


def levels(table: pd.DataFrame, name: str) -> list[Any]:
    """Return the values that occur in a column or an index level, in the order of ``FIRST``, then sorted."""
    values = table.index.get_level_values(name) if name in table.index.names else table[name]
    return sorted(values.dropna().unique(), key=lambda value: _rank(name, value))


def _rank(name: str, value: Any) -> tuple[int, float, str]:
    first = list(FIRST.get(name, ()))
    if value in first:
        return first.index(value), 0.0, ""
    number = isinstance(value, int | float | np.number) and value == value
    return len(first) + (not number), float(value) if number else 0.0, str(value)


# What is measured of a run


def outcomes(results: Results) -> pd.DataFrame:
    """Return table ``runs`` with the final ``accuracy``, ``DIVERGED_ACCURACY`` if it ``diverged``; none that failed."""
    runs = results.runs[results.runs["status"] != "failed"]
    return runs.assign(accuracy=runs["test_accuracy"].fillna(DIVERGED_ACCURACY), diverged=runs["status"] == "diverged")


def initializations(runs: pd.DataFrame) -> pd.Series:
    """Name how the weights of each run began: ``std 0.1`` for Gaussian ones, else by the scheme; empty if unknown."""
    none = pd.Series(None, runs.index, dtype=object)
    scheme, std = (runs.get(f"model.init.{key}", none) for key in ("scheme", "std"))
    names = std.astype(float).map("std {:g}".format)
    return names.where(std.notna(), scheme.astype(object).where(scheme.notna(), ""))


SMOOTH = 1.15
"""How many times later, and earlier, the measurements are that are averaged where a curve is smoothed."""


def smoothed(curves: pd.DataFrame) -> pd.DataFrame:
    """Return curves of the mean test accuracy over all measured steps from ``step / SMOOTH`` to ``step · SMOOTH``.

    A noisy curve first reaches a level when its noise does. Where measurements are further apart, and before the first
    step, the mean is of one.
    """
    curves = curves.sort_values(["run_id", "step"], ignore_index=True)
    means = []
    for _, curve in curves.groupby("run_id"):
        step, total = curve["step"].to_numpy(float), np.cumsum([0.0, *curve["test_accuracy"]])
        first, last = np.searchsorted(step, step / SMOOTH), np.searchsorted(step, step * SMOOTH, "right")
        means.append((total[last] - total[first]) / (last - first))
    return curves.assign(test_accuracy=np.round(np.concatenate(means), 9)) if means else curves


def crossings(runs: pd.DataFrame, targets: pd.Series, curves: pd.DataFrame) -> pd.DataFrame:
    """Return between which steps each run first has at least its target of test accuracy.

    Args:
        runs: rows of table ``runs``.
        targets: test accuracy for each row of ``runs``.
        curves: table ``curves``.

    Returns:
        For each row of ``runs``, ``steps``, the first measured step after 0 at which it has, and ``least``, one more
        than the measured step before; inf where the run never gets there, NaN without a target.
    """
    row = pd.Index(runs["run_id"]).get_indexer(curves["run_id"])
    own = (row >= 0) & (curves["step"] > 0).to_numpy()
    order = np.lexsort((curves["step"][own], row[own]))
    row, step, accuracy = (np.asarray(each)[own][order] for each in (row, curves["step"], curves["test_accuracy"]))
    least = np.where(np.diff(row, prepend=-1), 0, np.roll(step, 1)) + 1
    there = accuracy >= targets.to_numpy(float)[row]
    reached, first = np.unique(row[there], return_index=True)
    found = pd.DataFrame(math.inf, runs.index, ["steps", "least"])
    found.iloc[reached] = np.stack([step, least], axis=1)[there][first]
    return found.where(targets.notna(), axis=0)


def steps_to(runs: pd.DataFrame, targets: pd.Series, curves: pd.DataFrame) -> pd.Series:
    """Return the ``steps`` of :func:`crossings`."""
    return crossings(runs, targets, curves)["steps"]


class UsableRange(NamedTuple):
    """The longest unbroken row of usable values of a setting, and the values beside it that are not."""

    low: float
    high: float
    below: float
    """The next value of the grid, which is not usable; 0 if the grid ends."""
    above: float
    """The next value of the grid, which is not usable; inf if the grid ends."""


def usable_range(accuracy: pd.Series, level: float) -> UsableRange:
    """Return the values of a setting from ``low`` to ``high`` of which all end at an accuracy of ``level`` or more.

    Args:
        accuracy: final accuracy of one seed, indexed by the positive value of the setting.
        level: of accuracy.

    Returns:
        The row that spans the largest ratio, of equals that of larger values; NaN if no value is usable.
    """
    accuracy = accuracy.sort_index()
    grid = [0.0, *accuracy.index, math.inf]
    best, ratio = UsableRange(math.nan, math.nan, math.nan, math.nan), 0.0
    for usable, row in itertools.groupby(range(1, len(grid) - 1), lambda i: bool(accuracy.iloc[i - 1] >= level)):
        first, *_, last = [*(numbers := list(row)), numbers[-1]]
        if usable and grid[last] / grid[first] >= ratio:
            best, ratio = (
                UsableRange(grid[first], grid[last], grid[first - 1], grid[last + 1]),
                grid[last] / grid[first],
            )
    return best


def best_value(runs: pd.DataFrame, setting: str) -> Any:
    """Return the value of a setting with the highest mean final accuracy over seeds, the largest of equals, or None."""
    means = runs.groupby(setting)["accuracy"].mean().round(12)
    return means[means == means.max()].index.max() if len(means) else None


def fastest_value(runs: pd.DataFrame, setting: str) -> Any:
    """Return the value of a setting that takes the fewest ``steps``, in the geometric mean over seeds, or None.

    Values with which most seeds get there come first, with any number of steps; inf is of a run that never does. Of
    equals it is the largest.
    """
    values, of = np.unique(runs[setting], return_inverse=True)
    there = np.isfinite(taken := runs["steps"].to_numpy(float))
    seeds = np.bincount(of[there], minlength=len(values))
    logs = np.bincount(of[there], np.log(taken[there]), len(values)) / np.maximum(seeds, 1)
    return values[np.lexsort([-logs.round(9), seeds])[-1]] if len(values) else None


# Estimates


def mean(values: pd.Series | np.ndarray) -> Estimate:
    """Return the mean and its t-interval, none where a value is infinite; values that are NaN are left out."""
    from scipy.special import stdtrit  # which takes 0.2 s, and nothing is estimated where a sweep is only checked

    x = np.asarray(values, float)
    x = x[~np.isnan(x)]
    if len(x) == 0:
        return NOTHING
    bounded = len(x) > 1 and np.isfinite(x).all()
    half = stdtrit(len(x) - 1, (1 + COVERAGE) / 2) * x.std(ddof=1) / math.sqrt(len(x)) if bounded else math.nan
    return Estimate(x.mean(), x.mean() - half, x.mean() + half, len(x))


def geometric_mean(values: pd.Series | np.ndarray) -> Estimate:
    """Return the geometric mean of what is positive, and the t-interval of its logarithm; NaN is left out."""
    with np.errstate(over="ignore"):  # an end beyond what a float can hold is infinite
        return mean(np.log(np.asarray(values, float))).map(lambda x: float(np.exp(x)))


def share(happened: pd.Series) -> Estimate:
    """Return the share of seeds in which something happened, or the mean of shares, with no interval."""
    return Estimate(float(happened.mean()), n=len(happened))


def difference(of: pd.Series, to: pd.Series) -> Estimate:
    """Return the mean of ``of − to``, paired by their index."""
    return mean(of - to)


def ratio(of: pd.Series, to: pd.Series) -> Estimate:
    """Return the geometric mean of ``of / to``, paired by their index; pairs that are not positive are left out."""
    quotient = of / to
    return geometric_mean(quotient.where((quotient > 0) & np.isfinite(quotient)))


def steps(taken: pd.Series, limit: pd.Series) -> Estimate:
    """Return the geometric mean of steps, inf where a run never gets there.

    Such a run is taken to need its ``limit``, the steps that it was given, so that the mean is a lower bound.
    """
    found, never = geometric_mean(taken.mask(taken > limit, limit)), np.isinf(taken)
    if never.any():
        return found._replace(low=math.nan if never.all() else found.low, high=math.nan, bound=1)
    return found


def speed_up(plain: pd.Series, other: pd.Series, limit: pd.Series) -> Estimate:
    """Return the geometric mean of the ratio of steps ``plain / other``, paired by seed; inf is a run that never ends.

    Such a run is taken to need its ``limit``, the steps that both were given, so that the mean is a bound: a lower one
    if it is the plain run, an upper one if it is the other. NOTHING is known if both happen.
    """
    one, two, given = (each.reindex(plain.index).to_numpy(float) for each in (plain, other, limit))
    pairs = ~np.isnan(one) & ~np.isnan(two)
    plain_never, other_never = np.isinf(one[pairs]).any(), np.isinf(two[pairs]).any()
    if plain_never and other_never:
        return NOTHING
    found = geometric_mean((np.minimum(one, given) / np.minimum(two, given))[pairs])
    if plain_never:
        return found._replace(high=math.nan, bound=1)
    return found._replace(low=math.nan, bound=-1) if other_never else found


def speed_up_between(plain: pd.DataFrame, other: pd.DataFrame, limit: pd.Series) -> Estimate:
    """Return the :func:`speed_up`, with an interval that has the steps between measurements in it.

    Args:
        plain: what :func:`crossings` returns, indexed by seed.
        other: likewise, of those that are compared with them.
        limit: the steps that both were given.
    """
    return speed_up(plain["steps"], other["steps"], limit)._replace(
        low=speed_up(plain["least"], other["steps"], limit).low,
        high=speed_up(plain["steps"], other["least"], limit).high,
    )


def speed_up_to(level: float | pd.Series, plain: pd.DataFrame, other: pd.DataFrame, curves: pd.DataFrame) -> Estimate:
    """Return the :func:`speed_up_between` to a test accuracy.

    Args:
        level: of test accuracy; of each seed, if it is indexed by these.
        plain: rows of table ``runs``, indexed by seed.
        other: likewise, of those that are compared with them.
        curves: table ``curves``.
    """
    one, two = (crossings(runs, pd.Series(level, runs.index), curves) for runs in (plain, other))
    return speed_up_between(one, two, plain["steps"])


def between(low: pd.Series, high: pd.Series, value: pd.Series | None = None) -> Estimate:
    """Return the geometric mean of numbers that are known to lie between two, as those read off a grid of settings.

    The interval is from the lower end of that of ``low`` to the upper end of that of ``high``. Where ``low`` is 0 or
    ``high`` infinite, because the grid ends there, the mean is a bound.

    Args:
        low: at least.
        high: at most.
        value: the number itself, as far as it is known; ``low`` by default.
    """
    open_below, open_above = (low == 0).any(), np.isinf(high).any()
    return geometric_mean(low if value is None else value)._replace(
        low=math.nan if open_below else geometric_mean(low).low,
        high=math.nan if open_above else geometric_mean(high).high,
        bound=int(open_above) - int(open_below),
    )


def jackknife(statistic: Callable[[pd.DataFrame], float], replicates: Sequence[pd.DataFrame]) -> Estimate:
    """Return a statistic of several seeds together, and its t-interval by the jackknife (Tukey 1958).

    Args:
        statistic: of the concatenated replicates; smooth, so not a median.
        replicates: what there is of each seed.
    """
    whole, n = statistic(pd.concat(replicates)), len(replicates)
    if n < 2:
        return Estimate(whole, n=n)
    without = [statistic(pd.concat([*replicates[:i], *replicates[i + 1 :]])) for i in range(n)]
    pseudo = mean(pd.Series([n * whole - (n - 1) * each for each in without]))
    half = (pseudo.high - pseudo.low) / 2
    return Estimate(whole, whole - half, whole + half, n)


# Tables


def table(rows: Mapping[Any, Estimate], names: Sequence[str]) -> pd.DataFrame:
    """Return a table of estimates: a row each, indexed by its key, whose parts have ``names``."""
    index = pd.MultiIndex.from_tuples([key if isinstance(key, tuple) else (key,) for key in rows], names=[*names])
    found = pd.DataFrame(list(rows.values()), index=index, columns=list(Estimate._fields))
    return found.astype({"value": float, "low": float, "high": float, "n": int, "bound": int})


def spread(values: pd.DataFrame, column: str, by: Sequence[str]) -> pd.DataFrame:
    """Return what a figure draws of replicates: the median of a column as ``value``, from the lowest to the highest.

    Args:
        values: a row per replicate and key.
        column: of ``values``; NaN is left out.
        by: the columns of ``values`` that are the key.
    """
    seeds = values.dropna(subset=column).groupby(list(by), sort=False)[column]
    columns = {"value": seeds.median(), "low": seeds.min(), "high": seeds.max(), "n": seeds.size(), "bound": 0}
    return pd.DataFrame(columns)


def finals(runs: pd.DataFrame, by: Sequence[str]) -> Tables:
    """Return what a figure draws of how runs end: ``final`` accuracy of those that do, and the share ``diverged``.

    Args:
        runs: as :func:`outcomes` returns them.
        by: the columns that make a cell.
    """
    diverged = {key: share(cell["diverged"]) for key, cell in cells(runs, by).items()}
    return {"final": spread(runs[~runs["diverged"]], "accuracy", by), "diverged": table(diverged, by)}


def rows(found: pd.DataFrame, *key: Any) -> pd.DataFrame:
    """Return the rows of a table whose index begins with ``key``, indexed by what is left of it."""
    names = found.index.names[: len(key)]
    chosen = np.ones(len(found), dtype=bool)
    for name, value in zip(names, key, strict=True):
        chosen &= np.asarray(found.index.get_level_values(str(name)) == value)
    return found[chosen].droplevel([*range(len(key))])


def estimate(found: pd.DataFrame, *key: Any) -> Estimate:
    """Return the estimate in a row of a table; NOTHING if it has no such row."""
    if key not in found.index:
        return NOTHING
    row: Any = found.loc[key]
    return Estimate(float(row["value"]), float(row["low"]), float(row["high"]), int(row["n"]), int(row["bound"]))


# Verdicts

Answer = Literal["reproduces", "reproduces in part", "does not reproduce", "can't be told from these runs"]


class Finding(NamedTuple):
    """An estimate, held against a criterion."""

    of: str
    """The quantity that is estimated, and of which runs."""
    estimate: Estimate
    holds: bool | None
    """Whether the whole interval meets the criterion; False if none of it does; None if neither can be told."""


def above(of: str, found: Estimate, threshold: float) -> Finding:
    """Hold against a criterion that the estimate is at least ``threshold``."""
    low = found.low if found.bound >= 0 else -math.inf
    high = found.high if found.bound <= 0 else math.inf
    return Finding(of, found, True if low >= threshold else False if high < threshold else None)


def beyond(of: str, found: Estimate, threshold: float) -> Finding:
    """Hold against a criterion that the estimate is more than ``threshold``."""
    return above(of, found, np.nextafter(threshold, math.inf))


def below(of: str, found: Estimate, threshold: float) -> Finding:
    """Hold against a criterion that the estimate is at most ``threshold``."""
    low = found.low if found.bound >= 0 else -math.inf
    high = found.high if found.bound <= 0 else math.inf
    return Finding(of, found, True if high <= threshold else False if low > threshold else None)


def within(of: str, found: Estimate, low: float, high: float) -> Finding:
    """Hold against a criterion that the estimate is at least ``low`` and at most ``high``."""
    held = {above(of, found, low).holds, below(of, found, high).holds}
    return Finding(of, found, False if False in held else None if None in held else True)


def judge(findings: Sequence[Finding]) -> Answer:
    """Say whether a claim reproduces: it does if all findings hold, it does not if none does, else in part.

    It can't be told if none holds and some can't be told, or if there are none.
    """
    held = [finding.holds for finding in findings]
    if held and all(held):
        return "reproduces"
    if any(held):
        return "reproduces in part"
    return "does not reproduce" if held and None not in held else "can't be told from these runs"
