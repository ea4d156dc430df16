"""Define what an experiment is, find it by its name, and check before training that its sweep can answer it.

An experiment is ``experiments/NAME.py`` beside ``conf/sweep/NAME.yaml``, ours or the user's own (``places``), with an
:class:`Experiment` by the name of ``EXPERIMENT``. Run as a script, it shows what is stored without training.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import places
from .analysis import Finding, Tables, is_among
from .config import COLUMNS, RunConfig
from .diagnostics import DIAGNOSTICS
from .errors import InputError
from .measuring import ALWAYS
from .recipe import MEASURES
from .settings import flatten, to_override
from .store import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TABLE_OF = {"run": "curves", "layer": "layers", "unit": "units"}
"""The table of results that has the columns of each level of measurement."""

PREDICTIONS = "predictions"
"""What an experiment needs that reads what runs predict of the test examples."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper or its critics claim, and what decides whether it reproduces."""

    id: str
    """The row of the ledger (:mod:`bnrepro.claims`) that this is; what is not the paper's own begins with ``+``."""
    section: str
    """The place in the paper, as ``Section 3.3``, or the work of its critics."""
    sentence: str
    """The claim in one sentence."""
    criterion: str
    """The condition that each finding has to meet, in one sentence; fixed before the runs are looked at."""
    findings: Callable[[Tables], Sequence[Finding]]
    """Returns the estimates on which the verdict rests, held against the criterion, the foremost first."""
    figure: str
    """The file name, without ending, of the figure that shows it."""
    paper: str = ""
    """The paper's own number, if it states one."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Claims, what it takes to test them, and how results become numbers, figures and verdicts.

    ``analyse`` and what follows get results in which nothing varies but ``arms`` and the seed: those of a sweep over
    further settings are given facet by facet (:func:`bnrepro.analysis.facets`). They may be any part of a sweep.
    """

    claims: Sequence[Claim]
    """What is tested: claims of which the same runs tell."""
    arms: Sequence[str]
    """The settings that are compared: columns of table ``runs``, or dotted keys, of a group for all of it."""
    needs: Sequence[str]
    """The columns without which there is nothing to analyse, as LEVEL.COLUMN: ``run.test_accuracy``; or PREDICTIONS."""
    uses: Sequence[str] = ()
    """The columns that are analysed too where they are measured."""
    analyse: Callable[[Results], Tables]
    """Returns tables of estimates: those with an index level ``quantity`` are printed, others are for figures."""
    draw: Callable[[Tables], dict[str, Figure]]
    """Returns figures by file name, of the tables alone."""

    def check(self, name: str, runs: Sequence[RunConfig]) -> None:
        """Refuse a sweep that can't answer the question, before it is trained.

        Raises:
            InputError: naming what is missing, and what has it.
        """
        for diagnostics in dict.fromkeys(tuple(run.diagnostics) for run in runs):
            measured = {f"run.{column.name}" for column in ALWAYS}
            for each in diagnostics:
                measured |= {f"{c.level}.{c.name}" for c in MEASURES.resolve(each, "diagnostics").columns}
            for missing in (column for column in self.needs if column not in (*measured, PREDICTIONS)):
                told = [n for n, d in DIAGNOSTICS.items() for c in d.columns if f"{c.level}.{c.name}" == missing]
                given = to_override(list(diagnostics))
                raise InputError(f"diagnostics={given}: {name} needs {' or '.join(told) or missing} among them")
        if PREDICTIONS in self.needs and not all(run.train.predictions for run in runs):
            raise InputError(f"train.predictions=false: must be true for {name}, which reads them")
        settings = {COLUMNS.get(key, key) for run in runs for key, _ in flatten(run.to_dict())}
        for arm in self.arms:
            if not any(is_among(setting, [arm]) for setting in settings):
                raise InputError(f"{arm}: {name} compares it, and no run of this sweep has such a setting")

    def columns(self, level: str) -> list[str]:
        """Return the columns of a level that the experiment may read."""
        return [column.partition(".")[2] for column in (*self.needs, *self.uses) if column.startswith(f"{level}.")]


def import_experiment(name: str) -> Experiment | None:
    """Import ``EXPERIMENT`` of the module ``experiments/NAME.py``; return None if there is no such file.

    Raises:
        InputError: if there is more than one of this name, or it can't be imported, or has no experiment.
    """
    path = places.find_experiment(name)
    if path is None:
        return None
    spec = importlib.util.spec_from_file_location(f"experiments.{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's own statements raise
        raise InputError(f"{path}: can't be imported ({type(error).__name__}: {error})") from error
    experiment = getattr(module, "EXPERIMENT", None)
    if not isinstance(experiment, Experiment):
        raise InputError(f"{path}: must have EXPERIMENT, a {Experiment.__module__}.{Experiment.__qualname__}")
    return experiment
