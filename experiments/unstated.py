"""Does the conclusion of the paper's Figure 1 depend on what the paper does not state?

Section 4.1 states neither the optimiser, nor how the images become binary, nor the order of the examples, nor ε, nor
whether inference is by moving averages or by the population statistics of Algorithm 2. Each is changed alone, on the
network of Figure 1 (the base), by a line under ``more`` in ``conf/sweep/unstated.yaml``; ``figure1`` has the learning
rate and the initial weights.

Table ``choices`` has means over seeds: final accuracy (0 of a run that diverged), and, paired by seed with the plain
network of the same settings but those of batch norm, the gain in final accuracy and the speed-up (geometric) to 90%,
and to 95%, as another threshold. How far a choice matters is its gain less that of the base, paired by seed: less than
0.002 on MNIST, or 0.01 on digits, does not matter. Steps are as fine as the measurements, which the intervals
of speed-ups contain; the finer these are, the earlier the peak of a noisy curve is met, with batch norm and without it.
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels, rows
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

ALL_SETTINGS, BASE, CELL = "", "base", ["choice", "norm"]
LEVELS = {"speed-up to 90%": 0.9, "speed-up to 95%": 0.95}
BEHIND = parts.REFERENCE | {"color": "0.75", "linestyle": "-", "linewidth": 4, "zorder": 1.5, "label": "median of base"}


def analyse(results: Results) -> Tables:
    """Return the table that the module's docstring describes, and what the figure is drawn from."""
    runs, curves = analysis.outcomes(results), results.table("curves")
    runs["choice"] = analysis.changes(runs, [ALL_SETTINGS], but=["norm"], none=BASE)
    runs["of plain"] = analysis.changes(runs, [ALL_SETTINGS], but=["norm", "model.norm_options"], none=BASE)
    cells, found, gains = (
        analysis.cells(runs, CELL),
        dict[tuple[str, ...], Estimate](),
        dict[tuple[str, str], pd.Series](),
    )
    for (choice, norm), cell in cells.items():
        found[choice, norm, "final accuracy"] = analysis.mean(cell["accuracy"])
        plain = cells.get((cell["of plain"].iloc[0], "none"))
        if norm != "none" and plain is not None:
            gains[choice, norm] = cell["accuracy"] - plain["accuracy"]
            found[choice, norm, "gain"] = analysis.mean(gains[choice, norm])
            for quantity, level in LEVELS.items():
                found[choice, norm, quantity] = analysis.speed_up_to(level, plain, cell, curves)
    for (choice, norm), gain in gains.items():
        if choice != BASE and (BASE, norm) in gains:
            found[choice, norm, "gain less that of the base"] = analysis.difference(gain, gains[BASE, norm])
    return {
        "choices": analysis.table(found, [*CELL, "quantity"]),
        "curves": analysis.spread(curves.merge(runs[["run_id", *CELL]]), "test_accuracy", [*CELL, "step"]),
        "diverged_at": analysis.spread(runs, "diverged_at", [*CELL, "seed"]),
    }


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw test accuracy against steps, a panel per choice, with the base behind."""
    curves, norms = tables["curves"], levels(tables["curves"], "norm")
    figure, axes = parts.panels(levels(curves, "choice"), (3.8, 2.6), most=3, sharey=True)
    for ax, choice in zip(axes, levels(curves, "choice"), strict=True):
        for norm in norms:
            look = parts.style(norm, norms) | {"marker": None}
            ax.plot(rows(curves, BASE, norm)["value"].sort_index(), **look | BEHIND)
            parts.line(ax, rows(curves, choice, norm), look)
            parts.crosses(ax, rows(tables["diverged_at"], choice, norm)["value"], look)
    parts.axes_of_curves(axes, curves)
    handles = [*parts.arms(norms, marker=None), *parts.band_over(int(curves["n"].max())), Line2D([], [], **BEHIND)]
    parts.legend(figure, handles)
    return {"choices": figure}


def findings(tables: Tables) -> list[Finding]:
    """Return gain and speed-up by batch norm under each choice."""
    found, quantities = tables["choices"], {"gain": 0, "speed-up to 90%": 1}
    keys = [(choice, "batch", quantity) for choice in levels(found, "choice") for quantity in quantities]
    return [analysis.beyond(f"{key[0]}, {key[2]}", estimate(found, *key), quantities[key[2]]) for key in keys]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="+unstated",
            section="Section 4.1",
            sentence="Batch norm ends more accurate, and gets to 90% in fewer steps, whatever the paper leaves open.",
            criterion="For each choice, the gain is above 0 and the speed-up above 1, each with its whole interval.",
            findings=findings,
            figure="choices",
        )
    ],
    arms=[ALL_SETTINGS],
    needs=["run.test_accuracy"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
