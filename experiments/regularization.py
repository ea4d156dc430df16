"""Does batch normalization regularise, so that dropout can be left out (Section 3.4)? The paper has no ablation of it.

Plain networks and those with batch norm are trained on few and on all training images, with and without dropout and
weight decay. If batch norm regularises, the gap between training and test accuracy is smaller with it after equally
many steps, and test accuracy is higher at equal training loss: what trains faster has a larger gap at equal steps
anyhow. If it replaces dropout, it is as accurate without dropout as the plain network with it, and dropout adds nothing
to it.

Tables are of means over seeds; a diverged run ends at an accuracy of 0.

- ``score``, of each training set, norm and dropout at the best of its learning rates and weight decays, by the final
  test accuracy: this, accuracy on training images in inference mode, and their difference, the gap; which these are.
- ``compared``, paired by seed: the final accuracy with batch norm and no dropout less that of the plain network with
  its best dropout; what dropout adds to either; and, without dropout and weight decay, each at its best rate, how much
  smaller the gap is with batch norm, and by how much test accuracy is higher at equal training loss, as the mean over
  half-decades of training loss below 0.1 in which both were measured.
- ``companions``: how far an example's output depends on the others of its mini-batch, as a share of the spread of
  outputs over examples (diagnostic ``companions``), after training, by mini-batch size m; and the exponent of m.

The best settings are chosen on the same test images as they are reported of; an arm with more settings, as that with
dropout, profits more. Training loss is measured in training mode, with dropout and the mini-batch's statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, groups, levels, rows
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

POINT = 0.01
"""The smallest difference in accuracy that matters, and the smallest share of an output that companions change."""
FITTED = 0.1
"""The training loss below which test accuracy is compared at equal training loss."""
SIZE, DROPOUT, DECAY, BATCH = "training set", "model.dropout", "optimizer.weight_decay", "train.batch_size"
ARM, TUNED = [SIZE, "norm", DROPOUT], [DECAY, "lr"]
NO_WORSE, BY_DROPOUT = "batch norm alone less plain with dropout", "gain by dropout"
SMALLER_GAP, EQUAL_LOSS = "gap without less with batch norm", "gain at equal training loss"
Rows = Iterator[tuple[tuple[Any, ...], Estimate]]
Best = dict[Any, pd.DataFrame]


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what figures are drawn from."""
    runs, curves = analysis.outcomes(results), results.table("curves")
    examples = runs.get("dataset.train_examples", pd.Series(np.nan, runs.index)).astype(float)
    runs[SIZE] = examples.map("{:g} images".format).where(examples.notna(), "all images")
    curves = curves.reindex(columns=["run_id", "step", "test_accuracy", "train_loss", "train_accuracy", "companions"])
    curves = curves.merge(runs[["run_id", "norm", SIZE]], on="run_id")
    curves = curves.assign(gap=curves["train_accuracy"] - curves["test_accuracy"])
    last = curves.sort_values("step").groupby("run_id")[["train_accuracy", "gap", "companions"]].last()
    runs = runs.join(last.where(~runs.set_index("run_id")["diverged"]), on="run_id")
    analysis.cells(runs, [*ARM, *TUNED, BATCH])  # refuses what would be pooled
    usual = runs[runs[BATCH] == runs[BATCH].mode().max()]
    bare = usual[(usual[DROPOUT] == 0) & (usual[DECAY] == 0)]
    best, best_bare = (
        {key: _best(arm) for key, arm in groups(part, by).items()} for part, by in ((usual, ARM), (bare, ARM[:2]))
    )
    shown = curves[curves["run_id"].isin([run for cell in best_bare.values() for run in cell["run_id"]])]
    banded = shown[shown["step"] > 0].assign(loss=10 ** ((_band(shown["train_loss"]) + 0.5) / 2))
    by_loss = banded.groupby([SIZE, "norm", "run_id", "loss"], as_index=False)[["test_accuracy"]].mean()
    return {
        "score": analysis.table(dict(_score(best)), [*ARM, "quantity"]),
        "compared": analysis.table(dict(_compared(best, best_bare, by_loss)), [SIZE, "norm", "quantity"]),
        "companions": analysis.table(dict(_companions(runs)), [SIZE, "quantity"]),
        "diverged": analysis.table({key: analysis.share(cell["diverged"]) for key, cell in best.items()}, ARM),
        "spread": analysis.table(dict(_spread(runs)), [SIZE, BATCH]),
        "gap": analysis.spread(shown, "gap", [SIZE, "norm", "step"]),
        "by_loss": analysis.spread(by_loss, "test_accuracy", [SIZE, "norm", "loss"]),
    }


def _best(arm: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of an arm at the learning rate and weight decay of the highest final accuracy, by seed."""
    means = arm.groupby(TUNED)["accuracy"].mean().round(12)
    return analysis.cells(arm, TUNED)[means.idxmax()]


def _band(loss: pd.Series) -> pd.Series:
    """Return the half-decade of training loss."""
    return (2 * loss.where((loss > 0) & np.isfinite(loss)).map(math.log10)).map(math.floor, na_action="ignore")


def _score(best: Best) -> Rows:
    for key, cell in best.items():
        yield (*key, "final accuracy"), analysis.mean(cell["accuracy"])
        for quantity in ("train_accuracy", "gap"):
            if cell[quantity].notna().any():
                yield (*key, quantity.replace("_", "ing ")), analysis.mean(cell[quantity])
        yield (*key, "rate"), Estimate(cell["lr"].iloc[0], n=len(cell))
        yield (*key, "weight decay"), Estimate(cell[DECAY].iloc[0], n=len(cell))


def _compared(best: Best, bare: Best, by_loss: pd.DataFrame) -> Rows:
    for size in dict.fromkeys(size for size, _, _ in best):
        alone = {norm: best[size, norm, 0] for norm in ("none", "batch") if (size, norm, 0) in best}
        dropped = {}
        for norm in ("none", "batch"):
            with_dropout = [cell for (s, n, share), cell in best.items() if (s, n) == (size, norm) and share > 0]
            if with_dropout:
                dropped[norm] = max(with_dropout, key=lambda cell: cell["accuracy"].mean())
        if "batch" in alone and "none" in dropped:
            yield (
                (size, "batch", NO_WORSE),
                analysis.difference(alone["batch"]["accuracy"], dropped["none"]["accuracy"]),
            )
        for norm in (norm for norm in dropped if norm in alone):
            yield (size, norm, BY_DROPOUT), analysis.difference(dropped[norm]["accuracy"], alone[norm]["accuracy"])
        if (size, "none") in bare and (size, "batch") in bare:
            plain, other = bare[size, "none"], bare[size, "batch"]
            yield (size, "batch", SMALLER_GAP), analysis.difference(plain["gap"], other["gap"])
            wide = by_loss[by_loss[SIZE] == size].query("loss < @FITTED").pivot_table("test_accuracy", "run_id", "loss")
            accuracy = [wide.reindex(cell["run_id"]).set_axis(cell.index) for cell in (other, plain)]
            yield (size, "batch", EQUAL_LOSS), analysis.mean((accuracy[0] - accuracy[1]).mean(axis=1))


def _measured(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of which companions are measured, of batch norm alone at one rate, by training set."""
    runs = runs[(runs["norm"] == "batch") & (runs[DROPOUT] == 0) & (runs[DECAY] == 0) & runs["companions"].notna()]
    return {size: part[part["lr"] == part["lr"].min()] for size, part in groups(runs, [SIZE]).items()}


def _spread(runs: pd.DataFrame) -> Rows:
    for size, part in _measured(runs).items():
        for m, cell in analysis.cells(part, [BATCH]).items():
            yield (size, m), analysis.mean(cell["companions"])


def _companions(runs: pd.DataFrame) -> Rows:
    for size, part in _measured(runs).items():
        usual = part[part[BATCH] == runs[BATCH].mode().max()]
        yield (size, "spread over companions"), analysis.mean(usual["companions"])
        wide = part.pivot_table("companions", "seed", BATCH).dropna()
        if wide.shape[1] > 1 and len(wide):
            slopes = np.polyfit(np.log(wide.columns.to_numpy(float)), np.log(wide.to_numpy()).T, 1)[0]
            yield (size, "exponent of m"), analysis.mean(pd.Series(slopes))


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw accuracy against ``dropout``, the ``gap`` and what is behind it, and the influence of ``companions``."""
    drawn = {"dropout": _against_dropout(tables)}
    if len(tables["by_loss"]):
        drawn["gap"] = _gap(tables)
    return drawn | ({"companions": _influence(tables["spread"])} if len(tables["spread"]) else {})


def _against_dropout(tables: Tables) -> Figure:
    """Draw final test accuracy against dropout, a panel per training set."""
    found = tables["score"].query("quantity == 'final accuracy'").droplevel("quantity")
    sizes, norms = levels(found, SIZE), levels(found, "norm")
    figure, axes = parts.panels(sizes, (4.3, 3.2), sharex=True, sharey=True)
    for ax, size in zip(axes, sizes, strict=True):
        for i, norm in enumerate(norms):
            look = parts.style(norm, norms)
            shares = rows(found, size, norm)
            parts.points(ax, shares.set_axis(shares.index + 0.008 * (i - 0.5)), look | {"linestyle": ""})
            ax.plot(shares.index + 0.008 * (i - 0.5), shares["value"], color=look["color"], linestyle=look["linestyle"])
            parts.crosses_of(ax, rows(tables["diverged"], size, norm), look, 0.05 + 0.06 * i)
        ax.set(xlabel="share of units dropped out", xticks=levels(found, DROPOUT))
    parts.label_rows(axes, "final test accuracy")
    bar = Line2D([], [], marker="|", ms=10, color="0.3", ls="", label="95% interval")
    parts.legend(figure, [*parts.arms(norms), bar], "each at the best of its learning rates and weight decays")
    return figure


def _gap(tables: Tables) -> Figure:
    """Draw the gap against steps and test accuracy against training loss, a column per training set."""
    gap, by_loss = tables["gap"], tables["by_loss"]
    sizes, norms = levels(by_loss, SIZE), levels(by_loss, "norm")
    figure, axes = parts.grid(2, len(sizes), (4.3, 2.8), sharex="row", sharey="row")
    for (top, bottom), size in zip(axes.T, sizes, strict=True):
        for norm in norms:
            look = parts.style(norm, norms)
            parts.line(top, rows(gap, size, norm), look | {"marker": None})
            parts.line(bottom, rows(by_loss, size, norm), look, markersize=4)
        if len(gap):
            parts.axis_of_steps(top, gap.index.get_level_values("step").max())
        top.set_title(size)
        bottom.set(xscale="log", xlabel="training loss, by half-decades")
    bottom.invert_xaxis()
    axes[0, 0].set_ylabel("accuracy on training\nless on test images")
    axes[1, 0].set_ylabel("test accuracy")
    parts.axis_of_accuracy(axes[1, 0], by_loss["high"].fillna(by_loss["value"]).max())
    seeds = int(by_loss["n"].max())
    parts.legend(figure, [*parts.arms(norms), *parts.band_over(seeds)], "without dropout and weight decay")
    return figure


def _influence(spread: pd.DataFrame) -> Figure:
    """Draw the spread of an example's output over companions against mini-batch size, beside 1/√m."""
    sizes = levels(spread, SIZE)
    figure, axes = parts.panels(sizes, (4.3, 3.2), sharex=True, sharey=True)
    for ax, size in zip(axes, sizes, strict=True):
        found = rows(spread, size)
        parts.points(ax, found, parts.style("batch") | {"linestyle": ""})
        m = found.index.to_numpy(float)
        ax.plot(m, found["value"].iloc[0] * np.sqrt(m[0] / m), **parts.REFERENCE)
        ax.set(xscale="log", yscale="log", xlabel="examples in a mini-batch, m")
        ax.set_xticks(m, [f"{each:g}" for each in m])
        ax.minorticks_off()
    parts.axis_of_ratios(axes[0].yaxis)
    parts.label_rows(axes, "spread of an output over companions\n/ over examples")
    bar = Line2D([], [], marker="|", ms=10, color="0.3", ls="", label="95% interval")
    parts.legend(figure, [*parts.arms(["batch"], linestyle=""), bar, Line2D([], [], **parts.REFERENCE, label="∝ 1/√m")])
    return figure


def _varies(tables: Tables) -> list[Finding]:
    """Return how far an output depends on companions, and how that falls with the size of mini-batches."""
    spread, exponent = "spread over companions", "exponent of m"
    sizes = levels(tables["companions"], SIZE)
    found = {size: estimate(tables["companions"], size, exponent) for size in sizes}
    return [
        *(analysis.above(f"{s}, {spread}", estimate(tables["companions"], s, spread), POINT) for s in sizes),
        *(analysis.within(f"{s}, {exponent}", each, -0.6, -0.4) for s, each in found.items() if each.n),
    ]


def _findings(tables: Tables, wanted: dict[tuple[str, str], tuple[float, float]]) -> list[Finding]:
    """Return quantities of ``compared``, held between bounds, per training set."""
    return [
        analysis.within(
            f"{size}, {norm}: {quantity}" if quantity == BY_DROPOUT else f"{size}, {quantity}", found, *bounds
        )
        for size in levels(tables["compared"], SIZE)
        for (norm, quantity), bounds in wanted.items()
        for found in [estimate(tables["compared"], size, norm, quantity)]
    ]


def _regularises(tables: Tables) -> list[Finding]:
    """Return how much smaller the gap is, and the gain at equal training loss."""
    return _findings(tables, {("batch", quantity): (POINT, np.inf) for quantity in (SMALLER_GAP, EQUAL_LOSS)})


def _replaces_dropout(tables: Tables) -> list[Finding]:
    """Return how batch norm compares with dropout, and what dropout adds to it."""
    return _findings(tables, {("batch", NO_WORSE): (-POINT, np.inf), ("batch", BY_DROPOUT): (-np.inf, POINT)})


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="A4",
            section="Abstract, Section 3.4",
            sentence="With batch norm dropout is not needed.",
            criterion="For each training set, batch norm without dropout ends at most 0.01 below the plain network "
            "with its best dropout, and gains at most 0.01 by dropout itself, with whole intervals.",
            findings=_replaces_dropout,
            figure="dropout",
        ),
        Claim(
            id="3.4a",
            section="Section 3.4",
            sentence="In training, what a network makes of an example depends on the others in its mini-batch, the "
            "less the more these are.",
            criterion="Over companions, an output has a spread of at least 0.01 of that over examples, and this falls "
            "with the size of mini-batches by a power between -0.6 and -0.4, with whole intervals.",
            findings=_varies,
            figure="companions",
        ),
        Claim(
            id="3.4b",
            section="Section 3.4",
            sentence="Batch norm regularises.",
            criterion="For each training set, without dropout and weight decay, the gap between training and test "
            "accuracy is at least 0.01 smaller with batch norm after equally many steps, and test accuracy at least "
            "0.01 higher at equal training loss below 0.1, with whole intervals.",
            findings=_regularises,
            figure="gap",
        ),
    ],
    arms=["dataset.train_examples", "norm", "model.norm_options", DROPOUT, DECAY, "lr", BATCH],
    needs=["run.test_accuracy", "run.train_loss"],
    uses=["run.train_accuracy", "run.companions"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
