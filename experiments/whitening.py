"""Do whitened inputs train faster, and is whitening every layer worth its cost?

The paper begins from LeCun et al. 1998: training converges faster if the inputs of a network have mean 0 and variance
1 and are decorrelated (Section 2). It would whiten the inputs of every layer, but finds that costly, and simplifies
(Section 3): each feature is normalized by itself, and by a mini-batch. Here the inputs of its network are raw,
centred, standardised and whitened, with and without batch norm; and in a smaller network, whose covariances can be
inverted at each step, every layer is whitened by mini-batches (``norms.DecorrelatedBatchNorm``). That is the first
simplification; the second, to take a mini-batch for all examples, is common to both.

Table ``rates`` has every arm at every rate: steps to 90% of test accuracy (geometric mean; a bound where a run never
gets there) and final accuracy (0 of a run that diverged). Table ``best`` has each arm at the rate at which it gets to
90% in the fewest steps, the speed-up there over raw inputs or over batch norm, paired by seed, with the steps between
measurements in its interval, and what a step takes.

A critic would say that ε decides how much is whitened: so the inputs are also whitened with 10 and 100 times as much,
the last of which is the mean variance of a pixel, and the criteria are for each ε; that accuracy on test images is not
how fast training converges: so ``best`` has the speed-up to a training loss of 0.35, too, on the probe batch; that
rates are picked on the images that they are reported on, which favours every arm alike; that rates a factor of 4 apart
leave the best one open; and that time is of this machine and of NumPy's eigenvectors.
"""

from __future__ import annotations

import itertools
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels, rows
from bnrepro.commands import redraw
from bnrepro.data import WHITENING_EPSILON
from bnrepro.experiment import Claim, Experiment

LEVEL, MATTERS = 0.9, 1.25
ARM = ["network", "activation", "norm", "inputs"]
INPUTS = ["raw", "centred", "standardised", "whitened"]
NORM, WHITENING = "bnrepro.experiments.norms.DecorrelatedBatchNorm", "whitening"
"""The norm that whitens every layer, by its import path and as tables have it."""
NAMES = {"none": "without batch norm", "batch": "with batch norm", WHITENING: "whitening of every layer"}
STEPS, OVER_RAW, OVER_NORM = "steps to 90%", "speed-up over raw inputs", "speed-up over batch norm"
LOSS = 0.35
"""The training loss, in nats, that is about that at which 90% of test images are right."""
OVER_RAW_BY_LOSS = f"speed-up to loss {LOSS}"
TIME, TIMES = "ms per step", "time of a step over that of batch norm"
Rows = dict[tuple[object, ...], Estimate]


def name_of_inputs(run: pd.Series) -> str:
    """Name the inputs of a run, with ε unless it is the usual one."""
    name, epsilon = str(run["dataset.inputs"]), run.get("dataset.whitening_epsilon", WHITENING_EPSILON)
    return name if pd.isna(epsilon) or epsilon == WHITENING_EPSILON else f"{name}, ε = {epsilon:g}"


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what the figures are drawn from."""
    runs, curves = analysis.outcomes(results), results.table("curves")
    runs["network"], runs["inputs"] = runs["model.hidden"].map(str), [name_of_inputs(run) for _, run in runs.iterrows()]
    runs["norm"] = runs["norm"].replace(NORM, WHITENING)
    runs["taken"] = analysis.steps_to(runs, pd.Series(LEVEL, runs.index), curves)
    runs["ms"] = 1000 * runs["seconds"] / runs["steps"]
    rates, best, diverged = Rows(), Rows(), Rows()
    fastest = dict[tuple[Any, ...], pd.DataFrame]()
    for arm, members in analysis.groups(runs, ARM).items():
        cells = analysis.cells(members, ["lr"])
        for lr, cell in cells.items():
            rates[*arm, lr, STEPS] = analysis.steps(cell["taken"], cell["steps"])
            rates[*arm, lr, "final accuracy"] = analysis.mean(cell["accuracy"])
            diverged[*arm, lr] = analysis.share(cell["diverged"])
        lr = min(sorted(cells, reverse=True), key=lambda lr: round(rates[*arm, lr, STEPS].value, 9))
        fastest[arm] = cells[lr]
        best[*arm, "fastest rate"] = Estimate(lr, n=len(cells[lr]))
        best |= {(*arm, quantity): rates[*arm, lr, quantity] for quantity in (STEPS, "final accuracy")}
        best[*arm, TIME] = analysis.mean(cells[lr]["ms"].where(~cells[lr]["diverged"]))
    falling, measured = curves.assign(test_accuracy=-curves["train_loss"]), curves["train_loss"].notna().any()
    for arm, cell in fastest.items():
        network, activation, norm, inputs = arm
        if inputs != "raw" and (raw := fastest.get((network, activation, norm, "raw"))) is not None:
            best[*arm, OVER_RAW] = analysis.speed_up_to(LEVEL, raw, cell, curves)
            if measured:
                best[*arm, OVER_RAW_BY_LOSS] = analysis.speed_up_to(-LOSS, raw, cell, falling)
        if norm == WHITENING and (plain := fastest.get((network, activation, "batch", inputs))) is not None:
            best[*arm, OVER_NORM] = analysis.speed_up_to(LEVEL, plain, cell, curves)
            best[*arm, TIMES] = analysis.ratio(cell["ms"], plain["ms"])
    drawn = pd.concat(fastest.values())
    return {
        "best": analysis.table(best, [*ARM, "quantity"]),
        "rates": analysis.table(rates, [*ARM, "lr", "quantity"]),
        "diverged": analysis.table(diverged, [*ARM, "lr"]),
        "convergence": analysis.spread(curves.merge(drawn[["run_id", *ARM]]), "test_accuracy", [*ARM, "step"]),
    }


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw steps to 90% against the rate by inputs, and accuracy against steps and time by what is done to layers."""
    rates, networks = tables["rates"], levels(tables["rates"], "network")
    whitened = {network for network, _, norm, *_ in rates.index if norm == WHITENING}
    drawn = {}
    if others := [network for network in networks if network not in whitened]:
        drawn["inputs"] = _inputs(rates, others[0])
    if whitened:
        drawn["layers"] = _layers(tables, min(whitened))
    return drawn


def _inputs(whole: pd.DataFrame, network: str) -> Figure:
    rates: Any = rows(whole, network).xs(STEPS, level="quantity")
    activations, norms, inputs = (levels(rates, name) for name in ("activation", "norm", "inputs"))
    inputs.sort(key=lambda name: (INPUTS.index(name.partition(",")[0]), name))
    figure, axes = parts.grid(len(norms), len(activations), (4.2, 2.9), sharex=True, sharey=True)
    for (row, norm), (column, activation) in itertools.product(enumerate(norms), enumerate(activations)):
        ax = axes[row, column]
        for i, each in enumerate(inputs):
            of_inputs, look = rows(rates, activation, norm, each), parts.style(each, inputs)
            of_inputs.index = [lr * 1.06 ** (i - (len(inputs) - 1) / 2) for lr in of_inputs.index]
            ax.plot(of_inputs.index, of_inputs["value"], **look | {"marker": "", "linewidth": 1})
            parts.points(ax, of_inputs, look, linestyle="", markersize=5, capsize=2)
        ax.set(xscale="log", yscale="log", title=f"{parts.activation_label(activation)}, {NAMES.get(norm, norm)}")
        lrs = levels(rates, "lr")
        ax.set_xticks(lrs, [f"{lr:g}" for lr in lrs])
        ax.minorticks_off()
        ax.yaxis.set_major_formatter(parts.thousands)
    for ax in axes[-1]:
        ax.set_xlabel("learning rate")
    for ax in axes[:, 0]:
        ax.set_ylabel("steps to 90% of test accuracy")
    others = {"95% interval over seeds": "_"} | ({"not by all seeds: at least": "^"} if rates["bound"].any() else {})
    marks = [Line2D([], [], color="0.5", marker=m, linestyle="", label=label) for label, m in others.items()]
    parts.legend(figure, [*parts.arms(inputs, markersize=5), *marks])
    return figure


def _layers(tables: Tables, network: str) -> Figure:
    curves, best = rows(tables["convergence"], network), rows(tables["best"], network)
    activations, norms = levels(curves, "activation"), levels(curves, "norm")
    figure, axes = parts.grid(2, len(activations), (4.2, 2.9), sharey=True)
    for (column, activation), norm in itertools.product(enumerate(activations), norms):
        look = parts.style(norm, norms) | {"marker": ""}
        for inputs in levels(rows(curves, activation, norm), "inputs"):
            of_arm = rows(curves, activation, norm, inputs)
            parts.line(axes[0, column], of_arm, look)
            took = estimate(best, activation, norm, inputs, TIME).value / 1000
            if took > 0:
                timed = of_arm[of_arm.index > 0]
                parts.line(axes[1, column], timed.set_axis(timed.index * took), look)
                axes[1, column].set_xscale("log")
    parts.axes_of_curves(list(axes[0]), curves)
    for ax, activation in zip(axes[0], activations, strict=True):
        ax.set_title(parts.activation_label(activation))
    for ax in axes[1]:
        ax.set_xlabel("seconds of training, with measurements (log)")
    axes[1, 0].set_ylabel(axes[0, 0].get_ylabel())
    names = [Line2D([], [], **parts.style(n, norms) | {"marker": "", "label": NAMES.get(n, n)}) for n in norms]
    parts.legend(figure, [*names, *parts.band_over(int(curves["n"].max()))])
    return figure


def held(quantity: str, norm: str, inputs: str, *tests: tuple[str, Any, tuple[float, ...]]) -> Any:
    """Return what holds a quantity of an arm against thresholds, in every network, with every activation and ε."""

    def findings(tables: Tables) -> list[Finding]:
        best = tables["best"]
        return [
            test(f"{arm[1]}, {of}{arm[3].removeprefix(inputs)}", estimate(best, *arm, quantity), *thresholds)
            for *arm, found in best.index
            if (arm[2], arm[3].partition(",")[0], found) == (norm, inputs, quantity)
            for of, test, thresholds in tests
        ]

    return findings


def costly_and_needless(tables: Tables) -> list[Finding]:
    """Return the speed-up by whitening every layer, over batch norm, and how much longer a step takes."""
    speed = ("speed-up by whitening every layer", analysis.below, (MATTERS,))
    time = ("time of a step that whitens, over batch norm", analysis.above, (MATTERS,))
    return [
        finding
        for quantity, test in ((OVER_NORM, speed), (TIMES, time))
        for finding in held(quantity, WHITENING, "raw", test)(tables)
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="2.1",
            section="Section 2",
            sentence="Training converges faster if the inputs of a network are whitened.",
            criterion="Without batch norm, whitened inputs take, at each ε, 1.25 × fewer steps to 90% than raw "
            "ones do, with the whole interval.",
            findings=held(OVER_RAW, "none", "whitened", ("speed-up by whitened inputs", analysis.above, (MATTERS,))),
            figure="inputs",
        ),
        Claim(
            id="+inputs",
            section="Section 2",
            sentence="Batch norm makes whitening of the inputs needless.",
            criterion="With batch norm, whitened inputs take, at each ε, at least 1/1.25 of the steps to 90% that "
            "raw ones take, with the whole interval.",
            findings=held(OVER_RAW, "batch", "whitened", ("speed-up with batch norm", analysis.below, (MATTERS,))),
            figure="inputs",
        ),
        Claim(
            id="2.4",
            section="Section 3",
            sentence="Whitening every layer is costly, and normalizing each feature by itself does as well.",
            criterion="Whitening takes at least 1/1.25 of batch norm's steps to 90%, and a step of it 1.25 × the time.",
            findings=costly_and_needless,
            figure="layers",
        ),
    ],
    arms=[
        "dataset.inputs",
        "dataset.whitening_epsilon",
        "activation",
        "norm",
        "model.norm_options",
        "model.hidden",
        "lr",
    ],
    needs=["run.test_accuracy"],
    uses=["run.train_loss"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
