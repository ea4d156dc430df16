"""What do well-known mistakes in implementing batch normalization do to training, and to test accuracy?

Each mistake is a class of ``experiments/wrong_layers.py``. All train on the same mini-batches, of the paper's 60 images
and of 4. Table ``mistakes`` has means over seeds: final accuracy (0 if diverged), accuracy lost (the right layer's less
the mistake's, by seed, unless the right one diverged) and the last train loss in training mode (unless diverged).
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels, rows
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

TITLES = {
    "batch": "right",
    "BiasedVariance": "no m/(m−1) at inference",
    "MomentumReversed": "momentum the wrong way round",
    "StatisticsOfTestBatch": "test images normalised in fours",
    "FrozenVariance": "running variance never updated",
    "StatisticsFromZero": "running statistics start at 0",
    "OutsideGradient": "statistics outside the gradient",
    "PerPixel": "statistics per pixel",
}
RIGHT = "right"
CELL = ["batch size", "network", "mistake"]


def analyse(results: Results) -> Tables:
    """Return the table that the module's docstring describes, and what the figure is drawn from."""
    runs = analysis.outcomes(results).rename(columns={"train.batch_size": "batch size"})
    last = results.table("curves").sort_values("step").groupby("run_id")["train_loss"].last()
    runs["train loss"] = runs["run_id"].map(last).where(~runs["diverged"])
    runs["mistake"], runs["network"] = runs["norm"].str.rpartition(".")[2].replace(TITLES), runs["model.name"]
    for model, of_model in runs.groupby("model.name"):
        changes = analysis.changes(of_model, ["model"], but=["norm"])
        runs.loc[of_model.index, "network"] = [f"{model} {change}".strip() for change in changes]
    cells, found = analysis.cells(runs, CELL), dict[tuple[object, ...], Estimate]()
    for key in sorted(cells, key=lambda key: (*key[:2], [*TITLES.values(), *runs["mistake"]].index(key[2]))):
        found[*key, "final accuracy"] = analysis.mean(cells[key]["accuracy"])
        if key[2] != RIGHT and (right := cells.get((*key[:2], RIGHT))) is not None:
            found[*key, "accuracy lost"] = analysis.difference(right["test_accuracy"], cells[key]["accuracy"])
        found[*key, "train loss"] = analysis.mean(cells[key]["train loss"])
    return {"mistakes": analysis.table(found, [*CELL, "quantity"]), "bias": _bias(), **analysis.finals(runs, CELL)}


def _bias() -> pd.DataFrame:
    """Return Section 2's example: x = u + b, x̂ = x − E[x], and steps on b alone that ignore ∂E[x]/∂b."""
    u, target = np.random.default_rng(0).normal([[0.0], [1.0]], size=(2, 60))
    bias, found = 0.0, {}
    for step in range(101):
        error = (u + bias) - (u + bias).mean() - target
        found["bias b, gradient ignoring E[x]", step] = Estimate(bias)
        found["loss", step] = Estimate((error**2).mean() / 2)
        found["bias b, right gradient", step] = Estimate(0.0)
        bias -= 0.1 * error.mean()
    return analysis.table(found, ["curve", "step"])


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw ``mistakes``: final accuracy, and Section 2's bias that grows while the loss stands still."""
    figure, (ax, example) = parts.panels(["accuracy with mistakes", "the bias of Section 2"], (5.4, 4.2))
    names = [*dict.fromkeys(key[1:3] for key in tables["mistakes"].index)]
    sizes = {f"mini-batches of {size}": size for size in levels(tables["diverged"], "batch size")}
    for (label, size), offset in zip(sizes.items(), np.linspace(0.15, 0.4, len(sizes)), strict=True):
        final, look = rows(tables["final"], size), parts.style(label, sizes)
        right = [estimate(final, network, RIGHT).value for network, _ in final.index]
        final = final.set_axis([names.index(key) + offset for key in final.index])
        parts.points(ax, final, look, along="x", linestyle="", elinewidth=2.5)
        ax.vlines(right, final.index - 0.5, final.index + 0.5, **parts.REFERENCE | {"color": look["color"]})
        for key, share, n in rows(tables["diverged"], size).query("value > 0")[["value", "n"]].itertuples():
            ax.annotate(f"{share * n:.0f} of {n} diverged", (0, names.index(key) + offset), va="center", fontsize=8)
    ax.set_yticks(range(len(names)), map(": ".join, names), ha="left", va="bottom", fontsize=8.5)
    ax.tick_params(axis="y", length=0, pad=-4)  # labels are above the points, so that there is room for both
    ax.set(ylim=(len(names) - 0.4, -0.6), xlabel="final test accuracy")
    parts.axis_of_accuracy(ax, tables["final"]["high"].max(), along="x")
    for curve, style in zip(levels(tables["bias"], "curve"), ("--", "-", ":"), strict=True):
        parts.line(example, rows(tables["bias"], curve), {"color": "0.3", "linestyle": style}, label=curve)
    example.set(xlabel="steps on b", ylabel="b, and loss")
    example.legend(loc="upper left")
    handles = [*parts.arms(sizes, linestyle=""), Line2D([], [], label="the right layer", **parts.REFERENCE)]
    parts.legend(figure, [*handles, *parts.band_over(int(tables["diverged"]["n"].max()))])
    return {"mistakes": figure}


def _lost_by(network: str, mistake: str, tables: Tables) -> list[Finding]:
    """Return the accuracy lost by a mistake at each size of mini-batches."""
    found = {
        size: estimate(tables["mistakes"], size, network, mistake, "accuracy lost")
        for size in levels(tables["diverged"], "batch size")
    }
    return [analysis.beyond(f"{mistake}, in mini-batches of {size}", each, 0) for size, each in found.items()]


LOSES = "The accuracy lost without this is above 0, with its whole interval, at each size of mini-batches."
EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="2.3",
            section="Section 2",
            sentence="The gradient must see the normalization: taking its statistics for constants costs accuracy.",
            criterion=LOSES,
            findings=partial(_lost_by, "mlp", TITLES["OutsideGradient"]),
            figure="mistakes",
        ),
        Claim(
            id="3.2c",
            section="Section 3.2",
            sentence="In convolutions, all positions of a feature map share its statistics, γ and β.",
            criterion=LOSES,
            findings=partial(_lost_by, "cnn", TITLES["PerPixel"]),
            figure="mistakes",
        ),
    ],
    arms=["model", "train.batch_size"],
    needs=["run.train_loss"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
