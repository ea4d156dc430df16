"""Does batch normalization need less careful initial weights?

The paper's network begins with weights from N(0, std²), of six standard deviations that are a factor of 10 apart. Table
``rates`` has, for every rate, from how many of them it ends at 90% or more (0% if it diverged); table ``best`` has
each arm at the rate at which these are most, and how many batch norm gains, paired by seed. The figure is of these
rates.

A critic would say that 90% is far from the best accuracy, and that nobody trains a plain ReLU network from N(0, 100²)
but by He's or Xavier's scheme: that is the careful initialization which batch norm is to make needless.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from bnrepro import Results, analysis, figures
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

LEVEL, ARM, STD, USABLE = 0.9, ["activation", "norm"], "model.init.std", "usable deviations"


def analyse(results: Results) -> Tables:
    """Return from how many standard deviations each arm ends at ``LEVEL`` or more, and its accuracy from each."""
    runs, rates, best = analysis.outcomes(results), dict[Any, Estimate](), dict[Any, Estimate]()
    analysis.cells(runs, [*ARM, "lr", STD])  # nothing is pooled
    chosen, counts = list[pd.DataFrame](), dict[tuple[str, str], pd.Series]()
    for (activation, norm), arm in analysis.groups(runs, ARM).items():
        of_rates = {lr: (of["accuracy"] >= LEVEL).groupby(of["seed"]).sum() for lr, of in arm.groupby("lr")}
        rates |= {(activation, norm, lr, USABLE): analysis.mean(count) for lr, count in of_rates.items()}
        rate: Any = max(of_rates, key=lambda lr: (of_rates[lr].mean(), lr))
        counts[activation, norm] = of_rates[rate]
        chosen.append(arm[arm["lr"] == rate])
        best[activation, norm, "best rate"] = Estimate(rate, n=len(of_rates[rate]))
        best[activation, norm, USABLE] = rates[activation, norm, rate, USABLE]
        if norm != "none" and (plain := counts.get((activation, "none"))) is not None:
            best[activation, norm, "gain"] = analysis.difference(of_rates[rate], plain)
    return {
        "best": analysis.table(best, [*ARM, "quantity"]),
        "rates": analysis.table(rates, [*ARM, "lr", "quantity"]),
        **analysis.finals(pd.concat(chosen), [*ARM, STD]),
    }


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw final accuracy against the standard deviation, for each arm at its best rate."""
    setting, final, diverged = "standard deviation of the initial weights", tables["final"], tables["diverged"]
    return {"initialization": figures.accuracy_against(setting, final, diverged, level=LEVEL)}


def findings(tables: Tables) -> list[Finding]:
    """Return the number of standard deviations that batch norm adds, per activation."""
    table = tables["best"]
    return [
        analysis.above(f"{activation}, usable deviations gained", estimate(table, activation, "batch", "gain"), 1)
        for activation in levels(table, "activation")
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="A3",
            section="Abstract",
            sentence="Batch norm allows to be less careful about initialization.",
            criterion="Of standard deviations a factor of 10 apart at least 1 more ends at 90%, with the interval.",
            findings=findings,
            figure="initialization",
        )
    ],
    arms=[*ARM, "model.init", "lr"],
    needs=["run.test_accuracy"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
