"""What are mini-batches of m examples worth, to the gradient and to the statistics of batch normalization?

ReLU networks of 3 and 10 hidden layers, equally many steps for every m (``batch_size`` asks whether batch norm pays).

- ``estimate`` is of gradients of m of 256 training images, against that of all of them, on networks that train on 60:
  the slope of log noise against log m up to 32 examples, and the bias at 32, both in the geometric mean over training.
- ``inference`` is the test accuracy of the same weights by each way to get the statistics of inference: moving
  averages; Algorithm 2; the same without m/(m−1); layer by layer, each gathered behind others in inference mode; the
  test mini-batch's own.
- ``accuracy`` is final accuracy (0 if diverged) by norm: Batch Renormalization (Ioffe 2017), group norm (Wu & He 2018)
  and layer norm (Ba et al. 2016) beside batch norm, and what each gains over it, paired by seed.

Why m/(m−1) can hurt: statistics are gathered where the layers in front normalise by mini-batches, which bounds every x̂
by √(m−1), but are used behind layers that don't. Each layer then divides by a little too much, and the next one by too
much of what is left: of ten layers at m = 4, what enters the last has 0.53 of its size in training by Algorithm 2, and
1.4 without m/(m−1) (one network of these runs, measured apart). Offsets by β do not shrink with it, and drown it.

A critic would say that all norms have one rate, though small mini-batches ask for smaller ones, that a network at m = 2
sees 30 times fewer examples than one at m = 60, and that mini-batches of 256 images are no sample of a large set: their
noise falls a little faster than m^(−½), as they run out of others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels, rows
from bnrepro.commands import redraw
from bnrepro.experiment import Claim, Experiment

MATTERS, SIZE, SIZES, UP_TO = 0.01, "train.batch_size", (2, 4, 8, 16, 32, 64, 128), 32
WAYS = {
    "accuracy_ema": "moving averages",
    "accuracy_population": "Algorithm 2",
    "accuracy_biased": "Algorithm 2 without m/(m−1)",
    "accuracy_layerwise": "Algorithm 2, layer by layer",
    "accuracy_batch": "the test mini-batch's own",
}
AVERAGES, POPULATION, BIASED, *_ = WAYS.values()
COST, APART, GAIN = "cost of m/(m−1)", "averages and Algorithm 2 apart", "gain over batch norm"
SLOPE, BIAS, FLOOR = "slope of noise", f"bias of {UP_TO}", 1e-5
"""Two quantities, and the relative bias below which there is none but that of rounding."""
QUALITIES = {
    "noise": "relative noise",
    "bias": f"relative bias, from {FLOOR:g} up",
    "cosine": "cosine to the whole gradient",
}


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what the figures are drawn from."""
    runs, curves = analysis.outcomes(results), results.table("curves")
    runs["norm"] = runs["norm"].str.rpartition(".")[2]
    runs["layers"] = runs["model.hidden"].map(len)
    of_gradients = runs["diagnostics"].map(lambda names: "gradient_estimate" in str(names))
    trained = runs[~of_gradients]
    return estimates(runs[of_gradients], curves) | inference(trained, curves) | accuracy(trained)


def estimates(runs: pd.DataFrame, curves: pd.DataFrame) -> Tables:
    """Return how good the gradients of mini-batches are, in the mean over the measurements of each run."""
    found, drawn = dict[Any, Estimate](), dict[Any, Estimate]()
    for norm, cell in analysis.cells(runs, ["norm"]).items():
        measured = curves[curves["run_id"].isin(cell["run_id"])].set_index("run_id")
        of = dict[str, pd.DataFrame]()
        for quality in QUALITIES:
            columns = {m: measured[name] for m in SIZES if (name := f"estimate_{quality}_{m}") in measured}
            positive = quality != "cosine"
            means = pd.DataFrame(columns).map(np.log if positive else float).groupby("run_id").mean()
            of[quality] = means.map(np.exp if positive else float)
            drawn |= {(quality, norm, m): analysis.mean(of[quality][m]) for m in columns}
        few = [m for m in SIZES if m <= UP_TO and m in of["noise"]]
        if len(few) > 1:
            logs = np.log(of["noise"][few].to_numpy(float))
            slopes = [np.polyfit(np.log(few), of_run, 1)[0] for of_run in logs]
            found[norm, SLOPE] = analysis.mean(pd.Series(slopes))
            found[norm, BIAS] = analysis.geometric_mean(of["bias"][UP_TO])
    return {
        "estimate": analysis.table(found, ["norm", "quantity"]),
        "qualities": analysis.table(drawn, ["quality", "norm", "examples"]),
    }


def inference(runs: pd.DataFrame, curves: pd.DataFrame) -> Tables:
    """Return the test accuracy after the last step by each way to get statistics."""
    found, drawn = dict[Any, Estimate](), dict[Any, Estimate]()
    last = curves.loc[curves.groupby("run_id")["step"].idxmax()].set_index("run_id")
    batch = runs[(runs["norm"] == "batch") & ~runs["diverged"]]
    for (layers, size), cell in analysis.cells(batch, ["layers", SIZE]).items():
        measured = last.loc[cell["run_id"]]
        if AVERAGES not in (of := {WAYS[name]: measured[name] for name in WAYS if name in measured}):
            continue
        found |= {(layers, size, way): analysis.mean(values) for way, values in of.items()}
        drawn |= {(layers, way, size): analysis.mean(values) for way, values in of.items()}
        found[layers, size, COST] = analysis.difference(of[BIASED], of[POPULATION])
        found[layers, size, APART] = analysis.mean((of[AVERAGES] - of[POPULATION]).abs())
    names = ["layers", SIZE, "quantity"]
    return {"inference": analysis.table(found, names), "ways": analysis.table(drawn, ["layers", "way", SIZE])}


def accuracy(runs: pd.DataFrame) -> Tables:
    """Return final accuracy by norm, and what each gains over batch norm."""
    cells, found = analysis.cells(runs, ["layers", "norm", SIZE]), dict[Any, Estimate]()
    for (layers, norm, size), cell in cells.items():
        found[layers, norm, size, "final accuracy"] = analysis.mean(cell["accuracy"])
        if norm != "batch" and (batch := cells.get((layers, "batch", size))) is not None:
            found[layers, norm, size, GAIN] = analysis.difference(cell["accuracy"], batch["accuracy"])
    names = ["layers", "norm", SIZE]
    return {"accuracy": analysis.table(found, [*names, "quantity"]), **analysis.finals(runs, names)}


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw accuracy by norm and by way of inference, and the quality of gradients, where there are such runs."""
    drawn = dict[str, Figure]()
    if len(tables["diverged"]):
        norms = levels(tables["diverged"], "norm")
        looks = {norm: parts.style(norm, norms) | {"markersize": 5} for norm in norms}
        drawn["mini_batch"] = by_depth(tables["final"], tables["diverged"], looks)
    if len(ways := tables["ways"]):
        every = zip(WAYS.values(), [*parts.NORMS.values(), *parts.OTHERS], strict=False)
        looks = {way: look | {"label": way, "markersize": 5} for way, look in every if way in levels(ways, "way")}
        drawn["inference"] = by_depth(ways.assign(low=np.nan, high=np.nan), ways[:0], looks)
    if len(qualities := tables["qualities"]):
        norms = levels(qualities, "norm")
        figure, axes = parts.panels([*QUALITIES.values()], (3.3, 3.0))
        for ax, quality in zip(axes, QUALITIES, strict=True):
            for norm in norms:
                of_norm = rows(qualities, quality, norm)
                parts.line(ax, of_norm[of_norm["value"] > FLOOR], parts.style(norm, norms), markersize=5)
            ax.set(xscale="log", yscale="linear" if quality == "cosine" else "log", ylabel=QUALITIES[quality])
            axis_of_sizes(ax, levels(qualities, "examples"))
        parts.legend(figure, [*parts.arms(norms, markersize=5), *parts.interval_over(int(qualities["n"].max()))])
        drawn["gradient_estimate"] = figure
    return drawn


def by_depth(values: pd.DataFrame, diverged: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> Figure:
    """Draw accuracy against the size of mini-batches, a panel per depth and a line per kind.

    Args:
        values: a table of accuracy by depth, kind and size.
        diverged: a table of shares of the seeds that diverged, likewise.
        looks: of the norms, or of the ways of inference, in order.
    """
    depths = sorted({*levels(values, "layers"), *levels(diverged, "layers")})
    figure, axes = parts.panels([f"{layers} hidden layers" for layers in depths], (4.4, 3.4), sharey=True)
    for ax, layers in zip(axes, depths, strict=True):
        for i, (kind, look) in enumerate(looks.items()):
            parts.line(ax, rows(values, layers, kind), look)
            if len(diverged):
                parts.crosses_of(ax, rows(diverged, layers, kind), look, height=0.03 + 0.05 * i)
        ax.set_xscale("log")
        axis_of_sizes(ax, sorted({*values.index.get_level_values(2), *diverged.index.get_level_values(2)}))
    parts.axis_of_accuracy(axes[0], values["value"].max())
    parts.label_rows(axes, "test accuracy after the last step")
    if len(diverged):
        seeds = parts.band_over(int(diverged["n"].max()))
    else:  # means without bands
        seeds = [Line2D([], [], linestyle="", label=f"means over {n} seeds")] if (n := values["n"].max()) > 1 else []
    parts.legend(figure, [*(Line2D([], [], **look) for look in looks.values()), *seeds])
    return figure


def axis_of_sizes(ax: Axes, sizes: list[int]) -> None:
    """Let the x axis, which is logarithmic, have a tick for each size of mini-batches."""
    ax.set_xticks(sizes, [f"{size}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("examples in a mini-batch")


def improves(tables: Tables) -> list[Finding]:
    """Return, without and with batch norm, how noise falls with the size, and the bias at ``UP_TO`` examples."""
    found = list[Finding]()
    for norm in levels(table := tables["estimate"], "norm"):
        found.append(analysis.below(f"{norm}, {SLOPE}", estimate(table, norm, SLOPE), -0.45))
        found.append(analysis.below(f"{norm}, {BIAS} examples", estimate(table, norm, BIAS), 0.1))
    return found


def averages(tables: Tables) -> list[Finding]:
    """Return how far moving averages and Algorithm 2 are apart, at each depth and size."""
    return [
        analysis.below(
            f"{layers} layers, m = {size}, {APART}", estimate(tables["inference"], layers, size, APART), MATTERS
        )
        for layers, size in dict.fromkeys(key[:2] for key in tables["inference"].index)
    ]


def correction(tables: Tables) -> list[Finding]:
    """Return what the factor m/(m−1) costs, at each depth and size."""
    return [
        analysis.below(
            f"{layers} layers, m = {size}, {COST}", estimate(tables["inference"], layers, size, COST), MATTERS
        )
        for layers, size in dict.fromkeys(key[:2] for key in tables["inference"].index)
    ]


def alternatives(tables: Tables) -> list[Finding]:
    """Return what each other norm gains over batch norm in the smallest mini-batches, at each depth."""
    table = tables["accuracy"]
    sizes, norms = levels(table, SIZE), [norm for norm in levels(table, "norm") if norm not in ("none", "batch")]
    return [
        analysis.beyond(
            f"{layers} layers, m = {size}, gain by {norm}", estimate(table, layers, norm, size, GAIN), MATTERS
        )
        for size in sizes[:1]
        for layers in levels(table, "layers")
        for norm in norms
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="I1",
            section="Section 1",
            sentence="The gradient of a mini-batch estimates that of all examples, and the better the larger it is.",
            criterion="Noise falls with a slope of -0.45 or less, and the bias at 32 is at most 0.1, with intervals.",
            findings=improves,
            figure="gradient_estimate",
        ),
        Claim(
            id="3.1a",
            section="Section 3.1",
            sentence="Moving averages tell what accuracy the population statistics of Algorithm 2 give.",
            criterion="On the same weights they are at most 0.01 apart, at each depth and size, with the interval.",
            findings=averages,
            figure="inference",
        ),
        Claim(
            id="3.1b",
            section="Section 3.1",
            sentence="Inference is right with the unbiased variance, m/(m−1) times the mean variance of mini-batches.",
            criterion="On the same weights, m/(m−1) costs at most 0.01, at each depth and size, with the interval.",
            findings=correction,
            figure="inference",
        ),
        Claim(
            id="+small_mini_batches",
            section="Ioffe 2017",
            sentence="Batch Renormalization, group norm and layer norm mend what batch norm loses in small ones.",
            criterion="In the smallest mini-batches each ends more than 0.01 above batch norm, with the interval.",
            findings=alternatives,
            figure="mini_batch",
        ),
    ],
    arms=["norm", "model.norm_options", "model.hidden", SIZE, "diagnostics"],
    needs=["run.test_accuracy"],
    uses=[*(f"run.{way}" for way in WAYS), *(f"run.estimate_{quality}_{m}" for quality in QUALITIES for m in SIZES)],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
