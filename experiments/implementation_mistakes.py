"""What do well-known mistakes in implementing batch normalization do to training, and to test accuracy?

Each mistake is a class here and stays out of the package. All train on the same mini-batches from the same weights as
the right layer, in batches of the paper's 60 examples and of 4::

    python -m bnrepro +sweep=implementation_mistakes       # trains what is missing, then shows this
    python experiments/implementation_mistakes.py          # shows it again from the stored runs
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from bnrepro import Results
from bnrepro.__main__ import redraw
from bnrepro.batchnorm import BatchNorm
from bnrepro.layers import NO_DX, Array, Arrays, Backward, Shape, sum_per_feature


@dataclass(frozen=True)
class BiasedVariance(BatchNorm):
    """Inference without m/(m−1): the moving average takes the biased variance (Algorithm 2, step 10)."""

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return super()._average(state, mean, var * ((m - 1) / m), m)


@dataclass(frozen=True)
class MomentumReversed(BatchNorm):
    """A momentum of 0.9, meant as the share of the past, used as the share of the newest mini-batch."""

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return BatchNorm(self.eps, 1 - self.momentum)._average(state, mean, var, m)


@dataclass(frozen=True)
class StatisticsOfTestBatch(BatchNorm):
    """The training flag left on at test time: images come four at a time and are normalised by their own statistics."""

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """As the right layer in training."""
        if train:
            return super().forward(params, state, x, train=True)
        own = replace(self, inference="batch")
        fours = np.array_split(x, max(1, x.shape[1] // 4), axis=1)
        parts = [BatchNorm.forward(own, params, state, four, train=False) for four in fours]

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            raise NotImplementedError("inference only")

        return np.concatenate([y for y, _, _ in parts], axis=1), state, backward


@dataclass(frozen=True)
class FrozenVariance(BatchNorm):
    """``running_var = momentum * running_var``: it starts at 0 and stays there, and 1/√ε scales the test output."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """With a running variance of 0."""
        params, state, out_shape = super().init(rng, in_shape)
        return params, state | {"var": np.zeros_like(state["var"])}, out_shape

    def _average(self, state: Arrays, mean: Array, var: Array, m: int) -> Arrays:
        return super()._average(state, mean, var, m) | {"var": self.momentum * state["var"]}


@dataclass(frozen=True)
class OutsideGradient(BatchNorm):
    """Mean and variance taken for constants in the backward pass (Section 2), behind a bias b that they cancel."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """With b = 0."""
        params, state, out_shape = super().init(rng, in_shape)
        return params | {"b": np.zeros_like(params["beta"])}, state, out_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """As the right layer on x + b, but for the gradient in training."""
        x = x + params["b"]
        y, state, right = super().forward(params, state, x, train=train)
        axes = (1, *range(3, x.ndim))

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx, grads = right(dy)
            if train:
                dx = dy * params["gamma"] / np.sqrt(x.var(axis=axes, keepdims=True) + self.eps)
            return dx, grads | {"b": sum_per_feature(dx)}

        return y, state, backward


@dataclass(frozen=True)
class PerPixel(BatchNorm):
    """Feature maps flattened to (N, C·H·W): statistics, γ and β per pixel and not per feature map (Section 3.2)."""

    def init(self, rng: np.random.Generator, in_shape: Shape) -> tuple[Arrays, Arrays, Shape]:
        """One γ and β per pixel."""
        params, state, _ = super().init(rng, (int(np.prod(in_shape)),))
        return params, state, in_shape

    def forward(self, params: Arrays, state: Arrays, x: Array, *, train: bool) -> tuple[Array, Arrays, Backward]:
        """The dense layer on flattened feature maps."""
        y, state, flat = super().forward(params, state, x.reshape(*x.shape[:2], -1), train=train)

        def backward(dy: Array, *, need_dx: bool = True) -> tuple[Array, Arrays]:
            dx, grads = flat(dy.reshape(y.shape), need_dx=need_dx)
            return (dx.reshape(dy.shape) if need_dx else NO_DX), grads

        return y.reshape(x.shape), state, backward


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
    """The runs, with the title of their mistake and the train loss at the last measured step."""
    last = results.curves.sort_values("step").groupby("run_id")["train_loss"].last()
    runs = results.runs.assign(train_loss=results.runs["run_id"].map(last))
    names = zip(runs["model.name"], runs["norm"].str.rpartition(".")[2], strict=True)
    return runs.assign(mistake=[TITLES.get(name, " ".join(name)) for name in names])


def score(results: Results) -> pd.DataFrame:
    """Per mistake and batch size: mean over seeds, and minimum to maximum, of final test accuracy and train loss.

    The train loss is that of the probe batch, in training mode: it shows what training itself made of the mistake.
    """

    def spelled(values: pd.Series) -> str:
        diverged = values.isna().sum()
        if diverged:
            return f"{diverged} of {len(values)} diverged"
        return f"{values.mean():.3f} ({values.min():.3f}–{values.max():.3f})"

    runs = _titled(results)
    table = runs.pivot_table(
        index="mistake",
        columns="train.batch_size",
        values=["test_accuracy", "train_loss"],
        aggfunc=spelled,
        dropna=False,
    )
    table.columns = table.columns.map(lambda column: f"{column[0].replace('_', ' ')}, m = {column[1]}")
    return table.reindex([title for title in TITLES.values() if title in table.index])


def figures(results: Results) -> dict[str, Figure]:
    """``mistakes``: test error for each mistake, and Section 2's bias that grows while the loss stands still."""
    figure = Figure(figsize=(10.5, 4.4))
    errors, bias = figure.subplots(1, 2, width_ratios=[5, 4])
    _errors(errors, _titled(results))
    _growing_bias(bias)
    return {"mistakes": figure}


def _errors(ax: Axes, runs: pd.DataFrame) -> None:
    """A row per mistake; lines from the right layer down, to compare with."""
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
    """Section 2's example, by its letter: x = u + b, x̂ = x − E[x], and steps on b alone that ignore ∂E[x]/∂b."""
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
