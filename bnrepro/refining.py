"""Add values of a setting to a sweep where its runs begin to reach, or to miss, an accuracy: a grid that adapts.

Which values are added follows from the grid and the stored results alone, whatever the order in which runs end: each
interval of the grid is bisected by what the runs at its two ends came to, and beyond the grid's ends each value by what
the runs at the one before came to. So an interrupted sweep goes on as if nothing had happened, and what is shown later
is found by the same rule, without a record of its own.

Each *cell*, the runs that differ in that setting and in their seed alone, is refined by itself, with all of its seeds.
Cells are sure to have the values of the grid in common and no others, since their ends lie apart: a union of their
values would train each cell at the ends of all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from .config import Refine, RunConfig, Settings
from .errors import InputError
from .store import Store
from .sweeping import Keys, combine, find_axes

Reached = Callable[[float], Sequence[float] | None]
"""The function that tells which runs at a value reach which levels, in one order: true or false for each pair. It is
None where a run has not ended, or failed."""

SEED = ("seed",)

MOST_ROUNDED = 1.05
"""The ratio to which values are rounded at most, which takes two digits, or one."""


def added_values(grid: Sequence[float], reached: Reached, ratio: float, widest: float) -> list[float]:
    """Return the values that a cell has beside those of its grid, as far as the runs that have ended tell.

    Args:
        grid: positive values; of less than two none are added.
        reached: what came of the runs at a value.
        ratio: how far apart neighbours that differ in what they reach may be.
        widest: how many times beyond the ends of the grid values may go, while any level is reached; in steps of the
            grid's mean spacing, or of ``ratio`` if that is more.
    """
    grid = sorted({*grid})
    if len(grid) < 2:
        return []
    step = max(ratio, (grid[-1] / grid[0]) ** (1 / (len(grid) - 1)))
    above = [*_outwards(grid[-1], step, reached, widest)]
    below = [*_outwards(grid[0], 1 / step, reached, widest)]
    every = sorted([*below, *grid, *above])
    inside = (value for low, high in itertools.pairwise(every) for value in _bisect(low, high, reached, ratio))
    return sorted([*below, *inside, *above])


def _outwards(end: float, step: float, reached: Reached, widest: float) -> Iterator[float]:
    value = end
    while any(reached(value) or ()):
        value = _rounded(value * step, max(step, 1 / step))
        if not 1 / widest <= value / end <= widest:
            return
        yield value


def _bisect(low: float, high: float, reached: Reached, ratio: float) -> Iterator[float]:
    ends = reached(low), reached(high)
    if None in ends or ends[0] == ends[1] or high / low <= ratio:
        return
    middle = _rounded(math.sqrt(low) * math.sqrt(high), high / low)
    yield middle
    yield from _bisect(low, middle, reached, ratio)
    yield from _bisect(middle, high, reached, ratio)


def _rounded(value: float, spacing: float) -> float:
    """Return the value with as few digits as keep it near, and nearer than a quarter of the spacing on a log scale."""
    most = min(MOST_ROUNDED, spacing**0.25)
    candidates = (float(f"{value:.{digits}g}") for digits in itertools.count(1))
    return next(each for each in candidates if value / most <= each <= value * most)


class Refinement:
    """The runs that a sweep asks for beside those of its grids; none unless its settings ask for a refinement."""

    def __init__(self, settings: Settings) -> None:
        """Check what the refinement asks for, before anything is trained.

        Raises:
            InputError: if the sweep can't be refined so.
        """
        self._parts: list[_Part] = []
        key = settings.refine.key
        if key is None:
            return
        given, path = f"sweep.refine.key={key}", tuple(key.split("."))
        grids = [dict(find_axes(grid)) for grid in settings.grids]
        names = dict.fromkeys(".".join(axis) for axes in grids for axis in axes if axis != SEED)
        if key not in names:
            raise InputError(f"{given}: must be one of {', '.join(names)}, the axes of the sweep's grid")
        if path[0] == "dataset":
            raise InputError(f"{given}: must not be of the data set, which is loaded before anything is trained")
        parts = [_Part(settings.run, axes, path, settings.refine) for axes in grids if path in axes]
        self._parts = [part for part in parts if len(part.grid) > 1]
        if not self._parts:
            raise InputError(f"{given}: must have at least two values in the sweep's grid")

    @property
    def most(self) -> int:
        """Return the number of runs that come on top of the grids' at most, whatever comes of these."""
        return sum(part.most for part in self._parts)

    def extend(self, runs: Sequence[RunConfig], store: Store | None) -> list[RunConfig]:
        """Return the runs of the grids and, after these, those that are asked for by what is stored."""
        found = {run.run_id: run for run in runs}
        if store and self._parts:
            finals = store.finals()
            found |= {run.run_id: run for part in self._parts for run in part.added(finals)}
        return list(found.values())


class _Part:
    """A grid with values of the setting that is refined."""

    def __init__(self, base: Mapping[str, Any], axes: Mapping[Keys, list[Any]], path: Keys, refine: Refine) -> None:
        self._base, self._path, self._refine = base, path, refine
        self._axes = {axis: values for axis, values in axes.items() if axis not in (path, SEED)}
        self._seeds = {SEED: axes[SEED]} if SEED in axes else {}
        self._runs: dict[float, list[list[RunConfig]]] = {}
        for value in axes[path]:
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise InputError(f"sweep.refine.key={refine.key}: must have numbers greater than 0, not {value}")
        self.grid = sorted({float(value) for value in axes[path]})
        every = self._added(lambda value: [value])  # as if no two values led to the same
        one_cell = {axis: values[:1] for axis, values in self._axes.items()}
        try:
            list(combine(base, [*one_cell.items(), (path, every)]) if every else ())
        except InputError as error:
            raise InputError(f"sweep.refine.key={refine.key}: may add values that are not allowed: {error}") from error
        self.most = len(every) * math.prod(map(len, (self._axes | self._seeds).values()))

    def _added(self, reached: Reached) -> list[float]:
        return added_values(self.grid, reached, self._refine.ratio, self._refine.widest)

    def added(self, finals: Mapping[tuple[str, str], float]) -> Iterator[RunConfig]:
        """Yield the runs that are asked for, by the final accuracies of those that have ended."""
        for cell in range(math.prod(map(len, self._axes.values()))):
            for value in self._added(partial(self._reached, finals, cell)):
                yield from self._cells(value)[cell]

    def _reached(self, finals: Mapping[tuple[str, str], float], cell: int, value: float) -> list[float] | None:
        keys = [(run.run_id, run.code) for run in self._cells(value)[cell]]
        if not all(key in finals for key in keys):
            return None
        return [finals[key] >= level for key in keys for level in self._refine.levels]

    def _cells(self, value: float) -> list[list[RunConfig]]:
        """Return the runs at a value: of each cell, those of all seeds."""
        if value not in self._runs:
            runs = list(combine(self._base, [*self._axes.items(), (self._path, [value]), *self._seeds.items()]))
            seeds = math.prod(map(len, self._seeds.values()))
            self._runs[value] = [runs[i : i + seeds] for i in range(0, len(runs), seeds)]
        return self._runs[value]
