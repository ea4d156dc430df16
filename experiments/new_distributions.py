"""Is it enough for images of another distribution to recompute the population statistics?

Section 5 conjectures that batch normalization lets a network generalize to new data distributions with "perhaps no more
than a recomputation of the population means and variances". Trained networks, of which nothing else changes, classify
test images that are corrupted (:data:`bnrepro.inference.CORRUPTIONS`): with the statistics that they have, and with
population statistics of training images that are corrupted likewise, whose labels play no part.

Table ``accuracy`` has means over seeds: test accuracy as the network is, and with statistics recomputed; the gain by
that, by seed; what is then lost against clean images; and what is gained, recomputed or not, over the plain network,
which is as it is. ``clean`` has no corruption, and moving averages against recomputed statistics. The table has each
corruption at its hardest, the figure has all severities.

A critic would say that the corruptions are made up and leave the classes as they are: shifts between data sets are not
tested. Pixels are not clipped, as those of a camera would be. The images that statistics come from are as many as there
are 50 mini-batches, so what few images of the new distribution would give is not told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment
from bnrepro.inference import CORRUPTIONS

Hold = Callable[[str, Estimate], Finding]
CELL, CLEAN = ["activation", "norm"], "clean"
AS_IT_IS, RECOMPUTED = "as it is", "recomputed"
GAIN, LOST, OVER_PLAIN, FRAGILE = "gain", "lost against clean", "recomputed over plain", "as it is over plain"
COLUMNS = {CLEAN: "accuracy_ema"} | {
    f"{name} {i}": f"accuracy_{name}_{i}" for name, (_, by, _) in CORRUPTIONS.items() for i in range(1, len(by) + 1)
}
RECOMPUTED_COLUMNS = {name: f"{column}_recomputed" for name, column in COLUMNS.items()} | {CLEAN: "accuracy_population"}
HARDEST = {name: f"{name} {len(severities)}" for name, (_, severities, _) in CORRUPTIONS.items()}
AFFINE, MATTERS = ("contrast", "brightness"), 0.01
LOOKS = {
    ("none", AS_IT_IS): parts.style("none"),
    ("batch", AS_IT_IS): parts.style("batch") | {"label": "with batch norm, as it is", "linestyle": ":"},
    ("batch", RECOMPUTED): parts.style("batch") | {"label": "with batch norm, statistics recomputed"},
}


def analyse(results: Results) -> Tables:
    """Return the table that the module's docstring describes."""
    runs, curves = analysis.outcomes(results), results.table("curves")
    last = curves.sort_values("step").groupby("run_id").last()
    runs = runs.join(last[[*COLUMNS.values(), *RECOMPUTED_COLUMNS.values()]].where(last["step"] > 0), on="run_id")
    measured = [*COLUMNS.values(), *RECOMPUTED_COLUMNS.values()]
    runs[measured] = runs[measured].where(~runs["diverged"], analysis.DIVERGED_ACCURACY)
    cells, found = analysis.cells(runs, CELL), dict[tuple[str, ...], Estimate]()
    for (activation, norm), cell in cells.items():
        plain = cells.get((activation, "none"))
        for name, column in COLUMNS.items():
            key, again = (activation, norm, name), RECOMPUTED_COLUMNS[name]
            found[*key, AS_IT_IS] = analysis.mean(cell[column])
            if norm == "none":
                continue
            found[*key, RECOMPUTED] = analysis.mean(cell[again])
            found[*key, GAIN] = analysis.difference(cell[again], cell[column])
            if name != CLEAN:
                found[*key, LOST] = analysis.difference(cell[RECOMPUTED_COLUMNS[CLEAN]], cell[again])
            if plain is not None:
                found[*key, OVER_PLAIN] = analysis.difference(cell[again], plain[column])
                found[*key, FRAGILE] = analysis.difference(cell[column], plain[column])
    every = analysis.table(found, [*CELL, "images", "quantity"])
    printed = every.index.get_level_values("images").isin([CLEAN, *HARDEST.values()])
    return {"accuracy": every[printed], "severities": every.rename_axis([*CELL, "images", "estimate"])}


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw accuracy against severity: a column per corruption, a row per nonlinearity."""
    table = tables["severities"]
    activations = levels(table, "activation")
    figure, axes = parts.grid(len(activations), len(CORRUPTIONS), (2.3, 2.5), sharey=True)
    for row, activation in zip(axes, activations, strict=True):
        for ax, (name, (words, severities, _)) in zip(row, CORRUPTIONS.items(), strict=True):
            for (norm, how), look in LOOKS.items():
                images = [CLEAN, *(f"{name} {i}" for i in range(1, len(severities) + 1))]
                known = [i for i, each in enumerate(images) if (activation, norm, each, how) in table.index]
                keys = [(activation, norm, images[i], how) for i in known]
                parts.line(ax, table.loc[keys].set_axis(known), look, markersize=4)
            ticks = ["clean", *(f"{by:.2g}" for by in severities)]
            ax.set_xticks(range(len(ticks)), ticks)
            ax.set(xlabel=words.format("…"), title=name)
        row[0].set_ylabel(f"{parts.activation_label(activation)}:\ntest accuracy")
    parts.axis_of_accuracy(axes[0, 0], table.xs(AS_IT_IS, level="estimate")["value"].max())
    arms = [Line2D([], [], **look) for look in LOOKS.values()]
    parts.legend(figure, [*arms, *parts.interval_over(int(table["n"].max()))])
    return {"new_distributions": figure}


def _held(tables: Tables, quantity: str, *holds: Hold) -> list[Finding]:
    """Hold a quantity against a criterion under each corruption at its hardest, which may differ for what is affine."""
    return [
        holds[name not in AFFINE if len(holds) > 1 else 0](
            f"{activation}, {words.format(f'{severities[-1]:g}')}: {quantity}",
            estimate(tables["accuracy"], activation, "batch", HARDEST[name], quantity),
        )
        for activation in levels(tables["accuracy"], "activation")
        for name, (words, severities, _) in CORRUPTIONS.items()
    ]


def _gained(tables: Tables) -> list[Finding]:
    """Return what recomputing gains."""
    return _held(tables, GAIN, partial(analysis.above, threshold=MATTERS))


def _lost(tables: Tables) -> list[Finding]:
    """Return what is lost against clean images after recomputing: of affine changes nothing, else something."""
    return _held(tables, LOST, partial(analysis.below, threshold=MATTERS), partial(analysis.above, threshold=MATTERS))


def _fragile(tables: Tables) -> list[Finding]:
    """Return the accuracy with batch norm less that without, both as they are."""
    return _held(tables, FRAGILE, partial(analysis.below, threshold=-MATTERS))


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="5.d",
            section="Section 5",
            sentence="With batch norm, recomputed population statistics let a network generalize to new distributions.",
            criterion="For each nonlinearity and corruption, at its hardest, recomputing gains at least 1 point.",
            findings=_gained,
            figure="new_distributions",
        ),
        Claim(
            id="+affine",
            section="Section 5",
            sentence="Recomputed statistics undo changes of contrast and brightness, and no others.",
            criterion="At their hardest, contrast and brightness cost at most 1 point after recomputing, and all other "
            "corruptions cost at least that.",
            findings=_lost,
            figure="new_distributions",
        ),
        Claim(
            id="+fragile",
            section="Section 5",
            sentence="Without recomputing, a network with batch norm stands corruptions less well than one without.",
            criterion="For each nonlinearity and corruption, at its hardest, it is at least 1 point less accurate.",
            findings=_fragile,
            figure="new_distributions",
        ),
    ],
    arms=[*CELL],
    needs=[f"run.{column}" for column in (*COLUMNS.values(), *RECOMPUTED_COLUMNS.values())],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
