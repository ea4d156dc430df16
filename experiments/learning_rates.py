"""Does batch normalization train at learning rates where the plain network does not, and in fewer steps?

The paper says so (Sections 3.3 and 4.2.1) of Inception on ImageNet: five times the rate of the baseline overflows
without it, thirty times the rate trains with it, and the baseline's best accuracy takes 14 times fewer steps
(Figure 3). Here, on small networks::

    python -m bnrepro +sweep                       # trains what is missing, then shows this
    python experiments/learning_rates.py           # shows it again from the stored runs
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.stats import bootstrap

from bnrepro import Results
from bnrepro.commands import redraw
from bnrepro.diagnostics import axis_label
from bnrepro.figures import ACTIVATIONS, NORMS, levels, line_with_range, style

ACCURACY = axis_label("run", "test_accuracy")

USABLE = 0.9
"""Test accuracy from which a learning rate counts as usable."""

ARM = ["activation", "norm"]

TARGETS = ["to target", "to target of rate"]

THIN: Any = {"color": "0.4", "linewidth": 0.9, "linestyle": ":"}


def score(results: Results) -> pd.DataFrame:
    """Tabulate, per activation and norm, mean over seeds, and minimum to maximum in brackets.

    - best accuracy: the highest final test accuracy over the learning rates;
    - best rate: where that was reached, the largest of equals (geometric mean);
    - usable decades: log10 of the ratio of the ends of the longest unbroken row of rates that end at 90% or more;
    - diverged: share of the rates at which the loss left the finite range;
    - steps to 90%: at the rate that is fastest at this, the first measured step with a test accuracy of 90% or more.
    """
    per_seed = pd.DataFrame(
        [
            {**dict(zip(ARM, arm, strict=True)), **_score_one(runs, results.curves)}
            for (*arm, _), runs in results.runs.groupby([*ARM, "seed"])
        ]
    ).set_index(ARM)
    formats = {
        "best accuracy": "{:.3f}",
        "best rate": "{:.2g}",
        "usable decades": "{:.1f}",
        "diverged": "{:.0%}",
        "steps to 90%": "{:.0f}",
    }
    table = per_seed.groupby(level=ARM, sort=False).agg(
        **{name: pd.NamedAgg(name, lambda seeds, f=form: _mean_and_range(seeds, f)) for name, form in formats.items()}
    )
    norms = levels(results.runs["norm"], NORMS)
    order = [(a, n) for a in levels(results.runs["activation"], ACTIVATIONS) for n in norms]
    return table.loc[[arm for arm in order if arm in table.index]]


def _score_one(runs: pd.DataFrame, curves: pd.DataFrame) -> dict[str, float]:
    runs = runs.sort_values("lr")
    reached = curves[curves["run_id"].isin(runs["run_id"]) & (curves["test_accuracy"] >= USABLE)]
    best = runs.dropna(subset="test_accuracy").sort_values("test_accuracy", kind="stable").tail(1)
    usable = (runs["test_accuracy"] >= USABLE).to_numpy()
    rates = np.log10(runs["lr"].to_numpy())
    decades = 0.0
    for row in np.split(np.arange(len(rates)), np.flatnonzero(~usable)):
        row = row[usable[row]]
        decades = max(decades, np.ptp(rates[row]) if len(row) else 0.0)
    return {
        "best accuracy": best["test_accuracy"].max(),
        "best rate": best["lr"].max(),
        "usable decades": decades,
        "diverged": (runs["status"] == "diverged").mean(),
        "steps to 90%": reached["step"].min(),
    }


def _mean_and_range(seeds: pd.Series, form: str) -> str:
    if seeds.isna().any():
        return _not_in_all(seeds.notna())
    mean = np.exp(np.log(seeds).mean()) if seeds.name == "best rate" else seeds.mean()
    return f"{form.format(mean)} ({form.format(seeds.min())}–{form.format(seeds.max())})"


def _not_in_all(reached: pd.Series) -> str:
    return f"in {reached.sum()} of {len(reached)} seeds" if reached.any() else "never"


def tables(results: Results) -> dict[str, pd.DataFrame]:
    """Tabulate steps to the baseline's best accuracy, in the form of the paper's Figure 3, and the same at equal rates.

    The baseline is the plain network at its most accurate rate, that of the highest median final accuracy; a diverged
    run counts as 0. The target is the best test accuracy on the baseline's curve, seed by seed: runs of one seed share
    initial weights and mini-batches, and are compared in pairs.

    - steps to target: the first measured step after 0 with at least that accuracy, geometric mean over seeds;
    - speed-up: the baseline's steps over these, geometric mean over the pairs. If one of the two does not get there in
      every seed, its last step stands for what it would have taken, and the mean is a bound (``>`` or ``<``);
    - best accuracy: the highest on the curve, mean over seeds; of a diverged run, before it diverged.

    ``steps_to_accuracy`` has the baseline, then the network with batch norm at the baseline's rate, at its fastest (of
    the rates that reach the target in most seeds, that of fewest steps) and at its most accurate, and the plain network
    at the latter. In brackets after a learning rate is its ratio to the baseline's.

    ``equal_rates`` has both networks at each rate, and two speed-ups over the plain network of the same rate: to the
    target above, and to the target of this rate, the best accuracy of the plain network at it, if usable in every seed.

    In square brackets are 95% confidence intervals by the percentile bootstrap over seeds (Efron & Tibshirani 1993,
    chapter 13), of logarithms for geometric means. Few seeds make them too narrow: for normally distributed values
    those of 5 seeds cover the mean in 85% of all cases, those of 3, which are no more than their range, in 75%. That
    the rates are chosen on the same runs and test images is not in them either.

    Steps are as fine as the measurements: the target was reached between the measured step before and this one. The
    maximum of a noisy curve is met late by the baseline, and an arm of the same level misses it in about half of the
    seeds; so this favours arms that end higher than the baseline and is hard on those that end level with it.

    A sweep over further settings has no such tables, since rate and seed do not tell there which runs to compare.
    """
    if not _paired(results.runs):
        return {}
    reached = _reached(results)
    return {"steps_to_accuracy": _steps_to_accuracy(reached), "equal_rates": _equal_rates(reached)}


def _paired(runs: pd.DataFrame) -> bool:
    return not runs.duplicated([*ARM, "lr", "seed"]).any()


def _reached(results: Results) -> pd.DataFrame:
    """Return ``runs`` with the best accuracy and the steps to each target: inf if never reached, NaN without target."""
    curves = results.curves[results.curves["step"] > 0]
    best = results.runs["run_id"].map(curves.groupby("run_id")["test_accuracy"].max()).fillna(0.0)
    runs = results.runs.assign(best=best)
    plain = runs[runs["norm"] == "none"]
    best_rates = {activation: _best_rate(arm) for activation, arm in plain.groupby("activation")}
    baseline = plain[(plain["lr"] == plain["activation"].map(best_rates)) & (plain["best"] > 0)]
    final = plain["test_accuracy"].fillna(0.0)
    usable = plain[final.groupby([plain["activation"], plain["lr"]]).transform("min") >= USABLE]
    pairs = (baseline, ["activation", "seed"]), (usable, ["activation", "lr", "seed"])
    for name, (owners, pair) in zip(TARGETS, pairs, strict=True):
        target = runs[["run_id", *pair]].merge(owners[[*pair, "best"]], on=pair).set_index("run_id")["best"]
        there = curves[curves["test_accuracy"] >= curves["run_id"].map(target)]
        steps = there.groupby("run_id")["step"].min().astype(float).reindex(target.index, fill_value=math.inf)
        runs[name] = runs["run_id"].map(steps)
    return runs


def _steps_to_accuracy(reached: pd.DataFrame) -> pd.DataFrame:
    rows = []
    plain_label = style("none")["label"]
    for activation in levels(reached["activation"], ACTIVATIONS):
        panel = reached[reached["activation"] == activation]
        plain = panel[panel["norm"] == "none"]
        baseline = plain[plain["lr"] == _best_rate(plain)]
        variants = {plain_label: baseline}
        for norm in _norms_compared(panel):
            arm, label = panel[panel["norm"] == norm], style(norm)["label"]
            best_rate = _best_rate(arm)
            variants |= {
                f"{label}, same rate": arm[arm["lr"].isin(baseline["lr"])],
                f"{label}, at its fastest rate": arm[arm["lr"] == _fastest_rate(arm)],
                f"{label}, at its most accurate rate": arm[arm["lr"] == best_rate],
                f"{plain_label}, at the most accurate rate {label}": plain[plain["lr"] == best_rate],
            }
        for variant, runs in variants.items():
            if runs.empty:
                continue
            rate = runs["lr"].iloc[0]
            ratio = "" if baseline.empty or runs is baseline else f" (×{_two_digits(rate / baseline['lr'].iloc[0])})"
            rows.append(
                {
                    "activation": activation,
                    "variant": variant,
                    "learning rate": f"{rate:g}{ratio}",
                    "steps to target": _steps_cell(runs["to target"]),
                    "speed-up": "" if runs is baseline else _cell(_speed_up(baseline, runs, "to target"), _two_digits),
                    "best accuracy": _cell(_mean(runs["best"]), "{:.4f}".format),
                }
            )
    return pd.DataFrame(rows).set_index(["activation", "variant"])


def _equal_rates(reached: pd.DataFrame) -> pd.DataFrame:
    rows = []
    speed_ups = _speed_ups(reached)
    labels = {norm: style(norm)["label"] for norm in levels(reached["norm"], NORMS)}
    for activation in levels(reached["activation"], ACTIVATIONS):
        for rate, runs in reached[reached["activation"] == activation].groupby("lr"):
            arms = {label: runs[runs["norm"] == norm] for norm, label in labels.items()}
            rows.append(
                {"activation": activation, "learning rate": f"{rate:g}"}
                | {f"steps {label}": _steps_cell(arm["to target"]) for label, arm in arms.items()}
                | {
                    f"speed-up {labels[norm]} {target}": _cell(
                        speed_ups.get((activation, norm, target, rate)), _two_digits
                    )
                    for norm in _norms_compared(reached)
                    for target in TARGETS
                }
                | {
                    f"best accuracy {label}": f"{arm['best'].mean():.4f}" if len(arm) else ""
                    for label, arm in arms.items()
                }
            )
    return pd.DataFrame(rows).set_index(["activation", "learning rate"])


def _speed_ups(reached: pd.DataFrame) -> dict[tuple[Any, str, str, Any], Estimate]:
    """Return speed-ups over the plain network of the same rate, by activation, norm, target and learning rate."""
    found = {
        (activation, norm, target, rate): _speed_up(runs[runs["norm"] == "none"], runs[runs["norm"] == norm], target)
        for activation, panel in reached.groupby("activation")
        for rate, runs in panel.groupby("lr")
        for norm in _norms_compared(runs)
        for target in TARGETS
    }
    return {key: estimate for key, estimate in found.items() if estimate}


def _norms_compared(runs: pd.DataFrame) -> list[str]:
    return [norm for norm in levels(runs["norm"], NORMS) if norm != "none"]


def _fastest_rate(arm: pd.DataFrame) -> float:
    """Return, of the rates that reach the target in most seeds, the fastest, of equals the largest; NaN if none."""
    steps = np.log(arm["to target"].where(np.isfinite(arm["to target"]))).groupby(arm["lr"])
    order = pd.DataFrame({"seeds": steps.count(), "speed": -steps.mean().round(9)}).query("seeds > 0")
    return float(order.sort_values(["seeds", "speed"], kind="stable").index[-1]) if len(order) else math.nan


class Estimate(NamedTuple):
    """A mean over seeds and its confidence interval, NaN for a single seed; or a ``bound`` of the mean, > or <."""

    value: float
    low: float = math.nan
    high: float = math.nan
    bound: str = ""


def _mean(values: pd.Series) -> Estimate | None:
    if len(values) < 2:
        return Estimate(values.item()) if len(values) else None
    found = bootstrap((values.to_numpy(),), np.mean, method="percentile", rng=np.random.default_rng(0))
    return Estimate(values.mean(), *found.confidence_interval)


def _geometric_mean(values: pd.Series) -> Estimate | None:
    mean = _mean(np.log(values))
    return mean and Estimate(*np.exp(mean[:3]))


def _speed_up(plain: pd.DataFrame, arm: pd.DataFrame, target: str) -> Estimate | None:
    """Return steps of ``plain`` over those of ``arm``, paired by seed; None if both miss the target, or without one."""
    pairs = plain.merge(arm, on="seed", suffixes=(" plain", " arm"))
    steps = pairs[[f"{target} plain", f"{target} arm"]].set_axis(["plain", "arm"], axis=1)
    last = pairs[["steps plain", "steps arm"]].set_axis(["plain", "arm"], axis=1)
    never = (steps == math.inf).any()
    steps = steps.clip(upper=last).dropna()
    mean = _geometric_mean(steps["plain"] / steps["arm"])
    if mean is None or never.all():
        return None
    return Estimate(mean.value, bound=">" if never["plain"] else "<") if never.any() else mean


def _steps_cell(steps: pd.Series) -> str:
    steps = steps.dropna()
    reached = np.isfinite(steps)
    return _cell(_geometric_mean(steps), "{:,.0f}".format) if reached.all() else _not_in_all(reached)


def _cell(estimate: Estimate | None, form: Callable[[float], str]) -> str:
    if estimate is None:
        return ""
    value, low, high, bound = estimate
    if bound:
        return f"{bound} {form(value)}"
    return form(value) if math.isnan(low) else f"{form(value)} [{form(low)}, {form(high)}]"


def _two_digits(ratio: float) -> str:
    return f"{float(f'{ratio:.2g}'):g}"


def drawn_from(results: Results) -> Results:
    """Return the results with no more than is shown here, for publishing what tables and figures are drawn from."""
    runs = ["run_id", "status", *ARM, "lr", "seed", "steps", "test_accuracy", "diverged_at"]
    return Results(
        runs=results.runs[runs],
        curves=results.curves[["run_id", "step", "test_accuracy"]],
        layers=results.layers.iloc[:0, :0],
        units=results.units.iloc[:0, :0],
    )


def figures(results: Results) -> dict[str, Figure]:
    """Draw final accuracy against rate, accuracy against steps, and the speed-up of ``tables`` at equal rates.

    The last is drawn if there is anything to compare.
    """
    drawn = {"accuracy": accuracy(results.runs), "convergence": convergence(results)}
    if _paired(results.runs) and (figure := speedup(_reached(results))):
        drawn["speedup"] = figure
    return drawn


def accuracy(runs: pd.DataFrame) -> Figure:
    """Draw final test accuracy against learning rate, a panel per activation; diverged runs at the bottom."""
    activations = levels(runs["activation"], ACTIVATIONS)
    figure = Figure(figsize=(4.3 * len(activations), 3.9))
    axes = figure.subplots(1, len(activations), sharey=True, squeeze=False)[0]
    norms = levels(runs["norm"], NORMS)
    for ax, activation in zip(axes, activations, strict=True):
        for i, norm in enumerate(norms):
            arm = runs[(runs["activation"] == activation) & (runs["norm"] == norm)].set_index("lr").sort_index()
            line_with_range(ax, arm["test_accuracy"].dropna(), "lr", **style(norm), markersize=5)
            _mark_diverged(ax, arm, norm, height=1 - 10 ** (0.1 + 0.12 * i))
        ax.axhline(USABLE, **THIN)
        ax.set(xscale="log", xlabel="learning rate", title=ACTIVATIONS.get(activation, activation))
    _space_by_error(axes[0], runs["test_accuracy"], bottom=1 - 10 ** (0.07 + 0.12 * len(norms)))
    for ax in axes:
        ax.spines["left"].set_bounds(0, ax.get_ylim()[1])
    axes[0].set_ylabel(f"{ACCURACY} after {_steps(runs)} steps")
    usable = Line2D([], [], label=f"usable: {USABLE:.0%}", **THIN)
    _legend(figure, [style(norm) | {"markersize": 5} for norm in norms], runs, usable)
    return figure


def _space_by_error(ax: Axes, shown: pd.Series, bottom: float) -> None:
    """Space accuracy by the logarithm of the error, so that 0.97 and 0.98 are as far apart as 0.4 and 0.6."""
    smallest = 1e-4
    ax.set_yscale(
        "function",
        functions=(lambda accuracy: -np.log10(np.clip(1 - accuracy, smallest, None)), lambda y: 1 - 10.0**-y),
    )
    error = max(1 - np.fmax(shown.max(), USABLE), smallest)
    ticks = [a for a in (0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999) if 1 - a > 0.85 * error]
    ax.set_yticks(ticks, labels=[f"{a:g}" for a in ticks])
    ax.set_ylim(bottom, 1 - 0.85 * error)


def _mark_diverged(ax: Axes, arm: pd.DataFrame, norm: str, height: float) -> None:
    """Draw a cross where runs diverged, with how many of the seeds if not all did."""
    for rate in arm.index.unique():
        at_rate = arm.loc[[rate]]
        count = (at_rate["status"] == "diverged").sum()
        if count:
            ax.plot(rate, height, "x", color=style(norm).get("color"), markersize=7, markeredgewidth=2)
        if 0 < count < len(at_rate):
            ax.annotate(
                f"{count}/{len(at_rate)}",
                (rate, height),
                (5, 0),
                textcoords="offset points",
                fontsize=7,
                va="center",
            )


def convergence(results: Results) -> Figure:
    """Draw test accuracy against steps: each arm at its own best rate, and both at the best rate of either."""
    runs = results.runs
    activations, norms = levels(runs["activation"], ACTIVATIONS), levels(runs["norm"], NORMS)
    rows = ["each at its own best rate", *(f"all at the best rate {style(norm)['label']}" for norm in norms)]
    figure = Figure(figsize=(4.3 * len(activations), 2.6 * len(rows)))
    axes = figure.subplots(len(rows), len(activations), sharex=True, sharey=True, squeeze=False)
    shown, curves = runs.iloc[:0], results.curves
    for column, activation in zip(axes.T, activations, strict=True):
        panel = runs[runs["activation"] == activation]
        best = {norm: _best_rate(panel[panel["norm"] == norm]) for norm in norms}
        choices = [best, *(dict.fromkeys(norms, best[chosen]) for chosen in norms)]
        baseline = panel[(panel["norm"] == "none") & (panel["lr"] == best.get("none"))]
        highest = curves[curves["run_id"].isin(baseline["run_id"])].groupby("run_id")["test_accuracy"].max()
        for ax, row, rates in zip(column, rows, choices, strict=True):
            for norm, rate in rates.items():
                arm = panel[(panel["norm"] == norm) & (panel["lr"] == rate)]
                _curve(ax, arm, curves, norm)
                shown = pd.concat([shown, arm])
            text = ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates.values()) if rate > 0) or "no run"
            ax.set_title(f"{ACTIVATIONS.get(activation, activation)}, {row} ({text})", fontsize=8.5)
            ax.set_xscale("symlog", linthresh=10)
            ax.set_xlim(0, runs["steps"].max())
            ax.axhline(highest.mean(), **THIN)
    _space_by_error(axes[0, 0], curves.loc[curves["run_id"].isin(shown["run_id"]), "test_accuracy"], bottom=0)
    for ax in axes[-1]:
        ax.set_xlabel("steps (linear to 10, then logarithmic)")
    for ax in axes[:, 0]:
        ax.set_ylabel(ACCURACY)
    target = (
        [Line2D([], [], label=f"target: best accuracy {style('none')['label']}", **THIN)] if "none" in norms else []
    )
    _legend(figure, [style(norm) | {"marker": ""} for norm in norms], shown, *target)
    return figure


def _best_rate(arm: pd.DataFrame) -> float:
    """Return the rate of the highest median final accuracy, a diverged run counting as 0; NaN if there is no run."""
    final = arm["test_accuracy"].fillna(0.0).groupby(arm["lr"]).median()
    return float(final.sort_values(kind="stable").index[-1]) if len(final) else math.nan


def _curve(ax: Axes, arm: pd.DataFrame, curves: pd.DataFrame, norm: str) -> None:
    """Draw median and range over the seeds that are still training; a cross where one diverges."""
    chosen = curves[curves["run_id"].isin(arm["run_id"])].set_index("step")
    line = style(norm) | {"marker": ""}
    line_with_range(ax, chosen["test_accuracy"], "step", **line)
    for step in arm["diverged_at"].dropna():
        ax.plot(step, 0.03, "x", color=line.get("color"), markersize=7, markeredgewidth=2, clip_on=False)


def speedup(reached: pd.DataFrame) -> Figure | None:
    """Draw the speed-up to the target of the rate against learning rate; at the bottom, the rates without a target.

    None if there is nothing to draw.
    """
    speed_ups = {key: found for key, found in _speed_ups(reached).items() if key[2] == "to target of rate"}
    if not speed_ups:
        return None
    activations, norms = levels(reached["activation"], ACTIVATIONS), _norms_compared(reached)
    figure = Figure(figsize=(4.3 * len(activations), 3.9))
    axes = figure.subplots(1, len(activations), sharex=True, sharey=True, squeeze=False)[0]
    points: dict[str, dict[str, Any]] = {
        norm: {"color": f"C{i}", "marker": "D", **style(norm), "linestyle": "", "markersize": 6}
        for i, norm in enumerate(["none", *norms])
    }
    for (activation, norm, _, rate), (value, low, high, bound) in speed_ups.items():
        interval = None if math.isnan(low) else [[value - low], [high - value]]
        marker = {"marker": "v"} if bound else {}
        axes[activations.index(activation)].errorbar(rate, value, interval, **points[norm] | marker)
    bottom = min(1.0, *(np.nanmin(estimate[:3]) for estimate in speed_ups.values())) / 1.4
    plain = reached[reached["norm"] == "none"]
    diverged = (plain["status"] == "diverged").groupby([plain["activation"], plain["lr"]]).transform("any")
    below = plain[plain["to target of rate"].isna() & ~diverged]
    no_target = points["none"] | {"markerfacecolor": "white", "label": f"plain network below {USABLE:.0%}"}
    for ax, activation in zip(axes, activations, strict=True):
        rates = below["lr"][below["activation"] == activation]
        ax.plot(rates, np.full(len(rates), bottom), **no_target)
        _mark_diverged(ax, plain[plain["activation"] == activation].set_index("lr"), "none", height=bottom)
        ax.axhline(1, **THIN)
        ax.set(
            xscale="log", yscale="log", xlabel="learning rate of both", title=ACTIVATIONS.get(activation, activation)
        )
    axes[0].yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].yaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("speed-up to the best accuracy of\nthe plain network at the same rate")
    grey: dict[str, Any] = {"color": "0.3", "linestyle": ""}
    handles = [Line2D([], [], **points[norm]) for norm in norms]
    if any(found.high > 0 for found in speed_ups.values()):
        label = f"95% bootstrap interval, {reached['seed'].nunique()} seeds"
        handles.append(Line2D([], [], marker="|", markersize=10, label=label, **grey))
    if any(found.bound for found in speed_ups.values()):
        handles.append(Line2D([], [], marker="v", label="at most: not reached in every seed", **grey))
    if len(below):
        handles.append(Line2D([], [], **no_target))
    if diverged.any():
        handles.append(_cross("plain network diverged"))
    _place_legend(figure, handles)
    return figure


def _steps(runs: pd.DataFrame) -> str:
    return " or ".join(f"{n:,}" for n in sorted(runs["steps"].unique()))


def _legend(figure: Figure, arms: list[dict[str, Any]], runs: pd.DataFrame, *more: Line2D) -> None:
    handles: list[Line2D | Patch] = [Line2D([], [], **arm) for arm in arms]
    seeds = runs["seed"].nunique()
    if seeds > 1:
        handles.append(Patch(color="0.5", alpha=0.3, linewidth=0, label=f"range over {seeds} seeds (line: median)"))
    if (runs["status"] == "diverged").any():
        handles.append(_cross("diverged"))
    handles += more
    _place_legend(figure, handles)


def _place_legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Draw the legend above the panels, where it hides nothing, in as many columns as fit."""
    columns = int(figure.get_figwidth() / 2.6)
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, fontsize=8)


def _cross(label: str) -> Line2D:
    return Line2D([], [], marker="x", linestyle="", color="0.3", markeredgewidth=2, label=label)


if __name__ == "__main__":
    redraw(__file__)
