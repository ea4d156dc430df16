"""Does batch normalization fail at small mini-batches, and from where on?

Its mean and variance are those of a mini-batch (Section 3.1): the smaller it is, the noisier they are, and of two
examples they leave no more than which is larger. The paper trains on 60 and 32; here both networks take equally many
steps. ``accuracy`` is of test images, after the last step; gain is that by batch norm, paired by seed.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from bnrepro import Results, analysis, figures
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

CELL = ["activation", "norm", "train.batch_size"]


def analyse(results: Results) -> Tables:
    """Return final accuracy and gain by activation, norm and batch size, and what the figure is drawn from."""
    cells = analysis.cells(runs := analysis.outcomes(results), CELL)
    found = dict[tuple[object, ...], Estimate]()
    for (activation, norm, size), cell in cells.items():
        found[activation, norm, size, "accuracy"] = analysis.mean(cell["accuracy"])
        if norm != "none" and (activation, "none", size) in cells:
            gain = analysis.difference(cell["accuracy"], cells[activation, "none", size]["accuracy"])
            found[activation, norm, size, "gain"] = gain
    return {"accuracy": analysis.table(found, [*CELL, "quantity"]), **analysis.finals(runs, CELL)}


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw final accuracy against batch size."""
    return {"batch_size": figures.accuracy_against("examples in a mini-batch", tables["final"], tables["diverged"])}


def findings(tables: Tables) -> list[Finding]:
    """Return the gain at the smallest and at the largest batch size, per activation; nothing of one size alone."""
    table, sizes = tables["accuracy"], levels(tables["accuracy"], "train.batch_size")
    ends = [(sizes[0], analysis.below), (sizes[-1], analysis.above)] if len(sizes) > 1 else []
    return [
        hold(f"{activation}, gain in mini-batches of {size}", estimate(table, activation, "batch", size, "gain"), 0)
        for activation in levels(table, "activation")
        for size, hold in ends
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="+batch_size",
            section="Ioffe 2017",
            sentence="Batch norm gains accuracy in large mini-batches and costs it in small ones.",
            criterion="The interval of gain is at most 0 in the smallest and at least 0 in the largest mini-batches.",
            findings=findings,
            figure="batch_size",
        )
    ],
    arms=CELL,
    needs=["run.test_accuracy"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
