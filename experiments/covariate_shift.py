"""Does batch normalization reduce internal covariate shift: by the paper's measure, and by that of its critics?

- The paper (Section 2, Figure 1(b, c)): the distributions of what enters each nonlinearity move less during training.
  Measured as their drift (:func:`bnrepro.diagnostics.drift`).
- Santurkar et al. 2018 (Definition 2.1): the gradient of a layer changes when the layers before it are updated, with
  batch norm no less than without. Measured as ‖G − G'‖ and cos(G, G') (:func:`bnrepro.diagnostics.covariate_shift`).

Both are measured on the same runs, at equal learning rates::

    python -m bnrepro +sweep=covariate_shift                  # trains what is missing, then shows this
    python -m bnrepro +sweep=covariate_shift dataset=mnist    # the same at the scale of the paper's Section 4.1
    python experiments/covariate_shift.py                     # shows it again from the stored runs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bnrepro import InputError, Results
from bnrepro.commands import redraw
from bnrepro.diagnostics import axis_label
from bnrepro.figures import ACTIVATIONS, NORMS, levels, line_with_range, style


class Measure(NamedTuple):
    """The way in which a measure of internal covariate shift is drawn."""

    title: str
    label: str
    scale: str
    less_shift: str


DRIFT, NORM, COSINE = "drift", axis_label("layer", "shift_norm"), axis_label("layer", "shift_cosine")
RELATIVE = f"{NORM} / ‖G‖"
MEASURES = {
    DRIFT: Measure("paper: inputs drift", axis_label("layer", "drift_wasserstein"), "log", "lower"),
    NORM: Measure("critics: gradients change", NORM, "log", "lower"),
    RELATIVE: Measure("critics: gradients change", RELATIVE, "log", "lower"),
    COSINE: Measure("critics: gradients turn", COSINE, "linear", "higher"),
}
COMPARED = [DRIFT, NORM, RELATIVE]
SINGULAR_VALUE, SMOOTHNESS = "singular value", "smoothness"
AVERAGED = [*MEASURES, SINGULAR_VALUE, SMOOTHNESS]

SHIFT = ["drift_wasserstein", "shift_norm", "shift_cosine"]
JACOBIAN = ["jacobian_min", "jacobian_median", "jacobian_max"]
PERCENTILES = ["p15", "p50", "p85"]

RUNS = ["run_id", "status", "activation", "norm", "lr", "seed", "steps"]
RUNS += ["test_accuracy", "diverged_at", "train.measurements"]
CURVES = ["run_id", "step", "landscape_smoothness"]
LAYERS = ["run_id", "step", "layer", *SHIFT, "gradient_norm", *JACOBIAN, *PERCENTILES]
"""The columns that are shown, of each table of results."""

REFERENCE: Any = {"color": "0.4", "linestyle": ":", "linewidth": 0.9}
"""Style of a line to compare with."""

LEARNED = 0.9
"""Median final accuracy below which a point of a figure is that of networks which have not learned."""

LEAST_SEEDS = 3
"""The number of pairs of runs from which on a ratio has a confidence interval."""


def score(results: Results) -> pd.DataFrame:
    """Tabulate, per activation, norm and rate, the median over seeds of each run's mean over layers and measurements.

    - accuracy: final test accuracy, a diverged run counting as 0; diverged: how many runs did;
    - drift: 1-Wasserstein distance between the distributions of a unit's inputs at successive measurements, in units
      of their standard deviation (Section 2 of the paper);
    - ‖G − G'‖ and cos(G, G'): of the weight layers from the second on, since nothing precedes the first;
      ‖G − G'‖ / ‖G‖: of those of them that feed a nonlinearity (Santurkar et al. 2018, Definition 2.1). A quotient by
      0, as in a dead network, is left out;
    - singular value: the median one of the Jacobian between layers (the conjecture of Section 3.3);
    - smoothness: effective β-smoothness, smaller for a smoother landscape (Santurkar et al. 2018, Section 3.1);
    - ratio of a measure: to the run without batch norm of the same rate and seed, if both are positive; geometric mean
      over seeds and, in brackets, its 95% bootstrap interval. That is coarse: of three seeds it is their range.

    The means are over the measurements that end an even interval, so that all drifts are over the same number of
    steps; the first steps of training, measured at growing intervals, are left to the figures. Diverged runs have none.
    """
    runs = _means(results)
    cell = ["activation", "norm", "lr"]
    cells = runs.groupby(cell)
    table = cells[["accuracy", *AVERAGED]].median().map(lambda value: float(f"{value:.3g}"))
    table.insert(1, "diverged", cells["diverged"].sum())
    table = table.dropna(axis="columns", how="all")
    log_ratios = _log_ratios(runs)
    for measure in (m for m in COMPARED if log_ratios[m].notna().any()):
        ratios = log_ratios.groupby(cell)[measure].agg(_geometric_mean_and_interval)
        table[f"ratio of {measure}"] = ratios.reindex(table.index, fill_value="")
    arms = [(a, n) for a in levels(runs["activation"], ACTIVATIONS) for n in levels(runs["norm"], NORMS)]
    return table.loc[[key for arm in arms for key in table.index if key[:2] == arm]]


def _log_ratios(runs: pd.DataFrame) -> pd.DataFrame:
    """Return logarithms of the measures' ratios to those without batch norm, paired by activation, rate and seed."""
    pair = ["activation", "lr", "seed"]
    means = runs.groupby([*pair, "norm"], as_index=False)[COMPARED].mean()
    others, without = means[means["norm"] != "none"], means[means["norm"] == "none"]
    pairs = others.merge(without, on=pair, suffixes=("", " without"))
    ratios = {m: pairs[m] / pairs[f"{m} without"] for m in COMPARED}
    return pairs.assign(**{m: np.log(r.where((r > 0) & (r < np.inf))) for m, r in ratios.items()})


def _geometric_mean_and_interval(logs: pd.Series) -> str:
    logs = logs.dropna()
    if logs.empty:
        return ""
    mean = _two_digits(logs.mean())
    if len(logs) < LEAST_SEEDS or logs.min() == logs.max():
        return mean
    rng = np.random.default_rng(0)
    interval = scipy.stats.bootstrap((logs,), np.mean, method="percentile", rng=rng).confidence_interval
    return f"{mean} ({_two_digits(interval.low)}–{_two_digits(interval.high)})"


def _two_digits(log: float) -> str:
    return np.format_float_positional(np.exp(log), precision=2, fractional=False, trim="-")


def _means(results: Results) -> pd.DataFrame:
    """Return table ``runs`` with the means that :func:`score` describes."""
    steps = _steps(results)
    means = steps[steps["even"] & (steps["status"] == "done")].groupby("run_id")[AVERAGED].mean()
    runs = results.runs.assign(accuracy=_accuracy(results.runs), diverged=results.runs["status"] == "diverged")
    return runs.join(means, on="run_id")


def _accuracy(runs: pd.DataFrame) -> pd.Series:
    """Return the final test accuracy, a diverged run counting as 0."""
    return runs["test_accuracy"].fillna(0.0)


def _steps(results: Results) -> pd.DataFrame:
    """Return a row per run and measured step: the settings, the measures as means over layers, and whether it is even.

    Even is a measurement that comes one even interval after another; those before are spaced logarithmically.
    """
    _present(results)
    layers = results.layers.reindex(columns=LAYERS)
    preceded = layers["layer"] > 1
    gradient = layers["gradient_norm"].where(layers["gradient_norm"] > 0)
    measures = {
        DRIFT: layers["drift_wasserstein"],
        NORM: layers["shift_norm"].where(preceded),
        RELATIVE: (layers["shift_norm"] / gradient).where(preceded),
        COSINE: layers["shift_cosine"].where(preceded),
        SINGULAR_VALUE: layers["jacobian_median"],
    }
    means = layers.assign(**measures).groupby(["run_id", "step"])[[*measures, *JACOBIAN]].mean()
    curves = results.curves.reindex(columns=CURVES).rename(columns={"landscape_smoothness": SMOOTHNESS})
    steps = curves.join(means, on=["run_id", "step"]).merge(results.runs[RUNS], on="run_id")
    interval = _interval(steps)
    return steps.assign(even=(steps["step"] % interval == 0) & (steps["step"] >= 2 * interval))


def _interval(runs: pd.DataFrame) -> pd.Series:
    """Return the number of steps from one even measurement to the next."""
    return (runs["steps"] // runs["train.measurements"]).clip(lower=1)


def _present(results: Results) -> set[str]:
    """Return the columns that this experiment shows and that hold anything.

    Raises:
        InputError: if there are none.
    """
    measured = [*SHIFT, *JACOBIAN, *PERCENTILES, "landscape_smoothness"]
    found = {m for m in measured for table in (results.layers, results.curves) if m in table and table[m].notna().any()}
    if not found:
        raise InputError(
            "diagnostics: must have one of percentiles, drift, covariate_shift, jacobian, landscape among them "
            "for covariate_shift to be shown"
        )
    return found


def figures(results: Results) -> dict[str, Figure]:
    """Draw ``shift``, the measures against learning rate, and, where diagnostics allow, the others, against steps."""
    present = _present(results)
    activations = levels(results.runs["activation"], ACTIVATIONS)
    drawn = {}
    if not present.isdisjoint(SHIFT):
        drawn["shift"] = shift(results)
        drawn |= {f"shift-over-steps-{a}": shift_over_steps(results, a) for a in activations}
    if not present.isdisjoint(JACOBIAN):
        drawn["jacobian"] = jacobian(results)
    if not present.isdisjoint(PERCENTILES):
        drawn |= {f"percentiles-{a}": percentiles(results, a) for a in activations}
    return drawn


def shift(results: Results) -> Figure:
    """Draw the paper's measure and its critics' against learning rate: a row per activation, a column per measure.

    Of the critics' it is ‖G − G'‖ / ‖G‖ if ‖G‖ was measured: ‖G − G'‖ alone shrinks as the gradients do, so that
    whatever trains to a smaller loss would seem to shift less.
    """
    runs = _means(results)
    measured = [m for m in MEASURES if runs[m].notna().any()] or [*MEASURES]  # none if all diverged
    measures = [m for m in measured if m != NORM or RELATIVE not in measured]
    activations, norms = levels(runs["activation"], ACTIVATIONS), levels(runs["norm"], NORMS)
    figure = Figure(figsize=(3.2 * len(measures) + 0.6, 2.5 * len(activations) + 0.8))
    axes = figure.subplots(len(activations), len(measures), sharex=True, sharey="col", squeeze=False)
    axes[0, 0].set(xscale="log", xlim=(runs["lr"].min() / 1.3, runs["lr"].max() * 1.3))
    for row, activation in zip(axes, activations, strict=True):
        for ax, measure in zip(row, measures, strict=True):
            ax.set_title(f"{ACTIVATIONS.get(activation, activation)}, {MEASURES[measure].title}")
            _scale(ax, measure, runs[measure])
            for i, norm in enumerate(norms):
                arm = _arm(runs, activation, norm)
                _points(ax, arm.set_index("lr"), measure, norm)
                _mark_rates(ax, arm, norm, height=0.05 + 0.08 * i)
    for ax in axes[-1]:
        ax.set_xlabel("learning rate")
    handles = _arms(runs, markersize=5)
    if (runs["accuracy"] < LEARNED).any():
        label = f"open: median final accuracy below {LEARNED:.0%}"
        handles.append(Line2D([], [], marker="o", linestyle="", color="0.3", markerfacecolor="w", label=label))
    _legend(figure, handles, runs)
    return figure


def _points(ax: Axes, arm: pd.DataFrame, measure: str, norm: str) -> None:
    """Draw median and range over seeds; markers are open where the median final accuracy is below ``LEARNED``."""
    line = style(norm)
    line_with_range(ax, arm[measure].dropna(), "lr", **line | {"marker": None})
    medians = arm[[measure, "accuracy"]].groupby(level="lr").median()
    for learned, face in ((True, line.get("color")), (False, "w")):
        points = medians.loc[(medians["accuracy"] >= LEARNED) == learned, measure]
        ax.plot(points, **line | {"linestyle": ""}, markersize=5.5, markerfacecolor=face)


def _mark_rates(ax: Axes, arm: pd.DataFrame, norm: str, height: float) -> None:
    """Draw a cross at the rates at which runs diverged, with how many of the seeds if not all did."""
    for rate in sorted(arm["lr"].unique()):
        diverged = arm.loc[arm["lr"] == rate, "diverged"]
        if diverged.any():
            _cross(ax, [rate], norm, height)
        if diverged.any() and not diverged.all():
            ax.annotate(
                f"{diverged.sum()}/{len(diverged)}",
                (rate, height),
                (-6, 0),
                xycoords=ax.get_xaxis_transform(),
                textcoords="offset points",
                fontsize=7,
                ha="right",
                va="center",
            )


def _cross(ax: Axes, x: Sequence[float], norm: str, height: float) -> None:
    """Draw crosses at ``height``, a share of the height of the axes."""
    where = ax.get_xaxis_transform()
    ax.plot(x, [height] * len(x), "x", color=style(norm).get("color"), transform=where, markersize=7, markeredgewidth=2)


def _scale(ax: Axes, measure: str, values: pd.Series) -> None:
    """Set label, scale and, if logarithmic, limits of the y axis: matplotlib finds none if all values are 0."""
    _, label, scale, less_shift = MEASURES[measure]
    ax.set(ylabel=f"{label}\n({less_shift} is less shift)", yscale=scale)
    ax.margins(y=0.2)
    if scale == "log":
        positive = values[(values > 0) & (values < np.inf)]
        low, high = np.log10([positive.min(), positive.max()]) if len(positive) else (-1, 0)
        margin = 0.2 * (high - low) + 0.1
        ax.set_ylim(10 ** (low - margin), 10 ** (high + margin / 2))


def _arms(runs: pd.DataFrame, **changes: Any) -> list[Artist]:
    """Return what the legend has to say of lines with a range."""
    handles: list[Artist] = [Line2D([], [], **style(norm) | changes) for norm in levels(runs["norm"], NORMS)]
    seeds = runs["seed"].nunique()
    if seeds > 1:
        handles.append(Patch(color="0.5", alpha=0.3, linewidth=0, label=f"range over {seeds} seeds (line: median)"))
    return handles


def _legend(figure: Figure, handles: list[Artist], runs: pd.DataFrame) -> None:
    """Draw the legend above the panels, where it hides nothing."""
    if (runs["status"] == "diverged").any():
        handles = [*handles, Line2D([], [], marker="x", linestyle="", color="0.3", markeredgewidth=2, label="diverged")]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8.5)


def shift_over_steps(results: Results, activation: str) -> Figure:
    """Draw the measures against steps, as means over layers: a row per measure, a column per learning rate."""
    steps, runs = (t[t["activation"] == activation] for t in (_steps(results), results.runs))
    measures = [m for m in MEASURES if steps[m].notna().any()] or [*MEASURES]
    norms, rates = levels(runs["norm"], NORMS), sorted(runs["lr"].unique())
    figure = Figure(figsize=(2.5 * len(rates) + 0.8, 1.8 * len(measures) + 0.9))
    axes = figure.subplots(len(measures), len(rates), sharex=True, sharey="row", squeeze=False)
    for row, measure in zip(axes, measures, strict=True):
        _scale(row[0], measure, steps[measure])
        for ax, rate in zip(row, rates, strict=True):
            for norm in norms:
                values = _arm(steps, activation, norm, rate).set_index("step")[measure].dropna()
                line_with_range(ax, values, "step", **style(norm) | {"marker": None})
                _mark_steps(ax, _arm(runs, activation, norm, rate), norm)
            ax.axvline(_interval(runs).min(), **REFERENCE)
            _against_steps(ax, f"{ACTIVATIONS.get(activation, activation)}, rate {rate:g}")
    even = Line2D([], [], **REFERENCE, label="intervals are even from here on")
    _legend(figure, [*_arms(runs, marker=None), even], runs)
    return figure


def _mark_steps(ax: Axes, arm: pd.DataFrame, norm: str) -> None:
    """Draw crosses at the steps at which runs diverged."""
    _cross(ax, arm["diverged_at"].dropna().tolist(), norm, height=0.05)


def _against_steps(ax: Axes, title: str) -> None:
    ax.set_title(title, fontsize=9)
    ax.set_xscale("symlog", linthresh=10)
    ax.set_xlim(0, None)
    ax.set_xlabel("steps (linear to 10, then log)")
    ax.label_outer()


def jacobian(results: Results) -> Figure:
    """Draw singular values of the layers' Jacobians against steps, each arm at its best rate: a panel per activation.

    Section 3.3 conjectures that batch norm brings them near 1.
    """
    activations = levels(results.runs["activation"], ACTIVATIONS)
    figure = Figure(figsize=(4 * len(activations) + 0.6, 3.4))
    axes = figure.subplots(1, len(activations), sharex=True, sharey=True, squeeze=False)[0]
    steps, runs = _steps(results), _at_best_rates(results.runs)
    for ax, activation in zip(axes, activations, strict=True):
        rates = []
        for norm in levels(runs.loc[runs["activation"] == activation, "norm"], NORMS):
            arm = _arm(runs, activation, norm)
            values = steps[steps["run_id"].isin(arm["run_id"])].set_index("step")[JACOBIAN].dropna()
            line = style(norm) | {"marker": None}
            line_with_range(ax, values["jacobian_median"], "step", **line)
            for extreme in ("jacobian_min", "jacobian_max"):
                ax.plot(values[extreme].groupby(level="step").median(), **line | {"linewidth": 0.8})
            _mark_steps(ax, arm, norm)
            rates.append(f"{arm['lr'].iloc[0]:g} {style(norm)['label']}")
        ax.axhline(1, **REFERENCE)
        _against_steps(ax, f"{ACTIVATIONS.get(activation, activation)}, rate {', '.join(rates)}")
    axes[0].set_ylabel("singular values, mean over layers")
    thin = Line2D([], [], color="0.3", linewidth=0.8, label="smallest and largest (thick: median)")
    one = Line2D([], [], **REFERENCE, label="1, as conjectured")
    _legend(figure, [*_arms(runs, marker=None), thin, one], runs)
    return figure


def _arm(table: pd.DataFrame, activation: str, norm: str, rate: float | None = None) -> pd.DataFrame:
    arm = table[(table["activation"] == activation) & (table["norm"] == norm)]
    return arm if rate is None else arm[arm["lr"] == rate]


def _at_best_rates(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of each arm at the rate of its highest median final accuracy, the largest of equals."""
    medians = _accuracy(runs).groupby([runs["activation"], runs["norm"], runs["lr"]]).median()
    best = medians[medians == medians.groupby(level=["activation", "norm"]).transform("max")]
    rates = best.reset_index().groupby(["activation", "norm"], as_index=False)["lr"].max()
    return runs.merge(rates)


def percentiles(results: Results, activation: str) -> Figure:
    """Draw the 15th to 85th percentile as a band and the median as a line, against steps.

    A row per norm, at its own best learning rate; a column per layer.
    """
    runs = _at_best_rates(results.runs[results.runs["activation"] == activation])
    norms = levels(runs["norm"], NORMS)
    layers = results.layers.dropna(subset="p50")
    numbers = sorted(layers["layer"].unique())
    figure = Figure(figsize=(3.1 * len(numbers), 2.4 * len(norms) + 0.6))
    axes = figure.subplots(len(norms), len(numbers), sharex=True, sharey=True, squeeze=False)
    for row, norm in zip(axes, norms, strict=True):
        arm = _arm(runs, activation, norm)
        measured = layers[layers["run_id"].isin(arm["run_id"])]
        colour = style(norm).get("color")
        for ax, number in zip(row, numbers, strict=True):
            band = measured[measured["layer"] == number].groupby("step")[PERCENTILES].median()
            ax.fill_between(band.index, band["p15"], band["p85"], color=colour, alpha=0.25, linewidth=0)
            ax.plot(band[["p15", "p85"]], color=colour, linewidth=0.7)
            ax.plot(band["p50"], color=colour, linestyle=style(norm).get("linestyle"))
            _mark_steps(ax, arm, norm)
            _against_steps(ax, f"layer {number}, {style(norm)['label']}, rate {arm['lr'].iloc[0]:g}")
        row[0].set_ylabel(f"input of the {ACTIVATIONS.get(activation, activation)}")
    seeds = runs["seed"].nunique()
    handles: list[Artist] = [
        Line2D([], [], color="0.3", label="median"),
        Patch(color="0.5", alpha=0.4, linewidth=0, label="15th to 85th percentile, over units and examples"),
        Line2D([], [], linestyle="", label=f"median of {seeds} seeds, each arm at its most accurate rate"),
    ]
    _legend(figure, handles, runs)
    return figure


def drawn_from(results: Results) -> Results:
    """Return the part of the results from which :func:`score` and :func:`figures` come out the same."""
    layers = results.layers.reindex(columns=LAYERS)
    at_best = ["jacobian_min", "jacobian_max", *PERCENTILES]
    layers[at_best] = layers[at_best].where(layers["run_id"].isin(_at_best_rates(results.runs)["run_id"]))
    return Results(results.runs[RUNS], results.curves.reindex(columns=CURVES), layers, results.units.iloc[:0])


if __name__ == "__main__":
    redraw(__file__)
