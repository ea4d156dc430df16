"""How deep can networks be, with and without batch normalization, and what becomes of signals and gradients on the way?

Networks of 1 to 20 hidden layers of 50 units, with three nonlinearities, three ways to draw the weights and two rates.
Where an arm's best setting is spoken of, it is that of the highest mean accuracy over seeds on the test images
themselves, which favours no arm but flatters each.

- Table ``trained``: final accuracy at the best setting (0 if diverged); how much less that is than of the shallowest
  network, and how much more than without batch norm, by seed; and the share of settings, of initial weights and rate,
  that end at 90% or more.
- Table ``signals``, of the deepest networks before training, and after it at the rate that ends best: the factor by
  which the gradient of the weights grows per layer on its way back, from the last hidden layer to the second (the first
  has other inputs); that by which the change of what enters a nonlinearity, after one of 1% of the first weights, grows
  per layer on its way forth, relative to the spread over examples; and that with batch norm over that without, by seed,
  after training where both end at 90%. A change is not told where rounding hides it, as in deep plain sigmoids.
- Table ``saturation``: the share of outputs that are saturated in the end, of ReLUs of units that are dead, at the
  settings at which a network ends at 90% both with batch norm and without, and the difference by batch norm.
- Table ``remedies``: what the usual remedies gain, over sigmoids with Gaussian weights at the high rate.

A critic would say that the networks are narrow and trained for few steps on small images, that other schemes of initial
weights (orthogonal ones, residual branches) train deeper plain networks, and that two rates are few.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bnrepro import Results, analysis
from bnrepro import figures as parts
from bnrepro.analysis import Estimate, Finding, Tables, estimate, levels, rows
from bnrepro.commands import redraw
from bnrepro.diagnostics import axis_label
from bnrepro.experiment import Claim, Experiment

ARM, SETTING = ["activation", "norm", "depth"], ["init", "lr"]
TRAINS, MATTERS = 0.9, 0.01
START, END = "before training", "after training"
LOST = "lost by depth"
GRADIENT, CHANGE, SATURATED = "gradient growth per layer", "change growth per layer", "saturated"
RATIO = "change growth, with over without"
SMALL = "std 0.1"
REMEDIED = 10
"""The depth at which the usual remedies are compared, or the deepest."""
SATURATING = ("sigmoid", "tanh")


def analyse(results: Results) -> Tables:
    """Return the tables that the module's docstring describes, and what the figures are drawn from."""
    runs, layers = analysis.outcomes(results), results.table("layers")
    runs["depth"] = runs["model.hidden"].map(len)
    runs["init"] = analysis.initializations(runs)
    last = layers["run_id"].map(runs.set_index("run_id")["steps"])
    for when, at in ((START, 0), (END, last)):
        runs = runs.join(_signals(layers[layers["step"] == at]).add_prefix(f"{when}, "), on="run_id")
    cells = analysis.cells(runs, [*ARM, *SETTING])
    by_arm = {
        arm: {key[3:]: cells[key] for key in cells if key[:3] == arm} for arm in dict.fromkeys(k[:3] for k in cells)
    }
    best = {arm: max(of.values(), key=lambda c: c["accuracy"].mean()) for arm, of in by_arm.items()}
    trained, saturation = dict[Any, Estimate](), dict[Any, Estimate]()
    for arm, of in by_arm.items():
        activation, norm, depth = arm
        trained[*arm, "best accuracy"] = analysis.mean(best[arm]["accuracy"])
        shallowest = best[activation, norm, min(each[2] for each in best if each[:2] == arm[:2])]
        trained[*arm, LOST] = analysis.difference(shallowest["accuracy"], best[arm]["accuracy"])
        if norm != "none" and (plain := (activation, "none", depth)) in best:
            trained[*arm, "gain"] = analysis.difference(best[arm]["accuracy"], best[plain]["accuracy"])
            both = [(cell, by_arm[plain][setting]) for setting, cell in of.items() if setting in by_arm[plain]]
            saturation |= {(*key, depth, q): each for (*key, q), each in _where_both_train(activation, norm, both)}
        reached = pd.DataFrame({setting: cell["accuracy"] >= TRAINS for setting, cell in of.items()})
        trained[*arm, "settings that train"] = analysis.mean(reached.mean(axis=1))
    return {
        "trained": analysis.table(trained, [*ARM, "quantity"]),
        "signals": analysis.table(dict(_of_the_deepest(cells)), ["activation", "norm", "init", "when", "quantity"]),
        "saturation": analysis.table(saturation, [*ARM, "quantity"]),
        "remedies": analysis.table(dict(_remedies(cells)), ["depth", "remedy", "quantity"]),
        "profiles": _profiles(runs, layers),
    }


def _signals(layers: pd.DataFrame) -> pd.DataFrame:
    """Return growth of gradients and changes, and the share saturated, of each run, by its id, at one step."""
    ordered = layers.sort_values("layer").groupby("run_id")
    count, second = ordered["layer"].max(), layers[layers["layer"] == 2].set_index("run_id")["gradient_norm"]
    gradients = second / ordered["gradient_norm"].last()
    told = layers[layers["relative_change"] > 0].sort_values("layer").groupby("run_id")  # others are lost in rounding
    changes, steps = told["relative_change"].last() / told["relative_change"].first(), told["layer"].max() - 1
    columns = {
        GRADIENT: gradients.where((count > 2) & (gradients > 0)) ** (1 / (count - 2).where(count > 2)),
        CHANGE: changes ** (1 / steps.where(steps > 0)),
        SATURATED: ordered["inactive"].mean(),
    }
    return pd.DataFrame(columns, index=count.index)


def _where_both_train(
    activation: str, norm: str, pairs: list[tuple[pd.DataFrame, pd.DataFrame]]
) -> Iterator[tuple[Any, Estimate]]:
    """Yield the share saturated with batch norm, without, and the difference, where both train: of each seed a mean."""
    shares = dict[str, list[pd.Series]]()
    for one, other in pairs:
        both = (one["accuracy"] >= TRAINS) & (other["accuracy"] >= TRAINS)
        for name, cell in ((norm, one), ("none", other)):
            shares.setdefault(name, []).append(cell[f"{END}, {SATURATED}"].where(both))
    of_seeds = {name: pd.concat(each, axis=1).mean(axis=1) for name, each in shares.items()}
    if len(of_seeds) == 2:
        for name, each in of_seeds.items():
            yield (activation, name, SATURATED), analysis.mean(each)
        yield (activation, norm, "difference"), analysis.difference(of_seeds[norm], of_seeds["none"])


def _of_the_deepest(cells: dict[Any, pd.DataFrame]) -> Iterator[tuple[Any, Estimate]]:
    """Yield the signals of the deepest networks: before training, whatever the rate, and after it at the best."""
    deepest, chosen = max(key[2] for key in cells), dict[Any, pd.DataFrame]()
    for (activation, norm, depth, init, _), cell in cells.items():
        if depth == deepest:
            chosen.setdefault((activation, norm, init, START), cell)
            best = chosen.setdefault((activation, norm, init, END), cell)
            if cell["accuracy"].mean() > best["accuracy"].mean():
                chosen[activation, norm, init, END] = cell
    for (activation, norm, init, when), cell in chosen.items():
        for name in (GRADIENT, CHANGE):
            yield (activation, norm, init, when, name), analysis.geometric_mean(cell[f"{when}, {name}"])
        if norm != "none" and (plain := chosen.get((activation, "none", init, when))) is not None:
            judged = [each if when == START else each[each["accuracy"] >= TRAINS] for each in (cell, plain)]
            yield (activation, norm, init, when, RATIO), analysis.ratio(*(each[f"{when}, {CHANGE}"] for each in judged))


def _remedies(cells: dict[Any, pd.DataFrame]) -> Iterator[tuple[Any, Estimate]]:
    """Yield final accuracy and gain over the base by each of the usual remedies, without batch norm."""
    depths, rates = {key[2] for key in cells}, sorted({key[4] for key in cells})
    depth = REMEDIED if REMEDIED in depths else max(depths)
    low, high = rates[0], rates[-1]
    arms = {
        "none of them": ("sigmoid", "none", depth, SMALL, high),
        "small learning rate": ("sigmoid", "none", depth, SMALL, low),
        "careful initialization": ("sigmoid", "none", depth, "xavier", high),
        "ReLU": ("relu", "none", depth, SMALL, high),
        "all three": ("relu", "none", depth, "he", low),
        "batch norm": ("sigmoid", "batch", depth, SMALL, high),
    }
    base = cells.get(arms["none of them"])
    for remedy, key in arms.items():
        if (cell := cells.get(key)) is not None:
            yield (depth, remedy, "accuracy"), analysis.mean(cell["accuracy"])
            if base is not None and cell is not base:
                yield (depth, remedy, "gain"), analysis.difference(cell["accuracy"], base["accuracy"])


def _profiles(runs: pd.DataFrame, layers: pd.DataFrame) -> pd.DataFrame:
    """Return what a figure draws of each layer of the deepest networks before training, at one rate."""
    chosen = runs[(runs["depth"] == runs["depth"].max()) & (runs["lr"] == runs["lr"].min())]
    at_start = layers[layers["step"] == 0].merge(chosen[["run_id", "activation", "norm", "init"]])
    whole = at_start.groupby("run_id")["gradient_norm"].transform("max")
    at_start["gradient_norm"] = (at_start["gradient_norm"] / whole).where(lambda ratio: ratio > 0)
    keys = ["activation", "norm", "init", "layer"]
    measures = {"gradient": "gradient_norm", "change": "relative_change", "saturated": "inactive"}
    tables = {name: analysis.spread(at_start, column, keys) for name, column in measures.items()}
    return pd.concat(tables, names=["measure"])


def draw(tables: Tables) -> dict[str, Figure]:
    """Draw ``depth``: final accuracy and settings that train; ``signals``, layer by layer; and ``saturation``."""
    figures = {"depth": _against_depth(tables["trained"], {"best accuracy": "final test accuracy,\nbest setting",
                                       "settings that train": "share of settings\nthat reach 90%"})}  # fmt: skip
    figures["signals"] = _profile_figure(tables["profiles"])
    if len(tables["saturation"]):
        figures["saturation"] = _against_depth(
            tables["saturation"], {SATURATED: "saturated outputs or\ndead units (share)"}
        )
    return figures


def _against_depth(table: pd.DataFrame, quantities: dict[str, str]) -> Figure:
    """Draw quantities against depth, a row each and a column per nonlinearity."""
    activations, norms = levels(table, "activation"), levels(table, "norm")
    figure, axes = parts.grid(len(quantities), len(activations), (3.4, 2.4), sharex=True, sharey="row")
    for (row, quantity), (column, activation) in itertools.product(enumerate(quantities), enumerate(activations)):
        ax, of = axes[row, column], table[table.index.get_level_values("quantity") == quantity].droplevel("quantity")
        for i, norm in enumerate(norms):
            look, found = parts.style(norm, norms), rows(of, activation, norm).dropna(subset="value").sort_index()
            found = found.set_axis(found.index + 0.3 * i)  # beside each other, where they are equal
            ax.plot(found.index, found["value"], **look | {"marker": None, "linewidth": 1})
            parts.points(ax, found, look | {"linestyle": ""}, markersize=5)
        if quantity == "best accuracy":
            parts.axis_of_accuracy(ax, min(of["high"].fillna(of["value"]).max(), 0.995))
        else:
            most = 1 if quantity == "settings that train" else max([0.05, *(1.1 * of["value"].dropna())])
            ax.set_ylim(bottom=-0.03, top=most + 0.03)
        ax.set(title=parts.activation_label(activation) if row == 0 else "", xticks=levels(table, "depth"))
        axes[-1, column].set_xlabel("hidden layers")
        axes[row, 0].set_ylabel(quantities[quantity])
    bar = Line2D([], [], marker="|", ms=10, color="0.3", ls="", label="95% interval of the mean")
    parts.legend(figure, [*parts.arms(norms, markersize=5), bar])
    return figure


def _profile_figure(profiles: pd.DataFrame) -> Figure:
    """Draw each measure of the deepest networks before training, layer by layer, for each way to draw the weights."""
    activations, norms = levels(profiles, "activation"), levels(profiles, "norm")
    inits = levels(profiles, "init")
    widths = dict(zip(inits, (1.0, 1.8, 2.8), strict=False))
    labels = {
        "gradient": "norm of the gradient,\nrelative to the largest",
        "change": "change after one of 1%\nof the first weights",
        "saturated": axis_label("layer", "inactive"),
    }
    figure, axes = parts.grid(3, len(activations), (3.4, 2.2), sharex=True, sharey="row")
    for (row, measure), (column, activation) in ((r, c) for r in enumerate(labels) for c in enumerate(activations)):
        ax = axes[row, column]
        for norm in norms:
            for init in inits:
                look = parts.style(norm, norms) | {"marker": None, "linewidth": widths.get(init, 1.8)}
                parts.line(ax, rows(profiles, measure, activation, norm, init), look)
        ax.set(yscale="log" if measure != "saturated" else "linear")
        axes[0, column].set_title(parts.activation_label(activation))
        axes[2, column].set_xlabel("layer")
        axes[row, 0].set_ylabel(labels[measure])
    schemes = [Line2D([], [], color="0.3", lw=width, label=f"weights: {init}") for init, width in widths.items()]
    parts.legend(figure, [*parts.arms(norms, marker=None), *schemes, *parts.band_over(int(profiles["n"].max()))])
    return figure


def _saturating(tables: Tables) -> list[str]:
    return [activation for activation in levels(tables["trained"], "activation") if activation in SATURATING]


def _keys(tables: Tables, norm: str, when: str) -> list[tuple[str, str]]:
    """Return nonlinearity and initial weights of the signals that there are."""
    return list(dict.fromkeys((a, i) for a, n, i, w, _ in tables["signals"].index if (n, w) == (norm, when)))


def _changes_amplify(tables: Tables) -> list[Finding]:
    """Return how a change grows per layer without batch norm before training, by nonlinearity and initial weights."""
    return [
        analysis.beyond(f"{a}, {i}: {CHANGE}", estimate(tables["signals"], a, "none", i, START, CHANGE), 1)
        for a, i in _keys(tables, "none", START)
    ]


def _gradients_vanish(tables: Tables) -> list[Finding]:
    """Return how gradients grow per layer without batch norm, and the accuracy lost by depth, of what saturates."""
    found = list[Finding]()
    depths = levels(tables["trained"], "depth")
    for activation in _saturating(tables):
        for init in [i for a, i in _keys(tables, "none", START) if a == activation]:
            growth = estimate(tables["signals"], activation, "none", init, START, GRADIENT)
            found.append(analysis.below(f"{activation}, {init}: {GRADIENT}", growth, np.nextafter(1, 0)))
        lost = estimate(tables["trained"], activation, "none", depths[-1], LOST)
        found.append(
            analysis.above(f"{activation}: accuracy lost from {depths[0]} to {depths[-1]} layers", lost, MATTERS)
        )
    return found


def _remedies_help(tables: Tables) -> list[Finding]:
    """Return the gain by each of the usual remedies, alone and together."""
    return [
        analysis.above(f"{remedy}, {depth} layers: gain", estimate(tables["remedies"], depth, remedy, "gain"), MATTERS)
        for depth in levels(tables["remedies"], "depth")
        for remedy in ("small learning rate", "careful initialization", "ReLU", "all three")
    ]


def _saturating_ones_train(tables: Tables) -> list[Finding]:
    """Return the gain by batch norm in deep networks of what saturates, each at its best setting."""
    return [
        analysis.above(
            f"{activation}, {depth} layers: gain",
            estimate(tables["trained"], activation, "batch", depth, "gain"),
            MATTERS,
        )
        for activation in _saturating(tables)
        for depth in levels(tables["trained"], "depth")
        if depth > 3
    ]


def _changes_stay_small(tables: Tables) -> list[Finding]:
    """Return the growth of a change per layer with batch norm over that without, before and after training."""
    return [
        analysis.below(f"{a}, {i}, {when}: {RATIO}", found, 1)
        for when in (START, END)
        for a, i in _keys(tables, "batch", when)
        if (found := estimate(tables["signals"], a, "batch", i, when, RATIO)).n
    ]


def _less_saturated(tables: Tables) -> list[Finding]:
    """Return the difference in saturation by batch norm where both train."""
    found = tables["saturation"]
    return [
        analysis.below(f"{a}, {d} layers: difference in the share saturated", estimate(found, a, n, d, "difference"), 0)
        for a, n, d, q in found.index[found["n"] > 0]
        if a in SATURATING and n == "batch" and q == "difference"
    ]


EXPERIMENT = Experiment(
    claims=[
        Claim(
            id="I4",
            section="Section 1",
            sentence="Small changes to the parameters amplify as the network becomes deeper.",
            criterion="Without batch norm, before training, a change grows per layer by a factor above 1 for each "
            "nonlinearity and initialization.",
            findings=_changes_amplify,
            figure="signals",
        ),
        Claim(
            id="I5",
            section="Section 1",
            sentence="Gradients vanish in networks of saturating nonlinearities, the more so the deeper they are.",
            criterion="For sigmoid and tanh, gradients before training grow per layer by a factor below 1 with each "
            "initialization, and the deepest network ends at least 1 point less accurate than the shallowest.",
            findings=_gradients_vanish,
            figure="depth",
        ),
        Claim(
            id="I6",
            section="Section 1",
            sentence="Usual remedies are rectified linear units, careful initialization and small learning rates.",
            criterion="Over ten layers of sigmoids with Gaussian weights at the high rate, each of the three, and all "
            "together, gain at least 1 point.",
            findings=_remedies_help,
            figure="depth",
        ),
        Claim(
            id="I7",
            section="Abstract, Section 1",
            sentence="Batch norm makes it possible to use saturating nonlinearities.",
            criterion="In networks of more than three layers of sigmoid or tanh, batch norm gains at least 1 point, "
            "each network at its best setting.",
            findings=_saturating_ones_train,
            figure="depth",
        ),
        Claim(
            id="3.3d",
            section="Section 3.3",
            sentence="Batch norm prevents small changes to the parameters from amplifying into larger changes.",
            criterion="In the deepest networks, the factor by which a change grows per layer is with batch norm at "
            "most what it is without, before training, and after it where both end at 90%.",
            findings=_changes_stay_small,
            figure="signals",
        ),
        Claim(
            id="3.3e",
            section="Section 3.3",
            sentence="Batch norm prevents training from getting stuck in the saturated regimes of nonlinearities.",
            criterion="For sigmoid and tanh, where a network ends at 90% both with batch norm and without, the share "
            "that is saturated in the end is no larger with it.",
            findings=_less_saturated,
            figure="saturation",
        ),
    ],
    arms=["activation", "norm", "model.hidden", "model.init", "lr"],
    needs=["run.gradient_ratio", "layer.gradient_norm", "layer.inactive", "layer.relative_change"],
    analyse=analyse,
    draw=draw,
)

if __name__ == "__main__":
    redraw(__file__)
