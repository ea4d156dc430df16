"""Does batch normalization speed up training, and up to which learning rates?

A first look for a lecture, of seconds, on small images: the paper's network of sigmoids with and without batch norm, at
three rates. It tests no claim; ``learning_rates`` does.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from bnrepro import Results, analysis, figures
from bnrepro.analysis import Estimate, Tables, levels, rows
from bnrepro.commands import redraw
from bnrepro.experiment import Experiment

CELL = ["norm", "lr"]


def analyse(results: Results) -> Tables:
    """Return the final accuracy by norm and rate, what batch norm gains, and the curves, over seeds."""
    cells = analysis.cells(runs := analysis.outcomes(results), CELL)
    found = dict[tuple[object, ...], Estimate]()
    for (norm, lr), cell in cells.items():
        found[norm, lr, "final accuracy"] = analysis.mean(cell["accuracy"])
        if norm != "none" and ("none", lr) in cells:
            found[norm, lr, "gain"] = analysis.difference(cell["accuracy"], cells["none", lr]["accuracy"])
    curves = results.table("curves").merge(runs[["run_id", *CELL]])
    return {
        "accuracy": analysis.table(found, [*CELL, "quantity"]),
        "curves": analysis.spread(curves, "test_accuracy", [*CELL, "step"]),
        "diverged_at": analysis.spread(runs, "diverged_at", [*CELL, "seed"]),
    }


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw test accuracy against steps, a panel per learning rate."""
    curves, norms, rates = tables["curves"], levels(tables["curves"], "norm"), levels(tables["curves"], "lr")
    figure, axes = figures.panels([f"learning rate {lr:g}" for lr in rates], (3.4, 3.2), sharey=True)
    for ax, lr in zip(axes, rates, strict=True):
        for norm in norms:
            look = figures.style(norm, norms)
            figures.line(ax, rows(curves, norm, lr), look, marker="")
            figures.crosses(ax, rows(tables["diverged_at"], norm, lr)["value"], look)
    figures.axes_of_curves(axes, curves)
    figures.legend(figure, [*figures.arms(norms, marker=""), *figures.band_over(curves["n"].max())])
    return {"first": figure}


EXPERIMENT = Experiment(claims=[], arms=CELL, needs=["run.test_accuracy"], analyse=analyse, draw=draw)

if __name__ == "__main__":
    redraw(__file__)
