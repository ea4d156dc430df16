"""Is weight decay, with batch normalization, nothing but a growing learning rate?

The scale of weights before batch norm changes nothing but the size of their steps (Section 3.3). So SGD with weight
decay of hidden weights, and SGD without it at a rate that grows exponentially, go through the same functions (Li &
Arora 2020), in exact arithmetic with ε = 0. Here both train the paper's network in float64: table ``growing_rate`` has
the largest relative difference of their training losses at any measurement (geometric), and that of their final
accuracies, for which moving averages lag behind weights of which one kind shrinks and the other grows.

A critic would say that this is of plain SGD, and that a criterion for all steps asks for more than equal functions:
where training is chaotic, as that of ReLU networks is at this rate, differences of rounding grow by a factor per step,
until the two runs are as far apart as two runs can be. The figure shows both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels, rows
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

ARM, LOSSES = ["activation", "norm"], "difference of losses"
EXACT = 1e-9
"""The largest relative difference of two losses in float64 that is one of rounding, after a thousand steps."""
RULES = {"decayed": "constant rate, weight decay", "grown": "growing rate, no weight decay"}


def analyse(results: Results) -> Tables:
    """Return how far apart runs with weight decay and runs at a growing rate are, seed by seed."""
    runs, curves = analysis.outcomes(results), results.table("curves")
    runs["rule"] = ["decayed" if decay > 0 else "grown" for decay in runs["optimizer.weight_decay"]]
    cells = {rule: analysis.cells(runs[runs["rule"] == rule], ARM) for rule in RULES}
    of_run = curves.set_index(["run_id", "step"])["train_loss"]
    found, apart = dict[Any, Estimate](), [pd.DataFrame({"step": [], "apart": [], "activation": [], "norm": []})]
    for arm, cell in cells["decayed"].items():
        other = cells["grown"].get(arm, cell[:0])
        largest = dict[Any, float]()
        for seed in cell.index.intersection(other.index):
            decayed, grown = (of_run[str(runs_of.loc[seed, "run_id"])] for runs_of in (cell, other))
            differences = ((decayed - grown).abs() / decayed).rename("apart")
            apart.append(differences.reset_index().assign(**dict(zip(ARM, arm, strict=True))))
            largest[seed] = max(differences.max(), np.finfo(float).eps)  # below which there is no difference to see
        found[*arm, LOSSES] = analysis.geometric_mean(pd.Series(largest, dtype=float))
        found[*arm, "difference of accuracies"] = analysis.mean((cell["accuracy"] - other["accuracy"]).abs())
    losses = curves.merge(runs[["run_id", "rule", *ARM]])
    return {
        "growing_rate": analysis.table(found, [*ARM, "quantity"]),
        "losses": analysis.spread(losses, "train_loss", [*ARM, "rule", "step"]),
        "apart": analysis.spread(pd.concat(apart), "apart", [*ARM, "step"]),
    }


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw the losses of both rules, and how far they are apart, a row for each activation and norm."""
    arms = [*dict.fromkeys((activation, norm) for activation, norm, *_ in tables["losses"].index)]
    figure, axes = parts.grid(len(arms), 2, (4.2, 3.2))
    for (ax, difference), arm in zip(axes, arms, strict=True):
        for rule, width in zip(RULES, (4.5, 1.5), strict=True):
            look = parts.style(RULES[rule], RULES.values()) | {"marker": None, "linewidth": width}
            parts.line(ax, rows(tables["losses"], *arm, rule), look)
        apart = rows(tables["apart"], *arm)
        parts.line(difference, apart[apart["value"] > 0], {"color": "0.2"})
        name = f"{parts.activation_label(arm[0])}, {parts.style(arm[1])['label']}"
        for each, label in ((ax, "loss on the probe batch (nats)"), (difference, "|difference of losses| / loss")):
            parts.axis_of_steps(each, levels(tables["losses"], "step")[-1], logarithmic=False)
            each.set(yscale="log", ylabel=label, title=name)
        difference.set_ylim(1e-17, 10)  # from no difference to runs that have nothing in common
    seeds = parts.band_over(int(tables["losses"]["n"].max()))
    parts.legend(figure, [*parts.arms(RULES.values(), marker=None), *seeds])
    return {"growing_rate": figure}


def findings(tables: Tables) -> list[Finding]:
    """Return how far apart the losses of both rules are."""
    table = tables["growing_rate"]
    return [
        analysis.below(f"{activation}, {LOSSES}", estimate(table, activation, "batch", LOSSES), EXACT)
        for activation in levels(table, "activation")
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="+growing_rate",
            section="Li & Arora 2020",
            sentence="With batch norm, weight decay at a constant rate is an exponentially growing rate without it.",
            criterion="In float64, losses differ by at most a share of 1e-9 at all measurements, with the interval.",
            findings=findings,
            figure="growing_rate",
        )
    ],
    arms=["optimizer.weight_decay", "lr_schedule", *ARM],
    needs=["run.train_loss"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
