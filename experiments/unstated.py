"""Does the conclusion of the paper's Figure 1 depend on what the paper does not state?

Section 4.1 states neither the optimiser, nor how the images become binary, nor ε, nor whether the accuracy of the
network with batch norm is by moving averages or by the population statistics of Algorithm 2. Here each of these is
changed alone, on the network of Figure 1 (the base); ``figure1`` has the learning rate and the initial weights::

    python -m bnrepro +sweep=unstated                  # on digits: trains what is missing, then shows this
    python -m bnrepro +sweep=unstated dataset=mnist    # on MNIST, 50,000 steps
    python experiments/unstated.py dataset=mnist       # shows it again from the stored runs

A further choice is one more line under ``more`` in ``conf/sweep/unstated.yaml``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from bnrepro import Results
from bnrepro.commands import redraw
from bnrepro.diagnostics import axis_label
from bnrepro.figures import NORMS, levels, line_with_range, style

TARGET = 0.9
"""The test accuracy to which steps are counted."""

FLOOR = 0.7
"""The accuracy at which the paper's axis begins."""

BASE = "base"
BEHIND: Any = {"color": "0.75", "linewidth": 4, "zorder": 1.5}
"""Style of the base in the panels of the others."""


def score(results: Results) -> pd.DataFrame:
    """Tabulate, per choice, how accurate both arms end, and how the conclusions of Figure 1 come out.

    - accuracy: on the whole test set after the last step, median over seeds, and minimum to maximum in brackets; a
      diverged run counts as 0;
    - gain: accuracy with batch norm less that without, in percentage points, paired by seed;
    - speed-up: steps to a test accuracy of 90% without batch norm over those with it, paired by seed, geometric mean.

    A choice that only batch norm has, such as ε, is compared with the plain network of the base.
    """
    runs = _with_choice(results)
    rows = {}
    for choice, arms in _arms(runs).items():
        finals = {norm: arm["final"] for norm, arm in arms.items()}
        row = {f"accuracy {style(norm)['label']}": _range(100 * final, "{:.1f}") for norm, final in finals.items()}
        row |= {"speed-up": "", "gain": ""}
        if finals.keys() >= {"none", "batch"}:
            row["gain"] = _range(100 * (finals["batch"] - finals["none"]), "{:+.2f}")
            row["speed-up"] = _speed_up(arms["none"]["to target"], arms["batch"]["to target"])
        rows[choice] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("choice")


def _with_choice(results: Results) -> pd.DataFrame:
    """Return table ``runs`` with the choice, by what differs from most runs, the final accuracy, and steps to 90%."""
    runs = results.runs
    settings = runs.filter(regex=r"\.|^lr$").map(_text)
    usual = {name: values[values != ""].mode().get(0, "") for name, values in settings.items()}
    choices = []
    for _, row in settings.iterrows():
        changed = [f"{_short(str(name))} {value}" for name, value in row.items() if value not in ("", usual[name])]
        choices.append(", ".join(changed) or BASE)
    curves = results.curves
    reached = curves[curves["test_accuracy"] >= TARGET].groupby("run_id")["step"].min()
    return runs.assign(
        choice=choices,
        final=runs["test_accuracy"].fillna(0.0),
        **{"to target": runs["run_id"].map(reached).astype(float).fillna(math.inf)},
    )


def _text(value: Any) -> str:
    return "" if value is None or value != value else f"{value:g}" if isinstance(value, float) else str(value)


def _short(setting: str) -> str:
    """Return the setting's own name; the names of whole groups by the group."""
    group, _, name = setting.rpartition(".")
    return group if name == "name" else name


def _arms(runs: pd.DataFrame) -> dict[str, dict[str, pd.DataFrame]]:
    """Return by choice, the base first: by norm, its runs by seed. A choice without plain networks takes the base's."""
    norms = levels(runs["norm"], NORMS)
    table: dict[str, dict[str, pd.DataFrame]] = {}
    for choice in levels(runs["choice"], [BASE]):
        chosen = runs[runs["choice"] == choice]
        arms = {norm: chosen[chosen["norm"] == norm].set_index("seed") for norm in norms}
        table[choice] = {norm: arm for norm, arm in arms.items() if len(arm)}
    plain = table.get(BASE, {}).get("none")
    return {choice: ({"none": plain} if plain is not None else {}) | arms for choice, arms in table.items()}


def _range(values: pd.Series, form: str) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    return f"{form.format(values.median())} ({form.format(values.min())} to {form.format(values.max())})"


def _speed_up(plain: pd.Series, normalised: pd.Series) -> str:
    pairs = pd.DataFrame({"plain": plain, "normalised": normalised}).dropna()
    never = np.isinf(pairs).sum()
    if never.any():
        return ", ".join(f"{name}: {count} of {len(pairs)} never" for name, count in never.items() if count)
    ratios = pairs["plain"] / pairs["normalised"]
    return f"{np.exp(np.log(ratios).mean()):.2g} ({ratios.min():.2g} to {ratios.max():.2g})"


def figures(results: Results) -> dict[str, Figure]:
    """Draw test accuracy against steps, a panel per choice, with the base behind."""
    arms = _arms(_with_choice(results))
    columns = min(3, len(arms))
    rows = -(-len(arms) // columns)
    figure = Figure(figsize=(max(6, 3.2 * columns), 2.5 * rows + 0.7))
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(arms) :]:
        ax.remove()
    for ax, (choice, shown) in zip(axes.flat, arms.items(), strict=False):
        for norm, arm in shown.items():
            if choice != BASE and BASE in arms and norm in arms[BASE]:
                _curve(ax, results, arms[BASE][norm], norm, behind=True)
            if choice == BASE or arm is not arms.get(BASE, {}).get(norm):
                _curve(ax, results, arm, norm)
        ax.set_title(choice, fontsize=9)
        ax.xaxis.set_tick_params(labelbottom=True)
        ax.xaxis.set_major_locator(MaxNLocator(3))
        ax.xaxis.set_major_formatter("{x:,.0f}")
    for ax in axes[:, 0]:
        ax.set_ylabel(axis_label("run", "test_accuracy"))
    figure.supxlabel("steps", fontsize=10)
    axes[0, 0].set(ylim=(FLOOR, 1), xlim=(0, results.runs["steps"].max()))
    _legend(figure, results.runs, list(arms))
    return {"choices": figure}


def _curve(ax: Axes, results: Results, arm: pd.DataFrame, norm: str, *, behind: bool = False) -> None:
    """Draw median and range over seeds; only the median, broad and grey, of what is ``behind``."""
    line = style(norm) | {"marker": ""}
    curves = results.curves[results.curves["run_id"].isin(arm["run_id"])].set_index("step")["test_accuracy"]
    if behind:
        ax.plot(curves.groupby(level="step").median(), **line | BEHIND)
        return
    line_with_range(ax, curves, "step", **line)
    cross: dict[str, Any] = {"color": line.get("color"), "marker": "x", "markersize": 6, "markeredgewidth": 1.5}
    for step in arm["diverged_at"].dropna().unique():
        ax.plot(step, 0.03, transform=ax.get_xaxis_transform(), **cross)


def _legend(figure: Figure, runs: pd.DataFrame, choices: list[str]) -> None:
    """Draw the legend above the panels, where it hides nothing."""
    handles: list[Any] = [Line2D([], [], **style(norm) | {"marker": ""}) for norm in levels(runs["norm"], NORMS)]
    if (seeds := runs["seed"].nunique()) > 1:
        handles.append(Patch(color="0.5", alpha=0.3, linewidth=0, label=f"range over {seeds} seeds (line: median)"))
    if BASE in choices and len(choices) > 1:
        handles.append(Line2D([], [], **BEHIND, label=f"medians of {BASE}, as in the first panel"))
    if (runs["status"] == "diverged").any():
        handles.append(Line2D([], [], marker="x", linestyle="", color="0.3", markeredgewidth=1.5, label="diverged"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), fontsize=8.5)


def drawn_from(results: Results) -> Results:
    """Return the part of the results from which :func:`score` and :func:`figures` come out the same."""
    curves = results.curves[["run_id", "step", "test_accuracy"]]
    return Results(results.runs, curves, results.layers.iloc[:0, :0], results.units.iloc[:0, :0])


if __name__ == "__main__":
    redraw(__file__)
