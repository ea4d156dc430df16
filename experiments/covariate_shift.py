"""Does batch normalization reduce internal covariate shift: by the paper's measure, and by that of its critics?

- The paper (Section 2, Figure 1(b, c)): the distributions of what enters each nonlinearity move less during training.
  Measured as their drift (:func:`bnrepro.diagnostics.drift`).
- Santurkar et al. 2018 (Definition 2.1): the gradient of a layer changes when the layers before it are updated, with
  batch norm no less than without. Measured as ‖G − G'‖ and cos(G, G') (:func:`bnrepro.diagnostics.covariate_shift`).

Both are measured on the same runs, at equal learning rates::

    python -m bnrepro +sweep=covariate_shift                  # trains what is missing, then shows this
    python -m bnrepro +sweep=covariate_shift dataset=mnist    # the same at the scale of the paper's Section 4.1
    python experiments/covariate_shift.py                     # shows it again from the stored runs

Both answers depend on the size of the probe batch, on which all is measured: the larger it is, the smaller is the shift
with batch norm beside that without. ``'sweep.grid.train.probe_examples=[60,120,1000]'`` shows by how much.

Tables are of means over seeds, geometric ones of ratios. A diverged run ends at an accuracy of 0 and has no measures.

- ``score``, of each run's mean over layers and measurements: the drift; ‖G − G'‖ and cos(G, G') of the weight layers
  from the second on, since nothing precedes the first; ‖G − G'‖ / ‖G‖ of those of them that feed a nonlinearity, since
  ‖G − G'‖ alone shrinks as the gradients do; smoothness, the effective β-smoothness (Santurkar et al. 2018, Section
  3.1), smaller for a smoother landscape. Measurements are those that end an even interval, so that all drifts are over
  the same number of steps; the first steps of training, measured at growing intervals, are left to the figures.
- ``compared``: their ratios to the plain network's of the same rate and seed, at rates at which both end at 90% or more
  with every seed: over the whole of training, and over each third of its steps, since these answer differently.
- ``singular_values`` of the Jacobians between layers after training, as means over layers. Section 3.3 conjectures that
  batch norm brings them near 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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
MEASURES = {DRIFT: axis_label("layer", "drift_wasserstein"), NORM: NORM, RELATIVE: RELATIVE, COSINE: COSINE}
"""The measures of internal covariate shift, and how their axes are labelled."""
SINGULAR_VALUES = {"smallest": "jacobian_min", "median": "jacobian_median", "largest": "jacobian_max"}
PERCENTILES = ["p50", "p15", "p85"]
COLOURS = {"whole": "0.2", "early": "#009E73", "middle": "#CC79A7", "late": "#E69F00"}
"""The whole of training and its thirds, in steps, and their colours."""
WHOLE, *THIRDS = COLOURS

TRAINED = 0.9
"""Final accuracy from which a network counts as trained."""
ARM = ["activation", "norm"]
CELL = [*ARM, "lr"]
Rows = Iterator[tuple[tuple[Any, ...], Estimate]]


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what figures are drawn from."""
    runs = analysis.outcomes(results)
    steps = _steps(results, runs)
    even = steps[steps["third"].notna()]
    windows = {window: even if window == WHOLE else even[even["third"] == window] for window in COLOURS}
    within = {window: analysis.cells(_means(runs, part), CELL) for window, part in windows.items()}
    cells = within[WHOLE]
    after = analysis.cells(steps[(steps["step"] == steps["steps"]) & ~steps["diverged"]], CELL)
    best = pd.concat([arm[arm["lr"] == analysis.best_value(arm, "lr")] for arm in groups(runs, ARM).values()])
    score = _estimates(cells, ["accuracy", "diverged", *MEASURES, SMOOTHNESS])
    return {
        "score": analysis.table(dict(score), [*CELL, "quantity"]),
        "compared": analysis.table(dict(_compared(within)), [*CELL, "window", "quantity"]),
        "singular_values": analysis.table(dict(_estimates(after, [*SINGULAR_VALUES])), [*CELL, "quantity"]),
        "diverged": analysis.finals(runs, CELL)["diverged"],
        "diverged_at": analysis.spread(runs, "diverged_at", [*CELL, "seed"]),
        "shift": _over_steps(steps, [*MEASURES]),
        "thirds": analysis.spread(even, "step", ["third"]),
        "jacobian": _over_steps(steps[steps["run_id"].isin(best["run_id"])], [*SINGULAR_VALUES]),
        "percentiles": _percentiles(results, best),
    }


def _steps(results: Results, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run and measured step: table ``runs``, the measures as means over layers, and the third.

    A measurement that does not end an even interval is in none: those are spaced logarithmically, or the last.
    """
    layers = results.table("layers")
    layers = layers.reindex(columns=[*layers, *set(SINGULAR_VALUES.values()).difference(layers)])
    preceded = layers["layer"] > 1
    gradient = layers["gradient_norm"].where(layers["gradient_norm"] > 0)  # it is 0 in a dead network
    measures = {
        DRIFT: layers["drift_wasserstein"],
        NORM: layers["shift_norm"].where(preceded),
        RELATIVE: (layers["shift_norm"] / gradient).where(preceded),
        COSINE: layers["shift_cosine"].where(preceded),
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
    means = steps[~steps["diverged"]].groupby("run_id")[[*MEASURES, SMOOTHNESS]].mean()
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
        activation, norm, lr = key
        plain = activation, "none", lr
        if norm != "none" and min(accuracy[key], accuracy.get(plain, 0)) >= TRAINED:
            for window, cells in within.items():
                for measure in (DRIFT, NORM, RELATIVE):
                    ratio = analysis.ratio(cells[key][measure], cells[plain][measure])
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
    for activation in levels(tables["diverged"], "activation"):
        drawn[f"shift-over-steps-{activation}"] = _shift_over_steps(tables, activation)
    if len(tables["jacobian"]):
        drawn["jacobian"] = _jacobian(tables)
    for activation in levels(tables["percentiles"], "activation"):
        drawn[f"percentiles-{activation}"] = _percentile_bands(tables, activation)
    return drawn


def _shift(compared: pd.DataFrame) -> Figure:
    """Draw the ratios against learning rate: a row per measure, a column per arm."""
    arms, rates = [*groups(compared.reset_index(), ARM)], levels(compared, "lr")
    figure, axes = parts.grid(2, len(arms), (4.3, 2.4), sharex=True, sharey="row")
    looks: dict[str, Any] = {
        window: {"color": colour, "marker": marker, "linestyle": "", "label": window}
        for (window, colour), marker in zip(COLOURS.items(), "osDP", strict=True)
    }
    for row, (whose, measure) in zip(axes, (("paper", DRIFT), ("critics", RELATIVE)), strict=True):
        for ax, (activation, norm) in zip(row, arms, strict=True):
            for i, (window, look) in enumerate(looks.items()):
                found = rows(compared.swaplevel("lr", "quantity"), activation, norm, f"ratio of {measure}", window)
                found = found.set_axis(found.index * 1.12 ** (i - 1.5)).query("n > 0")  # beside one another
                parts.points(ax, found, look, markersize=5.5)
            ax.axhline(1, **parts.REFERENCE)
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
            ax.minorticks_off()
        row[0].set_ylabel(f"{whose}: ratio of {measure}\n(below 1 is less shift)")
    for top, bottom, (activation, norm) in zip(*axes, arms, strict=True):
        top.set_title(f"{parts.activation_label(activation)} {parts.style(norm)['label']}")
        bottom.set_xlabel(f"learning rate (both end at {TRAINED:.0%} or more)")
    handles = [Line2D([], [], **look) for look in looks.values()]
    parts.legend(figure, handles, "over the whole of training, and over each third of its steps; bars: 95% intervals")
    return figure


def _shift_over_steps(tables: Tables, activation: str) -> Figure:
    """Draw the measures against steps, as means over layers: a row per measure, a column per learning rate."""
    cells = rows(tables["diverged"], activation)
    norms, rates = levels(cells, "norm"), levels(cells, "lr")
    figure, axes = parts.grid(len(MEASURES), len(rates), (2.5, 1.8), sharex=True, sharey="row")
    for row, measure in zip(axes, MEASURES, strict=True):
        for ax, rate in zip(row, rates, strict=True):
            for norm in norms:
                cell = activation, norm, rate
                _line(ax, tables, cell, rows(tables["shift"], measure, *cell), parts.style(norm, norms))
            for step in tables["thirds"]["low"]:
                ax.axvline(step, **parts.REFERENCE)
        better = "higher" if measure == COSINE else "lower"
        positive = (rows(tables["shift"], measure, activation)["value"] > 0).any()
        scale = "log" if measure != COSINE and positive else "linear"
        row[0].set(ylabel=f"{MEASURES[measure]}\n({better} is less shift)", yscale=scale)
        row[0].margins(y=0.2)
    for ax, rate in zip(axes[0], rates, strict=True):
        ax.set_title(f"{parts.activation_label(activation)}, rate {rate:g}")
    thirds = Line2D([], [], **parts.REFERENCE, label="thirds of training (the first once intervals are even)")
    parts.legend(figure, [*parts.arms(norms, marker=None), *parts.band_over(int(cells["n"].max())), thirds])
    return figure


def _line(ax: Axes, tables: Tables, cell: tuple[Any, ...], table: pd.DataFrame, look: dict[str, Any]) -> None:
    """Draw a table of a cell against steps, with a cross where a run of it diverged."""
    parts.line(ax, table, look | {"marker": None})
    parts.crosses(ax, rows(tables["diverged_at"], *cell)["value"], look)
    last = tables["shift"].index.get_level_values("step").max()
    parts.axis_of_steps(ax, np.nanmax([1, last, tables["diverged_at"]["value"].max()]))
    ax.label_outer()


def _jacobian(tables: Tables) -> Figure:
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
    parts.legend(figure, [*parts.arms(norms, marker=None), *band, extremes, one])
    return figure


def _percentile_bands(tables: Tables, activation: str) -> Figure:
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
    title = f"each arm at its most accurate rate, median of {found['n'].max()} seeds"
    parts.legend(figure, [Line2D([], [], color="0.3", label="median"), band], title)
    return figure


def _ratios(hold: Callable[[str, Estimate, float], Finding], measure: str, tables: Tables) -> list[Finding]:
    """Return the ratios of a measure over the whole of training, per activation and rate."""
    compared = tables["compared"]
    found = {
        f"{activation}, rate {lr:g}, ratio of {measure}": estimate(
            compared, activation, norm, lr, WHOLE, f"ratio of {measure}"
        )
        for activation, norm, lr in groups(compared.reset_index(), CELL)
        if norm == "batch"
    }
    return [hold(of, each, 1) for of, each in found.items()]


def _near_one(tables: Tables) -> list[Finding]:
    """Return the median singular value with batch norm, at the rates at which both networks train."""
    found = {
        f"{activation}, rate {lr:g}, median singular value": estimate(
            tables["singular_values"], activation, norm, lr, "median"
        )
        for activation, norm, lr in groups(tables["compared"].reset_index(), CELL)
        if norm == "batch"
    }
    return [analysis.within(of, each, 0.8, 1.25) for of, each in found.items()]


BOTH_TRAIN = (
    "For each activation, at each learning rate at which both networks end at 90% or more with every seed, the ratio "
    "of {} with batch norm to without is at {} 1, over the whole of training and with its whole interval."
)
EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="2.2",
            section="Section 2",
            sentence="With batch norm the distributions of what enters nonlinearities drift less during training.",
            criterion=BOTH_TRAIN.format(DRIFT, "most"),
            findings=partial(_ratios, analysis.below, DRIFT),
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
            criterion=BOTH_TRAIN.format("‖G − G'‖ / ‖G‖", "least"),
            findings=partial(_ratios, analysis.above, RELATIVE),
            figure="shift",
        ),
    ],
    arms=CELL,
    needs=["layer.drift_wasserstein", "layer.shift_norm", "layer.shift_cosine", "layer.gradient_norm"],
    uses=["run.landscape_smoothness", *(f"layer.{name}" for name in (*SINGULAR_VALUES.values(), *PERCENTILES))],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
