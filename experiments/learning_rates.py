"""Does batch normalization train at learning rates where the plain network does not?

The paper says so (Sections 3.3 and 4.2.1) of Inception on ImageNet: five times the rate of the baseline overflows
without it, and thirty times the rate trains with it. Here, on small networks::

    python -m bnrepro +sweep                       # trains what is missing, then shows this
    python experiments/learning_rates.py           # shows it again from the stored runs
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bnrepro import Results
from bnrepro.__main__ import redraw
from bnrepro.figures import ACTIVATIONS, NORMS, levels, line_with_range, style

USABLE = 0.9
"""Test accuracy from which a learning rate counts as usable."""


def score(results: Results) -> pd.DataFrame:
    """Per activation and norm: mean over seeds, and minimum to maximum in brackets.

    - best accuracy: the highest final test accuracy over the learning rates;
    - best rate: where that was reached, the largest of equals (geometric mean);
    - usable decades: log10 of the ratio of the ends of the longest unbroken row of rates that end at 90% or more;
    - diverged: share of the rates at which the loss left the finite range;
    - steps to 90%: at the rate that is fastest at this, the first measured step with a test accuracy of 90% or more.
    """
    arms = ["activation", "norm"]
    per_seed = pd.DataFrame(
        [
            {**dict(zip(arms, arm, strict=True)), **_score_one(runs, results.curves)}
            for (*arm, _), runs in results.runs.groupby([*arms, "seed"])
        ]
    ).set_index(arms)
    formats = {
        "best accuracy": "{:.3f}",
        "best rate": "{:.2g}",
        "usable decades": "{:.1f}",
        "diverged": "{:.0%}",
        "steps to 90%": "{:.0f}",
    }
    table = per_seed.groupby(level=arms, sort=False).agg(
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
        reached = seeds.notna().sum()
        return "never" if reached == 0 else f"in {reached} of {len(seeds)} seeds"
    mean = np.exp(np.log(seeds).mean()) if seeds.name == "best rate" else seeds.mean()
    return f"{form.format(mean)} ({form.format(seeds.min())}–{form.format(seeds.max())})"


def figures(results: Results) -> dict[str, Figure]:
    """``accuracy``: final accuracy against learning rate. ``convergence``: test accuracy against steps."""
    return {"accuracy": accuracy(results.runs), "convergence": convergence(results)}


def accuracy(runs: pd.DataFrame) -> Figure:
    """Final test accuracy against learning rate, a panel per activation; diverged runs at the bottom."""
    activations = levels(runs["activation"], ACTIVATIONS)
    figure = Figure(figsize=(4.3 * len(activations), 3.7))
    axes = figure.subplots(1, len(activations), sharey=True, squeeze=False)[0]
    norms = levels(runs["norm"], NORMS)
    for ax, activation in zip(axes, activations, strict=True):
        for i, norm in enumerate(norms):
            arm = runs[(runs["activation"] == activation) & (runs["norm"] == norm)].set_index("lr").sort_index()
            line_with_range(ax, arm["test_accuracy"].dropna(), "lr", **style(norm), markersize=5)
            _mark_diverged(ax, arm, norm, height=-0.05 - 0.06 * i)
        ax.axhline(USABLE, color="0.4", linewidth=0.9, linestyle=":")
        ax.set(xscale="log", xlabel="learning rate", title=ACTIVATIONS.get(activation, activation))
        ax.set_ylim(-0.05 - 0.06 * len(norms), 1.02)
        ax.set_yticks(np.linspace(0, 1, 6))
        ax.spines["left"].set_bounds(0, 1)
    axes[0].set_ylabel(f"test accuracy after {_steps(runs)} steps")
    _legend(
        figure, norms, runs, Line2D([], [], color="0.4", linestyle=":", linewidth=0.9, label=f"usable: {USABLE:.0%}")
    )
    return figure


def _mark_diverged(ax: Axes, arm: pd.DataFrame, norm: str, height: float) -> None:
    """A cross where runs diverged, with how many of the seeds if not all did."""
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
    """Test accuracy against steps: each arm at its own best rate, and both at the best rate of either."""
    runs = results.runs
    activations, norms = levels(runs["activation"], ACTIVATIONS), levels(runs["norm"], NORMS)
    rows = ["each at its own best rate", *(f"all at the best rate {style(norm)['label']}" for norm in norms)]
    figure = Figure(figsize=(4.3 * len(activations), 2.6 * len(rows)))
    axes = figure.subplots(len(rows), len(activations), sharex=True, sharey=True, squeeze=False)
    shown = runs.iloc[:0]
    for column, activation in zip(axes.T, activations, strict=True):
        panel = runs[runs["activation"] == activation]
        best = {norm: _best_rate(panel[panel["norm"] == norm]) for norm in norms}
        choices = [best, *(dict.fromkeys(norms, best[chosen]) for chosen in norms)]
        for ax, row, rates in zip(column, rows, choices, strict=True):
            for norm, rate in rates.items():
                arm = panel[(panel["norm"] == norm) & (panel["lr"] == rate)]
                _curve(ax, arm, results.curves, norm)
                shown = pd.concat([shown, arm])
            spelled = sorted(set(rates.values())) if row != rows[0] else [best[norm] for norm in norms]
            ax.set_title(
                f"{ACTIVATIONS.get(activation, activation)}, {row} ({', '.join(f'{r:g}' for r in spelled)})",
                fontsize=8.5,
            )
            ax.set_ylim(0, 1.02)
            ax.set_xscale("symlog", linthresh=10)
            ax.set_xlim(0, None)
    for ax in axes[-1]:
        ax.set_xlabel("steps (linear to 10, then logarithmic)")
    for ax in axes[:, 0]:
        ax.set_ylabel("test accuracy")
    _legend(figure, norms, shown)
    return figure


def _best_rate(arm: pd.DataFrame) -> float:
    """The rate of the highest median of the final accuracy, a diverged run counting as 0."""
    final = arm["test_accuracy"].fillna(0.0).groupby(arm["lr"]).median()
    return float(final.sort_values(kind="stable").index[-1])


def _curve(ax: Axes, arm: pd.DataFrame, curves: pd.DataFrame, norm: str) -> None:
    """Median and range over the seeds that are still training; a cross where one diverges."""
    chosen = curves[curves["run_id"].isin(arm["run_id"])].set_index("step")
    line = {k: v for k, v in style(norm).items() if k != "marker"}
    line_with_range(ax, chosen["test_accuracy"], "step", **line)
    for step in arm["diverged_at"].dropna():
        ax.plot(step, 0.03, "x", color=line.get("color"), markersize=7, markeredgewidth=2, clip_on=False)


def _steps(runs: pd.DataFrame) -> str:
    return " or ".join(f"{n:,}" for n in sorted(runs["steps"].unique()))


def _legend(figure: Figure, norms: list[str], runs: pd.DataFrame, *more: Line2D) -> None:
    """Above the panels, where it hides nothing."""
    handles: list[Line2D | Patch] = [Line2D([], [], markersize=5, **style(norm)) for norm in norms]
    seeds = runs["seed"].nunique()
    if seeds > 1:
        handles.append(Patch(color="0.5", alpha=0.3, linewidth=0, label=f"range over {seeds} seeds (line: median)"))
    if (runs["status"] == "diverged").any():
        handles.append(Line2D([], [], marker="x", linestyle="", color="0.3", markeredgewidth=2, label="diverged"))
    handles += more
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8)


if __name__ == "__main__":
    redraw(__file__)
