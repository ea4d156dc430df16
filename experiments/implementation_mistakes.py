"""What do well-known mistakes in implementing batch normalization do to training, and to test accuracy?

Each mistake is a class of ``experiments/wrong_layers.py``. All train on the same mini-batches from the same weights as
the right layer, in batches of the paper's 60 examples and of 4::

    python -m bnrepro +sweep=implementation_mistakes       # trains what is missing, then shows this
    python experiments/implementation_mistakes.py          # shows it again from the stored runs
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from bnrepro import Results
from bnrepro.commands import redraw

TITLES = {
    ("mlp", "batch"): "right",
    ("mlp", "BiasedVariance"): "no m/(m−1) at inference",
    ("mlp", "MomentumReversed"): "momentum the wrong way round",
    ("mlp", "StatisticsOfTestBatch"): "test images normalised by their own batch of 4",
    ("mlp", "FrozenVariance"): "running variance never updated",
    ("mlp", "OutsideGradient"): "statistics outside the gradient",
    ("cnn", "batch"): "right, convolutional",
    ("cnn", "PerPixel"): "statistics per pixel, convolutional",
}
MARKERS: dict[int, dict[str, Any]] = {4: {"marker": "D", "color": "#D55E00"}, 60: {"marker": "o", "color": "#0072B2"}}


def _titled(results: Results) -> pd.DataFrame:
    """Return the runs, with the title of their mistake and the train loss at the last measured step."""
    last = results.curves.sort_values("step").groupby("run_id")["train_loss"].last()
    runs = results.runs.assign(train_loss=results.runs["run_id"].map(last))
    names = zip(runs["model.name"], runs["norm"].str.rpartition(".")[2], strict=True)
    return runs.assign(mistake=[TITLES.get(name, " ".join(name)) for name in names])


def score(results: Results) -> pd.DataFrame:
    """Tabulate, per mistake and batch size, mean over seeds and range of final test accuracy and train loss.

    The train loss is that of the probe batch, in training mode: it shows what training itself made of the mistake.
    """

    def cell(values: pd.Series) -> str:
        diverged = values.isna().sum()
        if diverged:
            return f"{diverged} of {len(values)} diverged"
        return f"{values.mean():.3f} ({values.min():.3f}–{values.max():.3f})"

    runs = _titled(results)
    table = runs.pivot_table(
        index="mistake",
        columns="train.batch_size",
        values=["test_accuracy", "train_loss"],
        aggfunc=cell,
        dropna=False,
    )
    table.columns = table.columns.map(lambda column: f"{column[0].replace('_', ' ')}, m = {column[1]}")
    return table.reindex([title for title in TITLES.values() if title in table.index])


def figures(results: Results) -> dict[str, Figure]:
    """Draw ``mistakes``: test error for each mistake, and Section 2's bias that grows while the loss stands still."""
    figure = Figure(figsize=(10.5, 4.4))
    errors, bias = figure.subplots(1, 2, width_ratios=[5, 4])
    _errors(errors, _titled(results))
    _growing_bias(bias)
    return {"mistakes": figure}


def _errors(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw a row per mistake; lines from the right layer down, to compare with."""
    runs = runs.assign(error=100 * (1 - runs["test_accuracy"]))
    titles = [title for title in TITLES.values() if (runs["mistake"] == title).any()]
    sizes = sorted(runs["train.batch_size"].unique())
    for size, offset in zip(sizes, np.linspace(-0.17, 0.17, len(sizes)), strict=True):
        look = MARKERS.get(size, {"marker": "s", "color": "0.3"})
        for row, title in enumerate(titles):
            seeds = runs.loc[(runs["mistake"] == title) & (runs["train.batch_size"] == size), "error"]
            y = row + offset
            if title.startswith("right"):
                end = next((i for i in range(row + 1, len(titles)) if titles[i].startswith("right")), len(titles))
                ax.vlines(seeds.median(), y, end - 0.5, color=look["color"], linewidth=1, linestyle=":")
            ax.plot([seeds.min(), seeds.max()], [y, y], color=look["color"], linewidth=4, alpha=0.4)
            ax.plot(
                seeds.median(),
                y,
                markersize=7,
                linestyle="",
                label=f"mini-batches of {size}" if row == 0 else None,
                **look,
            )
            if seeds.isna().any():
                ax.annotate(f" {seeds.isna().sum()} of {len(seeds)} diverged", (100, y), va="center", fontsize=8)
    ax.set_yticks(range(len(titles)), titles)
    for label in ax.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith("right") else "normal")
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel=f"test error after {runs['steps'].iloc[0]:,} steps, %")
    ax.xaxis.set_major_locator(FixedLocator([1, 2, 5, 10, 20, 50, 100]))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.minorticks_off()
    handles, _ = ax.get_legend_handles_labels()
    bar = Line2D([], [], color="0.4", linewidth=4, alpha=0.4, label=f"range of {runs['seed'].nunique()} seeds")
    line = Line2D([], [], color="0.4", linewidth=1, linestyle=":", label="the right layer")
    ax.figure.legend(handles=[*handles, bar, line], loc="outside upper left", ncols=4, fontsize=9)


def _growing_bias(ax: Axes) -> None:
    """Draw Section 2's example: x = u + b, x̂ = x − E[x], and steps on b alone that ignore ∂E[x]/∂b."""
    rng = np.random.default_rng(0)
    u, target = rng.standard_normal(60), rng.standard_normal(60) + 1
    bias, biases, losses = 0.0, [], []
    for _ in range(101):
        normalised = (u + bias) - (u + bias).mean()
        biases.append(bias)
        losses.append(((normalised - target) ** 2).mean() / 2)
        bias -= 0.1 * (normalised - target).mean()
    ax.plot(biases, color="#D55E00", linestyle="--")
    ax.plot(losses, color="0.3", linestyle=":")
    ax.plot(np.zeros(101), color="#0072B2")
    ax.annotate("bias b, gradient ignoring E[x]", (2, 10.5), fontsize=9)
    ax.annotate("loss", (100, losses[0] + 0.2), ha="right", fontsize=9)
    ax.annotate("bias b, right gradient", (100, 0.2), ha="right", fontsize=9)
    ax.set(xlabel="steps on b", title="Section 2: the bias grows,\nthe loss does not move")


if __name__ == "__main__":
    redraw(__file__)
