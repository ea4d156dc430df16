"""How does the distribution of what enters each nonlinearity move during training?

The paper calls this movement internal covariate shift (Section 2), and shows it in Figure 1(b, c) for one sigmoid of
the last hidden layer. Here it is every hidden layer, over all its units::

    python -m bnrepro +sweep=covariate_shift       # trains what is missing, then shows this
    python experiments/covariate_shift.py          # shows it again from the stored runs
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bnrepro import InputError, Results
from bnrepro.__main__ import redraw
from bnrepro.figures import ACTIVATIONS, NORMS, levels, style

SPREAD = "spread, last / first"
DRIFT = "drift of the median"


def score(results: Results) -> pd.DataFrame:
    """Per activation, norm and layer, the mean over runs of what the percentiles p15, p50, p85 did.

    - drift of the median: how far p50 travelled, summed over the measured steps, in units of p85 − p15 at that step;
    - spread: p85 − p15 at the last measured step over that at step 0;
    - inactive: share of saturated outputs (sigmoid) or dead units (ReLU) at the last measured step; NaN without that
      diagnostic.
    """
    rows = []
    for (run_id, layer), path in _percentiles(results).sort_values("step").groupby(["run_id", "layer"]):
        spread = path["p85"] - path["p15"]
        travelled = path["p50"].diff().abs() / spread  # in pandas, which divides by 0 without a warning
        rows.append(
            {
                "run_id": run_id,
                "layer": layer,
                DRIFT: travelled.sum(),
                SPREAD: spread.iloc[-1] / spread.iloc[0],
                "inactive": path["inactive"].iloc[-1],
            }
        )
    runs = results.runs[["run_id", "activation", "norm"]]
    table = pd.DataFrame(rows).merge(runs).groupby(["activation", "norm", "layer"]).mean(numeric_only=True)
    order = [levels(runs["activation"], ACTIVATIONS), levels(runs["norm"], NORMS)]
    return table.sort_index(
        key=lambda level: level.map(lambda v: next((o.index(v) for o in order if v in o), v))
    ).round(3)


def _percentiles(results: Results) -> pd.DataFrame:
    """The rows of table ``layers`` that hold percentiles: other diagnostics may have added the layer of the logits."""
    measured = [*results.layers, *({"p50", "inactive"} - {*results.layers})]
    layers = results.layers.reindex(columns=measured).dropna(subset="p50")
    if layers.empty:
        raise InputError("diagnostics: must have percentiles among them for covariate_shift to be shown")
    return layers


def figures(results: Results) -> dict[str, Figure]:
    """One figure per activation: a row per norm, a column per layer."""
    return {
        f"percentiles-{activation}": percentiles(results, activation)
        for activation in levels(results.runs["activation"], ACTIVATIONS)
    }


def percentiles(results: Results, activation: str) -> Figure:
    """The 15th to 85th percentile as a band and the median as a line, against steps."""
    runs = results.runs[results.runs["activation"] == activation]
    norms = levels(runs["norm"], NORMS)
    layers = _percentiles(results)
    numbers = sorted(layers["layer"].unique())
    figure = Figure(figsize=(3.1 * len(numbers), 2.5 * len(norms) + 0.6))
    axes = figure.subplots(len(norms), len(numbers), sharex=True, sharey=True, squeeze=False)
    for row, norm in zip(axes, norms, strict=True):
        arm = layers[layers["run_id"].isin(runs.loc[runs["norm"] == norm, "run_id"])]
        colour = style(norm).get("color")
        for ax, number in zip(row, numbers, strict=True):
            band = arm[arm["layer"] == number].groupby("step")[["p15", "p50", "p85"]].median()
            ax.fill_between(band.index, band["p15"], band["p85"], color=colour, alpha=0.25, linewidth=0)
            ax.plot(band["p15"], color=colour, linewidth=0.7)
            ax.plot(band["p85"], color=colour, linewidth=0.7)
            ax.plot(band["p50"], color=colour, linestyle=style(norm).get("linestyle"))
            ax.set_title(f"layer {number}, {style(norm)['label']}", fontsize=9)
            ax.set_xscale("symlog", linthresh=10)
            ax.set_xlim(0, None)
        row[0].set_ylabel(f"input of the {ACTIVATIONS.get(activation, activation)}")
    for ax in axes[-1]:
        ax.set_xlabel("steps (linear to 10, then log)")
    rates = ", ".join(f"{rate:g}" for rate in sorted(runs["lr"].unique()))
    seeds = runs["seed"].nunique()
    handles = [
        Line2D([], [], color="0.3", label="median"),
        Patch(color="0.5", alpha=0.4, linewidth=0, label="15th to 85th percentile, over units and examples"),
        Line2D([], [], linestyle="", label=f"learning rate {rates}; median of {seeds} seeds"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=8.5)
    return figure


if __name__ == "__main__":
    redraw(__file__)
