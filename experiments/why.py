"""Does batch normalization speed up training because it keeps distributions from moving, as the paper says, or why?

- Two controls have its other parts, but let distributions move: noise after it that changes at every step (Santurkar
  et al. 2018), and statistics that are frozen after 50 mini-batches (``experiments/norms.py``). If the paper is right,
  both are slower than batch norm. They are compared at one rate, the plain network's most accurate.
- Santurkar et al. 2018 say instead that it makes the loss smoother along the gradient: the effective β-smoothness is
  smaller. It is compared at equal steps, and at equal loss, since what trains faster is elsewhere.
- Bjorck et al. 2018 say that its gain comes of larger rates: at equal small ones there is none.
- Wu & Johnson 2021 say that moving averages lag behind the weights early in training, where statistics gathered anew
  (Algorithm 2) are better, and agree with them late.

Tables are of means over seeds, geometric ones of steps and ratios; a diverged run ends at an accuracy of 0.

- ``score``, of each arm and rate: final accuracy and steps to 95%; the mean drift of what enters the nonlinearities and
  the mean smoothness, over measurements that are evenly spaced. A run that ends below 90% counts as one
  that never gets to 95%, so that nothing is faster than what does not train.
- ``compared``, with the plain network of the same rate, paired by seed: gain, speed-up to 95%, and ratios of drift and
  of smoothness; that at equal loss is the mean over half-decades of training loss in which both were measured.
- ``controls``, at the plain network's most accurate rate: the share that they keep of what batch norm gains in speed,
  as the mean of test accuracy over all measured steps, which are denser early (0 from where a run diverged).
- ``statistics``: by how much test accuracy by Algorithm 2 is above that by moving averages, on the same weights, as the
  mean over measurements in the first tenth of the steps and in the last.

The drift of noisy batch norm is that of one draw of the noise at each measurement. Which rate is compared is chosen on
the test images, for the plain network's good. Networks are shallow, and digits easy: here all arms may be limited by
something else than by what deep networks suffer from.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, groups, levels, rows
from bnrepro.commands import redraw
from bnrepro.diagnostics import axis_label
from bnrepro.experiment import Claim, Experiment

TRAINED, TARGET = 0.9, 0.95
"""Final accuracy from which a network counts as trained, and the test accuracy to which steps are counted."""
MATTERS, POINT, HALF = 1.25, 0.01, 0.5
"""The smallest ratio and the smallest difference in accuracy that matter; the share of a gain that a cause makes."""
NOISY, FROZEN = "noisy batch norm", "statistics frozen"
TITLES = {"NoisyBatchNorm": NOISY, "FrozenStatistics": FROZEN}
CELL = ["activation", "norm", "lr"]
DRIFT, SMOOTHNESS, PRECISE = "drift", "smoothness", "Algorithm 2 less moving averages"
WHEN = {"early": (0.0, 0.1), "late": (0.9, 1.0)}
TO_TARGET, SPEED_UP = f"steps to {TARGET:.0%}", f"speed-up to {TARGET:.0%}"
SPEED, KEPT = "mean accuracy over training", "share of the gain kept"
EQUAL_LOSS = f"{SMOOTHNESS} at equal loss"
Rows = Iterator[tuple[tuple[Any, ...], Estimate]]


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what figures are drawn from."""
    runs = analysis.outcomes(results)
    runs["norm"] = runs["norm"].str.rpartition(".")[2].replace(TITLES)
    steps = _steps(results, runs)
    runs, curves = runs.join(_means(steps), on="run_id"), results.table("curves")
    told = runs["run_id"].isin(steps.loc[steps[PRECISE].notna(), "run_id"])  # repeats one of the grid, unless all do
    precise, runs = runs[told & (runs["norm"] == "batch")], runs[~told | bool(told.all())]
    analysis.cells(runs, CELL)  # refuses what would be pooled
    during = curves[curves["step"] > 0].pivot_table("test_accuracy", "run_id", "step").fillna(0.0).mean(axis=1)
    runs[SPEED] = runs["run_id"].map(during)
    curves = curves[curves["run_id"].isin(runs.loc[runs["accuracy"] >= TRAINED, "run_id"])]
    runs[TO_TARGET] = analysis.steps_to(runs, pd.Series(TARGET, runs.index), curves)
    cells = analysis.cells(runs, CELL)
    rates = {
        a: analysis.best_value(arm[arm["norm"] == "none"], "lr") for a, arm in groups(runs, ["activation"]).items()
    }
    shown = steps[(steps["lr"] == steps["activation"].map(rates)) & steps["run_id"].isin(runs["run_id"])]
    lag = steps[(steps["step"] > 0) & steps["run_id"].isin(precise["run_id"])]
    return {
        "score": analysis.table(dict(_score(cells)), [*CELL, "quantity"]),
        "compared": analysis.table(dict(_compared(cells, curves, _in_bands(curves))), [*CELL, "quantity"]),
        "controls": analysis.table(dict(_controls(cells, rates)), [*CELL, "quantity"]),
        **analysis.finals(runs, CELL),
        "curves": analysis.spread(shown, "test_accuracy", [*CELL, "step"]),
        "diverged_at": analysis.spread(runs, "diverged_at", [*CELL, "seed"]),
        "drifts": analysis.spread(shown[shown["even"]], DRIFT, [*CELL, "step"]),
        "statistics": analysis.table(dict(_lag(analysis.cells(precise, CELL))), [*CELL, "quantity"]),
        "lag": analysis.spread(lag, PRECISE, [*CELL, "step"]),
    }


def _steps(results: Results, runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row per run and measured step: what is compared, and whether the step ends an ``even`` interval."""
    layers, curves = results.table("layers"), results.table("curves")
    drift = layers.groupby(["run_id", "step"])["drift_wasserstein"].mean().rename(DRIFT)
    columns = ["test_accuracy", "landscape_smoothness", "accuracy_ema", "accuracy_population"]
    curves = curves.reindex(columns=["run_id", "step", *columns]).rename(columns={"landscape_smoothness": SMOOTHNESS})
    curves[PRECISE] = curves["accuracy_population"] - curves["accuracy_ema"]
    steps = curves.join(drift, on=["run_id", "step"]).merge(runs, on="run_id", suffixes=("", " of run"))
    interval = (steps["steps"] // steps["train.measurements"]).clip(lower=1)
    return steps.assign(even=(steps["step"] % interval == 0) & (steps["step"] >= 2 * interval))


def _means(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the means over steps of each run that did not diverge."""
    steps = steps[~steps["diverged"] & (steps["step"] > 0)]
    means = steps[steps["even"]].groupby("run_id")[[DRIFT, SMOOTHNESS]].mean()
    share = steps["step"] / steps["steps"]
    for name, (first, last) in WHEN.items():
        means[f"{PRECISE}, {name}"] = steps[share.between(first, last)].groupby("run_id")[PRECISE].mean()
    return means


def _in_bands(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the mean logarithm of smoothness of each run, a column per half-decade of training loss."""
    measured = curves.reindex(columns=["run_id", "step", "train_loss", "landscape_smoothness"])
    measured = measured[(measured[["step", "train_loss", "landscape_smoothness"]] > 0).all(axis=1)]
    log = np.log(measured["landscape_smoothness"])
    band = np.floor(2 * np.log10(measured["train_loss"]))
    found = measured.assign(log=log.where(np.isfinite(log)), band=band.where(np.isfinite(band))).dropna()
    return found.pivot_table("log", "run_id", "band")


def _score(cells: dict[Any, pd.DataFrame]) -> Rows:
    for key, cell in cells.items():
        yield (*key, "final accuracy"), analysis.mean(cell["accuracy"])
        yield (*key, TO_TARGET), analysis.steps(cell[TO_TARGET], cell["steps"])
        yield (*key, SPEED), analysis.mean(cell[SPEED])
        for quantity in (DRIFT, SMOOTHNESS):
            if cell[quantity].notna().any():
                yield (*key, quantity), analysis.mean(cell[quantity])


def _lag(cells: dict[Any, pd.DataFrame]) -> Rows:
    for key, cell in cells.items():
        for name in WHEN:
            yield (*key, f"{PRECISE}, {name}"), analysis.mean(cell[f"{PRECISE}, {name}"])


def _compared(cells: dict[Any, pd.DataFrame], curves: pd.DataFrame, bands: pd.DataFrame) -> Rows:
    for (activation, norm, lr), cell in cells.items():
        plain = cells.get((activation, "none", lr))
        if norm == "none" or plain is None:
            continue
        key = activation, norm, lr
        yield (*key, "gain"), analysis.difference(cell["accuracy"], plain["accuracy"])
        yield (*key, SPEED_UP), analysis.speed_up_to(TARGET, plain, cell, curves)
        if min(cell["accuracy"].min(), plain["accuracy"].min()) >= TRAINED:
            for quantity in (DRIFT, SMOOTHNESS):
                yield (*key, f"ratio of {quantity}"), analysis.ratio(cell[quantity], plain[quantity])
            logs = [bands.reindex(arm["run_id"]).set_axis(arm.index) for arm in (cell, plain)]
            at_equal_loss = (logs[0] - logs[1]).mean(axis=1)
            yield (*key, f"ratio of {EQUAL_LOSS}"), analysis.mean(at_equal_loss).map(lambda x: float(np.exp(x)))


def _controls(cells: dict[Any, pd.DataFrame], rates: dict[str, float]) -> Rows:
    for (activation, norm, lr), cell in cells.items():
        plain, right = (cells.get((activation, other, lr)) for other in ("none", "batch"))
        if norm not in ("none", "batch") and plain is not None and right is not None and lr == rates[activation]:
            kept = (cell[SPEED] - plain[SPEED]) / (right[SPEED] - plain[SPEED])
            yield (activation, norm, lr, KEPT), analysis.mean(kept.where(np.isfinite(kept)))


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw the ``controls``, the ratios of ``smoothness``, accuracy against ``rates`` and kinds of ``statistics``."""
    drawn = {"rates": parts.accuracy_against("learning rate", tables["final"], tables["diverged"], level=TRAINED)}
    if len(tables["curves"]):
        drawn["controls"] = _over_steps(tables)
    if len(tables["compared"].query("norm == 'batch' and quantity == 'ratio of smoothness'")):
        drawn["smoothness"] = _smoothness(tables["compared"])
    return drawn | ({"statistics": _statistics(tables["lag"])} if len(tables["lag"]) else {})


def _over_steps(tables: Tables) -> Figure:
    """Draw test accuracy and drift against steps at the controls' rate, a column per activation."""
    curves, drifts = tables["curves"], tables["drifts"]
    activations, norms = levels(curves, "activation"), levels(tables["diverged"], "norm")
    figure, axes = parts.grid(2, len(activations), (4.3, 2.8), sharex="col", sharey="row")
    for (top, bottom), activation in zip(axes.T, activations, strict=True):
        (lr,) = levels(rows(curves, activation), "lr")
        for norm in norms:
            look = parts.style(norm, norms) | {"marker": None}
            parts.line(top, rows(curves, activation, norm, lr), look)
            parts.line(bottom, rows(drifts, activation, norm, lr), look)
            parts.crosses(top, rows(tables["diverged_at"], activation, norm, lr)["value"], look)
        top.set_title(f"{parts.activation_label(activation)}, rate {lr:g}")
        bottom.set(yscale="log")
    parts.axes_of_curves([*axes.flat], curves)
    for ax in axes[0]:
        ax.set_xlabel("")
    axes[1, 0].set_ylabel(f"drift of inputs:\n{axis_label('layer', 'drift_wasserstein')}")
    parts.legend(figure, [*parts.arms(norms, marker=None), *parts.band_over(int(curves["n"].max()))])
    return figure


def _smoothness(compared: pd.DataFrame) -> Figure:
    """Draw the ratios of smoothness with batch norm to without against the rate, at equal steps and at equal loss."""
    activations = levels(compared, "activation")
    titles, rates = [parts.activation_label(a) for a in activations], levels(compared, "lr")
    figure, axes = parts.panels(titles, (4.3, 3.2), sharex=True, sharey=True)
    looks: dict[str, dict[str, Any]] = {
        SMOOTHNESS: {"color": "#0072B2", "marker": "o", "linestyle": "", "label": "at equal steps"},
        EQUAL_LOSS: {"color": "#D55E00", "marker": "s", "linestyle": "", "label": "at equal training loss"},
    }
    for ax, activation in zip(axes, activations, strict=True):
        for i, (quantity, look) in enumerate(looks.items()):
            found = rows(compared.swaplevel("lr", "quantity"), activation, "batch", f"ratio of {quantity}")
            found = found.set_axis(found.index * 1.1 ** (i - 0.5)).query("n > 0")  # beside one another
            parts.points(ax, found, look, markersize=6)
        ax.axhline(1, **parts.REFERENCE)
        ax.set(xscale="log", xlabel=f"learning rate (both end at {TRAINED:.0%} or more)")
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.minorticks_off()
    parts.axis_of_ratios(axes[0].yaxis)
    parts.label_rows(axes, "effective β-smoothness, ratio\n(below 1: smoother with batch norm)")
    bar = Line2D([], [], marker="|", ms=10, color="0.3", ls="", label="95% interval")
    parts.legend(figure, [*(Line2D([], [], **look) for look in looks.values()), bar])
    return figure


def _statistics(lag: pd.DataFrame) -> Figure:
    """Draw by how much Algorithm 2 is more accurate than moving averages, against steps."""
    activations, rates = levels(lag, "activation"), levels(lag, "lr")
    titles = [f"{parts.activation_label(a)}, rate {lr:g}" for a in activations for lr in rates]
    figure, axes = parts.panels(titles, (3.6, 2.8), most=len(rates), sharex=True, sharey=True)
    for ax, (activation, lr) in zip(axes, itertools.product(activations, rates), strict=True):
        parts.line(ax, rows(lag, activation, "batch", lr), parts.style("batch") | {"marker": None})
        ax.axhline(0, **parts.REFERENCE)
        parts.axis_of_steps(ax, lag.index.get_level_values("step").max())
    parts.label_rows(axes, "test accuracy: Algorithm 2\nless moving averages")
    parts.legend(figure, [*parts.arms(["batch"], marker=None), *parts.band_over(int(lag["n"].max()))])
    return figure


def _lost(tables: Tables) -> list[Finding]:
    """Return the share of batch norm's gain in speed that each control keeps, per activation."""
    return [
        analysis.below(f"{activation}, rate {lr:g}, {norm}, {quantity}", Estimate(*row), HALF)
        for (activation, norm, lr, quantity), *row in tables["controls"].itertuples()
        if norm in (NOISY, FROZEN)
    ]


def _noisy(tables: Tables) -> list[Finding]:
    """Return how much more inputs drift with noisy batch norm, and how much faster it is, at the rates of controls."""
    wanted = {"ratio of drift": 1, SPEED_UP: MATTERS}
    return [
        analysis.above(f"{activation}, rate {lr:g}, {quantity}", found, least)
        for activation, norm, lr, _ in tables["controls"].index
        if norm == NOISY
        for quantity, least in wanted.items()
        for found in [estimate(tables["compared"], activation, norm, lr, quantity)]
    ]


def _smoother(tables: Tables) -> list[Finding]:
    """Return the ratios of smoothness with batch norm, per activation and rate at which both train."""
    return [
        analysis.below(f"{activation}, rate {lr:g}, {quantity}", Estimate(*row), 1)
        for (activation, norm, lr, quantity), *row in tables["compared"].itertuples()
        if norm == "batch" and SMOOTHNESS in quantity
    ]


def _at_small_rates(tables: Tables) -> list[Finding]:
    """Return the gain at the smallest rate at which both train, per activation."""
    trained = tables["compared"].query("norm == 'batch' and quantity == 'ratio of drift'")
    smallest = {a: min(levels(rows(trained, a), "lr")) for a in levels(trained, "activation")}
    return [
        analysis.within(f"{a}, rate {lr:g}, gain", estimate(tables["compared"], a, "batch", lr, "gain"), -POINT, POINT)
        for a, lr in smallest.items()
    ]


def _precise(tables: Tables) -> list[Finding]:
    """Return how much more accurate Algorithm 2 is than moving averages, early and late, per activation and rate."""
    holds = {
        "early": partial(analysis.above, threshold=POINT),
        "late": partial(analysis.within, low=-POINT, high=POINT),
    }
    return [
        holds[quantity.rpartition(", ")[2]](f"{activation}, rate {lr:g}, {quantity}", Estimate(*row))
        for (activation, _, lr, quantity), *row in tables["statistics"].itertuples()
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="A1",
            section="Abstract",
            sentence="Training is slow because the distributions of layers' inputs change, and batch norm speeds it up "
            "by keeping them.",
            criterion="For each activation, at the plain network's most accurate rate, each control in which "
            "distributions move keeps at most half of batch norm's gain in mean test accuracy over training, with its "
            "whole interval.",
            findings=_lost,
            figure="controls",
        ),
        Claim(
            id="+noise",
            section="Santurkar et al. 2018",
            sentence="Batch norm speeds up training even where noise makes inputs drift more than they do without it.",
            criterion="For each activation, at the plain network's most accurate rate, the drift with noisy batch norm "
            "is at least that of the plain network, and the speed-up to 95% at least 1.25, with whole intervals.",
            findings=_noisy,
            figure="controls",
        ),
        Claim(
            id="+smoothness",
            section="Santurkar et al. 2018",
            sentence="Batch norm makes the loss smoother along the gradient.",
            criterion="For each activation, at each rate at which both networks end at 90% or more with every seed, "
            "the effective β-smoothness with batch norm over that without is at most 1, at equal steps and at equal "
            "loss, with its whole interval.",
            findings=_smoother,
            figure="smoothness",
        ),
        Claim(
            id="+small_rates",
            section="Bjorck et al. 2018",
            sentence="At equal small learning rates batch norm gains nothing.",
            criterion="For each activation, at the smallest rate at which both networks end at 90% or more with every "
            "seed, the gain in final accuracy is between -0.01 and 0.01, with its whole interval.",
            findings=_at_small_rates,
            figure="rates",
        ),
        Claim(
            id="+precise",
            section="Wu & Johnson 2021",
            sentence="Early in training statistics gathered anew are better than moving averages, and late the same.",
            criterion="For each activation and rate at which both are measured, test accuracy by Algorithm 2 less "
            "that by moving averages is at least 0.01 over the first tenth of the steps, and between -0.01 and 0.01 "
            "over the last, with whole intervals.",
            findings=_precise,
            figure="statistics",
        ),
    ],
    arms=["activation", "norm", "model.norm_options", "lr", "diagnostics"],
    needs=["run.test_accuracy", "run.train_loss", "layer.drift_wasserstein", "run.landscape_smoothness"],
    uses=["run.accuracy_ema", "run.accuracy_population"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
