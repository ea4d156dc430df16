"""What does an ensemble of six networks with batch normalization gain, and what would one network of the same cost?

The paper's six (Section 4.2.3) differ in initial weights, "increased" in some, in dropout (5% or 10%) and in whether
batch norm is per activation in the last hidden layers; what they predict is the mean of their probabilities. Here they
are fully connected, where batch norm is per activation anyway: three standard deviations of the initial weights and two
rates of dropout make six. Each of an ensemble has another seed too: that of member i of ensemble j is the (i + j)th, so
that no network is in two ensembles.

Table ``ensemble`` has means over ensembles: the error on test images of one network (the mean of the six), of the best
of the six (by test images, so flattered), of the ensemble, and of one network with six times the parameters or trained
for six times the steps, otherwise as the first of the six is; and the relative drop of the error against that of one
network, by the jackknife over ensembles. ``sizes`` has the error of 1 to 6 of the six, on average over which they are.

A critic would say that ensembles share seeds, and so initial draws and mini-batches, with members of others; that one
network of the same cost may need another rate; and that of small images there are few errors to be told apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Finding, Tables, estimate
from bnrepro.commands import redraw
from bnrepro.experiment import PREDICTIONS, Claim, Experiment
from bnrepro.store import Predictions

ONE, BEST, SIX = "one network", "best of the ensemble", "ensemble"
LARGER, LONGER = "6 times the parameters", "6 times the steps"
ERROR, DROP, LESS, PAPER = "error", "relative drop", "error beyond the ensemble's", 0.086


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes."""
    runs, predictions = analysis.outcomes(results), results.predictions
    runs["arm"] = _arms(runs)
    cells = analysis.cells(runs, ["arm"])
    members = [cell for arm, cell in cells.items() if arm not in (LARGER, LONGER)]
    errors, sizes = dict[int, dict[str, float]](), dict[Any, list[float]]()
    seeds = sorted({seed for cell in members for seed in cell.index})
    for j, first in enumerate(seeds):
        chosen = [seeds[(i + j) % len(seeds)] for i in range(len(members))]
        ids = [cell["run_id"].get(seed) for cell, seed in zip(members, chosen, strict=True)]
        found = [predictions[run_id] for run_id in ids if run_id in predictions]
        if len(found) < len(members) or len(members) < 2:
            continue
        by_size = _by_size(found)
        errors[first] = {ONE: by_size[1], BEST: min(_error([each]) for each in found), SIX: by_size[len(found)]}
        for size, error in by_size.items():
            sizes.setdefault(size, []).append(error)
        for arm in (LARGER, LONGER):
            if arm in cells and first in cells[arm].index:
                errors[first][arm] = round(1 - cells[arm]["accuracy"][first], 12)
    table = pd.DataFrame.from_dict(errors, orient="index", columns=[ONE, BEST, SIX, LARGER, LONGER])
    found_of = {(str(arm), ERROR): analysis.mean(table[arm]) for arm in table if table[arm].notna().any()}
    for arm in [arm for arm, _ in found_of if arm != ONE]:
        pairs = table[[ONE, SIX, arm]].loc[:, lambda t: ~t.columns.duplicated()].dropna()
        found_of[arm, DROP] = analysis.jackknife(partial(_drop, arm), [pairs.loc[[seed]] for seed in pairs.index])
        if arm in (LARGER, LONGER):
            found_of[arm, LESS] = analysis.difference(pairs[arm], pairs[SIX])
    return {
        "ensemble": analysis.table(found_of, ["network", "quantity"]),
        "sizes": analysis.table({k: analysis.mean(pd.Series(each)) for k, each in sizes.items()}, ["size"]),
    }


def _drop(arm: str, errors: pd.DataFrame) -> float:
    """Return how much lower the error is than that of one network, relative to that."""
    return float(1 - errors[arm].mean() / errors[ONE].mean())


def _arms(runs: pd.DataFrame) -> list[str]:
    """Name each run: a member by its initial weights and dropout, or one of those of the cost of six."""
    width = runs["model.hidden"].map(sum)
    return [
        LONGER if steps > runs["steps"].min() else LARGER if wide else f"std {std:g}, dropout {dropout:.0%}"
        for steps, wide, std, dropout in zip(
            runs["steps"], width > width.min(), runs["model.init.std"].astype(float), runs["model.dropout"], strict=True
        )
    ]


def _error(members: Sequence[Predictions]) -> float:
    """Return the error of the mean of what networks predict; of equal classes the first is taken."""
    probabilities = sum(member.probabilities.astype(np.float64) for member in members)
    return float((np.argmax(probabilities, axis=1) != members[0].labels).mean())


def _by_size(members: Sequence[Predictions]) -> dict[int, float]:
    """Return the error of ensembles of so many of the networks, on average over all choices."""
    return {
        size: float(np.mean([_error(chosen) for chosen in itertools.combinations(members, size)]))
        for size in range(1, len(members) + 1)
    }


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw the error against the number of networks in an ensemble, beside that of one network of the cost of six."""
    found, sizes = tables["ensemble"], tables["sizes"]
    sizes = sizes.set_axis(sizes.index.get_level_values("size"))
    figure, (ax,) = parts.panels(["networks with batch norm"], (5.2, 3.6))
    most = int(sizes.index.max()) if len(sizes) else 1
    parts.points(ax, sizes, parts.style("batch") | {"linestyle": ""}, markersize=6)
    for i, arm in enumerate((LARGER, LONGER), start=1):
        if (value := estimate(found, arm, ERROR)).n:
            look = parts.style(arm, (LARGER, LONGER)) | {"linestyle": ""}
            parts.points(ax, pd.DataFrame([value], index=[most + 0.15 * i]), look, markersize=6)
    if len(sizes):
        ax.plot(sizes.index, sizes["value"], **parts.style("batch") | {"marker": None})
    ax.set(xlabel="networks in the ensemble", ylabel="test error", xticks=range(1, most + 1))
    ax.set_ylim(bottom=0)
    arms = [Line2D([], [], **parts.style("batch") | {"label": "mean of the probabilities of so many"})]
    arms += [
        Line2D([], [], **parts.style(name, (LARGER, LONGER)) | {"label": f"one network, {name}", "linestyle": ""})
        for name in (LARGER, LONGER)
        if estimate(found, name, ERROR).n
    ]
    bar = Line2D([], [], marker="|", ms=10, color="0.3", ls="", label="95% interval of the mean")
    parts.legend(figure, [*arms, bar])
    return {"ensemble": figure}


def _gains(tables: Tables) -> list[Finding]:
    """Return the relative drop of the error by the ensemble."""
    return [analysis.above(f"{SIX}: {DROP} of the error", estimate(tables["ensemble"], SIX, DROP), PAPER)]


def _beats_one_of_its_cost(tables: Tables) -> list[Finding]:
    """Return how much larger the error of one network of the cost of six is than that of the ensemble."""
    return [
        analysis.beyond(f"one network, {arm}: {LESS}", estimate(tables["ensemble"], arm, LESS), 0)
        for arm in (LARGER, LONGER)
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="4.2.3",
            section="Section 4.2.3",
            sentence="The mean of what six networks with batch norm predict has a lower error than one of them.",
            criterion="The relative drop of the error, with its whole interval, is at least the paper's smaller, 8.6%.",
            findings=_gains,
            figure="ensemble",
            paper="top-1 error from 21.99% to 20.1% (-9%), top-5 error from 5.82% to 4.9% (-16%)",
        ),
        Claim(
            id="+ensemble",
            section="Section 4.2.3",
            sentence="Six networks have a lower error than one network of the same cost.",
            criterion="One network of 6 times the parameters, and one trained for 6 times the steps, have a higher "
            "error, each with the whole interval of the difference.",
            findings=_beats_one_of_its_cost,
            figure="ensemble",
        ),
    ],
    arms=["model", "train.steps"],
    needs=["run.test_accuracy", PREDICTIONS],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
