"""Draw the figures of the benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .. import figures
from .contestants import ARMS

STYLES = {
    "floor": {"color": "0.6", "label": "matrix products alone"},
    "bnrepro": {"color": "#0072B2", "label": "bnrepro, NumPy"},
    "compiled": {"color": "#009E73", "label": "bnrepro, compiled"},
    "JAX": {"color": "#E69F00", "label": "JAX"},
    "PyTorch compiled": {"color": "#CC79A7", "label": "PyTorch, compiled"},
    "PyTorch": {"color": "#D55E00", "label": "PyTorch, eager, 1 run"},
}
"""The colour and label of each contestant, in the order of the bars."""


def bars(table: pd.DataFrame) -> Figure:
    """Draw everybody's time per run and step: of 8 runs, and of one with eager PyTorch."""
    kinds = [*dict.fromkeys(zip(table["inputs"], table["images"], strict=True))]
    figure = Figure(figsize=(4.6 * len(kinds), 3.6))
    shown = table[(table["runs"] == 8) | (table["contestant"] == "PyTorch")]
    names = [name for name in STYLES if name in {*shown["contestant"]}]
    for ax, (size, images) in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        here = shown[(shown["inputs"] == size) & (shown["images"] == images)]
        for i, name in enumerate(names):
            mine = here[here["contestant"] == name].set_index(["activation", "norm"])
            rows = [mine.loc[ARMS[0] if name == "floor" else arm] for arm in ARMS]
            heights = np.array([row["median"] for row in rows])
            at = np.arange(len(ARMS)) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
            spread = np.abs(np.array([[row["low"], row["high"]] for row in rows]).T - heights)
            ax.bar(at, heights, 0.8 / len(names), yerr=spread, **STYLES[name])
            for x, height, above in zip(at, heights, spread[1], strict=True):
                ax.text(x, height + above, f" {height:.0f}", ha="center", va="bottom", fontsize=7, rotation=90)
        norms = {"none": "", "batch": " + BN"}
        ax.set_xticks(range(len(ARMS)), [figures.ACTIVATIONS[a] + norms[n] for a, n in ARMS])
        ax.tick_params(axis="x", labelsize=8)
        ax.set(title=f"{size} inputs, {images}", ylabel="µs per run and step")
        ax.margins(y=0.12)
        ax.grid(visible=False, axis="x")
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=len(names))
    return figure


def growth_curves(table: pd.DataFrame, sizes: pd.DataFrame) -> Figure:
    """Draw the time per run and step, and as a multiple of the floor, against each dimension of the work.

    The last column has the wall time per run against the number of runs.
    """
    labels = {
        "runs": "runs in lock-step",
        "width": "units per layer",
        "depth": "hidden layers",
        "batch": "examples in a mini-batch",
    }
    figure = Figure(figsize=(12, 5))
    axes = figure.subplots(2, len(labels) + 1)
    for (top, bottom), (dimension, label) in zip(axes.T, labels.items(), strict=False):
        here = table[table["dimension"] == dimension]
        lines = {"floor": here[here["contestant"] == "floor"]}
        lines |= {norm: here[(here["contestant"] == "bnrepro") & (here["norm"] == norm)] for norm in figures.NORMS}
        for name, line in lines.items():
            style = STYLES[name] if name == "floor" else figures.style(name)
            top.plot(line[dimension], line["median"] / 1e3, markersize=4, **style)
            bottom.plot(line[dimension], line["ratio"], markersize=4, **style)
        if dimension == "runs":
            top.set_ylim(bottom=0)
        else:
            _log_scale(top)
        bottom.set(xlabel=label, ylim=(0.95, 1.05 * table["ratio"].max()))
        values = sorted({*here[dimension]})
        for ax in top, bottom:
            ax.set(xscale="log")
            ax.set_xticks(values, [str(value) for value in values], minor=False, fontsize=7)
            ax.set_xticks([], minor=True)
    axes[0, 0].set_ylabel("ms per run and step")
    axes[1, 0].set_ylabel("multiple of the products")
    by_sweep, corner = axes[:, -1]
    by_sweep.plot(sizes["number"], sizes["median"] / 1e3, color="0.2", marker="o", markersize=4)
    by_sweep.set(xscale="log", xlabel="runs in a sweep,\n10 steps each", ylabel="ms of wall time per run")
    by_sweep.set_xticks(sizes["number"], [f"{number:,}" for number in sizes["number"]], fontsize=7)
    by_sweep.set_xticks([], minor=True)
    _log_scale(by_sweep)
    corner.axis("off")
    corner.legend(*axes[0, 0].get_legend_handles_labels(), loc="center", title="ReLU, 784 inputs, dense")
    return figure


def _log_scale(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(NullFormatter())
