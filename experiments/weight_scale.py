"""Does the scale of weights matter to a network with batch normalization?

Two parts, each with its own runs of the paper's network (``conf/sweep/weight_scale.yaml``):

- ``identities`` (Section 3.3): after training, W of the middle hidden layer is multiplied by a. Slope is that of the
  logarithm of its gradient's norm against the logarithm of a; change is the largest relative one of all other
  gradients. Both are for a ≥ 1 (up) and for a ≤ 1 (down), where ε is no longer small beside σ², of which the paper
  says nothing.
- ``hidden_rates`` (Section 3.3): the rate lr of hidden weights alone over four decades, all else at 0.3: final accuracy
  (0 of a run that diverged), by what factor ‖W‖ has grown, and the effective rate lr / ‖W‖² at the end, both geometric
  means over hidden layers. Table ``all_hidden_rates`` has, by seed, the lowest accuracy, and the largest over the
  smallest of each rate.

A critic would say that a hidden rate of 1000 trains because logits, γ and β keep a rate of 0.3, and that an effective
rate at the end of training says little of how it came there.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels, rows
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

LEVEL, ARM = 0.9, ["activation", "norm"]
SCALES: dict[str, float] = importlib.import_module("bnrepro.experiments.scale_invariance").SCALES


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what the figures are drawn from."""
    runs = analysis.outcomes(results)
    hidden = runs["optimizer.name"].str.contains("HiddenSGD")
    return identities(runs[~hidden], results.table("curves")) | hidden_rates(runs[hidden], results.table("layers"))


def identities(runs: pd.DataFrame, curves: pd.DataFrame) -> Tables:
    """Return what a factor a on weights does to their own gradient and to all others, after the last step."""
    found, drawn = dict[Any, Estimate](), dict[Any, Estimate]()
    last = curves.loc[curves.groupby("run_id")["step"].idxmax()].set_index("run_id")
    for arm, cell in analysis.cells(runs, ARM).items():
        measured = last.loc[cell.loc[~cell["diverged"], "run_id"]]
        if not len(measured) or "scaled_own_1" not in measured:
            continue
        own = {a: measured[f"scaled_own_{end}"] for end, a in SCALES.items()} | {1.0: pd.Series(1.0, measured.index)}
        own = {a: of_run.where(of_run > 0) for a, of_run in own.items()}  # 0 where all units are dead
        others = {a: measured[f"scaled_others_{end}"] for end, a in SCALES.items()}
        for a in own:
            drawn["own", *arm, a] = analysis.geometric_mean(own[a])
            drawn["others", *arm, a] = analysis.geometric_mean(others.get(a, pd.Series(dtype=float)))
            drawn["behind", *arm, a] = Estimate(1 / a)
        for name, side in (("up", [a for a in own if a >= 1]), ("down", [a for a in own if a <= 1])):
            logs = np.log(pd.DataFrame({a: own[a] for a in side}).dropna().to_numpy(float))
            slopes = [np.polyfit(np.log(side), of_run, 1)[0] for of_run in logs]
            found[*arm, name, "slope of own gradient"] = analysis.mean(pd.Series(slopes))
            change = pd.DataFrame({a: others[a] for a in side if a != 1}).max(axis=1)
            found[*arm, name, "change of others"] = analysis.geometric_mean(change)
    return {
        "identities": analysis.table(found, [*ARM, "a", "quantity"]),
        "scaled": analysis.table(drawn, ["quantity drawn", *ARM, "factor"]),
    }


def hidden_rates(runs: pd.DataFrame, layers: pd.DataFrame) -> Tables:
    """Return what each rate of hidden weights alone leads to."""
    found, summary, drawn = (dict[Any, Estimate]() for _ in range(3))
    if "effective_rate" in layers and len(runs):
        hidden = layers[layers["run_id"].isin(runs["run_id"]) & (layers["layer"] < layers["layer"].max())]
        logs = hidden.assign(norm=np.log(hidden["weight_norm"]), effective=np.log(hidden["effective_rate"]))
        means = logs.groupby(["run_id", "step"])[["norm", "effective"]].mean().reset_index(level="step")
        first, last = (means.groupby("run_id").nth(i) for i in (0, -1))
        runs = runs.assign(
            growth=runs["run_id"].map(np.exp(last["norm"] - first["norm"])),
            effective=runs["run_id"].map(np.exp(last["effective"])),
        )
    for arm, of_arm in analysis.groups(runs, ARM).items():
        cells = analysis.cells(of_arm, ["lr"])
        for lr, cell in cells.items():
            found[*arm, lr, "final accuracy"] = analysis.mean(cell["accuracy"])
            if "growth" in cell:
                ended = cell[~cell["diverged"]]
                found[*arm, lr, "growth of weights"] = analysis.geometric_mean(ended["growth"])
                drawn["end", *arm, lr] = found[*arm, lr, "effective rate"] = analysis.geometric_mean(ended["effective"])
                drawn["behind", *arm, lr] = analysis.geometric_mean(ended["effective"] * ended["growth"] ** 2)
        by_seed = of_arm.groupby("seed")
        summary[*arm, "lowest accuracy"] = analysis.mean(by_seed["accuracy"].min())
        if len(cells) > 1 and "growth" in of_arm:
            ratio = by_seed["effective"].max() / by_seed["effective"].min()
            summary[*arm, "ratio of effective rates"] = analysis.geometric_mean(ratio.where(~by_seed["diverged"].any()))
            summary[*arm, "ratio of rates"] = Estimate(max(cells) / min(cells), n=len(ratio))
    return {
        "hidden_rates": analysis.table(found, [*ARM, "lr", "quantity"]),
        "all_hidden_rates": analysis.table(summary, [*ARM, "quantity"]),
        "effective": analysis.table(drawn, ["quantity drawn", *ARM, "lr"]),
        **{f"hidden_{name}": table for name, table in analysis.finals(runs, [*ARM, "lr"]).items()},
    }


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw the figures of each part of which there are runs."""
    drawn = dict[str, Figure]()
    if len(tables["hidden_diverged"]):
        final, diverged = tables["hidden_final"], tables["hidden_diverged"]
        drawn["hidden_rates"] = parts.accuracy_against("learning rate of hidden weights", final, diverged, level=LEVEL)
    if len(tables["scaled"]):
        labels = {"own": "norm of the gradient of aW / of W", "others": "relative change of all other gradients"}
        nothing = tables["hidden_diverged"][:0]
        drawn["identities"] = by_arm(tables["scaled"], labels, "factor a on the weights W", "1 / a", nothing)
    if len(tables["effective"]):
        labels, start = {"end": "effective rate lr / ‖W‖²"}, "before the first step"
        drawn["effective_rates"] = by_arm(
            tables["effective"], labels, "learning rate of hidden weights", start, tables["hidden_diverged"]
        )
    return drawn


def by_arm(
    table: pd.DataFrame, quantities: dict[str, str], setting: str, behind: str, diverged: pd.DataFrame
) -> Figure:
    """Draw quantities, a row each, against a setting, a column of panels per activation, with what is behind in grey.

    Args:
        table: of estimates by quantity, "behind" among them, activation, norm and value of the setting.
        quantities: those that have rows, with the labels of their axes.
        setting: the label of its axis.
        behind: the name of what the first row has behind.
        diverged: a table of shares of the seeds that diverged, for crosses in the first row.
    """
    activations, norms = levels(table, "activation"), levels(table, "norm")
    figure, axes = parts.grid(len(quantities), len(activations), (4.2, 3.0), sharex=True, sharey="row")
    for ax, activation in zip(axes[0], activations, strict=True):
        ax.set_title(parts.activation_label(activation))
        for norm in norms:
            ax.plot(rows(table, "behind", activation, norm)["value"].sort_index(), **parts.REFERENCE)
            parts.crosses_of(ax, rows(diverged, activation, norm), parts.style(norm, norms))
    for (quantity, label), of_row in zip(quantities.items(), axes, strict=True):
        for ax, activation in zip(of_row, activations, strict=True):
            for norm in norms:
                parts.line(ax, rows(table, quantity, activation, norm), parts.style(norm, norms), markersize=5)
            ax.set(xscale="log", yscale="log")
        parts.label_rows(of_row, label)
    for ax in axes[-1]:
        ax.set_xlabel(setting)
    label = "95% interval over seeds (line: geometric mean)"
    banded = bool((table["low"] < table["high"]).any())
    band = [Patch(color="0.5", alpha=0.3, linewidth=0, label=label)] if banded else []
    handles = [*parts.arms(norms, markersize=5), Line2D([], [], label=behind, **parts.REFERENCE)]
    parts.legend(figure, [*handles, *band])
    return figure


def of_scale(tables: Tables) -> list[Finding]:
    """Return slope and change of others with batch norm."""
    found = list[Finding]()
    for activation in levels(table := tables["identities"], "activation"):
        slope = estimate(table, activation, "batch", "up", "slope of own gradient")
        found.append(analysis.below(f"{activation}, slope, at most", slope, -0.99))
        found.append(analysis.above(f"{activation}, slope, at least", slope, -1.01))
        others = estimate(table, activation, "batch", "up", "change of others")
        found.append(analysis.below(f"{activation}, change of other gradients", others, 0.01))
    return found


def stabilised(tables: Tables) -> list[Finding]:
    """Return the lowest accuracy of hidden rates, and how much less their effective rates vary."""
    found = list[Finding]()
    for activation in levels(table := tables["all_hidden_rates"], "activation"):
        lowest, effective, rates = (
            estimate(table, activation, "batch", quantity)
            for quantity in ("lowest accuracy", "ratio of effective rates", "ratio of rates")
        )
        found.append(analysis.above(f"{activation}, lowest accuracy at any hidden rate", lowest, LEVEL))
        found.append(analysis.below(f"{activation}, ratio of effective rates", effective, float(np.sqrt(rates.value))))
    return found


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="3.3a",
            section="Section 3.3",
            sentence="With batch norm, a factor a on weights divides their own gradient by a and changes no other.",
            criterion="For a from 1 to 1000 the slope is within 0.01 of −1, and others change by at most 1%.",
            findings=of_scale,
            figure="identities",
        ),
        Claim(
            id="3.3b",
            section="Section 3.3",
            sentence="With batch norm larger weights lead to smaller gradients, which stabilizes their growth.",
            criterion="All hidden rates end at 90%, and lr / ‖W‖² then varies by at most the root of their ratio.",
            findings=stabilised,
            figure="effective_rates",
        ),
    ],
    arms=[*ARM, "optimizer", "lr", "diagnostics"],
    needs=["run.test_accuracy"],
    uses=[
        "layer.weight_norm",
        "layer.effective_rate",
        *(f"run.scaled_{which}_{end}" for which in ("own", "others") for end in SCALES),
    ],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
