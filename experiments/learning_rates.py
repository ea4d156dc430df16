"""Does batch normalization train at learning rates where the plain network does not, and in fewer steps?

The paper says so (Sections 3.3 and 4.2.1) of Inception on ImageNet: five times the rate of the baseline overflows
without it, thirty times trains with it, and the baseline's best accuracy takes 14 times fewer steps (Figure 3).

Tables are of means over seeds, geometric ones of rates, steps and ratios. A diverged run ends at an accuracy of 0.

- ``score``, of each seed's best over the rates: best accuracy (the best final one), most accurate rate (of all seeds
  together, that of the highest mean final accuracy), usable rates (how many are in the longest unbroken row of rates
  that end at 90% or more), usable decades (log10 of the ratio of the ends of that row: 0 of a single rate, nothing
  without any), highest usable rate (the end of that row), diverged and below 90% (shares of the rates), steps to 90%
  (at the rate that is fastest at this). What is read off the grid of rates lies between a rate that is usable and the
  next, which is not; intervals have that in them. ``compared``: the same, paired by seed with the plain network, and by
  how much smaller the share of rates is at which runs diverge.
- ``steps_to_accuracy``, in the form of the paper's Figure 3. The baseline is the plain network at its most accurate
  rate; the target is the highest test accuracy on the baseline's curve, seed by seed, if that ends at 90% or more, so
  that nothing is faster than what does not train. Variants: batch norm at the baseline's rate, at its fastest (of those
  that reach the target in most seeds, that of fewest steps; if none does, its most accurate) and at its most accurate.
- ``rates``: the same of each rate. The speed-up is over the plain network of the same rate, to the highest accuracy on
  its curve, if it ends at 90% or more in every seed.

The maximum of a noisy curve is met late by the baseline, so the targets favour arms that end higher than it. That rates
are chosen on the same test images as they are reported of is not in the intervals.
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

USABLE = 0.9
"""Test accuracy from which a learning rate counts as usable."""
ARM = ["activation", "norm"]
HIGHEST = "highest accuracy"
TO_90, TO_TARGET, TO_TARGET_OF_RATE = "steps to 90%", "steps to target", "steps to target of rate"
BASELINE, SAME, FASTEST, BEST = "baseline", "same rate", "fastest rate", "most accurate rate"
FEWER_DIVERGE = "share that diverges without, less with"
Rows = Iterator[tuple[tuple[Any, ...], Estimate]]


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what figures are drawn from."""
    curves, runs = results.table("curves"), analysis.outcomes(results)
    analysis.cells(runs, [*ARM, "lr"])  # refuses what would be pooled
    runs = _with_steps(runs, curves)
    cells = analysis.cells(runs, [*ARM, "lr"])
    arms = groups(runs, ARM)
    seeds = {arm: _of_seeds(members) for arm, members in arms.items()}
    variants = {a: _variants(panel) for a, panel in groups(runs, ["activation"]).items()}
    drawn = pd.concat(cell.assign(variant=v) for found in variants.values() for v, cell in found.items()).reset_index()
    keys = ["activation", "norm", "variant"]
    return {
        "score": analysis.table(dict(_score(arms, seeds)), [*ARM, "quantity"]),
        "compared": analysis.table(dict(_compared(seeds)), [*ARM, "quantity"]),
        "steps_to_accuracy": analysis.table(dict(_steps_to_accuracy(variants)), [*keys, "quantity"]),
        "rates": analysis.table(dict(_rates(cells)), [*ARM, "lr", "quantity"]),
        **analysis.finals(runs, [*ARM, "lr"]),
        "convergence": analysis.spread(curves.merge(drawn[["run_id", *keys]]), "test_accuracy", [*keys, "step"]),
        "diverged_at": analysis.spread(drawn, "diverged_at", [*keys, "seed"]),
    }


def _with_steps(runs: pd.DataFrame, curves: pd.DataFrame) -> pd.DataFrame:
    """Return ``runs`` with the highest accuracy on the curve, and the steps to 90% and to each target."""
    highest = curves[curves["step"] > 0].groupby("run_id")["test_accuracy"].max()
    runs = runs.assign(highest=runs["run_id"].map(highest).fillna(0.0))
    plain = runs[runs["norm"] == "none"]
    best = {activation: analysis.best_value(arm, "lr") for activation, arm in groups(plain, ["activation"]).items()}
    baseline = plain[(plain["lr"] == plain["activation"].map(best)) & (plain["accuracy"] >= USABLE)]
    usable = plain[plain.groupby(["activation", "lr"])["accuracy"].transform("min") >= USABLE]
    runs[TO_90] = analysis.steps_to(runs, pd.Series(USABLE, runs.index), curves)
    pairs = {TO_TARGET: (baseline, ["activation", "seed"]), TO_TARGET_OF_RATE: (usable, ["activation", "lr", "seed"])}
    for name, (owners, pair) in pairs.items():
        target = runs.join(owners.set_index(pair)["highest"].rename("target"), on=pair)["target"]
        runs[name] = analysis.steps_to(runs, target, curves)
    return runs


def _of_seeds(arm: pd.DataFrame) -> pd.DataFrame:
    """Return the best of each seed over the rates, indexed by seed."""
    found = {}
    for seed, runs in arm.groupby("seed"):
        accuracy = runs.set_index("lr")["accuracy"].sort_index()
        usable = analysis.usable_range(accuracy, USABLE)
        found[seed] = usable._asdict() | {
            "best accuracy": accuracy.max(),
            "usable rates": accuracy.index.to_series().between(usable.low, usable.high).sum(),
            "diverged": runs["diverged"].mean(),
            "below 90%": (accuracy < USABLE).mean(),
            TO_90: runs[TO_90].min(),
            "steps": runs["steps"].max(),
        }
    return pd.DataFrame.from_dict(found, orient="index")


def _score(arms: dict[Any, pd.DataFrame], best: dict[Any, pd.DataFrame]) -> Rows:
    for arm, seeds in best.items():
        yield (*arm, "best accuracy"), analysis.mean(seeds["best accuracy"])
        trains, rate = seeds["best accuracy"].any(), analysis.best_value(arms[arm], "lr")
        yield (*arm, BEST), Estimate(rate, n=len(seeds)) if trains else analysis.NOTHING
        yield (*arm, "usable rates"), analysis.share(seeds["usable rates"])
        ratio = analysis.between(seeds["high"] / seeds["low"], seeds["above"] / seeds["below"])
        yield (*arm, "usable decades"), ratio.map(math.log10)
        yield (*arm, "highest usable rate"), analysis.between(seeds["high"], seeds["above"])
        for share in ("diverged", "below 90%"):
            yield (*arm, share), analysis.share(seeds[share])
        yield (*arm, TO_90), analysis.steps(seeds[TO_90], seeds["steps"])


def _compared(arms: dict[Any, pd.DataFrame]) -> Rows:
    for arm, seeds in arms.items():
        plain = arms.get((arm[0], "none"))
        if arm[1] != "none" and plain is not None:
            low, high = seeds["high"] / plain["above"], seeds["above"] / plain["high"]
            yield (*arm, "ratio of highest usable rates"), analysis.between(low, high, seeds["high"] / plain["high"])
            yield (*arm, "gain in best accuracy"), analysis.difference(seeds["best accuracy"], plain["best accuracy"])
            yield (*arm, FEWER_DIVERGE), analysis.difference(plain["diverged"], seeds["diverged"])
            if np.isfinite(plain[TO_90]).any():
                yield (*arm, "speed-up to 90%"), analysis.speed_up(plain[TO_90], seeds[TO_90], plain["steps"])


def _variants(panel: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the runs of one activation that are compared in steps to the target, by seed."""
    arms = groups(panel, ["norm"])
    plain = arms.pop("none", panel.iloc[:0])
    rate = analysis.best_value(plain, "lr")
    found = {BASELINE: plain[plain["lr"] == rate]}
    for norm, arm in arms.items():
        steps = np.log(arm[TO_TARGET].replace(math.inf, math.nan)).groupby(arm["lr"])
        order = pd.DataFrame({"seeds": steps.count(), "speed": -steps.mean().round(9)}).query("seeds > 0")
        best = analysis.best_value(arm, "lr")
        reaching = order.sort_values(["seeds", "speed"], kind="stable").index
        rates = {FASTEST: [best, *reaching][-1], SAME: rate, BEST: best}
        found |= {f"{variant} with {norm}": arm[arm["lr"] == lr] for variant, lr in rates.items()}
    return {variant: cell.set_index("seed").sort_index() for variant, cell in found.items() if len(cell)}


def _steps_to_accuracy(variants: dict[Any, dict[str, pd.DataFrame]]) -> Rows:
    for activation, found in variants.items():
        for variant, cell in found.items():
            key = activation, cell["norm"].iloc[0], variant
            yield (*key, "learning rate"), Estimate(cell["lr"].iloc[0], n=len(cell))
            yield (*key, HIGHEST), analysis.mean(cell["highest"])
            yield (*key, TO_TARGET), analysis.steps(cell[TO_TARGET], cell["steps"])
            if variant != BASELINE and BASELINE in found:
                plain = found[BASELINE]
                yield (*key, "speed-up"), analysis.speed_up(plain[TO_TARGET], cell[TO_TARGET], plain["steps"])


def _rates(cells: dict[Any, pd.DataFrame]) -> Rows:
    for (activation, norm, lr), cell in cells.items():
        yield (activation, norm, lr, "final accuracy"), analysis.mean(cell["accuracy"])
        yield (activation, norm, lr, HIGHEST), analysis.mean(cell["highest"])
        yield (activation, norm, lr, TO_TARGET), analysis.steps(cell[TO_TARGET], cell["steps"])
        plain, name = cells.get((activation, "none", lr)), TO_TARGET_OF_RATE
        if norm != "none" and plain is not None:
            yield (activation, norm, lr, "speed-up"), analysis.speed_up(plain[name], cell[name], plain["steps"])


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw final accuracy against rate, accuracy against steps, and the speed-up at equal rates if there is any."""
    accuracy = parts.accuracy_against("learning rate", tables["final"], tables["diverged"], level=USABLE)
    drawn = {"accuracy": accuracy, "convergence": _convergence(tables)}
    speed_ups = tables["rates"].query("quantity == 'speed-up' and n > 0")
    return drawn | ({"speedup": _speedup(tables, speed_ups.droplevel("quantity"))} if len(speed_ups) else {})


def _convergence(tables: Tables) -> Figure:
    """Draw a panel per activation, with the baseline, and batch norm at the same and at its fastest rate."""
    table, curves = tables["steps_to_accuracy"], tables["convergence"]
    activations, norms = levels(curves, "activation"), levels(curves, "norm")
    figure, axes = parts.panels([parts.activation_label(a) for a in activations], (4.6, 3.2), sharex=True, sharey=True)
    for ax, activation in zip(axes, activations, strict=True):
        drawn = dict[Any, str]()
        for norm, variant in dict.fromkeys(key[:2] for key in rows(curves, activation).index):
            rate = estimate(table, activation, norm, variant, "learning rate").value
            if variant.startswith(BEST) or drawn.setdefault((norm, rate), variant) != variant:
                continue
            thin = {"linewidth": 0.9} if variant.startswith(SAME) else {}
            look = parts.style(norm, norms) | {"marker": None, "label": f"{parts.style(norm)['label']}, {rate:g}"}
            parts.line(ax, rows(curves, activation, norm, variant), look | thin)
            parts.crosses(ax, rows(tables["diverged_at"], activation, norm, variant)["value"], look)
        if estimate(table, activation, "none", BASELINE, TO_TARGET).n:
            target = estimate(table, activation, "none", BASELINE, HIGHEST).value
            ax.axhline(target, **parts.REFERENCE, label="the baseline's highest")
        ax.legend(loc="lower right", title="learning rate")
    parts.axes_of_curves(axes, curves)
    parts.legend(figure, parts.band_over(int(curves["n"].max())))
    return figure


def _speedup(tables: Tables, found: pd.DataFrame) -> Figure:
    """Draw the speed-up at equal rates; crosses mark the rates at which the plain network diverged."""
    activations, norms = levels(found, "activation"), levels(found, "norm")
    every = levels(tables["diverged"], "norm")  # by which an arm has the look that it has in other figures
    figure, axes = parts.panels([parts.activation_label(a) for a in activations], (4.3, 3.2), sharex=True, sharey=True)
    for ax, activation in zip(axes, activations, strict=True):
        for norm in norms:
            look = parts.style(norm, every) | {"linestyle": "", "label": None}
            parts.points(ax, rows(found, activation, norm), look, markersize=6)
        parts.crosses_of(ax, rows(tables["diverged"], activation, "none"), parts.style("none"))
        ax.axhline(1, **parts.REFERENCE)
        ax.set(xscale="log", xlabel="learning rate of both")
    parts.axis_of_ratios(axes[0].yaxis)
    parts.label_rows(axes, "speed-up to the highest accuracy of\nthe plain network at the same rate")
    bar = Line2D([], [], marker="|", ms=10, color="0.3", ls="", label="95% interval (▾ at most, ▴ at least)")
    handles: list[Any] = [*(Line2D([], [], **parts.style(n, every) | {"linestyle": ""}) for n in norms), bar]
    if tables["diverged"].query("norm == 'none' and activation in @activations")["value"].any():
        handles.append(parts.cross("plain network diverged"))
    parts.legend(figure, handles)
    return figure


def _higher_rates(tables: Tables) -> list[Finding]:
    """Return the ratios of highest usable rates, per activation."""
    name = "ratio of highest usable rates"
    return [
        analysis.above(f"{activation}, {name}{_untrained(tables, activation)}", found, 1)
        for activation in levels(tables["score"], "activation")
        for found in [estimate(tables["compared"], activation, "batch", name)]
    ]


def _fewer_steps(tables: Tables) -> list[Finding]:
    """Return the speed-ups at the fastest rate, per activation."""
    return [
        analysis.above(f"{activation}, speed-up at its fastest rate{_untrained(tables, activation)}", found, 1)
        for activation in levels(tables["score"], "activation")
        for found in [estimate(tables["steps_to_accuracy"], activation, "batch", f"{FASTEST} with batch", "speed-up")]
    ]


def _fewer_diverge(tables: Tables) -> list[Finding]:
    """Return by how much the share of rates is smaller at which runs diverge, per activation of which plain ones do."""
    return [
        analysis.beyond(f"{activation}, {FEWER_DIVERGE}", found, 0)
        for activation in levels(tables["score"], "activation")
        for found in [estimate(tables["compared"], activation, "batch", FEWER_DIVERGE)]
        if estimate(tables["score"], activation, "none", "diverged").value > 0
    ]


def _untrained(tables: Tables, activation: str) -> str:
    plain = estimate(tables["score"], activation, "none", "below 90%")
    return " (the plain network ends below 90% at every rate)" if plain.value == 1 else ""


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="A2",
            section="Abstract, Section 3.3",
            sentence="Batch norm lets a network train at much higher learning rates.",
            criterion="For each activation, the highest usable rate with batch norm over that without is at least 1, "
            "with its whole interval.",
            findings=_higher_rates,
            figure="accuracy",
            paper="5 times the baseline's rate, and 30 times",
        ),
        Claim(
            id="3.b",
            section="Section 3",
            sentence="Normalizing each feature by itself speeds up convergence, though features stay correlated.",
            criterion="For each activation, the speed-up to the plain network's highest accuracy is at least 1, with "
            "its whole interval.",
            findings=_fewer_steps,
            figure="convergence",
        ),
        Claim(
            id="3.3c",
            section="Section 3.3",
            sentence="With batch norm high learning rates do not make training explode, since the scale of a layer's "
            "parameters does not change what it passes back.",
            criterion="For each activation of which plain networks diverge, runs diverge at a smaller share of the "
            "rates with batch norm than without, with its whole interval.",
            findings=_fewer_diverge,
            figure="accuracy",
        ),
    ],
    arms=[*ARM, "lr"],
    needs=["run.test_accuracy"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
