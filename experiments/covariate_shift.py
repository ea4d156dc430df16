"""Does batch normalization reduce internal covariate shift: by the paper's measure, and by that of its critics?

- The paper (Section 2, Figure 1(b, c)): the distributions of what enters each nonlinearity move less during training.
  Measured as their drift (:func:`bnrepro.diagnostics.drift`).
- Santurkar et al. 2018 (Definition 2.1): the gradient of a layer changes when the layers before it are updated, with
  batch norm no less than without. Measured as ‖G − G'‖ and cos(G, G') on the probe batch
  (:func:`bnrepro.diagnostics.covariate_shift`), and to the letter, on training mini-batches
  (:func:`bnrepro.diagnostics.minibatch_shift`).

Both are measured on the same runs, at equal learning rates::

    python -m bnrepro +sweep=covariate_shift                  # trains what is missing, then shows this
    python -m bnrepro +sweep=covariate_shift dataset=mnist    # the same at the scale of the paper's Section 4.1
    python experiments/covariate_shift.py                     # shows it again from the stored runs

Both answers depend on the size of the probe batch and on the phase of training. So each size and each phase has ratios
of its own, and the criteria are of all of them. They were fixed before the runs of the reference data.

Tables are of means over seeds, geometric ones of ratios. A diverged run ends at an accuracy of 0 and has no measures.

- ``score``, of each run's mean over layers and measurements: the drift; the drift above the floor, which is
  √max(0, drift² − floor² / 2) with the floor that two halves of the probe batch show of no drift at all; ‖G − G'‖ and
  cos(G, G') of the weight layers from the second on, since nothing precedes the first; ‖G − G'‖ / ‖G‖ of those of them
  that feed a nonlinearity, since ‖G − G'‖ alone shrinks as the gradients do; both norms on mini-batches, too;
  smoothness, the effective β-smoothness (Santurkar et al. 2018, Section 3.1), smaller for a smoother landscape.
  Measurements are those that end an even interval, so that all drifts are over the same number of steps; the first
  steps of training, measured at growing intervals, are left to the figures.
- ``compared``: their ratios to the plain network's of the same rate, probe and seed, at rates at which both end at 90%
  or more with every seed: over the whole of training, and over each third of its steps. Of the drift above the floor
  it is 0 where only the plain network's ever exceeds the floor, and infinite where only the other's does.
- ``singular_values`` of the Jacobians between layers after training, as means over layers. Section 3.3 conjectures that
  batch norm brings them near 1.

On average a population drifts no more than a sample of it. If the probe were drawn anew for each measurement, the drift
above the floor would be about what the population drifts. Since its examples are the same at all measurements, sampling
adds less, and the floor takes away too much: most of the drift of few examples. The largest probe tells most.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, groups, levels, rows
from bnrepro.commands import redraw
from bnrepro.diagnostics import axis_label
from bnrepro.experiment import Claim, Experiment

DRIFT, NORM, COSINE = "drift", axis_label("layer", "shift_norm"), axis_label("layer", "shift_cosine")
RELATIVE, SMOOTHNESS = f"{NORM} / ‖G‖", "smoothness"
ABOVE, FLOOR, ON_MINIBATCHES = "drift above the floor", "floor", " on mini-batches"
MEASURES = {DRIFT: axis_label("layer", "drift_wasserstein"), NORM: NORM, RELATIVE: RELATIVE, COSINE: COSINE}
"""The measures of internal covariate shift, and how their axes are labelled."""
COMPARED = [DRIFT, ABOVE, NORM, RELATIVE, NORM + ON_MINIBATCHES, RELATIVE + ON_MINIBATCHES]
"""The measures of which there are ratios."""
OPTIONAL = ["drift_floor", *(f"minibatch_{name}" for name in ("gradient_norm", "shift_norm"))]
SINGULAR_VALUES = {"smallest": "jacobian_min", "median": "jacobian_median", "largest": "jacobian_max"}
PERCENTILES = ["p50", "p15", "p85"]
WINDOWS = ("whole", "early", "middle", "late")
"""The whole of training, and its thirds, in steps."""
WHOLE, *THIRDS = WINDOWS

HEADINGS = {DRIFT: "drift (paper)", ABOVE: ABOVE, NORM: f"{NORM} (critics)", RELATIVE: RELATIVE}
"""The measures whose ratios are drawn, and the titles of their panels."""
BATCH = "mini-\nbatch"
"""The label of what is measured on mini-batches."""
LESS, MORE = "#56B4E9", "#E69F00"
GROUND = LinearSegmentedColormap.from_list("ratio", [(0, LESS), (0.5, "#E3F2FB"), (0.5, "#FBEFD6"), (1, MORE)])
"""The ground of ratios from a tenth to ten, with a step at 1."""

TRAINED = 0.9
"""Final accuracy from which a network counts as trained."""
PROBE = "train.probe_examples"
ARM = ["activation", "norm"]
CELL = [*ARM, "lr", PROBE]
Rows = Iterator[tuple[tuple[Any, ...], Estimate]]


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what figures are drawn from."""
    runs = analysis.outcomes(results)
    steps = _steps(results, runs)
    even = steps[steps["third"].notna()]
    windows = {window: even if window == WHOLE else even[even["third"] == window] for window in WINDOWS}
    within = {window: analysis.cells(_means(runs, part), CELL) for window, part in windows.items()}
    after = analysis.cells(steps[(steps["step"] == steps["steps"]) & ~steps["diverged"]], CELL)
    # Figures over steps are of one probe: that with which most was measured, of equals the smallest.
    measured = steps.groupby(PROBE)[[*MEASURES, *SINGULAR_VALUES]].count().gt(0).sum(axis=1)
    shown, over_steps = (table[table[PROBE] == measured.idxmax()] for table in (runs, steps))
    best = pd.concat([arm[arm["lr"] == analysis.best_value(arm, "lr")] for arm in groups(shown, ARM).values()])
    score = _estimates(within[WHOLE], ["accuracy", "diverged", *COMPARED, COSINE, SMOOTHNESS])
    return {
        "score": analysis.table(dict(score), [*CELL, "quantity"]),
        "compared": analysis.table(dict(_compared(within)), [*CELL, "window", "quantity"]),
        "singular_values": analysis.table(dict(_estimates(after, [*SINGULAR_VALUES])), [*CELL, "quantity"]),
        "diverged": analysis.finals(shown, CELL)["diverged"],
        "diverged_at": analysis.spread(shown, "diverged_at", [*CELL, "seed"]),
        "shift": _over_steps(over_steps, [*MEASURES, FLOOR]),
        "thirds": analysis.spread(even, "step", ["third"]),
        "jacobian": _over_steps(over_steps[over_steps["run_id"].isin(best["run_id"])], [*SINGULAR_VALUES]),
        "percentiles": _percentiles(results, best),
    }


def _steps(results: Results, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run and measured step: table ``runs``, the measures as means over layers, and the third.

    A measurement that does not end an even interval is in none: those are spaced logarithmically, or the last.
    """
    layers = results.table("layers")
    layers = layers.reindex(columns=[*layers, *{*SINGULAR_VALUES.values(), *OPTIONAL}.difference(layers)])
    preceded = layers["layer"] > 1
    gradient = layers["gradient_norm"].where(layers["gradient_norm"] > 0)  # it is 0 in a dead network
    own_gradient = layers["minibatch_gradient_norm"].where(layers["minibatch_gradient_norm"] > 0)
    drift, floor = layers["drift_wasserstein"], layers["drift_floor"] / np.sqrt(2)
    measures = {
        DRIFT: drift,
        ABOVE: np.sqrt((drift**2 - floor**2).clip(lower=0)),
        FLOOR: floor,
        NORM: layers["shift_norm"].where(preceded),
        RELATIVE: (layers["shift_norm"] / gradient).where(preceded),
        COSINE: layers["shift_cosine"].where(preceded),
        NORM + ON_MINIBATCHES: layers["minibatch_shift_norm"].where(preceded),
        RELATIVE + ON_MINIBATCHES: (layers["minibatch_shift_norm"] / own_gradient).where(preceded & gradient.notna()),
        **{name: layers[column] for name, column in SINGULAR_VALUES.items()},
    }
    means = layers[["run_id", "step"]].assign(**measures).groupby(["run_id", "step"], as_index=False).mean()
    curves = results.table("curves").reindex(columns=["run_id", "step", "landscape_smoothness"])
    curves = curves.rename(columns={"landscape_smoothness": SMOOTHNESS})
    steps = means.merge(curves, "left", on=["run_id", "step"]).merge(runs, on="run_id")
    interval = (steps["steps"] // steps["train.measurements"]).clip(lower=1)
    third = ((3 * steps["step"] - 1) // steps["steps"]).map(dict(enumerate(THIRDS)))
    return steps.assign(third=third.where((steps["step"] % interval == 0) & (steps["step"] >= 2 * interval)))


def _means(runs: pd.DataFrame, steps: pd.DataFrame) -> pd.DataFrame:
    """Return table ``runs`` with the means over steps of each run that did not diverge, as far as they are finite."""
    means = steps[~steps["diverged"]].groupby("run_id")[[*COMPARED, COSINE, SMOOTHNESS]].mean()
    return runs.join(means.where(np.isfinite(means)), on="run_id")


def _estimates(cells: dict[Any, pd.DataFrame], quantities: Sequence[str]) -> Rows:
    for key, cell in cells.items():
        for quantity in quantities:
            if cell[quantity].notna().any():
                found = analysis.share if quantity == "diverged" else analysis.mean
                yield (*key, quantity), found(cell[quantity])


def _compared(within: dict[str, dict[Any, pd.DataFrame]]) -> Rows:
    accuracy = {key: cell["accuracy"].min() for key, cell in within[WHOLE].items()}
    for key in accuracy:
        activation, norm, lr, probe = key
        plain = activation, "none", lr, probe
        if norm != "none" and min(accuracy[key], accuracy.get(plain, 0)) >= TRAINED:
            for window, cells in within.items():
                for measure in COMPARED:
                    pair = cells[key][measure], cells[plain][measure]
                    if all(values.notna().any() for values in pair):
                        ratio, (of, to) = analysis.ratio(*pair), ((values > 0).any() for values in pair)
                        if measure == ABOVE and of != to:  # one of the two never exceeds the floor
                            ratio = Estimate(math.inf if of else 0.0, n=len(pair[0]))
                        yield (*key, window, f"ratio of {measure}"), ratio


def _over_steps(steps: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the spread of each of several columns, named by the first level of the index."""
    by = [*CELL, "step"]
    return analysis.spread(steps.melt(by, columns, "measure", "value"), "value", ["measure", *by])


def _percentiles(results: Results, best: pd.DataFrame) -> pd.DataFrame:
    """Return, as medians over seeds, the 50th percentile as ``value`` and the 15th and 85th as ``low`` and ``high``."""
    layers = results.table("layers").reindex(columns=["run_id", "step", "layer", *PERCENTILES]).dropna()
    bands = layers.merge(best[["run_id", *CELL]], on="run_id").groupby([*CELL, "layer", "step"])[PERCENTILES]
    return bands.median().set_axis(["value", "low", "high"], axis=1).assign(n=bands.size(), bound=0)


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw the ratios if there are any, the measures against steps, and what else was measured against steps."""
    drawn = {"shift": _shift(tables["compared"])} if len(tables["compared"]) else {}
    (probe,) = levels(tables["diverged"], PROBE)
    of_one = {
        name: found.droplevel(PROBE) if PROBE in found.index.names else found
        for name, found in tables.items()
        if name in ("diverged", "diverged_at", "shift", "thirds", "jacobian", "percentiles")
    }
    told = f"measured on a probe of {probe} training examples"
    for activation in levels(of_one["diverged"], "activation"):
        drawn[f"shift-over-steps-{activation}"] = _shift_over_steps(of_one, activation, told)
    if len(of_one["jacobian"]):
        drawn["jacobian"] = _jacobian(of_one, told)
    for activation in levels(of_one["percentiles"], "activation"):
        drawn[f"percentiles-{activation}"] = _percentile_bands(of_one, activation, told)
    return drawn


def _shift(compared: pd.DataFrame) -> Figure:
    """Draw the ratios as numbers, on a ground that tells on which side of 1: a row per arm, a column per measure.

    In a panel, columns are mini-batches and the sizes of the probe; lines are phases of training and learning rates.
    """
    arms = [*groups(compared.reset_index(), ARM)]
    measures = [measure for measure in HEADINGS if f"ratio of {measure}" in compared.index.unique("quantity")]
    most = 1 + compared.index.unique(PROBE).size
    figure, axes = parts.grid(len(arms), len(measures), (1.1 + 0.42 * most, 3.7))
    for row, (activation, norm) in zip(axes, arms, strict=True):
        found = rows(compared, activation, norm)
        lines = [(window, lr) for window in WINDOWS for lr in levels(found, "lr")]
        for ax, measure in zip(row, measures, strict=True):
            _numbers(ax, lines, _by_examples(found, measure))
            ax.set_yticks(range(len(lines)), [f"{window}, {lr:g}" for window, lr in lines] if ax is row[0] else [])
            ax.set_title(HEADINGS[measure])
        arm = f"{parts.activation_label(activation)} {parts.style(norm)['label']}"
        row[0].set_ylabel(f"{arm}\n(phase of training, rate)")
    for ax in axes[-1]:
        ax.set_xlabel("probe (examples)")
    handles = [
        Patch(color=LESS, label="below 1: shifts less with batch norm"),
        Patch(color=MORE, label="above 1 (bold): shifts more"),
        Patch(facecolor="white", edgecolor="0.6", label="no 95% interval on one side of 1"),
    ]
    title = f"ratios with batch norm to without, where both end at {TRAINED:.0%} or more"
    if ABOVE in measures:
        title += "; 0: only without it above the floor, ∞: only with it, none: neither"
    parts.legend(figure, handles, title)
    return figure


def _by_examples(found: pd.DataFrame, measure: str) -> dict[str, pd.DataFrame]:
    """Return the ratios of a measure by rate and window: on mini-batches, if there are any, and on each probe."""
    quantities = {f"ratio of {measure}{each}": each for each in (ON_MINIBATCHES, "")}
    of = {quantity: found[found.index.get_level_values("quantity") == quantity] for quantity in quantities}
    drawn: dict[str, Any] = {}
    for quantity, table in of.items():
        for probe in levels(table, PROBE):
            label = BATCH if quantities[quantity] else f"{probe:,}"
            drawn.setdefault(label, table.xs((probe, quantity), level=(PROBE, "quantity")))
    return drawn


def _numbers(ax: Axes, lines: Sequence[tuple[str, float]], columns: dict[str, pd.DataFrame]) -> None:
    """Write ratios into the cells of a panel, and colour those whose interval lies on one side of 1."""
    ground = np.full((len(lines), len(columns)), np.nan)
    for column, table in enumerate(columns.values()):
        for line, (window, lr) in enumerate(lines):
            ratio = estimate(table, lr, window)
            if not np.isnan(ratio.value):
                one_sided = ratio.low > 1 or ratio.high < 1
                ground[line, column] = np.log(ratio.value) if one_sided else np.nan
                weight = "bold" if ratio.value > 1 else "normal"
                told = f"{ratio.value:,.0f}" if ratio.value >= 10 else f"{ratio.value:.2g}"
                told = told.replace("inf", "∞")
                ax.text(column, line, told, ha="center", va="center", fontsize=7.5, fontweight=weight)
    ax.imshow(ground, cmap=GROUND, vmin=-np.log(10), vmax=np.log(10), aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(columns)), [*columns], fontsize=8)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    for line in range(len(lines) // len(WINDOWS), len(lines), len(lines) // len(WINDOWS)):
        ax.axhline(line - 0.5, color="0.4", linewidth=0.8)
    if BATCH in columns:
        ax.axvline(0.5, color="0.4", linewidth=0.8, linestyle=":")


def _shift_over_steps(tables: Tables, activation: str, told: str) -> Figure:
    """Draw the measures against steps, as means over layers: a row per measure, a column per learning rate."""
    cells = rows(tables["diverged"], activation)
    norms, rates = levels(cells, "norm"), levels(cells, "lr")
    figure, axes = parts.grid(len(MEASURES), len(rates), (2.5, 1.8), sharex=True, sharey="row")
    for row, measure in zip(axes, MEASURES, strict=True):
        for ax, rate in zip(row, rates, strict=True):
            for norm in norms:
                cell = activation, norm, rate
                look = parts.style(norm, norms)
                _line(ax, tables, cell, rows(tables["shift"], measure, *cell), look)
                if measure == DRIFT:
                    floor = rows(tables["shift"], FLOOR, *cell)["value"].sort_index()
                    ax.plot(floor.index, floor, color=look["color"], linewidth=1, linestyle=(0, (1, 1)))
            for step in tables["thirds"]["low"]:
                ax.axvline(step, **parts.REFERENCE)
        better = "higher" if measure == COSINE else "lower"
        positive = (rows(tables["shift"], measure, activation)["value"] > 0).any()
        scale = "log" if measure != COSINE and positive else "linear"
        row[0].set(ylabel=f"{MEASURES[measure]}\n({better} is less shift)", yscale=scale)
        row[0].margins(y=0.2)
    for ax, rate in zip(axes[0], rates, strict=True):
        ax.set_title(f"{parts.activation_label(activation)}, rate {rate:g}")
    thirds = Line2D([], [], **parts.REFERENCE, label="thirds of even intervals")
    handles = [*parts.arms(norms, marker=None), *parts.band_over(int(cells["n"].max())), thirds]
    if len(rows(tables["shift"], FLOOR)):
        look = {"color": "0.3", "linewidth": 1, "linestyle": (0, (1, 1))}
        handles.append(Line2D([], [], **look, label="floor of drift"))
        told += "; the floor is the distance of two samples of that size, of no drift at all"
    parts.legend(figure, handles, told)
    return figure


def _line(ax: Axes, tables: Tables, cell: tuple[Any, ...], table: pd.DataFrame, look: dict[str, Any]) -> None:
    """Draw a table of a cell against steps, with a cross where a run of it diverged."""
    parts.line(ax, table, look | {"marker": None})
    parts.crosses(ax, rows(tables["diverged_at"], *cell)["value"], look)
    last = tables["shift"].index.get_level_values("step").max()
    parts.axis_of_steps(ax, np.nanmax([1, last, tables["diverged_at"]["value"].max()]))
    ax.label_outer()


def _jacobian(tables: Tables, told: str) -> Figure:
    """Draw singular values of Jacobians between layers against steps, each arm at its best rate, by activation."""
    activations, norms = (levels(tables["jacobian"], name) for name in ARM)
    figure, axes = parts.panels(activations, (4.3, 3.2), sharex=True, sharey=True)
    for ax, activation in zip(axes, activations, strict=True):
        title = []
        for norm, lr in groups(rows(tables["jacobian"], "median", activation).reset_index(), ["norm", "lr"]):
            look = parts.style(norm, norms)
            for value in SINGULAR_VALUES:
                found = rows(tables["jacobian"], value, activation, norm, lr)
                width = {"linewidth": 1.8 if value == "median" else 0.8}
                _line(ax, tables, (activation, norm, lr), found, look | width)
            title.append(f"{lr:g} {look['label']}")
        ax.axhline(1, **parts.REFERENCE)
        ax.set_title(f"{parts.activation_label(activation)}, rate {', '.join(title)}")
    axes[0].set_ylabel("singular values, mean over layers")
    extremes = Line2D([], [], color="0.3", linewidth=0.8, label="smallest and largest (thick: median)")
    one = Line2D([], [], **parts.REFERENCE, label="1, as conjectured")
    band = parts.band_over(int(tables["jacobian"]["n"].max()))
    parts.legend(figure, [*parts.arms(norms, marker=None), *band, extremes, one], told)
    return figure


def _percentile_bands(tables: Tables, activation: str, told: str) -> Figure:
    """Draw percentiles of what enters each layer against steps: a row per norm, a column per layer."""
    found = rows(tables["percentiles"], activation)
    norms, layers = levels(found, "norm"), levels(found, "layer")
    figure, axes = parts.grid(len(norms), len(layers), (3.1, 2.4), sharex=True, sharey=True)
    for row, norm in zip(axes, norms, strict=True):
        (lr,) = levels(rows(found, norm), "lr")
        look = parts.style(norm, norms)
        for ax, layer in zip(row, layers, strict=True):
            _line(ax, tables, (activation, norm, lr), rows(found, norm, lr, layer), look)
            ax.set_title(f"layer {layer}, {look['label']}, rate {lr:g}")
        row[0].set_ylabel(f"input of the {parts.activation_label(activation)}")
    band = Patch(color="0.5", alpha=0.3, linewidth=0, label="15th to 85th percentile, over units and examples")
    title = f"each arm at its most accurate rate, median of {found['n'].max()} seeds, {told}"
    parts.legend(figure, [Line2D([], [], color="0.3", label="median"), band], title)
    return figure


def _ratios(hold: Callable[[str, Estimate, float], Finding], measures: Sequence[str], tables: Tables) -> list[Finding]:
    """Return the ratios of measures: over the whole of training first, per arm, rate and probe."""
    compared = tables["compared"]
    found: dict[str, Estimate] = {}
    for window, measure in itertools.product(WINDOWS, measures):
        ratios = compared.reset_index().query("norm == 'batch'")
        ratios = ratios[(ratios["window"] == window) & (ratios["quantity"] == f"ratio of {measure}")]
        for activation, norm, lr, probe in groups(ratios, CELL):
            on = "" if measure.endswith(ON_MINIBATCHES) else f", probe of {probe}"
            of = f"{activation}, rate {lr:g}{on}, {window}: ratio of {measure}"
            found.setdefault(of, estimate(compared, activation, norm, lr, probe, window, f"ratio of {measure}"))
    return [hold(of, each, 1) for of, each in found.items()]


def _near_one(tables: Tables) -> list[Finding]:
    """Return the median singular value with batch norm, at the rates at which both networks train."""
    found = {
        f"{activation}, rate {lr:g}, probe of {probe}: median singular value": estimate(
            tables["singular_values"], activation, norm, lr, probe, "median"
        )
        for activation, norm, lr, probe in groups(tables["compared"].reset_index(), CELL)
        if norm == "batch"
    }
    return [analysis.within(of, each, 0.8, 1.25) for of, each in found.items() if each.n]


BOTH_TRAIN = (
    "For each activation, at each learning rate at which both networks end at 90% or more with every seed, over the "
    "whole of training and over each third of its steps, the ratio of {} with batch norm to without is at {} 1 with "
    "its whole interval."
)
EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="2.2",
            section="Section 2",
            sentence="With batch norm the distributions of what enters nonlinearities drift less during training.",
            criterion=BOTH_TRAIN.format("drift, on a probe of each size,", "most"),
            findings=partial(_ratios, analysis.below, [DRIFT]),
            figure="shift",
        ),
        Claim(
            id="3.3f",
            section="Section 3.3",
            sentence="Batch norm may bring the singular values of the Jacobians of layers near 1, as is conjectured.",
            criterion="For each activation, at each learning rate at which both networks end at 90% or more with every "
            "seed, the median singular value after training is within a factor of 1.25 of 1, with its whole interval.",
            findings=_near_one,
            figure="jacobian",
        ),
        Claim(
            id="+gradient_shift",
            section="Santurkar et al. 2018",
            sentence="With batch norm the gradient of a layer changes no less when the layers before it are updated.",
            criterion=BOTH_TRAIN.format(
                "‖G − G'‖ on mini-batches, and that of ‖G − G'‖ / ‖G‖ on a probe of each size,", "least"
            ),
            findings=partial(_ratios, analysis.above, [NORM + ON_MINIBATCHES, RELATIVE]),
            figure="shift",
        ),
    ],
    arms=[*CELL, "diagnostics"],
    needs=["layer.drift_wasserstein", "layer.shift_norm", "layer.shift_cosine", "layer.gradient_norm"],
    uses=[
        "run.landscape_smoothness",
        *(f"layer.{name}" for name in (*OPTIONAL, *SINGULAR_VALUES.values(), *PERCENTILES)),
    ],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
